"""Parses and builds chunks, in which a broker stores and delivers messages.

Layout (osiris, ``src/osiris_log.erl``): a header of 48 bytes, then ``entries`` entries. A simple entry is
``size:u32`` and a message; a sub-batch has the top bit set and holds several messages, perhaps compressed.
A Deliver leaves out the Bloom filter and the trailer, although the header names their sizes.

This is the hot path of consumers: one loop splits a chunk and copies only the messages, and a message stays bytes until
the application reads a part of it. A sub-entry is unpacked only when its messages are asked for: a chunk of a megabyte
may hold a gigabyte, or millions of messages.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import NamedTuple, TypeAlias

from rstream_core.checks import MAX_OFFSET
from rstream_core.errors import ChunkError
from rstream_core.protocol.amqp_sections import PlainMessages, join_messages
from rstream_core.protocol.compression import decompress
from rstream_core.protocol.placed import PlacedMessages, stretches
from rstream_core.protocol.sub_batch import SUB_BATCH, SUB_BATCH_BIT, SUB_BATCH_SIZE, check_claims, codec_of
from rstream_core.protocol.wire import checksum, join_entries, join_plain, plain_messages, split
from rstream_core.types import Chunk

MAGIC_AND_VERSION = 0x50
HEADER = struct.Struct(">BBHIqQQIIIB3x")
MAX_DATA = 1024 * 1024 * 1024
"""The most bytes of one chunk, both as it arrives and with its sub-entries unpacked."""
PIECE_BYTES = 4 * 1024 * 1024
PIECE_MESSAGES = 65_536
"""The bounds of a piece. Without sub-entries, a chunk of up to ``PIECE_BYTES`` is one piece."""
CHUNK_USER, CHUNK_TRACKING, CHUNK_SNAPSHOT = 0, 1, 2
SEGMENT_HEAD = b"OSIL\0\0\0\1"
"""How a file begins in which a broker keeps chunks, each with its Bloom filter in front of its data and its trailer
behind: magic and version."""
_CUT_BYTES = 1024 * 1024
"""Bytes of a piece of a sub-entry that is larger than ``PIECE_BYTES`` and was unpacked at once."""

_SIZE = struct.Struct(">I")


class ChunkHeader(NamedTuple):
    """The fields of a chunk's header, in their order."""

    kind: int
    """0 for messages; 1 and 2 are the broker's own tracking data and are never delivered."""
    entries: int
    records: int
    """The number of messages, including each one inside sub-batches."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker made the chunk."""
    epoch: int
    first_offset: int
    crc: int
    data_length: int
    trailer_length: int
    bloom_size: int


_new_header: Callable[[Sequence[int]], ChunkHeader] = partial(tuple.__new__, ChunkHeader)
"""Does the same as ``ChunkHeader(*fields)``, without its Python code: that is much for a chunk of few messages."""


def parse_header(data: bytes, start: int = 0) -> ChunkHeader:
    """Returns the header of the chunk that begins at ``start`` in ``data``. Raises ``ChunkError``."""
    if len(data) - start < HEADER.size:
        raise ChunkError(f"a chunk of {len(data) - start} bytes is shorter than its header")
    magic, *fields = HEADER.unpack_from(data, start)
    if magic != MAGIC_AND_VERSION:
        raise ChunkError(f"not a chunk: it begins with 0x{magic:02x}, not 0x{MAGIC_AND_VERSION:02x}")
    header = _new_header(fields)
    if header.first_offset + header.records > MAX_OFFSET + 1:
        raise ChunkError(f"chunk {header.first_offset} claims {header.records} messages, past the last offset there is")
    return header


def open_chunk(data: bytes, *, verify_crc: bool = True) -> tuple[ChunkHeader, list[bytes] | ChunkReader]:
    """Returns the header, and the messages in the order of their offsets (``first_offset`` and up, one by one).

    If the chunk is more than one piece, returns a reader instead of the messages. ``data`` is the chunk as in a
    Deliver. Raises ``ChunkError`` where the checksum does not match, a size or count does not fit, or a sub-entry
    cannot be unpacked. A reader unpacks sub-entries only when it is read, and raises then.
    """
    header = parse_header(data)
    return header, open_entries(data, HEADER.size, header, verify_crc=verify_crc)


def open_entries(data: bytes, begin: int, header: ChunkHeader, *, verify_crc: bool = True) -> list[bytes] | ChunkReader:
    """Does the same as ``open_chunk`` where the header was parsed before: nothing but the messages is copied.

    The entries begin at ``begin`` in ``data``, right behind the header. ``data`` may be a whole frame.
    """
    end = _end(data, begin, header, verify_crc=verify_crc)
    return _messages(data, begin, end, header)


