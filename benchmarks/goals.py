"""What this project aims at, and whether it gets there: ``python -m benchmarks goals``.

``GOALS`` is the table. Each group measures some of its rows on the broker, with contenders that take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

from benchmarks.peers.clients import Peer
from benchmarks.programs import Failed, Result, Target, same_content, write_lines
from benchmarks.rounds import Contender, note, ratio, slope, take_turns
from benchmarks.tables import Row

SIZE = 100
LARGE = 100_000
"""Bytes of a large body."""
CHUNK = 59
"""Messages of a small chunk."""
RATE = 50_000
"""Messages a second, where latencies are measured."""
LATENCIES = 25_000
"""The fewest messages whose latencies are measured: half a second."""


class Goal(NamedTuple):
    """A row of the table."""

    group: str
    name: str
    unit: str
    goal: float
    pure: float | None
    """The goal without the compiled part; None where there is none."""
    before: str
    """What was measured when the goal was set."""
    is_most: bool = False
    """The value may be no higher than the goal; otherwise no lower."""

    def aim(self, is_pure: bool) -> float | None:
        return self.pure if is_pure else self.goal

    def is_met(self, value: float, is_pure: bool) -> bool | None:
        aim = self.aim(is_pure)
        if aim is None:
            return None
        return value <= aim if self.is_most else value >= aim


GOALS = (
    Goal("publish", "publish of lines, of a bare socket, inside", "x", 1.0, 0.9, "0.88"),
    Goal("publish", "publish, CPU a message", "us", 0.27, 0.75, "0.96", is_most=True),
    Goal("publish", "publish beside Java", "x", 1.6, 1.3, "1.3"),
    Goal("publish", "publish beside Go", "x", 1.6, 1.3, "1.5"),
    Goal("publish", "publish beside Rust", "x", 1.6, 1.3, "2"),
    Goal("consume", "consume > /dev/null, of a bare drain, inside", "x", 0.75, 0.18, "0.16"),
    Goal("consume", "consume > /dev/null, of a bare drain, whole process", "x", 0.6, None, "0.15"),
    Goal("consume", "consume, CPU a message", "us", 0.10, 0.6, "0.72", is_most=True),
    Goal("consume", "consume beside Java (50 credits)", "x", 3.0, 1.0, "0.86"),
    Goal("consume", "consume beside Go", "x", 3.0, 1.0, "1.5"),
    Goal("consume", "consume beside Rust", "x", 3.0, 1.0, "1.8"),
    Goal("callback", "callback, decoded, beside the published client", "x", 6.5, 5.5, "5.5"),
    Goal("json", "consume --json, body only", "M/s", 1.2, 0.63, "0.63"),
    Goal("json", "publish --json, body only", "M/s", 0.4, 0.11, "0.11"),
    Goal("chunks", f"chunks of {CHUNK} messages, CPU a chunk", "us", 60, 90, "190", is_most=True),
    Goal("latency", "confirm latency p99 at 50,000/s, of Java's", "x", 0.5, None, "0.05-0.44", is_most=True),
    Goal("send_wait", "send_wait one at a time, p50 over a bare round trip", "x", 1.2, None, "1.5", is_most=True),
    Goal("memory", "peak memory of pipes, 100 B bodies", "MB", 45, None, "40", is_most=True),
    Goal("memory", "peak memory of pipes, 100 KB bodies", "MB", 80, None, "89", is_most=True),
)


class Counts(NamedTuple):
    """How many messages each part takes, in proportion to one number."""

    long: int
    short: int
    """The other run of a slope."""
    peers: int
    json: int
    callback: int
    published: int
    """The published client takes 20 times as long."""
    chunks: int
    latencies: int
    round_trips: int
    pipes: tuple[int, int]
    large: tuple[int, int]

    @classmethod
    def of(cls, messages: int) -> Counts:
        return cls(
            long=messages,
            short=messages // 5,
            peers=messages // 2,
            json=messages // 5,
            callback=messages // 10,
            published=messages // 50,
            chunks=max(messages // 1000, 20),
            latencies=max(min(messages // 10, 10 * RATE), LATENCIES),
            round_trips=max(messages // 5000, 10),
            pipes=(messages // 50, messages // 5),
            large=(max(messages // 2000, 20), max(messages // 500, 80)),
        )


class Measured(NamedTuple):
    """A value of the table."""

    value: float
    detail: str
    """What it was made of."""


Found = dict[str, Measured]
"""By the names of goals."""


class Setting(NamedTuple):
    """Where it is measured, with what."""

    target: Target
    folder: Path
    counts: Counts
    rounds: int
    peers: Sequence[Peer]
    published: Path | None
    """The interpreter that has the published client."""

    @contextmanager
    def lines(self, count: int, size: int = SIZE, form: bytes = b"%s\n") -> Iterator[Path]:
        """A file of messages, for a while."""
        file = self.folder / f"lines-{count}-{size}"
        write_lines(file, size, count, form)
        try:
            yield file
        finally:
            file.unlink()

    def publish(self, lines: Path, count: int, arguments: Sequence[str] = ()) -> Result:
        """``rstream publish < lines``, to a stream of its own."""
        with self.target.new_streams("publish") as (stream,):
            result = self.target.publish_file(stream, lines.open("rb"), ("--count", str(count), *arguments))
            return checked(self.target, result, count, stream)

    def worker(self, module: str, task: str, count: int, python: Path | None = None) -> Result:
        """A worker that publishes, to a stream of its own."""
        with self.target.new_streams("publish") as (stream,):
            return checked(self.target, self.target.worker(module, task, stream, count, python=python), count, stream)

    def peer(self, peer: Peer, count: int) -> Result:
        """A peer that publishes, to a stream of its own."""
        warm_up = peer.warm_up(count)
        with self.target.new_streams("publish") as (stream,):
            result = self.target.peer(peer.command, "publish", [stream], count, warm_up=warm_up)
            return checked(self.target, result, count, stream, warm_up)


def checked(target: Target, result: Result, count: int, stream: str = "", more: int = 0) -> Result:
    """Raises ``Failed`` unless so many messages were handled, and the stream, if any, holds them, and ``more``."""
    if result.messages != count:
        raise Failed(f"{result.messages:,} messages instead of {count:,}")
    if stream and (held := target.admin("count", stream)) != count + more:
        raise Failed(f"the stream holds {held:,} messages instead of {count + more:,}")
    return result


def beside_peers(what: str, ours: Contender, peers: Sequence[tuple[Peer, Contender]]) -> Found:
    """The rows of the languages."""
    names = {"java": "Java", "go": "Go", "rust": "Rust"}
    credits_of = {"consume": {"java": " (50 credits)"}}
    found: Found = {}
    for peer, contender in peers:
        name = f"{what} beside {names[peer.name]}{credits_of.get(what, {}).get(peer.name, '')}"
        found[name] = Measured(ratio(ours, contender), rates(ours, contender))
    return found


def rates(one: Contender, other: Contender) -> str:
    return f"{one.rate / 1e6:.3g} of {other.rate / 1e6:.3g} M/s"


# The groups.


def publish(setting: Setting) -> Found:
    """``rstream publish < file`` until all is confirmed; the bare socket and the other clients do the same."""
    counts = setting.counts
    with setting.lines(counts.long) as lines:
        bare = Contender("bare socket", partial(setting.worker, "bare_socket", "publish", counts.long))
        long = Contender("rstream publish", partial(setting.publish, lines, counts.long))
        short = Contender("rstream publish, short", partial(setting.publish, lines, counts.short))
        peers = [(peer, Contender(peer.title, partial(setting.peer, peer, counts.peers))) for peer in setting.peers]
        take_turns("publish", [bare, long, short, *(contender for _, contender in peers)], setting.rounds)
    return {
        "publish of lines, of a bare socket, inside": Measured(ratio(long, bare), rates(long, bare)),
        **cost("publish, CPU a message", long, short),
        **beside_peers("publish", long, peers),
    }


def cost(name: str, long: Contender, short: Contender, unit: int = 1) -> Found:
    """What a further message costs in processor time, or ``unit`` of them; nothing where that drowned in noise."""
    value = slope(long, short, unit) * 1e6
    if value <= 0:
        note(f"{name}: the long run took no more than the short one; give more --messages")
        return {}
    spent = [each.median(lambda result: result.cpu) for each in (long, short)]
    detail = f"{spent[0]:.2f} s of {long.results[0].messages:,}, {spent[1]:.2f} s of {short.results[0].messages:,}"
    return {name: Measured(value, detail)}


def consume(setting: Setting) -> Found:
    """``rstream consume > /dev/null`` of one stream; the bare socket and the other clients read the same one."""
    target, counts = setting.target, setting.counts
    with target.new_streams("consume") as (stream,):
        fill(target, stream, counts.long)
        bare = Contender("bare socket", partial(drained, target, stream, counts.long))
        long = Contender("rstream consume", partial(read, target, stream, counts.long))
        short = Contender("rstream consume, short", partial(read, target, stream, counts.short))
        peers = [
            (peer, Contender(peer.title, partial(read_by, target, peer, stream, counts.peers)))
            for peer in setting.peers
        ]
        take_turns("consume", [bare, long, short, *(contender for _, contender in peers)], setting.rounds)
    whole = ratio(long, bare, lambda result: result.whole_rate, lambda result: result.rate)
    start = long.median(lambda result: result.whole - result.seconds)
    return {
        "consume > /dev/null, of a bare drain, inside": Measured(ratio(long, bare), rates(long, bare)),
        "consume > /dev/null, of a bare drain, whole process": Measured(
            whole, f"{counts.long:,} messages, start and end {start:.2f} s"
        ),
        **cost("consume, CPU a message", long, short),
        **beside_peers("consume", long, peers),
    }


def fill(target: Target, stream: str, count: int, task: str = "publish", more: Sequence[str] = ()) -> None:
    note(f"filling a stream with {count:,} messages")
    checked(target, target.worker("bare_socket", task, stream, count, more=more), count)


def drained(target: Target, stream: str, count: int) -> Result:
    return at_least(target.worker("bare_socket", "consume", stream, count), count)


def at_least(result: Result, count: int) -> Result:
    """What reads by the chunk may get more."""
    if result.messages < count:
        raise Failed(f"{result.messages:,} messages instead of {count:,}")
    return result


def read(target: Target, stream: str, count: int, arguments: Sequence[str] = ()) -> Result:
    result = target.consume_to(stream, arguments=("--count", str(count), *arguments))
    return checked(target, result, count)


def read_by(target: Target, peer: Peer, stream: str, count: int) -> Result:
    result = target.peer(peer.command, "consume", [stream], count, warm_up=peer.warm_up(count))
    if result.answer["bytes"] != count * target.size:
        raise Failed(f"{peer.title}: {count:,} bodies of {target.size} bytes came as {result.answer['bytes']:,} bytes")
    return checked(target, result, count)


def callback(setting: Setting) -> Found:
    """``Consumer.subscribe`` with ``amqp_decoder``, and a callback that looks at the body."""
    target, counts = setting.target, setting.counts
    if setting.published is None:
        return {}
    with target.new_streams("callback") as (stream,):
        fill(target, stream, counts.callback)
        ours = Contender(
            "core, callback",
            lambda: checked(target, target.worker("core", "callback", stream, counts.callback), counts.callback),
        )
        theirs = Contender("published client, callback", partial(read_published, setting, stream))
        take_turns("callback", [ours, theirs], setting.rounds)
    return {"callback, decoded, beside the published client": Measured(ratio(ours, theirs), rates(ours, theirs))}


def read_published(setting: Setting, stream: str) -> Result:
    count = setting.counts.published
    module = "peers.python.published_client"
    return checked(
        setting.target, setting.target.worker(module, "callback", stream, count, python=setting.published), count
    )


def json_lines(setting: Setting) -> Found:
    """Envelopes with a body and nothing else, in and out."""
    target, count = setting.target, setting.counts.json
    with (
        setting.lines(count, form=b'{"body":"%s"}\n') as lines,
        target.new_streams("json") as (stream,),
    ):
        fill(target, stream, count)
        out = Contender("rstream publish --json", partial(setting.publish, lines, count, ("--json",)))
        back = Contender("rstream consume --json", partial(read, target, stream, count, ("--json",)))
        take_turns("json", [out, back], setting.rounds)
    return {
        "consume --json, body only": Measured(back.rate / 1e6, f"{count:,} messages"),
        "publish --json, body only": Measured(out.rate / 1e6, f"{count:,} messages"),
    }


def chunks(setting: Setting) -> Found:
    """``rstream consume > /dev/null`` of live traffic's chunks."""
    target, long, short = setting.target, setting.counts.chunks, setting.counts.chunks // 5
    with target.new_streams("chunks") as (stream,):
        fill(target, stream, CHUNK * long, "chunks", ("--batch", str(CHUNK)))
        runs = [
            Contender(f"rstream consume, {number:,} chunks", partial(read, target, stream, CHUNK * number))
            for number in (long, short)
        ]
        take_turns("chunks", runs, setting.rounds)
    (name,) = (goal.name for goal in GOALS if goal.group == "chunks")
    return cost(name, runs[0], runs[1], CHUNK)


