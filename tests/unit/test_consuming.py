"""What a single active consumer tells of its turns."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import Any, cast

import pytest

from rstream_cli.consuming import ConsumePlan, ConsumeRun, _Source
from rstream_cli.environment import Environment
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.output import Output
from rstream_cli.parsing import Start, StartKind
from rstream_cli.records.framing_out import DelimiterWriter
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import bodies_renderer
from rstream_cli.runner import CommandContext, Interrupt
from rstream_core import Chunk, Client, ConnectionOptions, RequestTimeout, StreamNotAvailable, Subscription
from rstream_core.subscription import Subscriptions


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
