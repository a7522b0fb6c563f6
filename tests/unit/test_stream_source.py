"""The source of streams: chunks to blocks, several streams, turns, ends, and what is stored."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from rstream_core import ConnectionClosed, ConsumerOffsetSpecification, OffsetType, RequestTimeout
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.read_plan import ReadPlan, StartAt, Until
from rstream_core.flow.stages import Stop
from rstream_core.flow.stores import StoreEvery
from rstream_core.flow.stream_source import MOST_AT_ONCE, StreamSource
from rstream_core.protocol.amqp_sections import PlainMessages, encode_bodies
from tests.unit.fake_streams import FakeClient, FakeStream, FakeSubscription, Told

FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)
READ = Stop("all wanted messages were read", "until")


class Reading:
    """A source of streams that have ten messages each."""

    def __init__(
        self,
        *names: str,
        start: StartAt = FIRST,
        until: Until | None = None,
        store_every: StoreEvery | None = None,
        **plan: object,
    ) -> None:
        names = names or ("s",)
        self.client = FakeClient(**{name: FakeStream(last=9) for name in names})
        self.told, self.account = Told(), Account()
        self.source = StreamSource(
            self.client.client,
            ReadPlan(names, start, until, **plan),  # type: ignore[arg-type]
            self.account,
            self.told,
            store_every=store_every,
            on_gap=self.told.gap,
            now_ms=lambda: 1_800_000_000_000,
        )
        self.wakes = 0

    async def open(self) -> list[FakeSubscription]:
        await self.source.open()
        self.source.start(self.wake)
        return list(self.client.subscriptions.values())

    def wake(self) -> None:
        self.wakes += 1

    def poll(self) -> Block:
        block = self.source.poll()
        assert block is not None
        return block

    async def tick(self) -> bool:
        """Does what is due, as a run does; returns whether something was."""
        due = self.source.due()
        if due is None or due > asyncio.get_running_loop().time():
            return False
        await self.source.tick()
        return True


async def test_a_chunk_becomes_a_block() -> None:
    reading = Reading()
    (subscription,) = await reading.open()
    subscription.arrive(5, 3, timestamp=77)
    assert reading.wakes == 1
    block = reading.poll()
    assert (block.stream, list(block.positions), block.timestamp) == ("s", [5, 6, 7], 77)
    assert block.messages == [b"5", b"6", b"7"]
    assert reading.source.poll() is None
    assert (block.ack.open, reading.account.open, reading.source.passed) == (3, 3, None)
    block.done()
    assert reading.source.passed == 7
    assert reading.told.events == [("begins", "s", 5, None)]


async def test_plain_messages_come_by_their_bodies_where_the_plan_says_so() -> None:
    for as_plain in (False, True):
        reading = Reading(as_plain=as_plain, until=Until(offset=MOST_AT_ONCE + 6))
        (subscription,) = await reading.open()
        subscription.arrive_with(0, [b"no message"])
        subscription.arrive_with(1, encode_bodies([b"%d" % number for number in range(1, MOST_AT_ONCE + 10)]))
        assert reading.poll().messages == [b"no message"]
        following = 1
        for count in (MOST_AT_ONCE, 6):
            block = reading.poll()
            assert (block.positions, block.count) == (range(following, following + count), count)
            bodies = [b"%d" % number for number in block.positions]
            assert list(block.messages) == encode_bodies(bodies)
            assert isinstance(block.messages, PlainMessages) is as_plain
            before, behind = block.split(2)
            for some, places in ((before.join([behind]), range(count)), (block.select([1, 3]), (1, 3))):
                assert list(some.messages) == encode_bodies([bodies[place] for place in places])
                assert isinstance(some.messages, PlainMessages) is as_plain
            following += count
        assert reading.source.poll() is None


async def test_a_chunk_of_many_messages_comes_in_parts() -> None:
    """What is not handed out is not open: it may never be."""
    reading = Reading()
    (subscription,) = await reading.open()
    subscription.arrive(10, 10_000)
    counts, following = [], 10
    while (block := reading.source.poll()) is not None:
        assert block.positions[0] == following
        assert block.messages[0] == b"%d" % following
        following += block.count
        counts.append(block.count)
        assert reading.account.read == sum(counts)
    assert counts == [MOST_AT_ONCE, MOST_AT_ONCE, 10_000 - 2 * MOST_AT_ONCE]
    assert reading.told.events == [("begins", "s", 10, None)]


@pytest.mark.parametrize("way", ["turn", "stop"])
async def test_the_rest_of_a_chunk_is_not_handed_out_after_the_end_of_its_turn_or_of_the_run(way: str) -> None:
    """Another consumer gets it: what is done of the chunk is what was handed out."""
    reading = Reading()
    (subscription,) = await reading.open()
    subscription.arrive(10, 10_000)
    first = reading.poll()
    if way == "turn":
        subscription.is_turn_over = True
        subscription.arrive(9, 1)
        assert list(reading.poll().positions) == [9]
    else:
        reading.source.stop()
        assert (reading.source.poll(), reading.source.end) == (None, Stop("stopped"))
    assert subscription.finished == [first.positions[-1]]
    assert reading.account.read == first.count + (way == "turn")


async def test_what_lies_behind_the_end_is_not_read() -> None:
    reading = Reading(until=Until())
    (subscription,) = await reading.open()
    subscription.arrive(0, 8)
    subscription.arrive(8, 8)
    assert reading.poll().count == 8
    assert reading.source.end is None
    assert list(reading.poll().positions) == [8, 9]
    assert reading.source.end == READ
    assert reading.source.poll() is None
    assert reading.account.read == 10
    assert reading.told.events == [("begins", "s", 0, 9)]


async def test_a_chunk_behind_the_end_ends_a_stream_without_a_block() -> None:
    reading = Reading(until=Until())
    (subscription,) = await reading.open()
    subscription.arrive(10, 5)
    assert (reading.source.poll(), reading.source.end) == (None, READ)
    assert reading.told.events == []


async def test_where_there_is_nothing_to_read_there_is_no_run() -> None:
    reading = Reading("a", "b", until=Until())
    reading.client.streams["a"].last = reading.client.streams["b"].last = None
    assert await reading.open() == []
    assert reading.source.end == Stop("there is nothing to read")


# Several streams.


async def test_streams_take_turns() -> None:
    reading = Reading("a", "b", "c")
    a, b, c = await reading.open()
    for subscription in (a, b, c):
        subscription.arrive(0, 1)
        subscription.arrive(1, 1)
    assert [reading.poll().stream for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    c.arrive(2, 1)
    assert reading.poll().stream == "c"
    assert reading.source.passed is None


async def test_a_stream_that_is_read_out_is_stored_and_left_when_all_of_it_is_done() -> None:
    reading = Reading("a", "b", until=Until(), name="n")
    a, b = await reading.open()
    a.arrive(0, 10)
    block = reading.poll()
    assert not await reading.tick()
    block.done()
    assert await reading.tick()
    assert (a.is_closed, b.is_closed) == (True, False)
    assert reading.client.stores == [("a", "n", 9, True)]
    assert not await reading.tick()
    b.arrive(0, 10)
    reading.poll().done()
    assert reading.source.end == READ
    assert not await reading.tick()
    await reading.source.settle()
    assert reading.client.stores == [("a", "n", 9, True), ("b", "n", 9, True)]
    await reading.source.close()
    assert b.is_closed


async def test_the_last_stream_that_ends_in_a_look_ends_the_reading() -> None:
    reading = Reading("a", "b", until=Until(), filter_values=("x",))
    for subscription in await reading.open():
        subscription.is_done = True
    reading.source.due()
    async with asyncio.timeout(60):
        while reading.source.end is None:
            await reading.tick()
            await asyncio.sleep(0.01)
    assert reading.source.end == READ


async def test_a_store_that_is_cut_off_is_made_at_the_end() -> None:
    """Of a stream that is read out, while others are read."""
    reading = Reading("a", "b", until=Until(), name="n")
    a, _ = await reading.open()
    a.arrive(0, 10)
    reading.poll().done()
    reading.client.store_error = ConnectionClosed("lost")
    with pytest.raises(ConnectionClosed):
        await reading.tick()
    reading.client.store_error = None
    await reading.source.settle(quietly=True)
    assert reading.client.stores == [("a", "n", 9, True)]


# Errors.


@pytest.mark.parametrize("error", [ConnectionClosed("lost"), RequestTimeout("no answer")])
async def test_the_error_of_a_subscription_is_raised_when_all_that_had_come_is_handed_out(error: Exception) -> None:
    reading = Reading("a", "b")
    a, b = await reading.open()
    b.arrive(0, 1)
    b.error = cast("ConnectionClosed", error)
    assert a.poll() is None
    assert reading.poll().stream == "b"
    assert reading.source.due() is None
    assert reading.source.poll() is None
    assert reading.source.due() == 0.0
    with pytest.raises(type(error)):
        await reading.source.tick()


# Stored offsets.


async def test_what_is_done_is_stored_when_it_is_due() -> None:
    reading = Reading(name="n", store_every=StoreEvery(messages=3))
    (subscription,) = await reading.open()
    subscription.arrive(0, 3)
    block = reading.poll()
    assert not await reading.tick()
    block.done()
    assert await reading.tick()
    assert reading.client.stores == [("s", "n", 2, False)]
    assert not await reading.tick()


async def test_a_store_of_every_so_many_messages_comes_before_the_next_block() -> None:
    reading = Reading(name="n", store_every=StoreEvery(messages=3))
    (subscription,) = await reading.open()
    subscription.arrive(0, 3)
    subscription.arrive(3, 3)
    reading.poll().done()
    assert reading.source.poll() is None
    assert await reading.tick()
    assert reading.poll().positions == range(3, 6)


async def test_such_a_store_comes_before_the_next_part_of_a_large_chunk_too() -> None:
    reading = Reading(name="n", store_every=StoreEvery(messages=3))
    (subscription,) = await reading.open()
    subscription.arrive(0, 3 * MOST_AT_ONCE)
    first = reading.poll()
    first.done()
    assert reading.source.poll() is None
    assert await reading.tick()
    assert reading.client.stores == [("s", "n", MOST_AT_ONCE - 1, False)]
    assert reading.poll().positions[0] == MOST_AT_ONCE


async def test_the_time_without_a_message_begins_when_nothing_is_worked_on() -> None:
    reading = Reading(idle=10.0)
    (subscription,) = await reading.open()
    subscription.arrive(0, 3)
    block = reading.poll()
    assert reading.source.due() is None
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(0.01)
    block.done()
    due = reading.source.due()
    assert due is not None
    assert due > before + 10.0
    assert reading.source.due() == due


async def test_what_is_open_at_the_end_is_given_back() -> None:
    reading = Reading(name="n")
    (subscription,) = await reading.open()
    subscription.arrive(0, 10)
    block = reading.poll()
    block.ack.done((0, 1, 5))
    reading.source.stop()
    await reading.source.settle()
    assert reading.client.stores == [("s", "n", 1, True)]
    assert (reading.account.left, reading.account.open) == (7, 0)


async def test_without_a_name_nothing_is_stored() -> None:
    reading = Reading(store_every=StoreEvery(messages=1))
    (subscription,) = await reading.open()
    subscription.arrive(0, 10)
    reading.poll().done()
    assert not await reading.tick()
    await reading.source.settle()
    assert reading.client.stores == []


# Turns as single active consumer.


def group(**more: object) -> Reading:
    return Reading(single_active=True, name="g", **more)  # type: ignore[arg-type]


async def test_a_turn_ends_when_the_broker_has_the_offset() -> None:
    reading = group()
    (subscription,) = await reading.open()
    await subscription.turn(True)
    subscription.arrive(0, 10)
    reading.poll().done()
    await subscription.turn(False)
    assert reading.client.stores == [("s", "g", 9, True)]
    assert reading.told.events == [
        ("waiting",),
        ("turn", "s", True),
        ("begins", "s", 0, None),
        ("stored", "s", 9),
        ("turn", "s", False),
    ]


async def test_who_has_no_turn_stores_nothing() -> None:
    reading = group(store_every=StoreEvery(messages=1))
    (subscription,) = await reading.open()
    await subscription.turn(True)
    subscription.arrive(0, 10)
    reading.poll().done()
    await subscription.turn(False)
    reading.client.stores.clear()
    assert not await reading.tick()
    await reading.source.settle()
    assert reading.client.stores == []


async def test_what_is_left_of_an_old_turn_does_not_count_for_the_next() -> None:
    """A write that ends when the turn has, and another has begun."""
    reading = group()
    (subscription,) = await reading.open()
    await subscription.turn(True)
    subscription.arrive(0, 42)
    late = reading.poll()
    await subscription.turn(False)
    await subscription.turn(True)
    late.done()
    assert reading.source.passed is None
    subscription.arrive(0, 10)
    reading.poll().done()
    await subscription.turn(False)
    assert reading.client.stores == [("s", "g", 9, True)]
    assert reading.account.by[Verdict.DONE] == 52


@pytest.mark.parametrize("error", [None, RequestTimeout("no answer")])
async def test_what_is_open_at_the_end_of_a_turn_is_taken_back(error: Exception | None) -> None:
    """Its chunk is finished. Where nothing is stored, the next turn would begin behind it."""
    reading = group()
    (subscription,) = await reading.open()
    await subscription.turn(True)
    subscription.arrive(0, 4)
    block = reading.poll()
    assert reading.source.poll() is None
    block.ack.done(range(2))
    reading.client.store_error = error
    await subscription.turn(False)
    assert subscription.taken_back == [1]
    await subscription.turn(True)
    subscription.arrive(2, 4)
    reading.poll().done()
    await subscription.turn(False)
    assert subscription.taken_back == [1]  # nothing is open


@pytest.mark.parametrize("error", [ConnectionClosed("lost"), TimeoutError()])
async def test_a_turn_ends_though_its_offset_cannot_be_stored_and_each_state_is_told_once(error: Exception) -> None:
    reading = group()
    (subscription,) = await reading.open()
    reading.client.store_error = error
    for active in (True, True, False, False):
        await subscription.turn(active)
        if active:
            subscription.arrive(0, 10)
            reading.poll().done()
    why = str(error) or "no answer within 5 s"
    assert [event for event in reading.told.events if event[0] != "begins"] == [
        ("waiting",),
        ("turn", "s", True),
        ("not stored", "s", why),
        ("turn", "s", False),
    ]


async def test_closing_that_is_cancelled_leaves_no_subscription_open() -> None:
    reading = Reading("a", "b")
    subscriptions = await reading.open()

    async def close() -> None:
        await asyncio.Event().wait()

    for subscription in subscriptions:
        setattr(subscription, "close", close)  # noqa: B010 - mypy takes no method for a variable
    closing = asyncio.create_task(reading.source.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert [subscription.is_closed for subscription in subscriptions] == [True, True]
