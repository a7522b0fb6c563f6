"""What is about to go to one publisher, gathered from single messages, and who wants to know what became of it.

The outbox gives out publishing ids and queues jobs without waiting: so the order of the calls is the order of the
messages, however many tasks call. One worker carries the jobs out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any

from rstream_core.callbacks import own_task
from rstream_core.errors import RESPONSE_OK, MessageTooLarge, NotConfirmed, RstreamError
from rstream_core.protocol.amqp import AMQPMessage, encode_message
from rstream_core.publisher import FRAME_TARGET, FilterValues, Outcome, Publisher
from rstream_core.recovery import ended
from rstream_core.types import CompressionType, ConfirmationStatus

Message = AMQPMessage | bytes | Any
"""An ``AMQPMessage``, a ``uamqp.Message``, or bytes that are sent as they are."""
ConfirmCallback = Callable[[ConfirmationStatus], Awaitable[None] | None]
"""As users give it; the outbox is given a ``Told``."""
Told = Callable[[ConfirmationStatus], None]
"""Told what became of a message, on the event loop; never raises (``Callbacks.bind``)."""

_CLOSED_FIRST = "the producer was closed before it was sent"

JobCallbacks = Told | Sequence[Told | None] | None
"""One for all messages of a job, one for each, or none."""


class _Job:
    """Messages on their way to the publisher, with their ids, in the order of the calls."""

    __slots__ = ("callbacks", "compression", "done", "filter_values", "ids", "messages", "waiters")

    def __init__(
        self,
        messages: Sequence[bytes],
        ids: Sequence[int],
        callbacks: JobCallbacks,
        *,
        compression: CompressionType | None = None,
        filter_values: FilterValues | None = None,
    ) -> None:
        self.messages = messages
        self.filter_values = filter_values
        self.ids = ids
        self.callbacks = callbacks
        self.compression = compression
        self.waiters = 0
        """Those who will hear of an error: then it is not told a second time."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a timer's has no reader


