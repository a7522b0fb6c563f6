"""Filter values of publishers: what goes out, in which order, and what cannot have any."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    ConfigurationError,
    MessageTooLarge,
    Outcome,
    Producer,
    UnsupportedByBroker,
)
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import Session
from tests import inside
from tests.clients import FIRST, PATIENCE, bodies, publish, read


async def delivered(client: Client, stream: str, *values: str) -> list[bytes]:
    """What the broker sends to a subscription that asks for these values: whole chunks. Ends at a chunk of b"end"."""
    await publish(client, stream, [b"end"])  # without a value: it comes to whoever takes those too
    properties = {f"filter.{number}": value for number, value in enumerate(values)}
    properties["match-unfiltered"] = "true"
    found: list[bytes] = []
    async with await client.subscribe(stream, FIRST, properties=properties) as subscription:
        async with asyncio.timeout(PATIENCE):
            while b"end" not in found:
                found += (await anext(subscription)).messages
    return found[:-1]


async def test_values_reach_the_broker(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    for value in ("eu", "us", "asia"):
        await publisher.publish(bodies(10, value), filter_values=[value] * 10)
        await publisher.flush(PATIENCE)  # a chunk for each
    assert publisher.confirmed == 30
    await publisher.close()
    assert await delivered(client, stream, "us") == bodies(10, "us")


async def test_non_ascii_values(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    for value in ("größe", "grosse"):
        await publisher.publish(bodies(3, value), filter_values=[value] * 3)
        await publisher.flush(PATIENCE)
    await publisher.close()
    assert await delivered(client, stream, "größe") == bodies(3, "größe")


async def test_messages_with_and_without_values(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    values = [None, "eu", None, "us", ""]
    ids = await publisher.publish(bodies(5), filter_values=values)
    assert list(ids) == [1, 2, 3, 4, 5]
    await publisher.publish(bodies(2, "none"), filter_values=[None, None])
    await publisher.flush(PATIENCE)
    assert publisher.confirmed == 7
    await publisher.close()
    assert list((await read(client, stream, 7)).values()) == [*bodies(5), *bodies(2, "none")]


async def test_frames_with_values_are_cut_like_others(client: Client, stream: str) -> None:
    chance = random.Random(1)
    messages = [chance.randbytes(chance.randrange(2000)) for _ in range(2000)]
    values = [None if chance.random() < 0.1 else "v" * chance.randrange(300) for _ in messages]
    publisher = await client.publisher(stream, max_in_flight=700)
    await publisher.publish(messages, filter_values=values, publishing_ids=range(10, 20010, 10))
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.in_flight, publisher.in_flight_bytes) == (2000, 0, 0)
    await publisher.close()
    assert list((await read(client, stream, 2000)).values()) == messages


async def test_a_value_counts_for_the_size(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    room = publisher.max_message_size - 2 - 5
    await publisher.publish([bytes(room)], filter_values=["value"])
    with pytest.raises(MessageTooLarge) as caught:
        await publisher.publish([b"x", bytes(room + 1)], filter_values=[None, "value"])
    assert caught.value.position == 1
    await publisher.flush(PATIENCE)
    assert publisher.confirmed == 1
    await publisher.close()


async def test_values_that_cannot_be(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    with pytest.raises(ValueError, match="1 filter values for 2 messages"):
        await publisher.publish([b"a", b"b"], filter_values=["x"])
    with pytest.raises(ValueError, match="at most 32767 bytes"):
        await publisher.publish([b"a"], filter_values=["x" * 32768])
    await publisher.publish([b"a"], filter_values=["x" * 32767])
    await publisher.flush(PATIENCE)
    assert publisher.confirmed == 1
    await publisher.close()


async def test_a_failed_message_keeps_its_value(client: Client, stream: str) -> None:
    outcomes: list[Outcome] = []
    publisher = await client.publisher(stream, listener=outcomes.append)
    inside.mute(publisher)  # nothing is confirmed
    await publisher.publish(bodies(3), filter_values=["a", None, "c"])
    await publisher.close(timeout=0)
    failed = [failure for outcome in outcomes for failure in outcome.failed]
    assert [failure.filter_value for failure in failed] == ["a", None, "c"]


class TestProducer:
    @pytest.mark.parametrize("kind", ["function", "coroutine function"])
    async def test_an_extractor(self, client: Client, stream: str, kind: str) -> None:
        def region(message: AMQPMessage) -> str | None:
            return (message.application_properties or {}).get("region")

        async def region_later(message: AMQPMessage) -> str | None:
            await asyncio.sleep(0)
            return region(message)

        extractor = region if kind == "function" else region_later
        producer = Producer(client=client, filter_value_extractor=extractor)
        for value in ("eu", "us", None):
            properties = {"region": value} if value else None
            messages = [AMQPMessage(body=f"{value} {n}", application_properties=properties) for n in range(9)]
            for message in messages[:3]:
                await producer.send(stream, message)
            await producer.send_batch(stream, messages[3:8])
            await producer.send_wait(stream, messages[8])
        await producer.close()
        found = [AMQPMessage.from_bytes(data).body for data in await delivered(client, stream, "us")]
        assert found == [f"{value} {n}".encode() for value in ("us", None) for n in range(9)]

    async def test_slow_values_do_not_change_the_order(self, client: Client, stream: str) -> None:
        chance = random.Random(3)

        async def slow(message: bytes) -> str | None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            return chance.choice([None, "x"])

        producer = Producer(client=client, filter_value_extractor=slow, batch_size=7)
        calls: list[Awaitable[object]] = []
        for number in range(300):
            body = str(number).encode()
            if number % 10 == 0:
                calls.append(producer.send_batch(stream, [body]))
            elif number % 25 == 0:
                calls.append(producer.send_wait(stream, body))
            else:
                calls.append(producer.send(stream, body))
        await asyncio.gather(*calls)
        await producer.close()
        assert list((await read(client, stream, 300)).values()) == bodies(300)

    async def test_an_extractor_that_raises_sends_nothing(self, client: Client, stream: str) -> None:
        def fail(message: bytes) -> str:
            if message == b"bad":
                raise LookupError("no value")
            return "x"

        producer = Producer(client=client, filter_value_extractor=fail)
        for call in (producer.send(stream, b"bad"), producer.send_batch(stream, [b"good", b"bad"])):
            with pytest.raises(LookupError):
                await call
        await producer.send(stream, b"good")
        await producer.close()
        assert list((await read(client, stream, 1)).values()) == [b"good"]

    async def test_sub_entries_cannot_have_values(self, client: Client, stream: str) -> None:
        producer = Producer(client=client, filter_value_extractor=lambda message: "x")
        with pytest.raises(ConfigurationError, match="sub-entry cannot carry filter values"):
            await producer.send_sub_entry(stream, [b"a"])
        await producer.close()

    @pytest.mark.parametrize("method", ["send", "send_batch", "send_wait"])
    async def test_a_broker_that_is_too_old(
        self, client: Client, stream: str, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        """No such broker is at hand everywhere: this one's list of versions is read as an old one's."""
        supports = Session.supports

        def old(session: Session, key: int, version: int = 1) -> bool:
            return supports(session, key, version) and (key, version) != (c.Key.PUBLISH, 2)

        monkeypatch.setattr(Session, "supports", old)
        producer = Producer(client=client, filter_value_extractor=lambda message: "x" if message == b"a" else None)
        call = getattr(producer, method)
        with pytest.raises(UnsupportedByBroker, match=r"filter values needs RabbitMQ 3\.13"):
            await call(stream, [b"a"] if method == "send_batch" else b"a")
        await call(stream, [b"b"] if method == "send_batch" else b"b")  # without a value it goes
        await producer.close()
        assert list((await read(client, stream, 1)).values()) == [b"b"]
