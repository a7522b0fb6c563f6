"""Consuming goes on after lost connections: every message once, in order, and within the bound of the credits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

import pytest

from rstream_core import (
    Backoff,
    Client,
    ConnectionFailed,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    ProtocolError,
    Publisher,
    Recovery,
    SingleActiveConsumer,
    StreamDoesNotExist,
    Subscription,
    SuperStreamConsumer,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.bombs import MB, publish_sub_entries, sub_entry
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, at, bodies, eventually, publish, publish_filtered, read, take
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, GIVEN_UP, LOST, RECOVERED, Events

NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)
LAST = ConsumerOffsetSpecification(OffsetType.LAST)
GROUP = "group"


def cut_broker_now_and_then(proxy: Proxy, chance: random.Random, low: int, high: int) -> None:
    """Until ``after_cut`` is taken back."""

    def order() -> None:
        proxy.cut_broker_at = proxy.from_broker + chance.randrange(low, high)

    proxy.after_cut = order
    order()


async def read_all(subscription: Subscription, count: int, pause: float = 0.0) -> list[bytes]:
    """So many messages; fails where they do not follow one another."""
    found: list[bytes] = []
    expected = None
    async with asyncio.timeout(60):
        async for chunk in subscription:
            assert expected is None or chunk.offset == expected
            expected = chunk.last_offset + 1
            found += chunk.messages
            if len(found) >= count:
                break
            if pause:
                await asyncio.sleep(pause)
    return found


@pytest.mark.parametrize(("credit", "pause"), [(10, 0.0), (1, 0.0), (3, 0.01)])
async def test_nothing_is_lost_and_nothing_comes_twice(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, credit: int, pause: float
) -> None:
    messages = bodies(6000, "x" * 50)
    await publish(client, stream, *[messages[low : low + 50] for low in range(0, 6000, 50)])
    subscription = await through.subscribe(stream, at(1234), credit=credit)
    cut_broker_now_and_then(proxy, random.Random(credit), 2_000, 60_000)
    found = await read_all(subscription, 6000 - 1234, pause)
    proxy.after_cut = proxy.cut_broker_at = None
    await subscription.close()
    assert found == messages[1234:]
    assert events.states.count(LOST) >= 5
    assert GIVEN_UP not in events.states[:-1]
    assert {event.what for event in events} == {"subscription"}


async def test_chunks_that_have_arrived_are_handed_out_and_within_the_bound(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, *[[body] for body in bodies(40)])
    subscription = await through.subscribe(stream, FIRST, credit=4)
    await eventually(lambda: len(inside.undelivered(subscription)) == 4)
    for outage in range(5):  # nobody reads meanwhile
        proxy.cut()
        await eventually(partial(events.has_outages, outage + 1))
        await subscription.barrier()
        await eventually(lambda: len(inside.undelivered(subscription)) == 4)
    first = await anext(subscription)
    assert (first.offset, len(inside.undelivered(subscription))) == (0, 3)
    for outage in range(5, 10):
        proxy.cut()
        await eventually(partial(events.has_outages, outage + 1))
        assert len(inside.undelivered(subscription)) <= 4
    assert await read_all(subscription, 39) == bodies(40)[1:]
    await subscription.close()


@pytest.mark.parametrize("credit", [1, 4])
async def test_a_connection_lost_between_two_pieces_of_a_chunk(
    through: Client,
    proxy: Proxy,
    options: ConnectionOptions,
    client: Client,
    stream: str,
    events: Events,
    credit: int,
) -> None:
    """The rest of the chunk is here already: it is handed out, once, and counts as one chunk of the bound."""
    await publish_sub_entries(options, stream, [sub_entry([bytes([number]) * MB for number in range(8)])])
    await publish(client, stream, *[[body] for body in bodies(20)])
    subscription = await through.subscribe(stream, FIRST, credit=credit)
    found = [(await asyncio.wait_for(anext(subscription), PATIENCE)) for _ in range(3)]
    subscription.finish()
    for outage in range(2):
        proxy.cut()
        await eventually(partial(events.has_outages, outage + 1))
        await subscription.barrier()
        await inside.round_trip(subscription)
        assert len(inside.undelivered(subscription)) <= max(credit - 1, 1)
    while len(found) < 28:
        found.append(await asyncio.wait_for(anext(subscription), PATIENCE))
        assert len(inside.undelivered(subscription)) <= credit
    assert [chunk.offset for chunk in found] == list(range(28))
    assert [chunk.messages[0][:1] for chunk in found[:8]] == [bytes([number]) for number in range(8)]
    assert [message for chunk in found[8:] for message in chunk.messages] == bodies(20)
    await subscription.close()


async def test_a_bound_of_one_chunk(through: Client, proxy: Proxy, client: Client, stream: str, events: Events) -> None:
    await publish(client, stream, *[[body] for body in bodies(20)])
    subscription = await through.subscribe(stream, FIRST, credit=1)
    found = [*(await anext(subscription)).messages]
    for _ in range(5):
        events.clear()
        proxy.cut()
        await eventually(lambda: events.states == [LOST, RECOVERED])
        assert len(inside.undelivered(subscription)) <= 1
    while len(found) < 20:
        found += (await asyncio.wait_for(anext(subscription), PATIENCE)).messages
        assert len(inside.undelivered(subscription)) <= 1
    assert found == bodies(20)
    await subscription.close()


@pytest.mark.parametrize("spec", [NEXT, LAST])
async def test_what_is_published_during_an_outage_comes(
    through: Client, proxy: Proxy, client: Client, stream: str, spec: ConsumerOffsetSpecification, events: Events
) -> None:
    """Also where nothing had come before it."""
    if spec is NEXT:
        await publish(client, stream, bodies(10, "before"))
    subscription = await through.subscribe(stream, spec)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await publish(client, stream, bodies(3, "a"), bodies(3, "b"))
    await proxy.accept_again()
    assert await read_all(subscription, 6) == bodies(3, "a") + bodies(3, "b")
    await subscription.close()


async def test_next_on_a_broker_that_cannot_resolve_it(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: object) -> None:
        return None

    monkeypatch.setattr("rstream_core.consuming.start.resolve_offset", unknown)  # as before RabbitMQ 4.3
    await publish(client, stream, bodies(10, "before"))
    subscription = await through.subscribe(stream, NEXT)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await publish(client, stream, bodies(3, "a"))
    await proxy.accept_again()
    assert await read_all(subscription, 3) == bodies(3, "a")
    await subscription.close()


async def test_a_timestamp_still_counts_after_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, bodies(5, "old"))
    await asyncio.sleep(0.01)
    now = ConsumerOffsetSpecification(OffsetType.TIMESTAMP, int(time.time() * 1000))
    subscription = await through.subscribe(stream, now)
    proxy.cut()
    await eventually(lambda: events.states == [LOST, RECOVERED])
    await asyncio.sleep(0.01)
    await publish(client, stream, bodies(5, "new"))
    assert await read_all(subscription, 5) == bodies(5, "new")
    await subscription.close()


async def test_filters_hold_after_an_outage(
    through: Client, proxy: Proxy, broker: Broker, stream: str, events: Events
) -> None:
    batches = [[(value, f"{value}{number}".encode())] for number in range(40) for value in ("eu", "us")]
    await publish_filtered(through.options, stream, *batches)
    subscription = await through.subscribe(stream, FIRST, filter_values=["eu"], credit=2)
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < 40:
            found += (await anext(subscription)).messages
            if len(found) % 7 == 0:
                proxy.cut()
    assert found == [f"eu{number}".encode() for number in range(40)]
    assert LOST in events.states
    await subscription.close()


async def test_a_stream_that_moves(through: Client, proxy: Proxy, client: Client, stream: str, events: Events) -> None:
    await publish(client, stream, *[[body] for body in bodies(20)])
    one = await through.subscribe(stream, FIRST, credit=2)
    two = await through.subscribe(stream, FIRST, credit=2)
    found = [*(await anext(one)).messages]
    proxy.say(c.encode(c.MetadataUpdate(6, stream)))
    await eventually(lambda: sorted(events.states) == [LOST, LOST, RECOVERED, RECOVERED])
    assert found + await read_all(one, 19) == bodies(20)
    assert await read_all(two, 20) == bodies(20)
    await one.close()
    await two.close()


async def test_a_stream_that_is_deleted_during_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, bodies(3))
    subscription = await through.subscribe(stream, FIRST)
    await eventually(lambda: len(inside.undelivered(subscription)) == 1)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await client.delete_stream(stream)
    await proxy.accept_again()
    assert (await anext(subscription)).messages == bodies(3)  # what came is handed out
    with pytest.raises(StreamDoesNotExist, match=stream):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    assert events.states == [LOST, GIVEN_UP]
    await subscription.close()


async def test_a_policy_that_is_used_up(proxy: Proxy, broker: Broker, stream: str, events: Events) -> None:
    policy = Recovery(backoff=Backoff(attempts=3, initial=0.01))
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        consumer = Consumer(client=through)
        await consumer.subscribe(stream, lambda *_: None)
        run = asyncio.create_task(consumer.run())
        await asyncio.sleep(0)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(ConnectionFailed):
            await asyncio.wait_for(run, PATIENCE)
        assert (events.states, events[-1].attempts) == ([LOST, GIVEN_UP], 3)
        await consumer.close()


async def test_each_outage_has_all_attempts_where_something_comes_in_between(
    proxy: Proxy, broker: Broker, client: Client, stream: str, events: Events
) -> None:
    """However soon the next one is."""
    policy = Recovery(backoff=Backoff(attempts=5, initial=0.01), spread=0.01)
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        subscription = await through.subscribe(stream, FIRST)
        for number in range(8):
            await publish(client, stream, [b"%d" % number])
            assert (await asyncio.wait_for(anext(subscription), PATIENCE)).messages == [b"%d" % number]
            proxy.cut()
            await eventually(partial(events.has_outages, number + 1))
        await subscription.close()


async def test_garbage_is_not_recovered_from(through: Client, proxy: Proxy, stream: str, events: Events) -> None:
    subscription = await through.subscribe(stream, NEXT)
    proxy.say(b"\xff" * 100)
    with pytest.raises(ProtocolError):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    assert (events.states, events[-1].attempts) == ([LOST, GIVEN_UP], 0)
    await subscription.close()


async def test_closing_and_cancelling_during_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    subscription = await through.subscribe(stream, FIRST)
    other = await through.subscribe(stream, FIRST)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST, LOST])
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    await asyncio.wait_for(subscription.close(), 8)
    with pytest.raises(StopAsyncIteration):
        await waiting
    cancelled = asyncio.ensure_future(anext(other))
    await asyncio.sleep(0.02)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await proxy.accept_again()
    await publish(client, stream, [b"x"])
    assert (await asyncio.wait_for(anext(other), PATIENCE)).messages == [b"x"]
    await other.close()
    assert inside.recovering(through) == set()


async def test_looking_for_what_there_is_across_a_cut(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    await publish(client, stream, *[[body] for body in bodies(5)])
    subscription = await through.subscribe(stream, FIRST, credit=1)
    found: list[bytes] = []
    while (chunk := await asyncio.wait_for(subscription.next_there_is(), PATIENCE)) is not None:
        found += chunk.messages
        proxy.cut()
    assert found == bodies(5)
    await subscription.close()


async def test_callbacks_and_iterators_go_on(through: Client, proxy: Proxy, client: Client, stream: str) -> None:
    await publish(client, stream, *[bodies(10, f"{number}-") for number in range(100)])
    told: list[int] = []
    seen: list[int] = []

    async def callback(message: bytes, context: MessageContext) -> None:
        told.append(context.offset)
        if context.offset % 100 == 50:
            proxy.cut()
            await asyncio.sleep(0.01)

    async def iterate() -> None:
        async with aclosing(consumer.messages(stream)) as messages:
            async for _, context in messages:
                seen.append(context.offset)
                if len(seen) == 1000:
                    break

    consumer = Consumer(client=through)
    await consumer.subscribe(stream, callback, initial_credit=2)
    run = asyncio.create_task(consumer.run())
    await asyncio.wait_for(iterate(), PATIENCE)
    await eventually(lambda: len(told) == 1000)
    assert told == seen == list(range(1000))
    assert not run.done()
    await consumer.close()
    await run


async def test_questions_are_asked_again_and_commands_are_not_repeated(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    await publish(client, stream, bodies(3))
    await client.store_offset(stream, "reader", 2, verify_timeout=PATIENCE)
    await through.start()
    questions: dict[str, Callable[[], Awaitable[object]]] = {
        "metadata": lambda: through.metadata(stream),
        "exists": lambda: through.stream_exists(stream),
        "stats": lambda: through.stats(stream),
        "last": lambda: through.last_offset(stream),
        "tail": lambda: through.tail_offset(stream, 2),
        "span": lambda: through.chunk_span(stream, FIRST),
        "query": lambda: through.query_offset(stream, "reader"),
        "resolve": lambda: through.resolve_offset(stream, FIRST),
        "publisher": lambda: through.publisher(stream, "writer"),
        "subscription": lambda: through.subscribe(stream, FIRST),
    }
    for name, question in questions.items():
        proxy.broker_may_speak.clear()
        asked = asyncio.ensure_future(question())
        await asyncio.sleep(0.02)
        assert not asked.done(), name
        proxy.refuse()
        proxy.cut()
        proxy.resume()
        await asyncio.sleep(0.02)
        await proxy.accept_again()
        answer = await asyncio.wait_for(asked, PATIENCE)
        if isinstance(answer, Publisher | Subscription):
            await answer.close()
    proxy.broker_may_speak.clear()
    creating = asyncio.create_task(through.create_stream(f"{stream}-2"))
    await eventually(lambda: inside.unanswered(inside.locator(through).connections[0]) != {})
    proxy.cut()
    proxy.resume()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(creating, PATIENCE)
    await client.delete_stream(f"{stream}-2", missing_ok=True)
    proxy.cut()
    await through.store_offset(stream, "reader", 1, verify_timeout=PATIENCE)
    assert await client.query_offset(stream, "reader") == 1


@pytest.mark.parametrize("verify_timeout", [None, 3.5])
async def test_storing_an_offset_waits_for_the_end_of_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, verify_timeout: float | None
) -> None:
    await publish(client, stream, bodies(3))
    await through.start()
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not inside.locator(through).connections[0].is_open)
    storing = asyncio.create_task(through.store_offset(stream, "reader", 2, verify_timeout=verify_timeout))
    await asyncio.sleep((verify_timeout or 0) + 0.5)
    assert not storing.done()
    await proxy.accept_again()
    await asyncio.wait_for(storing, PATIENCE)
    await through.store_offset(stream, "other", 2, verify_timeout=PATIENCE)  # the first one is stored by then
    assert await client.query_offset(stream, "reader") == 2


async def test_the_time_of_a_recovery_is_that_of_an_outage(through: Client) -> None:
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "done"

    inside.set_recovery(through, Recovery(seconds=0.1))
    assert await inside.locator(through).again(slow) == "done"


async def test_a_first_connection_is_not_tried_again(proxy: Proxy, broker: Broker, stream: str) -> None:
    proxy.refuse()
    async with Client(options_through(proxy, broker)) as client:
        calls: list[Callable[[], Awaitable[object]]] = [
            client.start,
            lambda: client.stream_exists(stream),
            lambda: client.publisher(stream),
        ]
        for call in calls:
            with pytest.raises(ConnectionFailed):
                await asyncio.wait_for(call(), 10)


# Single active consumers.


class Member:
    """A subscription of the group, by a client of its own, and a task that reads it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.turns: list[bool] = []
        self.offsets: list[int] = []
        self.store = True

    async def join(self, stream: str, spec: ConsumerOffsetSpecification = FIRST) -> None:
        group = SingleActiveConsumer(GROUP, listener=self.on_turn)
        self.subscription = await self.client.subscribe(stream, spec, single_active=group, credit=2)
        self.task = asyncio.create_task(self.read())

    async def on_turn(self, subscription: Subscription, active: bool) -> None:
        self.turns.append(active)
        if not active and self.store and subscription.processed is not None:
            await self.client.store_offset(subscription.stream, GROUP, subscription.processed, verify_timeout=5)

    def has_read(self, count: int) -> bool:
        return len(self.offsets) >= count

    async def read(self) -> None:
        async for chunk in self.subscription:
            for number in range(len(chunk.messages)):
                self.offsets.append(chunk.offset + number)
                await asyncio.sleep(0)
                if not self.subscription.active:
                    self.subscription.finish(chunk.offset + number)
                    break

    async def leave(self) -> None:
        await self.subscription.close()
        await self.task


