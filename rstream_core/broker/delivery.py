"""The publishers of a connection, which get confirms, and its subscriptions, which get chunks.

A subscription sends chunks unchanged from the file, as long as it has credit and the client reads. It sends large
chunks with sendfile, and joins small ones into one write.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Sequence

from rstream_core.broker import refusal
from rstream_core.broker.groups import Group
from rstream_core.broker.log import LARGE, Cursor
from rstream_core.broker.ports import Connection
from rstream_core.broker.segment import Span
from rstream_core.broker.stream import Stream
from rstream_core.errors import ChunkError
from rstream_core.protocol import commands as c

logger = logging.getLogger("rstream_core.broker")

CONSUMER_UPDATE_TIMEOUT = 60.0
"""Seconds in which a client answers whether it becomes active, or has stepped down."""
SENT_AT_ONCE = 1024 * 1024
"""Bytes that a subscription sends before it lets the event loop go on."""

_DELIVER = struct.Struct(">IHHB")
_DELIVER_COMMITTED = struct.Struct(">IHHBQ")
_ENTRIES, _CHUNK_ID = slice(2, 4), slice(24, 32)
"""Where a chunk's header has the number of its entries, and the first offset."""
_ANSWERS_AT_ONCE = 65_536
"""The most publishing ids in one PublishConfirm or PublishError."""


class BrokerPublisher:
    """A publisher of a connection."""

    def __init__(self, connection: Connection, publisher_id: int, reference: str, stream: Stream) -> None:
        self.reference = reference
        self.stream = stream
        self.connection = connection
        self.id = publisher_id
        self._reason = f"publisher {publisher_id}"
        self.is_open = True
        self.confirmed = 0
        self.errored = 0

    def confirm(self, ids: Sequence[bytes]) -> None:
        if self.is_open:
            self.confirmed += len(ids)
            for start in range(0, len(ids), _ANSWERS_AT_ONCE):
                self.connection.send_confirms(self.id, ids[start : start + _ANSWERS_AT_ONCE])

    def reject(self, ids: Sequence[bytes], code: int) -> None:
        if self.is_open:
            self.errored += len(ids)
            for start in range(0, len(ids), _ANSWERS_AT_ONCE):
                self.connection.send_errors(self.id, ids[start : start + _ANSWERS_AT_ONCE], code)

    def close(self) -> None:
        """Ends the publisher: it gets no more confirms and rejections."""
        self.is_open = False
        self.stream.remove_publisher(self)

    def hold(self) -> None:
        self.connection.hold(self._reason)

    def release(self) -> None:
        self.connection.release(self._reason)


