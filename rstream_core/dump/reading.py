"""Reads dumps, compressed or not, and the segment files of a broker: bytes in, chunks out. Without I/O.

What is read is not trusted. A length counts only where the checksum beside it holds, takes memory only as its bytes
come, and is bounded; a chunk is given out once its own checksum has matched. Where something does not hold, ``read``
raises ``DumpError`` with the place, and may be called again where the error says so: it then goes on behind the damage.
Bytes at the end that are too few for what they begin are no damage: they were not written to the end.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from rstream_core.checks import MAX_OFFSET
from rstream_core.dump import frames
from rstream_core.dump.buffer import Buffer
from rstream_core.dump.layout import (
    CHUNK,
    CHUNK_HEAD,
    END,
    HEAD,
    MAGIC,
    MANIFEST,
    MARKER,
    MAX_CHUNK,
    MAX_MANIFEST,
    NEEDED,
    WANTED,
)
from rstream_core.dump.manifest import Manifest
from rstream_core.errors import ChunkError, DumpError
from rstream_core.hints import Hint
from rstream_core.protocol.chunk import (
    CHUNK_SNAPSHOT,
    CHUNK_USER,
    HEADER,
    MAX_DATA,
    SEGMENT_HEAD,
    ChunkHeader,
    parse_header,
)
from rstream_core.protocol.wire import checksum


class DumpedChunk(NamedTuple):
    """A chunk, whose checksum has matched. Its entries were not looked at."""

    stream: int
    """The index of its stream in the manifest; 0 in a segment."""
    first: int
    """The offset of the first message that is wanted."""
    end: int
    """The offset behind the last one."""
    header: ChunkHeader
    data: bytes
    """Its entries are in here, from ``begin`` on."""
    begin: int
    position: int
    """Where it begins in its file; in a compressed dump, where the frame begins that has its end."""


class EndMark(NamedTuple):
    """A run that wrote the dump has ended here in order. Another one may have gone on behind it."""

    told: Mapping[str, Any]


Item: TypeAlias = Manifest | DumpedChunk | EndMark


class _Parser(Protocol):
    buffer: Buffer
    whole: int

    def read(self) -> Item | None: ...


class DumpReader:
    """Reads one file after another. ``feed`` it what comes, and ``read`` until that gives None."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        """That of the dump, once it was read. A segment has none."""
        self.is_segment = False
        """Whether this file is a broker's segment."""
        self.is_compressed = False
        self.is_ended = False
        """Whether nothing but whole records, the last of them an end mark, was read of this file so far."""
        self._ends: dict[int, int] = {}
        """Of each stream, the offset behind the last message that was read."""
        self._begin_file()

    def _begin_file(self) -> None:
        self._file = Buffer()
        self._parser: _Parser | None = None
        self._whole = 0
        self._is_searching = False
        """Whether the next frame is looked for, behind damaged bytes."""
        self.is_segment = self.is_compressed = self.is_ended = False

    @property
    def whole(self) -> int:
        """Up to which byte of this file all is whole, and nothing begins that is not there to its end."""
        return self._parser.whole if self._parser is not None and not self.is_compressed else self._whole

    @property
    def begins_dump(self) -> bool:
        """Whether what came of this file is how a dump begins, however little it is."""
        if self._parser is not None:
            return not self.is_segment
        begin = self._file.data[self._file.at :][: len(MAGIC)]
        return MAGIC.startswith(begin) or (frames.SKIPPABLE + bytes(4)).startswith(begin[:4])

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the file."""
        self._file.add(data)

    def finish(self) -> int:
        """Ends the file; the next bytes are those of another one. Returns how many of its last bytes are the beginning
        of something that is not there to its end."""
        size = self._file.position + len(self._file)
        cut_off = size - self.whole
        self._begin_file()
        return cut_off

    def read(self) -> Item | None:
        """Returns what comes next; None where more bytes are needed for that. Raises ``DumpError``."""
        while True:
            if self._parser is None:
                self._parser = self._recognise()
                if self._parser is None:
                    return None
            begin = self.whole
            try:
                item = self._parser.read()
            except DumpError as error:
                if self.is_compressed:  # where it is in the file is known by the frame
                    error.position = self._whole
                raise
            if item is not None:
                self.is_ended = isinstance(item, EndMark)
                if isinstance(item, Manifest):
                    self._take(item, begin)
                elif isinstance(item, DumpedChunk) and self.is_compressed:
                    return item._replace(position=self._whole)
                return item
            if not self.is_compressed or not self._unpack():
                return None

    def _recognise(self) -> _Parser | None:
        """Returns what reads this kind of file; None while too little of it is there. Raises ``DumpError``."""
        buffer = self._file
        begin = buffer.data[buffer.at : buffer.at + len(MAGIC)] if buffer.has(len(MAGIC)) else b""
        if not begin:
            return None
        if begin.startswith(frames.SKIPPABLE):
            self.is_compressed = True
            inner = Buffer()
            return _Records(inner, self._ends, begins=True)
        if begin == MAGIC:
            return _Records(buffer, self._ends, begins=True)
        if begin == SEGMENT_HEAD:
            buffer.skip(len(SEGMENT_HEAD))
            self.is_segment = True
            return _Segment(buffer, self._ends)
        if begin.startswith((MAGIC[:-1], SEGMENT_HEAD[:4])):
            raise DumpError(f"of a later version than this program knows: it begins with {begin!r}", position=0)
        error = DumpError("neither a dump nor a segment of a broker", position=0)
        if begin.startswith(frames.ZSTD):
            error.hint = Hint.UNPACK_ZSTD
        raise error

    def _take(self, manifest: Manifest, position: int) -> None:
        """Raises ``DumpError`` for a manifest behind another one, or behind chunks: theirs are other streams."""
        if self.manifest is None and not self._ends:
            self.manifest = manifest
        elif manifest != self.manifest:
            raise DumpError("another dump begins here: restore them one at a time", position=position)

    def _unpack(self) -> bool:
        """Unpacks the next frame of a compressed dump. Returns whether it was there. Raises ``DumpError``."""
        buffer, parser = self._file, self._parser
        assert isinstance(parser, _Records)
        if not len(parser.buffer) and buffer.blank_from is None:
            self._whole = buffer.position
        while True:
            if buffer.blank_from is not None:
                if buffer.is_blank():
                    return False
                self._is_searching = True
                parser.lose()
                raise _nothing_begins(buffer, "frame")
            if self._is_searching and not _find(buffer, frames.SKIPPABLE):
                return False
            if not buffer.has(frames.FRAME_HEAD.size):
                return False
            sizes = frames.sizes_of(buffer.data[buffer.at : buffer.at + frames.FRAME_HEAD.size])
            if sizes is not None:
                break
            if not self._is_searching:
                if buffer.is_blank():
                    return False
                self._is_searching = True
                parser.lose()
                raise _nothing_begins(buffer, "frame")
            buffer.skip(1)
        if not buffer.has(frames.FRAME_HEAD.size + sizes.packed):
            return False
        self._is_searching = False
        position = buffer.position
        buffer.skip(frames.FRAME_HEAD.size)
        packed = buffer.read(sizes.packed)
        try:
            if zlib.crc32(packed) != sizes.checksum:
                raise ChunkError("its checksum does not match")
            data = frames.unpack(packed, sizes.plain)
        except ChunkError as error:
            parser.lose()
            raise DumpError(
                f"damaged: a frame cannot be unpacked: {error}", position=position, may_go_on=True
            ) from None
        parser.buffer.add(data)
        return True


class _Records:
    """The records of a plain dump."""

    def __init__(self, buffer: Buffer, ends: dict[int, int], *, begins: bool) -> None:
        self.buffer = buffer
        self.whole = 0
        self._ends = ends
        self._streams = 0
        """How many streams the manifest names."""
        self._begins = begins
        """Whether the magic bytes are yet to come."""
        self._is_searching = False
        """Whether the next record is looked for, behind damaged bytes."""

    def lose(self) -> None:
        """What is in the buffer does not go on: bytes behind it are lost."""
        self.buffer.skip(len(self.buffer))
        self.buffer.blank_from = None
        self._begins, self._is_searching = False, True

    def read(self) -> Item | None:
        """See ``DumpReader.read``."""
        buffer = self.buffer
        if self._begins:
            if not buffer.has(len(MAGIC)):
                return None
            if buffer.read(len(MAGIC)) != MAGIC:
                raise DumpError("neither a dump nor a segment of a broker")
            self._begins = False
        while True:
            if buffer.blank_from is not None:
                if buffer.is_blank():
                    return None
                self._is_searching = True
                raise _nothing_begins(buffer, "record")
            if self._is_searching and not _find(buffer, MARKER):
                return None
            if not buffer.has(HEAD.size):
                return None
            position = buffer.position
            head = buffer.data[buffer.at : buffer.at + HEAD.size]
            marker, kind, flags, stream, length, expected, own = HEAD.unpack(head)
            most = MAX_CHUNK if kind == CHUNK else MAX_MANIFEST
            if marker != MARKER or own != zlib.crc32(head[:-4]) or length > most:
                if self._is_searching:
                    buffer.skip(1)
                    continue
                if buffer.is_blank():
                    return None
                self._is_searching = True
                raise _nothing_begins(buffer, "record")
            if not buffer.has(HEAD.size + length):
                return None
            self._is_searching = False
            buffer.skip(HEAD.size)
            start = buffer.at
            buffer.skip(length)
            data = buffer.data
            checked = start + (CHUNK_HEAD if kind == CHUNK else length)
            if (kind == CHUNK and length < CHUNK_HEAD) or checksum(data, start, checked) != expected:
                raise DumpError("damaged: the checksum of a record does not match", position=position, may_go_on=True)
            item = self._parsed(kind, flags, stream, data, start, length, position)
            self.whole = buffer.position
            if item is not None:
                return item

    def _parsed(
        self, kind: int, flags: int, stream: int, data: bytes, start: int, length: int, position: int
    ) -> Item | None:
        if kind == CHUNK:
            return self._chunk(stream, data, start, length, position)
        content = data[start : start + length]
        if kind == MANIFEST:
            try:
                manifest = Manifest.parse(content)
            except DumpError as error:
                error.position = position
                raise
            self._streams = len(manifest.streams)
            return manifest
        if kind == END:
            return EndMark(_told(content))
        if flags & NEEDED:
            raise DumpError(f"of a later version than this program knows: a record of kind {kind}", position=position)
        return None

    def _chunk(self, stream: int, data: bytes, start: int, length: int, position: int) -> DumpedChunk:
        first, end = WANTED.unpack_from(data, start)
        begin = start + CHUNK_HEAD
        try:
            header = parse_header(data, start + WANTED.size)
        except ChunkError as error:
            raise DumpError(f"damaged: {error}", position=position, may_go_on=True) from None
        if header.kind != CHUNK_USER or header.data_length != length - CHUNK_HEAD:
            raise DumpError("damaged: a record does not fit its chunk", position=position, may_go_on=True)
        if not header.first_offset <= first < end <= header.first_offset + header.records:
            raise DumpError("damaged: what is wanted of a chunk is not in it", position=position, may_go_on=True)
        if stream >= max(self._streams, 1):
            raise DumpError(
                f"damaged: a chunk of stream {stream}, of which the manifest knows nothing", position=position
            )
        chunk = DumpedChunk(stream, first, end, header, data, begin, position)
        _check(chunk, self._ends)
        return chunk


class _Segment:
    """The chunks of a broker's segment: those with messages."""

    def __init__(self, buffer: Buffer, ends: dict[int, int]) -> None:
        self.buffer = buffer
        self.whole = buffer.position
        self._ends = ends
        self._trailer = 0
        """How many bytes of the last chunk's trailer are yet to come."""
        self._is_lost = False
        """Whether the last chunk was damaged, so that its offsets are missing, as was said."""

    def read(self) -> Item | None:
        """See ``DumpReader.read``."""
        buffer = self.buffer
        while True:
            self._trailer -= buffer.skip(self._trailer)
            if self._trailer:
                return None
            if buffer.blank_from is not None:
                if buffer.is_blank():
                    return None
                raise DumpError("damaged: no chunk begins here", position=self.whole)
            position = self.whole = buffer.position
            if not buffer.has(HEADER.size):
                return None
            try:
                header = parse_header(buffer.data, buffer.at)
                if header.data_length > MAX_DATA or header.kind > CHUNK_SNAPSHOT:
                    raise ChunkError(f"a chunk of kind {header.kind} claims {header.data_length} bytes")
            except ChunkError as error:
                if buffer.is_blank():
                    return None
                raise DumpError(f"damaged: {error}", position=position) from None
            expected = self._ends.get(0, header.first_offset)
            if header.first_offset > expected and not self._is_lost:  # a broker leaves none out: a file is not there
                self._is_lost = True
                text = f"damaged: offsets {expected} to {header.first_offset - 1} are missing"
                raise DumpError(text, position=position, may_go_on=True)
            front = HEADER.size + header.bloom_size
            if not buffer.has(front + header.data_length):
                return None
            begin = buffer.at + front
            buffer.skip(front + header.data_length)
            self._trailer = header.trailer_length
            end = header.first_offset + header.records
            chunk = DumpedChunk(0, header.first_offset, end, header, buffer.data, begin, position)
            self._is_lost = True
            if header.kind != CHUNK_USER and not _matches(chunk):
                text = "damaged: the checksum of what the broker keeps for itself does not match"
                raise DumpError(text, position=position, may_go_on=True)
            _check(chunk, self._ends)
            self._is_lost = False
            if header.kind == CHUNK_USER and header.records:
                return chunk


