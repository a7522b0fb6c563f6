"""One stream on disk: segments of chunks, to which the newest one is added, and cursors that read them.

``segment`` has the layout, and ``scan`` what is done when a log is opened. Only the newest segment is written to. A
subscription's start is looked up in the index on disk: memory does not grow with the number of chunks.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rstream_core.broker import bloom
from rstream_core.broker.disk import sync_directory, write_all
from rstream_core.broker.scan import Dropped, Scan
from rstream_core.broker.segment import (
    INDEX_HEAD,
    INDEX_RECORD,
    SUM_AT,
    Segment,
    Span,
    header_sum,
    write_range,
)
from rstream_core.broker.tracking import Tracking, sequence_records
from rstream_core.protocol.chunk import (
    CHUNK_SNAPSHOT,
    CHUNK_TRACKING,
    CHUNK_USER,
    HEADER,
    MAGIC_AND_VERSION,
    SEGMENT_HEAD,
    parse_header,
)

SEGMENT_SIZE = 500_000_000
MAX_CHUNKS = 256_000
"""The most chunks of a segment. A new one begins after that many, or when the segment is large enough."""
EPOCH = 1

LARGE = 64 * 1024
"""Bytes from which on a chunk's data is not read, but left to who sends it. Smaller chunks are read in blocks of it."""

_Chunk = tuple[int, Sequence[bytes], int, bytes, bytes]
"""Its kind, its entries, the number of records in them, its trailer, its filter."""


@dataclass(slots=True)
class NewChunk:
    """Messages that are to be a chunk."""

    entries: list[bytes] = field(default_factory=list)
    """Each with its size."""
    records: int = 0
    """Messages in them."""
    sequences: dict[str, int] = field(default_factory=dict)
    """The last publishing ids in it, by name."""
    filters: set[str] = field(default_factory=set)
    """The filter values in it; the empty one for messages without, where others have one."""


