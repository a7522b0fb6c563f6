"""``rstream copy``: what comes over, how it ends, what it refuses. tests/conformance/test_copy.py has the rest."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstream_core import EmbeddedBroker
from tests.brokers import Broker, broker_at
from tests.cli.conftest import Run, run_rstream
from tests.cli.killable import Killable
from tests.cli.process import ended, eventually, running
from tests.cli.terminal import Terminal

EXPECTED = "".join(f"{number}\n" for number in range(1, 2001)).encode()


@pytest.fixture
def target(run: Run, stream_name: str) -> Iterator[str]:
    """A second stream that holds nothing."""
    name = f"{stream_name}-to"
    assert run("stream", "create", name).returncode == 0
    yield name
    run("stream", "delete", name, "--missing-ok", "--yes")


@pytest.fixture
def filled(run: Run, stream: str) -> str:
    """A stream of the numbers 1 to 2000."""
    assert run("publish", stream, stdin=EXPECTED).returncode == 0
    return stream


def bodies(run: Run, stream: str, *options: str) -> bytes:
    done = run("consume", stream, "-o", "first", "--until", "end", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def summary_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    assert found["event"] == "summary"
    return found


def test_all_comes_over_and_the_summary_says_what_cannot_be_kept(run: Run, filled: str, target: str) -> None:
    done = run("copy", filled, target, "--stats", "line")
    assert (done.returncode, done.stdout) == (0, b"")
    first, *_, last = done.stderr.decode().splitlines()
    assert re.fullmatch(f"begins with '{filled}', as 'copy-{filled}-[0-9a-f]{{20}}'", first)
    assert "copied 2,000 messages (" in last
    assert f"from {filled} to {target} in" in last
    assert "kept messages and their order, but no offsets, timestamps or filter values" in last
    assert bodies(run, target) == EXPECTED
    again = run("copy", filled, target, "--stats", "json")
    assert (again.returncode, summary_of(again)["confirmed"]) == (0, 0)
    assert "filter values" in summary_of(again)["not_kept"]


def test_without_a_terminal_it_is_quiet(run: Run, filled: str, target: str) -> None:
    done = run("copy", filled, target, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_selection(run: Run, filled: str, target: str) -> None:
    done = run("copy", filled, target, "--grep", "^1", "--grep-not", "5", "-o", "-1000", "--stats", "json")
    summary = summary_of(done)
    assert done.returncode == 0
    expected = [line for line in EXPECTED.split()[1000:] if line.startswith(b"1") and b"5" not in line]
    assert (summary["confirmed"], summary["left_out"]) == (len(expected), 1000 - len(expected))
    assert bodies(run, target).split() == expected
    begins = json.loads(done.stderr.splitlines()[0])
    assert (begins["event"], begins["resumed"]) == ("copies", False)
    again = run("copy", filled, target, "--grep", "^1", "--grep-not", "5", "-o", str(begins["offset"]))
    assert again.returncode == 0
    assert bodies(run, target).split() == expected


def test_filter_values_and_compression(run: Run, stream: str, target: str) -> None:
    lines = b"".join(b'{"region":"%b","n":%d}\n' % (region, n) for n in range(20) for region in (b"eu", b"us"))
    assert run("publish", stream, stdin=lines).returncode == 0
    assert run("copy", stream, target, "--set-filter-from", ".region").returncode == 0
    assert bodies(run, target) == lines
    found = bodies(run, target, "--filter", "eu", "--filter-from", ".region")
    assert found == b"".join(line + b"\n" for line in lines.split(b"\n") if b"eu" in line)
    nothing = run("consume", target, "-o", "first", "--until", "end", "--filter", "asia")
    assert (nothing.returncode, nothing.stdout) == (0, b"")
    packed = run("copy", stream, target, "--append", "--compression", "gzip", "--name", "packed", "-o", "0")
    assert packed.returncode == 0
    assert bodies(run, target) == lines * 2


def test_the_gaps_in_time_are_kept(run: Run, stream: str, target: str) -> None:
    for message in ("one", "two"):
        assert run("publish", stream, "-m", message).returncode == 0
        time.sleep(0.2)  # the gap
    summary = summary_of(run("copy", stream, target, "--pace", "0.5x", "--stats", "json"))
    assert summary["confirmed"] == 2
    assert summary["elapsed"] > 0.4
    assert bodies(run, target) == b"one\ntwo\n"


def refused(done: subprocess.CompletedProcess[bytes], *words: str) -> None:
    assert (done.returncode, done.stdout) == (9, b"")
    error, hint = done.stderr.decode().splitlines()[-2:]
    for word in words:
        assert word in error + hint


def test_what_is_refused(run: Run, filled: str, target: str) -> None:
    done = run("copy", filled, filled)
    assert (done.returncode, done.stderr.decode()) == (
        9,
        f"error: the source and the target are the same stream, '{filled}'\n",
    )
    assert run("copy", filled, target, "--until", "999").returncode == 0
    refused(run("copy", filled, target, "-o", "5"), "has a copy of", "leave out --offset to go on with that copy")
    refused(run("copy", filled, target, "--name", "other"), "holds messages", "--append copies behind what is there")
    refused(run("copy", filled, target, "--grep", "1"), "holds messages")
    assert bodies(run, target) == EXPECTED[: EXPECTED.index(b"1001\n")]
    assert run("copy", filled, target).returncode == 0
    assert bodies(run, target) == EXPECTED
    assert run("stream", "delete", filled, "--yes").returncode == 0
    assert run("stream", "create", filled).returncode == 0
    assert run("publish", filled, stdin=EXPECTED * 2).returncode == 0
    refused(run("copy", filled, target), "deleted and made anew", "pass another --name, and --append")
    assert bodies(run, target) == EXPECTED


def test_errors_as_objects(run: Run, filled: str) -> None:
    done = run("copy", filled, filled, "--stats", "json")
    assert done.returncode == 9
    error, summary = map(json.loads, done.stderr.splitlines())
    assert (error["event"], error["kind"], error["code"]) == ("error", "CopyRefused", 9)
    assert (summary["event"], summary["exit_code"]) == ("summary", 9)


def test_streams_that_do_not_exist(run: Run, filled: str) -> None:
    for words in ((filled, "nobody"), ("nobody", filled)):
        done = run("copy", *words)
        assert done.returncode == 4
        assert "there is no stream and no super stream 'nobody'" in done.stderr.decode()


def test_super_streams(run: Run, stream_name: str) -> None:
    names = [f"{stream_name}-{name}" for name in "abc"]
    for name, partitions in zip(names, "332", strict=True):
        assert run("superstream", "create", name, "--partitions", partitions).returncode == 0
    try:
        lines = b"".join(b'{"key":"k%d","n":%d}\n' % (n % 7, n) for n in range(140))
        published = run("superstream", "publish", names[0], "--key-delimiter", "|", stdin=_keyed(lines))
        assert published.returncode == 0
        assert run("copy", names[0], names[1]).returncode == 0
        for number in range(3):
            assert bodies(run, f"{names[1]}-{number}") == bodies(run, f"{names[0]}-{number}")
        refused(run("copy", names[0], names[2]), "has 3 partitions, and", "2 partitions", "pass --key-from")
        for _ in range(2):
            assert run("copy", names[0], names[2], "--key-from", ".key").returncode == 0
        found = bodies(run, f"{names[2]}-0"), bodies(run, f"{names[2]}-1")
        assert all(found)
        for lane in found:
            rows = [json.loads(line) for line in lane.splitlines()]
            for key in {row["key"] for row in rows}:
                numbers = [row["n"] for row in rows if row["key"] == key]
                assert numbers == list(range(int(key[1:]), 140, 7))
        assert sorted(b"".join(found).splitlines()) == sorted(lines.splitlines())
        bad = run("copy", names[0], names[1], "--append", "--key-from", ".nothing")
        assert (bad.returncode, b"it has no routing key" in bad.stderr) == (8, True)
        for option in ("--offset", "--until"):
            done = run("copy", names[0], names[1], option, "5")
            assert (done.returncode, b"is a super stream, and a number" in done.stderr) == (2, True)
    finally:
        run("superstream", "delete", *names, "--missing-ok", "--yes")


def _keyed(lines: bytes) -> bytes:
    return b"".join(json.loads(line)["key"].encode() + b"|" + line + b"\n" for line in lines.splitlines())


def test_key_from_is_for_super_streams(run: Run, filled: str, target: str) -> None:
    done = run("copy", filled, target, "--key-from", ".x")
    assert (done.returncode, b"is a stream, and has no partitions" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Broker]:
    """Another broker, where the stream ``to`` may be reached by ``mia`` alone."""
    with EmbeddedBroker(users={"mia": "sesame"}) as broker:
        yield broker_at(broker.uri)


def test_to_another_broker(run: Run, filled: str, elsewhere: Broker, tmp_path: Path) -> None:
    there = f"rabbitmq-stream://mia@{elsewhere.host}:{elsewhere.port}"
    full = f"rabbitmq-stream://mia:sesame@{elsewhere.host}:{elsewhere.port}"
    assert run_rstream("stream", "create", filled, env={"RSTREAM_URI": full}).returncode == 0
    (tmp_path / "password").write_text("sesame\n")
    file = str(tmp_path / "password")
    done = run("copy", filled, filled, "--to-uri", there, "--to-password-file", file, "--until", "99")
    assert done.returncode == 0
    done = run("copy", filled, filled, "--to-uri", there, env={"RSTREAM_TO_PASSWORD": "sesame"})
    assert done.returncode == 0
    found = run_rstream("consume", filled, "-o", "first", "--until", "end", env={"RSTREAM_URI": full})
    assert found.stdout == EXPECTED
    wrong = run("copy", filled, filled, "--to-uri", there, env={"RSTREAM_TO_PASSWORD": "wrong"})
    assert wrong.returncode == 5
    shown = run("copy", filled, filled, "--to-uri", full)
    assert (shown.returncode, b"sesame" in shown.stderr) == (2, False)


def test_a_target_that_cannot_be_reached(run: Run, filled: str, closed_port: int) -> None:
    done = run("copy", filled, filled, "--to-uri", f"rabbitmq-stream://127.0.0.1:{closed_port}")
    assert done.returncode == 6
    assert f"127.0.0.1:{closed_port}" in done.stderr.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_follows_until_a_signal(
    env: dict[str, str], run: Run, filled: str, target: str, number: int, code: int
) -> None:
    with running("copy", filled, target, "--follow", "--stats", "json", "--stats-interval", "50ms", env=env) as process:
        eventually(lambda: bodies(run, target) == EXPECTED)
        assert run("publish", filled, "-m", "later").returncode == 0
        eventually(lambda: bodies(run, target) == EXPECTED + b"later\n")
        process.send_signal(number)
        status, errors = ended(process)
    assert status == code
    summary = json.loads(errors.splitlines()[-1])
    assert (summary["confirmed"], summary["exit_code"], summary["reason"]) == (2001, code, signal.Signals(number).name)
    assert run("copy", filled, target).returncode == 0
    assert bodies(run, target) == EXPECTED + b"later\n"


def test_a_live_display_has_both_sides(env: dict[str, str], filled: str, target: str) -> None:
    with Terminal(80) as terminal:
        words = ("copy", filled, target, "--rate", "1k/s", "--stats", "live")
        with running(*words, env={**env, "TERM": "xterm-256color"}, stderr=terminal.descriptor) as process:
            for word in ("copying", "read", "written", "confirmed", "lag", "ETA"):
                terminal.read_until(word)
            process.kill()


def test_killed_again_and_again_it_loses_and_doubles_nothing(
    env: dict[str, str], run: Run, filled: str, target: str
) -> None:
    """The short form of the soak part ``copy``."""
    for number in range(6):
        with running("copy", filled, target, "--rate", "4k/s", "--stats", "none", env=env) as process:
            eventually(lambda: len(bodies(run, target)) >= 1000 * number)  # noqa: B023
            process.kill()
    assert run("copy", filled, target).returncode == 0
    assert bodies(run, target) == EXPECTED


def test_the_targets_broker_is_killed(run: Run, filled: str, killable: Killable, env: dict[str, str]) -> None:
    with running(
        "copy",
        filled,
        "s",
        "--rate",
        "2k/s",
        "--to-uri",
        _without_password(killable.uri),
        env={**env, "RSTREAM_TO_PASSWORD": broker_at(killable.uri).password},
    ) as process:
        there = {"RSTREAM_URI": killable.uri}

        def some() -> bool:
            done = run_rstream("stream", "info", "s", "--json", env=there)
            return done.returncode == 0 and b'"last_offset":null' not in done.stdout.replace(b" ", b"")

        eventually(some)
        killable.kill()
        killable.start()
        status, errors = ended(process, timeout=60)
    assert (status, "error" in errors) == (0, False)
    found = run_rstream("consume", "s", "-o", "first", "--until", "end", env=there)
    assert found.stdout == EXPECTED


def _without_password(uri: str) -> str:
    at = broker_at(uri)
    return f"rabbitmq-stream://{at.username}@{at.host}:{at.port}"
