"""How a program says what is to be done about a lost connection: strategies, as objects.

``BackOffRecoveryStrategy`` stands for the core's own recovery, which goes on where the connection was lost, with the
messages in flight. A strategy that a program has written itself is called instead, and the core does not recover then.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from rstream_core.connecting.recovery import RECOVER, Backoff, Recovery, Retries
from rstream_core.errors import RstreamError

__all__ = ["BackOffRecoveryStrategy", "IReliableEntity", "RecoveryStrategy"]

logger = logging.getLogger("rstream_core")

MAX_DELAY = 50.0
"""Seconds of the longest delay between two attempts, before the jitter."""


class IReliableEntity(ABC):
    """What a strategy recovers: a producer or a consumer."""

    @abstractmethod
    async def stream_exists(self, stream: str, on_close_event: bool = False) -> bool: ...

    async def clean_list(self, stream: str) -> None:  # noqa: B027 - optional
        """Forgets what was lost of a stream, before it is recovered."""


class RecoveryStrategy(ABC):
    """What is to be done when a connection is lost, or a stream has moved."""

    def __init__(self, enable: bool = True, max_retries: int = 10) -> None:
        self._enable = enable
        self._max_retries = max_retries

    @abstractmethod
    async def recover(
        self,
        entity: IReliableEntity,
        stream: str,
        error: Exception,
        attempt: int,
        recovery_fun: Callable[[], Awaitable[Any]],
    ) -> None:
        """Called with the first ``attempt`` as 1. ``recovery_fun`` makes one: it raises where that fails."""

    def enable(self) -> None:
        self._enable = True

    def disable(self) -> None:
        self._enable = False


class BackOffRecoveryStrategy(RecoveryStrategy):
    """Tries again, with delays that grow: ``backoff_seconds``, twice as much, and so on, each with a ``jitter``.

    For a producer or a consumer it is read when that is made, and when it starts again after ``close()``. It means:
    recover, for as long as these delays take.
    """

    def __init__(self, enable: bool = True, jitter: int = 8) -> None:
        super().__init__(enable)
        self.backoff_seconds = 1.0
        self.jitter = jitter

    def recovery(self) -> Recovery | None:
        """The core's policy: it takes as long in all, and tries more often. None where it is disabled."""
        if not self._enable:
            return None
        delays = (min(self.backoff_seconds * 2**attempt, MAX_DELAY) for attempt in range(self._max_retries))
        seconds = sum(delays) + self._max_retries * self.jitter
        return Recovery(seconds=max(seconds, 1.0), backoff=RECOVER.backoff)

    async def recover(
        self,
        entity: IReliableEntity,
        stream: str,
        error: Exception,
        attempt: int,
        recovery_fun: Callable[[], Awaitable[Any]],
    ) -> None:
        """For strategies that call it: tries until it succeeds, the stream is gone, or the attempts are used up."""
        attempts = self._max_retries - attempt + 1
        if not self._enable or attempts < 1:
            logger.info("stream %r is not recovered: %s", stream, error)
            return

        async def recover_once() -> None:
            if await entity.stream_exists(stream):
                await entity.clean_list(stream)
                await recovery_fun()

        backoff = Backoff(attempts, self.backoff_seconds, maximum=MAX_DELAY)
        try:
            await Retries(backoff, spread=float(self.jitter)).retry(recover_once, helps=lambda _: True)
        except RstreamError as reason:
            logger.error("stream %r is not recovered: %s", stream, reason)  # noqa: TRY400 - the reason says it all
