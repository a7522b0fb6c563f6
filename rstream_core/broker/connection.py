"""One client's connection: commands in; answers, confirms and chunks out.

Commands are carried out on the event loop in the order in which they arrive, and answered at once; only published
messages wait for their chunk to be written. A subscription sends chunks when it begins, when it gets credit, and when
its stream has a new chunk. While a client does not read its output, the broker does not read from it, and frames that
were read already wait. So the unsent output is bounded by what one frame can ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rstream_core.broker import refusal
from rstream_core.broker.delivery import BrokerPublisher, BrokerSubscription, open_cursor
from rstream_core.broker.groups import Group
from rstream_core.broker.log import Span
from rstream_core.broker.publishing import ENTRIES_AT, split_filtered, split_publish
from rstream_core.broker.refusal import Refused
from rstream_core.broker.session import ServerSession
from rstream_core.broker.streams import Stream
from rstream_core.broker.tracking import MAX_REFERENCE
from rstream_core.errors import ChunkError, ProtocolError
from rstream_core.protocol import commands as c

if TYPE_CHECKING:
    from rstream_core.broker.server import Server

logger = logging.getLogger("rstream_core.broker")

STEP_TIMEOUT = 10.0
"""Seconds for each step of the handshake, and for the answer to a Close."""
CONSUMER_UPDATE_TIMEOUT = 60.0
WRITE_BUFFER = 64 * 1024
"""Bytes that may wait behind a full socket. Above that, the broker stops reading and sending until all are sent."""

_CONFIRM = struct.Struct(">IHHBi")


class BrokerConnection(asyncio.Protocol):
    """The connection of one client. The server makes one for each."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.loop = asyncio.get_running_loop()
        self.session: ServerSession
        self.transport: asyncio.Transport
        self.peer = ""
        self._is_plain = True
        """Whether data goes to the socket unencrypted, so that sendfile may be used."""
        self._is_full = False
        """Whether the write buffer is full, because the client reads too slowly."""
        self._publishers: dict[int, BrokerPublisher] = {}
        self._subscriptions: dict[int, BrokerSubscription] = {}
        self._asked: dict[int, tuple[BrokerSubscription, bool, asyncio.TimerHandle]] = {}
        """Unanswered ConsumerUpdates by correlation id: the subscription, ``active``, and the timer of the timeout."""
        self._holds: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._delayed: deque[bytes] = deque()
        self._opened = False
        self._unsent = 0

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class
        self.transport = transport
        self._is_plain = transport.get_extra_info("sslcontext") is None
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=0)
        session = self._server.admit(self)
        if session is None:
            transport.abort()
            return
        self.session = session
        self._closing = self.loop.call_later(STEP_TIMEOUT, self._give_up_login)

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        for publisher in self._publishers.values():
            self._close_publisher(publisher)
        for subscription in list(self._subscriptions.values()):
            self._close_subscription(subscription)
        self._server.forget(self)

    def pause_writing(self) -> None:
        self._is_full = True
        self.hold("writing")

    def resume_writing(self) -> None:
        self._is_full = False
        self.session.heard(self.loop.time())  # the client reads, so it is alive, although nothing was read from it
        self.release("writing")
        self.loop.call_soon(self._pump)  # later: this may be inside a write, and received frames come first

    def _pump(self) -> None:
        for subscription in list(self._subscriptions.values()):
            subscription.pump()

    def data_received(self, data: bytes) -> None:
        faults = self._server.faults
        if self._delayed or (faults.is_armed and faults.delay_seconds):
            self._delayed.append(data)
            self.loop.call_later(faults.delay_seconds, self._take_delayed)
            return
        self._receive(data)

    def _take_delayed(self) -> None:
        if self._delayed and not self.transport.is_closing():
            self._receive(self._delayed.popleft())

    def _receive(self, data: bytes) -> None:
        self.session.feed(data, self.loop.time())
        self._handle()

    def _handle(self) -> None:
        """Handles the received frames, until the connection is held (``hold``) or none is left."""
        session = self.session
        before = session.state
        if not self._holds:
            for frame in session.frames():
                try:
                    if not session.take(frame):
                        self._on_frame(frame)
                except ProtocolError as error:
                    logger.info("%s sent what is no command: %s", self.peer, error)
                    session.close(refusal.UNKNOWN_FRAME, "unknown frame")
                self.flush()
                if self._holds:
                    break
        if session.failure:
            logger.info("%s is turned away: %s", self.peer, session.failure)
            session.failure = ""
        self.flush()
        if not self._opened and session.state is not before:
            self._advance_handshake()

    def _advance_handshake(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self.session.vhost:
            self._opened = True
            self._server.logged_in(self)
            logger.info("%s logged in as %r", self.peer, self.session.username)
            self._tick()
        else:
            self._closing = self.loop.call_later(STEP_TIMEOUT, self._give_up_login)

    def _give_up_login(self) -> None:
        logger.info("%s did not go on logging in for %d s", self.peer, STEP_TIMEOUT)
        self.transport.abort()

    def _tick(self) -> None:
        if self._server.faults.heartbeats_stalled:
            self.session.written(self.loop.time())
        if self._holds and not self._is_stuck():  # heartbeats cannot be missed while nothing is read
            self.session.heard(self.loop.time())
        delay = self.session.tick(self.loop.time())
        self._timer = None if delay is None else self.loop.call_later(delay, self._tick)
        if self.session.has_ended:
            logger.info("%s fell silent", self.peer)
            self.transport.abort()
            return
        self.flush()

    def _is_stuck(self) -> bool:
        """Returns whether the client has read nothing since the last call, although unsent data was there.

        In that time only heartbeats can have been added to the unsent data.
        """
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return "writing" in self._holds and 0 < before <= self._unsent

    # Writing.

    @property
    def is_writable(self) -> bool:
        """Whether more data may be sent."""
        return not self._is_full and not self.transport.is_closing()

    def flush(self) -> None:
        """Writes the session's output, and closes the connection if the session has ended."""
        if data := self.session.take_output():
            self._write((data,))
        ended = self.session.has_ended
        if ended:
            self.transport.close()
        if self._closing is None and (ended or self.session.is_closing):
            self._closing = self.loop.call_later(STEP_TIMEOUT, self.transport.abort)

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        if self.transport.is_closing():
            return
        self.session.written(self.loop.time())
        faults = self._server.faults
        if faults.is_armed and (size := faults.cut_for(b"".join(parts))) is not None:
            self.transport.write(b"".join(parts)[:size])
            self.transport.close()
            return
        # Not writelines: on Python 3.12.0 to 3.13.1 it never calls pause_writing.
        self.transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def delivered(self, chunks: int, size: int, parts: Sequence[bytes | memoryview], span: Span | None) -> None:
        """Sends and counts chunks of ``size`` bytes: ``parts``, and then ``span``.

        Raises ``ChunkError`` or ``OSError``.
        """
        self.flush()  # earlier answers go first
        if self.transport.is_closing():  # ``flush`` may have ended the connection
            return
        statistics = self._server.statistics
        statistics.delivered_chunks += chunks
        statistics.delivered_bytes += size
        if span is not None and self._server.faults.is_armed:  # faults need to see whole frames
            parts, span = [*parts, span.read()], None
        self._write(parts)
        if span is not None:
            self._write_span(span)

    def _write_span(self, span: Span) -> None:
        """Sends from the file with sendfile as much as the socket takes, and the rest through the transport."""
        sent = 0
        if self._is_plain and not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # the socket is full, or broken, which the transport will notice
                sent = os.sendfile(
                    self.transport.get_extra_info("socket").fileno(), span.segment.fd, span.position, span.size
                )
        try:
            if sent < span.size and not self.transport.is_closing():
                self.transport.write(span.read(sent))
        except (ChunkError, OSError):
            self.transport.abort()  # in the middle of a frame, no error can be sent
            raise

    def send_confirms(self, publisher_id: int, ids: Sequence[bytes]) -> None:
        drop = False
        faults = self._server.faults
        if faults.is_armed:
            allowed, drop = faults.confirms_allowed(len(ids))
            ids = ids[:allowed]
        self.flush()
        if ids:
            head = _CONFIRM.pack(9 + 8 * len(ids), c.Key.PUBLISH_CONFIRM, 1, publisher_id, len(ids))
            self._server.statistics.confirmed += len(ids)
            self._write((head + b"".join(ids),))
        if drop:
            self.transport.close()

    def send_errors(self, publisher_id: int, ids: Sequence[bytes], code: int) -> None:
        errors = [c.MessageError(int.from_bytes(publishing_id), code) for publishing_id in ids]
        self.session.send(c.PublishError(publisher_id, errors))
        self.flush()

    def hold(self, reason: str) -> None:
        """Stops reading and handling frames until every reason is released."""
        if not self._holds and not self.transport.is_closing():
            self.transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds and not self.transport.is_closing():
                self.transport.resume_reading()
                self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self._handle()

    # Commands.

    def _on_frame(self, frame: bytes) -> None:
        if frame[:2] == _PUBLISH_KEY:
            self._on_publish(frame)
            return
        decoded = c.decode(frame)
        if type(decoded.message) is c.ConsumerUpdateResponse:
            self._on_consumer_update(decoded)
            return
        handler = self._HANDLERS.get(type(decoded.message))
        if handler is None:
            raise ProtocolError(f"command {type(decoded.message).__name__} is not a client's")
        key = int.from_bytes(frame[:2])
        correlation_id = decoded.correlation_id or 0
        faults = self._server.faults
        code = faults.answer_for(key) if faults.is_armed else None
        try:
            if code is not None:
                raise Refused(code, "as ordered")
            answer = handler(self, decoded.message)
        except Refused as refused:
            logger.debug("%s: %s refused with %d: %s", self.peer, type(decoded.message).__name__, refused.code, refused)
            self._refuse(type(decoded.message), decoded.message, correlation_id, refused.code)
            return
        except (OSError, ChunkError) as error:
            where = self._server.streams.directory
            logger.error("%s in %s: %s", type(decoded.message).__name__, where, error)  # noqa: TRY400 - one line
            self._refuse(type(decoded.message), decoded.message, correlation_id, refusal.INTERNAL_ERROR)
            return
        if answer is not None:
            self.session.send(answer, correlation_id=correlation_id)
        if isinstance(decoded.message, c.Subscribe):
            self.flush()
            self._begin(self._subscriptions[decoded.message.subscription_id])

    def _refuse(self, kind: type[Any], message: Any, correlation_id: int, code: int) -> None:
        """Answers with a response code. As in RabbitMQ, some of these answers have empty fields behind the code."""
        if kind is c.Credit:
            self.session.send(c.CreditResponse(message.subscription_id), code=code)
        elif kind in _EMPTY:
            self.session.send(_EMPTY[kind], correlation_id=correlation_id, code=code)
        elif kind is not c.StoreOffset:
            self.session.refuse(kind, correlation_id, code)

    def _on_publish(self, frame: bytes) -> None:
        if len(frame) < ENTRIES_AT:
            raise ProtocolError("a Publish ends within its head")
        version = int.from_bytes(frame[2:4])
        if version not in (1, 2):
            raise ProtocolError(f"there is no Publish version {version}")
        entries = split_publish(frame) if version == 1 else split_filtered(frame)
        publisher = self._publishers.get(frame[4])
        code = None if publisher is not None else refusal.NO_SUCH_PUBLISHER
        if self._server.faults.is_armed:
            ordered = self._server.faults.answer_for(c.Key.PUBLISH)
            code = code if ordered is None else ordered
        if code is not None or publisher is None:
            if ids := [*entries.ids, *entries.refused]:
                self.send_errors(frame[4], ids, code or refusal.NO_SUCH_PUBLISHER)
            return
        publisher.stream.writer.publish(publisher, entries)

    def _declare_publisher(self, message: c.DeclarePublisher) -> Any:
        _check_reference(message.reference)
        stream = self._find(message.stream)
        same = (
            other.stream is stream and other.reference == message.reference and other.reference
            for other in self._publishers.values()
        )
        if message.publisher_id in self._publishers or any(same):
            raise Refused(refusal.PRECONDITION_FAILED, "the publisher id, or the name, is in use")
        publisher = BrokerPublisher(self, message.publisher_id, message.reference, stream)
        stream.writer.declare(message.reference)
        stream.publishers.add(publisher)
        self._publishers[message.publisher_id] = publisher
        return c.DeclarePublisherResponse()

    def _delete_publisher(self, message: c.DeletePublisher) -> Any:
        publisher = self._publishers.get(message.publisher_id)
        if publisher is None:
            raise Refused(refusal.NO_SUCH_PUBLISHER, f"there is no publisher {message.publisher_id}")
        publisher.stream.writer.flush()
        del self._publishers[message.publisher_id]
        self._close_publisher(publisher)
        return c.DeletePublisherResponse()

    def _close_publisher(self, publisher: BrokerPublisher) -> None:
        publisher.is_open = False
        publisher.stream.remove_publisher(publisher)

    def _query_sequence(self, message: c.QueryPublisherSequence) -> Any:
        stream = self._find(message.stream)
        asking = (
            publisher
            for publisher in self._publishers.values()
            if publisher.stream is stream and publisher.reference == message.reference
        )
        return c.QueryPublisherSequenceResponse(stream.writer.sequence(message.reference, next(asking, None)))

    def _create(self, message: c.Create) -> Any:
        self._server.streams.create(self.session.vhost, message.stream, message.arguments)
        logger.info("%s created stream %r", self.peer, message.stream)
        return c.CreateResponse()

    def _delete(self, message: c.Delete) -> Any:
        self._server.streams.delete(self.session.vhost, message.stream)
        logger.info("%s deleted stream %r", self.peer, message.stream)
        return c.DeleteResponse()

    def _metadata(self, message: c.Metadata) -> Any:
        found = []
        for name in dict.fromkeys(message.streams):
            exists = self._server.streams.get(self.session.vhost, name) is not None
            if exists:
                found.append(c.StreamLocation(name, refusal.OK, 0, ()))
            else:
                found.append(c.StreamLocation(name, refusal.NO_SUCH_STREAM, c.NO_LEADER, ()))
        session = self.session
        address = c.BrokerAddress(0, session.advertised_host, session.advertised_port)
        return c.MetadataResponse([address] if any(one.code == refusal.OK for one in found) else [], found)

    def _stats(self, message: c.StreamStats) -> Any:
        stream = self._find(message.stream)
        stream.writer.flush()
        log = stream.log
        stats = {
            "committed_chunk_id": log.committed_chunk_id,
            "committed_offset": log.committed - 1 if log.committed_chunk_id is not None else None,
            "first_chunk_id": log.first_chunk_id,
            "last_chunk_id": log.last_chunk_id,
        }
        return c.StreamStatsResponse({key: -1 if value is None else value for key, value in stats.items()})

    def _store_offset(self, message: c.StoreOffset) -> Any:
        _check_reference(message.reference)
        self._find(message.stream).writer.store_offset(message.reference, message.offset)

    def _query_offset(self, message: c.QueryOffset) -> Any:
        offset = self._find(message.stream).writer.offset(message.reference)
        if offset is None:
            raise Refused(refusal.NO_OFFSET, f"there is no offset of {message.reference!r}")
        return c.QueryOffsetResponse(offset)

    def _resolve(self, message: c.ResolveOffsetSpec) -> Any:
        stream = self._find(message.stream)
        _check_spec(message.offset_spec)
        try:
            cursor = open_cursor(stream, message.offset_spec)
            offset = cursor.offset
            cursor.close()
        finally:
            stream.close_if_unused()  # the index of the newest segment was opened for this
        return c.ResolveOffsetSpecResponse(c.OffsetSpec(4, offset))

    def _create_super_stream(self, message: c.CreateSuperStream) -> Any:
        self._server.streams.create_super_stream(self.session.vhost, *message)
        return c.CreateSuperStreamResponse()

    def _delete_super_stream(self, message: c.DeleteSuperStream) -> Any:
        self._server.streams.delete_super_stream(self.session.vhost, message.name)
        return c.DeleteSuperStreamResponse()

    def _partitions(self, message: c.Partitions) -> Any:
        return c.PartitionsResponse(self._server.streams.partitions(self.session.vhost, message.super_stream))

    def _route(self, message: c.Route) -> Any:
        streams = self._server.streams.route(self.session.vhost, message.super_stream, message.routing_key)
        return c.RouteResponse(streams)

    def _exchange_versions(self, message: c.ExchangeCommandVersions) -> Any:
        for versions in message.versions:
            if versions.key == c.Key.DELIVER and versions.maximum == 2:  # RabbitMQ, too, accepts only this number
                self.session.deliver_version = 2
        return c.ExchangeCommandVersionsResponse(_OUR_VERSIONS)

    def _close(self, _: c.Close) -> Any:
        """Writes all messages published before, and ends the session. Confirms that wait for no sync are sent first."""
        for publisher in self._publishers.values():
            publisher.stream.writer.flush()
        self.session.end()
        return c.CloseResponse()

    # Consuming.

    def _subscribe(self, message: c.Subscribe) -> Any:
        properties = message.properties
        name = properties.get("name")
        stream = self._find(message.stream)
        if message.subscription_id in self._subscriptions:
            raise Refused(refusal.SUBSCRIPTION_ID_EXISTS, f"subscription id {message.subscription_id} is in use")
        _check_reference(name or "")
        is_single = properties.get("single-active-consumer") == "true"
        if is_single and name is None:
            raise Refused(refusal.PRECONDITION_FAILED, "a single active consumer has a name")
        _check_spec(message.offset_spec)
        subscription = BrokerSubscription(self, message.subscription_id, stream, message)
        if is_single and name:
            number = self._server.streams.partition_number(
                self.session.vhost, properties.get("super-stream", ""), stream.name
            )
            subscription.group_name = name
            subscription.group = stream.groups.setdefault(name, Group(number))
        self._subscriptions[message.subscription_id] = subscription
        stream.subscriptions.add(subscription)
        return c.SubscribeResponse()

    def _begin(self, subscription: BrokerSubscription) -> None:
        """Starts a subscription, after the answer to Subscribe was sent."""
        if subscription.group is not None:
            subscription.group.add(subscription)
        else:
            subscription.start(subscription.spec)

    def _credit(self, message: c.Credit) -> Any:
        subscription = self._subscriptions.get(message.subscription_id)
        if subscription is None:
            raise Refused(refusal.NO_SUCH_SUBSCRIPTION, f"there is no subscription {message.subscription_id}")
        subscription.credit += message.credit
        if subscription.group is not None and not subscription.is_sending:  # RabbitMQ counts it, too, but refuses
            raise Refused(refusal.PRECONDITION_FAILED, "this consumer is not active")
        subscription.pump()

    def _unsubscribe(self, message: c.Unsubscribe) -> Any:
        subscription = self._subscriptions.get(message.subscription_id)
        if subscription is None:
            raise Refused(refusal.NO_SUCH_SUBSCRIPTION, f"there is no subscription {message.subscription_id}")
        self._close_subscription(subscription)
        return c.UnsubscribeResponse()

    def _close_subscription(self, subscription: BrokerSubscription) -> None:
        self._subscriptions.pop(subscription.id, None)
        stream = subscription.stream
        stream.subscriptions.discard(subscription)
        subscription.stop()
        for correlation_id in [key for key, asked in self._asked.items() if asked[0] is subscription]:
            self._asked.pop(correlation_id)[2].cancel()
        if (group := subscription.group) is not None:
            group.remove(subscription)
            if not group and stream.groups.get(subscription.group_name) is group:
                del stream.groups[subscription.group_name]
        stream.close_if_unused()

    def ask_consumer(self, subscription: BrokerSubscription, *, active: bool) -> None:
        """Sends a ConsumerUpdate. The connection ends if there is no answer within ``CONSUMER_UPDATE_TIMEOUT``."""
        correlation_id = self.session.request(c.ConsumerUpdate(subscription.id, active))
        timer = self.loop.call_later(CONSUMER_UPDATE_TIMEOUT, self._on_no_answer)
        self._asked[correlation_id] = subscription, active, timer
        self.flush()

    def _on_no_answer(self) -> None:
        logger.info("%s did not answer a ConsumerUpdate in time", self.peer)
        self.transport.abort()

    def _on_consumer_update(self, decoded: c.Frame) -> None:
        asked = self._asked.pop(decoded.correlation_id or 0, None)
        if asked is None:
            return
        subscription, active, timer = asked
        timer.cancel()
        group = subscription.group
        assert group is not None
        if decoded.code != refusal.OK:  # RabbitMQ, too, logs the code, and uses the answer
            logger.info("%s answered a ConsumerUpdate with code %d", self.peer, decoded.code)
        if not active:
            subscription.stop()
        elif group.active is subscription and not group.is_stepping_down:
            spec: c.OffsetSpec = decoded.message.offset_spec
            subscription.start(spec if spec.offset_type else subscription.spec)
        group.answered(subscription, active=active)

    # Called by the server.

    def drop_stream(self, stream: Stream) -> None:
        """Drops the publishers and subscriptions of a stream, and sends a MetadataUpdate."""
        for publisher_id, publisher in list(self._publishers.items()):
            if publisher.stream is stream:
                del self._publishers[publisher_id]
                publisher.is_open = False
                stream.remove_publisher(publisher)
        for subscription in list(self._subscriptions.values()):
            if subscription.stream is stream:
                self._close_subscription(subscription)
        self.session.send(c.MetadataUpdate(refusal.STREAM_NOT_AVAILABLE, stream.name))
        self.flush()

    def _find(self, stream: str) -> Stream:
        return self._server.streams.find(self.session.vhost, stream)

    _HANDLERS: ClassVar[dict[type[Any], Callable[[BrokerConnection, Any], Any]]] = {
        c.DeclarePublisher: _declare_publisher,
        c.QueryPublisherSequence: _query_sequence,
        c.DeletePublisher: _delete_publisher,
        c.Subscribe: _subscribe,
        c.Credit: _credit,
        c.StoreOffset: _store_offset,
        c.QueryOffset: _query_offset,
        c.Unsubscribe: _unsubscribe,
        c.Create: _create,
        c.Delete: _delete,
        c.Metadata: _metadata,
        c.Route: _route,
        c.Partitions: _partitions,
        c.ExchangeCommandVersions: _exchange_versions,
        c.StreamStats: _stats,
        c.CreateSuperStream: _create_super_stream,
        c.DeleteSuperStream: _delete_super_stream,
        c.ResolveOffsetSpec: _resolve,
        c.Close: _close,
    }
    """The handler of each command. It returns the answer, or raises ``Refused``."""


def _check_reference(reference: str) -> None:
    if len(reference.encode(errors="surrogatepass")) > MAX_REFERENCE:
        raise Refused(refusal.PRECONDITION_FAILED, f"a name has at most {MAX_REFERENCE} bytes")


def _check_spec(spec: c.OffsetSpec) -> None:
    if spec.offset_type == 0:  # RabbitMQ, too, ends the connection
        raise ProtocolError("a subscription begins somewhere")


_PUBLISH_KEY = int(c.Key.PUBLISH).to_bytes(2)

_EMPTY: dict[type[Any], Any] = {
    c.QueryPublisherSequence: c.QueryPublisherSequenceResponse(0),
    c.QueryOffset: c.QueryOffsetResponse(0),
    c.StreamStats: c.StreamStatsResponse({}),
    c.Route: c.RouteResponse(()),
    c.Partitions: c.PartitionsResponse(()),
    c.ResolveOffsetSpec: c.ResolveOffsetSpecResponse(c.OffsetSpec(4, 0)),
}

_NOT_NEGOTIATED = frozenset(
    {c.Key.PUBLISH_CONFIRM, c.Key.PUBLISH_ERROR, c.Key.DELIVER, c.Key.CONSUMER_UPDATE, c.Key.EXCHANGE_COMMAND_VERSIONS}
    | set(range(c.Key.METADATA_UPDATE, c.Key.CLOSE))
)
"""Commands that RabbitMQ leaves out of the exchange of versions: those that it sends, and those of the handshake."""
_OUR_VERSIONS = tuple(versions for versions in c.supported_versions() if versions.key not in _NOT_NEGOTIATED)
