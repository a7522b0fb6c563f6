"""How the process ends: closed pipes, full disks, signals, usage errors; and what it imports to get there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from rstream_core.protocol.commands import Key
from tests.brokers import IS_MEASURED
from tests.cli.conftest import RSTREAM, Run, as_lines, environment, run_rstream
from tests.cli.process import ended, interrupt, running, summary_of, told


def _with_closed_stdout(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [str(RSTREAM), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), ("stream", "create", "--help"), ("completion", "zsh"), ("-V", "x")],
    ids=" ".join,
)
def test_a_closed_stdout_ends_quietly_in_141(arguments: tuple[str, ...]) -> None:
    done = _with_closed_stdout(*arguments)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), ("stream", "create", "--help"), ("completion", "zsh"), ("broker", "run", "--port=0")],
    ids=" ".join,
)
def test_a_full_disk_is_told(arguments: tuple[str, ...], unbuffered: str) -> None:
    """Once, whether it is found when something is written or when the rest of it is."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [str(RSTREAM), *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment({"PYTHONUNBUFFERED": unbuffered}),
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"error: cannot write to stdout: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_each_command_that_answers() -> None:
    """And what ``consume`` could not write is not stored as read."""
    full_disk = "error: cannot write to stdout: No space left on device\n"
    with EmbeddedBroker() as broker, open("/dev/full", "wb") as full:
        env = {"RSTREAM_URI": broker.uri}

        def told(*arguments: str) -> tuple[int, bytes]:
            done = subprocess.run(
                [str(RSTREAM), *arguments], stdout=full, stderr=subprocess.PIPE, env=environment(env), check=False
            )
            return done.returncode, done.stderr

        assert run_rstream("superstream", "create", "super", "--partitions", "1", env=env).returncode == 0
        assert run_rstream("publish", "super-0", "-m", "x", env=env).returncode == 0
        assert run_rstream("offset", "store", "super-0", "0", "--name", "r", env=env).returncode == 0
        for arguments in (
            ("stream", "info", "super-0"),
            ("stream", "info", "super-0", "--json"),
            ("superstream", "info", "super"),
            ("superstream", "route", "super", "0"),
            ("superstream", "route", "super", "0", "--json"),
            ("offset", "query", "super-0", "--name", "r"),
            ("offset", "resolve", "super-0", "first"),
            ("doctor",),
            ("consume", "super-0", "-o", "first", "-n", "1", "--name", "reader"),
            ("superstream", "consume", "super", "-o", "first", "-n", "1", "--name", "reader"),
            ("sac-consume", "-q", "super", "-o", "first", "-n", "1", "--name", "reader"),
        ):
            status, errors = told(*arguments)
            assert (status, as_lines(errors)) == (1, full_disk), arguments
        assert run_rstream("offset", "query", "super-0", "--name", "reader", env=env).returncode == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("mode", ["line", "json"])
