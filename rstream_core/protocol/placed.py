"""Messages where they lie in the chunks that they came in, for whoever passes them on without looking inside.

Nothing is copied or unpacked: a stretch says where single messages lie behind each other, or where a sub-entry lies.
Only who asks for a message, or cuts a sub-entry in two, has it taken out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypeAlias, overload

from rstream_core.errors import ChunkError
from rstream_core.protocol.amqp_sections import Measured
from rstream_core.protocol.compression import decompress
from rstream_core.protocol.sub_batch import check_claims, codec_of
from rstream_core.protocol.wire import cut_entries, publish_entries, publish_size, split, survey


@dataclass(slots=True)
class Singles:
    """Messages that lie behind each other in ``data[begin:end]``, each behind its size."""

    data: bytes
    begin: int
    end: int
    records: int
    longest: int
    """A number of bytes that no message exceeds."""

    @property
    def size(self) -> int:
        """Bytes of the messages together."""
        return self.end - self.begin - 4 * self.records

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each message."""
        return list(map(len, self.split()))

    def split(self) -> list[bytes]:
        """Returns the messages."""
        messages = split(self.data, self.begin, self.end, self.records)
        assert messages is not None
        return messages

    def between(self, low: int, high: int) -> Singles:
        """Returns the messages from the place ``low`` on, before the place ``high``."""
        ends = list(accumulate(map((4).__add__, self.sizes[:high]), initial=self.begin))
        return Singles(self.data, ends[low], ends[high], high - low, self.longest)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """Returns of each Publish frame of up to ``limit`` bytes behind its size: the number of the message behind its
        last one, the bytes of its messages, and where it ends in the data. A frame ends behind each ``most`` messages,
        at least 1; a message that is larger has a frame of its own."""
        if self.records <= most and publish_size(self.records, self.size) <= limit:
            return ((self.records, self.size, self.end),)
        return cut_entries(self.data, self.begin, self.end, limit, most)

    def frame(self, publisher_id: int, ids: Sequence[int], begin: int, end: int) -> bytes:
        """Returns the Publish frame of the messages in ``data[begin:end]``, which are as many as the ids.

        Raises ``TypeError`` for a publishing id that is no whole number.
        """
        return publish_entries(publisher_id, ids, self.data, begin, end)


class Packed(Sequence[bytes]):
    """A sub-entry where it lies: its messages, which are unpacked only if somebody asks for one."""

    __slots__ = ("begin", "codec", "data", "end", "plain_size", "records")

    def __init__(self, data: bytes, begin: int, end: int, records: int, plain_size: int, codec: int) -> None:
        """``data[begin:end]`` is what stands behind the head of the sub-entry. Raises ``ChunkError`` where the numbers
        cannot be true."""
        check_claims(end - begin, records, plain_size, end - begin)
        self.data = data
        self.begin = begin
        self.end = end
        self.records = records
        self.plain_size = plain_size
        self.codec = codec

    @property
    def size(self) -> int:
        """Bytes of the compressed data."""
        return self.end - self.begin

    def unpack(self) -> Singles:
        """Returns the messages. Raises ``ChunkError`` where they cannot be unpacked, or are not what is claimed."""
        plain = decompress(self.codec, self.data[self.begin : self.end], self.plain_size)
        found = stretches(plain, 0, len(plain), self.records)
        if len(found) != 1 or not isinstance(found[0], Singles):
            raise ChunkError("a sub-entry holds another one")
        return found[0]

    def __len__(self) -> int:
        return self.records

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self.unpack().split()[at]


Stretch: TypeAlias = Singles | Packed


def stretches(data: bytes, begin: int, end: int, entries: int) -> list[Stretch]:
    """Returns what lies in ``data[begin:end]``: ``entries`` entries, as in a chunk. Raises ``ChunkError`` where they do
    not fit, or a sub-entry claims what cannot be. A sub-entry of no message is left out."""
    surveyed = survey(data, begin, end, entries)
    if surveyed is None:
        raise ChunkError(f"the entries of a chunk do not take the {end - begin} bytes that it has")
    found: list[Stretch] = []
    for start, stop, count, number, kind in surveyed:
        if not kind:
            found.append(Singles(data, start, stop, count, number))
        elif count:
            found.append(Packed(data, start, stop, count, number, codec_of(kind)))
    return found


class PlacedMessages(Measured):
    """Messages of one chunk or several, in their order.

    A slice that cuts a sub-entry in two unpacks that one: ``boundary`` says where none is cut. Asking for messages
    unpacks each sub-entry that holds one. Both raise ``ChunkError`` for one that cannot be unpacked.
    """

    __slots__ = ("_ends", "stretches")

    def __init__(self, found: Sequence[Stretch]) -> None:
        self.stretches = found
        self._ends = list(accumulate(stretch.records for stretch in found))
        """Of each stretch: how many messages lie in it and before it."""

    @property
    def size(self) -> int:
        """Bytes of the messages together, of a sub-entry those that it is compressed to."""
        return sum(stretch.size for stretch in self.stretches)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each message; one of a sub-entry counts its share of the compressed data."""
        sizes: list[int] = []
        for stretch in self.stretches:
            if isinstance(stretch, Singles):
                sizes += stretch.sizes
            else:
                share, rest = divmod(stretch.size, stretch.records)
                sizes += [share + 1] * rest + [share] * (stretch.records - rest)
        return sizes

    @property
    def most(self) -> int:
        """A number of bytes that no single message exceeds; those in sub-entries are not looked at."""
        return max((stretch.longest for stretch in self.stretches if isinstance(stretch, Singles)), default=0)

    def boundary(self, at: int) -> int:
        """Returns the first place from ``at`` on that does not lie within a sub-entry."""
        number = bisect_left(self._ends, at)
        if at <= 0 or number == len(self._ends) or isinstance(self.stretches[number], Singles):
            return at
        return self._ends[number]

    def join(self, others: Sequence[Sequence[bytes]]) -> PlacedMessages | None:
        """See ``Measured.join``."""
        placed = [other for other in others if isinstance(other, PlacedMessages)]
        if len(placed) < len(others):
            return None
        return PlacedMessages([*self.stretches, *chain.from_iterable(other.stretches for other in placed)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> PlacedMessages: ...
    def __getitem__(self, at: int | slice) -> bytes | PlacedMessages:
        if isinstance(at, slice):
            places = range(len(self))[at]
            if places.step != 1:
                raise ValueError("messages in their place have no slices with a step")
            return self._between(places.start, max(places.start, places.stop))
        place = range(len(self))[at]
        return next(iter(self._between(place, place + 1)))

    def _between(self, low: int, high: int) -> PlacedMessages:
        if low == 0 and high == len(self):
            return self
        found: list[Stretch] = []
        begin = 0
        for stretch, end in zip(self.stretches, self._ends, strict=True):
            start, stop = max(low - begin, 0), min(high, end) - begin
            if start < stop == stretch.records and not start:
                found.append(stretch)
            elif start < stop:
                singles = stretch if isinstance(stretch, Singles) else stretch.unpack()
                found.append(singles.between(start, stop))
            begin = end
        return PlacedMessages(found)

    def __iter__(self) -> Iterator[bytes]:
        for stretch in self.stretches:
            yield from (stretch if isinstance(stretch, Singles) else stretch.unpack()).split()
