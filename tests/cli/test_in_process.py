"""A run inside another process, as nearly all tests here are: what it does to that process, which is nothing."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import pytest

from rstream_cli.__main__ import run
from rstream_cli.environment import Environment
from tests.cli.conftest import environment, process_rstream, run_rstream
from tests.cli.in_process import Run
from tests.peer import Peer

FIRST = ("consume", "s", "-o", "first", "-n", "1")


def _of_this_process() -> tuple[object, ...]:
    loggers = [logging.getLogger(name) for name in (None, "asyncio", "rstream_core", "rstream_cli")]
    return (
        len(os.listdir("/dev/fd")),
        [thread.name for thread in threading.enumerate() if thread.name.startswith("rstream-")],
        [(logger.level, logger.handlers[:], logger.filters[:], logger.propagate) for logger in loggers],
        logging.raiseExceptions,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGHUP)],
        dict(os.environ),
    )


def _uses(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Command lines that open what there is to open, and end in different ways."""
    (folder / "lines").write_bytes(b"a\nb\n")
    return (
        ("--help",),
        ("stream",),
        ("no-such",),
        ("--version",),
        ("publish", "s", "-vv", "--count", "1", str(folder / "lines"), "-", "--failed-to", str(folder / "failed")),
        ("publish", "s", "-m", "x", "--stats", "line", "--stats-interval", "10ms"),
        ("publish", "s", "--failed-to", str(folder / "failed"), "--ca-file", "x"),
        ("publish", "s", str(folder / "missing")),
        (*FIRST, "--stats", "json"),
        ("stream", "info", "s", "-u", "rabbitmq-stream://guest:guest@127.0.0.1:1"),
        ("broker", "run", "--user", "nobody"),
    )


def test_it_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with Peer() as peer:
        Run(FIRST, environment({"RSTREAM_URI": peer.uri})).finish()  # modules are imported
    before = _of_this_process()
    for command in _uses(tmp_path):
        with Peer() as peer:
            Run(command, environment({"RSTREAM_URI": peer.uri}), b"c\n" * 100_000).finish()
        assert _of_this_process() == before, command


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (("--help",), {"COLUMNS": "60"}),
        (("stream", "--help"), {"FORCE_COLOR": "1"}),
        (("offset",), {}),
        (("-V",), {}),
        (("completion", "bash"), {}),
        (("strem", "é\udcff"), {"FORCE_COLOR": "1"}),
        (("stream", "info"), {"RSTREAM_STREAM": "s"}),
        (("stream", "delete", "s"), {}),
        (("publish", "s"), {}),
        (("publish", "s", "--json", "-q"), {}),
        ((*FIRST, "-f", "%s\udcff|\n"), {}),
        ((*FIRST, "--until", "end", "--stats", "none"), {}),
        (("consume", "s", "-n", "0", "-u", "rabbitmq-stream://guest:guest@127.0.0.1:1"), {}),
        (("superstream", "info", "s", "--json"), {}),
    ],
    ids=str,
)
def test_the_installed_program_says_the_same(command: tuple[str, ...], env: dict[str, str]) -> None:
    """To a byte: what the tests run in their own process is what a user starts."""
    with Peer() as peer:
        given = {"RSTREAM_URI": peer.uri, **env}
        inside = run_rstream(*command, stdin=b"a\n\xff\n", env=given)
        process = process_rstream(*command, stdin=b"a\n\xff\n", env=given)
    assert (inside.returncode, inside.stdout, inside.stderr) == (process.returncode, process.stdout, process.stderr)


@pytest.mark.parametrize(
    ("numbers", "code"), [([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGTERM, signal.SIGINT], 143)]
)
def test_it_hears_of_signals_that_a_test_sends(numbers: list[signal.Signals], code: int) -> None:
    with Peer() as peer:
        consumer = Run(("consume", "s", "-o", "first"), environment({"RSTREAM_URI": peer.uri}))
        for number in numbers:  # they are kept until it listens
            consumer.signals.send(number)
        assert consumer.finish().returncode == code


def test_one_that_takes_too_long_shows_where_it_stands() -> None:
    with Peer() as peer:
        consumer = Run(("consume", "s", "-o", "first"), environment({"RSTREAM_URI": peer.uri}), timeout=1.0)
        with pytest.raises(pytest.fail.Exception) as caught:
            consumer.finish()
    said = str(caught.value)
    assert said.startswith("rstream consume s -o first took longer than 1 s and ended in 143 when it was stopped\n")
    assert "in _wait" in said
    assert "\nIt wrote:\nhello\n" in said


@pytest.mark.parametrize("command", [("--help",), ("-V",), ("stream", "info", "s"), FIRST], ids=" ".join)
def test_a_reader_that_has_left_changes_nothing_of_the_process(command: tuple[str, ...]) -> None:
    """The run's own descriptor is pointed at /dev/null, and not that of the process."""
    before = os.fstat(1)
    reader, writer = os.pipe()
    os.close(reader)
    with Peer() as peer, open(os.devnull, "r+b") as null:
        env = Environment.on(null.fileno(), writer, null.fileno(), environment({"RSTREAM_URI": peer.uri}))
        assert run(command, env) == 141
        env.stdout.close()
        assert os.path.samestat(os.fstat(writer), os.fstat(null.fileno()))
    os.close(writer)
    assert os.path.samestat(os.fstat(1), before)
