"""When to try again, how long to wait, and when to give up: the one retry loop.

A policy (``Backoff``, ``Recovery``) is a value that can be shared. ``Retries`` holds the state of one use of a policy,
and ``Outages`` that of one publisher or subscription. Whether to try again depends on the error's ``retriable``, unless
the caller passes a function that decides.

An outage is over when the recovery has proved itself: by a confirm, by a chunk, or by ten seconds without a loss. Until
then another loss belongs to the same outage, and uses up the same attempts and the same time. So a broker that accepts
every connection and closes it again over the same frame is given up, too.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

from rstream_core.callbacks import Callbacks, own_task
from rstream_core.errors import ConfigurationError, RequestTimeout, RstreamError

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

CANCEL_TIMEOUT = 10.0
"""Seconds to wait until a cancelled task ends."""
STEADY = 10.0
"""Seconds after which an outage is over, also without a confirm or a chunk."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds that grow by ``factor`` up to ``maximum``, each shortened at random by up to half.

    ``attempts``: how many there are; None: as many as there is time for.
    """

    attempts: int | None = None
    initial: float = 0.05
    factor: float = 2.0
    maximum: float = 2.0

    def delays(self) -> Iterator[float]:
        """Yields the delays between attempts, in seconds: one fewer than ``attempts``, or without an end."""
        delay = self.initial
        for _ in repeat(None) if self.attempts is None else repeat(None, self.attempts - 1):
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
            delay = min(delay * self.factor, self.maximum)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How publishers and subscriptions go on after a lost connection, or when their stream has moved.

    An outage ends a publisher or subscription once ``seconds`` are used up, or the attempts of a ``backoff`` that has
    a number of them; or at once where no retry can help: a deleted stream, refused access.
    """

    seconds: float = 60.0
    """The time limit of one outage, in seconds."""
    resend: bool = True
    """Whether a publisher without a name sends unconfirmed messages again, so that they may be stored twice. With False
    they fail. A publisher with a name always sends them again: the broker drops those that it has."""
    backoff: Backoff = Backoff(initial=0.1, maximum=5.0)
    spread: float = 0.25
    """Seconds over which the first attempts are spread, at random: a node that ends loses all its clients at once."""

    def __post_init__(self) -> None:
        attempts = self.backoff.attempts
        if self.seconds <= 0 or (attempts is not None and attempts < 1) or self.spread < 0:
            raise ConfigurationError(
                "a recovery takes more than 0 seconds, at least one attempt, and no negative spread"
            )

    def retries(self) -> Retries:
        """Starts a use of this policy."""
        return Retries(self.backoff, self.seconds, spread=min(self.spread, self.seconds / 10))


RECOVER = Recovery()
"""The default policy of clients."""


class RecoveryState(enum.StrEnum):
    """What happened to a publisher or a subscription."""

    LOST = "lost"
    RECOVERED = "recovered"
    GIVEN_UP = "given up"
    """The publisher or subscription has ended without recovering, perhaps because it was closed. Where recovery is off,
    or cannot help, this follows ``LOST`` at once, without an attempt."""


class RecoveryEvent(NamedTuple):
    """The argument of a client's ``on_recovery``. After each ``LOST`` comes one ``RECOVERED`` or ``GIVEN_UP``."""

    stream: str
    what: str
    """``publisher`` or ``subscription``."""
    state: RecoveryState
    error: RstreamError
    """The cause of the loss, or the reason for giving up."""
    attempts: int = 0
    """Attempts made since this loss."""
    seconds: float = 0.0
    """Seconds since this loss."""


RecoveryListener = Callable[[RecoveryEvent], None]
"""Called on the event loop; must not wait."""


async def ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Waits until cancelled tasks have ended, at most ``CANCEL_TIMEOUT``: one may run a function that does not end."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
        for task in late:
            logger.warning("%s was cancelled and has not ended within %g s", task.get_name(), CANCEL_TIMEOUT)


def can_help(error: RstreamError) -> bool:
    """Returns whether trying again may succeed."""
    return error.retriable


