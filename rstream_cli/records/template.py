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


class Place(NamedTuple):
    """One message with its stream, offset and timestamp."""

    stream: str
    offset: int
    timestamp_ms: int
    body: bytes | memoryview
    message: AMQPMessage


_PIECES: dict[str, Callable[[Place], bytes | memoryview]] = {
    "s": lambda place: place.body,
    "S": lambda place: str(len(place.body)).encode(),
    "R": lambda place: len(place.body).to_bytes(4),
    "o": lambda place: str(place.offset).encode(),
    "t": lambda place: place.stream.encode(),
    "T": lambda place: str(place.timestamp_ms).encode(),
    "I": lambda place: iso_time(place.timestamp_ms).encode(),
    "h": lambda place: dumps(headers_to_json(place.message)),
    "p": lambda place: dumps(properties_to_json(place.message)),
}
_PLACE = re.compile(r"%(.|$)", re.DOTALL)


def _visible(piece: str, shown: Bodies) -> Callable[[Place], bytes]:
    plain = _PIECES[piece]
    show = {"t": shown.show_name, "h": shown.show_json, "p": shown.show_json}.get(piece, shown.show)
    return lambda place: show(bytes(plain(place)))


class Template:
    """A parsed format. Raises ValueError for an unknown place or escape."""

    def __init__(self, text: str, shown: Bodies | None = None) -> None:
        """With ``shown``, values from a message are made readable for a terminal; the user's own text is unchanged."""
        self._parts: list[bytes | Callable[[Place], bytes | memoryview]] = []
        for index, piece in enumerate(_PLACE.split(text)):
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

    def render(self, place: Place) -> bytes:
        """Returns the text for one message. Raises like ``envelope.to_json``."""
        return b"".join(self.pieces(place))

    def pieces(self, place: Place) -> list[bytes | memoryview]:
        """Returns the parts of the text for one message, not joined."""
        return [part if isinstance(part, bytes) else part(place) for part in self._parts]
