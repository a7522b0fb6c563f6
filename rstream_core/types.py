"""Frozen values that the layers share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rstream_core.checks import MAX_NAME, check_text, check_texts, check_whole
from rstream_core.errors import ConfigurationError, ConnectionFailed
from rstream_core.text import is_harmless

if TYPE_CHECKING:
    import ssl

MAX_HOST = 255
"""Characters of a host name; names in DNS are shorter."""
MAX_PORT = 65_535
MIN_FRAME_MAX = 1000
"""The smallest frame limit, in bytes, that may be negotiated: a request whose names take 255 bytes each still fits."""
MAX_CONNECTION_NAME = 7000
"""Bytes of a connection name. It is sent before Open, when RabbitMQ takes frames of at most 8,192 bytes (since
4.3.5)."""


class OffsetType(enum.IntEnum):
    """Where a subscription starts. The numbers are those of the wire."""

    FIRST = 1
    """The oldest message that is still there."""
    LAST = 2
    """The first message of the last chunk."""
    NEXT = 3
    """Messages published from now on."""
    OFFSET = 4
    """An absolute offset. The client drops the messages before it in its chunk."""
    TIMESTAMP = 5
    """Milliseconds since 1970 (UTC); the resolution is the chunk."""


@dataclass(frozen=True, slots=True)
class ConsumerOffsetSpecification:
    """An offset type, with an offset or a timestamp (milliseconds since 1970, UTC) for the types that take one."""

    offset_type: OffsetType = OffsetType.FIRST
    offset: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.offset_type, OffsetType):
            raise TypeError(f"offset_type is an OffsetType, not {self.offset_type!r:.80}")
        takes_value = self.offset_type in (OffsetType.OFFSET, OffsetType.TIMESTAMP)
        if takes_value and self.offset is None:
            raise ValueError(f"offset type {self.offset_type.name} needs an offset")
        if self.offset is None:
            return
        if not isinstance(self.offset, int):
            raise TypeError(f"an offset is a whole number, not {self.offset!r:.80}")
        if self.offset_type is OffsetType.OFFSET and not 0 <= self.offset < 2**64:
            raise ValueError(f"an offset is between 0 and 2**64-1, not {self.offset}")
        if self.offset_type is OffsetType.TIMESTAMP and not -(2**63) <= self.offset < 2**63:
            raise ValueError(f"a timestamp is between -2**63 and 2**63-1, in milliseconds, not {self.offset}")


OffsetSpecification = ConsumerOffsetSpecification
"""The name that another client library uses for the result of a consumer update listener."""


@dataclass(frozen=True, slots=True)
class FilterConfiguration:
    """Which messages a consumer wants, by the filter values that they were published with (RabbitMQ 3.13).

    The broker leaves out whole chunks that hold none of ``values_to_filter``. Sometimes it sends such a chunk, but it
    never leaves out one with a wanted value. The chunks that it sends may hold other messages, so
    ``predicate(message)`` returns for each decoded message whether it is wanted. ``match_unfiltered`` also asks for
    messages without a filter value.
    """

    values_to_filter: Sequence[str] = ()
    predicate: Callable[[Any], bool] | None = None
    match_unfiltered: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.values_to_filter, str):
            raise ConfigurationError("values_to_filter is a list of values, not one value")
        check_texts("values_to_filter", self.values_to_filter)
        if self.match_unfiltered and not self.values_to_filter:
            raise ConfigurationError("match_unfiltered is for a consumer with filter values")


class CompressionType(enum.IntEnum):
    """The codec of a sub-entry. The numbers are those of the wire."""

    No = 0
    Gzip = 1
    Snappy = 2
    Lz4 = 3
    Zstd = 4


class ConfirmationStatus(NamedTuple):
    """The outcome of one message: the argument of ``on_publish_confirm``."""

    message_id: int
    """The publishing id."""
    is_confirmed: bool = False
    response_code: int = 0
    """1 for a confirmed message; for others the broker's code, or 0 where it never answered."""
    was_sent: bool = True
    """False for a message that was never written to a connection, and so is not stored."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def problem(self) -> str | None:
        """A sentence on why no such endpoint can exist; None where it can."""
        if not self.host or len(self.host) > MAX_HOST or not is_harmless(self.host):
            return f"{self.host[:MAX_HOST]!r} is not a host name"
        if not 0 < self.port <= MAX_PORT:
            return f"port {self.port} is not between 1 and {MAX_PORT}"
        return None


@dataclass(frozen=True, slots=True)
class StreamMetadata:
    """The nodes of a stream. ``leader`` is None while there is none."""

    stream: str
    leader: Endpoint | None
    replicas: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamStats:
    """First and committed positions of a stream, as its leader reports them; None for an empty stream."""

    first_offset: int | None
    committed_chunk_id: int | None
    last_chunk_id: int | None = None
    committed_offset: int | None = None
    """Reported since RabbitMQ 4.3; None before that."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and its password. The password shows in no repr."""

    username: str = "guest"
    password: str = field(default="guest", repr=False)  # the broker's own documented default


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to reach and log in to a broker or a cluster."""

    endpoints: tuple[Endpoint, ...] = (Endpoint("localhost", 5552),)
    """Seed nodes, tried in this order; those that have just failed come last."""
    credentials: Credentials | Callable[[], Credentials] = field(default_factory=Credentials)
    """User name and password, or a function that returns them, for a password that is a token and expires. The function
    is called for each new connection, and must not wait. If it raises, the connection fails with
    ``ConnectionFailed``."""
    vhost: str = "/"
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """The name that the broker's certificate must have, if that is not the host name."""
    load_balancer_mode: bool = False
    """Whether to reach every node through the seed endpoints: connects repeatedly until the right node answers."""
    resolver: Callable[[Endpoint], Endpoint] | None = None
    """A function that takes the endpoint that a node advertises, and returns where to reach the node: for names or
    ports that do not work from here, as with NAT or containers. Called for every node that the broker names, not for
    the seeds, and not in load balancer mode; must not wait. If it raises, the node counts as unreachable. TLS checks
    the certificate against the resolved host, unless there is a ``server_name``."""
    mechanism: str = "PLAIN"
    connect_timeout: float = 10.0
    """Seconds to connect, including the handshake."""
    request_timeout: float = 10.0
    """Seconds for the answer to one request."""
    heartbeat: int = 10
    """Seconds between heartbeats; 0 switches them off on this side. A connection to a stalled node ends after two
    intervals. These should be shorter than a publisher's ``confirm_timeout``: otherwise the publisher ends before it
    has looked for another node. If the event loop blocks for two intervals, it loses its connections."""
    frame_max: int = 1024 * 1024
    """The largest frame, in bytes, that this side sends: at least 1000, or 0 for no limit. The broker may ask for
    less."""
    connection_name: str = ""
    """Shown in the broker's management pages."""

    def login(self) -> Credentials:
        """Returns the credentials for a new connection. Raises ``ConnectionFailed`` where their function raises."""
        if isinstance(self.credentials, Credentials):
            return self.credentials
        try:
            return self.credentials()
        except Exception as error:
            raise ConnectionFailed(f"the function for the credentials failed: {error!r}") from error

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ConfigurationError("at least one endpoint is needed")
        for endpoint in self.endpoints:
            check_text("host", endpoint.host)
            check_whole("port", endpoint.port, 1, MAX_PORT)
            if problem := endpoint.problem:
                raise ConfigurationError(problem)
        check_text("vhost", self.vhost, most=MAX_NAME)
        check_text("connection_name", self.connection_name, most=MAX_CONNECTION_NAME)
        if isinstance(self.credentials, Credentials):
            check_text("username", self.credentials.username)
            check_text("password", self.credentials.password)
        check_whole("heartbeat", self.heartbeat, 0, 2**31 - 1)
        if 0 < check_whole("frame_max", self.frame_max, 0, 2**31 - 1) < MIN_FRAME_MAX:
            raise ConfigurationError(f"frame_max is 0, for no limit, or at least {MIN_FRAME_MAX}, not {self.frame_max}")
        if self.connect_timeout <= 0 or self.request_timeout <= 0:
            raise ConfigurationError("connect_timeout and request_timeout are more than 0")
