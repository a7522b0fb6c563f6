"""Reads a log when it is opened, all of it, and believes nothing.

A log ends before the first chunk that is not whole and right. What comes then is put aside, as files ending in
``.damaged``, and told of; a last chunk that was not written to its end is cut off.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rstream_core.broker.disk import name_aside
from rstream_core.broker.segment import (
    INDEX_HEAD,
    INDEX_RECORD,
    SUM_AT,
    Segment,
    header_sum,
    read_range,
)
from rstream_core.broker.tracking import Tracking
from rstream_core.errors import ChunkError
from rstream_core.protocol.chunk import CHUNK_TRACKING, CHUNK_USER, HEADER, MAX_DATA, SEGMENT_HEAD, parse_header

_EPOCH_AND_OFFSET = struct.Struct(">QQ")
"""Epoch and first offset as in a chunk's header."""


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


class _Torn(ChunkError):
    """The last write to the file was incomplete: the file ends within a chunk or its head."""


class Scan:
    """The intact part of a log, and what else was found."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        """Reads the segments of a directory, puts the indexes right, and puts aside what is damaged.

        Raises ``OSError``.
        """
        self.segments: list[Segment] = []
        self.tracking = Tracking()
        self.next_offset = 0
        self.last_chunk_id: int | None = None
        self.last_user_chunk: tuple[Segment, int, int] | None = None
        """Segment, position and first offset of the last chunk of messages."""
        self.dropped: list[Dropped] = []
        self.missing: list[str] = []
        """What was not there, a line each."""
        self._directory = directory
        self._durable = durable
        self._run()

    def _run(self) -> None:
        paths = sorted(self._directory.glob("*.segment"))
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
            segment = Segment(self._directory, first)
            if self.segments:
                segment.last_timestamp = self.segments[-1].last_timestamp
            self.segments.append(segment)
            self.next_offset = first
            if (error := self._scan_segment(segment)) is not None:
                later = paths[number + 1 :]
                if isinstance(error, _Torn) and not later:
                    size = path.stat().st_size
                    at = min(segment.size, size)
                    self.dropped.append(Dropped(path, at, size - at, str(error), is_kept=False))
                else:
                    self._put_aside(path, segment.size if segment.chunks else 0, str(error), later)
                self._cut(segment)
                break

    def _find_missing(self, found: Sequence[int]) -> list[str]:
        """Segments before and behind these, of which the file of the range knows, or an index.

        One between two others is seen when they are read.
        """
        known = {first for path in self._directory.glob("*.index") if (first := _first_offset(path)) is not None}
        known |= read_range(self._directory)
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

    def _scan_segment(self, segment: Segment) -> ChunkError | None:
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
        if zlib.crc32(body) != header.crc or header_sum(head, bits, trailer) != head[SUM_AT:]:
            raise ChunkError(f"the checksum of chunk {header.first_offset} does not match")
        if header.kind == CHUNK_USER:
            self.tracking.apply(header.first_offset, trailer)
        elif header.kind == CHUNK_TRACKING:
            self.tracking.apply(header.first_offset, body[4:])
        else:
            self.tracking.replace(body[4:])
        if header.kind == CHUNK_USER:
            self.last_user_chunk = segment, position, header.first_offset
        segment.add(header.first_offset, header.records, header.timestamp, whole - position)
        self.last_chunk_id, self.next_offset = header.first_offset, segment.next_offset
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
                if self._durable:
                    os.fsync(target.fileno())
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _cut(self, segment: Segment) -> None:
        if segment.size == len(SEGMENT_HEAD):
            segment.path.write_bytes(SEGMENT_HEAD)
        else:
            os.truncate(segment.path, segment.size)


def _is_empty(path: Path) -> bool:
    """Returns whether a segment has no chunk."""
    return path.stat().st_size <= len(SEGMENT_HEAD)


def _first_offset(path: Path) -> int | None:
    return int(path.stem) if path.stem.isdecimal() and path.stem.isascii() else None
