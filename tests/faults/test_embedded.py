"""The fault switches of the embedded broker: each is seen by a real client, and the broker goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import rstream_core.broker.clients
import rstream_core.broker.connection
import rstream_core.broker.server
from rstream_core import (
    AccessRefused,
    AMQPMessage,
    Client,
    ConfigurationError,
    ConnectionClosed,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    EmbeddedBroker,
    HeartbeatMissed,
    InternalError,
    NotConfirmed,
    OffsetType,
    Producer,
    Publisher,
    RecoveryEvent,
    RecoveryState,
    StreamNotAvailable,
    parse_uri,
)
from rstream_core.broker.connection import WRITE_BUFFER, BrokerConnection
from rstream_core.broker.faults import Faults
from rstream_core.broker.log import LARGE
from rstream_core.broker.segment import Segment
from rstream_core.broker.writer import Fsync, Writer
from rstream_core.errors import ChunkError, RstreamError, ServerError
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import HEADER, parse_chunk
from rstream_core.protocol.commands import Key
from tests import inside
from tests.brokers import broker_at
from tests.clients import FIRST, PATIENCE, at, bodies, eventually, publish, read
from tests.recovering import EAGER
from tests.wire import Wire

STREAM = "s"


def options(broker: EmbeddedBroker, **more: object) -> ConnectionOptions:
    return ConnectionOptions(endpoints=(parse_uri(broker.uri).endpoint,), **more)  # type: ignore[arg-type]


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as running:
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


async def test_each_copy_that_may_be_stored_is_counted(broker: EmbeddedBroker, client: Client) -> None:
    """What is sent again over and over may be there over and over."""
    left = 3

    def on_recovery(event: RecoveryEvent) -> None:
        nonlocal left
        if event.state is RecoveryState.LOST and left:
            left -= 1
            broker.faults.cut_frame(Key.PUBLISH_CONFIRM)

    async with Client(options(broker), recovery=EAGER, on_recovery=on_recovery) as recovering:
        publisher = await recovering.publisher(STREAM)
        broker.faults.cut_frame(Key.PUBLISH_CONFIRM)
        await publisher.publish(bodies(10))
        await publisher.publish_sub_entry(bodies(5))
        await publisher.flush(PATIENCE)
        assert publisher.confirmed == 15
        assert publisher.sent_again >= 40  # four times, and what of the 15 was written before the first
        await publisher.close()
    everything = 15 + publisher.sent_again
    assert len(await read(client, STREAM, everything)) == everything


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


async def test_heartbeats_stall() -> None:
    # Longer ones than a pause of this machine, after which the broker might miss the client first.
    async with EmbeddedBroker(heartbeat=4) as broker, Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        subscription = await client.subscribe(STREAM, FIRST)
        broker.faults.stall_heartbeats()
        with pytest.raises(HeartbeatMissed):
            await asyncio.wait_for(anext(subscription), PATIENCE)
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
    async with EmbeddedBroker() as broker, Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        await publish(client, STREAM, *([bytes(900_000)] for _ in range(20)))
        wire = await Wire(broker_at(broker.uri)).connect()
        await wire.log_in(tune=c.Tune(0, 1))  # of the two only this one is in danger
        await eventually(lambda: broker.statistics.connections == 2)
        wire.send(c.Subscribe(1, STREAM, c.OffsetSpec(1), 1000, {}))
        await eventually(lambda: broker.statistics.connections == 1)
        wire.close()


async def test_a_client_that_takes_little_at_a_time_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from it meanwhile; and as much may wait for it at each look, though it is not the same."""
    inside.take_all_for_stuck(monkeypatch)
    async with EmbeddedBroker() as broker, Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        await publish(client, STREAM, *([bytes(900_000)] for _ in range(40)))
        wire = await Wire(broker_at(broker.uri)).connect()
        await wire.log_in(tune=c.Tune(0, 3))  # missed after 6 s, which a pause of this machine is not
        wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.send(c.Subscribe(1, STREAM, c.OffsetSpec(1), 1000, {}))
        for _ in range(50):
            await wire.reader.readexactly(600_000)
            await asyncio.sleep(0.15)  # slow is what it is
        wire.close()


