"""All clients side by side, along one axis at a time: ``python -m benchmarks peers``.

A point is a value of an axis, where all else is as at the base: bodies of 100 bytes, one stream, a million messages.
At each point all clients publish, and all read one stream, or one super stream, or many streams.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, NamedTuple

from benchmarks.goals import at_least, checked, fill
from benchmarks.peers.clients import Peer
from benchmarks.programs import Failed, Result, Target, write_lines
from benchmarks.rounds import Contender, note, ratio, take_turns
from benchmarks.tables import Row

SECONDS = 300.0
"""The most for a point, publishing and consuming each."""
DISK = 9_000_000_000
"""Bytes of a stream, beside the file that is published: together less than 10 GB."""
FILE = 600_000_000
"""Bytes of that file. More lines are those of it again."""
RUN = 1_000_000_000
"""Bytes of the bodies of a run, where their size is the axis."""
OVERHEAD = 22
"""Bytes that a stored message has beside its body, at most."""
LEAST_SECONDS = 60.0
"""The least that a run may take; otherwise ten times what is expected of it."""
PUBLISHED_PART, PUBLISHED_MOST = 5, 500_000
"""The published client gets a part of the messages: it takes longer by so much."""
OURS = "rstream"


PUBLISHED_CLIENT = "peers.python.published_client"


class Point(NamedTuple):
    """What is measured."""

    axis: str
    value: int
    messages: int
    size: int = 100
    streams: int = 1
    partitions: int = 0
    """Of a super stream; 0 where it is a stream."""
    chunk: int = 0
    """Messages of each chunk that is read; 0 where the broker decides."""

    @property
    def published_messages(self) -> int:
        return min(self.messages // PUBLISHED_PART, PUBLISHED_MOST)


class Axis(NamedTuple):
    """What varies."""

    title: str
    unit: str
    values: tuple[int, ...]
    quick: tuple[int, ...]
    """Fewer of them."""
    at: Callable[[int, int], Point]
    """The point of a value, given the messages at the base."""


def _size(value: int, messages: int) -> Point:
    return Point("size", value, min(messages, max(RUN // value, 1)), size=value)


def _messages(value: int, messages: int) -> Point:
    return Point("messages", value, value)


def _streams(value: int, messages: int) -> Point:
    return Point("streams", value, messages, streams=value)


def _partitions(value: int, messages: int) -> Point:
    return Point("partitions", value, messages, partitions=value)


def _chunk(value: int, messages: int) -> Point:
    return Point("chunk", value, messages // value * value, chunk=value)


AXES: Mapping[str, Axis] = {
    "size": Axis("bodies", "B", (100, 10, 1000, 10_000, 100_000), (100, 10, 10_000, 100_000), _size),
    "messages": Axis("messages", "", (1_000_000, 10_000_000, 50_000_000), (200_000, 1_000_000), _messages),
    "streams": Axis("streams", "", (1, 10, 50), (1, 10), _streams),
    "partitions": Axis("partitions of a super stream", "", (1, 10, 100), (1, 10), _partitions),
    "chunk": Axis("messages a chunk", "", (50, 5000), (50, 5000), _chunk),
}


def parse_axis(text: str) -> tuple[str, tuple[int, ...] | None]:
    """An axis, and some values of it, in their order: ``size=100,1000``."""
    name, _, values = text.partition("=")
    if name not in AXES:
        raise argparse.ArgumentTypeError(f"no such axis: {name}; there are {', '.join(AXES)}")
    if not values:
        return name, None
    try:
        found = tuple(int(value.replace("_", "")) for value in values.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name}: not whole numbers: {values}") from None
    most = {"size": 1_000_000, "streams": 200, "partitions": 200, "chunk": 8000}.get(name, DISK)
    if min(found) < 1 or max(found) > most:
        raise argparse.ArgumentTypeError(f"{name}: from 1 to {most}")
    return name, found


def points(asked: Sequence[tuple[str, tuple[int, ...] | None]], messages: int, is_quick: bool) -> list[Point]:
    """Those of the axes that are asked for, or of all; no larger than the disk allows."""
    found = []
    for name, values in asked or [(name, None) for name in AXES]:
        axis = AXES[name]
        for value in values or (axis.quick if is_quick else axis.values):
            point = axis.at(value, messages)
            found.append(point._replace(messages=min(point.messages, DISK // (point.size + OVERHEAD))))
    return found


# What the contenders do, and about how fast: messages of 100 bytes a second, and seconds of their starts.
RATES = {"publish": 300_000, "consume": 1_000_000, "published": 40_000, "start": 1.0}


def expected_seconds(found: Sequence[Point], rounds: int) -> float:
    """About how long it takes on two cores that do nothing else."""
    return sum(min(_expected(point, task, rounds), SECONDS) for point in found for task in tasks_of(point))


def _expected(point: Point, task: str, rounds: int) -> float:
    published = RATES["start"] + point.published_messages / RATES["published"]
    return rounds * (4 * run_seconds(point, task) + published) + run_seconds(point, "publish")


def run_seconds(point: Point, task: str) -> float:
    """About how long a contender takes."""
    return RATES["start"] + point.messages * max(point.size / 1000, 1) / RATES[task]


def tasks_of(point: Point) -> Sequence[str]:
    return ("consume",) if point.chunk else ("publish", "consume")


class Measured(NamedTuple):
    """What a task gave at a point."""

    point: Point
    task: str
    contenders: list[Contender]
    start_cpu: float
    """Seconds of processor time that the start of ``rstream`` takes, which do not count."""

    def cpu(self, contender: Contender) -> float:
        """Microseconds of processor time a message."""
        return contender.median(self._cpu) * 1e6

    def _cpu(self, result: Result) -> float:
        inside = result.answer.get("cpu")
        return (result.cpu - self.start_cpu if inside is None else float(inside)) / result.messages


class Place(NamedTuple):
    """Where a point is measured, with what."""

    target: Target
    folder: Path
    point: Point
    peers: Sequence[Peer]
    published: Path | None
    faults: list[str]
    """What failed so far."""

    @contextmanager
    def lines(self) -> Iterator[Callable[[], IO[bytes]]]:
        """What opens the lines to publish: a file, or a pipe where they are more than a file may hold."""
        point = self.point
        count = min(point.messages, max(FILE // (point.size + 10), 1))
        file = self.folder / "lines"
        write_lines(file, point.size, count, is_keyed=bool(point.partitions))
        try:
            if count == point.messages:
                yield lambda: file.open("rb")
            else:
                with _Repeated(file, -(-point.messages // count)) as repeated:
                    yield repeated.open
        finally:
            file.unlink()

    @contextmanager
    def streams(self, purpose: str) -> Iterator[list[str]]:
        point = self.point
        with self.target.new_streams(purpose, point.streams, partitions=point.partitions) as names:
            yield names

    @property
    def more(self) -> tuple[str, ...]:
        """Arguments for workers."""
        return ("--streams", str(self.point.streams), "--partitions", str(self.point.partitions))

    def checked(self, result: Result, name: str, count: int, more: int = 0) -> Result:
        checked(self.target, result, count)
        if (held := self.target.admin("count", name, self.more)) != count + more:
            raise Failed(f"the streams hold {held:,} messages instead of {count + more:,}")
        return result


class _Repeated:
    """A pipe with a file's content again and again."""

    def __init__(self, file: Path, times: int) -> None:
        self._file = file
        self._times = times
        self._running: list[Popen[bytes]] = []

    def open(self) -> IO[bytes]:
        self.close()
        cat = Popen(["cat", *[self._file] * self._times], stdout=PIPE)
        self._running.append(cat)
        assert cat.stdout is not None
        return cat.stdout

    def close(self) -> None:
        while self._running:
            cat = self._running.pop()
            cat.terminate()
            cat.wait()

    def __enter__(self) -> _Repeated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure(
    uri: str, folder: Path, found: Sequence[Point], rounds: int, peers: Sequence[Peer], published: Path | None
) -> tuple[list[Measured], list[str]]:
    """Returns what was found, and what failed: the others go on."""
    faults: list[str] = []
    start = {task: _start_of(Target(uri, 100), folder, task) for task in ("publish", "consume")}
    measured = []
    for point in found:
        for task in tasks_of(point):
            timeout = min(max(10 * run_seconds(point, task), LEAST_SECONDS), SECONDS)
            target = Target(uri, point.size, timeout=timeout)
            place = Place(target, folder, point, peers, published, faults)
            try:
                contenders = MEASURES[task](place, rounds)
            except Failed as error:  # a stream could not be made, or filled
                faults.append(f"{task}, {point.axis} {point.value:,}: {error}")
                note(faults[-1])
                continue
            measured.append(Measured(point, task, [each for each in contenders if each.results], start[task]))
    return measured, faults


