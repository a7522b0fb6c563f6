"""One subscription to one stream: chunks come in, credits go out; and several subscriptions as one iterator.

The unit is the chunk. A chunk's credit goes back when the application asks for the next chunk: by then it has taken the
first one, so a slow application holds back the broker instead of filling the memory. A chunk that unpacks to more than
a piece is handed out in pieces, each unpacked when it is asked for; its credit goes back after the last piece.

A single active consumer gets chunks only while it has its turn: see ``turn_taking``. When the broker ends a turn, the
chunks that wait are dropped, and their credits are given back when the next turn begins.

When the connection is lost or the stream moves, a task subscribes again after the last chunk that arrived, wherever the
first subscription started. Chunks that have arrived are kept and handed out, so the application does not notice. A
single active consumer loses its turn with the connection: the turn ends as if the broker had said so, and the consumer
waits for another turn.

Where arriving chunks skip offsets, the subscription asks the node where the stream begins, and holds the chunks behind
the jump until it knows: so the application is told of a gap before it reads on. See ``gaps``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from rstream_core.attachment import Attachment
from rstream_core.callbacks import Callbacks
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
from rstream_core.offset_questions import first_offset, query_offset, resolve_offset
from rstream_core.offsets import MOVING, from_offset, wire_spec
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.progress import Progress
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import CHUNK_USER, ChunkReader, open_chunk, parse_header
from rstream_core.recovery import Recoveries
from rstream_core.timeslice import TimeSlice
from rstream_core.turn_taking import TurnTaking
from rstream_core.types import Chunk, ConsumerOffsetSpecification, Endpoint, OffsetType

logger = logging.getLogger("rstream_core")

DEFAULT_CREDIT = 10
MAX_CREDIT_OF_FRAME = 0x7FFF
"""The largest credit in one Subscribe or Credit. RabbitMQ 4.3.6 reads the credit of a Credit frame as a signed 16-bit
number: it takes a larger one as negative, and sends no more chunks, without an error (observed). It reads that of a
Subscribe frame correctly."""
MORE_CHUNKS = 16
"""Waiting chunks that are tolerated above twice the credit. A broker that counts credits never sends that many."""

QUERY_TIMEOUT = 10.0
"""Seconds for reading the stored offset."""
LOOK_TIMEOUT = 5.0
"""Seconds for finding where the stream begins. With ``QUERY_TIMEOUT`` and those of ``turn_taking``: less than the
60 that a broker waits."""
LOOKS = 3
"""How often a node that does not answer is asked where the stream begins, while chunks are held for the answer."""


UpdateListener = Callable[["Subscription", bool], Awaitable[ConsumerOffsetSpecification | None]]
"""Called when a subscription becomes active (True) and when it stops being so. See ``SingleActiveConsumer``."""


@dataclass(frozen=True, slots=True)
class SingleActiveConsumer:
    """Subscriptions to a stream that share a ``name``: the broker sends to one of them at a time.

    ``super_stream`` names the super stream if the stream is a partition of one: the broker then spreads the partitions
    over the subscriptions with this name.

    ``listener(subscription, active)`` is called with True when the subscription's turn begins, and returns where to
    start. If it returns None, the turn starts after the offset that is stored under the name; without a stored offset,
    after the last message processed in an earlier turn; otherwise at the subscription's own start. Where the earlier
    turn ended with a lost connection, the turn starts after the later of the first two.

    The listener is called with False when the turn ends, before the broker gets its answer and begins the turn of
    another consumer: the time to store ``subscription.processed``. After a lost connection the other turn may have
    begun already. A listener that raises, or takes longer than ``LISTENER_TIMEOUT``, is logged and counts as one that
    returned None.
    """

    name: str
    super_stream: str | None = None
    listener: UpdateListener | None = None

    def properties(self) -> dict[str, str]:
        """Returns the properties of the Subscribe frame that make the subscription a single active consumer."""
        told = {"single-active-consumer": "true", "name": self.name}
        return told if self.super_stream is None else {**told, "super-stream": self.super_stream}


class Subscription(Attachment, AsyncIterator[Chunk]):
    """An async iterator over the chunks of a stream, for one task. Made by ``Client.subscribe``.

    The iteration goes on after a lost connection, and when the stream has moved, as the client's recovery policy
    allows. It raises the error that ended the subscription: ``StreamDoesNotExist`` where the stream was deleted,
    ``ChunkError`` for damaged data, ``ConnectionClosed``, ``StreamNotAvailable`` or another error where recovery was
    given up. After ``close()`` it ends without an error. Pieces in front of the damaged part of a chunk are handed out.
    A cancelled ``__anext__`` loses nothing: the next call returns the same chunk.
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
        """``on_gap`` is called with each gap; with None, the subscription does not look for gaps."""
        super().__init__(stream, pool, locator, recoveries)
        self.id = 0
        """The subscription id of the protocol. It may change with each recovery."""
        self._progress = Progress()
        """What the application holds, and what it is done with."""
        self.arrived = asyncio.Event()
        """Set when a chunk has arrived, and when the subscription has ended or was closed."""
        self.time_slice = TimeSlice()
        """That of the task which reads the subscription."""
        self._spec = spec
        self._credit = credit
        self._properties = properties
        self._only_leader = at_leader
        self._ask_leader = at_leader
        self._seen = 0
        """The offset after the last message that was handed out."""
        self._looked = True
        """Whether it is known since the last recovery that the stream is the same and was not deleted and made anew."""
        self._next: int | None = None
        """The offset to subscribe at again: after the last chunk that arrived, or the offset that a moving start meant.
        None: at the given start."""
        self._position = position
        """Finds the offset that a specification means, for brokers without ResolveOffsetSpec."""
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._reader: ChunkReader | None = None
        """The reader of the chunk that is being handed out, while it has more pieces."""
        self._has_given_way = False
        self._timestamp = 0
        self._committed: int | None = None
        self.chunk_end = 0
        """The offset after the whole chunk of the broker that was handed out last, including pieces yet to come."""
        self._owed = 0
        self._deliveries = 0
        self._on_gap = on_gap
        self._fail_on_gap = fail_on_gap
        self._is_filtered = any(key.startswith("filter.") for key in properties)
        self._watch = GapWatch(follows=on_gap is not None and not self._is_filtered)
        self._settling: asyncio.Task[None] | None = None
        self._callbacks = Callbacks()
        self._turns = None if single_active is None else self._take_turns(single_active)
        self._start_at(spec)

    @property
    def active(self) -> bool:
        """Whether the broker sends messages: False for a single active consumer while another one has its turn.

        Turns False as soon as the broker says that the turn ends, and when the connection is lost. An application that
        is in the middle of a chunk then should stop there, ``finish`` the chunk, and ask for the next.
        """
        return self._turns is None or self._turns.is_active

    @property
    def processed(self) -> int | None:
        """The last offset that the application is done with, and with all before it, since the subscription became
        active."""
        return self._progress.processed

    async def open(self, endpoint: Endpoint) -> None:
        """Subscribes on this node. ``Client`` calls this until it succeeds once."""
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
        self._guard.check()
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
        """Returns the next chunk, or piece, if one is there. Finishes the one before it. Raises ``ChunkError``."""
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
                self._progress.held = chunk
                return chunk
            self._owed += 1  # a chunk without any requested message also used a credit
            self._return_credit()
        return None

    async def give_way(self) -> None:
        """Lets the event loop run between two pieces of a chunk, since a chunk may have thousands of pieces.

        It does so once for each piece: after a cancellation here, the next call does not yield again.
        """
        if self._reader is not None and not self._has_given_way:
            self._has_given_way = True
            self.finish()
            await self.time_slice.give_way()

    def finish(self, offset: int | None = None) -> None:
        """Notes that the application is done with the chunk that it holds, if any: with all of it, or up to ``offset``.

        Asking for the next chunk does the same; an application that stops in the middle of a chunk calls this.
        """
        if self._progress.held is not None:
            self._progress.finish(offset)
            if self._reader is None:
                self._owed += 1
            if self._turns is not None:
                self._turns.on_finished()
        self._return_credit()

    def fail(self, offset: int) -> None:
        """The application could not do what it has to with a message of the chunk that it holds.

        ``processed`` does not pass it in this turn, so a consumer that goes on from there gets it again.
        """
        self._progress.fail(offset)

    def is_wanted(self, chunk: Chunk) -> bool:
        """Returns whether to go on with a chunk: False where the turn in which it was handed out is over."""
        return self.active and not self._progress.is_overdue(chunk)

    async def raise_error(self) -> None:
        """Raises the error that ended the subscription, if any, or the one that ``Callbacks.check`` raises."""
        self._callbacks.check()
        if self.error is not None:
            self.error = await self._locator.explain(self.stream, self.error)
            raise self.error.with_traceback(None)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` or ``abandon`` was called."""
        return self._closed

    async def barrier(self) -> bool:
        """Returns whether the broker has delivered a chunk. Right after subscribing: whether it has any to deliver.

        A broker sends the chunks that it has before it answers the next request on the same connection.
        """
        self._guard.check()
        if not self._deliveries:
            await self._round_trip()
        return self._deliveries > 0

    async def nothing_to_come(self) -> bool:
        """Returns whether the broker has no more chunks to send now. With a filter, only this shows the end."""
        self._guard.check()
        if self._waiting or self._reader is not None or self._progress.held is not None or not self.active:
            return False
        seen = self._deliveries
        await self._round_trip()
        return self._deliveries == seen and self.active

    async def next_there_is(self) -> Chunk | None:
        """Returns the next chunk, or None where the broker has none to send now."""
        self._guard.check()
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
                await self._lease.connection.request(c.Metadata((self.stream,)), what)
            except ConnectionClosed:
                if self._attached or self._recovering is None or self._closed:
                    raise
            else:
                return

    async def close(self) -> None:
        """Ends the subscription, and an iteration that waits. Never raises; may be called repeatedly."""
        if self._closed:
            return
        self._guard.check()
        self._stop()
        try:
            if self._turns is None or not self._turns.is_called_by_listener():  # both wait for the listener
                if self._turns is not None:
                    await self._turns.closed()
                await self._stop_recovering()
            await self._leave()
        finally:
            self._leave_later(self._detach)  # does something only where ``close`` was cancelled

    def abandon(self) -> None:
        """Closes the subscription without waiting."""
        self._stop()
        self._abandon()

    def _stop(self) -> None:
        self._closed = True
        self._reader = None
        self._waiting.clear()
        self._callbacks.sum_up()
        self.arrived.set()
        if self._turns is not None:
            self._turns.close()

    # Called by the connection.

    def on_chunk(self, chunk: bytes, committed_chunk_id: int | None) -> None:
        self._deliveries += 1
        self._outages.progress()
        if self._turns is not None and not self._turns.is_active:
            self._owed += 1
        elif not self._closed:
            if len(self._waiting) > 2 * self._credit + MORE_CHUNKS:
                raise ProtocolError(f"the broker sends more of stream {self.stream!r} than it was asked for")
            self._waiting.append((chunk, committed_chunk_id))
            self._note_place(chunk)
            self.arrived.set()

    def on_consumer_update(self, active: bool, correlation_id: int) -> None:
        if self._turns is None:
            raise ProtocolError(f"the broker tells of a turn in stream {self.stream!r}, which nobody takes turns in")
        self._turns.told(active, self._connection, correlation_id)
        self._owed += len(self._waiting)
        self._waiting.clear()  # these chunks belong to a turn that is over
        self._watch.start(None)
        self._drop_rest()

    # Attaching and recovering.

    async def _locate(self) -> Endpoint:
        # Metadata may still name a replica that is down: every second attempt goes to the leader.
        locate = self._locator.leader_now if self._ask_leader else self._locator.replica_now
        self._ask_leader = self._only_leader or not self._ask_leader
        return await locate(self.stream)

    async def _declare(self) -> None:
        """Subscribes at the given start, or after the last chunk that has arrived."""
        if self._closed:
            raise AlreadyClosed(f"this subscription to stream {self.stream!r} is closed")
        if self._turns is not None:
            await self._turns.settle()  # a turn that began in an earlier attempt
        lease, connection = self._lease, self._connection
        first, spec = self._next is None, self._spec
        if first and spec.offset_type in MOVING and self._turns is None:
            # Fixes the start: messages published in an outage before the first chunk must not be missed.
            self._next = await self._fixed(connection, spec)
        credit = self._grant()
        if not first and self._next is not None:
            spec = from_offset(self._next)
        gap = None
        if self._turns is None:
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
                wire_spec(spec),
                credit,
                self._properties,
            ),
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
        """Ends the subscription if the stream ends before ``seen``: it was deleted and made anew during an outage."""
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

    def _goodbye(self, lease: Lease) -> c.Request[object]:
        return c.Unsubscribe(lease.id)

    async def _before_recovery(self) -> None:
        if self._turns is not None:
            await self._turns.settle()

    def _grant(self) -> int:
        """Returns the credit for a new Subscribe: the initial credit less the chunks that are held here.

        Where that would leave none, drops waiting chunks, the newest first; the broker sends them again.
        """
        held = self._progress.held is not None or self._reader is not None
        while self._waiting and len(self._waiting) + held >= self._credit:
            data, _ = self._waiting.pop()
            self._next = parse_header(data).first_offset
        room = self._credit - len(self._waiting) - held
        credit = min(max(room, 1), MAX_CREDIT_OF_FRAME)
        self._owed = room - credit
        return credit

    async def _fixed(self, connection: Connection, spec: ConsumerOffsetSpecification) -> int | None:
        """Returns the offset that a moving specification means now; None if recovery is off, since nothing needs it."""
        if self._recoveries.policy is None:
            return None
        offset = await resolve_offset(connection, self.stream, spec)
        return await self._position(spec) if offset is None else offset

    def _detach(self) -> None:
        super()._detach()
        if self._connection.subscriptions.get(self._lease.id) is self:
            del self._connection.subscriptions[self._lease.id]
        self._connection.streams.pop(self, None)
        if self._turns is not None:
            self._turns.lose()
            self._reader = None
            self._waiting.clear()
            self._watch.start(None)

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self.arrived.set()

    # Inside.

    def _return_credit(self) -> None:
        # While another consumer has its turn, credits are held back. RabbitMQ 4.3 and 4.0 refuse them (code 17) but add
        # them all the same, and credits left at the end of a turn count in the next: observed with both. Credits that
        # are held back and given at the start of the next turn are right whether or not a broker adds them.
        connection = self._lease.connection
        may = self.active and self._attached and self.error is None and not self._closed
        if may and self._owed > 0 and connection.is_open:
            while self._owed > 0:
                credit = min(self._owed, MAX_CREDIT_OF_FRAME)
                connection.send(c.Credit(self.id, credit))
                self._owed -= credit

    def _start_at(self, spec: ConsumerOffsetSpecification) -> None:
        """Sets which messages or chunks before the requested start are dropped."""
        self._first_wanted = (spec.offset or 0) if spec.offset_type is OffsetType.OFFSET else 0
        self._earliest = spec.offset if spec.offset_type is OffsetType.TIMESTAMP else None

    def _next_piece(self) -> Chunk | None:
        """Returns the next messages at or after the requested start; None where the chunk has none, or no more."""
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
            if end <= self._seen and not self._looked:  # a lagging replica, or a new stream?
                self._looked = True
                self._recoveries.start(self._look(self._seen))
            if not isinstance(found, ChunkReader):
                return self._hand_out(offset, found)
            reader = found
        piece = reader.read(self._first_wanted)
        self._reader, self._has_given_way = None if reader.is_done else reader, False
        return self._hand_out(self.chunk_end, []) if piece is None else self._hand_out(*piece)

    def _hand_out(self, offset: int, messages: list[bytes]) -> Chunk | None:
        """Makes a ``Chunk`` of the messages that were not handed out before; None where there are none."""
        end = offset + len(messages)
        self._seen = max(self._seen, end)
        wanted = self._first_wanted
        if offset < wanted:
            del messages[: wanted - offset]
            offset = wanted
        if end > wanted:
            self._first_wanted = end  # no message is handed out twice
        return Chunk(self.stream, offset, self._timestamp, messages, self._committed) if messages else None

    def _drop_rest(self) -> None:
        """Drops the remaining pieces of a chunk. Its credit goes back with the piece that the application holds."""
        if self._reader is not None:
            self._reader = None
            if self._progress.held is None:
                self._owed += 1

    # Gaps.

    async def _start_watch(
        self, connection: Connection, spec: ConsumerOffsetSpecification, *, is_resumed: bool = False
    ) -> Gap | None:
        """Notes the offset where reading starts, and returns the gap there, if any. Called just before the node reads.

        ``is_resumed``: the subscription goes on after chunks that have arrived. With a filter, the broker may have read
        far beyond that place before, so the gap cannot be known.
        """
        offset = spec.offset if spec.offset_type is OffsetType.OFFSET else None
        self._watch.start(offset, keep=is_resumed)
        if offset is None or self._on_gap is None or (is_resumed and self._is_filtered):
            return None
        try:
            begins = await self._first_there(connection)
        except (ServerError, RequestTimeout) as error:  # Subscribe reports any real problem
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
        """Notes where an arrived chunk ends. If it does not follow the previous one, asks where the stream begins."""
        try:
            header = parse_header(chunk)
        except ChunkError:  # ``poll`` raises it when it opens the chunk
            return
        end = min(header.first_offset + header.records, 2**64 - 1)
        if self._turns is None:
            self._next = end
        if self._on_gap is not None and self._watch.arrive(header.first_offset, end):
            self._settle_doubts()

    def _holds(self, chunk: bytes) -> bool:
        """Returns whether a chunk must not be handed out: a doubt before it is open, or a gap has ended reading."""
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
        """Asks where the stream begins until no doubt is open. After a lost connection ``_go_on`` starts this again."""
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
        """Tells the listener of a gap. With ``fail_on_gap``, raises ``OffsetsGone``, which ends the subscription."""
        assert self._on_gap is not None
        self._on_gap(gap)
        if self._fail_on_gap:
            raise OffsetsGone(str(gap), stream=gap.stream, first=gap.first, last=gap.last)

    # Turns of a single active consumer.

    def _take_turns(self, single_active: SingleActiveConsumer) -> TurnTaking:
        listener = single_active.listener
        return TurnTaking(
            self.stream,
            self._progress,
            None if listener is None else partial(listener, self),
            partial(self._find_turn_start, single_active.name),
            resume=self._resume,
            fail=self.on_unavailable,
            report=self._report,
        )

    def _resume(self, spec: ConsumerOffsetSpecification) -> None:
        self._start_at(spec)
        self._return_credit()

    def _report(self, error: BaseException) -> None:
        self._callbacks.report(error, f"the consumer update listener of stream {self.stream!r}")
        self.arrived.set()

    async def _find_turn_start(
        self, name: str, connection: Connection, wanted: ConsumerOffsetSpecification | None
    ) -> ConsumerOffsetSpecification:
        """Returns where a turn begins: where the listener says, else behind what was done. Tells of a gap there."""
        spec = wanted or await self._default_start(name, connection)
        gap = await self._start_watch(connection, spec)
        if gap is not None:
            self._tell(gap)
        return spec

    async def _default_start(self, name: str, connection: Connection) -> ConsumerOffsetSpecification:
        stored: int | None = None
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                try:
                    stored = await query_offset(self._locator, self.stream, name)
                except OffsetNotFound:
                    if self._progress.last_done(None) is None and self._spec.offset_type in MOVING:
                        self._progress.started_at(await self._fixed(connection, self._spec))
        except TimeoutError as error:
            if isinstance(error, RstreamError):
                raise
            raise RequestTimeout(
                f"the offset of {name!r} in stream {self.stream!r}: no answer within {QUERY_TIMEOUT:g} s"
            ) from None
        last = self._progress.last_done(stored)
        return self._spec if last is None else from_offset(last + 1)


class Subscriptions(AsyncIterator[Chunk]):
    """Several subscriptions as one iterator over chunks, for one task.

    It takes chunks from the subscriptions in rotation. Chunks wait in their subscription, within its credits. The
    iterator raises the first error of any subscription, and ends without an error when all are closed.
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
                await member.raise_error()  # even while other members have chunks
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
        """Closes all subscriptions. Never raises; may be called repeatedly."""
        try:
            await asyncio.gather(*(member.close() for member in self._members))
        except asyncio.CancelledError:
            for member in self._members:  # some ``close`` calls may not have started
                member.abandon()
            raise
