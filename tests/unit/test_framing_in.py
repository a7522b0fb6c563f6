"""Blocks in, records out: every reader whole, byte by byte, and with more files behind."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from rstream_cli.records import framing_in
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordError, RecordReader, WholeReader


def _len32(*records: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


CASES: list[tuple[str, Callable[[], RecordReader], bytes, list[bytes]]] = [
    ("nothing", DelimiterReader, b"", []),
    ("no delimiter at the end", DelimiterReader, b"a\nb", [b"a", b"b"]),
    ("delimiter at the end", DelimiterReader, b"a\nb\n", [b"a", b"b"]),
    ("empty records count", DelimiterReader, b"\n\na\n\n", [b"", b"", b"a", b""]),
    ("any byte", DelimiterReader, b"\0\xff\r\t\n\x80", [b"\0\xff\r\t", b"\x80"]),
    ("skip_empty", lambda: DelimiterReader(skip_empty=True), b"\n\na\n\nb", [b"a", b"b"]),
    ("crlf", lambda: DelimiterReader(crlf=True), b"a\r\nb\r\r\n\r\nc\nd\r", [b"a", b"b\r", b"", b"c", b"d"]),
    ("crlf, the last is bare", lambda: DelimiterReader(crlf=True), b"a\r\n\r", [b"a", b""]),
    ("crlf and skip_empty", lambda: DelimiterReader(crlf=True, skip_empty=True), b"\r\na\r\n\n", [b"a"]),
    ("NUL", lambda: DelimiterReader(b"\0"), b"a\nb\0\0c", [b"a\nb", b"", b"c"]),
    ("two bytes", lambda: DelimiterReader(b"\r\n"), b"a\r\nb\rc\nd\r\n\r", [b"a", b"b\rc\nd", b"\r"]),
    ("a delimiter like itself", lambda: DelimiterReader(b"aab"), b"aaab-aab-aaabaa", [b"a", b"-", b"-a", b"aa"]),
    ("the same byte twice", lambda: DelimiterReader(b"--"), b"a---b----c-", [b"a", b"-b", b"", b"c-"]),
    ("len32", Len32Reader, _len32(b"a", b"", b"\n" * 300), [b"a", b"", b"\n" * 300]),
    ("len32, nothing", Len32Reader, b"", []),
    ("whole", WholeReader, b"a\nb\0", [b"a\nb\0"]),
    ("whole, nothing", WholeReader, b"", [b""]),
]


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize(("make", "data", "records"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_reader(make: Callable[[], RecordReader], data: bytes, records: list[bytes], step: int) -> None:
    reader = make()
    for _ in range(2):  # a second file starts afresh
        found = [record for at in range(0, len(data), step) for record in reader.feed(data[at : at + step])]
        assert found + reader.finish() == records
    assert all(type(record) is bytes for record in found)


def test_records_come_as_soon_as_they_are_complete() -> None:
    reader = DelimiterReader()
    assert reader.feed(b"one\ntw") == [b"one"]
    assert reader.feed(b"o") == []
    assert reader.feed(b"\n") == [b"two"]
    lengths = Len32Reader()
    assert lengths.feed(_len32(b"one") + b"\0\0") == [b"one"]
    assert lengths.feed(b"\0\3tw") == []
    assert lengths.feed(b"o") == [b"two"]


def test_numbers_count_empty_records_and_files() -> None:
    reader = DelimiterReader(skip_empty=True)
    reader.feed(b"\n\na\n")
    assert reader.count == 3
    reader.feed(b"b")
    reader.finish()
    assert reader.count == 4


def test_empty_delimiter_and_negative_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="delimiter is empty"):
        DelimiterReader(b"")
    for make in (DelimiterReader, Len32Reader, WholeReader):
        with pytest.raises(ValueError, match="max_record"):
            make(max_record=-1)


# --- limits -------------------------------------------------------------------------------------------------


def _collect(reader: RecordReader, blocks: list[bytes]) -> tuple[list[bytes], list[int]]:
    """All good records, and the numbers of the bad ones, carrying on after each."""
    good: list[bytes] = []
    bad: list[int] = []
    calls: list[Callable[[], list[bytes]]] = [lambda block=block: reader.feed(block) for block in blocks]  # type: ignore[misc]
    calls.append(reader.finish)
    for call in calls:
        attempt = call
        while True:
            try:
                good += attempt()
                break
            except RecordError as error:
                good += error.before
                bad.append(error.number)
                attempt = reader.finish if call is reader.finish else lambda: reader.feed(b"")
    return good, bad


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda: DelimiterReader(max_record=3), b"abc\nabcd\n\nabcdefghi\nxyz\nabcd"),
        (lambda: DelimiterReader(b"\r\n", max_record=3), b"abc\r\nabcd\r\n\r\nabcdefghi\r\nxyz\r\nabcd"),
        (lambda: DelimiterReader(crlf=True, max_record=3), b"abc\r\nabcd\r\n\r\nabcdefghi\r\nxyz\r\nabcd\r"),
        (lambda: Len32Reader(max_record=3), _len32(b"abc", b"abcd", b"", b"abcdefghi", b"xyz", b"abcd")),
    ],
    ids=["lines", "two bytes", "crlf", "len32"],
)
def test_too_large_records_are_named_and_stepped_over(make: Callable[[], RecordReader], data: bytes, step: int) -> None:
    reader = make()
    good, bad = _collect(reader, [data[at : at + step] for at in range(0, len(data), step)])
    assert good == [b"abc", b"", b"xyz"]
    assert bad == [2, 4, 6]
    assert reader.count == 6


def test_the_error_carries_the_number_and_what_came_before() -> None:
    with pytest.raises(RecordError, match=r"record 3: larger than the limit of 5 bytes") as caught:
        DelimiterReader(max_record=5).feed(b"a\nb\ntoo long\nc\n")
    assert caught.value.number == 3
    assert caught.value.before == [b"a", b"b"]
    assert isinstance(caught.value, ValueError)


def test_an_endless_record_is_refused_before_it_ends() -> None:
    reader = DelimiterReader(max_record=1000)
    for _ in range(10):
        assert reader.feed(b"x" * 100) == []
    with pytest.raises(RecordError, match="record 1"):
        reader.feed(b"x")
    for _ in range(100):
        assert reader.feed(b"x" * 100) == []
    assert len(reader._unfinished) == 0
    assert reader.feed(b"\nok\n") == [b"ok"]


def test_a_length_is_believed_only_as_far_as_the_limit() -> None:
    reader = Len32Reader(max_record=100)
    with pytest.raises(RecordError, match="its length, 4294967295 bytes, is above the limit of 100 bytes") as caught:
        reader.feed(_len32(b"good") + b"\xff\xff\xff\xffabc")
    assert caught.value.before == [b"good"]
    assert caught.value.number == 2


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (b"\0\0", "after 2 of the 4 bytes of its length"),
        (b"\0\0\0\5ab", "after 2 of its 5 bytes"),
        (b"\0\0\0\5", "after 0 of its 5 bytes"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_cut_off_len32(cut: bytes, message: str, step: int) -> None:
    reader = Len32Reader()
    data = _len32(b"whole") + cut
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    with pytest.raises(RecordError, match=message) as caught:
        reader.finish()
    assert caught.value.number == 2
    assert reader.feed(_len32(b"next file")) == [b"next file"]
    assert reader.finish() == []


def test_a_whole_file_too_large() -> None:
    reader = WholeReader(max_record=3)
    reader.feed(b"abc")
    with pytest.raises(RecordError, match="record 1"):
        reader.feed(b"d")
    assert reader.feed(b"e") == []
    assert reader.finish() == []
    reader.feed(b"ok")
    assert reader.finish() == [b"ok"]
    assert reader.count == 2


# --- work -----------------------------------------------------------------------------------------------------


class _Counting(bytearray):
    """A bytearray that counts the bytes that go in."""

    copied = 0

    def __iadd__(self, other: object) -> _Counting:
        _Counting.copied += len(other)  # type: ignore[arg-type]
        super().__iadd__(other)  # type: ignore[arg-type]
        return self


class _Block(bytes):
    """A block that counts the bytes that are searched in it, and those copied out of it."""

    searched = 0

    def split(self, *args: object) -> list[bytes]:
        _Block.searched += len(self)
        return super().split(*args)  # type: ignore[arg-type]

    def __radd__(self, other: bytes) -> _Block:
        return _Block(bytes(other) + bytes(self))

    def __getitem__(self, key: slice) -> _Block:  # type: ignore[override]
        return _Block(super().__getitem__(key))


@pytest.mark.parametrize(
    ("make", "head", "tail"),
    [
        (DelimiterReader, b"", b"\n"),
        (lambda: DelimiterReader(b"\r\n", crlf=True), b"", b"\r\n"),
        (lambda: DelimiterReader(b"xxxy"), b"", b"xxxy"),
        (Len32Reader, struct.pack(">I", 4_000_000), b""),
        (WholeReader, b"", b""),
    ],
    ids=["line", "two bytes", "self-similar", "len32", "whole"],
)
def test_one_large_record_in_small_blocks_is_linear_work(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], RecordReader], head: bytes, tail: bytes
) -> None:
    monkeypatch.setattr(framing_in, "bytearray", _Counting, raising=False)
    monkeypatch.setattr(_Counting, "copied", 0)
    monkeypatch.setattr(_Block, "searched", 0)
    size, step = 4_000_000, 1000
    reader = make()
    found = reader.feed(_Block(head))
    for _ in range(size // step):
        found += reader.feed(_Block(b"x" * step))
    found += reader.feed(_Block(tail))
    found += reader.finish()
    assert list(map(len, found)) == [size]
    total = size + len(head) + len(tail)
    allowed = total + (size // step + 3) * 8  # what was held back of a delimiter is looked at twice
    assert _Counting.copied <= allowed
    assert _Block.searched <= allowed
