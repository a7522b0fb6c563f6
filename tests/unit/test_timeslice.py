"""When the loop is to have a turn, and how often that is looked at; by a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from rstream_core.timeslice import MAX_STRIDE, TIME_SLICE, TimeSlice


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


def work(clock: Clock, time_slice: TimeSlice, each: float, messages: int) -> list[float]:
    """How long each slice took; the loop has a turn where one is over."""
    slices = []
    begin = clock.now
    while messages > 0:
        stride = time_slice.stride
        messages -= stride
        clock.now += each * stride
        if time_slice.is_over(stride):
            slices.append(clock.now - begin)
            begin = clock.now
            time_slice.begin()
    return slices


@pytest.mark.parametrize("each", [0.000_001, 0.0001, 0.001, 0.003, 0.02, 1.0])
def test_a_slice_is_passed_by_little(each: float) -> None:
    clock = Clock()
    slices = work(clock, TimeSlice(clock), each, 100_000)
    assert min(slices) >= TIME_SLICE - 1e-9
    assert max(slices) <= TIME_SLICE + max(TIME_SLICE / 4, each) + 1e-9


def test_what_takes_no_time_is_seldom_looked_at() -> None:
    clock = Clock()
    time_slice = TimeSlice(clock)
    assert work(clock, time_slice, 0.0, 100_000) == []
    assert time_slice.stride == MAX_STRIDE
    assert clock.looks < 100_000 / MAX_STRIDE + 10


def test_messages_that_suddenly_take_longer() -> None:
    clock = Clock()
    time_slice = TimeSlice(clock)
    work(clock, time_slice, 0.0, 1000)
    first, *others = work(clock, time_slice, 0.005, 1000)
    assert first <= MAX_STRIDE * 0.005 + 1e-9
    assert max(others) <= TIME_SLICE + 0.005 + 1e-9  # all but the first: the stride has followed
    work(clock, time_slice, 0.0, 1000)
    assert time_slice.stride == MAX_STRIDE


def test_looks_between_chunks_say_nothing_of_messages() -> None:
    clock = Clock()
    time_slice = TimeSlice(clock)
    work(clock, time_slice, 0.02, 10)
    for _ in range(10):
        assert not time_slice.is_over()
    assert time_slice.stride == 1
    clock.now += 0.02
    assert time_slice.is_over(1)
    assert time_slice.stride == 1


def test_a_part_of_a_stride_counts_for_what_it_is() -> None:
    """As at the end of a small chunk."""
    clock = Clock()
    time_slice = TimeSlice(clock)
    work(clock, time_slice, 0.0, 1000)
    clock.now += 2 * 0.001
    time_slice.is_over(2)
    assert time_slice.stride == 1


async def test_a_turn_of_the_loop() -> None:
    clock = Clock()
    time_slice = TimeSlice(clock)
    clock.now += TIME_SLICE
    assert time_slice.is_over()
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    await time_slice.give_way()
    assert others == [1]
    assert not time_slice.is_over()


async def test_whoever_is_cancelled_gets_on_all_the_same() -> None:
    """Else one who has no time would give way for ever."""
    clock = Clock()
    time_slice = TimeSlice(clock)
    clock.now += TIME_SLICE
    giving_way = asyncio.create_task(time_slice.give_way())
    await asyncio.sleep(0)
    giving_way.cancel()
    await asyncio.wait((giving_way,))
    assert giving_way.cancelled()
    assert not time_slice.is_over()
