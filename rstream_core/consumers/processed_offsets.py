"""Stores, under a name, the offset of the last message that the application of a subscription has processed."""

from __future__ import annotations

import asyncio
import logging

from rstream_core.client import Client
from rstream_core.consuming.subscription import Subscription
from rstream_core.errors import RstreamError
from rstream_core.flow.stores import STORE_TIMEOUT

logger = logging.getLogger("rstream_core")


class ProcessedOffsets:
    """Stores the offsets of one subscription. Logs a failure and raises nothing: those messages then come again.

    A call that is cancelled may have stored its offset.
    """

    def __init__(self, client: Client, name: str, every: float) -> None:
        """``every``: seconds from one store to the next."""
        self._client = client
        self._name = name
        self._every = every
        self._stored: int | None = None
        """The last offset that was stored."""
        self._storing = asyncio.Lock()
        """Held during a store: of two at once, the one with the older offset might reach the broker last."""

    async def store_now_and_then(self, subscription: Subscription) -> None:
        """Stores until it is cancelled."""
        while True:
            await asyncio.sleep(self._every)
            if subscription.active:  # otherwise another consumer stores under this name
                await self._store(subscription)

    async def store_last(self, subscription: Subscription) -> None:
        """Stores at the end of a turn or of the subscription, and waits until the broker returns the offset."""
        await self._store(subscription, verify_timeout=STORE_TIMEOUT)

    async def _store(self, subscription: Subscription, *, verify_timeout: float | None = None) -> None:
        """Stores the last processed offset, if it has changed or is to be verified."""
        offset = subscription.processed
        if offset is None or (offset == self._stored and verify_timeout is None):
            return
        if verify_timeout is None and self._storing.locked():
            return  # a turn ends, and stores what there is
        try:
            async with asyncio.timeout(verify_timeout), self._storing:  # an outage must not prolong it: a caller waits
                await self._client.store_offset(subscription.stream, self._name, offset, verify_timeout=verify_timeout)
            self._stored = offset
        except (RstreamError, TimeoutError) as error:
            why = str(error) or f"not within {verify_timeout} s"
            logger.warning("offset %d of stream %r was not stored: %s", offset, subscription.stream, why)
