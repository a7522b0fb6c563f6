"""Single active consumers: whose turn it is, where a turn begins, and what is stored before it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

import rstream_core.consuming.start
import rstream_core.consuming.turn_taking
from rstream_core import (
    Client,
    CompressionType,
    ConfigurationError,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    EventContext,
    MessageContext,
    OffsetNotFound,
    OffsetSpecification,
    OffsetType,
    SingleActiveConsumer,
    Subscription,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.clients import FIRST, PATIENCE, at, bodies, eventually, publish, take

GROUP = "group"


class Member:
    """A consumer of the group, with a client of its own; keeps what it gets."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.consumer = Consumer(client=client)
        self.turns: list[bool] = []
        self.events: list[EventContext] = []
        self.offsets: list[int] = []

    async def join(self, stream: str, **options: object) -> int:
        settings = {
            "single_active_consumer": True,
            "subscriber_name": GROUP,
            "consumer_update_listener": self.on_turn,
            **options,
        }
        callback = settings.pop("callback", self.on_message)
        return await self.consumer.subscribe(stream, callback, **settings)  # type: ignore[arg-type]

    def on_turn(self, is_active: bool, context: EventContext) -> OffsetSpecification | None:
        self.turns.append(is_active)
        self.events.append(context)
        return None

    def on_message(self, message: bytes, context: MessageContext) -> None:
        self.offsets.append(context.offset)

    async def has(self, *offsets: int) -> None:
        await eventually(lambda: len(self.offsets) >= len(offsets))
        assert self.offsets == list(offsets)

    async def close(self) -> None:
        await self.consumer.close()
        await self.client.close()


@pytest.fixture
async def one(options: ConnectionOptions) -> AsyncIterator[Member]:
    member = Member(Client(options))
    yield member
    await member.close()


@pytest.fixture
async def two(options: ConnectionOptions) -> AsyncIterator[Member]:
    member = Member(Client(options))
    yield member
    await member.close()


@pytest.fixture
def partition(super_stream: str) -> str:
    """Here a second member takes the turn of the first, and gives it back when it leaves."""
    return f"{super_stream}-1"


async def test_one_of_two_gets_messages_and_the_other_takes_over(
    client: Client, stream: str, one: Member, two: Member
) -> None:
    await publish(client, stream, bodies(3))
    await one.join(stream)
    await one.has(0, 1, 2)
    await two.join(stream)
    await publish(client, stream, bodies(2))
    await one.has(0, 1, 2, 3, 4)
    assert (one.turns, two.turns, two.offsets) == ([True], [], [])
    await one.client.store_offset(stream, GROUP, 2, verify_timeout=PATIENCE)  # on another connection than it leaves
    await one.close()
    await two.has(3, 4)  # after the stored one, inside of a chunk or not
    assert two.turns == [True]
    event = two.events[0]
    assert (event.consumer, event.stream, event.subscriber_name, event.reference) == (
        two.consumer,
        stream,
        GROUP,
        GROUP,
    )


async def test_properties_say_it_too(client: Client, stream: str, one: Member, two: Member) -> None:
    properties = {"single-active-consumer": "true", "name": GROUP}
    await publish(client, stream, bodies(2))
    for member in (one, two):
        await member.join(stream, single_active_consumer=False, subscriber_name=None, properties=properties)
    await one.has(0, 1)
    await one.close()
    await two.has(0, 1)  # nothing is stored: where the subscription says
    assert (two.events[0].reference, two.events[0].subscriber_name) == (GROUP, GROUP)


@pytest.mark.parametrize("name", ["own", None])
async def test_both_contexts_have_the_same_name(client: Client, stream: str, one: Member, name: str | None) -> None:
    await publish(client, stream, bodies(1))
    told: list[tuple[str | None, str]] = []

    async def callback(message: bytes, context: MessageContext) -> None:
        told.append((context.subscriber_name, await context.consumer.stream(context.subscriber_name)))

    async def on_turn(is_active: bool, context: EventContext) -> None:
        told.append((context.subscriber_name, await context.consumer.stream(context.subscriber_name)))

    properties = {"single-active-consumer": "true", "name": GROUP}
    await one.join(
        stream, callback=callback, consumer_update_listener=on_turn, subscriber_name=name, properties=properties
    )
    await eventually(lambda: len(told) == 2)
    assert told == [(name or GROUP, stream)] * 2


async def test_a_new_group_begins_where_the_subscription_says(client: Client, stream: str, one: Member) -> None:
    await publish(client, stream, bodies(5))
    await one.join(stream, offset_type=OffsetType.OFFSET, offset=3)
    await one.has(3, 4)


