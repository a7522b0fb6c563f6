"""Producers of a benchmark, as many as one process has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from rstream_cli.bench.load import SECOND, Load, until
from rstream_cli.bench.payload import Bodies
from rstream_cli.bench.plan import DRAIN_TIMEOUT, Publishing
from rstream_core import Client
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.routing import partition_indexes
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.timeslice import TimeSlice
from rstream_core.types import CompressionType

KEYS = 4096
"""Routing keys of the messages to a super stream: the numbers of the messages, which begin again after so many."""
_TICK = 0.001
"""Seconds between two batches at a rate; more where a message is due less often. A batch is due at its first moment."""


class PublishLoad(Load):
    """Some producers, each of which publishes to one stream, or to all partitions of a super stream."""

    def __init__(self, part: Publishing, client: Client, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(part, client, tell)
        self._plan = part
        self._publishers: dict[int, list[Publisher]] = {}
        """By producer: a publisher for each stream."""
        self._lanes = _lanes(len(part.streams))
        self._bytes = 0
        """Bytes of the bodies that were published."""

    async def open(self) -> None:
        plan = self._plan
        for producer in plan.producers:
            publishers = self._publishers[producer] = []
            for stream in plan.streams:
                publisher = await self._client.publisher(
                    stream, listener=self._settle, max_in_flight=plan.max_in_flight, confirm_timeout=DRAIN_TIMEOUT * 3
                )
                publishers.append(publisher)

    def works(self) -> Sequence[Coroutine[Any, Any, None]]:
        produce = self._produce if self._plan.rate is None else self._produce_at_rate
        return [self._work(produce, producer) for producer in self._plan.producers]

    def count(self) -> tuple[int, int]:
        published = confirmed = 0
        for publishers in self._publishers.values():
            for publisher in publishers:
                published += publisher.published
                confirmed += publisher.confirmed
        return confirmed, round(self._bytes * confirmed / published) if published else 0

    async def finish(self) -> None:
        closing = [publisher.close(DRAIN_TIMEOUT) for some in self._publishers.values() for publisher in some]
        await asyncio.gather(*closing)

    def result(self) -> dict[str, Any]:
        told: dict[str, dict[int, list[int]]] = {}
        for producer, publishers in self._publishers.items():
            for publisher in publishers:
                counts = [publisher.published, publisher.confirmed, publisher.failed, publisher.sent_again]
                told.setdefault(publisher.stream, {})[producer] = counts
        return {**super().result(), "published": told}

    def _settle(self, outcome: Outcome) -> None:
        """Called by publishers. The context is when the messages were meant to be sent."""
        when = outcome.context
        assert isinstance(when, int)
        if outcome.confirmed and self._window.holds(when):
            self.latencies.second.add((time.monotonic_ns() - when) // 1000, outcome.confirmed)

    async def _work(self, produce: Callable[[int], Coroutine[Any, Any, None]], producer: int) -> None:
        """Publishes, and where a number of messages is measured, waits until the last one is confirmed."""
        await produce(producer)
        if self._window.end is None:
            for publisher in self._publishers[producer]:
                await publisher.flush(DRAIN_TIMEOUT)

    async def _produce(self, producer: int) -> None:
        """Publishes as fast as the broker confirms."""
        send = self._sender(producer)
        batch, left, end = self._plan.batch, self._plan.count_of(producer), self._window.end
        time_slice = TimeSlice()
        while left is None or left > 0:
            now = time.monotonic_ns()
            if end is not None and now >= end:
                return
            count = batch if left is None else min(batch, left)
            await send(count, now)
            if left is not None:
                left -= count
            if time_slice.is_over():
                await time_slice.give_way()

    async def _produce_at_rate(self, producer: int) -> None:
        """Publishes so many messages a second. A batch that could not be sent when it was due is sent late, and its
        latency counts from when it was due."""
        rate = self._plan.rate
        assert rate is not None
        send = self._sender(producer)
        left, end = self._plan.count_of(producer), self._window.end
        step = max(_TICK, 1 / rate)
        tick = sent = 0
        time_slice = TimeSlice()
        while left is None or sent < left:
            due = self._window.at + round(tick * step * SECOND)
            if end is not None and due >= end:
                return
            if due > time.monotonic_ns():
                await until(due)
                time_slice.begin()
            tick += 1
            wanted = round(tick * step * rate)
            count = (wanted if left is None else min(wanted, left)) - sent
            if count:
                await send(count, due)
                sent += count
            if time_slice.is_over():
                await time_slice.give_way()

    def _sender(self, producer: int) -> Callable[[int, int], Awaitable[None]]:
        """Returns what publishes so many messages of a producer, meant to be sent at a time in nanoseconds."""
        plan, publishers = self._plan, self._publishers[producer]
        bodies = [Bodies(plan.size, plan.run, producer) for _ in publishers]
        compression = plan.compression
        sent = 0

        async def publish(lane: int, count: int, when: int) -> None:
            publisher = publishers[lane]
            messages = bodies[lane].messages(publisher.published, count, when)
            self._bytes += _size(messages, plan)
            if compression is None:
                await publisher.publish(messages, context=when, most=plan.batch)
                return
            for begin in range(0, count, plan.batch):
                part = messages[begin : begin + plan.batch]
                await publisher.publish_sub_entry(part, CompressionType[compression], context=when)

        async def publish_to_one(count: int, when: int) -> None:
            await publish(0, count, when)

        async def publish_to_several(count: int, when: int) -> None:
            nonlocal sent
            for lane, counts in enumerate(self._lanes):
                some = _between(counts, sent, sent + count)
                if some:
                    await publish(lane, some, when)
            sent += count

        return publish_to_one if len(publishers) == 1 else publish_to_several


def _size(messages: Sequence[bytes], plan: Publishing) -> int:
    if plan.size.is_fixed:
        return plan.size.least * len(messages)
    assert isinstance(messages, PlainMessages)
    return sum(messages.lengths)


def _lanes(partitions: int) -> list[list[int]]:
    """Returns for each partition how many of the first 0, 1, ... KEYS messages it gets, by the hash of their number."""
    places = partition_indexes([b"%d" % number for number in range(KEYS)], partitions)
    lanes = [[0] for _ in range(partitions)]
    for place in places:
        for lane, counts in enumerate(lanes):
            counts.append(counts[-1] + (lane == place))
    return lanes


def _between(counts: Sequence[int], first: int, behind: int) -> int:
    """Returns how many of the messages ``first`` to ``behind`` - 1 go to the partition of these counts."""
    return _before(counts, behind) - _before(counts, first)


def _before(counts: Sequence[int], number: int) -> int:
    rounds, rest = divmod(number, KEYS)
    return rounds * counts[KEYS] + counts[rest]
