"""What is about to go to one publisher, gathered from single messages, and who wants to know what became of it.

A call enters the outbox when there is room for its messages: what waits here and what is in flight are bounded
together, by the publisher's bounds. Where there is none, calls wait for their turn, in the order in which they came,
and nobody overtakes them. A call that enters gets its publishing ids and queues its job without waiting: so the order
of the calls is the order of the messages, however many tasks call. One worker carries the jobs out.

A call that is cancelled before its messages are written takes them back: they are never published. Ids that were
given out to them stay unused, so that the others still grow.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from rstream_core.callbacks import own_task
from rstream_core.checks import MAX_OFFSET
from rstream_core.errors import RESPONSE_OK, MessageTooLarge, NotConfirmed, ProtocolError, RstreamError
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
        """One for each message, or one for a whole sub-entry."""
        self.callbacks = callbacks
        self.compression = compression
        self.registered = self.written = 0
        """How many of the ids have their callbacks registered; how many are the publisher's by now."""
        self.base = 0
        """What the publisher had published before the first of them, while this is carried out."""
        self.is_dropped = False
        """Whether it was taken back as a whole."""
        self.ends_with_repetition = False
        """Whether its last caller's message is one that was there before, and not for that caller to take back."""
        self.waiters = 0
        """Those who will hear of an error: then it is not told a second time."""
        self.unheard = 0
        """Messages that failed and were left to those to be told."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a timer's has no reader

    @property
    def weight(self) -> int:
        """Messages behind one id."""
        return 1 if self.compression is None else len(self.messages)


class Outbox:
    """The messages of one publisher on their way to it."""

    publisher: Publisher

    def __init__(self, linger: float, batch_size: int, *, max_messages: int, max_bytes: int) -> None:
        self._linger = linger
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # Halves, so that one batch gathers while another is confirmed.
        self._half_messages = max(max_messages // 2, 1)
        self._half_bytes = max(max_bytes // 2, 1)
        self._batch_size = min(batch_size, self._half_messages)
        self._batch_bytes = min(FRAME_TARGET, self._half_bytes)
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._has_explicit_ids = False
        """Whether any came with its message: then what was rejected must be published again before others."""
        self._held: list[bytes] = []
        self._held_ids: list[int] | None = None
        self._held_callbacks: list[Told | None] | None = None
        self._held_filters: list[str | None] | None = None
        self._held_bytes = 0
        self._held_most = 0
        """How many messages may be held until there is something to do: see ``_flush_if_full``."""
        self._held_most_bytes = -1
        """How many bytes may be held; below 0 where somebody waits. Both are measured now and then, never too high."""
        self._confirms: dict[int, Told] = {}
        self._jobs: OrderedDict[_Job, None] = OrderedDict()
        self._queued_bytes = 0
        """What the jobs hold."""
        self._open = 0
        """Messages of jobs, and of the publisher, of which it is not known what becomes of them."""
        self._waiting: OrderedDict[asyncio.Future[RstreamError | None], tuple[int, int]] = OrderedDict()
        """Those who wait for room, in the order of the calls, with their messages and bytes; each is told
        None, or why there is no room."""
        self._coming = 0
        """How many have been let in, and have not run yet."""
        self._coming_messages = self._coming_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._current: _Job | None = None
        """What the worker carries out."""
        self._is_interrupted = False
        """Whether the worker was cancelled to let go of what was taken back."""
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
        """Holds one message back. What it returns is to be awaited at once: room has to be waited for, or a batch."""
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
            self._measure()  # it lagged behind
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
        """Publishes what is held back; returns once it, and all before it, is written."""
        job = self._queue_held()
        while job is not None or self._jobs:
            if job is None:
                job = next(reversed(self._jobs))
            await self._carried_out(job, 0)
            if not job.is_dropped:
                return
            job = None  # it was taken back, and says nothing of those before it
        if self._worker is not None and not self._worker.done():
            await asyncio.shield(self._worker)

    async def publish(
        self, batch: Sequence[Message], callback: Told | None, filter_values: FilterValues | None = None
    ) -> list[int]:
        """Publishes a batch after what is held back."""
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
        """Publishes one sub-entry after what is held back."""
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
        """Waits for what is in flight."""
        await self.publisher.flush()
        if self._lost:
            self._tell_lost()

    async def close(self, timeout: float) -> None:
        """Lets in who waits, publishes what is held, waits for confirms, and ends the publisher.

        After ``timeout`` seconds whoever waits still, and what is left, has failed; so it has where this is cancelled.
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
        """Closes it at once, without waiting: whoever waits, and what is left, has failed. May be repeated."""
        self._queue_held()
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
        self._give_up(self.publisher.error or NotConfirmed(_CLOSED_FIRST))
        self.publisher.abandon()

    async def _drain(self, deadline: float) -> None:
        """Until nobody waits, and all is written; or until the deadline."""
        while True:
            self._queue_held()
            pending: asyncio.Future[Any]
            if self._worker is not None and not self._worker.done():
                pending = self._worker
            elif self._waiting:
                pending = next(reversed(self._waiting))
            elif self._coming:
                await asyncio.sleep(0)  # they run before this goes on
                continue
            else:
                return
            left = deadline - self._loop.time()
            if left <= 0:
                return
            await asyncio.wait([pending], timeout=left)

    def on_outcome(self, outcome: Outcome) -> None:
        """The publisher's listener."""
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
            if self.is_dead:  # what was rejected has stopped it
                self._start_worker()
            else:
                self._admit()

    def on_end(self, error: RstreamError) -> None:
        """The publisher's: it has ended by itself. Whoever waits for room is told by the worker."""
        if self._waiting:
            self._start_worker()

    # Who may enter.

    def _has_room(self, messages: int, size: int) -> bool:
        """Whether a call may enter now, and does not overtake anybody."""
        return not (self._waiting or self._coming) and self._fits(messages, size)

    def _fits(self, messages: int, size: int) -> bool:
        """Whether there is room for so much; where nothing is there, for anything.

        For a call that is larger than half of the bounds, half is enough: it waits for its messages to be written.
        """
        there = self._open + len(self._held) + self._coming_messages
        if not there:
            return True
        messages = min(messages, self._half_messages)
        size = min(size, self._half_bytes)
        bytes_there = self.publisher.in_flight_bytes + self._queued_bytes + self._held_bytes + self._coming_bytes
        return there + messages <= self._max_messages and bytes_there + size <= self._max_bytes

    def _measure(self) -> None:
        """Sets how much may be held, by what else there is."""
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
        """Waits for room, behind those who came before. The caller enters without waiting for anything else.

        Raises what ended the publisher. One that is cancelled tells ``callback`` of each message; those without an
        ``explicit`` id have none yet, and are told as 0.
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
            raise refusal.with_traceback(None)  # it is the same one for all

    def _came(self, messages: int, size: int) -> None:
        self._coming -= 1
        self._coming_messages -= messages
        self._coming_bytes -= size

    def _admit(self) -> None:
        """Lets in as many of those who wait as there is room for."""
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
            self._admit()  # what it leaves is for the next one
            raise
        if filled is not None:
            await filled

    def _flush_if_full(self) -> Coroutine[Any, Any, None] | None:
        """A batch is full, and its last caller waits until it is written; or only the bound is reached."""
        if len(self._held) < self._batch_size and self._held_bytes < self._batch_bytes:
            self._measure()
            return None
        job = self._queue_held()
        assert job is not None
        return self._carried_out(job, 0 if job.ends_with_repetition else 1)

    def _queue_held(self) -> _Job | None:
        """Makes a job of what is held back; None where nothing is."""
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
        """Waits for a job. A caller that is cancelled takes back its ``own`` messages, the last ones of it.

        Where the job has failed by then, and nobody else hears of it, that is told by the next call.
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
            raise error.with_traceback(None) from error.__cause__  # it may be the same one for many

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
        """Carries jobs out, in order. Their errors go to whoever waits for them."""
        try:
            while self._jobs:
                job = self._current = next(iter(self._jobs))
                try:
                    await self._carry_out(job)
                except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the job
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
        """Whether the worker was cancelled only so that it lets go of what was taken back: it goes on with the rest."""
        if not self._is_interrupted:
            return False
        self._is_interrupted = False
        worker = asyncio.current_task()
        assert worker is not None
        return worker.uncancel() == 0

    async def _carry_out(self, job: _Job) -> None:
        """Publishes what of a job is not written; ``written`` says how far that came."""
        for stop in _runs(job.ids):
            start = job.written
            if stop <= start:
                continue
            ids = job.ids[start:stop]
            if ids[-1] > MAX_OFFSET:  # counted on from what the broker knows, or from a message's own
                raise ProtocolError(f"no publishing id is left behind {MAX_OFFSET}")
            if ids[0] < self.publisher.next_publishing_id:
                await self.publisher.flush()  # a repetition: the first one's confirm must not be taken for its
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
        """Takes the last ``own`` ids out of a job, as far as they are not written. The caller knows that it asked.

        It does not know how far that came: where a part of its messages is written, the others are told, or counted.
        """
        if not own:
            return
        if job is self._current:
            if job.registered > job.written:
                self._note_written(job)
            if not self._is_interrupted:
                assert self._worker is not None
                self._is_interrupted = True
                self._worker.cancel()  # it writes nothing more from here on
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
        """Ends a job with an error."""
        count = not job.waiters
        unheard = self._tell_unwritten(job, job.written, str(error), count=count)
        job.unheard = 0 if count else unheard
        self._unqueue(job)
        job.done.set_exception(error)

    def _tell_unwritten(self, job: _Job, start: int, reason: str, *, count: bool) -> int:
        """Tells the callbacks of the messages of a job from ``start`` on, or counts them where that is asked for.

        Returns how many have no callback. Ids that others have, too, are not looked up: the others may be in flight.
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
        """Tells all who wait for room, and fails all jobs. May be repeated."""
        refusal = error if isinstance(error, RstreamError) else NotConfirmed(str(error))
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(refusal)
        for job in list(self._jobs):
            self._fail_job(job, error)

    def _fail(self, publishing_id: int, code: int, reason: str) -> bool:
        """Tells of a message that failed, or counts it; whether there was a callback to tell."""
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
        )

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._on_linger, context=Context())

    def _on_linger(self) -> None:
        self._timer = None
        if not self._jobs:  # else the broker is slow: hold on, so that a full outbox makes its senders wait
            self._queue_held()


def losses_in_words(count: int, reason: str) -> str:
    """What is told of messages that nobody was told of one by one."""
    what = "1 earlier message was" if count == 1 else f"{count} earlier messages were"
    return f"{what} not confirmed: {reason}"


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


def _keep_first_of_each_id(job: _Job) -> None:
    """Leaves out what repeats an id of the same job: the broker would drop it, as it stores one message of an id.

    Writing it would mean to wait for the first one's confirm before, since a repetition's looks the same. What becomes
    of the first is told to those who gave the others; where none of them is to be told, it is one loss.
    """
    ids = job.ids
    if type(ids) is range:  # counted
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
    """Where each run of growing ids ends."""
    if type(ids) is range:
        return [len(ids)]
    ends = [at for at in range(1, len(ids)) if ids[at] <= ids[at - 1]]
    return [*ends, len(ids)]
