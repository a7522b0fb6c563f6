"""Connections that end at every byte of the handshake, of a publish and of a delivery; and other ways to a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from rstream_core import (
    AdvertisedHostUnreachable,
    Backoff,
    Client,
    ConnectionClosed,
    ConnectionFailed,
    Endpoint,
    HostNotFound,
    Recovery,
    RequestTimeout,
    ServerError,
)
from rstream_core.connecting import nodes
from tests import inside
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, bodies, options_for, publish
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, LOST, RECOVERED, Events, stored

DOCUMENTED = (ConnectionFailed, ConnectionClosed, ServerError)

QUICK = Recovery(seconds=PATIENCE, backoff=Backoff(attempts=100, initial=0.001, maximum=0.01))


@pytest.fixture
async def through(proxy: Proxy, broker: Broker) -> AsyncIterator[Client]:
    async with Client(options_through(proxy, broker), recovery=QUICK) as opened:
        yield opened


async def handshake_bytes(proxy: Proxy, broker: Broker) -> tuple[int, int]:
    """How many bytes each side sends until a client has connected."""
    proxy.from_client = proxy.from_broker = 0
    async with Client(options_through(proxy, broker)) as client:
        await client.start()
        return proxy.from_client, proxy.from_broker


@pytest.mark.parametrize("in_half", [False, True])
@pytest.mark.parametrize("side", ["client", "broker"])
async def test_a_first_connection_that_is_cut_at_every_byte(
    proxy: Proxy, broker: Broker, side: str, in_half: bool
) -> None:
    """A documented error, at once: nothing was there that could be recovered.

    Also where one side only is told that nothing more comes, and can still speak.
    """
    length = (await handshake_bytes(proxy, broker))[side == "broker"]
    assert length > 100
    proxy.cuts_in_half = in_half
    for count in range(length):
        proxy.from_client = proxy.from_broker = 0
        if side == "client":
            proxy.cut_at = count
        else:
            proxy.cut_broker_at = count
        async with asyncio.timeout(PATIENCE):
            client = Client(options_for(broker, endpoints=(proxy.endpoint,)))
            with pytest.raises(DOCUMENTED):
                await client.start()
            await client.close()
    proxy.cut_at = proxy.cut_broker_at = None


@pytest.mark.parametrize("side", ["client", "broker"])
async def test_a_recovery_that_is_cut_at_every_byte(
    through: Client, proxy: Proxy, client: Client, broker: Broker, stream: str, side: str
) -> None:
    """From the first byte of connecting again to the last of what is written again: each message is there once."""
    publisher = await through.publisher(stream, "writer")
    await publisher.publish([b"first"])
    await publisher.flush(PATIENCE)
    length = (await handshake_bytes(proxy, broker))[side == "broker"]
    expected = [b"first"]
    # A recovery takes two connections, the one for questions and the publisher's.
    for count in range(0, 2 * length + 150, 7):
        messages = bodies(3, f"{count}-")
        expected += messages
        async with asyncio.timeout(2 * PATIENCE):
            proxy.cut()
            proxy.from_client = proxy.from_broker = 0
            if side == "client":
                proxy.cut_at = count
            else:
                proxy.cut_broker_at = count
            await publisher.publish(messages)
            await publisher.flush()
        proxy.cut_at = proxy.cut_broker_at = None
    assert (publisher.confirmed, publisher.failed) == (len(expected), 0)
    await publisher.close()
    assert await stored(client, stream) == expected


async def test_a_delivery_that_is_cut_at_every_byte(through: Client, proxy: Proxy, client: Client, stream: str) -> None:
    await publish(client, stream, *[[body] for body in bodies(3)])
    async with await through.subscribe(stream, FIRST) as subscription:
        before = proxy.from_broker
        for _ in range(3):
            await asyncio.wait_for(anext(subscription), PATIENCE)
        length = proxy.from_broker - before
    for count in range(0, length + 100, 3):
        async with asyncio.timeout(2 * PATIENCE):
            subscription = await through.subscribe(stream, FIRST)
            proxy.from_broker = 0
            proxy.cut_broker_at = count
            found = [message for _ in range(3) for message in (await anext(subscription)).messages]
            proxy.cut_broker_at = None
            await subscription.close()
        assert found == bodies(3)


@pytest.mark.parametrize("side", ["client", "broker"])
async def test_connections_that_are_half_closed(
    through: Client, proxy: Proxy, client: Client, stream: str, side: str
) -> None:
    publisher = await through.publisher(stream, "writer")
    subscription = await through.subscribe(stream, FIRST)
    expected: list[bytes] = []
    found: list[bytes] = []
    for number in range(5):
        messages = bodies(100, f"{number}-")
        expected += messages
        async with asyncio.timeout(2 * PATIENCE):
            await publisher.publish(messages[:50])
            proxy.half_close(client=side == "client")
            await publisher.publish(messages[50:])
            await publisher.flush()
            while len(found) < len(expected):
                found += (await anext(subscription)).messages
    assert (publisher.confirmed, publisher.failed) == (len(expected), 0)
    assert found == await stored(client, stream) == expected
    await publisher.close()
    await subscription.close()


async def test_bytes_that_come_late_and_in_pieces(
    proxy: Proxy, broker: Broker, client: Client, stream: str, events: Events
) -> None:
    proxy.piece, proxy.delay = 11, 0.001
    async with asyncio.timeout(60), Client(options_through(proxy, broker), on_recovery=events) as through:
        publisher = await through.publisher(stream)
        await publisher.publish(bodies(300))
        await publisher.flush()
        assert (publisher.confirmed, publisher.failed) == (300, 0)
        await publisher.close()
        assert await stored(through, stream) == bodies(300)
    assert events == []


# Where nodes are reached.


async def test_a_resolver_says_where_nodes_are_reached(
    broker: Broker, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    advertised = (await client.metadata(stream)).leader
    asked: list[Endpoint] = []

    def resolver(endpoint: Endpoint) -> Endpoint:
        asked.append(endpoint)
        return proxy.endpoint

    options = options_for(broker, endpoints=(proxy.endpoint,), resolver=resolver)
    async with Client(options, recovery=QUICK, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer")
        assert inside.connection(publisher).endpoint == proxy.endpoint
        proxy.cut()
        await publisher.publish(bodies(3))
        await publisher.flush(PATIENCE)
        assert inside.connection(publisher).endpoint == proxy.endpoint
        assert await stored(through, stream) == bodies(3)
        await publisher.close()
    assert set(asked) == {advertised}
    assert len(events) == 2
    nowhere = options_for(broker, resolver=lambda _: Endpoint("nowhere.invalid", 5552))
    async with Client(nowhere) as lost:
        with pytest.raises(AdvertisedHostUnreachable, match="does not resolve"):
            await lost.publisher(stream)


async def test_a_resolver_that_does_not_know_a_node(
    broker: Broker, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """That node cannot be reached, and the seeds still can; what recovers goes on when the resolver knows."""
    knows = True

    def resolver(endpoint: Endpoint) -> Endpoint:
        if not knows:
            raise KeyError(endpoint.host)
        return proxy.endpoint

    options = options_for(broker, endpoints=(proxy.endpoint,), resolver=resolver)
    # Each attempt fails at once: there must be enough of them for as long as the questions take.
    async with Client(options, recovery=EAGER, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer")
        knows = False
        proxy.cut()
        assert await through.stream_exists(stream)
        with pytest.raises(HostNotFound, match=r"the resolver failed for .*: KeyError"):
            await through.subscribe(stream, FIRST)
        assert events.states == [LOST]
        knows = True
        await publisher.publish(bodies(3))
        await publisher.flush(PATIENCE)
        await publisher.close()
    assert events.states == [LOST, RECOVERED]


async def test_a_load_balancer_that_leads_to_a_dead_node_first(proxy: Proxy, broker: Broker, stream: str) -> None:
    """As one does until it knows: that node's connections end, and others are led elsewhere."""
    async with Client(options_through(proxy, broker), recovery=None) as through:
        proxy.accepted, proxy.turn_away = 0, 2
        assert await through.stream_exists(stream)
        assert proxy.accepted == 3
        proxy.turn_away = 2
        publisher = await through.publisher(stream)
        assert proxy.accepted == 6
        await publisher.close()
    proxy.accepted, proxy.turn_away = 0, 1000
    async with Client(options_through(proxy, broker), recovery=None) as through:
        with pytest.raises(ConnectionFailed, match=r"(closed|ended) the connection"):
            await through.start()
    assert 1 < proxy.accepted < 20


