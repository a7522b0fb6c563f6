"""The tracking data of a stream: the last publishing id of each name, and stored offsets.

It is part of the log, as in osiris (``src/osiris_tracking.erl``), so that it can never disagree with the messages: a
chunk of messages ends in a trailer with its publishing ids, stored offsets are chunks of their own, and each segment
begins with a snapshot of all tracking data. So the newest segment alone holds all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from rstream_core.errors import ChunkError

MAX_SEQUENCES = 255
"""How many names have their publishing ids remembered; the names that published last stay."""

_SEQUENCE, _OFFSET = 0, 1
_U64 = struct.Struct(">Q")


class Tracking:
    """The newest tracking data that has been written."""

    def __init__(self) -> None:
        self.sequences: dict[str, tuple[int, int]] = {}
        """For each name the id of its last chunk, and its last publishing id; in the order of the last writes."""
        self.offsets: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.sequences or self.offsets)

    def sequence(self, reference: str) -> int:
        """Returns the last publishing id of a name; 0 where there is none."""
        return self.sequences.get(reference, (0, 0))[1]

    def set_sequence(self, reference: str, chunk_id: int, sequence: int) -> None:
        """Sets a name's last publishing id. Forgets the name that published least recently if there are too many."""
        self.sequences.pop(reference, None)
        self.sequences[reference] = chunk_id, sequence
        if len(self.sequences) > MAX_SEQUENCES:
            del self.sequences[next(iter(self.sequences))]

    def apply(self, chunk_id: int, data: bytes) -> None:
        """Takes a trailer or a stored offset. Raises ``ChunkError`` where it is damaged."""
        for kind, reference, value, _ in _records(data, snapshot=False):
            if kind == _SEQUENCE:
                self.set_sequence(reference, chunk_id, value)
            else:
                self.offsets[reference] = value

    def replace(self, data: bytes) -> None:
        """Takes a snapshot. Raises ``ChunkError`` where it is damaged."""
        records = list(_records(data, snapshot=True))
        self.sequences.clear()
        self.offsets.clear()
        for kind, reference, value, sequence in records:
            if kind == _SEQUENCE:
                self.set_sequence(reference, value, sequence)
            else:
                self.offsets[reference] = value

    def snapshot(self) -> bytes:
        parts = [
            _head(_SEQUENCE, reference) + _U64.pack(chunk_id) + _U64.pack(sequence)
            for reference, (chunk_id, sequence) in self.sequences.items()
        ]
        parts.append(offset_records(self.offsets))
        return b"".join(parts)


def sequence_records(sequences: Mapping[str, int]) -> bytes:
    """Returns the trailer of a chunk with these publishing ids."""
    return b"".join(_head(_SEQUENCE, reference) + _U64.pack(value) for reference, value in sequences.items())


def offset_records(offsets: Mapping[str, int]) -> bytes:
    """Returns the data of a chunk of stored offsets."""
    return b"".join(_head(_OFFSET, reference) + _U64.pack(value) for reference, value in offsets.items())


def _head(kind: int, reference: str) -> bytes:
    name = reference.encode()
    return bytes((kind, len(name))) + name


def _records(data: bytes, *, snapshot: bool) -> Iterator[tuple[int, str, int, int]]:
    """Yields kind, name, value, and a second number, which is 0 except for a publishing id in a snapshot.

    Raises ``ChunkError`` where the data is damaged.
    """
    pos = 0
    try:
        while pos < len(data):
            kind, size = data[pos], data[pos + 1]
            pos += 2
            reference = data[pos : pos + size].decode()
            pos += size
            (value,) = _U64.unpack_from(data, pos)
            pos += 8
            second = 0
            if kind == _SEQUENCE and snapshot:
                (second,) = _U64.unpack_from(data, pos)
                pos += 8
            elif kind not in (_SEQUENCE, _OFFSET):
                raise ChunkError(f"tracking data of an unknown kind {kind}")
            yield kind, reference, value, second
    except (IndexError, struct.error, UnicodeDecodeError):
        raise ChunkError("tracking data is cut off") from None
