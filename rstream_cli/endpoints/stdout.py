"""The sink that writes to stdout: renders blocks, writes them, and acknowledges what the operating system has taken.

Small blocks are gathered, since a write of each would cost as much as all else that is done for it: they are written
once they are ``GATHERED`` bytes, or as soon as the run has no other block for the moment. One write is made at a time,
so memory holds about one even where the reader of stdout is slow. While a write waits, the event loop goes on. A
message that cannot be shown is skipped, or ends the run behind those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from rstream_cli.environment import StdoutError
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.output import Output
from rstream_cli.rendering import BlockView, Renderer
from rstream_core.flow.acks import Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Stop

GATHERED = 64 * 1024
"""Bytes of output that are written without waiting for more: what a pipe usually holds."""
GRACE = 2.0
"""Seconds that the reader of stdout has to take the current write when the run must end."""

SkipListener = Callable[[str, int, str], None]
"""Called with the stream and the offset of a message that is skipped, and why: the rest of a sentence that begins with
"the message"."""


class _BadMessage(Exception):
    """A message cannot be shown. ``place`` is its place in the block; the text continues "the message"."""

    def __init__(self, place: int, why: str) -> None:
        self.place = place
        super().__init__(why)


class _Rendered(NamedTuple):
    """What is known of a block while it is written: its messages are free by then."""

    ack: Acks
    positions: Sequence[int]
    skipped: list[int]
    """The places of messages that could not be shown. They are acknowledged."""
    ambiguous: int
    """Messages that nobody can tell from others."""
    size: int
    """Bytes of output."""


def _refuse(place: int, why: str) -> None:
    raise _BadMessage(place, why)


class StdoutSink:
    """Writes blocks to a file descriptor. ``close`` is due at the end. For one event loop."""

    def __init__(
        self,
        descriptor: int,
        render: Renderer,
        *,
        on_skip: SkipListener | None = None,
        unbuffered: bool = False,
        gathers: bool = True,
        enough: int = GATHERED,
        pack: Callable[[bytes], bytes] | None = None,
        name: str = "stdout",
    ) -> None:
        """``on_skip``: told of each message that cannot be shown; None: such a message ends the run. ``unbuffered``:
        each message is written by itself. ``gathers``: False where each block must be acknowledged before the next
        one is read. ``enough``: bytes of output that are written without waiting for more. ``pack`` makes what is
        written of the output that was gathered. ``name`` is what is written to, for people."""
        self.failed: Stop | None = None
        self.bytes = 0
        """Written so far."""
        self.ambiguous = 0
        """Messages written so far that nobody can tell from others, as they hold the delimiter."""
        self._render = render
        self._on_skip = on_skip
        self._unbuffered = unbuffered
        self._enough = enough if gathers and not unbuffered else 0
        self._pack = pack
        self._name = name
        self._head = render.head
        """What comes before the first message, until it is written."""
        self._gathered: list[_Rendered] = []
        """Blocks that are not written yet."""
        self._data: list[bytes] = []
        """Their output."""
        self._size = 0
        """Its bytes."""
        self._is_stopping = False
        self._wake: Callable[[], None] = lambda: None
        self._output = Output(descriptor, self._reader_left)

    def start(self, wake: Callable[[], None]) -> None:
        """``wake`` is called when the reader leaves between two writes."""
        self._wake = wake

    def push(self, block: Block) -> Awaitable[None] | None:
        """Takes a block. After ``stop``, takes nothing: it stays open."""
        if self._is_stopping:
            return None
        if self._unbuffered and block.count > 1:
            return self._put_singly(block)
        return self._put(block)

    def put_in(self, data: bytes) -> None:
        """What is to be written next: before the first message, or behind the last one. ``tick`` writes it."""
        self._head = data

    def due(self) -> float | None:
        """What comes before the first message is due at once, and what is gathered where there is no other block."""
        return 0.0 if self._head or self._gathered else None

    def tick(self) -> Awaitable[None] | None:
        """Writes what comes before the first message, or what is gathered."""
        head, self._head = self._head, b""
        if not head:
            return self._write_gathered()
        if self._pack is not None:
            head = self._pack(head)
        try:
            written = self._output.write(head)
        except OSError as error:
            self.fail(error)
            return None
        if written is not None:
            return self._finish_head(written, len(head))
        self.bytes += len(head)
        return None

    async def drain(self) -> None:
        """Writes what is gathered. Then nothing is open: each other ``push`` ends when all is written."""
        waiting = self._write_gathered()
        if waiting is not None:
            await waiting

    def stop(self) -> None:
        """Takes nothing more but what is gathered or being written. ``Run.stop`` limits that; ``GRACE`` is the usual
        limit."""
        self._is_stopping = True

    def close(self) -> None:
        """Stops writing. A blocked write stays blocked until the process ends."""
        self._output.close()

    # Inside.

    async def _finish_head(self, written: asyncio.Future[None], size: int) -> None:
        try:
            await written
        except OSError as error:
            self.fail(error)
        else:
            self.bytes += size

    async def _put_singly(self, block: Block) -> None:
        for place in range(block.count):
            waiting = self._put(block.select(range(place, place + 1)))
            if waiting is not None:
                await waiting
            if self.failed is not None or self._is_stopping:
                return

    def _put(self, block: Block) -> Awaitable[None] | None:
        skipped: list[int] = []

        def skip(place: int, why: str) -> None:
            assert self._on_skip is not None
            skipped.append(place)
            self._on_skip(block.stream, block.positions[place], why)

        timestamp = 0 if block.timestamp is None else block.timestamp
        view = BlockView(block.stream, block.positions, timestamp, block.messages, block.unreadable)
        try:
            data = self._render(view, _refuse if self._on_skip is None else skip)
        except _BadMessage as error:
            return self._refuse(block, error)
        ambiguous = self._render.ambiguous
        if not isinstance(data, bytes):
            return self._write_all(data, _Rendered(block.ack, block.positions, skipped, ambiguous, 0))
        if skipped:  # whoever counts messages must know at once that these are none
            block.ack.done([block.positions[place] for place in skipped], Verdict.BAD)
            if len(skipped) == len(block.messages):
                self._note(_Rendered(block.ack, block.positions, skipped, ambiguous, 0))
                return None
        size = len(data)
        self._gathered.append(_Rendered(block.ack, block.positions, skipped, ambiguous, size))
        self._data.append(data)
        self._size += size
        return self._write_gathered() if self._size >= self._enough else None

    def _write_gathered(self) -> Awaitable[None] | None:
        """Writes all that is gathered, in one go. Returns what to wait for; None where it is written, or has failed."""
        gathered, parts = self._gathered, self._data
        if not gathered or self.failed is not None:
            return None
        self._gathered, self._data, self._size = [], [], 0
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            written = self._output.write(data if self._pack is None else self._pack(data))
        except OSError as error:
            self.fail(error)
            return None
        if written is not None:
            return self._finish(written, gathered)
        for rendered in gathered:
            self._note(rendered)
        return None

    async def _finish(self, written: asyncio.Future[None], gathered: Iterable[_Rendered]) -> None:
        try:
            await written
        except OSError as error:
            self.fail(error)
        else:
            for rendered in gathered:
                self._note(rendered)

    async def _write_all(self, pieces: Iterable[bytes | memoryview], rendered: _Rendered) -> None:
        """Writes one large message, behind what is gathered."""
        await self.drain()
        if self.failed is not None:
            return
        size = 0
        try:
            for piece in pieces:
                written = self._output.write(piece)
                if written is not None:
                    await written
                size += len(piece)
        except OSError as error:
            self.fail(error)
        else:
            self._note(rendered._replace(size=size))

    async def _refuse(self, block: Block, error: _BadMessage) -> None:
        """Ends the run at a message that cannot be shown; those before it are written."""
        if error.place:
            waiting = self._put(block.select(range(error.place)))
            if waiting is not None:
                await waiting
        await self.drain()
        if self.failed is None:
            problem = CommandError(
                f"the message at offset {block.positions[error.place]} of stream {block.stream!r} {error}",
                hint="--codec raw takes messages as they are; --on-error skip leaves this one out",
                status=ExitStatus.BAD_RECORD,
            )
            self.failed = Stop(str(problem), "bad message", problem)

    def _note(self, rendered: _Rendered) -> None:
        """Acknowledges a block that is written."""
        self.ambiguous += rendered.ambiguous
        positions = rendered.positions
        if rendered.skipped:
            places = set(rendered.skipped)
            positions = [position for place, position in enumerate(positions) if place not in places]
        rendered.ack.done(positions)
        self.bytes += rendered.size

    def fail(self, error: OSError) -> None:
        """Takes nothing more, as what was written may not be kept. The first reason counts."""
        if self.failed is not None:
            return
        if isinstance(error, BrokenPipeError):
            self.failed = _closed(error)
        else:
            problem = StdoutError(error.errno, error.strerror)
            problem.name = self._name
            self.failed = Stop(str(problem), "error", problem)

    def _reader_left(self) -> None:
        if self.failed is None:
            self.failed = _closed(BrokenPipeError())
        self._wake()


def _closed(error: BrokenPipeError) -> Stop:
    return Stop("stdout was closed", "sink closed", error)
