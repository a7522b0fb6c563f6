"""Sends GET requests over HTTP, and returns answers that are bounded in size and in time.

urllib3 does it, in a thread for each request. It blocks, so this module adds what asyncio needs: a cancelled or late
request has its socket shut down, by which its thread ends. No redirect is followed, no proxy used and no compressed
body unpacked; a password leaves only for the address that was given, over TLS or to this machine.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rstream_cli.lookups import LookupExecutor
from rstream_cli.management.address import ManagementAddress, is_loopback
from rstream_cli.management.errors import ManagementUnavailable
from rstream_core.connecting.transport import NO_TLS
from rstream_core.errors import (
    AlreadyClosed,
    ConfigurationError,
    HostNotFound,
    ProtocolError,
    RstreamError,
    TlsError,
)
from rstream_core.hints import Hint
from rstream_core.types import Credentials

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

logger = logging.getLogger("rstream_cli.management")

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of the largest body that is read."""
MAX_CONNECTIONS = 4
"""Requests at once; others wait."""
MAX_IDLE = 20.0
"""Seconds after which a connection is not used again. RabbitMQ closes one after 60."""
_BLOCK = 1 << 16

WHERE_IT_IS = "enable the plugin rabbitmq_management there (port 15672, or 15671 with TLS), or pass --management-uri"


class Answer(NamedTuple):
    """What a server at ``address`` has answered. ``location`` is where a redirect leads to, as it says."""

    address: ManagementAddress
    status: int
    body: bytes
    location: str | None


class HttpClient:
    """Requests to one address. Must be closed.

    ``connect_timeout`` and ``request_timeout`` are seconds: to connect, with TLS, and for one whole answer.
    """

    def __init__(
        self,
        address: ManagementAddress,
        *,
        tls: ssl.SSLContext | None,
        server_name: str | None,
        connect_timeout: float,
        request_timeout: float,
    ) -> None:
        """``tls`` is for this client alone: urllib3 changes it."""
        if address.tls != (tls is not None):
            raise ConfigurationError("https needs a TLS context, and http takes none")
        self.address = address
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._idle: deque[_Connection] = deque()
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._threads = LookupExecutor()
        self._is_closed = False

    async def get(self, target: str, credentials: Credentials) -> Answer:
        """Returns the answer to a request for ``target``, the path and query behind the address.

        Raises ``ManagementUnavailable``, also where no answer comes in time, ``HostNotFound``, ``TlsError``, or
        ``ProtocolError`` for what is no HTTP or too large. A cancelled call ends its connection.
        """
        if self._is_closed:
            raise AlreadyClosed("the client of the management API is closed")
        headers = {"Authorization": _basic(credentials), "Accept": "application/json", "User-Agent": "rstream"}
        async with self._room:
            connection = self._connection()
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(self._connect_timeout + self._request_timeout):
                    path = f"{self.address.path}{target}"
                    answer, can_go_on = await loop.run_in_executor(self._threads, connection.ask, path, headers)
            except RstreamError:  # before the next one: a late answer is a TimeoutError, too, and has its hint
                raise
            except TimeoutError:
                connection.abort()
                raise _too_late(self.address, WHERE_IT_IS) from None
            except BaseException:
                connection.abort()
                raise
        logger.debug("%s%s: %d, %d bytes", self.address, target, answer.status, len(answer.body))
        if can_go_on and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Closes the connections that are not in use; those in use are closed behind their answers."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return _Connection(self.address, self._tls, self._server_name, self._connect_timeout, self._request_timeout)


