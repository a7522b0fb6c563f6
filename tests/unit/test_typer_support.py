"""What is taken from inside Typer is still there: an upgrade that changed it would slow every start in silence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rstream_cli.app import app
from rstream_cli.typer_support import PROGRAM, _Coercion, _is_known, kind_of


def parameters() -> Iterator[Any]:
    """Those of every command, as they are when it is run."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[Any]:
        context = typer.Context(command, info_name=words[-1])
        yield from (pytest.param(p, id=" ".join([*words, p.name])) for p in command.get_params(context))
        for name in getattr(command, "list_commands", lambda _: ())(context):
            yield from walk(command.get_command(context, name), (*words, name))

    yield from walk(typer.main.get_command(app), (PROGRAM,))


@pytest.mark.parametrize("parameter", list(parameters()))
def test_values_are_read_without_pydantic(parameter: Any) -> None:
    if parameter.name == "help":
        return  # click's own
    assert _is_known(kind_of(parameter), parameter.type_descriptor.parameter_info)
    assert type(vars(parameter)["_runtime_param"]) is _Coercion


@pytest.mark.parametrize(
    "words",
    [
        [
            "publish",
            "s",
            "-m",
            "x",
            "--batch-size",
            "5",
            "--linger",
            "1ms",
            "--rate",
            "5/s",
            "--failed-to",
            "/dev/null",
        ],
        ["consume", "s", "-n", "3", "--idle-timeout", "1s", "--codec", "raw", "--credit", "5"],
        ["superstream", "create", "s", "--partitions", "3"],
        ["broker", "run", "--port", "x"],
    ],
    ids=" ".join,
)
def test_a_run_does_not_import_pydantic(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from rstream_cli.__main__ import main\n"
        f"sys.argv = ['rstream', *{words!r}]\n"
        "try:\n    main()\n"
        "finally:\n    sys.stderr.write('\\nmodules ' + ' '.join(sys.modules))\n"
    )
    environ = {"RSTREAM_HOST": "127.0.0.1", "RSTREAM_PORT": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    modules = done.stderr.rpartition("modules ")[2].split()
    assert "rstream_cli.typer_support" in modules
    assert "pydantic" not in modules
