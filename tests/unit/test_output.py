"""Writes to stdout: what a pipe has room for at once, the rest in a thread."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from rstream_cli.output import AT_ONCE, FILE_AT_ONCE, SLOW, Output


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.output = Output(self.writer, lambda: None)
        self.threads = threading.active_count()

    @property
    def has_thread(self) -> bool:
        return threading.active_count() > self.threads

    async def read(self, size: int) -> bytes:
        """Reads so many bytes in another thread."""
        found = b""
        while len(found) < size:
            found += await asyncio.to_thread(os.read, self.reader, size - len(found))
        return found

    def close(self) -> None:
        self.output.close()
        os.close(self.writer)
        os.close(self.reader)


@pytest.fixture
async def pipe() -> AsyncGenerator[Pipe, None]:
    await asyncio.to_thread(int)  # the loop's own thread is there
    made = Pipe()
    yield made
    made.close()


@pytest.mark.parametrize("size", [1, 4096, 4097, 10_000, AT_ONCE - 4096])
async def test_what_there_is_room_for_is_written_at_once(pipe: Pipe, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert pipe.output.write(data) is None
    assert not pipe.has_thread
    assert await pipe.read(size) == data


async def test_what_is_larger_than_a_pipe_takes_the_thread(pipe: Pipe) -> None:
    data = random.Random(1).randbytes(AT_ONCE + 1)
    written = pipe.output.write(data)
    assert written is not None
    assert await pipe.read(len(data)) == data
    await written


@pytest.mark.parametrize("before", [AT_ONCE - 3 * 4096, AT_ONCE - 1, AT_ONCE])
async def test_what_there_is_no_room_for_takes_the_thread_and_stays_in_order(pipe: Pipe, before: int) -> None:
    first, data = b"x" * before, random.Random(before).randbytes(20_000)
    writing = pipe.output.write(first)
    if writing is not None:
        await writing
    written = pipe.output.write(data)
    assert written is not None
    assert not written.done()
    assert await pipe.read(before + len(data)) == first + data
    await written


async def test_another_writer_may_be_faster(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that was there is gone, and the descriptor does not block."""
    write, calls = os.write, 0

    def second_fails(descriptor: int, data: bytes | memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise BlockingIOError
        return write(descriptor, data)

    os.write(pipe.writer, b"x")  # a pipe that is not empty takes it piece by piece
    monkeypatch.setattr("rstream_cli.output.os.write", second_fails)
    data = random.Random(2).randbytes(10_000)
    written = pipe.output.write(data)
    assert written is not None
    assert await pipe.read(1 + len(data)) == b"x" + data
    await written
    assert calls == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much a pipe holds")
async def test_an_empty_pipe_takes_all_at_once(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not piece by piece. Where another writer is faster all the same, and the descriptor does not block, what is left
    is written in pieces."""
    write, sizes, fails = os.write, list[int](), False

    def noting(descriptor: int, data: bytes | memoryview) -> int:
        nonlocal fails
        sizes.append(len(data))
        if fails:
            fails = False
            raise BlockingIOError
        return write(descriptor, data)

    monkeypatch.setattr("rstream_cli.output.os.write", noting)
    data = random.Random(3).randbytes(10_000)
    for fails in (False, True):  # noqa: B007 - used inside
        assert pipe.output.write(data) is None
        assert await pipe.read(len(data)) == data
    assert sizes == [10_000, 10_000, 4096, 4096, 1808]


async def test_the_null_device_takes_all_without_the_thread() -> None:
    threads = threading.active_count()
    descriptor = os.open(os.devnull, os.O_WRONLY)
    output = Output(descriptor, lambda: None)
    assert output.write(bytes(10 * AT_ONCE)) is None
    assert threading.active_count() == threads
    output.close()
    os.close(descriptor)


async def test_a_file_takes_blocks_without_the_thread_until_it_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large write takes the thread at once; all do once one of the others has taken long."""
    await asyncio.to_thread(int)
    threads = threading.active_count()
    with (tmp_path / "out").open("wb") as file:
        output = Output(file.fileno(), lambda: None)
        assert output.write(b"a" * FILE_AT_ONCE) is None
        times = iter((0.0, 0.9 * SLOW, 1.0, 1.0 + 1.1 * SLOW))
        with monkeypatch.context() as patch:
            patch.setattr("rstream_cli.output.time.monotonic", lambda: next(times))
            assert output.write(b"b") is None
            assert output.write(b"c") is None
        assert threading.active_count() == threads
        for data in (b"d", b"e" * (FILE_AT_ONCE + 1)):
            written = output.write(data)
            assert written is not None
            await written
        output.close()
    found = (tmp_path / "out").read_bytes()
    assert found == b"a" * FILE_AT_ONCE + b"bcd" + b"e" * (FILE_AT_ONCE + 1)


async def test_a_large_write_into_a_file_takes_the_thread(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        output = Output(file.fileno(), lambda: None)
        written = output.write(bytes(FILE_AT_ONCE + 1))
        assert written is not None
        await written
        output.close()
    assert (tmp_path / "out").stat().st_size == FILE_AT_ONCE + 1


@pytest.mark.parametrize("size", [1, 10_000])
async def test_a_reader_that_has_left(pipe: Pipe, size: int) -> None:
    made = Pipe()
    os.close(made.reader)
    with pytest.raises(BrokenPipeError):
        made.output.write(bytes(size))
    made.output.close()
    os.close(made.writer)
