"""What a run of ``copy`` tells while it copies: where each stream begins, gaps, waits; and what it counts."""

from __future__ import annotations

from rstream_cli.copy_request import CopyRequest
from rstream_cli.render import words
from rstream_cli.render.display import Display, Severity, StatsMode
from rstream_cli.render.stats import CopyCounts, Stats
from rstream_core import Gap, Outcome, RstreamError
from rstream_core.copying.stream_copy import CopyEvents, StreamCopy
from rstream_core.flow.stream_reading import StreamReading

LONG_PAUSE = 5.0
"""Seconds from which on a wait of ``--pace`` is told of: a person might take it for the end."""


class CopyReports(CopyEvents):
    """Tells on the display what happens in a run, and counts it."""

    def __init__(self, request: CopyRequest, stats: Stats, display: Display) -> None:
        self._request = request
        self._stats = stats
        self._display = display

    @property
    def counts(self) -> CopyCounts:
        assert isinstance(self._stats.counts, CopyCounts)
        return self._stats.counts

    def copies(self, copy: StreamCopy) -> None:
        """Tells where a copy goes on, or how a start that moves is named."""
        looking = copy.looking
        stream, begins = looking.source.stream, looking.begins
        if looking.is_resumed:
            line = f"goes on with {stream!r} at offset {begins or 0}, as {copy.name!r}"
        elif self._request.start is not None:
            line = f"begins with {stream!r} at offset {begins}; to go on after an interruption, pass --offset {begins}"
        else:
            line = f"begins with {stream!r}, as {copy.name!r}"
        self._display.event(
            "copies", line, bounded=True, stream=stream, name=copy.name, offset=begins, resumed=looking.is_resumed
        )

    def begins(self, reading: StreamReading, first: int) -> None:
        """Adds the number of expected messages to the total of the progress bar."""
        stats = self._stats
        if reading.end is not None:
            stats.total = (stats.total or 0) + max(reading.end - first + 1, 0)

    def is_unmarked(self, stream: str, why: RstreamError) -> None:
        line = (
            f"no offset can be stored in stream {stream!r} ({why}): if it is deleted and made anew, a copy may not"
            " notice it"
        )
        self._display.event("unmarked", line, Severity.WARNING, bounded=True, stream=stream, reason=str(why))

    def confirmed(self, outcome: Outcome) -> None:
        if outcome.confirmed:
            self._stats.latency.add(outcome.latency, outcome.confirmed)

    def pause(self, seconds: float) -> None:
        """Tells of a long wait for the time of the next message, with ``--pace``."""
        if seconds >= LONG_PAUSE:
            line = f"the next message comes in {words.duration(seconds)}, as --pace has it"
            self._display.event("pause", line, bounded=True, stream=self._request.source, seconds=round(seconds, 3))

    def not_stored(self, stream: str, why: str) -> None:
        self._display.note(f"storing failed: {why}", Severity.WARNING)

    def gap(self, gap: Gap) -> None:
        """Counts and reports a gap. The core calls this before it hands out messages behind the gap."""
        self.counts.gone += gap.last - gap.first + 1
        if self._request.fails_on_gap and self._display.mode is not StatsMode.JSON:
            return  # the error reports it
        line = f"{gap}: they are not copied"
        self._display.event(
            "gap", line, Severity.WARNING, bounded=True, stream=gap.stream, first=gap.first, last=gap.last
        )
