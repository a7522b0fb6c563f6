"""One publisher of one stream: publishing ids, messages in flight, confirms.

The unit is the batch that goes out: one Publish frame. Its ids and its messages are kept together until each is
confirmed or rejected, and a confirm resolves ranges of them. Nothing here is done once per message, but for
the encoding of the entry itself.

When the connection is lost or the stream moves, a publisher detaches: whoever publishes waits. One task attaches it
to the leader again, and writes what is unconfirmed once more, under the same ids and in the same order. What the
broker has stored is not asked for: it drops what it knows under a publisher's name, and confirms it.

So a name's ids may have no holes. Where one that the caller chose is rejected, later ones are not taken, and not sent
again after a lost connection, until it is published again. Where the publisher counts, it asks the broker, and goes on.
"""

from __future__ import annotations

import asyncio
import operator
import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from itertools import compress as compress_by
from typing import NamedTuple

from rstream_core.attachment import GOODBYE_TIMEOUT, Attachment, Goodbye
from rstream_core.callbacks import Callbacks
from rstream_core.checks import MAX_STRING, check_text
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
    response_name,
)
from rstream_core.locator import Locator
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, check_compression, compress
from rstream_core.recovery import Recoveries
from rstream_core.types import CompressionType, Endpoint

MAX_SUB_ENTRY_RECORDS = 0xFFFF
MAX_FRAME = 2**31 - 1
"""Bytes of a frame where the broker sets no limit."""
FRAME_TARGET = 128 * 1024
"""Bytes after which a batch is cut into another frame, so that confirms come back while the rest is written."""

_FRAME_HEAD = struct.Struct(">IHHBi")  # size, key, version, publisher id, count
_ENTRY_HEAD = 12  # publishing id and size


class FailedMessage(NamedTuple):
    """A message that the broker rejected, or never confirmed."""

    publishing_id: int
    data: bytes
    code: int
    """The broker's response code; 0 where it never answered, and the message may or may not be stored."""
    reason: str
    filter_value: str | None = None


class Outcome(NamedTuple):
    """What became of messages: told to a publisher's listener for every confirm frame, batch by batch."""

    confirmed: int
    """Messages confirmed just now."""
    latency: float
    """Seconds since they were written."""
    failed: Sequence[FailedMessage] = ()
    publishing_ids: Sequence[int] = ()
    """The ids behind ``confirmed``: one for each message, or one for a whole sub-entry."""


FilterValues = Sequence[str | None]
"""One for each message; None for a message that has none."""

_OTHER = bytes([1, 0]) + bytes(254)
"""Turns resolved into open."""


class _Batch:
    """The messages of one frame that are not all resolved."""

    __slots__ = (
        "are_callers",
        "filter_values",
        "first",
        "ids",
        "last",
        "messages",
        "open",
        "resolved",
        "size",
        "sub_batch",
        "weight",
        "writes",
        "written_at",
    )

    def __init__(
        self,
        ids: Sequence[int],
        messages: Sequence[bytes],
        size: int,
        now: float,
        *,
        writes: int,
        are_callers: bool,
        sub_batch: c.PublishedSubBatch | None = None,
        filter_values: FilterValues | None = None,
    ) -> None:
        self.ids = ids
        self.are_callers = are_callers
        """Whether the caller chose the ids."""
        self.first = ids[0]
        self.last = ids[-1]
        self.messages = messages
        self.size = size
        self.written_at = now
        self.writes = writes
        """How often it has been written: 0 where the connection was lost just before."""
        self.sub_batch = sub_batch
        self.weight = 1 if sub_batch is None else len(messages)
        """Messages behind one id."""
        self.filter_values = filter_values
        self.open = len(ids)
        self.resolved = bytearray(len(ids))

    def resolve(self, low: int, high: int) -> int:
        """Marks the ids at positions ``low`` to ``high`` and returns how many of them were open."""
        fresh = high - low - self.resolved.count(1, low, high)
        self.resolved[low:high] = b"\x01" * (high - low)
        self.open -= fresh
        return fresh

    def unresolved(self) -> tuple[Sequence[int], Sequence[bytes], FilterValues | None]:
        """The ids that are open, with their messages and filter values."""
        if self.open == len(self.ids):
            return self.ids, self.messages, self.filter_values
        is_open = self.resolved.translate(_OTHER)
        filters = None if self.filter_values is None else list(compress_by(self.filter_values, is_open))
        return list(compress_by(self.ids, is_open)), list(compress_by(self.messages, is_open)), filters

    def failures(self, position: int, code: int, reason: str) -> list[FailedMessage]:
        messages = self.messages[position : position + 1] if self.sub_batch is None else self.messages
        filter_value = None if self.filter_values is None else self.filter_values[position]
        return [FailedMessage(self.ids[position], data, code, reason, filter_value) for data in messages]


