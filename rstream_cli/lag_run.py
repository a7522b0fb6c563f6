"""What ``rstream lag`` does with lags: shows them, once or again and again, and checks them against a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment, PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.lag_survey import LagSurvey, check_names
from rstream_cli.lags import Lags, Limit, Total
from rstream_cli.management.answers import ListedConsumer
from rstream_cli.management.errors import ManagementUnavailable
from rstream_cli.pretty_json import write_answer
from rstream_cli.render import prometheus, words
from rstream_cli.render.lag_table import behind, records, table
from rstream_core.errors import RstreamError
from rstream_core.text import harmless

LATE = 2.0
"""Seconds after which a display says that there is no answer."""
_TRY_AGAIN = 1.0
"""Seconds until a refresh that has failed is tried again."""
_MOST_TOLD = 3
"""Names over the limit, or consumers without a stored offset, that a line tells of."""


def show(lags: Lags, env: Environment, output: str, pretty: PrettyChoice, color: ColorChoice) -> None:
    """Writes lags to stdout, once. ``output``: table, json or prometheus."""
    if output == "json":
        write_answer(env, records(lags), pretty, color)
    elif output == "prometheus":
        text = prometheus.exposition(lags)
        text = harmless(text, lines=True) if env.stdout_is_tty else text
        terminal.write_json(env.stdout, text, is_tty=env.stdout_is_tty)
    else:
        env.stdout.write(_table(lags, env))
        env.stdout.flush()


def _table(lags: Lags, env: Environment) -> str:
    """As wide as the terminal, where stdout is one."""
    return table(lags, env.size_of(env.stdout)[0]) if env.stdout_is_tty else table(lags)


def told_of_others(others: Sequence[ListedConsumer]) -> str:
    """Tells of consumers that store no offset, of which the broker alone knows how far they have been sent."""
    told = []
    for one in others[:_MOST_TOLD]:
        where = f"{repr(one.name) if one.name else 'one without a name'} in {one.stream!r}"
        told.append(where if one.lag is None else f"{where} (sent all but about {words.messages(one.lag)})")
    more = f"; and {words.count(len(others) - _MOST_TOLD)} more" if len(others) > _MOST_TOLD else ""
    return f"reading without a stored offset: {'; '.join(told)}{more}"


# Checking.


def check_limit(lags: Lags, limit: Limit | None) -> None:
    """Raises an error where a name is over the limit."""
    if limit is None:
        return
    found = lags.by_name()
    over = [total for total, each in found if limit.is_passed(total, each)]
    if over:
        told = "; ".join(map(_told, over[:_MOST_TOLD]))
        more = f"; and {words.count(len(over) - _MOST_TOLD)} more" if len(over) > _MOST_TOLD else ""
        raise CommandError(
            f"{words.count(len(over))} of {words.count(len(found))} over --fail-over in {lags.target!r}: {told}{more}",
            status=ExitStatus.CHECK_FAILED,
        )


def check_all(lags: Lags, limit: Limit | None) -> None:
    """As ``check_limit``; and raises the reason where something cannot be known. All but these have exit code 6."""
    check_limit(lags, limit)
    if lags.unknown:
        first = lags.unknown[0]
        many = f"{words.count(len(lags.unknown))} of {words.count(len(lags.streams))} streams"
        raise CommandError(
            f"{many} could not be asked: {first.stream!r}: {first.error}",
            hint=first.error.hint,
            status=ExitStatus.CONNECTION,
        )
    if limit is None:
        return
    found = lags.by_name()
    unread = next((total for total, each in found if limit.is_passed(total, each) is None), None)
    if unread is not None:
        raise CommandError(
            f"how old the next message for {unread.name!r} in {lags.target!r} is could not be read",
            status=ExitStatus.CONNECTION,
        )
    if not found:
        raise CommandError(
            f"no offset is stored in {lags.target!r}, so there is no lag to check", status=ExitStatus.NOT_FOUND
        )


def _told(total: Total) -> str:
    text = f"{total.name!r} is {words.messages(total.messages)} ({behind(total.seconds)}) behind"
    if not total.gone:
        return text
    return f"{text}, and retention took {words.count(total.gone)} offset{'' if total.gone == 1 else 's'} unread"


# Again and again.


class View(Protocol):
    """What shows lags again and again."""

    def update(self, lags: Lags) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Blocks:
    """A table after the other, each below its time: for whatever is no terminal."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._is_first = True

    def update(self, lags: Lags) -> None:
        blank = "" if self._is_first else "\n"
        self._is_first = False
        self._env.stdout.write(f"{blank}{_time(lags)}\n{_table(lags, self._env)}")
        self._env.stdout.flush()

    def note(self, text: str) -> None:
        """Nothing: the next block shows by its time that it was late."""

    def close(self) -> None:
        """Nothing is left to do."""


class Lines(Blocks):
    """One object a line, with the time of the refresh and all its lags."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write

    def update(self, lags: Lags) -> None:
        self._write({"time": _time(lags), "target": lags.target, "lags": records(lags)})


def _time(lags: Lags) -> str:
    return f"{datetime.fromtimestamp(lags.at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def view_for(env: Environment, output: str, interval: float, pretty: PrettyChoice, color: ColorChoice) -> View:
    """The view for ``--watch``: a display where stdout is a terminal that can move its cursor."""
    if output == "json":
        return Lines(lambda record: write_answer(env, [record], pretty, color))
    if not env.stdout_is_tty or env.variable("TERM") == "dumb":
        return Blocks(env)
    from rstream_cli.render.lag_live import LagView

    return LagView(env, color=env.use_color(color, stdout=True), interval=interval)


async def watch(
    survey: LagSurvey, view: View, names: Sequence[str], interval: float, limit: Limit | None, patience: float
) -> NoReturn:
    """Refreshes and shows lags every ``interval`` seconds, until a name is over the limit, or an error or a signal.

    Where nothing can be asked, tries again until that has gone on for ``patience`` seconds, and raises the last error;
    not at the start. ``names`` must be stored then.
    """
    try:
        lags = await survey.refresh()
        check_names(lags, names)
        while True:
            view.update(lags)
            check_limit(lags, limit)
            await asyncio.sleep(interval)
            lags = await _next(survey, view, patience)
    finally:
        view.close()


async def _next(survey: LagSurvey, view: View, patience: float) -> Lags:
    """The next lags. While they do not come, the view says so."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    why = ""

    def note() -> None:
        view.note(f"no answer for {words.rough(loop.time() - began)}{why}")

    while True:
        try:
            return await _answered(survey.refresh(), note)
        except RstreamError as error:
            # The core tries again only after a lost connection: not where the management API is down, or a leader.
            if not (error.retriable or isinstance(error, ManagementUnavailable)):
                raise
            if loop.time() - began >= patience:
                raise
            why = f": {terminal.line(str(error))}"
            note()
        await asyncio.sleep(min(_TRY_AGAIN, max(began + patience - loop.time(), 0.0)))


async def _answered(asked: Coroutine[Any, Any, Lags], note: Callable[[], None]) -> Lags:
    """The answer. Calls ``note`` every ``LATE`` seconds until it is there."""
    refreshing = asyncio.create_task(asked)
    try:
        while not (await asyncio.wait({refreshing}, timeout=LATE))[0]:
            note()
        return refreshing.result()
    finally:
        if not refreshing.done():
            refreshing.cancel()
            await asyncio.wait({refreshing})
