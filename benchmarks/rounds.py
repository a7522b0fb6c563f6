"""Contenders that take turns: the order of each round is that of the one before it, reversed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.programs import Failed, Result


def note(line: str) -> None:
    """Tells what goes on. stdout has the tables alone."""
    print(f"  {line}", file=sys.stderr, flush=True)


@dataclass
class Contender:
    """One way of doing a task, and its results, one a round."""

    label: str
    run: Callable[[], Result]
    results: list[Result] = field(default_factory=list)
    took: float = 0.0
    """Seconds of its last run, with what it needs around it."""

    def median(self, figure: Callable[[Result], float]) -> float:
        return statistics.median(map(figure, self.results))

    @property
    def rate(self) -> float:
        """Messages a second, without the start of the program."""
        return self.median(lambda result: result.rate)


def inside(result: Result) -> float:
    """Messages a second, without the start of the program."""
    return result.rate


def ratio(
    one: Contender,
    other: Contender,
    figure: Callable[[Result], float] = inside,
    other_figure: Callable[[Result], float] | None = None,
) -> float:
    """The median of the ratios of each round: what slows a whole round down does not count."""
    pairs = zip(one.results, other.results, strict=False)  # where time ran out one has a round less
    return statistics.median(figure(a) / (other_figure or figure)(b) for a, b in pairs)


def slope(long: Contender, short: Contender, unit: int = 1) -> float:
    """The median over the rounds of what a further message costs, in seconds of processor time; or ``unit`` of them."""
    pairs = zip(long.results, short.results, strict=True)
    return statistics.median((a.cpu - b.cpu) * unit / max(a.messages - b.messages, 1) for a, b in pairs)


def take_turns(
    title: str,
    contenders: Sequence[Contender],
    rounds: int,
    *,
    seconds: float | None = None,
    faults: list[str] | None = None,
) -> bool:
    """Runs all of them so often. Returns whether there was time for that: with ``seconds``, no run begins that would
    end later, as far as its last one tells.

    Raises ``Failed`` where a run fails. With ``faults``, that is noted there, and the others go on without it.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    failed: list[Contender] = []
    for number in range(rounds):
        for contender in order(contenders, number):
            if contender in failed:
                continue
            began = time.monotonic()
            if deadline is not None and began + contender.took > deadline:
                note(f"{title}: time is up in round {number + 1} of {rounds}")
                return False
            try:
                result = contender.run()
            except Failed as error:
                if faults is None:
                    raise
                faults.append(f"{title}, {contender.label}: {error}")
                note(faults[-1])
                failed.append(contender)
                contender.results.clear()
                continue
            contender.took = time.monotonic() - began
            contender.results.append(result)
            note(f"{title} {number + 1}/{rounds}  {contender.label}: {result.rate:,.0f}/s")
    return True


def order(contenders: Sequence[Contender], number: int) -> Iterable[Contender]:
    """There and back again: nobody always comes after the same one."""
    return contenders if number % 2 == 0 else reversed(contenders)
