"""A line is logged once in a minute, and the memory of what was logged is bounded."""

from __future__ import annotations

from rstream_core.log_limit import MAX_REMEMBERED, TELL_AGAIN, LogLimit


def test_a_line_is_held_back_for_a_minute() -> None:
    limit = LogLimit()
    assert limit.lets_through("a", 5.0)
    assert not limit.lets_through("a", 5.0)
    assert not limit.lets_through("a", 4.9 + TELL_AGAIN)
    assert limit.lets_through("a", 5.0 + TELL_AGAIN)
    assert not limit.lets_through("a", 4.9 + 2 * TELL_AGAIN)  # counted from the last time that it was logged


def test_a_line_that_is_held_back_does_not_hold_others_back() -> None:
    limit = LogLimit()
    assert limit.lets_through("a", 0.0)
    assert limit.lets_through("b", 0.0)
    assert not limit.lets_through("b", 1.0)


def test_the_oldest_line_is_forgotten_where_there_are_too_many() -> None:
    limit = LogLimit()
    for number in range(MAX_REMEMBERED):
        assert limit.lets_through(str(number), number / MAX_REMEMBERED)
    assert limit.lets_through("0", TELL_AGAIN)  # it is now the newest one, and "1" the oldest
    assert limit.lets_through("another", TELL_AGAIN)
    assert not limit.lets_through("0", TELL_AGAIN)
    assert not limit.lets_through("2", TELL_AGAIN)
    assert limit.lets_through("1", TELL_AGAIN)


def test_many_lines_take_a_bounded_memory() -> None:
    limit = LogLimit()
    for number in range(3 * MAX_REMEMBERED):
        limit.lets_through(str(number), 0.0)
    held = sum(not limit.lets_through(str(number), 0.0) for number in reversed(range(3 * MAX_REMEMBERED)))
    assert held == MAX_REMEMBERED
