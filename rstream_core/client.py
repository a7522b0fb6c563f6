"""One application's access to a broker or a cluster: administration, publishers and subscriptions.

``Producer`` and ``Consumer`` are built on it, and so is the command line.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from rstream_core.checks import (
    MAX_NAME,
    MAX_OFFSET,
    check_callable,
    check_flag,
    check_name,
    check_properties,
    check_seconds,
    check_subscription_properties,
    check_text,
    check_texts,
    check_whole,
)
from rstream_core.connection import Connection
from rstream_core.errors import (
    AlreadyClosed,
    ConfigurationError,
    ConnectionFailed,
    PreconditionFailed,
    ProtocolError,
    RstreamError,
    StreamAlreadyExists,
    StreamDoesNotExist,
    SuperStreamSubject,
)
from rstream_core.gaps import Gap, GapListener
from rstream_core.in_flight import Outcome
from rstream_core.locator import Locator
from rstream_core.loops import LoopGuard
from rstream_core.offset_questions import OffsetQuestions, query_offset, store_offset
from rstream_core.offsets import stats_of
from rstream_core.pool import MAX_IDS, ConnectionPool
from rstream_core.protocol import commands as c
from rstream_core.protocol.routing import MAX_PARTITIONS, partitions_by_keys, partitions_by_number
from rstream_core.publisher import Publisher
from rstream_core.recovery import RECOVER, Recoveries, Recovery, RecoveryListener
from rstream_core.subscription import (
    DEFAULT_CREDIT,
    SingleActiveConsumer,
    Subscription,
)
from rstream_core.types import (
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    StreamMetadata,
    StreamStats,
    check_specification,
)

logger = logging.getLogger("rstream_core")

MAX_IN_FLIGHT = 50_000
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
MAX_NAMES = 256
"""How many pairs of stream and publisher name have their last publishing id remembered: the last ones opened."""
MAX_INITIAL_CREDIT = 0xFFFF
CREDIT_TO_RELY_ON = 200
"""Chunks ahead that every broker grants. RabbitMQ 4.3.6 grants more (seen), in a Subscribe and in a Credit; a proposal
for later versions has a limit, ``stream.max_credit_chunks``, of 200 by default, and answers 17 beyond it."""


class Client:
    """Connects when it is first needed, or by ``start()``. For the tasks of one event loop, that of the first call:
    ``ConfigurationError`` in another one, in another thread, and after a fork.

    Every method that asks the broker raises the ``ServerError`` of its answer, ``ConnectionFailed``,
    ``ConnectionClosed`` or their subclasses, ``ProtocolError`` for an answer that makes no sense, or
    ``RequestTimeout``. An impossible argument raises a ``TypeError`` or a ``ValueError`` that names it, before the
    broker is asked.

    ``recovery`` is the policy for publishers, subscriptions, and questions that can be asked twice, after a lost
    connection; None: they end. ``on_recovery`` is called with a ``RecoveryEvent`` when a publisher or a subscription is
    lost, and again when it has recovered or was given up. Without a recovery, it is lost and given up at once.

    ``on_gap`` is told a ``Gap`` when retention took what a subscription was to read: the offset that it was to start
    at, or what follows the last message that came. Without one, that is a warning in the log.

    A connection carries at most ``max_publishers_by_connection`` publishers, or ``max_subscribers_by_connection``
    subscriptions, 1 to 256; more of them get another one.
    """

    _closed = True
    """True until ``__init__`` has succeeded, so that ``__del__`` does not warn of a client that was never made."""

    def __init__(
        self,
        options: ConnectionOptions | None = None,
        *,
        recovery: Recovery | None = RECOVER,
        on_recovery: RecoveryListener | None = None,
        on_gap: GapListener | None = None,
        max_publishers_by_connection: int = MAX_IDS,
        max_subscribers_by_connection: int = MAX_IDS,
    ) -> None:
        check_whole("max_publishers_by_connection", max_publishers_by_connection, 1, MAX_IDS)
        check_whole("max_subscribers_by_connection", max_subscribers_by_connection, 1, MAX_IDS)
        self.options = options or ConnectionOptions()
        for what, listener in (("on_recovery", on_recovery), ("on_gap", on_gap)):
            if listener is not None:
                check_callable(what, listener)
        self._recoveries = Recoveries(recovery, on_recovery)
        self._on_gap = None if on_gap is None else self._recoveries.callbacks.bind(on_gap, "on_gap")
        self._locator = Locator(self.options, self._recoveries)
        self._publisher_pool = ConnectionPool(self._locator, max_per_connection=max_publishers_by_connection)
        self._subscriber_pool = ConnectionPool(self._locator, max_per_connection=max_subscribers_by_connection)
        self._offsets = OffsetQuestions(self._locator, self._subscriber_pool, self._subscribe_at_leader)
        self._guard = LoopGuard("this client")
        self._named: dict[tuple[str, str], Publisher] = {}
        self._is_credit_warned_of = False
        """The last publisher of each name in each stream; at most ``MAX_NAMES``."""
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._closed:
            return
        sources = (self._locator, self._publisher_pool, self._subscriber_pool)
        there = sum(connection.is_open for source in sources for connection in source.connections)
        if there:
            _warn(f"unclosed Client: {there} connections stay open", ResourceWarning, stacklevel=2)

    async def start(self, *, wait: float = 0.0, on_wait: Callable[[RstreamError], None] | None = None) -> None:
        """Connects to a seed node and logs in.

        ``wait``: seconds in which it tries again where no node can be reached, for a broker that starts at the same
        time as the program; then it raises the last error. What no waiting mends, such as a wrong password or a
        certificate that is not trusted, is raised at once. ``on_wait`` is called once, with the first error, when the
        waiting begins; without it, that is logged. May be cancelled, and called again.
        """
        self._check_open()
        await self._locator.connection_within(check_seconds("wait", wait), on_wait)

    async def close(self) -> None:
        """Closes every connection. Close publishers and subscriptions first. May be called repeatedly.

        If this call is cancelled, all connections end at once. Where ``on_recovery`` raised a ``BaseException`` that is
        no ``Exception`` and does not end the program, such as that of ``pytest.fail()``, it is raised here at the end.
        """
        if not self._closed:
            self._guard.check()
        self._closed = True
        self._locator.retire()
        try:
            await self._recoveries.close()
            await asyncio.gather(self._publisher_pool.close(), self._subscriber_pool.close())
            await self._locator.close()
        except asyncio.CancelledError:
            self.abort()
            raise
        self._recoveries.callbacks.sum_up()
        self._recoveries.callbacks.check()

    def abort(self) -> None:
        """Ends every connection at once: for a broker that does not answer, or a program that must end now.

        All waiting calls fail with ``ConnectionClosed``. ``close`` must still be called.
        """
        self._locator.retire()
        for source in (self._locator, self._publisher_pool, self._subscriber_pool):
            for connection in source.connections:
                connection.abort()

    async def server_version(self) -> str:
        """Returns the broker's version, such as ``4.3.1``."""
        self._check_open()
        return (await self._locator.again(self._locator.connection)).session.server_version

    async def update_password(self, password: str) -> None:
        """Logs in again on every connection, and on later ones, with another password of the same user.

        For a password that is a token: replace it before it expires, and no connection is interrupted. Raises the
        ``ServerError`` with which a broker refuses the password; the broker closes that connection.

        Where the ``credentials`` of the options are a function, later connections still call it.
        """
        self._check_open()
        check_text("password", password)
        credentials = Credentials(self.options.login().username, password)
        if isinstance(self.options.credentials, Credentials):
            self.options = self._locator.options = replace(self.options, credentials=credentials)
        sources = (self._locator, self._publisher_pool, self._subscriber_pool)
        live = [connection for source in sources for connection in source.connections if connection.is_open]
        answers = await asyncio.gather(
            *(connection.authenticate(credentials) for connection in live), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    # Streams.

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, *, exists_ok: bool = False
    ) -> None:
        """Creates a stream. ``arguments`` are those in the broker's documentation, such as ``max-length-bytes``.

        Raises ``StreamAlreadyExists`` unless ``exists_ok``, or ``PreconditionFailed`` if it has other arguments.
        """
        self._check_open()
        check_name("stream", stream)
        message = c.Create(stream, _arguments(arguments))
        try:
            await self._locator.command(message, f"stream {stream!r}")
        except StreamAlreadyExists:
            if not exists_ok:
                raise

    async def delete_stream(self, stream: str, *, missing_ok: bool = False) -> None:
        """Deletes a stream with all its messages. Raises ``StreamDoesNotExist`` unless ``missing_ok``."""
        self._check_open()
        check_name("stream", stream)
        try:
            await self._locator.command(c.Delete(stream), f"stream {stream!r}")
        except StreamDoesNotExist:
            if not missing_ok:
                raise

    async def stream_exists(self, stream: str) -> bool:
        """Returns whether the stream exists, with or without a leader at the moment."""
        self._check_open()
        check_name("stream", stream)
        return await self._locator.exists(stream)

    async def metadata(self, stream: str) -> StreamMetadata:
        """Returns the nodes of the stream."""
        self._check_open()
        check_name("stream", stream)
        return await self._locator.metadata(stream)

    async def stats(self, stream: str) -> StreamStats:
        """Returns first and committed positions. Raises ``UnsupportedByBroker`` before RabbitMQ 3.11."""
        self._check_open()
        check_name("stream", stream)
        await self._require(c.Key.STREAM_STATS, "3.11", "reading a stream's statistics")
        answer = await self._locator.ask(c.StreamStats(stream), f"stream {stream!r}")
        return stats_of(answer.stats)

    async def last_offset(self, stream: str) -> int | None:
        """Returns the offset of the last message that the stream has now; None for an empty stream.

        Reads the leader's last chunk. The result is exact on every version, also where the broker's own records follow
        the last message.
        """
        self._check_open()
        check_name("stream", stream)
        return await self._offsets.last(stream)

    async def tail_offset(self, stream: str, count: int) -> int | None:
        """Returns the offset at which the last ``count`` messages begin (or all of them, if there are fewer).

        Returns None for an empty stream, and the offset after the last message for a ``count`` of 0 or less. Messages
        are counted, not offsets subtracted: the broker's own records take offsets among the messages.
        """
        check_whole("count", count, -MAX_OFFSET, MAX_OFFSET)
        self._check_open()
        check_name("stream", stream)
        return await self._offsets.tail(stream, count)

    # Super streams.

    async def create_super_stream(
        self,
        super_stream: str,
        *,
        partitions: int | None = None,
        routing_keys: Sequence[str] | None = None,
        arguments: Mapping[str, object] | None = None,
        exists_ok: bool = False,
    ) -> list[str]:
        """Creates a super stream with a number of ``partitions``, or with one for each of the ``routing_keys``.

        Returns the names of its partitions, which the server's own tool would give, too: ``orders-0``, … or
        ``orders-eu``, …. ``arguments`` are those of each partition, see ``create_stream``. Raises
        ``StreamAlreadyExists`` unless ``exists_ok``; with it, ``PreconditionFailed`` where the super stream has other
        partitions (the broker does not tell its arguments). Raises ``UnsupportedByBroker`` before RabbitMQ 3.13.
        """
        self._check_open()
        check_name("super_stream", super_stream)
        if (partitions is None) == (routing_keys is None):
            what = "neither" if partitions is None else "both"
            raise ConfigurationError(
                f"pass partitions (n_partitions) or routing_keys (binding_keys), one a partition; {what} was given"
            )
        if routing_keys is None:
            assert partitions is not None
            names, keys = partitions_by_number(super_stream, check_whole("partitions", partitions, 1, MAX_PARTITIONS))
        else:
            check_texts("routing_keys", routing_keys)
            names, keys = partitions_by_keys(super_stream, routing_keys)
        for name in names:
            check_name("the name of a partition", name)
        what = SuperStreamSubject(super_stream)
        told = _arguments(arguments)
        await self._require(c.Key.CREATE_SUPER_STREAM, "3.13", "creating a super stream")
        message = c.CreateSuperStream(super_stream, names, keys, told)
        try:
            await self._locator.command(message, what)
        except StreamAlreadyExists:
            if not exists_ok:
                raise
            if sorted(await self.partitions(super_stream)) != sorted(names):
                raise PreconditionFailed(f"{what} exists with other partitions") from None
        return names

    async def delete_super_stream(self, super_stream: str, *, missing_ok: bool = False) -> None:
        """Deletes a super stream and all its partitions. Raises ``StreamDoesNotExist`` unless ``missing_ok``."""
        self._check_open()
        check_name("super_stream", super_stream)
        await self._require(c.Key.DELETE_SUPER_STREAM, "3.13", "deleting a super stream")
        try:
            await self._locator.command(c.DeleteSuperStream(super_stream), SuperStreamSubject(super_stream))
        except StreamDoesNotExist:
            if not missing_ok:
                raise

    async def partitions(self, super_stream: str) -> list[str]:
        """Returns the partitions of a super stream, in the broker's order. ``StreamDoesNotExist`` where it has none."""
        self._check_open()
        check_name("super_stream", super_stream)
        await self._require(c.Key.PARTITIONS, "3.11", "super streams")
        what = SuperStreamSubject(super_stream)
        streams = await self._ask_for_streams(c.Partitions(super_stream), what)
        if not streams:
            raise StreamDoesNotExist(f"{what} has no partitions")
        return streams

    async def route(self, super_stream: str, routing_key: str) -> list[str]:
        """Returns the partitions that are bound to a routing key; an empty list where no binding has it."""
        self._check_open()
        check_name("super_stream", super_stream)
        check_text("routing_key", routing_key)
        await self._require(c.Key.ROUTE, "3.11", "super streams")
        what = SuperStreamSubject(super_stream)
        return await self._ask_for_streams(c.Route(routing_key, super_stream), what)

    async def _ask_for_streams(
        self,
        message: c.Request[c.PartitionsResponse | c.RouteResponse],
        what: str,
    ) -> list[str]:
        """Returns the streams in the broker's answer. Raises ``ProtocolError`` for a name that no stream can have."""

        async def ask(connection: Connection) -> list[str]:
            streams = (await connection.request(message, what)).streams
            for stream in streams:
                if not 0 < len(stream.encode()) <= MAX_NAME:
                    raise ProtocolError(
                        f"{what}: {connection.endpoint} names a stream that cannot exist: {stream!r:.80}"
                    )
            return list(streams)

        return await self._locator.use(ask)

    # Offsets.

    async def store_offset(
        self, stream: str, reference: str, offset: int, *, verify_timeout: float | None = None
    ) -> None:
        """Stores an offset under a reference. The broker does not answer: ``query_offset`` shows whether it has it.

        With a ``verify_timeout``, asks for the offset until the broker returns this one, and raises ``RequestTimeout``
        where it does not within that many seconds. The time of an outage is added, as the client's recovery allows.
        """
        self._check_open()
        check_name("stream", stream)
        check_name("reference", reference)
        offset = check_whole("offset", offset, 0, MAX_OFFSET)
        await store_offset(self._locator, stream, reference, offset, verify_timeout)

    async def query_offset(self, stream: str, reference: str) -> int:
        """Returns the offset that is stored under a reference. Raises ``OffsetNotFound`` where there is none."""
        self._check_open()
        check_name("stream", stream)
        check_name("reference", reference)
        return await query_offset(self._locator, stream, reference)

    async def resolve_offset(self, stream: str, spec: ConsumerOffsetSpecification) -> int:
        """Returns the offset of the first message that a subscription with this specification would get now.

        Where there is no such message yet, returns the offset of the next one to be published. An offset beyond the
        end, or inside of a gap, is returned as it is. Since RabbitMQ 4.3 the broker is asked. On older brokers this
        subscribes and reads, and takes the next message's offset to be that after the last one.
        """
        self._check_open()
        check_name("stream", stream)
        check_specification("an offset specification", spec)
        return await self._offsets.resolve(stream, spec)

    async def find_gap(self, stream: str, offset: int) -> Gap | None:
        """Returns the gap that retention has left in a stream from an offset on; None where there is none.

        Also returns None where the offset is yet to come, and before RabbitMQ 3.11, where the stream's first offset is
        unknown.
        """
        self._check_open()
        check_name("stream", stream)
        offset = check_whole("offset", offset, 0, MAX_OFFSET)
        return await self._offsets.find_gap(stream, offset)

    # Publishing and consuming.

    async def publisher(
        self,
        stream: str,
        reference: str | None = None,
        *,
        listener: Callable[[Outcome], None] | None = None,
        on_end: Callable[[RstreamError], None] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        confirm_timeout: float | None = 30.0,
    ) -> Publisher:
        """Returns a publisher on the stream's leader.

        With a ``reference`` (at most 255 bytes) the broker drops and confirms messages whose publishing id it has seen
        under that reference. ``max_in_flight`` (messages) and ``max_in_flight_bytes`` bound what is written and not
        confirmed. A publisher that waits for a confirm for more than ``confirm_timeout`` seconds ends. ``on_end`` is
        called once, with the error, when the publisher ends by itself: not while it recovers, and not by ``close``.

        The publisher's ids count on from the last one that the broker knows (``known_publishing_id``), and from the
        last one that an earlier publisher of this client used under the reference: its messages may still be on their
        way to the broker. A restarted program cannot know of those. To publish messages again that the broker does not
        have, pass their ids again.
        """
        self._check_open()
        check_name("stream", stream)
        if reference is not None:
            check_name("reference", reference)
        check_whole("max_in_flight", max_in_flight, 1, MAX_OFFSET)
        check_whole("max_in_flight_bytes", max_in_flight_bytes, 1, MAX_OFFSET)
        publisher = Publisher(
            stream,
            reference,
            self._publisher_pool,
            self._locator,
            self._recoveries,
            listener=listener,
            on_end=on_end,
            max_in_flight=max_in_flight,
            max_in_flight_bytes=max_in_flight_bytes,
            confirm_timeout=confirm_timeout,
        )
        await self._locator.when_elected(publisher.open)
        if reference is not None:
            self._count_on(publisher, (stream, reference))
        return publisher

    def _count_on(self, publisher: Publisher, name: tuple[str, str]) -> None:
        """Skips ids that an earlier publisher of this name has used, since the broker may not have read them yet.

        If the new publisher used them again, the broker would drop its messages as repetitions.
        """
        publisher.known_publishing_id = publisher.next_publishing_id - 1
        earlier = self._named.pop(name, None)
        if earlier is not None:
            publisher.next_publishing_id = max(publisher.next_publishing_id, earlier.next_publishing_id)
        self._named[name] = publisher
        if len(self._named) > MAX_NAMES:
            del self._named[next(iter(self._named))]

    async def subscribe(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        *,
        credit: int = DEFAULT_CREDIT,
        properties: Mapping[str, str] | None = None,
        filter_values: Sequence[str] = (),
        match_unfiltered: bool = False,
        single_active: SingleActiveConsumer | None = None,
        at_leader: bool = False,
        fail_on_gap: bool = False,
    ) -> Subscription:
        """Returns a subscription on a replica of the stream, or on its leader without replicas or with ``at_leader``.

        ``credit`` is how many chunks the broker may send ahead, 1 to 65,535. Over 200 the log warns, once for a client:
        RabbitMQ 4.3 grants them, and later versions may refuse them with ``PreconditionFailed``.

        With ``filter_values`` the broker leaves out chunks that hold no message with one of them (and, with
        ``match_unfiltered``, none without a value). The chunks that it sends hold other messages, too, which the caller
        must drop. Raises ``UnsupportedByBroker`` before RabbitMQ 3.13.

        With ``single_active`` only one subscription of that name gets messages at a time. Raises
        ``UnsupportedByBroker`` before RabbitMQ 3.11.

        Where retention took offsets that were not read, this client's ``on_gap`` is called before any message behind
        them is handed out. With ``fail_on_gap`` the subscription then ends with ``OffsetsGone``, here or in an
        iteration. With filter values, only a gap at the start is found, since the broker leaves out chunks anyway.

        ``properties`` are further subscription properties for the broker. Those for filters and single active consumers
        may be passed there, too.
        """
        self._check_open()
        check_name("stream", stream)
        check_specification("an offset specification", spec)
        check_whole("credit", credit, 1, MAX_INITIAL_CREDIT)
        if credit > CREDIT_TO_RELY_ON and not self._is_credit_warned_of:
            self._is_credit_warned_of = True
            logger.warning(
                "a credit of %d: RabbitMQ 4.3 grants it, later versions may refuse more than %d chunks"
                " (stream.max_credit_chunks)",
                *(credit, CREDIT_TO_RELY_ON),
            )
        told = check_subscription_properties(properties or {})
        check_flag("match_unfiltered", match_unfiltered)
        check_texts("filter_values", filter_values)
        if single_active is None and told.get("single-active-consumer") == "true":
            if not told.get("name"):
                raise ConfigurationError("a single active consumer needs a name")
            single_active = SingleActiveConsumer(told["name"], told.get("super-stream"))
        if single_active is not None:
            check_name("the name of a single active consumer", single_active.name)
            if single_active.super_stream is not None:
                check_name("super_stream", single_active.super_stream)
            await self._require(c.Key.PARTITIONS, "3.11", "a single active consumer")  # came with the same version
            told |= single_active.properties()
        told |= {f"filter.{number}": value for number, value in enumerate(filter_values)}
        if any(key.startswith("filter.") for key in told):
            # An older broker would ignore the filter, and send all chunks.
            await self._require(c.Key.PUBLISH, "3.13", "filtering", version=2)
        if match_unfiltered:
            told["match-unfiltered"] = "true"
        subscription = self._subscription(
            stream,
            spec,
            credit,
            told,
            self._recoveries,
            single_active,
            at_leader,
            on_gap=self._tell_gap,
            fail_on_gap=fail_on_gap,
        )

        async def subscribe() -> None:
            if at_leader:
                await subscription.open(await self._locator.leader_now(stream))
            else:
                await _first_that_serves(await self._locator.readers_now(stream), subscription.open)

        await self._locator.when_elected(subscribe)
        return subscription

    async def _subscribe_at_leader(self, stream: str, spec: ConsumerOffsetSpecification) -> Subscription:
        """Subscribes with one credit and without recovery: after a lost connection the caller starts anew."""
        self._check_open()
        subscription = self._subscription(stream, spec, 1, {}, Recoveries(None))
        await subscription.open(await self._locator.leader_now(stream))
        return subscription

    def _subscription(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        credit: int,
        properties: Mapping[str, str],
        recoveries: Recoveries,
        single_active: SingleActiveConsumer | None = None,
        at_leader: bool = False,
        *,
        on_gap: GapListener | None = None,
        fail_on_gap: bool = False,
    ) -> Subscription:
        return Subscription(
            stream,
            spec,
            self._subscriber_pool,
            self._locator,
            recoveries,
            credit=credit,
            properties=properties,
            position=partial(self._offsets.position, stream),
            single_active=single_active,
            at_leader=at_leader,
            on_gap=on_gap,
            fail_on_gap=fail_on_gap,
        )

    def _tell_gap(self, gap: Gap) -> None:
        if self._on_gap is None:
            logger.warning("%s", gap)
            return
        logger.info("%s", gap)
        self._on_gap(gap)

    async def _require(self, key: c.Key, since: str, feature: str, *, version: int = 1) -> None:
        (await self._locator.again(self._locator.connection)).session.require(key, since, feature, version)

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("this client is closed")
        self._guard.check()


