"""The JSON envelope: one message as one line of JSON, in the same format for input and output.

``consume --json`` writes it, ``publish --json`` reads it, and ``--failed-to`` writes it for a second attempt. A message
that is written and read again has the same bytes in its body, and the same AMQP types everywhere. How values are
written is said in ``tagged_values``.

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

**Fields of** ``properties`` **and** ``header`` have fixed types and need no tag: ``user_id`` is binary
(a string stands for its UTF-8 bytes, other bytes are ``{"$binary":…}``), ``content_type`` and ``content_encoding``
are symbols, times are milliseconds, ``group_sequence`` is a uint. In ``message_id`` and ``correlation_id`` a
string is a string and a whole number a ulong; other types are tagged. A null is an absent field, and an empty
section an absent section.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from rstream_cli.records.tagged_values import (
    FORMS,
    EnvelopeError,
    Json,
    JsonForm,
    dumps,
    expect,
    from_base64,
    from_tagged,
    kind_of,
    list_from_json,
    list_to_json,
    looks_tagged,
    map_from_pairs,
    quoted,
    read_json,
    text_as,
    to_base64,
    value_from_json,
    value_to_json,
    whole_number,
)
from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, bodies_of, encode_bodies
from rstream_core.protocol.amqp_codec import AmqpMap
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.amqp_types import Symbol, Timestamp, ULong
from rstream_core.protocol.wire import json_lines


class Envelope(NamedTuple):
    """The contents of a line."""

    message: AMQPMessage
    filter_value: str | None
    document: dict[str, Json]
    """The line's JSON object, for options that read from it (``--id-from .headers.n``)."""


def _dump_id(value: Any) -> Json:
    return int(value) if isinstance(value, ULong) or type(value) is int else value_to_json(value)


def _load_id(value: Json) -> Any:
    if isinstance(value, dict):
        return value_from_json(value)
    if isinstance(value, str):
        return value
    return whole_number(ULong)(expect(value, (int, float), "a string, a whole number or a tagged value"))


def _dump_binary(value: Any) -> Json:
    if isinstance(value, str):
        return str(value)
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return {"$binary": to_base64(value)}


def _load_binary(value: Json) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        value = value_from_json(value)
    if not isinstance(value, bytes):
        raise EnvelopeError('must be a string or {"$binary":"base64"}')
    return value


def _field(name: str) -> JsonForm:
    """Returns the functions for a field of a fixed type: written without a tag, read with or without."""
    row = FORMS[name]
    tag = f"${name}"

    def load(value: Json) -> Any:
        if isinstance(value, dict) and value.keys() == {tag}:
            value = value[tag]
        return row.load(value)

    return row._replace(load=load)


_ID = JsonForm(_dump_id, _load_id, ())

_HEADER_FIELDS: Final = {
    "durable": _field("boolean"),
    "priority": _field("ubyte"),
    "ttl": _field("uint"),
    "first_acquirer": _field("boolean"),
    "delivery_count": _field("uint"),
}

