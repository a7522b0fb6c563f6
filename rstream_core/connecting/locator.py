"""Finds where a stream lives, and connects to the right node: leaders for publishers, replicas for subscriptions.

One connection to a seed node serves all questions: requests that change nothing. It is opened when it is first needed,
and again after it has ended. Nodes that the broker names are remembered, and serve as further seeds.

Questions are asked again after a lost connection, for as long as the client's recovery policy allows. Commands, which
change something, are sent once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from weakref import WeakSet

from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.logins import Logins
from rstream_core.connecting.recovery import Backoff, Recoveries, Run, retry
from rstream_core.errors import (
    RESPONSE_OK,
    AdvertisedHostUnreachable,
    AlreadyClosed,
    ConnectionClosed,
    ConnectionFailed,
    HostNotFound,
    InternalError,
    LeaderNotAvailable,
    ProtocolError,
    RequestTimeout,
    RstreamError,
    ServerError,
    StreamDoesNotExist,
    StreamNotAvailable,
    TlsError,
    error_from_code,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.types import ConnectionOptions, Credentials, Endpoint, StreamMetadata

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

LEADER_WAIT = Backoff(attempts=8)
"""Waits for a leader: a new stream, or one whose leader moves, has none for a moment."""
GONE_WAIT = Backoff(attempts=5, maximum=0.2)
"""Waits for metadata: a broker's notice that a stream is gone comes a moment before its metadata says so."""
LOAD_BALANCER_WAIT = Backoff(attempts=40, initial=0.005, maximum=0.2)
LOAD_BALANCER_SECONDS = 30.0
"""Seconds for all attempts to reach one node through a load balancer."""
DEAD_NODE_WAIT = Backoff(attempts=6, initial=0.005, maximum=0.2)
"""Until a load balancer knows that a node behind it is down, each connection that it leads there ends."""
FIRST_WAIT = Backoff(attempts=1_000_000, initial=0.1, maximum=1.0)
"""Between attempts to reach a broker that may be starting. Their time is what bounds them."""
MAX_REMEMBERED = 32
"""How many nodes are remembered as further seeds."""
AVOIDED = 30.0
"""Seconds for which a node that failed is tried after all others."""


