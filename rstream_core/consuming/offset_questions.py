"""The questions to a broker about the offsets of a stream: where it begins and ends, what is stored, what is missing.

The functions ask on a connection that the caller has, once, without retries. ``OffsetQuestions`` finds the right node
first, and asks again after a lost connection, as the client's recovery allows.

The broker's figures do not say where a stream ends: see "The end of a stream, exactly" in docs/architecture.md. So
``OffsetQuestions`` reads the leader's data for that, through a subscription that its owner opens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, TypeVar

from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from rstream_core.connecting.recovery import Backoff, Retries
from rstream_core.consuming.gaps import Gap
from rstream_core.consuming.offsets import (
    NotStored,
    Tail,
    from_offset,
    gap_from,
    next_offset,
    not_stored,
    resolved_start,
    stats_of,
    wire_spec,
)
from rstream_core.errors import OffsetNotFound, ProtocolError, RequestTimeout, RstreamError
from rstream_core.protocol import commands as c
from rstream_core.types import ChunkSpan, ConsumerOffsetSpecification, OffsetType

T = TypeVar("T")

STORED_WAIT = Backoff(initial=0.005, maximum=0.25)
"""Delays between questions for a stored offset. A time limit bounds them, not the number of attempts."""
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)
LAST = ConsumerOffsetSpecification(OffsetType.LAST)


# On a connection.


async def stored_offset(connection: Connection, stream: str, reference: str) -> int:
    """Returns the offset that is stored under a reference. Raises ``OffsetNotFound`` where there is none."""
    what = f"the offset of {reference!r} in stream {stream!r}"
    return (await connection.request(c.QueryOffset(reference, stream), what)).offset


async def first_offset(connection: Connection, stream: str) -> int | None:
    """Returns the first offset of a stream on this node, which may be that of one of the broker's own records.

    Returns None for an empty stream, and before RabbitMQ 3.11.
    """
    if connection.session.supports(c.Key.RESOLVE_OFFSET_SPEC):  # reads the files; StreamStats lags behind them
        return await resolve_offset(connection, stream, FIRST)
    if not connection.session.supports(c.Key.STREAM_STATS):
        return None
    answer = await connection.request(c.StreamStats(stream), f"stream {stream!r}")
    return stats_of(answer.stats).first_offset


async def resolve_offset(connection: Connection, stream: str, spec: ConsumerOffsetSpecification) -> int | None:
    """Asks the broker which offset a specification means now; returns None before RabbitMQ 4.3."""
    if not connection.session.supports(c.Key.RESOLVE_OFFSET_SPEC):
        return None
    message = c.ResolveOffsetSpec(stream, wire_spec(spec), {})
    answer = await connection.request(message, f"stream {stream!r}")
    if answer.offset_spec.offset_type != OffsetType.OFFSET:
        raise ProtocolError(f"stream {stream!r}: {connection.endpoint} resolved an offset to none")
    return answer.offset_spec.offset


async def see_stored(connection: Connection, message: c.StoreOffset, limit: float) -> NotStored | None:
    """Asks until the broker returns the stored offset. After ``limit`` seconds, returns what is wrong with its last
    answer."""

    async def look() -> None:  # the broker sends no notice of a stored offset
        stored: int | None = None
        try:
            stored = await stored_offset(connection, message.stream, message.reference)
        except OffsetNotFound:
            pass
        problem = not_stored(message, stored)
        if problem is not None:
            raise problem

    def helps(error: RstreamError) -> bool:
        return isinstance(error, NotStored)

    try:
        await Retries(STORED_WAIT, limit).retry(look, helps=helps, reason=NotStored("the broker does not tell"))
    except NotStored as error:
        return error
    return None


# On the right node, and again after a lost connection.


async def query_offset(locator: Locator, stream: str, reference: str) -> int:
    """Does the same as ``stored_offset`` on any node."""
    return await locator.use(lambda connection: stored_offset(connection, stream, reference))


async def query_publishing_id(locator: Locator, stream: str, reference: str) -> int:
    """Returns the last publishing id that a stream has under a reference; 0 for none."""
    message = c.QueryPublisherSequence(reference, stream)
    what = f"the last publishing id of {reference!r} in stream {stream!r}"
    return (await locator.use(lambda connection: connection.request(message, what))).sequence


async def store_offset(
    locator: Locator, stream: str, reference: str, offset: int, verify_timeout: float | None = None
) -> None:
    """Stores an offset under a reference. The broker does not answer.

    With a ``verify_timeout``, asks for the offset until the broker returns this one, and raises ``RequestTimeout``
    where it does not within that many seconds.
    """
    message = c.StoreOffset(reference, stream, offset)

    async def store(connection: Connection) -> NotStored | None:
        await connection.drain()  # back pressure: no answer would hold back a caller that stores often
        connection.send(message)
        return None if verify_timeout is None else await see_stored(connection, message, verify_timeout)

    missing = await locator.use(store)
    if missing is not None:
        raise RequestTimeout(
            f"offset {offset} does not show in stream {stream!r} within {verify_timeout:g} s: {missing}",
            hint=missing.hint,
        )


class MessageRun(Protocol):
    """Messages that follow one another."""

    @property
    def offset(self) -> int: ...
    @property
    def last_offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


class LeaderReader(Protocol):
    """The methods of a subscription with one credit that are used here. See ``Subscription``."""

    @property
    def chunk_end(self) -> int: ...
    async def barrier(self) -> bool: ...
    async def next_there_is(self) -> MessageRun | None: ...
    def __aiter__(self) -> AsyncIterator[MessageRun]: ...
    async def __anext__(self) -> MessageRun: ...


ReadAtLeader = Callable[
    [str, ConsumerOffsetSpecification], Awaitable[AbstractAsyncContextManager[LeaderReader, bool | None]]
]
"""Subscribes to a stream at its leader with one credit, without recovery: after a lost connection, ask anew."""


class OffsetQuestions:
    """The questions of one client about the offsets of its streams. For the tasks of one event loop.

    Every method raises the ``ServerError`` of the broker's answer, ``ConnectionFailed``, ``ConnectionClosed``,
    ``ProtocolError`` or ``RequestTimeout``. A cancelled one gives its connection back.
    """

    def __init__(self, locator: Locator, pool: ConnectionPool, read: ReadAtLeader) -> None:
        self._locator = locator
        self._pool = pool
        self._read = read

    async def resolve(self, stream: str, spec: ConsumerOffsetSpecification) -> int:
        """Returns the offset of the first message that a subscription would get now. See ``Client.resolve_offset``."""
        resolve = partial(resolve_offset, stream=stream, spec=spec)
        found = await self._locator.when_elected(lambda: self._on_leader(stream, resolve))
        if found is None:
            found = await self._locator.when_elected(lambda: self.position(stream, spec))
        return resolved_start(spec, found)

    async def position(self, stream: str, spec: ConsumerOffsetSpecification) -> int:
        """Does the same as ``resolve`` by reading, once, on any version of the broker."""
        if spec.offset_type is not OffsetType.NEXT:
            async with await self._read(stream, spec) as reader:
                run = await reader.next_there_is()
            if run is not None:
                return run.offset
        end = await self._last(stream)
        return next_offset(None if end is None else end.last)

    async def last(self, stream: str) -> int | None:
        """Returns the offset of the last message that the stream has now; None for an empty stream."""
        end = await self._locator.when_elected(lambda: self._last(stream))
        return None if end is None else end.last

    async def span(self, stream: str, spec: ConsumerOffsetSpecification) -> ChunkSpan | None:
        """Returns where the first chunk lies that a subscription would get now. See ``Client.chunk_span``."""
        if spec.offset_type is OffsetType.LAST:
            return await self._locator.when_elected(lambda: self._last(stream))
        return await self._locator.when_elected(lambda: self._span(stream, spec))

    async def tail(self, stream: str, count: int) -> int | None:
        """Returns the offset at which the last ``count`` messages begin. See ``Client.tail_offset``."""
        end = await self.last(stream)
        if end is None:
            return None
        if count <= 0:
            return end + 1
        reach = count
        while True:
            start = max(0, end - reach + 1)
            tail = await self._locator.when_elected(partial(self._count_back, stream, start, end, count))
            if tail.missing <= 0 or start == 0:
                return tail.first
            reach = Tail.reach(reach, tail.missing)

    async def find_gap(self, stream: str, offset: int) -> Gap | None:
        """Returns the gap that retention has left from an offset on. See ``Client.find_gap``."""
        first = partial(first_offset, stream=stream)
        return gap_from(stream, offset, await self._locator.when_elected(lambda: self._on_leader(stream, first)))

    async def _on_leader(self, stream: str, ask: Callable[[Connection], Awaitable[T]]) -> T:
        lease = await self._pool.acquire(await self._locator.leader_now(stream))
        try:
            return await ask(lease.connection)
        finally:
            await self._pool.release(lease)

    async def _span(self, stream: str, spec: ConsumerOffsetSpecification) -> ChunkSpan | None:
        async with await self._read(stream, spec) as reader:
            run = await reader.next_there_is()
            return None if run is None else ChunkSpan(run.offset, reader.chunk_end - 1, run.timestamp)

    async def _last(self, stream: str) -> ChunkSpan | None:
        async with await self._read(stream, LAST) as reader:
            # No chunk yet does not mean an empty stream: the last chunk may not be committed yet, and come in a moment.
            if not await reader.barrier() and not await self._has_messages(stream):
                return None
            try:
                async with asyncio.timeout(self._locator.options.request_timeout):
                    run = await anext(reader)
                    return ChunkSpan(run.offset, reader.chunk_end - 1, run.timestamp)
            except TimeoutError:
                raise RequestTimeout(f"stream {stream!r}: its last chunk did not come") from None

    async def _has_messages(self, stream: str) -> bool:
        async with await self._read(stream, FIRST) as reader:
            return await reader.barrier()

    async def _count_back(self, stream: str, start: int, end: int, count: int) -> Tail:
        """Counts the messages from ``start`` to ``end``."""
        tail = Tail(count, end)
        async with await self._read(stream, from_offset(start)) as reader:
            async for run in reader:
                if tail.add(run.offset, run.last_offset):
                    break
        return tail
