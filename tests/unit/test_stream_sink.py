"""The sink that publishes, with publishers that the test confirms for, and a clock that it turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rstream_core import ConnectionClosed, FailedMessage, MessageTooLarge, NotConfirmed, Outcome, RstreamError
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Stop
from rstream_core.flow.stream_sink import GATHERED, Batching, StreamSink
from rstream_core.types import CompressionType


class Publisher:
    """Keeps what it gets; the test says what became of it."""

    def __init__(
        self, stream: str, listener: Callable[[Outcome], None], on_end: Callable[[RstreamError], None]
    ) -> None:
        self.stream = stream
        self.error: RstreamError | None = None
        self.published = self.in_flight = self.sent_again = 0
        self.calls: list[tuple[list[bytes], Sequence[int] | None, Sequence[str | None] | None]] = []
        """What each batch had."""
        self.compressions: list[CompressionType] = []
        self.largest_sub_entry = 1000
        self.open: list[tuple[object, range]] = []
        """The context and the places of each call that is not settled."""
        self.room = asyncio.Event()
        self.room.set()
        self.listener, self.on_end = listener, on_end
        self.is_empty = asyncio.Event()

    async def publish(
        self,
        messages: Sequence[bytes],
        *,
        publishing_ids: Sequence[int] | None = None,
        filter_values: Sequence[str | None] | None = None,
        context: object = None,
        place: int = 0,
        most: int | None = None,
    ) -> Sequence[int]:
        await self.check()
        for begin in range(0, len(messages), most or len(messages)):
            part = slice(begin, None if most is None else begin + most)
            await self.room.wait()
            ids = None if publishing_ids is None else publishing_ids[part]
            values = None if filter_values is None else filter_values[part]
            self.calls.append((list(messages[part]), ids, values))
            self._take(messages[part], context, place + begin)
        return ()

    async def publish_sub_entry(
        self,
        messages: Sequence[bytes],
        compression: CompressionType = CompressionType.No,
        *,
        publishing_id: int | None = None,
        context: object = None,
        place: int = 0,
    ) -> int:
        if len(messages) > self.largest_sub_entry:
            raise MessageTooLarge("too large")
        self.compressions.append(compression)
        self.calls.append((list(messages), None if publishing_id is None else [publishing_id], None))
        self._take(messages, context, place)
        return 1

    def _take(self, messages: Sequence[bytes], context: object, place: int) -> None:
        self.published += len(messages)
        self.in_flight += len(messages)
        self.open.append((context, range(place, place + len(messages))))
        self.is_empty.clear()

    def confirm(self) -> None:
        for context, places in self._settled():
            self.listener(Outcome(len(places), 0.25, (), (), context, places))

    def fail(self, reason: str, code: int, only: Sequence[int] | None = None) -> None:
        """Fails all that is in flight, or the places in ``only`` and confirms the others."""
        for context, places in self._settled():
            chosen = [place for place in places if only is None or place in only]
            others = [place for place in places if place not in chosen]
            if others:
                self.listener(Outcome(len(others), 0.25, (), (), context, others))
            if chosen:
                failed = [FailedMessage(place, b"", code, reason) for place in chosen]
                self.listener(Outcome(0, 0.25, failed, (), context, chosen))

    def _settled(self) -> list[tuple[object, range]]:
        settled, self.open = self.open, []
        self.in_flight = 0
        self.is_empty.set()
        return settled

    def end(self, error: RstreamError) -> None:
        self.error = error
        self.fail(str(error), 0)
        self.on_end(error)

    async def check(self) -> None:
        if self.error is not None:
            raise self.error

    async def flush(self, timeout: float | None = None) -> None:
        async with asyncio.timeout(timeout):
            while self.in_flight:
                await self.is_empty.wait()


class World:
    """A sink, its publishers, and a source's account."""

    def __init__(self, batching: Batching, *streams: str, **settings: Any) -> None:
        self.now = 100.0
        self.account = Account()
        self.acks = Acks(self.account)
        self.woken = 0
        self.next = 0
        self.streams = streams or ("s",)
        self.publishers: list[Publisher] = []
        self.sink = StreamSink(batching, clock=lambda: self.now, **settings)

    async def __aenter__(self) -> World:
        for stream in self.streams:

            async def make(listener: Any, on_end: Any, stream: str = stream) -> Publisher:
                return Publisher(stream, listener, on_end)

            self.publishers.append(await self.sink.open(make))
        self.sink.start(self.wake)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Each message is done with once, is in flight, or waits."""
        in_flight = sum(publisher.in_flight for publisher in self.publishers)
        waiting = sum(block.count for _, block in self.sink.take_waiting())
        assert self.account.open == in_flight + waiting
        assert self.sink.in_flight == in_flight
        assert self.sink.published == sum(publisher.published for publisher in self.publishers)

    def wake(self) -> None:
        self.woken += 1

    def block(self, count: int, **columns: Any) -> Block:
        positions = range(self.next, self.next + count)
        self.acks.hand_out(self.next, count)
        self.next += count
        return Block(self.acks, positions, [b"%d" % position for position in positions], **columns)

    async def push(self, count: int, **columns: Any) -> None:
        waiting = self.sink.push(self.block(count, **columns))
        if waiting is not None:
            await waiting

    def sizes(self, lane: int = 0) -> list[int]:
        return [len(messages) for messages, _, _ in self.publishers[lane].calls]

    def by(self, verdict: Verdict) -> int:
        return self.account.by[verdict]


async def test_messages_wait_until_there_is_a_batch() -> None:
    async with World(Batching(messages=5)) as world:
        await world.push(3)
        assert (world.sizes(), world.sink.due()) == ([], 100.02)
        await world.push(2)
        assert (world.sizes(), world.sink.due()) == ([5], None)
        await world.push(12)
        assert world.sizes() == [5, 5, 5, 2]
        assert [message for messages, _, _ in world.publishers[0].calls for message in messages] == [
            b"%d" % number for number in range(17)
        ]


async def test_a_message_waits_no_longer_than_the_linger_time() -> None:
    async with World(Batching(messages=5, linger=2.0)) as world:
        await world.push(1)
        world.now += 1
        await world.push(1)
        assert world.sink.due() == 102.0
        waiting = world.sink.tick()
        assert waiting is not None
        await waiting
        assert (world.sizes(), world.sink.due()) == ([2], None)


async def test_enough_bytes_do_not_wait() -> None:
    async with World(Batching(messages=5, enough=4)) as world:
        await world.push(3)
        assert world.sizes() == []
        await world.push(1)
        assert world.sizes() == [4]
    async with World(Batching()) as world:
        waiting = world.sink.push(Block(world.acks, range(1), [bytes(GATHERED)]))
        assert waiting is not None
        world.acks.hand_out(0, 1)
        await waiting


async def test_batches_have_their_bytes_too() -> None:
    async with World(Batching(messages=5, size=3)) as world:
        await world.push(7)
        assert world.sizes() == [3, 3, 1]


async def test_columns_go_along() -> None:
    async with World(Batching(messages=2)) as world:
        await world.push(1, ids=[7], filters=["a"])
        await world.push(2, ids=[8, 9], filters=[None, "b"])
        assert world.publishers[0].calls == [([b"0", b"1"], range(7, 9), ["a", None]), ([b"2"], range(9, 10), ["b"])]


async def test_each_lane_has_its_publisher() -> None:
    async with World(Batching(messages=4), "a", "b") as world:
        await world.push(3, lanes=[1, 0, 1])
        assert world.sizes(0) == world.sizes(1) == []
        await world.push(2, lanes=[1, 1])
        assert [messages for messages, _, _ in world.publishers[0].calls] == [[b"1"]]
        assert [messages for messages, _, _ in world.publishers[1].calls] == [[b"0", b"2", b"3", b"4"]]
        world.publishers[1].confirm()
        assert world.acks.low == 0
        world.publishers[0].confirm()
        assert world.acks.low == 4


async def test_outcomes_acknowledge_positions() -> None:
    """In any order, with holes, and across the batches that a block was cut into."""
    told: list[tuple[int, int, int]] = []
    world = World(
        Batching(messages=3),
        on_outcome=lambda lane, outcome: told.append((lane, outcome.confirmed, len(outcome.failed))),
    )
    async with world:
        await world.push(6)
        world.publishers[0].fail("no", 0, only=[1, 4])
        assert (world.by(Verdict.DONE), world.by(Verdict.FAILED), world.account.open) == (4, 2, 0)
        assert told == [(0, 2, 0), (0, 0, 1)] * 2


async def test_confirms_of_joined_blocks_reach_all_of_them() -> None:
    async with World(Batching(messages=6)) as world:
        for _ in range(3):
            await world.push(2)
        assert world.sizes() == [6]
        world.publishers[0].confirm()
        assert (world.by(Verdict.DONE), world.acks.low) == (6, 5)


async def test_blocks_of_different_sources_are_not_joined() -> None:
    async with World(Batching(messages=4)) as world:
        other = Acks(world.account)
        other.hand_out(70, 2)
        await world.push(2)
        waiting = world.sink.push(Block(other, range(70, 72), [b"x", b"y"]))
        assert waiting is not None
        await waiting
        assert world.sizes() == [2, 2]
        world.publishers[0].confirm()
        assert (world.acks.low, other.low) == (1, 71)


async def test_sub_entries() -> None:
    async with World(Batching(messages=4, sub_entries=CompressionType.Gzip)) as world:
        world.publishers[0].largest_sub_entry = 2
        await world.push(5)
        assert world.sizes() == [2, 2, 1]
        assert world.publishers[0].compressions == [CompressionType.Gzip] * 3
        world.publishers[0].confirm()
        assert world.acks.low == 4


async def test_a_message_that_no_sub_entry_holds_is_an_error() -> None:
    async with World(Batching(messages=1, sub_entries=CompressionType.No)) as world:
        world.publishers[0].largest_sub_entry = 0
        with pytest.raises(MessageTooLarge):
            await world.push(1)


async def test_each_batch_is_confirmed_before_the_next() -> None:
    async with World(Batching(messages=2, confirm_each=True)) as world:
        task = asyncio.create_task(world.push(3))
        await asyncio.sleep(0)
        assert world.sizes() == [2]
        world.publishers[0].confirm()
        for _ in range(3):
            await asyncio.sleep(0)
        assert world.sizes() == [2, 1]
        world.publishers[0].confirm()
        await task


async def test_what_a_cancelled_push_has_not_published_waits_still() -> None:
    async with World(Batching(messages=2), "a", "b") as world:
        world.publishers[1].room.clear()
        await world.push(1, lanes=[0])
        task = asyncio.create_task(world.push(5, lanes=[0, 0, 0, 1, 1]))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (world.sizes(0), world.sizes(1)) == ([2, 2], [])
        assert [(stream, list(block.positions)) for stream, block in world.sink.take_waiting()] == [("b", [4, 5])]
        assert world.acks.give_back() == 6
        world.publishers[0].in_flight = 0


async def test_a_batch_that_went_out_before_a_push_was_cancelled_does_not_wait() -> None:
    async with World(Batching(messages=2, confirm_each=True)) as world:
        task = asyncio.create_task(world.push(5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.sizes() == [2]
        assert [list(block.positions) for _, block in world.sink.take_waiting()] == [[2, 3, 4]]
        world.acks.done(range(2, 5), Verdict.FAILED)


async def test_a_publisher_that_ends_wakes_the_run_and_fails_the_drain() -> None:
    async with World(Batching(messages=2)) as world:
        await world.push(2)
        error = ConnectionClosed("lost")
        world.publishers[0].end(error)
        assert (world.sink.failed, world.woken) == (Stop("lost", "error", error), 1)
        assert world.by(Verdict.FAILED) == 2
        with pytest.raises(ConnectionClosed):
            await world.sink.drain()


async def test_a_publisher_that_has_ended_before_the_run_is_seen() -> None:
    world = World(Batching())

    async def make(listener: Any, on_end: Any) -> Publisher:
        publisher = Publisher("s", listener, on_end)
        publisher.error = ConnectionClosed("lost")
        return publisher

    await world.sink.open(make)
    world.sink.start(world.wake)
    assert world.sink.failed is not None
    assert world.woken == 1


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("code", [0, 15])
async def test_a_rejection_ends_a_run_that_must_not_go_on(stops: bool, code: int) -> None:
    async with World(Batching(messages=2), stops_at_rejected=stops) as world:
        await world.push(2)
        world.publishers[0].fail("the disk is full", code)
        assert (world.sink.failed is not None) is (stops and code > 0)
        if world.sink.failed is not None:
            assert isinstance(world.sink.failed.error, NotConfirmed)
            with pytest.raises(NotConfirmed, match="the disk is full"):
                await world.sink.drain()


async def test_a_drain_publishes_what_waits_and_waits_for_confirms() -> None:
    async with World(Batching(messages=9), "a", "b") as world:
        await world.push(3, lanes=[0, 1, 1])
        task = asyncio.create_task(world.sink.drain())
        for _ in range(5):  # a time slice may be over between the two
            await asyncio.sleep(0)
        assert (world.sizes(0), world.sizes(1)) == ([1], [2])
        world.publishers[1].confirm()
        await asyncio.sleep(0)
        assert not task.done()
        world.publishers[0].confirm()
        await task


async def test_the_others_finish_within_a_limit() -> None:
    async with World(Batching(messages=1), "a", "b") as world:
        await world.push(2, lanes=[0, 1])
        task = asyncio.create_task(world.sink.finish(0.05))
        await asyncio.sleep(0)
        world.publishers[0].confirm()
        await task
        assert world.publishers[1].in_flight == 1


async def test_what_is_held_is_not_published() -> None:
    async with World(Batching(messages=1)) as world:
        world.sink.hold(world.block(3))
        assert world.sizes() == []
        assert [(stream, block.count) for stream, block in world.sink.take_waiting()] == [("s", 3)]
        world.acks.give_back()


async def test_the_figures_are_those_of_all_publishers() -> None:
    async with World(Batching(messages=2), "s", "t") as world:
        await world.push(3, lanes=[0, 1, 0])
        assert (world.sink.published, world.sink.in_flight, world.sink.sent_again) == (3, 3, 0)
        world.publishers[0].confirm()
        world.publishers[1].sent_again = 5
        assert (world.sink.published, world.sink.in_flight, world.sink.sent_again) == (3, 1, 5)


class _Source:
    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.end: Stop | None = None

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def poll(self) -> Block | None:
        if not self.blocks:
            self.end = Stop("end of input")
            return None
        return self.blocks.pop(0)

    def due(self) -> float | None:
        return None

    async def tick(self) -> None:
        raise AssertionError("nothing was due")

    def stop(self) -> None:
        pass


async def test_a_run_into_it_keeps_its_account() -> None:
    """What is not published when a publisher ends is what waits, and what the run holds."""
    async with World(Batching(messages=2)) as world:
        source = _Source([world.block(2), world.block(3), world.block(4)])
        run = Run(source, (), world.sink, world.account)
        world.publishers[0].room.clear()
        task = asyncio.create_task(run.work())
        for _ in range(5):
            await asyncio.sleep(0)
        error = ConnectionClosed("lost")
        world.publishers[0].end(error)
        world.publishers[0].room.set()
        assert (await task).error is error
        assert run.fed is None
        for block in run.rest():
            world.sink.hold(block)
        unsent = sum(block.count for _, block in world.sink.take_waiting())
        assert world.account.read == world.account.by[Verdict.FAILED] + world.account.by[Verdict.DONE] + unsent + sum(
            len(places) for _, places in world.publishers[0].open
        )
        world.acks.give_back()
        world.publishers[0].in_flight = 0
