"""A callback that raises: its message is not passed by what is stored automatically, and the failure is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfirmationStatus,
    ConnectionOptions,
    Consumer,
    MessageContext,
    OffsetNotFound,
    OffsetType,
    Producer,
    SuperStreamConsumer,
)
from tests.clients import PATIENCE, bodies, eventually, publish

NAME = "billing"
NEVER = 600.0
"""Seconds between two stores: it is the one at the end that counts."""


@pytest.fixture
async def other(options: ConnectionOptions) -> AsyncIterator[Client]:
    """Not of the test: single active consumers take the turn of those that have left."""
    async with Client(options) as opened:
        yield opened


class Failing:
    """A callback that raises for some offsets."""

    def __init__(self, *offsets: int) -> None:
        self.failing = offsets
        self.offsets: list[int] = []

    def __call__(self, message: bytes, context: MessageContext) -> None:
        self.offsets.append(context.offset)
        if context.offset in self.failing:
            raise LookupError(f"no database for {context.offset}")

    async def later(self, message: bytes, context: MessageContext) -> None:
        await asyncio.sleep(0)
        self(message, context)

    async def has(self, count: int) -> None:
        await eventually(lambda: len(self.offsets) >= count)


async def stored(client: Client, stream: str) -> int | None:
    try:
        return await client.query_offset(stream, NAME)
    except OffsetNotFound:
        return None


@pytest.mark.parametrize("how", ["sync", "async", "decoder", "post_filter"])
@pytest.mark.parametrize(
    ("failing", "expected"),
    [((5,), 4), ((0,), None), ((10,), 9), ((12, 3), 2), ((), 19)],
    ids=["inside", "the first", "begins a chunk", "twice", "none"],
)
async def test_what_closing_stores(
    client: Client, stream: str, how: str, failing: tuple[int, ...], expected: int | None
) -> None:
    """Messages after the one that failed are handed out, in its chunk and in later ones, and are not stored either."""
    await publish(client, stream, bodies(10), [b"10"], [str(number).encode() for number in range(11, 20)])
    callback = Failing(*failing)
    options: dict[str, Any] = {}

    def pick(message: bytes) -> bytes:
        if int(message) in failing:
            raise LookupError
        return message

    if how == "decoder":
        options["decoder"] = pick
    elif how == "post_filter":
        options["post_filter"] = pick
    consumer = Consumer(client=client)
    chosen = callback.later if how == "async" else callback
    await consumer.subscribe(stream, chosen, subscriber_name=NAME, store_offset_every=NEVER, **options)
    count = 20 if how in ("sync", "async") else 20 - len(failing)
    await callback.has(count)
    await consumer.close()
    assert len(callback.offsets) == count
    assert await stored(client, stream) == expected


async def test_what_is_stored_now_and_then(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(10))
    consumer, callback = Consumer(client=client), Failing(5)
    await consumer.subscribe(stream, callback, subscriber_name=NAME, store_offset_every=0.01)
    await callback.has(20)

    async def until_stored() -> None:
        while await stored(client, stream) is None:  # noqa: ASYNC110 - the broker does not announce it
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_stored(), PATIENCE)
    assert await stored(client, stream) == 4
    await consumer.close()
    assert await stored(client, stream) == 4


async def test_it_comes_again_where_one_goes_on(client: Client, stream: str) -> None:
    """An outage of what the callback writes to: the next run gets all of it."""
    await publish(client, stream, bodies(10))
    for failing, expected in ((range(5, 10), 4), ((), 9)):
        consumer, callback = Consumer(client=client), Failing(*failing)
        begin = await stored(client, stream)
        start = 0 if begin is None else begin + 1
        await consumer.subscribe(
            stream,
            callback,
            offset_type=OffsetType.OFFSET,
            offset=start,
            subscriber_name=NAME,
            store_offset_every=NEVER,
        )
        await callback.has(10 - start)
        await consumer.close()
        assert callback.offsets == list(range(start, 10))
        assert await stored(client, stream) == expected


async def test_of_a_super_stream(client: Client, super_stream: str) -> None:
    """Each partition on its own."""
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", bodies(10))
    consumer = SuperStreamConsumer(client=client, super_stream=super_stream)
    offsets: list[int] = []

    def callback(message: bytes, context: MessageContext) -> None:
        offsets.append(context.offset)
        if context.stream.endswith("-1") and context.offset == 5:
            raise LookupError

    await consumer.subscribe(callback, subscriber_name=NAME, store_offset_every=NEVER)
    await eventually(lambda: len(offsets) == 30)
    await consumer.close()
    assert [await stored(client, f"{super_stream}-{number}") for number in range(3)] == [9, 4, 9]


async def test_the_next_turn_begins_there(client: Client, other: Client, stream: str) -> None:
    """Of single active consumers: also where it fails in each turn, and where it is done with in the next."""
    await publish(client, stream, bodies(10))
    told: list[int | None] = []

    def on_turn(is_active: bool, context: Any) -> None:
        if not is_active:
            told.append(context.offset)

    for failing, begins, expected in (((5,), 0, 4), ((5, 7), 5, 4), ((7,), 5, 6), ((), 7, 9)):
        consumer, callback = Consumer(client=other), Failing(*failing)
        await consumer.subscribe(
            stream,
            callback,
            single_active_consumer=True,
            subscriber_name=NAME,
            store_offset_every=NEVER,
            consumer_update_listener=on_turn,
        )
        await callback.has(10 - begins)
        await consumer.close()
        assert callback.offsets == list(range(begins, 10))
        assert await stored(client, stream) == expected


# Telling.


@pytest.mark.parametrize("how", ["callback", "decoder"])
async def test_it_is_told_once_with_its_place_and_then_counted(
    client: Client, stream: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """As where ``decoder=`` was forgotten, and every message fails in the same way."""
    await publish(client, stream, *[[b"x"] * 5000] * 4)
    called = 0

    def callback(message: Any, context: MessageContext) -> None:
        nonlocal called
        called += 1
        message.body  # noqa: B018 - bytes have none

    consumer = Consumer(client=client)
    if how == "callback":
        await consumer.subscribe(stream, callback)
    else:

        def decoder(data: bytes) -> None:
            callback(data, None)  # type: ignore[arg-type]

        await consumer.subscribe(stream, print, decoder=decoder)
    await eventually(lambda: called == 20_000)
    await consumer.close()
    first, last = caplog.records
    assert first.getMessage() == f"the callback failed for message 0 of stream {stream!r}"
    assert first.exc_info is not None
    assert last.getMessage() == f"the callback of stream {stream!r} failed 19999 more times"
    assert last.levelname == "ERROR"


async def test_it_is_told_that_nothing_more_is_stored(
    client: Client, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(client, stream, bodies(3))
    consumer, callback = Consumer(client=client), Failing(1)
    await consumer.subscribe(stream, callback, subscriber_name=NAME, store_offset_every=NEVER)
    await callback.has(3)
    await consumer.close()
    (record,) = caplog.records
    assert "message 1 of stream" in record.getMessage()
    assert record.getMessage().endswith("; no offset from there on is stored")


async def test_each_kind_of_failure_is_told(client: Client, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    await publish(client, stream, bodies(10))
    called: list[int] = []
    kinds: list[type[Exception]] = [LookupError, ConnectionError]

    def callback(message: bytes, context: MessageContext) -> Awaitable[None] | None:
        called.append(context.offset)
        raise kinds[context.offset % 2]

    consumer = Consumer(client=client)
    await consumer.subscribe(stream, callback)
    await eventually(lambda: len(called) == 10)
    await consumer.close()
    assert [record.getMessage().partition(" of stream")[0] for record in caplog.records] == [
        "the callback failed for message 0",
        "the callback failed for message 1",
        "the callback",
    ]
    assert caplog.records[-1].getMessage().endswith("failed 8 more times")


async def test_confirm_callbacks_too(client: Client, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    def confirmed(status: ConfirmationStatus) -> None:
        raise LookupError

    async with Producer(client=client) as producer:
        for body in bodies(1000):
            await producer.send(stream, body, on_publish_confirm=confirmed)
    first, last = caplog.records
    assert first.getMessage().startswith("on_publish_confirm failed for ConfirmationStatus(message_id=1,")
    assert last.getMessage() == "on_publish_confirm failed 999 more times"
