"""Messages: what one client writes, the other reads, to the byte and to the type."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from rstream_core import AMQPMessage, Client, CompressionType, Properties
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp import encode_bodies
from rstream_core.protocol.amqp_types import (
    Byte,
    Char,
    Float32,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from rstream_core.protocol.chunk import HEADER
from tests.brokers import Broker
from tests.clients import PATIENCE, read
from tests.interop.languages import TYPES, Language, having
from tests.interop.notation import plain, say, say_message, understand_message
from tests.interop.ours import LAST, store
from tests.interop.programs import Program
from tests.wire import Wire

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "ubyte": UByte(255),
    "ushort": UShort(65535),
    "uint": UInt(2**32 - 1),
    "small uint": UInt(5),
    "uint 0": UInt(0),
    "ulong": ULong(2**64 - 1),
    "small ulong": ULong(5),
    "ulong 0": ULong(0),
    "byte": Byte(-128),
    "short": Short(-(2**15)),
    "int": Int(-(2**31)),
    "small int": Int(5),
    "int -1": Int(-1),
    "int -128": Int(-128),
    "long": -(2**63),
    "small long": 5,
    "long -1": -1,
    "long -128": -128,
    "float": Float32(-1.5),
    "double": 0.1,
    "infinite": float("inf"),
    "char": Char("é"),
    "timestamp": Timestamp(1_700_000_000_123),
    "before 1970": Timestamp(-1),
    "uuid": uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    "binary": b"\x00\xff",
    "empty binary": b"",
    "long binary": bytes(range(256)) * 2,
    "string": "grüße, 日本, 😀",
    "empty string": "",
    "long string": "ü" * 200,
    "symbol": Symbol("x-symbol"),
    "list": [1, "two", [3.0, None]],
    "map": {"one": 1, "inner": {"flag": True}},
}
"""All types, and the encodings that a type has."""

FIELDS: dict[str, Any] = {
    "message_id": "id",
    "user_id": b"guest",
    "to": "to",
    "subject": "sübject",
    "reply_to": "reply",
    "correlation_id": ULong(2**64 - 1),
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "absolute_expiry_time": 1_700_000_000_000,
    "creation_time": 1_700_000_000_001,
    "group_id": "group",
    "group_sequence": 7,
    "reply_to_group_id": "back",
}

IDS = (ULong(5), uuid.UUID(int=2**127 + 1), b"\x00\x01", "text")


def kind(value: Any) -> str:
    name: str = say(value)[0]
    return name


def writable(language: Language) -> list[AMQPMessage]:
    """What the language's client can write: all kinds of sections and types."""
    annotations = {
        name: value
        for name, value in VALUES.items()
        if kind(value) not in language.cannot_write and name not in language.writes_wrong
    }
    simple = {
        name: value for name, value in annotations.items() if kind(value) not in language.cannot_write_application
    }
    return messages_of(simple, annotations)


def readable(language: Language) -> list[AMQPMessage]:
    annotations = {name: value for name, value in VALUES.items() if kind(value) not in language.cannot_read}
    simple = {name: value for name, value in annotations.items() if kind(value) not in ("list", "map")}
    return messages_of(simple, annotations)


def messages_of(application: dict[str, Any], annotations: dict[str, Any]) -> list[AMQPMessage]:
    keyed: dict[str | int, Any] = dict(annotations.items())
    return [
        AMQPMessage(b"plain"),
        AMQPMessage(b""),
        AMQPMessage(bytes(range(256)) * 4),
        AMQPMessage(b"properties", properties=Properties(**FIELDS)),
        *(
            AMQPMessage(b"some", properties=Properties(message_id=given, correlation_id=given, group_sequence=7))
            for given in IDS
        ),
        AMQPMessage(b"types", application_properties=application, message_annotations=keyed),
    ]


def as_read(said: Any, language: Language) -> Any:
    """A message, or a value, as the language's client shows it to its users."""
    if isinstance(said, dict):
        return {
            name: value if name == "properties" else as_read(value, language)  # those have fixed types
            for name, value in said.items()
        }
    if isinstance(said, list) and said and isinstance(said[0], str):
        return [language.reads_as.get(said[0], said[0]), as_read(said[1], language)]
    if isinstance(said, list):
        return [as_read(item, language) for item in said]
    return said


