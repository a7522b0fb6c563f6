"""Records in and out against simple models, for any input cut into any blocks."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.parsing import parse_delimiter
from rstream_cli.records.body_envelopes import bodies_from_json
from rstream_cli.records.envelope import batch_to_json, from_json, plain_to_json, to_json
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordError, RecordReader, WholeReader
from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer
from rstream_cli.records.paths import extract, format_path, parse_path
from rstream_cli.records.tagged_values import parse_value
from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, encode_bodies
from rstream_core.protocol.amqp_codec import AmqpMap, encode_value, map_of
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.amqp_types import (
    TYPE_NAMES,
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
from rstream_core.protocol.wire import join_plain, plain_messages
from tests.twins import COMPILED, each_twin

__all__ = ["each_twin"]  # a fixture

# --- framing ------------------------------------------------------------------------------------------------


@st.composite
def _cuts(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """Some bytes, and the same bytes in blocks; some of those are empty."""
    whole = draw(data)
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *at, len(whole)]
    return whole, [whole[start:end] for start, end in pairwise(edges)]


# Few letters, so that delimiters, and parts of them, are everywhere.
_TEXTS = st.lists(st.sampled_from([b"a", b"b", b"\r", b"\n", b"\r\n", b"ab", b"aab"]), max_size=30).map(b"".join)
_DELIMITERS = st.sampled_from([b"\n", b"\r\n", b"a", b"aa", b"ab", b"aab", b"aba", b"abab"])


def _read(reader: RecordReader, blocks: list[bytes]) -> tuple[list[bytes], list[int]]:
    """The good records, and the numbers of the bad ones."""
    good: list[bytes] = []
    bad: list[int] = []

    def take(first: Callable[[], list[bytes]], again: Callable[[], list[bytes]]) -> None:
        call = first
        while True:
            try:
                good.extend(call())
            except RecordError as error:
                good.extend(error.before)
                bad.append(error.number)
                call = again
            else:
                return

    for block in blocks:
        take(lambda block=block: reader.feed(block), lambda: reader.feed(b""))  # type: ignore[misc]
    take(reader.finish, reader.finish)
    return good, bad


@given(_cuts(_TEXTS), _DELIMITERS, st.booleans(), st.booleans(), st.integers(0, 6) | st.just(1000))
def test_delimited_records(
    cuts: tuple[bytes, list[bytes]], delimiter: bytes, skip_empty: bool, crlf: bool, max_record: int
) -> None:
    whole, blocks = cuts
    expected = whole.split(delimiter)
    if not expected[-1]:
        expected.pop()
    if crlf:
        expected = [record.removesuffix(b"\r") for record in expected]
    bad = [number for number, record in enumerate(expected, 1) if len(record) > max_record]
    good = [record for record in expected if len(record) <= max_record and (record or not skip_empty)]
    reader = DelimiterReader(delimiter, skip_empty=skip_empty, crlf=crlf, max_record=max_record)
    assert _read(reader, blocks) == (good, bad)
    assert reader.count == len(expected)


@given(st.lists(st.binary(max_size=20)), st.data(), st.integers(0, 20))
def test_len32_there_and_back(records: list[bytes], data: st.DataObject, max_record: int) -> None:
    _, blocks = data.draw(_cuts(st.just(Len32Writer().join(records))))
    good = [record for record in records if len(record) <= max_record]
    bad = [number for number, record in enumerate(records, 1) if len(record) > max_record]
    assert _read(Len32Reader(max_record=max_record), blocks) == (good, bad)


@given(st.lists(st.binary(max_size=20)), st.data(), st.integers(1, 23))
def test_len32_cut_off(records: list[bytes], data: st.DataObject, missing: int) -> None:
    whole = Len32Writer().join(records)[:-missing]
    _, blocks = data.draw(_cuts(st.just(whole)))
    complete: list[bytes] = []
    rest = whole
    while len(rest) >= 4 and len(rest) >= 4 + struct.unpack_from(">I", rest)[0]:
        size = 4 + struct.unpack_from(">I", rest)[0]
        complete.append(rest[4:size])
        rest = rest[size:]
    assert _read(Len32Reader(), blocks) == (complete, [len(complete) + 1] if rest else [])


@given(_cuts(st.binary()))
def test_whole(cuts: tuple[bytes, list[bytes]]) -> None:
    whole, blocks = cuts
    assert _read(WholeReader(), blocks) == ([whole], [])


@given(st.lists(st.binary()), st.sampled_from([b"\0", b"\n", b"--"]))
def test_delimited_there_and_back(records: list[bytes], delimiter: bytes) -> None:
    clean = [record.replace(delimiter[:1], b"") for record in records]
    assert _read(DelimiterReader(delimiter), [DelimiterWriter(delimiter).join(clean)]) == (clean, [])


_texts = st.text(max_size=20).map(lambda text: text.encode(errors="ignore"))


@given(st.lists(_texts | st.binary(max_size=9), min_size=1))
def test_envelopes_of_bodies_are_those_of_their_messages(bodies: list[bytes]) -> None:
    """Whether they are in their chunk, or a list, or encoded; and what is written is read again."""
    data, offsets = join_plain(bodies), range(7, 7 + len(bodies))
    settings: dict[str, Any] = {"stream": 's"', "offsets": offsets, "timestamp_ms": 1_700_000_000_123}
    expected = [
        to_json(AMQPMessage(body), stream='s"', offset=offset, timestamp_ms=1_700_000_000_123)
        for body, offset in zip(bodies, offsets, strict=True)
    ]
    assert batch_to_json(PlainMessages(bodies), **settings) == expected
    assert batch_to_json(encode_bodies(bodies), **settings) == expected
    assert batch_to_json(bodies, **settings, raw=True) == expected
    held = plain_messages(data, 0, len(data), len(bodies))
    assert held is not None
    assert plain_to_json(held, **settings) in {None, b"".join(line + b"\n" for line in expected)}
    assert plain_to_json(held, **{**settings, "offsets": list(offsets)}) is None
    are_texts = all(b'"body":' in line for line in expected)
    assert bodies_from_json(expected) == (bodies if are_texts else None)


_envelopes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "body": st.text(max_size=5) | st.none() | st.integers(),
        **dict.fromkeys(
            ("properties", "headers", "footer"), st.sampled_from([{}, None, [], 0, {"to": "x"}, "", False])
        ),
        **dict.fromkeys(("stream", "offset", "timestamp", "failed"), st.text(max_size=3) | st.integers(0, 2**70)),
        "filter": st.none() | st.text(max_size=3),
        "other": st.none(),
        "value": st.integers(0, 3),
    },
)


_others = st.sampled_from(["", " ", "[]", "1", '{"body":"\\ud800"}', '{"body":"a"} x'])


@given(st.lists(_envelopes.map(json.dumps) | _others, max_size=3))
def test_bodies_of_envelopes_are_those_of_their_messages(texts: list[str]) -> None:
    lines = [text.encode() for text in texts]
    found = bodies_from_json(lines)
    if found is not None:
        envelopes = [from_json(line) for line in lines]
        assert [envelope.message.encode() for envelope in envelopes] == encode_bodies(found)
        assert all(envelope.filter_value is None for envelope in envelopes)


@given(_cuts(st.text("ab\n").map(str.encode)), st.integers(0, 9), st.booleans(), st.data())
def test_records_are_the_same_where_they_stay_in_their_block(
    each_twin: str, cuts: tuple[bytes, list[bytes]], max_record: int, crlf: bool, data: st.DataObject
) -> None:
    """Whichever blocks are left as they are. A block that was not taken is fed as if nobody had asked."""
    _, blocks = cuts
    mixed, usual = (DelimiterReader(max_record=max_record, crlf=crlf) for _ in range(2))
    found: list[bytes] = []
    expected: list[bytes] = []
    for block in blocks:
        plain = mixed.feed_plain(block) if data.draw(st.booleans()) else None
        if plain is None:
            found += _fed(mixed, block)
        else:
            assert (each_twin, crlf) == (COMPILED, False)
            assert len(plain) == block.count(b"\n")
            found += plain.bodies
        expected += _fed(usual, block)
        assert (found, mixed.count) == (expected, usual.count)
    assert _fed(mixed, b"", last=True) == _fed(usual, b"", last=True)
    assert mixed.count == usual.count


def _fed(reader: DelimiterReader, block: bytes, *, last: bool = False) -> list[bytes]:
    """The records of a block, and the messages of the errors among them."""
    found: list[bytes] = []
    while True:
        try:
            return found + (reader.finish() if last else reader.feed(block))
        except RecordError as error:
            found += [*error.before, str(error).encode()]
            block = b""


@given(st.lists(st.text("ab").map(str.encode)), st.text("ab", min_size=1, max_size=5).map(str.encode))
def test_bodies_are_read_back_where_none_is_ambiguous(bodies: list[bytes], delimiter: bytes) -> None:
    writer = DelimiterWriter(delimiter)
    block = writer.join(bodies)
    ambiguous = writer.ambiguous(bodies, block)
    assert ambiguous == sum((body + delimiter).find(delimiter) < len(body) for body in bodies)
    assert ambiguous == sum(writer.ambiguous([body], memoryview(body)) for body in bodies)
    assert (_read(DelimiterReader(delimiter), [block]) == (bodies, [])) is (ambiguous == 0)


# --- parsing ------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1))
def test_any_bytes_can_be_a_delimiter(delimiter: bytes) -> None:
    assert parse_delimiter("".join(f"\\x{byte:02x}" for byte in delimiter)) == delimiter


_KEYS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(_KEYS | st.integers(-(10**8), 10**8)).map(tuple))
def test_paths_there_and_back(path: tuple[str | int, ...]) -> None:
    assert parse_path(format_path(path)) == path


@given(st.lists(_KEYS | st.integers(0, 3)).map(tuple), st.integers())
def test_extract_finds_what_was_put_there(path: tuple[str | int, ...], leaf: int) -> None:
    document: object = leaf
    for step in reversed(path):
        document = {step: document} if isinstance(step, str) else [None] * step + [document]
    assert extract(document, path) == leaf


# --- the envelope ---------------------------------------------------------------------------------------------

_STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["$ulong", "$map", "$"])
_SYMBOLS = st.text(st.characters(max_codepoint=127), max_size=8).map(Symbol)


def _integers(cls: type[int], bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high).map(cls) | st.sampled_from([low, high, 0]).map(cls)


_LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "ubyte": _integers(UByte, 8, False),
    "ushort": _integers(UShort, 16, False),
    "uint": _integers(UInt, 32, False),
    "ulong": _integers(ULong, 64, False),
    "byte": _integers(Byte, 8, True),
    "short": _integers(Short, 16, True),
    "int": _integers(Int, 32, True),
    "long": _integers(int, 64, True),
    "float": st.floats(width=32).map(Float32),
    "double": st.floats(),
    "decimal32": st.binary(min_size=4, max_size=4).map(Decimal32),
    "decimal64": st.binary(min_size=8, max_size=8).map(Decimal64),
    "decimal128": st.binary(min_size=16, max_size=16).map(Decimal128),
    "char": st.characters(exclude_categories=["Cs"]).map(Char),
    "timestamp": _integers(Timestamp, 64, True),
    "uuid": st.uuids(),
    "binary": st.binary(max_size=8),
    "string": _STRINGS,
    "symbol": _SYMBOLS,
}
_LEAF = st.one_of(*_LEAVES.values())
_MAP_KEYS = _STRINGS | _SYMBOLS | _LEAVES["ulong"] | _LEAVES["long"] | _LEAVES["uuid"] | st.binary(max_size=4)


# Keys that Python takes for equal, or cannot hash.
_LIKE_KEYS: list[Any] = [True, 1, Int(1), ULong(1), 1.0, 0.0, -0.0, "a", Symbol("a"), Char("a"), [], [1], [True], {}]


def _typed_maps(keys: st.SearchStrategy[Any], inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(st.tuples(keys, inner), max_size=4, unique_by=lambda pair: encode_value(pair[0]))
    return pairs.map(map_of)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    maps = (
        st.dictionaries(_MAP_KEYS, inner, max_size=3)
        | st.dictionaries(_STRINGS, inner, max_size=2)
        | _typed_maps(st.sampled_from(_LIKE_KEYS), inner)
    )
    elements = _LEAVES | {"list": lists, "map": maps}

    def array(name: str) -> st.SearchStrategy[Array]:
        descriptors = st.lists(_LEAVES["ulong"] | _SYMBOLS, max_size=2)
        return st.builds(
            lambda items, described: Array(items, name, descriptors=described),
            st.lists(elements[name], max_size=4),
            descriptors,
        )

    arrays = st.sampled_from(sorted(elements)).flatmap(array)
    nested = st.lists(arrays, max_size=3).map(lambda items: Array(items, "array"))
    return lists | maps | arrays | nested | st.builds(Described, _LEAVES["ulong"] | _SYMBOLS, inner)


_VALUES = st.recursive(_LEAF, _containers, max_leaves=12)
_SECTION_KEYS = st.sampled_from([Symbol("a"), "a", Char("a"), ULong(1), Int(1), 1])
_ANNOTATIONS = st.dictionaries(_SYMBOLS | _LEAVES["ulong"], _VALUES, max_size=3) | _typed_maps(
    _SECTION_KEYS, _VALUES
).filter(lambda section: isinstance(section, AmqpMap))
_HEADERS_MAPS = st.dictionaries(_STRINGS, _VALUES, max_size=3) | _typed_maps(
    st.sampled_from([Symbol("a"), "a", Char("a"), Symbol("$map"), "$map"]), _VALUES
).filter(lambda section: isinstance(section, AmqpMap))
_IDS = st.one_of(*(_LEAVES[name] for name in ("ulong", "uuid", "binary", "string", "int", "uint", "symbol")))


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_PROPERTIES = st.builds(
    Properties,
    message_id=_maybe(_IDS),
    user_id=_maybe(st.binary(max_size=4) | st.just("é".encode())),
    to=_maybe(_STRINGS),
    subject=_maybe(_STRINGS),
    reply_to=_maybe(_STRINGS),
    correlation_id=_maybe(_IDS),
    content_type=_maybe(_SYMBOLS),
    content_encoding=_maybe(_SYMBOLS),
    absolute_expiry_time=_maybe(_LEAVES["timestamp"]),
    creation_time=_maybe(_LEAVES["timestamp"]),
    group_id=_maybe(_STRINGS),
    group_sequence=_maybe(_LEAVES["uint"]),
    reply_to_group_id=_maybe(_STRINGS),
)
_HEADERS = st.builds(
    Header,
    durable=_maybe(st.booleans()),
    priority=_maybe(_LEAVES["ubyte"]),
    ttl=_maybe(_LEAVES["uint"]),
    first_acquirer=_maybe(st.booleans()),
    delivery_count=_maybe(_LEAVES["uint"]),
)
_BODIES = st.one_of(
    st.builds(lambda body: {"body": body}, st.binary(max_size=300) | _STRINGS.map(str.encode)),
    st.builds(lambda value: {"value": value}, _VALUES),
    st.builds(lambda items: {"sequence": items}, st.lists(_VALUES, max_size=3)),
)
_MESSAGES = st.builds(
    lambda body, sections: AMQPMessage(**body, **sections),
    _BODIES,
    st.fixed_dictionaries(
        {},
        optional={
            "header": _HEADERS,
            "delivery_annotations": _ANNOTATIONS,
            "message_annotations": _ANNOTATIONS,
            "properties": _PROPERTIES,
            "application_properties": _HEADERS_MAPS,
            "footer": _ANNOTATIONS,
        },
    ),
)


def _same(left: Any, right: Any) -> bool:
    """Equal, of the same types all through; equal bits where they are floats."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return math.isnan(left) == math.isnan(right) and (
            math.isnan(left) or struct.pack(">d", left) == struct.pack(">d", right)
        )
    if isinstance(left, Described):
        return _same(left.descriptor, right.descriptor) and _same(left.value, right.value)
    if isinstance(left, dict | AmqpMap):
        return len(left) == len(right) and all(
            _same(a, b) for pair in zip(left.items(), right.items(), strict=True) for a, b in zip(*pair, strict=True)
        )
    if isinstance(left, Array) and (
        left.type_name != right.type_name or not _same(left.descriptors, right.descriptors)
    ):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def test_the_strategies_know_every_type() -> None:
    assert _LEAVES.keys() | {"list", "map", "array"} == TYPE_NAMES


