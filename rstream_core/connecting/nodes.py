"""Connects to the nodes of a cluster: the seeds, those that the broker names, and through load balancers.

Nodes that the broker names are remembered, and serve as further seeds. What has failed lately is tried last.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from rstream_core.connecting.connection import Connection
from rstream_core.connecting.logins import Logins
from rstream_core.connecting.recovery import Backoff, Retries
from rstream_core.errors import (
    AdvertisedHostUnreachable,
    ConnectionFailed,
    HostNotFound,
    RstreamError,
    TlsError,
)
from rstream_core.hints import Hint
from rstream_core.types import ConnectionOptions, Credentials, Endpoint

logger = logging.getLogger("rstream_core")

LOAD_BALANCER_WAIT = Backoff(attempts=40, initial=0.005, maximum=0.2)
LOAD_BALANCER_SECONDS = 30.0
"""Seconds for all attempts to reach one node through a load balancer."""
DEAD_NODE_WAIT = Backoff(attempts=6, initial=0.005, maximum=0.2)
"""Until a load balancer knows that a node behind it is down, each connection that it leads there ends."""
MAX_REMEMBERED = 32
"""How many nodes are remembered as further seeds."""
AVOIDED = 30.0
"""Seconds for which a node that failed is tried after all others."""


class Nodes:
    """The nodes of one cluster, as one client reaches them. For one event loop.

    All that connect raise ``ConnectionFailed``, or the ``ServerError`` with which a node refuses.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._logins = Logins()
        self._remembered: dict[Endpoint, None] = {}
        self._failed_at: dict[Endpoint, float] = {}
        self._entries = deque(options.endpoints)
        """The load balancers, in rotation."""
        self._entries.rotate(1)  # ``_connect_through_any_balancer`` rotates back before its first attempt

    async def credentials(self) -> Credentials:
        """Returns the credentials for new connections. Raises ``CredentialsFailed`` where their function fails."""
        return await self._logins.credentials(self.options.credentials)

    async def connect_to_any(self) -> Connection:
        """Opens a connection to a node of the cluster: the first of the seeds that lets us in.

        If none does, raises the error of the given seed that was tried last.
        """
        credentials = await self.credentials()
        with self._logins.trial(credentials):
            if self.options.load_balancer_mode:
                return await self._connect_through_any_balancer(credentials)
            return await self._first_that_answers(self._seeds(), credentials)

    async def connect(self, endpoint: Endpoint, *, named_by: Endpoint | None) -> Connection:
        """Opens a connection to the node that advertises ``endpoint``. ``named_by``: the node that has named it, for
        the error; None: the first seed."""
        # Asked for once, however many attempts it takes, and outside of their time.
        credentials = await self.credentials()
        with self._logins.trial(credentials):
            if self.options.load_balancer_mode:
                return await self._connect_through_load_balancer(endpoint, credentials)
            return await self._connect_directly(endpoint, credentials, named_by)

    async def _connect_directly(
        self, endpoint: Endpoint, credentials: Credentials, named_by: Endpoint | None
    ) -> Connection:
        reached = self._resolved(endpoint)
        try:
            return await Connection.open(reached, self.options, credentials, self._renew)
        except ConnectionFailed as error:
            seed = named_by or self.options.endpoints[0]
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

    @property
    def _renew(self) -> Callable[[], Awaitable[Credentials]] | None:
        """What gives the next token to a connection; None where the credentials are fixed."""
        return None if isinstance(self.options.credentials, Credentials) else self._others

    async def _others(self) -> Credentials:
        return await self._logins.others(self.options.credentials)

    def remember(self, endpoint: Endpoint) -> None:
        """Notes a node that the broker has named: it serves as a further seed."""
        self._remembered.pop(endpoint, None)
        self._remembered[endpoint] = None
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def note_failure(self, endpoint: Endpoint) -> None:
        """Notes that a node, or a load balancer, has failed: it is tried after all others for a while."""
        self._failed_at.pop(endpoint, None)
        self._failed_at[endpoint] = asyncio.get_running_loop().time()
        if len(self._failed_at) > MAX_REMEMBERED:
            del self._failed_at[next(iter(self._failed_at))]

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
                connection = await Connection.open(endpoint, self.options, credentials, self._renew)
            except RstreamError as error:
                if not error.retriable and not isinstance(error, ConnectionFailed):
                    raise  # another node would give the same answer
                logger.debug("seed node %s: %s", endpoint, error)
                self.note_failure(endpoint)
                if last is None or endpoint in self.options.endpoints:
                    last = error
            else:
                self._failed_at.pop(endpoint, None)
                return connection
        assert last is not None
        raise last

    def _in_order(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Returns the endpoints in their order, but those that failed in the last ``AVOIDED`` seconds at the end."""
        forgotten = asyncio.get_running_loop().time() - AVOIDED
        return sorted(endpoints, key=lambda endpoint: max(self._failed_at.get(endpoint, forgotten), forgotten))

    async def _connect_through_load_balancer(self, wanted: Endpoint, credentials: Credentials) -> Connection:
        """Connects repeatedly until the wanted node answers."""
        retries = Retries(LOAD_BALANCER_WAIT, LOAD_BALANCER_SECONDS)
        seen: set[Endpoint] = set()

        async def attempt() -> Connection:
            connection = await self._connect_through_any_balancer(credentials)
            advertised = connection.session.advertised
            if advertised == wanted:
                return connection
            if advertised is not None:
                seen.add(advertised)
            await connection.close()
            reached = ", ".join(sorted(map(str, seen)))
            raise _AnotherNode(
                f"{retries.attempts} connections through {self._names_of_entries()} never reached {wanted}; "
                f"they reached {reached or 'nodes that do not say who they are'}",
                hint=Hint.BALANCER_SPREADS,
            )

        late = self._too_late(LOAD_BALANCER_SECONDS)
        try:
            return await retries.retry(attempt, helps=lambda error: isinstance(error, _AnotherNode), reason=late)
        except _AnotherNode as error:
            raise ConnectionFailed(str(error), hint=error.hint) from None

    async def _connect_through_any_balancer(self, credentials: Credentials) -> Connection:
        """Connects to any node through a load balancer, and again where it leads to a node that is down.

        Each attempt uses the next load balancer. All attempts together take at most ``connect_timeout`` for each load
        balancer, and a second.
        """

        async def attempt() -> Connection:
            self._entries.rotate(-1)
            return await self._first_that_answers(self._entries, credentials)

        seconds = len(self._entries) * self.options.connect_timeout + 1
        return await Retries(DEAD_NODE_WAIT, seconds).retry(attempt, reason=self._too_late(seconds))

    def _too_late(self, seconds: float) -> ConnectionFailed:
        return ConnectionFailed(f"no connection through {self._names_of_entries()} within {seconds:g} s")

    def _names_of_entries(self) -> str:
        return ", ".join(map(str, self._entries))


class _AnotherNode(ConnectionFailed):
    """The load balancer connected to another node than the wanted one."""
