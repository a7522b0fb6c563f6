"""``--wait-for-broker``: the first connection of every command may take so long."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from rstream_core import EmbeddedBroker, Endpoint
from tests.brokers import Broker
from tests.cli import in_process
from tests.cli.conftest import Done, run_here
from tests.clients import closed_port, listening
from tests.proxy import Proxy

Starting = Callable[[], AbstractAsyncContextManager[dict[str, str]]]


@pytest.fixture
def starting(broker: Broker) -> Starting:
    """Makes the variables that name a broker which turns the first three connections away, as one that starts does."""

    @asynccontextmanager
    async def start() -> AsyncIterator[dict[str, str]]:
        async with Proxy(Endpoint(broker.host, broker.port)) as proxy:
            proxy.turn_away = 3
            yield {
                "RSTREAM_URI": f"rabbitmq-stream://{broker.username}:{broker.password}@{proxy.endpoint}",
                "RSTREAM_WAIT_FOR_BROKER": "1h",
            }
            assert proxy.turn_away == 0

    return start


async def run_in_thread(env: dict[str, str], *words: str, terminal: bool = False) -> Done:
    return await asyncio.to_thread(run_here, *words, env=env, terminal=terminal)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("stream create {}", 0),
        ("publish {} --create -m x", 0),
        ("doctor", 0),
        ("superstream delete {} --missing-ok --yes", 0),
        ("stream delete {} --missing-ok --yes", 0),
        ("stream info {}", 4),
        ("consume {}", 4),
        ("offset query {} --name r", 4),
        ("superstream route {} k", 4),
    ],
)
async def test_every_command_waits(
    starting: Starting, env: dict[str, str], stream_name: str, command: str, status: int
) -> None:
    async with starting() as variables:
        done = await run_in_thread(variables, *command.format(stream_name).split())
    await run_in_thread(env, "stream", "delete", stream_name, "--missing-ok", "--yes")
    assert done.status == status, done
    assert "waited" not in done.errors


@pytest.mark.parametrize(("more", "is_told"), [((), True), (("-q",), False)])
async def test_a_person_is_told_what_it_waits_for(starting: Starting, more: tuple[str, ...], is_told: bool) -> None:
    words = ("stream", "delete", "none", "--missing-ok", "--yes", *more)
    async with starting() as variables:
        done = await run_in_thread({**variables, "COLUMNS": "200"}, *words, terminal=True)
    assert done.status == 0
    place = variables["RSTREAM_URI"].rpartition("@")[2]
    # The proxy's end of the connection is a reset where bytes were under way.
    why = "(closed the connection during the handshake|ended the connection: .*)"
    line = rf"waiting for a broker, 3600 s at most: {re.escape(place)} {why}\n"
    assert len(re.findall(line, done.errors)) == is_told


def test_the_error_says_how_long_it_waited() -> None:
    with closed_port() as port:
        words = ("--host", "127.0.0.1", "--port", str(port), "--wait-for-broker", "10ms")
        done = run_here("stream", "info", "s", "--json", *words)
        assert json.loads(done.errors)["message"] == (
            f"127.0.0.1:{port} refuses the connection; waited 0.01 s for a broker"
        )
        assert done.status == 6
        done = run_here("doctor", "--json", *words)
        (failure,) = [line for line in map(json.loads, done.output.splitlines()) if line["status"] == "FAIL"]
        assert (done.status, failure["check"]) == (6, "connection")


def test_what_no_waiting_mends_is_told_at_once() -> None:
    with EmbeddedBroker() as broker:
        uri = f"rabbitmq-stream://guest:no@127.0.0.1:{broker.port}"
        done = run_here("stream", "info", "s", "--uri", uri, "--wait-for-broker", "1h")
    assert done.status == 5
    assert "waited" not in done.errors


@pytest.mark.parametrize("command", ["publish s -m x", "consume s", "stream info s", "doctor"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait(command: str, number: signal.Signals, status: int) -> None:
    with closed_port() as port:
        words = ("--host", "127.0.0.1", "--port", str(port), "--wait-for-broker", "1h")
        run = in_process.Run([*command.split(), *words], {})
        run.signals.send(number)
        assert run.finish().returncode == status


async def test_a_first_attempt_that_takes_longer_is_the_last() -> None:
    """The broker takes the connection, and never answers."""
    accepted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read()

    async with listening(serve) as endpoint:
        place = ("--host", endpoint.host, "--port", str(endpoint.port), "--connect-timeout", "200ms")
        done = await run_in_thread({}, "stream", "info", "s", *place, "--wait-for-broker", "100ms")
    assert done.status == 6
    assert accepted == 1
    assert "waited 0.1 s for a broker" in done.errors
