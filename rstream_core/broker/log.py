"""One stream on disk: segments of chunks, each with an index, in the layout of osiris (``src/osiris_log.erl``).

A segment is ``OSIL`` and a version, then chunks: the header, a Bloom filter, the data, a trailer. Its index is ``OSII``
and a version, then a record of 29 bytes for each chunk: offset, time, epoch, position, kind. Files are named after
their first offset. Only the newest segment is written to.

A subscription's start is looked up in the index on disk: memory does not grow with the number of chunks.

``Log.open`` reads everything there is and believes nothing: the log ends before the first chunk that is not whole and
right. What comes then is put aside, as files ending in ``.damaged``, and told of; a last chunk that was not written to
its end is cut off. A file ``segments`` says which is the oldest and which the newest, so that one that is missing is
told of, too; a folder of an earlier version has none.

osiris checks the data of a chunk; here the three bytes of the header that it reserves hold a checksum of all the rest,
so that a changed bit is found wherever it is. They are zero on the wire.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rstream_core.broker import bloom
from rstream_core.broker.tracking import Tracking, sequence_records
from rstream_core.errors import ChunkError
from rstream_core.protocol.chunk import CHUNK_USER, HEADER, MAGIC_AND_VERSION, MAX_DATA, parse_header

CHUNK_TRACKING, CHUNK_SNAPSHOT = 1, 2
SEGMENT_HEAD = b"OSIL\0\0\0\1"
INDEX_HEAD = b"OSII\0\0\0\1"
INDEX_RECORD = struct.Struct(">QqQIB")
SEGMENT_SIZE = 500_000_000
MAX_CHUNKS = 256_000
"""The most chunks of a segment. A new one begins after that many, or when the segment is large enough."""
EPOCH = 1

LARGE = 64 * 1024
"""Bytes from which on a chunk's data is not read, but left to who sends it. Smaller chunks are read in blocks of it."""
_RANGE = struct.Struct(">QQ")
"""The first offsets of the oldest and the newest segment; a checksum of it follows."""
_RANGE_FILE = "segments"
_EPOCH_AND_OFFSET = struct.Struct(">QQ")
"""Epoch and first offset as in a chunk's header."""
_SUM_AT = 45
"""The position of the three reserved bytes in a chunk's header."""

_Chunk = tuple[int, Sequence[bytes], int, bytes, bytes]
"""Its kind, its entries, the number of records in them, its trailer, its filter."""


class Dropped(NamedTuple):
    """Damaged or incomplete data that was found when a log was opened, and is not part of the log."""

    file: Path
    position: int
    """The position in the file where the damage begins."""
    size: int
    """Bytes left out, in this and in later files."""
    reason: str
    is_kept: bool
    """True if the data is kept in ``.damaged`` files; False for an incomplete last chunk, which was removed."""


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


class _Torn(ChunkError):
    """The last write to the file was incomplete: the file ends within a chunk or its head."""


