"""Watches that a broker confirms in time: one timer for everything that a publisher has in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context


class ConfirmTimer:
    """Calls a function once the oldest batch has waited for the confirm timeout. For one event loop."""

    def __init__(
        self, timeout: float | None, oldest: Callable[[], float | None], expired: Callable[[float], None]
    ) -> None:
        """``timeout``: seconds; None or 0 for no limit. ``oldest`` returns when the oldest batch in flight was written,
        in loop time, None where nothing is in flight. ``expired`` gets the timeout."""
        self.timeout = timeout
        self._oldest = oldest
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.is_set = False
        """Whether the timer runs."""

    def start(self) -> None:
        """Sets the timer, unless it is set or there is no limit. Something was written just now."""
        if not self.is_set and self.timeout:
            self._set(self.timeout)

    def stop(self) -> None:
        """Nothing is waited for any more: all is confirmed, or there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.is_set = None, False

    def _set(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._look, context=Context())
        self.is_set = True

    def _look(self) -> None:
        assert self.timeout is not None
        self._timer, self.is_set = None, False
        written_at = self._oldest()
        if written_at is None:
            return
        due = written_at + self.timeout - self._loop.time()
        if due > 0:
            self._set(due)
        else:
            self._expired(self.timeout)
