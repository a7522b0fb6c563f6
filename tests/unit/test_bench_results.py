"""What the processes of a benchmark say becomes one result; connection settings reach them whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rstream_cli.bench import plan, results
from rstream_cli.bench.histogram import Histogram
from rstream_cli.bench.payload import Size
from rstream_cli.bench.settings import from_json, to_json
from rstream_cli.connection_settings import build_options, command_line_layer, context_layer, environment_layer
from rstream_cli.passwords import PasswordSources
from rstream_core.types import ConnectionOptions, Credentials

BOTH = {"a": 10, "b": 5}


def reading(stream: str, *tallies: tuple[int, int, int], foreign: int = 0, whole: bool = True) -> dict[str, Any]:
    told = {str(place): list(tally) for place, tally in enumerate(tallies)}
    return {"stream": stream, "tallies": told, "foreign": foreign, "must_be_whole": whole}


@pytest.mark.parametrize(
    ("readings", "sent_again", "found"),
    [
        ([reading("a", (6, 0, 0), (4, 0, 0)), reading("b", (5, 0, 0))], 0, {"ok": True}),
        ([reading("a", (6, 0, 0), (3, 0, 0)), reading("b", (5, 0, 0))], 0, {"ok": False, "missing": 1}),
        ([reading("a"), reading("b", (5, 0, 0))], 0, {"ok": False, "missing": 10}),
        ([reading("a", (4, 0, 0), whole=False), reading("b", (5, 0, 0))], 0, {"ok": True, "missing": 0}),
        ([reading("a", (10, 2, 0)), reading("b", (5, 0, 0))], 0, {"ok": False, "doubled": 2}),
        ([reading("a", (10, 2, 0)), reading("b", (5, 0, 0))], 2, {"ok": True, "doubled": 2}),
        ([reading("a", (10, 3, 0)), reading("b", (5, 0, 0))], 1, {"ok": False, "doubled": 3}),
        ([reading("a", (10, 0, 1)), reading("b", (5, 0, 0))], 9, {"ok": False, "misplaced": 1}),
        ([reading("a", (11, 0, 0), foreign=4), reading("b", (5, 0, 0))], 0, {"ok": True, "foreign": 4}),
    ],
)
def test_the_check_of_all_consumers(readings: list[Any], sent_again: int, found: dict[str, Any]) -> None:
    each = [{"readings": readings[:1]}, {"readings": readings[1:]}]
    checked = results.checked(each, BOTH, sent_again)
    assert checked | found == checked


def window(messages: int, cpu: float, begin: int, end: int) -> dict[str, Any]:
    told = {"messages": messages, "bytes": messages * 100, "cpu": cpu, "begin": begin, "end": end}
    return {"window": told, "memory": 1000}


def test_a_side_has_the_rate_of_all_its_processes() -> None:
    side = results.side([window(3000, 0.5, 0, 2 * 10**9), window(1000, 0.3, 10**9, 4 * 10**9)])
    assert side == {
        "messages": 4000,
        "bytes": 400_000,
        "seconds": 4.0,
        "rate": 1000.0,
        "byte_rate": 100_000.0,
        "cpu": 200.0,
        "memory": 2000,
    }
    nothing = results.side([window(0, 0.5, 7, 7)])
    assert (nothing["rate"], nothing["byte_rate"], nothing["cpu"]) == (None, None, None)


def test_seconds_are_shown_once_all_have_told_them() -> None:
    shown: list[Mapping[str, Any]] = []
    seconds = results.Seconds(("publish", "publish", "consume"), shown.append)

    def told(second: int, messages: int, latency: int) -> dict[str, Any]:
        whole = Histogram()
        whole.add(latency)
        return {"second": second, "messages": messages, "bytes": messages, "latency": whole.encoded()}

    seconds.add(0, told(1, 10, 100))
    seconds.add(1, told(1, 5, 300))
    assert not shown
    seconds.add(0, told(2, 30, 900))  # quicker than another one
    seconds.add(2, told(1, 12, 50))
    assert len(shown) == 1
    assert shown[0]["publish"]["latency"]["max"] == 900
    assert shown[0]["consume"]["messages"] == 12
    seconds.done(1, 9, 9)
    seconds.add(2, told(2, 20, 60))
    assert [row["second"] for row in shown] == [1, 2]
    assert (shown[1]["publish"]["total"], shown[1]["consume"]["messages"]) == (39, 8)


@pytest.mark.parametrize(
    "part",
    [
        plan.Publishing(
            run=1, warm_up=1.0, duration=None, streams=["a"], producers=[0, 3], size=Size(8, 9), batch=5, counts=[1, 2]
        ),
        plan.Publishing(
            run=1, warm_up=0.0, duration=2.0, streams=["a"], producers=[0], size=Size(3, 3, b"\xff\0\n"), batch=1
        ),
        plan.Consuming(run=4095, warm_up=0.5, duration=1.0, consumers=[["a", "b"]], size=Size(8, 8), expected=BOTH),
        plan.Consuming(run=0, warm_up=0.0, duration=None, consumers=[["a"]], until={"a": 7}, count=3),
    ],
)
def test_a_part_is_told_as_json(part: plan.Part) -> None:
    assert plan.from_json(json.loads(json.dumps(plan.to_json(part)))) == part


def passed_on(*layers: Any) -> tuple[ConnectionOptions, ConnectionOptions]:
    """The options of the program, and those of its process."""
    options = build_options(layers, connection_name="rstream bench both", passwords=PasswordSources())
    told = json.loads(json.dumps(to_json(layers, options)))
    there, _, _ = from_json(told, PasswordSources())
    return options, there


@pytest.mark.parametrize(
    ("line", "variables", "context"),
    [
        ({}, {}, {}),
        ({"uri": "rabbitmq-stream://me:se%2Fcret@a:1/v\nrabbitmq-stream://b:2"}, {}, {}),
        ({"host": "h", "username": "me"}, {"RSTREAM_PASSWORD": "p w"}, {}),
        ({"vhost": "v", "heartbeat": "3s"}, {"RSTREAM_PORT": "77", "RSTREAM_LOAD_BALANCER": "yes"}, {"host": "c"}),
        ({}, {}, {"uri": "rabbitmq-stream://c:5", "username": "u", "password": "of the context"}),
        ({"uri": "rabbitmq-stream://guest:@a"}, {}, {}),
        ({"frame_max": "0", "connect_timeout": "3"}, {}, {}),
    ],
)
def test_settings_reach_a_process(line: dict[str, str], variables: dict[str, str], context: dict[str, str]) -> None:
    ours, theirs = passed_on(command_line_layer(line), environment_layer(variables), context_layer("c", context))
    assert theirs == ours


def test_a_password_that_can_be_read_once_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from the file\n")
    layers = (command_line_layer({"username": "me", "password_file": str(file)}),)
    options = build_options(layers, connection_name="x", passwords=PasswordSources())
    file.unlink()
    there, _, _ = from_json(to_json(layers, options), PasswordSources())
    assert there.credentials == Credentials("me", "from the file")


def test_recovery_and_waiting_are_passed_on() -> None:
    layers = (command_line_layer({"recover_for": "0", "wait_for_broker": "5s"}),)
    options = build_options(layers, connection_name="x", passwords=PasswordSources())
    _, recovery, wait = from_json(to_json(layers, options), PasswordSources())
    assert (recovery, wait) == (None, 5.0)
