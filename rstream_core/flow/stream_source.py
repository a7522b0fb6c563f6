"""Reads streams as the source of a run: chunks become blocks, and what is acknowledged becomes stored offsets.

It reads one stream, the partitions of a super stream, or takes turns as a single active consumer. Each stream has a
``StreamReading``, and new acknowledgements for each turn. The subscriptions hold what has arrived, within their
credits. The rest of one chunk at most lies here, which is handed out in parts where it has many messages.

``StreamSource`` is longer than other classes, since all that the driver and the program call is in one place. What is
decided there is decided by its parts: ``Opening``, ``Ends``, ``Stores``, ``StreamReading``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.subscription import Subscription
from rstream_core.errors import RstreamError
from rstream_core.flow.access import StreamAccess
from rstream_core.flow.acks import Account
from rstream_core.flow.block import Block
from rstream_core.flow.ends import Ends
from rstream_core.flow.opening import Opening
from rstream_core.flow.read_plan import ReadPlan
from rstream_core.flow.stages import Stop
from rstream_core.flow.stores import STORE_TIMEOUT, OffsetKeeper, StoreEvery, Stores
from rstream_core.flow.stream_reading import ReadEvents, StreamReading
from rstream_core.protocol.delivered import ReadChunk

MOST_AT_ONCE = 4096
"""The most messages of a block: the most that a usual chunk of a broker has."""


class _Arrivals(asyncio.Event):
    """Calls a function when something arrives. Nobody waits for the event itself: the run polls."""

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None

    def set(self) -> None:
        self.wake()


class _Rest:
    """The messages of a chunk that are not handed out yet."""

    __slots__ = ("at", "chunk", "count", "is_end", "reading")

    def __init__(self, reading: StreamReading, chunk: ReadChunk, count: int, is_end: bool) -> None:
        self.reading = reading
        self.chunk = chunk
        self.count = count
        """How many messages of the chunk are wanted."""
        self.is_end = is_end
        """Whether no more of the stream are."""
        self.at = 0
        """How many are handed out."""


class StreamSource:
    """Reads streams. ``open`` is awaited before the run, ``settle`` and ``close`` behind it. For one event loop."""

    def __init__(
        self,
        client: StreamAccess,
        plan: ReadPlan,
        account: Account,
        events: ReadEvents,
        *,
        store_every: StoreEvery | None = None,
        keeper: OffsetKeeper | None = None,
        on_gap: GapListener,
        now_ms: Callable[[], int],
        outage_until: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``keeper`` stores offsets; None: the client does. ``on_gap``: as the client's. ``now_ms``: milliseconds since
        1970 (UTC). ``outage_until``: the loop time at which the last outage has ended; now during one."""
        self._plan = plan
        self._events = events
        self._readings = [StreamReading(stream, account) for stream in plan.streams]
        clock = asyncio.get_running_loop().time
        self._ends = Ends(client, plan, self._readings, now_ms=now_ms, clock=clock, outage_until=outage_until)
        self._opening = Opening(client, plan, self._ends, events, on_gap)
        self._stores: Stores | None = None
        if plan.name is not None:
            self._stores = Stores(
                keeper or client, plan.name, store_every or StoreEvery(), self._readings, events, clock
            )
        self._stores_by_number = store_every is not None and store_every.messages is not None
        self._arrivals = _Arrivals()
        self._rotation: deque[StreamReading] = deque()
        """The streams that are read, the next one first."""
        self._rest: _Rest | None = None
        self._has_read = False
        """Whether a chunk was taken since the last look at what is due."""
        self._is_worked_on = False
        """Whether something was open at that look."""
        self._failed: Subscription | None = None
        """Whose error ends the reading."""
        self.end: Stop | None = None

    async def open(self) -> None:
        """Finds where to start and to stop, and subscribes. ``end`` is set where no stream has a wanted message.

        Raises the errors of ``Client.subscribe`` and ``OffsetsGone``. May be cancelled; ``close`` is due in any case.
        """
        await self._opening.open(self._readings, self._on_turn)
        for reading in self._readings:
            if reading.subscription is None:
                reading.is_closed = True
            else:
                reading.subscription.arrived = self._arrivals
                self._rotation.append(reading)
        if not self._rotation:
            self.end = Stop("there is nothing to read")
        self._ends.note_activity()

    @property
    def readings(self) -> Sequence[StreamReading]:
        """How far each stream is read, in the order of the plan; for looking only."""
        return self._readings

    @property
    def passed(self) -> int | None:
        """The offset up to which everything is done, of a source of one stream; None for several, and at first."""
        return self._readings[0].acks.low if len(self._readings) == 1 else None

    def start(self, wake: Callable[[], None]) -> None:
        """Wakes the run whenever a chunk arrives."""
        self._arrivals.wake = wake

    def poll(self) -> Block | None:
        """Returns the next block, if one has arrived. Raises ``ChunkError`` for damaged data."""
        if self._stores_by_number and self._stores is not None and self._stores.is_due():
            return None  # before more messages are done with
        if self._rest is not None:
            block = self._next_part(self._rest)
            if block is not None:
                return block
        rotation = self._rotation
        for _ in range(len(rotation) if self.end is None else 0):
            reading = rotation[0]
            rotation.rotate(-1)
            block = self._poll_stream(reading)
            if block is not None:
                return block
            if self._failed is not None or self.end is not None:
                break
        return None

    def _poll_stream(self, reading: StreamReading) -> Block | None:
        subscription = reading.subscription
        assert subscription is not None
        while not reading.is_read_out:
            chunk = self._poll(subscription)
            if chunk is None:
                if subscription.error is not None:
                    self._failed = subscription
                return None
            self._has_read = True
            if self._plan.only_acknowledged:
                subscription.fail(chunk.offset)  # otherwise the next turn would begin behind what is handed out now
            count, is_end = self._ends.cut(reading, chunk)
            if count and not reading.has_begun:
                reading.has_begun = True
                self._events.begins(reading, chunk.offset)
            is_whole = self._plan.placed or self._plan.as_delivered  # those are not taken out one by one
            if count > MOST_AT_ONCE and not is_whole:
                rest = self._rest = _Rest(reading, chunk, count, is_end)
                return self._part(rest)
            if is_end:
                self._note_read_out(reading)
            if count:
                return self._block(reading, chunk, 0, count)
        return None

    def _poll(self, subscription: Subscription) -> ReadChunk | None:
        if self._plan.placed or self._plan.as_delivered:
            return subscription.poll_whole(placed=self._plan.placed)
        return subscription.poll_plain() if self._plan.as_plain else subscription.poll()

    def _next_part(self, rest: _Rest) -> Block | None:
        """Returns the next part of a chunk. Where its turn as single active consumer is over, the rest is not wanted:
        another consumer gets it."""
        reading = rest.reading
        subscription = None if self.end is not None or reading.is_closed else reading.subscription
        if subscription is not None and subscription.is_wanted(rest.chunk):
            return self._part(rest)
        self._drop_rest()
        return None

    def _part(self, rest: _Rest) -> Block:
        end = min(rest.at + MOST_AT_ONCE, rest.count)
        block = self._block(rest.reading, rest.chunk, rest.at, end)
        rest.at = end
        if end == rest.count:
            self._rest = None
            if rest.is_end:
                self._note_read_out(rest.reading)
        return block

    def _drop_rest(self) -> None:
        rest, self._rest = self._rest, None
        if rest is not None and rest.reading.subscription is not None:
            rest.reading.subscription.finish(rest.chunk.offset + rest.at - 1)

    def _block(self, reading: StreamReading, chunk: ReadChunk, begin: int, end: int) -> Block:
        messages: Sequence[bytes] = chunk.messages
        first = chunk.offset + begin
        if end - begin < len(messages):
            messages = messages[begin:end]
        reading.acks.hand_out(first, end - begin)
        reading.handed_out += end - begin
        return Block(reading.acks, range(first, first + end - begin), messages, chunk.stream, chunk.timestamp)

    def _note_read_out(self, reading: StreamReading) -> None:
        if reading.is_read_out:
            return
        reading.is_read_out = True
        self._rotation.remove(reading)
        if not self._rotation and self.end is None:
            self.end = Stop("all wanted messages were read", "until")

    # What is due.

    def due(self) -> float | None:
        """Returns when an offset is to be stored or the broker to be asked, in loop time; 0 for now."""
        if self._failed is not None:
            return 0.0
        if self._has_read or self._is_worked_on:
            self._note_activity()
        if len(self._rotation) < len(self._readings) and self._next_to_close() is not None:
            return 0.0
        due = self._ends.due()
        if self._stores is not None:
            store = self._stores.due()
            if store is not None and (due is None or store < due):
                return store
        return due

    def _note_activity(self) -> None:
        """The time without a message begins once there is none, and nothing is worked on any more."""
        is_open = any(reading.acks.open for reading in self._rotation)
        if self._has_read or not is_open:
            self._ends.note_activity()
        self._has_read, self._is_worked_on = False, is_open

    def _next_to_close(self) -> StreamReading | None:
        """Returns a stream that is read out, and all of it done, while others are read."""
        if self.end is not None:
            return None
        for reading in self._readings:
            if reading.is_read_out and not reading.is_closed and not reading.acks.open:
                return reading
        return None

    async def tick(self) -> None:
        """Does what is due. Raises the error that has ended a subscription, and errors of storing that are no outage.
        May take as long as an outage."""
        if self._failed is not None:
            await self._failed.raise_error()
            self._failed = None
        if self._stores is not None:
            await self._stores.tick()
        found = await self._ends.tick()
        for reading in found.read_out:
            self._note_read_out(reading)
        if found.stop is not None and self.end is None:
            self.end = found.stop
        while (read_out := self._next_to_close()) is not None:
            await self._close(read_out)

    async def _close(self, reading: StreamReading) -> None:
        """Ends the reading of one stream while others are read."""
        if self._stores is not None:
            await self._stores.store(reading, verify=True)
        reading.begin_turn()
        reading.is_closed = True
        if reading.subscription is not None:
            await reading.subscription.close()

    def stop(self) -> None:
        """Reads no more. What was not handed out is not acknowledged, so whoever reads on gets it."""
        if self.end is None:
            self.end = Stop("stopped")
        self._drop_rest()

    async def settle(self, *, quietly: bool = False) -> None:
        """Stores how far the streams were read, verified, after the sink was drained and before ``close``: the next
        member of a group begins there. What is open is given back: whoever reads on gets it.

        Raises where an offset could not be stored; ``quietly``: not, since the run has failed anyway.
        """
        for reading in self._readings:
            reading.acks.give_back()
        if self._stores is not None:
            await self._stores.finish(quietly=quietly)

    def is_wanted(self, block: Block) -> bool:
        """Returns whether to go on with a block: False where its turn as single active consumer is over, or ends. Then
        whoever has the next turn gets it."""
        if not self._plan.single_active:
            return True
        for reading in self._readings:
            if reading.acks is block.ack:
                return reading.subscription is not None and reading.subscription.active
        return False

    def abandon(self) -> None:
        """Ends the subscriptions without waiting."""
        for reading in self._readings:
            if reading.subscription is not None:
                reading.subscription.abandon()

    async def close(self) -> None:
        """Ends the subscriptions. Never raises but for a cancellation; may be repeated."""
        subscriptions = [reading.subscription for reading in self._readings if reading.subscription is not None]
        try:
            await asyncio.gather(*(subscription.close() for subscription in subscriptions))
        except asyncio.CancelledError:
            self.abandon()  # some ``close`` calls may not have started
            raise

    # Turns of a single active consumer.

    async def _on_turn(self, reading: StreamReading, active: bool) -> None:
        """At the end of a turn stores the offset, verified, before the broker gets its answer: whoever has the next
        turn asks for it at once."""
        if not active and self._stores is not None:
            try:
                async with asyncio.timeout(STORE_TIMEOUT):  # others wait for their turn
                    await self._stores.store(reading, verify=True)
            except (RstreamError, TimeoutError) as error:
                self._events.not_stored(reading.stream, str(error) or f"no answer within {STORE_TIMEOUT:g} s")
        if not active and reading.acks.open and reading.subscription is not None:
            # Their chunks are finished, but where nothing is stored, the next turn must not begin behind them.
            reading.subscription.take_back(reading.acks.low)
        reading.begin_turn()
        if active is not reading.is_active:  # after a lost connection, the end of a turn may be told twice
            reading.is_active = active
            self._events.turn(reading.stream, active)
