"""Fixtures of the conformance tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.seed_venv import REQUIREMENT, seed_python
from tests.clients import arguments, client, options, stream, super_stream
from tests.wire import there, wire

__all__ = ["arguments", "client", "options", "stream", "super_stream", "there", "wire"]


@pytest.fixture(scope="session")
def published_python() -> Path:
    """The interpreter that has the published client."""
    found = seed_python()
    if found is None:
        if os.environ.get("RSTREAM_REQUIRE_RABBITMQ") == "1":
            pytest.fail(f"{REQUIREMENT} cannot be installed here", pytrace=False)
        pytest.skip(f"{REQUIREMENT} cannot be installed here")
    return found
