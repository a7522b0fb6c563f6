r"""``consume --format``: writes each message with a template that has placeholders, like kcat's ``-f``.

=====  =====================================================================================================
%s     the body's bytes            %S  their number                  %R  the same, in four bytes, big endian
%o     the offset                  %t  the stream
%T     the timestamp of its chunk, milliseconds since 1970          %I  the same, 2026-08-21T10:00:00.123Z
%h     the headers (application properties), JSON                   %p  the properties, JSON
%%     a percent sign
=====  =====================================================================================================

Escapes: ``\n \r \t \0 \\ \xNN``. No separator is added between messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rstream_cli.parsing import unescape
from rstream_cli.records.envelope import headers_to_json, iso_time, properties_to_json
from rstream_cli.records.tagged_values import dumps
from rstream_cli.terminal import Bodies
from rstream_core.protocol.amqp import AMQPMessage


class Fields(NamedTuple):
    """What a format may show of one message."""

    stream: str
    offset: int
    timestamp_ms: int
    body: bytes | memoryview
    message: AMQPMessage


_PIECES: dict[str, Callable[[Fields], bytes | memoryview]] = {
    "s": lambda fields: fields.body,
    "S": lambda fields: str(len(fields.body)).encode(),
    "R": lambda fields: len(fields.body).to_bytes(4),
    "o": lambda fields: str(fields.offset).encode(),
    "t": lambda fields: fields.stream.encode(),
    "T": lambda fields: str(fields.timestamp_ms).encode(),
    "I": lambda fields: iso_time(fields.timestamp_ms).encode(),
    "h": lambda fields: dumps(headers_to_json(fields.message)),
    "p": lambda fields: dumps(properties_to_json(fields.message)),
}
_PLACEHOLDER = re.compile(r"%(.|$)", re.DOTALL)


def _visible(piece: str, shown: Bodies) -> Callable[[Fields], bytes]:
    plain = _PIECES[piece]
    show = {"t": shown.show_name, "h": shown.show_json, "p": shown.show_json}.get(piece, shown.show)
    return lambda fields: show(bytes(plain(fields)))


class Template:
    """A parsed format. Raises ValueError for an unknown place or escape."""

    def __init__(self, text: str, shown: Bodies | None = None) -> None:
        """With ``shown``, values from a message are made readable for a terminal; the user's own text is unchanged."""
        self._parts: list[bytes | Callable[[Fields], bytes | memoryview]] = []
        for index, piece in enumerate(_PLACEHOLDER.split(text)):
            if index % 2 == 0:
                if piece:
                    self._parts.append(unescape(piece))
            elif piece == "%":
                self._parts.append(b"%")
            elif piece in _PIECES:
                self._parts.append(_PIECES[piece] if shown is None else _visible(piece, shown))
            else:
                allowed = " ".join(f"%{letter}" for letter in _PIECES)
                raise ValueError(f"unknown place {'%' + piece!r} in {text!r}; allowed: {allowed} %%")

    def render(self, fields: Fields) -> bytes:
        """Returns the text for one message. Raises like ``envelope.to_json``."""
        return b"".join(self.pieces(fields))

    def pieces(self, fields: Fields) -> list[bytes | memoryview]:
        """Returns the parts of the text for one message, not joined."""
        return [part if isinstance(part, bytes) else part(fields) for part in self._parts]
