"""``start(wait=)``: a broker that starts at the same time as the program, and what no waiting mends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from rstream_core import (
    AuthenticationFailure,
    Client,
    ConfigurationError,
    ConnectionFailed,
    ConnectionOptions,
    Consumer,
    Credentials,
    EmbeddedBroker,
    Endpoint,
    Producer,
    SuperStreamConsumer,
    SuperStreamProducer,
)
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.recovery import Backoff
from tests.clients import PATIENCE, closed_port, eventually

HOURS = 3 * 3600.0


def client_of(port: int, **options: Any) -> Client:
    return Client(ConnectionOptions(endpoints=(Endpoint("127.0.0.1", port),), **options))


class Waits(logging.Handler):
    """Notes that a client has found nobody, and waits."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.begun = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("waiting "):
            self.begun.set()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    """Where a connection was tried."""
    made: list[Endpoint] = []
    open_really = Connection.open

    async def counted(
        endpoint: Endpoint, options: ConnectionOptions, credentials: Credentials, renew: None
    ) -> Connection:
        made.append(endpoint)
        return await open_really(endpoint, options, credentials, renew)

    monkeypatch.setattr(Connection, "open", counted)
    return made


async def test_a_broker_that_starts_later() -> None:
    waits, logger = Waits(), logging.getLogger("rstream_core")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(waits)
    try:
        with ExitStack() as held:
            port = held.enter_context(closed_port())
            async with asyncio.timeout(PATIENCE), client_of(port) as client:
                starting = asyncio.create_task(client.start(wait=HOURS))
                await waits.begun.wait()
                held.close()
                async with EmbeddedBroker(port=port):
                    await starting
                    await client.create_stream("s")
    finally:
        logger.removeHandler(waits)
        logger.setLevel(level)


async def test_the_last_error_is_raised(monkeypatch: pytest.MonkeyPatch, attempts: list[Endpoint]) -> None:
    monkeypatch.setattr("rstream_core.connecting.locator.FIRST_WAIT", Backoff(attempts=3, initial=0.001))
    with closed_port() as port:
        async with asyncio.timeout(PATIENCE), client_of(port) as client:
            with pytest.raises(ConnectionFailed, match="refuses the connection"):
                await client.start(wait=HOURS)
            assert len(attempts) == 4  # the first one, and those of the wait
            with pytest.raises(ConnectionFailed, match="refuses the connection"):
                await client.start()
            assert len(attempts) == 5


async def test_the_time_is_a_bound() -> None:
    with closed_port() as port:
        async with asyncio.timeout(PATIENCE), client_of(port) as client:
            with pytest.raises(ConnectionFailed, match="refuses the connection"):
                await client.start(wait=0.01)


async def test_the_first_attempt_has_the_time_of_a_connection() -> None:
    async with EmbeddedBroker() as broker, client_of(broker.port) as client:
        await client.start(wait=1e-9)


async def test_what_no_waiting_mends_is_told_at_once(attempts: list[Endpoint]) -> None:
    async with EmbeddedBroker() as broker, client_of(broker.port, credentials=Credentials("guest", "no")) as client:
        with pytest.raises(AuthenticationFailure):
            await client.start(wait=HOURS)
    assert len(attempts) == 1


async def test_it_can_be_cancelled(attempts: list[Endpoint]) -> None:
    with closed_port() as port:
        async with client_of(port) as client:
            starting = asyncio.create_task(client.start(wait=HOURS))
            await eventually(lambda: bool(attempts))
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        *((time, ConfigurationError) for time in (-1, float("nan"), float("inf"), 10**400)),
        *((time, TypeError) for time in ("10s", True, None)),
    ],
)
async def test_what_is_no_time(wait: Any, error: type[Exception], attempts: list[Endpoint]) -> None:
    async with client_of(1) as client:
        with pytest.raises(error, match=r"^wait is a number of seconds"):
            await client.start(wait=wait)
    assert attempts == []


@pytest.mark.parametrize(
    "make",
    [
        lambda port: Producer("127.0.0.1", port),
        lambda port: Consumer("127.0.0.1", port),
        lambda port: SuperStreamProducer("127.0.0.1", port, super_stream="p", routing_extractor=lambda _: "k"),
        lambda port: SuperStreamConsumer("127.0.0.1", port, super_stream="p"),
    ],
)
async def test_all_of_them_wait(
    make: Callable[[int], Producer], monkeypatch: pytest.MonkeyPatch, attempts: list[Endpoint]
) -> None:
    monkeypatch.setattr("rstream_core.connecting.locator.FIRST_WAIT", Backoff(attempts=2, initial=0.001))
    with closed_port() as port:
        application = make(port)
        with pytest.raises(ConnectionFailed):
            await application.start(wait=HOURS)
        assert len(attempts) == 3
        await application.close()
