"""When to try again, and how long to wait: the one retry loop.

A policy is a value that can be shared; the state of a run lives in its iterator of delays.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rstream_core.errors import RstreamError

T = TypeVar("T")


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


async def retry(operation: Callable[[], Awaitable[T]], policy: Backoff) -> T:
    """Runs ``operation`` until it succeeds, fails for good, or the attempts are used up (its last error)."""
    delays = policy.delays()
    while True:
        try:
            return await operation()
        except RstreamError as error:
            delay = next(delays, None)
            if not error.retriable or delay is None:
                raise
        await asyncio.sleep(delay)
