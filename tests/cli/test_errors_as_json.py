"""Errors of commands that are asked for JSON: one object on stderr, with code, kind, message and hint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rstream_cli.app import app
from rstream_cli.exit_status import KINDS, CommandError, ExitStatus, kind_of
from rstream_cli.typer_support import LazyGroup
from rstream_core import EmbeddedBroker, StreamDoesNotExist
from rstream_core.connecting.nodes import _AnotherNode
from tests.brokers import Broker
from tests.cli.conftest import Done, Run, run_here

ANSWERING = {
    "bench both",
    "bench compare",
    "bench consume",
    "bench publish",
    "consume",
    "context list",
    "context show",
    "diff",
    "doctor",
    "dump info",
    "dump verify",
    "lag",
    "offset list",
    "offset query",
    "offset reset",
    "offset resolve",
    "sac-consume",
    "stream info",
    "stream list",
    "superstream consume",
    "superstream info",
    "superstream route",
    "version",
}


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    """The URI of a broker with a stream ``s`` and a super stream ``p``."""
    with EmbeddedBroker() as broker:
        for words in (("stream", "create", "s"), ("superstream", "create", "p", "--partitions", "2")):
            assert run_here(*words, env={"RSTREAM_URI": broker.uri}).status == 0
        yield broker.uri


def error_of(done: Done) -> dict[str, Any]:
    """The one object, which is all of stderr; the exit code is in it."""
    (line,) = done.errors.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert list(found) == ["code", "kind", "message", "hint"]
    assert found["code"] == done.status
    return found


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, LazyGroup):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_every_command_that_answers_something_has_json() -> None:
    found = {
        path
        for path, command in commands(typer.main.get_command(app))
        if any("--json" in parameter.opts and parameter.name == "json" for parameter in command.params)
    }
    assert found == ANSWERING


@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        ("stream info nobody", "StreamDoesNotExist", "stream 'nobody': the stream does not exist"),
        ("consume nobody", "StreamDoesNotExist", "stream 'nobody': the stream does not exist"),
        ("sac-consume nobody --name g", "StreamDoesNotExist", "there is no stream and no super stream 'nobody'"),
        ("superstream consume nobody", "StreamDoesNotExist", "super stream 'nobody': the super stream does not exist"),
        ("superstream info nobody", "StreamDoesNotExist", "super stream 'nobody': the super stream does not exist"),
        ("superstream route nobody k", "StreamDoesNotExist", "super stream 'nobody': the super stream does not exist"),
        (
            "superstream route p k --routing key",
            "RouteNotFound",
            "super stream 'p' has no partition for routing key 'k'",
        ),
        (
            "offset query s --name n",
            "OffsetNotFound",
            "the offset of 'n' in stream 's': no offset is stored under this name",
        ),
        ("offset resolve nobody first", "StreamDoesNotExist", "stream 'nobody': the stream does not exist"),
        ("lag nobody --name n", "StreamDoesNotExist", "there is no stream and no super stream 'nobody'"),
        ("lag s --name n", "NotFound", "no offset is stored as 'n' in stream 's'"),
        ("offset resolve s sometime", "UsageError", "not an offset: 'sometime'"),
        ("stream info", "UsageError", "no stream is given"),
        ("stream info s --nope", "UsageError", "no such option: --nope"),
        ("offset query s", "UsageError", "missing option '--name'"),
        ("stream info s --host x --uri rabbitmq-stream://x", "ConfigurationError", "--uri and --host contradict"),
        ("stream info s --vhost none", "VirtualHostAccessFailure", "virtual host 'none': the virtual host does not"),
        ("doctor --heartbeat never", "ConfigurationError", "--heartbeat: not a duration: 'never'"),
        ("version extra", "UsageError", "got unexpected extra argument"),
        ("consume s -n many", "UsageError", "--count: not a whole number: 'many'"),
    ],
)
def test_an_error_is_one_object(here: str, command: str, kind: str, message: str) -> None:
    done = run_here(*command.split(), "--json", env={"RSTREAM_URI": here})
    found = error_of(done)
    assert found["kind"] == kind
    assert found["message"].startswith(message)
    assert done.output == ""


def test_the_hint_is_in_it_and_is_null_where_there_is_none(here: str) -> None:
    done = run_here("offset", "query", "--json", env={"RSTREAM_URI": here})
    assert error_of(done)["hint"] == "see `rstream offset query --help`"
    done = run_here("offset", "query", "s", "--name", "n", "--json", env={"RSTREAM_URI": here})
    assert error_of(done)["hint"] is None


def test_output_json_is_the_same(here: str) -> None:
    for words in (("--output", "json"), ("--output=json",)):
        assert error_of(run_here("consume", "nobody", *words, env={"RSTREAM_URI": here}))["code"] == 4
        assert error_of(run_here("consume", "s", *words, "--nope", env={"RSTREAM_URI": here}))["code"] == 2


@pytest.mark.parametrize(
    "command", ["publish nobody -m x", "consume nobody --json", "publish s x.txt", "consume s -n x"]
)
@pytest.mark.parametrize("stats", [("--stats", "json"), ("--stats=json",)])
def test_with_json_statistics_it_is_an_event(here: str, command: str, stats: tuple[str, ...]) -> None:
    done = run_here(*command.split(), *stats, env={"RSTREAM_URI": here})
    first, *others = [json.loads(line) for line in done.errors.splitlines()]
    assert list(first) == ["event", "code", "kind", "message", "hint"]
    assert (first["event"], first["code"]) == ("error", done.status)
    assert [other["event"] for other in others] == (["summary"] if done.status == 4 else [])
    assert [other["error"] for other in others] == [first["message"]] * len(others)


@pytest.mark.parametrize(
    "command", ["publish nobody --json -m {}", "stream info -- --json", "stream info nobody", "publish s --json --nope"]
)
def test_errors_are_lines_where_json_is_not_what_is_answered(here: str, command: str) -> None:
    assert run_here(*command.split(), env={"RSTREAM_URI": here}).errors.startswith("error: ")


def test_each_of_several_errors_is_an_object(here: str) -> None:
    words = ("superstream", "route", "p", "a", "1", "b", "--routing", "key", "--json")
    done = run_here(*words, env={"RSTREAM_URI": here})
    assert [json.loads(line)["kind"] for line in done.errors.splitlines()] == ["RouteNotFound"] * 2
    assert json.loads(done.output) == {"super_stream": "p", "key": "1", "partitions": ["p-1"]}
    assert done.status == 4


def test_nothing_of_a_name_steers_a_terminal(here: str) -> None:
    done = run_here("stream", "info", "a\x1b[2J\u202eb\n", "--json", env={"RSTREAM_URI": here}, terminal=True)
    assert done.errors.count("\n") == 1
    assert "\x1b" not in done.errors
    assert "\u202e" not in done.errors
    assert error_of(done)["kind"] == "StreamDoesNotExist"


def test_route_answers_in_json(run: Run, broker: Broker, stream_name: str) -> None:
    assert run("superstream", "create", stream_name, "--routing-keys", "eu,us").returncode == 0
    try:
        done = run("superstream", "route", stream_name, "eu", "us", "--routing", "key", "--json")
        assert [json.loads(line) for line in done.stdout.splitlines()] == [
            {"super_stream": stream_name, "key": key, "partitions": [f"{stream_name}-{key}"]} for key in ("eu", "us")
        ]
    finally:
        run("superstream", "delete", stream_name, "--yes")


def test_every_error_has_a_kind() -> None:
    assert set(KINDS) == set(ExitStatus)
    assert len(set(KINDS.values())) == len(KINDS)
    assert kind_of(CommandError("x", status=ExitStatus.NOT_CONFIRMED)) == "NotConfirmed"
    assert kind_of(StreamDoesNotExist()) == "StreamDoesNotExist"
    assert kind_of(_AnotherNode("x")) == "ConnectionFailed"  # the name of a private class means nothing to anybody
    assert kind_of(RuntimeError()) == "ProgramError"
