"""Opens the streams that a source reads: finds them, and decides for each where to start and whether to read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.offsets import MOVING, from_offset
from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
from rstream_core.errors import OffsetNotFound, OffsetsGone
from rstream_core.flow.access import StreamAccess
from rstream_core.flow.ends import Ends
from rstream_core.flow.read_plan import AfterStored, LastMessages, ReadPlan, StartAt
from rstream_core.flow.stream_reading import ReadEvents, StreamReading
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

_FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)
_NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)

TurnListener = Callable[[StreamReading, bool], Awaitable[None]]
"""Called when a turn as single active consumer begins (True) and when it ends."""


async def resolve_start(client: StreamAccess, stream: str, start: StartAt) -> ConsumerOffsetSpecification:
    """Returns the specification of a start for a subscription."""
    if isinstance(start, AfterStored):
        try:
            stored = await client.query_offset(stream, start.name)
        except OffsetNotFound:
            return start.otherwise
        return from_offset(stored + 1)
    if isinstance(start, LastMessages):
        offset = await client.tail_offset(stream, start.count)
        return _FIRST if offset is None else from_offset(offset)
    return start


class Opening:
    """Opens the streams of one source."""

    def __init__(
        self, client: StreamAccess, plan: ReadPlan, ends: Ends, events: ReadEvents, on_gap: GapListener
    ) -> None:
        """``on_gap``: told of a gap in a stream that is not read. The client tells of those in the others."""
        self._client = client
        self._plan = plan
        self._ends = ends
        self._events = events
        self._on_gap = on_gap

    async def open(self, readings: Sequence[StreamReading], on_turn: TurnListener) -> None:
        """Subscribes to the streams that have wanted messages; the others are read out afterwards.

        Raises ``OffsetsGone`` where there is a gap that the plan does not allow. After an error or a cancellation the
        subscriptions that were made remain, for the caller to close.
        """
        for reading in readings:
            await self._ends.resolve(reading)
            if reading.is_read_out:
                await self._find_gap(reading.stream)
        wanted = [reading for reading in readings if not reading.is_read_out]
        if wanted and self._plan.single_active:
            self._events.waiting()
        for reading in wanted:
            await self._subscribe(reading, on_turn)

    def _start_of(self, stream: str) -> StartAt:
        offset = self._plan.starts.get(stream)
        return self._plan.start if offset is None else from_offset(offset)

    async def _find_gap(self, stream: str) -> None:
        """Tells of the gap of an empty stream that is not read: it may have had the requested messages."""
        start = self._start_of(stream)
        if isinstance(start, LastMessages) or (
            not isinstance(start, AfterStored) and start.offset_type is not OffsetType.OFFSET
        ):
            return
        spec = await resolve_start(self._client, stream, start)
        if spec.offset_type is not OffsetType.OFFSET:
            return
        gap = await self._client.find_gap(stream, spec.offset or 0)
        if gap is None:
            await self._tell_if_beyond(stream, spec)
            return
        self._on_gap(gap)
        if self._plan.fail_on_gap:
            raise OffsetsGone(str(gap), stream=gap.stream, first=gap.first, last=gap.last)

    async def _tell_if_beyond(self, stream: str, spec: ConsumerOffsetSpecification) -> None:
        """Where nothing is to be read up to the present end: perhaps as the offset is wrong, or the stream was made
        anew.

        The offset behind the last message is the usual one to go on at. Records of the broker's own may follow that.
        """
        until = self._plan.until
        if until is None or until.offset is not None or until.time is not None:
            return
        offset, following = spec.offset or 0, await self._client.resolve_offset(stream, _NEXT)
        if offset > following:
            self._events.beyond(stream, offset, following)

    async def _subscribe(self, reading: StreamReading, on_turn: TurnListener) -> None:
        """Subscribes to a stream, unless it turns out that it has no wanted messages."""
        plan = self._plan
        spec = await self._resolve_start(reading.stream)
        end = reading.end
        if end is not None and spec.offset_type is OffsetType.OFFSET and (spec.offset or 0) > end + 1:
            await self._tell_if_beyond(reading.stream, spec)
        single_active = None
        if plan.single_active:  # here the offset that the group has stored decides
            if spec.offset_type is OffsetType.OFFSET:
                reading.before_start = (spec.offset or 0) - 1
            single_active = self._turns_of(reading, on_turn)
        elif end is not None and (
            (spec.offset_type is OffsetType.NEXT and not reading.is_to_come)
            or (spec.offset_type is OffsetType.OFFSET and (spec.offset or 0) > end)
        ):
            reading.is_read_out = True
            return
        subscription = reading.subscription = await self._client.subscribe(
            reading.stream,
            spec,
            credit=plan.credit,
            filter_values=plan.filter_values,
            match_unfiltered=plan.match_unfiltered,
            single_active=single_active,
            at_leader=bool(plan.filter_values),  # a replica may not have the end yet
            fail_on_gap=plan.fail_on_gap,
        )
        if self._ends_unseen(spec, reading) and not await subscription.barrier():
            await subscription.close()
            reading.subscription, reading.is_read_out = None, True
        elif self._ends.needs_before_start(reading):
            reading.before_start = await self._find_before_start(subscription, spec)

    def _turns_of(self, reading: StreamReading, on_turn: TurnListener) -> SingleActiveConsumer:
        assert self._plan.name is not None

        async def listener(subscription: Subscription, active: bool) -> None:
            await on_turn(reading, active)

        return SingleActiveConsumer(self._plan.name, self._plan.super_stream, listener)

    async def _resolve_start(self, stream: str) -> ConsumerOffsetSpecification:
        plan = self._plan
        start = self._start_of(stream)
        if isinstance(start, AfterStored) and plan.single_active:
            start = start.otherwise  # if none is stored; the broker is asked at each turn
        spec = await resolve_start(self._client, stream, start)
        if plan.single_active and spec.offset_type in MOVING:
            # Resolved now: messages published before the turn begins must not be left out.
            return from_offset(await self._client.resolve_offset(stream, spec))
        return spec

    def _ends_unseen(self, spec: ConsumerOffsetSpecification, reading: StreamReading) -> bool:
        """Returns whether possibly no message comes up to the end, so that no chunk would show the end."""
        is_known = reading.end is not None and not reading.is_to_come
        return is_known and spec.offset_type is OffsetType.TIMESTAMP and not self._plan.single_active

    async def _find_before_start(self, subscription: Subscription, spec: ConsumerOffsetSpecification) -> int:
        """Returns an offset before the first message to come."""
        if spec.offset_type is OffsetType.OFFSET:
            return (spec.offset or 0) - 1
        if spec.offset_type not in (OffsetType.NEXT, OffsetType.TIMESTAMP) or await subscription.barrier():
            return -1
        last = await self._client.last_offset(subscription.stream)
        return -1 if last is None else last