def open_plain(
    data: bytes, begin: int, header: ChunkHeader, *, verify_crc: bool = True
) -> Sequence[bytes] | ChunkReader:
    """Does the same as ``open_entries``, but where each message is one data section, and they are one piece, only their
    bodies are taken out. That takes less than half of the time, for whoever wants nothing but the bodies."""
    end = _end(data, begin, header, verify_crc=verify_crc)
    messages: Sequence[bytes] | None = None
    if header.data_length <= PIECE_BYTES:
        messages = plain_messages(data, begin, end, header.entries)
        if messages is None:
            messages = split(data, begin, end, header.entries)
        if messages is None:
            parts = _split_whole(data, header.entries, begin, end, as_plain=True)
            messages = None if parts is None else join_messages(parts)
    if messages is None:
        return ChunkReader(data, header, begin, end)
    _check_count(header, len(messages))
    return messages


def open_placed(data: bytes, begin: int, header: ChunkHeader, *, verify_crc: bool = True) -> PlacedMessages:
    """Does the same as ``open_entries``, but leaves the messages where they are, and unpacks nothing: what a sub-entry
    holds is not checked beyond its claims."""
    end = _end(data, begin, header, verify_crc=verify_crc)
    messages = PlacedMessages(stretches(data, begin, end, header.entries))
    _check_count(header, len(messages))
    return messages


def _end(data: bytes, begin: int, header: ChunkHeader, *, verify_crc: bool) -> int:
    """Returns where the entries end. Raises ``ChunkError`` where they do not fit the data, or the checksum them."""
    available = len(data) - begin
    if header.data_length > MAX_DATA or header.data_length > available:
        raise ChunkError(f"chunk {header.first_offset} claims {header.data_length} bytes and has {available}")
    end = begin + header.data_length
    if verify_crc and checksum(data, begin, end) != header.crc:
        raise ChunkError(f"the checksum of chunk {header.first_offset} does not match its data")
    return end


def _messages(data: bytes, begin: int, end: int, header: ChunkHeader) -> list[bytes] | ChunkReader:
    """Returns the messages, or what reads them where they are more than a piece. Raises ``ChunkError``."""
    messages = None
    if header.data_length <= PIECE_BYTES:
        messages = split(data, begin, end, header.entries)
        if messages is None:
            parts = _split_whole(data, header.entries, begin, end)
            messages = None if parts is None else list(chain.from_iterable(parts))
    if messages is None:
        return ChunkReader(data, header, begin, end)
    _check_count(header, len(messages))
    return messages


class PlainChunk(NamedTuple):
    """A ``Chunk`` whose messages are held by their bodies."""

    stream: str
    offset: int
    timestamp: int
    messages: PlainMessages
    committed_chunk_id: int | None

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


class PlacedChunk(NamedTuple):
    """A ``Chunk`` whose messages lie where they came in."""

    stream: str
    offset: int
    timestamp: int
    messages: PlacedMessages
    committed_chunk_id: int | None

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


AnyChunk: TypeAlias = Chunk | PlainChunk | PlacedChunk


