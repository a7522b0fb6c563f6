"""What a broker takes although PROTOCOL.adoc says otherwise: raw frames, with which clients of other languages come.

RabbitMQ is the authority: ``rabbit_stream_core:parse_request`` and ``parse_response``, and the states of
``rabbit_stream_reader``, as they are in 4.3.6. Each case holds on both brokers. Over some frames RabbitMQ crashes, and
the connection ends without a word; the embedded broker answers them with a Close.
"""

from __future__ import annotations

import struct

import pytest

from rstream_core.protocol import commands as c
from tests.brokers import Broker
from tests.wire import Wire

ONE = b"\0\0\0\1"
NUL = b"\0"
NUMBER = 77
"""The correlation id of the request that a case is about."""


def text(value: str | bytes) -> bytes:
    """A string as it is on the wire."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def notice(key: int, body: bytes = b"", version: int = 1) -> bytes:
    return struct.pack(">IHH", 4 + len(body), key, version) + body


def request(key: int, body: bytes = b"") -> bytes:
    return notice(key, struct.pack(">I", NUMBER) + body)


async def answer(wire: Wire, frame: bytes) -> c.Frame:
    """The answer to a request, and it is its answer."""
    wire.send_bytes(frame)
    found = await wire.next_frame()
    assert found.correlation_id == NUMBER
    return found


async def goes_on(wire: Wire) -> None:
    """Nothing was said, and the connection is as it was."""
    wire.send(c.Metadata(()), 5)
    assert (await wire.next_frame()).correlation_id == 5


async def is_turned_away(wire: Wire) -> None:
    """With a Close, or without a word."""
    try:
        close = await wire.next_frame()
    except ConnectionError:
        return
    assert (type(close.message), close.message.code) == (c.Close, 13)
    wire.close()


# Logging in.


async def to_tuning(broker: Broker) -> Wire:
    """Up to the broker's Tune."""
    wire = await Wire(broker).connect()
    await wire.ask(c.PeerProperties({}))
    await wire.ask(c.SaslHandshake())
    secret = f"\0{broker.username}\0{broker.password}".encode()
    assert await wire.code(c.SaslAuthenticate("PLAIN", secret)) == 1
    wire.tune = (await wire.take(c.Tune)).message
    return wire


TUNE = notice(0x14, bytes(8))
TUNE_AS_A_RESPONSE = notice(0x8014, bytes(8))


@pytest.mark.parametrize(
    "frames",
    [
        (TUNE_AS_A_RESPONSE,),  # as Java and Go do
        (notice(0x17), TUNE_AS_A_RESPONSE, notice(0x17)),
        (TUNE, TUNE_AS_A_RESPONSE),
        (),
    ],
    ids=["as a response", "between heartbeats", "twice", "not at all"],
)
async def test_tuning(broker: Broker, frames: tuple[bytes, ...]) -> None:
    wire = await to_tuning(broker)
    for frame in frames:
        wire.send_bytes(frame)
    assert await wire.code(c.Open(broker.vhost)) == 1
    await goes_on(wire)
    wire.close()


async def test_the_limits_of_a_tune_that_is_a_response_count(broker: Broker) -> None:
    wire = await to_tuning(broker)
    wire.send_bytes(notice(0x8014, struct.pack(">II", 1000, 60)))
    assert await wire.code(c.Open(broker.vhost)) == 1
    wire.send_bytes(struct.pack(">IHH", 1001, c.Key.PUBLISH, 1))
    assert (await wire.take(c.Close)).message.code == 14
    wire.close()


@pytest.mark.parametrize(
    "frame",
    [
        notice(0x8014, bytes(7)),
        notice(0x8014, bytes(9)),
        notice(0x8014, bytes(12)),  # with a correlation id
        notice(0x8014, bytes(8), version=2),
        request(0x8012, b"\0\1"),
        request(0x12),
        notice(0x17, NUL),
    ],
    ids=[
        "short",
        "long",
        "with a number",
        "version 2",
        "a handshake's answer",
        "SaslHandshake",
        "Heartbeat",
    ],
)
async def test_what_is_no_tune(broker: Broker, frame: bytes) -> None:
    wire = await to_tuning(broker)
    wire.send_bytes(frame)
    assert all(found.key == 0x8012 for found in await wire.ended())  # RabbitMQ answers a handshake before it closes


async def test_a_tune_after_open(wire: Wire) -> None:
    wire.send_bytes(TUNE_AS_A_RESPONSE)
    await is_turned_away(wire)


