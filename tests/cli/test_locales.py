"""What is written where the locale is not UTF-8: JSON is all the same, and people see escapes and no error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker
from tests.brokers import IS_MEASURED
from tests.cli.conftest import RSTREAM, Run, environment, process_rstream
from tests.cli.process import ended, running
from tests.cli.terminal import Terminal

NAME = "n\xe9 \U0001f600"
ESCAPED = r"n\xe9 \U0001f600"


DUMP = "the file with a dump"
"""Stands for its path in the words of a command."""


@pytest.fixture(scope="module")
def dump(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dump of the stream."""
    path = str(tmp_path_factory.mktemp("dump") / "d")
    words = ("consume", NAME, "--output", "dump", "--output-file", path, "--until", "end")
    assert process_rstream(*words, env=env).returncode == 0
    return path


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """Where a broker is, in a locale that has no more than ASCII."""
    with EmbeddedBroker(management_port=0) as broker:
        found = {
            "RSTREAM_URI": broker.uri,
            "RSTREAM_MANAGEMENT_URI": str(broker.management_uri),
            "PYTHONIOENCODING": "ascii",
        }
        assert process_rstream("publish", NAME, "--create", "-m", NAME, env=found).returncode == 0
        assert process_rstream("offset", "store", NAME, "0", "--name", NAME, env=found).returncode == 0
        assert process_rstream("superstream", "create", f"{NAME}s", "--partitions", "1", env=found).returncode == 0
        yield found


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    """As a process: its encoding is Python's, set at the start."""
    return partial(process_rstream, env=env)


JSON_COMMANDS = {
    "stream info": (NAME,),
    "stream list": (),
    "superstream info": (f"{NAME}s",),
    "superstream route": (f"{NAME}s", NAME),
    "offset resolve": (NAME, "first"),
    "offset query": (NAME, "--name", NAME),
    "lag": (NAME,),
    "offset list": (NAME,),
    "offset reset": (NAME, "--name", NAME, "--to", "1", "--dry-run"),
    "diff": (NAME, NAME),
    "doctor": ("--stream", NAME),
    "dump info": (DUMP,),
    "dump verify": (DUMP,),
    "consume": (NAME, "-o", "first", "--until", "end"),
    "bench publish": (NAME, "--count", "1", "-q"),
    "bench consume": (NAME, "-q"),
    "bench both": (NAME, "--count", "1", "-q"),
}


def test_no_command_is_left_out() -> None:
    """Of those that print JSON; ``version`` has no text of anybody's in it, and names of contexts are ASCII."""
    pages = (Path(__file__).parents[2] / "docs/cli.md").read_text().split("\n## rstream ")
    printing = {page.splitlines()[0] for page in pages if re.search(r" --json +Print ", page)}
    assert printing == JSON_COMMANDS.keys() - {"consume"} | {"version", "context list", "context show", "bench compare"}


@pytest.mark.parametrize("command", [(*name.split(), *rest, "--json") for name, rest in JSON_COMMANDS.items()])
def test_json_is_utf_8(run: Run, dump: str, command: tuple[str, ...]) -> None:
    done = run(*(dump if word == DUMP else word for word in command))
    assert (done.returncode, done.stderr) == (0, b"")
    for line in done.stdout.decode().splitlines():
        assert json.loads(line)
    assert NAME in done.stdout.decode()


@pytest.mark.parametrize("stats", ["json", "line"])
def test_statistics(run: Run, stats: str) -> None:
    done = run("consume", NAME, "-o", "first", "--until", "end", "--stats", stats)
    assert done.returncode == 0
    last = done.stderr.decode().splitlines()[-1]
    assert json.loads(last)["stream"] == NAME if stats == "json" else f"from {ESCAPED} in" in last


@pytest.mark.parametrize(
    "command",
    [
        ("stream", "info", NAME),
        ("superstream", "info", f"{NAME}s"),
        ("superstream", "route", f"{NAME}s", "k\xe9y"),
        ("doctor", "--stream", NAME),
        ("lag", NAME, "--name", NAME),
    ],
)
def test_people_see_escapes(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ESCAPED in done.stdout.decode("ascii")


@pytest.mark.parametrize(
    "command", [("consume", NAME, "-o", "first", "--until", "end", "--json"), ("stream", "info", NAME, "--json")]
)
@pytest.mark.parametrize(("pretty", "end"), [("auto", "\r\n}\r\n"), ("never", "}\r\n")])
def test_json_on_a_terminal_is_json(env: dict[str, str], command: tuple[str, ...], pretty: str, end: str) -> None:
    words = (*command, "--pretty", pretty)
    with Terminal(2000) as terminal, running(*words, env=env, stdout=terminal.descriptor) as process:
        terminal.read_until(end)
        assert process.wait(20) == 0
        text = terminal.text
    assert text.isascii()
    found, _ = json.JSONDecoder().raw_decode(text)
    assert NAME in found.values()


@pytest.mark.skipif(IS_MEASURED, reason="coverage needs room for a file of its own")
@pytest.mark.parametrize("room", [0, 200, 300, 400, 500])
def test_doctor_ends_in_order_where_stdout_takes_no_more(env: dict[str, str], tmp_path: Path, room: int) -> None:
    """Whatever it is in the middle of."""
    limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}));"
    program = (sys.executable, "-c", f"{limited} os.execv(sys.argv[1], sys.argv[1:])", str(RSTREAM))
    with (
        (tmp_path / "output").open("wb") as output,
        running("doctor", "--stream", NAME, env=env, stdout=output, program=program) as process,
    ):
        code, errors = ended(process)
    assert (code, errors) == (1, "error: cannot write to stdout: File too large\n")


def test_unbuffered_is_unbuffered() -> None:
    """As Python's own stdout would be: what is written is there, however the process ends."""
    program = "import os, rstream_cli.environment as e; e.Environment.of_process().stdout.write('x'); os._exit(0)"
    for unbuffered, expected in (("1", b"x"), ("", b"")):
        env = environment({"PYTHONUNBUFFERED": unbuffered})
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=30, check=True)
        assert done.stdout == expected
