"""Finds where a stream lives, and connects to the right node: leaders for publishers, replicas for subscriptions.

One connection to a seed node serves all questions: requests that change nothing. It is opened when it is first needed,
and again after it has ended. How a node is reached is decided by ``nodes``.

Questions are asked again after a lost connection, for as long as the client's recovery policy allows. Commands, which
change something, are sent once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakSet

from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.nodes import Nodes
from rstream_core.connecting.recovery import Backoff, Recoveries, Retries, retry
from rstream_core.errors import (
    RESPONSE_OK,
    AlreadyClosed,
    ConnectionClosed,
    ConnectionFailed,
    InternalError,
    LeaderNotAvailable,
    ProtocolError,
    RequestTimeout,
    RstreamError,
    ServerError,
    StreamDoesNotExist,
    StreamNotAvailable,
    error_from_code,
)
from rstream_core.protocol import commands as c
from rstream_core.refused_twin import tell_refused
from rstream_core.types import ConnectionOptions, Credentials, Endpoint, StreamMetadata

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

LEADER_WAIT = Backoff(attempts=8)
"""Waits for a leader: a new stream, or one whose leader moves, has none for a moment."""
GONE_WAIT = Backoff(attempts=5, maximum=0.2)
"""Waits for metadata: a broker's notice that a stream is gone comes a moment before its metadata says so."""
FIRST_WAIT = Backoff(initial=0.1, maximum=1.0)
"""Between attempts to reach a broker that may be starting. Their time is what bounds them."""


