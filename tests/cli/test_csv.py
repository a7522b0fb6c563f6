"""CSV on each kind of broker: ``publish --input csv`` and ``consume --output csv``, and from one to the other."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.process import ended, limited, running, summary_of, told

AWKWARD = [b"", b'"', b'""', b",", b"\r\n", b"a\nb", b" x ", b"\xff\x00", "ä€😀".encode(), b"plain", b'"quoted"', b"\r"]


def rows_of(data: bytes) -> list[list[bytes]]:
    """As Python's reader has them."""
    rows = csv.reader(io.StringIO(data.decode("latin-1"), newline=""), strict=True)
    return [[cell.encode("latin-1") for cell in row] for row in rows]


def csv_of(rows: list[list[bytes]]) -> bytes:
    """As Python's writer has them."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[cell.decode("latin-1") for cell in row] for row in rows])
    return text.getvalue().encode("latin-1")


def everything(run: Run, stream: str, *options: str) -> bytes:
    done = run("consume", stream, "-o", "first", "--until", "end", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def bodies(run: Run, stream: str) -> list[bytes]:
    """By the length of each."""
    data, found = everything(run, stream, "--output", "len32"), []
    while data:
        size = int.from_bytes(data[:4])
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


# --- out -----------------------------------------------------------------------------------------------------


def test_columns_of_messages(run: Run, stream: str) -> None:
    headers = ("-H", "n:=5", "-H", 'q=say "hi"')
    assert run("publish", stream, "-m", "a,b", *headers, "--property", "subject=first").returncode == 0
    assert run("publish", stream, "-m", '{"id":7}').returncode == 0
    found = everything(
        run, stream, "--output", "csv", "--columns", "offset,properties.subject,headers.n,headers.q,body.id,body"
    )
    assert found == (
        b"offset,properties.subject,headers.n,headers.q,body.id,body\r\n"
        b'0,first,5,"say ""hi""",,"a,b"\r\n'
        b'1,,,,7,"{""id"":7}"\r\n'
    )


def test_columns_without_asking(run: Run, stream: str) -> None:
    assert run("publish", stream, "-m", "x").returncode == 0
    head, row = rows_of(everything(run, stream, "--output", "csv"))
    assert head == [b"stream", b"offset", b"timestamp", b"body"]
    line = json.loads(everything(run, stream, "--json"))
    assert row == [stream.encode(), b"0", line["timestamp"].encode(), b"x"]
    assert everything(run, stream, "--columns", "body") == b"body\r\nx\r\n"


@pytest.mark.parametrize("options", [(), ("--count", "0"), ("--grep", "nothing")], ids=str)
def test_the_names_are_written_where_nothing_is_read(run: Run, stream: str, options: tuple[str, ...]) -> None:
    if options:
        assert run("publish", stream, "-m", "x").returncode == 0
    assert everything(run, stream, "--columns", "offset,body", *options) == b"offset,body\r\n"


def test_the_names_are_written_before_the_first_message_comes(env: dict[str, str], stream: str) -> None:
    with running("consume", stream, "--columns", "offset,body", "--stats", "json", env=env) as process:
        told(process, lambda event: event["event"] == "progress")
        assert process.stdout is not None
        with limited(process):
            assert process.stdout.readline() == b"offset,body\r\n"
        process.terminate()
        assert ended(process)[0] == 143


def test_nothing_is_written_of_a_stream_that_does_not_exist(run: Run, stream_name: str) -> None:
    done = run("consume", f"{stream_name}-gone", "--output", "csv")
    assert (done.returncode, done.stdout) == (4, b"")


def test_the_names_count_among_no_messages(run: Run, stream: str) -> None:
    assert run("publish", stream, stdin=b"a\nb\n").returncode == 0
    done = run("consume", stream, "-o", "first", "--until", "end", "--columns", "body", "--stats", "json")
    assert done.stdout == b"body\r\na\r\nb\r\n"
    found = summary_of(done.stderr)
    assert (found["consumed"], found["ambiguous"]) == (2, 0)


