"""What a source of streams is to read, and from where to where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rstream_core.consuming.offsets import from_offset
from rstream_core.types import ConsumerOffsetSpecification


@dataclass(frozen=True, slots=True)
class LastMessages:
    """A start: so many messages before the end."""

    count: int


BEGINNING = from_offset(0)
"""Offset 0. Unlike the first message that is left, it shows a gap at the beginning."""


@dataclass(frozen=True, slots=True)
class AfterStored:
    """A start: after the offset that is stored under a name."""

    name: str
    otherwise: ConsumerOffsetSpecification = BEGINNING
    """Where none is stored."""


StartAt = ConsumerOffsetSpecification | LastMessages | AfterStored


@dataclass(frozen=True, slots=True)
class Until:
    """Where to stop: at an offset, at a time, or, without both, at the last message that a stream has at the start."""

    offset: int | None = None
    """The last wanted offset. It may be yet to come."""
    time: int | None = None
    """Milliseconds since 1970 (UTC): messages of later chunks are not wanted. It may be yet to come."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What to read."""

    streams: tuple[str, ...]
    start: StartAt
    until: Until | None = None
    """None: no end."""
    name: str | None = None
    """Under which offsets are stored; None: they are not."""
    single_active: bool = False
    """Whether to take turns with others of the same name. The offset that is stored under it then decides where to
    start; ``start`` is for a stream without one."""
    super_stream: str | None = None
    """The super stream that the streams are partitions of, if they are."""
    idle: float | None = None
    """Seconds without a message that end the reading."""
    filter_values: tuple[str, ...] = ()
    """With some, the broker leaves out chunks that have no message with one of them."""
    match_unfiltered: bool = False
    """With ``filter_values``: chunks with a message without a value are wanted, too."""
    credit: int = 10
    """Chunks that the broker may send ahead, for each stream."""
    only_acknowledged: bool = False
    """For a single active consumer: whether a turn begins after the stored offset, or at the start, also where more was
    handed out in an earlier turn. For a sink that may drop what it was handed."""
    as_plain: bool = False
    """Whether messages that are all plain come as ``PlainMessages``, for a run that looks at little but bodies."""
    placed: bool = False
    """Whether messages come as ``PlacedMessages``, for a run that passes them on without a look inside."""
    as_delivered: bool = False
    """Whether chunks come as they were delivered, as ``DeliveredMessages``: a block is one chunk, or a part of it."""
    starts: Mapping[str, int] = field(default_factory=dict)
    """The offsets at which some of the streams start, instead of at ``start``."""
    fail_on_gap: bool = False
    """Whether offsets that retention took end the reading with ``OffsetsGone``."""
