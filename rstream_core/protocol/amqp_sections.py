"""Finds the sections of an AMQP 1.0 message in its bytes, with a fast path for messages that are only a body.

A message is a sequence of sections, each behind its descriptor. ``locate`` finds them without reading their contents.
Most messages are a single data section. Such a message has certain first bytes, which follow from its length, so that
its body is encoded and decoded without parsing. Property tests compare this fast path with the general one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Literal, Protocol, TypeAlias, overload

from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp_codec import decode_value, skip_value
from rstream_core.protocol.amqp_types import Symbol, ULong

BodyType: TypeAlias = Literal["data", "sequence", "value"]
Spans: TypeAlias = dict[int, list[tuple[int, int, int]]]
"""Where all sections stand: code -> (start, start of the value, end), in the order of the message."""

HEADER, DELIVERY, MESSAGE, PROPERTIES, APPLICATION = 0x70, 0x71, 0x72, 0x73, 0x74
DATA, SEQUENCE, VALUE, FOOTER = 0x75, 0x76, 0x77, 0x78
NAMES: Final = {
    HEADER: "header",
    DELIVERY: "delivery-annotations",
    MESSAGE: "message-annotations",
    PROPERTIES: "properties",
    APPLICATION: "application-properties",
    DATA: "data",
    SEQUENCE: "amqp-sequence",
    VALUE: "amqp-value",
    FOOTER: "footer",
}
BODY_TYPES: Final[dict[int, BodyType]] = {DATA: "data", SEQUENCE: "sequence", VALUE: "value"}
_SYMBOLIC: Final = {
    "amqp:header:list": HEADER,
    "amqp:delivery-annotations:map": DELIVERY,
    "amqp:message-annotations:map": MESSAGE,
    "amqp:properties:list": PROPERTIES,
    "amqp:application-properties:map": APPLICATION,
    "amqp:data:binary": DATA,
    "amqp:amqp-sequence:list": SEQUENCE,
    "amqp:amqp-value:*": VALUE,
    "amqp:footer:map": FOOTER,
}
"""The codes of sections whose descriptor is a symbol instead of a code."""
DATA8: Final = b"\x00\x53\x75\xa0"
DATA32: Final = b"\x00\x53\x75\xb0"
"""The first bytes of a data section; the size of its contents follows, in one byte or in four."""


# --- the fast path: messages that are one data section ------------------------------------------------


SHORT_BODY: Final = 255
"""The most bytes of a body whose length takes one byte; otherwise it takes four."""


class _Prefixes(dict[int, bytes]):
    """The bytes in front of a body, by its length. Caches a bounded number of lengths."""

    def __missing__(self, length: int) -> bytes:
        if length <= SHORT_BODY:
            prefix = DATA8 + bytes((length,))
        elif length < 2**32:
            prefix = DATA32 + length.to_bytes(4, "big")
        else:
            raise ValueError(f"a body of {length} bytes is more than AMQP can count")
        if len(self) < 4096:
            self[length] = prefix
        return prefix


PREFIXES: Final = _Prefixes()


class _Heads(dict[int, bytes | None]):
    """The first bytes of a message that is one data section, by its size. Caches a bounded number of sizes."""

    def __init__(self, constructor: bytes, width: int) -> None:
        """``width`` is the number of bytes of the body's length field."""
        self._constructor = constructor
        self._width = width

    def __missing__(self, size: int) -> bytes | None:
        constructor, width = self._constructor, self._width
        length = size - len(constructor) - width
        head = constructor + length.to_bytes(width, "big") if 0 <= length < 256**width else None
        if len(self) < 4096:
            self[size] = head
        return head


SHORT_HEADS: Final = _Heads(DATA8, 1)
LONG_HEADS: Final = _Heads(DATA32, 4)


def encode_bodies(bodies: Sequence[bytes]) -> list[bytes]:
    """Encodes each body as a whole message, in order: the same as ``AMQPMessage(body).encode()``.

    Raises ``TypeError`` for a body that is not bytes, and ``ValueError`` for one of more than 2**32-1 bytes.
    """
    prefixes = PREFIXES
    return [prefixes[len(body)] + body for body in bodies]


def encode_body(body: bytes | bytearray | memoryview | str | None) -> bytes:
    body = b"" if body is None else as_bytes(body)
    return PREFIXES[len(body)] + body


def as_bytes(body: object) -> bytes:
    """A body that was given, as it is sent. ``TypeError`` for what is none."""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes):
        return body
    if not isinstance(body, bytearray | memoryview):
        name = "sequence" if isinstance(body, list | tuple) else "value"
        raise TypeError(f"a body is bytes or str, not {type(body).__name__}: pass it as {name}=...")
    return bytes(body)


