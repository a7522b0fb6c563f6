"""Frozen values that the layers share."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rstream_core.checks import MAX_NAME, MAX_OFFSET, check_callable, check_flag, check_text, check_texts, check_whole
from rstream_core.errors import ConfigurationError
from rstream_core.text import is_harmless

if TYPE_CHECKING:
    import ssl

MAX_HOST = 255
"""Characters of a host name; names in DNS are shorter."""
MAX_PORT = 65_535
MIN_FRAME_MAX = 1000
"""Bytes of the smallest frame that may be agreed on: it has room for every request whose names take 255 bytes each."""
MAX_FRAME_BEFORE_OPEN = 8192
"""Bytes of the largest frame that RabbitMQ takes until Open has succeeded (since 4.3.5)."""
MAX_CONNECTION_NAME = 7000
"""Bytes: it is told before Open."""


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
    """A ``datetime``, or milliseconds since 1970 (UTC); the resolution is the chunk."""


EARLIEST_TIMESTAMP = 10**11
"""Milliseconds, in 1973: no stream is so old."""
_SECONDS = range(10**8, EARLIEST_TIMESTAMP)
"""Numbers of seconds from 1973 to the year 5138. As milliseconds they would be before 1973; smaller ones are too, but
are no seconds of any stream's time either: they are written for "all that there is"."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WITHOUT_OFFSET = (OffsetType.FIRST, OffsetType.LAST, OffsetType.NEXT)


@dataclass(frozen=True, slots=True, init=False)
class ConsumerOffsetSpecification:
    """Where to start: an offset type, with its offset or its time where it takes one.

    Without a type a number is an ``OFFSET`` and a ``datetime`` a ``TIMESTAMP``; without either it is ``FIRST``. A
    ``datetime`` without a zone is local time, and is kept as milliseconds. Raises ``TypeError`` for what is no
    ``OffsetType``, no whole number and no ``datetime``; ``ConfigurationError`` for what is out of range, for seconds
    where milliseconds are meant, and for an offset that the type does not take.
    """

    offset_type: OffsetType
    offset: int | None

    def __init__(self, offset_type: OffsetType | None = None, offset: int | datetime | None = None) -> None:
        if offset_type is None:
            offset_type = _type_of(offset)
        elif not isinstance(offset_type, OffsetType):
            raise TypeError(f"offset_type is an OffsetType{_meant(offset_type)}, not {offset_type!r:.80}")
        object.__setattr__(self, "offset_type", offset_type)
        object.__setattr__(self, "offset", _checked(offset_type, offset))


def _type_of(offset: object) -> OffsetType:
    if offset is None:
        return OffsetType.FIRST
    return OffsetType.TIMESTAMP if isinstance(offset, datetime) else OffsetType.OFFSET


def _meant(offset_type: object) -> str:
    """Which one may be meant by something else."""
    if isinstance(offset_type, ConsumerOffsetSpecification):
        return "; a ConsumerOffsetSpecification is passed as offset_specification"
    for member in OffsetType:
        if member == offset_type or (isinstance(offset_type, str) and member.name == offset_type.upper()):
            return f", such as OffsetType.{member.name}"
    return ""


def _checked(offset_type: OffsetType, offset: object) -> int | None:
    """The offset, or the milliseconds."""
    if offset_type is OffsetType.TIMESTAMP:
        return _milliseconds(offset)
    if isinstance(offset, datetime):
        raise ConfigurationError(f"a datetime is for OffsetType.TIMESTAMP, not for OffsetType.{offset_type.name}")
    if offset is None:
        if offset_type is OffsetType.OFFSET:
            raise ConfigurationError("OffsetType.OFFSET needs an offset")
        return None
    whole = _whole("an offset", offset, MAX_OFFSET)
    if whole and offset_type in _WITHOUT_OFFSET:  # 0 is how the wire, and other clients, say that there is none
        raise ConfigurationError(
            f"OffsetType.{offset_type.name} takes no offset: to start at {whole} pass OffsetType.OFFSET, or no type"
        )
    return None if offset_type in _WITHOUT_OFFSET else whole


