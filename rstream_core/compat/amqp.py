"""Messages as the published client has them: what was text, or a symbol, when it was sent, is bytes when it arrives.

That is so for keys and values, in all sections; a body is bytes in both. A message that was made here shows what it was
given. Encoding is the core's, and so is decoding, which happens when a section is first read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, overload

from rstream_core.protocol.amqp import AMQPMessage as CoreMessage
from rstream_core.protocol.amqp import Header as CoreHeader
from rstream_core.protocol.amqp import Properties as CoreProperties
from rstream_core.protocol.amqp_fields import encode_section
from rstream_core.protocol.amqp_sections import SEQUENCE, BodyType
from rstream_core.protocol.amqp_types import Described

__all__ = ["AMQPMessage", "Header", "Properties", "amqp_decoder"]


class Header(NamedTuple):
    """The header section. See the core's class of this name for the fields."""

    durable: bool | None = None
    priority: int | None = None
    ttl: int | None = None
    first_acquirer: bool | None = None
    delivery_count: int | None = None


class Properties(NamedTuple):
    """The properties section. See the core's class of this name; of a message that arrived, text is bytes."""

    message_id: Any = None
    user_id: str | bytes | None = None
    to: str | bytes | None = None
    subject: str | bytes | None = None
    reply_to: str | bytes | None = None
    correlation_id: Any = None
    content_type: str | bytes | None = None
    content_encoding: str | bytes | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | bytes | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | bytes | None = None


_core_body: Any = vars(CoreMessage)["body"]


class _Section:
    """A section as the program sees it: what it gave or set, or what arrived."""

    def __set_name__(self, owner: type[AMQPMessage], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, message: None, owner: object) -> Self: ...

    @overload
    def __get__(self, message: AMQPMessage, owner: object) -> Any: ...

    def __get__(self, message: AMQPMessage | None, owner: object) -> Any:
        return self if message is None else message.section(self._name)

    def __set__(self, message: AMQPMessage, value: Any) -> None:
        message.set_section(self._name, value)


class AMQPMessage(CoreMessage):
    """A message to publish, or one that arrived. Takes the same arguments as the core's class.

    ``sequence`` is a list of sections, each of which is a list. ``value=None`` is no value. ``str(message)`` is the
    ``str`` of the body, which is bytes.
    """

    __slots__ = ("_arrived", "_seen")

    _seen: dict[str, Any]
    """What the program gave, set or read, by the name of the section."""
    _arrived: CoreMessage | None
    """What was decoded, once a section was read; None for a message that was made here."""

    def __init__(
        self,
        body: bytes | bytearray | memoryview | str | None = None,
        *,
        properties: Any = None,
        application_properties: dict[Any, Any] | None = None,
        message_annotations: dict[Any, Any] | None = None,
        header: Any = None,
        delivery_annotations: dict[Any, Any] | None = None,
        footer: dict[Any, Any] | None = None,
        sequence: Sequence[Sequence[Any]] | None = None,
        value: Any = None,
        publishing_id: int | None = None,
    ) -> None:
        super().__init__(body, publishing_id=publishing_id)
        self._arrived = None
        self._seen = {}
        if (
            properties is None
            and application_properties is None
            and message_annotations is None
            and header is None
            and delivery_annotations is None
            and footer is None
            and sequence is None
            and value is None
        ):
            return
        given = {
            "header": header,
            "delivery_annotations": delivery_annotations,
            "message_annotations": message_annotations,
            "properties": properties,
            "application_properties": application_properties,
            "sequence": sequence,
            "value": value,
            "footer": footer,
        }
        self._seen.update((name, section) for name, section in given.items() if section is not None)
        if sum(part is not None for part in (body, sequence, value)) > 1:
            raise ValueError("a message has one body: data, a sequence or a value")

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Returns the message that these bytes encode. See the core's method."""
        self = super().from_bytes(data)
        self._arrived = None
        self._seen = {}
        return self

    @classmethod
    def all_from_bytes(cls, messages: Iterable[bytes]) -> Iterator[Self]:
        return map(cls.from_bytes, messages)

    header = _Section()
    delivery_annotations = _Section()
    message_annotations = _Section()
    properties = _Section()
    application_properties = _Section()
    footer = _Section()
    sequence = _Section()
    value = _Section()

    def section(self, name: str) -> Any:
        """A section by its name; None where there is none. Raises ``AmqpError`` as the core does."""
        seen = self._seen
        if name not in seen:
            arrived = self._as_it_arrived()
            seen[name] = None if arrived is None else _as_shown(arrived, name)
        return seen[name]

    def set_section(self, name: str, value: Any) -> None:
        """Replaces a section; one of the body drops the other kinds of it."""
        self._seen[name] = value
        if name not in _BODIES:
            return
        for other in _BODIES - {name}:
            self._seen[other] = None
        if value is None:
            _set_core_body(self, None)
        else:
            _CORE[name].__set__(self, _as_sent(name, value))

    def _set_body(self, body: bytes | bytearray | memoryview | str | None) -> None:
        self._seen.update(dict.fromkeys(_BODIES))
        _set_core_body(self, body)

    body = property(_core_body.fget, _set_body, doc=_core_body.__doc__)

    @property
    def body_type(self) -> BodyType | None:
        self._write_back()
        return super().body_type

    def encode(self) -> bytes:
        """See the core's method; the sections that the program changed are encoded as it would encode them."""
        if not self._seen:
            return super().encode()
        sections = self._seen.get("sequence")
        if sections and len(sections) > 1 and self._is_changed("sequence"):
            return self._with_sections(sections).encode()
        self._write_back()
        return super().encode()

    __bytes__ = encode

    def __str__(self) -> str:
        return str(self.body)

    def _is_changed(self, name: str) -> bool:
        """Whether what is shown is not what arrived."""
        arrived = self._as_it_arrived()
        return arrived is None or _as_shown(arrived, name) != self._seen[name]

    def _as_it_arrived(self) -> CoreMessage | None:
        """The message without what was changed since; None where it was made here."""
        if self._arrived is None and self._encoded is not None:
            self._arrived = CoreMessage.from_bytes(self._encoded)
        return self._arrived

    def _write_back(self) -> None:
        """Hands the core what is not in the bytes that arrived. Dictionaries may have been changed since they came."""
        for name, value in self._seen.items():
            if (value is not None or name not in _BODIES) and self._is_changed(name):
                _CORE[name].__set__(self, _as_sent(name, value))

    def _with_sections(self, sections: Sequence[Sequence[Any]]) -> CoreMessage:
        """The message with a body of several sequences, which the core makes only of bytes."""
        whole = CoreMessage.from_bytes(b"".join(encode_section(SEQUENCE, section) for section in sections))
        for name in _CORE.keys() - _BODIES:
            if (value := self.section(name)) is not None:
                setattr(whole, name, _as_sent(name, value))
        return whole


