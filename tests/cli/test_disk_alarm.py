"""A broker whose disk is full takes nothing more: the publisher waits, says so, and in the end gives up."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.brokers import Broker
from tests.cli.conftest import run_rstream
from tests.cli.process import ended, eventually, running

PATIENTLY = ("--confirm-timeout", "3m")
"""Each rabbitmqctl may take many seconds on a busy machine, and the alarm ends with one."""


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


class Feed:
    """Writes 1, 2, 3, ... to a process until ``end``: there is always more to publish when an alarm begins."""

    def __init__(self, stdin: IO[bytes]) -> None:
        self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(stdin,), daemon=True)
        self._thread.start()

    def _write(self, stdin: IO[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError), stdin:
            while not self._over.wait(0.005):
                self.count += 1
                stdin.write(b"%d\n" % self.count)
                stdin.flush()

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the run takes no input, and does not end"


@contextmanager
def publishing(env: dict[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Feed]]:
    with running("publish", "--stats", "line", *options, stdin=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        feed = Feed(process.stdin)
        try:
            eventually(lambda: run_rstream("consume", "-o", "first", "-n", "1", env=env).stdout)
            yield process, feed
        finally:
            feed.end()


def wait_until_blocked(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    while not re.search(rb"nothing confirmed for ([2-9]|\d\d) s", line := process.stderr.readline()):
        assert line, "it has ended"


def test_an_alarm_that_ends_in_time(env: dict[str, str], alarm: Callable[[bool], None]) -> None:
    with publishing(env, *PATIENTLY) as (process, feed):
        alarm(True)
        wait_until_blocked(process)
        alarm(False)
        feed.end()
        status, errors = ended(process)
    assert status == 0
    assert "warning" not in errors  # the connection was not lost
    stored = run_rstream("consume", "-o", "first", "--until", "end", env=env)
    assert stored.stdout.split() == [b"%d" % number for number in range(1, feed.count + 1)]


def test_an_alarm_that_stays(env: dict[str, str], alarm: Callable[[bool], None]) -> None:
    with publishing(env, "--confirm-timeout", "4s") as (process, _):
        alarm(True)
        wait_until_blocked(process)
        status, errors = ended(process)
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
    assert hint == "hint: is its disk full? `rabbitmq-diagnostics alarms` shows it"


def test_a_lost_connection_while_there_is_an_alarm(
    rabbitmq: Broker, env: dict[str, str], alarm: Callable[[bool], None]
) -> None:
    with publishing(env, *PATIENTLY) as (process, feed):
        alarm(True)
        wait_until_blocked(process)
        rabbitmq.ctl("close_all_connections", "over")
        assert process.stderr is not None
        while b"warning: " not in (line := process.stderr.readline()):
            assert line, "it has ended"
        alarm(False)
        feed.end()
        status, errors = ended(process)
    assert status == 0, errors
    stored = run_rstream("consume", "-o", "first", "--until", "end", env=env)
    assert len(stored.stdout.split()) >= feed.count  # without a name, what was not confirmed may be there twice
