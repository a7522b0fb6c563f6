"""The AMQP 1.0 message: the usual content of a stream.

A message is a sequence of sections: header, delivery annotations, message annotations, properties, application
properties, then the body - data (bytes), a sequence (a list) or one value - and a footer. ``amqp_sections`` finds
sections and has the fast path for bodies, ``amqp_fields`` encodes and decodes their contents.

Decoding is lazy. A decoded message keeps its bytes; sections are found when one is read, and only that one is parsed.
So a malformed message raises :class:`~rstream_core.errors.AmqpError` when it is read, not when it arrives. An unchanged
message encodes to the same bytes from which it was decoded; after a change, the unchanged sections keep their bytes.

Sections in a wrong order are accepted (and put in order when the message is changed and encoded). Repeated sections
other than data and sequence sections, two kinds of body, and unknown sections are errors. A message without a body has
``body`` None. Empty sections count as absent, when encoding and when comparing.

``AMQPMessage`` is longer than other classes, since it has an attribute for each section, and more for the body, and
each of them may be given, read from the bytes, or set. How sections are found and encoded is decided below it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, overload

from rstream_core.errors import AmqpError, ConfigurationError
from rstream_core.hints import Hint
from rstream_core.protocol.amqp_codec import AmqpMap
from rstream_core.protocol.amqp_fields import (
    Header,
    Properties,
    decode_section,
    encode_section,
    from_uamqp_fields,
    is_uamqp,
)
from rstream_core.protocol.amqp_sections import (
    APPLICATION,
    BODY_TYPES,
    DATA,
    DELIVERY,
    FOOTER,
    HEADER,
    MESSAGE,
    NAMES,
    PREFIXES,
    PROPERTIES,
    SEQUENCE,
    SHORT_HEADS,
    VALUE,
    BodyType,
    PlainMessages,
    Spans,
    as_bytes,
    bodies_of,
    body_of,
    data_of,
    encode_bodies,
    encode_body,
    locate,
)
from rstream_core.protocol.amqp_types import AmqpValue

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


class _Mark(enum.Enum):
    UNSET = "unset"
    UNREAD = "unread"


UNSET: Final = _Mark.UNSET
"""Marks a missing ``value``: ``AMQPMessage(value=None)`` has a value, which is null."""
_UNREAD: Final = _Mark.UNREAD


_T = TypeVar("_T")


class _Section(Generic[_T]):
    """An attribute of the message that is one of its sections; None where the section is absent."""

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
    """A message to publish, or one that a consumer's callback gets.

    Pass a body (bytes; a str is sent as UTF-8), or a ``sequence`` or a ``value`` instead, and any of the other
    sections. The message is checked only when it is encoded: :meth:`encode` raises ``TypeError`` or ``ValueError`` for
    values that cannot be sent. Dictionaries may hold the types that :mod:`~rstream_core.protocol.amqp_types` names.

    A decoded message parses a section when it is first read, so **reading an attribute may raise**
    :class:`~rstream_core.errors.AmqpError`, and so may setting one. All attributes can be set, also after decoding;
    setting one of ``body``, ``sequence`` and ``value`` drops the other two. Changes inside a dictionary or the
    properties of a decoded message take effect, too.

    ``publishing_id`` (0 to 2**64-1) is for deduplication, and is not part of the encoded message.

    Messages are equal if their sections and bodies are, whatever their encoding, and into however many sections a body
    is divided; ``publishing_id`` does not count.
    """

    __slots__ = ("_body", "_encoded", "_sections", "_spans", "publishing_id")

    _encoded: bytes | None
    """The bytes from which the message was decoded; None for one that was not decoded."""
    _body: bytes | bytearray | memoryview | str | Literal[_Mark.UNREAD] | None
    _sections: dict[int, Any] | None
    """The sections that were given, set or read. None: the message is only its body, or only its bytes."""
    _spans: Spans | None
    """Where a decoded message's sections stand, once that is known; without the body's, once that was replaced."""

    def __init__(
        self,
        body: bytes | bytearray | memoryview | str | None = None,
        *,
        properties: Properties | uamqp.message.MessageProperties | None = None,
        application_properties: dict[str, AmqpValue] | AmqpMap | None = None,
        message_annotations: dict[str | int, AmqpValue] | AmqpMap | None = None,
        header: Header | uamqp.message.MessageHeader | None = None,
        delivery_annotations: dict[str | int, AmqpValue] | AmqpMap | None = None,
        footer: dict[str | int, AmqpValue] | AmqpMap | None = None,
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
            HEADER: header,
            DELIVERY: delivery_annotations,
            MESSAGE: message_annotations,
            PROPERTIES: properties,
            APPLICATION: application_properties,
            SEQUENCE: sequence,
            FOOTER: footer,
        }
        self._sections = {code: section for code, section in given.items() if section is not None}
        if value is not UNSET:
            self._sections[VALUE] = value

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Returns the message that these bytes encode. Keeps the bytes, and does not check them yet."""
        self = cls.__new__(cls)
        self._encoded = data if data.__class__ is bytes else bytes(data)
        self._body = _UNREAD
        self._sections = None
        self._spans = None
        self.publishing_id = None
        return self

    @classmethod
    def all_from_bytes(cls, messages: Iterable[bytes]) -> Iterator[Self]:
        """Yields the messages as ``from_bytes`` does, without a call for each. ``PlainMessages`` bring their bodies."""
        bodies, new = messages.bodies if isinstance(messages, PlainMessages) else None, object.__new__
        for data in messages if bodies is None else bodies:
            self = new(cls)
            self._encoded = data if bodies is None else None
            self._body = _UNREAD if bodies is None else data
            self._sections = self._spans = self.publishing_id = None
            yield self

    header = _Section[Header](HEADER, "A :class:`Header`, or None.")
    delivery_annotations = _Section[dict[Any, AmqpValue]](DELIVERY, "A dict, or None. Keys: symbols.")
    message_annotations = _Section[dict[Any, AmqpValue]](MESSAGE, "A dict, or None. Keys: symbols.")
    properties = _Section[Properties](PROPERTIES, "A :class:`Properties`, or None.")
    application_properties = _Section[dict[str, AmqpValue]](APPLICATION, "A dict, or None. Keys: str.")
    footer = _Section[dict[Any, AmqpValue]](FOOTER, "A dict, or None. Keys: symbols.")
    sequence = _Section[list[AmqpValue]](SEQUENCE, "The body where it is a sequence: a list, or None.")
    value = _Section[AmqpValue](VALUE, "The body where it is one AMQP value, or None.")

    @property
    def body(self) -> bytes | None:
        """The body's bytes, with several data sections joined. None where the body is a sequence or a value.

        Likewise ``sequence`` joins several sequence sections. A decoded message keeps its sections until its body is
        changed; ``data_sections`` and ``sequence_sections`` have them one by one. If ``value`` is None, ``body_type``
        tells whether the body is the value null.
        """
        body = self._body
        if body is _UNREAD:
            data = self._encoded
            assert data is not None
            # The fast path of ``body_of``, without the call: consumers read the body of each message.
            found = data[5:] if data[:5] == SHORT_HEADS[len(data)] else body_of(data)
            if found is not None:
                self._body = found
            return found
        return body if isinstance(body, bytes) or body is None else as_bytes(body)

    @body.setter
    def body(self, value: bytes | bytearray | memoryview | str | None) -> None:
        self._drop_body()
        self._body = value

    @property
    def data_sections(self) -> list[bytes] | None:
        """The data sections of the body, usually one; None where ``body`` is None.

        A body that was given or set is one section.
        """
        body = self.body
        if body is None:
            return None
        found = () if self._encoded is None else self._located().get(DATA, ())
        if len(found) < 2:
            return [body]
        assert self._encoded is not None
        return [data_of(self._encoded, {DATA: [span]}) or b"" for span in found]

    @property
    def sequence_sections(self) -> list[list[AmqpValue]] | None:
        """The sections of ``sequence``, usually one; None where ``sequence`` is None.

        A sequence that was given, set or changed is one section.
        """
        sequence = self.sequence
        if sequence is None:
            return None
        found = () if self._encoded is None else self._located().get(SEQUENCE, ())
        if len(found) > 1 and self._holds(SEQUENCE, list(found), encode_section(SEQUENCE, sequence)):
            assert self._encoded is not None
            return [decode_section(SEQUENCE, self._encoded, [span]) for span in found]
        return [list(sequence)]

    @property
    def body_type(self) -> BodyType | None:
        """The kind of body: "data", "sequence" or "value". None for a decoded message without a body."""
        for code in (VALUE, SEQUENCE):
            if self._sections is not None and code in self._sections:
                return BODY_TYPES[code]
        if self._body is _UNREAD:
            spans = self._located()
            return next((kind for code, kind in BODY_TYPES.items() if code in spans), None)
        return "data"

    def encode(self) -> bytes:
        """Returns the message as bytes. An unchanged message has the bytes from which it was decoded.

        Raises ``TypeError`` or ``ValueError`` for values that cannot be sent, and
        :class:`~rstream_core.errors.AmqpError` where a malformed message was changed.
        """
        if self._sections is not None:
            return self._join(self._sections)
        if self._encoded is not None:
            return self._encoded
        body = self._body
        if isinstance(body, bytes):
            return PREFIXES[len(body)] + body
        return encode_body(body)  # type: ignore[arg-type]

    __bytes__ = encode

    def __str__(self) -> str:
        """Returns the body as text; bytes that are not UTF-8 become escapes."""
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
        except (TypeError, ValueError) as error:  # what was given cannot be sent, which encode() tells
            shown = [f"<not to be sent: {error}>"]
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
        """Converts a ``uamqp.Message``, with the types that uamqp would send.

        Only ids that are ints become ulongs, since uamqp's type would break AMQP. uamqp does not tell strings from
        binaries in a received message, and sends both as strings. Raises ``TypeError`` for any other object, and
        uamqp's own error for a message that uamqp cannot encode. Must not run in several threads for one message, since
        it removes the message's properties for a moment.
        """
        if not is_uamqp(message) or not hasattr(message, "encode_message"):
            raise TypeError(f"a uamqp.Message, not {type(message).__name__}")
        properties = message.properties
        message.properties = None  # uamqp cannot encode the user id of a message it has received
        try:
            encoded = bytes(message.encode_message())
        finally:
            message.properties = properties
        self = cls.from_bytes(encoded)
        if properties is not None:
            self.properties = from_uamqp_fields(properties)
        return self

    def to_uamqp(self) -> uamqp.Message:
        """Returns the message as uamqp decodes it: a received ``uamqp.Message``, with bytes for strings and symbols.

        Raises :class:`~rstream_core.errors.ConfigurationError` where uamqp, an extra, is not installed, and
        ``ValueError`` where uamqp cannot decode the message: it reads no sequences, decimals or chars.
        """
        try:
            import uamqp  # noqa: PLC0415 - 150 ms, and optional
        except ImportError as error:  # uamqp is not installed, or its C library does not load
            raise ConfigurationError(
                f"to_uamqp needs uamqp: {error}",
                hint=Hint.INSTALL_UAMQP,
            ) from error
        if self.body_type == "sequence":  # uamqp would drop the body without an error
            raise ValueError("uamqp cannot decode this message: its body is a sequence")
        try:
            return uamqp.Message.decode_from_bytes(self.encode())
        except (TypeError, ValueError) as error:
            raise ValueError(f"uamqp cannot decode this message: {error}") from error

    # --- inside ---

    def _located(self) -> Spans:
        if self._encoded is None:
            return {}
        if self._spans is None:
            self._spans = locate(self._encoded)
        return self._spans

    def _look(self, code: int) -> Any:
        sections = self._sections
        if sections is not None and code in sections:
            value = sections[code]
            if code in (HEADER, PROPERTIES):
                value = sections[code] = from_uamqp_fields(value)
            return value
        found = self._located().get(code)
        if found is None or self._encoded is None:
            return None
        value = decode_section(code, self._encoded, found)
        if sections is None:
            sections = self._sections = {}
        sections[code] = value
        return value

    def _replace(self, code: int, value: Any) -> None:
        if code in BODY_TYPES:
            self._drop_body()
            self._body = None
            if value is None and code == SEQUENCE:
                return
        if self._sections is None:
            self._sections = {}
        self._sections[code] = value

    def _drop_body(self) -> None:
        if self._encoded is not None:
            spans = self._located()
            self._spans = {code: found for code, found in spans.items() if code not in BODY_TYPES}
            if self._sections is None:
                self._sections = {}
        if self._sections is not None:
            self._sections.pop(SEQUENCE, None)
            self._sections.pop(VALUE, None)

    def _join(self, sections: dict[int, Any]) -> bytes:
        """Returns all sections in order: the original bytes of unchanged sections, and the others encoded."""
        spans = self._located()
        if self._body is not _UNREAD and DATA not in spans:  # the body was given or set, not decoded
            kinds = [code for code in (SEQUENCE, VALUE) if code in sections]
            if self._body is not None or not kinds:
                kinds.append(DATA)
                sections = sections | {DATA: self._body}
            if len(kinds) > 1:
                raise ValueError("a message has one body: data, a sequence or a value")
        parts: list[bytes] = []
        changed = False
        for code in NAMES:
            original = spans.get(code)
            if code in sections:
                part = encode_section(code, sections[code])
                if original is None or not self._holds(code, original, part):
                    parts.append(part)
                    changed = True
                    continue
            if original is not None and self._encoded is not None:
                parts += [self._encoded[start:end] for start, _, end in original]
        return self._encoded if self._encoded is not None and not changed else b"".join(parts)

    def _holds(self, code: int, original: list[tuple[int, int, int]], part: bytes) -> bool:
        """Returns whether a section that was read, and may have been changed since, is still as it was decoded."""
        assert self._encoded is not None
        try:
            return encode_section(code, decode_section(code, self._encoded, original)) == part
        except AmqpError:
            return False

    def _shown(self) -> Iterator[tuple[str, str]]:
        """Yields the attributes that are set, with their repr."""
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
        """Returns the values that are compared for equality."""
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
"""``amqp_decoder(data)`` returns the message that the bytes encode. For ``subscribe(decoder=amqp_decoder)``."""


def encode_message(message: AMQPMessage | uamqp.Message | bytes | bytearray | memoryview) -> bytes:
    """Returns the bytes to publish: encodes a message, and leaves bytes unchanged (not AMQP, or encoded already).

    Raises ``TypeError`` for any other object, and the errors of :meth:`AMQPMessage.encode` and
    :meth:`AMQPMessage.from_uamqp`.
    """
    if isinstance(message, AMQPMessage):
        return message.encode()
    if isinstance(message, bytes):
        return message
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    if is_uamqp(message):
        return AMQPMessage.from_uamqp(message).encode()
    meant = ": AMQPMessage(body=...) makes a message of it" if isinstance(message, str) else ""
    raise TypeError(f"an AMQPMessage, uamqp.Message or bytes can be sent, not {type(message).__name__}{meant}")
