"""``Consumer``: hands the messages of any number of streams to callbacks, or to ``async for``.

One task for each callback takes chunk after chunk, so that a stream's messages come in order, one at a time,
and a slow callback holds back the broker and not the other streams.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

from rstream_core.arguments import ConnectionArguments, connection_options
from rstream_core.client import Client
from rstream_core.errors import AlreadyClosed, ConfigurationError, RstreamError
from rstream_core.pool import MAX_IDS
from rstream_core.protocol.amqp import AMQPMessage, amqp_decoder
from rstream_core.subscription import DEFAULT_CREDIT, Chunk, Subscription
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

logger = logging.getLogger("rstream_core")

Decoder = Callable[[bytes], Any]


class MessageContext(NamedTuple):
    """Where a message comes from."""

    consumer: Consumer
    stream: str
    subscriber_id: int
    subscriber_name: str
    offset: int
    timestamp: int
    """Milliseconds since 1970 (UTC) when the broker stored the message's chunk."""


Callback = Callable[[Any, MessageContext], Awaitable[None] | None]

_new_context: Callable[[tuple[Any, ...]], MessageContext] = partial(tuple.__new__, MessageContext)
"""As ``MessageContext(*fields)``, which runs Python code: too much for each message."""


@dataclass(slots=True)
class _Subscriber:
    id: int
    name: str
    subscription: Subscription
    decoder: Decoder | None
    task: asyncio.Task[None] | None = None
    gone: bool = False
    """Its callback is not to be called any more."""


