"""The AMQP 1.0 codec against itself, against random bytes, and against two implementations that are not ours.

The referees are qpid-proton (the C library of Apache Qpid) and uamqp (the C library of Azure). Neither is right
everywhere; where one falls short, the place says what it does, and the test leaves out just that.
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
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
    encode_message,
)
from rstream_core.protocol.amqp_codec import AmqpMap, decode_value, encode_value, map_of, skip_value
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
from tests.unit.test_amqp import TYPED_MAPS, VECTORS, exact

proton = pytest.importorskip("proton")

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
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@settings(max_examples=1000, deadline=None)
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


@settings(max_examples=500, deadline=None)
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


# --- the first referee: qpid-proton ------------------------------------------------------------------
#
# Its Python layer puts a plain int as a long, has ints for decimal32 and decimal64, and reads binaries as
# memoryviews. Its limits, each left out of what it is asked:
# - a map with a binary key cannot be read (Python does not hash a writable memoryview);
# - an array has one descriptor: a second one is read as an element;
# - a descriptor that is itself described is refused;
# - after a description of a description, its Python layer loses its place in the list or map around it;
# - an empty array without a constructor is refused, as the specification has it; we take it;
# - in a Message: the footer does not show, times are floats of seconds (and cut, not rounded), texts of the
#   properties end at a NUL, and what is the default is not sent.

PROTON_ARRAY = {
    "null": proton.Data.NULL, "boolean": proton.Data.BOOL, "ubyte": proton.Data.UBYTE, "ushort": proton.Data.USHORT,
    "uint": proton.Data.UINT, "ulong": proton.Data.ULONG, "byte": proton.Data.BYTE, "short": proton.Data.SHORT,
    "int": proton.Data.INT, "long": proton.Data.LONG, "float": proton.Data.FLOAT, "double": proton.Data.DOUBLE,
    "decimal32": proton.Data.DECIMAL32, "decimal64": proton.Data.DECIMAL64, "decimal128": proton.Data.DECIMAL128,
    "char": proton.Data.CHAR, "timestamp": proton.Data.TIMESTAMP, "uuid": proton.Data.UUID,
    "binary": proton.Data.BINARY, "string": proton.Data.STRING, "symbol": proton.Data.SYMBOL,
    "list": proton.Data.LIST, "map": proton.Data.MAP, "array": proton.Data.ARRAY,
}  # fmt: skip
PROTON_TYPES: dict[type, Any] = {
    UByte: proton.ubyte,
    UShort: proton.ushort,
    UInt: proton.uint,
    ULong: proton.ulong,
    Byte: proton.byte,
    Short: proton.short,
    Int: proton.int32,
    Float32: proton.float32,
    Char: proton.char,
    Timestamp: proton.timestamp,
    Symbol: proton.symbol,
}


def to_proton(value: Any) -> Any:
    if isinstance(value, Array):
        descriptor = to_proton(value.descriptors[0]) if value.descriptors else proton.UNDESCRIBED
        return proton.Array(descriptor, PROTON_ARRAY[value.type_name], *map(to_proton, value))
    if isinstance(value, list):
        return [to_proton(item) for item in value]
    if isinstance(value, dict):
        return {to_proton(key): to_proton(item) for key, item in value.items()}
    if isinstance(value, Described):
        return proton.Described(to_proton(value.descriptor), to_proton(value.value))
    if isinstance(value, Decimal32):
        return proton.decimal32(int.from_bytes(value, "big"))
    if isinstance(value, Decimal64):
        return proton.decimal64(int.from_bytes(value, "big"))
    if isinstance(value, Decimal128):
        return proton.decimal128(bytes(value))
    make = PROTON_TYPES.get(type(value))
    return make(value) if make else value


NAMES_OF_PROTON = {code: name for name, code in PROTON_ARRAY.items()}
FROM_PROTON = {theirs: ours for ours, theirs in PROTON_TYPES.items()}


def from_proton(value: Any) -> Any:
    if isinstance(value, proton.Array):
        descriptors = () if value.descriptor is proton.UNDESCRIBED else (from_proton(value.descriptor),)
        return Array(map(from_proton, value.elements), NAMES_OF_PROTON[value.type], descriptors=descriptors)
    if isinstance(value, list):
        return [from_proton(item) for item in value]
    if isinstance(value, dict):
        return {from_proton(key): from_proton(item) for key, item in value.items()}
    if isinstance(value, proton.Described):
        return Described(from_proton(value.descriptor), from_proton(value.value))
    if isinstance(value, proton.decimal32):
        return Decimal32(int(value).to_bytes(4, "big"))
    if isinstance(value, proton.decimal64):
        return Decimal64(int(value).to_bytes(8, "big"))
    if isinstance(value, proton.decimal128):
        return Decimal128(bytes(value))
    if isinstance(value, memoryview):
        return bytes(value)
    ours = FROM_PROTON.get(type(value))
    return ours(value) if ours else value


def proton_decoded(data: bytes) -> Any:
    reader = proton.Data()
    assert reader.decode(data) == len(data)
    reader.rewind()
    assert reader.next()
    return from_proton(reader.get_object())


def proton_encoded(value: Any) -> bytes:
    writer = proton.Data()
    writer.put_object(to_proton(value))
    return bytes(writer.encode())


def proton_takes(value: Any) -> bool:
    if isinstance(value, Array):
        return len(value.descriptors) < 2 and all(map(proton_takes, [*value.descriptors, *value]))
    if isinstance(value, list):
        return all(map(proton_takes, value))
    if isinstance(value, dict):
        return bytes not in map(type, value) and all(map(proton_takes, value.values()))
    if isinstance(value, Described):
        return not isinstance(value.value, Described) and proton_takes(value.value)
    return not isinstance(value, AmqpMap)  # as objects; see proton_put


@pytest.mark.parametrize(("given_hex", "value"), [(hexed, value) for hexed, value, _ in VECTORS])
def test_proton_reads_the_vectors_alike(given_hex: str, value: Any) -> None:
    described_twice = isinstance(value, Described) and isinstance(value.descriptor, Described)
    if not proton_takes(value) or described_twice or given_hex == "e00100":
        pytest.skip("one of proton's limits")
    assert exact(proton_decoded(bytes.fromhex(given_hex))) == exact(value)


@MANY
@given(VALUES.filter(proton_takes))
def test_proton_reads_what_we_write(value: Any) -> None:
    assert exact(proton_decoded(encode_value(value))) == exact(value)


@MANY
@given(VALUES.filter(proton_takes))
def test_we_read_what_proton_writes(value: Any) -> None:
    assert exact(decode_value(proton_encoded(value))[0]) == exact(value)


def proton_put(writer: Any, value: Any) -> None:
    """Pair by pair where it is a map: proton's Python objects for maps are dicts."""
    if isinstance(value, AmqpMap):
        writer.put_map()
        writer.enter()
        for pair in value.items():
            for part in pair:
                proton_put(writer, part)
        writer.exit()
    else:
        writer.put_object(to_proton(value))


