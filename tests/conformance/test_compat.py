"""Behaviours of the published client that the core does not have, and ``rstream_core.compat`` does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import rstream_core
from rstream_core import Client, compat
from rstream_core.compat.differences import CompatWarning
from rstream_core.compat.exceptions import PreconditionFailed, StreamAlreadyExists
from rstream_core.protocol.routing import python_partition_index
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, arguments_for, eventually, publish_filtered, read

Arguments = dict[str, Any]


@pytest.fixture
async def producer(arguments: Arguments) -> AsyncIterator[compat.Producer]:
    async with compat.Producer(**arguments) as opened:
        yield opened


@pytest.fixture
async def consumer(arguments: Arguments) -> AsyncIterator[compat.Consumer]:
    async with compat.Consumer(**arguments) as opened:
        yield opened


@pytest.fixture
async def new_super_stream(client: Client, stream_name: str) -> AsyncIterator[str]:
    """A name that the test gives to a super stream."""
    yield stream_name
    await client.delete_super_stream(stream_name, missing_ok=True)


class Taken(list[Any]):
    """A callback that stops its consumer at so many messages."""

    def __init__(self, consumer: compat.Consumer | compat.SuperStreamConsumer, count: int) -> None:
        super().__init__()
        self._consumer = consumer
        self._count = count
        self.contexts: list[compat.MessageContext] = []

    def __call__(self, message: Any, context: compat.MessageContext) -> None:
        self.append(message)
        self.contexts.append(context)
        if len(self) == self._count:
            self._consumer.stop()

    async def all(self) -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            await self._consumer.run()
        return self


async def key_of(message: compat.AMQPMessage) -> str:
    return str(message.application_properties["id"])


# --- publishing --------------------------------------------------------------------------------------------


async def test_what_can_be_sent(producer: compat.Producer, client: Client, stream: str) -> None:
    class Own:
        publishing_id: int | None = None

        def __bytes__(self) -> bytes:
            return b"own"

    await producer.send(stream, b"bytes")
    await producer.send(stream, compat.RawMessage(b"raw"))
    await producer.send(stream, Own())
    await producer.send_batch(stream, [Own(), compat.AMQPMessage(body=b"amqp"), b"batch"])
    await producer.send_wait(stream, Own())
    await producer.send_sub_entry(stream, [Own(), b"sub"], compat.CompressionType.Gzip)
    await producer.flush(PATIENCE)
    amqp = bytes(rstream_core.AMQPMessage(b"amqp"))
    stored = [b"bytes", b"raw", b"own", b"own", amqp, b"batch", b"own", b"own", b"sub"]
    assert list((await read(client, stream, 9)).values()) == stored
    with pytest.raises(TypeError, match="not str"):
        await producer.send(stream, "text")


async def test_raw_messages_are_deduplicated(producer: compat.Producer, client: Client, stream: str) -> None:
    for publishing_id in (1, 2, 2, 3):
        message = compat.RawMessage(b"%d" % publishing_id, publishing_id)
        await producer.send_wait(stream, message, publisher_name="name")
    assert list((await read(client, stream, 3)).values()) == [b"1", b"2", b"3"]


async def test_the_response_code_of_a_confirmed_message_is_0(producer: compat.Producer, stream: str) -> None:
    told: list[compat.ConfirmationStatus] = []

    async def later(status: compat.ConfirmationStatus) -> None:
        await asyncio.sleep(0)
        told.append(status)

    await producer.send(stream, b"1", on_publish_confirm=told.append)
    await producer.send_batch(stream, [b"2", b"3"], on_publish_confirm=later)
    await producer.send_sub_entry(stream, [b"4", b"5"], on_publish_confirm=told.append)
    await producer.flush(PATIENCE)
    await eventually(lambda: len(told) == 4)
    told.sort(key=lambda status: status.message_id)
    assert told == [compat.ConfirmationStatus(number, True, 0) for number in (1, 2, 3, 4)]


async def test_an_empty_batch_is_an_error(producer: compat.Producer, stream: str) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        await producer.send_batch(stream, [])
    with pytest.raises(ValueError, match="empty batch"):
        await producer.send_sub_entry(stream, [])


async def test_a_filter_value_extractor_gets_bytes_as_a_raw_message(
    arguments: Arguments, client: Client, stream: str
) -> None:
    given: list[object] = []

    async def extract(message: Any) -> str:
        given.append(message)
        return "value"

    async with compat.Producer(**arguments, filter_value_extractor=extract) as producer:
        message = compat.AMQPMessage(body=b"amqp")
        await producer.send_batch(stream, [b"bytes", message])
    assert given == [compat.RawMessage(b"bytes"), message]
    assert len(await read(client, stream, 2)) == 2


async def test_messages_wait_for_the_publishing_delay(
    arguments: Arguments, client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay: float, *rest: Any, **options: Any) -> asyncio.TimerHandle:
        delays.append(delay)
        return call_later(delay, *rest, **options)

    monkeypatch.setattr(loop, "call_later", noted)
    async with compat.Producer(**arguments, default_batch_publishing_delay=1234.5) as producer:
        await producer.send(stream, b"held")
        assert 1234.5 in delays
        assert inside.outbox(producer, stream, None).unsettled == 1
    assert list((await read(client, stream, 1)).values()) == [b"held"]


async def test_the_event_loop_gets_its_turn_while_messages_are_sent(arguments: Arguments, stream: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with compat.Producer(
        **arguments, default_context_switch_value=9, default_batch_publishing_delay=60
    ) as producer:
        await producer.send(stream, b"first")
        task = asyncio.create_task(others())
        for _ in range(99):
            await producer.send(stream, b"")
        task.cancel()
    assert turns >= 9


# --- consuming ---------------------------------------------------------------------------------------------


async def test_text_arrives_as_bytes(
    producer: compat.Producer, consumer: compat.Consumer, options: Any, stream: str
) -> None:
    """As the published client's examples of filters rely on."""
    message = compat.AMQPMessage(body=b"hello", application_properties={"region": "New York"})
    other = compat.AMQPMessage(body=b"other", application_properties={"region": "California"})
    await publish_filtered(options, stream, [("New York", bytes(message)), ("New York", bytes(other))])
    taken = Taken(consumer, 1)
    wanted = compat.FilterConfiguration(
        values_to_filter=["New York"],
        predicate=lambda message: bool(message.application_properties[b"region"] == b"New York"),
        match_unfiltered=False,
    )
    await consumer.subscribe(stream=stream, callback=taken, decoder=compat.amqp_decoder, filter_input=wanted)
    (found,) = await taken.all()
    assert (str(found), found.application_properties) == ("b'hello'", {b"region": b"New York"})
    assert taken.contexts[0].consumer is consumer
    with pytest.raises(ValueError, match="at least one"):
        await consumer.subscribe("other", taken, filter_input=compat.FilterConfiguration([]))


