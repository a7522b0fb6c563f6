"""A client's commands, each with its handler: what it does, and what is answered.

Commands are carried out in the order in which they arrive, and answered at once; only published messages wait for
their chunk to be written. What is refused is answered with a response code, as RabbitMQ does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from rstream_core.broker import refusal
from rstream_core.broker.delivery import BrokerPublisher, BrokerSubscription, Registry, open_cursor
from rstream_core.broker.faults import Faults
from rstream_core.broker.groups import Group
from rstream_core.broker.ports import Connection
from rstream_core.broker.publishing import ENTRIES_AT, split_filtered, split_publish
from rstream_core.broker.refusal import Refused
from rstream_core.broker.stream import Stream
from rstream_core.broker.streams import Streams
from rstream_core.checks import MAX_NAME
from rstream_core.errors import ChunkError, ProtocolError
from rstream_core.protocol import commands as c

logger = logging.getLogger("rstream_core.broker")


class Client(NamedTuple):
    """Whose command it is, and what the handlers need for it."""

    connection: Connection
    streams: Streams
    registry: Registry

    @property
    def vhost(self) -> str:
        """The virtual host that the client has opened."""
        return self.connection.session.vhost

    def find(self, stream: str) -> Stream:
        """Returns a stream of the client's virtual host. Raises ``Refused`` where there is none."""
        return self.streams.find(self.vhost, stream)


class Commands:
    """Carries out the commands of one connection.

    It does not know the connection, which knows it: a circle would keep each lost connection until a collection.
    """

    def __init__(self, streams: Streams, faults: Faults, registry: Registry) -> None:
        self._streams = streams
        self._faults = faults
        self._registry = registry

    def carry_out(self, connection: Connection, frame: bytes) -> None:
        """Carries out the command of a frame of this connection, and queues the answer.

        Raises ``ProtocolError`` where it is no command of a client's.
        """
        if frame[:2] == _PUBLISH_KEY:
            self._publish(connection, frame)
            return
        decoded = c.decode(frame)
        if decoded.key == _CONSUMER_UPDATE_RESPONSE:
            self._take_consumer_update_response(decoded)
            return
        key, message = decoded.key, decoded.message
        command = _COMMANDS.get(key)
        if command is None:
            raise ProtocolError(f"command {type(message).__name__} is not a client's")
        faults = self._faults
        code = faults.answer_for(key) if faults.is_armed else None
        try:
            if code is not None:
                raise Refused(code, "as ordered")
            answer = command.handler(Client(connection, self._streams, self._registry), message)
        except Refused as refused:
            logger.debug("%s: %s refused with %d: %s", connection.peer, type(message).__name__, refused.code, refused)
            _refuse(connection, decoded, command, refused.code)
            return
        except (OSError, ChunkError) as error:
            logger.error("%s in %s: %s", type(message).__name__, self._streams.folder.path, error)  # noqa: TRY400 - one line
            _refuse(connection, decoded, command, refusal.INTERNAL_ERROR)
            return
        if answer is not None:
            connection.session.send(answer, correlation_id=decoded.correlation_id or 0)
        if key == c.Key.SUBSCRIBE:
            connection.flush()
            self._registry.subscriptions[message.subscription_id].begin()

    def _publish(self, connection: Connection, frame: bytes) -> None:
        if len(frame) < ENTRIES_AT:
            raise ProtocolError("a Publish ends within its head")
        version = int.from_bytes(frame[2:4])
        if version not in (1, 2):
            raise ProtocolError(f"there is no Publish version {version}")
        entries = split_publish(frame) if version == 1 else split_filtered(frame)
        publisher = self._registry.publishers.get(frame[4])
        code = None if publisher is not None else refusal.NO_SUCH_PUBLISHER
        if self._faults.is_armed:
            ordered = self._faults.answer_for(c.Key.PUBLISH)
            code = code if ordered is None else ordered
        if code is not None or publisher is None:
            if ids := [*entries.ids, *entries.refused]:
                connection.send_errors(frame[4], ids, code or refusal.NO_SUCH_PUBLISHER)
            return
        publisher.stream.writer.publish(publisher, entries)

    def _take_consumer_update_response(self, decoded: c.Frame) -> None:
        for subscription in self._registry.subscriptions.values():
            if subscription.answered(decoded.correlation_id or 0, decoded.code, decoded.message.offset_spec):
                return


