"""Logs an open connection in again before its token expires: the stream protocol allows that since RabbitMQ 3.13.

It has a timer while it waits, and a task while it renews. What fails is tried again until the token has expired; then
the broker ends the connection, and recovery asks for a token like any new connection does.

A token that is new and has expired by this machine's clock shows that the clock is wrong. Then nobody knows when to
renew: it is done with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from rstream_core import tokens
from rstream_core.callbacks import own_task
from rstream_core.errors import ConnectionClosed, RstreamError
from rstream_core.types import Credentials

logger = logging.getLogger("rstream_core")

LOOK_INTERVAL = 60.0
"""Seconds after which the clock is looked at again."""
MAX_PAUSE = 60.0
"""Seconds between two renewals of tokens that have expired when they come."""
CLOCK_STEP = 0.1
"""Seconds by which the two clocks may differ without a further wait."""


class Renewal:
    """Of one connection. For its event loop."""

    def __init__(
        self,
        where: str,
        ask: Callable[[], Awaitable[Credentials]],
        authenticate: Callable[[Credentials], Awaitable[None]],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``where`` names the connection for the log. ``now``: seconds since 1970.

        ``ask`` returns the credentials to log in with, and ``authenticate`` logs the open connection in.
        """
        self._where = where
        self._ask = ask
        self._authenticate = authenticate
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause = 0.0
        """Seconds before the last renewal, if the last token had expired when it came; else 0."""

    def start(self, credentials: Credentials) -> None:
        """Plans the renewal of what the connection has logged in with. Does nothing for what does not expire."""
        expires = tokens.expiry_of(credentials.password)
        if expires is None:
            return
        now = self._now()
        delay = tokens.renewal_delay(expires, now)
        if expires > now:
            self._pause = 0.0
        else:
            if not self._pause:
                logger.warning(
                    "%s: the new token has expired by this machine's clock, which may be wrong: it is renewed with"
                    " pauses of up to %.0f s",
                    self._where,
                    MAX_PAUSE,
                )
            delay = self._pause = min(max(delay, 2 * self._pause), MAX_PAUSE)
        self._wait(credentials, expires, delay)

    def stop(self) -> None:
        """Ends the timer and the task: the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _wait(self, credentials: Credentials, expires: float, delay: float) -> None:
        """Waits so long, by the clock that tokens go by: the machine may sleep, or its clock may be set."""
        due = self._now() + delay
        step = min(delay, LOOK_INTERVAL)
        self._timer = asyncio.get_running_loop().call_later(step, self._look, credentials, expires, due)

    def _look(self, credentials: Credentials, expires: float, due: float) -> None:
        left = due - self._now()
        if left > CLOCK_STEP:
            self._wait(credentials, expires, left)
            return
        self._task = own_task(self._renew(credentials, expires))
        self._task.add_done_callback(self._ended)

    async def _renew(self, credentials: Credentials, expires: float) -> None:
        fresh = credentials
        try:
            fresh = await self._ask()
            if fresh != credentials:
                await self._authenticate(fresh)
                logger.debug("%s: logged in again before the token expires", self._where)
        except ConnectionClosed:
            return
        except RstreamError as error:
            left = expires - self._now()
            if left <= 0:
                logger.warning("%s: the token was not renewed before it expired: %s", self._where, error)
                return
            logger.warning("%s: the token is not renewed yet, %.0f s before it expires: %s", self._where, left, error)
            fresh = credentials
        if fresh == credentials and expires <= self._now():
            return  # the function has no other one, and the broker ends the connection
        self.start(fresh)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is self._task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the renewal of a token failed", exc_info=error)
