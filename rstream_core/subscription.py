"""One subscription to one stream: chunks come in, credits go out; and several subscriptions as one iterator.

The unit is the chunk. A chunk's credit goes back when the next chunk is asked for: the application has taken it
by then, and a slow one holds back the broker instead of filling the memory. A chunk whose sub-entries unpack to much
is handed out in pieces, each unpacked when it is asked for; its credit goes back after the last of them.

A single active consumer is told by the broker when its turn begins and ends, and answers each time. It answers
in a task of its own, never in the read loop, so what is asked on the way may use the same connection. In order:
no chunk is handed out any more; the one that the application holds is finished; the application's listener is
called, and may store offsets; the answer goes out. Each step has a limit, and all of them together stay well under
the minute that the broker waits.

When the connection is lost or the stream moves, one task subscribes again, after the last chunk that arrived,
wherever the first subscription started. What has arrived is kept and handed out, so the application sees nothing of
it. A single active consumer loses its turn with the connection: its turn ends as if the broker had said so,
and it waits for another.

Where offsets are left out, the node is asked where the stream begins, and what came behind them is held until it has
answered: so that what retention took is told before anything is read that follows it. See ``gaps``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from rstream_core.attachment import Attachment, Goodbye
from rstream_core.callbacks import Callbacks, own_task
from rstream_core.connection import Connection
from rstream_core.errors import (
    AlreadyClosed,
    ChunkError,
    ConnectionClosed,
    OffsetNotFound,
    OffsetsGone,
    ProtocolError,
    RequestTimeout,
    RstreamError,
    ServerError,
    StreamDoesNotExist,
)
from rstream_core.gaps import Gap, GapListener, GapWatch
from rstream_core.locator import Locator
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import CHUNK_USER, ChunkReader, open_chunk, parse_header
from rstream_core.recovery import Recoveries, ended
from rstream_core.timeslice import TimeSlice
from rstream_core.types import ConsumerOffsetSpecification, Endpoint, OffsetType

logger = logging.getLogger("rstream_core")

DEFAULT_CREDIT = 10
MAX_CREDIT_OF_FRAME = 0x7FFF
"""In one Subscribe or Credit. RabbitMQ 4.3.6 reads that of a Credit as 16 bits with a sign: more is negative, and it
sends nothing from then on, without a word (seen; that of a Subscribe it takes for what it is)."""
MAX_UPDATES = 1000
"""Turns that a broker may have begun and ended before the first of them is answered."""

MORE_CHUNKS = 16
"""Above twice the credit, and no broker that can count sends as many."""
FINISH_TIMEOUT = 15.0
"""Seconds that the application has for the chunk it holds, when its turn as single active consumer ends."""
LISTENER_TIMEOUT = 20.0
"""Seconds that a listener has for its answer."""
MOVING = (OffsetType.LAST, OffsetType.NEXT)
"""Where another place is meant each time one subscribes."""

QUERY_TIMEOUT = 10.0
"""Seconds for reading the stored offset."""
LOOK_TIMEOUT = 5.0
"""Seconds for finding where the stream begins. With the three above: less than the broker's 60."""
LOOKS = 3
"""How often that is asked of a node that does not answer, where something is held for it."""


class Chunk(NamedTuple):
    """Messages that the broker stored together, in the order of their offsets.

    It is a piece of the broker's chunk where that holds more than 4 MiB or 65,536 messages, once it is unpacked: the
    next piece is the next chunk here.
    """

    stream: str
    offset: int
    """Of the first message here; the others follow one by one."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored them."""
    messages: list[bytes]
    """Encoded. Those before the requested offset are dropped already."""
    committed_chunk_id: int | None
    """Where the stream ended when this was sent, by the offset of its last committed chunk; None before 3.11."""

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


UpdateListener = Callable[["Subscription", bool], Awaitable[ConsumerOffsetSpecification | None]]
"""Called when a subscription becomes active (True) and when it stops being so. See ``SingleActiveConsumer``."""


