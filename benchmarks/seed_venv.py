"""An environment of its own for the published client, so that it never meets this project's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "rstream==1.1.1"


def seed_python() -> Path | None:
    """Its interpreter; None, and a word on stderr, where the published client cannot be installed here."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "rstream" / "bench-seed"
    python = place / "bin" / "python"
    if not _has_client(python):
        print(f"installing {REQUIREMENT} into {place}", file=sys.stderr)
        if not _install(place, python):
            shutil.rmtree(place, ignore_errors=True)
            print(f"the published client is left out: {REQUIREMENT} cannot be installed here", file=sys.stderr)
            return None
    return python


def _has_client(python: Path) -> bool:
    name, version = REQUIREMENT.split("==")
    check = f"import importlib.metadata as m, {name}; raise SystemExit(m.version({name!r}) != {version!r})"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install(place: Path, python: Path) -> bool:
    make = [sys.executable, "-m", "venv", "--clear", str(place)]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
    try:
        subprocess.run(make, check=True, stdout=sys.stderr, timeout=120)
        subprocess.run(install, check=True, stdout=sys.stderr, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{REQUIREMENT}: {error}", file=sys.stderr)
        return False
    return _has_client(python)
