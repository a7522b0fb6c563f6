"""What retention took before it was read is told, with its numbers, and nothing else is."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    Gap,
    MessageContext,
    OffsetsGone,
    OffsetType,
    SingleActiveConsumer,
    Subscription,
    SuperStreamConsumer,
)
from rstream_core.consuming.offset_questions import first_offset
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import Session
from tests import inside
from tests.clients import FIRST, PATIENCE, at, eventually, publish_filtered, take

SMALL = {"max-length-bytes": 20_000, "stream-max-segment-size-bytes": 5_000}
"""A stream that keeps about twenty messages of ``SIZE`` bytes, four or five to a segment."""
SIZE = 1_000
LAST = ConsumerOffsetSpecification(OffsetType.LAST)
NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)
LONG_AGO = ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 0)


@pytest.fixture
def gaps() -> list[Gap]:
    """What is told to ``client``."""
    return []


@pytest.fixture
async def client(options: ConnectionOptions, gaps: list[Gap]) -> AsyncIterator[Client]:
    async with Client(options, on_gap=gaps.append) as opened:
        yield opened


@pytest.fixture
async def stream(client: Client, stream_name: str) -> AsyncIterator[str]:
    """An empty stream of little room."""
    await client.create_stream(stream_name, SMALL)
    yield stream_name
    await client.delete_stream(stream_name, missing_ok=True)


async def fill(client: Client, stream: str, count: int) -> None:
    """Publishes so many messages, each a chunk of its own."""
    publisher = await client.publisher(stream)
    for _ in range(count):
        await publisher.publish([b"x" * SIZE])
        await publisher.flush(PATIENCE)
    await publisher.close()


async def first_of(client: Client, stream: str) -> int:
    """The stream's first offset, once retention has done what it is about."""
    found = (await client.stats(stream)).first_offset
    while True:
        await asyncio.sleep(0.05)
        again = (await client.stats(stream)).first_offset
        if again == found:
            return found or 0
        found = again


async def lose(client: Client, stream: str, beyond: int) -> int:
    """Publishes until retention has taken what lies at an offset; returns what the stream begins with then."""
    async with asyncio.timeout(PATIENCE):
        while (begins := await first_of(client, stream)) <= beyond:
            await fill(client, stream, 10)
    return begins


async def take_all(subscription: Subscription) -> list[int]:
    """The offsets of all there is."""
    found: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while (chunk := await subscription.next_there_is()) is not None:
            found += range(chunk.offset, chunk.last_offset + 1)
    return found


async def read_on(subscription: Subscription, found: list[int]) -> None:
    """Until it ends."""
    async with asyncio.timeout(PATIENCE):
        async for chunk in subscription:
            found.append(chunk.offset)  # noqa: PERF401 - what came before an error counts


async def test_where_it_starts(client: Client, stream: str, gaps: list[Gap]) -> None:
    begins = await lose(client, stream, 0)
    for offset in (0, 3, begins - 1):
        async with await client.subscribe(stream, at(offset)) as subscription:
            assert gaps == [Gap(stream, offset, begins - 1)]
            assert (await anext(subscription)).offset == begins
            assert await take_all(subscription)
        assert await client.find_gap(stream, offset) == gaps.pop()
    assert str(Gap("s", 0, 24511)) == "offsets 0 to 24511 of stream 's' are gone: retention took them"


async def test_what_is_no_gap(client: Client, stream: str, gaps: list[Gap]) -> None:
    begins = await lose(client, stream, 0)
    end = await client.last_offset(stream)
    assert end is not None
    for start in (FIRST, LAST, NEXT, LONG_AGO, at(begins), at(begins + 1), at(end), at(end + 1), at(end + 1000)):
        async with await client.subscribe(stream, start) as subscription:
            await take_all(subscription)
    assert await client.find_gap(stream, begins) is None
    assert await client.find_gap(stream, end + 1000) is None
    assert gaps == []


