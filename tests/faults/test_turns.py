"""Turns of single active consumers that end at a bad moment: with chunks that wait, or with their connection."""

from __future__ import annotations

import asyncio

import pytest

import rstream_core.consuming.turn_taking
from rstream_core import (
    Client,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    EventContext,
    MessageContext,
    SingleActiveConsumer,
    Subscription,
)
from tests import inside
from tests.clients import FIRST, PATIENCE, bodies, eventually, publish, take
from tests.proxy import Proxy
from tests.recovering import LOST, RECOVERED, Events

GROUP = "group"


@pytest.fixture
def partition(super_stream: str) -> str:
    """Here a second member takes the turn of the first, and gives it back when it leaves."""
    return f"{super_stream}-1"


async def test_chunks_that_wait_when_a_turn_ends_cost_no_credit(
    client: Client, options: ConnectionOptions, super_stream: str, partition: str
) -> None:
    """There and back three times, with all the credit that there is in the chunks that are dropped each time."""
    await publish(client, partition, *[[body] for body in bodies(10)])
    group = SingleActiveConsumer(GROUP, super_stream)
    one = await client.subscribe(partition, FIRST, credit=2, single_active=group)
    async with Client(options) as other:
        for _ in range(3):
            await eventually(lambda: one.active and len(inside.undelivered(one)) == 2)
            two = await other.subscribe(partition, FIRST, credit=2, single_active=group)
            await eventually(lambda two=two: two.active)  # type: ignore[misc]
            assert (one.active, len(inside.undelivered(one))) == (False, 0)
            await two.close()
    assert list((await take(one, 10)).values()) == bodies(10)
    await one.close()


