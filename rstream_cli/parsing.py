"""Parses the values that people type: durations, sizes, rates, offsets, delimiters and pairs.

All small grammars of the command line are here, so that ``--linger``, ``--offset`` and the environment agree on what
``10s`` means. These functions read no clock (``now`` is an argument), open no files, and know no names of options: each
takes a text and returns a value, or raises a ValueError of one line that quotes the text and says what is allowed. The
module is imported at start-up and imports next to nothing.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal

MAX_OFFSET = 2**64 - 1
"""Offsets are unsigned 64-bit numbers on the wire."""
MAX_TIMESTAMP_MS = 2**63 - 1
"""Timestamps are signed 64-bit milliseconds on the wire."""
_LATEST_UNIX_MS = 10**14
"""The year 5138. A later ``@`` time is a mistake: milliseconds instead of seconds."""

# --- durations, sizes and rates ---------------------------------------------------------------------------

_NUMBER = r"(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
_PLAIN_NUMBER = re.compile(_NUMBER)
_DURATION_PART = re.compile(rf"({_NUMBER})(us|µs|ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:us|µs|ms|s|m|h|d|w))+")
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MAX_SECONDS = 1e11  # three thousand years: a typing error, and past what timedelta and the clock can hold

_MAX_AGE = re.compile(r"([0-9]{1,18})([A-Za-z]?)")
_MAX_AGE_UNITS = {
    "Y": "Y",
    "y": "Y",
    "M": "M",
    "D": "D",
    "d": "D",
    "h": "h",
    "H": "h",
    "m": "m",
    "s": "s",
    "S": "s",
}

_SIZE = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)")
_SIZE_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{p + suffix: 1000**n for n, p in enumerate("kmgt", 1) for suffix in ("", "b")},
    **{p + suffix: 1024**n for n, p in enumerate("kmgt", 1) for suffix in ("i", "ib")},
}
_RATE_PERIODS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds, at least 0, from ``20ms``, ``10s``, ``1.5h``, ``7d``, ``1h30m``; of plain numbers, 0 alone.

    Units: us, ms, s, m (minutes), h, d (24 hours), w. Raises ValueError, also for more than 3000 years.
    """
    stripped = text.strip()
    if not _PLAIN_NUMBER.fullmatch(stripped) or float(stripped) == 0:
        return parse_timeout(text)
    raise ValueError(f"a duration without a unit: {text!r}; give {stripped}ms, {stripped}s, {stripped}m or {stripped}h")


def parse_timeout(text: str) -> float:
    """As :func:`parse_duration`; a plain number is seconds, as in the timeouts of other programs."""
    stripped = text.strip()
    if _PLAIN_NUMBER.fullmatch(stripped):
        seconds = float(stripped)
    elif _DURATION.fullmatch(stripped):
        seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(stripped))
    else:
        raise ValueError(f"not a duration: {text!r}; a number and a unit: us, ms, s, m, h, d, w (20ms, 10s, 1.5h, 7d)")
    if seconds > _MAX_SECONDS:
        raise ValueError(f"the duration is too long: {text!r}")
    return seconds


def positive_duration(text: str, parse: Callable[[str], float] = parse_duration) -> float:
    """As ``parse``, but above 0. Raises ValueError."""
    seconds = parse(text)
    if seconds <= 0:
        raise ValueError(f"must be more than 0: {text!r}")
    return seconds


def parse_max_age(text: str) -> str:
    """Returns the server's form of a retention age, such as ``7D`` or ``12h``, for ``7d``, ``12h``, ``6M``, ``1Y``.

    Units are the server's, whole numbers only: Y (365 days), M (30 days), D, h, m, s; case matters for M
    (months) and m (minutes) alone. ``2w`` becomes ``14D``. At least 1. Raises ValueError, also without a unit,
    where the server would take seconds.
    """
    match = _MAX_AGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"not an age: {text!r}; a whole number and one unit, such as 7D or 12h: Y, M (months), D, h, m (minutes), s"
        )
    number, letter = int(match[1]), match[2]
    if number == 0:
        raise ValueError(f"an age is at least 1: {text!r}")
    if letter in ("w", "W"):
        number, unit = number * 7, "D"
    elif letter == "":
        raise ValueError(f"an age without a unit: {text!r}; give {number}D, {number}h, {number}m or {number}s")
    elif letter in _MAX_AGE_UNITS:
        unit = _MAX_AGE_UNITS[letter]
    else:
        raise ValueError(f"unknown unit {letter!r} in the age {text!r}; allowed: Y, M (months), D, h, m (minutes), s")
    return f"{number}{unit}"


