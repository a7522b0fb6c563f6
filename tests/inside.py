"""What tests look at inside of the client and the embedded broker: the one place that knows their private names.

Most tests need nothing of it. Those of credits, queues, shared connections and cancelled calls look at what no
application sees; when the core changes its shape, this module changes with it, and the tests stay as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, cast

import pytest

from rstream_core import Client, Consumer, Producer, Recovery, SuperStreamConsumer, SuperStreamProducer
from rstream_core.broker.connection import BrokerConnection
from rstream_core.broker.embedded import EmbeddedBroker
from rstream_core.broker.segment import Segment
from rstream_core.broker.server import Server
from rstream_core.connecting.attachment import Attachment
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from rstream_core.consuming.arrivals import Arrival
from rstream_core.consuming.intake import Intake
from rstream_core.consuming.subscription import Subscription
from rstream_core.errors import RstreamError
from rstream_core.flow.run import _Alarm
from rstream_core.producers.outbox import Outbox
from rstream_core.producers.superstream import Router
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import Session
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.types import StreamMetadata

# Publishers and subscriptions: their place on a connection.


def attachment(owner: Publisher | Subscription) -> Attachment:
    """What has a place on a connection."""
    return owner._intake if isinstance(owner, Subscription) else owner


def connection(owner: Publisher | Subscription) -> Connection:
    return attachment(owner)._connection


def lease_id(owner: Publisher | Subscription) -> int:
    return attachment(owner)._lease.id


def place(owner: Publisher | Subscription) -> tuple[Connection, int]:
    """Its connection, and its id there."""
    return attachment(owner)._connection, attachment(owner)._lease.id


def is_attached(owner: Publisher | Subscription) -> bool:
    return attachment(owner)._attached


# Publishers.


def mute(publisher: Publisher) -> Callable[[], None]:
    """From now on the publisher hears nothing of the broker's confirms. The function that is returned ends this."""
    handlers, number = publisher._connection.publishers, publisher._lease.id
    handler = handlers.pop(number)

    def unmute() -> None:
        handlers[number] = handler

    return unmute


def listen(publisher: Publisher, listener: Callable[[Outcome], None]) -> None:
    publisher._listener = listener


def bound(publisher: Publisher, max_in_flight: int) -> None:
    publisher._ledger.max_messages = max_in_flight


def watch_frames(publisher: Publisher, written: Callable[[], object]) -> None:
    """Calls ``written`` after each time that frames are written to the publisher's connection."""
    connection = publisher._connection
    write = connection.write

    def watching(frames: Any) -> None:
        write(frames)
        written()

    connection.write = watching  # type: ignore[method-assign]


# Subscriptions.


def undelivered(subscription: Subscription) -> Sequence[Arrival]:
    """Chunks that have come and that nobody has asked for, each with its messages' place; the oldest first."""
    return subscription._intake.arrivals.waiting


def intake_of(connection: Connection) -> Intake:
    """What takes in the chunks of the only subscription on a connection."""
    (subscriber,) = connection.subscriptions.values()
    assert isinstance(subscriber, Intake)
    return subscriber


def deliveries(subscription: Subscription) -> int:
    return subscription._intake.deliveries


async def round_trip(subscription: Subscription) -> None:
    """Returns when all has come that the broker had sent before."""
    await subscription._intake.round_trip()


def owe(subscription: Subscription, credit: int) -> None:
    """As after so many chunks of which nothing was wanted."""
    subscription._intake.credits.free = credit


def owed(subscription: Subscription) -> int:
    """The credits that are free, and that the broker was not given back yet."""
    return subscription._intake.credits.free


def deliver(subscription: Subscription, chunk: bytes) -> None:
    """As if the broker had sent this chunk."""
    subscription._intake.on_chunk(c.Delivery(subscription.id, None, chunk, 0))


def deliver_again(subscription: Subscription, arrival: Arrival) -> None:
    """As if the broker had sent a chunk once more."""
    subscription._intake.on_chunk(arrival.delivery)


def tell_turn(subscription: Subscription, active: bool, correlation_id: int) -> None:
    """As if the broker had said that a turn begins or ends."""
    subscription._intake.on_consumer_update(active, correlation_id)


def lose(subscription: Subscription, error: RstreamError) -> None:
    """As if its connection were lost, or its stream had moved."""
    subscription._intake.on_unavailable(error)


def want_from(subscription: Subscription, offset: int) -> None:
    subscription._intake.arrivals._first_wanted = offset


async def look(subscription: Subscription, seen: int) -> None:
    """What a subscription does to find out whether retention took what it was to read."""
    await subscription._intake._look(seen)


