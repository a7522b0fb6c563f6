"""The statistics of a run: plain numbers that the displays show.

Nothing is copied here while messages flow: who wants the numbers has them brought up to date. A display does that a few
times a second, in a thread of its own. What it reads then are attributes with one number each, which the event loop
alone writes, so a snapshot may be a batch old but no number of it is torn. Rates come from samples that the display
takes (``Meter``), latencies from a histogram with logarithmic buckets, whose quantiles are right to about 5 %.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import ClassVar, Literal, NamedTuple

Verb = Literal["publish", "consume", "copy", "diff"]

_BUCKETS_PER_OCTAVE = 8
_SMALLEST = 1e-6
_BUCKETS = 40 * _BUCKETS_PER_OCTAVE  # from a microsecond to twelve days


class LatencyHistogram:
    """Counts of durations in buckets, each 9 % wider than the one before it."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total = 0
        self._longest = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts ``count`` messages that took ``seconds`` each."""
        bucket = int(math.log2(seconds / _SMALLEST) * _BUCKETS_PER_OCTAVE) if seconds > _SMALLEST else 0
        self._counts[min(bucket, _BUCKETS - 1)] += count
        self.total += count
        self._longest = max(self._longest, seconds)

    def quantile(self, share: float) -> float | None:
        """Returns the duration that ``share`` (0 to 1) of the messages did not exceed; None without messages."""
        if not self.total:
            return None
        wanted = share * self.total
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_SMALLEST * 2 ** ((bucket + 0.5) / _BUCKETS_PER_OCTAVE), self._longest)
        return self._longest


class Meter:
    """The rate of a growing number over the last seconds, and its history for a sparkline."""

    def __init__(self, window: float = 3.0, history: int = 120) -> None:
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()
        self.history: deque[float] = deque(maxlen=history)
        """The rate between each two samples, the newest last."""

    def sample(self, now: float, total: float) -> float:
        """Takes a sample, and returns the rate per second over the window; 0 for the first sample."""
        samples = self._samples
        if samples:
            before, last = samples[-1]
            if now <= before:
                return self.rate
            self.history.append((total - last) / (now - before))
        samples.append((now, total))
        while len(samples) > 2 and samples[1][0] <= now - self._window:
            samples.popleft()
        return self.rate

    @property
    def rate(self) -> float:
        """The rate per second between the oldest and the newest sample of the window."""
        if len(self._samples) < 2:
            return 0.0
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - start)


class Progress(NamedTuple):
    """The progress of a run with a known end: bytes of the input, or messages of the stream."""

    done: int
    total: int

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else 1.0


@dataclass(slots=True)
class PublishCounts:
    """``read == published + not_published`` and ``published == confirmed + failed + in_flight``, at the end exactly."""

    read: int = 0
    """Records of the input."""
    published: int = 0
    """Messages passed to the publisher."""
    not_published: int = 0
    """Records that were read but not published: bad ones, and those left at an early end."""
    bad: int = 0
    """Part of ``not_published``: records that are not messages, or are too large."""
    already_published: int = 0
    """Part of ``not_published``: records whose publishing id the broker had from an earlier run."""
    confirmed: int = 0
    failed: int = 0
    """Rejected, or not confirmed by the end."""
    in_flight: int = 0
    sent_again: int = 0
    """Copies sent after lost connections, one each time that a message was sent again: at most this many duplicates may
    be stored."""

    @property
    def messages(self) -> int:
        """The number whose rate is shown."""
        return self.confirmed

    @property
    def sent(self) -> float:
        """The part of the read records that has been published, 0 to 1."""
        wanted = self.read - self.bad - self.already_published
        return self.published / wanted if wanted > self.published else 1.0

    @property
    def settled(self) -> float:
        """The part of the read records that is confirmed, failed or left out, 0 to 1."""
        settled = self.confirmed + self.failed + self.bad + self.already_published
        return settled / self.read if self.read > settled else 1.0


@dataclass(slots=True)
class ConsumeCounts:
    """The numbers of a run that consumes."""

    sent: ClassVar[float] = 1.0
    settled: ClassVar[float] = 1.0

    consumed: int = 0
    """Messages written to stdout."""
    chunks: int = 0
    last_offset: int | None = None
    """The offset of the last message written to stdout."""
    stored_offset: int | None = None
    left_out: int = 0
    """Messages that came, and that ``--grep``, ``--match`` or ``--filter-from`` left out."""
    bad: int = 0
    """Messages that cannot be shown, and were skipped."""
    gone: int = 0
    """Offsets that retention took before they were read."""
    ambiguous: int = 0
    """Of ``consumed``: messages that hold the delimiter, so that their records look like several."""

    @property
    def messages(self) -> int:
        """The number whose rate is shown."""
        return self.consumed


@dataclass(slots=True)
class CopyCounts:
    """``read == left_out + already_there + confirmed + failed``, and what is on its way."""

    sent: ClassVar[float] = 1.0
    settled: ClassVar[float] = 1.0

    read: int = 0
    """Messages that came from the source."""
    left_out: int = 0
    """Messages that the selection left out."""
    already_there: int = 0
    """Messages that the target had from an earlier run: only with ``--key-from``."""
    written: int = 0
    """Messages passed to the target's publishers."""
    confirmed: int = 0
    failed: int = 0
    """Rejected, or not confirmed by the end."""
    in_flight: int = 0
    lag: int | None = None
    """Messages between the last one that is done with and the end of the source; None where that is unknown."""
    gone: int = 0
    """Offsets that retention took before they were read."""

    @property
    def messages(self) -> int:
        """The number whose rate is shown."""
        return self.confirmed


