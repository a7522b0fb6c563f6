"""A broker whose disk is full takes nothing more: the publisher waits, says so, and in the end gives up."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.brokers import Broker
from tests.cli.conftest import run_rstream
from tests.cli.process import ended, eventually, running


@pytest.fixture
def env(rabbitmq: Broker, stream_name: str) -> Iterator[dict[str, str]]:
    """The stream is RSTREAM_STREAM."""
    env = {"RSTREAM_URI": rabbitmq.uri, "RSTREAM_STREAM": stream_name}
    assert run_rstream("stream", "create", stream_name, env=env).returncode == 0
    yield env
    run_rstream("stream", "delete", stream_name, "--yes", env=env)


@pytest.fixture
def alarm(rabbitmq: Broker) -> Iterator[Callable[[bool], None]]:
    """Switches the disk alarm on and off."""

    def switch(on: bool) -> None:
        rabbitmq.ctl("set_disk_free_limit", "1000000GB" if on else "50MB")

    yield switch
    switch(False)


@contextmanager
def publishing(env: dict[str, str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with (
        subprocess.Popen(["seq", "40000"], stdout=subprocess.PIPE) as source,
        running("publish", "--stats", "line", "--rate", "5000/s", *options, stdin=source.stdout, env=env) as process,
    ):
        eventually(lambda: run_rstream("consume", "-o", "first", "-n", "1", env=env).stdout)
        yield process
        source.kill()


def wait_until_blocked(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    while b"nothing confirmed for 2 s" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    return line.decode()


def test_an_alarm_that_ends_in_time(env: dict[str, str], alarm: Callable[[bool], None]) -> None:
    with publishing(env) as process:
        alarm(True)
        wait_until_blocked(process)
        alarm(False)
        status, errors = ended(process)
    assert status == 0
    assert "warning" not in errors  # the connection was not lost
    stored = run_rstream("consume", "-o", "first", "--until", "end", env=env)
    assert stored.stdout.split() == [b"%d" % number for number in range(1, 40_001)]


def test_an_alarm_that_stays(env: dict[str, str], alarm: Callable[[bool], None]) -> None:
    with publishing(env, "--confirm-timeout", "4s") as process:
        alarm(True)
        wait_until_blocked(process)
        status, errors = ended(process, timeout=10)
    assert status == 7
    summary, error, hint = errors.splitlines()[-3:]
    assert summary.endswith("the broker did not confirm within 4 s")
    assert error.startswith("error: ")
    assert error.endswith(" messages are not confirmed: the broker did not confirm within 4 s")
    assert hint == "hint: --failed-to FILE keeps such messages, for publish --json"


def test_an_alarm_that_is_there_before(env: dict[str, str], alarm: Callable[[bool], None]) -> None:
    alarm(True)
    done = run_rstream("publish", "-m", "x", env=env)
    assert done.returncode == 9
    error, hint = done.stderr.decode().splitlines()
    stream = env["RSTREAM_STREAM"]
    assert error == f"error: publishing to stream {stream!r}: the broker takes no publishers at the moment"
    assert hint == "hint: is its disk full? rabbitmq-diagnostics alarms tells"


def test_a_lost_connection_while_there_is_an_alarm(
    rabbitmq: Broker, env: dict[str, str], alarm: Callable[[bool], None]
) -> None:
    with publishing(env) as process:
        alarm(True)
        wait_until_blocked(process)
        rabbitmq.ctl("close_all_connections", "over")
        assert process.stderr is not None
        while b"warning: " not in (line := process.stderr.readline()):
            assert line, "it has ended"
        alarm(False)
        status, errors = ended(process)
    assert status == 0, errors
    stored = run_rstream("consume", "-o", "first", "--until", "end", env=env)
    assert len(stored.stdout.split()) >= 40_000  # without a name, what was not confirmed may be there twice
