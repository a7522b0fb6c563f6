"""A broker for development and tests, which keeps its data on disk. Use RabbitMQ in production.

It shares the protocol code with the client, and imports nothing else of it.
"""

from rstream_core.broker.embedded import EmbeddedBroker
from rstream_core.broker.faults import Faults

__all__ = ["EmbeddedBroker", "Faults"]
