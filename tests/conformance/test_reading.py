"""Iterators of consumers: a timeout around ``anext`` ends nothing, and whoever leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfigurationError,
    Consumer,
    StreamDoesNotExist,
    SuperStreamConsumer,
    timeslice,
)
from tests import inside
from tests.clients import FIRST, PATIENCE, bodies, eventually, publish


@pytest.fixture
async def consumer(client: Client) -> AsyncIterator[Consumer]:
    opened = Consumer(client=client)
    yield opened
    await opened.close()


def nothing_is_left(client: Client) -> bool:
    return not any(inside.shared(inside.consuming(client)).values())


Read = Callable[[Client, str], Any]

WAYS: dict[str, Read] = {
    "messages": lambda client, stream: Consumer(client=client).messages(stream),
    "of several": lambda client, stream: Consumer(client=client).messages({stream: FIRST}),
    "chunks": lambda client, stream: Consumer(client=client).chunks(stream),
}


def body_of(item: Any) -> bytes:
    """Of a chunk of one message, or of a message with its context."""
    found: bytes = item.messages[0] if hasattr(item, "messages") else item[0]
    return found


@pytest.mark.parametrize("read", [*WAYS.values()], ids=[*WAYS])
async def test_a_timeout_around_anext_ends_nothing(client: Client, stream: str, read: Read) -> None:
    """Before the first message, between two, and again."""
    async with aclosing(read(client, stream)) as reading:
        for number in range(3):
            for _ in range(2):
                waiting = asyncio.ensure_future(anext(reading))
                await asyncio.sleep(0.02)
                assert not waiting.done()
                waiting.cancel()
                await asyncio.wait((waiting,))
                assert waiting.cancelled()
            await publish(client, stream, [str(number).encode()])
            assert body_of(await asyncio.wait_for(anext(reading), PATIENCE)) == str(number).encode()
    assert nothing_is_left(client)


async def test_a_timeout_that_is_too_short_for_subscribing(client: Client, stream: str) -> None:
    """Each attempt goes on where the one before was."""
    await publish(client, stream, bodies(3))
    consumer = Consumer(client=client)
    found: list[bytes] = []
    async with aclosing(consumer.messages(stream)) as messages, asyncio.timeout(PATIENCE):
        while len(found) < 3:
            waiting = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait((waiting,))
            if not waiting.cancelled():
                found.append((await waiting)[0])
    assert found == bodies(3)
    assert nothing_is_left(client)


@pytest.mark.parametrize("how", ["messages", "chunks"])
async def test_of_a_super_stream(client: Client, super_stream: str, how: str) -> None:
    consumer = SuperStreamConsumer(client=client, super_stream=super_stream)
    async with aclosing(getattr(consumer, how)()) as reading:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reading), 0.05)
        await publish(client, f"{super_stream}-1", [b"x"])
        assert body_of(await asyncio.wait_for(anext(reading), PATIENCE)) == b"x"
    assert nothing_is_left(client)


async def test_nothing_is_stored_past_what_was_done(client: Client, stream: str) -> None:
    """The message that is asked for last is not done with."""
    await publish(client, stream, bodies(10))
    consumer = Consumer(client=client)
    messages = consumer.messages(stream, subscriber_name="reader", store_offset_every=600.0)
    async with aclosing(messages):
        async for _, context in messages:
            if context.offset == 5:
                break
    assert await client.query_offset(stream, "reader") == 4


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_error_ends_it(client: Client, stream: str, is_cancelled: bool) -> None:
    """It comes, also where its first caller has gone meanwhile, and leaves nothing behind; nothing follows it."""
    consumer = Consumer(client=client)
    messages = consumer.messages(stream)
    waiting = asyncio.ensure_future(anext(messages))
    await eventually(lambda: len(inside.subscribers(consumer)) == 1)
    if is_cancelled:
        waiting.cancel()
        await asyncio.wait((waiting,))
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
    await client.delete_stream(stream)
    with pytest.raises(StreamDoesNotExist):
        await asyncio.wait_for(waiting, PATIENCE)
    assert inside.subscribers(consumer) == {}
    with pytest.raises(StopAsyncIteration):
        await anext(messages)
    await messages.aclose()


async def test_an_error_of_the_decoder_in_the_middle_of_a_chunk(
    client: Client, consumer: Consumer, stream: str
) -> None:
    """Nothing behind it is handed out: not the rest of its chunk, nor the next one."""
    await publish(client, stream, [str(number).encode() for number in range(50)], [b"50"])

    def decoder(data: bytes) -> int:
        if data == b"40":
            raise LookupError
        return int(data)

    messages = consumer.messages(stream, decoder=decoder)
    found = []

    async def read() -> None:
        async for number, _ in messages:
            found.append(number)

    with pytest.raises(LookupError):
        await read()
    assert found == list(range(40))
    with pytest.raises(StopAsyncIteration):
        await anext(messages)
    assert inside.subscribers(consumer) == {}


async def test_closing_it_ends_a_wait(client: Client, consumer: Consumer, stream: str) -> None:
    for is_open in (False, True):
        messages = consumer.messages(stream)
        waiting = asyncio.ensure_future(anext(messages))
        if is_open:
            await eventually(lambda: len(inside.subscribers(consumer)) == 1)
        else:
            await asyncio.sleep(0)
        await messages.aclose()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, PATIENCE)
        await messages.aclose()
        assert inside.subscribers(consumer) == {}
    await eventually(lambda: nothing_is_left(client))


async def test_one_that_was_never_asked(consumer: Consumer) -> None:
    messages = consumer.messages("nothing is asked")
    await messages.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_two_tasks_at_once(client: Client, consumer: Consumer, stream: str) -> None:
    messages = consumer.messages(stream)
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    with pytest.raises(ConfigurationError, match="for one task"):
        await anext(messages)
    await publish(client, stream, [b"x"])
    assert (await asyncio.wait_for(waiting, PATIENCE))[0] == b"x"
    await messages.aclose()


@pytest.mark.parametrize("read", [*WAYS.values()], ids=[*WAYS])
async def test_leaving_a_loop_without_closing(client: Client, stream: str, read: Read) -> None:
    """As with an async generator, the subscription ends once nobody has the iterator any more."""
    await publish(client, stream, *[bodies(10)] * 3)
    async for _ in read(client, stream):
        break
    gc.collect()
    await eventually(lambda: nothing_is_left(client))


async def test_closing_the_consumer_waits_for_what_was_dropped(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    consumer = Consumer(client=client)
    async for _, context in consumer.messages(stream, subscriber_name="reader", store_offset_every=600.0):
        if context.offset == 5:
            break
    gc.collect()
    await asyncio.sleep(0)
    await consumer.close()
    assert nothing_is_left(client)
    assert await client.query_offset(stream, "reader") == 4


async def test_wrong_arguments_are_told_by_the_call(consumer: Consumer) -> None:
    with pytest.raises(TypeError, match="unexpected argument: nonsense"):
        consumer.messages("s", nonsense=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="a post filter needs messages"):
        consumer.chunks("s", post_filter=bool)


async def test_closing_it_while_the_loop_has_its_turn(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of a chunk, where a reader gives way: then it ends, and hands out no more."""
    await publish(client, stream, bodies(500))
    monkeypatch.setattr(timeslice, "TIME_SLICE", 0.0)  # at each look at the clock
    consumer = Consumer(client=client)
    reading = consumer.messages(stream)
    found: list[bytes] = []
    begun = asyncio.Event()

    async def read() -> None:
        async for body, _ in reading:
            found.append(body)
            begun.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await reading.aclose()
    count = len(found)
    await asyncio.wait_for(task, PATIENCE)
    assert len(found) <= count < 500
    await consumer.close()
