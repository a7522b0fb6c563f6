"""The arguments that the published client's four classes share, and what they are to the core."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from rstream_core.arguments import ConnectionArguments
from rstream_core.checks import check_callable
from rstream_core.compat.constants import SlasMechanism
from rstream_core.compat.differences import differs
from rstream_core.compat.losses import ConnectionClosedHandler, Losses, OnClose
from rstream_core.compat.recovery import IReliableEntity, RecoveryStrategy
from rstream_core.types import Endpoint

_RETRIES = 20
"""The published client's default."""


class Connecting(TypedDict, total=False):
    """Keyword arguments of producers and consumers. Those that are not explained are the core's."""

    username: str
    password: str | Callable[[], str | Awaitable[str]]
    vhost: str
    tls: ssl.SSLContext | None
    ssl_context: ssl.SSLContext | None
    server_name: str | None
    frame_max: int
    heartbeat: int
    load_balancer_mode: bool
    resolver: Callable[[Endpoint], Endpoint] | None
    connection_name: str | None
    """None and the empty text are the default name."""
    mechanism: str
    sasl_configuration_mechanism: SlasMechanism | str
    connect_timeout: float
    request_timeout: float
    max_retries: int
    """Has no effect: the core tries up to 40 times to reach a node through a load balancer, within its time."""
    on_close_handler: OnClose | None
    """Called with an ``OnClosedErrorInfo`` when a connection is lost, or when a stream moves or is deleted."""
    connection_closed_handler: ConnectionClosedHandler | None
    """Called with the error when a connection is lost. With it, and without a ``recovery_strategy``, nothing recovers:
    the program does."""
    recovery_strategy: RecoveryStrategy | None


_LOSSES = ("max_retries", "on_close_handler", "connection_closed_handler", "recovery_strategy")


def losses_of(given: Connecting, entity: IReliableEntity, restore: Callable[[str], Awaitable[Any]]) -> Losses:
    """What is to be done about lost connections. Raises ``TypeError`` for what is no function, and no strategy."""
    for name in ("on_close_handler", "connection_closed_handler"):
        if given.get(name) is not None:
            check_callable(name, given[name])
    strategy = given.get("recovery_strategy")
    if not isinstance(strategy, RecoveryStrategy | None):
        raise TypeError(f"recovery_strategy is a RecoveryStrategy, not {strategy!r:.80}")
    return Losses(entity, given.get("on_close_handler"), given.get("connection_closed_handler"), strategy, restore)


def connection_of(given: Connecting) -> ConnectionArguments:
    """The rest, as the core takes it."""
    if given.get("max_retries", _RETRIES) != _RETRIES:
        differs("max_retries", "max_retries has no effect: the client tries as long as connect_timeout allows")
    told: dict[str, Any] = {name: value for name, value in given.items() if name not in _LOSSES}
    if not told.get("connection_name", "-"):
        del told["connection_name"]
    return told  # type: ignore[return-value]  # ``options_from`` refuses what is none of them
