"""Gathers single messages for one publisher into batches, and calls their callbacks with the outcomes.

A call enters the outbox when there is room for its messages. The messages in the outbox and those in flight are
bounded together, by the publisher's bounds. Where there is no room, calls wait in the order in which they came, and
later calls wait behind them. A call that enters gets its publishing ids and queues its job without an await: so the
order of the calls is the order of the messages, however many tasks call. One worker carries the jobs out.

A call that is cancelled before its messages are written takes them back: they are never published. The publishing ids
that they had stay unused, so that ids still grow.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from rstream_core.callbacks import own_task
from rstream_core.checks import MAX_OFFSET
from rstream_core.columns import FRAME_TARGET
from rstream_core.errors import RESPONSE_OK, MessageTooLarge, NotConfirmed, ProtocolError, RstreamError
from rstream_core.hints import Hint
from rstream_core.in_flight import FilterValues, Outcome, grows
from rstream_core.protocol.amqp import AMQPMessage, encode_message
from rstream_core.publisher import Publisher
from rstream_core.recovery import ended
from rstream_core.types import CompressionType, ConfirmationStatus

Message = AMQPMessage | bytes | Any
"""An ``AMQPMessage``, a ``uamqp.Message``, or bytes that are sent as they are."""
ConfirmCallback = Callable[[ConfirmationStatus], Awaitable[None] | None]
"""A callback as the application passes it. ``Callbacks.bind`` makes a ``Told`` of it for the outbox."""
Told = Callable[[ConfirmationStatus], None]
"""Called on the event loop with the outcome of a message; never raises (``Callbacks.bind``)."""

_CLOSED_FIRST = "the producer was closed before it was sent"

JobCallbacks = Told | Sequence[Told | None] | None
"""One callback for all messages of a job, one for each message, or none."""


class _Job:
    """Messages that the worker passes to the publisher in one go, with their publishing ids."""

    __slots__ = (
        "base",
        "callbacks",
        "compression",
        "done",
        "ends_with_repetition",
        "filter_values",
        "ids",
        "is_dropped",
        "messages",
        "registered",
        "size",
        "unheard",
        "waiters",
        "written",
    )

    def __init__(
        self,
        messages: Sequence[bytes],
        size: int,
        ids: Sequence[int],
        callbacks: JobCallbacks,
        *,
        compression: CompressionType | None = None,
        filter_values: FilterValues | None = None,
    ) -> None:
        self.messages = messages
        self.size = size
        """Bytes of the messages."""
        self.filter_values = filter_values
        self.ids = ids
        """One publishing id for each message, or one for a whole sub-entry."""
        self.callbacks = callbacks
        self.compression = compression
        self.registered = self.written = 0
        """How many of the ids have their callbacks registered, and how many have been passed to the publisher."""
        self.base = 0
        """``Publisher.published`` as it was before the job's first message; set while the job is carried out."""
        self.is_dropped = False
        """Whether all of its messages were taken back."""
        self.ends_with_repetition = False
        """Whether its last caller's message repeats an earlier id, and is not for that caller to take back."""
        self.waiters = 0
        """Calls that wait for the job and will raise its error, so that the loss needs no other report."""
        self.unheard = 0
        """Failed messages without a callback, which the waiting calls report by raising the job's error."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a timer's job has no waiter

    @property
    def weight(self) -> int:
        """Messages under one publishing id."""
        return 1 if self.compression is None else len(self.messages)


class Outbox:
    """Bounded queue of single messages, batches and sub-entries in front of one publisher."""

    publisher: Publisher

    def __init__(self, linger: float, batch_size: int, *, max_messages: int, max_bytes: int) -> None:
        self._linger = linger
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # Half of the bounds, so that one batch gathers while another is confirmed.
        self._half_messages = max(max_messages // 2, 1)
        self._half_bytes = max(max_bytes // 2, 1)
        self._batch_size = min(batch_size, self._half_messages)
        self._batch_bytes = min(FRAME_TARGET, self._half_bytes)
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._has_explicit_ids = False
        """Whether a message brought its own publishing id. Then a rejected id must be published again before others."""
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
        self._confirms: dict[int, Told] = {}
        self._jobs: OrderedDict[_Job, None] = OrderedDict()
        self._queued_bytes = 0
        """Bytes of the messages of all jobs."""
        self._open = 0
        """Messages in jobs or in flight whose outcome is not known yet."""
        self._waiting: OrderedDict[asyncio.Future[RstreamError | None], tuple[int, int]] = OrderedDict()
        """Calls that wait for room, in their order, with the number and the bytes of their messages. The result of a
        future is None for a call that may enter, or the error that it must raise."""
        self._coming = 0
        """Calls that were let in and whose tasks have not run since."""
        self._coming_messages = self._coming_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._current: _Job | None = None
        """The job that the worker is carrying out."""
        self._is_interrupted = False
        """Whether the worker was cancelled only because a call took back messages of the current job."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._lost = 0
        self._lost_reason = ""

    def attach(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self._next_id = publisher.next_publishing_id
        self._measure()

    @property
    def error(self) -> RstreamError | None:
        return self.publisher.error

    @property
    def is_dead(self) -> bool:
        return self.publisher.error is not None or (self.publisher.is_stopped and not self._has_explicit_ids)

    @property
    def unsettled(self) -> int:
        """Messages that are neither confirmed nor failed."""
        return self._open + len(self._held)

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
            self._too_large(data, 0, 1)
        if self._lost:
            self._tell_lost()
        explicit = getattr(message, "publishing_id", None)
        if explicit is not None:
            _explicit_id(message)
        held_bytes = self._held_bytes + size
        if held_bytes > self._held_most_bytes and not in_turn:
            if not self._has_room(1, size):
                return self._add_in_turn(message, size, callback, filter_value)
            self._measure()  # ``_held_most_bytes`` was out of date
        held = self._held
        if explicit is not None or self._held_ids is not None:
            if explicit is None or self.publisher.reference is not None:
                self._hold_id(explicit)
            elif callback is not None:  # the broker looks at no id, so the message is counted like others
                callback = _told_as(callback, explicit)
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
        if self._timer is None and not self._jobs:
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
            self._has_explicit_ids = True
        self._held_ids.append(self._next_id)

    async def flush(self) -> None:
        """Makes a job of the held messages, and returns once it and all jobs before it are written."""
        job = self._queue_held()
        while job is not None or self._jobs:
            if job is None:
                job = next(reversed(self._jobs))
            await self._carried_out(job, 0)
            if not job.is_dropped:
                return
            job = None  # it was taken back: jobs before it may still be unwritten
        if self._worker is not None and not self._worker.done():
            await asyncio.shield(self._worker)

    async def publish(
        self, batch: Sequence[Message], callback: Told | None, filter_values: FilterValues | None = None
    ) -> list[int]:
        """Publishes a batch after the held messages, and returns its publishing ids once it is written."""
        encoded = list(map(encode_message, batch))
        sizes = list(map(len, encoded))
        limit = self.publisher.max_message_size
        if encoded and max(sizes) > limit:
            position = next(at for at, size in enumerate(sizes) if size > limit)
            self._too_large(encoded[position], position, len(encoded))
        if self._lost:
            self._tell_lost()
        if not encoded:
            return []
        explicit = list(map(_explicit_id, batch))
        total = sum(sizes)
        if not self._has_room(len(encoded), total):
            await self._wait_for_room(len(encoded), total, explicit, callback)
        self._queue_held()
        counted = range(self._next_id, self._next_id + len(encoded))
        ids: Sequence[int] = counted
        if any(publishing_id is not None for publishing_id in explicit):
            ids = _number(explicit, self._next_id)
        job = _Job(encoded, total, ids, callback, filter_values=filter_values)
        if ids is not counted:
            if self.publisher.reference is None:
                job.ids = counted
                job.callbacks = callback and [_told_as(callback, publishing_id) for publishing_id in ids]
            else:
                self._has_explicit_ids = True
        self._next_id = job.ids[-1] + 1
        _keep_first_of_each_id(job)
        await self._carried_out(self._queue(job), len(job.ids))
        return list(ids)

    async def publish_sub_entry(
        self, messages: Sequence[Message], compression: CompressionType, callback: Told | None
    ) -> int:
        """Publishes one sub-entry after the held messages, and returns its publishing id once it is written."""
        encoded = list(map(encode_message, messages))
        if self._lost:
            self._tell_lost()
        total = sum(map(len, encoded))
        if not self._has_room(len(encoded), total):
            await self._wait_for_room(len(encoded), total, (None,), callback)
        self._queue_held()
        publishing_id = self._next_id
        self._next_id += 1
        job = self._queue(_Job(encoded, total, (publishing_id,), callback, compression=compression))
        await self._carried_out(job, 1)
        return publishing_id

    async def settle(self) -> None:
        """Waits until no message is in flight. Raises ``NotConfirmed`` for losses that nobody was told of."""
        await self.publisher.flush()
        if self._lost:
            self._tell_lost()

    async def close(self, timeout: float) -> None:
        """Lets waiting calls in, publishes the held messages, waits for confirms, and closes the publisher.

        Calls that still wait after ``timeout`` seconds, and messages that are not written or not confirmed by then,
        fail. They also fail if ``close`` is cancelled.
        """
        deadline = self._loop.time() + timeout
        try:
            await self._drain(deadline)
            self._closed = True
            if self._worker is not None and not self._worker.done():
                self._worker.cancel()
                await ended([self._worker])
            self._give_up(self.publisher.error or NotConfirmed(_CLOSED_FIRST))
            await self.publisher.close(max(deadline - self._loop.time(), 0))
        except asyncio.CancelledError:
            self.abandon()
            raise
        if self._lost:
            self._tell_lost()

    def abandon(self) -> None:
        """Closes the outbox and its publisher without waiting: waiting calls and open messages fail. Repeatable."""
        self._queue_held()
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
        self._give_up(self.publisher.error or NotConfirmed(_CLOSED_FIRST))
        self.publisher.abandon()

    async def _drain(self, deadline: float) -> None:
        """Waits until no call waits for room and all jobs are written, or until the deadline (in loop time)."""
        while True:
            self._queue_held()
            pending: asyncio.Future[Any]
            if self._worker is not None and not self._worker.done():
                pending = self._worker
            elif self._waiting:
                pending = next(reversed(self._waiting))
            elif self._coming:
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
        self._open -= outcome.confirmed + len(outcome.failed)
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
        if self._waiting:
            if self.is_dead:  # a rejection has stopped the publisher; the worker tells the waiting calls
                self._start_worker()
            else:
                self._admit()

    def on_end(self, error: RstreamError) -> None:
        """Called when the publisher has ended with an error. The worker then fails the calls that wait for room."""
        if self._waiting:
            self._start_worker()

    # Waiting for room.

    def _has_room(self, messages: int, size: int) -> bool:
        """Returns whether a call may enter now: there is room, and no earlier call waits."""
        return not (self._waiting or self._coming) and self._fits(messages, size)

    def _fits(self, messages: int, size: int) -> bool:
        """Returns whether that many messages and bytes fit the bounds. Into an empty outbox, everything fits.

        A call that is larger than half of the bounds needs only half of them free: it waits until its messages are
        written, so it cannot fill the outbox further.
        """
        there = self._open + len(self._held) + self._coming_messages
        if not there:
            return True
        messages = min(messages, self._half_messages)
        size = min(size, self._half_bytes)
        bytes_there = self.publisher.in_flight_bytes + self._queued_bytes + self._held_bytes + self._coming_bytes
        return there + messages <= self._max_messages and bytes_there + size <= self._max_bytes

    def _measure(self) -> None:
        """Updates how many messages and bytes may be held, given what is queued and in flight."""
        room = self._max_messages - self._open
        if self._waiting or self._coming or len(self._held) >= room:
            self._held_most_bytes = -1
            self._held_most = self._batch_size
        else:
            self._held_most_bytes = self._max_bytes - self.publisher.in_flight_bytes - self._queued_bytes
            self._held_most = min(self._batch_size, room)

    async def _wait_for_room(
        self, messages: int, size: int, explicit: Sequence[int | None], callback: Told | None
    ) -> None:
        """Waits for room, behind earlier calls. The caller must then enter without another await.

        Raises the error that ended the publisher. If cancelled, calls ``callback`` once for each message, with the
        message's ``explicit`` id, or 0 where it has none yet.
        """
        turn: asyncio.Future[RstreamError | None] = self._loop.create_future()
        self._waiting[turn] = messages, size
        self._held_most_bytes = -1
        try:
            refusal = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self._came(messages, size)
            self._waiting.pop(turn, None)
            self._admit()
            if callback is not None:
                for publishing_id in explicit:
                    callback(ConfirmationStatus(publishing_id or 0, was_sent=False))
            raise
        if refusal is None:
            self._came(messages, size)
            if not (self._coming or self._waiting):
                self._measure()
            refusal = self.publisher.error or (NotConfirmed(_CLOSED_FIRST) if self._closed else None)
        if refusal is not None:
            raise refusal.with_traceback(None)  # all waiting calls raise the same object

    def _came(self, messages: int, size: int) -> None:
        self._coming -= 1
        self._coming_messages -= messages
        self._coming_bytes -= size

    def _admit(self) -> None:
        """Lets waiting calls in, from the front, while there is room."""
        while self._waiting and not self.is_dead:
            turn, (messages, size) = next(iter(self._waiting.items()))
            if not turn.cancelled():
                if not self._fits(messages, size):
                    break
                self._coming += 1
                self._coming_messages += messages
                self._coming_bytes += size
                turn.set_result(None)
            del self._waiting[turn]
        self._measure()

    # Inside.

    async def _add_in_turn(self, message: Message, size: int, callback: Told | None, filter_value: str | None) -> None:
        await self._wait_for_room(1, size, (_explicit_id(message),), callback)
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
        return self._carried_out(job, 0 if job.ends_with_repetition else 1)

    def _queue_held(self) -> _Job | None:
        """Makes a job of the held messages and queues it; returns None if there are none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._held
        if not held:
            return None
        ids: Sequence[int] = self._held_ids or range(self._next_id - len(held), self._next_id)
        job = _Job(held, self._held_bytes, ids, self._held_callbacks, filter_values=self._held_filters)
        self._held, self._held_ids, self._held_callbacks, self._held_filters = [], None, None, None
        self._held_bytes = 0
        _keep_first_of_each_id(job)
        return self._queue(job)

    async def _carried_out(self, job: _Job, own: int) -> None:
        """Waits until a job is written, and raises its error.

        A caller that is cancelled takes back its messages, which are the last ``own`` ids of the job. If the job has
        failed by then and no other call waits for it, the next call on the outbox raises the loss.
        """
        job.waiters += 1
        try:
            await asyncio.shield(job.done)
        except asyncio.CancelledError:
            job.waiters -= 1
            if not job.done.done():
                self._withdraw(job, own)
            elif not job.waiters:
                self._lost += job.unheard
                job.unheard = 0
            raise
        except RstreamError as error:
            raise error.with_traceback(None) from error.__cause__  # several callers may raise the same object

    def _queue(self, job: _Job) -> _Job:
        self._jobs[job] = None
        self._open += len(job.messages)
        self._queued_bytes += job.size
        self._measure()
        self._start_worker()
        return job

    def _unqueue(self, job: _Job) -> None:
        del self._jobs[job]
        self._queued_bytes -= job.size
        if self._held and not self._jobs:
            self._start_timer()
        if self._waiting:
            self._admit()

    def _start_worker(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = own_task(self._work())

    async def _work(self) -> None:
        """Carries jobs out, in order. An error of a job goes to the calls that wait for the job."""
        try:
            while self._jobs:
                job = self._current = next(iter(self._jobs))
                try:
                    await self._carry_out(job)
                except Exception as error:  # noqa: BLE001 - raised by the calls that wait for the job
                    if self.is_dead:
                        self._give_up(error)
                    else:
                        self._fail_job(job, error)
                except asyncio.CancelledError:
                    if not self._let_go():
                        raise
                else:
                    self._unqueue(job)
                    job.done.set_result(None)
                self._current = None
            if self.is_dead and self._waiting:
                try:
                    await self.publisher.check()
                except RstreamError as error:
                    self._give_up(error)
                else:
                    self._give_up(NotConfirmed("an earlier message was rejected; this one was not sent"))
        except BaseException:
            self._give_up(self.publisher.error or NotConfirmed(_CLOSED_FIRST))
            raise
        finally:
            self._current = None

    def _let_go(self) -> bool:
        """Returns whether the worker may go on: it was cancelled only because a call took back messages of its job."""
        if not self._is_interrupted:
            return False
        self._is_interrupted = False
        worker = asyncio.current_task()
        assert worker is not None
        return worker.uncancel() == 0

    async def _carry_out(self, job: _Job) -> None:
        """Publishes the unwritten messages of a job. ``job.written`` is correct afterwards, also after an error."""
        for stop in _runs(job.ids):
            start = job.written
            if stop <= start:
                continue
            ids = job.ids[start:stop]
            if ids[-1] > MAX_OFFSET:  # ids count on from the broker's last one, or from a message's own
                raise ProtocolError(f"no publishing id is left behind {MAX_OFFSET}")
            if ids[0] < self.publisher.next_publishing_id:
                await self.publisher.flush()  # a repeated id: the confirm of the first use must not count for it
            self._register(job, start, stop)
            job.base = self.publisher.published - start
            try:
                if job.compression is None:
                    filters = job.filter_values and job.filter_values[start:stop]
                    await self.publisher.publish(job.messages[start:stop], publishing_ids=ids, filter_values=filters)
                else:
                    await self.publisher.publish_sub_entry(job.messages, job.compression, publishing_id=ids[0])
            finally:
                self._note_written(job)

    def _register(self, job: _Job, start: int, stop: int) -> None:
        job.registered = stop
        callbacks = job.callbacks
        if callbacks is None:
            return
        ids = job.ids[start:stop]
        if callable(callbacks):
            self._confirms.update(dict.fromkeys(ids, callbacks))
            return
        for publishing_id, callback in zip(ids, callbacks[start:stop], strict=True):
            if callback is not None:
                self._confirms[publishing_id] = callback

    def _note_written(self, job: _Job) -> None:
        job.written = min(self.publisher.published - job.base, job.registered)

    def _withdraw(self, job: _Job, own: int) -> None:
        """Takes the last ``own`` ids out of a job, unless they are written. Calls the callbacks of their messages.

        The caller knows that its call was cancelled, but not how far its messages came. So where a part of them is
        written, the unwritten ones without a callback are counted as lost.
        """
        if not own:
            return
        if job is self._current:
            if job.registered > job.written:
                self._note_written(job)
            if not self._is_interrupted:
                assert self._worker is not None
                self._is_interrupted = True
                self._worker.cancel()  # from here on it writes nothing more of this job
        size = len(job.ids)
        left = max(size - own, job.written)
        self._tell_unwritten(job, left, "cancelled before they were written", count=left > size - own)
        if left == job.written:
            self._unqueue(job)
            job.is_dropped = not left
            job.done.set_result(None)
            return
        gone_bytes = sum(map(len, job.messages[left:]))
        self._queued_bytes -= gone_bytes
        job.size -= gone_bytes
        job.ids, job.messages = job.ids[:left], job.messages[:left]
        job.registered = min(job.registered, left)
        self._admit()

    def _fail_job(self, job: _Job, error: Exception) -> None:
        """Ends a job with an error, which the calls that wait for it raise."""
        count = not job.waiters
        unheard = self._tell_unwritten(job, job.written, str(error), count=count)
        job.unheard = 0 if count else unheard
        self._unqueue(job)
        job.done.set_exception(error)

    def _tell_unwritten(self, job: _Job, start: int, reason: str, *, count: bool) -> int:
        """Calls the callbacks of a job's messages from position ``start`` on: they were not sent.

        Returns the number of messages without a callback; with ``count``, they are also counted as lost. Callbacks of
        ids that are not registered yet are left in ``_confirms``: an earlier use of the same id may be in flight.
        """
        callbacks = job.callbacks
        nobody = 0
        self._open -= job.weight * (len(job.ids) - start)
        for place in range(start, len(job.ids)):
            publishing_id = job.ids[place]
            if place < job.registered:
                self._confirms.pop(publishing_id, None)
            callback = callbacks if callbacks is None or callable(callbacks) else callbacks[place]
            if callback is None:
                nobody += job.weight
            else:
                callback(ConfirmationStatus(publishing_id, was_sent=False))
        if nobody and count:
            self._lost += nobody
            self._lost_reason = reason
        return nobody

    def _give_up(self, error: Exception) -> None:
        """Fails all calls that wait for room, and all jobs. May be called repeatedly."""
        refusal = error if isinstance(error, RstreamError) else NotConfirmed(str(error))
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(refusal)
        for job in list(self._jobs):
            self._fail_job(job, error)

    def _fail(self, publishing_id: int, code: int, reason: str) -> bool:
        """Calls the callback of a failed message and returns True, or counts the message as lost and returns False."""
        callback = self._confirms.pop(publishing_id, None)
        if callback is not None:
            callback(ConfirmationStatus(publishing_id, False, code))
        else:
            self._lost += 1
            self._lost_reason = reason
        return callback is not None

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        raise NotConfirmed(losses_in_words(lost, self._lost_reason))

    def _too_large(self, data: bytes, position: int, count: int) -> None:
        raise MessageTooLarge(
            f"message {position + 1} of {count} takes {len(data)} bytes; "
            f"the broker's frame size allows {self.publisher.max_message_size}",
            position=position,
            hint=Hint.FRAME_LIMIT,
        )

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._on_linger, context=Context())

    def _on_linger(self) -> None:
        self._timer = None
        if not self._jobs:  # with jobs queued the broker is slow: gather on, until a full outbox makes senders wait
            self._queue_held()


def losses_in_words(count: int, reason: str) -> str:
    """Returns the error text for messages that were lost and had no callback."""
    what = "1 earlier message was" if count == 1 else f"{count} earlier messages were"
    return f"{what} not confirmed: {reason}"


def _explicit_id(message: Message) -> int | None:
    """Returns a message's own publishing id, or None. Raises ``ValueError`` unless it is an int, 0 to 2**64 - 1."""
    given = getattr(message, "publishing_id", None)
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**64):
        raise ValueError(f"a publishing id is an int, 0 to 2**64-1, not {given!r}")
    return given