def latency(setting: Setting) -> Found:
    """At a rate, from when a message was due until it is confirmed."""
    target, count = setting.target, setting.counts.latencies
    java = next((peer for peer in setting.peers if peer.name == "java"), None)
    if java is None:
        return {}
    warm_up = count // 2

    def theirs() -> Result:
        with target.new_streams("latency") as (stream,):
            return target.peer(java.command, "latency", [stream], count, warm_up=warm_up, rate=RATE)

    ours = Contender("rstream bench publish", partial(target.latency, count, warm_up, RATE))
    others = Contender(java.title, theirs)
    take_turns("latency", [ours, others], setting.rounds)

    def p99(result: Result) -> float:
        said = result.answer
        return float(said["runs"][0]["confirm"]["p99"] if "runs" in said else said["p99"])

    detail = f"{ours.median(p99) / 1000:.3g} of {others.median(p99) / 1000:.3g} ms"
    return {"confirm latency p99 at 50,000/s, of Java's": Measured(ratio(ours, others, p99), detail)}


def send_wait(setting: Setting) -> Found:
    """One message, its confirm, the next message."""
    count = setting.counts.round_trips
    ours = Contender("core, send_wait", partial(setting.worker, "core", "send_wait", count))
    bare = Contender("bare socket, round trip", partial(setting.worker, "bare_socket", "round_trip", count))
    take_turns("send_wait", [ours, bare], setting.rounds)

    def p50(result: Result) -> float:
        return float(result.answer["p50"])

    detail = f"{ours.median(p50):.0f} of {bare.median(p50):.0f} us"
    return {"send_wait one at a time, p50 over a bare round trip": Measured(ratio(ours, bare, p50), detail)}


