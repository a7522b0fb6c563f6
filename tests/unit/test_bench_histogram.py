"""The histogram of ``rstream bench`` against sorted lists, and its encoded form against HDR's own library in Java."""

from __future__ import annotations

import base64
import math
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.bench.histogram import HIGHEST, MAX_PLACES, Histogram, highest_at, place_of

SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)
BY_JAVA = "HISTFAAAACp4nJNpmSzMwMDAxQABzFCaEURcm7yEwf4DRICJ5ac8G8fTU0x8AI73B3w="
"""Written by ``new Histogram(1, 3_600_000_000L, 3).encodeIntoCompressedByteBuffer`` of org.hdrhistogram 2.2.2; it
has the values 0, 1, 2047, 2048 and 3_600_000_000 once, twice, three, four and seven times."""

values = st.integers(0, HIGHEST) | st.integers(0, 5000)


def histogram_of(*some: int) -> Histogram:
    made = Histogram()
    for value in some:
        made.add(value)
    return made


@given(st.lists(values, min_size=1, max_size=300))
def test_quantiles_are_those_of_a_sorted_list_to_three_digits(some: list[int]) -> None:
    found = histogram_of(*some).quantiles(SHARES)
    in_order = sorted(some)
    for share, value in zip(SHARES, found, strict=True):
        exact = in_order[max(math.ceil(round(share * 1000) * len(some) / 1000), 1) - 1]
        assert exact <= value <= exact + exact // 1000
    assert found[-1] == max(some)


@given(st.lists(st.tuples(values, st.integers(1, 2**40)), max_size=100))
def test_what_is_written_is_read_again(pairs: list[tuple[int, int]]) -> None:
    made = Histogram()
    for value, count in pairs:
        made.add(value, count)
    read = Histogram.decoded(made.encoded())
    assert (read, len(read)) == (made, sum(count for _, count in pairs))
    assert made.highest <= read.highest <= made.highest + made.highest // 1000


@given(st.lists(values, max_size=50), st.lists(values, max_size=50))
def test_merging_is_counting_both(some: list[int], others: list[int]) -> None:
    merged = histogram_of(*some)
    merged.merge(histogram_of(*others))
    both = histogram_of(*some, *others)
    assert (merged, len(merged), merged.highest) == (both, len(both), both.highest)


@given(values)
def test_each_value_has_a_place_of_three_digits(value: int) -> None:
    place = place_of(value)
    assert 0 <= place < MAX_PLACES
    assert value <= highest_at(place) <= value + value // 1000
    assert place_of(highest_at(place)) == place
    assert place_of(highest_at(place) + 1) == place + 1


def test_javas_bytes_are_read_and_written() -> None:
    made = Histogram()
    for value, count in ((0, 1), (1, 2), (2047, 3), (2048, 4), (HIGHEST, 7)):
        made.add(value, count)
    written, by_java = (base64.b64decode(text) for text in (made.encoded(), BY_JAVA))
    assert written[:4] == by_java[:4]
    assert zlib.decompress(written[8:]) == zlib.decompress(by_java[8:])  # zlibs compress in different ways
    assert Histogram.decoded(BY_JAVA) == made
    assert Histogram.decoded(BY_JAVA).quantiles(SHARES) == [2049, HIGHEST, HIGHEST, HIGHEST, HIGHEST]


def test_nothing_and_values_out_of_range() -> None:
    assert Histogram().quantiles(SHARES) == [0] * 5
    assert len(Histogram.decoded(Histogram().encoded())) == 0
    made = histogram_of(-5, HIGHEST + 1)
    assert made.quantiles((0.5, 1.0)) == [0, HIGHEST]


def packed(plain: bytes) -> str:
    data = zlib.compress(plain)
    return base64.b64encode(bytes.fromhex("1c849314") + len(data).to_bytes(4) + data).decode()


HEAD = zlib.decompress(base64.b64decode(BY_JAVA)[8:])[:40]


def with_counts(counts: bytes) -> str:
    return packed(HEAD[:4] + len(counts).to_bytes(4) + HEAD[8:] + counts)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a histogram"),
        ("*", "not a histogram"),
        (BY_JAVA[:-8], "not a histogram"),
        (base64.b64encode(b"\x1c\x84\x93\x14\0\0\0\x01x").decode(), "cut off"),
        (packed(HEAD[:20]), "cut off"),
        (packed(b"\0" * 40), "version 2"),
        (packed(HEAD[:8] + b"\1" + HEAD[9:]), "version 2"),
        (with_counts(b"\x80"), "number of a histogram is cut off"),
        (packed(HEAD[:4] + bytes(4) + HEAD[8:12] + b"\0\0\0\2" + HEAD[16:]), "with 3 digits"),
        (with_counts(b"\xff" * 8 + b"\x7f" + b"\x02"), "more counts"),
        (with_counts(b"\x02" * (MAX_PLACES + 1)), "more counts"),
        (packed(HEAD + bytes(1 << 22)), "larger than one can be"),
    ],
)
def test_what_is_no_histogram(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Histogram.decoded(text)


def test_hostile_bytes_are_refused_or_read() -> None:
    random_bytes = random.Random(7)
    for _ in range(2000):
        counts = random_bytes.randbytes(random_bytes.randrange(40))
        try:
            found = Histogram.decoded(with_counts(counts))
        except ValueError:
            continue
        assert Histogram.decoded(found.encoded()) == found
