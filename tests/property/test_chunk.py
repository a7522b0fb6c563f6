"""A chunk that is read piece by piece holds what it holds when it is unpacked at once."""

from __future__ import annotations

import zlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core import ChunkError, CompressionType
from rstream_core.protocol import chunk as chunks
from rstream_core.protocol.amqp_sections import (
    PlainMessages,
    bodies_of,
    encode_bodies,
    join_messages,
    most_of,
    size_of,
)
from rstream_core.protocol.chunk import ChunkReader, build_chunk, join_sub_batch, open_chunk
from rstream_core.protocol.compression import compress
from rstream_core.protocol.sub_batch import write_sub_batch
from tests.twins import each_twin

__all__ = ["each_twin"]  # a fixture

messages = st.binary(max_size=60)
sub_batches = st.tuples(st.sampled_from(CompressionType), st.lists(messages, min_size=1, max_size=12))


def entry_of(given: bytes | tuple[CompressionType, list[bytes]]) -> bytes:
    """With its size, as a chunk has it."""
    if isinstance(given, bytes):
        return len(given).to_bytes(4) + given
    codec, inner = given
    plain = join_sub_batch(inner)
    out = bytearray()
    write_sub_batch(out, codec, len(inner), len(plain), compress(codec, plain))
    return bytes(out)


def messages_of(given: bytes | tuple[CompressionType, list[bytes]]) -> list[bytes]:
    return [given] if isinstance(given, bytes) else given[1]


def pieces(data: bytes, wanted: int) -> list[tuple[int, list[bytes]]]:
    header, found = open_chunk(data)
    if not isinstance(found, ChunkReader):
        offset = max(header.first_offset, wanted)
        rest = found[offset - header.first_offset :]
        return [(offset, rest)] if rest else []
    read = []
    while (piece := found.read(wanted)) is not None:
        read.append(piece)
    assert found.is_done
    return read


@given(
    st.lists(messages | sub_batches, max_size=12),
    st.integers(0, 200),
    st.integers(1, 40),
    st.integers(1, 100),
    st.integers(0, 60),
)
def test_pieces(
    entries: list[bytes | tuple[CompressionType, list[bytes]]], size: int, count: int, cut: int, wanted: int
) -> None:
    expected = [message for entry in entries for message in messages_of(entry)]
    whole = b"".join(map(entry_of, entries))
    made = build_chunk([], first_offset=10, timestamp=0)
    header = chunks.parse_header(made)._replace(
        entries=len(entries), records=len(expected), data_length=len(whole), crc=zlib.crc32(whole)
    )
    data = chunks.HEADER.pack(chunks.MAGIC_AND_VERSION, *header) + whole
    with mock.patch.multiple(chunks, PIECE_BYTES=size, PIECE_MESSAGES=max(count, 12), _CUT_BYTES=cut):
        read = pieces(data, wanted)
    first = max(10, wanted)
    assert [message for _, part in read for message in part] == expected[first - 10 :]
    for offset, part in read:
        assert offset == first
        assert part
        first += len(part)
        assert len(part) <= max(count, 12)
        assert len(part) == 1 or sum(map(len, part)) <= max(size, cut)


@given(st.lists(st.tuples(st.just(CompressionType.Gzip), st.lists(messages, min_size=1, max_size=5)), min_size=2))
def test_what_is_damaged_further_on_takes_nothing_from_what_is_before(
    entries: list[tuple[CompressionType, list[bytes]]],
) -> None:
    *good, bad = entries
    *_, damaged = parts = [*map(entry_of, good), entry_of(bad)]
    parts[-1] = damaged[:-1] + bytes([damaged[-1] ^ 0x40])  # gzip ends in its size
    records = sum(len(inner) for _, inner in entries)
    data = build_chunk(parts, first_offset=0, timestamp=0, records=records)
    with mock.patch.object(chunks, "PIECE_BYTES", 1):
        _, reader = open_chunk(data)
        assert isinstance(reader, ChunkReader)
        found: list[bytes] = []
        try:
            while (piece := reader.read()) is not None:
                found += piece[1]
        except ChunkError:
            pass
        else:
            raise AssertionError("it was taken")
    assert found == [message for _, inner in good for message in inner]