async def test_a_turn_ends_and_begins_again(
    client: Client, super_stream: str, one: Member, two: Member, partition: str
) -> None:
    """With more chunks than credits each time: none may be lost by the change."""
    stream = partition
    await publish(client, stream, *([[b"x"]] * 10))
    options = {"super_stream": super_stream, "initial_credit": 2, "store_offset_every": 600.0}
    await one.join(stream, **options)
    await one.has(*range(10))
    await two.join(stream, **options)
    await eventually(lambda: two.turns == [True])
    assert one.turns == [True, False]
    assert one.events[1].offset == 9
    await publish(client, stream, *([[b"y"]] * 10))
    expected = [offset for offset in await all_offsets(client, stream, 20) if offset > 9]
    await two.has(*expected)
    assert one.offsets == list(range(10))
    await two.close()
    await publish(client, stream, *([[b"z"]] * 10))
    expected = (await all_offsets(client, stream, 30))[20:]
    await one.has(*range(10), *expected)
    assert one.turns == [True, False, True]


async def all_offsets(client: Client, stream: str, count: int) -> list[int]:
    """The broker's own records take offsets too."""
    async with await client.subscribe(stream, FIRST) as subscription:
        return list(await take(subscription, count))


async def test_what_was_processed_is_stored_before_the_next_turn(
    client: Client, super_stream: str, one: Member, two: Member, partition: str
) -> None:
    """The callback is in the middle of a chunk: the message is finished, the rest of the chunk is the other's."""
    stream = partition
    await publish(client, stream, bodies(100))
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(message: bytes, context: MessageContext) -> None:
        if context.offset == 40:
            reached.set()
            await go_on.wait()
        one.offsets.append(context.offset)

    options = {"super_stream": super_stream, "store_offset_every": 600.0}
    await one.join(stream, callback=slow, **options)
    await asyncio.wait_for(reached.wait(), PATIENCE)
    joining = asyncio.create_task(two.join(stream, **options))
    subscription = inside.subscriptions(one.consumer)[0]
    await eventually(lambda: not subscription.active)
    assert two.turns == one.turns[1:] == []
    go_on.set()
    await joining
    await two.has(*range(41, 100))
    assert one.offsets == list(range(41))
    assert await client.query_offset(stream, GROUP) == 40


async def test_a_listener_may_ask_and_store(
    client: Client, super_stream: str, one: Member, two: Member, partition: str
) -> None:
    stream = partition
    await publish(client, stream, bodies(20))

    async def listener(is_active: bool, context: EventContext) -> OffsetSpecification:
        if not is_active:
            assert context.offset is not None
            await context.consumer.store_offset(context.stream, context.reference, context.offset)
            assert await context.consumer.query_offset(context.stream, context.reference) == context.offset
            return OffsetSpecification(OffsetType.OFFSET, 0)  # means nothing
        try:
            stored = await context.consumer.query_offset(context.stream, context.reference)
        except OffsetNotFound:
            return OffsetSpecification(OffsetType.OFFSET, 15)
        return OffsetSpecification(OffsetType.OFFSET, stored)  # that one again

    options = {"super_stream": super_stream, "consumer_update_listener": listener}
    await one.join(stream, **options)
    await one.has(*range(15, 20))
    await two.join(stream, **options)
    await two.has(19)


@pytest.mark.parametrize("how", ["raises", "hangs", "answers nonsense"])
async def test_a_listener_that_fails(
    client: Client,
    stream: str,
    one: Member,
    how: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "LISTENER_TIMEOUT", 0.2)
    await publish(client, stream, bodies(5))
    await client.store_offset(stream, GROUP, 1, verify_timeout=PATIENCE)

    async def listener(is_active: bool, context: EventContext) -> OffsetSpecification | None:
        if how == "raises":
            raise LookupError("what")
        if how == "hangs":
            await asyncio.Event().wait()
        return 5  # type: ignore[return-value]

    await one.join(stream, consumer_update_listener=listener)
    await one.has(2, 3, 4)
    assert f"the consumer update listener of stream {stream!r}" in caplog.text


