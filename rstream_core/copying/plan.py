"""What a copy is to do: the checked arguments, as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rstream_core.flow.block import Block
from rstream_core.flow.gate import Gate
from rstream_core.flow.read_plan import StartAt, Until
from rstream_core.flow.stages import Chooser
from rstream_core.types import CompressionType

END = Until()
"""The last message that a stream has when the copy begins."""


@dataclass(frozen=True, slots=True)
class Keys:
    """How the messages of a super stream go to other partitions: by the hash of their keys."""

    of: Callable[[Block], Sequence[bytes | None]]
    """Returns the key of each message of a block; None for one without, at which the copy ends."""
    what: str
    """What the keys are, in words that always mean the same: a part of the name."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to copy, where to, and how."""

    source: str
    target: str
    is_super: bool = False
    """Whether the source is a super stream. Each partition goes to the one with the same place, but with ``keys``."""
    to_super: bool = False
    """Whether the target is one."""
    start: StartAt | None = None
    """Where to begin; None for the first message. A copy that has begun goes on by itself."""
    until: Until | None = END
    """Where to stop; None: it goes on with messages that are yet to come."""
    name: str | None = None
    """The beginning of the names under which the copy publishes; None for one that shows the stream."""
    is_appended: bool = False
    """Whether a target may hold messages of others."""
    selection: str = ""
    """All that decides which messages are copied, in words that always mean the same."""
    choosers: Sequence[Chooser] = ()
    """Which messages are copied: those that each of these wants."""
    filter_values: tuple[str, ...] = ()
    match_unfiltered: bool = False
    """See ``ReadPlan``."""
    filters_of: Callable[[Block], Sequence[str | None]] | None = None
    """Returns the filter value of each message of a block, for the target; None for one without."""
    keys: Keys | None = None
    compression: CompressionType | None = None
    """Publishes sub-entries, compressed like this; None: messages and sub-entries go on as they came."""
    gate: Gate | None = None
    """What limits the speed of all streams together; None: nothing does."""
    credit: int = 10
    """Chunks that the source's broker may send ahead, for each stream."""
    fail_on_gap: bool = False
    """Whether offsets that retention took before they were copied end the copy with ``OffsetsGone``."""
    confirm_timeout: float = 30.0
    """Seconds without a confirm that end the copy."""

    @property
    def looks_inside(self) -> bool:
        """Whether single messages are looked at, so that sub-entries are unpacked."""
        return bool(self.choosers or self.filters_of or self.keys or self.compression)

    @property
    def skips(self) -> bool:
        """Whether not every message goes to each target."""
        return bool(self.choosers or self.filter_values or self.keys)
