"""Which partition a routing key belongs to: agreed with the Java, Go and Rust clients to the bit."""

from __future__ import annotations

import random

import pytest

from rstream_core import ConfigurationError
from rstream_core.protocol.routing import (
    HASH_SEED,
    MAX_PARTITIONS,
    hash_key,
    partition_index,
    partitions_by_keys,
    partitions_by_number,
    python_partition_index,
)


def murmur3(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 as Austin Appleby describes it, unsigned; written for this test."""
    mask = 0xFFFFFFFF

    def turned(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & mask

    def mixed(block: int) -> int:
        return turned(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask

    state = seed
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        state = (turned(state ^ mixed(int.from_bytes(data[at : at + 4], "little")), 13) * 5 + 0xE6546B64) & mask
    state ^= mixed(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


@pytest.mark.parametrize(
    ("key", "expected"),
    [("hello", 1321743225), ("brave", 3825276426), ("new", 2970740106), ("world", 2453398188)],
)
def test_hashes_of_the_other_clients(key: str, expected: int) -> None:
    assert hash_key(key) == hash_key(key.encode()) == murmur3(key.encode(), HASH_SEED) == expected


@pytest.mark.parametrize(("key", "index"), [("hello1", 1), ("hello2", 0), ("hello4", 2)])
def test_partitions_of_the_other_clients(key: str, index: int) -> None:
    assert partition_index(key, 3) == index


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 100])
def test_10_000_random_keys(partitions: int) -> None:
    chance = random.Random(partitions)
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_. äßéλж日本🐇\0"
    high = 0
    for _ in range(10_000):
        key = "".join(chance.choices(alphabet, k=chance.randrange(24)))
        expected = murmur3(key.encode(), HASH_SEED)
        high += expected >= 2**31
        assert partition_index(key, partitions) == expected % partitions, key
    assert high > 4000  # where a signed remainder would differ


def test_random_bytes() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        key = chance.randbytes(chance.randrange(40))
        assert hash_key(key) == murmur3(key, HASH_SEED)


def test_names_of_partitions() -> None:
    assert partitions_by_number("orders", 3) == (["orders-0", "orders-1", "orders-2"], ["0", "1", "2"])
    assert partitions_by_keys("größe", ["eu", "日本"]) == (["größe-eu", "größe-日本"], ["eu", "日本"])


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_counts_that_no_broker_takes(count: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 1000"):
        partitions_by_number("orders", count)


@pytest.mark.parametrize(
    ("keys", "words"), [([], "1 to 1000"), (["a", ""], "empty"), (["a", "b", "a"], "'a' is there")]
)
def test_keys_that_cannot_be(keys: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        partitions_by_keys("orders", keys)


def test_a_thousand_partitions_and_no_more() -> None:
    names, keys = partitions_by_number("s", MAX_PARTITIONS)
    assert (len(names), names[-1], keys[-1]) == (1000, "s-999", "999")
    assert partitions_by_number("s", 1) == (["s-0"], ["0"])
    assert len(partitions_by_keys("s", [str(number) for number in range(1000)])[0]) == 1000
    for count in (0, 1001):
        with pytest.raises(ConfigurationError, match="1 to 1000 partitions"):
            partitions_by_keys("s", [str(number) for number in range(count)])


@pytest.mark.parametrize(
    ("key", "of_3", "of_7"),
    [
        ("", 2, 5),
        ("a", 1, 6),
        ("key-0", 1, 2),
        ("key-1", 0, 2),
        ("key-2", 2, 0),
        ("größe", 0, 2),
        ("日本", 1, 5),
        ("emoji 😀", 2, 4),
        ("x" * 200, 1, 3),
        ("invoice-42", 1, 5),
    ],
)
def test_partitions_of_the_python_client(key: str, of_3: int, of_7: int) -> None:
    """As its version 1.1.1 chose them, when it was run."""
    assert python_partition_index(key, 3) == python_partition_index(key.encode(), 3) == of_3
    assert python_partition_index(key, 7) == of_7
    assert python_partition_index(key, 1) == 0


def test_bytes_that_are_no_text_have_a_partition() -> None:
    assert python_partition_index(b"\xff\x00", 1000) == python_partition_index(b"\xff\x00", 1000)


def test_the_two_hashes_agree_by_chance_only() -> None:
    keys = [f"key-{number}" for number in range(300)]
    assert sum(partition_index(key, 3) == python_partition_index(key, 3) for key in keys) == 103
