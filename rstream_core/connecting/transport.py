"""Opens sockets and TLS, and turns errors of the operating system into errors of this library."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

from rstream_core.errors import ConnectionFailed, HostNotFound, TlsError
from rstream_core.hints import Hint
from rstream_core.types import Endpoint

P = TypeVar("P", bound=asyncio.BaseProtocol)

_OTHER_PORTS = {
    **dict.fromkeys((5671, 5672), Hint.AMQP_PORT),
    **dict.fromkeys((15671, 15672), Hint.MANAGEMENT_PORT),
    **dict.fromkeys((1883, 8883, 61613, 61614, 15674, 15675, 15692, 25672, 4369), Hint.OTHER_PORT),
}
"""What a RabbitMQ has on its other ports, unless it is configured otherwise."""

HEAD_START = 0.25
"""Seconds that each of a host's addresses has, before the next one is tried beside it."""

_NO_WAY_THERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH}
"""What this machine says of addresses of a family that it does not have."""

_Address = tuple[int, Any]
"""Family, and what ``connect`` takes for it."""


async def open_transport(
    endpoint: Endpoint,
    factory: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    timeout: float,
) -> tuple[asyncio.Transport, P]:
    """Connects, within ``timeout`` seconds. Works with every event loop.

    Raises ``HostNotFound``, ``TlsError``, or ``ConnectionFailed`` for all other errors.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            sock = await _race(loop, await _addresses(loop, endpoint))
            transport, protocol = await loop.create_connection(
                factory,
                sock=sock,
                ssl=tls,
                server_hostname=(server_name or endpoint.host) if tls else None,
            )
    except TimeoutError:
        hint = port_hint(endpoint) or Hint.IS_THERE_A_FIREWALL
        raise ConnectionFailed(f"no answer from {endpoint} within {timeout:g} s", hint=hint) from None
    except UnicodeError:  # a label of a name may have 63 bytes, and not be empty
        raise HostNotFound(f"{endpoint.host!r} is not a host name") from None
    except OSError as error:
        raise connection_error(endpoint, error, tls=tls is not None) from error
    return transport, protocol


NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""What OpenSSL says of an answer that is no TLS."""


async def _addresses(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> list[_Address]:
    """A host's addresses in the order in which to try them: the families take turns (RFC 8305)."""
    # As bytes where that is the same: for text, Python imports its tables of international names.
    host = endpoint.host.encode() if endpoint.host.isascii() else endpoint.host
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        found = await loop.getaddrinfo(host, endpoint.port, type=socket.SOCK_STREAM)
    else:  # asks nobody
        found = socket.getaddrinfo(
            host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    families: dict[int, list[_Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    return [address for turn in zip_longest(*families.values()) for address in turn if address is not None]


async def _race(loop: asyncio.AbstractEventLoop, addresses: list[_Address]) -> socket.socket:
    """A socket that is connected to the address that answers first; each gets ``HEAD_START`` before the next one.

    Raises the error of all. asyncio has such a race itself, but uvloop does not take the option for it, and where
    tasks are eager it ends in an AssertionError (Python 3.12.1 and 3.13.0).
    """
    racing: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    winner: asyncio.Task[socket.socket] | None = None
    rest = deque(addresses)
    started: list[asyncio.Task[socket.socket]] = []
    try:
        while winner is None and (rest or racing):
            if rest:
                started.append(loop.create_task(_connect(loop, *rest.popleft())))
                racing.add(started[-1])
            done, racing = await asyncio.wait(
                racing, timeout=HEAD_START if rest else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if isinstance(error, OSError):
                    errors.append(error)
                elif error is not None:
                    winner = None  # its socket is closed, too
                    raise error
                elif winner is None:
                    winner = task
    finally:
        for task in started:
            if task is not winner:
                task.cancel()
                task.add_done_callback(_close_unused)  # it may be connected by now
    if winner is None:
        raise _error_of_all(errors)
    return winner.result()


async def _connect(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
    """Raises the system's error, with its text: that which asyncio puts in its place does not say what it was."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _close_unused(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _error_of_all(errors: list[OSError]) -> OSError:
    """The one, where all are alike; else one that says what there was.

    That this machine has no IPv6, say, is not told beside what became of the other addresses.
    """
    telling = [error for error in errors if error.errno not in _NO_WAY_THERE] or errors
    texts = dict.fromkeys(error.strerror or str(error) for error in telling)
    return telling[0] if len(texts) == 1 else OSError(", ".join(texts) or "it has no address")


def port_hint(endpoint: Endpoint) -> Hint | None:
    """That the port is another protocol's, where it usually is."""
    return _OTHER_PORTS.get(endpoint.port)


def connection_error(endpoint: Endpoint, error: OSError, *, tls: bool = False) -> ConnectionFailed:
    """Returns the library's error for one of the operating system's. ``tls``: a TLS connection was being made."""
    if isinstance(error, socket.gaierror):
        return HostNotFound(f"the host name {endpoint.host!r} does not resolve ({error.strerror})")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the certificate of {endpoint} is not accepted: {error.verify_message}",
            hint=Hint.TRUST,
        )
    if isinstance(error, ssl.SSLError):
        why = error.reason or str(error)
        why = f"it does not speak TLS ({why})" if why in NO_TLS else why
        return TlsError(f"no TLS connection to {endpoint}: {why}", hint=port_hint(endpoint) or Hint.IS_IT_THE_TLS_PORT)
    if isinstance(error, ConnectionRefusedError):
        hint = port_hint(endpoint) or (Hint.IS_IT_RUNNING_WITH_TLS if tls else Hint.IS_IT_RUNNING)
        return ConnectionFailed(f"{endpoint} refuses the connection", hint=hint)
    if isinstance(error, ConnectionError):
        why = error.strerror or str(error)
        how = "ended the TLS handshake" if tls else "ended the connection"
        return ConnectionFailed(
            f"{endpoint} {how}{why and f': {why}'}",
            hint=port_hint(endpoint) or (Hint.IS_IT_THE_TLS_PORT if tls else None),
        )
    return ConnectionFailed(f"cannot connect to {endpoint}: {error.strerror or error}", hint=port_hint(endpoint))
