"""The sink that publishes: to one stream, or to several, each of which has a publisher and a lane.

Messages wait in their lane until there is a batch of them, or until they have waited for the linger time. Then all that
waits is published, lane by lane: a publisher gets whole blocks, and makes batches of them, where nothing is to be done
between two batches. The publishers bound what is in flight: ``push`` waits for them, and
that is the back pressure. Confirms acknowledge ranges of positions; a message that is rejected, or not confirmed, is
acknowledged as failed.

Positions go to the publisher with each batch, and come back with its outcomes, so nothing here is done once a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from rstream_core.errors import MessageTooLarge, NotConfirmed, RstreamError
from rstream_core.flow.acks import Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.fitting import batch_ends
from rstream_core.flow.lane import Lane, LanePublisher
from rstream_core.flow.stages import Stop
from rstream_core.protocol.amqp_sections import size_of
from rstream_core.publishing.in_flight import Outcome
from rstream_core.timeslice import TimeSlice
from rstream_core.types import CompressionType

GATHERED = 256 * 1024
"""Bytes in all lanes that are published without waiting for more."""

P = TypeVar("P", bound=LanePublisher)
Listener = Callable[[Outcome], None]
OnEnd = Callable[[RstreamError], None]


@dataclass(frozen=True, slots=True)
class Batching:
    """How messages are gathered and published."""

    messages: int = 1000
    """The most messages of a batch."""
    size: float | None = None
    """The most bytes of a batch; None: no limit."""
    enough: float | None = None
    """Bytes for which nobody waits longer; None, and at most: ``GATHERED``."""
    linger: float = 0.02
    """Seconds that a message waits for others."""
    sub_entries: CompressionType | None = None
    """Publishes each batch as a sub-entry, compressed like this; None: each message is an entry by itself."""
    confirm_each: bool = False
    """Waits until a batch is confirmed before the next one is published."""


class _Origin(NamedTuple):
    """Where the messages of a call are from. The outcomes bring it back."""

    acks: Acks
    positions: Sequence[int]


class StreamSink:
    """See ``flow.run.Sink``. ``open`` is called for each stream before the run; the caller closes the publishers.

    Each message that it takes is acknowledged once: when its publisher knows what became of it. Those that wait in a
    lane at the end are not; ``take_waiting`` returns them.
    """

    def __init__(
        self,
        batching: Batching,
        *,
        on_outcome: Callable[[int, Outcome], None] | None = None,
        stops_at_rejected: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``on_outcome`` gets each outcome with the index of its lane, after its messages were acknowledged, and must
        not raise. ``stops_at_rejected``: a rejected message makes the sink take nothing more. ``clock``: None for
        the event loop's, which ``Run`` goes by."""
        self.failed: Stop | None = None
        self.lanes: list[Lane] = []
        self._batching = batching
        self._cuts_batches = batching.confirm_each or batching.sub_entries is not None or batching.size is not None
        """Whether batches are cut here, since something is done for each; otherwise the publisher cuts them."""
        self._enough = min(batching.size or GATHERED, batching.enough or GATHERED, GATHERED)
        self._on_outcome = on_outcome
        self._stops_at_rejected = stops_at_rejected
        self._clock = clock or asyncio.get_running_loop().time
        self._wake: Callable[[], None] | None = None
        self._time_slice = TimeSlice()
        self._messages = self._size = 0
        """Messages that wait in all lanes, and their bytes while they are too few for a batch."""
        self._since: float | None = None
        """When the oldest message that waits has come."""

    @property
    def published(self) -> int:
        """Messages that the publishers of all lanes have taken. This and the next two are counted when asked for."""
        return sum(lane.publisher.published for lane in self.lanes)

    @property
    def in_flight(self) -> int:
        """Messages that are neither confirmed nor failed, in all lanes."""
        return sum(lane.publisher.in_flight for lane in self.lanes)

    @property
    def sent_again(self) -> int:
        """Copies of messages that may be stored as duplicates: see ``Publisher.sent_again``."""
        return sum(lane.publisher.sent_again for lane in self.lanes)

    async def open(self, make: Callable[[Listener, OnEnd], Awaitable[P]]) -> P:
        """Opens the publisher of the next lane: ``make`` gets its listener and ``on_end``. Raises its errors."""
        number, lane = len(self.lanes), Lane()
        publisher = await make(partial(self._settle, number), self._fail)
        lane.publisher = publisher
        self.lanes.append(lane)
        return publisher

    # For ``Run``.

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        for lane in self.lanes:  # one may have ended meanwhile
            if lane.publisher.error is not None:
                self._fail(lane.publisher.error)

    def push(self, block: Block) -> Awaitable[None] | None:
        self.hold(block)
        if self._messages >= self._batching.messages or self._size >= self._enough:
            return self._publish_waiting()
        return None

    def due(self) -> float | None:
        return None if self._since is None else self._since + self._batching.linger

    def tick(self) -> Awaitable[None] | None:
        return self._publish_waiting()

    async def drain(self) -> None:
        """Publishes what waits, and returns when all is confirmed or has failed.

        Raises the error of a publisher that has ended, and ``NotConfirmed`` where a rejection has stopped the sink.
        """
        for lane in self.lanes:
            await lane.publisher.check()
        self._check()
        await self._publish_waiting()
        for lane in self.lanes:
            await lane.publisher.flush()
        self._check()

    # For the end of a run.

    async def finish(self, timeout: float) -> None:
        """After a failure: waits until nothing is in flight in any lane, at most ``timeout`` seconds."""
        publishers = [lane.publisher for lane in self.lanes if lane.publisher.in_flight]
        await asyncio.gather(*(publisher.flush(timeout) for publisher in publishers), return_exceptions=True)

    def hold(self, block: Block) -> None:
        """Puts the messages into their lanes, and publishes nothing."""
        if self._since is None:
            self._since = self._clock()
        self._messages += block.count
        if self._messages < self._batching.messages:  # otherwise it makes no difference
            self._size += size_of(block.messages)
        if block.lanes is None:
            self.lanes[block.lane].add(block)
            return
        for lane, part in block.scatter():
            self.lanes[lane].add(part)

    def take_waiting(self) -> Iterator[tuple[str, Block]]:
        """Yields what was not published, with its stream. It stays open."""
        for lane in self.lanes:
            for block in lane.take():
                yield lane.publisher.stream, block

    # Inside.

    def _check(self) -> None:
        if self.failed is not None and self.failed.error is not None:
            raise self.failed.error

    async def _publish_waiting(self) -> None:
        """Publishes what waits. What could not be published waits still."""
        self._time_slice.begin()
        for lane in self.lanes:
            if lane:
                await self._publish_lane(lane)
        self._since = None
        self._messages = self._size = 0

    async def _publish_lane(self, lane: Lane) -> None:
        waiting, at, start = lane.take(), 0, 0
        batching, publisher = self._batching, lane.publisher
        try:
            while at < len(waiting):
                block = waiting[at]
                context = _Origin(block.ack, block.positions)
                ends: Iterable[int] = (block.count,)
                if self._cuts_batches:
                    ends = batch_ends(block.messages, batching.messages, batching.size)
                for end in ends:
                    before = publisher.published
                    try:
                        await self._publish_batch(publisher, block, slice(start, end), context)
                    finally:
                        start += publisher.published - before
                    if self._time_slice.is_over():  # for signals, deadlines and confirms
                        await self._time_slice.give_way()
                at, start = at + 1, 0
        finally:
            rest = waiting[at:]
            if start:
                _, rest[0] = rest[0].split(start)
            lane.put_back([block for block in rest if block.count])

    async def _publish_batch(self, publisher: LanePublisher, block: Block, part: slice, context: object) -> None:
        batching, place = self._batching, part.start
        messages = block.messages if part == slice(0, block.count) else block.messages[part]
        if batching.sub_entries is not None:
            ids = None if block.ids is None else block.ids[part]
            await _publish_sub_entry(publisher, messages, batching.sub_entries, ids, context, place)
        else:
            await publisher.publish(
                messages,
                publishing_ids=None if block.ids is None else block.ids[part],
                filter_values=None if block.filters is None else block.filters[part],
                context=context,
                place=place,
                most=batching.messages,
            )
        if batching.confirm_each:
            await publisher.flush()

    # Called by publishers.

    def _settle(self, number: int, outcome: Outcome) -> None:
        """Acknowledges the messages of an outcome."""
        origin, places = outcome.context, outcome.places
        assert isinstance(origin, _Origin)
        if type(places) is range:
            positions = origin.positions[places.start : places.stop]
        else:
            positions = [origin.positions[place] for place in places]
        origin.acks.done(positions, Verdict.FAILED if outcome.failed else Verdict.DONE)
        if self._on_outcome is not None:
            self._on_outcome(number, outcome)
        if self._stops_at_rejected and outcome.failed and outcome.failed[0].code:
            self._fail(NotConfirmed(outcome.failed[0].reason))

    def _fail(self, error: RstreamError) -> None:
        """Takes nothing more. The first reason counts."""
        if self.failed is None:
            self.failed = Stop(str(error), "error", error)
            if self._wake is not None:
                self._wake()


async def _publish_sub_entry(
    publisher: LanePublisher,
    messages: Sequence[bytes],
    compression: CompressionType,
    ids: Sequence[int] | None,
    context: object,
    place: int,
) -> None:
    """Publishes a sub-entry, or several if one does not fit a frame: each under the id of its last message."""
    last = None if ids is None else ids[-1]
    try:
        await publisher.publish_sub_entry(messages, compression, publishing_id=last, context=context, place=place)
    except MessageTooLarge:
        if len(messages) < 2:
            raise
        middle = len(messages) // 2
        first, second = (None, None) if ids is None else (ids[:middle], ids[middle:])
        await _publish_sub_entry(publisher, messages[:middle], compression, first, context, place)
        await _publish_sub_entry(publisher, messages[middle:], compression, second, context, place + middle)
