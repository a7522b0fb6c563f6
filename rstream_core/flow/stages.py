"""What divides a block on its way: synchronous functions without I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from rstream_core.flow.acks import Verdict
from rstream_core.flow.block import Block


class Stop(NamedTuple):
    """Why a run ends."""

    reason: str
    """A few words for people."""
    kind: str = "end"
    """One of ``end`` (of the source), ``count``, ``until``, ``idle``, ``timeout``, ``signal``, ``sink closed``,
    ``bad message``, ``gap``, ``error``; the exit code is the caller's business."""
    error: BaseException | None = None


class Step(NamedTuple):
    """What a stage has made of a block. ``out``, ``dropped`` and ``rest`` together are the block."""

    out: Block | None
    """Goes on to the next stage."""
    dropped: Sequence[tuple[Sequence[int], Verdict]] = ()
    """Positions that are done with here, and why. The run acknowledges them."""
    rest: Block | None = None
    """Not done with. The stage gets it again after the sink has taken ``out``; with ``stop`` it stays open, and its
    source gives it back at the end. Without ``out`` there is a rest only with ``stop``."""
    stop: Stop | None = None
    """Ends the run after ``out``."""


class Stage(Protocol):
    """Divides a block."""

    def __call__(self, block: Block) -> Step | Block:
        """Returns what it has made of the block. A block, this one or another with the same messages, goes on as a
        whole: no ``Step`` is made for that."""


class Choice(NamedTuple):
    """Which messages of a block are wanted, by their places in it: 0 is the first."""

    places: Sequence[int]
    """The places of the wanted messages and of the unreadable ones. They grow."""
    unreadable: Collection[int] = ()
    """The places of messages that could not be read, so that nobody knows whether they are wanted."""


class Chooser(Protocol):
    """Decides which messages of a block are wanted."""

    def choose(self, block: Block) -> Choice:
        """Returns the choice. Raises nothing for a message that cannot be read: it is ``Choice.unreadable``."""


class Select:
    """Lets the messages pass that a chooser wants, and those that it cannot read.

    Several of these in a row let a message pass that none of them does not want. So one that the first cannot read and
    the second does not want is left out, whatever their order.
    """

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def __call__(self, block: Block) -> Step:
        places, unreadable = self._chooser.choose(block)
        if unreadable:
            found = {block.positions[place] for place in unreadable}
            block = replace(block, unreadable=found.union(block.unreadable))
        if len(places) == block.count:
            return Step(block)
        if not places:
            return Step(None, ((block.positions, Verdict.PASSED),))
        wanted = set(places)
        others = [position for place, position in enumerate(block.positions) if place not in wanted]
        return Step(block.select(places), ((others, Verdict.PASSED),))


class Count:
    """Ends a run after a number of messages: ``--count``.

    What has turned out to be bad behind this stage does not count. So a block is let through as far as there is room,
    and the rest waits until it is known what became of that.
    """

    def __init__(self, most: int, reason: str, turned_bad: Callable[[], int] | None = None) -> None:
        """``most`` messages. ``reason``: of the stop. ``turned_bad``: how many of those let through do not count."""
        self._most = most
        self._turned_bad = turned_bad
        self._stop = Stop(reason, "count")
        self._passed = 0
        """Messages let through."""

    @property
    def _room(self) -> int:
        return self._most - self._passed + (0 if self._turned_bad is None else self._turned_bad())

    def __call__(self, block: Block) -> Step:
        room = self._room
        if room <= 0:
            return Step(None, (), block, self._stop)
        if room >= block.count:
            self._passed += block.count
            return Step(block)
        out, rest = block.split(room)
        self._passed += room
        return Step(out, (), rest)

    def end(self) -> Stop | None:
        """Returns the stop once the number is reached, for ``Run``: no further block need come."""
        return self._stop if self._room <= 0 else None
