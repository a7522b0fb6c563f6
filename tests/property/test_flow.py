"""The flow against models: acknowledgements in any order; blocks, acknowledgements and stops at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rstream_core.errors import ConnectionClosed
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.gate import CATCH_UP, Admission, Rate
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Count, Stage, Step, Stop

VERDICTS = st.sampled_from(list(Verdict))


@pytest.fixture(autouse=True, scope="module")
def join_early() -> Iterator[None]:
    """An example has few spans; they are joined all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rstream_core.flow.acks.JOIN_FROM", 2)
        yield


class Acknowledging(RuleBasedStateMachine):
    """``Acks`` against a set of open positions."""

    @initialize()
    def begin(self) -> None:
        self.account = Account()
        self.acks = Acks(self.account, "s")
        self.next = 0
        self.open: set[int] = set()
        self.handed_out: list[int] = []
        self.by = dict.fromkeys(Verdict, 0)
        self.left = 0
        self.low: int | None = None

    @rule(gap=st.integers(0, 5), count=st.integers(0, 12))
    def hand_out(self, gap: int, count: int) -> None:
        begin = self.next + gap
        self.acks.hand_out(begin, count)
        self.open.update(range(begin, begin + count))
        self.handed_out += range(begin, begin + count)
        self.next = begin + count

    @rule(places=st.sets(st.integers(0, 30), max_size=12))
    def hand_out_some(self, places: set[int]) -> None:
        positions = [self.next + place for place in sorted(places)]
        self.acks.hand_out_some(positions)
        self.open.update(positions)
        if positions:  # nobody waits for what lies in a hole
            self.handed_out += range(positions[0], positions[-1] + 1)
            self.next = positions[-1] + 1

    def _done(self, positions: Sequence[int], verdict: Verdict) -> None:
        fresh = self.open.intersection(positions)
        assert self.acks.done(positions, verdict) == len(fresh)
        self.by[verdict] += len(fresh)
        self.open -= fresh

    @rule(begin=st.integers(0, 100), count=st.integers(0, 40), verdict=VERDICTS)
    def range_is_done(self, begin: int, count: int, verdict: Verdict) -> None:
        self._done(range(begin, begin + count), verdict)

    @precondition(lambda self: self.open)
    @rule(count=st.integers(1, 12), verdict=VERDICTS)
    def first_are_done(self, count: int, verdict: Verdict) -> None:
        self._done(sorted(self.open)[:count], verdict)

    @precondition(lambda self: self.handed_out)
    @rule(data=st.data(), verdict=VERDICTS)
    def some_are_done(self, data: st.DataObject, verdict: Verdict) -> None:
        self._done(sorted(data.draw(st.sets(st.sampled_from(self.handed_out), max_size=15))), verdict)

    @rule()
    def give_back(self) -> None:
        self.low = self._low()
        assert self.acks.give_back() == len(self.open)
        self.left += len(self.open)
        self.open.clear()
        self.handed_out.clear()

    @rule(by=st.integers(0, 9))
    def skip(self, by: int) -> None:
        position = self.next + by
        self.acks.skip_to(position)
        if not self.open:
            self.low = max(position, -1 if self.low is None else self.low)
            self.handed_out.clear()
        self.next = position + 1

    def _low(self) -> int | None:
        done = [position for position in self.handed_out if not self.open or position < min(self.open)]
        return done[-1] if done else self.low

    @invariant()
    def figures_agree(self) -> None:
        assert self.acks.open == self.account.open == len(self.open)
        assert self.account.by == self.by
        assert self.account.left == self.left
        assert self.account.read == sum(self.by.values()) + len(self.open) + self.left
        assert self.acks.settled == sum(self.by.values())
        assert self.acks.low == self._low()


TestAcknowledging = Acknowledging.TestCase


