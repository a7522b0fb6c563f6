"""Compares what messages and chunks cost in CPU time, also with another checkout: ``python -m benchmarks.cpu``.

What other benchmarks do not show: chunks of few messages, as in live traffic; super streams of one partition and of
twenty; publishing by key; and the calls of ``Producer`` and ``Consumer`` that are made once a message.

Rates say little on a machine that runs the broker, too. So the user CPU time of each program is taken, in a short run
and in a long one: the difference is what the further messages cost, without the start. All take turns, there and back.
With ``--beside DIR``, each is also run with the ``rstream_core`` and ``rstream_cli`` of that folder, and the ratio is
the median of those of each turn; the absolute figures of two runs of this program are not to be compared. Three
figures of each: user CPU time and that with the system's, as medians, and the least of all turns of the latter.

The broker is the embedded one in a process of its own, or that of RSTREAM_TEST_URI.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.broker import ROOT, embedded_broker, running_broker
from benchmarks.worker import DEADLINE, make_bodies
from rstream_core import Client, ConnectionOptions, Credentials
from rstream_core.protocol.amqp import encode_bodies
from rstream_core.uri import parse_uri

SMALL = 32
"""Messages of a small chunk: the most that the embedded broker makes one chunk of."""
SIZE = 100
PARTITIONS = (1, 20)


class Spent(NamedTuple):
    """CPU time in seconds."""

    user: float
    all: float
    """With the system's for it, such as for reading and writing."""


class Tree(NamedTuple):
    """Packages that are measured."""

    name: str
    folder: Path
    """Has ``rstream_core`` and ``rstream_cli``, and nothing else."""

    def cpu(self, arguments: Sequence[str], source: Path | None = None) -> Spent:
        """Runs a Python program to its end, with what ``source`` holds as its input. Returns its CPU time. Raises
        ``SystemExit`` where it fails."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RSTREAM_")}
        kept["PYTHONPATH"] = f"{self.folder}{os.pathsep}{ROOT}"
        command = [sys.executable, *arguments]
        with tempfile.TemporaryFile() as errors, open(source or os.devnull, "rb") as stdin:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=errors, env=kept, cwd=self.folder
            )
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-2000:]
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}: {said}")
        return Spent(usage.ru_utime, usage.ru_utime + usage.ru_stime)


@dataclass
class Case:
    """Something that is measured."""

    name: str
    run: Callable[[Tree, int], Spent]
    """Runs it with so many messages."""
    short: int
    long: int
    unit: int = 1
    """Messages that are counted as one."""
    reference: str = ""
    """Which other case it is compared with."""
    runs: dict[str, list[tuple[Spent, Spent]]] = field(default_factory=dict)
    """By the name of a tree: the long run and the short one of each turn."""

    @property
    def units(self) -> float:
        """How many units the long run has more."""
        return (self.long - self.short) / self.unit

    def measure(self, tree: Tree) -> None:
        self.runs.setdefault(tree.name, []).append((self.run(tree, self.long), self.run(tree, self.short)))

    def user(self, tree: Tree) -> list[float]:
        """Seconds of user CPU time a unit, one for each turn."""
        return [(long.user - short.user) / self.units for long, short in self.runs[tree.name]]

    def all(self, tree: Tree) -> list[float]:
        """As ``user``, with the system's time."""
        return [(long.all - short.all) / self.units for long, short in self.runs[tree.name]]

    def least(self, tree: Tree) -> float:
        """As ``all``, from the least of all turns: a busy machine only ever adds to it."""
        runs = self.runs[tree.name]
        return (min(long.all for long, _ in runs) - min(short.all for _, short in runs)) / self.units


