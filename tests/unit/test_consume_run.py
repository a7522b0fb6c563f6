"""How a run that consumes ends: what is stored then, what is counted, and its exit code."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from rstream_cli.consume_plan import ConsumePlan, start_at
from rstream_cli.consume_run import ConsumeRun
from rstream_cli.ended import Ended
from rstream_cli.environment import Environment
from rstream_cli.exit_status import ExitStatus
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.parsing import Start, StartKind, Until, UntilKind
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import BlockView, OnBad, Renderer
from rstream_cli.runner import CommandContext, Interrupt
from rstream_core import (
    Client,
    ConnectionClosed,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    OffsetType,
    RequestTimeout,
    RstreamError,
)
from rstream_core.flow.block import Block
from rstream_core.flow.read_plan import AfterStored, LastMessages
from rstream_core.flow.stages import Choice
from rstream_core.flow.stores import StoreEvery
from tests.unit.fake_streams import FakeClient, FakeStream, FakeSubscription


class HalfBad(Renderer):
    """Cannot show what begins with "bad"."""

    def __init__(self) -> None:
        super().__init__(lambda view: b"", lambda view, index: b"")

    def __call__(self, view: BlockView, on_bad: OnBad) -> bytes:
        for index, message in enumerate(view.messages):
            if message.startswith(b"bad"):
                on_bad(index, "is bad")
        return b"".join(message + b"\n" for message in view.messages if not message.startswith(b"bad"))


@dataclass(frozen=True)
class Context(CommandContext):
    """A command that is connected to a client of the test's."""

    fake: FakeClient | None = None

    def client(self, *told: object) -> Client:
        assert self.fake is not None
        return self.fake.client

    async def connect(self, client: Client) -> None:
        pass


class Consuming:
    """A run that reads one stream of ten messages, or what a test delivers."""

    def __init__(self, folder: Path, deliver: Callable[[FakeSubscription], None] | None = None, **plan: Any) -> None:
        self.client = FakeClient(s=FakeStream(last=9))
        self.client.deliver = deliver or (lambda subscription: subscription.arrive(0, 10))
        self.path = folder / "out"
        self.err = io.StringIO()
        self.stats = Stats("consume", "s", ConsumeCounts())
        self.interrupt: Interrupt
        self.plan = ConsumePlan("s", Start(StartKind.FIRST), HalfBad(), **plan)
        self.stdout: int | None = None
        """A descriptor in place of the file."""

    async def work(self) -> Ended:
        with self.path.open("w") as file:
            stdout = file if self.stdout is None else os.fdopen(self.stdout, "w", closefd=False)
            env = Environment(io.StringIO(), stdout, self.err, {})
            self.interrupt = Interrupt()
            context = Context(env, ConnectionSettings(env), ConnectionOptions(), self.interrupt, self.client)
            return await ConsumeRun(self.plan, context, self.stats, Display(StatsMode.NONE, self.stats, env)).work()

    @property
    def counts(self) -> ConsumeCounts:
        assert isinstance(self.stats.counts, ConsumeCounts)
        return self.stats.counts

    @property
    def written(self) -> bytes:
        return self.path.read_bytes().replace(b"\n", b"")


END = Until(UntilKind.END)


async def test_a_run_that_ends_well(tmp_path: Path) -> None:
    run = Consuming(tmp_path, until=END, name="reader", store_every=StoreEvery(messages=4))
    assert await run.work() == Ended("--until is reached")
    assert run.written == b"0123456789"
    assert run.client.stores == [("s", "reader", 9, False), ("s", "reader", 9, True)]
    counts = run.counts
    assert (counts.consumed, counts.chunks, counts.last_offset, counts.stored_offset) == (10, 1, 9, 9)
    assert (run.stats.total, run.stats.done, run.stats.bytes) == (10, 10, 20)
    assert (run.client.is_closed, run.client.subscriptions["s"].is_closed) == (True, True)


@pytest.mark.parametrize("idle_timeout", [None, 10.0])
async def test_a_subscription_that_ends_because_nobody_answers_ends_the_run(
    tmp_path: Path, idle_timeout: float | None
) -> None:
    """Its error is a TimeoutError too, and no time of the run's own is over."""

    def deliver(subscription: FakeSubscription) -> None:
        subscription.error = RequestTimeout("no answer")

    with pytest.raises(RequestTimeout, match="no answer"):
        await Consuming(tmp_path, deliver, idle_timeout=idle_timeout).work()


# What is stored at the end.


