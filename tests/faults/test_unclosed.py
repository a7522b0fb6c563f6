"""What is dropped without ``close`` says what is lost by it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from rstream_core import Client, ConnectionOptions, Consumer, Producer
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, bodies
from tests.proxy import Proxy

PROGRAM = """
import asyncio, sys
from rstream_core import Producer

async def main():
    login = {"username": sys.argv[3], "password": sys.argv[4], "vhost": sys.argv[5]}
    producer = Producer(sys.argv[1], int(sys.argv[2]), **login, linger=60)
    for number in range(7):
        await producer.send(sys.argv[6], b"x")
    if sys.argv[7] == "at exit":
        globals()["kept"] = producer

asyncio.run(main())
"""


def warned_of(drop: Callable[[], None]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop()
        gc.collect()
    return [str(warning.message) for warning in caught if warning.category is ResourceWarning]


async def test_a_producer_with_messages(client: Client, stream: str) -> None:
    producers = [Producer(client=client, linger=60)]
    for body in bodies(10):
        await producers[0].send(stream, body)
    (warning,) = warned_of(producers.clear)
    assert warning.startswith("unclosed Producer: 10 messages are lost")


async def test_a_producer_whose_messages_wait_for_room_or_confirms(through: Client, proxy: Proxy, stream: str) -> None:
    producers = [Producer(client=through, linger=60, max_in_flight=10)]
    await producers[0].send_batch(stream, bodies(3))
    await producers[0].flush(PATIENCE)
    proxy.broker_may_speak.clear()
    await producers[0].send_batch(stream, bodies(4))
    for body in bodies(2):
        await producers[0].send(stream, body)
    (warning,) = warned_of(producers.clear)
    assert warning.startswith("unclosed Producer: 6 messages ")
    proxy.resume()


async def test_a_producer_that_owes_nothing_is_dropped_quietly(client: Client, stream: str) -> None:
    closed, settled, unused = Producer(client=client), Producer(client=client), Producer(client=client)
    for producer in (closed, settled):
        await producer.send(stream, b"x")
    await closed.close()
    await settled.flush(PATIENCE)
    producers = [closed, settled, unused]
    del closed, settled, unused, producer
    assert warned_of(producers.clear) == []


@pytest.mark.parametrize("kind", [Client, Producer, Consumer])
async def test_an_open_connection(options: ConnectionOptions, broker: Broker, kind: type) -> None:
    if kind is Client:
        dropped = [Client(options)]
    else:
        login = {"username": broker.username, "password": broker.password, "vhost": broker.vhost}
        dropped = [kind(broker.host, broker.port, **login)]
    await dropped[0].start()
    client = getattr(dropped[0], "client", dropped[0])
    connections = list(inside.locator(client).connections)
    del client
    assert warned_of(dropped.clear) == ["unclosed Client: 1 connections stay open"]
    assert connections[0].is_open  # it is told of, and nothing is done about it: messages may be on their way
    await connections[0].close()


async def test_what_was_never_connected_or_never_made_is_dropped_quietly(options: ConnectionOptions) -> None:
    dropped = [Client(options), Producer(), Consumer()]
    assert warned_of(dropped.clear) == []

    def fail() -> None:
        for make in (lambda: Producer(batch_size=0), lambda: Client(max_publishers_by_connection=0)):
            with pytest.raises(ValueError):
                make()

    assert warned_of(fail) == []


@pytest.mark.parametrize("when", ["before exit", "at exit"])
async def test_a_program_that_ends(broker: Broker, client: Client, stream: str, when: str) -> None:
    arguments = [broker.host, str(broker.port), broker.username, broker.password, broker.vhost, stream, when]
    command = [sys.executable, "-X", "dev", "-c", PROGRAM, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr.count("ResourceWarning: unclosed Producer: 7 messages are lost") == 1
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
    assert await client.last_offset(stream) is None  # as it says


async def test_the_warning_does_not_keep_what_it_is_about(client: Client, stream: str) -> None:
    producers = [Producer(client=client, linger=60)]
    await producers[0].send(stream, b"x")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        producers.clear()
        gc.collect()
        assert caught
        assert not [found for found in gc.get_objects() if isinstance(found, Producer) and found.client is client]
