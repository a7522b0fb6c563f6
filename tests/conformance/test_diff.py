"""``Client.diff`` on both brokers. tests/property/test_diffing.py has what is found in any two lists of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from rstream_core import (
    AlreadyClosed,
    AMQPMessage,
    Client,
    CompressionType,
    ConfigurationError,
    ConnectionOptions,
    DiffCounts,
    Difference,
    OffsetType,
    StreamDoesNotExist,
)
from rstream_core.flow.stream_source import StreamSource
from tests.clients import PATIENCE, publish

KINDS = {name: getattr(CompressionType, name) for name in ("No", "Gzip", "Snappy", "Lz4", "Zstd")}


@pytest.fixture
async def other(client: Client, stream_name: str) -> AsyncIterator[str]:
    """A second empty stream."""
    name = f"{stream_name}-other"
    await client.create_stream(name)
    yield name
    await client.delete_stream(name, missing_ok=True)


async def found_in(client: Client, a: str, b: str, **options: Any) -> tuple[list[Difference], DiffCounts]:
    async with asyncio.timeout(PATIENCE), client.diff(a, b, **options) as diff:
        found = [difference async for difference in diff]
        assert diff.is_complete
        assert diff.is_equal == (not found)
    return found, diff.counts


def lines(differences: Sequence[Difference]) -> list[str]:
    """What was found, in short."""
    told = []
    for one in differences:
        sides = [f"{name}{span.first}-{span.last}" for name, span in (("a", one.a), ("b", one.b)) if span is not None]
        told.append(" ".join([str(one.kind), *sides, f"x{one.count}", *one.sections]))
    return told


def messages(*numbers: int, **sections: Any) -> list[bytes]:
    return [AMQPMessage(b"message %d" % number, **sections).encode() for number in numbers]


async def test_equal_streams_in_other_chunks(client: Client, stream: str, other: str) -> None:
    whole = messages(*range(3000))
    async with asyncio.timeout(PATIENCE):
        publisher = await client.publisher(stream)
        await publisher.publish(whole)  # a message is an entry, and the broker makes chunks as it likes
        await publisher.flush(PATIENCE)
        await publisher.close()
    await publish(client, other, whole[:7], whole[7:1900], whole[1900:])
    found, counts = await found_in(client, stream, other)
    assert found == []
    assert counts == DiffCounts(a=3000, b=3000, equal=3000)


@pytest.mark.parametrize("sections", [{}, {"application_properties": {"n": 1}}], ids=["plain", "with headers"])
async def test_each_kind_is_named(client: Client, stream: str, other: str, sections: dict[str, Any]) -> None:
    """One changed byte, one missing, one doubled, two swapped messages."""
    whole = messages(*range(3000), **sections)
    edited = list(whole)
    edited[500] = edited[500][:-1] + b"!"
    edited[2400], edited[2405] = edited[2405], edited[2400]
    edited.insert(1800, edited[1799])
    del edited[1100]
    await publish(client, stream, whole)
    await publish(client, other, edited[:1234], edited[1234:])
    found, counts = await found_in(client, stream, other)
    assert sorted(lines(found)) == [
        "changed a500-500 b500-500 x1 body",
        "doubled b1799-1799 x1",
        "missing a1100-1100 x1",
        "moved a2400-2400 b2405-2405 x1",
        "moved a2405-2405 b2400-2400 x1",
    ]
    assert counts == DiffCounts(3000, 3000, equal=2996, changed=1, missing_in_b=1, doubled_in_b=1, moved=2)
    assert counts.different == 5
    [missing] = [one for one in found if one.kind == "missing"]
    assert (missing.side, missing.before, missing.b) == ("b", 1100, None)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_sub_entry_is_what_it_holds(client: Client, stream: str, other: str, kind: str) -> None:
    whole = messages(*range(500))
    await publish(client, stream, whole)
    async with asyncio.timeout(PATIENCE):
        publisher = await client.publisher(other)
        for at in range(0, 500, 120):
            await publisher.publish_sub_entry(whole[at : at + 120], KINDS[kind])
        await publisher.flush(PATIENCE)
        await publisher.close()
    assert await found_in(client, stream, other) == ([], DiffCounts(500, 500, equal=500))


async def test_sides_of_different_lengths(client: Client, stream: str, other: str) -> None:
    whole = messages(*range(100))
    await publish(client, stream, whole)
    assert await found_in(client, other, other) == ([], DiffCounts())
    found, _ = await found_in(client, stream, other)
    assert lines(found) == ["missing a0-99 x100"]
    assert (found[0].side, found[0].before) == ("b", None)
    await publish(client, other, whole[:40])
    found, counts = await found_in(client, other, stream)
    assert lines(found) == ["missing b40-99 x60"]
    assert (found[0].side, found[0].before) == ("a", None)
    assert counts == DiffCounts(40, 100, equal=40, missing_in_a=60)


async def test_where_it_begins(client: Client, stream: str, other: str) -> None:
    """Messages are compared by their order: a side that begins elsewhere may be told so."""
    whole = messages(*range(100))
    await publish(client, stream, whole)
    await publish(client, other, whole[30:])
    assert lines((await found_in(client, stream, other))[0]) == ["missing a0-29 x30"]
    assert await found_in(client, stream, other, offset=30, b_offset=0) == ([], DiffCounts(70, 70, equal=70))
    same_offsets, counts = await found_in(client, stream, stream, offset_type=OffsetType.OFFSET, offset=95)
    assert (same_offsets, counts.a) == ([], 5)
    assert (await found_in(client, stream, stream, offset=100))[1] == DiffCounts()


async def test_sections_are_left_out(client: Client, stream: str, other: str) -> None:
    await publish(client, stream, messages(*range(300), message_annotations={"x": 1}))
    await publish(client, other, messages(*range(300), message_annotations={"x": 2}))
    found, counts = await found_in(client, stream, other)
    assert {one.sections for one in found} == {("annotations",)}
    assert (counts.changed, len(found)) == (300, 300)
    assert (await found_in(client, stream, other, ignore=["annotations"]))[0] == []
    assert (await found_in(client, stream, other, ignore=["properties", "header"]))[1].changed == 300


async def test_a_stream_is_equal_to_itself_while_it_grows(client: Client, stream: str) -> None:
    """What comes after the start is nobody's, whichever end was looked up first."""
    await publish(client, stream, messages(*range(2000)))
    is_over = asyncio.Event()

    async def grow() -> None:
        publisher = await client.publisher(stream)
        number = 2000
        while not is_over.is_set():
            await publisher.publish(messages(*range(number, number + 20)))
            number += 20
            await asyncio.sleep(0)
        await publisher.flush(PATIENCE)
        await publisher.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(grow())
        try:
            for _ in range(5):
                found, counts = await found_in(client, stream, stream)
                assert found == []
                assert counts.equal >= 2000
        finally:
            is_over.set()


