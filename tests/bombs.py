"""Chunks that any publisher can make, and that unpack to a thousand times their size; and what memory one costs.

Memory is measured in a process of its own, by its high-water mark: codecs allocate where tracemalloc does not look,
and what this process held before would count.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rstream_core import Client, CompressionType
from rstream_core.connecting.connection import Connection
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp import AMQPMessage, encode_bodies
from rstream_core.protocol.chunk import build_chunk, join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress
from rstream_core.protocol.sub_batch import write_sub_batch
from rstream_core.types import ConnectionOptions

MB = 1024 * 1024
MOST_MESSAGES = 65_535
MOST_MEMORY = 200 * 1000 * 1000
"""Bytes that a process may hold which reads any of them."""


class Bomb(NamedTuple):
    """Sub-entries of one chunk, all the same."""

    records: int
    """Messages of each."""
    size: int
    """Bytes of each, once it is unpacked."""
    data: bytes
    times: int

    @property
    def messages(self) -> int:
        return self.records * self.times

    def entries(self) -> list[c.PublishedSubBatch]:
        """As one Publish frame has them."""
        return [c.PublishedSubBatch(0, CompressionType.Gzip, self.records, self.size, self.data)] * self.times

    def chunk(self) -> bytes:
        """As a broker delivers it."""
        out = bytearray()
        write_sub_batch(out, CompressionType.Gzip, self.records, self.size, self.data)
        return build_chunk([bytes(out)] * self.times, first_offset=0, timestamp=0, records=self.messages)


def _bomb(messages: Sequence[bytes], times: int) -> Bomb:
    plain = join_sub_batch(messages)
    assert len(plain) <= MAX_UNCOMPRESSED
    data = compress(CompressionType.Gzip, plain)
    return Bomb(len(messages), len(plain), data, min(times, 1_000_000 // (len(data) + 19)))


@functools.cache
def bomb(name: str) -> Bomb:
    """One of ``BOMBS``."""
    if name == "empty":  # 164 million messages in 768 KB
        return _bomb([b""] * MOST_MESSAGES, 2500)
    if name == "one":
        return _bomb(_of_one(encode_bodies([bytes(MAX_UNCOMPRESSED - 12)])[0]), 15)
    if name == "text":
        return _bomb(_of_one(encode_bodies([b"x" * (MAX_UNCOMPRESSED - 12)])[0]), 15)
    if name == "large":
        return _bomb(encode_bodies([bytes(MB - 12)]) * 64, 15)
    if name == "full":
        return _bomb(encode_bodies([bytes(MAX_UNCOMPRESSED // MOST_MESSAGES - 12)]) * MOST_MESSAGES, 15)
    if name == "small":
        return _bomb(encode_bodies([b"a"]) * MOST_MESSAGES, 400)
    if name == "nulls":  # a list of as many nulls as fit
        return _bomb(_of_one(_list_of(b"\x40")), 15)
    if name == "sections":  # empty data sections, one after the other
        return _bomb([b"\0\x53\x75\xa0\0" * ((MAX_UNCOMPRESSED - 4) // 5)], 15)
    assert name == "string"
    return _bomb(_of_one(AMQPMessage(value="x" * (MAX_UNCOMPRESSED - 20)).encode()), 15)


BOMBS = ("empty", "one", "text", "large", "full", "small", "nulls", "sections", "string")


def _of_one(message: bytes) -> list[bytes]:
    return [message]


def _list_of(element: bytes) -> bytes:
    count = (MAX_UNCOMPRESSED - 100) // len(element)
    body = element * count
    return b"\0\x53\x77\xd0" + (len(body) + 4).to_bytes(4) + count.to_bytes(4) + body


def sub_entry(inner: Sequence[bytes], codec: CompressionType = CompressionType.Zstd) -> c.PublishedSubBatch:
    """An honest one."""
    plain = join_sub_batch(inner)
    return c.PublishedSubBatch(0, codec, len(inner), len(plain), compress(codec, plain))


async def publish_sub_entries(options: ConnectionOptions, stream: str, entries: Sequence[c.PublishedSubBatch]) -> None:
    """Stores them as any publisher may: in one frame, of which a broker makes one chunk unless it is busy."""
    async with Client(options) as client:
        leader = (await client.metadata(stream)).leader
    assert leader is not None
    connection = await Connection.open(leader, options)
    try:
        await connection.request(c.DeclarePublisher(0, "", stream), "declaring")
        connection.send(c.Publish(0, [entry._replace(publishing_id=number) for number, entry in enumerate(entries)]))
        await connection.request(c.DeletePublisher(0), "leaving")
    finally:
        await connection.close()


class Cost(NamedTuple):
    """What a process took."""

    status: int
    peak: int
    """Bytes of memory that it held at most."""
    seconds: float
    output: bytes
    errors: str


_MEASURED = """
import os, sys
try:
    exec(compile(sys.argv.pop(1), "program", "exec"), {"__name__": "__main__"})
finally:
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    with open(os.environ["_PEAK"], "w") as out:
        out.write(str(int(line.split()[1]) * 1024))
"""

READ = """
import sys
from rstream_core.protocol.amqp import AMQPMessage, AmqpError
from rstream_core.protocol.chunk import open_chunk
_, reader = open_chunk(open(sys.argv[1], "rb").read())
for _ in range(int(sys.argv[2])):
    piece = reader.read()
    if piece is None:
        break
    for message in AMQPMessage.all_from_bytes(piece[1]):
        try:
            message.body, message.value, message.properties
        except AmqpError:
            pass
    del piece, message
"""
"""Takes so many pieces of the chunk in a file, and looks at each message."""
RSTREAM = "from rstream_cli.__main__ import main; main()"


def measure(
    program: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    keep_output: bool = True,
    timeout: float = 60.0,
) -> Cost:
    """Runs a Python program in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        peak = Path(folder) / "peak"
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, program, *arguments],
            env={**os.environ, **(env or {}), "_PEAK": str(peak)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
        took = time.monotonic() - begin
        return Cost(
            done.returncode,
            json.loads(peak.read_text()),
            took,
            done.stdout or b"",
            done.stderr.decode(errors="replace"),
        )
