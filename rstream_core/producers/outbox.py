"""Gathers single messages for one publisher into batches, and calls their callbacks with the outcomes.

A call enters the outbox when there is room for its messages. The messages in the outbox and those in flight are
bounded together, by the publisher's bounds. Where there is no room, calls wait in the order in which they came, and
later calls wait behind them. A call that enters gets its publishing ids and queues its job without an await: so the
order of the calls is the order of the messages, however many tasks call. One worker carries the jobs out.

A call that is cancelled before its messages are written takes them back: they are never published. The publishing ids
that they had stay unused, so that ids still grow.

``Outbox`` is longer than other classes, since ``add`` runs for every message: the messages that are held are no object
of their own, which would cost another call each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextvars import Context
from typing import Any

from rstream_core.errors import RstreamError
from rstream_core.producers.job_queue import JobQueue
from rstream_core.producers.losses import LossCount
from rstream_core.producers.outbox_jobs import (
    Job,
    Message,
    Told,
    batch_job,
    encode_batch,
    explicit_id,
    keep_first_of_each_id,
    told_as,
    too_large,
)
from rstream_core.producers.room import Room
from rstream_core.protocol.amqp import encode_message
from rstream_core.publishing.columns import FRAME_TARGET
from rstream_core.publishing.in_flight import FilterValues, Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.types import CompressionType, ConfirmationStatus


class Outbox:
    """Bounded queue of single messages, batches and sub-entries in front of one publisher."""

    publisher: Publisher

    def __init__(self, linger: float, batch_size: int, *, max_messages: int, max_bytes: int) -> None:
        self._linger = linger
        self._losses = LossCount()
        self._room = Room(max_messages, max_bytes, self._taken)
        self._queue = JobQueue(self._room, self._losses, self._on_left)
        self._batch_size = min(batch_size, self._room.half_messages)
        self._batch_bytes = min(FRAME_TARGET, self._room.half_bytes)
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._held: list[bytes] = []
        self._held_ids: list[int] | None = None
        self._held_callbacks: list[Told | None] | None = None
        self._held_filters: list[str | None] | None = None
        self._held_bytes = 0
        self._held_most = 0
        """How many messages may be held before ``_flush_if_full`` is called."""
        self._held_most_bytes = -1
        """How many bytes may be held; negative while a call waits for room. ``_measure`` updates both. They may be
        lower than what the bounds allow, never higher."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def attach(self, publisher: Publisher) -> None:
        self.publisher = self._queue.publisher = publisher
        self._next_id = publisher.next_publishing_id
        self._measure()

    @property
    def error(self) -> RstreamError | None:
        return self.publisher.error

    @property
    def is_dead(self) -> bool:
        return self._queue.is_dead

    @property
    def unsettled(self) -> int:
        """Messages that are neither confirmed nor failed."""
        return self._queue.open + len(self._held)

    def add(
        self,
        message: Message,
        callback: Told | None,
        filter_value: str | None = None,
        *,
        in_turn: bool = False,
    ) -> Coroutine[Any, Any, None] | None:
        """Adds one message to the next batch.

        Returns None, or a coroutine that the caller must await at once: it waits for room, or until a full batch is
        written.
        """
        data = encode_message(message)
        size = len(data)
        if filter_value is not None:
            self.publisher.require_filters()
        if size > self.publisher.max_message_size:
            raise too_large(data, 0, 1, self.publisher.max_message_size)
        if self._losses.count:
            self._losses.tell()
        explicit = getattr(message, "publishing_id", None)
        if explicit is not None:
            explicit_id(message)
        held_bytes = self._held_bytes + size
        if held_bytes > self._held_most_bytes and not in_turn:
            if not self._room.has_room(1, size):
                return self._add_in_turn(message, size, callback, filter_value)
            self._measure()  # ``_held_most_bytes`` was out of date
        held = self._held
        if explicit is not None or self._held_ids is not None:
            if explicit is None or self.publisher.reference is not None:
                self._hold_id(explicit)
            elif callback is not None:  # the broker looks at no id, so the message is counted like others
                callback = told_as(callback, explicit)
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
        self._held_bytes = held_bytes
        if self._timer is None and not self._queue.jobs:
            self._start_timer()
        if len(held) >= self._held_most or held_bytes >= self._batch_bytes:
            return self._flush_if_full()
        return None

    def _hold_id(self, explicit: int | None) -> None:
        """Beside the message that is about to be held."""
        if self._held_ids is None:
            self._held_ids = list(range(self._next_id - len(self._held), self._next_id))
        if explicit is not None:
            self._next_id = explicit
            self._queue.has_explicit_ids = True
        self._held_ids.append(self._next_id)

    async def flush(self) -> None:
        """Makes a job of the held messages, and returns once it and all jobs before it are written."""
        job = self._queue_held()
        jobs = self._queue.jobs
        while job is not None or jobs:
            if job is None:
                job = next(reversed(jobs))
            await self._queue.carried_out(job, 0)
            if not job.is_dropped:
                return
            job = None  # it was taken back: jobs before it may still be unwritten
        if self._queue.worker is not None:
            await asyncio.shield(self._queue.worker)

    async def publish(
        self, batch: Sequence[Message], callback: Told | None, filter_values: FilterValues | None = None
    ) -> list[int]:
        """Publishes a batch after the held messages, and returns its publishing ids once it is written."""
        encoded = encode_batch(batch, self.publisher.max_message_size)
        if self._losses.count:
            self._losses.tell()
        if not encoded:
            return []
        explicit = list(map(explicit_id, batch))
        total = sum(map(len, encoded))
        if not self._room.has_room(len(encoded), total):
            await self._wait_for_room(len(encoded), total, explicit, callback)
        self._queue_held()
        ids, job = batch_job(
            encoded,
            total,
            explicit,
            self._next_id,
            callback,
            filter_values,
            has_name=self.publisher.reference is not None,
        )
        if job.brings_ids:
            self._queue.has_explicit_ids = True
        self._next_id = job.ids[-1] + 1
        keep_first_of_each_id(job)
        if self._queue.carry_out_at_once(job):
            self._measure()
        else:
            await self._queue.carried_out(self._enqueue(job), len(job.ids))
        return list(ids)

    async def publish_sub_entry(
        self, messages: Sequence[Message], compression: CompressionType, callback: Told | None
    ) -> int:
        """Publishes one sub-entry after the held messages, and returns its publishing id once it is written."""
        encoded = list(map(encode_message, messages))
        if self._losses.count:
            self._losses.tell()
        total = sum(map(len, encoded))
        if not self._room.has_room(len(encoded), total):
            await self._wait_for_room(len(encoded), total, (None,), callback)
        self._queue_held()
        publishing_id = self._next_id
        self._next_id += 1
        job = self._enqueue(Job(encoded, total, (publishing_id,), callback, compression=compression))
        await self._queue.carried_out(job, 1)
        return publishing_id

    async def settle(self) -> None:
        """Waits until no message is in flight. Raises ``NotConfirmed`` for losses that nobody was told of."""
        await self.publisher.flush()
        if self._losses.count:
            self._losses.tell()

    async def close(self, timeout: float) -> None:
        """Lets waiting calls in, publishes the held messages, waits for confirms, and closes the publisher.

        Calls that still wait after ``timeout`` seconds, and messages that are not written or not confirmed by then,
        fail. They also fail if ``close`` is cancelled.
        """
        deadline = self._loop.time() + timeout
        try:
            await self._drain(deadline)
            self._closed = True
            await self._queue.stop()
            await self.publisher.close(max(deadline - self._loop.time(), 0))
        except asyncio.CancelledError:
            self.abandon()
            raise
        if self._losses.count:
            self._losses.tell()

    def abandon(self) -> None:
        """Closes the outbox and its publisher without waiting: waiting calls and open messages fail. Repeatable."""
        self._queue_held()
        self._closed = True
        self._queue.abandon()
        self.publisher.abandon()

    async def _drain(self, deadline: float) -> None:
        """Waits until no call waits for room and all jobs are written, or until the deadline (in loop time)."""
        while True:
            self._queue_held()
            pending: asyncio.Future[Any]
            if self._queue.worker is not None:
                pending = self._queue.worker
            elif self._room.waiting:
                pending = next(reversed(self._room.waiting))
            elif self._room.coming:
                await asyncio.sleep(0)  # the calls that were let in run first
                continue
            else:
                return
            left = deadline - self._loop.time()
            if left <= 0:
                return
            await asyncio.wait([pending], timeout=left)

    def on_outcome(self, outcome: Outcome) -> None:
        """Calls the callbacks of confirmed and failed messages, and lets waiting calls in. The publisher's listener."""
        self._queue.on_outcome(outcome)
        if self._room.waiting:
            if self._queue.is_dead:  # a rejection has stopped the publisher; the worker tells the waiting calls
                self._queue.start_worker()
            else:
                self._admit()

    def on_end(self, error: RstreamError) -> None:
        """Called when the publisher has ended with an error. The worker then fails the calls that wait for room."""
        if self._room.waiting:
            self._queue.start_worker()

    # Waiting for room.

    def _taken(self) -> tuple[int, int]:
        """Messages and bytes that are held, queued or in flight."""
        queue = self._queue
        size = self.publisher.in_flight_bytes + queue.queued_bytes + self._held_bytes
        return queue.open + len(self._held), size

    def _measure(self) -> None:
        """Updates how many messages and bytes may be held, given what is queued and in flight."""
        queue = self._queue
        room = self._room.max_messages - queue.open
        if self._room.has_line or len(self._held) >= room:
            self._held_most_bytes = -1
            self._held_most = self._batch_size
        else:
            self._held_most_bytes = self._room.max_bytes - self.publisher.in_flight_bytes - queue.queued_bytes
            self._held_most = min(self._batch_size, room)

    async def _wait_for_room(
        self, messages: int, size: int, explicit: Sequence[int | None], callback: Told | None
    ) -> None:
        """Waits for room, behind earlier calls. The caller must then enter without another await.

        Raises the error that ended the publisher. If cancelled, calls ``callback`` once for each message, with the
        message's ``explicit`` id, or 0 where it has none yet.
        """
        self._held_most_bytes = -1
        try:
            await self._room.wait(messages, size)
        except asyncio.CancelledError:
            self._admit()
            if callback is not None:
                for publishing_id in explicit:
                    callback(ConfirmationStatus(publishing_id or 0, was_sent=False))
            raise
        if not self._room.has_line:
            self._measure()
        if self.publisher.error is not None or self._closed:
            raise self._queue.end_reason.with_traceback(None)

    def _admit(self) -> None:
        """Lets waiting calls in, while there is room."""
        if not self._queue.is_dead:
            self._room.admit()
        self._measure()

    def _on_left(self) -> None:
        """Called when messages have left the queue."""
        if self._held and not self._queue.jobs:
            self._start_timer()
        self._admit()

    # Inside.

    async def _add_in_turn(self, message: Message, size: int, callback: Told | None, filter_value: str | None) -> None:
        await self._wait_for_room(1, size, (explicit_id(message),), callback)
        try:
            filled = self.add(message, callback, filter_value, in_turn=True)
        except BaseException:
            self._admit()  # its room goes to the next call
            raise
        if filled is not None:
            await filled

    def _flush_if_full(self) -> Coroutine[Any, Any, None] | None:
        """Queues the batch if it is full, and returns a coroutine that waits until it is written; else returns None."""
        if len(self._held) < self._batch_size and self._held_bytes < self._batch_bytes:
            self._measure()
            return None
        job = self._queue_held()
        assert job is not None
        return self._queue.carried_out(job, 0 if job.ends_with_repetition else 1)

    def _queue_held(self) -> Job | None:
        """Makes a job of the held messages and queues it; returns None if there are none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._held
        if not held:
            return None
        ids: Sequence[int] = self._held_ids or range(self._next_id - len(held), self._next_id)
        job = Job(held, self._held_bytes, ids, self._held_callbacks, filter_values=self._held_filters)
        self._held, self._held_ids, self._held_callbacks, self._held_filters = [], None, None, None
        self._held_bytes = 0
        keep_first_of_each_id(job)
        return self._enqueue(job)

    def _enqueue(self, job: Job) -> Job:
        self._queue.add(job)
        self._measure()
        return job

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._on_linger, context=Context())

    def _on_linger(self) -> None:
        self._timer = None
        if not self._queue.jobs:  # else the broker is slow: gather on, until a full outbox makes senders wait
            self._queue_held()
