"""What was handed out and is not done with: acknowledgements by ranges of positions, in any order.

A source makes one ``Acks`` for each stream, and a new one for each turn as single active consumer: what is done late in
a turn that is over changes nothing for the next one. Positions are the offsets of a stream, or the numbers of records.

Two figures come of it, and they are not the same. What was done, in any order, is what an account counts. Up to the
low-water mark everything is done: only that may be stored.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter


class Verdict(enum.Enum):
    """How a message was done with. Each message gets one."""

    DONE = "done"
    """The sink has it for good: written, confirmed, handled."""
    PASSED = "passed"
    """Not wanted: a stage has left it out."""
    KNOWN = "known"
    """Left out, since the sink has had it already."""
    BAD = "bad"
    """It cannot be read."""
    FAILED = "failed"
    """The sink did not take it, or nobody knows."""

    __hash__ = object.__hash__  # that of Enum is a Python function, called each time that an account is looked up


@dataclass(slots=True)
class Account:
    """``read == sum(by.values()) + open + left``, after every step."""

    read: int = 0
    """Messages that sources have handed out."""
    by: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    """Messages that are done with, by their verdict."""
    left: int = 0
    """Messages that were handed out and given back: whoever reads on later gets them again."""
    open: int = 0
    """Messages that were handed out, and are neither done with nor given back."""
    on_change: Callable[[], None] | None = None
    """Called after messages were done with, perhaps in a callback of a connection. Must not raise. A run sets it while
    it waits."""


class _Span:
    """Consecutive positions that were handed out together."""

    __slots__ = ("begin", "count", "marks", "open", "prefix")

    def __init__(self, begin: int, count: int) -> None:
        self.begin = begin
        self.count = count
        self.open = count
        self.prefix = 0
        """How many positions from the first one on are done."""
        self.marks: bytearray | None = None
        """A byte for each position, 1 where it is done; None as long as ``prefix`` says it all."""

    def mark(self, low: int, high: int) -> int:
        """Notes that the places ``low`` to ``high`` - 1 are done. Returns how many of them were not."""
        if self.marks is None and low <= self.prefix:
            fresh = max(high - self.prefix, 0)
            self.prefix += fresh
            self.open -= fresh
            return fresh
        marks = self._marks()
        fresh = marks.count(0, low, high)
        marks[low:high] = b"\1" * (high - low)
        self._marked(marks, fresh)
        return fresh

    def mark_some(self, positions: Sequence[int]) -> int:
        """Notes that these positions, all of them of this span, are done. Returns how many of them were not."""
        marks, begin = self._marks(), self.begin
        low, high = positions[0] - begin, positions[-1] - begin + 1
        before = marks.count(0, low, high)
        for position in positions:
            marks[position - begin] = 1
        fresh = before - marks.count(0, low, high)
        self._marked(marks, fresh)
        return fresh

    def _marks(self) -> bytearray:
        if self.marks is None:
            self.marks = bytearray(b"\1" * self.prefix + bytes(self.count - self.prefix))
        return self.marks

    def _marked(self, marks: bytearray, fresh: int) -> None:
        self.open -= fresh
        end = marks.find(0, self.prefix)
        self.prefix = self.count if end < 0 else end


_begin = attrgetter("begin")

JOIN_FROM = 64
"""Spans of one stream that are kept at least before those that are done are joined."""


class Acks:
    """The messages of one stream, in one turn."""

    __slots__ = ("_account", "_at", "_join_from", "_spans", "low", "open", "settled", "stream")

    def __init__(self, account: Account, stream: str = "", low: int | None = None) -> None:
        """``low``: a position up to which nothing will be handed out, if any is known."""
        self.stream = stream
        self.open = 0
        """Messages that were handed out, and are neither done with nor given back."""
        self.settled = 0
        """Messages that are done with."""
        self.low = low
        """The position up to which everything is done, which may be stored; None while that is nothing."""
        self._account = account
        self._spans: list[_Span] = []
        self._at = 0
        """Spans before this index are done."""
        self._join_from = JOIN_FROM

    def hand_out(self, begin: int, count: int) -> None:
        """Notes that ``count`` messages from ``begin`` on are handed out. ``begin`` lies behind all earlier ones."""
        if not count:
            return
        if len(self._spans) >= self._join_from:
            self._join()
        self._spans.append(_Span(begin, count))
        self.open += count
        self._account.open += count
        self._account.read += count

    def hand_out_some(self, positions: Sequence[int]) -> None:
        """As ``hand_out``, for positions that grow and may have holes between them. What lies in a hole is never handed
        out, and counts as done for ``low``; it takes a byte."""
        if not positions:
            return
        first, count = positions[0], positions[-1] - positions[0] + 1
        if count == len(positions):
            self.hand_out(first, count)
            return
        self.hand_out(first, count)
        span = self._spans[-1]
        span.open = len(positions)
        span.marks = bytearray(b"\1") * count
        for position in positions:
            span.marks[position - first] = 0
        holes = count - len(positions)
        self.open -= holes
        self._account.open -= holes
        self._account.read -= holes

    def done(self, positions: Sequence[int], verdict: Verdict = Verdict.DONE) -> int:
        """Notes that these messages are done with, once each. Returns for how many that is news.

        ``positions`` grow. Those that were not handed out here, and those that are done already, are left out.
        """
        if not positions:
            return 0
        count, first, behind = len(positions), positions[0], positions[-1] + 1
        span = self._spans[self._at] if self._at < len(self._spans) else None
        if behind - first != count:
            fresh = self._mark_some(positions)
        elif span is not None and span.marks is None and first == span.begin + span.prefix and count <= span.open:
            # The usual case, which the other one would do as well: what comes next in the first span that is not done.
            span.prefix += count
            span.open -= count
            fresh = count
        else:
            fresh = self._mark(first, behind)
        if fresh:
            account = self._account
            self.open -= fresh
            self.settled += fresh
            account.open -= fresh
            account.by[verdict] += fresh
            if span is not None and span.open:
                if span.prefix:
                    self.low = span.begin + span.prefix - 1
            else:
                self._shed()
            if account.on_change is not None:
                account.on_change()
        return fresh

    def give_back(self) -> int:
        """Notes that nobody will be done with what is open. Returns how many messages that is. ``low`` stays."""
        open_ = self.open
        self._spans.clear()
        self._at = 0
        self.open = 0
        self._account.open -= open_
        self._account.left += open_
        return open_

    def skip_to(self, position: int) -> None:
        """Notes that no message up to ``position`` will come, if nothing is open: it may then be stored."""
        if not self.open and (self.low is None or position > self.low):
            self.low = position

    def _join(self) -> None:
        """Joins neighbours that are done: one message that stays open must not keep all behind it in memory."""
        joined: list[_Span] = []
        for span in self._spans[self._at :]:
            if span.open or not joined or joined[-1].open:
                joined.append(span)
            else:
                before = joined[-1]
                before.count = before.prefix = span.begin + span.count - before.begin
                before.marks = None
        self._spans, self._at = joined, 0
        self._join_from = max(2 * len(joined), JOIN_FROM)

    def _mark(self, begin: int, end: int) -> int:
        """Marks the positions ``begin`` to ``end`` - 1. Returns how many of them were open."""
        fresh = 0
        for span in self._spans_of(begin, end):
            low, high = max(begin - span.begin, 0), min(end - span.begin, span.count)
            if low < high:
                fresh += span.mark(low, high)
        return fresh

    def _mark_some(self, positions: Sequence[int]) -> int:
        """As ``_mark``, for positions with holes between them."""
        fresh = 0
        for span in self._spans_of(positions[0], positions[-1] + 1):
            low = bisect_left(positions, span.begin)
            high = bisect_left(positions, span.begin + span.count, low)
            if low < high:
                fresh += span.mark_some(positions[low:high])
        return fresh

    def _spans_of(self, begin: int, end: int) -> Iterator[_Span]:
        """Yields the spans that may have positions from ``begin`` to ``end`` - 1."""
        spans = self._spans
        at = max(bisect_right(spans, begin, lo=self._at, key=_begin) - 1, self._at)
        while at < len(spans) and spans[at].begin < end:
            yield spans[at]
            at += 1

    def _shed(self) -> None:
        """Drops spans that are done from the front: at once from what is looked at, from memory in bulk. Brings ``low``
        up to date."""
        spans = self._spans
        while self._at < len(spans):
            span = spans[self._at]
            if span.prefix:
                self.low = span.begin + span.prefix - 1
            if span.open:
                break
            self._at += 1
        if 2 * self._at >= len(spans):
            del spans[: self._at]
            self._at = 0
