"""``.rstream.toml`` in a foreign folder: nothing runs, no password leaves, and the error names file and line."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_cli.connection_settings import SETTINGS
from rstream_cli.trusted_files import line_of
from rstream_core import EmbeddedBroker
from tests.cli.conftest import Done, run_here

COMMANDS = (
    ("consume", "s"),
    ("publish", "s", "-m", "x"),
    ("stream", "info", "s"),
    ("stream", "list"),
    ("stream", "create", "s"),
    ("stream", "delete", "s", "--yes"),
    ("superstream", "info", "s"),
    ("superstream", "consume", "s"),
    ("superstream", "publish", "s", "-m", "x"),
    ("sac-consume", "s", "--name", "n"),
    ("offset", "query", "s", "--name", "n"),
    ("lag", "s", "--name", "n"),
    ("doctor",),
    ("context", "show"),
    ("context", "show", "--effective"),
)


class Folder:
    """A folder that somebody else has written, of a user who has a context with a password command."""

    def __init__(self, root: Path) -> None:
        self.path = root / "foreign"
        self.path.mkdir()
        self.file = self.path / ".rstream.toml"
        self.ran = root / "ran"
        self.env = {"HOME": str(root), "PATH": os.environ["PATH"]}

    def run(self, *words: str, env: dict[str, str] | None = None) -> Done:
        return run_here(*words, env={**self.env, **(env or {})})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    found = Folder(tmp_path)
    command = f"touch {found.ran}; echo x"
    words = ("--host", "localhost", "--port", "1", "--username", "u", "--password-command", command)
    assert found.run("context", "set", "prod", *words).status == 0
    assert found.run("context", "use", "prod").status == 0
    monkeypatch.chdir(found.path)
    return found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where a hostile file would send a password."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.settimeout(0)
        yield found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_takes_an_address_from_a_project(
    folder: Folder, listener: socket.socket, words: tuple[str, ...]
) -> None:
    port = listener.getsockname()[1]
    folder.file.write_text(f'# of a project\nstream = "s"\n\nuri = "rabbitmq-stream://127.0.0.1:{port}"\n')
    done = folder.run(*words)
    assert done.status == 2
    assert done.data == b""
    assert done.errors == (
        f"error: {folder.file}, line 4: 'uri' is not allowed in the file of a project, which anybody may have written;"
        " allowed: context, stream, color, stats\n"
        'hint: `rstream context set NAME` keeps connection settings; here write: context = "NAME"\n'
    )
    assert not folder.ran.exists()
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize(
    "key", [*SETTINGS, "exec", "use", "context_file", "alias", "URI", "pass-word-command", "include", ""]
)
def test_nothing_else_is_allowed(folder: Folder, key: str) -> None:
    """Whatever it is, and however it is written."""
    evil = f"touch {folder.ran}"
    quoted = "".join(f"\\u{ord(character):04x}" for character in key)
    forms = [f"\"{key}\" = '{evil}'", f"\"{quoted}\" = '{evil}'", f"[\"{key}\"]\ncommand = '{evil}'", f'"{key}".a = 1']
    forms += [f'[["{key}"]]', f"\"{key}\" = '''\n{evil}\n'''", f'"{key}" = [\n1,\n2]']
    for form in forms:
        folder.file.write_text(f'stream = "s"\n# {key} = 1\n{form}\n')
        done = folder.run("consume", "s")
        assert done.status == 2
        assert done.errors.startswith(f"error: {folder.file}, line 3: {key!r} is not allowed in the file of a project")
    assert not folder.ran.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stream = "', "is not TOML: "),
        ("stream = 1", "line 1: 'stream' is not text in quotation marks"),
        ("stream = []", "line 1: 'stream' is not text in quotation marks"),
        ("context = {}", "line 1: 'context' is not text in quotation marks"),
        ('\ncontext = "../x"', "line 2: not the name of a context: '../x'"),
        ('context = "$(touch x)"', "line 1: not the name of a context: '$(touch x)'"),
        ('context = "\\u001b[2J"', r"line 1: not the name of a context: '\x1b[2J'"),
        ('stream = ""', "line 1: the stream name is empty"),
        ('stream = "rabbitmq-stream://u:hunter2@h"', "line 1: the stream name is a URI"),
        (f'stream = "{"s" * 256}"', "line 1: the stream name has 256 bytes"),
        ('color = "blue"', "line 1: 'color' is not one of auto, always, never"),
        ('stats = "json"', "line 1: 'stats' is not one of auto, live, line, none"),
        (f"a = {'[' * 4000}", "is nested too deeply"),
        ("a = 1\n" * 1000, "is larger than 4,096 bytes"),
        ('"\\u001b[2J\\n" = 1', r"line 1: '\x1b[2J\n' is not allowed"),
    ],
)
def test_what_cannot_be_read(folder: Folder, text: str, words: str) -> None:
    folder.file.write_text(text)
    done = folder.run("consume", "s")
    assert done.status == 2
    first = done.errors.splitlines()[0]
    assert first.startswith(f"error: {folder.file}")
    assert words in first
    assert "\x1b" not in done.errors
    assert "hunter2" not in done.errors
    assert not folder.ran.exists()


def test_what_is_no_file(folder: Folder) -> None:
    os.mkfifo(folder.file)
    assert folder.run("consume", "s").errors == f"error: {folder.file} is not a file\n"
    folder.file.unlink()
    folder.file.mkdir()
    assert folder.run("consume", "s").errors == f"error: {folder.file} is not a file\n"
    folder.file.rmdir()
    folder.file.symlink_to(folder.file)
    assert folder.run("consume", "s").errors.startswith(f"error: {folder.file}: Too many levels")
    folder.file.unlink()
    folder.file.symlink_to("/dev/zero")
    assert folder.run("consume", "s").errors == f"error: {folder.file} is not a file\n"
    folder.file.unlink()
    folder.file.write_bytes(b'stream = "\xff"')
    assert folder.run("consume", "s").errors == f"error: {folder.file} is not UTF-8\n"


def test_the_content_of_a_file_that_is_linked_to_is_not_shown(folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "shadow"
    other.write_text("root:hunter2:19000:0:99999:7:::\n")
    folder.file.symlink_to(other)
    done = folder.run("consume", "s")
    assert done.status == 2
    assert "hunter2" not in done.errors


def test_no_password_of_the_environment_goes_where_a_project_says(folder: Folder, listener: socket.socket) -> None:
    """The file chooses among the user's contexts, and so among addresses: the password may be for another one."""
    where = f"127.0.0.1:{listener.getsockname()[1]}"
    words = ("--host", "127.0.0.1", "--port", "1", "--management-uri", f"http://{where}")
    assert folder.run("context", "set", "dev", *words).status == 0
    assert folder.run("context", "set", "dev-app", *words, "--username", "app").status == 0
    file = folder.path / "password"
    file.write_text("hunter2\n")
    passwords = (
        ("RSTREAM_PASSWORD", "hunter2"),
        ("RSTREAM_PASSWORD_FILE", str(file)),
        ("RSTREAM_PASSWORD_COMMAND", f"touch {folder.ran}; echo hunter2"),
    )
    for (variable, text), user in itertools.product(passwords, ("app", None)):
        env = {variable: text} if user is None else {variable: text, "RSTREAM_USERNAME": user}
        for context in ("dev", "dev-app"):
            folder.file.write_text(f'context = "{context}"\n')
            for command in (("stream", "info", "s"), ("offset", "list", "s"), ("stream", "list")):
                if user is None and context == "dev" and command != ("stream", "info", "s"):
                    continue  # guest:guest, which is no secret, goes there
                done = folder.run(*command, env=env)
                is_guest = user is None and context == "dev"
                assert done.status == (6 if is_guest else 2)
                assert (
                    f"{'warning' if is_guest else 'hint'}: {variable} is not used: {folder.file} chose the context"
                    f" '{context}'; --context {context} uses both\n"
                ) in done.errors
            effective = folder.run("context", "show", "--effective", env=env).output
            assert variable not in effective
            # An option of the user's own is trusted.
            assert variable in folder.run("context", "show", "--effective", "-c", context, env=env).output
            if not is_guest:
                assert folder.run("consume", "", env={**env, "_RSTREAM_COMPLETE": "fish"}).output == ""
    assert not folder.ran.exists()
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_context_that_the_user_does_not_have(folder: Folder) -> None:
    folder.file.write_text('context = "nope"\n')
    done = folder.run("consume", "s")
    assert (done.status, done.errors) == (
        4,
        f"error: {folder.file}: there is no context 'nope'\nhint: there are: prod\n",
    )
    assert not folder.ran.exists()