class _Source:
    """Hands out what the test offers; its positions are those of one stream."""

    def __init__(self, account: Account) -> None:
        self.acks = Acks(account, "s")
        self.end: Stop | None = None
        self.waiting: list[Block] = []
        self.next = 0
        self.due_at: float | None = None
        self.is_stopped = False
        self.error: ConnectionClosed | None = None
        self.ticks = 0
        self.hold: asyncio.Event | None = None

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def poll(self) -> Block | None:
        if self.error is not None:
            raise self.error
        if not self.waiting:
            if self.is_stopped:
                self.end = self.end or Stop("stopped")
            return None
        block = self.waiting.pop(0)
        self.acks.hand_out(block.positions[0], block.count)
        return block

    def due(self) -> float | None:
        return self.due_at

    async def tick(self) -> None:
        self.due_at = None
        if self.hold is not None:
            await self.hold.wait()
        self.ticks += 1

    def stop(self) -> None:
        self.is_stopped = True


class _Sink:
    """Keeps what it takes until the test acknowledges it."""

    def __init__(self) -> None:
        self.failed: Stop | None = None
        self.taken: list[int] = []
        self.open: set[int] = set()
        self.pushing: asyncio.Event | None = None
        self.is_less = asyncio.Event()
        self.acks: Acks
        self.wake: Callable[[], None]

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def push(self, block: Block) -> Awaitable[None] | None:
        if self.pushing is None:
            self._take(block)
            return None
        return self._push(block, self.pushing)

    async def _push(self, block: Block, ready: asyncio.Event) -> None:
        await ready.wait()
        self._take(block)

    def _take(self, block: Block) -> None:
        self.acks = block.ack
        self.taken += block.positions
        self.open.update(block.positions)

    def due(self) -> float | None:
        return None

    def tick(self) -> Awaitable[None] | None:
        raise AssertionError("nothing was due")

    async def drain(self) -> None:
        while self.open:
            self.is_less = asyncio.Event()
            await self.is_less.wait()


def _thirds(block: Block) -> Step:
    """Drops each third position."""
    kept = [place for place, position in enumerate(block.positions) if position % 3]
    dropped = [position for position in block.positions if position % 3 == 0]
    return Step(block.select(kept) if kept else None, ((dropped, Verdict.PASSED),) if dropped else ())


class _Slow:
    """Admits at most three messages at once, and never waits for a clock."""

    def admit(self, block: Block, now: float) -> Admission:
        if block.count <= 3:
            return Admission(block, None, now)
        part, rest = block.split(3)
        return Admission(part, rest, now)