def _start_of(target: Target, folder: Path, task: str) -> float:
    """The least processor time of three runs with one message."""
    file = folder / "line"
    write_lines(file, 100, 1)
    with target.new_streams("start") as (stream,):
        target.publish_file(stream, file.open("rb"))
        runs = [
            target.publish_file(stream, file.open("rb"))
            if task == "publish"
            else target.consume_to(stream, arguments=("--count", "1"))
            for _ in range(3)
        ]
    return min(result.cpu for result in runs)


def publish(place: Place, rounds: int) -> list[Contender]:
    """Everybody publishes to streams of its own, until all is confirmed."""
    target, point = place.target, place.point

    def ours(open_lines: Callable[[], IO[bytes]]) -> Result:
        with place.streams("publish") as names:
            name = stem(names)
            if point.streams > 1:
                result = target.worker("core", "publish", name, point.messages, more=place.more)
            elif point.partitions:
                routing = ("--key-delimiter", ":", "--routing", "hash", "--count", str(point.messages))
                result = target.publish_file(name, open_lines(), routing, "superstream publish")
            else:
                result = target.publish_file(name, open_lines(), ("--count", str(point.messages)))
            return place.checked(result, name, point.messages)

    def peers(peer: Peer) -> Result:
        warm_up = peer.warm_up(point.messages)
        with place.streams("publish") as names:
            options = {"warm_up": warm_up, "super": int(point.partitions > 0)}
            result = target.peer(peer.command, "publish", names, point.messages, **options)
            return place.checked(result, stem(names), point.messages, warm_up)

    def published() -> Result:
        count = point.published_messages
        with place.streams("publish") as names:
            result = target.worker(
                PUBLISHED_CLIENT, "send_batch", stem(names), count, python=place.published, more=place.more
            )
            return place.checked(result, stem(names), count)

    with place.lines() as open_lines:
        contenders = [
            Contender(OURS, partial(ours, open_lines)),
            *(Contender(peer.title, partial(peers, peer)) for peer in place.peers),
        ]
        return _turns(place, "publish", contenders, published, rounds)


