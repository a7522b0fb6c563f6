"""Carries a ``CopyRequest`` out: the core's copy, with signals, the display, and how a run ends."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Iterator

from rstream_cli.consume_plan import start_at, until_at
from rstream_cli.copy_report import CopyReports
from rstream_cli.copy_request import CopyRequest
from rstream_cli.displayed_run import end_beside, signal_name, take_leave
from rstream_cli.ended import UNTIL_REACHED, Ended
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.kinds import check_no_offset, find_streams, near_name
from rstream_cli.names import Kind
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.outages import OutageReports, report_unconfirmed
from rstream_cli.parsing import UntilKind
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.render.stats import CopyCounts, Part, Stats
from rstream_cli.runner import CommandContext
from rstream_core import Client, NotConfirmed, OffsetsGone, RstreamError, StreamDoesNotExist
from rstream_core.copying.call import selection_of
from rstream_core.copying.copy import Copy
from rstream_core.copying.plan import END, CopyPlan, Keys
from rstream_core.copying.stream_copy import Surroundings
from rstream_core.flow.acks import Verdict
from rstream_core.flow.gate import Gate, Pace, Rate
from rstream_core.flow.stages import Stop
from rstream_core.protocol.amqp_sections import sizes_of

DRAIN_TIMEOUT = 10.0
"""Seconds for confirms after a signal."""
END_INTERVAL = 2.0
"""Seconds between two looks for the end of a stream that is followed."""
IDLE_TIMEOUT = 2.0
"""Seconds for which a connection is kept that nothing uses: a copy asks several questions before it begins."""
_MAKE = "`rstream stream create {}` creates it; or is it in another virtual host?"
_REASONS = {"until": "the end is reached"}


class CopyRun:
    """One run. ``work`` is called once."""

    def __init__(
        self,
        request: CopyRequest,
        context: CommandContext,
        other: ConnectionSettings | None,
        stats: Stats,
        display: Display,
    ) -> None:
        self._request = request
        self._context = context
        self._there = context.at(other)
        self._stats = stats
        self._display = display
        self._reports = CopyReports(request, stats, display)
        self._outages = OutageReports(display, stats, context.connection.recovery)
        self._copy: Copy | None = None
        self._opening: asyncio.Timeout | None = None
        self._why: Stop | None = None
        self._ends: dict[str, int] = {}
        """Of a stream that is followed: the offset at its end."""

    async def work(self) -> Ended:
        """Copies, and returns how the run ended. Raises an error of the core's that has ended it."""
        context, there = self._context, self._there
        source = context.client(self._outages, self._reports.gap, IDLE_TIMEOUT)
        target = source if there is context else there.client(self._outages, idle_timeout=IDLE_TIMEOUT)
        signals = asyncio.create_task(self._watch_signals())
        watcher = asyncio.create_task(report_unconfirmed(self._display, self._up_to_date_counts, self._outages))
        self._stats.bring_up_to_date = self._count
        is_unresponsive = False
        try:
            try:
                self._opening = asyncio.timeout(None)
                async with self._opening:
                    await self._open(source, target)
            except TimeoutError:
                if self._why is None:
                    raise
                return Ended(self._why.reason)
            finally:
                self._opening = None
            ended = await self._carry(source)
        except OffsetsGone as error:
            error.hint = "--on-gap tell goes on with what is there"
            raise
        else:
            is_unresponsive = ended.status is ExitStatus.NOT_CONFIRMED
            return ended
        finally:
            self._stats.update()
            hurry = is_unresponsive or context.interrupt.forced
            if self._copy is not None:
                await take_leave(source, self._copy.close(), hurry=hurry)
            for client in {source, target}:
                await take_leave(client, client.close(), hurry=hurry)
            watcher.cancel()
            await end_beside(signals)

    async def _open(self, source: Client, target: Client) -> None:
        context, request = self._context, self._request
        await context.connect(source)
        if target is not source:
            await self._there.connect(target)
        from_super = await self._super_stream(context, source, request.source)
        to_super = await self._super_stream(self._there, target, request.target)
        plan = self._plan(from_super, to_super)
        self._copy = Copy(
            source,
            target,
            plan,
            self._reports,
            Surroundings(
                lambda: int(context.env.now() * 1000), self._reports.gap, outage_until=lambda: self._outages.until
            ),
        )
        await self._copy.open()
        if len(self._copy.copies) > 1:
            self._stats.parts = self._parts

    async def _super_stream(self, context: CommandContext, client: Client, name: str) -> bool:
        """Returns whether a name is that of a super stream. Raises ``StreamDoesNotExist`` with a hint for neither."""
        try:
            super_stream, _ = await find_streams(client, [name], Kind.EITHER)
        except StreamDoesNotExist as error:
            near = await near_name(context.connection, name, of_super_streams=False)
            error.hint = _MAKE.format(shlex.quote(name)) if near is None else f"did you mean {near!r}?"
            raise
        return super_stream is not None

    def _plan(self, is_super: bool, to_super: bool) -> CopyPlan:
        request, options = self._request, self._request.options
        if is_super and request.start is not None:
            check_no_offset("--offset", request.start, request.source)
        if is_super and request.until is not None and request.until.kind is UntilKind.ABSOLUTE:
            raise CommandError(
                f"--until: {request.source!r} is a super stream, and a number is an offset of one partition",
                hint="give end or a time",
            )
        if request.keys is not None and not to_super:
            raise CommandError(f"--key-from: {request.target!r} is a stream, and has no partitions")
        until = END if request.until is None else until_at(request.until)
        values = () if request.filter is None else request.filter.values
        unfiltered = request.filter is not None and request.filter.match_unfiltered
        return CopyPlan(
            request.source,
            request.target,
            is_super=is_super,
            to_super=to_super,
            start=None if request.start is None else start_at(request.start, None),
            until=None if options.follow else until,
            name=options.name,
            is_appended=options.append,
            selection=selection_of(request.selection, values, match_unfiltered=unfiltered),
            choosers=request.choosers,
            filter_values=values,
            match_unfiltered=unfiltered,
            filters_of=None if request.filters is None else request.filters.texts,
            keys=None if request.keys is None else Keys(request.keys.keys, f"hash of {options.key_from}"),
            compression=request.compression,
            gate=self._gate(),
            credit=options.credit,
            fail_on_gap=request.fails_on_gap,
        )

    def _gate(self) -> Gate | None:
        request, rate = self._request, self._request.options.rate
        if request.pace is not None:
            return Pace(request.pace, self._reports.pause)
        if rate is None:
            return None
        if rate.bytes_per_second is not None:
            return Rate(rate.bytes_per_second, sizes_of)
        return Rate(rate.messages_per_second)

    async def _carry(self, source: Client) -> Ended:
        copy = self._copy
        assert copy is not None
        self._display.start()
        followed = None
        if self._request.options.follow and self._display.mode is not StatsMode.NONE:
            followed = asyncio.create_task(self._look_for_ends(source))
        try:
            if self._why is not None:
                copy.stop(self._why, DRAIN_TIMEOUT)
            return self._ended(await copy.work(), copy)
        except asyncio.CancelledError:
            if not self._context.interrupt.forced:
                raise
            return self._ended(Stop(f"{signal_name(self._context)} twice, stopped at once", "signal"), copy)
        finally:
            if followed is not None:
                await end_beside(followed)

    def _ended(self, why: Stop, copy: Copy) -> Ended:
        """Returns how a run with this reason has ended. Raises the core's errors."""
        if isinstance(why.error, RstreamError) and not isinstance(why.error, NotConfirmed):
            raise why.error
        open_ = sum(one.in_flight for one in copy.copies)
        failed = sum(one.account.by[Verdict.FAILED] for one in copy.copies)
        if open_ or failed:
            what = str(why.error) if why.error is not None else why.reason
            error = CommandError(
                f"{open_ + failed:,} messages are not confirmed: {what}",
                status=ExitStatus.NOT_CONFIRMED,
                hint="run the same command again: it goes on where the target ends",
            )
            return Ended(why.reason, error.status, error)
        if why.error is not None:
            raise why.error
        reason = UNTIL_REACHED if self._request.until is not None and why.kind == "until" else why.reason
        return Ended(_REASONS.get(why.kind, reason) if reason is why.reason else reason)

    # Figures.

    async def _look_for_ends(self, source: Client) -> None:
        """Keeps the ends of streams that are followed, for the lag."""
        copy = self._copy
        assert copy is not None
        while True:
            for one in copy.copies:
                stream = one.looking.source.stream
                with contextlib.suppress(RstreamError):  # the copy itself meets it too
                    end = await source.last_offset(stream)  # what the broker calls committed may be its own record
                    if end is not None:
                        self._ends[stream] = end
            await asyncio.sleep(END_INTERVAL)

    def _up_to_date_counts(self) -> CopyCounts:
        self._stats.update()
        return self._reports.counts

    def _count(self) -> None:
        """Copies the figures of the flow into the statistics, perhaps in the thread of the display."""
        counts, copies = self._reports.counts, () if self._copy is None else self._copy.copies
        by = [one.account.by for one in copies]
        counts.confirmed = sum(each[Verdict.DONE] for each in by)
        counts.failed = sum(each[Verdict.FAILED] for each in by)
        counts.in_flight = sum(one.in_flight for one in copies)
        counts.written = sum(one.published for one in copies)
        counts.left_out = sum(each[Verdict.PASSED] for each in by)
        counts.already_there = sum(each[Verdict.KNOWN] for each in by)
        counts.read = sum(one.account.read for one in copies)
        lags = [self._lag(place) for place in range(len(copies))]
        counts.lag = sum(lag for lag in lags if lag is not None) if None not in lags and lags else None
        self._stats.bytes = sum(one.bytes for one in copies)
        self._stats.done = counts.confirmed + counts.failed + counts.left_out + counts.already_there

    def _lag(self, place: int) -> int | None:
        """Messages from the last one that is done with to the end; None where that is unknown."""
        assert self._copy is not None
        one = self._copy.copies[place]
        end = self._ends.get(one.looking.source.stream, one.end)
        if end is None:
            return None
        reading = one.reading
        passed = -1 if reading is None else reading.passed
        begins = one.looking.begins if one.looking.begins is not None else one.looking.first or 0
        return max(end - max(passed, begins - 1), 0)

    def _parts(self) -> list[Part]:
        """The figures of each partition, perhaps in the thread of the display."""
        return list(self._each_part())

    def _each_part(self) -> Iterator[Part]:
        for one in () if self._copy is None else self._copy.copies:
            reading = one.reading
            in_flight = one.in_flight
            done = max(one.published - in_flight, 0)
            state = "done" if reading is not None and reading.is_read_out and not in_flight else ""
            yield Part(one.looking.source.stream, state, None, done, in_flight)

    # Ending the run from outside.

    async def _watch_signals(self) -> None:
        await self._context.interrupt.requested.wait()
        self._why = Stop(signal_name(self._context), "signal")
        if self._opening is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._opening.reschedule(asyncio.get_running_loop().time())
        elif self._copy is not None:
            self._copy.stop(self._why, DRAIN_TIMEOUT)
