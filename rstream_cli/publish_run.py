"""A run of ``publish``: a plan becomes a source, stages, a gate and a sink, and how they ended becomes an ``Ended``.

Records come in blocks from ``endpoints.records``. Stages leave out what is too large or known, and choose lanes by the
key; then the gate of ``--rate``, and the core's stream sink with its publishers: one for each partition of a super
stream. Each record that was read gets one verdict, and the numbers of the summary add up, however a run ends::

    read == published + not published          published == confirmed + failed

The input is read only as fast as the publishers take it, which wait for the broker's confirms.

With ids of the user's own (``--id-from``), records up to the last id that the broker has are not sent again. The broker
would drop and confirm them, and the summary would say that they were published just now. For the same reason a run with
such ids stops where a message is rejected: if later ids were stored, the next run would take the rejected one for
published. Messages in flight then get their answers, and the run reports which records are not stored.

``PublishRun`` is longer than other classes, since the accounts of its parts, and what is told of them, come together in
it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rstream_cli.displayed_run import signal_name, take_leave
from rstream_cli.ended import Ended
from rstream_cli.endpoints.publishers import Opened, open_for_dump, open_publishers
from rstream_cli.endpoints.records import Records
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.input import Input
from rstream_cli.outages import OutageReports, report_unconfirmed
from rstream_cli.publish_ending import how_it_ended
from rstream_cli.publish_plan import PublishPlan
from rstream_cli.publish_report import FailedFile, Losses, PublishReport
from rstream_cli.publish_stages import gate_for, sizes_for, stages_for
from rstream_cli.render.display import Display, Severity
from rstream_cli.render.stats import Part, PublishCounts, Stats
from rstream_cli.runner import CommandContext
from rstream_core import Client, Outcome, Publisher, RequestTimeout, RstreamError
from rstream_core.flow import run as driver
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.refusing import Bad
from rstream_core.flow.stages import Stop
from rstream_core.flow.stream_sink import StreamSink

if TYPE_CHECKING:
    from rstream_cli.endpoints.dump_records import DumpRecords

_ASK_TIMEOUT = 5.0
"""Seconds to ask the broker for its last publishing ids, at the end of a run in which it rejected messages."""


class PublishRun:
    """One run. ``work`` is called once."""

    def __init__(self, plan: PublishPlan, context: CommandContext, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._context = context
        self._stats = stats
        self._display = display
        self._sizes_of = sizes_for(plan)
        failed_file = None if plan.failed_to is None else FailedFile(plan.failed_to, raw=plan.raw)
        self._report = PublishReport(
            display, failed_file, name=plan.name, has_ids=plan.has_ids, ids_are_numbers=plan.ids_are_numbers
        )
        self._account = Account()
        self._left_out = 0
        """Bytes that the source has counted and that are bad, known already, or were not published."""
        self._behind = 0
        """Messages that lie behind a bad one: they count as not read."""
        self._publishers: Sequence[Publisher] = ()
        self._is_over = False
        """Whether the flow has ended, so that what is read on is only counted."""
        self._sink: StreamSink
        self._source: Records | DumpRecords
        self._run: driver.Run

    @property
    def _counts(self) -> PublishCounts:
        assert isinstance(self._stats.counts, PublishCounts)
        return self._stats.counts

    async def work(self) -> Ended:
        """Publishes the whole input, and returns how the run ended."""
        plan, context = self._plan, self._context
        outages = OutageReports(self._display, self._stats, context.connection.recovery)
        client = context.client(outages)
        self._sink = StreamSink(plan.batching, on_outcome=self._on_outcome, stops_at_rejected=plan.has_ids)
        inputs = None
        if plan.reader is not None or plan.is_dump:
            inputs = Input(plan.sources, context.env.stdin.fileno(), **plan.input_settings)
        self._source = self._records(inputs)
        self._stats.bring_up_to_date = self._count
        is_unresponsive = False
        scope = asyncio.timeout(None)
        stopper = asyncio.create_task(self._end_opening_on_signal(scope))
        watcher = asyncio.create_task(report_unconfirmed(self._display, self._up_to_date_counts, outages))
        try:
            try:
                async with scope:
                    opened = await self._open(client)
            except TimeoutError:
                if not context.interrupt.requested.is_set():
                    raise
                return Ended(signal_name(context))
            self._publishers = opened.publishers
            if len(opened.publishers) > 1:
                self._stats.parts = partial(_parts_of, opened.publishers)
            self._report.losses = [Losses(publisher.stream) for publisher in opened.publishers]
            self._run = self._flow(opened)
            stopper.cancel()
            stopper = asyncio.create_task(self._stop_on_signal())
            self._display.start()
            ended, problem = await self._carry()
            # A broker that does not confirm will hardly answer a request to close.
            is_unresponsive = problem is not None and not self._report.is_rejected
            await take_leave(client, self._close_publishers(), hurry=is_unresponsive)
            self._settle(has_problem=problem is not None)
            self._report.tell_of_repetitions(
                self._sink.sent_again, sub_entries=plan.sub_entries is not None or plan.is_dump
            )
            self._report.tell_of_holes()
            return how_it_ended(plan, self._counts, self._report, context.interrupt, ended, problem)
        finally:
            stopper.cancel()
            watcher.cancel()
            if inputs is not None:
                inputs.close()
            await take_leave(client, client.close(), hurry=is_unresponsive or context.interrupt.forced)

    # The parts of the flow.

    async def _open(self, client: Client) -> Opened:
        """Connects, and opens the publishers: for a dump, once its manifest is read, under a name that comes of it."""
        source, connect = self._source, self._context.connect
        if isinstance(source, Records):
            await connect(client)
            return await open_publishers(client, self._plan, self._sink)
        manifest = await source.open()
        self._plan = replace(self._plan, name=source.name)
        self._report.name = source.name
        await connect(client)
        return await open_for_dump(client, self._plan, self._sink, manifest)

    def _records(self, inputs: Input | None) -> Records | DumpRecords:
        plan = self._plan
        if plan.is_dump:
            from rstream_cli.endpoints.dump_records import dump_of

            assert inputs is not None
            return dump_of(plan, self._account, inputs, self._tell_damage)
        return Records(
            plan.encoder,
            self._account,
            inputs=inputs,
            reader=plan.reader,
            sources=plan.sources,
            inline=plan.inline,
            most=plan.count,
            skip_bad=plan.skip_bad,
            ids_are_numbers=plan.ids_are_numbers,
            size=self._size,
            tell_bad=self._tell_bad_record,
            on_cut=self._tell_of_a_cut,
        )

    def _flow(self, opened: Opened) -> driver.Run:
        """Returns the run of the opened source and sink."""
        plan = self._plan
        stages, prepare = stages_for(plan, *opened, self._tell_bad, self._leave_out)
        return driver.Run(
            self._source,
            stages,
            self._sink,
            self._account,
            gate=gate_for(plan),
            prepare=prepare,
            most_open=driver.MOST_OPEN + plan.max_in_flight,
        )

    # The run, and its end.

    async def _end_opening_on_signal(self, scope: asyncio.Timeout) -> None:
        await self._context.interrupt.requested.wait()
        with contextlib.suppress(RuntimeError):  # the scope has ended
            scope.reschedule(asyncio.get_running_loop().time())

    async def _stop_on_signal(self) -> None:
        await self._context.interrupt.requested.wait()
        self._run.stop(Stop(signal_name(self._context), "signal"), self._plan.drain_timeout)

    async def _carry(self) -> tuple[Stop | None, Exception | None]:
        """Carries the whole input to the publishers and waits for its confirms. Returns why there was no more, None
        where not all of it came there; and the problem that there was."""
        run, problem = self._run, None
        try:
            why = await run.work()
            if isinstance(why.error, RstreamError):
                problem = why.error
            elif not run.is_drained:
                problem = RequestTimeout(f"not all messages were confirmed within {self._plan.drain_timeout:g} s")
        except asyncio.CancelledError:
            if not self._context.interrupt.forced:
                raise
            problem = RequestTimeout("stopped at once")
        self._is_over = True
        if problem is not None:
            await self._unless_forced(self._let_the_others_finish())
        await self._unless_forced(self._ask_what_is_known())
        return run.fed, problem

    async def _unless_forced(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Waits for what is worth it at the end, but not beyond a second signal."""
        try:
            await waiting
        except asyncio.CancelledError:
            if not self._context.interrupt.forced:
                raise

    async def _let_the_others_finish(self) -> None:
        """After a rejection, or the failure of one partition, waits for the other messages in flight."""
        if not self._context.interrupt.requested.is_set():  # otherwise their time is over
            await self._sink.finish(self._plan.drain_timeout)

    async def _ask_what_is_known(self) -> None:
        """After a rejection, asks the broker for the last publishing id of the name."""
        if self._context.interrupt.forced:
            return
        try:
            async with asyncio.timeout(_ASK_TIMEOUT):
                for publisher, losses in zip(self._publishers, self._report.losses, strict=True):
                    if losses.rejected_ids:
                        losses.last_known = await publisher.last_publishing_id()
        except (RstreamError, TimeoutError):
            pass  # the last id stays unknown

    async def _close_publishers(self) -> None:
        await asyncio.gather(*(publisher.close(timeout=0) for publisher in self._publishers))

    def _settle(self, *, has_problem: bool) -> None:
        """Counts what was read and is not published, and keeps it."""
        unrouted: list[Block] = []
        if has_problem:
            for block in self._run.rest():
                if self._plan.routing is not None and block.lanes is None:
                    unrouted.append(block)
                else:
                    self._sink.hold(block)
        for stream, block in self._sink.take_waiting():
            self._add_unsent(stream, block)
        for block in unrouted:
            self._add_unsent(self._plan.stream, block)
        self._behind = sum(block.count for block in self._run.behind)
        for block in self._run.behind:
            self._leave_out(block)
        self._stats.update()

    def _add_unsent(self, stream: str, block: Block) -> None:
        self._leave_out(block)
        self._report.add_unsent(stream, block)

    # Called by the parts of the flow.

    def _tell_bad(self, block: Block, bad: Sequence[Bad]) -> Stop | None:
        """Tells of messages that are bad, or returns the stop at the first one."""
        for place, why in bad:
            self._left_out += self._size([block.messages[place]])
            stop = self._tell_bad_record(block.positions[place], why)
            if stop is not None:
                return stop
        return None

    def _tell_bad_record(self, number: int, why: str) -> Stop | None:
        where = self._source.name_of(number)
        if not self._plan.skip_bad:
            text = f"{where}: {why}"
            return Stop(text, "bad message", CommandError(text, status=ExitStatus.BAD_RECORD))
        line = f"{where} is skipped: {why}"
        self._display.event("skipped", line, Severity.WARNING, bounded=True, record=number, reason=why)
        return None

    def _tell_damage(self, what: str) -> None:
        self._report.is_partial = True
        self._display.event("damaged", f"left out: {what}", Severity.WARNING, bounded=True, reason=what)

    def _tell_of_a_cut(self) -> None:
        if not self._is_over:
            self._display.note("note: the last record was not read to its end, and is not published")

    def _leave_out(self, block: Block) -> None:
        self._left_out += self._size(block.messages)

    def _on_outcome(self, lane: int, outcome: Outcome) -> None:
        if outcome.confirmed:
            self._stats.latency.add(outcome.latency, outcome.confirmed)
        if outcome.failed:
            self._report.add_failed(lane, outcome)

    def _up_to_date_counts(self) -> PublishCounts:
        self._stats.update()
        return self._counts

    def _count(self) -> None:
        """Copies the figures of the flow into the statistics.

        Perhaps in the thread of the display, while messages go on: what comes last in their life is read first, so that
        no more are confirmed than published, nor more published than read.
        """
        counts, account, sink = self._counts, self._account, self._sink
        by = account.by
        counts.confirmed = by[Verdict.DONE]
        counts.failed = by[Verdict.FAILED]
        counts.in_flight = sink.in_flight
        counts.sent_again = sink.sent_again
        counts.published = sink.published
        counts.bad = by[Verdict.BAD]
        counts.already_published = by[Verdict.KNOWN]
        counts.not_published = counts.bad + counts.already_published + self._report.unsent
        counts.read = account.read - self._behind
        self._stats.bytes = self._source.size - self._left_out
        self._stats.done = self._source.done

    def _size(self, messages: Sequence[bytes]) -> int:
        return sum(self._sizes_of(messages))


def _parts_of(publishers: Sequence[Publisher]) -> list[Part]:
    """The figures of each stream, perhaps in the thread of the display."""
    parts = []
    for publisher in publishers:
        in_flight = publisher.in_flight  # first: what is published meanwhile counts as done otherwise
        done = max(publisher.published - in_flight, 0)
        parts.append(Part(publisher.stream, "", None, done, in_flight))
    return parts
