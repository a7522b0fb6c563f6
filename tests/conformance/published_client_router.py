"""Run with the published client: publishes each key, as a message, to the partition that it chooses by its hash."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rstream import RawMessage, RouteType, SuperStreamProducer  # type: ignore[import-not-found]


async def main() -> None:
    host, port, username, password, super_stream, keys = sys.argv[1:]
    wanted: list[str] = json.loads(keys)
    confirmed = asyncio.Semaphore(0)

    async def key_of(message: Any) -> str:
        return bytes(message).decode()

    async def on_confirm(status: Any) -> None:
        assert status.is_confirmed
        confirmed.release()

    async with SuperStreamProducer(
        host=host,
        port=int(port),
        username=username,
        password=password,
        super_stream=super_stream,
        routing=RouteType.Hash,
        routing_extractor=key_of,
    ) as producer:
        for key in wanted:
            await producer.send(RawMessage(key.encode()), on_publish_confirm=on_confirm)
        for _ in wanted:
            await confirmed.acquire()


asyncio.run(asyncio.wait_for(main(), 60))
