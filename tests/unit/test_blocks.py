"""Blocks for programs, without a broker: what is handed out, what is stored, what waits, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

import rstream_core.flow.hand_over
from rstream_core import (
    AlreadyClosed,
    Blocks,
    ConfigurationError,
    ConnectionClosed,
    ConsumerOffsetSpecification,
    MessageBlock,
    OffsetType,
    StreamDoesNotExist,
)
from rstream_core.client import MAX_OPEN, MAX_OPEN_BYTES
from rstream_core.flow.blocks import blocks_of, plan_of
from rstream_core.flow.hand_over import AHEAD
from rstream_core.flow.read_plan import ReadPlan, Until
from rstream_core.flow.stores import StoreEvery
from tests.clients import PATIENCE, eventually
from tests.unit.fake_streams import USUAL, FakeClient, FakeStream, FakeSubscription, Told


class Reading:
    """Blocks of streams that have ten messages each."""

    def __init__(
        self,
        *streams: str,
        every: StoreEvery | None = None,
        most: int = MAX_OPEN,
        most_bytes: int = MAX_OPEN_BYTES,
        **plan: Any,
    ) -> None:
        streams = streams or ("s",)
        self.client = FakeClient(**{stream: FakeStream(last=9) for stream in streams})
        self.told = Told()
        self.checks = 0
        self.blocks = blocks_of(
            self.client.client,
            plan_of(streams, None, ConsumerOffsetSpecification(), **{**USUAL, **plan}),
            store_every=every or StoreEvery(),
            on_gap=self.told.gap,
            max_open=most,
            max_open_bytes=most_bytes,
            check=self.check,
        )

    def check(self) -> None:
        self.checks += 1

    @property
    def subscription(self) -> FakeSubscription:
        (found,) = self.client.subscriptions.values()
        return found

    @property
    def stored(self) -> list[int]:
        return [offset for _, _, offset, _ in self.client.stores]

    async def next(self) -> MessageBlock:
        return await asyncio.wait_for(anext(self.blocks), PATIENCE)

    async def has_more(self) -> bool:
        """Whether a block comes without anything else happening."""
        task = asyncio.ensure_future(anext(self.blocks))
        for _ in range(20):
            await asyncio.sleep(0)
        is_done = task.done()
        if not is_done:
            task.cancel()
            await asyncio.wait((task,))
        return is_done


async def test_a_block_has_what_was_stored_and_is_acknowledged() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        reading.subscription.arrive(5, 3, timestamp=77)
        block = await reading.next()
        assert (block.stream, list(block.offsets), block.timestamp, len(block)) == ("s", [5, 6, 7], 77, 3)
        assert (list(block.messages), block.open) == ([b"5", b"6", b"7"], 3)
        assert repr(block) == "<MessageBlock of stream 's', offsets 5 to 7>"
        await block.ack()
        assert block.open == 0
        await block.ack()
    assert reading.client.stores == [("s", "n", 7, True)]
    assert (reading.subscription.is_closed, reading.checks) == (True, 1)


async def test_only_what_lies_before_everything_open_is_stored() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        for offset in (0, 10, 20, 30):
            reading.subscription.arrive(offset, 10)
        found = [await reading.next() for _ in range(4)]
        for block in (found[3], found[0], found[2]):
            await block.ack()
    assert reading.stored == [9]


async def test_a_part_of_a_block_is_acknowledged() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        block = await reading.next()
        await block.ack(7)
        await block.ack([2, 0, 0])  # not 1, though these are three
        assert block.open == 7
        await block.ack([1, 1])
        await block.ack(range(4, 6))
        await block.ack([])
        assert block.open == 4
        for strange in (10, -1, [3, 10], range(-1, 3)):
            with pytest.raises(ConfigurationError, match="is not of this block, which has 0 to 9"):
                await block.ack(strange)
        assert block.open == 4
    assert reading.stored == [2]


async def test_nothing_acknowledged_stores_nothing() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        await reading.next()
    assert reading.stored == []


async def test_an_acknowledgement_after_the_end_changes_nothing() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        block = await reading.next()
    await block.ack()
    assert (reading.stored, block.open) == ([], 10)


async def test_an_error_in_the_body_stores_what_is_acknowledged_and_comes_out() -> None:
    reading = Reading(name="n")

    async def body() -> None:
        async with reading.blocks:
            reading.subscription.arrive(0, 10)
            reading.subscription.arrive(10, 10)
            await (await reading.next()).ack()
            await reading.next()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert reading.stored == [9]


@pytest.mark.parametrize("is_failing", [False, True])
async def test_an_offset_that_cannot_be_stored_is_told_where_nothing_else_is(is_failing: bool) -> None:
    reading = Reading(name="n")

    async def body() -> None:
        async with reading.blocks:
            reading.subscription.arrive(0, 10)
            await (await reading.next()).ack()
            reading.client.store_error = ConnectionClosed("gone")
            if is_failing:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError if is_failing else ConnectionClosed):
        await body()
    assert reading.subscription.is_closed


async def test_a_cancelled_body_stores_what_is_acknowledged() -> None:
    reading = Reading(name="n")
    got = asyncio.Event()

    async def body() -> None:
        async with reading.blocks as blocks:
            reading.subscription.arrive(0, 10)
            async for block in blocks:
                await block.ack()
                got.set()

    task = asyncio.create_task(body())
    await asyncio.wait_for(got.wait(), PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reading.stored == [9]


async def test_it_is_stored_when_it_is_due_without_a_further_block() -> None:
    reading = Reading(name="n", every=StoreEvery(messages=15))
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        reading.subscription.arrive(10, 10)
        first, second = await reading.next(), await reading.next()
        await first.ack()
        for _ in range(20):
            await asyncio.sleep(0)
        assert reading.client.stores == []
        await second.ack()
        await eventually(lambda: reading.client.stores == [("s", "n", 19, False)])


async def test_it_is_stored_when_it_is_due_behind_the_last_block_and_while_too_many_are_open() -> None:
    """``most`` is reached, and the end of the stream, too."""
    reading = Reading(name="n", every=StoreEvery(messages=4), most=5, to_end=True)
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        block = await reading.next()
        await block.ack(range(5))
        await eventually(lambda: reading.stored == [4])
        with pytest.raises(StopAsyncIteration):
            await reading.next()
        await block.ack(range(5, 9))
        await eventually(lambda: reading.stored == [4, 8])
        await block.ack(9)
    assert reading.stored == [4, 8, 9]


# Bounds.


@pytest.mark.parametrize("bound", [{"most": 11}, {"most_bytes": 11}])
async def test_the_iterator_waits_while_too_many_are_open(bound: dict[str, Any]) -> None:
    """Blocks of ten messages of a byte each: the second one passes the bound, and the third waits."""
    reading = Reading(**bound)
    async with reading.blocks:
        for number in range(4):
            reading.subscription.arrive_with(10 * number, [b"x"] * 10)
        first, second = await reading.next(), await reading.next()
        assert not await reading.has_more()
        await second.ack(second.offsets[:9])
        assert not await reading.has_more()
        await first.ack()
        assert await reading.has_more()


async def test_blocks_are_read_ahead_but_not_all() -> None:
    reading = Reading()
    async with reading.blocks:
        for number in range(5 * AHEAD):
            reading.subscription.arrive(number, 1)
        for _ in range(5 * AHEAD):
            await asyncio.sleep(0)
        assert len(reading.subscription.chunks) == 4 * AHEAD
        assert [list((await reading.next()).offsets) for _ in range(5 * AHEAD)] == [[n] for n in range(5 * AHEAD)]


async def test_a_program_that_acknowledges_nothing_is_warned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rstream_core.flow.hand_over, "WARN_AFTER", 0.01)
    reading = Reading(most=10)
    async with reading.blocks:
        reading.subscription.arrive_with(0, [b"xyz"] * 10)
        block = await reading.next()
        task = asyncio.ensure_future(anext(reading.blocks))
        with caplog.at_level(logging.WARNING, "rstream_core"):
            await eventually(lambda: bool(caplog.records))
            reading.subscription.arrive(10, 1)
            await block.ack()
            assert list((await asyncio.wait_for(task, PATIENCE)).offsets) == [10]
        (record,) = caplog.records
        assert "10 messages (30 bytes) that were handed out are not acknowledged" in record.getMessage()


# Turns.


async def test_a_turn_that_ends_stores_and_drops_what_was_not_taken() -> None:
    reading = Reading(name="n", single_active=True)
    async with reading.blocks:
        subscription = reading.subscription
        await subscription.turn(True)
        for offset in (0, 10, 20):
            subscription.arrive(offset, 10)
        done, open_ = await reading.next(), await reading.next()
        await done.ack()
        await asyncio.sleep(0)
        await subscription.turn(False)
        assert reading.client.stores == [("s", "n", 9, True)]
        assert not await reading.has_more()
        await subscription.turn(True)
        subscription.arrive(10, 10)
        again = await reading.next()
        assert list(again.offsets) == list(open_.offsets)
        await open_.ack()
        assert (open_.open, again.open) == (0, 10)
    assert reading.stored == [9]
    assert subscription.failed[0] == 0  # the next turn begins by what is stored, not by what was handed out


async def test_what_an_old_turn_holds_counts_for_the_bounds() -> None:
    reading = Reading(name="n", single_active=True, most=10)
    async with reading.blocks:
        subscription = reading.subscription
        await subscription.turn(True)
        subscription.arrive(0, 10)
        old = await reading.next()
        await subscription.turn(False)
        await subscription.turn(True)
        subscription.arrive(0, 10)
        assert not await reading.has_more()
        await old.ack()
        assert list((await reading.next()).offsets) == list(range(10))


# Ends.


async def test_to_end() -> None:
    reading = Reading("a", "b", name="n", to_end=True)
    async with reading.blocks as blocks:
        for subscription in reading.client.subscriptions.values():
            subscription.arrive(0, 8)
            subscription.arrive(8, 8)
        found: dict[str, list[int]] = {"a": [], "b": []}
        last = []
        async with asyncio.timeout(PATIENCE):
            async for block in blocks:
                found[block.stream] += block.offsets
                last.append(block)
        assert found == {"a": list(range(10)), "b": list(range(10))}
        for block in last:  # the iteration is over, the reading is not
            await block.ack()
    assert sorted(reading.client.stores) == [("a", "n", 9, True), ("b", "n", 9, True)]


async def test_a_plain_loop_stores_at_its_end() -> None:
    reading = Reading(name="n", to_end=True)
    reading.client.deliver = lambda made: made.arrive(0, 10)
    async with asyncio.timeout(PATIENCE):
        async for block in reading.blocks:
            await block.ack()
    assert (reading.stored, reading.subscription.is_closed) == ([9], True)
    with pytest.raises(StopAsyncIteration):
        await anext(reading.blocks)


async def test_a_plain_loop_that_is_left_ends_the_subscription() -> None:
    reading = Reading(name="n")
    reading.client.deliver = lambda made: made.arrive(0, 10)
    async for block in reading.blocks:
        await block.ack()
        break
    del reading.blocks
    gc.collect()
    await eventually(lambda: reading.subscription.is_closed)
    assert reading.stored == []


async def test_an_empty_stream_has_nothing_to_its_end() -> None:
    reading = Reading(name="n", to_end=True)
    reading.client.streams["s"].last = None
    async with reading.blocks as blocks:
        assert [block async for block in blocks] == []


async def test_what_ends_the_reading_comes_behind_the_blocks_before_it_each_time() -> None:
    reading = Reading(name="n")
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        reading.subscription.error = StreamDoesNotExist("deleted")
        block = await reading.next()
        for _ in range(2):
            with pytest.raises(StreamDoesNotExist):
                await reading.next()
        await block.ack()
    assert reading.stored == [9]


async def test_an_error_ends_a_plain_loop() -> None:
    reading = Reading(name="n")

    def deliver(made: FakeSubscription) -> None:
        made.arrive(0, 10)
        made.error = StreamDoesNotExist("deleted")

    reading.client.deliver = deliver

    async def read() -> None:
        async for block in reading.blocks:
            await block.ack()

    with pytest.raises(StreamDoesNotExist):
        await asyncio.wait_for(read(), PATIENCE)
    assert (reading.stored, reading.subscription.is_closed) == ([9], True)


async def test_a_store_that_is_refused_ends_the_reading() -> None:
    reading = Reading(name="n", every=StoreEvery(messages=1))
    async with reading.blocks:
        reading.subscription.arrive(0, 10)
        reading.client.store_error = StreamDoesNotExist("deleted")
        await (await reading.next()).ack()
        with pytest.raises(StreamDoesNotExist):
            await reading.next()


async def test_closing_ends_tasks_that_wait() -> None:
    reading = Reading()
    await reading.blocks.__aenter__()
    tasks = [asyncio.ensure_future(anext(reading.blocks, None)) for _ in range(3)]
    await asyncio.sleep(0)
    await reading.blocks.aclose()
    assert await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE) == [None] * 3
    await reading.blocks.aclose()
    with pytest.raises(AlreadyClosed):
        await reading.blocks.__aenter__()


async def test_several_tasks_take_blocks() -> None:
    reading = Reading(to_end=True)
    found: list[int] = []

    async def work() -> None:
        async for block in reading.blocks:
            await asyncio.sleep(0)
            found.extend(block.offsets)
            await block.ack()

    async with reading.blocks, asyncio.timeout(PATIENCE):
        for offset in range(10):
            reading.subscription.arrive(offset, 1)
        await asyncio.gather(*(work() for _ in range(3)))
    assert sorted(found) == list(range(10))


async def test_a_cancelled_anext_loses_nothing() -> None:
    reading = Reading()
    async with reading.blocks:
        for number in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(reading.blocks)
            reading.subscription.arrive(number, 1)
            assert list((await reading.next()).offsets) == [number]


async def test_a_stream_that_cannot_be_opened_leaves_nothing_behind() -> None:
    reading = Reading("a", "b")
    made: list[FakeSubscription] = []

    def deliver(subscription: FakeSubscription) -> None:
        made.append(subscription)
        if subscription.stream == "b":
            raise StreamDoesNotExist("b")

    reading.client.deliver = deliver
    with pytest.raises(StreamDoesNotExist):
        await reading.blocks.__aenter__()
    assert made[0].is_closed
    with pytest.raises(StopAsyncIteration):
        await anext(reading.blocks)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"stream": None}, "needs a stream, several, or a super_stream"),
        ({"stream": ()}, "needs a stream, several, or a super_stream"),
        ({"stream": ("a", "a")}, "a stream is named twice"),
        ({"stream": ""}, "stream"),
        ({"super_stream": ""}, "super_stream"),
        ({"name": ""}, "name"),
        ({"single_active": True}, "single_active needs a name"),
        ({"to_end": 1}, "to_end"),
        ({"fail_on_gap": 1}, "fail_on_gap"),
        ({"single_active": "x", "name": "n"}, "single_active"),
        ({"until": 5, "to_end": True}, "pass until, or to_end, not both"),
        ({"until": 5, "single_active": True, "name": "n"}, "a group takes to_end, and not until"),
        ({"until": 5, "stream": ("a", "b")}, "until=5 is an offset of one stream"),
        ({"until": 5, "stream": None, "super_stream": "s"}, "until=5 is an offset of one stream"),
        ({"until": -1}, "until is between 0 and"),
        ({"until": "end"}, "until is a whole number"),
        ({"filter_values": "eu"}, "filter_values is a list of str"),
        ({"filter_values": [1]}, "one of filter_values is a str"),
        ({"filter_values": ["eu"], "match_unfiltered": 1}, "match_unfiltered is True or False"),
        ({"match_unfiltered": True}, "match_unfiltered needs filter_values"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: str) -> None:
    given = {**USUAL, "stream": "s", "super_stream": None, **arguments}
    with pytest.raises((ConfigurationError, TypeError), match=error):
        plan_of(given.pop("stream"), given.pop("super_stream"), ConsumerOffsetSpecification(), **given)


def test_what_is_to_be_read() -> None:
    def plan(stream: str | tuple[str, ...] = "s", **arguments: Any) -> ReadPlan:
        return plan_of(stream, None, ConsumerOffsetSpecification(), **{**USUAL, **arguments})

    time = datetime(2026, 11, 23, 10, 0, 0, 123_999, tzinfo=UTC)
    assert plan().until is None
    assert plan(to_end=True).until == Until()
    assert plan(until=0).until == Until(offset=0)
    assert plan(("a", "b"), until=time).until == Until(time=1_795_428_000_123)
    filtered = plan(filter_values=["eu", "uk"], match_unfiltered=True)
    assert (filtered.filter_values, filtered.match_unfiltered) == (("eu", "uk"), True)


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("name", [None, "n"])
@pytest.mark.parametrize("single_active", [False, True])
async def test_where_it_begins(is_given: bool, name: str | None, single_active: bool) -> None:
    if single_active and name is None:
        return
    client = FakeClient(s=FakeStream(last=9), t=FakeStream(last=9, stored={"n": 4}))
    start = ConsumerOffsetSpecification(OffsetType.OFFSET, 7) if is_given else ConsumerOffsetSpecification()
    chosen = {"is_given": is_given, "name": name, "single_active": single_active, "credit": 3, "fail_on_gap": True}
    plan = plan_of(["s", "t"], None, start, **{**USUAL, **chosen})
    blocks = blocks_of(
        client.client,
        plan,
        store_every=StoreEvery(),
        on_gap=lambda gap: None,
        max_open=1,
        max_open_bytes=1,
        check=lambda: None,
    )
    async with blocks:
        starts = {name: (made.spec.offset_type, made.spec.offset) for name, made in client.subscriptions.items()}
        told = [(made.told["credit"], made.told["fail_on_gap"]) for made in client.subscriptions.values()]
    otherwise: tuple[OffsetType, int | None] = (OffsetType.OFFSET, 7 if is_given else 0)
    if name is None:
        otherwise = (OffsetType.OFFSET, 7) if is_given else (OffsetType.FIRST, None)
        assert starts == {"s": otherwise, "t": otherwise}
    elif single_active:  # the broker is asked for the stored offset when the turn begins
        assert starts == {"s": otherwise, "t": otherwise}
    else:
        assert starts == {"s": otherwise, "t": (OffsetType.OFFSET, 5)}
    assert told == [(3, True)] * 2


async def test_all_partitions_of_a_super_stream() -> None:
    client = FakeClient(a=FakeStream(last=9), b=FakeStream(last=9))
    plan = plan_of(None, "all", ConsumerOffsetSpecification(), **{**USUAL, "name": "n", "single_active": True})
    blocks: Blocks = blocks_of(
        client.client,
        plan,
        store_every=StoreEvery(),
        on_gap=lambda gap: None,
        max_open=1,
        max_open_bytes=1,
        check=lambda: None,
    )
    async with blocks:
        assert {made.told["single_active"].super_stream for made in client.subscriptions.values()} == {"all"}
        assert list(client.subscriptions) == ["a", "b"]
