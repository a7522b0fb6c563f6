"""``rstream broker run`` as a process: it listens, serves, ends, and survives being killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rstream_core import Client, ConfigurationError, EmbeddedBroker
from rstream_core.errors import RstreamError
from tests.brokers import Broker, broker_at
from tests.certificates import Authority
from tests.cli.conftest import RSTREAM, environment, run_rstream
from tests.cli.process import ended, interrupt, running
from tests.cli.terminal import Terminal, shell_on
from tests.clients import FIRST, PATIENCE, eventually, options_for

ROUNDS = int(os.environ.get("RSTREAM_KILL_ROUNDS", "6"))
"""How often a broker is killed; the whole proof is 50."""


@contextmanager
def broker_process(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], Broker]]:
    """A broker on a free port, and how to reach it."""
    with running("broker", "run", "--port", "0", *options, env={}) as process:
        assert process.stdout is not None
        uri = process.stdout.readline().decode().strip()
        assert uri.startswith("rabbitmq-stream://"), process.stderr and process.stderr.read()
        yield process, broker_at(uri)


def test_from_nothing_to_the_first_message(tmp_path: Path) -> None:
    """What the README says: three commands, and no RabbitMQ."""
    with broker_process() as (_, broker):
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("publish", "events", "--create", "-m", "hello", env=env).returncode == 0
        consumed = run_rstream("consume", "events", "--offset", "first", "--until", "end", env=env)
        assert (consumed.returncode, consumed.stdout) == (0, b"hello\n")


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """By the processes that a test starts, also under nohup; this one passes them over."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_are_heard")
def test_a_terminal_that_is_closed_leaves_nothing_behind(tmp_path: Path) -> None:
    with running("broker", "run", "--port", "0", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 1
        interrupt(process, signal.SIGHUP)
        assert ended(process) == (143, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals, status: int) -> None:
    data = str(tmp_path / "data")
    with broker_process("--data", data) as (process, broker):
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_RECOVER_FOR": "0"}
        assert run_rstream("publish", "s", "--create", "-m", "kept", env=env).returncode == 0
        with running("consume", "s", "--offset", "first", env=env) as consumer:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"kept\n"
            interrupt(process, number)
            assert ended(process) == (status, "")
            assert ended(consumer)[0] == 6
    with broker_process("--data", data) as (_, broker):
        done = run_rstream("consume", "s", "-o", "first", "--until", "end", env={"RSTREAM_URI": broker.uri})
        assert done.stdout == b"kept\n"


def test_the_management_api_is_on_a_port_of_its_own() -> None:
    with running("broker", "run", "--port", "0", "--management-port", "0", "--user", "al:s3cret", env={}) as process:
        assert process.stdout is not None
        uri, management_uri = (process.stdout.readline().decode().strip() for _ in range(2))
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", management_uri)
        uri = uri.replace("://", "://al:s3cret@")
        env = {"RSTREAM_URI": uri, "RSTREAM_MANAGEMENT_URI": management_uri}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        assert run_rstream("stream", "list", env=env).stdout == b"s\n"
        env["RSTREAM_URI"] = uri.replace("s3cret", "other")
        assert run_rstream("stream", "list", env=env).returncode == 5
        interrupt(process, signal.SIGTERM)
        assert ended(process) == (143, "")


def test_the_management_api_has_the_certificate_of_the_broker(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("server", "server")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with running("broker", "run", "--port", "0", "--management-port", "0", *tls, env={}) as process:
        assert process.stdout is not None
        uri, management_uri = (process.stdout.readline().decode().strip() for _ in range(2))
        assert management_uri.startswith("https://127.0.0.1:")
        env = {
            "RSTREAM_URI": uri,
            "RSTREAM_MANAGEMENT_URI": management_uri,
            "RSTREAM_CA_FILE": str(authority.folder / "ca.pem"),
        }
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        assert run_rstream("stream", "list", env=env).stdout == b"s\n"


def test_a_folder_that_is_in_use(tmp_path: Path) -> None:
    with broker_process("--data", str(tmp_path)) as (process, _):
        done = run_rstream("broker", "run", "--port", "0", "--data", str(tmp_path))
        assert done.returncode == 2
        assert f"is in use by another broker, process {process.pid}" in done.stderr.decode()
        with pytest.raises(ConfigurationError, match="in use"), EmbeddedBroker(data=tmp_path):
            pass


def test_a_port_that_is_in_use() -> None:
    with broker_process() as (_, broker):
        done = run_rstream("broker", "run", "--port", str(broker.port))
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1:{broker.port}" in done.stderr.decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "65536"), "--port is a number between 0 and 65535, not 65536"),
        (("--user", "alice"), "--user: must be NAME:PASSWORD"),
        (("--user", ":secret"), "--user: the name is empty"),
        (("--user", "alice:"), "--user: the password is empty"),
        (("--user", "a:1", "--user", "a:2"), "--user: user 'a' is given twice"),
        (("--user", "a" * 300 + ":b"), "--user: the name has 300 bytes"),
        (("--user", "a\udcff:b"), "--user: the name is not UTF-8"),
        (("--user-file", "/no/such/file"), "--user-file /no/such/file: No such file"),
        (("--user-file", "/dev/null"), "--user-file /dev/null: it contains no user"),
        (("--vhost", ""), "--vhost is empty"),
        (("--vhost", "v" * 300), "--vhost has 300 bytes; 255 is the limit"),
        (("--host", ""), "--host is empty"),
        (("--host", ".."), "--host: '..' is no host name"),
        (("--host", "\u00fc" * 80), "is no host name and no address"),
        (("--host", "8.8.8.8"), "this machine does not have that address"),
        (("--advertised-host", ""), "--advertised-host is empty"),
        (("--advertised-host", "a b"), "--advertised-host: 'a b' is no host name"),
        (("--data", ""), "--data is empty"),
        (("--data", "/dev/null"), "data folder /dev/null: not a folder"),
        (("--tls-key", "key.pem"), "--tls-key needs --tls-cert"),
        (("--tls-cert", "/no/such/file"), "No such file"),
        (("--data", "/dev/null/x"), "data folder /dev/null/x: not a folder"),
        (("--fsync", "sometimes"), "sometimes"),
        (("--host", "no-such-host.invalid", "--port", "0"), "cannot listen on 'no-such-host.invalid'"),
    ],
)
def test_usage(options: tuple[str, ...], words: str) -> None:
    done = run_rstream("broker", "run", *options)
    assert done.returncode == 2
    assert words in done.stderr.decode()


