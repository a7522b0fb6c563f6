"""``rstream bench compare``: two files of results, figure by figure.

A figure has a median and a range, over the runs of its file. Where the ranges of two files overlap, the difference may
be chance, and is not called one. Conditions of ``--fail-if`` hold only where it is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rstream_cli.bench.metrics import METRICS, Metric, Spread, spread_of
from rstream_cli.render.columns import columns

_CONDITION = re.compile(
    r"\s*(?P<name>[a-z_-]+\.[a-z_0-9.]+)\s*(?P<sign>[<>])\s*(?P<value>[+-]?[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?P<percent>%?)\s*"
)
ENOUGH_RUNS = 3
"""Runs of a file below which its range says little."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What ``--fail-if`` says of a figure."""

    text: str
    metric: Metric
    is_above: bool
    """Whether it holds above the value, or below it."""
    value: float
    is_relative: bool
    """Whether the value is a change in percent, from the first file to the second."""

    def holds(self, before: Spread | None, after: Spread | None) -> bool:
        """Returns whether it holds beyond chance: for a change, where the ranges do not overlap; for a value, where all
        runs of the second file are beyond it."""
        if after is None:
            return False
        if not self.is_relative:
            return after.least > self.value if self.is_above else after.most < self.value
        if before is None or before.overlaps(after) or not before.median:
            return False
        change = (after.median / before.median - 1) * 100
        return change > self.value if self.is_above else change < self.value


def parse_condition(text: str) -> Condition:
    """Returns the condition: ``confirm.p99>+10%``, ``publish.rate<-5%``, ``publish.rate<100000``.

    Raises ``ValueError`` for what is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a condition: {text!r}; give 'confirm.p99>+10%' or 'publish.rate<100000'")
    metric = METRICS.get(match["name"].replace("-", "_"))
    if metric is None:
        raise ValueError(f"no figure is called {match['name']!r}; there are {', '.join(METRICS)}")
    is_above, is_relative = match["sign"] == ">", bool(match["percent"])
    if is_relative and match["value"][0] not in "+-":
        raise ValueError(f"a change has a sign: {text!r}; give {match['name']}{match['sign']}+{match['value']}%")
    return Condition(text.strip(), metric, is_above, float(match["value"]), is_relative)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure in both files; None where a file has none."""

    metric: Metric
    before: Spread | None
    after: Spread | None

    @property
    def change(self) -> float | None:
        """The change of the median in percent; None where it may be chance, or is not known."""
        before, after = self.before, self.after
        if before is None or after is None or before.overlaps(after) or not before.median:
            return None
        return (after.median / before.median - 1) * 100

    @property
    def verdict(self) -> str:
        """The change in words."""
        if self.before is None or self.after is None:
            return "not in both"
        change = self.change
        if change is None:
            return "no difference"
        return f"{change:+.1f} % {'better' if (change > 0) == self.metric.more_is_better else 'worse'}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Returns all figures that one of the files has."""
    found = [
        Difference(metric, spread_of(metric, before["runs"]), spread_of(metric, after["runs"]))
        for metric in METRICS.values()
    ]
    return [each for each in found if each.before is not None or each.after is not None]


def broken(conditions: Sequence[Condition], found: Sequence[Difference]) -> list[Condition]:
    """Returns the conditions that hold. Raises ``ValueError`` for one whose figure a file lacks."""
    by_name = {each.metric.name: each for each in found}
    held = []
    for condition in conditions:
        each = by_name.get(condition.metric.name)
        if each is None or each.after is None or (condition.is_relative and each.before is None):
            raise ValueError(f"{condition.text}: {condition.metric.name} was not measured in both")
        if condition.holds(each.before, each.after):
            held.append(condition)
    return held


def warnings(before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]) -> Iterator[str]:
    """Yields what makes a comparison doubtful: few runs, and what was not the same."""
    for document, name in zip((before, after), names, strict=True):
        number = len(document["runs"])
        if number < ENOUGH_RUNS:
            runs = "one run" if number == 1 else f"{number} runs"
            yield f"{name} has {runs}, whose range says little of chance: measure with --runs {ENOUGH_RUNS} or more"
        if not all(run.get("check", {"ok": True}).get("ok") for run in document["runs"]):
            yield f"{name} has a run in which messages were missing, doubled or misplaced"
    if before.get("command") != after.get("command"):
        yield f"they are of different commands: {before.get('command')} and {after.get('command')}"
    for part, title in (("machine", "machine"), ("versions", "version"), ("options", "option")):
        ours, theirs = _mapping(before, part), _mapping(after, part)
        for name in dict.fromkeys((*ours, *theirs)):
            if ours.get(name) != theirs.get(name):
                yield f"different {title}: {name} is {_shown(ours.get(name))}, and then {_shown(theirs.get(name))}"


def _mapping(document: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = document.get(part)
    return found if isinstance(found, Mapping) else {}


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def table(found: Sequence[Difference]) -> str:
    """Returns a line for each figure: both medians, the change, and both ranges below them."""
    rows: list[tuple[str, ...]] = [("", "before", "after", "")]
    for each in found:
        show = each.metric.show
        spreads = (each.before, each.after)
        rows.append((each.metric.label, *("-" if s is None else show(s.median) for s in spreads), each.verdict))
        if any(s is not None and s.least != s.most for s in spreads):
            ranges = ("" if s is None else f"{show(s.least)}..{show(s.most)}" for s in spreads)
            rows.append(("", *ranges, ""))
    return columns(rows, right=(1, 2))


def as_json(found: Sequence[Difference], held: Sequence[Condition], told: Sequence[str]) -> dict[str, Any]:
    """Returns the comparison as an object of JSON."""

    def spread(of: Spread | None) -> dict[str, float] | None:
        return None if of is None else {"median": of.median, "least": of.least, "most": of.most}

    return {
        "figures": {
            each.metric.name: {
                "before": spread(each.before),
                "after": spread(each.after),
                "change": None if each.change is None else round(each.change, 3),
            }
            for each in found
        },
        "failed": [condition.text for condition in held],
        "warnings": list(told),
    }
