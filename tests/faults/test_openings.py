"""What cannot be opened holds up nothing else, and those who wait for the same thing share one attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConnectionFailed,
    ConnectionOptions,
    Endpoint,
    Producer,
    Publisher,
    RstreamError,
    StreamDoesNotExist,
    SuperStreamProducer,
)
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, bodies, eventually, listening, options_for
from tests.recovering import stored


class Openings:
    """Stands in for a client's way to open publishers: that of one stream waits until the test lets it go on."""

    def __init__(self, client: Client, stream: str) -> None:
        self._open = client.publisher
        self._stream = stream
        self.attempts = 0
        self.may_go_on = asyncio.Event()
        self.error: RstreamError | None = None

    async def __call__(self, stream: str, *arguments: Any, **keywords: Any) -> Publisher:
        if stream == self._stream:
            self.attempts += 1
            await self.may_go_on.wait()
            if self.error is not None:
                raise self.error
        return await self._open(stream, *arguments, **keywords)


@pytest.fixture
def openings(client: Client, stream: str, monkeypatch: pytest.MonkeyPatch) -> Openings:
    made = Openings(client, stream)
    monkeypatch.setattr(client, "publisher", made)
    return made


async def test_a_stream_that_cannot_be_opened_holds_up_no_other(
    client: Client, stream: str, super_stream: str, openings: Openings
) -> None:
    openings.error = ConnectionFailed("nobody is there")
    producer = Producer(client=client)
    calls = [asyncio.create_task(producer.send_batch(stream, [b"x"])) for _ in range(15)]
    await eventually(lambda: openings.attempts == 1)
    for number in range(3):
        await asyncio.wait_for(producer.send_wait(f"{super_stream}-{number}", b"x", timeout=None), PATIENCE)
    await asyncio.wait_for(producer.send_wait(f"{super_stream}-0", b"x", "a name", timeout=None), PATIENCE)
    openings.may_go_on.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {ConnectionFailed}
    assert openings.attempts == 1
    openings.error = None
    await producer.send(stream, b"y")
    assert openings.attempts == 2
    await producer.close()
    assert await stored(client, stream) == [b"y"]


async def test_who_waits_for_an_opening_enters_in_order(client: Client, stream: str, openings: Openings) -> None:
    producer = Producer(client=client)
    calls = [asyncio.create_task(producer.send(stream, body)) for body in bodies(30)]
    await eventually(lambda: openings.attempts == 1)
    for call in calls[:30:3]:  # the first one, which began it, among them
        call.cancel()
    await asyncio.wait(calls[:30:3])
    openings.may_go_on.set()
    while not calls[1].done():
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(producer.send(stream, b"late")))
    await asyncio.gather(*calls, return_exceptions=True)
    assert openings.attempts == 1
    await producer.close()
    found = await stored(client, stream)
    assert found[:20] == [body for number, body in enumerate(bodies(30)) if number % 3]
    assert set(found[20:]) == {b"late"}


async def test_an_opening_that_nobody_waits_for_is_given_up(client: Client, stream: str, openings: Openings) -> None:
    producer = Producer(client=client)
    calls = [asyncio.create_task(producer.send(stream, body)) for body in bodies(3)]
    await eventually(lambda: openings.attempts == 1)
    tasks = asyncio.all_tasks()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert asyncio.all_tasks() == tasks - set(calls) - {task for task in tasks if task.done()}
    assert not inside.entrances(producer)
    openings.may_go_on.set()
    await producer.send(stream, b"x")
    await producer.close()


async def test_an_extractor_that_waits_holds_up_no_other_stream(client: Client, stream: str, super_stream: str) -> None:
    never = asyncio.Event()

    async def extract(message: bytes) -> str | None:
        if message == b"slow":
            await never.wait()
        return message.decode()

    producer = Producer(client=client, filter_value_extractor=extract)
    slow = asyncio.create_task(producer.send(stream, b"slow"))
    behind = [asyncio.create_task(producer.send(stream, body)) for body in bodies(3)]
    await asyncio.sleep(0)
    for _ in range(2):
        await asyncio.wait_for(producer.send_batch(f"{super_stream}-0", bodies(3)), PATIENCE)
    assert not any(call.done() for call in behind)
    never.set()
    await asyncio.gather(slow, *behind)
    await producer.close()
    assert await stored(client, stream) == [b"slow", *bodies(3)]
    assert not inside.extracting(producer)


async def test_the_partitions_of_a_super_stream_are_asked_for_once_by_all_who_wait(
    client: Client, stream_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    may_go_on = asyncio.Event()
    partitions = client.partitions

    async def counted(super_stream: str) -> list[str]:
        nonlocal asked
        asked += 1
        await may_go_on.wait()
        return await partitions(super_stream)

    monkeypatch.setattr(client, "partitions", counted)
    producer = SuperStreamProducer(client=client, super_stream=stream_name, routing_extractor=lambda _: "1")
    calls = [asyncio.create_task(producer.send(b"x")) for _ in range(15)]
    await eventually(lambda: asked == 1)
    may_go_on.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StreamDoesNotExist}
    assert asked == 1
    with pytest.raises(StreamDoesNotExist):
        await producer.send(b"x")
    assert asked == 2
    await producer.close()


class Mute:
    """A server that takes connections and says nothing."""

    def __init__(self) -> None:
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.read()


@pytest.mark.parametrize("what", ["node", "seed"])
async def test_a_mute_node_is_waited_for_once_by_all(what: str) -> None:
    mute = Mute()
    async with listening(mute) as endpoint:
        options = ConnectionOptions(endpoints=(endpoint,), connect_timeout=0.3)
        locator = Locator(options)
        pool = ConnectionPool(locator)
        calls = [pool.acquire(endpoint) if what == "node" else locator.connection() for _ in range(15)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ConnectionFailed}
        assert mute.connections == 1
        with pytest.raises(ConnectionFailed):
            await locator.connection()
        assert mute.connections == 2
        await locator.close()


async def test_a_connection_is_made_for_all_who_need_it(broker: Broker) -> None:
    options = options_for(broker)
    locator = Locator(options)
    endpoint = (await asyncio.gather(*(locator.connection() for _ in range(5))))[0].endpoint
    pool = ConnectionPool(locator, max_per_connection=2)
    calls = [asyncio.create_task(pool.acquire(endpoint)) for _ in range(7)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.wait(calls)
    leases = [call.result() for call in calls[1:]]
    assert len(set(leases)) == 6
    assert len(pool.connections) == len({lease.connection for lease in leases}) == 3
    assert sorted(lease.id for lease in leases) == [0, 0, 0, 1, 1, 1]
    await pool.close()
    await locator.close()


async def test_a_node_that_refuses_holds_up_no_other(broker: Broker) -> None:
    mute = Mute()
    async with listening(mute) as endpoint:
        options = options_for(broker, connect_timeout=60)
        locator = Locator(options)
        pool = ConnectionPool(locator)
        waiting = asyncio.create_task(pool.acquire(endpoint))
        await eventually(lambda: mute.connections == 1)
        lease = await asyncio.wait_for(pool.acquire(Endpoint(broker.host, broker.port)), PATIENCE)
        await pool.release(lease)
        waiting.cancel()
        await asyncio.wait([waiting])
        await pool.close()
        await locator.close()
