"""What the broker does with files in more than one place: whole writes, syncs, names for what is put aside."""

from __future__ import annotations

import contextlib
import itertools
import os
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
