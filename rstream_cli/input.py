"""The input of ``publish``: stdin and files, read in blocks by a thread behind a bounded queue.

asyncio cannot read files, nor stdin if that is ``< file`` or ``/dev/null``. So a daemon thread reads, and the event
loop takes the blocks. A read returns the available bytes, perhaps only one, so a growing input is published as it
grows. The thread reads at most ``_AHEAD`` blocks ahead, so a slow broker holds back the writer of a pipe. Descriptors
that can block (pipes, terminals, sockets) are polled together with a wake-up pipe, so that ``stop`` ends a waiting
read; a regular file is read directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rstream_cli.exit_status import CommandError

BLOCK_SIZE = 256 * 1024
_AHEAD = 4
STDIN = "-"


class Read(NamedTuple):
    """The result of one read. ``data`` is empty at the end of a file."""

    data: bytes
    source: int
    """The index of the source, from 0."""


class InputError(CommandError):
    """A file cannot be read; the message names it."""


def name_of(source: str) -> str:
    """Returns the name of a source for messages."""
    return "standard input" if source == STDIN else source


def check_sources(sources: Sequence[str], stdin: int) -> int | None:
    """Returns the total size in bytes, or None unless all sources are regular files. Raises InputError for a bad one.

    ``stdin``: the descriptor that ``-`` stands for.

    Called before publishing, so that a typing error in the third name does not leave two files published.
    """
    total: int | None = 0
    for source in sources:
        try:
            size = _check(source, stdin)
        except OSError as error:
            raise InputError(f"{name_of(source)}: {error.strerror}") from None
        total = None if total is None or size is None else total + size
    return total


def _check(source: str, stdin: int) -> int | None:
    found = os.fstat(stdin) if source == STDIN else os.stat(source)
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if source != STDIN and not os.access(source, os.R_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if not stat.S_ISREG(found.st_mode):
        return None
    position = os.lseek(stdin, 0, os.SEEK_CUR) if source == STDIN else 0
    return max(found.st_size - position, 0)


class Input:
    """Reads sources one after the other. Made and used on the event loop; ``start`` first, and ``close`` last."""

    def __init__(
        self, sources: Sequence[str], stdin: int, *, block_size: int = BLOCK_SIZE, ahead: int = _AHEAD
    ) -> None:
        """``stdin``: the descriptor that ``-`` stands for."""
        self._sources = list(sources)
        self._stdin = stdin
        self._block_size = block_size
        self._room = threading.Semaphore(ahead)
        self._blocks: deque[Read] = deque()
        self._wake: Callable[[], None]
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self.error: InputError | None = None
        """Why the input was not read to its end, once ``is_over``."""
        self._stopping = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._is_over = False
        self._ending = threading.Lock()
        """Held while the wake-up pipe is written to or closed."""
        self._thread = threading.Thread(target=self._run, name="rstream-input", daemon=True)

    def start(self, wake: Callable[[], None]) -> None:
        """Starts the thread that reads. ``wake`` is called on the loop when there is something new."""
        self._wake = wake
        self._thread.start()

    def stop(self) -> None:
        """Stops reading. ``take`` still returns blocks that were read. May be called repeatedly."""
        if self._stopping:
            return
        self._stopping = True
        with self._ending:
            if not self._is_over:
                os.write(self._wake_writer, b"x")
        self._room.release()

    def close(self) -> None:
        """Stops reading, and drops blocks that were read. Does not wait for the thread: a file system may block it."""
        self.stop()
        self._blocks.clear()
        if self._thread.ident is None:  # the thread was never started
            self._close_pipe()

    @property
    def stopped_early(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping

    @property
    def is_over(self) -> bool:
        """Whether no further block will come: after the last source, an error, or ``stop``."""
        return self._ended and not self._blocks

    def take(self) -> Read | None:
        """Returns the next block if there is one. Never waits."""
        if not self._blocks:
            return None
        self._room.release()
        return self._blocks.popleft()

    # On the loop.

    def _put(self, block: Read) -> None:
        self._blocks.append(block)
        self._wake()

    def _end(self, error: InputError | None) -> None:
        self.error = error
        self._ended = True
        self._wake()

    # In the thread.

    def _run(self) -> None:
        error: InputError | None = None
        try:
            for number, source in enumerate(self._sources):
                try:
                    self._read_source(number, source)
                except OSError as problem:
                    error = InputError(f"{name_of(source)}: {problem.strerror}")
                if error is not None or self._stopping:
                    break
        finally:
            self._close_pipe()
            self._call(self._end, error)

    def _close_pipe(self) -> None:
        with self._ending:
            if not self._is_over:
                self._is_over = True
                os.close(self._wake_reader)
                os.close(self._wake_writer)

    def _read_source(self, number: int, source: str) -> None:
        # Without O_NONBLOCK, open() of a FIFO would block until it has a writer.
        descriptor = self._stdin if source == STDIN else os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            poll = None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                poll = select.poll()
                poll.register(descriptor, select.POLLIN | select.POLLPRI)
                poll.register(self._wake_reader, select.POLLIN)
            self._read_descriptor(number, descriptor, poll)
        finally:
            if source != STDIN:
                os.close(descriptor)

    def _read_descriptor(self, number: int, descriptor: int, poll: select.poll | None) -> None:
        while True:
            self._room.acquire()
            if self._stopping:
                return
            data = self._read(descriptor, poll)
            if data is None:
                return
            self._call(self._put, Read(data, number))
            if not data:
                return

    def _read(self, descriptor: int, poll: select.poll | None) -> bytes | None:
        """Returns the available bytes, b"" at the end, or None after ``stop``."""
        while True:
            if poll is not None and any(fd == self._wake_reader for fd, _ in poll.poll()):
                return None
            try:
                return os.read(descriptor, self._block_size)
            except BlockingIOError:  # a non-blocking descriptor, and another process has read the data
                continue

    def _call(self, function: object, argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over
            self._loop.call_soon_threadsafe(function, argument)  # type: ignore[arg-type]
