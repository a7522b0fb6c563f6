"""The filter values of messages, from an application's function that may be a coroutine function."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from rstream_core.callbacks import resolved
from rstream_core.checks import check_text
from rstream_core.producers.outbox_jobs import OutboxKey

FilterValueExtractor = Callable[[Any], str | Awaitable[str | None] | None]
"""Returns the filter value of a message, or None for a message without one."""


class _Queue:
    """The calls that wait for filter values of one stream and publisher name: they go on in their order."""

    __slots__ = ("callers", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0


class FilterExtraction:
    """Calls the function for each message, in the order of the calls for one stream and publisher name."""

    def __init__(self, extract: FilterValueExtractor) -> None:
        self._extract = extract
        self.queues: dict[OutboxKey, _Queue] = {}
        """The queues of calls that wait for filter values."""

    async def values(self, key: OutboxKey, batch: Sequence[Any]) -> list[str | None]:
        """Returns the filter values of messages. The caller awaits nothing before it is on its way into the outbox.

        Raises what the function raises, and ``TypeError`` or ``ConfigurationError`` for what is no filter value. A
        cancelled call leaves its queue.
        """
        values: list[str | None] = []
        queue = self.queues.get(key)
        if queue is None:
            for message in batch:
                value = self._extract(message)
                if value is not None and not isinstance(value, str):
                    break  # an awaitable: the rest is awaited below, under the lock
                values.append(_checked(value))
            else:
                return values
            queue = self.queues[key] = _Queue()
            rest: Iterable[str | Awaitable[str | None] | None] = chain(
                (value,), map(self._extract, batch[len(values) + 1 :])
            )
        else:
            rest = map(self._extract, batch)
        queue.callers += 1
        try:
            async with queue.lock:
                values += [_checked(await resolved(value)) for value in rest]
        finally:
            queue.callers -= 1
            if not queue.callers:
                del self.queues[key]
        return values


def _checked(filter_value: str | None) -> str | None:
    """Checks a filter value before its message joins a batch, so that an error concerns this call only."""
    if filter_value is not None:
        check_text("the filter value of a message", filter_value)
    return filter_value
