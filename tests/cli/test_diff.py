"""``rstream diff`` on each kind of broker: what it prints, how it ends, and what reaches the other side."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker
from tests.cli.conftest import Run
from tests.cli.process import ended, interrupt, running, told

NUMBERS = b"".join(b"%d\n" % number for number in range(1, 1001))


def edited(data: bytes) -> bytes:
    """One line changed, one missing, one doubled."""
    return data.replace(b"\n500\n", b"\n5oo\n").replace(b"\n600\n", b"\n").replace(b"\n700\n", b"\n700\n700\n")


@pytest.fixture
def other(run: Run, stream_name: str) -> Iterator[str]:
    """A second stream that holds nothing."""
    name = f"{stream_name}-other"
    assert run("stream", "create", name).returncode == 0
    yield name
    run("stream", "delete", name, "--missing-ok", "--yes")


@pytest.fixture
def two(run: Run, stream: str, other: str) -> tuple[str, str]:
    """Two streams of a thousand messages that differ."""
    assert run("publish", stream, stdin=NUMBERS).returncode == 0
    assert run("publish", other, stdin=edited(NUMBERS)).returncode == 0
    return stream, other


LINES = [
    'changed  A 499, B 499: body "500" -> "5oo"',
    "missing  A 599 is not in B (before B 599)",
    "doubled  B 699 comes once more than in A (before A 700)",
]


def test_a_person_reads_lines_and_a_summary(run: Run, two: tuple[str, str]) -> None:
    done = run("diff", *two)
    assert (done.returncode, done.stdout.decode().splitlines()) == (10, LINES)
    summary = done.stderr.decode()
    assert re.fullmatch(
        r"compared 1,000 messages of A with 1,000 of B \(\S+ and \S+\) in .*; equal 998; changed 1; missing in B 1;"
        r" doubled in B 1; they differ\n",
        summary,
    )
    quiet = run("diff", *two, "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (10, done.stdout, b"")
    assert run("diff", two[0], two[0], "-q").returncode == 0


def test_a_program_reads_objects(run: Run, two: tuple[str, str]) -> None:
    done = run("diff", *two, "--json")
    assert (done.returncode, done.stderr) == (10, b"")
    changed, missing, doubled, summary = map(json.loads, done.stdout.splitlines())
    a, b = ({"stream": name} for name in two)
    assert changed == {
        "kind": "changed",
        "count": 1,
        "a": {**a, "first": 499, "last": 499},
        "b": {**b, "first": 499, "last": 499},
        "sections": ["body"],
        "changes": [{"path": "body", "a": "500", "b": "5oo"}],
    }
    nowhere = {"first": None, "last": None}
    assert (missing["a"]["first"], missing["b"], missing["side"], missing["before"]) == (599, b | nowhere, "b", 599)
    assert (doubled["a"], doubled["b"]["last"], doubled["side"], doubled["before"]) == (a | nowhere, 699, "b", 700)
    assert summary == {
        "kind": "summary",
        "same": False,
        "complete": True,
        "a": {**a, "messages": 1000},
        "b": {**b, "messages": 1000},
        "equal": 998,
        "changed": 1,
        "missing_in_a": 0,
        "missing_in_b": 1,
        "doubled_in_a": 0,
        "doubled_in_b": 1,
        "moved": 0,
        "shown": 3,
        "reason": "they differ",
        "exit_code": 10,
    }
    same = run("diff", two[0], two[0], "--json")
    assert same.returncode == 0
    assert json.loads(same.stdout) | {"same": True, "complete": True, "equal": 1000} == json.loads(same.stdout)


def test_the_limit_bounds_lines_and_no_count(run: Run, two: tuple[str, str]) -> None:
    done = run("diff", *two, "--limit", "1")
    assert (done.returncode, done.stdout.decode().splitlines()) == (10, LINES[:1])
    assert b"2 more differences are not shown: --limit 1\n" in done.stderr
    assert b"changed 1; missing in B 1; doubled in B 1" in done.stderr
    done = run("diff", *two, "--limit", "0", "--json")
    assert json.loads(done.stdout)["shown"] == 0


def publish_json(run: Run, stream: str, *messages: dict[str, Any]) -> None:
    lines = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    assert run("publish", stream, "--json", stdin=lines).returncode == 0


def test_each_value_that_differs_is_shown(run: Run, stream: str, other: str) -> None:
    long = "x" * 300
    publish_json(
        run,
        stream,
        {"body": "b", "headers": {"n": 5, "same": 1}, "properties": {"subject": "eu"}},
        {"body": long + "a" + long},
        {"body": "one\ntwo"},
        {"body_base64": "/w=="},
        {"value": {"k": 1}},
    )
    publish_json(
        run,
        other,
        {"body": "b", "headers": {"n": 6, "same": 1}, "annotations": {"x": "y"}},
        {"body": long + "b" + long},
        {"body": "one\u001b[31mtwo"},
        {"body_base64": "/g=="},
        {"value": {"k": 2}},
    )
    done = run("diff", stream, other)
    assert done.returncode == 10
    first, second, third, fourth, fifth = done.stdout.decode().splitlines()
    assert first == (
        'changed  A 0, B 0: annotations.x (none) -> "y"; properties.subject "eu" -> (none); headers.n 5 -> 6'
    )
    assert second.startswith('changed  A 1, B 1: body at byte 300: …"xxxxxxxxxxxxxxxaxxxxxx')
    assert len(second) < 150
    assert third == r'changed  A 2, B 2: body "one\ntwo" -> "one\x1b[31mtwo"'
    assert "\x1b" not in done.stdout.decode()
    assert fourth == 'changed  A 3, B 3: body_base64 "/w==" -> "/g=="'
    assert fifth == 'changed  A 4, B 4: value {"k":1} -> {"k":2}'
    ignoring = run("diff", stream, other, "--ignore", "annotations,properties", "--ignore", "headers,body", "-q")
    assert (ignoring.returncode, ignoring.stdout) == (0, b"")
    found = [json.loads(line) for line in run("diff", stream, other, "--json").stdout.splitlines()]
    assert found[0]["sections"] == ["annotations", "properties", "headers"]
    assert {"path": "annotations.x", "b": "y"} in found[0]["changes"]


def test_what_is_no_amqp(run: Run, stream: str, other: str) -> None:
    for name, line in ((stream, b"\x01\n"), (other, b"\x02\n")):
        assert run("publish", name, "--codec", "raw", stdin=line).returncode == 0
    done = run("diff", stream, other, "-q")
    assert done.stdout == b'changed  A 0, B 0: message "\\x01" -> "\\x02"\n'


def test_a_line_is_bounded_and_shows_what_differs(run: Run, stream: str, other: str) -> None:
    """Also with thousands of values, long names and long values that begin alike."""
    for name, number in ((stream, 1), (other, 2)):
        publish_json(
            run,
            name,
            {"body": "a", "headers": {f"{place}": number for place in range(3000)}},
            {"body": "b", "headers": {"n" * 5000: number}},
            {"body": "c", "headers": {"h": "x" * 500 + str(number) + "x" * 500}},
            {"body_base64": "/w" + "A" * 198 + "BC"[number - 1] + "AAA"},
        )
    done = run("diff", stream, other, "-q")
    first, second, third, fourth = done.stdout.decode().splitlines()
    assert first.startswith("changed  A 0, B 0: headers.0 1 -> 2; headers.1 1 -> 2; ")
    assert first.endswith("; headers.19 1 -> 2; 2,980 more values differ")
    assert second.endswith("nnnn… 1 -> 2")
    assert len(second) < 100
    x = "x" * 14
    assert third == f"changed  A 2, B 2: headers.h …x{x}1{x}… -> …x{x}2{x}…"
    assert fourth == f"changed  A 3, B 3: body_base64 …{'A' * 15}BAAA" + '" -> …' + f'{"A" * 15}CAAA"'


def test_where_both_begin(run: Run, stream: str, other: str) -> None:
    assert run("publish", stream, stdin=NUMBERS).returncode == 0
    assert run("publish", other, stdin=NUMBERS.partition(b"\n30\n")[2]).returncode == 0
    done = run("diff", stream, other)
    assert done.stdout == b"missing  A 0 to 29, 30 messages, are not in B (before B 0)\n"
    for places in (("-o", "30", "--to-offset", "first"), ("-o", "-10"), ("--offset", "30", "--to-offset", "0")):
        assert run("diff", stream, other, *places, "-q").returncode == 0


def test_a_start_behind_the_end_is_told(run: Run, stream: str, other: str) -> None:
    """Nothing is the same as nothing, which a mistyped offset would hide."""
    assert run("publish", stream, stdin=NUMBERS).returncode == 0
    done = run("diff", stream, stream, "--offset", "10000")
    assert done.returncode == 0
    for side in "AB":
        assert f"warning: {side} has no message at the given start, or behind it\n" in done.stderr.decode()
    done = run("diff", stream, stream, "--offset", "999", "--to-offset", "1000", "-q")
    assert (done.returncode, done.stderr) == (10, b"warning: B has no message at the given start, or behind it\n")
    assert b"warning" not in run("diff", stream, stream, "--offset", "999").stderr


def test_the_offsets_of_both_are_told_where_they_differ(run: Run, stream: str, other: str) -> None:
    """Not where somebody has said where to begin."""
    assert run("publish", stream, stdin=NUMBERS).returncode == 0
    assert run("publish", other, stdin=b"1\n").returncode == 0
    done = run("diff", stream, other, "--offset", "5", "--to-offset", "first", "--stats", "json")
    assert "other_starts" not in [json.loads(line)["event"] for line in done.stderr.splitlines()]


def test_statistics(run: Run, two: tuple[str, str]) -> None:
    done = run("diff", *two, "--stats", "json")
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (summary["event"], summary["command"], summary["exit_code"]) == ("summary", "diff", 10)
    assert (summary["a"], summary["equal"], summary["progress"], summary["reason"]) == (1000, 998, 1.0, "they differ")
    assert summary["bytes"] > 10_000
    assert done.stdout.decode().splitlines() == LINES


def test_super_streams_partition_by_partition(run: Run, stream_name: str, stream: str) -> None:
    names = [f"{stream_name}-p", f"{stream_name}-q", f"{stream_name}-r"]
    try:
        for name, partitions in zip(names, ("2", "2", "3"), strict=True):
            assert run("superstream", "create", name, "--partitions", partitions).returncode == 0
        for name in names[:2]:
            assert run("publish", f"{name}-0", "-m", "one").returncode == 0
        assert run("publish", f"{names[0]}-1", "-m", "two").returncode == 0
        done = run("diff", *names[:2])
        line = f"missing  {names[0]}-1, {names[1]}-1: A 0 is not in B (behind its end)\n"
        assert (done.returncode, done.stdout.decode()) == (10, line)
        for pair, message in (
            ((names[0], names[2]), b"has 2 partitions, and "),
            ((names[0], stream), b"is a super stream, and "),
        ):
            done = run("diff", *pair)
            assert (done.returncode, done.stdout) == (9, b"")
            assert message in done.stderr
        done = run("diff", *names[:2], "--offset", "3")
        assert (done.returncode, done.stdout) == (2, b"")
    finally:
        for name in names:
            run("superstream", "delete", name, "--missing-ok", "--yes")


# The other side.


def address_of(broker: Broker) -> tuple[str, str]:
    """The URI of a broker without its password, and the password."""
    found = re.fullmatch(r"(rabbitmq-stream://[^:@]*)(?::([^@]*))?@(.*)", broker.uri)
    if found is None:
        return broker.uri, ""
    return f"{found[1]}@{found[3]}", found[2] or ""


def test_the_other_side_is_another_broker(run: Run, broker: Broker, two: tuple[str, str], tmp_path: Path) -> None:
    """Reached by its address and a password of its own, while that of the first side is another one."""
    uri, password = address_of(broker)
    file = tmp_path / "password"
    file.write_text(f"{broker.password}\n")
    assert password in (broker.password, "")
    done = run("diff", *two, "--to-uri", uri, "--to-password-file", str(file), "-q")
    assert (done.returncode, done.stdout.decode().splitlines()) == (10, LINES)
    done = run("diff", two[0], "--to-uri", uri, "-q", env={"RSTREAM_TO_PASSWORD": broker.password})
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_side_that_fails_is_named(run: Run, two: tuple[str, str], closed_port: int) -> None:
    done = run("diff", two[0], "--to-uri", f"rabbitmq-stream://127.0.0.1:{closed_port}")
    assert (done.returncode, done.stdout) == (6, b"")
    assert f"127.0.0.1:{closed_port} refuses the connection; that is on the side of B\n".encode() in done.stderr
    assert b"rstream broker run" not in done.stderr


def test_what_the_other_side_does_not_have(run: Run, broker: Broker, stream: str) -> None:
    uri, _ = address_of(broker)
    settings = {"RSTREAM_TO_PASSWORD": broker.password}
    done = run("diff", stream, "nowhere", "--to-uri", uri, env=settings)
    assert done.returncode == 4
    assert b"'nowhere'; that is on the side of B\n" in done.stderr


# How it ends.


def test_an_interrupted_comparison_says_so(run: Run, env: dict[str, str], stream: str, other: str) -> None:
    """It waits for B, which is on a broker that takes a connection and does not answer."""
    import socket

    assert run("publish", stream, "-m", "x").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"rabbitmq-stream://127.0.0.1:{silent.getsockname()[1]}"
        with running("diff", stream, "--to-uri", uri, env=env) as comparing:
            connection, _ = silent.accept()
            with connection:
                interrupt(comparing)
                code, errors = ended(comparing)
    assert code == 130
    assert errors.endswith("; equal 0; SIGINT, so not all was compared\n")


def test_a_signal_ends_it_where_nobody_reads_its_output(run: Run, env: dict[str, str], two: tuple[str, str]) -> None:
    """Nor the summary, which is due then. The pipe is full from the start."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        with running(
            "diff", *two, "--json", "--stats", "json", "--stats-interval", "50ms", stdout=writer, env=env
        ) as comparing:
            told(comparing, lambda line: line.get("a") == 1000)
            interrupt(comparing)
            assert ended(comparing)[0] == 130
    finally:
        os.close(reader)
        os.close(writer)


def test_a_closed_stdout_ends_it_quietly(run: Run, env: dict[str, str], two: tuple[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with running("diff", *two, stdout=writer, env=env) as comparing:
            assert ended(comparing) == (141, "")
    finally:
        os.close(writer)


def test_a_full_disk_says_so(run: Run, env: dict[str, str], two: tuple[str, str]) -> None:
    with open("/dev/full", "wb") as full, running("diff", *two, stdout=full, env=env) as comparing:
        code, errors = ended(comparing)
    assert code == 1
    assert "cannot write to stdout: No space left on device" in errors


def test_progress_is_told_while_it_reads(run: Run, env: dict[str, str], two: tuple[str, str]) -> None:
    with running("diff", *two, "--stats", "json", "--stats-interval", "10ms", env=env) as comparing:
        assert told(comparing, lambda line: line["event"] == "summary")["equal"] == 998
        assert ended(comparing)[0] == 10
