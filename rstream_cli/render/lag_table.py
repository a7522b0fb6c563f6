"""Shows lags: as a table of 80 columns where the names are not longer, and as JSON."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rstream_cli import terminal
from rstream_cli.lags import Lag, Lags, Total
from rstream_cli.render import words
from rstream_cli.render.columns import columns, width

WIDTH = 80
ALL = "(all)"
"""What stands for the partitions in the line of a total. A partition of that name is told apart from it by a stored
offset in its line, or a dash."""


class _Row(NamedTuple):
    name: str
    partition: str
    stored: str
    last: str
    messages: str
    behind: str
    gone: str


_HEAD = _Row("name", "partition", "stored", "last", "messages", "behind", "gone")


class Kind(enum.Enum):
    """What a line of the table is."""

    HEAD = enum.auto()
    TOTAL = enum.auto()
    ROW = enum.auto()


class Line(NamedTuple):
    """A line of the table. A row takes two where its names stand in a line of their own."""

    text: str
    kind: Kind


def table(lags: Lags, most: int = WIDTH) -> str:
    """The text of ``lines_of``."""
    return "".join(f"{line.text}\n" for line in lines_of(lags, most))


def lines_of(lags: Lags, most: int = WIDTH) -> list[Line]:
    """A line for each name and stream, those furthest behind first, and one for each stream that could not be asked.

    Where a line would be wider than ``most`` columns, the names stand in lines of their own. Of a super stream, the
    partitions of a name follow the line of their total. Empty where nothing is known.
    """
    rows = list(_rows(lags))
    lines = list(_lines([(Kind.HEAD, _HEAD), *rows], lags, most)) if rows else []
    for each in lags.unknown:
        lines.append(Line(f"{terminal.name(each.stream)}: not known: {terminal.line(str(each.error))}", Kind.ROW))
    return lines


def _rows(lags: Lags) -> Iterator[tuple[Kind, _Row]]:
    for total, found in lags.by_name():
        if lags.super_stream is not None and len(found) > 1:
            yield Kind.TOTAL, _row_of_total(total)
        yield from ((Kind.ROW, _row(lag)) for lag in found)


def _row(lag: Lag) -> _Row:
    stored, last = ("-" if offset is None else words.count(offset) for offset in (lag.stored, lag.last))
    return _Row(terminal.name(lag.name), terminal.name(lag.stream), stored, last, *_measures(lag))


def _row_of_total(total: Total) -> _Row:
    return _Row(terminal.name(total.name), ALL, "", "", *_measures(total))


def _measures(lag: Lag | Total) -> tuple[str, str, str]:
    return words.count(lag.messages), behind(lag.seconds), words.count(lag.gone) if lag.gone else ""


def behind(seconds: float | None) -> str:
    """``3 min``; a dash where it is not known."""
    if seconds is None:
        return "-"
    return "<1 s" if 0 < seconds < 1 else words.rough(seconds)


def _lines(kinds_and_rows: Sequence[tuple[Kind, _Row]], lags: Lags, most: int) -> Iterator[Line]:
    kinds, rows = zip(*kinds_and_rows, strict=True)
    is_super, has_gone = lags.super_stream is not None, any(lag.gone for lag in lags.known)
    names = [row[: 2 if is_super else 1] for row in rows]
    numbers = [row[2 : 7 if has_gone else 6] for row in rows]
    beside = columns(
        [(*left, *right) for left, right in zip(names, numbers, strict=True)],
        right=range(len(names[0]), len(names[0]) + len(numbers[0])),
    ).splitlines()
    if max(map(width, beside)) <= most:
        yield from map(Line, beside, kinds)
        return
    below = columns(numbers, right=range(len(numbers[0]))).splitlines()
    for kind, left, right in zip(kinds, names, below, strict=True):
        yield Line("  ".join(left), kind)
        yield Line(f"  {right}", kind)


def records(lags: Lags) -> list[dict[str, Any]]:
    """An object for each name and stream, those furthest behind first, and one for each stream that is not known."""
    known = [
        {
            "stream": lag.stream,
            "super_stream": lags.super_stream,
            "name": lag.name,
            "stored_offset": lag.stored,
            "last_offset": lag.last,
            "lag_messages": lag.messages,
            "lag_seconds": None if lag.seconds is None else round(lag.seconds, 3),
            "gone": lag.gone,
            "error": None,
        }
        for lag in lags.known
    ]
    unknown = [
        dict.fromkeys(_FIELDS) | {"stream": each.stream, "super_stream": lags.super_stream, "error": str(each.error)}
        for each in lags.unknown
    ]
    return known + unknown


_FIELDS = (
    "stream",
    "super_stream",
    "name",
    "stored_offset",
    "last_offset",
    "lag_messages",
    "lag_seconds",
    "gone",
    "error",
)
