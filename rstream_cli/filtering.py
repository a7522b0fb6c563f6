"""``consume --filter``: the broker's filter, and the exact one of this side where ``--filter-from`` tells how.

The broker filters by the chunk, on values that are not a part of the messages. So this side can only look for the
value where the publisher had it from: at a path in the body, or in the envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rstream_cli.parsing import Path, PathError
from rstream_cli.records.envelope import EnvelopeError, at_path, body_bytes, loads, to_json
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
            found = [value_text(value) for value in self._values(path, data) if value is not None]
        except AmqpError:
            return True  # whoever renders it says what is wrong with it
        return any(value in self.values for value in found) if found else self.match_unfiltered

    def _values(self, path: Path, data: bytes) -> list[Any]:
        """What is at the path in the body and in the envelope: a publisher may have had the value from either."""
        if self.raw:
            return [_find(data, path)]
        message = AMQPMessage.from_bytes(data)
        return [_find(body_bytes(message), path), _find(to_json(message, stream="", offset=0, timestamp_ms=0), path)]


def value_text(value: Any) -> str:
    """A JSON value as a filter value: a string as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _find(text: bytes, path: Path) -> Any:
    try:
        return at_path(loads(text), path)
    except (PathError, EnvelopeError):  # nothing there, or no JSON
        return None