def _number(explicit: Sequence[int | None], first: int) -> list[int]:
    """Returns the ids of a batch: ``explicit`` ones, and for the others one more than the id before.

    The first one is ``first`` where it is not explicit.
    """
    ids: list[int] = []
    for publishing_id in explicit:
        ids.append(publishing_id if publishing_id is not None else (ids[-1] + 1 if ids else first))
    return ids


def _keep_first_of_each_id(job: _Job) -> None:
    """Leaves out what repeats an id of the same job: the broker would drop it, as it stores one message of an id.

    Writing it would mean to wait for the first one's confirm before, since a repetition's looks the same. What becomes
    of the first is told to those who gave the others; where none of them is to be told, it is one loss.
    """
    ids = job.ids
    if grows(ids):
        return
    places: dict[int, list[int]] = {}
    for place, publishing_id in enumerate(ids):
        places.setdefault(publishing_id, []).append(place)
    if len(places) == len(ids):
        return
    job.ends_with_repetition = places[ids[-1]][0] < len(ids) - 1
    firsts = [where[0] for where in places.values()]
    callbacks = job.callbacks
    if callbacks is not None:
        each = [callbacks] * len(ids) if callable(callbacks) else callbacks
        job.callbacks = [_told_together([each[place] for place in where]) for where in places.values()]
    job.ids = list(places)
    job.messages = [job.messages[place] for place in firsts]
    if job.filter_values is not None:
        job.filter_values = [job.filter_values[place] for place in firsts]
    job.size = sum(map(len, job.messages))


def _told_together(callbacks: Sequence[Told | None]) -> Told | None:
    """One for all of those that are there."""
    there = [callback for callback in callbacks if callback is not None]
    if len(there) < 2:
        return there[0] if there else None

    def tell(status: ConfirmationStatus) -> None:
        for callback in there:
            callback(status)

    return tell


def _told_as(callback: Told, publishing_id: int) -> Told:
    """Told of the id that came with the message, where another was counted for it."""
    return lambda status: callback(status._replace(message_id=publishing_id))


def _runs(ids: Sequence[int]) -> list[int]:
    """Returns the end positions of the runs of growing ids."""
    if type(ids) is range:
        return [len(ids)]
    ends = [at for at in range(1, len(ids)) if ids[at] <= ids[at - 1]]
    return [*ends, len(ids)]
