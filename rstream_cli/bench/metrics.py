"""The figures of a run by their names, such as ``publish.rate`` and ``confirm.p99``; medians and ranges of several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rstream_cli.bench.results import SHARES
from rstream_cli.render import words


def _decimal(number: float) -> str:
    return f"{number:,.2f}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run."""

    name: str
    """Its part of the run, and its name there."""
    label: str
    show: Callable[[float], str]
    more_is_better: bool = False

    def of(self, run: Mapping[str, Any]) -> float | None:
        """Returns the figure of a run; None where it was not measured."""
        part, _, name = self.name.partition(".")
        found = run.get(part)
        value = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)


def _of_side(side: str) -> list[Metric]:
    return [
        Metric(f"{side}.rate", f"{side}, messages/s", words.count, True),
        Metric(f"{side}.byte_rate", f"{side}, bytes/s", words.size, True),
        Metric(f"{side}.cpu", f"{side}, CPU µs a message", _decimal),
        Metric(f"{side}.memory", f"{side}, peak memory", words.size),
    ]


def _of_latency(name: str, label: str) -> list[Metric]:
    return [Metric(f"{name}.{share}", f"{label}, µs at {share}", words.count) for share in SHARES]


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *_of_side("publish"),
        *_of_side("consume"),
        *_of_latency("confirm", "confirm"),
        *_of_latency("end_to_end", "end to end"),
    )
}


@dataclass(frozen=True, slots=True)
class Spread:
    """The figures of several runs."""

    median: float
    least: float
    most: float

    def overlaps(self, other: Spread) -> bool:
        """Returns whether a value may be of both."""
        return self.least <= other.most and other.least <= self.most


def spread_of(metric: Metric, runs: Sequence[Mapping[str, Any]]) -> Spread | None:
    """Returns median and range of the runs that have the figure; None where none has."""
    values = [value for value in map(metric.of, runs) if value is not None]
    return Spread(statistics.median(values), min(values), max(values)) if values else None