def fails(subscription: FakeSubscription) -> None:
    subscription.arrive(0, 10)
    subscription.error = ConnectionClosed("lost for good")


def turns_bad(subscription: FakeSubscription) -> None:
    subscription.arrive(0, 10)
    subscription.arrive_with(10, [b"bad"])


@pytest.mark.parametrize(
    ("deliver", "plan", "status"),
    [
        (None, {"until": END}, ExitStatus.OK),
        (None, {"count": 10}, ExitStatus.OK),
        (None, {"timeout": 0.2}, ExitStatus.TIMED_OUT),
        (turns_bad, {}, ExitStatus.BAD_RECORD),
        (fails, {}, None),
    ],
    ids=["until", "count", "out of time", "bad message", "lost"],
)
async def test_what_stdout_has_taken_is_stored_at_the_end_and_looked_at(
    tmp_path: Path, deliver: Callable[[FakeSubscription], None] | None, plan: dict[str, Any], status: ExitStatus | None
) -> None:
    run = Consuming(tmp_path, deliver, name="reader", **plan)
    try:
        assert (await run.work()).status is status
    except ConnectionClosed:
        assert status is None
    assert run.client.stores == [("s", "reader", 9, True)]


async def test_a_signal_ends_the_run_and_what_was_written_is_stored(tmp_path: Path) -> None:
    run = Consuming(tmp_path, name="reader")

    def deliver(subscription: FakeSubscription) -> None:
        subscription.arrive(0, 10)
        run.interrupt.requested.set()

    run.client.deliver = deliver
    ended = await run.work()
    assert ended == Ended("interrupted")
    assert run.client.stores in ([], [("s", "reader", 9, True)])  # it may have come before the block


async def test_nothing_is_stored_where_the_reader_of_stdout_has_left(tmp_path: Path) -> None:
    """What was in the pipe is read by nobody, and comes again."""
    reader, writer = os.pipe()
    run = Consuming(tmp_path, name="reader")
    run.stdout = writer

    class Leaving(HalfBad):
        def __call__(self, view: BlockView, on_bad: OnBad) -> bytes:
            if view.offsets[0] == 10:
                os.close(reader)
            else:  # the next chunk comes once this one is written
                asyncio.get_running_loop().call_soon(found[0].arrive, 10, 10)
            return super().__call__(view, on_bad)

    found: list[FakeSubscription] = []

    def deliver(subscription: FakeSubscription) -> None:
        found.append(subscription)
        subscription.arrive(0, 10)

    run.plan, run.client.deliver = replace(run.plan, render=Leaving()), deliver
    try:
        ended = await run.work()
    finally:
        os.close(writer)
    assert (ended.reason, ended.status) == ("stdout was closed", ExitStatus.STDOUT_CLOSED)
    assert isinstance(ended.error, BrokenPipeError)
    assert run.counts.consumed == 10
    assert run.client.stores == []


async def test_a_store_that_fails_at_the_end_is_an_error_and_hides_no_other(tmp_path: Path) -> None:
    run = Consuming(tmp_path, until=END, name="reader")
    run.client.store_error = RequestTimeout("it does not show")
    with pytest.raises(RequestTimeout, match="it does not show"):
        await run.work()
    run = Consuming(tmp_path, fails, name="reader")
    run.client.store_error = RequestTimeout("it does not show")
    with pytest.raises(RstreamError, match="lost for good"):
        await run.work()


# Messages that cannot be shown.


def deliver_mixed(*messages: bytes) -> Callable[[FakeSubscription], None]:
    return lambda subscription: subscription.arrive_with(10, list(messages))


async def test_what_is_skipped_does_not_count(tmp_path: Path) -> None:
    deliver = deliver_mixed(b"bad", b"1", b"bad", b"2", b"3", b"bad", b"4")
    run = Consuming(tmp_path, deliver, skip_bad=True, count=3, name="reader")
    assert await run.work() == Ended("--count is reached", ExitStatus.PARTLY_DONE)
    assert run.written == b"123"
    assert (run.counts.consumed, run.counts.bad, run.counts.last_offset) == (3, 2, 14)
    assert run.client.stores == [("s", "reader", 14, True)]  # where another run under this name goes on
    assert (run.stats.total, run.stats.done) == (3, 3)
    assert "the message at offset 12 of stream 's' is skipped: it is bad" in run.err.getvalue()