@dataclass(frozen=True, slots=True)
class SingleActiveConsumer:
    """Subscriptions to a stream that share a ``name``: the broker sends to one of them at a time.

    ``super_stream`` is that of the partition, if it is one: the broker then spreads the partitions over the
    subscriptions of the name.

    ``listener(subscription, active)`` is called when the subscription's turn begins, and returns where to start; None
    is for: after the offset that is stored under the name, else after what this subscription had in an earlier turn,
    else where the subscription says. Where that turn ended with a lost connection, after the later of the first two. It
    is called again when the turn ends, before the broker is told so and anybody else's turn begins: the time to store
    ``subscription.processed``. After a lost connection the other's turn may have begun already. One that raises, or
    takes longer than ``LISTENER_TIMEOUT``, is logged and counts as None.
    """

    name: str
    super_stream: str | None = None
    listener: UpdateListener | None = None

    def properties(self) -> dict[str, str]:
        """As the broker wants to be told."""
        told = {"single-active-consumer": "true", "name": self.name}
        return told if self.super_stream is None else {**told, "super-stream": self.super_stream}


class Subscription(Attachment, AsyncIterator[Chunk]):
    """Made by ``Client.subscribe``: an async iterator over chunks, for one task.

    It goes on after a lost connection, and when the stream moved, as the client's recovery allows. It ends with the
    error that ended it: ``StreamDoesNotExist`` where the stream was deleted, ``ChunkError`` for damaged data,
    ``ConnectionClosed``, ``StreamNotAvailable`` and other errors that were not recovered from; and without one after
    ``close()``. Of a chunk that is damaged further on, the pieces before that are handed out. A cancelled
    ``__anext__`` loses nothing: the same chunk is the next one.
    """

    what = "subscription"

    def __init__(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        pool: ConnectionPool,
        locator: Locator,
        recoveries: Recoveries,
        *,
        credit: int,
        properties: Mapping[str, str],
        position: Callable[[ConsumerOffsetSpecification], Awaitable[int]],
        single_active: SingleActiveConsumer | None = None,
        at_leader: bool = False,
        on_gap: GapListener | None = None,
        fail_on_gap: bool = False,
    ) -> None:
        """``on_gap``: is told what retention took before it was read; None: nobody looks for that."""
        super().__init__(stream, pool, locator, recoveries)
        self.id = 0
        """That of the protocol; another one after each recovery."""
        self.active = single_active is None
        """Whether the broker sends it messages: False for a single active consumer while it is another's turn.

        It turns False as soon as the broker says so, and when the connection is lost; who is in the middle of a chunk
        then should stop there, ``finish`` it, and ask for the next.
        """
        self.processed: int | None = None
        """The last offset that the application is done with, and with all before it, since the subscription became
        active."""
        self._failed: int | None = None
        """The first one since then that it could not be done with."""
        self.arrived = asyncio.Event()
        """Set when there is something to look at."""
        self.time_slice = TimeSlice()
        """Of the task that reads it."""
        self._spec = spec
        self._credit = credit
        self._properties = properties
        self._single_active = single_active
        self._only_leader = at_leader
        self._ask_leader = at_leader
        self._seen = 0
        """The offset after the last message that was handed out."""
        self._looked = True
        """Whether it has been looked since the last recovery if the stream is still the same."""
        self._next: int | None = None
        """Where to go on: the offset after what has arrived, or what a moving start meant; else where it was told."""
        self._position = position
        """Finds the offset that a specification means, where the broker cannot be asked."""
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._reader: ChunkReader | None = None
        """Of the chunk that is being handed out, while there are more pieces of it."""
        self._has_given_way = False
        self._timestamp = 0
        self._committed: int | None = None
        self.chunk_end = 0
        """The offset after the chunk that was handed out last, with the pieces of it that are yet to come."""
        self._handed_out: Chunk | None = None
        self._overdue: Chunk | None = None
        """What the application still held when another turn began: it is not of that one."""
        self._finished = asyncio.Event()
        self._finished.set()
        self._owed = 0
        self._deliveries = 0
        self._era = 0
        """Counts the losses."""
        self._in_turn = False
        self._turn_start: int | None = None
        self._earlier: int | None = None
        self._on_gap = on_gap
        self._fail_on_gap = fail_on_gap
        self._is_filtered = any(key.startswith("filter.") for key in properties)
        self._watch = GapWatch(follows=on_gap is not None and not self._is_filtered)
        self._settling: asyncio.Task[None] | None = None
        self._cut_short = False
        """Whether the last turn ended with a lost connection, and what was processed in it may not be stored."""
        self._updates: deque[tuple[bool, int]] = deque()
        self._updating: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[ConsumerOffsetSpecification | None] | None = None
        self._callbacks = Callbacks()
        self._context = copy_context() if single_active is not None else Context()
        """That of the listener."""
        self._start_at(spec)

    async def open(self, endpoint: Endpoint) -> None:
        """Subscribes on this node. Called by ``Client``, until it succeeds once."""
        await self.attach(endpoint)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        await self.give_way()
        if self.time_slice.is_over():
            self.finish()
            await self.time_slice.give_way()
        while True:
            chunk = self.poll()
            if chunk is not None:
                return chunk
            if self._closed:
                raise StopAsyncIteration
            await self.raise_error()
            self.arrived.clear()
            await self.arrived.wait()
            self.time_slice.begin()

    def poll(self) -> Chunk | None:
        """The next chunk, or piece of one, if it is there. Finishes the one before it. Raises ``ChunkError``."""
        self.finish()
        while self._reader is not None or (self._waiting and not self._holds(self._waiting[0][0])):
            try:
                chunk = self._next_piece()
            except ChunkError as error:
                self.error = error.located(self._connection.endpoint)
                self._reader = None
                self._waiting.clear()
                raise
            if chunk is not None:
                self._handed_out = chunk
                self._finished.clear()
                return chunk
            self._owed += 1  # also a chunk of which nothing is wanted
            self._return_credit()
        return None

    async def give_way(self) -> None:
        """Between two pieces of a chunk: lets the event loop go on, since there may be thousands of them.

        Once for each piece: whoever is cancelled here gets the next one without it.
        """
        if self._reader is not None and not self._has_given_way:
            self._has_given_way = True
            self.finish()
            await self.time_slice.give_way()

    def finish(self, offset: int | None = None) -> None:
        """The application is done with the chunk it holds, if any: with all of it, or up to ``offset``.

        Asking for the next chunk does the same; this is for whoever stops in the middle.
        """
        chunk = self._handed_out
        if chunk is not None:
            last = chunk.last_offset if offset is None else offset
            if self._failed is not None:
                last = min(last, self._failed - 1)
            if last >= chunk.offset and chunk is not self._overdue:
                self.processed = last
            self._handed_out = self._overdue = None
            if self._reader is None:
                self._owed += 1
            self._finished.set()
        self._return_credit()

    def fail(self, offset: int) -> None:
        """The application could not do what it has to with a message of the chunk that it holds.

        ``processed`` does not pass it in this turn: whoever goes on from there gets it again.
        """
        if self._failed is None and self._handed_out is not self._overdue:
            self._failed = offset

    def is_wanted(self, chunk: Chunk) -> bool:
        """Whether to go on with a chunk: not where the turn that it came in is over."""
        return self.active and chunk is not self._overdue

    async def raise_error(self) -> None:
        """Raises the error that ended the subscription, if one did, or what a listener let out (``Callbacks``)."""
        self._callbacks.check()
        if self.error is not None:
            self.error = await self._locator.explain(self.stream, self.error)
            raise self.error.with_traceback(None)

    @property
    def is_closed(self) -> bool:
        """Whether this side has closed it."""
        return self._closed

    async def barrier(self) -> bool:
        """Whether a chunk has been delivered, or is there to be: right after subscribing, an exact answer.

        A broker sends what it has before it answers the next request on the same connection.
        """
        if not self._deliveries:
            await self._round_trip()
        return self._deliveries > 0

    async def nothing_to_come(self) -> bool:
        """Whether the broker has nothing more to send at the moment. Where it filters, this is how an end shows."""
        if self._waiting or self._reader is not None or self._handed_out is not None or not self.active:
            return False
        seen = self._deliveries
        await self._round_trip()
        return self._deliveries == seen and self.active

    async def next_there_is(self) -> Chunk | None:
        """The next chunk; None where the broker has none to send at the moment."""
        await self.give_way()
        while True:
            chunk = self.poll()
            if chunk is not None:
                return chunk
            await self.raise_error()
            seen = self._deliveries
            await self._round_trip()
            if self._deliveries == seen and not self._waiting:
                return None

    async def _round_trip(self) -> None:
        what = f"stream {self.stream!r}"
        while True:
            if self._recovering is not None and not self._attached:
                await asyncio.wait((self._recovering,))
                await self.raise_error()
            try:
                await self._lease.connection.request(c.Metadata((self.stream,)), c.MetadataResponse, what)
            except ConnectionClosed:
                if self._attached or self._recovering is None or self._closed:
                    raise
            else:
                return

    async def close(self) -> None:
        """Ends the subscription; an iteration that waits ends too. Never raises, and may be repeated."""
        if self._closed:
            return
        self._stop()
        try:
            if asyncio.current_task() is not self._listening:  # a listener may close; its task is waited for by these
                if self._updating is not None and not self._updating.done():
                    self._updating.cancel()
                    await ended([self._updating])
                await self._stop_recovering()
            await self._leave()
        finally:
            self._leave_later(self._detach)  # where it was cancelled

    def abandon(self) -> None:
        """Closes it at once, without waiting."""
        self._stop()
        if self._updating is not None and asyncio.current_task() is not self._listening:
            self._updating.cancel()
        self._abandon()

    def _stop(self) -> None:
        self._closed = True
        self._reader = None
        self._waiting.clear()
        self._callbacks.sum_up()
        self.arrived.set()
        self._finished.set()

    # What the connection calls.

    def on_chunk(self, chunk: bytes, committed_chunk_id: int | None) -> None:
        self._deliveries += 1
        self._outages.progress()
        if not self.active:
            self._owed += 1
        elif not self._closed:
            if len(self._waiting) > 2 * self._credit + MORE_CHUNKS:
                raise ProtocolError(f"the broker sends more of stream {self.stream!r} than it was asked for")
            self._waiting.append((chunk, committed_chunk_id))
            self._note_place(chunk)
            self.arrived.set()

    def on_consumer_update(self, active: bool, correlation_id: int) -> None:
        if self._single_active is None:
            raise ProtocolError(f"the broker tells of a turn in stream {self.stream!r}, which nobody takes turns in")
        self.active = False
        if len(self._updates) >= MAX_UPDATES:
            raise ProtocolError(f"the broker begins and ends turns in stream {self.stream!r} without an answer")
        self._owed += len(self._waiting)
        self._waiting.clear()  # what belongs to a turn that is over
        self._watch.start(None)
        self._drop_rest()
        self._updates.append((active, correlation_id))
        if self._updating is None or self._updating.done():
            self._updating = own_task(self._answer_updates())

    # Attaching, and recovering.

    async def _locate(self) -> Endpoint:
        # A replica that is down may still be named: the leader is asked each other time.
        locate = self._locator.leader_now if self._ask_leader else self._locator.replica_now
        self._ask_leader = self._only_leader or not self._ask_leader
        return await locate(self.stream)

    async def _declare(self) -> None:
        """Subscribes: where it was told to start, or after what has arrived."""
        if self._closed:
            raise AlreadyClosed(f"this subscription to stream {self.stream!r} is closed")
        await self._lose_turn()  # that of an attempt before this one
        lease, connection = self._lease, self._connection
        first, spec = self._next is None, self._spec
        if first and spec.offset_type in MOVING and self._single_active is None:
            # What is published during an outage, before anything has arrived, is not to be missed.
            self._next = await self._fixed(connection, spec)
        credit = self._grant()
        if not first and self._next is not None:
            spec = _at(self._next)
        gap = None
        if self._single_active is None:
            gap = await self._start_watch(connection, spec, is_resumed=not first)
            if gap is not None and self._fail_on_gap:
                self._tell(gap)
        self.id = lease.id
        connection.subscriptions[lease.id] = self
        connection.streams[self] = self.stream
        await connection.request(
            c.Subscribe(
                lease.id,
                self.stream,
                c.OffsetSpec(spec.offset_type, spec.offset or 0),
                credit,
                self._properties,
            ),
            c.SubscribeResponse,
            f"consuming stream {self.stream!r}",
        )
        if gap is not None:
            self._tell(gap)

    def _go_on(self) -> None:
        self._ask_leader = self._only_leader
        self._looked = not self._seen
        self._return_credit()
        self._settle_doubts()

    async def _look(self, seen: int) -> None:
        """Ends it where the stream was deleted during an outage, and made anew: it is another stream."""
        try:
            there = await self._position(ConsumerOffsetSpecification(OffsetType.NEXT))
        except RstreamError as error:
            logger.debug("looking where stream %r ends: %s", self.stream, error)
            self._looked = False
            return
        if there < seen and self.error is None and self._attached and not self._closed:
            self._detach()
            self._end(
                StreamDoesNotExist(
                    f"stream {self.stream!r} was deleted and made anew: "
                    f"it ends at offset {there}, and {seen - 1} had come"
                )
            )

    def _goodbye(self, lease: Lease) -> Goodbye:
        return Goodbye(c.Unsubscribe(lease.id), c.UnsubscribeResponse)

    async def _before_recovery(self) -> None:
        await self._lose_turn()

    def _grant(self) -> int:
        """The credit of a new subscription, so that with what is held here it stays within the bound.

        Where that leaves none, chunks that nobody has seen yet are dropped: they come again.
        """
        held = self._handed_out is not None or self._reader is not None
        while self._waiting and len(self._waiting) + held >= self._credit:
            data, _ = self._waiting.pop()
            self._next = parse_header(data).first_offset
        room = self._credit - len(self._waiting) - held
        credit = min(max(room, 1), MAX_CREDIT_OF_FRAME)
        self._owed = room - credit
        return credit

    async def _fixed(self, connection: Connection, spec: ConsumerOffsetSpecification) -> int | None:
        """The offset that a moving specification means now; None where nothing recovers, and nobody needs it."""
        if self._recoveries.policy is None:
            return None
        offset = await resolve_offset(connection, self.stream, spec)
        return await self._position(spec) if offset is None else offset

    def _detach(self) -> None:
        super()._detach()
        if self._connection.subscriptions.get(self._lease.id) is self:
            del self._connection.subscriptions[self._lease.id]
        self._connection.streams.pop(self, None)
        if self._single_active is not None:
            self._era += 1
            self.active = False
            self._reader = None
            self._waiting.clear()
            self._watch.start(None)
            self._updates.clear()

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self.arrived.set()

    # Inside.

    def _return_credit(self) -> None:
        # While another has its turn, credits are held back. RabbitMQ 4.3 and 4.0 complain of them (code 17) and add
        # them all the same, and what was left at the end of a turn counts in the next: seen with both. So held
        # back, and given at the start of the next turn, they are right whether a broker adds them or not.
        connection = self._lease.connection
        may = self.active and self._attached and self.error is None and not self._closed
        if may and self._owed > 0 and connection.is_open:
            while self._owed > 0:
                credit = min(self._owed, MAX_CREDIT_OF_FRAME)
                connection.send(c.Credit(self.id, credit))
                self._owed -= credit

    def _start_at(self, spec: ConsumerOffsetSpecification) -> None:
        """What is dropped from the first chunks to come."""
        self._first_wanted = (spec.offset or 0) if spec.offset_type is OffsetType.OFFSET else 0
        self._earliest = spec.offset if spec.offset_type is OffsetType.TIMESTAMP else None

    def _next_piece(self) -> Chunk | None:
        """The next messages that are wanted; None where the chunk has none, or no more."""
        reader = self._reader
        if reader is None:
            data, self._committed = self._waiting.popleft()
            header, found = open_chunk(data)
            if header.kind != CHUNK_USER:
                return None
            offset, self._timestamp = header.first_offset, header.timestamp
            if self._earliest is not None:
                if self._timestamp < self._earliest:
                    return None
                self._earliest = None
            self.chunk_end = end = offset + header.records
            if end <= self._seen and not self._looked:  # a replica may lag behind; or is it another stream?
                self._looked = True
                self._recoveries.start(self._look(self._seen))
            if not isinstance(found, ChunkReader):
                return self._hand_out(offset, found)
            reader = found
        piece = reader.read(self._first_wanted)
        self._reader, self._has_given_way = None if reader.is_done else reader, False
        return self._hand_out(self.chunk_end, []) if piece is None else self._hand_out(*piece)

    def _hand_out(self, offset: int, messages: list[bytes]) -> Chunk | None:
        """What is wanted of it."""
        end = offset + len(messages)
        self._seen = max(self._seen, end)
        wanted = self._first_wanted
        if offset < wanted:
            del messages[: wanted - offset]
            offset = wanted
        if end > wanted:
            self._first_wanted = end  # nothing comes twice
        return Chunk(self.stream, offset, self._timestamp, messages, self._committed) if messages else None

    def _drop_rest(self) -> None:
        """Of the chunk that is being handed out. Its credit goes back with the piece that the application holds."""
        if self._reader is not None:
            self._reader = None
            if self._handed_out is None:
                self._owed += 1

    # What retention took.

    async def _start_watch(
        self, connection: Connection, spec: ConsumerOffsetSpecification, *, is_resumed: bool = False
    ) -> Gap | None:
        """Notes where reading starts; what is gone of it. To be called just before the node reads.

        ``is_resumed``: it goes on after what has arrived. Where the broker leaves chunks out, it may have been far
        beyond that place before.
        """
        offset = spec.offset if spec.offset_type is OffsetType.OFFSET else None
        self._watch.start(offset, keep=is_resumed)
        if offset is None or self._on_gap is None or (is_resumed and self._is_filtered):
            return None
        try:
            begins = await self._first_there(connection)
        except (ServerError, RequestTimeout) as error:  # what stands in the way of reading is told by what follows
            logger.debug("looking where stream %r begins: %s", self.stream, error)
            return None
        found = None if begins is None else self._watch.started(offset, begins)
        return None if found is None else Gap(self.stream, *found)

    async def _first_there(self, connection: Connection) -> int | None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await first_offset(connection, self.stream)
        except TimeoutError as error:
            if isinstance(error, RstreamError):
                raise
            raise RequestTimeout(f"where stream {self.stream!r} begins: no answer within {LOOK_TIMEOUT:g} s") from None

    def _note_place(self, chunk: bytes) -> None:
        """Where a chunk that has arrived ends, and whether it follows what came before it."""
        try:
            header = parse_header(chunk)
        except ChunkError:  # which is told when it is looked into
            return
        end = min(header.first_offset + header.records, 2**64 - 1)
        if self._single_active is None:
            self._next = end
        if self._on_gap is not None and self._watch.arrive(header.first_offset, end):
            self._settle_doubts()

    def _holds(self, chunk: bytes) -> bool:
        """Whether it is not known yet if something is missing before a chunk; or it is, and that is the end."""
        if self._watch.is_quiet:
            return False
        try:
            return self._watch.holds(parse_header(chunk).first_offset)
        except ChunkError:
            return False

    def _settle_doubts(self) -> None:
        if self._watch.doubts and (self._settling is None or self._settling.done()):
            self._settling = self._recoveries.start(self._settle())

    async def _settle(self) -> None:
        """Asks where the stream begins, until nothing is in doubt or the connection is lost: then the next one does."""
        attempts = 0
        while (doubts := self._watch.doubts) and self._attached and self.error is None and not self._closed:
            connection = self._connection
            begins: int | None = None
            try:
                begins = await self._first_there(connection)
            except ConnectionClosed:
                if connection is self._connection:
                    return
                continue
            except RstreamError as error:
                attempts += 1
                if attempts < LOOKS and error.retriable:
                    continue
                jumps = ", ".join(f"{doubt.expected} to {doubt.arrived - 1}" for doubt in doubts)
                logger.warning("are messages of stream %r missing in offsets %s? %s", self.stream, jumps, error)
            try:
                for found in self._watch.settle(doubts, begins):
                    self._tell(Gap(self.stream, *found))
            except OffsetsGone as error:
                self._watch.bar(error.first)
                self._detach()
                self._end(error)
            self.arrived.set()

    def _tell(self, gap: Gap) -> None:
        """Tells of a gap. Raises ``OffsetsGone`` where that is the end."""
        assert self._on_gap is not None
        self._on_gap(gap)
        if self._fail_on_gap:
            raise OffsetsGone(str(gap), stream=gap.stream, first=gap.first, last=gap.last)

    # Turns of a single active consumer.

    async def _answer_updates(self) -> None:
        """The task that answers, one after the other."""
        while self._updates:
            active, correlation_id = self._updates.popleft()
            era, connection = self._era, self._lease.connection
            try:
                spec = await self._change_turn(active)
            except RstreamError as error:
                # Where to go on is not known: better not at all than with a gap. The broker gets its answer anyway.
                if era == self._era:
                    self.on_unavailable(error)
                spec = None
            if not active:
                self._cut_short = False
            if self._closed:
                return
            wire = c.OffsetSpec(0) if spec is None else c.OffsetSpec(spec.offset_type, spec.offset or 0)
            try:
                connection.send(c.ConsumerUpdateResponse(wire), correlation_id=correlation_id)
            except RstreamError as error:  # the connection has ended, and told so
                logger.debug("answering for stream %r: %s", self.stream, error)
                return
            if era != self._era:
                return
            if spec is not None and not self._updates:
                self._start_at(spec)
                self.active = True
                self._return_credit()

    async def _change_turn(self, active: bool) -> ConsumerOffsetSpecification | None:
        """What is to be done when a turn begins or ends; where to begin, or None at the end."""
        await self._end_chunk()
        if not active:
            self._in_turn = False
            await self._ask_listener(False)
            return None
        self._in_turn = True
        self._turn_start = None
        self._overdue = self._handed_out
        self._failed = None  # the turn begins there, or before it
        if self.processed is not None:
            self._earlier, self.processed = self.processed, None
        spec = await self._ask_listener(True) or await self._default_start()
        gap = await self._start_watch(self._lease.connection, spec)
        if gap is not None:
            self._tell(gap)
        return spec

    async def _lose_turn(self) -> None:
        """Ends the turn that a single active consumer had when its connection was lost, if it had one."""
        if self._updating is not None and not self._updating.done():
            await asyncio.wait((self._updating,))  # each of its steps has a limit
        if self._in_turn:
            self._cut_short = True
            if self.processed is None and self._turn_start is not None:
                self._earlier = self._turn_start - 1
            await self._change_turn(False)

    async def _end_chunk(self) -> None:
        try:
            async with asyncio.timeout(FINISH_TIMEOUT):
                await self._finished.wait()
        except TimeoutError:
            logger.warning(
                "the application still works on a message of stream %r %g s after its turn ended; "
                "the next consumer may get it too",
                self.stream,
                FINISH_TIMEOUT,
            )

    async def _ask_listener(self, active: bool) -> ConsumerOffsetSpecification | None:
        """What the listener says; None where it says nothing, or fails."""
        assert self._single_active is not None
        listener = self._single_active.listener
        if listener is None:
            return None
        task = self._listening = self._context.run(asyncio.ensure_future, _call(listener, self, active))
        try:
            done, _ = await asyncio.wait((task,), timeout=LISTENER_TIMEOUT)
        finally:
            task.cancel()
        if not done:
            logger.error(
                "the consumer update listener of stream %r gave no answer in %g s", self.stream, LISTENER_TIMEOUT
            )
        elif task.cancelled():
            logger.error("the consumer update listener of stream %r was cancelled", self.stream)
        elif (error := task.exception()) is not None:
            if not isinstance(error, KeyboardInterrupt | SystemExit):  # which the task has let out by itself
                self._callbacks.report(error, f"the consumer update listener of stream {self.stream!r}")
                self.arrived.set()
        else:
            return task.result()
        return None

    async def _default_start(self) -> ConsumerOffsetSpecification:
        assert self._single_active is not None
        name = self._single_active.name
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                try:
                    stored = await query_offset(self._locator, self.stream, name)
                except OffsetNotFound:
                    if self._earlier is None:
                        if self._spec.offset_type in MOVING:
                            self._turn_start = await self._fixed(self._lease.connection, self._spec)
                        return self._spec
                    stored = self._earlier
        except TimeoutError as error:
            if isinstance(error, RstreamError):
                raise
            raise RequestTimeout(
                f"the offset of {name!r} in stream {self.stream!r}: no answer within {QUERY_TIMEOUT:g} s"
            ) from None
        if self._cut_short and self._earlier is not None:
            stored = max(stored, self._earlier)  # it may not have been possible to store it
        return _at(stored + 1)


