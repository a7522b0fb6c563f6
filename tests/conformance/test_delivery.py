"""What a broker sends to a subscription: from where, how much, what is filtered out, and who of a group gets it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from rstream_core import CompressionType
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import ChunkHeader, join_sub_batch, parse_chunk, parse_header
from tests.brokers import Broker
from tests.clients import PATIENCE
from tests.wire import Wire

T = TypeVar("T")

ALL = c.supported_versions()
FIRST = c.OffsetSpec(1)
OWN = c.OffsetSpec(0)
GROUP = {"single-active-consumer": "true", "name": "group"}


@pytest.fixture
async def wire(broker: Broker) -> AsyncIterator[Wire]:
    wire = await Wire(broker).connect()
    await wire.log_in(versions=ALL)
    yield wire
    wire.close()


@pytest.fixture
async def stream(wire: Wire, stream_name: str) -> AsyncIterator[str]:
    await wire.ask(c.Create(stream_name, {}))
    await wire.ask(c.DeclarePublisher(1, "", stream_name))
    yield stream_name
    async with Wire(wire.broker) as other:
        await other.ask(c.Delete(stream_name))


async def other_wire(wire: Wire) -> Wire:
    other = await Wire(wire.broker).connect()
    await other.log_in(versions=ALL)
    return other


async def publish(wire: Wire, *bodies: bytes) -> None:
    """One chunk: of a sub-entry, since a busy broker may put messages that came together into two."""
    data = join_sub_batch(bodies)
    wire.send(c.Publish(1, [c.PublishedSubBatch(0, CompressionType.No, len(bodies), len(data), data)]))
    await wire.find(c.PublishConfirm)


async def offsets(wire: Wire) -> list[int]:
    """The first offsets of the chunks that are there by now: what comes before the answer to a question."""
    await wire.ask(c.Metadata(()))
    found = []
    while wire.waiting:
        message = wire.waiting.pop(0).message
        assert isinstance(message, c.DeliverCommitted)
        found.append(parse_header(message.chunk).first_offset)
    return found


def first_chunk(stats: c.Frame) -> int:
    return int(stats.message.stats["first_chunk_id"])


async def until(question: Callable[[], Awaitable[T]], is_right: Callable[[T], bool]) -> T:
    """The first answer that is right: for what nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await question()
            if is_right(answer):
                return answer
            await asyncio.sleep(0.005)


async def subscribed(wire: Wire, stream: str, spec: c.OffsetSpec = FIRST, credit: int = 10, **more: str) -> list[int]:
    properties = {key.replace("__", "-").replace("_", "."): value for key, value in more.items()}
    assert await wire.code(c.Subscribe(1, stream, spec, credit, properties)) == 1
    found = await offsets(wire)
    assert await wire.code(c.Unsubscribe(1)) == 1
    return found


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (c.OffsetSpec(1), [0, 2, 4]),
        (c.OffsetSpec(2), [4]),
        (c.OffsetSpec(3), []),
        (c.OffsetSpec(4, 0), [0, 2, 4]),
        (c.OffsetSpec(4, 1), [0, 2, 4]),
        (c.OffsetSpec(4, 2), [2, 4]),
        (c.OffsetSpec(4, 5), [4]),
        (c.OffsetSpec(4, 6), []),
        (c.OffsetSpec(4, 100), []),
        (c.OffsetSpec(5, 0), [0, 2, 4]),
        (c.OffsetSpec(5, -5), [0, 2, 4]),
        (c.OffsetSpec(5, 2**50), []),
    ],
)
async def test_where_a_subscription_begins(wire: Wire, stream: str, spec: c.OffsetSpec, expected: list[int]) -> None:
    for _ in range(3):
        await publish(wire, b"a", b"b")
    assert await subscribed(wire, stream, spec) == expected
    resolved = (await wire.ask(c.ResolveOffsetSpec(stream, spec, {}))).message.offset_spec
    assert resolved == c.OffsetSpec(4, expected[0] if expected else 6)
    await wire.ask(c.Subscribe(1, stream, spec, 10, {}))
    await publish(wire, b"c")
    # RabbitMQ tells first who wrote a chunk, and then who reads.
    chunks = [(await wire.take(c.DeliverCommitted)).message.chunk for _ in (*expected, 6)]
    assert [parse_header(chunk).first_offset for chunk in chunks] == [*expected, 6]
    assert await offsets(wire) == []


