"""The JSON envelope: one message as one line of JSON, in the same format for input and output.

``consume --json`` writes it, ``publish --json`` reads it, and ``--failed-to`` writes it for a second attempt. A message
that is written and read again has the same bytes in its body, and the same AMQP types everywhere. ``_TYPES`` is the
complete mapping of values, one row for each type.

=====================  ======================================================================================
``stream`` ``offset``  where the message was; ignored in input
``timestamp``          when its chunk was written, ``2026-08-21T10:00:00.123Z``; ignored in input
``properties``         an object; output always has it and the next two
``headers``            the application properties: keys are strings
``annotations``        the message annotations: keys are symbols
``header``             durable, priority, ttl, first_acquirer, delivery_count; if present
``delivery_annotations``  if present
``body``               the body if it is UTF-8; null: there is no body; absent in input: an empty body
``body_base64``        the body if it is not UTF-8
``value``              the body if it is one AMQP value (null is one)
``sequence``           the body if it is an AMQP sequence: a list
``body_sections``      the body if it is several data sections: a list, each like ``user_id`` below
``sequence_sections``  the body if it is several AMQP sequences: a list of lists
``footer``             if present
``filter``             the filter value, a string; only from ``--failed-to``: a broker does not return it
``failed``             why it failed, from ``--failed-to``; ignored in input
=====================  ======================================================================================

**Values.** JSON's null, true, strings, lists and objects are AMQP's null, boolean, string, list and map; a
whole number is a long, and one with a fraction or an exponent a double. Values of all other types are tagged: an
object with one key, ``$`` and the type's name in AMQP's specification, such as ``{"$ulong":5}``. ``$binary`` holds
base64, the decimals hex digits, ``$timestamp`` milliseconds; ``$float`` and ``$double`` hold a number or "nan", "inf",
"-inf" (or "0x" and the bits, for other NaNs). ``{"$map":[[key,value],…]}`` is a map with keys other than
strings, or whose only key begins with ``$``; its keys may differ only by their types, and may be lists or maps.
``{"$array":{"type":"uint","items":[…]}}`` has "descriptors" if its items are described. A described value is
``{"$described":[descriptor,value]}``. Types that need no tag may have one. A whole number from 2^63 to 2^64-1 is read
as a ulong, since no other type holds it.

**Fields of** ``properties`` **and** ``header`` have fixed types and need no tag: ``user_id`` is binary
(a string stands for its UTF-8 bytes, other bytes are ``{"$binary":…}``), ``content_type`` and ``content_encoding``
are symbols, times are milliseconds, ``group_sequence`` is a uint. In ``message_id`` and ``correlation_id`` a
string is a string and a whole number a ulong; other types are tagged. A null is an absent field, and an empty
section an absent section.
"""

from __future__ import annotations

import binascii
import codecs
import datetime as dt
import functools
import math
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from rstream_cli.records.paths import Path, extract
from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, bodies_of, encode_bodies
from rstream_core.protocol.amqp_codec import AmqpMap, map_of
from rstream_core.protocol.amqp_sections import DATA, VALUE, PlainMessages, locate
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


class Envelope(NamedTuple):
    """The contents of a line."""

    message: AMQPMessage
    filter_value: str | None
    document: dict[str, Json]
    """The line's JSON object, for options that read from it (``--id-from .headers.n``)."""


# --- encoding values ----------------------------------------------------------------------------------------------


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
    if all(type(key) is str for key in value) and not _looks_tagged(value):
        return {key: value_to_json(item) for key, item in value.items()}
    return {"$map": _pairs(value)}


def _dump_list(value: list[Any] | tuple[Any, ...]) -> Json:
    return [value_to_json(item) for item in value]


def _looks_tagged(value: dict[Any, Any]) -> bool:
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
    dump = _TYPES[value.type_name].dump
    shown: dict[str, Json] = {"type": value.type_name, "items": [dump(item) for item in value]}
    if value.descriptors:
        shown["descriptors"] = [value_to_json(descriptor) for descriptor in value.descriptors]
    return shown


