"""What the measured programs have in common: their arguments, their messages, and their one line of output.

Only the standard library is imported here, and nothing newer than Python 3.9: the published client's program uses
it too, under another interpreter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """One task on one stream."""

    task: str
    host: str
    port: int
    vhost: str
    username: str
    password: str
    stream: str
    messages: int
    size: int
    """Bytes of a body."""

    def batches(self) -> Iterator[list[bytes]]:
        """The bodies of ``messages`` messages. Made before the clock starts, and used again for each batch."""
        whole = make_bodies(self.size)
        for _ in range(self.messages // BATCH):
            yield whole
        if rest := self.messages % BATCH:
            yield whole[:rest]


def make_bodies(size: int, count: int = BATCH) -> list[bytes]:
    """Lines of text, all different where ``size`` allows."""
    filler = _TEXT * (size // len(_TEXT) + 1)
    return [(b"%08d " % number + filler)[:size] for number in range(count)]


def parse_work(tasks: Sequence[str], arguments: Sequence[str] | None = None) -> Work:
    """The command line of a measured program."""
    parser = argparse.ArgumentParser(description="One measured task; see docs/benchmarks.md.")
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--size", type=int, default=100)
    given = parser.parse_args(arguments)
    uri = urlsplit(given.uri)
    if uri.scheme != "rabbitmq-stream" or not uri.hostname:
        parser.error("the benchmarks need a plain rabbitmq-stream:// URI, without TLS")
    return Work(
        task=given.task,
        host=uri.hostname,
        port=uri.port or 5552,
        vhost=unquote(uri.path[1:]) or "/",
        username=unquote(uri.username or "guest"),
        password=unquote(uri.password or "guest"),
        stream=given.stream,
        messages=given.messages,
        size=given.size,
    )


class Stopwatch:
    """Runs from its making to ``stop()``, which may come more than once: the last time counts."""

    def __init__(self) -> None:
        self._started = self._stopped = time.perf_counter()

    def stop(self) -> None:
        self._stopped = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._stopped - self._started


def report(messages: int, stopwatch: Stopwatch) -> None:
    """Prints the result for the program that runs us: how many messages were confirmed or consumed."""
    print(json.dumps({"messages": messages, "seconds": stopwatch.seconds}), flush=True)
