"""One subscription to one stream: chunks come in, credits go out.

The unit is the chunk. A chunk's credit is free when the application asks for the next chunk: by then it has taken the
first one, so a slow application holds back the broker instead of filling the memory. A chunk that unpacks to more than
a piece is handed out in pieces, each unpacked when it is asked for; its credit is free after the last piece.

A single active consumer gets chunks only while it has its turn: see ``turn_taking``. When the broker ends a turn, the
chunks that wait are dropped, and their credits are given back when the next turn begins.

When the connection is lost or the stream moves, a task subscribes again after the last chunk that arrived, wherever the
first subscription started. Chunks that have arrived are kept and handed out, so the application does not notice. A
single active consumer loses its turn with the connection: the turn ends as if the broker had said so, and the consumer
waits for another turn.

Where arriving chunks skip offsets, the subscription asks the node where the stream begins, and holds the chunks behind
the jump until it knows: so the application is told of a gap before it reads on. See ``gap_finder``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from rstream_core.arrivals import Arrivals
from rstream_core.attachment import Attachment
from rstream_core.callbacks import Callbacks
from rstream_core.connection import Connection
from rstream_core.errors import (
    AlreadyClosed,
    ChunkError,
    ConnectionClosed,
    OffsetsGone,
    ProtocolError,
    RstreamError,
    StreamDoesNotExist,
)
from rstream_core.gap_finder import GapFinder
from rstream_core.gaps import GapListener
from rstream_core.intake import Intake
from rstream_core.locator import Locator
from rstream_core.offset_questions import resolve_offset
from rstream_core.offsets import MOVING, from_offset
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.progress import Progress
from rstream_core.protocol import commands as c
from rstream_core.recovery import Recoveries
from rstream_core.timeslice import TimeSlice
from rstream_core.turn_taking import TurnTaking, start_of_turn
from rstream_core.types import Chunk, ConsumerOffsetSpecification, Endpoint, OffsetType

logger = logging.getLogger("rstream_core")

DEFAULT_CREDIT = 10
"""How many chunks the broker may send ahead."""

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
        self.arrived = asyncio.Event()
        """Set when a chunk has arrived, and when the subscription has ended or was closed."""
        self.time_slice = TimeSlice()
        """That of the task which reads the subscription."""
        self._spec = spec
        self._position = position
        """Finds the offset that a specification means, for brokers without ResolveOffsetSpec."""
        self._only_leader = at_leader
        self._ask_leader = at_leader
        self._progress = Progress()
        self._intake = Intake(stream, credit, properties)
        self._arrivals = Arrivals(stream, credit)
        self._arrivals.start_at(spec)
        is_filtered = any(key.startswith("filter.") for key in properties)
        self._gaps = GapFinder(stream, on_gap, fails=fail_on_gap, is_filtered=is_filtered)
        self._settling: asyncio.Task[None] | None = None
        self._callbacks = Callbacks()
        self._turns = None if single_active is None else self._take_turns(single_active)
        self._next: int | None = None
        """The offset to subscribe at again: after the last chunk that arrived, or the offset that a moving start meant.
        None: at the given start."""
        self._deliveries = 0
        self._has_given_way = False
        self._looked = True
        """Whether it is known since the last recovery that the stream is the same and was not deleted and made anew."""

    @property
    def id(self) -> int:
        """The subscription id of the protocol. It may change with each recovery."""
        return self._intake.id

    @property
    def chunk_end(self) -> int:
        """The offset after the whole chunk of the broker that was handed out last, including pieces yet to come."""
        return self._arrivals.chunk_end

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
        try:
            chunk, free = self._arrivals.take(self._gaps.holds)
        except ChunkError as error:
            self.error = error.located(self._connection.endpoint)
            raise
        if chunk is not None:
            self._progress.held = chunk
            self._has_given_way = False
        if free:
            self._intake.owed += free  # chunks without any requested message also used a credit
            self._return_credit()
        if self._arrivals.is_behind and not self._looked:  # a lagging replica, or a new stream?
            self._looked = True
            self._recoveries.start(self._look(self._arrivals.seen))
        return chunk

    async def give_way(self) -> None:
        """Lets the event loop run between two pieces of a chunk, since a chunk may have thousands of pieces.

        It does so once for each piece: after a cancellation here, the next call does not yield again.
        """
        if self._arrivals.has_pieces and not self._has_given_way:
            self._has_given_way = True
            self.finish()
            await self.time_slice.give_way()

    def finish(self, offset: int | None = None) -> None:
        """Notes that the application is done with the chunk that it holds, if any: with all of it, or up to ``offset``.

        Asking for the next chunk does the same; an application that stops in the middle of a chunk calls this.
        """
        if self._progress.held is not None:
            self._progress.finish(offset)
            if not self._arrivals.has_pieces:
                self._intake.owed += 1
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
        arrivals = self._arrivals
        if arrivals.waiting or arrivals.has_pieces or self._progress.held is not None or not self.active:
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
            if self._deliveries == seen and not self._arrivals.waiting:
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
        self._arrivals.clear()
        self._callbacks.sum_up()
        self.arrived.set()
        if self._turns is not None:
            self._turns.close()

    # Called by the connection.

    def on_chunk(self, delivery: c.Delivery) -> None:
        self._deliveries += 1
        self._outages.progress()
        if self._turns is not None and not self._turns.is_active:
            self._intake.owed += 1
        elif not self._closed:
            header, end = self._arrivals.add(delivery)
            if header is not None:  # else ``poll`` raises the error
                if self._turns is None:
                    self._next = end
                if self._gaps.arrive(header.first_offset, end):
                    self._settle_doubts()
            self.arrived.set()

    def on_consumer_update(self, active: bool, correlation_id: int) -> None:
        if self._turns is None:
            raise ProtocolError(f"the broker tells of a turn in stream {self.stream!r}, which nobody takes turns in")
        self._turns.told(active, self._connection, correlation_id)
        # What waits belongs to a turn that is over.
        self._intake.owed += self._arrivals.drop(is_holding=self._progress.held is not None)
        self._gaps.stop()

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
        is_held = self._progress.held is not None or self._arrivals.has_pieces
        dropped = self._arrivals.drop_newest(self._intake.room(is_held))
        if dropped is not None:
            self._next = dropped
        if not first and self._next is not None:
            spec = from_offset(self._next)
        gap = None
        if self._turns is None:
            gap = await self._gaps.start(connection, spec, is_resumed=not first)
            if self._gaps.fails:
                self._gaps.tell(gap)
        await self._intake.subscribe(connection, lease.id, self, spec, self._held())
        self._gaps.tell(gap)

    def _go_on(self) -> None:
        self._ask_leader = self._only_leader
        self._looked = not self._arrivals.seen
        self._arrivals.is_behind = False
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

    def _held(self) -> int:
        """How many chunks have arrived and are not done with."""
        is_held = self._progress.held is not None or self._arrivals.has_pieces
        return len(self._arrivals.waiting) + is_held

    async def _fixed(self, connection: Connection, spec: ConsumerOffsetSpecification) -> int | None:
        """Returns the offset that a moving specification means now; None if recovery is off, since nothing needs it."""
        if self._recoveries.policy is None:
            return None
        offset = await resolve_offset(connection, self.stream, spec)
        return await self._position(spec) if offset is None else offset

    def _detach(self) -> None:
        super()._detach()
        self._intake.leave(self._connection, self._lease.id, self)
        if self._turns is not None:
            self._turns.lose()
            self._arrivals.clear()
            self._gaps.stop()

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self.arrived.set()

    # Inside.

    def _return_credit(self) -> None:
        # While another consumer has its turn, credits are held back. RabbitMQ 4.3 and 4.0 refuse them (code 17) but add
        # them all the same, and credits left at the end of a turn count in the next: observed with both. Credits that
        # are held back and given at the start of the next turn are right whether or not a broker adds them.
        if self._intake.is_due and self.active and self._current() is not None:
            self._intake.give_back(self._connection)

    def _current(self) -> Connection | None:
        """The connection on which the broker sends chunks; None while there is none, and after the end."""
        return self._connection if self._attached and self.error is None and not self._closed else None

    def _wake(self) -> None:
        self.arrived.set()  # ``Subscriptions`` replaces the event

    def _settle_doubts(self) -> None:
        if self._gaps.has_doubts and (self._settling is None or self._settling.done()):
            self._settling = self._recoveries.start(self._settle())

    async def _settle(self) -> None:
        """Finds out which jumps are gaps. After a lost connection ``_go_on`` starts this again."""
        try:
            await self._gaps.settle(self._current, self._wake)
        except OffsetsGone as error:
            self._detach()
            self._end(error)

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
        self._arrivals.start_at(spec)
        self._return_credit()

    def _report(self, error: BaseException) -> None:
        self._callbacks.report(error, f"the consumer update listener of stream {self.stream!r}")
        self.arrived.set()

    async def _find_turn_start(
        self, name: str, connection: Connection, wanted: ConsumerOffsetSpecification | None
    ) -> ConsumerOffsetSpecification:
        """Returns where a turn begins: where the listener says, else behind what was done. Tells of a gap there."""
        spec = wanted or await start_of_turn(
            self._locator, self.stream, name, self._progress, self._spec, partial(self._fixed, connection, self._spec)
        )
        self._gaps.tell(await self._gaps.start(connection, spec))
        return spec
