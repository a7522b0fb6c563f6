"""One publisher of one stream: what goes out, what is confirmed, and what is held back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from rstream_core import (
    AlreadyClosed,
    Client,
    CompressionType,
    MessageTooLarge,
    NotConfirmed,
    Outcome,
    Publisher,
    RequestTimeout,
)
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.protocol.chunk import join_sub_batch
from tests import inside
from tests.clients import PATIENCE, bodies, eventually, publish, read


def balanced(publisher: Publisher) -> bool:
    return publisher.published == publisher.confirmed + publisher.failed + publisher.in_flight


async def test_publish_and_confirm(client: Client, stream: str) -> None:
    outcomes: list[Outcome] = []
    publisher = await client.publisher(stream, listener=outcomes.append)
    messages = bodies(3000)
    ids = await publisher.publish(messages)
    assert list(ids) == list(range(1, 3001))
    assert publisher.published == 3000
    assert balanced(publisher)
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed, publisher.in_flight, publisher.in_flight_bytes) == (3000, 0, 0, 0)
    told = Counter(publishing_id for outcome in outcomes for publishing_id in outcome.publishing_ids)
    assert told == Counter(range(1, 3001))
    assert sum(outcome.confirmed for outcome in outcomes) == 3000
    assert all(0 < outcome.latency < PATIENCE and not outcome.failed for outcome in outcomes)
    await publisher.close()
    await publisher.close()
    assert list((await read(client, stream, 3000)).values()) == messages


async def test_outcomes_say_which_messages_of_which_call_they_are_about(client: Client, stream: str) -> None:
    """Also where a call takes several frames, and for a sub-entry, which has one id for all."""
    outcomes: list[Outcome] = []
    publisher = await client.publisher(stream, listener=outcomes.append)
    await publisher.publish([bytes(1000)] * 300, context="many", place=10)
    await publisher.publish_sub_entry(bodies(5), context="together", place=7)
    await publisher.publish([b"x"])
    await publisher.close()
    told = Counter((outcome.context, place) for outcome in outcomes for place in outcome.places)
    wanted = [("many", range(10, 310)), ("together", range(7, 12)), (None, range(1))]
    assert told == Counter((context, place) for context, places in wanted for place in places)


async def test_a_block_is_acknowledged(client: Client, stream: str) -> None:
    """With each confirm, by its positions, before the listener is told."""
    account = Account()
    acks = Acks(account, "a source", low=99)
    acks.hand_out(100, 600)
    messages = bodies(600)
    marks: list[int | None] = []
    publisher = await client.publisher(stream, "blocks", listener=lambda _: marks.append(acks.low), max_in_flight=200)
    block = Block(acks, range(100, 700), messages, ids=range(5, 1205, 2), filters=None)
    chosen = block.select([place for place in range(600) if place % 3])
    assert list(await publisher.publish(chosen)) == [number for number in range(5, 1205, 2) if number % 6 != 5]
    await publisher.flush(PATIENCE)
    assert (account.by[Verdict.DONE], account.open, acks.low) == (400, 200, 99)
    assert set(marks) == {99}
    acks.done(range(100, 700, 3), Verdict.PASSED)
    assert acks.low == 699
    with pytest.raises(TypeError, match="a block brings its ids"):
        await publisher.publish(chosen, publishing_ids=range(400))
    await publisher.close()
    assert list((await read(client, stream, 400)).values()) == [messages[place] for place in range(600) if place % 3]


async def test_nothing_is_published(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    assert await publisher.publish([]) == ()
    await publisher.flush(0.1)
    await publisher.close()
    assert await client.last_offset(stream) is None


async def test_any_bytes_are_stored_unchanged(client: Client, stream: str) -> None:
    chance = random.Random(1)
    messages = [b"", b"\0", b"\xff" * 4, b"\x80", *[chance.randbytes(chance.randrange(5000)) for _ in range(300)], b""]
    await publish(client, stream, messages)
    assert list((await read(client, stream, len(messages))).values()) == messages


async def test_frames_are_cut_and_stay_in_order(client: Client, stream: str) -> None:
    messages = [number.to_bytes(4) * (1 + number % 5000) for number in range(1500)]
    publisher = await client.publisher(stream)
    await asyncio.gather(*(publisher.publish(messages[start : start + 100]) for start in range(0, 1500, 100)))
    await publisher.close()
    assert publisher.confirmed == 1500
    assert list((await read(client, stream, 1500)).values()) == messages


async def test_the_largest_message_is_taken_and_one_byte_more_is_not(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    largest = publisher.max_message_size
    assert 1_048_000 < largest < 1_048_576
    message = random.Random(2).randbytes(largest)
    with pytest.raises(MessageTooLarge, match=f"message 2 of 3 takes {largest + 1} bytes") as caught:
        await publisher.publish([b"", bytes(largest + 1), b""])
    assert caught.value.position == 1
    assert publisher.published == 0
    await publisher.publish([b"before", message, b"after"])
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (3, 0)
    await publisher.close()
    assert await read(client, stream, 3) == {0: b"before", 1: message, 2: b"after"}


async def test_the_largest_sub_entry_is_taken_and_one_byte_more_is_not(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    largest = 1_048_576 - 9 - 19 - 4
    with pytest.raises(MessageTooLarge, match="sub-entry"):
        await publisher.publish_sub_entry([bytes(largest + 1)])
    assert publisher.published == 0
    await publisher.publish_sub_entry([bytes(largest)])
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (1, 0)
    await publisher.close()


async def test_a_small_frame_is_respected(client: Client, stream: str) -> None:
    from tests.conformance.test_connection import changed

    async with Client(changed(client.options, frame_max=1000)) as small:
        publisher = await small.publisher(stream)
        messages = [bytes(size) for size in (0, 1, 500, 500, publisher.max_message_size, 0, 979, 979)]
        await publisher.publish(messages)
        await publisher.close()
        assert publisher.confirmed == len(messages)
    assert list((await read(client, stream, len(messages))).values()) == messages


# Publishing ids.


async def test_many_small_frames_give_the_event_loop_its_turns(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await publisher.publish(bodies(1280), most=1)
    counting.cancel()
    assert turns >= 1280 // 64
    await publisher.flush(PATIENCE)
    await publisher.close()
    assert list((await read(client, stream, 1280)).values()) == bodies(1280)


async def test_explicit_ids(client: Client, stream: str) -> None:
    told: list[int] = []
    publisher = await client.publisher(stream, listener=lambda outcome: told.extend(outcome.publishing_ids))
    assert list(await publisher.publish(bodies(3), publishing_ids=[5, 10, 11])) == [5, 10, 11]
    assert list(await publisher.publish(bodies(2))) == [12, 13]
    await publisher.flush(PATIENCE)
    assert sorted(told) == [5, 10, 11, 12, 13]
    await publisher.close()


async def test_ids_of_a_range_with_steps(client: Client, stream: str) -> None:
    told: list[int] = []
    publisher = await client.publisher(stream, listener=lambda outcome: told.extend(outcome.publishing_ids))
    for start in range(0, 3000, 300):
        await publisher.publish(bodies(100), publishing_ids=range(start, start + 300, 3))
    # As a broker may confirm them: one by one, in any order.
    await publisher.flush(PATIENCE)
    assert sorted(told) == list(range(0, 3000, 3))
    await publisher.close()
    assert publisher.confirmed == 1000


async def test_single_confirms_of_a_range_with_steps(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, max_in_flight=1)
    told: list[int] = []
    inside.listen(publisher, lambda outcome: told.extend(outcome.publishing_ids))
    inside.mute(publisher)  # only the test confirms
    await publisher.publish([b"a"], publishing_ids=[1])
    publisher.on_confirmed([1])
    inside.bound(publisher, 100)
    await publisher.publish(bodies(3), publishing_ids=range(2, 8, 2))
    publisher.on_confirmed([4])
    assert told == [1, 4]
    publisher.on_confirmed([6, 2])
    assert sorted(told) == [1, 2, 4, 6]
    assert publisher.confirmed == 4
    assert publisher.in_flight == 0
    await publisher.close()


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], range(2, 0, -1)])
async def test_ids_must_grow(client: Client, stream: str, ids: list[int]) -> None:
    publisher = await client.publisher(stream)
    with pytest.raises(ValueError, match="must grow"):
        await publisher.publish(bodies(2), publishing_ids=ids)
    with pytest.raises(ValueError, match="1 publishing ids for 2"):
        await publisher.publish(bodies(2), publishing_ids=[1])
    await publisher.close()


@pytest.mark.parametrize("ids", [[-1], [2**64]])
async def test_an_id_that_is_no_u64(client: Client, stream: str, ids: list[int]) -> None:
    publisher = await client.publisher(stream)
    with pytest.raises(ValueError, match="publishing id"):
        await publisher.publish([b"x"], publishing_ids=ids)
    assert publisher.published == 0
    await publisher.publish([b"y"], publishing_ids=[2**64 - 1])
    await publisher.close()
    assert publisher.confirmed == 1


async def test_repeated_ids_wait_for_the_first_ones(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, "writer")
    for _ in range(3):
        await publisher.publish([b"first"], publishing_ids=[7])
    await publisher.close()
    assert publisher.confirmed == 3
    assert await read(client, stream, 1) == {0: b"first"}
    assert await client.last_offset(stream) == 0


async def test_deduplication_across_publishers(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, "writer")
    assert publisher.next_publishing_id == 1
    await publisher.publish([b"1", b"2", b"3"])
    await publisher.close()
    again = await client.publisher(stream, "writer")
    assert again.next_publishing_id == 4
    await again.publish([b"2", b"3", b"4", b"5"], publishing_ids=[2, 3, 4, 5])
    await again.close()
    assert again.confirmed == 4
    other = await client.publisher(stream, "another")
    assert other.next_publishing_id == 1
    await other.publish([b"other"])
    await other.close()
    assert list((await read(client, stream, 6)).values()) == [b"1", b"2", b"3", b"4", b"5", b"other"]


async def test_without_a_name_nothing_is_deduplicated(client: Client, stream: str) -> None:
    for _ in range(2):
        publisher = await client.publisher(stream)
        assert publisher.next_publishing_id == 1
        await publisher.publish([b"same"])
        await publisher.close()
    assert await client.last_offset(stream) == 1


# Sub-entries.


@pytest.mark.parametrize("compression", CompressionType)
async def test_sub_entries(client: Client, stream: str, compression: CompressionType) -> None:
    outcomes: list[Outcome] = []
    publisher = await client.publisher(stream, listener=outcomes.append)
    messages = [b"", *bodies(500, "message "), bytes(20_000)]
    assert await publisher.publish_sub_entry(messages, compression) == 1
    await publisher.publish([b"after"])
    await publisher.flush(PATIENCE)
    assert publisher.confirmed == publisher.published == 503
    assert sorted(i for outcome in outcomes for i in outcome.publishing_ids) == [1, 2]
    await publisher.close()
    assert list((await read(client, stream, 503)).values()) == [*messages, b"after"]


async def test_a_sub_entry_of_65535_messages(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    with pytest.raises(ValueError, match="1 to 65535 messages, not 65536"):
        await publisher.publish_sub_entry([b""] * 65536)
    with pytest.raises(ValueError, match="not 0"):
        await publisher.publish_sub_entry([])
    await publisher.publish_sub_entry([b""] * 65535, CompressionType.Gzip)
    await publisher.close()
    assert publisher.confirmed == 65535
    assert await client.last_offset(stream) == 65534


async def test_sub_entries_of_random_bytes(client: Client, stream: str) -> None:
    chance = random.Random(3)
    publisher = await client.publisher(stream)
    everything: list[bytes] = []
    for number in range(20):
        messages = [chance.randbytes(chance.randrange(200)) for _ in range(1 + chance.randrange(50))]
        await publisher.publish_sub_entry(messages, CompressionType(number % 5))
        everything += messages
    await publisher.close()
    assert list((await read(client, stream, len(everything))).values()) == everything
    assert len(join_sub_batch(everything)) == sum(map(len, everything)) + 4 * len(everything)


# Bounds.


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1500])
async def test_the_number_in_flight_is_bounded(client: Client, stream: str, limit: int) -> None:
    seen: list[int] = []
    publisher = await client.publisher(stream, max_in_flight=limit)
    loop = asyncio.get_running_loop()
    inside.watch_frames(publisher, lambda: loop.call_soon(lambda: seen.append(publisher.in_flight)))
    messages = bodies(limit * 5 + 3)
    await asyncio.gather(publisher.publish(messages), publisher.publish(messages))
    await publisher.close()
    assert publisher.confirmed == 2 * len(messages)
    assert max(seen) <= limit
    assert list((await read(client, stream, 2 * len(messages))).values()) == messages * 2


@pytest.mark.parametrize("limit", [1, 1000, 300_000])
async def test_the_bytes_in_flight_are_bounded(client: Client, stream: str, limit: int) -> None:
    seen: list[tuple[int, int]] = []
    publisher = await client.publisher(stream, max_in_flight_bytes=limit)
    loop = asyncio.get_running_loop()
    inside.watch_frames(
        publisher, lambda: loop.call_soon(lambda: seen.append((publisher.in_flight_bytes, publisher.in_flight)))
    )
    messages = [bytes(400)] * max(20, limit // 100)
    await publisher.publish(messages)
    await publisher.close()
    assert publisher.confirmed == len(messages)
    # One message may always be in flight, however large.
    assert all(size <= limit or count == 1 for size, count in seen)


async def test_a_sub_entry_beyond_the_bound_goes_alone(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, max_in_flight=10)
    for _ in range(3):
        await publisher.publish_sub_entry(bodies(50))
        assert publisher.in_flight <= 50
    await publisher.close()
    assert publisher.confirmed == 150


async def test_a_cancelled_publish_has_published_a_part(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, max_in_flight=50)
    task = asyncio.create_task(publisher.publish(bodies(100_000)))
    while publisher.confirmed == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count = publisher.published
    assert 0 < count < 100_000
    assert balanced(publisher)
    await publisher.publish([b"next"])
    await publisher.close()
    assert publisher.confirmed == publisher.published == count + 1
    found = list((await read(client, stream, count + 1)).values())
    assert found == [*bodies(count), b"next"]


async def test_flush_is_bounded(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    inside.mute(publisher)  # confirms go nowhere
    await publisher.publish(bodies(10))
    with pytest.raises(RequestTimeout, match=r"not confirmed within 0\.1 s: 10$"):
        await publisher.flush(0.1)
    assert publisher.in_flight == 10
    failed: list[Outcome] = []
    inside.listen(publisher, failed.append)
    await publisher.close(0.1)
    assert (publisher.confirmed, publisher.failed, publisher.in_flight) == (0, 10, 0)
    assert [message.publishing_id for outcome in failed for message in outcome.failed] == list(range(1, 11))


async def test_a_publisher_that_is_not_confirmed_in_time_ends(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream, confirm_timeout=0.2)
    inside.mute(publisher)
    await publisher.publish(bodies(10))
    await publisher.flush(PATIENCE)
    assert publisher.failed == 10
    with pytest.raises(NotConfirmed, match=r"did not confirm within 0\.2 s"):
        await publisher.publish([b"x"])
    other = await client.publisher(stream)  # keeps the connection
    await publisher.close()
    again = await client.publisher(stream)
    assert (inside.connection(again), inside.lease_id(again)) == (
        inside.connection(publisher),
        inside.lease_id(publisher),
    )
    await again.publish([b"y"])
    await again.close()
    assert again.confirmed == 1
    await other.close()


async def test_use_after_close(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    await publisher.close()
    with pytest.raises(AlreadyClosed, match=stream):
        await publisher.publish([b"x"])
    with pytest.raises(AlreadyClosed):
        await publisher.publish_sub_entry([b"x"])


async def test_a_listener_that_raises(client: Client, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    def listener(outcome: Outcome) -> None:
        raise RuntimeError("a mistake of the application")

    publisher = await client.publisher(stream, listener=listener)
    await publisher.publish(bodies(10))
    await publisher.close()
    assert publisher.confirmed == 10
    assert "a mistake of the application" in caplog.text


async def test_300_publishers(client: Client, stream: str) -> None:
    publishers = await asyncio.gather(*(client.publisher(stream) for _ in range(300)))
    connections = Counter(inside.connection(publisher) for publisher in publishers)
    assert sorted(connections.values()) == [44, 256]
    await asyncio.gather(*(publisher.publish([b"a", b"b"]) for publisher in publishers))
    await asyncio.gather(*(publisher.close() for publisher in publishers))
    assert sum(publisher.confirmed for publisher in publishers) == 600
    assert await client.last_offset(stream) == 599
    assert not any(connection.is_open for connection in connections)
    one = await client.publisher(stream)
    assert inside.lease_id(one) == 0
    await one.close()


async def test_publishers_by_connection(client: Client, stream: str) -> None:
    async with Client(client.options, max_publishers_by_connection=2) as few:
        publishers = [await few.publisher(stream) for _ in range(5)]
        assert len({inside.connection(publisher) for publisher in publishers}) == 3
        await publishers[0].close()
        again = await few.publisher(stream)
        assert inside.connection(again) is inside.connection(publishers[1])
        assert inside.lease_id(again) == 0
        for publisher in [*publishers, again]:
            await publisher.close()


async def test_very_many_batches_in_flight(client: Client, stream: str) -> None:
    """Each of one message: what a confirm costs must not grow with their number."""
    publisher = await client.publisher(stream)
    async with asyncio.timeout(2 * PATIENCE):
        for message in bodies(15_000):
            await publisher.publish([message])
        await publisher.flush()
    assert (publisher.confirmed, publisher.failed, publisher.in_flight_bytes) == (15_000, 0, 0)
    await publisher.close()


async def test_a_cancelled_publisher_leaves_its_id_to_others(client: Client, stream: str) -> None:
    kept = await client.publisher(stream)  # whose connection the others share
    for _ in range(20):
        opening = asyncio.create_task(client.publisher(stream, "reference"))
        await asyncio.sleep(0.001)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().close()
        await publish(client, stream, [b"x"])
    pool = inside.publishing(client)
    (shared,) = next(iter(inside.shared(pool).values()))  # one connection had room for all of them
    await eventually(lambda: shared.ids == {inside.lease_id(kept)})  # a goodbye may be under way
    assert (shared.lost, list(shared.connection.publishers.values())) == (0, [kept])
    last = await client.publisher(stream, "reference")  # the broker has it free too
    assert inside.connection(last) is inside.connection(kept)
    assert inside.lease_id(last) == inside.lease_id(kept) + 1
    for publisher in (kept, last):
        await publisher.publish([b"y"])
        await publisher.flush(PATIENCE)
        assert (publisher.confirmed, publisher.failed) == (1, 0)
        await publisher.close()
    assert list((await read(client, stream, 22)).values()) == [b"x"] * 20 + [b"y"] * 2


async def test_a_sub_entry_that_nobody_could_read(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    with pytest.raises(MessageTooLarge, match="67108864"):
        await publisher.publish_sub_entry([bytes(33 * 2**20)] * 2, CompressionType.Gzip)
    await publisher.close()
