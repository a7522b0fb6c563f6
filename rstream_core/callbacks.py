"""Calls an application's functions, so that none of them can harm the core, and each sees its own context variables.

A callback runs on the event loop in the middle of the core's work: while a confirm is counted, or while publishers
learn that their connection is lost. So its exceptions are caught here, and each is reported once:

- An ``Exception`` is logged. So is a ``CancelledError``, which comes from a callback that called ``result()`` on a
  cancelled future. One that comes again and again is counted, see ``Failures``.
- ``KeyboardInterrupt`` and ``SystemExit`` leave the event loop once the core has done its work, as in asyncio itself:
  ``asyncio.run`` raises them. Only the first one does. Later ones are logged, so that they do not interrupt the
  program's cleanup.
- Any other ``BaseException``, such as that of ``pytest.fail()``, is raised by the next call that waits: see ``check``.

A connection is shared by many callers, so the core's own tasks run in an empty context. A callback runs in the
context of the call that received it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

_left: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
"""The event loops that a callback's ``KeyboardInterrupt`` or ``SystemExit`` has stopped or will stop."""


async def resolved(result: T | Awaitable[T]) -> T:
    """Returns the result of a user's function, and awaits it first if it is awaitable."""
    if inspect.isawaitable(result):
        return await result
    return result


def own_task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts a task in an empty context: it keeps no caller's context variables, and nothing they refer to, alive.

    The task is never eager, even where the loop's task factory makes eager ones: the caller has the task object before
    the task's first step runs.
    """
    return Context().run(partial(asyncio.Task, coroutine, loop=asyncio.get_running_loop()))


TELL_INTERVAL = 60.0
"""Seconds for which failures that repeat are only counted."""
MAX_KINDS = 10
"""How many kinds of failures are told with their tracebacks in that time."""


class Failures:
    """Logs the failures of one callback, which may fail for each of millions of messages.

    The first one of each kind, which is its type and the line that raised it, is told with its traceback. The others
    are counted, and the count is told after ``TELL_INTERVAL`` seconds, and by ``sum_up``; then the next one is told in
    full again.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._kinds: set[tuple[type[BaseException], object]] = set()
        self._untold = 0
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, error: BaseException, message: str, *args: object) -> None:
        """Logs it, with the message formatted with ``args``, or counts it."""
        kind = (type(error), _line_of(error))
        if kind in self._kinds or len(self._kinds) >= MAX_KINDS:
            self._untold += 1
            return
        self._kinds.add(kind)
        logger.error(message, *args, exc_info=error)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_INTERVAL, self.sum_up, context=Context())

    def sum_up(self) -> None:
        """Tells how many failures were only counted. The interval is over, or nobody is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._kinds.clear()
        untold, self._untold = self._untold, 0
        if untold:
            logger.error("%s failed %d more times", self._what, untold)


class Callbacks:
    """The callbacks that an application gave to one object, and the tasks of those that are coroutine functions."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()
        self._failures: dict[str, Failures] = {}
        """By what names a callback in logs."""
        self.escaped: BaseException | None = None
        """The exception that the next ``check`` raises."""

    def bind(self, callback: Callable[..., Any], what: str) -> Callable[..., None]:
        """Returns a function that calls ``callback`` in the caller's current context and never raises.

        ``what`` names the callback in logs. Each call runs in its own copy of that context, since a context cannot be
        entered twice: a callback may be called again before it returns.
        """
        return partial(self._call, copy_context(), callback, what)

    def check(self) -> None:
        """Raises, once, an exception of a callback that was neither logged nor left the event loop (``escaped``)."""
        escaped, self.escaped = self.escaped, None
        if escaped is not None:
            raise escaped

    async def finish(self, timeout: float) -> None:
        """Waits for the running tasks of callbacks, and cancels those that still run after ``timeout`` seconds."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
        self.sum_up()

    def sum_up(self) -> None:
        """Tells of the failures that were only counted so far."""
        for failures in self._failures.values():
            failures.sum_up()

    def report(self, error: BaseException, what: str, *args: object) -> None:
        """Reports an exception of a callback, depending on its type: see the module. ``args`` are those of the call."""
        loop = asyncio.get_running_loop()
        if isinstance(error, KeyboardInterrupt | SystemExit) and loop not in _left:
            _left.add(loop)
            loop.call_soon(_leave_the_loop, error)
        elif not _escapes(error) or self.escaped is not None:
            self._log(error, what, args)
        else:
            self.escaped = error

    def _call(self, context: Context, callback: Callable[..., Any], what: str, *args: object) -> None:
        context = context.copy()
        try:
            result = context.run(callback, *args)
            if result is None or not inspect.isawaitable(result):
                return
            task = context.run(asyncio.ensure_future, result)
        except BaseException as error:  # noqa: BLE001 - ``report`` handles each kind
            self.report(error, what, *args)
            return
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, what, args), context=Context())

    def _done(self, what: str, args: tuple[object, ...], task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if isinstance(task, asyncio.Task) and not task.cancelling():  # it awaited something that was cancelled
                self._log(asyncio.CancelledError(), what, args)
        elif (error := task.exception()) is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            self.report(error, what, *args)  # asyncio itself has raised those two out of the event loop

    def _log(self, error: BaseException, what: str, args: tuple[object, ...]) -> None:
        failures = self._failures.get(what)
        if failures is None:
            failures = self._failures[what] = Failures(what)
        failures.tell(error, "%s failed%s", what, _CalledWith(args))


class _CalledWith:
    """The arguments of a call, in words: made only for those failures that are logged."""

    def __init__(self, args: tuple[object, ...]) -> None:
        self._args = args

    def __str__(self) -> str:
        return "".join(f" for {argument!r:.200}" for argument in self._args)


def _line_of(error: BaseException) -> object:
    """The line that raised it; None where that is not known."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        line = (trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return line


def _escapes(error: BaseException) -> bool:
    return not isinstance(error, Exception | asyncio.CancelledError | KeyboardInterrupt | SystemExit)


def _leave_the_loop(error: BaseException) -> NoReturn:
    raise error
