"""Several subscriptions as one iterator over chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Self

from rstream_core.consuming.subscription import Subscription
from rstream_core.timeslice import TimeSlice
from rstream_core.types import Chunk


class Subscriptions(AsyncIterator[Chunk]):
    """Several subscriptions as one iterator over chunks, for one task.

    It takes chunks from the subscriptions in rotation. Chunks wait in their subscription, within its credits. The
    iterator raises the first error of any subscription, and ends without an error when all are closed.
    """

    def __init__(self, members: Iterable[Subscription]) -> None:
        self._members = deque(members)
        self._last: Subscription | None = None
        self.time_slice = TimeSlice()
        """Of the task that reads them."""
        self._arrived = asyncio.Event()
        self._arrived.set()
        for member in self._members:
            member.arrived = self._arrived
            member.time_slice = self.time_slice

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        self.finish()
        if self._last is not None:
            await self._last.give_way()
        if self.time_slice.is_over():
            await self.time_slice.give_way()
        while True:
            for _ in range(len(self._members)):
                member = self._members.popleft()
                self._members.append(member)
                chunk = member.poll()
                if chunk is not None:
                    self._last = member
                    return chunk
                await member.raise_error()  # even while other members have chunks
            if all(member.is_closed for member in self._members):
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
            self.time_slice.begin()

    def finish(self, offset: int | None = None) -> None:
        """See ``Subscription.finish``."""
        if self._last is not None:
            self._last.finish(offset)

    async def close(self) -> None:
        """Closes all subscriptions. Never raises; may be called repeatedly."""
        try:
            await asyncio.gather(*(member.close() for member in self._members))
        except asyncio.CancelledError:
            for member in self._members:  # some ``close`` calls may not have started
                member.abandon()
            raise