def _refuse(connection: Connection, decoded: c.Frame, command: _Command, code: int) -> None:
    """Answers with a response code. As in RabbitMQ, some of these answers have empty fields behind the code."""
    session, correlation_id = connection.session, decoded.correlation_id or 0
    if decoded.key == c.Key.CREDIT:
        session.send(c.CreditResponse(decoded.message.subscription_id), code=code)
    elif command.empty is not None:
        session.send(command.empty, correlation_id=correlation_id, code=code)
    elif decoded.key != c.Key.STORE_OFFSET:
        session.refuse(type(decoded.message), correlation_id, code)


# Publishing.


def _declare_publisher(client: Client, message: c.DeclarePublisher) -> Any:
    _refuse_long_reference(message.reference)
    stream = client.find(message.stream)
    publishers = client.registry.publishers
    same = (
        other.stream is stream and other.reference == message.reference and other.reference
        for other in publishers.values()
    )
    if message.publisher_id in publishers or any(same):
        raise Refused(refusal.PRECONDITION_FAILED, "the publisher id, or the name, is in use")
    publisher = BrokerPublisher(client.connection, message.publisher_id, message.reference, stream)
    stream.writer.declare(message.reference)
    stream.publishers.add(publisher)
    publishers[message.publisher_id] = publisher
    return c.DeclarePublisherResponse()


def _delete_publisher(client: Client, message: c.DeletePublisher) -> Any:
    publisher = client.registry.publishers.get(message.publisher_id)
    if publisher is None:
        raise Refused(refusal.NO_SUCH_PUBLISHER, f"there is no publisher {message.publisher_id}")
    publisher.stream.writer.flush()
    client.registry.close_publisher(publisher)
    return c.DeletePublisherResponse()


def _query_sequence(client: Client, message: c.QueryPublisherSequence) -> Any:
    stream = client.find(message.stream)
    asking = (
        publisher
        for publisher in client.registry.publishers.values()
        if publisher.stream is stream and publisher.reference == message.reference
    )
    return c.QueryPublisherSequenceResponse(stream.writer.sequence(message.reference, next(asking, None)))


# Consuming.


def _subscribe(client: Client, message: c.Subscribe) -> Any:
    properties = message.properties
    name = properties.get("name")
    stream = client.find(message.stream)
    subscriptions = client.registry.subscriptions
    if message.subscription_id in subscriptions:
        raise Refused(refusal.SUBSCRIPTION_ID_EXISTS, f"subscription id {message.subscription_id} is in use")
    _refuse_long_reference(name or "")
    is_single = properties.get("single-active-consumer") == "true"
    if is_single and name is None:
        raise Refused(refusal.PRECONDITION_FAILED, "a single active consumer has a name")
    _check_spec(message.offset_spec)
    subscription = BrokerSubscription(client.connection, message.subscription_id, stream, message)
    if is_single and name:
        number = client.streams.super_streams.partition_number(
            client.vhost, properties.get("super-stream", ""), stream.name
        )
        subscription.group_name = name
        subscription.group = stream.groups.setdefault(name, Group(number))
    subscriptions[message.subscription_id] = subscription
    stream.subscriptions.add(subscription)
    return c.SubscribeResponse()


def _credit(client: Client, message: c.Credit) -> Any:
    subscription = _subscription(client, message.subscription_id)
    subscription.credit += message.credit
    if subscription.group is not None and not subscription.is_sending:  # RabbitMQ counts it, too, but refuses
        raise Refused(refusal.PRECONDITION_FAILED, "this consumer is not active")
    subscription.pump()


