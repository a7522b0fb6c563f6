"""Listens, syncs once a second, and owns what all connections share: streams, clients, faults, statistics."""

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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rstream_core.broker.clients import Clients
from rstream_core.broker.connection import STEP_TIMEOUT, BrokerConnection
from rstream_core.broker.faults import Faults
from rstream_core.broker.management import Management
from rstream_core.broker.session import ServerOptions
from rstream_core.broker.statistics import Statistics
from rstream_core.broker.stream import Stream
from rstream_core.broker.streams import Streams
from rstream_core.broker.writer import Fsync
from rstream_core.errors import ConfigurationError
from rstream_core.hints import Hint
from rstream_core.listening import listen
from rstream_core.log_limit import LogLimit

logger = logging.getLogger("rstream_core.broker")

SYNC_INTERVAL = 1.0
SYNC_TIMEOUT = 10.0
"""Seconds to wait for the last syncs when the broker stops."""
CLOSE_TIMEOUT = 1.0
"""Seconds in which clients may read what is left for them when the broker stops."""
ACCEPT_RETRY_INTERVAL = 2.0
"""Seconds in which asyncio has tried again to accept: it waits for one."""


class Server:
    """One broker on one event loop. Made by ``start``."""

    def __init__(
        self,
        streams: Streams,
        executor: ThreadPoolExecutor,
        options: ServerOptions,
        advertised_host: str | None,
        run: Callable[[Callable[[], None]], None],
        own_names: Iterable[str] = (),
    ) -> None:
        self.streams = streams
        self.statistics = Statistics()
        self.clients = Clients(options, advertised_host, self.statistics, self._tell)
        self.faults = Faults(self.clients, streams, run)
        self._executor = executor
        self._management = Management(streams, options, own_names)
        self._server: asyncio.Server | None = None
        self._management_server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._log_limit = LogLimit()
        """When a warning of each kind was last logged."""
        self._failed_to_accept_at = -math.inf
        self._is_stopped = False
        self._other_errors = self._loop.get_exception_handler()
        self._timers: dict[str, asyncio.TimerHandle] = {}
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
        management_port: int | None = None,
        run: Callable[[Callable[[], None]], None] = lambda function: function(),
    ) -> Server:
        """Opens the data folder and listens. ``port`` 0 means a free port; so does ``management_port``, of the
        management API, which there is none of without.

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
        server = cls(streams, executor, options, advertised_host, run, filter(None, (host, advertised_host)))
        try:
            await server._listen(host, port, tls)
            if management_port is not None:
                server._management_server = await server._serve(
                    server._management.server.connection, host, management_port, tls
                )
        except BaseException:
            await server.stop()
            raise
        if fsync is Fsync.INTERVAL:
            server._every(SYNC_INTERVAL, "sync", server._sync_all)
        return server

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.clients.is_tls = tls is not None
        with contextlib.suppress(OSError):
            found = await self._loop.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
            self.clients.of_localhost = frozenset(str(address[0]) for *_, address in found)
        self._server = await self._serve(
            lambda: BrokerConnection(self.clients, self.streams, self.faults, self.statistics), host, port, tls
        )
        self._loop.set_exception_handler(self._on_loop_error)

    async def _serve(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
    ) -> asyncio.Server:
        try:
            return await listen(
                factory,
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

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs failed accepts once a minute: asyncio retries them every second, and logs a traceback each time."""
        error, sock = context.get("exception"), context.get("socket")
        ours = [one.fileno() for server in (self._server, self._management_server) if server for one in server.sockets]
        if isinstance(error, OSError) and sock is not None and sock.fileno() in ours:
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

    @property
    def management_port(self) -> int | None:
        """The port of the management API; None where there is none."""
        if self._management_server is None:
            return None
        port: int = self._management_server.sockets[0].getsockname()[1]
        return port

    def _tell(self, kind: str, line: str) -> None:
        """Logs a line, but none of a kind that was logged a short time ago: many connections have the same fault."""
        if self._log_limit.lets_through(kind, self._loop.time()):
            logger.error("%s", line)

    def _leave_errors_to_others(self) -> None:
        if self._loop.get_exception_handler() == self._on_loop_error:
            self._loop.set_exception_handler(self._other_errors)

    async def stop(self) -> None:
        """Writes and confirms all published messages, and then ends every connection."""
        for timer in self._timers.values():
            timer.cancel()
        if self._management_server is not None:
            self._management_server.close()
        self._management.server.close()
        if self._server is not None:
            self._server.close()
            self._is_stopped = True
            if self._loop.time() - self._failed_to_accept_at < ACCEPT_RETRY_INTERVAL:
                self._loop.call_later(ACCEPT_RETRY_INTERVAL, self._leave_errors_to_others)
            else:
                self._leave_errors_to_others()
        self.clients.hold_all("stopping")  # messages published during a sync would need another sync, and so on
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
        await self.clients.close_all(CLOSE_TIMEOUT)
        self.streams.close()
        self._executor.shutdown(wait=False)

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