def test_a_full_disk_under_the_statistics_holds_nothing_up(mode: str) -> None:
    with EmbeddedBroker() as broker, open("/dev/full", "wb") as full:
        env = {"RSTREAM_URI": broker.uri}
        for arguments, status in (
            (("publish", "s", "--create", "-m", "x", "--stats", mode), 0),
            (("consume", "s", "-o", "first", "--until", "end", "--stats", mode), 0),
            (("consume", "nowhere", "--stats", mode), 4),
        ):
            done = subprocess.run(
                [str(RSTREAM), *arguments], stdout=subprocess.PIPE, stderr=full, env=environment(env), check=False
            )
            assert done.returncode == status
            assert done.stdout == (b"x\n" if "--until" in arguments else b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("count", [1, 1000], ids=["fits the buffer", "does not"])
def test_a_full_disk_under_failed_to_is_told(count: int) -> None:
    lines = b"".join(b"%d\n" % number for number in range(count))
    with EmbeddedBroker() as broker:
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        broker.faults.answer(Key.PUBLISH, 15)
        done = run_rstream("publish", "s", "--failed-to", "/dev/full", stdin=lines, env=env)
    assert done.returncode == 7
    (error,) = done.stderr.decode().splitlines()
    assert error == (
        f"error: {count:,} of {count:,} messages are not confirmed: the broker reports an internal error;"
        " --failed-to does not hold all of them: /dev/full: No space left on device"
    )


def test_closed_standard_streams_are_no_place_for_a_socket(env: dict[str, str], stream_name: str) -> None:
    command = f"exec {RSTREAM} publish {stream_name} --create -m x <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], env=environment(env), check=False)
    assert done.returncode == 0  # it reads nothing, and has nothing to say


# --- usage errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("strem",), "error: no such command: 'strem'\nhint: did you mean `rstream stream`?\n"),
        (("stream", "crate"), "error: no such command: 'crate'\nhint: did you mean `rstream stream create`?\n"),
        (("zzzzz",), "error: no such command: 'zzzzz'\nhint: `rstream --help` lists them\n"),
        (("--verson",), "error: no such option: --verson\nhint: did you mean --version?\n"),
        (
            ("stream", "create", "s", "--max-agee", "7d"),
            "error: no such option: --max-agee\nhint: did you mean --max-age?\n",
        ),
        (
            ("stream", "create", "-512"),
            "error: no such option: -5\nhint: to pass -512 as a value, write `--` before it:"
            " `rstream stream create -- -512`\n",
        ),
        (("stream", "create"), "error: missing argument 'NAME'\nhint: see `rstream stream create --help`\n"),
        (
            ("stream", "create", "a", "b"),
            "error: got unexpected extra argument(s) (b)\nhint: see `rstream stream create --help`\n",
        ),
        (
            ("offset", "query", "s"),
            "error: missing option '--name'\nhint: see `rstream offset query --help`\n",
        ),
        (("offset", "query", "--name"), "error: option '--name' requires an argument\n"),
        (("stream", "create", "s", "--filter-size", "15"), "error: --filter-size: out of range: 15;"),
        (("stream", "create", "s", "--filter-size", "256"), "error: --filter-size: out of range: 256;"),
        (("stream", "create", "s", "--filter-size", "x"), "error: --filter-size: not a whole number: 'x'\n"),
        (("stream", "create", "s", "--initial-cluster-size", "0"), "error: --initial-cluster-size: out of range"),
        (("stream", "create", "s", "--max-age", "7x"), "error: --max-age: unknown unit 'x'"),
        (("stream", "create", "s", "--max-age", "7"), "error: --max-age: an age without a unit: '7'; give 7D,"),
        (("stream", "create", "s", "--argument", "x-max-age=7"), "error: --argument max-age: an age without a unit"),
        (("superstream", "create", "s", "--partitions", "2", "--max-age", "7"), "error: --max-age: an age without a"),
        (("stream", "create", "s", "--max-length-bytes", "20"), "error: --max-length-bytes: a size without a unit"),
        (("stream", "create", "s", "--max-segment-size", "5"), "error: --max-segment-size: a size without a unit"),
        (("publish", "s", "--rate", "500"), "error: --rate: a rate without a period: '500'; give 500/s,"),
        (("publish", "s", "--linger", "20"), "error: --linger: a duration without a unit: '20'; give 20ms, 20s,"),
        (("publish", "s", "--stats-interval", "1"), "error: --stats-interval: a duration without a unit: '1'"),
        (("consume", "s", "--recover-for", "5"), "error: --recover-for: a duration without a unit: '5'"),
        (("consume", "s", "--heartbeat", "5"), "error: --heartbeat: a duration without a unit: '5'"),
        (("stream", "create", "s", "--max-length-bytes", "lots"), "error: --max-length-bytes: not a size"),
        (("stream", "create", "s", "--max-length-bytes", "0"), "error: --max-length-bytes: must be more than 0\n"),
        (("stream", "create", "s", "--leader-locator", "x"), "error: --leader-locator: not one of client-local,"),
        (("stream", "create", "s", "--argument", "x"), "error: --argument: not a pair: 'x'; give key=value\n"),
        (
            ("stream", "create", "s", "--argument", "a=1", "--argument", "x-a=2"),
            "error: --argument a is given twice\n",
        ),
        (
            ("stream", "create", "s", "--max-age", "1D", "--argument", "x-max-age=1D"),
            "error: --argument max-age and --max-age contradict each other\n",
        ),
        (("stream", "create", ""), "error: the stream name is empty\n"),
        (("stream", "info", "s", "a  b", "c"), "error: got unexpected extra argument(s) (a  b c)\nhint:"),
        (("stream", "info", "s", "a\n\n b  "), "error: got unexpected extra argument(s) (a\\x0a\\x0a b  )\nhint:"),
        (("stream", "ad  d"), "error: no such command: 'ad  d'\n"),
        (
            ("consume", "s", "--output", "a  b"),
            "error: --output: not one of lines, nul, len32, json, csv, raw, dump: 'a  b'\n",
        ),
        (("consume", "--no  such"), "error: no such option: --no  such\n"),
        (("completion",), "error: missing argument 'SHELL'"),
        (("stream", "create", "é" * 128), "error: the stream name has 256 bytes; 255 is the limit\n"),
        (("stream", "info"), "error: no stream is given\nhint: pass STREAM, or set RSTREAM_STREAM\n"),
        (("offset", "query", "s", "--name", "r" * 256), "error: the reference (--name) has 256 bytes;"),
        (("offset", "store", "s", "1.5", "--name", "r"), "error: not an offset: '1.5'\n"),
        (("offset", "store", "s", str(2**64), "--name", "r"), "error: not an offset: '18446744073709551616'\n"),
        (("offset", "store", "5", "--name", "r"), "error: no stream is given\n"),
        (("stream", "delete", "s"), "error: cannot ask whether to delete: there is no terminal\nhint: pass --yes "),
        (("stream", "info", "s", "--color", "blue"), "error: --color: not one of auto, always, never: 'blue'\n"),
        (("completion", "tcsh"), "error: SHELL: not one of bash, zsh, fish: 'tcsh'\n"),
    ],
)
def test_usage_errors_are_one_line_and_end_in_2(arguments: tuple[str, ...], expected: str) -> None:
    done = run_rstream(*arguments, env={"GITHUB_ACTIONS": "true"})
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().startswith(expected)
    lines = done.stderr.decode().splitlines()
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])