def _unsubscribe(client: Client, message: c.Unsubscribe) -> Any:
    client.registry.close_subscription(_subscription(client, message.subscription_id))
    return c.UnsubscribeResponse()


def _subscription(client: Client, subscription_id: int) -> BrokerSubscription:
    subscription = client.registry.subscriptions.get(subscription_id)
    if subscription is None:
        raise Refused(refusal.NO_SUCH_SUBSCRIPTION, f"there is no subscription {subscription_id}")
    return subscription


def _store_offset(client: Client, message: c.StoreOffset) -> Any:
    _refuse_long_reference(message.reference)
    client.find(message.stream).writer.store_offset(message.reference, message.offset)


def _query_offset(client: Client, message: c.QueryOffset) -> Any:
    offset = client.find(message.stream).writer.offset(message.reference)
    if offset is None:
        raise Refused(refusal.NO_OFFSET, f"there is no offset of {message.reference!r}")
    return c.QueryOffsetResponse(offset)


def _resolve_offset_spec(client: Client, message: c.ResolveOffsetSpec) -> Any:
    stream = client.find(message.stream)
    _check_spec(message.offset_spec)
    try:
        cursor = open_cursor(stream, message.offset_spec)
        offset = cursor.offset
        cursor.close()
    finally:
        stream.close_if_unused()  # the index of the newest segment was opened for this
    return c.ResolveOffsetSpecResponse(c.OffsetSpec(4, offset))


# Streams.


def _create(client: Client, message: c.Create) -> Any:
    client.streams.create(client.vhost, message.stream, message.arguments)
    logger.info("%s created stream %r", client.connection.peer, message.stream)
    return c.CreateResponse()


def _delete(client: Client, message: c.Delete) -> Any:
    client.streams.delete(client.vhost, message.stream)
    logger.info("%s deleted stream %r", client.connection.peer, message.stream)
    return c.DeleteResponse()


def _metadata(client: Client, message: c.Metadata) -> Any:
    found = []
    for name in dict.fromkeys(message.streams):
        exists = client.streams.get(client.vhost, name) is not None
        if exists:
            found.append(c.StreamLocation(name, refusal.OK, 0, ()))
        else:
            found.append(c.StreamLocation(name, refusal.NO_SUCH_STREAM, c.NO_LEADER, ()))
    session = client.connection.session
    address = c.BrokerAddress(0, session.advertised_host, session.advertised_port)
    return c.MetadataResponse([address] if any(one.code == refusal.OK for one in found) else [], found)


def _stream_stats(client: Client, message: c.StreamStats) -> Any:
    stream = client.find(message.stream)
    stream.writer.flush()
    log = stream.log
    stats = {
        "committed_chunk_id": log.committed_chunk_id,
        "committed_offset": log.committed - 1 if log.committed_chunk_id is not None else None,
        "first_chunk_id": log.first_chunk_id,
        "last_chunk_id": log.last_chunk_id,
    }
    return c.StreamStatsResponse({key: -1 if value is None else value for key, value in stats.items()})


def _create_super_stream(client: Client, message: c.CreateSuperStream) -> Any:
    client.streams.create_super_stream(client.vhost, *message)
    return c.CreateSuperStreamResponse()


def _delete_super_stream(client: Client, message: c.DeleteSuperStream) -> Any:
    client.streams.delete_super_stream(client.vhost, message.name)
    return c.DeleteSuperStreamResponse()


def _partitions(client: Client, message: c.Partitions) -> Any:
    return c.PartitionsResponse(client.streams.super_streams.partitions(client.vhost, message.super_stream))


def _route(client: Client, message: c.Route) -> Any:
    return c.RouteResponse(client.streams.super_streams.route(client.vhost, message.super_stream, message.routing_key))


# The connection.