class ChunkReader:
    """Unpacks a chunk piece by piece, on demand.

    The constructor checks that the entries fit the chunk, and that together they claim as many messages as the header.
    So offsets are exact whatever a sub-entry holds, and unwanted entries can be skipped without unpacking. A sub-entry
    is checked as a whole before any of its messages is returned.

    A piece holds at most ``PIECE_MESSAGES`` and ``PIECE_BYTES``, or one larger message. The unpacked data of a larger
    sub-entry (up to ``MAX_UNCOMPRESSED``) are kept until its last piece is read.
    """

    __slots__ = ("_cuts", "_data", "_entries", "_offset", "_plain", "_pos")

    def __init__(self, data: bytes, header: ChunkHeader, begin: int, end: int) -> None:
        """``begin`` and ``end`` are where the entries begin and end in ``data``. Raises ``ChunkError``."""
        self._data = data
        self._pos = begin
        self._entries = header.entries
        """The number of entries that are not read yet."""
        self._offset = header.first_offset
        """The offset of the first message that is not read yet."""
        self._plain = b""
        """The unpacked data of the large sub-entry that is being read."""
        self._cuts: deque[tuple[int, int]] = deque()
        """The unread pieces of that sub-entry: the number of messages of each, and its start in ``_plain``."""
        _check_count(header, self._survey(end))

    @property
    def is_done(self) -> bool:
        """Whether all pieces were read."""
        return not self._entries and not self._cuts

    def read(self, wanted: int = 0) -> tuple[int, list[bytes]] | None:
        """Returns the next piece: the offset of its first message, and the messages; None where there are no more.

        Messages below the offset ``wanted`` are left out. Raises ``ChunkError`` where a sub-entry cannot be unpacked or
        does not match its claims: the rest of the chunk is then unusable.
        """
        while not self.is_done:
            offset, messages = self._next_cut() if self._cuts else self._gather(wanted)
            if offset < wanted:
                del messages[: wanted - offset]
                offset = wanted
            if messages:
                return offset, messages
        return None

    def _survey(self, end: int) -> int:
        """Checks the claims of all entries, and returns how many messages they claim."""
        data, begin = self._data, self._pos
        pos = begin
        records, room = 0, MAX_DATA
        try:
            for _ in repeat(None, self._entries):
                (size,) = _SIZE.unpack_from(data, pos)
                if size < SUB_BATCH_SIZE:
                    records += 1
                    pos += 4 + size
                    continue
                _, count, plain_size, size = SUB_BATCH.unpack_from(data, pos)
                check_claims(size, count, plain_size, end - pos - SUB_BATCH.size)
                pos += SUB_BATCH.size + size
                records += count
                room -= plain_size
                if room < 0:
                    raise ChunkError(f"the sub-entries of a chunk claim more than {MAX_DATA} bytes uncompressed")
        except struct.error:
            raise ChunkError("an entry of a chunk is cut off") from None
        _check_end(begin, pos, end)
        return records

    def _gather(self, wanted: int) -> tuple[int, list[bytes]]:
        """Reads as many entries as fit one piece. ``_survey`` has checked that the entries fit the chunk."""
        data, pos, offset = self._data, self._pos, self._offset
        first, messages, room = offset, list[bytes](), PIECE_BYTES
        while self._entries and len(messages) < PIECE_MESSAGES:
            (size,) = _SIZE.unpack_from(data, pos)
            count, begin = 1, pos + 4
            if size < SUB_BATCH_SIZE:
                if offset < wanted:
                    first = offset + 1
                elif size <= room or not messages:
                    messages.append(data[begin : begin + size])
                    room -= size
                else:
                    break
            else:
                kind, count, plain_size, size = SUB_BATCH.unpack_from(data, pos)
                begin = pos + SUB_BATCH.size
                if offset + count <= wanted:
                    first = offset + count
                else:
                    if messages and (plain_size > room or len(messages) + count > PIECE_MESSAGES):
                        break
                    plain = decompress(codec_of(kind), data[begin : begin + size], plain_size)
                    if plain_size > PIECE_BYTES:
                        self._cuts, self._plain = _cut(plain, count), plain
                        del plain  # ``_move_out`` needs the only reference
                        self._pos, self._offset = begin + size, offset
                        self._entries -= 1
                        return self._next_cut()
                    _split_plain(plain, count, messages)
                    room -= plain_size
            pos = begin + size
            offset += count
            self._entries -= 1
        self._pos, self._offset = pos, offset
        return first, messages

    def _next_cut(self) -> tuple[int, list[bytes]]:
        """Returns the next piece of a large sub-entry."""
        count, start = self._cuts.popleft()
        messages: list[bytes] = []
        (size,) = _SIZE.unpack_from(self._plain, start)
        if count == 1 and 2 * size > len(self._plain):
            messages.append(self._move_out(start + 4, size))
        else:
            _split_plain(self._plain, count, messages, start)
        if not self._cuts:
            self._plain = b""
        offset = self._offset
        self._offset += count
        return offset, messages

    def _move_out(self, start: int, size: int) -> bytes:
        """Returns a message that is most of the unpacked data, and reuses the memory of the data for it.

        A copy of the message would need nearly twice the memory for a moment.
        """
        after = start + size
        rest = self._plain[after:]
        self._cuts = deque((count, at - after) for count, at in self._cuts)
        held = io.BytesIO(self._plain)  # makes no copy of bytes without another reference
        self._plain = rest
        with held.getbuffer() as view:
            view[:size] = view[start:after]
        held.truncate(size)
        return held.getvalue()


def _check_count(header: ChunkHeader, records: int) -> None:
    if records != header.records:
        raise ChunkError(f"chunk {header.first_offset} claims {header.records} messages and holds {records}")


