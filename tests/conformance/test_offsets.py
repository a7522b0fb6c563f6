"""Offsets: stored by the broker, and counted on this side."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import rstream_core.consuming.offset_questions
from rstream_core import (
    AlreadyClosed,
    Client,
    CompressionType,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    OffsetNotFound,
    OffsetType,
    RequestTimeout,
    StreamDoesNotExist,
)
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import Session
from tests import inside
from tests.clients import PATIENCE, at, bodies, publish, read


async def stored(client: Client, stream: str, reference: str, offset: int) -> None:
    """Stores an offset, and waits until it is there: nobody tells."""
    await client.store_offset(stream, reference, offset)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await client.query_offset(stream, reference) == offset:
                    return
            except OffsetNotFound:
                pass
            await asyncio.sleep(0.005)


async def test_store_and_query(client: Client, stream: str) -> None:
    with pytest.raises(OffsetNotFound, match=r"'reader' in stream 'test-"):
        await client.query_offset(stream, "reader")
    for offset in (0, 5, 3, 2**63):
        await stored(client, stream, "reader", offset)
    await stored(client, stream, "ü" * 127, 7)
    assert await client.query_offset(stream, "reader") == 2**63
    with pytest.raises(OffsetNotFound):
        await client.query_offset(stream, "another")


@pytest.mark.parametrize("offset", [-1, 2**64])
async def test_an_offset_that_cannot_be(client: Client, stream: str, offset: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        await client.store_offset(stream, "reader", offset)
    with pytest.raises(OffsetNotFound):
        await client.query_offset(stream, "reader")


async def test_consumer_store_and_query(arguments: dict[str, Any], client: Client, stream: str) -> None:
    async with Consumer(**arguments) as consumer:
        await consumer.store_offset(stream, "reader", 41)
        await consumer.store_offset(stream=stream, offset=42, subscriber_name="reader")
    await stored(client, stream, "other", 1)
    async with Consumer(**arguments) as consumer:
        assert await consumer.query_offset(stream, "reader") == 42
        with pytest.raises(OffsetNotFound):
            await consumer.query_offset(stream=stream, subscriber_name="nobody")
    with pytest.raises(AlreadyClosed):
        await consumer.query_offset(stream, "reader")


async def test_storing_in_an_unknown_stream_is_silent(client: Client, stream: str, stream_name: str) -> None:
    await client.store_offset(f"{stream_name}-not-there", "reader", 1)
    await stored(client, stream, "reader", 1)


# Where a stream ends.


async def test_an_empty_stream(client: Client, stream: str) -> None:
    assert await client.last_offset(stream) is None
    assert await client.tail_offset(stream, 0) is None
    assert await client.tail_offset(stream, 10) is None


async def test_a_stream_that_holds_only_stored_offsets(client: Client, stream: str) -> None:
    await stored(client, stream, "reader", 1)
    await stored(client, stream, "reader", 2)
    assert await client.last_offset(stream) is None
    assert await client.tail_offset(stream, 10) is None


async def test_without_gaps(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10), bodies(5), bodies(1))
    assert await client.last_offset(stream) == 15
    for count in range(20):
        assert await client.tail_offset(stream, count) == max(0, 16 - count)


async def test_with_stored_offsets_in_between(client: Client, stream: str) -> None:
    """Each stored offset takes an offset of the stream."""
    present: list[int] = []
    for number in range(12):
        size = number % 3 + 1
        publisher = await client.publisher(stream)
        await publisher.publish(bodies(size, f"{number}-"))
        await publisher.close()
        last = await client.last_offset(stream)
        assert last is not None
        present += range(last - size + 1, last + 1)
        for reference in range(number % 4):
            await stored(client, stream, f"reader-{reference}", number)
        assert await client.last_offset(stream) == last
        for count in (1, 2, len(present), len(present) + 1, len(present) // 2 + 1):
            assert await client.tail_offset(stream, count) == present[max(0, len(present) - count)]
    assert present[-1] + 1 > len(present), "the stream has no gaps: the test tests nothing"
    assert list(await read(client, stream, len(present))) == present


async def test_the_tail_starts_inside_a_sub_entry(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish_sub_entry(bodies(100), CompressionType.Gzip)
    await publisher.flush(PATIENCE)
    await stored(client, stream, "reader", 1)
    await publisher.publish_sub_entry(bodies(100), CompressionType.Gzip)
    await publisher.close()
    last = await client.last_offset(stream)
    assert last is not None
    assert last >= 200
    start = await client.tail_offset(stream, 130)
    assert start == 70
    assert len(await read(client, stream, 130, at(start))) == 130


async def test_a_tail_of_many_chunks(client: Client, stream: str) -> None:
    await publish(client, stream, *[bodies(1 + number % 7) for number in range(300)])
    total = sum(1 + number % 7 for number in range(300))
    assert await client.last_offset(stream) == total - 1
    for count in (1, 100, 700, total - 1, total, total + 1, 10**9):
        assert await client.tail_offset(stream, count) == max(0, total - count)


async def test_while_somebody_publishes(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish(bodies(100))
    await publisher.flush(PATIENCE)
    running = True

    async def go_on() -> None:
        while running:
            await publisher.publish(bodies(10))
            await asyncio.sleep(0)

    task = asyncio.create_task(go_on())
    seen = []
    for _ in range(20):
        end = await client.last_offset(stream)
        start = await client.tail_offset(stream, 50)
        assert end is not None
        assert start is not None
        assert start >= end - 49
        seen.append(end)
    running = False
    await task
    await publisher.close()
    assert seen == sorted(seen)
    assert await client.last_offset(stream) == publisher.confirmed - 1


@pytest.mark.parametrize("told", [True, False], ids=["told by the broker", "seen by subscribing"])
async def test_resolving(client: Client, stream: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not told:
        monkeypatch.setattr(Session, "supports", lambda self, key, version=1: key != c.Key.RESOLVE_OFFSET_SPEC)
    specs = [
        (ConsumerOffsetSpecification(OffsetType.FIRST), 0),
        (ConsumerOffsetSpecification(OffsetType.LAST), 3),
        (ConsumerOffsetSpecification(OffsetType.NEXT), 5),
        (ConsumerOffsetSpecification(OffsetType.OFFSET, 1), 1),
        (ConsumerOffsetSpecification(OffsetType.OFFSET, 4), 4),
        (ConsumerOffsetSpecification(OffsetType.OFFSET, 90), 90),
        (ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 0), 0),
        (ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 2**42), 5),
    ]
    for spec, offset in specs:
        empty = offset if spec.offset_type is OffsetType.OFFSET else 0
        assert await client.resolve_offset(stream, spec) == empty
    await publish(client, stream, bodies(3), bodies(2))
    for spec, offset in specs:
        assert await client.resolve_offset(stream, spec) == offset, spec
    with pytest.raises(StreamDoesNotExist):
        await client.resolve_offset("missing", specs[0][0])


async def test_storing_with_a_look_at_what_is_stored(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(client, stream, bodies(3))
    await client.store_offset(stream, "reader", 2, verify_timeout=PATIENCE)
    assert await client.query_offset(stream, "reader") == 2

    async def lost(*_: object) -> int:
        return 1

    monkeypatch.setattr(rstream_core.consuming.offset_questions, "stored_offset", lost)
    with pytest.raises(RequestTimeout, match=r"offset 3 does not show .*: the broker has offset 1 under 'reader'"):
        await client.store_offset(stream, "reader", 3, verify_timeout=0.1)


async def test_where_a_chunk_lies(client: Client, stream: str) -> None:
    last, next_ = (ConsumerOffsetSpecification(kind) for kind in (OffsetType.LAST, OffsetType.NEXT))
    assert [await client.chunk_span(stream, spec) for spec in (at(0), last, next_)] == [None, None, None]
    began = time.time()
    await publish(client, stream, bodies(10))
    await stored(client, stream, "reader", 4)  # takes an offset between the chunks
    await publish(client, stream, bodies(5))
    ended = time.time()
    end = await client.chunk_span(stream, last)
    assert end is not None
    assert (end.last, end.last - end.first) == (await client.last_offset(stream), 4)
    first = await client.chunk_span(stream, at(3))
    assert first is not None
    assert (first.first, first.last) == (3, 9)
    assert began - 0.1 <= first.timestamp / 1000 <= end.timestamp / 1000 <= ended + 0.1
    assert await client.chunk_span(stream, at(10)) == end
    assert await client.chunk_span(stream, at(end.last)) == end._replace(first=end.last)
    assert await client.chunk_span(stream, at(end.last + 1)) is None
    assert await client.chunk_span(stream, next_) is None
    with pytest.raises(StreamDoesNotExist):
        await client.chunk_span("no such stream", last)


async def test_a_large_chunk_lies_where_all_its_pieces_do(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish_sub_entry([b"x" * 3_000_000] * 3, CompressionType.Gzip)
    await publisher.flush(PATIENCE)
    await publisher.close()
    end = await client.chunk_span(stream, ConsumerOffsetSpecification(OffsetType.LAST))
    assert end is not None
    assert (end.first, end.last) == (0, 2)
    found = await client.chunk_span(stream, at(1))
    assert found == end._replace(first=1)


async def test_connections_of_questions_are_kept_for_the_idle_timeout(options: ConnectionOptions, stream: str) -> None:
    async with Client(options, idle_timeout=0.2) as client:
        pool = inside.consuming(client)
        await publish(client, stream, bodies(3))
        await client.last_offset(stream)
        (kept,) = pool.connections
        for _ in range(5):
            assert await client.last_offset(stream) == 2
            assert pool.connections == [kept]
        subscription = await client.subscribe(stream, at(0), at_leader=True)
        await asyncio.sleep(0.4)  # it is not idle meanwhile
        assert inside.connection(subscription) is kept
        await subscription.close()
        assert kept.is_open
        async with asyncio.timeout(PATIENCE):
            while kept.is_open or pool.connections:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert inside.shared(pool) == {}
        assert await client.last_offset(stream) == 2
        (other,) = pool.connections
        assert other is not kept
    assert not other.is_open


async def test_a_kept_connection_that_is_lost_is_not_used(options: ConnectionOptions, stream: str) -> None:
    async with Client(options, idle_timeout=60) as client:
        pool = inside.consuming(client)
        await client.last_offset(stream)
        (kept,) = pool.connections
        kept.abort()
        assert await client.last_offset(stream) is None
        (other,) = pool.connections
        assert other is not kept
