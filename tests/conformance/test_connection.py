"""Connecting, logging in, and every way in which that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rstream_core import (
    AdvertisedHostUnreachable,
    AlreadyClosed,
    AuthenticationFailure,
    Client,
    ConnectionFailed,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    HostNotFound,
    OffsetType,
    Producer,
    RequestTimeout,
    SASLMechanismNotSupported,
    SingleActiveConsumer,
    TlsError,
    UnsupportedByBroker,
    VirtualHostAccessFailure,
)
from rstream_core.connecting.connection import Connection
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker, NoRabbitMQError, ScriptFailedError, own_broker
from tests.certificates import Authority
from tests.clients import (
    FIRST,
    PATIENCE,
    at,
    closed_port,
    listening,
    names_of,
    options_for,
    publish,
    publish_filtered,
    read,
    take,
)
from tests.conftest import OwnRabbitMQ

LAST = ConsumerOffsetSpecification(OffsetType.LAST)
NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)


def changed(options: ConnectionOptions, **changes: Any) -> ConnectionOptions:
    return dataclasses.replace(options, **changes)


async def fails(options: ConnectionOptions) -> Exception:
    client = Client(options)
    with pytest.raises(Exception) as caught:
        await client.start()
    await client.close()
    return caught.value


async def test_handshake(options: ConnectionOptions, broker: Broker) -> None:
    connection = await Connection.open(options.endpoints[0], options)
    session = connection.session
    assert connection.is_open
    assert session.server_version.split(".")[0].isdigit()
    assert session.advertised in names_of(options.endpoints[0])
    assert connection.frame_max == 1024 * 1024
    assert session.heartbeat == 10
    assert session.supports(c.Key.PUBLISH)
    await connection.close()
    await connection.close()
    assert not connection.is_open


async def test_the_smaller_frame_and_heartbeat_count(options: ConnectionOptions) -> None:
    connection = await Connection.open(options.endpoints[0], changed(options, frame_max=10_000, heartbeat=7))
    assert (connection.frame_max, connection.session.heartbeat) == (10_000, 7)
    await connection.close()


async def test_the_brokers_limits_hold_where_this_side_has_none(options: ConnectionOptions) -> None:
    connection = await Connection.open(options.endpoints[0], changed(options, frame_max=0, heartbeat=0))
    assert (connection.frame_max, connection.session.heartbeat) == (1024 * 1024, 60)
    await connection.close()


async def test_wrong_password(options: ConnectionOptions, broker: Broker) -> None:
    wrong = changed(options, credentials=Credentials(broker.username, "no-such-password"))
    error = await fails(wrong)
    assert isinstance(error, AuthenticationFailure)
    assert broker.username in str(error)
    assert "no-such-password" not in str(error)


async def test_unknown_vhost(options: ConnectionOptions) -> None:
    error = await fails(changed(options, vhost="no-such-vhost"))
    assert isinstance(error, VirtualHostAccessFailure)
    assert "no-such-vhost" in str(error)


async def test_a_mechanism_that_is_not_offered(options: ConnectionOptions) -> None:
    error = await fails(changed(options, mechanism="GSSAPI"))
    assert isinstance(error, SASLMechanismNotSupported)
    assert "PLAIN" in str(error)


async def test_several_waiters_get_the_same_error_and_the_next_call_tries_again(options: ConnectionOptions) -> None:
    client = Client(changed(options, mechanism="GSSAPI"))
    errors = await asyncio.gather(*(client.start() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [SASLMechanismNotSupported] * 3
    await client.close()


async def test_use_after_close(client: Client) -> None:
    await client.start()
    await client.close()
    await client.close()
    for call in (
        client.start(),
        client.create_stream("s"),
        client.metadata("s"),
        client.publisher("s"),
        client.subscribe("s", FIRST),
        client.store_offset("s", "r", 1),
        client.query_offset("s", "r"),
        client.last_offset("s"),
    ):
        with pytest.raises(AlreadyClosed):
            await call


async def test_producer_and_consumer_connect_by_start_and_by_with(arguments: dict[str, Any]) -> None:
    producer = Producer(**arguments)
    await producer.start()
    await producer.close()
    await producer.close()
    async with Producer(**arguments), Consumer(**arguments):
        pass
    with pytest.raises(AlreadyClosed):
        await producer.send("s", b"")


async def test_the_seed_nodes_are_tried_in_order(options: ConnectionOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, up to the first that answers."""
    tried: list[Endpoint] = []
    open_ = Connection.open

    async def keep(endpoint: Endpoint, *arguments: Any, **settings: Any) -> Connection:
        tried.append(endpoint)
        return await open_(endpoint, *arguments, **settings)

    monkeypatch.setattr(Connection, "open", keep)
    (there,) = options.endpoints
    with closed_port() as one, closed_port() as other:
        dead, dead_too = Endpoint("127.0.0.1", one), Endpoint("127.0.0.1", other)
        for seeds, expected in (
            ((dead, dead_too, there), [dead, dead_too, there]),
            ((dead_too, there, dead), [dead_too, there]),
            ((there, dead), [there]),
        ):
            tried.clear()
            async with Client(changed(options, endpoints=seeds)) as client:
                await client.start()
                await client.start()
                assert tried == expected
                assert [connection.endpoint for connection in inside.locator(client).connections] == [there]


