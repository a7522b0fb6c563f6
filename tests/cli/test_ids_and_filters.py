"""Publishing ids and filter values on the command line: what is stored once, and what is bad."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rstream_core import Client, EmbeddedBroker
from tests.brokers import Broker
from tests.cli.conftest import Run, run_rstream
from tests.cli.process import ended, interrupt, running, summary_of
from tests.clients import FIRST, PATIENCE, options_for


def held(run: Run, stream: str) -> bytes:
    done = run("consume", stream, "-o", "first", "--until", "end")
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def publish(run: Run, *arguments: str, **settings: Any) -> dict[str, Any]:
    done = run("publish", *arguments, "--stats", "json", **settings)
    found = summary_of(done.stderr)
    assert (found["exit_code"], done.stdout) == (done.returncode, b"")
    return found


# --- ids -----------------------------------------------------------------------------------------------------


def test_a_finished_run_adds_nothing_when_repeated(run: Run, stream: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"".join(b"%d\n" % number for number in range(500)))
    second.write_bytes(b"\nx\n\n")
    command = (stream, str(first), str(second), "--id-from", "line", "--skip-empty")
    once = publish(run, *command, "--name", "import")
    assert (once["exit_code"], once["confirmed"], once["already_published"]) == (0, 501, 0)
    again = publish(run, *command, "--name", "import")
    assert (again["exit_code"], again["read"], again["published"], again["already_published"]) == (0, 501, 0, 501)
    assert again["bytes"] == 0
    assert held(run, stream) == first.read_bytes() + b"x\n"
    other = publish(run, *command, "--name", "other")  # names are apart
    assert other["confirmed"] == 501


def test_ids_from_the_json_of_records(run: Run, stream: str) -> None:
    given = b'{"n":0}\n{"n":3}\n{"n":18446744073709551615}\n'
    for confirmed, already in ((3, 0), (0, 3)):
        found = publish(run, stream, "--name", "a", "--id-from", ".n", stdin=given)
        assert (found["exit_code"], found["confirmed"], found["already_published"]) == (0, confirmed, already)
    assert held(run, stream) == given


def test_ids_from_envelopes(run: Run, stream: str) -> None:
    lines = [{"body": "a", "headers": {"seq": {"$ulong": 5}}}, {"body": "b", "headers": {"seq": 6}}]
    given = "\n".join(map(json.dumps, lines)).encode()
    command = (stream, "--json", "--name", "a", "--id-from", ".headers.seq")
    assert publish(run, *command, stdin=given)["confirmed"] == 2
    assert publish(run, *command, stdin=given)["already_published"] == 2
    assert held(run, stream) == b"a\nb\n"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b'{"n":4}', "the publishing id 4 is not higher than 4, the one before"),
        (b'{"n":3}', "the publishing id 3 is not higher than 4, the one before"),
        (b'{"n":-1}', ".n is not a publishing id"),
        (b'{"n":18446744073709551616}', ".n is not a publishing id"),
        (b'{"n":"5"}', ".n is not a publishing id"),
        (b'{"n":true}', ".n is not a publishing id"),
        (b'{"n":5.0}', ".n is not a publishing id"),
        (b'{"m":5}', "no .n"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_a_bad_id_is_a_bad_record(run: Run, stream: str, record: bytes, words: str) -> None:
    given = b'{"n":4}\n' + record + b'\n{"n":5}\n'
    found = publish(run, stream, "--name", "a", "--id-from", ".n", stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"], found["bad"]) == (8, 2, 1, 1)
    assert "record 2: " in found["error"]
    assert words in found["error"]
    skipped = publish(run, stream, "--name", "b", "--id-from", ".n", "--on-error", "skip", stdin=given)
    assert (skipped["exit_code"], skipped["confirmed"], skipped["bad"]) == (3, 2, 1)


@pytest.mark.parametrize(
    "options",
    [
        ("--id-from", "line"),
        ("--id-from", "n", "--name", "a"),
        ("--id-from", "", "--name", "a"),
        ("--id-from", "line", "--name", "a", "--method", "sub-entry"),
        ("--id-from", "line", "--name", "a", "--compression", "gzip"),
        ("--filter", "a", "--filter-from", ".a"),
        ("--filter", "a", "--method", "sub-entry"),
        ("--filter-from", ".a", "--compression", "zstd"),
        ("--filter-from", "a"),
    ],
)
def test_what_cannot_work(options: tuple[str, ...]) -> None:
    done = run_rstream("publish", "s", *options, stdin=b"x\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")


def test_a_publisher_that_is_killed_again_and_again(env: dict[str, str], run: Run, stream: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, and the same command again: the stream holds each line once, in order."""
    count = 100_000
    source = tmp_path / "lines"
    lines = [b"line %d\n" % number for number in range(count)]
    source.write_bytes(b"".join(lines))
    options = ("--name", "import", "--id-from", "line")
    # A run that is killed has only the beginning of the lines, and waits for more: however late the kill comes, it
    # has not ended, and has left something for the next one.
    begin, more = tmp_path / "begin", tmp_path / "more"
    os.mkfifo(more)
    writer = os.open(more, os.O_RDWR)
    chance = random.Random(9)
    reached: list[int] = []
    for at in sorted(chance.sample(range(1000, 60_000), 5)):
        begin.write_bytes(b"".join(lines[: at + 30_000]))
        command = ("publish", stream, str(begin), str(more), *options)
        # The pace makes sure that the kill comes in the middle, however fast the machine is.
        with running(*command, "--rate", "60k/s", "--stats", "json", "--stats-interval", "10ms", env=env) as process:
            assert process.stderr is not None
            for line in process.stderr:
                told = json.loads(line)
                assert told["event"] == "progress", told
                if told["confirmed"] and told["confirmed"] + told["already_published"] >= at:
                    break
            process.kill()
            assert process.wait(30) == -9
            reached.append(told["already_published"])
    os.close(writer)
    assert reached == sorted(reached)
    assert reached[-1] > 0  # what an earlier run left is not sent again
    done = run("publish", stream, str(source), *options, "--stats", "json", timeout=60)
    found = summary_of(done.stderr)
    assert (done.returncode, found["read"]) == (0, count)
    assert found["confirmed"] + found["already_published"] == count
    assert held(run, stream) == source.read_bytes()