async def test_a_stream_is_subscribed_to_once(consumer: compat.Consumer, client: Client, stream: str) -> None:
    taken = Taken(consumer, 1)
    number = await consumer.subscribe(stream, taken)
    with pytest.raises(compat.StreamAlreadySubscribed, match=stream):
        await consumer.subscribe(stream, taken)
    await consumer.unsubscribe(number)
    assert await consumer.subscribe(stream, taken) == number + 1
    both = await asyncio.gather(
        consumer.subscribe(f"{stream}-2", taken), consumer.subscribe(f"{stream}-2", taken), return_exceptions=True
    )
    assert {type(error) for error in both} == {compat.StreamDoesNotExist, compat.StreamAlreadySubscribed}
    await client.create_stream(f"{stream}-2")
    await consumer.subscribe(f"{stream}-2", taken)
    await client.delete_stream(f"{stream}-2")


async def test_a_specification_that_is_changed(
    producer: compat.Producer, consumer: compat.Consumer, stream: str
) -> None:
    await producer.send_batch(stream, [b"0", b"1", b"2"])
    specification = compat.ConsumerOffsetSpecification()
    specification.offset_type, specification.offset = compat.OffsetType.OFFSET, 2
    taken = Taken(consumer, 1)
    await consumer.subscribe(stream, taken, offset_specification=specification)
    assert await taken.all() == [b"2"]


async def test_a_single_active_consumer_is_asked_where_to_start(
    producer: compat.Producer, consumer: compat.Consumer, stream: str
) -> None:
    await producer.send_batch(stream, [b"0", b"1", b"2"])
    turns: list[tuple[bool, compat.EventContext]] = []

    async def listener(is_active: bool, context: compat.EventContext) -> compat.OffsetSpecification:
        turns.append((is_active, context))
        return compat.OffsetSpecification(compat.OffsetType.OFFSET, 1)

    taken = Taken(consumer, 2)
    properties = {"single-active-consumer": "true", "name": "group"}
    number = await consumer.subscribe(
        stream, taken, properties=properties, subscriber_name="me", consumer_update_listener=listener
    )
    assert await taken.all() == [b"1", b"2"]
    (is_active, context), *_ = turns
    assert is_active
    assert context.consumer is consumer
    assert (context.stream, context.subscriber_id, context.subscriber_name) == (stream, number, "me")
    assert context.reference == "group"


