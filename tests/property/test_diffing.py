"""Comparisons: what is found makes one stream into the other, whatever they hold; edits are called what they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.diffing.alignment import aligned, first_run
from rstream_core.diffing.difference import DiffCounts, Difference
from rstream_core.protocol.amqp import AMQPMessage
from tests.comparing import applied, compared

PLAIN = [AMQPMessage(b"%d" % number).encode() for number in range(400)]
OTHERS = [AMQPMessage(b"%d" % number, application_properties={"n": number}).encode() for number in range(400)]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many numbers two lists have in common in the same order, by the table of the textbooks."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if one == other else max(row[place], before[place + 1]))
    return row[-1]


@given(st.lists(st.integers(0, 4), max_size=24), st.lists(st.integers(0, 4), max_size=24))
def test_as_many_as_possible_are_aligned(a: list[int], b: list[int]) -> None:
    pairs = aligned(a, b)
    assert len(pairs) == common(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(pairs))


@pytest.mark.parametrize(
    ("pairs", "length", "expected"),
    [
        ([], 1, None),
        ([(3, 4)], 1, 0),
        ([(0, 0), (1, 2), (2, 3), (3, 4)], 3, 1),
        ([(0, 0), (1, 1), (2, 3), (3, 4)], 3, None),
    ],
)
def test_the_first_run_is_found(pairs: list[tuple[int, int]], length: int, expected: int | None) -> None:
    assert first_run(pairs, length) == expected


def check_sums(counts: DiffCounts, differences: Sequence[Difference], a: int, b: int) -> None:
    assert (counts.a, counts.b) == (a, b)
    both = counts.equal + counts.changed + counts.moved
    assert counts.a == both + counts.missing_in_b + counts.doubled_in_a
    assert counts.b == both + counts.missing_in_a + counts.doubled_in_b
    assert counts.different == sum(difference.count for difference in differences)


@given(
    st.data(),
    st.lists(st.integers(0, 9), max_size=150),
    st.lists(st.integers(0, 9), max_size=150),
    st.integers(1, 40),
    st.sampled_from([PLAIN, OTHERS]),
    st.sampled_from([50, 1 << 20]),
)
def test_what_is_found_makes_one_into_the_other(
    data: st.DataObject, one: list[int], other: list[int], window: int, messages: list[bytes], most_bytes: int
) -> None:
    """Also where nothing is the same, and the same messages come again and again; within any window."""
    a, b = [messages[n] for n in one], [messages[n] for n in other]
    cut = data.draw(st.sampled_from([lambda left: 1, lambda left: min(left, 7), lambda left: left]))
    firsts = data.draw(st.sampled_from([(0, 0), (5, 1000)]))
    found, counts = compared(a, b, window=window, cut=cut, firsts=firsts, most_bytes=most_bytes)
    assert applied(found, a, b, firsts) == b
    check_sums(counts, found, len(a), len(b))
    assert bool(found) == (a != b)


_EDITS = st.tuples(
    st.sampled_from(["changed", "missing in b", "missing in a", "doubled in b", "doubled in a", "swapped"]),
    st.integers(1, 30),
    st.integers(1, 30),
)


@given(st.lists(_EDITS, max_size=4), st.sampled_from([PLAIN, OTHERS]))
def test_edits_within_the_window_are_called_what_they_are(
    edits: list[tuple[str, int, int]], messages: list[bytes]
) -> None:
    a: list[bytes] = []
    b: list[bytes] = []
    expected: list[tuple[str, str, int]] = []
    fresh = iter(range(100_000))

    def more(count: int) -> list[bytes]:
        make = AMQPMessage if messages is PLAIN else lambda body: AMQPMessage(body, application_properties={"n": 1})
        return [make(b"m%d" % next(fresh)).encode() for _ in range(count)]

    for kind, size, distance in edits:
        same = more(60)
        a += same
        b += same
        if kind == "changed":
            a += more(size)
            b += more(size)
            expected += [("changed", "", 1)] * size
        elif kind.startswith("missing"):
            (b if kind.endswith("a") else a).extend(more(size))
            expected.append(("missing", kind[-1], size))
        elif kind.startswith("doubled"):
            batch = more(size)
            a += batch
            b += batch
            (b if kind.endswith("b") else a).extend(batch)
            expected.append(("doubled", kind[-1], size))
        else:
            first, middle, last = more(1), more(distance), more(1)
            a += first + middle + last
            b += last + middle + first
            expected += [("moved", "", 1)] * 2
    same = more(60)
    found, counts = compared(a + same, b + same, window=100)
    told = [(str(one.kind), one.side, one.count) for one in found]
    assert sorted(told) == sorted(expected)
    assert applied(found, a + same, b + same) == b + same
    check_sums(counts, found, len(a) + 60, len(b) + 60)


@given(st.integers(0, 120), st.sampled_from(["a", "b"]))
def test_both_sides_get_into_step_again_behind_a_hole_of_the_window(size: int, side: str) -> None:
    """Though every third message is the same one, which fits anywhere."""
    whole = [PLAIN[0] if n % 3 == 0 else AMQPMessage(b"m%d" % n).encode() for n in range(600)]
    holed = whole[:50] + whole[50 + size :]
    a, b = (holed, whole) if side == "a" else (whole, holed)
    found, counts = compared(a, b, window=120)
    assert counts.missing_in_a + counts.missing_in_b + counts.doubled_in_a + counts.doubled_in_b == size
    assert (counts.changed, counts.moved) == (0, 0)
    assert applied(found, a, b) == b
