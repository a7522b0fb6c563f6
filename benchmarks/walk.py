"""Counts what a block costs on its way through the command line: ``python -m benchmarks.walk``.

Two ways are walked, each with ``rstream`` running inside this process and the embedded broker in another one:

- out: ``rstream publish < file``. A block is one read of the file.
- in: ``rstream consume --until end | cat``. A block is one chunk, of many messages or of few, as in live traffic. A
  broker makes chunks of 32 entries, or of twice or half as many as before, so a batch of 1000 comes as two or more:
  what is printed is how many messages a chunk has on average.

Four figures of each:

- Python calls: functions called, in all threads and with asyncio's own. A coroutine or generator that goes on counts
  too, and so does what makes a named tuple or a dataclass. Of these and of the next it is shown how many this project
  makes: a function of asyncio's that calls another one is asyncio's.
- C calls: functions and methods written in C that Python code calls, such as ``len``. What C calls by itself, such as
  the function of a ``map``, is in none of the figures, and neither is what operators and slices do.
- Tasks made.
- Bytes allocated for each byte of the messages. A message is copied where bytes of its size are allocated, so this says
  how often a block is copied; the objects around the messages are part of it.

Each way is walked twice, over a few blocks and over many. The figures are the difference, divided by the number of
further blocks: what happens once, at the start or at the end, is in none of them. Nor is what happens once in each time
slice of 10 ms, which here never ends: a tracer takes longer than that for a block. They depend a little on when answers
arrive: a call or two is no news. Rates are measured by ``make bench``; this says where the time may go.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from benchmarks.broker import ROOT, embedded_broker
from benchmarks.worker import DEADLINE, make_bodies
from rstream_cli.__main__ import run
from rstream_cli.environment import Environment
from rstream_cli.input import BLOCK_SIZE
from rstream_core import Client, ConnectionOptions, ConsumerOffsetSpecification, Credentials, OffsetType, timeslice
from rstream_core.protocol.amqp import encode_bodies
from rstream_core.uri import parse_uri

FEW, MANY = 4, 24
"""Blocks of the two walks. Many fit the sockets' buffers, so that the broker's pace counts little."""
CHUNKS = {"full": 1000, "small": 32}
"""Messages that are published in one go. 32 are the most that come as one chunk."""
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)

Place = tuple[str, int, str]
"""A file, a line and the name of a function."""


class Costs(NamedTuple):
    """What a number of blocks has cost."""

    calls: Counter[Place]
    """Python calls by function."""
    c_calls: Counter[Place]
    """C calls by the Python function that makes them."""
    allocated: Counter[Place]
    """Bytes by line."""
    tasks: int


class Calls:
    """Counts the calls of functions in all threads: those of Python by themselves, those of C by who calls them."""

    def __init__(self) -> None:
        self._calls: Counter[CodeType] = Counter()
        self._c_calls: Counter[CodeType] = Counter()

    def __enter__(self) -> Calls:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._calls[frame.f_code] += 1
        elif event == "c_call":
            self._c_calls[frame.f_code] += 1

    @property
    def by_function(self) -> Counter[Place]:
        """Calls of Python functions."""
        return _by_place(self._calls)

    @property
    def by_caller(self) -> Counter[Place]:
        """Calls of C functions, by the Python function that makes them."""
        return _by_place(self._c_calls)


def _by_place(calls: Counter[CodeType]) -> Counter[Place]:
    found: Counter[Place] = Counter()
    for code, count in calls.items():
        if code.co_filename != __file__:
            found[_shown(code.co_filename), code.co_firstlineno, code.co_qualname] += count
    return found


class Allocations:
    """Adds up, line by line, by how much the memory in use grows while a line runs, also for a moment."""

    def __init__(self) -> None:
        self._grown: Counter[tuple[CodeType, int]] = Counter()
        self._line: tuple[CodeType, int] | None = None
        self._before = 0

    def __enter__(self) -> Allocations:
        tracemalloc.start(1)
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(100.0)  # threads take turns only where one waits, so a line's growth is its own
        threading.settrace(self._note)
        sys.settrace(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)
        sys.setswitchinterval(self._interval)
        tracemalloc.stop()

    def _note(self, frame: FrameType, event: str, _: Any) -> Any:
        if self._line is not None:
            grown = tracemalloc.get_traced_memory()[1] - self._before
            if grown > 0:
                self._grown[self._line] += grown
        # After "return" the caller's line goes on.
        shown = frame.f_back if event == "return" else frame
        self._line = None if shown is None else (shown.f_code, shown.f_lineno or 0)
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]
        return self._note

    @property
    def by_line(self) -> Counter[Place]:
        found: Counter[Place] = Counter()
        for (code, line), grown in self._grown.items():
            if code.co_filename not in (__file__, tracemalloc.__file__):
                found[_shown(code.co_filename), line, code.co_qualname] += grown
        return found


@contextmanager
def counted_tasks() -> Iterator[Callable[[], int]]:
    """Counts the tasks that are made."""
    made = 0
    usual = asyncio.tasks.Task

    class Task(usual):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*arguments, **options)

    asyncio.Task = asyncio.tasks.Task = Task  # type: ignore[misc]
    try:
        yield lambda: made
    finally:
        asyncio.Task = asyncio.tasks.Task = usual  # type: ignore[misc]


def _shown(name: str) -> str:
    path = Path(name)
    for folder in (ROOT, Path(os.__file__).parent):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return name


def costs(work: Callable[[], None]) -> Costs:
    """Runs it twice: tracing lines would add calls, and counting calls would add memory."""
    gc.collect()
    with counted_tasks() as tasks, Calls() as calls:
        work()
    made = tasks()
    gc.collect()
    with Allocations() as allocations:
        work()
    return Costs(calls.by_function, calls.by_caller, allocations.by_line, made)


class Way(NamedTuple):
    """A way to walk."""

    name: str
    what: str
    """What a block is."""
    size: int
    """Bytes of a block's messages."""
    walk: Callable[[int], None]
    """Walks over this many blocks."""


