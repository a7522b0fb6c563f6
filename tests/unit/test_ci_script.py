"""What lets a change land: a step that cannot be made is no step that passed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.brokers import SCRIPT

STEPS = [
    "make check",
    "python -m tests.twins --compiled",
    "make referees",
    "fresh demo --timeout 900",
    "python -m tests.interop.programs",
    "make test",
]


@pytest.mark.parametrize(
    ("fresh", "allowed", "status", "steps"),
    [
        (0, "", 0, 6),
        (1, "", 1, 4),
        (1, "1", 1, 4),
        (124, "1", 124, 4),
        (6, "", 6, 4),
        (6, "0", 6, 4),
        (6, "1", 0, 6),
    ],
)
def test_the_fresh_machine(tmp_path: Path, fresh: int, allowed: str, status: int, steps: int) -> None:
    """In a checkout where every step only says that it was made."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT.parent.parent / ".ci/run", tmp_path / ".ci/run")
    made = tmp_path / "made"
    for name, ends_with in (("bin/make", 0), ("scripts/fresh", fresh), (".venv/bin/python", 0), ("bin/id", 0)):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        told = "echo 1000" if program.name == "id" else f'echo "{program.name} $*" >> {made}'
        program.write_text(f"#!/bin/sh\n{told}\nexit {ends_with}\n")
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "RSTREAM_ALLOW_NO_FRESH": allowed}
    done = subprocess.run([tmp_path / ".ci/run"], env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, made.read_text().splitlines()) == (status, STEPS[:steps])
