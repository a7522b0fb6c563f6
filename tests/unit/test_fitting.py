"""What fits a frame, and where batches are cut."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rstream_core import CompressionType
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.fitting import TooLarge, batch_ends
from rstream_core.flow.refusing import Bad
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress


def block(messages: list[bytes], filters: list[str | None] | None = None) -> Block:
    return Block(Acks(Account()), range(len(messages)), messages, filters=filters)


@pytest.mark.parametrize(
    ("sizes", "most", "most_bytes", "ends"),
    [
        ([], 3, None, []),
        ([1] * 3, 3, None, [3]),
        ([1] * 7, 3, None, [3, 6, 7]),
        ([], 3, 10, []),
        ([5, 5, 1], 3, 10, [2, 3]),
        ([5, 5, 1], 1, 10, [1, 2, 3]),
        ([50, 5, 5, 50], 3, 10, [1, 3, 4]),
        ([50, 50], 3, 10, [1, 2]),
        ([0, 0, 0, 10, 0], 9, 10, [5]),
        ([0, 0, 0, 11], 9, 10, [3, 4]),
        ([4, 4, 4, 4], 9, 9.5, [2, 4]),
    ],
)
def test_batches_end_where_one_more_would_be_too_much(
    sizes: list[int], most: int, most_bytes: float | None, ends: list[int]
) -> None:
    assert list(batch_ends([bytes(size) for size in sizes], most, most_bytes)) == ends


@pytest.mark.parametrize("seed", range(5))
def test_batches_are_as_large_as_they_may_be(seed: int) -> None:
    chance = random.Random(seed)
    messages = [bytes(chance.choice([0, 1, 30, 200])) for _ in range(500)]
    most, most_bytes = chance.randint(1, 40), chance.randint(1, 900)
    ends = list(batch_ends(messages, most, most_bytes))
    assert ends[-1] == 500
    for start, end in pairwise([0, *ends]):
        total = sum(map(len, messages[start:end]))
        assert end - start == 1 or (end - start <= most and total <= most_bytes)
        if end < 500 and end - start < most:
            assert total + len(messages[end]) > most_bytes


def test_what_is_too_large_is_found() -> None:
    find = TooLarge(lambda: 10)
    assert find(block([bytes(10), b"", bytes(10)])) == ()
    words = "11 bytes are too large; at most 10 fit"
    assert find(block([bytes(10), bytes(11), b"", bytes(11)])) == [Bad(1, words), Bad(3, words)]


def test_a_filter_value_takes_its_part_of_the_frame() -> None:
    """Two bytes for its length, and its text as UTF-8."""
    find = TooLarge(lambda: 10)
    assert find(block([bytes(10), bytes(7), bytes(6)], [None, "x", "é"])) == []
    found = find(block([bytes(8), bytes(7)], ["x", "é"]))
    assert found == [
        Bad(0, "11 bytes are too large; at most 10 fit"),
        Bad(1, "11 bytes are too large; at most 10 fit"),
    ]


def test_the_limit_is_asked_for_each_block() -> None:
    """Another node may have another one."""
    limits = iter([10, 9])
    find = TooLarge(lambda: next(limits))
    assert not find(block([bytes(10)]))
    assert find(block([bytes(10)]))


def test_a_sub_entry_has_a_longer_head_and_sizes_inside() -> None:
    find = TooLarge(lambda: 1000, CompressionType.No)
    assert find(block([bytes(1000 - 7 - 4)])) == []
    assert find(block([bytes(1000 - 7 - 4 + 1)])) == [Bad(0, "990 bytes are too large; at most 989 fit in a sub-entry")]


def test_what_compresses_well_fits() -> None:
    find = TooLarge(lambda: 1000, CompressionType.Gzip)
    noise = random.Random(1).randbytes(2000)
    size = len(compress(CompressionType.Gzip, join_sub_batch([noise])))
    assert find(block([bytes(100_000), noise])) == [
        Bad(1, f"2000 bytes take {size} once they are compressed; at most 993 fit")
    ]
    most = MAX_UNCOMPRESSED - 4
    assert find(block([bytes(most + 1)])) == [
        Bad(0, f"{most + 1} bytes are too large; at most {most} fit in a sub-entry")
    ]
