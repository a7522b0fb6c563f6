"""The layout of a dump: what is written, byte for byte. docs/dump.md describes it for whoever reads dumps elsewhere.

A dump is ``MAGIC`` and then records. A record has a head of ``HEAD``: a marker by which the next record is found behind
damaged bytes, its kind, flags, the stream that it is about, the length of its content, a checksum of the content, and a
checksum of the head itself. So a length is believed only where its own checksum says so: a changed bit cannot look like
a file that was cut off.

Nothing is written that has to be known beforehand, and nothing is changed afterwards: dumps go through pipes.
"""

from __future__ import annotations

import struct
import zlib

from rstream_core.protocol.chunk import HEADER, MAX_DATA

MAGIC = b"RSTRDMP\x01"
"""How a dump begins; its last byte is the version of the layout."""
MARKER = b"\xc5RSD"
"""How a record begins."""
HEAD = struct.Struct(">4sBBHIII")
"""Marker, kind, flags, stream, length and checksum of the content, checksum of the head up to here."""
WANTED = struct.Struct(">QQ")
"""Of a chunk: the offset of its first wanted message, and the one behind its last."""
CHUNK_HEAD = WANTED.size + HEADER.size
"""What precedes the data of a chunk in its record. The checksum in the head is of this; the chunk has its data's."""

MANIFEST, CHUNK, END = 1, 2, 3
"""Kinds of records. A reader passes over one that it does not know."""
NEEDED = 1
"""A flag: whoever does not know the kind of this record must not read on."""

MAX_MANIFEST = 4 * 1024 * 1024
"""The most bytes of the content of a record that is no chunk."""
MAX_STREAMS = 1000
"""The most streams of a dump: the partitions of a super stream."""
MAX_CHUNK = CHUNK_HEAD + MAX_DATA


def record(kind: int, content: bytes, *, stream: int = 0, flags: int = 0) -> bytes:
    """Returns a record that is no chunk."""
    return _head(kind, flags, stream, len(content), zlib.crc32(content)) + content


def chunk_head(stream: int, first: int, end: int, header: bytes, data_length: int) -> bytes:
    """Returns what precedes the data of a chunk: the head of its record, what is wanted of it, and its own header.

    ``stream`` is its index in the manifest. ``first`` and ``end``: the offset of the first wanted message, and the one
    behind the last. ``header``: the 48 bytes of the chunk's header, as delivered.
    """
    fixed = WANTED.pack(first, end) + header
    return _head(CHUNK, NEEDED, stream, len(fixed) + data_length, zlib.crc32(fixed)) + fixed


def _head(kind: int, flags: int, stream: int, length: int, checksum: int) -> bytes:
    head = HEAD.pack(MARKER, kind, flags, stream, length, checksum, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4)
