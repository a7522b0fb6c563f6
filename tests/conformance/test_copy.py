"""Copies of streams, on both brokers: what comes over, where a copy goes on, and when it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from rstream_core import (
    Client,
    CompressionType,
    ConfigurationError,
    ConnectionOptions,
    CopyRefused,
    NotConfirmed,
    NotCopied,
    OffsetNotFound,
    OffsetType,
    RequestTimeout,
    StreamDoesNotExist,
)
from rstream_core.protocol.chunk import PlacedChunk
from rstream_core.protocol.placed import Packed
from tests.clients import FIRST, PATIENCE, bodies, publish, publish_filtered, read


class Pair(NamedTuple):
    source: str
    target: str


@pytest.fixture
async def pair(client: Client, stream: str) -> AsyncIterator[Pair]:
    """Two empty streams."""
    target = f"{stream}-copy"
    await client.create_stream(target)
    yield Pair(stream, target)
    await client.delete_stream(target, missing_ok=True)


async def messages_of(client: Client, stream: str) -> list[bytes]:
    last = await client.last_offset(stream)
    found: list[bytes] = []
    if last is None:
        return found
    async with asyncio.timeout(PATIENCE), await client.subscribe(stream, FIRST) as subscription:
        async for chunk in subscription:
            found += chunk.messages
            if subscription.chunk_end > last:
                return found
    return found


async def sub_entries_of(client: Client, stream: str) -> list[tuple[int, int, bytes]]:
    """The codec, the number of messages and the data of each sub-entry, in a stream of one chunk or several."""
    last = await client.last_offset(stream)
    assert last is not None
    found: list[tuple[int, int, bytes]] = []
    async with await client.subscribe(stream, FIRST) as subscription:
        end = 0
        while end <= last:
            chunk = subscription.poll_whole(placed=True)
            if chunk is None:
                subscription.arrived.clear()
                await asyncio.wait_for(subscription.arrived.wait(), PATIENCE)
                continue
            assert isinstance(chunk, PlacedChunk)
            end = chunk.last_offset + 1
            packed = [stretch for stretch in chunk.messages.stretches if isinstance(stretch, Packed)]
            found += [(one.codec, len(one), one.data[one.begin : one.end]) for one in packed]
    return found


async def publish_named(client: Client, stream: str, name: str, ids: Sequence[int]) -> int:
    """Publishes a message under each id, and returns how many of them are confirmed."""
    publisher = await client.publisher(stream, name)
    await publisher.publish([b"%d" % number for number in ids], publishing_ids=ids)
    await publisher.flush(PATIENCE)
    confirmed = publisher.confirmed
    await publisher.close()
    return confirmed


async def test_all_messages_come_over_once_and_in_order(client: Client, pair: Pair) -> None:
    messages = [*bodies(3000), b"", b"x" * 200_000, *bodies(5, "later-")]
    await publish(client, pair.source, *([message] for message in messages[:3]), messages[3:])
    result = await client.copy(*pair)
    assert (result.copied, result.left_out, result.known) == (len(messages), 0, 0)
    assert await messages_of(client, pair.target) == messages
    again = await client.copy(*pair)
    assert again.copied == 0
    await publish(client, pair.source, bodies(7, "new-"))
    more = await client.copy(*pair)
    assert more.copied == 7
    assert await messages_of(client, pair.target) == messages + bodies(7, "new-")


async def test_an_empty_stream_is_copied_and_its_messages_later(client: Client, pair: Pair) -> None:
    assert (await client.copy(*pair)).copied == 0
    await publish(client, pair.source, bodies(3))
    assert (await client.copy(*pair)).copied == 3
    assert await messages_of(client, pair.target) == bodies(3)


async def test_sub_entries_go_on_whole_between_single_messages(client: Client, pair: Pair) -> None:
    publisher = await client.publisher(pair.source)
    expected: list[bytes] = []
    for number, codec in enumerate(CompressionType):
        await publisher.publish(bodies(10, f"single-{number}-"))
        await publisher.publish_sub_entry(bodies(20, f"packed-{number}-" * 5), codec)
        await publisher.publish_sub_entry([b"alone"], codec)
        expected += [*bodies(10, f"single-{number}-"), *bodies(20, f"packed-{number}-" * 5), b"alone"]
    await publisher.close()
    assert (await client.copy(*pair)).copied == len(expected)
    assert await messages_of(client, pair.target) == expected
    found = await sub_entries_of(client, pair.target)
    assert found == await sub_entries_of(client, pair.source)
    assert [(codec, count) for codec, count, _ in found] == [
        (codec.value, count) for codec in CompressionType for count in (20, 1)
    ]
    assert (await client.copy(*pair)).copied == 0


async def test_sub_entries_are_known_again_under_their_last_id(client: Client, pair: Pair) -> None:
    """Where a copy is interrupted between its sub-entries, the next one goes on at exactly that place."""
    publisher = await client.publisher(pair.source)
    for number in range(4):
        await publisher.publish_sub_entry(bodies(10, f"{number}-"), CompressionType.Gzip)
    await publisher.close()
    assert (await client.copy(*pair, until=19)).copied == 20
    assert (await client.copy(*pair)).copied == 20
    assert [count for _, count, _ in await sub_entries_of(client, pair.target)] == [10] * 4
    assert await messages_of(client, pair.target) == await messages_of(client, pair.source)


async def test_an_end_or_a_start_inside_of_a_sub_entry_splits_that_one(client: Client, pair: Pair) -> None:
    publisher = await client.publisher(pair.source)
    for number in range(3):
        await publisher.publish_sub_entry(bodies(10, f"{number}-"), CompressionType.Gzip)
    await publisher.close()
    expected = await messages_of(client, pair.source)
    assert (await client.copy(*pair, offset=5, until=13)).copied == 9
    assert await messages_of(client, pair.target) == expected[5:14]
    assert (await client.copy(*pair, offset=5)).copied == 16
    assert await messages_of(client, pair.target) == expected[5:]
    assert [count for _, count, _ in await sub_entries_of(client, pair.target)] == [10]


async def test_a_sub_entry_that_does_not_fit_a_frame_of_the_target_is_split(
    client: Client, options: ConnectionOptions, pair: Pair
) -> None:
    messages = [bytes([number]) * 900 for number in range(40)]
    publisher = await client.publisher(pair.source)
    await publisher.publish_sub_entry(messages)
    await publisher.close()
    async with Client(_with_frames(options, 8192)) as narrow:
        assert (await client.copy(*pair, to=narrow)).copied == 40
        assert await messages_of(client, pair.target) == messages
        assert await sub_entries_of(client, pair.target) == []


async def test_a_message_that_does_not_fit_a_frame_of_the_target_ends_the_copy_at_its_offset(
    client: Client, options: ConnectionOptions, pair: Pair
) -> None:
    await publish(client, pair.source, *([message] for message in (b"one", b"two", b"x" * 9000, b"four")))
    async with Client(_with_frames(options, 8192)) as narrow:
        with pytest.raises(NotCopied, match=r"offset 2 of stream .* 9000 bytes are too large"):
            await client.copy(*pair, to=narrow)
    assert await messages_of(client, pair.target) == [b"one", b"two"]
    assert (await client.copy(*pair)).copied == 2
    assert await messages_of(client, pair.target) == [b"one", b"two", b"x" * 9000, b"four"]


def _with_frames(options: ConnectionOptions, size: int) -> ConnectionOptions:
    return replace(options, frame_max=size)


async def test_a_copy_follows_and_goes_on_after_a_cancellation(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(10))
    for number in range(3):
        expected = (number + 1) * 10
        copying = asyncio.create_task(client.copy(*pair, follow=True))
        async with asyncio.timeout(PATIENCE):
            await read(client, pair.target, expected)
        if number < 2:
            await publish(client, pair.source, bodies(10, f"{number}-"))
            await read(client, pair.target, expected + 10)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
    assert await messages_of(client, pair.target) == await messages_of(client, pair.source)


# What a copy refuses, and what would be lost or doubled otherwise.


async def test_ids_below_the_last_one_are_confirmed_and_not_stored(client: Client, pair: Pair) -> None:
    """The reason for all of these refusals."""
    assert await publish_named(client, pair.target, "name", [5001]) == 1
    assert await publish_named(client, pair.target, "name", range(1, 11)) == 10
    assert await messages_of(client, pair.target) == [b"5001"]
    assert await client.query_publishing_id(pair.target, "name") == 5001
    assert await client.query_publishing_id(pair.target, "none") == 0


async def test_a_target_with_messages_of_others_is_refused(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(5))
    await publish(client, pair.target, [b"other"])
    with pytest.raises(CopyRefused, match=f"stream '{pair.target}' holds messages, and none of them under"):
        await client.copy(*pair)
    assert await messages_of(client, pair.target) == [b"other"]
    with pytest.raises(OffsetNotFound):  # nothing is left behind
        await client.query_offset(pair.source, "copy")
    assert (await client.copy(*pair, append=True)).copied == 5
    assert (await client.copy(*pair)).copied == 0  # it is known from now on
    assert await messages_of(client, pair.target) == [b"other", *bodies(5)]


async def test_the_same_name_for_another_source_is_refused(client: Client, pair: Pair) -> None:
    """Under one name, all five messages of the second source would be confirmed and dropped."""
    await publish(client, pair.source, bodies(10))
    other = f"{pair.source}-other"
    await client.create_stream(other)
    try:
        await publish(client, other, bodies(5, "other-"))
        await client.copy(*pair, name="nightly")
        with pytest.raises(
            CopyRefused, match="holds messages, and none of them under the name of this copy, 'nightly-"
        ):
            await client.copy(other, pair.target, name="nightly")
        await client.copy(other, pair.target, name="nightly", append=True)
        assert await messages_of(client, pair.target) == [*bodies(10), *bodies(5, "other-")]
        assert (await client.copy(*pair, name="nightly")).copied == 0
    finally:
        await client.delete_stream(other)


async def test_another_selection_is_another_copy(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(10))
    await client.copy(*pair, wanted=lambda message: int(message) >= 5, selection=">= 5")
    assert await messages_of(client, pair.target) == bodies(10)[5:]
    with pytest.raises(CopyRefused):  # 0 to 4 would be confirmed and dropped under the same name
        await client.copy(*pair, wanted=lambda message: int(message) < 5, selection="< 5")
    await client.copy(*pair, wanted=lambda message: int(message) < 5, selection="< 5", append=True)
    assert await messages_of(client, pair.target) == [*bodies(10)[5:], *bodies(5)]


@pytest.mark.parametrize("count", [3, 10, 30])
async def test_a_source_that_was_made_anew_is_refused(client: Client, pair: Pair, count: int) -> None:
    """Whether it is shorter now, as long, or longer: up to offset 9, all would be confirmed and dropped."""
    await publish(client, pair.source, bodies(10))
    await client.copy(*pair)
    await client.delete_stream(pair.source)
    await client.create_stream(pair.source)
    await publish(client, pair.source, bodies(count, "new-"))
    with pytest.raises(CopyRefused, match="it was deleted and made anew"):
        await client.copy(*pair)
    assert await messages_of(client, pair.target) == bodies(10)


async def test_a_target_that_was_made_anew_gets_all(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(10))
    for _ in range(2):
        await client.copy(*pair, wanted=lambda message: True, selection="all")
        await client.delete_stream(pair.target)
        await client.create_stream(pair.target)
    await client.copy(*pair, wanted=lambda message: True, selection="all", until=4)
    await client.copy(*pair, wanted=lambda message: True, selection="all")
    assert await messages_of(client, pair.target) == bodies(10)


async def test_copies_to_two_targets_know_nothing_of_each_other(client: Client, pair: Pair) -> None:
    """How far one is, and whether its source was made anew, says nothing of the other one."""
    other = f"{pair.target}-2"
    await client.create_stream(other)
    all_of_them = {"wanted": lambda message: True, "selection": "all"}
    try:
        await publish(client, pair.source, bodies(10))
        await client.copy(*pair, until=4, **all_of_them)  # type: ignore[arg-type]
        await client.copy(pair.source, other, **all_of_them)  # type: ignore[arg-type]
        await client.copy(*pair, **all_of_them)  # type: ignore[arg-type]
        assert await messages_of(client, pair.target) == bodies(10)
        await client.delete_stream(pair.source)
        await client.create_stream(pair.source)
        await publish(client, pair.source, bodies(30, "new-"))
        await client.delete_stream(other)
        await client.create_stream(other)
        await client.copy(pair.source, other, **all_of_them)  # type: ignore[arg-type]
        with pytest.raises(CopyRefused, match="it was deleted and made anew"):
            await client.copy(*pair, **all_of_them)  # type: ignore[arg-type]
    finally:
        await client.delete_stream(other)


async def test_another_start_is_refused_after_a_copy_from_the_first_message(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(10))
    await client.copy(*pair)
    with pytest.raises(CopyRefused, match=r"has a copy of .* already"):
        await client.copy(*pair, offset=5)
    with pytest.raises(CopyRefused, match=r"has a copy of .* already"):
        await client.copy(*pair, offset_type=OffsetType.NEXT)
    assert await messages_of(client, pair.target) == bodies(10)
    assert (await client.copy(*pair, offset=5, append=True)).copied == 5
    assert await messages_of(client, pair.target) == [*bodies(10), *bodies(10)[5:]]


async def test_copies_from_different_offsets_have_different_names(client: Client, pair: Pair) -> None:
    """After one from offset 5, all of 0 to 4 would be confirmed and dropped under the same name."""
    await publish(client, pair.source, bodies(10))
    await client.copy(*pair, offset=5)
    for start in ({}, {"offset": 2}):
        with pytest.raises(CopyRefused, match="holds messages"):
            await client.copy(*pair, **start)  # type: ignore[arg-type]
    assert (await client.copy(*pair, offset=5)).copied == 0
    assert await messages_of(client, pair.target) == bodies(10)[5:]


async def test_a_copy_of_a_stream_to_itself_is_refused(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(3))
    with pytest.raises(CopyRefused, match="the source and the target are the same stream"):
        await client.copy(pair.source, pair.source, append=True)
    assert await messages_of(client, pair.source) == bodies(3)


async def test_streams_that_do_not_exist(client: Client, pair: Pair) -> None:
    for names in (("missing", pair.target), (pair.source, "missing")):
        with pytest.raises(StreamDoesNotExist, match="missing"):
            await client.copy(*names)


async def test_without_the_right_to_store_an_offset_a_copy_goes_on_too(
    client: Client, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once it may: the target has its messages under the name of a copy without a mark."""

    async def store(*_: object, **__: object) -> None:
        raise RequestTimeout("it does not show")

    await publish(client, pair.source, bodies(10))
    with monkeypatch.context() as without:
        without.setattr(client, "store_offset", store)
        assert (await client.copy(*pair, until=4)).copied == 5
        assert (await client.copy(*pair, until=6)).copied == 2
    assert (await client.copy(*pair)).copied == 3
    assert await messages_of(client, pair.target) == bodies(10)
    await client.delete_stream(pair.source)
    await client.create_stream(pair.source)
    await publish(client, pair.source, bodies(3))
    with pytest.raises(CopyRefused, match="ends at offset 2, and was copied up to offset 9"):
        await client.copy(*pair)


