"""What the measured programs have in common: their arguments, their messages, and their one line of output.

Only the standard library is imported here, and nothing newer than Python 3.9: the published client's program uses
it too, under another interpreter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

BATCH = 1000
"""Messages that are handed over at once, where a client takes several."""
CREDIT = 10
"""Chunks that the broker may send ahead: the default of both clients."""
DEADLINE = 300.0
"""Seconds after which a program gives up."""

_TEXT = b"The quick brown fox jumps over the lazy dog, and the dog does not mind. "


@dataclass(frozen=True)
class Work:
    """One task."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    task: str = ""
    stream: str = ""
    messages: int = 0
    size: int = 100
    """Bytes of a body."""
    streams: int = 1
    partitions: int = 0
    """Of the super stream that ``stream`` is; 0 where it is a stream."""
    batch: int = BATCH
    """Messages that are handed over at once."""

    @property
    def names(self) -> list[str]:
        """The streams: that one, or several, or the partitions."""
        count = self.partitions or self.streams
        return [self.stream] if count == 1 and not self.partitions else [f"{self.stream}-{at}" for at in range(count)]

    def batches(self) -> Iterator[list[bytes]]:
        """The bodies of ``messages`` messages. Made before the clock starts, and used again for each batch."""
        whole = make_bodies(self.size, self.batch)
        for _ in range(self.messages // self.batch):
            yield whole
        if rest := self.messages % self.batch:
            yield whole[:rest]


def distinct(size: int) -> int:
    """How many bodies of this size differ: a batch of them, or fewer where that would take memory."""
    return max(min(BATCH, 1_000_000 // size), 1)


def make_bodies(size: int, count: int = BATCH) -> list[bytes]:
    """Lines of text, all different where ``size`` allows."""
    filler = _TEXT * (size // len(_TEXT) + 1)
    return [(b"%08d " % number + filler)[:size] for number in range(count)]


def parse_uri(text: str) -> Work:
    """A work without a task, on that broker. Raises ``ValueError``."""
    uri = urlsplit(text)
    if uri.scheme != "rabbitmq-stream" or not uri.hostname:
        raise ValueError("the benchmarks need a plain rabbitmq-stream:// URI, without TLS")
    return Work(
        host=uri.hostname,
        port=uri.port or 5552,
        vhost=unquote(uri.path[1:]) or "/",
        username=unquote(uri.username or "guest"),
        password=unquote(uri.password or "guest"),
    )


def parse_work(tasks: Sequence[str], arguments: Sequence[str] | None = None) -> Work:
    """The command line of a measured program."""
    parser = argparse.ArgumentParser(description="One measured task; see docs/benchmarks.md.")
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--batch", type=int, default=BATCH)
    given = vars(parser.parse_args(arguments))
    try:
        work = parse_uri(given.pop("uri"))
    except ValueError as error:
        parser.error(str(error))
    return replace(work, **given)


class Stopwatch:
    """Runs from its making to ``stop()``, which may come more than once: the last time counts."""

    def __init__(self) -> None:
        self._started_cpu = self._stopped_cpu = time.process_time()
        self._started = self._stopped = time.perf_counter()

    def stop(self) -> None:
        self._stopped = time.perf_counter()
        self._stopped_cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return self._stopped - self._started

    @property
    def cpu(self) -> float:
        """Processor time of this process meanwhile, in seconds, user and system."""
        return self._stopped_cpu - self._started_cpu


class RoundTrips(Stopwatch):
    """Notes how long each of many steps takes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def p50(self) -> float:
        """In microseconds."""
        return statistics.median(self.times) * 1e6


def report(messages: int, stopwatch: Stopwatch) -> None:
    """Prints the result for the program that runs us: how many messages were confirmed or consumed."""
    said: dict[str, Any] = {"messages": messages, "seconds": stopwatch.seconds, "cpu": stopwatch.cpu}
    if isinstance(stopwatch, RoundTrips):
        said["p50"] = stopwatch.p50()
    print(json.dumps(said), flush=True)
