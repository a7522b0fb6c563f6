"""Carries the jobs of an outbox out, one after another, and tells what becomes of their messages.

A caller that is cancelled before its messages are written takes them back: they are never published. The publishing ids
that they had stay unused, so that ids still grow.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from rstream_core.callbacks import own_task
from rstream_core.checks import MAX_OFFSET
from rstream_core.connecting.recovery import ended
from rstream_core.errors import NotConfirmed, ProtocolError, RstreamError
from rstream_core.producers.losses import LossCount
from rstream_core.producers.outbox_jobs import Confirms, Job, ends_of_runs
from rstream_core.producers.room import Room
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.timeslice import TimeSlice
from rstream_core.types import ConfirmationStatus

_CLOSED_FIRST = "the producer was closed before it was sent"


class JobQueue:
    """The jobs in front of one publisher. A worker, a task of its own, carries them out while there are any."""

    publisher: Publisher

    def __init__(self, room: Room, losses: LossCount, on_left: Callable[[], None]) -> None:
        """``room``: its calls are refused where nothing can be published any more. ``on_left``: called when messages
        have left the queue, so that there may be room."""
        self._room = room
        self._losses = losses
        self._on_left = on_left
        self._confirms = Confirms(losses)
        self.jobs: OrderedDict[Job, None] = OrderedDict()
        """The batches that are not written yet."""
        self.queued_bytes = 0
        """Bytes of the messages of all jobs."""
        self.open = 0
        """Messages in jobs or in flight whose outcome is not known yet."""
        self.has_explicit_ids = False
        """Whether a message brought its own publishing id. Then a rejected id must be published again before others."""
        self._time_slice = TimeSlice()
        """Of the calls whose jobs are carried out at once."""
        self._worker: asyncio.Task[None] | None = None
        self._current: Job | None = None
        """The job that the worker is carrying out."""
        self._is_interrupted = False
        """Whether the worker was cancelled only because a call took back messages of the current job."""

    @property
    def is_dead(self) -> bool:
        """Whether nothing can be published any more."""
        return self.publisher.error is not None or (self.publisher.is_stopped and not self.has_explicit_ids)

    @property
    def worker(self) -> asyncio.Task[None] | None:
        """The task that carries the jobs out; None while there is none that runs."""
        return None if self._worker is None or self._worker.done() else self._worker

    def add(self, job: Job) -> Job:
        self.jobs[job] = None
        self.open += len(job.messages)
        self.queued_bytes += job.size
        self.start_worker()
        return job

    def carry_out_at_once(self, job: Job) -> bool:
        """Publishes a job that is not added, where nothing waits and nothing has to be waited for. Returns whether.

        That saves the worker, which takes several turns of the event loop. Whoever publishes in a loop would then
        never wait: so once in each time slice, the worker does it.
        """
        may = not self.jobs and not self._time_slice.is_over() and job.is_one_run
        if not may or not self.publisher.may_publish_at_once(job.ids, job.size):
            return False
        self.open += len(job.ids)
        self._confirms.register(job, 0, len(job.ids))
        self.publisher.publish_at_once(job.messages, job.ids)
        return True

    async def carried_out(self, job: Job, own: int) -> None:
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
                self._losses.count += job.unheard
                job.unheard = 0
            raise
        except RstreamError as error:
            raise error.with_traceback(None) from error.__cause__  # several callers may raise the same object

    def on_outcome(self, outcome: Outcome) -> None:
        """Calls the callbacks of confirmed and failed messages."""
        self.open -= outcome.confirmed + len(outcome.failed)
        self._confirms.settle(outcome)

    async def stop(self) -> None:
        """Ends the worker, and fails all calls that wait and all jobs."""
        if self.worker is not None:
            self.worker.cancel()
            await ended([self.worker])
        self.give_up(self.end_reason)

    def abandon(self) -> None:
        """Does the same as ``stop`` without waiting for the worker. Repeatable."""
        if self._worker is not None:
            self._worker.cancel()
        self.give_up(self.end_reason)

    @property
    def end_reason(self) -> RstreamError:
        """The error of messages that are not sent because the outbox ends."""
        return self.publisher.error or NotConfirmed(_CLOSED_FIRST)

    def give_up(self, error: Exception) -> None:
        """Fails all calls that wait for room, and all jobs. May be called repeatedly."""
        self._room.refuse(error if isinstance(error, RstreamError) else NotConfirmed(str(error)))
        for job in list(self.jobs):
            self._fail_job(job, error)

    def start_worker(self) -> None:
        """Starts the worker unless it runs. Without jobs it only refuses the calls that wait, where all is over."""
        if self._worker is None or self._worker.done():
            self._worker = own_task(self._work())

    # The worker.

    async def _work(self) -> None:
        """Carries jobs out, in order. An error of a job goes to the calls that wait for the job."""
        self._time_slice.begin()
        try:
            while self.jobs:
                job = self._current = next(iter(self.jobs))
                try:
                    await self._carry_out(job)
                except Exception as error:  # noqa: BLE001 - raised by the calls that wait for the job
                    if self.is_dead:
                        self.give_up(error)
                    else:
                        self._fail_job(job, error)
                except asyncio.CancelledError:
                    if not self._let_go():
                        raise
                else:
                    self._unqueue(job)
                    job.done.set_result(None)
                self._current = None
            if self.is_dead and self._room.waiting:
                try:
                    await self.publisher.check()
                except RstreamError as error:
                    self.give_up(error)
                else:
                    self.give_up(NotConfirmed("an earlier message was rejected; this one was not sent"))
        except BaseException:
            self.give_up(self.end_reason)
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

    async def _carry_out(self, job: Job) -> None:
        """Publishes the unwritten messages of a job. ``job.written`` is correct afterwards, also after an error."""
        for stop in ends_of_runs(job.ids):
            start = job.written
            if stop <= start:
                continue
            ids = job.ids[start:stop]
            if ids[-1] > MAX_OFFSET:  # ids count on from the broker's last one, or from a message's own
                raise ProtocolError(f"no publishing id is left behind {MAX_OFFSET}")
            if ids[0] < self.publisher.next_publishing_id:
                await self.publisher.flush()  # a repeated id: the confirm of the first use must not count for it
            self._confirms.register(job, start, stop)
            job.base = self.publisher.published - start
            try:
                if job.compression is None:
                    filters = job.filter_values and job.filter_values[start:stop]
                    await self.publisher.publish(job.messages[start:stop], publishing_ids=ids, filter_values=filters)
                else:
                    await self.publisher.publish_sub_entry(job.messages, job.compression, publishing_id=ids[0])
            finally:
                self._note_written(job)

    def _note_written(self, job: Job) -> None:
        job.written = min(self.publisher.published - job.base, job.registered)

    # Messages that are not published.

    def _unqueue(self, job: Job) -> None:
        del self.jobs[job]
        self.queued_bytes -= job.size
        self._on_left()

    def _withdraw(self, job: Job, own: int) -> None:
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
        self.queued_bytes -= gone_bytes
        job.size -= gone_bytes
        job.ids, job.messages = job.ids[:left], job.messages[:left]
        job.registered = min(job.registered, left)
        self._on_left()

    def _fail_job(self, job: Job, error: Exception) -> None:
        """Ends a job with an error, which the calls that wait for it raise."""
        count = not job.waiters
        unheard = self._tell_unwritten(job, job.written, str(error), count=count)
        job.unheard = 0 if count else unheard
        self._unqueue(job)
        job.done.set_exception(error)

    def _tell_unwritten(self, job: Job, start: int, reason: str, *, count: bool) -> int:
        """Calls the callbacks of a job's messages from position ``start`` on: they were not sent.

        Returns the number of messages without a callback; with ``count``, they are also counted as lost. Callbacks of
        ids that are not registered yet are left alone: an earlier use of the same id may be in flight.
        """
        callbacks = job.callbacks
        nobody = 0
        self.open -= job.weight * (len(job.ids) - start)
        for place in range(start, len(job.ids)):
            publishing_id = job.ids[place]
            if place < job.registered:
                self._confirms.forget(publishing_id)
            callback = callbacks if callbacks is None or callable(callbacks) else callbacks[place]
            if callback is None:
                nobody += job.weight
            else:
                callback(ConfirmationStatus(publishing_id, was_sent=False))
        if nobody and count:
            self._losses.add(nobody, reason)
        return nobody
