"""``publish --input csv``: rows of CSV, as RFC 4180 has it, byte for byte.

Each file begins with a row of names, and the columns are found by them: they may stand in another order in the next
file. A row ends in LF or CR LF outside of quotation marks. A cell that begins with a quotation mark ends at the next
one that is not doubled; between them all bytes are data, also line ends. A byte order mark at the begin of a file is
left out, and so is an empty line, unless there is only one column, where it is an empty cell.

A row is bad, and only that one, if it has not as many cells as the row of names, a quotation mark in a cell that does
not begin with one, or anything but a comma behind a closing one. A file is bad as a whole if its row of names is, or
lacks a column that is asked for.

Lines without a quotation mark, which are most, cost a ``split`` each. Regular expressions pass over the cells of
others, in linear time, since nothing is tried twice. ``re`` notes each round of a repeated group, so one match takes
some hundreds of rounds at most. No group is possessive: Python before 3.11.5 misreads those (python/cpython#106052).
"""

from __future__ import annotations

import difflib
import os
import re
import struct
from collections.abc import Callable, Sequence

from rstream_cli.encoding import Cells, Encoder, Extras, Looks, cells_encoder
from rstream_cli.options.publishing import PublishOptions
from rstream_cli.records.framing_in import DEFAULT_MAX_RECORD, RecordError

_WHOLE_CELLS = re.compile(rb'(?:"[^"]*+"[^,]*+,|(?!")[^,]*+,){1,256}')
"""Cells with the comma behind them, in a line without doubled quotation marks."""
_DOUBLED = re.compile(rb'(?:[^"]*+""){1,256}')
"""In a quoted cell: up to behind a doubled quotation mark."""
_PLAIN_CELL = re.compile(rb'[^",]*+(?=,|\Z)')
_MARK = b"\xef\xbb\xbf"
DEFAULT_BODY = "body"


def csv_reader(given: PublishOptions, looks: Looks) -> CsvReader:
    """Returns a reader of the columns that the options ask for."""
    return CsvReader(
        [os.fsencode(DEFAULT_BODY if given.body_from is None else given.body_from), *_others(looks).values()]
    )


def csv_encoder(_: PublishOptions, looks: Looks, extras: Extras, raw: bool) -> Encoder:
    """Returns an encoder of what ``csv_reader`` reads."""
    others = tuple(_others(looks))
    unpack = unpacked(1 + len(others))

    def cells_of(record: bytes) -> Cells:
        body, *rest = unpack(record)
        return Cells(body, **dict(zip(others, rest, strict=True)))

    return cells_encoder(extras, looks, cells_of, raw=raw)


def _others(looks: Looks) -> dict[str, bytes]:
    """The fields of ``Cells`` beside the body, with the columns that they come from."""
    paths = {"publishing_id": looks.id_from, "filter_value": looks.filter_from, "key": looks.key_from}
    return {field: os.fsencode(str(path[0])) for field, path in paths.items() if path is not None}


