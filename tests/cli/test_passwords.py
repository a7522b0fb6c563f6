"""Passwords from a command, and from a person at the terminal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from tests.cli.conftest import RSTREAM, process_rstream, run_here
from tests.cli.process import ended, eventually, interrupt, running
from tests.cli.terminal import Terminal, shell_on

USER = ("--username", "alice")
PASSWORD = "hush-öäü"
QUESTION = "password of alice at localhost:"


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """Where a broker is whose only user is alice."""
    with EmbeddedBroker(users={"alice": PASSWORD}) as broker:
        yield {"RSTREAM_PORT": str(broker.port), "PATH": os.environ["PATH"], "TERM": "xterm"}


def by_command(command: str) -> tuple[str, ...]:
    return (*USER, "--password-command", command)


# A command.


def test_the_first_line_of_a_command_is_the_password(env: dict[str, str]) -> None:
    for command in (f"echo {PASSWORD}", f"printf '%s\\r\\nmore\\n' {PASSWORD}", f"printf %s {PASSWORD} | cat; exit 0"):
        assert run_here("stream", "create", "s", "--exists-ok", *by_command(command), env=env).status == 0
    variables = {**env, "RSTREAM_USERNAME": "alice", "RSTREAM_PASSWORD_COMMAND": "echo $SECRET", "SECRET": PASSWORD}
    assert run_here("stream", "info", "s", env=variables).status == 0
    # Output that nobody wants does not stop the command, nor does it take memory.
    long = f"echo {PASSWORD}; head -c 3000000 /dev/zero"
    assert run_here("stream", "info", "s", *by_command(long), env=env).status == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo hush; exit 3", "ended with exit code 3"),
        ("echo hush >&2; false", "ended with exit code 1"),
        ("no-such-program-hush", "ended with exit code 127"),
        ("kill -9 $$; echo hush", "was killed by signal 9"),
        ("true hush", "printed no password: the first line of its output is empty"),
        ("echo; echo hush", "printed no password: the first line of its output is empty"),
        (r"printf '\377hush'", "printed a password that is not UTF-8"),
        ("yes hush | tr -d '\\n'", "printed a first line of more than 32,767 bytes"),
    ],
)
def test_a_command_without_a_password(env: dict[str, str], command: str, words: str) -> None:
    done = run_here("stream", "info", "s", *by_command(command), env=env)
    assert done.status == 5
    assert done.errors.splitlines()[-1] == f"error: --password-command {words}"
    own = command == "echo hush >&2; false"  # what it says to a person itself
    assert done.errors.count("hush") == (own or "no-such" in command)
    done = run_here("stream", "info", "s", *USER, env={**env, "RSTREAM_PASSWORD_COMMAND": command})
    assert done.errors.splitlines()[-1] == f"error: RSTREAM_PASSWORD_COMMAND {words}"


def test_a_command_that_does_not_end(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rstream_cli.passwords.COMMAND_TIMEOUT", 0.5)
    for command in ("sleep 987", f"echo {PASSWORD}; sleep 987", f"echo {PASSWORD}; sleep 987 & "):
        begin = time.monotonic()
        done = run_here("stream", "info", "s", *by_command(f"echo $$ > {tmp_path}/pid; {command}"), env=env)
        assert (done.status, done.errors) == (5, "error: --password-command did not end within 0.5 s\n")
        assert time.monotonic() - begin < 15
        eventually(lambda: not is_running_in_session(int((tmp_path / "pid").read_text())))


def is_running_in_session(session: int) -> bool:
    """Whether any process of a session still runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(found) == session and state != "Z":
            return True
    return False


def test_a_signal_ends_the_command_too(env: dict[str, str], tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid; sleep 987 & sleep 987"
    with running("consume", "s", *by_command(command), env=env) as process:
        session = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        interrupt(process)
        status, errors = ended(process)
    assert status == 130
    assert "error" not in errors
    eventually(lambda: not is_running_in_session(session))


def test_a_command_gets_nothing_of_stdin(env: dict[str, str]) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(1000))
    arguments = ("publish", "in", "--create", *by_command(f"cat; echo {PASSWORD}"))
    assert process_rstream(*arguments, stdin=lines, env=env).returncode == 0
    read = run_here("consume", "in", "-o", "first", "--until", "end", *by_command(f"echo {PASSWORD}"), env=env)
    assert read.data == lines


