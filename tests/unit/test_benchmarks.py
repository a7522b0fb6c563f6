"""The benchmarks' own arithmetic: turns, medians, goals, axes; and how they run a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.__main__ import parse_arguments
from benchmarks.broker import ROOT, undisturbed
from benchmarks.goals import (
    GOALS,
    GROUPS,
    Counts,
    Goal,
    Measured,
    Setting,
    as_json,
    cost,
    expected_seconds,
    measure,
    rows,
)
from benchmarks.peers import axes, clients
from benchmarks.peers.clients import LANGUAGES, Peer
from benchmarks.programs import Failed, OutOfTimeError, Result, Target, run, write_lines
from benchmarks.rounds import Contender, ratio, slope, take_turns
from benchmarks.tables import table
from benchmarks.worker import Work, make_bodies, parse_uri

PATIENCE = 30.0


def result(rate: float = 1.0, cpu: float = 0.0, messages: int = 1000) -> Result:
    return Result(messages, messages / rate, messages / rate + 1, cpu, 10.0, {})


def of(*results: Result) -> Contender:
    made = Contender("made", result)
    made.results += results
    return made


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    """A round that the machine made slow for both does not count."""
    assert ratio(of(result(2), result(20), result(4)), of(result(1), result(10), result(4))) == 2
    assert ratio(of(result(6)), of(result(2), result(1))) == 3  # the other had time for one more


def test_a_slope_tells_the_start_apart() -> None:
    long, short = of(result(cpu=5.0, messages=10_000)), of(result(cpu=1.0, messages=2000))
    assert slope(long, short) == pytest.approx(0.0005)
    assert slope(long, short, 59) == pytest.approx(0.0295)


def test_a_slope_that_drowned_in_noise_is_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("cost", of(result(cpu=1.0, messages=10)), of(result(cpu=1.1, messages=2))) == {}
    assert "give more --messages" in capsys.readouterr().err


def test_the_order_of_each_round_is_reversed() -> None:
    seen: list[str] = []

    def contender(name: str) -> Contender:
        def note() -> Result:
            seen.append(name)
            return result()

        return Contender(name, note)

    assert take_turns("turns", [contender(name) for name in "abc"], 3)
    assert "".join(seen) == "abccbaabc"


def test_no_run_begins_that_would_end_too_late() -> None:
    quick, slow = Contender("quick", result), Contender("slow", result, took=50.0)
    assert not take_turns("turns", [quick, slow], 2, seconds=10)
    assert [len(each.results) for each in (quick, slow)] == [1, 0]


def test_who_fails_is_left_out_and_named() -> None:
    def fail() -> Result:
        raise Failed("the reason")

    faults: list[str] = []

    def late() -> Result:
        raise OutOfTimeError("late")

    bad, slow, good = Contender("bad", fail), Contender("slow", late), Contender("good", result)
    assert take_turns("turns", [bad, slow, good], 2, faults=faults)
    assert faults == ["turns, bad: the reason", "turns, slow: late"]
    assert [len(each.results) for each in (bad, slow, good)] == [0, 0, 2]
    with pytest.raises(Failed, match="the reason"):
        take_turns("turns", [bad], 1)


def test_a_group_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """No broker is there."""
    target = Target("rabbitmq-stream://127.0.0.1:1", 100)
    setting = Setting(target, tmp_path, Counts.of(1000), 1, [], None)
    found, faults = measure(setting, ["json", "send_wait"])
    assert found == {}
    assert [fault.partition(":")[0] for fault in faults] == ["json", "send_wait"]
    assert all("refused" in fault for fault in faults)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_each_goal_is_met_on_its_side_of_the_number(goal: Goal) -> None:
    assert goal.is_met(goal.goal, is_pure=False)
    assert goal.is_met(goal.goal * 2, is_pure=False) is not goal.is_most
    assert goal.is_met(goal.goal / 2, is_pure=False) is goal.is_most
    assert (goal.is_met(1.0, is_pure=True) is None) is (goal.pure is None)
    assert goal.group in GROUPS


def test_the_table_says_what_is_met_and_what_was_not_measured() -> None:
    found = {
        "publish, CPU a message": Measured(0.2, "of this"),
        "publish of lines, of a bare socket, inside": Measured(0.5, "of that"),
    }
    shown = {row[0]: row[1:4] for row in rows(found, ["publish"], is_pure=False)}
    assert shown["publish, CPU a message"] == ("0.2 us", "<= 0.27 us", "yes")
    assert shown["publish of lines, of a bare socket, inside"] == ("0.5 x", ">= 1 x", "NO")
    assert shown["publish beside Go"] == ("not measured", ">= 1.6 x", "-")
    assert not any(name.startswith("consume") for name in shown)
    assert [(each["name"], each["met"]) for each in as_json(found, is_pure=True)] == [
        ("publish of lines, of a bare socket, inside", False),
        ("publish, CPU a message", True),
    ]


def test_the_quick_goals_take_less_than_twenty_minutes() -> None:
    given = parse_arguments(["goals", "--quick"])
    assert expected_seconds(list(GROUPS), given.messages, given.rounds) < 20 * 60
    assert Counts.of(given.messages).long == given.messages
    given = parse_arguments(["peers", "--quick"])
    assert axes.expected_seconds(axes.points([], given.messages, is_quick=True), given.rounds) < 15 * 60


def test_points_stay_within_the_disk() -> None:
    points = axes.points([], 1_000_000, is_quick=False)
    assert {point.axis for point in points} == set(axes.AXES)
    assert {point.value for point in points if point.axis == "messages"} == {1_000_000, 10_000_000, 50_000_000}
    assert all(point.messages * (point.size + axes.OVERHEAD) <= axes.DISK for point in points)
    (huge,) = axes.points([("messages", (10**9,))], 1000, is_quick=False)
    assert huge.messages * (huge.size + axes.OVERHEAD) <= axes.DISK < 10**10 - axes.FILE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["peers", "--axis", "depth"], "no such axis: depth"),
        (["peers", "--axis", "size=big"], "not whole numbers: big"),
        (["peers", "--axis", "size=0"], "from 1 to"),
        (["peers", "--without", "cobol"], "no such name: cobol"),
        (["goals", "--only", "love"], "no such name: love"),
        (["goals", "--messages", "1"], "--messages is at least 1000"),
        (["goals", "--rounds", "0"], "--rounds at least 1"),
        (["goals", "--json", "/nowhere/file"], "--json /nowhere/file: No such file"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_is_for_a_terminal_or_for_a_page() -> None:
    given = [("", "n"), ("one", "1"), ("eleven", "11")]
    assert table(given, is_markdown=False) == "         n\none      1\neleven  11"
    assert table(given, is_markdown=True).splitlines()[:2] == ["|  | n |", "| --- | ---: |"]


def test_a_machine_without_the_tools_leaves_their_clients_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clients.build([]) == []
    said = capsys.readouterr().err
    assert all(f"{language.title} is left out: {language.title}'s client needs" in said for language in LANGUAGES)
    assert clients.build([language.name for language in LANGUAGES]) == []
    assert not capsys.readouterr().err


def test_only_what_compiles_as_it_runs_warms_up() -> None:
    assert Peer("java", "Java", [], warms_up=True).warm_up(5) == 5
    assert Peer("go", "Go", [], warms_up=False).warm_up(5) == 0


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_program_tells_what_it_did_in_its_last_line() -> None:
    done = run(program('print(\'first\'); print(\'{"messages": 7, "seconds": 0.5, "cpu": 0.1}\')'))
    assert (done.messages, done.seconds, done.rate, done.answer["cpu"]) == (7, 0.5, 14.0, 0.1)
    assert done.whole > 0
    assert done.peak_mb > 1
    assert done.cpu > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('the reason')", "ended with 1: the reason"),
        ("print('no JSON')", "gave no answer"),
        ("print('{}')", "gave no answer"),
        ("pass", "gave no answer"),
    ],
)
def test_a_program_that_fails(text: str, said: str) -> None:
    with pytest.raises(Failed, match=said):
        run(program(text))


def test_a_program_that_takes_too_long_is_killed() -> None:
    with pytest.raises(OutOfTimeError, match="has not ended within"):
        run(program("import time; time.sleep(600)"), timeout=0.2)


def test_a_program_ends_with_who_runs_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    os.mkfifo(told)
    inner = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    outer = (
        "import sys; from benchmarks.broker import ended_in_order; from benchmarks.programs import run\n"
        f"with ended_in_order(): run([sys.executable, '-c', {inner!r}])"
    )
    with subprocess.Popen(program(outer), cwd=ROOT) as process:
        pid = int(told.read_text())
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_taking_down_is_not_disturbed() -> None:
    """A signal that comes meanwhile is handled behind it."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_taking_down_works_in_a_thread() -> None:
    seen: list[bool] = []

    def work() -> None:
        with undisturbed():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [True]