def test_tab_reads_no_project(folder: Folder) -> None:
    folder.file.write_text('password_command = "touch ran"\n')
    assert folder.run("rstream consume -c ", "", env={"_RSTREAM_COMPLETE": "bash"}).output == "prod\n"
    for shell in ("zsh", "fish"):
        assert folder.run("consume", "-c", "", env={"_RSTREAM_COMPLETE": shell}).output == "prod\n"
    assert not folder.ran.exists()


def test_what_a_project_may_say_holds_below_its_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder.path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with EmbeddedBroker() as broker:
        assert folder.run("context", "set", "here", "--uri", broker.uri).status == 0
        folder.file.write_text('context = "here"\nstream = "events"\ncolor = "always"\nstats = "line"\n')
        assert folder.run("stream", "create", "events").status == 0
        done = folder.run("publish", "-m", "one")
        assert "published" in done.errors  # the line of --stats line
        assert folder.run("consume", "-o", "first", "--until", "end", "--stats", "none").output == "one\n"
        doctor = folder.run("doctor").output
        assert "\x1b[32mok" in doctor
        for env in ({"NO_COLOR": "1"}, {"FORCE_COLOR": "0"}):
            assert "\x1b" not in folder.run("doctor", env=env).output
        assert "\x1b" not in folder.run("doctor", "--color", "never").output
    # The nearest file counts, alone.
    (folder.path / "a" / ".rstream.toml").write_text("")
    assert folder.run("context", "show", "--effective").output.startswith("context           prod")


def test_a_folder_that_was_removed_has_no_project(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder.path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert folder.run("context", "show", "prod").status == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("k = 1", 1),
        ("\n\n# k\na = 1\nk = 1\nb = 2\n", 5),
        ("a = '''\nk = 1\n'''\n'k' = '''\n\n'''\n", 4),
        ("[a]\nk = 1\n[k]\n", 3),
        ("a = [\n1,\n]\nk.b.c = 1", 4),
        ("\r\nk = 1\r\n", 2),
    ],
)
def test_the_line_of_a_key(text: str, line: int) -> None:
    assert line_of(text, "k") == line
