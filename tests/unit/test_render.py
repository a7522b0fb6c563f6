"""What the displays show, and when there is one."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest

import rstream_cli
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.render import words
from rstream_cli.render.columns import columns, tail, width, wrapped
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.render.json_lines import JsonView
from rstream_cli.render.line import LineView, progress_line
from rstream_cli.render.live import LiveView, layout
from rstream_cli.render.stats import ComparisonCounts, ConsumeCounts, Part, PublishCounts, Snapshot, Stats
from tests.cli.process import eventually


def snapshot(*, verb: str = "publish", progress: bool = True, name: str = "orders") -> Snapshot:
    now = 0.0
    counts: PublishCounts | ConsumeCounts = PublishCounts(
        read=1_234_600, published=1_234_567, not_published=33, bad=3, confirmed=1_234_000, failed=7, in_flight=560
    )
    if verb == "consume":
        counts = ConsumeCounts(consumed=1_234_567, chunks=100, last_offset=1_234_566, stored_offset=1_000_000)
    total = 250_000_000 if progress else None
    stats = Stats("publish" if verb == "publish" else "consume", name, counts, total=total, clock=lambda: now)
    stats.latency.add(0.0012, 990)
    stats.latency.add(0.3, 10)
    for _ in range(100):
        now += 1
        stats.bytes += 1_234_567
        stats.done = stats.bytes
        stats.snapshot()
    return dataclasses.replace(stats.snapshot(), unconfirmed=0.0)


def environment(stderr: io.StringIO, *, tty: bool, variables: Mapping[str, str] | None = None) -> Environment:
    return Environment(
        stdin=io.StringIO(),
        stdout=io.StringIO(),
        stderr=stderr,
        variables=variables or {},
        stderr_is_tty=tty,
    )


def test_the_name_of_a_stream_steers_no_display() -> None:
    """Neither by control characters nor by what Rich would take for markup."""
    hostile = "\x1b[31m\x9b2J\u202e\n[red]x[/red]:smile:"
    shown = "\\x1b[31m\\x9b2J\\u202e\\n[red]x[/red]:smile:"
    stream = io.StringIO()
    view = LiveView(environment(stream, tty=True), color=False)
    view.update(snapshot(name=hostile))
    view.note(shown)
    view.close()
    view.finish(snapshot(name=hostile), hostile, 0, None)
    own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert own.count(shown) >= 3
    assert "\x1b" not in own
    assert hostile[-10:] in own


# --- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_501, "1.0 MB"),
        (1e18, "1000 PB"),
    ],
)
def test_sizes(number: float, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.0 µs"), (0.000123, "123 µs"), (0.00123, "1.2 ms"), (0.99999, "1.0 s"), (75.0, "75.0 s")],
)
def test_latencies(seconds: float | None, text: str) -> None:
    assert words.latency(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0, "0:00"), (59.9, "0:59"), (3600, "1:00:00"), (200_000, "2d 07:33:20"), (float("inf"), "-:--")],
)
def test_clocks(seconds: float | None, text: str) -> None:
    assert words.clock(seconds) == text


def test_sparkline() -> None:
    assert words.sparkline((0.0, 5.0, 10.0), 10) == "▁▅█"
    assert words.sparkline((0.0, 0.0), 10) == "▁▁"
    assert words.sparkline((1.0, 2.0, 3.0), 2) == "▆█"
    assert words.sparkline((), 10) == ""
    assert words.sparkline((1.0,), 0) == ""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([7], "7"),
        ([1, 2, 3], "1-3"),
        ([1, 2, 4], "1-2 and 4"),
        ([1, 3, 3, 5, 6], "1, 3 and 5-6"),
        ([1, 3, 5, 7, 8, 60_000], "1, 3, 5 and 3 more up to 60000"),
    ],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert words.ranges(numbers) == text


def test_summaries_say_what_adds_up() -> None:
    published = words.summary(snapshot(), "end of input")
    assert "confirmed 1,234,000, failed 7; read 1,234,600, not published 33, of them bad 3" in published
    assert published.endswith("; end of input")
    consumed = words.summary(snapshot(verb="consume"), "SIGINT")
    assert "consumed 1,234,567 messages (123 MB) from orders" in consumed
    assert "last offset 1234566; stored offset 1000000; SIGINT" in consumed


# --- lines that fit a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "columns"), [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("注文", 4), ("ｱ", 1)])
def test_the_width_of_a_text(text: str, columns: int) -> None:
    assert width(text) == columns


def test_columns_count_what_a_terminal_shows() -> None:
    rows = [("注文", "1"), ("orders", "12")]
    assert columns(rows, right={1}) == "注文     1\norders  12\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("", ""),
        ("one two", "one two"),
        ("one two three four", "one two\n  three\n  four"),
        ("a-word-that-is-too-long for it", "a-word-that-is-too-long\n  for it"),
        ("0:07  ab  cd  ef", "0:07  ab\n  cd  ef"),
        ("注文注文 注文", "注文注文\n  注文"),
    ],
)
def test_a_line_breaks_between_words(line: str, shown: str) -> None:
    assert wrapped(line, 10) == shown


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 200])
@pytest.mark.parametrize("verb", ["publish", "consume"])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("view", [LineView, LiveView])
def test_a_summary_fits_the_terminal(columns: int, verb: str, term: str, view: type[LineView | LiveView]) -> None:
    screen = io.StringIO()
    env = environment(screen, tty=True, variables={"TERM": term, "COLUMNS": str(columns)})
    made = LineView(env) if view is LineView else LiveView(env, color=False)
    made.finish(snapshot(verb=verb), "--count is reached", 0, None)
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= max(columns - 3, 20) for line in lines)
    assert " ".join(" ".join(lines).split()) == words.summary(snapshot(verb=verb), "--count is reached")
    assert (len(lines) == 1) is (columns == 200 and verb == "consume")


def test_elsewhere_a_summary_is_one_line() -> None:
    screen = io.StringIO()
    view = LineView(environment(screen, tty=False, variables={"COLUMNS": "40"}))
    view.update(snapshot())
    view.finish(snapshot(), "end of input", 0, None)
    assert screen.getvalue().count("\n") == 2


def test_a_line_of_figures_fits_the_terminal() -> None:
    screen = io.StringIO()
    LineView(environment(screen, tty=True, variables={"TERM": "dumb"})).update(snapshot())
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 77 for line in lines)


@pytest.mark.parametrize("mode", [StatsMode.NONE, StatsMode.LINE])
def test_notes_fit_the_terminal_too(mode: StatsMode) -> None:
    note = "waiting for new messages of 'orders' (it has about 1,234; --offset first reads them)"
    for tty, lines in ((True, 2), (False, 1)):
        screen = io.StringIO()
        env = environment(screen, tty=tty, variables={"COLUMNS": "60", "TERM": "dumb"})
        Display(mode, Stats("consume", "s", ConsumeCounts()), env).note(note)
        shown = screen.getvalue().splitlines()
        assert len(shown) == lines
        assert " ".join(" ".join(shown).split()) == note
        assert all(len(line) <= 57 for line in shown) is tty


@pytest.mark.parametrize(
    ("line", "columns", "shown"),
    [
        ("it took 1.2 s", 11, "it took\n  1.2 s"),
        ("it took 1.2 s", 13, "it took 1.2 s"),
        ("at 12.3 MB/s, 850 µs; 2 days ago", 10, "at\n  12.3 MB/s,\n  850 µs;\n  2 days\n  ago"),
        ("offset 5 stands", 9, "offset 5\n  stands"),
        ("5 parts of s", 6, "5\n  parts\n  of s"),
        ("of s 5 s", 6, "of s\n  5 s"),
    ],
)
def test_a_number_and_its_unit_stay_together(line: str, columns: int, shown: str) -> None:
    assert wrapped(line, columns) == shown


@pytest.mark.parametrize(
    "show",
    [words.size, words.latency, words.rough],
    ids=lambda show: show.__name__,
)
def test_so_they_do_with_each_unit(show: Callable[[float], str]) -> None:
    for number in (0.00001, 0.002, 0.5, 5, 1_000, 10_000, 1e6, 1e9, 1e12, 1e15):
        shown = show(number)
        assert wrapped(f"it took {shown}", 1) == f"it\n  took\n  {shown}"


def test_only_the_live_display_meters_parts() -> None:
    for mode, asked in ((StatsMode.LIVE, True), (StatsMode.LINE, False), (StatsMode.JSON, False)):
        calls: list[int] = []
        stats = Stats("consume", "s", ConsumeCounts())
        stats.parts = lambda calls=calls: [part(0, messages=len(calls))] if calls.append(1) is None else []
        screen = io.StringIO()
        display = Display(mode, stats, environment(screen, tty=True), interval=0.01, gives_way=False)
        display.start()
        eventually(screen.getvalue)
        display.stop()
        assert bool(calls) is asked


def test_what_a_command_tells_fits_the_terminal() -> None:
    line = "offset 5 is stored under the name 'billing' in all partitions of super stream 'orders' now"
    for tty in (True, False):
        screen = io.StringIO()
        env = environment(screen, tty=tty, variables={"COLUMNS": "60", "TERM": "dumb"})
        settings = ConnectionSettings(
            env=env, values={}, verbosity=0, quiet=False, color=ColorChoice.AUTO, command="rstream"
        )
        settings.tell(line)
        assert bool(screen.getvalue()) is tty
        settings.warn(line)
        shown = screen.getvalue().splitlines()
        assert all(len(line) <= 57 for line in shown) is tty
        assert " ".join(" ".join(shown).split()) == (f"{line} warning: {line}" if tty else f"warning: {line}")


def test_lines_may_be_indented_further() -> None:
    assert wrapped("a: one two three", 9, "   ") == "a: one\n   two\n   three"
    assert wrapped("   one two", 6, "   ") == "   one\n   two"


# --- the live display --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 120, 300])
@pytest.mark.parametrize("verb", ["publish", "consume"])
@pytest.mark.parametrize("name", ["orders", "s" * 255, "注文" * 50])
def test_no_line_is_wider_than_the_terminal(width: int, verb: str, name: str) -> None:
    for line in layout(snapshot(verb=verb, name=name), width):
        assert line.cell_len <= width


@pytest.mark.parametrize("width", [39, 79, 119])
def test_every_number_has_its_place_in_narrow_and_wide_terminals(width: int) -> None:
    lines = [line.plain for line in layout(snapshot(), width)]
    text = "\n".join(lines)
    for part in ("orders", "1:40", "msg/s", "MB/s", "published 1,234,567", "confirmed 1,234,000", "failed 7"):
        assert part in text
    for part in ("in flight 560", "total 123 MB", "p50 1.2 ms", "p99 ", " 49% ETA 1:", "━", "─", "not published 33"):
        assert part in text
    assert any(bar in text for bar in words.BARS)
    assert len(lines) <= (9 if width < 40 else 5)


def test_a_comparison_shows_what_differs_and_no_latency() -> None:
    stats = Stats("diff", "orders and copy", ComparisonCounts(a=3000, b=2990, equal=2980, changed=4, missing_in_b=16))
    text = "\n".join(line.plain for line in layout(stats.snapshot(), 100))
    for part in ("compared 3,000", "equal 2,980", "changed 4", "missing in B 16"):
        assert part in text
    assert "p50" not in text
    assert "p99" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"unconfirmed": 0.9}, ""),
        ({"unconfirmed": 4.6}, "nothing confirmed for 5 s"),
        ({"unconfirmed": 4.6, "reconnecting": True}, "reconnecting"),
    ],
)
def test_what_holds_a_run_up_is_said(changes: dict[str, Any], said: str) -> None:
    shown = dataclasses.replace(snapshot(), **changes)
    title = layout(shown, 80)[0].plain
    assert title.removeprefix("publishing to orders").rstrip("0123456789:").strip() == said
    assert progress_line(shown).endswith(said)
    assert bool(said) == (progress_line(shown) != progress_line(snapshot()))


def test_without_a_known_size_there_is_no_bar() -> None:
    assert "ETA" not in "\n".join(line.plain for line in layout(snapshot(progress=False), 80))


@pytest.mark.parametrize("color", [True, False])
def test_the_live_display_leaves_nothing_but_the_summary(color: bool) -> None:
    screen = io.StringIO()
    variables = {"TERM": "xterm-256color", "COLUMNS": "300"}
    view = LiveView(environment(screen, tty=True, variables=variables), color=color)
    view.update(snapshot())
    view.update(snapshot())
    view.close()
    drawn = screen.getvalue()
    assert ("\x1b[1;32m" in drawn) is color
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1
    assert drawn.endswith("\x1b[2K")  # the last line of the display is erased
    view.finish(snapshot(), "end of input", 0, None)
    assert screen.getvalue().removeprefix(drawn).count("\n") == 1


def with_parts(*parts: Part, verb: str = "consume") -> Snapshot:
    return dataclasses.replace(snapshot(verb=verb, progress=False), parts=parts)


def part(number: int, state: str = "", **figures: Any) -> Part:
    return Part(f"orders-{number}", state, figures.pop("offset", None), figures.pop("messages", 0), **figures)


def rows(shown: Snapshot, width: int = 77, height: int = 24) -> list[str]:
    """The lines below the figures of the whole run."""
    plain = [line.plain.rstrip() for line in layout(shown, width, height)]
    return plain[len(layout(dataclasses.replace(shown, parts=()), width, height)) :]


def test_partitions_and_turns_are_a_table() -> None:
    parts = (
        part(0, "waiting"),
        part(1, "active", offset=1_234_566, rate=12_345.6),
        part(2, "active", offset=0, rate=0.2),
        part(3, "done", offset=9),
    )
    assert rows(with_parts(*parts)) == [
        "partition  state       offset    msg/s",
        "orders-1   active   1,234,566   12,346",
        "orders-2   active           0        0",
        "orders-0   waiting          -        0",
        "orders-3   done             9        0",
    ]


def test_without_turns_there_are_no_states() -> None:
    assert rows(with_parts(part(0, offset=5), part(1))) == [
        "partition   offset    msg/s",
        "orders-0         5        0",
        "orders-1         -        0",
    ]


def test_partitions_that_are_published_to() -> None:
    assert rows(with_parts(part(0, messages=70_000, in_flight=1200, rate=9), part(1), verb="publish")) == [
        "partition     done  in flight    msg/s",
        "orders-0    70,000      1,200        9",
        "orders-1         0          0        0",
    ]


def test_a_run_of_one_stream_has_no_table() -> None:
    assert rows(with_parts()) == []


@pytest.mark.parametrize(("height", "shown"), [(24, 10), (60, 10), (12, 5), (8, 1), (7, 0), (3, 0)])
def test_a_hundred_partitions_do_not_fill_the_screen(height: int, shown: int) -> None:
    parts = [part(number, "active" if number % 3 == 0 else "waiting", rate=10) for number in range(100)]
    found = rows(with_parts(*parts), height=height)
    assert len(layout(with_parts(*parts), 77, height)) < max(height, 4)
    if not shown:
        assert found == []
        return
    assert len(found) == shown + 2
    assert found[1].startswith("orders-0 ")
    active = 34 - shown
    assert found[-1] == f"{100 - shown} more: {active} active, 66 waiting, {(100 - shown) * 10:,} msg/s"


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("verb", ["publish", "consume"])
@pytest.mark.parametrize("name", ["orders", "s" * 250, "注文" * 50, "\x1b[2J"])
def test_no_row_is_wider_than_the_terminal(width: int, verb: str, name: str) -> None:
    parts = [Part(f"{name}-{number}", "active", 10**15, 10**15, 10**9, 1e9) for number in range(20)]
    lines = layout(with_parts(*parts, verb=verb), width)
    assert all(line.cell_len <= width for line in lines)
    assert "\x1b" not in "".join(line.plain for line in lines)
    if width >= 60:  # the end of a name tells partitions apart
        assert sum(bool(re.match(r"\S+-\d+ ", line.plain)) for line in lines) == 10


def test_the_rate_of_each_part() -> None:
    now = 100.0
    stats = Stats("consume", "s", ConsumeCounts(), clock=lambda: now)
    total = 0
    stats.parts = lambda: [part(0, messages=total), part(1, messages=5)]
    stats.snapshot()
    for _ in range(5):
        now += 1
        total += 100
        assert [found.rate for found in stats.snapshot().parts] == [100.0, 0.0]
    for _ in range(4):
        now += 1
        rates = [found.rate for found in stats.snapshot().parts]
    assert rates == [0.0, 0.0]
    assert stats.snapshot(final=True).parts == ()


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [("orders", 6, "orders"), ("orders-17", 6, "…rs-17"), ("注文-1", 5, "…文-1"), ("x", 1, "x")],
)
def test_the_end_of_a_name_is_kept(text: str, columns: int, shown: str) -> None:
    assert tail(text, columns) == shown


def test_rich_is_imported_by_the_live_displays_alone() -> None:
    folder = Path(rstream_cli.__file__).parent
    importers = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "rich" for name in names):
                importers.add(path.relative_to(folder).as_posix())
    assert importers == {"render/screen.py", "render/live.py", "render/lag_live.py"}


def test_rich_is_imported_late() -> None:
    program = "import sys, rstream_cli.commands.publish, rstream_cli.publish_run; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- which display -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "tty", "term", "used", "quiet", "verbose", "chosen"),
    [
        ("auto", True, "xterm", False, False, False, "live"),
        ("auto", False, "xterm", False, False, False, "none"),
        ("auto", True, "xterm", True, False, False, "none"),
        ("auto", True, "xterm", False, True, False, "none"),
        ("auto", True, "xterm", False, False, True, "none"),
        ("auto", True, "dumb", False, False, False, "none"),
        ("live", True, "xterm", False, False, False, "live"),
        ("live", True, "xterm", True, False, False, "none"),
        ("live", False, "xterm", False, False, False, "line"),
        ("live", True, "dumb", False, False, False, "line"),
        ("live", True, "xterm", False, False, True, "line"),
        ("json", False, "dumb", True, True, True, "json"),
        ("line", True, "xterm", True, False, False, "line"),
        ("none", True, "xterm", False, False, False, "none"),
    ],
)
def test_choose_mode(mode: str, tty: bool, term: str, used: bool, quiet: bool, verbose: bool, chosen: str) -> None:
    env = environment(io.StringIO(), tty=tty, variables={"TERM": term})
    assert choose_mode(StatsMode(mode), env, terminal_is_used=used, quiet=quiet, verbose=verbose) == chosen


@pytest.mark.parametrize("mode", ["line", "json"])
@pytest.mark.parametrize("verb", ["publish", "consume"])
@pytest.mark.parametrize("interval", [0.25, 1.0, 10.0])
def test_rates_fall_to_zero_when_nothing_comes(
    monkeypatch: pytest.MonkeyPatch, mode: str, verb: Literal["publish", "consume"], interval: float
) -> None:
    now = 100.0
    counts = PublishCounts() if verb == "publish" else ConsumeCounts()
    stats = Stats(verb, "s", counts, clock=lambda: now)
    screen = io.StringIO()
    display = Display(StatsMode(mode), stats, environment(screen, tty=False), interval=interval)
    waits = 0

    def wait(timeout: float) -> None:
        """A moment in which messages come, but from the sixth on."""
        nonlocal now, waits
        waits += 1
        now += timeout
        if waits > 30:
            return
        if waits <= 5:
            stats.bytes += 1000
            if isinstance(counts, PublishCounts):
                counts.read = counts.published = counts.confirmed = 100 * waits
            else:
                counts.consumed = 100 * waits
        raise queue.Empty

    requests = mock.Mock()
    requests.get = wait
    monkeypatch.setattr(display, "_requests", requests)
    display.start()
    assert display._thread is not None
    display._thread.join(10)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 30
    quiet = 5 + math.ceil(3.0 / interval)  # the rate is that of the last three seconds
    if mode == "json":
        rates = [(json.loads(line)["rate"], json.loads(line)["byte_rate"]) for line in lines]
    else:
        found = re.findall(r"  (\d+)/s  ([\d.]+) k?B/s", screen.getvalue())
        rates = [(float(rate), float(byte_rate)) for rate, byte_rate in found]
    assert len(rates) == 30
    assert rates[4][0] > 0
    assert rates[4][1] > 0
    assert set(rates[quiet:]) == {(0.0, 0.0)}


@pytest.mark.parametrize(("mode", "forced", "said"), [("none", False, 0), ("none", True, 1), ("line", False, 1)])
def test_who_gets_a_summary(mode: str, forced: bool, said: int) -> None:
    stderr = io.StringIO()
    display = Display(StatsMode(mode), Stats("publish", "s", PublishCounts()), environment(stderr, tty=False))
    display.start()
    display.finish("end of input", 0, forced=forced)
    assert stderr.getvalue().count("\n") == said


def test_an_explicit_none_says_nothing() -> None:
    stderr = io.StringIO()
    stats = Stats("publish", "s", PublishCounts())
    display = Display(StatsMode.NONE, stats, environment(stderr, tty=False), summarise=False)
    display.start()
    display.finish("SIGINT", 130, forced=True)
    assert stderr.getvalue() == ""


def test_a_display_shows_the_run_while_it_goes() -> None:
    stderr = io.StringIO()
    stats = Stats("publish", "s", PublishCounts())
    display = Display(StatsMode.JSON, stats, environment(stderr, tty=False), interval=0.01)
    display.start()
    display.note("warning: not JSON")
    until = time.monotonic() + 30
    while stderr.getvalue().count("\n") < 3 and time.monotonic() < until:
        time.sleep(0.01)
    display.finish("end of input", 0)
    events = [json.loads(line)["event"] for line in stderr.getvalue().splitlines()]
    assert events[-1] == "summary"
    assert set(events[:-1]) == {"progress"}
    assert len(events) >= 4


def test_notes_are_bounded() -> None:
    stderr = io.StringIO()
    display = Display(StatsMode.NONE, Stats("publish", "s", PublishCounts()), environment(stderr, tty=False))
    for number in range(1000):
        display.note(f"warning: record {number} is skipped")
    assert stderr.getvalue().count("\n") == 20
    assert stderr.getvalue().endswith("there are more such lines; the summary counts them\n")


def test_a_stderr_that_is_gone_does_not_matter() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    display = Display(
        StatsMode.LINE, Stats("publish", "s", PublishCounts()), environment(Gone(), tty=False), interval=0.01
    )
    display.start()
    time.sleep(0.05)
    display.note("a note")
    display.finish("end of input", 0)


# --- a live display, and whose terminal it is -----------------------------------------------------------------


class Screen(io.StringIO):
    """What was written since ``take``."""

    def take(self) -> str:
        shown = self.getvalue()
        self.seek(0)
        self.truncate()
        return shown


@pytest.fixture
def foreground(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the process is there; the list's one element."""
    found = [True]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Environment, "is_in_foreground", lambda _: found[0])
    return found


