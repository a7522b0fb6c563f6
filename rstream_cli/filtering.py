"""``consume --filter-from``: an exact filter behind the broker's, for the values of ``--filter``.

The broker filters whole chunks, by values that are not part of the messages. So this side can only read the value from
the place where the publisher took it: at a path in the body or in the envelope.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from rstream_cli.exit_status import CommandError
from rstream_cli.options.selecting import SelectOptions
from rstream_cli.records.paths import Path, PathError, parse_path
from rstream_cli.records.tagged_values import EnvelopeError, at_path, loads, value_to_json
from rstream_cli.records.values import UNSHOWABLE, Where, look_into, untagged
from rstream_core import AMQPMessage
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
        stream, time = block.stream, block.timestamp or 0
        wanted = {os.fsencode(value) for value in self.values}
        for place, (offset, data) in enumerate(zip(block.positions, block.messages, strict=True)):
            try:
                message = AMQPMessage(data) if self.raw else AMQPMessage.from_bytes(data)
                if not self._is_wanted(Where(message, stream, offset, time), wanted):
                    continue
            except UNSHOWABLE:
                unreadable.append(place)
            places.append(place)
        return Choice(places, unreadable)

    def _is_wanted(self, where: Where, wanted: Set[bytes]) -> bool:
        """The value may be in the body or in the envelope: the publisher may have used either."""
        found = [_find(text, self.path) for text in look_into(where)]
        values = [filter_value(value) for value in found if value is not None]
        return not wanted.isdisjoint(values) if values else self.match_unfiltered


def choosers(options: SelectOptions, *, raw: bool) -> Iterator[ExactFilter]:
    """Yields what ``--filter-from`` asks for. Raises CommandError. ``raw``: the stored bytes are the body."""
    if options.filter_from is not None:
        try:
            path = parse_path(options.filter_from)
        except ValueError as error:
            raise CommandError(f"--filter-from: {error}") from None
        yield ExactFilter(tuple(options.filter_values or ()), path, options.match_unfiltered, raw)


def filter_value(value: Any) -> bytes | None:
    """Returns a value as a filter value, which is what ``--match`` compares; None if JSON cannot hold it.

    Text and whole numbers are as ``publish --filter-from`` takes them.
    """
    try:
        return untagged(value_to_json(value))
    except EnvelopeError:
        return None


def value_in(text: bytes, path: Path) -> bytes | None:
    """Returns the value at a path in JSON, as a filter value; None where there is none, or no JSON."""
    found = _find(text, path)
    return None if found is None else filter_value(found)


def _find(text: bytes, path: Path) -> Any:
    try:
        return at_path(loads(text), path)
    except (PathError, EnvelopeError):  # no value there, or not JSON
        return None