async def test_a_callback_that_does_not_end(
    client: Client,
    super_stream: str,
    one: Member,
    two: Member,
    partition: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The turn ends all the same, and what is not finished comes again."""
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 0.2)
    stream = partition
    await publish(client, stream, bodies(5))

    reached = asyncio.Event()

    async def endless(message: bytes, context: MessageContext) -> None:
        if context.offset == 2:
            reached.set()
            await asyncio.Event().wait()

    options = {"super_stream": super_stream, "store_offset_every": 0.02}
    await one.join(stream, callback=endless, **options)
    await asyncio.wait_for(reached.wait(), PATIENCE)
    await two.join(stream, **options)
    await two.has(0, 1, 2, 3, 4)  # no chunk was finished, so none is stored
    assert f"still works on a message of stream {stream!r}" in caplog.text


async def test_a_turn_begins_inside_a_sub_entry(client: Client, stream: str, one: Member) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish_sub_entry(bodies(100), CompressionType.Gzip)
    await publisher.publish_sub_entry(bodies(100), CompressionType.No)
    await publisher.flush(PATIENCE)
    await publisher.close()
    await client.store_offset(stream, GROUP, 149, verify_timeout=PATIENCE)
    await one.join(stream)
    await one.has(*range(150, 200))


async def test_the_stored_offset_cannot_be_read(
    client: Client, options: ConnectionOptions, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the subscription ends, where nothing recovers: to begin anywhere could leave messages out."""

    async def no_answer(*_: object) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(rstream_core.consuming.start, "query_offset", no_answer)
    monkeypatch.setattr(rstream_core.consuming.start, "QUERY_TIMEOUT", 0.2)
    await publish(client, stream, bodies(5))
    one = Member(Client(options, recovery=None))
    await one.join(stream, offset_type=OffsetType.NEXT)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        async with asyncio.timeout(PATIENCE):
            await one.consumer.run()
    assert one.offsets == []
    await one.close()


async def test_credit_while_it_is_anothers_turn_is_no_error(
    client: Client, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rstream_core")
    await publish(client, stream, [b"x"])
    group = SingleActiveConsumer(GROUP)
    async with (
        await client.subscribe(stream, FIRST, single_active=group) as first,
        await client.subscribe(stream, FIRST, single_active=group) as second,
    ):
        assert (await anext(first)).messages == [b"x"]
        inside.connection(second).send(c.Credit(second.id, 1))
        await eventually(lambda: "refused: 17" in caplog.text)
        await publish(client, stream, [b"y"])
        assert (await anext(first)).messages == [b"y"]
        assert (first.active, second.active) == (True, False)


async def test_the_listener_of_a_subscription(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    told: list[tuple[Subscription, bool]] = []

    async def listener(subscription: Subscription, active: bool) -> ConsumerOffsetSpecification:
        told.append((subscription, active))
        return at(7)

    single_active = SingleActiveConsumer(GROUP, listener=listener)
    async with await client.subscribe(stream, FIRST, single_active=single_active) as subscription:
        assert list(await take(subscription, 3)) == [7, 8, 9]
    assert told == [(subscription, True)]


async def test_stored_at_the_end_and_now_and_then(client: Client, stream: str, one: Member, two: Member) -> None:
    await publish(client, stream, bodies(10))
    await one.join(stream, store_offset_every=0.05)
    await one.has(*range(10))

    async def stored() -> int | None:
        try:
            return await client.query_offset(stream, GROUP)
        except OffsetNotFound:
            return None

    async with asyncio.timeout(PATIENCE):
        while await stored() != 9:  # noqa: ASYNC110 - the broker does not announce it
            await asyncio.sleep(0.01)
    await one.close()
    await publish(client, stream, bodies(1))
    number = await two.join(stream, store_offset_every=600.0)
    await eventually(lambda: len(two.offsets) == 1)
    await two.consumer.unsubscribe(number)
    assert await stored() == two.offsets[0] > 9


async def test_iterating(client: Client, super_stream: str, one: Member, two: Member) -> None:
    """A generator is in the middle of a chunk when its turn ends: it skips the rest."""
    stream = f"{super_stream}-1"
    await publish(client, stream, bodies(10))
    messages = one.consumer.messages(
        stream,
        single_active_consumer=True,
        subscriber_name=GROUP,
        super_stream=super_stream,
        store_offset_every=600.0,
    )
    offsets = [(await anext(messages))[1].offset for _ in range(4)]
    joining = asyncio.create_task(two.join(stream, super_stream=super_stream))
    subscription = inside.subscriptions(one.consumer)[0]
    await eventually(lambda: not subscription.active)
    waiting = asyncio.ensure_future(anext(messages))
    await joining
    await two.has(*range(4, 10))
    assert offsets == [0, 1, 2, 3]
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait((waiting,))
    await messages.aclose()


async def test_options_that_do_not_go_together(one: Member) -> None:
    with pytest.raises(ConfigurationError, match="needs a subscriber_name"):
        await one.consumer.subscribe("s", one.on_message, single_active_consumer=True)
    with pytest.raises(ConfigurationError, match="is for a single active consumer"):
        await one.consumer.subscribe("s", one.on_message, consumer_update_listener=one.on_turn)
    with pytest.raises(ConfigurationError, match="store_offset_every"):
        await one.consumer.subscribe("s", one.on_message, store_offset_every=1.0)
    with pytest.raises(TypeError, match="unexpected argument: nonsense"):
        await one.consumer.subscribe("s", one.on_message, nonsense=1)  # type: ignore[call-arg]
