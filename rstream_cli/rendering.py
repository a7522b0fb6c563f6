"""Renders the messages of a chunk as one block of bytes for stdout. The options determine the function once.

Bodies take the core's fast path and are joined in C. In the byte outputs (lines, NUL, len32, raw) a body that is not
data becomes bytes: an AMQP value that is a string or binary is written as its bytes, any other value or a sequence as
JSON, and a message without a body as nothing. ``--json`` and ``--format`` examine each message.

If the fast path finds a message that cannot be shown, the block is rendered again, message by message, and the caller
is told the place of each bad message: it stops there, or skips the message.

A message that is larger than a block comes alone, and is rendered in several blocks, without a copy of its body.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias, cast

from rstream_cli.records.envelope import batch_to_json, body_bytes, plain_to_json, to_json
from rstream_cli.records.framing_out import RecordWriter
from rstream_cli.records.large_messages import json_blocks, large_body
from rstream_cli.records.template import Fields, Template
from rstream_cli.records.values import UNSHOWABLE, Where, look_into
from rstream_cli.terminal import Bodies
from rstream_core import AmqpError, AMQPMessage
from rstream_core.protocol.amqp import bodies_of
from rstream_core.protocol.amqp_sections import PlainMessages

LARGE = 4 * 1024 * 1024
"""A message of more bytes is rendered in several blocks. The core hands out such a message alone, and not as one of
``PlainMessages``, which are at most ``PIECE_BYTES`` together."""


class BlockView(NamedTuple):
    """What a renderer sees of a block: messages of one chunk."""

    stream: str
    offsets: Sequence[int]
    """The offset of each message."""
    timestamp_ms: int
    messages: Sequence[bytes]
    bad: Collection[int] = ()
    """Offsets of messages that a filter could not read."""

    @property
    def is_large(self) -> bool:
        """Whether this is a single message that is rendered in several blocks."""
        messages = self.messages
        return type(messages) is not PlainMessages and len(messages) == 1 and len(messages[0]) > LARGE


OnBad = Callable[[int, str], None]
"""Called for a message that cannot be shown, with its place in the block and the reason. May raise, which ends the
rendering."""
Rendered: TypeAlias = bytes | Iterable[bytes | memoryview]
"""One block, or the blocks of one large message."""


class Renderer:
    """Gives the block of a view without the messages that cannot be shown, having told of each in its order, before
    the first.

    ``fast`` gives the block of a view in which all is well, ``one`` that of one message; else both raise. ``head`` is
    what is to be written before the first message, also if none comes.
    """

    def __init__(
        self, fast: Callable[[BlockView], Rendered], one: Callable[[BlockView, int], bytes], head: bytes = b""
    ) -> None:
        self._fast = fast
        self._one = one
        self.head = head
        self.ambiguous = 0
        """How many messages of the last block nobody can tell from others in it."""
        self.on_ambiguous: Callable[[str], None] | None = None
        """Called once, with the stream, before the first block with such a message is handed out."""

    def __call__(self, view: BlockView, on_bad: OnBad) -> Rendered:
        """The block."""
        self.ambiguous = 0
        if not view.bad:
            try:
                block = self._fast(view)
            except UNSHOWABLE:
                pass
            else:
                if self.ambiguous:
                    self._tell_ambiguous(view.stream)
                return block
            self.ambiguous = 0
        parts: list[bytes] = []
        for index, offset in enumerate(view.offsets):
            try:
                if offset in view.bad:
                    look_into(Where(AMQPMessage.from_bytes(view.messages[index]), view.stream, offset, 0))
                parts.append(self._one(view, index))
            except UNSHOWABLE as error:
                on_bad(index, why_bad(error))
        if self.ambiguous:
            self._tell_ambiguous(view.stream)
        return b"".join(parts)

    def _tell_ambiguous(self, stream: str) -> None:
        tell, self.on_ambiguous = self.on_ambiguous, None
        if tell is not None:
            tell(stream)


def bodies_renderer(
    writer: RecordWriter, *, raw: bool, shown: Bodies | None = None, framing_too: bool = False
) -> Renderer:
    """Returns a renderer of framed bodies. ``raw``: the stored bytes are the body.

    With ``shown``, bodies are made readable for a terminal; with ``framing_too`` also the framing, such as the four
    bytes of a length. A delimiter that the user has typed is not changed.
    """

    def join(bodies: Sequence[bytes]) -> bytes:
        block = writer.join(bodies)
        renderer.ambiguous += writer.ambiguous(bodies, block)
        if shown is None:
            return block
        harmless = shown.show(block)
        return harmless if framing_too or harmless is block else writer.join(list(map(shown.show, bodies)))

    def fast(view: BlockView) -> Rendered:
        if view.is_large and shown is None:
            body = _large_body(view.messages[0], raw=raw)
            renderer.ambiguous = writer.ambiguous([body], memoryview(body))
            before, behind = writer.around(len(body))
            return before, body, behind
        if raw:
            return join(view.messages)
        if isinstance(view.messages, PlainMessages):
            block = writer.join_plain(view.messages) if shown is None else None
            return join(view.messages.bodies) if block is None else block
        bodies = bodies_of(view.messages)
        if None in bodies:
            bodies = [body_bytes(AMQPMessage.from_bytes(data)) for data in view.messages]
        return join(cast("list[bytes]", bodies))

    def one(view: BlockView, index: int) -> bytes:
        return join([body_bytes(AMQPMessage.from_bytes(view.messages[index]))])

    renderer = Renderer(fast, one)
    return renderer


def _large_body(data: bytes, *, raw: bool) -> bytes | memoryview:
    if raw:
        return data
    found = large_body(data)
    return body_bytes(AMQPMessage.from_bytes(data)) if found is None else found[0]


def json_renderer(*, raw: bool, shown: Bodies | None = None, layout: Callable[[str], str] | None = None) -> Renderer:
    """Returns a renderer of envelopes, one a line; ``layout`` lays them out for a person."""

    def show(block: bytes) -> bytes:
        if shown is not None:
            return shown.show_json(block, layout)
        return block if layout is None else layout(block.decode()).encode()

    def fast(view: BlockView) -> Rendered:
        stream, offsets, timestamp, messages, _ = view
        if view.is_large and shown is None and layout is None:
            blocks = json_blocks(messages[0], stream=stream, offset=offsets[0], timestamp_ms=timestamp, raw=raw)
            first = next(blocks)  # an error must come before any output
            return itertools.chain((first,), blocks, (b"\n",))
        if isinstance(messages, PlainMessages):
            block = plain_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp)
            if block is not None:
                return show(block)
        lines = batch_to_json(messages, stream=stream, offsets=offsets, timestamp_ms=timestamp, raw=raw)
        return show(b"\n".join([*lines, b""]))

    def one(view: BlockView, index: int) -> bytes:
        data = view.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        offset = view.offsets[index]
        return show(to_json(message, stream=view.stream, offset=offset, timestamp_ms=view.timestamp_ms) + b"\n")

    return Renderer(fast, one)


def template_renderer(template: Template, *, raw: bool) -> Renderer:
    """Returns the renderer for ``--format``. The template itself escapes output for a terminal."""

    def fields_of(view: BlockView, index: int) -> Fields:
        data = view.messages[index]
        message = AMQPMessage(data) if raw else AMQPMessage.from_bytes(data)
        body = _large_body(data, raw=raw) if view.is_large else data if raw else body_bytes(message)
        return Fields(view.stream, view.offsets[index], view.timestamp_ms, body, message)

    def fast(view: BlockView) -> Rendered:
        if view.is_large:
            return template.pieces(fields_of(view, 0))
        return b"".join([template.render(fields_of(view, index)) for index in range(len(view.messages))])

    return Renderer(fast, lambda view, index: template.render(fields_of(view, index)))


def why_bad(error: Exception) -> str:
    """Returns the rest of a sentence that begins with "the message"."""
    return f"is not AMQP 1.0: {error}" if isinstance(error, AmqpError) else f"cannot be shown: {error}"
