"""Filter values: the broker leaves out chunks, and this side the messages that are in the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    CompressionType,
    ConfigurationError,
    ConnectionOptions,
    Consumer,
    FilterConfiguration,
    MessageContext,
    OffsetType,
    UnsupportedByBroker,
    amqp_decoder,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.clients import FIRST, PATIENCE, eventually, publish, publish_filtered, take


@pytest.fixture
async def consumer(client: Client) -> AsyncIterator[Consumer]:
    opened = Consumer(client=client)
    yield opened
    await opened.close()


def regional(number: int, region: str) -> bytes:
    return AMQPMessage(body=str(number), application_properties={"region": region}).encode()


@pytest.fixture
async def filtered(client: Client, options: ConnectionOptions, stream: str) -> str:
    """Chunks of eu, of us, of both by turns, and one without filter values. Offsets are the bodies."""
    numbers = iter(range(40))
    await publish_filtered(
        options,
        stream,
        [("eu", regional(next(numbers), "eu")) for _ in range(10)],
        [("us", regional(next(numbers), "us")) for _ in range(10)],
        [(region, regional(next(numbers), region)) for _ in range(5) for region in ("eu", "us")],
    )
    await publish(client, stream, [regional(next(numbers), "none") for _ in range(10)])
    return stream


EU = [*range(10), *range(20, 30, 2)]
UNFILTERED = [*range(30, 40)]


async def test_the_broker_leaves_out_chunks(client: Client, filtered: str) -> None:
    chunks: list[range] = []
    async with await client.subscribe(filtered, FIRST) as subscription, asyncio.timeout(PATIENCE):
        while not chunks or chunks[-1].stop < 40:
            chunk = await anext(subscription)
            chunks.append(range(chunk.offset, chunk.last_offset + 1))
    # A busy broker may make several chunks of a batch: then one of those of both regions may be of us alone.
    with_eu = [offset for chunk in chunks if set(EU).intersection(chunk) for offset in chunk]
    async with await client.subscribe(filtered, FIRST, filter_values=["eu"]) as subscription:
        assert list(await take(subscription, len(with_eu))) == with_eu
        assert await subscription.next_there_is() is None
    both = await client.subscribe(filtered, FIRST, filter_values=["eu", "us"])
    async with both:
        assert list(await take(both, 30)) == [*range(30)]
    unfiltered = await client.subscribe(filtered, FIRST, filter_values=["eu"], match_unfiltered=True)
    async with unfiltered:
        assert list(await take(unfiltered, len(with_eu) + 10)) == [*with_eu, *UNFILTERED]


def is_eu(message: AMQPMessage) -> bool:
    return (message.application_properties or {}).get("region") == "eu"


@pytest.mark.parametrize("how", ["filter_input", "options"])
async def test_a_callback_gets_exactly_what_is_wanted(consumer: Consumer, filtered: str, how: str) -> None:
    offsets: list[int] = []

    def callback(message: AMQPMessage, context: MessageContext) -> None:
        assert message.body == str(context.offset).encode()
        offsets.append(context.offset)

    if how == "filter_input":
        wanted = FilterConfiguration(values_to_filter=["eu"], predicate=is_eu, match_unfiltered=False)
        await consumer.subscribe(filtered, callback, decoder=amqp_decoder, filter_input=wanted)
    else:
        await consumer.subscribe(
            filtered, callback, decoder=amqp_decoder, filter_values=["eu"], post_filter=is_eu, initial_credit=1
        )
    await eventually(lambda: len(offsets) == len(EU))
    await asyncio.sleep(0.05)
    assert offsets == EU


async def test_an_iterator_gets_exactly_what_is_wanted(consumer: Consumer, filtered: str) -> None:
    offsets = []
    messages = consumer.messages(
        filtered,
        decoder=amqp_decoder,
        filter_values=["eu"],
        match_unfiltered=True,
        post_filter=lambda message: message.application_properties["region"] != "us",
        offset_type=OffsetType.OFFSET,
        offset=5,
    )
    async with asyncio.timeout(PATIENCE):
        async for _, context in messages:
            offsets.append(context.offset)
            if context.offset == 39:
                break
    await messages.aclose()
    assert offsets == [*EU[5:], *UNFILTERED]


async def test_a_post_filter_alone(client: Client, consumer: Consumer, stream: str) -> None:
    """More chunks than credits, in which nothing is wanted; in a sub-entry, too."""
    publisher = await client.publisher(stream)
    for _ in range(15):
        await publisher.publish([b"no"] * 3)
        await publisher.flush(PATIENCE)
    await publisher.publish_sub_entry([b"no", b"yes", b"no"], CompressionType.Gzip)
    await publisher.flush(PATIENCE)
    await publisher.close()
    messages = consumer.messages(stream, initial_credit=2, post_filter=lambda message: message == b"yes")
    async with asyncio.timeout(PATIENCE):
        message, context = await anext(messages)
    assert (message, context.offset) == (b"yes", 46)
    await messages.aclose()


async def test_a_post_filter_that_raises(
    client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(client, stream, [b"1", b"x", b"3"])
    seen: list[bytes] = []
    await consumer.subscribe(stream, lambda message, _: seen.append(message), post_filter=lambda m: int(m) > 1)
    await eventually(lambda: seen == [b"3"])
    assert "message 1 of stream" in caplog.text


async def test_a_broker_without_filters(client: Client, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = (await inside.locator(client).connection()).session
    monkeypatch.setitem(inside.versions(session), c.Key.PUBLISH, c.CommandVersions(c.Key.PUBLISH, 1, 1))
    with pytest.raises(UnsupportedByBroker, match=r"filtering needs RabbitMQ 3\.13"):
        await client.subscribe(stream, FIRST, filter_values=["eu"])
    with pytest.raises(UnsupportedByBroker, match=r"filtering needs RabbitMQ 3\.13"):
        await client.subscribe(stream, FIRST, properties={"filter.0": "eu"})


async def test_options_that_do_not_go_together(consumer: Consumer) -> None:
    with pytest.raises(ConfigurationError, match="match_unfiltered is for"):
        FilterConfiguration(match_unfiltered=True)
    with pytest.raises(ConfigurationError, match="a list of values"):
        FilterConfiguration("eu")
    with pytest.raises(ConfigurationError, match="not both"):
        await consumer.subscribe("s", print, filter_input=FilterConfiguration(["eu"]), filter_values=["eu"])
    with pytest.raises(ConfigurationError, match="a post filter needs messages"):
        await anext(consumer.chunks("s", post_filter=is_eu))
