"""``Consumer``: passes the messages of any number of streams to callbacks, or to ``async for``.

Each callback has one task, which takes chunk after chunk. So a stream's messages come in order, one at a time, and a
slow callback holds back the broker but not the other streams.

The module is longer than others, since contexts name the consumer, the options of ``subscribe`` name the contexts, and
the consumer takes the options: all three are public and have to stand together.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, TypedDict, Unpack

from rstream_core.administration import StreamAdministration
from rstream_core.arguments import ConnectionArguments, options_from
from rstream_core.callbacks import Callbacks, own_task
from rstream_core.checks import (
    check_callable,
    check_flag,
    check_name,
    check_seconds,
    check_subscription_properties,
)
from rstream_core.client import Client
from rstream_core.connecting.pool import MAX_IDS
from rstream_core.connecting.recovery import RECOVER, Recovery, RecoveryListener
from rstream_core.consumers.delivering import deliver
from rstream_core.consumers.iteration import ChunkIteration, MessageIteration
from rstream_core.consumers.processed_offsets import ProcessedOffsets
from rstream_core.consumers.subscriber_iteration import ReadSubscribers
from rstream_core.consumers.subscribers import Decoder, Subscriber, Subscribers
from rstream_core.consuming.credits import DEFAULT_CREDIT
from rstream_core.consuming.gaps import GapListener
from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
from rstream_core.errors import AlreadyClosed, ConfigurationError, RstreamError
from rstream_core.hints import Hint
from rstream_core.protocol.amqp import AMQPMessage, amqp_decoder
from rstream_core.types import (
    Chunk,
    ConsumerOffsetSpecification,
    FilterConfiguration,
    OffsetType,
    check_specification,
)

logger = logging.getLogger("rstream_core")


class MessageContext(NamedTuple):
    """The origin of a message: its consumer, stream, subscriber and offset."""

    consumer: Consumer
    stream: str
    subscriber_id: int
    subscriber_name: str | None
    """As it was given to ``subscribe``, else the name that single active consumers share, else None."""
    offset: int
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored the message's chunk."""


class EventContext(NamedTuple):
    """The single active consumer whose turn begins or ends."""

    consumer: Consumer
    stream: str
    subscriber_name: str
    """The same as in the ``MessageContext`` of its messages."""
    reference: str
    """The name that the consumers share."""
    offset: int | None
    """The last one processed, with all before it, in the turn that ends; None where there was none."""
    subscriber_id: int
    """The number that ``subscribe`` returns, perhaps after the first turn has begun."""


Callback = Callable[[Any, MessageContext], Awaitable[None] | None]
ConsumerUpdateListener = Callable[
    [bool, EventContext], Awaitable[ConsumerOffsetSpecification | None] | ConsumerOffsetSpecification | None
]
Streams = str | Mapping[str, ConsumerOffsetSpecification]
"""One stream, or several, each with where it starts."""
Starts = Callable[[ConsumerOffsetSpecification], Awaitable[Mapping[str, ConsumerOffsetSpecification]]]
"""The streams to read, and where each starts; given where the options say that, for those that have no place of their
own."""

_new_context: Callable[[tuple[Any, ...]], MessageContext] = partial(tuple.__new__, MessageContext)
"""Does the same as ``MessageContext(*fields)``, without its Python code, which is too slow for each message."""


class SubscribeOptions(TypedDict, total=False):
    """Keyword arguments of all methods that subscribe."""

    offset_type: OffsetType | None
    """Where to start; the first message, unless told otherwise."""
    offset: int | datetime | None
    """An offset, or a time; without an ``offset_type`` a number is an offset."""
    offset_specification: ConsumerOffsetSpecification | None
    """Replaces ``offset_type`` and ``offset``."""
    initial_credit: int
    """How many chunks the broker may send ahead; by default 10."""
    properties: Mapping[str, str] | None
    """Further subscription properties for the broker."""
    subscriber_name: str | None
    store_offset_every: float | None
    """Seconds: how often to store, under the name, the offset of the last message processed; and at the end. It does
    not pass a message whose callback raised: a consumer that goes on from the stored offset gets that one again."""
    single_active_consumer: bool
    """Whether only one of the consumers that share the name gets messages at a time."""
    super_stream: str | None
    """The super stream of the partition, with ``single_active_consumer``."""
    consumer_update_listener: ConsumerUpdateListener | None
    """Called with (is_active, EventContext) when a turn begins or ends; returns where to start, or None."""
    filter_input: FilterConfiguration | None
    """Which messages are wanted."""
    filter_values: Sequence[str]
    """Replaces ``filter_input``, together with ``match_unfiltered`` and ``post_filter``."""
    match_unfiltered: bool
    post_filter: Callable[[Any], bool] | None
    fail_on_gap: bool
    """Whether to end with ``OffsetsGone`` where retention took messages that were not read."""


