"""From the messages of a chunk to one block of bytes for stdout: one function, chosen once by the options.

Bodies take the core's fast path and are joined in C. In the byte outputs (lines, NUL, len32, raw) a body that is not
data has to become bytes: of an AMQP value that is a string or binary, its bytes; of any other value and of a sequence,
their JSON; of a message without a body, nothing. ``--json`` and ``--format`` look at each message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from rstream_cli.records.envelope import batch_to_json, body_bytes, to_json
from rstream_cli.records.framing_out import RecordWriter
from rstream_cli.records.template import Place, Template
from rstream_cli.terminal import Bodies
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


Renderer = Callable[[Batch], bytes]
"""Raises NotAmqpError."""


def bodies_renderer(
    writer: RecordWriter, *, raw: bool, shown: Bodies | None = None, framing_too: bool = False
) -> Renderer:
    """The bodies alone, framed; ``raw``: what was stored is the body.

    ``shown``: made visible for a terminal. A delimiter that a user typed is not. The framing is, where it is that of
    the format (``framing_too``): a length is four bytes of any kind.
    """

    def bodies(batch: Batch) -> Sequence[bytes]:
        return batch.messages if raw else _bodies(batch.messages)

    if shown is None:
        return lambda batch: writer.join(bodies(batch))

    def visible(batch: Batch) -> bytes:
        plain = bodies(batch)
        block = writer.join(plain)
        harmless = shown.show(block)
        return harmless if framing_too or harmless is block else writer.join(list(map(shown.show, plain)))

    return visible


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


def json_renderer(*, raw: bool, shown: Bodies | None = None) -> Renderer:
    """One envelope a line."""

    def render(batch: Batch) -> bytes:
        stream, offsets, timestamp, messages = batch
        try:
            lines = batch_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp, raw=raw)
        except AmqpError:
            lines = [_envelope(index, batch) for index in range(len(messages))]  # raises for the first bad one
        block = b"\n".join([*lines, b""])
        return block if shown is None else shown.show_json(block)

    return render


def _envelope(index: int, batch: Batch) -> bytes:
    message = AMQPMessage.from_bytes(batch.messages[index])
    try:
        return to_json(message, stream=batch.stream, offset=batch.offsets[index], timestamp_ms=batch.timestamp_ms)
    except AmqpError as error:
        raise NotAmqpError(index, str(error)) from None


def template_renderer(template: Template, *, raw: bool) -> Renderer:
    """``--format``."""

    def render(batch: Batch) -> bytes:
        stream, offsets, timestamp, messages = batch
        parts: list[bytes] = []
        for index, data in enumerate(messages):
            message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
            body = data if raw else _body(index, message)
            try:
                parts.append(template.render(Place(stream, offsets[index], timestamp, body, message)))
            except AmqpError as error:
                raise NotAmqpError(index, str(error)) from None
        return b"".join(parts)

    return render
