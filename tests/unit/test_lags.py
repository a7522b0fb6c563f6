"""What stored offsets and chunks mean for a lag: edges, clocks, sums and limits."""

from __future__ import annotations

import pytest

from rstream_cli.lags import Lag, Lags, Limit, Place, Places, Total, lag_of, parse_limit, rows_of
from rstream_core import ChunkSpan

NOW = 1000.0


def span(first: int, last: int, age: float = 0.0) -> ChunkSpan:
    return ChunkSpan(first, last, int((NOW - age) * 1000))


END = span(90, 99, age=1)


def lag(stored: int | None, *places: Place, end: ChunkSpan | None = END, first: int = 0) -> Lag:
    at_end = [] if end is None else [Place(end.first, end)]
    return lag_of("s", "n", stored, end, first, Places([*places, *at_end]), NOW)


def of(name: str, messages: int, seconds: float | None, gone: int = 0, stream: str = "s") -> Lag:
    return Lag(stream, name, 1, 99, messages, seconds, gone)


def lags(*known: Lag) -> Lags:
    return Lags("s", "s", ["s"], NOW, known, [])


class TestLagOf:
    @pytest.mark.parametrize(("stored", "messages"), [(89, 10), (90, 9), (98, 1), (99, 0), (100, 0), (2**64 - 1, 0)])
    def test_around_the_end(self, stored: int, messages: int) -> None:
        assert lag(stored) == Lag("s", "n", stored, 99, messages, 1.0 if messages else 0.0, 0)

    def test_an_empty_stream(self) -> None:
        assert lag(None, end=None) == Lag("s", "n", None, None, 0, 0.0, 0)
        assert lag(7, end=None) == Lag("s", "n", 7, None, 0, 0.0, 0)

    def test_nothing_stored_means_everything_that_is_there(self) -> None:
        assert lag(None, Place(0, span(0, 9, age=60))) == Lag("s", "n", None, 99, 100, 60.0, 0)
        assert lag(None, Place(40, span(40, 49, age=50)), first=40) == Lag("s", "n", None, 99, 60, 50.0, 0)

    def test_a_stored_zero_is_one_message(self) -> None:
        assert lag(0, Place(1, span(1, 9, age=60))).messages == 99

    def test_what_retention_took(self) -> None:
        found = lag(10, Place(40, span(40, 49, age=50)), first=40)
        assert (found.messages, found.seconds, found.gone) == (60, 50.0, 29)
        assert lag(39, Place(40, span(40, 49)), first=40).gone == 0
        assert lag(38, Place(40, span(40, 49)), first=40).gone == 1

    def test_records_of_the_broker_behind_the_stored_offset_are_no_messages(self) -> None:
        assert lag(10, Place(11, span(14, 19, age=5))) == Lag("s", "n", 10, 99, 86, 5.0, 0)

    def test_a_clock_that_is_ahead(self) -> None:
        assert lag(10, Place(11, span(11, 19, age=-30))).seconds == 0.0

    def test_a_chunk_that_could_not_be_read(self) -> None:
        assert lag(10) == Lag("s", "n", 10, 99, 89, None, 0)


def test_places_are_found_by_the_chunk_that_holds_the_offset() -> None:
    first, second, inside = Place(5, span(8, 19)), Place(30, span(30, 39)), Place(12, span(12, 19))
    places = Places([second, first, inside])
    assert [places.find(offset) for offset in (4, 5, 11, 12, 19, 20, 29, 30, 39, 40)] == [
        None,
        first,
        first,
        inside,
        inside,
        None,
        None,
        second,
        second,
        None,
    ]


def test_names_of_any_partition_count_for_all() -> None:
    stored = {"p-0": {"a": 1, "b": 2}, "p-1": {"b": 3}}
    rows = [("p-0", "a", 1), ("p-0", "b", 2), ("p-1", "a", None), ("p-1", "b", 3)]
    assert list(rows_of(stored, None)) == rows
    assert list(rows_of(stored, ["b", "b"])) == [rows[1], rows[3]]
    assert list(rows_of(stored, ["c"])) == [("p-0", "c", None), ("p-1", "c", None)]


def test_totals_and_their_order() -> None:
    one, two, three = of("a", 5, 9.0, stream="x"), of("a", 7, 2.0, stream="y"), of("b", 8, 1.0)
    gone, unread = of("c", 0, 0.0, gone=3), of("d", 90, None)
    found = lags(unread, three, one, two, gone).by_name()
    assert [total for total, _ in found] == [
        Total("c", 1, 0, 0.0, 3),
        Total("d", 1, 90, None, 0),
        Total("a", 2, 12, 9.0, 0),
        Total("b", 1, 8, 1.0, 0),
    ]
    assert found[2][1] == [two, one]
    assert Total.of([one, of("a", 1, None)]).seconds is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0", Limit(messages=0)),
        (" 1000 ", Limit(messages=1000)),
        (str(2**64 - 1), Limit(messages=2**64 - 1)),
        ("90s", Limit(seconds=90.0)),
        ("1h30m", Limit(seconds=5400.0)),
    ],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "1e3", str(2**64), "1" * 400, "٣", "5 minutes"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="messages"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("limit", "found", "expected"),
    [
        (Limit(messages=10), [of("a", 10, 99.0)], False),
        (Limit(messages=10), [of("a", 11, 0.0)], True),
        (Limit(messages=10), [of("a", 6, 0.0), of("a", 5, 0.0)], True),
        (Limit(messages=10), [of("a", 11, None)], True),
        (Limit(messages=10), [of("a", 1, None)], False),
        (Limit(messages=10), [of("a", 0, 0.0, gone=1)], True),
        (Limit(seconds=10.0), [of("a", 99, 10.0)], False),
        (Limit(seconds=10.0), [of("a", 1, 10.1)], True),
        (Limit(seconds=10.0), [of("a", 1, None)], None),
        (Limit(seconds=10.0), [of("a", 1, None), of("a", 1, 11.0)], True),
        (Limit(seconds=10.0), [of("a", 0, 0.0, gone=1)], True),
    ],
)
def test_what_passes_a_limit(limit: Limit, found: list[Lag], expected: bool | None) -> None:
    assert limit.is_passed(Total.of(found), found) is expected