class Publisher(Attachment):
    """Made by ``Client.publisher``. For the tasks of one event loop.

    Messages are stored in the order of the calls. ``published == confirmed + failed + in_flight`` holds always.
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
        """The last one that the broker knew under the name when this was opened; 0 for none."""
        self.published = self.confirmed = self.failed = 0
        self.in_flight = self.in_flight_bytes = 0
        self.sent_again = 0
        """Copies of messages that were written after lost connections and may be stored beside the first ones: one each
        time that a message was written again. Not those with a reference, which the broker drops, but for sub-entries.
        """
        self.max_message_size = 0
        """Bytes of the largest message that fits a frame."""
        self._callbacks = Callbacks()
        whose = f"of publisher {reference!r} of stream {stream!r}"
        self._listener = None if listener is None else self._callbacks.bind(listener, f"a listener {whose}")
        self._on_end = None if on_end is None else self._callbacks.bind(on_end, f"on_end {whose}")
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._confirm_timeout = confirm_timeout
        self._loop = asyncio.get_running_loop()
        self._batches: list[_Batch] = []
        """In the order of their ids, which do not overlap. Resolved ones stay for a while: see ``_settle``."""
        self._open = 0
        """Batches that are not resolved."""
        self._rejected: list[int] = []
        """Under a reference: ids that the caller chose and the broker rejected, in order, until published again."""
        self._recount = False
        """Whether an id of the publisher's own was rejected under a reference."""
        self._progress = asyncio.Event()
        self._order = asyncio.Lock()
        self._watchdog: asyncio.TimerHandle | None = None
        # Halves of the bounds, so that one batch is on its way while another is confirmed.
        self._target = FRAME_TARGET
        self._most = max(1, max_in_flight // 2)

    async def open(self) -> None:
        """Declares it on the stream's leader. Called by ``Client.publisher``, until it succeeds once."""
        await self.attach(await self._locator.leader_now(self.stream))

    # Publishing.

    async def publish(
        self,
        messages: Sequence[bytes],
        *,
        publishing_ids: Sequence[int] | None = None,
        filter_values: FilterValues | None = None,
    ) -> Sequence[int]:
        """Publishes encoded messages and returns their publishing ids.

        Returns once they are written; they are confirmed later (``listener``, ``flush``). Waits while too much is
        in flight, or while the broker does not read. A cancelled call has published a part: ``published`` says
        how much, and that part is confirmed or failed like any other. While the publisher recovers from a lost
        connection, the call waits, too. Ids must grow; ids at or below one that is in flight wait for it. With a filter
        value, a message can be skipped by consumers that filter, chunk by chunk.

        With a reference, ids that come after a rejected one raise ``NotConfirmed`` until that one is published again:
        once the broker has stored a later one, it would drop and confirm it. A part of the call may be published then.
        Raises ``MessageTooLarge`` or ``UnsupportedByBroker`` (filter values need RabbitMQ 3.13) before anything of
        this call is written, or the error with which this publisher ended.
        """
        if publishing_ids is not None and len(publishing_ids) != len(messages):
            raise ValueError(f"{len(publishing_ids)} publishing ids for {len(messages)} messages")
        if not messages:
            return ()
        sizes = list(map(len, messages))
        filters = None
        if filter_values is not None:
            if len(filter_values) != len(messages):
                raise ValueError(f"{len(filter_values)} filter values for {len(messages)} messages")
            if any(value is not None for value in filter_values):
                self.require_filters()
                filters = list(map(_encode_filter, filter_values))
                sizes = list(map(operator.add, sizes, map(len, filters)))
        if max(sizes) > self.max_message_size:
            self._too_large(sizes)
        async with self._order:  # what one call publishes stays together, and ids stay in order
            await self.check()
            ids = publishing_ids
            if self._rejected or self._recount:
                await self._mind_rejected(ids)
            if ids is None:
                ids = range(self.next_publishing_id, self.next_publishing_id + len(messages))
            elif not _grows(ids):
                raise ValueError("publishing ids must grow")
            elif self._open and ids[0] <= self._batches[-1].last:
                await self._wait(lambda: not self._open)
            if publishing_ids is None and ids[-1] >= 2**64:
                raise ProtocolError(
                    f"{self._connection.endpoint}: no publishing id is left in stream {self.stream!r} for the name"
                    f" {self.reference!r}, whose last one is {ids[0] - 1}"
                )
            if not 0 <= ids[0] <= ids[-1] < 2**64:
                raise ValueError(f"a publishing id is between 0 and 2**64-1; these are {ids[0]} to {ids[-1]}")
            low = 0
            for high in self._cuts(sizes):
                size = sum(sizes[low:high])
                await self._room(high - low, size)
                if self._rejected or self._recount:
                    await self._mind_rejected(None if publishing_ids is None else ids[low:])
                part = slice(low, high)
                columns = None if filters is None else filters[part]
                writes = self._write(publish_frame(self._lease.id, ids[part], messages[part], size, columns))
                kept = None if filters is None or filter_values is None else filter_values[part]
                now = self._loop.time()
                are_callers = publishing_ids is not None
                batch = _Batch(
                    ids[part], messages[part], size, now, writes=writes, are_callers=are_callers, filter_values=kept
                )
                self._register(batch, high - low)
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
    ) -> int:
        """Publishes up to 65,535 encoded messages as one entry under one publishing id, which is returned.

        There is no room for filter values in a sub-entry. Raises as ``publish`` does; ``MessageTooLarge`` where the
        compressed entry does not fit a frame.
        """
        compression = check_compression(compression)
        if not 0 < len(messages) <= MAX_SUB_ENTRY_RECORDS:
            raise ValueError(f"a sub-entry holds 1 to {MAX_SUB_ENTRY_RECORDS} messages, not {len(messages)}")
        plain = join_sub_batch(messages)
        if len(plain) > MAX_UNCOMPRESSED:  # brokers before 4.3.5 would store it, and no client could read it
            raise MessageTooLarge(f"a sub-entry of {len(plain)} bytes; {MAX_UNCOMPRESSED} are the limit")
        data = compress(compression, plain)
        async with self._order:
            await self.check()
            are_callers = publishing_id is not None
            if self._rejected or self._recount:
                await self._mind_rejected(None if publishing_id is None else (publishing_id,))
            if publishing_id is None:
                publishing_id = self.next_publishing_id
            elif self._open and publishing_id <= self._batches[-1].last:
                raise ValueError("publishing ids must grow")
            entry = c.PublishedSubBatch(publishing_id, compression, len(messages), len(plain), data)
            size = len(c.encode(c.Publish(0, (entry,)))) - 4
            if self._connection.frame_max and size > self._connection.frame_max:
                raise MessageTooLarge(
                    f"a sub-entry of {len(data)} bytes does not fit a frame of {self._connection.frame_max}"
                )
            await self._room(len(messages), len(data))
            writes = self._write(c.encode(c.Publish(self._lease.id, (entry,))))
            now = self._loop.time()
            kept = tuple(messages)
            batch = _Batch(
                (publishing_id,), kept, len(data), now, writes=writes, are_callers=are_callers, sub_batch=entry
            )
            self._register(batch, len(messages))
        return publishing_id

    @property
    def is_stopped(self) -> bool:
        """Whether it takes no later ids, because one of the caller's was rejected, and nothing is in flight."""
        return bool(self._rejected) and not self._open

    async def last_publishing_id(self) -> int:
        """The last id that the broker knows under the reference; 0 for none. Raises what the request raises."""
        return await _first_free_id(self._lease, self.stream, self.reference) - 1

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is in flight, ``timeout`` seconds at most (None: as long as it takes).

        Raises ``RequestTimeout``; messages that fail end the wait like confirmed ones.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._open:
                    await self._next_progress()
        except TimeoutError:
            raise RequestTimeout(f"messages that are not confirmed within {timeout:.3g} s: {self.in_flight}") from None
        self._callbacks.check()

    async def check(self) -> None:
        """Raises the error with which this publisher ended, having asked what became of its stream."""
        self._callbacks.check()
        if self.error is not None:
            self.error = await self._locator.explain(self.stream, self.error)
            raise self.error.with_traceback(None)
        if self._closed:
            raise AlreadyClosed(f"this publisher of stream {self.stream!r} is closed")

    async def close(self, timeout: float = 10.0) -> None:
        """Waits for outstanding confirms, ``timeout`` seconds at most, and ends the publisher.

        What is not confirmed by then counts as failed, and the listener is told; so it is where the publisher has not
        recovered by then. May be repeated.
        """
        if self._closed:
            return
        self._closed = True
        goodbye = GOODBYE_TIMEOUT
        try:
            try:
                await self.flush(timeout)
            except RequestTimeout:
                self._fail_all(NotConfirmed(f"the broker did not confirm within {timeout:.3g} s"))
                goodbye = min(timeout, goodbye)  # who does not confirm will not say goodbye either
            self._stop()
            await self._stop_recovering()
            await self._leave(goodbye)
        finally:
            self.abandon()  # what is left of that where it was cancelled
        self._callbacks.check()

    def abandon(self) -> None:
        """Closes it at once, without waiting: what is not confirmed has failed, and the listener is told."""
        self._closed = True
        self._stop()
        self._abandon()

    def _stop(self) -> None:
        self._fail_all(NotConfirmed("the publisher was closed before the broker confirmed"))
        self._stop_watching()
        self._callbacks.sum_up()
        self._progress.set()

    # What the connection calls.

    def on_confirmed(self, publishing_ids: Sequence[int]) -> None:
        self._outages.progress()
        ids = publishing_ids
        if not _grows(ids):
            ids = sorted(set(ids))
        now = self._loop.time()
        position, count = 0, len(ids)
        at = self._place(ids[0]) if count else 0
        while position < count and at < len(self._batches):
            batch = self._batches[at]
            if batch.first > ids[-1]:
                break
            position = bisect_left(ids, batch.first, position)
            stop = bisect_left(ids, batch.last + 1, position)
            if stop > position:
                self._confirm(batch, ids[position:stop], now)
                position = stop
            at += 1
        self._settle()

    def on_rejected(self, errors: Sequence[c.MessageError]) -> None:
        forgotten = [code for _, code in errors if code == PublisherDoesNotExist.code]
        if forgotten and self._recoveries.policy is not None:  # it dropped us, and the notice of that was missed
            self.on_unavailable(StreamNotAvailable(f"the broker has forgotten a publisher of stream {self.stream!r}"))
            return
        for publishing_id, code in errors:
            at = self._place(publishing_id)
            batch = self._batches[at] if at < len(self._batches) else None
            if batch is None or not batch.first <= publishing_id <= batch.last:
                continue
            where = bisect_left(batch.ids, publishing_id)
            if batch.ids[where] == publishing_id:
                failures = batch.failures(where, code, response_name(code))
                if batch.resolve(where, where + 1):
                    self._fail(batch, failures)
                    if self.reference and batch.are_callers:
                        insort(self._rejected, publishing_id)
                    elif self.reference:
                        self._recount = True
        self._settle()
        if forgotten:
            self.on_unavailable(PublisherDoesNotExist(f"publishing to stream {self.stream!r}"))

    def on_writable(self) -> None:
        self._progress.set()

    # Attaching, and recovering.

    async def _locate(self) -> Endpoint:
        return await self._locator.leader_now(self.stream)

    async def _declare(self) -> None:
        """Declares it, and writes what is unconfirmed."""
        lease = self._lease
        connection = lease.connection
        connection.session.expect_confirms(self._max_in_flight)
        connection.publishers[lease.id] = self  # from now on: what comes before the answer counts, too
        connection.streams[self] = self.stream
        await self._make_known()
        if not self.next_publishing_id:
            self.next_publishing_id = await _first_free_id(lease, self.stream, self.reference)
        limit = connection.frame_max or MAX_FRAME
        self.max_message_size = limit - (_FRAME_HEAD.size - 4) - _ENTRY_HEAD
        self._target = min(limit, FRAME_TARGET, self._max_in_flight_bytes // 2)
        await self._write_again()

    async def _make_known(self) -> None:
        what = f"publishing to stream {self.stream!r}"
        message = c.DeclarePublisher(self._lease.id, self.reference or "", self.stream)
        try:
            await self._connection.request(message, c.DeclarePublisherResponse, what)
        except PreconditionFailed:
            if self.reference is not None and any(
                other is not self and (other.stream, other.reference) == (self.stream, self.reference)
                for other in self._connection.publishers.values()
                if isinstance(other, Publisher)
            ):
                raise PreconditionFailed(f"{what}: this client has a publisher {self.reference!r} already") from None
            # A used id and a long reference, the other reasons for it, are none of ours.
            raise PublishingBlocked(f"{what}: {PublishingBlocked.summary}") from None

    def _go_on(self) -> None:
        self._watch_later()
        self._progress.set()

    def _goodbye(self, lease: Lease) -> Goodbye:
        return Goodbye(c.DeletePublisher(lease.id), c.DeletePublisherResponse)

    def _is_over(self) -> bool:
        return self._closed and not self._open

    def _on_loss(self, error: RstreamError) -> None:
        policy = self._recoveries.policy
        if self.reference is None and policy is not None and not policy.resend:
            self._fail_all(error)  # what the broker has, and what it has not, cannot be told apart
        elif self._rejected:
            self._fail_behind(self._rejected[0], error)
        self._progress.set()

    async def _write_again(self) -> None:
        for batch in tuple(self._batches):
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

    def _frames(self, batch: _Batch) -> list[bytes]:
        """What of a batch is not resolved; in several frames where this connection's are smaller."""
        if batch.sub_batch is not None:
            frame = c.encode(c.Publish(self._lease.id, (batch.sub_batch,)))
            if self._connection.frame_max and len(frame) - 4 > self._connection.frame_max:
                self._too_large([len(frame)])
            return [frame]
        ids, messages, filter_values = batch.unresolved()
        sizes = list(map(len, messages))
        columns = None
        if filter_values is not None:
            self.require_filters()
            columns = list(map(_encode_filter, filter_values))
            sizes = list(map(operator.add, sizes, map(len, columns)))
        if max(sizes) > self.max_message_size:
            self._too_large(sizes)
        frames: list[bytes] = []
        low = 0
        for high in self._cuts(sizes):
            part = slice(low, high)
            filters = None if columns is None else columns[part]
            frames.append(publish_frame(self._lease.id, ids[part], messages[part], sum(sizes[part]), filters))
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

    def _place(self, publishing_id: int) -> int:
        """The position of the batch that holds an id, or else of a neighbour."""
        return max(bisect_right(self._batches, publishing_id, key=_first_id) - 1, 0)

    def _write(self, frame: bytes) -> int:
        """Writes what is about to be registered, and tells how often: 0 where the recovery will do it."""
        try:
            self._connection.write([frame])
        except ConnectionClosed as error:
            self.on_unavailable(error)
            if self.error is not None:
                raise self.error from None
            return 0
        return 1

    def _confirm(self, batch: _Batch, ids: Sequence[int], now: float) -> None:
        """Resolves ids of one batch, which are in order; unknown ones are passed over."""
        low = bisect_left(batch.ids, ids[0])
        if _same(batch.ids[low : low + len(ids)], ids):  # as it nearly always is
            fresh = batch.resolve(low, low + len(ids))
        else:
            fresh = 0
            for publishing_id in ids:
                where = bisect_left(batch.ids, publishing_id)
                if batch.ids[where] == publishing_id:
                    fresh += batch.resolve(where, where + 1)
        if not fresh:
            return
        messages = fresh * batch.weight
        self.confirmed += messages
        self.in_flight -= messages
        self._forget_if_resolved(batch)
        if self._listener is not None:
            self._listener(Outcome(messages, now - batch.written_at, (), ids))

    def _fail(self, batch: _Batch, failures: list[FailedMessage]) -> None:
        self.failed += len(failures)
        self.in_flight -= len(failures)
        self._forget_if_resolved(batch)
        if self._listener is not None:
            self._listener(Outcome(0, self._loop.time() - batch.written_at, failures))

    def _fail_all(self, error: RstreamError) -> None:
        for batch in [batch for batch in self._batches if batch.open]:
            failures: list[FailedMessage] = []
            for position, resolved in enumerate(batch.resolved):
                if not resolved:
                    failures += batch.failures(position, 0, str(error))
            batch.open = 0
            self._fail(batch, failures)
        self._settle()

    def _fail_behind(self, publishing_id: int, error: RstreamError) -> None:
        """Fails what the caller gave later ids: written again, it might leave this one behind for good."""
        for batch in [batch for batch in self._batches if batch.open and batch.are_callers]:
            failures: list[FailedMessage] = []
            for position in range(bisect_right(batch.ids, publishing_id), len(batch.ids)):
                if not batch.resolved[position]:
                    failures += batch.failures(position, 0, str(error))
                    batch.resolve(position, position + 1)
            if failures:
                self._fail(batch, failures)
        self._settle()

    async def _mind_rejected(self, ids: Sequence[int] | None) -> None:
        """Whether these may follow what was rejected under the reference; None, where the publisher counts."""
        await self._wait(lambda: self._attached and not self._open)
        if not self._rejected:
            if ids is None:
                last = await self.last_publishing_id()  # a broker that leaves no holes lets who has asked go on
                self.next_publishing_id = max(self.next_publishing_id, last + 1)
                self._recount = False
            return
        what = f"publishing id {self._rejected[0]} of {self.reference!r} in stream {self.stream!r} was rejected"
        again = set(ids or ())
        if ids is None or any(one not in again for one in self._rejected[: bisect_right(self._rejected, ids[-1])]):
            raise NotConfirmed(f"{what}; later ones are not taken until it is published again")
        last = await self.last_publishing_id()
        if last >= self._rejected[0]:
            raise NotConfirmed(f"{what}, and the broker has gone on to {last}: it would drop it, and confirm it")
        del self._rejected[: bisect_right(self._rejected, ids[-1])]

    def _forget_if_resolved(self, batch: _Batch) -> None:
        if not batch.open:
            self._open -= 1
            self.in_flight_bytes -= batch.size
            batch.messages = ()

    def _settle(self) -> None:
        """Forgets resolved batches and wakes whoever waits.

        Resolved batches are taken out when they are the most: so each costs a constant, however many there are.
        """
        if len(self._batches) > 2 * self._open:
            self._batches = [batch for batch in self._batches if batch.open]
        self._progress.set()

    def _cuts(self, sizes: Sequence[int]) -> Sequence[int]:
        """Where to cut messages of these sizes, so that each part fits a frame, and the bounds of what is in flight."""
        budget, most = self._target - (_FRAME_HEAD.size - 4), self._most
        if len(sizes) <= most and sum(sizes) + _ENTRY_HEAD * len(sizes) <= budget:
            return (len(sizes),)
        cuts: list[int] = []
        used = start = 0
        for position, size in enumerate(sizes):
            entry = size + _ENTRY_HEAD
            if used and (used + entry > budget or position - start == most):
                cuts.append(position)
                used, start = 0, position
            used += entry
        cuts.append(len(sizes))
        return cuts

    def _register(self, batch: _Batch, messages: int) -> None:
        self._batches.append(batch)
        self._open += 1
        self.next_publishing_id = max(self.next_publishing_id, batch.last + 1)
        self.published += messages
        self.in_flight += messages
        self.in_flight_bytes += batch.size
        self._watch_later()

    def _watch_later(self) -> None:
        if self._watchdog is None and self._confirm_timeout and self._open and self._attached:
            self._watchdog = self._loop.call_later(self._confirm_timeout, self._watch, context=Context())

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _watch(self) -> None:
        """Fails the publisher when its oldest batch waits for too long: an id that may come late is not reused."""
        assert self._confirm_timeout is not None
        self._watchdog = None
        if not self._open:
            return
        oldest = next(batch for batch in self._batches if batch.open)
        due = oldest.written_at + self._confirm_timeout - self._loop.time()
        if due > 0:
            self._watchdog = self._loop.call_later(due, self._watch, context=Context())
            return
        self._give_up(NotConfirmed(f"the broker did not confirm within {self._confirm_timeout:g} s"))

    def _give_up(self, error: NotConfirmed) -> None:
        """It ends, though its connection has not: that is told as a loss which is not recovered from."""
        if self.error is None and not self._closed:
            self._outages.lose(error)
        self._end(error)

    def _has_room(self, messages: int, size: int) -> bool:
        """Whether so much may be written now; anything may where nothing is in flight."""
        within = self.in_flight + messages <= self._max_in_flight
        return not self.in_flight or (within and self.in_flight_bytes + size <= self._max_in_flight_bytes)

    async def _room(self, messages: int, size: int) -> None:
        """Waits for room in flight, and for the broker to read; while it recovers, for the end of that."""
        while not (self._attached and self._has_room(messages, size) and self._connection.is_writable):
            await self.check()
            # While something is in flight, the watchdog looks at it. Else others have filled the connection.
            limit = self._confirm_timeout if self._attached and not self._open else None
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
        )