@pytest.mark.parametrize(("target", "why"), [("&-", "Bad file descriptor"), ("/dev/full", "No space left on device")])
def test_a_stdout_that_takes_nothing(target: str, why: str) -> None:
    if target.startswith("/") and not os.path.exists(target):
        pytest.skip(f"there is no {target}")
    command = f"exec {shlex.quote(str(RSTREAM))} broker run --port 0 >{target}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environment(), stderr=subprocess.PIPE, timeout=20, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (1, f"error: cannot write to stdout: {why}\n")


def test_users_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("alice:sec:ret\n\nb\u00f6b:x")
    with broker_process("--user-file", str(file), "--user", "carol:y") as (_, broker):
        for login in ("alice:sec%3Aret", "b%C3%B6b:x", "carol:y"):
            uri = f"rabbitmq-stream://{login}@{broker.host}:{broker.port}"
            assert run_rstream("stream", "create", "s", "--exists-ok", env={"RSTREAM_URI": uri}).returncode == 0
    file.write_text("alice:a\nalice:b")
    done = run_rstream("broker", "run", "--user-file", str(file))
    assert (done.returncode, b"line 2: user 'alice' is given twice" in done.stderr) == (2, True)


def test_what_it_is_run_with_is_not_a_clients(tmp_path: Path) -> None:
    """RSTREAM_URI names another broker, and is not even read."""
    with running("broker", "run", "--port", "0", env={"RSTREAM_URI": "nonsense"}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"rabbitmq-stream://127.0.0.1:")