@dataclass(frozen=True, slots=True)
class _Wishes:
    """``SubscribeOptions`` after the checks."""

    start: ConsumerOffsetSpecification
    credit: int
    properties: Mapping[str, str]
    name: str | None
    group: str | None
    """The name that single active consumers share."""
    super_stream: str | None
    listener: ConsumerUpdateListener | None
    filter: FilterConfiguration
    store_every: float | None
    fail_on_gap: bool

    @property
    def store_name(self) -> str:
        """The name under which offsets are stored. Only for subscriptions that store them: those have a name."""
        name = self.group or self.name
        assert name is not None
        return name


class _Called(NamedTuple):
    """The subscriber whose callback or listener runs."""

    consumer: Consumer
    stream: str
    name: str | None


_called: ContextVar[_Called | None] = ContextVar("rstream_called", default=None)
"""Set in the tasks that call callbacks and listeners, and inherited by the tasks that those start."""


class Consumer(StreamAdministration):
    """Consumes messages; connects at the first call that needs it, or by ``start()``. For tasks of one event loop.

    After a lost connection the consumer goes on as ``recovery`` says, after the last message that came, and calls
    ``on_recovery``. It calls ``on_gap`` where retention took messages before they were read. See ``Client``; a
    ``client`` that is passed keeps its own three.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        client: Client | None = None,
        recovery: Recovery | None = RECOVER,
        on_recovery: RecoveryListener | None = None,
        on_gap: GapListener | None = None,
        max_subscribers_by_connection: int = MAX_IDS,
        **connection: Unpack[ConnectionArguments],
    ) -> None:
        self._callbacks = Callbacks()
        self._subscribers = Subscribers(self._callbacks)
        self._ids = itertools.count()
        self._closing: asyncio.Future[None] | None = None
        own = client or Client(
            options_from(host, port, "rstream-consumer", **connection),
            recovery=recovery,
            on_recovery=on_recovery,
            on_gap=on_gap,
            max_subscribers_by_connection=max_subscribers_by_connection,
        )
        super().__init__("this consumer", own, owns_client=client is None)

    async def run(self) -> None:
        """Waits until ``close()`` or ``stop()``. Raises the error with which a subscription ended by itself.

        Also raises a ``BaseException`` of a callback that is no ``Exception``, such as that of ``pytest.fail()``, which
        ends its subscription.

        Each error is raised once, and that of a stream that was subscribed to again is forgotten: called again, it
        waits for what is there then. An error that comes while nobody waits here is logged, too.
        """
        self._guard.check()
        await self._subscribers.wait()

    def stop(self) -> None:
        """Makes ``run()`` return; messages still come until ``close()``."""
        self._subscribers.stop()

    async def close(self) -> None:
        """Ends every subscription and disconnects. Cancels running callbacks, except one that calls ``close`` itself.

        Raises only a ``BaseException`` of a callback, see ``run``, and that once. May be called repeatedly.
        """
        if self._closing is None:
            self._guard.check()
            self._closed = self._subscribers.is_closed = True
            self._closing = own_task(self._close(asyncio.current_task()))
        await asyncio.shield(self._closing)
        self._callbacks.check()

    async def _close(self, caller: asyncio.Task[Any] | None) -> None:
        """Does the work of ``close`` in a separate task, since this may cancel the task that called ``close``."""
        try:
            await self._subscribers.close(caller)
        finally:
            self._callbacks.sum_up()
            try:
                await self._close_client()
            finally:
                self.stop()

    # Offsets.

    async def store_offset(self, stream: str, subscriber_name: str | None, offset: int) -> None:
        """Stores the offset of the last message that was processed: go on from the one after it.

        ``ConfigurationError`` without a name, as a ``MessageContext`` of a subscriber without one has it.
        """
        await self._client.store_offset(stream, _reference(subscriber_name), offset)

    async def query_offset(self, stream: str, subscriber_name: str | None) -> int:
        """The stored offset. Raises ``OffsetNotFound``, ``StreamDoesNotExist``; without a name as ``store_offset``."""
        return await self._client.query_offset(stream, _reference(subscriber_name))

    async def stream(self, subscriber_name: str | None) -> str:
        """See ``get_stream``."""
        return self.get_stream(subscriber_name)

    def get_stream(self, subscriber_name: str | None) -> str:
        """The stream of a subscriber; in its callback or its listener, the one that it is called for.

        Raises ``ConfigurationError`` where nobody has this name, and, elsewhere, where it is that of several streams
        or there is none.
        """
        called = _called.get()
        if called is not None and called.consumer is self and called.name == subscriber_name:
            return called.stream
        first, *others = {subscriber.subscription.stream for subscriber in self._subscribers.named(subscriber_name)}
        if others:
            raise ConfigurationError(
                f"subscriber {subscriber_name!r} has {1 + len(others)} streams",
                hint=Hint.NAME_THE_STREAM,
            )
        return first

    # Consuming.

    async def subscribe(
        self,
        stream: str,
        callback: Callback,
        *,
        decoder: Decoder | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> int:
        """Calls ``callback(message, context)`` for each message, in order, and returns the subscriber's id.

        The callback may be a coroutine function; the next message waits for it. What it raises is logged (once a minute
        at most for each kind of failure, the others are counted), and the next message follows; but with
        ``store_offset_every`` no offset from there on is stored. ``decoder`` makes the message of its bytes
        (``amqp_decoder``; None: the bytes as they were stored). ``SubscribeOptions`` names the options.
        """
        check_callable("callback", callback)
        check_decoder(decoder)
        subscriber = await self._subscribe(stream, decoder, check_options(options))
        context = copy_context()
        context.run(_called.set, _Called(self, stream, subscriber.name))
        delivery = deliver(
            self._subscribers, subscriber, partial(_messages_of, self), _one_by_one(decoder), callback, self._callbacks
        )
        subscriber.task = asyncio.create_task(delivery, context=context)
        subscriber.task.add_done_callback(lambda _: self._subscribers.changed())
        return subscriber.id

    async def unsubscribe(
        self,
        subscriber: int | str | None = None,
        *,
        subscriber_name: str | None = None,
        subscriber_id: int | None = None,
    ) -> None:
        """Ends one subscription, by its id, or all of a name; the callback is not called any more.

        Either is ``subscriber``, or said by its own name. Raises ``ConfigurationError`` where there is none such.
        """
        self._guard.check()
        whom = the_one_given(subscriber, subscriber_name, subscriber_id)
        if whom is None:
            raise ConfigurationError(
                "pass the number that subscribe() returned, which is the subscriber_id of a context, or a"
                " subscriber_name"
            )
        if isinstance(whom, int):
            if whom not in self._subscribers.there:
                raise ConfigurationError(f"there is no subscriber {whom}")
            await self._subscribers.leave(self._subscribers.there[whom])
            return
        for found in self._subscribers.named(whom):
            await self._subscribers.leave(found)

    def chunks(self, streams: Streams, **options: Unpack[SubscribeOptions]) -> ChunkIteration:
        """An async iterator over chunks: the fastest way. Wrap it in ``contextlib.aclosing`` to leave early.

        Of several streams, given as a mapping of each to where it starts, the chunks come as they arrive. With filter
        values a chunk holds other messages too. Raises what ends a subscription, such as ``ConnectionClosed`` or
        ``StreamDoesNotExist``. A cancelled ``anext``, as by a timeout, loses nothing: the next one goes on.
        """
        return self._read_chunks(_given(streams, options), options)

    def messages(
        self, streams: Streams, *, decoder: Decoder | None = None, **options: Unpack[SubscribeOptions]
    ) -> MessageIteration[tuple[Any, MessageContext]]:
        """An async iterator over ``(message, context)``. Wrap it in ``contextlib.aclosing`` to leave early.

        Of several streams, given as a mapping of each to where it starts, the messages come chunk by chunk as they
        arrive. Raises what ends a subscription, and what the decoder or the post filter raises. A cancelled ``anext``,
        as by a timeout, loses nothing: the next one goes on.
        """
        return self._read_messages(_given(streams, options), decoder, options)

    # Inside.

    def _read_chunks(self, starts: Starts, options: SubscribeOptions) -> ChunkIteration:
        wishes = check_options(options)
        if wishes.filter.predicate is not None:
            raise ConfigurationError("a post filter needs messages, and chunks() does not decode them")
        return ChunkIteration(self._guard, self._read_subscribers(starts, None, wishes).open)

    def _read_messages(
        self, starts: Starts, decoder: Decoder | None, options: SubscribeOptions
    ) -> MessageIteration[tuple[Any, MessageContext]]:
        check_decoder(decoder)
        wishes = check_options(options)
        read = self._read_subscribers(starts, decoder, wishes)
        split = partial(read.split, partial(_messages_of, self), _one_by_one(decoder), wishes.filter.predicate)
        return MessageIteration(self._guard, read.open, split)

    def _read_subscribers(
        self, starts: Starts, decoder: Decoder | None, wishes: _Wishes
    ) -> ReadSubscribers[MessageContext]:
        async def subscribe(stream: str, start: ConsumerOffsetSpecification) -> Subscriber:
            return await self._subscribe(stream, decoder, replace(wishes, start=start))

        return ReadSubscribers(self._subscribers, partial(starts, wishes.start), subscribe)

    async def _subscribe(self, stream: str, decoder: Decoder | None, wishes: _Wishes) -> Subscriber:
        self._check_open()
        number = next(self._ids)
        name = wishes.name or wishes.group
        offsets = None
        if wishes.store_every is not None:
            offsets = ProcessedOffsets(self._client, wishes.store_name, wishes.store_every)
        single_active = None
        if wishes.group is not None:
            listener = partial(_on_turn, self, number, wishes.name or wishes.group, wishes, offsets)
            single_active = SingleActiveConsumer(wishes.group, wishes.super_stream, listener)
        try:
            subscription = await self._client.subscribe(
                stream,
                wishes.start,
                credit=wishes.credit,
                properties=wishes.properties,
                filter_values=wishes.filter.values_to_filter,
                match_unfiltered=wishes.filter.match_unfiltered,
                single_active=single_active,
                fail_on_gap=wishes.fail_on_gap,
            )
        except RstreamError:
            self._check_open()  # if the consumer was closed, that is the error to raise
            raise
        try:
            self._check_open()  # the consumer may have been closed in the meantime
        except AlreadyClosed:
            await subscription.close()
            raise
        subscription.reads_plain = decoder is amqp_decoder
        subscriber = Subscriber(number, name, subscription, decoder, wishes.filter.predicate, offsets)
        self._subscribers.add(subscriber)
        if offsets is not None:
            subscriber.storing = asyncio.create_task(offsets.store_now_and_then(subscription))
        return subscriber


async def _on_turn(
    consumer: Consumer,
    number: int,
    name: str,
    wishes: _Wishes,
    offsets: ProcessedOffsets | None,
    subscription: Subscription,
    active: bool,
) -> ConsumerOffsetSpecification | None:
    """Stores the offset when a turn ends, and calls the application's listener. Called by the subscription."""
    assert wishes.group is not None
    if not active and offsets is not None:
        await offsets.store_last(subscription)
    if wishes.listener is None:
        return None
    _called.set(_Called(consumer, subscription.stream, name))
    context = EventContext(consumer, subscription.stream, name, wishes.group, subscription.processed, number)
    answer = wishes.listener(active, context)
    return await answer if inspect.isawaitable(answer) else answer


