"""Names of streams by TAB: quick, quiet, and harmless in every shell, whatever the names and whoever answers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pty
import re
import select
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rstream_cli import stream_names
from rstream_cli.environment import Environment
from rstream_cli.stream_names import Wanted, find_names
from rstream_core import Client, EmbeddedBroker
from tests.brokers import Broker, broker_at
from tests.cli.conftest import RSTREAM, environment, run_rstream
from tests.clients import PATIENCE, options_for
from tests.web import Visit, serving

HARMFUL = [
    "$(touch ran)",
    "`touch ran`",
    "a b",
    "it's",
    'say "x"',
    "semi;touch ran",
    "x:y",
    "back\\slash",
    "star*",
    "~root",
    "!!",
    "#no",
    "grün",
    "&&touch ran",
    "{a,b}",
]
"""Names that a shell would act upon, were they put in as they are."""
LEFT_OUT = ["esc\x1b[2J", "\u202eback", "-dash", "tab\tbed"]
"""Control characters, and what would be an option."""


@pytest.fixture(scope="module")
def named() -> Iterator[Broker]:
    """A broker with all of these, and a super stream ``super`` of one partition."""
    with EmbeddedBroker(management_port=0) as broker:
        found = broker_at(broker.uri)

        async def create() -> None:
            async with Client(options_for(found)) as client:
                for name in HARMFUL + LEFT_OUT:
                    await client.create_stream(name)
                await client.create_super_stream("super", partitions=1)

        asyncio.run(create())
        assert broker.management_uri is not None
        yield dataclasses.replace(found, management_port=int(broker.management_uri.rpartition(":")[2]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def variables(named: Broker, home: Path) -> dict[str, str]:
    return {"RSTREAM_URI": named.uri, "RSTREAM_MANAGEMENT_URI": named.management_uri, "HOME": str(home)}


def env_of(variables: Mapping[str, str], now: float | None = None) -> Environment:
    env = Environment.of_process().replaced(variables=variables)
    return env if now is None else env.replaced(now=lambda: now)


def completed(variables: Mapping[str, str], *words: str, shell: str = "fish") -> list[str]:
    done = run_rstream(*words, env={**variables, "_RSTREAM_COMPLETE": shell})
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a busy machine, where the time is not what is tested."""
    monkeypatch.setattr(stream_names, "ASK_TIMEOUT", PATIENCE)


@pytest.mark.usefixtures("patient")
class TestWhere:
    @pytest.mark.parametrize(
        "words",
        [
            ("consume",),
            ("publish",),
            ("stream", "info"),
            ("stream", "delete", "other"),
            ("offset", "query"),
            ("consume", "--credit", "5", "-o", "first"),
        ],
    )
    def test_streams(self, variables: dict[str, str], words: tuple[str, ...]) -> None:
        assert completed(variables, *words, "") == sorted([*HARMFUL, "super-0"])

    def test_super_streams(self, variables: dict[str, str]) -> None:
        assert completed(variables, "superstream", "info", "") == ["super"]
        for command in ("sac-consume", "lag"):
            assert completed(variables, command, "sup") == ["super", "super-0"]

    def test_an_option(self, variables: dict[str, str]) -> None:
        assert completed(variables, "doctor", "--stream", "sup") == ["super-0"]
        assert completed(variables, "doctor", "--stream=sup") == ["--stream=super-0"]

    def test_what_begins_so(self, variables: dict[str, str]) -> None:
        assert completed(variables, "consume", "s") == ['say "x"', "semi;touch ran", "star*", "super-0"]
        assert completed(variables, "consume", "a b", "a") == []
        assert completed(variables, "consume", "--", "-") == ["-dash"]

    def test_nowhere_else(self, variables: dict[str, str]) -> None:
        assert completed(variables, "stream", "create", "") == []
        assert completed(variables, "offset", "store", "x:y", "") == []
        done = run_rstream("publish", "x:y", "", env={**variables, "_RSTREAM_COMPLETE": "fish"})
        assert (done.returncode, done.stdout) == (3, b"")

    def test_the_options_on_the_line_say_where(self, named: Broker, variables: dict[str, str]) -> None:
        del variables["RSTREAM_URI"], variables["RSTREAM_MANAGEMENT_URI"]
        uris = ("--uri", named.uri, "--management-uri", named.management_uri)
        assert completed(variables, "consume", *uris, "sup") == ["super-0"]
        assert completed(variables, "consume", f"--uri={named.uri}", f"--management-uri={named.management_uri}", "sup")
        assert completed(variables, "consume", *uris, "--vhost", "other", "sup") == []