class BrokerSubscription:
    """A subscription of a connection."""

    def __init__(self, connection: Connection, subscription_id: int, stream: Stream, message: c.Subscribe) -> None:
        self.id = subscription_id
        self.stream = stream
        self.connection = connection
        self.credit = message.credit
        self.spec: c.OffsetSpec = message.offset_spec
        self.group: Group | None = None
        self.group_name = ""
        self.properties = properties = message.properties
        self.offset = 0
        self.consumed = 0
        self._filters = frozenset(value for key, value in properties.items() if key.startswith("filter."))
        self._match_unfiltered = properties.get("match-unfiltered") == "true"
        self._cursor: Cursor | None = None
        self._pumping = False
        self._asked: dict[int, tuple[bool, asyncio.TimerHandle]] = {}
        """Unanswered ConsumerUpdates by correlation id: ``active``, and the timer of the timeout."""

    @property
    def is_sending(self) -> bool:
        """Whether the subscription was started, and not stopped since."""
        return self._cursor is not None

    def begin(self) -> None:
        """Called when the client has the answer to its Subscribe: begins to send, or waits for a turn of the group."""
        if self.group is not None:
            self.group.add(self)
        else:
            self.start(self.spec)

    def close(self) -> None:
        """Ends the subscription."""
        self.stream.subscriptions.discard(self)
        self.stop()
        for _, timer in self._asked.values():
            timer.cancel()
        self._asked.clear()
        if (group := self.group) is not None:
            group.remove(self)
            if not group and self.stream.groups.get(self.group_name) is group:
                del self.stream.groups[self.group_name]
        self.stream.close_if_unused()

    def start(self, spec: c.OffsetSpec) -> None:
        """Begins to send where the cursor is."""
        self.stop()
        try:
            self._cursor = open_cursor(self.stream, spec)
            self.offset = self._cursor.offset
        except (OSError, ChunkError) as error:
            self._give_up(error)
        else:
            self.pump()

    def stop(self) -> None:
        """Stops sending."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def pump(self) -> None:
        """Sends the available chunks, within credit and buffer. Behind ``SENT_AT_ONCE`` the event loop goes on."""
        cursor = self._cursor
        connection = self.connection
        if cursor is None or self.credit <= 0 or not connection.is_writable or not cursor.is_behind():
            return
        room = SENT_AT_ONCE
        try:
            while room > 0 and (sent := self._send_some(cursor)):
                room -= sent
        except (OSError, ChunkError) as error:
            self._give_up(error)
            return
        if cursor.is_behind() and self.credit > 0 and not self._pumping:
            self._pumping = True
            connection.loop.call_soon(self._go_on)

    def _send_some(self, cursor: Cursor) -> int:
        """Sends one large chunk, or several small ones. Returns the bytes sent, 0 for none."""
        version = self.connection.session.deliver_version
        committed = self.stream.log.committed_chunk_id or 0
        parts: list[bytes | memoryview] = []
        span: Span | None = None
        sent = chunks = entries = last = 0
        while self.connection.is_writable and chunks < self.credit and sent < LARGE:
            chunk = cursor.next_chunk(self._filters, self._match_unfiltered)
            if chunk is None:
                break
            header, data = chunk
            last = int.from_bytes(header[_CHUNK_ID])
            entries += int.from_bytes(header[_ENTRIES])
            span = data if isinstance(data, Span) else None
            size = len(header) + (len(data) if span is None else span.size)
            if version > 1:
                parts.append(_DELIVER_COMMITTED.pack(size + 13, c.Key.DELIVER, 2, self.id, committed) + header)
            else:
                parts.append(_DELIVER.pack(size + 5, c.Key.DELIVER, 1, self.id) + header)
            if not isinstance(data, Span):
                parts.append(data)
            sent += size
            chunks += 1
        self.credit -= chunks
        if chunks:
            self.offset, self.consumed = last, self.consumed + entries
            self.connection.delivered(chunks, sent, parts, span)
        return sent

    def _go_on(self) -> None:
        self._pumping = False
        self.pump()

    def _give_up(self, error: Exception) -> None:
        logger.error("cannot read stream %r: %s", self.stream.name, error)
        self.stop()
        self.connection.session.close(refusal.INTERNAL_ERROR, "the stream cannot be read")
        self.connection.flush()

    def ask(self, *, active: bool) -> None:
        """Called by the group: asks the client to become active, or stops sending and asks it to step down.

        The connection ends if there is no answer within ``CONSUMER_UPDATE_TIMEOUT``.
        """
        if not active:
            self.stop()
        connection = self.connection
        correlation_id = connection.session.request(c.ConsumerUpdate(self.id, active))
        timer = connection.loop.call_later(
            CONSUMER_UPDATE_TIMEOUT, connection.abort, "did not answer a ConsumerUpdate in time"
        )
        self._asked[correlation_id] = active, timer
        connection.flush()

    def answered(self, correlation_id: int, code: int, spec: c.OffsetSpec) -> bool:
        """Takes the answer to a ConsumerUpdate. Returns False where this subscription has not asked for it."""
        asked = self._asked.pop(correlation_id, None)
        if asked is None:
            return False
        active, timer = asked
        timer.cancel()
        group = self.group
        assert group is not None
        if code != refusal.OK:  # RabbitMQ, too, logs the code, and uses the answer
            logger.info("%s answered a ConsumerUpdate with code %d", self.connection.peer, code)
        if not active:
            self.stop()
        elif group.active is self and not group.is_stepping_down:
            self.start(spec if spec.offset_type else self.spec)
        group.answered(self, active=active)
        return True


class Registry:
    """The publishers and subscriptions of one connection, by their ids."""

    def __init__(self) -> None:
        self.publishers: dict[int, BrokerPublisher] = {}
        self.subscriptions: dict[int, BrokerSubscription] = {}

    def close_publisher(self, publisher: BrokerPublisher) -> None:
        self.publishers.pop(publisher.id, None)
        publisher.close()

    def close_subscription(self, subscription: BrokerSubscription) -> None:
        self.subscriptions.pop(subscription.id, None)
        subscription.close()

    def close_all(self) -> None:
        """Ends all of them: the connection is lost."""
        for publisher in list(self.publishers.values()):
            self.close_publisher(publisher)
        for subscription in list(self.subscriptions.values()):
            self.close_subscription(subscription)

    def close_those_of(self, stream: str) -> None:
        """Ends those of one stream."""
        for publisher in list(self.publishers.values()):
            if publisher.stream.name == stream:
                self.close_publisher(publisher)
        for subscription in list(self.subscriptions.values()):
            if subscription.stream.name == stream:
                self.close_subscription(subscription)

    def flush(self) -> None:
        """Writes all messages that were published before."""
        for publisher in self.publishers.values():
            publisher.stream.writer.flush()

    def pump(self) -> None:
        """Sends the chunks that wait, of each subscription."""
        for subscription in list(self.subscriptions.values()):
            subscription.pump()


def open_cursor(stream: Stream, spec: c.OffsetSpec) -> Cursor:
    """Returns a cursor where an offset specification means to start."""
    log = stream.log
    stream.writer.flush()
    match spec.offset_type:
        case 1:
            return log.first()
        case 2:
            return log.last()
        case 3:
            return log.next()
        case 4:
            return log.at(spec.offset)
        case _:
            return log.since(spec.offset)
