"""``EmbeddedBroker`` in a program: on a loop and in a thread, over TLS, with its folder; and the pytest plugin."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from rstream_core import (
    AlreadyClosed,
    AuthenticationFailure,
    Client,
    ConfigurationError,
    ConnectionFailed,
    ConnectionOptions,
    Credentials,
    EmbeddedBroker,
    Endpoint,
    SingleActiveConsumer,
    StreamDoesNotExist,
    StreamNotAvailable,
    parse_uri,
)
from rstream_core.broker import streams as broker_streams
from rstream_core.broker.connection import BrokerConnection
from rstream_core.broker.folder import Folder, checked
from rstream_core.broker.log import Log, NewChunk
from rstream_core.broker.refusal import Refused
from rstream_core.broker.stream import Stream
from rstream_core.broker.streams import Streams
from rstream_core.broker.writer import Fsync
from rstream_core.errors import InternalError
from rstream_core.protocol.routing import MAX_PARTITIONS
from tests.clients import FIRST, PATIENCE, bodies, eventually, publish, read


def options(broker: EmbeddedBroker, **more: Any) -> ConnectionOptions:
    uri = parse_uri(broker.uri)
    assert uri.username is not None
    assert uri.password is not None
    values = {"credentials": Credentials(uri.username, uri.password), "vhost": uri.vhost or "/"}
    return ConnectionOptions(endpoints=(uri.endpoint,), **{**values, **more})


async def round_trip(options: ConnectionOptions) -> None:
    async with Client(options) as client:
        await client.create_stream("s")
        await publish(client, "s", bodies(10))
        assert len(await read(client, "s", 10)) == 10


def is_there(path: Path) -> bool:
    return path.exists()


async def test_on_the_callers_loop() -> None:
    async with EmbeddedBroker() as broker:
        assert broker.uri == f"rabbitmq-stream://guest:guest@127.0.0.1:{broker.port}/%2F"
        await round_trip(options(broker))
        assert broker.published[0] == 10
        assert (broker.stream_count, broker.dropped) == (1, [])
        async with Client(options(broker)) as client:
            await client.delete_stream("s")
        assert (broker.stream_count, broker.published[0]) == (0, 10)
    with pytest.raises(AlreadyClosed):
        _ = broker.uri
    await broker.stop()


def test_in_a_thread() -> None:
    with EmbeddedBroker() as broker:
        asyncio.run(round_trip(options(broker)))
        broker.faults.drop_connections()
    with pytest.raises(AlreadyClosed):
        _ = broker.port


def test_entered_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broker = EmbeddedBroker()
    with broker:
        with pytest.raises(AlreadyClosed), broker:
            pass
        asyncio.run(round_trip(options(broker)))
    assert list(tmp_path.iterdir()) == []
    with broker:
        asyncio.run(round_trip(options(broker)))


async def test_folders_of_killed_brokers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("old", "new", "unlocked", "kept"):
        folder = tmp_path / f"rstream-broker-{name}"
        (folder / "streams").mkdir(parents=True)
        if name != "kept":
            (folder / "temporary").touch()
        if name != "unlocked":
            (folder / "lock").write_text("1\n")
            os.utime(folder / "lock", None if name == "new" else (0, 0))
    async with EmbeddedBroker() as running:
        assert running._temporary is not None
        folder = Path(running._temporary.name)
        os.utime(folder / "lock", (0, 0))
        async with EmbeddedBroker(), Client(options(running)) as client:
            await client.create_stream("s")
        left = {"rstream-broker-new", "rstream-broker-unlocked", "rstream-broker-kept", folder.name}
        assert set(os.listdir(tmp_path)) == left


async def test_users_virtual_hosts_and_limits() -> None:
    async with EmbeddedBroker(
        users={"alice@here": "p:/w"}, vhosts=("one/two", "other"), frame_max=100_000, heartbeat=7
    ) as broker:
        assert parse_uri(broker.uri)[2:] == ("alice@here", "p:/w", "one/two")
        await round_trip(options(broker))
        async with Client(options(broker, vhost="other")) as client:
            assert not await client.stream_exists("s")
            connection = await client._locator.connection()
            assert (connection.frame_max, connection.session.heartbeat) == (100_000, 7)
        with pytest.raises(AuthenticationFailure):
            async with Client(options(broker, credentials=Credentials())) as client:
                await client.start()


async def test_its_folder_is_kept_or_goes(tmp_path: Path) -> None:
    async with EmbeddedBroker(data=tmp_path / "data") as broker:
        await round_trip(options(broker))
    async with EmbeddedBroker(data=tmp_path / "data") as broker, Client(options(broker)) as client:
        assert await client.last_offset("s") == 9
        with pytest.raises(ConfigurationError, match="in use by another broker"):
            await EmbeddedBroker(data=tmp_path / "data").start()
    passing = EmbeddedBroker()
    async with passing:
        assert passing._temporary is not None
        folder = Path(passing._temporary.name)
        assert is_there(folder)
    assert not is_there(folder)


async def test_super_streams_are_kept(tmp_path: Path) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        names = await client.create_super_stream("orders", routing_keys=["eu", "us", "asia"])
        await client.create_super_stream("gone", partitions=2)
        await client.delete_super_stream("gone")
        await client.delete_stream(names[2])
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert await client.partitions("orders") == names[:2]
        assert await client.route("orders", "us") == [names[1]]
        assert not await client.stream_exists("gone-0")
        assert broker.stream_count == 2


async def test_what_was_cut_short_is_finished(tmp_path: Path) -> None:
    """A kill between the steps of creating or deleting."""
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_super_stream("made", partitions=2)
        await client.create_super_stream("doomed", partitions=2)
    super_streams = tmp_path / "super-streams.json"
    text = json.dumps(json.loads(super_streams.read_text())["super_streams"])  # as format 1, which has no checksum
    at = text.index("doomed")
    super_streams.write_text(text[:at] + text[at:].replace('"is_deleted": false', '"is_deleted": true', 1))
    for number, directory in enumerate(sorted((tmp_path / "streams").iterdir())):
        if '"made-1"' in (directory / "stream.json").read_text():
            directory.rename(directory.with_name(f"deleted-{number}"))
    (tmp_path / "streams" / "new-1").mkdir()
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert await client.stream_exists("made-1")
        assert not await client.stream_exists("doomed-0")
        assert broker.stream_count == 2
        assert len(list((tmp_path / "streams").iterdir())) == 2
        await client.create_super_stream("doomed", partitions=2)


def full(*_: object, **__: object) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("is_told", [True, False], ids=["then there is room", "then there is none either"])
async def test_a_super_stream_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_super_stream("other", partitions=1)
        real, write = Log.create, Folder.write

        def create(directory: Path, **more: Any) -> Log:
            if '"orders-1"' in (directory / "stream.json").read_text():
                if not is_told:
                    patched.setattr(Folder, "write", full)
                full()
            return real(directory, **more)

        with monkeypatch.context() as patched:
            patched.setattr(Log, "create", create)
            with pytest.raises(InternalError):
                await client.create_super_stream("orders", partitions=3)
        assert Folder.write is write
        assert broker.stream_count == len(list((tmp_path / "streams").iterdir())) == 1
        with pytest.raises(StreamDoesNotExist):
            await client.partitions("orders")
        if not is_told:
            await client.create_super_stream("more", partitions=1)
        assert "orders" not in (tmp_path / "super-streams.json").read_text()
        await client.create_super_stream("orders", partitions=3)
        await publish(client, "orders-2", bodies(3))


async def test_of_a_super_stream_that_cannot_be_made_goes_what_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        real, remove = Streams.create, Streams._remove

        def create(streams: Streams, vhost: str, name: str, given: Mapping[str, str]) -> Stream:
            return full() if name == "orders-2" else real(streams, vhost, name, given)

        def refuse(streams: Streams, stream: Stream) -> None:
            if stream.name == "orders-0":
                full()
            remove(streams, stream)

        with monkeypatch.context() as patched:
            patched.setattr(Streams, "create", create)
            patched.setattr(Streams, "_remove", refuse)
            with pytest.raises(InternalError):
                await client.create_super_stream("orders", partitions=3)
        assert [stream.name for stream in broker._running.streams] == ["orders-0"]
        assert "orders" not in (tmp_path / "super-streams.json").read_text()


async def test_what_cannot_be_deleted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a super stream, what is gone is told of all the same."""
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker), recovery=None) as client:
        await client.create_super_stream("orders", partitions=2)
        publishers = [await client.publisher(name) for name in ("orders-0", "orders-1")]
        stream = broker._running.streams.find("/", "orders-1")
        rename = Path.rename

        def refuse(path: Path, target: Path) -> Path:
            return full() if path == stream.log.directory else rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", refuse)
            with pytest.raises(InternalError):
                await client.delete_super_stream("orders")
        await eventually(lambda: isinstance(publishers[0].error, StreamNotAvailable))
        await publishers[1].publish(bodies(3))
        await publishers[1].flush(PATIENCE)
        assert (publishers[1].confirmed, broker.stream_count) == (3, 1)
        await client.delete_super_stream("orders")
        assert broker.stream_count == 0
        for publisher in publishers:
            await publisher.close()


