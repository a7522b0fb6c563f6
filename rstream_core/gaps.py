"""What retention takes from a stream before it is read: found where offsets that arrive leave some out.

Offsets that are left out are no loss by themselves. The broker's own records, such as stored offsets, take offsets and
are never delivered. So a jump is a doubt, and the offset with which the stream begins by now settles it.

A reader jumps over what retention took only where it comes to the end of a segment (osiris, ``src/osiris_log.erl``,
``read_header0``): to the offset with which the stream begins at that moment. Within a segment it reads on, even when
the file has been unlinked. So where the stream was known to begin later than here, a jump to before that place is one
inside such a file, over the broker's records.

Without I/O: ``Subscription`` asks the node that it reads from, and no other: each replica has a retention of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Gap(NamedTuple):
    """Offsets of a stream that retention took before they were read.

    Some of them may have been the broker's own records, which hold no message: nobody can tell any more.
    """

    stream: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"offsets {self.first} to {self.last} of stream {self.stream!r} are gone: retention took them"


GapListener = Callable[[Gap], None]
"""Called on the event loop before anything behind the gap is handed out; must not wait."""


class Doubt(NamedTuple):
    """A jump that may be a gap."""

    expected: int
    arrived: int
    """The first offset of the chunk that came instead."""
    begins: int
    """Where the stream was known to begin when it came."""


class GapWatch:
    """Where one subscription is, what it has doubts about, and what the broker's answers mean for them.

    ``follows``: whether each chunk is to follow the one before it. Not so where the broker leaves some out (filters):
    then only the place where it starts can be judged.
    """

    def __init__(self, *, follows: bool) -> None:
        self._follows = follows
        self._expected: int | None = None
        self._begins = 0
        """The stream's first offset, as the node told it last."""
        self._told = 0
        """Gaps have been told up to here."""
        self._barred: int | None = None
        self._doubts: deque[Doubt] = deque()

    def start(self, offset: int | None, *, keep: bool = False) -> None:
        """Reading starts at an offset; None: where the broker says. Another node may read from here on.

        ``keep``: what has arrived before that offset is still to be handed out, and so are the doubts about it.
        """
        self._expected = offset
        self._begins = 0
        kept = [doubt for doubt in self._doubts if keep and offset is not None and doubt.arrived < offset]
        self._doubts = deque(kept)

    def started(self, offset: int, begins: int) -> tuple[int, int] | None:
        """Where the stream began just before it was read from ``offset`` on. What is gone, first and last offset."""
        self._begins = begins
        if self._expected is not None:
            self._expected = max(self._expected, begins)
        return self._tell(offset, begins)

    def arrive(self, first: int, end: int) -> bool:
        """A chunk has arrived, from its first offset up to before ``end``. Whether there is something to ask now."""
        expected = self._expected
        if not self._follows:
            self._expected = None
            return False
        is_doubtful = expected is not None and first > expected and not expected < self._begins > first
        if is_doubtful:
            assert expected is not None
            self._doubts.append(Doubt(expected, first, self._begins))
        self._expected = end if expected is None else max(expected, end)
        return is_doubtful

    @property
    def doubts(self) -> Sequence[Doubt]:
        """Those to be settled, a snapshot."""
        return tuple(self._doubts)

    def holds(self, offset: int) -> bool:
        """Whether the chunk at this offset is not to be handed out, now or ever."""
        if self._barred is not None and offset >= self._barred:
            return True
        return bool(self._doubts) and offset >= self._doubts[0].arrived

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is held."""
        return self._barred is None and not self._doubts

    def bar(self, offset: int) -> None:
        """Nothing is handed out any more from this offset on."""
        self._barred = offset

    def settle(self, asked: Sequence[Doubt], begins: int | None) -> list[tuple[int, int]]:
        """Settles those of the doubts that are still there, by where the stream began when all of them had come.

        None: that is not known, and nothing can be said. Returns what is gone, first and last offsets.
        """
        gone = []
        for doubt in asked:
            if not self._doubts or self._doubts[0] is not doubt:
                continue
            self._doubts.popleft()
            if begins is None:
                continue
            if begins > doubt.arrived == doubt.expected + 1 and doubt.begins <= doubt.expected:
                # Retention is beyond the chunk already, so that may have been an open segment's record. A single offset
                # is what those are; a gap has whole segments.
                continue
            found = self._tell(doubt.expected, min(max(begins, doubt.begins), doubt.arrived))
            if found is not None:
                gone.append(found)
        if begins is not None:
            self._begins = max(self._begins, begins)
        return gone

    def _tell(self, first: int, end: int) -> tuple[int, int] | None:
        first = max(first, self._told)
        if first >= end:
            return None
        self._told = end
        return first, end - 1
