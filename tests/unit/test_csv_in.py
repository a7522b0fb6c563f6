"""``publish --input csv``: the cells of rows, as Python's own writer makes them."""

from __future__ import annotations

import csv
import io
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rstream_cli.records.csv_in import CsvReader, unpacked
from rstream_cli.records.framing_in import RecordError

Event = bytes | tuple[int, str]


def read(reader: CsvReader, data: bytes, step: int = 0) -> list[Event]:
    """The records of a file in blocks of ``step`` bytes; the numbers and words of bad ones in their place."""
    found: list[Event] = []
    blocks = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    for block in blocks:
        take(partial(reader.feed, block), found, partial(reader.feed, b""))
    take(reader.finish, found, reader.finish)
    return found


def take(step: Callable[[], list[bytes]], found: list[Event], then: Callable[[], list[bytes]]) -> None:
    """What a step gives, and what comes behind each bad record in it."""
    while True:
        try:
            found += step()
        except RecordError as error:
            found += [*error.before, (error.number, error.message)]
            step = then
        else:
            return


def bodies(data: bytes, *, column: bytes = b"body", step: int = 0, limit: int = 1000) -> list[Event]:
    return read(CsvReader([column], max_record=limit), data, step)


CELLS = st.lists(st.sampled_from([b'"', b",", b"\r", b"\n", b"\r\n", b"a", b" ", b"\xff", b"\0x", b"\xc3\xa4"])).map(
    b"".join
)


def python_writes(rows: list[list[bytes]], quoting: Literal[0, 1], end: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=end).writerows(
        [[cell.decode("latin-1") for cell in row] for row in rows]
    )
    return text.getvalue().encode("latin-1")


@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width))),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([0, 1, 2, 3, 7]),
    st.booleans(),
)
@example([[b""]], csv.QUOTE_MINIMAL, "\n", 1, True)
@example([[b"", b""]], csv.QUOTE_MINIMAL, "\n", 1, True)
def test_what_python_writes_is_read(
    rows: list[list[bytes]], quoting: Literal[0, 1], end: str, step: int, all_ended: bool
) -> None:
    if end == "\n":
        quoting = csv.QUOTE_ALL  # else Python leaves a CR that is a cell's last byte before the line end without quotes
    width = len(rows[0]) if rows else 2
    names = [b"c%d" % number for number in range(width)]
    data = python_writes([names, *rows], quoting, end)
    if not all_ended and not (rows and rows[-1] == [b""]):
        data = data.removesuffix(end.encode())
    for number, name in enumerate(names):
        assert read(CsvReader([name]), data, step) == [row[number] for row in rows]
    found = read(CsvReader(names), data, step)
    unpack = unpacked(width)
    assert [unpack(record) for record in found if isinstance(record, bytes)] == rows
    assert len(found) == len(rows)


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"body", []),
        (b"body\n", []),
        (b"body\na\nb", [b"a", b"b"]),
        (b"body\r\na\r\nb\r\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfbody\na\n", [b"a"]),
        (b'\xef\xbb\xbf"body"\na\n', [b"a"]),
        (b"body\n\xef\xbb\xbfa\n", [b"\xef\xbb\xbfa"]),
        (b"\n\r\nbody\n\na\n\n", [b"", b"a", b""]),
        (b"n,body\n\n1,a\n\r\n2,b\n\n", [b"a", b"b"]),
        (b"n,body\n,\n1,\n", [b"", b""]),
        (b'n,body\n1,"a\nb"\n2,"c\r\n"\r\n3,"""d"","\n', [b"a\nb", b"c\r\n", b'"d",']),
        (b'n,body\n1,"a\n\n\nb"\n', [b"a\n\n\nb"]),
        (b'n,body\n"1\n2",a\n"3","\n"\n', [b"a", b"\n"]),
        (b'n,body\n1,""\n2,""""\n3,""""""\n', [b"", b'"', b'""']),
        (b"n,body\n1,a\rb\n2,c\r", [b"a\rb", b"c\r"]),
        (b"n,body\n1, a \n2,\x00\xff\n", [b" a ", b"\x00\xff"]),
        (b'"bo""dy",body\n1,2\n', [b"2"]),
        (b'"a,b",body\n1,2\n', [b"2"]),
    ],
    ids=repr,
)
def test_what_is_read(data: bytes, expected: list[bytes], step: int) -> None:
    assert bodies(data, step=step) == expected


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"n,body\n1\n2,b\n", [(1, "it has 1 cell, and the row of names has 2"), b"b"]),
        (b"n,body\n1,a\n2,b,c\n3,d\n", [b"a", (2, "it has 3 cells, and the row of names has 2"), b"d"]),
        (b'n,body\n1,"a,b\n2,c\n', [(1, "a quotation mark is left open at the end of the input")]),
        (b'n,body\n1,x\n1,"a\n', [b"x", (2, "a quotation mark is left open at the end of the input")]),
        (b'n,body\n1,"', [(1, "a quotation mark is left open at the end of the input")]),
        (
            b'n,body\n1,5" pipe\n2,6" pipe\n3,c\n',
            [
                (1, "a quotation mark in cell 2: it is not quoted as a whole"),
                (2, "a quotation mark in cell 2: it is not quoted as a whole"),
                b"c",
            ],
        ),
        (
            b'n,body\n"1"x,"a\nb"\n2,c\n',
            [(1, "a quotation mark in cell 1: there is something behind its closing quotation mark"), b"c"],
        ),
        (
            b'n,body\n1,"a" \n2,c\n',
            [(1, "a quotation mark in cell 2: there is something behind its closing quotation mark"), b"c"],
        ),
        (b"n,bodi\n1,a\n2,b\n", [(1, "the row of names has no column 'body'; did you mean 'bodi'?")]),
        (b"x,y\n1,a\n", [(1, "the row of names has no column 'body'")]),
        (
            b"n,body\r1,a\r2,b\r",
            [(1, "the row of names has no column 'body'; there is a CR in it, and rows end in LF or CR LF")],
        ),
        (b"body,n,body\n1,a,b\n", [(1, "the row of names has the column 'body' 2 times")]),
        (b'n"x,body\n1,a\n', [(1, "a quotation mark in cell 1: it is not quoted as a whole")]),
        (b'\xef\xbb\xbf\xef\xbb\xbf"body"\na\n', [(1, "a quotation mark in cell 1: it is not quoted as a whole")]),
        (b'\xef\xbb\xbf"body', [(1, "a quotation mark is left open at the end of the input")]),
    ],
    ids=repr,
)
def test_what_is_bad(data: bytes, expected: list[Event], step: int) -> None:
    assert bodies(data, step=step) == expected


