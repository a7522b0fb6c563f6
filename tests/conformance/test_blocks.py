"""Blocks for programs, on both brokers: where they begin, what is stored, and members of a group."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from rstream_core import (
    AlreadyClosed,
    AMQPMessage,
    Blocks,
    Client,
    ConnectionOptions,
    MessageBlock,
    OffsetNotFound,
    OffsetType,
    StreamDoesNotExist,
    work,
)
from tests.clients import PATIENCE, bodies, eventually, publish

GROUP = "group"


async def read_all(client: Client, *streams: str, **options: object) -> list[bytes]:
    """Reads and acknowledges all that there is."""
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE), client.blocks(streams, to_end=True, **options) as blocks:  # type: ignore[arg-type]
        async for block in blocks:
            found += block.messages
            await block.ack()
    return found


async def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(client: Client, stream: str) -> None:
    await publish(client, stream, *[bodies(10, f"{chunk}-") for chunk in range(6)])
    async with asyncio.timeout(PATIENCE), client.blocks(stream, name=GROUP) as blocks:
        found = [await anext(blocks) for _ in range(6)]
        for block in (found[5], found[0], found[1], found[3]):
            await block.ack()
        await found[2].ack(range(20, 24))
    assert await client.query_offset(stream, GROUP) == 23
    again = await read_all(client, stream, name=GROUP)
    assert again == [message for block in found[2:] for message in block.messages][4:]
    assert await client.query_offset(stream, GROUP) == 59
    assert await read_all(client, stream, name=GROUP) == []


async def test_it_is_stored_while_it_is_read(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    async with asyncio.timeout(PATIENCE), client.blocks(stream, name=GROUP, store_every=0.01) as blocks:
        block = await anext(blocks)
        await block.ack(range(7))
        while True:
            try:
                assert await client.query_offset(stream, GROUP) == 6
                break
            except OffsetNotFound:
                await asyncio.sleep(0.01)


async def test_where_it_begins(client: Client, stream: str) -> None:
    await publish(client, stream, bodies(10))
    assert await read_all(client, stream) == bodies(10)
    assert await read_all(client, stream, offset_type=OffsetType.OFFSET, offset=7) == bodies(10)[7:]
    assert await read_all(client, stream, offset=8, name=GROUP) == bodies(10)[8:]
    assert await read_all(client, stream, offset=3, name=GROUP) == []
    async with asyncio.timeout(PATIENCE), client.blocks(stream, offset_type=OffsetType.NEXT) as blocks:
        await publish(client, stream, [b"new"])
        assert list((await anext(blocks)).messages) == [b"new"]


async def test_where_it_ends(client: Client, stream: str) -> None:
    async def read(until: int | datetime) -> list[bytes]:
        found: list[bytes] = []
        async with (
            asyncio.timeout(PATIENCE),
            client.blocks(stream, until=until, name=GROUP, store_every=None) as blocks,
        ):
            async for block in blocks:
                found += block.messages
                await block.ack()
        return found

    await publish(client, stream, bodies(10, "early-"), bodies(10, "later-"))
    assert await read(12) == [*bodies(10, "early-"), *bodies(3, "later-")]
    assert await client.query_offset(stream, GROUP) == 12
    assert await read(12) == []
    coming = asyncio.create_task(read(25))  # three offsets are the broker's own: chunks that say what is stored
    await asyncio.sleep(0.3)
    assert not coming.done()
    await publish(client, stream, bodies(10, "new-"))
    found = await coming
    assert found[:7] == bodies(10, "later-")[3:]
    assert found[7:] == bodies(len(found) - 7, "new-")
    assert 0 < len(found[7:]) < 10
    assert await read(datetime.now(UTC) - timedelta(hours=1)) == []
    rest = await read(datetime.now(UTC) + timedelta(seconds=0.5))
    assert rest == bodies(10, "new-")[len(found) - 7 :]


async def test_what_the_broker_filters_for_blocks(client: Client, stream: str) -> None:
    """Whole chunks. What it leaves out is not handed out, and passed where something behind it is acknowledged."""
    publisher = await client.publisher(stream)
    for value in ("eu", "us", None, "eu", "us"):
        await publisher.publish(bodies(5, f"{value}-"), filter_values=[value] * 5)
        await publisher.flush(PATIENCE)
    await publisher.close()
    european = bodies(5, "eu-")
    assert await read_all(client, stream, filter_values=["eu"]) == european + european
    both = await read_all(client, stream, filter_values=["eu"], match_unfiltered=True, name=GROUP)
    assert both == european + bodies(5, "None-") + european
    assert await client.query_offset(stream, GROUP) == 24  # also the last ones, which the broker has left out
    handled: list[bytes] = []
    blocks = client.blocks(stream, filter_values=["us"], to_end=True)
    assert await asyncio.wait_for(work(blocks, lambda block: handled.extend(block.messages)), PATIENCE) == 10
    assert sorted(handled) == sorted(bodies(5, "us-") * 2)


async def test_messages_are_decoded_on_demand(client: Client, stream: str) -> None:
    await publish(client, stream, [bytes(AMQPMessage(body=text)) for text in ("one", "two")])
    async with asyncio.timeout(PATIENCE), client.blocks(stream) as blocks:
        block = await anext(blocks)
    assert [str(message) for message in block.decoded()] == ["one", "two"]


async def test_partitions_of_a_super_stream(client: Client, super_stream: str) -> None:
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", bodies(5, f"{number}-"))
    found: dict[str, list[bytes]] = {}
    options = {"super_stream": super_stream, "name": GROUP, "to_end": True}
    async with asyncio.timeout(PATIENCE), client.blocks(**options) as blocks:  # type: ignore[arg-type]
        async for block in blocks:
            found.setdefault(block.stream, []).extend(block.messages)
            await block.ack()
    assert found == {f"{super_stream}-{number}": bodies(5, f"{number}-") for number in range(3)}
    for partition in found:
        assert await client.query_offset(partition, GROUP) == 4


async def test_a_stream_that_is_not_there(client: Client, stream_name: str) -> None:
    with pytest.raises(StreamDoesNotExist):
        await client.blocks(stream_name).__aenter__()
    with pytest.raises(StreamDoesNotExist):
        await anext(client.blocks(stream_name))


async def test_a_stream_that_is_deleted(client: Client, stream: str) -> None:
    async with asyncio.timeout(PATIENCE), client.blocks(stream) as blocks:
        await client.delete_stream(stream)
        with pytest.raises(StreamDoesNotExist):
            await anext(blocks)


async def test_a_closed_client(options: ConnectionOptions) -> None:
    client = Client(options)
    await client.close()
    with pytest.raises(AlreadyClosed):
        await anext(client.blocks("s"))


# Workers.


async def test_workers_of_keys_and_one_that_fails(client: Client, super_stream: str) -> None:
    """In the end each message is done, those of a key in their order, and what failed is done a second time."""
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", *[bodies(20, f"{number}-{chunk}-") for chunk in range(10)])
    has_failed = False
    found: dict[tuple[str, int], list[int]] = {}

    async def handle(block: MessageBlock) -> None:
        nonlocal has_failed
        await asyncio.sleep(0.001)
        if 111 in block.offsets and not has_failed:
            has_failed = True
            raise ZeroDivisionError
        for offset, message in zip(block.offsets, block.messages, strict=True):
            found.setdefault((block.stream, int(message.split(b"-")[2])), []).append(offset)

    def blocks() -> Blocks:
        return client.blocks(super_stream=super_stream, name=GROUP, to_end=True)

    def key(message: bytes) -> bytes:
        return message.split(b"-")[2]

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ZeroDivisionError):
            await work(blocks(), handle, workers=4, ordered_by=key)
        await work(blocks(), handle, workers=4, ordered_by=key)
        assert await work(blocks(), handle) == 0
    assert len(found) == 60
    for offsets in found.values():
        assert sorted(set(offsets)) == list(range(min(offsets), 200, 20))
        drops = sum(later <= earlier for earlier, later in pairwise(offsets))
        assert drops <= 1  # where it began again
    for number in range(3):
        assert await client.query_offset(f"{super_stream}-{number}", GROUP) == 199


# Members of a group.


class Member:
    """Acknowledges what ``wanted`` says of the offsets that it gets, in a task of its own."""

    def __init__(self, client: Client, stream: str, super_stream: str | None, holds: frozenset[int]) -> None:
        self.offsets: list[int] = []
        self.held: list[MessageBlock] = []
        self._holds = holds
        self._blocks = client.blocks(
            stream, super_stream=super_stream, name=GROUP, single_active=True, store_every=None, offset=0
        )
        self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        async with self._blocks:
            async for block in self._blocks:
                self.offsets += block.offsets
                if self._holds.isdisjoint(block.offsets):
                    await block.ack()
                else:
                    self.held.append(block)

    async def leave(self) -> None:
        await self._blocks.aclose()
        await asyncio.wait_for(self._task, PATIENCE)


async def test_what_is_open_when_a_turn_ends_comes_to_the_next_member(
    client: Client, options: ConnectionOptions, super_stream: str
) -> None:
    """Here a second member takes the turn of the first, and gives it back when it leaves."""
    partition = f"{super_stream}-1"
    await publish(client, partition, *[bodies(10, f"{chunk}-") for chunk in range(4)])
    async with Client(options) as other:
        one = Member(client, partition, super_stream, frozenset([15]))
        await eventually(lambda: len(one.offsets) == 40)
        two = Member(other, partition, super_stream, frozenset([25]))
        await eventually(lambda: len(two.offsets) == 30)
        assert two.offsets == list(range(10, 40))
        (late,) = one.held
        await late.ack()  # of a turn that is over
        await two.leave()
        assert await client.query_offset(partition, GROUP) == 19
        await eventually(lambda: len(one.offsets) == 60)
        assert one.offsets[40:] == list(range(20, 40))
        await one.leave()
    assert await client.query_offset(partition, GROUP) == 39


async def test_nothing_is_skipped_where_nothing_was_acknowledged_in_a_turn(
    client: Client, options: ConnectionOptions, super_stream: str
) -> None:
    """Nothing is stored by anybody, and the member that has the turn again begins where it began first."""
    partition = f"{super_stream}-1"
    await publish(client, partition, bodies(10), bodies(10))
    everything = frozenset(range(20))
    async with Client(options) as other:
        one = Member(client, partition, super_stream, everything)
        await eventually(lambda: len(one.offsets) == 20)
        two = Member(other, partition, super_stream, everything)
        await eventually(lambda: len(two.offsets) == 20)
        await two.leave()
        await eventually(lambda: len(one.offsets) == 40)
        assert one.offsets == [*range(20), *range(20)]
        await one.leave()
    with pytest.raises(OffsetNotFound):
        await client.query_offset(partition, GROUP)


async def test_two_members_share_what_one_of_them_leaves(
    client: Client, options: ConnectionOptions, stream: str
) -> None:
    await publish(client, stream, *[[body] for body in bodies(20)])
    async with Client(options) as other:
        one = Member(client, stream, None, frozenset())
        await eventually(lambda: len(one.offsets) == 20)
        two = Member(other, stream, None, frozenset())
        await one.leave()
        await publish(client, stream, *[[body] for body in bodies(10)])
        await eventually(lambda: len(two.offsets) >= 10)
        assert one.offsets == list(range(20))
        assert (len(two.offsets), min(two.offsets) >= 20) == (10, True)  # the stored offset may take one, too
        await two.leave()
    assert await client.query_offset(stream, GROUP) == two.offsets[-1]
