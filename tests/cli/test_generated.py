"""The generated files are what the commands say now, and the table of commands tells no tales."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("words", _commands(), ids=lambda words: " ".join(words) or "rstream")
def test_every_help_page_fits_and_has_an_example(words: list[str]) -> None:
    done = run_rstream(*words, "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0
    assert done.stderr == b""
    page = done.stdout.decode()
    assert page.startswith(f"Usage: {' '.join(['rstream', *words])} ")
    head, _, examples = page.partition("\nExamples:\n")
    assert "rstream " in examples
    assert all(len(line) <= 80 for line in head.splitlines()), page


def test_the_completion_script_of_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "try"
    # `complete` ran: the function that it registered is called as bash would on Tab.
    script.write_text(
        "source completions/rstream.bash\n"
        "COMP_WORDS=(rstream offset qu); COMP_CWORD=2\n"
        "_rstream_completion rstream\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = environment()
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", str(script)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["query"], done.stderr
