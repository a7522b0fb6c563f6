"""The seam: the functions that touch every message, between runs of messages and the frames and chunks of the wire.

They take and return bytes, lists and numbers, and know nothing of publishers or subscriptions. Nothing in them is done
once per message but by calls into C. A compiled twin may take the place of each, and must give the same bytes:
tests/property/test_wire.py compares each with the table of ``commands`` or with a simple loop.

A function that reads returns None for what is not its plain case, such as a chunk with sub-entries or a frame that is
cut off. The general code then reads the same bytes, and says what is wrong with them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import repeat

from rstream_core.checks import MAX_STRING, check_text
from rstream_core.errors import RESPONSE_OK
from rstream_core.protocol import commands as c

FRAME_HEAD = struct.Struct(">IHHBi")  # size, key, version, publisher id, count
ENTRY_HEAD = 12  # publishing id and size

_ENTRY = struct.Struct(">QI")
_SIZE = struct.Struct(">I")
_ID = struct.Struct(">Q")
_DELIVER_HEAD, _DELIVER = b"\x00\x08\x00\x01", struct.Struct(">4xB")
_DELIVER_COMMITTED_HEAD, _DELIVER_COMMITTED = b"\x00\x08\x00\x02", struct.Struct(">4xBQ")
_CONFIRM_HEAD, _CONFIRM = b"\x00\x03\x00\x01", struct.Struct(">4xBi")
"""Key and version of a frame, and the fields behind them."""
_NO_FILTER = b"\xff\xff"
"""The length field of an absent string: -1."""


# Messages to frames.


def publish_frame(
    publisher_id: int,
    ids: Sequence[int],
    messages: Sequence[bytes],
    sizes: Sequence[int],
    filters: Sequence[bytes] | None = None,
) -> bytes:
    """Returns a Publish frame: the same bytes as ``commands.encode``, but built by columns instead of entry by entry.

    ``sizes``: the bytes of each message. With ``filters``, encoded filter values, the frame is of version 2.

    Raises ``TypeError`` for a publishing id that is no whole number.
    """
    count = len(ids)
    size = FRAME_HEAD.size - 4 + ENTRY_HEAD * count + sum(sizes)
    try:
        if filters is None:
            version, width = 1, 2
            parts: list[bytes] = [b""] * (2 * count + 1)
            parts[1::2] = map(_ENTRY.pack, ids, sizes)
        else:
            version, width = 2, 4
            size += sum(map(len, filters))
            parts = [b""] * (4 * count + 1)
            parts[1::4] = map(_ID.pack, ids)
            parts[2::4] = filters
            parts[3::4] = map(_SIZE.pack, sizes)
    except struct.error:
        raise TypeError("a publishing id is no whole number") from None
    parts[width::width] = messages
    parts[0] = FRAME_HEAD.pack(size, c.Key.PUBLISH, version, publisher_id, count)
    return b"".join(parts)


def encode_filter(value: str | None) -> bytes:
    """Returns a filter value as it stands in a frame. Raises what ``check_text`` raises for one that cannot be."""
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


def join_entries(messages: Sequence[bytes]) -> bytes:
    """Returns ``[size:u32][message]`` of each: what a chunk holds, and an uncompressed sub-batch."""
    parts: list[bytes] = [b""] * (2 * len(messages))
    parts[::2] = map(_SIZE.pack, map(len, messages))
    parts[1::2] = messages
    return b"".join(parts)


# Frames and chunks to messages.


def received(frame: bytes) -> c.Frame | None:
    """Returns what ``commands.decode`` returns for a Deliver or a PublishConfirm; None for all other frames.

    A Deliver becomes a ``Delivery``, whose chunk is not copied. Consecutive ids of a PublishConfirm are a ``range``.
    """
    head = frame[:4]
    if head == _DELIVER_COMMITTED_HEAD:
        if len(frame) >= _DELIVER_COMMITTED.size:
            subscription_id, committed = _DELIVER_COMMITTED.unpack_from(frame)
            message = c.Delivery(subscription_id, committed, frame, _DELIVER_COMMITTED.size)
            return c.Frame(message, None, RESPONSE_OK, c.Key.DELIVER)
    elif head == _CONFIRM_HEAD:
        if len(frame) < _CONFIRM.size:
            return None
        publisher_id, count = _CONFIRM.unpack_from(frame)
        if len(frame) == _CONFIRM.size + 8 * count:
            ids = confirmed_ids(frame[_CONFIRM.size :])
            return c.Frame(c.PublishConfirm(publisher_id, ids), None, RESPONSE_OK, c.Key.PUBLISH_CONFIRM)
    elif head == _DELIVER_HEAD and len(frame) >= _DELIVER.size:
        (subscription_id,) = _DELIVER.unpack_from(frame)
        return c.Frame(c.Delivery(subscription_id, None, frame, _DELIVER.size), None, RESPONSE_OK, c.Key.DELIVER)
    return None


_MOST = 8192
_ONES = int.from_bytes(struct.pack(f">{_MOST}Q", *repeat(1, _MOST)))
_COUNTING = int.from_bytes(struct.pack(f">{_MOST}Q", *range(_MOST)))
"""The numbers 1, 1, 1, ... and 0, 1, 2, ... in 64 bits each, read as one large number."""


def confirmed_ids(data: bytes) -> Sequence[int]:
    """Returns the ids in a PublishConfirm, eight bytes each: a ``range`` where each is one more than the one before.

    Brokers nearly always confirm runs. The whole run is compared at once, as one large number: first * (1, 1, 1, ...) +
    (0, 1, 2, ...). That takes a quarter of the time that it takes to read and compare the ids.
    """
    count = len(data) >> 3
    if count < 2:
        return (int.from_bytes(data),) if count else ()
    first, last = int.from_bytes(data[:8]), int.from_bytes(data[-8:])
    if last - first == count - 1 and count <= _MOST:
        unused = 64 * (_MOST - count)
        if first * (_ONES >> unused) + (_COUNTING >> unused) == int.from_bytes(data):
            return range(first, last + 1)
    return struct.unpack(f">{count}Q", data)


def split(data: bytes, start: int, end: int, count: int) -> list[bytes] | None:
    """Returns the ``count`` messages that ``data[start:end]`` holds, each behind its size.

    None where one of them is a sub-entry, or where they are not exactly these bytes.
    """
    messages: list[bytes] = []
    size_at = _SIZE.unpack_from
    pos = start
    try:
        for _ in repeat(None, count):
            (size,) = size_at(data, pos)
            begin = pos + 4
            pos = begin + size
            if pos > end:
                return None
            messages.append(data[begin:pos])
    except struct.error:
        return None
    return messages if pos == end else None
