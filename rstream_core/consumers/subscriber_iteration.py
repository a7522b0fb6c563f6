"""What the iterators of a consumer read: subscribers of one or several streams, and the messages of their chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from typing import Any, Generic, TypeVar

from rstream_core.consumers.delivering import Origin
from rstream_core.consumers.iteration import Opened
from rstream_core.consumers.subscribers import Decoder, Subscriber, Subscribers
from rstream_core.consuming.subscriptions import Subscriptions
from rstream_core.types import Chunk, ConsumerOffsetSpecification

T = TypeVar("T", bound=Origin)


class ReadSubscribers(Generic[T]):
    """The subscribers of one iterator. They are there once ``open`` has returned."""

    def __init__(
        self,
        subscribers: Subscribers,
        starts: Callable[[], Awaitable[Mapping[str, ConsumerOffsetSpecification]]],
        subscribe: Callable[[str, ConsumerOffsetSpecification], Awaitable[Subscriber]],
    ) -> None:
        """``subscribers``: all of the consumer, which leave together. ``starts``: asks for the streams to read, and
        where each starts. ``subscribe``: to one of them."""
        self._all = subscribers
        self._starts = starts
        self._subscribe = subscribe
        self._by_stream: dict[str, Subscriber] = {}

    async def open(self) -> Opened:
        """Subscribes to the streams. Where one cannot be subscribed to, or the call is cancelled, leaves the others."""
        try:
            for stream, start in (await self._starts()).items():
                self._by_stream[stream] = await self._subscribe(stream, start)
        except BaseException:
            await self._leave()
            raise
        chunks = Subscriptions(subscriber.subscription for subscriber in self._by_stream.values())
        return Opened(chunks, self._leave, lambda: self._all.leave_behind(self._leave()))

    async def _leave(self) -> None:
        for subscriber in self._by_stream.values():
            await self._all.leave(subscriber)

    def split(
        self,
        messages_of: Callable[[Subscriber, Chunk], Iterator[tuple[Any, T]]],
        decode: Decoder | None,
        wanted: Callable[[Any], bool] | None,
        opened: Opened,
        chunk: Chunk,
    ) -> Generator[tuple[Any, T] | None, None, None]:
        """The messages of a chunk, each with its context; None for one that is not wanted.

        ``messages_of``: the messages of a chunk as they were stored, or decoded already, with their contexts.
        """
        subscriber = self._by_stream[chunk.stream]
        subscription = subscriber.subscription
        has_turns = subscription.has_turns
        done = chunk.offset - 1
        try:
            for stored, context in messages_of(subscriber, chunk):
                message = decode(stored) if decode else stored
                yield (message, context) if wanted is None or wanted(message) else None
                done = context.offset
                if has_turns and not subscription.is_wanted(chunk):
                    break
        finally:
            opened.chunks.finish(done)
