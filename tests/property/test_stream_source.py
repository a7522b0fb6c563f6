"""The source of streams against a model: chunks, acknowledgements in any order, stores, and turns at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rstream_core import ConnectionClosed, ConsumerOffsetSpecification, OffsetType
from rstream_core.flow import stream_source
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.read_plan import ReadPlan
from rstream_core.flow.stores import StoreEvery
from rstream_core.flow.stream_source import StreamSource
from tests.unit.fake_streams import FakeClient, FakeStream, FakeSubscription, Told

MOST_AT_ONCE = 6
"""So that chunks are handed out in parts."""
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)
ENDLESS = 10**6


class _Handed:
    """What was handed out in one turn of a stream."""

    def __init__(self, stream: str, acks: Acks) -> None:
        self.stream = stream
        self.acks = acks
        self.all: list[int] = []
        self.open: set[int] = set()


class Reading(RuleBasedStateMachine):
    """``StreamSource`` over subscriptions that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.before = stream_source.MOST_AT_ONCE
        stream_source.MOST_AT_ONCE = MOST_AT_ONCE
        self.is_begun = False

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(coroutine, 10))

    @initialize(takes_turns=st.booleans(), streams=st.integers(1, 3), every=st.none() | st.integers(1, 9))
    def begin(self, takes_turns: bool, streams: int, every: int | None) -> None:
        names = tuple("abc"[:streams])
        self.takes_turns = takes_turns
        self.client = FakeClient(**{name: FakeStream(last=ENDLESS) for name in names})
        self.account, self.told = Account(), Told()
        self.next = dict.fromkeys(names, 0)
        self.handed: list[_Handed] = []
        self.current: dict[str, _Handed] = {}
        """What was handed out of each stream in its present turn."""
        self.stores_seen = 0

        async def open_source() -> None:
            plan = ReadPlan(names, FIRST, name="reader", single_active=takes_turns)
            self.source = StreamSource(
                self.client.client,
                plan,
                self.account,
                self.told,
                store_every=StoreEvery(every),
                on_gap=self.told.gap,
                now_ms=lambda: 0,
            )
            await self.source.open()
            self.source.start(lambda: None)
            for subscription in self.client.subscriptions.values():
                if takes_turns:
                    await subscription.turn(True)

        self.run(open_source())
        self.is_begun = True

    def _subscription(self, data: st.DataObject) -> FakeSubscription:
        return self.client.subscriptions[data.draw(st.sampled_from(sorted(self.next)))]

    @rule(data=st.data(), gap=st.integers(0, 3), count=st.integers(1, 20), polls=st.integers(0, 5))
    def arrive(self, data: st.DataObject, gap: int, count: int, polls: int) -> None:
        subscription = self._subscription(data)
        if subscription.active:
            begin = self.next[subscription.stream] + gap
            subscription.arrive(begin, count)
            self.next[subscription.stream] = begin + count
        for _ in range(polls):  # here, too: an example may leave whole rules out
            self.poll()

    @rule()
    def poll(self) -> None:
        block = self.source.poll()
        if block is None:
            return
        assert self.client.subscriptions[block.stream].active
        handed = next((one for one in self.handed if one.acks is block.ack), None)
        if handed is None:
            handed = _Handed(block.stream, block.ack)
            self.handed.append(handed)
            self.current[block.stream] = handed
        assert not handed.all or block.positions[0] > handed.all[-1]
        assert block.count <= MOST_AT_ONCE
        handed.all += block.positions
        handed.open.update(block.positions)

    @precondition(lambda self: any(handed.open for handed in self.handed))
    @rule(data=st.data(), verdict=st.sampled_from(list(Verdict)), count=st.integers(1, 30), is_in_order=st.booleans())
    def acknowledge(self, data: st.DataObject, verdict: Verdict, count: int, is_in_order: bool) -> None:
        handed = data.draw(st.sampled_from([one for one in self.handed if one.open]))
        wanted = sorted(handed.open)
        some = wanted[:count] if is_in_order else sorted(data.draw(st.sets(st.sampled_from(wanted), min_size=1)))
        assert handed.acks.done(some, verdict) == len(some)
        handed.open.difference_update(some)

    @rule(is_lost=st.booleans())
    def tick(self, is_lost: bool) -> None:
        self.client.store_error = ConnectionClosed("lost") if is_lost else None
        if self.source.due() is not None:
            self.run(self.source.tick())
        self.client.store_error = None

    @rule(data=st.data(), is_lost=st.booleans())
    def turn(self, data: st.DataObject, is_lost: bool) -> None:
        """A turn begins, or ends, in good order or with a lost connection."""
        subscription = self._subscription(data)
        if not self.takes_turns:
            return
        was_active, subscription.active = subscription.active, False  # before the listener is called
        subscription.is_turn_over, subscription.overdue = was_active, subscription.held
        subscription.chunks.clear()
        self.client.store_error = ConnectionClosed("lost") if is_lost else None
        self.run(subscription.turn(not was_active))
        self.client.store_error = None
        self.nothing_is_stored_before_it_is_done()
        if was_active:
            handed = self.current.pop(subscription.stream, None)
            if handed is not None and handed.open:  # the next turn must not begin behind them
                assert subscription.taken_back[-1] == self._low(handed)

    @staticmethod
    def _low(handed: _Handed) -> int | None:
        return max((one for one in handed.all if not handed.open or one < min(handed.open)), default=None)

    @invariant()
    def nothing_is_stored_before_it_is_done(self) -> None:
        if not self.is_begun:
            return
        for stream, _, offset, _ in self.client.stores[self.stores_seen :]:
            handed = self.current[stream]
            low = self._low(handed)
            assert low is not None
            assert offset <= low
        self.stores_seen = len(self.client.stores)

    @invariant()
    def the_account_is_exact(self) -> None:
        if self.is_begun:
            account = self.account
            assert account.read == sum(len(handed.all) for handed in self.handed)
            assert account.open == sum(len(handed.open) for handed in self.handed)
            assert account.read == sum(account.by.values()) + account.open + account.left

    def teardown(self) -> None:
        """At the end, all that is done without a hole is stored, and what is open is given back."""
        try:
            if self.is_begun:
                self.end()
        finally:
            stream_source.MOST_AT_ONCE = self.before
            self.loop.close()

    def end(self) -> None:
        self.source.stop()
        assert self.source.poll() is None
        self.run(self.source.settle())
        self.run(self.source.close())
        self.nothing_is_stored_before_it_is_done()
        for stream, subscription in self.client.subscriptions.items():
            handed = self.current.get(stream)
            low = None if handed is None else self._low(handed)
            if subscription.active and low is not None:
                assert [offset for name, _, offset, _ in self.client.stores if name == stream][-1] == low
            assert subscription.is_closed


TestReading = Reading.TestCase
