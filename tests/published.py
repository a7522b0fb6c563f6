"""The published client's own files, read from its wheels when a test runs: nothing of them is kept here."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

VERSIONS = ("0.12.0", "1.1.1")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="rstream-published-")


@functools.cache
def _downloaded(version: str) -> tuple[Path | None, str]:
    """The wheel, or why there is none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", _folder().name, f"rstream=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    found = list(Path(_folder().name).glob(f"rstream-{version}-*.whl"))
    return (found[0], "") if found else (None, done.stderr.strip().rpartition("\n")[2])


def published(version: str, name: str) -> str:
    """A file of the wheel: ``METADATA``, or one of the package.

    Skips the test where it cannot be had; fails it where RSTREAM_REQUIRE_REFEREES=1 says that it must.
    """
    wheel, why = _downloaded(version)
    if wheel is None:
        if os.environ.get("RSTREAM_REQUIRE_REFEREES") == "1":
            pytest.fail(f"RSTREAM_REQUIRE_REFEREES=1, but rstream {version} cannot be downloaded: {why}", pytrace=False)
        pytest.skip(f"rstream {version} cannot be downloaded: {why}")
    path = f"rstream-{version}.dist-info/METADATA" if name == "METADATA" else f"rstream/{name}"
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path).decode()


def code_blocks(version: str) -> list[str]:
    """The Python blocks of its readme, which is its METADATA."""
    return re.findall(r"^ *```python *\n(.*?)^ *```+ *$", published(version, "METADATA"), re.MULTILINE | re.DOTALL)


def public_names(version: str, module: str) -> set[str]:
    """What a module defines at its top, without an underscore: classes, functions, and constants."""
    names: set[str] = set()
    for node in ast.parse(published(version, f"{module}.py")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call | ast.Subscript):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_") and len(name) > 1}


def exported(version: str) -> list[str]:
    """Its ``__all__``."""
    for node in ast.parse(published(version, "__init__.py")).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError("there is no __all__")


def methods(version: str, module: str, cls: str) -> dict[str, list[str]]:
    """The public methods of a class, and ``__init__``, with the names of their arguments."""
    for node in ast.parse(published(version, f"{module}.py")).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return {
                each.name: [arg.arg for arg in (*each.args.args[1:], *each.args.kwonlyargs)]
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                and (each.name == "__init__" or not each.name.startswith("_"))
            }
    raise AssertionError(f"there is no class {cls}")
