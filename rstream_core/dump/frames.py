"""A compressed dump: the bytes of a plain one in frames of zstd, each of which can be unpacked by itself.

In front of each frame stands a skippable frame, which ``zstd -d`` passes over. It has the size of what follows, packed
and unpacked, and checksums: so a reader knows what it will need before it unpacks anything, and finds the next frame
behind damaged bytes.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from rstream_core.protocol.compression import compress, decompress
from rstream_core.types import CompressionType

SKIPPABLE = b"\x5d\x2a\x4d\x18"
"""How a frame begins that ``zstd -d`` passes over: one of the sixteen values that the format has for them."""
ZSTD = b"\x28\xb5\x2f\xfd"
"""How any other frame begins."""
FRAME_HEAD = struct.Struct("<4sIIIII")
"""``SKIPPABLE``, the 16 bytes that it has, the sizes of the frame behind it packed and unpacked, its checksum packed,
and a checksum of this head up to here. All of it is little endian, as zstd is."""
FRAME_DATA = 1024 * 1024
"""Bytes that are compressed together, at most. More small chunks together are packed better than each by itself."""
LEVEL = 1
"""Of zstd: twice as fast as its usual one, and hardly larger for many small messages."""
MAX_PACKED = FRAME_DATA + FRAME_DATA // 128 + 1024
"""The most bytes of a packed frame: what cannot be compressed grows by little."""


def pack(data: bytes) -> bytes:
    """Returns up to ``FRAME_DATA`` bytes as a frame with its head."""
    packed = compress(CompressionType.Zstd, data, level=LEVEL)
    head = FRAME_HEAD.pack(SKIPPABLE, FRAME_HEAD.size - 8, len(packed), len(data), zlib.crc32(packed), 0)[:-4]
    return b"".join((head, zlib.crc32(head).to_bytes(4, "little"), packed))


def unpack(packed: bytes, size: int) -> bytes:
    """Returns the ``size`` bytes of a frame. Raises ``ChunkError`` where it holds anything else."""
    return decompress(CompressionType.Zstd, packed, size)


class Sizes(NamedTuple):
    """What the head of a frame says of it."""

    packed: int
    plain: int
    checksum: int
    """Of the packed bytes."""


def sizes_of(head: bytes) -> Sizes | None:
    """Returns what a head says of the frame behind it; None where it is no head."""
    magic, rest, packed, plain, checksum, own = FRAME_HEAD.unpack(head)
    if magic != SKIPPABLE or rest != FRAME_HEAD.size - 8 or own != zlib.crc32(head[:-4]):
        return None
    return Sizes(packed, plain, checksum) if packed <= MAX_PACKED and plain <= FRAME_DATA else None
