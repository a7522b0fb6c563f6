"""Hostile input, a part of what ``scripts/fuzz`` gives: only documented errors, promptly, in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rstream_core import AmqpError, AMQPMessage
from tests.brokers import SCRIPT
from tests.hostile import MOST_MEMORY, FaultError, Report, Target, hammer, peak_bytes, targets

INPUTS = 3000
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_documented_errors(target: Target) -> None:
    report, before = Report(), peak_bytes()
    hammer(target, INPUTS, seed=20261124, report=report)
    assert report.inputs == INPUTS + len(target.seeds)
    assert peak_bytes() - before < MOST_MEMORY


def test_the_hammer_finds_faults() -> None:
    """A parser that falls over, and one that is slow, do not pass."""

    def falls(data: bytes) -> None:
        if len(data) % 2:
            raise KeyError(data)

    def dawdles(data: bytes) -> None:
        sum(range(30_000_000))

    for run in (falls, dawdles):
        with pytest.raises(FaultError):
            hammer(Target("broken", run, (ValueError,), [b"ab"]), 50, seed=1, report=Report())


@pytest.mark.parametrize(("every", "measured"), [((), 1 + 2), (("--measure-every", "1"), 1 + 40)])
def test_how_many_have_their_memory_measured(every: tuple[str, ...], measured: int) -> None:
    """One that is right, and one in 25 of the others, or all."""
    target = next(target for target in TARGETS if target.name == "bodies")
    options = ("--inputs", "39", "--seed", "1", "--only", target.name, *every)
    command = [sys.executable, str(SCRIPT.parent / "fuzz"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"the memory of {measured - 1 + len(target.seeds)} was measured" in done.stdout


def test_an_input_that_takes_much_memory_is_a_fault() -> None:
    def hoards(data: bytes) -> None:
        bytes(MOST_MEMORY + 1)  # not written to, so that it takes no time

    with pytest.raises(FaultError, match="MB for 2 bytes"):
        hammer(Target("broken", hoards, (), [b"ab"]), 0, seed=1, report=Report(), measured=1)


def test_deep_nesting_is_refused() -> None:
    deep = next(seed for target in TARGETS if target.name == "amqp" for seed in target.seeds if len(seed) > 50_000)
    with pytest.raises(AmqpError, match="deep"):
        _ = AMQPMessage.from_bytes(deep).value
