"""``rstream consume s1 s2 s3``: each stream has its own start, end, stored offset and gaps."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Run
from tests.cli.process import ended, running, summary_of, told


@pytest.fixture
def three(run: Run, stream_name: str) -> Iterator[list[str]]:
    """Streams of 4, 2 and no messages: a0 to a3, b0 and b1."""
    names = [f"{stream_name}-{letter}" for letter in "abc"]
    for name in names:
        assert run("stream", "create", name).returncode == 0
    fill(run, names[0], "a", range(4))
    fill(run, names[1], "b", range(2))
    yield names
    for name in names:
        run("stream", "delete", name, "--yes", "--missing-ok")


def fill(run: Run, stream: str, letter: str, numbers: range) -> None:
    lines = b"".join(b"%b%d\n" % (letter.encode(), number) for number in numbers)
    assert run("publish", stream, "--method", "sub-entry", stdin=lines).returncode == 0


def consume(run: Run, *arguments: str, code: int = 0) -> list[str]:
    """What is written, a line each; the order between streams is not given."""
    done = run("consume", *arguments)
    assert (done.returncode, done.stderr) == (code, b"")
    return done.stdout.decode().splitlines()


def in_order(lines: list[str], letter: str) -> list[str]:
    return [line for line in lines if line.startswith(letter)]


ALL = ["a0", "a1", "a2", "a3", "b0", "b1"]


def test_all_are_read_to_their_ends(run: Run, three: list[str]) -> None:
    lines = consume(run, *three, "-o", "first", "--until", "end")
    assert sorted(lines) == ALL
    assert in_order(lines, "a") == ALL[:4]
    assert in_order(lines, "b") == ALL[4:]


def test_each_has_its_own_last_messages(run: Run, three: list[str]) -> None:
    assert sorted(consume(run, *three, "-o", "-1", "--until", "end")) == ["a3", "b1"]
    assert sorted(consume(run, *three, "-o", "-3", "--until", "end")) == ["a1", "a2", "a3", "b0", "b1"]


def test_a_count_is_of_all(run: Run, three: list[str]) -> None:
    assert len(consume(run, *three, "-o", "first", "-n", "5")) == 5
    assert sorted(consume(run, *three, "-o", "first", "-n", "6")) == ALL


def test_each_has_its_own_stored_offset(run: Run, three: list[str]) -> None:
    options = ("--name", "reader", "-o", "stored", "--until", "end")
    assert sorted(consume(run, *three, *options)) == ALL
    for stream, offset in zip(three, (3, 1), strict=False):
        found = run("offset", "query", stream, "--name", "reader", "--json")
        assert json.loads(found.stdout)["offset"] == offset
    assert run("offset", "query", three[2], "--name", "reader").returncode == 4
    fill(run, three[1], "b", range(2, 4))
    fill(run, three[2], "c", range(1))
    assert sorted(consume(run, *three, *options)) == ["b2", "b3", "c0"]
    assert consume(run, three[0], *options) == []


def test_outputs_name_the_stream(run: Run, three: list[str]) -> None:
    options = ("-o", "first", "--until", "end")
    expected = {(three[0], n, f"a{n}") for n in range(4)} | {(three[1], n, f"b{n}") for n in range(2)}
    found = [json.loads(line) for line in consume(run, *three, *options, "--json")]
    assert {(line["stream"], line["offset"], line["body"]) for line in found} == expected
    rows = list(csv.DictReader(consume(run, *three, *options, "--output", "csv")))
    assert {(row["stream"], int(row["offset"]), row["body"]) for row in rows} == expected
    words = [line.split() for line in consume(run, *three, *options, "--format", r"%t %o %s\n")]
    assert {(stream, int(offset), body) for stream, offset, body in words} == expected


def test_the_summary_names_them_all(run: Run, three: list[str]) -> None:
    done = run("consume", *three, "-o", "first", "--until", "end", "--stats", "json")
    found = summary_of(done.stderr)
    assert found["stream"] == three
    assert (found["consumed"], found["last_offset"], found["stored_offset"]) == (6, None, None)


def test_an_event_about_them_all_names_them_all(run: Run, three: list[str]) -> None:
    done = run("consume", *three, "-o", "2999-01-01", "--until", "end", "--stats", "json")
    event, summary = map(json.loads, done.stderr.splitlines())
    assert (event["event"], event["stream"], summary["stream"]) == ("until_before_offset", three, three)
    words = run("consume", *three, "-o", "first", "--until", "end", "--stats", "line").stderr.decode()
    assert f"from {', '.join(three)} in " in words


def test_what_comes_later_comes_from_each(env: dict[str, str], run: Run, three: list[str]) -> None:
    with running("consume", *three, "-n", "3", "--stats", "json", env=env) as process:
        told(process, lambda event: event["event"] == "progress")
        for letter, stream in zip("abc", three, strict=True):
            fill(run, stream, letter, range(9, 10))
        assert process.stdout is not None
        code, _ = ended(process)
        assert (code, sorted(process.stdout.read().split())) == (0, [b"a9", b"b9", b"c9"])


def test_options_that_choose_look_at_each(run: Run, three: list[str]) -> None:
    options = ("-o", "first", "--until", "end")
    assert sorted(consume(run, *three, *options, "--grep", "1$")) == ["a1", "b1"]
    assert consume(run, *three, *options, "--match", f".stream={three[1]}") == ["b0", "b1"]


def test_one_that_does_not_exist(run: Run, three: list[str]) -> None:
    done = run("consume", *three, f"{three[0]}-gone", "-o", "first", "--until", "end")
    assert (done.returncode, done.stdout) == (4, b"")
    assert f"{three[0]}-gone" in done.stderr.decode()


def test_one_that_is_deleted_meanwhile(env: dict[str, str], run: Run, three: list[str]) -> None:
    """The run ends, and what was written of the others is stored."""
    with running("consume", *three, "-o", "first", "--name", "reader", "--stats", "json", env=env) as process:
        told(process, lambda event: event.get("consumed") == 6)
        assert run("stream", "delete", three[1], "--yes").returncode == 0
        code, errors = ended(process)
    assert code == 4
    assert f"{three[1]!r}" in errors
    found = run("offset", "query", three[0], "--name", "reader", "--json")
    assert json.loads(found.stdout)["offset"] == 3


def test_one_that_is_a_super_stream(run: Run, three: list[str]) -> None:
    name = f"{three[0]}-super"
    assert run("superstream", "create", name, "--partitions", "2").returncode == 0
    try:
        done = run("consume", three[0], name, "-o", "first", "--until", "end")
        assert (done.returncode, done.stdout) == (4, b"")
        assert f"hint: {name!r} is a super stream: rstream superstream consume {name}" in done.stderr.decode()
    finally:
        run("superstream", "delete", name, "--yes")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("a", "b", "a"), "the stream 'a' is named twice", "name each stream once"),
        (
            ("a", "b", "-o", "5"),
            "--offset: a number is an offset of one stream, not of several",
            "read that stream alone, or give first, last, next, stored, -N or a time",
        ),
        (
            ("a", "b", "--until", "5"),
            "--until: a number is an offset of one stream, not of several",
            "read that stream alone, or give end or a time",
        ),
        (("a", "first"), "got unexpected extra argument(s) (first)", "to start there, write `--offset first`"),
        (("a", "b", "17"), "got unexpected extra argument(s) (17)", "to start there, write `--offset 17`"),
        (("a", ""), "", ""),
    ],
    ids=str,
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], error: str, hint: str) -> None:
    done = run("consume", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith(f"error: {error}")
    assert any(line.startswith(f"hint: {hint}") for line in lines) or not hint
