"""``rstream stream`` and ``rstream offset`` on each kind of broker: what they print, and how they end."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.cli.conftest import RSTREAM, Run, environment, run_here, run_rstream


def _ended(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str, str]:
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# --- streams -----------------------------------------------------------------------------------------------


def test_create_says_nothing_and_the_broker_has_every_argument(rabbitmq: Broker, stream_name: str) -> None:
    """The embedded broker has no ctl that lists them; tests/unit/test_embedded_broker.py holds what each does there."""
    env = {"RSTREAM_URI": rabbitmq.uri}
    done = run_rstream(
        *("stream", "create", stream_name, "--max-age", "7d", "--max-length-bytes", "20GB"),
        *("--max-segment-size", "500kB", "--initial-cluster-size", "1", "--leader-locator", "balanced"),
        *("--filter-size", "32"),
        env=env,
    )
    try:
        assert _ended(done) == (0, "", "")
        listed = rabbitmq.ctl("--quiet", "list_queues", "name", "arguments")
        arguments = next(line for line in listed.splitlines() if stream_name in line)
        for part in (
            '"x-max-age","7D"',
            '"x-max-length-bytes",20000000000',
            '"x-stream-max-segment-size-bytes",500000',
            '"x-initial-cluster-size",1',
            '"x-queue-leader-locator","balanced"',
            '"x-stream-filter-size-bytes",32',
        ):
            assert part in arguments.replace(" ", ""), arguments
    finally:
        run_rstream("stream", "delete", stream_name, "--yes", "--missing-ok", env=env)


def test_creating_twice(run: Run, stream: str) -> None:
    done = run("stream", "create", stream)
    assert done.returncode == 9
    assert done.stderr.decode() == (
        f"error: stream '{stream}': the stream exists already\nhint: pass --exists-ok if it may exist\n"
    )
    assert _ended(run("stream", "create", stream, "--exists-ok")) == (0, "", "")
    done = run("stream", "create", stream, "--exists-ok", "--max-age", "1h")
    assert done.returncode == 9
    assert b"hint: it exists with other arguments" in done.stderr


def test_an_argument_that_no_broker_knows_is_warned_of(run: Run, stream_name: str) -> None:
    done = run("stream", "create", stream_name, "--argument", "no-such=1", "--argument", "x-max-age=1h")
    assert _ended(done) == (0, "", "warning: brokers ignore arguments that they do not know: no-such\n")
    assert run("stream", "create", stream_name, "--max-age", "1h", "--exists-ok").returncode == 0
    run("stream", "delete", stream_name, "--yes")


def test_info_of_an_empty_stream(run: Run, broker: Broker, stream: str) -> None:
    done = run("stream", "info", env={"RSTREAM_STREAM": stream})
    assert done.returncode == 0
    rows = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert rows["stream"] == stream
    assert [rows[name] for name in ("messages", "first", "last", "replicas")] == ["0", "-", "-", "-"]
    assert {line.index(line.split("  ")[-1].strip()) for line in done.stdout.decode().splitlines()} == {12}

    facts = json.loads(run("stream", "info", stream, "--json").stdout)
    assert facts["stream"] == stream
    assert facts["leader"].endswith(f":{broker.port}")
    assert facts["last_offset"] is None


def test_info_counts_what_is_there(run: Run, stream: str) -> None:
    assert run("publish", stream, stdin=b"a\nb\nc\n").returncode == 0
    facts = json.loads(run("stream", "info", stream, "--json").stdout)
    assert (facts["first_offset"], facts["last_offset"], facts["messages"]) == (0, 2, 3)


@pytest.mark.parametrize(
    "command",
    [
        ("stream", "create"),
        ("publish", "--create", "-m", "x", "--"),
        ("superstream", "create", "--partitions", "1", "--"),
    ],
)
@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "end\n"])
def test_a_name_of_two_lines_is_none(run: Run, command: tuple[str, ...], name: str) -> None:
    """Brokers leave the line break out: one of another name would be made, and nothing said."""
    done = run(*command, name)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "error: the stream name has a line break\nhint: brokers remove line breaks from names\n"
    )


def test_what_does_not_exist_is_4(run: Run, stream_name: str) -> None:
    for arguments in (
        ("stream", "info", stream_name),
        ("stream", "delete", stream_name, "--yes"),
        ("offset", "query", stream_name, "--name", "r"),
        ("offset", "store", stream_name, "1", "--name", "r"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (4, b""), arguments
        assert done.stderr.decode().startswith(f"error: stream '{stream_name}': the stream does not exist\n")


def test_delete_does_what_it_can(run: Run, stream: str) -> None:
    other, missing = stream + "-b", stream + "-missing"
    run("stream", "create", other)
    done = run("stream", "delete", missing, stream, other, other, "--yes")
    assert done.returncode == 4
    hint = "check the name and the virtual host; --missing-ok accepts a name that does not exist"
    assert done.stderr.decode() == f"error: stream '{missing}': the stream does not exist\nhint: {hint}\n"
    assert run("stream", "info", stream).returncode == 4
    assert run("stream", "info", other).returncode == 4
    assert _ended(run("stream", "delete", missing, stream, "--yes", "--missing-ok")) == (0, "", "")


@pytest.mark.parametrize(
    ("answer", "status", "is_there"),
    [
        (b"y\n", 0, False),
        (b"YES\n", 0, False),
        (b"n\n", 0, True),
        (b"\n", 0, True),
        (b"\x04", 0, True),
        (b"\x03", 130, True),
    ],
    ids=["y", "yes", "n", "enter", "ctrl-d", "ctrl-c"],
)
def test_delete_asks_on_a_terminal(
    run: Run, broker: Broker, stream: str, answer: bytes, status: int, is_there: bool
) -> None:
    env = environment({"RSTREAM_URI": broker.uri, "TERM": "dumb"})
    got, shown = _on_a_terminal(["stream", "delete", stream], b"[y/N] ", answer, env)
    assert f"Delete '{stream}' with all messages? [y/N]" in shown
    assert got == status, shown
    assert ("nothing was deleted" in shown) is (is_there and status == 0)
    assert (run("stream", "info", stream).returncode == 0) is is_there
    assert "Traceback" not in shown


def _on_a_terminal(arguments: list[str], prompt: bytes, answer: bytes, env: dict[str, str]) -> tuple[int, str]:
    """Runs ``rstream`` on a terminal of its own and answers its question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(RSTREAM, [str(RSTREAM), *arguments], env)
    shown, answered, deadline = b"", False, time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:  # Linux: the other side is gone
                break
            if not data:
                break
            shown += data
        if prompt in shown and not answered:
            os.write(terminal, answer)
            answered = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