def _check(chunk: DumpedChunk, ends: dict[int, int]) -> None:
    """Raises ``DumpError`` where the checksum does not match, or offsets go back. Notes the end of the chunk."""
    if not _matches(chunk):
        text = f"damaged: the checksum of chunk {chunk.header.first_offset} does not match its data"
        raise DumpError(text, position=chunk.position, may_go_on=True)
    if chunk.first < ends.get(chunk.stream, 0):
        text = f"damaged: offset {chunk.first} comes behind offset {ends[chunk.stream] - 1}"
        raise DumpError(text, position=chunk.position)
    if chunk.end > MAX_OFFSET:
        raise DumpError(f"damaged: there is no offset {chunk.end}", position=chunk.position)
    ends[chunk.stream] = chunk.end


def _matches(chunk: DumpedChunk) -> bool:
    return checksum(chunk.data, chunk.begin, chunk.begin + chunk.header.data_length) == chunk.header.crc


def _find(buffer: Buffer, marker: bytes) -> bool:
    """Passes over all bytes before the marker. Returns whether it is there."""
    buffer.has(len(buffer))
    found = buffer.data.find(marker, buffer.at)
    if found < 0:
        buffer.skip(max(len(buffer) - len(marker) + 1, 0))
        return False
    buffer.skip(found - buffer.at)
    return True


def _nothing_begins(buffer: Buffer, what: str) -> DumpError:
    """Returns the error for bytes that begin nothing, and passes over one of them, so that the next is looked for; or
    for the zeros that were passed over already."""
    position = buffer.position if buffer.blank_from is None else buffer.blank_from
    if buffer.blank_from is None:
        buffer.skip(1)
    buffer.blank_from = None
    return DumpError(f"damaged: no {what} begins here", position=position, may_go_on=True)


def _told(content: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
