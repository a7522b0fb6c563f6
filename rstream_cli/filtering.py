"""``consume --filter``: an exact filter behind the broker's filter, if there is a ``--filter-from``.

The broker filters whole chunks, by values that are not part of the messages. So this side can only read the value from
the place where the publisher took it: at a path in the body or in the envelope.
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
    """The choice of a filter among the messages of a chunk."""

    places: Sequence[int]
    """The positions of wanted and of bad messages, in order."""
    bad: frozenset[int] = frozenset()
    """The positions of messages that could not be read, so that it is unknown whether they are wanted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Decides which messages are wanted."""

    values: tuple[str, ...]
    match_unfiltered: bool = False
    path: Path | None = None
    """The path of a message's value; None: all messages that the broker sends are wanted."""
    raw: bool = False
    """Whether the stored bytes are the body, not AMQP 1.0."""

    def choose(self, messages: Sequence[bytes]) -> Choice:
        """Returns which messages are wanted, and which are bad."""
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
        """Returns the values at the path in the body and in the envelope: the publisher may have used either."""
        return [_find(text, path) for text in ((data,) if self.raw else look_into(data))]


def value_text(value: Any) -> str | None:
    """Returns a value as a filter value: a string unchanged, any other value as JSON; None if JSON cannot hold it."""
    try:
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    except TypeError:  # binary, or a map with keys that are not strings
        return None


def _find(text: bytes, path: Path) -> Any:
    try:
        return at_path(loads(text), path)
    except (PathError, EnvelopeError):  # no value there, or not JSON
        return None
