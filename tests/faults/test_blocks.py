"""Blocks for programs while connections are lost and programs die: nothing that was not acknowledged is skipped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import pytest

from rstream_core import Backoff, Client, MessageBlock, OffsetNotFound, Recovery, RstreamError, work
from tests.brokers import Broker, broker_at
from tests.cli.killable import Killable
from tests.clients import PATIENCE, bodies, eventually, options_for, publish
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


# A broker that is killed.

RESTART = 90.0
"""Seconds that a RabbitMQ may take to come back, twice."""
PATIENT = Recovery(seconds=RESTART, backoff=Backoff(attempts=10_000, initial=0.02, maximum=0.2))


class Stores:
    """What the broker says is stored under the group's name, and what was acknowledged by then."""

    def __init__(self, client: Client) -> None:
        self.acknowledged: set[int] = set()
        self._client = client
        self._found: dict[int, frozenset[int]] = {}
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            try:
                stored = await self._client.query_offset("s", GROUP)
            except RstreamError:
                pass  # none yet, or no broker
            else:
                self._found.setdefault(stored, frozenset(self.acknowledged))
            await asyncio.sleep(0.02)

    async def check(self, there: Iterable[int]) -> None:
        """Raises where an offset was stored before all messages up to it were acknowledged. ``there``: the offsets of
        all messages."""
        self._task.cancel()
        offsets = sorted(there)
        assert len(self._found) > 3
        for stored, acknowledged in self._found.items():
            assert acknowledged.issuperset(offset for offset in offsets if offset <= stored)


async def kill_twice(killable: Killable, seen: Callable[[], int], *counts: int) -> None:
    for count in counts:
        await eventually(lambda: seen() >= count, RESTART)  # noqa: B023 - it is awaited here
        await asyncio.to_thread(killable.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(killable.start)


@pytest.mark.slow
async def test_a_reader_outlives_a_broker_that_is_killed(killable: Killable) -> None:
    """Messages come once, whatever is open then, and no offset is stored before all up to it is acknowledged."""
    chance = random.Random(1)
    messages = bodies(3000)
    options = options_for(broker_at(killable.uri))
    found: list[bytes] = []
    offsets: list[int] = []
    held: list[MessageBlock] = []

    async def publish_slowly(client: Client) -> None:
        publisher = await client.publisher("s", reference="writer")
        for low in range(0, 3000, 20):
            await publisher.publish(messages[low : low + 20])
            await asyncio.sleep(0.02)
        await publisher.flush(RESTART)

    async with (
        asyncio.timeout(2 * RESTART),
        Client(options, recovery=PATIENT) as writing,
        Client(options, recovery=PATIENT) as reading,
        Client(options, recovery=PATIENT) as looking,
        asyncio.TaskGroup() as group,
    ):
        stores = Stores(looking)
        group.create_task(publish_slowly(writing))
        group.create_task(kill_twice(killable, lambda: len(found), 500, 1500))
        async with reading.blocks("s", name=GROUP, store_every=0.01) as blocks:
            async for block in blocks:
                found += block.messages
                offsets += block.offsets
                held.append(block)
                if len(held) > 5:
                    chosen = held.pop(chance.randrange(len(held)))
                    stores.acknowledged.update(chosen.offsets)
                    await chosen.ack()
                if len(found) >= len(messages):
                    break
        assert found == messages
        assert offsets == sorted(set(offsets))
        await stores.check(offsets)
        begin = min(block.offsets[0] for block in held)
        async with reading.blocks("s", name=GROUP, to_end=True) as blocks:
            again = [message async for block in blocks for message in block.messages]
        assert again == messages[offsets.index(begin) :]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["any", "keys"])
async def test_workers_outlive_a_broker_that_is_killed(killable: Killable, order: str) -> None:
    messages = bodies(2000)
    options = options_for(broker_at(killable.uri))
    offsets: list[int] = []
    found: dict[int, list[int]] = {}

    def key(message: bytes) -> int:
        return int(message) % 7

    async with (
        asyncio.timeout(2 * RESTART),
        Client(options, recovery=PATIENT) as client,
        Client(options, recovery=PATIENT) as looking,
        asyncio.TaskGroup() as group,
    ):
        await publish(client, "s", *[messages[low : low + 20] for low in range(0, 2000, 20)])
        stores = Stores(looking)
        group.create_task(kill_twice(killable, lambda: len(offsets), 300, 900))

        async def handle(block: MessageBlock) -> None:
            await asyncio.sleep(0.05)
            offsets.extend(block.offsets)
            for message in block.messages:
                found.setdefault(key(message), []).append(int(message))
            stores.acknowledged.update(block.offsets)

        # With few open messages, most of the work is left for the time behind the kills.
        blocks = client.blocks("s", name=GROUP, store_every=0.01, until=1999, max_open=200)
        done = await work(blocks, handle, workers=4, ordered_by=key if order == "keys" else None)
        assert (done, sorted(offsets)) == (2000, list(range(2000)))
        await stores.check(range(2000))
        assert await client.query_offset("s", GROUP) == 1999
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(2000))
    if order == "keys":
        assert all(numbers == sorted(numbers) for numbers in found.values())
