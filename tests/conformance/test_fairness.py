"""What is handed out and published leaves the event loop its turns, also where nobody ever waits.

Work takes the time of a clock of the test's own, so that nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import rstream_core.consuming.subscription
import rstream_core.consuming.subscriptions
import rstream_core.producers.job_queue
from rstream_core import Client, Consumer, MessageContext, Producer, SuperStreamConsumer
from rstream_core.timeslice import TIME_SLICE, TimeSlice
from tests.clients import PATIENCE, publish


class Work:
    """Takes time; another task notes for how long it did not get a turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.messages = 0
        self.longest = 0.0
        self._turn = 0.0
        self.done = asyncio.Event()

    def do(self, seconds: float, messages: int = 1) -> None:
        self.now += seconds
        self.messages += messages

    async def watch(self) -> None:
        while True:
            self.longest = max(self.longest, self.now - self._turn)
            self._turn = self.now
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self.watch())
        async with asyncio.timeout(PATIENCE):
            yield
        watching.cancel()
        await asyncio.wait((watching,))
        self.longest = max(self.longest, self.now - self._turn)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    found = Work()
    for module in (rstream_core.consuming.subscription, rstream_core.consuming.subscriptions):
        monkeypatch.setattr(module, "TimeSlice", lambda: TimeSlice(lambda: found.now))
    return found


EACH = 0.0001
"""Seconds of work for each message: those of the report, where another task waited for as long as 50,000 take."""
COUNT = 10_000

Consume = Callable[[Consumer, str, Work], Any]


async def callback(consumer: Consumer, stream: str, work: Work, *, is_async: bool = False, **options: Any) -> None:
    def on_message(message: Any, context: MessageContext) -> None:
        if "decoder" not in options and "post_filter" not in options:
            work.do(EACH)
        if work.messages == COUNT:
            consumer.stop()

    async def later(message: Any, context: MessageContext) -> None:
        on_message(message, context)

    await consumer.subscribe(stream, later if is_async else on_message, **options)
    await consumer.run()


async def async_callback(consumer: Consumer, stream: str, work: Work) -> None:
    await callback(consumer, stream, work, is_async=True)


async def decoder(consumer: Consumer, stream: str, work: Work) -> None:
    await callback(consumer, stream, work, decoder=lambda data: work.do(EACH))


async def failing(consumer: Consumer, stream: str, work: Work) -> None:
    def on_message(message: Any, context: MessageContext) -> None:
        work.do(EACH)
        if work.messages == COUNT:
            consumer.stop()
        raise LookupError

    await consumer.subscribe(stream, on_message)
    await consumer.run()


async def messages(consumer: Consumer, stream: str, work: Work) -> None:
    async with contextlib.aclosing(consumer.messages(stream)) as reading:
        async for _ in reading:
            work.do(EACH)
            if work.messages == COUNT:
                break


async def unwanted(consumer: Consumer, stream: str, work: Work) -> None:
    """A post filter works for each message, and lets only the last one pass."""

    def is_last(message: bytes) -> bool:
        work.do(EACH)
        return work.messages == COUNT

    async with contextlib.aclosing(consumer.messages(stream, post_filter=is_last)) as reading:
        await anext(reading)


async def chunks(consumer: Consumer, stream: str, work: Work) -> None:
    async with contextlib.aclosing(consumer.chunks(stream)) as reading:
        async for chunk in reading:
            work.do(0.001, len(chunk.messages))
            if work.messages == COUNT:
                break


@pytest.mark.parametrize(
    "consume", [callback, async_callback, decoder, failing, messages, unwanted, chunks], ids=lambda how: how.__name__
)
@pytest.mark.parametrize("size", [5000, 10])
async def test_others_get_their_turns(client: Client, stream: str, work: Work, consume: Consume, size: int) -> None:
    await publish(client, stream, *[[b"x"] * size] * min(COUNT // size, 100))
    for _ in range(COUNT // size // 100 - 1):
        await publish(client, stream, *[[b"x"] * size] * 100)
    consumer = Consumer(client=client)
    async with work.watched():
        await consume(consumer, stream, work)
    await consumer.close()
    assert work.messages == COUNT
    assert 0 < work.longest <= TIME_SLICE * 1.25


async def test_a_message_that_takes_longer_than_a_slice(client: Client, stream: str, work: Work) -> None:
    """Then there is a turn after each."""
    await publish(client, stream, [b"x"] * 100)
    consumer = Consumer(client=client)

    def on_message(message: bytes, context: MessageContext) -> None:
        work.do(0.5)
        if work.messages == 100:
            consumer.stop()

    async with work.watched():
        await consumer.subscribe(stream, on_message)
        await consumer.run()
    await consumer.close()
    assert work.longest == 0.5


@pytest.mark.parametrize("how", ["callback", "messages"])
async def test_of_a_super_stream(client: Client, super_stream: str, work: Work, how: str) -> None:
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", [b"x"] * 2000)
    consumer = SuperStreamConsumer(client=client, super_stream=super_stream)

    def on_message(message: bytes, context: MessageContext) -> None:
        work.do(EACH)
        if work.messages == 6000:
            consumer.stop()

    async with work.watched():
        if how == "callback":
            await consumer.subscribe(on_message)
            await consumer.run()
        else:
            async for message, context in consumer.messages():
                on_message(message, context)
                if work.messages == 6000:
                    break
    await consumer.close()
    slices = 3 if how == "callback" else 1  # each partition has a task of its own there
    assert 0 < work.longest <= slices * TIME_SLICE * 1.25


async def test_a_turn_that_ends_while_the_loop_has_its_turn(client: Client, stream: str, work: Work) -> None:
    """The subscriber is gone then: its callback is not called any more, in the middle of a chunk."""
    await publish(client, stream, [b"x"] * 5000)
    consumer = Consumer(client=client)
    leaving: list[asyncio.Task[None]] = []

    def on_message(message: bytes, context: MessageContext) -> None:
        work.do(EACH)
        if not leaving:
            leaving.append(asyncio.create_task(consumer.unsubscribe(context.subscriber_id)))

    async with work.watched():
        await consumer.subscribe(stream, on_message)
        while not leaving:  # noqa: ASYNC110 - the callback does not tell
            await asyncio.sleep(0.001)
        await leaving[0]
    assert work.messages * EACH <= TIME_SLICE * 1.25


async def test_publishing_in_a_loop_leaves_others_their_turns(
    client: Client, stream: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although each call writes at once, and has nothing to wait for."""
    monkeypatch.setattr(rstream_core.producers.job_queue, "TimeSlice", lambda: TimeSlice(lambda: work.now))
    producer = Producer(client=client)
    await producer.send_wait(stream, b"first")
    async with work.watched():
        for _ in range(200):
            work.do(0.001)
            await producer.send_batch(stream, [b"x"] * 10)
    await producer.close()
    assert 0 < work.longest <= TIME_SLICE * 1.25
