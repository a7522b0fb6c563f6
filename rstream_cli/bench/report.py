"""What a benchmark shows: remarks before it, a line a second, and a table at the end. All fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rstream_cli.bench.metrics import METRICS, spread_of
from rstream_cli.bench.results import SHARES, load_in_words
from rstream_cli.render import words
from rstream_cli.render.columns import columns

_HEAD_EVERY = 20
"""Lines between two heads of the columns."""


def remarks(command: str, options: Mapping[str, Any], has_times: bool) -> Iterator[str]:
    """Yields what a reader of the figures should know."""
    for what in ("producers", "consumers"):
        number = options.get(what, 1)
        if number > options["processes"]:
            share = "one process" if options["processes"] == 1 else f"{options['processes']} processes"
            yield f"note: {number} {what} share {share}, so this measures Python's interpreter too; see --processes"
    if command == "both" and not has_times:
        yield "note: bodies of less than 16 bytes have no room for a time: there is no end-to-end latency"


class Lines:
    """Makes the lines of the seconds."""

    def __init__(self, command: str, has_times: bool) -> None:
        self._cells = [("time", 5)]
        if command != "consume":
            self._cells += [("confirmed/s", 11)]
        if command == "publish":
            self._cells += [("bytes/s", 9), ("p50", 8)]
        if command != "consume":
            self._cells += [("confirm p99", 11)]
        if command != "publish":
            self._cells += [("consumed/s", 11)]
        if command == "both" and has_times:
            self._cells += [("e2e p99", 8)]
        if command == "consume":
            self._cells += [("bytes/s", 9)]
        self._number = 0

    def begin(self) -> None:
        """Another run begins: with a head."""
        self._number = 0

    def second(self, row: Mapping[str, Any]) -> Iterator[str]:
        """Yields the line of a second, and a head above it now and then. ``row`` is one of ``results.Seconds``."""
        if self._number % _HEAD_EVERY == 0:
            yield self._line({name: name for name, _ in self._cells})
        self._number += 1
        found = {"time": f"{row['second']} s"}
        if "publish" in row:
            found["confirmed/s"] = words.count(row["publish"]["messages"])
            found["bytes/s"] = words.size(row["publish"]["bytes"])
            found["p50"], found["confirm p99"] = _latencies(row["publish"])
        if "consume" in row:
            found["consumed/s"] = words.count(row["consume"]["messages"])
            found.setdefault("bytes/s", words.size(row["consume"]["bytes"]))
            _, found["e2e p99"] = _latencies(row["consume"])
        yield self._line(found)

    def _line(self, texts: Mapping[str, str]) -> str:
        return "  ".join(texts[name].rjust(width) for name, width in self._cells)


def _latencies(side: Mapping[str, Any]) -> tuple[str, str]:
    """Returns p50 and p99."""
    found = side["latency"]
    if found is None:
        return "-", "-"
    return words.latency(found["p50"] / 1e6), words.latency(found["p99"] / 1e6)


def table(document: Mapping[str, Any]) -> str:
    """Returns the table of all runs, and what became of their messages."""
    runs = document["runs"]
    title = f"rstream {document['command']}: {', '.join(load_in_words(document))}"
    shown = f"{title}\n\n{_of_one(runs[0]) if len(runs) == 1 else spreads(runs)}\n"
    return shown + "".join(f"{line}\n" for line in account(runs))


def _of_one(run: Mapping[str, Any]) -> str:
    """The table of a single run."""
    head = ("", "messages/s", "bytes/s", "CPU/message", "peak memory")
    rows: list[tuple[str, ...]] = [head]
    for side in ("publish", "consume"):
        if side in run:
            of = [METRICS[f"{side}.{name}"] for name in ("rate", "byte_rate", "cpu", "memory")]
            cells = ["-" if (value := metric.of(run)) is None else metric.show(value) for metric in of]
            rows.append((side, cells[0], cells[1], f"{cells[2]} µs" if cells[2] != "-" else "-", cells[3]))
    text = columns(rows, right=range(1, len(head)))
    latencies: list[tuple[str, ...]] = [("latency in µs", *SHARES)]
    for name, label in (("confirm", "confirm"), ("end_to_end", "end to end")):
        found = run.get(name)
        if found is not None:
            latencies.append((label, *(words.count(found[share]) for share in SHARES)))
    if len(latencies) > 1:
        text += "\n" + columns(latencies, right=range(1, len(latencies[0])))
    return text


def spreads(runs: Sequence[Mapping[str, Any]]) -> str:
    """The table of several runs: medians and ranges."""
    rows: list[tuple[str, ...]] = [("", "median", "least", "most")]
    for metric in METRICS.values():
        found = spread_of(metric, runs)
        if found is not None:
            rows.append((metric.label, *map(metric.show, (found.median, found.least, found.most))))
    return columns(rows, right=(1, 2, 3))


def account(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields lines on what became of the messages of all runs, the warm-up included."""
    published = [run["publish"] for run in runs if "publish" in run]
    if published:
        counts = {name: sum(run[name] for run in published) for name in ("published", "confirmed", "failed")}
        again = sum(run["sent_again"] for run in published)
        yield (
            f"published {words.messages(counts['published'])}: confirmed {words.count(counts['confirmed'])},"
            f" failed {words.count(counts['failed'])}"
        )
        if again:
            copies = words.copies(again)
            yield f"{words.count(again)} sent again after a lost connection, so up to {copies} may be stored"
    checks = [run["check"] for run in runs if "check" in run]
    if not checks:
        return
    total = {name: sum(check.get(name, 0) for check in checks) for name in _COUNTED}
    came = words.messages(total["messages"])
    if total["messages"] and all(check["ok"] for check in checks):
        order = "in the order of their offsets" if "offsets_left_out" in checks[0] else "once and in order"
        yield f"consumed {came}: each came {order}"
    else:
        faults = [f"{words.count(total[name])} {name}" for name in ("missing", "doubled", "misplaced") if total[name]]
        yield f"consumed {came}: {', '.join(faults) or 'nothing came'}"
    if total["foreign"]:
        yield f"{words.messages(total['foreign'])} of others were in the stream"
    if total["offsets_left_out"]:
        yield f"{words.count(total['offsets_left_out'])} offsets held no message: the broker's own records, or a gap"


_COUNTED = ("messages", "missing", "doubled", "misplaced", "foreign", "offsets_left_out")