def test_a_reader_that_has_left(env: dict[str, str], run: Run, stream: str) -> None:
    assert run("publish", stream, stdin=b"x\n" * 1000).returncode == 0
    with running("consume", stream, "-o", "first", "--output", "csv", env=env) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert ended(process)[0] == 141


# --- in ------------------------------------------------------------------------------------------------------


def test_bodies_are_what_python_has_written(run: Run, stream: str) -> None:
    rows = [[b"%d" % number, body, b"more"] for number, body in enumerate(AWKWARD)]
    data = csv_of([[b"n", b"the body", b"x"], *rows])
    done = run("publish", stream, "--input", "csv", "--body-from", "the body", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bodies(run, stream) == AWKWARD


def test_what_goes_out_comes_in_again(run: Run, stream: str, stream_name: str, tmp_path: Path) -> None:
    generator = random.Random(12)
    parts = [b'"', b",", b"\r", b"\n", b"\r\n", b"x", b"\xff", b"\0"]
    given = [b"".join(generator.choices(parts, k=generator.randrange(12))) for _ in range(2000)]
    framed = b"".join(len(body).to_bytes(4) + body for body in given)
    assert run("publish", stream, "--input", "len32", stdin=framed).returncode == 0
    path = tmp_path / "all.csv"
    path.write_bytes(everything(run, stream, "--output", "csv"))
    assert [row[3] for row in rows_of(path.read_bytes())[1:]] == given
    other = f"{stream_name}-other"
    assert run("publish", other, str(path), "--input", "csv", "--create").returncode == 0
    try:
        assert bodies(run, other) == given
    finally:
        run("stream", "delete", other, "--yes")


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3")
def test_sqlite_reads_it(run: Run, stream: str, tmp_path: Path) -> None:
    """A reader that shares nothing with Python's."""
    texts = [body for body in AWKWARD if b"\xff" not in body and b"\r" not in body]
    framed = b"".join(len(body).to_bytes(4) + body for body in texts)
    assert run("publish", stream, "--input", "len32", stdin=framed).returncode == 0
    path, base = tmp_path / "all.csv", tmp_path / "base"
    path.write_bytes(everything(run, stream, "--columns", "offset,body"))
    subprocess.run(["sqlite3", str(base), "-cmd", ".mode csv", f".import {path} t"], check=True)
    with sqlite3.connect(base) as connection:
        found = connection.execute("select body from t order by cast(offset as integer)").fetchall()
    assert [text.encode() for (text,) in found] == texts


def test_ids_filters_and_names_of_columns(run: Run, stream: str) -> None:
    data = b'number,region,body\n5,eu,"a\nb"\n007,,c\n18446744073709551615,us,d\n'
    options = ("--input", "csv", "--name", "import", "--id-from", "number", "--filter-from", "region")
    for confirmed, already in ((3, 0), (0, 3)):
        done = run("publish", stream, *options, "--stats", "json", stdin=data)
        found = summary_of(done.stderr)
        assert (done.returncode, found["confirmed"], found["already_published"]) == (0, confirmed, already)
    assert bodies(run, stream) == [b"a\nb", b"c", b"d"]


def test_the_number_of_a_row_is_an_id(run: Run, stream: str) -> None:
    options = ("--input", "csv", "--name", "import", "--id-from", "line", "--stats", "json")
    assert run("publish", stream, *options, stdin=b"body\na\n").returncode == 0
    done = run("publish", stream, *options, stdin=b"body\na\nb\n")
    found = summary_of(done.stderr)
    assert (found["confirmed"], found["already_published"]) == (1, 1)
    assert bodies(run, stream) == [b"a", b"b"]


def test_keys_of_a_super_stream(run: Run, stream_name: str) -> None:
    assert run("superstream", "create", stream_name, "--routing-keys", "eu,us").returncode == 0
    try:
        data = b'key,body\neu,"a,1"\nus,b\neu,c\n'
        options = ("--input", "csv", "--key-from", "key", "--routing", "key")
        assert run("superstream", "publish", stream_name, *options, stdin=data).returncode == 0
        assert bodies(run, f"{stream_name}-eu") == [b"a,1", b"c"]
        assert bodies(run, f"{stream_name}-us") == [b"b"]
    finally:
        run("superstream", "delete", stream_name, "--yes")


@pytest.mark.parametrize(
    ("data", "good", "number", "says"),
    [
        (b"n,body\n1,a\n2\n3,c\n", [b"a", b"c"], 2, "it has 1 cell, and the row of names has 2"),
        (b"n,body\n1,a\n2,b,x\n3,c\n", [b"a", b"c"], 2, "it has 3 cells, and the row of names has 2"),
        (b'n,body\n1,a\n2,"b\n3,c\n', [b"a"], 2, "a quotation mark is left open at the end of the input"),
        (b'n,body\n1,a\n2,5" pipe\n3,c\n', [b"a", b"c"], 2, "a quotation mark in cell 2: it is not quoted as a whole"),
        (b"n,bodi\n1,a\n2,b\n", [], 1, "the row of names has no column 'body'; did you mean 'bodi'?"),
    ],
    ids=repr,
)
def test_a_bad_row(run: Run, stream: str, data: bytes, good: list[bytes], number: int, says: str) -> None:
    stopped = run("publish", stream, "--input", "csv", stdin=data)
    assert stopped.returncode == 8
    assert f"record {number}: {says}" in stopped.stderr.decode()
    assert bodies(run, stream) == good[: number - 1]
    skipped = run("publish", stream, "--input", "csv", "--on-error", "skip", stdin=data)
    assert skipped.returncode == 3
    assert bodies(run, stream) == good[: number - 1] + good


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (b"x", "'x' is not a publishing id"),
        (b"-1", "'-1' is not a publishing id"),
        (b"18446744073709551616", "is not a publishing id"),
        (b"", "'' is not a publishing id"),
        (b"4", "the publishing id 4 is not higher than 4, the one before"),
        (b"\xff", "the publishing id is not UTF-8"),
    ],
)
def test_a_bad_id(run: Run, stream: str, cell: bytes, says: str) -> None:
    data = b"n,body\n4,a\n" + cell + b",b\n"
    done = run("publish", stream, "--input", "csv", "--name", "import", "--id-from", "n", stdin=data)
    assert done.returncode == 8
    assert "record 2: " in done.stderr.decode()
    assert says in done.stderr.decode()


