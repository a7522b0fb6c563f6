"""``SuperStreamConsumer``, as programs of the published client know it, over the core's."""

from __future__ import annotations

from typing import Any, Unpack

from rstream_core.compat.connecting import Connecting
from rstream_core.compat.constants import MAX_ITEM_ALLOWED
from rstream_core.compat.consumer import Consumer, core_options
from rstream_core.compat.restarting import Restartable
from rstream_core.compat.superstream import CreatesSuperStream, SuperStreamCreationOption
from rstream_core.consumers.consumer import Callback
from rstream_core.consumers.subscribers import Decoder
from rstream_core.consumers.superstream_consumer import Offsets
from rstream_core.consumers.superstream_consumer import SuperStreamConsumer as CoreConsumer
from rstream_core.types import OffsetType

__all__ = ["SuperStreamConsumer"]


class SuperStreamConsumer(Restartable, CreatesSuperStream, CoreConsumer):
    """Consumes a super stream. See the core's class of this name; what is here adapts its arguments.

    With ``super_stream_creation_option``, ``start`` creates the super stream where it is not there. It subscribes once:
    ``StreamAlreadySubscribed``. After ``close()`` it may be started again.
    """

    _consumer: Consumer

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        super_stream: str,
        super_stream_creation_option: SuperStreamCreationOption | None = None,
        max_subscribers_by_connection: int = MAX_ITEM_ALLOWED,
        **connection: Unpack[Connecting],
    ) -> None:
        self._creation = super_stream_creation_option
        self._max_subscribers = max_subscribers_by_connection
        self._connection = connection

        def begin() -> None:
            CoreConsumer.__init__(self, host, port, super_stream=super_stream)

        self._begin = begin
        begin()

    def _make_consumer(self, *where: Any, **_: Any) -> Consumer:
        return Consumer(*where, max_subscribers_by_connection=self._max_subscribers, **self._connection)

    async def start(self, *, wait: float = 0.0) -> None:
        """Connects, logs in, and creates the super stream where that was asked for."""
        await super().start(wait=wait)
        await self._create()

    async def subscribe(
        self, callback: Callback, *, decoder: Decoder | None = None, offsets: Offsets | None = None, **options: Any
    ) -> int:
        """See the core's method, and ``Consumer.subscribe`` here. An offset is that of every partition."""
        told = core_options(options)
        start = told.get("offset_specification")
        if offsets is None and start is not None and start.offset_type is OffsetType.OFFSET:
            offsets = dict.fromkeys(await self.partitions(), start)
            told = {**told, "offset_specification": None}
        return await super().subscribe(callback, decoder=decoder, offsets=offsets, **told)

    async def unsubscribe(
        self,
        subscriber: int | str | None = None,
        *,
        subscriber_name: str | None = None,
        subscriber_id: int | None = None,
    ) -> None:
        """See the core's method."""
        await super().unsubscribe(subscriber, subscriber_name=subscriber_name, subscriber_id=subscriber_id)
        if not self._groups:  # a strategy of the program's own has perhaps subscribed again, under other numbers
            await self._consumer.leave_all()

    async def delete_super_stream(self, super_stream: str | None = None, missing_ok: bool = False) -> None:
        """See the core's method. Ends its own subscription first."""
        if super_stream in (None, self.super_stream):
            await self.unsubscribe()
        await super().delete_super_stream(super_stream, missing_ok)
