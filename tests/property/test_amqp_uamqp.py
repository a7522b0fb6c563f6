"""The AMQP 1.0 codec against uamqp, the C library of Azure, and the interchange of its types.

It is not right everywhere; where it falls short, the place says what it does, and the test leaves out just that.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, amqp_decoder, encode_bodies, encode_message
from rstream_core.protocol.amqp_codec import AmqpMap
from rstream_core.protocol.amqp_types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from tests.property.test_amqp import (
    MANY,
    REFEREED_HEADERS,
    REFEREED_PROPERTIES,
    REFEREED_SYMBOLS,
    REFEREED_TEXT,
    VALUES,
    ranged,
)
from tests.referees import referee
from tests.unit.test_amqp import exact

uamqp = referee("uamqp", "types")

# It gives bytes for strings and symbols and the value alone of what is described, and one Python int for all
# integer types, so types show only in what it writes. Its limits:
# - it reads no char and no decimal; strings, symbols end at a NUL;
# - it writes sequences, but reads a message with one as having no body (``to_uamqp`` refuses);
# - it misreads arrays that are empty, described, or of elements without bytes;
# - an empty list or null as the whole value shows as None;
# - a header's false shows as None, and now and then as True;
# - it cannot encode the user id of a message it has received, and sends a message id that is an int as an int;
#   ``from_uamqp`` mends both.


def uamqp_takes(value: Any) -> bool:
    if isinstance(value, Char | Decimal32 | Decimal64 | Decimal128):
        return False
    if isinstance(value, Array):
        if value.type_name in ("null", "char", "decimal32", "decimal64", "decimal128") or value.descriptors:
            return False
        return bool(value) and all(map(uamqp_takes, value))
    if isinstance(value, list):
        return all(map(uamqp_takes, value))
    if isinstance(value, dict):
        return all(map(uamqp_takes, [*value, *value.values()]))
    if isinstance(value, Described):
        return uamqp_takes(value.descriptor) and uamqp_takes(value.value)
    return not isinstance(value, AmqpMap) and (not isinstance(value, str) or "\0" not in value)


def as_uamqp_reads(value: Any) -> Any:
    if isinstance(value, Described):
        return as_uamqp_reads(value.value)
    if isinstance(value, list):
        return [as_uamqp_reads(item) for item in value]
    if isinstance(value, dict):
        return {as_uamqp_reads(key): as_uamqp_reads(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


UAMQP_VALUES = VALUES.filter(uamqp_takes)
UAMQP_KEYS = st.one_of(REFEREED_SYMBOLS, ranged(ULong))
UAMQP_ANNOTATIONS = st.dictionaries(UAMQP_KEYS, UAMQP_VALUES, max_size=3)
UAMQP_BODIES = st.one_of(st.binary(max_size=300), UAMQP_VALUES.map(lambda v: ([v, 1],)))


@MANY
@given(
    REFEREED_HEADERS,
    REFEREED_PROPERTIES,
    UAMQP_ANNOTATIONS,
    UAMQP_ANNOTATIONS,
    st.dictionaries(REFEREED_TEXT, UAMQP_VALUES, max_size=3),
    UAMQP_ANNOTATIONS,
    UAMQP_BODIES,
)
def test_uamqp_reads_what_we_write(
    header: dict[str, Any],
    properties: dict[str, Any],
    delivery: dict[Any, Any],
    annotations: dict[Any, Any],
    application: dict[str, Any],
    footer: dict[Any, Any],
    body: Any,
) -> None:
    ours = AMQPMessage(
        body if isinstance(body, bytes) else None,
        header=Header(**header),
        properties=Properties(**properties),
        delivery_annotations=delivery,
        message_annotations=annotations,
        application_properties=application,
        footer=footer,
    )
    if isinstance(body, tuple):
        (ours.value,) = body
    theirs = ours.to_uamqp()
    for name, value in header.items():
        assert value is False or (getattr(theirs.header, name) or 0) == value, name
    for name, value in properties.items():
        assert getattr(theirs.properties, name) == as_uamqp_reads(value), name
    assert exact(theirs.delivery_annotations or {}) == exact(as_uamqp_reads(delivery))
    assert exact(theirs.annotations or {}) == exact(as_uamqp_reads(annotations))
    assert exact(theirs.application_properties or {}) == exact(as_uamqp_reads(application))
    assert exact(theirs.footer or {}) == exact(as_uamqp_reads(footer))
    if isinstance(body, bytes):
        assert b"".join(theirs.data) == body
    else:
        assert exact(theirs.value) == exact(as_uamqp_reads(body[0]))

    again = AMQPMessage.from_uamqp(theirs)
    assert again.properties == ours.properties or not properties
    for name, value in header.items():
        assert value is False or (getattr(again.header, name) or 0) == value, name
    assert again.body == ours.body


# What uamqp writes of plain Python values: ints as int or long, bytes as string, a bytearray as binary.
WRITTEN = [
    (True, True),
    (5, Int(5)),
    (2**40, 2**40),
    ("é", "é"),
    (b"x", "x"),
    (bytearray(b"x"), b"x"),
    (2.5, 2.5),
    (uuid.UUID(int=5), uuid.UUID(int=5)),
    ([1, "a"], [Int(1), "a"]),
    ({"k": None}, {"k": None}),
    (dt.datetime(2026, 1, 1), Timestamp(1767225600000)),  # noqa: DTZ001 - uamqp takes it for UTC
]


@pytest.mark.parametrize(
    ("value", "expected"), WRITTEN, ids=[type(value).__name__ + str(value) for value, _ in WRITTEN]
)
def test_we_read_what_uamqp_writes(value: Any, expected: Any) -> None:
    theirs = uamqp.Message(
        b"x",
        application_properties={"k": value},
        annotations={uamqp.types.AMQPSymbol("a"): value},
        delivery_annotations={uamqp.types.AMQPSymbol("d"): value},
        footer={uamqp.types.AMQPSymbol("f"): value},
    )
    ours = AMQPMessage.from_uamqp(theirs)
    assert ours.body == b"x"
    assert exact(ours.application_properties) == exact({"k": expected})
    assert exact(ours.message_annotations) == exact({Symbol("a"): expected})
    assert exact(ours.delivery_annotations) == exact({Symbol("d"): expected})
    assert exact(ours.footer) == exact({Symbol("f"): expected})
    assert encode_message(theirs) == bytes(ours)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AMQPuLong", 5, ULong(5)),
        ("AMQPLong", 5, 5),
        ("AMQPuInt", 5, UInt(5)),
        ("AMQPInt", -5, Int(-5)),
        ("AMQPuShort", 5, UShort(5)),
        ("AMQPShort", 5, Short(5)),
        ("AMQPuByte", 5, UByte(5)),
        ("AMQPByte", 5, Byte(5)),
        ("AMQPSymbol", "s", Symbol("s")),
        ("AMQPArray", [1, 2], Array([Int(1), Int(2)], "int")),
    ],
)
def test_we_read_uamqp_s_own_types(name: str, value: Any, expected: Any) -> None:
    wrapped = getattr(uamqp.types, name)(value)
    ours = AMQPMessage.from_uamqp(uamqp.Message(wrapped, body_type=uamqp.MessageBodyType.Value))
    assert exact(ours.value) == exact(expected)


@MANY
@given(REFEREED_PROPERTIES, REFEREED_HEADERS, st.binary(max_size=50))
def test_uamqp_properties_are_ours(properties: dict[str, Any], header: dict[str, Any], body: bytes) -> None:
    given_ids: dict[str, Any] = {
        name: bytearray(value) if isinstance(value, bytes) and name.endswith("_id") and name != "user_id" else value
        for name, value in properties.items()
    }
    for name in ("message_id", "correlation_id"):
        if isinstance(given_ids.get(name), int) and given_ids[name] >= 2**63:
            given_ids[name] = uamqp.types.AMQPuLong(given_ids[name])  # plain, uamqp makes it a double
    theirs = uamqp.message.MessageProperties(**given_ids)
    their_header = uamqp.message.MessageHeader()
    for name, value in header.items():
        setattr(their_header, "time_to_live" if name == "ttl" else name, value)

    expected = AMQPMessage(body, properties=Properties(**properties), header=Header(**header))
    message = AMQPMessage(body, properties=theirs, header=their_header)
    assert bytes(message) == bytes(expected)
    assert message == expected
    assert isinstance(message.properties, Properties)
    assert bytes(message) == bytes(expected)
    whole = uamqp.Message(body, properties=theirs, header=their_header)
    assert encode_message(whole) == bytes(AMQPMessage.from_uamqp(whole)) == bytes(expected)
    assert whole.properties is theirs
    # and what uamqp writes itself differs in no more than the type of the ids
    read = amqp_decoder(bytes(whole.encode_message()))
    assert read.properties == expected.properties or not properties
    assert read.header == expected.header


def test_the_published_example() -> None:
    for number in (0, 5, 1000):
        message = AMQPMessage(body=f"a:{number}", properties=uamqp.message.MessageProperties(message_id=number))
        assert message.properties is not None
        assert str(message.properties.message_id) == str(number)
        received = amqp_decoder(bytes(message))
        assert received.properties is not None
        assert repr(received.properties.message_id) == f"ULong({number})"
        assert f"Got message: {received}" == f"Got message: a:{number}"


def test_bodies_of_uamqp() -> None:
    assert AMQPMessage.from_uamqp(uamqp.Message()).body_type == "value"
    assert AMQPMessage.from_uamqp(uamqp.Message("é")).body == "é".encode()
    assert AMQPMessage.from_uamqp(uamqp.Message([b"a", b"b"])).body == b"ab"
    assert AMQPMessage.from_uamqp(uamqp.Message([b"a", b"b"])).data_sections == [b"a", b"b"]
    several = amqp_decoder(encode_bodies([b"a"])[0] + encode_bodies([b"b"])[0])
    assert list(several.to_uamqp().get_data()) == [b"a", b"b"]
    assert AMQPMessage.from_uamqp(several.to_uamqp()).data_sections == [b"a", b"b"]
    sequence = uamqp.Message([[1], [2]], body_type=uamqp.MessageBodyType.Sequence)
    assert AMQPMessage.from_uamqp(sequence).sequence == [1, 2]
    assert AMQPMessage.from_uamqp(sequence).sequence_sections == [[1], [2]]
    assert str(AMQPMessage("hé").to_uamqp()) == "hé"
    with pytest.raises(ValueError, match="uamqp cannot decode"):
        AMQPMessage(value=Char("x")).to_uamqp()
    with pytest.raises(ValueError, match="sequence"):
        AMQPMessage(sequence=[1]).to_uamqp()
    with pytest.raises(ValueError, match="message_id"):
        AMQPMessage(properties=uamqp.message.MessageProperties(message_id=-1)).encode()
