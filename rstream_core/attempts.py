"""Attempts that several callers share: whoever comes while one is being made gets what comes of it.

Else callers that all wait for the same broker would try one after the other, each as long as the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

from rstream_core.callbacks import own_task
from rstream_core.errors import RstreamError
from rstream_core.recovery import ended

T = TypeVar("T")


class SharedAttempt(Generic[T]):
    """One attempt at a time. A caller is inside of ``async with`` as long as it is interested in what comes of it.

    The attempt begins when the first caller asks, and is cancelled when the last one has left.
    """

    def __init__(self) -> None:
        self.callers = 0
        self._task: asyncio.Task[T] | None = None

    async def __aenter__(self) -> None:
        self.callers += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.callers == 1 and self._task is not None and not self._task.done():
                task, self._task = self._task, None
                task.cancel()
                await ended([task])
        finally:
            self.callers -= 1

    async def result(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What comes of the attempt that is being made, or else of this one, which begins now.

        Callers are woken in the order in which they came. Raises the attempt's error, the same one for all.
        """
        if self._task is None:
            self._task = own_task(attempt())
            self._task.add_done_callback(self._over)
        try:
            return await asyncio.shield(self._task)
        except RstreamError as error:
            raise error.with_traceback(None) from error.__cause__  # else each caller adds to it

    def _over(self, task: asyncio.Task[T]) -> None:
        if task is self._task:
            self._task = None
        if not task.cancelled():
            task.exception()  # those who were to be told may all have been cancelled