def test_no_arguments_show_the_help_on_stderr_and_end_in_2() -> None:
    for words in ((), ("stream",), ("offset",)):
        done = run_rstream(*words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"Usage: rstream")


# --- colours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "colored"),
    [
        ({}, False),
        ({"GITHUB_ACTIONS": "true"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"PY_COLORS": "1"}, False),
    ],
)
def test_the_colours_of_help_and_errors_follow_the_environment(env: dict[str, str], colored: bool) -> None:
    assert (b"\x1b[" in run_rstream("--help", env=env).stdout) is colored
    assert (b"\x1b[" in run_rstream("strem", env=env).stderr) is colored


# --- signals -----------------------------------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_a_command_that_has_nothing_to_drain(number: int, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = _start(str(RSTREAM), "stream", "info", "s", "--port", str(server.getsockname()[1]))
        server.settimeout(20)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            assert connection.recv(1)  # it has begun to log in: the handlers are installed
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (status, b"", b"")


# A graceful command: says `ready`, then does what its argument tells when it is interrupted.
_GRACEFUL = """
import asyncio, os, signal, sys
from rstream_cli import runner
from rstream_cli.environment import Environment
from rstream_cli.exit_status import ExitStatus
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.ended import Ended
from rstream_cli.runner import run_command

runner.SAME_STOP = float(sys.argv[2])

async def main(context):
    print("ready", flush=True)
    await context.interrupt.requested.wait()
    print("draining", flush=True)
    how = sys.argv[1]
    if how == "drains":
        return Ended("drained").status_after(context.interrupt.status)
    if how == "partly":
        return ExitStatus.NOT_CONFIRMED
    if how == "fails":
        raise ValueError("the drain failed")
    if how == "again":
        os.kill(os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(0.5 if how == "again" else 60)
    except asyncio.CancelledError:
        print("forced", context.interrupt.forced, flush=True)
        if how == "deaf":
            await asyncio.sleep(60)
        if how == "unconfirmed":
            return ExitStatus.NOT_CONFIRMED
        raise
    return Ended("drained").status_after(context.interrupt.status)

import typer
try:
    run_command(main, connection=ConnectionSettings(Environment.of_process()), graceful=True)
except typer.Exit as done:
    sys.exit(done.exit_code)
"""


