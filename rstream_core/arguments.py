"""The connection arguments that ``Producer`` and ``Consumer`` share, written once."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict, Unpack

from rstream_core.callbacks import resolved
from rstream_core.errors import ConfigurationError
from rstream_core.types import ConnectionOptions, Credentials, CredentialsFunction, Endpoint


class ConnectionArguments(TypedDict, total=False):
    """Keyword arguments for connections. The defaults are those of ``ConnectionOptions``."""

    username: str
    password: str | Callable[[], str | Awaitable[str]]
    """The password, or token; or a function, or coroutine function, that returns it for each new connection, and again
    before a token expires. See ``ConnectionOptions.credentials``."""
    vhost: str
    ssl_context: ssl.SSLContext | None
    server_name: str | None
    frame_max: int
    heartbeat: int
    load_balancer_mode: bool
    resolver: Callable[[Endpoint], Endpoint] | None
    connection_name: str
    sasl_configuration_mechanism: str
    connect_timeout: float
    request_timeout: float


_RENAMED = {"ssl_context": "tls", "sasl_configuration_mechanism": "mechanism"}


def options_from(
    host: str, port: int | str, default_name: str, **arguments: Unpack[ConnectionArguments]
) -> ConnectionOptions:
    """``ConnectionOptions`` from them. Raises ``TypeError`` (unknown) or ``ConfigurationError`` (unusable).

    ``port`` may be text, as environment variables are. ``default_name`` is the connection's where none is given.
    """
    values: dict[str, object] = {"connection_name": default_name, **arguments}
    credentials = _credentials(str(values.pop("username", "guest")), values.pop("password", "guest"))
    unknown = values.keys() - ConnectionArguments.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected argument: {', '.join(sorted(unknown))}")
    renamed = {_RENAMED.get(name, name): value for name, value in values.items()}
    _check_host(host)
    endpoint = Endpoint(host, _number(port) if isinstance(port, str) else port)
    return ConnectionOptions(endpoints=(endpoint,), credentials=credentials, **renamed)  # type: ignore[arg-type]


def _credentials(username: str, password: Any) -> Credentials | CredentialsFunction:
    if not callable(password):
        return Credentials(username, str(password))

    async def credentials() -> Credentials:
        return Credentials(username, await resolved(password()))

    return credentials


def _check_host(host: object) -> None:
    """Raises for what is more than a host. A URI may hold a password, so it is not repeated."""
    if not isinstance(host, str):
        return  # ``ConnectionOptions`` says what is wrong with it
    if "://" in host:
        raise ConfigurationError("host is a name or an address, and no URI: parse_uri() gives the parts of one")
    name, colon, port = host.rpartition(":")
    if colon and ":" not in name and port.isdecimal():
        raise ConfigurationError(f"host is a name or an address alone: pass {port} as the port")


def _number(port: str) -> int:
    if not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise ConfigurationError(f"port is a number, not {port!r:.80}")
    return int(port)
