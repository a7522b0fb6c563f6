"""Which signals are one stop: the same one that comes twice at once, and no other."""

from __future__ import annotations

import signal

import pytest

from rstream_cli.runner import SAME_STOP, Interrupt

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("signals", "stops"),
    [
        ([(INT, 0)], 1),
        ([(INT, 0), (INT, 0)], 1),
        ([(INT, 0), (INT, 99)], 1),
        ([(INT, 0), (INT, 101)], 2),
        ([(INT, 0), (INT, 60), (INT, 120)], 2),  # counted from the stop, and not from what repeats it
        ([(INT, 0), (TERM, 0)], 2),
        ([(TERM, 0), (INT, 1), (TERM, 2)], 3),
    ],
)
def test_stops(signals: list[tuple[signal.Signals, int]], stops: int) -> None:
    """Signals with the milliseconds at which they come."""
    times = iter([1000 + milliseconds / 1000 for _, milliseconds in signals])
    interrupt = Interrupt(lambda: next(times))
    assert sum(interrupt.is_new(number) for number, _ in signals) == stops


def test_it_is_less_than_a_person_needs_and_more_than_a_program() -> None:
    assert 0.05 <= SAME_STOP <= 0.25