class CsvReader:
    """Reads rows, and gives of each the cells of some columns: a ``RecordReader``.

    A record is the cell itself where one column is asked for, else what ``unpacked`` takes apart.
    """

    def __init__(self, columns: Sequence[bytes], *, max_record: int = DEFAULT_MAX_RECORD) -> None:
        """``columns``: the names of those that are asked for, at least one. ``max_record``: of a row, in bytes."""
        self.count = 0
        self._columns = list(columns)
        self._max_record = max_record
        self._lines: list[bytes] = []
        """Whole lines that are not read yet, without their LF, from ``_at`` on."""
        self._at = 0
        self._unfinished = bytearray()
        """The begin of a line."""
        self._row = bytearray()
        """The lines of a row that is not whole: the last one ends inside of quotation marks."""
        self._names: list[bytes] = []
        """The row of names of this file, once it is read."""
        self._indexes: list[int] = []
        """Where the columns that are asked for are in a row."""
        self._is_bad_file = False
        self._is_dropping = False
        """Whether the present row was too large, and is left out up to its end."""
        self._is_open = False
        """While dropping: whether the number of quotation marks in the row so far is odd."""

    def feed(self, block: bytes) -> list[bytes]:
        """Takes a block, and returns the rows that are complete now. RecordError as ``RecordReader`` says."""
        if self._is_bad_file:
            return []
        if block:
            if self._is_dropping:
                block = self._behind_the_row(block)
            lines = block.split(b"\n")
            last = lines.pop()
            if lines and self._unfinished:
                lines[0] = bytes(self._unfinished + lines[0])
                self._unfinished = bytearray()
            self._unfinished += last
            self._lines += lines
        records = self._read()
        if len(self._row) + len(self._unfinished) > self._max_record:
            self._is_open = (self._row.count(b'"') + self._unfinished.count(b'"')) % 2 == 1
            self._is_dropping = True
            self._row, self._unfinished = bytearray(), bytearray()
            raise self._too_large(records)
        return records

    def finish(self) -> list[bytes]:
        """Ends a file: reads a last row without a line end. RecordError as ``RecordReader`` says."""
        records = self.feed(b"")
        line, self._unfinished = bytes(self._unfinished), bytearray()
        try:
            if line and not self._is_dropping:
                row = self._whole_row(line)
                if row is not None:
                    self._add(row, records)
            if self._row:
                raise self._bad("a quotation mark is left open at the end of the input", records)
        finally:
            self._row = bytearray()
            self._names, self._is_bad_file, self._is_dropping = [], False, False
        return records

    def _read(self) -> list[bytes]:
        """Reads the whole lines."""
        records: list[bytes] = []
        lines, limit = self._lines, self._max_record
        while self._at < len(lines):
            line = lines[self._at]
            self._at += 1
            if not self._row and b'"' not in line and len(line) <= limit:
                row = line.removesuffix(b"\r")
                cells = row.split(b",")
                if len(cells) == len(self._names) and len(self._indexes) == 1:  # the usual row, and all that it needs
                    self.count += 1
                    records.append(cells[self._indexes[0]])
                    continue
            else:
                found = self._whole_row(line)
                if len(self._row) > limit:
                    return self._leave_out_the_row(records)
                if found is None:
                    continue
                if len(found) > limit:
                    raise self._too_large(records)
                row = found.removesuffix(b"\r")
            self._add(row, records)
            if self._is_bad_file:
                break
        self._lines, self._at = [], 0
        return records

    def _whole_row(self, line: bytes) -> bytes | None:
        """Returns the row that ends with this line; None if it goes on behind it."""
        if self._row:
            goes_on = _ends_in_quotes(b'"' + line)
        else:
            goes_on = _ends_in_quotes(line if self._names else line.removeprefix(_MARK))
        if not self._row and not goes_on:
            return line
        self._row += line
        if goes_on:
            self._row += b"\n"
            return None
        row = bytes(self._row)
        self._row = bytearray()
        return row

    def _add(self, row: bytes, records: list[bytes]) -> None:
        """Appends the record of a row, without its line end."""
        names = self._names
        if not names:
            self._read_names(row.removeprefix(_MARK), records)
            return
        if not row and len(names) > 1:
            return
        cells = self._cells(row, records) if b'"' in row else row.split(b",")
        if len(cells) != len(names):
            raise self._bad(f"it has {_number_of_cells(len(cells))}, and the row of names has {len(names)}", records)
        self.count += 1
        indexes = self._indexes
        records.append(cells[indexes[0]] if len(indexes) == 1 else _packed([cells[index] for index in indexes]))

    def _cells(self, row: bytes, records: list[bytes]) -> list[bytes]:
        cells: list[bytes] = []
        at = 0
        while True:
            is_quoted = row.startswith(b'"', at)
            if is_quoted:
                end = _closing_mark(row, at + 1)
                cell, end = row[at + 1 : end].replace(b'""', b'"'), end + 1
                is_whole = end == len(row) or row.startswith(b",", end)
            else:
                found = _PLAIN_CELL.match(row, at)
                cell, end, is_whole = (b"", at, False) if found is None else (found[0], found.end(), True)
            if not is_whole:
                why = (
                    "there is something behind its closing quotation mark"
                    if is_quoted
                    else "it is not quoted as a whole"
                )
                raise self._bad(f"a quotation mark in cell {len(cells) + 1}: {why}", records)
            cells.append(cell)
            at = end + 1
            if at > len(row):
                return cells

    def _read_names(self, row: bytes, records: list[bytes]) -> None:
        if not row:
            return
        try:
            names = self._cells(row, records)
            self._indexes = [self._index_of(name, names, records) for name in self._columns]
        except RecordError:
            self._give_up_file()
            raise
        self._names = names

    def _give_up_file(self) -> None:
        self._is_bad_file = True
        self._lines, self._at, self._unfinished = [], 0, bytearray()

    def _index_of(self, column: bytes, names: list[bytes], records: list[bytes]) -> int:
        if names.count(column) == 1:
            return names.index(column)
        shown = _shown(column)
        if column in names:
            raise self._bad(f"the row of names has the column {shown} {names.count(column)} times", records)
        near = difflib.get_close_matches(_text(column), map(_text, names), n=1, cutoff=0.6)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        if any(b"\r" in name for name in names):
            meant = "; there is a CR in it, and rows end in LF or CR LF"
        raise self._bad(f"the row of names has no column {shown}{meant}", records)

    def _leave_out_the_row(self, records: list[bytes]) -> list[bytes]:
        """Goes on behind a row that is too large, of which whole lines have been read."""
        rest = b"\n".join([*self._lines[self._at :], bytes(self._unfinished)])
        self._is_open = self._row.count(b'"') % 2 == 1
        self._row, self._unfinished = bytearray(), bytearray()
        self._is_dropping = True
        *lines, last = self._behind_the_row(rest).split(b"\n")
        self._lines, self._at, self._unfinished = lines, 0, bytearray(last)
        raise self._too_large(records)

    def _behind_the_row(self, block: bytes) -> bytes:
        """Returns what is behind the end of the row that is left out."""
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            self._is_open ^= block.count(b'"', start, end) % 2 == 1
            start = end + 1
            if not self._is_open:
                self._is_dropping = False
                return block[start:]
        self._is_open ^= block.count(b'"', start) % 2 == 1
        return b""

    def _too_large(self, records: list[bytes]) -> RecordError:
        if not self._names:
            self._give_up_file()
        return self._bad(f"larger than the limit of {self._max_record} bytes", records)

    def _bad(self, message: str, records: list[bytes]) -> RecordError:
        self.count += 1
        return RecordError(self.count, message, records)


