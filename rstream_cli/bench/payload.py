"""The bodies that a benchmark publishes, and the head by which its consumers know each message again.

A head is 16 bytes: 64 bits that name the message (12 bits of the run, 12 of the producer, 40 of its number), and 64
bits with the time at which it was meant to be sent, in nanoseconds of the machine's monotonic clock. It is the
beginning of the body. A body of 8 to 15 bytes has no room for the time, and begins with the name alone. A body from a
file stays as it is: then the head is the message's ``message-id``, at a fixed place of the encoded message.

Bodies are made a batch at a time, by functions written in C: a Python call for each would cost more than publishing it.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, repeat
from operator import add

from rstream_cli.parsing import parse_size
from rstream_core.protocol.amqp import AMQPMessage, Properties
from rstream_core.protocol.amqp_sections import PlainMessages

HEAD = 16
"""Bytes of a head."""
NAME = 8
"""Bytes of its part that names the message: the fewest that a body has."""
MAX_SIZE = 16 * 1024 * 1024
"""Bytes of the largest body. A broker may take less."""
RUNS = PRODUCERS = 1 << 12
NUMBER_BITS = 40
_PRODUCER_BITS = 12
_SIZES = 4096
"""Sizes that are drawn for a range of sizes; they come again in the same order."""
_DRAWN_BYTES = 16 * 1024 * 1024
"""Fewer are drawn where they would take more than that."""
_SEED = 20
AT_ONCE = 8192
"""Numbers that are handled as one large number."""
_ONES = int.from_bytes(struct.pack(f">{AT_ONCE}Q", *repeat(1, AT_ONCE)))
_COUNTING = int.from_bytes(struct.pack(f">{AT_ONCE}Q", *range(AT_ONCE)))
"""1, 1, 1, ... and 0, 1, 2, ... in 64 bits each, read as one number."""
_TEXT = b"The quick brown fox jumps over the lazy dog, and the dog does not mind. "


@dataclass(frozen=True, slots=True)
class Size:
    """What ``--size`` says: bytes of the smallest and of the largest body, or the one body."""

    least: int
    most: int
    body: bytes | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether all bodies have one size."""
        return self.least == self.most

    @property
    def has_times(self) -> bool:
        """Whether messages carry the time at which they were meant to be sent."""
        return self.body is not None or self.least >= HEAD

    @property
    def head(self) -> int:
        """Bytes of the head."""
        return HEAD if self.has_times else NAME


def parse_sizes(text: str) -> tuple[int, int]:
    """Returns the bytes of the smallest and of the largest body: ``100``, ``1kB``, ``100..2000``, ``1kB..64kB``.

    A number without a unit is bytes. Raises ``ValueError``, also for a body that has no room for its name.
    """
    first, dots, last = text.partition("..")
    least = _size(first, text)
    most = _size(last, text) if dots else least
    if most < least:
        raise ValueError(f"the range is empty: {text!r}; give the smaller size first")
    if least < NAME:
        raise ValueError(f"a body has at least {NAME} bytes, by which it is known again: {text!r}")
    if most > MAX_SIZE:
        raise ValueError(f"a body has at most {MAX_SIZE // 1024 // 1024} MiB: {text!r}")
    return least, most


def _size(text: str, whole: str) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError(f"not a size: {whole!r}; give 100, 1kB, 100..2000, or @FILE") from None


def name_of(run: int, producer: int) -> int:
    """Returns the 64 bits that name the first message of a producer; the number of a message is added to it."""
    return run << (NUMBER_BITS + _PRODUCER_BITS) | producer << NUMBER_BITS


@lru_cache(16)
def _pieces(size: int, count: int) -> struct.Struct:
    """Returns what cuts bytes into ``count`` pieces of ``size`` bytes."""
    return struct.Struct(f"{size}s" * count)


def numbers(first: int, count: int) -> bytes:
    """Returns ``first`` and the numbers behind it, ``count`` of them, in eight bytes each, the highest byte first."""
    if count > AT_ONCE:
        return b"".join(numbers(first + at, min(AT_ONCE, count - at)) for at in range(0, count, AT_ONCE))
    unused = 64 * (AT_ONCE - count)
    return (first * (_ONES >> unused) + (_COUNTING >> unused)).to_bytes(8 * count)


def is_run(data: bytes) -> bool:
    """Returns whether numbers, in eight bytes each, are each one more than the one before. 1 to AT_ONCE of them."""
    first, count = int.from_bytes(data[:8]), len(data) >> 3
    return int.from_bytes(data[-8:]) - first == count - 1 and data == numbers(first, count)


def heads(name: int, count: int, when: int, size: int = HEAD) -> Sequence[bytes]:
    """Returns the heads of ``count`` messages, of which the first has this name. ``when``: nanoseconds."""
    names = numbers(name, count)
    if size == NAME:
        return _pieces(NAME, count).unpack(names)
    both = array("Q", bytes(HEAD * count))
    both[::2] = array("Q", names)
    both[1::2] = array("Q", when.to_bytes(8) * count)
    return _pieces(HEAD, count).unpack(both.tobytes())


class Bodies:
    """Makes the messages of one producer to one stream."""

    def __init__(self, size: Size, run: int, producer: int) -> None:
        self._name = name_of(run, producer)
        self._head = size.head
        self._rest: Iterator[bytes] = _rests(size)
        self._before: bytes | None = None
        if size.body is not None:
            self._before, rest = around_head(size.body)
            self._rest = repeat(rest)

    def messages(self, first: int, count: int, when: int) -> Sequence[bytes]:
        """Returns ``count`` messages, 1 or more, of which the first has the number ``first``: ``PlainMessages``, or
        encoded ones. ``when``: nanoseconds at which they are meant to be sent."""
        made: Sequence[bytes] = heads(self._name + first, count, when, self._head)
        if self._before is None:
            return PlainMessages(list(map(add, made, self._rest)))
        return list(map(add, map(self._before.__add__, made), self._rest))


def around_head(body: bytes) -> tuple[bytes, bytes]:
    """Returns what stands before and behind the head in an encoded message with this body."""
    mark = b"\xa5\x5a" * (HEAD // 2)
    before, _, behind = AMQPMessage(body=body, properties=Properties(message_id=mark)).encode().partition(mark)
    return before, behind


def _rests(size: Size) -> Iterator[bytes]:
    """Yields what stands behind the head of each body."""
    head = size.head
    text = _TEXT * (size.most // len(_TEXT) + 1)
    if size.is_fixed:
        return repeat(text[: size.most - head])
    count = max(min(_SIZES, _DRAWN_BYTES // size.most), 16)
    draw = random.Random(_SEED)  # noqa: S311 - the same sizes in each run, so that runs can be compared
    return cycle([text[: draw.randint(size.least, size.most) - head] for _ in range(count)])
