"""``rstream publish`` on each kind of broker: each byte, each count, each exit code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rstream_core import EmbeddedBroker
from tests.brokers import Broker
from tests.cli.conftest import RSTREAM, Run, environment, run_rstream
from tests.cli.killable import Killable
from tests.cli.process import ended, eventually, interrupt, running, summary_of, told
from tests.conftest import OwnRabbitMQ


def everything(run: Run, stream: str, *options: str) -> bytes:
    done = run("consume", stream, "-o", "first", "--until", "end", *options, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def publish(run: Run, *arguments: str, **settings: Any) -> dict[str, Any]:
    done = run("publish", *arguments, "--stats", "json", **settings)
    found = summary_of(done.stderr)
    assert found["exit_code"] == done.returncode
    assert done.stdout == b""
    return found


def len32(records: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


class Unconfirming(NamedTuple):
    """A broker of the test's own with a stream ``s``, that confirms nothing any more, for a minute, when it is told."""

    env: dict[str, str]
    stop: Callable[[], None]


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def unconfirming(request: pytest.FixtureRequest) -> Iterator[Unconfirming]:
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            embedded = stack.enter_context(EmbeddedBroker())
            found = Unconfirming({"RSTREAM_URI": embedded.uri}, lambda: embedded.faults.delay(60.0))
        else:
            start: OwnRabbitMQ = request.getfixturevalue("own_rabbitmq")
            broker = start()
            found = Unconfirming({"RSTREAM_URI": broker.uri}, lambda: stop_confirming(broker))
        assert run_rstream("stream", "create", "s", env=found.env).returncode == 0
        yield found


def stop_confirming(broker: Broker) -> None:
    """RabbitMQ goes on, and its streams stop: the processes that write them are held from now on for a minute."""
    broker.ctl(
        "eval",
        "Self = self(), spawn(fun() -> Ps = [P || P <- processes(), {dictionary, D} <- [process_info(P, dictionary)],"
        " proplists:get_value('$initial_call', D) =:= {osiris_writer, init, 1}],"
        " [erlang:suspend_process(P) || P <- Ps], Self ! done, timer:sleep(60000),"
        " [erlang:resume_process(P) || P <- Ps] end), receive done -> ok end.",
    )


