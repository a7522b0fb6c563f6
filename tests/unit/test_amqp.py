"""The AMQP 1.0 codec, from tables of bytes. What other implementations say: tests/property/test_amqp.py."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import math
import pickle
import struct
import subprocess
import sys
import time
import uuid
from typing import Any

import pytest

from rstream_core.errors import AmqpError, ConfigurationError, ProtocolError
from rstream_core.protocol import amqp_codec
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
from rstream_core.protocol.amqp_codec import (
    MAX_DEPTH,
    MAX_ZERO_WIDTH_ELEMENTS,
    AmqpMap,
    decode_value,
    encode_value,
    map_of,
    skip_value,
)
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

UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
LONG_TEXT = "x" * 256
U, X = "é", "78" * 256


def exact(value: Any) -> Any:
    """The value with its types, so that comparing tells ``ULong(1)``, ``1``, ``True`` and ``1.0`` apart."""
    name = type(value).__name__
    if isinstance(value, Array):
        return name, value.type_name, exact(list(value.descriptors)), [exact(item) for item in value]
    if isinstance(value, list | tuple):
        return "list", [exact(item) for item in value]
    if isinstance(value, dict | AmqpMap):
        return name, [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, Described):
        return name, exact(value.descriptor), exact(value.value)
    if isinstance(value, float):
        return name, struct.pack(">d", value)
    return name, repr(value)


# The bytes, what they mean, and - where those bytes are not what we write ourselves - what we write.
VECTORS: list[tuple[str, Any, str | None]] = [
    ("40", None, None),
    ("41", True, None),
    ("42", False, None),
    ("5601", True, "41"),
    ("5600", False, "42"),
    ("50ff", UByte(255), None),
    ("60ffff", UShort(65535), None),
    ("70ffffffff", UInt(2**32 - 1), None),
    ("52ff", UInt(255), None),
    ("43", UInt(0), None),
    ("80ffffffffffffffff", ULong(2**64 - 1), None),
    ("53ff", ULong(255), None),
    ("44", ULong(0), None),
    ("5180", Byte(-128), None),
    ("618000", Short(-32768), None),
    ("7180000000", Int(-(2**31)), None),
    ("54ff", Int(-1), "71ffffffff"),
    ("818000000000000000", -(2**63), None),
    ("5580", -128, "81ffffffffffffff80"),
    ("810000000000000080", 128, None),
    ("723f800000", Float32(1.0), None),
    ("823ff0000000000000", 1.0, None),
    ("827ff0000000000000", float("inf"), None),
    ("7422500001", Decimal32(bytes.fromhex("22500001")), None),
    ("842234000000000001", Decimal64(bytes.fromhex("2234000000000001")), None),
    (
        "9422080000000000000000000000000001",
        Decimal128(bytes.fromhex("22080000000000000000000000000001")),
        None,
    ),
    ("730001f600", Char("\U0001f600"), None),
    ("83ffffffffffffffff", Timestamp(-1), None),
    ("98" + UUID.hex, UUID, None),
    ("a0020001", b"\x00\x01", None),
    ("a000", b"", None),
    ("b0000000020001", b"\x00\x01", "a0020001"),
    ("b000000100" + X, b"x" * 256, None),
    ("a102c3a9", U, None),
    ("b100000002c3a9", U, "a102c3a9"),
    ("b100000100" + X, LONG_TEXT, None),
    ("a30161", Symbol("a"), None),
    ("b30000000161", Symbol("a"), "a30161"),
    ("b300000100" + X, Symbol(LONG_TEXT), None),
    ("45", [], None),
    ("c00100", [], "45"),
    ("c003024045", [None, []], None),
    ("d000000006000000024041", [None, True], "c003024041"),
    ("d00000010400000100" + "40" * 256, [None] * 256, None),
    ("c10100", {}, None),
    ("c10502a1016140", {"a": None}, None),
    ("d10000000800000002a1016140", {"a": None}, "c10502a1016140"),
    ("e00100", Array(), "e0020040"),
    ("e0020056", Array([], "boolean"), None),
    ("e00402560100", Array([True, False], "boolean"), None),
    ("e0020341", Array([True] * 3, "boolean"), "e0050356010101"),
    ("e0020342", Array([False] * 3, "boolean"), "e0050356000000"),
    ("e0020340", Array([None] * 3, "null"), None),
    ("e0020243", Array([UInt(0)] * 2, "uint"), "e00a0270" + "00" * 8),
    ("e0020145", Array([[]], "list"), "e00401c00100"),
    ("e003015207", Array([UInt(7)], "uint"), "e006017000000007"),
    ("f00000000700000002550102", Array([1, 2], "long"), "e012028100000000000000010000000000000002"),
    ("e006017300000061", Array([Char("a")], "char"), None),
    ("e0120198" + UUID.hex, Array([UUID], "uuid"), None),
    ("e00602a301610162", Array([Symbol("a"), Symbol("b")], "symbol"), None),
    ("f00000010900000001b000000100" + X, Array([b"x" * 256], "binary"), None),
    ("e00a01c10702a10161a10162", Array([{"a": "b"}], "map"), None),
    ("e00901e006017100000001", Array([Array([Int(1)], "int")], "array"), None),
    ("e0060100a3016140", Array([None], "null", descriptors=[Symbol("a")]), None),
    ("e00801004300a3016140", Array([None], "null", descriptors=[UInt(0), Symbol("a")]), None),
    ("005375a00178", Described(ULong(0x75), b"x"), None),
    ("00a3016145", Described(Symbol("a"), []), None),
    ("0000a30161a3016241", Described(Described(Symbol("a"), Symbol("b")), True), None),
]

IDS = [f"{given[:24]}-{exact(value)[0]}" for given, value, _ in VECTORS]


def test_vectors_cover_every_constructor() -> None:
    used = {bytes.fromhex(given)[0] for given, _, _ in VECTORS}
    assert used == {
        0x00,
        *amqp_codec._CONSTRUCTORS,
    }  # the 40 codes of the specification, and the described one
    assert {name for name, _ in amqp_codec._CONSTRUCTORS.values()} == TYPE_NAMES


@pytest.mark.parametrize(("given", "value", "canonical"), VECTORS, ids=IDS)
class TestVectors:
    def test_whole(self, given: str, value: Any, canonical: str | None) -> None:
        data = bytes.fromhex(given)
        decoded, end = decode_value(data, 0)
        assert exact(decoded) == exact(value)
        assert end == skip_value(data, 0) == len(data)

    def test_with_bytes_around_it(self, given: str, value: Any, canonical: str | None) -> None:
        data = b"\xff\x00" + bytes.fromhex(given) + b"\x40\xff\x00"
        for buffer in (data, bytearray(data), memoryview(data)):
            decoded, end = decode_value(buffer, 2)
            assert exact(decoded) == exact(value)
            assert end == len(data) - 3
        assert skip_value(data, 2) == len(data) - 3

    def test_cut_short_at_every_byte(self, given: str, value: Any, canonical: str | None) -> None:
        data = bytes.fromhex(given)
        for length in range(len(data)):
            for decode in (decode_value, skip_value):
                with pytest.raises(AmqpError):
                    decode(data[:length], 0)
            with pytest.raises(AmqpError):
                decode_value(data + b"\x40" * 99, 0, end=length)

    def test_encoded(self, given: str, value: Any, canonical: str | None) -> None:
        assert encode_value(value).hex() == (canonical or given)


@pytest.mark.parametrize("code", sorted(set(range(1, 256)) - set(amqp_codec._CONSTRUCTORS)))
def test_unknown_constructors(code: int) -> None:
    for data in (bytes((code,)) + bytes(20), bytes((0xC0, 21, 1, code)) + bytes(19)):
        with pytest.raises(AmqpError):
            decode_value(data)
    with pytest.raises(AmqpError, match="constructor"):
        decode_value(bytes((0xE0, 3, 1, code, 0)))
    with pytest.raises(AmqpError, match="constructor"):
        skip_value(bytes((code,)) + bytes(20), 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("5602", "boolean"),
        ("7300110000", "code point"),
        ("730000d800", "code point"),
        ("a102c328", "UTF-8"),
        ("a103eda080", "UTF-8"),  # a lone surrogate
        ("a301e9", "ASCII"),
        ("c00000", "no room"),
        ("d00000000300000000", "no room"),
        ("c003034040", "do not fit"),
        ("c003014040", "end"),  # bytes left over
        ("c0020255ff40", "do not fit"),
        ("c00302810100000000000000", "end"),  # an element reaches beyond its list
        ("d0000000047fffffff", "do not fit"),
        ("d0ffffffff00000000", "cut short"),
        ("c1020140", "no value"),
        ("c1050454015401", "cut short"),
        ("c10904a1016140a1016140", "equal"),
        ("c106044140560140", "equal"),  # True in both its encodings
        ("c10e0453014080000000000000000140", "equal"),  # so the ulong 1
        ("c10c04a1016140b1000000016140", "equal"),  # and the string "a"
        ("c107044540c0010040", "equal"),  # and the empty list
        ("c109064140550140550140", "equal"),  # True, 1 and 1
        ("e003ff5001", "do not fit"),
        ("e004025001", "cut short"),
        ("f000000005ffffffff40", "without bytes"),
        ("f0000000050001000140", "without bytes"),
        ("e0030155", "cut short"),
        ("e00301", "cut short"),
        ("e0020101", "constructor"),
    ],
)
def test_values_that_lie(given: str, words: str) -> None:
    with pytest.raises(AmqpError, match=words):
        decode_value(bytes.fromhex(given))


# Maps that a dict cannot hold: their bytes, as we write them, and their pairs.
TYPED_MAPS: list[tuple[str, list[tuple[Any, Any]]]] = [
    ("c1080441540155015402", [(True, Int(1)), (1, Int(2))]),
    (
        "c1160a550140540140530140414083000000000000000140",
        [(1, None), (Int(1), None), (ULong(1), None), (True, None), (Timestamp(1), None)],
    ),
    ("c10f06a1016140a3016140730000006140", [("a", None), (Symbol("a"), None), (Char("a"), None)]),
    ("c115048200000000000000004082800000000000000040", [(0.0, None), (-0.0, None)]),
    ("c10e04823ff000000000000040550140", [(1.0, None), (1, None)]),
    ("c10a02c006025501a3016140", [([1, Symbol("a")], None)]),
    ("c10b04c10100a1017845a10179", [({}, "x"), ([], "y")]),
    ("c10a02e00601700000000140", [(Array([UInt(1)], "uint"), None)]),
    ("c10d04005305550140005205550140", [(Described(ULong(5), 1), None), (Described(UInt(5), 1), None)]),
    ("c10a02c10604550140414040", [(AmqpMap([(1, None), (True, None)]), None)]),
]


class TestMapsThatADictCannotHold:
    @pytest.mark.parametrize(("hexed", "pairs"), TYPED_MAPS)
    def test_both_ways(self, hexed: str, pairs: list[tuple[Any, Any]]) -> None:
        data = bytes.fromhex(hexed)
        decoded, end = decode_value(data)
        assert end == len(data)
        assert exact(decoded) == exact(AmqpMap(pairs)) == exact(map_of(pairs))
        assert encode_value(decoded) == data
        for key, value in pairs:
            assert decoded[key] == value
            assert key in decoded
        assert exact(list(decoded)) == exact([key for key, _ in pairs])
        assert exact(list(decoded.values())) == exact([value for _, value in pairs])
        for copied in (copy.copy(decoded), copy.deepcopy(decoded), pickle.loads(pickle.dumps(decoded))):
            assert exact(copied) == exact(decoded)
            assert copied == decoded

    @pytest.mark.parametrize(("hexed", "pairs"), TYPED_MAPS)
    def test_inside_others(self, hexed: str, pairs: list[tuple[Any, Any]]) -> None:
        inner = AmqpMap(pairs)
        for value in ([inner], {"k": inner}, Described("d", inner), Array([inner, {}], "map"), AmqpMap([(inner, 1)])):
            data = encode_value(value)
            assert bytes.fromhex(hexed)[2:] in data
            assert exact(decode_value(data)[0]) == exact(value)

    def test_a_dict_stays_a_dict(self) -> None:
        for pairs in ([], [("a", 1), ("b", 2)], [(1, 1), (2, 1)], [(Symbol("a"), 1)], [(math.nan, 1), (-math.nan, 2)]):
            assert type(decode_value(encode_value(AmqpMap(pairs)))[0]) is dict
            assert type(map_of(pairs)) is dict

    def test_lookup_and_comparison(self) -> None:
        value = AmqpMap([(1, "long"), (Int(1), "int"), ([1], "list")])
        assert (value[1], value[Int(1)], value[[1]], value[(1,)]) == ("long", "int", "list", "list")
        assert (ULong(1) in value, value.get(True), len(value), bool(AmqpMap())) == (False, None, 3, False)
        with pytest.raises(KeyError):
            value[1.0]
        with pytest.raises(TypeError):
            value[object()]
        assert value == AmqpMap([([1], "list"), (Int(1), "int"), (1, "long")])  # the order does not count
        assert value != AmqpMap([(1, "int"), (Int(1), "long"), ([1], "list")])
        assert AmqpMap([(1, Int(2))]) == {1: 2} == AmqpMap({1: 2})
        assert AmqpMap([(1, 2)]) != {Int(1): 2}
        assert AmqpMap([(1, 2)]) != {object(): 2}
        assert AmqpMap() != []
        assert repr(AmqpMap([(True, 1), (1, 2)])) == "AmqpMap([(True, 1), (1, 2)])"
        assert exact(AmqpMap([(True, 1), (1, 2)]) | {1: 3, "b": 4}) == exact(AmqpMap([(True, 1), (1, 3), ("b", 4)]))

    def test_what_it_refuses(self) -> None:
        with pytest.raises(ValueError, match="equal"):
            AmqpMap([(1, 1), (1, 2)])
        with pytest.raises(ValueError, match="equal"):
            AmqpMap([([], 1), ((), 2)])
        with pytest.raises(TypeError):
            AmqpMap([(object(), 1)])
        with pytest.raises(TypeError):
            hash(AmqpMap())
        deep: Any = AmqpMap([(True, 1), (1, 1)])
        for _ in range(MAX_DEPTH - 1):
            deep = AmqpMap([(deep, 1)])
        assert exact(decode_value(encode_value(deep))[0]) == exact(deep)
        with pytest.raises(ValueError, match="deep"):
            encode_value([deep])
        with pytest.raises(ValueError, match="deep"):
            AmqpMap([(deep, 1)])

    def test_a_nan_is_no_other_key(self) -> None:
        pairs = [(math.nan, 1), (math.nan, 2), (True, 3), (1, 4)]
        decoded, _ = decode_value(encode_value(AmqpMap(pairs)))
        assert exact(decoded) == exact(AmqpMap(pairs))
        assert [value for _, value in decoded.items()] == [1, 2, 3, 4]
        assert decoded == AmqpMap(pairs) != AmqpMap([*pairs[:1], (math.nan, 5), *pairs[2:]])

    def test_maps_in_keys_of_maps_cost_no_more_than_their_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encode_value([None] * 100)
        for _ in range(MAX_DEPTH - 1):
            content = data + b"\x40"
            data = b"\xd1" + struct.pack(">II", len(content) + 4, 2) + content
        calls = 0
        encode = amqp_codec._encode

        def counted(value: Any, levels: int) -> bytes:
            nonlocal calls
            calls += 1
            return encode(value, levels)

        monkeypatch.setattr(amqp_codec, "_encode", counted)
        decode_value(data)
        assert calls < 500  # and not 63 times 100

    @pytest.mark.parametrize("name", ["message_annotations", "delivery_annotations", "footer"])
    def test_annotations(self, name: str) -> None:
        section = AmqpMap([("a", 1), (Symbol("a"), [AmqpMap([(True, 1), (1, 2)])]), (ULong(1), 3), (Int(1), 4)])
        message = AMQPMessage(b"x")
        setattr(message, name, section)
        decoded = amqp_decoder(bytes(message))
        assert exact(getattr(decoded, name)) == exact(section)
        decoded.body = b"y"
        message.body = b"y"
        assert decoded == message
        assert bytes(decoded) == bytes(message)
        setattr(message, name, AmqpMap([(True, 1), (1, 2)]))
        with pytest.raises(TypeError, match="annotation's key"):
            bytes(message)

    def test_application_properties(self) -> None:
        section = AmqpMap([("a", 1), (Symbol("a"), 2), (Char("a"), 3)])
        decoded = amqp_decoder(bytes(AMQPMessage(b"x", application_properties=section)))
        assert exact(decoded.application_properties) == exact(section)
        with pytest.raises(TypeError, match="application property's key"):
            bytes(AMQPMessage(application_properties=AmqpMap([(True, 1), (1, 2)])))


def test_an_offset_below_zero_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="offset"):
        decode_value(b"\x40", -1)
    assert issubclass(AmqpError, ProtocolError)
    with pytest.raises(AmqpError) as caught:
        decode_value(b"\x40\x3f", 1)
    assert caught.value.position == 1


def nested(depth: int, shape: str) -> Any:
    value: Any = None
    for _ in range(depth):
        if shape == "list":
            value = [value]
        elif shape == "map":
            value = {"k": value}
        elif shape == "array":
            value = Array([] if value is None else [value], "array")
        else:
            value = Described(Symbol("d"), value)
    return value


@pytest.mark.parametrize("shape", ["list", "map", "array", "described"])
def test_depth_is_bounded_on_both_ways(shape: str) -> None:
    deepest = encode_value(nested(MAX_DEPTH, shape))
    assert exact(decode_value(deepest)[0]) == exact(nested(MAX_DEPTH, shape))
    with pytest.raises(ValueError, match="deep"):
        encode_value(nested(MAX_DEPTH + 1, shape))


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 1_000_000,
        b"\x00\x40" * 500_000,
        b"".join(b"\xd0" + struct.pack(">II", 9 * n + 5, 1) for n in range(50_000, 0, -1)) + b"\x40",
        b"\xe0\xff\x01" + b"\x00\x40" * 126 + b"\x40",
    ],
    ids=["zeros", "descriptors", "lists", "array-descriptors"],
)
def test_deep_input_is_an_error_at_once(data: bytes) -> None:
    started = time.thread_time()  # not by the clock: others may have the machine meanwhile
    with pytest.raises(AmqpError):
        decode_value(data)
    assert time.thread_time() - started < 1


def test_a_loop_is_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deep"):
        encode_value(loop)


def test_zero_width_elements_are_bounded_over_all_arrays() -> None:
    half = b"\xf0" + struct.pack(">II", 5, MAX_ZERO_WIDTH_ELEMENTS // 2) + b"\x45"
    whole = b"\xc0" + bytes((2 * len(half) + 1, 2)) + half * 2
    assert len(decode_value(whole)[0][1]) == MAX_ZERO_WIDTH_ELEMENTS // 2
    with pytest.raises(AmqpError, match="without bytes"):
        decode_value(b"\xc0" + bytes((3 * len(half) + 1, 3)) + half * 3)
    with pytest.raises(ValueError, match="without bytes"):
        encode_value(Array([None] * (MAX_ZERO_WIDTH_ELEMENTS + 1), "null"))


class Colour(enum.IntEnum):
    RED = 3


class Word(str, enum.Enum):  # noqa: UP042 - str first, as programs have them
    A = "a"


@pytest.mark.parametrize(
    ("given", "hexed"),
    [
        (Colour.RED, "5503"),
        (Word.A, "a10161"),
        (2**63 - 1, "817fffffffffffffff"),
        (2**63, "808000000000000000"),
        (127, "557f"),
        (-129, "81ffffffffffffff7f"),
        (Int(128), "7100000080"),
        (UInt(256), "7000000100"),
        (ULong(256), "800000000000000100"),
        (bytearray(b"a"), "a00161"),
        (memoryview(b"abc")[::2], "a0026163"),
        ((1, "a"), "c006025501a10161"),
        (dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), "830000000000000000"),
        (dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC), "83ffffffffffffffff"),
        (Array([1, 2.5], "double"), "e01202823ff00000000000004004000000000000"),
        (Array(["a"], "char"), "e006017300000061"),
        (Array([dt.datetime(1970, 1, 1, tzinfo=dt.UTC)], "timestamp"), "e00a01830000000000000000"),
    ],
)
def test_other_python_values(given: Any, hexed: str) -> None:
    assert encode_value(given).hex() == hexed


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2**64, ValueError),
        (-(2**63) - 1, ValueError),
        (dt.datetime(2026, 1, 1), ValueError),  # noqa: DTZ001 - that is the point
        ("\ud800", ValueError),
        (object(), TypeError),
        ({1, 2}, TypeError),
        ([1, [object()]], TypeError),
        (Array([256], "ubyte"), ValueError),
        (Array(["a"], "uint"), TypeError),
        (Array([True], "uint"), TypeError),
        (Array([1], "boolean"), TypeError),
        (Array([2**63], "long"), ValueError),
        (Array([[1]], "array"), TypeError),
        (Array(["ab"], "char"), ValueError),
        (Array(["é"], "symbol"), ValueError),
        (Array([1e40], "float"), ValueError),
    ],
)
def test_what_cannot_be_encoded(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_value(value)


class TestTypes:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: UByte(256),
            lambda: UByte(-1),
            lambda: UShort(65536),
            lambda: UInt(2**32),
            lambda: ULong(2**64),
            lambda: ULong(-1),
            lambda: Byte(128),
            lambda: Short(-32769),
            lambda: Int(2**31),
            lambda: Timestamp(2**63),
            lambda: Float32(1e39),
            lambda: Char(""),
            lambda: Char("ab"),
            lambda: Char("\ud800"),
            lambda: Symbol("é"),
            lambda: Decimal32(b"123"),
            lambda: Decimal64(b""),
            lambda: Decimal128(bytes(17)),
            lambda: Array([], "x"),
            lambda: Timestamp.from_datetime(dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
            lambda: Timestamp(2**62).to_datetime(),
        ],
    )
    def test_ranges(self, make: Any) -> None:
        with pytest.raises(ValueError):
            make()

    def test_they_are_their_base_types(self) -> None:
        assert ULong(5) == 5 == UByte(5)
        assert {ULong(5): "x"}[5] == "x"  # type: ignore[index]
        assert Symbol("a") == "a"
        assert type(ULong(5) + 1) is int
        assert str(ULong(5)) == f"{ULong(5)}" == "5"
        assert (str(Float32(0.5)), str(Symbol("a")), str(Char("c"))) == ("0.5", "a", "c")
        assert repr([ULong(5), Float32(0.5), Symbol("a"), Char("c"), Decimal32(b"1234")]) == (
            "[ULong(5), Float32(0.5), Symbol('a'), Char('c'), Decimal32(b'1234')]"
        )
        assert repr(Array([1], "int", descriptors=[UInt(1)])) == "Array([1], 'int', descriptors=(UInt(1),))"
        assert Timestamp(1500).to_datetime() == dt.datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=dt.UTC)

    def test_described_is_a_value(self) -> None:
        value = Described(Symbol("a"), 1)
        assert value == Described("a", 1) != Described("a", 2)
        assert len({value, Described("a", 1)}) == 1
        assert value != 1
        with pytest.raises(AttributeError):
            value.value = 2
        with pytest.raises(AttributeError):
            del value.value

    @pytest.mark.parametrize(
        "value", [ULong(1), Symbol("a"), Described(UInt(1), [1]), Array([1], "int", descriptors=[UInt(1)])]
    )
    def test_they_copy_and_pickle(self, value: Any) -> None:
        assert exact(copy.deepcopy(value)) == exact(pickle.loads(pickle.dumps(value))) == exact(value)


DATA = "005375a00178"


class TestMessage:
    @pytest.mark.parametrize(
        ("message", "hexed"),
        [
            (AMQPMessage(), "005375a000"),
            (AMQPMessage(b""), "005375a000"),
            (AMQPMessage(b"x"), DATA),
            (AMQPMessage(bytearray(b"x")), DATA),
            (AMQPMessage(memoryview(b"xyz")[::3]), DATA),
            (AMQPMessage("é"), "005375a002c3a9"),
            (AMQPMessage("x" * 255), "005375a0ff" + X[2:]),
            (AMQPMessage("x" * 256), "005375b000000100" + X),
            (AMQPMessage(value=None), "00537740"),
            (AMQPMessage(value=ULong(0)), "00537744"),
            (AMQPMessage(sequence=[]), "00537645"),
            (AMQPMessage(sequence=(1,)), "005376c003015501"),
            (AMQPMessage(b"x", header=Header(durable=True)), "005370c0020141" + DATA),
            (
                AMQPMessage(b"x", header=Header(priority=5, ttl=1, delivery_count=0)),
                "005370c0080540500552014043" + DATA,
            ),
            (AMQPMessage(b"x", message_annotations={"a": 1}), "005372c10602a301615501" + DATA),
            (AMQPMessage(b"x", delivery_annotations={7: True}), "005371c10402530741" + DATA),
            (AMQPMessage(b"x", application_properties={Symbol("a"): "b"}), "005374c10702a10161a10162" + DATA),
            (AMQPMessage(b"x", footer={"a": None}), DATA + "005378c10502a3016140"),
            (AMQPMessage(b"x", properties=Properties(message_id=5)), "005373c003015305" + DATA),
            (AMQPMessage(b"x", properties=Properties(message_id="a")), "005373c00401a10161" + DATA),
            (AMQPMessage(b"x", properties=Properties(message_id=b"a")), "005373c00401a00161" + DATA),
            (AMQPMessage(b"x", properties=Properties(message_id=UUID)), "005373c0120198" + UUID.hex + DATA),
            (AMQPMessage(b"x", properties=Properties(message_id=Int(5))), "005373c003015405" + DATA),
            (AMQPMessage(b"x", properties=Properties(user_id="a")), "005373c0050240a00161" + DATA),
            (
                AMQPMessage(b"x", properties=Properties(content_type="a", creation_time=1, group_sequence=2)),
                "005373c0180c404040404040a301614040830000000000000001405202" + DATA,
            ),
            # what is empty is left out
            (AMQPMessage(b"x", header=Header(), properties=Properties(), footer={}), DATA),
            (AMQPMessage(b"x", application_properties={}, message_annotations={}), DATA),
        ],
    )
    def test_encoded_and_back(self, message: AMQPMessage, hexed: str) -> None:
        assert bytes(message).hex() == message.encode().hex() == encode_message(message).hex() == hexed
        decoded = amqp_decoder(bytes(message))
        assert decoded == message
        assert decoded.body == message.body or not message.body
        assert decoded.body_type == message.body_type
        assert repr(decoded).startswith("AMQPMessage(")
        assert bytes(decoded).hex() == hexed

    @pytest.mark.parametrize(
        ("hexed", "body"),
        [
            ("", None),
            (DATA, b"x"),
            ("00800000000000000075a00178", b"x"),
            ("00a310" + b"amqp:data:binary".hex() + "a00178", b"x"),
            ("00b300000010" + b"amqp:data:binary".hex() + "a00178", b"x"),
            ("005375b00000000178", b"x"),
            (DATA + "005375a000" + "005375b0000000027979", b"xyy"),
            (DATA + "005373c003015305", b"x"),  # out of order
            ("00537740", None),
            ("00537645" + "005376c003015501", None),
            ("005373c003015305", None),  # no body
        ],
    )
    def test_bodies(self, hexed: str, body: bytes | None) -> None:
        data = bytes.fromhex(hexed)
        assert body_of(data) == body_of(memoryview(data)) == body
        assert bodies_of([data, b"\0Su\xa0\0"]) == [body, b""]
        message = amqp_decoder(data)
        assert message.body == body
        assert bytes(message) == data

    @pytest.mark.parametrize(
        ("hexed", "words"),
        [
            ("00", "cut short"),
            ("40", "0x00"),
            (b"hello".hex(), "0x00"),
            ("005379a00178", "unknown section"),
            ("00437740", "unknown section"),
            ("00a3017840", "unknown section"),
            ("005075a00178", "unknown section"),
            ("005375a10178", "type it cannot be"),
            ("005373c10100" + DATA, "type it cannot be"),
            ("00537245" + DATA, "type it cannot be"),
            ("005375a002", "cut short"),
            ("005375a00178ff", "0x00"),
            ("005375", "cut short"),
            (DATA + "00537740", "two kinds"),
            ("0053774000537740", "second amqp-value"),
            ("005373c00100005373c00100" + DATA, "second properties"),
            ("005375b0ffffffff", "cut short"),
        ],
    )
    def test_malformed_messages_show_when_looked_at(self, hexed: str, words: str) -> None:
        data = bytes.fromhex(hexed)
        message = amqp_decoder(data)
        assert bytes(message) == data
        for name in ("body", "properties", "value", "sequence", "body_type", "footer"):
            with pytest.raises(AmqpError, match=words):
                getattr(message, name)
        for look in (body_of, lambda it: bodies_of([it]), lambda it: setattr(amqp_decoder(it), "body", b"")):
            with pytest.raises(AmqpError, match=words):
                look(data)
        assert "malformed" in repr(message)

    @pytest.mark.parametrize(
        ("name", "hexed"),
        [
            ("properties", "005373c00f0e" + "40" * 14),
            ("properties", "005373c0020141"),  # an id that is a boolean
            ("properties", "005373c003015580"),  # a negative id
            ("properties", "005373c0050440404041"),  # a subject that is a boolean
            ("header", "005370c003014041"),
            ("header", "005370c003025501"),
            ("header", "005370c00b0240810000000000000100"),  # a priority of 256
            ("application_properties", "005374c10402550140"),
            ("message_annotations", "005372c1050255ff5501"),
            ("footer", "005378c103024140"),
        ],
    )
    def test_a_malformed_section_hides_no_other(self, name: str, hexed: str) -> None:
        message = amqp_decoder(bytes.fromhex(hexed + DATA))
        assert message.body == b"x"
        with pytest.raises(AmqpError):
            getattr(message, name)
        message.body = b"y"  # the section is kept as it is
        changed = "005375a00179"
        assert bytes(message).hex() == (changed + hexed if name == "footer" else hexed + changed)
        setattr(message, name, None)
        assert bytes(message).hex() == "005375a00179"

    def test_decoded_fields_equal_plain_values(self) -> None:
        when = dt.datetime(2026, 11, 24, 4, 0, 0, 123_000, tzinfo=dt.UTC)
        given = Properties(
            message_id=1, user_id="u", to="t", subject="s", reply_to="r", correlation_id=UUID, content_type="c/t",
            content_encoding="gzip", absolute_expiry_time=when, creation_time=5, group_id="g", group_sequence=9,
            reply_to_group_id="h",
        )  # fmt: skip
        decoded = amqp_decoder(bytes(AMQPMessage(b"x", properties=given))).properties
        assert decoded == given
        assert decoded is not None
        assert str(decoded.message_id) == "1"
        assert decoded.user_id == b"u"
        assert decoded.content_type == "c/t"
        assert decoded.absolute_expiry_time == 1795492800123
        assert repr(decoded.creation_time) == "Timestamp(5)"
        assert decoded != Properties()
        assert Properties() != Header()
        assert repr(Properties(to="x", message_id=3)) == "Properties(message_id=3, to='x')"

    @pytest.mark.parametrize(
        ("message", "error"),
        [
            (AMQPMessage(5), TypeError),  # type: ignore[arg-type]
            (AMQPMessage("\ud800"), ValueError),
            (AMQPMessage(b"x", value=1), ValueError),
            (AMQPMessage(b"x", sequence=[1]), ValueError),
            (AMQPMessage(sequence=[1], value=1), ValueError),
            (AMQPMessage(sequence="ab"), TypeError),
            (AMQPMessage(properties={"subject": "x"}), TypeError),
            (AMQPMessage(properties=Properties(message_id=-1)), ValueError),
            (AMQPMessage(properties=Properties(message_id=True)), TypeError),
            (AMQPMessage(properties=Properties(message_id=1.5)), TypeError),  # type: ignore[arg-type]
            (AMQPMessage(properties=Properties(content_type="é")), ValueError),
            (AMQPMessage(properties=Properties(creation_time=dt.datetime(2026, 1, 1))), ValueError),  # noqa: DTZ001
            (AMQPMessage(properties=Properties(group_sequence=2**32)), ValueError),
            (AMQPMessage(properties=Properties(to=5)), TypeError),  # type: ignore[arg-type]
            (AMQPMessage(header=Header(priority=256)), ValueError),
            (AMQPMessage(header=Header(durable=1)), TypeError),  # type: ignore[arg-type]
            (AMQPMessage(application_properties={5: "x"}), TypeError),  # type: ignore[dict-item]
            (AMQPMessage(application_properties=[("a", 1)]), TypeError),  # type: ignore[arg-type]
            (AMQPMessage(message_annotations={"é": 1}), ValueError),
            (AMQPMessage(footer={1.5: 1}), TypeError),  # type: ignore[dict-item]
            (AMQPMessage(value=object()), TypeError),
        ],
    )
    def test_what_cannot_be_sent_shows_when_encoding(self, message: AMQPMessage, error: type[Exception]) -> None:
        with pytest.raises(error):
            message.encode()

    def test_errors_name_the_field(self) -> None:
        with pytest.raises(TypeError, match="subject"):
            AMQPMessage(properties=Properties(subject=5)).encode()  # type: ignore[arg-type]

    def test_text(self) -> None:
        assert str(AMQPMessage("hé")) == str(amqp_decoder(bytes(AMQPMessage("hé")))) == "hé"
        assert str(AMQPMessage(b"a\xff")) == "a\\xff"
        assert str(AMQPMessage()) == str(AMQPMessage(value=None)) == ""
        assert str(AMQPMessage(value=ULong(5))) == "5"
        assert str(AMQPMessage(sequence=[1, "a"])) == "[1, 'a']"
        assert repr(AMQPMessage()) == "AMQPMessage()"
        assert repr(AMQPMessage(b"x", publishing_id=3, footer={"a": 1})) == (
            "AMQPMessage(body=b'x', footer={'a': 1}, publishing_id=3)"
        )
        assert repr(AMQPMessage(value=None)) == "AMQPMessage(value=None)"
        assert len(repr(AMQPMessage(bytes(10_000)))) < 400

    def test_equality(self) -> None:
        assert AMQPMessage("x") == AMQPMessage(b"x", publishing_id=1) != AMQPMessage(b"y")
        assert AMQPMessage() == AMQPMessage(b"") == amqp_decoder(b"")
        assert AMQPMessage(value=None) != AMQPMessage()
        assert AMQPMessage(value=b"x") != AMQPMessage(b"x")
        assert AMQPMessage(b"x", properties=Properties(to="a")) != AMQPMessage(b"x")
        assert AMQPMessage(b"x", properties=Properties()) == AMQPMessage(b"x", footer={})
        assert AMQPMessage(b"x") != b"x"
        with pytest.raises(TypeError):
            hash(AMQPMessage())

    @pytest.mark.parametrize("decoded", [False, True])
    def test_copies_and_pickles(self, decoded: bool) -> None:
        message = AMQPMessage(b"x", properties=Properties(to="a"), publishing_id=5)
        if decoded:
            message = amqp_decoder(bytes(message))
        for other in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
            assert other == message
            assert other.publishing_id == message.publishing_id


def kinds(message: AMQPMessage) -> tuple[Any, ...]:
    return message.body, message.value, message.sequence, message.body_type


class TestChanges:
    # durable as 56 01, an annotation with a long size, properties with nulls at the end: nothing we would write
    ODD = "005370c003015601" + "005372d10000000900000002a301615401" + "005373c00502a1016140" + DATA

    def test_reading_changes_no_byte(self) -> None:
        shuffled = DATA + "005378c10502a3016140" + self.ODD[: -len(DATA)]
        for hexed in (self.ODD, shuffled):
            message = amqp_decoder(bytes.fromhex(hexed))
            assert (message.header, message.message_annotations) == (Header(durable=True), {"a": 1})
            assert message.properties == Properties(message_id="a")
            assert message.footer == (None if hexed == self.ODD else {"a": None})
            assert (message.body, message.value, message.sequence) == (b"x", None, None)
            assert bytes(message).hex() == hexed
            message.header = Header(durable=True)  # says the same
            assert bytes(message).hex() == hexed

    def test_a_change_keeps_the_other_sections(self) -> None:
        message = amqp_decoder(bytes.fromhex(self.ODD))
        message.properties = Properties(message_id="b")
        expected = self.ODD.replace("c00502a1016140", "c00401a10162")
        assert bytes(message).hex() == expected
        message.application_properties = {"k": True}
        assert bytes(message).hex() == expected[: -len(DATA)] + "005374c10502a1016b41" + DATA
        message.body = "é"
        assert bytes(message).hex().endswith("005375a002c3a9")
        assert amqp_decoder(bytes(message)) == message

    def test_changes_inside_what_was_read(self) -> None:
        message = amqp_decoder(bytes.fromhex(self.ODD))
        assert message.properties is not None
        assert message.message_annotations is not None
        message.properties.subject = "s"
        message.message_annotations["b"] = 2
        again = amqp_decoder(bytes(message))
        assert again.properties == Properties(message_id="a", subject="s")
        assert again.message_annotations == {"a": Int(1), "b": 2}
        assert type(again.message_annotations["a"]) is Int
        assert bytes(message).hex().startswith("005370c003015601")

    @pytest.mark.parametrize("decoded", [False, True])
    def test_one_body_replaces_another(self, decoded: bool) -> None:
        message = AMQPMessage(b"x", properties=Properties(to="t"))
        if decoded:
            message = amqp_decoder(bytes(message))
        for _ in range(2):
            message.value = None
            assert (message.body, message.value, message.sequence, message.body_type) == (
                None,
                None,
                None,
                "value",
            )
            assert amqp_decoder(bytes(message)).body_type == "value"
            message.sequence = [1]
            assert kinds(message) == (None, None, [1], "sequence")
            assert amqp_decoder(bytes(message)).sequence == [1]
            message.body = b"y"
            assert (message.body, message.value, message.sequence, message.body_type) == (
                b"y",
                None,
                None,
                "data",
            )
            assert amqp_decoder(bytes(message)).body == b"y"
        message.sequence = None
        assert (message.body, message.body_type) == (None, "data")
        assert bytes(message).endswith(b"\0Su\xa0\0")
        assert amqp_decoder(bytes(message)).properties == Properties(to="t")

    def test_sequences_are_one(self) -> None:
        message = amqp_decoder(bytes.fromhex("005376c003015501" + "00537645" + "005376c003015502"))
        assert message.sequence == [1, 2]
        assert len(bytes(message)) == 20
        message.sequence.append(3)
        assert amqp_decoder(bytes(message)).sequence == [1, 2, 3]

    def test_sections_of_a_body(self) -> None:
        assert (AMQPMessage(b"x").data_sections, AMQPMessage(b"x").sequence_sections) == ([b"x"], None)
        assert (AMQPMessage(sequence=[1]).data_sections, AMQPMessage(sequence=[1]).sequence_sections) == (None, [[1]])
        for message in (AMQPMessage(value=None), amqp_decoder(b"")):
            assert (message.data_sections, message.sequence_sections) == (None, None)
        assert amqp_decoder(bytes.fromhex(DATA)).data_sections == [b"x"]

    def test_several_data_sections(self) -> None:
        data = bytes.fromhex("005375a00161" + "005375a000" + "005375b00000000162")
        message = amqp_decoder(data)
        assert (message.body, message.data_sections) == (b"ab", [b"a", b"", b"b"])
        assert bytes(message) == data
        message.properties = Properties(subject="s")
        message.application_properties = {"k": 1}
        assert bytes(message).endswith(data)
        assert amqp_decoder(bytes(message)).data_sections == [b"a", b"", b"b"]
        message.body = message.body
        assert message.data_sections == [b"ab"]
        assert amqp_decoder(bytes(message)).data_sections == [b"ab"]

    def test_several_sequence_sections(self) -> None:
        data = bytes.fromhex("005376c003015501" + "00537645" + "005376c003015502")
        message = amqp_decoder(data)
        assert message.sequence_sections == [[1], [], [2]]
        message.properties = Properties(subject="s")
        assert bytes(message).endswith(data)
        assert message.sequence is not None
        message.sequence.append(3)
        assert message.sequence_sections == [[1, 2, 3]]
        assert amqp_decoder(bytes(message)).sequence_sections == [[1, 2, 3]]

    def test_a_mutable_value(self) -> None:
        message = amqp_decoder(bytes(AMQPMessage(value={"a": [1]})))
        value: Any = message.value
        value["a"].append(2)
        assert amqp_decoder(bytes(message)).value == {"a": [1, 2]}


class TestBatches:
    @pytest.mark.parametrize("size", [0, 1, 100, 254, 255, 256, 257, 4999, 70_000])
    def test_equal_to_the_general_path(self, size: int) -> None:
        body = bytes(size)
        general = bytes.fromhex("005375") + encode_value(body)
        assert encode_bodies([body, b"x"]) == [general, b"\0Su\xa0\x01x"]
        assert bodies_of([general, general]) == [body, body]
        assert body_of(general) == body

    def test_many_lengths(self) -> None:  # more than are remembered
        bodies = [bytes(size) for size in range(5000)]
        encoded = encode_bodies(bodies)
        assert encoded == [bytes(AMQPMessage(body)) for body in bodies]
        assert bodies_of(encoded) == bodies

    def test_only_bytes(self) -> None:
        with pytest.raises(TypeError):
            encode_bodies(["x"])  # type: ignore[list-item]
        assert encode_bodies([]) == bodies_of([]) == []


class TestEncodeMessage:
    def test_bytes_pass(self) -> None:
        assert (
            encode_message(b"raw") == encode_message(bytearray(b"raw")) == encode_message(memoryview(b"raw")) == b"raw"
        )
        assert type(encode_message(bytearray(b"raw"))) is bytes

    @pytest.mark.parametrize("other", ["text", 5, None, Properties()])
    def test_nothing_else_does(self, other: Any) -> None:
        with pytest.raises(TypeError, match="can be sent"):
            encode_message(other)


def test_uamqp_is_not_imported() -> None:
    code = "import sys; from rstream_core.protocol.amqp import *; AMQPMessage('x').encode()"
    code += "; print('uamqp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_without_uamqp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uamqp", None)
    with pytest.raises(ConfigurationError, match="to_uamqp needs uamqp") as found:
        AMQPMessage(b"x").to_uamqp()
    assert "rstream-cli[uamqp]" in str(found.value.hint)
    with pytest.raises(TypeError, match="uamqp"):
        AMQPMessage.from_uamqp(b"x")


def test_no_module_needs_uamqp() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["uamqp"] = None
for name in ("rstream_core", "rstream_cli", "rstream_pytest"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from rstream_core import AMQPMessage, Properties, amqp_decoder
message = AMQPMessage("x", properties=Properties(message_id=1), application_properties={"k": 1})
assert amqp_decoder(bytes(message)) == message
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (3, "a body is bytes or str, not int: pass it as value=..."),
        (True, "a body is bytes or str, not bool: pass it as value=..."),
        ({"a": 1}, "a body is bytes or str, not dict: pass it as value=..."),
        ([1, 2], "a body is bytes or str, not list: pass it as sequence=..."),
        ((b"x",), "a body is bytes or str, not tuple: pass it as sequence=..."),
    ],
)
def test_bodies_that_are_none(body: Any, words: str) -> None:
    """Reading one made so many NULs of a number, and bytes of a list of them."""
    message = AMQPMessage(body)
    later = AMQPMessage()
    later.body = body
    for made in (message, later):
        for use in (AMQPMessage.encode, bytes, str, lambda given: given.body):
            with pytest.raises(TypeError) as raised:
                use(made)
            assert str(raised.value) == words
        assert repr(made) == f"AMQPMessage(<not to be sent: {words}>)"


def test_the_repr_of_what_cannot_be_sent() -> None:
    assert repr(AMQPMessage("\udcff")).startswith("AMQPMessage(<not to be sent: 'utf-8' codec can't encode")
    assert repr(AMQPMessage(properties={"subject": "x"})) == "AMQPMessage(properties={'subject': 'x'})"


def test_a_text_is_no_message() -> None:
    with pytest.raises(TypeError, match=r"can be sent, not str: AMQPMessage\(body=\.\.\.\) makes a message of it$"):
        encode_message("text")