def damage(path: Path) -> None:
    """In the last chunk."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


async def test_a_stream_that_cannot_be_opened_keeps_no_others_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room to keep what is damaged of it: nothing of it is touched, and it can be opened later."""
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        for name in ("bad", "good"):
            await client.create_stream(name)
            for _ in range(2):
                await publish(client, name, bodies(10))
        path = broker._running.streams.find("/", "bad").log.active.path
    damage(path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
            aside = f"streams/{path.parent.name}.damaged"
            assert broker.dropped == [f"stream 'bad' cannot be opened: No space left on device; it is kept as {aside}"]
            assert not await client.stream_exists("bad")
            assert len(await read(client, "good", 20)) == 20
    async with EmbeddedBroker(data=tmp_path) as broker:
        assert (broker.dropped, broker.stream_count) == ([], 1)
    os.rename(tmp_path / aside, path.parent)
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert "bytes from byte" in broker.dropped[0]
        assert len(await read(client, "bad", 10)) == 10


async def test_a_partition_that_cannot_be_made_again_keeps_no_others_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_super_stream("orders", partitions=2)
        shutil.rmtree(broker._running.streams.find("/", "orders-1").log.directory)
    with monkeypatch.context() as patched:
        patched.setattr(Log, "create", full)
        async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
            assert broker.dropped == ["super stream 'orders' cannot be finished: No space left on device"]
            await publish(client, "orders-0", bodies(3))
    async with EmbeddedBroker(data=tmp_path) as broker:
        assert (broker.dropped, broker.stream_count) == ([], 2)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"vhost": "/"',
        "[]",
        '{"vhost": "/", "name": 7, "arguments": {}}',
        '{"vhost": "/", "name": "a", "arguments": {"max-length-bytes": 5}}',
        '{"vhost": "/", "name": "a", "arguments": {"max-length-bytes": "much"}}',
        '{"vhost": "/", "name": "b", "arguments": {}}',
        DEEP,
        None,
    ],
    ids=["empty", "cut", "list", "number", "argument", "refused", "the other's", "deep", "folder"],
)
async def test_a_stream_whose_description_is_damaged(tmp_path: Path, text: str | None) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        for name in ("a", "b"):
            await client.create_stream(name)
            await publish(client, name, bodies(3))
        directory = broker._running.streams.find("/", "a").log.directory
        other = broker._running.streams.find("/", "b").log.directory
    path = directory / "stream.json"
    whole = path.read_text()
    replace(path, text)
    last = max(directory, other) / "stream.json"  # of two of one name, the later one is put aside
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        (line,) = broker.dropped
        damaged = path if text is None or '"b"' not in text else last
        assert line.startswith(f"streams/{damaged.parent.name}/stream.json: ")
        assert line.endswith("; it is kept as stream.json.damaged")
        assert len(await read(client, "b", 3)) == 3
        assert not await client.stream_exists("a")
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert broker.dropped == []
    if damaged == path:
        path.write_text(whole)
        async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
            assert len(await read(client, "a", 3)) == 3