def _milliseconds(time: object) -> int:
    if time is None:
        raise ConfigurationError("OffsetType.TIMESTAMP needs an offset: a datetime, or milliseconds since 1970")
    if isinstance(time, datetime):
        try:
            milliseconds = (time.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):  # the first or the last year, in a zone that moves it out of the calendar
            raise ConfigurationError(f"this timestamp cannot be converted to UTC: {time}") from None
        if milliseconds < 0:
            raise ConfigurationError(f"a timestamp is not before 1970: {time}")
        return milliseconds if milliseconds >= EARLIEST_TIMESTAMP else 0
    milliseconds = _whole("a timestamp, in milliseconds since 1970,", time, 2**63 - 1)
    if milliseconds in _SECONDS:
        raise ConfigurationError(
            f"a timestamp is in milliseconds since 1970, and {milliseconds} is in the year "
            f"{(_EPOCH + timedelta(milliseconds=milliseconds)).year}: multiply seconds by 1000, or pass a datetime"
        )
    return milliseconds


def _whole(what: str, number: Any, most: int) -> int:
    if isinstance(number, bool):
        raise TypeError(f"{what} is a whole number, not {number}")
    return check_whole(what, number, 0, most)


def check_specification(what: str, value: object) -> None:
    """Raises for what is no ``ConsumerOffsetSpecification``."""
    if not isinstance(value, ConsumerOffsetSpecification):
        meant = ", which is passed as offset_type" if isinstance(value, OffsetType) else ""
        raise TypeError(f"{what} is a ConsumerOffsetSpecification, not {value!r:.80}{meant}")


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
        if self.predicate is not None:
            check_callable("a post filter", self.predicate)
        check_flag("match_unfiltered", self.match_unfiltered)
        if self.match_unfiltered and not self.values_to_filter:
            raise ConfigurationError("match_unfiltered is for a consumer with filter values")


class RouteType(enum.Enum):
    """How the partition of a routing key is found."""

    Hash = "hash"
    """By its hash: any key will do, and equal keys share a partition."""
    PythonHash = "python-hash"
    """By the hash of the Python client ``rstream``, to share the partitions of its keys."""
    Key = "key"
    """By the bindings of the super stream: a key that is bound to no partition is an error."""


class CompressionType(enum.IntEnum):
    """The codec of a sub-entry. The numbers are those of the wire."""

    No = 0
    Gzip = 1
    Snappy = 2
    Lz4 = 3
    Zstd = 4


class Chunk(NamedTuple):
    """Messages that the broker stored together, in the order of their offsets.

    Where the broker's chunk holds more than 4 MiB or 65,536 messages once it is unpacked, this is a piece of it, and
    the next piece is the next ``Chunk``.
    """

    stream: str
    offset: int
    """The offset of the first message here; those of the others follow one by one."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored them."""
    messages: list[bytes]
    """Encoded messages, without those before the requested offset."""
    committed_chunk_id: int | None
    """The first offset of the stream's last committed chunk when this was sent; None before RabbitMQ 3.11."""

    @property
    def last_offset(self) -> int:
        return self.offset + len(self.messages) - 1


class ChunkSpan(NamedTuple):
    """Where a chunk lies, without its messages."""

    first: int
    """The offset of its first message that was asked for."""
    last: int
    """The offset of its last message."""
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored it."""


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
        if "://" in self.host:  # not shown: it may hold a password
            return "a host is a name or an address, and no URI: parse_uri() gives the parts of one"
        if "@" in self.host:
            return "a host name has no @"  # the name is not shown: it may begin with a user and a password
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


CredentialsFunction = Callable[[], Credentials | Awaitable[Credentials]]
"""A function, or a coroutine function, that returns the user name and the password for a connection."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to reach and log in to a broker or a cluster."""

    endpoints: tuple[Endpoint, ...] = (Endpoint("localhost", 5552),)
    """Seed nodes, tried in this order; those that have just failed come last."""
    credentials: Credentials | CredentialsFunction = field(default_factory=Credentials)
    """User name and password, or a function that returns them, for a password that is a token and expires. The function
    may be a coroutine function; one that is not must not wait. It is called for each new connection; connections that
    are opened at the same time share a call, and after an attempt that reached no node so does the next one, for 30 s.
    It is called again before a token (JWT) expires. If it raises, or takes longer than 60 s, the connection fails with
    ``CredentialsFailed``."""
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
    """Bytes of the largest frame that this side sends, at least 1000; the broker may ask for less. 0: no limit."""
    connection_name: str = "rstream-client"
    """Shown in the broker's management pages; none where it is empty."""

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
