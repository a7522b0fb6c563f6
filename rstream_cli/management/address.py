"""Where the management API is, and whether a password may be sent there.

The API takes a password with each request. So plain http is for this machine's own addresses alone: any other needs
TLS, and there is no option that changes it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from rstream_cli.management.errors import ManagementUnavailable
from rstream_core.errors import ConfigurationError
from rstream_core.types import Credentials, Endpoint

HTTP_PORT, HTTPS_PORT = 15672, 15671


@dataclass(frozen=True, slots=True)
class ManagementAddress:
    """One node's management API. ``path`` is what stands before ``/api``: nothing, or a prefix with a leading slash."""

    host: str
    port: int
    tls: bool
    path: str = ""
    credentials: Credentials | None = None
    """Those of its URI; None where it has none."""

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{Endpoint(self.host, self.port)}{self.path}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address alone. No name server is asked."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_management_uri(text: str) -> ManagementAddress:
    """Reads ``https://user:password@host:15671/prefix``; of these parts, scheme and host are needed.

    Raises ``ConfigurationError``, whose message never has the password, also for plain http to another machine.
    """
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("http", "https"):
        raise ConfigurationError(
            "the address of the management API begins with https:// or http://"
            + (f", not {scheme}://" if separator else ""),
            hint="write https://HOST:15671, or http://localhost:15672 for a broker on this machine",
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        reason = "the port is not a number between 1 and 65535" if "ort" in str(error) else "the host is malformed"
        raise ConfigurationError(f"the address of the management API cannot be read: {reason}") from None
    tls = scheme == "https"
    endpoint = Endpoint(unquote(host or ""), (HTTPS_PORT if tls else HTTP_PORT) if port is None else port)
    if problem := endpoint.problem:
        raise ConfigurationError(f"the address of the management API cannot be read: {problem}")
    if parts.query or parts.fragment:
        raise ConfigurationError("the address of the management API has a query or a fragment")
    if not tls and not is_loopback(endpoint.host):
        raise ConfigurationError(
            f"the password is not sent to {endpoint.host} over plain http, where the network can read it",
            hint="write https://HOST:15671; or make a tunnel: `ssh -L 15672:localhost:15672 HOST`, then"
            " http://localhost:15672",
        )
    path = quote(unquote(parts.path), safe="/").rstrip("/").removesuffix("/api")
    return ManagementAddress(endpoint.host, endpoint.port, tls, path, _credentials(parts.username, parts.password))


def _credentials(username: str | None, password: str | None) -> Credentials | None:
    if not username and not password:
        return None
    if not username or password is None:
        raise ConfigurationError("the address of the management API has only one of user name and password")
    return Credentials(unquote(username), unquote(password))


def default_addresses(endpoints: Sequence[Endpoint], *, tls: bool) -> tuple[ManagementAddress, ...]:
    """Where the API of these brokers is by default, in their order. ``tls``: the stream connections have TLS.

    Raises ``ManagementUnavailable`` where each would need the password over plain http to another machine.
    """
    if tls:
        return tuple(ManagementAddress(endpoint.host, HTTPS_PORT, tls=True) for endpoint in endpoints)
    own = [endpoint for endpoint in endpoints if is_loopback(endpoint.host)]
    if not own:
        raise ManagementUnavailable(
            f"the management API of {endpoints[0].host} is not asked: without TLS, the network could read the password",
            hint="pass --management-uri https://HOST:15671",
        )
    return tuple(ManagementAddress(endpoint.host, HTTP_PORT, tls=False) for endpoint in own)
