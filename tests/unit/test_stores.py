"""When and which offsets are stored: never past what is done."""

from __future__ import annotations

import asyncio

import pytest

from rstream_core import ConnectionClosed, RequestTimeout, StreamNotAvailable
from rstream_core.flow.acks import Account
from rstream_core.flow.stores import STORE_AGAIN, StoreEvery, Stores
from rstream_core.flow.stream_reading import StreamReading
from tests.unit.fake_streams import Clock, FakeClient, Told


class Storing:
    """One stream whose first 100 messages are handed out."""

    def __init__(self, every: StoreEvery, streams: tuple[str, ...] = ("s",)) -> None:
        self.clock, self.client, self.told = Clock(), FakeClient(), Told()
        self.readings = [StreamReading(stream, Account()) for stream in streams]
        self.reading = self.readings[0]
        for reading in self.readings:
            reading.acks.hand_out(0, 100)
        self.stores = Stores(self.client, "reader", every, self.readings, self.told, self.clock)

    async def tick(self) -> list[int]:
        """Does what is due, as a run does. Returns the offsets that are stored by that."""
        before = len(self.client.stores)
        due = self.stores.due()
        if due is not None and due <= self.clock.now:
            await self.stores.tick()
        return [offset for _, _, offset, _ in self.client.stores[before:]]


async def test_every_so_many_messages() -> None:
    storing = Storing(StoreEvery(messages=5))
    storing.reading.acks.done(range(4))
    assert await storing.tick() == []
    storing.reading.acks.done(range(4, 6))
    assert await storing.tick() == [5]
    assert await storing.tick() == []
    storing.reading.acks.done(range(6, 10))
    assert await storing.tick() == []
    storing.reading.acks.done((10,))
    assert await storing.tick() == [10]
    assert storing.client.stores[0] == ("s", "reader", 5, False)
    assert storing.told.events == [("stored", "s", 5), ("stored", "s", 10)]


async def test_every_so_many_seconds_if_there_is_news() -> None:
    storing = Storing(StoreEvery(seconds=10.0))
    storing.clock.now += 11
    assert storing.stores.due() is None
    storing.reading.acks.done(range(3))
    assert await storing.tick() == [2]
    storing.reading.acks.done((3,))
    assert storing.stores.due() == storing.clock.now + 10
    storing.clock.now += 9
    assert await storing.tick() == []
    storing.clock.now += 1
    assert await storing.tick() == [3]


async def test_without_a_number_only_the_end_is_stored() -> None:
    storing = Storing(StoreEvery())
    storing.reading.acks.done(range(100))
    storing.clock.now += 10**6
    assert storing.stores.due() is None
    await storing.stores.tick()  # something else was due
    assert storing.client.stores == []
    await storing.stores.finish(quietly=False)
    assert storing.client.stores == [("s", "reader", 99, True)]


@pytest.mark.parametrize("every", [StoreEvery(messages=1), StoreEvery(seconds=1.0)])
async def test_what_is_open_is_never_passed(every: StoreEvery) -> None:
    """Though much behind it is done."""
    storing = Storing(every)
    storing.reading.acks.done(range(1, 100))
    storing.clock.now += 100
    assert (storing.stores.due(), await storing.tick()) == (None, [])
    await storing.stores.finish(quietly=False)
    assert storing.client.stores == []
    storing.reading.acks.done((0,))
    assert await storing.tick() == [99]


@pytest.mark.parametrize("error", [ConnectionClosed("lost"), RequestTimeout("slow"), TimeoutError()])
async def test_an_outage_postpones_a_store(error: Exception) -> None:
    """It comes though nothing more is done by then, and not at once: that would be a busy loop."""
    storing = Storing(StoreEvery(messages=1))
    storing.client.store_error = error
    storing.reading.acks.done(range(3))
    assert await storing.tick() == []
    storing.client.store_error = None
    assert storing.stores.due() == storing.clock.now + STORE_AGAIN
    assert await storing.tick() == []
    storing.clock.now += STORE_AGAIN
    assert await storing.tick() == [2]
    assert storing.stores.due() is None


async def test_an_error_that_is_no_outage_is_raised() -> None:
    storing = Storing(StoreEvery(messages=1))
    storing.client.store_error = StreamNotAvailable("s")
    storing.reading.acks.done((0,))
    with pytest.raises(StreamNotAvailable):
        await storing.tick()


