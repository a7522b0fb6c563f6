"""What decides when the messages of a run go on: how fast, or with which gaps. The clock is an argument."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from rstream_core.flow.block import Block

CATCH_UP = 0.1
"""Seconds that a rate makes up for after a late timer."""
SLICES = 50
"""Blocks a second: what comes at a rate comes evenly."""


class Admission(NamedTuple):
    """What a gate does with a block: a part may go now, the rest is offered again."""

    now: Block | None
    later: Block | None
    due: float
    """When ``later`` may go on, by the clock of ``now``."""


class Gate(Protocol):
    """Admits blocks."""

    def admit(self, block: Block, now: float) -> Admission: ...


class Rate:
    """Admits so many messages, or bytes, a second."""

    def __init__(self, per_second: float, sizes: Callable[[Sequence[bytes]], Sequence[int]] | None = None) -> None:
        """``sizes``: returns what each of some messages counts, 0 or more; None: each counts one."""
        self._per_second = per_second
        self._sizes = sizes
        self._most = max(per_second / SLICES, 1.0)
        self._due = 0.0

    def admit(self, block: Block, now: float) -> Admission:
        start = max(self._due, now - CATCH_UP)
        if start > now:
            return Admission(None, block, start)
        count, cost = self._fitting(block)
        part, rest = (block, None) if count == block.count else block.split(count)
        self._due = start + cost / self._per_second
        return Admission(part, rest, self._due)

    def _fitting(self, block: Block) -> tuple[int, int]:
        """Returns how many messages make one slice, one at least, and what they count, one at least. A sub-entry that
        is passed on whole counts to the slice that it begins in."""
        if self._sizes is None:
            count = block.boundary(min(int(self._most), block.count))
            return count, max(count, 1)
        totals = list(accumulate(self._sizes(block.messages)))
        count = block.boundary(min(max(bisect_right(totals, self._most), 1), block.count))
        return count, max(totals[count - 1], 1)


class Pace:
    """Admits messages with the gaps in time that they had, for ``--pace``.

    When a message is due follows from the times at which the broker stored it and the first one, so that small delays
    do not add up: what is late goes at once. The messages of a chunk have one time. They have to come in its order, as
    those of one stream do; a time that lies before an earlier one is past, too.
    """

    def __init__(self, speed: float = 1.0, on_wait: Callable[[float], None] | None = None) -> None:
        """``speed``: by how much the gaps are shortened, more than 0; 1.0 leaves them as they were. ``on_wait`` is told
        the seconds of each wait when it begins."""
        self._ms_per_second = 1000.0 * speed
        self._on_wait = on_wait
        self._start: tuple[int, float] | None = None
        """When the first message was stored, and when it came here."""
        self._told = 0.0
        """The end of the wait that was told of last."""

    def admit(self, block: Block, now: float) -> Admission:
        """Admits all of a block, or nothing. One without a time goes at once."""
        if block.timestamp is None:
            return Admission(block, None, now)
        if self._start is None:
            self._start = block.timestamp, now
        first, began = self._start
        due = began + (block.timestamp - first) / self._ms_per_second
        if due <= now:
            return Admission(block, None, now)
        if self._on_wait is not None and due > self._told:
            self._told = due
            self._on_wait(due - now)
        return Admission(None, block, due)
