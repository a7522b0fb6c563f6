"""The AMQP 1.0 codec against itself, and against random bytes."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstream_core.errors import AmqpError
from rstream_core.protocol import amqp_sections
from rstream_core.protocol.amqp import (
    AMQPMessage,
    Header,
    Properties,
    amqp_decoder,
    bodies_of,
    body_of,
    encode_bodies,
)
from rstream_core.protocol.amqp_codec import decode_value, encode_value, map_of, skip_value
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.amqp_types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
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
from tests.brokers import IS_SOAK
from tests.unit.test_amqp import exact

# --- values ----------------------------------------------------------------------------------------

I64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.one_of(st.integers(-300, 300), I64)
UUIDS = st.uuids()
SYMBOLS = st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol)
CHARS = st.characters(exclude_categories=["Cs"]).map(Char)


def ranged(cls: Any) -> st.SearchStrategy[Any]:
    near = st.integers(max(cls.low, -300), min(cls.high, 300))
    return st.one_of(near, st.integers(cls.low, cls.high)).map(cls)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "ubyte": ranged(UByte),
    "ushort": ranged(UShort),
    "uint": ranged(UInt),
    "ulong": ranged(ULong),
    "byte": ranged(Byte),
    "short": ranged(Short),
    "int": ranged(Int),
    "long": SMALL,
    "float": st.floats(width=32).map(Float32),
    "double": st.floats(),
    "decimal32": st.binary(min_size=4, max_size=4).map(Decimal32),
    "decimal64": st.binary(min_size=8, max_size=8).map(Decimal64),
    "decimal128": st.binary(min_size=16, max_size=16).map(Decimal128),
    "char": CHARS,
    "timestamp": ranged(Timestamp),
    "uuid": UUIDS,
    "binary": st.binary(max_size=300),
    "string": st.text(max_size=300),
    "symbol": SYMBOLS,
}
SCALAR = st.one_of(*SCALARS.values())
KEY = st.one_of(*(SCALARS[name] for name in SCALARS if name not in ("float", "double")))


# Keys that Python takes for equal, or cannot hash.
LIKE_KEYS: list[Any] = [True, 1, Int(1), ULong(1), 1.0, Float32(1.0), False, 0.0, -0.0, "a", Symbol("a"), Char("a")]
LIKE_KEYS += [[], [1], [True], {}, {1: 1}, Array([Int(1)], "int"), Described("d", 1), Described(Symbol("d"), True)]


def typed_maps(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(
        st.tuples(st.sampled_from(LIKE_KEYS), inner), max_size=4, unique_by=lambda pair: encode_value(pair[0])
    )
    return pairs.map(map_of)


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    maps = st.one_of(st.dictionaries(KEY, inner, max_size=4), typed_maps(inner))
    scalar_arrays = [
        st.lists(items, max_size=4).map(lambda values, name=name: Array(values, name))  # type: ignore[misc]
        for name, items in SCALARS.items()
    ]
    arrays = st.one_of(
        *scalar_arrays,
        st.lists(lists, max_size=3).map(lambda values: Array(values, "list")),
        st.lists(maps, max_size=3).map(lambda values: Array(values, "map")),
        st.lists(st.one_of(*scalar_arrays), max_size=3).map(lambda values: Array(values, "array")),
        st.builds(
            lambda values, descriptors: Array(values, "string", descriptors=descriptors),
            st.lists(st.text(max_size=5), max_size=3),
            st.lists(SCALAR, min_size=1, max_size=2),
        ),
    )
    return st.one_of(lists, maps, arrays, st.builds(Described, SCALAR, inner))


VALUES = st.recursive(SCALAR, compound, max_leaves=12)
MANY = settings(max_examples=2000 if IS_SOAK else 60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(VALUES, st.binary(max_size=9))
def test_values_round_trip(value: Any, tail: bytes) -> None:
    data = encode_value(value)
    decoded, end = decode_value(data + tail)
    assert exact(decoded) == exact(value)
    assert end == skip_value(data + tail, 0) == len(data)
    assert encode_value(decoded) == data


@MANY
@given(VALUES, st.randoms())
def test_values_cut_short(value: Any, chance: random.Random) -> None:
    data = encode_value(value)
    length = chance.randrange(len(data))
    for decode in (decode_value, skip_value):
        with pytest.raises(AmqpError):
            decode(data[:length], 0)


def damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed)) if changed else 0
        changed[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
    return bytes(changed)


def check_hostile_value(data: bytes) -> None:
    try:
        value, end = decode_value(data)
    except AmqpError:
        return
    assert end == skip_value(data, 0)
    again = encode_value(value)  # what can be read can be written
    assert exact(decode_value(again)) == exact((value, len(again)))


@settings(max_examples=5000 if IS_SOAK else 150, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_a_value_or_an_error(data: bytes) -> None:
    check_hostile_value(data)


@MANY
@given(VALUES, st.randoms())
def test_damaged_values_are_a_value_or_an_error(value: Any, chance: random.Random) -> None:
    check_hostile_value(damaged(encode_value(value), chance))


# --- messages --------------------------------------------------------------------------------------

TEXT = st.text(max_size=20)
IDS = st.one_of(st.integers(0, 2**64 - 1), TEXT, st.binary(max_size=20), UUIDS)
MILLISECONDS = st.integers(-(2**63), 2**63 - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


PROPERTIES = st.builds(
    Properties,
    message_id=maybe(IDS),
    user_id=maybe(st.binary(max_size=20)),
    to=maybe(TEXT),
    subject=maybe(TEXT),
    reply_to=maybe(TEXT),
    correlation_id=maybe(IDS),
    content_type=maybe(SYMBOLS),
    content_encoding=maybe(SYMBOLS),
    absolute_expiry_time=maybe(MILLISECONDS),
    creation_time=maybe(st.one_of(MILLISECONDS, st.datetimes(timezones=st.just(dt.UTC)))),
    group_id=maybe(TEXT),
    group_sequence=maybe(st.integers(0, 2**32 - 1)),
    reply_to_group_id=maybe(TEXT),
)
HEADERS = st.builds(
    Header,
    durable=maybe(st.booleans()),
    priority=maybe(st.integers(0, 255)),
    ttl=maybe(st.integers(0, 2**32 - 1)),
    first_acquirer=maybe(st.booleans()),
    delivery_count=maybe(st.integers(0, 2**32 - 1)),
)
FINITE = VALUES.filter(lambda value: "nan" not in repr(value))  # a NaN equals nothing, itself included
ANNOTATIONS = st.dictionaries(st.one_of(SYMBOLS, ranged(ULong)), FINITE, max_size=3)
SECTIONS = {
    "header": maybe(HEADERS),
    "delivery_annotations": maybe(ANNOTATIONS),
    "message_annotations": maybe(ANNOTATIONS),
    "properties": maybe(PROPERTIES),
    "application_properties": maybe(st.dictionaries(TEXT, FINITE, max_size=3)),
    "footer": maybe(ANNOTATIONS),
}
BODIES = st.one_of(
    st.fixed_dictionaries({"body": st.one_of(st.binary(max_size=300), TEXT)}),
    st.fixed_dictionaries({"value": FINITE}),
    st.fixed_dictionaries({"sequence": st.lists(FINITE, max_size=4)}),
    st.just({}),
)
MESSAGES = st.builds(lambda body, sections: AMQPMessage(**body, **sections), BODIES, st.fixed_dictionaries(SECTIONS))
NAMES = [*SECTIONS, "sequence", "value", "body", "body_type"]


@MANY
@given(MESSAGES)
def test_messages_round_trip(message: AMQPMessage) -> None:
    data = bytes(message)
    decoded = amqp_decoder(data)
    assert decoded == message
    assert repr(decoded)
    for name in ("value", "sequence", "message_annotations", "application_properties"):
        given_value = getattr(message, name) or None
        assert exact(getattr(decoded, name) or None) == exact(given_value)
    assert bytes(decoded) == data  # looked at, and unchanged
    again = AMQPMessage(decoded.body, **{name: getattr(decoded, name) for name in [*SECTIONS, "sequence"]})
    if decoded.body_type == "value":
        again.value = decoded.value
    assert bytes(again) == data  # what was decoded is encoded type-exactly


@MANY
@given(MESSAGES, st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.lists(st.lists(FINITE), min_size=1))
def test_sections_of_a_body_are_kept(message: AMQPMessage, parts: list[bytes], rows: list[list[Any]]) -> None:
    for body in (encode_bodies(parts), [bytes(AMQPMessage(sequence=row)) for row in rows]):
        several = amqp_decoder(b"".join(body))
        for name in SECTIONS:
            setattr(several, name, getattr(message, name))
        data = bytes(several)
        decoded = amqp_decoder(data)
        assert b"".join(body) in data
        if several.body_type == "data":
            assert (decoded.body, decoded.data_sections) == (b"".join(parts), parts)
        else:
            assert exact(decoded.sequence_sections) == exact(amqp_decoder(data).sequence_sections) == exact(rows)
            assert exact(decoded.sequence) == exact([item for row in rows for item in row])
        assert bytes(decoded) == data


@MANY
@given(MESSAGES, MESSAGES, st.sampled_from([*SECTIONS, "sequence", "value", "body"]))
def test_one_attribute_set_after_decoding(message: AMQPMessage, other: AMQPMessage, name: str) -> None:
    changed = amqp_decoder(bytes(message))
    setattr(changed, name, getattr(other, name))
    setattr(message, name, getattr(other, name))
    assert bytes(changed) == bytes(message)


@MANY
@given(st.lists(MESSAGES, max_size=4), st.lists(st.binary(max_size=400), max_size=4))
def test_the_fast_paths_equal_the_general_one(messages: list[AMQPMessage], bodies: list[bytes]) -> None:
    general = [b"\x00\x53\x75" + encode_value(body) for body in bodies]
    assert encode_bodies(bodies) == [AMQPMessage(body).encode() for body in bodies] == general
    assert [amqp_decoder(data).body for data in general] == bodies
    encoded = [bytes(message) for message in messages] + general
    expected = [general_body_of(data) for data in encoded]
    assert bodies_of(encoded) == [body_of(data) for data in encoded] == expected


def general_body_of(data: bytes) -> bytes | None:
    return amqp_sections.data_of(data, amqp_sections.locate(data))


def check_hostile_message(data: bytes) -> None:
    message = amqp_decoder(data)
    assert repr(message)
    outcomes: list[bytes | str | None] = []
    for look in (general_body_of, body_of, lambda it: bodies_of([it])[0]):
        try:
            outcomes.append(look(data))
        except AmqpError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    for name in NAMES:
        try:
            getattr(message, name)
        except AmqpError:
            pass
    assert bytes(message) == data
    try:
        assert message == amqp_decoder(data) or "nan" in repr(message._compared())
        str(message)
        message.properties = Properties(subject="x")
        assert amqp_decoder(bytes(message)).properties == Properties(subject="x")
    except AmqpError:
        pass


@settings(max_examples=5000 if IS_SOAK else 100, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=30))
def test_random_messages_are_read_or_an_error(data: bytes, tail: bytes) -> None:
    check_hostile_message(data)
    check_hostile_message(b"\x00\x53" + data)
    for code in range(0x70, 0x79):
        check_hostile_message(bytes((0, 0x53, code)) + data + tail)


@MANY
@given(MESSAGES, st.randoms())
def test_damaged_messages_are_read_or_an_error(message: AMQPMessage, chance: random.Random) -> None:
    check_hostile_message(damaged(bytes(message), chance))


# --- what both referees take (test_amqp_proton.py, test_amqp_uamqp.py) ----------------------------------

REFEREED_MILLISECONDS = st.integers(1, 2**45)  # floats of seconds hold these; 0 is "not given" to proton
REFEREED_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
REFEREED_SYMBOLS = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=300).map(Symbol)
REFEREED_IDS = st.one_of(st.integers(0, 2**64 - 1), REFEREED_TEXT, st.binary(min_size=1, max_size=20), UUIDS)
REFEREED_PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "message_id": REFEREED_IDS,
        "user_id": st.binary(min_size=1, max_size=20),
        "to": REFEREED_TEXT,
        "subject": REFEREED_TEXT,
        "reply_to": REFEREED_TEXT,
        "correlation_id": REFEREED_IDS,
        "content_type": REFEREED_SYMBOLS,
        "content_encoding": REFEREED_SYMBOLS,
        "absolute_expiry_time": REFEREED_MILLISECONDS,
        "creation_time": REFEREED_MILLISECONDS,
        "group_id": REFEREED_TEXT,
        "group_sequence": st.integers(1, 2**31 - 1),
        "reply_to_group_id": REFEREED_TEXT,
    },
)
REFEREED_HEADERS = st.fixed_dictionaries(
    {
        "durable": st.booleans(),
        "priority": st.integers(0, 255),
        "ttl": st.integers(1, 2**32 - 1),
        "first_acquirer": st.booleans(),
        "delivery_count": st.integers(0, 2**32 - 1),
    }
)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_messages_of_bodies_are_those_of_their_bytes(found: list[bytes]) -> None:
    """There is a short way for plain messages."""
    messages = list(AMQPMessage.all_from_bytes(PlainMessages(found)))
    others = list(AMQPMessage.all_from_bytes(encode_bodies(found)))
    assert messages == others
    for one, other in zip(messages, others, strict=True):
        assert (one.encode(), one.body, one.data_sections, one.body_type) == (
            other.encode(),
            other.body,
            other.data_sections,
            other.body_type,
        )
        assert (one.properties, one.value, one.sequence, one.publishing_id, str(one)) == (
            other.properties,
            other.value,
            other.sequence,
            other.publishing_id,
            str(other),
        )
        one.body = other.body = b"other"
        assert one.encode() == other.encode()
