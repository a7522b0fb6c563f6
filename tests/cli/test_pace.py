"""``rstream consume --pace`` on each kind of broker. tests/unit/test_pace.py has what takes time."""

from __future__ import annotations

import json
import time

import pytest

from tests.cli.conftest import Run
from tests.cli.process import ended, interrupt, running, told


@pytest.fixture
def two(run: Run, stream: str) -> str:
    """A stream with two messages, of different times."""
    for line in (b"one\n", b"two\n"):
        assert run("publish", stream, stdin=line).returncode == 0
    return stream


def milliseconds_between(run: Run, stream: str) -> int:
    done = run("consume", stream, "-o", "first", "--until", "end", "--format", r"%T\n")
    first, second = map(int, done.stdout.split())
    assert second > first
    return second - first


def test_the_gap_is_kept(run: Run, two: str) -> None:
    gap = milliseconds_between(run, two) / 1000
    start = time.monotonic()
    done = run("consume", two, "-o", "first", "--until", "end", "--pace", "original")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo\n", b"")
    assert time.monotonic() - start >= gap - 0.001


def test_a_signal_ends_a_long_wait_and_what_was_not_written_is_not_stored(
    run: Run, env: dict[str, str], two: str
) -> None:
    seconds = milliseconds_between(run, two)
    options = ("-o", "first", "--name", "me", "--pace", "0.001x", "--stats", "json")
    with running("consume", two, *options, env=env) as consumer:
        if seconds >= 5:
            assert told(consumer, lambda line: line["event"] == "pause")["seconds"] <= seconds
        assert consumer.stdout is not None
        assert consumer.stdout.read(4) == b"one\n"
        interrupt(consumer)
        code, errors = ended(consumer)
        assert (code, consumer.stdout.read()) == (130, b"")
    assert json.loads(errors.splitlines()[-1])["consumed"] == 1
    again = run("consume", two, "-o", "stored", "--name", "me", "--until", "end", "--pace", "1000x")
    assert (again.returncode, again.stdout) == (0, b"two\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("s", "--pace", "10"), "--pace: not a pace: '10'; original, or a factor such as 10x or 0.5x; give 10x"),
        (("s", "t", "--pace", "2x"), "--pace takes one stream: the messages of several do not come in the order of"),
    ],
)
def test_what_cannot_be(run: Run, options: tuple[str, ...], message: str) -> None:
    done = run("consume", *options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"error: {message}")
