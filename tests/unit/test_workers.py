"""The pool of workers: what is worked on at the same time and in which order, how it ends, and what is stored then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from rstream_core import (
    Blocks,
    ConfigurationError,
    ConsumerOffsetSpecification,
    MessageBlock,
    StreamDoesNotExist,
    work,
)
from rstream_core.flow.blocks import blocks_of, plan_of
from rstream_core.flow.stores import StoreEvery
from tests.clients import PATIENCE, eventually
from tests.unit.fake_streams import USUAL, FakeClient, FakeStream, FakeSubscription


class Pool:
    """What is worked on; each block waits until the test lets it go on."""

    def __init__(self, *streams: str, blocks: int = 10, to_end: bool = True, single_active: bool = False) -> None:
        """Each stream has so many blocks of ten messages: 0 to 9, and so on."""
        streams = streams or ("s",)
        self.client = FakeClient(**{stream: FakeStream(last=10 * blocks - 1) for stream in streams})
        self._most = blocks
        self.client.deliver = self.deliver
        chosen = {"to_end": to_end, "name": "n", "single_active": single_active}
        self.plan = plan_of(streams, None, ConsumerOffsetSpecification(), **{**USUAL, **chosen})
        self.open: dict[tuple[str, int], asyncio.Future[None]] = {}
        self.begun: list[tuple[str, int]] = []
        self.cancelled: list[int] = []

    def deliver(self, made: FakeSubscription) -> None:
        if made.active:
            for number in range(self._most):
                made.arrive(10 * number, 10)

    def blocks(self, most: int = 1000) -> Blocks:
        return blocks_of(
            self.client.client,
            self.plan,
            store_every=StoreEvery(),
            on_gap=lambda gap: None,
            max_open=most,
            max_open_bytes=1000,
            check=lambda: None,
        )

    async def handle(self, block: MessageBlock) -> None:
        key = (block.stream, block.offsets[0])
        self.begun.append(key)
        self.open[key] = asyncio.get_running_loop().create_future()
        try:
            await self.open[key]
        except asyncio.CancelledError:
            self.cancelled.append(block.offsets[0])
            raise
        finally:
            del self.open[key]

    async def has_open(self, *offsets: int) -> None:
        await eventually(lambda: sorted(offset for _, offset in self.open) == list(offsets))
        for _ in range(20):
            await asyncio.sleep(0)
        assert sorted(offset for _, offset in self.open) == list(offsets)

    def succeed(self, offset: int, stream: str = "s") -> None:
        self.open[stream, offset].set_result(None)

    def fail(self, offset: int, error: BaseException) -> None:
        self.open["s", offset].set_exception(error)

    @property
    def stored(self) -> list[int]:
        return [offset for _, _, offset, _ in self.client.stores]


async def ended(task: asyncio.Task[Any]) -> Any:
    return await asyncio.wait_for(asyncio.shield(task), PATIENCE)


async def test_blocks_are_worked_on_side_by_side_in_any_order() -> None:
    pool = Pool(blocks=5)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=3))
    await pool.has_open(0, 10, 20)
    pool.succeed(10)
    await pool.has_open(0, 20, 30)
    pool.succeed(30)
    pool.succeed(20)
    await pool.has_open(0, 40)
    pool.succeed(40)
    pool.succeed(0)
    assert await ended(task) == 50
    assert pool.stored == [49]


async def test_a_plain_function_and_one_that_acknowledges_itself() -> None:
    pool = Pool(blocks=3)
    found: list[bytes] = []
    assert await work(pool.blocks(), lambda block: found.extend(block.messages), workers=2) == 30
    assert sorted(found, key=int) == [b"%d" % number for number in range(30)]

    async def handle(block: MessageBlock) -> None:
        for offset in block.offsets:
            if offset == 25:
                raise ZeroDivisionError
            await block.ack(offset)

    pool = Pool(blocks=3)
    with pytest.raises(ZeroDivisionError):
        await work(pool.blocks(), handle, workers=1)
    assert pool.stored == [24]


async def test_blocks_of_a_stream_in_their_order() -> None:
    pool = Pool("a", "b", "c", blocks=2)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=2, ordered_by="stream"))
    await eventually(lambda: len(pool.open) == 2)
    assert sorted(pool.open) == [("a", 0), ("b", 0)]  # a third stream shares a task
    while not task.done():
        streams = [stream for stream, _ in pool.open]
        assert len(set(streams)) == len(streams)
        for future in pool.open.values():
            if not future.done():
                future.set_result(None)
        await asyncio.sleep(0)
    assert await task == 60
    for stream in "abc":
        assert [offset for name, offset in pool.begun if name == stream] == [0, 10]


async def test_messages_of_a_key_in_their_order_and_others_at_the_same_time() -> None:
    pool = Pool(blocks=4)
    found: dict[int, list[int]] = {}
    running = 0
    most = 0

    async def handle(block: MessageBlock) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        assert [b"%d" % offset for offset in block.offsets] == list(block.messages)
        keys = {offset % 5 for offset in block.offsets}
        for offset in block.offsets:
            found.setdefault(offset % 5, []).append(offset)
        assert len({key % 3 for key in keys}) == 1  # those of one task
        running -= 1

    assert await work(pool.blocks(), handle, workers=3, ordered_by=lambda message: int(message) % 5) == 40
    assert found == {key: list(range(key, 40, 5)) for key in range(5)}
    assert most == 3
    assert pool.stored == [39]


async def test_a_part_that_fails_holds_the_stored_offset() -> None:
    async def handle(block: MessageBlock) -> None:
        if 13 in block.offsets:
            await asyncio.sleep(0.01)  # the other part is done by then
            with pytest.raises(ConfigurationError, match="offset 12 is not of this block"):
                await block.ack(12)
            raise ZeroDivisionError

    pool = Pool(blocks=3)
    with pytest.raises(ZeroDivisionError):
        await work(pool.blocks(), handle, workers=2, ordered_by=lambda message: int(message) % 2)
    assert pool.stored == [10]  # 11 is in the part that failed


async def test_what_waits_in_lanes_is_bounded() -> None:
    pool = Pool(blocks=40)
    task = asyncio.create_task(work(pool.blocks(most=30), pool.handle, workers=2, ordered_by=lambda message: 0))
    await pool.has_open(0)
    (subscription,) = pool.client.subscriptions.values()
    assert len(subscription.chunks) == 37
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.parametrize("ordered_by", [None, "stream", lambda message: int(message) // 10])
async def test_an_error_ends_the_pool_and_others_finish(ordered_by: Any) -> None:
    pool = Pool("s", blocks=20)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=3, ordered_by=ordered_by))
    await eventually(lambda: len(pool.open) == (1 if ordered_by == "stream" else 3))
    if ordered_by == "stream":
        pool.succeed(0)
        await pool.has_open(10)
        pool.fail(10, ZeroDivisionError())
    else:
        pool.fail(10, ZeroDivisionError())
        for _ in range(20):
            await asyncio.sleep(0)
        assert (task.done(), sorted(pool.open)) == (False, [("s", 0), ("s", 20)])
        pool.succeed(0)
        pool.succeed(20)
    with pytest.raises(ZeroDivisionError):
        await ended(task)
    assert len(pool.begun) == (2 if ordered_by == "stream" else 3)  # none was begun after it
    assert (pool.stored, pool.cancelled) == ([9], [])


async def test_others_that_take_too_long_are_cancelled() -> None:
    pool = Pool()
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=3, grace=0.01))
    await pool.has_open(0, 10, 20)
    pool.fail(20, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await ended(task)
    assert (sorted(pool.cancelled), pool.stored) == ([0, 10], [])


async def test_a_second_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool()
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=2))
    await pool.has_open(0, 10)
    pool.fail(0, ZeroDivisionError())
    await asyncio.sleep(0)
    pool.fail(10, KeyError("second"))
    with pytest.raises(ZeroDivisionError), caplog.at_level(logging.ERROR, "rstream_core"):
        await ended(task)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_a_cancellation_in_a_handler_is_no_end_in_silence() -> None:
    """Other tasks work on, or wait for blocks, and would do so without end."""
    pool = Pool(to_end=False)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=2, grace=0.01))
    await pool.has_open(0, 10)
    pool.open["s", 0].cancel()
    with pytest.raises(RuntimeError, match=r"cancelled by what it waited for, at <MessageBlock .* offsets 0 to 9>"):
        await ended(task)
    assert pool.stored == []


@pytest.mark.parametrize("ordered_by", [None, "stream"])
async def test_a_cancelled_pool_cancels_its_tasks_and_stores(ordered_by: Any) -> None:
    pool = Pool(to_end=False)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=2, ordered_by=ordered_by))
    await eventually(lambda: bool(pool.open))
    pool.succeed(0)
    await eventually(lambda: ("s", 10) in pool.open and ("s", 0) not in pool.open)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(task)
    assert 10 in pool.cancelled
    assert pool.stored == [9]
    (subscription,) = pool.client.subscriptions.values()
    assert subscription.is_closed


@pytest.mark.parametrize("ordered_by", [None, "stream"])
async def test_what_ends_the_reading_ends_the_pool(ordered_by: Any) -> None:
    pool = Pool(blocks=1, to_end=False)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=2, ordered_by=ordered_by))
    await pool.has_open(0)
    (subscription,) = pool.client.subscriptions.values()
    subscription.error = StreamDoesNotExist("deleted")
    subscription.arrived.set()
    for _ in range(20):
        await asyncio.sleep(0)
    pool.succeed(0)
    with pytest.raises(StreamDoesNotExist):
        await ended(task)
    assert pool.stored == [9]


async def test_an_error_of_the_key_function_ends_the_pool() -> None:
    def key(message: bytes) -> int:
        return 1 // (int(message) - 15)

    pool = Pool()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(work(pool.blocks(), lambda block: None, workers=2, ordered_by=key), PATIENCE)


async def test_blocks_of_a_turn_that_is_over_are_left_out() -> None:
    pool = Pool(blocks=3, to_end=False, single_active=True)
    task = asyncio.create_task(work(pool.blocks(most=25), pool.handle, workers=1, ordered_by="stream"))
    await eventually(lambda: bool(pool.client.subscriptions))
    (subscription,) = pool.client.subscriptions.values()
    await subscription.turn(True)
    for number in range(3):
        subscription.arrive(10 * number, 10)
    await pool.has_open(0)
    await subscription.turn(False)
    await subscription.turn(True)
    for number in range(5):
        subscription.arrive(10 * number, 10)
    pool.succeed(0)  # of the turn that is over
    await eventually(lambda: len(pool.begun) == 2)
    assert pool.begun == [("s", 0), ("s", 0)]
    pool.succeed(0)
    for offset in (10, 20, 30, 40):  # the room of those that were left out is free again
        await pool.has_open(offset)
        pool.succeed(offset)
    await eventually(lambda: not pool.open)
    task.cancel()
    await asyncio.wait((task,))
    assert pool.stored == [49]


async def test_what_is_left_out_while_a_turn_ends_is_not_stored() -> None:
    """The broker has said that the turn ends, and the offset is stored after that."""
    pool = Pool(blocks=3, to_end=False, single_active=True)
    task = asyncio.create_task(work(pool.blocks(), pool.handle, workers=1, ordered_by="stream"))
    await eventually(lambda: bool(pool.client.subscriptions))
    (subscription,) = pool.client.subscriptions.values()
    await subscription.turn(True)
    for number in range(3):
        subscription.arrive(10 * number, 10)
    await pool.has_open(0)
    subscription.active = False
    pool.succeed(0)
    await pool.has_open()
    await subscription.turn(False)
    assert pool.stored == [9]
    task.cancel()
    await asyncio.wait((task,))
    assert (pool.stored, pool.begun) == ([9], [("s", 0)])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"workers": 0}, ConfigurationError),
        ({"workers": "2"}, TypeError),
        ({"ordered_by": "key"}, ConfigurationError),
        ({"grace": -1}, ConfigurationError),
        ({"handle": None}, TypeError),
    ],
)
async def test_arguments_that_cannot_be(arguments: dict[str, Any], error: type[Exception]) -> None:
    handle: Callable[[MessageBlock], Any] = arguments.pop("handle", print)
    with pytest.raises(error):
        await work(Pool().blocks(), handle, **arguments)
