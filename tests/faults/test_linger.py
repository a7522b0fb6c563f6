"""What an outbox holds back goes out by itself, whatever went out before it."""

from __future__ import annotations

import asyncio

import pytest

from rstream_core import Client, ConfirmationStatus, Producer
from rstream_core.publishing.publisher import Publisher
from tests.clients import PATIENCE, eventually
from tests.recovering import stored


@pytest.mark.parametrize("linger", [0.0, 0.02])
async def test_what_is_held_back_while_a_batch_is_written_goes_out_behind_it(
    client: Client, stream: str, linger: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody calls any more, and nothing fills another batch."""
    may_write = asyncio.Event()
    publish = Publisher.publish

    async def late(publisher: Publisher, *args: object, **more: object) -> object:
        await may_write.wait()
        return await publish(publisher, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Publisher, "publish", late)
    producer = Producer(client=client, linger=linger, batch_size=2)
    told: list[ConfirmationStatus] = []
    sending = [
        asyncio.create_task(producer.send(stream, body, on_publish_confirm=told.append)) for body in (b"1", b"2", b"3")
    ]
    await eventually(lambda: sending[0].done() and sending[2].done())
    await asyncio.sleep(3 * linger)  # its time has come, and the batch before it is not written
    assert not sending[1].done()
    assert told == []
    may_write.set()
    await asyncio.wait_for(asyncio.gather(*sending), PATIENCE)
    await eventually(lambda: len(told) == 3)
    assert await stored(client, stream) == [b"1", b"2", b"3"]
    await producer.close()
