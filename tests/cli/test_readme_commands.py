"""The shell sessions of the README, from its top to its end, on a broker that holds nothing.

Each line that begins with a ``$`` is run as it stands, in one folder, and what it writes to stdout is what the README
shows below it. A reader who types them in order, or begins at any heading, meets no error but the one that is shown.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rstream_core.broker import EmbeddedBroker
from tests.cli.conftest import RSTREAM, environment

README = Path(__file__).resolve().parents[2] / "README.md"

NOT_RUN = ("rstream broker run", "scripts/rabbitmq", "rstream sac-consume")
"""The broker is there already; RabbitMQ has tests of its own; a reader that goes on for ever."""
FAILS = {"rstream stream create events --exists-ok": 9}
"""The one that shows how an error looks. The README shows stderr where a command fails."""
SHOWS_PROGRESS = "--stats line"
"""What such a command shows is on stderr, and differs each time."""


class Step(NamedTuple):
    """A command, and the lines that are shown below it."""

    command: str
    shown: tuple[str, ...]


def sessions() -> Iterator[tuple[str, list[Step]]]:
    """Every block with commands, and the heading above it."""
    heading = ""
    block: list[str] | None = None
    for line in README.read_text().splitlines():
        if block is None and line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("```"):
            if block is not None and any(row.startswith("$ ") for row in block):
                yield heading, steps(block)
            block = [] if block is None else None
        elif block is not None:
            block.append(line)


def steps(block: list[str]) -> list[Step]:
    found: list[Step] = []
    for row in block:
        if row.startswith("$ "):
            found.append(Step(row[2:], ()))
        else:
            found[-1] = Step(found[-1].command, (*found[-1].shown, row))
    return found


def pattern(shown: tuple[str, ...]) -> str:
    """What is the same on every broker: not the time, or the port."""
    text = re.escape("".join(f"{line}\n" for line in shown))
    text = re.sub(r'"timestamp":"[^"]+"', '"timestamp":"[^"]+"', text)
    text = re.sub(r"localhost:\d+", r"localhost:\\d+", text)
    text = re.sub(r"(?:\\ )+\d+\\ s\\\n", lambda _: r" +\d+ s\n", text)
    return re.sub(r"\d+\\ s\\ ago\\ \\\(.*?\\\)", lambda _: r"(?:now|\d+ s ago) \([-0-9: ]+ UTC\)", text)


@pytest.mark.slow
def test_every_session_works_as_it_stands(tmp_path: Path) -> None:
    ran = 0
    with EmbeddedBroker() as broker:
        env = environment({"RSTREAM_URI": broker.uri, "LC_ALL": "C.UTF-8"})
        env["PATH"] = f"{RSTREAM.parent}:{env['PATH']}"
        for heading, session in sessions():
            for command, shown in session:
                if any(part in command for part in NOT_RUN):
                    continue
                done = subprocess.run(
                    ["bash", "-c", f"set -o pipefail; {command}"],
                    cwd=tmp_path,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                )
                where = f"{heading}: {command}\n{done.stdout}{done.stderr}"
                assert done.returncode == FAILS.get(command, 0), where
                if SHOWS_PROGRESS not in command:
                    written = done.stderr if command in FAILS else done.stdout
                    assert re.fullmatch(pattern(shown), written), where
                ran += 1
    assert ran > 30