_PROPERTY_FIELDS: Final = {
    "message_id": _ID,
    "user_id": JsonForm(_dump_binary, _load_binary, ()),
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


def _dump_fields(section: object, fields: dict[str, JsonForm]) -> dict[str, Json]:
    return {name: row.dump(value) for name, row in fields.items() if (value := getattr(section, name)) is not None}


def _load_fields(value: Json, fields: dict[str, JsonForm]) -> dict[str, Any]:
    loaded = {}
    for name, item in expect(value, dict, "an object").items():
        row = fields.get(name)
        if row is None:
            raise EnvelopeError(f"unknown field {quoted(name)}; allowed: {', '.join(fields)}")
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
    if all(isinstance(key, str) for key in entries) and not looks_tagged(entries):
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
    section = expect(value, dict, "an object")
    if section.keys() == {"$map"}:
        entries = from_tagged("$map", section["$map"], functools.partial(map_from_pairs, text=text))
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
        raise EnvelopeError(f"keys are ASCII, and {quoted(key)} is not")
    return Symbol(key)


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


def batch_to_json(
    records: Sequence[bytes], *, stream: str, offsets: Iterable[int], timestamp_ms: int, raw: bool = False
) -> list[bytes]:
    """Returns :func:`to_json` of each record of a chunk, in order; much faster for records that are only bodies.

    ``raw``: the records are not AMQP messages, but bodies (``--codec raw``). ``timestamp_ms``: milliseconds since 1970.
    Raises like :func:`to_json`, for the first record that cannot be written.
    """
    start, middle = _around_offset(stream, timestamp_ms)
    lines = []
    if raw or type(records) is PlainMessages:
        bodies = records.bodies if isinstance(records, PlainMessages) else records
        for body, offset in zip(bodies, offsets, strict=True):
            try:
                lines.append(b"%b%d%b%b}" % (start, offset, middle, dumps(body.decode())))
            except UnicodeDecodeError:
                lines.append(to_json(AMQPMessage(body), stream=stream, offset=offset, timestamp_ms=timestamp_ms))
        return lines
    found = bodies_of(records)
    plain = encode_bodies([body or b"" for body in found])
    for record, content, alone, offset in zip(records, found, plain, offsets, strict=True):
        if content is not None and alone == record:
            try:
                lines.append(b"%b%d%b%b}" % (start, offset, middle, dumps(content.decode())))
                continue
            except UnicodeDecodeError:
                pass
        message = AMQPMessage.from_bytes(record)
        lines.append(to_json(message, stream=stream, offset=offset, timestamp_ms=timestamp_ms))
    return lines


def plain_to_json(messages: PlainMessages, *, stream: str, offsets: Sequence[int], timestamp_ms: int) -> bytes | None:
    """Returns what :func:`batch_to_json` returns, each line with its newline, for messages that are in their chunk.

    None where that needs a look at each message.
    """
    if type(offsets) is not range or offsets.step != 1:
        return None
    return json_lines(messages, offsets.start, *_around_offset(stream, timestamp_ms))


def _around_offset(stream: str, timestamp_ms: int) -> tuple[bytes, bytes]:
    """Returns what is before the offset in the envelope of a message that is only a body, and what is behind it."""
    time = dumps(iso_time(timestamp_ms))
    return (
        b'{"stream":%b,"offset":' % dumps(stream),
        b',"timestamp":%b,"properties":{},"headers":{},"annotations":{},"body":' % time,
    )


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
    return dumps(list_to_json(message.sequence or [])) if kind == "sequence" else b""


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
            document["body_base64"] = to_base64(body)
        return
    kind = message.body_type
    if kind == "value":
        document["value"] = value_to_json(message.value)
    elif kind == "sequence":
        rows = message.sequence_sections or [[]]
        if len(rows) > 1:
            document["sequence_sections"] = [list_to_json(row) for row in rows]
        else:
            document["sequence"] = list_to_json(rows[0])
    else:
        document["body"] = "" if kind == "data" else None


_BODIES: Final = ("body", "body_base64", "value", "sequence", "body_sections", "sequence_sections")

IGNORED: Final = ("stream", "offset", "timestamp", "failed")

SECTIONS: Final[dict[str, tuple[str, Callable[[Json], Any]]]] = {
    "properties": ("properties", lambda value: Properties(**_load_fields(value, _PROPERTY_FIELDS))),
    "headers": ("application_properties", _load_headers),
    "annotations": ("message_annotations", _load_annotations),
    "header": ("header", lambda value: Header(**_load_fields(value, _HEADER_FIELDS))),
    "delivery_annotations": ("delivery_annotations", _load_annotations),
    "footer": ("footer", _load_annotations),
}
"""The key of each section, with the attribute of the message, and the function that reads the section."""

_ALLOWED: Final = frozenset((*SECTIONS, *_BODIES, *IGNORED, "filter"))


def from_json(line: bytes | str) -> Envelope:
    """Returns the message in a line of JSON. If an object has a key twice, the last one counts.

    Raises EnvelopeError. All values of the message have AMQP types; ``encode()`` may still raise ValueError for values
    that are nested too deeply.
    """
    (message, filter_value), document = read_json(line, _load_message)
    return Envelope(message, filter_value, document)


def _load_message(document: Json) -> tuple[AMQPMessage, str | None]:
    if type(document) is not dict:
        raise EnvelopeError(f'an envelope is an object, such as {{"body":"…"}}, not {kind_of(document)}')
    if not document.keys() <= _ALLOWED:
        unknown = next(key for key in document if key not in _ALLOWED)
        raise EnvelopeError(f"unknown key {quoted(unknown)}; allowed: {', '.join((*_BODIES, *SECTIONS, 'filter'))}")
    bodies = [key for key in _BODIES if key in document]
    if len(bodies) > 1:
        raise EnvelopeError(f"a message has one body, and here are both {quoted(bodies[0])} and {quoted(bodies[1])}")
    message = _load_body(bodies[0], document[bodies[0]]) if bodies else AMQPMessage(b"")
    for key, (attribute, load) in SECTIONS.items():
        section = document.get(key)
        if section:  # an empty section counts as absent
            setattr(message, attribute, _of_key(key, load, section))
        elif section not in (None, {}):
            raise EnvelopeError(f"{quoted(key)} must be an object, not {kind_of(section)}")
    filter_value = document.get("filter")
    if filter_value is not None and type(filter_value) is not str:
        raise EnvelopeError(f'"filter" must be a string, not {kind_of(filter_value)}')
    return message, filter_value


def _load_body(key: str, content: Json) -> AMQPMessage:
    if key == "body":
        if type(content) is str:
            return AMQPMessage(content.encode())
        if content is None:
            return AMQPMessage.from_bytes(b"")  # no sections at all: the only way to have no body
        raise EnvelopeError(
            f'"body" must be a string, not {kind_of(content)}; an AMQP value goes into "value",'
            ' bytes into "body_base64"'
        )
    if key == "body_base64":
        return AMQPMessage(_of_key(key, text_as(from_base64), content))
    if key == "value":
        return AMQPMessage(value=_of_key(key, value_from_json, content))
    if key == "sequence":
        return AMQPMessage(sequence=_of_key(key, list_from_json, content))
    return AMQPMessage.from_bytes(_of_key(key, _load_parts if key == "body_sections" else _load_rows, content))


def _load_parts(value: Json) -> bytes:
    """Encodes the data sections of a list: a message of these bytes keeps them as separate sections."""
    return b"".join(encode_bodies([_load_binary(part) for part in _load_several(value)]))


def _load_rows(value: Json) -> bytes:
    """Encodes the sequence sections of a list, likewise."""
    rows = [list_from_json(row) for row in _load_several(value)]
    try:
        return b"".join([AMQPMessage(sequence=row).encode() for row in rows])
    except ValueError as error:  # nested too deeply
        raise EnvelopeError(str(error)) from None


def _load_several(value: Json) -> list[Json]:
    sections: list[Json] = expect(value, list, "a list of sections")
    if not sections:
        raise EnvelopeError("needs at least one section")
    return sections


def _of_key(key: str, load: Callable[[Json], Any], content: Json) -> Any:
    try:
        return load(content)
    except EnvelopeError as error:
        raise EnvelopeError(f"{quoted(key)}: {error}") from None