# Looking inside.


async def test_what_is_not_wanted_stays_out_and_is_not_read_again(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(100), bodies(100))
    odd = {"wanted": lambda message: int(message) % 2 == 1, "selection": "odd"}
    result = await client.copy(*pair, **odd)  # type: ignore[arg-type]
    assert (result.copied, result.left_out) == (100, 100)
    assert await messages_of(client, pair.target) == bodies(100)[1::2] * 2
    result = await client.copy(*pair, **odd)  # type: ignore[arg-type]
    assert result.copied == 0


async def test_filter_values_are_set_anew(client: Client, options: ConnectionOptions, pair: Pair) -> None:
    await publish_filtered(options, pair.source, [("eu", b"eu-1"), (None, b"none")], [("us", b"us-2")])
    value = {"filter_value": lambda message: None if message == b"none" else message[:2].decode()}
    await client.copy(*pair, **value)  # type: ignore[arg-type]
    assert await messages_of(client, pair.target) == [b"eu-1", b"none", b"us-2"]
    third = f"{pair.target}-eu"
    await client.create_stream(third)
    try:
        result = await client.copy(pair.target, third, filter_values=["nowhere"])
        assert result.copied == 0
    finally:
        await client.delete_stream(third)


async def test_messages_are_compressed_anew(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, *([message] for message in bodies(50)), bodies(3000))
    assert (await client.copy(*pair, compression=CompressionType.Zstd, until=1000)).copied == 1001
    assert (await client.copy(*pair, compression=CompressionType.Lz4)).copied == 2049
    assert await messages_of(client, pair.target) == [*bodies(50), *bodies(3000)]
    found = await sub_entries_of(client, pair.target)
    assert sum(count for _, count, _ in found) == 3050
    assert {codec for codec, _, _ in found} == {CompressionType.Zstd.value, CompressionType.Lz4.value}


