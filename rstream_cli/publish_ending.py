"""How a run of ``publish`` ended: its figures, and what went wrong, as an ``Ended``."""

from __future__ import annotations

from rstream_cli.ended import Ended
from rstream_cli.exit_status import CommandError, ExitStatus, status_of
from rstream_cli.publish_plan import PublishPlan
from rstream_cli.publish_report import PublishReport
from rstream_cli.render.stats import PublishCounts
from rstream_cli.runner import Interrupt, describe
from rstream_core.flow.stages import Stop


def how_it_ended(
    plan: PublishPlan,
    counts: PublishCounts,
    report: PublishReport,
    interrupt: Interrupt,
    fed: Stop | None,
    problem: Exception | None,
) -> Ended:
    """Returns why the run ended, with the exit code.

    ``fed``: why no further record came, once all had gone to their publishers; None where they had not. ``problem``:
    what kept messages from being published or confirmed.
    """
    lost = counts.failed + (report.unsent if problem is not None else 0)
    reason = "the input was not finished" if fed is None else fed.reason
    if interrupt.signal is not None:
        reason = interrupt.signal.name
    if lost:
        why = describe(problem) if problem is not None and not report.is_rejected else report.reason
        error = _not_confirmed(plan, counts, report, lost, why)
        return Ended(f"{reason}; {why}", error.status, error)
    if fed is None:
        if interrupt.forced or problem is None:
            return Ended(reason)
        return Ended(describe(problem), status_of(problem), problem)
    if report.file_error is not None:
        return Ended(describe(report.file_error), ExitStatus.INTERNAL, report.file_error)
    if isinstance(fed.error, CommandError):  # a bad record, or a file that cannot be read
        stated = CommandError(fed.reason, status=fed.error.status, hint=fed.error.hint)
        return Ended(fed.reason, stated.status, stated)
    return Ended(reason, ExitStatus.PARTLY_DONE) if counts.bad or report.is_partial else Ended(reason)


def _not_confirmed(
    plan: PublishPlan, counts: PublishCounts, report: PublishReport, lost: int, why: str
) -> CommandError:
    wanted = counts.read - counts.bad - counts.already_published
    which = f", {report.named_ids()}" if plan.has_ids else ""
    message = f"{lost:,} of {wanted:,} messages are not confirmed{which}: {why}"
    if report.file_error is not None:
        message += f"; --failed-to does not hold all of them: {describe(report.file_error)}"
    hint = None if plan.failed_to else "--failed-to FILE keeps such messages, for publish --json"
    if report.is_rejected and not report.may_leave_out:
        hint = "publish the same input again, under this name: what is stored already is left out"
    return CommandError(message, status=ExitStatus.NOT_CONFIRMED, hint=hint)
