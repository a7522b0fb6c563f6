"""Carries out a ``ConsumePlan``, for all commands that consume: a source of streams, stages, and stdout as the sink.

What is written is acknowledged, and only then counted and stored: the stored offset never passes the last message
written. This module knows what only a program has: signals, ``--timeout``, the display, and how a run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rstream_cli.ending import signal_name, take_leave
from rstream_cli.endpoints.stdout import GRACE, StdoutSink
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.filtering import BrokerFilter
from rstream_cli.names import Kind
from rstream_cli.outages import OutageReports
from rstream_cli.outcome import NOTHING_TO_READ, UNTIL_REACHED, Ended
from rstream_cli.parsing import Start, StartKind, Until, UntilKind
from rstream_cli.render.display import Display, Severity, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import Renderer
from rstream_cli.runner import CommandContext
from rstream_core import (
    Client,
    ConsumerOffsetSpecification,
    Gap,
    OffsetsGone,
    OffsetType,
    RstreamError,
    StreamDoesNotExist,
)
from rstream_core.flow import read_plan
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.read_plan import AfterStored, LastMessages, ReadPlan, StartAt
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Chooser, Count, Select, Stage, Step, Stop
from rstream_core.flow.stores import StoreEvery
from rstream_core.flow.stream_reading import ReadEvents, StreamReading
from rstream_core.flow.stream_source import StreamSource
from rstream_core.types import EARLIEST_TIMESTAMP

_REASONS = {"count": "--count is reached", "until": UNTIL_REACHED}
"""Why a run ends, in the words of the options."""
_STATUS = {
    "timeout": ExitStatus.TIMED_OUT,
    "sink closed": ExitStatus.STDOUT_CLOSED,
    "bad message": ExitStatus.BAD_RECORD,
    "error": ExitStatus.INTERNAL,
}
"""The exit codes of ends; all others are ``OK``."""


@dataclass(frozen=True, slots=True)
class ConsumePlan:
    """The checked options of a run."""

    target: str
    """The stream, or the super stream."""
    start: Start
    render: Renderer
    more: Sequence[str] = ()
    """Streams that are read beside that one."""
    kind: Kind = Kind.STREAM
    until: Until | None = None
    count: int | None = None
    idle_timeout: float | None = None
    timeout: float | None = None
    name: str | None = None
    store_every: StoreEvery = field(default_factory=StoreEvery)
    single_active: bool = False
    """Whether to share the work with others of the same name."""
    filter: BrokerFilter | None = None
    """What the broker is to leave out."""
    selects: Sequence[Chooser] = ()
    """Which of the messages that come are wanted: those that all of these want."""
    credit: int = 10
    unbuffered: bool = False
    skip_bad: bool = False
    """Whether to skip a message that cannot be shown; otherwise it ends the run."""
    raw: bool = False
    """Whether the stored bytes are the body, not AMQP 1.0."""
    fail_on_gap: bool = False
    """Whether to end at a gap; otherwise it is reported."""

    def read_plan(self, streams: Sequence[str], super_stream: str | None) -> ReadPlan:
        """Returns what the source is to read: these streams, which are partitions of the super stream, if any."""
        return ReadPlan(
            tuple(streams),
            start_at(self.start, self.name),
            until=_until(self.until),
            name=self.name,
            single_active=self.single_active,
            super_stream=super_stream,
            idle=self.idle_timeout,
            filter_values=() if self.filter is None else self.filter.values,
            match_unfiltered=self.filter is not None and self.filter.match_unfiltered,
            credit=self.credit,
            as_plain=not self.raw,
            fail_on_gap=self.fail_on_gap,
        )


def start_at(start: Start, name: str | None) -> StartAt:
    """Returns the core's start. ``stored`` means after the offset stored under ``name``."""
    if start.kind is StartKind.ABSOLUTE:
        return ConsumerOffsetSpecification(OffsetType.OFFSET, start.value)
    if start.kind is StartKind.TIMESTAMP:
        # The core takes small numbers for seconds. Here they are times, and older than any stream.
        milliseconds = start.value if start.value >= EARLIEST_TIMESTAMP else 0
        return ConsumerOffsetSpecification(OffsetType.TIMESTAMP, milliseconds)
    if start.kind is StartKind.STORED:
        assert name is not None
        return AfterStored(name)
    if start.kind is StartKind.LAST_N:
        return LastMessages(start.value)
    return ConsumerOffsetSpecification(_WORDS[start.kind])


_WORDS = {
    StartKind.FIRST: OffsetType.FIRST,
    StartKind.LAST: OffsetType.LAST,
    StartKind.NEXT: OffsetType.NEXT,
}


def _until(until: Until | None) -> read_plan.Until | None:
    if until is None:
        return None
    return read_plan.Until(
        offset=until.value if until.kind is UntilKind.ABSOLUTE else None,
        time=until.value if until.kind is UntilKind.TIMESTAMP else None,
    )


