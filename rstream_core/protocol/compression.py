"""The codecs of sub-entries: gzip, snappy (framing format), lz4 (frame format) and zstd.

What is written here is read by the clients of other languages, so a frame uses only what all of them read. lz4: the
blocks are independent of each other, because the readers of Java and Go cannot read linked ones. gzip: one member.
snappy: the stream identifier comes first, and no chunk holds more than 64 KiB. zstd: no dictionary, and a window of
no more than 8 MiB. Reading takes more: lz4 frames with linked blocks too, which this client wrote at first.

Decompression is bounded by the size that the sub-entry claims, and that claim by ``MAX_UNCOMPRESSED`` and by what
its codec can make of so few bytes: the output buffer is allocated once, so that no input can make it grow.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

from rstream_core.errors import ChunkError
from rstream_core.types import CompressionType

MAX_UNCOMPRESSED = 64 * 1024 * 1024
"""Bytes of one sub-entry once decompressed: the bound of RabbitMQ 4.3.5 and of the Java client."""

_MOST = {
    CompressionType.Gzip: 1032,
    CompressionType.Snappy: 32,
    CompressionType.Lz4: 255,
    CompressionType.Zstd: 1 << 16,
}
"""Bytes that the formats can make of one, rounded up: a claim beyond that is a lie, and nothing is allocated for it."""
_MOST_OF_NOTHING = 64 * 1024
_GZIP_SIZE = struct.Struct("<I")


@functools.cache
def _module(compression: CompressionType) -> Any:
    import cramjam  # noqa: PLC0415 - a compiled library of megabytes, needed by few

    return {
        CompressionType.Gzip: cramjam.gzip,
        CompressionType.Snappy: cramjam.snappy,
        CompressionType.Lz4: cramjam.lz4,
        CompressionType.Zstd: cramjam.zstd,
    }[compression]


def check_compression(compression: CompressionType) -> CompressionType:
    """It, where it is one. ``TypeError`` for what is none."""
    try:
        return CompressionType(compression)
    except ValueError:
        raise TypeError(f"a compression is a CompressionType, not {compression!r:.80}") from None


def compress(compression: CompressionType, data: bytes) -> bytes:
    """The whole of ``data``, compressed; ``CompressionType.No`` gives it back."""
    if compression is CompressionType.No:
        return data
    module = _module(compression)
    if compression is CompressionType.Lz4:
        packer = module.Compressor(content_checksum=True, block_linked=False)
        packer.compress(data)
        return bytes(packer.finish())
    return bytes(module.compress(data))


def decompress(compression: int, data: bytes, uncompressed_size: int) -> bytes:
    """Exactly ``uncompressed_size`` bytes; ``ChunkError`` if it is anything else, or more than the bound."""
    if uncompressed_size > MAX_UNCOMPRESSED:
        raise ChunkError(f"a sub-entry claims {uncompressed_size} bytes uncompressed; the limit is {MAX_UNCOMPRESSED}")
    try:
        kind = CompressionType(compression)
    except ValueError:
        raise ChunkError(f"unknown compression {compression} of a sub-entry") from None
    plain = data if kind is CompressionType.No else _decompress(kind, data, uncompressed_size)
    if len(plain) != uncompressed_size:
        raise ChunkError(f"a sub-entry claims {uncompressed_size} bytes and holds {len(plain)}")
    return plain


def _decompress(kind: CompressionType, data: bytes, size: int) -> bytes:
    from cramjam import DecompressionError  # noqa: PLC0415

    if size > _MOST_OF_NOTHING + _MOST[kind] * len(data):
        raise ChunkError(f"a {kind.name.lower()} sub-entry claims that its {len(data)} bytes unpack to {size}")
    if kind is CompressionType.Gzip and len(data) >= _GZIP_SIZE.size:
        # gzip ends in the size of its last member: where that is too much, nothing need be unpacked to see it.
        (told,) = _GZIP_SIZE.unpack_from(data, len(data) - _GZIP_SIZE.size)
        if told > size:
            raise ChunkError(f"a gzip sub-entry claims {size} bytes and holds {told}")
    # The bytes of a BytesIO are given away without a copy, where those of a bytearray would be there twice.
    output = io.BytesIO()
    if size:
        output.seek(size - 1)
        output.write(b"\0")
    try:
        with output.getbuffer() as room:
            written = _module(kind).decompress_into(data, room)
    except DecompressionError as error:  # damaged, cut off, or more than the claim
        raise ChunkError(f"a {kind.name.lower()} sub-entry cannot be unpacked: {error}") from None
    output.truncate(written)
    return output.getvalue()
