"""Carries out ``diff``: reads both sides, writes the differences that it finds, and says how the comparison ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from rstream_cli import terminal
from rstream_cli.consume_plan import start_at
from rstream_cli.diff_report import line_of, record_of, summary_record
from rstream_cli.displayed_run import end_beside, signal_name, take_leave
from rstream_cli.ended import Ended
from rstream_cli.endpoints.stdout import GRACE
from rstream_cli.environment import StdoutError
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.kinds import check_no_offset, find_streams, near_name
from rstream_cli.names import Kind
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.outages import OutageReports
from rstream_cli.output import Output
from rstream_cli.parsing import Start
from rstream_cli.pretty_json import PrettyJson
from rstream_cli.render.display import Display, Severity, StatsMode
from rstream_cli.render.stats import ComparisonCounts, Stats
from rstream_cli.runner import CommandContext
from rstream_core import Client, Difference, Gap, RstreamError, StreamDoesNotExist
from rstream_core.diffing.diff import Diff, DiffSide, StreamPair

SAME, DIFFERENT = "they are the same", "they differ"
"""Why a run ends, where all was compared."""


@dataclass(frozen=True, slots=True)
class DiffPlan:
    """The checked options of a run."""

    a: str
    b: str
    other: ConnectionSettings | None
    """The settings of B's side; None where it is A's."""
    a_start: Start
    b_start: Start
    is_start_given: bool
    ignored: Sequence[str]
    window: int
    limit: int
    """How many differences to write at most."""
    as_json: bool
    layout: PrettyJson | None
    credit: int


class DiffRun:
    """One run. ``work`` is called once."""

    def __init__(self, plan: DiffPlan, context: CommandContext, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._contexts = context, context.at(plan.other)
        self._stats = stats
        self._display = display
        self._clients: list[Client] = []
        self._diff: Diff | None = None
        self._output: Output
        self._shown = self._left_out = 0
        """Differences that were written, and those behind ``--limit``."""

    async def work(self) -> Ended:
        """Compares, and returns how that ended. Raises errors of the core's and of stdout."""
        context = self._contexts[0]
        context.env.stdout.flush()
        comparing = asyncio.create_task(self._compare())
        stopped = asyncio.create_task(self._wait_for_signal())
        self._output = Output(context.env.stdout.fileno(), partial(_cancel, comparing))
        self._stats.bring_up_to_date = self._count
        try:
            await asyncio.wait((comparing, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not comparing.done():
                comparing.cancel()
                await asyncio.wait((comparing,))
            ended = self._ended(comparing)
            if self._plan.as_json and ended.error is None:
                await self._write_summary(ended, stopped)
            return ended
        finally:
            comparing.cancel()
            await asyncio.wait((comparing,))
            await end_beside(stopped)
            self._stats.update()
            self._output.close()
            for client in self._clients:
                await take_leave(client, client.close(), hurry=context.interrupt.forced)

    async def _wait_for_signal(self) -> None:
        await self._contexts[0].interrupt.requested.wait()

    def _ended(self, comparing: asyncio.Task[Ended]) -> Ended:
        if not comparing.cancelled():
            return comparing.result()
        if self._contexts[0].interrupt.signal is None:
            raise BrokenPipeError
        return Ended(f"{signal_name(self._contexts[0])}, so not all was compared")

    async def _compare(self) -> Ended:
        plan, display = self._plan, self._display
        for context in self._contexts if plan.other is not None else self._contexts[:1]:
            outages = OutageReports(display, self._stats, context.connection.recovery)
            client = context.client(outages, self._tell_gap)
            self._clients.append(client)
            try:
                await context.connect(client)
            except RstreamError as error:
                self._name_side(error, "A" if context is self._contexts[0] else "B")
                raise
        a, b = self._clients[0], self._clients[-1]
        pairs = await self._find_pairs(a, b)
        sides = (
            DiffSide(a, self._tell_gap, start_at(plan.a_start, None)),
            DiffSide(b, self._tell_gap, start_at(plan.b_start, None)),
        )

        async def found() -> Sequence[StreamPair]:
            return pairs

        diff = self._diff = Diff(sides, found, ignored=plan.ignored, window=plan.window, credit=plan.credit)
        display.start()
        try:
            await self._write_all(diff, with_streams=len(pairs) > 1)
        finally:
            await take_leave(a, diff.aclose(), hurry=self._contexts[0].interrupt.forced)
        if self._left_out:
            display.note(f"{self._left_out:,} more differences are not shown: --limit {plan.limit}")
        self._tell_of_starts(diff)
        return Ended(SAME) if diff.is_equal else Ended(DIFFERENT, ExitStatus.CHECK_FAILED)

    def _tell_of_starts(self, diff: Diff) -> None:
        """A start that somebody has given may lie behind the end by mistake: then nothing is the same as nothing. Where
        nobody has, and both begin at other offsets, they may be meant to be compared by those."""
        if self._plan.is_start_given:
            for side, firsts in zip("AB", zip(*diff.firsts, strict=True), strict=True):
                if not any(first is not None for first in firsts):
                    line = f"{side} has no message at the given start, or behind it"
                    self._display.event("no_message", line, Severity.WARNING, side=side.lower())
            return
        if diff.is_equal or len(diff.firsts) != 1:
            return
        a, b = diff.firsts[0]
        if a is not None and b is not None and a != b:
            line = f"A begins at offset {a}, B at {b}; if both have the same offsets, pass --offset {max(a, b)}"
            self._display.event("other_starts", line, a=a, b=b)

    # What is compared.

    async def _find_pairs(self, a: Client, b: Client) -> list[StreamPair]:
        plan = self._plan
        kinds, found = [], []
        for name, client, context, flag, start in (
            (plan.a, a, self._contexts[0], "--offset", plan.a_start),
            (plan.b, b, self._contexts[1], "--to-offset", plan.b_start),
        ):
            try:
                super_stream, streams = await find_streams(client, [name], Kind.EITHER)
            except StreamDoesNotExist as error:
                self._name_side(error, "A" if flag == "--offset" else "B")
                near = await near_name(context.connection, name, of_super_streams=False)
                if near is not None:
                    error.hint = f"did you mean {near!r}?"
                raise
            if super_stream is not None:
                check_no_offset(flag, start, super_stream)
            kinds.append(super_stream is not None)
            found.append(streams)
        if kinds[0] != kinds[1]:
            one, other = (plan.a, plan.b) if kinds[0] else (plan.b, plan.a)
            raise CommandError(
                f"{one!r} is a super stream, and {other!r} is a stream",
                hint="compare it with one of the partitions, or two super streams",
                status=ExitStatus.PRECONDITION,
            )
        if len(found[0]) != len(found[1]):
            raise CommandError(
                f"{plan.a!r} has {len(found[0])} partitions, and {plan.b!r} has {len(found[1])}: super streams are"
                " compared partition by partition",
                status=ExitStatus.PRECONDITION,
            )
        return [StreamPair(*pair) for pair in zip(*found, strict=True)]

    # What is told.

    def _name_side(self, error: RstreamError, side: str) -> None:
        if self._plan.other is not None:
            error.add_note(f"that is on the side of {side}")

    def _tell_gap(self, gap: Gap) -> None:
        self._display.event(
            "gap", str(gap), Severity.WARNING, bounded=True, stream=gap.stream, first=gap.first, last=gap.last
        )

    async def _write_all(self, diff: Diff, *, with_streams: bool) -> None:
        lines: list[Difference] = []
        async for difference in diff:
            if self._shown + len(lines) < self._plan.limit:
                lines.append(difference)
            else:
                self._left_out += 1
            if lines and not diff.has_more:
                await self._write(lines, with_streams=with_streams)
                lines = []

    async def _write(self, differences: Sequence[Difference], *, with_streams: bool) -> None:
        self._shown += len(differences)
        if self._plan.as_json:
            await self._write_json([record_of(difference) for difference in differences])
            return
        env = self._contexts[0].env
        text = "".join(f"{line_of(difference, with_streams=with_streams)}\n" for difference in differences)
        await self._put(text.encode(env.stdout.encoding or "utf-8", "backslashreplace"))

    async def _write_json(self, records: Sequence[dict[str, Any]]) -> None:
        env, layout = self._contexts[0].env, self._plan.layout
        text = "".join(map(terminal.json_line, records))
        if layout is not None:
            text = layout(text)
        encoding = (env.stdout.encoding or "utf-8") if env.stdout_is_tty else "utf-8"
        await self._put(terminal.encoded_json(text, encoding))

    async def _put(self, data: bytes) -> None:
        is_in_the_way = self._contexts[0].env.stdout_is_tty and self._display.mode is StatsMode.LIVE
        with self._display.hidden() if is_in_the_way else nullcontext():
            try:
                writing = self._output.write(data)
                if writing is not None:
                    await writing
            except BrokenPipeError:
                raise
            except OSError as error:
                raise StdoutError(error.errno, error.strerror) from None

    async def _write_summary(self, ended: Ended, stopped: asyncio.Task[None]) -> None:
        """Writes the object behind all differences. After a signal, the reader of stdout has ``GRACE`` for it."""
        diff, plan = self._diff, self._plan
        if diff is None:
            return
        status = ended.status_after(self._contexts[0].interrupt.status)
        record = summary_record(
            plan.a,
            plan.b,
            diff.counts,
            self._shown,
            is_complete=diff.is_complete,
            reason=ended.reason,
            status=int(status),
        )
        writing = asyncio.create_task(self._write_json([record]))
        try:
            await asyncio.wait((writing, stopped), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((writing,), timeout=GRACE)
            if writing.done():
                writing.result()
        finally:
            writing.cancel()

    def _count(self) -> None:
        """Copies the figures into the statistics, perhaps in the thread of the display."""
        diff, stats, counts = self._diff, self._stats, self._stats.counts
        assert isinstance(counts, ComparisonCounts)
        if diff is None:
            return
        for name in counts.__slots__:
            setattr(counts, name, getattr(diff.counts, name))
        stats.bytes, stats.total, stats.done = diff.bytes, diff.total, counts.a + counts.b


def _cancel(task: asyncio.Task[Ended]) -> None:
    task.cancel()
