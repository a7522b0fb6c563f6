"""What a run of ``consume`` tells while it reads: turns, gaps, skipped messages, stored offsets; and what it counts."""

from __future__ import annotations

from collections.abc import Sequence

from rstream_cli.consume_plan import ConsumePlan
from rstream_cli.parsing import StartKind
from rstream_cli.render import words
from rstream_cli.render.display import Display, Severity, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_core import Gap
from rstream_core.flow.stream_reading import ReadEvents, StreamReading

LONG_PAUSE = 5.0
"""Seconds from which on a wait of ``--pace`` is told of: a person might take it for the end."""
MOST_TURNS = 10
"""Streams of which a live display tells each turn in a line; its table counts those of more streams."""


class ConsumeReports(ReadEvents):
    """Tells on the display what happens in a run, and counts it."""

    def __init__(self, plan: ConsumePlan, stats: Stats, display: Display) -> None:
        self._plan = plan
        self._stats = stats
        self._display = display
        self.streams: Sequence[str] = ()
        """What is read."""
        self.is_super_stream = False
        self._active: set[str] = set()
        """Where this consumer has its turn as the single active one."""

    @property
    def counts(self) -> ConsumeCounts:
        assert isinstance(self._stats.counts, ConsumeCounts)
        return self._stats.counts

    @property
    def what(self) -> str:
        """What is read, in words."""
        plan = self._plan
        if self.is_super_stream:
            return f"{len(self.streams)} partitions of {plan.target!r}"
        return f"{plan.target!r}" if len(self.streams) < 2 else f"{len(self.streams)} streams"

    @property
    def is_held_up(self) -> bool:
        """Whether nothing can come now, as people were told: during an outage, and before a turn."""
        return self._stats.reconnecting or (self._plan.single_active and not self._active)

    def waiting(self) -> None:
        plan = self._plan
        self._display.event(
            "waiting", f"waiting for a turn as {plan.name!r}: {self.what}", stream=plan.target, name=plan.name or ""
        )

    def beyond(self, stream: str, offset: int, following: int) -> None:
        is_stored = self._plan.start.kind is StartKind.STORED
        what = f"offset {offset}, after the one stored as {self._plan.name!r}," if is_stored else f"offset {offset}"
        line = f"{what} is beyond the end of stream {stream!r}, whose next offset is {following}"
        self._display.event(
            "beyond", line, Severity.WARNING, bounded=True, stream=stream, offset=offset, next=following
        )

    def begins(self, reading: StreamReading, first: int) -> None:
        """Adds the number of expected messages to the total of the progress bar."""
        stats, count = self._stats, self._plan.count
        if reading.end is not None:
            stats.total = (stats.total or 0) + max(reading.end - first + 1, 0)
        if count is not None:
            stats.total = count if stats.total is None else min(stats.total, count)

    def turn(self, stream: str, active: bool) -> None:
        (self._active.add if active else self._active.discard)(stream)
        if self._display.mode is StatsMode.LIVE and len(self.streams) > MOST_TURNS:
            return  # its table has them
        state = "active" if active else "idle"
        self._display.event(state, f"{state} on {stream!r}", stream=stream)

    def pause(self, seconds: float) -> None:
        """Tells of a long wait for the time of the next message, with ``--pace``."""
        if seconds >= LONG_PAUSE:
            line = f"the next message comes in {words.duration(seconds)}, as --pace has it"
            self._display.event("pause", line, bounded=True, stream=self._plan.target, seconds=round(seconds, 3))

    def not_stored(self, stream: str, why: str) -> None:
        self._display.note(f"storing failed: {why}", Severity.WARNING)

    def stored(self, stream: str, offset: int | None) -> None:
        if len(self.streams) == 1:
            self.counts.stored_offset = offset

    def gap(self, gap: Gap) -> None:
        """Counts and reports a gap. The core calls this before it hands out messages behind the gap."""
        self.counts.gone += gap.last - gap.first + 1
        if self._plan.fail_on_gap and self._display.mode is not StatsMode.JSON:
            return  # the error reports it
        note = self.nothing_stored(gap.first).removesuffix("; ")
        line = f"{gap} ({note})" if note else str(gap)
        self._display.event(
            "gap", line, Severity.WARNING, bounded=True, stream=gap.stream, first=gap.first, last=gap.last
        )

    def nothing_stored(self, first: int) -> str:
        """Returns a note if no offset was stored: a broker forgets a stored offset that retention has passed."""
        if self._plan.start.kind is not StartKind.STORED or first != 0:
            return ""
        return f"no offset is stored under {self._plan.name!r}, or it is gone too; "

    def skipped(self, stream: str, offset: int, why: str) -> None:
        """Reports a message that cannot be shown."""
        line = f"the message at offset {offset} of stream {stream!r} is skipped: it {why}"
        self._display.event("skipped", line, Severity.WARNING, bounded=True, stream=stream, offset=offset, reason=why)
