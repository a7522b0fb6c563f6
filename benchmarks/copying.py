"""How fast a stream is copied, beside publishing and consuming: ``python -m benchmarks.copying``.

Messages of 100 bytes on one broker, by the core alone, in rounds: publish them, read them, copy them to another stream.
The goal is 0.8 of the slower one of the first two. With ``--sub-entries``, they are packed by a thousand.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.broker import running_broker
from rstream_core import (
    Client,
    CompressionType,
    ConnectionOptions,
    ConsumerOffsetSpecification,
    Credentials,
    OffsetType,
    parse_uri,
)
from rstream_core.protocol.amqp_sections import encode_bodies

GOAL = 0.8
BATCH = 1_000
SIZE = 100
SOURCE, TARGET = "bench-copy-from", "bench-copy-to"
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)


async def publish(client: Client, count: int, codec: CompressionType | None) -> None:
    """As ``rstream publish`` does: batches of a thousand, all of them confirmed at the end."""
    publisher = await client.publisher(SOURCE)
    batch = encode_bodies([b"x" * SIZE] * BATCH)
    for _ in range(count // BATCH):
        if codec is None:
            await publisher.publish(batch)
        else:
            await publisher.publish_sub_entry(batch, codec)
    await publisher.flush(120)
    await publisher.close()


async def consume(client: Client, count: int) -> None:
    """Reads all bodies."""
    seen = 0
    async with await client.subscribe(SOURCE, FIRST) as subscription:
        subscription.reads_plain = True
        async for chunk in subscription:
            seen += len(chunk.messages)
            if seen >= count:
                return


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(300):
        await work()
    return time.perf_counter() - began


async def measure(uri: str, count: int, rounds: int, codec: CompressionType | None) -> bool:
    given = parse_uri(uri)
    options = ConnectionOptions(
        endpoints=(given.endpoint,),
        credentials=Credentials(given.username or "guest", given.password or "guest"),
        vhost=given.vhost or "/",
    )
    seconds: dict[str, list[float]] = {"publish": [], "consume": [], "copy": []}
    is_whole = True
    async with Client(options, idle_timeout=5) as client:
        for _ in range(rounds):
            for stream in (SOURCE, TARGET):
                await client.delete_stream(stream, missing_ok=True)
                await client.create_stream(stream)
            seconds["publish"].append(await timed(lambda: publish(client, count, codec)))
            seconds["consume"].append(await timed(lambda: consume(client, count)))
            seconds["copy"].append(await timed(lambda: client.copy(SOURCE, TARGET)))
            is_whole &= (await client.copy(SOURCE, TARGET)).copied == 0
            is_whole &= await client.last_offset(TARGET) == await client.last_offset(SOURCE)
        for stream in (SOURCE, TARGET):
            await client.delete_stream(stream, missing_ok=True)
    rates = {name: count / median(some) for name, some in seconds.items()}
    print(f"{count:,} messages of {SIZE} bytes, {rounds} rounds" + ("" if codec is None else f", {codec.name}"))
    for name, rate in rates.items():
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f} s"
        print(f"  {name:10}{rate:>14,.0f} messages/s   {spread}")
    ratio = rates["copy"] / min(rates["publish"], rates["consume"])
    print(f"  copy is {ratio:.2f} of the slower one (goal: {GOAL})")
    return is_whole


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.copying", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N", help="a multiple of 1,000")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--sub-entries", choices=[codec.name for codec in CompressionType], metavar="CODEC")
    parser.add_argument("--uri", help="measure on this broker (default: one that is started)")
    given = parser.parse_args()
    if given.messages < BATCH or given.messages % BATCH or given.rounds < 1:
        parser.error(f"--messages is a multiple of {BATCH:,}, and --rounds at least 1")
    codec = None if given.sub_entries is None else CompressionType[given.sub_entries]
    if given.uri is not None:
        is_whole = asyncio.run(measure(given.uri, given.messages, given.rounds, codec))
    else:
        with running_broker() as broker:
            is_whole = asyncio.run(measure(broker.uri, given.messages, given.rounds, codec))
    if not is_whole:
        print("error: the copy is not whole", file=sys.stderr)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
