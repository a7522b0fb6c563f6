"""What ``lag`` makes of streams that cannot be asked: as a check, and again and again."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from rstream_cli import lag_run
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.lag_survey import LagSurvey
from rstream_cli.lags import Lag, Lags, Limit, Unknown
from rstream_cli.management.errors import ManagementUnavailable
from rstream_core import (
    AccessRefused,
    AuthenticationFailure,
    RequestTimeout,
    RstreamError,
    StreamDoesNotExist,
    StreamNotAvailable,
)

UP = Lag("p-0", "n", 3, 9, 6, 90.0, 0)


def lags(*known: Lag, unknown: RstreamError | None = None) -> Lags:
    down = [] if unknown is None else [Unknown("p-1", unknown)]
    return Lags("p", "p", ["p-0", "p-1"], 1000.0, known, down)


@pytest.mark.parametrize("kind", [StreamDoesNotExist, AccessRefused, StreamNotAvailable, RequestTimeout])
@pytest.mark.parametrize("limit", [None, Limit(messages=6), Limit(seconds=90.0)])
def test_a_stream_that_cannot_be_asked_is_no_success(kind: type[RstreamError], limit: Limit | None) -> None:
    """The exit code is 6, whatever the reason is: it is not the code of the other streams."""
    with pytest.raises(CommandError) as caught:
        lag_run.check_all(lags(UP, unknown=kind("not now", hint="wait")), limit)
    assert caught.value.status is ExitStatus.CONNECTION
    assert (str(caught.value), caught.value.hint) == ("1 of 2 streams could not be asked: 'p-1': not now", "wait")


@pytest.mark.parametrize("limit", [Limit(messages=5), Limit(seconds=89.0)])
def test_who_is_over_the_limit_counts_more(limit: Limit) -> None:
    with pytest.raises(CommandError) as caught:
        lag_run.check_all(lags(UP, unknown=StreamNotAvailable("not now")), limit)
    assert caught.value.status is ExitStatus.CHECK_FAILED


class Survey:
    """Answers of a survey, one after the other; the last one again and again."""

    def __init__(self, *answers: Lags | RstreamError) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def refresh(self) -> Lags:
        await asyncio.sleep(0)
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RstreamError):
            raise answer
        return answer


class View:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, lags: Lags) -> None:
        self.shown.append("lags")

    def note(self, text: str) -> None:
        self.shown.append(text)

    def close(self) -> None:
        self.shown.append("closed")


async def watched(survey: Survey, patience: float) -> tuple[RstreamError | CommandError, list[str]]:
    """How it ended, and what was shown."""
    view = View()
    with pytest.raises((RstreamError, CommandError)) as caught:
        async with asyncio.timeout(20):
            await lag_run.watch(cast("LagSurvey", survey), view, [], 0.01, Limit(messages=10), patience)
    assert isinstance(caught.value, RstreamError | CommandError)
    return caught.value, view.shown


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag_run, "_TRY_AGAIN", 0.01)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "error", [ManagementUnavailable("it is\ndown"), StreamNotAvailable("it is\ndown"), RequestTimeout("it is\ndown")]
)
async def test_watching_goes_on_over_an_outage(error: RstreamError) -> None:
    over = lags(Lag("p-0", "n", 3, 99, 96, 90.0, 0))
    end, shown = await watched(Survey(lags(UP), error, error, lags(UP), error, over), 10.0)
    assert isinstance(end, CommandError)
    assert end.status is ExitStatus.CHECK_FAILED
    told = r"no answer for 0 s: it is\ndown"
    assert shown == ["lags", told, told, "lags", told, "lags", "closed"]


@pytest.mark.usefixtures("at_once")
async def test_watching_ends_after_the_time_for_recovery() -> None:
    error = ManagementUnavailable("it is down")
    survey = Survey(lags(UP), error)
    end, shown = await watched(survey, 0.1)
    assert end is error
    assert survey.asked > 3
    assert shown[-2:] == ["no answer for 0 s: it is down", "closed"]
    survey = Survey(lags(UP), error)  # --recover-for 0
    assert (await watched(survey, 0.0))[0] is error
    assert survey.asked == 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "answers",
    [(AuthenticationFailure("no"),), (ManagementUnavailable("down"),), (lags(UP), AuthenticationFailure("no"))],
)
async def test_watching_ends_at_once(answers: tuple[Lags | RstreamError, ...]) -> None:
    """At the start, and where trying again cannot help."""
    survey = Survey(*answers)
    end, _ = await watched(survey, 10.0)
    assert end is answers[-1]
    assert survey.asked == len(answers)