def _milliseconds(value: int | dt.datetime) -> int:
    return int(Timestamp.from_datetime(value) if isinstance(value, dt.datetime) else value)


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


# --- decoding values -----------------------------------------------------------------------------------------------


class _Written(float):
    """A number that has a fraction or an exponent in the JSON text."""


class _Ambiguous(Exception):
    """Raised for a large float: orjson also makes one of a whole number beyond 64 bits."""


def parse_value(text: str | bytes) -> AmqpValue:
    """Returns the AMQP value of a JSON text. Raises EnvelopeError."""
    return _with_document(text, value_from_json)[0]


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
                return _load_tagged(key, value[key])
        return {key: value_from_json(item) for key, item in value.items()}
    if kind is list:
        return [value_from_json(item) for item in value]
    if kind is float and not -(2.0**63) < value < 2.0**63:
        raise _Ambiguous
    return float(value)


def _load_int(value: int) -> int:
    if -(2**63) <= value < 2**63:
        return value
    if 0 < value < 2**64:
        return ULong(value)
    raise EnvelopeError(f"{value} does not fit 64 bits")


def _load_tagged(tag: str, content: Json, load: Callable[[Json], Any] | None = None) -> AmqpValue:
    """Returns the value behind a tag. ``load``, if given, replaces the usual function of its type."""
    row = _TYPES.get(tag[1:])
    if row is None:
        raise EnvelopeError(
            f'unknown type {_quote(tag)}; a map with such a key is {{"$map":[[{_quote(tag)},…]]}}, and the types are'
            f" {' '.join('$' + name for name in _TYPES)}"
        )
    try:
        return (load or row.load)(content)
    except EnvelopeError as error:
        raise EnvelopeError(f"{tag}: {error}") from None


