"""The limits of what tests wait for."""

from __future__ import annotations

import sys

import pytest

from tests.cli.process import running


def test_a_process_that_says_nothing_does_not_hold_up_its_reader() -> None:
    program = (sys.executable, "-c", "import time; time.sleep(60)")

    def read() -> bytes:
        with running(env={}, program=program, limit=0.5) as process:
            assert process.stdout is not None
            return process.stdout.read()

    with pytest.raises(AssertionError, match="it took longer than"):
        read()