async def test_the_brokers_own_records_are_no_gap(client: Client, stream: str, gaps: list[Gap]) -> None:
    await client.store_offset(stream, "early", 1_000_000, verify_timeout=PATIENCE)  # before the first message
    for number in range(3):
        await fill(client, stream, 1)
        await client.store_offset(stream, "me", number, verify_timeout=PATIENCE)
    for offset in range(7):
        async with await client.subscribe(stream, at(offset)) as subscription:
            await take_all(subscription)
            await fill(client, stream, 1)
            await take_all(subscription)
            await client.store_offset(stream, "me", offset, verify_timeout=PATIENCE)
            await fill(client, stream, 1)
            assert await take_all(subscription)
    assert gaps == []


async def test_a_segment_that_begins_with_the_brokers_own_record(client: Client, stream: str, gaps: list[Gap]) -> None:
    """It begins with what is remembered of names, where there are any: that is there, though nobody gets it."""
    await client.store_offset(stream, "later", 1_000_000, verify_timeout=PATIENCE)
    begins = await lose(client, stream, 0)
    async with await client.subscribe(stream, at(begins)) as subscription:
        assert (await anext(subscription)).offset == begins + 1
    assert gaps == []
    async with await client.subscribe(stream, at(2)) as subscription:
        assert (await anext(subscription)).offset == begins + 1
    assert gaps == [Gap(stream, 2, begins - 1)]


@pytest.mark.parametrize("spec", [FIRST, at(0)], ids=["first", "offset"])
async def test_retention_overtakes_a_reader(
    client: Client, stream: str, gaps: list[Gap], spec: ConsumerOffsetSpecification
) -> None:
    """It reads to the end of the segment that it has open, and goes on where the stream begins by then."""
    await fill(client, stream, 12)
    async with await client.subscribe(stream, spec, credit=1) as subscription:
        found = [(await anext(subscription)).offset]
        for _ in range(3):
            await lose(client, stream, found[-1] + 30)
            told = len(gaps)
            found += [(await anext(subscription)).offset for _ in range(8)]
            assert len(gaps) > told
        found += await take_all(subscription)
    lost = [offset for gap in gaps for offset in range(gap.first, gap.last + 1)]
    assert sorted(found + lost) == list(range(found[-1] + 1))


async def test_within_a_segment_that_is_gone(client: Client, stream: str, gaps: list[Gap]) -> None:
    """Its file is still open: what is left out there are the broker's own records."""
    await fill(client, stream, 1)
    for number in range(3):
        await client.store_offset(stream, "me", number, verify_timeout=PATIENCE)
        await fill(client, stream, 1)
    async with await client.subscribe(stream, FIRST, credit=1) as subscription:
        found = [chunk.offset for chunk in (await anext(subscription), await anext(subscription))]
        assert found == [0, 2]
        begins = await lose(client, stream, 6)
        found = []
        while not found or found[-1] < begins:
            found.append((await anext(subscription)).offset)
    assert found[:2] == [4, 6]
    assert gaps == []


async def test_it_may_be_the_end(client: Client, stream: str, gaps: list[Gap]) -> None:
    begins = await lose(client, stream, 0)
    with pytest.raises(OffsetsGone, match=f"offsets 2 to {begins - 1} of stream '{stream}' are gone") as caught:
        await client.subscribe(stream, at(2), fail_on_gap=True)
    error = caught.value
    assert (error.stream, error.first, error.last, error.retriable) == (stream, 2, begins - 1, False)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert gaps == [Gap(stream, 2, begins - 1)]
    assert not any(source.connections for source in (inside.consuming(client),))


async def test_the_end_comes_behind_what_was_there(client: Client, stream: str, gaps: list[Gap]) -> None:
    await fill(client, stream, 12)
    async with await client.subscribe(stream, FIRST, credit=1, fail_on_gap=True) as subscription:
        found = [(await anext(subscription)).offset]
        await lose(client, stream, 30)
        with pytest.raises(OffsetsGone) as caught:
            await read_on(subscription, found)
    assert found == list(range(len(found)))
    assert caught.value.first == found[-1] + 1
    assert gaps == [Gap(stream, caught.value.first, caught.value.last)]


