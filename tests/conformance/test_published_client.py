"""The published client, which shares no code with this project, against both brokers.

It has an environment of its own, as in the benchmarks: its packages never meet these.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.seed_venv import REQUIREMENT, seed_python
from tests.brokers import Broker

PROGRAM = Path(__file__).with_name("published_client_program.py")


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has it."""
    found = seed_python()
    if found is None:
        if os.environ.get("RSTREAM_REQUIRE_RABBITMQ") == "1":
            pytest.fail(f"{REQUIREMENT} cannot be installed here", pytrace=False)
        pytest.skip(f"{REQUIREMENT} cannot be installed here")
    return found


def test_it_creates_publishes_consumes_and_stores_offsets(python: Path, broker: Broker, stream_name: str) -> None:
    done = subprocess.run(
        [python, PROGRAM, broker.host, str(broker.port), broker.username, broker.password, stream_name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "created": True,
        "exists": "StreamAlreadyExists",
        "confirmed": 320,
        "sub_entry": "confirmed",
        "consumed": [str(number) for number in range(300)] + [f"named {number}" for number in range(20)],
        "in_sub_entry": [f"sub {number}" for number in range(10)],
        "from_the_middle": ["150", 150],
        "stored": 41,
        "not_stored": "OffsetNotFound",
        "super_stream": [30, 30],
        "deleted": "StreamDoesNotExist",
    }
