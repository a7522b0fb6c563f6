"""What one subscription is on a connection: chunks come in there, credits go out, turns begin and end.

When the connection is lost or the stream moves, a task subscribes again after the last chunk that arrived, wherever the
first subscription started. Chunks that have arrived are kept, so the application does not notice. A single active
consumer loses its turn with the connection: the turn ends as if the broker had said so, and the consumer waits for
another turn.

Where arriving chunks skip offsets, the node is asked where the stream begins, and the chunks behind the jump are held
until that is known: so the application is told of a gap before it reads on. See ``gap_finder``.

``Intake`` is longer than other classes, since it is all that the connection and ``Attachment`` call, in one place. What
is decided there is decided by its parts: ``Arrivals``, ``Credits``, ``GapFinder``, ``Start``, ``TurnTaking``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from rstream_core.connecting.attachment import Attachment
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool, Lease
from rstream_core.connecting.recovery import Recoveries
from rstream_core.consuming.arrivals import Arrivals
from rstream_core.consuming.credits import Credits
from rstream_core.consuming.gap_finder import GapFinder
from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.offsets import wire_spec
from rstream_core.consuming.progress import Progress
from rstream_core.consuming.start import Position, Start
from rstream_core.consuming.turn_taking import Listener, TurnTaking
from rstream_core.errors import (
    AlreadyClosed,
    ChunkError,
    ConnectionClosed,
    OffsetsGone,
    ProtocolError,
    RstreamError,
)
from rstream_core.protocol import commands as c
from rstream_core.protocol.delivered import ReadChunk
from rstream_core.types import ConsumerOffsetSpecification, Endpoint

logger = logging.getLogger("rstream_core")


class Intake(Attachment):
    """What one subscription takes in. ``Subscription`` is the iterator over it."""

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
        position: Position,
        at_leader: bool,
        on_gap: GapListener | None,
        fail_on_gap: bool,
    ) -> None:
        """See ``Subscription``."""
        super().__init__(stream, pool, locator, recoveries)
        self.id = 0
        """The subscription id of the protocol. It may change with each recovery."""
        self.arrived = asyncio.Event()
        """Set when a chunk has arrived, and when the subscription has ended or was closed."""
        self.deliveries = 0
        """How many chunks have arrived."""
        self.arrivals = Arrivals(stream, credit)
        self.arrivals.start_at(spec)
        self.progress = Progress()
        self.credits = Credits(credit)
        self.turns: TurnTaking | None = None
        self._properties = properties
        self._start = Start(stream, spec, position, recovers=recoveries.policy is not None)
        self._only_leader = at_leader
        self._ask_leader = at_leader
        is_filtered = any(key.startswith("filter.") for key in properties)
        self._gaps = GapFinder(stream, on_gap, fails=fail_on_gap, is_filtered=is_filtered)
        self._settling: asyncio.Task[None] | None = None
        self._looked = True
        """Whether it is known since the last recovery that the stream is the same and was not deleted and made anew."""

    def take_turns(self, name: str, listener: Listener | None, report: Callable[[BaseException], None]) -> None:
        """Makes it a single active consumer of the group ``name``. To be called before ``attach``.

        ``report`` gets what the listener raises. The listener runs in the context in which this is called.
        """
        self.turns = TurnTaking(
            self.stream,
            self.progress,
            listener,
            partial(self._find_turn_start, name),
            resume=self._resume,
            fail=self.on_unavailable,
            report=report,
        )

    @property
    def is_active(self) -> bool:
        """Whether the broker sends chunks: False for a single active consumer while another one has its turn."""
        return self.turns is None or self.turns.is_active

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` or ``abandon`` was called."""
        return self._closed

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing that has arrived is still to be handed out or to be finished."""
        return not self._held()

    def next(self, *, as_plain: bool = False, placed: bool = False, as_delivered: bool = False) -> ReadChunk | None:
        """Returns the next chunk, or piece, if one is there: from then on it is held, and the one before it finished.

        ``as_plain``, ``placed``, ``as_delivered``: see ``Arrivals.take``. Raises ``ChunkError``, once.
        """
        if self.progress.held is not None:
            self.finish(None)
        elif self.credits.is_due:
            self._return_credit()
        try:
            watch = self._gaps.watch
            held = None if watch.is_quiet else watch.holds
            chunk, free = self.arrivals.take(held, as_plain=as_plain, placed=placed, as_delivered=as_delivered)
        except ChunkError as error:
            self.error = error.located(self._connection.endpoint)
            raise
        if chunk is not None:
            self.progress.held = chunk
        if free:
            self.credits.free += free  # chunks without any requested message also used a credit
            self._return_credit()
        if self.arrivals.is_behind and not self._looked:  # a lagging replica, or a new stream?
            self._looked = True
            self._recoveries.start(self._look(self.arrivals.seen))
        return chunk

    def finish(self, offset: int | None) -> None:
        """The application is done with the chunk that it holds, if any: with all of it, or up to ``offset``."""
        if self.progress.held is not None:
            self.progress.finish(offset)
            if not self.arrivals.has_pieces:
                self.credits.free += 1
            if self.turns is not None:
                self.turns.on_finished()
        if self.credits.is_due:
            self._return_credit()

    async def round_trip(self) -> None:
        """Waits until all has arrived that the broker had sent before.

        Raises the error with which the subscription ended, or that of the request.
        """
        while True:
            if self._recovering is not None and not self._attached:
                await asyncio.wait((self._recovering,))
                await self.raise_error()
            try:
                await self._connection.request(c.Metadata((self.stream,)), f"stream {self.stream!r}")
            except ConnectionClosed:
                if self._attached or self._recovering is None or self._closed:
                    raise
            else:
                return

    async def raise_error(self) -> None:
        """Raises the error with which the subscription ended, if any."""
        if self.error is not None:
            self.error = await self._locator.explain(self.stream, self.error)
            raise self.error.with_traceback(None)

    async def close(self) -> None:
        """Unsubscribes. Waits for the broker, and for the steps of a turn, each with a limit. Never raises."""
        self._stop()
        try:
            if self.turns is None or not self.turns.is_called_by_listener():  # both wait for the listener
                if self.turns is not None:
                    await self.turns.closed()
                await self._stop_recovering()
            await self._leave()
        finally:
            self._leave_later(self._detach)  # does something only where ``close`` was cancelled

    def abandon(self) -> None:
        """Does the same without waiting."""
        self._stop()
        self._abandon()

    def _stop(self) -> None:
        self._closed = True
        self.arrivals.clear()
        self.arrived.set()
        if self.turns is not None:
            self.turns.close()

    # Called by the connection.

    def on_chunk(self, delivery: c.Delivery) -> None:
        self.deliveries += 1
        if self._outages.is_counted:
            self._outages.progress()
        if self.turns is not None and not self.turns.is_active:
            self.credits.free += 1
        elif not self._closed:
            header, end = self.arrivals.add(delivery)
            if header is not None:  # else ``poll`` raises the error
                if self.turns is None:
                    self._start.next = end
                if self._gaps.watch.arrive(header.first_offset, end):
                    self._settle_doubts()
            self.arrived.set()

    def on_consumer_update(self, active: bool, correlation_id: int) -> None:
        if self.turns is None:
            raise ProtocolError(
                f"the broker sent a turn of stream {self.stream!r}, which has no single active consumer here"
            )
        self.turns.told(active, self._connection, correlation_id)
        # What waits belongs to a turn that is over.
        self.credits.free += self.arrivals.drop(is_holding=self.progress.held is not None)
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
        if self.turns is not None:
            await self.turns.settle()  # a turn that began in an earlier attempt
        lease, connection = self._lease, self._connection
        is_first = self._start.next is None
        spec = await self._start.first(connection) if is_first and self.turns is None else None
        # Where no credit would be left, the newest chunks are dropped; the broker sends them again.
        dropped = self.arrivals.drop_newest(self.credits.most_waiting(is_held=self._is_chunk_held()))
        if dropped is not None:
            self._start.next = dropped
        spec = spec or self._start.again()
        gap = None
        if self.turns is None:
            gap = await self._gaps.start(connection, spec, is_resumed=not is_first)
            if self._gaps.fails:
                self._gaps.tell(gap)
        self.id = lease.id
        connection.subscriptions[lease.id] = self
        connection.streams[self] = self.stream
        await connection.request(
            c.Subscribe(lease.id, self.stream, wire_spec(spec), self.credits.grant(self._held()), self._properties),
            f"consuming stream {self.stream!r}",
        )
        self._gaps.tell(gap)

    def _go_on(self) -> None:
        self._ask_leader = self._only_leader
        self._looked = not self.arrivals.seen
        self.arrivals.is_behind = False
        self._return_credit()
        self._settle_doubts()

    async def _look(self, seen: int) -> None:
        """Ends the subscription if the stream is another one than that in which offset ``seen`` - 1 was."""
        try:
            error = await self._start.made_anew(seen)
        except RstreamError as why:
            logger.debug("looking where stream %r ends: %s", self.stream, why)
            self._looked = False
            return
        if error is not None and self._current() is not None:
            self._detach()
            self._end(error)

    def _goodbye(self, lease: Lease) -> c.Request[object]:
        return c.Unsubscribe(lease.id)

    async def _before_recovery(self) -> None:
        if self.turns is not None:
            await self.turns.settle()

    def _is_chunk_held(self) -> bool:
        """Whether the application holds a chunk, or has not taken all pieces of one."""
        return self.progress.held is not None or self.arrivals.has_pieces

    def _held(self) -> int:
        """How many chunks have arrived and are not done with."""
        return len(self.arrivals.waiting) + self._is_chunk_held()

    def _detach(self) -> None:
        super()._detach()
        connection, number = self._connection, self._lease.id
        if connection.subscriptions.get(number) is self:
            del connection.subscriptions[number]
        connection.streams.pop(self, None)
        if self.turns is not None:
            self.turns.lose()
            self.arrivals.clear()
            self._gaps.stop()

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self.arrived.set()

    # Inside.

    def _return_credit(self) -> None:
        # While another consumer has its turn, credits are held back. RabbitMQ 4.3 and 4.0 refuse them (code 17) but add
        # them all the same, and credits left at the end of a turn count in the next: observed with both. Credits that
        # are held back and given at the start of the next turn are right whether or not a broker adds them.
        if self.credits.is_due and self.is_active and self._current() is not None:
            connection = self._connection
            if connection.is_open:
                for credit in self.credits.give_back():
                    connection.send(c.Credit(self.id, credit))

    def _current(self) -> Connection | None:
        """The connection on which the broker sends chunks; None while there is none, and after the end."""
        return self._connection if self._attached and self.error is None and not self._closed else None

    def _wake(self) -> None:
        self.arrived.set()  # ``Subscriptions`` replaces the event

    def _settle_doubts(self) -> None:
        if self._gaps.watch.doubts and (self._settling is None or self._settling.done()):
            self._settling = self._recoveries.start(self._settle())

    async def _settle(self) -> None:
        """Finds out which jumps are gaps. After a lost connection ``_go_on`` starts this again."""
        try:
            await self._gaps.settle(self._current, self._wake)
        except OffsetsGone as error:
            self._detach()
            self._end(error)

    def _resume(self, spec: ConsumerOffsetSpecification) -> None:
        self.arrivals.start_at(spec)
        self._return_credit()

    async def _find_turn_start(
        self, name: str, connection: Connection, wanted: ConsumerOffsetSpecification | None
    ) -> ConsumerOffsetSpecification:
        """Returns where a turn begins: where the listener says, else behind what was done. Tells of a gap there."""
        spec = wanted or await self._start.of_turn(self._locator, name, self.progress, connection)
        self._gaps.tell(await self._gaps.start(connection, spec))
        return spec