def body_of(data: bytes | memoryview) -> bytes | None:
    """Returns the body of an encoded message; None where it has none, or one that is not data.

    Several data sections are joined. Raises :class:`~rstream_core.errors.AmqpError` for bytes that are not a message;
    the contents of other sections are not checked.
    """
    if not isinstance(data, bytes):
        data = bytes(data)
    size = len(data)
    if data[:5] == SHORT_HEADS[size]:
        return data[5:]
    if data[:8] == LONG_HEADS[size]:
        return data[8:]
    return data_of(data, locate(data))


def bodies_of(messages: Sequence[bytes]) -> list[bytes | None]:
    """Returns the :func:`body_of` each message, in order."""
    if type(messages) is PlainMessages:
        return [*messages.bodies]
    short, long = SHORT_HEADS, LONG_HEADS
    return [
        data[5:] if data[:5] == short[len(data)] else data[8:] if data[:8] == long[len(data)] else body_of(data)
        for data in messages
    ]


class Unsplit(Protocol):
    """The bodies of plain messages, still in the bytes that they have come in. Never changed."""

    @property
    def count(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes of the messages together."""

    @property
    def body_size(self) -> int:
        """Bytes of the bodies together."""

    @property
    def longest(self) -> int:
        """Bytes of the longest body."""

    def split(self) -> list[bytes]:
        """Returns the bodies."""

    def lines(self, delimiter: bytes) -> bytes:
        """Returns the bodies, each with the delimiter behind it."""

    def join(self, others: Sequence[Unsplit]) -> Unsplit | None:
        """Returns these bodies and those of others, one behind the other; None where they have to be split for it."""


class PlainMessages(Sequence[bytes]):
    """Messages that are held by their bodies: each is one data section. They are encoded when somebody asks for one.

    The bodies are a list, or they come out of ``unsplit`` when somebody asks for one. Nobody changes them. What was
    split, measured or encoded is kept.
    """

    __slots__ = ("_bodies", "_encoded", "_lengths", "_most", "unsplit")

    def __init__(self, bodies: list[bytes] | None = None, *, unsplit: Unsplit | None = None) -> None:
        """Either ``bodies`` or ``unsplit``."""
        self._bodies = bodies
        self.unsplit = unsplit
        """Where the bodies are as long as nobody has asked for a single one."""
        self._lengths: list[int] | None = None
        self._most: int | None = None
        self._encoded: list[bytes] | None = None

    @property
    def bodies(self) -> list[bytes]:
        if self._bodies is None:
            assert self.unsplit is not None
            self._bodies, self.unsplit = self.unsplit.split(), None
        return self._bodies

    def lines(self, delimiter: bytes) -> bytes:
        """Returns the bodies, each with the delimiter behind it."""
        if self.unsplit is not None:
            return self.unsplit.lines(delimiter)
        return delimiter.join([*self.bodies, b""])

    @property
    def encoded(self) -> list[bytes]:
        """The messages. They are kept, so the bodies take their memory twice from then on."""
        if self._encoded is None:
            self._encoded = encode_bodies(self.bodies)
        return self._encoded

    @property
    def lengths(self) -> list[int]:
        """Bytes of each body."""
        if self._lengths is None:
            self._lengths = list(map(len, self.bodies))
        return self._lengths

    @property
    def most(self) -> int:
        """A number of bytes that no body exceeds: those of the longest one here, or in what this is a slice of."""
        if self._most is None:
            self._most = max(self.lengths, default=0) if self.unsplit is None else self.unsplit.longest
        return self._most

    @property
    def body_size(self) -> int:
        """Bytes of the bodies together."""
        return sum(self.lengths) if self.unsplit is None else self.unsplit.body_size

    @property
    def size(self) -> int:
        """Bytes of the messages together."""
        if self.unsplit is not None:
            return self.unsplit.size
        lengths = self.lengths
        if self.most <= SHORT_BODY:
            return sum(lengths) + len(PREFIXES[0]) * len(lengths)
        return sum(lengths) + sum(map(len, map(PREFIXES.__getitem__, lengths)))

    def __len__(self) -> int:
        return len(self.bodies) if self.unsplit is None else self.unsplit.count

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> PlainMessages: ...
    def __getitem__(self, at: int | slice) -> bytes | PlainMessages:
        if not isinstance(at, slice):
            return encode_body(self.bodies[at])
        if self.unsplit is not None:
            places = range(self.unsplit.count)[at]
            if places == range(self.unsplit.count):
                return self
            if not places:
                return PlainMessages([])
        part = PlainMessages(self.bodies[at])
        if self._lengths is not None:
            part._lengths, part._most = self._lengths[at], self._most
        return part

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.encoded)

    def select(self, places: Sequence[int]) -> PlainMessages:
        """Returns those at these places."""
        bodies = self.bodies
        return self.some([bodies[place] for place in places])

    def some(self, bodies: list[bytes]) -> PlainMessages:
        """Returns those with these bodies, which are bodies of these: what is known of the longest holds for them."""
        part = PlainMessages(bodies)
        part._most = self._most
        return part


class Measured(Sequence[bytes]):
    """Messages that know their sizes without being taken out of where they are."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes of the messages together."""
        raise NotImplementedError

    @property
    def sizes(self) -> list[int]:
        """Bytes of each message."""
        raise NotImplementedError

    @property
    def most(self) -> int:
        """A number of bytes that no message exceeds."""
        raise NotImplementedError

    def join(self, others: Sequence[Sequence[bytes]]) -> Sequence[bytes] | None:
        """Returns these messages, and behind them the others; None where those are of another kind."""
        raise NotImplementedError


def size_of(messages: Sequence[bytes]) -> int:
    """Returns the bytes of all messages."""
    return messages.size if isinstance(messages, PlainMessages | Measured) else sum(map(len, messages))


def sizes_of(messages: Sequence[bytes]) -> list[int]:
    """Returns the bytes of each message."""
    if isinstance(messages, PlainMessages):
        return [len(PREFIXES[length]) + length for length in messages.lengths]
    return messages.sizes if isinstance(messages, Measured) else list(map(len, messages))


def most_of(messages: Sequence[bytes]) -> int:
    """Returns a number of bytes that no message exceeds: nearly always those of the largest one."""
    if isinstance(messages, PlainMessages):
        return len(PREFIXES[messages.most]) + messages.most
    return messages.most if isinstance(messages, Measured) else max(map(len, messages), default=0)


def join_messages(parts: Sequence[Sequence[bytes]]) -> Sequence[bytes]:
    """Returns the messages of all parts, one behind the other: held as those of each part are, if all are so."""
    plain = [part for part in parts if type(part) is PlainMessages]
    if len(plain) == len(parts):
        return _join_plain(plain)
    joined = parts[0].join(parts[1:]) if isinstance(parts[0], Measured) else None
    return list(chain.from_iterable(parts)) if joined is None else joined


def _join_plain(parts: Sequence[PlainMessages]) -> PlainMessages:
    if len(parts) == 1:
        return parts[0]
    unsplit = [part.unsplit for part in parts if part.unsplit is not None]
    if parts and len(unsplit) == len(parts):
        joined = unsplit[0].join(unsplit[1:])
        if joined is not None:
            return PlainMessages(unsplit=joined)
    return PlainMessages([body for part in parts for body in part.bodies])


MAX_SECTIONS: Final = 65_536
"""A bound on the sections of one message: what is noted of a data or sequence section takes many times its bytes."""


# --- sections: finding them ----------------------------------------------------------------------------


def locate(data: bytes) -> Spans:
    """Returns where all sections stand. Raises ``AmqpError`` unless they are known, complete and compatible."""
    spans: Spans = {}
    pos, size, room = 0, len(data), MAX_SECTIONS
    while pos < size:
        code, start = _descriptor(data, pos)
        end = skip_value(data, start)
        if data[start] not in _CONTENT[code]:
            raise AmqpError(f"the {NAMES[code]} section is of a type it cannot be", start)
        if code in spans and code not in (DATA, SEQUENCE):
            raise AmqpError(f"a second {NAMES[code]} section", pos)
        spans.setdefault(code, []).append((pos, start, end))
        pos = end
        room -= 1
        if not room:
            raise AmqpError(f"a message of {MAX_SECTIONS} sections or more")
    if sum(code in spans for code in BODY_TYPES) > 1:
        raise AmqpError("a message with two kinds of body")
    return spans


_LISTS, _MAPS = frozenset({0x45, 0xC0, 0xD0}), frozenset({0xC1, 0xD1})
_CONTENT: Final[dict[int, frozenset[int]]] = dict.fromkeys(NAMES, _MAPS) | {
    HEADER: _LISTS,
    PROPERTIES: _LISTS,
    SEQUENCE: _LISTS,
    DATA: frozenset({0xA0, 0xB0}),
    VALUE: frozenset(range(256)),
}
"""The constructors that the value of each section may have."""


def _descriptor(data: bytes, pos: int) -> tuple[int, int]:
    """Returns the code of the section at ``pos``, and where its value starts."""
    if data[pos : pos + 2] == b"\x00\x53" and pos + 2 < len(data):
        code: int | None = data[pos + 2]
        start = pos + 3
        if code in NAMES:
            return code, start
    if data[pos]:
        raise AmqpError(f"a section starts with 0x00, not 0x{data[pos]:02x}", pos)
    descriptor, start = decode_value(data, pos + 1)
    if isinstance(descriptor, Symbol):
        code = _SYMBOLIC.get(descriptor)
    else:
        code = descriptor if isinstance(descriptor, ULong) and descriptor in NAMES else None
    if code is None:
        raise AmqpError(f"an unknown section: {descriptor!r:.80}", pos)
    return int(code), start


def data_of(data: bytes, spans: Spans) -> bytes | None:
    found = spans.get(DATA)
    if found is None:
        return None
    return b"".join([data[start + (2 if data[start] == 0xA0 else 5) : end] for _, start, end in found])
