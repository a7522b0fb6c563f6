"""Ids of the caller's that the broker rejected: none that comes later is taken before each is published again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    Client,
    ConnectionOptions,
    EmbeddedBroker,
    NotConfirmed,
    Publisher,
    StreamNotAvailable,
    parse_uri,
)
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.protocol.commands import Key
from tests.clients import PATIENCE
from tests.recovering import stored


@pytest.fixture
async def faulty() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
async def own(faulty: EmbeddedBroker) -> AsyncIterator[Client]:
    async with Client(ConnectionOptions(endpoints=(parse_uri(faulty.uri).endpoint,))) as client:
        await client.create_stream("s")
        yield client


async def test_each_is_published_again_before_a_later_one(faulty: EmbeddedBroker, own: Client) -> None:
    publisher = await own.publisher("s", "writer")

    async def publish(*ids: int) -> None:
        await publisher.publish([b"%d" % number for number in ids], publishing_ids=ids)
        await publisher.flush(PATIENCE)

    await publish(1, 2)
    faulty.faults.answer(Key.PUBLISH, 6)
    await publish(5, 6, 7)
    assert (publisher.confirmed, publisher.failed, publisher.is_stopped) == (2, 3, True)
    for ids, missing in (((8,), 5), ((6, 7), 5), ((5, 7), 5)):
        with pytest.raises(NotConfirmed, match=f"publishing id {missing} of 'writer' .* was rejected"):
            await publish(*ids)
    await publish(5)
    for ids in ((7,), (8,), (7, 8)):  # the others are still missing
        with pytest.raises(NotConfirmed, match="publishing id 6 of 'writer'"):
            await publish(*ids)
    await publish(6, 7, 8)
    await publish(9)
    assert (publisher.confirmed, publisher.failed, publisher.is_stopped) == (7, 3, False)
    assert await stored(own, "s") == [b"1", b"2", b"5", b"6", b"7", b"8", b"9"]
    await publisher.close()


async def test_a_sub_entry_that_waits_for_room_does_not_pass_a_rejected_id(faulty: EmbeddedBroker, own: Client) -> None:
    publisher = await own.publisher("s", "writer", max_in_flight=1)
    faulty.faults.answer(Key.PUBLISH, 15)
    await publisher.publish([b"1"], publishing_ids=[1])
    with pytest.raises(NotConfirmed, match="publishing id 1 of 'writer'"):
        await publisher.publish_sub_entry([b"2"], publishing_id=2)
    await publisher.publish([b"1"], publishing_ids=[1])
    assert await publisher.publish_sub_entry([b"2"], publishing_id=2) == 2
    await publisher.flush(PATIENCE)
    assert await stored(own, "s") == [b"1", b"2"]
    await publisher.close()


async def test_a_sub_entry_with_a_counted_id_takes_the_place_of_a_rejected_one(
    faulty: EmbeddedBroker, own: Client
) -> None:
    publisher = await own.publisher("s", "writer", max_in_flight=1)
    faulty.faults.answer(Key.PUBLISH, 15)
    await publisher.publish([b"1"])
    await publisher.publish_sub_entry([b"2"])
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (1, 1)
    assert await stored(own, "s") == [b"2"]
    await publisher.close()


@pytest.mark.parametrize("ids", [None, [1]])
async def test_a_connection_that_is_lost_while_the_last_id_is_asked_for(
    faulty: EmbeddedBroker, own: Client, ids: list[int] | None
) -> None:
    publisher = await own.publisher("s", "writer")
    faulty.faults.answer(Key.PUBLISH, 15)
    await publisher.publish([b"1"], publishing_ids=ids)
    await publisher.flush(PATIENCE)
    assert publisher.failed == 1
    faulty.faults.cut_frame(Key.QUERY_PUBLISHER_SEQUENCE)
    await publisher.publish([b"again"], publishing_ids=ids)
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.error) == (1, None)
    assert await stored(own, "s") == [b"again"]
    await publisher.close()


async def test_a_stream_that_moves_right_behind_the_last_id(
    faulty: EmbeddedBroker, own: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written under the id of the publisher that is gone: it may be another stream's by then."""
    ask = Publisher.last_publishing_id
    asked: list[int] = []

    async def and_then_it_moves(publisher: Publisher) -> int:
        last = await ask(publisher)
        if not asked:
            publisher.on_unavailable(StreamNotAvailable("as the broker's notice in the same bytes says"))
        asked.append(last)
        return last

    monkeypatch.setattr(Publisher, "last_publishing_id", and_then_it_moves)
    publisher = await own.publisher("s", "writer", max_in_flight=1)
    faulty.faults.answer(Key.PUBLISH, 15)
    await publisher.publish([b"rejected"])
    await publisher.publish_sub_entry([b"next"])  # it waits for room, and learns of the rejection there
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed, publisher.sent_again, len(asked)) == (1, 1, 0, 1)
    assert await stored(own, "s") == [b"next"]
    await publisher.close()


async def test_the_messages_of_a_block_that_are_rejected_count_as_failed(faulty: EmbeddedBroker, own: Client) -> None:
    account = Account()
    acks = Acks(account, "a source", low=0)
    acks.hand_out(1, 6)
    publisher = await own.publisher("s")
    await publisher.publish(Block(acks, range(1, 4), [b"1", b"2", b"3"]))
    await publisher.flush(PATIENCE)
    faulty.faults.answer(Key.PUBLISH, 15)
    await publisher.publish(Block(acks, (4, 6), [b"4", b"6"], filters=("v", None)))
    await publisher.flush(PATIENCE)
    assert (account.by[Verdict.DONE], account.by[Verdict.FAILED], account.open, acks.low) == (3, 2, 1, 4)
    await publisher.close()
    assert await stored(own, "s") == [b"1", b"2", b"3"]
