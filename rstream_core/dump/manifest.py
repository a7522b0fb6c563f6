"""What a dump says of itself: where its messages are from, and what was asked for. As JSON in its first record.

What a broker could not be asked is None, not empty. A reader ignores fields that it does not know.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rstream_core.dump.layout import MAX_MANIFEST, MAX_STREAMS
from rstream_core.errors import DumpError

_ID_LENGTH = 32
MAX_NAME = 65_535
"""Characters of a name in a manifest."""


@dataclass(frozen=True, slots=True)
class DumpedStream:
    """One stream of a dump."""

    name: str
    binding: str | None = None
    """The key that it is bound to its super stream with."""
    arguments: Mapping[str, str | int | bool] | None = None
    """What it was declared with."""
    stored_offsets: Mapping[str, int] | None = None
    """The offsets that were stored when the dump began, by their references."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where the messages of a dump are from."""

    id: str
    """Made anew for each dump: 32 hexadecimal digits. The name under which it is restored comes of it."""
    cluster: str
    """The name of the broker's cluster; empty where it does not tell one."""
    vhost: str
    streams: Sequence[DumpedStream]
    """A chunk says by index from which of these it is."""
    super_stream: str | None = None
    """The super stream whose partitions these are, in their order."""
    selection: Mapping[str, str | Sequence[str] | bool] = field(default_factory=dict)
    """What was asked for: ``offset`` as the user wrote it, ``filter`` values, ``match_unfiltered``."""
    made_by: str = ""
    made_at: str = ""
    """ISO 8601, UTC."""

    def encoded(self) -> bytes:
        """Returns the content of its record. Leaves the stored offsets out where they are too many for one."""
        data = _json(self._record(offsets=True))
        return data if len(data) <= MAX_MANIFEST else _json(self._record(offsets=False))

    def source(self) -> tuple[object, ...]:
        """What must be the same where a run goes on with a dump: cluster, virtual host, and names."""
        return self.cluster, self.vhost, self.super_stream, tuple(stream.name for stream in self.streams)

    def _record(self, *, offsets: bool) -> dict[str, Any]:
        streams = [
            {
                "name": stream.name,
                "binding": stream.binding,
                "arguments": None if stream.arguments is None else dict(stream.arguments),
                "stored_offsets": dict(stream.stored_offsets)
                if offsets and stream.stored_offsets is not None
                else None,
            }
            for stream in self.streams
        ]
        return {
            "id": self.id,
            "cluster": self.cluster,
            "vhost": self.vhost,
            "super_stream": self.super_stream,
            "streams": streams,
            "selection": dict(self.selection),
            "made_by": self.made_by,
            "made_at": self.made_at,
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises ``DumpError``."""
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise DumpError("the manifest is not JSON") from None
        record = _Fields(fields)
        streams = record.items("streams")
        if not 0 < len(streams) <= MAX_STREAMS:
            raise DumpError(f"the manifest names {len(streams)} streams, not 1 to {MAX_STREAMS}")
        return cls(
            id=record.id(),
            cluster=record.text("cluster"),
            vhost=record.text("vhost"),
            super_stream=record.text_or_none("super_stream"),
            streams=tuple(_stream(_Fields(stream)) for stream in streams),
            selection=record.values("selection", str, list, bool) or {},
            made_by=record.text("made_by"),
            made_at=record.text("made_at"),
        )


def new_id() -> str:
    """Returns an id that no other dump has."""
    return secrets.token_hex(_ID_LENGTH // 2)


def _stream(fields: _Fields) -> DumpedStream:
    return DumpedStream(
        name=fields.text("name"),
        binding=fields.text_or_none("binding"),
        arguments=fields.values("arguments", str, int, bool),
        stored_offsets=fields.values("stored_offsets", int),
    )


class _Fields:
    """An object of the manifest, whose fields are checked as they are read."""

    def __init__(self, found: object) -> None:
        if not isinstance(found, dict):
            raise DumpError("the manifest is not what a manifest must be: an object is missing")
        self._found = found

    def id(self) -> str:
        value = self.text("id")
        if len(value) != _ID_LENGTH or set(value) - set("0123456789abcdef"):
            raise _wrong("id")
        return value

    def text(self, key: str) -> str:
        value = self._found.get(key)
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise _wrong(key)
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._found.get(key) is None else self.text(key)

    def items(self, key: str) -> Sequence[object]:
        value = self._found.get(key)
        if not isinstance(value, list):
            raise _wrong(key)
        return value

    def values(self, key: str, *kinds: type) -> dict[str, Any] | None:
        value = self._found.get(key)
        if value is None:
            return None
        if not isinstance(value, dict) or not all(isinstance(one, kinds) for one in value.values()):
            raise _wrong(key)
        return value


def _wrong(key: str) -> DumpError:
    return DumpError(f"the manifest is not what a manifest must be: {key!r} is missing or of another kind")


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
