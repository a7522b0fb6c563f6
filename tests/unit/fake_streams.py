"""A client of streams without a broker, for tests of what reads streams. Nothing moves by itself, no clock either."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from rstream_core import (
    Chunk,
    Client,
    ConsumerOffsetSpecification,
    Gap,
    OffsetNotFound,
    OffsetType,
    RstreamError,
    SingleActiveConsumer,
    StreamDoesNotExist,
    UnsupportedByBroker,
)
from rstream_core.flow.stream_reading import ReadEvents, StreamReading
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.chunk import AnyChunk, PlainChunk
from rstream_core.types import StreamStats

USUAL: dict[str, Any] = {
    "is_given": False,
    "to_end": False,
    "until": None,
    "name": None,
    "single_active": False,
    "filter_values": (),
    "match_unfiltered": False,
    "credit": 10,
    "fail_on_gap": False,
}
"""What ``plan_of`` of ``rstream_core.flow.blocks`` is given where nothing else is asked for."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told(ReadEvents):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def waiting(self) -> None:
        self.events.append(("waiting",))

    def beyond(self, stream: str, offset: int, following: int) -> None:
        self.events.append(("beyond", stream, offset, following))

    def begins(self, reading: StreamReading, first: int) -> None:
        self.events.append(("begins", reading.stream, first, reading.end))

    def turn(self, stream: str, active: bool) -> None:
        self.events.append(("turn", stream, active))

    def not_stored(self, stream: str, why: str) -> None:
        self.events.append(("not stored", stream, why))

    def stored(self, stream: str, offset: int | None) -> None:
        self.events.append(("stored", stream, offset))

    def gap(self, gap: Gap) -> None:
        self.events.append(("gap", gap.stream, gap.first, gap.last))


@dataclass
class FakeStream:
    first: int = 0
    last: int | None = None
    """The last message."""
    committed: int | None = None
    """The last offset, which may be that of a record of the broker's own; None: unknown to this broker."""
    stored: dict[str, int] = field(default_factory=dict)


class FakeSubscription:
    def __init__(self, stream: str, spec: ConsumerOffsetSpecification, told: Mapping[str, Any]) -> None:
        self.stream = stream
        self.spec = spec
        self.told = told
        self.chunks: deque[Chunk] = deque()
        self.active = told["single_active"] is None
        self.arrived = asyncio.Event()
        self.error: RstreamError | None = None
        self.finished: list[int | None] = []
        self.taken_back: list[int | None] = []
        self.failed: list[int] = []
        self.has_messages = True
        """What ``barrier`` returns."""
        self.is_done = False
        """What ``nothing_to_come`` returns."""
        self.asked = 0
        self.is_closed = False
        self.is_turn_over = False
        self.held: Chunk | None = None
        self.overdue: Chunk | None = None
        """A chunk of an earlier turn."""

    def arrive(self, offset: int, count: int, timestamp: int = 0) -> None:
        self.arrive_with(offset, [b"%d" % number for number in range(offset, offset + count)], timestamp)

    def arrive_with(self, offset: int, messages: list[bytes], timestamp: int = 0) -> None:
        self.chunks.append(Chunk(self.stream, offset, timestamp, messages, None))
        self.arrived.set()

    def poll(self) -> Chunk | None:
        self.held = self.chunks.popleft() if self.chunks else None
        return self.held

    def poll_plain(self) -> AnyChunk | None:
        """A chunk of plain messages comes as one."""
        chunk = self.poll()
        if chunk is None or not all(data.startswith(b"\0Su\xa0") for data in chunk.messages):
            return chunk
        bodies = [data[5:] for data in chunk.messages]
        return PlainChunk(*chunk[:3], PlainMessages(bodies), chunk.committed_chunk_id)

    def finish(self, offset: int | None = None) -> None:
        self.finished.append(offset)

    def fail(self, offset: int) -> None:
        self.failed.append(offset)

    def take_back(self, behind: int | None) -> None:
        self.taken_back.append(behind)

    def is_wanted(self, chunk: Chunk) -> bool:
        return not self.is_turn_over and chunk is not self.overdue

    async def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    async def barrier(self) -> bool:
        return self.has_messages

    async def nothing_to_come(self) -> bool:
        self.asked += 1
        return self.is_done

    async def close(self) -> None:
        self.is_closed = True

    def abandon(self) -> None:
        self.is_closed = True

    async def turn(self, active: bool) -> None:
        """A turn begins or ends."""
        single_active: SingleActiveConsumer = self.told["single_active"]
        assert single_active.listener is not None
        assert await single_active.listener(cast("Any", self), active) is None
        self.active = active


class FakeClient:
    def __init__(self, **streams: FakeStream) -> None:
        self.streams = streams
        self.subscriptions: dict[str, FakeSubscription] = {}
        self.stores: list[tuple[str, str, int, bool]] = []
        """Stream, name, offset, and whether it was verified."""
        self.store_error: Exception | None = None
        self.has_messages = True
        self.deliver: Callable[[FakeSubscription], None] = lambda subscription: None
        """Called with each new subscription."""
        self.is_closed = False

    @property
    def client(self) -> Client:
        return cast("Client", self)

    async def store_offset(self, stream: str, name: str, offset: int, *, verify_timeout: float | None = None) -> None:
        if self.store_error is not None:
            raise self.store_error
        self.stores.append((stream, name, offset, verify_timeout is not None))

    async def query_offset(self, stream: str, name: str) -> int:
        stored = self.streams[stream].stored
        if name not in stored:
            raise OffsetNotFound(f"the offset of {name!r} in stream {stream!r}")
        return stored[name]

    async def metadata(self, stream: str) -> None:
        if stream not in self.streams:
            raise StreamDoesNotExist(f"stream {stream!r}")

    async def partitions(self, super_stream: str) -> list[str]:
        if super_stream != "all":
            raise StreamDoesNotExist(f"super stream {super_stream!r}")
        return list(self.streams)

    async def close(self) -> None:
        self.is_closed = True

    async def last_offset(self, stream: str) -> int | None:
        return self.streams[stream].last

    async def tail_offset(self, stream: str, count: int) -> int | None:
        last = self.streams[stream].last
        return None if last is None else max(last + 1 - count, 0)

    async def stats(self, stream: str) -> StreamStats:
        found = self.streams[stream]
        if found.committed is None:
            raise UnsupportedByBroker("statistics")
        return StreamStats(found.first, None, None, found.committed)

    async def resolve_offset(self, stream: str, spec: ConsumerOffsetSpecification) -> int:
        found = self.streams[stream]
        following = 0 if found.last is None else found.last + 1
        return following if spec.offset_type is OffsetType.NEXT else max(following - 1, 0)

    async def find_gap(self, stream: str, offset: int) -> Gap | None:
        first = self.streams[stream].first
        return Gap(stream, offset, first - 1) if offset < first else None

    async def subscribe(self, stream: str, spec: ConsumerOffsetSpecification, **told: Any) -> FakeSubscription:
        made = self.subscriptions[stream] = FakeSubscription(stream, spec, told)
        made.has_messages = self.has_messages
        self.deliver(made)
        return made
