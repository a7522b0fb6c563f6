"""The engine of ``publish``: blocks of input in, batches of encoded messages out, and an account of each record.

The unit is the block that a read gave: it is framed, encoded and handed to the core as lists, so that a line costs no
Python code of its own. Whatever has been read is in exactly one place at any time - pending here, in flight at the
publisher, confirmed or failed - and the numbers of the summary add up, however a run ends::

    read == published + not published          published == confirmed + failed

The input is read only as fast as the publisher takes it, which waits for the broker's confirms.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from rstream_cli.ending import Ended, signal_name, within
from rstream_cli.exit_status import CommandError, ExitStatus, status_of
from rstream_cli.input import BLOCK_SIZE, Block, Input
from rstream_cli.parsing import Rate
from rstream_cli.records.framing_in import RecordError, RecordReader
from rstream_cli.render.display import Display
from rstream_cli.render.stats import PublishCounts, Stats
from rstream_cli.runner import CommandContext, describe
from rstream_core import (
    Client,
    CompressionType,
    MessageTooLarge,
    Outcome,
    Publisher,
    RequestTimeout,
    RstreamError,
)
from rstream_core.protocol.amqp import AMQPMessage, bodies_of
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress

_PACED_SLICES = 50
"""Batches a second, where ``--rate`` paces them."""
_CATCH_UP = 0.1
"""Seconds that pacing may make up for after a late timer."""
_BRIEFLY = 0.5
"""Seconds for saying goodbye to a broker, where the run is to end now."""
_SUB_ENTRY_TARGET = 1024 * 1024
"""Bytes of a sub-entry before it is compressed, where it holds more than one message."""
_SUB_ENTRY_OVERHEAD = 64


class Encoder(Protocol):
    """Records of the input to encoded messages; ``number`` is that of the first record.

    Gives the messages and the numbers of their records (None: one after the other, from ``number``), and the bad
    records with what is wrong. Stops behind the first bad one, or at ``room`` messages.
    """

    def __call__(
        self, records: list[bytes], number: int, room: int, stop_at_bad: bool
    ) -> tuple[list[bytes], list[int] | None, list[tuple[int, str]]]: ...


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What the options said, all checked."""

    stream: str
    encoder: Encoder
    reader: RecordReader | None
    """None: ``inline`` are the records."""
    sources: Sequence[str] = ()
    inline: Sequence[bytes] = ()
    method: str = "batch"
    compression: CompressionType = CompressionType.No
    batch_size: int = 1000
    linger: float = 0.02
    name: str | None = None
    create: bool = False
    rate: Rate | None = None
    count: int | None = None
    max_in_flight: int = 50_000
    confirm_timeout: float = 30.0
    drain_timeout: float = 10.0
    skip_bad: bool = False
    failed_to: BinaryIO | None = None
    raw: bool = False
    input_size: int | None = None


class _BadRecord(Exception):
    """A record of the input is bad, and the run is to stop there."""

    def __init__(self, number: int, message: str) -> None:
        self.number = number
        super().__init__(f"record {number}: {message}")


@dataclass(slots=True)
class Pacer:
    """Lets so much through per second. Late timers are made up for, a bit."""

    rate: float
    due: float = 0.0

    async def wait(self, cost: float, stop: asyncio.Event) -> bool:
        """Waits for its turn; False where ``stop`` was set first."""
        now = asyncio.get_running_loop().time()
        start = max(self.due, now - _CATCH_UP)
        if start > now:
            try:
                async with asyncio.timeout(start - now):
                    await stop.wait()
            except TimeoutError:
                pass
        if stop.is_set():
            return False
        self.due = start + cost / self.rate
        return True


class FailedFile:
    """``--failed-to``: the messages that the stream does not hold for certain, as lines for ``publish --json``."""

    def __init__(self, file: BinaryIO, *, stream: str, raw: bool) -> None:
        self._file = file
        self._stream = stream
        self._raw = raw

    def add(self, messages: Sequence[bytes], reason: str) -> None:
        """Encoded messages, and what became of them."""
        from rstream_cli.records.envelope import to_json

        lines = []
        for data in messages:
            message = AMQPMessage(data) if self._raw else AMQPMessage.from_bytes(data)
            lines.append(to_json(message, stream=self._stream, failed=reason))
        self._file.write(b"\n".join([*lines, b""]))
        self._file.flush()


