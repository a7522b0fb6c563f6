"""Cuts a Publish frame into the entries of a chunk.

This is the broker's hot path: one loop slices each entry out of the frame. An entry of a Publish has the same bytes as
an entry of a chunk, including its size. A publishing id stays eight bytes: they compare like the number, and go into
the confirm unchanged. The number of entries that the frame claims is ignored, as in RabbitMQ.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rstream_core.errors import ProtocolError
from rstream_core.protocol.compression import MAX_UNCOMPRESSED
from rstream_core.protocol.sub_batch import SUB_BATCH, SUB_BATCH_SIZE, codec_of

ENTRIES_AT = 4 + 1 + 4
"""Where the entries begin in a frame without its size: behind key, version, publisher id and number of entries."""

_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U16 = struct.Struct(">H")
_NO_FILTER = 0xFFFF
_CODECS = 5


class Entries(NamedTuple):
    """The entries of one frame, in their order. The lists have the same length."""

    ids: list[bytes]
    data: list[bytes]
    """The bytes of each entry with its size, as in a chunk."""
    records: list[int] | None = None
    """The number of messages in each entry; None where each is one message."""
    filters: list[str] | None = None
    """The filter value of each entry, empty for none; None for a version of Publish without filter values."""
    refused: tuple[bytes, ...] = ()
    """The ids from the first impossible sub-entry on, to be rejected with PRECONDITION_FAILED."""

    def split(self, count: int) -> tuple[Entries, Entries]:
        """Returns the first ``count`` entries, and the others; ``refused`` is in neither."""
        ids, data, records, filters, _ = self
        return (
            Entries(ids[:count], data[:count], records and records[:count], filters and filters[:count]),
            Entries(ids[count:], data[count:], records and records[count:], filters and filters[count:]),
        )


def split_publish(frame: bytes) -> Entries:
    """Cuts a Publish frame of version 1. Raises ``ProtocolError`` where an entry is cut off."""
    ids: list[bytes] = []
    data: list[bytes] = []
    add_id, add = ids.append, data.append
    unpack = _U32.unpack_from
    pos, end = ENTRIES_AT, len(frame)
    try:
        while pos < end:
            start = pos + 8
            (size,) = unpack(frame, start)
            if size >= SUB_BATCH_SIZE:
                return _split_with_sub_batches(frame)
            add_id(frame[pos:start])
            pos = start + 4 + size
            add(frame[start:pos])
    except struct.error:
        raise ProtocolError("an entry of a Publish is cut off") from None
    if pos != end:
        raise ProtocolError("the last entry of a Publish is cut off")
    return Entries(ids, data)


def _split_with_sub_batches(frame: bytes) -> Entries:
    ids: list[bytes] = []
    data: list[bytes] = []
    records: list[int] = []
    refused: list[bytes] = []
    pos, end = ENTRIES_AT, len(frame)
    try:
        while pos < end:
            start = pos + 8
            publishing_id = frame[pos:start]
            (size,) = _U32.unpack_from(frame, start)
            count = 1
            if size >= SUB_BATCH_SIZE:
                kind, count, uncompressed, size = SUB_BATCH.unpack_from(frame, start)
                pos = start + SUB_BATCH.size + size
                codec = codec_of(kind)
                if (
                    codec >= _CODECS
                    or not 0 < count * 4 <= uncompressed <= MAX_UNCOMPRESSED
                    or (codec and not size)  # no codec compresses to nothing
                ):
                    refused.append(publishing_id)
            else:
                pos = start + 4 + size
            if refused:  # RabbitMQ refuses the bad entry and all that follow it
                if refused[-1] != publishing_id:
                    refused.append(publishing_id)
                continue
            ids.append(publishing_id)
            data.append(frame[start:pos])
            records.append(count)
    except struct.error:
        raise ProtocolError("an entry of a Publish is cut off") from None
    if pos != end:
        raise ProtocolError("the last entry of a Publish is cut off")
    return Entries(ids, data, records, None, tuple(refused))


def split_filtered(frame: bytes) -> Entries:
    """Cuts a Publish frame of version 2. Raises ``ProtocolError`` where an entry is cut off."""
    ids: list[bytes] = []
    data: list[bytes] = []
    filters: list[str] = []
    pos, end = ENTRIES_AT, len(frame)
    try:
        while pos < end:
            start = pos + 8
            ids.append(frame[pos:start])
            (length,) = _U16.unpack_from(frame, start)
            start += 2
            value_end = start + (0 if length == _NO_FILTER else length)
            # A value that is not UTF-8 matches no subscription's filter; lone surrogates would crash the hash.
            filters.append(frame[start:value_end].decode(errors="replace"))
            (size,) = _I32.unpack_from(frame, value_end)
            if size < 0:
                raise ProtocolError("a message of a Publish has no bytes")
            pos = value_end + 4 + size
            data.append(frame[value_end:pos])
    except struct.error:
        raise ProtocolError("an entry of a Publish is cut off") from None
    if pos != end:
        raise ProtocolError("the last entry of a Publish is cut off")
    return Entries(ids, data, None, filters)


def without_repeats(entries: Entries, last: bytes) -> tuple[Entries, list[bytes]]:
    """Returns the entries whose id is greater than ``last`` and all ids before it, and the ids of the others.

    ``last`` is empty where nothing was published under the name yet.
    """
    ids, data, records, filters, _ = entries
    kept: list[int] = []
    repeated: list[bytes] = []
    for number, publishing_id in enumerate(ids):
        if publishing_id > last:
            last = publishing_id
            kept.append(number)
        else:
            repeated.append(publishing_id)
    if not repeated:
        return entries, repeated
    return (
        Entries(
            [ids[number] for number in kept],
            [data[number] for number in kept],
            None if records is None else [records[number] for number in kept],
            None if filters is None else [filters[number] for number in kept],
            entries.refused,
        ),
        repeated,
    )