async def test_what_was_processed_in_a_cut_turn_does_not_come_again(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """It could not be stored, and what is stored lies behind it."""
    await publish(client, stream, bodies(10))
    await client.store_offset(stream, GROUP, 4, verify_timeout=PATIENCE)
    turns: list[bool] = []

    async def listener(subscription: Subscription, active: bool) -> ConsumerOffsetSpecification | None:
        turns.append(active)
        return None

    group = SingleActiveConsumer(GROUP, listener=listener)
    subscription = await through.subscribe(stream, FIRST, single_active=group)
    assert list(await take(subscription, 5)) == [5, 6, 7, 8, 9]
    subscription.finish()
    proxy.cut()
    await eventually(lambda: events.states == [LOST, RECOVERED])
    await eventually(lambda: turns == [True, False, True])
    await publish(client, stream, [b"new"])
    assert list((await take(subscription, 1)).values()) == [b"new"]
    await subscription.close()


async def test_an_offset_that_another_has_stored_meanwhile_counts(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """The other way round: the other of the group has come further, in the turn that was its."""
    await publish(client, stream, bodies(10))
    subscription = await through.subscribe(stream, FIRST, single_active=SingleActiveConsumer(GROUP))
    assert len(await take(subscription, 10)) == 10
    subscription.finish(3)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await client.store_offset(stream, GROUP, 7, verify_timeout=PATIENCE)
    await proxy.accept_again()
    assert list(await take(subscription, 2)) == [8, 9]
    await subscription.close()


async def test_what_is_stored_counts_for_more_than_what_was_had_in_an_orderly_turn(
    client: Client, options: ConnectionOptions, super_stream: str, partition: str
) -> None:
    """Another of the group may have gone back on purpose."""
    await publish(client, partition, bodies(10))
    group = SingleActiveConsumer(GROUP, super_stream)
    one = await client.subscribe(partition, FIRST, single_active=group)
    assert len(await take(one, 10)) == 10
    one.finish()
    async with Client(options) as other:
        two = await other.subscribe(partition, FIRST, single_active=group)
        await eventually(lambda: two.active)
        await other.store_offset(partition, GROUP, 4, verify_timeout=PATIENCE)
        await two.close()
    assert list(await take(one, 5)) == [5, 6, 7, 8, 9]
    await one.close()


class Member:
    """A consumer of the group that stores at the end of a turn."""

    def __init__(self, client: Client) -> None:
        self.consumer = Consumer(client=client)
        self.turns: list[bool] = []
        self.offsets: list[int] = []

    async def join(self, super_stream: str, partition: str, every: float) -> int:
        return await self.consumer.subscribe(
            partition,
            self.on_message,
            single_active_consumer=True,
            subscriber_name=GROUP,
            super_stream=super_stream,
            consumer_update_listener=self.on_turn,
            store_offset_every=every,
        )

    def on_turn(self, is_active: bool, context: EventContext) -> None:
        self.turns.append(is_active)

    def on_message(self, message: bytes, context: MessageContext) -> None:
        self.offsets.append(context.offset)


@pytest.mark.parametrize("every", [0.02, 600.0], ids=["now and then", "when it leaves"])
async def test_who_has_no_turn_stores_nothing_over_who_has_it(
    client: Client,
    options: ConnectionOptions,
    super_stream: str,
    partition: str,
    every: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await publish(client, partition, bodies(10))
    async with Client(options) as own, Client(options) as others:
        one, two = Member(own), Member(others)
        number = await one.join(super_stream, partition, every)
        await eventually(lambda: len(one.offsets) == 10)
        await two.join(super_stream, partition, 600.0)
        await eventually(lambda: two.turns == [True])
        await publish(client, partition, bodies(10))
        await eventually(lambda: len(two.offsets) == 10)
        assert two.offsets[-1] > 9
        await client.store_offset(partition, GROUP, two.offsets[-1], verify_timeout=PATIENCE)
        stored: list[int] = []
        store = own.store_offset

        async def keep(stream: str, name: str, offset: int, *, verify_timeout: float | None = None) -> None:
            stored.append(offset)
            await store(stream, name, offset, verify_timeout=verify_timeout)

        monkeypatch.setattr(own, "store_offset", keep)
        await asyncio.sleep(0.2)  # ten times it would have been due
        await one.consumer.unsubscribe(number)
        assert stored == []
        assert await client.query_offset(partition, GROUP) == two.offsets[-1]
        await one.consumer.close()
        await two.consumer.close()


async def test_a_turn_ends_when_the_broker_has_the_offset(
    client: Client, options: ConnectionOptions, super_stream: str, partition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the answer: whose turn is next asks for it at once."""
    await publish(client, partition, bodies(10))
    order: list[str] = []
    async with Client(options) as own, Client(options) as others:
        one, two = Member(own), Member(others)
        store = own.store_offset

        async def slow(stream: str, name: str, offset: int, *, verify_timeout: float | None = None) -> None:
            assert verify_timeout is not None  # a broker does not answer by itself
            await store(stream, name, offset, verify_timeout=verify_timeout)
            await asyncio.sleep(0.1)
            order.append(f"stored {offset}")

        monkeypatch.setattr(own, "store_offset", slow)
        await one.join(super_stream, partition, 600.0)
        await eventually(lambda: len(one.offsets) == 10)

        def begins(is_active: bool, context: EventContext) -> None:
            order.append("begins")
            two.turns.append(is_active)

        two.on_turn = begins  # type: ignore[method-assign]
        await two.join(super_stream, partition, 600.0)
        await eventually(lambda: two.turns == [True])
        assert order == ["stored 9", "begins"]
        await two.consumer.close()
        await one.consumer.close()


async def test_what_is_finished_long_after_a_turn_is_not_stored(
    client: Client,
    options: ConnectionOptions,
    super_stream: str,
    partition: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A callback that took too long for the end of its turn: by then another is further on."""
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 0.05)
    await publish(client, partition, bodies(10))
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with Client(options) as own, Client(options) as others:
        one, two = Member(own), Member(others)

        async def slow(message: bytes, context: MessageContext) -> None:
            one.offsets.append(context.offset)
            if context.offset == 4:
                reached.set()
                await go_on.wait()

        one.on_message = slow  # type: ignore[assignment]
        number = await one.join(super_stream, partition, 0.02)
        await asyncio.wait_for(reached.wait(), PATIENCE)
        await two.join(super_stream, partition, 600.0)
        await eventually(lambda: len(two.offsets) == 10)
        await client.store_offset(partition, GROUP, 9, verify_timeout=PATIENCE)
        subscription = inside.subscribers(one.consumer)[number].subscription
        go_on.set()
        await eventually(lambda: subscription.processed == 4)
        await asyncio.sleep(0.2)  # ten times it would have been due
        await one.consumer.unsubscribe(number)
        assert one.offsets == [0, 1, 2, 3, 4]
        assert await client.query_offset(partition, GROUP) == 9
        await one.consumer.close()
        await two.consumer.close()


async def test_the_end_of_a_cut_turn_waits_for_its_beginning(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """The listener is in the middle of one when the connection is lost: it is never called for two at a time."""
    await publish(client, stream, bodies(3))
    told: list[str] = []
    go_on = asyncio.Event()

    async def listener(subscription: Subscription, active: bool) -> ConsumerOffsetSpecification | None:
        told.append(f"{active} begins")
        await go_on.wait()
        told.append(f"{active} ends")
        return None

    group = SingleActiveConsumer(GROUP, listener=listener)
    subscription = await through.subscribe(stream, FIRST, single_active=group)
    await eventually(lambda: told == ["True begins"])
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await asyncio.sleep(0.1)
    assert told == ["True begins"]
    go_on.set()
    assert len(await take(subscription, 3)) == 3
    turns = ["True begins", "True ends", "False begins", "False ends"]
    assert told[:4] == turns
    assert told[4:] == turns[:2]
    await subscription.close()
