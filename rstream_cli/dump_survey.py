"""Reads dumps from the beginning to the end, for ``dump info`` and ``dump verify``, and notes what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rstream_cli.input import BLOCK_SIZE, STDIN, InputError, name_of
from rstream_core.dump.manifest import DumpedStream, Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader, EndMark
from rstream_core.errors import ChunkError, DumpError
from rstream_core.protocol.chunk import ChunkReader, open_plain

MOST_DAMAGE = 100
"""Damaged places that are told one by one; more are counted."""


class Damage(NamedTuple):
    """A damaged place."""

    file: str
    position: int | None
    """The byte at which it shows."""
    what: str

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.what}" if self.position is None else f"{self.file}: byte {self.position}: {self.what}"
        )


@dataclass(slots=True)
class Held:
    """What a dump holds of one stream."""

    stream: DumpedStream
    chunks: int = 0
    messages: int = 0
    size: int = 0
    """Bytes of the chunks, without their headers."""
    first: int | None = None
    last: int | None = None
    first_time: int | None = None
    """Of the first chunk, in milliseconds since 1970."""
    last_time: int | None = None

    def add(self, chunk: DumpedChunk) -> None:
        """Counts a chunk: what is wanted of it."""
        self.chunks += 1
        self.messages += chunk.end - chunk.first
        self.size += chunk.header.data_length
        if self.first is None:
            self.first, self.first_time = chunk.first, chunk.header.timestamp
        self.last, self.last_time = chunk.end - 1, chunk.header.timestamp


@dataclass(slots=True)
class Survey:
    """What was found."""

    is_segment: bool = False
    is_compressed: bool = False
    manifest: Manifest | None = None
    held: list[Held] = field(default_factory=list)
    """Of each stream of the manifest; of segments, one."""
    ends: Sequence[Mapping[str, Any]] = ()
    """What the last end mark tells, if there is one."""
    is_ended: bool = False
    """Whether the last thing is an end mark; segments have none."""
    cut_off: list[Damage] = field(default_factory=list)
    """The files that end within something, and where that begins."""
    damage: list[Damage] = field(default_factory=list)
    damaged: int = 0
    """How many damaged places there are."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged, nor cut off."""
        return not self.damaged and not self.cut_off


def survey(sources: Sequence[str], stdin: int, *, deeply: bool) -> Survey:
    """Reads all of these files. ``stdin``: the descriptor that ``-`` stands for. ``deeply``: unpacks all messages, too.

    Raises ``InputError`` for a file that cannot be read, and ``DumpError`` for one that is no dump.
    """
    found, reader = Survey(), DumpReader()
    for source in sources:
        for data in _blocks(source, stdin):
            reader.feed(data)
            if not _read(found, reader, name_of(source), deeply=deeply):
                break
        found.is_segment, found.is_compressed = reader.is_segment, reader.is_compressed
        is_ended, whole = reader.is_ended, reader.whole
        cut_off = reader.finish()
        found.is_ended = is_ended and not cut_off
        if cut_off and not (found.damage and found.damage[-1].file == name_of(source)):
            found.cut_off.append(Damage(name_of(source), whole, _cut_off_text(cut_off)))
    if not found.is_segment and found.manifest is None and not found.damaged:
        raise DumpError(f"{name_of(sources[0])}: no dump: it ends before its manifest does")
    return found


def _cut_off_text(size: int) -> str:
    return f"the file was cut off, or not written to its end: the last {size} bytes are no whole record"


def _read(found: Survey, reader: DumpReader, file: str, *, deeply: bool) -> bool:
    """Reads what is there. Returns whether to read on. Raises ``DumpError`` for what is no dump."""
    while True:
        try:
            item = reader.read()
            if item is None:
                return True
            if isinstance(item, Manifest):
                if found.manifest is None:
                    found.manifest, found.held = item, list(map(Held, item.streams))
            elif isinstance(item, EndMark):
                found.ends = (item.told,)
            else:
                if not found.held:
                    found.held = [Held(DumpedStream(""))]
                found.held[item.stream].add(item)
                if deeply:
                    _unpack(item)
        except DumpError as error:
            if error.position == 0 and found.manifest is None and not found.held:
                error.args = (f"{file}: {error}",)
                raise
            found.damaged += 1
            if len(found.damage) < MOST_DAMAGE:
                found.damage.append(Damage(file, error.position, str(error)))
            if not error.may_go_on:
                return False


def _unpack(chunk: DumpedChunk) -> None:
    """Unpacks all messages of a chunk, and forgets them. Raises ``DumpError``."""
    try:
        messages = open_plain(chunk.data, chunk.begin, chunk.header, verify_crc=False)
        if isinstance(messages, ChunkReader):
            while messages.read() is not None:
                pass
    except ChunkError as error:
        raise DumpError(f"damaged: {error}", position=chunk.position, may_go_on=True) from None


def _blocks(source: str, stdin: int) -> Iterator[bytes]:
    try:
        descriptor = stdin if source == STDIN else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := os.read(descriptor, BLOCK_SIZE):
                yield data
        finally:
            if source != STDIN:
                os.close(descriptor)
    except OSError as error:
        raise InputError(f"{name_of(source)}: {error.strerror}") from None


def as_record(found: Survey) -> dict[str, Any]:
    """The fields of ``--json``."""
    manifest = found.manifest
    return {
        "form": "segments" if found.is_segment else "dump",
        "compressed": found.is_compressed,
        "id": None if manifest is None else manifest.id,
        "cluster": None if manifest is None else manifest.cluster,
        "vhost": None if manifest is None else manifest.vhost,
        "super_stream": None if manifest is None else manifest.super_stream,
        "selection": None if manifest is None else dict(manifest.selection),
        "made_by": None if manifest is None else manifest.made_by,
        "made_at": None if manifest is None else manifest.made_at,
        "streams": [_held_record(held) for held in found.held],
        "ended": found.is_ended,
        "whole": found.is_whole,
        "cut_off": [place._asdict() for place in found.cut_off],
        "damaged": found.damaged,
        "damage": [place._asdict() for place in found.damage],
    }


def _held_record(held: Held) -> dict[str, Any]:
    stream = held.stream
    return {
        "name": stream.name or None,
        "binding": stream.binding,
        "arguments": None if stream.arguments is None else dict(stream.arguments),
        "stored_offsets": None if stream.stored_offsets is None else dict(stream.stored_offsets),
        "chunks": held.chunks,
        "messages": held.messages,
        "bytes": held.size,
        "first_offset": held.first,
        "last_offset": held.last,
        "first_timestamp": held.first_time,
        "last_timestamp": held.last_time,
    }
