"""A chunk as it was delivered, for whoever keeps it as it is: its messages are counted, and not taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, overload

from rstream_core.protocol.chunk import HEADER, AnyChunk, ChunkHeader, open_placed


class DeliveredMessages(Sequence[bytes]):
    """Messages of a chunk, or some that follow each other. Whoever asks for one has them all taken out."""

    __slots__ = ("begin", "data", "header", "high", "low")

    def __init__(self, data: bytes, begin: int, header: ChunkHeader, low: int, high: int) -> None:
        self.data = data
        self.begin = begin
        """Where the chunk's entries begin in ``data``; its header is right before them."""
        self.header = header
        self.low = low
        """The place of the first of these messages in the chunk."""
        self.high = high
        """The place behind the last one."""

    @property
    def raw_header(self) -> bytes:
        """The bytes of the chunk's header."""
        return self.data[self.begin - HEADER.size : self.begin]

    @property
    def entries(self) -> memoryview:
        """The bytes of all entries of the chunk."""
        return memoryview(self.data)[self.begin : self.begin + self.header.data_length]

    def __len__(self) -> int:
        return self.high - self.low

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> DeliveredMessages: ...
    def __getitem__(self, at: int | slice) -> bytes | DeliveredMessages:
        places = range(self.low, self.high)[at]
        if isinstance(places, int):
            return self._all()[places]
        if places.step != 1:
            raise ValueError("messages of a chunk as it was delivered have no slices with a step")
        return DeliveredMessages(self.data, self.begin, self.header, places.start, max(places.start, places.stop))

    def _all(self) -> Sequence[bytes]:
        return open_placed(self.data, self.begin, self.header, verify_crc=False)


class DeliveredChunk(NamedTuple):
    """A ``Chunk`` that is kept as it was delivered."""

    stream: str
    offset: int
    timestamp: int
    messages: DeliveredMessages
    committed_chunk_id: int | None

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


ReadChunk: TypeAlias = AnyChunk | DeliveredChunk


def open_delivered(data: bytes, begin: int, header: ChunkHeader) -> DeliveredMessages:
    """Checks the checksum of a chunk, and that its entries are as many messages as it claims. Its sub-entries are not
    unpacked. The entries begin at ``begin`` in ``data``, right behind the header. Raises ``ChunkError``."""
    open_placed(data, begin, header)
    return DeliveredMessages(data, begin, header, 0, header.records)