@pytest.mark.parametrize(
    "properties",
    [ONE, b"\0\0\0\0" + text("a") + text("b"), ONE + text("product") + text(b"\xff"), b"\xff\xff\xff\xff"],
    ids=["fewer", "more", "not UTF-8", "-1"],
)
async def test_properties_that_are_not_as_many_as_they_claim(broker: Broker, properties: bytes) -> None:
    wire = await Wire(broker).connect()
    wire.send_bytes(request(0x11, properties))
    assert "version" in (await wire.take(c.PeerPropertiesResponse)).message.properties
    assert await wire.code(c.SaslHandshake()) == 1
    wire.close()


@pytest.mark.parametrize("properties", [b"", bytes(3), ONE + text("a"), ONE + text("a") + b"\xff\xff"])
async def test_properties_that_are_cut_off(broker: Broker, properties: bytes) -> None:
    wire = await Wire(broker).connect()
    wire.send_bytes(request(0x11, properties))
    assert await wire.ended() == []


LOGIN = c.encode(c.SaslAuthenticate("PLAIN", b"\0guest\0guest"))


@pytest.mark.parametrize(
    ("frames", "goes_on"),
    [
        ((request(0x11, bytes(4)), request(0x11, bytes(4)), request(0x12), request(0x12)), True),
        ((request(0x12),), False),
        ((LOGIN,), False),
        ((request(0x11, bytes(4)), LOGIN), False),
        ((request(0x11, bytes(4)), request(0x12), request(0x11, bytes(4))), False),
    ],
    ids=["twice", "handshake first", "login first", "login without handshake", "properties too late"],
)
async def test_the_order_of_the_handshake(broker: Broker, frames: tuple[bytes, ...], goes_on: bool) -> None:
    wire = await Wire(broker).connect()
    for frame in frames[:-1]:  # each by itself: RabbitMQ does not look at the order within a packet
        wire.send_bytes(frame)
        await wire.next_frame()
    wire.send_bytes(frames[-1])
    if goes_on:
        assert (await wire.next_frame()).key == 0x8012
        wire.send_bytes(LOGIN)
        assert (await wire.next_frame()).code == 1
        wire.close()
    else:
        assert len(await wire.ended()) <= 1  # RabbitMQ answers before it closes


@pytest.mark.parametrize("data", [b"x\0guest\0guest", b"\0guest\0guest\0"])
async def test_a_login_holds_two_names_at_most(broker: Broker, data: bytes) -> None:
    wire = await Wire(broker).connect()
    await wire.ask(c.PeerProperties({}))
    await wire.ask(c.SaslHandshake())
    assert await wire.code(c.SaslAuthenticate("PLAIN", data)) == 9
    assert await wire.ended() == []


# Optional tails, and counts.


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        (b"", 1),  # as Java does where it has none
        (b"\0", 1),
        (bytes(2), 1),
        (bytes(3), 1),
        (bytes(4), 1),
        (ONE, 1),
        (b"\xff\xff\xff\xff", 1),
        (bytes(4) + text("name") + text("x" * 256), 17),
        (ONE + text("a") + text("b") + text("name") + text("x" * 256), 17),
        (ONE + text("a"), None),
        (ONE + text("a") + b"\xff\xff", None),
    ],
)
async def test_the_properties_of_a_subscription(wire: Wire, there: str, properties: bytes, code: int | None) -> None:
    frame = request(0x07, b"\1" + text(there) + b"\0\1\0\5" + properties)
    if code is None:
        wire.send_bytes(frame)
        await is_turned_away(wire)
        return
    assert (await answer(wire, frame)).code == code
    assert await wire.code(c.Unsubscribe(1)) == (1 if code == 1 else 4)


@pytest.mark.parametrize("offset", [b"\0\1", b"\0\2", b"\0\3", b"\0\4" + bytes(8), b"\0\5" + bytes(8)])
async def test_every_start_without_properties(wire: Wire, there: str, offset: bytes) -> None:
    assert (await answer(wire, request(0x07, b"\1" + text(there) + offset + b"\0\5"))).code == 1
    resolved = await answer(wire, request(0x1F, text(there) + offset))
    assert resolved.message == c.ResolveOffsetSpecResponse(c.OffsetSpec(4, 0))


@pytest.mark.parametrize("properties", [b"\0", bytes(3), bytes(4), ONE, b"\xff\xff\xff\xff", bytes(4) + text("a") * 2])
async def test_the_properties_of_resolving(wire: Wire, there: str, properties: bytes) -> None:
    assert (await answer(wire, request(0x1F, text(there) + b"\0\1" + properties))).code == 1