class Log:
    """The log of one stream. Made by ``create`` or ``open``. For one thread."""

    def __init__(self, directory: Path, *, segment_size: int, filter_size: int, durable: bool) -> None:
        self.directory = directory
        self.segment_size = segment_size
        self.filter_size = filter_size
        self.durable = durable
        """Whether to sync directories, so that new file names survive a crash of the machine."""
        self.tracking = Tracking()
        self.segments: list[Segment] = []
        self.next_offset = 0
        self.committed = 0
        """Readers see only offsets below this."""
        self.committed_chunk_id: int | None = None
        self.last_chunk_id: int | None = None
        self.last_user_chunk: tuple[Segment, int, int] | None = None
        """Segment, position and first offset of the last chunk of messages."""
        self.dropped: list[Dropped] = []
        self.missing: list[str] = []
        """What was not there when the log was opened, a line each."""

    @classmethod
    def create(
        cls, directory: Path, *, segment_size: int = SEGMENT_SIZE, filter_size: int = 16, durable: bool = False
    ) -> Log:
        """Makes an empty log in an empty directory."""
        log = cls(directory, segment_size=segment_size, filter_size=filter_size, durable=durable)
        log._begin_segment(0)
        return log

    @classmethod
    def open(
        cls, directory: Path, *, segment_size: int = SEGMENT_SIZE, filter_size: int = 16, durable: bool = False
    ) -> Log:
        """Opens the intact part of a log; see ``dropped`` for the rest."""
        log = cls(directory, segment_size=segment_size, filter_size=filter_size, durable=durable)
        scan = Scan(directory, durable=durable)
        log.segments, log.tracking, log.next_offset = scan.segments, scan.tracking, scan.next_offset
        log.last_chunk_id, log.last_user_chunk = scan.last_chunk_id, scan.last_user_chunk
        log.dropped, log.missing = scan.dropped, scan.missing
        if not log.segments:
            log._begin_segment(log.next_offset)
        for stray in set(directory.glob("*.index")) - {segment.index_path for segment in log.segments}:
            stray.unlink()
        write_range(directory, log.segments[0], log.active, durable=durable)
        log.commit()
        log.close()
        return log

    # Writing.

    def commit(self, offset: int | None = None, chunk_id: int | None = None) -> None:
        """Lets readers see all written chunks, or those below ``offset``, of which ``chunk_id`` is the last."""
        self.committed = self.next_offset if offset is None else max(self.committed, offset)
        self.committed_chunk_id = self.last_chunk_id if offset is None else chunk_id

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def first_chunk_id(self) -> int | None:
        for segment in self.segments:
            if segment.chunks:
                return segment.first_offset
        return None

    def append(self, chunks: Sequence[NewChunk], timestamp: int) -> int:
        """Writes chunks up to the one that makes the newest segment full, at least one; how many.

        Raises ``OSError``; the log is then as it was.
        """
        self._write_snapshot(timestamp)
        written = self._write(
            timestamp,
            [
                (
                    CHUNK_USER,
                    chunk.entries,
                    chunk.records,
                    sequence_records(chunk.sequences) if chunk.sequences else b"",
                    bloom.build(chunk.filters, self.filter_size) if chunk.filters else b"",
                )
                for chunk in chunks
            ],
        )
        for chunk, chunk_id in zip(chunks, written, strict=False):
            for reference, sequence in chunk.sequences.items():
                self.tracking.set_sequence(reference, chunk_id, sequence)
        return len(written)

    def store_offsets(self, records: bytes, timestamp: int) -> None:
        """Writes a chunk of ``offset_records``. If it raises ``OSError``, the log is unchanged."""
        self._write_snapshot(timestamp)
        (chunk_id,) = self._write(timestamp, [(CHUNK_TRACKING, [_entry(records)], 1, b"", b"")])
        self.tracking.apply(chunk_id, records)

    @property
    def is_full(self) -> bool:
        """Whether the newest segment holds something, and is large enough."""
        segment = self.active
        return segment.chunks > 0 and (segment.size >= self.segment_size or segment.chunks >= MAX_CHUNKS)

    def roll(self, timestamp: int) -> None:
        """Begins a new segment. If it raises ``OSError``, the log goes on in the old segment or in the new one."""
        full = self.active
        self._begin_segment(self.next_offset)
        if not full.readers:
            full.close()
        self._write_snapshot(timestamp)

    @property
    def lacks_snapshot(self) -> bool:
        """Whether what is remembered lies only in older segments."""
        return not self.active.chunks and bool(self.tracking)

    def _write_snapshot(self, timestamp: int) -> None:
        """Where it is due: before anything else in a segment. Raises ``OSError``; it is due then as before."""
        if self.lacks_snapshot:
            first = self.first_chunk_id or 0
            for reference in [name for name, offset in self.tracking.offsets.items() if offset < first]:
                del self.tracking.offsets[reference]  # nothing can begin there any more
        if self.lacks_snapshot:
            self._write(timestamp, [(CHUNK_SNAPSHOT, [_entry(self.tracking.snapshot())], 1, b"", b"")])

    def _write(self, timestamp: int, chunks: Sequence[_Chunk]) -> list[int]:
        """The first offsets of those that were written, in one go: up to the one that makes the segment full."""
        segment = self.active
        timestamp = max(timestamp, segment.last_timestamp)
        chunk_id, position = self.next_offset, segment.size
        parts: list[bytes] = []
        index: list[bytes] = []
        counts: list[tuple[int, int, int, int]] = []
        for kind, entries, records, trailer, bits in chunks:
            data = b"".join(entries)
            header = HEADER.pack(
                *(MAGIC_AND_VERSION, kind, len(entries), records, timestamp, EPOCH, chunk_id),
                *(zlib.crc32(data), len(data), len(trailer), len(bits)),
            )
            parts += (header[:SUM_AT], header_sum(header, bits, trailer), bits, data, trailer)
            index.append(INDEX_RECORD.pack(chunk_id, timestamp, EPOCH, position, kind))
            size = HEADER.size + len(bits) + len(data) + len(trailer)
            counts.append((kind, chunk_id, records, size))
            chunk_id += records
            position += size
            if position >= self.segment_size or segment.chunks + len(counts) >= MAX_CHUNKS:
                break
        # The index first: without its chunk it is nothing, and a chunk that is whole counts when the log is opened.
        write_all(segment.index_fd, b"".join(index), len(INDEX_HEAD) + segment.chunks * INDEX_RECORD.size)
        try:
            write_all(segment.fd, b"".join(parts), segment.size)
        except OSError:
            with contextlib.suppress(OSError):  # else, when it is opened, it is the beginning of a chunk, or damage
                os.ftruncate(segment.fd, segment.size)
            raise
        # Nothing of them counts before this line.
        for kind, first, records, size in counts:
            if kind == CHUNK_USER:
                self.last_user_chunk = segment, segment.size, first
            segment.add(first, records, timestamp, size)
            self.last_chunk_id = first
        self.next_offset = segment.next_offset
        return [first for _, first, _, _ in counts]

    def _begin_segment(self, offset: int) -> None:
        segment = Segment(self.directory, offset)
        if self.segments:
            segment.last_timestamp = self.active.last_timestamp
        segment.create()
        self.segments.append(segment)
        write_range(self.directory, self.segments[0], segment, durable=self.durable)
        if self.durable:
            sync_directory(self.directory)

    def retain(self, max_bytes: int | None, max_age: int | None, now: int) -> None:
        """Drops whole segments from the oldest on, never the newest. Bytes, milliseconds. Raises ``OSError``."""
        while len(self.segments) > 1 and not self.lacks_snapshot:
            oldest = self.segments[0]
            too_much = max_bytes is not None and self.size > max_bytes
            too_old = max_age is not None and oldest.last_timestamp < now - max_age
            if not too_much and not too_old:
                return
            write_range(self.directory, self.segments[1], self.active, durable=self.durable)
            oldest.unlink()
            del self.segments[0]
            if not oldest.readers:
                oldest.close()
            if self.last_user_chunk is not None and self.last_user_chunk[0] is oldest:
                self.last_user_chunk = None

    def close(self) -> None:
        for segment in self.segments:
            segment.close()

    def close_unused(self) -> None:
        """Closes the file handles of segments without readers."""
        for segment in self.segments:
            if not segment.readers:
                segment.close()

    # Reading.

    def first(self) -> Cursor:
        return Cursor(self, self.segments[0], len(SEGMENT_HEAD), self.segments[0].first_offset)

    def last(self) -> Cursor:
        """Returns a cursor at the last chunk of messages, or at the end where there is none."""
        if self.last_user_chunk is None or self.last_user_chunk[2] >= self.committed:
            return self.next()
        return Cursor(self, *self.last_user_chunk)

    def next(self) -> Cursor:
        """Returns a cursor behind the last committed chunk."""
        if self.committed < self.next_offset:
            return self.at(self.committed)
        return Cursor(self, self.active, self.active.size, self.next_offset)

    def at(self, offset: int) -> Cursor:
        """Returns a cursor at the chunk that holds an offset.

        It is at the first chunk where retention took the offset, and at the end where the offset is yet to come.
        """
        if offset >= self.next_offset:
            return self.next()
        for segment in reversed(self.segments):
            if segment.chunks and segment.first_offset <= offset:
                first, position = segment.holding(offset)
                return Cursor(self, segment, position, first)
        return self.first()

    def since(self, timestamp: int) -> Cursor:
        """Returns a cursor at the first chunk that is not older than ``timestamp``, or at the end."""
        for segment in self.segments:
            if segment.chunks and segment.last_timestamp >= timestamp:
                first, position = segment.since(timestamp)
                return Cursor(self, segment, position, first)
        return self.next()


