"""One subscription to one stream: chunks come in, credits go out.

The unit is the chunk. A chunk's credit goes back when the next chunk is asked for: the application has taken it
by then, and a slow one holds back the broker instead of filling the memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from rstream_core.errors import ChunkError, RstreamError
from rstream_core.locator import Locator
from rstream_core.pool import ConnectionPool, Lease
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import CHUNK_USER, parse_chunk
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

logger = logging.getLogger("rstream_core")

DEFAULT_CREDIT = 10


class Chunk(NamedTuple):
    """Messages that the broker stored together, in the order of their offsets."""

    stream: str
    offset: int
    """Of the first message here; the others follow one by one."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored them."""
    messages: list[bytes]
    """Encoded. Those before the requested offset are dropped already."""
    committed_chunk_id: int | None
    """Where the stream ended when this was sent, by the offset of its last committed chunk; None before 3.11."""

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


class Subscription(AsyncIterator[Chunk]):
    """Made by ``Client.subscribe``: an async iterator over chunks, for one task.

    It ends with the error that ended it: ``ConnectionClosed`` and its kinds, ``StreamDoesNotExist`` or
    ``StreamNotAvailable`` where the stream was deleted or moved, ``ChunkError`` for damaged data; and without one
    after ``close()``. A cancelled ``__anext__`` loses nothing: the same chunk is the next one.
    """

    def __init__(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        pool: ConnectionPool,
        locator: Locator,
        lease: Lease,
    ) -> None:
        self.stream = stream
        self.id = lease.id
        self.error: RstreamError | None = None
        self._pool = pool
        self._locator = locator
        self._lease = lease
        self._first_wanted = spec.offset if spec.offset_type is OffsetType.OFFSET else None
        self._earliest = spec.offset if spec.offset_type is OffsetType.TIMESTAMP else None
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._owed = 0
        self._delivered = False
        self._arrived = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            self._return_credit()
            while not self._waiting:
                if self._closed:
                    raise StopAsyncIteration
                if self.error is not None:
                    self.error = await self._locator.explain(self.stream, self.error)
                    raise self.error
                self._arrived.clear()
                await self._arrived.wait()
            data, committed = self._waiting.popleft()
            self._owed += 1
            try:
                chunk = self._open_chunk(data, committed)
            except ChunkError as error:
                self.error = error
                raise
            if chunk is not None:
                return chunk

    async def barrier(self) -> bool:
        """Whether a chunk has been delivered, or is there to be: right after subscribing, an exact answer.

        A broker sends what it has before it answers the next request on the same connection.
        """
        if not self._delivered:
            await self._lease.connection.request(
                c.Metadata((self.stream,)), c.MetadataResponse, f"stream {self.stream!r}"
            )
        return self._delivered

    async def close(self) -> None:
        """Ends the subscription; an iteration that waits ends too. Never raises, and may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        self._arrived.set()
        connection = self._lease.connection
        try:
            if connection.is_open:  # also after an error: the id is for others now
                await connection.request(
                    c.Unsubscribe(self.id),
                    c.UnsubscribeResponse,
                    f"leaving stream {self.stream!r}",
                    timeout=5.0,
                )
        except RstreamError as error:
            logger.debug("leaving stream %r: %s", self.stream, error)
        finally:
            connection.subscriptions.pop(self.id, None)
            connection.streams.pop(self, None)
            await self._pool.release(self._lease)

    # What the connection calls.

    def on_chunk(self, chunk: bytes, committed_chunk_id: int | None) -> None:
        self._delivered = True
        if not self._closed:
            self._waiting.append((chunk, committed_chunk_id))
            self._arrived.set()

    def on_unavailable(self, error: RstreamError) -> None:
        if self.error is None:
            self.error = error
        self._arrived.set()

    # Inside.

    def _return_credit(self) -> None:
        connection = self._lease.connection
        if self._owed and self.error is None and not self._closed and connection.is_open:
            connection.send(c.Credit(self.id, self._owed))
        self._owed = 0

    def _open_chunk(self, data: bytes, committed: int | None) -> Chunk | None:
        """The messages that are wanted; None where there are none."""
        header, messages = parse_chunk(data)
        if header.kind != CHUNK_USER:
            return None
        offset = header.first_offset
        if self._earliest is not None:
            if header.timestamp < self._earliest:
                return None
            self._earliest = None
        if self._first_wanted is not None:
            if offset < self._first_wanted:
                del messages[: self._first_wanted - offset]
                offset = self._first_wanted
            if messages:
                self._first_wanted = None
        return Chunk(self.stream, offset, header.timestamp, messages, committed) if messages else None


async def send_subscribe(
    subscription: Subscription,
    lease: Lease,
    spec: ConsumerOffsetSpecification,
    credit: int,
    properties: Mapping[str, str],
) -> None:
    """Asks the broker. The handler must be registered: chunks may come before the answer is seen."""
    lease.connection.subscriptions[lease.id] = subscription
    lease.connection.streams[subscription] = subscription.stream
    wire = c.OffsetSpec(spec.offset_type, spec.offset or 0)
    await lease.connection.request(
        c.Subscribe(lease.id, subscription.stream, wire, credit, properties),
        c.SubscribeResponse,
        f"consuming stream {subscription.stream!r}",
    )
