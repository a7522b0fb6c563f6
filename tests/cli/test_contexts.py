"""Contexts: the user's own file, who may choose among them, and what a weaker or stronger place does to them."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.connection_settings import (
    command_line_layer,
    context_layer,
    environment_layer,
    foreign_management,
    management_uri,
)
from rstream_cli.contexts import Contexts, path_of_contexts, read_contexts, write_contexts
from rstream_core import EmbeddedBroker
from tests.cli.conftest import RSTREAM, Done, run_here
from tests.cli.process import eventually
from tests.cli.terminal import Terminal, shell_on

SECRET = "hunter2"
Call = Callable[..., Done]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs a command line of a user whose home is empty at first."""

    def run(*words: str, env: dict[str, str] | None = None, terminal: bool = False) -> Done:
        variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **(env or {})}
        done = run_here(*words, env=variables, terminal=terminal)
        assert SECRET not in done.errors
        assert SECRET not in done.output
        return done

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".config" / "rstream" / "contexts.toml"


def ok(done: Done) -> str:
    assert (done.status, done.errors) == (0, "")
    return done.output


def shown(call: Call, *words: str, env: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Each setting in force, with its value and its place."""
    found = json.loads(ok(call("context", "show", "--effective", "--json", *words, env=env)))
    return {row["setting"]: (row["value"], row["from"]) for row in found["settings"]}


# The file.


def test_a_context_is_made_changed_used_and_deleted(call: Call, file: Path) -> None:
    assert ok(call("context", "list")) == ""
    uri = f"rabbitmq-stream+tls://app:{SECRET}@rabbit-1/v"
    ok(call("context", "set", "prod", "--uri", uri, "--stream", "events"))
    ok(call("context", "set", "local", "--host", "localhost", "--heartbeat", "5s", "--no-tls"))
    assert ok(call("context", "list")) == "  local  localhost\n  prod   rabbitmq-stream+tls://app:***@rabbit-1/v\n"
    ok(call("context", "use", "prod"))
    assert [json.loads(line) for line in ok(call("context", "list", "--json")).splitlines()] == [
        {"name": "local", "in_use": False, "address": "localhost"},
        {"name": "prod", "in_use": True, "address": "rabbitmq-stream+tls://app:***@rabbit-1/v"},
    ]
    assert ok(call("context", "show")) == (
        "context  prod\nuri      rabbitmq-stream+tls://app:***@rabbit-1/v\nstream   events\n"
    )
    ok(call("context", "set", "local", "--heartbeat", "7s"))
    assert json.loads(ok(call("context", "show", "local", "--json"))) == {
        "name": "local",
        "chosen_by": "--context",
        "settings": {"host": "localhost", "heartbeat": "7s", "tls": "no"},
    }
    ok(call("context", "use", "--none"))
    assert call("context", "show").status == 4
    ok(call("context", "use", "prod"))
    ok(call("context", "delete", "prod", "--yes"))
    assert call("context", "show").status == 4
    assert ok(call("context", "list")) == "  local  localhost\n"
    assert SECRET not in file.read_text()


def test_the_file_is_for_its_owner_alone(call: Call, file: Path) -> None:
    before = os.umask(0)
    try:
        ok(call("context", "set", "a", "--host", "h"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
        file.chmod(0o644)
        ok(call("context", "set", "a", "--port", "1"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert os.listdir(file.parent) == ["contexts.toml"]


@pytest.mark.parametrize(
    "secret",
    [
        ("--uri", f"rabbitmq-stream://u:{SECRET}@localhost:1"),
        ("--host", "localhost", "--port", "1", "--username", "u", "--password-command", f"echo {SECRET}"),
    ],
)
def test_a_file_with_secrets_that_others_can_read_is_warned_of(call: Call, file: Path, secret: tuple[str, ...]) -> None:
    ok(call("context", "set", "a", *secret))
    ok(call("context", "set", "none", "--host", "localhost", "--port", "1"))
    assert not call("stream", "info", "s", "-c", "a").errors.startswith("warning")
    for mode in (0o640, 0o604, 0o644):
        file.chmod(mode)
        errors = call("stream", "info", "s", "-c", "a").errors
        assert errors.startswith(f"warning: {file} holds secrets, and other users can read it: chmod 600 {file}\n")
        assert errors.count("warning") == 1
        assert not call("stream", "info", "s", "-c", "none").errors.startswith("warning")


def test_a_file_that_others_may_write_is_not_trusted(call: Call, file: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    words = ("--host", "localhost", "--port", "1", "--username", "u", "--password-command", f"touch {ran}; echo x")
    ok(call("context", "set", "a", *words))
    for mode, who in ((0o606, "every user"), (0o666, "every user"), (0o664, "its group"), (0o620, "its group")):
        file.chmod(mode)
        done = call("stream", "info", "s", "-c", "a")
        assert (done.status, done.errors) == (
            2,
            f"error: {file} can be changed by {who}, who could run commands as you\nhint: chmod 600 {file}\n",
        )
        assert not ran.exists()
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
        done = call("stream", "info", "s", "-c", "a")
        assert done.status == 2
        assert "belongs to another user, who could run commands as you" in done.errors
        assert not ran.exists()
        os.chown(file, 0, -1)
    assert call("stream", "info", "s", "-c", "a").status == 6
    assert ran.exists()


def test_a_folder_that_others_may_change_is_not_trusted(call: Call, file: Path, tmp_path: Path) -> None:
    """They could put a file of their own there, also in place of the folder, or of what a link leads to."""
    ran = tmp_path / "ran"
    words = ("--host", "localhost", "--port", "1", "--username", "u", "--password-command", f"touch {ran}; echo x")
    ok(call("context", "set", "a", *words))

    def refused(folder: Path, mode: int, who: str) -> None:
        before = stat.S_IMODE(folder.stat().st_mode)
        folder.chmod(mode)
        done = call("stream", "info", "s", "-c", "a")
        folder.chmod(before)
        assert (done.status, done.errors) == (
            2,
            f"error: the folder {folder} can be changed by {who}, who could run commands as you by a file in it\n"
            f"hint: chmod go-w {folder}\n",
        )
        assert not ran.exists()

    refused(file.parent, 0o777, "every user")
    refused(file.parent, 0o770, "its group")
    refused(file.parent.parent, 0o777, "every user")
    if os.geteuid() == 0:
        os.chown(file.parent, 12345, -1)
        assert "belongs to another user" in call("stream", "info", "s", "-c", "a").errors
        os.chown(file.parent, 0, -1)
    file.parent.chmod(0o1777)  # nobody can rename what is another's
    file.parent.parent.chmod(0o770)  # often a group of the user alone
    assert call("stream", "info", "s", "-c", "a").status == 6
    ran.unlink()
    file.parent.chmod(0o700)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    file.rename(elsewhere / "contexts.toml")
    file.symlink_to(elsewhere / "contexts.toml")
    refused(elsewhere, 0o770, "its group")
    refused(file.parent, 0o770, "its group")
    assert call("stream", "info", "s", "-c", "a").status == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not TOML"),
        (f"a = {'9' * 5000}", "holds a number that is too long"),
        (f"[context.a]\nport = 0x{'9' * 5000}", "context a: 'port' has no value that can be read"),
        ("x = 1", "'x' is not known"),
        ("use = 1", "`use` is a name"),
        ("context = 1", "`context` a table"),
        ("[context]\na = 1", "'a' is not the name of a table"),
        ('[context."$(id)"]\nuri = "x"', "'$(id)' is not the name"),
        ('[context.a]\nuri = "x"\ncommand = "id"', "context a: 'command' is not a setting"),
        ("[context.a]\nuri = {}", "context a: 'uri' has no value that can be read"),
        ('[context.a]\nuri = ""', "context a: 'uri' has no value that can be read"),
        (f"a = {'[' * 5000}", "is nested too deeply"),
        ("#" * (1024 * 1024), "is larger than 1,048,576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read(call: Call, file: Path, text: str, words: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n")
    file.chmod(0o600)
    for command in (("context", "list"), ("context", "set", "b", "--host", "h"), ("stream", "info", "s", "-c", "a")):
        done = call(*command)
        assert done.status == 2
        assert done.errors.startswith(f"error: {file}")
        assert words in done.errors
        assert done.errors.count("\n") == 1
    assert file.read_text() == text + "\n"
    for shell, line in (
        ("bash", ("rstream consume -c ", "")),
        ("fish", ("consume", "-c", "")),
        ("zsh", ("consume", "-c", "")),
    ):
        names = b"a\n" if "command" in text else b""  # TAB does not know what settings there are
        assert call(*line, env={"_RSTREAM_COMPLETE": shell}) == Done(0, names, "")
    # An address that is given does without contexts.
    assert call("stream", "info", "s", "--host", "localhost", "--port", "1").status == 6


def test_what_is_no_regular_file(call: Call, file: Path) -> None:
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    assert call("context", "list").errors == f"error: {file} is not a file\n"
    file.unlink()
    file.mkdir()
    done = call("context", "list")
    assert (done.status, done.errors) == (2, f"error: {file} is not a file\n")


def test_a_link_stays_a_link(call: Call, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.toml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    ok(call("context", "set", "a", "--host", "h"))
    assert file.is_symlink()
    assert "h" in target.read_text()


def test_without_a_home_there_are_none(tmp_path: Path) -> None:
    assert run_here("context", "list") == Done(0, b"", "")
    done = run_here("context", "set", "a", "--host", "h")
    assert (done.status, done.errors) == (2, "error: there is no place for contexts: HOME is not set\n")
    elsewhere = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nonexistent"}
    assert run_here("context", "set", "a", "--host", "h", env=elsewhere).status == 0
    assert (tmp_path / "rstream" / "contexts.toml").exists()
    assert path_of_contexts({"XDG_CONFIG_HOME": "relative", "HOME": "also"}) is None


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    uris=st.lists(st.just("rabbitmq-stream://h"), min_size=1),
    text=_TEXTS,
    command=_TEXTS,
    flag=st.sampled_from(["yes", "no"]),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, uris: list[str], text: str, command: str, flag: str
) -> None:
    variables = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("home"))}
    path = path_of_contexts(variables)
    assert path is not None
    values = {"uri": "\n".join(uris), "stream": text, "password_command": command, "tls": flag}
    write_contexts(Contexts(path, {"a.b-c": values, "d": {"port": "1"}}, "d"))
    found = read_contexts(variables, frozenset((*values, "port")))
    assert found == Contexts(path, {"a.b-c": values, "d": {"port": "1"}}, "d")


# What is refused.


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("set", "a"), 2, "no setting is given"),
        (("set", "a b", "--host", "h"), 2, "not the name of a context: 'a b'"),
        (("set", "-c", "a", "b", "--host", "h"), 2, "--context chooses a context to connect with"),
        (("set", f"rabbitmq-stream://u:{SECRET}@h", "--host", "h"), 2, "the name of the context is a URI"),
        (("set", "a", "--host", "h", "--uri", "rabbitmq-stream://i"), 2, "uri of the context 'a' and host of the"),
        (("set", "a", "--host", "h:1:2"), 0, ""),
        (("set", "a", "--host", "rabbitmq-stream://h"), 2, "host of the context 'a': this is a URI, not a host"),
        (
            ("set", "a", "--host", f"u:{SECRET}@h"),
            2,
            "host of the context 'a': a host has no @\nhint: pass the host alone",
        ),
        (("set", "a", "--host", f"u:{SECRET}@h:5552"), 2, "host of the context 'a': a host has no @"),
        (
            ("set", "a", "--uri", f"rabbitmq-stream://u%3A{SECRET}%40h"),
            2,
            "--uri: the URI cannot be read: the host has an",
        ),
        (
            ("set", "a", "--host", "h", "--management-uri", f"http://u:{SECRET}@h"),
            2,
            "management_uri of the context 'a': the password is not sent to h over plain http",
        ),
        (
            ("set", "a", "--host", "h", "--management-uri", "nonsense"),
            2,
            "management_uri of the context 'a': the address of the management API begins with",
        ),
        (("set", "a", "--management-uri", f"https://u%3A{SECRET}%40h"), 2, "management_uri of the context 'a': the "),
        (("set", "a", "--port", "x"), 2, "port of the context 'a': not a port: 'x'"),
        (("set", "a", "--uri", "amqp://h"), 2, "--uri: a URI begins with"),
        (("set", "a", "--heartbeat", "soon"), 2, "heartbeat of the context 'a': not a duration"),
        (("set", "a", "--sasl", "magic"), 2, "sasl of the context 'a': unknown login method"),
        (("set", "a", "--host", "h", "--ca-file", "x"), 2, "ca_file of the context 'a' has no effect without TLS"),
        (("set", "a", "--host", "h", "--stream", ""), 2, "the stream name is empty"),
        (("set", "a", "--host", " "), 2, "--host is empty"),
        (("use", "nope"), 4, "there is no context 'nope'"),
        (("use",), 2, "give the name of a context, or --none"),
        (("use", "a", "--none"), 2, "give the name of a context, or --none"),
        (("show", "nope"), 4, "there is no context 'nope'"),
        (("show", "a", "-c", "b"), 2, "the name of the context is given twice"),
        (("delete", "nope", "--yes"), 4, "there is no context 'nope'"),
        (("delete", "nope", "--missing-ok", "--yes"), 0, ""),
        (("delete", "old"), 2, "cannot ask whether to delete: there is no terminal"),
    ],
)
def test_what_cannot_be(call: Call, words: tuple[str, ...], status: int, message: str) -> None:
    ok(call("context", "set", "old", "--host", "h"))
    done = call("context", *words)
    assert done.status == status
    assert done.errors.startswith(f"error: {message}" if message else message)


def test_deleting_asks_on_a_terminal(call: Call, tmp_path: Path) -> None:
    ok(call("context", "set", "a", "--host", "h"))
    for answer, left in (("n\n", "  a  h\n"), ("y\n", "")):
        with Terminal() as terminal:
            command = f"{RSTREAM} context delete a <>$(tty) 0<>$(tty)".replace("$(tty)", "/dev/tty")
            with shell_on(terminal, command, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}) as shell:
                terminal.read_until("Delete 'a'? [y/N]")
                terminal.type(answer)
                assert shell.wait(20) == 0
        assert ok(call("context", "list")) == left


def test_paths_are_kept_from_where_they_were_given(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    ok(call("context", "set", "a", "--tls", "--host", "h", "--ca-file", "ca.pem", "--password-file", "../p"))
    settings = json.loads(ok(call("context", "show", "a", "--json")))["settings"]
    assert settings["ca_file"] == str(tmp_path / "one" / "ca.pem")
    assert settings["password_file"] == str(tmp_path / "p")


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("pass", "pass"),
        ("pass show rabbit", "pass ***"),
        (f"TOKEN={SECRET} vault read x", "TOKEN=*** vault ***"),
        (f"A='{SECRET} b' B=\"{SECRET} c\"d  vault", "A=*** B=*** vault"),
        (f"TOKEN={SECRET}", "TOKEN=***"),
        (f"TOKEN=$(echo {SECRET} x) vault read", "***"),
        (f"TOKEN=`echo {SECRET}` vault read", "***"),
        (f"TOKEN=a\\ {SECRET} vault read", "***"),
        (f"TOKEN={SECRET}; vault read", "***"),
        (f"TOKEN='{SECRET} vault", "***"),
        (f"A=1 cat<<<{SECRET}", "A=*** ***"),
        (f"'{SECRET}' x", "***"),
        (f" ~/bin/a-b.sh  {SECRET}", "~/bin/a-b.sh ***"),
    ],
)
def test_of_a_command_only_the_program_is_shown(call: Call, command: str, seen: str) -> None:
    ok(call("context", "set", "a", "--host", "h", "--password-command", command))
    assert shown(call, "-c", "a")["password_command"][0] == seen
    assert json.loads(ok(call("context", "show", "a", "--json")))["settings"]["password_command"] == seen


def test_a_host_with_a_password_is_not_shown(call: Call, file: Path) -> None:
    """Wherever it comes from."""
    ok(call("context", "set", "a", "--host", "h"))
    file.write_text(f'use = "a"\n[context.a]\nhost = "u:{SECRET}@h"\nmanagement_uri = "http:/u:{SECRET}@h"\n')
    assert ok(call("context", "list")) == "* a  u:***@h\n"
    assert "host            u:***@h\n" in ok(call("context", "show"))
    ok(call("context", "show", "--json"))
    env = {"RSTREAM_HOST": f"u:{SECRET}@h"}
    assert shown(call, env=env)["host"] == ("u:***@h", "RSTREAM_HOST")
    for words, variables, label in (
        ((), {}, "host of the context 'a'"),
        ((), env, "RSTREAM_HOST"),
        (("--host", f"u:{SECRET}@h:5552"), {}, "--host"),
    ):
        done = call("stream", "info", "s", *words, env=variables)
        assert (done.status, done.errors.splitlines()[0]) == (2, f"error: {label}: a host has no @")


# Who chooses, and what is stronger.


def test_the_order(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("used", "project", "variable", "option"):
        ok(call("context", "set", name, "--host", f"{name}.example", "--vhost", name, "--stream", f"of-{name}"))
    assert shown(call)["host"] == ("localhost", "the default")
    ok(call("context", "use", "used"))
    assert shown(call)["host"] == ("used.example", "host of the context 'used'")
    assert shown(call)["stream"] == ("of-used", "stream of the context 'used'")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (tmp_path / "a" / ".rstream.toml").write_text('context = "project"\n')
    assert shown(call)["host"][0] == "project.example"
    assert shown(call)["stream"][0] == "of-project"
    variable = {"RSTREAM_CONTEXT": "variable"}
    assert shown(call, env=variable)["host"][0] == "variable.example"
    assert shown(call, "-c", "option", env=variable)["host"][0] == "option.example"
    # RSTREAM_* is stronger than a context, unless an option names that.
    assert shown(call, env={"RSTREAM_VHOST": "v"})["vhost"] == ("v", "RSTREAM_VHOST")
    assert shown(call, "-c", "option", env={"RSTREAM_VHOST": "v"})["vhost"][0] == "option"
    assert shown(call, "-c", "option", "--vhost", "w", env={"RSTREAM_VHOST": "v"})["vhost"] == ("w", "--vhost")
    assert shown(call, env={"RSTREAM_STREAM": "s"})["stream"] == ("s", "RSTREAM_STREAM")
    assert shown(call, "-c", "option", env={"RSTREAM_STREAM": "s"})["stream"][0] == "of-option"
    (tmp_path / "a" / ".rstream.toml").write_text('context = "project"\nstream = "own"\n')
    assert shown(call)["stream"] == ("own", str(tmp_path / "a" / ".rstream.toml"))
    assert shown(call, "-c", "option")["stream"][0] == "of-option"


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("--host", "other"), {}),
        (("--uri", "rabbitmq-stream://other"), {}),
        ((), {"RSTREAM_HOST": "other"}),
        ((), {"RSTREAM_URI": "rabbitmq-stream://other"}),
    ],
)
@pytest.mark.parametrize("chosen", [{}, {"RSTREAM_CONTEXT": "prod"}])
def test_another_address_leaves_the_context_out(
    call: Call, words: tuple[str, ...], env: dict[str, str], chosen: dict[str, str]
) -> None:
    ok(call("context", "set", "prod", "--host", "h", "--username", "u", "--password-command", SECRET, "--vhost", "v"))
    ok(call("context", "use", "prod"))
    found = shown(call, *words, env={**env, **chosen})
    assert "prod" not in str(found)
    assert found["username"] == ("guest", "the default")
    assert "password_command" not in found


def test_a_password_goes_to_its_own_user_and_address_alone(call: Call, tmp_path: Path) -> None:
    """Also where an option names the context."""
    ran = tmp_path / "ran"
    command = ("--password-command", f"touch {ran}; echo {SECRET}")
    with EmbeddedBroker(users={"u": SECRET, "guest": "guest"}) as broker:
        here = f"127.0.0.1:{broker.port}"
        ok(call("context", "set", "a", "--uri", f"rabbitmq-stream://u@{here}", *command))
        ok(call("context", "set", "b", "--uri", f"rabbitmq-stream://u:{SECRET}@{here}"))
        for context in ("a", "b"):
            ok(call("stream", "create", "s", "--exists-ok", "-c", context))
            assert ran.exists() == (context == "a")
            ran.unlink(missing_ok=True)
            # Another user: there is no password, and nobody to ask.
            done = call("stream", "create", "s", "--exists-ok", "-c", context, "--username", "v")
            assert (done.status, done.errors.splitlines()[0]) == (2, "error: no password is given for the user 'v'")
            # Another address: the context's user is not that one's.
            done = call("stream", "create", "s", "--exists-ok", "-c", context, "--uri", f"rabbitmq-stream://{here}")
            assert done.status == 0
            done = call("stream", "create", "s", "-c", context, "--uri", f"rabbitmq-stream://u@{here}")
            assert (done.status, done.errors.splitlines()[0]) == (2, "error: no password is given for the user 'u'")
            assert not ran.exists()


def test_a_management_address_goes_with_its_uri() -> None:
    """A password for another broker must not go to it."""
    uri = "rabbitmq-stream://u@h"
    context = context_layer("a", {"uri": uri, "management_uri": "https://m"})
    none = command_line_layer({})
    assert management_uri([none, context]) == "https://m"
    assert management_uri([command_line_layer({"vhost": "v"}), context]) == "https://m"
    for other in ({"uri": "rabbitmq-stream://u@other"}, {"host": "other"}):
        assert management_uri([command_line_layer(other), context]) is None
    assert management_uri([command_line_layer({"uri": uri, "management_uri": "https://n"}), context]) == "https://n"


def test_a_context_with_a_host_is_hidden_by_another_address(call: Call, tmp_path: Path) -> None:
    """Not only one with a URI: neither its password nor its management address is for another broker."""
    ran = tmp_path / "ran"
    command = ("--password-command", f"touch {ran}; echo {SECRET}", "--management-uri", "http://localhost:1")
    for name, where in (("host", ("--host", "127.0.0.1")), ("port", ("--port", "1"))):
        ok(call("context", "set", name, *where, "--username", "u", *command))
        for words in (("--host", "localhost"), ("--uri", "rabbitmq-stream://localhost:1")):
            found = shown(call, "-c", name, *words)
            assert "password_command" not in found
            done = call("stream", "list", "-c", name, *words, "--username", "u")
            assert (done.status, done.errors.splitlines()[0]) == (2, "error: no password is given for the user 'u'")
            layers = [command_line_layer({words[0][2:]: words[1]}), context_layer(name, found_values(call, name))]
            assert management_uri(layers) is None
        assert "password_command" in shown(call, "-c", name, "--port", "2")
    assert not ran.exists()


def found_values(call: Call, name: str) -> dict[str, str]:
    values: dict[str, str] = json.loads(ok(call("context", "show", name, "--json")))["settings"]
    return values


URI = f"rabbitmq-stream+tls://app:{SECRET}@prod.invalid:5551"
OF_USER = {"username": "app", "password": SECRET}


@pytest.mark.parametrize(
    ("options", "environment", "context", "refused"),
    [
        # The address of the API stands elsewhere than the password and the broker's address.
        ({}, {"management_uri": "https://m"}, {"uri": URI}, True),
        ({"uri": URI}, {"management_uri": "https://m"}, {}, True),
        ({"uri": URI}, {}, {"management_uri": "https://m"}, True),
        ({}, {"management_uri": "https://m"}, {"host": "h", **OF_USER}, True),
        ({"host": "h", "password_file": "f"}, {"management_uri": "https://m"}, {"username": "app"}, True),
        ({}, OF_USER, {"management_uri": "https://m"}, True),
        ({}, {"management_uri": "https://m"}, {"host": "h", "username": "app"}, True),  # one that is typed
        # With the password, or with the broker's address that it is for, or in an option.
        ({}, {"management_uri": "https://m", "uri": URI}, {}, False),
        ({}, {"management_uri": "https://m", **OF_USER}, {"host": "h"}, False),
        ({}, OF_USER, {"host": "h", "management_uri": "https://m"}, False),
        ({"password_file": "f"}, {"management_uri": "https://m", "host": "h", "username": "app"}, {}, False),
        ({}, {}, {"uri": URI, "management_uri": "https://m"}, False),
        ({"management_uri": "https://m"}, {}, {"uri": URI}, False),
        # No secret, or no address.
        ({"host": "h"}, {"management_uri": "https://m"}, {}, False),
        ({}, {}, {"uri": URI}, False),
    ],
)
def test_where_a_management_address_must_stand(
    options: dict[str, str], environment: dict[str, str], context: dict[str, str], refused: bool
) -> None:
    said = environment_layer({f"RSTREAM_{name.upper()}": text for name, text in environment.items()})
    layers = [command_line_layer(options), said, context_layer("c", context)]
    label = foreign_management(layers)
    assert (label is not None) is refused
    if refused:
        assert label in ("RSTREAM_MANAGEMENT_URI", "management_uri of the context 'c'")


def test_a_password_does_not_go_to_a_management_address_of_another_place(call: Call) -> None:
    """Nor where TAB asks."""
    ok(call("context", "set", "prod", "--uri", URI))
    ok(call("context", "use", "prod"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        where = f"http://127.0.0.1:{other.getsockname()[1]}"
        env = {"RSTREAM_MANAGEMENT_URI": where}
        for words in ((), ("-c", "prod")):
            done = call("stream", "list", *words, env=env)
            assert (done.status, done.output) == (6, "")
            assert f"the password is not sent to {where}: RSTREAM_MANAGEMENT_URI does not stand where" in done.errors
            assert f"pass --management-uri {where} if it is of the same broker" in done.errors
            assert call("consume", *words, "", env={**env, "_RSTREAM_COMPLETE": "fish"}).output == ""
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_context_is_all_that_a_command_needs(call: Call) -> None:
    with EmbeddedBroker() as broker:
        ok(call("context", "set", "here", "--uri", broker.uri, "--stream", "events"))
        ok(call("context", "use", "here"))
        ok(call("stream", "create", "events"))
        ok(call("publish", "-m", "one"))
        assert ok(call("consume", "--offset", "first", "--until", "end")) == "one\n"
        ok(call("offset", "store", "0", "--name", "r"))
        assert ok(call("offset", "query", "--name", "r")) == "0\n"
        assert ok(call("offset", "resolve", "first")) == "0\n"
        done = call("consume", env={"RSTREAM_CONTEXT": "nope"})
        assert (done.status, done.errors.splitlines()[0]) == (4, "error: RSTREAM_CONTEXT: there is no context 'nope'")


def test_a_broker_of_its_own_asks_no_context(call: Call, tmp_path: Path, file: Path) -> None:
    """Nor does anything else that does not connect."""
    file.parent.mkdir(parents=True)
    file.write_text("nonsense")
    file.chmod(0o600)
    (tmp_path / "broker").mkdir()
    assert call("version").status == 0
    assert call("completion", "bash").status == 0
    with Terminal() as terminal:
        env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
        with shell_on(terminal, f"exec {RSTREAM} broker run --port 0", env) as shell:
            assert shell.stdout is not None
            assert eventually(shell.stdout.readline).startswith(b"rabbitmq-stream://")
            shell.terminate()
            assert shell.wait(20) == 143


@pytest.mark.parametrize(
    "words", [("consume", "-c"), ("context", "use"), ("context", "show"), ("stream", "info", "-c")]
)
def test_names_are_completed(call: Call, words: tuple[str, ...]) -> None:
    for name in ("prod", "prod-2", "test"):
        ok(call("context", "set", name, "--host", "h", "--password-command", "touch /nonexistent/x"))
    assert ok(call(*words, "pr", env={"_RSTREAM_COMPLETE": "fish"})) == "prod\nprod-2\n"
    assert ok(call(*words, "", env={"_RSTREAM_COMPLETE": "zsh"})) == "prod\nprod-2\ntest\n"
    line = f"rstream {' '.join(words)} t"
    assert ok(call(line, "t", env={"_RSTREAM_COMPLETE": "bash"})) == "test\n"