def _messages_of(consumer: Consumer, subscriber: Subscriber, chunk: Chunk) -> Iterator[tuple[Any, MessageContext]]:
    """Returns an iterator of a chunk's messages with their contexts.

    The messages are decoded where the decoder is ``amqp_decoder``; the caller calls any other one. Iterators
    written in C make the contexts, since this runs for every message.
    """
    offsets = itertools.count(chunk.offset)
    fields = zip(
        repeat(consumer),
        repeat(chunk.stream),
        repeat(subscriber.id),
        repeat(subscriber.name),
        offsets,
        repeat(chunk.timestamp),
    )
    messages = AMQPMessage.all_from_bytes(chunk.messages) if subscriber.decoder is amqp_decoder else chunk.messages
    return zip(messages, map(_new_context, fields), strict=False)


def the_one_given(subscriber: int | str | None, name: str | None, number: int | None) -> int | str | None:
    """Who is meant; None where nobody is. Raises ``ConfigurationError`` for more than one."""
    given = [whom for whom in (subscriber, name, number) if whom is not None]
    if len(given) > 1:
        raise ConfigurationError("pass one of subscriber, subscriber_name and subscriber_id")
    return given[0] if given else None


def _reference(name: str | None) -> str:
    if name is None:
        raise ConfigurationError("offsets are stored under a name: give subscribe() a subscriber_name, and pass that")
    return name


