"""``consume --grep``, ``--grep-not`` and ``--match`` on each kind of broker: what is written, counted and stored."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.cli.conftest import Run
from tests.cli.process import ended, interrupt, running, summary_of, told

NO_MESSAGE = b"\x00Sp\xff"


def publish(run: Run, stream: str, lines: bytes, *options: str) -> None:
    assert run("publish", stream, *options, stdin=lines).returncode == 0


@pytest.fixture
def ten(run: Run, stream: str) -> str:
    """Messages 0 to 9: the header ``parity`` is even or odd, and 3 and 7 have a header more."""
    for number in range(10):
        parity = "odd" if number % 2 else "even"
        more = ("-H", "n:=5", "--property", "subject=third") if number in (3, 7) else ()
        publish(run, stream, b"message %d\n" % number, "-H", f"parity={parity}", *more)
    return stream


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--grep", "[0-4]$"), [0, 1, 2, 3, 4]),
        (("--grep-not", "[0-4]$"), [5, 6, 7, 8, 9]),
        (("--grep", "message", "--grep", "[135]"), [1, 3, 5]),
        (("--match", ".headers.parity=odd"), [1, 3, 5, 7, 9]),
        (("--match", ".headers.n=5", "--match", ".properties.subject=third"), [3, 7]),
        (("--match", ".headers.parity=odd", "--grep-not", "[37]"), [1, 5, 9]),
        (("--match", ".headers.parity=even", "-n", "2"), [0, 2]),
        (("--grep", "nowhere"), []),
    ],
    ids=str,
)
def test_what_is_written(run: Run, ten: str, options: tuple[str, ...], numbers: list[int]) -> None:
    done = run("consume", ten, "-o", "first", "--until", "end", *options, "--stats", "json")
    assert done.stdout == b"".join(b"message %d\n" % number for number in numbers)
    assert done.returncode == 0
    found = summary_of(done.stderr)
    assert found["consumed"] == len(numbers)
    if "-n" in options:  # it depends on the chunks how many are looked at
        assert 1 <= found["left_out"] <= 5
    else:
        assert found["left_out"] == 10 - len(numbers)


def test_what_is_left_out_is_stored_as_read(run: Run, ten: str) -> None:
    options = ("--name", "reader", "-o", "stored", "--until", "end")
    done = run("consume", ten, *options, "--grep", "[0-4]$")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 5)
    found = run("offset", "query", ten, "--name", "reader", "--json")
    assert json.loads(found.stdout)["offset"] >= 9
    again = run("consume", ten, *options)
    assert (again.returncode, again.stdout) == (0, b"")


def test_behind_a_count_nothing_is_stored(run: Run, ten: str) -> None:
    done = run("consume", ten, "--name", "reader", "-o", "stored", "--match", ".headers.parity=odd", "-n", "2")
    assert (done.returncode, done.stdout) == (0, b"message 1\nmessage 3\n")
    again = run("consume", ten, "--name", "reader", "-o", "stored", "--until", "end")
    assert again.stdout == b"".join(b"message %d\n" % number for number in range(4, 10))


def test_a_super_stream_has_them_too(run: Run, stream_name: str) -> None:
    assert run("superstream", "create", stream_name, "--partitions", "3").returncode == 0
    try:
        given = b"".join(b"%d:x\n" % number for number in range(20))
        assert run("superstream", "publish", stream_name, "--key-delimiter", ":", stdin=given).returncode == 0
        publish(run, f"{stream_name}-1", b"y\n")
        found = run("superstream", "consume", stream_name, "-o", "first", "--until", "end", "--grep", "y")
        assert (found.returncode, found.stdout) == (0, b"y\n")
        one = ("--match", f".stream={stream_name}-1", "--format", r"%t\n")
        found = run("superstream", "consume", stream_name, "-o", "first", "--until", "end", *one)
        assert found.returncode == 0
        assert set(found.stdout.split()) == {f"{stream_name}-1".encode()}
    finally:
        run("superstream", "delete", stream_name, "--yes")


@pytest.mark.parametrize("options", [("--grep", "x"), ("--grep-not", "y"), ("--match", ".headers.n=1")], ids=str)
def test_a_message_that_cannot_be_read(run: Run, stream: str, options: tuple[str, ...]) -> None:
    publish(run, stream, b"x\n", "-H", "n:=1")
    publish(run, stream, NO_MESSAGE + b"\n", "--codec", "raw")
    publish(run, stream, b"xx\n", "-H", "n:=1")
    publish(run, stream, b"y\n")
    command = ("consume", stream, "-o", "first", "--until", "end", *options)
    stopped = run(*command)
    assert (stopped.returncode, stopped.stdout) == (8, b"x\n")
    assert b"the message at offset 1 of stream" in stopped.stderr
    skipped = run(*command, "--on-error", "skip", "--stats", "json")
    assert (skipped.returncode, skipped.stdout) == (3, b"x\nxx\n")
    found = summary_of(skipped.stderr)
    assert (found["consumed"], found["left_out"], found["bad"]) == (2, 1, 1)
    words = run(*command, "--on-error", "skip", "--stats", "line").stderr.decode()
    assert "; left out 1; bad 1; " in words


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--grep", "("), "error: --grep: not a regular expression: '(': missing ), unterminated subpattern"),
        (("--match", ".propertes.subject=x"), "hint: did you mean .properties?"),
        (("--match", "offset"), "error: --match: no value: 'offset'"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(run: Run, options: tuple[str, ...], error: str) -> None:
    done = run("consume", "s", *options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert error in done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_without_end_is_ended_by_a_second_signal(
    env: dict[str, str], run: Run, stream: str, number: signal.Signals
) -> None:
    with running("consume", stream, "--grep", "^(a+)+$", "--stats", "json", env=env) as process:
        told(process, lambda event: event["event"] == "progress")
        publish(run, stream, b"a" * 64 + b"!\n")
        time.sleep(1.5)  # it is in the search by now, and so does nothing of what it is told
        interrupt(process, number)
        time.sleep(1.2)
        assert process.poll() is None
        interrupt(process, number)
        assert ended(process)[0] == 128 + number
