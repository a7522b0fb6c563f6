"""The fault switches of the embedded broker: each is seen by a real client, and the broker goes on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rstream_core import (
    AccessRefused,
    Client,
    ConnectionClosed,
    ConnectionOptions,
    EmbeddedBroker,
    HeartbeatMissed,
    Publisher,
    StreamNotAvailable,
    parse_uri,
)
from rstream_core.broker.writer import Fsync, Writer
from rstream_core.errors import RstreamError, ServerError
from rstream_core.protocol import commands as c
from rstream_core.protocol.commands import Key
from tests.brokers import broker_at
from tests.clients import FIRST, PATIENCE, bodies, eventually, publish, read
from tests.wire import Wire

STREAM = "s"


def options(broker: EmbeddedBroker, **more: object) -> ConnectionOptions:
    return ConnectionOptions(endpoints=(parse_uri(broker.uri).endpoint,), **more)  # type: ignore[arg-type]


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(heartbeat=1) as running:
        yield running


@pytest.fixture
async def client(broker: EmbeddedBroker) -> AsyncIterator[Client]:
    async with Client(options(broker), recovery=None) as opened:
        await opened.create_stream(STREAM)
        yield opened


async def errors_of(publisher: Publisher) -> RstreamError:
    await eventually(lambda: publisher.error is not None)
    assert publisher.error is not None
    return publisher.error


async def test_a_connection_drops_after_confirms(broker: EmbeddedBroker, client: Client) -> None:
    broker.faults.drop_after_confirms(25)
    publisher = await client.publisher(STREAM)
    await publisher.publish(bodies(100))
    assert isinstance(await errors_of(publisher), ConnectionClosed)
    assert (publisher.confirmed, publisher.failed) == (25, 75)
    await publisher.close()
    assert len(await read(client, STREAM, 100)) == 100  # stored all the same
    await publish(client, STREAM, bodies(100))


async def test_a_frame_is_cut(broker: EmbeddedBroker, client: Client) -> None:
    await publish(client, STREAM, bodies(10))
    broker.faults.cut_frame(Key.DELIVER, 100)
    subscription = await client.subscribe(STREAM, FIRST)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await subscription.close()
    assert len(await read(client, STREAM, 10)) == 10


async def test_an_answer_is_cut(broker: EmbeddedBroker, client: Client) -> None:
    await client.stats(STREAM)
    broker.faults.cut_frame(Key.STREAM_STATS)
    with pytest.raises(ConnectionClosed):
        await client.stats(STREAM)
    await client.stats(STREAM)


async def test_everything_is_late(broker: EmbeddedBroker, client: Client) -> None:
    broker.faults.delay(0.2)
    start = time.monotonic()
    assert await client.stream_exists(STREAM)
    assert time.monotonic() - start >= 0.2
    await publish(client, STREAM, bodies(10), bodies(10))
    broker.faults.clear()
    assert list((await read(client, STREAM, 20)).values()) == bodies(10) * 2


async def test_what_is_late_stays_in_order(broker: EmbeddedBroker, client: Client) -> None:
    publisher = await client.publisher(STREAM)
    broker.faults.delay(0.1)
    for number, body in enumerate(bodies(10)):
        await publisher.publish([body])
        await asyncio.sleep(0)
        if number == 5:
            broker.faults.clear()
    await publisher.close()
    assert list((await read(client, STREAM, 10)).values()) == bodies(10)


async def test_an_answer_with_a_code(broker: EmbeddedBroker, client: Client) -> None:
    broker.faults.answer(Key.SUBSCRIBE, 16, times=2)
    for _ in range(2):
        with pytest.raises(AccessRefused):
            await client.subscribe(STREAM, FIRST)
    await (await client.subscribe(STREAM, FIRST)).close()
    broker.faults.answer(Key.CREATE, 15)
    with pytest.raises(ServerError):
        await client.create_stream("other")
    assert not await client.stream_exists("other")
    await client.create_stream("other")


async def test_messages_are_rejected(broker: EmbeddedBroker, client: Client) -> None:
    publisher = await client.publisher(STREAM)
    broker.faults.answer(Key.PUBLISH, 6)
    await publisher.publish(bodies(3))
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (0, 3)
    await publisher.publish(bodies(3))
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (3, 3)
    await publisher.close()


async def test_nothing_is_read(broker: EmbeddedBroker, client: Client) -> None:
    publisher = await client.publisher(STREAM, max_in_flight=10**6, max_in_flight_bytes=10**9)
    broker.faults.stop_reading()
    task = asyncio.create_task(publisher.publish([bytes(100_000)] * 300))
    _, waiting = await asyncio.wait([task], timeout=0.3)
    assert waiting, "30 MB went nowhere"
    assert publisher.confirmed == 0
    broker.faults.resume_reading()
    await asyncio.wait_for(task, PATIENCE)
    await publisher.flush(PATIENCE)
    assert publisher.confirmed == 300
    await publisher.close()


async def test_a_leader_moves(broker: EmbeddedBroker, client: Client) -> None:
    publisher = await client.publisher(STREAM)
    subscription = await client.subscribe(STREAM, FIRST)
    broker.faults.move_leader(STREAM)
    assert isinstance(await errors_of(publisher), StreamNotAvailable)
    with pytest.raises(StreamNotAvailable):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await publisher.close()
    await subscription.close()
    await publish(client, STREAM, bodies(3))
    assert len(await read(client, STREAM, 3)) == 3


async def test_heartbeats_stall(broker: EmbeddedBroker, client: Client) -> None:
    subscription = await client.subscribe(STREAM, FIRST)
    broker.faults.stall_heartbeats()
    with pytest.raises(HeartbeatMissed):
        await asyncio.wait_for(anext(subscription), 5)
    await subscription.close()


async def test_connections_drop(broker: EmbeddedBroker, client: Client) -> None:
    subscription = await client.subscribe(STREAM, FIRST)
    await eventually(lambda: broker.statistics.connections == 2)
    broker.faults.drop_connections()
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(anext(subscription), PATIENCE)
    await subscription.close()
    await eventually(lambda: broker.statistics.connections == 0)


async def test_a_client_that_takes_nothing_is_not_read_and_then_missed() -> None:
    """Backpressure ends where a client is gone without a word."""
    async with EmbeddedBroker(heartbeat=1) as broker, Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        await publish(client, STREAM, *([bytes(900_000)] for _ in range(20)))
        wire = await Wire(broker_at(broker.uri)).connect()
        await wire.log_in()
        await eventually(lambda: broker.statistics.connections == 2)
        wire.send(c.Subscribe(1, STREAM, c.OffsetSpec(1), 1000, {}))
        await eventually(lambda: broker.statistics.connections == 1)
        wire.close()


async def test_the_disk_is_full(broker: EmbeddedBroker, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = await client.publisher(STREAM, "writer")
    await publisher.publish(bodies(3))
    await publisher.flush(PATIENCE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        await publisher.publish(bodies(3))
        await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (3, 3)
    await publisher.close()
    again = await client.publisher(STREAM, "writer")
    assert again.known_publishing_id == 3  # what was rejected may be published again
    await again.publish(bodies(3))
    await again.close()
    assert again.confirmed == 3
    assert len(await read(client, STREAM, 6)) == 6


@pytest.mark.parametrize("fsync", [mode.value for mode in Fsync])
async def test_every_way_to_sync(tmp_path: Path, fsync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = Writer.sync

    def counting(writer: Writer) -> asyncio.Future[None]:
        synced.append(1)
        return sync(writer)

    monkeypatch.setattr(Writer, "sync", counting)
    async with EmbeddedBroker(data=tmp_path, fsync=fsync) as broker, Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM, {"stream-max-segment-size-bytes": 10_000})
        await publish(client, STREAM, *[bodies(100, f"{number} ") for number in range(20)])
        subscription = await client.subscribe(STREAM, FIRST)
        found = 0
        while found < 2000:
            found += len((await asyncio.wait_for(anext(subscription), PATIENCE)).messages)
        await subscription.close()
        during = len(synced)
    assert (during >= 20) == (fsync == "always")
    assert bool(synced) == (fsync != "never")
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker), recovery=None) as client:
        assert broker.dropped == []
        assert await client.last_offset(STREAM) == 1999


async def test_a_stream_that_is_deleted_while_it_is_synced(tmp_path: Path) -> None:
    async with (
        EmbeddedBroker(data=tmp_path, fsync="always") as broker,
        Client(options(broker), recovery=None) as client,
    ):
        for _ in range(5):
            await client.create_stream(STREAM)
            publisher = await client.publisher(STREAM)
            await publisher.publish(bodies(500))
            await client.delete_stream(STREAM)
            await errors_of(publisher)
            assert publisher.published == publisher.confirmed + publisher.failed
            await publisher.close()
        await client.create_stream(STREAM)
        await publish(client, STREAM, bodies(3))
        assert len(await read(client, STREAM, 3)) == 3


async def test_a_failed_sync_confirms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        EmbeddedBroker(data=tmp_path, fsync="always") as broker,
        Client(options(broker), recovery=None) as client,
    ):
        await client.create_stream(STREAM)
        publisher = await client.publisher(STREAM)

        def broken(fd: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            await publisher.publish(bodies(3))
            await publisher.flush(PATIENCE)
            assert (publisher.confirmed, publisher.failed) == (0, 3)
        await publisher.publish(bodies(3))  # and nothing more is believed
        await publisher.flush(PATIENCE)
        assert (publisher.confirmed, publisher.failed) == (0, 6)
        await publisher.close()