@dataclass(slots=True)
class ComparisonCounts:
    """The numbers of a run that compares two streams, A and B. ``rstream_core.DiffCounts`` says what each is."""

    sent: ClassVar[float] = 1.0
    settled: ClassVar[float] = 1.0

    a: int = 0
    b: int = 0
    equal: int = 0
    changed: int = 0
    missing_in_a: int = 0
    missing_in_b: int = 0
    doubled_in_a: int = 0
    doubled_in_b: int = 0
    moved: int = 0

    @property
    def messages(self) -> int:
        """The number whose rate is shown: of the side of which more was compared."""
        return max(self.a, self.b)


class Part(NamedTuple):
    """One of several streams of a run, such as a partition of a super stream."""

    stream: str
    state: str
    """Whether a single active consumer is ``active`` there or ``waiting``, ``done`` where all is read; else empty."""
    offset: int | None
    """Consuming: of the last message that is done with; None for none."""
    messages: int
    """Those whose rate is shown. Consuming: read. Publishing: confirmed or failed."""
    in_flight: int = 0
    rate: float = 0.0
    """Messages a second: recently. Set by ``Stats``."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of a run, ready to be shown."""

    verb: Verb
    stream: str
    """The stream or the super stream; several streams in words."""
    elapsed: float
    counts: dict[str, int | None]
    messages: int
    bytes: int
    rate: float
    """Messages a second: recently, or in a summary over the whole run."""
    byte_rate: float
    history: tuple[float, ...]
    p50: float | None
    p99: float | None
    progress: Progress | None
    eta: float | None
    """Seconds left at the present rate; None where unknown."""
    reconnecting: bool = False
    """Whether a connection is lost and not recovered yet."""
    unconfirmed: float = 0.0
    """Seconds for which messages have been in flight without a confirm."""
    streams: tuple[str, ...] = ()
    """The streams, where they are several."""
    parts: tuple[Part, ...] = ()
    """The figures of each stream; empty for a run of one stream without turns."""
    target: str = ""
    """What is copied to."""
    not_kept: tuple[str, ...] = ()
    """What a copy cannot keep, in words."""