async def test_what_else_lies_in_the_folder(tmp_path: Path) -> None:
    async with EmbeddedBroker(data=tmp_path):
        pass
    (tmp_path / "streams" / ".DS_Store").write_text("")
    (tmp_path / "streams" / "empty").mkdir()
    async with EmbeddedBroker(data=tmp_path) as broker:
        assert (broker.stream_count, broker.dropped) == (0, [])


def replace(path: Path, text: str | None) -> None:
    """By a folder where there is no text."""
    path.unlink()
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[7]",
        '[{"vhost": "/", "name": "o", "partitions": [["o-0", 0]], "arguments": {}, "is_deleted": false}]',
        '[{"vhost": "/", "name": "o", "partitions": [["amq.x", "0"]], "arguments": {}, "is_deleted": false}]',
        '[{"vhost": "/", "name": "o", "partitions": ["o0"], "arguments": {}, "is_deleted": false}]',
        '[{"vhost": "/", "name": "o", "partitions": [], "arguments": {"max-age": 7}, "is_deleted": false}]',
        '[{"vhost": "/", "name": "o", "partitions": [], "arguments": {}}]',
        DEEP,
        None,
    ],
    ids=["cut", "object", "number", "key", "name", "pair", "argument", "lacking", "deep", "folder"],
)
async def test_super_streams_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_super_stream("o", partitions=2)
        await publish(client, "o-0", bodies(3))
    path = tmp_path / "super-streams.json"
    for aside in ("super-streams.json.damaged", "super-streams.json.1.damaged"):
        replace(path, text)
        async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
            (line,) = broker.dropped
            assert line.startswith("super-streams.json: ")
            assert line.endswith(f"; it is kept as {aside}")
            assert is_there(tmp_path / aside)
            assert len(await read(client, "o-0", 3)) == 3
            with pytest.raises(StreamDoesNotExist):
                await client.partitions("o")
            await client.create_super_stream("another", partitions=1)
            await client.delete_super_stream("another")