@pytest.mark.usefixtures("patient")
class TestKept:
    def test_in_a_file_of_the_users_own(self, variables: dict[str, str], home: Path) -> None:
        assert completed(variables, "consume", "sup") == ["super-0"]
        (path,) = home.rglob("*.json")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        variables["RSTREAM_URI"] = variables["RSTREAM_URI"].replace("guest:guest", "other:other")
        assert completed(variables, "consume", "sup") == []

    def test_for_a_moment_and_longer_where_nobody_answers(
        self, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        assert "super-0" in find_names(env_of(variables), {}, Wanted.STREAMS)
        asked: list[int] = []

        def refuse(*_: Any) -> set[str]:
            asked.append(1)
            raise ConnectionRefusedError

        monkeypatch.setattr(stream_names, "_ask", refuse)
        assert "super-0" in find_names(env_of(variables, now + 5), {}, Wanted.STREAMS)
        assert asked == []
        assert "super-0" in find_names(env_of(variables, now + 3600), {}, Wanted.STREAMS)
        assert asked == [1]
        assert find_names(env_of(variables, now + 100_000), {}, Wanted.STREAMS) == []

    @pytest.mark.parametrize("harm", ["mode", "link", "text", "names", "directory"])
    def test_what_others_may_have_written_is_not_read(self, variables: dict[str, str], home: Path, harm: str) -> None:
        assert completed(variables, "consume", "sup") == ["super-0"]
        (path,) = home.rglob("*.json")
        path.write_text('["superseded"]')
        match harm:
            case "mode":
                path.chmod(0o644)
            case "link":
                path.rename(home / "other")
                path.symlink_to(home / "other")
            case "text":
                path.write_text("[")
            case "names":
                path.write_text('["super\\u001b[2J", 7]')
            case "directory":
                path.unlink()
                path.mkdir()
        assert completed(variables, "consume", "sup") == ["super-0"]

    def test_without_a_home(self, variables: dict[str, str]) -> None:
        del variables["HOME"]
        assert completed(variables, "consume", "sup") == ["super-0"]


@pytest.mark.usefixtures("patient")
class TestWhoIsAsked:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[stream_names.Place]:
        found: list[stream_names.Place] = []

        def ask(place: stream_names.Place, *_: Any) -> set[str]:
            found.append(place)
            return set()

        monkeypatch.setattr(stream_names, "_ask", ask)
        return found

    @pytest.mark.parametrize(
        ("values", "where"),
        [
            ({}, "localhost:15672"),
            ({"uri": "rabbitmq-stream://127.0.0.1:5552"}, "127.0.0.1:15672"),
            ({"uri": "rabbitmq-stream+tls://127.0.0.1"}, "127.0.0.1:15671"),
            ({"uri": "rabbitmq-stream://broker.example.com"}, None),
            ({"uri": "rabbitmq-stream+tls://broker.example.com"}, None),
            ({"management_uri": "https://broker.example.com"}, "broker.example.com:15671"),
            ({"management_uri": "http://broker.example.com"}, None),
            ({"uri": "nonsense"}, None),
            ({"username": "alice"}, None),
            ({"sasl": "external"}, None),
        ],
    )
    def test_a_given_address_or_this_machine(
        self, home: Path, asked: list[stream_names.Place], values: dict[str, str], where: str | None
    ) -> None:
        assert find_names(env_of({"HOME": str(home)}), values, Wanted.BOTH) == []
        assert [f"{place.host}:{place.port}" for place in asked] == ([] if where is None else [where])

    def test_no_command_for_a_password_is_run(self, home: Path, asked: list[stream_names.Place]) -> None:
        values = {"username": "alice", "password_command": f"touch {home}/ran; echo x"}
        assert find_names(env_of({"HOME": str(home)}), values, Wanted.BOTH) == []
        assert asked == []
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize("name", ["password_file", "ca_file"])
    def test_no_file_is_read_that_somebody_must_write_first(
        self, home: Path, asked: list[stream_names.Place], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Nor one that can be read only once: the command that follows needs it."""
        monkeypatch.setattr(stream_names, "SETTINGS_TIMEOUT", PATIENCE)
        os.mkfifo(home / "pipe")
        values = {"username": "alice", name: str(home / "pipe"), "uri": "rabbitmq-stream+tls://localhost"}
        reader, writer = os.pipe()
        began = time.monotonic()
        assert find_names(env_of({"HOME": str(home)}), values, Wanted.BOTH) == []
        assert time.monotonic() - began < PATIENCE
        os.write(writer, b"hunter2\n")
        os.close(writer)
        values[name] = f"/dev/fd/{reader}"
        assert find_names(env_of({"HOME": str(home)}), values, Wanted.BOTH) == []
        assert os.read(reader, 100) == b"hunter2\n"
        os.close(reader)
        assert asked == []


class TestWhoAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            b'HTTP/1.1 200 OK\r\ncontent-length: 47\r\n\r\n{"page_count": 1, "items": [{"name": 7, "type": "stream"}]}',
        ],
        ids=["nothing", "ssh", "object", "short", "redirect", "names"],
    )
    async def test_no_names_from_what_is_no_answer(self, home: Path, answer: bytes) -> None:
        async def say(visit: Visit) -> None:
            await visit.write(answer)
            visit.writer.write_eof()
            await visit.gone()

        async with serving(say) as web:
            values = {"management_uri": f"http://localhost:{web.port}"}
            assert await asyncio.to_thread(find_names, env_of({"HOME": str(home)}), values, Wanted.STREAMS) == []
        assert len(web.visits) == 1

    @pytest.mark.parametrize("count", [10, 1 << 16])
    async def test_no_names_from_what_holds_too_much(self, home: Path, count: int) -> None:
        async def say(visit: Visit) -> None:
            await visit.answer({"page_count": 1, "items": [{"name": "s", "type": "stream", "more": [[]] * count}]})

        async with serving(say) as web:
            values = {"management_uri": f"http://localhost:{web.port}"}
            found = await asyncio.to_thread(find_names, env_of({"HOME": str(home)}), values, Wanted.STREAMS)
        assert found == (["s"] if count == 10 else [])

    async def test_within_its_time(self, home: Path) -> None:
        """Also where each byte comes in time."""

        async def drip(visit: Visit) -> None:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
                await visit.write(bytes([byte]))
                await asyncio.sleep(0.01)

        for say in (Visit.gone, drip):
            async with serving(say) as web:
                values = {"management_uri": f"http://localhost:{web.port}"}
                env = env_of({"HOME": str(home)})
                began = time.monotonic()
                assert await asyncio.to_thread(find_names, env, values, Wanted.STREAMS) == []
                assert time.monotonic() - began < stream_names.ASK_TIMEOUT + stream_names.SETTINGS_TIMEOUT + 1


# --- in the shells themselves --------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with an ``rstream`` that completes as ours does, and otherwise shows what it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "rstream"
    script.write_text(
        "#!/bin/sh\n"
        f'[ -n "$_RSTREAM_COMPLETE" ] && exec {RSTREAM} "$@"\n'
        'for word; do printf "<%s>" "$word"; done; echo; echo "the"" end"\n'
    )
    script.chmod(0o755)
    return folder


def typed(command: list[str], env: Mapping[str, str], keys: list[tuple[str, str]], cwd: Path) -> str:
    """What an interactive shell shows. ``keys``: what to wait for, and what to type then."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe(command[0], command, dict(env))
    shown = ""
    try:
        for wanted, text in keys:
            mark, until = len(shown), time.monotonic() + 60
            while not re.search(wanted, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown[mark:])):
                assert time.monotonic() < until, f"{wanted!r} does not come: {shown!r}"
                if select.select([terminal], [], [], 0.2)[0]:
                    shown += os.read(terminal, 4096).decode(errors="replace")
            os.write(terminal, text.encode())
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return shown


@pytest.fixture
def shell_env(variables: dict[str, str], program: Path) -> dict[str, str]:
    env = environment({**variables, "TERM": "xterm", "PS1": "ready> ", "LC_ALL": "C.UTF-8"})
    env["PATH"] = f"{program}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env


@pytest.fixture
def kept(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are in the file already, and fresh for the whole test: so the time of an answer does not matter."""
    monkeypatch.setattr(stream_names, "ASK_TIMEOUT", PATIENCE)
    assert find_names(env_of(variables, time.time()), {}, Wanted.STREAMS)


BEGINNINGS = {
    "$(touch ran)": r"\$",
    "`touch ran`": r"\`",
    "a b": "a",
    "it's": "it",
    'say "x"': "say",
    "semi;touch ran": "sem",
    "x:y": "x:",
    "back\\slash": "ba",
    "star*": "st",
    "#no": r"\#",
    "grün": "gr",
    "&&touch ran": r"\&",
    "{a,b}": r"\{",
}
"""What is typed before TAB."""


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("name", BEGINNINGS)
def test_in_bash(shell_env: dict[str, str], tmp_path: Path, name: str) -> None:
    script = Path(__file__).resolve().parents[2] / "completions" / "rstream.bash"
    (tmp_path / "rc").write_text(f"bind 'set enable-bracketed-paste off'\nsource {script}\nPS1='ready> '\n")
    shown = typed(
        ["bash", "--rcfile", str(tmp_path / "rc"), "-i"],
        shell_env,
        [("ready> ", f"rstream consume {BEGINNINGS[name]}\t"), (_rest(name), "\r"), ("the end", "")],
        tmp_path,
    )
    assert f"<consume><{name}>" in shown
    assert not (tmp_path / "ran").exists()


def _rest(name: str) -> str:
    """The last letter of a name, and the blank that a shell puts behind a word that is whole."""
    return re.escape(name[-1]) + " "


def test_in_bash_within_quotation_marks(variables: dict[str, str]) -> None:
    """Only what needs no escape is offered."""
    for quote in ("'", '"'):
        line = f"rstream consume {quote}s"
        assert completed(variables, line, "s", shell="bash") == ["super-0"]
        assert completed(variables, f"rstream consume {quote}$(", "$(", shell="bash") == []


@pytest.mark.usefixtures("kept")
@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_in_fish(shell_env: dict[str, str], tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "completions" / "rstream.fish"
    program = f"source {script}; complete -C 'rstream consume '"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], env=shell_env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.splitlines()) == sorted([*HARMFUL, "super-0"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("kept")
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize("name", ["$(touch ran)", "`touch ran`", "a b", "semi;touch ran", "x:y", "it's"])
def test_in_zsh(shell_env: dict[str, str], tmp_path: Path, name: str) -> None:
    script = Path(__file__).resolve().parents[2] / "completions" / "rstream.zsh"
    (tmp_path / ".zshrc").write_text(
        f"autoload -Uz compinit; compinit -u -D\nsource {script}\nunset zle_bracketed_paste; PS1='ready> '\n"
    )
    shown = typed(
        ["zsh", "-i"],
        {**shell_env, "ZDOTDIR": str(tmp_path)},
        [("ready> ", f"rstream consume {BEGINNINGS[name]}\t"), (_rest(name), "\r"), ("the end", "")],
        tmp_path,
    )
    assert f"<consume><{name}>" in shown
    assert not (tmp_path / "ran").exists()
