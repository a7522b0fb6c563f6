"""``consume --filter``: the broker's filter, and the exact one of this side where ``--filter-from`` tells how.

The broker filters by the chunk, on values that are not a part of the messages. So this side can only look for the
value where the publisher had it from: at a path in the body, or in the envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rstream_cli.records.envelope import body_bytes, to_json
from rstream_cli.records.path import MISSING, Path
from rstream_core import AmqpError, AMQPMessage


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are wanted."""

    values: tuple[str, ...]
    match_unfiltered: bool = False
    path: Path | None = None
    """Where a message holds its value; None: take what the broker sends."""
    raw: bool = False
    """What was stored is the body."""

    def wanted(self, messages: Sequence[bytes]) -> Sequence[int]:
        """The places of those that are wanted."""
        if self.path is None:
            return range(len(messages))
        return [place for place, data in enumerate(messages) if self._is_wanted(self.path, data)]

    def _is_wanted(self, path: Path, data: bytes) -> bool:
        try:
            value = self._find(path, data)
        except AmqpError:
            return True  # whoever renders it says what is wrong with it
        if value is MISSING or value is None:
            return self.match_unfiltered
        return value_text(value) in self.values

    def _find(self, path: Path, data: bytes) -> Any:
        if self.raw:
            return path.find(_document(data))
        message = AMQPMessage.from_bytes(data)
        value = path.find(_document(body_bytes(message)))
        if value is MISSING:
            value = path.find(orjson.loads(to_json(message, stream="", offset=0, timestamp_ms=0)))
        return value


def value_text(value: Any) -> str:
    """A JSON value as a filter value: a string as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return MISSING