def _further(few: Counter[Place], many: Counter[Place]) -> Counter[Place]:
    """Returns what the further blocks of the longer walk have cost."""
    further = many.copy()
    further.subtract(few)
    return further


def report(way: Way, rows: int) -> None:
    """Walks, and prints what a block costs."""
    way.walk(FEW)  # imports, caches
    few = costs(partial(way.walk, FEW))
    many = costs(partial(way.walk, MANY))
    blocks = MANY - FEW
    calls, c_calls = _further(few.calls, many.calls), _further(few.c_calls, many.c_calls)
    allocated = _further(few.allocated, many.allocated)
    print(f"{way.name}, a block is {way.what}")
    for what, counted in ("Python", calls), ("C", c_calls):
        ours = sum(count for place, count in counted.items() if place[0].startswith("rstream_"))
        print(f"  {counted.total() / blocks:.1f} {what} calls, {ours / blocks:.1f} of them in this project")
    print(f"  {(many.tasks - few.tasks) / blocks:.2f} tasks")
    print(f"  {allocated.total() / blocks / way.size:.2f} bytes allocated for each byte")
    for (file, line, name), count in calls.most_common(rows):
        if count * 10 >= blocks:
            print(f"  {count / blocks:8.1f} calls  {name} ({file}:{line})")
    for (file, line, name), count in c_calls.most_common(rows):
        if count * 5 >= blocks:
            print(f"  {count / blocks:8.1f} C calls by  {name} ({file}:{line})")
    for (file, line, name), grown in allocated.most_common(rows):
        if grown / blocks >= way.size / 20:
            print(f"  {grown / blocks / way.size:8.2f} bytes  {name} ({file}:{line})")
    print(flush=True)