def _at(offset: int) -> ConsumerOffsetSpecification:
    return ConsumerOffsetSpecification(OffsetType.OFFSET, min(offset, 2**64 - 1))


async def _call(
    listener: UpdateListener, subscription: Subscription, active: bool
) -> ConsumerOffsetSpecification | None:
    answer = await listener(subscription, active)
    if answer is not None and not isinstance(answer, ConsumerOffsetSpecification):
        raise TypeError(f"a consumer update listener returns a ConsumerOffsetSpecification or None, not {answer!r}")
    return answer


class Subscriptions(AsyncIterator[Chunk]):
    """Several subscriptions as one iterator over chunks, for one task. They take turns where several have one.

    What it hands out is buffered where it came from, within that subscription's credits. It ends with the first
    error of any of them, and without one when all are closed.
    """

    def __init__(self, members: Iterable[Subscription]) -> None:
        self._members = deque(members)
        self._last: Subscription | None = None
        self.time_slice = TimeSlice()
        """Of the task that reads them."""
        self._arrived = asyncio.Event()
        self._arrived.set()
        for member in self._members:
            member.arrived = self._arrived
            member.time_slice = self.time_slice

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        self.finish()
        if self._last is not None:
            await self._last.give_way()
        if self.time_slice.is_over():
            await self.time_slice.give_way()
        while True:
            for _ in range(len(self._members)):
                member = self._members.popleft()
                self._members.append(member)
                chunk = member.poll()
                if chunk is not None:
                    self._last = member
                    return chunk
                await member.raise_error()  # also while others have chunks
            if all(member.is_closed for member in self._members):
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
            self.time_slice.begin()

    def finish(self, offset: int | None = None) -> None:
        """See ``Subscription.finish``."""
        if self._last is not None:
            self._last.finish(offset)

    async def close(self) -> None:
        """Closes all. Never raises, and may be repeated."""
        try:
            await asyncio.gather(*(member.close() for member in self._members))
        except asyncio.CancelledError:
            for member in self._members:  # some may not have begun
                member.abandon()
            raise