async def test_answers_to_a_client_that_takes_none_wait_for_it(
    broker: EmbeddedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may be nine times as large as its question."""
    most = 0

    def measure(connection: BrokerConnection) -> None:
        nonlocal most
        most = max(most, connection.transport.get_write_buffer_size())

    inside.watch_writes(monkeypatch, measure)
    wire = await Wire(broker_at(broker.uri)).connect()
    await wire.log_in(tune=c.Tune(0, 0))
    answer = c.encode((await wire.ask(c.StreamStats(STREAM))).message)
    count = 50_000
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    wire.send_bytes(c.encode(c.StreamStats(STREAM), correlation_id=1) * (count - 1))
    wire.send_bytes(c.encode(c.StreamStats(STREAM), correlation_id=2))
    # Tens of thousands of answers: on a busy machine they take their time.
    await eventually(lambda: most > WRITE_BUFFER, 4 * PATIENCE)
    async with asyncio.timeout(4 * PATIENCE):
        await wire.reader.readexactly(len(answer) * (count - 1))
    assert (await wire.take(c.StreamStatsResponse)).correlation_id == 2
    wire.close()
    assert most < WRITE_BUFFER + 1000


@pytest.mark.parametrize("is_armed", [False, True], ids=["from the file", "through memory"])
async def test_large_and_small_chunks_come_whole_and_in_order(
    broker: EmbeddedBroker, client: Client, is_armed: bool
) -> None:
    """To a client that begins to take them when the system's buffers are full."""
    expected = [bytes([number]) * size for number, size in enumerate([10, 900_000, LARGE, 10, 20, LARGE - 1] * 10)]
    await publish(client, STREAM, *([body] for body in expected))
    if is_armed:
        broker.faults.delay(0)
    async with Wire(broker_at(broker.uri)) as wire:
        wire.send(c.Subscribe(1, STREAM, c.OffsetSpec(1), len(expected), {}))
        await eventually(lambda: broker.statistics.delivered_chunks > 5)
        found: list[bytes] = []
        while len(found) < len(expected):
            frame = await wire.next_frame()
            if isinstance(frame.message, c.Deliver):
                found += parse_chunk(frame.message.chunk)[1]
    assert found == expected
    assert broker.statistics.delivered_chunks == len(expected)
    assert broker.statistics.delivered_bytes == sum(map(len, expected)) + len(expected) * (HEADER.size + 4)


async def test_a_file_that_becomes_shorter_ends_the_connection(broker: EmbeddedBroker, client: Client) -> None:
    """Within a frame, there is nothing else to be said."""
    await publish(client, STREAM, [bytes(10 * LARGE)])
    os.truncate(inside.server(broker).streams.find("/", STREAM).log.active.path, 2 * LARGE)
    async with Wire(broker_at(broker.uri)) as wire:
        assert await wire.code(c.Subscribe(1, STREAM, c.OffsetSpec(1), 1, {})) == 1
        with pytest.raises(ConnectionError):
            await wire.take(c.Deliver)
    assert await client.stream_exists(STREAM)


async def test_what_was_published_before_a_close_is_confirmed(broker: EmbeddedBroker, client: Client) -> None:
    async with Wire(broker_at(broker.uri)) as wire:
        await wire.ask(c.DeclarePublisher(1, "", STREAM))
        publish = c.encode(c.Publish(1, [c.PublishedMessage(7, b"x")]))
        wire.send_bytes(publish + c.encode(c.Close(1, "bye"), correlation_id=2))
        assert [frame.message for frame in await wire.ended()] == [c.PublishConfirm(1, (7,)), c.CloseResponse()]


async def test_nothing_comes_after_the_answer_to_a_close(broker: EmbeddedBroker, client: Client) -> None:
    """Neither what somebody else publishes in the same turn, and is large enough to be sent from the file."""
    async with Wire(broker_at(broker.uri)) as writer, Wire(broker_at(broker.uri)) as reader:
        await writer.ask(c.DeclarePublisher(1, "", STREAM))
        await reader.ask(c.Subscribe(1, STREAM, c.OffsetSpec(3), 10, {}))
        connections = inside.connections(broker)
        (publishing,) = (connection for connection in connections if inside.publishes(connection))
        (reading,) = (connection for connection in connections if inside.reads(connection))
        publishing.data_received(c.encode(c.Publish(1, [c.PublishedMessage(1, bytes(2 * LARGE))])))
        reading.data_received(c.encode(c.Close(1, "bye"), correlation_id=2))
        assert [frame.message for frame in await reader.ended()] == [c.CloseResponse()]
        await writer.take(c.PublishConfirm)


async def test_a_stream_that_cannot_be_read(
    broker: EmbeddedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the client's, and it is told."""
    await publish(client, STREAM, bodies(3))

    def damaged(*_: object) -> tuple[int, int]:
        raise ChunkError("the index is shorter than it was")

    async with Wire(broker_at(broker.uri)) as wire:
        with monkeypatch.context() as patched:
            patched.setattr(Segment, "holding", damaged)
            assert await wire.code(c.ResolveOffsetSpec(STREAM, c.OffsetSpec(4, 1), {})) == 15
            assert await wire.code(c.Subscribe(1, STREAM, c.OffsetSpec(4, 1), 1, {})) == 1
            assert (await wire.take(c.Close)).message.code == 15
    assert len(await read(client, STREAM, 3)) == 3


ORDERS: list[Callable[[Faults], None]] = [
    lambda faults: faults.drop_after_confirms(0),
    lambda faults: faults.drop_after_confirms(-1),
    lambda faults: faults.cut_frame(Key.DELIVER, -3),
    lambda faults: faults.cut_frame("DELIVER"),  # type: ignore[arg-type]
    lambda faults: faults.delay(-1),
    lambda faults: faults.delay("x"),  # type: ignore[arg-type]
    lambda faults: faults.delay(float("inf")),
    lambda faults: faults.delay(float("nan")),
    lambda faults: faults.answer("CREATE", 15),  # type: ignore[arg-type]
    lambda faults: faults.answer(Key.CREATE, 1),
    lambda faults: faults.answer(Key.CREATE, 70_000),
    lambda faults: faults.answer(Key.CREATE, 15, times=0),
    lambda faults: faults.move_leader("nope"),
]


@pytest.mark.parametrize("order", ORDERS)
async def test_an_order_that_makes_no_sense(broker: EmbeddedBroker, order: Callable[[Faults], None]) -> None:
    with pytest.raises(ConfigurationError):
        order(broker.faults)
    assert not broker.faults.is_armed


async def test_a_login_that_never_ends(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who always says something, and never what is to be said, is not waited for."""
    monkeypatch.setattr(rstream_core.broker.connection, "STEP_TIMEOUT", 0.3)
    wire = await Wire(broker_at(broker.uri)).connect()

    async def dawdle() -> None:
        while True:
            await wire.ask(c.PeerProperties({}))
            await asyncio.sleep(0.05)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(dawdle(), PATIENCE)
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


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


async def test_the_disk_was_full(broker: EmbeddedBroker, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher goes on when there is space again; where ids are the caller's, behind what was rejected."""
    counting = await client.publisher(STREAM, "counting")
    given = await client.publisher(STREAM, "given")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        await counting.publish([b"lost"])
        await given.publish([b"1"], publishing_ids=[1])
        await counting.flush(PATIENCE)
        await given.flush(PATIENCE)
    await counting.publish([b"a"])
    await counting.flush(PATIENCE)
    with pytest.raises(NotConfirmed, match="publishing id 1 of 'given'"):
        await given.publish([b"2"], publishing_ids=[2])
    await given.publish([b"1", b"2"], publishing_ids=[1, 2])
    await given.flush(PATIENCE)
    assert (counting.confirmed, counting.failed) == (1, 1)
    assert (given.confirmed, given.failed) == (2, 1)
    await counting.close()
    await given.close()
    assert await read(client, STREAM, 3) == {0: b"a", 1: b"1", 2: b"2"}


async def test_the_disk_was_full_under_a_producer(
    broker: EmbeddedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Producer(client=client) as producer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(InternalError):
                await producer.send_wait(STREAM, b"lost", "counting", timeout=PATIENCE)
            with pytest.raises(InternalError):
                await producer.send_wait(STREAM, AMQPMessage(b"1", publishing_id=1), "given", timeout=PATIENCE)
        assert await producer.send_wait(STREAM, b"a", "counting", timeout=PATIENCE) == 2
        for _ in range(2):
            with pytest.raises(NotConfirmed, match="publishing id 1 of 'given'"):
                await producer.send_wait(STREAM, AMQPMessage(b"2", publishing_id=2), "given", timeout=PATIENCE)
        for number in (1, 2):
            message = AMQPMessage(b"%d" % number, publishing_id=number)
            assert await producer.send_wait(STREAM, message, "given", timeout=PATIENCE) == number
    assert len(await read(client, STREAM, 3)) == 3


@pytest.mark.parametrize("fsync", [mode.value for mode in Fsync])
async def test_every_way_to_sync(tmp_path: Path, fsync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = Writer.sync

    async def counting(writer: Writer) -> None:
        synced.append(1)
        await sync(writer)

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


def files_of_streams(folder: Path) -> dict[str, int]:
    """Folders too; their names and inodes."""
    return {path.name: path.stat().st_ino for path in folder.glob("streams/**/*")}


async def test_what_a_killed_broker_has_not_synced_is_synced_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be shown, and its ids vouched for, and might be lost with the machine."""
    async with EmbeddedBroker(data=tmp_path, fsync="never") as broker, Client(options(broker)) as client:
        await client.create_stream(STREAM, {"stream-max-segment-size-bytes": 100})
        for _ in range(3):
            await publish(client, STREAM, bodies(30))
    fsync = os.fsync
    synced: set[int] = set()

    def counting(fd: int) -> None:
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", counting)
    async with EmbeddedBroker(data=tmp_path, fsync="always"):
        written = files_of_streams(tmp_path)
        assert {"stream.json", *(f"{offset:020}.segment" for offset in (0, 30, 60))} < written.keys()
        assert synced >= set(written.values())


async def test_it_stops_while_somebody_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while one sync runs waits for the next one: there always is one, unless nothing more is read."""
    monkeypatch.setattr(os, "fsync", lambda fd: time.sleep(0.01))
    broker = EmbeddedBroker(data=tmp_path, fsync="always")
    await broker.start()
    async with Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        publisher = await client.publisher(STREAM, max_in_flight=10**5)

        async def publish_for_ever() -> None:
            while True:
                await publisher.publish(bodies(500))

        task = asyncio.create_task(publish_for_ever())
        await eventually(lambda: publisher.confirmed > 0)
        stopping = asyncio.create_task(broker.stop())
        done, _ = await asyncio.wait([stopping], timeout=8)
        assert done, "it does not stop"
        with pytest.raises(RstreamError):
            await task
        confirmed = publisher.confirmed
        await publisher.close()
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker), recovery=None) as client:
        assert (await client.last_offset(STREAM) or 0) >= confirmed - 1


async def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstream_core.broker.server, "SYNC_TIMEOUT", 0.2)
    answers = threading.Event()
    broker = EmbeddedBroker(data=tmp_path, fsync="always")
    await broker.start()
    async with Client(options(broker), recovery=None) as client:
        await client.create_stream(STREAM)
        publisher = await client.publisher(STREAM)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda fd: answers.wait(PATIENCE))
            await publisher.publish(bodies(3))
            await eventually(lambda: broker.published[0] == 3)
            stopping = asyncio.create_task(broker.stop())
            done, _ = await asyncio.wait([stopping], timeout=8)
            answers.set()
            assert done, "it does not stop"
        await publisher.close()
        assert (publisher.confirmed, publisher.failed) == (0, 3)


async def test_nothing_is_dropped_before_the_newest_segment_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what is remembered of the others."""
    go_on = threading.Event()

    def sync(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert go_on.wait(PATIENCE)

    async with (
        EmbeddedBroker(data=tmp_path, fsync="always") as broker,
        Client(options(broker), recovery=None) as client,
    ):
        await client.create_stream(STREAM, {"stream-max-segment-size-bytes": 100, "max-length-bytes": 100})
        log = inside.server(broker).streams.find("/", STREAM).log
        publisher = await client.publisher(STREAM, "writer")
        await publisher.publish(bodies(30))
        await publisher.flush(PATIENCE)
        monkeypatch.setattr(os, "fsync", sync)
        await publisher.publish(bodies(30))
        await eventually(lambda: len(log.segments) == 2)
        assert log.committed == 30
        go_on.set()
        await publisher.flush(PATIENCE)
        assert len(log.segments) == 1
        await publisher.close()


async def test_a_file_is_not_closed_before_its_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells errors to who has it open, and need not remember them."""
    go_on = threading.Event()
    async with (
        EmbeddedBroker(data=tmp_path, fsync="always") as broker,
        Client(options(broker), recovery=None) as client,
    ):
        await client.create_stream(STREAM)
        log = inside.server(broker).streams.find("/", STREAM).log
        monkeypatch.setattr(os, "fsync", lambda fd: go_on.wait(PATIENCE))
        async with Wire(broker_at(broker.uri)) as wire:
            await wire.ask(c.DeclarePublisher(1, "", STREAM))
            for number in (1, 2):  # the second while the first is synced
                wire.send(c.Publish(1, [c.PublishedMessage(number, b"x")]))
                await eventually(lambda number=number: broker.published[0] == number)  # type: ignore[misc]
            fd = log.active.fd
        await eventually(lambda: broker.statistics.connections == 1)
        assert log.committed == 0
        assert inside.descriptors(log.active)[0] == fd
        go_on.set()
        await eventually(lambda: log.committed == 2)
        assert inside.descriptors(log.active)[0] == -1


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


async def test_a_stream_that_cannot_be_synced_does_not_keep_others_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstream_core.broker.server, "SYNC_INTERVAL", 0.05)
    async with EmbeddedBroker(fsync="interval") as broker, Client(options(broker), recovery=None) as client:
        for name in ("bad", "good"):
            await client.create_stream(name)
        bad, good = (inside.server(broker).streams.find("/", name).writer for name in ("bad", "good"))
        real = Writer.sync

        async def sync(writer: Writer) -> None:
            if writer is bad:
                raise OSError(5, "Input/output error")
            await real(writer)

        with monkeypatch.context() as patched:
            patched.setattr(Writer, "sync", sync)
            for name in ("bad", "good"):
                await publish(client, name, bodies(1))
            assert bad.is_dirty
            await eventually(lambda: not good.is_dirty)
            assert bad.is_dirty
        await eventually(lambda: not bad.is_dirty)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the broker ended the connection, without a word."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_who_does_not_log_in_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest of them make room, and nobody who has logged in; it is told once, not for each of them."""
    assert rstream_core.broker.clients.MAX_LOGGING_IN < rstream_core.broker.clients.MAX_CONNECTIONS
    monkeypatch.setattr(rstream_core.broker.clients, "MAX_LOGGING_IN", 5)
    async with EmbeddedBroker() as broker, Client(options(broker)) as client:
        await client.create_stream(STREAM)
        before = broker.statistics.connections
        opened = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(5)]
        await eventually(lambda: broker.statistics.connections == before + 5)
        assert caplog.messages == []
        opened += [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(3)]
        for reader, _ in opened[:3]:
            assert await ended(reader)
        assert broker.statistics.connections == before + 5
        async with Client(options(broker)) as another:  # logs in at once
            assert await another.stream_exists(STREAM)
            assert await ended(opened[3][0])
            assert not opened[-1][0].at_eof()
        assert await client.stream_exists(STREAM)
        for _, writer in opened:
            writer.close()
    line = "too many connections: those that have not logged in, 5, make room for new ones, the oldest first"
    assert [(one.levelname, one.message) for one in caplog.records] == [("ERROR", line)]


