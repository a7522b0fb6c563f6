"""Publishing to super streams: one logical stream, divided into partitions that are plain streams.

``Router`` finds the partition of a message. Programs that publish batches can use it, too. ``SuperStreamProducer`` is a
``Producer`` behind a router.

In each partition, messages have the order of the calls, even where the extractor awaits: keys are extracted under a
lock, which wakes callers in their order, and a message has its place in its partition's outbox before the next caller
runs. The rest is awaited without the lock: a partition that is full or cannot be reached holds up only calls that have
messages for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Self, Unpack

from rstream_core.administration import OfOneSuperStream
from rstream_core.callbacks import resolved
from rstream_core.checks import check_callable, check_name
from rstream_core.client import Client
from rstream_core.errors import AlreadyClosed, ConfigurationError, MessageTooLarge, RouteNotFound
from rstream_core.producers.losses import raise_together, tell_later
from rstream_core.producers.outbox_jobs import ConfirmCallback, Message
from rstream_core.producers.producer import Producer, ProducerArguments, as_batch, confirmed_within
from rstream_core.protocol.routing import partition_index, python_partition_index
from rstream_core.types import CompressionType, RouteType

MAX_CACHED_ROUTES = 10_000
"""How many routing keys have their routes cached: a bound on memory."""

RoutingExtractor = Callable[[Any], str | Awaitable[str]]
"""Returns the routing key of a message."""
RoutingFunction = Callable[[Any, Sequence[str]], str | Sequence[str] | Awaitable[str | Sequence[str]]]
"""Takes a message and all partitions, and returns the message's partition, or several."""


class Router:
    """The routes of one super stream. Made by ``Router.open``; for the tasks of one event loop."""

    def __init__(self, client: Client, super_stream: str, partitions: Sequence[str]) -> None:
        self.super_stream = super_stream
        self.partitions = tuple(partitions)
        """The partitions in the broker's order: a hash is an index into them."""
        self._client = client
        self._bound: dict[str, tuple[str, ...]] = {}

    @classmethod
    async def open(cls, client: Client, super_stream: str) -> Router:
        """Asks the broker for the partitions.

        Raises ``StreamDoesNotExist``; ``UnsupportedByBroker`` before RabbitMQ 3.11.
        """
        return cls(client, super_stream, await client.partitions(super_stream))

    def by_hash(self, key: str | bytes) -> str:
        """Returns the partition of a routing key by its hash."""
        return self.partitions[partition_index(key, len(self.partitions))]

    def by_python_hash(self, key: str | bytes) -> str:
        """The partition of a routing key, by the hash of the Python client ``rstream``."""
        return self.partitions[python_partition_index(key, len(self.partitions))]

    async def by_binding(self, key: str) -> tuple[str, ...]:
        """Returns the partitions to which a routing key is bound. Asks the broker once, and caches the answer.

        Raises ``RouteNotFound`` where there is none.
        """
        routes = self._bound.get(key)
        if routes is None:
            routes = tuple(await self._client.route(self.super_stream, key))
            if not routes:
                raise RouteNotFound(f"super stream {self.super_stream!r} has no partition for routing key {key!r}")
            if len(self._bound) >= MAX_CACHED_ROUTES:
                self._bound.clear()
            self._bound[key] = routes
        return routes

    async def by_function(self, function: RoutingFunction, message: Any) -> tuple[str, ...]:
        """Returns the partitions that ``function`` chooses. Raises ``RouteNotFound`` for none, and for other names."""
        chosen = await resolved(function(message, self.partitions))
        routes = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        strange = [route for route in routes if route not in self.partitions]
        if strange or not routes:
            named = ", ".join(map(repr, strange)) or "nothing"
            raise RouteNotFound(f"super stream {self.super_stream!r}: the routing function chose {named}")
        return routes


