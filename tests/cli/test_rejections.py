"""What a run with publishing ids does where the broker rejects a message: a second run is not to leave it out."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rstream_core import EmbeddedBroker
from rstream_core.protocol.commands import Key
from tests.cli.conftest import Run, run_rstream
from tests.cli.process import ended, interrupt, limited, running, summary_of, told
from tests.cli.test_broker import broker_process

NAMED = ("--name", "n", "--id-from", "line")
INTERNAL_ERROR = 15
PRECONDITION_FAILED = 17


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def env(embedded: EmbeddedBroker) -> dict[str, str]:
    """The embedded broker's: it rejects when it is told to."""
    return {"RSTREAM_URI": embedded.uri}


def limit_files(broker: subprocess.Popen[bytes], size: int) -> None:
    """Lets the broker write files of so many bytes: what is small may find room where others did not."""
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_a_full_disk_and_then_room(tmp_path: Path, fsync: str) -> None:
    """The second of three lines has no room. The third comes behind it, though there is room for that."""
    lines = b"one\n" + b"x" * 700_000 + b"\nthree\n"
    with broker_process("--fsync", fsync, "--data", str(tmp_path)) as (process, broker):
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_STREAM": "s"}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        limit_files(process, 600_000)
        command = ("publish", *NAMED, "--batch-size", "1")
        done = run_rstream(*command, stdin=lines, env=env)
        assert done.returncode == 7
        error, hint = done.stderr.decode().splitlines()
        assert error == ("error: 2 of 3 messages are not confirmed, records 2-3: the broker reports an internal error")
        assert hint == "hint: publish the same input again, under this name: what is stored already is left out"
        limit_files(process, resource.RLIM_INFINITY)
        done = run_rstream(*command, "--stats", "json", stdin=lines, env=env)
        assert done.returncode == 0
        assert summary_of(done.stderr)["already_published"] == 1
        assert run_rstream("consume", "-o", "first", "--until", "end", env=env).stdout == lines


def test_a_disk_that_is_full_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(3)
    lines = b"".join(b"%d %s\n" % (number, b"x" * chance.choice((3, 20, 2000))) for number in range(6000))
    with broker_process("--data", str(tmp_path)) as (process, broker):
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_STREAM": "s"}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        for room in (500_000, 1_000_000, 2_500_000, resource.RLIM_INFINITY):
            limit_files(process, room)
            done = run_rstream("publish", *NAMED, "--batch-size", "50", stdin=lines, env=env)
            assert done.returncode == (0 if room == resource.RLIM_INFINITY else 7)
        assert run_rstream("consume", "-o", "first", "--until", "end", env=env).stdout == lines


def test_what_a_run_would_leave_out_is_told(embedded: EmbeddedBroker, run: Run, stream: str, tmp_path: Path) -> None:
    """The broker has gone on behind what it rejected: the message is in the file alone."""
    failed = tmp_path / "failed"
    command = ("publish", stream, *NAMED, "--batch-size", "1")
    embedded.faults.delay(0.2)  # all three are on their way when the first is rejected
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    done = run(*command, "--failed-to", str(failed), stdin=b"one\ntwo\nthree\n")
    embedded.faults.clear()
    assert done.returncode == 7
    warning, error = done.stderr.decode().splitlines()
    assert warning == (
        f"warning: stream {stream!r}: record 1 was rejected; another run under this name skips it, because the broker's"
        f" last publishing id of 'n' is 3; only {failed} still holds it"
    )
    assert error == "error: 1 of 3 messages are not confirmed, record 1: the broker reports an internal error"
    again = run(*command, "--stats", "json", stdin=b"one\ntwo\nthree\n")
    assert summary_of(again.stderr)["already_published"] == 3
    assert run("publish", stream, "--json", str(failed)).returncode == 0
    assert run("consume", stream, "-o", "first", "--until", "end").stdout == b"two\nthree\none\n"


def test_the_failed_messages_of_earlier_runs_stay(
    embedded: EmbeddedBroker, run: Run, stream: str, tmp_path: Path
) -> None:
    """They may be the only copies. What was cut off at the end of the file takes no other line along."""
    failed = tmp_path / "failed"
    command = ("publish", stream, "--failed-to", str(failed))
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    assert run(*command, "-m", "one").returncode == 7
    embedded.faults.clear()
    assert run(*command, "-m", "stored").returncode == 0
    with failed.open("ab") as file:
        file.write(b'{"body":"cut o')
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    assert run(*command, "-m", "two", "-m", "three").returncode == 7
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    assert run(*command, "-m", "four").returncode == 7
    embedded.faults.clear()
    assert failed.read_bytes().count(b"\n") == 5
    assert run("publish", stream, "--json", str(failed), "--on-error", "skip").returncode == 3
    assert run("consume", stream, "-o", "first", "--until", "end").stdout == b"stored\none\ntwo\nthree\nfour\n"


