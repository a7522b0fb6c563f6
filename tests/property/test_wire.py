"""The functions that touch every message, against the table of commands or a simple loop.

All tests are run with the compiled twin, where there is one, and with the one in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rstream_core.errors import ProtocolError
from rstream_core.protocol import commands as c
from rstream_core.protocol import wire_python
from rstream_core.protocol.amqp_sections import bodies_of, encode_bodies, join_messages
from rstream_core.protocol.framing import FrameBuffer
from rstream_core.protocol.wire import (
    confirmed_ids,
    count_delimiters,
    cut_for_frames,
    encode_filter,
    join_entries,
    join_plain,
    plain_bodies,
    plain_messages,
    publish_frame,
    publish_plain,
    published,
    received,
    refit,
    scatter,
    split,
)
from tests.twins import COMPILED, each_twin

__all__ = ["each_twin"]  # a fixture

U64 = st.integers(0, 2**64 - 1)
messages = st.lists(st.binary(max_size=300), min_size=1, max_size=30)


@st.composite
def runs(draw: st.DrawFn) -> list[int]:
    """Ids of a confirm: a run, or one with something wrong in it."""
    first = draw(U64)
    ids = list(range(first, min(first + draw(st.integers(0, 60)), 2**64)))
    damage: str = draw(st.sampled_from(("none", "one", "order")))
    if ids and damage == "one":
        ids[draw(st.integers(0, len(ids) - 1))] = draw(U64)
    if damage == "order":
        ids = list(draw(st.permutations(ids)))
    return ids


@given(st.integers(0, 255), st.data(), messages)
def test_a_frame_is_that_of_the_table(publisher_id: int, data: st.DataObject, bodies: list[bytes]) -> None:
    ids = data.draw(st.lists(U64, min_size=len(bodies), max_size=len(bodies)))
    sizes = list(map(len, bodies))
    plain = publish_frame(publisher_id, ids, bodies, sizes)
    assert plain == c.encode(c.Publish(publisher_id, list(map(c.PublishedMessage, ids, bodies))))
    values = [data.draw(st.none() | st.text(max_size=20)) for _ in bodies]
    filtered = publish_frame(publisher_id, ids, bodies, sizes, list(map(encode_filter, values)))
    assert filtered == c.encode(c.PublishFiltered(publisher_id, list(map(c.FilteredMessage, ids, values, bodies))))


@st.composite
def plain(draw: st.DrawFn) -> list[bytes]:
    """Bodies: of one size or of several, on one side of 256 bytes or on both. Some look like the head of an entry."""
    one_size = [(size, size) for size in (0, 7, 255, 256)]
    sizes = draw(st.sampled_from([(0, 12), (0, 255), (256, 300), (250, 260), (70000, 70003), *one_size]))
    size = st.integers(*sizes)
    count = draw(st.integers(1, 200 if sizes[1] < 70000 else 3))
    some = draw(st.lists(size, min_size=1, max_size=8))
    fill = draw(st.binary(min_size=1, max_size=9) | st.just(join_entries(encode_bodies([b"\0" * 7]))))
    return [(fill * (wanted // len(fill) + 1))[:wanted] for wanted in (some[at % len(some)] for at in range(count))]


@given(st.integers(0, 255), st.data(), plain(), st.sampled_from([1, 1, 1, 2, -1]))
def test_a_frame_of_bodies_is_that_of_their_messages(
    publisher_id: int, data: st.DataObject, bodies: list[bytes], step: int
) -> None:
    count, encoded = len(bodies), encode_bodies(bodies)
    first = data.draw(st.integers(count, 2**64 - 2 * count) | st.integers(count, 70_000) | st.just(2**64 - count))
    several = range(first, first + count) if first + count == 2**64 else range(first, first + step * count, step)
    anything = data.draw(st.lists(U64, min_size=count, max_size=count))
    lengths, sizes = list(map(len, bodies)), list(map(len, encoded))
    for ids in (several, list(several), anything):
        expected = publish_frame(publisher_id, ids, encoded, sizes)
        assert publish_plain(publisher_id, ids, bodies, lengths, sum(sizes)) == expected
    assert join_plain(bodies) == join_entries(encoded)


def test_an_id_that_is_no_whole_number_is_refused() -> None:
    for ids in ((1.5,), ("1",), (-1,), (2**64,)):
        with pytest.raises(TypeError, match="no whole number"):
            publish_plain(1, ids, [b"x"], [1], 6)  # type: ignore[arg-type]


@given(st.data(), messages, st.booleans(), st.integers(0, 255), st.integers(30, 3000), st.integers(1, 30))
def test_a_frame_is_cut_anew(
    data: st.DataObject, bodies: list[bytes], is_filtered: bool, publisher_id: int, limit: int, most: int
) -> None:
    ids = data.draw(st.lists(U64, min_size=len(bodies), max_size=len(bodies)))
    values = [data.draw(st.none() | st.text(max_size=20)) if is_filtered else None for _ in bodies]
    filters = list(map(encode_filter, values)) if is_filtered else None
    frame = publish_frame(7, ids, bodies, list(map(len, bodies)), filters)
    assert published(frame) == (bodies, values if is_filtered else None)
    kept: list[bool] | None = data.draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    frames = refit(frame, publisher_id, limit, most, None if kept is None else bytes(kept))
    chosen = [place for place in range(len(ids)) if kept is None or kept[place]]
    found: list[tuple[int, bytes, str | None]] = []
    for again in frames:
        message = c.decode(again[4:]).message
        assert message.publisher_id == publisher_id
        assert len(again) - 4 <= limit or len(message.entries) == 1
        found += [(one.publishing_id, one.data, getattr(one, "filter_value", None)) for one in message.entries]
        assert isinstance(message, c.PublishFiltered) == is_filtered
    assert found == [(ids[place], bodies[place], values[place]) for place in chosen]
    if kept is None and len(frame) - 4 <= limit:
        assert len(frames) == 1
    else:
        sizes = [len(bodies[place]) + (len(filters[place]) if filters else 0) for place in chosen]
        assert len(frames) == (len(cut_for_frames(sizes, limit, most)) if chosen else 0)


@given(st.binary(max_size=200), st.integers(1, 9), st.integers(0, 255))
def test_a_sub_entry_is_never_cut(data: bytes, count: int, publisher_id: int) -> None:
    frame = c.encode(c.Publish(7, (c.PublishedSubBatch(5, 1, count, 1000, data),)))
    (again,) = refit(frame, publisher_id, 20, 1)
    assert again == c.encode(c.Publish(publisher_id, (c.PublishedSubBatch(5, 1, count, 1000, data),)))


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=60),
    st.integers(30, 2000),
    st.integers(1, 40),
    st.sampled_from([0, 5]),
)
def test_parts_fill_their_frames(sizes: list[int], limit: int, most: int, beside: int) -> None:
    cuts = cut_for_frames(sizes, limit, most, beside)
    sizes = [size + beside for size in sizes]
    low = 0
    for high in cuts:
        part = sizes[low:high]
        assert 0 < len(part) <= most
        assert len(part) == 1 or 9 + sum(part) + 12 * len(part) <= limit
        if high < len(sizes) and len(part) < most:  # the next one does not fit
            assert 9 + sum(part) + 12 * len(part) + sizes[high] + 12 > limit
        low = high
    assert low == len(sizes)


@given(ids=runs())
@example(ids=[2**64 - 1])
@example(ids=[2**64 - 3, 2**64 - 2])
@example(ids=[2**64 - 2, 2**64 - 1])
@example(ids=[2**64 - 1, 0])
@example(ids=[5, 6, 6, 8])
@example(ids=list(range(3, 3 + 8192)))
@example(ids=list(range(3, 3 + 8193)))
def test_confirmed_ids_are_those_in_the_frame(each_twin: str, ids: list[int]) -> None:
    found = confirmed_ids(b"".join(number.to_bytes(8) for number in ids))
    assert list(found) == ids
    most = 2**64 if each_twin == COMPILED else 8192
    is_run = 1 < len(ids) <= most and ids == list(range(ids[0], ids[0] + len(ids)))
    assert (type(found) is range) == is_run


@given(st.lists(st.binary(max_size=300), max_size=30), st.binary(max_size=9), st.binary(max_size=9))
def test_entries_are_split_again(bodies: list[bytes], before: bytes, behind: bytes) -> None:
    data = join_entries(bodies)
    assert data == b"".join(len(body).to_bytes(4) + body for body in bodies)
    whole = before + data + behind
    end = len(before) + len(data)
    assert split(whole, len(before), end, len(bodies)) == bodies
    assert split(whole, len(before), end, len(bodies) + 1) is None
    if bodies:
        assert split(whole, len(before), end, len(bodies) - 1) is None
        assert split(whole, len(before), end - 1, len(bodies)) is None
    if behind:
        assert split(whole, len(before), end + 1, len(bodies)) is None


@given(st.binary(max_size=60), st.integers(0, 9))
def test_what_is_split_fills_its_bytes(data: bytes, count: int) -> None:
    found = split(data, 0, len(data), count)
    if found is not None:
        assert join_entries(found) == data
        assert len(found) == count


@given(plain(), st.binary(max_size=9), st.binary(max_size=9))
def test_plain_bodies_are_those_of_the_messages(bodies: list[bytes], before: bytes, behind: bytes) -> None:
    data = join_entries(encode_bodies(bodies))
    whole, start = before + data + behind, len(before)
    end = start + len(data)
    assert plain_bodies(whole, start, end, len(bodies)) == bodies
    for count in (0, len(bodies) - 1, len(bodies) + 1):
        assert plain_bodies(whole, start, end, count) is None
    for size in (1, 4, 8, 9, 12, len(data)):
        assert plain_bodies(whole, start, end - size, len(bodies)) is None
    if behind:
        assert plain_bodies(whole, start, end + 1, len(bodies)) is None


@given(plain(), st.binary(max_size=9), st.sampled_from([b"\n", b"", b"\r\n"]), st.booleans())
def test_plain_messages_are_measured_and_joined_as_they_are_split(
    each_twin: str, bodies: list[bytes], before: bytes, delimiter: bytes, is_split: bool
) -> None:
    messages = encode_bodies(bodies)
    data = before + join_entries(messages) + before
    found = plain_messages(data, len(before), len(data) - len(before), len(bodies))
    assert found is not None
    assert found[:0].bodies == found[len(bodies) :].bodies == []
    if each_twin == COMPILED:
        assert found[:] is found
        assert found.unsplit is not None  # for none of this was it split
    if is_split:
        assert found.bodies == bodies
    assert len(found) == len(bodies)
    assert (found.size, found.body_size) == (sum(map(len, messages)), sum(map(len, bodies)))
    assert found.most == max(map(len, bodies))
    assert found.lines(delimiter) == b"".join(body + delimiter for body in bodies)
    assert join_messages([found]) == found
    assert list(found) == messages
    assert found.bodies == bodies
    assert found.lines(delimiter) == b"".join(body + delimiter for body in bodies)
    assert plain_messages(data, len(before), len(data) - len(before), len(bodies) + 1) is None


@given(plain(), st.data())
def test_one_byte_that_is_not_plain_is_found(bodies: list[bytes], data: st.DataObject) -> None:
    """Whatever a byte is changed to: bodies come out only where they are those of the messages."""
    entries = bytearray(join_entries(encode_bodies(bodies)))
    at = data.draw(st.integers(0, len(entries) - 1) | st.integers(0, min(40, len(entries) - 1)))
    entries[at] = data.draw(st.integers(0, 255))
    changed = bytes(entries)
    found = plain_bodies(changed, 0, len(changed), len(bodies))
    if found is not None:
        messages = split(changed, 0, len(changed), len(bodies))
        assert messages is not None
        assert bodies_of(messages) == found
        assert encode_bodies(found) == messages


@given(st.binary(max_size=200), st.binary(max_size=12), st.integers(0, 9))
def test_plain_bodies_of_any_bytes_are_those_of_entries(data: bytes, head: bytes, count: int) -> None:
    for entries in (data, join_entries([data, head]), join_entries(encode_bodies([data, head])), head + data):
        found = plain_bodies(entries, 0, len(entries), count)
        if found is not None:
            assert len(found) == count
            assert join_entries(encode_bodies(found)) == entries


def test_a_message_with_more_than_a_body_is_not_plain() -> None:
    bodies = [b"x" * 20, b"y" * 20]
    one, other = encode_bodies(bodies)
    long = b"\0Su\xb0" + (20).to_bytes(4) + b"z" * 20  # as some clients write short bodies
    two_sections = one[:15] + b"\0Su\xa0\x05" + b"1234"
    large, several = encode_bodies([b"x" * 300])[0], [b"\0Su\xa0\0", b"\0Su\xb0\0\0\0\0"]
    cut = large[:-1]
    wrong = large[:7] + b"\x2d" + large[8:]  # says 301 bytes
    for messages in (
        *([one, long], [long, one], [long, long], [one, two_sections], [one, b""], [b"", b""], several),
        *([one, cut], [cut, one], [large, wrong], [one, wrong], [wrong, one], [large, long], [large, two_sections]),
    ):
        entries = join_entries(messages)
        assert plain_bodies(entries, 0, len(entries), 2) is None
    assert plain_bodies(join_entries([one, other]), 0, 58, 2) == bodies
    mixed = join_entries([one, large, one])
    assert plain_bodies(mixed, 0, len(mixed), 3) == [bodies[0], b"x" * 300, bodies[0]]
    sub_entry = b"\x90\0\x02" + (58).to_bytes(4) * 2 + join_entries([one, other])
    assert plain_bodies(sub_entry, 0, len(sub_entry), 1) is None


@pytest.mark.parametrize("size", [0, 255, 256, 1 << 24, (1 << 31) - 8, 0xFFFFFFF7, 0xFFFFFFF8, 0xFFFFFFFF])
def test_a_size_that_is_only_claimed(size: int) -> None:
    """The bytes of a message may look like the head of a body of any size: at the place where one would be."""
    before = len(wire_python._BODY_HEADS)
    for claim in (b"abc\xb0" + size.to_bytes(4), b"\0Su\xb0" + size.to_bytes(4), size.to_bytes(4) * 2):
        for messages in (
            [claim],
            [claim, claim],
            [*encode_bodies([b"x" * 300]), claim],
            [claim, *encode_bodies([b"x"])],
        ):
            entries = join_entries(messages)
            found = plain_bodies(entries, 0, len(entries), len(messages))
            assert found is None or encode_bodies(found) == messages
            assert split(entries, 0, len(entries), len(messages)) == messages
    bodies = [b"x" * 300, size.to_bytes(4)[1:] + b"y" * 252]
    entries = join_entries(encode_bodies(bodies))
    assert plain_bodies(entries, 0, len(entries), 2) == bodies
    assert len(wire_python._BODY_HEADS) <= before + 2  # no size that was not there gets into the cache


@given(st.binary(max_size=60), st.sampled_from([b"\n", b"\0", b"\n\n", b"ab", b"aba"]), st.integers(0, 9))
def test_delimiters_are_counted(data: bytes, delimiter: bytes, more: int) -> None:
    data += delimiter * more + data + delimiter[1:]
    assert count_delimiters(data, delimiter) == data.count(delimiter)


@given(st.lists(st.integers(-1, 3) | st.integers(0, 1000), max_size=60))
def test_each_lane_gets_its_values_in_their_order(lanes: list[int]) -> None:
    column = [b"%d" % at for at in range(len(lanes))]
    found = scatter(column, lanes)
    assert list(found) == list(dict.fromkeys(lanes))
    for lane, values in found.items():
        assert values == [value for value, its in zip(column, lanes, strict=True) if its == lane]
    assert scatter(range(len(lanes)), lanes) == {lane: list(map(int, values)) for lane, values in found.items()}
    with pytest.raises(ValueError, match="zip"):
        scatter([*column, b""], lanes)


FRAMES = st.one_of(
    st.builds(c.Deliver, st.integers(0, 255), st.binary(max_size=80)),
    st.builds(c.DeliverCommitted, st.integers(0, 255), U64, st.binary(max_size=80)),
    st.builds(c.PublishConfirm, st.integers(0, 255), runs()),
    st.builds(c.PublishError, st.integers(0, 255), st.just(())),
    st.builds(c.Credit, st.integers(0, 255), st.integers(0, 9)),
    st.builds(c.OpenResponse, st.just({})),
).map(c.encode)


def comparable(frame: c.Frame) -> object:
    message = frame.message
    if isinstance(message, c.PublishConfirm):
        message = message._replace(publishing_ids=tuple(message.publishing_ids))
    if isinstance(message, c.Delivery):
        number, committed, whole, start = message
        chunk = whole[start:]
        message = c.Deliver(number, chunk) if committed is None else c.DeliverCommitted(number, committed, chunk)
    return type(message), frame._replace(message=message)


@given(FRAMES, st.integers(0, 20))
def test_a_received_frame_is_that_of_the_table(frame: bytes, cut: int) -> None:
    body = frame[4:]
    found = received(body)
    assert (found is not None) == (body[:2] in (b"\x00\x03", b"\x00\x08"))
    if found is not None:
        assert comparable(found) == comparable(c.decode(body))
        if isinstance(found.message, c.Delivery):
            assert found.message.frame is body
    shorter = body[: max(len(body) - cut, 4)]
    found = received(shorter)
    if found is not None:
        assert comparable(found) == comparable(c.decode(shorter))


@given(st.binary(max_size=30), st.sampled_from(["0008", "8008", "0009", "0003", "8003", "0007"]), st.integers(0, 3))
def test_what_is_not_in_the_table_is_not_received(data: bytes, key: str, version: int) -> None:
    frame = bytes.fromhex(key) + version.to_bytes(2) + data
    found = received(frame)
    try:
        message = c.decode(frame)
    except ProtocolError:
        assert found is None
    else:
        assert found is not None or not isinstance(message.message, c.Deliver | c.DeliverCommitted)
        assert found is None or comparable(found) == comparable(message)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 200), max_size=40), st.booleans())
def test_frames_come_out_however_they_arrive(frames: list[bytes], steps: list[int], is_mutable: bool) -> None:
    buffer = FrameBuffer()
    rest = b"".join(frames)
    found: list[bytes] = []
    pieces: list[bytes] = []
    for step in steps:
        pieces.append(rest[:step])
        rest = rest[step:]
    fed = 0
    for piece in (*pieces, rest):
        buffer.feed(bytearray(piece) if is_mutable else piece)
        fed += len(piece)
        found += buffer.frames()
        assert len(buffer) == fed - sum(4 + len(frame) for frame in found)
    assert found == [frame[4:] for frame in frames]


def test_a_caller_that_stops_gets_the_rest_next_time() -> None:
    frames: Sequence[bytes] = [c.encode(c.Credit(number, 1)) for number in range(5)]
    for whole in (b"".join(frames), b"".join(frames) + b"\x00\x00"):
        buffer = FrameBuffer()
        buffer.feed(whole)
        for frame in buffer.frames():
            assert frame == frames[0][4:]
            break
        assert len(buffer) == len(whole) - len(frames[0])
        buffer.feed(b"")
        assert list(buffer.frames()) == [frame[4:] for frame in frames[1:]]
        assert len(buffer) == len(whole) - 5 * len(frames[0])
