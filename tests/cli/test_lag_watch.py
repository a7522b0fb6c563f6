"""``rstream lag --watch``: on a terminal, in a pipe, until a name is over the limit, and until a signal."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from rstream_cli.management.api import ManagementApi
from rstream_cli.management.errors import ManagementUnavailable
from rstream_core import EmbeddedBroker
from tests.cli.conftest import Run, run_here, run_rstream
from tests.cli.killable import Killable
from tests.cli.process import ended, interrupt, limited, running
from tests.cli.terminal import Terminal

HOSTILE = 'bil"l\\\x1b[2J\n'


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """A stream ``events`` of ten messages, of which ``billing`` has read four, and ``HOSTILE`` all."""
    with EmbeddedBroker(management_port=0) as broker:
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": str(broker.management_uri)}
        assert run_rstream("publish", "events", "--create", stdin=b"x\n" * 10, env=env).returncode == 0
        for name, offset in (("billing", "3"), (HOSTILE, "9")):
            assert run_rstream("offset", "store", "events", offset, "--name", name, env=env).returncode == 0
        yield env


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    return lambda *arguments, **settings: run_rstream(*arguments, env=env, **settings)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_on_a_terminal(env: dict[str, str], number: signal.Signals, status: int) -> None:
    """The table is drawn in place, nothing of a name is acted upon, and the terminal is as it was at the end."""
    with (
        Terminal(80) as terminal,
        running(
            "lag", "events", "--watch", "--interval", "100ms", env={**env, "TERM": "xterm"}, stdout=terminal.descriptor
        ) as process,
    ):
        terminal.read_while(lambda: terminal.shown.count("every 0.1 s") < 4)
        interrupt(process, number)
        assert ended(process) == (status, "")
        terminal.read(0.2)
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h") == 1
    assert terminal.shown.endswith("\r\n\x1b[?25h")
    assert "\x1b[2J" not in terminal.shown
    frames = terminal.shown.split("\x1b[2K\x1b[2m")  # each after the first is drawn over the one before
    assert len(frames) >= 4
    for frame in frames[1:-1]:
        # Nothing scrolls: as many lines are taken back as were drawn.
        assert frame.count("\r\n") == frame.count("\x1b[1A") == 3
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1]).splitlines()
    assert [line.split()[0] for line in last] == [last[0].split()[0], "name", "billing", r'bil"l\\\x1b[2J\n']
    assert all(len(line) < 80 for line in last)


def test_more_rows_than_lines(env: dict[str, str]) -> None:
    with (
        Terminal(80) as terminal,
        running(
            "lag", "events", "--watch", env={**env, "TERM": "xterm", "LINES": "4"}, stdout=terminal.descriptor
        ) as process,
    ):
        terminal.read_until("and 2 more lines")
        interrupt(process)
        assert ended(process) == (130, "")


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a dumb terminal"])
def test_blocks(env: dict[str, str], terminal: bool) -> None:
    with Terminal(80) as shown:
        stdout = shown.descriptor if terminal else subprocess.PIPE
        variables = {**env, "TERM": "dumb"}
        with running(
            "lag",
            "events",
            "--name",
            "billing",
            "--watch",
            "--interval",
            "50ms",
            env=variables,
            stdout=stdout,
        ) as process:
            if terminal:
                shown.read_while(lambda: shown.shown.count("billing") < 3)
                lines = shown.shown.splitlines()
            else:
                assert process.stdout is not None
                lines = [process.stdout.readline().decode().rstrip("\n") for _ in range(11)]
            interrupt(process)
            assert ended(process) == (130, "")
    assert "\x1b" not in "".join(lines)
    for at in (0, 4, 8):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[at])
        assert lines[at + 1].split() == ["name", "stored", "last", "messages", "behind"]
        assert lines[at + 2].split()[:4] == ["billing", "3", "9", "6"]
        assert lines[at + 3 : at + 4] in ([""], [])


def test_an_object_a_line(env: dict[str, str]) -> None:
    with running("lag", "events", "--json", "--watch", "--interval", "50ms", env=env) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.stdout.close()
        assert ended(process) == (141, "")
    for record in found:
        assert list(record) == ["time", "target", "lags"]
        assert [(lag["name"], lag["lag_messages"]) for lag in record["lags"]] == [("billing", 6), (HOSTILE, 0)]


def test_until_a_name_is_over_the_limit(env: dict[str, str], run: Run) -> None:
    words = ("lag", "events", "--name", HOSTILE, "--fail-over", "2", "--watch", "--interval", "50ms")
    with running(*words, env=env) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert run("publish", "events", stdin=b"x\n" * 3).returncode == 0
        status, errors = ended(process)
    assert status == 10
    assert errors.startswith("error: 1 of 1 over --fail-over in 'events': ")
    assert "is 3 messages (" in errors


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("--interval", "1s"), 2, "--interval needs --watch or --listen"),
        (("--watch", "--interval", "0"), 2, "--interval: "),
        (("--watch", "--interval", "5"), 2, "--interval: a duration without a unit"),
        (("--watch", "--output", "prometheus"), 2, "--watch and --output prometheus contradict each other"),
        (("--watch", "--name", "nobody"), 4, "no offset is stored as 'nobody' in stream 'events'"),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], status: int, error: str) -> None:
    done = run("lag", "events", *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr.decode().startswith(f"error: {error}")


def test_metrics(run: Run) -> None:
    done = run("lag", "events", "--name", HOSTILE, "--output", "prometheus")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb'name="bil\"l\\' + b"\x1b[2J" + rb'\n"' in done.stdout


def test_metrics_on_a_terminal_are_harmless(env: dict[str, str]) -> None:
    with (
        Terminal(300) as terminal,
        running(
            "lag", "events", "--name", HOSTILE, "--output", "prometheus", env=env, stdout=terminal.descriptor
        ) as process,
    ):
        assert process.wait(30) == 0
        terminal.read(0.2)
    assert "\x1b" not in terminal.shown
    assert r'name="bil\"l\\\x1b[2J\n"' in terminal.shown


def test_over_a_broker_that_is_killed_and_comes_back(killable: Killable) -> None:
    env = {"RSTREAM_URI": killable.uri}
    assert run_rstream("publish", "s", stdin=b"x\n" * 3, env=env).returncode == 0
    assert run_rstream("offset", "store", "s", "0", "--name", "n", env=env).returncode == 0
    words = ("lag", "s", "--name", "n", "--json", "--watch", "--interval", "50ms")
    with running(*words, env=env) as process:
        assert process.stdout is not None
        with limited(process, 120):
            first = json.loads(process.stdout.readline())
            killable.kill()
            killable.start()
            assert run_rstream("publish", "s", stdin=b"x\n", env=env, timeout=60).returncode == 0
            found = first
            while found["lags"][0]["last_offset"] == first["lags"][0]["last_offset"]:
                found = json.loads(process.stdout.readline())
        interrupt(process)
        assert ended(process) == (130, "")
    assert first["lags"][0]["lag_messages"] == 2
    assert found["lags"][0]["lag_messages"] >= 3


def test_over_a_management_api_that_comes_back_after_the_broker(tmp_path: Path) -> None:
    """So it does where a broker starts: the port of the stream protocol is there first."""
    with Terminal(200) as terminal, ExitStack() as stack:
        with EmbeddedBroker(data=tmp_path, management_port=0) as broker:
            port, management = broker.port, str(broker.management_uri)
            env = {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": management, "TERM": "xterm"}
            assert run_rstream("publish", "s", "--create", "-m", "x", env=env).returncode == 0
            assert run_rstream("offset", "store", "s", "0", "--name", "n", env=env).returncode == 0
            words = ("lag", "s", "--watch", "--interval", "50ms")
            process = stack.enter_context(running(*words, env=env, stdout=terminal.descriptor))
            terminal.read_until("every 0.05 s")
        with EmbeddedBroker(data=tmp_path, port=port):
            terminal.read_until(f" s: {management}")
        with EmbeddedBroker(data=tmp_path, port=port, management_port=urlsplit(management).port or 0):
            assert run_rstream("offset", "store", "s", "0", "--name", "later", env=env).returncode == 0
            terminal.read_until("later")
            interrupt(process)
            assert ended(process) == (130, "")


def test_a_check_does_not_need_what_is_only_told_of(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is told of consumers without a stored offset; where the API fails then, the check still decides."""

    async def fails(api: ManagementApi) -> NoReturn:
        raise ManagementUnavailable("it is down")

    monkeypatch.setattr(ManagementApi, "consumers", fails)
    for limit, status in (("1", 10), ("1000", 0)):
        done = run_here("lag", "events", "--fail-over", limit, env=env, terminal=True)
        assert done.status == status
        assert "it is down" not in done.errors
