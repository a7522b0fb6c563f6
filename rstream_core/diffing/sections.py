"""What of a message is compared, and in which of its sections two messages differ. Without I/O.

Messages are compared as bytes. Where sections are to be ignored, what is compared is the rest of the bytes. So two
encodings of the same value differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from rstream_core.errors import AmqpError, ConfigurationError
from rstream_core.protocol.amqp_sections import (
    APPLICATION,
    DATA,
    DELIVERY,
    FOOTER,
    HEADER,
    MESSAGE,
    PROPERTIES,
    SEQUENCE,
    VALUE,
    locate,
)

SECTIONS: Final[dict[str, tuple[int, ...]]] = {
    "header": (HEADER,),
    "delivery_annotations": (DELIVERY,),
    "annotations": (MESSAGE,),
    "properties": (PROPERTIES,),
    "headers": (APPLICATION,),
    "body": (DATA, SEQUENCE, VALUE),
    "footer": (FOOTER,),
}
"""The sections of an AMQP 1.0 message, by the names that the JSON envelope has for them."""
WHOLE: Final = "message"
"""The name of what differs where a message is not AMQP 1.0."""

Key = Callable[[bytes], bytes]
"""Returns what is compared of an encoded message."""


def key_without(ignored: Collection[str]) -> Key | None:
    """Returns what takes sections out of a message, each with its descriptor; None where none are to be ignored.

    A message that is not AMQP 1.0 is compared as it is. Raises ``ConfigurationError`` for an unknown section.
    """
    codes: set[int] = set()
    for name in ignored:
        if name not in SECTIONS:
            raise ConfigurationError(f"a message has no section {name!r}; there are: {', '.join(SECTIONS)}")
        codes.update(SECTIONS[name])
    if not codes:
        return None

    def key(message: bytes) -> bytes:
        try:
            spans = locate(message)
        except AmqpError:
            return message
        if codes.isdisjoint(spans):
            return message
        kept = sorted((begin, end) for code in spans if code not in codes for begin, _, end in spans[code])
        return b"".join([message[begin:end] for begin, end in kept])

    return key


def differing_sections(a: bytes, b: bytes, ignored: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names of the sections in which two encoded messages differ, in the order of ``SECTIONS``, but for
    those that are ignored; ``WHOLE`` where one of the messages is not AMQP 1.0, or they differ in the order of their
    sections alone."""
    try:
        one, other = _contents(a), _contents(b)
    except AmqpError:
        return (WHOLE,)
    found = tuple(name for name in SECTIONS if name not in ignored and one.get(name) != other.get(name))
    return found or (WHOLE,)


def _contents(message: bytes) -> dict[str, bytes]:
    spans = locate(message)
    return {
        name: b"".join([message[begin:end] for code in codes for begin, _, end in spans.get(code, ())])
        for name, codes in SECTIONS.items()
    }
