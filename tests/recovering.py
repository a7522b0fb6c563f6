"""What tests of recoveries have in common."""

from __future__ import annotations

import asyncio
import random

from rstream_core import Backoff, Client, Recovery, RecoveryEvent, RecoveryState
from tests.clients import FIRST, PATIENCE, eventually
from tests.proxy import Proxy

EAGER = Recovery(seconds=PATIENCE, backoff=Backoff(attempts=1000, initial=0.005, maximum=0.05), spread=0.01)

LOST, RECOVERED, GIVEN_UP = RecoveryState.LOST, RecoveryState.RECOVERED, RecoveryState.GIVEN_UP


class Events(list[RecoveryEvent]):
    """A listener that keeps what it is told."""

    def __call__(self, event: RecoveryEvent) -> None:
        self.append(event)

    @property
    def states(self) -> list[RecoveryState]:
        return [event.state for event in self]

    def has_outages(self, count: int) -> bool:
        """Whether it was told of so many, each lost and recovered, and of nothing else."""
        return self.states == [LOST, RECOVERED] * count


def cut_now_and_then(proxy: Proxy, chance: random.Random, low: int, high: int) -> asyncio.Task[None]:
    """Cuts the connections each time when so many bytes have gone to the broker, until it is cancelled."""

    async def cut() -> None:
        while True:
            proxy.cut_at = proxy.from_client + chance.randrange(low, high)
            await eventually(lambda: proxy.cut_at is None, 60)

    return asyncio.create_task(cut())


async def stored(client: Client, stream: str) -> list[bytes]:
    """All that is in a stream."""
    end = await client.last_offset(stream)
    found: list[bytes] = []
    if end is not None:
        async with asyncio.timeout(PATIENCE), await client.subscribe(stream, FIRST) as subscription:
            async for chunk in subscription:
                found += chunk.messages
                if chunk.last_offset >= end:
                    break
    return found