async def test_a_listener_without_a_group_is_not_called(
    producer: compat.Producer, consumer: compat.Consumer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.forget_compat_warnings(monkeypatch)

    async def listener(is_active: bool, context: compat.EventContext) -> None:
        raise AssertionError(is_active, context)

    taken = Taken(consumer, 1)
    await producer.send_wait(stream, b"0")
    with pytest.warns(CompatWarning, match="single active consumers only") as told:
        await consumer.subscribe(stream, taken, consumer_update_listener=listener)
    assert told[0].filename == __file__
    assert await taken.all() == [b"0"]


async def test_deleting_a_stream_ends_ones_own_subscription(consumer: compat.Consumer, stream: str) -> None:
    await consumer.subscribe(stream, lambda message, context: None)
    await consumer.delete_stream(stream)
    assert not await consumer.stream_exists(stream, on_close_event=True)
    await consumer.delete_stream(stream, missing_ok=True)
    consumer.stop()
    await consumer.run()  # raises nothing


async def test_run_raises_where_nobody_else_is_told(consumer: compat.Consumer, client: Client, stream: str) -> None:
    await consumer.subscribe(stream, lambda message, context: None)
    await client.delete_stream(stream)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(compat.StreamDoesNotExist):
            await consumer.run()


async def test_a_handler_is_told_of_a_deleted_stream(arguments: Arguments, client: Client, stream: str) -> None:
    told: asyncio.Queue[compat.OnClosedErrorInfo] = asyncio.Queue()
    async with (
        compat.Consumer(**arguments, on_close_handler=told.put) as consumer,
        compat.Producer(**arguments, on_close_handler=told.put_nowait) as producer,
        asyncio.timeout(PATIENCE),
    ):
        await consumer.subscribe(stream, lambda message, context: None)
        await producer.send_wait(stream, b"0")
        running = asyncio.create_task(consumer.run())
        await client.delete_stream(stream)
        expected = compat.OnClosedErrorInfo("Metadata Update", [stream])
        assert [await told.get(), await told.get()] == [expected] * 2
        await eventually(lambda: not inside.subscriptions(consumer))
        assert not running.done()
        consumer.stop()
        await running


# --- close and start again ---------------------------------------------------------------------------------


async def test_a_closed_producer_starts_again(producer: compat.Producer, client: Client, stream: str) -> None:
    await producer.send_wait(stream, b"0")
    for _ in range(2):
        await producer.close()
    with pytest.raises(rstream_core.AlreadyClosed):
        await producer.send(stream, b"lost?")
    for number in (1, 2):
        await producer.start()
        await producer.send(stream, b"%d" % number)
        await producer.close()
    assert list((await read(client, stream, 3)).values()) == [b"0", b"1", b"2"]


async def test_a_closed_consumer_starts_again(
    producer: compat.Producer, consumer: compat.Consumer, stream: str
) -> None:
    await producer.send_batch(stream, [b"0", b"1"])
    for _ in range(2):
        taken = Taken(consumer, 2)
        assert await consumer.subscribe(stream, taken) == 0
        assert await taken.all() == [b"0", b"1"]
        await consumer.close()
        await consumer.start()


async def test_it_starts_again_when_it_is_closed(
    producer: compat.Producer, consumer: compat.Consumer, client: Client, stream: str
) -> None:
    """Also while another task closes it."""
    for number in range(3):
        await producer.send(stream, b"%d" % number)
        for one in (producer, consumer):
            closing = asyncio.create_task(one.close())
            await asyncio.sleep(0)
            await one.start()
            assert closing.done()
            assert await one.stream_exists(stream)
    assert list((await read(client, stream, 3)).values()) == [b"0", b"1", b"2"]


def test_it_starts_again_in_another_event_loop(broker: Broker, stream_name: str) -> None:
    producer = compat.Producer(**arguments_for(broker))
    consumer = compat.Consumer(**arguments_for(broker))

    async def once() -> None:
        await producer.start()
        await consumer.start()
        await producer.create_stream(stream_name, exists_ok=True)
        await producer.send_wait(stream_name, b"0")
        taken = Taken(consumer, 1)
        await consumer.subscribe(stream_name, taken)
        assert await taken.all() == [b"0"]
        await consumer.close()
        await producer.delete_stream(stream_name)
        await producer.close()

    asyncio.run(once())
    asyncio.run(once())
    gc.collect()


# --- super streams -----------------------------------------------------------------------------------------


async def test_a_super_stream_is_created_at_the_start(
    arguments: Arguments, new_super_stream: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either; and the keys go where the published client sends them."""
    inside.forget_compat_warnings(monkeypatch)
    option = compat.SuperStreamCreationOption(n_partitions=3)
    keys = [f"key-{number}" for number in range(20)] + ["größe", "😀"]
    async with compat.SuperStreamProducer(
        **arguments,
        super_stream=new_super_stream,
        super_stream_creation_option=option,
        routing_extractor=key_of,
        routing=compat.RouteType.Hash,
    ) as producer:
        for key in keys:
            await producer.send(compat.AMQPMessage(body=key.encode(), application_properties={"id": key}))
    other = compat.SuperStreamCreationOption(n_partitions=0, binding_keys=["x", "y"])
    consumer = compat.SuperStreamConsumer(
        **arguments, super_stream=new_super_stream, super_stream_creation_option=other
    )
    with pytest.warns(CompatWarning, match="has other partitions than asked for: 3"):
        await consumer.start()
    taken = Taken(consumer, len(keys))
    await consumer.subscribe(taken, decoder=compat.amqp_decoder)
    found = {context.stream: set[str]() for context in taken.contexts}
    await taken.all()
    for message, context in zip(taken, taken.contexts, strict=True):
        found.setdefault(context.stream, set()).add(message.body.decode())
    partitions = await client.partitions(new_super_stream)
    assert found == {
        partition: there
        for at, partition in enumerate(partitions)
        if (there := {key for key in keys if python_partition_index(key, 3) == at})
    }
    with pytest.raises(compat.StreamAlreadySubscribed):
        await consumer.subscribe(taken)
    with pytest.raises(PreconditionFailed):
        await client.create_super_stream(new_super_stream, partitions=2, exists_ok=True)
    with pytest.raises(StreamAlreadyExists):
        await consumer.create_super_stream(new_super_stream, 3)
    await consumer.delete_super_stream(new_super_stream)
    consumer.stop()
    await consumer.run()
    await consumer.close()


async def test_a_producer_starts_before_its_super_stream(arguments: Arguments, new_super_stream: str) -> None:
    async def number_of(message: bytes) -> Any:
        return int(message)  # a key that is no text

    producer = compat.SuperStreamProducer(
        **arguments, super_stream=new_super_stream, routing_extractor=number_of, routing=compat.RouteType.Key
    )
    for _ in range(2):
        await producer.start()
        with pytest.raises(compat.StreamDoesNotExist):
            await producer.send(b"0")
        await producer.create_super_stream(new_super_stream, 2)
        told: list[compat.ConfirmationStatus] = []
        await producer.send(b"1", told.append)
        await producer.send_wait(b"0")
        with pytest.raises(rstream_core.RouteNotFound):
            await producer.send(b"7")
        await producer.flush(PATIENCE)
        assert told == [compat.ConfirmationStatus(1, True, 0)]
        await producer.delete_super_stream(new_super_stream)
        await producer.close()


async def test_an_offset_is_that_of_every_partition(arguments: Arguments, client: Client, super_stream: str) -> None:
    async with compat.Producer(**arguments) as producer:
        for partition in await client.partitions(super_stream):
            await producer.send_batch(partition, [b"0", b"1"])
    async with compat.SuperStreamConsumer(**arguments, super_stream=super_stream) as consumer:
        for _ in range(2):
            taken = Taken(consumer, 3)
            await consumer.subscribe(
                taken, offset_specification=compat.ConsumerOffsetSpecification(compat.OffsetType.OFFSET, 1)
            )
            assert await taken.all() == [b"1"] * 3
            await consumer.unsubscribe()
            await consumer.close()
            await consumer.start()


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [compat.Producer, compat.Consumer])
async def test_arguments_that_the_core_does_not_have(
    make: Callable[..., compat.Producer], broker: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.forget_compat_warnings(monkeypatch)
    with pytest.warns(CompatWarning, match="max_retries has no effect"):
        one = make(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            vhost=broker.vhost,
            ssl_context=None,
            frame_max=1024 * 1024,
            heartbeat=60,
            load_balancer_mode=False,
            max_retries=5,
            connection_name="",
            sasl_configuration_mechanism=compat.SlasMechanism.MechanismPlain,
            on_close_handler=None,
            recovery_strategy=compat.BackOffRecoveryStrategy(),
        )
    make(**arguments_for(broker), max_retries=5)  # told once
    async with one:
        assert await one.stream_exists(stream)
    with pytest.raises(TypeError, match="max_retires"):
        make(**arguments_for(broker), max_retires=5)


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="on_close_handler"):
        compat.Producer(username="guest", password="guest", on_close_handler=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="recovery_strategy"):
        compat.Consumer(username="guest", password="guest", recovery_strategy=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="routing_extractor"):
        compat.SuperStreamProducer(super_stream="s", routing_extractor=5, routing=compat.RouteType.Key)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        compat.Consumer(username="guest", password="guest", max_subscribers_by_connection=0)
