"""One application's access to a broker or a cluster: administration, publishers and subscriptions.

``Producer`` and ``Consumer`` are built on it, and so is the command line. ``Client`` is longer than other classes,
since it has a method for each thing that a client can do; each checks its arguments and calls one function or one
opener. The module is longer than others, since each method also says what callers may rely on. What publishes and what
consumes is imported with its first use: few programs need both, and a command of administration neither.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from rstream_core import streams
from rstream_core.arguments import options_of_uri
from rstream_core.checks import MAX_OFFSET, check_callable, check_name, check_seconds, check_text, check_whole
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import MAX_IDS, ConnectionPool
from rstream_core.connecting.recovery import RECOVER, Recoveries, Recovery, RecoveryListener
from rstream_core.consuming.credits import DEFAULT_CREDIT
from rstream_core.consuming.offset_questions import query_offset, query_publishing_id, store_offset
from rstream_core.diffing.alignment import MOST_WINDOW, WINDOW
from rstream_core.errors import AlreadyClosed, RstreamError
from rstream_core.loops import LoopGuard
from rstream_core.types import (
    ChunkSpan,
    CompressionType,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    OffsetType,
    StreamMetadata,
    StreamStats,
    check_specification,
)

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from rstream_core.consuming.gaps import Gap, GapListener
    from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
    from rstream_core.copying.call import CopyResult
    from rstream_core.diffing.diff import Diff
    from rstream_core.flow.blocks import Blocks
    from rstream_core.publisher_opener import PublisherOpener
    from rstream_core.publishing.in_flight import Outcome
    from rstream_core.publishing.publisher import Publisher
    from rstream_core.subscription_opener import SubscriptionOpener

logger = logging.getLogger("rstream_core")

MAX_IN_FLIGHT = 50_000
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
MAX_OPEN = 50_000
"""Messages that may be handed out in blocks and not acknowledged."""
MAX_OPEN_BYTES = 16 * 1024 * 1024
"""Their bytes."""


class Client:
    """Connects when it is first needed, or by ``start()``. For the tasks of one event loop, that of the first call:
    ``ConfigurationError`` in another one, in another thread, and after a fork. ``options`` may be a URI, see
    ``parse_uri``.

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
    subscriptions, 1 to 256; more of them get another one. It is closed ``idle_timeout`` seconds after the last of them
    was closed. Questions about offsets take such a place for a moment: a program that asks them again and again keeps
    its connections by an ``idle_timeout``.
    """

    _closed = True
    """True until ``__init__`` has succeeded, so that ``__del__`` does not warn of a client that was never made."""

    def __init__(
        self,
        options: ConnectionOptions | str | None = None,
        *,
        recovery: Recovery | None = RECOVER,
        on_recovery: RecoveryListener | None = None,
        on_gap: GapListener | None = None,
        max_publishers_by_connection: int = MAX_IDS,
        max_subscribers_by_connection: int = MAX_IDS,
        idle_timeout: float = 0.0,
    ) -> None:
        check_seconds("idle_timeout", idle_timeout)
        check_whole("max_publishers_by_connection", max_publishers_by_connection, 1, MAX_IDS)
        check_whole("max_subscribers_by_connection", max_subscribers_by_connection, 1, MAX_IDS)
        if isinstance(options, str):
            options = options_of_uri(options, "rstream-client")
        self.options = options or ConnectionOptions()
        for what, listener in (("on_recovery", on_recovery), ("on_gap", on_gap)):
            if listener is not None:
                check_callable(what, listener)
        self._recoveries = Recoveries(recovery, on_recovery)
        self._on_gap = None if on_gap is None else self._recoveries.callbacks.bind(on_gap, "on_gap")
        self._locator = Locator(self.options, self._recoveries)
        self._publisher_pool, self._subscriber_pool = (
            ConnectionPool(self._locator, max_per_connection=most, idle_timeout=idle_timeout)
            for most in (max_publishers_by_connection, max_subscribers_by_connection)
        )
        self._guard = LoopGuard("this client")
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

    async def cluster_name(self) -> str:
        """Returns the name of the cluster, as the broker tells it; empty where it tells none."""
        self._check_open()
        connection = await self._locator.again(self._locator.connection)
        return connection.session.server_properties.get("cluster_name", "")

    async def update_password(self, password: str) -> None:
        """Logs in again on every connection, and on later ones, with another password of the same user.

        For a password that is a token: replace it before it expires, and no connection is interrupted. Raises the
        ``ServerError`` with which a broker refuses the password; the broker closes that connection.

        Where the ``credentials`` of the options are a function, later connections still call it.
        """
        self._check_open()
        check_text("password", password)
        credentials = Credentials((await self._locator.credentials()).username, password)
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
        await streams.create_stream(self._locator, stream, arguments, exists_ok=exists_ok)

    async def delete_stream(self, stream: str, *, missing_ok: bool = False) -> None:
        """Deletes a stream with all its messages. Raises ``StreamDoesNotExist`` unless ``missing_ok``."""
        self._check_open()
        await streams.delete_stream(self._locator, stream, missing_ok=missing_ok)

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
        return await streams.stream_stats(self._locator, stream)

    async def last_offset(self, stream: str) -> int | None:
        """Returns the offset of the last message that the stream has now; None for an empty stream.

        Reads the leader's last chunk. The result is exact on every version, also where the broker's own records follow
        the last message.
        """
        self._check_open()
        check_name("stream", stream)
        return await self._subscription_opener.offsets.last(stream)

    async def chunk_span(self, stream: str, spec: ConsumerOffsetSpecification) -> ChunkSpan | None:
        """Returns where the first chunk lies that a subscription with this specification would get now, and its time.

        None where there is no such message yet. Reads one chunk at the leader, whose messages are not decoded. With the
        specification ``LAST``, the span ends with the last message that the stream has now.
        """
        self._check_open()
        check_name("stream", stream)
        check_specification("an offset specification", spec)
        return await self._subscription_opener.offsets.span(stream, spec)

    async def tail_offset(self, stream: str, count: int) -> int | None:
        """Returns the offset at which the last ``count`` messages begin (or all of them, if there are fewer).

        Returns None for an empty stream, and the offset after the last message for a ``count`` of 0 or less. Messages
        are counted, not offsets subtracted: the broker's own records take offsets among the messages.
        """
        check_whole("count", count, -MAX_OFFSET, MAX_OFFSET)
        self._check_open()
        check_name("stream", stream)
        return await self._subscription_opener.offsets.tail(stream, count)

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
        return await streams.create_super_stream(
            self._locator, super_stream, partitions, routing_keys, arguments, exists_ok=exists_ok
        )

    async def delete_super_stream(self, super_stream: str, *, missing_ok: bool = False) -> None:
        """Deletes a super stream and all its partitions. Raises ``StreamDoesNotExist`` unless ``missing_ok``."""
        self._check_open()
        await streams.delete_super_stream(self._locator, super_stream, missing_ok=missing_ok)

    async def partitions(self, super_stream: str) -> list[str]:
        """Returns the partitions of a super stream, in the broker's order. ``StreamDoesNotExist`` where it has none."""
        self._check_open()
        return await streams.partitions_of(self._locator, super_stream)

    async def route(self, super_stream: str, routing_key: str) -> list[str]:
        """Returns the partitions that are bound to a routing key; an empty list where no binding has it."""
        self._check_open()
        return await streams.route(self._locator, super_stream, routing_key)

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

    async def query_publishing_id(self, stream: str, reference: str) -> int:
        """Returns the last publishing id that a stream has under a publisher's reference; 0 where it has none."""
        self._check_open()
        check_name("stream", stream)
        check_name("reference", reference)
        return await query_publishing_id(self._locator, stream, reference)

    async def resolve_offset(self, stream: str, spec: ConsumerOffsetSpecification) -> int:
        """Returns the offset of the first message that a subscription with this specification would get now.

        Where there is no such message yet, returns the offset of the next one to be published. An offset beyond the
        end, or inside of a gap, is returned as it is. Since RabbitMQ 4.3 the broker is asked. On older brokers this
        subscribes and reads, and takes the next message's offset to be that after the last one.
        """
        self._check_open()
        check_name("stream", stream)
        check_specification("an offset specification", spec)
        return await self._subscription_opener.offsets.resolve(stream, spec)

    async def find_gap(self, stream: str, offset: int) -> Gap | None:
        """Returns the gap that retention has left in a stream from an offset on; None where there is none.

        Also returns None where the offset is yet to come, and before RabbitMQ 3.11, where the stream's first offset is
        unknown.
        """
        self._check_open()
        check_name("stream", stream)
        offset = check_whole("offset", offset, 0, MAX_OFFSET)
        return await self._subscription_opener.offsets.find_gap(stream, offset)

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
        return await self._publisher_opener.open(
            stream,
            reference,
            listener=listener,
            on_end=on_end,
            max_in_flight=max_in_flight,
            max_in_flight_bytes=max_in_flight_bytes,
            confirm_timeout=confirm_timeout,
        )

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
        from rstream_core.subscription_opener import subscription_properties

        told, single_active = subscription_properties(properties, filter_values, match_unfiltered, single_active)
        return await self._subscription_opener.open(
            stream,
            spec,
            credit=credit,
            properties=told,
            single_active=single_active,
            at_leader=at_leader,
            fail_on_gap=fail_on_gap,
        )

    def blocks(
        self,
        stream: str | Sequence[str] | None = None,
        *,
        super_stream: str | None = None,
        offset_type: OffsetType | None = None,
        offset: int | datetime | None = None,
        to_end: bool = False,
        until: int | datetime | None = None,
        name: str | None = None,
        store_every: float | None = 5.0,
        single_active: bool = False,
        filter_values: Sequence[str] = (),
        match_unfiltered: bool = False,
        credit: int = DEFAULT_CREDIT,
        max_open: int = MAX_OPEN,
        max_open_bytes: int = MAX_OPEN_BYTES,
        fail_on_gap: bool = False,
    ) -> Blocks:
        """Returns an iterator over blocks of messages, each of which the program acknowledges: ``MessageBlock.ack``.

        Reads one ``stream``, or several; of a ``super_stream``, all partitions, or those that are given as streams.
        Starts as ``Consumer.subscribe`` does by ``offset_type`` and ``offset``. ``to_end``: ends behind the last
        message that a stream has when it is opened. ``until``: ends behind this offset of the one stream, or before the
        first chunk that is later than this time (a ``datetime`` without a zone is local time). Either may be yet to
        come. A group, with ``single_active``, takes ``to_end`` alone.

        With a ``name`` (at most 255 bytes) it begins behind the offset that is stored under it, and ``offset_type`` and
        ``offset`` are for a stream without one: offset 0 if they are not given. Every ``store_every`` seconds (None:
        not), when a turn ends, and at the end, the offset up to which everything is acknowledged is stored. Use a name
        in one place at a time, or with ``single_active``: then all that read with it take turns, or share the
        partitions of the super stream.

        Blocks that are handed out and not acknowledged are open, with a name or without. While they have ``max_open``
        messages or ``max_open_bytes``, the iterator waits; they may pass each bound by one block. A program that
        acknowledges nothing stops there, and the log says so after a minute.

        ``filter_values``, ``match_unfiltered``, ``credit`` and ``fail_on_gap`` are those of ``subscribe``: of messages
        with other filter values, those come that share a chunk with a wanted one, and are to be acknowledged too. The
        client's ``on_gap`` is told of gaps.

        An offset that the broker refuses to store ends the iteration; an outage postpones it. Nothing is asked before
        the first block is. See ``Blocks`` for its end, cancellation and errors.
        """
        from rstream_core.flow.blocks import blocks_of, plan_of
        from rstream_core.flow.stores import StoreEvery

        plan = plan_of(
            stream,
            super_stream,
            ConsumerOffsetSpecification(offset_type, offset),
            is_given=offset_type is not None or offset is not None,
            to_end=to_end,
            until=until,
            name=name,
            single_active=single_active,
            filter_values=filter_values,
            match_unfiltered=match_unfiltered,
            credit=credit,
            fail_on_gap=fail_on_gap,
        )
        return blocks_of(
            self,
            plan,
            store_every=StoreEvery(seconds=None if store_every is None else check_seconds("store_every", store_every)),
            on_gap=self._subscription_opener.tell_gap,
            max_open=check_whole("max_open", max_open, 1, MAX_OFFSET),
            max_open_bytes=check_whole("max_open_bytes", max_open_bytes, 1, MAX_OFFSET),
            check=self._check_open,
        )

    async def copy(
        self,
        source: str,
        target: str,
        *,
        to: Client | None = None,
        super_stream: bool = False,
        offset_type: OffsetType | None = None,
        offset: int | datetime | None = None,
        follow: bool = False,
        until: int | datetime | None = None,
        name: str | None = None,
        append: bool = False,
        filter_values: Sequence[str] = (),
        match_unfiltered: bool = False,
        wanted: Callable[[bytes], bool] | None = None,
        routing_key: Callable[[bytes], str | bytes | None] | None = None,
        selection: str = "",
        filter_value: Callable[[bytes], str | None] | None = None,
        compression: CompressionType | None = None,
        rate: float | None = None,
        credit: int = DEFAULT_CREDIT,
        fail_on_gap: bool = False,
    ) -> CopyResult:
        """Copies the messages of a stream to another one, in their order and byte for byte, and returns what was done.

        ``to`` is the client of the target, for another cluster, virtual host or user; None: this one. With
        ``super_stream`` both names are super streams, and each partition goes to the one with the same place. Offsets,
        timestamps and filter values are not kept. Sub-entries go on as they came, and nothing is decoded, unless an
        argument below looks inside of messages.

        **A copy that was interrupted goes on when it is called again with the same arguments**, and no message is
        stored twice. It publishes under a name of its own, the id of a message is its offset + 1, and the last id that
        the target has says where to go on. The name is ``name``, or one that shows the stream, and a hash of the
        source and of what is copied. Under it the source has a stored offset, too. ``CopyRefused`` where messages
        would be lost or doubled: the target holds messages that this copy did not publish (``append`` allows that); the
        source was deleted and made anew since; both are the same stream; there is a copy from the first message already
        and this one begins elsewhere; the super streams have different numbers of partitions.

        Begins at the first message, or by ``offset_type`` and ``offset`` as ``Consumer.subscribe`` does; such a copy
        has a name of its own. Ends behind the last message that a stream has when the copy begins, behind the offset
        ``until`` or before the first chunk that is later than this time; with ``follow`` not at all, but by a
        cancellation.

        ``filter_values`` and ``match_unfiltered`` are those of ``subscribe``. ``wanted`` is called with each encoded
        message, and returns whether to copy it. ``routing_key`` returns its key: the messages of a super stream then go
        to partitions by the hash of that, and these may be more or fewer than in the source. ``selection`` says in
        words what these two choose, and changes with them: it is a part of the hash. ``filter_value`` returns a filter
        value for the target, or None. ``compression`` publishes sub-entries. ``rate``: at most so many messages a
        second, of all streams together. ``credit`` and ``fail_on_gap`` are those of ``subscribe``; the client's
        ``on_gap`` is told of gaps.

        Raises the error that ended it, ``NotConfirmed`` where the target rejected a message, ``NotCopied`` at one that
        does not fit a frame of the target, or has no routing key, what the functions raise, and what ``subscribe`` and
        ``publisher`` raise. Connections recover as those of the two clients do. A cancelled copy has stored a part, to
        go on from.
        """
        from rstream_core.copying.call import Choosing, copy_streams, plan_of

        plan = plan_of(
            source,
            target,
            is_super=super_stream,
            offset_type=offset_type,
            offset=offset,
            follow=follow,
            until=until,
            name=name,
            append=append,
            filter_values=filter_values,
            match_unfiltered=match_unfiltered,
            choosing=Choosing(wanted, routing_key, filter_value, selection),
            compression=compression,
            rate=rate,
            credit=credit,
            fail_on_gap=fail_on_gap,
        )
        self._check_open()
        return await copy_streams(self, to or self, plan, self._subscription_opener.tell_gap)

    def diff(
        self,
        a: str,
        b: str,
        *,
        to: Client | None = None,
        super_stream: bool = False,
        offset_type: OffsetType | None = None,
        offset: int | datetime | None = None,
        b_offset_type: OffsetType | None = None,
        b_offset: int | datetime | None = None,
        ignore: Sequence[str] = (),
        window: int = WINDOW,
        credit: int = DEFAULT_CREDIT,
    ) -> Diff:
        """Returns an iterator over the differences of two streams: ``a``, and ``b``, which is read with the client
        ``to`` where it is on another broker, and else with this one. With ``super_stream`` both are super streams of
        as many partitions, which are compared one by one, in the broker's order.

        Reads both up to the ends that they have at the start, and compares their messages by their order, not by their
        offsets. Begins with the first message that each has, or where ``offset_type`` and ``offset`` say, as in
        ``Consumer.subscribe``: FIRST, OFFSET or TIMESTAMP. ``b_offset_type`` and ``b_offset`` are for a ``b`` that
        begins elsewhere.

        Compares messages as bytes; of two sub-entries, what they hold. ``ignore`` names sections that are left out:
        ``header``, ``delivery_annotations``, ``annotations``, ``properties``, ``headers`` (application properties),
        ``body``, ``footer``. What is missing, doubled or moved is recognised within ``window`` messages, 1 to 10,000;
        two streams that are further apart do not get into step again. The memory that it takes does not depend on the
        length of the streams, but for ``credit``: chunks that the broker may send ahead, for each side.

        Nothing is asked before the first difference is. Raises ``ConfigurationError`` for super streams with different
        numbers of partitions. See ``Diff`` for its end, cancellation and errors.
        """
        from rstream_core.diffing.diff import Diff, DiffSide, StreamPair, pairs_of, start_of

        other = self if to is None else to
        kind = "super stream" if super_stream else "stream"
        check_name(kind, a)
        check_name(kind, b)
        start = start_of(offset_type, offset)
        is_given = b_offset_type is not None or b_offset is not None
        b_start = start_of(b_offset_type, b_offset) if is_given else start
        check_whole("window", window, 1, MOST_WINDOW)

        async def pairs() -> list[StreamPair]:
            if not super_stream:
                return [StreamPair(a, b)]
            return pairs_of(await self.partitions(a), await other.partitions(b))

        def check() -> None:
            self._check_open()
            other._check_open()  # noqa: SLF001 - of this class

        return Diff(
            (
                DiffSide(self, self._subscription_opener.tell_gap, start),
                DiffSide(other, other._subscription_opener.tell_gap, b_start),  # noqa: SLF001 - of this class
            ),
            pairs,
            ignored=ignore,
            window=window,
            credit=credit,
            check=check,
        )

    @cached_property
    def _publisher_opener(self) -> PublisherOpener:
        from rstream_core.publisher_opener import PublisherOpener

        return PublisherOpener(self._locator, self._publisher_pool, self._recoveries)

    @cached_property
    def _subscription_opener(self) -> SubscriptionOpener:
        from rstream_core.subscription_opener import SubscriptionOpener

        return SubscriptionOpener(self._locator, self._subscriber_pool, self._recoveries, self._on_gap)

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("this client is closed")
        self._guard.check()