amqp_decoder = AMQPMessage.from_bytes
"""``amqp_decoder(data)`` returns the message that the bytes encode. For ``subscribe(decoder=amqp_decoder)``."""

_BODIES = frozenset({"sequence", "value"})
_set_core_body = _core_body.fset
_CORE: Mapping[str, Any] = {
    name: vars(CoreMessage)[name]
    for name in (
        "header",
        "delivery_annotations",
        "message_annotations",
        "properties",
        "application_properties",
        "sequence",
        "value",
        "footer",
    )
}
"""The core's sections, which those of ``AMQPMessage`` hide."""


def _as_shown(arrived: CoreMessage, name: str) -> Any:
    """A section of a message that arrived, as the published client gives it."""
    if name == "sequence":
        return as_received(arrived.sequence_sections)
    value = getattr(arrived, name)
    if isinstance(value, CoreHeader):
        return Header(*(as_received(getattr(value, field)) for field in Header._fields))
    if isinstance(value, CoreProperties):
        return Properties(*(as_received(getattr(value, field)) for field in Properties._fields))
    return as_received(value)


def as_received(value: Any) -> Any:
    """A value as the published client decodes it: text is bytes, and a number is a plain one."""
    match value:
        case None | bool() | bytes():
            return value
        case str():
            return value.encode()
        case int():
            return int(value)
        case float():
            return float(value)
        case list():
            return [as_received(item) for item in value]
        case Mapping():
            return {as_received(key): as_received(item) for key, item in value.items()}
        case Described():
            return as_received(value.value)
    return value


def _as_sent(name: str, value: Any) -> Any:
    """A section as the core takes it. The keys of maps are text there, or numbers."""
    if isinstance(value, Header):
        return CoreHeader(**value._asdict())
    if isinstance(value, Properties):
        return CoreProperties(**value._asdict())
    if name == "sequence":
        return list(value[0]) if value else []
    if name != "value" and isinstance(value, dict):
        return {key.decode() if isinstance(key, bytes) else key: item for key, item in value.items()}
    return value
