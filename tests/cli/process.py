"""``rstream`` as a process that a test talks to while it runs: for signals, pipes that stall, and input that grows."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.cli.conftest import RSTREAM, environment


@contextmanager
def running(
    *arguments: str,
    env: Mapping[str, str],
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    process_group: int | None = None,
    program: Sequence[str] = (str(RSTREAM),),
    limit: float = 300.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running ``rstream``; it is killed at the end, if it still runs.

    And after ``limit`` seconds, so that whoever reads what it says does not wait for ever; the test fails then.
    """
    process = subprocess.Popen(
        [*program, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        process_group=process_group,
    )
    try:
        with limited(process, limit):
            yield process
    finally:
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        process.wait()


@contextmanager
def limited(process: subprocess.Popen[bytes], timeout: float = 30.0) -> Iterator[None]:
    """What waits for the process has so many seconds: then it is killed, and the test fails."""
    over = threading.Event()

    def kill() -> None:
        over.set()
        process.kill()

    limit = threading.Timer(timeout, kill)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()
        assert not over.is_set(), f"it took longer than {timeout:g} s"


def ended(process: subprocess.Popen[bytes], *, timeout: float = 30.0) -> tuple[int, str]:
    """The exit code, and what was written to stderr, once it has ended by itself; fails where it does not."""
    assert process.stderr is not None
    threading.Thread(target=process.wait, daemon=True).start()
    with limited(process, timeout):
        errors = process.stderr.read().decode()
        code = process.wait()
    assert "Traceback" not in errors, errors
    return code, errors


def interrupt(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT) -> None:
    """One signal."""
    process.send_signal(number)


def told(process: subprocess.Popen[bytes], question: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next line of ``--stats json`` with a true answer. With the first of all the run has begun to read."""
    assert process.stderr is not None
    with limited(process):
        while not question(found := json.loads(process.stderr.readline())):
            pass
    return dict(found)


def summary_of(errors: str | bytes) -> dict[str, Any]:
    """The last line of ``--stats json``; its numbers add up."""
    text = errors if isinstance(errors, str) else errors.decode()
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    assert found["event"] == "summary"
    if found["command"] == "publish":
        assert found["read"] == found["published"] + found["not_published"]
        assert found["published"] == found["confirmed"] + found["failed"]
        assert found["in_flight"] == 0
    return found


def eventually(question: Callable[[], object], *, within: float = 15.0) -> Any:
    """The first true answer; the test fails where there is none in time."""
    until = time.monotonic() + within
    while not (answer := question()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return answer


def resident_bytes(process: subprocess.Popen[bytes]) -> int:
    """The memory that a process holds now."""
    fields = Path(f"/proc/{process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096
