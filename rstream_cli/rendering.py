"""From the messages of a chunk to one block of bytes for stdout: one function, chosen once by the options.

Bodies take the core's fast path and are joined in C. In the byte outputs (lines, NUL, len32, raw) a body that is not
data has to become bytes: of an AMQP value that is a string or binary, its bytes; of any other value and of a sequence,
their JSON; of a message without a body, nothing. ``--json`` and ``--format`` look at each message.

A message that is larger than a block comes alone, and is rendered in several blocks: its body is never there twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias, cast

from rstream_cli.records.envelope import batch_to_json, body_bytes, json_blocks, large_body, to_json
from rstream_cli.records.framing_out import RecordWriter
from rstream_cli.records.template import Place, Template
from rstream_core import AmqpError, AMQPMessage
from rstream_core.protocol.amqp import bodies_of


class Batch(NamedTuple):
    """Messages of one chunk."""

    stream: str
    offsets: Sequence[int]
    """One for each message."""
    timestamp_ms: int
    messages: Sequence[bytes]


class NotAmqpError(Exception):
    """A message is not AMQP 1.0. ``index`` is its place in the batch."""

    def __init__(self, index: int, message: str) -> None:
        self.index = index
        super().__init__(message)


Rendered: TypeAlias = bytes | Iterable[bytes | memoryview]
"""One block, or the blocks of one large message."""
Renderer = Callable[[Batch], Rendered]
"""Raises NotAmqpError, before the first block."""

LARGE = 4 * 1024 * 1024
"""Bytes of a message beyond which it comes in blocks. The core hands out such a message alone."""


def bodies_renderer(writer: RecordWriter, *, raw: bool) -> Renderer:
    """The bodies alone, framed; ``raw``: what was stored is the body."""

    def render(batch: Batch) -> Rendered:
        if _is_large(batch):
            body = _large_body(batch.messages[0], raw=raw)
            before, behind = writer.around(len(body))
            return before, body, behind
        return writer.join(batch.messages if raw else _bodies(batch.messages))

    return render


def _is_large(batch: Batch) -> bool:
    return len(batch.messages) == 1 and len(batch.messages[0]) > LARGE


def _large_body(data: bytes, *, raw: bool) -> bytes | memoryview:
    if raw:
        return data
    try:
        found = large_body(data)
    except AmqpError as error:
        raise NotAmqpError(0, str(error)) from None
    return _body(0, AMQPMessage.from_bytes(data)) if found is None else found[0]


def _bodies(messages: Sequence[bytes]) -> list[bytes]:
    try:
        bodies = bodies_of(messages)
        if None not in bodies:
            return cast("list[bytes]", bodies)
    except AmqpError:
        pass  # the slower way knows which one
    return [_body(index, AMQPMessage.from_bytes(data)) for index, data in enumerate(messages)]


def _body(index: int, message: AMQPMessage) -> bytes:
    try:
        return body_bytes(message)
    except AmqpError as error:
        raise NotAmqpError(index, str(error)) from None


def json_renderer(*, raw: bool) -> Renderer:
    """One envelope a line."""

    def render(batch: Batch) -> Rendered:
        stream, offsets, timestamp, messages = batch
        if _is_large(batch):
            try:
                blocks = json_blocks(messages[0], stream=stream, offset=offsets[0], timestamp_ms=timestamp, raw=raw)
            except AmqpError as error:
                raise NotAmqpError(0, str(error)) from None
            return itertools.chain(blocks, (b"\n",))
        try:
            lines = batch_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp, raw=raw)
        except AmqpError:
            lines = [_envelope(index, batch) for index in range(len(messages))]  # raises for the first bad one
        return b"\n".join([*lines, b""])

    return render


def _envelope(index: int, batch: Batch) -> bytes:
    message = AMQPMessage.from_bytes(batch.messages[index])
    try:
        return to_json(message, stream=batch.stream, offset=batch.offsets[index], timestamp_ms=batch.timestamp_ms)
    except AmqpError as error:
        raise NotAmqpError(index, str(error)) from None


def template_renderer(template: Template, *, raw: bool) -> Renderer:
    """``--format``."""

    def render(batch: Batch) -> Rendered:
        stream, offsets, timestamp, messages = batch
        parts: list[bytes | memoryview] = []
        is_large = _is_large(batch)
        for index, data in enumerate(messages):
            message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
            body = _large_body(data, raw=raw) if is_large else data if raw else _body(index, message)
            try:
                parts += template.pieces(Place(stream, offsets[index], timestamp, body, message))
            except AmqpError as error:
                raise NotAmqpError(index, str(error)) from None
        return parts if is_large else b"".join(parts)

    return render
