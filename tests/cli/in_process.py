"""Runs a command line inside the test's own process: no start of Python, and no other process to wait for.

The program gets pipes for its standard streams and hears of no signal but those that a test sends. It runs in a thread
of its own, while the caller feeds and drains the pipes, so that nothing blocks. A run that takes too long is a failure
which shows where it stands. What a run leaves behind is one too: threads, complaints of asyncio's, loggers.
"""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from rstream_cli.__main__ import run
from rstream_cli.environment import Environment, Signals

_PATIENCE = 5.0
"""Seconds for the threads of a run to end after it, and for a run that is told to stop."""
_BLOCK = 1 << 16
_LOGGERS = (None, "asyncio", "rstream_core", "rstream_core.broker", "rstream_cli")

_one_at_a_time = threading.Lock()
"""Loggers are the process' own."""


class Run:
    """One command line. ``signals`` is there for whoever is to interrupt it."""

    def __init__(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        stdin: bytes = b"",
        *,
        timeout: float = 30.0,
        terminal: bool = False,
    ) -> None:
        self.signals = Signals()
        self._arguments = list(arguments)
        self._variables = variables
        self._rest = memoryview(stdin)
        self._timeout = timeout
        self._terminal = terminal
        self._status: int | None = None
        self._error: BaseException | None = None
        self._left: list[str] = []
        self._feed = -1
        """The descriptor that stdin is written to, until that is closed."""
        self._written: dict[int, bytearray] = {}
        self._before = set(threading.enumerate())

    def finish(self) -> subprocess.CompletedProcess[bytes]:
        """Runs it to its end; what it wrote, and its exit code."""
        with _one_at_a_time, _as_before(self._before) as complaints:
            gc.freeze()  # what is there already would be looked through below otherwise
            output, errors = self._run()
            gc.collect()  # what is collected later would complain to nobody
        if self._error is not None:
            raise self._error
        assert not self._left, f"{self} has left threads: {', '.join(self._left)}"
        assert complaints == [], f"{self} made asyncio complain"
        assert self._status is not None
        return subprocess.CompletedProcess(self._arguments, self._status, output, errors)

    def __str__(self) -> str:
        return shlex.join(["rstream", *self._arguments])

    def _run(self) -> tuple[bytes, bytes]:
        (stdin, self._feed), (output, stdout), (errors, stderr) = os.pipe(), os.pipe(), os.pipe()
        self._written = {output: bytearray(), errors: bytearray()}
        thread = threading.Thread(target=self._work, args=(stdin, stdout, stderr), name="run", daemon=True)
        thread.start()
        try:
            if not self._pump(time.monotonic() + self._timeout):
                self._give_up(thread)
        finally:
            self._close_feed()
            os.close(output)
            os.close(errors)
        thread.join()
        return bytes(self._written[output]), bytes(self._written[errors])

    # In the thread.

    def _work(self, stdin: int, stdout: int, stderr: int) -> None:
        here = Environment.on(stdin, stdout, stderr, self._variables).replaced(signals=self.signals)
        if self._terminal:
            here = here.replaced(stdin_is_tty=True, stdout_is_tty=True, stderr_is_tty=True)
        try:
            self._status = run(self._arguments, here)
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            self._error = error
        until = time.monotonic() + _PATIENCE
        ours = [
            thread
            for thread in threading.enumerate()
            if thread not in self._before and thread.name.startswith("rstream-") and thread.name != "rstream-lookup"
        ]  # a name server may hold up a lookup, which touches nothing of the run's
        for thread in ours:
            thread.join(max(until - time.monotonic(), 0))
        self._left = [thread.name for thread in ours if thread.is_alive()]
        for stream in (here.stdin, here.stdout, here.stderr):
            with suppress(OSError):  # what it could not write was silenced, or is the error that is tested
                stream.close()
        for descriptor in (stdin, stdout, stderr):
            if self._left:  # who uses the number may not meet a file of somebody else's
                with open(os.devnull, "r+b", buffering=0) as null:
                    os.dup2(null.fileno(), descriptor)
            else:
                os.close(descriptor)

    # In the caller's.

    def _pump(self, deadline: float) -> bool:
        """Feeds and drains; whether all pipes were closed in time."""
        os.set_blocking(self._feed, False)
        poll = select.poll()
        for descriptor in self._written:
            poll.register(descriptor, select.POLLIN)
        if self._rest:
            poll.register(self._feed, select.POLLOUT)
        else:
            self._close_feed()
        is_open = set(self._written)
        while is_open:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor == self._feed:
                    if not self._write():
                        poll.unregister(self._feed)
                        self._close_feed()
                elif data := os.read(descriptor, _BLOCK):
                    self._written[descriptor] += data
                else:
                    poll.unregister(descriptor)
                    is_open.discard(descriptor)
        return True

    def _close_feed(self) -> None:
        """Once: the number may be another file's of this process after it."""
        if self._feed >= 0:
            os.close(self._feed)
            self._feed = -1

    def _write(self) -> bool:
        """Writes what there is room for; whether there is more."""
        try:
            self._rest = self._rest[os.write(self._feed, self._rest[:_BLOCK]) :]
        except BrokenPipeError:
            return False
        except BlockingIOError:
            pass
        return bool(self._rest)

    def _give_up(self, thread: threading.Thread) -> None:
        where = self._where_it_stands()
        for _ in range(2):
            self.signals.send(signal.SIGTERM)
            thread.join(_PATIENCE)
        how = "and cannot be stopped" if thread.is_alive() else f"and ended in {self._status} when it was stopped"
        wrote = b"".join(self._written.values()).decode(errors="replace")
        pytest.fail(f"{self} took longer than {self._timeout:g} s {how}\n{where}\nIt wrote:\n{wrote}", pytrace=False)

    def _where_it_stands(self) -> str:
        frames = sys._current_frames()
        told = io.StringIO()
        for thread in set(threading.enumerate()) - self._before:
            if thread.ident in frames:
                told.write(f"Thread {thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}")
        loop = self.signals._loop
        for task in asyncio.all_tasks(loop) if loop is not None else ():
            told.write(f"{task.get_name()}:\n{''.join(traceback.format_list(_stack_of(task.get_coro())))}")
        return told.getvalue()


def _stack_of(coroutine: Any) -> list[traceback.FrameSummary]:
    """Where it waits, and what it waits for, as far as that is Python's."""
    found: list[traceback.FrameSummary] = []
    while coroutine is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(coroutine, f"{kind}_frame")), None)
        frame = None if kind is None else getattr(coroutine, f"{kind}_frame")
        if frame is None:
            break
        found += traceback.extract_stack(frame, limit=1)
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return found


@contextmanager
def _as_before(threads: set[threading.Thread]) -> Iterator[list[str]]:
    """The loggers are to be as they were; gives what asyncio complains of.

    What brokers log that were there before, in threads of this process, is not the run's to show.
    """
    complaints: list[str] = []
    known = {thread.ident for thread in threads}

    def note(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            complaints.append(record.getMessage())
        return True

    def is_its_own(record: logging.LogRecord) -> bool:
        return record.thread not in known

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    raising = logging.raiseExceptions
    asyncio_logger, broker_logger = logging.getLogger("asyncio"), logging.getLogger("rstream_core.broker")
    asyncio_logger.addFilter(note)
    broker_logger.addFilter(is_its_own)
    try:
        yield complaints
    finally:
        asyncio_logger.removeFilter(note)
        broker_logger.removeFilter(is_its_own)
    assert before == [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    assert logging.raiseExceptions is raising
