"""An asyncio client for RabbitMQ streams.

Most programs need ``Producer`` and ``Consumer``. ``Client`` is one level below: it makes publishers and subscriptions,
which work on batches and chunks, and administers streams. ``EmbeddedBroker`` is a broker for tests. docs/python.md
shows all of them. They are imported with their first use: few programs need all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rstream_core.client import Client
from rstream_core.connecting.recovery import Backoff, Recovery, RecoveryEvent, RecoveryState
from rstream_core.errors import (
    AccessRefused,
    AdvertisedHostUnreachable,
    AlreadyClosed,
    AmqpError,
    AuthenticationFailure,
    CannotChangeMechanism,
    CannotChangeUsername,
    ChunkError,
    ClientError,
    ConfigurationError,
    ConnectionClosed,
    ConnectionFailed,
    CopyRefused,
    CredentialsFailed,
    DumpError,
    FrameSizeExceeded,
    FrameTooLarge,
    HeartbeatMissed,
    HostNotFound,
    InternalError,
    LeaderNotAvailable,
    MaxConsumersPerInstance,
    MaxPublishersPerInstance,
    MessageTooLarge,
    NotConfirmed,
    NotCopied,
    OffsetNotFound,
    OffsetsGone,
    PreconditionFailed,
    ProtocolError,
    PublisherDoesNotExist,
    PublishingBlocked,
    RequestTimeout,
    RouteNotFound,
    RstreamError,
    SASLAuthenticationFailureLoopback,
    SASLChallenge,
    SASLError,
    SASLMechanismNotSupported,
    ServerClosed,
    ServerError,
    StreamAlreadyExists,
    StreamDoesNotExist,
    StreamNotAvailable,
    SubscriptionIDAlreadyExists,
    SubscriptionIDDoesNotExist,
    TlsError,
    UnknownFrame,
    UnsupportedByBroker,
    VirtualHostAccessFailure,
)
from rstream_core.hints import Hint
from rstream_core.types import (
    Chunk,
    ChunkSpan,
    CompressionType,
    ConfirmationStatus,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    FilterConfiguration,
    OffsetSpecification,
    OffsetType,
    RouteType,
    StreamMetadata,
    StreamStats,
)
from rstream_core.uri import StreamUri, parse_uri
from rstream_core.version import __version__

if TYPE_CHECKING:
    from rstream_core.broker import EmbeddedBroker
    from rstream_core.consumers.consumer import Consumer, EventContext, MessageContext
    from rstream_core.consumers.superstream_consumer import SuperStreamConsumer
    from rstream_core.consuming.gaps import Gap
    from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
    from rstream_core.consuming.subscriptions import Subscriptions
    from rstream_core.copying.call import CopyResult
    from rstream_core.diffing.diff import Diff
    from rstream_core.diffing.difference import DiffCounts, Difference, DifferenceKind, Span
    from rstream_core.flow.blocks import Blocks, MessageBlock
    from rstream_core.flow.workers import work
    from rstream_core.producers.producer import Producer
    from rstream_core.producers.superstream import Router, SuperStreamProducer
    from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, amqp_decoder
    from rstream_core.publishing.in_flight import FailedMessage, Outcome
    from rstream_core.publishing.publisher import Publisher

__all__ = [
    "AMQPMessage",
    "AccessRefused",
    "AdvertisedHostUnreachable",
    "AlreadyClosed",
    "AmqpError",
    "AuthenticationFailure",
    "Backoff",
    "Blocks",
    "CannotChangeMechanism",
    "CannotChangeUsername",
    "Chunk",
    "ChunkError",
    "ChunkSpan",
    "Client",
    "ClientError",
    "CompressionType",
    "ConfigurationError",
    "ConfirmationStatus",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionOptions",
    "Consumer",
    "ConsumerOffsetSpecification",
    "CopyRefused",
    "CopyResult",
    "Credentials",
    "CredentialsFailed",
    "Diff",
    "DiffCounts",
    "Difference",
    "DifferenceKind",
    "DumpError",
    "EmbeddedBroker",
    "Endpoint",
    "EventContext",
    "FailedMessage",
    "FilterConfiguration",
    "FrameSizeExceeded",
    "FrameTooLarge",
    "Gap",
    "Header",
    "HeartbeatMissed",
    "Hint",
    "HostNotFound",
    "InternalError",
    "LeaderNotAvailable",
    "MaxConsumersPerInstance",
    "MaxPublishersPerInstance",
    "MessageBlock",
    "MessageContext",
    "MessageTooLarge",
    "NotConfirmed",
    "NotCopied",
    "OffsetNotFound",
    "OffsetSpecification",
    "OffsetType",
    "OffsetsGone",
    "Outcome",
    "PreconditionFailed",
    "Producer",
    "Properties",
    "ProtocolError",
    "Publisher",
    "PublisherDoesNotExist",
    "PublishingBlocked",
    "Recovery",
    "RecoveryEvent",
    "RecoveryState",
    "RequestTimeout",
    "RouteNotFound",
    "RouteType",
    "Router",
    "RstreamError",
    "SASLAuthenticationFailureLoopback",
    "SASLChallenge",
    "SASLError",
    "SASLMechanismNotSupported",
    "ServerClosed",
    "ServerError",
    "SingleActiveConsumer",
    "Span",
    "StreamAlreadyExists",
    "StreamDoesNotExist",
    "StreamMetadata",
    "StreamNotAvailable",
    "StreamStats",
    "StreamUri",
    "Subscription",
    "SubscriptionIDAlreadyExists",
    "SubscriptionIDDoesNotExist",
    "Subscriptions",
    "SuperStreamConsumer",
    "SuperStreamProducer",
    "TlsError",
    "UnknownFrame",
    "UnsupportedByBroker",
    "VirtualHostAccessFailure",
    "__version__",
    "amqp_decoder",
    "parse_uri",
    "work",
]


_MODULES = {
    "EmbeddedBroker": "rstream_core.broker",
    "Consumer": "rstream_core.consumers.consumer",
    "EventContext": "rstream_core.consumers.consumer",
    "MessageContext": "rstream_core.consumers.consumer",
    "SuperStreamConsumer": "rstream_core.consumers.superstream_consumer",
    "Gap": "rstream_core.consuming.gaps",
    "SingleActiveConsumer": "rstream_core.consuming.subscription",
    "Subscription": "rstream_core.consuming.subscription",
    "Subscriptions": "rstream_core.consuming.subscriptions",
    "CopyResult": "rstream_core.copying.call",
    "Diff": "rstream_core.diffing.diff",
    "DiffCounts": "rstream_core.diffing.difference",
    "Difference": "rstream_core.diffing.difference",
    "DifferenceKind": "rstream_core.diffing.difference",
    "Span": "rstream_core.diffing.difference",
    "Blocks": "rstream_core.flow.blocks",
    "MessageBlock": "rstream_core.flow.blocks",
    "work": "rstream_core.flow.workers",
    "Producer": "rstream_core.producers.producer",
    "Router": "rstream_core.producers.superstream",
    "SuperStreamProducer": "rstream_core.producers.superstream",
    "AMQPMessage": "rstream_core.protocol.amqp",
    "Header": "rstream_core.protocol.amqp",
    "Properties": "rstream_core.protocol.amqp",
    "amqp_decoder": "rstream_core.protocol.amqp",
    "FailedMessage": "rstream_core.publishing.in_flight",
    "Outcome": "rstream_core.publishing.in_flight",
    "Publisher": "rstream_core.publishing.publisher",
}
"""Where the names are that are imported with their first use."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
