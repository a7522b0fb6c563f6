"""Programs under uvloop, as uvicorn runs them: what the loop's own sockets, TLS and errors do.

The tests that are imported are those of the core that touch the most of a loop; ``make soak PARTS=uvloop`` runs all
of tests/conformance and tests/faults on it.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    ConnectionFailed,
    ConnectionOptions,
    Consumer,
    EmbeddedBroker,
    Endpoint,
    Hint,
    MessageContext,
    Producer,
    amqp_decoder,
)
from rstream_core.broker import connection as broker_connection
from tests.brokers import Broker
from tests.certificates import Authority
from tests.clients import PATIENCE, arguments_for, bodies, closed_port, publish, read
from tests.conformance.test_connection import (
    test_a_name_that_cannot_be_one,
    test_a_name_that_does_not_resolve,
    test_a_port_that_is_something_else,
    test_a_port_that_never_answers,
    test_refused_on_every_address_of_a_name,
)
from tests.faults.test_back_pressure import test_the_bound_of_bytes_is_never_passed
from tests.faults.test_connection import (
    test_a_connection_that_is_given_up_leaves_no_socket,
    test_closing_is_bounded,
)
from tests.faults.test_recovery_publisher import test_a_producer_goes_on
from tests.faults.test_recovery_subscription import test_callbacks_and_iterators_go_on

__all__ = [
    "test_a_connection_that_is_given_up_leaves_no_socket",
    "test_a_name_that_cannot_be_one",
    "test_a_name_that_does_not_resolve",
    "test_a_port_that_is_something_else",
    "test_a_port_that_never_answers",
    "test_a_producer_goes_on",
    "test_callbacks_and_iterators_go_on",
    "test_closing_is_bounded",
    "test_refused_on_every_address_of_a_name",
    "test_the_bound_of_bytes_is_never_passed",
]

COUNT = 2000


async def both_ways(stream: str, **connection: Any) -> None:
    """A producer and a consumer in one program; the messages, in order, and the stored offset."""
    seen: list[tuple[bytes, int]] = []
    done = asyncio.Event()

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        seen.append((message.body or b"", context.offset))
        if len(seen) == COUNT:
            await context.consumer.store_offset(context.stream, "reader", context.offset)
            done.set()

    async with Producer(**connection) as producer, Consumer(**connection) as consumer:
        await producer.create_stream(stream)
        await consumer.subscribe(stream, on_message, decoder=amqp_decoder)
        for body in bodies(COUNT):
            await producer.send(stream, AMQPMessage(body=body))
        await producer.flush(PATIENCE)
        async with asyncio.timeout(PATIENCE):
            await done.wait()
            assert [body for body, _ in seen] == bodies(COUNT)
            await consumer.store_offset(stream, "reader", seen[-1][1])
            assert await consumer.query_offset(stream, "reader") == seen[-1][1]
        await producer.delete_stream(stream)


async def test_it_is_uvloop() -> None:
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"


async def test_a_producer_and_a_consumer(broker: Broker, stream_name: str) -> None:
    await both_ways(stream_name, **arguments_for(broker))


async def test_by_name() -> None:
    async with EmbeddedBroker() as broker:
        await both_ways("s", host="localhost", port=broker.port)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server", "localhost", alternatives=("DNS:localhost",))


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_over_tls(server_tls: ssl.SSLContext, authority: Authority) -> None:
    async with EmbeddedBroker(tls=server_tls) as broker:
        await both_ways("s", host="localhost", port=broker.port, ssl_context=authority.context())


async def test_what_is_wrong_with_tls_is_told(server_tls: ssl.SSLContext, authority: Authority) -> None:
    async def error_of(port: int, tls: ssl.SSLContext | None, host: str = "localhost") -> ConnectionFailed:
        client = Client(ConnectionOptions(endpoints=(Endpoint(host, port),), tls=tls))
        with pytest.raises(ConnectionFailed) as failed:
            await client.start()
        return failed.value

    async with EmbeddedBroker(tls=server_tls) as broker, EmbeddedBroker() as plain:
        untrusted = await error_of(broker.port, ssl.create_default_context())
        assert untrusted.hint is Hint.TRUST
        assert "is not accepted" in str(untrusted)
        other_name = await error_of(broker.port, authority.context(), "127.0.0.1")
        assert "is not accepted" in str(other_name)
        assert (await error_of(broker.port, None)).hint is Hint.IS_IT_A_TLS_PORT
        assert (await error_of(plain.port, authority.context())).hint is Hint.IS_IT_THE_TLS_PORT
        with closed_port() as nobody:
            assert (await error_of(nobody, authority.context())).hint is Hint.IS_IT_RUNNING_WITH_TLS


@pytest.mark.parametrize("is_tls", [False, True])
async def test_large_chunks_to_a_reader_that_is_slow(
    is_tls: bool,
    server_tls: ssl.SSLContext,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker's buffer is full after every chunk: it pauses, and goes on."""
    paused = 0
    pause = broker_connection.BrokerConnection.pause_writing

    def count(self: broker_connection.BrokerConnection) -> None:
        nonlocal paused
        paused += 1
        pause(self)

    monkeypatch.setattr(broker_connection.BrokerConnection, "pause_writing", count)
    large = [bytes([number]) * 900_000 for number in range(20)]
    async with EmbeddedBroker(tls=server_tls if is_tls else None) as broker:
        endpoint = Endpoint("localhost", broker.port)
        async with Client(ConnectionOptions(endpoints=(endpoint,), tls=authority.context() if is_tls else None)) as own:
            await own.create_stream("s")
            await publish(own, "s", *([body] for body in large))
            assert list((await read(own, "s", len(large))).values()) == large
    assert paused
