"""What a call publishes is checked, cut and framed alike, whether its messages are a list or held by their bodies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.errors import MessageTooLarge
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.protocol.amqp_sections import PlainMessages, encode_bodies, join_messages, most_of
from rstream_core.protocol.wire import MESSAGE_OVERHEAD, lines_of
from rstream_core.publishing.columns import Columns, LineColumns, PlainColumns, SubEntry, columns_of
from rstream_core.types import CompressionType
from tests.twins import COMPILED, each_twin

__all__ = ["each_twin"]  # a fixture


@given(
    st.lists(st.integers(0, 40) | st.integers(0, 600), min_size=1, max_size=40),
    st.integers(30, 2000),
    st.integers(1, 50),
    st.integers(0, 2**63),
    st.data(),
)
def test_the_form_of_messages_changes_nothing(
    sizes: list[int], limit: int, most: int, first: int, data: st.DataObject
) -> None:
    bodies = [b"%d" % at * size for at, size in enumerate(sizes)]
    messages, low = encode_bodies(bodies), data.draw(st.integers(0, len(bodies) - 1))
    whole = PlainMessages(bodies)
    if data.draw(st.booleans()):
        assert whole.most == max(map(len, bodies))  # measured before it is cut
    for some, expected in ((PlainMessages(bodies), messages), (whole[low:], messages[low:])):
        ids = range(first, first + len(some))
        plain, columns = columns_of(some, None), Columns(expected)
        assert isinstance(plain, PlainColumns)
        assert (plain.sub_entry, plain.has_filters) == (None, False)
        parts = plain.parts(limit, most)
        assert list(parts) == list(columns.parts(limit, most))
        cuts = [0, *sorted({data.draw(st.integers(1, len(some)))} | {len(some)})]
        for begin, end in [*((begin, end) for begin, end, _ in parts), *pairwise(cuts)]:
            assert plain.frame(7, ids, begin, end) == columns.frame(7, ids, begin, end)
        largest = max(map(len, expected))
        for room in (largest - 1, largest, limit):
            outcomes = []
            for one in (plain, columns):
                try:
                    one.check(room + MESSAGE_OVERHEAD)
                except MessageTooLarge as error:
                    outcomes.append((str(error), error.position))
            assert len(outcomes) in (0, 2)
            assert outcomes[:1] == outcomes[1:]


@given(
    st.lists(st.integers(0, 40) | st.integers(0, 600), min_size=1, max_size=40),
    st.integers(30, 2000),
    st.integers(1, 50),
    st.integers(0, 2**64 - 50),
    st.sampled_from([b"\n", b"\0", b"\r\n"]),
    st.binary(max_size=5),
)
def test_lines_are_published_as_their_bodies_are(
    each_twin: str, sizes: list[int], limit: int, most: int, first: int, delimiter: bytes, before: bytes
) -> None:
    bodies = [b"%d" % at * size for at, size in enumerate(sizes)]
    data = before + delimiter.join([*bodies, b""])
    found = lines_of(data, len(before), len(data), delimiter)
    assert (found is not None) == (each_twin == COMPILED and len(delimiter) == 1)
    if found is None:
        return
    split, ids = PlainMessages(bodies), range(first, first + len(bodies))
    assert (len(found), found.most, found.size, found.body_size) == (
        *(len(bodies), split.most, split.size),
        sum(map(len, bodies)),
    )
    columns, expected = columns_of(found, None), columns_of(split, None)
    assert isinstance(columns, LineColumns)
    assert (columns.sub_entry, columns.has_filters) == (None, False)
    parts = columns.parts(limit, most)
    assert list(parts) == list(expected.parts(limit, most))
    for some in (ids, list(ids)):
        for low, high, _ in parts:
            assert columns.frame(7, some, low, high) == expected.frame(7, ids, low, high)
    with pytest.raises(TypeError, match="no whole number"):
        columns.frame(7, ["x"] * len(bodies), *parts[0][:2])  # type: ignore[list-item]
    for room in (split.most + 5, split.most + 8, limit):
        outcomes = []
        for one in (columns, expected):
            try:
                one.check(room + MESSAGE_OVERHEAD - 1)
            except MessageTooLarge as error:
                outcomes.append((str(error), error.position))
        assert len(outcomes) in (0, 2)
        assert outcomes[:1] == outcomes[1:]
    assert found.lines(delimiter) == data[len(before) :]
    assert found.lines(b"--") == b"".join(body + b"--" for body in bodies)


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=5), min_size=1, max_size=4), st.booleans())
def test_lines_are_joined_as_their_bodies_are(several: list[list[bytes]], has_another: bool) -> None:
    several = [[body.replace(b"\n", b"") for body in bodies] for bodies in several]
    blocks = [b"".join(body + b"\n" for body in bodies) for bodies in several]
    parts = [lines_of(data, 0, len(data), b"\n") or PlainMessages(data.split(b"\n")[:-1]) for data in blocks]
    if has_another:
        parts.append(lines_of(b"a\0", 0, 2, b"\0") or PlainMessages([b"a"]))
        several.append([b"a"])
    joined = join_messages(parts)
    bodies = [body for bodies in several for body in bodies]
    assert isinstance(joined, PlainMessages)
    assert (len(joined), joined.size) == (len(bodies), PlainMessages(bodies).size)
    assert joined.lines(b"|") == b"".join(body + b"|" for body in bodies)
    assert joined.bodies == bodies


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=9), st.data())
def test_filter_values_and_sub_entries_of_plain_messages(bodies: list[bytes], data: st.DataObject) -> None:
    messages, ids = encode_bodies(bodies), range(5, 5 + len(bodies))
    values = data.draw(st.lists(st.none() | st.text(max_size=5), min_size=len(bodies), max_size=len(bodies)))
    plain, columns = columns_of(PlainMessages(bodies), values), Columns(messages, values)
    assert plain.has_filters == columns.has_filters
    assert plain.frame(1, ids, 0, len(bodies)) == columns.frame(1, ids, 0, len(bodies))
    with pytest.raises(ValueError, match="filter values"):
        columns_of(PlainMessages(bodies), [*values, None])
    for compression in (CompressionType.No, CompressionType.Gzip):
        entry, expected = SubEntry(PlainMessages(bodies), compression), SubEntry(messages, compression)
        assert entry.frame(1, [7], 0, 1) == expected.frame(1, [7], 0, 1)
        assert list(entry.sub_entry) == list(expected.sub_entry)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=9)), min_size=1, max_size=40), st.data())
def test_a_block_is_scattered_to_its_lanes(rows: list[tuple[int, bytes]], data: st.DataObject) -> None:
    lanes, bodies = [lane for lane, _ in rows], [body for _, body in rows]
    ids = data.draw(st.none() | st.just(range(5, 5 + len(rows))))
    filters = data.draw(st.none() | st.just([None if len(body) % 2 else str(body) for body in bodies]))
    measured = PlainMessages(bodies)
    assert measured.most == max(map(len, bodies))
    for messages in (encode_bodies(bodies), PlainMessages(bodies), measured):
        block = Block(
            *(Acks(Account()), range(70, 70 + len(rows)), messages, "s", 9),
            ids=ids,
            filters=filters,
            keys=bodies,
            lanes=lanes,
            unreadable={70},
        )
        parts = dict(block.scatter())
        assert list(parts) == list(dict.fromkeys(lanes))
        for lane, part in parts.items():
            places = [place for place, its in enumerate(lanes) if its == lane]
            expected = block.select(places)
            assert type(part.messages) is type(block.messages)
            assert list(part.messages) == list(expected.messages)
            assert max(map(len, part.messages)) <= most_of(part.messages) <= most_of(block.messages)
            assert list(part.positions) == list(expected.positions)
            assert (part.ack, part.stream, part.timestamp, part.unreadable) == (block.ack, "s", 9, {70})
            assert (part.ids, part.filters) == (expected.ids and list(expected.ids), expected.filters)
            assert (part.keys, part.lanes) == (None, None)