def test_users_and_virtual_hosts_and_the_log() -> None:
    options = ("--user", "alice:sec:ret", "--user", "bob:x", "--vhost", "one", "--vhost", "two", "-v")
    with broker_process(*options) as (process, broker):
        address = f"{broker.host}:{broker.port}"
        for login, vhost, status in (
            ("alice:sec%3Aret", "one", 0),
            ("bob:x", "two", 0),
            ("alice:wrong", "one", 5),
            ("guest:guest", "one", 5),
            ("bob:x", "%2f", 5),
        ):
            uri = f"rabbitmq-stream://{login}@{address}/{vhost}"
            assert run_rstream("stream", "create", f"s-{vhost}", env={"RSTREAM_URI": uri}).returncode == status, uri
        with socket.create_connection((broker.host, broker.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(10) == b""
        interrupt(process)
        _, log = ended(process)
    assert " is turned away: a frame of " in log
    assert "logged in as 'alice'" in log
    for why in ("wrong password of 'alice'", "there is no user 'guest'", "there is no virtual host '/'"):
        assert f" is turned away: {why}\n" in log
    assert "sec:ret" not in log


def test_damage_is_told_of(tmp_path: Path) -> None:
    with broker_process("--data", str(tmp_path)) as (_, broker):
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("publish", "s", "--create", "-m", "whole", env=env).returncode == 0
        assert run_rstream("publish", "s", "-m", "damaged", env=env).returncode == 0
    (segment,) = tmp_path.glob("streams/*/*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])
    with broker_process("--data", str(tmp_path)) as (process, broker):
        done = run_rstream("consume", "s", "-o", "first", "--until", "end", env={"RSTREAM_URI": broker.uri})
        assert done.stdout == b"whole\n"
        interrupt(process)
        _, errors = ended(process)
    (line,) = errors.splitlines()
    assert line.startswith("warning: stream 's': 00000000000000000000.segment: chunk 1 is cut off")


def test_what_nobody_can_reach_is_told_of(tmp_path: Path) -> None:
    with broker_process("--data", str(tmp_path), "--vhost", "old") as (_, broker):
        assert run_rstream("stream", "create", "s", env={"RSTREAM_URI": broker.uri}).returncode == 0
    (tmp_path / "streams" / "foo").mkdir()
    (tmp_path / "streams" / "foo" / "file").touch()
    with broker_process("--data", str(tmp_path), "--host", "0.0.0.0") as (process, _):
        interrupt(process)
        _, errors = ended(process)
    assert errors.splitlines() == [
        "warning: streams/foo is no stream of this broker's, and left alone",
        "warning: virtual host 'old' is not served, and has streams in the data folder: 1",
        "warning: clients can log in from this machine only, as guest; --user adds other users",
    ]


def test_what_goes_wrong_is_told_beside_the_status_line(tmp_path: Path) -> None:
    with on_a_terminal("--data", str(tmp_path)) as (process, terminal):
        env = {"RSTREAM_URI": process.stdout.readline().decode().strip()}
        (tmp_path / "streams").rmdir()
        terminal.read_until("published 0/s")
        assert run_rstream("stream", "create", "s", env=env).returncode == 6
        terminal.read_until(f"warning: Create in {tmp_path}: [Errno 2] No such file or directory: ")
        assert "\x1b[Jwarning: " in terminal.shown
        terminal.read(1)
        assert terminal.shown.count("Errno") == 1


def test_the_same_warning_is_told_once(tmp_path: Path) -> None:
    with broker_process("--data", str(tmp_path)) as (process, broker):
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("stream", "create", "s", env=env).returncode == 0
        shutil.rmtree(tmp_path / "streams")
        for _ in range(3):
            assert run_rstream("publish", "s", "-m", "lost", env=env).returncode == 7
        interrupt(process)
        _, errors = ended(process)
    (line,) = errors.splitlines()
    assert line.startswith(f"warning: cannot write to {tmp_path}")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_out_of_file_handles() -> None:
    """Told once; whoever waits is served when there are some again."""
    with broker_process() as (process, broker):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (30, 30))
        with contextlib.ExitStack() as idle:
            for _ in range(40):
                idle.enter_context(socket.create_connection((broker.host, broker.port)))
            time.sleep(1.5)  # it has tried twice
        assert run_rstream("stream", "create", "s", env={"RSTREAM_URI": broker.uri}).returncode == 0
        interrupt(process)
        assert ended(process) == (130, "warning: cannot accept connections: Too many open files\n")


async def test_a_broker_that_stops_while_it_cannot_accept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio tries again a second later, on a socket that is closed by then."""
    async with EmbeddedBroker() as broker:
        with monkeypatch.context() as patched:

            def accept(_: object) -> None:
                raise OSError(24, "Too many open files")

            patched.setattr(socket.socket, "accept", accept)
            with socket.create_connection(("127.0.0.1", broker.port)):
                async with asyncio.timeout(10):
                    while not caplog.records:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
    await asyncio.sleep(1.5)
    assert [record.getMessage() for record in caplog.records] == ["cannot accept connections: Too many open files"]


def test_certificates_that_cannot_be(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    (cert, key), (other, other_key) = (authority.issue(name, "localhost") for name in ("one", "two"))
    der, encrypted = tmp_path / "one.der", tmp_path / "encrypted.pem"
    convert = ("openssl", "x509", "-in", str(cert), "-outform", "der", "-out", str(der))
    encrypt = ("openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted))
    for command in (convert, encrypt):
        subprocess.run(command, check=True, capture_output=True)
    for files, words in (
        ((cert,), f"--tls-cert {cert}: it contains no private key\nhint: pass the file"),
        ((cert, tmp_path / "none"), f"--tls-key {tmp_path / 'none'}: No such file or directory"),
        ((cert, other_key), f"the key in {other_key} does not belong to the certificate in {cert}"),
        ((cert, encrypted), f"the key in {encrypted} is encrypted"),
        ((der, key), f"--tls-cert {der}: not a certificate in PEM form"),
        ((cert, other), f"--tls-key {other}: it contains no private key"),
    ):
        options = [text for pair in zip(("--tls-cert", "--tls-key"), map(str, files), strict=False) for text in pair]
        done = run_rstream("broker", "run", "--port", "0", *options)
        assert (done.returncode, words in done.stderr.decode()) == (2, True), done.stderr.decode()


@contextmanager
def on_a_terminal(*options: str, term: str = "xterm", columns: int = 200) -> Iterator[tuple[Any, Terminal]]:
    """A broker whose stderr is a terminal."""
    with Terminal(columns) as terminal:
        env = {"TERM": term}
        with running("broker", "run", "--port", "0", *options, env=env, stderr=terminal.descriptor) as process:
            yield process, terminal


def test_a_terminal_shows_what_it_does() -> None:
    with on_a_terminal() as (process, terminal):
        env = {"RSTREAM_URI": process.stdout.readline().decode().strip()}
        assert run_rstream("publish", "s", "--create", "-m", "hello", env=env).returncode == 0
        terminal.read_until("0 connections   1 stream   published 1 message, ")
        assert "listening on 127.0.0.1:" in terminal.shown
        interrupt(process)
        assert process.wait(20) == 130
        terminal.read_while(lambda: not terminal.shown.endswith("\r\x1b[J"))


def test_a_narrow_terminal_shows_the_rates() -> None:
    with on_a_terminal(columns=40) as (_, terminal):
        terminal.read_until("published 0/s   delivered 0 B/s\r")


@pytest.mark.parametrize(("options", "term"), [((), "dumb"), (("-v",), "xterm"), (("-q",), "xterm")])
def test_a_terminal_without_a_status_line(options: tuple[str, ...], term: str) -> None:
    with on_a_terminal(*options, term=term) as (process, terminal):
        assert process.stdout.readline()
        terminal.read(1.2)
        assert "\x1b" not in terminal.shown
        assert "published" not in terminal.shown


def test_in_the_background_the_terminal_is_the_shells() -> None:
    with Terminal() as terminal:
        command = f"{shlex.quote(str(RSTREAM))} broker run --port 0 & read line; kill %1; wait"
        with shell_on(terminal, command) as shell:
            assert shell.stdout is not None
            assert shell.stdout.readline().startswith(b"rabbitmq-stream://")
            terminal.read_until("listening on")
            terminal.read(1.2)
            shell.communicate(b"\n", timeout=20)
        assert "published" not in terminal.shown


def test_clients_do_not_load_it() -> None:
    modules = "rstream_cli.app, rstream_cli.commands.publish, rstream_cli.publish_run, rstream_cli.commands.consume"
    program = f"import sys, {modules}; sys.exit('rstream_core.broker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0


# Killed.


class Publishing:
    """Publishes numbers under a name, as long as there is a broker; repeats what was not confirmed."""

    def __init__(self) -> None:
        self.confirmed = 0
        """The highest number that a broker has confirmed, with all before it."""

    async def run(self, broker: Broker, stream: str) -> None:
        async with Client(options_for(broker, request_timeout=5), recovery=None) as client:
            try:
                publisher = await client.publisher(stream, "writer")
            except RstreamError:  # killed already
                return
            try:
                while publisher.error is None:
                    first = self.confirmed + 1
                    ids = range(first, first + 100)
                    await publisher.publish([b"%d" % number for number in ids], publishing_ids=ids)
                    await publisher.flush(PATIENCE)
                    if not publisher.failed:
                        self.confirmed = ids[-1]
            except RstreamError:
                pass
            finally:
                await publisher.close()


@pytest.mark.parametrize("fsync", ["never", "always"])
async def test_killed_while_publishing(tmp_path: Path, fsync: str) -> None:
    """At any moment: every confirmed message is there once, in order, and the stream goes on."""
    chance = random.Random(5)
    publishing = Publishing()
    rounds = ROUNDS if fsync == "never" else max(ROUNDS // 4, 2)
    for number in range(rounds):
        with broker_process("--data", str(tmp_path), "--fsync", fsync) as (process, broker):
            async with Client(options_for(broker)) as client:
                await client.create_stream("s", {"stream-max-segment-size-bytes": 20_000}, exists_ok=True)
            if number:
                await verify(broker, publishing.confirmed)
            task = asyncio.create_task(publishing.run(broker, "s"))
            await asyncio.sleep(chance.uniform(0.05, 0.4))  # the moment is the test
            if number == rounds - 1:  # on a busy machine none of these moments may have been late enough
                await eventually(lambda: publishing.confirmed > 100)
            process.send_signal(signal.SIGKILL)
            await asyncio.wait_for(task, PATIENCE)
    with broker_process("--data", str(tmp_path)) as (_, broker):
        await verify(broker, publishing.confirmed)
    assert publishing.confirmed > 100
    print(f"{rounds} kills with --fsync {fsync}: {publishing.confirmed:,} messages confirmed, each is there once")


async def verify(broker: Broker, confirmed: int) -> None:
    async with Client(options_for(broker)) as client:
        last = await client.last_offset("s")
        if last is None:
            assert confirmed == 0
            return
        found = [int(body) for body in (await read_all(client, last)).values()]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= confirmed
        publisher = await client.publisher("s", "writer")
        assert publisher.next_publishing_id == len(found) + 1
        await publisher.close()


async def read_all(client: Client, last: int) -> dict[int, bytes]:
    """Offsets have gaps where segments begin, so it is read up to the last and not counted."""
    found: dict[int, bytes] = {}
    async with await client.subscribe("s", FIRST) as subscription:
        async for chunk in subscription:
            found.update(enumerate(chunk.messages, chunk.offset))
            if chunk.last_offset >= last:
                return found
    raise AssertionError
