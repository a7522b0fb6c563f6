"""``rstream version`` and ``rstream --version``."""

from __future__ import annotations

import json
import platform

import pytest

from rstream_core import __version__
from tests.cli.conftest import run_rstream


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_flag_prints_one_line(flag: str) -> None:
    done = run_rstream(flag)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rstream {__version__}\n".encode(), b"")


def test_the_command_names_what_it_runs_on() -> None:
    done = run_rstream("version")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = dict(line.split(" ", 1) for line in done.stdout.decode().splitlines())
    assert lines["rstream"] == __version__
    assert lines["python"].startswith(platform.python_version())
    assert {"system", "cramjam", "mmh3", "orjson", "rich", "typer", "uamqp"} <= lines.keys()


def test_the_command_prints_json() -> None:
    done = run_rstream("version", "--json")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    found = json.loads(done.stdout)
    assert found.keys() == {"rstream", "python", "system", "libraries"}
    assert found["rstream"] == __version__
    assert found["libraries"]["typer"]