def proton_get(reader: Any) -> Any:
    """Every map as an AmqpMap, but for those inside other values."""
    if reader.type() != proton.Data.MAP:
        return from_proton(reader.get_object())
    reader.enter()
    parts = []
    while reader.next():
        parts.append(proton_get(reader))
    reader.exit()
    return AmqpMap(zip(parts[::2], parts[1::2], strict=True))


def as_proton_gets(value: Any) -> Any:
    if isinstance(value, dict | AmqpMap):
        return AmqpMap((as_proton_gets(key), as_proton_gets(item)) for key, item in value.items())
    return value


def check_typed_map_with_proton(value: AmqpMap) -> None:
    writer = proton.Data()
    proton_put(writer, value)
    assert exact(decode_value(bytes(writer.encode()))[0]) == exact(value)
    reader = proton.Data()
    data = encode_value(value)
    assert reader.decode(data) == len(data)
    reader.rewind()
    assert reader.next()
    assert exact(proton_get(reader)) == exact(as_proton_gets(value))


@pytest.mark.parametrize(("hexed", "pairs"), TYPED_MAPS)
def test_proton_keeps_maps_whose_keys_differ_by_type(hexed: str, pairs: list[tuple[Any, Any]]) -> None:
    check_typed_map_with_proton(AmqpMap(pairs))


@MANY
@given(st.lists(st.sampled_from(LIKE_KEYS), max_size=6, unique_by=encode_value))
def test_proton_keeps_all_keys(keys: list[Any]) -> None:
    value = map_of([(key, at) for at, key in enumerate(keys)])
    if isinstance(value, AmqpMap):
        check_typed_map_with_proton(value)


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
PROTON_FIELDS = {"message_id": "id", "to": "address", "absolute_expiry_time": "expiry_time"}
PROTON_DEFAULTS = {"durable": False, "priority": 4, "ttl": 0, "first_acquirer": False, "delivery_count": 0}
PROTON_VALUES = VALUES.filter(proton_takes)
PROTON_ANNOTATIONS = st.dictionaries(st.one_of(SYMBOLS, ranged(ULong)), PROTON_VALUES, max_size=3)


