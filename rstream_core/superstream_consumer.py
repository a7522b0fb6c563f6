"""``SuperStreamConsumer``: the messages of all partitions of a super stream. ``Consumer`` does the work.

Messages of one partition are in order. Messages of different partitions have no order among them.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, Unpack, cast

from rstream_core.administration import SuperStreamAdministration
from rstream_core.arguments import ConnectionArguments
from rstream_core.checks import check_name
from rstream_core.client import Client
from rstream_core.consumer import (
    Callback,
    Consumer,
    Decoder,
    MessageContext,
    SubscribeOptions,
    check_options,
    specification,
)
from rstream_core.errors import AlreadyClosed, ConfigurationError
from rstream_core.gaps import GapListener
from rstream_core.pool import MAX_IDS
from rstream_core.recovery import RECOVER, Recovery, RecoveryListener
from rstream_core.subscription import Chunk
from rstream_core.types import ConsumerOffsetSpecification

Offsets = Mapping[str, ConsumerOffsetSpecification]


class SuperStreamConsumer(SuperStreamAdministration):
    """Consumes a super stream; connects at the first call that needs it, or by ``start()``. For one event loop.

    Each subscription asks for the partitions; it does not see those that are added later. Recovers from a lost
    connection as ``Consumer`` does.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5552,
        *,
        super_stream: str,
        client: Client | None = None,
        recovery: Recovery | None = RECOVER,
        on_recovery: RecoveryListener | None = None,
        on_gap: GapListener | None = None,
        max_subscribers_by_connection: int = MAX_IDS,
        **connection: Unpack[ConnectionArguments],
    ) -> None:
        check_name("super_stream", super_stream)
        self.super_stream = super_stream
        self._consumer = Consumer(  # owns the client, since a callback may close the consumer in its context
            host,
            port,
            client=client,
            recovery=recovery,
            on_recovery=on_recovery,
            on_gap=on_gap,
            max_subscribers_by_connection=max_subscribers_by_connection,
            **connection,
        )
        self._groups: dict[int, list[int]] = {}
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def client(self) -> Client:
        """The client that this consumer uses: for administration, or to be shared."""
        return self._consumer.client

    async def start(self) -> None:
        """Connects and logs in."""
        await self._consumer.start()

    async def run(self) -> None:
        """See ``Consumer.run``: the error is that of any partition."""
        await self._consumer.run()

    def stop(self) -> None:
        """Makes ``run()`` return; messages still come until ``close()``."""
        self._consumer.stop()

    async def close(self) -> None:
        """See ``Consumer.close``; ``context.consumer.close()`` in a callback does the same."""
        await self._consumer.close()

    # Streams and offsets.

    def _forget_partitions(self) -> None:
        """Does nothing: no partitions are cached, since each subscription asks for them."""

    async def stream(self, subscriber_name: str) -> str:
        """See ``get_stream``."""
        return self.get_stream(subscriber_name)

    def get_stream(self, subscriber_name: str) -> str:
        """See ``Consumer.get_stream``: in a callback or a listener, returns its partition."""
        return self._consumer.get_stream(subscriber_name)

    async def partitions(self) -> list[str]:
        """Returns the partitions, in the broker's order. Raises ``StreamDoesNotExist`` without such a super stream."""
        return await self.client.partitions(self.super_stream)

    async def store_offset(self, stream: str, subscriber_name: str, offset: int) -> None:
        """See ``Consumer.store_offset``; ``stream`` is a partition."""
        await self._consumer.store_offset(stream, subscriber_name, offset)

    async def query_offset(self, stream: str, subscriber_name: str) -> int:
        """See ``Consumer.query_offset``; ``stream`` is a partition."""
        return await self._consumer.query_offset(stream, subscriber_name)

    async def subscribe(
        self,
        callback: Callback,
        *,
        decoder: Decoder | None = None,
        offsets: Offsets | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> int:
        """Calls ``Consumer.subscribe`` for every partition, and returns a number for ``unsubscribe``.

        ``context.stream`` is the partition. The messages of one partition come one at a time, in order; those of
        different partitions come concurrently. Each partition starts where ``offsets`` says, or else where the options
        say. If one partition cannot be subscribed to, ends the other subscriptions and raises.
        """
        starts = await self._starts(offsets, options)
        members: list[int] = []
        try:
            for stream, start in starts.items():
                with_start: SubscribeOptions = {**self._options(options), "offset_specification": start}
                members.append(await self._consumer.subscribe(stream, callback, decoder=decoder, **with_start))
        except BaseException as error:
            for member in members:
                with suppress(ConfigurationError):  # a subscription that failed is removed already
                    await self._consumer.unsubscribe(member)
            if not members or not isinstance(error, AlreadyClosed):
                raise
            members = []  # the callback has closed the consumer before the last partition was subscribed to
        number = next(self._numbers)
        self._groups[number] = members
        return number

    async def unsubscribe(self, subscriber: int | str | None = None) -> None:
        """Ends the subscriptions of a number that ``subscribe`` returned, or of a name; with None, all of them."""
        if isinstance(subscriber, str):
            await self._consumer.unsubscribe(subscriber)
            return
        if subscriber is not None and subscriber not in self._groups:
            raise ConfigurationError(f"there is no subscriber {subscriber}")
        for number in list(self._groups) if subscriber is None else [subscriber]:
            for member in self._groups.pop(number):
                with suppress(ConfigurationError):  # a subscription that failed is removed already
                    await self._consumer.unsubscribe(member)

    async def chunks(
        self, *, offsets: Offsets | None = None, **options: Unpack[SubscribeOptions]
    ) -> AsyncGenerator[Chunk, None]:
        """See ``Consumer.chunks``: chunks of all partitions, as they arrive; ``chunk.stream`` is the partition."""
        starts = await self._starts(offsets, options)
        async with aclosing(self._consumer.chunks(starts, **self._options(options))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def messages(
        self, *, decoder: Decoder | None = None, offsets: Offsets | None = None, **options: Unpack[SubscribeOptions]
    ) -> AsyncGenerator[tuple[Any, MessageContext], None]:
        """See ``Consumer.messages``: messages of all partitions; ``context.stream`` is the partition."""
        starts = await self._starts(offsets, options)
        messages = self._consumer.messages(starts, decoder=decoder, **self._options(options))
        async with aclosing(messages):
            async for message, context in messages:
                yield message, context

    async def _starts(
        self, offsets: Offsets | None, options: SubscribeOptions
    ) -> dict[str, ConsumerOffsetSpecification]:
        """Returns every partition with its start."""
        otherwise = specification(
            options.get("offset_type"), options.get("offset"), options.get("offset_specification")
        )
        check_options(self._options(options))  # before the broker is asked
        partitions = await self.partitions()
        given = offsets or {}
        unknown = given.keys() - set(partitions)
        if unknown:
            raise ConfigurationError(f"not a partition of {self.super_stream!r}: {', '.join(sorted(unknown))}")
        return {stream: given.get(stream, otherwise) for stream in partitions}

    def _options(self, options: SubscribeOptions) -> SubscribeOptions:
        """Returns the options with the super stream, and without the start, which each partition has for itself."""
        kept = {key: value for key, value in options.items() if key not in _STARTS}
        return cast("SubscribeOptions", {**kept, "super_stream": self.super_stream})


_STARTS = ("offset_type", "offset", "offset_specification")