def parse_size(text: str) -> int:
    """Bytes, at least 0, from ``500MB``, ``2GB``, ``1.5 GiB``, ``1KiB``, ``100B``; of plain numbers, 0 alone.

    As with the server, kB, MB, GB and TB are powers of 1000, and KiB, MiB, GiB and TiB of 1024; their B may be
    left out, and case does not matter. Raises ValueError, also where a part of a byte would remain or where
    the size passes 2^63 - 1.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r}; a number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")
    size = _scaled(match[1], match[2], text, "size")
    if size and not match[2]:
        number = match[1]
        raise ValueError(f"a size without a unit: {text!r}; give {number}B, {number}kB, {number}MB or {number}GB")
    if size != int(size):
        raise ValueError(f"not a whole number of bytes: {text!r}")
    if size >= 2**63:
        raise ValueError(f"the size is too large: {text!r}; the limit is 2^63 - 1 bytes")
    return int(size)


def _scaled(number: str, unit: str, text: str, what: str) -> Decimal:
    factor = _SIZE_UNITS.get(unit.lower())
    if factor is None:
        raise ValueError(
            f"unknown unit {unit!r} in the {what} {text!r}; allowed: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
        )
    return Decimal(number) * Decimal(factor)


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on publishing: one of the two is set, and above 0."""

    messages_per_second: float | None = None
    bytes_per_second: float | None = None


def parse_rate(text: str) -> Rate:
    """A rate above 0: messages (``500/s``, ``30/m``, ``10k/s``) or bytes (``2MB/s``, ``512KiB/s``).

    A unit that ends in B counts bytes of message bodies; without one, messages (k and M are 10^3 and 10^6).
    Periods: s, m or min, h. Raises ValueError, also without a period.
    """
    amount, slash, period = text.strip().partition("/")
    match = _SIZE.fullmatch(amount.strip())
    seconds = _RATE_PERIODS.get(period.strip() if slash else "s")
    if match is None or seconds is None:
        raise ValueError(f"not a rate: {text!r}; messages (500/s, 30/m) or bytes (2MB/s, 512KiB/s) per s, m or h")
    per_second = float(_scaled(match[1], match[2], text, "rate")) / seconds
    if not slash:
        raise ValueError(f"a rate without a period: {text!r}; give {match[0]}/s, {match[0]}/m or {match[0]}/h")
    if per_second <= 0:
        raise ValueError(f"a rate is above 0: {text!r}")
    if match[2].lower().endswith("b"):
        return Rate(bytes_per_second=per_second)
    return Rate(messages_per_second=per_second)


def parse_pace(text: str) -> float:
    """By how much gaps in time are shortened: ``original`` (1), ``10x``, ``0.5x``; 0.001 to 1,000,000. Raises
    ValueError."""
    cleaned = text.strip().lower()
    if cleaned == "original":
        return 1.0
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)x", cleaned)
    if match is None:
        hint = f"; give {cleaned}x" if re.fullmatch(r"[0-9]{1,7}", cleaned) else ""
        raise ValueError(f"not a pace: {text!r}; original, or a factor such as 10x or 0.5x{hint}")
    pace = float(match[1])
    if not 0.001 <= pace <= 1_000_000:
        raise ValueError(f"a pace is 0.001x to 1000000x: {text!r}")
    return pace


# --- bytes and pairs --------------------------------------------------------------------------------------

_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|.|$)", re.DOTALL)
_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}


