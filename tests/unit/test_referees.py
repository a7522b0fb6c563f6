"""A missing referee of the codec is told: as a skip, or as a failure where one is required."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging import markers

from tests.brokers import SCRIPT
from tests.referees import referee

NO_WHEEL = "ERROR: No matching distribution found for uamqp>=1.6.9"


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def on(monkeypatch: pytest.MonkeyPatch, **machine: str) -> None:
    """Has the markers of pyproject.toml evaluated as on another machine."""
    here: dict[str, Any] = {**markers.default_environment(), **machine}
    monkeypatch.setattr(markers, "default_environment", lambda: here)


@pytest.mark.parametrize("module", ["proton", "uamqp"])
def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.delenv("RSTREAM_REQUIRE_REFEREES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make referees"):
        referee(module)


@pytest.mark.parametrize("module", ["proton", "uamqp"])
def test_what_is_required_must_be_there(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setenv("RSTREAM_REQUIRE_REFEREES", "1")
    on(monkeypatch, python_version="3.13", platform_machine="x86_64")
    with pytest.raises(pytest.fail.Exception, match=f"{module} is not installed"):
        referee(module)


@pytest.mark.parametrize(("version", "processor"), [("3.14", "x86_64"), ("3.13", "aarch64"), ("3.11", "arm64")])
def test_what_no_machine_of_this_kind_has_is_not_required(
    monkeypatch: pytest.MonkeyPatch, version: str, processor: str
) -> None:
    monkeypatch.setenv("RSTREAM_REQUIRE_REFEREES", "1")
    on(monkeypatch, python_version=version, platform_machine=processor)
    with pytest.raises(pytest.skip.Exception):
        referee("uamqp")
    with pytest.raises(pytest.fail.Exception):
        referee("proton")


@pytest.mark.parametrize(
    ("said", "pip", "status"),
    [
        ("Successfully installed uamqp-1.6.11", 0, 0),
        (f"Looking in indexes: https://i.invalid\n{NO_WHEEL}", 1, 0),
        (f"WARNING: Retrying (Retry(total=0)) after connection broken: /simple/uamqp/\n{NO_WHEEL}", 1, 1),
        (f"WARNING: Could not fetch URL https://i.invalid: 403 Client Error - skipping\n{NO_WHEEL}", 1, 1),
        ("ERROR: Could not install packages due to an OSError: No space left on device", 1, 1),
        ("no such option: --group", 2, 2),
    ],
)
def test_no_wheel_is_told_from_what_else_goes_wrong(tmp_path: Path, said: str, pip: int, status: int) -> None:
    """What is passed over is not tried again."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/__init__.py").touch()
    (tmp_path / "pip/__main__.py").write_text(f"print({said!r})\nraise SystemExit({pip})\n")
    command = [sys.executable, str(SCRIPT.parent / "install_uamqp.py")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, f"{said}\n" if status else "")
    assert ("its tests are skipped" in done.stdout) == (status == 0 and pip != 0)
