"""What was measured, as a table: rates, spread, ratios turn by turn, and whether we aim at them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.programs import Result

BARE = "bare socket"
PUBLISHED = "published client"


@dataclass
class Contender:
    """One way of doing a task, and its results, one a turn."""

    label: str
    run: Callable[[], Result]
    reference: str = ""
    """Which other contender of its group it is compared with."""
    at_least: float | None = None
    """The ratio to reach."""
    results: list[Result] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(result.rate for result in self.results)

    @property
    def inner_rate(self) -> float | None:
        """Without the start of the program."""
        inner = [result.messages / result.inner_seconds for result in self.results if result.inner_seconds]
        return statistics.median(inner) if inner else None

    @property
    def spread(self) -> float:
        """How far the fastest and the slowest turn lie apart, as a part of the rate."""
        rates = [result.rate for result in self.results]
        return (max(rates) - min(rates)) / self.rate

    def ratio_to(self, other: Contender) -> float:
        """The median of the ratios of each turn: what slows a whole turn down does not count."""
        return statistics.median(a.rate / b.rate for a, b in zip(self.results, other.results, strict=True))


@dataclass
class Group:
    """Contenders that are run in turns."""

    title: str
    contenders: list[Contender]

    def find(self, label: str) -> Contender | None:
        return next((contender for contender in self.contenders if contender.label == label), None)

    def rows(self) -> list[Sequence[str]]:
        rows: list[Sequence[str]] = [
            (self.title, "messages", "msg/s", "without start", "spread", "ratio", "target", "")
        ]
        for contender in self.contenders:
            other = self.find(contender.reference)
            inner = contender.inner_rate
            rows.append(
                (
                    "  " + contender.label,
                    f"{contender.results[0].messages:,}",
                    f"{contender.rate:,.0f}",
                    f"{inner:,.0f}" if inner else "",
                    f"{contender.spread:.0%}",
                    f"{contender.ratio_to(other):.2f} x {other.label}" if other else "",
                    f">= {contender.at_least:g}" if other and contender.at_least else "",
                    verdict(contender, other),
                )
            )
        return rows

    def as_json(self) -> dict[str, Any]:
        entries = []
        for contender in self.contenders:
            other = self.find(contender.reference)
            entries.append(
                {
                    "label": contender.label,
                    "rate": contender.rate,
                    "rate_without_start": contender.inner_rate,
                    "reference": other.label if other else None,
                    "ratio": contender.ratio_to(other) if other else None,
                    "at_least": contender.at_least if other else None,
                    "turns": [result._asdict() for result in contender.results],
                }
            )
        return {"title": self.title, "contenders": entries}


def verdict(contender: Contender, other: Contender | None) -> str:
    if other is None or contender.at_least is None:
        return ""
    return "pass" if contender.ratio_to(other) >= contender.at_least else "MISS"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns: the first and the last three to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, len(widths) - 1, len(widths) - 2, len(widths) - 3}
    for row in rows:
        cells = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
