"""The connections of all clients: how many there may be, which make room for others, and how all of them end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from rstream_core.addresses import is_loopback
from rstream_core.broker.ports import Connection
from rstream_core.broker.session import ServerOptions, ServerSession
from rstream_core.broker.statistics import Statistics

logger = logging.getLogger("rstream_core.broker")

MAX_CONNECTIONS = 1000
MAX_LOGGING_IN = 500
"""Connections that have not logged in. Beyond them, and where there is no other room, the oldest of them go."""


class Clients:
    """The connections of one broker. For its event loop."""

    def __init__(
        self,
        options: ServerOptions,
        advertised_host: str | None,
        statistics: Statistics,
        tell: Callable[[str, str], None],
    ) -> None:
        """``tell`` logs a line of a kind, and leaves out what was told a short time ago."""
        self.is_tls = False
        self.of_localhost: frozenset[str] = frozenset()
        """Addresses that the name stands for on this machine."""
        self._options = options
        self._advertised_host = advertised_host
        self._statistics = statistics
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._logging_in: dict[Connection, None] = {}
        """Those that have not logged in, the oldest first."""
        self._holds: set[str] = set()
        self._all_gone = asyncio.Event()

    def admit(self, connection: Connection) -> ServerSession | None:
        """The session of a new connection; None where it cannot be one of ours."""
        transport = connection.transport
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if not peer or not own or not self._make_room():
            return None
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.peer = f"{peer[0]}:{peer[1]}"
        self._connections.add(connection)
        self._logging_in[connection] = None
        self._statistics.connections = len(self._connections)
        logger.info("%s connected", connection.peer)
        for reason in self._holds:
            connection.hold(reason)
        return ServerSession(
            self._options,
            advertised_host=self._advertised_host or self._name_for(own[0]),
            advertised_port=own[1],
            is_local=is_loopback(peer[0]),
            now=self._loop.time(),
        )

    def _make_room(self) -> bool:
        """Whether there is any for one more: who has not logged in yet, and came first, makes it."""
        if len(self._connections) < MAX_CONNECTIONS and len(self._logging_in) < MAX_LOGGING_IN:
            return True
        oldest = next(iter(self._logging_in), None)
        if oldest is None:
            self._tell("full", f"there are {MAX_CONNECTIONS} connections, and no more are taken")
            return False
        self._tell(
            "make room",
            f"too many connections: those that have not logged in, {len(self._logging_in)}, make room for new ones, "
            "the oldest first",
        )
        self.forget(oldest)
        oldest.transport.abort()
        return True

    def logged_in(self, connection: Connection) -> None:
        """The connection stays, however many come."""
        self._logging_in.pop(connection, None)

    def _name_for(self, address: str) -> str:
        """What a client is to connect to that reached us by this address.

        It does not say which name it knows us by, and ``localhost`` is the usual one, what a certificate is likely to
        hold, and what a forwarded port has. Without TLS, only where that name leads to the same address.
        """
        is_local = is_loopback(address) if self.is_tls else address in self.of_localhost
        return "localhost" if is_local else address

    def forget(self, connection: Connection) -> None:
        """Called when a connection has ended, or is to end without a wait for it."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._logging_in.pop(connection, None)
            self._statistics.connections = len(self._connections)
            logger.info("%s is gone", connection.peer)
        if not self._connections:
            self._all_gone.set()

    def hold_all(self, reason: str) -> None:
        """Stops reading from all connections, including later ones, until ``release_all`` with the same reason."""
        self._holds.add(reason)
        for connection in self._connections:
            connection.hold(reason)

    def release_all(self, reason: str) -> None:
        self._holds.discard(reason)
        for connection in self._connections:
            connection.release(reason)

    def abort_all(self) -> None:
        """Ends every connection without a Close."""
        for connection in list(self._connections):
            connection.transport.abort()

    async def close_all(self, timeout: float) -> None:
        """Ends every connection. What it has to send is sent first, where the client reads it within ``timeout`` s."""
        for connection in list(self._connections):
            connection.transport.close()
        try:
            async with asyncio.timeout(timeout):
                while self._connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:  # a client does not read the rest of its data
            self.abort_all()
            await asyncio.sleep(0)
