"""Has a script run in this checkout's virtual environment, which is made where there is none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PYTHON = _ROOT / ".venv" / "bin" / "python"


def enter(needed: str) -> None:
    """Starts the script again in the environment, where the module ``needed`` is not there in this one."""
    if importlib.util.find_spec(needed) is not None or sys.executable == str(_PYTHON):
        return
    subprocess.run(["make", "--quiet", "venv"], cwd=_ROOT, check=True)
    os.execv(_PYTHON, [str(_PYTHON), *sys.argv])
