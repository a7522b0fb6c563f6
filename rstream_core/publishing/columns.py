"""What one call publishes: checked, measured once, and cut for frames. Without I/O."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

from rstream_core.errors import MessageTooLarge
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp_sections import PREFIXES, SHORT_BODY, PlainMessages
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, check_compression, compress
from rstream_core.protocol.placed import Packed, PlacedMessages, Singles
from rstream_core.protocol.sub_batch import SUB_BATCH
from rstream_core.protocol.wire import (
    MESSAGE_OVERHEAD,
    Lines,
    cut_for_frames,
    encode_filter,
    publish_frame,
    publish_plain,
    publish_size,
)
from rstream_core.publishing.in_flight import FilterValues
from rstream_core.types import CompressionType

MAX_SUB_ENTRY_RECORDS = 0xFFFF
FRAME_TARGET = 128 * 1024
"""Bytes after which a batch is cut into another frame, so that confirms come back while the rest is written."""


class Columns:
    """Encoded messages in columns: the bytes of each, and its encoded filter value."""

    sub_entry: ClassVar[None] = None
    """The messages that share one publishing id."""

    __slots__ = ("_beside", "_filters", "_lengths", "_messages", "_sizes", "has_filters")

    def __init__(self, messages: Sequence[bytes], filter_values: FilterValues | None = None) -> None:
        """Raises ``ValueError`` for columns of different lengths, and what ``encode_filter`` raises."""
        self._messages = messages
        self._lengths = self._sizes = list(map(len, messages))
        self._beside = 0
        """Bytes that each message takes beside its size in ``_sizes``."""
        self._filters: list[bytes] | None = None
        if filter_values is not None:
            if len(filter_values) != len(messages):
                raise ValueError(f"{len(filter_values)} filter values for {len(messages)} messages")
            if any(value is not None for value in filter_values):
                self._filters = list(map(encode_filter, filter_values))
                self._sizes = list(map(operator.add, self._lengths, map(len, self._filters)))
        self.has_filters = self._filters is not None
        """Whether a message has a filter value, which not every broker takes."""

    def check(self, limit: int) -> None:
        """Raises ``MessageTooLarge`` if a message and its filter value do not fit a frame of ``limit`` bytes."""
        most = limit - MESSAGE_OVERHEAD
        if max(self._sizes) + self._beside > most:
            raise too_large([size + self._beside for size in self._sizes], most)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """Returns where each frame begins and ends in the messages, and the bytes of those: see ``cut_for_frames``.

        A frame ends behind each ``most`` messages: so many usually fit one, which is found out without looking at each.
        """
        parts: list[tuple[int, int, int]] = []
        beside = self._beside
        for begin in range(0, len(self._sizes), most):
            sizes = self._sizes[begin : begin + most]
            cuts = cut_for_frames(sizes, limit, most, beside)
            for low, high in pairwise((0, *cuts)):
                size = sum(sizes if len(cuts) == 1 else sizes[low:high]) + beside * (high - low)
                parts.append((begin + low, begin + high, size))
        return parts

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """Returns the frame of the messages ``low`` to ``high`` - 1. ``ids`` are those of all messages."""
        if high - low == len(ids):
            return publish_frame(publisher_id, ids, self._messages, self._lengths, self._filters)
        part = slice(low, high)
        filters = None if self._filters is None else self._filters[part]
        return publish_frame(publisher_id, ids[part], self._messages[part], self._lengths[part], filters)


class PlainColumns(Columns):
    """Plain messages without filter values: the frame is made of their bodies."""

    __slots__ = ("_bodies", "_most", "_size")

    def __init__(self, messages: PlainMessages) -> None:
        self._bodies = messages.bodies
        self._lengths = self._sizes = messages.lengths
        self._beside = len(PREFIXES[0])
        if messages.most > SHORT_BODY:
            self._sizes = [size + len(PREFIXES[size]) for size in self._lengths]
            self._beside = 0
        self._most = len(PREFIXES[messages.most]) + messages.most
        self._size = sum(self._sizes) + self._beside * len(self._sizes)
        self.has_filters = False

    def check(self, limit: int) -> None:
        """See ``Columns.check``."""
        if self._most > limit - MESSAGE_OVERHEAD:
            super().check(limit)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """See ``Columns.parts``."""
        count = len(self._bodies)
        if count <= most and publish_size(count, self._size) <= limit:
            return ((0, count, self._size),)
        return super().parts(limit, most)

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """See ``Columns.frame``."""
        if high - low == len(ids):
            return publish_plain(publisher_id, ids, self._bodies, self._lengths, self._size)
        part = slice(low, high)
        size = sum(self._sizes[part]) + self._beside * (high - low)
        return publish_plain(publisher_id, ids[part], self._bodies[part], self._lengths[part], size)


class LineColumns:
    """Lines without filter values: the frame is made of them where they are."""

    sub_entry: ClassVar[None] = None
    has_filters: ClassVar[bool] = False

    __slots__ = ("_lines", "_messages", "_spans")

    def __init__(self, messages: PlainMessages, lines: Lines) -> None:
        self._messages = messages
        self._lines = lines
        self._spans: dict[int, tuple[int, int, int]] = {}
        """Of the frame that begins with a message: where its lines begin and end, and the bytes of its messages."""

    def check(self, limit: int) -> None:
        """See ``Columns.check``."""
        if len(PREFIXES[self._lines.longest]) + self._lines.longest > limit - MESSAGE_OVERHEAD:
            PlainColumns(self._messages).check(limit)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """See ``Columns.parts``."""
        parts: list[tuple[int, int, int]] = []
        low, start = 0, self._lines.start
        for high, size, end in self._lines.parts(limit, most):
            parts.append((low, high, size))
            self._spans[low] = start, end, size
            low, start = high, end
        return parts

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """See ``Columns.frame``. It must be one of the ``parts``."""
        some = ids if high - low == len(ids) else ids[low:high]
        return self._lines.frame(publisher_id, some, *self._spans[low])


class PlacedColumns:
    """Single messages where they lie in a chunk: the frame is made of them there."""

    sub_entry: ClassVar[None] = None
    has_filters: ClassVar[bool] = False

    __slots__ = ("_ends", "_singles")

    def __init__(self, singles: Singles) -> None:
        self._singles = singles
        self._ends: dict[int, tuple[int, int]] = {}
        """Of the frame that begins with a message: where it begins and ends in the data."""

    def check(self, limit: int) -> None:
        """See ``Columns.check``."""
        most = limit - MESSAGE_OVERHEAD
        if self._singles.longest > most:
            sizes = self._singles.sizes
            if max(sizes) > most:
                raise too_large(sizes, most)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """See ``Columns.parts``."""
        parts: list[tuple[int, int, int]] = []
        low, start = 0, self._singles.begin
        for high, size, end in self._singles.parts(limit, most):
            parts.append((low, high, size))
            self._ends[low] = start, end
            low, start = high, end
        return parts

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """See ``Columns.frame``. It must be one of the ``parts``."""
        some = ids if high - low == len(ids) else ids[low:high]
        return self._singles.frame(publisher_id, some, *self._ends[low])


class PackedColumns:
    """A sub-entry that goes on as it came."""

    has_filters: ClassVar[bool] = False

    __slots__ = ("sub_entry",)

    def __init__(self, packed: Packed) -> None:
        self.sub_entry = packed

    def fits(self, limit: int) -> bool:
        """Returns whether a frame of ``limit`` bytes holds it."""
        return publish_size(1, self.sub_entry.size) + SUB_BATCH.size - 4 <= limit

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """Returns its one part: see ``SubEntry.parts``."""
        return ((0, 1, self.sub_entry.size),)

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """See ``SubEntry.frame``."""
        packed = self.sub_entry
        data = packed.data[packed.begin : packed.end]
        entry = c.PublishedSubBatch(ids[low], packed.codec, packed.records, packed.plain_size, data)
        return c.encode(c.Publish(publisher_id, (entry,)))


def placed_columns(
    messages: PlacedMessages, ids: Sequence[int] | None, limit: int
) -> Iterator[tuple[PlacedColumns | PackedColumns, int, Sequence[int] | None]]:
    """Yields the columns of messages in their place, for frames of ``limit`` bytes, in their order: with the number of
    their messages, and their ids out of those of all messages. A sub-entry has that of its last message, so that a
    stream that has it under a name is known to have all of them.

    A sub-entry that no frame holds is unpacked. Raises ``ChunkError`` where that cannot be, and ``MessageTooLarge``.
    """
    begin = 0
    for stretch in messages.stretches:
        end = begin + stretch.records
        if isinstance(stretch, Packed):
            whole = PackedColumns(stretch)
            if whole.fits(limit):
                yield whole, stretch.records, None if ids is None else ids[end - 1 : end]
                begin = end
                continue
            stretch = stretch.unpack()  # noqa: PLW2901 - the same messages, one by one
        columns = PlacedColumns(stretch)
        try:
            columns.check(limit)
        except MessageTooLarge as error:
            raise too_large(stretch.sizes, limit - MESSAGE_OVERHEAD, begin, len(messages)) from error
        yield columns, stretch.records, None if ids is None else ids[begin:end]
        begin = end


def columns_of(messages: Sequence[bytes], filter_values: FilterValues | None) -> Columns | LineColumns:
    """Returns the columns of encoded messages. Raises what ``Columns`` raises."""
    if isinstance(messages, PlainMessages) and filter_values is None and isinstance(messages.unsplit, Lines):
        return LineColumns(messages, messages.unsplit)
    if isinstance(messages, PlainMessages) and filter_values is None:
        return PlainColumns(messages)
    return Columns(messages.encoded if isinstance(messages, PlainMessages) else messages, filter_values)


class SubEntry:
    """Up to 65,535 encoded messages, compressed into one entry."""

    __slots__ = ("_compression", "_data", "_plain_size", "sub_entry")

    def __init__(self, messages: Sequence[bytes], compression: CompressionType) -> None:
        """Raises ``TypeError`` for what is no compression, ``ValueError`` for too many messages or none, and
        ``MessageTooLarge`` for more bytes than a client may read."""
        self._compression = check_compression(compression)
        if not 0 < len(messages) <= MAX_SUB_ENTRY_RECORDS:
            raise ValueError(f"a sub-entry holds 1 to {MAX_SUB_ENTRY_RECORDS} messages, not {len(messages)}")
        plain = join_sub_batch(messages)
        if len(plain) > MAX_UNCOMPRESSED:  # brokers before 4.3.5 would store it, and no client could read it
            raise MessageTooLarge(f"a sub-entry of {len(plain)} bytes; {MAX_UNCOMPRESSED} are the limit")
        self.sub_entry = messages if isinstance(messages, PlainMessages) else tuple(messages)
        self._plain_size = len(plain)
        self._data = compress(compression, plain)

    def check(self, limit: int) -> None:
        """Raises ``MessageTooLarge`` if it does not fit a frame of ``limit`` bytes."""
        if len(self.frame(0, (0,), 0, 1)) - 4 > limit:
            raise MessageTooLarge(
                f"a sub-entry of {len(self._data)} bytes does not fit a frame of {limit}", hint=Hint.FRAME_LIMIT
            )

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """Returns its one part: see ``Columns.parts``. The bytes are those that it is compressed to."""
        return ((0, 1, len(self._data)),)

    def frame(self, publisher_id: int, ids: Sequence[int], low: int, high: int) -> bytes:
        """Returns its frame. Raises ``ProtocolError`` for what is no publishing id."""
        entry = c.PublishedSubBatch(ids[low], self._compression, len(self.sub_entry), self._plain_size, self._data)
        return c.encode(c.Publish(publisher_id, (entry,)))


def check_frames(frames: Sequence[bytes], limit: int) -> None:
    """Raises ``MessageTooLarge`` if one takes more than ``limit`` bytes, its single message being too large."""
    for frame in frames:
        if len(frame) - 4 > limit:
            raise too_large([len(frame) - 4 - MESSAGE_OVERHEAD], limit - MESSAGE_OVERHEAD)


def too_large(sizes: Sequence[int], most: int, before: int = 0, of: int | None = None) -> MessageTooLarge:
    """Returns the error for the first of messages of these sizes that takes more than ``most`` bytes.

    ``before``: how many messages stand before them, ``of``: how many there are in all.
    """
    at = next(at for at, size in enumerate(sizes) if size > most)
    count = len(sizes) if of is None else of
    return MessageTooLarge(
        f"message {before + at + 1} of {count} takes {sizes[at]} bytes; the agreed frame size allows {most}",
        position=before + at,
        hint=Hint.FRAME_LIMIT,
    )