class Consumer:
    """Consumes messages; connects when it is first needed, or by ``start()``. For the tasks of one event loop."""

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5552,
        *,
        client: Client | None = None,
        max_subscribers_by_connection: int = MAX_IDS,
        **connection: Unpack[ConnectionArguments],
    ) -> None:
        self._owns_client = client is None
        self._client = client or Client(
            connection_options(host, port, **connection), max_subscribers_by_connection=max_subscribers_by_connection
        )
        self._subscribers: dict[int, _Subscriber] = {}
        self._ids = itertools.count()
        self._ended = asyncio.Event()
        self._failure: RstreamError | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connects and logs in."""
        await self._client.start()

    async def run(self) -> None:
        """Waits until ``close()`` or ``stop()``. Raises the error with which a subscription ended by itself."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Lets ``run()`` return; messages still come until ``close()``."""
        self._ended.set()

    async def close(self) -> None:
        """Ends every subscription and disconnects. A callback that runs is cancelled, unless it is the one that calls.

        Never raises; may be repeated.
        """
        if self._closed:
            return
        self._closed = True
        for subscriber in list(self._subscribers.values()):
            await self._leave(subscriber)
        if self._owns_client:
            await self._client.close()
        self._ended.set()

    async def update_password(self, password: str) -> None:
        """See ``Client.update_password``."""
        await self._client.update_password(password)

    # Streams and offsets.

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, exists_ok: bool = False
    ) -> None:
        """See ``Client.create_stream``."""
        await self._client.create_stream(stream, arguments, exists_ok=exists_ok)

    async def delete_stream(self, stream: str, missing_ok: bool = False) -> None:
        """See ``Client.delete_stream``."""
        await self._client.delete_stream(stream, missing_ok=missing_ok)

    async def stream_exists(self, stream: str) -> bool:
        """Whether the stream exists, with or without a leader at the moment."""
        return await self._client.stream_exists(stream)

    async def store_offset(self, stream: str, subscriber_name: str, offset: int) -> None:
        """Stores the offset of the last message that was processed: go on from the one after it."""
        await self._client.store_offset(stream, subscriber_name, offset)

    async def query_offset(self, stream: str, subscriber_name: str) -> int:
        """The stored offset. Raises ``OffsetNotFound``, ``StreamDoesNotExist``."""
        return await self._client.query_offset(stream, subscriber_name)

    async def stream(self, subscriber_name: str) -> str:
        """The stream of a subscriber. Raises ``ConfigurationError`` where nobody has this name."""
        return self._named(subscriber_name).subscription.stream

    # Consuming.

    async def subscribe(
        self,
        stream: str,
        callback: Callback,
        *,
        decoder: Decoder | None = None,
        offset_type: OffsetType | None = None,
        offset: int | None = None,
        offset_specification: ConsumerOffsetSpecification | None = None,
        initial_credit: int = DEFAULT_CREDIT,
        properties: Mapping[str, str] | None = None,
        subscriber_name: str | None = None,
    ) -> int:
        """Calls ``callback(message, context)`` for each message, in order, and returns the subscriber's id.

        The callback may be a coroutine function; the next message waits for it. What it raises is logged, and the
        next message follows. ``decoder`` makes the message of its bytes (``amqp_decoder``; None: the bytes as they
        were stored). It starts where ``offset_type`` and ``offset`` say, or ``offset_specification``: at the first
        message unless told otherwise. ``initial_credit`` is how many chunks the broker sends ahead.
        """
        subscriber = await self._subscribe(
            stream,
            decoder,
            _specification(offset_type, offset, offset_specification),
            initial_credit,
            properties,
            subscriber_name,
        )
        subscriber.task = asyncio.create_task(self._deliver(subscriber, callback))
        return subscriber.id

    async def unsubscribe(self, subscriber: int | str) -> None:
        """Ends one subscription, by its id or its name; the callback is not called any more."""
        found = self._subscribers.get(subscriber) if isinstance(subscriber, int) else self._named(subscriber)
        if found is None:
            raise ConfigurationError(f"there is no subscriber {subscriber}")
        await self._leave(found)

    async def chunks(
        self,
        stream: str,
        *,
        offset_type: OffsetType | None = None,
        offset: int | None = None,
        offset_specification: ConsumerOffsetSpecification | None = None,
        initial_credit: int = DEFAULT_CREDIT,
        properties: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Chunk]:
        """An async generator of chunks: the fastest way. Wrap it in ``contextlib.aclosing`` to leave early.

        Raises what ends the subscription, such as ``ConnectionClosed`` or ``StreamDoesNotExist``.
        """
        spec = _specification(offset_type, offset, offset_specification)
        subscriber = await self._subscribe(stream, None, spec, initial_credit, properties, None)
        try:
            async for chunk in subscriber.subscription:
                yield chunk
        finally:
            await self._leave(subscriber)

    async def messages(
        self,
        stream: str,
        *,
        decoder: Decoder | None = None,
        offset_type: OffsetType | None = None,
        offset: int | None = None,
        offset_specification: ConsumerOffsetSpecification | None = None,
        initial_credit: int = DEFAULT_CREDIT,
        properties: Mapping[str, str] | None = None,
        subscriber_name: str | None = None,
    ) -> AsyncIterator[tuple[Any, MessageContext]]:
        """An async generator of ``(message, context)``. Wrap it in ``contextlib.aclosing`` to leave early.

        Raises what ends the subscription, and what the decoder raises.
        """
        spec = _specification(offset_type, offset, offset_specification)
        subscriber = await self._subscribe(stream, decoder, spec, initial_credit, properties, subscriber_name)
        decode = _one_by_one(decoder)
        try:
            async for chunk in subscriber.subscription:
                for message, context in self._with_contexts(subscriber, chunk):
                    yield (decode(message) if decode else message), context
        finally:
            await self._leave(subscriber)

    # Inside.

    async def _subscribe(
        self,
        stream: str,
        decoder: Decoder | None,
        spec: ConsumerOffsetSpecification,
        credit: int,
        properties: Mapping[str, str] | None,
        name: str | None,
    ) -> _Subscriber:
        if self._closed:
            raise AlreadyClosed("this consumer is closed")
        subscription = await self._client.subscribe(stream, spec, credit=credit, properties=properties)
        subscriber = _Subscriber(next(self._ids), name or f"{stream}-{uuid.uuid4().hex}", subscription, decoder)
        self._subscribers[subscriber.id] = subscriber
        return subscriber

    def _named(self, name: str) -> _Subscriber:
        for subscriber in self._subscribers.values():
            if subscriber.name == name:
                return subscriber
        raise ConfigurationError(f"there is no subscriber {name!r}")

    async def _deliver(self, subscriber: _Subscriber, callback: Callback) -> None:
        """The task of one subscriber."""
        decode = _one_by_one(subscriber.decoder)
        try:
            async for chunk in subscriber.subscription:
                for message, context in self._with_contexts(subscriber, chunk):
                    try:
                        result = callback(decode(message) if decode else message, context)
                        if result is not None and inspect.isawaitable(result):
                            await result
                    except Exception:
                        logger.exception(
                            "the callback failed for message %d of stream %r", context.offset, chunk.stream
                        )
                    if subscriber.gone:
                        return
                await asyncio.sleep(0)  # a callback that never waits must not keep the loop from others
        except RstreamError as error:
            self._failure = error
            self._ended.set()

    def _with_contexts(self, subscriber: _Subscriber, chunk: Chunk) -> Iterator[tuple[Any, MessageContext]]:
        """A chunk's messages, decoded unless that is done ``_one_by_one``, each with its context.

        The contexts are made by iterators of C alone: this is done for every message.
        """
        offsets = itertools.count(chunk.offset)
        fields = zip(
            repeat(self),
            repeat(chunk.stream),
            repeat(subscriber.id),
            repeat(subscriber.name),
            offsets,
            repeat(chunk.timestamp),
        )
        messages = AMQPMessage.all_from_bytes(chunk.messages) if subscriber.decoder is amqp_decoder else chunk.messages
        return zip(messages, map(_new_context, fields), strict=False)

    async def _leave(self, subscriber: _Subscriber) -> None:
        self._subscribers.pop(subscriber.id, None)
        subscriber.gone = True
        task = subscriber.task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])
        await subscriber.subscription.close()


def _one_by_one(decoder: Decoder | None) -> Decoder | None:
    """The decoder that is called for each message; None where there is none, or ``all_from_bytes`` does its work."""
    return None if decoder is amqp_decoder else decoder


def _specification(
    offset_type: OffsetType | None, offset: int | None, specification: ConsumerOffsetSpecification | None
) -> ConsumerOffsetSpecification:
    if specification is None:
        return ConsumerOffsetSpecification(offset_type or OffsetType.FIRST, offset)
    if offset_type is not None or offset is not None:
        raise ConfigurationError("pass offset_specification, or offset_type and offset, not both")
    return specification
