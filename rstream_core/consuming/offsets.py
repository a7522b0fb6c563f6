"""The rules of offsets as functions of values, without I/O: what an answer means, and what follows from it.

``offset_questions`` asks the broker, and applies these rules to its answers. A subscription applies some of them, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from rstream_core.checks import MAX_OFFSET
from rstream_core.consuming.gaps import Gap
from rstream_core.errors import RstreamError
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.types import ConsumerOffsetSpecification, OffsetType, StreamStats

MOVING = (OffsetType.LAST, OffsetType.NEXT)
"""The specifications that mean another offset each time, because the stream grows."""
SMALLEST_STEP = 1024
"""By how many offsets more a second look for the tail goes back at least."""


class NotStored(RstreamError):
    """The broker does not return the offset that was stored. Never leaves the core: ``RequestTimeout`` says it."""


# Specifications.


def from_offset(offset: int) -> ConsumerOffsetSpecification:
    """Returns the specification that starts at an offset; at the largest there is, for one beyond it."""
    return ConsumerOffsetSpecification(OffsetType.OFFSET, min(offset, MAX_OFFSET))


def wire_spec(spec: ConsumerOffsetSpecification | None) -> c.OffsetSpec:
    """Returns a specification as the protocol has it; with None, that of no offset, which ends a turn."""
    return c.OffsetSpec(0) if spec is None else c.OffsetSpec(spec.offset_type, spec.offset or 0)


def in_words(spec: ConsumerOffsetSpecification | None) -> str:
    """Returns a specification for the log: ``from next``, ``from offset 17``; None is the broker's own choice."""
    if spec is None:
        return "from where the broker chooses"
    if spec.offset_type is OffsetType.OFFSET:
        return f"from offset {spec.offset}"
    if spec.offset_type is OffsetType.TIMESTAMP:
        return f"from {_moment(spec.offset or 0)}"
    return f"from {spec.offset_type.name.lower()}"


def _moment(milliseconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return f"the time of {milliseconds} ms"


# Resolving.


def next_offset(last: int | None) -> int:
    """Returns the offset of the next message to be published, given that of the last one; None for an empty stream."""
    return 0 if last is None else last + 1


def resolved_start(spec: ConsumerOffsetSpecification, found: int) -> int:
    """Returns where a subscription starts, given what the broker resolved its specification to.

    For an offset the broker returns the start of a chunk; a subscription drops the messages before the offset.
    """
    return max(found, spec.offset or 0) if spec.offset_type is OffsetType.OFFSET else found


def stats_of(told: Mapping[str, int]) -> StreamStats:
    """Returns the statistics in a broker's answer. A negative number there means that there is none."""
    known = {key: value for key, value in told.items() if value >= 0}
    return StreamStats(
        known.get("first_chunk_id"),
        known.get("committed_chunk_id"),
        known.get("last_chunk_id"),
        known.get("committed_offset"),
    )


def gap_from(stream: str, offset: int, begins: int | None) -> Gap | None:
    """Returns the gap from an offset on, given the stream's first offset (None: unknown); None where there is none."""
    return Gap(stream, offset, begins - 1) if begins is not None and offset < begins else None


class Tail:
    """Finds the offset at which the last ``count`` messages of a stream begin, counting the messages that are read.

    Messages are counted, and not offsets subtracted, since the broker's own records take offsets among the messages.
    Keeps hardly more runs of offsets than ``count`` messages take.
    """

    def __init__(self, count: int, end: int) -> None:
        """``count``: at least 1. ``end``: the offset of the stream's last message."""
        self._count = count
        self._end = end
        self._runs: deque[tuple[int, int]] = deque()
        self._total = 0

    def add(self, first: int, last: int) -> bool:
        """Takes the offsets of messages that were read, in their order. Returns whether the end is reached."""
        until = min(last, self._end)
        self._runs.append((first, until))
        self._total += until - first + 1
        while self._total - _length(self._runs[0]) >= self._count:
            self._total -= _length(self._runs.popleft())
        return last >= self._end

    @property
    def missing(self) -> int:
        """How many messages were too few; 0 or less where there were enough."""
        return self._count - self._total

    @property
    def first(self) -> int:
        """The offset of the ``count``-th last message, or of the first one that was read. Only after an ``add``."""
        return self._runs[0][0] + max(self._total - self._count, 0)

    @staticmethod
    def reach(before: int, missing: int) -> int:
        """Returns how many offsets to go back from the end, where ``before`` offsets held too few messages."""
        return before + max(2 * missing, SMALLEST_STEP)


def _length(run: tuple[int, int]) -> int:
    return run[1] - run[0] + 1


# Storing and verifying.


def not_stored(message: c.StoreOffset, stored: int | None) -> NotStored | None:
    """Returns why an offset does not count as stored, given the one that the broker returns (None: none).

    Another offset than this one, also a later one, shows that another program stores under the same reference.
    """
    if stored is None:
        return NotStored(f"the broker has no offset under {message.reference!r}")
    if stored != message.offset:
        hint = Hint.DOES_ANOTHER_STORE
        return NotStored(f"the broker has offset {stored} under {message.reference!r}", hint=hint)
    return None
