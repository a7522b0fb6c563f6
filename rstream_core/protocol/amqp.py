"""The AMQP 1.0 message: the default content of a stream's records.

A message is a row of sections: header, delivery annotations, message annotations, properties, application
properties, then the body - data (bytes), a sequence (a list) or one value - and a footer. Most messages are
a body of bytes and nothing else, so that case has its own way through this module, in and out; property
tests hold it equal to the general one.

Reading is lazy. A decoded message keeps its bytes; sections are found when one is asked for, and only that
one is parsed. So a malformed message shows - as :class:`~rstream_core.errors.AmqpError` - when it is looked
at, not when it arrives. A message that nobody changed encodes to the very bytes it came from; after a
change, the sections that still hold what they held keep theirs.

Where others are lax: sections out of order are taken (and put in order when the message is changed and
encoded); sections twice, two kinds of body, and unknown sections are errors. A message without a body has
``body`` None. Sections that are empty count as absent, when encoding and when comparing.

Types of uamqp are recognised without importing it, and converted when they are encoded or looked at.
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, overload

from rstream_core.errors import AmqpError, ConfigurationError
from rstream_core.protocol.amqp_codec import decode_value, encode_value, skip_value
from rstream_core.protocol.amqp_types import AmqpValue, Symbol, Timestamp, UByte, UInt, ULong

if TYPE_CHECKING:
    import uamqp

__all__ = [
    "UNSET",
    "AMQPMessage",
    "Header",
    "Properties",
    "amqp_decoder",
    "bodies_of",
    "body_of",
    "encode_bodies",
    "encode_message",
]

BodyType: TypeAlias = Literal["data", "sequence", "value"]
_Spans: TypeAlias = dict[int, list[tuple[int, int, int]]]
"""Where each section lies: code -> (its start, its value's start, its end), in the order of the message."""

_HEADER, _DELIVERY, _MESSAGE, _PROPERTIES, _APPLICATION = 0x70, 0x71, 0x72, 0x73, 0x74
_DATA, _SEQUENCE, _VALUE, _FOOTER = 0x75, 0x76, 0x77, 0x78
_NAMES: Final = {
    _HEADER: "header",
    _DELIVERY: "delivery-annotations",
    _MESSAGE: "message-annotations",
    _PROPERTIES: "properties",
    _APPLICATION: "application-properties",
    _DATA: "data",
    _SEQUENCE: "amqp-sequence",
    _VALUE: "amqp-value",
    _FOOTER: "footer",
}
_BODY_TYPES: Final[dict[int, BodyType]] = {_DATA: "data", _SEQUENCE: "sequence", _VALUE: "value"}
_SYMBOLIC: Final = {
    "amqp:header:list": _HEADER,
    "amqp:delivery-annotations:map": _DELIVERY,
    "amqp:message-annotations:map": _MESSAGE,
    "amqp:properties:list": _PROPERTIES,
    "amqp:application-properties:map": _APPLICATION,
    "amqp:data:binary": _DATA,
    "amqp:amqp-sequence:list": _SEQUENCE,
    "amqp:amqp-value:*": _VALUE,
    "amqp:footer:map": _FOOTER,
}
"""Sections may be named by symbol instead of by code."""
_DATA8: Final = b"\x00\x53\x75\xa0"
_DATA32: Final = b"\x00\x53\x75\xb0"


class _Mark(enum.Enum):
    UNSET = "unset"
    UNREAD = "unread"


UNSET: Final = _Mark.UNSET
"""No value: ``AMQPMessage(value=None)`` has one, which is null."""
_UNREAD: Final = _Mark.UNREAD


# --- the fast path: messages that are one data section ------------------------------------------------


class _Prefixes(dict[int, bytes]):
    """What stands before a body of so many bytes. Remembers a bounded number of lengths."""

    def __missing__(self, length: int) -> bytes:
        if length < 256:
            prefix = _DATA8 + bytes((length,))
        elif length < 2**32:
            prefix = _DATA32 + length.to_bytes(4, "big")
        else:
            raise ValueError(f"a body of {length} bytes is more than AMQP can count")
        if len(self) < 4096:
            self[length] = prefix
        return prefix


_PREFIXES: Final = _Prefixes()


class _Heads(dict[int, bytes | None]):
    """How a message of so many bytes begins where it is one data section. Remembers a bounded number of sizes."""

    def __init__(self, constructor: bytes, width: int) -> None:
        """``width``: in how many bytes the length of the body is written."""
        self._constructor = constructor
        self._width = width

    def __missing__(self, size: int) -> bytes | None:
        constructor, width = self._constructor, self._width
        length = size - len(constructor) - width
        head = constructor + length.to_bytes(width, "big") if 0 <= length < 256**width else None
        if len(self) < 4096:
            self[size] = head
        return head


_SHORT_HEADS: Final = _Heads(_DATA8, 1)
_LONG_HEADS: Final = _Heads(_DATA32, 4)


def encode_bodies(bodies: Sequence[bytes]) -> list[bytes]:
    """Each body as a whole message, in order: what ``AMQPMessage(body).encode()`` gives.

    ``TypeError`` where one is not bytes; ``ValueError`` beyond 2**32-1 bytes.
    """
    prefixes = _PREFIXES
    return [prefixes[len(body)] + body for body in bodies]


def body_of(data: bytes | memoryview) -> bytes | None:
    """The body of an encoded message; None where it has none, or has one that is not data.

    Several data sections are one body. Raises :class:`~rstream_core.errors.AmqpError` for bytes that are no
    message; other sections are not looked into.
    """
    if not isinstance(data, bytes):
        data = bytes(data)
    size = len(data)
    if data[:5] == _SHORT_HEADS[size]:
        return data[5:]
    if data[:8] == _LONG_HEADS[size]:
        return data[8:]
    return _data_of(data, _locate(data))


def bodies_of(messages: Sequence[bytes]) -> list[bytes | None]:
    """:func:`body_of` of each message, in order."""
    short, long = _SHORT_HEADS, _LONG_HEADS
    return [
        data[5:] if data[:5] == short[len(data)] else data[8:] if data[:8] == long[len(data)] else body_of(data)
        for data in messages
    ]


# --- sections: finding them ----------------------------------------------------------------------------


def _locate(data: bytes) -> _Spans:
    """Where the sections of a message lie. Checks that they are known, whole, and fit together."""
    spans: _Spans = {}
    pos, size = 0, len(data)
    while pos < size:
        code, start = _descriptor(data, pos)
        end = skip_value(data, start)
        if data[start] not in _CONTENT[code]:
            raise AmqpError(f"the {_NAMES[code]} section is of a type it cannot be", start)
        if code in spans and code not in (_DATA, _SEQUENCE):
            raise AmqpError(f"a second {_NAMES[code]} section", pos)
        spans.setdefault(code, []).append((pos, start, end))
        pos = end
    if sum(code in spans for code in _BODY_TYPES) > 1:
        raise AmqpError("a message with two kinds of body")
    return spans


_LISTS, _MAPS = frozenset({0x45, 0xC0, 0xD0}), frozenset({0xC1, 0xD1})
_CONTENT: Final[dict[int, frozenset[int]]] = dict.fromkeys(_NAMES, _MAPS) | {
    _HEADER: _LISTS,
    _PROPERTIES: _LISTS,
    _SEQUENCE: _LISTS,
    _DATA: frozenset({0xA0, 0xB0}),
    _VALUE: frozenset(range(256)),
}
"""The constructors that each section may have."""


def _descriptor(data: bytes, pos: int) -> tuple[int, int]:
    """The code of the section at ``pos``, and where its value starts."""
    if data[pos : pos + 2] == b"\x00\x53" and pos + 2 < len(data):
        code: int | None = data[pos + 2]
        start = pos + 3
        if code in _NAMES:
            return code, start
    if data[pos]:
        raise AmqpError(f"a section starts with 0x00, not 0x{data[pos]:02x}", pos)
    descriptor, start = decode_value(data, pos + 1)
    if isinstance(descriptor, Symbol):
        code = _SYMBOLIC.get(descriptor)
    else:
        code = descriptor if isinstance(descriptor, ULong) and descriptor in _NAMES else None
    if code is None:
        raise AmqpError(f"an unknown section: {descriptor!r:.80}", pos)
    return int(code), start


def _data_of(data: bytes, spans: _Spans) -> bytes | None:
    found = spans.get(_DATA)
    if found is None:
        return None
    return b"".join([data[start + (2 if data[start] == 0xA0 else 5) : end] for _, start, end in found])


# --- header and properties -----------------------------------------------------------------------------


def _identifier(value: Any) -> Any:
    """message-id, correlation-id: ulong, uuid, binary or string.

    Other integer types pass as they are: the published client writes an int.
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
        """The fields as their wire types, without the nulls at the end.

        ``TypeError`` or ``ValueError``, naming the field, where one has no such form.
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
        """Whether any field is given."""
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
    """The header section. A field that is None is not sent. Checked when the message is encoded.

    Decoded fields are of their wire types, which equal plain Python values. Compares by its fields.
    """

    durable: bool | None = None
    priority: int | None = None
    """0 to 255; 4 where it is not given."""
    ttl: int | None = None
    """Milliseconds, 0 to 2**32-1."""
    first_acquirer: bool | None = None
    delivery_count: int | None = None
    """0 to 2**32-1."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Properties(_Fields):
    """The properties section. A field that is None is not sent. Checked when the message is encoded.

    Decoded fields are of their wire types (``ULong(5)``, ``Symbol("text/plain")``, ``Timestamp(0)``), which
    equal and print as plain Python values. Compares by its fields, as they would be sent: ``user_id="a"``
    equals ``user_id=b"a"``, and a time equals its milliseconds.
    """

    message_id: int | str | bytes | uuid.UUID | None = None
    """An int is sent as ulong (0 to 2**64-1), bytes as binary."""
    user_id: bytes | str | None = None
    """Sent as binary; a str as its UTF-8 bytes."""
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: int | str | bytes | uuid.UUID | None = None
    """As ``message_id``."""
    content_type: str | None = None
    """ASCII: a symbol."""
    content_encoding: str | None = None
    """ASCII: a symbol."""
    absolute_expiry_time: int | dt.datetime | None = None
    """Milliseconds since 1970 (UTC), or a datetime with a time zone."""
    creation_time: int | dt.datetime | None = None
    """As ``absolute_expiry_time``."""
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
"""Each field of each section, in the order of the wire, and what makes its wire type - on both ways."""


# --- sections: values to bytes and back ------------------------------------------------------------------


def _prefixed(code: int, value: AmqpValue) -> bytes:
    return bytes((0x00, 0x53, code)) + encode_value(value)


def _encode_fields(code: int, value: Any) -> bytes:
    cls = Header if code == _HEADER else Properties
    value = _from_uamqp_fields(value)
    if not isinstance(value, cls):
        raise TypeError(f"{_NAMES[code]} are given as {cls.__name__}, not {type(value).__name__}")
    wire = value._wire()  # noqa: SLF001 - of this module
    return _prefixed(code, wire) if wire else b""


def _decode_fields(code: int, data: bytes, start: int) -> Header | Properties:
    values, _ = decode_value(data, start)
    cls = Header if code == _HEADER else Properties
    converters = _CONVERTERS[cls]
    if len(values) > len(converters):
        raise AmqpError(f"the {_NAMES[code]} section has {len(values)} fields", start)
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
    if not isinstance(value, dict):
        raise TypeError(f"{_NAMES[code]} are given as a dict, not {type(value).__name__}")
    convert = _property_key if code == _APPLICATION else _annotation_key
    return _prefixed(code, {convert(key): item for key, item in value.items()}) if value else b""


def _decode_map(code: int, data: bytes, start: int) -> dict[Any, Any]:
    entries: dict[Any, Any]
    entries, _ = decode_value(data, start)
    convert = _property_key if code == _APPLICATION else _annotation_key
    try:
        for key in entries:
            convert(key)
    except (TypeError, ValueError) as error:
        raise AmqpError(str(error), start) from None
    return entries


def _encode_section(code: int, value: Any) -> bytes:
    """One section; nothing where it is None or empty. The body's kinds are written even when empty."""
    if code == _VALUE:
        return _prefixed(code, value)
    if code == _DATA:
        return _encode_body(value)
    if code == _SEQUENCE:
        if not isinstance(value, list | tuple):
            raise TypeError(f"a sequence is given as a list, not {type(value).__name__}")
        return _prefixed(code, list(value))
    if value is None:
        return b""
    return _encode_fields(code, value) if code in (_HEADER, _PROPERTIES) else _encode_map(code, value)


def _decode_section(code: int, data: bytes, spans: list[tuple[int, int, int]]) -> Any:
    if code == _SEQUENCE:
        return [item for _, start, end in spans for item in decode_value(data, start, end=end)[0]]
    start = spans[0][1]
    if code == _VALUE:
        return decode_value(data, start)[0]
    return (_decode_fields if code in (_HEADER, _PROPERTIES) else _decode_map)(code, data, start)


def _encode_body(body: bytes | bytearray | memoryview | str | None) -> bytes:
    if isinstance(body, str):
        body = body.encode()
    elif body is None:
        body = b""
    elif not isinstance(body, bytes):
        if not isinstance(body, bytearray | memoryview):
            raise TypeError(f"a body is bytes or str, not {type(body).__name__}")
        body = bytes(body)
    return _PREFIXES[len(body)] + body


# --- the message -------------------------------------------------------------------------------------------

_T = TypeVar("_T")


class _Section(Generic[_T]):
    """An attribute of the message that is one of its sections; None where it is absent."""

    def __init__(self, code: int, doc: str) -> None:
        self.code = code
        self.__doc__ = doc

    @overload
    def __get__(self, message: None, owner: object) -> Self: ...

    @overload
    def __get__(self, message: AMQPMessage, owner: object) -> _T | None: ...

    def __get__(self, message: AMQPMessage | None, owner: object) -> _T | Self | None:
        if message is None:
            return self
        found: _T | None = message._look(self.code)  # noqa: SLF001 - of this module
        return found

    def __set__(self, message: AMQPMessage, value: Any) -> None:
        message._replace(self.code, value)


class AMQPMessage:
    """A message: what is published, and what a consumer's callback gets.

    Give a body (bytes; a str is sent as UTF-8), or a ``sequence`` or a ``value`` in its place, and any of
    the other sections. Nothing is checked before the message is encoded: :meth:`encode` raises ``TypeError``
    or ``ValueError`` for what cannot be sent. Dictionaries may hold what
    :mod:`~rstream_core.protocol.amqp_types` names.

    A decoded message parses its sections when they are first looked at, so **reading an attribute may raise**
    :class:`~rstream_core.errors.AmqpError`, and so may setting one. All attributes can be set, before and
    after decoding; setting one of ``body``, ``sequence`` and ``value`` drops the other two. A change inside
    a dictionary or the properties of a decoded message counts too.

    ``publishing_id`` (0 to 2**64-1) is for deduplication and is no part of the encoded message.

    Equal messages have equal sections and bodies, whatever their encoding; ``publishing_id`` does not count.
    """

    __slots__ = ("_body", "_encoded", "_sections", "_spans", "publishing_id")

    _encoded: bytes | None
    """What it was decoded from."""
    _body: bytes | bytearray | memoryview | str | Literal[_Mark.UNREAD] | None
    _sections: dict[int, Any] | None
    """What was given, set or looked at, by section. None: the message is just its body, or just its bytes."""
    _spans: _Spans | None
    """Of a decoded message, once located; without the body's sections once the body was replaced."""

    def __init__(
        self,
        body: bytes | bytearray | memoryview | str | None = None,
        *,
        properties: Properties | uamqp.message.MessageProperties | None = None,
        application_properties: dict[str, AmqpValue] | None = None,
        message_annotations: dict[str | int, AmqpValue] | None = None,
        header: Header | uamqp.message.MessageHeader | None = None,
        delivery_annotations: dict[str | int, AmqpValue] | None = None,
        footer: dict[str | int, AmqpValue] | None = None,
        sequence: Sequence[AmqpValue] | None = None,
        value: AmqpValue = UNSET,
        publishing_id: int | None = None,
    ) -> None:
        self._encoded = None
        self._body = body
        self.publishing_id = publishing_id
        if (
            properties is None
            and application_properties is None
            and message_annotations is None
            and header is None
            and delivery_annotations is None
            and footer is None
            and sequence is None
            and value is UNSET
        ):
            self._sections = None
            return
        given = {
            _HEADER: header,
            _DELIVERY: delivery_annotations,
            _MESSAGE: message_annotations,
            _PROPERTIES: properties,
            _APPLICATION: application_properties,
            _SEQUENCE: sequence,
            _FOOTER: footer,
        }
        self._sections = {code: section for code, section in given.items() if section is not None}
        if value is not UNSET:
            self._sections[_VALUE] = value

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """The message that these bytes encode. They are kept, and not looked at yet."""
        self = cls.__new__(cls)
        self._encoded = data if data.__class__ is bytes else bytes(data)
        self._body = _UNREAD
        self._sections = None
        self._spans = None
        self.publishing_id = None
        return self

    @classmethod
    def all_from_bytes(cls, messages: Iterable[bytes]) -> Iterator[Self]:
        """``from_bytes`` of each, in order, without a call for each: consumers take chunks of thousands."""
        new = object.__new__
        for data in messages:
            self = new(cls)
            self._encoded = data
            self._body = _UNREAD
            self._sections = None
            self._spans = None
            self.publishing_id = None
            yield self

    header = _Section[Header](_HEADER, "A :class:`Header`, or None.")
    delivery_annotations = _Section[dict[Any, AmqpValue]](_DELIVERY, "A dict, or None. Keys: symbols.")
    message_annotations = _Section[dict[Any, AmqpValue]](_MESSAGE, "A dict, or None. Keys: symbols.")
    properties = _Section[Properties](_PROPERTIES, "A :class:`Properties`, or None.")
    application_properties = _Section[dict[str, AmqpValue]](_APPLICATION, "A dict, or None. Keys: str.")
    footer = _Section[dict[Any, AmqpValue]](_FOOTER, "A dict, or None. Keys: symbols.")
    sequence = _Section[list[AmqpValue]](_SEQUENCE, "The body where it is a sequence: a list, or None.")
    value = _Section[AmqpValue](_VALUE, "The body where it is one AMQP value, or None.")

    @property
    def body(self) -> bytes | None:
        """The body's bytes; several data sections are one. None where it is a sequence or a value.

        Several sequence sections are one ``sequence``, likewise. Where ``value`` is None, ``body_type`` tells
        whether that is the value, null.
        """
        body = self._body
        if body is _UNREAD:
            data = self._encoded
            assert data is not None
            # As ``body_of`` begins, without the call: consumers ask each message for its body.
            found = data[5:] if data[:5] == _SHORT_HEADS[len(data)] else body_of(data)
            if found is not None:
                self._body = found
            return found
        if isinstance(body, bytes) or body is None:
            return body
        return body.encode() if isinstance(body, str) else bytes(body)

    @body.setter
    def body(self, value: bytes | bytearray | memoryview | str | None) -> None:
        self._drop_body()
        self._body = value

    @property
    def body_type(self) -> BodyType | None:
        """Which kind of body: "data", "sequence" or "value". None: it was decoded, and has none."""
        for code in (_VALUE, _SEQUENCE):
            if self._sections is not None and code in self._sections:
                return _BODY_TYPES[code]
        if self._body is _UNREAD:
            spans = self._located()
            return next((kind for code, kind in _BODY_TYPES.items() if code in spans), None)
        return "data"

    def encode(self) -> bytes:
        """The message as bytes: those it was decoded from, where nothing was changed.

        Raises ``TypeError`` or ``ValueError`` for what cannot be sent, and
        :class:`~rstream_core.errors.AmqpError` where a malformed message was changed.
        """
        if self._sections is not None:
            return self._join(self._sections)
        if self._encoded is not None:
            return self._encoded
        body = self._body
        if isinstance(body, bytes):
            return _PREFIXES[len(body)] + body
        return _encode_body(body)  # type: ignore[arg-type]

    __bytes__ = encode

    def __str__(self) -> str:
        """The body as text; what is not UTF-8 shows as escapes."""
        body = self.body
        if body is not None:
            return body.decode(errors="backslashreplace")
        kind = self.body_type
        if kind == "value":
            return "" if self.value is None else str(self.value)
        return str(self.sequence) if kind == "sequence" else ""

    def __repr__(self) -> str:
        try:
            shown = [f"{name}={value}" for name, value in self._shown()]
        except AmqpError as error:
            shown = [f"<malformed: {error}>"]
        if self.publishing_id is not None:
            shown.append(f"publishing_id={self.publishing_id}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AMQPMessage):
            return NotImplemented
        return self._compared() == other._compared()

    __hash__ = None  # type: ignore[assignment]

    # --- uamqp ---

    @classmethod
    def from_uamqp(cls, message: uamqp.Message) -> Self:
        """What a ``uamqp.Message`` says, with the types that uamqp would send.

        Except where those would break AMQP: ids that are ints become ulongs. uamqp does not tell strings
        from binaries in what it has received, and sends both as strings. ``TypeError`` for anything else,
        and for what uamqp itself cannot encode, uamqp's own error. Not for several threads on one message:
        its properties are taken aside for the moment.
        """
        if not _is_uamqp(message) or not hasattr(message, "encode_message"):
            raise TypeError(f"a uamqp.Message, not {type(message).__name__}")
        properties = message.properties
        message.properties = None  # uamqp cannot encode the user id of a message it has received
        try:
            encoded = bytes(message.encode_message())
        finally:
            message.properties = properties
        self = cls.from_bytes(encoded)
        if properties is not None:
            self.properties = _from_uamqp_fields(properties)
        return self

    def to_uamqp(self) -> uamqp.Message:
        """As uamqp decodes it: a received ``uamqp.Message``, with bytes for strings and symbols.

        Raises :class:`~rstream_core.errors.ConfigurationError` where uamqp is not installed, and
        ``ValueError`` where uamqp cannot decode the message: it reads no sequences, decimals or chars.
        """
        try:
            import uamqp  # noqa: PLC0415 - 150 ms, and optional
        except ImportError:
            raise ConfigurationError(
                "uamqp is not installed", hint="pip install uamqp (Python 3.13 and older)"
            ) from None
        if self.body_type == "sequence":  # it would come out with no body, and no error
            raise ValueError("uamqp cannot decode this message: its body is a sequence")
        try:
            return uamqp.Message.decode_from_bytes(self.encode())
        except (TypeError, ValueError) as error:
            raise ValueError(f"uamqp cannot decode this message: {error}") from error

    # --- inside ---

    def _located(self) -> _Spans:
        if self._encoded is None:
            return {}
        if self._spans is None:
            self._spans = _locate(self._encoded)
        return self._spans

    def _look(self, code: int) -> Any:
        sections = self._sections
        if sections is not None and code in sections:
            value = sections[code]
            if code in (_HEADER, _PROPERTIES):
                value = sections[code] = _from_uamqp_fields(value)
            return value
        found = self._located().get(code)
        if found is None or self._encoded is None:
            return None
        value = _decode_section(code, self._encoded, found)
        if sections is None:
            sections = self._sections = {}
        sections[code] = value
        return value

    def _replace(self, code: int, value: Any) -> None:
        if code in _BODY_TYPES:
            self._drop_body()
            self._body = None
            if value is None and code == _SEQUENCE:
                return
        if self._sections is None:
            self._sections = {}
        self._sections[code] = value

    def _drop_body(self) -> None:
        if self._encoded is not None:
            spans = self._located()
            self._spans = {code: found for code, found in spans.items() if code not in _BODY_TYPES}
            if self._sections is None:
                self._sections = {}
        if self._sections is not None:
            self._sections.pop(_SEQUENCE, None)
            self._sections.pop(_VALUE, None)

    def _join(self, sections: dict[int, Any]) -> bytes:
        """The sections in order: as they came where they still say the same, else encoded."""
        spans = self._located()
        if self._body is not _UNREAD and _DATA not in spans:  # the body was given here, not decoded
            kinds = [code for code in (_SEQUENCE, _VALUE) if code in sections]
            if self._body is not None or not kinds:
                kinds.append(_DATA)
                sections = sections | {_DATA: self._body}
            if len(kinds) > 1:
                raise ValueError("a message has one body: data, a sequence or a value")
        parts: list[bytes] = []
        changed = False
        for code in _NAMES:
            original = spans.get(code)
            if code in sections:
                part = _encode_section(code, sections[code])
                if original is None or not self._holds(code, original, part):
                    parts.append(part)
                    changed = True
                    continue
            if original is not None and self._encoded is not None:
                parts += [self._encoded[start:end] for start, _, end in original]
        return self._encoded if self._encoded is not None and not changed else b"".join(parts)

    def _holds(self, code: int, original: list[tuple[int, int, int]], part: bytes) -> bool:
        """Whether a section, which was looked at and may have been changed, still is what was decoded."""
        assert self._encoded is not None
        try:
            return _encode_section(code, _decode_section(code, self._encoded, original)) == part
        except AmqpError:
            return False

    def _shown(self) -> Iterator[tuple[str, str]]:
        """The attributes that are set, with their repr."""
        body = self.body
        if body is not None:
            yield "body", repr(body) if len(body) <= _SHOWN else f"{body[:_SHOWN]!r}... {len(body)} bytes"
        elif self.body_type == "value":
            yield "value", f"{self.value!r:.200}"
        for name in _ATTRIBUTES:
            value = getattr(self, name)
            if value is not None:
                yield name, f"{value!r:.200}"

    def _compared(self) -> tuple[Any, ...]:
        """What equality looks at."""
        kind = self.body_type or "data"
        content: Any = self.value
        if kind != "value":
            content = self.body or b"" if kind == "data" else list(self.sequence or ())
        return kind, content, [getattr(self, name) or None for name in _ATTRIBUTES if name != "sequence"]


_SHOWN: Final = 60
"""How many bytes of a body a repr shows."""
_ATTRIBUTES: Final = (
    "sequence",
    "header",
    "delivery_annotations",
    "message_annotations",
    "properties",
    "application_properties",
    "footer",
)

amqp_decoder = AMQPMessage.from_bytes
"""``amqp_decoder(data)``: the message that these bytes encode. For ``subscribe(decoder=amqp_decoder)``."""


def encode_message(message: AMQPMessage | uamqp.Message | bytes | bytearray | memoryview) -> bytes:
    """The bytes to publish: bytes as they are (no AMQP at all, or encoded already), a message encoded.

    ``TypeError`` for anything else; otherwise raises as :meth:`AMQPMessage.encode` and
    :meth:`AMQPMessage.from_uamqp` do.
    """
    if isinstance(message, AMQPMessage):
        return message.encode()
    if isinstance(message, bytes):
        return message
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    if _is_uamqp(message):
        return AMQPMessage.from_uamqp(message).encode()
    raise TypeError(f"an AMQPMessage, uamqp.Message or bytes can be sent, not {type(message).__name__}")


# --- uamqp's own types, without importing it ---------------------------------------------------------------


def _is_uamqp(value: object) -> bool:
    return any(cls.__module__.partition(".")[0] == "uamqp" for cls in type(value).__mro__)


def _from_uamqp_fields(value: Any) -> Any:
    """A uamqp ``MessageHeader`` or ``MessageProperties`` as ours; anything else as it is."""
    if isinstance(value, _Fields) or not _is_uamqp(value):
        return value
    cls = Header if hasattr(value, "time_to_live") else Properties
    section = cls()
    for name, convert in _CONVERTERS[cls].items():
        field = _from_uamqp_field(value, name)
        if field is not None:
            setattr(section, name, _converted(name, convert, field))
    return section


def _from_uamqp_field(holder: Any, name: str) -> Any:
    """One field. uamqp keeps some as its C values, whose class alone tells a string from a binary."""
    raw = getattr(holder, f"_{name}", None)
    if raw is None:
        return getattr(holder, name, None)
    if not _is_uamqp(raw):
        return raw
    return raw.value.decode() if type(raw).__name__ in ("StringValue", "SymbolValue") else raw.value
