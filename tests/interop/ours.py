"""What this client does in the tests of both kinds."""

from __future__ import annotations

from rstream_core import Client
from tests.clients import PATIENCE

LAST = b"the last one"
"""The body that ends what a program reads."""


async def store(client: Client, stream: str, *messages: bytes) -> None:
    """Stores encoded messages in plain entries, which every client reads."""
    publisher = await client.publisher(stream)
    await publisher.publish(messages)
    await publisher.flush(PATIENCE)
    assert publisher.failed == 0
    await publisher.close()
