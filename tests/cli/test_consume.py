"""``rstream consume`` on each kind of broker: where it starts and stops, what it writes, stores and says."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.cli.conftest import RSTREAM, Run, as_lines, environment, run_rstream
from tests.cli.killable import Killable
from tests.cli.process import ended, eventually, interrupt, resident_bytes, running, summary_of, told


def fill(run: Run, stream: str, *numbers: int) -> None:
    lines = b"".join(b"%d\n" % number for number in numbers)
    assert run("publish", stream, stdin=lines).returncode == 0


@pytest.fixture
def ten(run: Run, stream: str) -> str:
    """A stream that holds 0 to 9, the last two in a chunk of their own."""
    fill(run, stream, 0, 1, 2, 3)
    fill(run, stream, 4, 5, 6, 7)
    # A sub-entry is in one chunk for certain; a busy broker may put messages of one frame into two.
    assert run("publish", stream, "--method", "sub-entry", stdin=lines(8, 9)).returncode == 0
    return stream


def lines(*numbers: int) -> bytes:
    return b"".join(b"%d\n" % number for number in numbers)


def consume(run: Run, *arguments: str, code: int = 0) -> bytes:
    done = run("consume", *arguments)
    assert (done.returncode, done.stderr) == (code, b"")
    return done.stdout


def stored(run: Run, stream: str, name: str) -> int | None:
    done = run("offset", "query", stream, "--name", name, "--json")
    return None if done.returncode == 4 else int(json.loads(done.stdout)["offset"])


# --- where it starts and stops -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("-o", "first", "--until", "end"), range(10)),
        (("-o", "first", "-n", "6"), range(6)),
        (("-o", "first", "-n", "0"), ()),
        (("-o", "5", "--until", "end"), range(5, 10)),
        (("-o", "5", "--until", "8"), range(5, 9)),
        (("-o", "5", "--until", "5"), (5,)),
        (("-o", "5", "-n", "2", "--until", "end"), (5, 6)),
        (("-o", "10", "--until", "end"), ()),
        (("-o", "last", "--until", "end"), (8, 9)),
        (("-o", "next", "--until", "end"), ()),
        (("--until", "end"), ()),
        (("-o", "-3", "--until", "end"), (7, 8, 9)),
        (("-o", "-9", "--until", "end"), range(1, 10)),
        (("-o", "-10", "--until", "end"), range(10)),
        (("-o", "-99", "--until", "end"), range(10)),
        (("-o", "-1h", "--until", "end"), range(10)),
        (("-o", "@1", "--until", "end"), range(10)),
        (("-o", "-1h", "--until", "-1s"), None),
        (("-o", "first", "--idle-timeout", "5s"), range(10)),
        (("-o", "next", "--idle-timeout", "200ms"), ()),
        (("-o", "first", "-n", "10", "--credit", "1"), range(10)),
        (("-o", "first", "-n", "7", "--unbuffered"), range(7)),
    ],
    ids=str,
)
def test_where_it_starts_and_stops(run: Run, ten: str, options: tuple[str, ...], numbers: range | None) -> None:
    if numbers is None:
        time.sleep(1.1)
        numbers = range(10)
    assert consume(run, ten, *options) == lines(*numbers)


@pytest.mark.parametrize("start", ["first", "last", "next", "0", "-5", "-1h", "stored"])
def test_until_the_end_of_an_empty_stream(run: Run, stream: str, start: str) -> None:
    begin = time.monotonic()
    name = ("--name", "me") if start == "stored" else ()
    assert consume(run, stream, "-o", start, "--until", "end", *name) == b""
    assert time.monotonic() - begin < 15


def test_an_offset_beyond_the_end_is_told(run: Run, ten: str) -> None:
    read = ("consume", ten, "--until", "end")
    words = f"offset 99 is beyond the end of stream '{ten}', whose next offset is 10"
    done = run(*read, "-o", "99")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", f"warning: {words}\n")
    done = run(*read, "-o", "11", "--stats", "json")
    event = json.loads(done.stderr.splitlines()[0])
    assert event == {"event": "beyond", "stream": ten, "offset": 11, "next": 10}
    assert (done.returncode, summary_of(done.stderr)["reason"]) == (0, "there is nothing to read")
    assert consume(run, ten, "-o", "10", "--until", "end") == b""  # the usual place to go on at
    done = run("consume", ten, "-o", "99", "--until", "5")
    told = "warning: no message lies between --offset 99 and --until 5: --until is before --offset\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", told)


@pytest.mark.parametrize(("start", "said"), [("0", False), ("1", True), ("7", True)])
def test_an_offset_beyond_the_end_of_an_empty_stream_is_told(run: Run, stream: str, start: str, said: bool) -> None:
    done = run("consume", stream, "--until", "end", "-o", start)
    words = f"warning: offset {start} is beyond the end of stream '{stream}', whose next offset is 0\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", words if said else "")


def test_a_stored_offset_beyond_the_end_is_told_when_it_is_stored_and_when_it_is_used(run: Run, ten: str) -> None:
    done = run("offset", "store", ten, "9", "--name", "r")
    assert (done.returncode, done.stderr) == (0, b"")
    assert consume(run, ten, "-o", "stored", "--name", "r", "--until", "end") == b""
    done = run("offset", "store", ten, "50", "--name", "r")
    assert done.returncode == 0
    told = re.fullmatch(
        rf"warning: offset 50 is beyond the end of stream '{ten}', whose next offset was (\d+): a consumer that starts"
        r" at the offset stored as 'r' skips all messages up to 50\n",
        done.stderr.decode(),
    )
    assert told is not None
    assert 10 <= int(told[1]) < 15  # what is stored takes an offset
    done = run("consume", ten, "-o", "stored", "--name", "r", "--until", "end")
    words = f"warning: offset 51, after the one stored as 'r', is beyond the end of stream '{ten}', whose next offset"
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().startswith(words)


@pytest.mark.parametrize(("start", "said"), [("next", False), ("99", True), ("10", False)])
def test_a_group_that_begins_behind_the_end_is_done(run: Run, ten: str, start: str, said: bool) -> None:
    done = run("sac-consume", ten, "--name", "g", "-o", start, "--until", "end")
    assert (done.returncode, done.stdout) == (0, b"")
    assert ("is beyond the end of stream" in done.stderr.decode()) is said


def test_until_the_end_where_the_broker_wrote_behind_the_last_message(run: Run, ten: str) -> None:
    """A stored offset is a chunk of its own, which is never delivered."""
    for offset in range(3):
        assert run("offset", "store", ten, str(offset), "--name", f"n{offset}").returncode == 0
    eventually(lambda: stored(run, ten, "n2") == 2)
    assert consume(run, ten, "-o", "first", "--until", "end") == lines(*range(10))
    assert consume(run, ten, "-o", "-3", "--until", "end") == lines(7, 8, 9)
    fill(run, ten, 10)
    assert consume(run, ten, "-o", "-3", "--until", "end") == lines(8, 9, 10)
    assert consume(run, ten, "-o", "first", "--until", "end") == lines(*range(11))


def test_times_are_exact(run: Run, stream: str) -> None:
    times = []
    for number in range(4):
        fill(run, stream, number)
        time.sleep(0.03)
        times.append(datetime.now(UTC).isoformat())
        time.sleep(0.03)
    for number, moment in enumerate(times):
        before, after = range(number + 1), range(number + 1, 4)
        assert consume(run, stream, "-o", moment, "--until", "end") == lines(*after)
        assert consume(run, stream, "-o", "first", "--until", moment) == lines(*before)


@pytest.mark.parametrize("start", ["first", "next", "3"])
def test_until_a_time_that_comes(env: dict[str, str], run: Run, stream: str, start: str) -> None:
    """Without a name, too, a run that waits takes no processor time: it has nothing to store every five seconds."""
    fill(run, stream, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    until = datetime.fromtimestamp(time.time() + 12, UTC).isoformat()
    with running("consume", stream, "-o", start, "--until", until, "--stats", "json", env=env) as consumer:
        told(consumer, lambda line: line["event"] == "progress")
        fill(run, stream, 1)
        assert consumer.stdout is not None
        written = consumer.stdout.read()
        code, errors = ended(consumer)
    assert code == 0
    assert summary_of(errors)["reason"] == "--until is reached"
    assert written == {"first": lines(0, 1), "next": lines(1), "3": b""}[start]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_until_an_offset_that_comes(env: dict[str, str], run: Run, ten: str) -> None:
    with running("consume", ten, "-o", "9", "--until", "11", env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(2) == b"9\n"
        fill(run, ten, 10, 11, 12)
        assert consumer.stdout.read() == lines(10, 11)
        assert ended(consumer) == (0, "")


def test_next_is_what_comes(env: dict[str, str], run: Run, ten: str) -> None:
    with running("consume", ten, "-n", "1", "--stats", "json", env=env) as consumer:
        told(consumer, lambda line: line["event"] == "progress")
        fill(run, ten, 10)
        assert consumer.stdout is not None
        assert consumer.stdout.read() == b"10\n"
        assert ended(consumer)[0] == 0


def test_the_stream_may_come_from_the_environment(run: Run, ten: str) -> None:
    done = run("consume", "-o", "first", "-n", "1", env={"RSTREAM_STREAM": ten})
    assert (done.returncode, done.stdout) == (0, b"0\n")


# --- what it writes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (("--output", "lines"), b"a\n\n\xff\0\n"),
        (("-0",), b"a\0\0\xff\0\0"),
        (("--output", "nul"), b"a\0\0\xff\0\0"),
        (("--output", "len32"), b"\0\0\0\1a\0\0\0\0\0\0\0\2\xff\0"),
        (("--output", "raw"), b"a\xff\0"),
        (("-d", "::"), b"a::::\xff\0::"),
        (("-d", "\\r\\n"), b"a\r\n\r\n\xff\0\r\n"),
        (("-f", "%o:%s:%S%%\\n"), b"0:a:1%\n1::0%\n2:\xff\0:2%\n"),
        (("-f", "%R%s"), b"\0\0\0\1a\0\0\0\0\0\0\0\2\xff\0"),
        (("-f", "%h%p\\0"), b"{}{}\0{}{}\0{}{}\0"),
    ],
)
@pytest.mark.parametrize("unbuffered", [(), ("--unbuffered",)])
def test_output(run: Run, stream: str, options: tuple[str, ...], written: bytes, unbuffered: tuple[str, ...]) -> None:
    assert run("publish", stream, "-0", stdin=b"a\0\0").returncode == 0
    assert run("publish", stream, "--whole", stdin=b"\xff\0").returncode == 0
    done = run("consume", stream, "-o", "first", "--until", "end", *options, *unbuffered)
    assert (done.returncode, done.stdout) == (0, written)
    looks_like_two = options in (("-0",), ("--output", "nul"))  # the last message contains the delimiter
    assert (b"contains the delimiter" in done.stderr, done.stderr.count(b"\n")) == (looks_like_two, looks_like_two)


def test_json(run: Run, stream: str) -> None:
    before = time.time()
    fill(run, stream, 5)
    assert run("publish", stream, "--whole", "-H", "k=v", stdin=b"\xff").returncode == 0
    first, second = map(json.loads, consume(run, stream, "-o", "first", "--until", "end", "--json").splitlines())
    when = datetime.fromisoformat(first.pop("timestamp")).timestamp()
    assert before - 1 < when < time.time() + 1
    assert first == {"stream": stream, "offset": 0, "properties": {}, "headers": {}, "annotations": {}, "body": "5"}
    assert (second["offset"], second["body_base64"], second["headers"]) == (1, "/w==", {"k": "v"})


def test_bodies_that_are_no_data(run: Run, stream: str) -> None:
    given = b"""
        {"value":"text"}
        {"value":{"$binary":"/w=="}}
        {"value":5}
        {"value":null}
        {"sequence":[1,"two"]}
        {"body":null}
        {"body":"data"}
    """
    assert run("publish", stream, "--json", stdin=given).returncode == 0
    written = consume(run, stream, "-o", "first", "--until", "end")
    assert written == b'text\n\xff\n5\nnull\n[1,"two"]\n\ndata\n'


def test_raw_records(run: Run, stream: str) -> None:
    fill(run, stream, 0, 1)
    assert run("publish", stream, "--codec", "raw", stdin=b"\x01not AMQP\n").returncode == 0
    for options, good in (((), lines(0, 1)), (("--json",), None), (("-f", "%s\\n"), lines(0, 1))):
        done = run("consume", stream, "-o", "first", "--until", "end", *options)
        assert done.returncode == 8
        errors = as_lines(done.stderr)
        assert errors.startswith(f"error: the message at offset 2 of stream '{stream}' is not AMQP 1.0: ")
        assert "\nhint: --codec raw " in errors
        assert done.stdout.count(b"\n") == 2
        assert good is None or done.stdout == good
    assert consume(run, stream, "-o", "2", "--until", "end", "--codec", "raw") == b"\x01not AMQP\n"
    shown = json.loads(consume(run, stream, "-o", "2", "--until", "end", "--codec", "raw", "--json"))
    assert shown["body"] == "\x01not AMQP"


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_count_ends_inside_a_sub_entry(run: Run, stream: str, compression: str) -> None:
    assert run("publish", stream, "--compression", compression, stdin=lines(*range(1000))).returncode == 0
    assert consume(run, stream, "-o", "17", "-n", "5") == lines(*range(17, 22))


# --- offsets -----------------------------------------------------------------------------------------------


def test_stored_offsets(run: Run, ten: str) -> None:
    me = ("--name", "me", "-o", "stored")
    assert consume(run, ten, *me, "-n", "3") == lines(0, 1, 2)  # none stored: from the first
    assert stored(run, ten, "me") == 2
    assert consume(run, ten, *me, "-n", "3", "--store-every", "1") == lines(3, 4, 5)
    assert stored(run, ten, "me") == 5
    assert consume(run, ten, *me, "--until", "end") == lines(6, 7, 8, 9)
    assert stored(run, ten, "me") == 9
    assert consume(run, ten, *me, "--until", "end") == b""
    assert stored(run, ten, "me") == 9
    assert consume(run, ten, "--name", "me", "-o", "first", "-n", "1") == lines(0)
    assert stored(run, ten, "me") == 0


@pytest.mark.parametrize("every", ["2", "100ms"])
def test_offsets_are_stored_meanwhile(env: dict[str, str], run: Run, ten: str, every: str) -> None:
    with running("consume", ten, "-o", "first", "--name", "me", "--store-every", every, env=env) as consumer:
        eventually(lambda: stored(run, ten, "me") == 9)
        fill(run, ten, 10, 11)
        # Offset 10 may be the broker's own: a stored offset takes one.
        eventually(lambda: (stored(run, ten, "me") or 0) >= 11)
        interrupt(consumer, signal.SIGTERM)
        assert ended(consumer)[0] == 143


def test_what_was_not_written_out_is_not_stored(env: dict[str, str], run: Run, stream: str) -> None:
    """Each message fills the pipe; nobody reads it."""
    for _ in range(5):
        assert run("publish", stream, "--whole", stdin=b"x" * 200_000).returncode == 0
    reader, writer = os.pipe()
    options = ("-o", "first", "--name", "me", "--store-every", "1")
    with running("consume", stream, *options, stdout=writer, env=env) as consumer:
        os.close(writer)
        time.sleep(2.0)
        assert stored(run, stream, "me") is None
        got = 0
        while got < 300_000:  # and no more: the rest of the second message is not to fit into the pipe
            block = os.read(reader, min(65536, 300_000 - got))
            assert block, "it has ended"
            got += len(block)
        eventually(lambda: stored(run, stream, "me") == 0)
        interrupt(consumer)
        code, errors = ended(consumer)
        os.close(reader)
    assert code == 130
    assert errors.startswith("consumed 1 message (200 kB)")
    assert stored(run, stream, "me") == 0


# --- how it ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "soon"),
        ("-o", "-0"),
        ("-o", "99999999999999999999"),
        ("-o", "stored"),
        ("--until", "never"),
        ("--until", "-5"),
        ("--store-every", "5s"),
        ("--store-every", "0", "--name", "me"),
        ("--store-every", "often", "--name", "me"),
        ("--name", ""),
        ("--credit", "0"),
        ("-n", "-1"),
        ("-f", "%y"),
        ("-f", "%s", "--json"),
        ("-0", "--json"),
        ("-d", ""),
        ("-d", "x", "--output", "len32"),
        ("--timeout", "soon"),
        ("--idle-timeout", "0"),
        ("--codec", "utf-8"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_before_connecting(options: tuple[str, ...], closed_port: int) -> None:
    done = run_rstream("consume", "s", *options, "-u", f"rabbitmq-stream://127.0.0.1:{closed_port}")
    assert done.returncode == 2, done.stderr
    assert as_lines(done.stderr).startswith("error: ")
    assert done.stdout == b""


@pytest.mark.parametrize("options", [(), ("--until", "end"), ("-n", "0"), ("-o", "-5"), ("-o", "first")])
def test_a_stream_that_does_not_exist(run: Run, stream_name: str, options: tuple[str, ...]) -> None:
    done = run("consume", stream_name, *options)
    assert done.returncode == 4
    error, hint = done.stderr.decode().splitlines()
    assert error == f"error: stream '{stream_name}': the stream does not exist"
    assert hint.startswith("hint: check the name and the virtual host; ")


def test_access_and_connection(run: Run, broker: Broker, closed_port: int) -> None:
    wrong = f"rabbitmq-stream://guest:wrong@{broker.host}:{broker.port}"
    assert run("consume", "s", "-u", wrong).returncode == 5
    assert run("consume", "s", "-u", f"rabbitmq-stream://127.0.0.1:{closed_port}").returncode == 6


def test_timeout(run: Run, ten: str) -> None:
    begin = time.monotonic()
    done = run("consume", ten, "-o", "first", "--timeout", "6s", "--name", "me")
    assert 6 <= time.monotonic() - begin < 20
    assert (done.returncode, done.stdout) == (124, lines(*range(10)))
    assert stored(run, ten, "me") == 9
    assert done.stderr.decode().startswith("consumed 10 messages")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_good_order(
    env: dict[str, str], run: Run, ten: str, number: signal.Signals, code: int
) -> None:
    with running("consume", ten, "-o", "first", "--name", "me", "--stats", "json", env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(20) == lines(*range(10))
        interrupt(consumer, number)
        status, errors = ended(consumer)
    assert status == code
    found = summary_of(errors)
    assert (found["exit_code"], found["reason"]) == (code, number.name)
    assert (found["consumed"], found["last_offset"], found["stored_offset"]) == (10, 9, 9)
    assert stored(run, ten, "me") == 9


@pytest.mark.parametrize("options", [(), ("--json",), ("--unbuffered",), ("--name", "me")])
def test_a_reader_that_closes_stdout(
    env: dict[str, str], run: Run, stream: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    fill(run, stream, *range(100_000))
    code = tmp_path / "code"
    command = '{ "$0" consume "$@"; echo $? >"$CODE"; } | head -1'
    done = subprocess.run(
        ["sh", "-c", command, str(RSTREAM), stream, "-o", "first", *options],
        capture_output=True,
        env=environment({**env, "CODE": str(code)}),
        timeout=30,
        check=False,
    )
    assert (code.read_text(), done.stderr) == ("141\n", b"")
    assert done.stdout.count(b"\n") == 1


def test_a_reader_that_leaves_while_nothing_comes(env: dict[str, str], run: Run, ten: str) -> None:
    with running("consume", ten, "-o", "first", env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(20) == lines(*range(10))
        consumer.stdout.close()
        assert ended(consumer) == (141, "")


def test_a_full_disk(env: dict[str, str], ten: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full, running("consume", ten, "-o", "first", stdout=full, env=env) as consumer:
        code, errors = ended(consumer)
    assert (code, errors) == (1, "error: cannot write to stdout: No space left on device\n")


def test_a_connection_that_ends(killable: Killable) -> None:
    env = {"RSTREAM_URI": killable.uri, "RSTREAM_RECOVER_FOR": "0"}
    assert run_rstream("publish", "s", stdin=lines(0, 1), env=env).returncode == 0
    with running("consume", "s", "-o", "first", "--name", "me", env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(4) == lines(0, 1)
        killable.kill()
        code, errors = ended(consumer)
    assert code == 6
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_a_stream_that_is_deleted_meanwhile(env: dict[str, str], run: Run, ten: str) -> None:
    with running("consume", ten, "-o", "first", env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(20) == lines(*range(10))
        assert run("stream", "delete", ten, "--yes").returncode == 0
        code, errors = ended(consumer)
    assert code == 4, errors
    assert "\nerror: " in "\n" + errors  # after a warning, where it takes the broker half a second


# --- a reader that stalls ------------------------------------------------------------------------------------


def _stalled(env: dict[str, str], run: Run, stream: str, seconds: float, heartbeat: str) -> None:
    """Memory stays flat and the connection alive while nobody reads stdout; then all of it comes."""
    line = b"y" * 199 + b"\n"
    count = 200_000
    assert run("publish", stream, stdin=line * count, timeout=60).returncode == 0
    options = ("-o", "first", "--until", "end", "--heartbeat", heartbeat)
    with running("consume", stream, *options, env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(len(line)) == line
        time.sleep(4.0)  # so that what it reads ahead is there
        begin = resident_bytes(consumer)
        time.sleep(seconds)
        assert resident_bytes(consumer) - begin < 5_000_000
        assert begin < 120_000_000
        left = (count - 1) * len(line)
        while block := consumer.stdout.read(1 << 20):
            left -= len(block)
        assert ended(consumer) == (0, "")
    assert left == 0


def test_a_reader_that_stalls(env: dict[str, str], run: Run, stream: str) -> None:
    _stalled(env, run, stream, 10.0, "3s")


@pytest.mark.soak
def test_a_reader_that_stalls_for_a_minute(env: dict[str, str], run: Run, stream: str) -> None:
    _stalled(env, run, stream, 60.0, "5s")


@pytest.mark.parametrize(("options", "code"), [(("--timeout", "1s"), 124), ((), 130)])
def test_a_reader_that_stalls_does_not_hold_up_the_end(
    env: dict[str, str], run: Run, stream: str, options: tuple[str, ...], code: int
) -> None:
    assert run("publish", stream, stdin=b"y" * 100_000 + b"\n" * 10).returncode == 0
    with running("consume", stream, "-o", "first", *options, env=env) as consumer:
        assert consumer.stdout is not None
        consumer.stdout.read(1)
        time.sleep(1.0)
        begin = time.monotonic()
        if code == 130:
            interrupt(consumer)
        assert consumer.wait(10) == code
        assert time.monotonic() - begin < 15


# --- statistics --------------------------------------------------------------------------------------------


def test_statistics(run: Run, ten: str) -> None:
    done = run("consume", ten, "-o", "2", "--until", "end", "--stats", "line")
    assert done.stdout == lines(*range(2, 10))
    assert done.stderr.decode().startswith(f"consumed 8 messages (16 B) from {ten} in ")
    done = run("consume", ten, "-o", "2", "--until", "end", "--stats", "json")
    found = summary_of(done.stderr)
    assert (found["consumed"], found["bytes"], found["last_offset"], found["progress"]) == (8, 16, 9, 1.0)
    assert (found["exit_code"], found["reason"]) == (0, "--until is reached")


@pytest.mark.parametrize(
    ("options", "ambiguous"),
    [
        ((), 2),
        (("-0",), 1),
        (("-d", r"\n\n"), 1),
        (("-d", "e"), 1),
        (("-d", "-"), 0),
        (("--unbuffered",), 2),
        (("--count", "2"), 1),
        (("--json",), 0),
        (("--output", "len32"), 0),
        (("--output", "raw"), 0),
    ],
)
def test_bodies_that_hold_the_delimiter_are_counted(
    run: Run, stream: str, options: tuple[str, ...], ambiguous: int
) -> None:
    assert run("publish", stream, "-m", "a", "-m", "b\nc\nd", "-m", "", "-m", "e\n").returncode == 0
    assert run("publish", stream, "--whole", stdin=b"f\0g").returncode == 0
    read = ("consume", stream, "-o", "first", "--until", "end", *options)
    assert summary_of(run(*read, "--stats", "json").stderr)["ambiguous"] == ambiguous
    hold = "1 message holds" if ambiguous == 1 else f"{ambiguous} messages hold"
    words = f"; {hold} the delimiter (--json and --output len32 keep records apart); "
    told = run(*read, "--stats", "line").stderr.decode()
    assert (words in told) is (ambiguous > 0)
    assert ("delimiter" in told) is (ambiguous > 0)

    assert told.count("warning: ") == (ambiguous > 0)
    assert (f"warning: a message of stream '{stream}' contains the delimiter" in told) is (ambiguous > 0)
    events = [
        event
        for event in map(json.loads, run(*read, "--stats", "json").stderr.splitlines())
        if event["event"] == "ambiguous"
    ]
    assert events == [{"event": "ambiguous", "stream": stream}] * (ambiguous > 0)


@pytest.mark.parametrize(
    ("offset", "until", "is_told"),
    [
        ("5", "4", True),
        ("5", "5", False),
        ("500", "4", True),
        ("2026-11-23T10:00Z", "2026-11-23T09:59Z", True),
        ("@5", "@5", False),  # there is nothing either, but they are not in the wrong order
        ("next", "4", True),
        ("-2", "4", True),
        ("first", "2020-01-01T00:00Z", True),
        ("3", "2020-01-01T00:00Z", True),
        ("next", "end", False),
        ("first", "4", False),
        ("-7", "4", False),
    ],
)
def test_until_before_offset_is_told(run: Run, ten: str, offset: str, until: str, is_told: bool) -> None:
    read = ("consume", ten, "-o", offset, "--until", until)
    done = run(*read)
    assert done.returncode == 0
    words = f"no message lies between --offset {offset} and --until {until}: --until is before --offset"
    assert done.stderr.decode() == f"warning: {words}\n" * is_told
    assert not (is_told and done.stdout)
    events = [
        e
        for e in map(json.loads, run(*read, "--stats", "json").stderr.splitlines())
        if e["event"] == "until_before_offset"
    ]
    told = {"event": "until_before_offset", "stream": ten, "offset": offset, "until": until}
    assert events == [told] * is_told


def test_a_start_in_the_future_and_an_end_now_are_told(run: Run, ten: str) -> None:
    read = ("consume", ten, "-o", "2999-01-01", "--until", "end")
    done = run(*read)
    line = "warning: no message lies between --offset 2999-01-01 and --until end: --offset is in the future\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", line)
    event, _ = map(json.loads, run(*read, "--stats", "json").stderr.splitlines())
    assert event == {"event": "until_before_offset", "stream": ten, "offset": "2999-01-01", "until": "end"}
    past = run("consume", ten, "-o", "-0s", "--until", "end")
    assert (past.returncode, past.stderr) == (0, b"")


@pytest.mark.parametrize(
    "options", [("--count", "0"), ("--filter", "x"), ("--grep", "nothing has this")], ids=["count", "filter", "grep"]
)
def test_until_after_offset_is_not_told_where_other_options_leave_nothing(
    run: Run, ten: str, options: tuple[str, ...]
) -> None:
    done = run("consume", ten, "-o", "first", "--until", "4", *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_stored_offset_behind_until_is_no_mistake(run: Run, ten: str) -> None:
    read = ("consume", ten, "-o", "stored", "--name", "r", "--until", "4")
    assert run(*read).stdout == lines(*range(5))
    done = run(*read)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("body", [b"x\ny", b"x\ny" + bytes(5_000_000)], ids=["small", "large"])
def test_a_message_in_blocks_counts_as_one_that_holds_the_delimiter(run: Run, stream: str, body: bytes) -> None:
    given = ("publish", stream, "--whole", "--compression", "gzip")
    assert run(*given, stdin=body).returncode == 0
    assert run(*given, stdin=body.replace(b"\n", b"")).returncode == 0
    done = run("consume", stream, "-o", "first", "--until", "end", "--stats", "json")
    assert done.stdout == body + b"\n" + body.replace(b"\n", b"") + b"\n"
    assert summary_of(done.stderr)["ambiguous"] == 1
