"""Messages that are too large to be rendered in one go: their envelopes in blocks, and their bodies as views."""

from __future__ import annotations

import binascii
import codecs
from collections.abc import Iterator

from rstream_cli.records.envelope import to_document
from rstream_cli.records.tagged_values import Json, dumps
from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp import AMQPMessage
from rstream_core.protocol.amqp_sections import DATA, VALUE, locate


def json_blocks(record: bytes, *, stream: str, offset: int, timestamp_ms: int, raw: bool = False) -> Iterator[bytes]:
    """Yields the envelope of one large record in blocks, since the text may be six times as large as the record.

    If the body is data or a text, only a block of it is copied at a time. Raises like :func:`to_document`, before the
    first block. ``raw``: the record is no AMQP message, but a body (``--codec raw``).
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
