"""What a single active consumer tells of its turns."""

from __future__ import annotations

import io
from typing import Any, cast

from rstream_cli.consuming import ConsumePlan, ConsumeRun, _Source
from rstream_cli.environment import Environment
from rstream_cli.options import ConnectionSettings
from rstream_cli.parsing import OffsetKind, OffsetSpec
from rstream_cli.render.display import Display, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.runner import CommandContext, Interrupt
from rstream_core import Client, ConnectionOptions, StreamNotAvailable, Subscription


class NotAvailable:
    """A client whose stream has no leader."""

    async def store_offset(self, stream: str, name: str, offset: int, **rest: Any) -> None:
        raise StreamNotAvailable(f"the offset of {name!r} in stream {stream!r}")


class Partition:
    stream = "s-0"


async def test_each_state_is_told_once_and_a_store_that_failed() -> None:
    env = Environment(io.StringIO(), io.StringIO(), io.StringIO(), {})
    stats = Stats("consume", "s", ConsumeCounts())
    run = ConsumeRun(
        ConsumePlan("s", OffsetSpec(OffsetKind.FIRST), cast("Any", None), name="gg", single_active=True),
        CommandContext(env, ConnectionSettings(env), ConnectionOptions(), Interrupt()),
        stats,
        Display(StatsMode.NONE, stats, env),
    )
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
