"""An asyncio client for RabbitMQ streams.

``Producer`` and ``Consumer`` are what most programs need; ``Client`` gives publishers, subscriptions and
administration one level below, by the batch and the chunk. ``EmbeddedBroker`` is a broker for tests; it is imported
when it is asked for. docs/python.md shows them.
"""

from typing import TYPE_CHECKING

from rstream_core.client import Client
from rstream_core.consumer import Consumer, MessageContext
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
    OffsetNotFound,
    PreconditionFailed,
    ProtocolError,
    PublisherDoesNotExist,
    RequestTimeout,
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
from rstream_core.producer import Producer
from rstream_core.protocol.amqp import AMQPMessage, Header, Properties, amqp_decoder
from rstream_core.publisher import FailedMessage, Outcome, Publisher
from rstream_core.subscription import Chunk, Subscription
from rstream_core.types import (
    CompressionType,
    ConfirmationStatus,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    OffsetType,
    StreamMetadata,
    StreamStats,
)
from rstream_core.uri import StreamUri, parse_uri
from rstream_core.version import __version__

if TYPE_CHECKING:
    from rstream_core.broker import EmbeddedBroker

__all__ = [
    "AMQPMessage",
    "AccessRefused",
    "AdvertisedHostUnreachable",
    "AlreadyClosed",
    "AmqpError",
    "AuthenticationFailure",
    "CannotChangeMechanism",
    "CannotChangeUsername",
    "Chunk",
    "ChunkError",
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
    "Credentials",
    "EmbeddedBroker",
    "Endpoint",
    "FailedMessage",
    "FrameSizeExceeded",
    "FrameTooLarge",
    "Header",
    "HeartbeatMissed",
    "HostNotFound",
    "InternalError",
    "LeaderNotAvailable",
    "MaxConsumersPerInstance",
    "MaxPublishersPerInstance",
    "MessageContext",
    "MessageTooLarge",
    "NotConfirmed",
    "OffsetNotFound",
    "OffsetType",
    "Outcome",
    "PreconditionFailed",
    "Producer",
    "Properties",
    "ProtocolError",
    "Publisher",
    "PublisherDoesNotExist",
    "RequestTimeout",
    "RstreamError",
    "SASLAuthenticationFailureLoopback",
    "SASLChallenge",
    "SASLError",
    "SASLMechanismNotSupported",
    "ServerClosed",
    "ServerError",
    "StreamAlreadyExists",
    "StreamDoesNotExist",
    "StreamMetadata",
    "StreamNotAvailable",
    "StreamStats",
    "StreamUri",
    "Subscription",
    "SubscriptionIDAlreadyExists",
    "SubscriptionIDDoesNotExist",
    "TlsError",
    "UnknownFrame",
    "UnsupportedByBroker",
    "VirtualHostAccessFailure",
    "__version__",
    "amqp_decoder",
    "parse_uri",
]


def __getattr__(name: str) -> object:
    if name == "EmbeddedBroker":
        from rstream_core.broker import EmbeddedBroker  # noqa: PLC0415 - clients do not wait for it

        return EmbeddedBroker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