def rstream(*arguments: str, stdin: int | None = None, stdout: int | None = None) -> None:
    """Runs ``rstream`` inside this process. Descriptors that are not given are those of /dev/null."""
    with open(os.devnull, "r+b", buffering=0) as null, tempfile.TemporaryFile() as errors:
        ends = [null.fileno() if end is None else end for end in (stdin, stdout)]
        env = Environment.on(ends[0], ends[1], errors.fileno(), {})
        status = run(arguments, env)
        for stream in (env.stdin, env.stdout, env.stderr):
            stream.close()
        if status:
            errors.seek(0)
            raise SystemExit(f"rstream {arguments[0]} ended with {status}: {errors.read().decode(errors='replace')}")


def publish(uri: str, file: Path, size: int, blocks: int) -> None:
    """Publishes so many reads of lines."""
    lines = blocks * BLOCK_SIZE // (size + 1)
    with file.open("rb") as source:
        rstream("publish", "walk-out", "--count", str(lines), "--uri", uri, stdin=source.fileno())


def consume(uri: str, stream: str, ends: Sequence[int], blocks: int) -> None:
    """Consumes so many chunks, through a pipe. ``ends``: the last offset of each chunk."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        start_and_end = ("--offset", "first", "--until", str(ends[blocks - 1]))
        rstream("consume", stream, *start_and_end, "--uri", uri, stdout=reader.stdin.fileno())
        reader.stdin.close()


async def fill(uri: str, stream: str, bodies: list[bytes], chunk: int) -> list[int]:
    """Makes a stream with chunks of at most so many messages, and returns the last offset of each."""
    place = parse_uri(uri)
    credentials = Credentials(place.username or "guest", place.password or "guest")
    async with Client(ConnectionOptions(endpoints=(place.endpoint,), credentials=credentials)) as client:
        await client.create_stream(stream)
        publisher = await client.publisher(stream)
        messages = encode_bodies((bodies * (chunk // len(bodies) + 1))[:chunk])
        for _ in range(MANY):
            await publisher.publish(messages)
            await publisher.flush(DEADLINE)  # so that the next ones are in another chunk
        await publisher.close()
        ends: list[int] = []
        async with await client.subscribe(stream, FIRST) as subscription, asyncio.timeout(DEADLINE):
            async for found in subscription:
                ends.append(found.last_offset)
                if found.last_offset == MANY * chunk - 1:
                    break
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=100, help="bytes of a message")
    parser.add_argument("--rows", type=int, default=40, help="functions and lines to list of each way")
    parser.add_argument("--only", choices=("out", *CHUNKS), help="one way")
    given = parser.parse_args()
    bodies = make_bodies(given.size)
    timeslice.TIME_SLICE = DEADLINE
    with embedded_broker() as broker, tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "out"):
            file = Path(folder) / "lines"
            line = b"".join(body + b"\n" for body in bodies)
            file.write_bytes(line * ((MANY + 1) * BLOCK_SIZE // len(line) + 1))
            what = f"a read of {BLOCK_SIZE // 1024} KiB with lines of {given.size} bytes"
            rstream("stream", "create", "walk-out", "--uri", broker.uri)
            report(Way("out", what, BLOCK_SIZE, partial(publish, broker.uri, file, given.size)), given.rows)
        for name, chunk in CHUNKS.items():
            if given.only in (None, name):
                ends = asyncio.run(fill(broker.uri, f"walk-{name}", bodies, chunk))
                if len(ends) < MANY:
                    raise SystemExit(f"{MANY * chunk} messages came in {len(ends)} chunks")
                count = (ends[MANY - 1] - ends[FEW - 1]) / (MANY - FEW)
                what = f"a chunk of {count:.0f} messages of {given.size} bytes"
                walk = partial(consume, broker.uri, f"walk-{name}", ends)
                report(Way(f"in, {name} chunks", what, round(count * given.size), walk), given.rows)


if __name__ == "__main__":
    main()
