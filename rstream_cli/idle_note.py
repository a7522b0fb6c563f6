"""Says once what an idle run of ``consume`` waits for, to a person who looks at a terminal that stays empty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rstream_cli.consume_plan import ConsumePlan
from rstream_cli.consume_report import ConsumeReports
from rstream_cli.parsing import StartKind
from rstream_cli.render import words
from rstream_cli.render.display import Display
from rstream_core import RstreamError
from rstream_core.flow.acks import Account, Verdict
from rstream_core.types import StreamStats

IDLE = 2.0
"""Seconds without a message after which the line comes."""
ASK_TIMEOUT = 2.0
"""Seconds to ask the broker what the stream holds."""


async def tell_when_idle(
    plan: ConsumePlan,
    account: Account,
    reports: ConsumeReports,
    display: Display,
    ask: Callable[[str], Awaitable[StreamStats]],
) -> None:
    """Waits until no message has come for ``IDLE`` seconds, and says what is waited for; then ends.

    ``ask`` tells what a stream holds. Says nothing during an outage, which is told of, or while a single active
    consumer waits for its turn, as that was told, too.
    """
    read = -1
    while account.read != read or account.open or reports.is_held_up:
        read = account.read
        await asyncio.sleep(IDLE)
    is_new = plan.start.kind is StartKind.NEXT and not read
    holds = None
    if is_new and len(reports.streams) == 1:
        with suppress(RstreamError, TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT):
                holds = _number(await ask(reports.streams[0]))
    if account.read == read:
        display.note(idle_line(reports.what, is_new=is_new, holds=holds, left_out=_left_out(account)))


def _left_out(account: Account) -> int:
    """How many messages came, where none of them was wanted."""
    return 0 if account.by[Verdict.DONE] else account.by[Verdict.PASSED]


def _number(stats: StreamStats) -> int | None:
    """About how many messages a stream holds; None where the broker does not tell."""
    if stats.first_offset is None:
        return 0
    last = stats.committed_chunk_id if stats.committed_offset is None else stats.committed_offset
    return None if last is None else max(last - stats.first_offset + 1, 0)


def idle_line(what: str, *, is_new: bool, holds: int | None, left_out: int) -> str:
    """``what`` is read. ``is_new``: only what is published from now on. ``holds``: what is there already, if known."""
    if left_out:
        return f"waiting for more messages of {what}: {words.messages(left_out)} came, and none is wanted"
    if not is_new:
        return f"waiting for new messages of {what}"
    if holds is None:
        return f"waiting for new messages of {what} (--offset first reads those that are there)"
    if holds == 0:
        return f"waiting for messages of {what}, which is empty"
    return f"waiting for new messages of {what} (it has about {words.count(holds)}; --offset first reads them)"