def test_it_stops_though_the_input_goes_on(embedded: EmbeddedBroker, env: dict[str, str], stream: str) -> None:
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    with running("publish", stream, *NAMED, "--stats", "json", stdin=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        code, errors = ended(process)
    assert code == 7
    summary = summary_of(errors)
    assert (summary["read"], summary["failed"]) == (1, 1)


def test_what_is_read_behind_a_rejection_is_not_published(
    embedded: EmbeddedBroker, run: Run, stream: str, tmp_path: Path
) -> None:
    """Whatever has ids of its own, and however much: it is counted, named, and kept."""
    failed = tmp_path / "failed"
    records = [{"n": 10 * number} for number in range(1, 20_001)]
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    options = ("--name", "n", "--id-from", ".n", "--max-in-flight", "1000", "--batch-size", "100")
    done = run("publish", stream, *options, "--failed-to", str(failed), "--stats", "json", stdin=lines)
    assert done.returncode == 7
    summary = summary_of(done.stderr)
    assert "publishing ids 10, 20, 30 and " in summary["error"]
    assert summary["confirmed"] < 2000
    kept = failed.read_bytes().splitlines()
    assert len(kept) == summary["read"] - summary["confirmed"]
    stored = run("consume", stream, "-o", "first", "--until", "end").stdout
    assert len(stored.splitlines()) == summary["confirmed"]


def test_a_name_without_ids_goes_on(embedded: EmbeddedBroker, run: Run, stream: str) -> None:
    """Another run counts on behind what the broker knows, and leaves nothing out."""
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    done = run("publish", stream, "--name", "n", "--method", "wait", stdin=b"one\ntwo\nthree\n")
    assert done.returncode == 7
    assert done.stderr.startswith(b"error: 1 of 3 messages are not confirmed: the broker reports an internal error\n")
    assert run("consume", stream, "-o", "first", "--until", "end").stdout == b"two\nthree\n"


def test_a_partition_rejects(embedded: EmbeddedBroker, run: Run, stream_name: str) -> None:
    """A name has a sequence in each."""
    assert run("superstream", "create", stream_name, "--partitions", "2").returncode == 0
    lines = b"".join(b'{"k": "%d"}\n' % (number % 2) for number in range(4))
    embedded.faults.delay(0.2)
    embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
    done = run("superstream", "publish", stream_name, *NAMED, "--key-from", ".k", "--batch-size", "1", stdin=lines)
    embedded.faults.clear()
    assert done.returncode == 7
    warning, error, _ = done.stderr.decode().splitlines()
    assert warning.startswith(f"warning: stream '{stream_name}-")
    assert ": record 2 was rejected; another run under this name skips it" in warning
    assert error.startswith("error: 1 of 4 messages are not confirmed, record 2: ")
    run("superstream", "delete", stream_name, "--yes")


# --- where the broker does not tell how far it has come ------------------------------------------------------------


@contextmanager
def publishing(
    env: dict[str, str], stream: str, *options: str, stats: str = "json"
) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is open, and has nothing to publish yet: the question at its opening has been answered."""
    command = ("publish", stream, *NAMED, "--batch-size", "1", "--stats", stats, "--stats-interval", "50ms", *options)
    with running(*command, stdin=subprocess.PIPE, env=env) as process:
        assert process.stderr is not None
        with limited(process):
            assert b"published" in process.stderr.readline()
        yield process


def give(process: subprocess.Popen[bytes], lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.flush()


def passed_of(errors: str) -> dict[str, Any]:
    """The one event that tells what another run may leave out. Nobody is told to rely on it."""
    assert "publish the same input again" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("{")]
    (found,) = (event for event in map(json.loads, lines) if event["event"] == "passed")
    return dict(found)


def test_the_question_for_the_last_id_is_refused(
    embedded: EmbeddedBroker, env: dict[str, str], run: Run, stream: str
) -> None:
    """The broker has passed what it rejected, and does not say so: another run leaves it out."""
    lines = b"one\ntwo\nthree\n"
    with publishing(env, stream) as process:
        embedded.faults.delay(0.2)
        embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
        embedded.faults.answer(Key.QUERY_PUBLISHER_SEQUENCE, PRECONDITION_FAILED)
        give(process, lines)
        code, errors = ended(process)
    embedded.faults.clear()
    assert code == 7
    assert passed_of(errors) == {"event": "passed", "stream": stream, "which": "record 1", "messages": 1, "last": None}
    assert summary_of(run("publish", stream, *NAMED, "--stats", "json", stdin=lines).stderr)["already_published"] == 3


@pytest.mark.parametrize("is_kept", [True, False])
def test_people_are_told_what_may_be_left_out(
    embedded: EmbeddedBroker, env: dict[str, str], stream: str, tmp_path: Path, is_kept: bool
) -> None:
    failed = tmp_path / "failed"
    options = ("--failed-to", str(failed)) if is_kept else ()
    with publishing(env, stream, *options, stats="line") as process:
        embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
        embedded.faults.answer(Key.QUERY_PUBLISHER_SEQUENCE, PRECONDITION_FAILED)
        give(process, b"one\n")
        code, errors = ended(process)
    assert code == 7
    assert "publish the same input again" not in errors
    assert (
        f"warning: stream {stream!r}: record 1 was rejected; another run under this name may skip it, because the"
        f" broker did not say its last publishing id of 'n'{f'; only {failed} still holds it' if is_kept else ''}\n"
    ) in errors


def test_the_broker_is_lost_behind_a_rejection(env: dict[str, str], embedded: EmbeddedBroker, stream: str) -> None:
    with publishing(env, stream, "--recover-for", "0", "--drain-timeout", "1") as process:
        embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
        embedded.faults.cut_frame(Key.QUERY_PUBLISHER_SEQUENCE)
        give(process, b"one\n")
        code, errors = ended(process)
    assert code == 7
    assert passed_of(errors)["last"] is None


def test_a_second_signal_behind_a_rejection(embedded: EmbeddedBroker, env: dict[str, str], stream: str) -> None:
    """While the broker is asked."""
    with publishing(env, stream) as process:
        embedded.faults.delay(1.5)
        embedded.faults.answer(Key.PUBLISH, INTERNAL_ERROR)
        give(process, b"one\n")
        told(process, lambda found: found["failed"] == 1)
        interrupt(process)
        interrupt(process, signal.SIGTERM)
        code, errors = ended(process)
    assert code == 7
    assert passed_of(errors)["last"] is None
