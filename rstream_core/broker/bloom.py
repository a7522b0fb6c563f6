"""The filter values of a chunk as a Bloom filter of a fixed size. It never denies a value that the chunk has.

A chunk whose messages have no values has no filter. Where only some have, the others count as the empty value.
"""

from __future__ import annotations

from collections.abc import Iterable

import mmh3

_HASHES = 5


def build(values: Iterable[str], size: int) -> bytes:
    """Returns a filter of ``size`` bytes that holds these values."""
    bits = bytearray(size)
    for value in values:
        for bit in _bits_of(value, size):
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)


def may_hold(bits: bytes, value: str) -> bool:
    """Returns False only if the filter was built without this value."""
    return all(bits[bit >> 3] >> (bit & 7) & 1 for bit in _bits_of(value, len(bits)))


def wanted(bits: bytes, filters: Iterable[str], match_unfiltered: bool) -> bool:
    """Returns whether a subscription with ``filters`` (at least one value) gets a chunk with the filter ``bits``.

    ``bits`` is empty for a chunk without a filter.
    """
    if not bits:
        return match_unfiltered
    return any(may_hold(bits, value) for value in filters) or (match_unfiltered and may_hold(bits, ""))


def _bits_of(value: str, size: int) -> list[int]:
    first, second = mmh3.hash64(value, signed=False)
    return [(first + number * second) % (size * 8) for number in range(_HASHES)]
