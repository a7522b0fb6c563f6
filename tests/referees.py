"""The referees of the AMQP codec: libraries that not every machine has, or can have.

Where one is not installed, what asks for it is skipped; RSTREAM_REQUIRE_REFEREES=1 makes that a failure, for those
that pyproject.toml's group `referees` names for this machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

_PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_DISTRIBUTIONS = {"proton": "python-qpid-proton", "uamqp": "uamqp"}


def referee(module: str, *submodules: str) -> Any:
    """The module, with those submodules imported.

    Skips, or fails, the test or the whole file that asks for it where it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        distribution = _DISTRIBUTIONS[module]
        if os.environ.get("RSTREAM_REQUIRE_REFEREES") == "1" and _is_for_this_machine(distribution):
            pytest.fail(f"RSTREAM_REQUIRE_REFEREES=1, but {distribution} is not installed", pytrace=False)
        pytest.skip(f"{distribution} is not installed: make referees", allow_module_level=True)
    for name in submodules:
        importlib.import_module(f"{module}.{name}")
    return importlib.import_module(module)


def _is_for_this_machine(distribution: str) -> bool:
    groups = tomllib.loads(_PYPROJECT.read_text())["dependency-groups"]
    wanted = map(Requirement, groups["uamqp"] + [line for line in groups["referees"] if isinstance(line, str)])
    return any(
        requirement.name == distribution and (requirement.marker is None or requirement.marker.evaluate())
        for requirement in wanted
    )
