"""The functions that touch every message, in Python: between runs of messages and the frames and chunks of the wire.

They take and return bytes, lists and numbers, and know nothing of publishers or subscriptions. Little in them is done
once per message but by calls into C. ``wire``, which everybody calls, has the compiled twin of some of them.

A function that reads returns None for what is not its plain case, such as a chunk with sub-entries or a frame that is
cut off. The general code then reads the same bytes, and says what is wrong with them. The module is longer than
others, since all that touches every message is in one place, as in the compiled twin.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import compress, repeat
from typing import TypeVar

from rstream_core.checks import MAX_STRING, check_text
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp_sections import DATA32, PREFIXES, SHORT_BODY
from rstream_core.protocol.sub_batch import SUB_BATCH, SUB_BATCH_BIT, SUB_BATCH_SIZE

T = TypeVar("T")

FRAME_HEAD = struct.Struct(">IHHBi")  # size, key, version, publisher id, count
ENTRY_HEAD = 12  # publishing id and size
MESSAGE_OVERHEAD = FRAME_HEAD.size - 4 + ENTRY_HEAD
"""Bytes that a frame with a single message takes beside it, without those of its own size."""

_ENTRY = struct.Struct(">QI")
_SIZE = struct.Struct(">I")
_ID = struct.Struct(">Q")
_FILTER_SIZE = struct.Struct(">h")
_PUBLISHER = 8
"""Where the publisher's id stands in a frame."""
_NO_FILTER = b"\xff\xff"
"""The length field of an absent string: -1."""


# Messages to frames.


def publish_size(count: int, size: int) -> int:
    """Returns the bytes of a Publish frame behind its size field: for ``count`` messages of ``size`` bytes together."""
    return FRAME_HEAD.size - 4 + ENTRY_HEAD * count + size


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
    size = publish_size(count, sum(sizes))
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


class _BodyHeads(dict[int, bytes]):
    """The bytes before a body in the entry of a plain message, by its size. Caches a bounded number of sizes."""

    def __missing__(self, size: int) -> bytes:
        prefix = PREFIXES[size]
        head = _SIZE.pack(len(prefix) + size) + prefix
        if len(self) < 4096:
            self[size] = head
        return head


_BODY_HEADS = _BodyHeads()
_BYTES = [bytes((number,)) for number in range(256)]


def publish_plain(
    publisher_id: int, ids: Sequence[int], bodies: Sequence[bytes], lengths: Sequence[int], size: int
) -> bytes:
    """Returns the Publish frame of the plain messages with these bodies: see ``publish_frame``.

    No message is made. That takes half of the time for encoding them first, where the ids are a range. ``lengths``: of
    the bodies. ``size``: bytes of the messages. Raises ``TypeError`` for a publishing id that is no whole number.
    """
    count = len(ids)
    parts: list[bytes] = [b""] * (4 * count + 1)
    parts[0] = FRAME_HEAD.pack(publish_size(count, size), c.Key.PUBLISH, 1, publisher_id, count)
    if type(ids) is range and ids.step == 1:
        parts[1::4], parts[2::4] = _packed_range(ids)
    else:
        try:
            parts[1::4] = map(_ID.pack, ids)
        except struct.error:
            raise TypeError("a publishing id is no whole number") from None
    parts[3::4] = map(_BODY_HEADS.__getitem__, lengths)
    parts[4::4] = bodies
    return b"".join(parts)


def _packed_range(ids: range) -> tuple[list[bytes], list[bytes]]:
    """Returns the first seven bytes of each id, and the last one: both are made of a few objects."""
    high: list[bytes] = []
    first, last = ids[0], ids[-1]
    for prefix in range(first >> 8, (last >> 8) + 1):
        high += [prefix.to_bytes(7)] * (min(last, prefix << 8 | 255) - max(first, prefix << 8) + 1)
    skipped = first & 255
    return high, (_BYTES * ((skipped + len(ids) >> 8) + 1))[skipped : skipped + len(ids)]


def publish_entries(publisher_id: int, ids: Sequence[int], data: bytes, start: int, end: int) -> bytes:
    """Returns the Publish frame of the single messages in ``data[start:end]``, each behind its size.

    There are as many as ids. Raises ``TypeError`` for a publishing id that is no whole number, ``ValueError`` where the
    messages are not exactly these bytes.
    """
    messages = split(data, start, end, len(ids))
    if messages is None:
        raise ValueError(f"{end - start} bytes are not {len(ids)} messages")
    return publish_frame(publisher_id, ids, messages, list(map(len, messages)))


