"""What the application holds of a subscription and is done with, and where the next turn begins. Without I/O."""

from __future__ import annotations

from rstream_core.protocol.delivered import ReadChunk


class Progress:
    """The chunk that the application holds, and the offsets that it is done with, in this turn and in those before.

    A subscription without turns has a single one, which never ends.
    """

    def __init__(self) -> None:
        self.held: ReadChunk | None = None
        """The chunk that was handed out and is not finished."""
        self._overdue: ReadChunk | None = None
        """The chunk that was still held when a turn began: it belongs to an earlier turn."""
        self.processed: int | None = None
        """The last offset that the application is done with, and with all before it, in this turn."""
        self._failed: int | None = None
        """The first offset in this turn that the application could not process."""
        self._earlier: int | None = None
        """The last offset that was processed in an earlier turn; or the one before the start of a turn in which nothing
        was processed, where that start was looked up."""
        self._turn_start: int | None = None
        """The offset that was looked up as the start of this turn."""
        self._is_cut_short = False
        """Whether the last turn ended with a lost connection, so that its last offset may not have been stored."""

    def finish(self, offset: int | None = None) -> None:
        """The application is done with the chunk that it holds, which there must be: with all, or up to ``offset``."""
        chunk = self.held
        assert chunk is not None
        last = chunk.offset + len(chunk.messages) - 1 if offset is None else offset
        if self._failed is not None:
            last = min(last, self._failed - 1)
        if last >= chunk.offset and chunk is not self._overdue:
            self.processed = last
        self.held = self._overdue = None

    def fail(self, offset: int) -> None:
        """The application could not process this message of the chunk that it holds.

        ``processed`` does not pass it in this turn.
        """
        if self._failed is None and self.held is not self._overdue:
            self._failed = offset

    def take_back(self, behind: int | None) -> None:
        """The application is not done with what lies behind this offset in this turn, although it may have finished
        the chunks; None: with nothing of the turn. ``processed`` does not pass it any more in this turn.
        """
        first = 0 if behind is None else behind + 1
        self._failed = first if self._failed is None else min(first, self._failed)
        if self.processed is not None and self.processed >= first:
            self.processed = behind

    def is_overdue(self, chunk: ReadChunk) -> bool:
        """Whether the turn in which this chunk was handed out is over, and another one has begun."""
        return chunk is self._overdue

    def begin_turn(self) -> None:
        """A turn begins. What is held by now is none of it."""
        self._overdue = self.held
        self._turn_start = None
        self._failed = None  # the turn begins there, or before it
        if self.processed is not None:
            self._earlier, self.processed = self.processed, None

    def started_at(self, offset: int | None) -> None:
        """In this turn the subscription's own start means this offset; None where that is not known."""
        self._turn_start = offset

    def end_turn(self) -> None:
        """The turn ends in good order: what was processed could be stored."""
        self._is_cut_short = False

    def cut_turn(self) -> None:
        """The turn ends because its connection was lost."""
        self._is_cut_short = True
        if self.processed is None and self._turn_start is not None:
            self._earlier = self._turn_start - 1

    def last_done(self, stored: int | None) -> int | None:
        """Returns the offset behind which a turn begins; None where it begins at the subscription's own start.

        ``stored`` is the offset that is stored under the group's name, if any. It counts for more than what was
        processed here, since another member may have gone back on purpose; but not after a lost connection, which may
        have kept this member from storing what it had processed.
        """
        if stored is None:
            return self._earlier
        if self._is_cut_short and self._earlier is not None:
            return max(stored, self._earlier)
        return stored