# --- bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "given", "bodies"),
    [
        ((), b"a\nb\n", [b"a", b"b"]),
        ((), b"a\nb", [b"a", b"b"]),
        ((), b"\n\na\n\n", [b"", b"", b"a", b""]),
        ((), b"", []),
        ((), b"a\r\n\xff\xfe\0\n", [b"a\r", b"\xff\xfe\0"]),
        (("--crlf",), b"a\r\nb\n", [b"a", b"b"]),
        (("--skip-empty",), b"\na\n\n", [b"a"]),
        (("-0",), b"a\n\0\0b", [b"a\n", b"", b"b"]),
        (("-d", "\\r\\n"), b"a\nb\r\nc", [b"a\nb", b"c"]),
        (("-d", "::"), b"a:b::c::", [b"a:b", b"c"]),
        (("--whole",), b"a\nb\n", [b"a\nb\n"]),
        (("--whole",), b"", [b""]),
        (("--input", "len32"), len32([b"", b"a\n", b"\0"]), [b"", b"a\n", b"\0"]),
        (("--json",), b'{"body":"x"}\n\n{"body_base64":"/w=="}', [b"x", b"\xff"]),
        (("--codec", "raw"), b"a\n\xffb\n", [b"a", b"\xffb"]),
        (("--method", "send"), b"a\nb\n", [b"a", b"b"]),
        (("--method", "wait"), b"a\nb\n", [b"a", b"b"]),
        (("--method", "sub-entry"), b"a\nb\n", [b"a", b"b"]),
        (("--count", "2"), b"a\nb\nc\n", [b"a", b"b"]),
        (("--count", "0"), b"a\n", []),
        (("--batch-size", "1"), b"a\nb\nc\n", [b"a", b"b", b"c"]),
    ],
)
def test_records(run: Run, stream: str, options: tuple[str, ...], given: bytes, bodies: list[bytes]) -> None:
    found = publish(run, stream, *options, stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"]) == (0, len(bodies), len(bodies))
    codec = options if options[:1] == ("--codec",) else ()
    assert everything(run, stream, "--output", "len32", *codec) == len32(bodies)
    assert found["bytes"] == sum(map(len, bodies))


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_20_000_random_binary_records(run: Run, stream: str, compression: str) -> None:
    chance = random.Random(compression)
    records = [chance.randbytes(chance.choice([0, 1, 2, 30, 300])) for _ in range(20_000)]
    records[7] = chance.randbytes(900_000)
    records[8] = b"\0" * 900_000
    options = () if compression == "none" else ("--compression", compression)
    found = publish(run, stream, "--input", "len32", *options, stdin=len32(records), timeout=60)
    assert (found["exit_code"], found["confirmed"]) == (0, 20_000)
    assert everything(run, stream, "--output", "len32") == len32(records)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_records_of_5_mb_that_compress(run: Run, stream: str, compression: str) -> None:
    records = [b"", b"5 MB of the same " * 300_000, b"x", bytes(5_000_000)]
    found = publish(run, stream, "--input", "len32", "--compression", compression, stdin=len32(records), timeout=60)
    assert (found["exit_code"], found["confirmed"]) == (0, 4)
    assert everything(run, stream, "--output", "len32") == len32(records)


def test_nul_safe_records(run: Run, stream: str) -> None:
    chance = random.Random(2)
    records = [chance.randbytes(chance.choice([0, 1, 40])).replace(b"\0", b"\n") for _ in range(20_000)]
    given = b"".join(record + b"\0" for record in records)
    assert publish(run, stream, "-0", stdin=given)["confirmed"] == 20_000
    assert everything(run, stream, "-0") == given


@pytest.mark.parametrize("blocks", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_many_lines_of_mixed_text(env: dict[str, str], run: Run, stream: str, tmp_path: Path, blocks: int) -> None:
    chance = random.Random(3)
    words = ["", "plain", "grüße", "日本語", "🐇🐇", "tab\t", "a" * 200, "é\u0301", "\u202e"]
    source = tmp_path / "lines"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(blocks):
            block = "".join(f"{' '.join(chance.choices(words, k=4))}\n" for _ in range(10_000)).encode()
            digest.update(block)
            file.write(block)
    found = publish(run, stream, str(source), timeout=120)
    assert (found["exit_code"], found["confirmed"], found["progress"]) == (0, blocks * 10_000, 1.0)
    read = hashlib.sha256()
    with running("consume", stream, "-o", "first", "--until", "end", env=env) as consumer:
        assert consumer.stdout is not None
        while block := consumer.stdout.read(1 << 20):
            read.update(block)
        assert ended(consumer) == (0, "")
    assert read.hexdigest() == digest.hexdigest()


# --- where the input comes from ------------------------------------------------------------------------------


def test_standard_input_may_be_a_file_or_nothing(env: dict[str, str], run: Run, stream: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"skipped\na\nb\n")
    with source.open("rb", buffering=0) as file:
        file.seek(8)  # as in a shell's { read first; rstream publish s; } < in
        with running("publish", stream, "--stats", "json", stdin=file, env=env) as process:
            code, errors = ended(process)
    assert code == 0
    assert summary_of(errors)["progress"] == 1.0
    with running("publish", stream, stdin=subprocess.DEVNULL, env=env) as process:
        assert ended(process) == (0, "")
    assert everything(run, stream) == b"a\nb\n"


def test_files_and_standard_input_in_their_order(run: Run, stream: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1\n2")
    (tmp_path / "two").write_bytes(b"4\n")
    done = run("publish", stream, str(tmp_path / "one"), "-", str(tmp_path / "two"), stdin=b"3")
    assert (done.returncode, done.stderr) == (0, b"")
    assert everything(run, stream) == b"1\n2\n3\n4\n"


def test_whole_files_and_a_fifo(env: dict[str, str], run: Run, stream: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1\n2\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with running("publish", stream, "--whole", str(tmp_path / "one"), str(fifo), env=env) as process:
        fifo.write_bytes(b"from the fifo")
        assert ended(process) == (0, "")
    assert everything(run, stream, "--output", "len32") == len32([b"1\n2\n", b"from the fifo"])


def test_inline_messages_never_read_standard_input(env: dict[str, str], run: Run, stream: str) -> None:
    lines = b"".join(b"%d\n" % number for number in range(5))
    script = f'while read -r line; do "$0" publish {stream} -m "$line"; done'
    done = subprocess.run(
        ["sh", "-c", script, str(RSTREAM)],
        input=lines,
        capture_output=True,
        env=environment(env),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert run("publish", stream, "-m", "", "-m", "grüße\n").returncode == 0
    done = run("consume", stream, "-o", "first", "--until", "end")
    assert (done.returncode, done.stdout) == (0, lines + "\ngrüße\n\n".encode())
    assert b"contains the delimiter" in done.stderr


def test_a_growing_input_is_published_as_it_grows(env: dict[str, str], run: Run, stream: str) -> None:
    with running("publish", stream, stdin=subprocess.PIPE, env=env) as publisher:
        assert publisher.stdin is not None
        publisher.stdin.write(b"first\nsec")
        publisher.stdin.flush()
        eventually(lambda: everything(run, stream) == b"first\n")
        publisher.stdin.write(b"ond\n")
        publisher.stdin.flush()
        eventually(lambda: everything(run, stream) == b"first\nsecond\n")
        assert publisher.poll() is None
        publisher.stdin.close()
        assert ended(publisher) == (0, "")


def test_the_input_is_read_no_faster_than_the_broker_confirms(env: dict[str, str], run: Run, stream: str) -> None:
    """With one message in flight and a slow rate, a pipe that could give gigabytes stays full."""
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        running("publish", stream, "--rate", "50/s", stdin=source.stdout, env=env) as publisher,
    ):
        eventually(lambda: everything(run, stream, "--count", "1"))
        time.sleep(2.0)
        taken = int(Path(f"/proc/{source.pid}/io").read_text().split("wchar: ")[1].split()[0])
        interrupt(publisher)
        assert ended(publisher)[0] == 130
        source.kill()
    assert taken < 1_000_000


# --- messages ----------------------------------------------------------------------------------------------


def test_headers_properties_and_annotations(run: Run, stream: str) -> None:
    extras = ["-H", "source=shell", "-H", "n:=5", "--property", "subject=eu", "--property", "message_id:=7"]
    extras += ["--annotation", "x-a:=true"]
    assert run("publish", stream, *extras, stdin=b"a\n\xff\n").returncode == 0
    assert run("publish", stream, "-H", "n=6", "--json", "-m", '{"body":"j","headers":{"n":1,"m":2}}').returncode == 0
    shown = [json.loads(line) for line in everything(run, stream, "--json").splitlines()]
    for document, body in zip(shown, ({"body": "a"}, {"body_base64": "/w=="}), strict=False):
        assert document["headers"] == {"source": "shell", "n": 5}
        assert document["properties"] == {"subject": "eu", "message_id": 7}
        assert document["annotations"] == {"x-a": True}
        assert body.items() <= document.items()
    assert shown[2]["headers"] == {"n": "6", "m": 2}


ENVELOPES: list[dict[str, Any]] = [
    {"properties": {}, "headers": {}, "annotations": {}, "body": ""},
    {"properties": {"subject": "eu", "message_id": {"$uuid": "c0ffee00-1111-2222-3333-444455556666"}}, "body": "ü"},
    {"headers": {"u": {"$ulong": 5}, "f": 1.5, "n": None, "l": [1, {"$symbol": "s"}]}, "body_base64": "AP8="},
    {"annotations": {"x-opt": {"$timestamp": 1787306400123}}, "value": {"$map": [[1, "one"]]}},
    {"sequence": [1, "two", {"$binary": "AA=="}]},
    {"value": None},
    {"header": {"durable": True, "priority": 9}, "body": "\u2028 \n"},
    {"body": None},
]


def test_an_envelope_comes_back_as_it_went_in(run: Run, stream: str) -> None:
    lines = b"\n".join(json.dumps(envelope).encode() for envelope in ENVELOPES)
    assert publish(run, stream, "--json", stdin=lines)["confirmed"] == len(ENVELOPES)
    once = everything(run, stream, "--json")
    encoded = everything(run, stream, "--output", "len32", "--codec", "raw")
    assert publish(run, stream, "--json", stdin=once)["confirmed"] == len(ENVELOPES)
    assert everything(run, stream, "--output", "len32", "--codec", "raw") == encoded * 2
    for envelope, line in zip(ENVELOPES, once.splitlines(), strict=True):
        shown = json.loads(line)
        sections: dict[str, Any] = {"properties": {}, "headers": {}, "annotations": {}} | envelope
        assert {key: shown[key] for key in sections} == sections


# --- publishers --------------------------------------------------------------------------------------------


def test_a_named_publisher_goes_on_where_it_stopped(run: Run, stream: str) -> None:
    for _ in range(2):
        found = publish(run, stream, "--name", "me", stdin=b"a\nb\n")
        assert (found["exit_code"], found["confirmed"]) == (0, 2)
    assert everything(run, stream) == b"a\nb\na\nb\n"


def test_create(run: Run, stream_name: str) -> None:
    try:
        missing = run("publish", stream_name, "-m", "a")
        assert missing.returncode == 4
        assert stream_name in missing.stderr.decode()
        assert missing.stderr.endswith(b"\nhint: --create creates it; or is it in another virtual host?\n")
        for _ in range(2):
            assert run("publish", stream_name, "--create", "-m", "a").returncode == 0
        assert everything(run, stream_name) == b"a\na\n"
    finally:
        run("stream", "delete", stream_name, "--missing-ok", "--yes")


def test_rate(run: Run, stream: str) -> None:
    for rate, least in (("20/s", 4.0), ("200B/s", 4.0)):
        found = publish(run, stream, "--rate", rate, stdin=b"123456789\n" * 100)
        assert found["confirmed"] == 100
        assert least < found["elapsed"] < 15


def test_max_in_flight_of_one(run: Run, stream: str) -> None:
    found = publish(run, stream, "--max-in-flight", "1", "--batch-size", "1", stdin=b"x\n" * 300)
    assert found["confirmed"] == 300


# --- how it ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate", "fast"),
        ("--linger", "soon"),
        ("--compression", "zip"),
        ("--compression", "gzip", "--method", "send"),
        ("-0", "--json"),
        ("--delimiter", "x", "--whole"),
        ("--delimiter", ""),
        ("--delimiter", "\\q"),
        ("-H", "novalue"),
        ("-H", "a=1", "-H", "a=2"),
        ("--property", "colour=red"),
        ("--property", "group_sequence:=-1"),
        ("--codec", "raw", "-H", "a=b"),
        ("--name", ""),
        ("--batch-size", "0"),
        ("-m", "a", "file"),
        ("missing-file",),
        ("/",),
        ("-", "-"),
        ("--failed-to", "/nowhere/file"),
        ("--stats", "pie"),
        ("--input", "lines", "--whole"),
    ],
)
def test_what_cannot_work_is_told_before_connecting(arguments: tuple[str, ...], closed_port: int) -> None:
    address = {"RSTREAM_URI": f"rabbitmq-stream://127.0.0.1:{closed_port}", "RSTREAM_STREAM": "s"}
    words = ("s", *arguments)
    done = run_rstream("publish", *words, env=address)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"error: ")
    assert done.stdout == b""


def test_an_unreadable_file(run: Run, stream: str, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"a\n")
    done = run("publish", stream, str(tmp_path / "good"), str(tmp_path / "missing"))
    assert done.returncode == 2
    assert done.stderr.decode() == f"error: {tmp_path}/missing: No such file or directory\n"
    assert everything(run, stream) == b""


def test_the_failed_file_is_not_the_input(run: Run, stream: str, tmp_path: Path) -> None:
    source = tmp_path / "failed"
    source.write_bytes(b'{"body":"a"}\n')
    done = run("publish", stream, "--json", str(source), "--failed-to", str(source))
    assert done.returncode == 2
    assert source.read_bytes() == b'{"body":"a"}\n'


def test_nobody_listens(closed_port: int) -> None:
    done = run_rstream("publish", "s", "-m", "a", "-u", f"rabbitmq-stream://127.0.0.1:{closed_port}")
    assert done.returncode == 6
    assert done.stderr.startswith(b"error: ")


def test_a_wrong_password(run: Run, broker: Broker) -> None:
    uri = f"rabbitmq-stream://guest:wrong@{broker.host}:{broker.port}"
    done = run("publish", "s", "-m", "a", "-u", uri)
    assert done.returncode == 5
    assert b"wrong@" not in done.stderr


@pytest.mark.parametrize("bad", [b"{", b"[]", b'{"bodi":1}', b'{"value":{"$ubyte":256}}'])
def test_a_bad_record_ends_the_run_with_its_number(run: Run, stream: str, bad: bytes) -> None:
    given = b'{"body":"1"}\n\n' + bad + b'\n{"body":"4"}\n'
    done = run("publish", stream, "--json", "--stats", "json", stdin=given)
    assert done.returncode == 8
    assert b'{"event":"error","code":8,"kind":"BadRecord","message":"record 3: ' in done.stderr
    found = summary_of(done.stderr)
    assert (found["read"], found["published"], found["not_published"], found["bad"]) == (2, 1, 1, 1)
    assert everything(run, stream) == b"1\n"


def test_bad_records_are_skipped(run: Run, stream: str) -> None:
    given = b'{"body":"1"}\n{\n{"body":"3"}\n[]\n'
    done = run("publish", stream, "--json", "--on-error", "skip", stdin=given)
    assert done.returncode == 3
    assert [line.split(b":")[1] for line in done.stderr.splitlines()] == [
        b" record 2 is skipped",
        b" record 4 is skipped",
    ]
    assert everything(run, stream) == b"1\n3\n"


@pytest.mark.parametrize("options", [(), ("--method", "send"), ("--method", "sub-entry"), ("--compression", "gzip")])
def test_a_message_too_large_for_a_frame(run: Run, stream: str, options: tuple[str, ...]) -> None:
    large = random.Random(4).randbytes(1_048_548)
    given = len32([b"1", b"2", large, b"4"])
    done = run("publish", stream, "--input", "len32", *options, stdin=given)
    assert done.returncode == 8, done.stderr
    assert b"error: record 3: " in done.stderr
    done = run("publish", stream, "--input", "len32", "--on-error", "skip", *options, stdin=given)
    assert done.returncode == 3
    assert everything(run, stream) == b"1\n2\n1\n2\n4\n"


def test_a_large_message_that_compresses(run: Run, stream: str) -> None:
    given = len32([b"1", b"\0" * 5_000_000, b"3"])
    assert run("publish", stream, "--input", "len32", "--compression", "zstd", stdin=given).returncode == 0
    assert everything(run, stream, "--output", "len32") == given


def test_a_record_that_is_cut_off(run: Run, stream: str) -> None:
    done = run("publish", stream, "--input", "len32", stdin=len32([b"1"]) + b"\0\0\0\x05ab")
    assert done.returncode == 8
    assert b"error: record 2: " in done.stderr
    assert everything(run, stream) == b"1\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_all_that_was_read_confirmed(
    env: dict[str, str], run: Run, stream: str, number: signal.Signals, code: int
) -> None:
    with (
        subprocess.Popen(["yes", "y" * 100], stdout=subprocess.PIPE) as source,
        running(
            "publish", stream, "--stats", "json", "--max-in-flight", "20000", stdin=source.stdout, env=env
        ) as process,
    ):
        eventually(lambda: everything(run, stream, "--count", "1"))
        interrupt(process, number)
        status, errors = ended(process)
        source.kill()
    assert status == code
    found = summary_of(errors)
    assert found["exit_code"] == code
    assert found["reason"] == number.name
    assert found["read"] == found["confirmed"] > 0
    assert (
        hashlib.sha256(everything(run, stream)).digest()
        == hashlib.sha256((b"y" * 100 + b"\n") * found["confirmed"]).digest()
    )


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (("--rate", "20000/s"), None),
        (("--rate", "2/s"), 500),
        (("--rate", "10B/s"), 500),
        (("--method", "wait"), None),
        (("--method", "send"), None),
    ],
)
def test_a_signal_ends_a_slow_run_with_all_that_was_read_confirmed(
    env: dict[str, str], run: Run, stream: str, options: tuple[str, ...], most: int | None
) -> None:
    """What was read ahead goes out after the signal, and is not much."""
    with (
        subprocess.Popen(["seq", "100000000"], stdout=subprocess.PIPE) as source,
        running(
            "publish", stream, "--stats", "json", "--drain-timeout", "60", *options, stdin=source.stdout, env=env
        ) as process,
    ):
        eventually(lambda: everything(run, stream, "--count", "1"))
        interrupt(process)
        status, errors = ended(process)
        source.kill()
    assert status == 130
    found = summary_of(errors)
    assert found["read"] == found["confirmed"] > 0
    whole = b"".join(b"%d\n" % number for number in range(1, found["read"] + 1))
    assert everything(run, stream) == whole
    assert most is None or found["read"] < most


