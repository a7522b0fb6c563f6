"""The codecs of sub-entries: gzip, snappy (framing format), lz4 (frame format) and zstd.

Clients of other languages read the compressed data, so it uses only features that all of them support. lz4: the blocks
are independent of each other, because the readers of Java and Go cannot read linked ones. gzip: one member. snappy: the
stream identifier comes first, and no chunk holds more than 64 KiB. zstd: no dictionary, and a window of at most 8 MiB.
Decompression accepts more, such as lz4 frames with linked blocks, which this client wrote at first.

Decompression is bounded by the size that the sub-entry claims. That claim is bounded by ``MAX_UNCOMPRESSED``, and by
the most that the codec can make of the compressed bytes. The output buffer is allocated once, and no input can make it
grow.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

from rstream_core.errors import ChunkError
from rstream_core.types import CompressionType

MAX_UNCOMPRESSED = 64 * 1024 * 1024
"""The most bytes of one decompressed sub-entry: also the bound of RabbitMQ 4.3.5 and of the Java client."""

_MOST = {
    CompressionType.Gzip: 1032,
    CompressionType.Snappy: 32,
    CompressionType.Lz4: 255,
    CompressionType.Zstd: 1 << 16,
}
"""The most bytes that each format can make of one byte, rounded up. A larger claim is refused before allocating."""
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
    """Returns the argument as a ``CompressionType``. Raises ``TypeError`` for any other value."""
    try:
        return CompressionType(compression)
    except ValueError:
        raise TypeError(f"a compression is a CompressionType, not {compression!r:.80}") from None


def compress(compression: CompressionType, data: bytes, *, level: int | None = None) -> bytes:
    """Returns ``data`` compressed; unchanged for ``CompressionType.No``. ``level``: of zstd; None for its usual one."""
    if compression is CompressionType.No:
        return data
    module = _module(compression)
    if compression is CompressionType.Lz4:
        packer = module.Compressor(content_checksum=True, block_linked=False)
        packer.compress(data)
        return bytes(packer.finish())
    return bytes(module.compress(data) if level is None else module.compress(data, level=level))


def decompress(compression: int, data: bytes, uncompressed_size: int) -> bytes:
    """Returns exactly ``uncompressed_size`` bytes. Raises ``ChunkError`` for any other size, or above the bound."""
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
        # gzip data ends in the size of the last member: if that is too large, unpacking is not needed.
        (told,) = _GZIP_SIZE.unpack_from(data, len(data) - _GZIP_SIZE.size)
        if told > size:
            raise ChunkError(f"a gzip sub-entry claims {size} bytes and holds {told}")
    # A BytesIO hands out its bytes without a copy; making bytes of a bytearray would need the memory twice.
    output = io.BytesIO()
    if size:
        output.seek(size - 1)
        output.write(b"\0")
    try:
        with output.getbuffer() as room:
            written = _module(kind).decompress_into(data, room)
    except DecompressionError as error:  # the data is damaged, cut off, or larger than claimed
        raise ChunkError(f"a {kind.name.lower()} sub-entry cannot be unpacked: {error}") from None
    output.truncate(written)
    return output.getvalue()
