"""The checked options of a run of ``consume``, and what they mean to the source of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rstream_cli.filtering import BrokerFilter
from rstream_cli.names import Kind
from rstream_cli.parsing import Start, StartKind, Until, UntilKind
from rstream_cli.rendering import Renderer
from rstream_core import ConsumerOffsetSpecification, OffsetType
from rstream_core.flow import read_plan
from rstream_core.flow.read_plan import AfterStored, LastMessages, ReadPlan, StartAt
from rstream_core.flow.stages import Chooser
from rstream_core.flow.stores import StoreEvery
from rstream_core.types import EARLIEST_TIMESTAMP

if TYPE_CHECKING:
    from rstream_cli.dump_target import DumpTarget


@dataclass(frozen=True, slots=True)
class ConsumePlan:
    """The checked options of a run."""

    target: str
    """The stream, or the super stream."""
    start: Start
    render: Renderer
    more: Sequence[str] = ()
    """Streams that are read beside that one."""
    kind: Kind = Kind.STREAM
    until: Until | None = None
    count: int | None = None
    idle_timeout: float | None = None
    timeout: float | None = None
    name: str | None = None
    store_every: StoreEvery = field(default_factory=StoreEvery)
    single_active: bool = False
    """Whether to share the work with others of the same name."""
    filter: BrokerFilter | None = None
    """What the broker is to leave out."""
    selects: Sequence[Chooser] = ()
    """Which of the messages that come are wanted: those that all of these want."""
    credit: int = 10
    unbuffered: bool = False
    skip_bad: bool = False
    """Whether to skip a message that cannot be shown; otherwise it ends the run."""
    raw: bool = False
    """Whether the stored bytes are the body, not AMQP 1.0."""
    pace: float | None = None
    """By how much the gaps in time between messages are shortened; None: they come at once."""
    fail_on_gap: bool = False
    """Whether to end at a gap; otherwise it is reported."""
    dump: DumpTarget | None = None
    """What writes a dump, if one is asked for: it is ``render``, too."""

    def read_plan(
        self, streams: Sequence[str], super_stream: str | None, starts: Mapping[str, int] | None = None
    ) -> ReadPlan:
        """Returns what the source is to read: these streams, which are partitions of the super stream, if any.
        ``starts``: the offsets at which some of them start, instead of where the user said."""
        return ReadPlan(
            tuple(streams),
            start_at(self.start, self.name),
            until=None if self.until is None else until_at(self.until),
            name=self.name,
            single_active=self.single_active,
            super_stream=super_stream,
            idle=self.idle_timeout,
            filter_values=() if self.filter is None else self.filter.values,
            match_unfiltered=self.filter is not None and self.filter.match_unfiltered,
            credit=self.credit,
            as_plain=not self.raw,
            as_delivered=self.dump is not None,
            starts=starts or {},
            fail_on_gap=self.fail_on_gap,
        )


def start_at(start: Start, name: str | None) -> StartAt:
    """Returns the core's start. ``stored`` means after the offset stored under ``name``."""
    if start.kind is StartKind.ABSOLUTE:
        return ConsumerOffsetSpecification(OffsetType.OFFSET, start.value)
    if start.kind is StartKind.TIMESTAMP:
        # The core takes small numbers for seconds. Here they are times, and older than any stream.
        milliseconds = start.value if start.value >= EARLIEST_TIMESTAMP else 0
        return ConsumerOffsetSpecification(OffsetType.TIMESTAMP, milliseconds)
    if start.kind is StartKind.STORED:
        assert name is not None
        return AfterStored(name)
    if start.kind is StartKind.LAST_N:
        return LastMessages(start.value)
    return ConsumerOffsetSpecification(_WORDS[start.kind])


_WORDS = {
    StartKind.FIRST: OffsetType.FIRST,
    StartKind.LAST: OffsetType.LAST,
    StartKind.NEXT: OffsetType.NEXT,
}


def until_at(until: Until) -> read_plan.Until:
    """Returns the core's end."""
    return read_plan.Until(
        offset=until.value if until.kind is UntilKind.ABSOLUTE else None,
        time=until.value if until.kind is UntilKind.TIMESTAMP else None,
    )
