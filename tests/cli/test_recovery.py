"""``publish`` and ``consume`` go on when the broker comes back, say so, and give up in time when it does not."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from tests.cli.conftest import run_rstream
from tests.cli.killable import Killable
from tests.cli.process import ended, interrupt, running, summary_of

COUNT = 3000
OUTAGE = 2.0
"""Seconds: one that is over in a moment is not told."""


def events(errors: str) -> list[str]:
    return [line["event"] for line in map(json.loads, errors.splitlines()) if line["event"] != "progress"]


@pytest.mark.slow
def test_a_broker_that_is_killed_and_comes_back(killable: Killable) -> None:
    env = {"RSTREAM_URI": killable.uri}
    words = ("--stats", "json", "--rate", "300/s", "--name", "writer")
    with (
        subprocess.Popen(["seq", str(COUNT)], stdout=subprocess.PIPE) as source,
        running("consume", "s", "-o", "first", "-n", str(COUNT), "--stats", "json", env=env) as consumer,
        running("publish", "s", *words, stdin=source.stdout, env=env) as publisher,
    ):
        assert consumer.stdout is not None
        begin = consumer.stdout.readline()
        killable.kill()
        time.sleep(OUTAGE)
        killable.start()
        seen = begin + consumer.stdout.read()
        code, errors = ended(publisher)
        consumed, told = ended(consumer)
    assert (code, consumed) == (0, 0), errors + told
    assert summary_of(errors)["confirmed"] == COUNT
    for account in (errors, told):
        *outages, end = events(account)
        assert end == "summary"
        # A RabbitMQ that starts may have a stream for a moment, and lose its leader once more: another outage.
        assert outages == ["lost", "recovered"] * max(len(outages) // 2, 1)
    lines = [str(number).encode() for number in range(1, COUNT + 1)]
    assert seen.splitlines() == lines
    stored = run_rstream("consume", "s", "-o", "first", "--until", "end", env=env)
    assert stored.stdout.splitlines() == lines


@pytest.mark.slow
def test_a_broker_that_does_not_come_back(killable: Killable) -> None:
    env = {"RSTREAM_URI": killable.uri, "RSTREAM_RECOVER_FOR": "2s"}
    with (
        running("consume", "s", "-o", "first", env=env) as consumer,
        running("publish", "s", stdin=subprocess.PIPE, env=env) as publisher,
    ):
        assert publisher.stdin is not None
        assert consumer.stdout is not None
        publisher.stdin.write(b"one\n")
        publisher.stdin.flush()
        assert consumer.stdout.readline() == b"one\n"
        killable.kill()
        for process in (publisher, consumer):
            code, errors = ended(process)
            assert code == 6
            warning, error = [line for line in errors.splitlines() if not line.startswith("hint: ")]
            assert warning.startswith("warning: the connection to ")
            assert warning.endswith("trying again, for 2 s at most")
            assert error.startswith("error: ")


def test_an_offset_is_stored_where_the_run_ends_in_an_outage(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with EmbeddedBroker(data=tmp_path) as broker:
            port, env = broker.port, {"RSTREAM_URI": broker.uri}
            assert run_rstream("stream", "create", "s", env=env).returncode == 0
            assert run_rstream("publish", "s", stdin=b"one\ntwo\n", env=env).returncode == 0
            words = ("--offset", "first", "--name", "g", "--store-every", "1000")
            consumer = stack.enter_context(running("consume", "s", *words, "--stats", "json", env=env))
            assert consumer.stdout is not None
            assert [consumer.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        interrupt(consumer, signal.SIGTERM)
        time.sleep(2)  # the run is over by then, but for its offset
        assert consumer.poll() is None
        stack.enter_context(EmbeddedBroker(data=tmp_path, port=port))
        code, errors = ended(consumer)
        assert code == 143, errors
        assert summary_of(errors)["stored_offset"] == 1
        found = run_rstream("offset", "query", "s", "--name", "g", env=env)
        assert found.stdout == b"1\n", found.stderr
