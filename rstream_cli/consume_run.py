"""Carries out a ``ConsumePlan``, for all commands that consume: a source of streams, stages, and stdout as the sink.

What is written is acknowledged, and only then counted and stored: the stored offset never passes the last message
written. This module knows what only a program has: signals, ``--timeout``, the display, and how a run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rstream_cli.consume_plan import ConsumePlan
from rstream_cli.consume_report import ConsumeReports
from rstream_cli.consume_sink import sink_of
from rstream_cli.displayed_run import end_beside, signal_name, take_leave
from rstream_cli.ended import NOTHING_TO_READ, UNTIL_REACHED, Ended
from rstream_cli.endpoints.stdout import GRACE, StdoutSink
from rstream_cli.exit_status import ExitStatus, status_of
from rstream_cli.idle_note import tell_when_idle
from rstream_cli.kinds import check_no_offset, find_streams
from rstream_cli.outages import OutageReports
from rstream_cli.render.display import Display
from rstream_cli.render.stats import Part, Stats
from rstream_cli.runner import CommandContext
from rstream_core import (
    Client,
    OffsetsGone,
    RstreamError,
)
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.gate import Pace
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Count, Select, Stage, Stop
from rstream_core.flow.stream_source import StreamSource

if TYPE_CHECKING:
    from rstream_cli.dump_target import DumpTarget

_REASONS = {"count": "--count is reached", "until": UNTIL_REACHED}
"""Why a run ends, in the words of the options."""


class ConsumeRun:
    """One run. ``work`` is called once."""

    def __init__(self, plan: ConsumePlan, context: CommandContext, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._context = context
        self._stats = stats
        self._display = display
        self._reports = ConsumeReports(plan, stats, display)
        self._counts = self._reports.counts
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
        self._sink = sink_of(plan, context, self._reports)
        self._sink.start(self._end_with_sink)
        self._stats.bring_up_to_date = self._count
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
            if timer is not None:
                timer.cancel()
            self._stats.update()
            self._sink.close()
            await take_leave(client, client.close(), hurry=context.interrupt.forced)
            await end_beside(signals)

    async def _open_and_read(self, client: Client) -> Ended:
        context = self._context
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
        idle = None
        if context.env.stderr_is_tty and not context.connection.quiet:
            idle = asyncio.create_task(
                tell_when_idle(self._plan, self._account, self._reports, self._display, client.stats)
            )
        try:
            return self._ended(await self._read(source))
        except asyncio.CancelledError:
            if not context.interrupt.forced:
                raise
            return Ended(f"{signal_name(context)} twice, stopped at once")
        finally:
            if not context.interrupt.forced:
                await take_leave(client, source.close())
            if idle is not None:
                await end_beside(idle)

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
        if self._plan.dump is not None and self._why is None and self._sink.failed is None:
            await self._end_dump(self._plan.dump, Stop(NOTHING_TO_READ))
        why = self._why or self._sink.failed
        return Ended(NOTHING_TO_READ) if why is None else self._ended(why)

    async def _read(self, source: StreamSource) -> Stop:
        plan, account = self._plan, self._account
        stages: list[Stage] = [Select(chooser) for chooser in plan.selects]
        if plan.dump is not None:
            stages.append(plan.dump.know_again)
        stages.append(self._count_chunk)
        ends: list[Callable[[], Stop | None]] = []
        if plan.count is not None:
            count = Count(plan.count, "the number of messages is reached", lambda: account.by[Verdict.BAD])
            stages.append(count)
            ends.append(count.end)
        gate = None if plan.pace is None else Pace(plan.pace, self._reports.pause)
        run = self._run = Run(source, stages, self._sink, account, gate=gate, gate_gives_back=True, ends=ends)
        if self._why is not None:
            self._stop(self._why)
        why = await run.work()
        has_failed = isinstance(why.error, RstreamError)
        if self._why is not None and not has_failed:
            why = self._why  # what has become of stdout since then is no reason
        if self._sink.failed is None or self._sink.failed.kind != "sink closed":
            # Not after stdout was closed: data in the pipe is lost, so the stored offsets must not change.
            await source.settle(quietly=has_failed)
        if plan.dump is not None and run.is_drained and why.error is None:  # otherwise chunks are not written
            why = await self._end_dump(plan.dump, why)
        return why

    async def _end_dump(self, dump: DumpTarget, why: Stop) -> Stop:
        """Writes what says that the dump is whole, and has it on the disk. Returns why the run ends by now."""
        self._sink.put_in(dump.end_mark(self._ended(why).reason))
        writing = self._sink.tick()
        if writing is not None:
            await writing
        if self._sink.failed is None:
            try:
                await dump.sync()
            except OSError as error:
                self._sink.fail(error)
        return self._sink.failed or why

    def _count_chunk(self, block: Block) -> Block:
        self._counts.chunks += 1
        return block

    def _count(self) -> None:
        """Copies the figures of the flow into the statistics, perhaps in the thread of the display."""
        counts, stats, by = self._counts, self._stats, self._account.by
        counts.consumed = by[Verdict.DONE]
        counts.left_out = by[Verdict.PASSED]
        counts.bad = by[Verdict.BAD]
        counts.ambiguous = self._sink.ambiguous
        stats.bytes = self._sink.bytes
        stats.done = counts.consumed if self._plan.count is not None else sum(by.values())
        if self._source is not None and (passed := self._source.passed) is not None:
            counts.last_offset = passed

    def _ended(self, why: Stop) -> Ended:
        """Returns how a run with this reason has ended. Raises the core's errors."""
        if isinstance(why.error, RstreamError):
            raise why.error
        if why.error is not None:
            return Ended(why.reason, status_of(why.error), why.error)
        status = ExitStatus.TIMED_OUT if why.kind == "timeout" else ExitStatus.OK
        return Ended(_REASONS.get(why.kind, why.reason), status)

    # Where to read.

    async def _open(self, client: Client) -> None:
        """Connects, and opens what is to be read. There is no source, or one with an ``end``, where that is nothing."""
        plan, reports = self._plan, self._reports
        await self._context.connect(client)
        super_stream, reports.streams = await self._find_streams(client)
        reports.is_super_stream = super_stream is not None
        starts: Mapping[str, int] = {}
        if plan.dump is not None:
            from rstream_cli.dump_manifest import manifest_of

            manifest = await manifest_of(
                client, self._context.connection, reports.streams, super_stream, plan.dump.selection
            )
            head, starts = await plan.dump.begin(client, manifest)
            self._sink.put_in(head)
        if plan.count == 0:
            return
        self._source = StreamSource(
            client,
            plan.read_plan(reports.streams, super_stream, starts),
            self._account,
            reports,
            store_every=plan.store_every,
            on_gap=reports.gap,
            now_ms=lambda: int(self._context.env.now() * 1000),
            outage_until=lambda: self._outages.until,
        )
        await self._source.open()
        if plan.single_active or len(self._source.readings) > 1:
            self._stats.parts = self._parts

    def _parts(self) -> list[Part]:
        """The figures of each stream, perhaps in the thread of the display."""
        parts = []
        for reading in () if self._source is None else self._source.readings:
            state = "done" if reading.is_read_out else ""
            if self._plan.single_active and not state:
                state = "active" if reading.is_active else "waiting"
            passed = reading.passed
            parts.append(Part(reading.stream, state, None if passed < 0 else passed, reading.handed_out))
        return parts

    async def _find_streams(self, client: Client) -> tuple[str | None, list[str]]:
        """Returns the super stream, if the target is one, and the streams. Raises if the target does not exist."""
        plan = self._plan
        super_stream, streams = await find_streams(client, [plan.target, *plan.more], plan.kind)
        if super_stream is not None:
            check_no_offset("--offset", plan.start, super_stream)
        return super_stream, streams

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
