"""Reads two streams side by side and compares them: what ``Client.diff`` returns.

Each side has a source of the flow, without a run: two are read at once, and one waits where the other is behind.

Streams may grow meanwhile. What each of them had at the start must be on the other side by the time that side is read,
so the ends of both sides are looked up first, and then, when a side is opened, it is read a little beyond its own. So a
stream is equal to itself, and a copy that is being written lacks only what it lacked at the start.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

from rstream_core.callbacks import own_task
from rstream_core.consuming.gaps import GapListener
from rstream_core.diffing.alignment import WINDOW
from rstream_core.diffing.comparison import Comparison
from rstream_core.diffing.difference import DiffCounts, Difference
from rstream_core.diffing.inputs import Input
from rstream_core.diffing.sections import key_without
from rstream_core.errors import AlreadyClosed, ConfigurationError, StreamDoesNotExist, UnsupportedByBroker
from rstream_core.flow.access import StreamAccess
from rstream_core.flow.acks import Account
from rstream_core.flow.read_plan import LastMessages, ReadPlan, StartAt, Until
from rstream_core.flow.stream_reading import ReadEvents
from rstream_core.flow.stream_source import StreamSource
from rstream_core.loops import LoopGuard
from rstream_core.timeslice import TimeSlice
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

QUIET = 5.0
"""Seconds without a message after which a broker is asked whether it still has those that are waited for."""
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)


@dataclass(frozen=True, slots=True)
class DiffSide:
    """Where one of the two sides is, and where to begin there."""

    client: StreamAccess
    on_gap: GapListener
    start: StartAt = FIRST


class StreamPair(NamedTuple):
    """Two streams that are compared."""

    a: str
    b: str


class _Reading:
    """The reading of one stream, which feeds a side of a comparison."""

    def __init__(self, side: DiffSide, stream: str, target: Input, credit: int, wake: Callable[[], None]) -> None:
        plan = ReadPlan((stream,), side.start, until=Until(), credit=credit, as_plain=True)
        self._source = StreamSource(
            side.client,
            plan,
            Account(),
            ReadEvents(),
            on_gap=side.on_gap,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        self.stream = stream
        self._client = side.client
        self._target = target
        self._wake = wake
        self.first: int | None = None
        """The offset of the first message that came."""

    async def open(self) -> None:
        await self._source.open()
        self._source.start(self._wake)

    @property
    def end(self) -> int:
        """The last offset to be read, once it is open; -1 where there is none."""
        end = self._source.readings[0].end
        return -1 if end is None else end

    def feed(self) -> bool:
        """Feeds what has come. Returns whether anything has changed. Raises ``ChunkError``."""
        block = self._source.poll()
        if block is not None:
            first = block.positions[0]
            if self.first is None:
                self.first = first
            self._target.feed(first, block.messages)
            block.done()
            return True
        if self._source.end is None or self._target.has_ended:
            return False
        self._target.has_ended = True
        return True

    @property
    def due(self) -> float | None:
        return self._source.due()

    async def last_offset(self) -> int | None:
        """Asks for the last offset that the stream has now; None where it is empty."""
        return await self._client.last_offset(self.stream)

    async def tick(self) -> None:
        await self._source.tick()

    async def close(self) -> None:
        await self._source.close()

    def abandon(self) -> None:
        self._source.abandon()


class _Pair:
    """Two streams that are being compared."""

    def __init__(self, comparison: Comparison, sides: Sequence[DiffSide], pair: StreamPair, credit: int) -> None:
        self.comparison = comparison
        self._woken = asyncio.Event()
        self.inputs = comparison.a, comparison.b
        self.readings = tuple(
            _Reading(side, stream, target, credit, self._woken.set)
            for side, stream, target in zip(sides, pair, self.inputs, strict=True)
        )

    @property
    def bytes(self) -> int:
        return sum(side.fed for side in self.inputs)

    async def open(self) -> None:
        for reading in self.readings:
            await reading.open()

    def check_ends(self) -> None:
        """Raises ``StreamDoesNotExist`` where a side now ends before its end at the start: an empty stream that has
        taken its place would be equal to another one."""
        for reading, target in zip(self.readings, self.inputs, strict=True):
            if target.required is not None:
                _check_end(reading.stream, reading.end, target.required)

    async def feed(self) -> None:
        """Returns when more has come, or may have. Raises what has ended a reading. May be cancelled."""
        self._woken.clear()
        has_more = False
        for reading, target in zip(self.readings, self.inputs, strict=True):
            if self.comparison.wants(target):
                has_more = reading.feed() or has_more
        if has_more:
            return
        now = asyncio.get_running_loop().time()
        dues = [(due, reading) for reading in self.readings if (due := reading.due) is not None]
        late = [reading for due, reading in dues if due <= now]
        for reading in late:
            await reading.tick()
        if late:
            return
        look = now + QUIET
        until = min([look, *(due for due, _ in dues)])
        try:
            async with asyncio.timeout_at(until) as waiting:
                await self._woken.wait()
        except TimeoutError:
            if not waiting.expired():
                raise
            if until == look:
                await self._look()

    async def _look(self) -> None:
        """Asks whether what is waited for is still to come: an empty stream may have taken the place of one."""
        for reading, target in zip(self.readings, self.inputs, strict=True):
            if self.comparison.wants(target):
                last = await reading.last_offset()
                _check_end(reading.stream, -1 if last is None else last, reading.end)

    async def close(self) -> None:
        try:
            await asyncio.gather(*(reading.close() for reading in self.readings))
        except asyncio.CancelledError:
            for reading in self.readings:  # some ``close`` calls may not have started
                reading.abandon()
            raise


class Diff(AsyncIterator[Difference]):
    """An async iterator over the differences of two streams, and an async context manager. Made by ``Client.diff``.

    Use it in ``async with``: at the end of that, however it comes, the reading ends. A plain ``async for`` does the
    same where it ends by itself. A cancelled ``anext``, as by a timeout, loses nothing. For one task at a time.

    Differences come nearly in the order of the messages; those of a super stream partition by partition. ``counts``
    grows meanwhile, and is final when the iterator has ended. The iterator raises what has ended the reading of a side,
    as ``Subscription`` does. A gap that retention leaves is told to the client's ``on_gap``; what it took is missing.
    """

    def __init__(
        self,
        sides: tuple[DiffSide, DiffSide],
        pairs: Callable[[], Awaitable[Sequence[StreamPair]]],
        *,
        ignored: Sequence[str] = (),
        window: int = WINDOW,
        credit: int = 10,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``pairs`` finds the streams, when the first difference is asked for. ``check`` is called before that, and
        raises where a client is closed. Raises ``ConfigurationError`` for an unknown section."""
        key_without(ignored)  # checks them
        self._sides = sides
        self._find_pairs = pairs
        self._ignored = ignored
        self._window = window
        self._credit = credit
        self._check = check
        self._guard = LoopGuard("this iterator")
        self.counts = DiffCounts()
        self.total: int | None = None
        """About how many messages are to be compared, of both sides together; None before it is known."""
        self.firsts: list[tuple[int | None, int | None]] = []
        """The offsets of the first messages that came, of each pair; None for an empty side."""
        self.is_complete = False
        """Whether all was compared."""
        self._pairs: deque[tuple[StreamPair, tuple[int, int]]] | None = None
        """Those that are not begun, with the last offset of each side at the start, or -1."""
        self._pair: _Pair | None = None
        self._bytes = 0
        """Of the pairs before that one."""
        self._asking: asyncio.Task[None] | None = None
        """Asks the brokers for what the comparison goes on with. It goes on where a caller that waits is cancelled."""
        self._found: deque[Difference] = deque()
        self._time_slice = TimeSlice()
        self._is_closed = False

    @property
    def has_more(self) -> bool:
        """Whether the next difference is there already."""
        return bool(self._found)

    @property
    def bytes(self) -> int:
        """Bytes of the messages that came, of both sides together."""
        return self._bytes + (0 if self._pair is None else self._pair.bytes)

    @property
    def is_equal(self) -> bool:
        """Whether all was compared, and nothing differs."""
        return self.is_complete and not self.counts.different

    async def __aenter__(self) -> Self:
        self._guard.check()
        if self._is_closed:
            raise AlreadyClosed("this iterator is closed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Difference:
        self._guard.check()
        try:
            while not self._found:
                if self._is_closed or not await self._work():
                    await self.aclose()
                    raise StopAsyncIteration
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self.aclose()
            raise
        return self._found.popleft()

    async def aclose(self) -> None:
        """Ends the reading. May be repeated."""
        self._is_closed = True
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait((asking,))
        pair, self._pair = self._pair, None
        if pair is not None:
            self._bytes += pair.bytes
            await pair.close()

    async def _work(self) -> bool:
        """Goes on with the comparison. Returns False where all is done."""
        pair = self._pair
        if pair is None:
            if self._asking is None and self._pairs is not None and not self._pairs:
                self.is_complete = True
                return False
            await self._ask()
            return True
        comparison = pair.comparison
        while comparison.step() and not comparison.found:
            if self._time_slice.is_over():
                await self._time_slice.give_way()
        if comparison.found:
            self._found.extend(comparison.found)
            comparison.found.clear()
        elif comparison.is_done:
            a, b = pair.readings
            self.firsts.append((a.first, b.first))
            self._bytes += pair.bytes
            self._pair = None
            await pair.close()
        else:
            await pair.feed()
            self._time_slice.begin()
        return True

    async def _ask(self) -> None:
        """Finds the streams, or opens the next ones. A caller that is cancelled leaves that to the next call."""
        if self._asking is None:
            self._check()
            self._asking = own_task(self._find() if self._pairs is None else self._open())
        asking = self._asking
        await asyncio.wait((asking,))
        if self._asking is asking:
            self._asking = None
            asking.result()

    async def _find(self) -> None:
        """Finds the streams, and their ends: those of B when those of A are known."""
        pairs = await self._find_pairs()
        ends: list[list[int]] = []
        total = 0
        for place, side in enumerate(self._sides):
            ends.append([])
            for pair in pairs:
                last = await side.client.last_offset(pair[place])
                ends[place].append(-1 if last is None else last)
                if last is not None:
                    total += max(last + 1 - await _begin(side, pair[place], last), 0)
        self.total = total
        self._pairs = deque((pair, (a, b)) for pair, a, b in zip(pairs, *ends, strict=True))

    async def _open(self) -> None:
        assert self._pairs is not None
        streams, ends = self._pairs.popleft()
        comparison = Comparison(*streams, window=self._window, ignored=self._ignored, counts=self.counts)
        comparison.a.required, comparison.b.required = ends
        pair = _Pair(comparison, self._sides, streams, self._credit)
        try:
            await pair.open()
            pair.check_ends()
        except BaseException:
            await pair.close()
            raise
        self._pair = pair


def _check_end(stream: str, last: int, end: int) -> None:
    if last < end:
        raise StreamDoesNotExist(
            f"stream {stream!r} does not have offset {end} any more, its last one at the start: it was deleted and"
            " created again, or retention has taken all"
        )


async def _begin(side: DiffSide, stream: str, last: int) -> int:
    """Returns about where the reading of a stream begins, for a progress bar. ``last``: its last offset."""
    start = side.start
    if isinstance(start, LastMessages):
        return max(last + 1 - start.count, 0)
    if isinstance(start, ConsumerOffsetSpecification) and start.offset_type is OffsetType.OFFSET:
        return start.offset or 0
    with suppress(UnsupportedByBroker):
        return (await side.client.stats(stream)).first_offset or 0
    return 0


def start_of(offset_type: OffsetType | None, offset: int | datetime | None) -> ConsumerOffsetSpecification:
    """Returns where to begin. Raises ``ConfigurationError`` for what is not the same place in two streams."""
    spec = ConsumerOffsetSpecification(offset_type, offset)
    if spec.offset_type not in (OffsetType.FIRST, OffsetType.OFFSET, OffsetType.TIMESTAMP):
        raise ConfigurationError("a comparison begins with FIRST, OFFSET or TIMESTAMP")
    return spec


def pairs_of(a: Sequence[str], b: Sequence[str]) -> list[StreamPair]:
    """Returns the partitions of two super streams, in the broker's order. Raises ``ConfigurationError`` where they do
    not have as many."""
    if len(a) != len(b):
        raise ConfigurationError(
            f"the super streams have {len(a)} and {len(b)} partitions, and are compared partition by partition"
        )
    return [StreamPair(*pair) for pair in zip(a, b, strict=True)]