_first_id = operator.attrgetter("first")
_pack_size = struct.Struct(">I").pack
_NO_FILTER = b"\xff\xff"
"""The length of a string that is not there."""


def publish_frame(
    publisher_id: int, ids: Sequence[int], messages: Sequence[bytes], size: int, filters: Sequence[bytes] | None = None
) -> bytes:
    """A Publish frame, as ``commands.encode`` makes it of one entry after the other; ``filters`` make it version 2.

    ``size`` is that of the messages, with their ``filters``, which are encoded already.
    """
    count = len(ids)
    try:
        packed = struct.pack(f">{count}Q", *ids)
    except struct.error:
        raise TypeError("a publishing id is no whole number") from None
    columns: list[Iterable[bytes]] = [
        [packed[at : at + 8] for at in range(0, 8 * count, 8)],
        map(_pack_size, map(len, messages)),
        messages,
    ]
    version = 1
    if filters is not None:
        columns.insert(1, filters)
        version = 2
    width = len(columns)
    parts: list[bytes] = [b""] * (width * count + 1)
    parts[0] = _FRAME_HEAD.pack(
        _FRAME_HEAD.size - 4 + _ENTRY_HEAD * count + size, c.Key.PUBLISH, version, publisher_id, count
    )
    for place, column in enumerate(columns, 1):
        parts[place::width] = column
    return b"".join(parts)


def _encode_filter(value: str | None) -> bytes:
    if value is None:
        return _NO_FILTER
    try:
        data = value.encode()
    except (AttributeError, UnicodeEncodeError):
        check_text("a filter value", value)  # says what is wrong with it
        raise
    if len(data) > MAX_STRING:
        check_text("a filter value", value)
    return len(data).to_bytes(2) + data


def _same(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two runs of growing ids are the same."""
    if len(some) != len(others):
        return False
    if type(some) is range and some.step == 1:
        return some[0] == others[0] and some[-1] == others[-1]
    return tuple(some) == tuple(others)


def _grows(ids: Sequence[int]) -> bool:
    """Whether each id is larger than the one before it."""
    if type(ids) is range:
        return ids.step > 0
    return all(map(operator.lt, ids, ids[1:]))


async def _first_free_id(lease: Lease, stream: str, reference: str | None) -> int:
    """The first free publishing id."""
    if not reference:
        return 1
    answer = await lease.connection.request(
        c.QueryPublisherSequence(reference, stream),
        c.QueryPublisherSequenceResponse,
        f"the last publishing id of {reference!r} in stream {stream!r}",
    )
    return answer.sequence + 1  # 0 means none, too: the first id is 1
