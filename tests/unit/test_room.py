"""The bounds of an outbox, and the line of calls that wait for room."""

from __future__ import annotations

import asyncio

import pytest

from rstream_core import AlreadyClosed
from rstream_core.producers.room import Room


class Held:
    """What is there: messages and bytes."""

    def __init__(self, messages: int = 0, size: int = 0) -> None:
        self.now = messages, size

    def __call__(self) -> tuple[int, int]:
        return self.now


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_everything_fits_where_nothing_is_there() -> None:
    assert Room(10, 100, Held()).has_room(1000, 100_000)


def test_a_large_call_needs_half_of_the_bounds() -> None:
    assert Room(10, 100, Held(5, 50)).has_room(1000, 100_000)
    assert not Room(10, 100, Held(6, 50)).has_room(1000, 1)
    assert not Room(10, 100, Held(5, 51)).has_room(1, 100_000)


def test_both_bounds_hold() -> None:
    held = Held(9, 90)
    room = Room(10, 100, held)
    assert room.has_room(1, 10)
    assert not room.has_room(2, 10)
    assert not room.has_room(1, 11)


async def test_calls_are_let_in_in_their_order_and_nobody_overtakes() -> None:
    held = Held(10, 0)
    room = Room(10, 100, held)
    entered: list[int] = []

    async def enter(number: int, messages: int) -> None:
        await room.wait(messages, 0)
        entered.append(number)

    calls = [asyncio.create_task(enter(number, messages)) for number, messages in enumerate((5, 1, 1))]
    await settle()
    held.now = 8, 0
    room.admit()
    await settle()
    assert entered == []  # the first needs more, and the others wait behind it
    assert not room.has_room(1, 0)
    held.now = 5, 0
    room.admit()
    assert room.coming == 1
    assert room.coming_messages == 5
    assert not room.has_room(0, 0)  # the one that comes goes first
    await settle()
    assert entered == [0]
    held.now = 0, 0
    room.admit()
    await asyncio.gather(*calls)
    assert entered == [0, 1, 2]
    assert not room.has_line
    assert room.coming_messages == room.coming_bytes == 0


@pytest.mark.parametrize("is_let_in", [False, True])
async def test_a_cancelled_call_leaves_nothing_behind(is_let_in: bool) -> None:
    held = Held(10, 100)
    room = Room(10, 100, held)
    call = asyncio.create_task(room.wait(1, 10))
    await settle()
    if is_let_in:
        held.now = 0, 0
        room.admit()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not room.has_line
    assert room.coming_messages == room.coming_bytes == 0


async def test_all_that_wait_are_refused() -> None:
    room = Room(10, 100, Held(10, 100))
    calls = [asyncio.create_task(room.wait(1, 10)) for _ in range(3)]
    await settle()
    room.refuse(AlreadyClosed("this producer is closed"))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [AlreadyClosed] * 3
    assert not room.has_line
