"""Chunks that hold more than they weigh: unpacked piece by piece, and no further than somebody asks."""

from __future__ import annotations

import tracemalloc

import pytest

from rstream_core import ChunkError, CompressionType
from rstream_core.protocol.chunk import (
    HEADER,
    PIECE_BYTES,
    PIECE_MESSAGES,
    ChunkReader,
    build_chunk,
    join_sub_batch,
    open_chunk,
    parse_chunk,
)
from rstream_core.protocol.compression import compress
from rstream_core.protocol.sub_batch import SUB_BATCH_BIT, write_sub_batch
from tests.bombs import MB, MOST_MESSAGES, bomb
from tests.twins import each_twin

__all__ = ["each_twin"]  # a fixture


def sub_entry(inner: list[bytes], *, records: int | None = None, size: int | None = None) -> bytes:
    plain = join_sub_batch(inner)
    out = bytearray()
    write_sub_batch(
        out,
        CompressionType.Zstd,
        len(inner) if records is None else records,
        len(plain) if size is None else size,
        compress(CompressionType.Zstd, plain),
    )
    return bytes(out)


def reader_of(*entries: bytes, records: int) -> ChunkReader:
    _, found = open_chunk(build_chunk(entries, first_offset=0, timestamp=0, records=records))
    assert isinstance(found, ChunkReader)
    return found


LARGE = [bytes(MB)] * 8


@pytest.mark.parametrize("name", ["empty", "one", "large", "full"])
def test_a_piece_costs_what_a_piece_is(name: str) -> None:
    """Three pieces, each let go before the next: one unpacked sub-entry, and a piece of it."""
    data = bomb(name).chunk()
    tracemalloc.start()
    try:
        _, reader = open_chunk(data)
        assert isinstance(reader, ChunkReader)
        expected = 0
        for _ in range(3):
            piece = reader.read()
            assert piece is not None
            assert piece[0] == expected
            expected += len(piece[1])
            assert len(piece[1]) == 1 or (len(piece[1]) <= PIECE_MESSAGES and sum(map(len, piece[1])) <= PIECE_BYTES)
            del piece
        assert tracemalloc.get_traced_memory()[1] < 70 * MB
    finally:
        tracemalloc.stop()


def test_what_is_not_wanted_is_not_unpacked() -> None:
    broken = sub_entry(LARGE)[:-30] + b"?" * 30
    reader = reader_of(broken, broken, sub_entry(LARGE), broken, records=32)
    assert reader.read(16) == (16, [bytes(MB)])
    assert reader.read(23) == (23, [bytes(MB)])
    with pytest.raises(ChunkError, match="cannot be unpacked"):
        reader.read(23)


def test_pieces_end_where_the_next_entry_has_no_room() -> None:
    small = sub_entry([b"s"] * 1000)
    many = sub_entry([b""] * MOST_MESSAGES)
    large = sub_entry(LARGE)
    simple = [b"a", b"b"]
    reader = reader_of(
        *simple, small, small, many, small, large, *simple, small, records=2 + 2000 + 65_535 + 1000 + 8 + 1002
    )
    found = []
    while (piece := reader.read()) is not None:
        found.append((piece[0], len(piece[1])))
    at = 2002 + MOST_MESSAGES
    assert found == [
        (0, 2002),
        (2002, MOST_MESSAGES),
        (at, 1000),
        *((at + 1000 + number, 1) for number in range(8)),
        (at + 1008, 1002),
    ]


@pytest.mark.parametrize(
    ("entries", "records", "words"),
    [
        ([sub_entry(LARGE), sub_entry(LARGE)], 17, "claims 17 messages and holds 16"),
        ([sub_entry(LARGE), sub_entry(LARGE)[:-1]], 16, "a sub-entry claims"),
        ([sub_entry(LARGE), sub_entry([b"x"], records=9, size=8)], 17, "claims 9 messages in 8 bytes"),
        ([sub_entry(LARGE), b"x" * 3], 10, "claims 10 messages and holds 9"),
    ],
)
def test_lies_about_entries_show_before_the_first_piece(entries: list[bytes], records: int, words: str) -> None:
    with pytest.raises(ChunkError, match=words):
        open_chunk(build_chunk(entries, first_offset=0, timestamp=0, records=records))


def test_a_large_sub_entry_gives_out_nothing_where_it_is_not_right_to_its_end() -> None:
    plain = join_sub_batch(LARGE)[:-4] + b"\xff\xff\xff\xff"  # the last message is right, and then there is more
    plain += bytes(4)
    out = bytearray()
    write_sub_batch(out, CompressionType.Zstd, 8, len(plain), compress(CompressionType.Zstd, plain))
    reader = reader_of(b"first", bytes(out), records=9)
    assert reader.read() == (0, [b"first"])
    with pytest.raises(ChunkError, match="the messages of a sub-entry take"):
        reader.read()


@pytest.mark.parametrize("sizes", [[5 * MB], [5 * MB, 10], [10, 5 * MB], [9 * MB, 10, 3 * MB, MB, 10]])
def test_messages_larger_than_a_piece(sizes: list[int]) -> None:
    inner = [bytes([number]) * size for number, size in enumerate(sizes)]
    reader = reader_of(sub_entry(inner), records=len(inner))
    found: list[bytes] = []
    while (piece := reader.read()) is not None:
        assert piece[0] == len(found)
        found += piece[1]
    assert found == inner


@pytest.mark.parametrize("entry", [b"two", sub_entry([b"two", b"", b"three"])], ids=["plain", "sub-entry"])
def test_one_flipped_bit_is_found(entry: bytes) -> None:
    """Wherever it is in the data."""
    records = 4 if entry[0] & SUB_BATCH_BIT else 2
    data = build_chunk([b"one", entry], first_offset=7, timestamp=1000, records=records)
    assert parse_chunk(data)[1][:2] == [b"one", b"two"]
    for bit in range(8 * HEADER.size, 8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChunkError, match="checksum"):
            open_chunk(bytes(damaged))