@pytest.mark.parametrize(
    ("how", "signals", "status", "output"),
    [
        ("drains", [signal.SIGINT], 130, ["draining"]),
        ("drains", [signal.SIGTERM], 143, ["draining"]),
        ("partly", [signal.SIGINT], 7, ["draining"]),
        ("fails", [signal.SIGINT], 1, ["draining"]),
        ("stuck", [signal.SIGINT, signal.SIGINT], 130, ["draining", "forced True"]),
        ("stuck", [signal.SIGTERM, signal.SIGINT], 143, ["draining", "forced True"]),
        ("unconfirmed", [signal.SIGINT, signal.SIGINT], 7, ["draining", "forced True"]),
        ("deaf", [signal.SIGINT] * 3, 130, ["draining", "forced True"]),
        ("again", [signal.SIGTERM], 143, ["draining"]),
        ("again", [signal.SIGINT], 130, ["draining", "forced True"]),
    ],
)
def test_a_graceful_command_drains_first(how: str, signals: list[int], status: int, output: list[str]) -> None:
    same_stop = "60" if how == "again" else "0"  # seconds: a busy machine makes no difference
    process = _start(sys.executable, "-c", _GRACEFUL, how, same_stop)
    assert process.stdout is not None
    guard = threading.Timer(30, process.kill)
    guard.start()
    try:
        for number, line in zip(signals, ["ready", *output], strict=False):
            assert process.stdout.readline().decode().strip() == line
            process.send_signal(number)
        out, err = process.communicate()
    finally:
        guard.cancel()
    assert process.returncode == status
    assert out.decode().splitlines() == output[len(signals) - 1 :]
    assert b"Traceback" not in err


ONE_STOP = (sys.executable, "-c", "from rstream_cli import __main__, runner; runner.SAME_STOP = 60; __main__.main()")
"""``rstream`` that takes the same signal for the same stop for so long that a busy machine makes no difference."""


def test_a_stop_that_comes_twice_leaves_nothing_unconfirmed(env: dict[str, str], run: Run, stream: str) -> None:
    """As GNU timeout stops a command: it signals the process, and then its group."""
    with (
        subprocess.Popen(["yes", "y" * 100], stdout=subprocess.PIPE) as source,
        running("publish", stream, "--stats", "json", stdin=source.stdout, env=env, program=ONE_STOP) as process,
    ):
        told(process, lambda stats: stats.get("confirmed"))
        interrupt(process, signal.SIGTERM)
        time.sleep(0.01)  # else the two may arrive as one
        interrupt(process, signal.SIGTERM)
        status, errors = ended(process)
        source.kill()
    found = summary_of(errors)
    assert (status, found["reason"], found["failed"]) == (143, "SIGTERM", 0)
    assert found["read"] == found["confirmed"] > 0


# --- imports -----------------------------------------------------------------------------------------------


