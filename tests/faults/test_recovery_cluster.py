"""Nodes of a real cluster that die while messages go through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rstream_core import Backoff, Client, Endpoint, Publisher, Recovery, Subscription
from tests.brokers import Broker, Cluster
from tests.clients import FIRST, bodies, eventually, options_for
from tests.recovering import GIVEN_UP, LOST, RECOVERED, Events, stored

pytestmark = pytest.mark.slow

PATIENT = Recovery(seconds=60, backoff=Backoff(attempts=1000, initial=0.05, maximum=0.5))
BATCH = 100


@pytest.fixture
async def client(cluster: Cluster, events: Events) -> AsyncIterator[Client]:
    first = cluster.nodes[0]
    endpoints = tuple(Endpoint(node.host, node.port) for node in cluster.nodes)
    async with Client(options_for(first, endpoints=endpoints), recovery=PATIENT, on_recovery=events) as opened:
        yield opened


def index(cluster: Cluster, endpoint: Endpoint | None) -> int:
    ports = [node.port for node in cluster.nodes]
    assert endpoint is not None
    return ports.index(endpoint.port)


async def publish_until(publisher: Publisher, stop: asyncio.Event) -> int:
    """Numbered messages, a few thousand a second; how many there were."""
    count = 0
    while not stop.is_set():
        await publisher.publish([b"%d" % number for number in range(count, count + BATCH)])
        count += BATCH
        await asyncio.sleep(0.02)
    await publisher.flush(60)
    return count


async def consume(subscription: Subscription, found: list[bytes]) -> None:
    async for chunk in subscription:
        found += chunk.messages


async def test_a_leader_that_dies_loses_nothing_and_doubles_nothing(
    cluster: Cluster, client: Client, events: Events, stream_name: str
) -> None:
    await client.create_stream(stream_name)
    await asyncio.to_thread(cluster.settle)
    publisher = await client.publisher(stream_name, "writer", max_in_flight=5000)
    subscription = await client.subscribe(stream_name, FIRST)
    stop = asyncio.Event()
    publishing = asyncio.create_task(publish_until(publisher, stop))
    found: list[bytes] = []
    consuming = asyncio.create_task(consume(subscription, found))
    async with asyncio.timeout(120):
        await eventually(lambda: publisher.confirmed > 1000, 60)
        leader = index(cluster, (await client.metadata(stream_name)).leader)
        await asyncio.to_thread(cluster.kill, leader)
        await eventually(lambda: publisher.in_flight > 0 and LOST in events.states, 60)
        before = publisher.confirmed
        await eventually(lambda: publisher.confirmed > before + 1000, 60)
        assert index(cluster, (await client.metadata(stream_name)).leader) != leader
        await asyncio.to_thread(cluster.start, leader)
        stop.set()
        count = await publishing
        await eventually(lambda: len(found) >= count, 60)
    assert (publisher.confirmed, publisher.failed) == (count, 0)
    await publisher.close()
    await subscription.close()
    await consuming
    assert found == bodies(count)
    assert await stored(client, stream_name) == found
    assert GIVEN_UP not in events.states
    assert [event.state for event in events if event.what == "publisher"][:2] == [LOST, RECOVERED]
    await client.delete_stream(stream_name)


async def test_one_seed_is_enough_to_know_the_others(cluster: Cluster, events: Events, stream_name: str) -> None:
    """The node that was given dies: the others are known by then."""
    seed: Broker = cluster.nodes[0]
    async with Client(options_for(seed), recovery=PATIENT, on_recovery=events) as client:
        await client.create_stream(stream_name)
        await asyncio.to_thread(cluster.settle)
        await client.metadata(stream_name)
        publisher = await client.publisher(stream_name, "writer")
        await publisher.publish(bodies(10))
        await publisher.flush(60)
        await asyncio.to_thread(cluster.kill, 0)
        try:
            await asyncio.wait_for(publisher.publish(bodies(10)), 60)
            await publisher.flush(60)
            assert await client.stream_exists(stream_name)
            await publisher.close()
            assert await stored(client, stream_name) == bodies(10) * 2
        finally:
            await asyncio.to_thread(cluster.start, 0)