def test_a_row_of_more_than_a_record_may_have(run: Run, stream: str) -> None:
    """It is bounded while it comes, and what is behind it is read."""
    data = b'body\na\n"' + (b'""' * 1000 + b"\n") * 9_000 + b'"\nb\n'
    done = run("publish", stream, "--input", "csv", "--on-error", "skip", stdin=data)
    assert done.returncode == 3
    assert b"record 2 is skipped: larger than the limit of 16777216 bytes" in done.stderr
    assert bodies(run, stream) == [b"a", b"b"]


# --- what does not go together -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("consume", "s", "--output", "cvs"), "hint: did you mean csv?"),
        (("publish", "s", "--input", "cvs"), "hint: did you mean csv?"),
        (("publish", "s", "--method", "sub_entry"), "hint: did you mean sub-entry?"),
        (("consume", "s", "--output", "json", "--columns", "body"), "--output and --columns contradict each other"),
        (("consume", "s", "--columns", "ofset"), "hint: did you mean .offset?"),
        (("consume", "s", "--columns", "body,,body"), "--columns: a column has no name"),
        (("publish", "s", "--body-from", "x"), "--body-from cannot be used with --input lines"),
        (("publish", "s", "--input", "csv", "--skip-empty"), "--skip-empty cannot be used with --input csv"),
        (("publish", "s", "--input", "csv", "-m", "x"), "--message cannot be used with --input csv"),
        (
            ("superstream", "publish", "s", "--input", "csv", "--key-delimiter", ","),
            "--key-delimiter cannot be used with --input csv",
        ),
    ],
    ids=str,
)
def test_a_usage_error(run: Run, command: tuple[str, ...], error: str) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout) == (2, b"")
    assert error in done.stderr.decode()
