"""From the messages of a chunk to one block of bytes for stdout: one function, chosen once by the options.

Bodies take the core's fast path and are joined in C. In the byte outputs (lines, NUL, len32, raw) a body that is not
data has to become bytes: of an AMQP value that is a string or binary, its bytes; of any other value and of a sequence,
their JSON; of a message without a body, nothing. ``--json`` and ``--format`` look at each message.

Where the fast way finds a message that it cannot show, the block is gone through once more, message by message, and
each that is bad is told by its place: whoever asked for the block stops there, or passes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, cast

from rstream_cli.records.envelope import EnvelopeError, batch_to_json, body_bytes, to_json
from rstream_cli.records.framing_out import RecordWriter
from rstream_cli.records.template import Place, Template
from rstream_cli.terminal import Bodies
from rstream_core import AmqpError, AMQPMessage
from rstream_core.protocol.amqp import bodies_of

UNSHOWABLE = (AmqpError, EnvelopeError)
"""What looking into a message raises: it is not AMQP 1.0, or it is, and JSON cannot hold what is in it."""


class Batch(NamedTuple):
    """Messages of one chunk."""

    stream: str
    offsets: Sequence[int]
    """One for each message."""
    timestamp_ms: int
    messages: Sequence[bytes]
    bad: Collection[int] = ()
    """Offsets of messages that are bad already, as a filter could not look into them."""


OnBad = Callable[[int, str], None]
"""Is told of a message that cannot be shown: its place in the batch, and why not. What it raises ends the rendering."""
Renderer = Callable[[Batch, OnBad], bytes]
"""Gives the block without the messages that cannot be shown, having told of each in its order."""


def bodies_renderer(
    writer: RecordWriter, *, raw: bool, shown: Bodies | None = None, framing_too: bool = False
) -> Renderer:
    """The bodies alone, framed; ``raw``: what was stored is the body.

    ``shown``: made visible for a terminal. A delimiter that a user typed is not. The framing is, where it is that of
    the format (``framing_too``): a length is four bytes of any kind.
    """

    def join(bodies: Sequence[bytes]) -> bytes:
        block = writer.join(bodies)
        if shown is None:
            return block
        harmless = shown.show(block)
        return harmless if framing_too or harmless is block else writer.join(list(map(shown.show, bodies)))

    if raw:
        return lambda batch, _: join(batch.messages)

    def fast(batch: Batch) -> bytes:
        bodies = bodies_of(batch.messages)
        if None in bodies:
            bodies = [body_bytes(AMQPMessage.from_bytes(data)) for data in batch.messages]
        return join(cast("list[bytes]", bodies))

    def one(batch: Batch, index: int) -> bytes:
        return join([body_bytes(AMQPMessage.from_bytes(batch.messages[index]))])

    return _renderer(fast, one)


def json_renderer(*, raw: bool, shown: Bodies | None = None) -> Renderer:
    """One envelope a line."""

    def show(block: bytes) -> bytes:
        return block if shown is None else shown.show_json(block)

    def fast(batch: Batch) -> bytes:
        stream, offsets, timestamp, messages, _ = batch
        lines = batch_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp, raw=raw)
        return show(b"\n".join([*lines, b""]))

    def one(batch: Batch, index: int) -> bytes:
        data = batch.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        offset = batch.offsets[index]
        return show(to_json(message, stream=batch.stream, offset=offset, timestamp_ms=batch.timestamp_ms) + b"\n")

    return _renderer(fast, one)


def template_renderer(template: Template, *, raw: bool) -> Renderer:
    """``--format``."""

    def one(batch: Batch, index: int) -> bytes:
        data = batch.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        body = data if raw else body_bytes(message)
        return template.render(Place(batch.stream, batch.offsets[index], batch.timestamp_ms, body, message))

    return _renderer(lambda batch: b"".join([one(batch, index) for index in range(len(batch.messages))]), one)


def _renderer(fast: Callable[[Batch], bytes], one: Callable[[Batch, int], bytes]) -> Renderer:
    """``fast`` gives the block of a batch in which all is well, ``one`` that of one message; else both raise."""

    def render(batch: Batch, on_bad: OnBad) -> bytes:
        if not batch.bad:
            try:
                return fast(batch)
            except UNSHOWABLE:
                pass
        parts: list[bytes] = []
        for index, offset in enumerate(batch.offsets):
            try:
                if offset in batch.bad:
                    look_into(batch.messages[index])
                parts.append(one(batch, index))
            except UNSHOWABLE as error:
                on_bad(index, why_bad(error))
        return b"".join(parts)

    return render


def look_into(data: bytes) -> tuple[bytes, bytes]:
    """The body of a message, and its envelope. Raises what is in ``UNSHOWABLE``."""
    message = AMQPMessage.from_bytes(data)
    return body_bytes(message), to_json(message, stream="", offset=0, timestamp_ms=0)


def why_bad(error: Exception) -> str:
    """What goes behind "the message"."""
    return f"is not AMQP 1.0: {error}" if isinstance(error, AmqpError) else f"cannot be shown: {error}"
