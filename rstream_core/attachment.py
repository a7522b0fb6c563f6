"""What publishers and subscriptions have in common: an id on a shared connection, which they take, lose and take again.

When the connection is lost or the stream moves, one detaches. A task attaches it to a node again, as the client's
recovery allows, or ends it with the error for which that was given up.

An id is for others once the broker has said goodbye to it. Where that is not certain, because nobody answered, it
stays taken as long as its connection lives: what still comes for it would be taken for its next owner's.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from rstream_core.connection import Connection
from rstream_core.errors import RequestTimeout, RstreamError, ServerError
from rstream_core.locator import Locator
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.recovery import Outages, Recoveries, ended
from rstream_core.types import Endpoint

logger = logging.getLogger("rstream_core")

GOODBYE_TIMEOUT = 5.0
"""Seconds for the broker to say goodbye."""


class Goodbye(NamedTuple):
    """The last request for an id, and the answer that is expected."""

    message: Any
    expect: type[Any]


class Attachment(ABC):
    """A publisher or a subscription of one stream, and its place on a connection."""

    what: ClassVar[str]
    """As recovery events name it."""

    def __init__(self, stream: str, pool: ConnectionPool, locator: Locator, recoveries: Recoveries) -> None:
        self.stream = stream
        self.error: RstreamError | None = None
        """That which ended it."""
        self._pool = pool
        self._locator = locator
        self._recoveries = recoveries
        self._outages = Outages(recoveries, stream, self.what)
        self._recovering: asyncio.Task[None] | None = None
        self._lease: Lease
        self._leased = False
        self._attached = False
        self._interrupted: RstreamError | None = None
        """What ended the connection while this was being attached to it."""
        self._closed = False

    async def attach(self, endpoint: Endpoint | None = None) -> None:
        """Takes an id on this node, or on one that it finds, and declares itself there."""
        if self._leased:  # it was lost; what is left of that need not be waited for
            self._leave_later(None)
        self._lease = await self._pool.acquire(endpoint or await self._locate())
        self._leased = True
        self._interrupted = None
        try:
            await self._declare()
            if self._interrupted is not None:
                raise self._interrupted
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):  # who must not be waited for takes leave behind this
                self._leave_later(self._detach)
            else:
                await self._leave(0.0 if isinstance(error, RequestTimeout) else GOODBYE_TIMEOUT)
            raise
        self._attached = True
        self._go_on()

    def on_unavailable(self, error: RstreamError) -> None:
        """The connection has ended, or the stream has moved or is gone."""
        if self.error is not None:
            return
        if not self._attached:
            self._interrupted = error
            self._detach()  # what still comes is not about what this will be
            self._on_loss(error)
        elif self._is_over() or not self._recoveries.can_help(error):
            was_over = self._is_over()
            self._detach()  # a callback may make it unavailable once more
            if not was_over and not self._recoveries.is_closed:
                self._outages.lose(error)
            self._end(error)
        else:
            self._detach()
            self._on_loss(error)
            self._outages.begin(error)
            self._recovering = self._recoveries.start(self._recover(error))
            self._recovering.add_done_callback(partial(self._on_recovery_end, error))

    # What the two do in their own ways.

    @abstractmethod
    async def _locate(self) -> Endpoint:
        """The node to attach to. Asks once."""

    @abstractmethod
    async def _declare(self) -> None:
        """Registers with the connection of ``_lease``, and makes itself known to the broker."""

    @abstractmethod
    def _go_on(self) -> None:
        """It is attached."""

    @abstractmethod
    def _goodbye(self, lease: Lease) -> Goodbye:
        """How to take leave of it."""

    @abstractmethod
    def _detach(self) -> None:
        """Unregisters from the connection. May be repeated."""
        self._attached = False

    def _on_loss(self, error: RstreamError) -> None:  # noqa: B027 - there may be nothing to do
        """It is detached, and a recovery goes on or begins."""

    async def _before_recovery(self) -> None:  # noqa: B027 - nor here
        """What comes first, and takes the application's time, not the outage's."""

    def _is_over(self) -> bool:
        """Whether nothing is left that would be worth a recovery."""
        return self._closed

    @abstractmethod
    def _end(self, error: RstreamError) -> None:
        """It ends by itself."""
        self.error = error

    # What is the same for both.

    @property
    def _connection(self) -> Connection:
        return self._lease.connection

    async def _recover(self, error: RstreamError) -> None:
        """The task that attaches it again, or ends it."""
        try:
            await self._before_recovery()
            await self._outages.recover(error, self.attach)
        except RstreamError as reason:
            self._end(reason)

    def _on_recovery_end(self, error: RstreamError, task: asyncio.Task[None]) -> None:
        """For one that was cancelled, perhaps before its first step, or fell over."""
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
        """It ends, and what is left to be done for that goes on without it."""
        if self._recovering is not None and self._recovering is not asyncio.current_task():
            self._recovering.cancel()
        self._leave_later(self._detach)

    def _leave_later(self, detach: Callable[[], None] | None) -> None:
        """As ``_leave``, in a task of its own: nobody waits for the answer, but only then is the id for others."""
        if self._leased:
            self._leased = False
            self._recoveries.start(self._part(self._lease, GOODBYE_TIMEOUT, detach))

    async def _leave(self, timeout: float = GOODBYE_TIMEOUT) -> None:
        """Takes leave of the connection, if it has one; orderly, where somebody hears it within ``timeout`` seconds."""
        if self._leased:
            self._leased = False
            leaving = self._recoveries.start(self._part(self._lease, timeout, self._detach))
            await asyncio.wait((leaving,))  # it goes on where this is cancelled: the id is to be free again

    async def _part(self, lease: Lease, timeout: float, detach: Callable[[], None] | None = None) -> None:
        """Says goodbye for an id and gives it back, which may end the connection; ``detach`` is called before that."""
        gone = False
        try:
            if lease.connection.is_open:  # also after an error
                message, expect = self._goodbye(lease)
                await lease.connection.request(message, expect, f"the {self.what} of {self.stream!r}", timeout=timeout)
            gone = True
        except ServerError:  # it knows nothing of it
            gone = True
        except RstreamError as error:
            logger.debug("leaving: %s", error)
        finally:
            if detach is not None:
                detach()
            await self._pool.release(lease, is_free=gone)