def live_display(screen: io.StringIO, **options: Any) -> Display:
    stats = Stats("publish", "s", PublishCounts())
    return Display(StatsMode.LIVE, stats, environment(screen, tty=False), interval=0.01, **options)


def test_in_the_background_the_terminal_is_left_as_it_is(foreground: list[bool]) -> None:
    screen = Screen()
    display = live_display(screen)
    display.start()
    eventually(lambda: screen.getvalue().count("publishing to ") > 2)
    foreground[0] = False
    eventually(lambda: screen.getvalue().endswith("\x1b[?25h"))  # the cursor, and nothing is erased
    screen.take()
    display.note("warning: a note")
    eventually(screen.getvalue)
    time.sleep(0.1)
    assert screen.take() == "warning: a note\n"
    foreground[0] = True
    eventually(lambda: "publishing to " in screen.getvalue())
    foreground[0] = False
    display.stop()
    assert screen.getvalue().endswith("\x1b[?25h")


def test_a_display_that_is_asked_for_does_not_give_way(foreground: list[bool]) -> None:
    foreground[0] = False
    screen = Screen()
    display = live_display(screen, gives_way=False)
    display.start()
    eventually(lambda: "publishing to " in screen.getvalue())
    display.stop()


@pytest.mark.parametrize(
    ("mode", "gives_way", "there", "shown"),
    [
        ("live", True, True, True),
        ("live", True, False, False),
        ("live", False, False, True),
        ("line", True, False, True),
        ("json", True, True, False),
        ("none", True, True, False),
    ],
)
def test_whether_it_is_shown(foreground: list[bool], mode: str, gives_way: bool, there: bool, shown: bool) -> None:
    foreground[0] = there
    env = environment(io.StringIO(), tty=False)
    display = Display(StatsMode(mode), Stats("publish", "s", PublishCounts()), env, gives_way=gives_way)
    assert display.is_shown is shown


