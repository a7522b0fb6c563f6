"""What one call publishes: where it is cut for frames."""

from __future__ import annotations

import random

import pytest

from rstream_core.protocol.wire import ENTRY_HEAD, FRAME_HEAD
from rstream_core.publishing.columns import Columns
from tests.twins import each_twin

__all__ = ["each_twin"]  # a fixture


@pytest.mark.parametrize("seed", range(20))
def test_each_part_fits_a_frame_and_none_is_left_out(seed: int) -> None:
    chance = random.Random(seed)
    largest = chance.choice((5, 100, 5000))
    messages = [bytes(chance.randrange(largest)) for _ in range(chance.randrange(1, 2000))]
    limit, most = chance.randrange(6000, 60_000), chance.choice((1, 7, 100, 10_000))
    columns = Columns(messages)
    parts = columns.parts(limit, most)
    assert [low for low, _, _ in parts] == [0, *(high for _, high, _ in parts[:-1])]
    assert parts[-1][1] == len(messages)
    for low, high, size in parts:
        assert 0 < high - low <= most
        assert size == sum(map(len, messages[low:high]))
        assert len(columns.frame(1, range(len(messages)), low, high)) - 4 <= limit


def test_a_frame_ends_behind_the_most_messages_or_where_it_is_full() -> None:
    columns = Columns([bytes(100)] * 25)
    limit = FRAME_HEAD.size - 4 + 4 * (100 + ENTRY_HEAD)
    assert [high for _, high, _ in columns.parts(10_000, 10)] == [10, 20, 25]
    assert [high for _, high, _ in columns.parts(limit, 10)] == [4, 8, 10, 14, 18, 20, 24, 25]
    assert columns.parts(10_000, 100) == [(0, 25, 2500)]
