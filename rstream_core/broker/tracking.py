"""What a stream remembers beside its messages: the last publishing id of each name, and stored offsets.

It lies in the log itself, as osiris has it (``src/osiris_tracking.erl``), so that it can never disagree with the
messages: a chunk of messages ends in a trailer with the publishing ids that it brought, a stored offset is a chunk
of its own, and each segment begins with a snapshot of all. So the newest segment alone is enough to know it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from rstream_core.errors import ChunkError

MAX_REFERENCE = 255
"""Bytes of a name."""
MAX_SEQUENCES = 255
"""Names whose publishing ids are remembered; those that published last stay."""

_SEQUENCE, _OFFSET = 0, 1
_U64 = struct.Struct(">Q")


class Tracking:
    """The newest state, as far as it is written."""

    def __init__(self) -> None:
        self.sequences: dict[str, tuple[int, int]] = {}
        """For each name the chunk that it wrote last, and its last publishing id; who wrote last comes last."""
        self.offsets: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.sequences or self.offsets)

    def sequence(self, reference: str) -> int:
        """The last publishing id of a name; 0 where there is none."""
        return self.sequences.get(reference, (0, 0))[1]

    def set_sequence(self, reference: str, chunk_id: int, sequence: int) -> None:
        """Forgets whoever published the longest ago, where there are too many."""
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
    """The trailer of a chunk with these publishing ids."""
    return b"".join(_head(_SEQUENCE, reference) + _U64.pack(value) for reference, value in sequences.items())


def offset_records(offsets: Mapping[str, int]) -> bytes:
    """What a chunk of stored offsets holds."""
    return b"".join(_head(_OFFSET, reference) + _U64.pack(value) for reference, value in offsets.items())


def _head(kind: int, reference: str) -> bytes:
    name = reference.encode()
    return bytes((kind, len(name))) + name


def _records(data: bytes, *, snapshot: bool) -> Iterator[tuple[int, str, int, int]]:
    """Kind, name, and one number; two for a publishing id in a snapshot."""
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
