"""Compiles the seam (rstream_core/protocol/_wire.c) where that can be done: for a wheel, or in place.

Where it cannot, the wheel is a pure one, which does the same in Python, and one line says why. No fault of a compiler
ever breaks an installation.

Environment:
    RSTREAM_PURE_PYTHON      anything but 0: compile nothing
    CC, CFLAGS, LDFLAGS      the compiler, and what it gets besides; ARCHFLAGS on macOS
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("rstream_core", "protocol", "_wire.c")
LIBRARY = SOURCE.with_name("_wire.abi3.so")
"""Where it goes, and where an installation in place has it: beside its source."""
TIMEOUT = 120
"""Seconds for the compiler."""


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled part to a wheel, and says for which systems the wheel is then."""

    PLUGIN_NAME = "custom"
    _folder = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        in_place = root / LIBRARY if version == "editable" else None
        try:
            self._folder = tempfile.mkdtemp(prefix="rstream-build-")
            built = Path(self._folder, LIBRARY.name)
            reason = why_not() or compile_library(root / SOURCE, built)
            if reason is None and in_place is not None:
                put_in_place(built, in_place)
        except (OSError, ValueError) as error:
            reason = str(error)
        if reason:
            if in_place is not None:
                with contextlib.suppress(OSError):  # where it stays, it is refused if its source is another
                    in_place.unlink(missing_ok=True)
            self.app.display_warning(f"rstream: without its compiled part, in pure Python: {reason}")
            return
        if in_place is None:
            build_data["force_include"][str(built)] = LIBRARY.as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def put_in_place(built: Path, library: Path) -> None:
    """Puts the library beside its source. Not over the old one: a program that runs has it mapped."""
    beside = library.with_name(f"{library.name}.{os.getpid()}")
    try:
        shutil.copy(built, beside)
        beside.replace(library)
    finally:
        beside.unlink(missing_ok=True)


def why_not() -> str | None:
    """Returns why nothing is to be compiled; None where it may be tried."""
    if os.environ.get("RSTREAM_PURE_PYTHON", "") not in {"", "0"}:
        return "RSTREAM_PURE_PYTHON is set"
    if sys.implementation.name != "cpython":
        return f"this is {sys.implementation.name}, not CPython"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded Python has no limited API"
    if os.name != "posix":
        return f"it is compiled on POSIX systems only, and this is {os.name}"
    if sys.platform != "darwin" and "_PYTHON_HOST_PLATFORM" in os.environ:
        return "this is a build for another machine"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing (Debian has it in python3-dev)"
    if compiler() is None:
        return "there is no C compiler"
    return None


def compiler() -> list[str] | None:
    """Returns the compiler and its first arguments; None where there is none."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return None


def source_hash(source: Path) -> str:
    """Returns what the compiled part and rstream_core/protocol/wire_source.py say about the source."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]


def compile_command(source: Path, library: Path) -> list[str]:
    """Returns what compiles it. There must be a ``compiler``."""
    is_macos = sys.platform == "darwin"
    return [
        *(compiler() or ()),
        *("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
        f'-DWIRE_SOURCE="{source_hash(source)}"',
        f"-I{sysconfig.get_path('include')}",
        *shlex.split(os.environ.get("CFLAGS", "")),
        *(shlex.split(os.environ.get("ARCHFLAGS", "")) if is_macos else ()),
        str(source),
        *(("-bundle", "-undefined", "dynamic_lookup") if is_macos else ("-shared",)),
        *shlex.split(os.environ.get("LDFLAGS", "")),
        *("-o", str(library)),
    ]


def compile_library(source: Path, library: Path) -> str | None:
    """Compiles it, and looks whether it loads. Returns what is wrong in a line; None where all is well."""
    load = (
        "import importlib.machinery as m, importlib.util as u, sys; "
        "u.module_from_spec(u.spec_from_loader('_wire', m.ExtensionFileLoader('_wire', sys.argv[1])))"
    )
    for what, command in (
        ("the compiler", compile_command(source, library)),
        ("what was compiled", [sys.executable, "-c", load, str(library)]),
    ):
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{what} failed: {error}"
        if done.returncode:
            return f"{what} failed: {first_line(done.stderr)}"
    return None


def first_line(text: str) -> str:
    """Returns the line that says what is wrong: the first with an error, else the last."""
    lines = text.strip().splitlines() or ["it did not say why"]
    return next((line for line in lines if "rror:" in line), lines[-1])


def platform_tag() -> str:
    """Returns the last part of the wheel's tag. On Linux, auditwheel makes a wheel for many systems of it."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if struct.calcsize("P") == 4:  # the system may have 64 bits where Python has 32
        for large, small in (("linux_x86_64", "linux_i686"), ("linux_aarch64", "linux_armv7l")):
            platform = platform.replace(large, small)
    return platform
