"""A segment: a file of chunks with its index, in the layout of osiris (``src/osiris_log.erl``).

It is ``OSIL`` and a version, then chunks: the header, a Bloom filter, the data, a trailer. Its index is ``OSII`` and a
version, then a record of 29 bytes for each chunk: offset, time, epoch, position, kind. Both files are named after their
first offset. A file ``segments`` says which is the oldest and which the newest one, so that one that is missing is
known; a folder of an earlier version has none.

osiris checks the data of a chunk; here the three bytes of the header that it reserves hold a checksum of all the rest,
so that a changed bit is found wherever it is. They are zero on the wire.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from rstream_core.broker.disk import write_all
from rstream_core.errors import ChunkError
from rstream_core.protocol.chunk import SEGMENT_HEAD

INDEX_HEAD = b"OSII\0\0\0\1"
INDEX_RECORD = struct.Struct(">QqQIB")
SUM_AT = 45
"""The position of the three reserved bytes in a chunk's header."""
_RANGE = struct.Struct(">QQ")
"""The first offsets of the oldest and the newest segment; a checksum of it follows."""
_RANGE_FILE = "segments"


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

    def add(self, first_offset: int, records: int, timestamp: int, size: int) -> None:
        """Counts a chunk that was written, or found, at the end."""
        self.size += size
        self.chunks += 1
        self.last_timestamp = timestamp
        self.next_offset = first_offset + records


class Span(NamedTuple):
    """Data in a segment, to be sent from the file. Valid until its cursor moves on."""

    segment: Segment
    position: int
    size: int

    def read(self, start: int = 0) -> bytes:
        """Returns the data from ``start`` on. Raises ``ChunkError`` or ``OSError``."""
        return self.segment.read(self.position + start, self.size - start)


def write_range(directory: Path, oldest: Segment, newest: Segment, *, durable: bool) -> None:
    """Before the oldest one goes, and after a new one has come: one that is not there is missing then.

    Only a help: where it cannot be written it goes, so that it never says what is not so.
    """
    path = directory / _RANGE_FILE
    data = _RANGE.pack(oldest.first_offset, newest.first_offset)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, data + zlib.crc32(data).to_bytes(4), 0)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()


def read_range(directory: Path) -> set[int]:
    """The first offsets of the oldest and the newest segment; nothing where they are not known."""
    try:
        data = (directory / _RANGE_FILE).read_bytes()
    except OSError:
        return set()
    values, checksum = data[: _RANGE.size], data[_RANGE.size :]
    return set(_RANGE.unpack(values)) if zlib.crc32(values).to_bytes(4) == checksum else set()


def header_sum(header: bytes, bits: bytes, trailer: bytes) -> bytes:
    """Returns the three reserved bytes: a checksum of all parts that the chunk's own checksum does not cover."""
    return zlib.crc32(trailer, zlib.crc32(bits, zlib.crc32(header[:SUM_AT]))).to_bytes(4)[1:]