async def test_a_rate_holds_back_and_splits_no_sub_entry(client: Client, pair: Pair) -> None:
    publisher = await client.publisher(pair.source)
    for number in range(5):
        await publisher.publish_sub_entry(bodies(30, f"{number}-"))
    await publisher.close()
    begun = asyncio.get_running_loop().time()
    await client.copy(*pair, rate=500)
    assert asyncio.get_running_loop().time() - begun > 0.1
    assert [count for _, count, _ in await sub_entries_of(client, pair.target)] == [30] * 5


# Super streams.


@pytest.fixture
async def super_streams(client: Client, stream_name: str) -> AsyncIterator[tuple[str, str, str]]:
    """Empty super streams: two of three partitions, and one of two."""
    names = f"{stream_name}-a", f"{stream_name}-b", f"{stream_name}-c"
    for name, partitions in zip(names, (3, 3, 2), strict=True):
        await client.create_super_stream(name, partitions=partitions)
    yield names
    for name in names:
        await client.delete_super_stream(name, missing_ok=True)


async def messages_by_partition(client: Client, super_stream: str) -> list[list[bytes]]:
    return [await messages_of(client, partition) for partition in await client.partitions(super_stream)]


async def test_each_partition_goes_to_the_one_in_its_place(client: Client, super_streams: tuple[str, str, str]) -> None:
    source, target, two = super_streams
    for number, partition in enumerate(await client.partitions(source)):
        await publish(client, partition, bodies(10 * number + 1, f"{number}-"))
    assert (await client.copy(source, target, super_stream=True)).copied == 33
    assert await messages_by_partition(client, target) == await messages_by_partition(client, source)
    assert (await client.copy(source, target, super_stream=True)).copied == 0
    with pytest.raises(CopyRefused, match=r"has 3 partitions, and .* has 2 partitions"):
        await client.copy(source, two, super_stream=True)
    with pytest.raises(CopyRefused, match="the same stream"):
        await client.copy(source, source, super_stream=True)


