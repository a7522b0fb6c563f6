"""The command table against frames captured from a real broker: each decodes, encodes, and survives its truncation."""

from __future__ import annotations

import pytest

from rstream_core.errors import AmqpError, ProtocolError
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp import AMQPMessage
from rstream_core.protocol.chunk import parse_chunk, parse_header
from rstream_core.protocol.framing import FrameBuffer
from tests.vectors import Vector, plain, vectors

VECTORS = vectors()
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
ENDS_ANYWHERE = (
    c.Subscribe,
    c.ResolveOffsetSpec,
    c.Create,
    c.CreateSuperStream,
    c.Metadata,
    c.PeerProperties,
    c.ExchangeCommandVersions,
    c.OpenResponse,
)
"""Whose last field is read to the end of the frame, as RabbitMQ does, or may be absent."""
CHUNKS = [vector for vector in VECTORS if vector.messages is not None]


def encoded(frame: c.Frame) -> bytes:
    return c.encode(frame.message, correlation_id=frame.correlation_id or 0, code=frame.code)


@by_name
def test_decodes_to_what_was_said(vector: Vector) -> None:
    frame = c.decode(vector.frame[4:])
    assert frame[1:] == (vector.correlation_id, vector.code, vector.key)
    if vector.message is None:
        assert frame.message is None
    else:
        assert type(frame.message).__name__ == vector.message
        assert {name: plain(value) for name, value in frame.message._asdict().items()} == vector.fields


@by_name
def test_encodes_to_the_same_bytes(vector: Vector) -> None:
    frame = c.decode(vector.frame[4:])
    if frame.message is not None:
        assert encoded(frame) == vector.frame
    elif not vector.rest:
        assert vector.answers is not None
        request = getattr(c, vector.answers.removesuffix("Response"))
        assert frame.correlation_id is not None
        assert c.encode_error(request, correlation_id=frame.correlation_id, code=frame.code) == vector.frame


@by_name
def test_comes_out_of_any_stream_of_bytes(vector: Vector) -> None:
    whole, single = FrameBuffer(), FrameBuffer()
    whole.feed(vector.frame + vector.frame[:-1])
    assert list(whole.frames()) == [vector.frame[4:]]
    assert len(whole) == len(vector.frame) - 1
    whole.feed(vector.frame[-1:])
    assert list(whole.frames()) == [vector.frame[4:]]
    found: list[bytes] = []
    for byte in vector.frame:
        single.feed(bytes((byte,)))
        found += single.frames()
    assert found == [vector.frame[4:]]
    assert len(single) == 0


@by_name
def test_a_truncated_frame_is_an_error_and_nothing_else(vector: Vector) -> None:
    frame = vector.frame[4:]
    for size in range(len(frame)):
        try:
            found = c.decode(frame[:size])
        except ProtocolError:
            continue
        # Fields that take the rest of the frame, or that may be absent, end anywhere: then no byte was made up.
        if type(found.message) in ENDS_ANYWHERE:
            *fields, last = found.message
            *whole, all_of_last = c.decode(frame).message
            assert fields == whole
            assert set(last) <= set(all_of_last), "a part of what is there"
        elif found.message is not None:
            assert encoded(found)[4:] == frame[:size]


@by_name
def test_bytes_left_over_are_an_error(vector: Vector) -> None:
    frame = c.decode(vector.frame[4:])
    if frame.message is None or isinstance(frame.message, (c.Deliver, c.DeliverCommitted)):
        return
    if isinstance(frame.message, c.ConsumerUpdateResponse) and frame.message.offset_spec.offset_type < 4:
        return  # RabbitMQ passes over them
    with pytest.raises(ProtocolError):
        c.decode(vector.frame[4:] + b"\0")


@pytest.mark.parametrize("vector", CHUNKS, ids=lambda vector: vector.name)
def test_chunks_hold_what_was_published(vector: Vector) -> None:
    chunk = c.decode(vector.frame[4:]).message.chunk
    header, messages = parse_chunk(chunk)
    assert tuple(messages) == vector.messages
    assert header == parse_header(chunk)
    assert (header.kind, header.records, header.first_offset) == (0, len(messages), 0)
    assert header.timestamp > 1_700_000_000_000
    assert (header.bloom_size > 0) == ("filter" in vector.name)


