"""Writes to stdout for ``consume``: whole blocks, in a thread, so that a slow reader does not block the event loop.

A write is done when the operating system has taken all of its data. The caller waits for that before the next write, so
at most one block is held here. What does not block is written at once, without the thread, which costs more than a
small chunk: into the null device, into a file that has not been slow so far, and what a pipe has room for. An empty
pipe takes what it holds; any other one says only of a small piece that it does not block. A reader that closes the pipe
is noticed also between writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import select
import stat
import sys
import termios
import threading
import time
from collections.abc import Callable

AT_ONCE = 64 * 1024
"""Bytes of the largest write into a pipe that is tried without the thread: what a pipe usually holds."""
FILE_AT_ONCE = 256 * 1024
"""Bytes of the largest write into a file that is tried without the thread."""
SLOW = 0.05
"""Seconds that a write into a file may take without the thread. Where one takes longer, the thread does the others."""


class Output:
    """Writes to a file descriptor. For one task of the event loop at a time."""

    def __init__(self, descriptor: int, on_closed: Callable[[], None]) -> None:
        """``on_closed`` is called on the loop when the reader has closed the pipe, perhaps while a write fails."""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[bytes | memoryview, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        status = os.fstat(self._descriptor)
        self._is_pipe = stat.S_ISFIFO(status.st_mode)
        self._is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev
        self._is_quick_file = stat.S_ISREG(status.st_mode)
        self._on_closed = on_closed
        self._watched = False
        self._holds = 0
        """Bytes that an empty pipe holds, where the system says it; else 0."""
        if self._is_pipe:
            self._holds = _capacity(self._descriptor)
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)
            with contextlib.suppress(OSError, NotImplementedError):
                # The writing end of a pipe becomes "readable" only when its reading end is closed.
                self._loop.add_reader(self._descriptor, self._reader_left)
                self._watched = True

    def write(self, data: bytes | memoryview) -> asyncio.Future[None] | None:
        """Writes data. Returns None if that is done already; otherwise a future, whose exception is an OSError."""
        if self._is_null:
            write_all(self._descriptor, data)
            return None
        if self._is_quick_file and len(data) <= FILE_AT_ONCE:
            began = time.monotonic()
            write_all(self._descriptor, data)
            self._is_quick_file = time.monotonic() - began < SLOW
            return None
        if self._is_pipe and len(data) <= AT_ONCE:
            written = self._write_at_once(data)
            if written == len(data):
                return None
            data = memoryview(data)[written:]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rstream-output", daemon=True)
            self._thread.start()
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((data, done))
        return done

    def close(self) -> None:
        """Stops writing. A blocked write stays blocked until the process ends."""
        self._unwatch()
        self._jobs.put(None)

    def _write_at_once(self, data: bytes | memoryview) -> int:
        """Writes into a pipe as long as it has room, and returns how many bytes. Raises OSError."""
        size, written = len(data), 0
        if select.PIPE_BUF < size <= self._holds and not _waiting(self._descriptor):
            with contextlib.suppress(BlockingIOError):  # another writer was faster, and the descriptor does not block
                written = os.write(self._descriptor, data)
        while written < size and (found := self._poll.poll(0)) and found[0][1] & select.POLLOUT:
            piece = data if size <= select.PIPE_BUF else memoryview(data)[written : written + select.PIPE_BUF]
            try:
                written += os.write(self._descriptor, piece)
            except BlockingIOError:  # another writer was faster, and the descriptor does not block
                break
        return written

    def _reader_left(self) -> None:
        self._unwatch()
        self._on_closed()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._descriptor)

    # In the thread.

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            data, done = job
            problem: OSError | None = None
            try:
                write_all(self._descriptor, data)
            except OSError as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over
                self._loop.call_soon_threadsafe(_resolve, done, problem)
            del job, data  # frees the block before the wait for the next one


def _capacity(pipe: int) -> int:
    """Returns how many bytes an empty pipe holds; 0 where the system does not say."""
    if not hasattr(fcntl, "F_GETPIPE_SZ"):
        return 0
    try:
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except OSError:
        return 0


def _waiting(pipe: int) -> int:
    """Returns how many bytes in a pipe nobody has read yet; 1 where the system does not say."""
    try:
        waiting = fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return 1
    return int.from_bytes(waiting, sys.byteorder)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of the data, also to a non-blocking descriptor. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            written = os.write(descriptor, rest)
        except BlockingIOError:  # another user of the descriptor has made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
            continue
        rest = rest[written:]


def _resolve(done: asyncio.Future[None], problem: OSError | None) -> None:
    if done.done():
        return
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)