async def test_an_empty_stream_of_which_everything_is_gone(client: Client, stream: str, gaps: list[Gap]) -> None:
    """Where the last thing that was written are offsets, segments of messages alone may go."""
    await fill(client, stream, 5)
    for number in range(3000):
        await client.store_offset(stream, f"{number % 50}{'n' * 200}", 1_000_000 + number)
        if number % 100 == 99 and not await client.last_offset(stream):
            break
    begins = await first_of(client, stream)
    if begins < 5 or await client.last_offset(stream) is not None:
        pytest.skip("this broker keeps the last messages")
    async with await client.subscribe(stream, at(1)) as subscription:
        assert gaps[0].first == 1
        assert gaps[0].last >= begins - 1  # it may still be storing
        assert not await subscription.barrier()


async def test_filters(client: Client, options: ConnectionOptions, stream: str, gaps: list[Gap]) -> None:
    """The broker leaves out chunks: only where it starts something can be told."""
    wanted, other = ("yes", b"y" * SIZE), ("no", b"n" * SIZE)
    await publish_filtered(options, stream, [wanted], [other], [other], [wanted])
    async with await client.subscribe(stream, FIRST, filter_values=["yes"], credit=1) as subscription:
        assert (await take(subscription, 2)).keys() == {0, 3}
        begins = 0
        async with asyncio.timeout(PATIENCE):
            while begins < 10:
                await publish_filtered(options, stream, *[[other]] * 10)
                begins = await first_of(client, stream)
        await publish_filtered(options, stream, [wanted])
        assert len(await take(subscription, 1)) == 1
    assert gaps == []
    async with await client.subscribe(stream, at(4), filter_values=["yes"]) as subscription:
        assert len(await take(subscription, 1)) == 1
    assert gaps == [Gap(stream, 4, await first_of(client, stream) - 1)]


async def test_a_turn_of_a_single_active_consumer(client: Client, stream: str, gaps: list[Gap]) -> None:
    await fill(client, stream, 3)
    await client.store_offset(stream, "group", 1, verify_timeout=PATIENCE)
    group = SingleActiveConsumer("group")
    async with await client.subscribe(stream, at(0), single_active=group) as subscription:
        assert (await take(subscription, 1)).keys() == {2}
    assert gaps == []
    await client.store_offset(stream, "group", 2, verify_timeout=PATIENCE)
    async with await client.subscribe(stream, FIRST) as reader:  # that is stored, until a segment or two later
        await take(reader, 3)
    begins = await lose_but_not(client, stream, "group", 3)
    async with await client.subscribe(stream, at(0), single_active=group) as subscription:
        assert (await anext(subscription)).offset >= begins
    assert gaps == [Gap(stream, 3, begins - 1)]
    with pytest.raises(OffsetsGone):
        async with (
            asyncio.timeout(PATIENCE),
            await client.subscribe(stream, at(0), single_active=group, fail_on_gap=True) as subscription,
        ):
            await anext(subscription)


async def lose_but_not(client: Client, stream: str, name: str, beyond: int) -> int:
    """As ``lose``, message by message: a broker forgets what is stored soon after retention has passed it."""
    async with asyncio.timeout(PATIENCE):
        while (begins := await first_of(client, stream)) <= beyond:
            await fill(client, stream, 1)
    assert await client.query_offset(stream, name) < begins
    return begins


async def test_after_a_lost_connection(
    client: Client, stream: str, gaps: list[Gap], options: ConnectionOptions
) -> None:
    await fill(client, stream, 3)
    async with await client.subscribe(stream, NEXT) as subscription:
        await fill(client, stream, 2)
        assert (await take(subscription, 2)).keys() == {3, 4}
        attached = inside.attachment(subscription)
        attach = attached.attach
        may_attach = asyncio.Event()

        async def attach_later(*args: Any) -> None:
            await may_attach.wait()
            await attach(*args)

        attached.attach = attach_later  # type: ignore[method-assign, assignment]
        inside.connection(subscription).abort()
        async with Client(options) as other:
            begins = await lose(other, stream, 5)
        may_attach.set()
        async with asyncio.timeout(PATIENCE):
            assert (await anext(subscription)).offset == begins
    assert gaps == [Gap(stream, 5, begins - 1)]


