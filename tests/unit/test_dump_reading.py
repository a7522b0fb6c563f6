"""Dumps are read whole, byte by byte, cut off anywhere, and with any byte changed."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc
import zlib

import pytest

from rstream_core.dump import frames
from rstream_core.dump.layout import CHUNK, HEAD, MANIFEST, MARKER, NEEDED, record
from rstream_core.dump.manifest import DumpedStream, Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader, EndMark, Item
from rstream_core.errors import DumpError
from rstream_core.protocol.chunk import HEADER, SEGMENT_HEAD, build_chunk
from tests import dumps

PARTS = [
    dumps.head(dumps.manifest()),
    dumps.chunk([b"one", b"two"], 0),
    dumps.chunk([b"three" * 40], 2),
    dumps.chunk([b"four", b"", b"six"], 7, timestamp=2000),
    dumps.end_mark(),
]
PLAIN = b"".join(PARTS)
PACKED = dumps.packed([PARTS[0], PARTS[1] + PARTS[2][:30], PARTS[2][30:] + PARTS[3], PARTS[4]])
"""A record may lie in two frames."""
RANGES = [(0, 0, 1), (0, 2, 2), (0, 7, 9)]
FORMS = pytest.mark.parametrize("data", [PLAIN, PACKED], ids=["plain", "zstd"])


@FORMS
@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_a_dump_is_read_in_any_pieces(data: bytes, size: int) -> None:
    found, wrong, cut_off = dumps.read_all(dumps.pieces(data, size))
    assert (dumps.ranges(found), wrong, cut_off) == (RANGES, [], 0)
    assert isinstance(found[0], Manifest)
    assert isinstance(found[-1], EndMark)
    chunks = [item for item in found if isinstance(item, DumpedChunk)]
    assert [chunk.data[chunk.begin :][: chunk.header.data_length] for chunk in chunks] == [
        part[HEAD.size + 16 + HEADER.size :] for part in PARTS[1:4]
    ]


@FORMS
def test_cut_off_anywhere_what_is_whole_is_read(data: bytes) -> None:
    for size in range(len(data)):
        reader = DumpReader()
        reader.feed(data[:size])
        found = []
        while (item := reader.read()) is not None:
            found.append(item)
        whole = reader.whole
        assert dumps.ranges(found) == RANGES[: len(dumps.ranges(found))]
        assert whole <= size
        assert reader.finish() == size - whole
        again, wrong, cut_off = dumps.read_all([data[:whole]])  # what is left behind ``whole`` is cut off
        assert (wrong, cut_off) == ([], 0)
        assert len(again) <= len(found)
        if data is PLAIN:
            assert len(again) == len(found)


@FORMS
def test_each_changed_byte_is_found_and_the_rest_is_read(data: bytes) -> None:
    starts = [sum(map(len, PARTS[:number])) for number in range(len(PARTS) + 1)]
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        found, wrong, cut_off = dumps.read_all([bytes(broken)])
        assert wrong or cut_off, at
        assert set(dumps.ranges(found)) <= set(RANGES)
        if data is PLAIN and at >= 8:
            number = next(number for number in range(len(PARTS)) if at < starts[number + 1])
            place = starts[number] if number else 8
            assert wrong[0].position == place, at
            if number:
                assert len(dumps.ranges(found)) >= len(RANGES) - 1, at


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_a_segment_gives_the_chunks_with_messages(size: int) -> None:
    found, wrong, cut_off = dumps.read_all(dumps.pieces(dumps.segment(), size))
    assert (dumps.ranges(found), wrong, cut_off) == ([(0, 0, 1), (0, 3, 3), (0, 4, 5)], [], 0)


def test_a_torn_segment_gives_what_is_whole() -> None:
    whole = len(dumps.segment())
    for torn in range(1, whole - len(SEGMENT_HEAD)):
        found, wrong, cut_off = dumps.read_all([dumps.segment(torn=torn)])
        assert not wrong
        assert dumps.ranges(found) == [(0, 0, 1), (0, 3, 3), (0, 4, 5)][: len(found)]
    found, wrong, cut_off = dumps.read_all([dumps.segment(torn=1)])
    assert (len(found), cut_off > 0) == (3, True)  # the trailer alone is torn


def test_each_changed_byte_of_the_data_of_a_segment_is_found() -> None:
    data = dumps.segment()
    at = data.index(b"three")
    broken = data[:at] + b"T" + data[at + 1 :]
    found, wrong, _ = dumps.read_all([broken])
    assert dumps.ranges(found) == [(0, 0, 1), (0, 4, 5)]
    assert [error.position for error in wrong] == [data.index(b"\1" * 16) - HEADER.size]


def test_a_chunk_without_messages_is_passed_over() -> None:
    empty = build_chunk([], first_offset=0, timestamp=1)
    found, wrong, _ = dumps.read_all([SEGMENT_HEAD + empty + build_chunk([b"a"], first_offset=0, timestamp=1)])
    assert (dumps.ranges(found), wrong) == ([(0, 0, 0)], [])


def test_a_segment_that_is_missing_is_told_and_what_follows_is_read() -> None:
    reader, found, wrong = DumpReader(), list[Item](), list[DumpError]()
    third = SEGMENT_HEAD + build_chunk([b"x"], first_offset=9, timestamp=1)  # offsets 6 to 8 were in the second one
    for data in (dumps.segment(), third):
        reader.feed(data)
        while True:
            try:
                item = reader.read()
            except DumpError as error:
                wrong.append(error)
                continue
            if item is None:
                break
            found.append(item)
        assert reader.finish() == 0
    assert dumps.ranges(found) == [(0, 0, 1), (0, 3, 3), (0, 4, 5), (0, 9, 9)]
    assert [(str(error), error.position) for error in wrong] == [("damaged: offsets 6 to 8 are missing", 8)]


@pytest.mark.parametrize("data", [PLAIN, PACKED, dumps.segment()], ids=["plain", "zstd", "segment"])
def test_zeros_at_the_end_are_a_torn_end_and_others_are_damage(data: bytes) -> None:
    found, wrong, cut_off = dumps.read_all(dumps.pieces(data + bytes(5000), 999))
    assert (len(dumps.ranges(found)), wrong, cut_off) == (3, [], 5000)
    found, wrong, _ = dumps.read_all(dumps.pieces(data + bytes(5000) + b"x" * 100, 999))
    assert (len(dumps.ranges(found)), [error.position for error in wrong]) == (3, [len(data)])


@pytest.mark.parametrize("data", [PARTS, [dumps.packed([part]) for part in PARTS]], ids=["plain", "zstd"])
def test_zeros_before_what_is_whole_are_damage_in_whatever_pieces_they_come(data: list[bytes]) -> None:
    for size in (10, 100, 5000):  # before the third chunk, and up to where a piece ends
        found, wrong, cut_off = dumps.read_all([*data[:3], bytes(size), *data[3:]])
        assert (dumps.ranges(found), cut_off) == (RANGES, 0)
        assert [error.position for error in wrong] == [sum(map(len, data[:3]))]


def test_zeros_before_a_chunk_of_a_segment_are_damage() -> None:
    data = dumps.segment()
    at = data.index(b"\1" * 16) - HEADER.size
    found, wrong, _ = dumps.read_all([data[:at], bytes(500), data[at:]])
    assert (dumps.ranges(found), [error.position for error in wrong]) == ([(0, 0, 1)], [at])


def test_endless_zeros_take_no_memory() -> None:
    reader = DumpReader()
    reader.feed(PLAIN)
    tracemalloc.start()
    for _ in range(100):
        while reader.read() is not None:
            pass
        reader.feed(bytes(1 << 20))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_claim_takes_no_memory() -> None:
    head = HEAD.pack(MARKER, CHUNK, NEEDED, 0, 1 << 30, 0, 0)[:-4]
    tracemalloc.start()
    found, wrong, cut_off = dumps.read_all([PARTS[0], head + zlib.crc32(head).to_bytes(4), b"x" * 100])
    assert (len(found), wrong, cut_off) == (1, [], HEAD.size + 100)
    bomb = bytearray(frames.pack(bytes(frames.FRAME_DATA)))
    assert len(bomb) < 1000
    bomb[12:16] = (1 << 30).to_bytes(4, "little")
    bomb[20:24] = zlib.crc32(bomb[:20]).to_bytes(4, "little")
    found, wrong, _ = dumps.read_all([bytes(bomb)])
    assert (found, [error.position for error in wrong]) == ([], [0])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_is_no_dump_is_refused() -> None:
    for data, text in (
        (b"hello world", "neither a dump"),
        (b"RSTRDMP\x02........", "later version"),
        (b"OSIL\0\0\0\2........", "later version"),
        (frames.ZSTD + b"....", "neither a dump"),
    ):
        _, wrong, _ = dumps.read_all([data])
        assert text in str(wrong[0])
        assert wrong[0].position == 0


def test_an_unknown_record_is_passed_over_unless_it_is_needed() -> None:
    found, wrong, _ = dumps.read_all([PARTS[0] + record(77, b"news") + PARTS[1]])
    assert (dumps.ranges(found), wrong) == ([(0, 0, 1)], [])
    found, wrong, _ = dumps.read_all([PARTS[0] + record(77, b"news", flags=NEEDED) + PARTS[1]])
    assert (dumps.ranges(found), str(wrong[0])) == (
        [],
        "of a later version than this program knows: a record of kind 77",
    )


def test_offsets_that_go_back_and_another_dump_are_refused() -> None:
    _, wrong, _ = dumps.read_all([PARTS[0] + PARTS[3] + PARTS[1]])
    assert "offset 0 comes behind offset 9" in str(wrong[0])
    other = Manifest("f" * 32, "", "/", (DumpedStream("s"),))
    _, wrong, _ = dumps.read_all([PARTS[0], record(MANIFEST, other.encoded())])
    assert ("another dump begins here" in str(wrong[0]), wrong[0].position) == (True, len(PARTS[0]))
    _, wrong, _ = dumps.read_all([PARTS[0] + dumps.chunk([b"x"], 0, stream=1)])
    assert "a chunk of stream 1" in str(wrong[0])


def test_streams_are_those_of_the_first_manifest() -> None:
    """A later one with more of them would have chunks of streams that nobody has opened."""
    more = record(MANIFEST, dumps.manifest("a", "b", "c").encoded())
    for begin in (PARTS[0], PARTS[0][:-1] + b"?"):
        found, wrong, _ = dumps.read_all([begin + PARTS[1] + more + dumps.chunk([b"x"], 2, stream=2)])
        assert (dumps.ranges(found), "another dump begins here" in str(wrong[-1])) == ([(0, 0, 1)], True)


def test_a_part_of_a_chunk_is_wanted() -> None:
    delivered = build_chunk([b"a", b"b", b"c", b"d"], first_offset=10, timestamp=1)
    rows = [dumps.record_of(delivered, wanted=(11, 13)), dumps.record_of(delivered, wanted=(13, 14))]
    found, wrong, _ = dumps.read_all([PARTS[0], *rows])
    assert (dumps.ranges(found), wrong) == ([(0, 11, 12), (0, 13, 13)], [])
    for wanted in ((9, 12), (12, 12), (11, 15)):
        _, wrong, _ = dumps.read_all([PARTS[0], dumps.record_of(delivered, wanted=wanted)])
        assert "what is wanted of a chunk is not in it" in str(wrong[0])


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"id":1}', "[" * 100_000, '{"id":"' + "0" * 32 + '","cluster":"","vhost":"/","streams":[]}'],
)
def test_a_bad_manifest_is_refused(text: str) -> None:
    with pytest.raises(DumpError, match="the manifest"):
        Manifest.parse(text.encode())


def test_a_manifest_comes_back() -> None:
    stream = DumpedStream("s-eu", "eu", {"max-age": "7D", "x": 5}, {"billing": 41})
    made = Manifest(dumps.ID, "c", "/", (stream,), "s", {"offset": "first", "filter": ["a"]}, "rstream 1", "now")
    assert Manifest.parse(made.encoded()) == made


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd")
def test_zstd_unpacks_a_compressed_dump() -> None:
    done = subprocess.run(["zstd", "-dc"], input=PACKED, capture_output=True, check=True, timeout=30)
    assert done.stdout == PLAIN
