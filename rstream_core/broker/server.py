"""Listens, and owns the streams, timers and statistics that all connections share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import socket
import ssl
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstream_core.broker.checks import is_loopback
from rstream_core.broker.connection import STEP_TIMEOUT, BrokerConnection
from rstream_core.broker.faults import Faults
from rstream_core.broker.session import ServerOptions, ServerSession
from rstream_core.broker.streams import Stream, Streams
from rstream_core.broker.writer import Fsync
from rstream_core.errors import ConfigurationError
from rstream_core.hints import Hint

logger = logging.getLogger("rstream_core.broker")

MAX_CONNECTIONS = 1000
MAX_LOGGING_IN = 500
"""Connections that have not logged in. Beyond them, and where there is no other room, the oldest of them go."""
SYNC_INTERVAL = 1.0
SYNC_TIMEOUT = 10.0
"""Seconds to wait for the last syncs when the broker stops."""
ACCEPT_RETRY_INTERVAL = 2.0
"""Seconds in which asyncio has tried again to accept: it waits for one."""
TELL_AGAIN_INTERVAL = 60.0
"""Seconds until what befalls many connections, one after the other, is told again."""


@dataclass(slots=True)
class Statistics:
    """Counters since the start of the broker."""

    connections: int = 0
    """Open connections now."""
    confirmed: int = 0
    """Confirmed publishing ids, including those of repeated messages."""
    delivered_chunks: int = 0
    delivered_bytes: int = 0


class Server:
    """One broker on one event loop. Made by ``start``."""

    def __init__(
        self,
        streams: Streams,
        executor: ThreadPoolExecutor,
        options: ServerOptions,
        advertised_host: str | None,
        run: Callable[[Callable[[], None]], None],
    ) -> None:
        self.streams = streams
        streams.on_removed = self.drop_users
        self.statistics = Statistics()
        self.faults = Faults(self, run)
        self._executor = executor
        self._options = options
        self._advertised_host = advertised_host
        self._connections: set[BrokerConnection] = set()
        self._logging_in: dict[BrokerConnection, None] = {}
        """Those that have not logged in, the oldest first."""
        self._holds: set[str] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._told_at: dict[str, float] = {}
        """When a warning of each kind was last logged."""
        self._failed_to_accept_at = -math.inf
        self._is_stopped = False
        self._other_errors = self._loop.get_exception_handler()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_tls = False
        self._of_localhost: frozenset[str] = frozenset()
        """Addresses that the name stands for on this machine."""
        self._all_gone = asyncio.Event()
        self._syncing: asyncio.Task[None] | None = None
        self._not_synced: weakref.WeakSet[Stream] = weakref.WeakSet()
        """Streams whose last sync failed."""

    @classmethod
    async def start(
        cls,
        *,
        host: str,
        port: int,
        data: Path,
        options: ServerOptions,
        tls: ssl.SSLContext | None = None,
        fsync: Fsync = Fsync.NEVER,
        advertised_host: str | None = None,
        run: Callable[[Callable[[], None]], None] = lambda function: function(),
    ) -> Server:
        """Opens the data folder and listens. ``port`` 0 means a free port.

        Raises ``ConfigurationError`` where the folder or the port is in use or cannot be used.
        """
        executor = ThreadPoolExecutor(2, thread_name_prefix="rstream-broker-sync")
        try:
            streams = Streams.open(data, fsync, executor)
        except BaseException as error:
            executor.shutdown()
            if isinstance(error, OSError):
                is_none = isinstance(error, FileExistsError | NotADirectoryError)
                why = "not a folder" if is_none else error.strerror or error
                raise ConfigurationError(f"data folder {data}: {why}") from None
            raise
        for vhost, count in Counter(stream.vhost for stream in streams).items():
            if vhost not in options.vhosts:
                logger.warning("virtual host %r is not served, and has streams in the data folder: %d", vhost, count)
        server = cls(streams, executor, options, advertised_host, run)
        try:
            await server._listen(host, port, tls)
        except BaseException:
            await server.stop()
            raise
        if fsync is Fsync.INTERVAL:
            server._every(SYNC_INTERVAL, "sync", server._sync_all)
        return server

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._is_tls = tls is not None
        with contextlib.suppress(OSError):
            found = await self._loop.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
            self._of_localhost = frozenset(str(address[0]) for *_, address in found)
        try:
            self._server = await self._loop.create_server(
                lambda: BrokerConnection(self),
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=STEP_TIMEOUT if tls else None,
                reuse_address=True,
                backlog=512,
            )
        except socket.gaierror as error:
            raise ConfigurationError(f"cannot listen on {host!r}: {error.strerror}") from None
        except OSError as error:
            number = error.errno or 0
            why = os.strerror(number) if number else error
            raise ConfigurationError(f"cannot listen on {host}:{port}: {why}", hint=_HINTS.get(number)) from None
        self._loop.set_exception_handler(self._on_loop_error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs failed accepts once a minute: asyncio retries them every second, and logs a traceback each time."""
        error, sock = context.get("exception"), context.get("socket")
        ours = self._server.sockets if self._server is not None else ()
        if isinstance(error, OSError) and sock is not None and sock.fileno() in {one.fileno() for one in ours}:
            self._failed_to_accept_at = loop.time()
            self._tell("accept", f"cannot accept connections: {error.strerror}")
        elif self._is_stopped and isinstance(error, ValueError) and "_start_serving" in repr(context.get("handle")):
            pass  # asyncio's last attempt to accept, on the closed socket
        elif self._other_errors is not None:
            self._other_errors(loop, context)
        else:
            loop.default_exception_handler(context)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _tell(self, kind: str, line: str) -> None:
        """Logs a line, but none of a kind that was logged a short time ago: many connections have the same fault."""
        now = self._loop.time()
        if now - self._told_at.get(kind, -math.inf) >= TELL_AGAIN_INTERVAL:
            self._told_at[kind] = now
            logger.error("%s", line)

    def _leave_errors_to_others(self) -> None:
        if self._loop.get_exception_handler() == self._on_loop_error:
            self._loop.set_exception_handler(self._other_errors)

    async def stop(self) -> None:
        """Writes and confirms all published messages, and then ends every connection."""
        for timer in self._timers.values():
            timer.cancel()
        if self._server is not None:
            self._server.close()
            self._is_stopped = True
            if self._loop.time() - self._failed_to_accept_at < ACCEPT_RETRY_INTERVAL:
                self._loop.call_later(ACCEPT_RETRY_INTERVAL, self._leave_errors_to_others)
            else:
                self._leave_errors_to_others()
        self.hold_all("stopping")  # messages published during a sync would need another sync, and so on
        for stream in self.streams:
            stream.writer.flush()
        try:
            async with asyncio.timeout(SYNC_TIMEOUT):
                for stream in self.streams:
                    await stream.writer.close()
                if self._syncing is not None:
                    await asyncio.wait((self._syncing,))
        except TimeoutError:
            logger.error("the disk does not answer: what is written and not synced is left to it")  # noqa: TRY400
        for connection in list(self._connections):
            connection.transport.close()
        try:
            async with asyncio.timeout(1):
                while self._connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:  # a client does not read the rest of its data
            self.abort_all()
            await asyncio.sleep(0)
        self.streams.close()
        self._executor.shutdown(wait=False)

    # Connections.

    def admit(self, connection: BrokerConnection) -> ServerSession | None:
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
        self.statistics.connections = len(self._connections)
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

    def logged_in(self, connection: BrokerConnection) -> None:
        """The connection stays, however many come."""
        self._logging_in.pop(connection, None)

    def _name_for(self, address: str) -> str:
        """What a client is to connect to that reached us by this address.

        It does not say which name it knows us by, and ``localhost`` is the usual one, what a certificate is likely to
        hold, and what a forwarded port has. Without TLS, only where that name leads to the same address.
        """
        is_local = is_loopback(address) if self._is_tls else address in self._of_localhost
        return "localhost" if is_local else address

    def forget(self, connection: BrokerConnection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._logging_in.pop(connection, None)
            self.statistics.connections = len(self._connections)
            logger.info("%s is gone", connection.peer)
        if not self._connections:
            self._all_gone.set()

    def drop_users(self, stream: Stream) -> None:
        """Drops all publishers and subscriptions of a stream, and tells their clients that it is not available."""
        stream.writer.flush()
        stream.groups.clear()  # so that no other group member becomes active
        for subscription in stream.subscriptions:
            subscription.group = None
        users = {publisher.connection for publisher in stream.publishers}
        users |= {subscription.connection for subscription in stream.subscriptions}
        for connection in users:
            connection.drop_stream(stream)

    def move_leader(self, vhost: str, name: str) -> None:
        """Calls ``drop_users`` for the stream of this name. Raises ``ConfigurationError`` where there is none."""
        stream = self.streams.get(vhost, name)
        if stream is None:
            raise ConfigurationError(f"there is no stream {name!r} in virtual host {vhost!r}")
        self.drop_users(stream)

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
        for connection in list(self._connections):
            connection.transport.abort()

    # Timers.

    def _every(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        def run() -> None:
            try:
                action()
            except OSError as error:
                logger.error("%s: %s", name, error)  # noqa: TRY400 - one line is enough
            finally:
                self._timers[name] = self._loop.call_later(seconds, run)

        self._timers[name] = self._loop.call_later(seconds, run)

    def _sync_all(self) -> None:
        if self._syncing is None or self._syncing.done():  # a slow disk may still be busy with the last sync
            self._syncing = self._loop.create_task(self._sync_dirty())

    async def _sync_dirty(self) -> None:
        for stream in self.streams:
            if stream.writer.is_dirty:
                try:
                    await stream.writer.sync()
                    self._not_synced.discard(stream)
                except OSError as error:
                    if stream not in self._not_synced:  # logged once: the sync is retried every second
                        logger.error("cannot sync stream %r: %s", stream.name, error)  # noqa: TRY400 - in one line
                    self._not_synced.add(stream)
                stream.close_if_unused()


_HINTS = {
    errno.EADDRINUSE: Hint.PORT_IS_USED,
    errno.EADDRNOTAVAIL: Hint.NOT_OF_THIS_MACHINE,
    errno.EACCES: Hint.PORT_IS_RESERVED,
}
"""Hints by the errno of a failed attempt to listen."""