async def test_where_all_have_logged_in_no_more_are_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rstream_core.broker.clients, "MAX_CONNECTIONS", 4)
    async with EmbeddedBroker() as broker, contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(broker_at(broker.uri))) for _ in range(2)]
        idle = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(2)]
        await eventually(lambda: broker.statistics.connections == 4)
        for reader, _ in idle:  # told once, though each time another number of them is left
            wires.append(await stack.enter_async_context(Wire(broker_at(broker.uri))))
            assert await ended(reader)
        for _ in range(2):
            reader, other = await asyncio.open_connection("127.0.0.1", broker.port)
            assert await ended(reader)
            other.close()
        for wire in wires:
            assert await wire.code(c.QueryOffset("r", STREAM)) == 2
        for _, writer in idle:
            writer.close()
    assert [one.message.partition(":")[0] for one in caplog.records] == [
        "too many connections",
        "there are 4 connections, and no more are taken",
    ]


async def test_a_login_that_does_not_go_on_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rstream_core.broker.connection, "STEP_TIMEOUT", 0.05)
    caplog.set_level("INFO", "rstream_core.broker")
    async with EmbeddedBroker() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        assert await ended(reader)
        writer.close()
    assert any("did not go on logging in" in message for message in caplog.messages)


async def test_questions_leave_no_file_open(tmp_path: Path) -> None:
    """Of a stream that nobody publishes to or reads."""
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        for number in range(5):
            await client.create_stream(f"s{number}")
            await publish(client, f"s{number}", bodies(1))
        await eventually(lambda: not any(map(inside.publishes, inside.connections(broker))))
        for number in range(5):
            for spec in (at(0), ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 1)):
                assert await client.resolve_offset(f"s{number}", spec) == 0
        segments = [inside.server(broker).streams.find("/", f"s{number}").log.active for number in range(5)]
        assert [inside.descriptors(segment) for segment in segments] == [(-1, -1)] * 5
