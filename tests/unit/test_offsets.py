"""The rules of offsets: what an answer means, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core import ConsumerOffsetSpecification, OffsetType, StreamStats
from rstream_core.consuming.gaps import Gap
from rstream_core.consuming.offsets import (
    SMALLEST_STEP,
    Tail,
    from_offset,
    gap_from,
    next_offset,
    not_stored,
    resolved_start,
    stats_of,
    wire_spec,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c


def test_a_specification_of_an_offset_stays_within_the_protocol() -> None:
    assert from_offset(7) == ConsumerOffsetSpecification(OffsetType.OFFSET, 7)
    assert from_offset(2**64) == ConsumerOffsetSpecification(OffsetType.OFFSET, 2**64 - 1)


@pytest.mark.parametrize(
    ("spec", "wire"),
    [
        (None, c.OffsetSpec(0)),
        (ConsumerOffsetSpecification(OffsetType.FIRST), c.OffsetSpec(1)),
        (ConsumerOffsetSpecification(OffsetType.LAST), c.OffsetSpec(2)),
        (ConsumerOffsetSpecification(OffsetType.NEXT), c.OffsetSpec(3)),
        (from_offset(5), c.OffsetSpec(4, 5)),
        (ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 1_700_000_000_000), c.OffsetSpec(5, 1_700_000_000_000)),
    ],
)
def test_specifications_on_the_wire(spec: ConsumerOffsetSpecification | None, wire: c.OffsetSpec) -> None:
    assert wire_spec(spec) == wire


def test_the_next_offset() -> None:
    assert next_offset(None) == 0
    assert next_offset(0) == 1


def test_only_an_offset_lies_within_the_chunk_that_the_broker_names() -> None:
    assert resolved_start(from_offset(12), 10) == 12
    assert resolved_start(from_offset(12), 20) == 20
    assert resolved_start(ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 1_700_000_000_000), 10) == 10


def test_a_negative_statistic_is_none() -> None:
    told = {"first_chunk_id": 0, "committed_chunk_id": 30, "last_chunk_id": -1, "of a later version": 1}
    assert stats_of(told) == StreamStats(0, 30, None, None)


def test_gaps() -> None:
    assert gap_from("s", 3, 10) == Gap("s", 3, 9)
    assert gap_from("s", 10, 10) is None
    assert gap_from("s", 3, None) is None


def test_only_the_very_offset_counts_as_stored() -> None:
    message = c.StoreOffset("ref", "s", 10)
    assert not_stored(message, 10) is None
    for other in (9, 11):
        problem = not_stored(message, other)
        assert problem is not None
        assert str(other) in str(problem)
        assert problem.hint is Hint.DOES_ANOTHER_STORE
    nothing = not_stored(message, None)
    assert nothing is not None
    assert nothing.hint is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=20),
    st.integers(1, 60),
    st.integers(0, 10),
)
def test_the_tail_counts_messages(runs: list[tuple[int, int]], count: int, behind: int) -> None:
    """``runs``: gaps of the broker's own records, each with the messages behind it. ``behind``: published meanwhile."""
    offsets: list[int] = []
    chunks = []
    at = 0
    for gap, length in runs:
        chunks.append((at + gap, at + gap + length - 1))
        offsets += range(at + gap, at + gap + length)
        at += gap + length
    end = offsets[max(len(offsets) - 1 - behind, 0)]
    wanted = [offset for offset in offsets if offset <= end][-count:]
    tail = Tail(count, end)
    for first, last in chunks:
        if tail.add(first, last):
            break
    else:
        pytest.fail("the end was not reached")
    assert tail.first == wanted[0]
    assert (tail.missing > 0) == (len(wanted) < count)


def test_a_second_look_goes_back_further() -> None:
    assert Tail.reach(10, 3) == 10 + SMALLEST_STEP
    assert Tail.reach(10, SMALLEST_STEP) == 10 + 2 * SMALLEST_STEP