@given(_VALUES)
def test_values_through_json_and_the_codec(value: Any) -> None:
    sent = AMQPMessage.from_bytes(AMQPMessage(value=value).encode())
    line = to_json(sent)
    assert b"\n" not in line
    came_back = from_json(line).message
    assert _same(came_back.value, sent.value)
    assert came_back.encode() == sent.encode()


@given(_MESSAGES)
def test_messages_through_json_and_the_codec(message: AMQPMessage) -> None:
    encoded = message.encode()
    line = to_json(AMQPMessage.from_bytes(encoded), stream="s", offset=41, timestamp_ms=0)
    came_back = from_json(line)
    assert came_back.message.encode() == encoded
    assert to_json(came_back.message, stream="s", offset=41, timestamp_ms=0) == line


@given(
    _MESSAGES,
    st.lists(st.binary(max_size=9), min_size=2, max_size=4),
    st.lists(st.lists(_VALUES, max_size=2), min_size=2, max_size=3),
)
def test_sections_of_a_body_through_json(message: AMQPMessage, parts: list[bytes], rows: list[list[Any]]) -> None:
    for body in (encode_bodies(parts), [AMQPMessage(sequence=row).encode() for row in rows]):
        several = AMQPMessage.from_bytes(b"".join(body))
        several.application_properties = message.application_properties
        several.footer = message.footer
        encoded = several.encode()
        line = to_json(AMQPMessage.from_bytes(encoded))
        assert from_json(line).message.encode() == encoded
        assert to_json(from_json(line).message) == line