# --- offsets -----------------------------------------------------------------------------------------------


def test_an_offset_is_stored_and_found(run: Run, stream: str) -> None:
    assert run("publish", stream, stdin=b"x\n" * 42).returncode == 0
    assert _ended(run("offset", "store", stream, "41", "--name", "é" * 127)) == (0, "", "")
    assert _ended(run("offset", "query", stream, "--name", "é" * 127)) == (0, "41\n", "")
    assert _ended(run("offset", "store", "0", "--name", "r", env={"RSTREAM_STREAM": stream})) == (0, "", "")
    done = run("offset", "query", "--name", "r", "--json", env={"RSTREAM_STREAM": stream})
    assert json.loads(done.stdout) == {"stream": stream, "name": "r", "offset": 0}


def test_no_offset_is_4(run: Run, stream: str) -> None:
    done = run("offset", "query", stream, "--name", "nobody")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"no offset is stored under this name" in done.stderr


def test_a_place_is_resolved(run: Run, stream: str) -> None:
    assert run("publish", stream, "-m", "a", "-m", "b", "-m", "c").returncode == 0
    assert run("offset", "store", stream, "1", "--name", "me").returncode == 0
    for spec, offset in (("first", 0), ("next", 3), ("-2", 1), ("1", 1), ("-1h", 0)):
        # The broker's own record of the stored offset takes an offset as well.
        code, out, errors = _ended(run("offset", "resolve", stream, "--", spec))
        assert (code, errors) == (0, "")
        assert int(out) == offset + (spec == "next")
    done = run("offset", "resolve", "stored", "--name", "me", "--json", env={"RSTREAM_STREAM": stream})
    assert json.loads(done.stdout) == {"stream": stream, "spec": "stored", "offset": 2}
    for arguments, code, words in (
        ((stream, "stored"), 2, b"needs --name"),
        ((stream, "yesterday"), 2, b"not an offset"),
        (("missing", "first"), 4, b"stream 'missing'"),
    ):
        done = run("offset", "resolve", *arguments)
        assert done.returncode == code
        assert words in done.stderr


