"""``Consumer``: callbacks and iterators, wherever they start, and whoever ends them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rstream_core import (
    AlreadyClosed,
    AMQPMessage,
    Client,
    ConfigurationError,
    ConnectionClosed,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    amqp_decoder,
)
from tests import inside
from tests.clients import PATIENCE, bodies, eventually, publish


@pytest.fixture
async def consumer(client: Client) -> AsyncIterator[Consumer]:
    opened = Consumer(client=client)
    yield opened
    await opened.close()


class Seen:
    """A callback that keeps what it is called with."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.contexts: list[MessageContext] = []

    def __call__(self, message: Any, context: MessageContext) -> None:
        self.messages.append(message)
        self.contexts.append(context)

    async def later(self, message: Any, context: MessageContext) -> None:
        await asyncio.sleep(0)
        self(message, context)

    async def count(self, number: int) -> None:
        await eventually(lambda: len(self.messages) >= number)

    @property
    def offsets(self) -> list[int]:
        return [context.offset for context in self.contexts]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_callback_gets_each_message_in_order(client: Client, consumer: Consumer, stream: str, how: str) -> None:
    await publish(client, stream, bodies(500), bodies(500, "more "))
    seen = Seen()
    callback = seen if how == "sync" else seen.later
    number = await consumer.subscribe(stream, callback, subscriber_name="reader")
    await seen.count(1000)
    assert seen.messages == [*bodies(500), *bodies(500, "more ")]
    assert seen.offsets == list(range(1000))
    context = seen.contexts[0]
    assert (context.consumer, context.stream, context.subscriber_id) == (consumer, stream, number)
    assert context.subscriber_name == "reader"
    assert abs(context.timestamp / 1000 - time.time()) < 60
    assert await consumer.stream("reader") == stream
    await publish(client, stream, [b"still here"])
    await seen.count(1001)


async def test_decoders(client: Client, consumer: Consumer, stream: str) -> None:
    message = AMQPMessage(body="hello", application_properties={"a": 1})
    await publish(client, stream, [message.encode(), b"no message", message.encode()])
    decoded, raw = Seen(), Seen()
    await consumer.subscribe(stream, decoded, decoder=amqp_decoder)
    await consumer.subscribe(stream, raw)
    await decoded.count(3)
    await raw.count(3)
    assert decoded.messages[0] == message
    assert decoded.messages[0].body == b"hello"
    assert raw.messages == [message.encode(), b"no message", message.encode()]


