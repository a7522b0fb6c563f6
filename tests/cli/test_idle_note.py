"""The line that says what an idle ``consume`` waits for: once, on a terminal alone, and never in a pipe."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from rstream_cli import idle_note
from rstream_core import EmbeddedBroker
from rstream_core.types import StreamStats
from tests.cli.conftest import Done, Run, run_here, run_rstream
from tests.cli.process import interrupt, running
from tests.cli.terminal import Terminal


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_note, "IDLE", 0.2)


def idle(env: dict[str, str], *arguments: str, terminal: bool = True) -> Done:
    """A run in which nothing comes for some time, with ``--timeout`` at its end."""
    done = run_here(*arguments, "--timeout", "2s", env=env, terminal=terminal)
    assert done.status == 124
    return done


def notes(done: Done) -> list[str]:
    """What it said it waits for, but for the turn of a single active consumer."""
    text = re.sub(r"\n  ", " ", done.errors)
    return [line for line in text.splitlines() if line.startswith("waiting for ") and "a turn" not in line]


def publish(run: Run, stream: str, *bodies: str) -> None:
    assert run("publish", stream, *(word for body in bodies for word in ("-m", body))).returncode == 0


def test_what_is_there_and_how_it_is_read(run: Run, env: dict[str, str], stream: str) -> None:
    assert notes(idle(env, "consume", stream)) == [f"waiting for messages of {stream!r}, which is empty"]
    publish(run, stream, *map(str, range(5)))
    wanted = f"waiting for new messages of {stream!r} (it has about 5; --offset first reads them)"
    assert notes(idle(env, "consume", stream)) == [wanted]


def test_after_all_was_read(run: Run, env: dict[str, str], stream: str) -> None:
    publish(run, stream, "one", "two")
    done = idle(env, "consume", stream, "-o", "first")
    assert done.data == b"one\ntwo\n"
    assert notes(done) == [f"waiting for new messages of {stream!r}"]


def test_messages_that_are_not_wanted(run: Run, env: dict[str, str], stream: str) -> None:
    publish(run, stream, "one", "two")
    done = idle(env, "consume", stream, "-o", "first", "--grep", "three")
    assert notes(done) == [f"waiting for more messages of {stream!r}: 2 messages came, and none is wanted"]


def test_a_super_stream(run: Run, env: dict[str, str], stream_name: str) -> None:
    assert run("superstream", "create", stream_name, "--partitions", "3").returncode == 0
    try:
        wanted = (
            f"waiting for new messages of 3 partitions of {stream_name!r} (--offset first reads those that are there)"
        )
        assert notes(idle(env, "superstream", "consume", stream_name)) == [wanted]
    finally:
        run("superstream", "delete", stream_name, "--yes")


def test_a_consumer_that_waits_for_its_turn_says_that_alone(env: dict[str, str], stream: str) -> None:
    with running("sac-consume", stream, "--name", "g", "--stats", "json", env=env, stderr=subprocess.PIPE) as active:
        assert active.stderr is not None
        while json.loads(active.stderr.readline())["event"] != "active":
            pass
        done = idle(env, "sac-consume", stream, "--name", "g")
        assert notes(done) == []
        assert f"waiting for a turn as 'g': {stream!r}" in done.errors
        interrupt(active)
        active.wait(20)
    assert notes(idle(env, "sac-consume", stream, "--name", "g")) == [f"waiting for new messages of {stream!r}"]


def test_not_in_a_pipe_and_not_with_q(env: dict[str, str], stream: str) -> None:
    assert notes(idle(env, "consume", stream, terminal=False)) == []
    assert idle(env, "consume", stream, "-q").errors == ""
    events = [json.loads(line) for line in idle(env, "consume", stream, "--stats", "json").errors.splitlines()]
    assert {event["event"] for event in events} == {"progress", "summary"}


def test_it_stands_above_the_live_display() -> None:
    """In a process, whose constants are its own."""
    with EmbeddedBroker() as broker:
        env = {"RSTREAM_URI": broker.uri, "TERM": "xterm"}
        assert run_rstream("publish", "s", "--create", "-m", "one", env=env).returncode == 0
        with (
            Terminal(60) as terminal,
            running("consume", "s", env=env, stderr=terminal.descriptor, process_group=0) as process,
        ):
            terminal.read_until("reads them)")
            shown = terminal.text
            terminal.shown = ""
            terminal.read_until("consumed 0")
            assert "waiting" not in terminal.text
            assert run_rstream("publish", "s", "-m", "two", env=env).returncode == 0
            terminal.read_until("consumed 1")
            interrupt(process)
            assert process.wait(20) == 130
        assert (
            " ".join(shown.split()).count("waiting for new messages of 's' (it has about 1; --offset first reads") == 1
        )


@pytest.mark.parametrize(
    ("told", "number"),
    [
        (StreamStats(None, None, None, None), 0),
        (StreamStats(0, 90, 90, None), 91),
        (StreamStats(10, 90, 90, 99), 90),
        (StreamStats(5, None, None, None), None),
    ],
)
def test_numbers_of_every_broker(told: StreamStats, number: int | None) -> None:
    assert idle_note._number(told) == number


def test_a_broker_that_does_not_tell() -> None:
    line = idle_note.idle_line("'s'", is_new=True, holds=None, left_out=0)
    assert line == "waiting for new messages of 's' (--offset first reads those that are there)"


def test_a_failure_of_the_note_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], run: Run, stream: str
) -> None:
    """It is told when the run is over."""

    def fails(*_: object, **__: object) -> str:
        raise ValueError("no words for it")

    monkeypatch.setattr(idle_note, "idle_line", fails)
    done = run_here("consume", stream, "--timeout", "1s", env=env, terminal=True)
    assert done.status == 1
    assert "no words for it" in done.errors