@given(st.binary(max_size=30), st.lists(st.binary(max_size=20), max_size=5))
def test_a_chunk_may_lie_inside_of_a_frame(before: bytes, messages: list[bytes]) -> None:
    data = build_chunk(messages, first_offset=7, timestamp=3)
    frame = before + data
    header = chunks.parse_header(frame, len(before))
    assert header == chunks.parse_header(data)
    assert chunks.open_entries(frame, len(before) + chunks.HEADER.size, header) == messages


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans(), st.booleans(), st.integers(0, 20))
def test_a_chunk_of_plain_messages_has_the_same_ones(
    bodies: list[bytes], is_plain: bool, has_sub_entry: bool, at: int
) -> None:
    messages = encode_bodies(bodies) if is_plain else [b"\0" + body for body in bodies]
    expected, entries = messages, messages
    if has_sub_entry and messages:
        expected, entries = [*messages[:at], *messages], [*messages[:at], entry_of((CompressionType.Gzip, messages))]
    data = build_chunk(entries, first_offset=7, timestamp=3, records=len(expected))
    header = chunks.parse_header(data)
    found = chunks.open_plain(data, chunks.HEADER.size, header)
    assert not isinstance(found, ChunkReader)
    assert list(found) == expected
    if is_plain and (not has_sub_entry or not at or not bodies):
        assert isinstance(found, PlainMessages) or not bodies
    if isinstance(found, PlainMessages):
        assert encode_bodies(found.bodies) == expected
    with pytest.raises(ChunkError):
        chunks.open_plain(data, chunks.HEADER.size, header._replace(records=header.records + 1))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.slices(22), st.integers(-20, 19))
def test_plain_messages_are_a_sequence_of_messages(bodies: list[bytes], part: slice, at: int) -> None:
    messages, plain = encode_bodies(bodies), PlainMessages(bodies)
    assert (len(plain), list(plain), plain.encoded) == (len(bodies), messages, messages)
    assert list(plain[part]) == messages[part]
    assert plain[part].bodies == bodies[part]
    if -len(bodies) <= at < len(bodies):
        assert plain[at] == messages[at]
        assert messages[at] in plain
    else:
        with pytest.raises(IndexError):
            plain[at]
    assert bodies_of(plain) == bodies_of(messages) == bodies
    for others in (messages, plain):
        joined = join_messages([plain, others])
        assert list(joined) == messages * 2
        assert isinstance(joined, PlainMessages) is (others is plain)
    assert plain.select([0, len(bodies) - 1]).bodies == [bodies[0], bodies[-1]]
    for some in (plain[part], plain, messages, plain[:0], PlainMessages([]), [], plain[part]):
        sizes = list(map(len, some))
        assert size_of(some) == sum(sizes)
        assert max(sizes, default=0) <= most_of(some) <= max(*map(len, messages), 5)
        if isinstance(some, PlainMessages):
            assert some.lengths == list(map(len, some.bodies))
    assert most_of(plain) == max(map(len, messages))


@given(st.lists(st.tuples(st.sampled_from(CompressionType), st.lists(st.binary(max_size=300), min_size=1, max_size=9))))
def test_sub_entries_of_plain_messages_come_by_their_bodies(
    entries: list[tuple[CompressionType, list[bytes]]],
) -> None:
    parts = [entry_of((codec, encode_bodies(inner))) for codec, inner in entries]
    bodies = [body for _, inner in entries for body in inner]
    data = build_chunk(parts, first_offset=7, timestamp=3, records=len(bodies))
    header = chunks.parse_header(data)
    found = chunks.open_plain(data, chunks.HEADER.size, header)
    assert found == [] or isinstance(found, PlainMessages)
    assert isinstance(found, list | PlainMessages)
    assert bodies_of(found) == bodies
    for name in ("PIECE_BYTES", "PIECE_MESSAGES"):
        with mock.patch.object(chunks, name, 1):
            reader = chunks.open_plain(data, chunks.HEADER.size, header)
            if isinstance(reader, ChunkReader):
                pieces = iter(reader.read, None)
                assert [message for _, piece in pieces for message in piece] == encode_bodies(bodies)
            else:
                assert len(bodies) <= 1
