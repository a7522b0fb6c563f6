"""The connection arguments that ``Producer`` and ``Consumer`` share, written once."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict, Unpack

from rstream_core.callbacks import resolved
from rstream_core.errors import ConfigurationError
from rstream_core.types import ConnectionOptions, Credentials, CredentialsFunction, Endpoint
from rstream_core.uri import PLAIN_PORT, TLS_SCHEME, StreamUri, parse_uri


class ConnectionArguments(TypedDict, total=False):
    """Keyword arguments for connections. The defaults are those of ``ConnectionOptions``."""

    username: str
    password: str | Callable[[], str | Awaitable[str]]
    """The password, or token; or a function, or coroutine function, that returns it for each new connection, and again
    before a token expires. See ``ConnectionOptions.credentials``."""
    vhost: str
    tls: ssl.SSLContext | None
    ssl_context: ssl.SSLContext | None
    """Another name of ``tls``."""
    server_name: str | None
    frame_max: int
    heartbeat: int
    load_balancer_mode: bool
    resolver: Callable[[Endpoint], Endpoint] | None
    connection_name: str
    mechanism: str
    sasl_configuration_mechanism: str
    """Another name of ``mechanism``."""
    connect_timeout: float
    request_timeout: float


_RENAMED = {"ssl_context": "tls", "sasl_configuration_mechanism": "mechanism"}


def options_from(
    host: str, port: int | str, default_name: str, **arguments: Unpack[ConnectionArguments]
) -> ConnectionOptions:
    """``ConnectionOptions`` from them. Raises ``TypeError`` (unknown) or ``ConfigurationError`` (unusable).

    ``host`` may be a URI, which then has the port, and perhaps more: see ``parse_uri``. ``port`` may be text, as
    environment variables are. ``default_name`` is the connection's where none is given.
    """
    values: dict[str, Any] = {"connection_name": default_name, **arguments}
    unknown = values.keys() - ConnectionArguments.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected argument: {', '.join(sorted(unknown))}")
    for other, name in _RENAMED.items():
        if (value := values.pop(other, None)) is not None:
            if values.get(name) is not None:
                raise ConfigurationError(f"pass {name} or {other}, which are the same")
            values[name] = value
    if _is_uri(host):
        endpoint = _from_uri(parse_uri(host), port, values)
    else:
        _check_host(host)
        endpoint = Endpoint(host, _number(port) if isinstance(port, str) else port)
    credentials = _credentials(str(values.pop("username", "guest")), values.pop("password", "guest"))
    return ConnectionOptions(endpoints=(endpoint,), credentials=credentials, **values)


def options_of_uri(uri: str, default_name: str) -> ConnectionOptions:
    """``ConnectionOptions`` from a URI alone. Raises ``ConfigurationError`` for what is none."""
    parse_uri(uri)  # says what is wrong with a host
    return options_from(uri, PLAIN_PORT, default_name)


def _from_uri(uri: StreamUri, port: int | str, values: dict[str, Any]) -> Endpoint:
    """Adds to ``values`` what the URI says. Raises ``ConfigurationError`` where they say it, too."""
    if str(port) != str(PLAIN_PORT):
        raise ConfigurationError("the port is that of the URI: pass no other one")
    for name in ("username", "password", "vhost"):
        if (part := getattr(uri, name)) is not None:
            if name in values:
                raise ConfigurationError(f"the URI has the {name}: pass no other one")
            values[name] = part
    if uri.tls:
        if values.get("tls") is None:
            values["tls"] = ssl.create_default_context()
    elif values.get("tls") is not None:
        raise ConfigurationError(f"with tls, a URI begins with {TLS_SCHEME}://")
    return uri.endpoint


def _credentials(username: str, password: Any) -> Credentials | CredentialsFunction:
    if not callable(password):
        return Credentials(username, str(password))

    async def credentials() -> Credentials:
        return Credentials(username, await resolved(password()))

    return credentials


def _is_uri(host: object) -> bool:
    return isinstance(host, str) and "://" in host


def _check_host(host: object) -> None:
    """Raises for what is more than a host."""
    if not isinstance(host, str):
        return  # ``ConnectionOptions`` says what is wrong with it
    name, colon, port = host.rpartition(":")
    if colon and ":" not in name and port.isdecimal():
        raise ConfigurationError(f"host is a name or an address alone: pass {port} as the port")


def _number(port: str) -> int:
    if not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise ConfigurationError(f"port is a number, not {port!r:.80}")
    return int(port)
