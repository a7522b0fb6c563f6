"""The frames of compressed sub-entries, taken apart as their format specifications say.

Every property that a reader of another language depends on is looked at here, so that the suite notices a frame that
only this client can read although it has no such reader at hand.

Sources: lz4 ``doc/lz4_Frame_format.md``, RFC 1952 (gzip), snappy ``framing_format.txt``, RFC 8878 (zstd).
"""

from __future__ import annotations

import random
import struct
import zlib

import cramjam
import pytest

from rstream_core import CompressionType
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress, decompress
from tests.vectors import sub_entries, sub_entry_messages

KIB = 1024
MIB = 1024 * KIB
MASK = 0xFFFFFFFF


def _data() -> dict[str, bytes]:
    chance = random.Random(1)
    line = b"a line that repeats, as those of a log do; number %07d\n"
    return {
        "one empty message": join_sub_batch([b""]),
        "a few bytes": join_sub_batch([b"abc"]),
        "less than a block": join_sub_batch([line % number for number in range(500)]),
        "exactly 64 KiB": chance.randbytes(64 * KIB),
        "several blocks of text": join_sub_batch([line % number for number in range(4000)]),
        "several blocks of noise": chance.randbytes(200 * KIB),
        "text over 4 MiB": join_sub_batch([line % number for number in range(80_000)]),
        "noise over 4 MiB": chance.randbytes(4 * MIB + 1),
    }


DATA = _data()


def _xxh32(data: bytes) -> int:
    """XXH32 with seed 0, of fewer than 16 bytes: what the header of an lz4 frame needs."""
    assert len(data) < 16
    prime1, prime2, prime3, prime4, prime5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & MASK

    value = prime5 + len(data)
    whole = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        value = turned((value + word * prime3) & MASK, 17) * prime4 & MASK
    for byte in data[whole:]:
        value = turned((value + byte * prime5) & MASK, 11) * prime1 & MASK
    value = (value ^ value >> 15) * prime2 & MASK
    value = (value ^ value >> 13) * prime3 & MASK
    return value ^ value >> 16


def _lz4_flags(frame: bytes) -> int:
    (magic,) = struct.unpack_from("<I", frame)
    assert magic == 0x184D2204
    return frame[4]


def _lz4_block(block: bytes, most: int) -> bytes:
    """One block unpacked on its own."""
    output = bytearray(most)
    written = cramjam.lz4.decompress_block_into(block, output)
    return bytes(output[:written])


def _is_linked(frame: bytes) -> bool:
    return not _lz4_flags(frame) & 0x20


@pytest.mark.parametrize("name", DATA)
def test_lz4_blocks_are_independent(name: str) -> None:
    plain = DATA[name]
    frame = compress(CompressionType.Lz4, plain)
    flags, sizes = _lz4_flags(frame), frame[5]
    assert flags >> 6 == 1, "the version of the format"
    assert not _is_linked(frame)
    assert not flags & 0x08, "the size of the content is left out"
    assert flags & 0x04, "a checksum of the content at the end"
    assert not flags & 0x03, "no reserved bit, and no dictionary"
    assert not sizes & 0x8F
    most = {4: 64 * KIB, 5: 256 * KIB, 6: MIB, 7: 4 * MIB}[sizes >> 4]
    assert frame[6] == _xxh32(frame[4:6]) >> 8 & 0xFF
    checksum = 4 if flags & 0x10 else 0
    pos = 7
    blocks = []
    while True:
        (size,) = struct.unpack_from("<I", frame, pos)
        pos += 4
        if not size:
            break
        block = frame[pos : pos + (size & 0x7FFFFFFF)]
        blocks.append(block if size >> 31 else _lz4_block(block, most))
        pos += len(block) + checksum
    assert pos + 4 == len(frame), "one frame, and its checksum"
    assert all(len(block) <= most for block in blocks)
    assert b"".join(blocks) == plain
    assert decompress(CompressionType.Lz4, frame, len(plain)) == plain