def unescape(text: str) -> bytes:
    r"""Returns the bytes of a text with the escapes ``\n \r \t \0 \\ \xNN``; other characters become UTF-8.

    Bytes of the command line that are not UTF-8 (lone surrogates in Python) stay as they were.
    Raises ValueError for any other escape.
    """
    pieces = _ESCAPE.split(text)  # literal, escape, literal, …, literal
    out = bytearray()
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            out += piece.encode("utf-8", "surrogateescape")
        elif len(piece) == 3:
            out.append(int(piece[1:], 16))
        elif piece in _ESCAPES:
            out += _ESCAPES[piece]
        else:
            escape = "\\" + (piece if piece.isprintable() else ascii(piece)[1:-1])
            raise ValueError(f"unknown escape '{escape}' in {text!r}; allowed: \\n \\r \\t \\0 \\\\ \\xNN")
    return bytes(out)


def parse_delimiter(text: str) -> bytes:
    r"""Returns one or more bytes: the text as UTF-8, with the escapes ``\n \r \t \0 \\ \xNN``. Raises ValueError."""
    if not text:
        raise ValueError("the delimiter is empty; give at least one byte, such as '\\n', '\\0' or '\\r\\n'")
    return unescape(text)


def parse_pair(text: str) -> tuple[str, str]:
    """Splits ``key=value`` at the first ``=``. The value may be empty, the key may not. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"not a pair: {text!r}; give key=value")
    if not key:
        raise ValueError(f"the key is empty in {text!r}; give key=value")
    return key, value


def parse_header(text: str) -> tuple[str, object]:
    """Parses a header, property or annotation: ``key=text`` is a string, ``key:=JSON`` a typed value, as in httpie.

    ``n:=5`` is a long, ``ok:=true`` a boolean, ``id:={"$uuid":"…"}`` a tagged value, all as in the JSON
    envelope; ``n=5`` is the string "5". The value of ``:=`` is in the types of
    rstream_core.protocol.amqp_types. Raises ValueError.
    """
    key, value = parse_pair(text)
    if not key.endswith(":"):
        return key, value
    key = key[:-1]
    if not key:
        raise ValueError(f"the key is empty in {text!r}; give key:=JSON")
    from rstream_cli.records.tagged_values import parse_value

    try:
        return key, parse_value(value)
    except ValueError as error:
        raise ValueError(f"the value of {key}:= is not valid: {error}; for a string give {key}=TEXT") from None


# --- positions --------------------------------------------------------------------------------------------


class StartKind(enum.StrEnum):
    """Where to start reading."""

    FIRST = "first"
    """The oldest message that retention has kept."""
    LAST = "last"
    """The first message of the last chunk."""
    NEXT = "next"
    """Messages published from now on."""
    STORED = "stored"
    """After the offset stored under ``--name``."""
    ABSOLUTE = "absolute"
    """``value`` is an offset, 0 to 2^64 - 1."""
    LAST_N = "last_n"
    """``value`` is a number of messages before the end, at least 1."""
    TIMESTAMP = "timestamp"
    """``value`` is milliseconds since 1970 (UTC), at least 0."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to start; ``value`` belongs to the kinds ABSOLUTE, LAST_N and TIMESTAMP and is 0 elsewhere."""

    kind: StartKind
    value: int = 0


class UntilKind(enum.StrEnum):
    """Where to stop reading."""

    END = "end"
    """The stream's end when the command started."""
    ABSOLUTE = "absolute"
    """``value`` is an offset, 0 to 2^64 - 1."""
    TIMESTAMP = "timestamp"
    """``value`` is milliseconds since 1970 (UTC), at least 0."""


@dataclass(frozen=True, slots=True)
class Until:
    """Where to stop; ``value`` is 0 for END."""

    kind: UntilKind
    value: int = 0


def is_before(until: Until, start: Start, now: float) -> bool | None:
    """Returns whether the end lies before the start. None: only the stream tells. ``now``: seconds
    since 1970."""
    if until.kind is UntilKind.END and start.kind is StartKind.TIMESTAMP and start.value > now * 1000:
        return None  # the broker's clock may be ahead
    if until.kind is UntilKind.END or start.kind is StartKind.STORED:
        return False  # what is left to read may be nothing, and no mistake
    if (until.kind, start.kind) in _COMPARABLE:
        return until.value < start.value
    return None


