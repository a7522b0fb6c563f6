"""The offsets that a consumer stores by itself: never an older one behind a later one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from rstream_core.consumers.processed_offsets import ProcessedOffsets
from rstream_core.flow.stores import STORE_TIMEOUT


async def test_a_store_in_the_background_comes_before_that_of_the_end() -> None:
    connected, sent = asyncio.Event(), list[tuple[int, float | None]]()

    async def store_offset(_stream: str, _name: str, offset: int, *, verify_timeout: float | None) -> None:
        if verify_timeout is None:
            await connected.wait()
        sent.append((offset, verify_timeout))

    subscription = cast("Any", SimpleNamespace(stream="s", active=True, processed=2))
    offsets = ProcessedOffsets(cast("Any", SimpleNamespace(store_offset=store_offset)), "reader", 0.0)
    storing = asyncio.create_task(offsets.store_now_and_then(subscription))
    await asyncio.sleep(0.01)
    subscription.processed = 5
    at_the_end = asyncio.create_task(offsets.store_last(subscription))
    await asyncio.sleep(0.01)
    connected.set()
    await at_the_end
    storing.cancel()
    assert sent[:2] == [(2, None), (5, STORE_TIMEOUT)]
