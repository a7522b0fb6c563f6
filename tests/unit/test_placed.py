"""Messages where they lie in their chunk: what is found, cut, joined and published."""

from __future__ import annotations

from typing import Any

import pytest

from rstream_core import ChunkError, CompressionType, MessageTooLarge
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp_sections import join_messages, most_of, size_of, sizes_of
from rstream_core.protocol.chunk import HEADER, build_chunk, join_sub_batch, open_placed, parse_header
from rstream_core.protocol.compression import compress
from rstream_core.protocol.placed import Packed, PlacedMessages, Singles, stretches
from rstream_core.protocol.sub_batch import write_sub_batch
from rstream_core.publishing.columns import PackedColumns, PlacedColumns, placed_columns

SINGLES = [b"one", b"", b"x" * 300]
PACKED = [b"p%d" % number for number in range(5)]


def sub_entry(messages: list[bytes], compression: CompressionType = CompressionType.Gzip, **changes: int) -> bytes:
    """``changes``: what its head claims instead: ``codec``, ``records`` or ``size``."""
    plain, out = join_sub_batch(messages), bytearray()
    told = {"records": len(messages), "size": len(plain), "codec": compression.value} | changes
    write_sub_batch(out, told["codec"], told["records"], told["size"], compress(compression, plain))
    return bytes(out)


def placed(*entries: bytes, records: int, before: bytes = b"head") -> PlacedMessages:
    chunk = build_chunk(entries, first_offset=7, timestamp=0, records=records)
    header = parse_header(chunk)
    return open_placed(before + chunk, len(before) + HEADER.size, header)


@pytest.fixture
def mixed() -> PlacedMessages:
    """Three single messages, five in a sub-entry, three single ones, and a sub-entry of one."""
    return placed(*SINGLES, sub_entry(PACKED), *SINGLES, sub_entry([b"last"]), records=12)


ALL = [*SINGLES, *PACKED, *SINGLES, b"last"]


def test_stretches(mixed: PlacedMessages) -> None:
    first, packed, second, last = mixed.stretches
    assert isinstance(first, Singles)
    assert isinstance(second, Singles)
    assert (first.split(), first.longest, first.size, first.sizes) == (SINGLES, 300, 303, [3, 0, 300])
    assert isinstance(packed, Packed)
    assert isinstance(last, Packed)
    assert (len(packed), list(packed), packed[1], packed[1:3]) == (5, PACKED, b"p1", [b"p1", b"p2"])
    assert list(last) == [b"last"]


def test_they_are_a_sequence(mixed: PlacedMessages) -> None:
    assert (len(mixed), list(mixed), mixed[0], mixed[-1], mixed[4]) == (12, ALL, b"one", b"last", b"p1")
    with pytest.raises(IndexError):
        mixed[12]
    with pytest.raises(ValueError, match="step"):
        mixed[::2]
    for low in range(13):
        for high in range(13):
            assert list(mixed[low:high]) == ALL[low:high]
    assert mixed[:] is mixed
    assert len(PlacedMessages([])) == 0


def test_a_slice_unpacks_only_what_it_cuts_in_two(mixed: PlacedMessages) -> None:
    assert [type(stretch) for stretch in mixed[3:8].stretches] == [Packed]
    assert [type(stretch) for stretch in mixed[2:9].stretches] == [Singles, Packed, Singles]
    assert [type(stretch) for stretch in mixed[4:12].stretches] == [Singles, Singles, Packed]
    assert [mixed.boundary(at) for at in range(13)] == [0, 1, 2, 3, 8, 8, 8, 8, 8, 9, 10, 11, 12]


def test_sizes(mixed: PlacedMessages) -> None:
    packed = [len(compress(CompressionType.Gzip, join_sub_batch(some))) for some in (PACKED, [b"last"])]
    assert size_of(mixed) == 606 + sum(packed)
    sizes = sizes_of(mixed)
    assert sum(sizes) == size_of(mixed)
    assert sizes[:3] == [3, 0, 300]
    assert max(sizes[3:8]) - min(sizes[3:8]) <= 1
    assert most_of(mixed) == 300
    assert most_of(mixed[3:8]) == 0


def test_they_are_joined(mixed: PlacedMessages) -> None:
    joined = join_messages([mixed[:4], mixed[4:], mixed])
    assert isinstance(joined, PlacedMessages)
    assert list(joined) == ALL * 2
    assert join_messages([mixed, [b"x"]]) == [*ALL, b"x"]


