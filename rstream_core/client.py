"""One application's access to a broker or a cluster: administration, publishers and subscriptions.

``Producer`` and ``Consumer`` are built on it, and so is the command line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rstream_core.errors import (
    AlreadyClosed,
    StreamAlreadyExists,
    StreamDoesNotExist,
)
from rstream_core.locator import Locator
from rstream_core.pool import MAX_IDS, ConnectionPool, Lease
from rstream_core.protocol import commands as c
from rstream_core.publisher import Outcome, Publisher, check_reference, declare_publisher
from rstream_core.subscription import DEFAULT_CREDIT, Subscription, send_subscribe
from rstream_core.types import (
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Endpoint,
    OffsetType,
    StreamMetadata,
    StreamStats,
)

MAX_IN_FLIGHT = 50_000
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024


class Client:
    """Connects when it is first needed, or by ``start()``. For the tasks of one event loop.

    Every method that asks the broker raises the ``ServerError`` of its answer, ``ConnectionFailed`` and
    ``ConnectionClosed`` and their kinds, or ``RequestTimeout``.
    """

    def __init__(
        self,
        options: ConnectionOptions | None = None,
        *,
        max_publishers_by_connection: int = MAX_IDS,
        max_subscribers_by_connection: int = MAX_IDS,
    ) -> None:
        self.options = options or ConnectionOptions()
        self._locator = Locator(self.options)
        self._publisher_pool = ConnectionPool(self._locator, max_per_connection=max_publishers_by_connection)
        self._subscriber_pool = ConnectionPool(self._locator, max_per_connection=max_subscribers_by_connection)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connects to a seed node and logs in."""
        self._check_open()
        await self._locator.connection()

    async def close(self) -> None:
        """Closes every connection. Publishers and subscriptions are to be closed before. May be repeated."""
        self._closed = True
        await asyncio.gather(self._publisher_pool.close(), self._subscriber_pool.close())
        await self._locator.close()

    async def server_version(self) -> str:
        """The version that the broker tells, such as ``4.3.1``."""
        return (await self._locator.connection()).session.server_version

    # Streams.

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, *, exists_ok: bool = False
    ) -> None:
        """Creates a stream. ``arguments`` as in the broker's documentation, such as ``max-length-bytes``.

        ``StreamAlreadyExists`` unless ``exists_ok``; ``PreconditionFailed`` where it exists with other arguments.
        """
        self._check_open()
        text = {key: _argument(value) for key, value in (arguments or {}).items()}
        try:
            await self._locator.ask(c.Create(stream, text), c.CreateResponse, f"stream {stream!r}")
        except StreamAlreadyExists:
            if not exists_ok:
                raise

    async def delete_stream(self, stream: str, *, missing_ok: bool = False) -> None:
        """Deletes a stream with all its messages. ``StreamDoesNotExist`` unless ``missing_ok``."""
        self._check_open()
        try:
            await self._locator.ask(c.Delete(stream), c.DeleteResponse, f"stream {stream!r}")
        except StreamDoesNotExist:
            if not missing_ok:
                raise

    async def stream_exists(self, stream: str) -> bool:
        """Whether the stream exists, with or without a leader at the moment."""
        self._check_open()
        return await self._locator.exists(stream)

    async def metadata(self, stream: str) -> StreamMetadata:
        """Where the stream lives."""
        self._check_open()
        return await self._locator.metadata(stream)

    async def stats(self, stream: str) -> StreamStats:
        """First and committed positions. ``UnsupportedByBroker`` before RabbitMQ 3.11."""
        self._check_open()
        connection = await self._locator.connection()
        connection.session.require(c.Key.STREAM_STATS, "3.11", "reading a stream's statistics")
        answer = await connection.request(c.StreamStats(stream), c.StreamStatsResponse, f"stream {stream!r}")
        known = {key: value for key, value in answer.stats.items() if value >= 0}
        return StreamStats(
            known.get("first_chunk_id"),
            known.get("committed_chunk_id"),
            known.get("last_chunk_id"),
            known.get("committed_offset"),
        )

    async def last_offset(self, stream: str) -> int | None:
        """The offset of the last message there is now; None where there is none.

        Read from the leader's last chunk: exact on every version, also where the broker's own bookkeeping
        follows the last message.
        """
        last = ConsumerOffsetSpecification(OffsetType.LAST)
        async with await self._subscribe_at_leader(stream, last) as subscription:
            if not await subscription.barrier():
                return None
            return (await anext(subscription)).last_offset

    async def tail_offset(self, stream: str, count: int) -> int | None:
        """The offset at which the last ``count`` messages begin (all, if there are fewer); None for an empty stream.

        Offsets have gaps where the broker keeps its own records among the messages, so they are counted.
        """
        end = await self.last_offset(stream)
        if end is None:
            return None
        if count <= 0:
            return end + 1
        reach = count
        while True:
            start = max(0, end - reach + 1)
            seen, first = await self._count_back(stream, start, end, count)
            if seen >= count or start == 0:
                return first
            reach += max(2 * (count - seen), 1024)

    async def _count_back(self, stream: str, start: int, end: int, count: int) -> tuple[int, int]:
        """Messages from ``start`` to ``end``, and the offset of the ``count``-th from the end."""
        runs: deque[tuple[int, int]] = deque()
        total = 0
        spec = ConsumerOffsetSpecification(OffsetType.OFFSET, start)
        async with await self._subscribe_at_leader(stream, spec) as subscription:
            async for chunk in subscription:
                last = min(chunk.last_offset, end)
                runs.append((chunk.offset, last))
                total += last - chunk.offset + 1
                while total - (runs[0][1] - runs[0][0] + 1) >= count:
                    gone = runs.popleft()
                    total -= gone[1] - gone[0] + 1
                if chunk.last_offset >= end:
                    break
        return total, runs[0][0] + max(total - count, 0)

    # Offsets.

    async def store_offset(self, stream: str, reference: str, offset: int) -> None:
        """Stores an offset under a name. The broker does not answer: ``query_offset`` tells whether it has it."""
        self._check_open()
        check_reference(reference)
        if offset < 0:
            raise ValueError(f"an offset is at least 0, not {offset}")
        (await self._locator.connection()).send(c.StoreOffset(reference, stream, offset))

    async def query_offset(self, stream: str, reference: str) -> int:
        """The offset that is stored under a name. ``OffsetNotFound`` where there is none."""
        self._check_open()
        check_reference(reference)
        answer = await self._locator.ask(
            c.QueryOffset(reference, stream),
            c.QueryOffsetResponse,
            f"the offset of {reference!r} in stream {stream!r}",
        )
        return answer.offset

    # Publishing and consuming.

    async def publisher(
        self,
        stream: str,
        reference: str | None = None,
        *,
        listener: Callable[[Outcome], None] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        confirm_timeout: float | None = 30.0,
    ) -> Publisher:
        """A publisher on the stream's leader.

        With a ``reference`` (at most 255 bytes) the broker drops messages whose publishing id it has seen under
        that name, and confirms them. ``max_in_flight`` and ``max_in_flight_bytes`` bound what is written and not
        confirmed; a publisher that waits for a confirm for more than ``confirm_timeout`` seconds ends.
        """
        self._check_open()
        if reference is not None:
            check_reference(reference)
        lease = await self._publisher_pool.acquire(await self._locator.leader(stream))
        try:
            next_id = await declare_publisher(lease, stream, reference)
        except BaseException:
            await self._publisher_pool.release(lease)
            raise
        publisher = Publisher(
            stream,
            reference,
            self._publisher_pool,
            self._locator,
            lease,
            next_publishing_id=next_id,
            listener=listener,
            max_in_flight=max_in_flight,
            max_in_flight_bytes=max_in_flight_bytes,
            confirm_timeout=confirm_timeout,
        )
        lease.connection.publishers[lease.id] = publisher
        lease.connection.streams[publisher] = stream
        return publisher

    async def subscribe(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        *,
        credit: int = DEFAULT_CREDIT,
        properties: Mapping[str, str] | None = None,
    ) -> Subscription:
        """A subscription on a replica of the stream, or on its leader where there is none.

        ``credit`` is how many chunks the broker may send ahead.
        """
        self._check_open()
        return await self._subscribe(await self._locator.replica(stream), stream, spec, credit, properties or {})

    async def _subscribe_at_leader(self, stream: str, spec: ConsumerOffsetSpecification) -> Subscription:
        self._check_open()
        return await self._subscribe(await self._locator.leader(stream), stream, spec, 1, {})

    async def _subscribe(
        self,
        endpoint: Endpoint,
        stream: str,
        spec: ConsumerOffsetSpecification,
        credit: int,
        properties: Mapping[str, str],
    ) -> Subscription:
        if not 0 < credit <= 0xFFFF:
            raise ValueError(f"credit is between 1 and 65535, not {credit}")
        lease: Lease = await self._subscriber_pool.acquire(endpoint)
        subscription = Subscription(stream, spec, self._subscriber_pool, self._locator, lease)
        try:
            await send_subscribe(subscription, lease, spec, credit, properties)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("this client is closed")


def _argument(value: object) -> str:
    """Stream arguments are strings on the wire."""
    return str(value).lower() if isinstance(value, bool) else str(value)