def test_a_command_is_asked_again_for_each_connection(env: dict[str, str], tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = f"echo x >> {count}; echo {PASSWORD}"
    assert run_here("publish", "s", "--create", "-m", "one", *by_command(command), env=env).status == 0
    assert count.read_text() == "x\n" * 2  # one that asks, one that publishes


def test_a_command_is_not_asked_for_each_attempt(env: dict[str, str], closed_port: int, tmp_path: Path) -> None:
    count = tmp_path / "count"
    words = by_command(f"echo x >> {count}; echo {PASSWORD}")
    done = run_here(
        "stream", "info", "s", *words, "--wait-for-broker", "2s", env={**env, "RSTREAM_PORT": str(closed_port)}
    )
    assert done.status == 6
    assert count.read_text() == "x\n"


def test_only_one_password_in_one_place(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("no")
    done = run_here("stream", "info", "s", *by_command("echo x"), "--password-file", str(file), env=env)
    assert (done.status, done.errors) == (
        2,
        "error: --password-file and --password-command contradict each other\n",
    )
    # The strongest place wins, as always.
    weaker = {**env, "RSTREAM_PASSWORD": "no"}
    assert run_here("stream", "info", "s", *by_command(f"echo {PASSWORD}"), env=weaker).status == 0
    done = run_here("stream", "info", "s", "--uri", "rabbitmq-stream://a:b@h", *by_command("x")[2:], env=env)
    assert done.errors.startswith("error: --password-command contradicts --uri, which names one too")


def test_doctor_tells_why_there_is_no_password(env: dict[str, str]) -> None:
    done = run_here("doctor", *by_command("false"), env=env)
    assert done.status == 5
    assert "FAIL     login         --password-command ended with exit code 1\n" in done.output
    assert run_here("doctor", *by_command(f"echo {PASSWORD}"), env=env).status == 0


# A person.


def started(terminal: Terminal, env: dict[str, str], command: str) -> subprocess.Popen[bytes]:
    """A shell that has the terminal, and runs ``rstream`` on it; the shell reads nothing of it."""
    return shell_on(terminal, command.replace("rstream", shlex.quote(str(RSTREAM)), 1), env)


def echoes(terminal: Terminal) -> bool:
    return bool(termios.tcgetattr(terminal.descriptor)[3] & termios.ECHO)


def test_a_person_is_asked_while_stdin_is_data(env: dict[str, str]) -> None:
    with Terminal() as terminal, started(terminal, env, "rstream publish asked --create --username alice") as shell:
        assert shell.stdin is not None
        shell.stdin.write(b"one\ntwo\n")
        shell.stdin.close()
        terminal.read_until(QUESTION)
        assert not echoes(terminal)
        terminal.type(f"{PASSWORD}\n")
        assert shell.wait(20) == 0
        terminal.read(0.2)
        assert echoes(terminal)
        assert PASSWORD not in terminal.shown
        assert terminal.text.count(QUESTION) == 1  # for all connections
    read = run_here("consume", "asked", "-o", "first", "--until", "end", *by_command(f"echo {PASSWORD}"), env=env)
    assert read.data == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("typed", "status", "words"),
    [
        ("wrong\n", 5, "user 'alice': authentication failed"),
        ("\n", 2, "no password was typed"),
        ("\x04", 2, "no password was typed"),
        ("\x03", 130, ""),
        ("secr\x03", 130, ""),
        ("\x1a\x03", 130, ""),
    ],
)
def test_what_a_person_may_type(env: dict[str, str], typed: str, status: int, words: str) -> None:
    with Terminal() as terminal, started(terminal, env, "rstream stream info s --username alice; echo $?") as shell:
        terminal.read_until(QUESTION)
        terminal.type(typed)
        output, _ = shell.communicate(timeout=20)
        terminal.read(0.2)
        assert output == b"%d\n" % status
        assert echoes(terminal)
        assert words in terminal.text
        assert "Traceback" not in terminal.text
        assert "secr" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_gives_the_terminal_back(env: dict[str, str], number: signal.Signals) -> None:
    script = "rstream stream info s --username alice & echo $!; fg >/dev/null; echo $?"
    with Terminal() as terminal, started(terminal, env, script) as shell:
        assert shell.stdout is not None
        process = int(shell.stdout.readline())
        terminal.read_until(QUESTION)
        assert not echoes(terminal)
        os.kill(process, number)
        output, _ = shell.communicate(timeout=20)
        assert output == b"%d\n" % (128 + number)
        assert echoes(terminal)


@pytest.mark.parametrize(
    "command",
    [
        "rstream stream info s --username alice --password-command 'echo no'",
        "RSTREAM_PASSWORD=no rstream stream info s --username alice",
        "rstream stream info s --uri rabbitmq-stream://alice:no@localhost:$RSTREAM_PORT",
        "rstream stream info s",  # guest
        "_RSTREAM_COMPLETE=fish rstream stream info --username alice ''",
        "_RSTREAM_COMPLETE=bash rstream 'rstream stream info --username alice ' ''",
    ],
)
def test_nobody_is_asked_without_need(env: dict[str, str], command: str) -> None:
    variables = {key: value for key, value in env.items() if key != "RSTREAM_PORT" or "--uri" not in command}
    command = command.replace("$RSTREAM_PORT", env["RSTREAM_PORT"])
    with Terminal() as terminal, started(terminal, variables, command) as shell:
        assert shell.wait(20) == (0 if "COMPLETE" in command else 5)
        terminal.read(0.2)
        assert "password of" not in terminal.text


def test_without_a_terminal_it_is_an_error(env: dict[str, str]) -> None:
    done = subprocess.run(
        [RSTREAM, "stream", "info", "s", *USER],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        b"error: no password is given for the user 'alice'\n"
        b"hint: pass --password-file FILE or --password-command CMD, or set RSTREAM_PASSWORD\n"
    )