@pytest.mark.parametrize(
    "frame",
    [
        request(0x0D, text("s")),
        request(0x0D, text("s") + bytes(3)),
        request(0x0D, b"\xff\xff" + bytes(4)),
        request(0x01, b"\1\xff\xff" + text("s")),
        request(0x01, b"\1" + text("") + text("s") + NUL),
        request(0x07, b"\1" + text("s") + b"\0\1"),
        request(0x07, b"\1" + text("s") + b"\0\3" + bytes(8) + b"\0\1"),
        request(0x0F),
        request(0x0F, ONE + NUL),
        request(0x13, text("PLAIN")),
        request(0x13, text("PLAIN") + b"\xff\xff\xff\xfe"),
        request(0x16, b"\0\1"),
        request(0x18, text("k") + text("s") + NUL),
        request(0x1B),
        request(0x1B, ONE + b"\0\x08\0\1"),
        request(0x1D, text("s") + ONE + text("s-0") + ONE + text("0")),
        request(0x1D, text("s") + b"\0\0\0\2" + text("s-0") + ONE + text("0") + bytes(4)),
        request(0x1E, text("s") + NUL),
        notice(0x09, b"\1\1"),
        notice(0x02, b"\1"),
        notice(0x17, NUL),
        notice(0x17, bytes(4)),
        notice(0x17, version=2),
    ],
    ids=lambda frame: frame[4:].hex(),
)
async def test_what_may_not_be_left_out_or_added(wire: Wire, frame: bytes) -> None:
    wire.send_bytes(frame)
    await is_turned_away(wire)


@pytest.mark.parametrize(("count", "named"), [(0, 1), (1, 2), (3, 1), (-1, 1)])
async def test_counts_are_not_looked_at(wire: Wire, there: str, count: int, named: int) -> None:
    """The array is what there is until the frame ends."""
    claim = struct.pack(">i", count)
    found = await answer(wire, request(0x0F, claim + text(there) * named))
    assert [one.stream for one in found.message.streams] == [there]
    exists = await answer(wire, request(0x0D, text(there) + claim + (text("max-age") + text("1h")) * named))
    assert exists.code == 17
    versions = await answer(wire, request(0x1B, claim + struct.pack(">HHH", 8, 1, 2) * named))
    assert versions.code == 1
    assert versions.message.versions


@pytest.mark.parametrize("claim", [0, 5, -1])
async def test_the_count_of_a_super_streams_arguments(wire: Wire, stream_name: str, claim: int) -> None:
    partitions = ONE + text(f"{stream_name}-0") + ONE + text("0")
    created = await answer(wire, request(0x1D, text(stream_name) + partitions + struct.pack(">i", claim)))
    assert created.code == 1
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 1


@pytest.mark.parametrize(("newest", "version"), [(1, 1), (2, 2), (3, 1)])
async def test_the_newest_deliver_that_a_client_knows(wire: Wire, there: str, newest: int, version: int) -> None:
    """RabbitMQ looks for version 2, and for nothing newer."""
    wire.send(c.ExchangeCommandVersions((c.CommandVersions(c.Key.DELIVER, 1, newest),)), 1)
    await wire.take(c.ExchangeCommandVersionsResponse)
    await wire.ask(c.DeclarePublisher(1, "", there))
    wire.send(c.Publish(1, [c.PublishedMessage(1, b"x")]))
    await wire.confirmed(1)
    assert await wire.code(c.Subscribe(1, there, c.OffsetSpec(1), 1, {})) == 1
    await wire.take(c.Deliver if version == 1 else c.DeliverCommitted)


# Strings.


async def test_names_longer_than_a_signed_length(wire: Wire, stream_name: str) -> None:
    name = stream_name + "x" * 40_000
    unknown = c.StreamLocation(name, 2, c.NO_LEADER, ())
    assert (await answer(wire, request(0x0F, ONE + text(name)))).message.streams == (unknown,)
    assert (await answer(wire, request(0x0E, text(name)))).code == 2


@pytest.mark.parametrize("reason", ["bye", b"\xff", "x" * 40_000])
async def test_a_reason_to_close(wire: Wire, reason: str | bytes) -> None:
    wire.send_bytes(request(0x16, b"\0\1" + text(reason)))
    assert [(type(found.message), found.correlation_id) for found in await wire.ended()] == [(c.CloseResponse, NUMBER)]


