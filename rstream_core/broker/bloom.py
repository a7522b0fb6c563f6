"""The filter values of a chunk, in a Bloom filter of a fixed size: never wrong about what is not there.

A chunk where no message has a value has no filter at all. Where some have, those without count as the empty value.
"""

from __future__ import annotations

from collections.abc import Iterable

import mmh3

_HASHES = 5


def build(values: Iterable[str], size: int) -> bytes:
    """A filter of ``size`` bytes that holds these values."""
    bits = bytearray(size)
    for value in values:
        for place in _places(value, size):
            bits[place >> 3] |= 1 << (place & 7)
    return bytes(bits)


def may_hold(bits: bytes, value: str) -> bool:
    """Whether the value may be among those that the filter was built from."""
    return all(bits[place >> 3] >> (place & 7) & 1 for place in _places(value, len(bits)))


def wanted(bits: bytes, filters: Iterable[str], match_unfiltered: bool) -> bool:
    """Whether a subscription with ``filters`` (at least one) gets the chunk that has this filter, perhaps none."""
    if not bits:
        return match_unfiltered
    return any(may_hold(bits, value) for value in filters) or (match_unfiltered and may_hold(bits, ""))


def _places(value: str, size: int) -> list[int]:
    first, second = mmh3.hash64(value, signed=False)
    return [(first + number * second) % (size * 8) for number in range(_HASHES)]