def memory(setting: Setting) -> Found:
    """``cat file | rstream publish`` and ``rstream consume | cat``, of two lengths; all must come out as it went in."""
    found: Found = {}
    for size, title, lengths in (
        (SIZE, "100 B", setting.counts.pipes),
        (LARGE, "100 KB", setting.counts.large),
    ):
        target = setting.target._replace(size=size)
        peaks: list[float] = []
        for count in lengths:
            note(f"{count:,} lines of {size:,} bytes through pipes")
            with setting.lines(count, size) as lines, target.new_streams("memory") as (stream,):
                peaks += [through_pipe(target, stream, lines, count), back_through_pipe(target, stream, lines, count)]
        shown = ", ".join(f"{peak:.0f}" for peak in peaks)
        detail = f"out and in, of {lengths[0]:,} and {lengths[1]:,}: {shown} MB"
        found[f"peak memory of pipes, {title} bodies"] = Measured(max(peaks), detail)
    return found


def through_pipe(target: Target, stream: str, lines: Path, count: int) -> float:
    with Popen(["cat", lines], stdout=PIPE) as cat:
        assert cat.stdout is not None
        return checked(target, target.publish_file(stream, cat.stdout), count, stream).peak_mb


def back_through_pipe(target: Target, stream: str, lines: Path, count: int) -> float:
    copy = lines.with_suffix(".copy")
    try:
        with copy.open("wb") as sink, Popen(["cat"], stdin=PIPE, stdout=sink) as cat:
            assert cat.stdin is not None
            result = checked(target, target.consume_to(stream, cat.stdin), count)
        if not same_content(copy, lines):
            raise Failed("what was consumed is not what was published")
    finally:
        copy.unlink(missing_ok=True)
    return result.peak_mb


