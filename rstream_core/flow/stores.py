"""Stores how far a source has been read, for whoever reads on later under the same name.

Only the low-water mark of what is acknowledged is stored: every so many messages or seconds, at the end of a turn, and
at the end, where the broker is asked until it has it. An outage postpones what need not be stored now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rstream_core.errors import ConnectionClosed, ConnectionFailed, RstreamError
from rstream_core.flow.acks import Acks
from rstream_core.flow.stream_reading import ReadEvents, StreamReading

STORE_TIMEOUT = 5.0
"""Seconds that storing an offset may take, here and in a ``Consumer``. At the end of a run the time of an outage is
added."""
STORE_AGAIN = 1.0
"""Seconds after which a store that an outage has postponed is tried again."""


class OffsetKeeper(Protocol):
    """Stores offsets: ``Client`` does."""

    async def store_offset(
        self, stream: str, reference: str, offset: int, *, verify_timeout: float | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class StoreEvery:
    """When to store before the end: after a number of messages, or of seconds, of each stream. Both None: not."""

    messages: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class _Kept:
    """What is stored of a stream."""

    acks: Acks
    """The turn that the next two belong to."""
    offset: int | None
    settled: int
    """``acks.settled`` when the offset was stored."""
    at: float
    """When it was stored."""
    again: float
    """No store is due before this time."""
    storing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a store: of two at once, the one with the older offset might reach the broker last."""


class Stores:
    """The stored offsets of one source, under one name."""

    def __init__(
        self,
        keeper: OffsetKeeper,
        name: str,
        every: StoreEvery,
        readings: Sequence[StreamReading],
        events: ReadEvents,
        clock: Callable[[], float],
    ) -> None:
        """``clock``: the time in seconds, from any zero. Its present value is that of the first store."""
        self._keeper = keeper
        self._name = name
        self._every = every
        self._readings = readings
        self._events = events
        self._clock = clock
        now = clock()
        self._kept = {reading: _Kept(reading.acks, None, 0, now, now) for reading in readings}
        self._shown: dict[str, int | None] = {}
        """The offsets that were told to be stored last."""

    def due(self) -> float | None:
        """Returns when an offset is to be stored, by the clock; 0 for now, None for never as things are."""
        every = self._every
        if every.messages is None and every.seconds is None:
            return None
        first: float | None = None
        for reading, kept in self._kept.items():
            due = self._due_of(reading, kept)
            if due is not None and (first is None or due < first):
                first = due
        return first

    def is_due(self) -> bool:
        """Returns whether an offset is to be stored now."""
        due = self.due()
        return due is not None and due <= self._clock()

    def _due_of(self, reading: StreamReading, kept: _Kept) -> float | None:
        acks, every = reading.acks, self._every
        if acks is not kept.acks:  # another turn
            kept.acks, kept.offset, kept.settled = acks, None, 0
        low = acks.low
        if low is None or low == kept.offset:
            return None
        if every.messages is not None and acks.settled - kept.settled >= every.messages:
            return kept.again
        return None if every.seconds is None else max(kept.at + every.seconds, kept.again)

    async def tick(self) -> None:
        """Stores what is due. Raises errors that are no outage."""
        now = self._clock()
        for reading, kept in self._kept.items():
            due = self._due_of(reading, kept)
            if due is not None and due <= now:
                await self.store(reading)

    async def store(self, reading: StreamReading, *, verify: bool = False) -> None:
        """Stores the low-water mark of a stream, if there is one and it is not stored already.

        With ``verify``, stores it in any case, and asks the broker until it has it: waits for the end of an outage, as
        long as the client's recovery allows, and raises where it is not stored. Without, an outage postpones the store,
        and so does another store of the stream; with ``verify``, it is waited for.
        """
        kept = self._kept[reading]
        if kept.storing.locked() and not verify:
            kept.again = self._clock() + STORE_AGAIN
            return
        async with kept.storing:
            await self._store(reading, kept, verify)

    async def _store(self, reading: StreamReading, kept: _Kept, verify: bool) -> None:
        acks = reading.acks
        offset, settled = acks.low, acks.settled
        if offset is None or not (verify or kept.acks is not acks or offset != kept.offset):
            return
        try:
            if verify:
                await self._keeper.store_offset(reading.stream, self._name, offset, verify_timeout=STORE_TIMEOUT)
            else:
                async with asyncio.timeout(STORE_TIMEOUT):
                    await self._keeper.store_offset(reading.stream, self._name, offset)
        except (RstreamError, TimeoutError) as error:
            if self._shown.get(reading.stream) == offset:
                self._show(reading.stream, None)
            if verify or not isinstance(error, (ConnectionClosed, ConnectionFailed, TimeoutError)):
                raise
            kept.again = self._clock() + STORE_AGAIN  # whether it can be recovered from, the subscription finds out
            return
        kept.at = kept.again = self._clock()
        if acks is reading.acks:
            kept.acks, kept.offset, kept.settled = acks, offset, settled
        self._show(reading.stream, offset)

    def _show(self, stream: str, offset: int | None) -> None:
        self._shown[stream] = offset
        self._events.stored(stream, offset)

    async def finish(self, *, quietly: bool) -> None:
        """Stores what is left at the end, verified. Raises the first error; ``quietly``: none of the core's, and waits
        for a broker no longer than ``STORE_TIMEOUT``, since the run has failed anyway."""
        stores = [self.store(reading, verify=True) for reading in self._readings]
        try:
            async with asyncio.timeout(STORE_TIMEOUT if quietly else None):
                results = await asyncio.gather(*stores, return_exceptions=True)
        except TimeoutError:
            return
        for result in results:
            if isinstance(result, BaseException) and not (quietly and isinstance(result, RstreamError)):
                raise result