@pytest.mark.parametrize("size", [0, 1, 40_000])
async def test_filter_values(wire: Wire, there: str, size: int) -> None:
    """Those of an unknown publisher; and stored, whatever their length."""
    frame = struct.pack(">BIQ", 1, 1, 5) + text("f" * size) + struct.pack(">I", 1) + b"x"
    wire.send_bytes(notice(0x02, frame, version=2))
    assert (await wire.take(c.PublishError)).message == c.PublishError(1, (c.MessageError(5, 18),))
    await wire.ask(c.DeclarePublisher(1, "", there))
    wire.send_bytes(notice(0x02, frame, version=2))
    assert await wire.confirmed(1) == [5]


# Responses.


@pytest.mark.parametrize(
    "frame",
    [
        request(0x801A, b"\0\1\0\0"),
        request(0x801A, b"\0\1\0\0" + bytes(8)),
        request(0x801A, b"\0\1\0\1" + NUL),
        request(0x801A, b"\0\1\0\3" + bytes(8)),
        request(0x801A, b"\0\1\0\4" + bytes(8)),
        request(0x801A, b"\0\x11\0\1"),
    ],
    ids=lambda frame: frame[12:].hex(),
)
async def test_an_answer_that_nobody_waits_for(wire: Wire, frame: bytes) -> None:
    wire.send_bytes(frame)
    await goes_on(wire)


@pytest.mark.parametrize(
    "frame",
    [
        request(0x801A, b"\0\1"),
        request(0x801A, b"\0\x11"),
        request(0x801A, b"\0\1\0\4" + bytes(7)),
        request(0x801A, b"\0\1\0\4" + bytes(9)),
        request(0x801A, b"\0\1\0\6"),
        request(0x8007, b"\0\1"),
        request(0x8010, b"\0\1"),
        request(0x8016, b"\0\1"),
        request(0x8017, b"\0\1"),
        request(0x80FF, b"\0\1"),
        notice(0x8017),
        notice(0x8008),
        notice(0x8009, b"\0\1\1"),
    ],
    ids=lambda frame: frame[4:].hex(),
)
async def test_a_response_that_is_none(wire: Wire, frame: bytes) -> None:
    wire.send_bytes(frame)
    await is_turned_away(wire)


@pytest.mark.parametrize("code", [1, 17])
@pytest.mark.parametrize("tail", [b"\0\0", b"\0\0" + bytes(8), b"\0\1" + NUL, b"\0\4" + bytes(8)])
async def test_a_consumer_begins_where_its_answer_says(wire: Wire, there: str, code: int, tail: bytes) -> None:
    """Also where it says that something was wrong."""
    await wire.ask(c.DeclarePublisher(1, "", there))
    wire.send(c.Publish(1, [c.PublishedMessage(1, b"x")]))
    await wire.confirmed(1)
    properties = {"single-active-consumer": "true", "name": "group"}
    assert await wire.code(c.Subscribe(1, there, c.OffsetSpec(1), 1, properties)) == 1
    asked = await wire.take(c.ConsumerUpdate)
    assert asked.correlation_id is not None
    wire.send_bytes(notice(0x801A, struct.pack(">IH", asked.correlation_id, code) + tail))
    assert (await wire.take(c.Deliver)).message.subscription_id == 1


# Credit.


async def test_a_credit_is_signed(wire: Wire, there: str) -> None:
    """RabbitMQ subtracts what is over 32,767 from what there is; not so in a Subscribe."""

    async def publish(number: int) -> None:
        wire.send(c.Publish(1, [c.PublishedMessage(number, b"x")]))
        assert (await wire.find(c.PublishConfirm)).message.publishing_ids == (number,)

    await wire.ask(c.DeclarePublisher(1, "", there))
    assert await wire.code(c.Subscribe(1, there, c.OffsetSpec(1), 1, {})) == 1
    wire.send(c.Credit(1, 0x8000))
    await publish(1)
    await goes_on(wire)
    wire.send(c.Credit(1, 0x7FFF))
    await goes_on(wire)
    wire.send(c.Credit(1, 1))  # 1 - 32,768 + 32,767 + 1
    await wire.take(c.Deliver)
    assert await wire.code(c.Subscribe(2, there, c.OffsetSpec(1), 0x8000, {})) == 1
    await wire.take(c.Deliver)


# Sub-entries.


@pytest.mark.parametrize(("codec", "is_taken"), [(0, True), (1, False), (4, False)])
async def test_a_sub_entry_without_data(wire: Wire, there: str, codec: int, is_taken: bool) -> None:
    await wire.ask(c.DeclarePublisher(1, "", there))
    wire.send(c.Publish(1, [c.PublishedSubBatch(5, codec, 1, 4, b"")]))
    if is_taken:
        assert await wire.confirmed(1) == [5]
    else:
        assert (await wire.take(c.PublishError)).message == c.PublishError(1, (c.MessageError(5, 17),))
