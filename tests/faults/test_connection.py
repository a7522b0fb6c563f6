"""Connections that are cut, fall silent, or are closed: everybody who waits is told, once, and in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from rstream_core import (
    AlreadyClosed,
    Client,
    ConnectionClosed,
    ConnectionFailed,
    Consumer,
    ConsumerOffsetSpecification,
    Endpoint,
    HeartbeatMissed,
    LeaderNotAvailable,
    MessageContext,
    NotConfirmed,
    OffsetType,
    Producer,
    ProtocolError,
    RequestTimeout,
    ServerClosed,
    StreamDoesNotExist,
    StreamNotAvailable,
)
from rstream_core.connecting.connection import Connection
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, bodies, eventually, options_for, publish
from tests.conftest import OwnRabbitMQ
from tests.proxy import Proxy, options_through

NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)


@pytest.fixture
async def through(proxy: Proxy, broker: Broker) -> AsyncIterator[Client]:
    """A client that reaches the broker through the proxy."""
    async with Client(options_through(proxy, broker), recovery=None) as opened:
        yield opened


async def test_a_cut_fails_every_waiter(through: Client, proxy: Proxy, stream: str) -> None:
    await through.start()
    proxy.broker_may_speak.clear()
    requests = [asyncio.create_task(through.stream_exists(stream)) for _ in range(10)]
    await asyncio.sleep(0.05)
    proxy.cut()
    results = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), PATIENCE)
    assert [type(result) for result in results] == [ConnectionClosed] * 10
    assert all(isinstance(result, ConnectionClosed) and result.retriable for result in results)


async def test_the_next_question_connects_again(through: Client, proxy: Proxy, stream: str) -> None:
    assert await through.stream_exists(stream)
    connection = await inside.locator(through).connection()
    proxy.cut()
    await eventually(lambda: not connection.is_open)
    assert await through.stream_exists(stream)


async def test_a_cut_in_the_middle_of_the_handshake(proxy: Proxy, broker: Broker) -> None:
    for count in (0, 1, 30, 100, 200):
        proxy.from_client, proxy.cut_at = 0, count
        client = Client(options_for(broker, endpoints=(proxy.endpoint,)), recovery=None)
        with pytest.raises(ConnectionFailed):
            await client.start()
        await client.close()
    client = Client(options_for(broker, endpoints=(proxy.endpoint,)), recovery=None)
    await client.start()
    await client.close()


async def test_a_broker_that_falls_silent_while_connecting(proxy: Proxy, broker: Broker) -> None:
    proxy.broker_may_speak.clear()
    client = Client(options_for(broker, endpoints=(proxy.endpoint,), connect_timeout=3), recovery=None)
    start = time.monotonic()
    with pytest.raises(ConnectionFailed, match=r"handshake within 3 s"):
        await client.start()
    assert time.monotonic() - start < 8  # less than the default
    await client.close()


async def test_a_broker_that_falls_silent_is_missed_within_two_heartbeats(
    proxy: Proxy, broker: Broker, stream: str
) -> None:
    # So long that a pause of this machine does not look like a silence of two.
    async with (
        Client(options_for(broker, heartbeat=4), recovery=None) as other,
        Client(options_through(proxy, broker, heartbeat=4), recovery=None) as client,
    ):
        idle = await inside.locator(other).connection()
        subscription = await client.subscribe(stream, NEXT)
        publisher = await client.publisher(stream)
        connection = await inside.locator(client).connection()
        assert connection.session.heartbeat == idle.session.heartbeat == 4
        proxy.stall()
        start = time.monotonic()
        request = asyncio.create_task(client.stream_exists(stream))
        with pytest.raises(HeartbeatMissed, match="sent nothing for"):
            await request
        with pytest.raises(HeartbeatMissed):
            await anext(subscription)
        await eventually(lambda: publisher.error is not None)
        assert isinstance(publisher.error, HeartbeatMissed)
        assert time.monotonic() - start < 12
        assert idle.is_open  # as long, and longer, without a word but the broker's heartbeats
        proxy.refuse()


async def test_a_busy_connection_needs_no_heartbeats(proxy: Proxy, broker: Broker, stream: str) -> None:
    async with Client(options_through(proxy, broker, heartbeat=2), recovery=None) as client:
        publisher = await client.publisher(stream)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            await publisher.publish([b"x"])
            await asyncio.sleep(0.05)
        await publisher.close()
        assert publisher.failed == 0


async def test_a_request_times_out_and_its_late_answer_is_nobodys(proxy: Proxy, broker: Broker, stream: str) -> None:
    async with Client(options_through(proxy, broker, request_timeout=0.2), recovery=None) as client:
        await client.start()
        proxy.broker_may_speak.clear()
        with pytest.raises(RequestTimeout, match=r"within 0\.2 s") as caught:
            await client.stream_exists(stream)
        assert caught.value.retriable
        inside.locator(client).options = options_through(proxy, broker)  # whatever this machine does meanwhile
        proxy.broker_may_speak.set()
        assert await client.stream_exists(stream)


async def test_a_cancelled_request_is_forgotten(through: Client, proxy: Proxy, stream: str) -> None:
    connection = await inside.locator(through).connection()
    proxy.broker_may_speak.clear()
    task = asyncio.create_task(through.stream_exists(stream))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inside.unanswered(connection) == {}
    proxy.broker_may_speak.set()
    assert await through.stream_exists(stream)
    assert await inside.locator(through).connection() is connection


async def test_the_broker_closes(through: Client, stream: str) -> None:
    """With a code and a reason, which everybody on that connection is told."""
    publisher = await through.publisher(stream)
    connection = inside.connection(publisher)
    ask = connection.request(c.Metadata((stream,)), "asking")
    connection.write([bytes.fromhex("00000004 007f0001")])
    with pytest.raises(ServerClosed) as caught:
        await asyncio.wait_for(ask, PATIENCE)
    assert (caught.value.code, caught.value.reason) == (13, "unknown frame")
    with pytest.raises(ServerClosed, match="unknown frame"):
        await publisher.publish([b"x"])
    await publisher.close()
    again = await through.publisher(stream)
    await again.publish([b"x"])
    await again.close()
    assert again.confirmed == 1


async def test_confirms_that_come_with_a_close_count(through: Client, proxy: Proxy, stream: str) -> None:
    publisher = await through.publisher(stream)
    proxy.broker_may_speak.clear()
    await publisher.publish([b"a", b"b"])
    proxy.say(
        c.encode(c.PublishConfirm(inside.lease_id(publisher), (1,))) + c.encode(c.Close(1, "bye"), correlation_id=5)
    )
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (1, 1)
    assert isinstance(publisher.error, ServerClosed)
    proxy.refuse()
    await publisher.close()


@pytest.mark.parametrize(
    "garbage",
    [
        bytes.fromhex("00000004 007f0001"),
        bytes.fromhex("00000002 0017"),
        bytes.fromhex("7fffffff 00030001"),
        bytes.fromhex("00000009 00030001 00 7fffffff"),
        c.encode(c.Create("what?", {})),
        b"\xff" * 100,
    ],
)
async def test_what_is_no_protocol_ends_the_connection(
    through: Client, proxy: Proxy, stream: str, garbage: bytes
) -> None:
    subscription = await through.subscribe(stream, NEXT)
    proxy.say(garbage)
    with pytest.raises(ProtocolError):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await subscription.close()
    assert await through.stream_exists(stream)


async def test_what_may_come_at_any_time_ends_nothing(through: Client, proxy: Proxy, stream: str) -> None:
    subscription = await through.subscribe(stream, NEXT)
    for message in (
        c.Heartbeat(),
        c.PublishConfirm(200, (1, 2)),
        c.PublishError(200, (c.MessageError(1, 2),)),
        c.DeliverCommitted(200, 0, b""),
        c.Deliver(200, b""),
        c.MetadataUpdate(6, "another stream"),
        c.CreditResponse(200),
    ):
        proxy.say(c.encode(message, code=4))
    proxy.say(c.encode(c.CreateResponse(), correlation_id=123456))
    await asyncio.sleep(0.05)
    await publish(through, stream, [b"x"])
    assert (await asyncio.wait_for(anext(subscription), PATIENCE)).messages == [b"x"]
    await subscription.close()


async def test_a_consumer_update_is_answered(through: Client, broker: Broker, stream: str) -> None:
    """Also where nobody asked for a single active consumer by name: the broker waits for it."""
    await publish(through, stream, [b"x"])
    properties = {"single-active-consumer": "true", "name": "group"}
    async with await through.subscribe(stream, FIRST, properties=properties) as subscription:
        assert (await asyncio.wait_for(anext(subscription), PATIENCE)).messages == [b"x"]


async def test_closing_is_bounded(proxy: Proxy, broker: Broker) -> None:
    connection = await Connection.open(proxy.endpoint, options_for(broker))
    proxy.stall()
    start = time.monotonic()
    await connection.close(timeout=0.2)
    assert time.monotonic() - start < 4.5  # less than the default
    assert not connection.is_open


# Consuming.


async def test_a_cut_ends_an_iteration_after_what_came(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    await publish(client, stream, *[[body] for body in bodies(5)])
    consumer = Consumer(client=through)
    found: list[bytes] = []

    async def cut_when_all_came() -> None:
        (connection,) = inside.consuming(through).connections
        intake = inside.intake_of(connection)
        await eventually(lambda: len(intake.arrivals.waiting) == 4)
        proxy.cut()
        await eventually(lambda: intake.error is not None)

    async def iterate() -> None:
        async for message, _ in consumer.messages(stream):
            found.append(message)
            if len(found) == 1:
                await cut_when_all_came()

    with pytest.raises(ConnectionClosed, match="was lost"):
        await asyncio.wait_for(iterate(), PATIENCE)
    assert found == bodies(5)
    await consumer.close()


async def test_run_raises_what_ended_a_subscription(through: Client, proxy: Proxy, client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    found: list[int] = []

    def callback(message: bytes, context: MessageContext) -> None:
        found.append(context.offset)

    consumer = Consumer(client=through)
    await consumer.subscribe(stream, callback)
    await eventually(lambda: len(found) == 3)
    run = asyncio.create_task(consumer.run())
    await asyncio.sleep(0)
    proxy.cut()
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(run, PATIENCE)
    await consumer.close()


async def test_a_stream_that_is_deleted_while_it_is_consumed(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(3))
    subscription = await client.subscribe(stream, FIRST)
    assert len((await anext(subscription)).messages) == 3
    consumer = Consumer(client=client)
    await consumer.subscribe(stream, lambda *_: None)
    run = asyncio.create_task(consumer.run())
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0.05)
    await client.delete_stream(stream)
    for ended in (waiting, run):
        with pytest.raises(StreamDoesNotExist, match=stream):
            await asyncio.wait_for(ended, PATIENCE)
    await subscription.close()
    await consumer.close()


async def test_only_the_deleted_streams_subscriptions_end(client: Client, stream: str, stream_name: str) -> None:
    other = f"{stream_name}-other"
    await client.create_stream(other)
    one, two = await client.subscribe(stream, NEXT), await client.subscribe(other, NEXT)
    assert inside.connection(one) is inside.connection(two)
    await client.delete_stream(other)
    with pytest.raises(StreamDoesNotExist):
        await asyncio.wait_for(anext(two), PATIENCE)
    await two.close()
    await publish(client, stream, [b"x"])
    assert (await asyncio.wait_for(anext(one), PATIENCE)).messages == [b"x"]
    await one.close()


async def test_a_broker_that_is_killed(own_rabbitmq: OwnRabbitMQ, stream_name: str) -> None:
    """In the middle of publishing and consuming: nothing hangs, and no message is counted twice or lost in silence."""
    broker = own_rabbitmq()
    confirmed = failed = 0
    async with Client(options_for(broker, request_timeout=5), recovery=None) as client:
        await client.create_stream(stream_name)
    # A broker that is killed in the first seconds of its first stream forgets where that is; an orderly stop helps.
    for command in ("stop_app", "start_app", "await_startup"):
        await asyncio.to_thread(broker.ctl, command)
    async with Client(options_for(broker, request_timeout=5), recovery=None) as client:
        producer = Producer(client=client, max_in_flight=1000)
        subscription = await client.subscribe(stream_name, FIRST)
        idle = await client.publisher(stream_name)
        told: dict[int, bool] = {}
        sent = 0

        async def go_on() -> None:
            nonlocal sent
            while True:
                await producer.send_batch(
                    stream_name,
                    [b"x" * 100] * 50,
                    on_publish_confirm=lambda status: told.__setitem__(status.message_id, status.is_confirmed),
                )
                sent += 50

        async def consume() -> None:
            async for _ in subscription:
                pass

        publishing, consuming = asyncio.create_task(go_on()), asyncio.create_task(consume())
        await eventually(lambda: sum(told.values()) > 500)
        await asyncio.to_thread(broker.kill)
        for task in (publishing, consuming):
            with pytest.raises((ConnectionClosed, ConnectionFailed, NotConfirmed)):
                await asyncio.wait_for(task, 10)
        with pytest.raises((ConnectionClosed, ConnectionFailed)):
            await idle.publish([b"x"])
        await idle.close()
        await subscription.close()
        await asyncio.wait_for(producer.close(), 15)
        confirmed, failed = sum(told.values()), len(told) - sum(told.values())
        assert sorted(told) == list(range(1, len(told) + 1))
        assert confirmed + failed == len(told) >= sent
        await asyncio.to_thread(broker.start)
        last = None
        async with asyncio.timeout(60):
            while last is None:
                try:
                    last = await client.last_offset(stream_name)
                except (ConnectionFailed, ConnectionClosed, RequestTimeout, StreamNotAvailable, LeaderNotAvailable):
                    await asyncio.sleep(0.2)
        assert last + 1 >= confirmed
        assert last + 1 <= len(told) + 50


async def test_a_connection_that_is_given_up_leaves_no_socket(broker: Broker) -> None:
    """Cancelled wherever it may be on its way."""
    options = options_for(broker, endpoints=(Endpoint("127.0.0.1", broker.port),))
    before = open_sockets()
    for steps in range(40):
        opening = asyncio.create_task(Connection.open(options.endpoints[0], options))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()
    await eventually(lambda: open_sockets() <= before)


async def cancelled_after(steps: int, closing: Coroutine[Any, Any, None]) -> None:
    """Runs it for so many turns of the event loop."""
    task = asyncio.create_task(closing)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("steps", [1, 2, 5])
async def test_a_close_that_is_cancelled_leaves_no_socket(broker: Broker, proxy: Proxy, steps: int) -> None:
    """Though the broker is silent."""
    connection = await Connection.open(proxy.endpoint, options_for(broker))
    proxy.stall()
    await cancelled_after(steps, connection.close())
    await asyncio.wait_for(asyncio.shield(inside.gone(connection)), 4)  # less than a goodbye is waited for
    assert not connection.is_open


@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_client_whose_close_is_cancelled_leaves_no_socket(
    broker: Broker, proxy: Proxy, stream: str, steps: int
) -> None:
    """Though the broker is silent, and a publisher is recovering."""
    client = Client(options_through(proxy, broker))
    publisher = await client.publisher(stream)
    await client.subscribe(stream, NEXT)
    proxy.stall()
    pools = (inside.locator(client), inside.publishing(client), inside.consuming(client))
    connections = [connection for pool in pools for connection in pool.connections]
    assert len(connections) == 3
    inside.publishing(client).connections[0].abort()
    await eventually(lambda: bool(inside.recovering(client)))
    await cancelled_after(steps, client.close())
    await asyncio.wait_for(asyncio.shield(asyncio.gather(*(inside.gone(connection) for connection in connections))), 4)
    await publisher.close()


async def test_a_client_that_is_closing_gives_out_no_connection(through: Client, proxy: Proxy, stream: str) -> None:
    publisher = await through.publisher(stream)
    endpoint = await inside.locator(through).leader_now(stream)
    proxy.stall()
    closing = asyncio.create_task(through.close())
    await eventually(lambda: inside.is_closed(inside.publishing(through)))
    assert inside.publishing(through).connections
    with pytest.raises(AlreadyClosed):
        await inside.publishing(through).acquire(endpoint)
    proxy.resume()
    await closing
    await publisher.close()


def open_sockets() -> int:
    """Of this process; other files are not counted, of which an event loop may open one when it first needs it."""
    count = 0
    for name in os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            count += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
    return count