async def test_an_empty_stream(wire: Wire, stream: str) -> None:
    for spec in (c.OffsetSpec(1), c.OffsetSpec(2), c.OffsetSpec(3), c.OffsetSpec(4, 1), c.OffsetSpec(5, 0)):
        assert await subscribed(wire, stream, spec) == []
        resolved = await wire.ask(c.ResolveOffsetSpec(stream, spec, {}))
        assert resolved.message.offset_spec == c.OffsetSpec(4, 0)
    stats = (await wire.ask(c.StreamStats(stream))).message.stats
    assert set(stats.values()) == {-1}


async def test_last_is_the_last_chunk_of_messages(wire: Wire, stream: str) -> None:
    await publish(wire, b"a")
    wire.send(c.StoreOffset("reader", stream, 0))
    await until(lambda: wire.code(c.QueryOffset("reader", stream)), lambda code: code == 1)
    assert await subscribed(wire, stream, c.OffsetSpec(2)) == [0]
    stats = (await wire.ask(c.StreamStats(stream))).message.stats
    assert stats == {"first_chunk_id": 0, "last_chunk_id": 1, "committed_chunk_id": 1, "committed_offset": 1}


async def burst(wire: Wire, count: int, size: int = 1) -> None:
    """In one frame, so that it is there at once; confirmed."""
    wire.send(c.Publish(1, [c.PublishedMessage(number, bytes(size)) for number in range(count)]))
    await wire.confirmed(count)


async def chunk_sizes(wire: Wire, stream: str, total: int) -> list[int]:
    assert await wire.code(c.Subscribe(1, stream, FIRST, 1000, {})) == 1
    found: list[int] = []
    while sum(found) < total:
        found.append(parse_header((await wire.take(c.DeliverCommitted)).message.chunk).records)
    assert await wire.code(c.Unsubscribe(1)) == 1
    return found