@MANY
@given(
    REFEREED_HEADERS,
    REFEREED_PROPERTIES,
    PROTON_ANNOTATIONS,
    PROTON_ANNOTATIONS,
    st.dictionaries(TEXT, PROTON_VALUES, max_size=3),
    st.one_of(st.binary(max_size=300), st.lists(PROTON_VALUES, max_size=3), PROTON_VALUES.map(lambda v: (v,))),
)
def test_proton_agrees_on_messages(
    header: dict[str, Any],
    properties: dict[str, Any],
    delivery: dict[Any, Any],
    annotations: dict[Any, Any],
    application: dict[str, Any],
    body: Any,
) -> None:
    ours = AMQPMessage(
        body if isinstance(body, bytes) else None,
        header=Header(**header),
        properties=Properties(**properties),
        delivery_annotations=delivery,
        message_annotations=annotations,
        application_properties=application,
        footer={"f": 1},
    )
    if isinstance(body, list):
        ours.sequence = body
    elif isinstance(body, tuple):
        (ours.value,) = body

    # what we write, proton reads
    theirs = proton.Message()
    theirs.decode(bytes(ours))
    for name, value in header.items():
        found = getattr(theirs, name)
        assert (round(found * 1000) if name == "ttl" else found) == value
    for name, value in properties.items():
        found = getattr(theirs, PROTON_FIELDS.get(name, name))
        if name.endswith("_time"):
            found = round(found * 1000)
        assert from_proton(found) == value, name
    assert exact(from_proton(dict(theirs.instructions or {}))) == exact(delivery)
    assert exact(from_proton(dict(theirs.annotations or {}))) == exact(annotations)
    assert exact(from_proton(theirs.properties or {})) == exact(application)
    assert theirs.inferred == (not isinstance(body, tuple))
    assert exact(from_proton(theirs.body)) == exact(body[0] if isinstance(body, tuple) else body)

    # what proton writes, we read
    theirs = proton.Message(inferred=not isinstance(body, tuple))
    theirs.body = to_proton(body[0] if isinstance(body, tuple) else body)
    for name, value in header.items():
        setattr(theirs, name, (value + 0.5) / 1000 if name == "ttl" else value)
    for name, value in properties.items():
        in_seconds = (value + 0.5) / 1000 if name.endswith("_time") else value
        if isinstance(value, int) and name.endswith("_id"):
            in_seconds = proton.ulong(value)  # plain, it would be sent as a long
        setattr(theirs, PROTON_FIELDS.get(name, name), in_seconds)
    theirs.instructions, theirs.annotations = to_proton(delivery), to_proton(annotations)
    theirs.properties = to_proton(application)
    read = amqp_decoder(bytes(theirs.encode()))
    for name, value in header.items():  # proton leaves out what is the default
        found = getattr(read.header or Header(), name)
        assert value == (PROTON_DEFAULTS[name] if found is None else found), name
    for name, value in properties.items():
        assert getattr(read.properties, name) == value, name
    assert exact(read.delivery_annotations or {}) == exact(delivery)
    assert exact(read.message_annotations or {}) == exact(annotations)
    assert exact(read.application_properties or {}) == exact(application)
    assert exact(read.value if isinstance(body, tuple) else read.body if read.body is not None else read.sequence) == (
        exact(body[0] if isinstance(body, tuple) else body)
    )


# --- the second referee: uamqp -------------------------------------------------------------------------
#
# It gives bytes for strings and symbols and the value alone of what is described, and one Python int for all
# integer types, so types show only in what it writes. Its limits:
# - it reads no char and no decimal; strings, symbols end at a NUL;
# - it writes sequences, but reads a message with one as having no body (``to_uamqp`` refuses);
# - it misreads arrays that are empty, described, or of elements without bytes;
# - an empty list or null as the whole value shows as None;
# - a header's false shows as None, and now and then as True;
# - it cannot encode the user id of a message it has received, and sends a message id that is an int as an int;
#   ``from_uamqp`` mends both.

uamqp = pytest.importorskip("uamqp")
pytest.importorskip("uamqp.types")


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
