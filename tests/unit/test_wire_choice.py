"""Which twin of the seam is used, and what is said of it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import pytest

from rstream_core import Client, refused_twin
from rstream_core.protocol import wire
from rstream_core.protocol.wire_choice import CHOICE, PURE_PYTHON, Choice, choose
from rstream_core.protocol.wire_source import SOURCE
from tests.twins import THERE

COMPILED = types.SimpleNamespace(SOURCE="abc")


def there() -> Any:
    return COMPILED


def missing() -> Any:
    raise ModuleNotFoundError("No module named '_wire'")


def broken() -> Any:
    raise ImportError("_wire.abi3.so: undefined symbol: PyFoo")


def test_the_compiled_one_is_used_where_it_fits() -> None:
    for value in ("", "0"):
        choice = choose({PURE_PYTHON: value}, there, "abc")
        assert choice == (COMPILED, "", False)
        assert str(choice) == "compiled"


@pytest.mark.parametrize(
    ("environ", "load", "source", "reason", "is_refused"),
    [
        ({PURE_PYTHON: "1"}, there, "abc", "RSTREAM_PURE_PYTHON is set", False),
        ({PURE_PYTHON: "no"}, missing, "abc", "RSTREAM_PURE_PYTHON is set", False),
        ({}, missing, "abc", "the compiled part was not built when this was installed", False),
        ({}, broken, "abc", "the compiled part cannot be loaded: _wire.abi3.so: undefined symbol: PyFoo", True),
        ({}, there, "abd", "the compiled part was made from another source; install this again", True),
    ],
)
def test_python_is_used_otherwise(
    environ: dict[str, str], load: Any, source: str, reason: str, is_refused: bool
) -> None:
    assert choose(environ, load, source) == (None, reason, is_refused)
    assert str(choose(environ, load, source)) == f"pure Python: {reason}"


def test_the_seam_uses_what_was_chosen() -> None:
    assert wire._compiled is CHOICE.compiled
    if os.environ.get(PURE_PYTHON, "") in {"", "0"}:
        assert CHOICE.compiled is THERE.compiled


async def test_a_refused_one_is_told_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(refused_twin, "CHOICE", Choice(None, "it does not fit", is_refused=True))
    refused_twin.tell_refused.cache_clear()
    with caplog.at_level(logging.WARNING, "rstream_core"):
        for _ in range(3):
            await Client().close()
    assert [record.getMessage() for record in caplog.records] == [
        "messages are handled in Python, and more slowly: it does not fit"
    ]


async def test_one_that_was_not_built_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refused_twin, "CHOICE", Choice(None, "not built"))
    refused_twin.tell_refused.cache_clear()
    await Client().close()
    assert caplog.records == []


@pytest.mark.skipif(THERE.compiled is None, reason=THERE.reason)
def test_a_library_of_another_source_is_not_used(tmp_path: Path) -> None:
    """As it is after an update of the files alone."""
    root = Path(wire.__file__).parents[2]
    shutil.copytree(root / "rstream_core", tmp_path / "rstream_core", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rstream_core" / "protocol" / "wire_source.py").write_text('SOURCE = "0123456789abcdef"\n')
    script = (
        "from rstream_core.protocol import wire; "
        "print(wire.__file__, wire.CHOICE.reason, wire.join_plain([b'x']).hex(), sep='|')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    file, reason, joined = found.stdout.strip().split("|")
    assert Path(file).is_relative_to(tmp_path)
    assert reason == "the compiled part was made from another source; install this again"
    assert joined == "00000006005375a00178"


@pytest.mark.skipif(
    not Path(sysconfig.get_path("include"), "Python.h").exists() or not shutil.which("cc"),
    reason="no C compiler, or no Python.h",
)
@pytest.mark.skipif(bool(os.environ.get(PURE_PYTHON)), reason="RSTREAM_PURE_PYTHON is set")
def test_a_machine_that_can_compile_tests_the_compiled_one() -> None:
    """So that a run which says that it has tested it has done so."""
    assert THERE.compiled is not None, THERE.reason
    assert THERE.compiled.SOURCE == SOURCE


def test_a_run_that_needs_the_compiled_part_fails_without_it() -> None:
    """As .ci/run asks: else all tests might pass there with nothing of the compiled part tested."""
    env = os.environ | {PURE_PYTHON: "1"}
    program = [sys.executable, "-m", "tests.twins"]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "WARNING: NO TEST USES" in done.stderr) == (0, True)
    done = subprocess.run([*program, "--compiled"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "error: NO TEST USES" in done.stderr) == (1, True)