async def _first_that_serves(nodes: Iterable[Endpoint], use: Callable[[Endpoint], Awaitable[None]]) -> None:
    """Calls ``use`` with one node after the other until it succeeds. Raises the first error where all fail.

    An error that would be the same on every node is raised at once.
    """
    first: RstreamError | None = None
    for node in nodes:
        try:
            return await use(node)
        except RstreamError as error:
            if not error.retriable and not isinstance(error, ConnectionFailed):
                raise
            first = first or error
    assert first is not None
    raise first


_NUMBERS = frozenset(
    {"max-length-bytes", "stream-max-segment-size-bytes", "initial-cluster-size", "stream-filter-size-bytes"}
)
"""The arguments of streams that brokers read as numbers."""


def _arguments(arguments: Mapping[str, object] | None) -> dict[str, str]:
    """Returns stream arguments with their values as strings, which they are on the wire."""
    if not isinstance(arguments, Mapping | None):
        raise TypeError(f"arguments are a mapping, not {arguments!r:.80}")
    told: dict[str, str] = {}
    for key, value in (arguments or {}).items():
        if not isinstance(value, str | int | float):
            raise TypeError(f"arguments[{key!r:.80}] is a str or a number, not {value!r:.80}")
        told[key] = str(value).lower() if isinstance(value, bool) else str(value)
        if key in _NUMBERS and not (told[key].isascii() and told[key].isdigit()):  # RabbitMQ would hang up
            raise ConfigurationError(f"arguments[{key!r}] is a whole number, without a unit, not {told[key]!r:.80}")
    check_properties("arguments", told)
    return told
