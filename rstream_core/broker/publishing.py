"""What a Publish frame holds, cut into the entries of a chunk.

This is the broker's hot path: one loop that slices each entry where it lies. An entry of a Publish is already what an
entry of a chunk is, its size included, and a publishing id stays the eight bytes that it is: as bytes it compares
as the number does, and goes back in a confirm as it came. The number of entries that a frame claims is not looked
at; RabbitMQ does not either.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rstream_core.errors import ProtocolError
from rstream_core.protocol.commands import SUB_BATCH_BIT

ENTRIES_AT = 4 + 1 + 4
"""In a frame without its size: key and version, publisher id, the number of entries."""
MAX_UNCOMPRESSED = 64 * 1024 * 1024
"""Bytes that a sub-entry may claim to have once it is decompressed."""

_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U16 = struct.Struct(">H")
_NO_FILTER = 0xFFFF
_SUB_BATCH = struct.Struct(">BHII")
_SUB_BATCH_SIZE = SUB_BATCH_BIT << 24
_CODECS = 5


class Entries(NamedTuple):
    """The entries of one frame, in their order. The lists are of the same length."""

    ids: list[bytes]
    data: list[bytes]
    """Each with its size, as it stands in a chunk."""
    records: list[int] | None = None
    """Messages in each entry; None where each is one."""
    filters: list[str] | None = None
    """The filter value of each, empty for none; None where no entry can have one."""
    refused: tuple[bytes, ...] = ()
    """The ids from the first sub-entry on that cannot be: precondition failed."""


def split_publish(frame: bytes) -> Entries:
    """Of a Publish v1. Raises ``ProtocolError`` where an entry is cut off."""
    ids: list[bytes] = []
    data: list[bytes] = []
    add_id, add = ids.append, data.append
    unpack = _U32.unpack_from
    pos, end = ENTRIES_AT, len(frame)
    try:
        while pos < end:
            start = pos + 8
            (size,) = unpack(frame, start)
            if size >= _SUB_BATCH_SIZE:
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
            if size >= _SUB_BATCH_SIZE:
                kind, count, uncompressed, size = _SUB_BATCH.unpack_from(frame, start)
                pos = start + _SUB_BATCH.size + size
                codec = kind >> 4 & 7
                if (
                    codec >= _CODECS
                    or not 0 < count * 4 <= uncompressed <= MAX_UNCOMPRESSED
                    or (codec and not size)  # nothing cannot be what a codec made
                ):
                    refused.append(publishing_id)
            else:
                pos = start + 4 + size
            if refused:  # RabbitMQ refuses the bad one and all that follows it
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
    """Of a Publish v2. Raises ``ProtocolError`` where an entry is cut off."""
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
            # What is no UTF-8 matches no subscription's filter; lone surrogates would crash the hash.
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


def without_repeats(entries: Entries, last: bytes) -> tuple[Entries, list[bytes], bytes]:
    """Those whose id is greater than ``last`` and all before; the ids of the others; the last id now.

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
        return entries, repeated, last
    return (
        Entries(
            [ids[number] for number in kept],
            [data[number] for number in kept],
            None if records is None else [records[number] for number in kept],
            None if filters is None else [filters[number] for number in kept],
            entries.refused,
        ),
        repeated,
        last,
    )
