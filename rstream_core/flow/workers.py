"""A pool of tasks that work on blocks, and acknowledge each when its work has succeeded.

Without an order, each task takes its blocks from the iterator itself. With one, a further task deals them out into
lanes, one for each worker; what waits in lanes is open, so the bounds of the iterator hold for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from inspect import isawaitable
from typing import Literal

from rstream_core.checks import check_callable, check_seconds, check_whole
from rstream_core.errors import ConfigurationError
from rstream_core.flow.blocks import Blocks, MessageBlock

logger = logging.getLogger("rstream_core")

MAX_WORKERS = 10_000
"""Tasks of one pool."""
GRACE = 5.0
"""Seconds in which other tasks may finish their blocks when one has failed."""

Handler = Callable[[MessageBlock], Awaitable[object] | object]
"""Works on a block: a coroutine function, or a function that does not wait."""
OrderedBy = Literal["stream"] | Callable[[bytes], Hashable] | None


async def work(
    blocks: Blocks, handle: Handler, *, workers: int = 8, ordered_by: OrderedBy = None, grace: float = GRACE
) -> int:
    """Calls ``handle(block)`` for each block, in ``workers`` tasks, until ``blocks`` ends. Returns for how many
    messages.

    A block is acknowledged when ``handle`` returns; ``handle`` may acknowledge parts of it before. ``ordered_by``:

    - None: each block goes to whichever task is free. Blocks of one stream are worked on at the same time.
    - ``"stream"``: the blocks of one stream, or partition, are worked on one after another, in their order.
    - a function of an encoded message that returns a key, which can be hashed: the messages of one key in one stream
      are worked on one after another, in their order. A block is divided: ``handle`` gets the messages of those keys
      that go to the same task, as a block whose offsets have holes.

    What ``handle``, the key function or the iterator raises ends the pool, and is raised here: no further block is
    handed out, other tasks may finish theirs for ``grace`` seconds and are cancelled then; what they raise is logged.
    A ``CancelledError`` that ``handle`` raises by itself is a ``RuntimeError`` here. If the call is cancelled, all
    tasks are at once. In each case what has succeeded is stored, and the rest comes again next time. ``blocks`` is
    closed at the end. A block whose turn as single active consumer is over before a task gets to it is left out.
    """
    check_callable("handle", handle)
    check_whole("workers", workers, 1, MAX_WORKERS)
    check_seconds("grace", grace)
    if ordered_by is not None and ordered_by != "stream" and not callable(ordered_by):
        raise ConfigurationError(f"ordered_by is None, 'stream' or a function of a message, not {ordered_by!r:.80}")
    async with blocks:
        pool = _Pool(handle)
        if ordered_by is None:
            return await pool.run([pool.work_on(blocks) for _ in range(workers)], grace)
        lanes = [_Lane() for _ in range(workers)]
        dealing = _deal(blocks, lanes, _Dealer(workers, ordered_by))
        return await pool.run([dealing, *(pool.work_on(lane) for lane in lanes)], grace)


class _Lane:
    """The blocks that wait for one worker, in their order. Ends behind None."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[MessageBlock | None] = asyncio.Queue()
        self.put = self._waiting.put_nowait

    def __aiter__(self) -> _Lane:
        return self

    async def __anext__(self) -> MessageBlock:
        block = await self._waiting.get()
        if block is None:
            raise StopAsyncIteration
        return block


class _Dealer:
    """Says which lane a block, or each of its messages, belongs to."""

    def __init__(self, lanes: int, ordered_by: Literal["stream"] | Callable[[bytes], Hashable]) -> None:
        self._lanes = lanes
        self._ordered_by = ordered_by
        self._of_stream: dict[str, int] = {}

    def deal(self, block: MessageBlock) -> list[tuple[int, MessageBlock]]:
        ordered_by = self._ordered_by
        if isinstance(ordered_by, str):
            return [(self._of_stream.setdefault(block.stream, len(self._of_stream) % self._lanes), block)]
        return block.divide([hash(ordered_by(message)) % self._lanes for message in block.messages])


async def _deal(blocks: Blocks, lanes: Sequence[_Lane], dealer: _Dealer) -> None:
    async for block in blocks:
        for lane, part in dealer.deal(block):
            lanes[lane].put(part)
    for every in lanes:
        every.put(None)


class _Pool:
    """The tasks of one call of ``work``."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._busy: set[asyncio.Task[None] | None] = set()
        """Tasks in which ``handle`` runs."""
        self._is_stopped = False
        self._done = 0
        """Messages."""

    async def work_on(self, blocks: Blocks | _Lane) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        async for block in blocks:
            if not block.is_current:
                block.drop()
                continue
            self._busy.add(task)
            try:
                result = self._handle(block)
                if isawaitable(result):
                    await result
                await block.ack()
            except asyncio.CancelledError as error:
                if task is None or task.cancelling():
                    raise
                raise RuntimeError(f"handle() was cancelled by what it waited for, at {block!r}") from error
            finally:
                self._busy.discard(task)
            self._done += len(block)
            if self._is_stopped:
                return

    async def run(self, jobs: Sequence[Coroutine[object, object, None]], grace: float) -> int:
        """Runs the jobs until all have ended or one has failed, whose error it raises."""
        tasks = [asyncio.create_task(job) for job in jobs]
        ended: list[asyncio.Task[None]] = []
        for task in tasks:
            task.add_done_callback(ended.append)
        try:
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if pending:
                await self._stop(pending, grace)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        errors = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
        if not errors:
            return self._done
        for other in errors[1:]:
            if other is not errors[0]:
                logger.error("another task of the pool has failed, too", exc_info=other)
        raise errors[0]

    async def _stop(self, tasks: set[asyncio.Task[None]], grace: float) -> None:
        """Lets those tasks finish that are at work, for a while."""
        self._is_stopped = True
        at_work = {task for task in tasks if task in self._busy}
        for task in tasks - at_work:
            task.cancel()
        if at_work:
            await asyncio.wait(at_work, timeout=grace)