@given(st.lists(_MESSAGES | st.binary(max_size=300).map(AMQPMessage), max_size=5), _STRINGS)
def test_a_batch_is_the_same_as_one_by_one(messages: list[AMQPMessage], stream: str) -> None:
    records = [message.encode() for message in messages]
    assert batch_to_json(records, stream=stream, offsets=range(len(records)), timestamp_ms=5) == [
        to_json(AMQPMessage.from_bytes(record), stream=stream, offset=offset, timestamp_ms=5)
        for offset, record in enumerate(records)
    ]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _STRINGS
    | st.uuids().map(str),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_STRINGS | st.sampled_from([f"${name}" for name in sorted(TYPE_NAMES)]), inner, max_size=2)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["body", "value", "sequence", "body_sections", "sequence_sections", "headers", "properties", "x"]
        ),
        _JSON,
        max_size=3,
    )
)
def test_any_json_is_a_message_or_a_sentence(document: dict[str, Any]) -> None:
    import json

    try:
        message = from_json(json.dumps(document)).message
    except ValueError as error:
        said = str(error)
        message = None
    if message is None:
        assert "\n" not in said
    else:
        assert from_json(to_json(AMQPMessage.from_bytes(message.encode()))).message.encode() == message.encode()


@given(_JSON)
def test_numbers_are_exact_or_refused(document: Any) -> None:
    import json

    def beyond(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(beyond, value))
        if isinstance(value, dict):
            return any(map(beyond, value.values()))
        return isinstance(value, int) and not -(2**63) <= value < 2**64

    try:
        value = parse_value(json.dumps(document))
    except ValueError:
        return
    if not beyond(document) and not any("$" in key for key in json.dumps(document).split('"')):
        assert value == document
