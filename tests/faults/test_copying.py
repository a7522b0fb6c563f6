"""Copies whose target fails: the next one goes on where the target ends, whatever was read before."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rstream_core import (
    Client,
    CompressionType,
    ConnectionOptions,
    CopyRefused,
    EmbeddedBroker,
    NotConfirmed,
    parse_uri,
)
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.commands import Key
from rstream_core.protocol.compression import compress
from rstream_core.protocol.placed import Packed, PlacedMessages
from tests.clients import PATIENCE, bodies, publish, read
from tests.recovering import stored


@pytest.fixture
async def faulty() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
async def own(faulty: EmbeddedBroker) -> AsyncIterator[Client]:
    async with Client(ConnectionOptions(endpoints=(parse_uri(faulty.uri).endpoint,))) as client:
        await client.create_stream("source")
        await client.create_stream("target")
        yield client


async def test_what_a_target_did_not_take_is_read_again(faulty: EmbeddedBroker, own: Client) -> None:
    """Where not all is copied, the offset that is stored in the source says what need not be read again."""
    all_of_them: dict[str, Any] = {"wanted": lambda message: True, "selection": "all"}
    await publish(own, "source", bodies(10))
    await own.copy("source", "target", until=4, **all_of_them)
    faulty.faults.answer(Key.PUBLISH, 15)
    with pytest.raises(NotConfirmed):
        await own.copy("source", "target", **all_of_them)
    assert await stored(own, "target") == bodies(5)
    await own.copy("source", "target", **all_of_them)
    assert await stored(own, "target") == bodies(10)


async def test_a_source_that_is_made_anew_while_it_is_followed(own: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy reads on behind the last offset of the old one. A mark in the new one would hide what is missing."""
    monkeypatch.setattr("rstream_core.copying.stream_copy.STORE_EVERY", 0.05)
    await publish(own, "source", bodies(10))
    copying = asyncio.create_task(own.copy("source", "target", follow=True))
    await read(own, "target", 10)
    await own.delete_stream("source")
    await own.create_stream("source")
    await publish(own, "source", bodies(30, "new-"))
    with pytest.raises(CopyRefused, match="was deleted and made anew while it was copied"):
        await asyncio.wait_for(copying, PATIENCE)
    with pytest.raises(CopyRefused, match="does not have the mark of that copy"):
        await own.copy("source", "target")


async def test_sub_entries_that_do_not_fit_a_frame_are_unpacked_one_by_one(faulty: EmbeddedBroker, own: Client) -> None:
    plain = join_sub_batch([os.urandom(20) + bytes(4000)] * 10 + [os.urandom(4000)] * 3 + [bytes(4000)] * 1000)
    data = compress(CompressionType.Gzip, plain)
    packed = Packed(data, 0, len(data), 1013, len(plain), CompressionType.Gzip.value)
    endpoint = parse_uri(faulty.uri).endpoint
    async with Client(ConnectionOptions(endpoints=(endpoint,), frame_max=8192)) as narrow:
        publisher = await narrow.publisher("target", "name", max_in_flight_bytes=500_000)
        tracemalloc.start()
        try:
            await publisher.publish(PlacedMessages([packed] * 6))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await publisher.flush(PATIENCE)
        assert publisher.confirmed == 6 * 1013
        await publisher.close()
    assert peak < 5 * len(plain)