@pytest.mark.parametrize("name", DATA)
def test_gzip_is_one_member(name: str) -> None:
    plain = DATA[name]
    frame = compress(CompressionType.Gzip, plain)
    assert frame[:3] == b"\x1f\x8b\x08"
    assert frame[3] == 0, "no extra field, name, comment or checksum of the header"
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    assert inflate.decompress(frame[10:]) == plain
    assert inflate.eof
    assert struct.unpack("<II", inflate.unused_data) == (zlib.crc32(plain), len(plain))
    assert decompress(CompressionType.Gzip, frame, len(plain)) == plain


def _crc32c_of_byte(byte: int) -> int:
    """The CRC-32C (Castagnoli, reflected) of one byte: an entry of the table."""
    value = byte
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC32C = [_crc32c_of_byte(byte) for byte in range(256)]


def _masked_crc32c(data: bytes) -> int:
    value = MASK
    table = CRC32C
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= MASK
    return ((value >> 15 | value << 17 & MASK) + 0xA282EAD8) & MASK


@pytest.mark.parametrize("name", DATA)
def test_snappy_is_framed(name: str) -> None:
    plain = DATA[name]
    frame = compress(CompressionType.Snappy, plain)
    assert frame[:10] == b"\xff\x06\x00\x00sNaPpY", "the stream identifier"
    pos = 10
    pieces = []
    while pos < len(frame):
        kind = frame[pos]
        size = int.from_bytes(frame[pos + 1 : pos + 4], "little")
        (checksum,) = struct.unpack_from("<I", frame, pos + 4)
        piece = frame[pos + 8 : pos + 4 + size]
        assert kind in {0, 1}, "compressed, or as it is; nothing that a reader may skip or refuse"
        if kind == 0:
            piece = bytes(cramjam.snappy.decompress_raw(piece))
        assert len(piece) <= 64 * KIB
        assert _masked_crc32c(piece) == checksum
        pieces.append(piece)
        pos += 4 + size
    assert pos == len(frame)
    assert b"".join(pieces) == plain
    assert decompress(CompressionType.Snappy, frame, len(plain)) == plain


def test_the_checksum_that_the_snappy_test_uses() -> None:
    """RFC 3720, B.4: the CRC-32C of 32 zeros is 0x8a9136aa."""
    crc = 0x8A9136AA
    assert _masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17 & MASK) + 0xA282EAD8) & MASK


@pytest.mark.parametrize("name", [*DATA, "the most that fits"])
def test_zstd_needs_no_dictionary_and_a_small_window(name: str) -> None:
    plain = DATA[name] if name in DATA else bytes(MAX_UNCOMPRESSED)
    frame = compress(CompressionType.Zstd, plain)
    assert frame[:4] == bytes.fromhex("28b52ffd")
    head = frame[4]
    assert not head & 0x0B, "no dictionary, and no reserved bit"
    single = head >> 5 & 1
    pos = 5
    window = len(plain)
    if not single:
        exponent, mantissa = frame[pos] >> 3, frame[pos] & 7
        window = (1 << (10 + exponent)) // 8 * (8 + mantissa)
        pos += 1
    assert window <= 8 * MIB, "what RFC 8878 recommends that every reader supports"
    width = (single, 2, 4, 8)[head >> 6]
    assert width, "the size of the content is there"
    assert int.from_bytes(frame[pos : pos + width], "little") + (256 if width == 2 else 0) == len(plain)
    pos += width
    last = False
    while not last:
        block = int.from_bytes(frame[pos : pos + 3], "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        assert kind != 3
        pos += 3 + (1 if kind == 1 else size)
    assert pos + (4 if head & 4 else 0) == len(frame), "one frame"
    assert decompress(CompressionType.Zstd, frame, len(plain)) == plain


@pytest.mark.parametrize("name", sub_entries())
def test_what_other_clients_write_is_read(name: str) -> None:
    codec = CompressionType[name.rpartition(".")[2].capitalize()]
    plain = join_sub_batch(sub_entry_messages())
    assert decompress(codec, sub_entries()[name], len(plain)) == plain


def test_the_vector_of_linked_blocks_has_them() -> None:
    assert _is_linked(sub_entries()["rstream-linked.lz4"])
