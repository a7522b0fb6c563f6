"""``rstream version`` and ``rstream --version``."""

from __future__ import annotations

import json
import platform

import pytest

from rstream_core import __version__
from rstream_core.protocol.wire_choice import CHOICE, PURE_PYTHON
from tests.cli.conftest import process_rstream, run_rstream


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
    assert lines["compiled"] == ("yes" if CHOICE.compiled else f"no: {CHOICE.reason}")
    assert {"system", "cramjam", "mmh3", "orjson", "rich", "typer", "uamqp"} <= lines.keys()


def test_the_command_prints_json() -> None:
    done = run_rstream("version", "--json")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    found = json.loads(done.stdout)
    assert found.keys() == {"rstream", "python", "system", "compiled", "libraries"}
    assert found["compiled"] == {"used": CHOICE.compiled is not None, "reason": CHOICE.reason or None}
    assert found["rstream"] == __version__
    assert found["libraries"]["typer"]


def test_the_compiled_part_can_be_left_out() -> None:
    done = process_rstream("version", env={PURE_PYTHON: "1"})
    assert b"\ncompiled no: RSTREAM_PURE_PYTHON is set\n" in done.stdout
    found = json.loads(process_rstream("version", "--json", env={PURE_PYTHON: "1"}).stdout)
    assert found["compiled"] == {"used": False, "reason": "RSTREAM_PURE_PYTHON is set"}
