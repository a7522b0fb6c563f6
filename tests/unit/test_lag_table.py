"""How lags look: 80 columns, names that are longer, totals, durations, and displays that are too small."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from rstream_cli.environment import ColorChoice, Environment, PrettyChoice
from rstream_cli.lag_run import view_for
from rstream_cli.lags import Lag, Lags, Place, Places, Unknown, lag_of
from rstream_cli.render.columns import width
from rstream_cli.render.lag_live import layout
from rstream_cli.render.lag_table import behind, records, table
from rstream_cli.render.prometheus import exposition
from rstream_core import ChunkSpan, StreamNotAvailable

ORDERS = Lags(
    "orders",
    "orders",
    ["orders-0", "orders-1"],
    1_764_510_645.0,
    [
        Lag("orders-0", "billing", 1_234_566, 9_999_999, 8_765_433, 7300.0, 0),
        Lag("orders-1", "billing", None, 41, 42, 0.4, 0),
        Lag("orders-1", "audit", 41, 41, 0, 0.0, 0),
        Lag("orders-0", "audit", 10, 9_999_999, 100, None, 30),
    ],
    [Unknown("orders-2", StreamNotAvailable("stream 'orders-2': not now"))],
)


def test_a_super_stream() -> None:
    assert table(ORDERS) == (
        "name     partition     stored       last   messages  behind  gone\n"
        "audit    (all)                                  100       -    30\n"
        "audit    orders-0          10  9,999,999        100       -    30\n"
        "audit    orders-1          41         41          0     0 s\n"
        "billing  (all)                            8,765,475     2 h\n"
        "billing  orders-0   1,234,566  9,999,999  8,765,433     2 h\n"
        "billing  orders-1           -         41         42    <1 s\n"
        "orders-2: not known: stream 'orders-2': not now\n"
    )


def test_names_that_are_longer_stand_in_lines_of_their_own() -> None:
    name = "n" * 70
    lags = Lags("s", None, ["s"], 0.0, [Lag("s", name, 3, 9, 6, 90.0, 0)], [])
    assert table(lags) == f"name\n  stored  last  messages  behind\n{name}\n       3     9         6    90 s\n"
    assert table(lags, 120).splitlines()[1].split() == [name, "3", "9", "6", "90", "s"]


def test_nothing() -> None:
    assert table(Lags("s", None, ["s"], 0.0, [], [])) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0.0, "0 s"), (0.001, "<1 s"), (0.999, "<1 s"), (1.0, "1 s"), (119.9, "119 s"), (120.0, "2 min")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert behind(seconds) == shown


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 200])
@pytest.mark.parametrize("lines", [1, 2, 3, 4, 8, 24])
def test_a_display_is_never_larger_than_its_terminal(columns: int, lines: int) -> None:
    shown = layout(ORDERS, 2.0, "no answer for 4 s", columns, lines)
    assert max(line.cell_len for line in shown) <= columns
    assert len(shown) <= lines
    if columns == 80 and lines == 4:
        assert [line.plain for line in shown] == [
            "13:50:45 UTC, every 2 s  no answer for 4 s",
            "name     partition     stored       last   messages  behind  gone",
            "audit    (all)                                  100       -    30",
            "and 6 more lines",
        ]


def test_all_of_the_head_is_bold_and_each_total() -> None:
    """The head has two lines where the names stand in lines of their own, and so has a total. A name is not one."""
    lags = Lags("p", "p", ["p-0", "p-1"], 0.0, [Lag("p-0", "x (all)", 3, 9, 6, 90.0, 0)], [])
    assert bold(lags, 80) == ["name     partition  stored  last  messages  behind"]
    assert bold(lags, 36) == ["name  partition", "  stored  last  messages  behind"]
    both = replace(lags, known=[*lags.known, Lag("p-1", "x (all)", 9, 9, 0, 0.0, 0)])
    assert [line.split() for line in bold(both, 80)[1:]] == [["x", "(all)", "(all)", "6", "90", "s"]]
    assert [line.split() for line in bold(both, 36)[2:]] == [["x", "(all)", "(all)"], ["6", "90", "s"]]


def bold(lags: Lags, columns: int) -> list[str]:
    return [line.plain for line in layout(lags, 2.0, "", columns, 24) if line.style == "bold"]


def test_wide_names_count_as_wide_as_they_are_shown() -> None:
    """A Chinese character takes two columns."""
    lags = Lags("s", None, ["s"], 0.0, [Lag("s", "消费者" * 8, 3, 9, 6, 90.0, 0)], [])
    for columns in (60, 70, 79, 80):
        lines = table(lags, columns).splitlines()
        assert (len(lines) == 2) is (columns >= max(map(width, table(lags, 1000).splitlines())))
        assert max(map(width, lines)) <= columns


def test_a_dumb_terminal_has_a_table_of_its_width() -> None:
    name = "n" * 40
    lags = Lags("s", None, ["s"], 0.0, [Lag("s", name, 3, 9, 6, 90.0, 0)], [])
    for columns, lines in ((60, 5), (80, 3)):
        screen = io.StringIO()
        env = Environment(
            stdin=io.StringIO(),
            stdout=screen,
            stderr=io.StringIO(),
            variables={"TERM": "dumb", "COLUMNS": str(columns)},
            stdout_is_tty=True,
        )
        view_for(env, "table", 2.0, PrettyChoice.AUTO, ColorChoice.AUTO).update(lags)
        shown = screen.getvalue().splitlines()
        assert len(shown) == lines
        assert max(map(len, shown)) <= columns


@pytest.mark.parametrize("timestamp", [-(2**63), -1, 0, 2**63 - 1])
def test_times_that_cannot_be(timestamp: int) -> None:
    """A peer may say anything."""
    end = ChunkSpan(5, 2**64 - 1, timestamp)
    lag = lag_of("s", "n", 6, end, 0, Places([Place(5, end)]), 1000.0)
    assert lag.seconds is not None
    assert lag.seconds >= 0
    lags = Lags("s", None, ["s"], 1000.0, [lag], [])
    assert f"  {2**64 - 1:,}  {2**64 - 7:,}  " in table(lags)
    assert records(lags)[0]["lag_messages"] == 2**64 - 7
    assert f" {2**64 - 7}\n" in exposition(lags)
