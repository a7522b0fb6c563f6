"""The functions that touch every message: runs of messages <-> frames.

They handle columns (ids, sizes, messages) with few calls per frame, and make the same bytes as ``commands.encode``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from rstream_core.checks import MAX_STRING, check_text
from rstream_core.protocol import commands as c

FRAME_HEAD = struct.Struct(">IHHBi")  # size, key, version, publisher id, count
ENTRY_HEAD = 12  # publishing id and size

_pack_size = struct.Struct(">I").pack
_NO_FILTER = b"\xff\xff"
"""The length field of an absent string: -1."""


def publish_frame(
    publisher_id: int, ids: Sequence[int], messages: Sequence[bytes], size: int, filters: Sequence[bytes] | None = None
) -> bytes:
    """Returns a Publish frame: the same bytes as ``commands.encode``, but built by columns instead of entry by entry.

    With ``filters``, encoded filter values, it is version 2. ``size`` is the bytes of the messages and the filters.
    """
    count = len(ids)
    try:
        packed = struct.pack(f">{count}Q", *ids)
    except struct.error:
        raise TypeError("a publishing id is no whole number") from None
    columns: list[Iterable[bytes]] = [
        [packed[at : at + 8] for at in range(0, 8 * count, 8)],
        map(_pack_size, map(len, messages)),
        messages,
    ]
    version = 1
    if filters is not None:
        columns.insert(1, filters)
        version = 2
    width = len(columns)
    parts: list[bytes] = [b""] * (width * count + 1)
    parts[0] = FRAME_HEAD.pack(
        FRAME_HEAD.size - 4 + ENTRY_HEAD * count + size, c.Key.PUBLISH, version, publisher_id, count
    )
    for place, column in enumerate(columns, 1):
        parts[place::width] = column
    return b"".join(parts)


def encode_filter(value: str | None) -> bytes:
    if value is None:
        return _NO_FILTER
    try:
        data = value.encode()
    except (AttributeError, UnicodeEncodeError):
        check_text("a filter value", value)  # raises an error that says what is wrong
        raise
    if len(data) > MAX_STRING:
        check_text("a filter value", value)
    return len(data).to_bytes(2) + data


def cut_for_frames(sizes: Sequence[int], limit: int, most: int) -> Sequence[int]:
    """Returns where to cut messages of these sizes: the ends of parts that each make one Publish frame.

    A part takes ``most`` messages at most, and a frame ``limit`` bytes; a message that is larger has a part of its own.
    """
    budget = limit - (FRAME_HEAD.size - 4)
    if len(sizes) <= most and sum(sizes) + ENTRY_HEAD * len(sizes) <= budget:
        return (len(sizes),)
    cuts: list[int] = []
    used = start = 0
    for position, size in enumerate(sizes):
        entry = size + ENTRY_HEAD
        if used and (used + entry > budget or position - start == most):
            cuts.append(position)
            used, start = 0, position
        used += entry
    cuts.append(len(sizes))
    return cuts
