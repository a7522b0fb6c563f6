"""What a broker refuses, and with which code: asked by a client that says whatever it likes.

Both brokers answer the same, which is the point; what was measured on RabbitMQ 4.3.6 is written down here.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from rstream_core import Endpoint
from rstream_core.protocol import commands as c
from tests.brokers import Broker
from tests.clients import names_of
from tests.wire import Wire

ALL = c.supported_versions()
MESSAGE = c.PublishedMessage(1, b"x")


# Logging in.


@pytest.mark.parametrize(
    ("mechanism", "data", "code"),
    [
        ("PLAIN", b"\0guest\0wrong", 8),
        ("PLAIN", b"\0nobody\0guest", 8),
        ("PLAIN", b"guest", 9),
        ("PLAIN", None, 9),
        ("NO-SUCH", b"", 7),
    ],
)
async def test_bad_credentials(broker: Broker, mechanism: str, data: bytes | None, code: int) -> None:
    wire = await Wire(broker).connect()
    await wire.ask(c.PeerProperties({}))
    assert "PLAIN" in (await wire.ask(c.SaslHandshake())).message.mechanisms
    assert await wire.code(c.SaslAuthenticate(mechanism, data)) == code
    assert await wire.ended() == []


@pytest.mark.parametrize("vhost", ["no-such-vhost", ""])
async def test_an_unknown_vhost(broker: Broker, vhost: str) -> None:
    wire = await Wire(broker).connect()
    assert (await wire.log_in(vhost=vhost)).code == 12
    assert await wire.ended() == []


@pytest.mark.parametrize("message", [c.DeclarePublisher(1, "", "s"), c.Create("s", {}), c.Open("/"), c.Tune(0, 0)])
async def test_nothing_is_done_before_the_login(broker: Broker, message: Any) -> None:
    wire = await Wire(broker).connect()
    await wire.ask(c.PeerProperties({}))
    wire.send(message, 7)
    assert await wire.ended() == []


@pytest.mark.parametrize(
    ("mechanism", "data", "code"), [("PLAIN", b"\0other\0other", 8), ("AMQPLAIN", b"\0guest\0guest", 20)]
)
async def test_the_user_stays(wire: Wire, mechanism: str, data: bytes, code: int) -> None:
    assert await wire.code(c.SaslAuthenticate(mechanism, data)) == code


async def test_credentials_are_refreshed(wire: Wire) -> None:
    secret = f"\0{wire.broker.username}\0{wire.broker.password}".encode()
    assert await wire.code(c.SaslAuthenticate("PLAIN", secret)) == 1
    assert await wire.code(c.Metadata(())) == 1


async def test_the_versions_of_commands(wire: Wire) -> None:
    """The same on both: nobody asks an embedded broker for what RabbitMQ does not have."""
    versions = {entry.key: entry[1:] for entry in (await wire.ask(c.ExchangeCommandVersions(ALL))).message.versions}
    twenty_eight = [*range(1, 3), *range(5, 8), *range(9, 16), 22, 23, 24, 25, 28, 29, 30, 31]
    assert versions == {key: (1, 2 if key == c.Key.PUBLISH else 1) for key in twenty_eight}


# Frames.


@pytest.mark.parametrize("tune", [c.Tune(1000, 60), c.Tune(0, 60), c.Tune(2**21, 60)])
async def test_a_frame_that_is_too_large(broker: Broker, tune: c.Tune) -> None:
    """The client's limit counts where it is smaller; without one, the broker's does."""
    limit = 1000 if tune.frame_max == 1000 else 1024 * 1024
    wire = await Wire(broker).connect()
    await wire.log_in(tune=tune)
    fits = limit - 14
    if fits <= 32767:
        assert (await wire.ask(c.Metadata(("x" * fits,)))).message.streams[0].code == 2
    wire.send_bytes(struct.pack(">IHH", limit + 1, c.Key.PUBLISH, 1))
    assert (await wire.take(c.Close)).message.code == 14
    wire.close()


async def test_a_close_that_is_answered_ends_the_connection(wire: Wire) -> None:
    wire.send(c.Tune(0, 0))
    close = await wire.take(c.Close)
    wire.send(c.CloseResponse(), close.correlation_id or 0)
    assert await wire.ended() == []


@pytest.mark.parametrize(("size", "answered"), [(8192, True), (8193, False)])
async def test_before_open_a_frame_has_8192_bytes(broker: Broker, size: int, answered: bool) -> None:
    wire = await Wire(broker).connect()
    properties = {"a": "x" * (size - 4 - 4 - 4 - 3 - 2)}
    wire.send(c.PeerProperties(properties), 1)
    if answered:
        await wire.take(c.PeerPropertiesResponse)
        wire.close()
    else:
        assert await wire.ended() == []


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">HH", 0x7F, 1),
        struct.pack(">HHI", c.Key.CREATE, 9, 4),
        struct.pack(">HHIH", c.Key.CREATE, 1, 4, 50),
        b"ab",
        b"",
    ],
)
async def test_what_is_no_command(wire: Wire, frame: bytes) -> None:
    wire.send_bytes(len(frame).to_bytes(4) + frame)
    close = (await wire.take(c.Close)).message
    assert (close.code, close.reason) == (13, "unknown frame")


@pytest.mark.parametrize(
    "message",
    [
        c.Open("/"),
        c.Tune(0, 0),
        c.SaslHandshake(),
        c.PeerProperties({}),
        c.PublishConfirm(1, (1,)),
        c.MetadataUpdate(6, "x"),
        c.Deliver(1, b""),
    ],
)
async def test_a_command_at_the_wrong_time(wire: Wire, message: Any) -> None:
    wire.send(message, 7)
    assert (await wire.take(c.Close)).message.code == 13


async def test_an_answer_that_nobody_asked_for_is_nothing(wire: Wire) -> None:
    wire.send(c.ConsumerUpdateResponse(c.OffsetSpec(1)), 7)
    assert await wire.code(c.Metadata(())) == 1


@pytest.mark.parametrize(
    ("last", "answer"),
    [
        (c.encode(c.Close(1, "bye"), correlation_id=9), c.CloseResponse()),
        (c.encode(c.SaslAuthenticate("PLAIN", b"\0guest\0wrong"), correlation_id=9), c.SaslAuthenticateResponse(None)),
        (struct.pack(">IHH", 2**21, c.Key.PUBLISH, 1), c.Close(14, "frame too large")),
        (c.encode(c.Tune(0, 0)), c.Close(13, "unknown frame")),
    ],
    ids=["Close", "SaslAuthenticate", "too large", "no command"],
)
async def test_what_comes_before_the_end_is_answered_before_it(wire: Wire, last: bytes, answer: Any) -> None:
    """In one packet: each in its turn, and nothing after the last."""
    asked = b"".join(c.encode(c.Metadata((str(number),)), correlation_id=number) for number in range(3))
    wire.send_bytes(asked + last + c.encode(c.Metadata(()), correlation_id=10))
    answers = [await wire.next_frame() for _ in range(4)]
    assert [frame.correlation_id for frame in answers[:3]] == [0, 1, 2]
    assert answers[3].message == answer
    wire.close()


async def test_close(wire: Wire) -> None:
    wire.send(c.Close(1, "bye"), 77)
    assert [(type(frame.message), frame.correlation_id) for frame in await wire.ended()] == [(c.CloseResponse, 77)]


# Streams.


async def test_a_stream_that_exists(wire: Wire, there: str) -> None:
    assert await wire.code(c.Create(there, {})) == 5
    assert await wire.code(c.Create(there, {"nobody-knows": "this"})) == 5
    for key, value in ARGUMENTS.items():
        assert await wire.code(c.Create(there, {key: value})) == 17, key


ARGUMENTS = {
    "max-age": "1h",
    "max-length-bytes": "1000",
    "stream-max-segment-size-bytes": "2000",
    "initial-cluster-size": "1",
    "queue-leader-locator": "balanced",
    "stream-filter-size-bytes": "32",
}


async def test_arguments_are_compared_by_what_they_mean(wire: Wire, stream_name: str) -> None:
    assert await wire.code(c.Create(stream_name, ARGUMENTS)) == 1
    assert await wire.code(c.Create(stream_name, {**ARGUMENTS, "max-age": "60m", "max-length-bytes": "01000"})) == 5
    for key in ARGUMENTS:
        fewer = {other: value for other, value in ARGUMENTS.items() if other != key}
        assert await wire.code(c.Create(stream_name, fewer)) == 17, key
    assert await wire.code(c.Delete(stream_name)) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"max-age": "soon"}, 1),
        ({"max-age": ""}, 1),
        ({"max-length-bytes": "-1"}, 1),
        ({"stream-max-segment-size-bytes": "3000000000"}, 1),
        ({"stream-max-segment-size-bytes": "3000000001"}, 17),
        ({"initial-cluster-size": "0"}, 17),
        ({"queue-leader-locator": "nowhere"}, 17),
        ({"queue-leader-locator": "random"}, 1),
        ({"queue-leader-locator": "least-leaders"}, 1),
        ({"stream-filter-size-bytes": "15"}, 17),
        ({"stream-filter-size-bytes": "16"}, 1),
        ({"stream-filter-size-bytes": "255"}, 1),
        ({"stream-filter-size-bytes": "256"}, 17),
    ],
)
async def test_arguments(wire: Wire, stream_name: str, arguments: dict[str, str], code: int) -> None:
    assert await wire.code(c.Create(stream_name, arguments)) == code
    assert await wire.code(c.Delete(stream_name)) == (1 if code == 1 else 2)


async def test_names_that_cannot_be(wire: Wire) -> None:
    assert await wire.code(c.Create("", {})) == 17
    assert await wire.code(c.Create("amq.stream", {})) == 17


async def test_an_unknown_stream(wire: Wire, stream_name: str) -> None:
    for message in (
        c.Delete(stream_name),
        c.DeclarePublisher(1, "", stream_name),
        c.QueryPublisherSequence("r", stream_name),
        c.Subscribe(1, stream_name, c.OffsetSpec(1), 1, {}),
        c.QueryOffset("r", stream_name),
        c.StreamStats(stream_name),
        c.Partitions(stream_name),
        c.Route("key", stream_name),
        c.DeleteSuperStream(stream_name),
        c.ResolveOffsetSpec(stream_name, c.OffsetSpec(1), {}),
    ):
        assert await wire.code(message) == 2, message


async def test_metadata_names_each_stream_once(wire: Wire, there: str) -> None:
    found = (await wire.ask(c.Metadata((there, "no-such-stream", there)))).message
    assert sorted(found.streams) == sorted(
        [c.StreamLocation(there, 1, 0, ()), c.StreamLocation("no-such-stream", 2, c.NO_LEADER, ())]
    )
    (address,) = found.brokers
    assert Endpoint(address.host, address.port) in names_of(Endpoint(wire.broker.host, wire.broker.port))
    assert address.reference == 0
    assert (await wire.ask(c.Metadata(("no-such-stream",)))).message.brokers == ()


# Publishing.


async def test_publisher_ids(wire: Wire, there: str) -> None:
    assert await wire.code(c.DeletePublisher(1)) == 18
    assert await wire.code(c.DeclarePublisher(1, "", there)) == 1
    assert await wire.code(c.DeclarePublisher(1, "", there)) == 17
    assert await wire.code(c.DeclarePublisher(2, "x" * 256, there)) == 17
    assert await wire.code(c.DeclarePublisher(2, "x" * 255, there)) == 1
    assert await wire.code(c.DeclarePublisher(3, "x" * 255, there)) == 17
    async with Wire(wire.broker) as other:
        assert await other.code(c.DeclarePublisher(3, "x" * 255, there)) == 1
    assert await wire.code(c.DeletePublisher(2)) == 1
    assert await wire.code(c.DeclarePublisher(3, "x" * 255, there)) == 1


@pytest.mark.parametrize(
    ("message", "ids"),
    [
        (c.Publish(99, [c.PublishedMessage(5, b"a"), c.PublishedMessage(6, b"b")]), [5, 6]),
        (c.PublishFiltered(99, [c.FilteredMessage(5, "v", b"a"), c.FilteredMessage(6, None, b"b")]), [5, 6]),
        (c.Publish(99, [c.PublishedSubBatch(7, 0, 1, 5, b"\0\0\0\1x")]), [7]),
    ],
)
async def test_an_unknown_publisher(wire: Wire, message: Any, ids: list[int]) -> None:
    wire.send(message)
    errors = (await wire.take(c.PublishError)).message
    assert (errors.publisher_id, list(errors.errors)) == (99, [c.MessageError(number, 18) for number in ids])


@pytest.mark.parametrize(
    "bad",
    [
        c.PublishedSubBatch(21, 0, 3, 10, b"\0\0\0\1x\0\0\0\1y"),
        c.PublishedSubBatch(21, 6, 1, 10, b"\0\0\0\1x"),
        c.PublishedSubBatch(21, 0, 0, 0, b""),
        c.PublishedSubBatch(21, 0, 1, 65 * 1024 * 1024, b"\0\0\0\1x"),
        c.PublishedSubBatch(21, 1, 10, 10, b"\0\0\0\1x"),
    ],
)
async def test_a_sub_entry_that_cannot_be_takes_the_rest_of_its_frame_along(
    wire: Wire, there: str, bad: c.PublishedSubBatch
) -> None:
    await wire.ask(c.DeclarePublisher(1, "", there))
    wire.send(c.Publish(1, [c.PublishedMessage(20, b"a"), bad, c.PublishedMessage(22, b"b")]))
    frames = [(await wire.next_frame()).message for _ in range(2)]
    assert c.PublishError(1, (c.MessageError(21, 17), c.MessageError(22, 17))) in frames
    assert c.PublishConfirm(1, (20,)) in frames


@pytest.mark.parametrize("claimed", [0, 1, 2])
async def test_the_claimed_number_of_entries_is_nothing(wire: Wire, there: str, claimed: int) -> None:
    await wire.ask(c.DeclarePublisher(1, "", there))
    frame = struct.pack(">HHBiQI", c.Key.PUBLISH, 1, 1, claimed, 1, 2) + b"ab"
    wire.send_bytes(len(frame).to_bytes(4) + frame)
    assert (await wire.take(c.PublishConfirm)).message.publishing_ids == (1,)


async def test_repeated_ids_are_dropped_and_confirmed(wire: Wire, there: str) -> None:
    await wire.ask(c.DeclarePublisher(1, "ref", there))
    ids = (3, 4, 4, 2, 9, 8, 10)
    wire.send(c.Publish(1, [c.PublishedMessage(number, b"m") for number in ids]))
    assert sorted(await wire.confirmed(len(ids))) == sorted(ids)
    assert (await wire.ask(c.StreamStats(there))).message.stats["committed_offset"] == 3
    assert (await wire.ask(c.QueryPublisherSequence("ref", there))).message.sequence == 10
    for repeated in (
        c.Publish(1, [c.PublishedSubBatch(9, 0, 1, 5, b"\0\0\0\1y")]),
        c.PublishFiltered(1, [c.FilteredMessage(10, "v", b"m")]),
    ):
        wire.send(repeated)
        assert (await wire.take(c.PublishConfirm)).message.publishing_ids == (repeated.entries[0].publishing_id,)
    assert (await wire.ask(c.StreamStats(there))).message.stats["committed_offset"] == 3
    for reference in ("other", "", "x" * 256):
        assert (await wire.ask(c.QueryPublisherSequence(reference, there))).message.sequence == 0


async def test_a_name_goes_on_where_it_ended(wire: Wire, there: str) -> None:
    """Whoever uses it, and whether it was let go in between."""
    for publisher_id, ids in ((1, (1, 2)), (2, (2, 3)), (1, (3, 4))):
        assert await wire.code(c.DeclarePublisher(publisher_id, "name", there)) == 1
        wire.send(c.Publish(publisher_id, [c.PublishedMessage(number, b"m") for number in ids]))
        await wire.confirmed(len(ids))
        assert await wire.code(c.DeletePublisher(publisher_id)) == 1
    assert (await wire.ask(c.StreamStats(there))).message.stats["committed_offset"] == 3


# Offsets.


async def test_stored_offsets(wire: Wire, there: str) -> None:
    for reference in ("r", "", "x" * 256):
        assert await wire.code(c.QueryOffset(reference, there)) == 19
    wire.send(c.StoreOffset("r", "no-such-stream", 1))
    wire.send(c.StoreOffset("x" * 256, there, 1))
    assert await wire.code(c.Metadata(())) == 1
    assert await wire.code(c.QueryOffset("x" * 256, there)) == 19


# Consuming.


async def test_subscription_ids(wire: Wire, there: str) -> None:
    assert await wire.code(c.Unsubscribe(9)) == 4
    wire.send(c.Credit(9, 1))
    refused = await wire.next_frame()
    assert (refused.message, refused.code) == (c.CreditResponse(9), 4)
    assert await wire.code(c.Subscribe(9, there, c.OffsetSpec(1), 1, {})) == 1
    assert await wire.code(c.Subscribe(9, there, c.OffsetSpec(1), 1, {})) == 3
    assert await wire.code(c.Subscribe(9, "no-such-stream", c.OffsetSpec(1), 1, {})) == 2
    assert await wire.code(c.Unsubscribe(9)) == 1
    assert await wire.code(c.Unsubscribe(9)) == 4


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"single-active-consumer": "true"}, 17),
        ({"single-active-consumer": "true", "name": ""}, 1),
        ({"single-active-consumer": "true", "name": "x" * 256}, 17),
        ({"single-active-consumer": "maybe"}, 1),
        ({"single-active-consumer": "true", "name": "g", "super-stream": "no-such-super-stream"}, 1),
        ({"name": "x" * 256}, 17),
        ({"filter.0": ""}, 1),
        ({"match-unfiltered": "true"}, 1),
    ],
)
async def test_properties_of_a_subscription(wire: Wire, there: str, properties: dict[str, str], code: int) -> None:
    assert await wire.code(c.Subscribe(1, there, c.OffsetSpec(1), 1, properties)) == code


async def test_256_ids(wire: Wire, there: str) -> None:
    for number in range(256):
        wire.send(c.DeclarePublisher(number, "", there), 1000 + number)
        wire.send(c.Subscribe(number, there, c.OffsetSpec(1), 1, {}), 2000 + number)
    codes = [(await wire.next_frame()).code for _ in range(512)]
    assert codes == [1] * 512


async def test_a_stream_that_is_deleted_takes_its_users_along(wire: Wire, there: str) -> None:
    await wire.ask(c.DeclarePublisher(1, "", there))
    await wire.ask(c.Subscribe(5, there, c.OffsetSpec(1), 1, {}))
    async with Wire(wire.broker) as other:
        assert await other.code(c.Delete(there)) == 1
    assert (await wire.take(c.MetadataUpdate)).message == c.MetadataUpdate(6, there)
    assert await wire.code(c.DeletePublisher(1)) == 18
    assert await wire.code(c.Unsubscribe(5)) == 4
    assert await wire.code(c.Metadata(())) == 1


# Super streams.


async def test_super_streams(wire: Wire, stream_name: str) -> None:
    names = [f"{stream_name}-{number}" for number in range(2)]
    create = c.CreateSuperStream(stream_name, names, ["0", "1"], {})
    assert await wire.code(create) == 1
    assert await wire.code(create) == 5
    assert await wire.code(create._replace(arguments={"max-age": "1h"})) == 5
    assert await wire.code(create._replace(name=f"{stream_name}x")) == 5  # its partitions exist
    assert (await wire.ask(c.Partitions(stream_name))).message.streams == tuple(names)
    assert (await wire.ask(c.Route("1", stream_name))).message.streams == (names[1],)
    assert (await wire.ask(c.Route("7", stream_name))).message.streams == ()
    assert (await wire.ask(c.Metadata((stream_name,)))).message.streams[0].code == 2
    assert await wire.code(c.Delete(stream_name)) == 2
    assert await wire.code(c.Delete(names[0])) == 1
    assert (await wire.ask(c.Partitions(stream_name))).message.streams == (names[1],)
    assert (await wire.ask(c.Route("0", stream_name))).message.streams == ()
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 1
    assert (await wire.ask(c.Metadata((names[1],)))).message.streams[0].code == 2
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 2


async def test_several_partitions_of_one_key(wire: Wire, stream_name: str) -> None:
    names = [f"{stream_name}-a", f"{stream_name}-b"]
    assert await wire.code(c.CreateSuperStream(stream_name, names, ["k", "k"], {})) == 1
    assert sorted((await wire.ask(c.Route("k", stream_name))).message.streams) == names
    assert await wire.code(c.DeleteSuperStream(stream_name)) == 1


async def test_super_streams_that_cannot_be(wire: Wire, stream_name: str) -> None:
    for partitions, keys in (
        ([f"{stream_name}-0"], ["0", "1"]),
        ([f"{stream_name}-0", f"{stream_name}-0"], ["0", "1"]),
        ([""], ["0"]),
        ([f"{stream_name}-{number}" for number in range(1001)], [str(number) for number in range(1001)]),
    ):
        assert await wire.code(c.CreateSuperStream(stream_name, partitions, keys, {})) == 17
    assert await wire.code(c.CreateSuperStream("", [f"{stream_name}-0"], ["0"], {})) == 17
    assert await wire.code(c.Partitions(stream_name)) == 2
