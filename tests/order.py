"""In which order the files are tested, and by how many processes.

A file is tested by one process, as its tests share a broker. The run ends when the last file does, so the files that
take longest begin first. In the order of their names the property tests would begin near the end.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LONG: tuple[tuple[str, str], ...] = (
    ("tests/cli/test_consume.py", "48 s of processor time, and runs that wait for a time, a timeout or a slow reader"),
    (
        "tests/cli/test_outages.py",
        "outages of seconds, one after the other: 6 s of processor time, over a minute of waits",
    ),
    ("tests/cli/test_ending.py", "33 s of processor time: processes that get signals, pipes that close, full disks"),
    ("tests/cli/test_generated.py", "15 s of processor time: processes, and shells that complete words"),
    ("tests/cli/test_publish.py", "37 s of processor time"),
    ("tests/faults/test_embedded.py", "clients that read nothing, or little, until the broker ends them"),
    ("tests/faults/test_blocks.py", "brokers that are killed and come back, under a reader and under workers"),
    ("tests/faults/test_back_pressure.py", "publishers that wait until a broker that is slow confirms"),
    ("tests/cli/test_hostile_text.py", "300 runs"),
    ("tests/cli/test_broker.py", "a broker in a process of its own for each test"),
    ("tests/cli/test_superstream_consume.py", "11 s of processor time: groups of processes that are killed"),
    ("tests/faults/test_recovery_publisher.py", "outages, one after the other"),
    ("tests/property/test_amqp.py", "generated messages: 8 s of processor time"),
    ("tests/property/test_flow.py", "generated runs: 7 s of processor time"),
    ("tests/cli/test_idle_note.py", "runs in which nothing comes, of two seconds each"),
    ("tests/cli/test_pretty.py", "80 runs"),
    ("tests/cli/test_bench.py", "runs of seconds, each with processes of its own"),
)
"""The files that take longest without RabbitMQ, the longest first, each with what takes the time, as it was measured
test by test in November 2026."""

MOST_WORKERS = 8
"""Each worker may start a RabbitMQ of its own, which takes 200 MB."""


@cache
def place_of(path: Path) -> int:
    """Returns the place of a file among those that take long; all others have the same place behind them."""
    return _PLACES.get(path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "", len(LONG))


_PLACES = {name: place for place, (name, _) in enumerate(LONG)}


def workers() -> int:
    """Returns how many processes test: two for each processor of this one, since most tests wait; 8 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2 * usable, MOST_WORKERS)
