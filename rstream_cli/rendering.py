"""From the messages of a chunk to one block of bytes for stdout: one function, chosen once by the options.

Bodies take the core's fast path and are joined in C. In the byte outputs (lines, NUL, len32, raw) a body that is not
data has to become bytes: of an AMQP value that is a string or binary, its bytes; of any other value and of a sequence,
their JSON; of a message without a body, nothing. ``--json`` and ``--format`` look at each message.

Where the fast way finds a message that it cannot show, the block is gone through once more, message by message, and
each that is bad is told by its place: whoever asked for the block stops there, or passes it.

A message that is larger than a block comes alone, and is rendered in several blocks: its body is never there twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias, cast

from rstream_cli.records.envelope import EnvelopeError, batch_to_json, body_bytes, json_blocks, large_body, to_json
from rstream_cli.records.framing_out import RecordWriter
from rstream_cli.records.template import Place, Template
from rstream_cli.terminal import Bodies
from rstream_core import AmqpError, AMQPMessage
from rstream_core.protocol.amqp import bodies_of

UNSHOWABLE = (AmqpError, EnvelopeError)
"""What looking into a message raises: it is not AMQP 1.0, or it is, and JSON cannot hold what is in it."""

LARGE = 4 * 1024 * 1024
"""Bytes of a message beyond which it comes in blocks. The core hands out such a message alone."""


class Batch(NamedTuple):
    """Messages of one chunk."""

    stream: str
    offsets: Sequence[int]
    """One for each message."""
    timestamp_ms: int
    messages: Sequence[bytes]
    bad: Collection[int] = ()
    """Offsets of messages that are bad already, as a filter could not look into them."""

    @property
    def is_large(self) -> bool:
        """Whether it is one message that comes in blocks."""
        return len(self.messages) == 1 and len(self.messages[0]) > LARGE


OnBad = Callable[[int, str], None]
"""Is told of a message that cannot be shown: its place in the batch, and why not. What it raises ends the rendering."""
Rendered: TypeAlias = bytes | Iterable[bytes | memoryview]
"""One block, or the blocks of one large message."""


class Renderer:
    """Gives the block of a batch without the messages that cannot be shown, having told of each in its order, before
    the first.

    ``fast`` gives the block of a batch in which all is well, ``one`` that of one message; else both raise.
    """

    def __init__(self, fast: Callable[[Batch], Rendered], one: Callable[[Batch, int], bytes]) -> None:
        self._fast = fast
        self._one = one
        self.ambiguous = 0
        """How many messages of the last block nobody can tell from others in it."""

    def __call__(self, batch: Batch, on_bad: OnBad) -> Rendered:
        """The block."""
        self.ambiguous = 0
        if not batch.bad:
            try:
                return self._fast(batch)
            except UNSHOWABLE:
                pass
        parts: list[bytes] = []
        for index, offset in enumerate(batch.offsets):
            try:
                if offset in batch.bad:
                    look_into(batch.messages[index])
                parts.append(self._one(batch, index))
            except UNSHOWABLE as error:
                on_bad(index, why_bad(error))
        return b"".join(parts)


def bodies_renderer(
    writer: RecordWriter, *, raw: bool, shown: Bodies | None = None, framing_too: bool = False
) -> Renderer:
    """The bodies alone, framed; ``raw``: what was stored is the body.

    ``shown``: made visible for a terminal. A delimiter that a user typed is not. The framing is, where it is that of
    the format (``framing_too``): a length is four bytes of any kind.
    """

    def join(bodies: Sequence[bytes]) -> bytes:
        block = writer.join(bodies)
        renderer.ambiguous += writer.ambiguous(bodies, block)
        if shown is None:
            return block
        harmless = shown.show(block)
        return harmless if framing_too or harmless is block else writer.join(list(map(shown.show, bodies)))

    def fast(batch: Batch) -> Rendered:
        if batch.is_large and shown is None:
            body = _large_body(batch.messages[0], raw=raw)
            renderer.ambiguous = writer.ambiguous([body], memoryview(body))
            before, behind = writer.around(len(body))
            return before, body, behind
        if raw:
            return join(batch.messages)
        bodies = bodies_of(batch.messages)
        if None in bodies:
            bodies = [body_bytes(AMQPMessage.from_bytes(data)) for data in batch.messages]
        return join(cast("list[bytes]", bodies))

    def one(batch: Batch, index: int) -> bytes:
        return join([body_bytes(AMQPMessage.from_bytes(batch.messages[index]))])

    renderer = Renderer(fast, one)
    return renderer


def _large_body(data: bytes, *, raw: bool) -> bytes | memoryview:
    if raw:
        return data
    found = large_body(data)
    return body_bytes(AMQPMessage.from_bytes(data)) if found is None else found[0]


def json_renderer(*, raw: bool, shown: Bodies | None = None) -> Renderer:
    """One envelope a line."""

    def show(block: bytes) -> bytes:
        return block if shown is None else shown.show_json(block)

    def fast(batch: Batch) -> Rendered:
        stream, offsets, timestamp, messages, _ = batch
        if batch.is_large and shown is None:
            blocks = json_blocks(messages[0], stream=stream, offset=offsets[0], timestamp_ms=timestamp, raw=raw)
            first = next(blocks)  # raises before anything is written
            return itertools.chain((first,), blocks, (b"\n",))
        lines = batch_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp, raw=raw)
        return show(b"\n".join([*lines, b""]))

    def one(batch: Batch, index: int) -> bytes:
        data = batch.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        offset = batch.offsets[index]
        return show(to_json(message, stream=batch.stream, offset=offset, timestamp_ms=batch.timestamp_ms) + b"\n")

    return Renderer(fast, one)


def template_renderer(template: Template, *, raw: bool) -> Renderer:
    """``--format``. What is for a terminal is the template's business."""

    def place(batch: Batch, index: int) -> Place:
        data = batch.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        body = _large_body(data, raw=raw) if batch.is_large else data if raw else body_bytes(message)
        return Place(batch.stream, batch.offsets[index], batch.timestamp_ms, body, message)

    def fast(batch: Batch) -> Rendered:
        if batch.is_large:
            return template.pieces(place(batch, 0))
        return b"".join([template.render(place(batch, index)) for index in range(len(batch.messages))])

    return Renderer(fast, lambda batch, index: template.render(place(batch, index)))


def look_into(data: bytes) -> tuple[bytes, bytes]:
    """The body of a message, and its envelope. Raises what is in ``UNSHOWABLE``."""
    message = AMQPMessage.from_bytes(data)
    return body_bytes(message), to_json(message, stream="", offset=0, timestamp_ms=0)


def why_bad(error: Exception) -> str:
    """What goes behind "the message"."""
    return f"is not AMQP 1.0: {error}" if isinstance(error, AmqpError) else f"cannot be shown: {error}"
