"""Finds gaps: offsets that retention took from a stream before they were read.

A jump in the offsets of the chunks that arrive is not always a loss: the broker's own records, such as stored offsets,
take offsets and are never delivered. So each jump is a doubt, and the stream's first offset at that time settles it.

The broker's reader skips offsets that retention took only at the end of a segment (osiris, ``src/osiris_log.erl``,
``read_header0``). It then goes on at the stream's first offset of that moment. Within a segment it reads on, even after
the file was unlinked. So a jump that ends before the first offset that the stream was known to have is a jump inside
such a file, over the broker's records.

This module does no I/O. ``Subscription`` asks the node that it reads from, since each replica has its own retention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Gap(NamedTuple):
    """Offsets of a stream that retention took before they were read.

    Some of them may have been the broker's own records, which hold no message. That cannot be found out any more.
    """

    stream: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"offsets {self.first} to {self.last} of stream {self.stream!r} are gone: retention took them"


GapListener = Callable[[Gap], None]
"""Called on the event loop before messages behind the gap are handed out; must not wait."""


class Doubt(NamedTuple):
    """A jump that may be a gap."""

    expected: int
    """The offset that should have come next."""
    arrived: int
    """The first offset of the chunk that came instead."""
    begins: int
    """The stream's first offset, as it was known when that chunk came."""


class GapWatch:
    """How far one subscription is, and its open doubts. Turns the broker's answers into gaps.

    ``follows``: whether each chunk should follow the one before it. False where the broker leaves chunks out (filters):
    then only a gap at the start can be found.
    """

    def __init__(self, *, follows: bool) -> None:
        self._follows = follows
        self._expected: int | None = None
        self._begins = 0
        """The stream's first offset in the node's last answer."""
        self._told = 0
        """The end of the last gap that was returned: no offset below it is reported again."""
        self._barred: int | None = None
        self._doubts: deque[Doubt] = deque()
        self.is_quiet = True
        """Whether no chunk has to be held."""

    def start(self, offset: int | None, *, keep: bool = False) -> None:
        """Notes that reading starts at ``offset``, perhaps on another node. None: the start is not known.

        ``keep``: chunks that arrived before that offset will still be handed out, so the doubts about them stay open.
        """
        self._expected = offset
        self._begins = 0
        kept = [doubt for doubt in self._doubts if keep and offset is not None and doubt.arrived < offset]
        self._doubts = deque(kept)
        self._note_quiet()

    def started(self, offset: int, begins: int) -> tuple[int, int] | None:
        """Takes the stream's first offset just before reading starts at ``offset``.

        Returns the first and the last offset of the gap at the start; None where there is none.
        """
        self._begins = begins
        if self._expected is not None:
            self._expected = max(self._expected, begins)
        return self._tell(offset, begins)

    def arrive(self, first: int, end: int) -> bool:
        """Notes an arrived chunk with offsets ``first`` to ``end`` - 1. Returns whether it has raised a doubt."""
        expected = self._expected
        if not self._follows:
            self._expected = None
            return False
        is_doubtful = expected is not None and first > expected and not expected < self._begins > first
        if is_doubtful:
            assert expected is not None
            self._doubts.append(Doubt(expected, first, self._begins))
            self.is_quiet = False
        self._expected = end if expected is None else max(expected, end)
        return is_doubtful

    @property
    def doubts(self) -> Sequence[Doubt]:
        """A snapshot of the open doubts."""
        return tuple(self._doubts)

    def holds(self, offset: int) -> bool:
        """Returns whether the chunk at this offset must not be handed out, yet or at all."""
        if self._barred is not None and offset >= self._barred:
            return True
        return bool(self._doubts) and offset >= self._doubts[0].arrived

    def bar(self, offset: int) -> None:
        """Makes ``holds`` return True for all chunks from this offset on."""
        self._barred = offset
        self._note_quiet()

    def settle(self, asked: Sequence[Doubt], begins: int | None) -> list[tuple[int, int]]:
        """Settles the doubts ``asked`` that are still open, and returns the gaps among them: first and last offsets.

        ``begins`` is the stream's first offset at a time when all these chunks had arrived. With None, which means
        unknown, the doubts are dropped.
        """
        gone = []
        for doubt in asked:
            if not self._doubts or self._doubts[0] is not doubt:
                continue
            self._doubts.popleft()
            if begins is None:
                continue
            if begins > doubt.arrived == doubt.expected + 1 and doubt.begins <= doubt.expected:
                # Retention has passed the chunk already, so the jump may have been inside an open segment, over a
                # record of the broker's. Such a record takes a single offset, while a gap has whole segments.
                continue
            found = self._tell(doubt.expected, min(max(begins, doubt.begins), doubt.arrived))
            if found is not None:
                gone.append(found)
        if begins is not None:
            self._begins = max(self._begins, begins)
        self._note_quiet()
        return gone

    def _note_quiet(self) -> None:
        self.is_quiet = self._barred is None and not self._doubts

    def _tell(self, first: int, end: int) -> tuple[int, int] | None:
        first = max(first, self._told)
        if first >= end:
            return None
        self._told = end
        return first, end - 1