class Segment:
    """One file of chunks and its index. ``size``, ``chunks`` and the like count only complete chunks."""

    def __init__(self, directory: Path, first_offset: int) -> None:
        self.path = directory / f"{first_offset:020}.segment"
        self.index_path = directory / f"{first_offset:020}.index"
        self.first_offset = first_offset
        self.next_offset = first_offset
        self.size = len(SEGMENT_HEAD)
        self.chunks = 0
        self.last_timestamp = 0
        self.readers = 0
        self._fd = self._index_fd = -1

    @property
    def fd(self) -> int:
        self._open()
        return self._fd

    @property
    def index_fd(self) -> int:
        if self._index_fd < 0:
            self._index_fd = os.open(self.index_path, os.O_RDWR | os.O_CLOEXEC)
        return self._index_fd

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Closes the file handles; they are opened again when they are needed."""
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index_fd = -1

    def create(self) -> None:
        """Creates both files. If that raises ``OSError``, removes them: the log goes on in the previous segment."""
        try:
            self.path.write_bytes(SEGMENT_HEAD)
            self.index_path.write_bytes(INDEX_HEAD)
        except OSError:
            self.index_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            raise

    def unlink(self) -> None:
        """Deletes the files. Their readers can read on."""
        if self.readers:
            self._open()  # as long as it can be
        self.index_path.unlink(missing_ok=True)  # first: one without its segment says that this is missing
        self.path.unlink(missing_ok=True)

    def read(self, position: int, size: int) -> bytes:
        """Returns ``size`` bytes. Raises ``ChunkError`` if the file is shorter, or ``OSError``."""
        data = os.pread(self.fd, size, position)
        if len(data) < size:
            raise ChunkError(f"{self.path} is shorter than it was")
        return data

    def record(self, number: int) -> tuple[int, int, int]:
        """Returns offset, time and position of a chunk, given its number in the segment."""
        data = os.pread(self.index_fd, INDEX_RECORD.size, len(INDEX_HEAD) + number * INDEX_RECORD.size)
        if len(data) < INDEX_RECORD.size:
            raise ChunkError(f"{self.index_path} is shorter than it was")
        offset, timestamp, _, position, _ = INDEX_RECORD.unpack(data)
        return offset, timestamp, position

    def holding(self, offset: int) -> tuple[int, int]:
        """Returns first offset and position of the last chunk that does not begin after ``offset``."""
        low, high = 0, self.chunks - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.record(middle)[0] <= offset:
                low = middle
            else:
                high = middle - 1
        first, _, position = self.record(low)
        return first, position

    def since(self, timestamp: int) -> tuple[int, int]:
        """Returns first offset and position of the first chunk that is not older than ``timestamp``.

        ``last_timestamp`` must not be older, either.
        """
        low, high = 0, self.chunks - 1
        while low < high:
            middle = (low + high) // 2
            if self.record(middle)[1] >= timestamp:
                high = middle
            else:
                low = middle + 1
        first, _, position = self.record(low)
        return first, position


class Span(NamedTuple):
    """Data in a segment, to be sent from the file. Valid until its cursor moves on."""

    segment: Segment
    position: int
    size: int

    def read(self, start: int = 0) -> bytes:
        """Returns the data from ``start`` on. Raises ``ChunkError`` or ``OSError``."""
        return self.segment.read(self.position + start, self.size - start)


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
        log._recover()
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
            parts += (header[:_SUM_AT], _header_sum(header, bits, trailer), bits, data, trailer)
            index.append(INDEX_RECORD.pack(chunk_id, timestamp, EPOCH, position, kind))
            size = HEADER.size + len(bits) + len(data) + len(trailer)
            counts.append((kind, chunk_id, records, size))
            chunk_id += records
            position += size
            if position >= self.segment_size or segment.chunks + len(counts) >= MAX_CHUNKS:
                break
        # The index first: without its chunk it is nothing, and a chunk that is whole counts when the log is opened.
        _write_all(segment.index_fd, b"".join(index), len(INDEX_HEAD) + segment.chunks * INDEX_RECORD.size)
        try:
            _write_all(segment.fd, b"".join(parts), segment.size)
        except OSError:
            with contextlib.suppress(OSError):  # else, when it is opened, it is the beginning of a chunk, or damage
                os.ftruncate(segment.fd, segment.size)
            raise
        # Nothing of them counts before this line.
        for kind, first, records, size in counts:
            self._count(segment, kind, first, records, timestamp, size)
        return [first for _, first, _, _ in counts]

    def _count(self, segment: Segment, kind: int, chunk_id: int, records: int, timestamp: int, size: int) -> None:
        if kind == CHUNK_USER:
            self.last_user_chunk = segment, segment.size, chunk_id
        segment.size += size
        segment.chunks += 1
        segment.last_timestamp = timestamp
        self.last_chunk_id = chunk_id
        self.next_offset = segment.next_offset = chunk_id + records

    def _begin_segment(self, offset: int) -> None:
        segment = Segment(self.directory, offset)
        if self.segments:
            segment.last_timestamp = self.active.last_timestamp
        segment.create()
        self.segments.append(segment)
        self._write_range(self.segments[0], segment)
        if self.durable:
            sync_directory(self.directory)

    def _write_range(self, oldest: Segment, newest: Segment) -> None:
        """Before the oldest one goes, and after a new one has come: one that is not there is missing then.

        Only a help: where it cannot be written it goes, so that it never says what is not so.
        """
        path = self.directory / _RANGE_FILE
        data = _RANGE.pack(oldest.first_offset, newest.first_offset)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _write_all(fd, data + zlib.crc32(data).to_bytes(4), 0)
                if self.durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()

    def retain(self, max_bytes: int | None, max_age: int | None, now: int) -> None:
        """Drops whole segments from the oldest on, never the newest. Bytes, milliseconds. Raises ``OSError``."""
        while len(self.segments) > 1 and not self.lacks_snapshot:
            oldest = self.segments[0]
            too_much = max_bytes is not None and self.size > max_bytes
            too_old = max_age is not None and oldest.last_timestamp < now - max_age
            if not too_much and not too_old:
                return
            self._write_range(self.segments[1], self.active)
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

    # Opening.

    def _recover(self) -> None:
        paths = sorted(self.directory.glob("*.segment"))
        self.missing = self._find_missing([first for path in paths if (first := _first_offset(path)) is not None])
        for number, path in enumerate(paths):
            first = _first_offset(path)
            if self.segments and first is not None and first < self.next_offset and _is_empty(path):
                path.unlink()  # begun on a full disk and given up: the previous segment went on
                continue
            if first is None:
                self._put_aside(path, 0, "it is not named after an offset", [])
                continue
            if self.segments and first != self.next_offset:
                self._put_aside(path, 0, "the segment before it is missing", paths[number + 1 :])
                break
            segment = Segment(self.directory, first)
            if self.segments:
                segment.last_timestamp = self.active.last_timestamp
            self.segments.append(segment)
            self.next_offset = first
            if (error := self._scan(segment)) is not None:
                later = paths[number + 1 :]
                if isinstance(error, _Torn) and not later:
                    size = path.stat().st_size
                    at = min(segment.size, size)
                    self.dropped.append(Dropped(path, at, size - at, str(error), is_kept=False))
                else:
                    self._put_aside(path, segment.size if segment.chunks else 0, str(error), later)
                self._cut(segment)
                break
        if not self.segments:
            self._begin_segment(self.next_offset)
        for stray in set(self.directory.glob("*.index")) - {segment.index_path for segment in self.segments}:
            stray.unlink()
        self._write_range(self.segments[0], self.active)
        self.commit()
        self.close()

    def _find_missing(self, found: Sequence[int]) -> list[str]:
        """Segments before and behind these, of which the file of the range knows, or an index.

        One between two others is seen when they are read.
        """
        known = {first for path in self.directory.glob("*.index") if (first := _first_offset(path)) is not None}
        known |= self._read_range()
        if not known or known <= set(found):
            return []
        if not found:
            return [f"no segment is there, and one with offset {max(known)} was: it begins anew at offset 0"]
        missing = []
        if (first := min(known)) < min(found):
            missing.append(f"offsets {first} to {min(found) - 1} are gone: their segments are missing")
        if (newest := max(known)) > max(found):
            missing.append(f"offsets from {newest} on are gone, and given again: their segments are missing")
        return missing

    def _read_range(self) -> set[int]:
        """Nothing where it is not known."""
        try:
            data = (self.directory / _RANGE_FILE).read_bytes()
        except OSError:
            return set()
        values, checksum = data[: _RANGE.size], data[_RANGE.size :]
        return set(_RANGE.unpack(values)) if zlib.crc32(values).to_bytes(4) == checksum else set()

    def _scan(self, segment: Segment) -> ChunkError | None:
        """Takes in the intact chunks of a segment, and writes its index if that is wrong.

        Returns the error at which it stopped; None where the whole segment is intact.
        """
        index = bytearray(INDEX_HEAD)
        reason: ChunkError | None = None
        with segment.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < len(SEGMENT_HEAD):
                reason = _Torn("it ends within its head" if size else "it is empty")
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    if data[: len(SEGMENT_HEAD)] != SEGMENT_HEAD:
                        reason = ChunkError("it does not begin as a segment does")
                    else:
                        try:
                            while segment.size < size:
                                index += self._take_chunk(data, segment)
                        except ChunkError as error:
                            reason = error
        if not segment.index_path.exists() or segment.index_path.read_bytes() != index:
            segment.index_path.write_bytes(index)
        return reason

    def _take_chunk(self, data: mmap.mmap, segment: Segment) -> bytes:
        """Takes in the chunk at position ``segment.size``, and returns its index record. Raises ``ChunkError``."""
        position = segment.size
        head = data[position : position + HEADER.size]
        if len(head) < HEADER.size:
            raise _Torn(f"chunk {self.next_offset} is cut off")
        header = parse_header(head)
        if header.first_offset != self.next_offset:
            raise ChunkError(f"a chunk has offset {header.first_offset} instead of {self.next_offset}")
        start = position + HEADER.size + header.bloom_size
        end = start + header.data_length
        whole = end + header.trailer_length
        if header.data_length > MAX_DATA or whole > len(data):
            next_chunk = _EPOCH_AND_OFFSET.pack(header.epoch, header.first_offset + header.records)
            is_last = data.find(next_chunk, position + HEADER.size) < 0  # a chunk follows: the size is wrong
            raise (_Torn if is_last else ChunkError)(f"chunk {header.first_offset} is cut off")
        body, trailer = data[start:end], data[end:whole]
        bits = data[position + HEADER.size : start]
        if zlib.crc32(body) != header.crc or _header_sum(head, bits, trailer) != head[_SUM_AT:]:
            raise ChunkError(f"the checksum of chunk {header.first_offset} does not match")
        if header.kind == CHUNK_USER:
            self.tracking.apply(header.first_offset, trailer)
        elif header.kind == CHUNK_TRACKING:
            self.tracking.apply(header.first_offset, body[4:])
        else:
            self.tracking.replace(body[4:])
        self._count(segment, header.kind, header.first_offset, header.records, header.timestamp, whole - position)
        return INDEX_RECORD.pack(header.first_offset, header.timestamp, header.epoch, position, header.kind)

    def _put_aside(self, path: Path, position: int, reason: str, later: Sequence[Path]) -> None:
        """Moves the rest of a file, from ``position`` on, and later files to ``.damaged`` files. Raises ``OSError``."""
        size = path.stat().st_size - position + sum(other.stat().st_size for other in later)
        if position:
            self._copy_aside(path, position)
        for other in later if position else [path, *later]:
            other.rename(name_aside(other))
        self.dropped.append(Dropped(path, position, size, reason, is_kept=True))

    def _copy_aside(self, path: Path, position: int) -> None:
        aside = name_aside(path)
        try:
            with path.open("rb") as source, aside.open("xb") as target:
                source.seek(position)
                shutil.copyfileobj(source, target)
                target.flush()
                if self.durable:
                    os.fsync(target.fileno())
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _cut(self, segment: Segment) -> None:
        if segment.size == len(SEGMENT_HEAD):
            segment.path.write_bytes(SEGMENT_HEAD)
        else:
            os.truncate(segment.path, segment.size)


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
            return head[:_SUM_AT] + b"\0\0\0", data
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


def _header_sum(header: bytes, bits: bytes, trailer: bytes) -> bytes:
    """Returns the three reserved bytes: a checksum of all parts that the chunk's own checksum does not cover."""
    return zlib.crc32(trailer, zlib.crc32(bits, zlib.crc32(header[:_SUM_AT]))).to_bytes(4)[1:]


def _write_all(fd: int, data: bytes, position: int) -> None:
    written = os.pwrite(fd, data, position)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], position + written)


def name_aside(path: Path) -> Path:
    """Returns an unused name in the same directory, ending in ``.damaged``."""
    names = (f"{path.name}{f'.{number}' if number else ''}.damaged" for number in itertools.count())
    return next(other for other in map(path.with_name, names) if not other.exists())


def _is_empty(path: Path) -> bool:
    """Returns whether a segment has no chunk."""
    return path.stat().st_size <= len(SEGMENT_HEAD)


def _first_offset(path: Path) -> int | None:
    return int(path.stem) if path.stem.isdecimal() and path.stem.isascii() else None


def sync_folder(directory: Path) -> None:
    """Syncs all files of a directory, and their names, to disk. Raises ``OSError``."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Syncs the file names of a directory to disk, where the system supports that."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