@pytest.mark.usefixtures("foreground")
def test_a_display_is_hidden_as_long_as_it_is_to_be() -> None:
    screen = Screen()
    display = live_display(screen)
    display.start()
    for _ in range(3):
        eventually(lambda: "publishing to " in screen.getvalue())
        with display.hidden():
            assert screen.take().endswith("\x1b[2K")
            time.sleep(0.1)
            display.note("warning: later")
            assert screen.getvalue() == ""
        eventually(lambda: "warning: later\n" in screen.getvalue())
        screen.take()
    display.stop()
    with display.hidden():
        pass


def test_a_display_whose_terminal_is_gone_is_hidden_at_once(foreground: list[bool]) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError

    display = live_display(Gone())
    display.start()
    thread = display._thread
    assert thread is not None
    thread.join(10)
    begin = time.monotonic()
    for _ in range(10):
        with display.hidden():
            pass
    assert time.monotonic() - begin < 10  # two seconds for each, if it were waited for
    assert foreground == [True]
    display.stop()


# --- lines and JSON ----------------------------------------------------------------------------------------


def test_a_line() -> None:
    line = progress_line(snapshot())
    for part in ("1:40", "published 1,234,567", "confirmed 1,234,000", "failed 7", "in flight 560", "49% ETA"):
        assert part in line
    assert "consumed 1,234,567  offset 1234566" in progress_line(snapshot(verb="consume"))


