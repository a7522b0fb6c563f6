"""Blocks against a model: chunks, acknowledgements in any order, turns and stores at any moment; nothing is skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rstream_core import ConnectionClosed, ConsumerOffsetSpecification, MessageBlock
from rstream_core.flow.blocks import blocks_of, plan_of
from rstream_core.flow.stores import StoreEvery
from tests.unit.fake_streams import USUAL, FakeClient, FakeStream, FakeSubscription

T = TypeVar("T")


class Reading(RuleBasedStateMachine):
    """One stream, read by a member of a group. Each turn begins behind what is stored, as a broker's does."""

    @initialize(every=st.integers(1, 12), most=st.integers(1, 60))
    def begin(self, every: int, most: int) -> None:
        self.runner = asyncio.Runner()
        self.client = FakeClient(s=FakeStream())
        plan = plan_of("s", None, ConsumerOffsetSpecification(), **{**USUAL, "name": "n", "single_active": True})
        self.blocks = blocks_of(
            self.client.client,
            plan,
            store_every=StoreEvery(messages=every),
            on_gap=lambda gap: None,
            max_open=most,
            max_open_bytes=10_000,
            check=lambda: None,
        )
        self.most = most
        self.following = 0
        """The next offset to arrive."""
        self.held: list[tuple[int, MessageBlock]] = []
        """What was taken and is not dropped, each with the number of its turn."""
        self.turn = 0
        self.taken = -1
        """The last offset that was taken in this turn."""
        self.acknowledged: set[int] = set()
        """In this turn, or stored before it."""
        self.is_closed = False
        self.run(self.blocks.__aenter__())
        (self.subscription,) = self.client.subscriptions.values()
        self.begin_turn()

    subscription: FakeSubscription

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it, and all that is to be done without waiting."""

        async def both() -> T:
            result = await asyncio.wait_for(coroutine, 60)
            for _ in range(30):
                await asyncio.sleep(0)
            return result

        return self.runner.run(both())

    @property
    def stored(self) -> int:
        return self.client.stores[-1][2] if self.client.stores else -1

    def begin_turn(self) -> None:
        self.subscription.chunks.clear()
        self.following, self.taken = self.stored + 1, self.stored
        self.acknowledged.intersection_update(range(self.stored + 1))  # the rest comes again
        self.turn += 1
        self.run(self.subscription.turn(True))

    @rule(count=st.integers(1, 15))
    def arrive(self, count: int) -> None:
        async def arrive() -> None:
            self.subscription.arrive(self.following, count)

        if self.subscription.active:
            self.run(arrive())
            self.following += count

    @precondition(lambda self: not self.is_closed)
    @rule()
    def take(self) -> None:
        async def take() -> MessageBlock | None:
            task = asyncio.ensure_future(anext(self.blocks))
            for _ in range(30):
                await asyncio.sleep(0)
            if task.done():
                return await task
            task.cancel()
            await asyncio.wait((task,))
            return None

        block = self.run(take())
        is_room_left = sum(len(held) for _, held in self.held if held.open) < self.most
        if block is None:
            assert self.taken == self.following - 1 or not is_room_left or not self.subscription.active
        else:
            assert self.subscription.active
            assert block.offsets[0] == self.taken + 1  # none is left out, and none comes twice in a turn
            self.taken = block.offsets[-1]
            self.held.append((self.turn, block))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        turn, block = data.draw(st.sampled_from(self.held))
        part = data.draw(st.none() | st.sampled_from(block.offsets) | st.lists(st.sampled_from(block.offsets)))
        if turn == self.turn and not self.is_closed:
            self.acknowledged.update(
                block.offsets if part is None else [part] if isinstance(part, int) else part  # as ``ack`` reads it
            )
        self.run(block.ack(part))

    @precondition(lambda self: not self.is_closed)
    @rule(is_failing=st.booleans())
    def another_turn(self, is_failing: bool) -> None:
        """This one ends, with or without a store that works, and another one begins."""
        self.client.store_error = ConnectionClosed("gone") if is_failing else None
        self.run(self.subscription.turn(False))
        self.client.store_error = None
        if not is_failing:
            assert self.stored == self.low()
        self.begin_turn()

    @precondition(lambda self: not self.is_closed)
    @rule()
    def close(self) -> None:
        self.run(self.blocks.aclose())
        self.is_closed = True
        assert self.stored == self.low()

    def low(self) -> int:
        """The offset up to which all is acknowledged, behind what is stored."""
        low = self.stored
        while low + 1 in self.acknowledged and low < self.taken:
            low += 1
        return low

    @invariant()
    def nothing_is_stored_that_is_not_done(self) -> None:
        if hasattr(self, "client"):
            offsets = [offset for _, _, offset, _ in self.client.stores]
            assert offsets == sorted(offsets)
            assert self.acknowledged.issuperset(range(self.stored + 1))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.blocks.aclose())
            self.nothing_is_stored_that_is_not_done()
            self.runner.close()


TestReading = Reading.TestCase