@pytest.mark.parametrize("step", [0, 1, 3, 16, 64])
@pytest.mark.parametrize(
    "row",
    [
        b"1," + b"x" * 63,
        b'1,"' + b"x" * 63 + b'"',
        b'1,"' + b"x\n" * 40 + b'"',
        b'1,"' + b'""\n' * 40 + b'"',
        b'"' + b"\n" * 80 + b'",1',
        b'1,"x"' + b"y" * 70,
    ],
    ids=repr,
)
def test_a_row_that_is_too_large_is_left_out(row: bytes, step: int) -> None:
    data = b"n,body\n1,a\n" + row + b'\n2,"b\nc"\n' + row + b"\n3,d\n" + row
    large = "larger than the limit of 60 bytes"
    expected: list[Event] = [b"a", (2, large), b"b\nc", (4, large), b"d", (6, large)]
    assert bodies(data, step=step, limit=60) == expected


@pytest.mark.parametrize("begin", [b"1,", b'1,"', b'1,"a\n', b'1,"' + b"\n" * 50])
def test_a_row_that_is_too_large_is_told_of_before_its_end_comes(begin: bytes) -> None:
    reader = CsvReader([b"body"], max_record=60)
    assert reader.feed(b"n,body\n" + begin + b"x" * (60 - len(begin))) == []
    with pytest.raises(RecordError, match="larger than the limit of 60 bytes"):
        reader.feed(b"x")


def test_a_row_of_the_largest_size_is_read() -> None:
    row = b'1,"' + b"x\n" * 28 + b'"'
    assert len(row) == 60
    assert bodies(b"n,body\n" + row + b"\n", limit=60) == [b"x\n" * 28]
    assert bodies(b"n,body\n1," + b"x" * 58 + b"\n", limit=60) == [b"x" * 58]


def test_a_row_of_names_that_is_too_large_makes_the_file_bad() -> None:
    reader = CsvReader([b"body"], max_record=60)
    for step in (0, 1, 7):
        reader.count = 0
        assert read(reader, b"n," + b"x" * 70 + b"\n1,a\n", step) == [(1, "larger than the limit of 60 bytes")]
        assert read(reader, b"body\na\n", step) == [b"a"]


def test_each_file_has_names_of_its_own() -> None:
    reader = CsvReader([b"body", b"n"])
    unpack = unpacked(2)
    files = [b"n,body\n1,a\n", b"body,x,n\nb,,2\n", b"", b"x\n1\n", b"body,n\nc,3"]
    found = [event for data in files for event in read(reader, data)]
    assert [unpack(event) if isinstance(event, bytes) else event[0] for event in found] == [
        [b"a", b"1"],
        [b"b", b"2"],
        3,
        [b"c", b"3"],
    ]
    assert reader.count == 4


def test_a_file_begins_anew_behind_a_bad_end() -> None:
    reader = CsvReader([b"body"])
    assert read(reader, b'body\n"a') == [(1, "a quotation mark is left open at the end of the input")]
    assert read(reader, b"body\nb\n") == [b"b"]


@given(
    st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"a", b"body", b"\xef\xbb\xbf"]), max_size=30).map(b"".join),
    st.integers(0, 4),
)
def test_any_bytes_are_rows_or_bad_records(data: bytes, step: int) -> None:
    found = read(CsvReader([b"body"]), data, step)
    assert found == read(CsvReader([b"body"]), data, 0)


def costly_rows(count: int) -> list[bytes]:
    """Rows of up to ``8 * count`` bytes, of which a reader may make much."""
    return [
        b'"' + b'""' * (count * 4) + b'"',
        b'"' + b"\n" * (count * 8) + b'"',
        b'"a"' * (count * 5 // 2),
        b'"a",' * (count * 5 // 2) + b'"',
        b'"",' * (count * 5 // 2),
        b'"a"b,' * (count * 2),
        b"a," * (count * 4) + b'"b"',
        b'"' + b'a""' * (count * 5 // 2),
    ]


@pytest.mark.parametrize("row", costly_rows(10_000), ids=lambda row: repr(row[:8]))
def test_what_a_row_takes_is_in_proportion_to_it(row: bytes) -> None:
    tracemalloc.start()
    try:
        read(CsvReader([b"body"]), b"n,body\n" + row + b"\n")
        assert tracemalloc.get_traced_memory()[1] < 20 * len(row)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cell", costly_rows(100_000), ids=lambda cell: repr(cell[:8]))
def test_the_time_is_linear(cell: bytes) -> None:
    began = time.process_time()
    reader = CsvReader([b"body"])
    for block in (b"n,body\n1,", *(cell[at : at + 1000] for at in range(0, len(cell), 1000)), b"\n"):
        take(partial(reader.feed, block), [], partial(reader.feed, b""))
    assert time.process_time() - began < 5
