"""Gathers published messages into chunks of the sizes that RabbitMQ's have.

RabbitMQ's writer takes what waits for it, at most so many entries at a time: twice as many the next time where there
were more, and half as many where nothing was left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rstream_core.broker.confirms import Confirms, merge
from rstream_core.broker.log import NewChunk
from rstream_core.broker.names import NONE, Names
from rstream_core.broker.ports import Publisher
from rstream_core.broker.publishing import Entries

MIN_BATCH, MAX_BATCH = 32, 8192
"""Entries of a chunk behind which there are more: the fewest and the most. They are those of RabbitMQ."""


@dataclass(slots=True)
class Gathered(NewChunk):
    """Entries that are not written yet."""

    size: int = 0
    """Bytes."""
    has_unfiltered: bool = False
    """Whether a publisher had no filter values to give."""
    confirms: Confirms = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)
    """The last id of each of its names before it."""

    def add(self, data: list[bytes], records: list[int] | None, filters: list[str] | None) -> None:
        self.entries += data
        self.records += len(data) if records is None else sum(records)
        self.size += sum(map(len, data))
        if filters is None:
            self.has_unfiltered = True
        else:
            self.filters.update(filters)

    def finish(self) -> None:
        """Nothing more comes."""
        if self.filters == {""}:
            self.filters = set()
        elif self.filters and self.has_unfiltered:
            self.filters.add("")


class Gatherer:
    """The chunks of one stream that are not written yet: those that are full, and one that takes more."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._chunk = Gathered()
        self._full: list[Gathered] = []
        """The chunks before it, which take no more."""
        self._batch = MIN_BATCH
        """Entries that make a chunk full."""
        self._full_bytes = 0

    @property
    def size(self) -> int:
        """Bytes in all of them."""
        return self._full_bytes + self._chunk.size

    @property
    def has_full(self) -> bool:
        """Whether there are full chunks."""
        return bool(self._full)

    @property
    def has_entries_behind(self) -> bool:
        """Whether there are entries behind the full chunks."""
        return bool(self._chunk.entries)

    def __bool__(self) -> bool:
        """Whether anything waits to be written, or to be confirmed with what is written."""
        return bool(self._full or self._chunk.confirms)

    def add(self, publisher: Publisher, entries: Entries) -> None:
        """Adds entries, which are then the last ones of their name."""
        ids, data, records, filters, _ = entries
        reference, last = publisher.reference, self._names.last
        start = 0
        while start < len(ids):
            chunk = self._chunk
            end = start + self._batch - len(chunk.entries)
            part = slice(start, end)
            chunk.add(data[part], records and records[part], filters if filters is None else filters[part])
            taken = ids[part]
            if reference:
                chunk.written.setdefault(reference, last.get(reference, NONE))
                last[reference] = taken[-1]
                chunk.sequences[reference] = int.from_bytes(taken[-1])
            chunk.confirms.setdefault(publisher, []).extend(taken)
            if len(chunk.entries) >= self._batch:
                self._close_chunk()
                self._batch = min(MAX_BATCH, self._batch * 2)
            start = end

    def add_repeated(self, publisher: Publisher, ids: list[bytes]) -> None:
        """Adds ids that repeat others. They are confirmed with the chunks that may hold what they repeat."""
        self._chunk.confirms.setdefault(publisher, []).extend(ids)

    def ease(self) -> None:
        """Lets the next chunk be smaller: more is not waited for."""
        self._batch = max(MIN_BATCH, self._batch // 2)

    def take_full(self) -> list[Gathered]:
        """Takes the chunks that are full."""
        chunks, self._full, self._full_bytes = self._full, [], 0
        return chunks

    def take_all(self) -> list[Gathered]:
        """Takes all chunks. Only one that is the only one may be without entries, where there are but repetitions."""
        if self._chunk.entries or not self._full:
            self._close_chunk()
        elif self._chunk.confirms:
            merge(self._full[-1].confirms, self._chunk.confirms)
            self._chunk = Gathered()
        return self.take_full()

    def take_back(self, chunks: Sequence[Gathered]) -> None:
        """Notes that chunks will not be written: the names' last ids are again those before them."""
        for chunk in reversed(chunks):
            self._names.last.update(chunk.written)

    def _close_chunk(self) -> None:
        self._chunk.finish()
        self._full.append(self._chunk)
        self._full_bytes += self._chunk.size
        self._chunk = Gathered()
