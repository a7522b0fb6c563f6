"""Hostile input, a part of what ``scripts/fuzz`` gives: only documented errors, promptly, in bounded memory."""

from __future__ import annotations

import pytest

from rstream_core import AmqpError, AMQPMessage
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


def test_deep_nesting_is_refused() -> None:
    deep = next(seed for target in TARGETS if target.name == "amqp" for seed in target.seeds if len(seed) > 50_000)
    with pytest.raises(AmqpError, match="deep"):
        _ = AMQPMessage.from_bytes(deep).value