class SuperStreamProducer(OfOneSuperStream):
    """Publishes to a super stream: each message goes to the partition of its routing key.

    ``routing`` is a ``RouteType``, and ``routing_extractor`` gives a message's key; or
    ``routing`` is a function of the message and the partitions that chooses among them. Both may be coroutine
    functions, and are not to publish anything themselves. A key that is bound to several partitions, or a function
    that chooses several, sends the message to each of them, and ``on_publish_confirm`` is called for each.

    The rest is done by a ``Producer``, which gets the other ``arguments``. Its bounds, order and deduplication apply to
    each partition.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        super_stream: str,
        routing: RouteType | RoutingFunction = RouteType.Hash,
        routing_extractor: RoutingExtractor | None = None,
        **arguments: Unpack[ProducerArguments],
    ) -> None:
        if not isinstance(routing, RouteType) and not callable(routing):
            raise TypeError(
                f"routing is RouteType.Hash, RouteType.PythonHash, RouteType.Key or a function, not {routing!r:.80}"
            )
        if routing_extractor is not None:
            check_callable("routing_extractor", routing_extractor)
        if isinstance(routing, RouteType) and routing_extractor is None:
            raise ConfigurationError("a routing_extractor is needed: it gives the routing key of a message")
        if not isinstance(routing, RouteType) and routing_extractor is not None:
            raise ConfigurationError("a routing function takes the message itself: pass no routing_extractor")
        check_name("super_stream", super_stream)
        self.super_stream = super_stream
        self._routing = routing
        self._extract = routing_extractor
        self._producer = self._make_producer(host, port, **arguments)
        self._router: Router | None = None
        self._order = asyncio.Lock()
        self._failures = 0
        """The number of failed attempts to ask for the partitions."""
        self._failure: Exception | None = None
        """The error of the last failed attempt, which every call that waited for the attempt raises."""
        super().__init__("this producer", self._producer.client, owns_client=False)  # its producer closes it

    def _make_producer(self, *where: Any, **arguments: Any) -> Producer:
        """The producer that does the rest. A subclass may make another one, of its own arguments."""
        return Producer(*where, **arguments)

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:  # it may be connected already
            await self.close()
            raise

    async def start(self, *, wait: float = 0.0) -> None:
        """Connects, logs in, and asks for the partitions. Optional: the first call does it too.

        ``wait``: see ``Client.start``; it is no time for the super stream to be created in. Raises
        ``StreamDoesNotExist``; ``UnsupportedByBroker`` before RabbitMQ 3.11.
        """
        await super().start(wait=wait)
        failures = self._failures
        async with self._order:
            await self._open(failures)

    async def close(self) -> None:
        """See ``Producer.close``."""
        if not self._closed:
            self._guard.check()
        self._closed = True
        await self._producer.close()

    # Streams.

    def _forget_partitions(self) -> None:
        self._router = None

    async def partitions(self) -> list[str]:
        """The partitions, in the broker's order."""
        self._guard.check()
        failures = self._failures
        async with self._order:
            return list((await self._open(failures)).partitions)

    # Publishing.

    async def send(
        self,
        message: Message,
        on_publish_confirm: ConfirmCallback | None = None,
        *,
        publisher_name: str | None = None,
    ) -> None:
        """See ``Producer.send``. Raises ``RouteNotFound`` too, and what the extractor raises."""
        self._guard.check()
        failures = self._failures
        async with self._order:
            routes = await self._routes(message, failures)
            begun = None
            if len(routes) > 1:
                send = self._producer.send
                begun = await _begin(
                    send(partition, message, publisher_name, on_publish_confirm) for partition in routes
                )
        if begun is not None:
            await begun.end()
        else:  # no await between the lock and the outbox, so that no later call overtakes this one
            await self._producer.send(routes[0], message, publisher_name, on_publish_confirm)

    async def send_batch(
        self,
        batch: Sequence[Message],
        on_publish_confirm: ConfirmCallback | None = None,
        *,
        publisher_name: str | None = None,
    ) -> None:
        """See ``Producer.send_batch``: the parts of the batch go to their partitions at the same time.

        Raises the same errors as ``send``. If a message has no route, raises before any message of the batch is sent.
        If one part is refused, the other parts are sent; a ``NotConfirmed`` counts the losses of all partitions.
        """
        self._guard.check()
        batch, failures = as_batch(batch), self._failures
        async with self._order:
            parts = await self._parts(batch, failures)
            begun = await _begin(
                (
                    self._producer.send_batch(
                        partition, [batch[at] for at in places], publisher_name, on_publish_confirm
                    )
                    for partition, places in parts.items()
                ),
                parts.values(),
            )
        await begun.end()

    async def send_wait(self, message: Message, publisher_name: str | None = None, timeout: float | None = 5) -> None:
        """See ``Producer.send_wait``: the timeout is for all of it, routing too. Raises as ``send`` does."""
        self._guard.check()
        async with confirmed_within(timeout, f"super stream {self.super_stream!r}") as statuses:
            failures = self._failures
            async with self._order:
                routes = await self._routes(message, failures)
                begun = None
                if len(routes) > 1:
                    confirmed = self._producer.confirmed
                    begun = await _begin(
                        confirmed(partition, message, publisher_name, statuses) for partition in routes
                    )
            if begun is not None:
                await begun.end()
            else:
                await self._producer.confirmed(routes[0], message, publisher_name, statuses)

    async def send_sub_entry(
        self,
        sub_entry_messages: Sequence[Message],
        compression_type: CompressionType = CompressionType.No,
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> None:
        """See ``Producer.send_sub_entry``: every partition gets one sub-entry with its part of the messages."""
        self._guard.check()
        messages, failures = as_batch(sub_entry_messages), self._failures
        async with self._order:
            parts = await self._parts(messages, failures)
            begun = await _begin(
                (
                    self._producer.send_sub_entry(
                        partition,
                        [messages[at] for at in places],
                        compression_type,
                        publisher_name,
                        on_publish_confirm,
                    )
                    for partition, places in parts.items()
                ),
                parts.values(),
            )
        await begun.end()

    async def flush(self, timeout: float | None = None) -> None:
        """See ``Producer.flush``."""
        await self._producer.flush(timeout)

    # Inside, under the lock. ``failures`` is the value of ``_failures`` when the call began to wait for the lock.

    async def _open(self, failures: int) -> Router:
        if self._closed:
            raise AlreadyClosed(f"this producer of super stream {self.super_stream!r} is closed")
        if self._router is None:
            if self._failure is not None and self._failures != failures:
                raise self._failure.with_traceback(None)
            try:
                await self._producer.start()
                self._router = await Router.open(self._producer.client, self.super_stream)
            except Exception as error:
                self._failures += 1
                self._failure = error
                raise
        return self._router

    async def _routes(self, message: Message, failures: int) -> tuple[str, ...]:
        router = self._router
        if router is None or self._closed:
            router = await self._open(failures)
        if not isinstance(self._routing, RouteType):
            return await router.by_function(self._routing, message)
        assert self._extract is not None
        key = await resolved(self._extract(message))
        if not isinstance(key, str | bytes):
            raise TypeError(f"the routing_extractor returned {key!r:.80}: a routing key is a str")
        if self._routing is RouteType.Hash:
            return (router.by_hash(key),)
        if self._routing is RouteType.PythonHash:
            return (router.by_python_hash(key),)
        return await router.by_binding(key)

    async def _parts(self, batch: Sequence[Message], failures: int) -> dict[str, list[int]]:
        """Returns, for each partition, the positions in the batch of its messages."""
        parts: dict[str, list[int]] = {}
        for place, message in enumerate(batch):
            for partition in await self._routes(message, failures):
                parts.setdefault(partition, []).append(place)
        return parts


class _Begun:
    """Calls that run at the same time, one for each partition."""

    def __init__(self, calls: Iterable[Awaitable[Any]], places: Iterable[Sequence[int]]) -> None:
        self._errors: list[BaseException] = []
        self._together = asyncio.gather(*map(self._collect, calls, places))

    async def _collect(self, call: Awaitable[Any], part: Sequence[int]) -> None:
        try:
            await call
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised at the end
            if isinstance(error, MessageTooLarge):
                error.position = part[error.position]
            self._errors.append(error)

    def cancel(self) -> None:
        self._together.cancel()

    async def end(self) -> None:
        """Waits until all calls have ended, and then raises their errors as one."""
        try:
            await self._together
        except asyncio.CancelledError:
            tell_later(self._errors)
            raise
        raise_together(self._errors)


async def _begin(calls: Iterable[Awaitable[Any]], places: Iterable[Sequence[int]] = repeat((0,))) -> _Begun:
    """Starts the calls. When this returns, each has its place in the order of its partition."""
    begun = _Begun(calls, places)
    try:
        await asyncio.sleep(0)  # tasks run in the order in which they were scheduled: each takes its first step
    except asyncio.CancelledError:
        begun.cancel()
        await begun.end()
        raise
    return begun
