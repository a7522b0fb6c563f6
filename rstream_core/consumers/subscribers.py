"""The subscribers of a consumer: a subscription each, with a callback's task or a reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rstream_core.callbacks import Callbacks, own_task
from rstream_core.consumers.processed_offsets import ProcessedOffsets
from rstream_core.consuming.subscription import Subscription
from rstream_core.errors import ConfigurationError, RstreamError

logger = logging.getLogger("rstream_core")

CANCEL_TIMEOUT = 5.0
"""Seconds to wait until a cancelled callback ends."""

Decoder = Callable[[bytes], Any]


@dataclass(slots=True)
class Subscriber:
    """One subscription of a consumer, and the tasks that belong to it."""

    id: int
    name: str | None
    subscription: Subscription
    decoder: Decoder | None
    wanted: Callable[[Any], bool] | None
    """Whether to hand a decoded message out."""
    offsets: ProcessedOffsets | None
    """None where no offset is stored."""
    task: asyncio.Task[None] | None = None
    storing: asyncio.Task[None] | None = None
    error: RstreamError | None = None
    """With which it ended, until ``run`` raises it."""
    is_told: bool = False
    """Whether that was logged."""
    gone: bool = False
    """Whether its callback must not be called any more."""

    async def leave(self, caller: asyncio.Task[Any] | None) -> None:
        """Ends the subscription and its tasks, except this one and that of the ``caller``, which may run its callback.

        Stores its offset last, where it stores any. Never raises.
        """
        self.gone = True
        spared = (None, asyncio.current_task(), caller)
        tasks = [task for task in (self.task, self.storing) if task not in spared]
        for task in tasks:
            task.cancel()
        subscription = self.subscription
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
            if late:
                logger.error("the callback of stream %r does not end", subscription.stream)
        if self.offsets is not None and subscription.active and not subscription.is_closed:
            # Before unsubscribing: the next consumer's turn begins after that, at the stored offset.
            await self.offsets.store_last(subscription)
        await subscription.close()


class Subscribers:
    """Those that a consumer has. They are found by number or name, and waited for."""

    def __init__(self, callbacks: Callbacks) -> None:
        """``callbacks``: what escapes one of them ends a wait."""
        self._callbacks = callbacks
        self.there: dict[int, Subscriber] = {}
        """By their numbers; those that have ended with an error stay until it is raised."""
        self._leaving: set[asyncio.Task[None]] = set()
        """What was dropped without being left, and is being left."""
        self.is_closed = False
        """Whether the consumer was closed: then nothing is logged any more."""
        self._stopped = False
        self._changed = asyncio.Event()
        """There is something for ``wait`` to look at."""
        self._waits = 0
        """Calls of it that go on."""

    def named(self, name: str | None) -> list[Subscriber]:
        """Returns all of a name. Raises ``ConfigurationError`` where there is none."""
        if name is None:
            raise ConfigurationError("a subscriber without a name is known by its stream or its subscriber_id")
        found = [subscriber for subscriber in self.there.values() if subscriber.name == name]
        if not found:
            raise ConfigurationError(f"there is no subscriber {name!r}")
        return found

    def add(self, subscriber: Subscriber) -> None:
        """Adds one, and forgets those of its stream that have ended with an error."""
        stream = subscriber.subscription.stream
        for old in list(self.there.values()):
            if old.error is not None and old.subscription.stream == stream:
                del self.there[old.id]
        self.there[subscriber.id] = subscriber

    async def leave(self, subscriber: Subscriber, caller: asyncio.Task[Any] | None = None) -> None:
        """Ends a subscriber, which is found no more. See ``Subscriber.leave``."""
        self.there.pop(subscriber.id, None)
        await subscriber.leave(caller)

    def leave_behind(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Runs this in a task of its own, for which ``close`` waits."""
        task = own_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self, caller: asyncio.Task[Any] | None) -> None:
        """Ends all. See ``Subscriber.leave``."""
        await asyncio.gather(*(self.leave(one, caller) for one in list(self.there.values())), *self._leaving)

    async def wait(self) -> None:
        """Waits until ``stop``. Raises the error with which a subscriber ended, or what escaped a callback; each once.

        An error that comes while nobody waits here is logged, too.
        """
        self._waits += 1
        try:
            await self._wait()
        finally:
            self._waits -= 1
            self.log_ends()

    async def _wait(self) -> None:
        while True:
            self._callbacks.check()
            for subscriber in self.there.values():
                if subscriber.error is not None:
                    del self.there[subscriber.id]
                    raise subscriber.error
                if subscriber.task is not None and subscriber.task.done():
                    subscriber.task.result()  # raises: only a bug ends the task and leaves its subscriber
            if self._stopped:
                return
            self._changed.clear()
            await self._changed.wait()

    def end(self, subscriber: Subscriber, error: RstreamError) -> None:
        """Notes that one has ended with an error, after it was left: it stays until somebody has been told."""
        subscriber.error = error
        self.there[subscriber.id] = subscriber
        self.changed()
        self.log_ends()

    def changed(self) -> None:
        """Makes ``wait`` look again."""
        self._changed.set()

    def stop(self) -> None:
        """Makes ``wait`` return."""
        self._stopped = True
        self._changed.set()

    def log_ends(self) -> None:
        """Tells of subscriptions that have ended, where nobody else does."""
        if self._waits or self.is_closed:
            return
        for subscriber in self.there.values():
            if subscriber.error is not None and not subscriber.is_told:
                subscriber.is_told = True
                stream = subscriber.subscription.stream
                logger.error("the subscription to stream %r has ended: %s", stream, subscriber.error)
