"""scripts/rabbitmq against the real thing: what it starts can be used, and what it ends is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import SCRIPT, UP_TIMEOUT, Broker, run_script
from tests.conftest import OwnRabbitMQ


@pytest.fixture
def environ(tmp_path: Path, rabbitmq: Broker) -> Iterator[dict[str, str]]:
    """A runtime directory of the test's own. `rabbitmq` is asked for as it knows whether there is a way."""
    kept = {key: value for key, value in os.environ.items() if key != "RSTREAM_TEST_URI"}
    environ = {**kept, "RSTREAM_RUN": str(tmp_path)}
    yield environ
    run_script("down", environ=environ)
    run_script("cluster", "down", environ=environ)


def answer(*arguments: str, environ: dict[str, str]) -> str:
    done = run_script(*arguments, environ=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(*command: str, environ: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_script(*command, "status", "--json", environ=environ).stdout)
    return found


def processes_of(directory: Path) -> list[str]:
    """The living processes that name the directory in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"={directory}".encode() in entry.read_bytes():
                found.append((entry.parent / "comm").read_text().strip())
        except OSError:
            continue
    return [name for name in found if name in {"beam.smp", "epmd", "erl_child_setup", "rabbitmq-server"}]


def mounts_of(directory: Path) -> list[str]:
    """Where something of the directory is mounted, or something in it. Other mounts of the machine are not ours."""
    file_system = next(parent for parent in (directory, *directory.parents) if parent.is_mount())
    inside = str(directory.relative_to(file_system))
    mounts = [line.split(" ")[3:5] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for root, point in mounts if inside in root or str(directory) in point]


def assert_nothing_left(run: Path) -> None:
    assert list(run.iterdir()) == []
    assert processes_of(run / f"rstream-rabbitmq-{os.getuid()}") == []
    assert mounts_of(run) == []


def test_up_again_is_the_same_broker(environ: dict[str, str], tmp_path: Path) -> None:
    first = answer("up", environ=environ)
    again = run_script("up", environ=environ)
    assert again.stdout == first
    found = status(environ=environ)
    assert f"the management API is at {found['nodes'][0]['management_uri']}\n" in again.stderr
    assert found["up"]
    assert found["uris"] == [first.strip()]
    assert found["nodes"][0]["pids"]
    assert found["version"]
    answer("down", environ=environ)
    assert run_script("status", environ=environ).returncode == 3
    assert_nothing_left(tmp_path)


def test_other_options_are_refused(own_rabbitmq: OwnRabbitMQ) -> None:
    broker = own_rabbitmq("--config", "stream.heartbeat=7", "--advertised-host", "localhost")
    done = run_script("up", "--name", broker.name, "--config", "stream.heartbeat=8", environ=broker.environ)
    assert done.returncode == 1
    assert "config" in done.stderr
    settings = broker.ctl("eval", "application:get_env(rabbitmq_stream, heartbeat).")
    assert "7" in settings


@pytest.mark.soak
def test_kill_and_start_keep_ports_and_data(own_rabbitmq: OwnRabbitMQ) -> None:
    broker = own_rabbitmq()
    broker.ctl("add_vhost", "kept")
    broker.kill()
    assert run_script("status", "--name", broker.name, environ=broker.environ).returncode == 3
    broker.start()
    again = json.loads(run_script("status", "--name", broker.name, "--json", environ=broker.environ).stdout)
    assert again["uris"] == [broker.uri]
    assert "kept" in broker.ctl("list_vhosts")


def test_up_holds_no_pipe_open_and_down_follows_a_kill(environ: dict[str, str], tmp_path: Path) -> None:
    answer("up", environ=environ)  # reads its pipes to their ends
    answer("kill", environ=environ)
    answer("down", environ=environ)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL])
def test_interrupted_up(how: signal.Signals, environ: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / f"rstream-rabbitmq-{os.getuid()}" / "default" / "state.json"
    with subprocess.Popen([SCRIPT, "up"], env=environ, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (state.exists() and processes_of(tmp_path)):  # asking the script would take longer than the start
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        output, _ = process.communicate(timeout=120)
    assert output == ""
    if how is signal.SIGKILL:
        answer("down", environ=environ)
    else:
        assert process.returncode == 130
    assert_nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "processes", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "crashed"),  # as Ctrl-C may end one
        ("os.kill(os.getppid(), signal.SIGTERM)", 1, "KeyboardInterrupt"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", 0, "KeyboardInterrupt", marks=pytest.mark.soak),
    ],
)
def test_a_run_of_tests_that_is_ended_leaves_no_broker(
    environ: dict[str, str], tmp_path: Path, ending: str, processes: int, told: str
) -> None:
    """The process that runs the others takes down what one that died has left."""
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_ending.py").write_text(
        f"import os, signal, time\n\ndef test_ending(rabbitmq):\n    {ending}\n    time.sleep(60)\n"
    )
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-n", str(processes), "--max-worker-restart", "0")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_ending.py"],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(SCRIPT.parent.parent)},
        capture_output=True,
        text=True,
        timeout=UP_TIMEOUT,
        check=False,
    )
    assert told in done.stdout
    shutil.rmtree(folder)
    assert_nothing_left(tmp_path)


def test_a_server_that_cannot_start_says_why(environ: dict[str, str], tmp_path: Path) -> None:
    done = run_script("up", "--config", "stream.nonsense=1", environ=environ)
    assert done.returncode == 1
    assert "stream.nonsense" in done.stderr
    assert_nothing_left(tmp_path)


@pytest.mark.soak
def test_cluster_survives_one_node(environ: dict[str, str], tmp_path: Path) -> None:
    uris = answer("cluster", "up", environ=environ).split()
    assert len(set(uris)) == 3
    running = "length(rabbit_nodes:list_running())."
    assert answer("cluster", "ctl", "0", "--", "eval", running, environ=environ).strip() == "3"
    answer("cluster", "kill", "1", environ=environ)
    assert [node["up"] for node in status("cluster", environ=environ)["nodes"]] == [True, False, True]
    assert answer("cluster", "start", "1", environ=environ).split() == [uris[1]]
    assert answer("cluster", "ctl", "2", "--", "eval", running, environ=environ).strip() == "3"
    answer("cluster", "down", environ=environ)
    assert_nothing_left(tmp_path)
