"""Where a run of ``consume`` writes: stdout, or the file of a dump."""

from __future__ import annotations

from rstream_cli.consume_plan import ConsumePlan
from rstream_cli.consume_report import ConsumeReports
from rstream_cli.endpoints.stdout import GATHERED, StdoutSink
from rstream_cli.runner import CommandContext


def sink_of(plan: ConsumePlan, context: CommandContext, reports: ConsumeReports) -> StdoutSink:
    """Returns the sink of a plan."""
    dump = plan.dump
    file = None if dump is None else dump.file
    return StdoutSink(
        context.env.stdout.fileno() if file is None else file.descriptor,
        plan.render,
        on_skip=reports.skipped if plan.skip_bad else None,
        unbuffered=plan.unbuffered,
        gathers=plan.store_every.messages is None,
        enough=GATHERED if dump is None else dump.enough,
        pack=None if dump is None else dump.pack,
        name="stdout" if dump is None else dump.name,
    )
