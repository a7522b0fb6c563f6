"""The publisher's own way to write a frame, against the table of commands."""

from __future__ import annotations

import random

import pytest

from rstream_core.protocol import commands as c
from rstream_core.protocol.wire import encode_filter, publish_frame
from tests.twins import each_twin

__all__ = ["each_twin"]  # a fixture


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_those_of_the_table(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randrange(1, 200)
    messages = [chance.randbytes(chance.randrange(50)) for _ in range(count)]
    ids = sorted({chance.getrandbits(64) for _ in messages}) if seed % 2 else range(seed, seed + count)
    sizes = list(map(len, messages))
    plain = publish_frame(seed, ids, messages, sizes)
    assert plain == c.encode(c.Publish(seed, list(map(c.PublishedMessage, ids, messages))))

    values = [chance.choice([None, "", "eu", "größe", "日本" * 50]) for _ in messages]
    filters = list(map(encode_filter, values))
    filtered = publish_frame(seed, ids, messages, sizes, filters)
    assert filtered == c.encode(c.PublishFiltered(seed, list(map(c.FilteredMessage, ids, values, messages))))