def stem(names: Sequence[str]) -> str:
    """The name that several streams share."""
    return names[0] if len(names) == 1 else names[0].rpartition("-")[0]


def consume(place: Place, rounds: int) -> list[Contender]:
    """Everybody reads the same streams, which are full already."""
    target, point = place.target, place.point
    with place.streams("consume") as names:
        name = stem(names)
        batch = ("--batch", str(point.chunk)) if point.chunk else ()
        fill(target, name, point.messages, "chunks" if point.chunk else "publish", (*place.more, *batch))

        def ours() -> Result:
            if point.streams > 1:
                return at_least(target.worker("core", "consume", name, point.messages, more=place.more), point.messages)
            command = "superstream consume" if point.partitions else "consume"
            result = target.consume_to(name, arguments=("--count", str(point.messages)), command=command)
            return checked(target, result, point.messages)

        def peers(peer: Peer) -> Result:
            options = {"warm_up": peer.warm_up(point.messages), "super": int(point.partitions > 0)}
            result = target.peer(peer.command, "consume", names, point.messages, **options)
            if result.answer["bytes"] != point.messages * point.size:
                raise Failed(f"{peer.title}: {result.answer['bytes']:,} bytes of {point.messages * point.size:,}")
            return result

        def published() -> Result:
            count = point.published_messages
            return target.worker(PUBLISHED_CLIENT, "callback", name, count, python=place.published, more=place.more)

        contenders = [Contender(OURS, ours), *(Contender(peer.title, partial(peers, peer)) for peer in place.peers)]
        return _turns(place, "consume", contenders, published, rounds)


MEASURES = {"publish": publish, "consume": consume}


def _turns(
    place: Place, task: str, contenders: list[Contender], published: Callable[[], Result], rounds: int
) -> list[Contender]:
    point = place.point
    for each in contenders:
        each.took = run_seconds(point, task)
    if place.published is not None and not point.partitions and point.published_messages:
        contenders.append(Contender("published client", published))
    title = f"{task}, {point.axis} {point.value:,}"
    take_turns(title, contenders, rounds, seconds=SECONDS, faults=place.faults)
    return contenders


def tables(measured: Sequence[Measured]) -> Iterator[tuple[str, list[Row]]]:
    """One for each axis and task, with its title."""
    for name in dict.fromkeys(each.point.axis for each in measured):
        for task in ("publish", "consume"):
            part = [each for each in measured if each.point.axis == name and each.task == task]
            if any(each.contenders for each in part):
                yield f"{task}, by {AXES[name].title}", _rows(AXES[name], part)


def _rows(axis: Axis, part: Sequence[Measured]) -> list[Row]:
    base: dict[str, float] = {}
    for each in part:
        for contender in each.contenders:
            base.setdefault(contender.label, each.cpu(contender))
    rows: list[Row] = [
        (axis.title, "", "messages", "rounds", "messages/s", "rstream is", "CPU us/message", "of the first", "peak MB")
    ]
    for each in part:
        ours = next((contender for contender in each.contenders if contender.label == OURS), None)
        for contender in each.contenders:
            cpu = each.cpu(contender)
            rows.append(
                (
                    f"{each.point.value:,} {axis.unit}".strip() if contender is each.contenders[0] else "",
                    contender.label,
                    f"{contender.results[0].messages:,}",
                    str(len(contender.results)),
                    f"{contender.rate:,.0f}",
                    f"{ratio(ours, contender):.2f} x" if ours and contender is not ours else "",
                    f"{cpu:.2f}" if cpu > 0 else "-",  # less than the noise of a start
                    f"{cpu / base[contender.label]:.2f} x" if cpu > 0 and base[contender.label] > 0 else "-",
                    f"{contender.median(lambda result: result.peak_mb):.0f}",
                )
            )
    return rows


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {
            **each.point._asdict(),
            "task": each.task,
            "contenders": {
                contender.label: {
                    "cpu_us": each.cpu(contender),
                    "rounds": [result._asdict() for result in contender.results],
                }
                for contender in each.contenders
            },
        }
        for each in measured
    ]