@dataclass(slots=True)
class Stats:
    """The numbers of one run."""

    verb: Verb
    stream: str
    counts: PublishCounts | ConsumeCounts | CopyCounts | ComparisonCounts
    bytes: int = 0
    """Publishing: of message bodies that were read. Consuming: written to stdout, with all that is around bodies.
    Comparing: of the messages of both sides."""
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    total: int | None = None
    """If the end is known: bytes of the input, or messages to consume."""
    done: int = 0
    """The part of ``total`` that was read or consumed."""
    bring_up_to_date: Callable[[], None] | None = None
    """Set by a run: writes the numbers, as they are now. Called in any thread, but in one at a time."""
    parts: Callable[[], Sequence[Part]] | None = None
    """Set by a run of several streams, or of turns: the figures of each stream, without rates. For any thread."""
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    reconnecting: bool = False
    streams: tuple[str, ...] = ()
    """See ``Snapshot``."""
    target: str = ""
    not_kept: tuple[str, ...] = ()
    _updating: Lock = field(default_factory=Lock)
    _progress: tuple[int, float] = (0, 0.0)
    """The number of confirmed messages, and the last time when it had changed or no message was in flight."""
    _sent_bytes: int = 0
    _messages_meter: Meter = field(default_factory=Meter)
    _bytes_meter: Meter = field(default_factory=Meter)
    _done_meter: Meter = field(default_factory=lambda: Meter(window=10.0))
    _part_meters: dict[str, Meter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._sample(self.started)

    def update(self) -> None:
        """Brings the numbers up to date. For any thread: of two at once, the later one does not write older numbers."""
        if self.bring_up_to_date is not None:
            with self._updating:
                self.bring_up_to_date()

    def snapshot(self, *, final: bool = False, in_parts: bool = True) -> Snapshot:
        """Returns the present numbers; called in the display's thread. ``final``: with the rates of the whole run.

        ``in_parts``: with those of each stream, unless it is ``final``. They cost some time where streams are many.
        """
        self.update()
        now = self.clock()
        elapsed = now - self.started
        if final:
            self._sent_bytes = self.bytes  # the run has subtracted unsent bytes
            rate, byte_rate = (n / elapsed if elapsed > 0 else 0.0 for n in (self.counts.messages, self.bytes))
        else:
            rate, byte_rate = self._sample(now)
        progress = Progress(self._settled, self.total) if self.total is not None else None
        pace = self._done_meter.rate
        left = None
        if progress is not None and pace > 0:
            left = max(progress.total - progress.done, 0) / pace
        counts = self.counts
        return Snapshot(
            verb=self.verb,
            stream=self.stream,
            elapsed=elapsed,
            counts={name: getattr(counts, name) for name in counts.__slots__},
            messages=counts.messages,
            bytes=self._sent_bytes,
            rate=rate,
            byte_rate=byte_rate,
            history=tuple(self._messages_meter.history),
            p50=self.latency.quantile(0.5),
            p99=self.latency.quantile(0.99),
            progress=progress,
            eta=left,
            reconnecting=self.reconnecting,
            unconfirmed=now - self._progress[1],
            streams=self.streams,
            target=self.target,
            not_kept=self.not_kept,
            parts=tuple(self._with_rates(self.parts(), now)) if in_parts and not final and self.parts else (),
        )

    def _with_rates(self, parts: Sequence[Part], now: float) -> Iterator[Part]:
        for part in parts:
            meter = self._part_meters.get(part.stream)
            if meter is None:
                meter = self._part_meters[part.stream] = Meter(history=0)
            yield part._replace(rate=meter.sample(now, part.messages))

    @property
    def _settled(self) -> int:
        return int(self.done * self.counts.settled)

    def _sample(self, now: float) -> tuple[float, float]:
        # ``bytes`` counts input that was read, which is ahead of the sent messages: scale it down to the sent part.
        self._sent_bytes = max(self._sent_bytes, int(self.bytes * self.counts.sent))
        self._done_meter.sample(now, self._settled)
        counts = self.counts
        if (
            isinstance(counts, ConsumeCounts | ComparisonCounts)
            or not counts.in_flight
            or counts.confirmed != self._progress[0]
        ):
            self._progress = counts.messages, now
        return self._messages_meter.sample(now, self.counts.messages), self._bytes_meter.sample(now, self._sent_bytes)