async def test_a_single_active_consumer_loses_its_turn_and_waits_for_another(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, *[bodies(10) for _ in range(5)])
    one, two = Member(through), Member(client)
    await one.join(stream)
    await eventually(lambda: len(one.offsets) == 50)
    await two.join(stream)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: two.turns == [True])
    await publish(client, stream, bodies(10))
    await proxy.accept_again()
    await eventually(lambda: RECOVERED in events.states)
    await eventually(lambda: len(two.offsets) >= 10)
    assert one.turns == [True, False]
    assert one.offsets == list(range(50))
    assert not one.subscription.active
    await two.leave()
    await eventually(lambda: one.turns == [True, False, True])
    await publish(client, stream, bodies(10))
    there = await read(client, stream, 70)
    await eventually(lambda: one.offsets[-1] == max(there))
    await one.leave()
    assert {*one.offsets, *two.offsets} == set(there)


@pytest.mark.parametrize("store", [True, False])
async def test_a_single_active_consumer_that_is_alone_goes_on_without_a_gap_or_a_repetition(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, store: bool
) -> None:
    count = 0
    member = Member(through)
    member.store = store
    await member.join(stream)
    await eventually(lambda: member.subscription.active)  # or it has no turn to lose the first time
    publisher = await client.publisher(stream)
    found: list[int] = []
    for _ in range(6):
        await publisher.publish(bodies(200))
        await publisher.flush(PATIENCE)
        count += 200
        await asyncio.sleep(0.01)
        proxy.cut()
        await eventually(lambda: events.states[-1:] == [RECOVERED])
        events.clear()
        await eventually(partial(member.has_read, count))
    found = member.offsets
    assert len(found) == len(set(found)) == 1200
    assert found == sorted(found)
    await member.leave()
    await publisher.close()
    assert member.turns[0] is True
    assert member.turns.count(False) >= 6


