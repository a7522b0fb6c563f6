"""An HDR histogram of latencies: microseconds from 1 to an hour, each kept to three significant digits.

Its size does not grow with what is counted. ``encoded`` and ``decoded`` are HDR's own form, version 2, compressed and
in base64, so that the usual HDR tools read what ``rstream bench --save`` writes. The layout is that of HdrHistogram's
documentation and of bytes that its Java library has written; tests compare both.

Values fall into buckets of 2048 counts: in the first one each microsecond has its count, in the next one every two of
them, then four, and so on. Each bucket but the first uses its upper half only: the lower one is the bucket before.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction

HIGHEST = 3_600_000_000
"""Microseconds of the longest latency that is told apart: an hour. A longer one counts as an hour."""
DIGITS = 3
_HALF_BITS = 10
_HALF = 1 << _HALF_BITS
"""Half of the counts of a bucket: twice 10 to the power of DIGITS, rounded up to a power of two."""
MAX_PLACES = (21 + 2) * _HALF
"""Counts of a whole histogram. 2048 microseconds, doubled 21 times, are more than HIGHEST."""
MAX_COUNT = 2**63 - 1
"""The most that one count may be in HDR's form, and all of them together here."""

_COOKIE = 0x1C849303 | 0x10
_COMPRESSED_COOKIE = 0x1C849304 | 0x10
_HEAD = struct.Struct(">iiiiqqd")
"""Cookie, bytes of the counts, offset of the first count, digits, lowest and highest value, ratio of conversion."""
_COMPRESSED_HEAD = struct.Struct(">ii")
MAX_ENCODED = 9 * MAX_PLACES + _HEAD.size
"""Bytes of an unpacked histogram, where each count takes the most bytes that a number can take."""


def place_of(value: int) -> int:
    """Returns where the count of a value stands."""
    bucket = max(value.bit_length() - _HALF_BITS - 1, 0)
    return (bucket << _HALF_BITS) + (value >> bucket)


def highest_at(place: int) -> int:
    """Returns the largest value whose count stands at a place."""
    bucket = max((place >> _HALF_BITS) - 1, 0)
    return (place - (bucket << _HALF_BITS) + 1 << bucket) - 1


class Histogram:
    """Counts of values. Only counts that are not 0 are held."""

    __slots__ = ("_counts", "_total", "highest")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0
        self.highest = 0
        """The highest value; of a decoded histogram, to three digits. 0 where there is none."""

    def __len__(self) -> int:
        """How many values were added."""
        return self._total

    def __eq__(self, other: object) -> bool:
        """Whether the counts are the same."""
        return isinstance(other, Histogram) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, value: int, count: int = 1) -> None:
        """Adds a value, ``count`` times. One below 0 counts as 0, and one above ``HIGHEST`` as that."""
        value = min(max(value, 0), HIGHEST)
        place = place_of(value)
        self._counts[place] = self._counts.get(place, 0) + count
        self._total += count
        self.highest = max(self.highest, value)

    def merge(self, other: Histogram) -> None:
        """Adds all values of another histogram."""
        for place, count in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + count
        self._total += other._total
        self.highest = max(self.highest, other.highest)

    def quantiles(self, shares: Sequence[float]) -> list[int]:
        """Returns for each share, 0 to 1, the smallest value that this share of all values does not exceed.

        The shares grow. Values are rounded up to the precision of the histogram, but not above the highest one. All are
        0 where there is no value.
        """
        found: list[int] = []
        counts = iter(sorted(self._counts.items()))
        seen = place = 0
        for share in shares:
            wanted = max(math.ceil(Fraction(share).limit_denominator(10**9) * self._total), 1)
            while seen < wanted:
                pair = next(counts, None)
                if pair is None:
                    break
                place, seen = pair[0], seen + pair[1]
            found.append(min(highest_at(place), self.highest))
        return found

    def encoded(self) -> str:
        """Returns the histogram in HDR's compressed form, version 2, in base64."""
        counts = bytearray()
        following = 0
        for place, count in sorted(self._counts.items()):
            if place > following:
                counts += _number(following - place)  # so many counts are 0
            counts += _number(count)
            following = place + 1
        head = _HEAD.pack(_COOKIE, len(counts), 0, DIGITS, 1, HIGHEST, 1.0)
        packed = zlib.compress(head + counts)
        return base64.b64encode(_COMPRESSED_HEAD.pack(_COMPRESSED_COOKIE, len(packed)) + packed).decode("ascii")

    @classmethod
    def decoded(cls, text: str) -> Histogram:
        """Returns the histogram that ``encoded`` has written, here or in another HDR library.

        Raises ``ValueError`` for what is none, and for one with another range or precision than this class has.
        """
        data = _unpacked(text)
        cookie, size, offset, digits, lowest, highest, ratio = _HEAD.unpack_from(data)
        if cookie != _COOKIE or size != len(data) - _HEAD.size:
            raise ValueError("not a histogram of HDR's version 2")
        if (offset, digits, lowest, highest, ratio) != (0, DIGITS, 1, HIGHEST, 1.0):
            raise ValueError(f"not a histogram of 1 to {HIGHEST} with {DIGITS} digits")
        found = cls()
        place, at = 0, _HEAD.size
        while at < len(data):
            number, at = _read_number(data, at)
            if number <= 0:
                place += max(-number, 1)
                continue
            found._counts[place] = number
            found._total += number
            place += 1
            if place > MAX_PLACES or found._total > MAX_COUNT:
                raise ValueError("a histogram has more counts than its range allows")
        if found._counts:
            found.highest = min(highest_at(max(found._counts)), HIGHEST)
        return found


def _unpacked(text: str) -> bytes:
    """Returns the head and the counts. Raises ``ValueError``."""
    try:
        data = base64.b64decode(text, validate=True)
        cookie, size = _COMPRESSED_HEAD.unpack_from(data)
        if cookie != _COMPRESSED_COOKIE or size != len(data) - _COMPRESSED_HEAD.size:
            raise ValueError("not a histogram of HDR's version 2, compressed")
        unpacking = zlib.decompressobj()
        plain = unpacking.decompress(data[_COMPRESSED_HEAD.size :], MAX_ENCODED)
    except (binascii.Error, struct.error, zlib.error) as error:
        raise ValueError(f"not a histogram: {error}") from None
    if not unpacking.eof or len(plain) < _HEAD.size:
        raise ValueError("a histogram is cut off, or larger than one can be")
    return plain


def _number(value: int) -> bytes:
    """Returns a number in HDR's form: the sign goes into the lowest bit, then there are 7 bits a byte, the lowest ones
    first, and all 8 bits in the ninth."""
    left = value << 1 if value >= 0 else (-value << 1) - 1
    found = bytearray()
    while left > 0x7F and len(found) < 8:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at ``at``, and where the next one begins. Raises ``ValueError``."""
    found = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        if shift == 56:
            found |= byte << shift
        else:
            found |= (byte & 0x7F) << shift
            if byte & 0x80:
                shift += 7
                continue
        return (found >> 1 if not found & 1 else -(found + 1 >> 1)), at
    raise ValueError("a number of a histogram is cut off")
