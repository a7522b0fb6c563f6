"""One publisher of one stream: publishing ids, messages in flight, confirms.

The unit is the batch: the messages of one Publish frame. Its parts do the work: ``columns`` checks what a call
publishes and cuts it for frames, ``numbering`` gives out the ids, ``outgoing`` waits for room, writes the frames and
writes them again, and the ledger (``in_flight``) keeps them until each message is confirmed or has failed. The
publisher ties them to an id on a connection, and tells the listener. ``Publisher`` is longer than other classes,
since half of its lines are what its callers read.

When the connection is lost or the stream moves, the publisher detaches, and calls that publish wait. One task attaches
the publisher to the leader again, and writes the unconfirmed messages once more, under the same ids and in the same
order. It does not ask the broker which of them are stored: under a publisher's name, the broker drops and confirms
those that it has.

For that reason the ids under a name may have no holes. After the rejection of an id that the caller chose, later ids
are not accepted, and are not sent again after a lost connection, until the rejected one is published again. Where the
publisher itself counts the ids, it asks the broker for the last one and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rstream_core.callbacks import Callbacks
from rstream_core.connecting.attachment import GOODBYE_TIMEOUT, Attachment
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool, Lease
from rstream_core.connecting.recovery import Recoveries
from rstream_core.errors import (
    AlreadyClosed,
    ConnectionClosed,
    NotConfirmed,
    PublisherDoesNotExist,
    RequestTimeout,
    RstreamError,
    StreamNotAvailable,
)
from rstream_core.flow.acks import Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.protocol import commands as c
from rstream_core.protocol.placed import PlacedMessages
from rstream_core.protocol.wire import publish_size
from rstream_core.publishing.columns import (
    Columns,
    LineColumns,
    PackedColumns,
    PlacedColumns,
    SubEntry,
    columns_of,
    placed_columns,
)
from rstream_core.publishing.in_flight import Batch, FilterValues, InFlight, Outcome
from rstream_core.publishing.numbering import Numbering
from rstream_core.publishing.outgoing import Outgoing
from rstream_core.publishing.registered_publisher import RegisteredPublisher
from rstream_core.types import CompressionType, Endpoint

FRAMES_AT_ONCE = 64
"""Frames that are written before the event loop gets a turn: with a message each, that takes 2 ms."""


class _Acknowledged(NamedTuple):
    """The context of a block's messages. It does not hold the messages: the ledger has them in their frames."""

    acks: Acks
    positions: Sequence[int]

    def settle(self, outcome: Outcome) -> None:
        """Acknowledges the messages of an outcome."""
        places = outcome.places
        if type(places) is range:
            done = self.positions[places.start : places.stop]
        else:
            done = [self.positions[place] for place in places]
        self.acks.done(done, Verdict.FAILED if outcome.failed else Verdict.DONE)


