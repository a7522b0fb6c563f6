"""Dumps for tests, and a way to read them in pieces."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence

from rstream_core.dump import frames
from rstream_core.dump.layout import CHUNK, CHUNK_HEAD, END, HEAD, MAGIC, MANIFEST, MARKER, WANTED, chunk_head, record
from rstream_core.dump.manifest import DumpedStream, Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader, Item
from rstream_core.errors import DumpError
from rstream_core.protocol.chunk import HEADER, SEGMENT_HEAD, build_chunk, parse_header

ID = "0123456789abcdef" * 2


def manifest(*names: str, super_stream: str | None = None) -> Manifest:
    streams = tuple(DumpedStream(name) for name in names or ("s",))
    return Manifest(ID, "rabbit@test", "/", streams, super_stream)


def head(found: Manifest) -> bytes:
    return MAGIC + record(MANIFEST, found.encoded())


def chunk(messages: Sequence[bytes], first: int, *, stream: int = 0, timestamp: int = 1000) -> bytes:
    """A record with all messages of a chunk."""
    return record_of(build_chunk(messages, first_offset=first, timestamp=timestamp), stream=stream)


def record_of(delivered: bytes, *, stream: int = 0, wanted: tuple[int, int] | None = None) -> bytes:
    """A record with a chunk as it is delivered."""
    header = parse_header(delivered)
    first, end = wanted or (header.first_offset, header.first_offset + header.records)
    data = delivered[HEADER.size :]
    return chunk_head(stream, first, end, delivered[: HEADER.size], len(data)) + data


def end_mark() -> bytes:
    return record(END, json.dumps({"reason": "end"}).encode())


def packed(parts: Iterable[bytes]) -> bytes:
    """A compressed dump with a frame for each of the parts."""
    return b"".join(map(frames.pack, parts))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def read_all(fed: Iterable[bytes]) -> tuple[list[Item], list[DumpError], int]:
    """What a reader gives, what is wrong, and how many bytes at the end are cut off."""
    reader, found, wrong = DumpReader(), list[Item](), list[DumpError]()
    for data in fed:
        reader.feed(data)
        while True:
            try:
                item = reader.read()
            except DumpError as error:
                wrong.append(error)
                if not error.may_go_on:
                    return found, wrong, 0
                continue
            if item is None:
                break
            found.append(item)
    return found, wrong, reader.finish()


def ranges(found: Iterable[Item]) -> list[tuple[int, int, int]]:
    """The stream, and the first and the last wanted offset, of each chunk."""
    return [(item.stream, item.first, item.end - 1) for item in found if isinstance(item, DumpedChunk)]


def segment(*, torn: int = 0) -> bytes:
    """As osiris writes it: Bloom bits, trailers, and chunks of its own between those with messages."""
    parts = [SEGMENT_HEAD]
    offset = 0
    for kind, messages, bits, trailer in (
        (0, [b"one", b"two"], b"", b""),
        (1, [b"tracking"], b"", b""),
        (0, [b"three"], b"\1" * 16, b"t" * 300),
        (0, [b"four", b"five"], b"", b"trailer"),
    ):
        made = bytearray(build_chunk(messages, first_offset=offset, timestamp=1, kind=kind))
        made[40:44] = len(trailer).to_bytes(4)
        made[44] = len(bits)
        parts += [bytes(made[:48]), bits, bytes(made[48:]), trailer]
        offset += len(messages)
    data = b"".join(parts)
    return data[: len(data) - torn]


def repaired(data: bytes) -> bytes:
    """The same with checksums that match, as far as it looks like a plain dump: what is behind them is reached, too."""
    fixed, at = bytearray(data), len(MAGIC)
    while at + HEAD.size <= len(fixed):
        _, kind, flags, stream, length, _, _ = HEAD.unpack_from(fixed, at)
        length = min(length, len(fixed) - at - HEAD.size)
        begin = at + HEAD.size
        if kind == CHUNK and length >= CHUNK_HEAD:
            data_at = begin + CHUNK_HEAD
            size = length - CHUNK_HEAD
            header = begin + WANTED.size
            fixed[header + 32 : header + 36] = zlib.crc32(fixed[data_at : data_at + size]).to_bytes(4)
            fixed[header + 36 : header + 40] = size.to_bytes(4)
        checked = min(CHUNK_HEAD, length) if kind == CHUNK else length
        checksum = zlib.crc32(fixed[begin : begin + checked])
        head = HEAD.pack(MARKER, kind, flags, stream, length, checksum, 0)[:-4]
        fixed[at:begin] = head + zlib.crc32(head).to_bytes(4)
        at = begin + length
    return bytes(fixed)