PUBLISHED_CLIENT = [vector for vector in VECTORS if vector.amqp and "garbled" not in vector.name]


@pytest.mark.parametrize("vector", PUBLISHED_CLIENT, ids=lambda vector: vector.name)
def test_messages_of_the_published_client_are_read(vector: Vector) -> None:
    assert vector.client == "rstream 1.1.1"
    _, messages = parse_chunk(c.decode(vector.frame[4:]).message.chunk)
    assert len(messages) == len(vector.amqp)
    for data, told in zip(messages, vector.amqp, strict=True):
        message = AMQPMessage.from_bytes(data)
        assert message.body == told["body"].encode()
        assert message.application_properties == told["application_properties"]
        if told["properties"] is None:
            assert message.properties is None
            continue
        assert message.properties is not None
        assert message.message_annotations == {"x-note": "annotated"}
        for name, value in told["properties"].items():
            found = getattr(message.properties, name)
            if name == "user_id":
                assert found == value.encode()
            elif name.endswith("_time"):
                assert int(found) == value  # milliseconds
            else:
                assert found == value, name


def test_text_as_the_published_client_writes_it_is_an_error() -> None:
    """A str body becomes its internal map in a data section of a wrong length; it cannot read it itself."""
    garbled = next(v for v in VECTORS if "seed-garbled: DeliverCommitted" in v.name)
    (data,) = parse_chunk(c.decode(garbled.frame[4:]).message.chunk)[1]
    with pytest.raises(AmqpError):
        _ = AMQPMessage.from_bytes(data).body


def test_every_command_and_version_was_captured() -> None:
    captured = {vector.message for vector in VECTORS}
    assert {row.message.__name__ for row in c._TABLE} <= captured
    assert {row.key & 0x7FFF for row in c._TABLE} == set(c.Key) == set(range(1, 0x20))


def test_both_sides_were_captured_where_both_may_speak() -> None:
    spoken = {(vector.message, vector.sender) for vector in VECTORS}
    for message in ("Tune", "Heartbeat"):
        assert {(message, "client"), (message, "broker")} <= spoken
    assert {("Close", "client"), ("Close", "broker")} <= spoken
    assert {("CloseResponse", "client"), ("CloseResponse", "broker")} <= spoken


def test_every_response_code_that_one_node_can_send_was_captured() -> None:
    """11 is for users from elsewhere, 6 for a stream that moves; 9, 13, 14 and 15 end a connection."""
    assert {vector.code for vector in VECTORS} >= {1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 17, 18, 19, 20}


def test_no_two_rows_share_a_key_and_version() -> None:
    other_keys = [row for row in c._TABLE if row.other_key is not None]
    assert [row.message for row in other_keys] == [c.Tune]
    assert len(c._BY_WIRE) == len(c._TABLE) + len(other_keys)
    assert len(c._BY_MESSAGE) == len(c._TABLE)


def test_a_request_knows_its_response() -> None:
    """The one whose row has the same key and version, with the bit of a response."""
    for row in c._TABLE:
        if row.shape is c.Shape.REQUEST:
            request = row.message._make([None] * len(row.message._fields))
            assert request.response is c._BY_WIRE[row.key | c.RESPONSE_BIT, row.version].message
        else:
            assert not hasattr(row.message, "response")


def test_what_this_side_understands_is_what_the_broker_does() -> None:
    answer = next(v for v in VECTORS if v.message == "ExchangeCommandVersionsResponse")
    theirs = {key: (low, high) for key, low, high in answer.fields["versions"]}
    ours = {key: (low, high) for key, low, high in c.supported_versions()}
    assert theirs.items() <= ours.items()