async def test_messages_go_to_other_partitions_by_their_keys(
    client: Client, super_streams: tuple[str, str, str]
) -> None:
    """Each message once and in the order of its key, also where the copy goes on in the middle."""
    source, _, target = super_streams
    how = {"super_stream": True, "routing_key": lambda message: message.split(b"-")[0], "selection": "the first word"}
    partitions = await client.partitions(source)
    for round_ in range(3):
        for number, partition in enumerate(partitions):
            keys = [f"{key}:{number}" for key in range(7)]
            messages = [f"{key}-{round_}-{number}".encode() for number in range(20) for key in keys]
            await publish(client, partition, messages)
        result = await client.copy(source, target, **how)  # type: ignore[arg-type]
        assert result.copied == 3 * 140
        found = await messages_by_partition(client, target)
        assert all(found)
        assert sorted(map(len, found)) != [0, 0]
        everything = [message for lane in found for message in lane]
        assert len(everything) == len(set(everything)) == (round_ + 1) * 420
        for lane in found:
            by_key: dict[bytes, list[bytes]] = {}
            for message in lane:
                by_key.setdefault(message.split(b"-")[0], []).append(message)
            for of_key in by_key.values():
                assert of_key == sorted(of_key, key=lambda message: [int(part) for part in message.split(b"-")[1:]])
                assert len(of_key) == 20 * (round_ + 1)
    assert (await client.copy(source, target, **how)).copied == 0  # type: ignore[arg-type]


