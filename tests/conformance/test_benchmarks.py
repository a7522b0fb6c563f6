"""The benchmarks run: few messages, one round, each check of theirs included."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.broker import ROOT
from benchmarks.goals import GOALS
from benchmarks.programs import Failed, Target
from tests.brokers import Broker

PATIENCE = 60.0
OTHERS = "java,go,rust,published"


def measure(broker: Broker, tmp_path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What ``python -m benchmarks`` prints, and what it saves."""
    file = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--messages", "1000", "--rounds", "1", "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "RSTREAM_TEST_URI": broker.uri},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_goals(broker: Broker, tmp_path: Path) -> None:
    groups = ["publish", "consume", "send_wait"]
    shown, saved = measure(broker, tmp_path, "goals", "--only", ",".join(groups), "--without", OTHERS)
    values = {goal["name"]: goal["value"] for goal in saved["goals"]}
    # A slope drowns in noise where there are a thousand messages.
    wanted = {
        goal.name for goal in GOALS if goal.group in groups and "beside" not in goal.name and "CPU" not in goal.name
    }
    assert wanted <= set(values)
    assert all(value > 0 for value in values.values())
    assert all(goal.name in shown for goal in GOALS if goal.group in groups)


def test_the_other_goals(embedded: Broker, tmp_path: Path) -> None:
    groups = ["json", "chunks", "memory"]
    _, saved = measure(embedded, tmp_path, "goals", "--only", ",".join(groups), "--pure", "--without", OTHERS)
    values = {goal["name"]: goal["value"] for goal in saved["goals"]}
    assert {goal.name for goal in GOALS if goal.group in ("json", "memory")} <= set(values)
    assert 5 < values["peak memory of pipes, 100 B bodies"] < 1000


def test_axes(embedded: Broker, tmp_path: Path) -> None:
    """Of this project alone: the other clients are in tests/interop, on both brokers."""
    wanted = ("--axis", "streams=2", "--axis", "partitions=2", "--axis", "chunk=50", "--markdown")
    shown, saved = measure(embedded, tmp_path, "peers", *wanted, "--without", OTHERS)
    found = [(point["axis"], point["task"], set(point["contenders"])) for point in saved["points"]]
    tasks = [("streams", "publish"), ("streams", "consume"), ("partitions", "publish"), ("partitions", "consume")]
    assert found == [(*each, {"rstream"}) for each in [*tasks, ("chunk", "consume")]]
    assert "### consume, by messages a chunk" in shown


def test_sigterm_takes_down_the_broker_that_was_brought_up() -> None:
    text = (
        "import time; from benchmarks.broker import embedded_broker\n"
        "with embedded_broker() as broker: print(broker.uri, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].split("/")[0])
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_sigterm_deletes_streams_of_a_broker_that_stays(broker: Broker) -> None:
    text = (
        "import sys, time; from benchmarks.broker import running_broker; from benchmarks.programs import Target\n"
        "with running_broker() as broker, Target(broker.uri, 100).new_streams('sigterm') as names:\n"
        "    print(names[0], flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "RSTREAM_TEST_URI": broker.uri}
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        target = Target(broker.uri, 100)
        assert target.admin("count", name) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    with pytest.raises(Failed, match="code 2"):
        target.admin("count", name)
