"""Finds where a stream lives, and connects to the right node: leaders for publishers, replicas for subscriptions.

One connection to a seed node serves all questions; it is opened when first needed, and again if it ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TypeVar

from rstream_core.connection import Connection
from rstream_core.errors import (
    RESPONSE_OK,
    AdvertisedHostUnreachable,
    AlreadyClosed,
    ConnectionFailed,
    HostNotFound,
    LeaderNotAvailable,
    RstreamError,
    ServerError,
    StreamDoesNotExist,
    StreamNotAvailable,
    error_from_code,
)
from rstream_core.protocol import commands as c
from rstream_core.recovery import Backoff, retry
from rstream_core.types import ConnectionOptions, Endpoint, StreamMetadata

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

LEADER_WAIT = Backoff(attempts=8)
"""A new stream, or one whose leader moves, is without a leader for a moment."""
GONE_WAIT = Backoff(attempts=5, maximum=0.2)
"""A broker tells that a stream is gone a moment before its metadata does."""
LOAD_BALANCER_ATTEMPTS = 40


class Locator:
    """One application's view of the cluster."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._retired = False

    async def connection(self) -> Connection:
        """The connection for questions. Raises the last seed node's error where none can be reached."""
        async with self._opening:
            if self._connection is None or not self._connection.is_open:
                self._connection = await self._kept(await self._connect_to_a_seed())
            return self._connection

    @property
    def connections(self) -> list[Connection]:
        """The one for questions, where there is one."""
        return [] if self._connection is None else [self._connection]

    async def ask(self, message: object, expect: type[T], what: str) -> T:
        """One request on that connection."""
        return await (await self.connection()).request(message, expect, what)

    async def metadata(self, stream: str) -> StreamMetadata:
        """Leader and replicas. Raises ``StreamDoesNotExist``, ``StreamNotAvailable``, ``LeaderNotAvailable``."""
        what = f"stream {stream!r}"
        answer = await self.ask(c.Metadata((stream,)), c.MetadataResponse, what)
        brokers = {broker.reference: Endpoint(broker.host, broker.port) for broker in answer.brokers}
        for location in answer.streams:
            if location.stream != stream:
                continue
            if location.code != RESPONSE_OK:
                raise error_from_code(location.code, what)
            return StreamMetadata(
                stream,
                brokers.get(location.leader),
                tuple(brokers[replica] for replica in location.replicas if replica in brokers),
            )
        raise StreamDoesNotExist(f"{what}: the broker's answer does not name it")

    async def exists(self, stream: str) -> bool:
        try:
            await self.metadata(stream)
        except StreamDoesNotExist:
            return False
        except (StreamNotAvailable, LeaderNotAvailable):
            return True
        return True

    async def leader(self, stream: str) -> Endpoint:
        """The leader, waiting a moment for one to be elected."""
        return (await self._located(stream))[0]

    async def replica(self, stream: str) -> Endpoint:
        """A replica by chance, to spread readers and to spare the leader; the leader where it is alone."""
        leader, replicas = await self._located(stream)
        return random.choice(replicas) if replicas else leader  # noqa: S311 - spreads load, keeps no secret

    async def explain(self, stream: str, error: RstreamError) -> RstreamError:
        """Tells a deleted stream from one that moved: the broker's notice does not."""
        if not isinstance(error, StreamNotAvailable):
            return error

        async def look() -> None:
            await self.metadata(stream)
            raise error  # it is there - still, perhaps

        try:
            await retry(look, GONE_WAIT)
        except ServerError as found:
            return found
        except RstreamError as problem:
            logger.debug("looking for stream %r: %s", stream, problem)
        return error

    async def connect(self, endpoint: Endpoint) -> Connection:
        """A connection to the node that calls itself ``endpoint``."""
        if self.options.load_balancer_mode:
            return await self._kept(await self._connect_through_load_balancer(endpoint))
        try:
            return await self._kept(await Connection.open(endpoint, self.options))
        except ConnectionFailed as error:
            seed = self.options.endpoints[0] if self._connection is None else self._connection.endpoint
            if endpoint in self.options.endpoints:
                raise
            why = "does not resolve" if isinstance(error, HostNotFound) else f"cannot be reached ({error})"
            raise AdvertisedHostUnreachable(
                f"connected to {seed}, but it advertises {endpoint}, which {why}",
                hint="pass --load-balancer, or set stream.advertised_host on the broker",
            ) from error

    def retire(self) -> None:
        """From here on no connection is made, and one that is being made is closed: ``AlreadyClosed``."""
        self._retired = True

    async def _kept(self, connection: Connection) -> Connection:
        if self._retired:
            await connection.close()
            raise AlreadyClosed("this client is closed")
        return connection

    async def close(self) -> None:
        """Closes the connection for questions. Never raises."""
        self.retire()
        if self._connection is not None:
            await self._connection.close()

    async def _located(self, stream: str) -> tuple[Endpoint, tuple[Endpoint, ...]]:
        async def look() -> tuple[Endpoint, tuple[Endpoint, ...]]:
            metadata = await self.metadata(stream)
            if metadata.leader is None:
                raise LeaderNotAvailable(f"stream {stream!r} has no leader at the moment")
            return metadata.leader, metadata.replicas

        return await retry(look, LEADER_WAIT)

    async def _connect_to_a_seed(self) -> Connection:
        errors: list[ConnectionFailed] = []
        for endpoint in self.options.endpoints:
            try:
                return await Connection.open(endpoint, self.options)
            except ConnectionFailed as error:
                logger.debug("seed node %s: %s", endpoint, error)
                errors.append(error)
        raise errors[-1]

    async def _connect_through_load_balancer(self, wanted: Endpoint) -> Connection:
        """Connects again until the node that answers is the wanted one."""
        seen: set[Endpoint] = set()
        delays = Backoff(attempts=LOAD_BALANCER_ATTEMPTS, initial=0.005, maximum=0.2).delays()
        for attempt in range(LOAD_BALANCER_ATTEMPTS):
            entry = self.options.endpoints[attempt % len(self.options.endpoints)]
            connection = await Connection.open(entry, self.options)
            advertised = connection.session.advertised
            if advertised == wanted:
                return connection
            if advertised is not None:
                seen.add(advertised)
            await connection.close()
            await asyncio.sleep(next(delays, 0))
        raise ConnectionFailed(
            f"{LOAD_BALANCER_ATTEMPTS} connections through {self.options.endpoints[0]} never reached {wanted}; "
            f"they reached {', '.join(map(str, sorted(seen, key=str))) or 'nodes that do not say who they are'}",
            hint="does the load balancer spread connections over all nodes?",
        )