def _modules(*arguments: str, env: dict[str, str] | None = None) -> set[str]:
    """What ``rstream`` with these arguments has imported when it ends."""
    code = (
        "import sys\n"
        "from rstream_cli.__main__ import main\n"
        f"sys.argv = ['rstream', *{list(arguments)!r}]\n"
        "try:\n    main()\n"
        "finally:\n    sys.stderr.write('\\n' + '\\n'.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(env), capture_output=True, check=False)
    return set(done.stderr.decode().split())


def test_the_version_needs_neither_typer_nor_rich() -> None:
    modules = _modules("--version")
    assert "rstream_cli.environment" in modules
    assert not modules & {"typer", "rich", "pydantic", "uamqp", "rstream_cli.app"}
    assert not modules & {"typing", "dataclasses", "inspect", "pathlib", "asyncio"}


def test_a_tab_needs_neither_typer_nor_the_core() -> None:
    modules = _modules("publish", "s", "--met", env={"_RSTREAM_COMPLETE": "fish"})
    assert "rstream_cli.completion_table" in modules
    assert not modules & {
        "typer",
        "typing",
        "dataclasses",
        "rstream_core",
        "rstream_cli.app",
        "rstream_cli.stream_names",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("offset", "query", "s", "--name", "r", "--port", "1", "--host", "127.0.0.1"),
        ("stream", "create", "s", "--max-age", "1d", "--filter-size", "20", "--host", "127.0.0.1", "--port", "1"),
    ],
    ids=["query", "create"],
)
def test_a_command_imports_no_other_command_and_nothing_to_draw_with(arguments: tuple[str, ...]) -> None:
    modules = _modules(*arguments)
    assert "rstream_core.client" in modules
    assert not modules & {"rich", "pydantic", "uamqp", "rstream_cli.commands.publish", "rstream_cli.commands.consume"}


PUBLISHING = {"rstream_core.publishing.publisher", "rstream_core.flow.stream_sink"}
CONSUMING = {"rstream_core.flow.stream_source"}
SUBSCRIBING = {"rstream_core.consuming.subscription"}
DISPLAY = {"rstream_cli.render.display", "rstream_cli.render.stats"}
HTTP = {"urllib3", "encodings.idna"}
"""Modules that stand for all that publishes, consumes, subscribes, shows statistics, or asks the management API."""
OF_PROGRAMS = {
    *("rstream_core.producers.producer", "rstream_core.consumers.consumer", "rstream_core.flow.blocks"),
    *("rstream_core.broker", "cramjam"),
}
"""Those that no run of these commands needs."""


@pytest.mark.parametrize(
    ("words", "needed", "others"),
    [
        ("stream info {}", SUBSCRIBING, PUBLISHING | CONSUMING | DISPLAY),
        ("offset query {} --name r", set(), PUBLISHING | CONSUMING | SUBSCRIBING | DISPLAY | HTTP),
        ("publish {} -m x", PUBLISHING, CONSUMING | SUBSCRIBING | HTTP),
        ("consume {} -o first -n 1", CONSUMING | SUBSCRIBING, PUBLISHING | HTTP),
    ],
)
def test_a_command_imports_what_it_needs(
    words: str, needed: set[str], others: set[str], env: dict[str, str], stream_name: str
) -> None:
    """This is what holds the time of a start, which no test measures."""
    assert run_rstream("publish", stream_name, "--create", "-m", "x", "-m", "y", env=env).returncode == 0
    modules = _modules(*words.format(stream_name).split(), env={**env, "RSTREAM_MANAGEMENT_URI": "http://127.0.0.1:1"})
    assert needed <= modules
    assert modules & (others | OF_PROGRAMS | {"rich", "pydantic", "uamqp"}) == set()


