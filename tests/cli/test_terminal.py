"""The live display on a real terminal: what is drawn, and whose the terminal is while the run is stopped."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from tests.cli.conftest import RSTREAM, run_rstream
from tests.cli.process import interrupt, limited, running
from tests.cli.terminal import Terminal, shell_on

HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
"""The cursor."""


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    """Where a broker with the stream ``s`` is."""
    with EmbeddedBroker() as broker:
        found = {"RSTREAM_URI": broker.uri, "TERM": "xterm"}
        assert run_rstream("publish", "s", "--create", "-m", "one", env=found).returncode == 0
        yield found


def test_a_stopped_run_gives_the_terminal_back(env: dict[str, str]) -> None:
    with (
        Terminal() as terminal,
        running("consume", "s", "-o", "first", env=env, stderr=terminal.descriptor, process_group=0) as process,
    ):
        for times in (1, 1, 3):
            terminal.read_until("consumed 1 ")
            assert terminal.shown.count(HIDDEN) == terminal.shown.count(SHOWN) + 1
            for _ in range(times):  # however often: it stops once
                process.send_signal(signal.SIGTSTP)
            with limited(process):
                _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            terminal.read_while(lambda: terminal.shown.count(HIDDEN) != terminal.shown.count(SHOWN))
            terminal.read(0.2)
            assert terminal.shown.endswith("\x1b[2K")  # nothing is left of the display
            terminal.shown = ""
            process.send_signal(signal.SIGCONT)
        terminal.read_until("consumed 1 ")
        interrupt(process)
        assert process.wait(20) == 130
        terminal.read_while(lambda: terminal.shown.count(HIDDEN) != terminal.shown.count(SHOWN))


def test_a_background_job_draws_nothing_until_it_is_in_the_foreground(env: dict[str, str], tmp_path: Path) -> None:
    fifo = tmp_path / "input"
    os.mkfifo(fifo)
    command = f"{shlex.quote(str(RSTREAM))} publish s < {shlex.quote(str(fifo))} & read line; fg %1"
    with Terminal() as terminal, shell_on(terminal, command, env) as shell, fifo.open("wb", buffering=0) as source:
        assert shell.stdin is not None
        source.write(b"two\n")
        until_published(env, 2)
        terminal.read(0.6)
        assert terminal.shown == ""
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        terminal.read_until("confirmed 1 ")
        source.close()
        assert shell.wait(20) == 0
        terminal.read_while(lambda: terminal.shown.count(HIDDEN) != terminal.shown.count(SHOWN))
        assert HIDDEN in terminal.shown


def test_turns_are_a_table_and_not_a_line_each(env: dict[str, str]) -> None:
    """Two consumers of a group share twelve partitions."""
    made = run_rstream("superstream", "create", "p", "--partitions", "12", env=env)
    assert made.returncode == 0
    words = ("sac-consume", "p", "--name", "g", "-o", "first")
    with (
        Terminal(80) as one,
        Terminal(80) as other,
        running(*words, env=env, stderr=one.descriptor, process_group=0) as first,
    ):
        one.read_until("2 more: 2 active, 0 msg/s")
        with running(*words, env=env, stderr=other.descriptor, process_group=0) as second:
            one.read_until("2 more: 2 waiting, 0 msg/s")
            other.read_until("2 more: 2 waiting, 0 msg/s")
            assert re.search(r"p-\d+ +active +- +0", other.text)
            assert re.search(r"p-\d+ +waiting +- +0", other.text)
            interrupt(second)
            assert second.wait(20) == 130
        interrupt(first)
        assert first.wait(20) == 130
        for terminal in (one, other):
            terminal.read(0.2)
            assert "active on" not in terminal.text
            assert terminal.shown.count(HIDDEN) == terminal.shown.count(SHOWN)


def test_partitions_that_are_published_to_are_a_table(env: dict[str, str], tmp_path: Path) -> None:
    fifo = tmp_path / "input"
    os.mkfifo(fifo)
    assert run_rstream("superstream", "create", "q", "--partitions", "2", env=env).returncode == 0
    words = ("superstream", "publish", "q", "--key-delimiter", ":", str(fifo))
    with Terminal(80) as terminal, running(*words, env=env, stderr=terminal.descriptor, process_group=0) as process:
        with fifo.open("wb", buffering=0) as source:
            source.write(b"".join(b"%d:x\n" % number for number in range(100)))
            terminal.read_while(lambda: not re.search(r"q-0 +[1-9]\d +0 +", terminal.text))
            terminal.read_while(lambda: not re.search(r"q-1 +[1-9]\d +0 +", terminal.text))
        assert process.wait(20) == 0


def until_published(env: dict[str, str], count: int) -> None:
    """The broker has so many messages."""
    done = run_rstream("consume", "s", "-o", "first", "-n", str(count), "--timeout", "15s", env=env)
    assert done.returncode == 0
