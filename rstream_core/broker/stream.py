"""A stream: its log and writer, and who uses it."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from typing import NamedTuple

from rstream_core.broker import refusal
from rstream_core.broker.arguments import Arguments
from rstream_core.broker.groups import Group
from rstream_core.broker.log import Log
from rstream_core.broker.ports import StreamPublisher, StreamSubscription
from rstream_core.broker.refusal import Refused
from rstream_core.broker.writer import Fsync, Totals, Writer

logger = logging.getLogger("rstream_core.broker")


class Description(NamedTuple):
    """What a stream is created with: the content of its ``stream.json``."""

    vhost: str
    name: str
    arguments: dict[str, str]


class Stream:
    """A stream, with its publishers, subscriptions, and groups of single active consumers."""

    def __init__(self, description: Description, log: Log, fsync: Fsync, executor: Executor, totals: Totals) -> None:
        self.vhost = description.vhost
        self.name = description.name
        self.given = description.arguments
        """The arguments as they were given."""
        self.arguments = Arguments.parse(description.arguments)
        self.log = log
        self.writer = Writer(log, fsync, executor, self._on_written, self.retain, totals)
        self.publishers: set[StreamPublisher] = set()
        self.subscriptions: set[StreamSubscription] = set()
        self.groups: dict[str, Group] = {}

    def _on_written(self) -> None:
        for subscription in list(self.subscriptions):
            subscription.pump()
        if not self.publishers and not self.subscriptions and not self.writer.has_unsynced:
            self.log.close_unused()

    def remove_publisher(self, publisher: StreamPublisher) -> None:
        """Removes a publisher that has gone. After the last one of a name, the writer forgets the name."""
        self.publishers.discard(publisher)
        reference = publisher.reference
        if reference and all(other.reference != reference for other in self.publishers):
            self.writer.forget(reference)
        self.close_if_unused()

    def drop_users(self) -> None:
        """Drops all publishers and subscriptions, and tells their clients that the stream is not available."""
        self.writer.flush()
        self.groups.clear()  # so that no other group member becomes active
        for subscription in self.subscriptions:
            subscription.group = None
        connections = {publisher.connection for publisher in self.publishers}
        connections |= {subscription.connection for subscription in self.subscriptions}
        for connection in connections:
            connection.drop_stream(self.name)

    def retain(self, now: int) -> None:
        """Drops what is too old or too much. The newest segment, which remembers what is in it, is on disk."""
        age = self.arguments.max_age
        try:
            self.log.retain(self.arguments.max_length_bytes, None if age is None else age * 1000, now)
        except OSError as error:
            logger.error("cannot drop what stream %r holds too much: %s", self.name, error)  # noqa: TRY400

    def close_if_unused(self) -> None:
        """Closes the file handles if the stream has no publishers and subscriptions."""
        if not self.publishers and not self.subscriptions:
            self.writer.flush()
            if not self.writer.has_unsynced:
                self.log.close_unused()


def clean_name(name: str) -> str:
    """Returns a name without line breaks, as in RabbitMQ. Raises ``Refused`` for an empty or a reserved name."""
    cleaned = name.replace("\n", "").replace("\r", "")
    if not cleaned or cleaned.startswith("amq."):
        raise Refused(refusal.PRECONDITION_FAILED, f"{name!r} cannot be the name of a stream")
    return cleaned