def median_ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each turn."""
    return statistics.median(one / other for one, other in zip(some, others, strict=True))


# What is measured.


def consume(uri: str, stream: str, tree: Tree, count: int) -> Spent:
    start = ("consume", stream, "--offset", "first", "--count", str(count))
    return tree.cpu(["-m", "rstream_cli", *start, "--uri", uri])


def consume_all(uri: str, super_stream: str, tree: Tree, count: int) -> Spent:
    start = ("superstream", "consume", super_stream, "--offset", "first", "--count", str(count))
    return tree.cpu(["-m", "rstream_cli", *start, "--uri", uri])


def publish_keyed(uri: str, super_stream: str, lines: Path, routing: str, tree: Tree, count: int) -> Spent:
    start = ("superstream", "publish", super_stream, "--key-delimiter", ":", "--routing", routing, "--count")
    return tree.cpu(["-m", "rstream_cli", *start, str(count), "--uri", uri], lines)


def core(uri: str, stream: str, task: str, tree: Tree, count: int) -> Spent:
    given = ("--uri", uri, "--stream", stream, "--messages", str(count), "--size", str(SIZE))
    return tree.cpu(["-m", "benchmarks.core", task, *given])


# What is there to be read and published.


def client_of(uri: str) -> Client:
    place = parse_uri(uri)
    credentials = Credentials(place.username or "guest", place.password or "guest")
    options = ConnectionOptions(endpoints=(place.endpoint,), credentials=credentials, vhost=place.vhost or "/")
    return Client(options)


async def fill(client: Client, stream: str, chunks: int, size: int) -> None:
    """Makes a stream of so many chunks of ``size`` messages, at least where the broker makes one of each batch."""
    await client.create_stream(stream)
    publisher = await client.publisher(stream)
    messages = encode_bodies((make_bodies(SIZE) * (size // 1000 + 1))[:size])
    for _ in range(chunks):
        await publisher.publish(messages)
        if size <= SMALL:
            await publisher.flush(DEADLINE)
    await publisher.flush(DEADLINE)
    await publisher.close()


def write_keyed(file: Path, count: int, keys: int) -> None:
    """Writes lines of a key, a colon and a body of ``SIZE`` bytes; the keys take turns."""
    bodies = make_bodies(SIZE)
    with file.open("wb") as out:
        for number in range(count):
            out.write(b"%d:%s\n" % (number % keys, bodies[number % len(bodies)]))


class Setting:
    """A broker, and what there is on it. Streams are deleted at the end."""

    def __init__(self, uri: str, tree: Tree, folder: Path, factor: float) -> None:
        self.uri = uri
        self._tree = tree
        self._folder = folder
        self._factor = factor
        self._prefix = f"cpu-{os.getpid()}"
        self._streams: list[str] = []
        self._super_streams: list[str] = []

    def _count(self, number: int) -> int:
        return max(int(number * self._factor), 1000)

    def _fill(self, name: str, chunks: int, size: int) -> str:
        stream = f"{self._prefix}-{name}"
        self._streams.append(stream)

        async def work() -> None:
            async with client_of(self.uri) as client:
                await fill(client, stream, chunks, size)

        asyncio.run(work())
        return stream

    def _create(self, name: str, partitions: int) -> str:
        super_stream = f"{self._prefix}-{name}-{partitions}"
        self._super_streams.append(super_stream)
        start = ("superstream", "create", super_stream, "--partitions", str(partitions))
        self._tree.cpu(["-m", "rstream_cli", *start, "--uri", self.uri])
        return super_stream

    def _keyed(self, count: int, keys: int) -> Path:
        file = self._folder / f"keyed-{keys}"
        if not file.exists():
            write_keyed(file, count, keys)
        return file

    def large(self) -> Iterator[Case]:
        """Chunks of a thousand messages and more."""
        short, long = self._count(100_000), self._count(1_000_000)
        stream = self._fill("large", long // 1000 + 1, 1000)
        yield Case("consume", partial(consume, self.uri, stream), short, long)

    def small(self) -> Iterator[Case]:
        """Chunks of few messages, by the chunk."""
        short, long = SMALL * self._count(1000), SMALL * self._count(8000)
        stream = self._fill("small", long // SMALL, SMALL)
        yield Case(f"consume, by the chunk of {SMALL}", partial(consume, self.uri, stream), short, long, SMALL)

    def partitions(self) -> Iterator[Case]:
        """Super streams of one partition and of many, with the same messages in total."""
        short, long = self._count(50_000), self._count(500_000)
        lines = self._keyed(long, 1000)
        for number in PARTITIONS:
            super_stream = self._create("out", number)
            name = "superstream publish, {} partitions"
            run = partial(publish_keyed, self.uri, super_stream, lines, "hash")
            reference = "" if number == PARTITIONS[0] else name.format(PARTITIONS[0])
            yield Case(name.format(number), run, short, long, reference=reference)
        for number in PARTITIONS:
            super_stream = self._create("in", number)
            publish_keyed(self.uri, super_stream, lines, "hash", self._tree, long)
            name = "superstream consume, {} partitions"
            reference = "" if number == PARTITIONS[0] else name.format(PARTITIONS[0])
            run = partial(consume_all, self.uri, super_stream)
            yield Case(name.format(number), run, short, long, reference=reference)

    def keys(self) -> Iterator[Case]:
        """Publishing by the broker's bindings."""
        short, long = self._count(50_000), self._count(500_000)
        lines = self._keyed(long, 3)
        super_stream = self._create("keys", 3)
        yield Case(
            "superstream publish by key", partial(publish_keyed, self.uri, super_stream, lines, "key"), short, long
        )

    def calls(self) -> Iterator[Case]:
        """Calls of ``Producer`` and ``Consumer``."""
        short, long = self._count(20_000), self._count(200_000)
        stream = self._fill("calls", long // 1000 + 1, 1000)
        for task in ("callback", "messages"):
            yield Case(f"core, {task}", partial(core, self.uri, stream, task), short, long)
        for task in ("send", "send_batch"):
            target = self._fill(task, 0, SMALL)
            yield Case(f"core, {task}", partial(core, self.uri, target, task), short, long)
        target = self._fill("send_wait", 0, SMALL)
        yield Case("core, send_wait", partial(core, self.uri, target, "send_wait"), short // 20, long // 20)

    def clean(self) -> None:
        async def work() -> None:
            async with client_of(self.uri) as client:
                for stream in self._streams:
                    await client.delete_stream(stream)
                for super_stream in self._super_streams:
                    await client.delete_super_stream(super_stream)

        asyncio.run(work())


GROUPS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "large": Setting.large,
    "small": Setting.small,
    "partitions": Setting.partitions,
    "keys": Setting.keys,
    "calls": Setting.calls,
}


@contextmanager
def trees(beside: Path | None) -> Iterator[list[Tree]]:
    """This checkout, and the other one. Each has its packages alone in a folder: a program is run with them, and with
    the benchmarks of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        found: list[Tree] = []
        for name, root in (("here", ROOT), ("beside", beside)):
            if root is not None:
                own = Path(folder) / name
                own.mkdir()
                for package in ("rstream_core", "rstream_cli"):
                    (own / package).symlink_to(root.resolve() / package)
                found.append(Tree(name, own))
        yield found


def measure(cases: Sequence[Case], found: Sequence[Tree], turns: int) -> None:
    rounds = [(case, tree) for case in cases for tree in found]
    for turn in range(turns):
        for case, tree in rounds if turn % 2 == 0 else reversed(rounds):
            case.measure(tree)
        print(f"  turn {turn + 1} of {turns}", file=sys.stderr, flush=True)


def print_costs(cases: Sequence[Case], found: Sequence[Tree]) -> None:
    by_name = {case.name: case for case in cases}
    for case in cases:
        words = [f"{case.name:36}"]
        for tree in found:
            each = (statistics.median(case.user(tree)), statistics.median(case.all(tree)), case.least(tree))
            words.append(f"{tree.name:6}" + " ".join(f"{seconds * 1e9:9,.0f}" for seconds in each) + " ns")
        if len(found) > 1:
            here, beside = found
            ratios = (
                median_ratio(case.user(here), case.user(beside)),
                median_ratio(case.all(here), case.all(beside)),
                case.least(here) / case.least(beside),
            )
            words.append("ratios " + " ".join(f"{ratio:.2f}" for ratio in ratios))
        if case.reference:
            other = by_name[case.reference]
            words += [f"{tree.name} {median_ratio(case.user(tree), other.user(tree)):.2f} x the one" for tree in found]
        print("  ".join(words), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout to compare with")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--factor", type=float, default=1.0, help="of the messages; less is a look")
    parser.add_argument("--only", default=",".join(GROUPS), metavar="GROUPS", help=f"some of {','.join(GROUPS)}")
    given = parser.parse_args()
    groups = given.only.split(",")
    if set(groups) - set(GROUPS) or given.turns < 1:
        parser.error("--only: no such group, or --turns below 1")
    broker = running_broker() if os.environ.get("RSTREAM_TEST_URI") else embedded_broker()
    with broker as running, trees(given.beside) as found, tempfile.TemporaryDirectory() as folder:
        print(f"{running.description}; CPU time a message, {given.turns} turns: user, all, least of all", flush=True)
        setting = Setting(running.uri, found[0], Path(folder), given.factor)
        try:
            for group in groups:
                cases = list(GROUPS[group](setting))
                measure(cases, found, given.turns)
                print_costs(cases, found)
        finally:
            setting.clean()


if __name__ == "__main__":
    main()