def cut_entries(data: bytes, start: int, end: int, limit: int, most: int) -> list[tuple[int, int, int]]:
    """Returns where to cut the single messages in ``data[start:end]``, each behind its size, for Publish frames.

    Each part makes one frame of up to ``limit`` bytes behind its size; a part ends behind each ``most`` messages, and a
    larger message has a part of its own. A part is the number of the message behind its last one, the bytes of its
    messages, and where it ends in the data. Raises ``ValueError`` where the messages are not exactly these bytes.
    """
    budget = limit - (FRAME_HEAD.size - 4)
    parts: list[tuple[int, int, int]] = []
    size_at = _SIZE.unpack_from
    pos, place, first, used = start, 0, 0, 0
    try:
        while pos < end:
            (size,) = size_at(data, pos)
            if place > first and (place % most == 0 or used + size + ENTRY_HEAD > budget):
                parts.append((place, used - ENTRY_HEAD * (place - first), pos))
                first, used = place, 0
            used += size + ENTRY_HEAD
            place += 1
            pos += 4 + size
    except struct.error:
        pos = -1
    if pos != end or not place:
        raise ValueError(f"{end - start} bytes are not whole messages")
    parts.append((place, used - ENTRY_HEAD * (place - first), pos))
    return parts


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


def cut_for_frames(sizes: Sequence[int], limit: int, most: int, beside: int = 0) -> Sequence[int]:
    """Returns where to cut messages of these sizes: the ends of parts that each make one Publish frame.

    A part takes ``most`` messages at most, and a frame ``limit`` bytes; a message that is larger has a part of its own.
    ``beside``: bytes that each message takes beside its size.
    """
    budget = limit - (FRAME_HEAD.size - 4)
    beside += ENTRY_HEAD
    if len(sizes) <= most and sum(sizes) + beside * len(sizes) <= budget:
        return (len(sizes),)
    cuts: list[int] = []
    used = start = 0
    for position, size in enumerate(sizes):
        entry = size + beside
        if used and (used + entry > budget or position - start == most):
            cuts.append(position)
            used, start = 0, position
        used += entry
    cuts.append(len(sizes))
    return cuts


def refit(
    frame: bytes, publisher_id: int, limit: int, most: int, is_open: bytes | bytearray | None = None
) -> list[bytes]:
    """Returns frames with the entries of a Publish frame, under the same ids, to send them again on any connection.

    ``is_open`` has a byte for each entry, 0 for one to leave out; None: none is left out. Where all stay and the frame
    fits ``limit``, only the publisher's id changes. Else they are cut as by ``cut_for_frames``. A frame with a
    sub-entry is never cut: it holds nothing else.
    """
    if is_open is None and (len(frame) - 4 <= limit or has_sub_entry(frame)):
        if frame[_PUBLISHER] == publisher_id:
            return [frame]
        return [b"".join((frame[:_PUBLISHER], bytes((publisher_id,)), frame[_PUBLISHER + 1 :]))]
    bounds = _entry_bounds(frame)
    entries = [frame[start:end] for start, _, end in bounds]
    if is_open is not None:
        entries = list(compress(entries, is_open))
        if not entries:
            return []
    frames: list[bytes] = []
    low, (_, key, version, _, _) = 0, FRAME_HEAD.unpack_from(frame)
    for high in cut_for_frames([len(entry) - ENTRY_HEAD for entry in entries], limit, most):
        some = entries[low:high]
        size = FRAME_HEAD.size - 4 + sum(map(len, some))
        frames.append(b"".join((FRAME_HEAD.pack(size, key, version, publisher_id, high - low), *some)))
        low = high
    return frames


def published(frame: bytes) -> tuple[list[bytes], list[str | None] | None]:
    """Returns the messages of a Publish frame without sub-entries, and their filter values; None for version 1."""
    bounds = _entry_bounds(frame)
    messages = [frame[start:end] for _, start, end in bounds]
    if frame[7] == 1:
        return messages, None
    values = [frame[start + 8 : begin - 4] for start, begin, _ in bounds]
    return messages, [None if value == _NO_FILTER else value[2:].decode() for value in values]


def has_sub_entry(frame: bytes) -> bool:
    """Returns whether the first entry of a Publish frame, which must have one, is a sub-entry."""
    return frame[7] == 1 and frame[FRAME_HEAD.size + 8] >= SUB_BATCH_BIT