class Publisher(Attachment):
    """Publishes to one stream. Made by ``Client.publisher``. For the tasks of one event loop.

    Messages are stored in the order of the calls. ``published == confirmed + failed + in_flight`` always holds.
    """

    what = "publisher"

    def __init__(
        self,
        stream: str,
        reference: str | None,
        pool: ConnectionPool,
        locator: Locator,
        recoveries: Recoveries,
        *,
        listener: Callable[[Outcome], None] | None,
        on_end: Callable[[RstreamError], None] | None,
        max_in_flight: int,
        max_in_flight_bytes: int,
        confirm_timeout: float | None,
    ) -> None:
        super().__init__(stream, pool, locator, recoveries)
        self.reference = reference
        self.known_publishing_id = 0
        """The last publishing id that the broker had under the reference when the publisher was opened; 0 for none."""
        self.max_message_size = 0
        """The largest message, in bytes, that fits a frame."""
        self._registered: RegisteredPublisher
        self._callbacks = Callbacks()
        whose = f"of publisher {reference!r} of stream {stream!r}"
        self._listener = None if listener is None else self._callbacks.bind(listener, f"a listener {whose}")
        self._on_end = None if on_end is None else self._callbacks.bind(on_end, f"on_end {whose}")
        self._loop = asyncio.get_running_loop()
        self._ledger = InFlight(is_named=bool(reference), max_messages=max_in_flight, max_size=max_in_flight_bytes)
        self._outgoing = Outgoing(self._ledger, confirm_timeout, self.check, self._give_up)
        self._numbering = Numbering(stream, reference, self._ledger, self._outgoing, self.last_publishing_id)
        self._order = asyncio.Lock()

    @property
    def published(self) -> int:
        """Messages that were taken: confirmed, failed, or in flight."""
        return self._ledger.published

    @property
    def confirmed(self) -> int:
        return self._ledger.confirmed

    @property
    def failed(self) -> int:
        return self._ledger.failed

    @property
    def in_flight(self) -> int:
        """Messages that are written, or wait for the recovery to write them, and are not confirmed."""
        return self._ledger.messages

    @property
    def in_flight_bytes(self) -> int:
        return self._ledger.size

    @property
    def sent_again(self) -> int:
        """Copies of messages that were written after a lost connection and may be stored as duplicates: counts one each
        time that a message is written again. With a reference only messages of sub-entries count, since the broker
        drops all other repetitions."""
        return self._outgoing.sent_again

    @property
    def next_publishing_id(self) -> int:
        """The id of the next message, if the caller chooses none."""
        return self._numbering.next

    @next_publishing_id.setter
    def next_publishing_id(self, number: int) -> None:
        self._numbering.next = number

    @property
    def is_stopped(self) -> bool:
        """Whether later ids are refused because an id of the caller's was rejected, and no message is in flight."""
        return bool(self._ledger.rejected) and not self._ledger

    async def open(self) -> None:
        """Declares the publisher on the stream's leader. ``Client.publisher`` calls this until it succeeds once."""
        await self.attach(await self._locator.leader_now(self.stream))

    # Publishing.

    async def publish(
        self,
        messages: Sequence[bytes] | Block,
        *,
        publishing_ids: Sequence[int] | None = None,
        filter_values: FilterValues | None = None,
        context: object = None,
        place: int = 0,
        most: int | None = None,
    ) -> Sequence[int]:
        """Publishes encoded messages and returns their publishing ids.

        Returns once the messages are written; they are confirmed later (``listener``, ``flush``). Waits while too much
        is in flight, while the broker does not read, and while the publisher recovers from a lost connection. A
        cancelled call may have published a part of its messages: ``published`` says how many, and those are confirmed
        or fail like any others. Ids must grow. A call whose first id is not above all ids in flight waits until those
        are resolved. Filter values let the broker skip chunks for consumers that filter.
        ``context`` is any object, which the outcomes of these messages carry, with their places: the first message has
        the place ``place``. ``most``: the most messages of a Publish frame, at least 1; None, and in any case: half of
        what may be in flight.

        A ``Block`` brings ids and filter values along, and takes no other argument but ``most``. Each message of it is
        acknowledged before the listener is told of it: as done once it is confirmed, otherwise as failed. Those that
        were not published, because the call raised or was cancelled, stay open.

        With a reference, ids after a rejected one raise ``NotConfirmed`` until the rejected one is published again:
        once the broker has stored a later id, it drops and confirms the rejected one without storing it. In that case a
        part of the call may have been published. Raises ``MessageTooLarge`` or ``UnsupportedByBroker`` (filter values
        need RabbitMQ 3.13) before any message of this call is written, or the error with which this publisher ended.
        """
        self._guard.check()
        if isinstance(messages, Block):
            if (publishing_ids, filter_values, context, place) != (None, None, None, 0):
                raise TypeError("a block brings its ids and filter values along: give nothing else")
            block, context = messages, _Acknowledged(messages.ack, messages.positions)
            messages, publishing_ids, filter_values = block.messages, block.ids, block.filters
        if publishing_ids is not None and len(publishing_ids) != len(messages):
            raise ValueError(f"{len(publishing_ids)} publishing ids for {len(messages)} messages")
        if most is not None and most < 1:
            raise ValueError(f"a frame has at least one message, not {most}")
        if not messages:
            return ()
        if isinstance(messages, PlacedMessages) and filter_values is None:
            return await self._publish_placed(messages, publishing_ids, context, place, most)
        columns = columns_of(messages, filter_values)
        if columns.has_filters:
            self.require_filters()
        columns.check(self._registered.limit)
        async with self._order:
            return await self._publish(columns, len(messages), publishing_ids, context, place, most)

    def may_publish_at_once(self, ids: Sequence[int], size: int) -> bool:
        """Returns whether so many messages of ``size`` bytes together make one frame that can be written now, without
        waiting for anything, under ``ids`` that the caller has chosen and that grow."""
        ledger, outgoing, count = self._ledger, self._outgoing, len(ids)
        return not (
            self._order.locked()
            or self.error is not None
            or self._closed
            or self._callbacks.escaped is not None
            or ledger.has_rejected
            or ids[0] < self._numbering.next
            or not outgoing.may_write(count, size)
            or outgoing.registered.connection.is_closing
            or count > ledger.most
            or publish_size(count, size) > outgoing.frame_size(outgoing.registered)
        )

    def publish_at_once(self, messages: Sequence[bytes], ids: Sequence[int]) -> None:
        """Publishes as ``publish`` does, without waiting: only where ``may_publish_at_once`` has just said so."""
        columns = columns_of(messages, None)
        ((_, high, size),) = columns.parts(self._outgoing.frame_size(self._registered), len(ids))
        frame = columns.frame(self._registered.id, ids, 0, high)
        self._write(Batch(ids, frame, size, are_callers=True))

    def require_filters(self) -> None:
        """Raises ``UnsupportedByBroker`` where the broker takes no filter values."""
        self._registered.require_filters()

    async def publish_sub_entry(
        self,
        messages: Sequence[bytes],
        compression: CompressionType = CompressionType.No,
        *,
        publishing_id: int | None = None,
        context: object = None,
        place: int = 0,
    ) -> int:
        """Publishes up to 65,535 encoded messages as one entry under one publishing id, and returns that id.

        A sub-entry cannot carry filter values. ``context`` and ``place`` are as in ``publish``. Raises what ``publish``
        raises, and ``MessageTooLarge`` where the compressed entry does not fit a frame.
        """
        self._guard.check()
        entry = SubEntry(messages, compression)
        entry.check(self._registered.limit)
        chosen = None if publishing_id is None else (publishing_id,)
        async with self._order:
            (number,) = await self._publish(entry, 1, chosen, context, place, None)
        return number

    async def _publish_placed(
        self,
        messages: PlacedMessages,
        publishing_ids: Sequence[int] | None,
        context: object,
        place: int,
        most: int | None,
    ) -> Sequence[int]:
        """Publishes messages where they lie. A sub-entry goes on whole, under the id of its last message, if it fits a
        frame."""
        limit = self._registered.limit
        for _ in placed_columns(messages, publishing_ids, limit):
            pass  # it raises before anything is written; what it unpacks is not kept: together it may be very large
        ids: list[int] = []
        async with self._order:
            for columns, count, chosen in placed_columns(messages, publishing_ids, limit):
                needed = 1 if isinstance(columns, PackedColumns) else count
                some = await self._publish(columns, needed, chosen, context, place, most)
                place += count
                if publishing_ids is None:
                    ids += [some[0]] * count if needed < count else some
        return ids if publishing_ids is None else publishing_ids

    async def _publish(
        self,
        given: Columns | LineColumns | SubEntry | PlacedColumns | PackedColumns,
        count: int,
        chosen: Sequence[int] | None,
        context: object,
        place: int,
        most: int | None,
    ) -> Sequence[int]:
        """Publishes what needs ``count`` ids, and returns them. ``chosen``: the ids that the caller has chosen.

        Under the lock ``_order``: what one call publishes stays together, and ids stay in order.
        """
        ledger, outgoing = self._ledger, self._outgoing
        sub_entry = given.sub_entry
        weight = 1 if sub_entry is None else len(sub_entry)
        await self.check()
        ids = await self._numbering.take(chosen, count, may_repeat=sub_entry is None)
        most = ledger.most if most is None else min(ledger.most, most)
        parts = given.parts(outgoing.frame_size(self._registered), most)
        for number, (low, high, size) in enumerate(parts, 1):
            messages = (high - low) * weight
            gives_way = number % FRAMES_AT_ONCE == 0
            if gives_way:
                await asyncio.sleep(0)
            if gives_way or self._callbacks.escaped is not None or not outgoing.may_write(messages, size):
                await outgoing.room(messages, size)
            if ledger.has_rejected:  # meanwhile
                await self._numbering.follow_rejected(None if chosen is None else ids[low:])
                await outgoing.room(messages, size)  # the stream may have moved while the broker was asked
            frame = given.frame(outgoing.registered.id, ids, low, high)
            some = ids if high - low == count else ids[low:high]
            batch = Batch(
                some,
                frame,
                size,
                are_callers=chosen is not None,
                sub_entry=sub_entry,
                context=context,
                place=place + low,
            )
            self._write(batch)
        return ids

    def _write(self, batch: Batch) -> None:
        try:
            self._outgoing.write(batch)
        except ConnectionClosed as error:
            self.on_unavailable(error)
            if self.error is not None:
                raise self.error from None
            self._outgoing.add(batch)  # the recovery will write it
        self._numbering.note(batch.last)

    async def last_publishing_id(self) -> int:
        """Asks the broker for the last id under the reference; 0 for none. Raises what the request raises."""
        self._guard.check()
        return await self._registered.last_id()

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until no message is in flight, at most ``timeout`` seconds (None: without a limit).

        Raises ``RequestTimeout``. Messages that fail do not raise: they count as settled, like confirmed ones.
        """
        self._guard.check()
        await self._outgoing.flush(timeout)
        self._callbacks.check()

    async def check(self) -> None:
        """Raises the error with which this publisher ended, if it has; ``Locator.explain`` may make it more precise."""
        self._callbacks.check()
        if self.error is not None:
            self.error = await self._locator.explain(self.stream, self.error)
            raise self.error.with_traceback(None)
        if self._closed:
            raise AlreadyClosed(f"this publisher of stream {self.stream!r} is closed")

    async def close(self, timeout: float = 10.0) -> None:
        """Waits for outstanding confirms, at most ``timeout`` seconds, and ends the publisher.

        Messages that are not confirmed by then fail, and the listener is told, also while the publisher is recovering.
        May be called repeatedly.
        """
        if self._closed:
            return
        self._guard.check()
        self._closed = self._outgoing.is_closed = True
        goodbye = GOODBYE_TIMEOUT
        try:
            try:
                await self.flush(timeout)
            except RequestTimeout:
                self._fail_all(NotConfirmed(f"the broker did not confirm within {timeout:.3g} s"))
                goodbye = min(timeout, goodbye)  # a broker that does not confirm will hardly answer this
            self._stop()
            await self._stop_recovering()
            await self._leave(goodbye)
        finally:
            self.abandon()  # does the rest where ``close`` was cancelled
        self._callbacks.check()

    def abandon(self) -> None:
        """Closes the publisher without waiting: unconfirmed messages fail, and the listener is told."""
        self._closed = self._outgoing.is_closed = True
        self._stop()
        self._abandon()

    def _stop(self) -> None:
        self._fail_all(NotConfirmed("the publisher was closed before the broker confirmed"))
        self._outgoing.detach()
        self._callbacks.sum_up()
        self._outgoing.wake()

    # Called by the connection.

    def on_confirmed(self, publishing_ids: Sequence[int]) -> None:
        if self._outages.is_counted:
            self._outages.progress()
        self._tell(self._ledger.confirm(publishing_ids, self._loop.time()))

    def on_rejected(self, errors: Sequence[c.MessageError]) -> None:
        forgotten = [code for _, code in errors if code == PublisherDoesNotExist.code]
        if forgotten and self._recoveries.policy is not None:  # the stream moved, and we missed the notice
            self.on_unavailable(StreamNotAvailable(f"the broker has forgotten a publisher of stream {self.stream!r}"))
            return
        self._tell(self._ledger.reject(errors, self._loop.time()))
        if forgotten:
            self.on_unavailable(PublisherDoesNotExist(f"publishing to stream {self.stream!r}"))

    def on_writable(self) -> None:
        self._outgoing.wake()

    # Attaching and recovering.

    async def _locate(self) -> Endpoint:
        return await self._locator.leader_now(self.stream)

    async def _declare(self) -> None:
        """Declares the publisher, and writes the unconfirmed messages again."""
        registered = self._registered = RegisteredPublisher(self._lease, self.stream, self.reference)
        await registered.declare(self, self._ledger.max_messages)
        if not self._numbering.next:
            self._numbering.next = await registered.last_id() + 1
        self.max_message_size = registered.max_message_size
        await self._outgoing.write_again(registered, lambda: self._interrupted)

    def _go_on(self) -> None:
        self._outgoing.attach(self._registered)

    def _goodbye(self, lease: Lease) -> c.Request[object]:
        return c.DeletePublisher(lease.id)

    def _is_over(self) -> bool:
        return self._closed and not self._ledger

    def _on_loss(self, error: RstreamError) -> None:
        policy = self._recoveries.policy
        if self.reference is None and policy is not None and not policy.resend:
            self._fail_all(error)  # nobody can tell which of the messages the broker has
        else:
            self._tell(self._ledger.fail_behind_rejected(str(error), self._loop.time()))
        self._outgoing.wake()

    def _detach(self) -> None:
        super()._detach()
        self._outgoing.detach()
        self._registered.remove(self)

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self._outgoing.is_closed = True
        self._fail_all(error)
        if self._on_end is not None and not self._closed:
            self._on_end(error)

    # Inside.

    def _fail_all(self, error: RstreamError) -> None:
        self._tell(self._ledger.fail_all(str(error), self._loop.time()))

    def _tell(self, outcomes: Iterable[Outcome]) -> None:
        """Tells blocks and the listener what became of messages, and wakes the calls that wait for progress."""
        for outcome in outcomes:
            if type(outcome.context) is _Acknowledged:
                outcome.context.settle(outcome)
            if self._listener is not None:
                self._listener(outcome)
        self._outgoing.wake()

    def _give_up(self, error: NotConfirmed) -> None:
        """Ends the whole publisher while its connection is open: a late confirm could be taken for that of a reused
        id. Listeners learn of a loss that is not recovered from."""
        if self.error is None and not self._closed:
            self._outages.lose(error)
        self._end(error)