class Outbox:
    """The messages of one publisher on their way to it. A caller that is cancelled leaves its messages behind."""

    publisher: Publisher

    def __init__(self, linger: float, batch_size: int) -> None:
        self._linger = linger
        self._batch_size = batch_size
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._has_explicit_ids = False
        """Whether any came with its message: then what was rejected must be published again before others."""
        self._held: list[bytes] = []
        self._held_ids: list[int] | None = None
        self._held_callbacks: list[Told | None] | None = None
        self._held_filters: list[str | None] | None = None
        self._held_bytes = 0
        self._confirms: dict[int, Told] = {}
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
        return self.publisher.error is not None or (self.publisher.is_stopped and not self._has_explicit_ids)

    def add(self, message: Message, callback: Told | None, filter_value: str | None = None) -> bool:
        """Holds one message back, and returns whether it is time for ``flush``."""
        data = encode_message(message)
        if filter_value is not None:
            self.publisher.require_filters()
        if len(data) > self.publisher.max_message_size:
            self._too_large(data, 0, 1)
        if self._lost:
            self._tell_lost()
        held = self._held
        explicit = _explicit_id(message)
        if explicit is not None or self._held_ids is not None:
            if self._held_ids is None:
                self._held_ids = list(range(self._next_id - len(held), self._next_id))
            if explicit is not None:
                self._next_id = explicit
                self._has_explicit_ids = True
            self._held_ids.append(self._next_id)
        self._next_id += 1
        if callback is not None or self._held_callbacks is not None:
            if self._held_callbacks is None:
                self._held_callbacks = [None] * len(held)
            self._held_callbacks.append(callback)
        if filter_value is not None or self._held_filters is not None:
            if self._held_filters is None:
                self._held_filters = [None] * len(held)
            self._held_filters.append(filter_value)
        held.append(data)
        self._held_bytes += len(data)
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._on_linger, context=Context())
        return len(held) >= self._batch_size or self._held_bytes >= FRAME_TARGET

    async def flush(self) -> None:
        """Publishes what is held back; returns once it, and all before it, is written."""
        job = self._queue_held()
        if job is None and self._jobs:
            job = self._jobs[-1]
        if job is not None:
            await self._carried_out(job)
        elif self._worker is not None and not self._worker.done():
            await asyncio.shield(self._worker)

    async def publish(
        self, batch: Sequence[Message], callback: Told | None, filter_values: FilterValues | None = None
    ) -> list[int]:
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
        explicit = list(map(_explicit_id, batch))
        ids: Sequence[int] = range(self._next_id, self._next_id + len(encoded))
        if any(publishing_id is not None for publishing_id in explicit):
            ids = _number(explicit, self._next_id)
            self._has_explicit_ids = True
        self._next_id = ids[-1] + 1
        await self._carried_out(self._queue(_Job(encoded, ids, callback, filter_values=filter_values)))
        return list(ids)

    async def publish_sub_entry(
        self, messages: Sequence[Message], compression: CompressionType, callback: Told | None
    ) -> int:
        """Publishes one sub-entry after what is held back."""
        encoded = list(map(encode_message, messages))
        if self._lost:
            self._tell_lost()
        self._queue_held()
        publishing_id = self._next_id
        self._next_id += 1
        await self._carried_out(self._queue(_Job(encoded, (publishing_id,), callback, compression=compression)))
        return publishing_id

    async def settle(self) -> None:
        """Waits for what is in flight."""
        await self.publisher.flush()
        if self._lost:
            self._tell_lost()

    async def close(self, timeout: float) -> None:
        """Publishes what is held, waits for confirms, and ends the publisher; what is left then has failed."""
        self._queue_held()
        if self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker], timeout=timeout)
            self._worker.cancel()
            await ended([self._worker])
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
                    callback(ConfirmationStatus(publishing_id, True, RESPONSE_OK))
        told = None
        for failure in outcome.failed:
            if failure.publishing_id != told and self._fail(failure.publishing_id, failure.code, failure.reason):
                told = failure.publishing_id  # the messages of a sub-entry share one id, and one callback

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
        job = _Job(held, ids, self._held_callbacks, filter_values=self._held_filters)
        self._held, self._held_ids, self._held_callbacks, self._held_filters = [], None, None, None
        self._held_bytes = 0
        return self._queue(job)

    async def _carried_out(self, job: _Job) -> None:
        """Waits for a job. A caller that is cancelled leaves it behind, and its failure is told by the next call."""
        job.waiters += 1
        try:
            await asyncio.shield(job.done)
        except asyncio.CancelledError:
            job.waiters -= 1
            raise

    def _queue(self, job: _Job) -> _Job:
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = own_task(self._work())
        return job

    async def _work(self) -> None:
        """Carries jobs out, in order. Their errors go to whoever waits for them."""
        while self._jobs:
            job = self._jobs[0]
            try:
                await self._carry_out(job)
            except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the job
                job.done.set_exception(error)
            except BaseException:
                job.done.set_exception(NotConfirmed(_CLOSED_FIRST))
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
                    filters = job.filter_values and job.filter_values[start:stop]
                    await self.publisher.publish(job.messages[start:stop], publishing_ids=ids, filter_values=filters)
                else:
                    await self.publisher.publish_sub_entry(job.messages, job.compression, publishing_id=ids[0])
            except BaseException as error:
                reason = str(error) or _CLOSED_FIRST
                self._register(job.ids[stop:], job.callbacks, stop)
                for publishing_id in job.ids[start + self.publisher.published - before :]:
                    self._fail(publishing_id, 0, reason, count=not job.waiters)
                raise
            start = stop

    def _register(self, ids: Sequence[int], callbacks: JobCallbacks, start: int) -> None:
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
                self._fail(publishing_id, 0, _CLOSED_FIRST, count=not job.waiters)
            job.done.set_exception(NotConfirmed(_CLOSED_FIRST))
        self._jobs.clear()

    def _fail(self, publishing_id: int, code: int, reason: str, *, count: bool = True) -> bool:
        """Tells of a message that failed, or counts it; whether there was a callback to tell."""
        callback = self._confirms.pop(publishing_id, None)
        if callback is not None:
            callback(ConfirmationStatus(publishing_id, False, code))
        elif count:
            self._lost += 1
            self._lost_reason = reason
        return callback is not None

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
        if self._jobs:  # the broker is slow: hold on, so that a full outbox makes its senders wait
            self._timer = self._loop.call_later(self._linger, self._on_linger, context=Context())
        else:
            self._queue_held()


def _explicit_id(message: Message) -> int | None:
    """The publishing id that a message brings, checked: a wrong one must not get into the counting."""
    given = getattr(message, "publishing_id", None)
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**64):
        raise ValueError(f"a publishing id is an int, 0 to 2**64-1, not {given!r}")
    return given


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
