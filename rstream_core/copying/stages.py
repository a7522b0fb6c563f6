"""The stages of a copy that look at all messages of a block: ids, keys, filter values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from rstream_core.flow.block import Block
from rstream_core.flow.refusing import Bad


def number(block: Block) -> Block:
    """The stage that gives each message its publishing id."""
    positions = block.positions
    if type(positions) is range:
        return replace(block, ids=range(positions.start + 1, positions.stop + 1))
    return replace(block, ids=[position + 1 for position in positions])


def add_filters(filters_of: Callable[[Block], Sequence[str | None]], block: Block) -> Block:
    return replace(block, filters=filters_of(block))


def add_keys(keys_of: Callable[[Block], Sequence[bytes | None]], block: Block) -> Block:
    keys = keys_of(block)
    if None not in keys:
        return replace(block, keys=cast("Sequence[bytes]", keys))
    missing = {position for position, key in zip(block.positions, keys, strict=True) if key is None}
    known = [key or b"" for key in keys]
    return replace(block, keys=known, unreadable=missing.union(block.unreadable))


def without_key(block: Block) -> Sequence[Bad]:
    return [Bad(bad.place, "it has no routing key") for bad in unreadable(block)]


def unreadable(block: Block) -> Sequence[Bad]:
    if not block.unreadable:
        return ()
    places = [place for place, position in enumerate(block.positions) if position in block.unreadable]
    return [Bad(place, "it cannot be read, so nobody knows whether it is wanted") for place in places]
