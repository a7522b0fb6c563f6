"""A subscription that ends by itself is told: by ``run()`` where somebody waits there, else in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from rstream_core import Client, Consumer, ConsumerOffsetSpecification, StreamDoesNotExist, SuperStreamConsumer
from tests.clients import PATIENCE, eventually


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    """That of a program that sets up nothing."""
    caplog.set_level(logging.WARNING)


@pytest.fixture
async def consumer(client: Client) -> AsyncIterator[Consumer]:
    opened = Consumer(client=client)
    yield opened
    await opened.close()


def ignore(*_: object) -> None:
    pass


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "has ended" in record.getMessage()]


async def test_without_run(client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    await consumer.subscribe(stream, ignore)
    await client.delete_stream(stream)
    await eventually(lambda: told(caplog) != [])
    (message,) = told(caplog)
    assert message.startswith(f"the subscription to stream {stream!r} has ended: ")
    assert "does not exist" in message or "deleted" in message
    assert caplog.records[-1].levelname == "ERROR"
    with pytest.raises(StreamDoesNotExist):
        await asyncio.wait_for(consumer.run(), PATIENCE)
    await consumer.close()
    assert told(caplog) == [message]


async def test_with_run(client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    await consumer.subscribe(stream, ignore)
    running = asyncio.create_task(consumer.run())
    await asyncio.sleep(0)
    await client.delete_stream(stream)
    with pytest.raises(StreamDoesNotExist):
        await asyncio.wait_for(running, PATIENCE)
    await consumer.close()
    assert told(caplog) == []


async def test_run_raises_one_and_others_are_logged(
    client: Client, consumer: Consumer, stream: str, stream_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is told once, in whichever way, and whether they come together or not."""
    names = [stream, f"{stream_name}-2", f"{stream_name}-3"]
    for name in names[1:]:
        await client.create_stream(name)
    for name in names:
        await consumer.subscribe(name, ignore)
    running = asyncio.create_task(consumer.run())
    await asyncio.sleep(0)
    await asyncio.gather(*map(client.delete_stream, names))
    with pytest.raises(StreamDoesNotExist) as raised:
        await asyncio.wait_for(running, PATIENCE)
    await eventually(lambda: len(told(caplog)) == 2)
    everything = [str(raised.value), *told(caplog)]
    assert [sum(repr(name) in words for words in everything) for name in names] == [1, 1, 1]


async def test_of_a_super_stream(client: Client, super_stream: str, caplog: pytest.LogCaptureFixture) -> None:
    consumer = SuperStreamConsumer(client=client, super_stream=super_stream)
    await consumer.subscribe(ignore, offset_specification=ConsumerOffsetSpecification())
    await client.delete_super_stream(super_stream)
    await eventually(lambda: len(told(caplog)) == 3)
    await consumer.close()


async def test_closing_tells_nothing(
    client: Client, consumer: Consumer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    await consumer.subscribe(stream, ignore)
    await consumer.close()
    assert told(caplog) == []