class Locator:
    """One application's view of the cluster."""

    def __init__(self, options: ConnectionOptions, recoveries: Recoveries | None = None) -> None:
        tell_refused()  # every client has a locator
        self._nodes = Nodes(options)
        self._recoveries = recoveries or Recoveries(None)
        self._connection: Connection | None = None
        self._connecting: SharedAttempt[Connection] = SharedAttempt()
        self._explained: WeakSet[RstreamError] = WeakSet()
        """Errors that ``explain`` has looked into already."""
        self._closed = False

    @property
    def options(self) -> ConnectionOptions:
        """How to connect from now on. Connections that are open do not change."""
        return self._nodes.options

    @options.setter
    def options(self, options: ConnectionOptions) -> None:
        self._nodes.options = options

    async def connection(self) -> Connection:
        """Returns the connection for questions, and opens it if necessary.

        Calls made while it is being opened get the same connection, or the same error. If no seed can be reached,
        raises the error of the given seed that was tried last.
        """
        if self._closed:
            raise AlreadyClosed("this client is closed")
        if self._connection is not None and self._connection.is_open:
            return self._connection
        async with self._connecting:
            return await self._connecting.result(self._connect)

    async def connection_within(
        self, seconds: float, on_wait: Callable[[RstreamError], None] | None = None
    ) -> Connection:
        """As ``connection``. Where no seed node lets us in yet, tries again for so long; the last error counts.

        The first attempt may take longer than that. ``on_wait`` is called with its error if others follow; without it,
        that is logged.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            return await self.connection()
        except RstreamError as error:
            left = until - loop.time()
            if left <= 0 or not error.retriable:
                raise
            first = error
        if on_wait is None:
            logger.info("waiting %.3g s for a broker: %s", left, first)
        else:
            on_wait(first)
        return await Retries(FIRST_WAIT, left).retry(self.connection, reason=first)

    async def _connect(self) -> Connection:
        self._connection = await self._kept(await self._nodes.connect_to_any())
        return self._connection

    @property
    def connections(self) -> list[Connection]:
        """A list of the connection for questions; empty where there is none."""
        return [] if self._connection is None else [self._connection]

    async def again(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Runs an operation that may be repeated: again after a lost connection, as the client's recovery allows.

        If no connection was lost, an error of connecting is raised at once.
        """
        policy = self._recoveries.policy
        lost = self._is_lost()

        def helps(error: RstreamError) -> bool:
            nonlocal lost
            lost = lost or isinstance(error, ConnectionClosed) or self._is_lost()
            kinds = (ConnectionClosed, ConnectionFailed, RequestTimeout)
            return lost and isinstance(error, kinds) and self._recoveries.can_help(error)

        try:
            return await operation()
        except RstreamError as error:
            if policy is None or not helps(error):
                raise
            loss = error
        # The policy's time begins only now: it limits the outage, not an operation that succeeds.
        return await policy.retries().retry(operation, helps=helps, reason=loss)

    def _is_lost(self) -> bool:
        return self._connection is not None and not self._connection.is_open

    async def use(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs an operation on the connection for questions, and repeats it after a lost connection."""
        return await self.again(lambda: self._use(operation))

    async def ask(self, message: c.Request[T], what: str) -> T:
        """Sends a question and returns the answer. Asks again after a lost connection."""
        return await self.again(lambda: self._ask(message, what))

    async def command(self, message: c.Request[T], what: str) -> T:
        """Sends a request that changes something, once, and returns the answer."""
        return await (await self.again(self.connection)).request(message, what)

    async def metadata(self, stream: str) -> StreamMetadata:
        """Returns leader and replicas.

        Raises ``StreamDoesNotExist``, ``StreamNotAvailable``, ``LeaderNotAvailable``.
        """
        return await self.again(lambda: self._metadata(stream))

    async def exists(self, stream: str) -> bool:
        try:
            await self.metadata(stream)
        except StreamDoesNotExist:
            return False
        except (StreamNotAvailable, LeaderNotAvailable):
            return True
        return True

    async def when_elected(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Runs an operation that needs the stream's leader or a replica; waits a moment until one is elected."""
        return await self.again(lambda: retry(operation, LEADER_WAIT, helps=_elects))

    async def leader_now(self, stream: str) -> Endpoint:
        """Returns the leader. Asks once, without retries: those are up to the caller's recovery."""
        return (await self._leader_and_replicas(stream))[0]

    async def replica_now(self, stream: str) -> Endpoint:
        """Returns the first of ``readers_now``."""
        return (await self.readers_now(stream))[0]

    async def readers_now(self, stream: str) -> list[Endpoint]:
        """Returns nodes to read from: the replicas in random order, to spread readers, then the leader, to spare it."""
        leader, replicas = await self._leader_and_replicas(stream)
        return [*random.sample(replicas, len(replicas)), leader]

    async def explain(self, stream: str, error: RstreamError) -> RstreamError:
        """Returns the error that says whether the stream was deleted or has moved: the broker's notice does not.

        Asks the broker only for a ``StreamNotAvailable``, and once for each error. Otherwise returns ``error``.
        """
        if not isinstance(error, StreamNotAvailable) or error in self._explained:
            return error

        async def look() -> None:
            await self._metadata(stream)
            raise error  # the stream exists, or the metadata is not up to date yet: try again

        try:
            await retry(look, GONE_WAIT)
        except ServerError as found:
            self._explained.add(found)
            return found
        except RstreamError as problem:
            logger.debug("looking for stream %r: %s", stream, problem)
        return error

    async def credentials(self) -> Credentials:
        """Returns the credentials for new connections. Raises ``CredentialsFailed`` where their function fails."""
        return await self._nodes.credentials()

    @property
    def _renew(self) -> Callable[[], Awaitable[Credentials]] | None:
        """What gives the next token to a connection; None where the credentials are fixed."""
        return None if isinstance(self.options.credentials, Credentials) else self.credentials

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Opens a connection to the node that advertises ``endpoint``."""
        seed = None if self._connection is None else self._connection.endpoint
        return await self._kept(await self._nodes.connect(endpoint, named_by=seed))

    def retire(self) -> None:
        """Makes all later attempts to connect, and those under way, raise ``AlreadyClosed``."""
        self._closed = True

    async def _kept(self, connection: Connection) -> Connection:
        if self._closed:
            await connection.close()
            raise AlreadyClosed("this client is closed")
        return connection

    async def close(self) -> None:
        """Closes the connection for questions. Never raises."""
        self.retire()
        if self._connection is not None:
            await self._connection.close()

    async def _use(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs an operation once. If the node does not answer, ends the connection, so that another node is asked next.

        The node itself may be well: if a leader has stalled, RabbitMQ takes up to 50 s to answer Metadata, on any node.
        """
        connection = await self.connection()
        try:
            return await operation(connection)
        except RequestTimeout:
            self._nodes.note_failure(connection.endpoint)
            connection.abort(f"{connection.endpoint} did not answer")
            raise

    async def _ask(self, message: c.Request[T], what: str) -> T:
        return await self._use(lambda connection: connection.request(message, what))

    async def _metadata(self, stream: str) -> StreamMetadata:
        what = f"stream {stream!r}"

        async def ask(connection: Connection) -> tuple[Endpoint, c.MetadataResponse]:
            answer = await connection.request(c.Metadata((stream,)), what)
            return connection.endpoint, answer

        asked, answer = await self._use(ask)
        brokers = {broker.reference: Endpoint(broker.host, broker.port) for broker in answer.brokers}
        for endpoint in brokers.values():
            if endpoint.problem:
                raise ProtocolError(f"{what}: {asked} names a node that cannot exist: {endpoint.problem}")
        for endpoint in brokers.values():
            self._nodes.remember(endpoint)
        for location in answer.streams:
            if location.stream != stream:
                continue
            if location.code != RESPONSE_OK:
                raise error_from_code(location.code, what, where=asked)
            return StreamMetadata(
                stream,
                brokers.get(location.leader),
                tuple(brokers[replica] for replica in location.replicas if replica in brokers),
            )
        raise ProtocolError(f"{what}: the answer of {asked} does not name it")

    async def _leader_and_replicas(self, stream: str) -> tuple[Endpoint, tuple[Endpoint, ...]]:
        metadata = await self._metadata(stream)
        if metadata.leader is None:
            raise LeaderNotAvailable(f"stream {stream!r} has no leader at the moment")
        return metadata.leader, metadata.replicas


def _elects(error: RstreamError) -> bool:
    """Returns whether to wait a moment: a leader is being elected, or a replica of a new stream is starting."""
    return isinstance(error, (LeaderNotAvailable, StreamNotAvailable, InternalError))