async def test_a_load_balancer_that_takes_too_long(
    proxy: Proxy, broker: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than all attempts together may: then no attempt has an error to tell."""
    monkeypatch.setattr(nodes, "LOAD_BALANCER_SECONDS", 0.5)
    async with Client(options_through(proxy, broker), recovery=None) as through:
        assert await through.stream_exists(stream)
        leader = await inside.locator(through).leader_now(stream)
        proxy.stall()
        with pytest.raises(ConnectionFailed, match=rf"no connection through {proxy.endpoint} within 0\.5 s"):
            await inside.locator(through).connect(leader)
        proxy.cut()


@pytest.mark.parametrize("how", ["down", "silent"])
async def test_the_second_load_balancer_where_the_first_does_not_serve(
    proxy: Proxy, broker: Broker, stream: str, how: str
) -> None:
    """It is noticed once, and then left alone for a while; while both serve they take turns."""
    async with Proxy(options_for(broker).endpoints[0]) as second:
        options = options_through(proxy, broker, connect_timeout=3.5, request_timeout=3.5)
        options = replace(options, endpoints=(proxy.endpoint, second.endpoint))
        async with asyncio.timeout(60), Client(options, recovery=QUICK, max_publishers_by_connection=1) as through:
            publishers = [await through.publisher(stream) for _ in range(3)]
            assert (proxy.accepted, second.accepted) == (2, 2)
            proxy.accepted = second.accepted = 0
            if how == "down":
                proxy.refuse()
                proxy.cut()
            else:
                proxy.stall()
            publishers += [await through.publisher(stream) for _ in range(5)]
            assert proxy.accepted <= 1
            assert second.accepted >= 5
            proxy.cut()
            for publisher in publishers:
                await publisher.publish([b"x"])
                await publisher.flush(PATIENCE)
                await publisher.close()


async def test_ipv6(broker: Broker, client: Client, stream: str) -> None:
    try:
        proxy = await Proxy(options_for(broker).endpoints[0], "::1").__aenter__()
    except OSError:
        pytest.skip("this machine has no ::1")
    assert str(proxy.endpoint).startswith("[::1]:")
    try:
        async with Client(options_through(proxy, broker), recovery=QUICK) as through:
            publisher = await through.publisher(stream, "writer")
            proxy.cut()
            await publisher.publish(bodies(3))
            await publisher.flush(PATIENCE)
            await publisher.close()
    finally:
        await proxy.__aexit__(None, None, None)
    assert await stored(client, stream) == bodies(3)


async def test_seeds_are_tried_in_order(broker: Broker, proxy: Proxy, stream: str) -> None:
    """One that refuses, and one that accepts and falls silent, lead to the next."""
    async with Proxy(options_for(broker).endpoints[0]) as silent:
        silent.stall()
        refused = Endpoint("127.0.0.1", 1)
        good = options_for(broker).endpoints[0]
        options = options_for(broker, endpoints=(refused, silent.endpoint, good), connect_timeout=3.5)
        async with Client(options) as client:
            assert await client.stream_exists(stream)
            assert silent.accepted == 1


@pytest.mark.parametrize("recovery", [QUICK, None])
async def test_a_node_that_falls_silent_is_left_for_another(
    broker: Broker, proxy: Proxy, stream: str, recovery: Recovery | None
) -> None:
    """Long before its heartbeats are missed, and without asking it again first."""
    async with Proxy(options_for(broker).endpoints[0]) as another:
        options = options_for(
            broker, endpoints=(proxy.endpoint, another.endpoint), connect_timeout=PATIENCE, request_timeout=3.5
        )
        async with asyncio.timeout(14), Client(options, recovery=recovery) as client:
            await client.start()
            proxy.stall()
            if recovery is None:
                with pytest.raises(RequestTimeout):
                    await client.stream_exists(stream)
            assert await client.stream_exists(stream)
            assert (proxy.accepted, another.accepted) == (1, 1)