class Retries:
    """One use of a policy: counts the attempts and the time that are used up."""

    def __init__(self, backoff: Backoff, seconds: float | None = None, *, spread: float = 0.0) -> None:
        assert backoff.attempts is not None or seconds is not None, "nothing would end it"
        self.attempts = 0
        self._first = random.uniform(0.0, spread)  # noqa: S311 - spreads load, keeps no secret
        self._delays = backoff.delays()
        self._left = seconds

    async def retry(
        self,
        operation: Callable[[], Awaitable[T]],
        *,
        helps: Callable[[RstreamError], bool] = can_help,
        reason: RstreamError | None = None,
    ) -> T:
        """Runs ``operation`` until it succeeds, raises an error that ``helps`` refuses, or the policy is used up.

        Raises the operation's last error; ``reason``, the cause of the retries, where no attempt has failed.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(self._left) as limit:
                while True:
                    if self.attempts:
                        delay = next(self._delays, None)
                        if delay is None:
                            raise reason or _nothing()
                        await asyncio.sleep(delay)
                    elif self._first:
                        await asyncio.sleep(self._first)
                    self.attempts += 1
                    try:
                        return await operation()
                    except RstreamError as error:
                        if not helps(error):
                            raise
                        reason = error
        except TimeoutError as error:
            if not limit.expired() or isinstance(error, RstreamError):
                raise
            raise reason or _nothing() from None
        finally:
            if self._left is not None:
                self._left -= loop.time() - begin


def _nothing() -> RstreamError:
    return RequestTimeout("no attempt ended in time")


async def retry(
    operation: Callable[[], Awaitable[T]], policy: Backoff, *, helps: Callable[[RstreamError], bool] = can_help
) -> T:
    """Runs ``operation`` until it succeeds, raises an error that ``helps`` refuses, or the attempts are used up.

    Raises the operation's last error.
    """
    return await Retries(policy).retry(operation, helps=helps)


class Recoveries:
    """The recoveries of one client: its policy, its listener, and the tasks that recover. ``close`` ends the tasks."""

    def __init__(self, policy: Recovery | None, listener: RecoveryListener | None = None) -> None:
        self.policy = policy
        self.callbacks = Callbacks()
        self._listener = None if listener is None else self.callbacks.bind(listener, "on_recovery")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def can_help(self, error: RstreamError) -> bool:
        """Returns whether to recover from this error."""
        return self.policy is not None and not self._closed and error.retriable

    @property
    def is_closed(self) -> bool:
        """Whether the client is being closed: publishers that end from then on do not count as lost."""
        return self._closed

    def start(self, recovering: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = own_task(recovering)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def tell(self, event: RecoveryEvent) -> None:
        after = "" if event.state is RecoveryState.LOST else f" after {event.seconds:.1f} s"
        logger.info("%s of stream %r: %s%s (%s)", event.what, event.stream, event.state, after, event.error)
        if self._listener is not None:
            self._listener(event)

    async def close(self) -> None:
        """Cancels all recoveries and waits for their tasks. Later losses are not recovered from."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await ended(tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a recovery failed", exc_info=error)


class Outages:
    """The outages of one publisher or subscription: when one begins and ends, and the events about it."""

    def __init__(self, recoveries: Recoveries, stream: str, what: str) -> None:
        self._recoveries = recoveries
        self._stream = stream
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._retries: Retries | None = None
        self.is_counted = False
        """Whether the next loss would use up the attempts of an outage before it: until ``progress`` is called."""
        self._since = 0.0
        self._attempts_before = 0
        self._is_open = False
        """Whether the listener was told ``LOST``, but not yet ``RECOVERED`` or ``GIVEN_UP``."""

    def progress(self) -> None:
        """Ends the outage after a confirm or a chunk: the next loss begins another one."""
        self._retries, self.is_counted = None, False

    def begin(self, error: RstreamError) -> None:
        """Notes a loss and tells the listener. The caller must then call ``recover`` or ``give_up``."""
        now = self._loop.time()
        if self._retries is None or now - self._since > STEADY:
            policy = self._recoveries.policy
            assert policy is not None
            self._retries, self.is_counted = policy.retries(), True
        self._since = now
        self._attempts_before = self._retries.attempts
        self._is_open = True
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, RecoveryState.LOST, error))

    def lose(self, error: RstreamError) -> None:
        """Notes a loss that is not recovered from, and tells the listener of both."""
        self._since = self._loop.time()
        self._retries, self.is_counted = None, False
        self._is_open = True
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, RecoveryState.LOST, error))
        self.give_up(error)

    async def recover(self, error: RstreamError, attach: Callable[[], Awaitable[None]]) -> None:
        """Calls ``attach`` until it succeeds, and tells the listener. Raises the error for which that is given up."""
        assert self._retries is not None
        try:
            await self._retries.retry(attach, reason=error)
        except RstreamError as reason:
            self._tell(RecoveryState.GIVEN_UP, reason)
            raise
        self._tell(RecoveryState.RECOVERED, error)

    def give_up(self, error: RstreamError) -> None:
        """Tells the listener that the last loss is not recovered from, unless its end was told already."""
        if self._is_open:
            self._tell(RecoveryState.GIVEN_UP, error)

    def _tell(self, state: RecoveryState, error: RstreamError) -> None:
        now = self._loop.time()
        attempts = 0 if self._retries is None else self._retries.attempts - self._attempts_before
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, state, error, attempts, now - self._since))
        self._since = now
        self._is_open = False
