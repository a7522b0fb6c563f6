"""The engine of ``consume``: turns of a single active consumer, stored offsets, and what cannot be shown."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rstream_cli.consuming import ConsumePlan, ConsumeRun, StoreEvery, _Source, resolve_start
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.outcome import Ended
from rstream_cli.output import Output
from rstream_cli.parsing import MAX_OFFSET, Start, StartKind
from rstream_cli.records.framing_out import DelimiterWriter
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import Batch, OnBad, Renderer, bodies_renderer
from rstream_cli.runner import CommandContext, Interrupt
from rstream_core import (
    Chunk,
    Client,
    ConnectionClosed,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    OffsetNotFound,
    OffsetType,
    RequestTimeout,
    StreamNotAvailable,
    Subscription,
)
from rstream_core.subscriptions import Subscriptions


class NotAvailable:
    """A client whose stream has no leader."""

    async def store_offset(self, stream: str, name: str, offset: int, **rest: Any) -> None:
        raise StreamNotAvailable(f"the offset of {name!r} in stream {stream!r}")


class Partition:
    stream = "s-0"


def consume_run(env: Environment, **plan: Any) -> ConsumeRun:
    stats = Stats("consume", "s", ConsumeCounts())
    return ConsumeRun(
        ConsumePlan("s", Start(StartKind.FIRST), cast("Any", None), **plan),
        CommandContext(env, ConnectionSettings(env), ConnectionOptions(), Interrupt()),
        stats,
        Display(StatsMode.NONE, stats, env),
    )


def environment() -> Environment:
    return Environment(io.StringIO(), io.StringIO(), io.StringIO(), {})


@pytest.mark.parametrize("idle_timeout", [None, 10.0])
async def test_a_subscription_that_ends_because_nobody_answers_ends_the_run(idle_timeout: float | None) -> None:
    """Its error is a TimeoutError too, and no time of the run's own is over."""

    class Ended:
        async def __anext__(self) -> None:
            raise RequestTimeout("no answer")

    run = consume_run(environment(), idle_timeout=idle_timeout)
    with pytest.raises(RequestTimeout, match="no answer"):
        await run._next_chunk(cast("Client", None), cast("Subscriptions", Ended()))


async def test_each_state_is_told_once_and_a_store_that_failed() -> None:
    env = environment()
    run = consume_run(env, name="gg", single_active=True)
    source = _Source("s-0")
    for active, passed in ((True, None), (True, 41), (False, None), (False, None), (True, 41), (False, None)):
        await run._turn(cast("Client", NotAvailable()), source, cast("Subscription", Partition()), active)
        source.passed = passed
    failed = "warning: storing failed: the offset of 'gg' in stream 's-0'"
    assert cast("io.StringIO", env.stderr).getvalue().splitlines() == [
        "active on 's-0'",
        failed,
        "idle on 's-0'",
        "active on 's-0'",
        failed,
        "idle on 's-0'",
    ]


class Taken:
    """An output that takes everything at once, a subscription, and what is told to it."""

    stream = "s"

    def __init__(self, turns_end_at: int) -> None:
        self.data: list[bytes] = []
        self.finished: list[int | None] = []
        self._left = turns_end_at

    def write(self, data: bytes) -> None:
        self.data.append(data)

    def is_wanted(self, chunk: Chunk) -> bool:
        self._left -= 1
        return self._left >= 0

    def finish(self, offset: int | None = None) -> None:
        self.finished.append(offset)


@pytest.mark.parametrize(("turns_end_at", "taken", "finished"), [(9, 10_000, []), (1, 8192, [8201])])
async def test_a_chunk_of_many_messages_is_taken_in_parts(turns_end_at: int, taken: int, finished: list[int]) -> None:
    """The event loop goes on between two of them, and a turn that ends there ends the chunk."""
    run = consume_run(environment())
    run.plan = replace(run.plan, render=bodies_renderer(DelimiterWriter(), raw=True))
    everything = Taken(turns_end_at)
    source = run._sources["s"] = _Source("s", subscription=cast("Subscription", everything))
    seen: list[int] = []

    def look() -> None:
        seen.append(run._counts.consumed)
        asyncio.get_running_loop().call_soon(look)

    asyncio.get_running_loop().call_soon(look)
    messages = [str(number).encode() for number in range(10, 10_010)]
    chunk = Chunk("s", 10, 0, messages, None)
    await run._take_parts(cast("Client", None), cast("Subscriptions", everything), chunk, cast("Output", everything))
    assert b"".join(everything.data).split() == messages[:taken]
    assert (source.passed, run._counts.consumed, everything.finished) == (9 + taken, taken, finished)
    assert {4096, 8192} <= set(seen)


# Stored offsets.


