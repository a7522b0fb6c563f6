"""The sink that a program takes blocks from: it waits for them, and says itself when they are done with.

A few blocks wait here, so that the program and the run do not take turns for each. What the program holds and has not
acknowledged is bounded, in messages and in bytes: while there is more, no further block is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from rstream_core.flow.block import Block
from rstream_core.flow.stages import Stop
from rstream_core.protocol.amqp_sections import size_of

logger = logging.getLogger("rstream_core")

AHEAD = 8
"""Blocks that wait to be taken. The run is woken when half of them are taken."""
WARN_AFTER = 60.0
"""Seconds after which the log warns, once, of a program that waits for a block and holds too many."""


class HandOver:
    """The sink of one run, from which any number of tasks of one event loop take blocks."""

    failed: Stop | None = None
    """Nothing fails here."""

    def __init__(self, most: int, most_bytes: int, is_wanted: Callable[[Block], bool]) -> None:
        """``most`` messages and ``most_bytes`` may be open, and as many more as one block has. ``is_wanted``: asked
        before a block is handed out; one that is not wanted is dropped, and stays open for its ``ack``."""
        self._most = most
        self._most_bytes = most_bytes
        self.is_wanted = is_wanted
        self._waiting: deque[tuple[Block, int]] = deque()
        self._changed = asyncio.Event()
        """Set when there is something for those who wait."""
        self._has_warned = False
        self._wake: Callable[[], None] = lambda: None
        self.is_over = False
        """Whether no block will come behind those that wait. Set by ``finish``."""
        self.messages = 0
        """Messages that wait here, or were taken and are not released."""
        self.size = 0
        """Their bytes."""

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def push(self, block: Block) -> None:
        size = size_of(block.messages)
        self.messages += block.count
        self.size += size
        self._waiting.append((block, size))
        self._changed.set()

    def due(self) -> float | None:
        return None

    def tick(self) -> None:
        return None

    async def drain(self) -> None:
        """What waits is left to the program."""

    def is_full(self) -> bool:
        """Returns whether no further block is to be read now."""
        return len(self._waiting) >= AHEAD or self._holds_too_many()

    def _holds_too_many(self) -> bool:
        return self.messages >= self._most or self.size >= self._most_bytes

    def finish(self) -> None:
        """No block will come any more. May be repeated."""
        self.is_over = True
        self._changed.set()

    async def take(self) -> tuple[Block, int] | None:
        """Waits for the next block, and returns it with its bytes; None behind the last one. A cancelled call loses
        nothing."""
        while True:
            while self._waiting:
                block, size = self._waiting.popleft()
                if len(self._waiting) == AHEAD // 2:
                    self._wake()
                if self.is_wanted(block):
                    return block, size
                self.release(block.count, size)
            if self.is_over:
                return None
            self._changed.clear()
            await self._wait()

    def release(self, messages: int, size: int) -> None:
        """So much is no longer held."""
        self.messages -= messages
        self.size -= size
        self._wake()

    async def _wait(self) -> None:
        if self._has_warned or not self._holds_too_many():
            await self._changed.wait()
            return
        try:
            async with asyncio.timeout(WARN_AFTER):
                await self._changed.wait()
        except TimeoutError:
            self._has_warned = True
            logger.warning(
                "no block is read for %g s: %d messages (%d bytes) that were handed out are not acknowledged",
                *(WARN_AFTER, self.messages, self.size),
            )
