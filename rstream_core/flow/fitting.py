"""What fits a Publish frame: where to cut messages into batches, and which of them are too large."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from rstream_core.flow.block import Block
from rstream_core.flow.refusing import Bad
from rstream_core.protocol.amqp_sections import most_of, sizes_of
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress
from rstream_core.types import CompressionType

SUB_ENTRY_TARGET = 1024 * 1024
"""Bytes of a sub-entry before it is compressed, where it holds more than one message."""
_SUB_ENTRY_HEAD = 7
"""Bytes that the head of a sub-entry takes more than that of a message."""
_SIZE_IN_SUB_ENTRY = 4
"""Bytes that stand before each message in it."""
_FILTER_HEAD = 2
"""Bytes of a filter value's length."""


def batch_ends(messages: Sequence[bytes], most: int, most_bytes: float | None) -> Iterator[int]:
    """Yields where each batch of the messages ends: it has ``most`` messages at most, and ``most_bytes`` bytes (None:
    without a limit). A message that is larger makes a batch of its own."""
    count = len(messages)
    if most_bytes is None:
        yield from range(most, count, most)
    else:
        totals = list(accumulate(sizes_of(messages), initial=0))
        end = 0
        while (
            end := max(bisect_right(totals, totals[end] + most_bytes, end, min(end + most, count) + 1) - 1, end + 1)
        ) < count:
            yield end
    if count:
        yield count


class TooLarge:
    """Finds the messages of a block that no frame holds, for ``LeaveOutBad``."""

    def __init__(self, limit: Callable[[], int], sub_entries: CompressionType | None = None) -> None:
        """``limit``: the largest message, in bytes, that fits a frame. ``sub_entries``: the compression of sub-entries;
        None: each message is an entry by itself."""
        self._limit = limit
        self._sub_entries = sub_entries

    def __call__(self, block: Block) -> Sequence[Bad]:
        limit = self._limit()
        certain = limit
        if self._sub_entries is not None:
            limit -= _SUB_ENTRY_HEAD
            certain = limit - limit // 50 - _SIZE_IN_SUB_ENTRY  # compression can make a message larger, by a bit
        messages, filters = block.messages, block.filters
        if filters is None and most_of(messages) <= certain:
            return ()
        sizes = sizes_of(messages)
        if filters is not None:
            sizes = [
                size + (0 if value is None else _FILTER_HEAD + len(value.encode()))
                for size, value in zip(sizes, filters, strict=True)
            ]
        suspects = [place for place, size in enumerate(sizes) if size > certain]
        if self._sub_entries is None:
            return [Bad(place, _too_large(sizes[place], limit)) for place in suspects]
        found = ((place, _why_alone(messages[place], limit, self._sub_entries)) for place in suspects)
        return [Bad(place, why) for place, why in found if why is not None]


def _why_alone(message: bytes, limit: int, compression: CompressionType) -> str | None:
    """Returns why a sub-entry of this message alone cannot be published; ``limit`` is what its data may take."""
    most = MAX_UNCOMPRESSED if compression is not CompressionType.No else min(MAX_UNCOMPRESSED, limit)
    if len(message) + _SIZE_IN_SUB_ENTRY > most:
        return _too_large(len(message), most - _SIZE_IN_SUB_ENTRY, " in a sub-entry")
    size = len(compress(compression, join_sub_batch([message])))
    if size <= limit:
        return None
    return f"{len(message)} bytes take {size} once they are compressed; at most {limit} fit"


def _too_large(size: int, limit: int, where: str = "") -> str:
    return f"{size} bytes are too large; at most {limit} fit{where}"
