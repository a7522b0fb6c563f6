"""Copies one stream: a run of the flow from a stream source to a stream sink.

``begin`` makes a mark in the source and opens both sides, ``work`` copies. Positions are offsets of the
source, and publishing ids are offsets + 1, in the order of the source; a sub-entry that goes on whole has the id of its
last message. So what a target has under the name is exactly what lies before its last id there, whenever a copy was
interrupted, and the next one goes on behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.offsets import from_offset
from rstream_core.copying.access import CopyAccess
from rstream_core.copying.looking import Looking
from rstream_core.copying.mark import Mark
from rstream_core.copying.names import UNMARKED, Place
from rstream_core.copying.plan import CopyPlan
from rstream_core.copying.stages import add_filters, add_keys, number, unreadable, without_key
from rstream_core.errors import (
    AccessRefused,
    NotCopied,
    RequestTimeout,
    RstreamError,
)
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.fitting import SUB_ENTRY_TARGET, TooLarge
from rstream_core.flow.read_plan import ReadPlan
from rstream_core.flow.refusing import Bad, LeaveOutBad, LeaveOutKnown
from rstream_core.flow.routing import RouteByHash
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Select, Stage, Stop
from rstream_core.flow.stores import StoreEvery
from rstream_core.flow.stream_reading import ReadEvents, StreamReading
from rstream_core.flow.stream_sink import Batching, StreamSink
from rstream_core.flow.stream_source import StreamSource
from rstream_core.protocol.amqp_sections import size_of
from rstream_core.protocol.routing import partition_indexes
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

BATCH = 2048
"""The most messages of a batch that is copied."""
IN_FLIGHT = 50_000
"""Messages that all publishers of a copy may have in flight together."""
IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Their bytes."""
LEAST_IN_FLIGHT_BYTES = 256 * 1024
"""The least of those that one publisher has, however many there are."""
MARK_TIMEOUT = 5.0
"""Seconds in which a mark must show in the source."""
STORE_EVERY = 5.0
"""Seconds between two stores of how far a stream is copied, in the source."""


class CopyEvents(ReadEvents):
    """What is told of a copy. Each of these may be overridden; none may raise."""

    def copies(self, copy: StreamCopy) -> None:
        """A stream is about to be copied: ``copy`` shows from where on, and under which name."""

    def is_unmarked(self, stream: str, why: RstreamError) -> None:
        """No offset can be stored in this stream of the source: a copy cannot tell it from one that is made anew."""

    def confirmed(self, outcome: Outcome) -> None:
        """Some messages were confirmed, or have failed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a copy needs of the program that it runs in."""

    now_ms: Callable[[], int]
    """Milliseconds since 1970 (UTC)."""
    on_gap: GapListener
    """See ``StreamSource``."""
    outage_until: Callable[[], float] = lambda: 0.0
    """See ``StreamSource``."""
    publishers: int = 1
    """How many publishers share what may be in flight."""