def _one_by_one(decoder: Decoder | None) -> Decoder | None:
    """Returns the decoder to call for each message; None without one, or where ``all_from_bytes`` decodes."""
    return None if decoder is amqp_decoder else decoder


def check_decoder(decoder: Decoder | None) -> None:
    if decoder is not None:
        check_callable("decoder", decoder)


def read_chunks(consumer: Consumer, starts: Starts, options: SubscribeOptions) -> ChunkIteration:
    """``Consumer.chunks`` of streams that are asked for when reading begins."""
    return consumer._read_chunks(starts, options)  # noqa: SLF001 - of this module


def read_messages(
    consumer: Consumer, starts: Starts, decoder: Decoder | None, options: SubscribeOptions
) -> MessageIteration[tuple[Any, MessageContext]]:
    """As ``read_chunks``, of messages."""
    return consumer._read_messages(starts, decoder, options)  # noqa: SLF001 - of this module


def _given(streams: Streams, options: SubscribeOptions) -> Starts:
    """As ``messages`` and ``chunks`` are given them."""
    if isinstance(streams, Mapping):
        if not streams:
            raise ConfigurationError("streams is empty")
        if not _STARTS.isdisjoint(key for key, value in options.items() if value is not None):
            raise ConfigurationError("the mapping says where each stream starts: do not pass an offset as well")
        for stream, start in streams.items():
            check_specification(f"the value of {stream!r:.80} in streams", start)
    elif not isinstance(streams, str):
        raise TypeError(
            "streams is the name of one stream, or a mapping of names, each to a ConsumerOffsetSpecification, "
            f"not {streams!r:.80}"
        )

    async def starts(start: ConsumerOffsetSpecification) -> Mapping[str, ConsumerOffsetSpecification]:
        return {streams: start} if isinstance(streams, str) else streams

    return starts


