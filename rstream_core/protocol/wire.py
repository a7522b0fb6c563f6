"""The seam: the functions that touch every message, between runs of messages and the frames and chunks of the wire.

Each of them has a twin in Python (``wire_python``), and those that cost most a message have a compiled one, too
(``_wire.c``). ``wire_choice`` chooses once. Nobody can tell which one it is but by the time that it takes: the compiled
one gives the same bytes, and None for what is not its plain case, which the one in Python then does.
tests/property/test_wire.py compares both with the table of ``commands`` or with a simple loop.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from rstream_core.errors import RESPONSE_OK
from rstream_core.protocol import commands as c
from rstream_core.protocol import wire_python
from rstream_core.protocol.amqp_sections import PlainMessages, Unsplit
from rstream_core.protocol.wire_choice import CHOICE
from rstream_core.protocol.wire_python import (
    ENTRY_HEAD,
    FRAME_HEAD,
    MESSAGE_OVERHEAD,
    cut_for_frames,
    encode_filter,
    has_sub_entry,
    publish_size,
    published,
    refit,
    scatter,
)

__all__ = [
    "CHOICE",
    "ENTRY_HEAD",
    "FRAME_HEAD",
    "MESSAGE_OVERHEAD",
    "Lines",
    "checksum",
    "confirmed_ids",
    "count_delimiters",
    "cut_entries",
    "cut_for_frames",
    "encode_filter",
    "entries_of",
    "has_sub_entry",
    "join_entries",
    "join_plain",
    "json_lines",
    "lines_of",
    "plain_bodies",
    "plain_messages",
    "publish_entries",
    "publish_frame",
    "publish_plain",
    "publish_size",
    "published",
    "received",
    "refit",
    "scatter",
    "split",
    "survey",
]

_compiled = CHOICE.compiled
"""None: everything is done in Python."""

_DELIVER_HEAD, _DELIVER = b"\x00\x08\x00\x01", struct.Struct(">4xB")
_DELIVER_COMMITTED_HEAD, _DELIVER_COMMITTED = b"\x00\x08\x00\x02", struct.Struct(">4xBQ")
_CONFIRM_HEAD, _CONFIRM = b"\x00\x03\x00\x01", struct.Struct(">4xBi")
"""Key and version of a frame, and the fields behind them."""


# Messages to frames.


def publish_frame(
    publisher_id: int,
    ids: Sequence[int],
    messages: Sequence[bytes],
    sizes: Sequence[int],
    filters: Sequence[bytes] | None = None,
) -> bytes:
    """See ``wire_python.publish_frame``."""
    frame = None if _compiled is None else _compiled.publish_frame(publisher_id, ids, messages, filters)
    return wire_python.publish_frame(publisher_id, ids, messages, sizes, filters) if frame is None else frame


def publish_plain(
    publisher_id: int, ids: Sequence[int], bodies: Sequence[bytes], lengths: Sequence[int], size: int
) -> bytes:
    """See ``wire_python.publish_plain``."""
    frame = None if _compiled is None else _compiled.publish_plain(publisher_id, ids, bodies)
    return wire_python.publish_plain(publisher_id, ids, bodies, lengths, size) if frame is None else frame


def publish_entries(publisher_id: int, ids: Sequence[int], data: bytes, start: int, end: int) -> bytes:
    """See ``wire_python.publish_entries``."""
    frame = None if _compiled is None else _compiled.publish_entries(publisher_id, ids, data, start, end)
    return wire_python.publish_entries(publisher_id, ids, data, start, end) if frame is None else frame


def cut_entries(data: bytes, start: int, end: int, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
    """See ``wire_python.cut_entries``."""
    parts = None if _compiled is None else _compiled.cut_entries(data, start, end, limit, most)
    return wire_python.cut_entries(data, start, end, limit, most) if parts is None else parts


def join_entries(messages: Sequence[bytes]) -> bytes:
    """See ``wire_python.join_entries``."""
    entries = None if _compiled is None else _compiled.join_entries(messages)
    return wire_python.join_entries(messages) if entries is None else entries


def join_plain(bodies: Sequence[bytes]) -> bytes:
    """See ``wire_python.join_plain``."""
    entries = None if _compiled is None else _compiled.join_plain(bodies)
    return wire_python.join_plain(bodies) if entries is None else entries


def count_delimiters(data: bytes, delimiter: bytes) -> int:
    """See ``wire_python.count_delimiters``."""
    count = None if _compiled is None else _compiled.count_byte(data, delimiter)
    return wire_python.count_delimiters(data, delimiter) if count is None else count


# Frames and chunks to messages.


def checksum(data: bytes, start: int, end: int) -> int:
    """Returns the CRC-32 of ``data[start:end]``, which must lie in the data."""
    found = None if _compiled is None else _compiled.crc32(data, start, end)
    return zlib.crc32(memoryview(data)[start:end]) if found is None else found


def received(frame: bytes) -> c.Frame | None:
    """Returns what ``commands.decode`` returns for a Deliver or a PublishConfirm; None for all other frames.

    A Deliver becomes a ``Delivery``, whose chunk is not copied. Consecutive ids of a PublishConfirm are a ``range``.
    """
    head = frame[:4]
    if head == _DELIVER_COMMITTED_HEAD:
        if len(frame) >= _DELIVER_COMMITTED.size:
            subscription_id, committed = _DELIVER_COMMITTED.unpack_from(frame)
            message = c.Delivery(subscription_id, committed, frame, _DELIVER_COMMITTED.size)
            return c.Frame(message, None, RESPONSE_OK, c.Key.DELIVER)
    elif head == _CONFIRM_HEAD:
        if len(frame) < _CONFIRM.size:
            return None
        publisher_id, count = _CONFIRM.unpack_from(frame)
        if len(frame) == _CONFIRM.size + 8 * count:
            ids = confirmed_ids(frame[_CONFIRM.size :])
            return c.Frame(c.PublishConfirm(publisher_id, ids), None, RESPONSE_OK, c.Key.PUBLISH_CONFIRM)
    elif head == _DELIVER_HEAD and len(frame) >= _DELIVER.size:
        (subscription_id,) = _DELIVER.unpack_from(frame)
        return c.Frame(c.Delivery(subscription_id, None, frame, _DELIVER.size), None, RESPONSE_OK, c.Key.DELIVER)
    return None


def confirmed_ids(data: bytes) -> Sequence[int]:
    """See ``wire_python.confirmed_ids``."""
    return wire_python.confirmed_ids(data) if _compiled is None else _compiled.confirmed_ids(data)


def split(data: bytes, start: int, end: int, count: int) -> list[bytes] | None:
    """See ``wire_python.split``."""
    if _compiled is None:
        return wire_python.split(data, start, end, count)
    return _compiled.split(data, start, end, count)


def survey(data: bytes, start: int, end: int, count: int) -> list[tuple[int, int, int, int, int]] | None:
    """See ``wire_python.survey``."""
    if _compiled is None:
        return wire_python.survey(data, start, end, count)
    return _compiled.survey(data, start, end, count)


@dataclass(slots=True)
class _Entries:
    """Plain messages in their chunk, or in the data of a sub-entry. The compiled twin has looked at each."""

    data: bytes
    start: int
    end: int
    count: int
    body_size: int
    longest: int

    @property
    def size(self) -> int:
        return self.end - self.start - 4 * self.count

    def split(self) -> list[bytes]:
        bodies = plain_bodies(self.data, self.start, self.end, self.count)
        assert bodies is not None
        return bodies

    def lines(self, delimiter: bytes) -> bytes:
        assert _compiled is not None
        lines = _compiled.plain_lines(self.data, self.start, self.end, self.count, delimiter)
        assert lines is not None
        return lines

    def join(self, others: Sequence[Unsplit]) -> Unsplit | None:
        return None


def entries_of(messages: PlainMessages) -> tuple[bytes, int, int] | None:
    """Returns the data in which plain messages still lie, each behind its size, and where they begin and end there.

    None where the compiled twin is not used, and where somebody has asked for a single message.
    """
    held = messages.unsplit
    return (held.data, held.start, held.end) if isinstance(held, _Entries) else None


@dataclass(slots=True)
class Lines:
    """Plain messages whose bodies are lines, in the input that they come from: see ``lines_of``."""

    data: bytes
    start: int
    end: int
    delimiter: bytes
    count: int
    size: int
    body_size: int
    longest: int

    def split(self) -> list[bytes]:
        bodies = self.data[self.start : self.end].split(self.delimiter)
        bodies.pop()
        return bodies

    def lines(self, delimiter: bytes) -> bytes:
        if delimiter == self.delimiter:
            return self.data[self.start : self.end]
        return delimiter.join([*self.split(), b""])

    def join(self, others: Sequence[Unsplit]) -> Unsplit | None:
        parts = [self, *(other for other in others if isinstance(other, Lines) and other.delimiter == self.delimiter)]
        if len(parts) <= len(others):
            return None
        data = b"".join([memoryview(part.data)[part.start : part.end] for part in parts])
        count, longest = sum(part.count for part in parts), max(part.longest for part in parts)
        size, body_size = sum(part.size for part in parts), sum(part.body_size for part in parts)
        return Lines(data, 0, len(data), self.delimiter, count, size, body_size, longest)

    def parts(self, limit: int, most: int) -> Sequence[tuple[int, int, int]]:
        """Returns of each Publish frame of up to ``limit`` bytes behind its size: the number of the line behind its
        last one, the bytes of its messages, and where it ends in the data. A frame ends behind each ``most`` lines, at
        least 1; a line that is larger has a frame of its own."""
        if self.count <= most and publish_size(self.count, self.size) <= limit:
            return ((self.count, self.size, self.end),)
        assert _compiled is not None
        parts = _compiled.cut_lines(self.data, self.start, self.end, self.delimiter, limit, most)
        assert parts is not None
        return parts

    def frame(self, publisher_id: int, ids: Sequence[int], start: int, end: int, size: int) -> bytes:
        """Returns the Publish frame of the lines in ``data[start:end]``, whose messages take ``size`` bytes.

        Raises ``TypeError`` for a publishing id that is no whole number.
        """
        assert _compiled is not None
        frame = _compiled.publish_lines(publisher_id, ids, self.data, start, end, self.delimiter, size)
        if frame is not None:
            return frame
        bodies = self.data[start:end].split(self.delimiter)
        bodies.pop()
        return wire_python.publish_plain(publisher_id, ids, bodies, list(map(len, bodies)), size)


def lines_of(data: bytes, start: int, end: int, delimiter: bytes) -> PlainMessages | None:
    """Returns the plain messages whose bodies are the lines in ``data[start:end]``, without splitting it.

    None where the compiled twin is not used, and where the bytes do not end with the delimiter, or that is longer than
    a byte.
    """
    measured = None if _compiled is None else _compiled.measure_lines(data, start, end, delimiter)
    return None if measured is None else PlainMessages(unsplit=Lines(data, start, end, delimiter, *measured))


def json_lines(messages: PlainMessages, first: int, head: bytes, middle: bytes) -> bytes | None:
    """Returns a line of JSON for each body: ``head``, a number that counts from ``first`` on, ``middle``, the body as a
    string, a closing brace and a newline.

    None where the compiled twin is not used, where the messages are not in their chunk, and where a body is not UTF-8.
    """
    held = messages.unsplit
    if _compiled is None or not isinstance(held, _Entries):
        return None
    return _compiled.plain_json(held.data, held.start, held.end, held.count, first, head, middle)


def plain_messages(data: bytes, start: int, end: int, count: int) -> PlainMessages | None:
    """Returns the ``plain_bodies`` as messages; None where there is one that is not plain.

    Where the compiled twin is used, the data are kept, and split only if somebody asks for a single body.
    """
    if _compiled is None:
        bodies = wire_python.plain_bodies(data, start, end, count)
        return None if bodies is None else PlainMessages(bodies)
    measured = _compiled.measure_plain(data, start, end, count)
    return None if measured is None else PlainMessages(unsplit=_Entries(data, start, end, count, *measured))


def plain_bodies(data: bytes, start: int, end: int, count: int) -> list[bytes] | None:
    """See ``wire_python.plain_bodies``."""
    if _compiled is None:
        return wire_python.plain_bodies(data, start, end, count)
    return _compiled.plain_bodies(data, start, end, count)
