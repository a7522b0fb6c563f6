"""A missing referee of the codec is told: as a skip, or as a failure where one is required."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from packaging import markers

from tests.referees import referee


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
