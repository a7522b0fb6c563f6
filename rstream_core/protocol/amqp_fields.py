"""Encodes and decodes the contents of the sections of an AMQP 1.0 message.

On the wire, ``Header`` and ``Properties`` are lists of known fields; the other sections are maps, a list, or any value.
Types of uamqp are recognised without importing it, and converted when they are encoded or read.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp_codec import AmqpMap, decode_value, decode_values, encode_value
from rstream_core.protocol.amqp_sections import (
    APPLICATION,
    DATA,
    HEADER,
    NAMES,
    PROPERTIES,
    SEQUENCE,
    VALUE,
    encode_body,
)
from rstream_core.protocol.amqp_types import AmqpValue, Symbol, Timestamp, UByte, UInt, ULong

# --- header and properties -----------------------------------------------------------------------------


def _identifier(value: Any) -> Any:
    """Converts a message-id or correlation-id to its wire type: ulong, uuid, binary or string.

    Other integer types stay as they are: the published client writes an int.
    """
    if type(value) is int:
        return ULong(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, bool) or not isinstance(value, int | str | bytes | uuid.UUID):
        raise TypeError(f"an id is an int, str, bytes or UUID, not {value!r:.80}")
    return value


def _binary(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"bytes or str, not {value!r:.80}")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"a str, not {value!r:.80}")


def _symbol(value: Any) -> Symbol:
    return Symbol(_string(value))


def _time(value: Any) -> Timestamp:
    if isinstance(value, dt.datetime):
        return Timestamp.from_datetime(value)
    return Timestamp(_whole(value))


def _uint(value: Any) -> UInt:
    return UInt(_whole(value))


def _ubyte(value: Any) -> UByte:
    return UByte(_whole(value))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"an int, not {value!r:.80}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"a bool, not {value!r:.80}")
    return value


class _Fields:
    """A section that is a list of known fields, each with its wire type."""

    __slots__ = ()

    def _wire(self) -> list[AmqpValue]:
        """Returns the fields as their wire types, without the nulls at the end.

        Raises ``TypeError`` or ``ValueError``, naming the field, for a value that cannot be converted.
        """
        values = []
        for name, convert in _CONVERTERS[type(self)].items():
            value = getattr(self, name)
            if value is not None:
                value = _converted(name, convert, value)
            values.append(value)
        while values and values[-1] is None:
            values.pop()
        return values

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, _Fields):
            return NotImplemented
        return all(
            _comparable(convert, getattr(self, name)) == _comparable(convert, getattr(other, name))
            for name, convert in _CONVERTERS[type(self)].items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        """Returns whether any field is given."""
        return any(getattr(self, name) is not None for name in _CONVERTERS[type(self)])

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in _CONVERTERS[type(self)])
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in given if v is not None)})"


def _converted(name: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _comparable(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return value if value is None else convert(value)
    except (TypeError, ValueError):
        return value


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Header(_Fields):
    """The header section. A field that is None is not sent. Fields are checked when the message is encoded.

    Decoded fields have their wire types, which equal plain Python values. Two headers are equal if their fields are.
    """

    durable: bool | None = None
    priority: int | None = None
    """0 to 255; AMQP's default is 4."""
    ttl: int | None = None
    """Milliseconds, 0 to 2**32-1."""
    first_acquirer: bool | None = None
    delivery_count: int | None = None
    """0 to 2**32-1."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Properties(_Fields):
    """The properties section. A field that is None is not sent. Fields are checked when the message is encoded.

    Decoded fields have their wire types (``ULong(5)``, ``Symbol("text/plain")``, ``Timestamp(0)``), which equal and
    print as plain Python values. Two are equal if their fields would be sent as the same values: ``user_id="a"`` equals
    ``user_id=b"a"``, and a time equals its milliseconds.
    """

    message_id: int | str | bytes | uuid.UUID | None = None
    """An int is sent as ulong (0 to 2**64-1), bytes as binary."""
    user_id: bytes | str | None = None
    """Sent as binary; a str as its UTF-8 bytes."""
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: int | str | bytes | uuid.UUID | None = None
    """Like ``message_id``."""
    content_type: str | None = None
    """ASCII: a symbol."""
    content_encoding: str | None = None
    """ASCII: a symbol."""
    absolute_expiry_time: int | dt.datetime | None = None
    """Milliseconds since 1970 (UTC), or a datetime with a time zone."""
    creation_time: int | dt.datetime | None = None
    """Like ``absolute_expiry_time``."""
    group_id: str | None = None
    group_sequence: int | None = None
    """0 to 2**32-1."""
    reply_to_group_id: str | None = None


_CONVERTERS: Final[dict[type, dict[str, Callable[[Any], Any]]]] = {
    Header: {
        "durable": _boolean,
        "priority": _ubyte,
        "ttl": _uint,
        "first_acquirer": _boolean,
        "delivery_count": _uint,
    },
    Properties: {
        "message_id": _identifier,
        "user_id": _binary,
        "to": _string,
        "subject": _string,
        "reply_to": _string,
        "correlation_id": _identifier,
        "content_type": _symbol,
        "content_encoding": _symbol,
        "absolute_expiry_time": _time,
        "creation_time": _time,
        "group_id": _string,
        "group_sequence": _uint,
        "reply_to_group_id": _string,
    },
}
"""The fields of both sections in the order of the wire, with the function that converts a value to its wire type. It is
used for encoding and for decoding."""


# --- sections: values to bytes and back ------------------------------------------------------------------


def _prefixed(code: int, value: AmqpValue) -> bytes:
    return bytes((0x00, 0x53, code)) + encode_value(value)


def _encode_fields(code: int, value: Any) -> bytes:
    cls = Header if code == HEADER else Properties
    value = from_uamqp_fields(value)
    if not isinstance(value, cls):
        raise TypeError(f"{NAMES[code]} are given as {cls.__name__}, not {type(value).__name__}")
    wire = value._wire()  # noqa: SLF001 - of this module
    return _prefixed(code, wire) if wire else b""


def _decode_fields(code: int, data: bytes, start: int) -> Header | Properties:
    values, _ = decode_value(data, start)
    cls = Header if code == HEADER else Properties
    converters = _CONVERTERS[cls]
    if len(values) > len(converters):
        raise AmqpError(f"the {NAMES[code]} section has {len(values)} fields", start)
    section = cls()
    for (name, convert), value in zip(converters.items(), values, strict=False):
        if value is not None:
            try:
                setattr(section, name, _converted(name, convert, value))
            except (TypeError, ValueError) as error:
                raise AmqpError(str(error), start) from None
    return section


def _annotation_key(key: Any) -> Symbol | ULong:
    if isinstance(key, str):
        return Symbol(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return ULong(key)
    raise TypeError(f"an annotation's key is a str (or a ulong), not {key!r:.80}")


def _property_key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    raise TypeError(f"an application property's key is a str, not {key!r:.80}")


def _encode_map(code: int, value: Any) -> bytes:
    convert = _property_key if code == APPLICATION else _annotation_key
    if not isinstance(value, dict):
        if not isinstance(value, AmqpMap):
            raise TypeError(f"{NAMES[code]} are given as a dict, not {type(value).__name__}")
        for key in value:
            convert(key)  # only a check: two keys might become equal if they were converted
        return _prefixed(code, value) if value else b""
    return _prefixed(code, {convert(key): item for key, item in value.items()}) if value else b""


def _decode_map(code: int, data: bytes, start: int) -> dict[Any, Any] | AmqpMap:
    entries: dict[Any, Any] | AmqpMap
    entries, _ = decode_value(data, start)
    convert = _property_key if code == APPLICATION else _annotation_key
    try:
        for key in entries:
            convert(key)
    except (TypeError, ValueError) as error:
        raise AmqpError(str(error), start) from None
    return entries


def encode_section(code: int, value: Any) -> bytes:
    """Encodes one section; returns no bytes for None or an empty one, except for a section of the body."""
    if code == VALUE:
        return _prefixed(code, value)
    if code == DATA:
        return encode_body(value)
    if code == SEQUENCE:
        if not isinstance(value, list | tuple):
            raise TypeError(f"a sequence is given as a list, not {type(value).__name__}")
        return _prefixed(code, list(value))
    if value is None:
        return b""
    return _encode_fields(code, value) if code in (HEADER, PROPERTIES) else _encode_map(code, value)


def decode_section(code: int, data: bytes, spans: list[tuple[int, int, int]]) -> Any:
    if code == SEQUENCE:
        sections: list[Any] = decode_values(data, [start for _, start, _ in spans])
        return [item for section in sections for item in section]
    start = spans[0][1]
    if code == VALUE:
        return decode_value(data, start)[0]
    return (_decode_fields if code in (HEADER, PROPERTIES) else _decode_map)(code, data, start)


# --- uamqp's own types, without importing it ---------------------------------------------------------------


def is_uamqp(value: object) -> bool:
    return any(cls.__module__.partition(".")[0] == "uamqp" for cls in type(value).__mro__)


def from_uamqp_fields(value: Any) -> Any:
    """Converts a uamqp ``MessageHeader`` or ``MessageProperties``; returns any other value unchanged."""
    if isinstance(value, _Fields) or not is_uamqp(value):
        return value
    cls = Header if hasattr(value, "time_to_live") else Properties
    section = cls()
    for name, convert in _CONVERTERS[cls].items():
        field = _from_uamqp_field(value, name)
        if field is not None:
            setattr(section, name, _converted(name, convert, field))
    return section


def _from_uamqp_field(holder: Any, name: str) -> Any:
    """Returns one field. uamqp keeps some as C values, and only their class tells a string from a binary."""
    raw = getattr(holder, f"_{name}", None)
    if raw is None:
        return getattr(holder, name, None)
    if not is_uamqp(raw):
        return raw
    return raw.value.decode() if type(raw).__name__ in ("StringValue", "SymbolValue") else raw.value
