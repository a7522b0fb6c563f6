"""A run of messages on its way from a source to a sink, with what is known of them in columns.

Columns are there only where somebody needs them, and have a value for each message. A block is never changed: what
selects from it or splits it makes another one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self, TypeVar

from rstream_core.flow.acks import Acks, Verdict
from rstream_core.protocol.amqp_sections import PlainMessages, join_messages
from rstream_core.protocol.placed import PlacedMessages
from rstream_core.protocol.wire import scatter

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Block:
    """Messages of one stream, in the order in which they were read."""

    ack: Acks
    """Whom to tell when a message is done with."""
    positions: Sequence[int]
    """Of each message: its offset in a stream, or its number in an input. They grow."""
    messages: Sequence[bytes]
    """Encoded messages: a list of them, or ``PlainMessages``."""
    stream: str = ""
    """The stream that they are from."""
    timestamp: int | None = None
    """Milliseconds since 1970 (UTC) when a broker stored them, if one did."""
    ids: Sequence[int] | None = None
    """Publishing ids that somebody has chosen. They grow."""
    filters: Sequence[str | None] | None = None
    """Filter values; None for a message without one."""
    keys: Sequence[bytes] | None = None
    """Routing keys."""
    lanes: Sequence[int] | None = None
    """Which of a sink's streams each message goes to, by index; None: all go to ``lane``."""
    lane: int = 0
    """Which of a sink's streams all messages go to, where there are no ``lanes``."""
    unreadable: Collection[int] = ()
    """Positions of messages that a stage could not read. They stay, for the one who says what is wrong with them."""

    @property
    def count(self) -> int:
        """How many messages there are."""
        return len(self.messages)

    def done(self, verdict: Verdict = Verdict.DONE) -> None:
        """Says that all messages are done with."""
        self.ack.done(self.positions, verdict)

    def select(self, places: Sequence[int]) -> Self:
        """Returns the messages at these places, which grow."""
        if len(places) == len(self.messages):
            return self
        if type(places) is range and places.step == 1:
            return self._slice(slice(places.start, places.stop))
        messages = self.messages
        return replace(
            self,
            positions=_at(self.positions, places),
            messages=messages.select(places) if isinstance(messages, PlainMessages) else _at(messages, places),
            ids=None if self.ids is None else _at(self.ids, places),
            filters=None if self.filters is None else _at(self.filters, places),
            keys=None if self.keys is None else _at(self.keys, places),
            lanes=None if self.lanes is None else _at(self.lanes, places),
        )

    def boundary(self, at: int) -> int:
        """Returns the first place from ``at`` on at which ``split`` cuts no sub-entry in two."""
        return self.messages.boundary(at) if isinstance(self.messages, PlacedMessages) else at

    def split(self, at: int) -> tuple[Self, Self]:
        """Returns the messages before the place ``at``, and those from there on."""
        return self._slice(slice(at)), self._slice(slice(at, None))

    def scatter(self) -> list[tuple[int, Self]]:
        """Returns each lane that occurs, with its messages in their order. Lanes and keys are no part of these blocks.

        There must be ``lanes``.
        """
        lanes, messages = self.lanes, self.messages
        assert lanes is not None
        columns: dict[str, Sequence[object] | None] = {
            "positions": self.positions,
            "messages": messages.bodies if isinstance(messages, PlainMessages) else messages,
            "ids": self.ids,
            "filters": self.filters,
        }
        parts = {name: scatter(column, lanes) for name, column in columns.items() if column is not None}
        found: list[tuple[int, Self]] = []
        for lane in parts["positions"]:
            its: dict[str, Any] = {name: part[lane] for name, part in parts.items()}
            if isinstance(messages, PlainMessages):
                its["messages"] = messages.some(its["messages"])
            found.append((lane, replace(self, keys=None, lanes=None, **its)))
        return found

    def join(self, others: Sequence[Self]) -> Self:
        """Returns these messages, and behind them those of other blocks with the same ``ack``, as one block.

        What is one for all messages of a block, such as ``timestamp``, is this block's.
        """
        if not others:
            return self
        blocks = [self, *others]
        return replace(
            self,
            positions=_joined_positions([block.positions for block in blocks]),
            messages=join_messages([block.messages for block in blocks]),
            ids=_joined_positions([block.ids for block in blocks if block.ids is not None]) if self.ids else None,
            filters=_joined_filters(blocks),
            keys=None if self.keys is None else list(chain.from_iterable(block.keys or () for block in blocks)),
            lanes=None if self.lanes is None else list(chain.from_iterable(block.lanes or () for block in blocks)),
            unreadable=[position for block in blocks for position in block.unreadable],
        )

    def _slice(self, part: slice) -> Self:
        return replace(
            self,
            positions=self.positions[part],
            messages=self.messages[part],
            ids=None if self.ids is None else self.ids[part],
            filters=None if self.filters is None else self.filters[part],
            keys=None if self.keys is None else self.keys[part],
            lanes=None if self.lanes is None else self.lanes[part],
        )


def _joined_positions(columns: Sequence[Sequence[int]]) -> Sequence[int]:
    """Returns growing numbers one behind the other: as one range where they follow each other without a hole."""
    first, last = columns[0][0], columns[-1][-1]
    count = sum(map(len, columns))
    return range(first, last + 1) if last - first + 1 == count else list(chain.from_iterable(columns))


def _joined_filters(blocks: Sequence[Block]) -> Sequence[str | None] | None:
    if all(block.filters is None for block in blocks):
        return None
    return [value for block in blocks for value in (block.filters or [None] * block.count)]


def _at(column: Sequence[T], places: Sequence[int]) -> list[T]:
    return [column[place] for place in places]
