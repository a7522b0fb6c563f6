"""``Producer``: publishes to any number of streams, one message or many at a time.

Messages given one by one gather in an outbox for each (stream, publisher name) and go out as a batch, when there
are enough of them or the linger time is over. Everything below that line works on batches: see ``publisher``.

Nothing is lost in silence: a message that is not confirmed is told to its ``on_publish_confirm``, and where it has
none, the next call on the producer raises ``NotConfirmed``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from rstream_core.arguments import ConnectionArguments, connection_options
from rstream_core.client import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, Client
from rstream_core.errors import (
    RESPONSE_OK,
    AlreadyClosed,
    MessageTooLarge,
    NotConfirmed,
    RequestTimeout,
    RstreamError,
    error_from_code,
)
from rstream_core.pool import MAX_IDS
from rstream_core.protocol.amqp import AMQPMessage, encode_message
from rstream_core.publisher import Outcome, Publisher
from rstream_core.types import CompressionType, ConfirmationStatus

logger = logging.getLogger("rstream_core")

Message = AMQPMessage | bytes | Any
"""An ``AMQPMessage``, a ``uamqp.Message``, or bytes that are sent as they are."""
ConfirmCallback = Callable[[ConfirmationStatus], Awaitable[None] | None]

LINGER = 0.005
BATCH_SIZE = 1000


class Producer:
    """Publishes messages; streams are connected to when they are first used. For the tasks of one event loop.

    ``linger`` is how long, in seconds, ``send`` may hold a message back to gather others, and ``batch_size`` how
    many messages end the wait. At most ``max_in_flight`` messages and ``max_in_flight_bytes`` of each stream wait
    for their confirms: beyond that, ``send`` and its kin wait.

    Messages of one stream and publisher name are stored in the order of the calls, whichever methods were used.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5552,
        *,
        client: Client | None = None,
        max_publishers_by_connection: int = MAX_IDS,
        linger: float = LINGER,
        batch_size: int = BATCH_SIZE,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        confirm_timeout: float | None = 30.0,
        close_timeout: float = 10.0,
        **connection: Unpack[ConnectionArguments],
    ) -> None:
        if batch_size < 1 or linger < 0:
            raise ValueError("batch_size is at least 1, and linger at least 0")
        self._owns_client = client is None
        self._client = client or Client(
            connection_options(host, port, **connection), max_publishers_by_connection=max_publishers_by_connection
        )
        self._linger = linger
        self._batch_size = batch_size
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._confirm_timeout = confirm_timeout
        self._close_timeout = close_timeout
        self._outboxes: dict[tuple[str, str | None], _Outbox] = {}
        self._opening = asyncio.Lock()
        self._callbacks = _Callbacks()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except NotConfirmed:
            if error is None:
                raise
            logger.exception("closing after another error")

    async def start(self) -> None:
        """Connects and logs in. Optional: the first call does it too."""
        await self._client.start()

    async def close(self) -> None:
        """Publishes what is held back, waits for confirms (``close_timeout`` seconds at most), and disconnects.

        Raises ``NotConfirmed`` where messages without a callback were not confirmed; everything is closed then too.
        May be repeated.
        """
        if self._closed:
            return
        self._closed = True
        problems: list[RstreamError] = []
        try:
            for outbox in self._outboxes.values():
                try:
                    await outbox.close(self._close_timeout)
                except RstreamError as error:
                    problems.append(error)
            await self._callbacks.finish(self._close_timeout)
        finally:
            if self._owns_client:
                await self._client.close()
        if problems:
            raise problems[0]

    # Streams.

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, exists_ok: bool = False
    ) -> None:
        """See ``Client.create_stream``."""
        await self._client.create_stream(stream, arguments, exists_ok=exists_ok)

    async def delete_stream(self, stream: str, missing_ok: bool = False) -> None:
        """See ``Client.delete_stream``."""
        await self._client.delete_stream(stream, missing_ok=missing_ok)

    async def stream_exists(self, stream: str) -> bool:
        """Whether the stream exists, with or without a leader at the moment."""
        return await self._client.stream_exists(stream)

    # Publishing.

    async def send(
        self,
        stream: str,
        message: Message,
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> None:
        """Publishes one message, gathered with others.

        ``on_publish_confirm`` is called once, on the event loop, and may be a coroutine function. With a
        ``publisher_name``, messages are deduplicated by ``message.publishing_id``, or by a number counted on from
        the last one that the broker knows. Raises ``MessageTooLarge``, or what keeps the stream from being reached.
        """
        outbox = self._outboxes.get((stream, publisher_name))
        if outbox is None or outbox.is_dead:
            outbox = await self._outbox(stream, publisher_name)
        if outbox.add(message, on_publish_confirm) >= self._batch_size:
            await outbox.flush()

    async def send_batch(
        self,
        stream: str,
        batch: Sequence[Message],
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> list[int]:
        """Publishes several messages at once and returns their publishing ids. The fastest way.

        Returns once they are written; ``on_publish_confirm`` is called for each. Raises as ``send`` does, and for a
        message that is too large before any of the batch is sent.
        """
        outbox = await self._outbox(stream, publisher_name)
        return await outbox.publish(batch, on_publish_confirm)

    async def send_wait(
        self, stream: str, message: Message, publisher_name: str | None = None, timeout: float | None = 5
    ) -> int:
        """Publishes one message, waits for its confirm, and returns its publishing id. The slowest way.

        Raises ``RequestTimeout`` after ``timeout`` seconds (None: never), the broker's error where it rejects the
        message, ``NotConfirmed`` where it never answers. After a timeout or a cancellation the message may be
        stored all the same.
        """
        outbox = await self._outbox(stream, publisher_name)
        done: asyncio.Future[ConfirmationStatus] = asyncio.get_running_loop().create_future()

        def resolve(status: ConfirmationStatus) -> None:
            if not done.done():
                done.set_result(status)

        try:
            async with asyncio.timeout(timeout):
                await outbox.publish((message,), resolve)
                status = await done
        except TimeoutError:
            raise RequestTimeout(f"stream {stream!r}: not confirmed within {timeout:g} s") from None
        if status.is_confirmed:
            return status.message_id
        if status.response_code:
            raise error_from_code(status.response_code, f"publishing to stream {stream!r}")
        raise outbox.error or NotConfirmed(f"stream {stream!r}: the message was not confirmed")

    async def send_sub_entry(
        self,
        stream: str,
        sub_entry_messages: Sequence[Message],
        compression_type: CompressionType = CompressionType.No,
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> int:
        """Publishes up to 65,535 messages as one entry, perhaps compressed; returns their one publishing id.

        The broker confirms them together and does not deduplicate them one by one. Raises as ``send`` does.
        """
        outbox = await self._outbox(stream, publisher_name)
        return await outbox.publish_sub_entry(sub_entry_messages, compression_type, on_publish_confirm)

    async def flush(self, timeout: float | None = None) -> None:
        """Publishes what is held back, and waits until everything is confirmed or has failed.

        Raises ``RequestTimeout`` after ``timeout`` seconds, ``NotConfirmed`` for failures that have no callback.
        """
        for outbox in list(self._outboxes.values()):
            await outbox.flush()
            await outbox.settle(timeout)

    async def _outbox(self, stream: str, publisher_name: str | None) -> _Outbox:
        if self._closed:
            raise AlreadyClosed("this producer is closed")
        key = (stream, publisher_name)
        outbox = self._outboxes.get(key)
        if outbox is not None and not outbox.is_dead:
            return outbox
        async with self._opening:
            outbox = self._outboxes.get(key)
            if outbox is not None and outbox.is_dead:
                del self._outboxes[key]
                await outbox.close(0)  # tells of what it lost
                outbox = None
            if outbox is None:
                outbox = _Outbox(self._linger, self._callbacks)
                outbox.attach(
                    await self._client.publisher(
                        stream,
                        publisher_name,
                        listener=outbox.on_outcome,
                        max_in_flight=self._max_in_flight,
                        max_in_flight_bytes=self._max_in_flight_bytes,
                        confirm_timeout=self._confirm_timeout,
                    )
                )
                self._outboxes[key] = outbox
            return outbox


class _Callbacks:
    """Calls users' functions: their errors are logged, and those that must be awaited get a task with an owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[None]] = set()

    def call(self, callback: ConfirmCallback, status: ConfirmationStatus) -> None:
        try:
            result = callback(status)
        except Exception:
            logger.exception("on_publish_confirm failed for message %s", status.message_id)
            return
        if result is not None and inspect.isawaitable(result):
            task = asyncio.ensure_future(self._run(result, status.message_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, waiting: Awaitable[None], message_id: int) -> None:
        try:
            await waiting
        except Exception:
            logger.exception("on_publish_confirm failed for message %s", message_id)

    async def finish(self, timeout: float) -> None:
        """Waits for those that run, and cancels the rest."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()


Callbacks = ConfirmCallback | Sequence[ConfirmCallback | None] | None
"""One for all messages of a job, one for each, or none."""


class _Job:
    """Messages on their way to the publisher, with their ids, in the order of the calls."""

    __slots__ = ("callbacks", "compression", "done", "ids", "messages", "somebody_waits")

    def __init__(
        self,
        messages: Sequence[bytes],
        ids: Sequence[int],
        callbacks: Callbacks,
        *,
        somebody_waits: bool,
        compression: CompressionType | None = None,
    ) -> None:
        self.messages = messages
        self.ids = ids
        self.callbacks = callbacks
        self.compression = compression
        self.somebody_waits = somebody_waits
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a timer's has no reader


class _Outbox:
    """What is about to go to one publisher, and who wants to know what became of it.

    Ids are given out, and jobs queued, without waiting: so the order of the calls is the order of the messages,
    however many tasks call. One worker carries the jobs out; a caller that is cancelled leaves its job behind.
    """

    publisher: Publisher

    def __init__(self, linger: float, callbacks: _Callbacks) -> None:
        self._linger = linger
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._held: list[bytes] = []
        self._held_ids: list[int] | None = None
        self._held_callbacks: list[ConfirmCallback | None] | None = None
        self._confirms: dict[int, ConfirmCallback] = {}
        self._jobs: deque[_Job] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = 0
        self._lost_reason = ""

    def attach(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self._next_id = publisher.next_publishing_id

    @property
    def error(self) -> RstreamError | None:
        return self.publisher.error

    @property
    def is_dead(self) -> bool:
        return self.publisher.error is not None

    def add(self, message: Message, callback: ConfirmCallback | None) -> int:
        """Holds one message back, and returns how many are held."""
        data = encode_message(message)
        if len(data) > self.publisher.max_message_size:
            self._too_large(data, 0, 1)
        if self._lost:
            self._tell_lost()
        held = self._held
        explicit = getattr(message, "publishing_id", None)
        if explicit is not None or self._held_ids is not None:
            if self._held_ids is None:
                self._held_ids = list(range(self._next_id - len(held), self._next_id))
            if explicit is not None:
                self._next_id = explicit
            self._held_ids.append(self._next_id)
        self._next_id += 1
        if callback is not None or self._held_callbacks is not None:
            if self._held_callbacks is None:
                self._held_callbacks = [None] * len(held)
            self._held_callbacks.append(callback)
        held.append(data)
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._on_linger)
        return len(held)

    async def flush(self) -> None:
        """Publishes what is held back; returns once it, and all before it, is written."""
        job = self._queue_held()
        if job is None and self._jobs:
            job = self._jobs[-1]
        if job is not None:
            await asyncio.shield(job.done)
        elif self._worker is not None and not self._worker.done():
            await asyncio.shield(self._worker)

    async def publish(self, batch: Sequence[Message], callback: ConfirmCallback | None) -> list[int]:
        """Publishes a batch after what is held back."""
        encoded = list(map(encode_message, batch))
        limit = self.publisher.max_message_size
        if encoded and max(map(len, encoded)) > limit:
            position = next(at for at, data in enumerate(encoded) if len(data) > limit)
            self._too_large(encoded[position], position, len(encoded))
        if self._lost:
            self._tell_lost()
        if not encoded:
            return []
        self._queue_held()
        explicit = [getattr(message, "publishing_id", None) for message in batch]
        ids: Sequence[int] = range(self._next_id, self._next_id + len(encoded))
        if any(publishing_id is not None for publishing_id in explicit):
            ids = _number(explicit, self._next_id)
        self._next_id = ids[-1] + 1
        await asyncio.shield(self._queue(_Job(encoded, ids, callback, somebody_waits=True)).done)
        return list(ids)

    async def publish_sub_entry(
        self, messages: Sequence[Message], compression: CompressionType, callback: ConfirmCallback | None
    ) -> int:
        """Publishes one sub-entry after what is held back."""
        encoded = list(map(encode_message, messages))
        if self._lost:
            self._tell_lost()
        self._queue_held()
        publishing_id = self._next_id
        self._next_id += 1
        job = _Job(encoded, (publishing_id,), callback, somebody_waits=True, compression=compression)
        await asyncio.shield(self._queue(job).done)
        return publishing_id

    async def settle(self, timeout: float | None) -> None:
        """Waits for what is in flight."""
        await self.publisher.flush(timeout)
        if self._lost:
            self._tell_lost()

    async def close(self, timeout: float) -> None:
        """Publishes what is held, waits for confirms, and ends the publisher; what is left then has failed."""
        self._queue_held()
        if self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker], timeout=timeout)
            self._worker.cancel()
            await asyncio.wait([self._worker])
        await self.publisher.close(timeout)
        if self._lost:
            self._tell_lost()

    def on_outcome(self, outcome: Outcome) -> None:
        """The publisher's listener."""
        confirms = self._confirms
        if confirms:
            for publishing_id in outcome.publishing_ids:
                callback = confirms.pop(publishing_id, None)
                if callback is not None:
                    self._callbacks.call(callback, ConfirmationStatus(publishing_id, True, RESPONSE_OK))
        for failure in outcome.failed:
            self._fail(failure.publishing_id, failure.code, failure.reason)

    # Inside.

    def _queue_held(self) -> _Job | None:
        """Makes a job of what is held back; None where nothing is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._held
        if not held:
            return None
        ids: Sequence[int] = self._held_ids or range(self._next_id - len(held), self._next_id)
        job = _Job(held, ids, self._held_callbacks, somebody_waits=False)
        self._held, self._held_ids, self._held_callbacks = [], None, None
        return self._queue(job)

    def _queue(self, job: _Job) -> _Job:
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = self._loop.create_task(self._work())
        return job

    async def _work(self) -> None:
        """Carries jobs out, in order. Their errors go to whoever waits for them."""
        while self._jobs:
            job = self._jobs[0]
            try:
                await self._carry_out(job)
            except (RstreamError, ValueError) as error:
                job.done.set_exception(error)
            except BaseException:
                job.done.cancel()
                self._abandon()
                raise
            else:
                job.done.set_result(None)
            self._jobs.popleft()

    async def _carry_out(self, job: _Job) -> None:
        start = 0
        for stop in _runs(job.ids):
            ids = job.ids[start:stop]
            if (
                ids[0] < self.publisher.next_publishing_id
            ):  # a repetition: the first one's confirm must not be taken for its
                await self.publisher.flush()
            self._register(ids, job.callbacks, start)
            before = self.publisher.published
            try:
                if job.compression is None:
                    await self.publisher.publish(job.messages[start:stop], publishing_ids=ids)
                else:
                    await self.publisher.publish_sub_entry(job.messages, job.compression, publishing_id=ids[0])
            except BaseException as error:
                reason = str(error) or "cancelled"
                self._register(job.ids[stop:], job.callbacks, stop)
                for publishing_id in job.ids[start + self.publisher.published - before :]:
                    self._fail(publishing_id, 0, reason, count=not job.somebody_waits)
                raise
            start = stop

    def _register(self, ids: Sequence[int], callbacks: Callbacks, start: int) -> None:
        if callbacks is None:
            return
        if callable(callbacks):
            self._confirms.update(dict.fromkeys(ids, callbacks))
            return
        for publishing_id, callback in zip(ids, callbacks[start:], strict=False):
            if callback is not None:
                self._confirms[publishing_id] = callback

    def _abandon(self) -> None:
        """Fails all jobs but the first, which has been told."""
        for job in list(self._jobs)[1:]:
            self._register(job.ids, job.callbacks, 0)
            for publishing_id in job.ids:
                self._fail(publishing_id, 0, "the producer was closed before it was sent")
            job.done.cancel()
        self._jobs.clear()

    def _fail(self, publishing_id: int, code: int, reason: str, *, count: bool = True) -> None:
        callback = self._confirms.pop(publishing_id, None)
        if callback is not None:
            self._callbacks.call(callback, ConfirmationStatus(publishing_id, False, code))
        elif count:
            self._lost += 1
            self._lost_reason = reason

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        raise NotConfirmed(f"{lost} earlier messages were not confirmed: {self._lost_reason}")

    def _too_large(self, data: bytes, position: int, count: int) -> None:
        raise MessageTooLarge(
            f"message {position + 1} of {count} takes {len(data)} bytes; "
            f"the broker's frame size allows {self.publisher.max_message_size}",
            position=position,
        )

    def _on_linger(self) -> None:
        self._timer = None
        self._queue_held()


def _number(explicit: Sequence[int | None], first: int) -> list[int]:
    """Gives an id to those that have none: one more than the id before."""
    ids: list[int] = []
    for publishing_id in explicit:
        ids.append(publishing_id if publishing_id is not None else (ids[-1] + 1 if ids else first))
    return ids


def _runs(ids: Sequence[int]) -> list[int]:
    """Where each run of growing ids ends."""
    if type(ids) is range:
        return [len(ids)]
    ends = [at for at in range(1, len(ids)) if ids[at] <= ids[at - 1]]
    return [*ends, len(ids)]