def test_help_imports_nothing_of_the_core() -> None:
    modules = _modules("stream", "create", "--help")
    assert "rstream_cli.commands.stream" in modules
    assert not modules & {"rich", "pydantic", "rstream_core.client", "rstream_core.connecting.connection", "ssl"}


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("completion", "bash")])
def test_a_closed_stdout_is_an_error(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', str(RSTREAM), *words], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"error: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_nothing_counts_as_consumed_where_stdout_is_closed(env: dict[str, str], stream_name: str) -> None:
    assert run_rstream("publish", stream_name, "--create", "-m", "x", env=env).returncode == 0
    words = ("consume", stream_name, "--offset", "first", "--until", "end", "--name", "closed")
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', str(RSTREAM), *words],
        env=environment(env),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert run_rstream("offset", "query", stream_name, "--name", "closed", env=env).returncode == 4


def test_a_closed_stdin_is_an_error(env: dict[str, str], stream_name: str) -> None:
    words = ("publish", stream_name, "--create")
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" <&-', str(RSTREAM), *words],
        env=environment(env),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"standard input" in done.stderr


_SLOW_NAMES = """
import socket, sys, time
from rstream_cli.__main__ import main

def getaddrinfo(*_, **__):
    time.sleep(30)

socket.getaddrinfo = getaddrinfo
main()
"""


def test_a_name_server_that_does_not_answer_holds_nothing_up() -> None:
    begin = time.monotonic()
    words = ("stream", "info", "s", "--host", "somewhere.invalid", "--connect-timeout", "1s")
    process = _start(sys.executable, "-c", _SLOW_NAMES, *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (6, b"")
    assert err.startswith(b"error: no answer from somewhere.invalid:5552 within 1 s")
    assert time.monotonic() - begin < 15


IGNORING = "import os, signal, sys; signal.signal(signal.{}, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.skipif(IS_MEASURED, reason="coverage handles SIGTERM itself")
@pytest.mark.parametrize(
    ("ignored", "other", "status"), [(signal.SIGINT, signal.SIGTERM, 143), (signal.SIGTERM, signal.SIGINT, 130)]
)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    ignored: signal.Signals, other: signal.Signals, status: int
) -> None:
    """As SIGINT is in the background jobs of scripts."""
    program = (sys.executable, "-c", IGNORING.format(ignored.name), str(RSTREAM))
    with EmbeddedBroker() as broker:
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("publish", "s", "--create", "-m", "a", env=env).returncode == 0
        with running("consume", "s", "-o", "first", env=env, program=program) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"a\n"
            interrupt(process, ignored)
            assert run_rstream("publish", "s", "-m", "b", env=env).returncode == 0
            assert process.stdout.readline() == b"b\n"
            interrupt(process, other)
            assert ended(process)[0] == status


FORMS = {"end": "end", "N": "5", "-1h": "-1h", "2026-11-23T10:00Z": "2026-11-23T10:00Z", "@UNIX": "@1795428000"}
"""How help and errors name what ``--until`` may be, and an example."""


@pytest.mark.parametrize("command", [("consume",), ("superstream", "consume"), ("sac-consume",)], ids=" ".join)
def test_until_takes_what_its_help_and_its_error_offer_and_nothing_else(
    command: tuple[str, ...], closed_port: int
) -> None:
    name = ("--name", "g") if command == ("sac-consume",) else ()
    offered = run_rstream(*command, "--help").stdout.decode().partition("      --until ")[2].partition("  -n, ")[0]
    words = {word.strip(".,:") for word in offered.split()}
    where = ("--host", "127.0.0.1", "--port", str(closed_port))
    for form, text in FORMS.items():
        done = run_rstream(*command, "s", *name, *where, "--until", text)
        assert (done.returncode == 6) is (form in words), (form, offered)
        assert done.returncode in (2, 6)
    error = run_rstream(*command, "s", *name, *where, "--until", "never").stderr.decode()
    assert ("N (an offset)" in error) is (command == ("consume",))
    assert ("-1h" in error) is (command != ("sac-consume",))
