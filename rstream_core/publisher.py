"""One publisher of one stream: publishing ids, messages in flight, confirms.

The unit is the batch: the messages of one Publish frame. ``in_flight`` keeps the batches until each message is
confirmed or has failed; the publisher writes them, waits for room, and tells the listener.

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
import operator
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context

from rstream_core.attachment import GOODBYE_TIMEOUT, Attachment
from rstream_core.callbacks import Callbacks
from rstream_core.errors import (
    AlreadyClosed,
    ConnectionClosed,
    MessageTooLarge,
    NotConfirmed,
    PreconditionFailed,
    ProtocolError,
    PublisherDoesNotExist,
    PublishingBlocked,
    RequestTimeout,
    RstreamError,
    StreamNotAvailable,
)
from rstream_core.hints import Hint
from rstream_core.in_flight import Batch, FilterValues, InFlight, Outcome, grows
from rstream_core.locator import Locator
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, check_compression, compress
from rstream_core.protocol.wire import ENTRY_HEAD, FRAME_HEAD, cut_for_frames, encode_filter, publish_frame
from rstream_core.recovery import Recoveries
from rstream_core.types import CompressionType, Endpoint

MAX_SUB_ENTRY_RECORDS = 0xFFFF
MAX_FRAME = 2**31 - 1
"""The largest frame, in bytes, where the broker sets no limit."""
FRAME_TARGET = 128 * 1024
"""Bytes after which a batch is cut into another frame, so that confirms come back while the rest is written."""


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
        self.next_publishing_id = 0
        self.known_publishing_id = 0
        """The last publishing id that the broker had under the reference when the publisher was opened; 0 for none."""
        self.sent_again = 0
        """Copies of messages that were written after a lost connection and may be stored as duplicates: counts one each
        time that a message is written again. With a reference only messages of sub-entries count, since the broker
        drops all other repetitions.
        """
        self.max_message_size = 0
        """The largest message, in bytes, that fits a frame."""
        self._callbacks = Callbacks()
        whose = f"of publisher {reference!r} of stream {stream!r}"
        self._listener = None if listener is None else self._callbacks.bind(listener, f"a listener {whose}")
        self._on_end = None if on_end is None else self._callbacks.bind(on_end, f"on_end {whose}")
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._confirm_timeout = confirm_timeout
        self._loop = asyncio.get_running_loop()
        self._ledger = InFlight(is_named=bool(reference))
        self._progress = asyncio.Event()
        self._order = asyncio.Lock()
        self._watchdog: asyncio.TimerHandle | None = None
        # Half of the bounds, so that one batch can be written while another is being confirmed.
        self._target = FRAME_TARGET
        self._most = max(1, max_in_flight // 2)

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

    async def open(self) -> None:
        """Declares the publisher on the stream's leader. ``Client.publisher`` calls this until it succeeds once."""
        await self.attach(await self._locator.leader_now(self.stream))

    # Publishing.

    async def publish(
        self,
        messages: Sequence[bytes],
        *,
        publishing_ids: Sequence[int] | None = None,
        filter_values: FilterValues | None = None,
        context: object = None,
        place: int = 0,
    ) -> Sequence[int]:
        """Publishes encoded messages and returns their publishing ids.

        Returns once the messages are written; they are confirmed later (``listener``, ``flush``). Waits while too much
        is in flight, while the broker does not read, and while the publisher recovers from a lost connection. A
        cancelled call may have published a part of its messages: ``published`` says how many, and those are confirmed
        or fail like any others. Ids must grow. A call whose first id is not above all ids in flight waits until those
        are resolved. Filter values let the broker skip chunks for consumers that filter.
        ``context`` is any object, which the outcomes of these messages carry, with their places: the first message has
        the place ``place``.

        With a reference, ids after a rejected one raise ``NotConfirmed`` until the rejected one is published again:
        once the broker has stored a later id, it drops and confirms the rejected one without storing it. In that case a
        part of the call may have been published. Raises ``MessageTooLarge`` or ``UnsupportedByBroker`` (filter values
        need RabbitMQ 3.13) before any message of this call is written, or the error with which this publisher ended.
        """
        self._guard.check()
        if publishing_ids is not None and len(publishing_ids) != len(messages):
            raise ValueError(f"{len(publishing_ids)} publishing ids for {len(messages)} messages")
        if not messages:
            return ()
        lengths = sizes = list(map(len, messages))
        filters = None
        if filter_values is not None:
            if len(filter_values) != len(messages):
                raise ValueError(f"{len(filter_values)} filter values for {len(messages)} messages")
            if any(value is not None for value in filter_values):
                self.require_filters()
                filters = list(map(encode_filter, filter_values))
                sizes = list(map(operator.add, lengths, map(len, filters)))
        if max(sizes) > self.max_message_size:
            self._too_large(sizes)
        async with self._order:  # what one call publishes stays together, and ids stay in order
            await self.check()
            ids = publishing_ids
            if self._ledger.has_rejected:
                await self._mind_rejected(ids)
            if ids is None:
                ids = range(self.next_publishing_id, self.next_publishing_id + len(messages))
            elif not grows(ids):
                raise ValueError("publishing ids must grow")
            elif self._ledger and ids[0] <= self._ledger.last_id:
                await self._wait(lambda: not self._ledger)
            if publishing_ids is None and ids[-1] >= 2**64:
                raise ProtocolError(
                    f"{self._connection.endpoint}: no publishing id is left in stream {self.stream!r} for the name"
                    f" {self.reference!r}, whose last one is {ids[0] - 1}"
                )
            if not 0 <= ids[0] <= ids[-1] < 2**64:
                raise ValueError(f"a publishing id is between 0 and 2**64-1; these are {ids[0]} to {ids[-1]}")
            low = 0
            for high in cut_for_frames(sizes, self._target, self._most):
                size = sum(sizes[low:high])
                await self._room(high - low, size)
                if self._ledger.has_rejected:
                    await self._mind_rejected(None if publishing_ids is None else ids[low:])
                part = slice(low, high)
                columns = None if filters is None else filters[part]
                writes = self._write(publish_frame(self._lease.id, ids[part], messages[part], lengths[part], columns))
                kept = None if filters is None or filter_values is None else filter_values[part]
                now = self._loop.time()
                are_callers = publishing_ids is not None
                batch = Batch(
                    ids[part],
                    messages[part],
                    size,
                    now,
                    writes=writes,
                    are_callers=are_callers,
                    filter_values=kept,
                    context=context,
                    place=place + low,
                )
                self._register(batch)
                low = high
        return ids

    def require_filters(self) -> None:
        """Raises ``UnsupportedByBroker`` where the broker takes no filter values."""
        self._connection.session.require(c.Key.PUBLISH, "3.13", "publishing with filter values", version=2)

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
        compression = check_compression(compression)
        if not 0 < len(messages) <= MAX_SUB_ENTRY_RECORDS:
            raise ValueError(f"a sub-entry holds 1 to {MAX_SUB_ENTRY_RECORDS} messages, not {len(messages)}")
        plain = join_sub_batch(messages)
        if len(plain) > MAX_UNCOMPRESSED:  # brokers before 4.3.5 would store it, and no client could read it
            raise MessageTooLarge(f"a sub-entry of {len(plain)} bytes; {MAX_UNCOMPRESSED} are the limit")
        data = compress(compression, plain)
        async with self._order:
            await self.check()
            for _ in range(2):  # what is in flight may be rejected while this call waits for room
                if self._ledger.has_rejected:
                    await self._mind_rejected(None if publishing_id is None else (publishing_id,))
                if publishing_id is None:
                    number = self.next_publishing_id
                elif self._ledger and publishing_id <= self._ledger.last_id:
                    raise ValueError("publishing ids must grow")
                else:
                    number = publishing_id
                entry = c.PublishedSubBatch(number, compression, len(messages), len(plain), data)
                size = len(c.encode(c.Publish(0, (entry,)))) - 4
                if self._connection.frame_max and size > self._connection.frame_max:
                    raise MessageTooLarge(
                        f"a sub-entry of {len(data)} bytes does not fit a frame of {self._connection.frame_max}",
                        hint=Hint.FRAME_LIMIT,
                    )
                await self._room(len(messages), len(data))
                if not self._ledger.has_rejected:
                    break
            writes = self._write(c.encode(c.Publish(self._lease.id, (entry,))))
            now = self._loop.time()
            kept = tuple(messages)
            are_callers = publishing_id is not None
            batch = Batch(
                (number,),
                kept,
                len(data),
                now,
                writes=writes,
                are_callers=are_callers,
                sub_batch=entry,
                context=context,
                place=place,
            )
            self._register(batch)
        return number

    @property
    def is_stopped(self) -> bool:
        """Whether later ids are refused because an id of the caller's was rejected, and no message is in flight."""
        return bool(self._ledger.rejected) and not self._ledger

    async def last_publishing_id(self) -> int:
        """Asks the broker for the last id under the reference; 0 for none. Raises what the request raises."""
        self._guard.check()
        return await _first_free_id(self._lease, self.stream, self.reference) - 1

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until no message is in flight, at most ``timeout`` seconds (None: without a limit).

        Raises ``RequestTimeout``. Messages that fail do not raise: they count as settled, like confirmed ones.
        """
        self._guard.check()
        try:
            async with asyncio.timeout(timeout):
                while self._ledger:
                    await self._next_progress()
        except TimeoutError:
            raise RequestTimeout(f"messages that are not confirmed within {timeout:.3g} s: {self.in_flight}") from None
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
        self._closed = True
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
        self._closed = True
        self._stop()
        self._abandon()

    def _stop(self) -> None:
        self._fail_all(NotConfirmed("the publisher was closed before the broker confirmed"))
        self._stop_watching()
        self._callbacks.sum_up()
        self._progress.set()

    # Called by the connection.

    def on_confirmed(self, publishing_ids: Sequence[int]) -> None:
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
        self._progress.set()

    # Attaching and recovering.

    async def _locate(self) -> Endpoint:
        return await self._locator.leader_now(self.stream)

    async def _declare(self) -> None:
        """Declares the publisher, and writes the unconfirmed messages again."""
        lease = self._lease
        connection = lease.connection
        connection.session.expect_confirms(self._max_in_flight)
        connection.publishers[lease.id] = self  # before the request: frames may arrive before its answer
        connection.streams[self] = self.stream
        await self._make_known()
        if not self.next_publishing_id:
            self.next_publishing_id = await _first_free_id(lease, self.stream, self.reference)
        limit = connection.frame_max or MAX_FRAME
        self.max_message_size = limit - (FRAME_HEAD.size - 4) - ENTRY_HEAD
        self._target = min(limit, FRAME_TARGET, self._max_in_flight_bytes // 2)
        await self._write_again()

    async def _make_known(self) -> None:
        what = f"publishing to stream {self.stream!r}"
        message = c.DeclarePublisher(self._lease.id, self.reference or "", self.stream)
        try:
            await self._connection.request(message, what)
        except PreconditionFailed:
            if self.reference is not None and any(
                other is not self and (other.stream, other.reference) == (self.stream, self.reference)
                for other in self._connection.publishers.values()
                if isinstance(other, Publisher)
            ):
                raise PreconditionFailed(f"{what}: this client has a publisher {self.reference!r} already") from None
            # The broker's other reasons for this code cannot apply: a used id, and a reference that is too long.
            raise PublishingBlocked(f"{what}: {PublishingBlocked.summary}") from None

    def _go_on(self) -> None:
        self._watch_later()
        self._progress.set()

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
        self._progress.set()

    async def _write_again(self) -> None:
        for batch in self._ledger.open():
            while not self._connection.is_writable and self._interrupted is None:
                await self._next_progress()
            if self._interrupted is not None:
                raise self._interrupted
            if batch.open:
                self._connection.write(self._frames(batch))
                batch.written_at = self._loop.time()
                batch.writes += 1
                if batch.writes > 1 and (not self.reference or batch.sub_batch is not None):
                    self.sent_again += batch.open * batch.weight

    def _frames(self, batch: Batch) -> list[bytes]:
        """Returns frames with the open messages of a batch: several where this connection allows only smaller ones."""
        if batch.sub_batch is not None:
            frame = c.encode(c.Publish(self._lease.id, (batch.sub_batch,)))
            if self._connection.frame_max and len(frame) - 4 > self._connection.frame_max:
                self._too_large([len(frame)])
            return [frame]
        ids, messages, filter_values = batch.unresolved()
        lengths = sizes = list(map(len, messages))
        columns = None
        if filter_values is not None:
            self.require_filters()
            columns = list(map(encode_filter, filter_values))
            sizes = list(map(operator.add, lengths, map(len, columns)))
        if max(sizes) > self.max_message_size:
            self._too_large(sizes)
        frames: list[bytes] = []
        low = 0
        for high in cut_for_frames(sizes, self._target, self._most):
            part = slice(low, high)
            filters = None if columns is None else columns[part]
            frames.append(publish_frame(self._lease.id, ids[part], messages[part], lengths[part], filters))
            low = high
        return frames

    def _detach(self) -> None:
        super()._detach()
        self._stop_watching()
        if self._connection.publishers.get(self._lease.id) is self:
            del self._connection.publishers[self._lease.id]
        self._connection.streams.pop(self, None)

    def _end(self, error: RstreamError) -> None:
        super()._end(error)
        self._fail_all(error)
        if self._on_end is not None and not self._closed:
            self._on_end(error)

    # Inside.

    def _fail_all(self, error: RstreamError) -> None:
        self._tell(self._ledger.fail_all(str(error), self._loop.time()))

    def _tell(self, outcomes: Iterable[Outcome]) -> None:
        """Tells the listener what became of messages, and wakes the calls that wait for progress."""
        if self._listener is not None:
            for outcome in outcomes:
                self._listener(outcome)
        self._progress.set()

    def _register(self, batch: Batch) -> None:
        self._ledger.add(batch)
        self.next_publishing_id = max(self.next_publishing_id, batch.last + 1)
        self._watch_later()

    def _write(self, frame: bytes) -> int:
        """Writes a frame, and returns how often it was written: 1, or 0 where the recovery will write it."""
        try:
            self._connection.write([frame])
        except ConnectionClosed as error:
            self.on_unavailable(error)
            if self.error is not None:
                raise self.error from None
            return 0
        return 1

    async def _mind_rejected(self, ids: Sequence[int] | None) -> None:
        """Raises ``NotConfirmed`` if ``ids`` must not follow an id that was rejected under the reference.

        Waits first until no message is in flight. ``ids`` is None where the publisher counts: if only ids that it
        counted were rejected, it goes on after the broker's last id.
        """
        await self._wait(lambda: self._attached and not self._ledger)
        rejected = self._ledger.rejected
        if not rejected:
            if ids is None:
                last = await self._last_id_while_recovering()  # the embedded broker takes ids again after this
                self.next_publishing_id = max(self.next_publishing_id, last + 1)
                self._ledger.must_recount = False
            return
        what = f"publishing id {rejected[0]} of {self.reference!r} in stream {self.stream!r} was rejected"
        if ids is None or not self._ledger.takes_up(ids):
            raise NotConfirmed(f"{what}; later ones are not taken until it is published again")
        last = await self._last_id_while_recovering()
        if last >= rejected[0]:
            raise NotConfirmed(f"{what}, and the broker has gone on to {last}: it would drop it, and confirm it")
        self._ledger.forget_rejected(ids[-1])

    async def _last_id_while_recovering(self) -> int:
        """As ``last_publishing_id``, but asks again after a recovery. Raises the error that ended the publisher."""
        while True:
            try:
                return await self.last_publishing_id()
            except ConnectionClosed:
                if self._attached:
                    raise
                await self._wait(lambda: self._attached)

    def _watch_later(self) -> None:
        if self._watchdog is None and self._confirm_timeout and self._ledger and self._attached:
            self._watchdog = self._loop.call_later(self._confirm_timeout, self._watch, context=Context())

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _watch(self) -> None:
        """Ends the publisher if its oldest batch has waited for the confirm timeout; otherwise sets the timer again.

        The whole publisher ends, since a late confirm could be taken for that of a reused id.
        """
        assert self._confirm_timeout is not None
        self._watchdog = None
        oldest = self._ledger.oldest
        if oldest is None:
            return
        due = oldest.written_at + self._confirm_timeout - self._loop.time()
        if due > 0:
            self._watchdog = self._loop.call_later(due, self._watch, context=Context())
            return
        self._give_up(NotConfirmed(f"the broker did not confirm within {self._confirm_timeout:g} s"))

    def _give_up(self, error: NotConfirmed) -> None:
        """Ends the publisher while its connection is open. Listeners learn of a loss that is not recovered from."""
        if self.error is None and not self._closed:
            self._outages.lose(error)
        self._end(error)

    def _has_room(self, messages: int, size: int) -> bool:
        """Returns whether that many messages and bytes may be written now. With nothing in flight, anything may."""
        within = self.in_flight + messages <= self._max_in_flight
        return not self.in_flight or (within and self.in_flight_bytes + size <= self._max_in_flight_bytes)

    async def _room(self, messages: int, size: int) -> None:
        """Waits until the publisher is attached, the in-flight bounds leave room, and the connection takes data.

        Ends the publisher if it has nothing in flight and the broker reads nothing for the confirm timeout.
        """
        while not (self._attached and self._has_room(messages, size) and self._connection.is_writable):
            await self.check()
            # While messages are in flight, the watchdog measures. With none, other users have filled the connection.
            limit = self._confirm_timeout if self._attached and not self._ledger else None
            try:
                async with asyncio.timeout(limit):
                    await self._next_progress()
            except TimeoutError:
                self._give_up(NotConfirmed(f"the broker has read nothing for {limit:g} s"))
        await self.check()

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self.check()
            await self._next_progress()

    async def _next_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _too_large(self, sizes: Sequence[int]) -> None:
        position = next(at for at, size in enumerate(sizes) if size > self.max_message_size)
        raise MessageTooLarge(
            f"message {position + 1} of {len(sizes)} takes {sizes[position]} bytes; "
            f"the broker's frame size allows {self.max_message_size}",
            position=position,
            hint=Hint.FRAME_LIMIT,
        )


async def _first_free_id(lease: Lease, stream: str, reference: str | None) -> int:
    """Returns the first free publishing id: 1 without a reference, or one more than the broker's last one."""
    if not reference:
        return 1
    answer = await lease.connection.request(
        c.QueryPublisherSequence(reference, stream),
        f"the last publishing id of {reference!r} in stream {stream!r}",
    )
    return answer.sequence + 1  # a sequence of 0 means none: the first id is 1