@pytest.mark.parametrize(
    "arguments",
    [
        {"vhosts": ()},
        {"vhosts": "/prod"},
        {"vhosts": ("",)},
        {"vhosts": ("v" * 256,)},
        {"fsync": "sometimes"},
        {"host": ""},
        {"host": None},
        {"advertised_host": "a b"},
        {"port": 99_999},
        {"port": "5552"},
        {"port": True},
        {"data": ""},
        {"data": 7},
        {"users": ["alice:secret"]},
        {"users": {"alice": ""}},
        {"users": {"alice": None}},
        {"users": {"a\0b": "x"}},
        {"tls": "cert.pem"},
        {"frame_max": 1},
        {"frame_max": -1},
        {"heartbeat": -1},
        {"heartbeat": 0.5},
    ],
    ids=str,
)
def test_what_it_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        EmbeddedBroker(**arguments)


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file: not a folder"):
        await EmbeddedBroker(data=tmp_path / "file").start()


async def test_a_folder_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "lock", full)
    with pytest.raises(ConfigurationError, match=f"data folder {tmp_path}: No space left on device"):
        await EmbeddedBroker(data=tmp_path).start()


async def test_an_address_in_brackets() -> None:
    try:
        async with EmbeddedBroker(host="[::1]") as broker:
            assert broker.uri.startswith("rabbitmq-stream://guest:guest@[::1]:")
            await round_trip(options(broker))
    except ConfigurationError as error:
        pytest.skip(str(error))  # no IPv6 here


async def test_a_port_in_use() -> None:
    async with EmbeddedBroker() as broker:
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await EmbeddedBroker(port=broker.port).start()
    with pytest.raises(ConfigurationError, match="cannot listen"), EmbeddedBroker(host="no-such-host.invalid"):
        pass


