"""A plot of results as SVG, written here: rates over time, and latencies by percentile.

Its colours are readable on a light and on a dark page; ``prefers-color-scheme`` chooses. Percentiles stand on an axis
on which each further nine takes the same room, as HDR's own plots have it. Each run is a line of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from rstream_cli.bench.histogram import Histogram
from rstream_cli.bench.results import load_in_words
from rstream_cli.render import words

WIDTH, HEIGHT = 920, 420
_TOP, _BOTTOM = 84, 360
"""Where the panels begin and end."""
_PANELS = ((76, 440), (540, 904))
"""The left and the right edge of each panel."""
_SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#24292f}
.title{font-size:15px;font-weight:600}.quiet{fill:#57606a}
.grid{stroke:#8c959f;stroke-opacity:.35;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.c0{stroke:#0969da}.c1{stroke:#bc4c00}.k0{fill:#0969da}.k1{fill:#bc4c00}.dashed{stroke-dasharray:5 4}
.page{fill:#ffffff}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.page{fill:#0d1117}
.c0{stroke:#58a6ff}.c1{stroke:#f0883e}.k0{fill:#58a6ff}.k1{fill:#f0883e}}
"""


class Curve(NamedTuple):
    """A line of a panel."""

    label: str
    color: int
    points: list[tuple[float, float]]


def plot(document: Mapping[str, Any]) -> str:
    """Returns the plot of all runs as an SVG document."""
    runs = document["runs"]
    rates = [curve for run in runs for curve in _rates(run)]
    latencies = [curve for run in runs for curve in _latencies(run)]
    title = f"rstream {document['command']}"
    parts = load_in_words(document)
    versions = document["versions"]
    parts += [str(versions.get("broker")), f"rstream {versions.get('rstream')}", str(document.get("time"))]
    body = [
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(16, 28, title, "title"),
        _text(16, 48, " · ".join(parts), "quiet"),
        *_rate_panel(rates),
        *_latency_panel(latencies),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _rates(run: Mapping[str, Any]) -> Iterator[Curve]:
    for color, (side, label) in enumerate((("publish", "confirmed"), ("consume", "consumed"))):
        points = [
            (float(row["second"]), float(row[side]["messages"])) for row in run.get("seconds", ()) if row.get(side)
        ]
        if points:
            yield Curve(label, color, points)


def _latencies(run: Mapping[str, Any]) -> Iterator[Curve]:
    for color, (name, label) in enumerate((("confirm", "confirm"), ("end_to_end", "end to end"))):
        latency = run.get(name)
        if latency:
            whole = Histogram.decoded(latency["hdr"])
            most = 1 - 1 / max(len(whole), 2)
            shares = [share for share in _steps() if share <= most]
            values = whole.quantiles(shares)
            points = [(_nines(share), float(max(value, 1))) for share, value in zip(shares, values, strict=True)]
            yield Curve(label, color, points)


def _steps() -> Iterator[float]:
    """Yields shares from 0 to 0.99999, ten for each nine."""
    for nine in range(5):
        for tenth in range(9):
            yield 1 - 10.0**-nine * (1 - tenth / 10)
    yield 0.99999


def _nines(share: float) -> float:
    """Where a share stands: 0.9 at 1, 0.99 at 2."""
    return -math.log10(1 - share)


def _rate_panel(curves: Sequence[Curve]) -> Iterator[str]:
    left, right = _PANELS[0]
    yield _text(left, _TOP - 12, "messages a second, over time")
    if not curves:
        yield _text(left + 12, _TOP + 30, "the run took less than a second", "quiet")
        return
    top = _round_up(max(value for curve in curves for _, value in curve.points))
    end = max(2.0, *(second for curve in curves for second, _ in curve.points))
    for part in range(5):
        value = top * part / 4
        y = _BOTTOM - (_BOTTOM - _TOP) * part / 4
        yield _grid(left, y, right, y)
        yield _text(left - 8, y + 4, _short(value), "quiet", "end")
    for second in _seconds(end):
        x = left + (right - left) * (second - 1) / (end - 1)
        yield _text(x, _BOTTOM + 18, f"{second} s", "quiet", "middle")
    for curve in curves:
        points = [
            (left + (right - left) * (second - 1) / (end - 1), _BOTTOM - (_BOTTOM - _TOP) * value / top)
            for second, value in curve.points
        ]
        yield _line(points, curve.color)
    yield from _legend(left, curves)


def _latency_panel(curves: Sequence[Curve]) -> Iterator[str]:
    left, right = _PANELS[1]
    yield _text(left, _TOP - 12, "latency, by percentile")
    if not curves:
        yield _text(left + 12, _TOP + 30, "none was measured", "quiet")
        return
    low = math.floor(math.log10(min(value for curve in curves for _, value in curve.points)))
    high = max(math.ceil(math.log10(max(value for curve in curves for _, value in curve.points))), low + 1)
    end = max(2.0, *(place for curve in curves for place, _ in curve.points))
    for power in range(low, high + 1):
        y = _BOTTOM - (_BOTTOM - _TOP) * (power - low) / (high - low)
        yield _grid(left, y, right, y)
        yield _text(left - 8, y + 4, words.latency(10.0**power / 1e6), "quiet", "end")
    for share in _SHARES:
        place = _nines(share)
        if place <= end:
            x = left + (right - left) * place / end
            yield _grid(x, _TOP, x, _BOTTOM)
            yield _text(x, _BOTTOM + 18, f"{share * 100:.6g} %", "quiet", "middle")
    for curve in curves:
        points = [
            (
                left + (right - left) * place / end,
                _BOTTOM - (_BOTTOM - _TOP) * (math.log10(value) - low) / (high - low),
            )
            for place, value in curve.points
        ]
        yield _line(points, curve.color)
    yield from _legend(left, curves)


def _legend(left: int, curves: Sequence[Curve]) -> Iterator[str]:
    x = left
    for label, color in dict.fromkeys((curve.label, curve.color) for curve in curves):
        yield _line(((x, _BOTTOM + 36), (x + 20, _BOTTOM + 36)), color)
        yield _text(x + 26, _BOTTOM + 40, label)
        x += 46 + 7 * len(label)


def _line(points: Sequence[tuple[float, float]], color: int) -> str:
    if len(points) == 1:
        x, y = points[0]
        return f'<circle class="k{color}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line c{color}{" dashed" if color else ""}" points="{told}"/>'


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="grid" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind} text-anchor="{anchor}">{escape(text)}</text>'


def _seconds(end: float) -> Iterator[int]:
    """Yields the seconds to be written below the axis: at most seven."""
    step = next(step for step in _STEPS if (end - 1) / step <= 6)
    yield from range(1, int(end) + 1, step)


_STEPS = [factor * 10**power for power in range(9) for factor in (1, 2, 5)]


def _round_up(value: float) -> float:
    """Returns a round number that is not smaller: four parts of it are round, too."""
    if value <= 0:
        return 4.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if factor * power >= value)


def _short(value: float) -> str:
    """``0``, ``250``, ``1.2k``, ``3M``."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"
