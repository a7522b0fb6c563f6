"""The values of a message by their paths in its envelope, as bytes: what ``--match`` compares and CSV writes.

A path begins with a key of the envelope. What is written for the value there:

- a string: its UTF-8; binary: its bytes; true, false, a number, a list or an object: JSON, as in the envelope, and
  without the tag of the value's type
- ``body``: what ``--output lines`` writes for it. A longer path, such as ``.body.region``, leads into a JSON body
- nothing, where there is no such value, or a null
"""

from __future__ import annotations

import binascii
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rstream_cli.records.envelope import (
    HEADER,
    PROPERTIES,
    body_bytes,
    headers_to_json,
    iso_time,
    properties_to_json,
    to_document,
    to_json,
)
from rstream_cli.records.paths import Path, PathError, extract, format_path
from rstream_cli.records.tagged_values import EnvelopeError, dumps, loads
from rstream_core import AmqpError
from rstream_core.protocol.amqp import AMQPMessage

UNSHOWABLE = (AmqpError, EnvelopeError)
"""The errors of reading a message: it is not AMQP 1.0, or JSON cannot hold its contents."""


class Where(NamedTuple):
    """A message, and what the envelope says of where it was."""

    message: AMQPMessage
    stream: str
    offset: int
    timestamp_ms: int
    """Of its chunk, since 1970."""


def look_into(where: Where) -> tuple[bytes, bytes]:
    """Returns the body of a message, and its envelope. Raises errors in ``UNSHOWABLE``."""
    message, stream, offset, timestamp_ms = where
    return body_bytes(message), to_json(message, stream=stream, offset=offset, timestamp_ms=timestamp_ms)


_BODY = "body"
_OF_CHUNK: dict[str, Callable[[Where], bytes]] = {
    "stream": lambda where: where.stream.encode(),
    "offset": lambda where: b"%d" % where.offset,
    "timestamp": lambda where: iso_time(where.timestamp_ms).encode(),
}
_SECTIONS: dict[str, Callable[[AMQPMessage], Any]] = {"properties": properties_to_json, "headers": headers_to_json}
"""The sections that can be had without the rest of the envelope."""
_OTHERS = (
    "annotations",
    "header",
    "delivery_annotations",
    "footer",
    "body_base64",
    "value",
    "sequence",
    "body_sections",
    "sequence_sections",
)
_KEYS = (*_OF_CHUNK, *_SECTIONS, _BODY, *_OTHERS)
_FIELDS = {"properties": PROPERTIES, "header": HEADER}
"""The keys whose own keys are known."""


class UnknownKeyError(ValueError):
    """The envelope has no such key. ``hint`` says which it has."""

    def __init__(self, key: str, hint: str) -> None:
        self.hint = hint
        super().__init__(f"the envelope has no {key}")


def check_path(path: Path) -> Path:
    """Returns a path that an envelope may have. Raises UnknownKeyError."""
    root = path[0] if path else ""
    if root not in _KEYS:
        found = [("properties", root)] if root in PROPERTIES else [(near,) for near in _near(root, _KEYS)]
        raise UnknownKeyError(format_path(path[:1]), _hint(found, _KEYS))
    known = _FIELDS.get(str(root))
    if known is not None and len(path) > 1 and path[1] not in known:
        raise UnknownKeyError(format_path(path[:2]), _hint([(root, near) for near in _near(path[1], known)], known))
    if root in _OF_CHUNK and len(path) > 1:
        raise UnknownKeyError(format_path(path[:2]), f"{format_path(path[:1])} is a single value")
    return path


def _near(name: object, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)


def _hint(found: Iterable[Iterable[Any]], known: Sequence[str]) -> str:
    meant = "".join(f"did you mean {format_path(path)}? " for path in found)
    return f"{meant}It has {', '.join(known)}"


def values_at(paths: Sequence[Path], where: Where) -> list[bytes | None]:
    """Returns the value at each path; None where there is none.

    Raises AmqpError for a part of the message that is malformed, if a path leads there, and EnvelopeError where JSON
    cannot hold it.
    """
    sections: dict[str, Any] = {}
    return [_value(path, where, sections) for path in paths]


def _value(path: Path, where: Where, sections: dict[str, Any]) -> bytes | None:
    """``sections`` keeps what was made of the message already; the whole envelope under ""."""
    root = str(path[0])
    found = _OF_CHUNK.get(root)
    if found is not None:
        return found(where)
    if root == _BODY:
        if _BODY not in sections:
            sections[_BODY] = body_bytes(where.message)
        body: bytes = sections[_BODY]
        if len(path) == 1:
            return None if where.message.body_type is None else body
        try:
            return _bytes(extract(loads(body), path[1:]))
        except (EnvelopeError, PathError):  # not JSON, or no value there
            return None
    if root in _SECTIONS:
        if root not in sections:
            sections[root] = _SECTIONS[root](where.message)
        section = sections[root]
    else:
        if "" not in sections:
            sections[""] = to_document(where.message)
        section = sections[""].get(root)
    try:
        return untagged(extract(section, path[1:]))
    except PathError:
        return None


def untagged(found: Any) -> bytes | None:
    """Returns what is written for a value of an envelope, without the tag of its type; None for a null.

    Raises EnvelopeError where JSON cannot hold it.
    """
    if type(found) is dict and len(found) == 1:
        ((tag, content),) = found.items()
        if tag == "$binary":
            return binascii.a2b_base64(content)
        if tag[:1] == "$":
            found = content
    return _bytes(found)


def _bytes(found: Any) -> bytes | None:
    if found is None:
        return None
    return found.encode() if isinstance(found, str) else dumps(found)
