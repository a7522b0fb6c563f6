"""``Consumer``, as programs of the published client know it, over the core's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Unpack

from rstream_core.callbacks import resolved
from rstream_core.compat.connecting import Connecting, connection_of, losses_of
from rstream_core.compat.constants import MAX_ITEM_ALLOWED, answered, checked
from rstream_core.compat.differences import differs
from rstream_core.compat.exceptions import StreamAlreadySubscribed
from rstream_core.compat.recovery import IReliableEntity
from rstream_core.compat.restarting import Restartable
from rstream_core.compat.utils import checked_filter
from rstream_core.consumers.consumer import Callback, EventContext, MessageContext, SubscribeOptions
from rstream_core.consumers.consumer import Consumer as CoreConsumer
from rstream_core.consumers.subscribers import Decoder, Subscriber
from rstream_core.errors import RstreamError
from rstream_core.types import ConsumerOffsetSpecification as CoreSpecification
from rstream_core.types import OffsetType

__all__ = ["Consumer", "EventContext", "MessageContext"]

logger = logging.getLogger("rstream_core")


class _Asked(NamedTuple):
    """What a program has subscribed to, for a recovery strategy of its own."""

    subscriber: Subscriber
    callback: Callback
    decoder: Decoder | None
    options: SubscribeOptions


class Consumer(Restartable, CoreConsumer, IReliableEntity):
    """Consumes messages. See the core's class of this name; what is here adapts its arguments.

    A consumer subscribes to a stream once: ``StreamAlreadySubscribed``. After ``close()`` it may be started again.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        max_subscribers_by_connection: int = MAX_ITEM_ALLOWED,
        **connection: Unpack[Connecting],
    ) -> None:
        self._losses = losses_of(connection, self, self._restore)
        told = connection_of(connection)

        def begin() -> None:
            self._asked: dict[str, _Asked] = {}
            self._opening: set[str] = set()
            CoreConsumer.__init__(
                self,
                host,
                port,
                recovery=self._losses.policy,
                on_recovery=self._losses,
                max_subscribers_by_connection=max_subscribers_by_connection,
                **told,
            )

        self._begin = begin
        begin()

    async def run(self) -> None:
        """Waits until ``close()`` or ``stop()``.

        Where the program has given a handler of lost connections, or a strategy of its own, it sees to losses itself,
        and this goes on waiting. Otherwise raises the error with which a subscription ended, as the core does.
        """
        while True:
            try:
                await super().run()
            except RstreamError as error:
                if not self._losses.is_the_programs:
                    raise
                logger.warning("a subscription has ended: %s", error)
            else:
                return

    async def close(self) -> None:
        """See the core's method."""
        try:
            await super().close()
        finally:
            await self._losses.close()

    # Consuming.

    async def subscribe(
        self, stream: str, callback: Callback, *, decoder: Decoder | None = None, **options: Any
    ) -> int:
        """See the core's method, which names the options.

        ``offset_specification``, ``filter_input`` and the answers of the ``consumer_update_listener`` may be of the
        classes of this package. Raises ``StreamAlreadySubscribed`` too.
        """
        if stream in self._opening or any(one.subscription.stream == stream for one in self._live()):
            raise StreamAlreadySubscribed(f"this consumer is subscribed to stream {stream!r} already")
        told = core_options(options)
        self._opening.add(stream)
        try:
            number = await super().subscribe(stream, callback, decoder=decoder, **told)
        finally:
            self._opening.discard(stream)
        if (subscriber := self._subscribers.there.get(number)) is not None:
            self._asked[stream] = _Asked(subscriber, callback, decoder, told)
        return number

    def _live(self) -> list[Subscriber]:
        return [one for one in self._subscribers.there.values() if one.error is None and not one.gone]

    # Streams.

    async def delete_stream(self, stream: str, missing_ok: bool = False) -> None:
        """See the core's method. Ends its own subscription to the stream first."""
        await self.clean_list(stream)
        await super().delete_stream(stream, missing_ok)

    async def stream_exists(self, stream: str, on_close_event: bool = False) -> bool:
        """See the core's method; ``on_close_event`` makes no difference."""
        return await super().stream_exists(stream)

    async def clean_list(self, stream: str) -> None:
        """Ends the subscription to a stream, if there is one."""
        for subscriber in list(self._subscribers.there.values()):
            if subscriber.subscription.stream == stream:
                await self._subscribers.leave(subscriber)

    async def leave_all(self) -> None:
        """Ends all subscriptions."""
        for subscriber in list(self._subscribers.there.values()):
            await self._subscribers.leave(subscriber)

    async def _restore(self, stream: str) -> None:
        """For a strategy of the program's own: subscribes again, behind the last message that was processed."""
        asked = self._asked[stream]
        await self.clean_list(stream)
        last = asked.subscriber.subscription.processed
        options = asked.options
        if last is not None:
            behind = CoreSpecification(OffsetType.OFFSET, last + 1)
            options = {**options, "offset_type": None, "offset": None, "offset_specification": behind}
        await self.subscribe(stream, asked.callback, decoder=asked.decoder, **options)


def core_options(options: Mapping[str, Any]) -> SubscribeOptions:
    """The options of ``subscribe`` as the core takes them."""
    told = dict(options)
    if told.get("offset_specification") is not None:
        told["offset_specification"] = checked(told["offset_specification"])
    if told.get("filter_input") is not None:
        told["filter_input"] = checked_filter(told["filter_input"])
    listener = told.get("consumer_update_listener")
    if callable(listener):
        told["consumer_update_listener"] = partial(_answer, listener)
        if not told.get("single_active_consumer") and "single-active-consumer" not in (told.get("properties") or {}):
            del told["consumer_update_listener"]
            differs("consumer_update_listener", "a consumer_update_listener is called for single active consumers only")
    return told  # type: ignore[return-value]  # the core refuses what is none of them


async def _answer(
    listener: Callable[[bool, EventContext], Awaitable[Any] | Any], active: bool, context: EventContext
) -> CoreSpecification | None:
    return answered(await resolved(listener(active, context)))