def _expect(value: Json, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EnvelopeError(f"must be {what}, not {_kind(value)}")
    return value


def _ranged(cls: type[int], low: int = 0, high: int = 0) -> Callable[[Json], Any]:
    def load(value: Json) -> Any:
        if isinstance(value, float):
            raise EnvelopeError(f"must be a whole number of 64 bits, not {value!r}")
        number = _expect(value, int, "a whole number")
        if cls is int and not low <= number <= high:
            raise EnvelopeError(f"{number} does not fit a long ({low} to {high})")
        try:
            return cls(number)
        except ValueError as error:
            raise EnvelopeError(str(error)) from None

    return load


def _text(cls: Callable[[str], Any]) -> Callable[[Json], Any]:
    def load(value: Json) -> Any:
        text = _expect(value, str, "a string")
        try:
            return cls(text)
        except ValueError as error:
            raise EnvelopeError(str(error)) from None

    return load


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise EnvelopeError(f"not a uuid: {_quote(text)}") from None


def _from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters that are not ASCII
        raise EnvelopeError(f"not base64: {str(error).lower()}") from None


def _decimal(cls: type[Decimal32 | Decimal64 | Decimal128]) -> Callable[[Json], Any]:
    def parse(text: str) -> Any:
        try:
            return cls(binascii.unhexlify(text))
        except ValueError:
            raise EnvelopeError(f"needs {2 * cls.width} hex digits, not {_quote(text)}") from None

    return _text(parse)


_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _floating(cls: type[float], layout: str) -> Callable[[Json], Any]:
    size = struct.calcsize(layout)

    def load(value: Json) -> Any:
        if isinstance(value, str):
            return cls(_floating_text(value, layout, size))
        try:
            return cls(_expect(value, (int, float), 'a number, or "nan", "inf", "-inf"'))
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
        raise EnvelopeError(f'a number, "nan", "inf", "-inf" or 0x and {2 * size} hex digits, not {_quote(text)}')
    return float(struct.unpack(layout, bits)[0])


def _load_list(value: Json) -> list[Any]:
    return [value_from_json(item) for item in _expect(value, list, "a list")]


def _load_map(value: Json, text: Callable[[str], str] = str) -> dict[Any, Any] | AmqpMap:
    """Reads the pairs of a map. ``text`` converts a key that is a string without a tag."""
    pairs = []
    for pair in _expect(value, list, "a list of pairs"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise EnvelopeError("must be a list of pairs: [[key,value],…]")
        key = text(pair[0]) if type(pair[0]) is str else value_from_json(pair[0])
        pairs.append((key, value_from_json(pair[1])))
    try:
        return map_of(pairs)
    except (TypeError, ValueError) as error:
        raise EnvelopeError(str(error)) from None


def _load_array(value: Json) -> Array:
    shown = _expect(value, dict, 'an object: {"type":…,"items":[…]}')
    unknown = shown.keys() - {"type", "items", "descriptors"}
    if unknown or "type" not in shown or "items" not in shown:
        raise EnvelopeError('needs "type" and "items", and takes "descriptors"')
    name = shown["type"]
    row = _TYPES.get(name) if isinstance(name, str) and name != "described" else None
    if row is None:
        raise EnvelopeError(f'"type" must be the name of a type, not {_quote(name)}')
    items = [row.load(item) for item in _expect(shown["items"], list, 'a list of "items"')]
    descriptors = _load_list(shown.get("descriptors", []))
    return Array(items, name, descriptors=descriptors)


def _load_described(value: Json) -> Described:
    if not isinstance(value, list) or len(value) != 2:
        raise EnvelopeError("must be a pair: [descriptor,value]")
    return Described(value_from_json(value[0]), value_from_json(value[1]))


class _Type(NamedTuple):
    dump: Callable[[Any], Json]
    """Converts a value to JSON without a tag, as behind a tag or among an array's items."""
    load: Callable[[Json], Any]
    """Converts such JSON back to a value. Raises EnvelopeError."""
    classes: tuple[type, ...]
    """The Python types that stand for the AMQP type."""


_TYPES: Final[dict[str, _Type]] = {
    "null": _Type(lambda _: None, lambda value: _expect(value, type(None), "null"), ()),
    "boolean": _Type(bool, lambda value: _expect(value, bool, "true or false"), ()),
    "ubyte": _Type(int, _ranged(UByte), (UByte,)),
    "ushort": _Type(int, _ranged(UShort), (UShort,)),
    "uint": _Type(int, _ranged(UInt), (UInt,)),
    "ulong": _Type(int, _ranged(ULong), (ULong,)),
    "byte": _Type(int, _ranged(Byte), (Byte,)),
    "short": _Type(int, _ranged(Short), (Short,)),
    "int": _Type(int, _ranged(Int), (Int,)),
    "long": _Type(int, _ranged(int, -(2**63), 2**63 - 1), ()),
    "float": _Type(lambda value: _number(value, ">f"), _floating(Float32, ">f"), (Float32,)),
    "double": _Type(lambda value: _number(value, ">d"), _floating(float, ">d"), ()),
    "decimal32": _Type(bytes.hex, _decimal(Decimal32), (Decimal32,)),
    "decimal64": _Type(bytes.hex, _decimal(Decimal64), (Decimal64,)),
    "decimal128": _Type(bytes.hex, _decimal(Decimal128), (Decimal128,)),
    "char": _Type(str, _text(Char), (Char,)),
    "timestamp": _Type(_milliseconds, _ranged(Timestamp), (Timestamp, dt.datetime)),
    "uuid": _Type(str, _text(_uuid), (uuid.UUID,)),
    "binary": _Type(_base64, _text(_from_base64), (bytes, bytearray, memoryview)),
    "string": _Type(str, _text(str), ()),
    "symbol": _Type(str, _text(Symbol), (Symbol,)),
    "list": _Type(_dump_list, _load_list, ()),
    "map": _Type(_pairs, _load_map, ()),
    "array": _Type(_array, _load_array, (Array,)),
    "described": _Type(
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
    list: _dump_list,
    tuple: _dump_list,
    dict: _dump_dict,
    AmqpMap: lambda value: {"$map": _pairs(value)},
    **{cls: _tagging(f"${name}", row.dump) for name, row in _TYPES.items() for cls in row.classes},
}
"""The function for each Python type that writes a value, with a tag where JSON does not tell the type."""


# --- sections --------------------------------------------------------------------------------------------------


def _dump_id(value: Any) -> Json:
    return int(value) if isinstance(value, ULong) or type(value) is int else value_to_json(value)


def _load_id(value: Json) -> Any:
    if isinstance(value, dict):
        return value_from_json(value)
    if isinstance(value, str):
        return value
    return _ranged(ULong)(_expect(value, (int, float), "a string, a whole number or a tagged value"))


def _dump_binary(value: Any) -> Json:
    if isinstance(value, str):
        return str(value)
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return {"$binary": _base64(value)}


def _load_binary(value: Json) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        value = value_from_json(value)
    if not isinstance(value, bytes):
        raise EnvelopeError('must be a string or {"$binary":"base64"}')
    return value


def _field(name: str) -> _Type:
    """Returns the functions for a field of a fixed type: written without a tag, read with or without."""
    row = _TYPES[name]
    tag = f"${name}"

    def load(value: Json) -> Any:
        if isinstance(value, dict) and value.keys() == {tag}:
            value = value[tag]
        return row.load(value)

    return row._replace(load=load)


_ID = _Type(_dump_id, _load_id, ())
_HEADER_FIELDS: Final = {
    "durable": _field("boolean"),
    "priority": _field("ubyte"),
    "ttl": _field("uint"),
    "first_acquirer": _field("boolean"),
    "delivery_count": _field("uint"),
}
_PROPERTY_FIELDS: Final = {
    "message_id": _ID,
    "user_id": _Type(_dump_binary, _load_binary, ()),
    "to": _field("string"),
    "subject": _field("string"),
    "reply_to": _field("string"),
    "correlation_id": _ID,
    "content_type": _field("symbol"),
    "content_encoding": _field("symbol"),
    "absolute_expiry_time": _field("timestamp"),
    "creation_time": _field("timestamp"),
    "group_id": _field("string"),
    "group_sequence": _field("uint"),
    "reply_to_group_id": _field("string"),
}
PROPERTIES = tuple(_PROPERTY_FIELDS)
"""The names of all properties, as ``--property`` and the envelope have them."""
HEADER = tuple(_HEADER_FIELDS)
"""The names of all fields of the header, as the envelope has them."""


def _dump_fields(section: object, fields: dict[str, _Type]) -> dict[str, Json]:
    return {name: row.dump(value) for name, row in fields.items() if (value := getattr(section, name)) is not None}


def _load_fields(value: Json, fields: dict[str, _Type]) -> dict[str, Any]:
    loaded = {}
    for name, item in _expect(value, dict, "an object").items():
        row = fields.get(name)
        if row is None:
            raise EnvelopeError(f"unknown field {_quote(name)}; allowed: {', '.join(fields)}")
        if item is not None:
            try:
                loaded[name] = row.load(item)
            except EnvelopeError as error:
                raise EnvelopeError(f"{name}: {error}") from None
    return loaded


def _dump_section(entries: dict[Any, Any] | AmqpMap | None, text: type[str]) -> Json:
    """Writes a section whose keys are text of one wire type: ``text``, str or Symbol. Annotations may also have ulongs.

    Text of that type has no tag. In an AmqpMap all other keys have one, so that they stay different.
    """
    if not entries:
        return {}
    if not isinstance(entries, dict):
        return {"$map": [[_dump_key(key, text), value_to_json(item)] for key, item in entries.items()]}
    if all(isinstance(key, str) for key in entries) and not _looks_tagged(entries):
        return {str(key): value_to_json(item) for key, item in entries.items()}
    return {
        "$map": [
            [str(key) if isinstance(key, str) else {"$ulong": int(key)}, value_to_json(item)]
            for key, item in entries.items()
        ]
    }


def _dump_key(key: Any, text: type[str]) -> Json:
    if type(key) is text:
        return str(key)
    return {"$string": key} if type(key) is str else value_to_json(key)


def _load_section(value: Json, text: Callable[[str], str]) -> dict[Any, Any] | AmqpMap:
    """Reads a section. ``text`` converts string keys without a tag; only for an AmqpMap does it have an effect."""
    entries: Any
    section = _expect(value, dict, "an object")
    if section.keys() == {"$map"}:
        entries = _load_tagged("$map", section["$map"], functools.partial(_load_map, text=text))
    else:
        entries = value_from_json(section)
    if not isinstance(entries, dict | AmqpMap):
        raise EnvelopeError("must be an object, and this is a tagged value")
    return entries


def _load_headers(value: Json) -> dict[Any, Any] | AmqpMap:
    entries = _load_section(value, str)
    for key in entries:
        if not isinstance(key, str):
            raise EnvelopeError("keys are strings")
    return entries


def _load_annotations(value: Json) -> dict[Any, Any] | AmqpMap:
    loaded = _load_section(value, _annotation_text)
    entries: dict[Any, Any] = {}
    for key, item in loaded.items():
        if isinstance(key, str):
            entries[_annotation_text(key)] = item
        elif isinstance(key, int) and not isinstance(key, bool) and key >= 0:
            entries[ULong(key)] = item
        else:
            raise EnvelopeError("keys are strings or ulongs")
    return loaded if isinstance(loaded, AmqpMap) else entries


def _annotation_text(key: str) -> Symbol:
    if not key.isascii():
        raise EnvelopeError(f"keys are ASCII, and {_quote(key)} is not")
    return Symbol(key)


# --- encoding messages ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def iso_time(timestamp_ms: int) -> str:
    """Returns ``2026-08-21T10:00:00.123Z`` for milliseconds since 1970; the number itself outside years 1 to 9999."""
    try:
        when = Timestamp(timestamp_ms).to_datetime()
    except ValueError:
        return str(timestamp_ms)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z".rjust(24, "0")


def to_json(
    message: AMQPMessage,
    *,
    stream: str | None = None,
    offset: int | None = None,
    timestamp_ms: int | None = None,
    filter_value: str | None = None,
    failed: str | None = None,
) -> bytes:
    """Returns one line of JSON, without its newline. Arguments that are None are left out.

    ``timestamp_ms``: milliseconds since 1970. Raises EnvelopeError for values that JSON cannot hold, which a decoded
    message never has, and rstream_core.errors.AmqpError for a malformed message.
    """
    document = to_document(message, stream, offset, timestamp_ms)
    if filter_value is not None:
        document["filter"] = filter_value
    if failed is not None:
        document["failed"] = failed
    return dumps(document)


def to_document(
    message: AMQPMessage, stream: str | None = None, offset: int | None = None, timestamp_ms: int | None = None
) -> dict[str, Json]:
    """Returns the envelope as an object for orjson. See :func:`to_json`, also for the errors."""
    document: dict[str, Json] = {}
    if stream is not None:
        document["stream"] = stream
    if offset is not None:
        document["offset"] = offset
    if timestamp_ms is not None:
        document["timestamp"] = iso_time(timestamp_ms)
    document["properties"] = properties_to_json(message)
    document["headers"] = headers_to_json(message)
    document["annotations"] = _dump_section(message.message_annotations, Symbol)
    if header := message.header:
        document["header"] = _dump_fields(header, _HEADER_FIELDS)
    if annotations := message.delivery_annotations:
        document["delivery_annotations"] = _dump_section(annotations, Symbol)
    _dump_body(message, document)
    if footer := message.footer:
        document["footer"] = _dump_section(footer, Symbol)
    return document


def json_blocks(record: bytes, *, stream: str, offset: int, timestamp_ms: int, raw: bool = False) -> Iterator[bytes]:
    """Yields :func:`to_json` of one large record in blocks, since the text may be six times as large as the record.

    If the body is data or a text, only a block of it is copied at a time. Raises like :func:`to_json`, before the first
    block. ``raw``: see :func:`batch_to_json`.
    """
    found = (memoryview(record), b"") if raw else large_body(record)
    body, rest = (None, record) if found is None else found
    message = AMQPMessage(b"") if raw else AMQPMessage.from_bytes(rest)
    document = to_document(message, stream, offset, timestamp_ms)
    dumps(document)  # raises now if JSON cannot hold it
    return _blocks(document, body, "value" if "value" in document else "body")


def large_body(record: bytes) -> tuple[memoryview, bytes] | None:
    """Returns a view of a message's body, and the message with an empty body instead.

    Returns None unless the body is one data section, or one value that is a text. Raises AmqpError if it is malformed.
    """
    spans = locate(record)
    for code, constructors in _LARGE_BODIES.items():
        found = spans.get(code, [])
        if len(found) == 1:
            pos, start, end = found[0]
            if record[start] in constructors:
                body = memoryview(record)[start + 5 : end]
                if code == VALUE and not _is_utf8(body):
                    raise AmqpError("text that is not UTF-8")
                # The empty body has the short form of its type.
                return body, record[:pos] + b"\0\x53%c%c\0" % (code, record[start] - 0x10) + record[end:]
    return None


_LARGE_BODIES = {DATA: (0xB0,), VALUE: (0xB1,)}


def _blocks(document: dict[str, Json], body: memoryview | None, key: str) -> Iterator[bytes]:
    if body is None:
        yield dumps(document)
        return
    is_text = key == "value" or _is_utf8(body)
    before = b"{"
    for name, value in document.items():
        if name != key:
            yield before + dumps(name) + b":" + dumps(value)
        elif is_text:
            yield before + dumps(name) + b':"'
            decoder = _UTF8()
            for start in range(0, len(body), _BLOCK):
                part = body[start : start + _BLOCK]
                yield dumps(decoder.decode(part, final=start + _BLOCK >= len(body)))[1:-1]
            yield b'"'
        else:
            yield before + b'"body_base64":"'
            for start in range(0, len(body), _BLOCK):
                yield binascii.b2a_base64(body[start : start + _BLOCK], newline=False)
            yield b'"'
        before = b","
    yield b"}"


def _is_utf8(data: memoryview) -> bool:
    decoder = _UTF8()
    try:
        for start in range(0, len(data), _BLOCK):
            decoder.decode(data[start : start + _BLOCK], final=start + _BLOCK >= len(data))
    except UnicodeDecodeError:
        return False
    return True


_UTF8 = codecs.getincrementaldecoder("utf-8")
_BLOCK = 3 << 18
"""Bytes of a large body that are encoded at a time: a multiple of 3, so that their Base64 has no padding."""


def batch_to_json(
    records: Sequence[bytes], *, stream: str, offsets: Iterable[int], timestamp_ms: int, raw: bool = False
) -> list[bytes]:
    """Returns :func:`to_json` of each record of a chunk, in order; much faster for records that are only bodies.

    ``raw``: the records are not AMQP messages, but bodies (``--codec raw``). ``timestamp_ms``: milliseconds since 1970.
    Raises like :func:`to_json`, for the first record that cannot be written.
    """
    bodies: Sequence[bytes | None] = records if raw else bodies_of(records)
    is_plain = raw or type(records) is PlainMessages
    plain = records if is_plain else encode_bodies([body or b"" for body in bodies])
    start = b'{"stream":%b,"offset":' % dumps(stream)
    middle = b',"timestamp":%b,"properties":{},"headers":{},"annotations":{},"body":' % dumps(iso_time(timestamp_ms))
    lines = []
    for record, body, alone, offset in zip(records, bodies, plain, offsets, strict=True):
        if body is not None and alone == record:
            try:
                lines.append(b"%b%d%b%b}" % (start, offset, middle, dumps(body.decode())))
                continue
            except UnicodeDecodeError:
                pass
        message = AMQPMessage(record) if raw else AMQPMessage.from_bytes(record)
        lines.append(to_json(message, stream=stream, offset=offset, timestamp_ms=timestamp_ms))
    return lines


def properties_to_json(message: AMQPMessage) -> dict[str, Json]:
    """Returns the ``properties`` of the envelope, for orjson. Raises like :func:`to_json`."""
    properties = message.properties
    return {} if properties is None else _dump_fields(properties, _PROPERTY_FIELDS)


def headers_to_json(message: AMQPMessage) -> dict[str, Json]:
    """Returns the ``headers`` of the envelope, for orjson. Raises like :func:`to_json`."""
    section: dict[str, Json] = _dump_section(message.application_properties, str)
    return section


def body_bytes(message: AMQPMessage) -> bytes:
    """Returns the body for byte outputs: the bytes of data, or of a value that is a string or binary.

    Any other value, or a sequence, becomes JSON. Returns b"" if there is no body. Raises like :func:`to_json`.
    """
    body = message.body
    if body is not None:
        return body
    kind = message.body_type
    if kind == "value":
        value = message.value
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes):
            return bytes(value)
        return dumps(value_to_json(value))
    return dumps(_dump_list(message.sequence or [])) if kind == "sequence" else b""


def _dump_body(message: AMQPMessage, document: dict[str, Json]) -> None:
    body = message.body
    if body is not None:
        parts = message.data_sections or []
        if len(parts) > 1:
            document["body_sections"] = [_dump_binary(part) for part in parts]
            return
        try:
            document["body"] = body.decode()
        except UnicodeDecodeError:
            document["body_base64"] = _base64(body)
        return
    kind = message.body_type
    if kind == "value":
        document["value"] = value_to_json(message.value)
    elif kind == "sequence":
        rows = message.sequence_sections or [[]]
        if len(rows) > 1:
            document["sequence_sections"] = [_dump_list(row) for row in rows]
        else:
            document["sequence"] = _dump_list(rows[0])
    else:
        document["body"] = "" if kind == "data" else None


def dumps(value: Json) -> bytes:
    """Returns compact JSON text. Raises EnvelopeError for values that JSON cannot hold."""
    try:
        return orjson.dumps(value)
    except TypeError as error:  # lone surrogates, integers beyond 64 bits, too deep
        raise EnvelopeError(f"JSON cannot hold this message: {error}") from None


# --- decoding messages -----------------------------------------------------------------------------------------------

_BODIES: Final = ("body", "body_base64", "value", "sequence", "body_sections", "sequence_sections")
_IGNORED: Final = ("stream", "offset", "timestamp", "failed")
_SECTIONS: Final[dict[str, tuple[str, Callable[[Json], Any]]]] = {
    "properties": ("properties", lambda value: Properties(**_load_fields(value, _PROPERTY_FIELDS))),
    "headers": ("application_properties", _load_headers),
    "annotations": ("message_annotations", _load_annotations),
    "header": ("header", lambda value: Header(**_load_fields(value, _HEADER_FIELDS))),
    "delivery_annotations": ("delivery_annotations", _load_annotations),
    "footer": ("footer", _load_annotations),
}
"""The key of each section, with the attribute of the message, and the function that reads the section."""
_ALLOWED: Final = frozenset((*_SECTIONS, *_BODIES, *_IGNORED, "filter"))


def at_path(document: Json, path: Path) -> Any:
    """Returns the value at a path of a JSON body or an envelope, without its tag. Raises PathError, EnvelopeError."""
    found = extract(document, path)
    try:
        return value_from_json(found) if type(found) is dict else found
    except _Ambiguous:
        raise EnvelopeError("a number in it is beyond 64 bits") from None


def from_json(line: bytes | str) -> Envelope:
    """Returns the message in a line of JSON. If an object has a key twice, the last one counts.

    Raises EnvelopeError. All values of the message have AMQP types; ``encode()`` may still raise ValueError for values
    that are nested too deeply.
    """
    (message, filter_value), document = _with_document(line, _load_message)
    return Envelope(message, filter_value, document)


def loads(text: bytes | str) -> Json:
    """Parses JSON. Raises EnvelopeError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise EnvelopeError(f"not JSON: {error.msg} at column {error.colno}") from None


def _with_document(text: bytes | str, load: Callable[[Json], Any]) -> tuple[Any, Json]:
    """Parses JSON, and returns the result of ``load`` for it, and the JSON."""
    document = loads(text)
    try:
        try:
            return load(document), document
        except _Ambiguous:
            # orjson makes floats of whole numbers beyond 64 bits; Python's slower parser does not.
            import json

            document = json.loads(text, parse_float=_Written)
            return load(document), document
    except RecursionError:
        raise EnvelopeError("nested too deeply") from None


def _load_message(document: Json) -> tuple[AMQPMessage, str | None]:
    if type(document) is not dict:
        raise EnvelopeError(f'an envelope is an object, such as {{"body":"…"}}, not {_kind(document)}')
    if not document.keys() <= _ALLOWED:
        unknown = next(key for key in document if key not in _ALLOWED)
        raise EnvelopeError(f"unknown key {_quote(unknown)}; allowed: {', '.join((*_BODIES, *_SECTIONS, 'filter'))}")
    bodies = [key for key in _BODIES if key in document]
    if len(bodies) > 1:
        raise EnvelopeError(f"a message has one body, and here are both {_quote(bodies[0])} and {_quote(bodies[1])}")
    message = _load_body(bodies[0], document[bodies[0]]) if bodies else AMQPMessage(b"")
    for key, (attribute, load) in _SECTIONS.items():
        section = document.get(key)
        if section:  # an empty section counts as absent
            setattr(message, attribute, _of_key(key, load, section))
        elif section not in (None, {}):
            raise EnvelopeError(f"{_quote(key)} must be an object, not {_kind(section)}")
    filter_value = document.get("filter")
    if filter_value is not None and type(filter_value) is not str:
        raise EnvelopeError(f'"filter" must be a string, not {_kind(filter_value)}')
    return message, filter_value


def _load_body(key: str, content: Json) -> AMQPMessage:
    if key == "body":
        if type(content) is str:
            return AMQPMessage(content.encode())
        if content is None:
            return AMQPMessage.from_bytes(b"")  # no sections at all: the only way to have no body
        raise EnvelopeError(
            f'"body" must be a string, not {_kind(content)}; an AMQP value goes into "value", bytes into "body_base64"'
        )
    if key == "body_base64":
        return AMQPMessage(_of_key(key, _text(_from_base64), content))
    if key == "value":
        return AMQPMessage(value=_of_key(key, value_from_json, content))
    if key == "sequence":
        return AMQPMessage(sequence=_of_key(key, _load_list, content))
    return AMQPMessage.from_bytes(_of_key(key, _load_parts if key == "body_sections" else _load_rows, content))


def _load_parts(value: Json) -> bytes:
    """Encodes the data sections of a list: a message of these bytes keeps them as separate sections."""
    return b"".join(encode_bodies([_load_binary(part) for part in _load_several(value)]))


def _load_rows(value: Json) -> bytes:
    """Encodes the sequence sections of a list, likewise."""
    rows = [_load_list(row) for row in _load_several(value)]
    try:
        return b"".join([AMQPMessage(sequence=row).encode() for row in rows])
    except ValueError as error:  # nested too deeply
        raise EnvelopeError(str(error)) from None


def _load_several(value: Json) -> list[Json]:
    sections: list[Json] = _expect(value, list, "a list of sections")
    if not sections:
        raise EnvelopeError("needs at least one section")
    return sections


def _of_key(key: str, load: Callable[[Json], Any], content: Json) -> Any:
    try:
        return load(content)
    except EnvelopeError as error:
        raise EnvelopeError(f"{_quote(key)}: {error}") from None


def _quote(text: object) -> str:
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


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