def comparable(said: Any) -> Any:
    """Maps have no order."""
    if isinstance(said, dict):
        return {name: comparable(value) for name, value in said.items()}
    if isinstance(said, list) and said[:1] == ["map"]:
        return ["map", sorted((comparable(pair) for pair in said[1]), key=repr)]
    if isinstance(said, list):
        return [comparable(item) for item in said]
    return said


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Both have the same messages; names each part that differs."""
    wrong = []
    for at, (one, other) in enumerate(itertools.zip_longest(found, expected)):
        wrong += [f"message {at}, {text}" for text in differences(comparable(one or {}), comparable(other or {}))]
    assert not wrong, "\n".join(wrong)


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            yield from differences(found.get(name, "nothing"), expected.get(name, "nothing"), f"{where}{name} ")
    elif found != expected:
        yield f"{where}: {found} instead of {expected}"


async def read_by(them: Program, stream: str, **arguments: Any) -> list[dict[str, Any]]:
    """What they read before the last message."""
    answer = await them.ask("read", stream=stream, offset=0, last=LAST.decode(), **arguments)
    messages: list[dict[str, Any]] = answer["messages"]
    return messages


@having("messages")
async def test_they_read_our_messages(language: Language, them: Program, client: Client, stream: str) -> None:
    messages = readable(language)
    await store(client, stream, *(message.encode() for message in messages), *encode_bodies([LAST]))
    expected = [{"offset": at, **as_read(say_message(message), language)} for at, message in enumerate(messages)]
    assert_same(await read_by(them, stream), expected)


@having("messages")
async def test_we_read_their_messages(language: Language, them: Program, client: Client, stream: str) -> None:
    messages = writable(language)
    answer = await them.ask("publish", stream=stream, messages=[say_message(message) for message in messages])
    assert answer == {"confirmed": len(messages)}
    found = await read(client, stream, len(messages))
    said = [say_message(AMQPMessage.from_bytes(data)) for data in found.values()]
    assert list(found) == list(range(len(messages)))
    assert_same(said, [say_message(message) for message in messages])
    assert [understand_message(message) for message in said] == messages


@having("values")
async def test_they_read_our_value_bodies(language: Language, them: Program, client: Client, stream: str) -> None:
    unread = language.cannot_read | language.cannot_read_body
    values = [value for value in VALUES.values() if value is not None and kind(value) not in unread]
    await store(client, stream, *(AMQPMessage(value=value).encode() for value in values), *encode_bodies([LAST]))
    expected = [{"offset": at, "value": as_read(say(value), language)} for at, value in enumerate(values)]
    assert_same(await read_by(them, stream), expected)


def test_all_types_are_tried() -> None:
    assert {kind(value) for value in VALUES.values()} == TYPES


CODECS = {
    "none": CompressionType.No,
    "gzip": CompressionType.Gzip,
    "snappy": CompressionType.Snappy,
    "lz4": CompressionType.Lz4,
    "zstd": CompressionType.Zstd,
}
ENTRY = 2_000


@pytest.fixture(scope="session")
def texts() -> list[bytes]:
    """Half can be compressed and half cannot, and an entry of them takes several blocks of any codec."""
    chance = random.Random(5)
    return [
        f"a line of text, number {number}, ".encode() * chance.randrange(8) + chance.randbytes(chance.randrange(200))
        for number in range(ENTRY)
    ]


@having("sub-entries")
@pytest.mark.parametrize("codec", CODECS)
async def test_they_read_our_sub_entries(
    them: Program, client: Client, stream: str, codec: str, texts: list[bytes]
) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish_sub_entry(encode_bodies(texts), CODECS[codec])
    await publisher.publish_sub_entry(encode_bodies([b"alone"]), CODECS[codec])
    await publisher.publish(encode_bodies([LAST]))
    await publisher.flush(PATIENCE)
    await publisher.close()
    expected = [{"offset": at, "body": body.hex()} for at, body in enumerate([*texts, b"alone"])]
    assert_same(await read_by(them, stream), expected)


@having("sub-entries")
@pytest.mark.parametrize("codec", CODECS)
async def test_we_read_their_sub_entries(
    them: Program, broker: Broker, client: Client, stream: str, codec: str, texts: list[bytes]
) -> None:
    answer = await them.ask("publish", stream=stream, messages=plain(*texts), sub_entry=ENTRY // 2, codec=codec)
    assert answer == {"confirmed": ENTRY}
    assert await read(client, stream, ENTRY) == dict(enumerate(encode_bodies(texts)))
    async with Wire(broker) as wire:  # they have used the codec
        await wire.ask(c.Subscribe(1, stream, c.OffsetSpec(1), 1, {}))
        first = (await wire.take(c.Deliver)).message.chunk[HEADER.size]
    assert (first & 0x80, first >> 4 & 7) == (0x80, CODECS[codec])