def _exchange_versions(client: Client, message: c.ExchangeCommandVersions) -> Any:
    for versions in message.versions:
        if versions.key == c.Key.DELIVER and versions.maximum == 2:  # RabbitMQ, too, accepts only this number
            client.connection.session.deliver_version = 2
    return c.ExchangeCommandVersionsResponse(_OUR_VERSIONS)


def _close(client: Client, _: c.Close) -> Any:
    """Writes all messages published before, and ends the session. Confirms that wait for no sync are sent first."""
    client.registry.flush()
    client.connection.session.end()
    return c.CloseResponse()


def _refuse_long_reference(reference: str) -> None:
    if len(reference.encode(errors="surrogatepass")) > MAX_NAME:
        raise Refused(refusal.PRECONDITION_FAILED, f"a name has at most {MAX_NAME} bytes")


def _check_spec(spec: c.OffsetSpec) -> None:
    if spec.offset_type == 0:  # RabbitMQ, too, ends the connection
        raise ProtocolError("a subscription begins somewhere")


class _Command(NamedTuple):
    handler: Callable[[Client, Any], Any]
    """Returns the answer, or None for none. Raises ``Refused``, ``OSError`` or ``ChunkError``."""
    empty: Any = None
    """The fields behind the code of a refusal, where it has some."""


_COMMANDS: dict[int, _Command] = {
    c.Key.DECLARE_PUBLISHER: _Command(_declare_publisher),
    c.Key.QUERY_PUBLISHER_SEQUENCE: _Command(_query_sequence, c.QueryPublisherSequenceResponse(0)),
    c.Key.DELETE_PUBLISHER: _Command(_delete_publisher),
    c.Key.SUBSCRIBE: _Command(_subscribe),
    c.Key.CREDIT: _Command(_credit),
    c.Key.STORE_OFFSET: _Command(_store_offset),
    c.Key.QUERY_OFFSET: _Command(_query_offset, c.QueryOffsetResponse(0)),
    c.Key.UNSUBSCRIBE: _Command(_unsubscribe),
    c.Key.CREATE: _Command(_create),
    c.Key.DELETE: _Command(_delete),
    c.Key.METADATA: _Command(_metadata),
    c.Key.CLOSE: _Command(_close),
    c.Key.ROUTE: _Command(_route, c.RouteResponse(())),
    c.Key.PARTITIONS: _Command(_partitions, c.PartitionsResponse(())),
    c.Key.EXCHANGE_COMMAND_VERSIONS: _Command(_exchange_versions),
    c.Key.STREAM_STATS: _Command(_stream_stats, c.StreamStatsResponse({})),
    c.Key.CREATE_SUPER_STREAM: _Command(_create_super_stream),
    c.Key.DELETE_SUPER_STREAM: _Command(_delete_super_stream),
    c.Key.RESOLVE_OFFSET_SPEC: _Command(_resolve_offset_spec, c.ResolveOffsetSpecResponse(c.OffsetSpec(4, 0))),
}
"""The commands of a client on an open connection. A Publish has a way of its own: it is the hot path."""

_PUBLISH_KEY = int(c.Key.PUBLISH).to_bytes(2)
_CONSUMER_UPDATE_RESPONSE = c.Key.CONSUMER_UPDATE | c.RESPONSE_BIT
_NOT_NEGOTIATED = frozenset(
    {c.Key.PUBLISH_CONFIRM, c.Key.PUBLISH_ERROR, c.Key.DELIVER, c.Key.CONSUMER_UPDATE, c.Key.EXCHANGE_COMMAND_VERSIONS}
    | set(range(c.Key.METADATA_UPDATE, c.Key.CLOSE))
)
"""Commands that RabbitMQ leaves out of the exchange of versions: those that it sends, and those of the handshake."""
_OUR_VERSIONS = tuple(versions for versions in c.supported_versions() if versions.key not in _NOT_NEGOTIATED)