async def test_a_single_active_consumer_that_starts_at_the_end(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """What is published during an outage is its, though it had nothing in its turn."""
    await publish(client, stream, bodies(5))
    member = Member(through)
    await member.join(stream, NEXT)
    await eventually(lambda: member.subscription.active)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await publish(client, stream, bodies(3))
    await proxy.accept_again()
    await eventually(lambda: len(member.offsets) == 3)
    assert member.offsets == [5, 6, 7]
    await member.leave()


async def test_closing_a_single_active_consumer_while_it_loses_its_turn(
    through: Client, proxy: Proxy, stream: str
) -> None:
    entered = asyncio.Event()

    async def listener(subscription: Subscription, active: bool) -> None:
        if not active:
            entered.set()
            await subscription.close()

    subscription = await through.subscribe(stream, FIRST, single_active=SingleActiveConsumer(GROUP, listener=listener))
    await eventually(lambda: subscription.active)
    proxy.cut()
    await asyncio.wait_for(entered.wait(), PATIENCE)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await eventually(lambda: inside.recovering(through) == set())


async def test_a_super_stream_goes_on(
    through: Client, proxy: Proxy, client: Client, stream_name: str, events: Events
) -> None:
    partitions = await client.create_super_stream(stream_name, partitions=3)
    consumer = SuperStreamConsumer(super_stream=stream_name, client=through)
    found: dict[str, list[bytes]] = {partition: [] for partition in partitions}

    async def iterate() -> None:
        count = 0
        async with aclosing(consumer.chunks(initial_credit=2)) as chunks:
            async for chunk in chunks:
                found[chunk.stream] += chunk.messages
                count += len(chunk.messages)
                if count % 7 == 0:
                    proxy.cut()
                if count == 300:
                    break

    for partition in partitions:
        await publish(client, partition, *[bodies(5, f"{number}-") for number in range(20)])
    await asyncio.wait_for(iterate(), 30)
    expected = [body for number in range(20) for body in bodies(5, f"{number}-")]
    assert found == dict.fromkeys(partitions, expected)
    assert LOST in events.states
    await consumer.close()
    await client.delete_super_stream(stream_name)


async def test_taking_across_a_stall(proxy: Proxy, broker: Broker, client: Client, stream: str, events: Events) -> None:
    options = options_through(proxy, broker, heartbeat=2)  # not 1: a pause of this machine might look like two
    async with Client(options, recovery=EAGER, on_recovery=events) as through:
        subscription = await through.subscribe(stream, NEXT)
        proxy.stall()
        await publish(client, stream, bodies(5))
        await eventually(lambda: events.states == [LOST], 8)
        proxy.cut()
        proxy.resume()
        assert list((await take(subscription, 5)).values()) == bodies(5)
        await subscription.close()
