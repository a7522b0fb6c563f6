"""Tells a program's handlers of lost connections, and calls its own recovery strategy."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any

from rstream_core.callbacks import Callbacks, own_task
from rstream_core.compat.recovery import BackOffRecoveryStrategy, IReliableEntity, RecoveryStrategy
from rstream_core.compat.utils import OnClosedErrorInfo
from rstream_core.connecting.recovery import RECOVER, Recovery, RecoveryEvent, RecoveryState, ended
from rstream_core.errors import RstreamError, ServerError

logger = logging.getLogger("rstream_core")

OnClose = Callable[[OnClosedErrorInfo], Awaitable[Any] | None]
ConnectionClosedHandler = Callable[[Exception], Awaitable[Any] | None]


class Losses:
    """A client's ``on_recovery``. Streams that are lost with one connection are told together."""

    def __init__(
        self,
        entity: IReliableEntity,
        on_close: OnClose | None,
        on_connection_closed: ConnectionClosedHandler | None,
        strategy: RecoveryStrategy | None,
        restore: Callable[[str], Awaitable[Any]],
    ) -> None:
        """``on_connection_closed``: that of version 0, which did not recover by itself. ``restore``: what a strategy of
        the program's own calls, with the stream, to go on."""
        self._entity = entity
        self._restore = restore
        self._callbacks = Callbacks()
        self._on_close = None if on_close is None else self._callbacks.bind(on_close, "on_close_handler")
        self._on_connection_closed = None
        if on_connection_closed is not None:
            self._on_connection_closed = self._callbacks.bind(on_connection_closed, "connection_closed_handler")
        self._given = strategy
        self._own = None if _is_the_cores(strategy) else strategy
        self._lost: dict[int, tuple[RstreamError, list[str]]] = {}
        """By the identity of the error: one for each connection, or stream that has moved."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_the_programs(self) -> bool:
        """Whether the program has said that it sees to losses itself."""
        return self._on_close is not None or self._on_connection_closed is not None or self._own is not None

    @property
    def policy(self) -> Recovery | None:
        """How the core is to recover; None where it is not to."""
        if self._own is not None:
            return None
        if isinstance(self._given, BackOffRecoveryStrategy):
            return self._given.recovery()
        return None if self._on_connection_closed is not None else RECOVER

    def __call__(self, event: RecoveryEvent) -> None:
        """Called on the event loop."""
        if event.state is RecoveryState.LOST:
            if not self._lost:
                asyncio.get_running_loop().call_soon(self._tell, context=Context())
            streams = self._lost.setdefault(id(event.error), (event.error, []))[1]
            if event.stream not in streams:
                streams.append(event.stream)
        elif event.state is RecoveryState.GIVEN_UP and self._own is not None:
            task = own_task(self._recover(self._own, event.stream, event.error))
            self._tasks.add(task)
            task.add_done_callback(self._recovered)

    async def close(self) -> None:
        """Ends the program's strategies. Raises, once, what escaped a handler: see ``Callbacks``."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await ended(tasks)
        self._callbacks.check()

    def _tell(self) -> None:
        lost, self._lost = self._lost, {}
        for error, streams in lost.values():
            if self._on_close is not None:
                reason = "Metadata Update" if isinstance(error, ServerError) else "Connection Closed"
                self._on_close(OnClosedErrorInfo(reason, streams))
            if self._on_connection_closed is not None:
                self._on_connection_closed(error)

    async def _recover(self, strategy: RecoveryStrategy, stream: str, error: RstreamError) -> None:
        result: Any = strategy.recover(self._entity, stream, error, 1, partial(self._restore, stream))
        if inspect.isawaitable(result):
            await result

    def _recovered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the recovery strategy failed", exc_info=error)


def _is_the_cores(strategy: RecoveryStrategy | None) -> bool:
    """Whether the core does what the strategy would do."""
    return strategy is None or type(strategy).recover is BackOffRecoveryStrategy.recover
