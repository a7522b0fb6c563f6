"""``SuperStreamConsumer``: all partitions, each in its order, from where it is to start."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    ConfigurationError,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    EventContext,
    MessageContext,
    OffsetNotFound,
    OffsetSpecification,
    OffsetType,
    StreamDoesNotExist,
    SuperStreamConsumer,
    UnsupportedByBroker,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, arguments_for, at, bodies, eventually, publish, publish_filtered


@pytest.fixture
async def filled(client: Client, super_stream: str) -> str:
    """Partition 0 holds 100 messages, partition 1 holds 200, partition 2 holds none."""
    await publish(client, f"{super_stream}-0", bodies(60), bodies(40))
    await publish(client, f"{super_stream}-1", bodies(150), bodies(50))
    return super_stream


@pytest.fixture
async def consumer(client: Client, super_stream: str) -> AsyncIterator[SuperStreamConsumer]:
    async with SuperStreamConsumer(client=client, super_stream=super_stream) as opened:
        yield opened


class Seen:
    def __init__(self) -> None:
        self.offsets: defaultdict[str, list[int]] = defaultdict(list)

    async def __call__(self, message: bytes, context: MessageContext) -> None:
        await asyncio.sleep(0)
        self.offsets[context.stream].append(context.offset)

    @property
    def total(self) -> int:
        return sum(map(len, self.offsets.values()))


async def test_every_partition_in_its_order(client: Client, filled: str, consumer: SuperStreamConsumer) -> None:
    seen = Seen()
    await consumer.subscribe(seen)
    await eventually(lambda: seen.total == 300)
    assert seen.offsets == {f"{filled}-0": list(range(100)), f"{filled}-1": list(range(200))}
    await publish(client, f"{filled}-2", bodies(3))
    await eventually(lambda: seen.total == 303)
    assert seen.offsets[f"{filled}-2"] == [0, 1, 2]
    assert await consumer.partitions() == [f"{filled}-{number}" for number in range(3)]


async def test_where_each_partition_starts(client: Client, filled: str, consumer: SuperStreamConsumer) -> None:
    seen = Seen()
    await consumer.subscribe(seen, offset_type=OffsetType.NEXT, offsets={f"{filled}-0": at(90), f"{filled}-1": at(199)})
    await publish(client, f"{filled}-2", bodies(2))
    await eventually(lambda: seen.total == 13)
    assert seen.offsets == {
        f"{filled}-0": list(range(90, 100)),
        f"{filled}-1": [199],
        f"{filled}-2": [0, 1],
    }
    with pytest.raises(ConfigurationError, match="not a partition of"):
        await consumer.subscribe(seen, offsets={"elsewhere": at(1)})


@pytest.mark.parametrize("known", [(), (0,), (0, 1)], ids=["all", "two", "one"])
async def test_a_number_is_an_offset_of_one_partition(
    filled: str, consumer: SuperStreamConsumer, known: tuple[int, ...]
) -> None:
    """It is refused for partitions that ``offsets`` leaves out, however many there are."""
    seen = Seen()
    offsets = {f"{filled}-{number}": at(5) for number in known}
    words = f"^super stream '{filled}': 7 is an offset of one partition$"
    with pytest.raises(ConfigurationError, match=words) as error:
        await consumer.subscribe(seen, offsets=offsets, offset_type=OffsetType.OFFSET, offset=7)
    assert error.value.hint is Hint.NAME_THE_PARTITIONS
    with pytest.raises(ConfigurationError, match=words):
        await consumer.subscribe(seen, offsets=offsets, offset_specification=at(7))
    for reading in (
        consumer.messages(offsets=offsets, offset_specification=at(7)),
        consumer.chunks(offsets=offsets, offset_specification=at(7)),
    ):
        with pytest.raises(ConfigurationError, match=words):
            await anext(aiter(reading))
    assert seen.total == 0


async def test_a_number_that_no_partition_uses_is_let_pass(filled: str, consumer: SuperStreamConsumer) -> None:
    seen = Seen()
    offsets = {f"{filled}-{number}": at(90) for number in range(3)}
    await consumer.subscribe(seen, offsets=offsets, offset_specification=at(7))
    await eventually(lambda: seen.total == 120)


async def test_leaving(client: Client, filled: str, consumer: SuperStreamConsumer) -> None:
    seen, other = Seen(), Seen()
    number = await consumer.subscribe(seen)
    await consumer.subscribe(other)
    await eventually(lambda: seen.total == other.total == 300)
    await consumer.unsubscribe(number)
    await publish(client, f"{filled}-2", bodies(1))
    await eventually(lambda: other.total == 301)
    assert seen.total == 300
    with pytest.raises(ConfigurationError, match="there is no subscriber"):
        await consumer.unsubscribe(number)
    named = await consumer.subscribe(seen, subscriber_name="reader", offset_type=OffsetType.NEXT)
    await consumer.unsubscribe(subscriber_name="reader")
    with pytest.raises(ConfigurationError, match="there is no subscriber"):
        await consumer.unsubscribe(named)
    await consumer.unsubscribe()
    await publish(client, f"{filled}-2", bodies(1))
    assert other.total == 301


async def test_messages_of_all_partitions(filled: str, consumer: SuperStreamConsumer) -> None:
    seen: defaultdict[str, list[int]] = defaultdict(list)
    messages = consumer.messages(offset_type=OffsetType.FIRST, initial_credit=1)
    async with asyncio.timeout(PATIENCE):
        async for _, context in messages:
            seen[context.stream].append(context.offset)
            if sum(map(len, seen.values())) == 300:
                break
    await messages.aclose()
    assert seen == {f"{filled}-0": list(range(100)), f"{filled}-1": list(range(200))}


async def test_chunks_of_all_partitions_wait_for_the_application(
    client: Client, filled: str, consumer: SuperStreamConsumer
) -> None:
    """What is not asked for stays with the broker, but for the credits."""
    stream = f"{filled}-2"
    await publish(client, stream, *([[b"x"]] * 10))
    chunks = consumer.chunks(initial_credit=2, offsets={f"{filled}-{n}": at(1000) for n in (0, 1)})
    async with asyncio.timeout(PATIENCE):
        first = await anext(chunks)
        assert (first.stream, first.offset) == (stream, 0)
        [subscription] = [
            s.subscription for s in inside.subscribers(consumer).values() if s.subscription.stream == stream
        ]
        await eventually(lambda: len(inside.undelivered(subscription)) == 1)
        await inside.round_trip(subscription)
        assert inside.deliveries(subscription) == 2
        assert [(await anext(chunks)).offset for _ in range(9)] == list(range(1, 10))
    await chunks.aclose()


async def test_a_partition_that_ends(client: Client, filled: str, consumer: SuperStreamConsumer) -> None:
    seen = Seen()
    await consumer.subscribe(seen)
    await eventually(lambda: seen.total == 300)
    running = asyncio.create_task(consumer.run())
    await client.delete_super_stream(filled)
    with pytest.raises(StreamDoesNotExist):
        async with asyncio.timeout(PATIENCE):
            await running


async def test_the_end_of_run(filled: str, broker: Broker) -> None:
    async with SuperStreamConsumer(**arguments_for(broker), super_stream=filled) as consumer:

        async def callback(message: bytes, context: MessageContext) -> None:
            if context.offset == 199:
                await context.consumer.close()

        await consumer.subscribe(callback)
        async with asyncio.timeout(PATIENCE):
            await consumer.run()


async def test_a_callback_closes_the_connections_too(filled: str, broker: Broker) -> None:
    async def callback(message: bytes, context: MessageContext) -> None:
        await context.consumer.close()

    consumer = SuperStreamConsumer(**arguments_for(broker), super_stream=filled)
    await consumer.subscribe(callback)
    connections = list(inside.locator(consumer.client).connections)
    async with asyncio.timeout(PATIENCE):
        await consumer.run()
    assert connections
    assert not any(connection.is_open for connection in connections)
    await consumer.close()


@pytest.mark.parametrize("single_active", [True, False])
async def test_the_partition_of_a_name(
    client: Client, super_stream: str, consumer: SuperStreamConsumer, single_active: bool
) -> None:
    """As in the readme: ``consumer.stream(context.subscriber_name)`` is the partition that is called for."""
    asked: defaultdict[str, set[str]] = defaultdict(set)
    turns: dict[str, str] = {}

    async def later(context: MessageContext) -> None:
        await asyncio.sleep(0)
        asked[context.stream].add(await context.consumer.stream(context.subscriber_name))

    async def on_message(message: bytes, context: MessageContext) -> None:
        await asyncio.sleep(0.001)  # so that others are called in between
        stream = await context.consumer.stream(context.subscriber_name)
        await context.consumer.store_offset(
            stream=stream, offset=context.offset, subscriber_name=context.subscriber_name
        )
        asked[context.stream] |= {stream, context.consumer.get_stream(context.subscriber_name)}
        asked[context.stream].add(consumer.get_stream(context.subscriber_name))
        await asyncio.create_task(later(context))

    async def on_turn(is_active: bool, context: EventContext) -> None:
        await asyncio.sleep(0.01)
        turns[context.stream] = await context.consumer.stream(context.subscriber_name)

    partitions = await consumer.partitions()
    for number, partition in enumerate(partitions):
        await publish(client, partition, bodies(5 + number))
    if single_active:
        await consumer.subscribe(
            on_message, subscriber_name="reader", single_active_consumer=True, consumer_update_listener=on_turn
        )
    else:
        await consumer.subscribe(on_message, subscriber_name="reader")
    for number, partition in enumerate(partitions):
        await has_stored(client, partition, "reader", 4 + number)
    await eventually(lambda: asked == {partition: {partition} for partition in partitions})
    assert turns == ({partition: partition for partition in partitions} if single_active else {})
    with pytest.raises(ConfigurationError, match="subscriber 'reader' has 3 streams"):
        await consumer.stream("reader")
    with pytest.raises(ConfigurationError, match="there is no subscriber 'nobody'"):
        consumer.get_stream("nobody")


async def has_stored(client: Client, stream: str, name: str, offset: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await client.query_offset(stream, name) == offset:
                    return
            except OffsetNotFound:
                pass
            await asyncio.sleep(0.02)


async def test_without_a_name_nobody_makes_one_up(filled: str, consumer: SuperStreamConsumer) -> None:
    names: dict[str, str | None] = {}
    streams: dict[str, str] = {}

    async def callback(message: bytes, context: MessageContext) -> None:
        names[context.stream] = context.subscriber_name
        streams[context.stream] = await context.consumer.stream(context.subscriber_name)

    await consumer.subscribe(callback)
    await eventually(lambda: len(names) == len(streams) == 2)
    assert set(names.values()) == {None}
    assert streams == {stream: stream for stream in names}
    with pytest.raises(ConfigurationError, match="a subscriber without a name is known by its stream"):
        consumer.get_stream(None)


@pytest.mark.parametrize("where", ["outside", "callback"])
async def test_a_name_is_left_in_all_partitions(
    client: Client, filled: str, consumer: SuperStreamConsumer, where: str
) -> None:
    seen = Seen()
    subscribed = asyncio.Event()

    async def callback(message: bytes, context: MessageContext) -> None:
        await seen(message, context)
        if where == "callback" and seen.total > 20:
            await subscribed.wait()
            await context.consumer.unsubscribe(context.subscriber_name)

    await consumer.subscribe(callback, subscriber_name="reader")
    subscribed.set()
    if where == "outside":
        await eventually(lambda: seen.total == 300)
        await consumer.unsubscribe("reader")
    await eventually(lambda: not inside.subscribers(consumer))
    total = seen.total
    for partition in await consumer.partitions():
        await publish(client, partition, bodies(3))
    assert seen.total == total
    with pytest.raises(ConfigurationError, match="there is no subscriber 'reader'"):
        await consumer.unsubscribe("reader")


async def test_a_super_stream_consumer_creates_and_deletes(broker: Broker, stream_name: str) -> None:
    async with SuperStreamConsumer(**arguments_for(broker), super_stream=stream_name) as consumer:
        names = await consumer.create_super_stream(partitions=2)
        assert await consumer.partitions() == names
        assert await consumer.stream_exists(names[0])
        await consumer.update_password(broker.password)
        await consumer.delete_super_stream()
        await consumer.delete_super_stream(stream_name, missing_ok=True)
        assert not await consumer.stream_exists(names[0])


async def test_offsets(filled: str, consumer: SuperStreamConsumer) -> None:
    await consumer.store_offset(f"{filled}-1", "reader", 41)
    assert await consumer.query_offset(f"{filled}-1", subscriber_name="reader") == 41


async def test_partitions_are_shared(client: Client, options: ConnectionOptions, super_stream: str) -> None:
    """Three single active consumers of three partitions have one each; when one leaves, another has two."""
    seen = [Seen(), Seen(), Seen()]
    clients = [Client(options) for _ in seen]
    members = [SuperStreamConsumer(client=own, super_stream=super_stream) for own in clients]
    for member, callback in zip(members, seen, strict=True):
        await member.subscribe(callback, single_active_consumer=True, subscriber_name="group", store_offset_every=600.0)
    partitions = await members[0].partitions()

    def turns(member: SuperStreamConsumer) -> int:
        return sum(subscriber.subscription.active for subscriber in inside.subscribers(member).values())

    await eventually(lambda: [turns(member) for member in members] == [1, 1, 1])  # else the first gets more
    for partition in partitions:
        await publish(client, partition, bodies(10))
    await eventually(lambda: [s.total for s in seen] == [10, 10, 10])
    assert sorted(partition for s in seen for partition in s.offsets) == partitions
    await members[0].close()
    for partition in partitions:
        await publish(client, partition, bodies(10))
    await eventually(lambda: sum(s.total for s in seen) == 60)
    for partition in partitions:
        offsets = [offset for s in seen for offset in s.offsets[partition]]
        assert len(set(offsets)) == 20  # each once
    for member, own in zip(members, clients, strict=True):
        await member.close()
        await own.close()


async def test_filters(options: ConnectionOptions, super_stream: str, consumer: SuperStreamConsumer) -> None:
    for partition in await consumer.partitions():
        await publish_filtered(options, partition, [("a", b"a")] * 3, [("b", b"b")] * 3, [("a", b"a"), ("b", b"b")])
    seen = Seen()
    await consumer.subscribe(seen, filter_values=["b"], post_filter=lambda message: message == b"b")
    await eventually(lambda: seen.total == 12)
    assert set(map(tuple, seen.offsets.values())) == {(3, 4, 5, 7)}


async def test_what_is_not_there(
    client: Client, consumer: SuperStreamConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = SuperStreamConsumer(client=client, super_stream="missing")
    with pytest.raises(StreamDoesNotExist):
        await missing.subscribe(Seen())
    await missing.close()
    session = (await inside.locator(client).connection()).session
    monkeypatch.delitem(inside.versions(session), c.Key.PARTITIONS)
    with pytest.raises(UnsupportedByBroker, match=r"super streams needs? RabbitMQ 3\.11"):
        await consumer.subscribe(Seen())


async def test_run_waits_again_after_a_failure(client: Client, stream: str) -> None:
    """A failure is raised once; and one of a stream that was subscribed to again is over."""
    consumer = Consumer(client=client)
    seen = Seen()
    spec = ConsumerOffsetSpecification(OffsetType.FIRST)
    for told in (True, False):
        await consumer.subscribe(stream, seen, offset_specification=spec)
        await client.delete_stream(stream)
        if told:
            with pytest.raises(StreamDoesNotExist):
                async with asyncio.timeout(PATIENCE):
                    await consumer.run()
        else:
            await eventually(lambda: any(s.error for s in inside.subscribers(consumer).values()))
        await client.create_stream(stream)
    await consumer.subscribe(stream, seen)
    running = asyncio.create_task(consumer.run())
    await publish(client, stream, bodies(3))
    await eventually(lambda: seen.total == 3)
    assert not running.done()
    consumer.stop()
    await running
    await consumer.close()


async def test_as_other_programs_say_it(client: Client, broker: Broker, super_stream: str) -> None:
    """The names of the published client: properties, subscriber_name, consumer_update_listener, OffsetSpecification."""
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", bodies(5))
    await client.store_offset(f"{super_stream}-1", "consumer-group-1", 3, verify_timeout=PATIENCE)
    seen = Seen()

    async def where_to_start(is_active: bool, event_context: EventContext) -> OffsetSpecification:
        assert event_context.subscriber_name == "consumer-group-1"
        if is_active:
            try:
                stored = await event_context.consumer.query_offset(
                    stream=event_context.stream, subscriber_name="consumer-group-1"
                )
                return OffsetSpecification(OffsetType.OFFSET, stored)
            except OffsetNotFound:
                return OffsetSpecification(OffsetType.OFFSET, 0)
        return OffsetSpecification(OffsetType.OFFSET, 0)

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        await context.consumer.store_offset(
            stream=context.stream, offset=context.offset, subscriber_name=context.subscriber_name
        )
        await seen(message, context)  # type: ignore[arg-type]  # it keeps what it is given

    properties: dict[str, str] = defaultdict(str)
    properties["single-active-consumer"] = "true"
    properties["name"] = "consumer-group-1"
    properties["super-stream"] = super_stream
    consumer = SuperStreamConsumer(**arguments_for(broker), super_stream=super_stream)
    await consumer.subscribe(
        callback=on_message,
        offset_specification=ConsumerOffsetSpecification(offset_type=OffsetType.FIRST),
        properties=properties,
        subscriber_name="consumer-group-1",
        consumer_update_listener=where_to_start,
    )
    await eventually(lambda: seen.total == 12)
    assert seen.offsets[f"{super_stream}-1"] == [3, 4]
    assert await consumer.query_offset(f"{super_stream}-0", "consumer-group-1") == 4
    await consumer.close()
