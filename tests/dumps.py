"""Dumps for tests, and a way to read them in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rstream_core.dump import frames
from rstream_core.dump.layout import END, HEAD, MAGIC, MANIFEST, chunk_head, record
from rstream_core.dump.manifest import DumpedStream, Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader, Item
from rstream_core.errors import DumpError
from rstream_core.protocol.chunk import HEADER, build_chunk, parse_header

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


RECORD_HEAD = HEAD.size
