"""What the broker does with files in more than one place: whole writes, syncs, names for what is put aside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from concurrent.futures import Executor
from pathlib import Path


def write_all(fd: int, data: bytes, position: int) -> None:
    """Writes all of the data at a position. Raises ``OSError``; then part of it may be written."""
    written = os.pwrite(fd, data, position)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], position + written)


def name_aside(path: Path) -> Path:
    """Returns an unused name in the same directory, ending in ``.damaged``."""
    names = (f"{path.name}{f'.{number}' if number else ''}.damaged" for number in itertools.count())
    return next(other for other in map(path.with_name, names) if not other.exists())


def sync_folder(directory: Path) -> None:
    """Syncs all files of a directory, and their names, to disk. Raises ``OSError``."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Syncs the file names of a directory to disk, where the system supports that."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class FileSync:
    """Syncs files, one at a time, in the calling thread or in another one."""

    def __init__(self, executor: Executor, *, keeps_error: bool) -> None:
        """``keeps_error``: after a sync that failed, all later ones raise its error.

        The system reports an error only to one fsync, so that one that succeeds afterwards would say nothing.
        """
        self.error: OSError | None = None
        """The error that is kept. Guarded by ``_lock``."""
        self._executor = executor
        self._keeps_error = keeps_error
        self._lock = threading.Lock()
        """Held by the thread that runs fsync."""

    def sync(self, fd: int) -> None:
        """Syncs a file; may be called from any thread. Raises ``OSError``."""
        with self._lock:
            if self.error is not None:
                raise self.error
            try:
                os.fsync(fd)
            except OSError as error:
                if self._keeps_error:
                    self.error = error
                raise

    async def sync_in_thread(self, fd: int) -> None:
        """Syncs a file in a thread; in the calling one where there is no thread or file handle. Raises ``OSError``.

        The handle may be closed meanwhile: the thread has one of its own.
        """
        if not await self._is_synced_in_thread(fd):
            self.sync(fd)

    async def _is_synced_in_thread(self, fd: int) -> bool:
        try:
            handles = [os.dup(fd)]
        except OSError:
            return False
        try:
            job = asyncio.get_running_loop().run_in_executor(self._executor, self._sync_and_close, handles)
        except RuntimeError:  # the job may be queued nevertheless: the side that pops the handle closes it
            with contextlib.suppress(IndexError):
                os.close(handles.pop())
            return False
        await job
        return True

    def _sync_and_close(self, handles: list[int]) -> None:
        try:
            fd = handles.pop()
        except IndexError:
            return
        try:
            self.sync(fd)
        finally:
            os.close(fd)
