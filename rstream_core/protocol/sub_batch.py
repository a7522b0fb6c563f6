"""The layout of a sub-batch: several messages, perhaps compressed, as one entry of a Publish or of a chunk.

It begins with ``SUB_BATCH``: a byte of which the top bit tells it from a message and three others are the codec; the
number of messages; their size uncompressed; the size of the data that follows. The data, uncompressed, is each message
behind its size (``chunk.join_sub_batch``).
"""

from __future__ import annotations

import struct

from rstream_core.errors import ChunkError, ProtocolError

SUB_BATCH = struct.Struct(">BHII")
SUB_BATCH_BIT = 0x80
SUB_BATCH_SIZE = SUB_BATCH_BIT << 24
"""The least value of the first four bytes of a sub-batch; those of a message, which are its size, are smaller."""


def codec_of(kind: int) -> int:
    """Returns the number of the codec in the first byte of a sub-batch, 0 to 7: perhaps none that is known."""
    return kind >> 4 & 7


def check_claims(size: int, records: int, plain_size: int, available: int) -> None:
    """Checks the head of a sub-entry. ``available``: the bytes behind it. Raises ``ChunkError``."""
    if size > available:
        raise ChunkError(f"a sub-entry claims {size} bytes and has {max(available, 0)}")
    if records * 4 > plain_size:
        raise ChunkError(f"a sub-entry claims {records} messages in {plain_size} bytes")


def write_sub_batch(out: bytearray, compression: int, records: int, uncompressed_size: int, data: bytes) -> None:
    """Appends a sub-batch to ``out``. Raises ``ProtocolError`` where a number does not fit its field."""
    try:
        out += SUB_BATCH.pack(SUB_BATCH_BIT | (compression << 4), records, uncompressed_size, len(data))
    except struct.error:
        raise ProtocolError(f"a sub-entry cannot hold {records} messages of {uncompressed_size} bytes") from None
    out += data
