"""What a run does and says while its broker is slow, or away: one that ends, and comes back with what it held."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from rstream_core.protocol.commands import Key
from tests.cli.conftest import run_rstream
from tests.cli.process import ended, eventually, interrupt, running, summary_of

OUTAGE = ("warning: the connection to ", "recovered after ")
"""How the lines that tell of one begin."""


class Outage:
    """A broker with a stream ``s``, that a test ends and starts again on the same port and data."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._stack = ExitStack()
        self._port = 0
        self.broker = self.start()
        assert self.run("stream", "create", "s").returncode == 0

    @property
    def env(self) -> dict[str, str]:
        return {"RSTREAM_URI": f"rabbitmq-stream://127.0.0.1:{self._port}"}

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return run_rstream(*arguments, stdin=stdin, env=self.env)

    def start(self) -> EmbeddedBroker:
        self.broker = self._stack.enter_context(EmbeddedBroker(data=self._data, port=self._port))
        self._port = self.broker.port
        return self.broker

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    made = Outage(tmp_path)
    yield made
    made.stop()


def test_an_outage_is_not_idle_time(outage: Outage) -> None:
    assert outage.run("publish", "s", "-m", "one").returncode == 0
    with running("consume", "s", "-q", "-o", "first", "--idle-timeout", "5s", env=outage.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        outage.stop()
        time.sleep(6.0)
        assert process.poll() is None
        outage.start()
        assert outage.run("publish", "s", "-m", "two").returncode == 0
        assert process.stdout.read() == b"two\n"
        code, errors = ended(process)
    assert code == 0
    lost, recovered = errors.splitlines()  # also with -q: each or neither
    assert lost.startswith("warning: the connection to ")
    assert lost.endswith("; trying again, for 60 s at most")
    assert recovered.startswith("recovered after ")


@pytest.mark.parametrize("seconds", [5.1, 6.0])
def test_what_comes_while_a_run_stands_still_is_read(outage: Outage, seconds: float) -> None:
    """As one that was stopped with Ctrl-Z: it goes on just after, or long after, the idle time is over."""
    assert outage.run("publish", "s", "-m", "one").returncode == 0
    with running("consume", "s", "-o", "first", "--idle-timeout", "5s", env=outage.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        until = time.monotonic() + seconds
        process.send_signal(signal.SIGSTOP)
        assert outage.run("publish", "s", "-m", "two").returncode == 0
        time.sleep(max(until - time.monotonic(), 0))
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == b"two\n"
        assert ended(process) == (0, "")


@pytest.mark.parametrize("method", ["batch", "send", "wait", "sub-entry"])
def test_the_drain_timeout_is_kept_while_confirms_trickle_in(outage: Outage, method: str) -> None:
    outage.broker.faults.delay(0.3)
    options = ("--method", method, "--drain-timeout", "1s", "--stats", "json", "--stats-interval", "100ms")
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        running("publish", "s", *options, stdin=source.stdout, env=outage.env) as process,
    ):
        assert process.stderr is not None
        while json.loads(process.stderr.readline())["confirmed"] == 0:
            pass
        interrupt(process, signal.SIGTERM)
        started = time.monotonic()
        code, errors = ended(process, timeout=60)
        assert time.monotonic() - started < 40  # with a message in flight at a time the rest takes minutes
        source.kill()
    assert code in (7, 143)
    assert summary_of(errors)["exit_code"] == code


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "--name prevents that"),
        (("--method", "sub-entry"), "the broker does not deduplicate sub-entries reliably"),
        (("--name", "me"), None),
    ],
)
def test_what_may_be_stored_twice_is_told(outage: Outage, options: tuple[str, ...], why: str | None) -> None:
    lines = b"".join(b"%d\n" % number for number in range(100))
    outage.broker.faults.cut_frame(Key.PUBLISH_CONFIRM)
    done = outage.run("publish", "s", *options, stdin=lines)
    told = f"warning: sent again after lost connections, up to 100 copies may be stored beside the first; {why}"
    assert done.returncode == 0
    # An outage is told of as well, if it takes half a second.
    others = [line for line in done.stderr.decode().splitlines() if not line.startswith(OUTAGE)]
    assert others == ([] if why is None else [told])
    stored = outage.run("consume", "s", "-o", "first", "--until", "end").stdout
    assert stored == (lines if why is None else lines + lines)

    outage.broker.faults.cut_frame(Key.PUBLISH_CONFIRM)
    done = outage.run("publish", "s", *options, "--stats", "json", stdin=lines)
    assert summary_of(done.stderr)["sent_again"] == (0 if why is None else 100)

    outage.broker.faults.cut_frame(Key.PUBLISH_CONFIRM)
    done = outage.run("publish", "s", *options, "--stats", "line", stdin=lines)
    assert (b"failed 0; 100 sent again, so up to 100 copies may be stored; confirm" in done.stderr) == (why is not None)


@pytest.mark.parametrize("mode", ["none", "json"])
def test_each_wait_for_a_confirm_is_told_once(outage: Outage, mode: str) -> None:
    words = ("-q", "--stats", mode, "--stats-interval", "60s", "--max-in-flight", "1")
    with running("publish", "s", *words, stdin=subprocess.PIPE, env=outage.env) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        eventually(lambda: outage.run("consume", "s", "-o", "first", "-n", "1").stdout)
        outage.broker.faults.delay(9.0)
        process.stdin.write(b"two\nthree\n")  # one in flight, and one that waits for it
        process.stdin.close()
        code, errors = ended(process)
    assert code == 0
    if mode == "none":
        assert errors == 2 * "warning: nothing confirmed for 5 s\n"
    else:
        *events, summary = map(json.loads, errors.splitlines())
        assert events == 2 * [{"event": "unconfirmed", "seconds": 5.0}]
        assert summary["confirmed"] == 3


def test_progress_tells_of_an_outage(outage: Outage) -> None:
    with running("consume", "s", "--stats", "json", "--stats-interval", "200ms", env=outage.env) as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["reconnecting"] is False
        outage.stop()
        while not json.loads(process.stderr.readline()).get("reconnecting"):
            pass
        outage.start()
        while json.loads(process.stderr.readline()).get("reconnecting") is not False:
            pass


def test_a_short_outage_is_told_with_v(outage: Outage) -> None:
    for option, told in (("-q", False), ("-v", True)):
        outage.broker.faults.cut_frame(Key.PUBLISH_CONFIRM)
        done = outage.run("publish", "s", "--name", "me", "-m", "one", option)
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 0
        for words in ("lost (the connection to ", "recovered after "):
            assert any(f" INFO publisher of stream 's': {words}" in line for line in lines) == told


def given_up(error: str) -> bool:
    """After the five seconds that the tests below give it."""
    found = re.fullmatch(r"error: .* refuses the connection; gave up after (\d+) s", error)
    return found is not None and 4 <= int(found[1]) < 15


def test_a_consumer_that_gives_up_says_so(outage: Outage) -> None:
    assert outage.run("publish", "s", "-m", "one").returncode == 0
    with running("consume", "s", "-o", "first", "--recover-for", "5s", env=outage.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        outage.stop()
        code, errors = ended(process)
    assert code == 6
    assert given_up(errors.splitlines()[1])


def test_a_publisher_that_gives_up_says_so(outage: Outage) -> None:
    with running("publish", "s", "--recover-for", "5s", stdin=subprocess.PIPE, env=outage.env) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        eventually(lambda: outage.broker.statistics.confirmed == 1)
        outage.stop()
        code, errors = ended(process)
    assert code in (6, 7)  # the confirm may have been lost
    assert given_up(errors.splitlines()[1])
