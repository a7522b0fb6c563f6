"""Creating, deleting and describing streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfigurationError,
    Consumer,
    PreconditionFailed,
    Producer,
    StreamAlreadyExists,
    StreamDoesNotExist,
    StreamStats,
)
from tests.clients import FIRST, PATIENCE, names_of, publish


async def test_create_and_delete(client: Client, stream_name: str) -> None:
    assert not await client.stream_exists(stream_name)
    await client.create_stream(stream_name)
    assert await client.stream_exists(stream_name)
    await client.delete_stream(stream_name)
    assert not await client.stream_exists(stream_name)


async def test_line_breaks_are_left_out_of_names(client: Client, stream_name: str) -> None:
    name = f"{stream_name[:3]}\n{stream_name[3:]}\r\n"
    await client.create_stream(name)
    assert await client.stream_exists(stream_name)
    assert not await client.stream_exists(name)
    with pytest.raises(StreamAlreadyExists):
        await client.create_stream(stream_name)
    await client.delete_stream(stream_name)


async def test_create_what_exists(client: Client, stream: str) -> None:
    with pytest.raises(StreamAlreadyExists, match=stream):
        await client.create_stream(stream)
    await client.create_stream(stream, exists_ok=True)


async def test_other_arguments_are_told_from_an_existing_stream(client: Client, stream_name: str) -> None:
    await client.create_stream(stream_name, {"max-age": "1h", "max-length-bytes": 1_000_000})
    await client.create_stream(stream_name, {"max-length-bytes": "1000000", "max-age": "1h"}, exists_ok=True)
    for arguments in ({"max-age": "2h", "max-length-bytes": 1_000_000}, {"max-age": "1h"}):
        with pytest.raises(PreconditionFailed, match=stream_name):
            await client.create_stream(stream_name, arguments, exists_ok=True)
    await client.delete_stream(stream_name)


ARGUMENTS = {
    "max-length-bytes": 10_000_000,
    "max-age": "7D",
    "stream-max-segment-size-bytes": 1_000_000,
    "initial-cluster-size": 1,
    "queue-leader-locator": "client-local",
    "stream-filter-size-bytes": 32,
}


async def test_every_argument(client: Client, stream_name: str) -> None:
    """Is kept: the same ones are no other stream."""
    await client.create_stream(stream_name, ARGUMENTS)
    await client.create_stream(stream_name, ARGUMENTS, exists_ok=True)
    with pytest.raises(StreamAlreadyExists):
        await client.create_stream(stream_name, ARGUMENTS)
    await client.delete_stream(stream_name)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("max-length-bytes", 10_000_001),
        ("max-age", "8D"),
        ("stream-max-segment-size-bytes", 1_000_001),
        ("initial-cluster-size", 3),
        ("queue-leader-locator", "balanced"),
        ("stream-filter-size-bytes", 33),
    ],
)
async def test_each_argument_counts(client: Client, stream_name: str, name: str, other: object) -> None:
    """Another value, and none, make another stream."""
    await client.create_stream(stream_name, ARGUMENTS)
    without = {key: value for key, value in ARGUMENTS.items() if key != name}
    for arguments in ({**ARGUMENTS, name: other}, without):
        with pytest.raises(PreconditionFailed, match=stream_name):
            await client.create_stream(stream_name, arguments, exists_ok=True)
    await client.delete_stream(stream_name)


@pytest.mark.parametrize(("age", "same"), [("24h", "1D"), ("120m", "2h"), ("60s", "1m"), ("30D", "1M"), ("365D", "1Y")])
async def test_an_age_is_a_time(client: Client, stream_name: str, age: str, same: str) -> None:
    """However it is written."""
    await client.create_stream(stream_name, {"max-age": age})
    await client.create_stream(stream_name, {"max-age": same}, exists_ok=True)
    with pytest.raises(PreconditionFailed):
        await client.create_stream(stream_name, {"max-age": f"1{age}"}, exists_ok=True)
    await client.delete_stream(stream_name)


async def test_an_argument_that_cannot_be(client: Client, stream_name: str) -> None:
    with pytest.raises(PreconditionFailed):
        await client.create_stream(stream_name, {"queue-leader-locator": "nowhere"})
    assert not await client.stream_exists(stream_name)


async def test_names_are_any_unicode(client: Client, stream_name: str) -> None:
    name = f"ü€𝄞 / {stream_name}"
    await client.create_stream(name)
    await publish(client, name, [b"x"])
    assert await client.last_offset(name) == 0
    await client.delete_stream(name)


async def test_delete_what_is_missing(client: Client, stream_name: str) -> None:
    with pytest.raises(StreamDoesNotExist, match=stream_name):
        await client.delete_stream(stream_name)
    await client.delete_stream(stream_name, missing_ok=True)


async def test_producer_and_consumer_do_the_same(arguments: dict[str, Any], stream_name: str) -> None:
    async with Producer(**arguments) as producer, Consumer(**arguments) as consumer:
        await producer.create_stream(stream_name)
        assert await consumer.stream_exists(stream_name)
        await consumer.create_stream(stream_name, exists_ok=True)
        with pytest.raises(StreamAlreadyExists):
            await consumer.create_stream(stream_name)
        await consumer.delete_stream(stream_name)
        assert not await producer.stream_exists(stream_name)
        await producer.delete_stream(stream_name, missing_ok=True)
        await producer.create_stream(stream_name, {"max-age": "1h"})
        await producer.delete_stream(stream_name)


UNKNOWN: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "metadata": lambda client, name: client.metadata(name),
    "publishing": lambda client, name: client.publisher(name),
    "publishing with a name": lambda client, name: client.publisher(name, "reference"),
    "subscribing": lambda client, name: client.subscribe(name, FIRST),
    "statistics": lambda client, name: client.stats(name),
    "query_offset": lambda client, name: client.query_offset(name, "reference"),
    "last_offset": lambda client, name: client.last_offset(name),
    "tail_offset": lambda client, name: client.tail_offset(name, 1),
    "sending": lambda client, name: Producer(client=client).send(name, b"x"),
    "sending a batch": lambda client, name: Producer(client=client).send_batch(name, [b"x"]),
    "sending and waiting": lambda client, name: Producer(client=client).send_wait(name, b"x"),
    "sending a sub-entry": lambda client, name: Producer(client=client).send_sub_entry(name, [b"x"]),
    "a callback": lambda client, name: Consumer(client=client).subscribe(name, lambda *_: None),
    "iterating": lambda client, name: anext(aiter(Consumer(client=client).messages(name))),
    "iterating chunks": lambda client, name: anext(aiter(Consumer(client=client).chunks(name))),
}


@pytest.mark.parametrize("doing", UNKNOWN)
async def test_an_unknown_stream(client: Client, stream_name: str, doing: str) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StreamDoesNotExist, match=stream_name):
            await UNKNOWN[doing](client, stream_name)


async def test_metadata(client: Client, stream: str) -> None:
    found = await client.metadata(stream)
    assert found.stream == stream
    assert found.leader in names_of(client.options.endpoints[0])
    assert found.replicas == ()


async def test_stats(client: Client, stream: str) -> None:
    assert await client.stats(stream) == StreamStats(None, None)
    await publish(client, stream, [b"a", b"b"], [b"c", b"d", b"e"])
    stats = await client.stats(stream)
    assert (stats.first_offset, stats.committed_chunk_id) == (0, 2)
    assert stats.last_chunk_id in (None, 2)
    assert stats.committed_offset in (None, 4)


async def test_a_name_that_cannot_be_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        await client.create_stream("not\udcffunicode")
    with pytest.raises(ValueError, match="at most 255 bytes, not 32768"):
        await client.create_stream("x" * 32768)
    assert not await client.stream_exists("still there?")


async def test_many_questions_at_once(client: Client, stream: str) -> None:
    names = [stream if number % 2 else f"{stream}-{number}" for number in range(200)]
    answers = await asyncio.gather(*map(client.stream_exists, names))
    assert answers == [bool(number % 2) for number in range(200)]


@pytest.mark.parametrize("reference", ["", "x" * 256, "ü" * 128])
async def test_a_reference_takes_1_to_255_bytes(client: Client, stream: str, reference: str) -> None:
    for call in (
        client.publisher(stream, reference),
        client.store_offset(stream, reference, 1),
        client.query_offset(stream, reference),
    ):
        with pytest.raises(ConfigurationError, match="255 bytes"):
            await call
