"""``consume --grep`` and ``--grep-not``: regular expressions, searched for in the bytes of bodies.

A search holds the event loop up for as long as it takes, and some patterns, such as ``(a+)+$``, take for ever. Python's
``re`` looks for signals meanwhile, so a second Ctrl-C ends the process: see ``ProcessSignals`` in environment.py.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence

from rstream_cli.exit_status import CommandError
from rstream_cli.options.selecting import SelectOptions
from rstream_cli.records.envelope import body_bytes
from rstream_cli.records.values import UNSHOWABLE
from rstream_core import AMQPMessage
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice
from rstream_core.protocol.amqp import bodies_of


class Grep:
    """Chooses the messages in whose body a pattern is found; with ``found=False`` the others."""

    def __init__(self, pattern: re.Pattern[bytes], *, found: bool = True, raw: bool = False) -> None:
        """``raw``: the stored bytes are the body, not AMQP 1.0."""
        self._search = pattern.search
        self._found = found
        self._raw = raw

    def choose(self, block: Block) -> Choice:
        """Returns which messages are wanted, and which could not be read."""
        bodies, unreadable = (block.messages, ()) if self._raw else _bodies(block.messages)
        search, found = self._search, self._found
        places = [place for place, body in enumerate(bodies) if body is None or (search(body) is not None) is found]
        return Choice(places, unreadable)


def _bodies(messages: Sequence[bytes]) -> tuple[Sequence[bytes | None], Sequence[int]]:
    """Returns the bodies, with None for those that cannot be read, and the places of these."""
    try:
        bodies = bodies_of(messages)
        if None not in bodies:
            return bodies, ()
    except UNSHOWABLE:
        pass
    found: list[bytes | None] = []
    for data in messages:
        try:
            found.append(body_bytes(AMQPMessage.from_bytes(data)))
        except UNSHOWABLE:
            found.append(None)
    return found, [place for place, body in enumerate(found) if body is None]


def choosers(options: SelectOptions, *, raw: bool) -> Iterator[Grep]:
    """Yields what the options ask for. Raises CommandError."""
    for flag, patterns, found in (("--grep", options.grep, True), ("--grep-not", options.grep_not, False)):
        for text in patterns or ():
            yield Grep(_compiled(flag, text), found=found, raw=raw)


def _compiled(flag: str, text: str) -> re.Pattern[bytes]:
    pattern = os.fsencode(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what later versions of Python may read otherwise
            return re.compile(whole_characters(pattern))
    except (ValueError, re.error, OverflowError, RecursionError) as error:
        raise CommandError(f"{flag}: not a regular expression: {text!r}: {error}") from None


_PARTS = re.compile(rb"\\([\x00-\x7f]|\Z) | \\?([\xc2-\xf4][\x80-\xbf]{1,3}) | (\[\^?\]?) | (\])", re.VERBOSE)


def whole_characters(pattern: bytes) -> bytes:
    """Returns a pattern in which what follows a character of several bytes, such as ``+``, is about all of them.

    Raises ValueError where one stands between brackets: they choose among bytes.
    """
    if pattern.isascii():
        return pattern
    in_brackets = False

    def whole(part: re.Match[bytes]) -> bytes:
        nonlocal in_brackets
        _, character, opens, closes = part.groups()
        if character and in_brackets:
            text = character.decode(errors="replace")
            raise ValueError(f"{text!r} has several bytes, and [...] is one byte; write (a|b) for [ab]")
        if opens and in_brackets:  # a bracket in brackets is a byte as others, and the next one closes
            in_brackets = not opens.endswith(b"]")
        elif opens or closes:
            in_brackets = closes is None
        return b"(?:%b)" % character if character else part[0]

    return _PARTS.sub(whole, pattern)
