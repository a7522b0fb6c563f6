"""The broker's fast paths, held against the general codec."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.broker import bloom
from rstream_core.broker.publishing import Entries, split_filtered, split_publish, without_repeats
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
    kept, repeated, last = without_repeats(entries, b"" if before is None else before.to_bytes(8))
    expected: list[int] = []
    top = -1 if before is None else before
    for number in numbers:
        if number > top:
            expected.append(number)
            top = number
    assert [int.from_bytes(one) for one in kept.ids] == expected
    assert [data[0] for data in kept.data] == expected
    assert len(repeated) == len(numbers) - len(expected)
    assert last == (b"" if top < 0 else top.to_bytes(8))


@given(st.sets(st.text(max_size=10), min_size=1, max_size=20), st.integers(16, 255))
def test_a_filter_holds_what_it_was_built_from(values: set[str], size: int) -> None:
    bits = bloom.build(values, size)
    assert len(bits) == size
    assert all(bloom.may_hold(bits, value) for value in values)


def test_a_filter_is_seldom_wrong() -> None:
    bits = bloom.build({f"value-{number}" for number in range(5)}, 16)
    wrong = sum(bloom.may_hold(bits, f"other-{number}") for number in range(1000))
    assert wrong < 20
