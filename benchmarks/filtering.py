"""How much of a stream is read for one filter value of a hundred: ``python -m benchmarks.filtering``.

A million messages of 100 bytes, in runs of 5,000 with the same value, as a publisher makes them that works on one
customer or one region after the other. Read as a whole, and for one value: the chunks that the broker sent, and what
was exactly wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import NamedTuple

from benchmarks.broker import running_broker
from rstream_core import Client, ConnectionOptions, ConsumerOffsetSpecification, Credentials, parse_uri
from tests.clients import publish_filtered

RUN = 5_000
VALUES = 100
WANTED = "value-42"
STREAM = "bench-filtering"


class Read(NamedTuple):
    """What one way of reading took."""

    chunks: int
    messages: int
    wanted: int
    seconds: float


async def read(client: Client, filter_values: list[str], last: int) -> Read:
    """Everything that the broker sends up to the last message with one of the values."""
    chunks = messages = wanted = 0
    mark = WANTED.encode()
    start = time.perf_counter()
    spec = ConsumerOffsetSpecification()
    async with await client.subscribe(STREAM, spec, filter_values=filter_values) as subscription, asyncio.timeout(120):
        async for chunk in subscription:
            chunks += 1
            messages += len(chunk.messages)
            wanted += sum(message.startswith(mark) for message in chunk.messages)
            if chunk.last_offset >= last:
                break
    return Read(chunks, messages, wanted, time.perf_counter() - start)


async def measure(uri: str, count: int) -> bool:
    given = parse_uri(uri)
    options = ConnectionOptions(
        endpoints=(given.endpoint,),
        credentials=Credentials(given.username or "guest", given.password or "guest"),
        vhost=given.vhost or "/",
    )
    values = [f"value-{number // RUN % VALUES}" for number in range(0, count, RUN)]
    runs = [[(value, f"{value} ".ljust(100).encode())] * RUN for value in values]
    async with Client(options) as client:
        await client.delete_stream(STREAM, missing_ok=True)
        await client.create_stream(STREAM)
        try:
            await publish_filtered(options, STREAM, *runs)
            last_wanted = max(place for place, value in enumerate(values) if value == WANTED) * RUN + RUN - 1
            everything = await read(client, [], count - 1)
            filtered = await read(client, [WANTED], last_wanted)
        finally:
            await client.delete_stream(STREAM, missing_ok=True)
    print(f"{count:,} messages, {VALUES} filter values in runs of {RUN:,}; wanted: {WANTED}\n")
    print(f"{'':12}{'chunks':>10}{'messages':>12}{'wanted':>10}{'seconds':>10}")
    for label, way in (("everything", everything), ("filtered", filtered)):
        print(f"{label:12}{way.chunks:>10,}{way.messages:>12,}{way.wanted:>10,}{way.seconds:>10.2f}")
    print(f"\nfiltered read {filtered.chunks / everything.chunks:.1%} of the chunks")
    return filtered.wanted == everything.wanted == values.count(WANTED) * RUN


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.filtering", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N")
    given = parser.parse_args()
    if given.messages < RUN * VALUES or given.messages % RUN:
        parser.error(f"--messages is a multiple of {RUN:,}, and at least {RUN * VALUES:,}")
    with running_broker() as broker:
        if asyncio.run(measure(broker.uri, given.messages)):
            return 0
    print("error: the counts of wanted messages differ", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