# --- filters -------------------------------------------------------------------------------------------------


def filtered(broker: Broker, stream: str, value: str) -> list[bytes]:
    """What the broker sends to a subscription for one value, up to the marker that has this value last."""

    async def read() -> list[bytes]:
        async with Client(options_for(broker)) as client:
            marker = await client.publisher(stream)
            await marker.publish([b"end"], filter_values=[value])
            await marker.flush(PATIENCE)
            await marker.close()
            found: list[bytes] = []
            async with await client.subscribe(stream, FIRST, properties={"filter.0": value}) as subscription:
                async with asyncio.timeout(PATIENCE):
                    while b"end" not in found:
                        found += (await anext(subscription)).messages
        return found[:-1]

    return asyncio.run(read())


def test_a_filter_value_for_all(broker: Broker, run: Run, stream: str) -> None:
    assert publish(run, stream, "-m", "eins", "--filter", "größe", "--codec", "raw")["confirmed"] == 1
    assert publish(run, stream, "-m", "two", "--filter", "other", "--codec", "raw")["confirmed"] == 1
    assert publish(run, stream, "-m", "three", "--codec", "raw")["confirmed"] == 1
    assert filtered(broker, stream, "größe") == [b"eins"]


def test_filter_values_from_a_path(broker: Broker, run: Run, stream: str) -> None:
    records = [b'{"r":"eu"}', b'{"r":7}', b'{"r":null}']
    for record in records:  # a chunk for each
        assert publish(run, stream, "--codec", "raw", "--filter-from", ".r", stdin=record)["confirmed"] == 1
    assert filtered(broker, stream, "7") == [records[1]]
    assert filtered(broker, stream, "eu") == [records[0]]


def test_filter_values_of_envelopes(broker: Broker, run: Run, stream: str) -> None:
    line = b'{"body":"a","filter":"eu","headers":{"r":"us"}}'
    for options in ((), ("--filter-from", ".headers.r"), ("--filter", "asia")):
        assert publish(run, stream, "--json", *options, stdin=line)["confirmed"] == 1
    for value in ("eu", "us", "asia"):
        assert len(filtered(broker, stream, value)) == 1


@pytest.mark.parametrize(
    ("options", "record", "words"),
    [
        (("--filter-from", ".r"), b'{"a":1}', "no .r"),
        (("--filter-from", ".r"), b'{"r":[]}', ".r is neither text nor a whole number"),
        (("--json", "--method", "sub-entry"), b'{"body":"a","filter":"x"}', "which sub-entries cannot carry"),
    ],
)
def test_a_bad_filter_value_is_a_bad_record(
    run: Run, stream: str, options: tuple[str, ...], record: bytes, words: str
) -> None:
    found = publish(run, stream, *options, stdin=record)
    assert (found["exit_code"], found["confirmed"], found["bad"]) == (8, 0, 1)
    assert words in found["error"]


def test_messages_that_are_left_keep_their_filter_value(tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    words = ("--filter", "eu", "--failed-to", str(failed), "--max-in-flight", "1", "--drain-timeout", "0")
    with EmbeddedBroker() as broker:
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        command = ("publish", "s", *words, "--stats", "json", "--stats-interval", "50ms")
        with running(*command, env=env, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(b"a\n")
            process.stdin.flush()
            while json.loads(process.stderr.readline())["confirmed"] < 1:
                pass
            broker.faults.delay(10.0)
            process.stdin.write(b"b\nc\n")  # one in flight, and one that waits for it
            process.stdin.flush()
            while json.loads(process.stderr.readline())["in_flight"] < 1:
                pass
            interrupt(process)
            code, errors = ended(process)
    assert code == 7
    found = summary_of(errors)
    assert (found["confirmed"], found["failed"], found["not_published"]) == (1, 1, 1)
    lines = [json.loads(line) for line in failed.read_bytes().splitlines()]
    assert [line["body"] for line in lines] == ["b", "c"]
    assert {(line["filter"], line["stream"]) for line in lines} == {("eu", "s")}


@pytest.mark.parametrize("value", ["first", "last", "none"])
@pytest.mark.parametrize("extra", [(), ("--filter-from", ".r")])
def test_the_end_of_a_filtered_stream(run: Run, stream: str, value: str, extra: tuple[str, ...]) -> None:
    """The broker leaves out chunks without a word, the last one too."""
    for name in ("first", "last"):
        assert run("publish", stream, "-m", f'{{"r":"{name}"}}', "--filter", name).returncode == 0
    words = ("consume", stream, "-o", "first", "--until", "end", "--filter", value, "--name", "me", *extra)
    done = run(*words, timeout=15)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"" if value == "none" else f'{{"r":"{value}"}}\n'.encode())
    assert run("offset", "query", stream, "--name", "me").stdout == b"1\n"


def test_a_filtered_group_is_done_at_the_end(run: Run, stream: str) -> None:
    for name in ("first", "last"):
        assert run("publish", stream, "-m", name, "--filter", name).returncode == 0
    done = run("sac-consume", stream, "--name", "group", "--until", "end", "--filter", "first", timeout=20)
    assert (done.returncode, done.stdout) == (0, b"first\n"), done.stderr
