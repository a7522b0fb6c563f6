"""The segment files of a broker that was stopped are restored, and are what was read before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from tests.brokers import SCRIPT, run_script
from tests.cli.conftest import run_rstream
from tests.cli.test_dump import framed, samples
from tests.conftest import OwnRabbitMQ, give_up

READ = ("consume", "s", "-o", "first", "--until", "end", "--codec", "raw", "--output", "len32")


def run(uri: str, *words: str, stdin: bytes = b"") -> bytes:
    done = run_rstream(*words, "--uri", uri, stdin=stdin, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill(uri: str) -> bytes:
    """Chunks of all kinds, in several segments: plain, filtered, with sub-entries, and what brokers track."""
    run(uri, "stream", "create", "s", "--max-segment-size", "1MB", "--filter-size", "32")
    data = framed(samples())
    for options in ((), ("--filter", "v"), ("--compression", "gzip"), ("--name", "tracked")):
        run(uri, "publish", "s", "--codec", "raw", "--input", "len32", *options, stdin=data)
    run(uri, "offset", "store", "s", "5", "--name", "reader")
    run(uri, "publish", "s", stdin=(b"x" * 1000 + b"\n") * 2000)
    run(uri, "offset", "store", "s", "6", "--name", "reader")
    run(uri, "publish", "s", "-m", "the last one")
    return run(uri, *READ)


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bytes, Path]:
    """What was read of a stream, and the folder that its broker has left."""
    data = tmp_path / "data"
    if request.param == "embedded":
        with EmbeddedBroker(data=data) as broker:
            before = fill(broker.uri)
        found = data
    else:
        start: OwnRabbitMQ = request.getfixturevalue("own_rabbitmq")
        own = start()
        before = fill(own.uri)
        own.kill()
        status = json.loads(run_script("status", "--name", own.name, "--json").stdout)
        found = Path(status["directory"])
    folders = {path.parent for path in found.rglob("*.segment")}
    if not folders:
        give_up(f"{SCRIPT} keeps its data where this test cannot read")
    (folder,) = folders
    assert len(list(folder.glob("*.segment"))) > 1
    shutil.copytree(folder, tmp_path / "left")
    return before, tmp_path / "left"


@pytest.fixture
def restored() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.uri


def test_segments_are_what_was_read(left: tuple[bytes, Path], restored: str) -> None:
    before, folder = left
    verified = run_rstream("dump", "verify", str(folder), "--json")
    assert verified.returncode == 0, verified.stderr
    facts = json.loads(verified.stdout)
    assert (facts["form"], facts["whole"]) == ("segments", True)
    for _ in range(2):
        run(restored, "publish", "s", "--create", "--input", "dump", str(folder))
        assert run(restored, *READ) == before
    torn = max(folder.glob("*.segment"))
    last = torn.read_bytes()
    at = last.rindex(b"the last one")
    torn.write_bytes(last[: at + 3])
    run(restored, "stream", "delete", "s", "--yes")
    done = run_rstream("publish", "s", "--create", "--input", "dump", str(folder), "--uri", restored)
    assert (done.returncode, f"{torn.name}: byte" in done.stderr.decode()) == (3, True)
    found = run(restored, *READ)
    assert found == before[: len(found)]
    assert b"the last one" not in found
    assert len(found) > len(before) - 100
    torn.write_bytes(last[:at] + b"T" + last[at + 1 :])
    assert run_rstream("dump", "verify", str(folder)).returncode == 10
