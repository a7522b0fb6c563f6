"""Frames come out of a stream of bytes the same, however it is cut into pieces."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.errors import FrameSizeExceeded, ProtocolError
from rstream_core.protocol.framing import STORE, FrameBuffer

FRAMES = st.lists(
    st.one_of(
        st.binary(min_size=4, max_size=40),
        st.integers(4, 20_000).map(lambda size: bytes(4) + bytes(range(256)) * (size // 256 + 1)),
    ),
    max_size=6,
)


def feed_as(kind: type) -> Callable[[FrameBuffer, bytes], None]:
    """Returns what feeds bytes as objects of a kind."""
    return lambda buffer, data: buffer.feed(kind(data))


def receive(buffer: FrameBuffer, data: bytes) -> None:
    """Feeds bytes as an event loop does that receives into memory of the buffer's."""
    while data:
        room = buffer.room()
        size = min(len(room), len(data))
        room[:size] = data[:size]
        buffer.filled(size)
        data = data[size:]


WAYS = [feed_as(bytes), feed_as(bytearray), feed_as(memoryview), receive]


@given(
    FRAMES,
    st.lists(st.integers(0, 30_000), max_size=20),
    st.one_of(st.just([receive]), st.lists(st.sampled_from(WAYS), min_size=1)),
    st.booleans(),
)
def test_any_cut(
    frames: list[bytes], cuts: list[int], ways: Sequence[Callable[[FrameBuffer, bytes], None]], after_each: bool
) -> None:
    stream = b"".join(len(frame).to_bytes(4) + frame for frame in frames)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    buffer = FrameBuffer()
    found: list[bytes] = []
    for number, (begin, end) in enumerate(pairwise(places)):
        ways[number % len(ways)](buffer, stream[begin:end])
        if after_each:
            found += buffer.frames()
    found += buffer.frames()
    assert found == frames
    assert all(type(frame) is bytes for frame in found)
    assert len(buffer) == 0


def frames_of(stream: bytes, step: int, buffer: FrameBuffer) -> Iterator[bytes]:
    for begin in range(0, len(stream), step):
        buffer.feed(stream[begin : begin + step])
        yield from buffer.frames()


@given(st.lists(st.binary(min_size=4, max_size=30), max_size=4), st.integers(0, 3), st.integers(1, 9))
def test_a_size_that_cannot_be_is_an_error_as_soon_as_it_is_known(frames: list[bytes], size: int, step: int) -> None:
    good = b"".join(len(frame).to_bytes(4) + frame for frame in frames)
    found = frames_of(good + size.to_bytes(4), step, FrameBuffer())
    assert [next(found) for _ in frames] == frames
    with pytest.raises(ProtocolError, match=f"a frame of {size} bytes"):
        next(found)


@given(st.integers(1, 9))
def test_a_frame_that_is_too_large_is_refused_before_it_arrives(step: int) -> None:
    with pytest.raises(FrameSizeExceeded, match="101 bytes"):
        next(frames_of((101).to_bytes(4) + b"\0\1\0\1", step, FrameBuffer(100)))


def test_what_is_fed_later_changes_no_frame() -> None:
    """A frame is a copy of its own: it does not share the memory in which small pieces are gathered."""
    buffer = FrameBuffer()
    for byte in b"\0\0\0\4abcd\0\0\0\4efgh":
        buffer.feed(bytes((byte,)))
    first, second = buffer.frames()
    buffer.feed(b"\0\0\0\4ijkl")
    assert (first, second, list(buffer.frames())) == (b"abcd", b"efgh", [b"ijkl"])


def test_what_is_received_later_changes_no_frame() -> None:
    """Frames, and what is left of one, do not share the memory that is received into."""
    buffer = FrameBuffer()
    receive(buffer, b"\0\0\0\4abcd\0\0\0\6ef")
    (first,) = buffer.frames()
    buffer.room()[:] = b"x" * len(buffer.room())
    receive(buffer, b"ghij")
    assert (first, list(buffer.frames())) == (b"abcd", [b"efghij"])


def test_the_memory_to_receive_into_grows_to_its_bound_and_stays() -> None:
    buffer = FrameBuffer()
    sizes = [len(buffer.room())]
    for _ in range(6):
        receive(buffer, b"\0\0\0\4abcd" * (len(buffer.room()) // 8))
        assert all(frame == b"abcd" for frame in buffer.frames())
        sizes.append(len(buffer.room()))
    assert sizes == [16 * 1024, 64 * 1024, *[STORE] * 5]
    held = buffer.room().obj
    receive(buffer, b"\0\0\0\4abcd" * (STORE // 8))
    assert list(buffer.frames())
    assert buffer.room().obj is held


def test_what_was_cut_out_is_not_kept() -> None:
    """However the frames lie in what arrives, so that a part of one is always left."""
    stream = (50).to_bytes(4) + bytes(50) + ((100).to_bytes(4) + bytes(100)) * 20_000
    peaks = []
    for _ in range(3):  # a broker in another thread of this process may receive meanwhile, which takes 256 KiB
        buffer = FrameBuffer()
        tracemalloc.start()
        try:
            held = tracemalloc.get_traced_memory()[0]
            assert sum(1 for _ in frames_of(stream, 104, buffer)) == 20_001
            peaks.append(tracemalloc.get_traced_memory()[1] - held)
        finally:
            tracemalloc.stop()
    assert min(peaks) < 100_000


@pytest.mark.parametrize("step", [1, 100, 5_000])
def test_what_is_received_of_a_large_frame_takes_its_bytes_and_hardly_more(step: int) -> None:
    buffer = FrameBuffer(20_000_000)
    stream = (10_000_000).to_bytes(4) + bytes(200 * step)
    receive(buffer, b"\0\0\0\4abcd" * (STORE // 8))  # so that the memory has grown
    assert list(buffer.frames())
    tracemalloc.start()
    try:
        for begin in range(0, len(stream), step):
            receive(buffer, stream[begin : begin + step])
            assert not list(buffer.frames())
        assert tracemalloc.get_traced_memory()[0] < 1.2 * len(stream) + STORE + 20_000
    finally:
        tracemalloc.stop()


def test_pieces_of_a_byte_or_two_take_their_bytes_and_hardly_more() -> None:
    buffer = FrameBuffer(2_000_000)
    stream = (1_000_000).to_bytes(4) + bytes(500_000)
    tracemalloc.start()
    try:
        assert list(frames_of(stream, 2, buffer)) == []
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(buffer) == len(stream)
