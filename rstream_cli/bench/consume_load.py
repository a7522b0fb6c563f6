"""Consumers of a benchmark, as many as one process has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rstream_cli.bench.check import Check
from rstream_cli.bench.load import SECOND, Load
from rstream_cli.bench.plan import SETTLE_TIMEOUT, Consuming
from rstream_core import Client, ConsumerOffsetSpecification, OffsetType
from rstream_core.consuming.subscription import Subscription
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.chunk import AnyChunk


class ConsumeLoad(Load):
    """Some consumers, each of which reads some streams."""

    def __init__(self, part: Consuming, client: Client, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(part, client, tell)
        self._plan = part
        self._readings: list[Reading] = []
        self._messages = self._bytes = 0

    async def open(self) -> None:
        plan = self._plan
        spec = ConsumerOffsetSpecification(OffsetType.NEXT if plan.starts_at_end else OffsetType.FIRST)
        for streams in plan.consumers:
            for stream in streams:
                subscription = await self._client.subscribe(stream, spec, credit=plan.credit)
                self._readings.append(Reading(subscription, plan))
                if plan.starts_at_end:
                    await subscription.barrier()  # the broker knows by now which message is the next one

    def works(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self._consume(reading) for reading in self._readings]

    def count(self) -> tuple[int, int]:
        return self._messages, self._bytes

    def expect(self, confirmed: dict[str, int]) -> None:
        """The producers have ended; so many messages of each stream are confirmed."""
        for reading in self._readings:
            reading.expected = confirmed[reading.subscription.stream]
            reading.subscription.arrived.set()

    async def finish(self) -> None:
        await asyncio.gather(*(reading.subscription.close() for reading in self._readings))

    def result(self) -> dict[str, Any]:
        may_be_cut = self.is_stopped or (self._plan.duration is not None and not self._plan.has_producers)
        readings = [{**reading.result(), "must_be_whole": not may_be_cut} for reading in self._readings]
        return {**super().result(), "readings": readings}

    async def _consume(self, reading: Reading) -> None:
        subscription, plan = reading.subscription, self._plan
        poll = subscription.poll_plain if plan.reads_bodies else subscription.poll
        fixed = plan.size.least if plan.size is not None and plan.size.is_fixed else None
        time_slice = subscription.time_slice
        while not reading.is_done:
            await subscription.give_way()
            chunk = poll()
            if chunk is None:
                if not await self._wait_for_more(reading):
                    return
                time_slice.begin()
                continue
            now = time.monotonic_ns()
            if self._window.end is not None and now >= self._window.end and not plan.has_producers:
                return
            self._messages += len(chunk.messages)
            self._bytes += _bytes_of(chunk) if fixed is None else fixed * len(chunk.messages)
            reading.last = now
            second, holds = self.latencies.second, self._window.holds
            for when, count in reading.add(chunk):
                if holds(when):
                    second.add((now - when) // 1000, count)
            if time_slice.is_over():
                subscription.finish()
                await time_slice.give_way()
        if all(each.is_done for each in self._readings):
            self._window.close()

    async def _wait_for_more(self, reading: Reading) -> bool:
        """Waits for a chunk. Returns False where the time is over, or there will be none, as it seems."""
        subscription = reading.subscription
        await subscription.raise_error()
        subscription.arrived.clear()
        patience: float | None = SETTLE_TIMEOUT
        if self._plan.has_producers:
            patience = None if reading.expected is None else SETTLE_TIMEOUT  # ``expect`` wakes it
        elif self._window.end is not None:
            patience = max(self._window.end - time.monotonic_ns(), 0) / SECOND
        try:
            async with asyncio.timeout(patience):
                await subscription.arrived.wait()
        except TimeoutError:
            return False
        return True


class Reading:
    """One stream as one consumer reads it."""

    def __init__(self, subscription: Subscription, plan: Consuming) -> None:
        self.subscription = subscription
        self.expected: int | None = plan.expected.get(subscription.stream)
        """Messages of the run that must come, once that is known."""
        self.last = 0
        """When the last chunk came, in nanoseconds of the monotonic clock."""
        self._until = plan.until.get(subscription.stream)
        self._check = None if plan.size is None else Check(plan.size, plan.run)
        self._most = plan.count
        self._messages = 0
        self._next = -1
        """The offset behind the last message, where offsets are checked."""
        self._left_out = self._misplaced = 0

    @property
    def is_done(self) -> bool:
        """Whether all has come."""
        if self._check is not None:
            return self.expected is not None and self._check.came >= self.expected
        if self._most is not None and self._messages >= self._most:
            return True
        return self._until is not None and self._next > self._until

    def add(self, chunk: AnyChunk) -> Sequence[tuple[int, int]]:
        """Checks a chunk. Returns what ``Check.add`` does."""
        self._messages += len(chunk.messages)
        if self._check is not None:
            return self._check.add(chunk)
        if self._next >= 0 and chunk.offset != self._next:
            self._left_out += max(chunk.offset - self._next, 0)
            self._misplaced += min(max(self._next - chunk.offset, 0), len(chunk.messages))
        self._next = max(self._next, chunk.last_offset + 1)
        return ()

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "stream": self.subscription.stream,
            "messages": self._messages,
        }
        if self._check is None:
            return {**found, "left_out": self._left_out, "misplaced": self._misplaced}
        tallies = {
            producer: [tally.came, tally.doubled, tally.misplaced] for producer, tally in self._check.tallies.items()
        }
        return {**found, "foreign": self._check.foreign, "tallies": tallies}


def _bytes_of(chunk: AnyChunk) -> int:
    messages = chunk.messages
    return sum(map(len, messages.bodies if isinstance(messages, PlainMessages) else messages))
