"""``consume --match .path=VALUE``: the messages that have a value at a path of their envelope."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from rstream_cli.exit_status import CommandError
from rstream_cli.options.selecting import SelectOptions
from rstream_cli.records.paths import Path, parse_path
from rstream_cli.records.values import UNSHOWABLE, UnknownKeyError, Where, check_path, values_at
from rstream_core import AMQPMessage
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice

_PATH = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^"=])*')
"""Up to the first equals sign that is not in a quoted key."""


class Match:
    """Chooses the messages with these bytes at a path."""

    def __init__(self, path: Path, value: bytes, *, raw: bool = False) -> None:
        """``raw``: the stored bytes are the body, not AMQP 1.0."""
        self._paths = (path,)
        self._value = value
        self._raw = raw

    def choose(self, block: Block) -> Choice:
        """Returns which messages are wanted, and which could not be read."""
        places: list[int] = []
        unreadable: list[int] = []
        stream, time = block.stream, block.timestamp or 0
        for place, (offset, data) in enumerate(zip(block.positions, block.messages, strict=True)):
            try:
                message = AMQPMessage(data) if self._raw else AMQPMessage.from_bytes(data)
                if values_at(self._paths, Where(message, stream, offset, time)) != [self._value]:
                    continue
            except UNSHOWABLE:
                unreadable.append(place)
            places.append(place)
        return Choice(places, unreadable)


def choosers(options: SelectOptions, *, raw: bool) -> Iterator[Match]:
    """Yields what the options ask for. Raises CommandError."""
    for text in options.match or ():
        yield Match(*_parsed(text), raw=raw)


def _parsed(text: str) -> tuple[Path, bytes]:
    found = _PATH.match(text)
    key = "" if found is None else found[0]
    if key == text:
        raise CommandError(f"--match: no value: {text!r}", hint="write --match .headers.region=eu")
    hint = None
    try:
        if not key.startswith("."):
            hint = f"did you mean .{key}?"
        return check_path(parse_path(key)), os.fsencode(text[len(key) + 1 :])
    except UnknownKeyError as error:
        raise CommandError(f"--match: {error}", hint=error.hint) from None
    except ValueError as error:
        raise CommandError(f"--match: {error}", hint=hint) from None
