"""The base of publishers and subscriptions: each takes an id on a shared connection, loses it, and takes another.

When the connection is lost or the stream moves, the publisher or subscription detaches. A task then attaches it to a
node again, as the client's recovery policy allows, or ends it with the error for which recovery was given up.

An id can be given out again once the broker has confirmed that it is unregistered. If the broker does not answer, the
id stays taken as long as its connection lives: late confirms or chunks would be taken for those of the next owner.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool, Lease
from rstream_core.connecting.recovery import Outages, Recoveries, ended
from rstream_core.errors import RequestTimeout, RstreamError, ServerError
from rstream_core.loops import LoopGuard
from rstream_core.protocol import commands as c
from rstream_core.types import Endpoint

logger = logging.getLogger("rstream_core")

GOODBYE_TIMEOUT = 5.0
"""Seconds that the broker has to answer the request that unregisters an id."""


class Attachment(ABC):
    """A publisher or a subscription of one stream, and its id on a connection."""

    what: ClassVar[str]
    """The name in recovery events: ``publisher`` or ``subscription``."""

    def __init__(self, stream: str, pool: ConnectionPool, locator: Locator, recoveries: Recoveries) -> None:
        self.stream = stream
        self.error: RstreamError | None = None
        """The error that ended the publisher or subscription."""
        self._pool = pool
        self._locator = locator
        self._recoveries = recoveries
        self._outages = Outages(recoveries, stream, self.what)
        self._recovering: asyncio.Task[None] | None = None
        self._lease: Lease
        self._leased = False
        self._attached = False
        self._interrupted: RstreamError | None = None
        """The error that ended the connection during ``attach``."""
        self._closed = False
        self._guard = LoopGuard(f"this {self.what}")
        self._guard.check()  # it belongs to the event loop in which it is made

    async def attach(self, endpoint: Endpoint | None = None) -> None:
        """Takes an id on ``endpoint``, or on the node that ``_locate`` returns, and registers it with the broker."""
        if self._leased:  # an id on a lost connection: it is given back in the background
            self._leave_later(None)
        self._lease = await self._pool.acquire(endpoint or await self._locate())
        self._leased = True
        self._interrupted = None
        try:
            await self._declare()
            if self._interrupted is not None:
                raise self._interrupted
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):  # a cancelled call must not wait for the broker's answer
                self._leave_later(self._detach)
            else:
                await self._leave(0.0 if isinstance(error, RequestTimeout) else GOODBYE_TIMEOUT)
            raise
        self._attached = True
        self._go_on()

    def on_unavailable(self, error: RstreamError) -> None:
        """Called when the connection has ended, or the stream has moved or was deleted: begins a recovery, or ends."""
        if self.error is not None:
            return
        if not self._attached:
            self._interrupted = error
            self._detach()  # frames that still arrive here do not concern the next connection
            self._on_loss(error)
        elif self._is_over() or not self._recoveries.can_help(error):
            was_over = self._is_over()
            self._detach()  # before the callbacks: one of them may call ``on_unavailable`` again
            if not was_over and not self._recoveries.is_closed:
                self._outages.lose(error)
            self._end(error)
        else:
            self._detach()
            self._on_loss(error)
            self._outages.begin(error)
            self._recovering = self._recoveries.start(self._recover(error))
            self._recovering.add_done_callback(partial(self._on_recovery_end, error))

    # Publishers and subscriptions implement these.

    @abstractmethod
    async def _locate(self) -> Endpoint:
        """Returns the node to attach to. Asks the broker once, without retries."""

    @abstractmethod
    async def _declare(self) -> None:
        """Registers with the connection of ``_lease`` and with the broker."""

    @abstractmethod
    def _go_on(self) -> None:
        """Called after ``_declare`` has succeeded: resumes the work that waited for the connection."""

    @abstractmethod
    def _goodbye(self, lease: Lease) -> c.Request[object]:
        """Returns the request that unregisters the id of ``lease``."""

    @abstractmethod
    def _detach(self) -> None:
        """Removes itself from the tables of the connection. May be called repeatedly."""
        self._attached = False

    def _on_loss(self, error: RstreamError) -> None:  # noqa: B027 - optional
        """Called after ``_detach``, when a recovery begins or continues."""

    async def _before_recovery(self) -> None:  # noqa: B027 - optional
        """Waits for the application before the first attempt. This time does not count as time of the outage."""

    def _is_over(self) -> bool:
        """Returns True where a lost connection needs no recovery, because the work is finished."""
        return self._closed

    @abstractmethod
    def _end(self, error: RstreamError) -> None:
        """Ends the publisher or subscription with this error. Not called by ``close``."""
        self.error = error

    # The same for both.

    @property
    def node(self) -> Endpoint:
        """The address of the node that it is attached to, or was attached to last."""
        return self._connection.endpoint

    @property
    def _connection(self) -> Connection:
        return self._lease.connection

    async def _recover(self, error: RstreamError) -> None:
        """Attaches to a node again; ends the publisher or subscription where that is given up. Runs as a task."""
        try:
            await self._before_recovery()
            await self._outages.recover(error, self.attach)
        except RstreamError as reason:
            self._end(reason)
        else:
            logger.info("%s of stream %r goes on at %s", self.what, self.stream, self.node)

    def _on_recovery_end(self, error: RstreamError, task: asyncio.Task[None]) -> None:
        """Cleans up after a recovery task that was cancelled, perhaps before its first step, or failed unexpectedly."""
        if task is self._recovering:
            self._outages.give_up(error)
            if self.error is None and not self._attached and not self._closed:
                self._end(error)

    async def _stop_recovering(self) -> None:
        task = self._recovering
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await ended([task])

    def _abandon(self) -> None:
        """Cancels the recovery, and gives the id back in a background task."""
        if self._recovering is not None and self._recovering is not asyncio.current_task():
            self._recovering.cancel()
        self._leave_later(self._detach)

    def _leave_later(self, detach: Callable[[], None] | None) -> None:
        """Does the same as ``_leave`` in a background task: the id stays taken until the broker has answered."""
        if self._leased:
            self._leased = False
            self._recoveries.start(self._part(self._lease, GOODBYE_TIMEOUT, detach))

    async def _leave(self, timeout: float = GOODBYE_TIMEOUT) -> None:
        """Unregisters the id, if there is one, and gives it back. Waits for the broker, at most ``timeout`` seconds."""
        if self._leased:
            self._leased = False
            leaving = self._recoveries.start(self._part(self._lease, timeout, self._detach))
            await asyncio.wait((leaving,))  # the task goes on if this call is cancelled, so that the id becomes free

    async def _part(self, lease: Lease, timeout: float, detach: Callable[[], None] | None = None) -> None:
        """Unregisters an id, calls ``detach``, and gives the id back to the pool, which may close the connection."""
        gone = False
        try:
            if lease.connection.is_open:
                what = f"the {self.what} of {self.stream!r}"
                await lease.connection.request(self._goodbye(lease), what, timeout=timeout)
            gone = True
        except ServerError:  # the broker does not know the id
            gone = True
        except RstreamError as error:
            logger.debug("leaving: %s", error)
        finally:
            if detach is not None:
                detach()
            await self._pool.release(lease, is_free=gone)
