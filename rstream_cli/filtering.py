"""``consume --filter``: the broker's filter, and the exact one of this side where ``--filter-from`` tells how.

The broker filters by the chunk, on values that are not a part of the messages. So this side can only look for the
value where the publisher had it from: at a path in the body, or in the envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from rstream_cli.records.envelope import EnvelopeError, at_path, loads
from rstream_cli.records.paths import Path, PathError
from rstream_cli.rendering import UNSHOWABLE, look_into


class Choice(NamedTuple):
    """What a filter says of the messages of a chunk."""

    places: Sequence[int]
    """Those that are wanted, and among them, in order, those that are bad."""
    bad: frozenset[int] = frozenset()
    """Those that it could not look into: nobody knows whether they are wanted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are wanted."""

    values: tuple[str, ...]
    match_unfiltered: bool = False
    path: Path | None = None
    """Where a message holds its value; None: take what the broker sends."""
    raw: bool = False
    """What was stored is the body."""

    def choose(self, messages: Sequence[bytes]) -> Choice:
        """Which places are wanted, and which are bad."""
        if self.path is None:
            return Choice(range(len(messages)))
        places: list[int] = []
        bad: list[int] = []
        for place, data in enumerate(messages):
            try:
                if not self._is_wanted(self.path, data):
                    continue
            except UNSHOWABLE:
                bad.append(place)
            places.append(place)
        return Choice(places, frozenset(bad))

    def _is_wanted(self, path: Path, data: bytes) -> bool:
        found = [value_text(value) for value in self._values(path, data) if value is not None]
        return any(value in self.values for value in found) if found else self.match_unfiltered

    def _values(self, path: Path, data: bytes) -> list[Any]:
        """What is at the path in the body and in the envelope: a publisher may have had the value from either."""
        return [_find(text, path) for text in ((data,) if self.raw else look_into(data))]


def value_text(value: Any) -> str | None:
    """A value as a filter value: a string as it is, anything else as JSON writes it; None where JSON cannot."""
    try:
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    except TypeError:  # binary, or a map whose keys are no strings
        return None


def _find(text: bytes, path: Path) -> Any:
    try:
        return at_path(loads(text), path)
    except (PathError, EnvelopeError):  # nothing there, or no JSON
        return None