def make_certificate(cert: Path, key: Path) -> None:
    new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-keyout", str(key), "-out", str(cert))
    whose = ("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    subprocess.run([*new, *whose], check=True, capture_output=True)


async def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await asyncio.to_thread(make_certificate, cert, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with EmbeddedBroker(tls=context) as broker:
        assert broker.uri.startswith("rabbitmq-stream+tls://")
        with pytest.raises(ConnectionFailed) as failed:
            await round_trip(options(broker))
        assert "is it a TLS port?" in str(failed.value.hint)
        tls = ssl.create_default_context(cafile=str(cert))
        await round_trip(options(broker, tls=tls, server_name="localhost"))
        async with Client(options(broker, tls=tls, server_name="localhost")) as client:
            leader = (await client.metadata("s")).leader
            assert leader is not None
            assert leader.host == "localhost"
            large = [bytes([number]) * 500_000 for number in range(10)]  # never straight from the file
            await publish(client, "s", *([body] for body in large))
            assert list((await read(client, "s", 20)).values())[10:] == large


async def test_more_than_a_chunk_has_room_for() -> None:
    """An entry count takes 16 bits; 80,000 empty messages fit a frame."""
    async with EmbeddedBroker() as broker, Client(options(broker)) as client:
        await client.create_stream("s")
        publisher = await client.publisher("s", max_in_flight=200_000)
        await publisher.publish([b""] * 160_000)
        await publisher.flush(PATIENCE)
        assert publisher.confirmed == 160_000
        await publisher.close()
        found = 0
        async with await client.subscribe("s", FIRST) as subscription:
            async for chunk in subscription:
                assert len(chunk.messages) <= 65_535
                found += len(chunk.messages)
                if found == 160_000:
                    break


async def test_many_streams_and_few_file_handles() -> None:
    import os

    async with EmbeddedBroker() as broker, Client(options(broker)) as client:
        before = len(os.listdir("/dev/fd"))
        await client.create_super_stream("many", partitions=300)
        await client.store_offset("many-7", "reader", 5)
        publisher = await client.publisher("many-8")
        await publisher.publish(bodies(3))
        await publisher.close()
        assert await client.query_offset("many-7", "reader") == 5
        assert len(os.listdir("/dev/fd")) - before < 20


async def test_names_are_not_gathered_for_ever() -> None:
    async with EmbeddedBroker() as broker, Client(options(broker)) as client:
        await client.create_stream("s")
        for number in range(300):
            publisher = await client.publisher("s", f"writer-{number}")
            await publisher.publish([b"m"])
            await publisher.close()
        (stream,) = broker._running.streams
        assert stream.writer._names.last == {}
        assert len(stream.log.tracking.sequences) == 255
        publisher = await client.publisher("s", "writer-299")
        assert publisher.next_publishing_id == 2
        await publisher.close()


async def test_a_connection_that_has_ended_is_kept_by_nobody() -> None:
    """Not even by itself, in a circle, until a collection finds it."""

    def connections() -> list[BrokerConnection]:
        return [found for found in gc.get_objects() if isinstance(found, BrokerConnection)]

    def of_this_test() -> int:
        return sum(connection not in others for connection in connections())

    others = WeakSet(connections())  # a broker may live as long as all tests
    gc.disable()
    try:
        async with EmbeddedBroker() as broker:
            async with Client(options(broker)) as client:
                await client.create_stream("s")
                publisher = await client.publisher("s", "writer")
                await publisher.publish([b"m"])
                await publisher.flush()
                single = SingleActiveConsumer("group", None, None)
                async with await client.subscribe("s", FIRST, single_active=single) as subscription:
                    await anext(subscription)
                assert of_this_test() > 0
                broker.faults.drop_connections()  # some are lost, and made anew
                await publisher.publish([b"m"])
                await publisher.flush()
            await eventually(lambda: of_this_test() == 0)
    finally:
        gc.enable()


# The pytest plugin.


def test_the_fixture(rstream_broker: EmbeddedBroker) -> None:
    asyncio.run(round_trip(options(rstream_broker)))


async def test_the_fixture_on_a_loop(rstream_broker: EmbeddedBroker) -> None:
    await round_trip(options(rstream_broker))


def test_the_plugin_imports_nothing_heavy() -> None:
    script = "import sys, rstream_pytest; print(*sorted({'rstream_core', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert "rstream_core" not in done.stdout


# Streams and their folder.


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Fsync], Streams]]:
    with ThreadPoolExecutor(1) as executor:
        yield lambda fsync: Streams.open(tmp_path, fsync, executor)


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("7D", 604_800), ("2M", 5_184_000), ("1Y", 31_536_000)],
)
async def test_max_age(opened: Callable[[Fsync], Streams], age: str, seconds: int) -> None:
    """Segments go when their newest message is older, and not a second earlier."""
    streams = opened(Fsync.NEVER)
    stream = streams.create("/", "s", {"max-age": age, "stream-max-segment-size-bytes": "1"})
    begin = 1_700_000_000_000
    for number in range(3):
        stream.log.append([NewChunk([b"\0\0\0\1x"], 1)], begin + number * 1000)
        stream.log.roll(begin + number * 1000)
    for late, left in ((0, 4), (1, 3), (2, 2), (3, 1), (1000, 1)):
        stream.retain(begin + 1000 * (seconds + late))
        stream.retain(begin + 1000 * (seconds + late))
        assert len(stream.log.segments) == left, late
    streams.close()


