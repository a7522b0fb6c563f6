"""Ends a run that has a display: determines the order of the last lines on stderr.

``publish`` and ``consume`` work inside ``run_displayed``. Every end - of the input, by a limit, a signal or an error -
becomes an ``Ended``. Then the live display is removed, the summary is shown and the error is reported. In JSON the
error comes before the summary, because there the summary is the last line.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager

from rstream_cli.ended import Ended
from rstream_cli.exit_status import ExitStatus, first_error, status_of
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.runner import CommandContext, describe, report
from rstream_core import Client

Work = Callable[[], Awaitable[Ended]]


def signal_name(context: CommandContext) -> str:
    """Returns ``SIGINT`` or ``SIGTERM``, the first signal; ``interrupted`` where there was none."""
    number = context.interrupt.signal
    return "interrupted" if number is None else number.name


GOODBYE = 1.0
"""Seconds that a broker has to answer when a run closes its connections. Usually it takes a hundredth of that."""
_AT_ONCE = 0.1


async def take_leave(client: Client, closing: Coroutine[object, object, object], *, hurry: bool = False) -> None:
    """Waits for ``closing``. If the broker does not answer in time, ends the client's connections without Close."""
    task = asyncio.ensure_future(closing)
    done, _ = await asyncio.wait((task,), timeout=_AT_ONCE if hurry else GOODBYE)
    if not done:
        client.abort()
        done, _ = await asyncio.wait((task,), timeout=GOODBYE)
    if done:
        task.result()
    else:
        task.cancel()


async def end_beside(task: asyncio.Task[None]) -> None:
    """Cancels a task that works beside a run, and waits for its end. Raises the error with which it had failed."""
    task.cancel()
    await asyncio.wait((task,), timeout=GOODBYE)
    if task.done() and not task.cancelled():
        task.result()


async def run_displayed(
    context: CommandContext, display: Display, work: Work, *, always_sums_up: bool = False
) -> ExitStatus:
    """Does the work, shows how it ended, and returns the exit code. Raises an error that the runner must report.

    ``always_sums_up``: a run without an error shows its summary where nothing else is shown, too, but for ``-q``.
    """
    try:
        with _giving_way(context, display):
            try:
                ended = await work()
            finally:
                display.stop()  # inside, so that Ctrl-Z still hides the display
    except asyncio.CancelledError:
        if context.interrupt.status is None:
            raise
        ended = Ended(f"{signal_name(context)} twice, stopped at once", context.interrupt.status)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - reported here or by the runner
        ended = Ended(describe(first_error(error)), status_of(error), error)
    return _finish(context, display, ended, always_sums_up=always_sums_up)


@contextmanager
def _giving_way(context: CommandContext, display: Display) -> Iterator[None]:
    """Handles Ctrl-Z during the block: removes the live display, and shows the cursor, before the process stops."""
    may_stop = context.env.owns_process and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
    if display.mode is not StatsMode.LIVE or not may_stop:
        yield
        return
    loop = asyncio.get_running_loop()
    is_wanted = False

    def on_signal(*_: object) -> None:
        nonlocal is_wanted
        is_wanted = True
        loop.call_soon_threadsafe(suspend)

    def suspend() -> None:
        nonlocal is_wanted
        if not is_wanted:
            return  # another signal has stopped the process already
        with display.hidden():
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # returns on SIGCONT; at once where no shell could send that
            is_wanted = False
            signal.signal(signal.SIGTSTP, on_signal)

    signal.signal(signal.SIGTSTP, on_signal)
    try:
        yield
    finally:
        is_wanted = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _finish(context: CommandContext, display: Display, ended: Ended, *, always_sums_up: bool) -> ExitStatus:
    error, signal_status = ended.error, context.interrupt.status
    status = ended.status_after(signal_status)
    connection = context.connection
    quiet = connection.quiet or status is ExitStatus.STDOUT_CLOSED
    words = None if error is None else describe(first_error(error))
    if display.mode is StatsMode.JSON:
        if error is not None:
            report(error, env=context.env, verbosity=connection.verbosity, color=connection.color)
        display.finish(ended.reason, status, words)
        return status
    interrupted = signal_status is not None or status is ExitStatus.TIMED_OUT
    if not quiet or display.mode is StatsMode.LINE:
        forced = interrupted or (always_sums_up and error is None)
        display.finish(ended.reason, status, words, forced=forced and not quiet)
    if error is not None:
        if status is status_of(error):
            raise error
        report(error, env=context.env, verbosity=connection.verbosity, color=connection.color)
    return status
