"""AMQP values as JSON, with a tag where JSON does not have their type. ``FORMS`` has a row for each type.

JSON's null, true, strings, lists and objects are AMQP's null, boolean, string, list and map; a
whole number is a long, and one with a fraction or an exponent a double. Values of all other types are tagged: an
object with one key, ``$`` and the type's name in AMQP's specification, such as ``{"$ulong":5}``. ``$binary`` holds
base64, the decimals hex digits, ``$timestamp`` milliseconds; ``$float`` and ``$double`` hold a number or "nan", "inf",
"-inf" (or "0x" and the bits, for other NaNs). ``{"$map":[[key,value],…]}`` is a map with keys other than
strings, or whose only key begins with ``$``; its keys may differ only by their types, and may be lists or maps.
``{"$array":{"type":"uint","items":[…]}}`` has "descriptors" if its items are described. A described value is
``{"$described":[descriptor,value]}``. Types that need no tag may have one. A whole number from 2^63 to 2^64-1 is read
as a ulong, since no other type holds it.
"""

from __future__ import annotations

import binascii
import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson

from rstream_cli.records.paths import Path, extract
from rstream_core.protocol.amqp_codec import AmqpMap, map_of
from rstream_core.protocol.amqp_types import (
    AmqpValue,
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

Json = Any
"""A value that orjson writes and reads."""


class EnvelopeError(ValueError):
    """A line is not an envelope, or JSON cannot hold a message. The text says in one line what is wrong."""


def value_to_json(value: AmqpValue) -> Json:
    """Returns an AMQP value in the form that orjson writes, with a tag if JSON does not have the type.

    Raises EnvelopeError for a Python type that stands for no AMQP type, or a number beyond 64 bits.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    dump = _DUMPERS.get(kind)
    if dump is None:
        for base in kind.__mro__:
            if dump := _DUMPERS.get(base):
                break
        else:
            raise EnvelopeError(f"no AMQP type for {kind.__name__}")
    return dump(value)


def _dump_int(value: int) -> Json:
    if -(2**63) <= value < 2**63:
        return int(value)
    if 0 < value < 2**64:
        return {"$ulong": int(value)}
    raise EnvelopeError(f"{int(value)} does not fit 64 bits")


def _dump_float(value: float) -> Json:
    return float(value) if math.isfinite(value) else {"$double": _number(value, ">d")}


def _dump_dict(value: dict[Any, Any]) -> Json:
    # isinstance would take symbols as strings, but they are different keys on the wire.
    if all(type(key) is str for key in value) and not looks_tagged(value):
        return {key: value_to_json(item) for key, item in value.items()}
    return {"$map": _pairs(value)}


def list_to_json(value: list[Any] | tuple[Any, ...]) -> Json:
    return [value_to_json(item) for item in value]


def looks_tagged(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _pairs(value: dict[Any, Any] | AmqpMap) -> Json:
    return [[value_to_json(key), value_to_json(item)] for key, item in value.items()]


def _number(value: float, layout: str) -> Json:
    """Returns a finite number itself; for others "nan", "inf", "-inf", or the bits of another NaN."""
    if math.isfinite(value):
        return float(value)
    if not math.isnan(value):
        return "inf" if value > 0 else "-inf"
    bits = struct.pack(layout, value)
    return "nan" if bits == struct.pack(layout, math.nan) else f"0x{bits.hex()}"


def _array(value: Array) -> Json:
    dump = FORMS[value.type_name].dump
    shown: dict[str, Json] = {"type": value.type_name, "items": [dump(item) for item in value]}
    if value.descriptors:
        shown["descriptors"] = [value_to_json(descriptor) for descriptor in value.descriptors]
    return shown


def _milliseconds(value: int | dt.datetime) -> int:
    return int(Timestamp.from_datetime(value) if isinstance(value, dt.datetime) else value)


def to_base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


class _Written(float):
    """A number that has a fraction or an exponent in the JSON text."""


class _AmbiguousNumber(Exception):
    """Raised for a large float: orjson also makes one of a whole number beyond 64 bits."""


def parse_value(text: str | bytes) -> AmqpValue:
    """Returns the AMQP value of a JSON text. Raises EnvelopeError."""
    return read_json(text, value_from_json)[0]


def value_from_json(value: Json) -> AmqpValue:
    """Returns the AMQP value of a value that orjson has read. Raises EnvelopeError."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return _load_int(value)
    if kind is dict:
        if len(value) == 1:
            (key,) = value
            if key[:1] == "$":
                return from_tagged(key, value[key])
        return {key: value_from_json(item) for key, item in value.items()}
    if kind is list:
        return [value_from_json(item) for item in value]
    if kind is float and not -(2.0**63) < value < 2.0**63:
        raise _AmbiguousNumber
    return float(value)


def _load_int(value: int) -> int:
    if -(2**63) <= value < 2**63:
        return value
    if 0 < value < 2**64:
        return ULong(value)
    raise EnvelopeError(f"{value} does not fit 64 bits")


def from_tagged(tag: str, content: Json, load: Callable[[Json], Any] | None = None) -> AmqpValue:
    """Returns the value behind a tag. ``load``, if given, replaces the usual function of its type."""
    row = FORMS.get(tag[1:])
    if row is None:
        raise EnvelopeError(
            f'unknown type {quoted(tag)}; a map with such a key is {{"$map":[[{quoted(tag)},…]]}}, and the types are'
            f" {' '.join('$' + name for name in FORMS)}"
        )
    try:
        return (load or row.load)(content)
    except EnvelopeError as error:
        raise EnvelopeError(f"{tag}: {error}") from None


def expect(value: Json, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EnvelopeError(f"must be {what}, not {kind_of(value)}")
    return value


def whole_number(cls: type[int], low: int = 0, high: int = 0) -> Callable[[Json], Any]:
    def load(value: Json) -> Any:
        if isinstance(value, float):
            raise EnvelopeError(f"must be a whole number of 64 bits, not {value!r}")
        number = expect(value, int, "a whole number")
        if cls is int and not low <= number <= high:
            raise EnvelopeError(f"{number} does not fit a long ({low} to {high})")
        try:
            return cls(number)
        except ValueError as error:
            raise EnvelopeError(str(error)) from None

    return load


def text_as(cls: Callable[[str], Any]) -> Callable[[Json], Any]:
    def load(value: Json) -> Any:
        text = expect(value, str, "a string")
        try:
            return cls(text)
        except ValueError as error:
            raise EnvelopeError(str(error)) from None

    return load


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise EnvelopeError(f"not a uuid: {quoted(text)}") from None


def from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters that are not ASCII
        raise EnvelopeError(f"not base64: {str(error).lower()}") from None


def _decimal(cls: type[Decimal32 | Decimal64 | Decimal128]) -> Callable[[Json], Any]:
    def parse(text: str) -> Any:
        try:
            return cls(binascii.unhexlify(text))
        except ValueError:
            raise EnvelopeError(f"needs {2 * cls.width} hex digits, not {quoted(text)}") from None

    return text_as(parse)


_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _floating(cls: type[float], layout: str) -> Callable[[Json], Any]:
    size = struct.calcsize(layout)

    def load(value: Json) -> Any:
        if isinstance(value, str):
            return cls(_floating_text(value, layout, size))
        try:
            return cls(expect(value, (int, float), 'a number, or "nan", "inf", "-inf"'))
        except (ValueError, OverflowError) as error:
            raise EnvelopeError(str(error)) from None

    return load


def _floating_text(text: str, layout: str, size: int) -> float:
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    try:
        bits = binascii.unhexlify(text.removeprefix("0x"))
    except ValueError:
        bits = b""
    if not text.startswith("0x") or len(bits) != size:
        raise EnvelopeError(f'a number, "nan", "inf", "-inf" or 0x and {2 * size} hex digits, not {quoted(text)}')
    return float(struct.unpack(layout, bits)[0])


def list_from_json(value: Json) -> list[Any]:
    return [value_from_json(item) for item in expect(value, list, "a list")]


def map_from_pairs(value: Json, text: Callable[[str], str] = str) -> dict[Any, Any] | AmqpMap:
    """Reads the pairs of a map. ``text`` converts a key that is a string without a tag."""
    pairs = []
    for pair in expect(value, list, "a list of pairs"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise EnvelopeError("must be a list of pairs: [[key,value],…]")
        key = text(pair[0]) if type(pair[0]) is str else value_from_json(pair[0])
        pairs.append((key, value_from_json(pair[1])))
    try:
        return map_of(pairs)
    except (TypeError, ValueError) as error:
        raise EnvelopeError(str(error)) from None


def _load_array(value: Json) -> Array:
    shown = expect(value, dict, 'an object: {"type":…,"items":[…]}')
    unknown = shown.keys() - {"type", "items", "descriptors"}
    if unknown or "type" not in shown or "items" not in shown:
        raise EnvelopeError('needs "type" and "items", and takes "descriptors"')
    name = shown["type"]
    row = FORMS.get(name) if isinstance(name, str) and name != "described" else None
    if row is None:
        raise EnvelopeError(f'"type" must be the name of a type, not {quoted(name)}')
    items = [row.load(item) for item in expect(shown["items"], list, 'a list of "items"')]
    descriptors = list_from_json(shown.get("descriptors", []))
    return Array(items, name, descriptors=descriptors)


def _load_described(value: Json) -> Described:
    if not isinstance(value, list) or len(value) != 2:
        raise EnvelopeError("must be a pair: [descriptor,value]")
    return Described(value_from_json(value[0]), value_from_json(value[1]))


class JsonForm(NamedTuple):
    dump: Callable[[Any], Json]
    """Converts a value to JSON without a tag, as behind a tag or among an array's items."""
    load: Callable[[Json], Any]
    """Converts such JSON back to a value. Raises EnvelopeError."""
    classes: tuple[type, ...]
    """The Python types that stand for the AMQP type."""


FORMS: Final[dict[str, JsonForm]] = {
    "null": JsonForm(lambda _: None, lambda value: expect(value, type(None), "null"), ()),
    "boolean": JsonForm(bool, lambda value: expect(value, bool, "true or false"), ()),
    "ubyte": JsonForm(int, whole_number(UByte), (UByte,)),
    "ushort": JsonForm(int, whole_number(UShort), (UShort,)),
    "uint": JsonForm(int, whole_number(UInt), (UInt,)),
    "ulong": JsonForm(int, whole_number(ULong), (ULong,)),
    "byte": JsonForm(int, whole_number(Byte), (Byte,)),
    "short": JsonForm(int, whole_number(Short), (Short,)),
    "int": JsonForm(int, whole_number(Int), (Int,)),
    "long": JsonForm(int, whole_number(int, -(2**63), 2**63 - 1), ()),
    "float": JsonForm(lambda value: _number(value, ">f"), _floating(Float32, ">f"), (Float32,)),
    "double": JsonForm(lambda value: _number(value, ">d"), _floating(float, ">d"), ()),
    "decimal32": JsonForm(bytes.hex, _decimal(Decimal32), (Decimal32,)),
    "decimal64": JsonForm(bytes.hex, _decimal(Decimal64), (Decimal64,)),
    "decimal128": JsonForm(bytes.hex, _decimal(Decimal128), (Decimal128,)),
    "char": JsonForm(str, text_as(Char), (Char,)),
    "timestamp": JsonForm(_milliseconds, whole_number(Timestamp), (Timestamp, dt.datetime)),
    "uuid": JsonForm(str, text_as(_uuid), (uuid.UUID,)),
    "binary": JsonForm(to_base64, text_as(from_base64), (bytes, bytearray, memoryview)),
    "string": JsonForm(str, text_as(str), ()),
    "symbol": JsonForm(str, text_as(Symbol), (Symbol,)),
    "list": JsonForm(list_to_json, list_from_json, ()),
    "map": JsonForm(_pairs, map_from_pairs, ()),
    "array": JsonForm(_array, _load_array, (Array,)),
    "described": JsonForm(
        lambda value: [value_to_json(value.descriptor), value_to_json(value.value)],
        _load_described,
        (Described,),
    ),
}
"""The AMQP types by their names in the specification, with the functions to write and read values without a tag."""


def _tagging(tag: str, dump: Callable[[Any], Json]) -> Callable[[Any], Json]:
    return lambda value: {tag: dump(value)}


_DUMPERS: Final[dict[type, Callable[[Any], Json]]] = {
    bool: bool,
    int: _dump_int,
    float: _dump_float,
    str: str,
    list: list_to_json,
    tuple: list_to_json,
    dict: _dump_dict,
    AmqpMap: lambda value: {"$map": _pairs(value)},
    **{cls: _tagging(f"${name}", row.dump) for name, row in FORMS.items() for cls in row.classes},
}
"""The function for each Python type that writes a value, with a tag where JSON does not tell the type."""


def dumps(value: Json) -> bytes:
    """Returns compact JSON text. Raises EnvelopeError for values that JSON cannot hold."""
    try:
        return orjson.dumps(value)
    except TypeError as error:  # lone surrogates, integers beyond 64 bits, too deep
        raise EnvelopeError(f"JSON cannot hold this message: {error}") from None


def at_path(document: Json, path: Path) -> Any:
    """Returns the value at a path of a JSON body or an envelope, without its tag. Raises PathError, EnvelopeError."""
    found = extract(document, path)
    try:
        return value_from_json(found) if type(found) is dict else found
    except _AmbiguousNumber:
        raise EnvelopeError("a number in it is beyond 64 bits") from None


def loads(text: bytes | str) -> Json:
    """Parses JSON. Raises EnvelopeError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise EnvelopeError(f"not JSON: {error.msg} at column {error.colno}") from None


def read_json(text: bytes | str, load: Callable[[Json], Any]) -> tuple[Any, Json]:
    """Parses JSON, and returns the result of ``load`` for it, and the JSON."""
    document = loads(text)
    try:
        try:
            return load(document), document
        except _AmbiguousNumber:
            # orjson makes floats of whole numbers beyond 64 bits; Python's slower parser does not.
            import json

            document = json.loads(text, parse_float=_Written)
            return load(document), document
    except RecursionError:
        raise EnvelopeError("nested too deeply") from None


def quoted(text: object) -> str:
    """Returns the text as JSON, shortened to 60 characters."""
    shown = orjson.dumps(text).decode()
    return shown if len(shown) <= 60 else f'{shown[:59]}…"'


_KINDS: Final = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    _Written: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