async def test_a_start_that_moves_is_refused_where_that_of_other_partitions_has_not(
    client: Client, super_streams: tuple[str, str, str]
) -> None:
    """What lies between the two starts of a partition would be left out, or be stored twice."""
    source, _, target = super_streams
    how = {"super_stream": True, "routing_key": lambda message: message, "selection": "all"}
    how["offset_type"] = OffsetType.LAST
    partitions = await client.partitions(source)
    for partition in partitions:
        await publish(client, partition, bodies(10))
    await client.copy(source, target, **how)  # type: ignore[arg-type]
    assert (await client.copy(source, target, **how)).copied == 0  # type: ignore[arg-type]
    await publish(client, partitions[1], bodies(5, "a-"), bodies(5, "b-"))
    with pytest.raises(CopyRefused, match="holds messages, and none of them"):
        await client.copy(source, target, **how)  # type: ignore[arg-type]


async def test_a_message_without_a_key_ends_the_copy(client: Client, super_streams: tuple[str, str, str]) -> None:
    source, _, target = super_streams
    partition = (await client.partitions(source))[0]
    await publish(client, partition, [b"a", b"b", b"", b"c"])
    with pytest.raises(NotCopied, match=f"offset 2 of stream '{partition}': it has no routing key"):
        await client.copy(
            source, target, super_stream=True, routing_key=lambda message: message or None, selection="all"
        )
    assert sum(map(len, await messages_by_partition(client, target))) == 2


