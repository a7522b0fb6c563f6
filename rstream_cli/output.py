"""stdout as ``consume`` needs it: whole writes by a thread, so that a reader that stalls holds up nothing else.

A write is done when the operating system has taken all of it; the caller waits for that before it asks for more, so
at most one block is ever held here. Where a write cannot block - a small one into a pipe that has room - it is made
at once, without the thread. A reader that goes away while nothing is being written is noticed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import stat
import threading
from collections.abc import Callable


class Output:
    """Writes to a file descriptor. For one task of the event loop at a time."""

    def __init__(self, descriptor: int, on_closed: Callable[[], None]) -> None:
        """``on_closed``: the reader is gone; called on the loop, perhaps while a write fails."""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[bytes | memoryview, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_pipe = stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        self._on_closed = on_closed
        self._watched = False
        if self._is_pipe:
            with contextlib.suppress(OSError, NotImplementedError):
                # A pipe's writing end becomes "readable" in one case alone: nobody can read it any more.
                self._loop.add_reader(self._descriptor, self._reader_left)
                self._watched = True

    def write(self, data: bytes | memoryview) -> asyncio.Future[None] | None:
        """Begins to write; None where it is done already, else done with None or with an OSError."""
        if self._is_pipe and len(data) <= select.PIPE_BUF and self._has_room():
            if os.write(self._descriptor, data) != len(data):
                raise RuntimeError("a pipe took a part of a small write")
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rstream-output", daemon=True)
            self._thread.start()
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((data, done))
        return done

    def close(self) -> None:
        """Writes no more. A write that is stuck stays so, until the process ends."""
        self._unwatch()
        self._jobs.put(None)

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))

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
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_resolve, done, problem)
            del job, data  # it may be large, and the next one may be long in coming


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of it, also where the descriptor is non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            written = os.write(descriptor, rest)
        except BlockingIOError:  # whoever shares this descriptor made it so
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
