"""Output framings: make one block for stdout of the bodies of a chunk.

A writer joins all bodies at once, in C, and keeps no state between calls. Bodies are not changed.
"""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Sequence
from itertools import repeat
from typing import Protocol

from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.wire import count_delimiters

_U32 = struct.Struct(">I")


class RecordWriter(Protocol):
    """A framing of the output."""

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns one block with these bodies, in order; b"" for none."""

    def join_plain(self, messages: PlainMessages) -> bytes | None:
        """Returns the block with the bodies of these messages; None where that needs a look at each of them."""

    def around(self, size: int) -> tuple[bytes, bytes]:
        """Returns the bytes before and behind a body of ``size`` bytes, for a body that is too large to copy."""

    def ambiguous(self, bodies: Sequence[bytes | memoryview], block: bytes | memoryview) -> int:
        """How many of the bodies nobody can tell from other records in their ``block``.

        That is what ``join`` gave for them; of a body that is too large to be copied, the body itself.
        """


class DelimiterWriter:
    r"""Writes ``delimiter`` behind each body: ``\n`` for lines, NUL for ``-0``. ValueError if it is empty."""

    def __init__(self, delimiter: bytes = b"\n") -> None:
        if not delimiter:
            raise ValueError("the delimiter is empty")
        self._delimiter = delimiter
        # Where its end is its beginning, as with "\n\n", it may begin in the end of a body.
        overlaps = [at for at in range(1, len(delimiter)) if delimiter.startswith(delimiter[at:])]
        self._overlapping = [delimiter[:at] + delimiter for at in overlaps]
        self._search = re.compile(re.escape(delimiter)).search

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns the bodies, each with the delimiter behind it."""
        return self._delimiter.join([*bodies, b""])

    def join_plain(self, messages: PlainMessages) -> bytes | None:
        """See ``RecordWriter``. A block in which a delimiter may be in a body is none of these."""
        block = messages.lines(self._delimiter)
        return block if self._is_clear(len(messages), block) else None

    def _is_clear(self, count: int, block: bytes) -> bool:
        """Whether no body in a block of so many has the delimiter in it, nor a part of one at its end."""
        return count_delimiters(block, self._delimiter) == count and not any(
            more in block for more in self._overlapping
        )

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return b"", self._delimiter

    def ambiguous(self, bodies: Sequence[bytes | memoryview], block: bytes | memoryview) -> int:
        """Those that hold the delimiter. They are looked at only where the block as a whole tells that some do."""
        delimiter, overlapping = self._delimiter, self._overlapping
        if isinstance(block, bytes):
            if self._is_clear(len(bodies), block):
                return 0
            if not overlapping:
                return sum(map(operator.contains, bodies, repeat(delimiter)))
        return sum(map(self._is_ambiguous, bodies))

    def _is_ambiguous(self, body: bytes | memoryview) -> bool:
        end = bytes(body[-len(self._delimiter) :])
        met = end + self._delimiter
        return any(met.endswith(more) for more in self._overlapping) or self._search(body) is not None


class Len32Writer:
    """Writes the length before each body: four bytes, unsigned, big endian."""

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns the bodies, each with its length before it. Raises ValueError for one of 4 GiB or more."""
        parts = [b""] * (2 * len(bodies))
        try:
            parts[::2] = map(_U32.pack, map(len, bodies))
        except struct.error:
            raise ValueError("a body of 4 GiB or more does not fit a length of four bytes") from None
        parts[1::2] = bodies
        return b"".join(parts)

    def join_plain(self, messages: PlainMessages) -> bytes | None:
        """See ``RecordWriter``."""
        return self.join(messages.bodies)

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return _U32.pack(size), b""

    def ambiguous(self, bodies: Sequence[bytes | memoryview], block: bytes | memoryview) -> int:
        """None: their lengths tell them apart."""
        return 0


class RawWriter:
    """Writes the bodies without separators."""

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns the bodies, one behind the other."""
        return b"".join(bodies)

    def join_plain(self, messages: PlainMessages) -> bytes | None:
        """See ``RecordWriter``."""
        return messages.lines(b"")

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return b"", b""

    def ambiguous(self, bodies: Sequence[bytes | memoryview], block: bytes | memoryview) -> int:
        """None, as nobody is to tell them apart."""
        return 0
