"""Stages that leave out messages which a sink is not to get: bad ones, and those that it has already."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rstream_core.flow.acks import Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Step, Stop


class Bad(NamedTuple):
    """A message that cannot go to the sink."""

    place: int
    """Its place in the block."""
    reason: str
    """A few words for people."""


TellBad = Callable[[Block, Sequence[Bad]], Stop | None]
"""Is told which messages of a block are bad, by growing places. Returns None if they are left out, or the stop with
which the run ends at the first of them; then the others are not known to be bad."""


class LeaveOutBad:
    """The stage that leaves out bad messages, or ends the run at the first one."""

    def __init__(self, tell: TellBad, *find: Callable[[Block], Sequence[Bad]]) -> None:
        """``find``: each returns bad messages, by growing places. Where several find the same one, the first counts."""
        self._tell = tell
        self._find = find

    def __call__(self, block: Block) -> Step:
        found = [bad for find in self._find for bad in find(block)]
        if not found:
            return Step(block)
        reasons: dict[int, str] = {}
        for place, reason in found:
            reasons.setdefault(place, reason)
        bad = [Bad(place, reasons[place]) for place in sorted(reasons)]
        stop = self._tell(block, bad)
        if stop is None:
            kept = [place for place in range(block.count) if place not in reasons]
            dropped = [block.positions[place] for place in sorted(reasons)]
            return Step(block.select(kept) if kept else None, ((dropped, Verdict.BAD),))
        at = bad[0].place
        before, others = block.split(at)
        _, behind = others.split(1)
        dropped = [block.positions[at]]
        return Step(before if at else None, ((dropped, Verdict.BAD),), behind if behind.count else None, stop)


class LeaveOutKnown:
    """The stage that leaves out messages whose publishing ids a broker has. It would drop them, and confirm them."""

    def __init__(self, known: Sequence[int], tell: Callable[[Block], None]) -> None:
        """``known``: the last id that the broker has for each lane, 0 for none. ``tell`` gets what is left out."""
        self._known = known
        self._tell = tell

    def __call__(self, block: Block) -> Step:
        if block.ids is None:
            return Step(block)
        if block.lanes is None:
            count = bisect_right(block.ids, self._known[block.lane])
            known: Sequence[int] = range(count)
            kept: Sequence[int] = range(count, block.count)
        else:
            last = self._known
            places = list(enumerate(zip(block.ids, block.lanes, strict=True)))
            known = [place for place, (number, lane) in places if number <= last[lane]]
            kept = [place for place, (number, lane) in places if number > last[lane]]
        if not known:
            return Step(block)
        left_out = block.select(known)
        self._tell(left_out)
        return Step(block.select(kept) if kept else None, ((left_out.positions, Verdict.KNOWN),))
