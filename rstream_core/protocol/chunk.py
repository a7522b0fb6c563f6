"""Chunks: what a broker stores and delivers.

Layout (osiris, ``src/osiris_log.erl``): a header of 48 bytes, then ``entries`` entries. A simple entry is
``size:u32`` and a message; a sub-batch has the top bit set and holds several messages, perhaps compressed.
A Deliver leaves out the bloom filter and the trailer, although the header names their sizes.

This is the hot path of consumers: a chunk is split where it lies, in one loop that copies nothing but the
messages, and a message stays bytes until somebody looks into it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

from rstream_core.checks import MAX_OFFSET
from rstream_core.errors import ChunkError
from rstream_core.protocol.commands import SUB_BATCH_BIT
from rstream_core.protocol.compression import decompress

MAGIC_AND_VERSION = 0x50
HEADER = struct.Struct(">BBHIqQQIIIB3x")
MAX_DATA = 1024 * 1024 * 1024
"""Bytes of one chunk, as it comes and once its sub-entries are unpacked."""
CHUNK_USER = 0

_SUB_BATCH = struct.Struct(">BHII")
_SIZE = struct.Struct(">I")
_SUB_BATCH_SIZE = 0x80000000
"""What an entry's first four bytes are at least where it is a sub-batch."""


class ChunkHeader(NamedTuple):
    """The fields of a chunk's header, in their order."""

    kind: int
    """0 for messages; 1 and 2 are the broker's own tracking data and are never delivered."""
    entries: int
    records: int
    """Messages, those inside sub-batches counted one by one."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker made the chunk."""
    epoch: int
    first_offset: int
    crc: int
    data_length: int
    trailer_length: int
    bloom_size: int


def parse_header(data: bytes) -> ChunkHeader:
    """The header at the start of ``data``. Raises ``ChunkError``."""
    if len(data) < HEADER.size:
        raise ChunkError(f"a chunk of {len(data)} bytes is shorter than its header")
    magic, *fields = HEADER.unpack_from(data)
    if magic != MAGIC_AND_VERSION:
        raise ChunkError(f"not a chunk: it begins with 0x{magic:02x}, not 0x{MAGIC_AND_VERSION:02x}")
    header = ChunkHeader(*fields)
    if header.first_offset + header.records > MAX_OFFSET + 1:
        raise ChunkError(f"chunk {header.first_offset} claims {header.records} messages, past the last offset there is")
    return header


def parse_chunk(data: bytes, *, verify_crc: bool = True) -> tuple[ChunkHeader, list[bytes]]:
    """The header, and the messages in the order of their offsets (``first_offset`` and up, one by one).

    ``data`` is the chunk as a Deliver carries it. Raises ``ChunkError`` where the checksum does not match or
    a size or count does not fit.
    """
    header = parse_header(data)
    available = len(data) - HEADER.size
    if header.data_length > MAX_DATA or header.data_length > available:
        raise ChunkError(f"chunk {header.first_offset} claims {header.data_length} bytes and has {available}")
    end = HEADER.size + header.data_length
    if verify_crc and zlib.crc32(memoryview(data)[HEADER.size : end]) != header.crc:
        raise ChunkError(f"the checksum of chunk {header.first_offset} does not match its data")
    messages = split_entries(data, header.entries, HEADER.size, end)
    if len(messages) != header.records:
        raise ChunkError(f"chunk {header.first_offset} claims {header.records} messages and holds {len(messages)}")
    return header, messages


def split_entries(data: bytes, entries: int, start: int = 0, end: int | None = None) -> list[bytes]:
    """All messages of ``entries`` entries, those inside sub-batches too.

    They take ``data`` from ``start`` to ``end``, all of it if nothing else is said. Raises ``ChunkError``.
    """
    if end is None:
        end = len(data)
    messages: list[bytes] = []
    append = messages.append
    unpack_size = _SIZE.unpack_from
    pos = start
    room = MAX_DATA
    try:
        for _ in repeat(None, entries):
            (size,) = unpack_size(data, pos)
            if size >= _SUB_BATCH_SIZE:
                pos, unpacked = _split_sub_batch(data, pos, end, messages, room)
                room -= unpacked
                continue
            begin = pos + 4
            pos = begin + size
            append(data[begin:pos])
    except struct.error:
        raise ChunkError("an entry of a chunk is cut off") from None
    if pos != end:
        # Sizes are not held against the end one by one: slicing past it raises nothing, but always shows here.
        raise ChunkError(f"the entries of a chunk take {pos - start} bytes of {end - start}")
    return messages


def _split_sub_batch(data: bytes, pos: int, end: int, messages: list[bytes], room: int) -> tuple[int, int]:
    """Where the sub-batch ends, and how many bytes its messages took; ``room`` at most."""
    size: int
    kind, records, uncompressed_size, size = _SUB_BATCH.unpack_from(data, pos)
    start = pos + _SUB_BATCH.size
    if start + size > end:
        raise ChunkError(f"a sub-entry claims {size} bytes and has {max(end - start, 0)}")
    if records * 4 > uncompressed_size:
        raise ChunkError(f"a sub-entry claims {records} messages in {uncompressed_size} bytes")
    if uncompressed_size > room:
        raise ChunkError(f"the sub-entries of a chunk claim more than {MAX_DATA} bytes uncompressed")
    plain = decompress(kind >> 4 & 7, data[start : start + size], uncompressed_size)
    inner = 0
    unpack_size = _SIZE.unpack_from
    for _ in range(records):
        (length,) = unpack_size(plain, inner)
        begin = inner + 4
        inner = begin + length
        messages.append(plain[begin:inner])
    if inner != len(plain):
        raise ChunkError(f"the messages of a sub-entry take {inner} bytes of {len(plain)}")
    return start + size, uncompressed_size


def join_sub_batch(messages: Sequence[bytes]) -> bytes:
    """The uncompressed data of a sub-batch."""
    out: list[bytes] = []
    for message in messages:
        out.append(len(message).to_bytes(4))
        out.append(message)
    return b"".join(out)


def build_chunk(
    entries: Sequence[bytes],
    *,
    first_offset: int,
    timestamp: int,
    epoch: int = 1,
    records: int | None = None,
    kind: int = CHUNK_USER,
) -> bytes:
    """A chunk as a broker delivers it.

    ``entries`` are simple messages, or sub-batches as ``commands.write_sub_batch`` makes them where the first
    byte has its top bit set and ``records`` (all messages) is given.
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
