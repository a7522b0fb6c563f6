"""``consume --filter``: an exact filter behind the broker's filter, if there is a ``--filter-from``.

The broker filters whole chunks, by values that are not part of the messages. So this side can only read the value from
the place where the publisher took it: at a path in the body or in the envelope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from rstream_cli.exit_status import CommandError
from rstream_cli.options.consuming import ConsumeOptions
from rstream_cli.records.envelope import EnvelopeError, at_path, loads
from rstream_cli.records.paths import Path, PathError, parse_path
from rstream_cli.rendering import UNSHOWABLE, look_into
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice


class BrokerFilter(NamedTuple):
    """What the broker is asked for. It leaves out whole chunks, so messages with other values come too."""

    values: tuple[str, ...]
    match_unfiltered: bool = False
    """Whether messages without a filter value are wanted, too."""


@dataclass(frozen=True, slots=True)
class ExactFilter:
    """Chooses the messages that have one of the values at a path."""

    values: tuple[str, ...]
    path: Path
    match_unfiltered: bool = False
    raw: bool = False
    """Whether the stored bytes are the body, not AMQP 1.0."""

    def choose(self, block: Block) -> Choice:
        """Returns which messages are wanted, and which could not be read."""
        places: list[int] = []
        unreadable: list[int] = []
        for place, data in enumerate(block.messages):
            try:
                if not self._is_wanted(data):
                    continue
            except UNSHOWABLE:
                unreadable.append(place)
            places.append(place)
        return Choice(places, unreadable)

    def _is_wanted(self, data: bytes) -> bool:
        found = [value_text(value) for value in self._values(data) if value is not None]
        return any(value in self.values for value in found) if found else self.match_unfiltered

    def _values(self, data: bytes) -> list[Any]:
        """Returns the values at the path in the body and in the envelope: the publisher may have used either."""
        return [_find(text, self.path) for text in ((data,) if self.raw else look_into(data))]


def choosers(options: ConsumeOptions, *, raw: bool) -> Iterator[ExactFilter]:
    """Yields what ``--filter-from`` asks for. Raises CommandError. ``raw``: the stored bytes are the body."""
    if options.filter_from is not None:
        try:
            path = parse_path(options.filter_from)
        except ValueError as error:
            raise CommandError(f"--filter-from: {error}") from None
        yield ExactFilter(tuple(options.filter_values or ()), path, options.match_unfiltered, raw)


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
