"""The values of messages at a path, for ``copy --key-from`` and ``--set-filter-from``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rstream_cli.filtering import value_in
from rstream_cli.records.paths import Path
from rstream_cli.records.values import UNSHOWABLE, Where, look_into
from rstream_core import AMQPMessage
from rstream_core.flow.block import Block


@dataclass(frozen=True, slots=True)
class ValueAt:
    """A path in the body, where that is JSON, or in the envelope."""

    path: Path
    raw: bool = False
    """Whether the stored bytes are the body, not AMQP 1.0."""

    def keys(self, block: Block) -> Sequence[bytes | None]:
        """Returns of each message the value, as bytes; None where it has none, or cannot be read."""
        stream, time = block.stream, block.timestamp or 0
        return [
            self._value(data, stream, offset, time)
            for offset, data in zip(block.positions, block.messages, strict=True)
        ]

    def texts(self, block: Block) -> Sequence[str | None]:
        """Returns of each message the value as text."""
        return [None if value is None else value.decode(errors="replace") for value in self.keys(block)]

    def _value(self, data: bytes, stream: str, offset: int, time: int) -> bytes | None:
        try:
            message = AMQPMessage(data) if self.raw else AMQPMessage.from_bytes(data)
            texts = look_into(Where(message, stream, offset, time))
        except UNSHOWABLE:
            return None
        found = (value_in(text, self.path) for text in texts)
        return next((value for value in found if value is not None), None)
