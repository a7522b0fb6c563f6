"""How lags look: 80 columns, names that are longer, totals, durations, and displays that are too small."""

from __future__ import annotations

import pytest

from rstream_cli.lags import Lag, Lags, Place, Places, Unknown, lag_of
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
    assert len(shown) <= max(lines, 3)
    if columns == 80 and lines == 4:
        assert [line.plain for line in shown] == [
            "13:50:45 UTC, every 2 s  no answer for 4 s",
            "name     partition     stored       last   messages  behind  gone",
            "audit    (all)                                  100       -    30",
            "and 6 more lines",
        ]


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
