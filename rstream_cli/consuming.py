"""The engine of ``consume``: chunks in, blocks of bytes out to stdout, offsets stored behind what stdout has taken.

The unit is the chunk: cut to what is wanted, rendered as one block, written, and only then counted, stored and
credited. So memory holds a chunk or so whatever the reader of stdout does, and a stored offset never passes what was
written. While a write waits, the event loop goes on answering heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from rstream_cli.ending import Ended, signal_name, within
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.output import Output
from rstream_cli.parsing import OffsetKind, OffsetSpec, UntilKind, UntilSpec
from rstream_cli.render.display import Display
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import Batch, NotAmqpError, Renderer
from rstream_cli.runner import CommandContext
from rstream_core import (
    Chunk,
    Client,
    ConsumerOffsetSpecification,
    OffsetNotFound,
    OffsetType,
    RequestTimeout,
    RstreamError,
    Subscription,
)

_GRACE = 2.0
"""Seconds that a reader of stdout has, once the run is to end, to take what is being written."""
_STORE_TIMEOUT = 5.0
_BRIEFLY = 0.5
"""Seconds for saying goodbye to a broker, where the run is to end now."""


@dataclass(frozen=True, slots=True)
class StoreEvery:
    """``--store-every``: after so many messages, or so many seconds."""

    messages: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ConsumePlan:
    """What the options said, all checked."""

    stream: str
    start: OffsetSpec
    render: Renderer
    until: UntilSpec | None = None
    count: int | None = None
    idle_timeout: float | None = None
    timeout: float | None = None
    name: str | None = None
    store_every: StoreEvery = field(default_factory=StoreEvery)
    credit: int = 10
    unbuffered: bool = False


class _Nothing(Exception):
    """The place to stop lies before the place to start."""


@dataclass
class ConsumeRun:
    """One run. ``work`` is called once."""

    plan: ConsumePlan
    context: CommandContext
    stats: Stats
    display: Display
    _end: int | None = None
    """The last offset that is wanted, where it is known."""
    _until_time: int | None = None
    """Messages of later chunks are not wanted: milliseconds since 1970."""
    _before_start: int = -1
    """An offset that is known to lie before the first message to come."""
    _ended: Ended | None = None
    """Why to stop, set by whoever notices first."""
    _scope: asyncio.Timeout | None = None
    """The wait that ``_stop`` ends."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _last_arrival: float = 0.0
    _unstored: int = 0
    _stored_at: float = 0.0
    _first_offset: int | None = None

    @property
    def _counts(self) -> ConsumeCounts:
        assert isinstance(self.stats.counts, ConsumeCounts)
        return self.stats.counts

    async def work(self) -> Ended:
        """Reads what is wanted, and says how that ended."""
        loop = asyncio.get_running_loop()
        plan = self.plan
        signals = asyncio.create_task(self._watch_signals())
        timer = None
        if plan.timeout is not None:
            ran_out = Ended(f"--timeout of {plan.timeout:g} s ran out", ExitStatus.TIMED_OUT)
            timer = loop.call_later(plan.timeout, self._stop, ran_out)
        client = Client(self.context.connection_options)
        output = Output(lambda: self._stop(Ended("stdout was closed", ExitStatus.STDOUT_CLOSED, BrokenPipeError())))
        try:
            return await self._run(client, output)
        finally:
            signals.cancel()
            if timer is not None:
                timer.cancel()
            output.close()
            await within(_BRIEFLY if self.context.interrupt.forced else None, client.close())

    async def _run(self, client: Client, output: Output) -> Ended:
        try:
            async with self._interruptible(None):
                subscription = await self._open(client)
        except TimeoutError:
            if self._ended is None:
                raise
            return self._ended
        except _Nothing:
            return Ended("there is nothing to read")
        self.display.start()
        problem: BaseException | None = None
        ended: Ended | None = None
        try:
            ended = await self._read(client, subscription, output)
        except RstreamError as error:
            problem = error
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise
            return Ended(f"{signal_name(self.context)} twice, stopped at once")
        finally:
            if not self.context.interrupt.forced:
                await subscription.close()
        if ended is None or ended.status is not ExitStatus.STDOUT_CLOSED:
            # What was in a pipe whose reader left is lost: there the offsets stay as they were.
            await self._store_the_last(client, quietly=problem is not None)
        if problem is not None:
            raise problem
        assert ended is not None
        return ended

    # What ends the run from outside.

    async def _watch_signals(self) -> None:
        await self.context.interrupt.requested.wait()
        self._stop(Ended(signal_name(self.context)))

    def _stop(self, ended: Ended) -> None:
        """Ends the run at the next place where it can; the first reason counts."""
        if self._ended is None:
            self._ended = ended
        self._stopping.set()
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._scope.reschedule(asyncio.get_running_loop().time())

    def _interruptible(self, deadline: float | None) -> asyncio.Timeout:
        """A timeout that ``_stop`` brings forward."""
        now = asyncio.get_running_loop().time()
        self._scope = asyncio.timeout_at(now if self._ended is not None else deadline)
        return self._scope

    # Where to start and to stop.

    async def _open(self, client: Client) -> Subscription:
        plan = self.plan
        await client.start()
        await client.metadata(plan.stream)  # a stream that does not exist is an error, also where nothing is to be read
        await self._resolve_until(client)
        if plan.count == 0:
            raise _Nothing
        spec = await self._resolve_start(client)
        end = self._end
        if end is not None and (
            spec.offset_type is OffsetType.NEXT or (spec.offset_type is OffsetType.OFFSET and (spec.offset or 0) > end)
        ):
            raise _Nothing
        subscription = await client.subscribe(plan.stream, spec, credit=plan.credit)
        if end is not None and spec.offset_type is OffsetType.TIMESTAMP and not await subscription.barrier():
            await subscription.close()
            raise _Nothing
        if self._until_time is not None and end is None:
            self._before_start = await self._find_before_start(client, subscription, spec)
        loop = asyncio.get_running_loop()
        self._last_arrival = self._stored_at = loop.time()
        return subscription

    async def _find_before_start(
        self, client: Client, subscription: Subscription, spec: ConsumerOffsetSpecification
    ) -> int:
        """For the moment when the time of ``--until`` comes and no message has come: was there one to wait for?"""
        if spec.offset_type is OffsetType.OFFSET:
            return (spec.offset or 0) - 1
        if spec.offset_type not in (OffsetType.NEXT, OffsetType.TIMESTAMP) or await subscription.barrier():
            return -1
        last = await client.last_offset(self.plan.stream)
        return -1 if last is None else last

    async def _resolve_until(self, client: Client) -> None:
        until = self.plan.until
        if until is None:
            return
        if until.kind is UntilKind.ABSOLUTE:
            self._end = until.value
            return
        if until.kind is UntilKind.TIMESTAMP:
            self._until_time = until.value
            if until.value > self._now_ms():
                return  # messages of that time may yet come
        self._end = await client.last_offset(self.plan.stream)
        if self._end is None:
            raise _Nothing

    def _now_ms(self) -> int:
        return int(self.context.env.now() * 1000)

    async def _resolve_start(self, client: Client) -> ConsumerOffsetSpecification:
        plan, start = self.plan, self.plan.start
        if start.kind is OffsetKind.ABSOLUTE:
            return ConsumerOffsetSpecification(OffsetType.OFFSET, start.value)
        if start.kind is OffsetKind.TIMESTAMP:
            return ConsumerOffsetSpecification(OffsetType.TIMESTAMP, start.value)
        if start.kind is OffsetKind.STORED:
            assert plan.name is not None
            try:
                stored = await client.query_offset(plan.stream, plan.name)
            except OffsetNotFound:
                return ConsumerOffsetSpecification(OffsetType.FIRST)
            return ConsumerOffsetSpecification(OffsetType.OFFSET, stored + 1)
        if start.kind is OffsetKind.LAST_N:
            offset = await client.tail_offset(plan.stream, start.value)
            if offset is None:
                return ConsumerOffsetSpecification(OffsetType.FIRST)
            return ConsumerOffsetSpecification(OffsetType.OFFSET, offset)
        return ConsumerOffsetSpecification(
            {
                OffsetKind.FIRST: OffsetType.FIRST,
                OffsetKind.LAST: OffsetType.LAST,
                OffsetKind.NEXT: OffsetType.NEXT,
            }[start.kind]
        )

    # Reading.

    async def _read(self, client: Client, subscription: Subscription, output: Output) -> Ended:
        while self._ended is None:
            chunk = await self._next_chunk(client, subscription)
            if chunk is None:
                continue
            self._last_arrival = asyncio.get_running_loop().time()
            messages, ended = self._cut(chunk)
            if messages:
                batch = Batch(chunk.stream, chunk.offset, chunk.timestamp, messages)
                await self._put_out(output, batch)
                self._counts.chunks += 1
                self._last_arrival = asyncio.get_running_loop().time()
                await self._store_if_due(client)
            if ended is not None and self._ended is None:
                return ended
        return self._ended

    async def _next_chunk(self, client: Client, subscription: Subscription) -> Chunk | None:
        """The next one; None where something else was due, or the run has ended."""
        try:
            async with self._interruptible(self._deadline()):
                return await anext(subscription)
        except TimeoutError:
            pass
        if self._ended is not None:
            return None
        now = asyncio.get_running_loop().time()
        await self._store_if_due(client)
        if self._until_time is not None and self._end is None and self._now_ms() > self._until_time:
            # That time has come. Whatever the stream holds by now is all that can be wanted.
            self._end = await client.last_offset(self.plan.stream)
            consumed = self._counts.last_offset
            if self._end is None or max(self._before_start, -1 if consumed is None else consumed) >= self._end:
                self._stop(Ended("--until is reached"))
        idle = self.plan.idle_timeout
        if idle is not None and now >= self._last_arrival + idle:
            self._stop(Ended(f"no message for {idle:g} s"))
        return None

    def _deadline(self) -> float | None:
        """When to look around, if no chunk comes first."""
        plan = self.plan
        loop = asyncio.get_running_loop()
        times: list[float] = []
        if plan.idle_timeout is not None:
            times.append(self._last_arrival + plan.idle_timeout)
        if self._unstored and plan.store_every.seconds is not None:
            times.append(self._stored_at + plan.store_every.seconds)
        if self._until_time is not None and self._end is None:
            times.append(loop.time() + max(self._until_time - self._now_ms(), 0) / 1000 + 0.001)
        return min(times, default=None)

    def _cut(self, chunk: Chunk) -> tuple[Sequence[bytes], Ended | None]:
        """The messages that are wanted, and the end if it is reached with them."""
        plan, messages = self.plan, chunk.messages
        ended: Ended | None = None
        if self._until_time is not None and chunk.timestamp > self._until_time:
            return (), Ended("--until is reached")
        if self._end is not None and chunk.last_offset >= self._end:
            ended = Ended("--until is reached")
            messages = messages[: max(self._end - chunk.offset + 1, 0)]
        if plan.count is not None:
            room = plan.count - self._counts.consumed
            if len(messages) >= room:
                ended = Ended("--count is reached")
                messages = messages[:room]
        if self._first_offset is None:
            self._first_offset = chunk.offset
            self._expect(chunk.offset)
        return messages, ended

    def _expect(self, first: int) -> None:
        """How many messages there are to come, for the progress bar."""
        totals = [] if self._end is None else [self._end - first + 1]
        if self.plan.count is not None:
            totals.append(self.plan.count)
        if totals:
            self.stats.total = max(min(totals), 0)

    # Writing.

    async def _put_out(self, output: Output, batch: Batch) -> None:
        """Renders and writes the messages. Those before one that is not AMQP are written, then CommandError."""
        parts: list[Batch] = [batch]
        if self.plan.unbuffered:
            parts = [
                batch._replace(offset=batch.offset + index, messages=(message,))
                for index, message in enumerate(batch.messages)
            ]
        for part in parts:
            try:
                data = self.plan.render(part)
            except NotAmqpError as error:
                if error.index:
                    good = part._replace(messages=part.messages[: error.index])
                    await self._write(output, self.plan.render(good), good)
                number = part.offset + error.index
                raw = CommandError(
                    f"the message at offset {number} is not AMQP 1.0: {error}",
                    hint="--codec raw takes messages as they are",
                    status=ExitStatus.BAD_RECORD,
                )
                self._stop(Ended(str(raw), ExitStatus.BAD_RECORD, raw))
                return
            if not await self._write(output, data, part):
                return

    async def _write(self, output: Output, data: bytes, batch: Batch) -> bool:
        """Writes a block and counts its messages. False where the reader did not take it before the run ended."""
        try:
            written = output.write(data)
            if written is not None and not await self._finished(written):
                return False
        except BrokenPipeError as error:
            self._stop(Ended("stdout was closed", ExitStatus.STDOUT_CLOSED, error))
            return False
        except OSError as error:
            problem = CommandError(f"standard output: {error.strerror}", status=ExitStatus.INTERNAL)
            self._stop(Ended(str(problem), ExitStatus.INTERNAL, problem))
            return False
        counts = self._counts
        counts.consumed += len(batch.messages)
        counts.last_offset = batch.offset + len(batch.messages) - 1
        self._unstored += len(batch.messages)
        self.stats.bytes += len(data)
        self.stats.done = counts.consumed
        return True

    async def _finished(self, written: asyncio.Future[None]) -> bool:
        """Waits for a write; where the run is to end, the reader of stdout has a moment left."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            if not self._stopping.is_set():
                await asyncio.wait((written, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not written.done():
                await asyncio.wait((written,), timeout=_GRACE)
        finally:
            stopping.cancel()
        if not written.done():
            return False
        written.result()
        return True

    # Storing offsets.

    async def _store_if_due(self, client: Client) -> None:
        every = self.plan.store_every
        if not self._unstored or self.plan.name is None:
            return
        due = every.messages is not None and self._unstored >= every.messages
        if every.seconds is not None:
            due = due or asyncio.get_running_loop().time() >= self._stored_at + every.seconds
        if due:
            await self._store(client)

    async def _store(self, client: Client) -> None:
        last = self._counts.last_offset
        assert last is not None
        assert self.plan.name is not None
        await client.store_offset(self.plan.stream, self.plan.name, last)
        self._counts.stored_offset = last
        self._unstored = 0
        self._stored_at = asyncio.get_running_loop().time()

    async def _store_the_last(self, client: Client, *, quietly: bool) -> None:
        """At the end: the broker does not answer a store, so ask it. ``quietly``: it is lost anyway, try."""
        name, last = self.plan.name, self._counts.last_offset
        if name is None or last is None:
            return
        try:
            async with asyncio.timeout(_STORE_TIMEOUT):
                if self._unstored:
                    await self._store(client)
                while await self._query(client, name) != last:  # noqa: ASYNC110 - the broker does not announce it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            if not quietly:
                raise RequestTimeout(
                    f"offset {last} was not stored under {name!r} within {_STORE_TIMEOUT:g} s"
                ) from None
        except RstreamError:
            if not quietly:
                raise

    async def _query(self, client: Client, name: str) -> int | None:
        try:
            return await client.query_offset(self.plan.stream, name)
        except OffsetNotFound:
            return None
