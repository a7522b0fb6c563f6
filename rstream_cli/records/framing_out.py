"""Output framings: make one block for stdout of the bodies of a chunk.

A writer joins all bodies at once, in C, and keeps no state between calls. Bodies are not changed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

_U32 = struct.Struct(">I")


class RecordWriter(Protocol):
    """A framing of the output."""

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns one block with these bodies, in order; b"" for none."""

    def around(self, size: int) -> tuple[bytes, bytes]:
        """Returns the bytes before and behind a body of ``size`` bytes, for a body that is too large to copy."""


class DelimiterWriter:
    r"""Writes ``delimiter`` behind each body: ``\n`` for lines, NUL for ``-0``. ValueError if it is empty."""

    def __init__(self, delimiter: bytes = b"\n") -> None:
        if not delimiter:
            raise ValueError("the delimiter is empty")
        self._delimiter = delimiter

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns the bodies, each with the delimiter behind it."""
        return self._delimiter.join([*bodies, b""])

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return b"", self._delimiter


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

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return _U32.pack(size), b""


class RawWriter:
    """Writes the bodies without separators."""

    def join(self, bodies: Sequence[bytes]) -> bytes:
        """Returns the bodies, one behind the other."""
        return b"".join(bodies)

    def around(self, size: int) -> tuple[bytes, bytes]:
        """See ``RecordWriter``."""
        return b"", b""
