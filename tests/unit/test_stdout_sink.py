"""The sink that writes to stdout: what it acknowledges, and when it takes nothing more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from rstream_cli.endpoints.stdout import GATHERED, StdoutSink
from rstream_cli.environment import StdoutError
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.rendering import LARGE, BlockView, OnBad, Renderer
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block


class Lines(Renderer):
    """Cannot show what begins with "bad"; a large message comes in two pieces."""

    def __init__(self, head: bytes = b"") -> None:
        super().__init__(lambda view: b"", lambda view, index: b"", head)
        self.views: list[BlockView] = []

    def __call__(self, view: BlockView, on_bad: OnBad) -> bytes | Iterator[bytes]:
        self.views.append(view)
        for index, message in enumerate(view.messages):
            if message.startswith(b"bad"):
                on_bad(index, "is bad")
        self.ambiguous = sum(b"," in message for message in view.messages)
        if view.is_large:
            return iter((view.messages[0][:10], view.messages[0][10:]))
        return b"".join(message + b"\n" for message in view.messages if not message.startswith(b"bad"))


class Pipe:
    """A sink that writes into a pipe, and its reader."""

    def __init__(
        self, *, skips: bool = False, unbuffered: bool = False, gathers: bool = True, head: bytes = b""
    ) -> None:
        self.reader, self.writer = os.pipe()
        self.skipped: list[tuple[str, int, str]] = []
        self.written: list[int] = []
        """How many messages were written, each time that some were acknowledged."""
        self.render = Lines(head)
        self.account = Account()
        self.acks = Acks(self.account, "s")
        self.woken = asyncio.Event()
        self.sink = StdoutSink(
            self.writer,
            self.render,
            on_skip=(lambda *told: self.skipped.append(told)) if skips else None,
            unbuffered=unbuffered,
            gathers=gathers,
        )
        self.account.on_change = lambda: self.written.append(self.account.by[Verdict.DONE])
        self.sink.start(self.woken.set)

    def block(self, *messages: bytes, begin: int = 10) -> Block:
        self.acks.hand_out(begin, len(messages))
        return Block(self.acks, range(begin, begin + len(messages)), messages, "s", 77, unreadable=(11,))

    async def push(self, *messages: bytes, begin: int = 10) -> None:
        """Does what a run does that has this block and no other."""
        waiting = self.sink.push(self.block(*messages, begin=begin))
        if waiting is not None:
            await waiting
        await self.tick()

    async def tick(self) -> None:
        if self.sink.due() is not None and self.sink.failed is None:
            waiting = self.sink.tick()
            if waiting is not None:
                await waiting

    def read(self) -> bytes:
        return os.read(self.reader, 1 << 20)

    @property
    def by(self) -> tuple[int, int, int]:
        return self.account.by[Verdict.DONE], self.account.by[Verdict.BAD], self.acks.open

    def leave(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        self.sink.close()
        os.close(self.writer)
        if self.reader >= 0:
            os.close(self.reader)


@pytest.fixture
async def pipe() -> AsyncGenerator[Pipe, None]:
    made = Pipe()
    yield made
    made.close()


async def test_a_block_is_written_and_then_acknowledged(pipe: Pipe) -> None:
    await pipe.push(b"a", b"b,", b"c")
    assert pipe.read() == b"a\nb,\nc\n"
    assert (pipe.by, pipe.acks.low, pipe.written) == ((3, 0, 0), 12, [3])
    assert (pipe.sink.bytes, pipe.sink.ambiguous, pipe.sink.failed) == (7, 1, None)
    assert pipe.render.views == [BlockView("s", range(10, 13), 77, (b"a", b"b,", b"c"), (11,))]


async def test_what_a_slow_reader_has_not_taken_is_open(pipe: Pipe) -> None:
    data = b"x" * 200_000  # more than a pipe holds
    waiting = pipe.sink.push(pipe.block(data))
    assert waiting is not None
    writing = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.05)
    assert (writing.done(), pipe.by, pipe.sink.bytes) == (False, (0, 0, 1), 0)
    taken = 0
    while taken < len(data) + 1:
        taken += len(await asyncio.to_thread(pipe.read))
    await writing
    assert (pipe.by, pipe.sink.bytes) == ((1, 0, 0), len(data) + 1)


async def test_a_write_that_is_cut_off_stays_open(pipe: Pipe) -> None:
    waiting = pipe.sink.push(pipe.block(b"x" * 200_000))
    assert waiting is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await waiting
    assert pipe.by == (0, 0, 1)
    pipe.leave()  # ends the write


async def test_a_large_message_is_written_in_pieces_and_acknowledged_once(tmp_path: Path) -> None:
    account = Account()
    acks = Acks(account)
    acks.hand_out(0, 1)
    with (tmp_path / "out").open("wb") as file:
        sink = StdoutSink(file.fileno(), Lines())
        message = b"x" * (LARGE + 1)
        waiting = sink.push(Block(acks, range(1), [message], "s"))
        assert waiting is not None
        await waiting
        sink.close()
    assert (tmp_path / "out").read_bytes() == message
    assert (sink.bytes, account.by[Verdict.DONE]) == (len(message), 1)


# Small blocks are gathered.


async def test_small_blocks_are_written_together_once_there_is_no_other(pipe: Pipe) -> None:
    assert pipe.sink.push(pipe.block(b"a", b"b")) is None
    assert pipe.sink.push(pipe.block(b"c,", begin=12)) is None
    assert (pipe.by, pipe.sink.bytes, pipe.sink.ambiguous, pipe.sink.due()) == ((0, 0, 3), 0, 0, 0.0)
    await pipe.tick()
    assert pipe.read() == b"a\nb\nc,\n"
    assert (pipe.by, pipe.acks.low, pipe.written, pipe.sink.due()) == ((3, 0, 0), 12, [2, 3], None)
    assert (pipe.sink.bytes, pipe.sink.ambiguous) == (7, 1)


async def test_they_are_written_once_there_are_enough_of_them(pipe: Pipe) -> None:
    size = GATHERED // 4
    for number in range(3):
        assert pipe.sink.push(pipe.block(b"x" * (size - 1), begin=number)) is None
    assert pipe.by == (0, 0, 3)
    waiting = pipe.sink.push(pipe.block(b"x" * (size - 1), begin=3))
    if waiting is not None:
        await waiting
    assert (pipe.by, pipe.sink.due(), len(pipe.read())) == ((4, 0, 0), None, GATHERED)


async def test_what_is_gathered_is_written_at_the_end_and_after_a_stop(pipe: Pipe) -> None:
    assert pipe.sink.push(pipe.block(b"a")) is None
    pipe.sink.stop()
    await pipe.sink.drain()
    assert (pipe.read(), pipe.by) == (b"a\n", (1, 0, 0))


async def test_what_is_gathered_comes_before_a_large_message(tmp_path: Path) -> None:
    account = Account()
    acks = Acks(account)
    acks.hand_out(0, 2)
    with (tmp_path / "out").open("wb") as file:
        sink = StdoutSink(file.fileno(), Lines())
        large = b"x" * (LARGE + 1)
        assert sink.push(Block(acks, range(1), [b"a"], "s")) is None
        waiting = sink.push(Block(acks, range(1, 2), [large], "s"))
        assert waiting is not None
        await waiting
        sink.close()
    assert (tmp_path / "out").read_bytes() == b"a\n" + large
    assert (sink.bytes, acks.open) == (2 + len(large), 0)


async def test_what_is_gathered_comes_before_the_end_at_a_bad_message(pipe: Pipe) -> None:
    assert pipe.sink.push(pipe.block(b"a", b"b")) is None
    await pipe.push(b"bad", begin=12)
    assert (pipe.read(), pipe.by) == (b"a\nb\n", (2, 0, 1))
    assert pipe.sink.failed is not None
    assert pipe.sink.failed.kind == "bad message"


async def test_skipped_messages_are_known_before_the_others_are_written() -> None:
    """Whoever counts messages must know it before the next block."""
    pipe = Pipe(skips=True)
    assert pipe.sink.push(pipe.block(b"a", b"bad")) is None
    assert pipe.by == (0, 1, 1)
    await pipe.tick()
    assert (pipe.read(), pipe.by) == (b"a\n", (1, 1, 0))
    pipe.close()


async def test_nothing_is_gathered_where_each_block_is_to_be_acknowledged() -> None:
    pipe = Pipe(gathers=False)
    assert pipe.sink.push(pipe.block(b"a")) is None
    assert (pipe.read(), pipe.by, pipe.sink.due()) == (b"a\n", (1, 0, 0), None)
    pipe.close()


# What comes before the first message.


async def test_a_head_is_due_once_and_is_no_message(pipe: Pipe) -> None:
    assert pipe.sink.due() is None
    pipe = Pipe(head=b"offset,body\r\n")
    assert pipe.sink.due() == 0.0
    for _ in range(2):
        waiting = pipe.sink.tick()
        if waiting is not None:
            await waiting
    assert pipe.sink.due() is None
    assert (pipe.read(), pipe.sink.bytes, pipe.by, pipe.written) == (b"offset,body\r\n", 13, (0, 0, 0), [])
    pipe.close()


@pytest.mark.parametrize("size", [1, 200_000])
async def test_a_head_that_nobody_reads_ends_the_run(size: int) -> None:
    pipe = Pipe(head=b"x" * size)
    pipe.leave()
    waiting = pipe.sink.tick()
    if waiting is not None:
        await waiting
    assert pipe.sink.failed is not None
    assert pipe.sink.failed.kind == "sink closed"
    assert (pipe.sink.bytes, pipe.written) == (0, [])
    pipe.close()


# Bad messages.


async def test_a_bad_message_ends_the_run_behind_those_before_it(pipe: Pipe) -> None:
    await pipe.push(b"a", b"b", b"bad", b"c")
    assert pipe.read() == b"a\nb\n"
    assert (pipe.by, pipe.acks.low) == ((2, 0, 2), 11)
    failed = pipe.sink.failed
    assert failed is not None
    assert (failed.kind, failed.reason) == ("bad message", "the message at offset 12 of stream 's' is bad")
    assert isinstance(failed.error, CommandError)
    assert failed.error.status is ExitStatus.BAD_RECORD


async def test_a_bad_message_before_all_others_writes_nothing(pipe: Pipe) -> None:
    await pipe.push(b"bad", b"a")
    assert (pipe.by, pipe.written, pipe.sink.bytes) == ((0, 0, 2), [], 0)
    assert pipe.sink.failed is not None


async def test_skipped_messages_are_told_and_done_with() -> None:
    pipe = Pipe(skips=True)
    await pipe.push(b"bad", b"a", b"bad", b"b")
    assert pipe.read() == b"a\nb\n"
    assert (pipe.by, pipe.acks.low, pipe.sink.failed) == ((2, 2, 0), 13, None)
    assert pipe.skipped == [("s", 10, "is bad"), ("s", 12, "is bad")]
    pipe.close()


async def test_nothing_is_written_where_all_are_skipped() -> None:
    """Not even into a pipe that is full."""
    pipe = Pipe(skips=True)
    pipe.leave()
    await pipe.push(b"bad", b"bad")
    assert (pipe.by, pipe.sink.failed, pipe.written) == ((0, 2, 0), None, [0])
    pipe.close()


# Unbuffered.


async def test_unbuffered_writes_each_message_by_itself() -> None:
    pipe = Pipe(unbuffered=True)
    await pipe.push(b"a", b"b", b"c")
    assert [list(view.offsets) for view in pipe.render.views] == [[10], [11], [12]]
    assert (pipe.read(), pipe.written) == (b"a\nb\nc\n", [1, 2, 3])
    pipe.close()


async def test_unbuffered_ends_at_a_stop_and_the_rest_is_open() -> None:
    pipe = Pipe(unbuffered=True)
    pipe.account.on_change = pipe.sink.stop  # after the first
    await pipe.push(b"a", b"b", b"c")
    assert (pipe.read(), pipe.by) == (b"a\n", (1, 0, 2))
    pipe.close()


async def test_unbuffered_ends_at_a_bad_message() -> None:
    pipe = Pipe(unbuffered=True)
    await pipe.push(b"a", b"bad", b"c")
    assert (pipe.read(), pipe.by) == (b"a\n", (1, 0, 2))
    pipe.close()


async def test_nothing_is_taken_after_a_stop(pipe: Pipe) -> None:
    pipe.sink.stop()
    await pipe.push(b"a")
    assert (pipe.by, pipe.render.views, pipe.sink.failed) == ((0, 0, 1), [], None)


# A reader that has left, and a full disk.


@pytest.mark.parametrize("size", [1, 200_000])
async def test_a_write_into_a_closed_pipe_is_not_acknowledged(pipe: Pipe, size: int) -> None:
    pipe.leave()
    await pipe.push(b"x" * size)
    assert pipe.by == (0, 0, 1)
    assert pipe.sink.failed is not None
    assert (pipe.sink.failed.kind, pipe.sink.failed.reason) == ("sink closed", "stdout was closed")
    assert isinstance(pipe.sink.failed.error, BrokenPipeError)


async def test_a_reader_that_leaves_between_two_writes_is_noticed(pipe: Pipe) -> None:
    pipe.leave()
    await asyncio.wait_for(pipe.woken.wait(), 60)
    assert pipe.sink.failed is not None
    assert pipe.sink.failed.kind == "sink closed"


@pytest.mark.parametrize("size", [1, 5_000_000])
async def test_a_full_disk_ends_the_run(size: int) -> None:
    account = Account()
    acks = Acks(account)
    acks.hand_out(0, 1)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = StdoutSink(full, Lines())
        waiting = sink.push(Block(acks, range(1), [b"x" * size], "s"))
        if size < GATHERED:
            assert waiting is None
            waiting = sink.tick()
        assert waiting is not None
        await waiting
        sink.close()
    finally:
        os.close(full)
    assert acks.open == 1
    assert sink.failed is not None
    assert sink.failed.kind == "error"
    assert isinstance(sink.failed.error, StdoutError)