async def query_offset(locator: Locator, stream: str, reference: str) -> int:
    """The offset that is stored under a name. ``OffsetNotFound`` where there is none."""
    return await locator.use(lambda connection: stored_offset(connection, stream, reference))


async def stored_offset(connection: Connection, stream: str, reference: str) -> int:
    """As ``query_offset``, asked once."""
    what = f"the offset of {reference!r} in stream {stream!r}"
    return (await connection.request(c.QueryOffset(reference, stream), c.QueryOffsetResponse, what)).offset


async def first_offset(connection: Connection, stream: str) -> int | None:
    """The offset with which a stream begins on this node, perhaps one of the broker's own records.

    None where it holds nothing, and before RabbitMQ 3.11.
    """
    if connection.session.supports(c.Key.RESOLVE_OFFSET_SPEC):  # read from its files: its counters come later
        return await resolve_offset(connection, stream, ConsumerOffsetSpecification(OffsetType.FIRST))
    if not connection.session.supports(c.Key.STREAM_STATS):
        return None
    answer = await connection.request(c.StreamStats(stream), c.StreamStatsResponse, f"stream {stream!r}")
    first_chunk = answer.stats.get("first_chunk_id", -1)
    return None if first_chunk < 0 else first_chunk


async def resolve_offset(connection: Connection, stream: str, spec: ConsumerOffsetSpecification) -> int | None:
    """The offset that a specification means now, as the broker tells it; None before RabbitMQ 4.3."""
    if not connection.session.supports(c.Key.RESOLVE_OFFSET_SPEC):
        return None
    wire = c.OffsetSpec(spec.offset_type, spec.offset or 0)
    answer = await connection.request(
        c.ResolveOffsetSpec(stream, wire, {}), c.ResolveOffsetSpecResponse, f"stream {stream!r}"
    )
    if answer.offset_spec.offset_type != OffsetType.OFFSET:
        raise ProtocolError(f"stream {stream!r}: {connection.endpoint} resolved an offset to none")
    return answer.offset_spec.offset