@dataclass
class PublishRun:
    """One run. ``work`` is called once."""

    plan: PublishPlan
    context: CommandContext
    stats: Stats
    display: Display
    _pending: list[bytes] = field(default_factory=list)
    """Encoded, read, and not handed to the publisher yet."""
    _pending_bytes: int = 0
    _reason: str = ""
    """Why messages failed: the first reason."""
    _publisher: Publisher | None = None
    _input: Input | None = None
    _failed_file: FailedFile | None = None
    _file_error: OSError | None = None
    _pacer: Pacer | None = None
    _unresponsive: bool = False
    _since: float | None = None
    """When the oldest pending message was read."""

    @property
    def _counts(self) -> PublishCounts:
        assert isinstance(self.stats.counts, PublishCounts)
        return self.stats.counts

    async def work(self) -> Ended:
        """Publishes all there is, and says how that ended."""
        plan, context = self.plan, self.context
        if plan.failed_to is not None:
            self._failed_file = FailedFile(plan.failed_to, stream=plan.stream, raw=plan.raw)
        rate = plan.rate
        if rate is not None:
            self._pacer = Pacer(rate.messages_per_second or rate.bytes_per_second or 1.0)
        client = Client(context.connection_options)
        scope = asyncio.timeout(None)
        stopper = asyncio.create_task(self._stop_on_signal(scope))
        try:
            try:
                async with scope:
                    publisher = await self._open(client)
            except TimeoutError:
                if not context.interrupt.requested.is_set():
                    raise
                return Ended(signal_name(context))
            scope = asyncio.timeout(None)
            stopper.cancel()
            stopper = asyncio.create_task(self._stop_on_signal(scope, drain=plan.drain_timeout))
            self.display.start()
            return await self._publish_all(publisher, scope)
        finally:
            stopper.cancel()
            if self._input is not None:
                self._input.close()
            hurry = self._unresponsive or context.interrupt.forced
            await within(_BRIEFLY if hurry else None, client.close())

    async def _open(self, client: Client) -> Publisher:
        plan = self.plan
        await client.start()
        if plan.create and not await client.stream_exists(plan.stream):
            await client.create_stream(plan.stream, exists_ok=True)
        self._publisher = await client.publisher(
            plan.stream,
            plan.name,
            listener=self._told,
            on_end=self._publisher_ended,
            max_in_flight=plan.max_in_flight,
            confirm_timeout=plan.confirm_timeout,
        )
        return self._publisher

    def _publisher_ended(self, error: RstreamError) -> None:
        if self._input is not None:
            self._input.fail(error)

    async def _stop_on_signal(self, scope: asyncio.Timeout, drain: float = 0.0) -> None:
        """The first signal ends the reading, and gives what was read ``drain`` seconds."""
        await self.context.interrupt.requested.wait()
        if self._input is not None:
            self._input.stop()
        with contextlib.suppress(RuntimeError):  # the scope has ended
            scope.reschedule(asyncio.get_running_loop().time() + drain)

    async def _publish_all(self, publisher: Publisher, scope: asyncio.Timeout) -> Ended:
        """The whole input, the wait for its confirms, and the account."""
        ended: Ended | None = None
        problem: Exception | None = None
        try:
            async with scope:
                try:
                    ended = await self._feed()
                except (_BadRecord, CommandError) as error:
                    # What stood before it is published; then the account is settled as ever.
                    status = error.status if isinstance(error, CommandError) else ExitStatus.BAD_RECORD
                    stated = CommandError(str(error), status=status, hint=getattr(error, "hint", None))
                    ended = Ended(str(error), status, stated)
                    await self._send_pending(publisher)
                await publisher.flush()
        except RstreamError as error:  # RequestTimeout too, which is a TimeoutError
            problem = error
        except TimeoutError:
            problem = RequestTimeout(f"not all messages were confirmed within {self.plan.drain_timeout:g} s")
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise
            problem = RequestTimeout("stopped at once")
        problem = problem or publisher.error
        # Whoever does not confirm will not say goodbye either.
        await within(_BRIEFLY if problem is not None else None, publisher.close(timeout=0))
        self._unresponsive = problem is not None
        if problem is not None:
            self._take_the_rest()
        self._settle(publisher)
        return self._judge(ended, problem)

    def _take_the_rest(self) -> None:
        """Counts what the thread has read already: it is gone from the input, so the account must hold it."""
        if self._input is None or self.plan.reader is None or self.plan.count is not None:
            return
        self._input.stop()
        for block in self._input.take_rest():
            try:
                self._take(block.data)
            except _BadRecord:
                return

    def _settle(self, publisher: Publisher) -> None:
        counts, pending = self._counts, self._pending
        counts.published = publisher.published
        counts.confirmed = publisher.confirmed
        counts.failed = publisher.failed
        counts.in_flight = publisher.in_flight
        counts.not_published = counts.bad + len(pending)
        if pending:
            self.stats.bytes -= self._size(pending)
            self._write_failed(pending, "not published")

    def _size(self, messages: list[bytes]) -> int:
        if self.plan.raw:
            return sum(map(len, messages))
        return sum(len(body) for body in bodies_of(messages) if body is not None)

    def _judge(self, ended: Ended | None, problem: Exception | None) -> Ended:
        """The exit code, from the account."""
        counts = self._counts
        lost = counts.failed + (len(self._pending) if problem is not None else 0)
        wanted = counts.read - counts.bad
        reason = ended.reason if ended is not None else "the input was not finished"
        if self.context.interrupt.signal is not None:
            reason = signal_name(self.context)
        if lost:
            why = describe(problem) if problem is not None else self._reason
            message = f"{lost:,} of {wanted:,} messages are not confirmed: {why}"
            hint = None if self.plan.failed_to else "--failed-to FILE keeps such messages, for publish --json"
            error = CommandError(message, status=ExitStatus.NOT_CONFIRMED, hint=hint)
            return Ended(f"{reason}; {why}", ExitStatus.NOT_CONFIRMED, error)
        if ended is None:
            if self.context.interrupt.forced or problem is None:
                return Ended(reason)
            return Ended(describe(problem), status_of(problem), problem)
        if self._file_error is not None:
            return Ended(describe(self._file_error), ExitStatus.USAGE, self._file_error)
        if ended.error is not None:
            return ended
        if counts.bad:
            return Ended(reason, ExitStatus.PARTLY_DONE)
        return Ended(reason, ended.status)

    # From the input to the publisher.

    async def _feed(self) -> Ended:
        plan, publisher = self.plan, self._publisher
        assert publisher is not None
        if plan.reader is None:
            self._take_records(list(plan.inline), 1)
            await self._send_pending(publisher)
            return Ended(self._stopped() or "all messages are published")
        source = self._input = Input(plan.sources, **self._input_settings())
        source.start()
        await publisher.check()  # it could not tell the input before there was one
        if self.context.interrupt.requested.is_set():
            source.stop()
        while not self._full():
            block = await self._next_block(source, publisher)
            if block is None:
                break
            try:
                self._take(block.data)
            finally:
                self.stats.done += len(block.data)
            if self._due() or self._full():
                await self._send_pending(publisher)
        await self._send_pending(publisher)
        self._tell_of_a_cut()
        return Ended(self._stopped() or ("--count is reached" if self._full() else "end of input"))

    def _tell_of_a_cut(self) -> None:
        """A signal may have come inside a record: what there is of it is no message."""
        reader = self.plan.reader
        if reader is None or self._input is None or not self._input.stopped_early:
            return
        try:
            cut = any(reader.finish())
        except RecordError:
            cut = True
        if cut:
            self.display.note("note: the last record was not read to its end, and is not published")

    def _input_settings(self) -> dict[str, int]:
        """With ``--rate``, reading ahead would only lengthen what a signal leaves unpublished."""
        rate = self.plan.rate
        if rate is None:
            return {}
        per_second = rate.bytes_per_second or (rate.messages_per_second or 1.0) * 100
        return {"block_size": int(min(max(per_second / 10, 4096), BLOCK_SIZE)), "ahead": 1}

    async def _next_block(self, source: Input, publisher: Publisher) -> Block | None:
        """The next block; what is pending is sent when its time has come, whatever the input does."""
        loop = asyncio.get_running_loop()
        while True:
            wait = None
            if self._pending and self._since is not None:
                wait = max(self._since + self.plan.linger - loop.time(), 0.0)
            try:
                return await source.next(wait)
            except RstreamError:  # the publisher has ended (RequestTimeout is a TimeoutError too)
                await publisher.check()
                raise
            except TimeoutError:
                if self._due():
                    await self._send_pending(publisher)

    def _take(self, data: bytes) -> None:
        """Frames and encodes a block; b"" is the end of a file. Raises _BadRecord behind the good ones."""
        reader = self.plan.reader
        assert reader is not None
        for records, error in _framed(reader, data):
            number = (reader.count if error is None else error.number - 1) - len(records) + 1
            self._take_records(records, number)
            if self._full():
                return
            if error is not None:
                self._bad(error.number, error.message)

    def _take_records(self, records: list[bytes], number: int) -> None:
        plan, counts = self.plan, self._counts
        room = len(records) if plan.count is None else plan.count - (counts.read - counts.bad)
        messages, numbers, bad = plan.encoder(records, number, room, not plan.skip_bad)
        messages, too_large = self._fitting(messages, numbers, number)
        problems = sorted([*bad, *too_large])
        if self._since is None and messages:
            self._since = asyncio.get_running_loop().time()
        self._pending += messages
        self._pending_bytes += sum(map(len, messages))
        counts.read += len(messages)
        whole = numbers is None and len(messages) == len(records)
        self.stats.bytes += sum(map(len, records)) if whole else self._size(messages)
        for at, message in problems:
            self._bad(at, message)

    def _fitting(
        self, messages: list[bytes], numbers: list[int] | None, first: int
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """The messages that fit a frame, and the others; where the run stops at bad ones, those before the first."""
        publisher = self._publisher
        assert publisher is not None
        limit = publisher.max_message_size
        sub_entries = self.plan.method == "sub-entry"
        # Compression can make a message larger, by a bit.
        certain = limit - limit // 50 if sub_entries else limit
        if not messages or max(map(len, messages)) <= certain:
            return messages, []
        fit: list[bytes] = []
        too_large: list[tuple[int, str]] = []
        for index, message in enumerate(messages):
            if len(message) <= certain or (sub_entries and self._fits_compressed(message, limit)):
                fit.append(message)
                continue
            number = first + index if numbers is None else numbers[index]
            too_large.append((number, f"{len(message)} bytes are too large; the broker takes {limit} at most"))
            if not self.plan.skip_bad:
                break
        return fit, too_large

    def _fits_compressed(self, message: bytes, limit: int) -> bool:
        if len(message) + _SUB_ENTRY_OVERHEAD > MAX_UNCOMPRESSED:
            return False
        return len(compress(self.plan.compression, message)) + _SUB_ENTRY_OVERHEAD <= limit

    def _bad(self, number: int, message: str) -> None:
        self._counts.read += 1
        self._counts.bad += 1
        self._counts.not_published += 1
        if not self.plan.skip_bad:
            raise _BadRecord(number, message)
        self.display.note(f"warning: record {number} is skipped: {message}")

    def _full(self) -> bool:
        counts = self._counts
        return self.plan.count is not None and counts.read - counts.bad >= self.plan.count

    def _stopped(self) -> str | None:
        return signal_name(self.context) if self.context.interrupt.signal is not None else None

    def _due(self) -> bool:
        plan = self.plan
        if not self._pending or self._since is None:
            return False
        full = len(self._pending) >= plan.batch_size or self._pending_bytes >= BLOCK_SIZE
        if full or plan.method in ("send", "wait"):
            return True
        return asyncio.get_running_loop().time() >= self._since + plan.linger

    async def _send_pending(self, publisher: Publisher) -> None:
        """Hands over what is pending, batch by batch; what could not be handed over stays pending."""
        messages = self._pending
        start = 0
        try:
            for end in self._batch_ends(messages):
                batch = messages[start:end]
                if self._pacer is not None and not await self._turn(batch):
                    return
                before = publisher.published
                try:
                    await self._send(publisher, batch)
                finally:
                    start += publisher.published - before
                    self._counts.published = publisher.published
                    self._counts.in_flight = publisher.in_flight
        finally:
            self._pending = messages[start:]
            self._pending_bytes = sum(map(len, self._pending))
            self._since = None if not self._pending else self._since

    def _batch_ends(self, messages: list[bytes]) -> Iterator[int]:
        """Where each batch ends: by ``--batch-size``, the pace of ``--rate`` and what a sub-entry should hold."""
        plan, rate = self.plan, self.plan.rate
        size = 1 if plan.method in ("send", "wait") else plan.batch_size
        most = float(_SUB_ENTRY_TARGET) if plan.method == "sub-entry" else None
        if rate is not None and rate.messages_per_second is not None:
            size = min(size, max(int(rate.messages_per_second / _PACED_SLICES), 1))
        if rate is not None and rate.bytes_per_second is not None:
            paced = rate.bytes_per_second / _PACED_SLICES
            most = paced if most is None else min(most, paced)
        if most is None:
            yield from range(size, len(messages), size)
        else:
            first, total = 0, 0
            for index, message in enumerate(messages):
                if index > first and (total + len(message) > most or index - first == size):
                    yield index
                    first, total = index, 0
                total += len(message)
        if messages:
            yield len(messages)

    async def _turn(self, batch: list[bytes]) -> bool:
        """Waits until ``--rate`` allows the batch. False after a signal: the rest is not published."""
        assert self._pacer is not None
        assert self.plan.rate is not None
        cost = len(batch) if self.plan.rate.messages_per_second is not None else max(self._size(batch), 1)
        return await self._pacer.wait(cost, self.context.interrupt.requested)

    async def _send(self, publisher: Publisher, batch: list[bytes]) -> None:
        if self.plan.method == "sub-entry":
            await self._send_sub_entry(publisher, batch)
            return
        await publisher.publish(batch)
        if self.plan.method == "wait":
            await publisher.flush()

    async def _send_sub_entry(self, publisher: Publisher, batch: Sequence[bytes]) -> None:
        """One sub-entry; more of them where one does not fit a frame."""
        try:
            await publisher.publish_sub_entry(batch, self.plan.compression)
        except MessageTooLarge:
            if len(batch) < 2:
                raise
            middle = len(batch) // 2
            await self._send_sub_entry(publisher, batch[:middle])
            await self._send_sub_entry(publisher, batch[middle:])

    # What the publisher says.

    def _told(self, outcome: Outcome) -> None:
        counts, publisher = self._counts, self._publisher
        if outcome.confirmed:
            counts.confirmed += outcome.confirmed
            self.stats.latency.add(outcome.latency, outcome.confirmed)
        if outcome.failed:
            counts.failed += len(outcome.failed)
            self._reason = self._reason or outcome.failed[0].reason
            self._write_failed([message.data for message in outcome.failed], outcome.failed[0].reason)
        if publisher is not None:
            counts.in_flight = publisher.in_flight

    def _write_failed(self, messages: Sequence[bytes], reason: str) -> None:
        if self._failed_file is None or self._file_error is not None:
            return
        try:
            self._failed_file.add(messages, reason)
        except OSError as error:
            self._file_error = error


def _framed(reader: RecordReader, data: bytes) -> Iterator[tuple[list[bytes], RecordError | None]]:
    """The records that a block completes, in runs that end in a bad one."""
    step: Callable[[], list[bytes]] = (lambda: reader.feed(data)) if data else reader.finish
    while True:
        try:
            records = step()
        except RecordError as error:
            yield error.before, error
            step = (lambda: reader.feed(b"")) if data else reader.finish
        else:
            yield records, None
            return
