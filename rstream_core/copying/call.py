"""``Client.copy``: its arguments become a plan, the plan a copy, and how that ends its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from rstream_core.checks import MAX_OFFSET, check_callable, check_flag, check_name, check_text, check_texts, check_whole
from rstream_core.consuming.gaps import GapListener
from rstream_core.copying.access import CopyAccess
from rstream_core.copying.copy import Copy
from rstream_core.copying.names import check_prefix
from rstream_core.copying.plan import END, CopyPlan, Keys
from rstream_core.copying.stream_copy import CopyEvents, Surroundings
from rstream_core.errors import ConfigurationError
from rstream_core.flow.acks import Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.gate import Rate
from rstream_core.flow.read_plan import Until
from rstream_core.flow.stages import Choice, Chooser
from rstream_core.protocol.compression import check_compression
from rstream_core.types import CompressionType, ConsumerOffsetSpecification, OffsetType, check_specification


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What a copy has done, in all streams together."""

    copied: int
    """Messages that the target has confirmed."""
    left_out: int
    """Messages that were read, and not wanted."""
    known: int
    """Messages that were read, and that the target had from an earlier run: only with routing keys."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """The functions of a caller that look at single messages, and what they stand for."""

    wanted: Callable[[bytes], bool] | None
    routing_key: Callable[[bytes], str | bytes | None] | None
    filter_value: Callable[[bytes], str | None] | None
    selection: str

    def check(self) -> None:
        """Raises for what cannot be."""
        check_text("selection", self.selection)
        for what in ("wanted", "routing_key", "filter_value"):
            function = getattr(self, what)
            if function is not None:
                check_callable(what, function)
        if (self.wanted is None and self.routing_key is None) is bool(self.selection):
            raise ConfigurationError(
                "selection says in words what wanted and routing_key choose: pass it with one of them, and change it"
                " with them, since a copy goes on only with the same choice"
            )


@dataclass(frozen=True, slots=True)
class _Wanted(Chooser):
    """Chooses messages by a function of the caller's."""

    function: Callable[[bytes], bool]

    def choose(self, block: Block) -> Choice:
        return Choice([place for place, message in enumerate(block.messages) if self.function(message)])


def _keys_of(function: Callable[[bytes], str | bytes | None], block: Block) -> Sequence[bytes | None]:
    return [key.encode() if isinstance(key, str) else key for key in map(function, block.messages)]


def _filters_of(function: Callable[[bytes], str | None], block: Block) -> Sequence[str | None]:
    return [function(message) for message in block.messages]


def plan_of(
    source: str,
    target: str,
    *,
    is_super: bool,
    offset_type: OffsetType | None,
    offset: int | datetime | None,
    follow: bool,
    until: int | datetime | None,
    name: str | None,
    append: bool,
    filter_values: Sequence[str],
    match_unfiltered: bool,
    choosing: Choosing,
    compression: CompressionType | None,
    rate: float | None,
    credit: int,
    fail_on_gap: bool,
) -> CopyPlan:
    """Returns the plan. Raises ``TypeError`` or ``ConfigurationError`` for what cannot be."""
    check_name("source", source)
    check_name("target", target)
    flags = {"super_stream": is_super, "follow": follow, "append": append, "fail_on_gap": fail_on_gap}
    for what, flag in (flags | {"match_unfiltered": match_unfiltered}).items():
        check_flag(what, flag)
    start = None
    if offset_type is not None or offset is not None:
        start = ConsumerOffsetSpecification(offset_type, offset)
        check_specification("an offset specification", start)
        if is_super and start.offset_type is OffsetType.OFFSET:
            raise ConfigurationError("an offset is that of one partition; pass another offset type")
        if start.offset_type is OffsetType.FIRST:
            start = None
    check_texts("filter_values", filter_values)
    if match_unfiltered and not filter_values:
        raise ConfigurationError("match_unfiltered needs filter_values")
    choosing.check()
    if choosing.routing_key is not None and not is_super:
        raise ConfigurationError("routing keys are for the partitions of a super stream")
    if choosing.filter_value is not None and compression is not None:
        raise ConfigurationError("a sub-entry has no filter values: pass filter_value or compression")
    if rate is not None and not rate > 0:
        raise ConfigurationError(f"rate is more than 0 messages a second, not {rate!r}")
    return CopyPlan(
        source,
        target,
        is_super=is_super,
        to_super=is_super,
        start=start,
        until=_end_of(until, follow=follow, is_super=is_super),
        name=None if name is None else check_prefix(name),
        is_appended=append,
        selection=selection_of(choosing.selection, filter_values, match_unfiltered=match_unfiltered),
        choosers=() if choosing.wanted is None else (_Wanted(choosing.wanted),),
        filter_values=tuple(filter_values),
        match_unfiltered=match_unfiltered,
        filters_of=None if choosing.filter_value is None else partial(_filters_of, choosing.filter_value),
        keys=None if choosing.routing_key is None else Keys(partial(_keys_of, choosing.routing_key), "hash"),
        compression=None if compression is None else check_compression(compression),
        gate=None if rate is None else Rate(rate),
        credit=credit,
        fail_on_gap=fail_on_gap,
    )


def selection_of(words: str, filter_values: Sequence[str], *, match_unfiltered: bool) -> str:
    """Returns all that decides which messages are copied, as one text; empty where all are."""
    if not filter_values:
        return words
    return "\n".join([words, *sorted(f"filter {value!r}" for value in filter_values), f"unfiltered {match_unfiltered}"])


def _end_of(until: int | datetime | None, *, follow: bool, is_super: bool) -> Until | None:
    if follow:
        if until is not None:
            raise ConfigurationError("pass follow, or until, not both")
        return None
    if until is None:
        return END
    if isinstance(until, datetime):
        return Until(time=ConsumerOffsetSpecification(OffsetType.TIMESTAMP, until).offset)
    if is_super:
        raise ConfigurationError(f"until={until} is an offset of one partition; pass a datetime")
    return Until(offset=check_whole("until", until, 0, MAX_OFFSET))


async def copy_streams(source: CopyAccess, target: CopyAccess, plan: CopyPlan, on_gap: GapListener) -> CopyResult:
    """Carries a plan out. Raises the error that ended it. A cancelled copy confirms no more; the next one goes on."""
    copy = Copy(source, target, plan, CopyEvents(), Surroundings(lambda: time.time_ns() // 1_000_000, on_gap))
    try:
        await copy.open()
        why = await copy.work()
    finally:
        await copy.close()
    if why.error is not None:
        raise why.error.with_traceback(None)
    done = [one.account.by for one in copy.copies]
    return CopyResult(
        sum(by[Verdict.DONE] for by in done),
        sum(by[Verdict.PASSED] for by in done),
        sum(by[Verdict.KNOWN] for by in done),
    )