class Locator:
    """One application's view of the cluster."""

    def __init__(self, options: ConnectionOptions, recoveries: Recoveries | None = None) -> None:
        self.options = options
        self._recoveries = recoveries or Recoveries(None)
        self._logins = Logins()
        self._connection: Connection | None = None
        self._connecting: SharedAttempt[Connection] = SharedAttempt()
        self._remembered: dict[Endpoint, None] = {}
        self._failed_at: dict[Endpoint, float] = {}
        self._entries = deque(options.endpoints)
        """The load balancers, in rotation."""
        self._entries.rotate(1)  # ``_connect_to_any`` rotates back before its first attempt
        self._explained: WeakSet[RstreamError] = WeakSet()
        """Errors that ``explain`` has looked into already."""
        self._closed = False

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
        return await Run(FIRST_WAIT, left).retry(self.connection, reason=first)

    async def _connect(self) -> Connection:
        self._connection = await self._kept(await self._connect_to_a_seed())
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
        return await policy.run().retry(operation, helps=helps, reason=loss)

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
        return await self._logins.credentials(self.options.credentials)

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Opens a connection to the node that advertises ``endpoint``."""
        # Asked for once, however many attempts it takes, and outside of their time.
        credentials = await self.credentials()
        if self.options.load_balancer_mode:
            return await self._kept(await self._connect_through_load_balancer(endpoint, credentials))
        reached = self._resolved(endpoint)
        try:
            return await self._kept(await Connection.open(reached, self.options, credentials))
        except ConnectionFailed as error:
            seed = self.options.endpoints[0] if self._connection is None else self._connection.endpoint
            if reached in self.options.endpoints:
                raise
            if isinstance(error, TlsError):  # the node was reached: another address would not help
                raise TlsError(f"the node that {seed} calls {endpoint}: {error}", hint=error.hint) from error
            why = "does not resolve" if isinstance(error, HostNotFound) else f"cannot be reached ({error})"
            if reached != endpoint:
                why = f"the resolver maps to {reached}, which {why}"
            raise AdvertisedHostUnreachable(
                f"connected to {seed}, but it advertises {endpoint}, which {why}",
                hint=Hint.LOAD_BALANCER,
            ) from error

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
            self._failed(connection.endpoint)
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
            self._remember(endpoint)
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

    def _remember(self, endpoint: Endpoint) -> None:
        self._remembered.pop(endpoint, None)
        self._remembered[endpoint] = None
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _resolved(self, endpoint: Endpoint) -> Endpoint:
        """Returns where to reach the node that advertises ``endpoint``. ``HostNotFound`` where the resolver fails."""
        resolver = self.options.resolver
        if resolver is None:
            return endpoint
        try:
            reached = resolver(endpoint)
            problem = reached.problem
        except Exception as error:
            raise HostNotFound(f"the resolver failed for {endpoint}: {error!r}") from error
        if problem:
            raise HostNotFound(f"the resolver maps {endpoint} to an address that cannot exist: {problem}")
        return reached

    async def _connect_to_a_seed(self) -> Connection:
        credentials = await self.credentials()
        if self.options.load_balancer_mode:
            return await self._connect_to_any(credentials)
        return await self._first_that_answers(self._seeds(), credentials)

    def _seeds(self) -> Iterable[Endpoint]:
        """Returns the given seed nodes, and after them the remembered nodes."""
        seeds = dict.fromkeys(self.options.endpoints)
        for node in self._remembered:
            try:
                seeds[self._resolved(node)] = None
            except HostNotFound as error:
                logger.debug("seed node: %s", error)
        return seeds

    async def _first_that_answers(self, seeds: Iterable[Endpoint], credentials: Credentials) -> Connection:
        last: RstreamError | None = None
        for endpoint in self._in_order(seeds):
            try:
                connection = await Connection.open(endpoint, self.options, credentials)
            except RstreamError as error:
                if not error.retriable and not isinstance(error, ConnectionFailed):
                    raise  # another node would give the same answer
                logger.debug("seed node %s: %s", endpoint, error)
                self._failed(endpoint)
                if last is None or endpoint in self.options.endpoints:
                    last = error
            else:
                self._failed_at.pop(endpoint, None)
                return connection
        assert last is not None
        raise last

    def _failed(self, place: Endpoint) -> None:
        self._failed_at.pop(place, None)
        self._failed_at[place] = asyncio.get_running_loop().time()
        if len(self._failed_at) > MAX_REMEMBERED:
            del self._failed_at[next(iter(self._failed_at))]

    def _in_order(self, places: Iterable[Endpoint]) -> list[Endpoint]:
        """Returns the places in their order, but those that failed in the last ``AVOIDED`` seconds at the end."""
        forgotten = asyncio.get_running_loop().time() - AVOIDED
        return sorted(places, key=lambda place: max(self._failed_at.get(place, forgotten), forgotten))

    async def _connect_through_load_balancer(self, wanted: Endpoint, credentials: Credentials) -> Connection:
        """Connects repeatedly until the wanted node answers."""
        run = Run(LOAD_BALANCER_WAIT, LOAD_BALANCER_SECONDS)
        seen: set[Endpoint] = set()

        async def attempt() -> Connection:
            connection = await self._connect_to_any(credentials)
            advertised = connection.session.advertised
            if advertised == wanted:
                return connection
            if advertised is not None:
                seen.add(advertised)
            await connection.close()
            reached = ", ".join(sorted(map(str, seen)))
            raise _AnotherNode(
                f"{run.attempts} connections through {self._names_of_entries()} never reached {wanted}; "
                f"they reached {reached or 'nodes that do not say who they are'}",
                hint=Hint.BALANCER_SPREADS,
            )

        late = self._too_late(LOAD_BALANCER_SECONDS)
        try:
            return await run.retry(attempt, helps=lambda error: isinstance(error, _AnotherNode), reason=late)
        except _AnotherNode as error:
            raise ConnectionFailed(str(error), hint=error.hint) from None

    async def _connect_to_any(self, credentials: Credentials) -> Connection:
        """Connects to any node through a load balancer, and again where it leads to a node that is down.

        Each attempt uses the next load balancer. All attempts together take at most ``connect_timeout`` for each load
        balancer, and a second.
        """

        async def attempt() -> Connection:
            self._entries.rotate(-1)
            return await self._first_that_answers(self._entries, credentials)

        seconds = len(self._entries) * self.options.connect_timeout + 1
        return await Run(DEAD_NODE_WAIT, seconds).retry(attempt, reason=self._too_late(seconds))

    def _too_late(self, seconds: float) -> ConnectionFailed:
        return ConnectionFailed(f"no connection through {self._names_of_entries()} within {seconds:g} s")

    def _names_of_entries(self) -> str:
        return ", ".join(map(str, self._entries))


class _AnotherNode(ConnectionFailed):
    """The load balancer connected to another node than the wanted one."""


def _elects(error: RstreamError) -> bool:
    """Returns whether to wait a moment: a leader is being elected, or a replica of a new stream is starting."""
    return isinstance(error, (LeaderNotAvailable, StreamNotAvailable, InternalError))
