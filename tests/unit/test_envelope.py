"""The JSON envelope: what it looks like, and what it refuses."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from rstream_cli.parsing import parse_header
from rstream_cli.records.envelope import batch_to_json, body_bytes, from_json, iso_time, to_json
from rstream_cli.records.tagged_values import EnvelopeError, parse_value, value_from_json, value_to_json
from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp import AMQPMessage, Header, Properties
from rstream_core.protocol.amqp_codec import AmqpMap
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

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
NAN_WITH_BITS = struct.unpack(">d", bytes.fromhex("7ff8000000000007"))[0]

VALUES: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (False, "false"),
    (5, "5"),
    (-(2**63), "-9223372036854775808"),
    (2**63 - 1, "9223372036854775807"),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (1e300, "1e300"),
    (1e19, "1e19"),
    (-1e19, "-1e19"),
    (0.1, "0.1"),
    (math.inf, '{"$double":"inf"}'),
    (-math.inf, '{"$double":"-inf"}'),
    (math.nan, '{"$double":"nan"}'),
    (NAN_WITH_BITS, '{"$double":"0x7ff8000000000007"}'),
    ("", '""'),
    ("é\0\U0001f600", '"é\\u0000\U0001f600"'),
    ("$ulong", '"$ulong"'),
    (b"\0\xff", '{"$binary":"AP8="}'),
    (UByte(255), '{"$ubyte":255}'),
    (UShort(5), '{"$ushort":5}'),
    (UInt(5), '{"$uint":5}'),
    (ULong(2**64 - 1), '{"$ulong":18446744073709551615}'),
    (Byte(-5), '{"$byte":-5}'),
    (Short(-5), '{"$short":-5}'),
    (Int(-5), '{"$int":-5}'),
    (Timestamp(-1), '{"$timestamp":-1}'),
    (Float32(0.1), '{"$float":0.10000000149011612}'),
    (Float32(math.inf), '{"$float":"inf"}'),
    (Float32(math.nan), '{"$float":"nan"}'),
    (Char("é"), '{"$char":"é"}'),
    (Symbol("a:b"), '{"$symbol":"a:b"}'),
    (Decimal32(b"\1\2\3\4"), '{"$decimal32":"01020304"}'),
    (Decimal64(bytes(8)), '{"$decimal64":"0000000000000000"}'),
    (Decimal128(bytes(16)), '{"$decimal128":"00000000000000000000000000000000"}'),
    (UUID, f'{{"$uuid":"{UUID}"}}'),
    ([], "[]"),
    ([1, [None, Symbol("x")]], '[1,[null,{"$symbol":"x"}]]'),
    ({}, "{}"),
    ({"a": 1, "$b": UInt(2)}, '{"a":1,"$b":{"$uint":2}}'),
    ({"$a": 1}, '{"$map":[["$a",1]]}'),
    ({"$ulong": 1}, '{"$map":[["$ulong",1]]}'),
    ({"a": {"$map": []}}, '{"a":{"$map":[["$map",[]]]}}'),
    ({1: "x", "1": "y"}, '{"$map":[[1,"x"],["1","y"]]}'),
    ({Symbol("s"): None}, '{"$map":[[{"$symbol":"s"},null]]}'),
    ({None: True}, '{"$map":[[null,true]]}'),
    (AmqpMap([(1, "x"), (True, "y"), (Int(1), "z")]), '{"$map":[[1,"x"],[true,"y"],[{"$int":1},"z"]]}'),
    (AmqpMap([("a", 1), (Symbol("a"), 2)]), '{"$map":[["a",1],[{"$symbol":"a"},2]]}'),
    (AmqpMap([(0.0, 1), (-0.0, 2), (0, 3)]), '{"$map":[[0.0,1],[-0.0,2],[0,3]]}'),
    (AmqpMap([([1], 1), ({"a": 2}, {})]), '{"$map":[[[1],1],[{"a":2},{}]]}'),
    (AmqpMap([({"$map": []}, 1)]), '{"$map":[[{"$map":[["$map",[]]]},1]]}'),
    (Array([AmqpMap([(1, 2), (True, 3)])], "map"), '{"$array":{"type":"map","items":[[[1,2],[true,3]]]}}'),
    (Array([UInt(1), UInt(2)], "uint"), '{"$array":{"type":"uint","items":[1,2]}}'),
    (Array([], "string"), '{"$array":{"type":"string","items":[]}}'),
    (Array([b"\0"], "binary"), '{"$array":{"type":"binary","items":["AA=="]}}'),
    (Array([{1: 2}], "map"), '{"$array":{"type":"map","items":[[[1,2]]]}}'),
    (Array([math.nan, 5.0], "double"), '{"$array":{"type":"double","items":["nan",5.0]}}'),
    (
        Array([Array([Int(1)], "int")], "array"),
        '{"$array":{"type":"array","items":[{"type":"int","items":[1]}]}}',
    ),
    (
        Array([1], "long", descriptors=[Symbol("d")]),
        '{"$array":{"type":"long","items":[1],"descriptors":[{"$symbol":"d"}]}}',
    ),
    (Described(ULong(1), ["x"]), '{"$described":[{"$ulong":1},["x"]]}'),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[text for _, text in VALUES])
def test_value_both_ways(value: Any, text: str) -> None:
    line = to_json(AMQPMessage(value=value))
    shown = line.decode().replace("e+", "e")  # versions of orjson differ
    assert shown == f'{{"properties":{{}},"headers":{{}},"annotations":{{}},"value":{text}}}'
    message = AMQPMessage(value=value)
    decoded = AMQPMessage.from_bytes(message.encode())
    assert to_json(decoded) == line
    assert from_json(line).message.encode() == message.encode()
    assert type(from_json(line).message.value) is type(decoded.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"$long":5}', 5),
        ('{"$string":"x"}', "x"),
        ('{"$boolean":true}', True),
        ('{"$null":null}', None),
        ('{"$list":[1]}', [1]),
        ('{"$map":[["a",1]]}', {"a": 1}),
        ('{"$double":5}', 5.0),
        ('{"$double":18446744073709551616}', 2.0**64),
        ("18446744073709551615", ULong(2**64 - 1)),
        ("9223372036854775808", ULong(2**63)),
        ("[1e300, 18446744073709551615]", [1e300, ULong(2**64 - 1)]),
        ("-0", 0),
    ],
)
def test_other_ways_to_write_a_value(text: str, value: object) -> None:
    loaded = parse_value(text)
    assert loaded == value
    assert type(loaded) is type(value)


def test_python_values_that_a_program_may_give() -> None:
    when = dt.datetime(2026, 8, 21, 10, tzinfo=dt.UTC)
    assert value_to_json((1, bytearray(b"a"), when)) == [1, {"$binary": "YQ=="}, {"$timestamp": 1_787_306_400_000}]
    assert value_to_json(2**63) == {"$ulong": 2**63}
    for bad in (2**64, -(2**63) - 1, object(), {1, 2}):
        with pytest.raises(EnvelopeError):
            value_to_json(bad)


def test_the_contract() -> None:
    message = AMQPMessage(b"hello", properties=Properties(subject="eu"), application_properties={"n": 5})
    line = to_json(message, stream="s", offset=41, timestamp_ms=1_787_306_400_123)
    assert line.decode() == (
        '{"stream":"s","offset":41,"timestamp":"2026-08-21T10:00:00.123Z","properties":{"subject":"eu"},'
        '"headers":{"n":5},"annotations":{},"body":"hello"}'
    )


def test_every_section_both_ways() -> None:
    message = AMQPMessage(
        b"\xff",
        header=Header(durable=True, priority=5, ttl=1000, first_acquirer=False, delivery_count=0),
        delivery_annotations={"d": 1},
        message_annotations={"x-a": UInt(1), "y": "z"},
        properties=Properties(
            message_id=UUID,
            user_id=b"\xfe",
            to="to",
            subject="subject",
            reply_to="reply",
            correlation_id=b"\0",
            content_type="text/plain",
            content_encoding="gzip",
            absolute_expiry_time=1,
            creation_time=2,
            group_id="group",
            group_sequence=3,
            reply_to_group_id="rg",
        ),
        application_properties={"$only": 1},
        footer={"f": b"crc"},
    )
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    document = json.loads(line)
    assert document == {
        "properties": {
            "message_id": {"$uuid": str(UUID)},
            "user_id": {"$binary": "/g=="},
            "to": "to",
            "subject": "subject",
            "reply_to": "reply",
            "correlation_id": {"$binary": "AA=="},
            "content_type": "text/plain",
            "content_encoding": "gzip",
            "absolute_expiry_time": 1,
            "creation_time": 2,
            "group_id": "group",
            "group_sequence": 3,
            "reply_to_group_id": "rg",
        },
        "headers": {"$map": [["$only", 1]]},
        "annotations": {"x-a": {"$uint": 1}, "y": "z"},
        "header": {"durable": True, "priority": 5, "ttl": 1000, "first_acquirer": False, "delivery_count": 0},
        "delivery_annotations": {"d": 1},
        "body_base64": "/w==",
        "footer": {"f": {"$binary": "Y3Jj"}},
    }
    assert from_json(line).message.encode() == message.encode()


@pytest.mark.parametrize(
    ("message_id", "shown"),
    [
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        ("7", "7"),
        (b"7", {"$binary": "Nw=="}),
        (UUID, {"$uuid": str(UUID)}),
        (Int(7), {"$int": 7}),
        (UInt(7), {"$uint": 7}),
    ],
)
def test_message_id(message_id: Any, shown: Any) -> None:
    message = AMQPMessage(b"", properties=Properties(message_id=message_id, correlation_id=message_id))
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    assert json.loads(line)["properties"] == {"message_id": shown, "correlation_id": shown}
    assert from_json(line).message.encode() == message.encode()


def test_fields_may_carry_their_tag() -> None:
    line = '{"properties":{"creation_time":{"$timestamp":5},"user_id":{"$binary":"YQ=="},"to":null}}'
    assert from_json(line).message.properties == Properties(creation_time=5, user_id=b"a")


def test_annotation_keys_are_symbols_or_ulongs() -> None:
    message = AMQPMessage(b"", message_annotations={Symbol("a"): 1, ULong(5): 2})
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    assert json.loads(line)["annotations"] == {"$map": [["a", 1], [{"$ulong": 5}, 2]]}
    loaded = from_json(line).message
    assert loaded.encode() == message.encode()
    assert loaded.message_annotations is not None
    assert [type(key) for key in loaded.message_annotations] == [Symbol, ULong]


def test_keys_of_sections_that_differ_by_their_types() -> None:
    keys = [("a", 1), (Symbol("a"), 2), (ULong(1), 3), (Int(1), 4), (1, 5)]
    message = AMQPMessage(b"", message_annotations=AmqpMap(keys), application_properties=AmqpMap(keys[:2]))
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    document = json.loads(line)
    assert document["headers"] == {"$map": [["a", 1], [{"$symbol": "a"}, 2]]}
    assert document["annotations"] == {
        "$map": [[{"$string": "a"}, 1], ["a", 2], [{"$ulong": 1}, 3], [{"$int": 1}, 4], [1, 5]]
    }
    assert from_json(line).message.encode() == message.encode()


def test_a_body_of_several_sections_keeps_them_beside_others() -> None:
    data = b"\0Su\xa0\1a\0Su\xa0\1b"
    message = AMQPMessage.from_bytes(data)
    message.application_properties = {"n": 1}
    message.footer = {"f": 1}
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    assert json.loads(line)["body_sections"] == ["a", "b"]
    assert from_json(line).message.encode() == message.encode()
    assert from_json(line).message.body == b"ab"


@pytest.mark.parametrize(
    ("message", "key", "shown"),
    [
        (AMQPMessage(b""), "body", ""),
        (AMQPMessage.from_bytes(b"\0Su\xa0\1a\0Su\xa0\1\xff"), "body_sections", ["a", {"$binary": "/w=="}]),
        (AMQPMessage.from_bytes(b"\0Su\xa0\0\0Su\xa0\0"), "body_sections", ["", ""]),
        (AMQPMessage.from_bytes(b"\0SvE\0SvE"), "sequence_sections", [[], []]),
        (AMQPMessage.from_bytes(b"\0Sv\xc0\2\1\x43\0SvE"), "sequence_sections", [[{"$uint": 0}], []]),
        (AMQPMessage(b"\xc3\xa9"), "body", "é"),
        (AMQPMessage(b"\xc3"), "body_base64", "ww=="),
        (AMQPMessage(value=None), "value", None),
        (AMQPMessage(value="x"), "value", "x"),
        (AMQPMessage(sequence=[1, "a"]), "sequence", [1, "a"]),
        (AMQPMessage(sequence=[]), "sequence", []),
        (AMQPMessage.from_bytes(b""), "body", None),
    ],
)
def test_bodies(message: AMQPMessage, key: str, shown: object) -> None:
    line = to_json(AMQPMessage.from_bytes(message.encode()))
    document = json.loads(line)
    assert document[key] == shown
    bodies = {"body", "body_base64", "body_sections", "value", "sequence", "sequence_sections"}
    assert bodies & document.keys() == {key}
    assert from_json(line).message.encode() == message.encode()


def test_no_body_with_sections() -> None:
    line = b'{"headers":{"n":1},"body":null}'
    message = AMQPMessage.from_bytes(from_json(line).message.encode())
    assert message.body_type is None
    assert message.application_properties == {"n": 1}


def test_what_is_left_out() -> None:
    assert from_json("{}").message.encode() == AMQPMessage(b"").encode()
    envelope = from_json('{"body":"x","properties":{},"headers":{},"annotations":null,"header":{}}')
    assert envelope.message.encode() == AMQPMessage(b"x").encode()
    assert envelope.filter_value is None


def test_ignored_keys_and_the_filter() -> None:
    line = '{"stream":5,"offset":"x","timestamp":null,"failed":{"why":1},"filter":"eu","body":"b"}'
    envelope = from_json(line)
    assert envelope.message.encode() == AMQPMessage(b"b").encode()
    assert envelope.filter_value == "eu"
    assert envelope.document["failed"] == {"why": 1}


def test_a_failed_message_goes_back_in() -> None:
    line = to_json(AMQPMessage(b"b"), stream="s", filter_value="eu", failed="not confirmed")
    assert json.loads(line)["failed"] == "not confirmed"
    envelope = from_json(line)
    assert (envelope.message.body, envelope.filter_value) == (b"b", "eu")


ERRORS = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ('{"body":NaN}', "not JSON"),
    ('{"body":"\\ud800"}', "not JSON: .* surrogate"),
    ("[]", "an envelope is an object.*, not a list"),
    ("5", "not a number"),
    ('{"bdoy":"x"}', 'unknown key "bdoy"; allowed: body'),
    ('{"body":5}', '"body" must be a string, not a number'),
    ('{"body":{}}', '"body" must be a string, not an object'),
    ('{"body":"a","value":"b"}', "one body"),
    ('{"body_base64":"a"}', '"body_base64": not base64'),
    ('{"body_base64":"YQ"}', '"body_base64": not base64'),
    ('{"body_base64":"é"}', '"body_base64": not base64'),
    ('{"body_base64":5}', '"body_base64": must be a string, not a number'),
    ('{"sequence":{}}', '"sequence": must be a list, not an object'),
    ('{"headers":[]}', '"headers".* must be an object, not a list'),
    ('{"headers":[1]}', '"headers".* must be an object, not a list'),
    ('{"headers":{"$ulong":5}}', '"headers".* object'),
    ('{"headers":{"$map":[[5,1]]}}', '"headers": keys are strings'),
    ('{"annotations":{"é":1}}', '"annotations": keys are ASCII'),
    ('{"annotations":{"$map":[[-1,1]]}}', "strings or ulongs"),
    ('{"properties":{"colour":1}}', '"properties": unknown field "colour"; allowed: message_id'),
    ('{"properties":{"subject":5}}', '"properties": subject: must be a string, not a number'),
    ('{"properties":{"message_id":-1}}', "message_id: -1 does not fit ULong"),
    ('{"properties":{"message_id":18446744073709551616}}', "message_id: must be a whole number of 64 bits"),
    ('{"properties":{"message_id":true}}', "message_id: must be a string"),
    ('{"properties":{"content_type":"é"}}', "content_type: .*ASCII"),
    ('{"properties":{"user_id":5}}', "user_id"),
    ('{"properties":{"user_id":{"$uint":5}}}', "user_id"),
    ('{"properties":{"group_sequence":4294967296}}', "group_sequence: 4294967296 does not fit UInt"),
    ('{"header":{"priority":256}}', '"header": priority: 256 does not fit UByte'),
    ('{"header":{"durable":1}}', '"header": durable: must be true or false, not a number'),
    ('{"value":18446744073709551616}', "18446744073709551616 does not fit 64 bits"),
    ('{"value":-9223372036854775809}', "-9223372036854775809 does not fit 64 bits"),
    ('{"value":{"$nope":1}}', 'unknown type "\\$nope"'),
    ('{"value":{"$uint":-1}}', r"\$uint: -1 does not fit"),
    ('{"value":{"$uint":1.5}}', r"\$uint: must be a whole number"),
    ('{"value":{"$uint":true}}', r"\$uint: must be a whole number, not true or false"),
    ('{"value":{"$long":9223372036854775808}}', r"\$long: 9223372036854775808 does not fit a long"),
    ('{"value":{"$float":1e300}}', r"\$float: .* does not fit"),
    ('{"value":{"$float":"big"}}', r"\$float"),
    ('{"value":{"$double":"0x00"}}', r"\$double: .*16 hex digits"),
    ('{"value":{"$double":"7ff8000000000007"}}', r"\$double"),
    ('{"value":{"$uuid":"x"}}', r"\$uuid: not a uuid"),
    ('{"value":{"$char":"ab"}}', r"\$char"),
    ('{"value":{"$symbol":"é"}}', r"\$symbol"),
    ('{"value":{"$binary":"*"}}', r"\$binary: not base64"),
    ('{"value":{"$decimal64":"00"}}', r"\$decimal64: needs 16 hex digits"),
    ('{"value":{"$map":{}}}', r"\$map: must be a list of pairs"),
    ('{"value":{"$map":[[1]]}}', r"\$map: must be a list of pairs"),
    ('{"value":{"$map":[[1,2],[1,3]]}}', r"\$map: two keys of a map are equal: 1"),
    ('{"value":{"$map":[[[],2],[{"$list":[]},3]]}}', r"\$map: two keys of a map are equal"),
    ('{"annotations":{"$map":[["a",1],[{"$symbol":"a"},2]]}}', r'"annotations": \$map: two keys of a map are equal'),
    ('{"annotations":{"$map":[["é",1]]}}', r'"annotations": \$map: keys are ASCII'),
    ('{"annotations":{"$map":[[true,1],[1,2]]}}', '"annotations": keys are strings or ulongs'),
    ('{"headers":{"$map":[[true,1],[1,2]]}}', '"headers": keys are strings'),
    ('{"body_sections":[]}', '"body_sections": needs at least one section'),
    ('{"body_sections":"x"}', '"body_sections": must be a list of sections'),
    ('{"body_sections":[5]}', '"body_sections": must be a string or'),
    ('{"sequence_sections":[5]}', '"sequence_sections": must be a list'),
    ('{"body":"x","body_sections":["x"]}', 'both "body" and "body_sections"'),
    ('{"value":{"$array":[1]}}', r"\$array: must be an object"),
    ('{"value":{"$array":{"type":"uint"}}}', r'\$array: needs "type" and "items"'),
    ('{"value":{"$array":{"type":"u","items":[]}}}', r'\$array: "type" must be the name of a type, not "u"'),
    ('{"value":{"$array":{"type":[],"items":[]}}}', r'\$array: "type" must be'),
    ('{"value":{"$array":{"type":"described","items":[]}}}', r'\$array: "type" must be'),
    ('{"value":{"$array":{"type":"uint","items":["a"]}}}', r"\$array: must be a whole number, not a string"),
    ('{"value":{"$described":[1]}}', r"\$described: must be a pair"),
    ('{"filter":5}', '"filter" must be a string'),
    ('{"value":' + "[" * 1000 + "]" * 1000 + "}", "nested too deeply"),
    ('{"value":' + "[" * 5000 + "]" * 5000 + "}", "not JSON"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line[:60] for line, _ in ERRORS])
def test_errors_say_what_is_wrong(line: str, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message) as caught:
        from_json(line)
    assert "\n" not in str(caught.value)


def test_lines_that_are_not_utf8() -> None:
    with pytest.raises(EnvelopeError, match="not JSON"):
        from_json(b'{"body":"\xff"}')


def test_long_input_is_not_quoted_whole() -> None:
    with pytest.raises(EnvelopeError) as caught:
        from_json('{"' + "x" * 10_000 + '":1}')
    assert len(str(caught.value)) < 300


def test_malformed_messages_raise_the_cores_error() -> None:
    with pytest.raises(AmqpError):
        to_json(AMQPMessage.from_bytes(b"hello"))


def test_lone_surrogates_do_not_go_out() -> None:
    with pytest.raises(EnvelopeError, match="surrogates"):
        to_json(AMQPMessage(value="\ud800"))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_787_306_400_123, "2026-08-21T10:00:00.123Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (2**62, "4611686018427387904"),
    ],
)
def test_iso_time(ms: int, text: str) -> None:
    assert iso_time(ms) == text


@pytest.mark.parametrize("raw", [False, True])
def test_a_batch_is_the_same_as_one_by_one(raw: bool) -> None:
    bodies = [b"plain", b"", b"\xff", "é".encode(), b'"\\\n\0', b"x" * 300]
    messages = [AMQPMessage(body) for body in bodies]
    if not raw:
        messages += [
            AMQPMessage(value="v"),
            AMQPMessage(b"x", application_properties={"n": 1}),
            AMQPMessage(sequence=[]),
            AMQPMessage.from_bytes(b""),
            AMQPMessage.from_bytes(b"\0\x53\x75\xb0\0\0\0\1x"),  # the long form of a short body
        ]
    records = bodies if raw else [message.encode() for message in messages]
    assert batch_to_json(records, stream='a"b', offsets=range(7, 99)[: len(records)], timestamp_ms=5, raw=raw) == [
        to_json(message, stream='a"b', offset=7 + index, timestamp_ms=5) for index, message in enumerate(messages)
    ]


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (AMQPMessage(b"\xff"), b"\xff"),
        (AMQPMessage(value="é"), b"\xc3\xa9"),
        (AMQPMessage(value=b"\xff"), b"\xff"),
        (AMQPMessage(value=UInt(5)), b'{"$uint":5}'),
        (AMQPMessage(value=None), b"null"),
        (AMQPMessage(sequence=[1, "a"]), b'[1,"a"]'),
        (AMQPMessage.from_bytes(b""), b""),
        (AMQPMessage.from_bytes(b"\0Su\xa0\1a\0Su\xa0\1b"), b"ab"),
        (AMQPMessage.from_bytes(b"\0Sv\xc0\2\1\x41\0SvE"), b"[true]"),
    ],
)
def test_body_bytes(message: AMQPMessage, body: bytes) -> None:
    assert body_bytes(AMQPMessage.from_bytes(message.encode())) == body


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("n:=5", ("n", 5)),
        ("n:=5.0", ("n", 5.0)),
        ("ok:=true", ("ok", True)),
        ('n:={"$ulong":5}', ("n", ULong(5))),
        ('s:="a=b"', ("s", "a=b")),
        ("s=5", ("s", "5")),
    ],
)
def test_typed_header(text: str, pair: tuple[str, object]) -> None:
    key, value = parse_header(text)
    assert (key, value) == pair
    assert type(value) is type(pair[1])


@pytest.mark.parametrize("text", ["n:=", "n:=x", 'n:={"$x":1}', ":=5"])
def test_bad_typed_header(text: str) -> None:
    with pytest.raises(ValueError, match=r"value of n:=|key is empty"):
        parse_header(text)


def test_the_guide_shows_tags_that_are_read() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text()
    tags = [tag for tag in re.findall(r'`(\{"\$[^`]*\})`', text) if "…" not in tag]
    assert len(tags) > 10
    for tag in tags:
        value_from_json(json.loads(tag))
    shown = re.search(r"```json\n(.*?)\n```", text)
    assert shown is not None
    assert from_json(shown[1]).message.body == b"hello"
    for key in (
        "properties",
        "headers",
        "annotations",
        "footer",
        "filter",
        "failed",
        "sequence",
        "body_sections",
        "sequence_sections",
    ):
        assert f"`{key}`" in text