def answer_positions(subscription: Subscription, answer: Awaitable[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The subscription gets this answer when it asks where a specification of an offset leads."""

    async def position(_: object) -> int:
        return await answer

    monkeypatch.setattr(subscription._intake._start, "_position", position)


# Clients and their connections.


def locator(client: Client) -> Locator:
    """It has the connections that questions are asked on."""
    return client._locator


def client_connections(client: Client) -> Sequence[Connection]:
    """All of them, in the order of their kinds: the one that asks, those that publish, those that consume."""
    return [*locator(client).connections, *publishing(client).connections, *consuming(client).connections]


def publishing(client: Client) -> ConnectionPool:
    return client._publisher_pool


def consuming(client: Client) -> ConnectionPool:
    return client._subscriber_pool


def recovering(client: Client) -> Collection[Any]:
    """The recoveries that go on."""
    return client._recoveries._tasks


def set_recovery(client: Client, recovery: Recovery) -> None:
    client._recoveries.policy = recovery


def named(client: Client) -> Collection[tuple[str, str]]:
    """The streams and publisher names whose last publishing id the client remembers."""
    return client._publisher_opener._named


def change_metadata(
    client: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[StreamMetadata], StreamMetadata]
) -> None:
    """From now on the client takes what ``change`` makes of each of the broker's answers."""
    ask = client._locator._metadata

    async def metadata(stream: str) -> StreamMetadata:
        return change(await ask(stream))

    monkeypatch.setattr(client._locator, "_metadata", metadata)


def shared(pool: ConnectionPool) -> Mapping[Any, Sequence[Any]]:
    """The connections of each node, with the ids that are taken on them."""
    return pool._shared


def connecting(pool: ConnectionPool) -> Mapping[Any, Any]:
    """The nodes to which a connection is being made."""
    return pool._connecting


def is_closed(pool: ConnectionPool) -> bool:
    return pool._closed


def unanswered(connection: Connection) -> Mapping[int, Any]:
    """The requests that wait for an answer, by their correlation ids."""
    return connection._waiters


def gone(connection: Connection) -> asyncio.Future[None]:
    """Done when the socket is closed."""
    return connection._gone


def transport(connection: Connection) -> asyncio.Transport:
    assert connection._transport is not None
    return connection._transport


def offer_small_frames(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """From now on brokers offer no larger frames than this, in bytes, to clients that connect."""
    tune = Session._tune

    def offered(session: Session, theirs: c.Tune) -> None:
        tune(session, theirs._replace(frame_max=size))

    monkeypatch.setattr(Session, "_tune", offered)


def versions(session: Session) -> MutableMapping[int, c.CommandVersions]:
    """What both ends speak."""
    return session._versions


# Producers and consumers.


def outbox(producer: Producer | SuperStreamProducer, stream: str, name: str | None = None) -> Outbox:
    """That of a stream, or partition, and a publisher name."""
    return _outboxes(producer)[stream, name]


def outboxes(producer: Producer | SuperStreamProducer) -> Sequence[Outbox]:
    return list(_outboxes(producer).values())


def _outboxes(producer: Producer | SuperStreamProducer) -> Mapping[tuple[str, str | None], Outbox]:
    return (producer._producer if isinstance(producer, SuperStreamProducer) else producer)._outboxes.there


def entrances(producer: Producer) -> Collection[Any]:
    """The outboxes that are being opened."""
    return producer._outboxes.entrances


def extracting(producer: Producer) -> Collection[Any]:
    """The streams of which filter values are waited for."""
    assert producer._extraction is not None
    return producer._extraction.queues


def held_bytes(outbox: Outbox) -> int:
    """Of all messages that are not written yet, in batches or not."""
    return sum(map(len, outbox._held)) + sum(len(message) for job in outbox._queue.jobs for message in job.messages)


def jobs(outbox: Outbox) -> Collection[Any]:
    """The batches that are not written yet."""
    return outbox._queue.jobs


def waiting(outbox: Outbox) -> Collection[Any]:
    """The calls that wait for room."""
    return outbox._room.waiting


def coming(outbox: Outbox) -> tuple[int, int, int]:
    """The calls that were let in and have not gone on, their messages and bytes."""
    room = outbox._room
    return room.coming, room.coming_messages, room.coming_bytes


def queued_bytes(outbox: Outbox) -> int:
    return outbox._queue.queued_bytes


def count_lingers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the linger time of any outbox has ended since."""
    calls = 0
    on_linger = Outbox._on_linger

    def counted(outbox: Outbox) -> None:
        nonlocal calls
        calls += 1
        on_linger(outbox)

    monkeypatch.setattr(Outbox, "_on_linger", counted)
    return lambda: calls


def producer_of(producer: SuperStreamProducer) -> Producer:
    return producer._producer


def subscriptions(consumer: Consumer | SuperStreamConsumer) -> Sequence[Subscription]:
    """Of those that its subscribers have, in the order in which they subscribed."""
    return [subscriber.subscription for subscriber in subscribers(consumer).values()]


def subscribers(consumer: Consumer | SuperStreamConsumer) -> Mapping[Any, Any]:
    return (consumer._consumer if isinstance(consumer, SuperStreamConsumer) else consumer)._subscribers.there


def routes(router: Router) -> Collection[str]:
    """The routing keys whose partitions are remembered."""
    return router._bound


# The embedded broker.


def server(broker: EmbeddedBroker) -> Server:
    assert broker._running is not None
    return broker._running


def connections(broker: EmbeddedBroker) -> Collection[BrokerConnection]:
    return cast("set[BrokerConnection]", server(broker).clients._connections)


def publishes(connection: BrokerConnection) -> bool:
    return bool(connection._registry.publishers)


def reads(connection: BrokerConnection) -> bool:
    return bool(connection._registry.subscriptions)


def watch_writes(monkeypatch: pytest.MonkeyPatch, written: Callable[[BrokerConnection], object]) -> None:
    """Calls ``written`` each time that a connection of any embedded broker has written something."""
    write = BrokerConnection._write

    def watching(connection: BrokerConnection, parts: Sequence[bytes | memoryview]) -> None:
        write(connection, parts)
        written(connection)

    monkeypatch.setattr(BrokerConnection, "_write", watching)


def take_all_for_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of an embedded broker counts as one that may take nothing any more."""
    monkeypatch.setattr(BrokerConnection, "_is_stuck", lambda _: True)


def descriptors(segment: Segment) -> tuple[int, int]:
    """Of the segment's open file and of its index; -1 for none."""
    return segment._fd, segment._index_fd


def ring(alarm: _Alarm) -> None:
    """Calls what an alarm calls, at once."""
    alarm._ring()


# What compat has told already.


def forget_compat_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the next ones be told once again."""
    monkeypatch.setattr("rstream_core.compat.differences._told", set())
