"""Opens publishers on the right node, for one client.

A publisher goes to the stream's leader. While a stream has no leader, opening waits a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from rstream_core.connecting.recovery import Recoveries
from rstream_core.errors import RstreamError
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher

logger = logging.getLogger("rstream_core")

MAX_NAMES = 256
"""How many pairs of stream and publisher name have their last publishing id remembered: the last ones opened."""


class PublisherOpener:
    """Opens publishers, and remembers which ids those with a name have used."""

    def __init__(self, locator: Locator, pool: ConnectionPool, recoveries: Recoveries) -> None:
        self._locator = locator
        self._pool = pool
        self._recoveries = recoveries
        self._named: dict[tuple[str, str], Publisher] = {}
        """The last publisher of each name in each stream; at most ``MAX_NAMES``."""

    async def open(
        self,
        stream: str,
        reference: str | None,
        *,
        listener: Callable[[Outcome], None] | None,
        on_end: Callable[[RstreamError], None] | None,
        max_in_flight: int,
        max_in_flight_bytes: int,
        confirm_timeout: float | None,
    ) -> Publisher:
        """See ``Client.publisher``, which checks the arguments."""
        publisher = Publisher(
            stream,
            reference,
            self._pool,
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
        named = "" if reference is None else f" as {reference!r}, from publishing id {publisher.next_publishing_id}"
        logger.info("publishing to stream %r at %s (leader)%s", stream, publisher.node, named)
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