def test_a_figure_that_drowned_in_noise_is_not_shown() -> None:
    ours = Contender(axes.OURS, result, [result(cpu=1.0, messages=1000)])
    (point,) = axes.points([("size", (100,))], 1000, is_quick=False)
    for start, shown in ((0.5, ("500.00", "1.00 x")), (1.5, ("-", "-"))):
        ((_, made),) = axes.tables([axes.Measured(point, "publish", [ours], start)])
        assert tuple(made[1][6:8]) == shown


@pytest.mark.parametrize("size", [1, 9, 100, 100_000])
def test_bodies_have_their_size_and_lines_are_bodies(tmp_path: Path, size: int) -> None:
    file = tmp_path / "lines"
    write_lines(file, size, 103)
    lines = file.read_bytes().splitlines()
    assert len(lines) == 103
    assert {len(line) for line in lines} == {size}
    write_lines(file, size, 3, is_keyed=True)
    assert file.read_bytes().splitlines() == [b"%d:%s" % each for each in enumerate(make_bodies(size, 3))]


def test_the_names_of_streams_and_of_partitions() -> None:
    where = parse_uri("rabbitmq-stream://user:p%40ss@there:1234/%2f")
    assert (where.host, where.port, where.username, where.password, where.vhost) == ("there", 1234, "user", "p@ss", "/")
    named = [Work("", 1, "", "", "", stream="s", streams=n, partitions=m).names for n, m in ((1, 0), (2, 0), (1, 1))]
    assert named == [["s"], ["s-0", "s-1"], ["s-0"]]
    with pytest.raises(ValueError, match="without TLS"):
        parse_uri("rabbitmq-stream+tls://there")
