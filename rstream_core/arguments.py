"""The connection arguments that ``Producer`` and ``Consumer`` share, written once."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypedDict, Unpack

from rstream_core.types import ConnectionOptions, Credentials, Endpoint


class ConnectionArguments(TypedDict, total=False):
    """Keyword arguments for connections. The defaults are those of ``ConnectionOptions``."""

    username: str
    password: str
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


def options_from(host: str, port: int, **arguments: Unpack[ConnectionArguments]) -> ConnectionOptions:
    """Returns ``ConnectionOptions``. Raises ``TypeError`` (unknown argument) or ``ConfigurationError`` (bad value)."""
    values: dict[str, object] = {**arguments}
    credentials = Credentials(str(values.pop("username", "guest")), str(values.pop("password", "guest")))
    unknown = values.keys() - ConnectionArguments.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected argument: {', '.join(sorted(unknown))}")
    renamed = {_RENAMED.get(name, name): value for name, value in values.items()}
    return ConnectionOptions(endpoints=(Endpoint(host, port),), credentials=credentials, **renamed)  # type: ignore[arg-type]