async def test_a_difference_comes_while_the_rest_is_read(client: Client, stream: str, other: str) -> None:
    """And what is left out by whoever has seen enough is not read."""
    whole = messages(*range(30_000))
    await publish(client, stream, whole)
    await publish(client, other, [*messages(-1), *whole[1:]])
    async with asyncio.timeout(PATIENCE), client.diff(stream, other) as diff:
        assert lines([await anext(diff)]) == ["changed a0-0 b0-0 x1 body"]
        assert not diff.is_complete
        assert not diff.is_equal
    with pytest.raises(StopAsyncIteration):
        await anext(diff)
    with pytest.raises(AlreadyClosed):
        async with diff:
            pass


async def test_a_cancelled_wait_loses_nothing(client: Client, stream: str, other: str) -> None:
    whole = messages(*range(3000))
    await publish(client, stream, whole)
    await publish(client, other, [*whole[:1000], *messages(-1), *whole[1001:]])
    found = []
    async with asyncio.timeout(PATIENCE), client.diff(stream, other) as diff:
        for turns in range(1_000_000):
            waiting = asyncio.ensure_future(anext(diff))
            for _ in range(turns % 13):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                found.append(await waiting)
            except asyncio.CancelledError:
                continue
            except StopAsyncIteration:
                break
    assert lines(found) == ["changed a1000-1000 b1000-1000 x1 body"]
    assert (diff.counts.equal, diff.is_complete) == (2999, True)


