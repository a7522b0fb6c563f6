"""Parts of the flow by themselves: blocks, stages, and how a run ends."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterable

import pytest

from rstream_core.errors import ChunkError, RequestTimeout
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.gate import Admission, Rate
from rstream_core.flow.run import Run, _Alarm
from rstream_core.flow.stages import Choice, Count, Select, Step, Stop
from rstream_core.timeslice import TIME_SLICE
from tests import inside


def block(count: int, begin: int = 0, acks: Acks | None = None) -> Block:
    acks = acks or Acks(Account(), "s")
    acks.hand_out(begin, count)
    positions = range(begin, begin + count)
    return Block(
        acks,
        positions,
        [b"%d" % position for position in positions],
        ids=[1000 + position for position in positions],
        filters=[f"f{position}" for position in positions],
        keys=[b"k%d" % position for position in positions],
        lanes=[position % 3 for position in positions],
    )


@pytest.mark.parametrize("places", [[0, 2, 5], range(1, 4), [], range(6)])
def test_a_selection_takes_all_columns_along(places: list[int] | range) -> None:
    chosen = block(6, 10).select(places)
    assert list(chosen.positions) == [10 + place for place in places]
    assert list(chosen.messages) == [b"%d" % (10 + place) for place in places]
    assert list(chosen.ids or ()) == [1010 + place for place in places]
    assert list(chosen.filters or ()) == [f"f{10 + place}" for place in places]
    assert list(chosen.keys or ()) == [b"k%d" % (10 + place) for place in places]
    assert list(chosen.lanes or ()) == [(10 + place) % 3 for place in places]


def test_a_split_takes_all_columns_along() -> None:
    first, second = block(5).split(2)
    assert (first.count, second.count) == (2, 3)
    assert [list(first.positions), list(second.positions)] == [[0, 1], [2, 3, 4]]
    assert second.ids == [1002, 1003, 1004]
    assert second.lanes == [2, 0, 1]


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 5]])
def test_what_was_split_is_joined_again(cuts: list[int]) -> None:
    whole = block(6, 10)
    parts, rest = [], whole
    for cut in cuts:
        part, rest = rest.split(cut - (rest.positions[0] - 10))
        parts.append(part)
    first, *others = [*parts, rest]
    again = first.join(others)
    assert (again.positions, list(again.ids or ())) == (range(10, 16), list(whole.ids or ()))
    assert (again.messages, again.filters, again.keys, again.lanes) == (
        whole.messages,
        whole.filters,
        whole.keys,
        whole.lanes,
    )


def test_a_join_keeps_holes_and_fills_up_filter_values() -> None:
    acks = Acks(Account())
    first = Block(acks, [1, 3], [b"a", b"b"])
    again = first.join([Block(acks, range(5, 6), [b"c"], filters=["f"])])
    assert (again.positions, again.messages, again.filters) == ([1, 3, 5], [b"a", b"b", b"c"], [None, None, "f"])
    assert (again.ids, again.keys, again.lanes) == (None, None, None)


def test_one_message_that_stays_open_keeps_nothing_behind_it_in_memory() -> None:
    acks = Acks(Account())
    acks.hand_out(0, 1)
    tracemalloc.start()
    try:
        for begin in range(1, 500_001, 50):
            acks.hand_out(begin, 50)
            acks.done(range(begin, begin + 50, 2))
            acks.done(range(begin + 1, begin + 50, 2))
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert memory < 50_000  # 10,000 spans would take 2 MB
    assert (acks.low, acks.open) == (None, 1)
    acks.done((0,))
    assert (acks.low, acks.open) == (500_000, 0)


def test_what_is_open_between_messages_that_are_done_stays_open() -> None:
    acks = Acks(Account())
    for begin in range(0, 600, 2):
        acks.hand_out(begin, 2)
        if begin % 6:
            acks.done((begin, begin + 1))
    assert acks.open == 200
    assert [acks.done((begin,)) for begin in range(0, 600, 2)] == [1, 0, 0] * 100
    assert (acks.low, acks.open) == (0, 100)
    assert acks.done(range(600)) == 100
    assert (acks.low, acks.open) == (599, 0)


def test_a_late_acknowledgement_counts_but_does_not_move_the_next_turn() -> None:
    account = Account()
    before, after = Acks(account, "s"), Acks(account, "s", low=4)
    before.hand_out(0, 5)
    after.hand_out(5, 5)
    before.done(range(5))
    assert after.low == 4
    after.done(range(5))
    assert after.low == 4
    assert account.by[Verdict.DONE] == 5
    assert account.open == 5


def test_what_was_given_back_is_not_counted_when_it_is_done_late() -> None:
    account = Account()
    acks = Acks(account, "s")
    acks.hand_out(0, 5)
    acks.done(range(2))
    assert acks.give_back() == 3
    assert acks.done(range(5)) == 0
    assert acks.low == 1
    assert (account.read, account.left, account.by[Verdict.DONE]) == (5, 3, 2)


class Chosen:
    """Wants the messages at these positions, and cannot read others."""

    def __init__(self, wanted: Iterable[int], unreadable: Iterable[int] = ()) -> None:
        self.wanted, self.unreadable = set(wanted), set(unreadable)

    def choose(self, block: Block) -> Choice:
        passing = self.wanted | self.unreadable
        return Choice(
            [place for place, position in enumerate(block.positions) if position in passing],
            [place for place, position in enumerate(block.positions) if position in self.unreadable],
        )


def test_a_selection_says_what_it_drops() -> None:
    step = Select(Chosen([1, 3]))(block(4))
    assert step.out is not None
    assert list(step.out.positions) == [1, 3]
    assert step.dropped == (([0, 2], Verdict.PASSED),)
    assert step.rest is None


def test_a_selection_of_nothing_drops_the_block_as_it_is() -> None:
    step = Select(Chosen(()))(block(4))
    assert step.out is None
    assert step.dropped == ((range(4), Verdict.PASSED),)


def test_what_nobody_can_read_stays_and_is_named_by_its_position() -> None:
    before = block(4, 10)
    step = Select(Chosen([12], [10, 13]))(before)
    assert step.out is not None
    assert list(step.out.positions) == [10, 12, 13]
    assert set(step.out.unreadable) == {10, 13}
    assert step.dropped == (([11], Verdict.PASSED),)
    assert before.unreadable == ()
    everything = Select(Chosen(range(10, 14), [11]))(before).out
    assert everything is not None
    assert (list(everything.positions), set(everything.unreadable)) == ([10, 11, 12, 13], {11})


@pytest.mark.parametrize("in_order", [True, False])
def test_what_one_cannot_read_and_another_does_not_want_is_left_out(in_order: bool) -> None:
    selects = [Select(Chosen([11, 12], [10, 13])), Select(Chosen([12, 13], [11, 14]))]
    left: Block | None = block(5, 10)
    dropped: list[int] = []
    for select in selects if in_order else reversed(selects):
        assert left is not None
        left, passed, _, _ = select(left)
        dropped += [position for positions, verdict in passed for position in positions if verdict is Verdict.PASSED]
    assert left is not None
    assert list(left.positions) == [11, 12, 13]
    assert {11, 13} <= set(left.unreadable)
    assert 12 not in left.unreadable
    assert sorted(dropped) == [10, 14]


def test_a_count_lets_as_many_more_through_as_turned_out_to_be_bad() -> None:
    bad = 0
    count = Count(5, "enough", lambda: bad)
    step = count(block(8))
    assert step.out is not None
    assert step.rest is not None
    assert (step.out.count, step.rest.count, step.stop) == (5, 3, None)
    bad = 2
    assert count.end() is None
    step = count(step.rest)
    assert step.out is not None
    assert step.rest is not None
    assert (step.out.count, step.rest.count) == (2, 1)
    assert count.end() == Stop("enough", "count")
    assert count(step.rest) == Step(None, (), step.rest, Stop("enough", "count"))


def test_a_rate_of_bytes_cuts_between_messages() -> None:
    gate = Rate(500, lambda messages: list(map(len, messages)))  # ten bytes a slice
    acks = Acks(Account())
    offered = Block(acks, range(4), [b"12345", b"12345", b"1", b"123456789012"])
    now, later, due = gate.admit(offered, 100.0)
    assert now is not None
    assert now.messages == [b"12345", b"12345"]
    assert due == pytest.approx(99.9 + 10 / 500)
    assert later is not None
    now, later, due = gate.admit(later, 100.0)
    assert now is not None
    assert now.messages == [b"1"]
    now, later, _ = gate.admit(later or offered, 100.0)
    assert now is not None
    assert (now.messages, later) == ([b"123456789012"], None)


class _Source:
    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.end: Stop | None = None
        self.is_stopped = False

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
        self.is_stopped = True


async def _for_ever() -> None:
    await asyncio.Event().wait()


class _Sink:
    def __init__(
        self, *, is_slow: bool = False, error: RequestTimeout | None = None, fails: Stop | None = None
    ) -> None:
        self.failed: Stop | None = None
        self.fails = fails
        self.is_slow = is_slow
        self.error = error

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def push(self, block: Block) -> Awaitable[None] | None:
        if self.error is not None:
            raise self.error
        if self.fails is not None:
            self.failed = self.fails
            return None
        if self.is_slow:
            return _for_ever()
        block.done()
        return None

    def due(self) -> float | None:
        return None

    def tick(self) -> Awaitable[None] | None:
        raise AssertionError("nothing was due")

    async def drain(self) -> None:
        pass


async def test_a_run_ends_with_its_source() -> None:
    account = Account()
    acks = Acks(account)
    source = _Source([block(3, 0, acks), block(4, 3, acks)])
    run = Run(source, (), _Sink(), account)
    assert await run.work() == Stop("end of input")
    assert run.is_drained
    assert acks.low == 6
    assert account.by[Verdict.DONE] == account.read == 7


async def test_a_run_that_is_stopped_before_it_begins_ends_within_its_limit() -> None:
    account = Account()
    acks = Acks(account)
    run = Run(_Source([block(3, 0, acks)]), (), _Sink(is_slow=True), account)
    run.stop(Stop("SIGINT", "signal"), 0.0)
    async with asyncio.timeout(60):
        assert await run.work() == Stop("SIGINT", "signal")
    assert not run.is_drained
    assert acks.open == 3


async def test_a_timeout_of_the_sinks_is_the_reason_and_not_an_end_of_the_limit() -> None:
    account = Account()
    error = RequestTimeout("no confirm")
    source = _Source([block(3, 0, Acks(account))])
    run = Run(source, (), _Sink(error=error), account)
    assert await run.work() == Stop("no confirm", "error", error)
    assert source.is_stopped


async def test_a_number_is_not_reached_by_what_the_sink_did_not_take() -> None:
    """``--count 1`` into a full disk has written nothing."""
    account, full, count = Account(), Stop("no space left", "sink failed"), Count(1, "enough")
    source = _Source([block(1, 0, Acks(account))])
    run = Run(source, (count,), _Sink(fails=full), account, ends=(count.end,))
    assert await run.work() == full
    assert account.open == 1


class _Gathering(_Sink):
    """Takes blocks, and fails where they are to be written."""

    def push(self, block: Block) -> Awaitable[None] | None:
        return None

    async def drain(self) -> None:
        self.failed = self.fails


async def test_a_number_is_not_reached_by_what_the_sink_could_not_write_at_the_end() -> None:
    account, closed, count = Account(), Stop("closed", "sink closed", BrokenPipeError()), Count(1, "enough")
    source = _Source([block(1, 0, Acks(account))])
    run = Run(source, (count,), _Gathering(fails=closed), account, ends=(count.end,))
    assert await run.work() == closed
    assert (account.open, run.is_drained) == (1, False)


class _Few:
    """A gate that admits two messages at a time."""

    def admit(self, block: Block, now: float) -> Admission:
        if block.count <= 2:
            return Admission(block, None, now)
        part, rest = block.split(2)
        return Admission(part, rest, now)


def _until_7(block: Block) -> Step:
    """Ends a run behind the position 6."""
    if 7 not in block.positions:
        return Step(block)
    out, rest = block.split(block.positions.index(7))
    return Step(out, (), rest, Stop("seven", "until"))


async def test_a_reader_that_leaves_when_all_is_written_changes_no_reason() -> None:
    """``consume -n 1 | head -n 1``."""

    class Left(_Gathering):
        def push(self, block: Block) -> Awaitable[None] | None:
            block.done()
            return None

    account, closed, count = Account(), Stop("closed", "sink closed", BrokenPipeError()), Count(1, "enough")
    source = _Source([block(1, 0, Acks(account))])
    run = Run(source, (count,), Left(fails=closed), account, ends=(count.end,))
    assert await run.work() == Stop("enough", "count")


class _Damaged(_Source):
    """Ends in an error."""

    def poll(self) -> Block | None:
        if not self.blocks:
            raise ChunkError("damaged")
        return super().poll()


class _Writing(_Sink):
    """Writes what it has gathered when it is drained."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered: list[Block] = []

    def push(self, block: Block) -> Awaitable[None] | None:
        self.gathered.append(block)
        return None

    async def drain(self) -> None:
        for one in self.gathered:
            one.done()


