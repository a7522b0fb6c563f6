"""What programs of the published Python client, ``rstream`` on PyPI, import: ``from rstream_core.compat import …``.

Its names, arguments and behaviours, of the versions 0.12.0 and 1.1.1, over ``rstream_core``. docs/compat.md says what
differs on purpose. New programs take the names of ``rstream_core`` itself: nothing there imports this package.
"""

from rstream_core.compat.amqp import AMQPMessage, Header, Properties, amqp_decoder
from rstream_core.compat.compression import CompressionType, ICompressionCodec, StreamCompressionCodecs
from rstream_core.compat.constants import (
    ConsumerOffsetSpecification,
    OffsetSpecification,
    OffsetType,
    SlasMechanism,
)
from rstream_core.compat.consumer import Consumer, EventContext, MessageContext
from rstream_core.compat.differences import CompatWarning
from rstream_core.compat.exceptions import (
    OffsetNotFound,
    ServerError,
    StreamAlreadySubscribed,
    StreamDoesNotExist,
)
from rstream_core.compat.producer import ConfirmationStatus, Producer
from rstream_core.compat.recovery import BackOffRecoveryStrategy, RecoveryStrategy
from rstream_core.compat.superstream import SuperStreamCreationOption
from rstream_core.compat.superstream_consumer import SuperStreamConsumer
from rstream_core.compat.superstream_producer import RouteType, SuperStreamProducer
from rstream_core.compat.utils import FilterConfiguration, OnClosedErrorInfo, RawMessage

__all__ = [
    "AMQPMessage",
    "BackOffRecoveryStrategy",
    "CompatWarning",
    "CompressionType",
    "ConfirmationStatus",
    "Consumer",
    "ConsumerOffsetSpecification",
    "EventContext",
    "FilterConfiguration",
    "Header",
    "ICompressionCodec",
    "MessageContext",
    "OffsetNotFound",
    "OffsetSpecification",
    "OffsetType",
    "OnClosedErrorInfo",
    "Producer",
    "Properties",
    "RawMessage",
    "RecoveryStrategy",
    "RouteType",
    "ServerError",
    "SlasMechanism",
    "StreamAlreadySubscribed",
    "StreamCompressionCodecs",
    "StreamDoesNotExist",
    "SuperStreamConsumer",
    "SuperStreamCreationOption",
    "SuperStreamProducer",
    "amqp_decoder",
]