@pytest.mark.parametrize("age", [None, "1w", "forever", "", "-1h"])
async def test_without_a_max_age_nothing_is_too_old(opened: Callable[[Fsync], Streams], age: str | None) -> None:
    streams = opened(Fsync.NEVER)
    stream = streams.create("/", "s", {} if age is None else {"max-age": age})
    stream.log.append([NewChunk([b"\0\0\0\1x"], 1)], 0)
    stream.log.roll(0)
    stream.retain(1_700_000_000_000)
    assert len(stream.log.segments) == 2
    streams.close()


async def test_max_length_bytes(opened: Callable[[Fsync], Streams]) -> None:
    """As many of the newest segments stay as it takes to be within it; one at least."""
    streams = opened(Fsync.NEVER)
    stream = streams.create("/", "s", {"max-length-bytes": "1000", "stream-max-segment-size-bytes": "1"})
    for number in range(10):
        stream.log.append([NewChunk([b"\0\0\1\x2c" + bytes(300)], 1)], number)
        stream.log.roll(number)
    sizes = [segment.size for segment in stream.log.segments]
    stream.retain(10)
    left = len(stream.log.segments)
    assert sum(sizes[-left:]) <= 1000 < sum(sizes[-left - 1 :])
    streams.close()


@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.INTERVAL, Fsync.NEVER])
async def test_a_description_is_on_disk_before_it_takes_its_name(
    opened: Callable[[Fsync], Streams], fsync: Fsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file of that name; and the folder is synced behind it."""
    steps: list[tuple[str, int]] = []
    folders: list[int] = []
    sync, replace = os.fsync, Path.replace

    def fsync_of(fd: int) -> None:
        steps.append(("sync", os.fstat(fd).st_ino))
        sync(fd)

    def renamed(path: Path, target: Path) -> Path:
        steps.append(("rename", path.stat().st_ino))
        folders.append(path.parent.stat().st_ino)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync_of)
    monkeypatch.setattr(Path, "replace", renamed)
    streams = opened(fsync)
    streams.create_super_stream("/", "orders", ["orders-0"], ["0"], {})
    renames = [place for place, (step, _) in enumerate(steps) if step == "rename"]
    assert len(renames) == 2  # the list of super streams, and a stream's description
    for place, folder in zip(renames, folders, strict=True):
        inode = steps[place][1]
        if fsync is Fsync.NEVER:
            assert ("sync", inode) not in steps
        else:
            assert steps[place - 1] == ("sync", inode)
            assert steps[place + 1] == ("sync", folder)
    streams.close()


async def test_as_many_partitions_as_there_may_be(
    opened: Callable[[Fsync], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PARTITIONS == 1000
    monkeypatch.setattr(broker_streams, "MAX_PARTITIONS", 5)  # the time of a thousand is that of the disk
    streams = opened(Fsync.NEVER)
    names = [f"p-{number}" for number in range(6)]
    with pytest.raises(Refused):
        streams.create_super_stream("/", "orders", names, names, {})
    assert len(streams) == 0
    streams.create_super_stream("/", "orders", names[:5], names[:5], {})
    assert streams.super_streams.partitions("/", "orders") == names[:5]
    streams.close()


def flipped(data: bytes) -> Iterator[bytes]:
    """With one bit that is another one, each of them in turn."""
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place >> 3] ^= 1 << (place & 7)
        yield bytes(changed)


@pytest.mark.parametrize("name", ["stream", "super-streams"])
async def test_a_changed_bit_of_what_is_described_is_found(opened: Callable[[Fsync], Streams], name: str) -> None:
    """Or it changes nothing, as where a space becomes another."""
    streams = opened(Fsync.NEVER)
    streams.create_super_stream("/", "orders", ["p-0"], ["k"], {"max-age": "1h"})
    log = streams.find("/", "p-0").log.directory
    path = log / "stream.json" if name == "stream" else streams.folder.path / "super-streams.json"
    written = path.read_bytes()
    content = checked(json.loads(written))
    found = 0
    for data in flipped(written):
        try:
            assert checked(json.loads(data)) == content
        except ValueError:
            found += 1
    assert found > 7 * len(written)
    streams.close()


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def test_what_an_earlier_version_described_is_taken(tmp_path: Path) -> None:
    """It has no checksum, and the super streams are a list."""
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_super_stream("o", partitions=2)
        await publish(client, "o-1", bodies(3))
    for path in (*files(tmp_path, "streams/*/stream.json"), tmp_path / "super-streams.json"):
        document = json.loads(path.read_text())
        assert (document.pop("format"), len(document.pop("checksum"))) == (2, 8)
        path.write_text(json.dumps(document.get("super_streams", {"format": 1, **document})))
    for path in files(tmp_path, "streams/*/segments"):
        path.unlink()
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert broker.dropped == []
        assert list(await client.partitions("o")) == ["o-0", "o-1"]
        assert len(await read(client, "o-1", 3)) == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "b"}, "its checksum does not match"),
        ({"arguments": {"max-age": "1s"}}, "its checksum does not match"),
        ({"checksum": None}, "its checksum does not match"),
        ({"format": 3}, "it has format 3, which this version does not know"),
    ],
)
async def test_a_description_that_is_not_as_it_was_written(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_stream("a")
    (path,) = files(tmp_path, "streams/*/stream.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    async with EmbeddedBroker(data=tmp_path) as broker:
        where = f"streams/{path.parent.name}/stream.json"
        assert broker.dropped == [f"{where}: {why}; it is kept as stream.json.damaged"]
        assert broker.stream_count == 0


async def test_a_missing_segment_is_told_of(tmp_path: Path) -> None:
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        await client.create_stream("s", {"stream-max-segment-size-bytes": 100})
        for _ in range(3):
            await publish(client, "s", bodies(10))
        directory = broker._running.streams.find("/", "s").log.directory
    (directory / f"{0:020}.segment").unlink()
    async with EmbeddedBroker(data=tmp_path) as broker, Client(options(broker)) as client:
        assert broker.dropped == ["stream 's': offsets 0 to 9 are gone: their segments are missing"]
        assert (await client.stats("s")).first_offset == 10
    async with EmbeddedBroker(data=tmp_path) as broker:
        assert broker.dropped == []


@pytest.mark.parametrize("gone", ["nothing", "lock"])
async def test_a_folder_has_one_broker_whatever_is_removed_from_it(tmp_path: Path, gone: str) -> None:
    async with EmbeddedBroker(data=tmp_path):
        holder = f", process {os.getpid()}"
        if gone == "lock":
            (tmp_path / "lock").unlink()
            holder = ""
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=f"{tmp_path} is in use by another broker{holder}$"):
                await EmbeddedBroker(data=tmp_path).start()
        assert (tmp_path / "lock").exists() is (gone == "nothing")  # who is turned away leaves nothing
    async with EmbeddedBroker(data=tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("of_folders", [True, False])
async def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_folders: bool) -> None:
    """Where it has none of folders, that of the file is held; where it has none at all, that is what is told."""
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if not of_folders or stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOLCK, "No locks available")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    if of_folders:
        async with EmbeddedBroker(data=tmp_path):
            with pytest.raises(ConfigurationError, match="is in use by another broker"):
                await EmbeddedBroker(data=tmp_path).start()
    else:
        with pytest.raises(ConfigurationError, match=f"{tmp_path}: No locks available"):
            await EmbeddedBroker(data=tmp_path).start()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize(
    ("stands_for", "told"), [(["127.0.0.1"], "localhost"), (["::1"], "127.0.0.1"), ([], "127.0.0.1")]
)
async def test_a_client_of_this_machine_is_sent_to_localhost(
    monkeypatch: pytest.MonkeyPatch, host: str, stands_for: list[str], told: str
) -> None:
    """Where that leads back here; no client says by which name it knows the broker."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def patched_look_up(name: str, *arguments: Any, **more: Any) -> Any:
        if name != "localhost":
            return await look_up(name, *arguments, **more)
        if not stands_for:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in stands_for]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "getaddrinfo", patched_look_up)
        broker = EmbeddedBroker()
        await broker.start()
    try:
        async with Client(ConnectionOptions(endpoints=(Endpoint(host, broker.port),))) as client:
            await client.create_stream("s")
            assert (await client.metadata("s")).leader == Endpoint(told, broker.port)
            await publish(client, "s", bodies(3))
            assert len(await read(client, "s", 3)) == 3
    finally:
        await broker.stop()


async def test_an_address_of_this_machine_that_is_not_localhost() -> None:
    async with EmbeddedBroker(host="127.0.0.2") as broker, Client(options(broker)) as client:
        await client.create_stream("s")
        assert (await client.metadata("s")).leader == Endpoint("127.0.0.2", broker.port)