async def test_what_is_skipped_does_not_end_a_count_early(tmp_path: Path) -> None:
    run = Consuming(tmp_path, deliver_mixed(b"bad", b"1", b"bad"), skip_bad=True, count=2, name="reader", timeout=0.3)
    assert (await run.work()).status is ExitStatus.TIMED_OUT
    assert (run.written, run.counts.consumed, run.counts.bad) == (b"1", 1, 2)
    assert run.client.stores == [("s", "reader", 12, True)]


@pytest.mark.parametrize(
    ("messages", "plan", "status"),
    [
        ((b"1",), {"count": 1}, ExitStatus.OK),
        ((b"bad", b"1"), {"count": 1}, ExitStatus.PARTLY_DONE),
        ((b"bad", b"bad", b"1"), {"count": 1}, ExitStatus.PARTLY_DONE),
        ((b"bad",), {"timeout": 0.2}, ExitStatus.TIMED_OUT),
    ],
)
async def test_one_that_is_skipped_shows_in_the_exit_code(
    tmp_path: Path, messages: tuple[bytes, ...], plan: dict[str, Any], status: ExitStatus
) -> None:
    assert (await Consuming(tmp_path, deliver_mixed(*messages), skip_bad=True, **plan).work()).status is status


# What comes before the first message.


class Headed(HalfBad):
    def __init__(self) -> None:
        super().__init__()
        self.head = b"head:"


@pytest.mark.parametrize(
    ("plan", "last", "written"),
    [({"until": END}, 9, b"head:0123456789"), ({"until": END}, None, b"head:"), ({"count": 0}, 9, b"head:")],
)
async def test_a_head_comes_also_where_there_is_nothing_to_read(
    tmp_path: Path, plan: dict[str, Any], last: int | None, written: bytes
) -> None:
    run = Consuming(tmp_path, **plan)
    run.plan = replace(run.plan, render=Headed())
    run.client.streams["s"].last = last
    assert (await run.work()).status is ExitStatus.OK
    assert run.written == written
    assert run.stats.bytes == run.path.stat().st_size


# What is chosen.


class Even:
    """Wants even offsets."""

    def choose(self, block: Block) -> Choice:
        return Choice([place for place, offset in enumerate(block.positions) if offset % 2 == 0])


async def test_what_is_not_wanted_is_passed(tmp_path: Path) -> None:
    run = Consuming(tmp_path, until=END, selects=(Even(),), name="reader")
    assert (await run.work()).status is ExitStatus.OK
    assert run.written == b"02468"
    assert (run.counts.consumed, run.counts.chunks, run.counts.last_offset, run.stats.done) == (5, 1, 9, 10)
    assert run.client.stores == [("s", "reader", 9, True)]


async def test_chunks_without_a_wanted_message_do_not_count(tmp_path: Path) -> None:
    def deliver(subscription: FakeSubscription) -> None:
        for offset in range(10):
            subscription.arrive(offset, 1)

    run = Consuming(tmp_path, deliver, until=END, selects=(Even(),))
    await run.work()
    assert (run.counts.consumed, run.counts.chunks) == (5, 5)


async def test_no_message_at_all_is_wanted(tmp_path: Path) -> None:
    run = Consuming(tmp_path, count=0)
    assert await run.work() == Ended("there is nothing to read")
    assert run.client.subscriptions == {}


# Where a run begins.


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(0, 0), (5000, 0), (10**11 - 1, 0), (10**11, 10**11), (1_796_000_523_456,) * 2]
)
def test_times_that_the_core_would_take_for_seconds(milliseconds: int, expected: int) -> None:
    """``--offset @5``: no stream is so old."""
    spec = start_at(Start(StartKind.TIMESTAMP, milliseconds), None)
    assert spec == ConsumerOffsetSpecification(OffsetType.TIMESTAMP, expected)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start(StartKind.STORED), AfterStored("reader")),
        (Start(StartKind.LAST_N, 5), LastMessages(5)),
        (Start(StartKind.ABSOLUTE, 7), ConsumerOffsetSpecification(OffsetType.OFFSET, 7)),
        (Start(StartKind.NEXT), ConsumerOffsetSpecification(OffsetType.NEXT)),
    ],
)
def test_a_start(start: Start, expected: object) -> None:
    assert start_at(start, "reader") == expected


def test_a_plan_of_the_core() -> None:
    plan = ConsumePlan("all", Start(StartKind.FIRST), cast("Any", None), until=Until(UntilKind.ABSOLUTE, 7), credit=3)
    reading = plan.read_plan(["a", "b"], "all")
    assert (reading.streams, reading.super_stream, reading.credit) == (("a", "b"), "all", 3)
    assert reading.until is not None
    assert (reading.until.offset, reading.until.time) == (7, None)
