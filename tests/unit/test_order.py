"""The order of the test files, and how many processes test them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import order


def test_the_long_files_are_there_and_named_once() -> None:
    names = [name for name, _ in order.LONG]
    assert len(names) == len(set(names)) > 5
    for name in names:
        assert (order.ROOT / name).is_file(), name


def test_long_files_come_first_in_their_order_and_others_stay_as_they_are() -> None:
    first, second = (order.ROOT / name for name, _ in order.LONG[:2])
    others = [order.ROOT / "tests/unit/test_text.py", order.ROOT / "tests/cli/test_version.py", Path("/elsewhere.py")]
    assert sorted([others[0], second, *others[1:], first], key=order.place_of) == [first, second, *others]


def test_pytest_takes_them_in_this_order() -> None:
    long = order.LONG[0][0]
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "tests/unit/test_text.py", long]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=order.ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    files = list(dict.fromkeys(line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line))
    assert files == [long, "tests/unit/test_text.py"]


@pytest.mark.parametrize(("usable", "expected"), [(1, 2), (2, 4), (4, 8), (64, 8)])
def test_two_workers_for_each_processor(monkeypatch: pytest.MonkeyPatch, usable: int, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    assert order.workers() == expected
