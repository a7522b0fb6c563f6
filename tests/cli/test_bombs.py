"""What one publisher can put into a chunk of a megabyte costs a reader little, whatever it does with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rstream_core import Client, ConnectionOptions
from tests.bombs import MOST_MEMORY, RSTREAM, bomb, measure, publish_sub_entries
from tests.brokers import Broker
from tests.cli.conftest import environment
from tests.clients import options_for


@pytest.fixture
def env(embedded: Broker) -> dict[str, str]:
    return {"RSTREAM_URI": embedded.uri}


@pytest.fixture
def options(embedded: Broker) -> ConnectionOptions:
    return options_for(embedded)


@pytest.fixture
def stream(options: ConnectionOptions, stream_name: str) -> Iterator[str]:
    async def create() -> None:
        async with Client(options) as client:
            await client.create_stream(stream_name)

    async def delete() -> None:
        async with Client(options) as client:
            await client.delete_stream(stream_name)

    asyncio.run(create())
    yield stream_name
    asyncio.run(delete())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("empty", ["--count", "10", "--codec", "raw"]),  # 164 million messages
        ("empty", ["--count", "9000", "--json"]),
        ("small", ["--count", "100000"]),
        ("large", ["--count", "70"]),  # into the second sub-entry
        ("large", ["--count", "5", "--json"]),
        ("full", ["--count", "5000", "--format", "%o %s\\n"]),
        ("one", ["--count", "3"]),  # messages of 64 MiB
        ("one", ["--count", "2", "--codec", "raw", "-0"]),
        ("one", ["--count", "1", "--json"]),  # 400 MB of text
        ("text", ["--count", "2", "--json"]),
        ("text", ["--count", "2", "--format", "%S %s"]),
        ("string", ["--count", "2", "--json"]),
        ("large", ["-o", "895", "--count", "2"]),  # the last of a sub-entry, and the next
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_memory(options: ConnectionOptions, env: dict[str, str], stream: str, name: str, arguments: list[str]) -> None:
    asyncio.run(publish_sub_entries(options, stream, bomb(name).entries()))
    cost = measure(RSTREAM, "consume", stream, "-o", "first", *arguments, env=environment(env), keep_output=False)
    assert cost.status == 0, cost.errors
    assert cost.peak < MOST_MEMORY


@pytest.mark.parametrize("name", ["nulls", "sections"])
def test_messages_that_would_be_millions_of_values_are_refused(
    options: ConnectionOptions, env: dict[str, str], stream: str, name: str
) -> None:
    asyncio.run(publish_sub_entries(options, stream, bomb(name).entries()))
    cost = measure(RSTREAM, "consume", stream, "--offset", "first", "--json", env=environment(env))
    assert cost.status == 8
    assert "the message at offset 0 of stream" in cost.errors
    assert "is not AMQP 1.0" in cost.errors
    assert cost.peak < MOST_MEMORY


def test_the_end_of_a_stream_is_found_without_unpacking_all(
    options: ConnectionOptions, env: dict[str, str], stream: str
) -> None:
    asyncio.run(publish_sub_entries(options, stream, bomb("empty").entries()))
    messages = bomb("empty").messages
    for arguments, output in (
        (["stream", "info", stream, "--json"], f'"last_offset":{messages - 1}'),
        (
            ["consume", stream, "--offset", "-3", "--until", "end", "--codec", "raw", "--format", "%o "],
            f"{messages - 3} {messages - 2} {messages - 1} ",
        ),
    ):
        cost = measure(RSTREAM, *arguments, env=environment(env))
        assert cost.status == 0, cost.errors
        assert output in cost.output.decode().replace(": ", ":")
        assert cost.peak < MOST_MEMORY
