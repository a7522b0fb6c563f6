"""Checks that each message of a run comes once and in order, and finds how long each was on its way.

The names of the messages of a chunk are read into one array. Those of one producer follow each other, and a whole run
of them is compared at once: with a large number that has 64 bits for each of them. Only what is not so is looked at one
by one. See ``payload`` for the head that holds a message's name and time.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from rstream_cli.bench.payload import AT_ONCE, NUMBER_BITS, Size, around_head, is_run, name_of
from rstream_core.protocol.amqp_sections import PlainMessages, bodies_of
from rstream_core.protocol.chunk import AnyChunk

MAX_HOLES = 10_000
"""Runs of missing numbers that are remembered for each producer: what fills one later is misplaced, not doubled."""

_NUMBERS = (1 << NUMBER_BITS) - 1


@dataclass(slots=True)
class Tally:
    """What has come of one producer's messages in one stream. Their numbers count from 0."""

    following: int = 0
    """The number behind the highest that has come."""
    doubled: int = 0
    misplaced: int = 0
    """Messages that came behind a later one."""
    _missing: int = 0
    _holes: list[range] = field(default_factory=list)

    @property
    def came(self) -> int:
        """How many different messages have come."""
        return self.following - self._missing

    def add(self, first: int, count: int) -> None:
        """Notes messages that have come, one behind the other."""
        if first < self.following:
            for number in range(first, min(first + count, self.following)):
                self._add_late(number)
            count -= self.following - first
            first = self.following
            if count <= 0:
                return
        if first > self.following:
            self._missing += first - self.following
            if len(self._holes) < MAX_HOLES:
                self._holes.append(range(self.following, first))
        self.following = first + count

    def _add_late(self, number: int) -> None:
        for place, hole in enumerate(self._holes):
            if number in hole:
                parts = (range(hole.start, number), range(number + 1, hole.stop))
                self._holes[place : place + 1] = [part for part in parts if part]
                self._missing -= 1
                self.misplaced += 1
                return
        self.doubled += 1


class Check:
    """What one consumer has got of one stream."""

    def __init__(self, size: Size, run: int) -> None:
        """``size``: what the run's messages are like."""
        self._first = name_of(run, 0)
        self._last = name_of(run + 1, 0) - 1
        self._width = size.head
        self._before = b"" if size.body is None else around_head(size.body)[0]
        self._body = size.body
        start = len(self._before)
        self._head = itemgetter(slice(start, start + size.head))
        self.tallies: dict[int, Tally] = {}
        """By producer."""
        self.foreign = 0
        """Messages that are not of this run."""

    @property
    def came(self) -> int:
        """How many different messages of the run have come."""
        return sum(tally.came for tally in self.tallies.values())

    def add(self, chunk: AnyChunk) -> Sequence[tuple[int, int]]:
        """Notes the messages of a chunk. Returns when they were meant to be sent, in nanoseconds, each time with the
        number of messages; nothing where they carry no time."""
        whole = self._readable(chunk.messages)
        if len(whole) <= AT_ONCE:
            return self._add(whole)
        return [pair for at in range(0, len(whole), AT_ONCE) for pair in self._add(whole[at : at + AT_ONCE])]

    def _readable(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        """Returns what heads stand in: bodies, or encoded messages where the body is from a file."""
        if self._body is not None:
            return messages.encoded if isinstance(messages, PlainMessages) else messages
        if isinstance(messages, PlainMessages):
            return messages.bodies
        return [body or b"" for body in bodies_of(messages)]

    def _add(self, readable: Sequence[bytes]) -> Sequence[tuple[int, int]]:
        found = b"".join(map(self._head, readable))
        width = self._width
        if len(found) != width * len(readable):  # some are too short to be ours
            ours = [data for data in readable if len(self._head(data)) == width]
            self.foreign += len(readable) - len(ours)
            found = b"".join(map(self._head, ours))
        if not found:
            return ()
        numbers = array("Q")
        numbers.frombytes(found)
        step = width // 8
        raw = found if step == 1 else numbers[::step].tobytes()
        if sys.byteorder == "little":
            numbers.byteswap()
        names = numbers[::step]
        times = numbers[1::2] if step == 2 else None
        left = self.foreign
        for at, count in runs_of(names, raw):
            self._note(names[at], count)
        if times is None:
            return ()
        if self.foreign != left:  # their times are none
            times = array("Q", (when for name, when in zip(names, times, strict=True) if self._is_ours(name)))
        return spans_of(times)

    def _note(self, name: int, count: int) -> None:
        if not (self._is_ours(name) and self._is_ours(name + count - 1)):
            self.foreign += count
            return
        number = name & _NUMBERS
        producer = (name - self._first) >> NUMBER_BITS
        tally = self.tallies.get(producer)
        if tally is None:
            tally = self.tallies[producer] = Tally()
        tally.add(number, count)

    def _is_ours(self, name: int) -> bool:
        return self._first <= name <= self._last


def runs_of(names: array[int], raw: bytes) -> Iterator[tuple[int, int]]:
    """Yields where each run begins in which every number is one more than the one before, and its length.

    ``raw``: the same numbers, in eight bytes each.
    """
    if is_run(raw):
        yield 0, len(names)
        return
    at, end = 0, len(names)
    while at < end:
        count = _reach(names, at)
        if is_run(raw[8 * at : 8 * (at + count)]):
            yield at, count
        else:
            yield from ((place, 1) for place in range(at, at + count))
        at += count


def _reach(names: array[int], at: int) -> int:
    """Returns how many numbers from ``at`` on may be a run: where one has the value that it has in a run, those before
    it are taken to have theirs."""
    base = names[at] - at
    end = len(names)
    low, high = at, at + 1
    while high < end and names[high] - high == base:
        low, high = high, 2 * high - at
    high = min(high, end)
    while high - low > 1:
        middle = (low + high) // 2
        if names[middle] - middle == base:
            low = middle
        else:
            high = middle
    return low + 1 - at


def spans_of(times: array[int]) -> Sequence[tuple[int, int]]:
    """Returns each time with how often it occurs. Where times do not fall, equal ones are found by bisection."""
    spans: list[tuple[int, int]] = []
    at, end = 0, len(times)
    while at < end:
        when = times[at]
        behind = end if times[-1] == when else bisect_right(times, when, at)
        if behind <= at or times[at:behind] != array("Q", (when,)) * (behind - at):
            return [*spans, *Counter(times[at:]).items()]
        spans.append((when, behind - at))
        at = behind
    return spans