class Group(NamedTuple):
    """Rows that are measured together."""

    measure: Callable[[Setting], Found]
    fixed: float
    """Seconds of each round that no message takes."""
    seconds: float
    """More of each round, for a million messages of ``--messages``."""
    once: float = 0.0
    """The same, beside the rounds."""


GROUPS = {
    "publish": Group(publish, 10, 9),
    "consume": Group(consume, 8, 2.5, 2),
    "callback": Group(callback, 3, 0.6, 0.2),
    "json": Group(json_lines, 2, 3, 0.6),
    "chunks": Group(chunks, 2, 0.1, 0.8),
    "latency": Group(latency, 5, 3),
    "send_wait": Group(send_wait, 3, 0.3),
    "memory": Group(memory, 0, 0, 6),
}


def expected_seconds(names: Sequence[str], messages: int, rounds: int) -> float:
    """About how long it takes on two cores that do nothing else."""
    millions = messages / 1e6
    groups = [GROUPS[name] for name in names]
    return sum(rounds * (group.fixed + group.seconds * millions) + group.once * millions for group in groups) + 15


def measure(setting: Setting, names: Sequence[str]) -> tuple[Found, list[str]]:
    """Returns what was found, and what failed: the other groups go on."""
    found: Found = {}
    faults: list[str] = []
    for name in names:
        try:
            found |= GROUPS[name].measure(setting)
        except Failed as error:
            faults.append(f"{name}: {error}")
            note(faults[-1])
    return found, faults


def rows(found: Found, names: Sequence[str], is_pure: bool) -> list[Row]:
    """The table, with its heads."""
    made: list[Row] = [("", "measured", "goal", "met", "before", "from")]
    for goal in GOALS:
        if goal.group not in names:
            continue
        aim = goal.aim(is_pure)
        shown = "-" if aim is None else f"{'<=' if goal.is_most else '>='} {aim:g} {goal.unit}"
        measured = found.get(goal.name)
        if measured is None:
            made.append((goal.name, "not measured", shown, "-", goal.before, ""))
            continue
        is_met = goal.is_met(measured.value, is_pure)
        met = "-" if is_met is None else "yes" if is_met else "NO"
        made.append((goal.name, f"{measured.value:.3g} {goal.unit}", shown, met, goal.before, measured.detail))
    return made


def as_json(found: Found, is_pure: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": goal.name,
            "unit": goal.unit,
            "value": found[goal.name].value,
            "goal": goal.aim(is_pure),
            "is_most": goal.is_most,
            "met": goal.is_met(found[goal.name].value, is_pure),
            "detail": found[goal.name].detail,
        }
        for goal in GOALS
        if goal.name in found
    ]
