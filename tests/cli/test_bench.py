"""``rstream bench``: short runs, what they show and save, how they end, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstream_cli.bench.histogram import Histogram
from rstream_core import EmbeddedBroker
from tests.cli.conftest import Run, as_lines, run_here
from tests.cli.killable import Killable
from tests.cli.process import ended, eventually, interrupt, limited, running

LATENCIES = ["p50", "p90", "p99", "p99.9", "max", "count", "hdr"]
LONG = 60.0


def is_gone(run: Run, errors: str) -> bool:
    """Whether the stream that a benchmark has made does not exist any more."""
    (name,) = re.findall(r"stream (rstream-bench-[0-9a-f]{10}), which is deleted at the end", errors)
    return all(run(kind, "info", name).returncode == 4 for kind in ("stream", "superstream"))


def result_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_publish(run: Run) -> None:
    done = run("bench", "publish", "--count", "3000", timeout=LONG)
    assert done.returncode == 0, done.stderr.decode()
    assert "published 3,000 messages: confirmed 3,000, failed 0" in done.stdout.decode()
    assert re.search(r"publish +[\d,]+ +\S+ \S+ +[\d.]+ µs", done.stdout.decode())
    assert max(map(len, done.stdout.decode().splitlines())) <= 80
    assert is_gone(run, done.stderr.decode())


def test_both_as_json(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ("--producers", "3", "--processes", "2", "--consumers", "2", "--size", "20..200", "--batch-size", "100")
    done = run("bench", "both", "--count", "4000", *options, "--json", "--save", str(file), timeout=LONG)
    found = result_of(done)
    assert found == json.loads(file.read_text())
    assert (found["format"], found["version"], found["command"]) == ("rstream-bench", 1, "bench both")
    assert found["options"] | {"producers": 3, "consumers": 2, "size": "20..200"} == found["options"]
    (measured,) = found["runs"]
    assert measured["publish"]["confirmed"] == measured["publish"]["published"] == 4000
    assert measured["consume"]["messages"] == 8000
    assert measured["check"] == {
        "ok": True,
        "messages": 8000,
        "missing": 0,
        "doubled": 0,
        "misplaced": 0,
        "foreign": 0,
    }
    for name, count in (("confirm", 4000), ("end_to_end", 8000)):
        latency = measured[name]
        assert list(latency) == LATENCIES
        assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
        assert len(Histogram.decoded(latency["hdr"])) == latency["count"] == count
    assert "note: 3 producers share 2 processes" in done.stderr.decode()
    assert is_gone(run, done.stderr.decode())


def test_consume_fills_a_stream_first(run: Run) -> None:
    done = run("bench", "consume", "--count", "2500", "--compression", "lz4", timeout=LONG)
    assert done.returncode == 0, done.stderr.decode()
    assert "consumed 2,500 messages: each came once and in order" in done.stdout.decode()
    assert "publishing 2,500 messages to be consumed" in done.stderr.decode()
    assert is_gone(run, done.stderr.decode())


def test_a_super_stream(run: Run) -> None:
    options = ("--superstream", "3", "--consumers", "2", "--processes", "2", "--producers", "2")
    done = run("bench", "both", "--count", "5001", *options, "--json", timeout=LONG)
    (measured,) = result_of(done)["runs"]
    assert measured["check"]["ok"]
    assert measured["check"]["messages"] == measured["publish"]["confirmed"] == 5001
    assert is_gone(run, done.stderr.decode())


def test_a_body_from_a_file_among_foreign_messages(run: Run, stream: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)))
    done = run("bench", "both", stream, "--count", "700", "--size", f"@{body}", "--json", timeout=LONG)
    (measured,) = result_of(done)["runs"]
    assert measured["check"]["ok"]
    assert measured["publish"]["bytes"] == 700 * 256
    kept = run("consume", stream, "-o", "first", "--until", "end", "--count", "1", "--output", "raw")
    assert kept.stdout == bytes(range(256))
    # They are others' messages to the next run, which reads only what comes after its start, and checks their offsets.
    done = run("bench", "consume", stream, "--json", timeout=LONG)
    (measured,) = result_of(done)["runs"]
    assert measured["check"] == {"ok": True, "messages": 700, "misplaced": 0, "offsets_left_out": 0}
    assert run("stream", "info", stream).returncode == 0


def test_a_rate_is_kept_and_the_warm_up_left_out(run: Run) -> None:
    options = ("--rate", "2000/s", "--duration", "2s", "--warm-up", "1s", "--runs", "2")
    done = run("bench", "publish", *options, "--json", timeout=LONG)
    runs = result_of(done)["runs"]
    assert len(runs) == 2
    for measured in runs:
        assert 5400 < measured["publish"]["published"] <= 6000
        assert 1600 < measured["publish"]["rate"] < 2400
        assert measured["confirm"]["count"] <= 4000
        assert [row["second"] for row in measured["seconds"]] == [1, 2, 3][: len(measured["seconds"])]
    errors = done.stderr.decode()
    assert "run 1 of 2" in errors
    assert "run 2 of 2" in errors


def test_several_runs(run: Run, tmp_path: Path) -> None:
    drawing = tmp_path / "plot.svg"
    done = run("bench", "publish", "--count", "500", "--runs", "2", "-q", "--plot", str(drawing), timeout=LONG)
    assert done.returncode == 0
    assert ET.fromstring(drawing.read_text()).tag.endswith("svg")
    assert re.search(r"^ +median +least +most$", done.stdout.decode(), re.MULTILINE)
    assert "published 1,000 messages" in done.stdout.decode()
    assert done.stderr == b""


# How it ends.


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_stream_is_deleted(
    run: Run, env: dict[str, str], number: signal.Signals, status: int
) -> None:
    with running("bench", "both", "--duration", "1m", env=env) as process:
        assert process.stderr is not None
        said = b""
        with limited(process, LONG):
            while b"  1 s" not in said:
                said += process.stderr.readline()
        interrupt(process, number)
        code, errors = ended(process, timeout=LONG)
    assert code == status, errors
    assert is_gone(run, said.decode() + errors)


def test_a_message_that_comes_twice_is_told_and_ends_in_7(run: Run, env: dict[str, str], stream: str) -> None:
    options = ("--rate", "200/s", "--duration", "5s", "--warm-up", "0s")
    with running("bench", "both", stream, *options, env=env) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        with limited(process, LONG):
            while b"  1 s" not in process.stderr.readline():
                pass
        first = run("consume", stream, "-o", "first", "--count", "1", "--output", "len32").stdout
        assert run("publish", stream, "--input", "len32", stdin=first).returncode == 0
        code, _ = ended(process, timeout=LONG)
        shown = process.stdout.read().decode()
    assert code == 7, shown
    assert "consumed 1,000 messages: 1 doubled\n" in shown


def test_a_broker_that_is_gone_ends_it(killable: Killable) -> None:
    """In 7 where messages are not confirmed, and else in 6."""
    env = {"RSTREAM_URI": killable.uri}
    with running("bench", "publish", "s", "--duration", "1m", "--recover-for", "0", env=env) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        with limited(process, LONG):
            while b"  1 s" not in process.stderr.readline():
                pass
        killable.kill()
        code, errors = ended(process, timeout=LONG)
        shown = process.stdout.read().decode()
    assert errors.splitlines()[-1].startswith(("error: ", "hint: ")), errors
    assert code == (6 if ", failed 0" in shown else 7), shown + errors


def workers_of(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """The processes that a benchmark has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            is_worker = b"rstream_cli.bench.worker" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if is_worker and int(fields[1]) == process.pid:
            yield int(folder.name)