class Cursor:
    """Iterates over the committed chunks, across segments. Must be closed with ``close``.

    It reads ahead in blocks, so that small chunks do not need a read each. It keeps its segment's file open, even after
    retention has deleted it.
    """

    def __init__(self, log: Log, segment: Segment, position: int, offset: int) -> None:
        self._log = log
        self._segment = segment
        self._position = position
        self.offset = offset
        """The first offset of the next chunk."""
        self._block = b""
        self._block_at = 0
        self._ahead = LARGE
        """How many bytes to read ahead: only a header where chunks are large."""
        segment.readers += 1

    def close(self) -> None:
        self._leave(self._segment)

    def _leave(self, segment: Segment) -> None:
        segment.readers -= 1
        if not segment.readers and segment is not self._log.active:
            segment.close()

    def next_chunk(
        self, filters: frozenset[str] = frozenset(), match_unfiltered: bool = False, patience: int = 4096
    ) -> tuple[bytes, memoryview | Span] | None:
        """Returns header and data of the next chunk of messages, as in a Deliver; None where there is none yet.

        Data of ``LARGE`` bytes or more is a ``Span``.

        With ``filters``, skips chunks that hold none of these values. After ``patience`` skipped chunks, returns None
        while ``is_behind`` is still True. Raises ``ChunkError`` or ``OSError`` where the file was changed or damaged.
        """
        while self.is_behind():
            if self._position >= self._segment.size and not self._go_to_next_segment():
                return None
            head = self._read(HEADER.size)
            header = parse_header(head)
            body = HEADER.size + header.bloom_size
            here = self._position
            size = body + header.data_length + header.trailer_length
            passed = header.kind != CHUNK_USER
            if not passed and filters:
                bits = self._read(body)[HEADER.size :]
                passed = not bloom.wanted(bits, filters, match_unfiltered)
            if passed:
                self._position += size
                self.offset = header.first_offset + header.records
                patience -= 1
                if patience <= 0:
                    return None
                continue
            data: memoryview | Span
            if header.data_length >= LARGE:
                self._ahead = HEADER.size
                data = Span(self._segment, here + body, header.data_length)
            else:
                self._ahead = LARGE
                self._read(body + header.data_length, copy=False)
                start = here - self._block_at + body
                data = memoryview(self._block)[start : start + header.data_length]
            self._position += size
            self.offset = header.first_offset + header.records
            return head[:SUM_AT] + b"\0\0\0", data
        return None

    def is_behind(self) -> bool:
        """Returns whether there are committed chunks in front of the cursor."""
        return self.offset < self._log.committed

    def _go_to_next_segment(self) -> bool:
        for segment in self._log.segments:
            if segment.first_offset >= self._segment.next_offset and segment is not self._segment and segment.chunks:
                segment.readers += 1
                self._leave(self._segment)
                self._segment = segment
                self._position = len(SEGMENT_HEAD)
                self.offset = segment.first_offset
                self._block = b""
                return True
        return False

    def _read(self, size: int, *, copy: bool = True) -> bytes:
        """Returns the next ``size`` bytes; without ``copy``, only makes sure that the block holds them."""
        start = self._position - self._block_at
        if not (self._block and start >= 0 and start + size <= len(self._block)):
            available = self._segment.size - self._position
            self._block = self._segment.read(self._position, min(max(size, self._ahead), available))
            self._block_at = self._position
            start = 0
        return self._block[start : start + size] if copy else b""


def _entry(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data
