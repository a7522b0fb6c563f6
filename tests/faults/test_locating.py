"""Finding a node that serves: replicas that are down, and leaders that are elected."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    Backoff,
    Client,
    ConnectionFailed,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    EmbeddedBroker,
    Endpoint,
    OffsetType,
    RstreamError,
    StreamMetadata,
    StreamNotAvailable,
    TlsError,
    parse_uri,
)
from rstream_core.connecting.locator import Locator
from rstream_core.protocol import commands as c
from rstream_core.protocol.commands import Key
from tests import inside
from tests.clients import FIRST, PATIENCE, bodies, eventually, listening, publish, take

NOBODY = Endpoint("127.0.0.1", 1)
NOBODY_ELSE = Endpoint("127.0.0.1", 2)


@pytest.fixture
async def faulty() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
async def electing(faulty: EmbeddedBroker) -> AsyncIterator[Client]:
    """A client of a broker that can be told to be without a leader; the stream is ``s``."""
    async with Client(ConnectionOptions(endpoints=(parse_uri(faulty.uri).endpoint,)), recovery=None) as client:
        await client.create_stream("s")
        yield client


def name_replicas(client: Client, monkeypatch: pytest.MonkeyPatch, *replicas: Endpoint) -> None:
    """As if the stream had these, too."""
    inside.change_metadata(
        client, monkeypatch, lambda found: StreamMetadata(stream=found.stream, leader=found.leader, replicas=replicas)
    )


async def test_a_first_subscription_passes_replicas_that_are_down(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(client, stream, bodies(3))
    name_replicas(client, monkeypatch, NOBODY, NOBODY_ELSE)
    async with await asyncio.wait_for(client.subscribe(stream, FIRST), PATIENCE) as subscription:
        assert list((await take(subscription, 3)).values()) == bodies(3)


async def test_where_no_node_serves_the_first_error_is_told(
    electing: Client, faulty: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_replicas(electing, monkeypatch, NOBODY)
    faulty.faults.answer(Key.SUBSCRIBE, StreamNotAvailable.code, times=100)
    with pytest.raises(ConnectionFailed, match=str(NOBODY)):
        await electing.subscribe("s", FIRST)


async def test_what_has_no_leader_yet_has_one_in_a_moment(electing: Client, faulty: EmbeddedBroker) -> None:
    """Right after its creation, and while its leader moves, a stream is not available to those who declare either."""
    faulty.faults.answer(Key.DECLARE_PUBLISHER, StreamNotAvailable.code, times=2)
    publisher = await electing.publisher("s", "writer")
    await publisher.publish(bodies(3))
    await publisher.flush(PATIENCE)
    faulty.faults.answer(Key.SUBSCRIBE, StreamNotAvailable.code, times=2)
    async with await electing.subscribe("s", FIRST) as subscription:
        assert list((await take(subscription, 3)).values()) == bodies(3)
    faulty.faults.answer(Key.SUBSCRIBE, StreamNotAvailable.code)
    assert await electing.last_offset("s") == 2
    faulty.faults.answer(Key.SUBSCRIBE, StreamNotAvailable.code)
    assert await electing.tail_offset("s", 1) == 2
    faulty.faults.answer(Key.RESOLVE_OFFSET_SPEC, StreamNotAvailable.code)
    assert await electing.resolve_offset("s", ConsumerOffsetSpecification(OffsetType.NEXT)) == 3
    await publisher.close()


async def test_a_leader_is_not_waited_for_without_end(
    electing: Client, faulty: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstream_core.connecting.locator.LEADER_WAIT", Backoff(attempts=3, initial=0.01))
    faulty.faults.answer(Key.DECLARE_PUBLISHER, StreamNotAvailable.code, times=4)
    with pytest.raises(StreamNotAvailable):
        await electing.publisher("s")
    with pytest.raises(ConnectionFailed):
        await Client(ConnectionOptions(endpoints=(NOBODY,))).publisher("s")
    publisher = await electing.publisher("s")
    await publisher.close()


async def test_tls_that_fails_with_an_advertised_node_is_told_as_that() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is not TLS")

    async with listening(serve) as node:
        locator = Locator(ConnectionOptions(endpoints=(NOBODY,), tls=ssl.create_default_context()))
        with pytest.raises(TlsError, match=f"{NOBODY} calls {node}: no TLS connection") as caught:
            await locator.connect(node)
    assert not caught.value.retriable
    assert "TLS port" in (caught.value.hint or "")


async def test_errors_that_are_raised_again_do_not_grow(
    electing: Client, faulty: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the broker is asked once, and not each time, what became of the stream."""
    publisher = await electing.publisher("s")
    subscription = await electing.subscribe("s", FIRST)
    faulty.faults.move_leader("s")
    await eventually(lambda: None not in (publisher.error, subscription.error))
    asked = 0

    def count(found: StreamMetadata) -> StreamMetadata:
        nonlocal asked
        asked += 1
        return found

    inside.change_metadata(electing, monkeypatch, count)
    connection = await inside.locator(electing).connection()
    connection.abort()
    for again in (
        lambda: publisher.publish([b"x"]),
        subscription.raise_error,
        lambda: connection.request(c.Metadata(()), "a question"),
    ):
        lengths, looks = [], []
        for _ in range(3):
            with pytest.raises(RstreamError) as caught:
                await again()
            lengths.append(len(caught.traceback))
            looks.append(asked)
        assert lengths[0] == lengths[1] == lengths[2]
        assert looks[0] == looks[1] == looks[2]
    assert asked > 0
    await subscription.close()
    await publisher.close()
