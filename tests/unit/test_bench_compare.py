"""``rstream bench compare``: medians and ranges, what is a difference, and conditions; and the plot of results."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.bench.compare import differences, parse_condition
from rstream_cli.bench.histogram import Histogram
from rstream_cli.bench.metrics import METRICS, Spread, spread_of
from rstream_cli.bench.plot import HEIGHT, WIDTH, plot
from rstream_cli.bench.results import percentiles
from tests.cli.conftest import Done, run_here


def run_of(rate: float, p99: int, **more: Any) -> dict[str, Any]:
    whole = Histogram()
    whole.add(p99, 1000)
    rows = [
        {"second": second, "publish": {"messages": rate * second, "bytes": 0, "latency": None}} for second in (1, 2, 3)
    ]
    side = {"rate": rate, "byte_rate": rate * 100, "cpu": 0.5, "memory": 4e7, "failed": 0}
    latency = {**percentiles(whole), "count": 1000, "hdr": whole.encoded()}
    return {"publish": side, "confirm": latency, "seconds": rows, **more}


def document(*runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format": "rstream-bench",
        "version": 1,
        "command": "bench publish",
        "time": "2026-11-30T15:00:00+00:00",
        "machine": {"system": "Linux", "processor": "one", "processors": 2},
        "versions": {"rstream": "0.1.0", "python": "3.11", "broker": "RabbitMQ 4.3.5"},
        "options": {"size": "100", "batch_size": 1000, "compression": "none", "rate": None},
        "runs": list(runs),
        **more,
    }


SLOW = document(run_of(1000, 900), run_of(1100, 1000), run_of(1200, 1100))
FAST = document(run_of(2000, 500), run_of(2100, 510), run_of(2200, 520))
SAME = document(run_of(1050, 950), run_of(1150, 1050), run_of(1300, 1200))

Compare = Callable[..., Done]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    def run(before: Any, after: Any, *options: str) -> Done:
        paths = (tmp_path / "a.json", tmp_path / "b.json")
        for path, found in zip(paths, (before, after), strict=True):
            path.write_text(found if isinstance(found, str) else json.dumps(found))
        return run_here("bench", "compare", *map(str, paths), *options)

    return run


def test_a_difference_and_none(compare: Compare) -> None:
    done = compare(SLOW, FAST)
    assert (done.status, done.errors) == (0, "")
    assert max(map(len, done.output.splitlines())) <= 80
    lines = {line.split("  ")[0]: line for line in done.output.splitlines()}
    assert lines["publish, messages/s"].split()[2:] == ["1,100", "2,100", "+90.9", "%", "better"]
    assert re.search(r"^ +1,000\.\.1,200 +2,000\.\.2,200$", done.output, re.MULTILINE)
    assert lines["confirm, µs at p99"].endswith("% better")
    assert "-" in lines["confirm, µs at p99"]
    assert lines["publish, CPU µs a message"].endswith("no difference")
    done = compare(SLOW, SAME)
    assert "better" not in done.output
    assert "worse" not in done.output
    assert compare(FAST, SLOW).output.count("worse") == 7


def test_as_json(compare: Compare) -> None:
    done = compare(SLOW, FAST, "--json", "--fail-if", "publish.rate>+50%", "--fail-if", "publish.rate<-50%")
    found = json.loads(done.output)
    assert done.status == 10
    assert found["figures"]["publish.rate"] == {
        "before": {"median": 1100.0, "least": 1000.0, "most": 1200.0},
        "after": {"median": 2100.0, "least": 2000.0, "most": 2200.0},
        "change": 90.909,
    }
    assert found["figures"]["publish.cpu"]["change"] is None
    assert (found["failed"], found["warnings"]) == (["publish.rate>+50%"], [])
    assert json.loads(done.errors)["code"] == 10


@pytest.mark.parametrize(
    ("before", "after", "condition", "holds"),
    [
        (FAST, SLOW, "confirm.p99>+10%", True),
        (FAST, SLOW, "confirm.p99>+100%", False),
        (SLOW, FAST, "confirm.p99>+10%", False),
        (SLOW, SAME, "confirm.p99>+1%", False),
        (FAST, SLOW, "publish.rate<-10%", True),
        (FAST, SLOW, "publish.rate < 1500", True),
        (FAST, SLOW, "publish.rate<1200", False),
        (SLOW, FAST, "publish.rate<1500", False),
        (SLOW, SAME, "confirm.max>500", True),
        (SLOW, SAME, "confirm.max>1000", False),
    ],
)
def test_conditions(compare: Compare, before: Any, after: Any, condition: str, holds: bool) -> None:
    done = compare(before, after, "--fail-if", condition)
    assert done.status == (10 if holds else 0), done.errors
    assert (f"error: a condition of --fail-if holds: {condition.strip()}" in done.errors) == holds


def test_several_conditions(compare: Compare) -> None:
    done = compare(FAST, SLOW, "--fail-if", "confirm.p99>+10%", "--fail-if", "publish.rate<-10%")
    assert "conditions of --fail-if hold: confirm.p99>+10%, publish.rate<-10%" in done.errors


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("p99>+10%", "not a condition"),
        ("confirm.p99", "not a condition"),
        ("confirm.p98>+10%", "no figure is called 'confirm.p98'"),
        ("confirm.p99>10%", "a change has a sign"),
        ("consume.rate<5", "consume.rate was not measured in both"),
    ],
)
def test_conditions_that_cannot_be(compare: Compare, condition: str, why: str) -> None:
    done = compare(SLOW, FAST, "--fail-if", condition)
    assert (done.status, why in done.errors) == (2, True), done.errors


def test_what_makes_a_comparison_doubtful(compare: Compare) -> None:
    other = document(
        run_of(1, 1, check={"ok": False}),
        command="bench both",
        machine={"system": "Linux", "processor": "two", "processors": 2},
        versions={**SLOW["versions"], "broker": "RabbitMQ 4.1.0"},
        options={**SLOW["options"], "rate": 500.0},
    )
    errors = compare(SLOW, other).errors
    for part in (
        "b.json has one run, whose range says little of chance: measure with --runs 3 or more",
        "b.json has a run in which messages were missing, doubled or misplaced",
        "they are of different commands: bench publish and bench both",
        "different machine: processor is one, and then two",
        "different version: broker is RabbitMQ 4.3.5, and then RabbitMQ 4.1.0",
        "different option: rate is not set, and then 500.0",
    ):
        assert part in errors


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": "other"}',
        "[" * 100_000,
        '{"format": "rstream-bench", "version": 1, "runs": []}',
        '{"format": "rstream-bench", "version": 1, "runs": [3]}',
        '{"format": "rstream-bench", "version": 2}',
    ],
)
def test_a_file_that_holds_no_results(compare: Compare, text: str) -> None:
    done = compare(SLOW, text)
    assert done.status == 2
    assert "b.json" in done.errors


def test_files_of_others_are_read_with_care(compare: Compare) -> None:
    """Figures that are no numbers count as not measured, and names do not control the terminal."""
    strange = document(
        {"publish": {"rate": "fast", "cpu": None, "memory": True, "byte_rate": 1e400}, "confirm": 3},
        options={"\x1b[2J": "\x1b[31m"},
        machine=7,
    )
    done = compare(strange, strange)
    assert done.status == 0
    done = compare(SLOW, strange)
    assert done.status == 0
    assert "\x1b" not in done.errors + done.output
    assert "not in both" in done.output


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=9), st.lists(st.floats(1, 1e9), min_size=1, max_size=9))
def test_a_difference_is_one_where_all_runs_of_a_file_are_beyond_those_of_the_other(
    some: Sequence[float], others: Sequence[float]
) -> None:
    before, after = (document(*(run_of(rate, 1) for rate in rates)) for rates in (some, others))
    (found,) = [each for each in differences(before, after) if each.metric.name == "publish.rate"]
    assert (found.change is not None) == (max(some) < min(others) or max(others) < min(some))
    assert spread_of(METRICS["publish.rate"], before["runs"]) == Spread(
        sorted(some)[len(some) // 2] if len(some) % 2 else sum(sorted(some)[len(some) // 2 - 1 :][:2]) / 2,
        min(some),
        max(some),
    )


def test_names_may_be_written_with_dashes() -> None:
    assert parse_condition("end-to-end.p99.9 > +5%").metric.name == "end_to_end.p99.9"


# The plot.


def curves_of(svg: str) -> list[list[tuple[float, float]]]:
    root = ET.fromstring(svg)
    lines = root.iter("{http://www.w3.org/2000/svg}polyline")
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())] for line in lines]


def test_a_plot_is_well_formed_and_inside_its_frame() -> None:
    curves = curves_of(plot(SLOW))
    assert len(curves) == 8  # with those of the legends
    for curve in curves:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in curve)
    rates = curves[0]
    assert [x for x, _ in rates] == sorted(x for x, _ in rates)
    assert rates[0][1] > rates[1][1] > rates[2][1]  # a higher rate is further up


def test_a_plot_of_little() -> None:
    texts = plot(document({"publish": {"rate": None}, "confirm": None, "seconds": []}))
    ET.fromstring(texts)
    assert "the run took less than a second" in texts
    assert "none was measured" in texts


def test_no_text_breaks_a_plot() -> None:
    strange = document(run_of(5, 5), versions={"broker": "<b>&\"'", "rstream": "]]>"})
    assert "<b>" not in plot(strange)
    ET.fromstring(plot(strange))
