"""Passwords that are tokens: each connection logs in again before its token expires, and nobody notices."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from rstream_core import (
    AuthenticationFailure,
    Client,
    ConnectionOptions,
    Consumer,
    Credentials,
    Endpoint,
    OffsetType,
    Producer,
    RecoveryEvent,
    SASLMechanismNotSupported,
)
from rstream_core.connecting.connection import Connection
from tests import inside
from tests.cli.conftest import run_rstream
from tests.cli.process import summary_of
from tests.clients import FIRST, PATIENCE, options_for
from tests.tokens import TokenBroker, embedded_with_tokens, rabbitmq_with_tokens

LIFETIME, SECONDS = 3.0, 8.0
"""Of a token, and of a run."""


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenBroker]:
    if request.param == "embedded":
        with embedded_with_tokens() as found:
            yield found
    else:
        with rabbitmq_with_tokens(tmp_path_factory.mktemp("tokens"), f"tokens-{os.getpid()}") as found:
            yield found


class Source:
    """Gives tokens, and counts them."""

    def __init__(self, broker: TokenBroker, lifetime: float = LIFETIME) -> None:
        self.broker = broker
        self.lifetime = lifetime
        self.given = 0

    async def __call__(self) -> Credentials:
        self.given += 1
        return Credentials("whoever", await asyncio.to_thread(self.broker.make, self.lifetime))


def options_of(broker: TokenBroker, **more: Any) -> ConnectionOptions:
    return ConnectionOptions((broker.endpoint,), **{"credentials": Source(broker), **more})


def mechanisms(broker: TokenBroker) -> list[str]:
    return ["PLAIN", "OAUTHBEARER"] if broker.offers_bearer else ["PLAIN"]


async def test_nothing_is_interrupted_and_nothing_is_lost(broker: TokenBroker, stream_name: str) -> None:
    for mechanism in mechanisms(broker):
        await _run(broker, f"{stream_name}-{mechanism}", mechanism, LIFETIME, SECONDS)


@pytest.mark.soak
async def test_a_minute_of_tokens_of_five_seconds(broker: TokenBroker, stream_name: str) -> None:
    for mechanism in mechanisms(broker):
        await _run(broker, f"{stream_name}-{mechanism}", mechanism, 5.0, 60.0)


async def _run(broker: TokenBroker, stream: str, mechanism: str, lifetime: float, seconds: float) -> None:
    source = Source(broker, lifetime)
    events: list[RecoveryEvent] = []
    options = options_of(broker, credentials=source, mechanism=mechanism)
    loop = asyncio.get_running_loop()
    async with Client(options, on_recovery=events.append) as client:
        await client.create_stream(stream)
        publisher = await client.publisher(stream)
        subscription = await client.subscribe(stream, FIRST)
        connections = inside.client_connections(client)
        assert len(connections) == 3
        opened = source.given
        until = loop.time() + seconds
        published, read = 0, []
        is_over = asyncio.Event()

        async def publish() -> None:
            nonlocal published
            while loop.time() < until:
                await publisher.publish([b"%d" % (published + number) for number in range(10)])
                published += 10
                await asyncio.sleep(0.01)
            is_over.set()
            await publisher.publish([b"%d" % published])
            published += 1
            await publisher.flush(PATIENCE)

        async def consume() -> None:
            async for chunk in subscription:
                read.extend(chunk.messages)
                if is_over.is_set() and len(read) >= published:
                    return

        async with asyncio.timeout(seconds + PATIENCE):
            await asyncio.gather(publish(), consume())
        assert read == [b"%d" % number for number in range(published)]
        assert events == []
        assert inside.client_connections(client) == connections
        assert all(connection.is_open for connection in connections)
        assert source.given - opened >= int(seconds / lifetime)  # asked for once by all of them, or by each
        await publisher.close()
        await subscription.close()
        await client.delete_stream(stream)


async def test_a_token_that_is_not_renewed_ends_its_connection(broker: TokenBroker) -> None:
    """So the test above would notice."""
    fixed = Credentials("whoever", broker.make(2.0))
    connection = await Connection.open(broker.endpoint, options_of(broker, credentials=fixed))
    begin = asyncio.get_running_loop().time()
    await asyncio.wait([inside.gone(connection)], timeout=PATIENCE)
    assert not connection.is_open
    assert 0.5 < asyncio.get_running_loop().time() - begin < 5
    with pytest.raises(AuthenticationFailure):
        await Connection.open(broker.endpoint, options_of(broker, credentials=fixed))


async def test_a_function_that_fails_for_a_while_is_asked_again(broker: TokenBroker) -> None:
    given = 0

    async def credentials() -> Credentials:
        nonlocal given
        given += 1
        if given == 2:
            raise LookupError("not yet")
        return Credentials("whoever", await asyncio.to_thread(broker.make, 4.0))

    async with Client(options_of(broker, credentials=credentials)) as client:
        await client.start()
        [connection] = inside.client_connections(client)
        await asyncio.sleep(6)
        assert connection.is_open
        assert given >= 3


async def test_producers_and_consumers_take_a_function(broker: TokenBroker, stream_name: str) -> None:
    given = 0

    def token() -> str:
        nonlocal given
        given += 1
        return broker.make(2.0 if broker.offers_bearer else 3.0)

    host, port = broker.endpoint.host, broker.endpoint.port
    async with (
        Producer(host, port, username="whoever", password=token) as producer,
        Consumer(host, port, username="whoever", password=token) as consumer,
    ):
        await producer.create_stream(stream_name)
        got: asyncio.Queue[bytes] = asyncio.Queue()
        await consumer.subscribe(
            stream_name, lambda message, _: got.put_nowait(bytes(message)), offset_type=OffsetType.FIRST
        )
        await consumer.start()
        for number in range(5):
            await producer.send_wait(stream_name, b"%d" % number)
            assert await asyncio.wait_for(got.get(), PATIENCE) == b"%d" % number
            await asyncio.sleep(1)
        assert given > 4
        await producer.delete_stream(stream_name)


def test_the_command_line_renews_tokens_of_a_command(broker: TokenBroker, stream_name: str) -> None:
    env = {
        "RSTREAM_HOST": broker.endpoint.host,
        "RSTREAM_PORT": str(broker.endpoint.port),
        "RSTREAM_PASSWORD_COMMAND": broker.program(5),
    }
    assert run_rstream("stream", "create", stream_name, env=env).returncode == 0
    rate = ("--rate", "500/s", "--count", str(int(500 * SECONDS)), "--stats", "json")
    lines = b"".join(b"%d\n" % number for number in range(int(500 * SECONDS)))
    done = run_rstream("publish", stream_name, *rate, stdin=lines, env=env, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr.decode()
    summary = summary_of(done.stderr)
    assert (summary["confirmed"], summary["sent_again"]) == (500 * SECONDS, 0)
    assert b"again" not in done.stderr.replace(b"sent_again", b"")  # no outage is told of
    read = run_rstream("consume", stream_name, "-o", "first", "--until", "end", env=env)
    assert read.stdout == lines
    assert run_rstream("stream", "delete", stream_name, "--yes", env=env).returncode == 0


def test_a_broker_without_the_mechanism_is_told(broker: TokenBroker) -> None:
    env = {"RSTREAM_HOST": broker.endpoint.host, "RSTREAM_PORT": str(broker.endpoint.port)}
    token = {"RSTREAM_PASSWORD": broker.make(30), "RSTREAM_SASL": "oauthbearer"}
    done = run_rstream("doctor", env={**env, **token})
    if broker.offers_bearer:
        assert done.returncode == 0
        assert b"the token's user, OAUTHBEARER" in done.stdout
        done = run_rstream("stream", "info", "s", env={**env, **token, "RSTREAM_PASSWORD": "x.y.z"})
        assert done.returncode == 5
        assert done.stderr.startswith(b"error: the broker refuses the token\nhint: has it expired?")
        return
    done = run_rstream("stream", "info", "s", env={**env, **token})
    assert done.returncode == 5
    message, hint = done.stderr.decode().splitlines()
    assert message.startswith("error: the broker offers ")
    assert message.endswith(", not OAUTHBEARER")
    assert " PLAIN," in message  # RabbitMQ has no order of its own
    assert hint == "hint: RabbitMQ takes a token where the password goes: leave out --sasl oauthbearer"


async def test_a_broker_without_tokens(embedded: Any) -> None:
    options = options_for(embedded, mechanism="OAUTHBEARER")
    with pytest.raises(SASLMechanismNotSupported, match="the broker offers PLAIN, not OAUTHBEARER"):
        await Connection.open(Endpoint(embedded.host, embedded.port), options)
