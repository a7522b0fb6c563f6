"""A broker for development and tests, which keeps its data on disk. For production there is RabbitMQ.

It shares the protocol with the client and nothing else of it.
"""

from rstream_core.broker.embedded import EmbeddedBroker
from rstream_core.broker.faults import Faults

__all__ = ["EmbeddedBroker", "Faults"]
