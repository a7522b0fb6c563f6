"""The benchmarks of the other languages' clients run: few messages, one round, each check of theirs included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.goals import Counts, Setting
from benchmarks.peers import axes, clients
from benchmarks.programs import Result, Target
from benchmarks.rounds import Contender
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
    measured, faults = axes.measure(broker.uri, tmp_path, points, 1, peers, None)
    assert faults == []
    names = {axes.OURS, *(peer.title for peer in peers)}
    assert [{contender.label for contender in each.contenders} for each in measured] == [names, names]
    assert all(contender.rate > 0 for each in measured for contender in each.contenders)
    assert len(list(axes.tables(measured))) == 2


def test_latencies(peers: list[clients.Peer], broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java's beside those of ``rstream bench``."""
    monkeypatch.setattr(goals, "RATE", 4000)
    counts = Counts.of(MESSAGES)._replace(latencies=1000)
    setting = Setting(Target(broker.uri, goals.SIZE), tmp_path, counts, 1, peers, None)
    found, faults = goals.measure(setting, ["latency"])
    assert faults == []
    ((name, measured),) = found.items()
    assert name in {goal.name for goal in goals.GOALS}
    assert measured.value > 0


def test_each_language_has_its_rows(peers: list[clients.Peer]) -> None:
    """A row of the table is found by its name."""
    contender = Contender("made", lambda: Result(1, 1.0, 1.0, 1.0, 1.0, {}))
    contender.results.append(contender.run())
    for what in ("publish", "consume"):
        found = goals.beside_peers(what, contender, [(peer, contender) for peer in peers])
        assert set(found) == {goal.name for goal in goals.GOALS if goal.name.startswith(f"{what} beside")}
