"""One subscription to one stream: chunks come in, credits go out.

The unit is the chunk. A chunk's credit is free when the application asks for the next chunk: by then it has taken the
first one, so a slow application holds back the broker instead of filling the memory. A chunk that unpacks to more than
a piece is handed out in pieces, each unpacked when it is asked for; its credit is free after the last piece.

A single active consumer gets chunks only while it has its turn: see ``turn_taking``. When the broker ends a turn, the
chunks that wait are dropped, and their credits are given back when the next turn begins.

``intake`` is the other half, which the broker sees: it subscribes, takes the chunks in, and recovers from losses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, cast

from rstream_core.callbacks import Callbacks
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from rstream_core.connecting.recovery import Recoveries
from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.intake import Intake
from rstream_core.consuming.start import Position
from rstream_core.errors import RstreamError
from rstream_core.loops import LoopGuard
from rstream_core.protocol.chunk import AnyChunk
from rstream_core.protocol.delivered import ReadChunk
from rstream_core.timeslice import TimeSlice
from rstream_core.types import Chunk, ConsumerOffsetSpecification, Endpoint

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


class Subscription(AsyncIterator[Chunk]):
    """An async iterator over the chunks of a stream, for one task. Made by ``Client.subscribe``.

    The iteration goes on after a lost connection, and when the stream has moved, as the client's recovery policy
    allows. It raises the error that ended the subscription: ``StreamDoesNotExist`` where the stream was deleted,
    ``ChunkError`` for damaged data, ``ConnectionClosed``, ``StreamNotAvailable`` or another error where recovery was
    given up. After ``close()`` it ends without an error. Pieces in front of the damaged part of a chunk are handed out.
    A cancelled ``__anext__`` loses nothing: the next call returns the same chunk.
    """

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
        position: Position,
        single_active: SingleActiveConsumer | None = None,
        at_leader: bool = False,
        on_gap: GapListener | None = None,
        fail_on_gap: bool = False,
    ) -> None:
        """``on_gap`` is called with each gap; with None, the subscription does not look for gaps."""
        self.stream = stream
        self._intake = Intake(
            stream,
            spec,
            pool,
            locator,
            recoveries,
            credit=credit,
            properties=properties,
            position=position,
            at_leader=at_leader,
            on_gap=on_gap,
            fail_on_gap=fail_on_gap,
        )
        self.reads_plain = False
        """Whether chunks of plain messages are handed out as ``PlainChunk``: set by a reader that takes both."""
        self.time_slice = TimeSlice()
        """That of the task which reads the subscription."""
        self._guard = LoopGuard("this subscription")
        self._guard.check()  # it belongs to the event loop in which it is made
        self._callbacks = Callbacks()
        self._has_given_way = False
        if single_active is not None:
            listener = single_active.listener
            bound = None if listener is None else partial(listener, self)
            self._intake.take_turns(single_active.name, bound, self._report)

    @property
    def id(self) -> int:
        """The subscription id of the protocol. It may change with each recovery."""
        return self._intake.id

    @property
    def error(self) -> RstreamError | None:
        """The error that ended the subscription."""
        return self._intake.error

    @property
    def arrived(self) -> asyncio.Event:
        """Set when a chunk has arrived, and when the subscription has ended or was closed."""
        return self._intake.arrived

    @arrived.setter
    def arrived(self, event: asyncio.Event) -> None:
        self._intake.arrived = event

    @property
    def chunk_end(self) -> int:
        """The offset after the whole chunk of the broker that was handed out last, including pieces yet to come."""
        return self._intake.arrivals.chunk_end

    @property
    def active(self) -> bool:
        """Whether the broker sends messages: False for a single active consumer while another one has its turn.

        Turns False as soon as the broker says that the turn ends, and when the connection is lost. An application that
        is in the middle of a chunk then should stop there, ``finish`` the chunk, and ask for the next.
        """
        return self._intake.is_active

    @property
    def has_turns(self) -> bool:
        """Whether it is a single active consumer. Otherwise it is always active, and ``is_wanted`` always true."""
        return self._intake.turns is not None

    @property
    def processed(self) -> int | None:
        """The last offset that the application is done with, and with all before it, since the subscription became
        active."""
        return self._intake.progress.processed

    async def open(self, endpoint: Endpoint) -> None:
        """Subscribes on this node. ``Client`` calls this until it succeeds once."""
        await self._intake.attach(endpoint)

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
            if self._intake.is_closed:
                raise StopAsyncIteration
            await self.raise_error()
            self.arrived.clear()
            await self.arrived.wait()
            self.time_slice.begin()

    def poll(self) -> Chunk | None:
        """Returns the next chunk, or piece, if one is there. Finishes the one before it. Raises ``ChunkError``.

        With ``reads_plain``, what is returned may be a ``PlainChunk``.
        """
        chunk = self._intake.next(as_plain=self.reads_plain)
        if chunk is not None:
            self._has_given_way = False
        return cast("Chunk | None", chunk)

    def poll_plain(self) -> AnyChunk | None:
        """As ``poll``, for whoever wants little but bodies: a chunk of plain messages comes as a ``PlainChunk``."""
        chunk = self._intake.next(as_plain=True)
        if chunk is not None:
            self._has_given_way = False
        return cast("AnyChunk | None", chunk)

    def poll_whole(self, *, placed: bool) -> ReadChunk | None:
        """As ``poll``, for whoever does not take messages out: a chunk comes as a ``PlacedChunk``, to pass its messages
        on, or as a ``DeliveredChunk``, to keep it as it is."""
        return self._intake.next(placed=placed, as_delivered=not placed)

    async def give_way(self) -> None:
        """Lets the event loop run between two pieces of a chunk, since a chunk may have thousands of pieces.

        It does so once for each piece: after a cancellation here, the next call does not yield again.
        """
        if self._intake.arrivals.has_pieces and not self._has_given_way:
            self._has_given_way = True
            self.finish()
            await self.time_slice.give_way()

    def finish(self, offset: int | None = None) -> None:
        """Notes that the application is done with the chunk that it holds, if any: with all of it, or up to ``offset``.

        Asking for the next chunk does the same; an application that stops in the middle of a chunk calls this.
        """
        self._intake.finish(offset)

    def fail(self, offset: int) -> None:
        """The application could not do what it has to with a message of the chunk that it holds.

        ``processed`` does not pass it in this turn, so a consumer that goes on from there gets it again.
        """
        self._intake.progress.fail(offset)

    def take_back(self, behind: int | None) -> None:
        """At the end of a turn: the application is not done with what lies behind this offset; None: with nothing of
        the turn.

        For applications that finish chunks before they are done with the messages. ``processed`` does not pass the
        offset in this turn, so a consumer that goes on from there gets them again.
        """
        self._intake.progress.take_back(behind)

    def is_wanted(self, chunk: ReadChunk) -> bool:
        """Returns whether to go on with a chunk: False where the turn in which it was handed out is over."""
        return self.active and not self._intake.progress.is_overdue(chunk)

    async def raise_error(self) -> None:
        """Raises the error that ended the subscription, if any, or the one that ``Callbacks.check`` raises."""
        self._callbacks.check()
        if self._intake.error is not None:
            await self._intake.raise_error()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` or ``abandon`` was called."""
        return self._intake.is_closed

    async def barrier(self) -> bool:
        """Returns whether the broker has delivered a chunk. Right after subscribing: whether it has any to deliver.

        A broker sends the chunks that it has before it answers the next request on the same connection.
        """
        self._guard.check()
        if not self._intake.deliveries:
            await self._intake.round_trip()
        return self._intake.deliveries > 0

    async def nothing_to_come(self) -> bool:
        """Returns whether the broker has no more chunks to send now. With a filter, only this shows the end."""
        self._guard.check()
        if not self._intake.holds_nothing or not self.active:
            return False
        seen = self._intake.deliveries
        await self._intake.round_trip()
        return self._intake.deliveries == seen and self.active

    async def next_there_is(self) -> Chunk | None:
        """Returns the next chunk, or None where the broker has none to send now."""
        self._guard.check()
        await self.give_way()
        while True:
            chunk = self.poll()
            if chunk is not None:
                return chunk
            await self.raise_error()
            seen = self._intake.deliveries
            await self._intake.round_trip()
            if self._intake.deliveries == seen and not self._intake.arrivals.waiting:
                return None

    async def close(self) -> None:
        """Ends the subscription, and an iteration that waits. Never raises; may be called repeatedly."""
        if self.is_closed:
            return
        self._guard.check()
        self._callbacks.sum_up()
        await self._intake.close()

    def abandon(self) -> None:
        """Closes the subscription without waiting."""
        self._callbacks.sum_up()
        self._intake.abandon()

    def _report(self, error: BaseException) -> None:
        self._callbacks.report(error, f"the consumer update listener of stream {self.stream!r}")
        self.arrived.set()