def test_an_older_broker_is_told_only_what_it_knows() -> None:
    """4.0.5 closes the connection over a command number of 4.3."""
    told = {release: {entry.key for entry in c.supported_versions(release)} for release in ((3, 11), (4, 0), (4, 3))}
    assert told[4, 3] - told[4, 0] == {c.Key.RESOLVE_OFFSET_SPEC}
    assert told[4, 0] - told[3, 11] == {c.Key.CREATE_SUPER_STREAM, c.Key.DELETE_SUPER_STREAM}


@pytest.mark.parametrize(
    "message",
    [
        c.DeletePublisher(256),
        c.DeletePublisher(-1),
        c.Open("x" * 0x8000),
        c.Open("not\udcffunicode"),
        c.Close(65536, ""),
        c.PublishConfirm(1, (-1,)),
        c.PublishConfirm(1, (2**64,)),
        c.Publish(1, (c.PublishedSubBatch(1, 1, 65536, 0, b""),)),
        c.StoreOffset("r", "s", -1),
        c.Subscribe(1, "s", c.OffsetSpec(4, -1), 1, {}),
        c.Subscribe(1, "s", c.OffsetSpec(1), 65536, {}),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        c.encode(message)


@pytest.mark.parametrize(
    "frame",
    ["", "00", "000f00", "00000001", "00200001", "80200001", "00020003", "00170002", "00170000", "ffffffff"],
)
def test_unknown_and_short_frames(frame: str) -> None:
    with pytest.raises(ProtocolError):
        c.decode(bytes.fromhex(frame))


def test_an_unknown_offset_type_is_an_error() -> None:
    subscribe = c.encode(c.Subscribe(1, "s", c.OffsetSpec(3), 1, {}))
    broken = subscribe[4:].replace(b"\x00\x03", b"\x00\x06")
    with pytest.raises(ProtocolError, match="offset type 6"):
        c.decode(broken)


def test_null_and_empty_strings_are_kept_apart_where_it_matters() -> None:
    frame = c.encode(c.PublishFiltered(1, (c.FilteredMessage(1, None, b"a"), c.FilteredMessage(2, "", b"b"))))
    values = [entry.filter_value for entry in c.decode(frame[4:]).message.entries]
    assert values == [None, ""]
    assert c.decode(bytes.fromhex("00160001 00000000 0001 ffff")).message == c.Close(1, "")


def test_a_request_knows_no_null() -> None:
    """RabbitMQ takes the length for 65,535."""
    with pytest.raises(ProtocolError, match="65535"):
        c.decode(bytes.fromhex("00150001 00000000 ffff"))


def test_a_broker_may_leave_out_only_what_rabbitmq_leaves_out() -> None:
    """Open's properties, where there are none. What a client may leave out is an error here, as a wrong count is."""
    assert c.decode(bytes.fromhex("80150001 00000007 0001")).message == c.OpenResponse({})
    for answer in (
        "80150001 00000007 0001 000000",  # a count that is cut off
        "80150001 00000007 0001 00000001",  # or wrong
        "80110001 00000007 0001",
        "80110001 00000007 0001 00000000 0001 61 0001 62",
        "80120001 00000007 0001 00000000 0001 61",
        "801b0001 00000007 0001 00000000 0001 0001 0001",
        "80190001 00000007 0001 00000002 0001 61",
        "801f0001 00000007 0001 0001 00",
    ):
        with pytest.raises(ProtocolError):
            c.decode(bytes.fromhex(answer))


def test_a_credit_is_read_as_signed() -> None:
    """As RabbitMQ reads it; that of a Subscribe is not."""
    assert c.decode(c.encode(c.Credit(1, 0xFFFF))[4:]).message == c.Credit(1, -1)
    subscribe = c.Subscribe(1, "s", c.OffsetSpec(1), 0xFFFF, {})
    assert c.decode(c.encode(subscribe)[4:]).message == subscribe


def test_an_error_reply_may_be_read_without_its_fields() -> None:
    frame = c.encode_error(c.Open, correlation_id=7, code=12)
    assert c.decode(frame[4:]) == c.Frame(None, 7, 12, 0x8015)