# --- who and where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verbosity", [(), ("-v",), ("-vv",)], ids=["plain", "v", "vv"])
def test_a_wrong_password_is_5_and_is_never_shown(broker: Broker, verbosity: tuple[str, ...]) -> None:
    secret = "s3cret-Pa55"
    done = run_here("stream", "info", "s", "-u", broker.uri.replace(":guest@", f":{secret}@"), *verbosity)
    assert done.status == 5
    assert "error: " in done.errors
    assert secret not in done.errors + done.output
    assert ("Traceback" in done.errors) is (verbosity == ("-vv",))


def test_an_unknown_vhost_is_5(broker: Broker) -> None:
    done = run_rstream(
        *("stream", "info", "s", "--host", broker.host, "--port", str(broker.port), "--vhost", "no-such")
    )
    assert done.returncode == 5
    assert b"virtual host" in done.stderr


def test_every_way_to_give_the_password(broker: Broker, stream: str, tmp_path: Path) -> None:
    address = {"RSTREAM_HOST": broker.host, "RSTREAM_PORT": str(broker.port)}
    file = tmp_path / "password"
    file.write_text(broker.password + "\r\nanother line\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    for arguments, env, status in (
        (("--password-file", str(file)), {}, 0),
        ((), {"RSTREAM_PASSWORD": broker.password}, 0),
        ((), {"RSTREAM_PASSWORD_FILE": str(file)}, 0),
        ((), {"RSTREAM_PASSWORD_FILE": str(wrong)}, 5),
        (("--password-file", str(file)), {"RSTREAM_PASSWORD": "wrong"}, 0),
    ):
        who = {**address, "RSTREAM_USERNAME": broker.username, **env}
        done = run_rstream("stream", "info", stream, *arguments, env=who)
        assert done.returncode == status, (arguments, env)


# --- no broker at all --------------------------------------------------------------------------------------


def test_a_refused_connection_is_6(closed_port: int) -> None:
    done = run_rstream("stream", "info", "s", "--host", "127.0.0.1", "--port", str(closed_port))
    assert _ended(done)[:2] == (6, "")
    assert done.stderr.decode().startswith(f"error: 127.0.0.1:{closed_port} refuses the connection\n")
    assert b"docker" not in done.stderr


def test_a_name_that_does_not_resolve_is_6() -> None:
    done = run_rstream("stream", "info", "s", "--host", "no-such-host.invalid")
    assert done.returncode == 6
    assert b"'no-such-host.invalid' does not resolve" in done.stderr


def test_nobody_at_the_default_address_names_a_way_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from rstream_cli.environment import Environment
    from rstream_cli.options.connecting import ConnectionSettings
    from rstream_cli.runner import start_hint
    from rstream_core import ConnectionFailed

    env = Environment.of_process()
    refused = ConnectionFailed("localhost:5552 refuses the connection")
    for name in [name for name in os.environ if name.startswith("RSTREAM_")]:
        monkeypatch.delenv(name)
    hint = start_hint(refused, ConnectionSettings(env)) or ""
    assert "rstream broker run" in hint
    assert "docker run" in hint
    assert start_hint(refused, ConnectionSettings(env, {"port": "5552"})) is None
    assert start_hint(ConnectionFailed("no answer"), ConnectionSettings(env)) is None
