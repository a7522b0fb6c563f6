"""The broker's fast paths, held against the general codec."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.broker import bloom
from rstream_core.broker.holes import Hole
from rstream_core.broker.log import Log
from rstream_core.broker.publishing import Entries, split_filtered, split_publish, without_repeats
from rstream_core.broker.writer import Fsync, Totals, Writer
from rstream_core.errors import ProtocolError
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import HEADER, MAGIC_AND_VERSION, parse_chunk

ids = st.integers(0, 2**64 - 1)
messages = st.builds(c.PublishedMessage, ids, st.binary(max_size=40))


@st.composite
def sub_batches(draw: st.DrawFn) -> c.PublishedSubBatch:
    inner = draw(st.lists(st.binary(max_size=10), min_size=1, max_size=5))
    data = b"".join(len(body).to_bytes(4) + body for body in inner)
    return c.PublishedSubBatch(draw(ids), 0, len(inner), len(data), data)


def messages_in(entries: list[bytes], records: int) -> list[bytes]:
    """Of a chunk with these entries, each with its size."""
    head = HEADER.pack(MAGIC_AND_VERSION, 0, len(entries), records, 0, 1, 0, 0, sum(map(len, entries)), 0, 0)
    return parse_chunk(head + b"".join(entries), verify_crc=False)[1]


def frame_of(message: object) -> bytes:
    return c.encode(message)[4:]


@given(st.lists(messages | sub_batches(), max_size=20))
def test_a_publish_is_cut_as_the_codec_reads_it(entries: list[c.PublishedMessage | c.PublishedSubBatch]) -> None:
    frame = frame_of(c.Publish(3, entries))
    found = split_publish(frame)
    assert [int.from_bytes(one) for one in found.ids] == [entry.publishing_id for entry in entries]
    assert found.refused == ()
    records = found.records or [1] * len(found.data)
    expected: list[bytes] = []
    for entry in entries:
        if isinstance(entry, c.PublishedMessage):
            expected.append(entry.data)
        else:
            at = 0
            for _ in range(entry.records):
                size = int.from_bytes(entry.data[at : at + 4])
                expected.append(entry.data[at + 4 : at + 4 + size])
                at += 4 + size
    assert messages_in(found.data, sum(records)) == expected
    assert sum(records) == len(expected)


@given(
    st.lists(st.builds(c.FilteredMessage, ids, st.none() | st.text(max_size=5), st.binary(max_size=40)), max_size=20)
)
def test_a_filtered_publish_is_cut_as_the_codec_reads_it(entries: list[c.FilteredMessage]) -> None:
    found = split_filtered(frame_of(c.PublishFiltered(3, entries)))
    assert [int.from_bytes(one) for one in found.ids] == [entry.publishing_id for entry in entries]
    assert messages_in(found.data, len(entries)) == [entry.data for entry in entries]
    assert found.filters == [entry.filter_value or "" for entry in entries]


@given(st.lists(messages | sub_batches(), min_size=1, max_size=5), st.data())
def test_a_cut_off_publish_is_no_protocol(
    entries: list[c.PublishedMessage | c.PublishedSubBatch], data: st.DataObject
) -> None:
    frame = frame_of(c.Publish(3, entries))
    whole = {9}
    for entry in entries:
        whole.add(max(whole) + len(frame_of(c.Publish(3, [entry]))) - 9)
    size = data.draw(st.integers(9, len(frame) - 1))
    if size in whole:
        assert len(split_publish(frame[:size]).ids) < len(entries)
    else:
        with pytest.raises(ProtocolError):
            split_publish(frame[:size])


@given(st.lists(st.integers(0, 20), max_size=30), st.none() | st.integers(0, 20))
def test_repeats_are_those_that_do_not_grow(numbers: list[int], before: int | None) -> None:
    entries = Entries([number.to_bytes(8) for number in numbers], [bytes([number]) for number in numbers])
    kept, repeated = without_repeats(entries, b"" if before is None else before.to_bytes(8))
    expected: list[int] = []
    top = -1 if before is None else before
    for number in numbers:
        if number > top:
            expected.append(number)
            top = number
    assert [int.from_bytes(one) for one in kept.ids] == expected
    assert [data[0] for data in kept.data] == expected
    assert len(repeated) == len(numbers) - len(expected)


@given(st.sets(st.text(max_size=10), min_size=1, max_size=20), st.integers(16, 255))
def test_a_filter_holds_what_it_was_built_from(values: set[str], size: int) -> None:
    bits = bloom.build(values, size)
    assert len(bits) == size
    assert all(bloom.may_hold(bits, value) for value in values)


def test_a_filter_is_seldom_wrong() -> None:
    bits = bloom.build({f"value-{number}" for number in range(5)}, 16)
    wrong = sum(bloom.may_hold(bits, f"other-{number}") for number in range(1000))
    assert wrong < 20


class Answers:
    """A publisher of one name, and what it was told of each id last."""

    def __init__(self) -> None:
        self.reference = "writer"
        self.told: dict[int, bool] = {}

    def confirm(self, ids: Sequence[bytes]) -> None:
        self.told.update((int.from_bytes(one), True) for one in ids)

    def reject(self, ids: Sequence[bytes], code: int) -> None:
        self.told.update((int.from_bytes(one), False) for one in ids)

    def hold(self) -> None: ...
    def release(self) -> None: ...


class Frame(NamedTuple):
    publisher: int
    ids: list[int]
    is_stored: bool
    """Whether the disk takes it."""


@given(
    st.lists(
        st.builds(Frame, st.integers(0, 1), st.lists(st.integers(1, 12), min_size=1, max_size=5), st.booleans()),
        max_size=25,
    ),
    st.integers(1, 3),
)
def test_no_id_is_confirmed_that_is_not_stored(frames: list[Frame], max_runs: int) -> None:
    """Whatever is published again, in any order, by several publishers of a name, on a disk that is full at times.

    Within a frame ids grow: RabbitMQ drops one that does not, and confirms it, whether it was stored or not.
    """
    stored: set[int] = set()
    rejected: set[int] = set()

    async def run(directory: str) -> None:
        with ThreadPoolExecutor(1) as executor:
            log = Log.create(Path(directory))
            writer = Writer(log, Fsync.NEVER, executor, lambda: None, lambda now: None, Totals())
            publishers = Answers(), Answers()
            for publisher, numbers, is_stored in frames:
                ids = sorted(set(numbers))
                last, before = log.tracking.sequence("writer"), log.next_offset
                with mock.patch.object(log, "append", log.append if is_stored else full):
                    writer.publish(publishers[publisher], entries_of(ids))
                    writer.flush()
                stored.update([one for one in ids if one > last][: log.next_offset - before])
                for one in ids:
                    if publishers[publisher].told[one]:
                        assert one in stored or (one < last and one not in rejected)  # it was left out
                    else:
                        rejected.add(one)
                assert all(one > log.tracking.sequence("writer") for one in rejected - stored)
            log.close()

    with mock.patch("rstream_core.broker.holes.MAX_RUNS", max_runs), tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(directory))


def entries_of(numbers: Sequence[int]) -> Entries:
    return Entries([one.to_bytes(8) for one in numbers], [b"\0\0\0\1x"] * len(numbers))


def full(*_: object, **__: object) -> int:
    raise OSError(28, "No space left on device")


growing = st.sets(st.integers(0, 15), max_size=6).map(sorted)


@given(st.lists(st.tuples(st.sampled_from(["reject", "publish", "ask"]), growing), max_size=20))
def test_a_hole_is_the_set_of_ids_that_are_missing(steps: list[tuple[str, list[int]]]) -> None:
    """In whatever order they go missing: ids are admitted up to the lowest of them, and those are missing no more."""
    hole, publisher = Hole(), Answers()
    missing: set[int] = set()
    has_asked = False
    for what, numbers in steps:
        ids = [number.to_bytes(8) for number in numbers]
        if what == "ask":
            hole.release(publisher)
            has_asked = True
        elif what == "reject":
            hole.add(publisher, ids)
            missing.update(numbers)
            has_asked = False
        elif has_asked:
            assert hole.admit(publisher, ids) == len(ids)
            missing = {number for number in missing if not numbers or number > numbers[-1]}
        else:
            expected = 0
            for number in numbers:
                if missing and number > min(missing):
                    break
                missing.discard(number)
                expected += 1
            assert hole.admit(publisher, ids) == expected
        assert bool(hole) is bool(missing)


@given(st.lists(st.integers(0, 9), max_size=15))
def test_ids_are_filled_from_the_lowest_on(rejected: list[int]) -> None:
    """One by one, however they went missing: before others, behind them, between them, or again."""
    hole, publisher, missing = Hole(), Answers(), set(rejected)
    for number in rejected:
        hole.add(publisher, [number.to_bytes(8)])
    for lowest in sorted(missing):
        assert hole
        assert hole.admit(publisher, [(lowest + 1).to_bytes(8)]) == 0
        assert hole.admit(publisher, [lowest.to_bytes(8)]) == 1
    assert not hole


@pytest.mark.parametrize(
    ("max_runs", "rejected"),
    [
        (1, [0, 1, 2, 3]),
        (1, [3, 2, 1, 0]),
        (1, [1, 2, 0, 3]),
        (1, [2, 1, 3, 0, 2]),
        (2, [0, 2, 1, 4, 3]),
        (2, [4, 5, 1, 0, 2, 3]),
    ],
)
def test_ids_that_follow_one_another_are_remembered_in_one_place(max_runs: int, rejected: list[int]) -> None:
    """In whatever order they went missing; so all of them can be filled, however few runs are remembered."""
    with mock.patch("rstream_core.broker.holes.MAX_RUNS", max_runs):
        hole, publisher = Hole(), Answers()
        for number in rejected:
            hole.add(publisher, [number.to_bytes(8)])
        for number in sorted(set(rejected)):
            assert hole.admit(publisher, [number.to_bytes(8)]) == 1
        assert not hole


@pytest.mark.parametrize("passed", [1, 3, 5, 6])
def test_who_has_asked_leaves_what_it_has_not_passed_missing(passed: int) -> None:
    """Others fill that from there on: also the rest of a run of ids."""
    hole, publisher, other = Hole(), Answers(), Answers()
    hole.add(publisher, [number.to_bytes(8) for number in (1, 2, 3, 4, 5, 9)])
    hole.release(publisher)
    assert hole.admit(publisher, [passed.to_bytes(8)]) == 1
    for number in (1, 2, 3, 4, 5, 9):
        if number > passed:
            assert hole
            assert hole.admit(other, [(number + 1).to_bytes(8)]) == 0
            assert hole.admit(other, [number.to_bytes(8)]) == 1
    assert not hole


@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 40), min_size=1, max_size=25),
    st.lists(st.integers(0, 40), min_size=1, max_size=25),
)
def test_more_holes_than_are_remembered_count_as_one_up_to_the_highest(
    max_runs: int, rejected: list[int], asked: list[int]
) -> None:
    """An id behind a missing one is refused to who has not asked; who has fills it by passing the highest one."""
    with mock.patch("rstream_core.broker.holes.MAX_RUNS", max_runs):
        hole, publisher, other = Hole(), Answers(), Answers()
        hole.add(publisher, [number.to_bytes(8) for number in rejected])
        for number in asked:
            if number > min(rejected):
                assert hole.admit(other, [number.to_bytes(8)]) == 0
        hole.release(publisher)
        for number in sorted(asked):
            assert hole.admit(publisher, [number.to_bytes(8)]) == 1
            assert bool(hole) is (number < max(rejected))
