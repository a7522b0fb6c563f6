"""``SuperStreamConsumer``: the messages of all partitions of a super stream. ``Consumer`` does the work.

Messages of one partition are in order. Messages of different partitions have no order among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Unpack

from rstream_core.administration import OfOneSuperStream
from rstream_core.arguments import ConnectionArguments
from rstream_core.checks import check_callable, check_name
from rstream_core.client import Client
from rstream_core.connecting.pool import MAX_IDS
from rstream_core.connecting.recovery import RECOVER, Recovery, RecoveryListener
from rstream_core.consumers.consumer import (
    Callback,
    Consumer,
    MessageContext,
    SubscribeOptions,
    check_decoder,
    check_options,
    read_chunks,
    read_messages,
    the_one_given,
)
from rstream_core.consumers.iteration import ChunkIteration, MessageIteration
from rstream_core.consumers.subscribers import Decoder
from rstream_core.consuming.gaps import GapListener
from rstream_core.errors import AlreadyClosed, ConfigurationError
from rstream_core.hints import Hint
from rstream_core.types import ConsumerOffsetSpecification, OffsetType, check_specification

Offsets = Mapping[str, ConsumerOffsetSpecification]


class SuperStreamConsumer(OfOneSuperStream):
    """Consumes a super stream; connects at the first call that needs it, or by ``start()``. For one event loop.

    Each subscription asks for the partitions; it does not see those that are added later. Recovers from a lost
    connection as ``Consumer`` does.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
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
        self._consumer = self._make_consumer(  # owns the client: a callback may close the consumer in its context
            host,
            port,
            client=client,
            recovery=recovery,
            on_recovery=on_recovery,
            on_gap=on_gap,
            max_subscribers_by_connection=max_subscribers_by_connection,
            **connection,
        )
        self._groups: dict[int, tuple[str | None, list[int]]] = {}
        """By the numbers that ``subscribe`` returned: the name, and the numbers of the partitions' subscriptions."""
        self._numbers = itertools.count()
        super().__init__("this consumer", self._consumer.client, owns_client=False)

    def _make_consumer(self, *where: Any, **arguments: Any) -> Consumer:
        """The consumer that this is a view of. A subclass may make another one, of its own arguments."""
        return Consumer(*where, **arguments)

    async def run(self) -> None:
        """See ``Consumer.run``: the error is that of any partition."""
        await self._consumer.run()

    def stop(self) -> None:
        """Makes ``run()`` return; messages still come until ``close()``."""
        self._consumer.stop()

    async def close(self) -> None:
        """See ``Consumer.close``; ``context.consumer.close()`` in a callback does the same."""
        self._closed = True
        await self._consumer.close()

    # Streams and offsets.

    async def stream(self, subscriber_name: str | None) -> str:
        """See ``get_stream``."""
        return self.get_stream(subscriber_name)

    def get_stream(self, subscriber_name: str | None) -> str:
        """See ``Consumer.get_stream``: in a callback or a listener, its partition."""
        return self._consumer.get_stream(subscriber_name)

    async def partitions(self) -> list[str]:
        """Returns the partitions, in the broker's order. Raises ``StreamDoesNotExist`` without such a super stream."""
        return await self.client.partitions(self.super_stream)

    async def store_offset(self, stream: str, subscriber_name: str | None, offset: int) -> None:
        """See ``Consumer.store_offset``; ``stream`` is a partition."""
        await self._consumer.store_offset(stream, subscriber_name, offset)

    async def query_offset(self, stream: str, subscriber_name: str | None) -> int:
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
        say; a number is an offset of one partition, so it is only for ``offsets`` (``ConfigurationError``). If one
        partition cannot be subscribed to, ends the other subscriptions and raises.
        """
        self._guard.check()
        check_callable("callback", callback)
        check_decoder(decoder)
        told = self._options(options)
        starts = await self._starts(offsets, check_options(told).start)
        members: list[int] = []
        try:
            for stream, start in starts.items():
                told = {**told, "offset_type": None, "offset": None, "offset_specification": start}
                members.append(await self._consumer.subscribe(stream, callback, decoder=decoder, **told))
        except BaseException as error:
            for member in members:
                with suppress(ConfigurationError):  # a subscription that failed is removed already
                    await self._consumer.unsubscribe(member)
            if not members or not isinstance(error, AlreadyClosed):
                raise
            members = []  # the callback has closed the consumer before the last partition was subscribed to
        number = next(self._numbers)
        self._groups[number] = options.get("subscriber_name"), members
        return number

    async def unsubscribe(
        self,
        subscriber: int | str | None = None,
        *,
        subscriber_name: str | None = None,
        subscriber_id: int | None = None,
    ) -> None:
        """Ends, in all partitions, what ``subscribe`` returned the number of, or all of a name; without one, all.

        The number and the name may be said as ``subscriber_id`` and ``subscriber_name``, too.
        """
        self._guard.check()
        whom = the_one_given(subscriber, subscriber_name, subscriber_id)
        if isinstance(whom, str):
            await self._consumer.unsubscribe(whom)
            self._groups = {number: group for number, group in self._groups.items() if group[0] != whom}
            return
        if whom is not None and whom not in self._groups:
            raise ConfigurationError(f"there is no subscriber {whom}")
        for number in list(self._groups) if whom is None else [whom]:
            for member in self._groups.pop(number)[1]:
                with suppress(ConfigurationError):  # a subscription that failed is removed already
                    await self._consumer.unsubscribe(member)

    def chunks(self, *, offsets: Offsets | None = None, **options: Unpack[SubscribeOptions]) -> ChunkIteration:
        """As ``Consumer.chunks``, over all partitions as they come; ``chunk.stream`` is the partition."""
        return read_chunks(self._consumer, partial(self._starts, offsets), self._options(options))

    def messages(
        self, *, decoder: Decoder | None = None, offsets: Offsets | None = None, **options: Unpack[SubscribeOptions]
    ) -> MessageIteration[tuple[Any, MessageContext]]:
        """As ``Consumer.messages``, over all partitions as they come; ``context.stream`` is the partition."""
        return read_messages(self._consumer, partial(self._starts, offsets), decoder, self._options(options))

    async def _starts(
        self, offsets: Offsets | None, otherwise: ConsumerOffsetSpecification
    ) -> dict[str, ConsumerOffsetSpecification]:
        """Every partition, and where it starts: ``otherwise`` where ``offsets`` does not say."""
        given = {} if offsets is None else offsets
        if not isinstance(given, Mapping):
            raise TypeError(f"offsets is a mapping of partitions to where each starts, not {given!r:.80}")
        for stream, start in given.items():
            check_specification(f"offsets[{stream!r:.80}]", start)
        partitions = await self.partitions()
        if otherwise.offset_type is OffsetType.OFFSET and not given.keys() >= set(partitions):
            raise ConfigurationError(
                f"super stream {self.super_stream!r}: {otherwise.offset} is an offset of one partition",
                hint=Hint.NAME_THE_PARTITIONS,
            )
        unknown = given.keys() - set(partitions)
        if unknown:
            raise ConfigurationError(f"not a partition of {self.super_stream!r}: {', '.join(sorted(unknown))}")
        return {stream: given.get(stream, otherwise) for stream in partitions}

    def _options(self, options: SubscribeOptions) -> SubscribeOptions:
        """With the super stream."""
        return {**options, "super_stream": self.super_stream}
