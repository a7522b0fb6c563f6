"""Frozen values that the layers hand to each other."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rstream_core.checks import MAX_NAME, MAX_OFFSET, check_callable, check_flag, check_text, check_texts, check_whole
from rstream_core.errors import ConfigurationError, ConnectionFailed
from rstream_core.text import is_harmless

if TYPE_CHECKING:
    import ssl

MAX_HOST = 255
"""Characters of a host's name; a name server's have fewer."""
MAX_PORT = 65_535
MIN_FRAME_MAX = 1000
"""Bytes of the smallest frame that may be agreed on: every request whose names take 255 bytes each fits in."""
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
    """An absolute offset; messages before it in its chunk are dropped on this side."""
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
    return whole


def _milliseconds(time: object) -> int:
    if time is None:
        raise ConfigurationError("OffsetType.TIMESTAMP needs an offset: a datetime, or milliseconds since 1970")
    if isinstance(time, datetime):
        milliseconds = (time.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
        if milliseconds < 0:
            raise ConfigurationError(f"a timestamp is not before 1970: {time}")
        return milliseconds if milliseconds >= EARLIEST_TIMESTAMP else 0
    milliseconds = _whole("a timestamp, in milliseconds since 1970,", time, 2**63 - 1)
    if milliseconds in _SECONDS:
        raise ConfigurationError(
            f"a timestamp is in milliseconds since 1970, and {milliseconds} of them end in "
            f"{(_EPOCH + timedelta(milliseconds=milliseconds)).year}: seconds are to be multiplied by 1000; "
            "a datetime is taken, too"
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
"""As what a consumer update listener returns is called elsewhere."""


@dataclass(frozen=True, slots=True)
class FilterConfiguration:
    """Which messages a consumer wants, by the filter values that they were published with (RabbitMQ 3.13).

    The broker leaves out whole chunks that hold none of ``values_to_filter``, and is sometimes wrong in the safe
    direction; what it sends may hold other messages, so ``predicate(message)`` says of each, decoded, whether it is
    wanted. ``match_unfiltered`` asks for messages that have no filter value, too.
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


class CompressionType(enum.IntEnum):
    """The codec of a sub-entry. The numbers are those of the wire."""

    No = 0
    Gzip = 1
    Snappy = 2
    Lz4 = 3
    Zstd = 4


class ConfirmationStatus(NamedTuple):
    """What became of one message: given to ``on_publish_confirm``."""

    message_id: int
    """The publishing id."""
    is_confirmed: bool = False
    response_code: int = 0
    """1 where it is confirmed; else the broker's code, or 0 where it never answered."""
    was_sent: bool = True
    """False where it was never written to a connection, and is not stored: it waited here until that was over."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def problem(self) -> str | None:
        """Why such a place cannot exist, in words; None where it can."""
        if not self.host or len(self.host) > MAX_HOST or not is_harmless(self.host):
            return f"{self.host[:MAX_HOST]!r} is not a host name"
        if not 0 < self.port <= MAX_PORT:
            return f"port {self.port} is not between 1 and {MAX_PORT}"
        return None


@dataclass(frozen=True, slots=True)
class StreamMetadata:
    """Where a stream lives. ``leader`` is None while there is none."""

    stream: str
    leader: Endpoint | None
    replicas: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamStats:
    """First and committed positions of a stream, as its leader reports them. None: the stream is empty."""

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
    """How to reach a broker or a cluster, and as whom."""

    endpoints: tuple[Endpoint, ...] = (Endpoint("localhost", 5552),)
    """Seed nodes, tried in this order, but for those that have just failed."""
    credentials: Credentials | Callable[[], Credentials] = field(default_factory=Credentials)
    """As whom; or a function that tells, for a password that is a token and ends. It is asked at each connection that
    is made, must not wait, and where it raises the connection cannot be made now."""
    vhost: str = "/"
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """The name that the certificate must hold, where it is not the host's."""
    load_balancer_mode: bool = False
    """Reach every node through the seed endpoints, reconnecting until the right one answers."""
    resolver: Callable[[Endpoint], Endpoint] | None = None
    """Where to reach a node that advertises an endpoint: for names or ports that mean nothing here, as with NAT or
    containers. Called for every node that the broker names, not for the seeds, and not in load balancer mode; must
    not wait. A node for which it raises is one that cannot be reached. TLS checks the certificate against the resolved
    host, unless there is a ``server_name``."""
    mechanism: str = "PLAIN"
    connect_timeout: float = 10.0
    """Seconds for a connection with its handshake."""
    request_timeout: float = 10.0
    """Seconds for the answer to one request."""
    heartbeat: int = 10
    """Seconds; 0 switches heartbeats off on this side. A node that has stalled is missed after two of them: they should
    be less than a publisher's ``confirm_timeout``, which otherwise ends it before it has looked for another node. An
    event loop that blocks for so long loses its connections."""
    frame_max: int = 1024 * 1024
    """Bytes of the largest frame that this side sends, at least 1000; the broker may ask for less. 0: no limit."""
    connection_name: str = "rstream-client"
    """Shown in the broker's management pages; none where it is empty."""

    def login(self) -> Credentials:
        """The credentials for a connection that is made now. ``ConnectionFailed`` where they cannot be told."""
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