_COMPARABLE = frozenset(
    {(UntilKind.ABSOLUTE, StartKind.ABSOLUTE), (UntilKind.TIMESTAMP, StartKind.TIMESTAMP)},
)
_WORDS = {kind.value: kind for kind in (StartKind.FIRST, StartKind.LAST, StartKind.NEXT, StartKind.STORED)}
_DIGITS = re.compile(r"[0-9]{1,30}")
_TIMES = "-1h (ago), a date or time (2026-11-23T10:00Z), @UNIX seconds"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def parse_offset(text: str, now: float, *, numbers: bool = True) -> Start:
    """Where to start: a word, an offset, a number of messages back, or a time.

    ``first`` ``last`` ``next`` ``stored``; ``N``, an offset; ``-N``, the last N messages; ``-30m``, a duration
    ago (so ``-5`` is five messages and ``-5s`` five seconds); ``2026-11-23`` or ``2026-11-23T10:00``, with
    ``Z`` or ``+02:00``, else local time; ``@1795428000.5``, seconds since 1970. Parts of a millisecond are
    dropped, and a time before 1970 counts as 1970. ``now``: seconds since 1970. Raises ValueError; ``numbers``: its
    message offers N, too.
    """
    stripped = text.strip()
    word = _WORDS.get(stripped.lower())
    if word is not None:
        return Start(word)
    if _DIGITS.fullmatch(stripped):
        return Start(StartKind.ABSOLUTE, _offset(stripped))
    if stripped[:1] == "-" and _DIGITS.fullmatch(stripped, 1):
        count = _offset(stripped[1:])
        if count == 0:
            raise ValueError("-0 means no message at all; give next, or -N with N at least 1")
        return Start(StartKind.LAST_N, count)
    timestamp = _timestamp_ms(stripped, now)
    if timestamp is None:
        raise ValueError(
            f"not an offset: {text!r}; allowed: first, last, next, stored, {'N, ' if numbers else ''}"
            f"-N (the last N messages), {_TIMES}"
        )
    return Start(StartKind.TIMESTAMP, timestamp)


def parse_until(text: str, now: float, *, numbers: bool = True) -> Until:
    """Where to stop: ``end``, an offset ``N``, or a time as in :func:`parse_offset`. Raises ValueError as that does."""
    stripped = text.strip()
    if stripped.lower() == "end":
        return Until(UntilKind.END)
    if _DIGITS.fullmatch(stripped):
        return Until(UntilKind.ABSOLUTE, _offset(stripped))
    if stripped[:1] == "-" and _DIGITS.fullmatch(stripped, 1):
        raise ValueError(f"{text!r} has no unit; for a time give {stripped}s, {stripped}m, {stripped}h or {stripped}d")
    timestamp = _timestamp_ms(stripped, now)
    if timestamp is None:
        offset = "N (an offset), " if numbers else ""
        raise ValueError(f"not a place to stop: {text!r}; allowed: end, {offset}{_TIMES}")
    return Until(UntilKind.TIMESTAMP, timestamp)


def _offset(digits: str) -> int:
    number = int(digits)
    if number > MAX_OFFSET:
        raise ValueError(f"the offset is too large: {digits}; the limit is 2^64 - 1")
    return number


def _timestamp_ms(text: str, now: float) -> int | None:
    """Returns milliseconds since 1970, at least 0; None where the text is not a time."""
    if text[:1] == "-" and _DURATION.fullmatch(text, 1):
        milliseconds = math.floor(now * 1000) - round(parse_duration(text[1:]) * 1000)
    elif text[:1] == "@" and _PLAIN_NUMBER.fullmatch(text, 1):
        milliseconds = int((Decimal(text[1:]) * 1000).to_integral_value(ROUND_FLOOR))
        if milliseconds > _LATEST_UNIX_MS:
            raise ValueError(f"the time is too late: {text!r}; @ takes seconds since 1970")
    else:
        try:
            # astimezone() takes a time without a zone as local time.
            milliseconds = (datetime.fromisoformat(text).astimezone(UTC) - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError, OSError):
            return None
    if milliseconds > MAX_TIMESTAMP_MS:
        raise ValueError(f"the time is too late: {text!r}")
    return max(milliseconds, 0)
