"""Opens sockets and TLS, and turns errors of the operating system into errors of this library."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from rstream_core.errors import ConnectionFailed, HostNotFound, TlsError
from rstream_core.hints import Hint
from rstream_core.types import Endpoint

P = TypeVar("P", bound=asyncio.Protocol)


async def open_transport(
    endpoint: Endpoint,
    factory: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    timeout: float,
) -> tuple[asyncio.Transport, P]:
    """Connects within ``timeout`` seconds, and returns transport and protocol.

    Raises ``HostNotFound``, ``TlsError``, or ``ConnectionFailed`` for all other errors.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            transport, protocol = await loop.create_connection(
                factory,
                endpoint.host,
                endpoint.port,
                ssl=tls,
                server_hostname=(server_name or endpoint.host) if tls else None,
                happy_eyeballs_delay=0.25 if _may_race(loop, endpoint.host) else None,
            )
    except TimeoutError:
        raise ConnectionFailed(f"no answer from {endpoint} within {timeout:g} s") from None
    except UnicodeError:  # a label of a host name has 1 to 63 bytes
        raise HostNotFound(f"{endpoint.host!r} is not a host name") from None
    except OSError as error:
        raise connection_error(endpoint, error, tls=tls is not None) from error
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return transport, protocol


def _may_race(loop: asyncio.AbstractEventLoop, host: str) -> bool:
    """Returns whether to try a host's addresses concurrently (happy eyeballs).

    False for an IP address, which needs no race, since a race that is cancelled as it ends leaves its socket open.
    False with a task factory: if it makes eager tasks, a race ends in an AssertionError (asyncio of Python 3.12.1 and
    3.13.0).
    """
    if loop.get_task_factory() is not None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


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
        return TlsError(
            f"no TLS connection to {endpoint}: {error.reason or error}",
            hint=Hint.IS_IT_THE_TLS_PORT,
        )
    if isinstance(error, ConnectionRefusedError) or _all_refused(error):
        return ConnectionFailed(f"{endpoint} refuses the connection", hint=Hint.IS_IT_RUNNING)
    if isinstance(error, ConnectionError):
        why = error.strerror or str(error) or "without a reason"
        hint = Hint.IS_IT_THE_TLS_PORT if tls else None
        return ConnectionFailed(f"{endpoint} ended the connection: {why}", hint=hint)
    return ConnectionFailed(f"cannot connect to {endpoint}: {error.strerror or error}")


def _all_refused(error: OSError) -> bool:
    """Returns whether all addresses refused. For several, asyncio raises one error without an errno."""
    return error.errno == errno.ECONNREFUSED or (error.errno is None and "Connect call failed" in str(error))