async def test_what_was_read_before_an_error_of_the_source_is_written() -> None:
    account = Account()
    run = Run(_Damaged([block(3, 0, Acks(account))]), (), _Writing(), account)
    stop = await run.work()
    assert (stop.kind, str(stop.error)) == ("error", "damaged")
    assert (account.open, account.by[Verdict.DONE]) == (0, 3)
    assert run.fed is None


async def test_what_stands_before_the_end_goes_through_the_gate_first() -> None:
    account = Account()
    acks = Acks(account)
    run = Run(_Source([block(4, 0, acks), block(6, 4, acks)]), (_until_7,), _Sink(), account, gate=_Few())
    assert await run.work() == Stop("seven", "until") == run.fed
    assert account.by[Verdict.DONE] == 7
    assert [list(one.positions) for one in run.behind] == [[7, 8, 9]]
    assert list(run.rest()) == []


async def test_a_reason_with_an_error_counts_more_than_a_signal() -> None:
    account = Account()
    bad = Stop("record 1 is bad", "bad message", ValueError())
    run = Run(_Source([block(3, 0, Acks(account))]), (lambda block: Step(None, (), block, bad),), _Sink(), account)
    run.stop(Stop("SIGINT", "signal"))
    assert await run.work() == bad == run.fed


async def test_the_rest_is_what_the_sink_has_not_got() -> None:
    """Held by the gate, and in the source: each as the stages let it through, in its order."""
    account = Account()
    acks = Acks(account)
    blocks = [block(3, 0, acks), block(3, 3, acks), block(4, 6, acks)]
    run = Run(_Source(blocks), (_until_7,), _Sink(error=RequestTimeout("no confirm")), account, gate=_Few())
    await run.work()
    assert run.fed is None
    assert [list(one.positions) for one in run.rest()] == [[2], [3, 4, 5], [6]]
    assert [list(one.positions) for one in run.behind] == [[7, 8, 9]]


