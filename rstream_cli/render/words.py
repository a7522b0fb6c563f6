"""Formats numbers for people: in the same way in the live display, in lines and in summaries."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rstream_cli.render.stats import Snapshot

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
BARS = "▁▂▃▄▅▆▇█"
_MOST_RUNS = 3


def count(number: float) -> str:
    """``1,234,567``. Whole numbers are exact, as offsets of 20 digits must be."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.0f}"


def size(number: float) -> str:
    """``999 B``, ``12.3 MB``: powers of 1000, as in ``--rate``."""
    value = float(number)
    for unit in _UNITS:
        shown = f"{value:.0f}" if unit == "B" or value >= 99.95 else f"{value:.1f}"
        if float(shown) < 1000 or unit == _UNITS[-1]:
            return f"{shown} {unit}"
        value /= 1000
    raise AssertionError


def latency(seconds: float | None) -> str:
    """``850 µs``, ``1.2 ms``, ``3.4 s``; a dash where there is none."""
    if seconds is None:
        return "-"
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        value = seconds * factor
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{seconds:.1f} s"


def clock(seconds: float | None) -> str:
    """``0:07``, ``1:02:03``, ``2d 03:04:05``; a dash where it is not known."""
    if seconds is None or not math.isfinite(seconds) or seconds >= 1e9:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """``0.42 s``, ``12.3 s``, ``1:02:03``."""
    if seconds >= 120:
        return clock(seconds)
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def age(seconds: float) -> str:
    """``now``, ``5 s ago``, ``3 min ago``, ``12 h ago``, ``2 days ago``; a clock that is ahead counts as now."""
    return "now" if seconds < 1 else f"{rough(seconds)} ago"


def rough(seconds: float) -> str:
    """``5 s``, ``3 min``, ``12 h``, ``2 days``: whole units, of at least 0 seconds."""
    for factor, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < factor * most:
            return f"{int(seconds // factor)} {unit}"
    return f"{count(seconds // 86_400)} days"


def sparkline(values: tuple[float, ...], width: int) -> str:
    """Returns the last ``width`` values as bars, the highest one full."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    if top <= 0:
        return BARS[0] * len(shown)
    return "".join(BARS[min(int(max(value, 0.0) / top * len(BARS)), len(BARS) - 1)] for value in shown)


def trouble(snapshot: Snapshot) -> str:
    """Returns what holds the run up; an empty string for nothing."""
    if snapshot.reconnecting:
        return "reconnecting"
    if snapshot.unconfirmed >= 1:
        return f"nothing confirmed for {snapshot.unconfirmed:.0f} s"
    return ""


def messages(number: int) -> str:
    """``1 message``, ``2 messages``."""
    return f"{count(number)} message{'' if number == 1 else 's'}"


def copies(number: int) -> str:
    """``1 copy``, ``2 copies``."""
    return f"{count(number)} {'copy' if number == 1 else 'copies'}"


def ranges(numbers: Sequence[int]) -> str:
    """Formats sorted numbers: ``2``, ``2-5 and 8``; for many runs ``2-5, 8, 10 and 1,234 more up to 60000``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number <= runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_MOST_RUNS]]
    if len(runs) > _MOST_RUNS:
        left = len(numbers) - bisect_right(numbers, runs[_MOST_RUNS - 1][1])
        shown.append(f"{count(left)} more up to {numbers[-1]}")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def differing(counts: Mapping[str, int | None]) -> list[tuple[str, int]]:
    """Returns the numbers of a comparison that are not 0, but for what is equal, each behind its words."""
    names = ("changed", "missing_in_a", "missing_in_b", "doubled_in_a", "doubled_in_b", "moved")
    return [
        (name.replace("_in_a", " in A").replace("_in_b", " in B"), number)
        for name in names
        if (number := counts[name] or 0)
    ]


def summary(snapshot: Snapshot, reason: str) -> str:
    """Returns a whole run in one line; its numbers add up."""
    counts = snapshot.counts
    took = f"in {duration(snapshot.elapsed)} ({count(snapshot.rate)}/s, {size(snapshot.byte_rate)}/s)"
    if snapshot.verb == "consume":
        parts = [f"consumed {messages(snapshot.messages)} ({size(snapshot.bytes)}) from {snapshot.stream} {took}"]
        if counts["last_offset"] is not None:
            parts.append(f"last offset {counts['last_offset']}")
        if counts["stored_offset"] is not None:
            parts.append(f"stored offset {counts['stored_offset']}")
        if counts["left_out"]:
            parts.append(f"left out {count(counts['left_out'])}")
        if counts["bad"]:
            parts.append(f"bad {count(counts['bad'])}")
        if counts["ambiguous"]:
            hold = "message holds" if counts["ambiguous"] == 1 else "messages hold"
            apart = "--json and --output len32 keep records apart"
            parts.append(f"{count(counts['ambiguous'])} {hold} the delimiter ({apart})")
        if counts["gone"]:
            parts.append(f"offsets gone {count(counts['gone'])}")
        return f"{'; '.join(parts)}; {reason}"
    if snapshot.verb == "copy":
        return _summary_of_copy(snapshot, reason, took)
    if snapshot.verb == "diff":
        compared = f"compared {messages(counts['a'] or 0)} of A with {count(counts['b'] or 0)} of B"
        differences = [f"{words} {count(number)}" for words, number in differing(counts)]
        parts = [f"{compared} ({snapshot.stream}) {took}", f"equal {count(counts['equal'] or 0)}", *differences]
        return f"{'; '.join(parts)}; {reason}"
    published = counts["published"] or 0
    parts = [f"published {messages(published)} ({size(snapshot.bytes)}) to {snapshot.stream} {took}"]
    parts.append(f"confirmed {count(counts['confirmed'] or 0)}, failed {count(counts['failed'] or 0)}")
    if counts["sent_again"]:
        again = int(counts["sent_again"])
        parts.append(f"{count(again)} sent again, so up to {copies(again)} may be stored")
    if counts["not_published"]:
        some = [
            f"{name.replace('_', ' ')} {count(counts[name] or 0)}"
            for name in ("bad", "already_published")
            if counts[name]
        ]
        of_them = f", of them {', '.join(some)}" if some else ""
        parts.append(f"read {count(counts['read'] or 0)}, not published {count(counts['not_published'])}{of_them}")
    if snapshot.p50 is not None:
        parts.append(f"confirm latency p50 {latency(snapshot.p50)}, p99 {latency(snapshot.p99)}")
    return f"{'; '.join(parts)}; {reason}"


def _summary_of_copy(snapshot: Snapshot, reason: str, took: str) -> str:
    counts = snapshot.counts
    copied = messages(counts["confirmed"] or 0)
    parts = [f"copied {copied} ({size(snapshot.bytes)}) from {snapshot.stream} to {snapshot.target} {took}"]
    shown = (
        ("failed", "failed"),
        ("left_out", "left out"),
        ("already_there", "already there"),
        ("gone", "offsets gone"),
    )
    parts += [f"{label} {count(counts[name] or 0)}" for name, label in shown if counts[name]]
    if counts["lag"]:
        parts.append(f"lag {count(counts['lag'])}")
    parts.append(f"kept messages and their order, but no {_listed(snapshot.not_kept)}")
    if snapshot.p50 is not None:
        parts.append(f"confirm latency p50 {latency(snapshot.p50)}, p99 {latency(snapshot.p99)}")
    return f"{'; '.join(parts)}; {reason}"


def _listed(names: Sequence[str]) -> str:
    """``offsets``, ``offsets or timestamps``, ``offsets, timestamps or filter values``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