class _Reports(ReadEvents):
    """Tells on the display what happens in a run, and counts it."""

    def __init__(self, plan: ConsumePlan, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._stats = stats
        self._display = display
        self.streams: Sequence[str] = ()
        """What is read."""
        self.is_super_stream = False

    @property
    def counts(self) -> ConsumeCounts:
        assert isinstance(self._stats.counts, ConsumeCounts)
        return self._stats.counts

    def waiting(self) -> None:
        plan = self._plan
        what = f"{len(self.streams)} partitions of {plan.target!r}" if self.is_super_stream else f"{plan.target!r}"
        self._display.event(
            "waiting", f"waiting for a turn as {plan.name!r}: {what}", stream=plan.target, name=plan.name or ""
        )

    def beyond(self, stream: str, offset: int, following: int) -> None:
        is_stored = self._plan.start.kind is StartKind.STORED
        what = f"offset {offset}, after the one stored as {self._plan.name!r}," if is_stored else f"offset {offset}"
        line = f"{what} is beyond the end of stream {stream!r}, whose next offset is {following}"
        self._display.event(
            "beyond", line, Severity.WARNING, bounded=True, stream=stream, offset=offset, next=following
        )

    def begins(self, reading: StreamReading, first: int) -> None:
        """Adds the number of expected messages to the total of the progress bar."""
        stats, count = self._stats, self._plan.count
        if reading.end is not None:
            stats.total = (stats.total or 0) + max(reading.end - first + 1, 0)
        if count is not None:
            stats.total = count if stats.total is None else min(stats.total, count)

    def turn(self, stream: str, active: bool) -> None:
        state = "active" if active else "idle"
        self._display.event(state, f"{state} on {stream!r}", stream=stream)

    def not_stored(self, stream: str, why: str) -> None:
        self._display.note(f"storing failed: {why}", Severity.WARNING)

    def stored(self, stream: str, offset: int | None) -> None:
        if len(self.streams) == 1:
            self.counts.stored_offset = offset

    def gap(self, gap: Gap) -> None:
        """Counts and reports a gap. The core calls this before it hands out messages behind the gap."""
        self.counts.gone += gap.last - gap.first + 1
        if self._plan.fail_on_gap and self._display.mode is not StatsMode.JSON:
            return  # the error reports it
        words = self.nothing_stored(gap.first).removesuffix("; ")
        line = f"{gap} ({words})" if words else str(gap)
        self._display.event(
            "gap", line, Severity.WARNING, bounded=True, stream=gap.stream, first=gap.first, last=gap.last
        )

    def nothing_stored(self, first: int) -> str:
        """Returns a note if no offset was stored: a broker forgets a stored offset that retention has passed."""
        if self._plan.start.kind is not StartKind.STORED or first != 0:
            return ""
        return f"no offset is stored under {self._plan.name!r}, or it is gone too; "

    def skipped(self, stream: str, offset: int, why: str) -> None:
        """Reports a message that cannot be shown."""
        line = f"the message at offset {offset} of stream {stream!r} is skipped: it {why}"
        self._display.event("skipped", line, Severity.WARNING, bounded=True, stream=stream, offset=offset, reason=why)


class ConsumeRun:
    """One run. ``work`` is called once."""

    def __init__(self, plan: ConsumePlan, context: CommandContext, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._context = context
        self._stats = stats
        self._display = display
        self._reports = _Reports(plan, stats, display)
        self._outages = OutageReports(display, stats, context.connection.recovery)
        self._account = Account()
        self._source: StreamSource | None = None
        self._run: Run | None = None
        self._opening: asyncio.Timeout | None = None
        """While the streams are opened; ``_stop`` ends it."""
        self._why: Stop | None = None
        """The first reason to stop from outside."""
        self._sink: StdoutSink

    async def work(self) -> Ended:
        """Reads the wanted messages, and returns how the run ended. Raises an error of the core's that has ended it."""
        plan, context = self._plan, self._context
        signals = asyncio.create_task(self._watch_signals())
        timer = None
        if plan.timeout is not None:
            ran_out = Stop(f"--timeout of {plan.timeout:g} s ran out", "timeout")
            timer = asyncio.get_running_loop().call_later(plan.timeout, self._stop, ran_out)
        client = context.client(self._outages, self._reports.gap)
        self._sink = StdoutSink(
            context.env.stdout.fileno(),
            plan.render,
            on_skip=self._reports.skipped if plan.skip_bad else None,
            on_written=self._count,
            unbuffered=plan.unbuffered,
        )
        self._sink.start(self._end_with_sink)
        try:
            ended = await self._open_and_read(client)
        except OffsetsGone as error:
            error.hint = f"{self._reports.nothing_stored(error.first)}--on-gap tell goes on with what is there"
            raise
        else:
            if ended.status is ExitStatus.OK and self._account.by[Verdict.BAD]:
                return Ended(ended.reason, ExitStatus.PARTLY_DONE)
            return ended
        finally:
            signals.cancel()
            if timer is not None:
                timer.cancel()
            self._sink.close()
            await take_leave(client, client.close(), hurry=context.interrupt.forced)

    async def _open_and_read(self, client: Client) -> Ended:
        try:
            async with self._interruptible():
                await self._open(client)
        except TimeoutError:
            if self._why is None:
                raise
            return self._ended(self._why)
        source = self._source
        if source is None or source.end is not None:
            return await self._write_head()
        self._display.start()
        try:
            return self._ended(await self._read(source))
        except asyncio.CancelledError:
            if not self._context.interrupt.forced:
                raise
            return Ended(f"{signal_name(self._context)} twice, stopped at once")
        finally:
            if not self._context.interrupt.forced:
                await take_leave(client, source.close())

    async def _write_head(self) -> Ended:
        """Writes what comes before the first message, where there is none."""
        try:
            async with self._interruptible():
                writing = self._sink.tick()
                if writing is not None:
                    await writing
        except TimeoutError:
            if self._why is None:
                raise
        why = self._why or self._sink.failed
        return Ended(NOTHING_TO_READ) if why is None else self._ended(why)

    async def _read(self, source: StreamSource) -> Stop:
        plan, account = self._plan, self._account
        stages: list[Stage] = [Select(chooser) for chooser in plan.selects]
        stages.append(self._count_chunk)
        ends: list[Callable[[], Stop | None]] = [self._count]
        if plan.count is not None:
            count = Count(plan.count, "the number of messages is reached", lambda: account.by[Verdict.BAD])
            stages.append(count)
            ends.append(count.end)
        run = self._run = Run(source, stages, self._sink, account, ends=ends)
        if self._why is not None:
            self._stop(self._why)
        why = await run.work()
        has_failed = isinstance(why.error, RstreamError)
        if self._why is not None and not has_failed:
            why = self._why  # what has become of stdout since then is no reason
        if self._sink.failed is None or self._sink.failed.kind != "sink closed":
            # Not after stdout was closed: data in the pipe is lost, so the stored offsets must not change.
            await source.settle(quietly=has_failed)
        return why

    def _count_chunk(self, block: Block) -> Step:
        self._reports.counts.chunks += 1
        return Step(block)

    def _count(self) -> None:
        """Brings the figures up to date."""
        counts, stats, account = self._reports.counts, self._stats, self._account
        counts.consumed = account.by[Verdict.DONE]
        counts.bad = account.by[Verdict.BAD]
        counts.ambiguous = self._sink.ambiguous
        stats.bytes = self._sink.bytes
        stats.done = counts.consumed if self._plan.count is not None else account.read - account.open - account.left
        if self._source is not None and (passed := self._source.passed) is not None:
            counts.last_offset = passed

    def _ended(self, why: Stop) -> Ended:
        """Returns how a run with this reason has ended. Raises the core's errors."""
        if isinstance(why.error, RstreamError):
            raise why.error
        return Ended(_REASONS.get(why.kind, why.reason), _STATUS.get(why.kind, ExitStatus.OK), why.error)

    # Where to read.

    async def _open(self, client: Client) -> None:
        """Connects, and opens what is to be read. There is no source, or one with an ``end``, where that is nothing."""
        plan, reports = self._plan, self._reports
        await self._context.connect(client)
        super_stream, reports.streams = await self._find_streams(client)
        reports.is_super_stream = super_stream is not None
        if plan.count == 0:
            return
        self._source = StreamSource(
            client,
            plan.read_plan(reports.streams, super_stream),
            self._account,
            reports,
            store_every=plan.store_every,
            on_gap=reports.gap,
            now_ms=lambda: int(self._context.env.now() * 1000),
            outage_until=lambda: self._outages.until,
        )
        await self._source.open()

    async def _find_streams(self, client: Client) -> tuple[str | None, list[str]]:
        """Returns the super stream, if the target is one, and the streams. Raises if the target does not exist."""
        target, kind = self._plan.target, self._plan.kind
        if kind is not Kind.SUPER_STREAM:
            streams = [target, *self._plan.more]
            try:
                for stream in streams:
                    await client.metadata(stream)
            except StreamDoesNotExist:
                if kind is Kind.STREAM:
                    raise
            else:
                return None, streams
        try:
            partitions = await client.partitions(target)
        except StreamDoesNotExist:
            if kind is Kind.SUPER_STREAM:
                raise
            raise StreamDoesNotExist(f"there is no stream and no super stream {target!r}") from None
        if self._plan.start.kind is StartKind.ABSOLUTE:
            raise CommandError(
                f"--offset: {target!r} is a super stream, and a number is an offset of one partition",
                hint="give first, last, next, -N or a time",
            )
        return target, partitions

    # Ending the run from outside.

    async def _watch_signals(self) -> None:
        await self._context.interrupt.requested.wait()
        self._stop(Stop(signal_name(self._context), "signal"))

    def _end_with_sink(self) -> None:
        assert self._sink.failed is not None
        self._stop(self._sink.failed)

    def _stop(self, why: Stop) -> None:
        """Makes the run end at the next possible place. Only the first reason counts."""
        if self._why is None:
            self._why = why
        self._sink.stop()
        if self._run is not None:
            self._run.stop(why, GRACE)
        elif self._opening is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._opening.reschedule(asyncio.get_running_loop().time())

    def _interruptible(self) -> asyncio.Timeout:
        """Returns a timeout without a limit, which ``_stop`` ends."""
        self._opening = asyncio.timeout(0 if self._why is not None else None)
        return self._opening