_STARTS = frozenset({"offset_type", "offset", "offset_specification"})


def check_options(options: SubscribeOptions) -> _Wishes:
    """Returns the options, checked.

    Raises ``TypeError`` for an unknown option or a wrong type, ``ConfigurationError`` for an impossible value or for
    options that exclude each other.
    """
    unknown = options.keys() - SubscribeOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected argument: {', '.join(sorted(unknown))}")
    properties = check_subscription_properties(options.get("properties") or {})
    for flag in ("single_active_consumer", "match_unfiltered", "fail_on_gap"):
        check_flag(flag, options.get(flag, False))
    name = options.get("subscriber_name")
    if name is not None:
        check_name("subscriber_name", name)
    if (of := options.get("super_stream")) is not None:
        check_name("super_stream", of)
    group, super_stream = _group(options, properties, name)
    listener = options.get("consumer_update_listener")
    if listener is not None:
        check_callable("consumer_update_listener", listener)
    if listener is not None and group is None:
        raise ConfigurationError("a consumer_update_listener is for a single active consumer")
    every = options.get("store_offset_every")
    if every is not None and (check_seconds("store_offset_every", every) == 0 or (group or name) is None):
        raise ConfigurationError("store_offset_every is more than 0 seconds, and needs a subscriber_name")
    return _Wishes(
        _start(options),
        options.get("initial_credit", DEFAULT_CREDIT),
        properties,
        name,
        group,
        super_stream,
        listener,
        _filter(options),
        every,
        options.get("fail_on_gap", False),
    )


def _group(options: SubscribeOptions, properties: Mapping[str, str], name: str | None) -> tuple[str | None, str | None]:
    """The name that single active consumers share, and the super stream; from the options, or from the properties."""
    if properties.get("single-active-consumer") == "true":
        name = properties.get("name") or name
    elif not options.get("single_active_consumer"):
        return None, None
    if not name:
        raise ConfigurationError("a single active consumer needs a subscriber_name, which it shares with others")
    return name, options.get("super_stream") or properties.get("super-stream")


def _filter(options: SubscribeOptions) -> FilterConfiguration:
    given = options.get("filter_input")
    values, unfiltered = options.get("filter_values", ()), options.get("match_unfiltered", False)
    predicate = options.get("post_filter")
    if given is None:
        return FilterConfiguration(values, predicate, unfiltered)
    if values or unfiltered or predicate is not None:
        raise ConfigurationError("pass filter_input, or filter_values, match_unfiltered and post_filter, not both")
    return given


def _start(options: SubscribeOptions) -> ConsumerOffsetSpecification:
    offset_type, offset = options.get("offset_type"), options.get("offset")
    given = options.get("offset_specification")
    if given is None:
        return ConsumerOffsetSpecification(offset_type, offset)
    if offset_type is not None or offset is not None:
        raise ConfigurationError("pass offset_specification, or offset_type and offset, not both")
    check_specification("offset_specification", given)
    return given