def frames(messages: PlacedMessages, limit: int = 1 << 20, most: int = 1000) -> list[tuple[list[int], list[bytes]]]:
    """Ids and messages of each frame, as a broker reads them."""
    found = []
    for columns, count, ids in placed_columns(messages, range(8, 8 + len(messages)), limit):
        assert ids is not None
        for low, high, size in columns.parts(limit, most):
            frame = columns.frame(9, ids, low, high)
            message = c.decode(frame[4:]).message
            assert isinstance(message, c.Publish)
            assert message.publisher_id == 9
            numbers = [entry.publishing_id for entry in message.entries]
            if isinstance(columns, PackedColumns):
                (entry,) = message.entries
                assert isinstance(entry, c.PublishedSubBatch)
                assert (entry.records, len(entry.data)) == (count, size)
                found.append((numbers, [entry.data]))
            else:
                assert isinstance(columns, PlacedColumns)
                datas = [entry.data for entry in message.entries]
                assert sum(map(len, datas)) == size
                found.append((numbers, datas))
    return found


def test_frames(mixed: PlacedMessages) -> None:
    packed, last = (compress(CompressionType.Gzip, join_sub_batch(some)) for some in (PACKED, [b"last"]))
    assert frames(mixed) == [([8, 9, 10], SINGLES), ([15], [packed]), ([16, 17, 18], SINGLES), ([19], [last])]
    assert frames(mixed[:3], most=2) == [([8, 9], SINGLES[:2]), ([10], SINGLES[2:])]
    assert frames(mixed[:3], limit=321) == [([8, 9], SINGLES[:2]), ([10], SINGLES[2:])]


def test_a_sub_entry_that_fits_no_frame_is_split() -> None:
    messages = [bytes([number]) * 50 for number in range(10)]
    packed = sub_entry(messages, CompressionType.No)
    whole = placed(packed, records=10)
    limit = 9 + 8 + len(packed)
    assert len(frames(whole, limit)) == 1
    found = frames(whole, limit - 1)
    assert [number for numbers, _ in found for number in numbers] == list(range(8, 18))
    assert [message for _, some in found for message in some] == messages


def test_a_message_that_fits_no_frame() -> None:
    messages = placed(b"a", b"b" * 300, sub_entry([b"c" * 300, b"d" * 400], CompressionType.No), b"e", records=5)
    with pytest.raises(
        MessageTooLarge, match="message 2 of 5 takes 300 bytes; the agreed frame size allows 299"
    ) as raised:
        frames(messages, 320)
    assert raised.value.position == 1
    with pytest.raises(MessageTooLarge, match="message 4 of 5 takes 400 bytes; the agreed frame size allows 380"):
        frames(messages, 401)


@pytest.mark.parametrize(
    ("entries", "records", "words"),
    [
        ((b"x",), 2, "claims 2 messages and holds 1"),
        ((sub_entry([b"x"], records=9),), 9, "claims 9 messages in 5 bytes"),
        ((sub_entry([b"x"])[:-1],), 1, "do not take the"),
        ((b"\x80",), 1, "do not take the"),
    ],
)
def test_what_does_not_fit_is_refused(entries: tuple[bytes, ...], records: int, words: str) -> None:
    with pytest.raises(ChunkError, match=words):
        placed(*entries, records=records)


@pytest.mark.parametrize(
    "changes", [{"size": 100}, {"records": 4}, {"codec": 7}, {"size": (1 << 26) + 1}, {"records": 1, "size": 45}]
)
def test_what_a_sub_entry_claims_is_checked_once_it_is_unpacked(changes: dict[str, Any]) -> None:
    messages = placed(sub_entry(PACKED, **changes), records=changes.get("records", 5))
    with pytest.raises(ChunkError):
        list(messages)


def test_a_sub_entry_within_a_sub_entry_is_refused() -> None:
    inner = sub_entry([b"x"], CompressionType.No)
    out = bytearray()
    write_sub_batch(out, 0, 1, len(inner), inner)
    with pytest.raises(ChunkError):
        list(placed(bytes(out), records=1))


def test_a_sub_entry_of_no_message_is_left_out() -> None:
    out = bytearray()
    write_sub_batch(out, 0, 0, 0, b"")
    assert list(placed(b"x", bytes(out), b"y", records=2)) == [b"x", b"y"]
    assert stretches(b"", 0, 0, 0) == []
