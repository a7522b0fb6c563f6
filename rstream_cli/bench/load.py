"""What one process of a benchmark does: it publishes (``publish_load``), or consumes (``consume_load``), and reports.

All measuring is done in such processes, so that what is shown to people does not measure itself. Each says ``ready``
once it is connected, begins at the time that ``go`` names, reports every second, and says at the end what it has
measured. See ``worker`` for the lines of JSON, and ``plan`` for what a process is told.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from rstream_cli.bench.histogram import Histogram
from rstream_cli.bench.plan import Part
from rstream_core import Client, RstreamError

SECOND = 1_000_000_000
"""Nanoseconds."""


def cpu_seconds() -> float:
    """Processor time of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory() -> int:
    """The most bytes of memory that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(slots=True)
class Latencies:
    """Latencies of the whole run, and of the second that is not reported yet; in microseconds."""

    whole: Histogram = field(default_factory=Histogram)
    second: Histogram = field(default_factory=Histogram)

    def take_second(self) -> str:
        """Returns those of the second, as ``Histogram.encoded``, and begins the next one."""
        done, self.second = self.second, Histogram()
        self.whole.merge(done)
        return done.encoded()


class Window:
    """The part of a run that rates are measured in: behind the warm-up, to the end of the load.

    Its ends are looked at with the clock when they come, so a late timer falsifies no rate.
    """

    def __init__(self, part: Part, at: int, count: Callable[[], tuple[int, int]]) -> None:
        """``at``: when the run begins, in nanoseconds of the monotonic clock. ``count``: messages and bytes so far."""
        self.at = at
        self.begin = at + round(part.warm_up * SECOND)
        self.end = None if part.duration is None else self.begin + round(part.duration * SECOND)
        self._count = count
        self._opened: tuple[int, int, int, float] | None = None
        self._closed: tuple[int, int, int, float] | None = None

    def open(self) -> None:
        """The warm-up is over."""
        self._opened = self._look()

    def close(self) -> None:
        """The load has ended. Only the first call counts."""
        if self._closed is None:
            self._closed = self._look()

    def _look(self) -> tuple[int, int, int, float]:
        return (time.monotonic_ns(), *self._count(), cpu_seconds())

    def holds(self, when: int) -> bool:
        """Returns whether what was meant to be sent at this time is measured."""
        return when >= self.begin and (self.end is None or when <= self.end)

    def result(self) -> dict[str, Any]:
        """Messages, bytes and processor time within the window, and when it began and ended, in nanoseconds."""
        if self._opened is None or self._closed is None:
            return {"messages": 0, "bytes": 0, "cpu": 0.0, "begin": self.begin, "end": self.begin}
        (begin, messages, size, cpu), (end, last, last_size, last_cpu) = self._opened, self._closed
        found = {"messages": last - messages, "bytes": last_size - size, "cpu": last_cpu - cpu}
        return {**found, "begin": begin, "end": end}


class Load(ABC):
    """The base of both kinds of load: one process' part of a run. ``run`` is called once."""

    def __init__(self, part: Part, client: Client, tell: Callable[[dict[str, Any]], None]) -> None:
        """``tell`` gets the reports."""
        self._part = part
        self._client = client
        self._tell = tell
        self._tasks: list[asyncio.Task[None]] = []
        self._window: Window
        self._error: RstreamError | None = None
        self.is_stopped = False
        """Whether it was ended early."""
        self.latencies = Latencies()

    async def run(self, at: int) -> None:
        """Makes the load from the time ``at`` on, in nanoseconds of the monotonic clock. Returns when it is done.

        Does not raise errors of the client's: ``result`` tells of them. A cancelled run ends at once.
        """
        self._window = window = Window(self._part, at, self.count)
        loop = asyncio.get_running_loop()
        await until(at)
        now = time.monotonic_ns()
        timers = []
        if self._part.warm_up > 0:
            timers.append(loop.call_later((window.begin - now) / SECOND, window.open))
        else:  # before anything is done, so that all of it counts
            window.open()
        if window.end is not None:
            timers.append(loop.call_later((window.end - now) / SECOND, window.close))
        self._tasks = [asyncio.create_task(work) for work in self.works()]
        reports = asyncio.create_task(self._report(at))
        try:
            await self._wait()
        finally:
            for task in (*self._tasks, reports):
                task.cancel()
            await asyncio.wait((*self._tasks, reports))
            for timer in timers:
                timer.cancel()
        window.close()
        await self.finish()
        self.latencies.take_second()

    async def _wait(self) -> None:
        """Waits until all tasks are done, or one has failed. One that was cancelled is done."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, RstreamError):
                self._error = self._error or error
            elif error is not None:
                raise error

    async def _report(self, at: int) -> None:
        second = 0
        while True:
            second += 1
            await asyncio.sleep((at - time.monotonic_ns()) / SECOND + second)
            messages, size = self.count()
            told = {"messages": messages, "bytes": size, "latency": self.latencies.take_second()}
            self._tell({"event": "second", "second": second, **told})

    def stop(self) -> None:
        """Ends the load early; what was published is still confirmed."""
        self.is_stopped = True
        for task in self._tasks:
            task.cancel()

    @abstractmethod
    def works(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What is done at once, from the beginning of the run on."""

    @abstractmethod
    def count(self) -> tuple[int, int]:
        """Messages, and bytes of their bodies, that were confirmed or consumed so far."""

    @abstractmethod
    async def open(self) -> None:
        """Opens what the load needs. Raises the client's errors."""

    @abstractmethod
    async def finish(self) -> None:
        """Closes it."""

    def result(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "total": self.count(),
            "window": self._window.result(),
            "memory": peak_memory(),
            "latency": self.latencies.whole.encoded(),
            "highest": self.latencies.whole.highest,
        }

    @property
    def error(self) -> RstreamError | None:
        """The error of the client's that ended the load."""
        return self._error


async def until(at: int) -> None:
    """Waits for a time, in nanoseconds of the monotonic clock."""
    while (left := at - time.monotonic_ns()) > 0:  # noqa: ASYNC110 - event loops may be early
        await asyncio.sleep(left / SECOND)
