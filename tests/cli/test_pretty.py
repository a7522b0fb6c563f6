"""``--pretty``: JSON is laid out for a person at a terminal, and a line a value for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.brokers import Broker
from tests.cli.conftest import run_here, run_rstream

COMMANDS = (
    "stream info STREAM --json",
    "stream list --pattern STREAM --json",
    "superstream info STREAM-s --json",
    "superstream route STREAM-s key --json",
    "offset query STREAM --name me --json",
    "offset resolve STREAM first --json",
    "offset list STREAM --json",
    "offset reset STREAM --name me --to next --dry-run --json",
    "consume STREAM -o first -n 1 --json",
    "consume STREAM -o first -n 1 --output json",
    "sac-consume STREAM --name g -n 1 --json --stats none",
    "lag STREAM --name me --json",
    "lag STREAM --output json",
    "doctor --json",
    "context show --effective --json",
    "version --json",
    "bench consume STREAM -q --json",
)


@pytest.fixture
def made(broker: Broker, stream_name: str) -> Iterator[dict[str, str]]:
    """The stream with eight messages and a stored offset, and a super stream."""
    env = {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": broker.management_uri, "STREAM": stream_name}

    def run(*arguments: str) -> None:
        done = run_rstream(*arguments, env=env)
        assert done.returncode == 0, done.stderr

    run("publish", stream_name, "--create", *("-m", "one", "-m", "two") * 4)
    run("superstream", "create", f"{stream_name}-s", "--partitions", "2")
    run("offset", "store", stream_name, "1", "--name", "me")
    yield env
    run("stream", "delete", stream_name, "--yes")
    run("superstream", "delete", f"{stream_name}-s", "--yes")


@pytest.mark.parametrize("command", COMMANDS)
def test_people_get_it_laid_out_and_programs_a_line(made: dict[str, str], command: str) -> None:
    words = command.replace("STREAM", made["STREAM"]).split()
    env = {**made, "XDG_CONFIG_HOME": "/nonexistent"}
    line = run_here(*words, env=env)
    assert line.status == 0, line.errors
    assert all(json.loads(each) is not None for each in line.output.splitlines())
    shown = run_here(*words, env=env, terminal=True)
    assert shown.status == 0
    assert shown.output.startswith('{\n  "')
    assert shown.output.endswith("\n}\n")
    assert "\x1b" not in shown.output  # TERM=dumb
    colored = run_here(*words, *(() if words[0] == "version" else ("--color", "always")), env=env, terminal=True)
    assert ("\x1b[36m" in colored.output) is (words[0] != "version")
    one_line = run_here(*words, "--pretty", "never", env=env, terminal=True).output
    assert one_line.count("\n") == line.output.count("\n")
    always = run_here(*words, "--pretty", "always", env=env).output
    assert always.startswith('{\n  "')


def test_what_is_laid_out_is_taken_again(made: dict[str, str], stream_name: str) -> None:
    """By `jq`, not by ``publish --json``, which takes lines."""
    done = run_here("consume", stream_name, "-o", "first", "-n", "2", "--json", "--pretty", "always", env=made)
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(done.output)
    second, _ = decoder.raw_decode(done.output[end + 1 :])
    assert [first["body"], second["body"]] == ["one", "two"]


def test_it_changes_nothing_but_json(made: dict[str, str], stream_name: str) -> None:
    words = ("consume", stream_name, "-o", "first", "-n", "2", "--pretty", "always")
    assert run_here(*words, env=made, terminal=True).output == "one\ntwo\n"
