"""Tests of the seam run with each of its twins: a module that imports ``each_twin`` does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rstream_core.protocol import wire
from rstream_core.protocol.wire_choice import CHOICE, Choice, choose, load_compiled
from rstream_core.protocol.wire_source import SOURCE

COMPILED, PYTHON = "compiled", "python"
THERE: Choice = choose({}, load_compiled, SOURCE)
"""The compiled twin, also where the variable of the environment has chosen the other one for this run."""


@pytest.fixture(scope="module", autouse=True, params=[COMPILED, PYTHON])
def each_twin(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which one the seam uses meanwhile."""
    chosen: str = request.param
    if chosen == COMPILED and THERE.compiled is None:
        pytest.skip(THERE.reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_compiled", THERE.compiled if chosen == COMPILED else None)
        yield chosen
    assert wire._compiled is CHOICE.compiled
