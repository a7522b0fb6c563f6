"""A publisher's ledger: which messages are in flight, and what became of them. No I/O, no clock, no callbacks.

The unit is the batch: the messages of one Publish frame. Its ids and the frame itself are kept together until each
message is confirmed or rejected, and a confirm resolves ranges of them. Nothing is done once per message. The frame is
all that is kept of the messages: it can be sent again, and those that fail are read from it.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

from rstream_core.errors import response_name
from rstream_core.protocol import commands as c
from rstream_core.protocol.placed import Packed
from rstream_core.protocol.wire import published, refit


class FailedMessage(NamedTuple):
    """A message that the broker rejected, or did not confirm."""

    publishing_id: int
    data: bytes
    """Empty for a message of a sub-entry that was passed on whole: nobody has unpacked it."""
    code: int
    """The broker's response code; 0 where it never answered, and the message may or may not be stored."""
    reason: str
    filter_value: str | None = None


class Outcome(NamedTuple):
    """Outcomes of messages of one batch. A publisher passes them to its listener, after each frame of confirms."""

    confirmed: int
    """Messages confirmed just now."""
    latency: float
    """Seconds since they were written."""
    failed: Sequence[FailedMessage] = ()
    publishing_ids: Sequence[int] = ()
    """The confirmed ids: one for each message, or one for a whole sub-entry."""
    context: object = None
    """What the caller has passed to ``publish`` or ``publish_sub_entry``."""
    places: Sequence[int] = ()
    """Of the messages, confirmed or failed: where they stand in what the caller has passed, from ``place`` on."""


FilterValues = Sequence[str | None]
"""One filter value for each message; None for a message without one."""

_OTHER = bytes([1, 0]) + bytes(254)
"""Table for ``bytes.translate`` that turns the flags of resolved ids into those of open ids."""


class Batch:
    """The messages of one Publish frame, until all are confirmed or have failed."""

    __slots__ = (
        "_columns",
        "are_callers",
        "context",
        "count",
        "first",
        "frame",
        "ids",
        "last",
        "open",
        "place",
        "resolved",
        "size",
        "sub_entry",
        "weight",
        "writes",
        "written_at",
    )

    def __init__(
        self,
        ids: Sequence[int],
        frame: bytes,
        size: int,
        *,
        are_callers: bool,
        sub_entry: Sequence[bytes] | None = None,
        context: object = None,
        place: int = 0,
    ) -> None:
        self.ids = ids
        self.are_callers = are_callers
        """Whether the caller chose the ids."""
        self.first = ids[0]
        self.last = ids[-1]
        self.frame = frame
        """As it was written first; empty once all messages are resolved."""
        self.size = size
        """Bytes that count as in flight: those of the messages and filter values, or of a compressed sub-entry."""
        self.written_at = 0.0
        self.writes = 0
        """How often the batch has been written: 0 where the connection was lost just before the first time."""
        self.sub_entry = sub_entry
        """The messages of a sub-entry, which the frame holds compressed; None where each message is an entry."""
        self.weight = 1 if sub_entry is None else len(sub_entry)
        """Messages under one publishing id."""
        self.context = context
        """What the caller has passed, for the outcomes."""
        self.place = place
        """Where the first message stands in what the caller has passed."""
        self.count = len(ids) * self.weight
        """Messages, resolved or not."""
        self.open = len(ids)
        self.resolved = bytearray(len(ids))
        self._columns: tuple[Sequence[bytes], Sequence[str | None] | None] | None = None
        """Messages and filter values, once one has failed: a broker may reject them one by one."""

    def resolve(self, low: int, high: int) -> int:
        """Marks the ids at positions ``low`` to ``high`` - 1 as resolved, and returns how many of them were open."""
        fresh = high - low - self.resolved.count(1, low, high)
        self.resolved[low:high] = b"\x01" * (high - low)
        self.open -= fresh
        return fresh

    def again(self, publisher_id: int, limit: int, most: int) -> list[bytes]:
        """Returns frames with the open ids, in their order: of ``limit`` bytes and ``most`` messages, where they can be
        cut to that."""
        if self.open == len(self.ids):
            return refit(self.frame, publisher_id, limit, most)
        return refit(self.frame, publisher_id, limit, most, self.resolved.translate(_OTHER))

    def forget(self) -> None:
        """Drops the messages: all are resolved."""
        self.frame, self.sub_entry, self._columns = b"", None, None

    @property
    def has_filters(self) -> bool:
        """Whether the messages have filter values."""
        return self.frame[7] == 2

    def failures(self, positions: Sequence[int], code: int, reason: str) -> list[FailedMessage]:
        """Returns the messages of the ids at these positions as failed ones."""
        ids = self.ids
        if isinstance(self.sub_entry, Packed):  # unpacking may fail, and take much memory
            return [FailedMessage(ids[0], b"", code, reason)] * self.weight
        if self.sub_entry is not None:
            return [FailedMessage(ids[0], data, code, reason) for data in self.sub_entry]
        if self._columns is None:
            self._columns = published(self.frame)
        messages, values = self._columns
        if values is None:
            return [FailedMessage(ids[at], messages[at], code, reason) for at in positions]
        return [FailedMessage(ids[at], messages[at], code, reason, values[at]) for at in positions]

    def places(self, positions: Sequence[int]) -> Sequence[int]:
        """Returns where the messages of the ids at these positions stand in what the caller has passed."""
        if self.weight > 1:
            return range(self.place, self.place + self.weight)
        if type(positions) is range:
            return range(self.place + positions.start, self.place + positions.stop)
        return [self.place + position for position in positions]

    def confirm(self, ids: Sequence[int]) -> Sequence[int]:
        """Resolves ``ids``, which grow; ids that the batch does not have are ignored. Returns the positions of those
        that were open."""
        low = bisect_left(self.ids, ids[0])
        high = low + len(ids)
        # The usual case: consecutive ids of the batch, all of them open.
        if self.resolved.find(1, low, high) < 0 and (self.ids[low:high] == ids or _same(self.ids[low:high], ids)):
            self.resolved[low:high] = b"\x01" * (high - low)
            self.open -= high - low
            return range(low, high)
        fresh: list[int] = []
        for publishing_id in ids:
            where = bisect_left(self.ids, publishing_id)
            if self.ids[where] == publishing_id and self.resolve(where, where + 1):
                fresh.append(where)
        return fresh

    def unresolved_from(self, low: int) -> list[int]:
        """Returns the positions of the open ids from position ``low`` on."""
        return [position for position in range(low, len(self.ids)) if not self.resolved[position]]


