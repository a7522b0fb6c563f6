"""Which exit code counts where several things have happened."""

from __future__ import annotations

import importlib
import sys

import pytest

from rstream_cli.ended import Ended
from rstream_cli.exit_status import CommandError, ExitStatus, first_error, status_of
from rstream_cli.records.framing_in import RecordError
from rstream_cli.records.tagged_values import EnvelopeError

SIGNALS = [ExitStatus.INTERRUPTED, ExitStatus.TERMINATED]
HIDDEN = [ExitStatus.OK, ExitStatus.PARTLY_DONE, ExitStatus.TIMED_OUT]
STRONGER = [ExitStatus.NOT_CONFIRMED, ExitStatus.STDOUT_CLOSED]


@pytest.mark.parametrize("status", ExitStatus)
def test_without_a_signal_it_is_that_of_the_run(status: ExitStatus) -> None:
    assert Ended("so", status).status_after(None) is status


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("status", HIDDEN)
def test_a_signal_counts_for_more_than_a_run_that_is_done(status: ExitStatus, signal: ExitStatus) -> None:
    assert Ended("so", status).status_after(signal) is signal


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("status", STRONGER)
def test_what_is_lost_counts_for_more_than_a_signal(status: ExitStatus, signal: ExitStatus) -> None:
    assert Ended("so", status).status_after(signal) is status


@pytest.mark.parametrize("signal", SIGNALS)
def test_an_error_counts_for_more_than_a_signal(signal: ExitStatus) -> None:
    error = CommandError("record 3 is bad", status=ExitStatus.BAD_RECORD)
    assert Ended("bad", ExitStatus.BAD_RECORD, error).status_after(signal) is ExitStatus.BAD_RECORD


CLOSED = BrokenPipeError()
FIRST, LAST = CommandError("1", status=ExitStatus.BAD_RECORD), CommandError("2", status=ExitStatus.ACCESS)


@pytest.mark.parametrize(
    ("errors", "counts", "status"),
    [
        ([FIRST, LAST], FIRST, ExitStatus.BAD_RECORD),
        ([LAST, FIRST], LAST, ExitStatus.ACCESS),
        ([ExceptionGroup("inner", [LAST, FIRST]), FIRST], LAST, ExitStatus.ACCESS),
        ([FIRST, CLOSED], CLOSED, ExitStatus.STDOUT_CLOSED),
        ([FIRST, ExceptionGroup("inner", [LAST, CLOSED])], CLOSED, ExitStatus.STDOUT_CLOSED),
    ],
)
def test_of_a_group_the_first_error_counts_and_a_closed_stdout_before_all(
    errors: list[Exception], counts: Exception, status: ExitStatus
) -> None:
    group = ExceptionGroup("some", errors)
    assert first_error(group) is counts
    assert status_of(group) is status


RECORD_ERRORS = ["rstream_cli.records.framing_in", "rstream_cli.records.tagged_values"]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_only_an_error_of_a_record_is_one(is_loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the modules that know them are loaded."""
    for module in RECORD_ERRORS:
        importlib.import_module(module)
        if not is_loaded:
            monkeypatch.delitem(sys.modules, module)
    assert status_of(ValueError("a slip")) is ExitStatus.INTERNAL
    assert status_of(FileNotFoundError(2, "No such file", "records.txt")) is ExitStatus.USAGE
    assert status_of(OSError(28, "No space left on device")) is ExitStatus.INTERNAL


def test_an_error_of_a_record() -> None:
    assert status_of(RecordError(3, "too large")) is ExitStatus.BAD_RECORD
    assert status_of(EnvelopeError("no JSON")) is ExitStatus.BAD_RECORD


def test_how_a_run_ended_does_not_change() -> None:
    ended = Ended("so")
    with pytest.raises(AttributeError):
        ended.status = ExitStatus.INTERNAL  # type: ignore[misc]


def test_the_numbers_are_a_contract() -> None:
    """Scripts compare them; docs/cli.md and the README name them."""
    assert {status.name: int(status) for status in ExitStatus} == {
        "OK": 0,
        "INTERNAL": 1,
        "USAGE": 2,
        "PARTLY_DONE": 3,
        "NOT_FOUND": 4,
        "ACCESS": 5,
        "CONNECTION": 6,
        "NOT_CONFIRMED": 7,
        "BAD_RECORD": 8,
        "PRECONDITION": 9,
        "CHECK_FAILED": 10,
        "TIMED_OUT": 124,
        "INTERRUPTED": 130,
        "STDOUT_CLOSED": 141,
        "TERMINATED": 143,
    }