def test_a_signal_while_waiting_for_input_says_what_was_done(env: dict[str, str], run: Run, stream: str) -> None:
    with running("publish", stream, "--drain-timeout", "60s", stdin=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nhalf")
        process.stdin.flush()
        eventually(lambda: everything(run, stream) == b"a\n")
        started = time.monotonic()
        interrupt(process)
        code, errors = ended(process, timeout=60)
    assert code == 130
    assert time.monotonic() - started < 40  # and waits for no more input until --drain-timeout
    note, summary = errors.splitlines()
    assert note == "note: the last record was not read to its end, and is not published"
    assert summary.startswith(f"published 1 message (1 B) to {stream}")
    assert everything(run, stream) == b"a\n"


def test_a_signal_while_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with running("publish", "s", "-m", "a", "--port", str(port), "--host", "127.0.0.1", env={}) as process:
            accepted, _ = silent.accept()
            with accepted:
                assert accepted.recv(1)  # it has begun to log in
                interrupt(process)
                assert ended(process)[0] == 130


def test_a_broker_that_dies(killable: Killable, tmp_path: Path) -> None:
    env = {"RSTREAM_URI": killable.uri, "RSTREAM_RECOVER_FOR": "0"}
    failed = tmp_path / "failed"

    def run(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
        return run_rstream(*arguments, env=env, **settings)

    eventually(lambda: run("publish", "s", "-m", "y" * 100).returncode == 0)
    with (
        subprocess.Popen(["yes", "y" * 100], stdout=subprocess.PIPE) as source,
        running("publish", "s", "--stats", "json", "--failed-to", str(failed), stdin=source.stdout, env=env) as process,
    ):
        eventually(lambda: len(everything(run, "s", "--count", "2")) > 101)
        killable.kill()
        status, errors = ended(process)
        source.kill()
    assert status == 7
    found = summary_of(errors)
    lost = found["failed"] + found["not_published"]
    assert f'"kind":"NotConfirmed","message":"{lost:,} of {found["read"]:,} messages are not confirmed: ' in errors
    assert errors.count('"event":"error"') == 1
    assert failed.read_bytes().count(b"\n") == lost > 0

    with running("publish", "s", stdin=subprocess.PIPE, env=env) as process:
        assert ended(process)[0] == 6  # nobody listens
    killable.start()
    eventually(lambda: run("consume", "s", "-o", "first", "-n", "1").returncode == 0)  # the stream comes back, too
    stored = everything(run, "s").count(b"\n")
    assert stored > found["confirmed"]
    again = publish(run, "s", "--json", str(failed))
    assert (again["exit_code"], again["confirmed"]) == (0, lost)
    whole = everything(run, "s")
    assert whole == (b"y" * 100 + b"\n") * (stored + lost)

    # Nothing in flight and the input silent: the end of the connection is noticed all the same.
    with running("publish", "s", stdin=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        eventually(lambda: everything(run, "s").endswith(b"\na\n"))
        killable.kill()
        status, errors = ended(process)
    assert status == 6
    assert errors.startswith("error: ")


def test_a_stream_that_is_deleted_meanwhile(env: dict[str, str], run: Run, stream: str) -> None:
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        running("publish", stream, "--rate", "1000/s", stdin=source.stdout, env=env) as process,
    ):
        eventually(lambda: everything(run, stream, "--count", "1"))
        assert run("stream", "delete", stream, "--yes").returncode == 0
        status, errors = ended(process)
        source.kill()
    assert status in (4, 7)
    assert "\nerror: " in "\n" + errors  # after a warning, where it takes the broker half a second


def test_a_second_signal_ends_at_once_and_counts_the_lost(unconfirming: Unconfirming) -> None:
    env = unconfirming.env
    patient = ("--drain-timeout", "60s", "--confirm-timeout", "60s")
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        running("publish", "s", "--stats", "json", *patient, stdin=source.stdout, env=env) as process,
    ):
        told(process, lambda line: line["confirmed"] > 0)
        unconfirming.stop()
        told(process, lambda line: line["event"] == "unconfirmed")
        interrupt(process)
        time.sleep(1.0)
        assert process.poll() is None  # it drains
        interrupt(process)
        started = time.monotonic()
        status, errors = ended(process, timeout=60)
        assert time.monotonic() - started < 40  # less than the drain timeout
        source.kill()
    assert status == 7
    found = summary_of(errors)
    assert found["failed"] > 0


def test_drain_timeout(unconfirming: Unconfirming) -> None:
    env = unconfirming.env
    impatient = ("--drain-timeout", "1s", "--confirm-timeout", "60s")
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        running("publish", "s", "--stats", "json", *impatient, stdin=source.stdout, env=env) as process,
    ):
        told(process, lambda line: line["confirmed"] > 0)
        unconfirming.stop()
        told(process, lambda line: line["event"] == "unconfirmed")
        started = time.monotonic()
        interrupt(process)
        status, errors = ended(process, timeout=60)
        assert 0.8 < time.monotonic() - started < 40
        source.kill()
    assert status == 7
    assert "not confirmed" in summary_of(errors)["error"]