async def test_the_last_one_is_stored_again_and_looked_at() -> None:
    """Nobody has seen yet whether the broker has it."""
    storing = Storing(StoreEvery(messages=1))
    storing.reading.acks.done(range(3))
    await storing.tick()
    await storing.stores.finish(quietly=False)
    assert storing.client.stores == [("s", "reader", 2, False), ("s", "reader", 2, True)]


async def test_nobody_knows_what_is_stored_where_the_last_store_fails() -> None:
    storing = Storing(StoreEvery(messages=1))
    storing.reading.acks.done(range(3))
    await storing.tick()
    storing.client.store_error = ConnectionClosed("lost")
    with pytest.raises(ConnectionClosed):
        await storing.stores.finish(quietly=False)
    assert storing.told.events == [("stored", "s", 2), ("stored", "s", None)]


@pytest.mark.parametrize("error", [ConnectionClosed("lost"), StreamNotAvailable("s")])
async def test_a_run_that_has_failed_says_nothing_of_the_last_store(error: Exception) -> None:
    storing = Storing(StoreEvery())
    storing.client.store_error = error
    storing.reading.acks.done((0,))
    await storing.stores.finish(quietly=True)


async def test_each_stream_has_its_own() -> None:
    storing = Storing(StoreEvery(messages=2), ("a", "b", "c"))
    first, second, _ = storing.readings
    first.acks.done(range(2))
    second.acks.done((0,))
    assert await storing.tick() == [1]
    await storing.stores.finish(quietly=False)
    assert sorted(storing.client.stores[1:]) == [("a", "reader", 1, True), ("b", "reader", 0, True)]


async def test_another_turn_has_nothing_to_store_at_first() -> None:
    """Another consumer is further on by then. What is done late counts for the turn that is over."""
    storing = Storing(StoreEvery(messages=1))
    old = storing.reading.acks
    old.done(range(10))
    storing.reading.begin_turn()
    old.done(range(10, 20))
    assert await storing.tick() == []
    await storing.stores.finish(quietly=False)
    assert storing.client.stores == []
    storing.reading.acks.hand_out(5, 5)
    storing.reading.acks.done((5,))
    assert await storing.tick() == [5]


async def test_a_turn_that_ends_in_the_middle_of_a_store_is_not_taken_for_the_next() -> None:
    storing = Storing(StoreEvery(messages=5))
    storing.reading.acks.done(range(10))

    async def store_offset(*args: object, **rest: object) -> None:
        storing.reading.begin_turn()
        storing.reading.acks.hand_out(9, 5)
        storing.reading.acks.done((9,))

    setattr(storing.client, "store_offset", store_offset)  # noqa: B010 - mypy takes no method for a variable
    await storing.stores.tick()
    assert storing.stores.due() is None
    storing.reading.acks.done(range(10, 14))
    assert storing.stores.due() is not None


async def test_two_stores_of_a_stream_come_one_after_another() -> None:
    """One in the background waits for a connection when the turn ends: its offset must not reach the broker last."""
    storing = Storing(StoreEvery(messages=1))
    connected, sent = asyncio.Event(), list[tuple[int, bool]]()

    async def store_offset(
        _stream: str, _name: str, offset: int, *, verify_timeout: float | None = None, **_rest: object
    ) -> None:
        if verify_timeout is None:
            await connected.wait()
        sent.append((offset, verify_timeout is not None))

    setattr(storing.client, "store_offset", store_offset)  # noqa: B010 - mypy takes no method for a variable
    storing.reading.acks.done(range(3))
    in_background = asyncio.create_task(storing.stores.tick())
    await asyncio.sleep(0)
    storing.reading.acks.done(range(3, 6))
    at_the_end = asyncio.create_task(storing.stores.store(storing.reading, verify=True))
    await asyncio.sleep(0)
    connected.set()
    await asyncio.gather(in_background, at_the_end)
    assert sent == [(2, False), (5, True)]


async def test_a_store_in_the_background_does_not_wait_for_another_one() -> None:
    storing = Storing(StoreEvery(messages=1))
    confirmed = asyncio.Event()

    async def store_offset(*_args: object, **_rest: object) -> None:
        await confirmed.wait()

    setattr(storing.client, "store_offset", store_offset)  # noqa: B010 - mypy takes no method for a variable
    storing.reading.acks.done(range(3))
    at_the_end = asyncio.create_task(storing.stores.store(storing.reading, verify=True))
    await asyncio.sleep(0)
    await asyncio.wait_for(storing.stores.tick(), 1)
    assert storing.stores.due() == storing.clock.now + STORE_AGAIN
    confirmed.set()
    await at_the_end
    assert storing.stores.due() is None
