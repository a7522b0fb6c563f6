"""How far consumers are behind, as values: what a stored offset and the chunks of a stream mean. Without I/O.

A stored offset is that of the last message done with, so what is left to read begins behind it. Messages are counted by
their offsets, among which the broker's own records (stored offsets, for one) take some: a lag is exact where there are
none, and never too small. A name that has read everything is 0 behind, whatever records follow the last message.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from rstream_cli.parsing import MAX_OFFSET, parse_duration
from rstream_core.errors import RstreamError
from rstream_core.types import ChunkSpan


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the consumers of a name are behind in one stream."""

    stream: str
    name: str
    stored: int | None
    """None where no offset is stored: then everything that the stream has is left to read."""
    last: int | None
    """The offset of the stream's last message; None where it has none."""
    messages: int
    """What is left to read."""
    seconds: float | None
    """The age of the first message that is left; 0 where there is none. None where its chunk could not be read."""
    gone: int
    """Offsets behind the stored one that retention took before they were read."""

    @property
    def rank(self) -> tuple[bool, int, float, str, str]:
        """Sorts those that are furthest behind first."""
        return not self.gone, -self.messages, -(self.seconds or 0.0), self.name, self.stream


@dataclass(frozen=True, slots=True)
class Unknown:
    """A stream that could not be asked."""

    stream: str
    error: RstreamError


@dataclass(frozen=True, slots=True)
class Lags:
    """The lags of all names in a stream, or in the partitions of a super stream, at one time."""

    target: str
    super_stream: str | None
    streams: Sequence[str]
    """The stream, or the partitions."""
    at: float
    """Seconds since 1970."""
    known: Sequence[Lag]
    """Sorted: those furthest behind first."""
    unknown: Sequence[Unknown]
    ends: Mapping[str, int] = field(default_factory=dict)
    """By stream, the offset of its last message; none for an empty stream, or one that could not be asked."""

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({lag.name for lag in self.known})

    def by_name(self) -> list[tuple[Total, list[Lag]]]:
        """The sum of each name with its lags: the name that is furthest behind first."""
        ordered = sorted(self.known, key=lambda lag: (lag.name, lag.rank))
        groups = [list(found) for _, found in groupby(ordered, key=lambda lag: lag.name)]
        return sorted(((Total.of(found), found) for found in groups), key=lambda pair: pair[0].rank)


class Total(NamedTuple):
    """What a name has left to read in all partitions."""

    name: str
    streams: int
    messages: int
    seconds: float | None
    """The age of the oldest of these messages; None where that is not known of each partition."""
    gone: int

    @classmethod
    def of(cls, lags: Sequence[Lag]) -> Total:
        ages = [lag.seconds for lag in lags if lag.seconds is not None]
        return cls(
            lags[0].name,
            len(lags),
            sum(lag.messages for lag in lags),
            max(ages) if len(ages) == len(lags) else None,
            sum(lag.gone for lag in lags),
        )

    @property
    def rank(self) -> tuple[bool, int, float, str]:
        return not self.gone, -self.messages, -(self.seconds or 0.0), self.name


class Place(NamedTuple):
    """Where the first message from an offset on lies."""

    asked: int
    """The offset."""
    span: ChunkSpan

    def covers(self, offset: int) -> bool:
        """Whether the first message from ``offset`` on is in this chunk."""
        return self.asked <= offset <= self.span.last


class Places:
    """Places in one stream, found by an offset."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = sorted(places)
        self._asked = [place.asked for place in self._places]

    def find(self, offset: int) -> Place | None:
        """The place of the first message from ``offset`` on; None where it is in none of these chunks.

        Chunks do not overlap, so of the places up to the offset only the last one can have it.
        """
        index = bisect_right(self._asked, offset) - 1
        return self._places[index] if index >= 0 and self._places[index].covers(offset) else None


def following(stored: int | None) -> int:
    """The offset at which what is left to read begins."""
    return 0 if stored is None else stored + 1


def begins_at(stored: int | None, first: int) -> int:
    """The offset at which what can still be read begins, where retention has taken what lies before ``first``."""
    return max(following(stored), first)


def lag_of(
    stream: str, name: str, stored: int | None, end: ChunkSpan | None, first: int, places: Places, at: float
) -> Lag:
    """The lag of a stored offset. ``end`` is the stream's last chunk; ``places`` are what was read of it.

    ``first``: where the stream begins, or 0. ``at``: seconds since 1970. The clocks of brokers differ from this one, so
    a message that seems to come from the future is 0 seconds old.
    """
    begins = begins_at(stored, first)
    last = None if end is None else end.last
    if last is None or following(stored) > last:
        return Lag(stream, name, stored, last, 0, 0.0, 0)
    place = places.find(begins)
    seconds = None
    if place is not None:
        begins = max(begins, place.span.first)
        seconds = max(at - place.span.timestamp / 1000, 0.0)
    gone = 0 if stored is None else max(first - following(stored), 0)
    return Lag(stream, name, stored, last, max(last - begins + 1, 0), seconds, gone)


def rows_of(
    stored: Mapping[str, Mapping[str, int]], names: Iterable[str] | None
) -> Iterator[tuple[str, str, int | None]]:
    """Each stream with each name and its stored offset. Without ``names``: those that are known in any stream."""
    wanted = sorted({name for found in stored.values() for name in found} if names is None else set(names))
    for stream, found in stored.items():
        yield from ((stream, name, found.get(name)) for name in wanted)


@dataclass(frozen=True, slots=True)
class Limit:
    """``--fail-over``: one of the two is set."""

    messages: int | None = None
    seconds: float | None = None

    def is_passed(self, total: Total, lags: Iterable[Lag]) -> bool | None:
        """Whether a name is over the limit in all its streams together. None: it cannot be known.

        A name of which retention took offsets is over every limit: they may have been messages.
        """
        if total.gone:
            return True
        if self.messages is not None:
            return total.messages > self.messages
        assert self.seconds is not None
        if any(lag.seconds is not None and lag.seconds > self.seconds for lag in lags):
            return True
        return None if total.seconds is None else False


def parse_limit(text: str) -> Limit:
    """``1000``: messages; ``5m``, ``90s``: seconds. Raises ValueError."""
    stripped = text.strip()
    if re.fullmatch(r"[0-9]+", stripped):
        if len(stripped) > 20 or int(stripped) > MAX_OFFSET:
            raise ValueError(f"more messages than a stream can have: {text!r}")
        return Limit(messages=int(stripped))
    try:
        return Limit(seconds=parse_duration(stripped))
    except ValueError as error:
        raise ValueError(f"neither a number of messages nor a duration: {text!r}; give 1000, 90s or 5m") from error