def _split_whole(
    data: bytes, entries: int, start: int, end: int, *, as_plain: bool = False
) -> list[PlainMessages | list[bytes]] | None:
    """Returns all messages of a chunk, in parts; None where they are more than one piece. Raises ``ChunkError``.

    ``start`` and ``end`` are where the entries begin and end in ``data``. ``as_plain``: a sub-entry of plain messages
    is a part by itself.
    """
    messages: list[bytes] = []
    parts: list[PlainMessages | list[bytes]] = [messages]
    unpack_size = _SIZE.unpack_from
    pos, room, found = start, PIECE_BYTES, 0
    try:
        for _ in repeat(None, entries):
            (size,) = unpack_size(data, pos)
            if size >= SUB_BATCH_SIZE:
                kind, count, plain_size, size = SUB_BATCH.unpack_from(data, pos)
                begin = pos + SUB_BATCH.size
                pos = begin + size
                check_claims(size, count, plain_size, end - begin)
                room -= plain_size
                found += count
                if room < 0 or found > PIECE_MESSAGES:
                    return None
                plain = decompress(codec_of(kind), data[begin:pos], plain_size)
                found_plain = plain_messages(plain, 0, len(plain), count) if as_plain else None
                if found_plain is None:
                    _split_plain(plain, count, messages)
                else:
                    messages = []
                    parts += (found_plain, messages)
                continue
            begin = pos + 4
            pos = begin + size
            messages.append(data[begin:pos])
            found += 1
    except struct.error:
        raise ChunkError("an entry of a chunk is cut off") from None
    _check_end(start, pos, end)
    return [part for part in parts if len(part)]


def _check_end(start: int, pos: int, end: int) -> None:
    if pos != end:
        # Single sizes are not checked against the end: slicing past it raises nothing, but always shows up here.
        raise ChunkError(f"the entries of a chunk take {pos - start} bytes of {end - start}")


def _split_plain(plain: bytes, records: int, messages: list[bytes], start: int | None = None) -> None:
    """Appends the messages of a sub-entry, which must fill it, or those of a piece that begins at ``start``."""
    if start is None:
        found = split(plain, 0, len(plain), records)
        if found is not None:
            messages += found
            return
    unpack_size = _SIZE.unpack_from
    pos = start or 0
    try:
        for _ in range(records):
            (size,) = unpack_size(plain, pos)
            begin = pos + 4
            pos = begin + size
            messages.append(plain[begin:pos])
    except struct.error:
        raise ChunkError("a message of a sub-entry is cut off") from None
    if start is None:
        _check_plain_end(pos, plain)


def _check_plain_end(pos: int, plain: bytes) -> None:
    if pos != len(plain):
        raise ChunkError(f"the messages of a sub-entry take {pos} bytes of {len(plain)}")


def _cut(plain: bytes, records: int) -> deque[tuple[int, int]]:
    """Cuts a large sub-entry into pieces. Returns the number of messages of each piece, and its start.

    Raises ``ChunkError`` where the messages do not fit the data.
    """
    cuts: deque[tuple[int, int]] = deque()
    pos = start = count = 0
    try:
        for _ in repeat(None, records):
            (size,) = _SIZE.unpack_from(plain, pos)
            after = pos + 4 + size
            if count and after - start > _CUT_BYTES:
                cuts.append((count, start))
                start, count = pos, 0
            pos = after
            count += 1
    except struct.error:
        raise ChunkError("a message of a sub-entry is cut off") from None
    _check_plain_end(pos, plain)
    if count:
        cuts.append((count, start))
    return cuts


def parse_chunk(data: bytes, *, verify_crc: bool = True) -> tuple[ChunkHeader, list[bytes]]:
    """Returns the header, and all messages in the order of their offsets (``first_offset`` and up, one by one).

    Only for chunks from a trusted source: the messages may take up to ``MAX_DATA`` bytes. Raises ``ChunkError``.
    """
    header, found = open_chunk(data, verify_crc=verify_crc)
    if not isinstance(found, ChunkReader):
        return header, found
    messages: list[bytes] = []
    while (piece := found.read()) is not None:
        messages += piece[1]
    return header, messages


def join_sub_batch(messages: Sequence[bytes]) -> bytes:
    """Returns the uncompressed data of a sub-batch."""
    return join_plain(messages.bodies) if isinstance(messages, PlainMessages) else join_entries(messages)


def build_chunk(
    entries: Sequence[bytes],
    *,
    first_offset: int,
    timestamp: int,
    epoch: int = 1,
    records: int | None = None,
    kind: int = CHUNK_USER,
) -> bytes:
    """Returns a chunk as a broker delivers it.

    ``entries`` are messages. If ``records`` (the number of all messages) is given, entries whose first byte has its top
    bit set are sub-batches made by ``sub_batch.write_sub_batch``.
    """
    parts: list[bytes] = []
    for entry in entries:
        if records is None or not (entry and entry[0] & SUB_BATCH_BIT):
            parts.append(len(entry).to_bytes(4))
        parts.append(entry)
    body = b"".join(parts)
    header = HEADER.pack(
        MAGIC_AND_VERSION,
        kind,
        len(entries),
        len(entries) if records is None else records,
        timestamp,
        epoch,
        first_offset,
        zlib.crc32(body),
        len(body),
        0,
        0,
    )
    return header + body