# --- statistics --------------------------------------------------------------------------------------------


def statistics(env: dict[str, str], stream: str, mode: str) -> list[str]:
    """The lines of a run that lasts until there are two."""
    words = ("--stats", mode, "--stats-interval", "100ms", "--rate", "100/s")
    with running("publish", stream, *words, stdin=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"x\n" * 50)
        process.stdin.flush()
        begin = [process.stderr.readline().decode() for _ in range(2)]
        process.stdin.close()
        code, errors = ended(process)
    assert code == 0
    return "".join([*begin, errors]).splitlines()


def test_statistics_as_lines(env: dict[str, str], stream: str) -> None:
    *lines, summary = statistics(env, stream, "line")
    assert len(lines) >= 2
    assert all("published " in line and "confirmed " in line for line in lines)
    assert summary.startswith(f"published 50 messages (50 B) to {stream} in ")
    assert summary.endswith("; end of input")


def test_statistics_as_json(env: dict[str, str], stream: str) -> None:
    *events, last = map(json.loads, statistics(env, stream, "json"))
    assert {event["event"] for event in events} == {"progress"}
    assert last["event"] == "summary"
    assert (last["reason"], last["exit_code"], last["error"]) == ("end of input", 0, None)


def test_json_statistics_end_in_a_summary_even_without_a_connection(closed_port: int) -> None:
    uri = f"rabbitmq-stream://127.0.0.1:{closed_port}"
    done = run_rstream("publish", "s", "-m", "a", "-u", uri, "--stats", "json")
    found = summary_of(done.stderr)
    assert found["exit_code"] == done.returncode == 6
    assert found["error"]


def test_nothing_is_said_where_nobody_asked(run: Run, stream: str) -> None:
    done = run("publish", stream, stdin=b"a\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