async def test_what_is_being_prepared_belongs_to_the_rest() -> None:
    account = Account()
    offered = block(3, 0, Acks(account))
    run = Run(_Source([offered]), (), _Sink(), account, prepare=lambda _: _for_ever())
    run.stop(Stop("SIGINT", "signal"), 0.0)
    assert await asyncio.wait_for(run.work(), 60) == Stop("SIGINT", "signal")
    assert list(run.rest()) == [offered]


async def test_a_stage_sees_a_block_once_it_is_prepared() -> None:
    account = Account()
    acks = Acks(account)
    order: list[str] = []

    def prepare(block: Block) -> Awaitable[None] | None:
        order.append("begun")
        return asyncio.sleep(0) if block.positions[0] else None

    def stage(block: Block) -> Step:
        order.append("stage")
        return Step(block)

    source = _Source([block(1, 0, acks), block(1, 1, acks)])
    await Run(source, (stage,), _Sink(), account, prepare=prepare).work()
    assert order == ["begun", "stage"] * 2
    assert account.by[Verdict.DONE] == 2


async def test_a_cancelled_run_passes_it_on() -> None:
    account = Account()
    run = Run(_Source([block(3, 0, Acks(account))]), (), _Sink(is_slow=True), account)
    task = asyncio.create_task(run.work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class _Ticking(_Source):
    """Has something to do that takes for ever."""

    def __init__(self, blocks: list[Block], is_due: bool = True) -> None:
        super().__init__(blocks)
        self.is_due = is_due
        self.begun = asyncio.Event()

    def poll(self) -> Block | None:
        return self.blocks.pop(0) if self.blocks else None

    def due(self) -> float | None:
        return 0.0 if self.is_due else None

    async def tick(self) -> None:
        self.begun.set()
        await _for_ever()


class _Leaving(_Sink):
    """Says of itself that it takes nothing more."""

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def leave(self) -> Stop:
        self.failed = Stop("closed", "sink closed")
        self.wake()
        return self.failed


async def test_a_sink_that_takes_nothing_more_ends_what_the_source_waits_for() -> None:
    source, sink = _Ticking([]), _Leaving()
    run = asyncio.create_task(Run(source, (), sink, Account()).work())
    await source.begun.wait()
    why = sink.leave()
    assert await asyncio.wait_for(run, 60) == why


class _Finding(_Source):
    """Has something to do at once, by which the run ends. It stays due."""

    def poll(self) -> Block | None:
        return self.blocks.pop(0) if self.blocks and self.end is None else None

    def due(self) -> float | None:
        return 0.0

    async def tick(self) -> None:
        self.end = Stop("found", "idle")


async def test_what_is_due_may_find_the_end() -> None:
    run = Run(_Finding([]), (), _Sink(), Account())
    assert await asyncio.wait_for(run.work(), 60) == Stop("found", "idle")


async def test_what_is_due_is_done_while_blocks_go_on() -> None:
    """There is always another one, and none takes a time slice."""
    account = Account()
    acks = Acks(account)

    class Busy(_Sink):
        def push(self, block: Block) -> Awaitable[None] | None:
            source.is_due = True
            time.sleep(TIME_SLICE / 4)
            return super().push(block)

    class Due(_Finding):
        is_due = False

        def due(self) -> float | None:
            return 0.0 if self.is_due else None

    source = Due([block(1, number, acks) for number in range(100)])
    assert await Run(source, (), Busy(), account).work() == Stop("found", "idle")
    assert len(source.blocks) > 50


async def test_a_run_that_waits_is_woken_by_what_is_done() -> None:
    """No block is read while too much is open."""
    account = Account()
    acks = Acks(account)

    class Keeping(_Sink):
        def push(self, block: Block) -> Awaitable[None] | None:
            taken.append(block)
            return None

    taken: list[Block] = []
    run = Run(_Source([block(2, 0, acks), block(2, 2, acks)]), (), Keeping(), account, most_open=2)
    acks.done(range(4))
    working = asyncio.create_task(run.work())
    acks.hand_out(4, 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert taken == []
    acks.done(range(4, 6))
    assert await asyncio.wait_for(working, 60) == Stop("end of input")
    assert [one.positions for one in taken] == [range(2), range(2, 4)]


async def test_nothing_is_due_any_more_when_the_sink_takes_nothing() -> None:
    """A source must not store what was written for somebody who has left."""
    source, sink = _Ticking([], is_due=False), _Leaving()
    run = asyncio.create_task(Run(source, (), sink, Account()).work())
    await asyncio.sleep(0)
    source.is_due = True
    why = sink.leave()
    assert await asyncio.wait_for(run, 60) == why
    assert not source.begun.is_set()


class _Messages(list[bytes]):
    """Messages that a weak reference can follow."""


async def test_a_block_is_free_before_the_next_one_is_read() -> None:
    """Each may be as large as memory allows."""
    account = Account()
    acks = Acks(account)
    acks.hand_out(0, 1)
    first = _Messages([b"large"])
    seen, before = weakref.ref(first), []

    class Watching(_Source):
        def poll(self) -> Block | None:
            before.append(seen() is not None)
            return super().poll()

    source = Watching([Block(acks, range(1), first)])
    del first
    await Run(source, (), _Sink(), account).work()
    assert (before[0], set(before[1:])) == (True, {False})


async def test_the_event_loop_goes_on_between_blocks_that_are_always_there() -> None:
    """--timeout, signals and heartbeats do not wait for all of them. Nothing here ever waits."""
    account = Account()
    acks = Acks(account)

    class Busy(_Sink):
        def push(self, block: Block) -> Awaitable[None] | None:
            time.sleep(TIME_SLICE)
            return super().push(block)

    run = Run(_Source([block(1, number, acks) for number in range(20)]), (), Busy(), account)
    asyncio.get_running_loop().call_soon(run.stop, Stop("SIGINT", "signal"))
    assert (await run.work()).reason == "SIGINT"  # and not the end of the source


async def test_an_alarm_that_rings_early_is_set_again() -> None:
    """uvloop rounds times to milliseconds, and may be early by a part of one: then nothing is due yet."""
    loop, rung = asyncio.get_running_loop(), asyncio.Event()
    alarm = _Alarm(loop, rung.set)
    due = loop.time() + 0.05
    alarm.set(due)
    inside.ring(alarm)
    rung.clear()
    alarm.set(due)
    await asyncio.wait_for(rung.wait(), 10)