async def test_chunks_of_bursts(wire: Wire, stream: str) -> None:
    """A chunk is full with 32 messages. Behind one that was, twice as many make one full, and else half as many.

    How a burst is divided depends on when a busy RabbitMQ gets to it, and on which of it is there by then; not this.
    """
    bursts = (33, 32, 1, 1000, 1500)
    for count in bursts:
        await burst(wire, count)
    found = await chunk_sizes(wire, stream, sum(bursts))
    assert sum(found) == sum(bursts)
    assert len(found) >= 2 + 1 + 1 + 4 + 3
    full = 32
    for size in found:
        assert size <= full, found
        full = min(2 * full, 8192) if size == full else max(full // 2, 32)


async def test_the_committed_chunk_of_a_burst(wire: Wire, stream: str) -> None:
    """What is the last chunk by then, in the statistics, in each chunk that is delivered, and of ``last``."""
    await burst(wire, 1000)
    stats = (await wire.ask(c.StreamStats(stream))).message.stats
    assert stats["first_chunk_id"] == 0
    assert stats["committed_offset"] == 999
    assert 0 < stats["committed_chunk_id"] == stats["last_chunk_id"] <= 999
    await wire.ask(c.Subscribe(1, stream, FIRST, 1, {}))
    delivered = (await wire.take(c.DeliverCommitted)).message
    assert delivered.committed_chunk_id == stats["committed_chunk_id"]
    assert 0 < parse_header(delivered.chunk).records < 1000  # the credit is for less than all
    assert await wire.code(c.Unsubscribe(1)) == 1
    assert await subscribed(wire, stream, c.OffsetSpec(2)) == [stats["committed_chunk_id"]]


async def test_one_credit_is_one_chunk(wire: Wire, stream: str) -> None:
    for _ in range(6):
        await publish(wire, b"a")
    await wire.ask(c.Subscribe(1, stream, FIRST, 0, {}))
    assert await offsets(wire) == []
    wire.send(c.Credit(1, 1))
    assert await offsets(wire) == [0]
    wire.send(c.Credit(1, 3))
    assert await offsets(wire) == [1, 2, 3]
    wire.send(c.Credit(1, 0))
    assert await offsets(wire) == []


async def test_deliver_in_both_versions(wire: Wire, stream: str) -> None:
    await publish(wire, b"a", b"b")
    await wire.ask(c.Subscribe(1, stream, FIRST, 1, {}))
    newer = (await wire.take(c.DeliverCommitted)).message
    assert newer.committed_chunk_id == 0
    async with Wire(wire.broker) as other:  # has not said that it knows the newer one
        await other.ask(c.Subscribe(1, stream, FIRST, 1, {}))
        older = (await other.take(c.Deliver)).message
    assert newer.chunk == older.chunk
    header, messages = parse_chunk(older.chunk)
    assert messages == [b"a", b"b"]
    assert header._replace(timestamp=0, crc=0) == (0, 1, 2, 0, 1, 0, 0, 21, 0, 0)


async def test_sub_entries_are_delivered_as_they_came(wire: Wire, stream: str) -> None:
    entries: list[c.PublishedMessage | c.PublishedSubBatch] = [
        c.PublishedMessage(1, b"plain"),
        c.PublishedSubBatch(2, 0, 2, 10, b"\0\0\0\1x\0\0\0\1y"),
        c.PublishedMessage(3, b"again"),
    ]
    wire.send(c.Publish(1, entries))
    await wire.confirmed(3)
    await wire.ask(c.Subscribe(1, stream, FIRST, 3, {}))
    headers: list[ChunkHeader] = []
    found: list[bytes] = []
    while len(found) < 4:
        header, messages = parse_chunk((await wire.take(c.DeliverCommitted)).message.chunk)
        headers.append(header)
        found += messages
    assert (sum(header.entries for header in headers), sum(header.records for header in headers)) == (3, 4)
    assert found == [b"plain", b"x", b"y", b"again"]


async def test_a_named_publishers_chunk_is_delivered_without_its_trailer(wire: Wire, stream: str) -> None:
    await wire.ask(c.DeclarePublisher(2, "writer", stream))
    wire.send(c.PublishFiltered(2, [c.FilteredMessage(1, "value", b"body")]))
    await wire.take(c.PublishConfirm)
    await wire.ask(c.Subscribe(1, stream, FIRST, 1, {}))
    chunk = (await wire.take(c.DeliverCommitted)).message.chunk
    header, messages = parse_chunk(chunk)
    assert messages == [b"body"]
    assert (header.trailer_length, header.bloom_size) == (1 + 1 + 6 + 8, 16)
    assert chunk[45:48] == b"\0\0\0"
    assert len(chunk) == 48 + header.data_length


# Filters.


async def test_filters(wire: Wire, stream: str) -> None:
    await publish(wire, b"unfiltered")
    frames = (("a", "b"), ("b",), (None,), ("a", ""), ("x" * 300,))
    for values in frames:
        wire.send(c.PublishFiltered(1, [c.FilteredMessage(1, value, b"m") for value in values]))
        await wire.confirmed(len(values))
    every = await subscribed(wire, stream)
    # A busy broker may make two chunks of a frame.
    assert [first for first in every if first not in (2, 6)] == [0, 1, 3, 4, 5, 7]

    def having(*wanted: str | None) -> list[int]:
        """The chunks with a message of one of these values."""
        published = [None, *(value for frame in frames for value in frame)]
        offsets = [offset for offset, value in enumerate(published) if value in wanted]
        return sorted({max(first for first in every if first <= offset) for offset in offsets})

    assert await subscribed(wire, stream, match__unfiltered="true") == every
    assert await subscribed(wire, stream, filter_0="a") == having("a")
    assert await subscribed(wire, stream, filter_0="b") == having("b")
    assert await subscribed(wire, stream, filter_0="nowhere") == []
    assert await subscribed(wire, stream, filter_1="a", filter_2="b") == having("a", "b")
    assert await subscribed(wire, stream, filter_0="b", match__unfiltered="true") == having("b", None, "")
    assert await subscribed(wire, stream, filter_0="b", match__unfiltered="false") == having("b")
    assert await subscribed(wire, stream, filter_0="x" * 300) == having("x" * 300)


async def test_what_is_filtered_out_costs_no_credit(wire: Wire, stream: str) -> None:
    for number in range(40):
        value = "wanted" if number % 20 == 19 else "other"
        wire.send(c.PublishFiltered(1, [c.FilteredMessage(1, value, b"m")]))
        await wire.take(c.PublishConfirm)
    assert await subscribed(wire, stream, credit=2, filter_0="wanted") == [19, 39]


# Single active consumers.


async def answered(wire: Wire, *, active: bool, spec: c.OffsetSpec = OWN) -> int:
    """Takes a ConsumerUpdate and answers it; the subscription id."""
    frame = await wire.take(c.ConsumerUpdate)
    assert frame.message.active is active
    wire.send(c.ConsumerUpdateResponse(spec), frame.correlation_id or 0)
    return int(frame.message.subscription_id)


async def test_only_one_is_active(wire: Wire, stream: str) -> None:
    for _ in range(4):
        await publish(wire, b"m")
    one, two = await other_wire(wire), await other_wire(wire)
    assert await one.code(c.Subscribe(1, stream, FIRST, 2, GROUP)) == 1
    assert await answered(one, active=True) == 1
    assert await offsets(one) == [0, 1]
    assert await two.code(c.Subscribe(7, stream, FIRST, 1, GROUP)) == 1
    assert await offsets(two) == []
    two.send(c.Credit(7, 1))  # complained of, and counted all the same
    refused = await two.next_frame()
    assert (refused.message, refused.code) == (c.CreditResponse(7), 17)
    one.close()
    assert await answered(two, active=True, spec=c.OffsetSpec(4, 2)) == 7
    assert await offsets(two) == [2, 3]
    two.close()


async def test_the_next_one_in_line_takes_over(wire: Wire, stream: str) -> None:
    await publish(wire, b"m")
    wires = [await other_wire(wire) for _ in range(3)]
    for one in wires:
        await one.ask(c.Subscribe(1, stream, FIRST, 1, GROUP))
    for one in wires:
        await answered(one, active=True)
        assert await offsets(one) == [0]
        assert await one.code(c.Unsubscribe(1)) == 1
        one.close()


async def test_another_one_comes_before_the_first_has_answered(wire: Wire, stream: str) -> None:
    """The first is the active one, from when it was asked."""
    await publish(wire, b"m")
    one, two = await other_wire(wire), await other_wire(wire)
    assert await one.code(c.Subscribe(1, stream, FIRST, 1, GROUP)) == 1
    asked = await one.take(c.ConsumerUpdate)
    assert asked.message == c.ConsumerUpdate(1, True)
    assert await two.code(c.Subscribe(2, stream, FIRST, 1, GROUP)) == 1
    assert (await offsets(one), await offsets(two)) == ([], [])
    one.send(c.ConsumerUpdateResponse(OWN), asked.correlation_id or 0)
    assert await offsets(one) == [0]
    assert await offsets(two) == []
    one.close()
    assert await answered(two, active=True) == 2
    assert await offsets(two) == [0]
    two.close()


async def test_a_partitions_turn_ends_before_it_has_begun(wire: Wire, stream_name: str) -> None:
    """The second consumer is the one for partition 1; the first is told so, and only one is active at a time."""
    names = [f"{stream_name}-{number}" for number in range(2)]
    assert await wire.code(c.CreateSuperStream(stream_name, names, ["0", "1"], {})) == 1
    assert await wire.code(c.DeclarePublisher(1, "", names[1])) == 1
    await publish(wire, b"m")
    properties = {**GROUP, "super-stream": stream_name}
    one, two = await other_wire(wire), await other_wire(wire)
    await one.ask(c.Subscribe(1, names[1], FIRST, 1, properties))
    asked = await one.take(c.ConsumerUpdate)
    assert asked.message == c.ConsumerUpdate(1, True)
    await two.ask(c.Subscribe(2, names[1], FIRST, 1, properties))
    assert await offsets(two) == []
    ending = await one.take(c.ConsumerUpdate)
    assert ending.message == c.ConsumerUpdate(1, False)
    one.send(c.ConsumerUpdateResponse(OWN), asked.correlation_id or 0)
    one.send(c.ConsumerUpdateResponse(OWN), ending.correlation_id or 0)
    assert await answered(two, active=True) == 2
    assert await offsets(two) == [0]
    two.close()
    assert await answered(one, active=True) == 1
    one.close()
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 1


async def test_groups_of_other_names_are_apart(wire: Wire, stream: str) -> None:
    await publish(wire, b"m")
    for number, name in enumerate(("one", "two")):
        await wire.ask(c.Subscribe(number, stream, FIRST, 1, {**GROUP, "name": name}))
        assert await answered(wire, active=True) == number
        assert await offsets(wire) == [0]


async def test_the_partitions_of_a_super_stream_spread_over_its_consumers(wire: Wire, stream_name: str) -> None:
    names = [f"{stream_name}-{number}" for number in range(3)]
    assert await wire.code(c.CreateSuperStream(stream_name, names, ["0", "1", "2"], {})) == 1
    properties = {**GROUP, "super-stream": stream_name}
    one, two = await other_wire(wire), await other_wire(wire)
    for number, name in enumerate(names):
        await one.ask(c.Subscribe(number, name, FIRST, 1, properties))
        assert await answered(one, active=True) == number
    for number, name in enumerate(names):
        await two.ask(c.Subscribe(10 + number, name, FIRST, 1, properties))
    assert await answered(one, active=False) == 1  # of two consumers, the second has partition 1
    assert await answered(two, active=True) == 11
    one.close()
    assert {await answered(two, active=True) for _ in range(2)} == {10, 12}
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 1
    gone = {(await two.take(c.MetadataUpdate)).message.stream for _ in names}
    assert gone == set(names)
    two.close()


async def test_nobody_takes_over_a_stream_that_is_deleted(wire: Wire, stream: str) -> None:
    one, two = await other_wire(wire), await other_wire(wire)
    await one.ask(c.Subscribe(1, stream, FIRST, 1, GROUP))
    await answered(one, active=True)
    await two.ask(c.Subscribe(1, stream, FIRST, 1, GROUP))
    assert await wire.code(c.Delete(stream)) == 1
    for waiting in (one, two):
        assert (await waiting.take(c.MetadataUpdate)).message == c.MetadataUpdate(6, stream)
        assert await waiting.code(c.Metadata(())) == 1
        assert waiting.waiting == []
        waiting.close()


# Retention.


async def test_retention_by_size(wire: Wire, stream_name: str) -> None:
    arguments = {"max-length-bytes": "20000", "stream-max-segment-size-bytes": "5000"}
    await wire.ask(c.Create(stream_name, arguments))
    await wire.ask(c.DeclarePublisher(2, "writer", stream_name))
    wire.send(c.StoreOffset("reader", stream_name, 1000))
    for number in range(1, 61):
        wire.send(c.Publish(2, [c.PublishedMessage(number, b"x" * 1000)]))
        await wire.take(c.PublishConfirm)
    stats = await until(lambda: wire.ask(c.StreamStats(stream_name)), lambda frame: first_chunk(frame) >= 40)
    first = first_chunk(stats)
    assert await wire.code(c.Subscribe(1, stream_name, c.OffsetSpec(4, 0), 1, {})) == 1
    chunk = parse_header((await wire.take(c.DeliverCommitted)).message.chunk)
    assert first <= chunk.first_offset
    # RabbitMQ may still be at it, and counts after it has deleted; the broker's own records come first.
    await until(
        lambda: wire.ask(c.StreamStats(stream_name)), lambda frame: chunk.first_offset <= first_chunk(frame) + 1
    )
    # What the stream remembers of names does not go with the segments.
    assert (await wire.ask(c.QueryPublisherSequence("writer", stream_name))).message.sequence == 60
    assert (await wire.ask(c.QueryOffset("reader", stream_name))).message.offset == 1000
    await wire.ask(c.Delete(stream_name))


async def first_chunks(wire: Wire, stream: str, publishing: int, expected: list[int]) -> list[int]:
    """Where the stream begins after each of so many chunks of a message of 1,000 bytes; waits for what is expected."""
    found = []
    for number in range(publishing):
        await burst(wire, 1, 1000)
        # Retention is not done when a confirm comes, but soon after: what is not awaited is seen by the next chunk.
        stats = await until(
            lambda: wire.ask(c.StreamStats(stream)),
            lambda stats: first_chunk(stats) >= expected[number],  # noqa: B023
        )
        found.append(first_chunk(stats))
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max-length-bytes": "20000"}, [0] * 20 + [5] * 5 + [10] * 5 + [15] * 2),
        ({"max-length-bytes": "2000"}, [0] * 5 + [5] * 5 + [10] * 5 + [15] * 5 + [20]),  # less than a segment
        ({"max-age": "1h"}, [0] * 21),
    ],
)
async def test_when_retention_takes_effect(
    wire: Wire, stream_name: str, arguments: dict[str, str], expected: list[int]
) -> None:
    """With the first chunk of a new segment, of which there is one when the last one is full: here behind five."""
    size = {"stream-max-segment-size-bytes": "5000"}
    assert await wire.code(c.Create(stream_name, size | arguments)) == 1
    assert await wire.code(c.DeclarePublisher(1, "", stream_name)) == 1
    assert await first_chunks(wire, stream_name, len(expected), expected) == expected
    await wire.ask(c.Delete(stream_name))


async def test_messages_that_are_too_old_stay_until_a_segment_is_full(wire: Wire, stream_name: str) -> None:
    given = {"stream-max-segment-size-bytes": "5000", "max-age": "1s"}
    assert await wire.code(c.Create(stream_name, given)) == 1
    assert await wire.code(c.DeclarePublisher(1, "", stream_name)) == 1
    for _ in range(5):
        await burst(wire, 1, 1000)
    published = time.monotonic()
    await until(lambda: asyncio.sleep(0.1), lambda _: time.monotonic() > published + 1.5)
    assert first_chunk(await wire.ask(c.StreamStats(stream_name))) == 0
    await burst(wire, 1, 1000)
    await until(lambda: wire.ask(c.StreamStats(stream_name)), lambda stats: first_chunk(stats) == 5)
    await wire.ask(c.Delete(stream_name))
