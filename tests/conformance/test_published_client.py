"""The published client, which shares no code with this project, against both brokers.

It has an environment of its own, as in the benchmarks: its packages never meet these.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from rstream_core import (
    AMQPMessage,
    CompressionType,
    Producer,
    Properties,
    Router,
    RouteType,
    SuperStreamProducer,
)
from tests.brokers import Broker
from tests.clients import PATIENCE, arguments_for, read

PROGRAM = Path(__file__).with_name("published_client_program.py")
ROUTER = Path(__file__).with_name("published_client_router.py")
READER = Path(__file__).with_name("published_client_reader.py")


def test_it_creates_publishes_consumes_and_stores_offsets(
    published_python: Path, broker: Broker, stream_name: str
) -> None:
    done = subprocess.run(
        [published_python, PROGRAM, broker.host, str(broker.port), broker.username, broker.password, stream_name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "created": True,
        "exists": "StreamAlreadyExists",
        "confirmed": 320,
        "sub_entry": "confirmed",
        "consumed": [str(number) for number in range(300)] + [f"named {number}" for number in range(20)],
        "in_sub_entry": [f"sub {number}" for number in range(10)],
        "from_the_middle": ["150", 150],
        "stored": 41,
        "not_stored": "OffsetNotFound",
        "super_stream": [30, 30],
        "deleted": "StreamDoesNotExist",
    }


async def test_both_send_a_key_to_the_same_partition(published_python: Path, broker: Broker, stream_name: str) -> None:
    """By ``RouteType.PythonHash``, for fleets in which both publish."""
    keys = [f"key-{number}" for number in range(40)] + ["", "größe", "日本", "emoji 😀", "x" * 200]
    ours = SuperStreamProducer(
        **arguments_for(broker),
        super_stream=stream_name,
        routing=RouteType.PythonHash,
        routing_extractor=lambda message: bytes(message).decode(),
    )
    partitions = await ours.create_super_stream(partitions=3)
    where = [broker.host, str(broker.port), broker.username, broker.password, stream_name, json.dumps(keys)]
    process = await asyncio.create_subprocess_exec(published_python, ROUTER, *where, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(90):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    for key in keys:
        await ours.send(key.encode())
    await ours.flush(PATIENCE)
    router = await Router.open(ours.client, stream_name)
    for partition in partitions:
        there = [key.encode() for key in keys if router.by_python_hash(key) == partition]
        stored = await read(ours.client, partition, 2 * len(there))
        assert list(stored.values()) == there * 2
    await ours.delete_super_stream()
    await ours.close()


async def test_it_reads_what_this_client_writes(published_python: Path, broker: Broker, stream_name: str) -> None:
    """Plain bodies, properties of every type, and the same in a gzip sub-entry."""
    fields: dict[str, Any] = {
        "message_id": "id",
        "user_id": "guest",
        "to": "to",
        "subject": "sübject",
        "reply_to": "reply",
        "correlation_id": 5,
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "absolute_expiry_time": 1700000000000,
        "creation_time": 1700000000001,
        "group_id": "group",
        "group_sequence": 7,
        "reply_to_group_id": "back",
    }
    headers = {"text": "ü", "n": 5, "negative": -5, "yes": True, "no": None, "half": 1.5}
    messages = [
        AMQPMessage(body="plain"),
        AMQPMessage(body="grüße" * 100),
        AMQPMessage(body="rich", properties=Properties(**fields), application_properties=headers),
    ]
    async with Producer(**arguments_for(broker)) as producer:
        await producer.create_stream(stream_name)
        await producer.send_batch(stream_name, messages)
        await producer.send_sub_entry(stream_name, messages, CompressionType.Gzip)
        await producer.flush(PATIENCE)
        where = [broker.host, str(broker.port), broker.username, broker.password, stream_name, "6"]
        process = await asyncio.create_subprocess_exec(
            published_python, READER, *where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        await producer.delete_stream(stream_name)
    assert process.returncode == 0, errors.decode()
    expected: list[dict[str, object]] = [
        {"body": "plain", "properties": None, "application_properties": None},
        {"body": "grüße" * 100, "properties": None, "application_properties": None},
        {"body": "rich", "properties": fields, "application_properties": headers},
    ]
    assert json.loads(output) == [{"offset": at, **message} for at, message in enumerate(expected * 2)]
