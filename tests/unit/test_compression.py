"""Sub-entries with every codec: round trips, and what lies about itself, refused at once and within bounds."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from rstream_core import ChunkError, CompressionType
from rstream_core.protocol import chunk as chunks
from rstream_core.protocol.chunk import build_chunk, join_sub_batch, parse_chunk
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress, decompress
from rstream_core.protocol.sub_batch import write_sub_batch

CODECS = list(CompressionType)
PACKED = [codec for codec in CODECS if codec is not CompressionType.No]
MB = 1_000_000


def entry(codec: int, records: int, size: int, data: bytes) -> bytes:
    """A sub-entry that says what it is told to."""
    out = bytearray()
    write_sub_batch(out, codec, records, size, data)
    return bytes(out)


def honest(codec: CompressionType, messages: list[bytes]) -> bytes:
    plain = join_sub_batch(messages)
    return entry(codec, len(messages), len(plain), compress(codec, plain))


def in_chunk(*entries: bytes, records: int) -> bytes:
    return build_chunk(entries, first_offset=0, timestamp=0, records=records)


@pytest.mark.parametrize("codec", CODECS)
def test_round_trips(codec: CompressionType) -> None:
    chance = random.Random(codec)
    for messages in (
        [b""],
        [b""] * 1000,
        [chance.randbytes(chance.randrange(300)) for _ in range(1000)],
        [chance.randbytes(5 * MB)],
        [b"5 MB of the same " * (5 * MB // 17), b"", b"and a bit"],
    ):
        _, found = parse_chunk(in_chunk(honest(codec, messages), records=len(messages)))
        assert found == messages


def zeros(codec: CompressionType, size: int) -> bytes:
    """So many zeros, compressed without having them all in memory: the formats allow one stream after another."""
    if codec is CompressionType.Gzip:  # one stream all the same, made of equal blocks; only its checksum is wrong
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packer.compress(bytes(MB))
        packer.flush(zlib.Z_FULL_FLUSH)
        block = packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)
        head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
        return head + block * (size // MB) + b"\x03\0" + bytes(4) + size.to_bytes(4, "little")
    return compress(codec, bytes(MB)) * (size // MB)


def refused(data: bytes, words: str) -> None:
    """A chunk is refused with these words, and little is allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError, match=words):
            parse_chunk(data)
        assert tracemalloc.get_traced_memory()[1] < 100 * MB + len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("claim", ["the truth", "little", "just below the limit"])
def test_a_bomb_of_1_gb(codec: CompressionType, claim: str) -> None:
    bomb = zeros(codec, 1000 * MB)
    size, words = {
        "the truth": (1000 * MB, "the limit is"),
        "little": (10_000, "cannot be unpacked|holds"),
        "just below the limit": (MAX_UNCOMPRESSED, "cannot be unpacked|holds"),
    }[claim]
    refused(in_chunk(entry(codec, 1, size, bomb), records=1), words)


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_takes_little_memory_of_the_process(codec: CompressionType) -> None:
    """The codecs allocate where tracemalloc does not look, so a process of its own counts its pages."""
    program = f"""
import resource, time
from rstream_core import ChunkError, CompressionType
from rstream_core.protocol.chunk import parse_chunk
from tests.unit.test_compression import PACKED, MB, entry, in_chunk, zeros
data = in_chunk(entry({int(codec)}, 1, 10_000, zeros(CompressionType({int(codec)}), 1000 * MB)), records=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spent = []
for _ in range(5):
    start = time.process_time()
    try:
        parse_chunk(data)
    except ChunkError:
        spent.append(time.process_time() - start)
assert len(spent) == 5
# The least of them: on a busy machine one may take several times as long.
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, min(spent))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    grown, spent = map(float, done.stdout.split())
    assert grown < 100 * MB
    assert spent < 0.1 + 0.05  # the CRC of a bomb of 50 MB (snappy) takes its part


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("off", [-1, 1, 5])
def test_a_count_that_lies(codec: CompressionType, off: int) -> None:
    messages = [b"one", b"two", b"three"]
    plain = join_sub_batch(messages)
    lying = entry(codec, 3 + off, len(plain), compress(codec, plain))
    refused(in_chunk(lying, records=3 + off), "sub-entry|cut off")


def test_a_count_that_does_not_fit_the_size() -> None:
    refused(in_chunk(entry(CompressionType.Gzip, 65535, 100, b"x"), records=65535), "claims 65535 messages")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("off", [-1, 1, 1000, 60 * MB])
def test_a_size_that_lies(codec: CompressionType, off: int) -> None:
    plain = join_sub_batch([b"some text " * 10])
    refused(in_chunk(entry(codec, 1, len(plain) + off, compress(codec, plain)), records=1), "sub-entry")


@pytest.mark.parametrize("length", [0, 2, 4, 2**31, 2**32 - 1])
def test_a_length_within_that_lies(length: int) -> None:
    plain = length.to_bytes(4) + b"abc"
    lying = entry(CompressionType.Gzip, 1, len(plain), compress(CompressionType.Gzip, plain))
    refused(in_chunk(lying, records=1), "messages of a sub-entry")


def test_a_length_that_reaches_past_the_chunk() -> None:
    cut = honest(CompressionType.Gzip, [b"abc"])[:-1]
    refused(in_chunk(cut, records=1), "claims")


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\x7f" * len(data)])
def test_damaged_data(codec: CompressionType, damage: Callable[[bytes], bytes]) -> None:
    plain = join_sub_batch([b"some text " * 100])
    data = damage(compress(codec, plain))
    refused(in_chunk(entry(codec, 1, len(plain), data), records=1), "sub-entry")


@pytest.mark.parametrize("codec", PACKED)
def test_a_claim_beyond_what_the_codec_can_do_allocates_nothing(codec: CompressionType) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError, match="claims that its 20 bytes unpack to"):
            decompress(codec, bytes(20), MAX_UNCOMPRESSED)
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", PACKED)
def test_the_best_that_a_codec_can_do_is_taken(codec: CompressionType) -> None:
    assert decompress(codec, compress(codec, bytes(MAX_UNCOMPRESSED)), MAX_UNCOMPRESSED) == bytes(MAX_UNCOMPRESSED)


def test_an_unknown_codec() -> None:
    refused(in_chunk(entry(5, 1, 7, b"1234567"), records=1), "unknown compression 5")


def test_a_chunk_of_many_large_sub_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_DATA", 5000)
    monkeypatch.setattr(chunks, "PIECE_BYTES", 3000)
    large = honest(CompressionType.Zstd, [bytes(2000)])
    assert len(parse_chunk(in_chunk(large, large, records=2))[1]) == 2
    refused(in_chunk(large, large, large, records=3), "the sub-entries of a chunk claim more")
