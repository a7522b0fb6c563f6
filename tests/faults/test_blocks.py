"""Blocks for programs while connections are lost and programs die: nothing that was not acknowledged is skipped."""

from __future__ import annotations

import asyncio
import random

import pytest

from rstream_core import Client, MessageBlock, OffsetNotFound
from tests.brokers import Broker
from tests.clients import PATIENCE, bodies, eventually, publish
from tests.proxy import Proxy, options_through
from tests.recovering import LOST, RECOVERED, Events

GROUP = "group"


def cut_now_and_then(proxy: Proxy, chance: random.Random) -> None:
    def order() -> None:
        proxy.cut_broker_at = proxy.from_broker + chance.randrange(5_000, 40_000)

    proxy.after_cut = order
    order()


async def test_open_blocks_outlive_a_lost_connection(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    await publish(client, stream, bodies(10), bodies(10))
    async with asyncio.timeout(PATIENCE), through.blocks(stream, name=GROUP, store_every=None) as blocks:
        first, second = await anext(blocks), await anext(blocks)
        await second.ack()
        proxy.cut()
        await eventually(lambda: events.states == [LOST, RECOVERED])
        await publish(client, stream, bodies(10))
        third = await anext(blocks)
        assert list(third.offsets) == list(range(20, 30))
        await first.ack()
    assert await client.query_offset(stream, GROUP) == 19


@pytest.mark.parametrize("seed", range(3))
async def test_each_message_comes_once_through_losses_with_acknowledgements_out_of_order(
    through: Client, proxy: Proxy, client: Client, stream: str, seed: int
) -> None:
    chance = random.Random(seed)
    messages = bodies(5000, "x" * 50)
    await publish(client, stream, *[messages[low : low + 50] for low in range(0, 5000, 50)])
    found: list[bytes] = []
    held: list[MessageBlock] = []
    cut_now_and_then(proxy, chance)
    async with (
        asyncio.timeout(60),
        through.blocks(stream, name=GROUP, store_every=0.005, to_end=True, max_open=500) as blocks,
    ):
        async for block in blocks:
            found += block.messages
            held.append(block)
            if len(held) > 5:
                await held.pop(chance.randrange(len(held))).ack()
        proxy.after_cut = proxy.cut_broker_at = None
        for block in held[1:]:
            await block.ack()
    assert found == messages
    assert await client.query_offset(stream, GROUP) == held[0].offsets[0] - 1


@pytest.mark.parametrize("seed", range(3))
async def test_programs_that_die_at_any_moment_leave_nothing_out(
    proxy: Proxy, broker: Broker, client: Client, stream: str, seed: int
) -> None:
    """A program's client is aborted, so that it stores nothing at its end; the next one goes on."""
    chance = random.Random(seed)
    messages = bodies(1000)
    await publish(client, stream, *[messages[low : low + 20] for low in range(0, 1000, 20)])
    done: set[int] = set()
    is_finished = False
    async with asyncio.timeout(60):
        while not is_finished:
            until = chance.randrange(5, 20)
            dying = Client(options_through(proxy, broker), recovery=None)
            blocks = dying.blocks(stream, name=GROUP, store_every=0.0, to_end=True)
            held: list[MessageBlock] = []
            try:
                async for block in blocks:
                    held.append(block)
                    if len(held) > 3:
                        chosen = held.pop(chance.randrange(3))
                        done.update(chosen.offsets)
                        await chosen.ack()
                        await asyncio.sleep(0.002)  # time to store
                    until -= 1
                    if not until:
                        break
                else:
                    for block in held:
                        done.update(block.offsets)
                    is_finished = True
            finally:
                dying.abort()
                del blocks
                await dying.close()
            stored = await stored_of(client, stream)
            assert done.issuperset(range(stored + 1))
    assert done == set(range(1000))


async def stored_of(client: Client, stream: str) -> int:
    try:
        return await client.query_offset(stream, GROUP)
    except OffsetNotFound:
        return -1


async def test_a_cut_turn_begins_again_behind_what_is_stored(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    """What was handed out and not acknowledged comes again, though it was handed out in the turn that was cut."""
    await publish(client, stream, bodies(10), bodies(10), bodies(10))
    options = {"name": GROUP, "single_active": True, "store_every": None}
    async with asyncio.timeout(PATIENCE), through.blocks(stream, **options) as blocks:  # type: ignore[arg-type]
        first, second, third = [await anext(blocks) for _ in range(3)]
        await first.ack()
        await third.ack()
        proxy.cut()
        await eventually(lambda: events.states == [LOST, RECOVERED])
        again = await anext(blocks)
        assert list(again.offsets) == list(range(10, 20))
        await second.ack()
        assert again.open == 10
    assert await client.query_offset(stream, GROUP) == 9
