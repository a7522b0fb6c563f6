"""Opens sockets and TLS, and turns what the operating system says into our errors."""

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

_OTHER_PORTS = {
    **dict.fromkeys((5671, 5672), Hint.AMQP_PORT),
    **dict.fromkeys((15671, 15672), Hint.MANAGEMENT_PORT),
    **dict.fromkeys((1883, 8883, 61613, 61614, 15674, 15675, 15692, 25672, 4369), Hint.OTHER_PORT),
}
"""What a RabbitMQ has on its other ports, unless it is configured otherwise."""


async def open_transport(
    endpoint: Endpoint,
    factory: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    timeout: float,
) -> tuple[asyncio.Transport, P]:
    """Connects, within ``timeout`` seconds.

    Raises ``HostNotFound``, ``TlsError``, or ``ConnectionFailed`` for everything else.
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
        hint = port_hint(endpoint) or Hint.IS_THERE_A_FIREWALL
        raise ConnectionFailed(f"no answer from {endpoint} within {timeout:g} s", hint=hint) from None
    except UnicodeError:  # a label of a name may have 63 bytes, and not be empty
        raise HostNotFound(f"{endpoint.host!r} is not a host name") from None
    except OSError as error:
        raise connection_error(endpoint, error, tls=tls is not None) from error
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return transport, protocol


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""What OpenSSL says of an answer that is no TLS."""


def _may_race(loop: asyncio.AbstractEventLoop, host: str) -> bool:
    """Whether to try a host's addresses side by side.

    Not an address, for which there is nothing to race: a race that is cancelled as it ends leaves its socket open. Nor
    where tasks are eager: there a race ends in an AssertionError (asyncio of Python 3.12.1 and 3.13.0).
    """
    if loop.get_task_factory() is not None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def port_hint(endpoint: Endpoint) -> Hint | None:
    """That the port is another protocol's, where it usually is."""
    return _OTHER_PORTS.get(endpoint.port)


def connection_error(endpoint: Endpoint, error: OSError, *, tls: bool = False) -> ConnectionFailed:
    """Our error for one of the operating system's; ``tls`` where a TLS connection was being made."""
    if isinstance(error, socket.gaierror):
        return HostNotFound(f"the host name {endpoint.host!r} does not resolve ({error.strerror})")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the certificate of {endpoint} is not accepted: {error.verify_message}",
            hint=Hint.TRUST,
        )
    if isinstance(error, ssl.SSLError):
        why = error.reason or str(error)
        why = f"it does not speak TLS ({why})" if why in _NO_TLS else why
        return TlsError(f"no TLS connection to {endpoint}: {why}", hint=port_hint(endpoint) or Hint.IS_IT_THE_TLS_PORT)
    if isinstance(error, ConnectionRefusedError) or _all_refused(error):
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


def _all_refused(error: OSError) -> bool:
    """asyncio joins the errors of several addresses into one without an errno."""
    return error.errno == errno.ECONNREFUSED or (error.errno is None and "Connect call failed" in str(error))
