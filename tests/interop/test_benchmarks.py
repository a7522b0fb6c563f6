"""The benchmarks of the other languages' clients run: few messages, one round, each check of theirs included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.goals import Counts, Setting
from benchmarks.peers import axes, clients
from benchmarks.programs import Target
from scripts._builds import NoProgramError, built
from tests.brokers import Broker

MESSAGES = 1000


@pytest.fixture(scope="module")
def peers() -> list[clients.Peer]:
    """All of them; skips where this machine cannot build one, or fails where it must."""
    try:
        for language in clients.LANGUAGES:
            built(language)
    except NoProgramError as error:
        if os.environ.get("RSTREAM_REQUIRE_INTEROP") == "1":
            pytest.fail(f"RSTREAM_REQUIRE_INTEROP=1, but {error}", pytrace=False)
        pytest.skip(str(error))
    return clients.build([clients.PUBLISHED])


@pytest.mark.parametrize("axis", ["streams", "partitions"])
def test_axes(peers: list[clients.Peer], broker: Broker, tmp_path: Path, axis: str) -> None:
    """Each publishes and reads two streams, and two partitions."""
    points = axes.points([(axis, (2,))], 2 * MESSAGES, is_quick=False)
    measured = axes.measure(broker.uri, tmp_path, points, 1, peers, None)
    names = {axes.OURS, *(peer.title for peer in peers)}
    assert [{contender.label for contender in each.contenders} for each in measured] == [names, names]
    assert all(contender.rate > 0 for each in measured for contender in each.contenders)
    assert len(list(axes.tables(measured))) == 2


def test_goals(peers: list[clients.Peer], broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java's latencies, and each beside ``rstream publish`` and ``rstream consume``."""
    counts = Counts.of(MESSAGES)._replace(latencies=2000)
    monkeypatch.setattr(goals, "RATE", 4000)
    setting = Setting(Target(broker.uri, goals.SIZE), tmp_path, counts, 1, peers, None)
    found = goals.measure(setting, ["publish", "consume", "latency"])
    beside = {
        goal.name
        for goal in goals.GOALS
        if "beside J" in goal.name or "beside G" in goal.name or "of Java" in goal.name
    }
    assert beside <= set(found)
    assert all(measured.value > 0 for measured in found.values())
