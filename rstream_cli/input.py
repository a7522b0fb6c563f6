"""The input of ``publish``: stdin and files, read in blocks by a thread behind a bounded queue.

asyncio cannot read files, nor stdin where that is ``< file`` or ``/dev/null``, so a daemon thread reads and the event
loop takes. A read gives what is there - a block may be one byte - so a growing input is published as it grows; the
thread runs at most ``_AHEAD`` blocks ahead, so a slow broker holds back the writer of the pipe. Whatever can block
(pipes, terminals, sockets) is polled together with a wake-up pipe, so ``stop`` ends a read that waits; a regular file
is simply read.
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
from collections.abc import Sequence
from typing import NamedTuple

from rstream_cli.exit_status import CommandError

BLOCK_SIZE = 256 * 1024
_AHEAD = 4
STDIN = "-"


class Block(NamedTuple):
    """What one read gave. ``data`` is empty at the end of a file."""

    data: bytes
    source: int
    """Which of the sources, from 0."""


class InputError(CommandError):
    """A file cannot be read; the message names it."""


def name_of(source: str) -> str:
    """What to call a source in a message."""
    return "standard input" if source == STDIN else source


def check_sources(sources: Sequence[str], stdin: int) -> int | None:
    """Their size in bytes, where all of them are regular files. Raises InputError for what cannot be read.

    ``stdin``: the descriptor that ``-`` stands for.

    Called before anything is published, so that a typing error in the third name does not leave two published.
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
        self._blocks: deque[Block] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._failed = False
        self._error: Exception | None = None
        self._stopping = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._is_over = False
        self._ending = threading.Lock()
        """Held by whoever wakes the thread, and by the thread when it gives up the pipe for that."""
        self._thread = threading.Thread(target=self._run, name="rstream-input", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Reads no more; blocks that were read are still given. May be repeated."""
        if self._stopping:
            return
        self._stopping = True
        with self._ending:
            if not self._is_over:
                os.write(self._wake_writer, b"x")
        self._room.release()

    def fail(self, error: Exception) -> None:
        """Reads no more, and lets ``next`` raise this; blocks that were read are kept for ``take_rest``."""
        self.stop()
        self._failed = True
        self._end(error)

    def take_rest(self) -> list[Block]:
        """After ``stop``: the blocks that were read and not given yet, without waiting."""
        rest = list(self._blocks)
        self._blocks.clear()
        return rest

    def close(self) -> None:
        """Gives up the rest too. Does not wait for the thread, which a file system may hold up."""
        self.stop()
        self._blocks.clear()
        if self._thread.ident is None:  # it was never started
            self._close_pipe()

    @property
    def stopped_early(self) -> bool:
        """Whether ``stop`` came before the end of the input."""
        return self._stopping

    async def next(self, timeout: float | None = None) -> Block | None:
        """The next block; None at the end of the last source, and after ``stop`` once all was given.

        Raises TimeoutError where nothing came in ``timeout`` seconds, InputError after the good blocks, and at once
        what ``fail`` was given.
        """
        if not self._blocks and not self._ended:
            async with asyncio.timeout(timeout):
                while not self._blocks and not self._ended:
                    self._arrived.clear()
                    await self._arrived.wait()
        if self._blocks and not self._failed:
            self._room.release()
            return self._blocks.popleft()
        if self._error is not None:
            raise self._error
        return None

    # On the loop.

    def _put(self, block: Block) -> None:
        self._blocks.append(block)
        self._arrived.set()

    def _end(self, error: Exception | None) -> None:
        if not self._failed or self._error is None:
            self._error = error
        self._ended = True
        self._arrived.set()

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
        # A FIFO without O_NONBLOCK would hold up open() until somebody writes.
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
            self._call(self._put, Block(data, number))
            if not data:
                return

    def _read(self, descriptor: int, poll: select.poll | None) -> bytes | None:
        """What is there, b"" at the end, None where reading is to stop."""
        while True:
            if poll is not None and any(fd == self._wake_reader for fd, _ in poll.poll()):
                return None
            try:
                return os.read(descriptor, self._block_size)
            except BlockingIOError:  # the descriptor is non-blocking, and somebody else was quicker
                continue

    def _call(self, function: object, argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            self._loop.call_soon_threadsafe(function, argument)  # type: ignore[arg-type]
