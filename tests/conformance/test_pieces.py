"""Chunks that unpack to much are handed out piece by piece, and everything holds that holds for a chunk."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from rstream_core import (
    Chunk,
    ChunkError,
    Client,
    CompressionType,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    SingleActiveConsumer,
    Subscription,
    Subscriptions,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.bombs import MB, publish_sub_entries, sub_entry
from tests.clients import FIRST, PATIENCE, at, bodies, eventually, publish

LARGE = [bytes([number]) * MB for number in range(8)]
"""One sub-entry in eight pieces."""
LAST = ConsumerOffsetSpecification(OffsetType.LAST)


async def chunks(subscription: Subscription | Subscriptions, count: int) -> list[Chunk]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(subscription) for _ in range(count)]


async def test_pieces_follow_one_another(options: ConnectionOptions, client: Client, stream: str) -> None:
    small = bodies(5)
    await publish_sub_entries(options, stream, [sub_entry(LARGE)])
    await publish(client, stream, small)
    async with await client.subscribe(stream, FIRST) as subscription:
        found = await chunks(subscription, 9)
    assert [(chunk.offset, chunk.messages) for chunk in found[:8]] == [
        (number, [message]) for number, message in enumerate(LARGE)
    ]
    assert (found[8].offset, found[8].messages) == (8, small)
    assert len({(chunk.timestamp, chunk.committed_chunk_id) for chunk in found[:8]}) == 1


async def test_the_loop_goes_on_between_pieces(options: ConnectionOptions, client: Client, stream: str) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE), sub_entry(LARGE)])
    loop, turns, counting = asyncio.get_running_loop(), 0, True

    def count() -> None:
        nonlocal turns
        turns += 1
        if counting:
            loop.call_soon(count)

    try:
        async with asyncio.timeout(PATIENCE), await client.subscribe(stream, FIRST) as subscription:
            count()
            for read in (subscription.__anext__, Subscriptions([subscription]).__anext__, subscription.next_there_is):
                await read()
                for _ in range(3):
                    before = turns
                    assert await read() is not None
                    assert turns > before
    finally:
        counting = False


async def test_the_credit_goes_back_after_the_last_piece(
    options: ConnectionOptions, client: Client, stream: str
) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE)])
    await publish(client, stream, bodies(5))
    async with await client.subscribe(stream, FIRST, credit=1) as subscription:
        for number in range(8):
            (chunk,) = await chunks(subscription, 1)
            assert chunk.offset == number
            await client.stream_exists(stream)  # a round trip, and one on the subscription's connection
            await subscription.barrier()
            assert not inside.undelivered(subscription)
            assert not await subscription.nothing_to_come()
            subscription.finish()
            if number < 7:
                await inside.round_trip(subscription)
                assert not inside.undelivered(subscription)
        await eventually(lambda: len(inside.undelivered(subscription)) == 1)
        (chunk,) = await chunks(subscription, 1)
        assert (chunk.offset, chunk.messages) == (8, bodies(5))


@pytest.mark.parametrize("start", [0, 1, 7, 8, 12])
async def test_start_inside(options: ConnectionOptions, client: Client, stream: str, start: int) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE), sub_entry(LARGE)])
    async with await client.subscribe(stream, at(start)) as subscription:
        found = await chunks(subscription, 16 - start)
    assert [(chunk.offset, chunk.messages) for chunk in found] == [
        (number, [LARGE[number % 8]]) for number in range(start, 16)
    ]


async def test_where_a_stream_ends(options: ConnectionOptions, client: Client, stream: str) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE)])
    assert await client.last_offset(stream) == 7
    assert await client.tail_offset(stream, 3) == 5
    assert await client.tail_offset(stream, 100) == 0
    assert await client.resolve_offset(stream, LAST) == 0
    assert await client.resolve_offset(stream, at(5)) == 5


async def test_a_cancelled_wait_loses_no_piece(options: ConnectionOptions, client: Client, stream: str) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE)])
    found: list[int] = []
    async with await client.subscribe(stream, FIRST) as subscription:
        await eventually(lambda: len(inside.undelivered(subscription)) == 1)
        async with asyncio.timeout(PATIENCE):
            while len(found) < 8:
                try:
                    async with asyncio.timeout(0):  # over before anything is there
                        found.append((await anext(subscription)).offset)
                except TimeoutError:
                    pass
    assert found == list(range(8))


async def test_asking_for_the_next_piece_finishes_the_one_before(
    options: ConnectionOptions, client: Client, stream: str
) -> None:
    """Also where that is cancelled before it is there."""
    await publish_sub_entries(options, stream, [sub_entry(LARGE)])
    async with await client.subscribe(stream, FIRST) as subscription:
        for number in range(3):
            await chunks(subscription, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(subscription)
            assert subscription.processed == number


async def test_a_chunk_that_is_broken_further_on(options: ConnectionOptions, client: Client, stream: str) -> None:
    good = sub_entry(LARGE)
    await publish_sub_entries(options, stream, [good, good._replace(data=good.data[:-9] + b"?" * 9), good])
    async with await client.subscribe(stream, FIRST) as subscription:
        found = await chunks(subscription, 8)
        assert [chunk.messages for chunk in found] == [[message] for message in LARGE]
        for _ in range(2):
            with pytest.raises(ChunkError, match="cannot be unpacked"):
                await chunks(subscription, 1)
        assert subscription.processed == 7


async def test_callbacks_and_iterators_of_messages(options: ConnectionOptions, client: Client, stream: str) -> None:
    await publish_sub_entries(options, stream, [sub_entry(LARGE, CompressionType.Gzip)])
    found: list[tuple[int, bytes]] = []
    async with Consumer(client=client) as consumer:

        async def on_message(message: bytes, context: MessageContext) -> None:
            await asyncio.sleep(0)
            found.append((context.offset, message))

        await consumer.subscribe(stream, on_message)
        await eventually(lambda: len(found) == 8)
        assert found == list(enumerate(LARGE))
        found.clear()
        async with aclosing(consumer.messages(stream)) as messages:
            async for message, context in messages:
                found.append((context.offset, message))
                if len(found) == 8:
                    break
    assert found == list(enumerate(LARGE))


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_turn_ends_between_two_pieces(
    options: ConnectionOptions, client: Client, super_stream: str, is_held: bool
) -> None:
    """The next consumer of the group goes on with the next piece, and the first one drops it."""
    partition = f"{super_stream}-1"  # which goes to the second of two consumers
    await publish_sub_entries(options, partition, [sub_entry(LARGE)])
    turns: list[bool] = []

    async def on_turn(subscription: Subscription, active: bool) -> None:
        turns.append(active)
        if not active and subscription.processed is not None:
            await client.store_offset(partition, "group", subscription.processed, verify_timeout=PATIENCE)

    first = await client.subscribe(
        partition, FIRST, credit=1, single_active=SingleActiveConsumer("group", super_stream, on_turn)
    )
    assert [chunk.offset for chunk in await chunks(first, 3)] == [0, 1, 2]
    if not is_held:
        first.finish()
    async with Client(options) as other:
        second = await other.subscribe(partition, FIRST, single_active=SingleActiveConsumer("group", super_stream))
        await eventually(lambda: not first.active)
        assert first.poll() is None  # finishes the third piece
        assert [chunk.offset for chunk in await chunks(second, 5)] == [3, 4, 5, 6, 7]
        second.finish()
        await other.store_offset(partition, "group", 7, verify_timeout=PATIENCE)
        await second.close()
    await eventually(lambda: first.active)
    assert turns == [True, False, True]
    assert first.poll() is None
    await publish(client, partition, bodies(2), bodies(2), bodies(2))
    await eventually(lambda: len(inside.undelivered(first)) == 1)
    await inside.round_trip(first)
    assert len(inside.undelivered(first)) == 1  # within its credit
    (chunk,) = await chunks(first, 1)
    assert (chunk.offset, chunk.messages) == (chunk.offset, bodies(2))
    assert chunk.offset > 7
    await first.close()


async def test_more_credit_than_one_frame_holds(client: Client, stream: str) -> None:
    """RabbitMQ 4.3 reads the credit of a Credit with a sign: 40,000 would stall the subscription without a word."""
    await publish(client, stream, bodies(3), bodies(2))
    async with await client.subscribe(stream, FIRST, credit=1) as subscription:
        assert (await chunks(subscription, 1))[0].messages == bodies(3)
        inside.owe(subscription, 40_000)  # as after many chunks of which nothing was wanted, with such a credit
        assert (await chunks(subscription, 1))[0].messages == bodies(2)
    async with await client.subscribe(stream, FIRST, credit=40_000) as subscription:
        assert [chunk.offset for chunk in await chunks(subscription, 2)] == [0, 3]


async def test_a_credit_is_split(client: Client, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await client.subscribe(stream, FIRST, credit=10) as subscription:
        sent: list[c.Credit] = []
        monkeypatch.setattr(inside.connection(subscription), "send", sent.append)
        inside.owe(subscription, 70_000)
        subscription.finish()
        monkeypatch.undo()
    assert [message.credit for message in sent] == [32_767, 32_767, 4466]
