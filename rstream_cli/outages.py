"""Reports what holds a run up: outages, and a broker that confirms nothing.

An outage gets one line when it begins and one when it is over, however many publishers and subscriptions it affects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rstream_cli.render.display import Display, Severity
from rstream_cli.render.stats import CopyCounts, PublishCounts, Stats
from rstream_core import Recovery, RecoveryEvent, RecoveryState

_WORTH_A_LINE = 0.5
"""Seconds after which an outage is reported. A stream that moves, or is being deleted, usually takes less."""
_LONG_WITHOUT_CONFIRM = 5.0
_LOOK_INTERVAL = 0.5


class OutageReports:
    """A callable for a client's ``on_recovery`` that reports outages on the display."""

    def __init__(self, display: Display, stats: Stats, recovery: Recovery | None) -> None:
        self._display = display
        self._stats = stats
        self._recovery = recovery
        self._lost: set[tuple[str, str]] = set()
        self._since = self._until = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._told = False

    @property
    def until(self) -> float:
        """The loop time at which the last outage ended: the current time during one, 0 if there was none."""
        return asyncio.get_running_loop().time() if self._lost else self._until

    def __call__(self, event: RecoveryEvent) -> None:
        key = event.stream, event.what
        if event.state is RecoveryState.LOST:
            if not self._lost:
                loop = asyncio.get_running_loop()
                self._since = loop.time()
                self._telling = loop.call_later(_WORTH_A_LINE, self._tell, event)
            self._lost.add(key)
            return
        self._lost.discard(key)
        now = asyncio.get_running_loop().time()
        if self._told and event.state is RecoveryState.GIVEN_UP and event.error.retriable:
            event.error.__notes__ = [f"gave up after {now - self._since:.0f} s"]  # replaced: errors may be shared
        if self._lost:
            return
        self._until = now
        if self._telling is not None:
            self._telling.cancel()
        if self._told and event.state is RecoveryState.RECOVERED:
            seconds = self._until - self._since
            line = f"recovered after {seconds:.1f} s"
            self._display.event("recovered", line, Severity.ALL_CLEAR, stream=event.stream, seconds=round(seconds, 3))
        self._told = self._stats.reconnecting = False

    def _tell(self, event: RecoveryEvent) -> None:
        self._told = self._stats.reconnecting = True
        limit = f", for {self._recovery.seconds:g} s at most" if self._recovery is not None else ""
        line = f"{event.error}; trying again{limit}"
        self._display.event("lost", line, Severity.WARNING, stream=event.stream, reason=str(event.error))


async def report_unconfirmed(
    display: Display, account: Callable[[], PublishCounts | CopyCounts], outages: OutageReports
) -> None:
    """Reports, once each time, that no message has been confirmed for long. Live displays show that themselves.

    ``account`` returns up-to-date numbers: a call that waits for room has not updated the statistics yet.
    """
    now = asyncio.get_running_loop().time
    settled, since, is_told = 0, now(), False
    while True:
        await asyncio.sleep(_LOOK_INTERVAL)
        counts = account()
        if not counts.in_flight or counts.confirmed + counts.failed != settled:
            settled, since, is_told = counts.confirmed + counts.failed, now(), False
        is_long = now() - max(since, outages.until) >= _LONG_WITHOUT_CONFIRM
        if is_long and not is_told and not display.is_shown:
            is_told = True
            line = f"nothing confirmed for {_LONG_WITHOUT_CONFIRM:g} s"
            display.event("unconfirmed", line, Severity.WARNING, seconds=_LONG_WITHOUT_CONFIRM)