def _entry_bounds(frame: bytes) -> list[tuple[int, int, int]]:
    """Returns of each entry of a Publish frame: where it begins, where its message begins, and where both end."""
    bounds: list[tuple[int, int, int]] = []
    size_at, filter_at = _SIZE.unpack_from, _FILTER_SIZE.unpack_from
    is_filtered, pos = frame[7] == 2, FRAME_HEAD.size
    while pos < len(frame):
        at = pos + 8
        if is_filtered:
            (length,) = filter_at(frame, at)
            at += 2 + max(length, 0)
        (size,) = size_at(frame, at)
        bounds.append((pos, at + 4, at + 4 + size))
        pos = at + 4 + size
    return bounds


def join_entries(messages: Sequence[bytes]) -> bytes:
    """Returns ``[size:u32][message]`` of each: what a chunk holds, and an uncompressed sub-batch."""
    parts: list[bytes] = [b""] * (2 * len(messages))
    parts[::2] = map(_SIZE.pack, map(len, messages))
    parts[1::2] = messages
    return b"".join(parts)


def join_plain(bodies: Sequence[bytes]) -> bytes:
    """Returns ``join_entries`` of the plain messages with these bodies, none of which is made."""
    parts: list[bytes] = [b""] * (2 * len(bodies))
    parts[::2] = map(_BODY_HEADS.__getitem__, map(len, bodies))
    parts[1::2] = bodies
    return b"".join(parts)


def scatter(column: Iterable[T], lanes: Sequence[int]) -> dict[int, list[T]]:
    """Returns each lane that occurs, with those values of a column that go there, in their order. ``lanes``: of each
    value. Raises ``ValueError`` for columns of different lengths."""
    parts: dict[int, list[T]] = {lane: [] for lane in dict.fromkeys(lanes)}
    append = {lane: part.append for lane, part in parts.items()}
    for lane, value in zip(lanes, column, strict=True):
        append[lane](value)
    return parts


def count_delimiters(data: bytes, delimiter: bytes) -> int:
    """Returns what ``data.count(delimiter)`` returns. For a single byte, taking them out is three times as fast, and
    takes the memory of the data once more for a moment."""
    if len(delimiter) > 1:
        return data.count(delimiter)
    return len(data) - len(data.replace(delimiter, b""))


# Frames and chunks to messages.


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

    None where one of them is a sub-entry, or where they are not exactly these bytes. They must lie in the data.
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


def survey(data: bytes, start: int, end: int, count: int) -> list[tuple[int, int, int, int, int]] | None:
    """Returns what the ``count`` entries in ``data[start:end]`` are: stretches of single messages, and sub-entries.

    Of single messages that lie behind each other: where the first begins and the last ends, how many there are, the
    bytes of the longest, and 0. Of a sub-entry: where its data begin behind its head and end, how many messages it
    claims and of how many bytes once unpacked, and the first byte of its head, which is not 0. None where the entries
    are not exactly these bytes. They must lie in the data.
    """
    found: list[tuple[int, int, int, int, int]] = []
    size_at = _SIZE.unpack_from
    pos = first = start
    messages = longest = 0
    try:
        for _ in repeat(None, count):
            (size,) = size_at(data, pos)
            if size < SUB_BATCH_SIZE:
                messages += 1
                longest = max(longest, size)
                pos += 4 + size
                if pos > end:
                    return None
                continue
            if messages:
                found.append((first, pos, messages, longest, 0))
            kind, records, plain_size, size = SUB_BATCH.unpack_from(data, pos)
            pos += SUB_BATCH.size
            first = pos + size
            if first > end:
                return None
            found.append((pos, first, records, plain_size, kind))
            pos = first
            messages = longest = 0
    except struct.error:
        return None
    if messages:
        found.append((first, pos, messages, longest, 0))
    return found if pos == end else None


# Chunks to bodies. An entry whose message is nothing but a data section has certain first bytes: its size, the start of
# the section and the size of the body. So one look at these finds the body, and shows that the entry is that plain.

_SHORT_HEAD, _LONG_HEAD = 9, 12
"""Bytes before a body of up to 255 bytes in its entry, and before a longer one."""


class _ShortHeads(dict[bytes, int]):
    """The size of a body, by the bytes before it in its entry."""

    def __init__(self) -> None:
        super().__init__((_BODY_HEADS[size], size) for size in range(256))


class _LongHeads(dict[bytes, int]):
    """As ``_ShortHeads``, for longer bodies. Caches a bounded number of sizes."""

    def __missing__(self, head: bytes) -> int:
        size = int.from_bytes(head[8:])
        whole = size + _LONG_HEAD - 4
        # A size is claimed here by whoever published: it must not get into a cache before it is known to fit.
        if size <= SHORT_BODY or whole >= SUB_BATCH_SIZE or head[:8] != _SIZE.pack(whole) + DATA32:
            raise KeyError(head)
        if len(self) < 4096:
            self[head] = size
        return size


