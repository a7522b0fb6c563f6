"""Finds the partition of a routing key in a super stream, and names partitions.

The hash is that of the Java, Go and Rust clients, so that all of them agree: murmur3 x86 32-bit of the key's UTF-8
bytes with their seed, taken as unsigned, modulo the number of partitions in the broker's order. The Python client
``rstream`` hashes in another way, found by running its version 1.1.1: ``python_partition_index``.
"""

from __future__ import annotations

from collections.abc import Sequence

import mmh3

from rstream_core.errors import ConfigurationError

HASH_SEED = 104729
MAX_PARTITIONS = 1000
"""The most partitions of a super stream that RabbitMQ accepts."""


def hash_key(key: str | bytes) -> int:
    """Returns the hash of a routing key, 0 to 2**32-1. For a str, it is the hash of its UTF-8 bytes."""
    return mmh3.hash(key, HASH_SEED, signed=False)


def partition_index(key: str | bytes, partitions: int) -> int:
    """Returns the position of a key's partition among ``partitions`` (1 or more), in the broker's order."""
    return hash_key(key) % partitions


def python_partition_index(key: str | bytes, partitions: int) -> int:
    """As ``partition_index``, where the Python client ``rstream`` sends the key.

    That is murmur3 x64 128-bit of the key's UTF-16 with its mark of the byte order, as it is on all usual machines:
    little-endian. Bytes count as the text that they are in UTF-8.
    """
    text = key if isinstance(key, str) else key.decode(errors="surrogateescape")
    hashed = mmh3.hash_bytes(f"\ufeff{text}".encode("utf-16-le", "surrogatepass"), HASH_SEED)
    return int.from_bytes(hashed, "little") % partitions


def partition_indexes(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Returns ``partition_index`` of each key."""
    return [mmh3.hash(key, HASH_SEED, False) % partitions for key in keys]


def python_partition_indexes(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Returns ``python_partition_index`` of each key."""
    return [python_partition_index(key, partitions) for key in keys]


def partitions_by_number(super_stream: str, count: int) -> tuple[list[str], list[str]]:
    """Returns names and binding keys of ``count`` partitions, as ``rabbitmq-streams add_super_stream --partitions``.

    Raises ``ConfigurationError`` for a count that no broker accepts.
    """
    _check_count(count)
    keys = [str(number) for number in range(count)]
    return [f"{super_stream}-{key}" for key in keys], keys


def partitions_by_keys(super_stream: str, routing_keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns names and binding keys of one partition for each key, as ``add_super_stream --routing-keys``.

    Raises ``ConfigurationError`` for no keys, too many, an empty key, or a repeated key.
    """
    _check_count(len(routing_keys))
    if not all(routing_keys):
        raise ConfigurationError("a routing key is empty")
    if len(set(routing_keys)) < len(routing_keys):
        twice = next(key for key in routing_keys if routing_keys.count(key) > 1)
        raise ConfigurationError(f"the routing key {twice!r} is there twice")
    return [f"{super_stream}-{key}" for key in routing_keys], list(routing_keys)


def _check_count(count: int) -> None:
    if not 0 < count <= MAX_PARTITIONS:
        raise ConfigurationError(f"a super stream has 1 to {MAX_PARTITIONS} partitions, not {count}")
