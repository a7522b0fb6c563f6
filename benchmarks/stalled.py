"""What readers hold that have stopped in front of a long stream: ``python -m benchmarks.stalled``.

A stream of 5 GB; one ``rstream consume`` whose standard output nobody reads, one ``Consumer`` whose callback never
ends, and one loop over chunks that stays in the first. After a while the first is read to its end, and its bytes are
counted. Linux only: the memory is that of /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.broker import running_broker
from rstream_core import Client, ConnectionOptions, Credentials, parse_uri

SIZE = 1000
BATCH = 1000
STREAM = "bench-stalled"
PATIENCE = 60.0
LIMIT = 100
"""Megabytes that a reader may hold."""

_CALLBACK = """
import asyncio, sys
from rstream_core import Consumer, ConsumerOffsetSpecification, OffsetType

async def stay(message, context):
    print("there", flush=True)
    await asyncio.Event().wait()

async def main(host, port, username, password, vhost, stream):
    async with Consumer(host, int(port), username=username, password=password, vhost=vhost) as consumer:
        await consumer.subscribe(
            stream, callback=stay, offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST)
        )
        await consumer.run()

asyncio.run(main(*sys.argv[1:]))
"""
_CHUNKS = """
import asyncio, sys
from rstream_core import Client, ConnectionOptions, ConsumerOffsetSpecification, Credentials, Endpoint, OffsetType

async def main(host, port, username, password, vhost, stream):
    options = ConnectionOptions((Endpoint(host, int(port)),), Credentials(username, password), vhost)
    async with Client(options) as client:
        spec = ConsumerOffsetSpecification(OffsetType.FIRST)
        async for chunk in await client.subscribe(stream, spec):
            print("there", flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def fill(options: ConnectionOptions, count: int) -> None:
    """A new stream with so many messages."""
    line = b"x" * SIZE
    async with Client(options) as client:
        await client.delete_stream(STREAM, missing_ok=True)
        await client.create_stream(STREAM)
        publisher = await client.publisher(STREAM)
        for _ in range(count // BATCH):
            await publisher.publish([line] * BATCH)
        await publisher.close(60)
        if publisher.confirmed != count:
            raise SystemExit(f"error: {publisher.failed} of {count} messages were not confirmed")


async def delete(options: ConnectionOptions) -> None:
    async with Client(options) as client:
        await client.delete_stream(STREAM)


def resident(process: subprocess.Popen[bytes], peak: bool = False) -> float:
    """Megabytes of a process's memory: now, or the most so far."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1000
    raise SystemExit(f"error: a reader has ended with {process.wait()}")


def wait_until_there(way: str, process: subprocess.Popen[bytes]) -> None:
    """Until it has got messages: it says so, or has written some."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        raise SystemExit(f"error: {way} has got nothing within {PATIENCE:g} s")


def read_to_the_end(process: subprocess.Popen[bytes]) -> int:
    """How many bytes came out."""
    assert process.stdout is not None
    total = 0
    while data := os.read(process.stdout.fileno(), 1 << 20):
        total += len(data)
    return total


def measure(uri: str, count: int, seconds: float) -> bool:
    given = parse_uri(uri)
    credentials = Credentials(given.username or "guest", given.password or "guest")
    options = ConnectionOptions((given.endpoint,), credentials, given.vhost or "/")
    asyncio.run(fill(options, count))
    print(f"{count:,} messages of {SIZE:,} bytes; readers stand still for {seconds:g} s\n", flush=True)
    rstream = Path(sys.executable).with_name("rstream")
    told = (given.endpoint.host, str(given.endpoint.port), credentials.username, credentials.password, options.vhost)
    ways = {
        "rstream consume": [
            str(rstream),
            "consume",
            STREAM,
            "-o",
            "first",
            "--until",
            "end",
            "--codec",
            "raw",
            "-u",
            uri,
        ],
        "Consumer, callback": [sys.executable, "-c", _CALLBACK, *told, STREAM],
        "Subscription, chunks": [sys.executable, "-c", _CHUNKS, *told, STREAM],
    }
    readers = {way: subprocess.Popen(words, stdout=subprocess.PIPE) for way, words in ways.items()}
    try:
        for way, reader in readers.items():
            wait_until_there(way, reader)
        time.sleep(seconds / 2)
        half = {way: resident(reader) for way, reader in readers.items()}
        time.sleep(seconds / 2)
        print(f"{'MB':24}{'half way':>10}{'in the end':>12}{'most':>8}")
        most = 0.0
        for way, reader in readers.items():
            peak = resident(reader, peak=True)
            most = max(most, peak)
            print(f"{way:24}{half[way]:>10.0f}{resident(reader):>12.0f}{peak:>8.0f}")
        total = read_to_the_end(readers["rstream consume"])
    finally:
        for reader in readers.values():
            reader.kill()
            reader.communicate()
        asyncio.run(delete(options))
    print(f"\nrstream consume, read to its end: {total:,} bytes of {count * (SIZE + 1):,}")
    return most < LIMIT and total == count * (SIZE + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.stalled", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0, metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="N", help="for which the readers stand still")
    given = parser.parse_args()
    count = int(given.gigabytes * 1e9) // SIZE // BATCH * BATCH
    with running_broker() as broker:
        if measure(broker.uri, count, given.seconds):
            return 0
    print(f"error: a reader held {LIMIT} MB, or bytes are missing", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