async def test_a_decoder_that_raises(
    client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(client, stream, [b"1", b"x", b"3"])
    seen = Seen()
    await consumer.subscribe(stream, seen, decoder=int)
    await seen.count(2)
    assert seen.messages == [1, 3]
    assert "message 1 of stream" in caplog.text


STARTS: list[tuple[OffsetType, int | None, list[int]]] = [
    (OffsetType.FIRST, None, [0, 1, 2, 3, 4]),
    (OffsetType.LAST, None, [3, 4]),
    (OffsetType.OFFSET, 1, [1, 2, 3, 4]),
    (OffsetType.OFFSET, 4, [4]),
    (OffsetType.TIMESTAMP, 0, [0, 1, 2, 3, 4]),
    (OffsetType.NEXT, None, [5]),
]


@pytest.mark.parametrize("as_specification", [False, True])
@pytest.mark.parametrize(("offset_type", "offset", "expected"), STARTS, ids=str)
async def test_where_it_starts(
    client: Client,
    consumer: Consumer,
    stream: str,
    offset_type: OffsetType,
    offset: int | None,
    expected: list[int],
    as_specification: bool,
) -> None:
    await publish(client, stream, bodies(3), bodies(2))
    how: dict[str, Any] = {"offset_type": offset_type, "offset": offset}
    if as_specification:
        how = {"offset_specification": ConsumerOffsetSpecification(offset_type, offset)}
    seen, iterated = Seen(), []
    await consumer.subscribe(stream, seen, **how)
    iterator = consumer.messages(stream, **how)
    task = asyncio.ensure_future(anext(iterator))
    if offset_type is OffsetType.NEXT:
        await eventually(lambda: len(inside.subscribers(consumer)) == 2)
        await asyncio.sleep(0.05)
        await publish(client, stream, [b"5"])
    await seen.count(len(expected))
    assert seen.offsets == expected
    async with asyncio.timeout(PATIENCE):
        iterated.append((await task)[1].offset)
        while len(iterated) < len(expected):
            iterated.append((await anext(iterator))[1].offset)
    assert iterated == expected
    await iterator.aclose()


@pytest.mark.parametrize("how", ["subscribe", "messages", "chunks"])
async def test_an_offset_without_a_type_is_an_offset(client: Client, consumer: Consumer, stream: str, how: str) -> None:
    await publish(client, stream, bodies(3), bodies(2))
    first: Any
    if how == "subscribe":
        seen = Seen()
        await consumer.subscribe(stream, seen, offset=4)
        await seen.count(1)
        first = seen.contexts[0]
    elif how == "messages":
        async with contextlib.aclosing(consumer.messages(stream, offset=4)) as messages:
            _, first = await anext(messages)
    else:
        async with contextlib.aclosing(consumer.chunks(stream, offset=4)) as chunks:
            first = await anext(chunks)
    assert first.offset == 4


async def test_a_datetime_is_a_place_to_start(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, [b"0"])
    seen = Seen()
    await consumer.subscribe(stream, seen)
    await seen.count(1)
    stored = datetime.fromtimestamp(seen.contexts[0].timestamp / 1000, UTC)
    for start in (stored, stored - timedelta(hours=1)):
        async with contextlib.aclosing(consumer.messages(stream, offset=start)) as messages:
            assert (await anext(messages))[0] == b"0"


async def test_first_unless_told_otherwise(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, bodies(3))
    seen = Seen()
    await consumer.subscribe(stream, seen)
    await seen.count(3)
    assert seen.offsets == [0, 1, 2]


async def test_not_both_ways_at_once(consumer: Consumer, stream: str) -> None:
    spec = ConsumerOffsetSpecification(OffsetType.FIRST)
    with pytest.raises(ConfigurationError, match="not both"):
        await consumer.subscribe(stream, Seen(), offset_type=OffsetType.FIRST, offset_specification=spec)
    with pytest.raises(ValueError, match="needs an offset"):
        await consumer.subscribe(stream, Seen(), offset_type=OffsetType.OFFSET)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_callback_that_raises_stops_nothing(
    client: Client, consumer: Consumer, stream: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(client, stream, bodies(10), bodies(10))
    called: list[int] = []

    def callback(message: bytes, context: MessageContext) -> None:
        called.append(context.offset)
        raise RuntimeError("a mistake of the application")

    async def later(message: bytes, context: MessageContext) -> None:
        await asyncio.sleep(0)
        callback(message, context)

    await consumer.subscribe(stream, callback if how == "sync" else later, initial_credit=1)
    await eventually(lambda: len(called) == 20)
    assert called == list(range(20))
    assert caplog.text.count("RuntimeError: a mistake of the application") == 1
    assert "message 0 of stream" in caplog.text
    assert "message 1 of stream" not in caplog.text


async def test_a_slow_callback_holds_back_only_its_own_stream(
    client: Client, consumer: Consumer, stream: str, stream_name: str
) -> None:
    other = f"{stream_name}-other"
    await client.create_stream(other)
    await publish(client, stream, *[[body] for body in bodies(50)])
    await publish(client, other, bodies(10))
    gate = asyncio.Event()
    started: list[int] = []

    async def slow(message: bytes, context: MessageContext) -> None:
        started.append(context.offset)
        await gate.wait()

    seen = Seen()
    await consumer.subscribe(stream, slow, initial_credit=3)
    await consumer.subscribe(other, seen)
    await seen.count(10)
    (subscription,) = (s.subscription for s in inside.subscribers(consumer).values() if s.subscription.stream == stream)
    await eventually(lambda: len(started) > 0)
    await asyncio.sleep(0.1)
    assert started == [0]
    assert len(inside.undelivered(subscription)) <= 3
    gate.set()
    await eventually(lambda: len(started) == 50)
    await client.delete_stream(other)


async def test_a_callback_that_never_waits_leaves_room_for_others(
    client: Client, consumer: Consumer, stream: str
) -> None:
    await publish(client, stream, *[bodies(10)] * 50)
    one, two = Seen(), Seen()
    order: list[int] = []
    both = asyncio.Event()

    async def begin() -> None:
        await both.wait()

    def of(seen: Seen, number: int) -> Callable[[bytes, MessageContext], Awaitable[None] | None]:
        def callback(message: bytes, context: MessageContext) -> Awaitable[None] | None:
            seen(message, context)
            order.append(number)
            return None if context.offset else begin()

        return callback

    await consumer.subscribe(stream, of(one, 1), initial_credit=50)
    await consumer.subscribe(stream, of(two, 2), initial_credit=50)
    # Else one might be through before the other has anything.
    subscriptions = [subscriber.subscription for subscriber in inside.subscribers(consumer).values()]
    await eventually(lambda: all(len(inside.undelivered(subscription)) == 49 for subscription in subscriptions))
    await eventually(lambda: len(order) == 2)
    order.clear()
    both.set()
    await one.count(500)
    await two.count(500)
    assert 1 in order[order.index(2) :]


async def test_several_streams(client: Client, consumer: Consumer, stream_name: str) -> None:
    names = [f"{stream_name}-{number}" for number in range(5)]
    seen = {name: Seen() for name in names}
    for name in names:
        await client.create_stream(name)
        await publish(client, name, bodies(10, name))
        await consumer.subscribe(name, seen[name])
    for name in names:
        await seen[name].count(10)
        assert seen[name].messages == bodies(10, name)
        await client.delete_stream(name)


# Ends.


@pytest.mark.parametrize("by", ["id", "name", "subscriber_id", "subscriber_name"])
async def test_unsubscribe(client: Client, consumer: Consumer, stream: str, by: str) -> None:
    await publish(client, stream, bodies(3))
    seen = Seen()
    number = await consumer.subscribe(stream, seen, subscriber_name="reader")
    await seen.count(3)
    match by:
        case "id":
            await consumer.unsubscribe(number)
        case "name":
            await consumer.unsubscribe("reader")
        case "subscriber_id":
            await consumer.unsubscribe(subscriber_id=number)
        case _:
            await consumer.unsubscribe(subscriber_name="reader")
    await publish(client, stream, bodies(3))
    await asyncio.sleep(0.05)
    assert len(seen.messages) == 3
    for gone in (number, "reader"):
        with pytest.raises(ConfigurationError, match="no subscriber"):
            await consumer.unsubscribe(gone)
    with pytest.raises(ConfigurationError, match="no subscriber"):
        await consumer.stream("reader")


async def test_who_is_to_be_unsubscribed_is_said_once(consumer: Consumer) -> None:
    with pytest.raises(ConfigurationError, match="pass one of subscriber, subscriber_name and subscriber_id"):
        await consumer.unsubscribe("reader", subscriber_name="reader")
    with pytest.raises(ConfigurationError, match="pass the number that subscribe"):
        await consumer.unsubscribe(None)


async def test_no_offset_is_stored_under_a_name_that_nobody_gave(
    client: Client, consumer: Consumer, stream: str
) -> None:
    told: asyncio.Queue[tuple[str | None, str, Exception | None]] = asyncio.Queue()

    async def callback(message: bytes, context: MessageContext) -> None:
        error = None
        try:
            await context.consumer.store_offset(context.stream, context.subscriber_name, context.offset)
        except ConfigurationError as caught:
            error = caught
        told.put_nowait((context.subscriber_name, context.consumer.get_stream(context.subscriber_name), error))

    await publish(client, stream, bodies(1))
    await consumer.subscribe(stream, callback)
    async with asyncio.timeout(PATIENCE):
        name, found, error = await told.get()
    assert (name, found) == (None, stream)
    assert "offsets are stored under a name" in str(error)
    with pytest.raises(ConfigurationError, match="offsets are stored under a name"):
        await consumer.query_offset(stream, None)
    with pytest.raises(ConfigurationError, match="a subscriber without a name is known by its stream"):
        consumer.get_stream(None)


async def test_unsubscribe_from_within_the_callback(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(10))
    seen = Seen()

    async def callback(message: bytes, context: MessageContext) -> None:
        seen(message, context)
        if context.offset == 3:
            await context.consumer.unsubscribe(context.subscriber_id)

    await consumer.subscribe(stream, callback)
    await seen.count(4)
    await asyncio.sleep(0.05)
    assert seen.offsets == [0, 1, 2, 3]
    assert inside.subscribers(consumer) == {}
    again = Seen()
    await consumer.subscribe(stream, again)
    await again.count(20)


async def test_close_from_within_the_callback(arguments: dict[str, Any], client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(10))
    seen = Seen()

    async def callback(message: bytes, context: MessageContext) -> None:
        seen(message, context)
        if context.offset == 3:
            await context.consumer.close()

    consumer = Consumer(**arguments)
    await consumer.start()
    await consumer.subscribe(stream, callback)
    await asyncio.wait_for(consumer.run(), PATIENCE)
    assert seen.offsets == [0, 1, 2, 3]
    await consumer.close()
    with pytest.raises(AlreadyClosed):
        await consumer.subscribe(stream, seen)


async def test_close_from_within_two_callbacks_at_once(arguments: dict[str, Any], client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    both = asyncio.Event()

    async def callback(message: bytes, context: MessageContext) -> None:
        await both.wait()
        await context.consumer.close()

    consumer = Consumer(**arguments)
    await consumer.subscribe(stream, callback)
    await consumer.subscribe(stream, callback)
    both.set()
    await asyncio.wait_for(consumer.run(), PATIENCE)
    await consumer.close()


async def test_close_cancels_a_callback_that_runs(arguments: dict[str, Any], client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    events: list[str] = []

    async def callback(message: bytes, context: MessageContext) -> None:
        events.append("started")
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async with Consumer(**arguments) as consumer:
        await consumer.subscribe(stream, callback)
        await eventually(lambda: events == ["started"])
    assert events == ["started", "cancelled"]


async def test_stop_lets_run_return(client: Client, consumer: Consumer, stream: str) -> None:
    seen = Seen()
    await consumer.subscribe(stream, seen)
    run = asyncio.create_task(consumer.run())
    await asyncio.sleep(0.02)
    assert not run.done()
    consumer.stop()
    await asyncio.wait_for(run, PATIENCE)
    await publish(client, stream, [b"still heard"])
    await seen.count(1)


async def test_a_cancelled_run_can_be_run_again(consumer: Consumer, stream: str) -> None:
    await consumer.subscribe(stream, Seen())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consumer.run(), 0.02)
    consumer.stop()
    await asyncio.wait_for(consumer.run(), PATIENCE)


# Iterators.


async def test_iterating_messages(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(10, "more "))
    found = []
    async with contextlib.aclosing(consumer.messages(stream, subscriber_name="reader")) as messages:
        async for message, context in messages:
            assert context.subscriber_name == "reader"
            found.append((context.offset, message))
            if len(found) == 20:
                break
    assert found == list(enumerate([*bodies(10), *bodies(10, "more ")]))
    assert inside.subscribers(consumer) == {}


async def test_iterating_chunks(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(10, "more "))
    async with contextlib.aclosing(consumer.chunks(stream, initial_credit=1)) as chunks:
        first, second = await anext(chunks), await anext(chunks)
    assert (first.offset, first.messages, second.offset) == (0, bodies(10), 10)
    assert inside.subscribers(consumer) == {}


async def test_leaving_an_iterator_early_leaves_nothing_behind(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, *[bodies(10)] * 30)
    for _ in range(5):
        async with contextlib.aclosing(consumer.messages(stream)) as messages:
            async for _message in messages:
                break
    assert inside.shared(inside.consuming(client)) == {} or not any(inside.shared(inside.consuming(client)).values())


async def test_an_error_inside_the_loop_comes_through(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, [b"1", b"x"])
    found = []

    async def iterate() -> None:
        async with contextlib.aclosing(consumer.messages(stream, decoder=int)) as messages:
            async for message, _ in messages:
                found.append(message)

    with pytest.raises(ValueError, match="invalid literal"):
        await iterate()
    assert found == [1]
    assert inside.subscribers(consumer) == {}


async def test_closing_the_consumer_ends_its_iterators(client: Client, stream: str) -> None:
    consumer = Consumer(client=client)
    found = []

    async def iterate() -> None:
        async for message, _ in consumer.messages(stream):
            found.append(message)

    task = asyncio.create_task(iterate())
    await publish(client, stream, bodies(3))
    await eventually(lambda: len(found) == 3)
    await consumer.close()
    await asyncio.wait_for(task, PATIENCE)


async def test_two_iterators_at_once(client: Client, consumer: Consumer, stream: str) -> None:
    await publish(client, stream, *[bodies(10)] * 10)
    async with (
        contextlib.aclosing(consumer.messages(stream)) as one,
        contextlib.aclosing(consumer.messages(stream, offset_type=OffsetType.OFFSET, offset=50)) as two,
    ):
        for number in range(50):
            assert (await anext(one))[1].offset == number
            assert (await anext(two))[1].offset == number + 50


async def test_a_callback_that_awaits_what_is_cancelled(
    client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(client, stream, bodies(3))
    seen = Seen()

    async def callback(message: bytes, context: MessageContext) -> None:
        seen(message, context)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    await consumer.subscribe(stream, callback)
    await seen.count(3)
    await eventually(lambda: "the callback failed for message 0" in caplog.text)
    await consumer.close()
    assert "failed 2 more times" in caplog.text


CLOSINGS: dict[str, Callable[[Consumer], Awaitable[Any]]] = {
    "plainly": lambda consumer: consumer.close(),
    "with a limit": lambda consumer: asyncio.wait_for(consumer.close(), PATIENCE),
    "gathered": lambda consumer: asyncio.gather(consumer.close()),
    "in a task": lambda consumer: asyncio.create_task(consumer.close()),
}


@pytest.mark.parametrize("how", CLOSINGS)
async def test_a_callback_that_closes_its_consumer(
    arguments: dict[str, Any], client: Client, stream: str, how: str
) -> None:
    await publish(client, stream, bodies(3))
    consumer = Consumer(**arguments)

    async def callback(message: bytes, context: MessageContext) -> None:
        await CLOSINGS[how](context.consumer)

    await consumer.subscribe(stream, callback)
    async with asyncio.timeout(PATIENCE):
        await consumer.run()
        await consumer.close()
    assert all(not connection.is_open for connection in inside.consuming(consumer.client).connections)


async def test_a_callback_that_will_not_end(
    arguments: dict[str, Any], client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstream_core.consumers.subscribers.CANCEL_TIMEOUT", 0.2)
    await publish(client, stream, bodies(1))
    consumer, released, entered = Consumer(**arguments), asyncio.Event(), asyncio.Event()

    async def callback(message: bytes, context: MessageContext) -> None:
        entered.set()
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    await consumer.subscribe(stream, callback)
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        await consumer.close()
        await consumer.run()
    released.set()


async def test_closing_while_somebody_subscribes(arguments: dict[str, Any], client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    consumer, seen = Consumer(**arguments), Seen()
    await consumer.start()
    subscribing = asyncio.create_task(consumer.subscribe(stream, seen))
    await asyncio.sleep(0.001)
    await consumer.close()
    with pytest.raises((AlreadyClosed, ConnectionClosed)):
        await subscribing
    assert seen.messages == []
    assert all(not connection.is_open for connection in inside.consuming(consumer.client).connections)
