"""Dumps are written, looked at, gone on with and restored, on each kind of broker: each restore is shown by reading."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rstream_core import AMQPMessage, Header, Properties
from tests import dumps
from tests.brokers import Broker
from tests.cli.conftest import RSTREAM, Run, as_lines, environment, run_here
from tests.cli.process import eventually, running, told
from tests.interop.test_messages import FIELDS, IDS, VALUES

ALL = ("-o", "first", "--until", "end")


def stored(run: Run, stream: str) -> bytes:
    """Every message of a stream, byte for byte."""
    done = run("consume", stream, *ALL, "--codec", "raw", "--output", "len32")
    assert done.returncode == 0, done.stderr
    return done.stdout


def framed(messages: list[bytes]) -> bytes:
    return b"".join(len(message).to_bytes(4) + message for message in messages)


def samples() -> list[bytes]:
    """Messages with every section and every type, and some that are no AMQP."""
    made = [AMQPMessage(b"fields", properties=Properties(**FIELDS))]
    made += [AMQPMessage(b"id", properties=Properties(message_id=one, correlation_id=one)) for one in IDS]
    for name, value in VALUES.items():
        made.append(AMQPMessage(b"a", message_annotations={name: value}, header=Header(durable=True, priority=7)))
        made.append(AMQPMessage(b"d", delivery_annotations={name: value}, footer={name: value}))
        made.append(AMQPMessage(value=value))
        made.append(AMQPMessage(sequence=[value, value]))
        if not isinstance(value, list | dict):
            made.append(AMQPMessage(b"p", application_properties={name: value}))
    encoded = [bytes(message) for message in made]
    return [*encoded, b"", b"\0", b"\xff" * 3000]


def fill(run: Run, stream: str) -> bytes:
    """Publishes messages of all kinds, in each way, and returns what is stored."""
    messages = samples()
    for options in (
        (),
        ("--compression", "none", "--method", "sub-entry"),
        ("--compression", "gzip"),
        ("--filter", "v"),
    ):
        done = run(
            "publish", stream, "--codec", "raw", "--input", "len32", *options, stdin=framed(messages), timeout=60
        )
        assert done.returncode == 0, done.stderr
    data = stored(run, stream)
    assert data == framed(messages) * 4
    return data


@pytest.fixture
def copy(run: Run, stream_name: str) -> Iterator[str]:
    """The name of a stream that is not there yet."""
    name = f"{stream_name}-copy"
    yield name
    run("stream", "delete", name, "--missing-ok", "--yes")


def dumped(run: Run, stream: str, *options: str) -> bytes:
    done = run("consume", stream, "--output", "dump", "--until", "end", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def info(run: Run, *files: str, status: int = 0) -> dict[str, Any]:
    done = run("dump", "info", *files, "--json")
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_all_kinds_of_messages_come_back(run: Run, stream: str, copy: str, tmp_path: Path, compression: str) -> None:
    data, file = fill(run, stream), str(tmp_path / "d")
    options = ("--output-file", file, "--dump-compression", compression)
    assert dumped(run, stream, *options) == b""
    found = info(run, file)
    count = 4 * len(samples())
    assert (found["ended"], found["whole"], found["compressed"]) == (True, True, compression == "zstd")
    (held,) = found["streams"]
    assert (held["name"], held["messages"], held["first_offset"]) == (stream, count, 0)
    assert run("dump", "verify", file).returncode == 0
    done = run("publish", copy, "--create", "--input", "dump", file, "--stats", "line")
    assert done.returncode == 0, done.stderr
    assert stored(run, copy) == data
    again = run("publish", copy, "--input", "dump", file, "--stats", "json")
    last = json.loads(again.stderr.splitlines()[-1])
    assert (again.returncode, last["published"], last["already_published"]) == (0, 0, count)
    assert stored(run, copy) == data


def test_it_goes_through_pipes(run: Run, env: dict[str, str], stream: str, copy: str) -> None:
    data = fill(run, stream)
    restored = run("publish", copy, "--create", "--input", "dump", stdin=dumped(run, stream))
    assert restored.returncode == 0, restored.stderr
    assert stored(run, copy) == data


def test_a_file_is_gone_on_with(run: Run, stream: str, copy: str, tmp_path: Path) -> None:
    file = str(tmp_path / "d")
    run("publish", stream, stdin=b"1\n2\n3\n4\n5\n")
    dumped(run, stream, "--output-file", file, "--count", "2")  # in the middle of a chunk
    dumped(run, stream, "--output-file", file, "--count", "2")
    dumped(run, stream, "--output-file", file)
    size = os.stat(file).st_size
    dumped(run, stream, "--output-file", file)
    run("publish", stream, stdin=b"6\n7\n")
    dumped(run, stream, "--output-file", file)
    (held,) = info(run, file)["streams"]
    assert (held["messages"], held["first_offset"], held["last_offset"]) == (7, 0, 6)
    assert os.stat(file).st_size > size
    assert run("publish", copy, "--create", "--input", "dump", file).returncode == 0
    assert run("consume", copy, *ALL).stdout == b"1\n2\n3\n4\n5\n6\n7\n"


def test_a_file_without_messages_begins_where_it_was_to_begin(run: Run, stream: str, tmp_path: Path) -> None:
    file = str(tmp_path / "d")
    run("publish", stream, stdin=b"1\n2\n")
    dumped(run, stream, "--output-file", file, "-o", "2", "--count", "0")
    before = Path(file).read_bytes()
    run("publish", stream, stdin=b"3\n4\n")
    done = run("consume", stream, "--output", "dump", "--output-file", file, "--until", "end")  # it would begin at 1
    assert (done.returncode, "was begun with --offset 2, and has no message" in done.stderr.decode()) == (9, True)
    assert Path(file).read_bytes() == before
    dumped(run, stream, "--output-file", file, "-o", "2")
    (held,) = info(run, file)["streams"]
    assert (held["messages"], held["first_offset"]) == (2, 2)
    dumped(run, stream, "--output-file", file)


@pytest.mark.parametrize("offset", ["next", "last", "-1", "-1h"])
def test_a_file_without_messages_does_not_begin_at_another_place(
    run: Run, stream: str, tmp_path: Path, offset: str
) -> None:
    """Each run would resolve the start anew, and what came between them would be missing without a word."""
    file = str(tmp_path / "d")
    run("publish", stream, stdin=b"1\n2\n")
    dumped(run, stream, "--output-file", file, f"--offset={offset}", "--count", "0")
    before = Path(file).read_bytes()
    run("publish", stream, stdin=b"3\n4\n")
    for again in ((), (f"--offset={offset}",)):
        done = run("consume", stream, "--output", "dump", "--output-file", file, "--until", "end", *again)
        assert (done.returncode, "what lies between would be missing" in done.stderr.decode()) == (9, True)
        assert Path(file).read_bytes() == before


def test_what_a_dump_begins_with_and_ends_with(run: Run, stream: str, copy: str) -> None:
    run("publish", stream, stdin=b"".join(b"%d\n" % number for number in range(10)))
    dump = dumped(run, stream, "-o", "3", "--count", "4")
    assert run("publish", copy, "--create", "--input", "dump", stdin=dump).returncode == 0
    assert run("consume", copy, *ALL).stdout == b"3\n4\n5\n6\n"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_torn_file_is_cut_and_gone_on_with(run: Run, stream: str, tmp_path: Path, compression: str) -> None:
    file = tmp_path / "d"
    for number in range(3):
        run("publish", stream, "-m", f"message {number}")
    options = ("--output-file", str(file), "--dump-compression", compression)
    dumped(run, stream, *options)
    whole = file.read_bytes()
    sizes = (3, 9, 100, len(whole) // 2, len(whole) - 60, len(whole) - 1)
    for torn in (*(whole[:size] for size in sizes), whole + bytes(5000)):
        file.write_bytes(torn)
        dumped(run, stream, *options)
        found = info(run, str(file))
        (held,) = found["streams"]
        told_of = (held["messages"], held["first_offset"], held["last_offset"], found["whole"])
        assert told_of == (3, 0, 2, True), len(torn)


def test_damage_is_told_with_its_place_and_changes_nothing(run: Run, stream: str, copy: str, tmp_path: Path) -> None:
    file = tmp_path / "d"
    for number in range(3):
        run("publish", stream, "-m", f"message {number}")
    dumped(run, stream, "--output-file", str(file))
    whole = file.read_bytes()
    at = whole.index(b"message 1")
    place = whole.rindex(b"\xc5RSD", 0, at)
    broken = whole[:at] + b"?" + whole[at + 1 :]
    file.write_bytes(broken)
    found = info(run, str(file), status=8)
    assert [damage["position"] for damage in found["damage"]] == [place]
    verified = run("dump", "verify", str(file))
    assert (verified.returncode, f"byte {place}: damaged" in verified.stderr.decode()) == (10, True)
    gone_on = run("consume", stream, "--output", "dump", "--output-file", str(file), "--until", "end")
    assert (gone_on.returncode, f"byte {place}: damaged" in gone_on.stderr.decode()) == (8, True)
    assert file.read_bytes() == broken
    stopped = run("publish", copy, "--create", "--input", "dump", str(file))
    assert (stopped.returncode, f"byte {place}: damaged" in stopped.stderr.decode()) == (8, True)
    assert run("consume", copy, *ALL).stdout == b"message 0\n"
    skipped = run("publish", copy, "--input", "dump", str(file), "--on-error", "skip")
    assert (skipped.returncode, f"byte {place}: damaged" in skipped.stderr.decode()) == (3, True)
    assert run("consume", copy, *ALL).stdout == b"message 0\nmessage 2\n"


def test_a_dump_that_is_cut_off_restores_what_is_whole(run: Run, stream: str, copy: str) -> None:
    for number in range(3):
        run("publish", stream, "-m", f"message {number}")
    dump = dumped(run, stream)
    place = dump.rindex(b"\xc5RSD", 0, dump.index(b"message 2"))
    done = run("publish", copy, "--create", "--input", "dump", stdin=dump[: place + 70])
    assert (done.returncode, f"byte {place}: the file was cut off" in done.stderr.decode()) == (3, True)
    assert run("consume", copy, *ALL).stdout == b"message 0\nmessage 1\n"
    assert run("publish", copy, "--input", "dump", stdin=dump).returncode == 0  # the whole one, later
    assert run("consume", copy, *ALL).stdout == b"message 0\nmessage 1\nmessage 2\n"


def test_another_source_is_refused(run: Run, stream: str, copy: str, tmp_path: Path) -> None:
    file = tmp_path / "d"
    run("publish", stream, stdin=b"1\n2\n3\n")
    run("publish", copy, "--create", stdin=b"1\n2\n3\n")
    dumped(run, stream, "--output-file", str(file), "-o", "1")
    before = file.read_bytes()

    def refused(name: str, *options: str) -> str:
        done = run("consume", name, "--output", "dump", "--output-file", str(file), "--until", "end", *options)
        assert (done.returncode, file.read_bytes()) == (9, before), done.stderr
        return done.stderr.decode()

    assert f"is a dump of stream {stream!r}" in refused(copy)
    assert "was begun with --offset 1, not first" in refused(stream, "-o", "first")
    assert "was begun with another --filter" in refused(stream, "--filter", "x")
    run("stream", "delete", stream, "--yes")
    run("stream", "create", stream)
    run("publish", stream, stdin=b"1\n")
    assert "which was made anew" in refused(stream)
    run("publish", stream, stdin=b"2\n3\n4\n")
    assert "which was made anew" in refused(stream)
    file.write_bytes(before := b"something else\n")
    assert "is no dump, and is not overwritten" in refused(stream)


def test_one_program_writes_to_a_file(run: Run, stream: str, tmp_path: Path) -> None:
    with (tmp_path / "d").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("consume", stream, "--output", "dump", "--output-file", file.name, "--until", "end")
    assert (done.returncode, "another program writes to" in done.stderr.decode()) == (9, True)


def test_a_target_with_other_messages_is_refused(run: Run, stream: str, copy: str) -> None:
    run("publish", stream, stdin=b"1\n2\n")
    run("publish", copy, "--create", stdin=b"other\n")
    dump = dumped(run, stream)
    done = run("publish", copy, "--input", "dump", stdin=dump)
    assert (done.returncode, "holds messages that are not from this dump" in done.stderr.decode()) == (9, True)
    for _ in range(2):
        assert run("publish", copy, "--input", "dump", "--append", stdin=dump).returncode == 0
    assert run("consume", copy, *ALL).stdout == b"other\n1\n2\n"


def test_a_super_stream_comes_back_partition_by_partition(run: Run, stream_name: str, tmp_path: Path) -> None:
    names, file = (stream_name, f"{stream_name}-copy"), str(tmp_path / "d")
    for name in names:
        assert run("superstream", "create", name, "--routing-keys", "eu,us").returncode == 0
    lines = b"".join(b"%s\t%d\n" % (key, number) for number in range(50) for key in (b"eu", b"us", b"us"))
    keyed = ("--key-delimiter", r"\t", "--routing", "key")
    run("superstream", "publish", stream_name, *keyed, stdin=lines[: len(lines) // 2])
    consume = ("superstream", "consume", stream_name, "--output", "dump", "--output-file", file, "--until", "end")
    assert run(*consume).returncode == 0
    run("superstream", "publish", stream_name, *keyed, stdin=lines[len(lines) // 2 :])
    assert run(*consume).returncode == 0
    found = info(run, file)
    assert found["super_stream"] == stream_name
    assert [(held["name"], held["binding"]) for held in found["streams"]] == [
        (f"{stream_name}-{key}", key) for key in ("eu", "us")
    ]
    assert run("dump", "verify", file).returncode == 0
    for _ in range(2):
        assert run("superstream", "publish", names[1], "--input", "dump", file).returncode == 0
    for key, count in (("eu", 50), ("us", 100)):
        found_there = [stored(run, f"{name}-{key}") for name in names]
        assert found_there[0] == found_there[1]
        assert len(found_there[0]) > 5 * count
    alone = run("publish", f"{stream_name}-eu", "--input", "dump", file)
    assert (alone.returncode, "super stream with 2 partitions" in alone.stderr.decode()) == (2, True)
    for name in names:
        run("superstream", "delete", name, "--yes")


def test_partitions_in_another_order_are_refused(run: Run, stream_name: str) -> None:
    """Messages would go to the partition of another key."""
    names = (stream_name, f"{stream_name}-copy", f"{stream_name}-other")
    for name, keys in zip(names, ("eu,us", "us,eu", "a,b"), strict=True):
        assert run("superstream", "create", name, "--routing-keys", keys).returncode == 0
    lines = b"eu\t1\nus\t2\n"
    run("superstream", "publish", stream_name, "--key-delimiter", r"\t", "--routing", "key", stdin=lines)
    dump = run("superstream", "consume", stream_name, "--output", "dump", "--until", "end").stdout
    refused = run("superstream", "publish", names[1], "--input", "dump", stdin=dump)
    assert (refused.returncode, "routing key 'eu' of the dump is bound to" in refused.stderr.decode()) == (9, True)
    assert run("superstream", "consume", names[1], *ALL).stdout == b""
    assert run("superstream", "publish", names[2], "--input", "dump", stdin=dump).returncode == 0  # by their places
    assert run("consume", f"{names[2]}-b", *ALL).stdout == b"2\n"
    for name in names:
        run("superstream", "delete", name, "--yes")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("consume", "s", "--output-file", "f"), "--output-file needs --output dump"),
        (("consume", "s", "--dump-compression", "zstd"), "--dump-compression needs --output dump"),
        (("consume", "s", "--output", "dump", "--grep", "x"), "--grep cannot be used with --output dump"),
        (("consume", "s", "--output", "dump", "-0"), "--output and -0 contradict each other"),
        (("consume", "s", "t", "--output", "dump"), "--output dump takes one stream"),
        (("consume", "s", "--output", "dump", "--on-error", "skip"), "--on-error skip cannot be used"),
        (("consume", "s", "--output", "dump", "--output-file", "f", "--name", "n"), "--name cannot be used"),
        (("consume", "s", "--output", "dump", "--output-file", "/nowhere/f"), "/nowhere/f: No such file"),
        (("consume", "s", "--output", "dump", "--output-file", "/dev/null"), "/dev/null is no regular file"),
        (("sac-consume", "s", "--name", "g", "--output", "dump"), "the members of a group"),
        (("publish", "s", "--input", "dump", "--name", "n"), "--name cannot be used with --input dump"),
        (("publish", "s", "--input", "dump", "-H", "a=b"), "--header cannot be used with --input dump"),
        (("publish", "s", "--append", "-m", "x"), "--append cannot be used with --message"),
        (("publish", "s", "--input", "dump", "-m", "x"), "--message cannot be used with --input dump"),
        (("publish", "s", "--input", "dump", "/etc/hosts", "/etc/passwd"), "2 files are given"),
        (("publish", "s", "--input", "dump", "/etc/ssl"), "/etc/ssl: the folder holds no segment"),
        (("superstream", "publish", "s", "--input", "dump", "--key", "k"), "not by a key"),
        (("dump", "info", "/nowhere"), "/nowhere: No such file or directory"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], message: str) -> None:
    done = run_here(*words, env={"RSTREAM_URI": "rabbitmq-stream://localhost:1"})
    assert (done.status, message in done.errors) == (2, True), done.errors
    assert not Path("f").exists()


@pytest.mark.parametrize(("data", "message"), [(b"hello, world\n", "neither a dump"), (b"", "no dump: it ends before")])
def test_what_is_no_dump(run: Run, stream: str, data: bytes, message: str) -> None:
    for words in (("publish", stream, "--input", "dump"), ("dump", "info", "-"), ("dump", "verify", "-")):
        done = run(*words, stdin=data)
        assert (done.returncode, message in done.stderr.decode()) == (8, True)


def test_a_file_that_has_no_room_is_left_so_that_a_run_can_go_on(
    run: Run, env: dict[str, str], stream: str, tmp_path: Path
) -> None:
    """As on a full disk: the limit of the size of files says the same."""
    run("publish", stream, stdin=b"x" * 2000 + b"\n" + b"y" * 2000 + b"\n", env={})
    file = tmp_path / "d"
    words = ["consume", stream, "--output", "dump", "--output-file", str(file), "--until", "end"]
    limited = f"ulimit -f 1; trap '' XFSZ; exec {RSTREAM} {' '.join(words)}"
    done = subprocess.run(["bash", "-c", limited], env=environment(env), capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"cannot write to {file}: File too large" in as_lines(done.stderr)
    assert run(*words).returncode == 0
    assert info(run, str(file))["streams"][0]["messages"] == 2


def test_after_a_signal_and_a_kill_a_run_goes_on(run: Run, env: dict[str, str], stream: str, tmp_path: Path) -> None:
    file = tmp_path / "d"
    words = ("consume", stream, "--output", "dump", "--output-file", str(file), "--stats", "none")

    def has(text: bytes) -> bool:
        return file.exists() and text in file.read_bytes()

    for number, how in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGINT)):
        run("publish", stream, "-m", f"message {number}")
        with running(*words, env=env) as process:
            eventually(partial(has, f"message {number}".encode()))
            process.send_signal(how)
            process.wait(30)
        found = info(run, str(file))
        assert (found["ended"], found["streams"][0]["messages"]) == (how is not signal.SIGKILL, number + 1)


def waiting_in(pipe: int) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_signal_ends_a_dump_that_nobody_reads(run: Run, env: dict[str, str], stream: str) -> None:
    """Its end mark would come behind a part of a chunk, and would wait for the reader."""
    run("publish", stream, stdin=(b"x" * 1000 + b"\n") * 1000)
    with running("consume", stream, "--output", "dump", env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        eventually(lambda: waiting_in(pipe) > 60_000)  # of 65,536: a chunk is written in part
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
        assert b"SIGINT" not in process.stdout.read()


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd")
def test_zstd_makes_a_plain_dump_of_a_compressed_one(run: Run, stream: str, copy: str) -> None:
    data = fill(run, stream)
    packed = dumped(run, stream, "--dump-compression", "zstd")
    plain = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True, timeout=30).stdout
    found, wrong, cut_off = dumps.read_all([plain])
    assert (len(dumps.ranges(found)) > 3, wrong, cut_off) == (True, [], 0)
    other = subprocess.run(["zstd", "-c"], input=plain, capture_output=True, check=True, timeout=30).stdout
    refused = run("publish", copy, "--create", "--input", "dump", stdin=other)
    assert (refused.returncode, "`zstd -d`" in refused.stderr.decode()) == (8, True)
    assert run("publish", copy, "--create", "--input", "dump", stdin=plain).returncode == 0
    assert stored(run, copy) == data


def test_a_restore_that_was_killed_is_finished_by_running_it_again(
    run: Run, env: dict[str, str], stream: str, copy: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "d")
    run("publish", stream, stdin=b"".join(b"%d\n" % number for number in range(3000)))
    run("publish", stream, "--compression", "gzip", stdin=b"".join(b"%d\n" % number for number in range(3000)))
    data = stored(run, stream)
    dumped(run, stream, "--output-file", file)
    run("stream", "create", copy)
    words = ("publish", copy, "--input", "dump", file)
    slow = ("--rate", "3000/s", "--stats", "json", "--stats-interval", "100ms")

    def has_come_to(least: int, event: dict[str, Any]) -> bool:
        return int(event.get("confirmed", 0)) + int(event.get("already_published", 0)) > least

    for least in (500, 3500):
        with running(*words, *slow, env=env) as process:
            told(process, partial(has_come_to, least))
            process.kill()
            process.wait(30)
    done = run(*words, "--stats", "json")
    last = json.loads(done.stderr.splitlines()[-1])
    known = last["already_published"]
    assert (done.returncode, known + last["published"], 500 < known < 6000) == (0, 6000, True), last
    assert stored(run, copy) == data


def test_the_manifest_has_what_the_management_api_tells(
    run: Run, broker: Broker, stream_name: str, copy: str, tmp_path: Path
) -> None:
    file, asking = str(tmp_path / "d"), {"RSTREAM_MANAGEMENT_URI": broker.management_uri}
    run("stream", "create", stream_name, "--max-age", "7d", "--max-segment-size", "2MB")
    run("publish", stream_name, stdin=b"1\n2\n3\n")
    run("offset", "store", stream_name, "1", "--name", "reader")
    words = ("consume", stream_name, "--output", "dump", "--output-file", file, "--until", "end")
    assert run(*words, env=asking).returncode == 0
    (held,) = info(run, file)["streams"]
    assert held["stored_offsets"] == {"reader": 1}
    assert held["arguments"]["max-age"] == "7D"
    assert run("publish", copy, "--create", "--input", "dump", file).returncode == 0
    there = json.loads(run("stream", "info", copy, "--json", env=asking).stdout)
    assert there["arguments"] == held["arguments"]
    run("stream", "delete", stream_name, "--yes")


def test_retention_took_what_a_file_ends_with(run: Run, stream_name: str, copy: str, tmp_path: Path) -> None:
    """Then nothing can be known again; the run goes on behind the gap, and says so, or ends in 9."""
    file = tmp_path / "d"
    run("stream", "create", stream_name, "--max-length-bytes", "1MB", "--max-segment-size", "1MB")
    lines = b"".join(b"%d %s\n" % (number, b"x" * 1000) for number in range(4000))
    run("publish", stream_name, stdin=b"first\nsecond\n")
    words = ("consume", stream_name, "--output", "dump", "--output-file", str(file), "--until", "end")
    assert run(*words).returncode == 0
    whole = file.read_bytes()

    def begin() -> int:
        found = json.loads(run("stream", "info", stream_name, "--json").stdout)
        return int(found["first_offset"])

    while begin() < 2:
        assert run("publish", stream_name, stdin=lines).returncode == 0
    failed = run(*words, "--on-gap", "fail")
    assert (failed.returncode, file.read_bytes()) == (9, whole), failed.stderr
    first = begin()
    done = run(*words)
    assert (done.returncode, "2" in done.stderr.decode()) == (0, True), done.stderr
    (held,) = info(run, str(file))["streams"]
    assert (held["first_offset"], held["last_offset"] > first) == (0, True)
    assert run("publish", copy, "--create", "--input", "dump", str(file)).returncode == 0
    assert run("consume", copy, "-o", "first", "--count", "2").stdout == b"first\nsecond\n"
    run("stream", "delete", stream_name, "--yes")
