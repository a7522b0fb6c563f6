"""Attempts that several callers share: a caller that arrives while an attempt is running gets its result.

Otherwise callers that wait for the same broker would try one after the other, each for the full timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

from rstream_core.callbacks import own_task
from rstream_core.connecting.recovery import ended
from rstream_core.errors import RstreamError

T = TypeVar("T")


class SharedAttempt(Generic[T]):
    """Runs one attempt at a time. A caller stays inside ``async with`` for as long as it wants the result.

    The attempt begins when the first caller awaits ``result``, and is cancelled when the last caller has left.
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
        """Returns the result of the running attempt. If none is running, starts ``attempt``.

        Callers are woken in the order in which they came. Raises the attempt's error, the same object for all callers.
        """
        if self._task is None:
            self._task = own_task(attempt())
            self._task.add_done_callback(self._over)
        try:
            return await asyncio.shield(self._task)
        except RstreamError as error:
            raise error.with_traceback(None) from error.__cause__  # without this, each caller adds its frames

    def _over(self, task: asyncio.Task[T]) -> None:
        if task is self._task:
            self._task = None
        if not task.cancelled():
            task.exception()  # marks the error as retrieved: all callers may have been cancelled
