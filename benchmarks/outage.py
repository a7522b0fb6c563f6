"""A web service in an outage: many tasks, each with one ``send`` for each of its requests, and a broker that is away.

    python -m benchmarks.outage [--messages 495000] [--tasks 5000] [--size 1000] [--seconds 5]

The broker is ended, the tasks send, and after some seconds it is started again. Meanwhile ``send`` is to return for no
more than the bounds of the producer allow, and the memory of this process is to stay within them, beside what the tasks
themselves hold. In the end each message is to be in the stream once, and those of each task in their order.

Prints one line of JSON. Exits with 1 where any of that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from rstream_core import (
    Client,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    EmbeddedBroker,
    OffsetType,
    Producer,
    parse_uri,
)
from rstream_core.client import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES

STREAM = "requests"
DEADLINE = 600.0
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)


class WebService:
    """The tasks, and what they have seen."""

    def __init__(self, producer: Producer, messages: int, tasks: int, size: int) -> None:
        self._producer = producer
        self._requests = messages // tasks
        self._size = size
        self.messages = self._requests * tasks
        self.returned = 0
        self._tasks = [asyncio.create_task(self._serve(number)) for number in range(tasks)]

    async def _serve(self, task: int) -> None:
        for number in range(self._requests):
            message = b"%d %d " % (task, number)
            await self._producer.send(STREAM, message.ljust(self._size, b"."), "service")
            self.returned += 1

    async def settle(self, seconds: float) -> None:
        """Returns when no more of them come through, or all; after so many seconds in any case."""
        before = -1
        until = asyncio.get_running_loop().time() + seconds
        while before != self.returned or asyncio.get_running_loop().time() < until:
            before = self.returned
            await asyncio.sleep(0.5)

    async def finish(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


async def measure(messages: int, tasks: int, size: int, seconds: float, data: Path) -> dict[str, Any]:
    """Runs it once. ``data`` is the broker's folder."""
    async with EmbeddedBroker(data=data) as broker:
        port = broker.port
        client = Client(ConnectionOptions(endpoints=(parse_uri(broker.uri).endpoint,)))
        await client.create_stream(STREAM)
        producer = Producer(client=client, close_timeout=DEADLINE)
        await producer.send_wait(STREAM, b"-1 0 ", "service")
    before = peak_mb()
    service = WebService(producer, messages, tasks, size)
    try:
        await service.settle(seconds)
        found = {"sent": service.messages, "returned_in_outage": service.returned, "grown_mb": peak_mb() - before}
        async with EmbeddedBroker(data=data, port=port):
            await service.finish()
            await producer.close()
            found |= await count(client)
            await client.close()
    finally:
        await service.stop()
    return found


async def count(client: Client) -> dict[str, int]:
    """How many messages are stored, and how many not in the order of their task."""
    end = await client.last_offset(STREAM)
    assert end is not None
    stored = out_of_order = 0
    last: dict[bytes, int] = {}
    async with await client.subscribe(STREAM, FIRST) as subscription:
        async for chunk in subscription:
            for message in chunk.messages:
                task, number, _ = message.split(b" ", 2)
                stored += 1
                out_of_order += int(number) != last.get(task, -1) + 1
                last[task] = int(number)
            if chunk.last_offset >= end:
                break
    return {"stored": stored - 1, "out_of_order": out_of_order}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def faults_of(found: dict[str, Any], size: int) -> list[str]:
    """What is not as it should be."""
    faults = []
    if found["returned_in_outage"] > min(MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES // size):
        faults.append("send returned for more than the bounds allow")
    if found["stored"] != found["sent"]:
        faults.append("not each message is stored once")
    if found["out_of_order"]:
        faults.append("messages of one task are not in their order")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.outage", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=495_000)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--size", type=int, default=1_000, help="bytes of a message")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the broker is away, at least")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rstream-outage-") as folder:
        found = asyncio.run(measure(given.messages, given.tasks, given.size, given.seconds, Path(folder)))
    print(json.dumps(found))
    faults = faults_of(found, given.size)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
