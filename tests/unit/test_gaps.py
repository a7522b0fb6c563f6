"""What a jump over offsets means: the rules, without a broker."""

from __future__ import annotations

import pytest

from rstream_core.consuming.gaps import GapWatch

Spans = list[tuple[int, int]]


def watch(start: int | None, begins: int = 0, *, follows: bool = True) -> GapWatch:
    made = GapWatch(follows=follows)
    made.start(start)
    if start is not None:
        made.started(start, begins)
    return made


def settled(made: GapWatch, begins: int | None) -> Spans:
    return made.settle(made.doubts, begins)


@pytest.mark.parametrize(("start", "begins", "gone"), [(0, 0, None), (5, 5, None), (9, 5, None), (0, 5, (0, 4))])
def test_where_it_starts(start: int, begins: int, gone: tuple[int, int] | None) -> None:
    made = GapWatch(follows=True)
    made.start(start)
    assert made.started(start, begins) == gone
    assert made.started(start, begins) is None  # once
    assert made.is_quiet


@pytest.mark.parametrize(
    ("known", "begins", "gone"),
    [
        (0, 0, []),  # the broker's own records
        (0, 10, []),  # in the segment before
        (0, 15, [(10, 14)]),
        (0, 20, [(10, 19)]),
        (0, 99, [(10, 19)]),  # retention is further by now
        (0, None, []),  # nobody knows
        (15, 15, [(10, 14)]),
        (15, 99, [(10, 19)]),
        (30, 30, []),  # within an open segment that is gone
    ],
)
def test_a_jump(known: int, begins: int | None, gone: Spans) -> None:
    made = watch(None)
    assert not made.arrive(5, 10)
    made._begins = known
    is_asked = made.arrive(20, 25)
    assert is_asked is (known <= 20)
    assert [made.holds(offset) for offset in (5, 19, 20, 25)] == [False, False, is_asked, is_asked]
    assert settled(made, begins) == gone
    assert made.is_quiet
    assert not made.arrive(25, 26)


def test_one_offset_is_a_record_where_nobody_can_tell() -> None:
    made = watch(0)
    assert not made.arrive(0, 1)
    assert made.arrive(2, 3)
    assert settled(made, 50) == []


def test_what_comes_while_it_is_asked_is_asked_next() -> None:
    made = watch(0)
    made.arrive(0, 1)
    made.arrive(5, 6)
    asked = made.doubts
    made.arrive(9, 10)
    assert made.settle(asked, 5) == [(1, 4)]
    assert [made.holds(5), made.holds(9)] == [False, True]
    assert settled(made, 9) == [(6, 8)]


def test_a_start_anew() -> None:
    """Doubts about what is still held stay; those about what comes again, and all those of a turn, go."""
    made = watch(0)
    made.arrive(0, 1)
    made.arrive(5, 6)
    made.arrive(9, 10)
    made.start(9, keep=True)
    assert [doubt.arrived for doubt in made.doubts] == [5]
    asked = made.doubts
    made.start(None)
    assert made.is_quiet
    assert made.settle(asked, 5) == []
    assert not made.arrive(70, 71)


def test_what_is_barred_stays_so() -> None:
    made = watch(0)
    made.bar(5)
    assert [made.holds(4), made.holds(5), made.is_quiet] == [False, True, False]


def test_a_filter_leaves_out_chunks() -> None:
    made = watch(0, follows=False)
    assert not made.arrive(0, 1)
    assert not made.arrive(500, 501)
    assert made.is_quiet
