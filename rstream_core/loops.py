"""To which event loop an object belongs: that of its first use.

Connections, locks and timers are of one event loop. Used from another one they wait for what never comes, or fail with
words that name no cause: so each call looks first where it is.
"""

from __future__ import annotations

import asyncio
import os
from threading import get_ident
from weakref import WeakSet

from rstream_core.errors import ConfigurationError

_NO_THREAD = 0
"""No thread has this number."""


class LoopGuard:
    """Holds the users of an object to one event loop.

    ``get_ident() == guard.thread and guard.loop.is_running()`` is what ``check`` looks at, for those who look at each
    message: in the thread of a loop that runs no other one does. (Asking for the running loop costs more than twice as
    much before Python 3.12, and a thread goes on with the same number after a fork: see ``_forget_threads``.)
    """

    __slots__ = ("__weakref__", "_pid", "_what", "loop", "thread")

    loop: asyncio.AbstractEventLoop
    """There once ``thread`` is."""

    def __init__(self, what: str) -> None:
        """``what``: the object, in messages."""
        self._what = what
        self._pid: int | None = None
        self.thread = _NO_THREAD
        _guards.add(self)

    def check(self) -> None:
        """Raises ``ConfigurationError`` where this is not the event loop of the first call."""
        if get_ident() != self.thread or not self.loop.is_running():
            self._check_again()

    @property
    def is_forked(self) -> bool:
        """Whether it was used before this process was forked."""
        return self._pid is not None and self._pid != os.getpid()

    def _check_again(self) -> None:
        """For the first call, and for those that may be wrong."""
        if self.is_forked:
            raise ConfigurationError(
                f"{self._what} was used before this process was forked: make one in each process, after the fork"
            )
        running = asyncio.get_running_loop()
        if self._pid is None:
            self.loop, self._pid = running, os.getpid()
        elif running is not self.loop:
            if self.loop.is_running():
                raise ConfigurationError(
                    f"{self._what} belongs to the event loop of another thread: make one in each thread, or call it "
                    "there with asyncio.run_coroutine_threadsafe"
                )
            raise ConfigurationError(
                f"{self._what} belongs to another event loop, which no longer runs: make one inside of each "
                "asyncio.run()"
            )
        self.thread = get_ident()


_guards: WeakSet[LoopGuard] = WeakSet()


def _forget_threads() -> None:
    """In a child after a fork: its thread has the number of its parent's, and the parent's loop seems to run."""
    for guard in _guards:
        guard.thread = _NO_THREAD


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