async def test_consumers(options: ConnectionOptions, arguments: dict[str, Any], client: Client, stream: str) -> None:
    begins = await lose(client, stream, 0)
    told: list[Gap] = []
    async with Consumer(**arguments, on_gap=told.append) as consumer:
        async for _, context in consumer.messages(stream, offset_type=OffsetType.OFFSET, offset=1):
            assert told == [Gap(stream, 1, begins - 1)]
            assert context.offset == begins
            break
        with pytest.raises(OffsetsGone):
            await consumer.subscribe(stream, print, offset_type=OffsetType.OFFSET, offset=1, fail_on_gap=True)


async def test_a_callback_is_called_no_more(arguments: dict[str, Any], client: Client, stream: str) -> None:
    await fill(client, stream, 8)
    found: list[int] = []
    go_on = asyncio.Event()

    async def callback(_: bytes, context: MessageContext) -> None:
        found.append(context.offset)
        await go_on.wait()

    async with Consumer(**arguments) as consumer:
        await consumer.subscribe(stream, callback, initial_credit=1, fail_on_gap=True)
        await eventually(lambda: bool(found))
        await lose(client, stream, 30)
        go_on.set()
        with pytest.raises(OffsetsGone) as caught:
            async with asyncio.timeout(PATIENCE):
                await consumer.run()
    assert found == list(range(caught.value.first))


async def test_super_streams(arguments: dict[str, Any], client: Client, stream_name: str) -> None:
    partitions = await client.create_super_stream(stream_name, partitions=2, arguments=SMALL)
    try:
        await fill(client, partitions[0], 3)
        begins = await lose(client, partitions[1], 0)
        told: list[Gap] = []
        async with SuperStreamConsumer(**arguments, super_stream=stream_name, on_gap=told.append) as consumer:
            starts = dict.fromkeys(partitions, at(0))
            async for _ in consumer.chunks(offsets=starts):
                break
        assert told == [Gap(partitions[1], 0, begins - 1)]
    finally:
        await client.delete_super_stream(stream_name)


async def test_without_a_listener_it_is_a_warning(
    options: ConnectionOptions, client: Client, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    begins = await lose(client, stream, 0)
    async with Client(options) as silent:
        await (await silent.subscribe(stream, at(0))).close()
    warning = f"offsets 0 to {begins - 1} of stream '{stream}' are gone: retention took them"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [warning]


async def test_a_listener_that_fails(
    options: ConnectionOptions, client: Client, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    begins = await lose(client, stream, 0)

    def fail(_: Gap) -> None:
        raise RuntimeError("no")

    async with Client(options, on_gap=fail) as bad, await bad.subscribe(stream, at(0)) as subscription:
        assert (await anext(subscription)).offset == begins
    assert "on_gap failed" in caplog.text


async def test_a_stream_that_begins_with_its_first_message(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that tells it by its counters has -1 for an empty stream, and updates them a little later."""
    supports = Session.supports
    monkeypatch.setattr(
        Session,
        "supports",
        lambda self, key, *version: key != c.Key.RESOLVE_OFFSET_SPEC and supports(self, key, *version),
    )
    async with await client.subscribe(stream, NEXT) as subscription, asyncio.timeout(PATIENCE):
        assert await first_offset(inside.connection(subscription), stream) is None
        await fill(client, stream, 1)
        while (begins := await first_offset(inside.connection(subscription), stream)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert begins == 0


async def test_brokers_that_tell_less(
    client: Client, stream: str, gaps: list[Gap], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResolveOffsetSpec came with RabbitMQ 4.3, StreamStats with 3.11."""
    supports = Session.supports
    missing = {c.Key.RESOLVE_OFFSET_SPEC}
    monkeypatch.setattr(
        Session, "supports", lambda self, key, *version: key not in missing and supports(self, key, *version)
    )
    begins = await lose(client, stream, 0)
    async with await client.subscribe(stream, at(1)) as subscription:
        assert (await anext(subscription)).offset == begins
    assert gaps == [Gap(stream, 1, begins - 1)]
    async with await client.subscribe(stream, FIRST) as subscription:
        assert await first_offset(inside.connection(subscription), stream) == begins
    missing.add(c.Key.STREAM_STATS)
    async with await client.subscribe(stream, at(1)) as subscription:
        assert (await anext(subscription)).offset == begins
    assert await client.find_gap(stream, 1) is None
    assert len(gaps) == 1
