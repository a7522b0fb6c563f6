"""What a peer sends takes memory in proportion to what was asked for, whatever it claims: frames, answers, values."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rstream_core import AmqpError, AMQPMessage, Client, ConsumerOffsetSpecification, EmbeddedBroker, ProtocolError
from rstream_core.broker.delivery import BrokerPublisher
from rstream_core.broker.ports import Connection as BrokerConnection
from rstream_core.connecting.connection import Connection
from rstream_core.consuming.progress import Progress
from rstream_core.consuming.single_active import MAX_UPDATES
from rstream_core.consuming.turn_taking import TurnTaking
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp_codec import MAX_KEYED_BYTES, MAX_VALUES, AmqpMap
from rstream_core.protocol.primitives import MAX_ELEMENTS
from rstream_core.protocol.session import MAX_SERVER_FRAME
from tests.bombs import bomb
from tests.brokers import broker_at
from tests.clients import FIRST, options_for
from tests.wire import Wire

MB = 1024 * 1024


def peak_of(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _frame(kind: type[Any], *fields: bytes) -> bytes:
    """A response, of which the fields are made by hand."""
    head = c.encode_error(kind, correlation_id=1, code=1)[4:]
    return head[: 8 if kind is c.Metadata else 10] + b"".join(fields)


def _many(element: bytes, count: int) -> bytes:
    return struct.pack(">i", count) + element * count


def _names(count: int) -> bytes:
    return struct.pack(">i", count) + b"".join(b"\0\4%04x" % number for number in range(count))


MILLION = 1_000_000
ANSWERS = {
    "brokers": lambda count: _frame(c.Metadata, _many(b"\0\0\0\0\0\0\0\0", count), _many(b"", 0)),
    "streams": lambda count: _frame(c.Metadata, _many(b"", 0), _many(b"\0\0\0\1\0\0\0\0\0\0", count)),
    "replicas": lambda count: _frame(c.Metadata, _many(b"", 0), _many(b"\0\0\0\1\0\0" + _many(b"\1\1", count), 1)),
    "partitions": lambda count: _frame(c.Partitions, _many(b"\0\0", count)),
    "routes": lambda count: _frame(c.Route, _many(b"\0\0", count)),
    "mechanisms": lambda count: _frame(c.SaslHandshake, _many(b"\0\0", count)),
    "properties": lambda count: _frame(c.PeerProperties, _many(b"\0\0\0\0", count)),
    "open": lambda count: _frame(c.Open, _many(b"\0\0\0\0", count)),
    "stats": lambda count: _frame(c.StreamStats, _many(b"\0\0" + bytes(8), count)),
    "versions": lambda count: _frame(c.ExchangeCommandVersions, _many(bytes(6), count)),
    "errors": lambda count: b"\0\4\0\1\0" + _many(bytes(10), count),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_a_million_elements_is_refused(name: str) -> None:
    frame = ANSWERS[name](MILLION)

    def decode() -> None:
        with pytest.raises(ProtocolError, match="an array of 1000000 elements; 65536 are the limit"):
            c.decode(frame)

    assert peak_of(decode) < MB
    assert c.decode(ANSWERS[name](1000)).message is not None


@pytest.mark.parametrize("name", ANSWERS)
def test_the_largest_answer_that_is_taken(name: str) -> None:
    """In one frame of the largest size: what Python makes of it is bounded, too."""
    count = MAX_ELEMENTS
    while len(frame := ANSWERS[name](count)) > MAX_SERVER_FRAME:
        count = count * 9 // 10
    assert peak_of(lambda: c.decode(frame)) < 30 * MB


def test_names_that_differ() -> None:
    frame = _frame(c.Partitions, _names(MAX_ELEMENTS))
    assert peak_of(lambda: c.decode(frame)) < 10 * MB


def test_a_confirm_may_be_as_long_as_what_is_in_flight() -> None:
    ids = tuple(range(MAX_ELEMENTS * 2))
    assert c.decode(c.encode(c.PublishConfirm(1, ids))[4:]).message.publishing_ids == ids


# Values of a message.


def _list_of(element: bytes, count: int) -> bytes:
    body = element * count
    return b"\xd0" + struct.pack(">II", len(body) + 4, count) + body


def test_values_are_bounded() -> None:
    within = AMQPMessage.from_bytes(b"\0\x53\x77" + _list_of(b"\x40", MAX_VALUES))
    assert within.value == [None] * MAX_VALUES
    for value in (
        _list_of(b"\x40", MAX_VALUES + 1),
        _list_of(_list_of(b"\x43", 1024), 1024),
        b"\xf0" + struct.pack(">II", MAX_VALUES + 6, MAX_VALUES + 1) + b"\x50" + bytes(MAX_VALUES + 1),
        _list_of(b"\0\x43\0\x43\x40", MAX_VALUES // 2),
    ):
        message = AMQPMessage.from_bytes(b"\0\x53\x77" + value)
        with pytest.raises(AmqpError, match="more than 1048576 values"):
            _ = message.value


def _map_of(key: bytes) -> bytes:
    pair = key + b"\x40"
    return b"\xd1" + struct.pack(">II", len(pair) + 4, 2) + pair


def _nested_maps(levels: int, size: int) -> bytes:
    """A map whose only key is such a map, and so on; the innermost key is a list of one long binary."""
    value = _list_of(b"\xb0" + struct.pack(">I", size) + bytes(size), 1)
    for _ in range(levels):
        value = _map_of(value)
    return b"\0\x53\x77" + value


def test_maps_in_keys_of_maps_are_bounded() -> None:
    """Each keeps its keys encoded beside them."""
    within = AMQPMessage.from_bytes(_nested_maps(60, 15_000))
    assert peak_of(lambda: within.value) < 3 * MB
    assert isinstance(within.value, AmqpMap)
    assert isinstance(AMQPMessage.from_bytes(_nested_maps(1, MAX_KEYED_BYTES - 100)).value, AmqpMap)
    for levels, size in ((60, 20_000), (60, 2 * MB), (1, MAX_KEYED_BYTES)):
        hostile = AMQPMessage.from_bytes(_nested_maps(levels, size))

        def look(hostile: AMQPMessage = hostile) -> None:
            with pytest.raises(AmqpError, match="more than 1048576 bytes of maps"):
                _ = hostile.value

        assert peak_of(look) < 5 * MB + size


def test_a_long_text_is_decoded_without_a_copy() -> None:
    text = "text" * MB
    data = AMQPMessage(value=text).encode()
    assert AMQPMessage.from_bytes(data).value == text
    assert peak_of(lambda: AMQPMessage.from_bytes(data).value) < 5 * MB
    assert AMQPMessage.from_bytes(AMQPMessage(value="gr\u00fc\u00df" * MB).encode()).value == "gr\u00fc\u00df" * MB
    with pytest.raises(AmqpError, match="not UTF-8"):
        _ = AMQPMessage.from_bytes(data[:-1] + b"\xff").value


def test_the_sections_of_a_sequence_share_a_bound_and_take_no_copies() -> None:
    section = b"\0\x53\x76" + _list_of(b"\x40", 10)
    message = AMQPMessage.from_bytes(section * 1000)
    assert message.sequence == [None] * 10_000
    assert peak_of(lambda: AMQPMessage.from_bytes(section * 1000).sequence) < MB
    with pytest.raises(AmqpError, match="more than 1048576 values"):
        _ = AMQPMessage.from_bytes((b"\0\x53\x76" + _list_of(b"\x40", MAX_VALUES // 2 + 1)) * 2).sequence


def test_sections_are_bounded() -> None:
    def look() -> None:
        with pytest.raises(AmqpError, match="65536 sections or more"):
            _ = AMQPMessage.from_bytes(b"\0\x53\x75\xa0\0" * (4 * MB)).body

    assert peak_of(look) < 60 * MB  # 20 MB of them are the message
    assert AMQPMessage.from_bytes(b"\0\x53\x75\xa0\1x" * 60_000).body == b"x" * 60_000


# What comes unasked.


async def test_turns_that_nobody_can_answer_are_bounded() -> None:
    async def locate(_: object, __: object) -> ConsumerOffsetSpecification:
        await asyncio.Event().wait()
        return FIRST

    def never(_: object) -> None:
        raise AssertionError

    turns = TurnTaking("s", Progress(), None, locate, resume=never, fail=never, report=never)
    for number in range(MAX_UPDATES):
        turns.told(True, cast("Connection", None), number)
    with pytest.raises(ProtocolError, match="without an answer"):
        turns.told(True, cast("Connection", None), 0)
    turns.close()
    await turns.closed()


# The embedded broker.


def test_rejections_come_in_frames_that_are_taken() -> None:
    sent: list[int] = []

    class Connection:
        def send_errors(self, publisher_id: int, ids: Sequence[bytes], code: int) -> None:
            sent.append(len(ids))

    publisher = BrokerPublisher(cast("BrokerConnection", Connection()), 1, "", cast("Any", None))
    publisher.reject([bytes(8)] * 150_000, 15)
    assert sent == [65_536, 65_536, 18_928]


async def test_a_metadata_request_of_a_million_names_ends_the_connection() -> None:
    async with EmbeddedBroker() as broker, Wire(broker_at(broker.uri)) as wire:
        wire.send_bytes(c.encode(c.Metadata([""] * 200_000), correlation_id=5))
        closed = await wire.take(c.Close)
        assert closed.message.code == 13


async def test_sub_entries_that_lie_are_nothing_to_the_broker(tmp_path: Path) -> None:
    """It never unpacks them; what is stored is what was sent."""
    async with EmbeddedBroker(data=tmp_path) as broker:
        options = options_for(broker_at(broker.uri))
        async with Client(options) as client, Wire(broker_at(broker.uri)) as wire:
            await client.create_stream("s")
            await wire.ask(c.DeclarePublisher(1, "", "s"))
            entries = bomb("empty").entries()
            wire.send(c.Publish(1, [entry._replace(publishing_id=number) for number, entry in enumerate(entries)]))
            assert len(await wire.confirmed(len(entries))) == len(entries)
            async with await client.subscribe("s", FIRST) as subscription:
                await anext(subscription)
                assert subscription.chunk_end == 32 * bomb("empty").records  # a burst's first chunk
            assert (await client.stats("s")).committed_offset == bomb("empty").messages - 1
