"""The generated files are what the commands say now, and the table of commands tells no tales."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from rstream_cli.app import COMMANDS, app
from rstream_cli.typer_support import PROGRAM
from tests.cli.conftest import environment, run_rstream

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    "env",
    [{}, {"COLUMNS": "47"}, {"GITHUB_ACTIONS": "true", "FORCE_COLOR": "1", "LC_ALL": "C", "PYTHONHASHSEED": "7"}],
    ids=["plain", "narrow", "ci"],
)
def test_the_files_are_up_to_date_wherever_they_are_generated(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate.py"), "--check"],
        env=environment(env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + "run `make generate`"


def test_the_summaries_of_the_table_are_those_of_the_commands() -> None:
    context = typer.Context(typer.main.get_command(app), info_name=PROGRAM)
    for name, lazy in COMMANDS.items():
        command = context.command.get_command(context, name)  # type: ignore[attr-defined]
        assert command.help.split("\n\n")[0].replace("\n", " ") == lazy.summary, name


def _commands() -> list[list[str]]:
    found: list[list[str]] = [[]]
    context = typer.Context(typer.main.get_command(app), info_name=PROGRAM)
    for name in COMMANDS:
        command = context.command.get_command(context, name)  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, child] for child in getattr(command, "commands", ())]
    return found


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("words", _commands(), ids=lambda words: " ".join(words) or "rstream")
def test_every_help_page_fits_and_has_an_example(words: list[str], columns: int) -> None:
    done = run_rstream(*words, "--help", env={"COLUMNS": str(columns)})
    assert done.returncode == 0
    assert done.stderr == b""
    page = done.stdout.decode()
    assert " ".join(page.split()).startswith(f"Usage: {' '.join(['rstream', *words])} ")
    head, _, examples = page.partition("\nExamples:\n")
    assert "rstream " in examples
    assert all(len(line) <= columns for line in head.splitlines()), page


# --- completion ----------------------------------------------------------------------------------------------

METHODS = ["batch", "send", "wait", "sub-entry"]
STARTS = ["first", "last", "next", "stored"]
FILE = ["FILE"]
"""Stands for whatever the shell finds for the name of a file."""
LINES: list[tuple[str, list[str]]] = [
    ("rstream pub", ["publish"]),
    ("rstream offset qu", ["query"]),
    ("rstream superstream cons", ["consume"]),
    ("rstream no-such-command x", []),
    ("rstream publish s --meth", ["--method"]),
    ("rstream publish 'my s' --meth", ["--method"]),
    ("rstream publish s --method b", ["batch"]),
    ("rstream publish s --method ", METHODS),
    ("rstream publish s --method=b", ["--method=batch"]),
    ("rstream publish s --method=", [f"--method={word}" for word in METHODS]),
    ("rstream publish s --method=batch --method", []),
    ("rstream publish s --no-such=b", []),
    ("rstream consume s --offset ", STARTS),
    ("rstream consume s -o ", STARTS),
    ("rstream consume s --offset=", [f"--offset={word}" for word in STARTS]),
    ("rstream sac-consume s --name g --until ", ["end"]),
    ("rstream consume s --format ", []),
    ("rstream consume ", []),
    ("rstream publish s ", FILE),
    ("rstream publish -- s --method", FILE),
    ("rstream publish s --ca-file ", FILE),
    ("rstream publish s --ca-file=", FILE),
    ("rstream completion z", ["zsh"]),
    ("rstream --versio", ["--version"]),
    ("rstream --version", ["--version"]),
]
"""Lines up to the cursor, and what may stand in the place of the last word."""
IN_SHELLS = [
    row
    for row in LINES
    if row[0].endswith((" pub", "'my s' --meth", " --method=b", " --method=", "-o ", "--ca-file=", "--versio"))
]
"""Those that are tried in the shells themselves, which start the program for each."""


def _ids(line: object) -> str | None:
    return line if isinstance(line, str) else None


def _complete(program: list[str]) -> list[str]:
    """What a shell prints."""
    env = environment({"HOME": "/nonexistent"})
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("line", "expected"), LINES, ids=_ids)
def test_what_may_stand_at_the_cursor(line: str, expected: list[str]) -> None:
    words = [*shlex.split(line)[1:], *([""] if line.endswith(" ") else [])]
    done = run_rstream(*words, env={"_RSTREAM_COMPLETE": "fish"})
    assert [text.partition("\t")[0] for text in done.stdout.decode().splitlines()] == (
        [] if expected is FILE else expected
    )
    assert (done.returncode, done.stderr) == (3 if expected is FILE else 0, b"")


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ('rstream "pub', 0, "publish\n"),
        ('rstream publish s "sp', 3, ""),
        ('rstream publish foo -m "unclosed --met', 0, ""),
        ("rstream publish 'my s' --meth", 0, "--method\n"),
        ("rstream publish s sp\\", 3, ""),
    ],
)
def test_a_quotation_that_is_not_closed(line: str, status: int, expected: str) -> None:
    """bash gives the line as it stands."""
    done = run_rstream(line, line.rpartition(" ")[2], env={"_RSTREAM_COMPLETE": "bash"})
    assert (done.returncode, done.stdout.decode(), done.stderr) == (status, expected, b"")


@pytest.mark.parametrize(("line", "expected"), IN_SHELLS, ids=_ids)
def test_completion_in_bash(tmp_path: Path, line: str, expected: list[str]) -> None:
    """Its function is called as bash would on TAB: $2 is what is behind the last break character."""
    script = tmp_path / "try"
    script.write_text(
        "complete() { :; }; compopt() { COMPREPLY=(FILE); }\n"
        "source completions/rstream.bash\n"
        "COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=(left over)\n"
        '_rstream_completion rstream "$2"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    word = line.rpartition(" ")[2]
    for replaced in {word, word.rpartition("=")[2]}:  # the second where "=" is a break character, as it is by default
        found = _complete(["bash", "--norc", str(script), line, replaced])
        shown = [text[len(word) - len(replaced) :] if text != "FILE" else text for text in expected]
        assert [text for text in found if text] == shown, replaced


def test_a_program_that_fails_leaves_the_line_as_it_is(tmp_path: Path) -> None:
    """As one that Ctrl-C ends."""
    script = tmp_path / "try"
    script.write_text(
        "source completions/rstream.bash\n"
        "rstream() { echo Traceback >&2; return 130; }\n"
        "COMP_LINE='rstream pu' COMP_POINT=10\n"
        "_rstream_completion rstream pu\n"
        'echo "${#COMPREPLY[@]}"\n'
    )
    assert _complete(["bash", "--norc", str(script)]) == ["0"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(("line", "expected"), IN_SHELLS, ids=_ids)
def test_completion_in_zsh(line: str, expected: list[str]) -> None:
    program = (
        "compdef() { : }; compset() { : }; _files() { print FILE }; _describe() { print -lr -- ${lines%%:*} }\n"
        'source completions/rstream.zsh; words=("${(@z)1}"); [[ $1 == *" " ]] && words+=("")\n'
        "CURRENT=${#words}; _rstream || true"
    )
    assert _complete(["zsh", "-fc", program, "zsh", line]) == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "expected"), [row for row in IN_SHELLS if row[1] is not FILE], ids=_ids)
def test_completion_in_fish(line: str, expected: list[str]) -> None:
    found = _complete(["fish", "--no-config", "-c", "source completions/rstream.fish; complete -C $argv[1]", line])
    assert sorted(text.partition("\t")[0] for text in found) == sorted(expected)


def test_help_texts_come_whole_to_the_shells() -> None:
    """Apostrophes, backslashes, colons and dollar signs are data: nothing is evaluated."""
    words = ("publish", "s", "--de")
    text = (
        r"End each line at this text instead of a newline: one or more bytes, in which \n \r \t \0 \\ \xNN are escapes."
    )
    done = run_rstream(*words, env={"_RSTREAM_COMPLETE": "fish"})
    assert done.stdout.decode() == f"--delimiter\t{text}\n"
    done = run_rstream(*words, env={"_RSTREAM_COMPLETE": "zsh"})
    escaped = text.replace("\\", "\\\\").replace(":", "\\:")
    assert done.stdout.decode() == f"--delimiter:{escaped}\n"
    done = run_rstream("publish", "s", "--ca-f", env={"_RSTREAM_COMPLETE": "zsh"})
    assert done.stdout.decode() == "--ca-file:Trust the certificate authorities in this file instead of the system's.\n"


def test_an_unknown_shell_gets_nothing() -> None:
    done = run_rstream("pub", env={"_RSTREAM_COMPLETE": "complete_bash"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("line", ["rstream publish 's --meth", "rstream publish s\\"])
def test_a_quotation_that_is_not_closed_is_no_error(line: str) -> None:
    done = run_rstream(line, "", env={"_RSTREAM_COMPLETE": "bash"})
    assert (done.returncode, done.stderr) in ((0, b""), (3, b""))
