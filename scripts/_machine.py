"""What the scripts that start servers and build trees have in common: locks, a cache, and processes found again.

Processes are recognised by variables of the environment that they inherit, not by pid files: it holds for helpers
of a server too, survives a `kill -9`, and cannot name somebody else's process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

NO_WAY = 6
"""The status of a script that this machine lacks something for."""


class Trouble(Exception):
    """Something the user should read, and the status to end with."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class StoppedError(Exception):
    """A signal has ended the run."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def stop_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise ``StoppedError``, so that what is to be cleaned up is."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


def _stop(number: int, _frame: object) -> NoReturn:
    raise StoppedError(number)


def cache_root(kind: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where what is built is kept, outside the repository; each kind has a folder."""
    own = environ.get("RSTREAM_CACHE")
    if own:
        return Path(own).absolute() / kind
    base = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "rstream" / kind


def say(message: str) -> None:
    """Tell the user what goes on; stdout carries nothing but answers."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


# What a directory answers that another process removes, while this one makes sure of it.
VANISHED = (FileNotFoundError, FileExistsError)


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold an exclusive lock; the file, and its directory if it is empty then, are removed afterwards.

    Removing a lock file that others wait for is safe only since each of them checks, once it has the lock,
    that the file it locked is still the one at that path.
    """
    while True:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except VANISHED:
            if path.parent.is_file():
                raise
            continue
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(waiting)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _still_at(handle, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
            return
        finally:
            os.close(handle)


def _still_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def processes_with(*variables: str) -> dict[int, str]:
    """The living processes whose environment has all of these `NAME=value`: pid and program name."""
    wanted = [variable.encode() for variable in variables]
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = _environment_of(entry)
            if all(item in environment for item in wanted):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone in the meantime (a zombie has no environment), or not ours
    return found


def _environment_of(process: Path) -> list[bytes]:
    """The environment a process was started with; it reads as empty for a moment during an exec."""
    for _ in range(5):
        content = (process / "environ").read_bytes()
        if content:
            return content.split(b"\0")
        (process / "exe").readlink()  # fails for a zombie or kernel thread: those have none for good
        time.sleep(0.002)
    return []


def all_gone(find: Callable[[], Sequence[int]]) -> bool:
    """Whether none is left. Looks twice: one look can miss a process whose parent starts it and ends."""
    if find():
        return False
    time.sleep(0.02)
    return not find()


def end_processes(find: Callable[[], Sequence[int]], patience: float) -> None:
    """Ask the processes to end, and kill those that still live once the patience is over."""
    for pid in find():
        _signal(pid, signal.SIGTERM)
    if not gone_within(find, patience):
        kill_processes(find)


def kill_processes(find: Callable[[], Sequence[int]]) -> None:
    """Kill the processes and wait until none is left; some may start others while they are being killed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in find():
            _signal(pid, signal.SIGKILL)
        if gone_within(find, 0.5):
            return
    raise Trouble(f"processes that do not die: {', '.join(map(str, find()))}")


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def gone_within(find: Callable[[], Sequence[int]], patience: float) -> bool:
    """Whether none is left, at the latest after so many seconds."""
    deadline = time.monotonic() + patience
    while not all_gone(find):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
