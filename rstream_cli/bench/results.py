"""What a run has measured, put together from what its processes say: an object of JSON, as ``--save`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rstream_cli.bench.histogram import Histogram

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
"""The percentiles that are shown."""
_SECOND = 1_000_000_000


def side(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns rates and costs of all processes of a side. A rate is null where nothing was measured."""
    windows = [result["window"] for result in results]
    messages, size = (sum(window[name] for window in windows) for name in ("messages", "bytes"))
    cpu = sum(window["cpu"] for window in windows)
    seconds = (max(window["end"] for window in windows) - min(window["begin"] for window in windows)) / _SECOND
    is_measured = seconds > 0 and messages > 0
    return {
        "messages": messages,
        "bytes": size,
        "seconds": round(seconds, 6),
        "rate": round(messages / seconds, 1) if is_measured else None,
        "byte_rate": round(size / seconds, 1) if is_measured else None,
        "cpu": round(cpu * 1e6 / messages, 4) if is_measured else None,
        "memory": sum(result["memory"] for result in results),
    }


def latency(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the percentiles in microseconds, and the whole histogram in HDR's form; None where there is no value."""
    whole = Histogram()
    for result in results:
        whole.merge(Histogram.decoded(result["latency"]))
    if not len(whole):
        return None
    whole.highest = max(result["highest"] for result in results)
    return {**percentiles(whole), "count": len(whole), "hdr": whole.encoded()}


def percentiles(whole: Histogram) -> dict[str, int]:
    """Returns those of ``SHARES``."""
    return dict(zip(SHARES, whole.quantiles(list(SHARES.values())), strict=True))


def published(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what became of the messages of all producers, the warm-up included."""
    counts = [counts for result in results for by in result["published"].values() for counts in by.values()]
    names = ("published", "confirmed", "failed", "sent_again")
    return {name: sum(each[place] for each in counts) for place, name in enumerate(names)}


def confirmed_by_stream(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how many messages of each stream are confirmed."""
    found: dict[str, int] = {}
    for result in results:
        for stream, by in result["published"].items():
            found[stream] = found.get(stream, 0) + sum(counts[1] for counts in by.values())
    return found


def checked(results: Sequence[Mapping[str, Any]], confirmed: Mapping[str, int], sent_again: int) -> dict[str, Any]:
    """Returns what the consumers have found, all of them together, and whether it is as it must be.

    A message that was sent again after a lost connection may be stored twice, and then comes twice.
    """
    missing = doubled = misplaced = foreign = messages = consumers = 0
    for reading in (reading for result in results for reading in result["readings"]):
        tallies = reading["tallies"].values()
        came = sum(tally[0] for tally in tallies)
        doubled += sum(tally[1] for tally in tallies)
        misplaced += sum(tally[2] for tally in tallies)
        foreign += reading["foreign"]
        messages += came
        consumers += 1
        if reading["must_be_whole"]:
            missing += max(confirmed[reading["stream"]] - came, 0)
    copies = sent_again * consumers
    return {
        "ok": not missing and not misplaced and doubled <= copies,
        "messages": messages,
        "missing": missing,
        "doubled": doubled,
        "misplaced": misplaced,
        "foreign": foreign,
    }


def offsets_checked(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the same where only the offsets of somebody else's messages are checked."""
    readings = [reading for result in results for reading in result["readings"]]
    misplaced, left_out, messages = (
        sum(reading[name] for reading in readings) for name in ("misplaced", "left_out", "messages")
    )
    return {"ok": not misplaced, "messages": messages, "misplaced": misplaced, "offsets_left_out": left_out}


def load_in_words(document: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of a table or a plot must know of the load."""
    options = document["options"]
    size = str(options.get("size"))
    bodies = f"bodies from a file of {size[1:]} bytes" if size.startswith("@") else f"bodies of {size} bytes"
    found = [bodies, f"batches of {options.get('batch_size')}"]
    if options.get("compression") not in (None, "none"):
        found.append(str(options["compression"]))
    if options.get("rate") is not None:
        found.append(f"{options['rate']:.6g}/s")
    if len(document["runs"]) > 1:
        found.append(f"{len(document['runs'])} runs")
    return found


class Seconds:
    """Puts together what the processes report every second."""

    def __init__(self, sides: Sequence[str], show: Callable[[Mapping[str, Any]], None]) -> None:
        """``sides``: ``publish`` or ``consume``, of each process. ``show`` gets each second, once all have told it."""
        self._sides = sides
        self._show = show
        self._told: list[dict[str, Any] | None] = [None] * len(sides)
        self._latencies = [Histogram() for _ in sides]
        """Of each process, what no row holds yet."""
        self._is_done = [False] * len(sides)
        self.rows: list[dict[str, Any]] = []

    def add(self, number: int, event: dict[str, Any]) -> None:
        """A process has reported a second."""
        self._told[number] = event
        self._latencies[number].merge(Histogram.decoded(event["latency"]))
        self._look()

    def done(self, number: int, messages: int, size: int) -> None:
        """A process reports no more: these are all its messages, and their bytes."""
        self._is_done[number] = True
        self._told[number] = {"messages": messages, "bytes": size}
        self._look()

    def _look(self) -> None:
        second = len(self.rows) + 1
        waited_for = [told for told, is_done in zip(self._told, self._is_done, strict=True) if not is_done]
        if not waited_for or any(told is None or told["second"] < second for told in waited_for):
            return
        row: dict[str, Any] = {"second": second}
        before = self.rows[-1] if self.rows else {}
        for name in dict.fromkeys(self._sides):
            places = [place for place, side_of in enumerate(self._sides) if side_of == name]
            some = [told for told in map(self._told.__getitem__, places) if told is not None]
            whole = Histogram()
            for place in places:
                whole.merge(self._latencies[place])
                self._latencies[place] = Histogram()
            messages, size = (sum(told[what] for told in some) for what in ("messages", "bytes"))
            former = before.get(name, {"total": 0, "total_bytes": 0})
            row[name] = {
                "total": messages,
                "total_bytes": size,
                "messages": messages - former["total"],
                "bytes": size - former["total_bytes"],
                "latency": percentiles(whole) if len(whole) else None,
            }
        self.rows.append(row)
        self._show(row)
