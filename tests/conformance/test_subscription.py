"""One subscription, by the chunk: where it starts, what it holds back, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from rstream_core import (
    Chunk,
    Client,
    CompressionType,
    ConsumerOffsetSpecification,
    OffsetType,
    SubscriptionIDAlreadyExists,
)
from rstream_core.consuming.subscription import Subscription
from rstream_core.protocol.commands import Credit
from tests import inside
from tests.clients import FIRST, PATIENCE, at, bodies, eventually, publish, read, take

LAST = ConsumerOffsetSpecification(OffsetType.LAST)
NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)


async def quiet(subscription: Subscription, seconds: float = 0.15) -> bool:
    """Whether nothing comes for a while."""
    try:
        async with asyncio.timeout(seconds):
            await anext(subscription)
    except TimeoutError:
        return True
    return False


async def test_chunks(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3), bodies(2, "x"))
    before = time.time() * 1000
    async with await client.subscribe(stream, FIRST) as subscription:
        first, second = await anext(subscription), await anext(subscription)
    assert isinstance(first, Chunk)
    assert (first.stream, first.offset, first.last_offset, first.messages) == (stream, 0, 2, bodies(3))
    assert (second.offset, second.last_offset, second.messages) == (3, 4, bodies(2, "x"))
    assert before - 60_000 < first.timestamp <= second.timestamp < before + 60_000
    assert first.committed_chunk_id == second.committed_chunk_id == 3


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4])
async def test_start_at_an_offset(client: Client, stream: str, offset: int) -> None:
    await publish(client, stream, [b"0", b"1", b"2"], [b"3", b"4"])
    async with await client.subscribe(stream, at(offset)) as subscription:
        chunk = await anext(subscription)
        found = dict(enumerate(chunk.messages, chunk.offset))
        if offset < 3:
            found |= await take(subscription, 2)
    assert found == {number: str(number).encode() for number in range(offset, 5)}


@pytest.mark.parametrize("compression", [CompressionType.No, CompressionType.Zstd])
async def test_start_inside_a_sub_entry(client: Client, stream: str, compression: CompressionType) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish_sub_entry(bodies(100), compression)
    await publisher.publish_sub_entry(bodies(100, "second "), compression)
    await publisher.close()
    found = await read(client, stream, 60, at(140))
    assert found == {offset: f"second {offset - 100}".encode() for offset in range(140, 200)}


async def test_start_beyond_the_end(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    async with await client.subscribe(stream, at(5)) as subscription:
        assert not await subscription.barrier()
        await publish(client, stream, bodies(4, "later "))
        # The broker takes an offset beyond the end as "next", in the same chunk or not: 3 and 4 are dropped here.
        assert await take(subscription, 2) == {5: b"later 2", 6: b"later 3"}


async def test_first_last_and_next(client: Client, stream: str) -> None:
    await publish(client, stream, [b"0", b"1"], [b"2", b"3"])
    assert await read(client, stream, 4, FIRST) == {0: b"0", 1: b"1", 2: b"2", 3: b"3"}
    assert await read(client, stream, 2, LAST) == {2: b"2", 3: b"3"}
    async with await client.subscribe(stream, NEXT) as subscription:
        assert not await subscription.barrier()
        await publish(client, stream, [b"4"])
        assert await take(subscription, 1) == {4: b"4"}


async def test_start_at_a_time(client: Client, stream: str) -> None:
    stamps = []
    for batch in ([b"0"], [b"1", b"2"], [b"3"]):
        await publish(client, stream, batch)
        await asyncio.sleep(0.01)
    async with await client.subscribe(stream, FIRST) as subscription:
        for _ in range(3):
            chunk = await anext(subscription)
            stamps.append((chunk.timestamp, chunk.offset))
    for stamp, offset in stamps:
        for moment in (stamp, stamp - 1):
            async with await client.subscribe(
                stream, ConsumerOffsetSpecification(OffsetType.TIMESTAMP, moment)
            ) as subscription:
                assert (await anext(subscription)).offset == offset
    past = ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 0)
    assert len(await read(client, stream, 4, past)) == 4
    future = ConsumerOffsetSpecification(OffsetType.TIMESTAMP, int(time.time() * 1000) + 3_600_000)
    async with await client.subscribe(stream, future) as subscription:
        assert not await subscription.barrier()


async def test_offsets_that_cannot_be() -> None:
    for kind, offset in ((OffsetType.OFFSET, None), (OffsetType.TIMESTAMP, None), (OffsetType.OFFSET, -1)):
        with pytest.raises(ValueError, match="offset"):
            ConsumerOffsetSpecification(kind, offset)


@pytest.mark.parametrize("credit", [0, -1, 65536])
async def test_credit_that_cannot_be(client: Client, stream: str, credit: int) -> None:
    with pytest.raises(ValueError, match="credit"):
        await client.subscribe(stream, FIRST, credit=credit)


async def test_barrier(client: Client, stream: str) -> None:
    async with await client.subscribe(stream, FIRST) as subscription:
        assert not await subscription.barrier()
        await publish(client, stream, bodies(1))
        await take(subscription, 1)
        assert await subscription.barrier()
    for _ in range(30):
        async with await client.subscribe(stream, FIRST) as subscription:
            assert await subscription.barrier()
        async with await client.subscribe(stream, NEXT) as subscription:
            assert not await subscription.barrier()


# Credits.


async def test_one_credit_is_one_chunk_ahead(client: Client, stream: str) -> None:
    await publish(client, stream, *[[body] for body in bodies(10)])
    async with await client.subscribe(stream, FIRST, credit=1) as subscription:
        await eventually(lambda: len(inside.undelivered(subscription)) == 1)
        for number in range(10):
            assert (await anext(subscription)).messages == [str(number).encode()]
            await asyncio.sleep(0.005)
            assert not inside.undelivered(subscription)  # the credit goes back when the next one is asked for


@pytest.mark.parametrize("credit", [1, 2, 10])
async def test_a_slow_reader_holds_the_broker_back(client: Client, stream: str, credit: int) -> None:
    batches = 60
    await publish(client, stream, *[[body] for body in bodies(batches)])
    highest = 0
    async with await client.subscribe(stream, FIRST, credit=credit) as subscription:
        await eventually(lambda: len(inside.undelivered(subscription)) >= credit)
        for number in range(batches):
            if number % 20 == 0:
                await asyncio.sleep(0.05)
            highest = max(highest, len(inside.undelivered(subscription)))
            chunk = await anext(subscription)
            assert chunk.offset == number
        assert highest == credit


async def test_each_chunk_gives_one_credit_back(client: Client, stream: str) -> None:
    """Also one of which nothing is wanted."""
    sent: list[int] = []
    await publish(client, stream, *[[body] for body in bodies(20)])
    subscription = await client.subscribe(stream, at(0), credit=3)
    connection = inside.connection(subscription)
    send = connection.send

    def watching(message: object, **how: int) -> None:
        if isinstance(message, Credit):
            sent.append(message.credit)
        send(message, **how)

    connection.send = watching  # type: ignore[method-assign]
    inside.want_from(subscription, 19)  # as if the broker began 19 chunks too early
    assert (await anext(subscription)).messages == [b"19"]
    assert sum(sent) == 19
    assert await quiet(subscription)
    assert sum(sent) == 20
    await subscription.close()


@pytest.mark.parametrize(("credit", "half"), [(1, 1), (2, 1), (3, 1), (10, 5), (11, 5)])
async def test_credits_are_given_back_in_halves(
    client: Client, stream: str, credit: int, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that the broker may send ahead: so it always has some, and a frame gives back several."""
    sent: list[int] = []
    await publish(client, stream, *[[body] for body in bodies(40)])
    async with await client.subscribe(stream, FIRST, credit=credit) as subscription:
        connection = inside.connection(subscription)
        send = connection.send

        def watching(message: object, **how: int) -> None:
            if isinstance(message, Credit):
                sent.append(message.credit)
            send(message, **how)

        monkeypatch.setattr(connection, "send", watching)
        assert len(await take(subscription, 40)) == 40
        subscription.finish()
        assert sent == [half] * (40 // half)
        assert sum(sent) + inside.owed(subscription) == 40
        monkeypatch.undo()


async def test_a_cancelled_wait_loses_nothing(client: Client, stream: str) -> None:
    async with await client.subscribe(stream, FIRST) as subscription:
        found: list[bytes] = []
        task = asyncio.create_task(publish(client, stream, *[[body] for body in bodies(50)]))
        while len(found) < 50:
            try:
                async with asyncio.timeout(0.0005):
                    found.append((await anext(subscription)).messages[0])
            except TimeoutError:
                continue
        await task
    assert found == bodies(50)


# Ends.


async def test_close_ends_an_iteration_that_waits(client: Client, stream: str) -> None:
    subscription = await client.subscribe(stream, NEXT)

    async def wait() -> list[Chunk]:
        return [chunk async for chunk in subscription]

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.02)
    await subscription.close()
    assert await asyncio.wait_for(task, PATIENCE) == []
    await subscription.close()
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_nothing_comes_after_close(client: Client, stream: str) -> None:
    await publish(client, stream, *[[body] for body in bodies(20)])
    subscription = await client.subscribe(stream, FIRST)
    await anext(subscription)
    await subscription.close()
    assert not inside.undelivered(subscription)
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_300_subscriptions(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    subscriptions = await asyncio.gather(*(client.subscribe(stream, FIRST) for _ in range(300)))
    connections = Counter(inside.connection(subscription) for subscription in subscriptions)
    assert sorted(connections.values()) == [44, 256]
    for subscription in subscriptions:
        assert (await anext(subscription)).messages == bodies(3)
    await asyncio.gather(*(subscription.close() for subscription in subscriptions))
    assert not any(connection.is_open for connection in connections)


async def test_an_id_is_used_again(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    keeper = await client.subscribe(stream, NEXT)
    for _ in range(20):
        async with await client.subscribe(stream, FIRST, credit=1) as subscription:
            assert subscription.id == keeper.id + 1
            assert (await anext(subscription)).messages == bodies(3)
    await keeper.close()


async def test_a_refused_subscription_leaves_nothing_behind(client: Client, stream: str) -> None:
    keeper = await client.subscribe(stream, NEXT)
    connection = inside.connection(keeper)
    shared = next(iter(inside.shared(inside.consuming(client)).values()))[0]
    shared.ids.clear()  # so that the id in use is given out again
    with pytest.raises(SubscriptionIDAlreadyExists):
        await client.subscribe(stream, FIRST)
    await connection.close()


async def test_damaged_data_is_an_error_and_the_id_can_be_used_again(client: Client, stream: str) -> None:
    keeper = await client.subscribe(stream, NEXT)
    subscription = await client.subscribe(stream, NEXT)
    inside.deliver(subscription, b"no chunk")
    with pytest.raises(Exception, match="shorter than its header"):
        await anext(subscription)
    await subscription.close()
    again = await client.subscribe(stream, NEXT)
    assert again.id == subscription.id
    await again.close()
    await keeper.close()


async def test_large_chunks(client: Client, stream: str) -> None:
    """A Deliver may be larger than the frame size that was agreed on."""
    publisher = await client.publisher(stream)
    messages = [bytes([number]) * 700_000 for number in range(12)]
    await asyncio.gather(*(publisher.publish([message]) for message in messages))
    await publisher.close()
    assert list((await read(client, stream, 12)).values()) == messages


async def test_a_credit_that_later_brokers_may_refuse(
    client: Client, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """These grant it. It is told once."""
    await publish(client, stream, *(bodies(1) for _ in range(250)))
    async with await client.subscribe(stream, FIRST, credit=200):
        assert caplog.messages == []
    for credit in (201, 400):
        async with await client.subscribe(stream, FIRST, credit=credit) as subscription:
            await eventually(lambda: len(inside.undelivered(subscription)) == min(credit, 250))  # noqa: B023
            assert len(await take(subscription, 250)) == 250
    assert caplog.messages == [
        "a credit of 201: RabbitMQ 4.3 grants it, later versions may refuse more than 200 chunks"
        " (stream.max_credit_chunks)"
    ]