def test_a_process_that_dies_ends_it(run: Run, env: dict[str, str]) -> None:
    with running("bench", "publish", "--duration", "1m", env=env) as process:
        assert process.stderr is not None
        said = b""
        with limited(process, LONG):
            while b"  1 s" not in said:
                said += process.stderr.readline()
        (worker,) = workers_of(process)
        assert b"guest" not in Path(f"/proc/{worker}/cmdline").read_bytes()  # it gets the password on stdin
        os.kill(worker, signal.SIGKILL)
        code, errors = ended(process, timeout=LONG)
    assert (code, "error: a process of the benchmark was killed by signal 9\n" in errors) == (1, True)
    assert is_gone(run, said.decode() + errors)


def test_no_process_is_left_where_the_program_is_killed(env: dict[str, str]) -> None:
    with running("bench", "both", "--duration", "1m", env=env) as process:
        assert process.stderr is not None
        with limited(process, LONG):
            while b"  1 s" not in process.stderr.readline():
                pass
        workers = list(workers_of(process))
        assert len(workers) == 2
        process.kill()
        process.wait()
        eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), within=30)


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.uri


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("publish --size 7", "--size: a body has at least 8 bytes, by which it is known again: '7'"),
        ("publish --size @/dev/null/no", "--size: cannot read '/dev/null/no': Not a directory"),
        ("publish --duration 5s --count 3", "--duration and --count contradict each other"),
        ("publish s --superstream 3", "--superstream makes a super stream, and one is named"),
        ("consume s --size 10", "--size is for messages that are published, and the stream 's' is only read"),
        ("both --superstream 2 --consumers 3", "--consumers 3: each takes a partition at least, and there are 2"),
        ("publish --save /dev/null/no", "--save: there is no folder '/dev/null'"),
        ("publish --rate 5MB/s", "Invalid value for '--rate': not a number of messages: '5MB/s'; give N/s"),
    ],
)
def test_usage(here: str, arguments: str, message: str) -> None:
    done = run_here("bench", *arguments.split(), "--uri", here)
    assert done.status == 2
    assert message.removeprefix("Invalid value for '--rate': ") in done.errors


def test_a_broker_on_another_machine_needs_yes() -> None:
    done = run_here("bench", "publish", "--host", "broker.invalid")
    assert done.status == 2
    assert "cannot ask whether to put load on a broker of another machine: there is no terminal" in done.errors


def test_a_stream_that_is_not_there(run: Run) -> None:
    done = run("bench", "publish", "nobody", "--count", "1")
    assert (done.returncode, "there is no stream and no super stream 'nobody'" in as_lines(done.stderr)) == (4, True)
