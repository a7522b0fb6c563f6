"""What limits how fast a run goes. The clock is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def __init__(self, per_second: float, size: Callable[[Sequence[bytes]], int] | None = None) -> None:
        """``size``: what messages count; None: each counts one."""
        self._per_second = per_second
        self._size = size
        self._most = max(per_second / SLICES, 1.0)
        self._due = 0.0

    def admit(self, block: Block, now: float) -> Admission:
        start = max(self._due, now - CATCH_UP)
        if start > now:
            return Admission(None, block, start)
        count = self._fitting(block)
        part, rest = (block, None) if count >= block.count else block.split(count)
        cost = part.count if self._size is None else max(self._size(part.messages), 1)
        self._due = start + cost / self._per_second
        return Admission(part, rest, self._due)

    def _fitting(self, block: Block) -> int:
        """Returns how many messages make one slice: one at least."""
        if self._size is None:
            return int(self._most)
        total = 0
        for place, message in enumerate(block.messages):
            total += self._size((message,))
            if total > self._most:
                return max(place, 1)
        return block.count
