"""One run of a benchmark: starts the processes, tells them when to begin and to end, and joins what they say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from rstream_cli.bench import results
from rstream_cli.bench.plan import Consuming, Part, Publishing
from rstream_cli.bench.workers import READY_TIMEOUT, Worker, WorkerError
from rstream_cli.environment import Environment

STOP_TIMEOUT = 60.0
"""Seconds in which a run must end once it was told to."""
_HEAD_START = 100_000_000
"""Nanoseconds between the word to begin and the beginning, so that all processes begin at once."""


@dataclass(frozen=True)
class Surroundings:
    """What the runs of a benchmark share."""

    env: Environment
    settings: Mapping[str, Any]
    """Connection settings for the processes."""
    verbosity: int
    wait_for_broker: float
    stop: asyncio.Event
    """Set when the run is to end early."""
    tell: Callable[[str], None]
    """Takes a line for a person."""


@dataclass(slots=True)
class Measured:
    """What a run has measured, and the error that ended it, if one did."""

    record: dict[str, Any] = field(default_factory=dict)
    error: WorkerError | None = None


class Running:
    """One run. ``measure`` is called once."""

    def __init__(self, parts: Sequence[Part], around: Surroundings, show: Callable[[Mapping[str, Any]], None]) -> None:
        """``show`` gets each second: see ``results.Seconds``."""
        self._parts = parts
        self._around = around
        self._sides = ["publish" if isinstance(part, Publishing) else "consume" for part in parts]
        self._seconds = results.Seconds(self._sides, show)
        self._workers: list[Worker] = []
        self._done: list[dict[str, Any] | None] = [None] * len(parts)
        self._lost: set[tuple[int, str]] = set()

    async def measure(self) -> Measured:
        """Does the run. Raises ``WorkerError`` where a process cannot do its part, or dies.

        When it returns or raises, also if it is cancelled, all processes have ended.
        """
        around = self._around
        try:
            stderr = around.env.stderr.fileno()
        except (OSError, ValueError):
            stderr = None
        async with AsyncExitStack() as stack:
            for part in self._parts:
                worker = await Worker.start(part, around.settings, around.env, around.verbosity, stderr)
                stack.push_async_callback(worker.end)
                self._workers.append(worker)
            await self._all_ready()
            if around.stop.is_set():
                return Measured()
            at = time.monotonic_ns() + _HEAD_START
            for worker in self._workers:
                worker.order({"do": "go", "at": at})
            await self._follow()
        return self._measured()

    def confirmed(self) -> dict[str, int]:
        """Returns how many messages of each stream the broker has confirmed, of all producers that are done."""
        return results.confirmed_by_stream(self._done_of("publish"))

    async def _all_ready(self) -> None:
        """Waits until all are connected, or the run is to end."""
        timeout = READY_TIMEOUT + self._around.wait_for_broker
        ready = {asyncio.create_task(worker.event(timeout)) for worker in self._workers}
        stopping = asyncio.create_task(self._around.stop.wait())
        pending = ready
        try:
            while pending and not stopping.done():
                done, _ = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                pending = pending - done
                for task in done - {stopping}:
                    task.result()
        finally:
            for each in (*ready, stopping):
                each.cancel()
            await asyncio.wait((*ready, stopping))

    async def _follow(self) -> None:
        """Takes in what the processes say until all are done."""
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(self._listen(number)) for number in range(len(self._workers))]
            stopping = group.create_task(self._stop_early())
            await asyncio.wait(listening)
            stopping.cancel()

    async def _listen(self, number: int) -> None:
        worker = self._workers[number]
        while self._done[number] is None:
            event = await worker.event()
            kind = event["event"]
            if kind == "second":
                self._seconds.add(number, event)
            elif kind == "done":
                self._done[number] = event
                self._seconds.done(number, *event["total"])
                self._tell_consumers()
            else:
                self._tell_of_outage(number, event)

    def _tell_consumers(self) -> None:
        """Tells consumers what to expect, once all producers are done."""
        done = self._done_of("publish")
        if "publish" in self._sides and len(done) == self._sides.count("publish"):
            for worker in self._workers:
                if isinstance(worker.part, Consuming):
                    worker.order({"do": "expect", "confirmed": results.confirmed_by_stream(done)})

    async def _stop_early(self) -> None:
        await self._around.stop.wait()
        first = "publish" if "publish" in self._sides else "consume"  # consumers then read what was published
        for worker, side in zip(self._workers, self._sides, strict=True):
            if side == first:
                worker.order({"do": "stop"})
        await asyncio.sleep(STOP_TIMEOUT)
        raise WorkerError({"message": f"the run did not end within {STOP_TIMEOUT:g} s", "hint": None, "status": 6})

    def _tell_of_outage(self, number: int, event: Mapping[str, Any]) -> None:
        """Tells when the first connection is lost, and when all are there again."""
        were_lost = bool(self._lost)
        place = number, event["place"]
        if event["event"] == "lost":
            self._lost.add(place)
            if not were_lost:
                self._around.tell(f"{event['message']}; reconnecting")
            return
        self._lost.discard(place)
        if were_lost and not self._lost and event["event"] == "recovered":
            self._around.tell("all connections are there again")

    def _done_of(self, side: str) -> list[dict[str, Any]]:
        return [done for done, of in zip(self._done, self._sides, strict=True) if of == side and done is not None]

    def _measured(self) -> Measured:
        producers, consumers = self._done_of("publish"), self._done_of("consume")
        record: dict[str, Any] = {}
        sent_again = 0
        if producers:
            counts = results.published(producers)
            sent_again = counts["sent_again"]
            record["publish"] = {**results.side(producers), **counts}
            record["confirm"] = results.latency(producers)
        if consumers:
            record["consume"] = results.side(consumers)
            latency = results.latency(consumers)
            if latency is not None:
                record["end_to_end"] = latency
            record["check"] = self._checked(producers, consumers, sent_again)
        record["seconds"] = self._seconds.rows
        told = next((done["error"] for done in (*producers, *consumers) if done["error"] is not None), None)
        return Measured(record, None if told is None else WorkerError(told))

    def _checked(
        self, producers: Sequence[Mapping[str, Any]], consumers: Sequence[Mapping[str, Any]], sent_again: int
    ) -> dict[str, Any]:
        part = next(part for part in self._parts if isinstance(part, Consuming))
        if part.size is None:
            return results.offsets_checked(consumers)
        confirmed = results.confirmed_by_stream(producers) if producers else dict(part.expected)
        return results.checked(consumers, confirmed, sent_again)
