"""The small languages of the command line: what they accept, what they give, and what they say when they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from rstream_cli.parsing import (
    Rate,
    Start,
    StartKind,
    Until,
    UntilKind,
    is_before,
    parse_delimiter,
    parse_duration,
    parse_header,
    parse_max_age,
    parse_offset,
    parse_pair,
    parse_rate,
    parse_size,
    parse_timeout,
    parse_until,
    unescape,
)
from rstream_cli.records.paths import parse_path
from tests.brokers import IS_MEASURED

NOW = 1_795_428_000.0  # 2026-11-23T10:00:00Z


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("10s", 10),
        ("1.5h", 5400),
        ("7d", 604800),
        ("2w", 1209600),
        (".5s", 0.5),
        ("0", 0),
        ("0.0", 0),
        ("1h30m", 5400),
        ("500us", 0.0005),
        (" 5m ", 300),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("0.25", 0.25), (" 5 ", 5)])
def test_a_number_without_a_unit_is_seconds_in_timeouts_alone(text: str, seconds: float) -> None:
    assert parse_timeout(text) == seconds
    number = text.strip()
    words = f"^a duration without a unit: '{text}'; give {number}ms, {number}s, {number}m or {number}h$"
    with pytest.raises(ValueError, match=words):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 s", "5x", "1h30", "ten", "1e3", "inf", "nan", "٣s", "9" * 20])
def test_bad_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("7d", "7D"),
        ("7D", "7D"),
        ("12h", "12h"),
        ("30m", "30m"),
        ("6M", "6M"),
        ("1y", "1Y"),
        ("2w", "14D"),
        ("90s", "90s"),
        ("007d", "7D"),
    ],
)
def test_max_age(text: str, age: str) -> None:
    assert parse_max_age(text) == age


@pytest.mark.parametrize("text", ["", "d", "1.5h", "-1d", "0d", "7x", "1h30m", "20ms"])
def test_bad_max_age(text: str) -> None:
    with pytest.raises(ValueError, match="age"):
        parse_max_age(text)


@pytest.mark.parametrize("text", ["7", "007", " 7 "])
def test_an_age_without_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match=f"^an age without a unit: '{text}'; give 7D, 7h, 7m or 7s$"):
        parse_max_age(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100B", 100),
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
        ("1kB", 1000),
        ("1K", 1000),
        ("1KiB", 1024),
        ("1Ki", 1024),
        ("3MiB", 3 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1.1GB", 1_100_000_000),
        ("1tb", 10**12),
        ("0", 0),
    ],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["500", "1.5", "9223372036854775808"])
def test_a_size_without_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match=f"^a size without a unit: '{text}'; give {text}B, {text}kB, {text}MB or"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "MB", "-1", "1XB", "5 apples", "1e3", "9" * 20, "9999999999TB"])
def test_bad_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500/s", Rate(messages_per_second=500)),
        ("30/m", Rate(messages_per_second=0.5)),
        ("0.5/s", Rate(messages_per_second=0.5)),
        ("10k/s", Rate(messages_per_second=10_000)),
        ("3600/h", Rate(messages_per_second=1)),
        ("2MB/s", Rate(bytes_per_second=2_000_000)),
        ("512KiB/s", Rate(bytes_per_second=524_288)),
        ("100B/s", Rate(bytes_per_second=100)),
        ("60 MB / min", Rate(bytes_per_second=1_000_000)),
    ],
)
def test_rate(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["500", "0.5", "10k", "2MB"])
def test_a_rate_without_a_period(text: str) -> None:
    with pytest.raises(ValueError, match=f"^a rate without a period: '{text}'; give {text}/s, {text}/m or {text}/h$"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["", "/s", "0", "0/s", "-5/s", "5/x", "5/", "5/s/s", "5XB/s", "fast"])
def test_bad_rate(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


def test_rate_cannot_change() -> None:
    with pytest.raises(AttributeError):
        Rate(1.0).messages_per_second = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        (r"\n", b"\n"),
        (r"\t", b"\t"),
        (r"\0", b"\0"),
        (r"\r\n", b"\r\n"),
        (r"\x1e", b"\x1e"),
        (r"\xFF\xfe", b"\xff\xfe"),
        (r"\\n", b"\\n"),
        (";", b";"),
        ("--END--", b"--END--"),
        ("→", b"\xe2\x86\x92"),
        ("\n", b"\n"),
        ("\udcff", b"\xff"),  # a byte of the command line that is not UTF-8
    ],
)
def test_delimiter(text: str, delimiter: bytes) -> None:
    assert parse_delimiter(text) == delimiter


@pytest.mark.parametrize("text", ["", "\\", r"\x1", r"\xzz", r"\q", r"ok\\\ "])
def test_bad_delimiter(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty|escape"):
        parse_delimiter(text)


@pytest.mark.parametrize(
    ("text", "named"), [(r"\q", r"'\q'"), ("\\\n", r"'\\n'"), ("\\\x07", r"'\\x07'"), ("\\\u202e", r"'\\u202e'")]
)
def test_an_unknown_escape_is_named(text: str, named: str) -> None:
    """Whole, and so that it can be seen."""
    with pytest.raises(ValueError, match=re.escape(f"unknown escape {named} in ")):
        parse_delimiter(text)


def test_unescape_takes_an_empty_text() -> None:
    assert unescape("") == b""


@pytest.mark.parametrize(
    ("text", "pair"), [("k=v", ("k", "v")), ("k=", ("k", "")), ("k=a=b", ("k", "a=b")), ("k k=é", ("k k", "é"))]
)
def test_pair(text: str, pair: tuple[str, str]) -> None:
    assert parse_pair(text) == pair


@pytest.mark.parametrize("text", ["", "k", "=v"])
def test_bad_pair(text: str) -> None:
    with pytest.raises(ValueError, match="key=value"):
        parse_pair(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("first", StartKind.FIRST, 0),
        ("last", StartKind.LAST, 0),
        ("next", StartKind.NEXT, 0),
        ("stored", StartKind.STORED, 0),
        ("First", StartKind.FIRST, 0),
        ("0", StartKind.ABSOLUTE, 0),
        ("18446744073709551615", StartKind.ABSOLUTE, 2**64 - 1),
        ("20261123", StartKind.ABSOLUTE, 20261123),  # digits are an offset, though ISO 8601 has such dates
        ("-5", StartKind.LAST_N, 5),
        ("-5s", StartKind.TIMESTAMP, 1_795_427_995_000),
        ("-1h", StartKind.TIMESTAMP, 1_795_424_400_000),
        ("-1h30m", StartKind.TIMESTAMP, 1_795_422_600_000),
        ("-1.5h", StartKind.TIMESTAMP, 1_795_422_600_000),
        ("-2d", StartKind.TIMESTAMP, 1_795_255_200_000),
        ("-30000d", StartKind.TIMESTAMP, 0),
        ("@1795428000", StartKind.TIMESTAMP, 1_795_428_000_000),
        ("@1795428000.1239", StartKind.TIMESTAMP, 1_795_428_000_123),
        ("@0", StartKind.TIMESTAMP, 0),
        ("2026-11-23T10:00Z", StartKind.TIMESTAMP, 1_795_428_000_000),
        ("2026-11-23T10:00:00.123Z", StartKind.TIMESTAMP, 1_795_428_000_123),
        ("2026-11-23T12:00+02:00", StartKind.TIMESTAMP, 1_795_428_000_000),
        ("1969-01-01T00:00Z", StartKind.TIMESTAMP, 0),
    ],
)
def test_offset(text: str, kind: StartKind, value: int) -> None:
    assert parse_offset(text, NOW) == Start(kind, value)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-23", 1_795_388_400_000),  # midnight there: 23:00 UTC the day before
        ("2026-11-23T11:00", 1_795_428_000_000),
        ("2026-11-23 11:00:00", 1_795_428_000_000),
        ("2026-07-01T12:00", 1_782_900_000_000),  # summer time
    ],
)
def test_naive_times_are_local(text: str, ms: int) -> None:
    assert parse_offset(text, NOW) == Start(StartKind.TIMESTAMP, ms)
    assert parse_until(text, NOW) == Until(UntilKind.TIMESTAMP, ms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "-0",
        "5s",
        "+5",
        "-1.5",
        "-1x",
        "1.5",
        "@",
        "@x",
        "@-5",
        "newest",
        "2026-13-01",
        "2026-11-23T25:00Z",
        "18446744073709551616",
        "9" * 31,
        "@" + "9" * 20,
        "--5",
        "-h",
    ],
)
def test_bad_offset(text: str) -> None:
    with pytest.raises(ValueError, match=r"offset|time|message") as caught:
        parse_offset(text, NOW)
    assert "\n" not in str(caught.value)


def test_the_edges_of_the_calendar_are_no_crash() -> None:
    assert parse_offset("0001-01-01T00:00Z", NOW) == Start(StartKind.TIMESTAMP, 0)
    assert parse_offset("9999-12-31T23:59:59Z", NOW).value == 253_402_300_799_000


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("end", UntilKind.END, 0),
        ("41", UntilKind.ABSOLUTE, 41),
        ("-1h", UntilKind.TIMESTAMP, 1_795_424_400_000),
        ("2026-11-23T10:00Z", UntilKind.TIMESTAMP, 1_795_428_000_000),
        ("@1795428000", UntilKind.TIMESTAMP, 1_795_428_000_000),
    ],
)
def test_until(text: str, kind: UntilKind, value: int) -> None:
    assert parse_until(text, NOW) == Until(kind, value)


def test_until_asks_for_a_unit() -> None:
    with pytest.raises(ValueError, match="-5s, -5m, -5h"):
        parse_until("-5", NOW)


@pytest.mark.parametrize("text", ["", "first", "next", "last", "stored", "18446744073709551616", "tomorrow"])
def test_bad_until(text: str) -> None:
    with pytest.raises(ValueError, match=r"stop|offset"):
        parse_until(text, NOW)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_duration, "x\ny"),
        (parse_size, "x\ny"),
        (parse_max_age, "x\ny"),
        (parse_rate, "x\ny"),
        (parse_pair, "x\ny"),
        (parse_path, "x\ny"),
        (parse_delimiter, "\\q\n"),
        (parse_delimiter, "\\\n"),
    ],
)
def test_messages_are_one_line(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_header_without_a_type_is_a_string() -> None:
    assert parse_header("n=5") == ("n", "5")
    assert parse_header("url=http://x:=") == ("url", "http://x:=")


@pytest.mark.skipif(IS_MEASURED, reason="coverage imports more")
def test_importing_is_cheap() -> None:
    heavy = ("typer", "rich", "asyncio", "orjson", "json", "rstream_core")
    code = f"import sys, rstream_cli.parsing; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["9223372036854775808B", "8388608TiB", "9223372036854775.808kB"])
def test_a_size_of_2_to_the_63_or_more_is_too_large(text: str) -> None:
    with pytest.raises(ValueError, match="the size is too large"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9223372036854775807B", "9223372036854775.807kB"])
def test_the_largest_size(text: str) -> None:
    assert parse_size(text) == 2**63 - 1


@pytest.mark.parametrize(
    ("until", "start", "expected"),
    [
        ("4", "5", True),
        ("5", "5", False),
        ("6", "5", False),
        ("@4", "@5", True),
        ("@5", "@5", False),
        ("end", "5", False),
        ("end", "next", False),
        ("end", "@1", False),
        ("end", "@1.001", None),
        ("@2", "@1.001", False),
        ("4", "stored", False),
        ("@4", "stored", False),
        ("@4", "5", None),
        ("4", "@5", None),
        ("4", "first", None),
        ("@4", "-3", None),
        ("4", "next", None),
    ],
)
def test_whether_the_end_lies_before_the_start(until: str, start: str, expected: bool | None) -> None:
    assert is_before(parse_until(until, 0.0), parse_offset(start, 0.0), 1.0) is expected