def test_json() -> None:
    stderr = io.StringIO()
    view = JsonView(stderr)
    view.update(snapshot())
    view.finish(snapshot(), "SIGINT", 130, None)
    progress, summary = map(json.loads, stderr.getvalue().splitlines())
    assert progress["event"] == "progress"
    assert (summary["event"], summary["reason"], summary["exit_code"]) == ("summary", "SIGINT", 130)
    assert summary["read"] == summary["published"] + summary["not_published"]
    assert summary["published"] == summary["confirmed"] + summary["failed"] + summary["in_flight"]
    assert summary["latency_p50_ms"] == pytest.approx(1.2, rel=0.1)


def test_every_key_and_every_event_is_documented() -> None:
    page = (Path(rstream_cli.__file__).parent.parent / "docs/statistics.md").read_text()
    documented = set(re.findall(r"`([a-z_0-9]+)`", page))
    for verb in ("publish", "consume"):
        stream = io.StringIO()
        view = JsonView(stream)
        view.update(snapshot(verb=verb))
        view.finish(snapshot(verb=verb), "end of input", 0, None)
        for line in stream.getvalue().splitlines():
            assert set(json.loads(line)) <= documented
    told = {name for path in Path(rstream_cli.__file__).parent.rglob("*.py") for name in _events(path)}
    assert {"gap", "lost", "skipped", "beyond"} < told
    assert told | {"active", "idle", "progress", "summary"} <= documented


def _events(path: Path) -> Iterator[str]:
    """The names of events that a module tells of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event":
            first = node.args[0] if node.args else None  # others than Display have methods of that name
            if isinstance(first, ast.Constant):
                yield str(first.value)