class _Connection:
    """One connection, for one request at a time, each in a thread."""

    def __init__(
        self,
        address: ManagementAddress,
        tls: ssl.SSLContext | None,
        server_name: str | None,
        connect_timeout: float,
        request_timeout: float,
    ) -> None:
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._http: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        """That of ``_http``, which forgets it before the end of an answer behind which the server closes."""
        self._is_aborted = False
        self._lock = threading.Lock()
        """Held where the socket is set or shut down, which two threads do."""
        self._used_at = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether the next request may go over it."""
        is_fresh = time.monotonic() - self._used_at < MAX_IDLE
        return is_fresh and self._http is not None and self._http.is_connected

    def abort(self) -> None:
        """Ends what another thread waits for in ``ask``."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                with suppress(OSError):  # the peer was faster
                    # Not the method of ssl.SSLSocket, which takes the TLS state away under the other thread's hands.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    def ask(self, target: str, headers: Mapping[str, str]) -> tuple[Answer, bool]:
        """Sends a request, and returns the answer and whether the connection can be used again. Blocks.

        Raises the errors of ``HttpClient.get``.
        """
        import urllib3.exceptions

        is_done = False
        try:
            if self._http is None:
                self._connect()
            assert self._http is not None
            answer = self._exchange(self._http, target, headers)
            is_done = True
        except RstreamError:
            raise
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise self._error_of(error) from error
        finally:
            if not is_done:
                self.close()
        self._used_at = time.monotonic()
        return answer, self._http.sock is not None

    def _connect(self) -> None:
        from urllib3.connection import HTTPConnection, HTTPSConnection

        address = self._address
        if self._tls is None:
            self._http = HTTPConnection(address.host, address.port, timeout=self._connect_timeout)
        else:
            self._http = HTTPSConnection(
                address.host,
                address.port,
                timeout=self._connect_timeout,
                ssl_context=self._tls,
                server_hostname=self._server_name or address.host,
            )
        self._http.connect()
        assert self._http.sock is not None
        with self._lock:
            self._socket = self._http.sock
            if self._is_aborted:
                raise ConnectionAbortedError
        if self._tls is None:
            _check_is_here(address, self._socket)
        self._http.timeout = self._request_timeout

    def _exchange(self, connection: HTTPConnection, target: str, headers: Mapping[str, str]) -> Answer:
        deadline = time.monotonic() + self._request_timeout
        connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
        response = connection.getresponse()
        try:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding != "identity":  # nothing else was asked for, and little may unpack to much
                raise ProtocolError(f"{self._address} answers in an encoding that was not asked for")
            body = bytearray()
            while part := response.read(_BLOCK, decode_content=False):
                body += part
                if len(body) > MAX_ANSWER:
                    raise ProtocolError(f"{self._address} answers with more than {MAX_ANSWER >> 20} MiB")
                if time.monotonic() > deadline:
                    raise TimeoutError
        except BaseException:
            response.close()  # it holds the socket, which the connection has given to it
            raise
        return Answer(self._address, response.status, bytes(body), response.headers.get("location"))

    def _error_of(self, error: Exception) -> RstreamError:
        """The core's error for one of the library's or the system's."""
        from urllib3 import exceptions

        where = self._address
        if isinstance(error, exceptions.NameResolutionError):
            return HostNotFound(f"the host name {where.host!r} does not resolve")
        if isinstance(error, exceptions.LocationParseError):  # a label may have 63 bytes, and not be empty
            return HostNotFound(f"{where.host!r} is not a host name")
        if isinstance(error, exceptions.NewConnectionError | exceptions.SSLError) and isinstance(
            error.__cause__, OSError
        ):
            error = error.__cause__
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsError(f"the certificate of {where} is not accepted: {error.verify_message}", hint=Hint.TRUST)
        if isinstance(error, ssl.SSLError | exceptions.SSLError):
            why = getattr(error, "reason", None) or "the handshake failed"
            why = "it does not speak TLS" if why in NO_TLS else why
            return TlsError(f"no TLS connection to {where}: {why}", hint=_without_tls(where))
        if isinstance(error, TimeoutError | exceptions.TimeoutError):
            is_silent = self._tls is not None and self._socket is None and type(error) is TimeoutError
            hint = _without_tls(where) if is_silent else WHERE_IT_IS  # a port without TLS waits for a request
            return _too_late(where, hint)
        if isinstance(error, ConnectionRefusedError):
            return ManagementUnavailable(f"{where} refuses the connection", hint=WHERE_IT_IS)
        if isinstance(error, OSError | http.client.RemoteDisconnected):
            why = getattr(error, "strerror", None) or "it has ended"
            return ManagementUnavailable(f"no connection to {where}: {why}", hint=WHERE_IT_IS)
        return ProtocolError(f"{where} does not answer in HTTP, or not to the end", hint=WHERE_IT_IS)


def _too_late(address: ManagementAddress, hint: str) -> ManagementUnavailable:
    """No ``RequestTimeout``, which stands for one request to a broker: whatever is asked here would wait as long."""
    return ManagementUnavailable(f"{address} has not answered in time", hint=hint)


def _without_tls(address: ManagementAddress) -> str:
    """The hint for an address that does not answer as TLS does."""
    if not is_loopback(address.host):
        return "is this its port for https? That is 15671 by default"
    return f"if it is without TLS there, pass {replace(address, tls=False)}"


def _check_is_here(address: ManagementAddress, sock: socket.socket) -> None:
    """Raises where a connection without TLS has left this machine, whatever the name was taken for."""
    peer: Any = sock.getpeername()
    if not ipaddress.ip_address(str(peer[0]).partition("%")[0]).is_loopback:
        raise ManagementUnavailable(
            f"{address.host} is not this machine, but {peer[0]}: the password is not sent there over plain http",
            hint="pass --management-uri https://HOST:15671",
        )


def _basic(credentials: Credentials) -> str:
    if ":" in credentials.username:
        raise ConfigurationError("the management API takes no user name that has a colon")
    text = f"{credentials.username}:{credentials.password}"
    return f"Basic {base64.b64encode(text.encode()).decode()}"
