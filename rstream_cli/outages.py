"""What a run tells of lost connections: a line when an outage begins and one when it is over, however many
publishers and subscriptions it hits.
"""

from __future__ import annotations

import asyncio

from rstream_cli.render.display import Display
from rstream_cli.render.stats import Stats
from rstream_core import Recovery, RecoveryEvent, RecoveryState


class OutageReports:
    """A client's ``on_recovery``."""

    def __init__(self, display: Display, stats: Stats, recovery: Recovery | None) -> None:
        self._display = display
        self._stats = stats
        self._recovery = recovery
        self._lost: set[tuple[str, str]] = set()
        self._since = 0.0

    def __call__(self, event: RecoveryEvent) -> None:
        now = asyncio.get_running_loop().time()
        key = event.stream, event.what
        if event.state is RecoveryState.LOST:
            if not self._lost:
                self._since = now
                limit = f", for {self._recovery.seconds:g} s at most" if self._recovery is not None else ""
                line = f"warning: {event.error}; trying again{limit}"
                self._display.event("lost", line, stream=event.stream, reason=str(event.error))
            self._lost.add(key)
        else:
            self._lost.discard(key)
            if not self._lost and event.state is RecoveryState.RECOVERED:
                seconds = now - self._since
                self._display.event(
                    "recovered", f"recovered after {seconds:.1f} s", stream=event.stream, seconds=round(seconds, 3)
                )
        self._stats.reconnecting = bool(self._lost)