def _ends_in_quotes(line: bytes) -> bool:
    """Whether a line, which begins a row, ends inside of a quoted cell."""
    line = line.replace(b'""', b"")  # it neither opens nor closes a cell, or does both
    at = 0
    while found := _WHOLE_CELLS.match(line, at):
        at = found.end()
    return line.startswith(b'"', at) and line.find(b'"', at + 1) < 0


def _closing_mark(row: bytes, start: int) -> int:
    """Returns where the quoted cell ends whose first byte is at ``start``: it ends in this row."""
    while found := _DOUBLED.match(row, start):
        start = found.end()
    return row.index(b'"', start)


def _packed(cells: list[bytes]) -> bytes:
    return b"".join([struct.pack(f">{len(cells)}I", *map(len, cells)), *cells])


def unpacked(number: int) -> Callable[[bytes], list[bytes]]:
    """Returns a function that gives the cells of a record with so many."""
    if number == 1:
        return lambda record: [record]
    sizes = struct.Struct(f">{number}I")

    def unpack(record: bytes) -> list[bytes]:
        at, cells = sizes.size, []
        for size in sizes.unpack_from(record):
            cells.append(record[at : at + size])
            at += size
        return cells

    return unpack


def _number_of_cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _shown(name: bytes) -> str:
    return repr(_text(name))