class StreamCopy:
    """The copy of one stream of the source, to one stream of the target or several."""

    def __init__(
        self,
        plan: CopyPlan,
        source: CopyAccess,
        target: CopyAccess,
        looking: Looking,
        events: CopyEvents,
        surroundings: Surroundings,
    ) -> None:
        """``looking``: what was found, after it was decided where to begin."""
        self.looking = looking
        self.name = looking.name
        """Under which it publishes, and stores how far it has come."""
        self.end: int | None = None
        """The offset of the last message that is wanted; None where that is unknown."""
        self.bytes = 0
        """Bytes of the messages that went to the sink; of a sub-entry those that it is compressed to."""
        self.account = Account()
        self._plan = plan
        self._from = source
        self._to = target
        self._events = events
        self._surroundings = surroundings
        self._is_marked = looking.is_marked
        self._source: StreamSource | None = None
        self._sink = StreamSink(self._batching, on_outcome=self._on_outcome, stops_at_rejected=True)
        self._publishers: list[Publisher] = []
        self._run: Run | None = None
        self._why: tuple[Stop, float | None] | None = None

    # Beginning.

    async def begin(self) -> None:
        """After ``decide``: makes the mark where it is missing, and opens both sides."""
        mark = await self._make_mark()
        for place in self.looking.targets:
            self._publishers.append(await self._sink.open(self._make_publisher(place)))
        self._source = StreamSource(
            self._from,
            self._read_plan,
            self.account,
            self._events,
            store_every=StoreEvery(seconds=STORE_EVERY),
            keeper=mark,
            on_gap=self._surroundings.on_gap,
            now_ms=self._surroundings.now_ms,
            outage_until=self._surroundings.outage_until,
        )
        await self._source.open()
        self.end = self._source.readings[0].end if self._plan.until is not None else None
        self._events.copies(self)

    async def _make_mark(self) -> Mark | None:
        """Stores where the copy begins, before its first message. All before that is done with, and nothing behind it
        is known to be: an older mark, of a target that was made anew, must not stay. None where none can be made."""
        looking = self.looking
        begins = looking.begins if looking.begins is not None else looking.first or 0
        if not self._is_marked:
            return None
        if looking.is_resumed and looking.mark is not None and begins >= looking.mark:
            return Mark(self._from, looking.mark)
        stream = looking.source.stream
        try:
            await self._from.store_offset(stream, self.name, begins, verify_timeout=MARK_TIMEOUT)
        except (RequestTimeout, AccessRefused) as error:
            if looking.mark is not None:
                raise  # it could be stored before
            self._is_marked = False
            if not looking.is_resumed:
                self.name += UNMARKED
            self._events.is_unmarked(stream, error)
            return None
        return Mark(self._from, begins)

    def _make_publisher(
        self, place: Place
    ) -> Callable[[Callable[[Outcome], None], Callable[[RstreamError], None]], Awaitable[Publisher]]:
        async def make(listener: Callable[[Outcome], None], on_end: Callable[[RstreamError], None]) -> Publisher:
            return await self._to.publisher(
                place.stream,
                self.name,
                listener=listener,
                on_end=on_end,
                max_in_flight=max(IN_FLIGHT // self._surroundings.publishers, BATCH),
                max_in_flight_bytes=max(IN_FLIGHT_BYTES // self._surroundings.publishers, LEAST_IN_FLIGHT_BYTES),
                confirm_timeout=self._plan.confirm_timeout,
            )

        return make

    @property
    def _read_plan(self) -> ReadPlan:
        plan, begins = self._plan, self.looking.begins
        first = ConsumerOffsetSpecification(OffsetType.FIRST)
        return ReadPlan(
            (self.looking.source.stream,),
            first if begins is None else from_offset(begins),
            plan.until,
            name=self.name if self._is_marked else None,
            filter_values=plan.filter_values,
            match_unfiltered=plan.match_unfiltered,
            credit=plan.credit,
            placed=not plan.looks_inside,
            as_plain=plan.compression is not None and not plan.choosers and not plan.keys,
            fail_on_gap=plan.fail_on_gap,
        )

    @property
    def _batching(self) -> Batching:
        compression = self._plan.compression
        return Batching(messages=BATCH, size=None if compression is None else SUB_ENTRY_TARGET, sub_entries=compression)

    # Copying.

    async def work(self) -> Stop:
        """Copies, and returns why there was no more. An error of the core's is that of the ``Stop``."""
        source = self._source
        assert source is not None
        if source.end is not None:
            return source.end
        gate = self._plan.gate
        self._run = Run(source, self._stages(), self._sink, self.account, gate=gate, gate_gives_back=True)
        if self._why is not None:
            self._run.stop(*self._why)
        why = await self._run.work()
        has_failed = isinstance(why.error, RstreamError)
        if has_failed and self._why is None:
            await self._sink.finish(self._plan.confirm_timeout)  # what is in flight counts as it ends
        if self.account.by[Verdict.FAILED]:
            return why  # the low-water mark lies behind what the target did not take: it must not be stored
        try:
            await source.settle(quietly=has_failed)
        except RstreamError as error:
            return why if has_failed else Stop(str(error), "error", error)
        return why

    def _stages(self) -> list[Stage]:
        plan = self._plan
        stages: list[Stage] = [Select(chooser) for chooser in plan.choosers]
        if plan.choosers:
            stages.append(LeaveOutBad(self._stop_at, unreadable))
        if plan.filters_of is not None:
            stages.append(partial(add_filters, plan.filters_of))
        stages += [LeaveOutBad(self._stop_at, TooLarge(self._limit, plan.compression)), number]
        if plan.keys is not None:
            stages.append(partial(add_keys, plan.keys.of))
            stages.append(LeaveOutBad(self._stop_at, without_key))
            stages.append(RouteByHash(partition_indexes, len(self.looking.targets)))
            stages.append(LeaveOutKnown(self.looking.last_ids, _ignore))
        stages.append(self._measure)
        return stages

    def _limit(self) -> int:
        return min(publisher.max_message_size for publisher in self._publishers)

    def _stop_at(self, block: Block, bad: Sequence[Bad]) -> Stop:
        """Ends the copy at the first message that cannot go on: one that is left out would be lost without a word."""
        place, why = bad[0]
        text = f"offset {block.positions[place]} of stream {block.stream!r}: {why}"
        return Stop(text, "bad message", NotCopied(text))

    def _measure(self, block: Block) -> Block:
        self.bytes += size_of(block.messages)
        return block

    def _on_outcome(self, lane: int, outcome: Outcome) -> None:
        self._events.confirmed(outcome)

    # Figures.

    @property
    def reading(self) -> StreamReading | None:
        """How far the source is read; None before it is opened."""
        return None if self._source is None else self._source.readings[0]

    @property
    def published(self) -> int:
        """Messages that the publishers have taken."""
        return self._sink.published

    @property
    def in_flight(self) -> int:
        """Messages that are neither confirmed nor failed."""
        return self._sink.in_flight

    # Ending.

    def stop(self, why: Stop, drain: float | None) -> None:
        """Ends the copy from outside. May be called at any time, and repeatedly. See ``Run.stop``."""
        if self._why is None:
            self._why = why, drain
        if self._run is not None:
            self._run.stop(why, drain)

    async def close(self, timeout: float = 0.0) -> None:
        """Ends both sides. Never raises but for a cancellation; may be repeated."""
        if self._source is not None:
            await self._source.close()
        await asyncio.gather(*(publisher.close(timeout) for publisher in self._publishers))


def _ignore(block: Block) -> None:
    """The account counts what the target has already."""