class Keeps:
    """A client that keeps what it is told to store, and whether it is to look that the broker has it."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, str, int, bool]] = []

    async def store_offset(self, stream: str, name: str, offset: int, *, verify_timeout: float | None = None) -> None:
        self.stored.append((stream, name, offset, verify_timeout is not None))


class Closed:
    """Subscriptions of which nothing is wanted any more."""

    async def close(self) -> None: ...


async def end(how: Ended | Exception) -> Keeps:
    """Ends a run in which stdout has taken the messages up to 49, in this way."""
    run = consume_run(environment(), name="reader")

    async def open_(client: Client) -> Closed:
        return Closed()

    async def read(client: Client, subscriptions: Closed, output: Output) -> Ended:
        if isinstance(how, Exception):
            raise how
        return how

    run._sources["s"] = _Source("s", passed=49, unstored=50)
    for name, function in (("_open", open_), ("_read", read)):
        setattr(run, name, function)
    client = Keeps()
    try:
        assert await run._run(cast("Client", client), cast("Output", None)) is how
    except ConnectionClosed as error:
        assert error is how  # noqa: PT017 - or it has ended well
    return client


@pytest.mark.parametrize(
    "how",
    [
        Ended("--until is reached"),
        Ended("--timeout of 1 s ran out", ExitStatus.TIMED_OUT),
        Ended("the message is bad", ExitStatus.BAD_RECORD, CommandError("bad")),
        ConnectionClosed("lost for good"),
    ],
    ids=["done", "out of time", "bad message", "lost"],
)
async def test_what_stdout_has_taken_is_stored_at_the_end_and_looked_at(how: Ended | Exception) -> None:
    assert (await end(how)).stored == [("s", "reader", 49, True)]


async def test_nothing_is_stored_where_the_reader_of_stdout_has_left() -> None:
    """What was in the pipe is read by nobody, and comes again."""
    assert (await end(Ended("stdout was closed", ExitStatus.STDOUT_CLOSED, BrokenPipeError()))).stored == []


async def turn(run: ConsumeRun, client: Keeps, source: _Source, active: bool) -> None:
    await run._turn(cast("Client", client), source, cast("Subscription", Partition()), active)


async def test_the_end_of_a_turn_is_answered_when_the_broker_has_the_offset() -> None:
    """Whoever has the next turn asks for it at once."""
    run, client, source = consume_run(environment(), name="gg", single_active=True), Keeps(), _Source("s-0")
    await turn(run, client, source, True)
    run._pass(source, source.turn, 41, 42)
    await turn(run, client, source, False)
    assert client.stored == [("s-0", "gg", 41, True)]


async def test_who_has_no_turn_stores_nothing() -> None:
    """Another stores under this name by then, and is further on."""
    run, client, source = consume_run(environment(), name="gg", single_active=True), Keeps(), _Source("s-0")
    run._sources["s-0"] = source
    await turn(run, client, source, True)
    run._pass(source, source.turn, 41, 42)
    await turn(run, client, source, False)
    client.stored.clear()
    run.plan = replace(run.plan, store_every=StoreEvery(messages=1, seconds=0.0))
    await run._store_if_due(cast("Client", client))
    await run._store_the_last(cast("Client", client), quietly=False)
    assert client.stored == []


async def test_what_is_left_of_an_old_turn_does_not_count_for_the_next() -> None:
    """A write that ends when the turn has, and another has begun."""
    run, client, source = consume_run(environment(), name="gg", single_active=True), Keeps(), _Source("s-0")
    run._sources["s-0"] = source
    await turn(run, client, source, True)
    old = source.turn
    await turn(run, client, source, False)
    await turn(run, client, source, True)
    assert source.turn > old
    run._pass(source, old, 41, 42)
    assert (source.passed, source.unstored) == (None, 0)
    run._pass(source, source.turn, 9, 10)
    await turn(run, client, source, False)
    assert client.stored == [("s-0", "gg", 9, True)]


# Messages that cannot be shown.


class HalfBad(Renderer):
    """Cannot show what begins with "bad"."""

    def __init__(self) -> None:
        super().__init__(lambda batch: b"", lambda batch, index: b"")

    def __call__(self, batch: Batch, on_bad: OnBad) -> bytes:
        for index, message in enumerate(batch.messages):
            if message.startswith(b"bad"):
                on_bad(index, "is bad")
        return b"".join(message for message in batch.messages if not message.startswith(b"bad"))


async def take(messages: list[bytes], **plan: Any) -> tuple[ConsumeRun, _Source, bytes]:
    """A run that skips what is bad, and has taken one chunk of these; and what it has written."""
    run = consume_run(environment(), skip_bad=True, **plan)
    run.plan = replace(run.plan, render=HalfBad())
    output = Taken(0)
    source = run._sources["s"] = _Source("s")
    chunk = Chunk("s", 10, 0, messages, None)
    await run._take(cast("Client", Keeps()), source, chunk, cast("Output", output))
    return run, source, b"".join(output.data)


async def test_what_is_skipped_does_not_count() -> None:
    run, source, written = await take([b"bad", b"1", b"bad", b"2", b"3", b"bad", b"4"], count=3)
    assert written == b"123"
    assert (run._counts.consumed, run._counts.bad, run._counts.last_offset) == (3, 2, 14)
    assert run._ended == Ended("--count is reached")
    assert source.passed == 14  # where another run under this name goes on


async def test_what_is_skipped_does_not_end_a_count_early() -> None:
    run, source, written = await take([b"bad", b"1", b"bad"], count=2)
    assert (written, run._counts.consumed, run._counts.bad) == (b"1", 1, 2)
    assert (run._ended, source.passed) == (None, 12)


@pytest.mark.parametrize(
    ("bad", "ended", "status"),
    [
        (0, Ended("end"), ExitStatus.OK),
        (1, Ended("end"), ExitStatus.PARTLY_DONE),
        (2, Ended("end"), ExitStatus.PARTLY_DONE),
        (1, Ended("time", ExitStatus.TIMED_OUT), ExitStatus.TIMED_OUT),
    ],
)
async def test_one_that_is_skipped_shows_in_the_exit_code(
    tmp_path: Path, bad: int, ended: Ended, status: ExitStatus
) -> None:
    with (tmp_path / "out").open("w") as stdout:
        await _ends_in(consume_run(replace(environment(), stdout=stdout)), bad, ended, status)


async def _ends_in(run: ConsumeRun, bad: int, ended: Ended, status: ExitStatus) -> None:
    run._counts.bad = bad

    async def work(client: Client, output: Output) -> Ended:
        return ended

    setattr(run, "_run", work)  # noqa: B010 - mypy takes no method for a variable
    found = await run.work()
    assert (found.reason, found.status) == (ended.reason, status)


# When offsets are stored, and where a run begins after them.


@pytest.mark.parametrize(
    ("every", "unstored", "seconds", "is_due"),
    [
        (StoreEvery(messages=5), 4, 0.0, False),
        (StoreEvery(messages=5), 5, 0.0, True),
        (StoreEvery(messages=5), 6, 0.0, True),
        (StoreEvery(seconds=10.0), 1, 9.0, False),
        (StoreEvery(seconds=10.0), 1, 11.0, True),
        (StoreEvery(seconds=10.0), 0, 11.0, False),  # no news
        (StoreEvery(), 10**6, 10.0**6, False),
    ],
)
async def test_when_an_offset_is_stored(every: StoreEvery, unstored: int, seconds: float, is_due: bool) -> None:
    run, client = consume_run(environment(), name="reader", store_every=every), Keeps()
    now = asyncio.get_running_loop().time()
    run._sources["s"] = _Source("s", passed=41, unstored=unstored, stored_at=now - seconds)
    for _ in range(2):  # once
        await run._store_if_due(cast("Client", client))
    assert client.stored == ([("s", "reader", 41, False)] if is_due else [])


async def test_what_an_outage_kept_from_being_stored_is_stored_behind_it() -> None:
    """Though nothing more has come by then."""
    run = consume_run(environment(), name="reader", store_every=StoreEvery(messages=1, seconds=0.0))

    class Lost(Keeps):
        async def store_offset(self, *args: Any, **rest: Any) -> None:
            raise ConnectionClosed("lost")

    source = run._sources["s"] = _Source("s", passed=41, unstored=3)
    await run._store_if_due(cast("Client", Lost()))
    assert (source.passed, source.unstored) == (41, 3)
    client = Keeps()
    await run._store_if_due(cast("Client", client))
    assert (client.stored, source.unstored) == ([("s", "reader", 41, False)], 0)


class Knows:
    """A client that knows the offset under a name."""

    def __init__(self, stored: int | None) -> None:
        self._stored = stored

    async def query_offset(self, stream: str, name: str) -> int:
        if self._stored is None:
            raise OffsetNotFound(f"the offset of {name!r} in stream {stream!r}")
        return self._stored


@pytest.mark.parametrize(("stored", "begins"), [(None, 0), (0, 1), (41, 42), (MAX_OFFSET - 1, MAX_OFFSET)])
async def test_stored_begins_behind_what_is_stored(stored: int | None, begins: int) -> None:
    client = cast("Client", Knows(stored))
    spec = await resolve_start(client, "s", Start(StartKind.STORED), "reader")
    assert spec == ConsumerOffsetSpecification(OffsetType.OFFSET, begins)


async def test_there_is_nothing_behind_the_largest_offset() -> None:
    spec = await resolve_start(cast("Client", Knows(MAX_OFFSET)), "s", Start(StartKind.STORED), "reader")
    assert spec.offset == MAX_OFFSET


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(0, 0), (5000, 0), (10**11 - 1, 0), (10**11, 10**11), (1_796_000_523_456,) * 2]
)
async def test_times_that_the_core_would_take_for_seconds(milliseconds: int, expected: int) -> None:
    """``--offset @5``: no stream is so old."""
    spec = await resolve_start(cast("Client", Knows(0)), "s", Start(StartKind.TIMESTAMP, milliseconds), None)
    assert spec == ConsumerOffsetSpecification(OffsetType.TIMESTAMP, expected)