class InFlight:
    """The batches of one publisher, in the order of their ids, which do not overlap.

    ``published == confirmed + failed + messages`` holds after each call, and the outcomes that a call returns add up to
    what it changed. ``now`` is the time of any one clock, in seconds.
    """

    def __init__(self, *, is_named: bool, max_messages: int, max_size: int) -> None:
        """``max_messages`` and ``max_size`` bytes may be in flight, or one larger batch."""
        self.max_messages = max_messages
        self.max_size = max_size
        self.published = self.confirmed = self.failed = 0
        self.messages = 0
        """Messages that are neither confirmed nor failed."""
        self.size = 0
        """Bytes of the batches that are not resolved, as they were written first."""
        self.batches = 0
        """Batches that are not resolved."""
        self.rejected: list[int] = []
        """Under a reference: ids that the caller chose and the broker rejected, sorted, until they are published
        again."""
        self.has_rejected = False
        """Whether the broker must be asked before later ids may be published: one was rejected under the reference."""
        self.must_recount = False
        """Under a reference: whether the broker rejected an id that the publisher had counted."""
        self.is_named = is_named
        self._batches: list[Batch] = []
        """Resolved ones stay for a while: see ``_settle``."""

    def __bool__(self) -> bool:
        """Returns whether anything is in flight."""
        return bool(self.batches)

    @property
    def last_id(self) -> int:
        """The largest id of the latest batch. Raises ``IndexError`` where nothing is in flight."""
        return self._batches[-1].last

    @property
    def oldest(self) -> Batch | None:
        """The first batch that is not resolved; None where nothing is in flight."""
        return next((batch for batch in self._batches if batch.open), None)

    def open(self) -> list[Batch]:
        """Returns the batches that are not resolved, in the order of their ids."""
        return [batch for batch in self._batches if batch.open]

    @property
    def most(self) -> int:
        """Messages of a batch: half of the bound, so that one can be written while another is being confirmed."""
        return max(1, self.max_messages // 2)

    def oldest_time(self) -> float | None:
        """Returns when the first batch that is not resolved was written; None where nothing is in flight."""
        oldest = self.oldest
        return None if oldest is None else oldest.written_at

    def has_room(self, messages: int, size: int) -> bool:
        """Returns whether so many messages and bytes may be added. With nothing in flight, anything may."""
        there = self.messages
        return not there or (there + messages <= self.max_messages and self.size + size <= self.max_size)

    def add(self, batch: Batch) -> None:
        """Takes in a batch. Its ids must be larger than those of all batches that are in flight."""
        self._batches.append(batch)
        self.batches += 1
        self.published += batch.count
        self.messages += batch.count
        self.size += batch.size

    def confirm(self, publishing_ids: Sequence[int], now: float) -> list[Outcome]:
        """Takes in a broker's confirm; unknown ids are ignored. Returns an outcome for each batch that it is about."""
        ids = publishing_ids
        if (type(ids) is not range or ids.step < 0) and not grows(ids):
            ids = sorted(set(ids))
        outcomes: list[Outcome] = []
        position, count = 0, len(ids)
        at = self._index_of(ids[0]) if count else 0
        while position < count and at < len(self._batches):
            batch = self._batches[at]
            if batch.first > ids[-1]:
                break
            position = bisect_left(ids, batch.first, position)
            stop = bisect_left(ids, batch.last + 1, position)
            if stop > position:
                some = ids[position:stop]
                if fresh := batch.confirm(some):
                    messages = len(fresh) * batch.weight
                    self.confirmed += messages
                    if len(fresh) != len(some):
                        some = [batch.ids[at] for at in fresh]
                    self._forget(batch, messages)
                    latency = now - batch.written_at
                    outcomes.append(Outcome(messages, latency, (), some, batch.context, batch.places(fresh)))
                position = stop
            at += 1
        if len(self._batches) > 2 * self.batches:
            self._settle()
        return outcomes

    def reject(self, errors: Sequence[c.MessageError], now: float) -> list[Outcome]:
        """Takes in a broker's rejections; unknown ids are ignored. Returns an outcome for each id that was open."""
        outcomes: list[Outcome] = []
        for publishing_id, code in errors:
            at = self._index_of(publishing_id)
            batch = self._batches[at] if at < len(self._batches) else None
            if batch is None or not batch.first <= publishing_id <= batch.last:
                continue
            where = bisect_left(batch.ids, publishing_id)
            if batch.ids[where] != publishing_id:
                continue
            if not batch.resolved[where]:
                outcomes.append(self._fail(batch, (where,), code, response_name(code), now))
                if self.is_named and batch.are_callers:
                    insort(self.rejected, publishing_id)
                elif self.is_named:
                    self.must_recount = True
        self.has_rejected = bool(self.rejected) or self.must_recount
        self._settle()
        return outcomes

    def fail_all(self, reason: str, now: float) -> list[Outcome]:
        """Fails everything that is in flight, with the code 0. Returns an outcome for each batch."""
        outcomes = [self._fail(batch, batch.unresolved_from(0), 0, reason, now) for batch in self.open()]
        self._settle()
        return outcomes

    def fail_behind_rejected(self, reason: str, now: float) -> list[Outcome]:
        """Fails the messages with ids of the caller's that follow the first rejected one, with the code 0.

        If the broker stored one of them, it would drop and confirm the rejected id when that is published again.
        """
        outcomes: list[Outcome] = []
        if self.rejected:
            for batch in self.open():
                if batch.are_callers:
                    behind = batch.unresolved_from(bisect_right(batch.ids, self.rejected[0]))
                    if behind:
                        outcomes.append(self._fail(batch, behind, 0, reason, now))
            self._settle()
        return outcomes

    def takes_up(self, ids: Sequence[int]) -> bool:
        """Returns whether ``ids`` have all the rejected ids up to their last one, so that they leave no hole."""
        again = set(ids)
        return all(one in again for one in self.rejected[: bisect_right(self.rejected, ids[-1])])

    def forget_rejected(self, last: int) -> None:
        """Forgets the rejected ids up to ``last``: they are being published again."""
        del self.rejected[: bisect_right(self.rejected, last)]
        self.has_rejected = bool(self.rejected) or self.must_recount

    def recounted(self) -> None:
        """The publisher counts on behind the broker's last id."""
        self.must_recount = False
        self.has_rejected = bool(self.rejected)

    def _index_of(self, publishing_id: int) -> int:
        """Returns the position of the batch that holds an id; where none does, that of a neighbour."""
        return max(bisect_right(self._batches, publishing_id, key=_first_id) - 1, 0)

    def _fail(self, batch: Batch, positions: Sequence[int], code: int, reason: str, now: float) -> Outcome:
        """Resolves the open ids at these positions as failed."""
        failures = batch.failures(positions, code, reason)
        for position in positions:
            batch.resolve(position, position + 1)
        self.failed += len(failures)
        self._forget(batch, len(failures))
        return Outcome(0, now - batch.written_at, failures, (), batch.context, batch.places(positions))

    def _forget(self, batch: Batch, messages: int) -> None:
        """Takes messages of a batch out of what is in flight, and the batch too if all of it is resolved."""
        self.messages -= messages
        if not batch.open:
            self.batches -= 1
            self.size -= batch.size
            batch.forget()

    def _settle(self) -> None:
        """Removes resolved batches, but only when they are the majority, so that the cost per batch is constant."""
        if len(self._batches) > 2 * self.batches:
            self._batches = self.open()


_first_id = operator.attrgetter("first")


def _same(some: Sequence[int], others: Sequence[int]) -> bool:
    """Returns whether two sequences of growing ids are equal."""
    if len(some) != len(others):
        return False
    if type(some) is range and some.step == 1:
        return some[0] == others[0] and some[-1] == others[-1]
    return tuple(some) == tuple(others)


def grows(ids: Sequence[int]) -> bool:
    """Returns whether each id is larger than the one before it."""
    if type(ids) is range:
        return ids.step > 0
    return all(map(operator.lt, ids, ids[1:]))
