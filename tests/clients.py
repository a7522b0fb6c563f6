"""Clients of the core for tests that need a broker, and what they have in common."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    OffsetType,
    Producer,
    RstreamError,
)
from rstream_core.connecting.connection import Connection
from rstream_core.consuming.subscription import Subscription
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker

PATIENCE = 15.0
"""Seconds after which a test that waits has failed: far more than any of them needs."""

FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)


def at(offset: int) -> ConsumerOffsetSpecification:
    return ConsumerOffsetSpecification(OffsetType.OFFSET, offset)


def options_for(broker: Broker, **changes: Any) -> ConnectionOptions:
    values: dict[str, Any] = {
        "endpoints": (Endpoint(broker.host, broker.port),),
        "credentials": Credentials(broker.username, broker.password),
        "vhost": broker.vhost,
    }
    return ConnectionOptions(**{**values, **changes})


def names_of(endpoint: Endpoint) -> set[Endpoint]:
    """What a broker on this machine may call itself that is reached there."""
    return {endpoint, Endpoint("localhost", endpoint.port)}


def arguments_for(broker: Broker) -> dict[str, Any]:
    """For ``Producer`` and ``Consumer``."""
    return {
        "host": broker.host,
        "port": broker.port,
        "username": broker.username,
        "password": broker.password,
        "vhost": broker.vhost,
    }


@pytest.fixture
def options(broker: Broker) -> ConnectionOptions:
    return options_for(broker)


@pytest.fixture
def arguments(broker: Broker) -> dict[str, Any]:
    return arguments_for(broker)


@pytest.fixture
async def client(options: ConnectionOptions) -> AsyncIterator[Client]:
    async with Client(options) as opened:
        yield opened


@pytest.fixture
async def stream(client: Client, stream_name: str) -> AsyncIterator[str]:
    """An empty stream that is gone after the test."""
    await client.create_stream(stream_name)
    yield stream_name
    await client.delete_stream(stream_name, missing_ok=True)


@pytest.fixture
async def super_stream(client: Client, stream_name: str) -> AsyncIterator[str]:
    """A super stream of three empty partitions, NAME-0 to NAME-2, that is gone after the test."""
    await client.create_super_stream(stream_name, partitions=3)
    yield stream_name
    await client.delete_super_stream(stream_name, missing_ok=True)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can get meanwhile: it is bound, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


TWO_ADDRESSES = ["127.0.0.1", "127.0.0.2"]


def with_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the name localhost have two addresses for the running loop, as with IPv6, which a machine may lack."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def resolve_two(host: Any, port: Any, **options: Any) -> Any:
        if host != "localhost":
            return await resolve(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in TWO_ADDRESSES]

    monkeypatch.setattr(loop, "getaddrinfo", resolve_two)


def bodies(count: int, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


async def lose(producer: Producer, key: tuple[str, str | None], count: int) -> None:
    """Publishes messages without a callback, and says that the broker has refused them."""
    publisher = inside.outbox(producer, *key).publisher
    unmute = inside.mute(publisher)
    stream, name = key
    ids = await producer.send_batch(stream, bodies(count), name)
    publisher.on_rejected([c.MessageError(publishing_id, 15) for publishing_id in ids])
    unmute()


def numbers(*values: int) -> list[bytes]:
    """A message for each, with the number as its body."""
    return [AMQPMessage(body=str(value)).encode() for value in values]


async def create_two_chunks(client: Client, stream: str, pause: float) -> None:
    """Makes a stream of the messages 0 to 9 in one chunk, and 10 to 19 in another one, so many seconds younger."""
    await client.create_stream(stream)
    await publish(client, stream, numbers(*range(10)))
    await asyncio.sleep(pause)
    await publish(client, stream, numbers(*range(10, 20)))


async def publish(client: Client, stream: str, *batches: Iterable[bytes]) -> None:
    """Stores each batch as one chunk: of a sub-entry, since a busy broker may put messages of one frame into two."""
    publisher = await client.publisher(stream)
    for batch in map(list, batches):
        if len(batch) == 1:
            await publisher.publish(batch)
        else:
            await publisher.publish_sub_entry(batch)
        await publisher.flush(PATIENCE)
    assert publisher.failed == 0
    await publisher.close()


async def read(
    client: Client,
    stream: str,
    count: int,
    spec: ConsumerOffsetSpecification = FIRST,
    *,
    properties: Mapping[str, str] | None = None,
) -> dict[int, bytes]:
    """The next ``count`` messages by their offsets; fails where there are more in the same chunk."""
    async with await client.subscribe(stream, spec, properties=properties) as subscription:
        found = await take(subscription, count)
    assert len(found) == count
    return found


async def take(subscription: Subscription, count: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            chunk = await anext(subscription)
            found.update(enumerate(chunk.messages, chunk.offset))
    return found


async def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """For what nobody tells: looks again every few milliseconds."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **how: Any
) -> AsyncIterator[Endpoint]:
    """A server on loopback that does whatever the test wants of it."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **how)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def publish_filtered(
    options: ConnectionOptions, stream: str, *batches: Iterable[tuple[str | None, bytes]]
) -> None:
    """Stores (filter value, message) pairs as Publish v2 has them; each batch is a chunk, or several."""
    connection = await Connection.open((await _leader(options, stream)), options)
    try:
        handler = _Confirms()
        connection.publishers[0] = handler
        await connection.request(c.DeclarePublisher(0, "", stream), "declaring")
        ids = itertools.count()
        for batch in batches:
            entries = [c.FilteredMessage(next(ids), value, message) for value, message in batch]
            handler.missing.update(entry.publishing_id for entry in entries)
            connection.send(c.PublishFiltered(0, entries))
            await eventually(lambda: not handler.missing)
    finally:
        await connection.close()


async def _leader(options: ConnectionOptions, stream: str) -> Endpoint:
    async with Client(options) as client:
        leader = (await client.metadata(stream)).leader
    assert leader is not None
    return leader


class _Confirms:
    """A publisher's handler: what is not confirmed yet."""

    stream = ""
    reference: str | None = None

    def __init__(self) -> None:
        self.missing: set[int] = set()

    def on_confirmed(self, publishing_ids: Sequence[int]) -> None:
        self.missing.difference_update(publishing_ids)

    def on_rejected(self, errors: Sequence[c.MessageError]) -> None:
        raise AssertionError(errors)

    def on_writable(self) -> None:
        pass

    def on_unavailable(self, error: RstreamError) -> None:
        pass
