"""When to try again, how long to wait, and when to give up: the one retry loop.

A policy is a value that can be shared. The state of its use lives in a ``Run``, and that of one publisher or
subscription in its ``Outages``. Whether trying again can help is asked of the error (``retriable``), unless the
caller knows better.

An outage is over when something has come of the recovery: a confirm, a chunk, or some quiet seconds. Until then
another loss belongs to the same outage, and uses up the same attempts and the same time. So a broker that takes
every connection back and ends it again over the same frame is given up, too.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from rstream_core.callbacks import Callbacks, own_task
from rstream_core.errors import ConfigurationError, RequestTimeout, RstreamError

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

CANCEL_TIMEOUT = 10.0
"""Seconds for a task to end that was cancelled."""
STEADY = 10.0
"""Seconds after which a recovery has held, though nothing was confirmed and nothing came."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds that grow by ``factor`` up to ``maximum``, each shortened at random by up to half."""

    attempts: int = 8
    initial: float = 0.05
    factor: float = 2.0
    maximum: float = 2.0

    def delays(self) -> Iterator[float]:
        """One delay fewer than there are attempts."""
        delay = self.initial
        for _ in range(self.attempts - 1):
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
            delay = min(delay * self.factor, self.maximum)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How publishers and subscriptions go on after a lost connection, or when their stream has moved.

    An outage ends them once ``seconds`` or the attempts of ``backoff`` are used up, or at once where no retry can
    help: a deleted stream, refused access.
    """

    seconds: float = 60.0
    """The time for one outage."""
    resend: bool = True
    """Whether a publisher without a name sends what is unconfirmed again, so that it may be stored twice; else it has
    failed. One with a name always sends it again: the broker drops what it has."""
    backoff: Backoff = Backoff(attempts=100, initial=0.1, maximum=5.0)
    spread: float = 0.25
    """Seconds over which the first attempts are spread, at random: a node that ends loses all its clients at once."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.backoff.attempts < 1 or self.spread < 0:
            raise ConfigurationError(
                "a recovery takes more than 0 seconds, at least one attempt, and no negative spread"
            )

    def run(self) -> Run:
        """A use of this policy."""
        return Run(self.backoff, self.seconds, spread=min(self.spread, self.seconds / 10))


RECOVER = Recovery()
"""What clients do unless they are told otherwise."""


class RecoveryState(enum.StrEnum):
    """What happened to a publisher or a subscription."""

    LOST = "lost"
    RECOVERED = "recovered"
    GIVEN_UP = "given up"
    """It has ended. Also where it was closed before it recovered; and at once, after no attempt, where recovery is
    off, or cannot help."""


class RecoveryEvent(NamedTuple):
    """What a client's ``on_recovery`` is told. Each ``LOST`` is followed by one of the others."""

    stream: str
    what: str
    """``publisher`` or ``subscription``."""
    state: RecoveryState
    error: RstreamError
    """What it was lost by, or is given up for."""
    attempts: int = 0
    """Made so far to recover from this loss."""
    seconds: float = 0.0
    """Since this loss."""


RecoveryListener = Callable[[RecoveryEvent], None]
"""Called on the event loop; must not wait."""


async def ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Waits for tasks that were cancelled; not for ever: an application's function may run in one, and not end."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
        for task in late:
            logger.warning("%s was cancelled and has not ended within %g s", task.get_name(), CANCEL_TIMEOUT)


def can_help(error: RstreamError) -> bool:
    """Whether trying again may succeed."""
    return error.retriable


class Run:
    """One use of a policy: what is used up of its attempts and of its time."""

    def __init__(self, backoff: Backoff, seconds: float | None = None, *, spread: float = 0.0) -> None:
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
        """Runs ``operation`` until it succeeds, fails for good, or the policy is used up.

        Raises its last error, or the ``reason`` for which it was begun where there is none.
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
    """Runs ``operation`` until it succeeds, fails for good, or the attempts are used up (its last error)."""
    return await Run(policy).retry(operation, helps=helps)


class Recoveries:
    """A client's: its policy, who is told, and the tasks that recover. ``close`` ends them."""

    def __init__(self, policy: Recovery | None, listener: RecoveryListener | None = None) -> None:
        self.policy = policy
        self.callbacks = Callbacks()
        self._listener = None if listener is None else self.callbacks.bind(listener, "on_recovery")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def can_help(self, error: RstreamError) -> bool:
        """Whether to recover from this error."""
        return self.policy is not None and not self._closed and error.retriable

    @property
    def is_closed(self) -> bool:
        """Whether the client is being closed: what ends now is not lost."""
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
        """Ends what is recovering; nothing recovers from here on."""
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
    """Those of one publisher or subscription."""

    def __init__(self, recoveries: Recoveries, stream: str, what: str) -> None:
        self._recoveries = recoveries
        self._stream = stream
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._run: Run | None = None
        self._since = 0.0
        self._attempts_before = 0
        self._is_open = False
        """Whether it was told that it is lost, and not what became of that."""

    def progress(self) -> None:
        """Something has come of the last recovery: the next loss is another outage."""
        self._run = None

    def begin(self, error: RstreamError) -> None:
        """It is lost; ``recover`` is to follow, or ``give_up``."""
        now = self._loop.time()
        if self._run is None or now - self._since > STEADY:
            policy = self._recoveries.policy
            assert policy is not None
            self._run = policy.run()
        self._since = now
        self._attempts_before = self._run.attempts
        self._is_open = True
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, RecoveryState.LOST, error))

    def lose(self, error: RstreamError) -> None:
        """It is lost for good: nothing is tried."""
        self._since = self._loop.time()
        self._run = None
        self._is_open = True
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, RecoveryState.LOST, error))
        self.give_up(error)

    async def recover(self, error: RstreamError, attach: Callable[[], Awaitable[None]]) -> None:
        """Attaches it again. Raises the error for which that is given up."""
        assert self._run is not None
        try:
            await self._run.retry(attach, reason=error)
        except RstreamError as reason:
            self._tell(RecoveryState.GIVEN_UP, reason)
            raise
        self._tell(RecoveryState.RECOVERED, error)

    def give_up(self, error: RstreamError) -> None:
        """Nothing more is done about what was lost by this, if anything was to be."""
        if self._is_open:
            self._tell(RecoveryState.GIVEN_UP, error)

    def _tell(self, state: RecoveryState, error: RstreamError) -> None:
        now = self._loop.time()
        attempts = 0 if self._run is None else self._run.attempts - self._attempts_before
        self._recoveries.tell(RecoveryEvent(self._stream, self._what, state, error, attempts, now - self._since))
        self._since = now
        self._is_open = False
