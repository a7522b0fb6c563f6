"""Ids that are given back while nobody answers, and what happens to a publisher or a subscription meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    Client,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Endpoint,
    NotConfirmed,
    PreconditionFailed,
    ProtocolError,
    Publisher,
    Recovery,
    SingleActiveConsumer,
    StreamDoesNotExist,
    Subscription,
    Subscriptions,
)
from rstream_core.connecting import attachment
from rstream_core.consuming.arrivals import MORE_CHUNKS
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, bodies, eventually, publish
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, GIVEN_UP, LOST, RECOVERED, Events, stored


@pytest.fixture
async def other_stream(client: Client, stream_name: str) -> AsyncIterator[str]:
    other = f"{stream_name}-other"
    await client.create_stream(other)
    yield other
    await client.delete_stream(other)


# Ids.


async def test_a_publisher_id_without_a_goodbye_is_for_nobody(
    through: Client, proxy: Proxy, client: Client, stream: str, other_stream: str
) -> None:
    """What is confirmed late must not count for another."""
    keeper = await through.publisher(stream)
    first = await through.publisher(stream)
    assert inside.connection(first) is inside.connection(keeper)
    proxy.broker_may_speak.clear()
    await first.publish(bodies(3))
    await first.close(timeout=0)
    assert (first.confirmed, first.failed) == (0, 3)
    opening = asyncio.create_task(through.publisher(other_stream))
    await asyncio.sleep(0.05)
    proxy.resume()
    second = await asyncio.wait_for(opening, PATIENCE)
    assert inside.place(second) != inside.place(first)
    await second.publish(bodies(3))
    await second.flush(PATIENCE)
    assert await stored(client, other_stream) == bodies(3)
    again = await through.publisher(stream)  # nor later
    assert inside.lease_id(again) != inside.lease_id(first)
    for publisher in (keeper, second, again):
        await publisher.close()


async def test_late_chunks_are_for_nobody(
    through: Client, proxy: Proxy, client: Client, stream: str, other_stream: str
) -> None:
    await publish(client, stream, *[[b"wrong"] for _ in range(20)])
    await publish(client, other_stream, *[[body] for body in bodies(5)])
    keeper = await through.subscribe(other_stream, FIRST, at_leader=True)
    first = await through.subscribe(stream, FIRST, credit=2, at_leader=True)
    assert inside.connection(first) is inside.connection(keeper)
    await anext(first)
    await asyncio.sleep(0.1)
    proxy.broker_may_speak.clear()
    first.finish()  # the broker sends another chunk
    await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.close(), 0.1)
    subscribing = asyncio.create_task(through.subscribe(other_stream, FIRST, at_leader=True))
    await asyncio.sleep(0.05)
    proxy.resume()
    second = await asyncio.wait_for(subscribing, PATIENCE)
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < 5:
            found += (await anext(second)).messages
    assert found == bodies(5)
    await keeper.close()
    await second.close()


@pytest.mark.parametrize("steps", range(6))
async def test_a_close_that_is_cancelled_after_a_recovery_leaks_nothing(
    through: Client, proxy: Proxy, stream: str, events: Events, steps: int
) -> None:
    """However many steps of the event loop it has had."""
    publisher = await through.publisher(stream, "writer")
    subscription = await through.subscribe(stream, FIRST)
    await publisher.publish([b"1"])
    assert (await anext(subscription)).messages == [b"1"]
    proxy.cut()
    await eventually(lambda: events.states.count(RECOVERED) == 2)
    for one in (publisher, subscription):
        closing = asyncio.create_task(one.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await one.close()  # may be repeated
    pools = (inside.publishing(through), inside.consuming(through))
    await eventually(lambda: not any(one.publishers or one.subscriptions for pool in pools for one in pool.connections))
    again = await through.publisher(stream, "writer")
    await again.close()


async def test_openings_that_are_cancelled_cost_no_ids(
    through: Client, proxy: Proxy, stream: str, other_stream: str
) -> None:
    keeper = await through.publisher(other_stream)
    for _ in range(20):
        proxy.broker_may_speak.clear()
        opening = asyncio.create_task(through.publisher(stream))
        await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        proxy.broker_may_speak.set()
    pool = inside.publishing(through)
    ((shared,),) = inside.shared(pool).values()
    await eventually(lambda: len(shared.ids) == 1)
    assert shared.lost == 0
    await keeper.close()


@pytest.mark.parametrize("steps", range(4))
async def test_closes_that_are_cancelled_cost_no_ids(through: Client, stream: str, steps: int) -> None:
    keeper = await through.publisher(stream)
    reader = await through.subscribe(stream, FIRST)
    for _ in range(20):
        for one in (await through.publisher(stream), await through.subscribe(stream, FIRST)):
            if isinstance(one, Publisher):
                await one.publish([b"x"])
            closing = asyncio.create_task(one.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await one.close()
    for pool in (inside.publishing(through), inside.consuming(through)):
        ((shared,),) = inside.shared(pool).values()
        await eventually(lambda shared=shared: len(shared.ids) == 1)  # type: ignore[misc]
        assert shared.lost == 0
    await keeper.close()
    await reader.close()


async def test_a_close_of_several_that_is_cancelled_closes_all(client: Client, stream: str) -> None:
    """Also those that had not begun to close."""
    several = Subscriptions([await client.subscribe(stream, FIRST) for _ in range(3)])
    closing = asyncio.create_task(several.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await eventually(lambda: not inside.consuming(client).connections)
    with pytest.raises(StopAsyncIteration):
        await anext(several)


async def test_a_connection_whose_callers_have_gone_is_ended(options: ConnectionOptions, stream: str) -> None:
    """They were cancelled when it was ready, and before they knew of it."""
    async with Client(options) as client:
        opening = asyncio.create_task(client.publisher(stream))
        while not inside.shared(inside.publishing(client)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await eventually(lambda: not inside.publishing(client).connections)
        publisher = await client.publisher(stream)
        await publisher.close()


async def test_nodes_that_are_gone_are_forgotten(client: Client, stream: str) -> None:
    """Peers name them: what is kept of each must not grow for ever."""
    pool = inside.publishing(client)
    publisher = await client.publisher(stream)
    assert len(inside.shared(pool)) == 1
    await publisher.close()
    for port in range(1, 6):
        with pytest.raises(ConnectionFailed):
            await pool.acquire(Endpoint("127.0.0.1", port))
    assert (inside.shared(pool), inside.connecting(pool)) == ({}, {})


async def test_a_confirm_that_does_not_come_is_told_as_a_loss(
    through: Client, proxy: Proxy, stream: str, events: Events
) -> None:
    publisher = await through.publisher(stream, confirm_timeout=0.2)
    proxy.broker_may_speak.clear()
    await publisher.publish([b"x"])
    await eventually(lambda: publisher.error is not None)
    assert events.states == [LOST, GIVEN_UP]
    assert isinstance(events[-1].error, NotConfirmed)
    proxy.resume()
    await publisher.close()


async def test_closing_what_does_not_answer_is_quick(through: Client, proxy: Proxy, stream: str) -> None:
    publisher = await through.publisher(stream)
    subscription = await through.subscribe(stream, FIRST)
    connections = inside.connection(publisher), inside.connection(subscription)
    proxy.stall()
    await publisher.publish([b"x"])
    start = time.monotonic()
    await publisher.close(timeout=0.2)
    for closing in (publisher.close(), subscription.close()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing, 0.2)
    assert time.monotonic() - start < 5  # what a goodbye alone takes that is waited for
    await eventually(lambda: not any(connection.is_open for connection in connections))  # nobody else was there
    proxy.resume()


# What ends, and what does not.


async def test_a_listener_that_fails_keeps_nothing_from_the_others(proxy: Proxy, broker: Broker, stream: str) -> None:
    def fail(error: Exception) -> None:
        raise RuntimeError("mine")

    async with Client(options_through(proxy, broker), recovery=None) as client:
        first = await client.publisher(stream, on_end=fail)
        second = await client.publisher(stream)
        proxy.cut()
        await eventually(lambda: second.error is not None)
        assert isinstance(first.error, ConnectionClosed)
        for publisher in (first, second):
            await publisher.close()


async def test_a_publisher_that_the_broker_has_forgotten(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    publisher = await through.publisher(stream, "writer")
    proxy.broker_may_speak.clear()
    await publisher.publish(bodies(3))
    proxy.say(
        c.encode(c.PublishError(inside.lease_id(publisher), [c.MessageError(number, 18) for number in (1, 2, 3)]))
    )
    await eventually(lambda: LOST in events.states)
    proxy.resume()
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (3, 0)
    await publisher.close()
    assert await stored(client, stream) == bodies(3)


async def test_waiting_for_a_connection_that_another_has_filled_is_bounded(
    proxy: Proxy, broker: Broker, stream: str
) -> None:
    async with Client(options_through(proxy, broker), recovery=None) as client:
        filling = await client.publisher(stream, confirm_timeout=None)
        waiting = await client.publisher(stream, confirm_timeout=0.5)
        assert inside.connection(filling) is inside.connection(waiting)
        proxy.client_may_speak.clear()
        fill = asyncio.create_task(filling.publish([b"x" * 100_000] * 200))
        looks: list[bool] = []  # the operating system takes several times as much as fills the connection's own buffer

        def is_full() -> bool:
            looks.append(inside.connection(filling).is_writable)
            return len(looks) > 50 and not any(looks[-50:])

        await eventually(is_full)
        with pytest.raises(NotConfirmed, match="has read nothing for"):
            await asyncio.wait_for(waiting.publish([b"y"]), PATIENCE)
        assert (waiting.published, waiting.failed) == (0, 0)
        fill.cancel()
        for publisher in (filling, waiting):
            await publisher.close(timeout=0)


async def test_a_stream_that_is_made_anew_during_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """What is in it is not what was to come next, and must not be passed over in silence."""
    await publish(client, stream, bodies(10))
    subscription = await through.subscribe(stream, FIRST)
    assert (await anext(subscription)).messages == bodies(10)
    subscription.finish()
    proxy.refuse()
    proxy.cut()
    await client.delete_stream(stream)
    await client.create_stream(stream)
    await proxy.accept_again()
    await eventually(lambda: events.states == [LOST, RECOVERED])
    await publish(client, stream, bodies(3, "new"))
    with pytest.raises(StreamDoesNotExist, match="created again: it ends at offset 3, and offset 9 was"):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await subscription.close()


async def test_at_the_leader_means_after_a_recovery_too(
    through: Client, proxy: Proxy, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("leader_now", "replica_now"):
        original = getattr(inside.locator(through), name)

        async def ask(stream: str, name: str = name, original: object = original) -> object:
            asked.append(name)
            return await original(stream)  # type: ignore[operator]

        monkeypatch.setattr(inside.locator(through), name, ask)
    subscription = await through.subscribe(stream, FIRST, at_leader=True)
    for count in (1, 2, 3):
        proxy.cut()
        await eventually(lambda count=count: events.states.count(RECOVERED) == count)  # type: ignore[misc]
    assert set(asked) == {"leader_now"}
    await subscription.close()


async def test_the_last_message_of_a_turn_takes_no_time_from_the_recovery(
    proxy: Proxy, broker: Broker, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, bodies(1))
    quick = Recovery(seconds=5, backoff=EAGER.backoff)  # a busy machine may need as long
    async with Client(options_through(proxy, broker), recovery=quick, on_recovery=events) as through:
        subscription = await through.subscribe(stream, FIRST, single_active=SingleActiveConsumer("group"))
        await asyncio.wait_for(anext(subscription), PATIENCE)
        proxy.cut()
        await asyncio.sleep(quick.seconds + 0.5)  # the application works on it
        assert GIVEN_UP not in events.states
        subscription.finish()
        await eventually(lambda: events.states == [LOST, RECOVERED])
        await subscription.close()


async def test_a_broker_that_cannot_count(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(1))
    subscription: Subscription = await client.subscribe(stream, ConsumerOffsetSpecification(), credit=2)
    await eventually(lambda: len(inside.undelivered(subscription)) == 1)
    (arrival,) = inside.undelivered(subscription)

    def send(count: int) -> None:
        for _ in range(count):
            inside.deliver_again(subscription, arrival)

    send(2 * 2 + MORE_CHUNKS)  # it may have counted a chunk twice, and a few besides
    with pytest.raises(ProtocolError, match=r"more of stream '.*' than it was asked for"):
        send(1)
    await subscription.close()


async def test_a_name_that_this_client_uses_already(client: Client, stream: str) -> None:
    """Brokers refuse it on the same connection, as they do while they have an alarm."""
    first = await client.publisher(stream, "writer")
    with pytest.raises(PreconditionFailed, match="this client has a publisher 'writer' already") as caught:
        await client.publisher(stream, "writer")
    assert not caught.value.retriable
    await first.publish([b"x"])
    await first.close()
    assert first.confirmed == 1
    again = await client.publisher(stream, "writer")
    await again.close()


@pytest.mark.parametrize("delay", [0, 0.05])
async def test_each_loss_is_followed_by_word_of_what_became_of_it(
    through: Client, proxy: Proxy, stream: str, events: Events, delay: float
) -> None:
    """Also where it is closed before the recovery has begun."""
    publisher = await through.publisher(stream, "writer")
    subscription = await through.subscribe(stream, FIRST)
    proxy.refuse()
    connections = inside.connection(publisher), inside.connection(subscription)
    for connection in connections:
        connection.abort()
    assert events.states == [LOST, LOST]
    await asyncio.sleep(delay)
    await publisher.close(timeout=0)
    await subscription.close()
    assert events.states == [LOST, LOST, GIVEN_UP, GIVEN_UP]


@pytest.mark.parametrize("how", ["no recovery", "no help"])
async def test_a_loss_is_told_too_where_nothing_is_tried(
    proxy: Proxy, broker: Broker, stream: str, events: Events, how: str
) -> None:
    recovery = None if how == "no recovery" else EAGER
    async with Client(options_through(proxy, broker), recovery=recovery, on_recovery=events) as client:
        publisher = await client.publisher(stream)
        subscription = await client.subscribe(stream, FIRST)
        assert events == []
        if how == "no recovery":
            proxy.cut()
        else:
            proxy.say(bytes.fromhex("00000008 7777 0001 00000000"))  # there is no such command
        await eventually(lambda: publisher.error is not None and subscription.error is not None)
        for what, error in (("publisher", publisher.error), ("subscription", subscription.error)):
            told = [event for event in events if event.what == what]
            assert [(event.state, event.error, event.attempts) for event in told] == [
                (LOST, error, 0),
                (GIVEN_UP, error, 0),
            ]
            assert {event.stream for event in told} == {stream}
        events.clear()
        await publisher.close()
        await subscription.close()
    assert events == []


async def test_a_client_that_closes_loses_nothing(options: ConnectionOptions, stream: str, events: Events) -> None:
    async with Client(options, recovery=None, on_recovery=events) as client:
        await client.publisher(stream)
        await client.subscribe(stream, FIRST)
    assert events == []


async def test_a_look_that_ends_late_touches_nobody_else(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await client.subscribe(stream, FIRST)
    first = await client.subscribe(stream, FIRST)
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    inside.answer_positions(first, end, monkeypatch)
    looking = asyncio.create_task(inside.look(first, 5))
    await asyncio.sleep(0)
    await first.close()
    second = await client.subscribe(stream, FIRST)
    assert (inside.connection(second), second.id) == (inside.connection(first), first.id)
    end.set_result(0)
    await looking
    assert first.error is None
    await publish(client, stream, bodies(3))
    assert (await asyncio.wait_for(anext(second), PATIENCE)).messages == bodies(3)
    await keeper.close()
    await second.close()


async def test_a_recovery_does_not_wait_for_a_goodbye(
    proxy: Proxy, broker: Broker, client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream moved, and the old connection, whose buffer is full, is read no more."""
    monkeypatch.setattr(attachment, "GOODBYE_TIMEOUT", 10 * PATIENCE)
    options = options_through(proxy, broker, request_timeout=2.0)  # what asks where the stream is is stalled, too
    async with Client(
        options, recovery=EAGER, max_publishers_by_connection=1, max_subscribers_by_connection=1
    ) as through:
        subscription = await through.subscribe(stream, FIRST, at_leader=True)
        publisher = await through.publisher(stream, "writer")
        old = inside.connection(publisher)
        proxy.stall_those_there()
        publishing = asyncio.create_task(publisher.publish([bytes(100_000)] * 100))
        await eventually(lambda: not old.is_writable)
        proxy.say(c.encode(c.MetadataUpdate(6, stream)))
        async with asyncio.timeout(PATIENCE):
            await publishing
            await publisher.flush()
            received = 0
            async for chunk in subscription:
                received += len(chunk.messages)
                if received == 100:
                    break
        assert inside.connection(publisher) is not old
        through.abort()
    assert len(await stored(client, stream)) == 100


async def test_a_recovery_does_not_wait_until_what_was_written_is_read(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    """The broker ends the connection, and reads nothing any more."""
    publisher = await through.publisher(stream, "writer")
    connection = inside.connection(publisher)
    proxy.stall_those_there()
    publishing = asyncio.create_task(publisher.publish([bytes(100_000)] * 100))
    await eventually(lambda: not connection.is_writable)
    proxy.say(c.encode(c.Close(1, "enough"), correlation_id=1))
    await eventually(inside.gone(connection).done, 4)  # and not after the 5 s that a close waits
    async with asyncio.timeout(PATIENCE):
        await publishing
        await publisher.flush()
    assert len(await stored(client, stream)) == 100
    await publisher.close()