async def test_an_end_that_is_cancelled_leaves_nothing_to_be_read(
    client: Client, stream: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of either side, whichever was closed first."""
    closing = asyncio.Event()
    abandoned: list[StreamSource] = []

    async def close(source: StreamSource) -> None:
        closing.set()
        await asyncio.Event().wait()

    def abandon(source: StreamSource) -> None:
        abandoned.append(source)

    await publish(client, stream, messages(*range(10)))
    await publish(client, other, messages(-1, *range(1, 10)))
    diff = client.diff(stream, other)
    async with asyncio.timeout(PATIENCE):
        await anext(diff)
        with monkeypatch.context() as patched:
            patched.setattr(StreamSource, "close", close)
            patched.setattr(StreamSource, "abandon", abandon)
            ending = asyncio.ensure_future(diff.aclose())
            await closing.wait()
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
    assert len(set(abandoned)) == 2
    for source in abandoned:
        await source.close()


async def test_partitions_are_compared_one_by_one(client: Client, super_stream: str, stream_name: str) -> None:
    other = f"{stream_name}-other"
    await client.create_super_stream(other, partitions=3)
    try:
        for number in range(3):
            await publish(client, f"{super_stream}-{number}", messages(*range(20)))
            await publish(client, f"{other}-{number}", messages(*range(20 - number)))
        found, counts = await found_in(client, super_stream, other, super_stream=True)
        assert lines(found) == ["missing a19-19 x1", "missing a18-19 x2"]
        assert [(one.a_stream, one.b_stream) for one in found] == [
            (f"{super_stream}-1", f"{other}-1"),
            (f"{super_stream}-2", f"{other}-2"),
        ]
        assert (counts.a, counts.b) == (60, 57)
    finally:
        await client.delete_super_stream(other)


async def test_a_partition_that_is_made_anew_before_it_is_read(
    client: Client, super_stream: str, stream_name: str
) -> None:
    """On both sides: two empty streams would be the same, where those of the start were not."""
    other = f"{stream_name}-other"
    await client.create_super_stream(other, partitions=3)
    try:
        await publish(client, f"{super_stream}-0", messages(1))
        for number, name in enumerate((super_stream, other)):
            await publish(client, f"{name}-2", messages(number))
        async with asyncio.timeout(PATIENCE), client.diff(super_stream, other, super_stream=True) as diff:
            await anext(diff)  # of the first partition, when the ends of all are known
            for name in (super_stream, other):
                await client.delete_stream(f"{name}-2")
                await client.create_stream(f"{name}-2")
            with pytest.raises(StreamDoesNotExist, match=f"{super_stream}-2' does not have offset 0 any more"):
                await anext(diff)
            assert not diff.is_equal
            assert not diff.is_complete
    finally:
        await client.delete_super_stream(other)


async def test_a_stream_that_is_made_anew_while_it_is_read(
    client: Client, stream: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is waited for never comes."""
    monkeypatch.setattr("rstream_core.diffing.diff.QUIET", 0.2)
    whole = messages(*range(3000))
    for at in range(0, 3000, 100):
        await publish(client, stream, whole[at : at + 100])
    await publish(client, other, [*messages(-1), *whole[1:]])
    async with asyncio.timeout(PATIENCE), client.diff(stream, other, credit=1, window=1) as diff:
        await anext(diff)
        await client.delete_stream(stream)
        await client.create_stream(stream)
        with pytest.raises(StreamDoesNotExist, match="does not have offset 2999 any more"):
            async for _ in diff:
                pass
        assert not diff.is_complete


async def test_super_streams_of_different_sizes(client: Client, super_stream: str, stream_name: str) -> None:
    other = f"{stream_name}-other"
    await client.create_super_stream(other, partitions=2)
    try:
        with pytest.raises(ConfigurationError, match="the super streams have 3 and 2 partitions"):
            await found_in(client, super_stream, other, super_stream=True)
    finally:
        await client.delete_super_stream(other)


async def test_with_another_client(client: Client, options: ConnectionOptions, stream: str, other: str) -> None:
    await publish(client, stream, messages(1, 2))
    await publish(client, other, messages(1, 3))
    async with Client(options) as second:
        found, _ = await found_in(client, stream, other, to=second)
        assert lines(found) == ["changed a1-1 b1-1 x1 body"]
    with pytest.raises(AlreadyClosed):
        await found_in(client, stream, other, to=second)


async def test_what_cannot_be(client: Client, stream: str) -> None:
    with pytest.raises(StreamDoesNotExist, match="no-such"):
        await found_in(client, stream, "no-such")
    with pytest.raises(StreamDoesNotExist, match="no-such"):
        await found_in(client, "no-such", stream)
    for wrong in ({"ignore": ["footnote"]}, {"offset_type": OffsetType.NEXT}, {"window": 0}, {"window": 10_001}):
        with pytest.raises((ConfigurationError, ValueError)):
            client.diff(stream, stream, **wrong)