# Arguments, and what goes wrong.


async def test_impossible_arguments(client: Client, pair: Pair) -> None:
    wrong: list[dict[str, object]] = [
        {"follow": True, "until": 3},
        {"wanted": lambda _: True},
        {"selection": "x"},
        {"match_unfiltered": True},
        {"routing_key": lambda _: "x", "selection": "x"},
        {"rate": 0},
        {"name": ""},
        {"name": "x" * 201},
        {"compression": CompressionType.Gzip, "filter_value": lambda _: "x"},
        {"super_stream": True, "until": 3},
        {"super_stream": True, "offset": 3},
        {"until": -1},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError):
            await client.copy(*pair, **arguments)  # type: ignore[arg-type]
    mistyped: list[dict[str, object]] = [{"append": "yes"}, {"wanted": 3, "selection": "x"}, {"compression": 99}]
    for arguments in mistyped:
        with pytest.raises(TypeError):
            await client.copy(*pair, **arguments)  # type: ignore[arg-type]


async def test_names_of_255_bytes(client: Client, stream_name: str) -> None:
    source = (stream_name + "é" * 255)[:200].encode()[:255].decode(errors="ignore")
    target = source[:-1] + "x"
    for name in (source, target):
        await client.create_stream(name)
    try:
        await publish(client, source, bodies(3))
        assert (await client.copy(source, target)).copied == 3
        assert (await client.copy(source, target)).copied == 0
    finally:
        for name in (source, target):
            await client.delete_stream(name)


async def test_what_a_function_raises_ends_the_copy_and_leaves_what_was_copied(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, *([message] for message in bodies(10)))

    def wanted(message: bytes) -> bool:
        if message == b"7":
            raise ZeroDivisionError
        return True

    with pytest.raises(ZeroDivisionError):
        await client.copy(*pair, wanted=wanted, selection="all")
    await client.copy(*pair, wanted=lambda _: True, selection="all")
    assert await messages_of(client, pair.target) == bodies(10)


async def test_a_target_that_is_deleted_ends_the_copy(client: Client, pair: Pair) -> None:
    await publish(client, pair.source, bodies(10))
    copying = asyncio.create_task(client.copy(*pair, follow=True))
    await read(client, pair.target, 10)
    await client.delete_stream(pair.target)
    await publish(client, pair.source, bodies(10))
    with pytest.raises((StreamDoesNotExist, NotConfirmed)):
        await asyncio.wait_for(copying, PATIENCE)