# No broker at all.


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def test_refused() -> None:
    with closed_port() as port:
        endpoint = Endpoint("127.0.0.1", port)
        error = await fails(ConnectionOptions(endpoints=(endpoint,)))
    assert type(error) is ConnectionFailed
    assert str(error) == f"{endpoint} refuses the connection"
    assert error.hint is not None


async def test_refused_on_every_address_of_a_name() -> None:
    with closed_port() as port:
        error = await fails(ConnectionOptions(endpoints=(Endpoint("localhost", port),)))
    assert type(error) is ConnectionFailed
    assert "refuses" in str(error)


async def test_a_name_that_does_not_resolve() -> None:
    error = await fails(ConnectionOptions(endpoints=(Endpoint("no-such-host.invalid", 5552),)))
    assert isinstance(error, HostNotFound)
    assert "no-such-host.invalid" in str(error)


@pytest.mark.parametrize("host", ["x" * 64 + ".invalid", "a..b"])
async def test_a_name_that_cannot_be_one(host: str) -> None:
    error = await fails(ConnectionOptions(endpoints=(Endpoint(host, 5552),)))
    assert isinstance(error, ConnectionFailed)


async def test_a_port_that_never_answers() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as endpoint:
        error = await fails(ConnectionOptions(endpoints=(endpoint,), connect_timeout=0.2))
    assert type(error) is ConnectionFailed
    assert "handshake within 0.2 s" in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "closed the connection during the handshake"),
        (b"AMQP\0\0\x09\x01", "speaks AMQP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP"),
        (bytes.fromhex("15030300020228"), "speaks TLS"),
        (b"220 mail.example ESMTP\r\n", "does not speak the stream protocol"),
        (b"\0\0\0\x02ab", "does not speak the stream protocol"),
    ],
)
async def test_a_port_that_is_something_else(data: bytes, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(data)
        writer.close()

    async with listening(serve) as endpoint:
        error = await fails(ConnectionOptions(endpoints=(endpoint,), connect_timeout=PATIENCE))
    assert type(error) is ConnectionFailed
    assert words in str(error)


async def test_a_request_that_is_never_answered() -> None:
    def answer(message: Any, correlation_id: int | None) -> bytes:
        return c.encode(message, correlation_id=correlation_id or 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: dict[type[Any], Any] = {
            c.PeerProperties: c.PeerPropertiesResponse({"version": "3.10.0"}),
            c.SaslHandshake: c.SaslHandshakeResponse(("PLAIN",)),
            c.SaslAuthenticate: c.SaslAuthenticateResponse(None),
            c.Open: c.OpenResponse({}),
        }
        while True:
            frame = c.decode(await reader.readexactly(int.from_bytes(await reader.readexactly(4))))
            if type(frame.message) in answers:
                writer.write(answer(answers[type(frame.message)], frame.correlation_id))
            if type(frame.message) is c.SaslAuthenticate:
                writer.write(c.encode(c.Tune(0, 0)))
            if type(frame.message) is c.Close:
                return

    async with listening(serve) as endpoint:
        client = Client(ConnectionOptions(endpoints=(endpoint,), request_timeout=0.2), recovery=None)
        with pytest.raises(RequestTimeout, match=r"stream 's': no answer from 127\.0\.0\.1"):
            await client.metadata("s")
        connection = await inside.locator(client).connection()
        assert connection.is_open
        assert inside.unanswered(connection) == {}
        await connection.close(timeout=0.2)
        await client.close()


# URIs.


async def test_a_uri_is_all_that_is_needed(broker: Broker, stream_name: str) -> None:
    async with (
        Producer(broker.uri) as producer,
        Consumer(broker.uri) as consumer,
        Client(broker.uri) as client,
        asyncio.timeout(PATIENCE),
    ):
        await client.create_stream(stream_name)
        await producer.send_wait(stream_name, b"by URI")
        async for message, _ in consumer.messages(stream_name):
            assert message == b"by URI"
            break
        await client.delete_stream(stream_name)


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_broker(rabbitmq: Broker, authority: Authority) -> Iterator[tuple[Broker, int]]:
    """A broker that listens over TLS too, on that port, with a certificate for localhost and no other name."""
    options = ["--tls", str(authority.for_broker(alternatives=("DNS:localhost",))), "--advertised-host", "localhost"]
    for setting in ("auth_mechanisms.1=PLAIN", "auth_mechanisms.2=EXTERNAL", "ssl_cert_login_from=common_name"):
        options += ["--config", setting]
    with own_broker(f"tls-{unused_port()}", *options) as broker:
        assert broker.tls_port is not None
        yield broker, broker.tls_port


async def test_tls(tls_broker: tuple[Broker, int], authority: Authority, stream_name: str) -> None:
    broker, port = tls_broker
    options = options_for(
        broker,
        endpoints=(Endpoint("127.0.0.1", port),),
        tls=authority.context(),
        server_name="localhost",
    )
    async with Client(options) as client:
        await client.create_stream(stream_name)
        assert (await client.metadata(stream_name)).leader == Endpoint("localhost", port)
        await publish(client, stream_name, [b"over", b"TLS"])
        assert await read(client, stream_name, 2) == {0: b"over", 1: b"TLS"}
        await client.delete_stream(stream_name)


async def test_a_client_certificate_logs_in(tls_broker: tuple[Broker, int], authority: Authority) -> None:
    broker, port = tls_broker
    broker.ctl("add_user", "alice", "not needed")
    broker.ctl("set_permissions", "alice", ".*", ".*", ".*")

    async def log_in(name: str) -> Client:
        context = authority.context()
        context.load_cert_chain(*authority.issue(name, name, alternatives=()))
        options = options_for(broker, endpoints=(Endpoint("localhost", port),), tls=context, mechanism="EXTERNAL")
        return Client(options)

    async with await log_in("alice") as client:
        await client.start()
        assert await client.stream_exists("none") is False
    async with await log_in("stranger") as client:
        with pytest.raises(AuthenticationFailure, match="client certificate"):
            await client.start()


async def test_an_untrusted_certificate(tls_broker: tuple[Broker, int]) -> None:
    broker, port = tls_broker
    error = await fails(options_for(broker, endpoints=(Endpoint("localhost", port),), tls=ssl.create_default_context()))
    assert isinstance(error, TlsError)
    assert "not accepted" in str(error)
    assert not error.retriable


async def test_a_certificate_for_another_name(tls_broker: tuple[Broker, int], authority: Authority) -> None:
    broker, port = tls_broker
    error = await fails(
        options_for(
            broker,
            endpoints=(Endpoint("127.0.0.1", port),),
            tls=authority.context(),
            server_name="elsewhere.example",
        )
    )
    assert isinstance(error, TlsError)
    assert "elsewhere.example" in str(error)


async def test_the_tls_port_spoken_to_in_plain(tls_broker: tuple[Broker, int]) -> None:
    broker, port = tls_broker
    error = await fails(options_for(broker, endpoints=(Endpoint("127.0.0.1", port),)))
    assert isinstance(error, ConnectionFailed)
    assert "TLS" in str(error)


async def test_the_plain_port_spoken_to_over_tls(options: ConnectionOptions, authority: Authority) -> None:
    error = await fails(changed(options, tls=authority.context(), connect_timeout=3, server_name="localhost"))
    assert isinstance(error, ConnectionFailed)
    assert str(options.endpoints[0]) in str(error)


# A password that changes.


@pytest.fixture
def user(rabbitmq: Broker) -> Iterator[str]:
    """A user of the broker whose password is "old"."""
    if not rabbitmq.name:
        pytest.skip("changes users, and RSTREAM_TEST_URI names a broker that the tests do not run")
    name = f"user-{unused_port()}"
    rabbitmq.ctl("add_user", name, "old")
    rabbitmq.ctl("set_permissions", name, ".*", ".*", ".*")
    yield name
    rabbitmq.ctl("delete_user", name)


@pytest.fixture
async def own_stream(rabbitmq: Broker, stream_name: str) -> AsyncIterator[str]:
    """A stream of the real broker."""
    async with Client(options_for(rabbitmq)) as client:
        await client.create_stream(stream_name)
        yield stream_name
        await client.delete_stream(stream_name)


async def test_a_new_password_on_live_connections(rabbitmq: Broker, user: str, own_stream: str) -> None:
    stream = own_stream
    async with Client(options_for(rabbitmq, credentials=Credentials(user, "old"))) as client:
        publisher = await client.publisher(stream)
        await publisher.publish([b"before"])
        rabbitmq.ctl("change_password", user, "new")
        await client.update_password("new")
        await publisher.publish([b"after"])
        await publisher.flush(10)
        await publisher.close()  # and its connection: the next one logs in anew
        assert await read(client, stream, 2) == {0: b"before", 1: b"after"}


async def test_a_new_password_that_is_wrong(rabbitmq: Broker, user: str, own_stream: str) -> None:
    async with Client(options_for(rabbitmq, credentials=Credentials(user, "old")), recovery=None) as client:
        publisher = await client.publisher(own_stream)
        with pytest.raises(AuthenticationFailure) as caught:
            await client.update_password("guess")
        assert "guess" not in str(caught.value)
        async with asyncio.timeout(10):
            while publisher.error is None:  # noqa: ASYNC110 - the broker closes when it likes
                await asyncio.sleep(0.01)
        await publisher.close()


# Other brokers than the shared one.


async def test_an_advertised_host_that_does_not_resolve(own_rabbitmq: OwnRabbitMQ, stream_name: str) -> None:
    broker = own_rabbitmq("--advertised-host", "no-such-host.invalid")
    async with Client(options_for(broker)) as client:
        await client.create_stream(stream_name)
        with pytest.raises(AdvertisedHostUnreachable, match=r"no-such-host\.invalid.*does not resolve") as caught:
            await client.publisher(stream_name)
        assert "load_balancer_mode=True" in (caught.value.hint or "")
        with pytest.raises(AdvertisedHostUnreachable):
            await client.subscribe(stream_name, FIRST)
    async with Client(options_for(broker, load_balancer_mode=True)) as client:
        await publish(client, stream_name, [b"through"])
        assert await read(client, stream_name, 1) == {0: b"through"}


@pytest.mark.slow
async def test_a_broker_of_before_3_11(rabbitmq: Broker, stream_name: str) -> None:
    """No command versions, Deliver v1, no statistics: RabbitMQ 3.10, where a tree of Debian's can be had."""
    try:
        with own_broker(f"old-{unused_port()}", "--release", "bookworm") as broker:
            async with Client(options_for(broker)) as client:
                assert (await client.server_version()).startswith("3.10")
                await client.create_stream(stream_name)
                with pytest.raises(UnsupportedByBroker, match=r"needs RabbitMQ 3\.11; this broker is 3\.10"):
                    await client.stats(stream_name)
                assert await client.last_offset(stream_name) is None
                await publish(client, stream_name, [b"a", b"b"], [b"c"])
                assert await read(client, stream_name, 3) == {0: b"a", 1: b"b", 2: b"c"}
                assert await client.last_offset(stream_name) == 2
                assert await client.tail_offset(stream_name, 2) == 1
                async with await client.subscribe(stream_name, FIRST) as subscription:
                    assert (await anext(subscription)).committed_chunk_id is None
                    assert await take(subscription, 1) == {2: b"c"}
                consumer = Consumer(client=client)
                async for message, context in consumer.messages(stream_name, offset_type=OffsetType.LAST):
                    assert (message, context.offset) == (b"c", 2)
                    break
                await consumer.close()
                assert await client.resolve_offset(stream_name, at(1)) == 1
                for spec, offset in ((FIRST, 0), (LAST, 2), (NEXT, 3), (at(9), 9)):
                    assert await client.resolve_offset(stream_name, spec) == offset
                for what, words in (
                    (client.partitions("s"), r"super streams needs RabbitMQ 3\.11"),
                    (
                        client.subscribe(stream_name, FIRST, single_active=SingleActiveConsumer("g")),
                        r"needs RabbitMQ 3\.11",
                    ),
                    (client.subscribe(stream_name, FIRST, filter_values=["a"]), r"filtering needs RabbitMQ 3\.13"),
                ):
                    with pytest.raises(UnsupportedByBroker, match=words):
                        await what
    except (NoRabbitMQError, ScriptFailedError) as reason:
        pytest.skip(f"no RabbitMQ 3.10: {reason}")


async def test_a_broker_of_4_0(rabbitmq: Broker, stream_name: str) -> None:
    """No resolving of offsets, and no committed offset in the statistics; the rest is there."""
    try:
        with own_broker(f"old-{unused_port()}", "--release", "trixie") as broker:
            options = options_for(broker)
            async with Client(options) as client:
                assert (await client.server_version()).startswith("4.0")
                await client.create_stream(stream_name)
                await publish(client, stream_name, [b"a", b"b"], [b"c"])
                stats = await client.stats(stream_name)
                assert (stats.first_offset, stats.committed_chunk_id, stats.committed_offset) == (0, 2, None)
                assert await client.last_offset(stream_name) == 2
                for spec, offset in ((FIRST, 0), (at(1), 1), (LAST, 2), (NEXT, 3), (at(9), 9)):
                    assert await client.resolve_offset(stream_name, spec) == offset
                single_active = SingleActiveConsumer("g")
                async with await client.subscribe(stream_name, FIRST, single_active=single_active) as subscription:
                    assert await take(subscription, 3) == {0: b"a", 1: b"b", 2: b"c"}
                await publish_filtered(options, stream_name, [("x", b"d")], [("y", b"e")])
                async with await client.subscribe(stream_name, FIRST, filter_values=["y"]) as subscription:
                    assert await take(subscription, 1) == {4: b"e"}
                super_stream = f"{stream_name}-super"
                names = await client.create_super_stream(super_stream, partitions=2)
                assert await client.partitions(super_stream) == names
    except (NoRabbitMQError, ScriptFailedError) as reason:
        pytest.skip(f"no RabbitMQ 4.0: {reason}")
