"""The chunks of one subscription that have arrived, and how they are handed out piece by piece. Without I/O.

Chunks wait as they came, in the frames that they came in; the credits of the subscription bound their number. A chunk
that unpacks to more than a piece is handed out in pieces, each unpacked when it is asked for. Messages before the
requested start are dropped, and those that were handed out before.

Every chunk costs one credit, which is to be given back once nothing of the chunk is wanted any more: the methods return
how many credits that are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from rstream_core.checks import MAX_OFFSET
from rstream_core.errors import ChunkError, ProtocolError
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.chunk import (
    CHUNK_USER,
    HEADER,
    ChunkHeader,
    ChunkReader,
    PlacedChunk,
    PlainChunk,
    open_entries,
    open_placed,
    open_plain,
    parse_header,
)
from rstream_core.protocol.commands import Delivery
from rstream_core.protocol.delivered import DeliveredChunk, DeliveredMessages, ReadChunk, open_delivered
from rstream_core.protocol.placed import PlacedMessages
from rstream_core.types import Chunk, ConsumerOffsetSpecification, OffsetType

MORE_CHUNKS = 16
"""Waiting chunks that are tolerated above twice the credit. A broker that counts credits never sends that many."""


class Arrival(NamedTuple):
    """A chunk that waits."""

    header: ChunkHeader | None
    """None where it cannot be read. The error is raised when the chunk is to be handed out."""
    delivery: Delivery


_new_arrival: Callable[[tuple[ChunkHeader, Delivery]], Arrival] = partial(tuple.__new__, Arrival)
_new_plain_chunk: Callable[[tuple[str, int, int, PlainMessages, int | None]], PlainChunk] = partial(
    tuple.__new__, PlainChunk
)
"""Do the same as the names of the types, without their Python code: that is much for a chunk of few messages."""
_Opener: TypeAlias = Callable[[bytes, int, ChunkHeader], Sequence[bytes] | ChunkReader]
"""Takes the messages of a chunk out, or says where they are: ``open_entries``, or one like it."""


class Arrivals:
    """The queue of chunks of one subscription, and the chunk that is being handed out."""

    def __init__(self, stream: str, credit: int) -> None:
        """``credit`` is how many chunks the broker may send ahead."""
        self._stream = stream
        self._most = 2 * credit + MORE_CHUNKS
        self.waiting: deque[Arrival] = deque()
        """The chunks of which nothing was handed out yet, the oldest first."""
        self.has_pieces = False
        """Whether the chunk that was handed out last has more pieces."""
        self._reader: ChunkReader | None = None
        """The rest of that chunk, while it has."""
        self._timestamp = 0
        self._committed: int | None = None
        self._first_wanted = 0
        """The offset before which messages are dropped."""
        self._earliest: int | None = None
        """The timestamp before which chunks are dropped, until one is not."""
        self.seen = 0
        """The offset after the last message that was handed out."""
        self.is_behind = False
        """Set where a chunk ends before ``seen``. The reader of this resets it."""
        self.chunk_end = 0
        """The offset after the whole chunk that was handed out last, including pieces yet to come."""

    def start_at(self, spec: ConsumerOffsetSpecification) -> None:
        """Sets which messages or chunks before the requested start are dropped."""
        self._first_wanted = (spec.offset or 0) if spec.offset_type is OffsetType.OFFSET else 0
        self._earliest = spec.offset if spec.offset_type is OffsetType.TIMESTAMP else None

    def add(self, delivery: Delivery) -> tuple[ChunkHeader | None, int]:
        """Adds a chunk that has arrived. Returns its header, None where it cannot be read; and the offset after it.

        Raises ``ProtocolError`` where the broker sends far more than it was asked for.
        """
        if len(self.waiting) > self._most:
            raise ProtocolError(f"the broker sends more of stream {self._stream!r} than it was asked for")
        try:
            header = parse_header(delivery.frame, delivery.start)
        except ChunkError:
            self.waiting.append(Arrival(None, delivery))
            return None, 0
        self.waiting.append(_new_arrival((header, delivery)))
        return header, min(header.first_offset + header.records, MAX_OFFSET)

    def take(
        self,
        is_held: Callable[[int], bool] | None = None,
        *,
        as_plain: bool = False,
        placed: bool = False,
        as_delivered: bool = False,
    ) -> tuple[ReadChunk | None, int]:
        """Returns the next messages, or None where none are there; and how many credits are free by that.

        ``is_held`` says of a chunk's first offset whether it must not be handed out yet. ``as_plain``: a chunk whose
        messages are all plain comes as a ``PlainChunk``. ``placed``: each comes as a ``PlacedChunk``. ``as_delivered``:
        each comes whole, as a ``DeliveredChunk``. Raises ``ChunkError``, and drops everything: behind damaged data
        nothing is handed out.
        """
        free = 0
        try:
            while self._reader is not None or self.waiting:
                if self._reader is not None:
                    chunk = self._next_piece(self._reader)
                elif is_held is not None and _is_held(self.waiting[0], is_held):
                    break
                else:
                    opened: _Opener = open_plain if as_plain else open_entries
                    if placed or as_delivered:
                        opened = open_placed if placed else open_delivered
                    chunk = self._open(self.waiting.popleft(), opened)
                if chunk is not None:
                    return chunk, free
                free += 1
        except ChunkError:
            self.clear()
            raise
        return None, free

    def drop(self, *, is_holding: bool) -> int:
        """Drops everything: it belongs to a turn that is over. Returns how many credits are free by that.

        ``is_holding``: the application holds a piece of the chunk that is being handed out. Then the credit of that
        chunk is free when it has finished the piece.
        """
        free = len(self.waiting) + (self._reader is not None and not is_holding)
        self.clear()
        return free

    def clear(self) -> None:
        """Drops everything, where no credit is to be given back: the connection is lost, or the subscription ended."""
        self._reader, self.has_pieces = None, False
        self.waiting.clear()

    def drop_newest(self, most: int) -> int | None:
        """Drops the newest chunks until at most ``most`` wait. Returns the first offset that was dropped, if any."""
        first: int | None = None
        while len(self.waiting) > max(most, 0):
            header = self.waiting.pop().header
            first = first if header is None else header.first_offset
        return first

    # Inside.

    def _open(self, arrival: Arrival, opened: _Opener) -> ReadChunk | None:
        """Returns the first messages of a chunk that are wanted; None where it has none."""
        _, self._committed, frame, start = arrival.delivery
        header = arrival.header or parse_header(frame, start)
        found = opened(frame, start + HEADER.size, header)
        if header.kind != CHUNK_USER:
            return None
        offset, self._timestamp = header.first_offset, header.timestamp
        if self._earliest is not None:
            if self._timestamp < self._earliest:
                return None
            self._earliest = None
        self.chunk_end = end = offset + header.records
        if end <= self.seen:
            self.is_behind = True
        return self._next_piece(found) if isinstance(found, ChunkReader) else self._hand_out(offset, found)

    def _next_piece(self, reader: ChunkReader) -> ReadChunk | None:
        """Returns the next wanted messages of a chunk; None where it has no more."""
        piece = reader.read(self._first_wanted)
        self.has_pieces = not reader.is_done
        self._reader = reader if self.has_pieces else None
        return self._hand_out(self.chunk_end, []) if piece is None else self._hand_out(*piece)

    def _hand_out(self, offset: int, messages: Sequence[bytes]) -> ReadChunk | None:
        """Makes a ``Chunk`` of the messages that were not handed out before; None where there are none."""
        end = offset + len(messages)
        self.seen = max(self.seen, end)
        wanted = self._first_wanted
        if offset < wanted:
            messages = messages[wanted - offset :]
            offset = wanted
        if end > wanted:
            self._first_wanted = end  # no message is handed out twice
        if end <= offset:
            return None
        if isinstance(messages, PlainMessages):
            return _new_plain_chunk((self._stream, offset, self._timestamp, messages, self._committed))
        if isinstance(messages, PlacedMessages):
            return PlacedChunk(self._stream, offset, self._timestamp, messages, self._committed)
        if isinstance(messages, DeliveredMessages):
            return DeliveredChunk(self._stream, offset, self._timestamp, messages, self._committed)
        found = messages if isinstance(messages, list) else list(messages)
        return Chunk(self._stream, offset, self._timestamp, found, self._committed)


def _is_held(arrival: Arrival, is_held: Callable[[int], bool]) -> bool:
    return arrival.header is not None and is_held(arrival.header.first_offset)