class Driving(RuleBasedStateMachine):
    """``Run`` between a source and a sink that a test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    @initialize(most=st.none() | st.integers(1, 60), is_gated=st.booleans())
    def begin(self, most: int | None, is_gated: bool) -> None:
        self.account = Account()
        self.source, self.sink = _Source(self.account), _Sink()
        self.most = most
        self.offered = 0
        self.first_reason: str | None = None
        self.is_over = False

        async def start() -> None:
            count = None if most is None else Count(most, "count")
            stages: list[Stage] = [_thirds] if count is None else [_thirds, count]
            ends = () if count is None else (count.end,)
            gate = _Slow() if is_gated else None
            self.run = Run(self.source, stages, self.sink, self.account, gate=gate, ends=ends)
            self.task = asyncio.create_task(self.run.work())

        self.loop.run_until_complete(start())
        self.spin()

    def spin(self, first: Callable[[], None] | None = None) -> None:
        """Calls a function on the loop, and lets everybody have a few turns."""

        async def turns() -> None:
            if first is not None:
                first()
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(count=st.integers(1, 20))
    def offer(self, count: int) -> None:
        if self.source.is_stopped:
            return
        begin = self.source.next
        self.source.next += count
        positions = range(begin, begin + count)
        self.source.waiting.append(Block(self.source.acks, positions, [b"m%d" % place for place in positions], "s"))
        self.source.wake()
        self.spin()

    @precondition(lambda self: self.sink.open)
    @rule(data=st.data(), verdict=VERDICTS)
    def acknowledge(self, data: st.DataObject, verdict: Verdict) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.sink.open)), min_size=1))
        self.sink.open -= some
        self.sink.is_less.set()
        self.source.acks.done(sorted(some), verdict)
        self.spin()

    @rule()
    def hold_up(self) -> None:
        if self.sink.pushing is None:
            self.sink.pushing = asyncio.Event()

    @rule()
    def let_go(self) -> None:
        if self.sink.pushing is not None:
            self.sink.pushing.set()
            self.sink.pushing = None
            self.spin()

    @rule(is_held=st.booleans())
    def something_is_due(self, is_held: bool) -> None:
        self.source.hold = asyncio.Event() if is_held else None
        self.source.due_at = 0.0
        self.source.wake()
        self.spin()

    @rule()
    def tick_ends(self) -> None:
        if self.source.hold is not None:
            self.source.hold.set()
            self.spin()

    @rule(drain=st.none() | st.just(0.0))
    def stop(self, drain: float | None) -> None:
        if not self.task.done():
            self.spin(lambda: self.run.stop(Stop("stopped by the test", "signal"), drain))

    @rule()
    def sink_fails(self) -> None:
        self.sink.failed = Stop("closed", "sink closed")
        self.spin(self.sink.wake)

    @rule()
    def source_fails(self) -> None:
        self.source.error = ConnectionClosed("lost")
        self.source.wake()
        self.spin()

    @rule()
    def source_ends(self) -> None:
        self.source.end = Stop("end of input")
        self.source.is_stopped = True
        self.source.wake()
        self.spin()

    @invariant()
    def the_account_is_exact(self) -> None:
        account = self.account
        assert account.read == sum(account.by.values()) + self.source.acks.open + account.left
        assert account.open == self.source.acks.open >= len(self.sink.open)

    @invariant()
    def nothing_is_passed_over(self) -> None:
        """The low-water mark lies before all that is open."""
        low = self.source.acks.low
        if self.sink.open and low is not None:
            assert low < min(self.sink.open)

    @invariant()
    def order_is_kept_and_nothing_is_doubled(self) -> None:
        taken = self.sink.taken
        wanted = [position for position in range(self.source.next) if position % 3]
        assert taken == wanted[: len(taken)]
        if self.most is not None:
            assert len(taken) <= self.most

    @invariant()
    def an_end_is_told_once(self) -> None:
        if self.task.done() and not self.is_over:
            self.is_over = True
            why = self.task.result()
            self.at_the_end(why)

    def at_the_end(self, why: Stop) -> None:
        if self.run.is_drained:
            assert not self.sink.open
        if why.kind == "count":
            assert self.most is not None
            assert len(self.sink.taken) == self.most
        if why.reason == "end of input" and self.run.is_drained:
            assert len(self.sink.taken) == sum(1 for position in range(self.source.next) if position % 3)
            assert self.account.left == 0

    def teardown(self) -> None:
        """Ends in time, whatever was done before, and what is left is given back."""
        if hasattr(self, "task"):
            self.spin(lambda: self.run.stop(Stop("end of the test", "signal"), 0.0))
            self.loop.run_until_complete(asyncio.wait_for(self.task, 10))
            assert self.source.is_stopped
            open_ = self.source.acks.open
            assert self.source.acks.give_back() == open_
            assert self.account.read == sum(self.account.by.values()) + self.account.left
        self.loop.close()


TestDriving = Driving.TestCase


class Pacing(RuleBasedStateMachine):
    """A rate: never more than it allows, but for what it may catch up."""

    @initialize(rate=st.floats(1, 100_000))
    def begin(self, rate: float) -> None:
        self.rate = rate
        self.gate = Rate(rate)
        self.now = self.began = 1000.0
        self.admitted = 0
        self.waiting: Block | None = None
        self.acks = Acks(Account())

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 200))
    def offer(self, count: int) -> None:
        block = self.waiting or Block(self.acks, range(count), [b""] * count)
        now, self.waiting, due = self.gate.admit(block, self.now)
        if now is not None:
            self.admitted += now.count
            assert now.count <= max(self.rate / 50, 1)
        else:
            assert due > self.now
            assert self.waiting is block

    @invariant()
    def it_keeps_to_the_rate(self) -> None:
        slack = max(self.rate / 50, 1)
        assert self.admitted <= (self.now - self.began + CATCH_UP) * self.rate + slack + 1e-6 * self.rate


TestPacing = Pacing.TestCase