class _AnyHeads(dict[bytes, int]):
    """As ``_ShortHeads``. Of a longer body, the first nine bytes are enough: the three others of its size count to it.
    Caches a bounded number of sizes."""

    def __missing__(self, head: bytes) -> int:
        size = int.from_bytes(head[:4]) - (_LONG_HEAD - 4)
        if not SHORT_BODY < size < 1 << 24 or head[4:] != DATA32 + b"\0":
            raise KeyError(head)
        if len(self) < 4096:
            self[head] = size + 3
        return size + 3


_SHORT_HEADS, _LONG_HEADS = _ShortHeads(), _LongHeads()
_ANY_HEADS = _AnyHeads(_SHORT_HEADS)
_AT_ONCE = 64


@lru_cache(64)
def _many_and_one(before: int, size: int) -> tuple[struct.Struct, struct.Struct]:
    """Returns what takes the last ``size`` bytes out of each of ``_AT_ONCE`` entries, and out of one; there are
    ``before`` bytes before them."""
    return struct.Struct(f"{before}x{size}s" * _AT_ONCE), struct.Struct(f"{before}x{size}s")


def _bodies_of_one_size(data: bytes, start: int, end: int, width: int, step: int) -> list[bytes] | None:
    """Returns the bodies of entries that take ``step`` bytes each, all with the first ``width`` bytes of the first one;
    None where one has others. That takes a quarter of the time for entries of any size."""
    count = (end - start) // step
    for at in range(start, start + width):
        if data[at:end:step] != data[at : at + 1] * count:
            return None
    many, one = _many_and_one(width, step - width)
    bodies: list[bytes] = []
    behind = start + count // _AT_ONCE * _AT_ONCE * step
    for at in range(start, behind, _AT_ONCE * step):
        bodies += many.unpack_from(data, at)
    for at in range(behind, end, step):
        bodies += one.unpack_from(data, at)
    return bodies


def plain_bodies(data: bytes, start: int, end: int, count: int) -> list[bytes] | None:
    """Returns the bodies of the ``count`` messages that ``data[start:end]`` holds, each behind its size.

    None where one of them is not a single data section in its shortest form, as ``encode_bodies`` makes it; where one
    is a sub-entry; where there are none; and where they are not exactly these bytes. Also where one is larger than
    2 GiB, or some are longer than ``SHORT_BODY`` and one is larger than 16 MiB.
    """
    if end - start < _SHORT_HEAD * count or not count:
        return None
    width = _LONG_HEAD if data[start + 7] == DATA32[3] else _SHORT_HEAD
    heads: dict[bytes, int] = _LONG_HEADS if width == _LONG_HEAD else _SHORT_HEADS
    step, odd = divmod(end - start, count)
    if not odd and count > 1 and heads.get(data[start : start + width], -1) == step - width:
        bodies = _bodies_of_one_size(data, start, end, width, step)
        if bodies is not None:
            return bodies
    whole = data if len(data) == end else data[:end]
    bodies = _bodies_behind(heads, width, whole, start, count)
    if bodies is None:  # perhaps some are longer than others
        bodies = _bodies_behind(_ANY_HEADS, _SHORT_HEAD, whole, start, count)
        return None if bodies is None else _without_rest_of_size(bodies)
    return bodies


def _bodies_behind(heads: dict[bytes, int], width: int, data: bytes, start: int, count: int) -> list[bytes] | None:
    """Returns the bodies of entries that begin with one of the heads, of ``width`` bytes; None where one does not, or
    they are not exactly the bytes from ``start`` on."""
    file = BytesIO(data)  # makes no copy of bytes
    file.seek(start)
    read, end = file.read, len(data)
    try:
        bodies = [read(heads[read(width)]) for _ in repeat(None, count)]
        last = len(bodies[-1])  # only the last one may be cut off: behind it there is no head
        is_whole = file.tell() == end and heads[data[end - last - width : end - last]] == last
    except KeyError:
        return None
    return bodies if is_whole else None


def _without_rest_of_size(bodies: list[bytes]) -> list[bytes] | None:
    """Takes the last three bytes of the size from what ``_ANY_HEADS`` has found; None where they do not fit."""
    for place, body in enumerate(bodies):
        if len(body) > SHORT_BODY:
            if int.from_bytes(body[:3]) != len(body) - 3:
                return None
            bodies[place] = body[3:]
    return bodies
