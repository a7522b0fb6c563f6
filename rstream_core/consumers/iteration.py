"""``async for`` over what a consumer reads: chunks, or the messages in them.

These are classes, since an async generator that is cancelled where it waits is over: a timeout around ``anext`` would
end it, and look as if the stream had ended.

An ``Iteration`` subscribes at the first ``anext``, in a task of its own. If that ``anext`` is cancelled, the task goes
on, and the next ``anext`` waits for it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from rstream_core.callbacks import own_task
from rstream_core.connecting.recovery import ended
from rstream_core.consuming.subscriptions import Subscriptions
from rstream_core.errors import ConfigurationError
from rstream_core.loops import LoopGuard
from rstream_core.types import Chunk

T = TypeVar("T")


class Opened(NamedTuple):
    """What is read."""

    chunks: Subscriptions
    close: Callable[[], Coroutine[Any, Any, None]]
    """Ends it. Never raises."""
    drop: Callable[[], None]
    """Ends an iterator that was dropped without ``aclose``; called on the event loop."""


Open = Callable[[], Coroutine[Any, Any, Opened]]
Split = Callable[[Opened, Chunk], Generator[T | None, None, None]]


class Iteration(AsyncIterator[T], Generic[T]):
    """An async iterator, for one task. Wrap it in ``contextlib.aclosing`` to leave early.

    A cancelled ``anext``, as by a timeout, loses nothing: the next one goes on. An error ends it, and what it
    reads, as leaving does.
    """

    def __init__(self, guard: LoopGuard, open_it: Open) -> None:
        self._guard = guard
        self._open = open_it
        self._opening: asyncio.Task[Opened] | None = None
        self._source: Opened | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_asked = False
        self._error: BaseException | None = None
        """Which ended it, until it is raised."""

    async def aclose(self) -> None:
        """Ends it: an ``anext`` that waits ends the iteration. May be repeated."""
        if self._ending is None:
            self._guard.check()
            self._let_go()
            self._ending = own_task(self._end())
        await asyncio.shield(self._ending)

    def __del__(self) -> None:
        if self._opening is not None and self._ending is None and not self._guard.is_forked:
            with suppress(RuntimeError):  # the loop is closed, and nothing is left to be ended
                self._opening.get_loop().call_soon_threadsafe(_drop, self._opening)

    async def _next(self) -> T:
        """What ``__anext__`` does where nothing is at hand."""
        self._guard.check()
        if self._is_asked:
            raise ConfigurationError("an iterator is for one task, and another one is waiting for its next item")
        self._is_asked = True
        try:
            if self._ending is None and self._error is None:
                try:
                    return await self._advance()
                except asyncio.CancelledError:
                    if self._error is None:
                        raise
                except BaseException as error:  # noqa: BLE001 - raised once what is read is left
                    self._error = error
            await self.aclose()
            reason, self._error = self._error, None
            raise reason or StopAsyncIteration
        finally:
            self._is_asked = False

    async def _chunk(self) -> Chunk:
        """The next one. Raises ``StopAsyncIteration`` where another task has closed the iterator meanwhile."""
        if self._source is None:
            await self._opened()
        assert self._source is not None
        chunk = await anext(self._source.chunks)
        self._stop_if_closed()
        return chunk

    def _stop_if_closed(self) -> None:
        if self._ending is not None:
            raise StopAsyncIteration

    async def _opened(self) -> None:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())  # in the caller's context: there may be a listener
            self._opening.add_done_callback(_seen)
        if not self._opening.done():
            await asyncio.wait((self._opening,))
        if self._opening.cancelled():
            raise StopAsyncIteration  # it was closed
        self._source = self._opening.result()

    async def _end(self) -> None:
        """Runs in a task of its own, since the caller that waits for it may be cancelled."""
        opening = self._opening
        if opening is None:
            return
        if not opening.done():
            opening.cancel()
            await ended([opening])
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await opening.result().close()

    # What is read.

    @abstractmethod
    async def _advance(self) -> T:
        """The next item. Raises what ends the iteration."""

    def _let_go(self) -> None:
        """Of what is at hand."""


class ChunkIteration(Iteration[Chunk]):
    """Chunk by chunk."""

    async def __anext__(self) -> Chunk:
        return await self._next()

    async def _advance(self) -> Chunk:
        return await self._chunk()


class MessageIteration(Iteration[T]):
    """Message by message."""

    def __init__(self, guard: LoopGuard, open_it: Open, split: Split[T]) -> None:
        """``split``: makes the messages of a chunk, None for each that is not wanted; it finishes the chunk at its end,
        or where it is closed, with what was done by then."""
        super().__init__(guard, open_it)
        self._split = split
        self._rest: Generator[T | None, None, None] | None = None
        self._left = 0
        """How many there are in it at most."""
        self._stride: Iterator[T | None] = iter(())
        """The next ones of it, up to the next look at the clock."""
        self._in_stride = 0

    async def __anext__(self) -> T:
        try:
            for message in self._stride:
                if message is not None:
                    return message
        except BaseException as error:  # noqa: BLE001 - raised below
            self._error = error
        return await self._next()

    async def _advance(self) -> T:
        while True:
            if self._rest is not None:
                assert self._source is not None
                time_slice = self._source.chunks.time_slice
                if time_slice.is_over(self._in_stride):
                    self._in_stride = 0  # where this is cancelled
                    await time_slice.give_way()
                    self._stop_if_closed()
                self._stride = islice(self._rest, time_slice.stride)
                self._in_stride = min(time_slice.stride, self._left)
                self._left -= self._in_stride
                found = False
                try:
                    for message in self._stride:
                        found = True
                        if message is not None:
                            return message
                except BaseException as error:
                    self._error = error  # also where it is a CancelledError: it is no one's who waits here
                    raise
                if found:
                    continue
                self._rest = None
            chunk = await self._chunk()
            assert self._source is not None
            self._rest, self._left, self._in_stride = self._split(self._source, chunk), len(chunk.messages), 0

    def _let_go(self) -> None:
        rest, self._rest, self._stride = self._rest, None, iter(())
        if rest is not None:
            rest.close()


def _seen(opening: asyncio.Task[Opened]) -> None:
    """Takes note of the error, so that asyncio does not log it: the caller that waited may have been cancelled."""
    if not opening.cancelled():
        opening.exception()


def _drop(opening: asyncio.Task[Opened]) -> None:
    if not opening.done():
        opening.cancel()
    elif not opening.cancelled() and opening.exception() is None:
        opening.result().drop()
