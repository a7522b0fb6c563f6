"""Tests of the seam run with each of its twins: a module that imports ``each_twin`` does.

    python -m tests.twins               says which twin all other tests are run with
    python -m tests.twins --compiled    the same, and ends with 1 where it is not the compiled one

It ends with 1 as well where this machine can compile it, and it is not used, since a run of the tests would then show
nothing of what most users have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

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


def main(arguments: Sequence[str]) -> int:
    import hatch_compile

    reason = hatch_compile.why_not()
    print(f"the seam of rstream_core: {CHOICE}")
    if CHOICE.compiled is not None:
        return 0
    if reason is None:
        print("error: it can be compiled here, and is not: run rm .venv/.dev && make venv", file=sys.stderr)
        return 1
    is_required = "--compiled" in arguments
    print(f"{'error' if is_required else 'WARNING'}: NO TEST USES THE COMPILED PART: {reason}", file=sys.stderr)
    return int(is_required)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
