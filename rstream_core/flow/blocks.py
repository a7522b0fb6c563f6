"""Blocks of messages for programs, which say when they are done with each: what ``Client.blocks`` returns.

A run of the flow reads the streams in a task of its own, and stores how far everything is acknowledged. ``Blocks`` is
what the program sees of it. It is no async generator: one that is cancelled where it waits would be over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rstream_core.callbacks import own_task
from rstream_core.checks import MAX_OFFSET, check_flag, check_name, check_texts, check_whole
from rstream_core.consuming.gaps import GapListener
from rstream_core.errors import AlreadyClosed, ConfigurationError
from rstream_core.flow.access import StreamAccess
from rstream_core.flow.acks import Account
from rstream_core.flow.block import Block
from rstream_core.flow.hand_over import HandOver
from rstream_core.flow.read_plan import AfterStored, ReadPlan, Until
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Stop
from rstream_core.flow.stores import StoreEvery
from rstream_core.flow.stream_reading import ReadEvents
from rstream_core.flow.stream_source import StreamSource
from rstream_core.loops import LoopGuard
from rstream_core.protocol.amqp import AMQPMessage, amqp_decoder
from rstream_core.protocol.amqp_sections import size_of
from rstream_core.timeslice import TimeSlice
from rstream_core.types import ConsumerOffsetSpecification, OffsetType


class MessageBlock:
    """Messages of one stream, at most 4096, and whom to tell when they are done with."""

    __slots__ = ("_block", "_hand_over", "_is_released", "_left", "_size")

    def __init__(self, block: Block, size: int, hand_over: HandOver) -> None:
        """``size``: the bytes of the messages. ``hand_over``: where the block was taken from."""
        self._block = block
        self._size = size
        self._hand_over = hand_over
        self._left = block.count
        self._is_released = False

    def __repr__(self) -> str:
        offsets = self.offsets
        return f"<MessageBlock of stream {self.stream!r}, offsets {offsets[0]} to {offsets[-1]}>"

    def __len__(self) -> int:
        return self._block.count

    @property
    def stream(self) -> str:
        """The stream that the messages are from; of a super stream, the partition."""
        return self._block.stream

    @property
    def messages(self) -> Sequence[bytes]:
        """The messages, encoded, as they were stored."""
        return self._block.messages

    @property
    def offsets(self) -> Sequence[int]:
        """The offset of each message. They grow: one by one, but for a part of a block that was divided."""
        return self._block.positions

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970 (UTC) when the broker stored the messages."""
        return self._block.timestamp or 0

    @property
    def open(self) -> int:
        """How many of the messages are not acknowledged."""
        return self._left

    @property
    def is_current(self) -> bool:
        """Whether working on the block is of use: False once its turn as single active consumer ends. Then the messages
        that were not acknowledged before come again, here or elsewhere."""
        return self._hand_over.is_wanted(self._block)

    def decoded(self) -> list[AMQPMessage]:
        """Returns the messages as AMQP 1.0, each decoded when it is read from. Raises ``AmqpError`` for one that has no
        sections of AMQP."""
        return list(map(amqp_decoder, self.messages))

    async def ack(self, offsets: int | Sequence[int] | None = None) -> None:
        """Says that the program is done with messages: all of the block, or one offset, or some.

        Blocks may be acknowledged in any order, and from any task of the event loop; a second time changes nothing.
        Nor does it once the turn as single active consumer in which the block came is over, or the reading was closed:
        then the messages come again, here or elsewhere. Does not wait for the broker. The offset up to which everything
        is acknowledged is stored when that is due. Raises ``ConfigurationError`` for an offset that is not of this
        block, and then acknowledges nothing.
        """
        block = self._block
        positions: Sequence[int] = block.positions
        if offsets is not None:
            positions = _checked(offsets, positions)
        fresh = block.ack.done(positions)
        if fresh:
            self._left -= fresh
            if not self._left:
                self.drop()

    def drop(self) -> None:
        """Says that the program does no more with the block: it no longer counts for the bounds. What is not
        acknowledged stays so, and no offset behind it is stored: for a block that is not current any more."""
        if not self._is_released:
            self._is_released = True
            self._hand_over.release(self._block.count, self._size)

    def divide(self, lanes: Sequence[int]) -> list[tuple[int, MessageBlock]]:
        """Divides the block: ``lanes`` has a number for each message. Returns each number that occurs, with its
        messages in their order: a block to be acknowledged by itself. This one is to be used no more."""
        if lanes.count(lanes[0]) == len(lanes) == len(self):
            return [(lanes[0], self)]
        parts = replace(self._block, lanes=lanes).scatter()
        self._is_released = True  # its parts are
        return [(lane, MessageBlock(part, size_of(part.messages), self._hand_over)) for lane, part in parts]


def _checked(offsets: int | Sequence[int], positions: Sequence[int]) -> Sequence[int]:
    """Returns ``offsets`` in growing order. Raises where one is not among ``positions``."""
    found = [offsets] if isinstance(offsets, int) else sorted(set(offsets))
    known = positions if isinstance(positions, range) else frozenset(positions)
    strange = next((offset for offset in found if offset not in known), None)
    if strange is not None:
        raise ConfigurationError(f"offset {strange} is not of this block, which has {positions[0]} to {positions[-1]}")
    return found


class _Source:
    """A source of streams for a run that goes on until what was handed out is acknowledged: until then, it stores."""

    def __init__(self, source: StreamSource, hand_over: HandOver) -> None:
        self._source = source
        self._hand_over = hand_over
        self._is_stopped = False
        self.start = source.start
        self.due = source.due

    @property
    def end(self) -> Stop | None:
        return self._source.end if self._is_stopped or not self._hand_over.messages else None

    def poll(self) -> Block | None:
        block = self._source.poll()
        if block is None and self._source.end is not None:
            self._hand_over.finish()
        return block

    async def tick(self) -> None:
        await self._source.tick()
        if self._source.end is not None:
            self._hand_over.finish()

    def stop(self) -> None:
        self._is_stopped = True
        self._source.stop()


class BlockReader:
    """What reads below ``Blocks``, which it does not know: so an iterator that is dropped is noticed."""

    def __init__(
        self,
        client: StreamAccess,
        plan: ReadPlan,
        store_every: StoreEvery,
        on_gap: GapListener,
        most: int,
        most_bytes: int,
    ) -> None:
        account = Account()
        self._source = StreamSource(
            client,
            plan,
            account,
            ReadEvents(),
            store_every=store_every,
            on_gap=on_gap,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._hand_over = HandOver(most, most_bytes, self._source.is_wanted)
        source = _Source(self._source, self._hand_over)
        self._run = Run(source, (), self._hand_over, account, is_full=self._hand_over.is_full)
        self._working: asyncio.Task[Stop] | None = None
        self._time_slice = TimeSlice()

    async def open(self) -> None:
        """Subscribes, and begins to read. Raises the errors of ``StreamSource.open``; then, or if it is cancelled,
        nothing is left open."""
        try:
            await self._source.open()
        except BaseException:
            await self._source.close()
            raise
        hand_over = self._hand_over
        self._working = own_task(self._run.work())
        self._working.add_done_callback(lambda _: hand_over.finish())

    async def next(self) -> MessageBlock | None:
        """Returns the next block, None behind the last one. Raises what has ended the reading."""
        time_slice = self._time_slice
        if time_slice.is_over():
            await time_slice.give_way()
        taken = await self._hand_over.take()
        if taken is not None:
            return MessageBlock(*taken, self._hand_over)
        if self._working is not None and self._working.done() and not self._working.cancelled():
            error = self._working.result().error
            if error is not None:
                raise error.with_traceback(None)
        return None

    async def close(self, *, quietly: bool) -> None:
        """Ends the reading, and stores what is acknowledged. Raises where that could not be stored; ``quietly``: not.

        Also raises what nobody expects and has ended the run. If it is cancelled, everything ends at once.
        """
        assert self._working is not None
        try:
            self._run.stop(Stop("closed"))
            why = await self._working
            await self._source.settle(quietly=quietly or why.error is not None)
        finally:
            self._working.cancel()
            await self._source.close()

    def abandon(self) -> None:
        """Ends the reading without waiting. Nothing more is stored."""
        if self._working is not None:
            self._working.cancel()
        self._source.abandon()


class Blocks(AsyncIterator[MessageBlock]):
    """An async iterator over blocks of messages, and an async context manager. Made by ``Client.blocks``.

    Use it in ``async with``: at the end of that, however it comes, what is acknowledged is stored, verified, and what
    is not comes again next time. A plain ``async for`` does the same where it ends by itself; one that is left by
    ``break`` or an exception stores nothing more.

    A cancelled ``anext``, as by a timeout, loses nothing. Several tasks may iterate over it at the same time, within
    ``async with``: each block goes to one of them. Blocks of one stream are handed out in their order. The iterator
    raises the error that ended the reading, as ``Subscription`` does, after the blocks that had come before it.
    """

    _opening: asyncio.Task[BlockReader] | None = None
    _ending: asyncio.Task[None] | None = None

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, BlockReader]]) -> None:
        """``open_it`` is called once, when the first block is asked for or the context is entered."""
        self._guard = LoopGuard("this iterator")
        self._open_it = open_it
        self._is_entered = False

    async def __aenter__(self) -> Self:
        """Subscribes. Raises the errors of ``Client.subscribe``, and ``AlreadyClosed``."""
        self._guard.check()
        if self._ending is not None:
            raise AlreadyClosed("this iterator is closed")
        self._is_entered = True
        try:
            await self._reader()
        except BaseException:
            await self._close(quietly=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(quietly=kind is not None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageBlock:
        self._guard.check()
        if self._ending is not None:
            raise StopAsyncIteration
        try:
            reader = await self._reader()
            block = await reader.next()
        except asyncio.CancelledError:
            raise
        except BaseException:
            if not self._is_entered:
                await self._close(quietly=True)
            raise
        if block is not None and self._ending is None:
            return block
        if not self._is_entered:
            await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the reading, also for tasks that wait for a block, and stores what is acknowledged, verified.

        What is not acknowledged by now comes again next time. Waits for the end of an outage, as long as the client's
        recovery allows, and raises where the offset could not be stored. If the call is cancelled, the closing goes on.
        May be repeated.
        """
        await self._close(quietly=False)

    def __del__(self) -> None:
        opening = self._opening
        if opening is not None and self._ending is None and not self._guard.is_forked:
            with suppress(RuntimeError):  # the loop is closed, and nothing is left to be ended
                opening.get_loop().call_soon_threadsafe(_drop, opening)

    async def _reader(self) -> BlockReader:
        """Returns the reader, once it is open. A caller that is cancelled leaves the opening to the next one."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open_it())
            self._opening.add_done_callback(_seen)
        if not self._opening.done():
            await asyncio.wait((self._opening,))
        if self._opening.cancelled():
            raise StopAsyncIteration  # it was closed
        return self._opening.result()

    async def _close(self, *, quietly: bool) -> None:
        if self._ending is None:
            self._guard.check()
            self._ending = own_task(_end(self._opening, quietly=quietly))
        await asyncio.shield(self._ending)


async def _end(opening: asyncio.Task[BlockReader] | None, *, quietly: bool) -> None:
    """Runs in a task of its own, since the caller that waits for it may be cancelled."""
    if opening is None:
        return
    if not opening.done():
        opening.cancel()
        await asyncio.wait((opening,))
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close(quietly=quietly)


def _seen(opening: asyncio.Task[BlockReader]) -> None:
    """Takes note of the error, so that asyncio does not log it: the caller that waited may have been cancelled."""
    if not opening.cancelled():
        opening.exception()


def _drop(opening: asyncio.Task[BlockReader]) -> None:
    if not opening.done():
        opening.cancel()
    elif not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()


def plan_of(
    stream: str | Sequence[str] | None,
    super_stream: str | None,
    start: ConsumerOffsetSpecification,
    *,
    is_given: bool,
    to_end: bool,
    until: int | datetime | None,
    name: str | None,
    single_active: bool,
    filter_values: Sequence[str],
    match_unfiltered: bool,
    credit: int,
    fail_on_gap: bool,
) -> ReadPlan:
    """Returns what is to be read, by the arguments of ``Client.blocks``. ``is_given``: whether the caller has chosen
    the start. Raises ``TypeError`` or ``ConfigurationError`` for what cannot be."""
    streams = () if stream is None else (stream,) if isinstance(stream, str) else tuple(stream)
    for one in streams:
        check_name("stream", one)
    if len(set(streams)) < len(streams):
        raise ConfigurationError("a stream is named twice")
    if super_stream is not None:
        check_name("super_stream", super_stream)
    elif not streams:
        raise ConfigurationError("blocks() needs a stream, several, or a super_stream")
    for what, flag in (("to_end", to_end), ("single_active", single_active), ("fail_on_gap", fail_on_gap)):
        check_flag(what, flag)
    end = Until() if to_end else None
    if until is not None:
        if to_end:
            raise ConfigurationError("pass until, or to_end, not both")
        if single_active:
            raise ConfigurationError("a group takes to_end, and not until: its stored offsets say how far it is")
        end = _end_at(until, is_one_stream=len(streams) == 1)
    check_texts("filter_values", filter_values)
    check_flag("match_unfiltered", match_unfiltered)
    if match_unfiltered and not filter_values:
        raise ConfigurationError("match_unfiltered needs filter_values")
    if name is not None:
        check_name("name", name)
    elif single_active:
        raise ConfigurationError("single_active needs a name, which the group shares")
    return ReadPlan(
        streams,
        start if name is None else AfterStored(name, start) if is_given else AfterStored(name),
        until=end,
        name=name,
        single_active=single_active,
        super_stream=super_stream,
        filter_values=tuple(filter_values),
        match_unfiltered=match_unfiltered,
        credit=credit,
        only_acknowledged=single_active,
        fail_on_gap=fail_on_gap,
    )


def _end_at(until: int | datetime, *, is_one_stream: bool) -> Until:
    """Returns the end at an offset or a time."""
    if isinstance(until, datetime):
        return Until(time=ConsumerOffsetSpecification(OffsetType.TIMESTAMP, until).offset)
    offset = check_whole("until", until, 0, MAX_OFFSET)
    if not is_one_stream:
        raise ConfigurationError(f"until={offset} is an offset of one stream; for several pass a datetime, or to_end")
    return Until(offset=offset)


def blocks_of(
    client: StreamAccess,
    plan: ReadPlan,
    *,
    store_every: StoreEvery,
    on_gap: GapListener,
    max_open: int,
    max_open_bytes: int,
    check: Callable[[], None],
) -> Blocks:
    """Returns an iterator for a plan. A plan without streams is for all partitions of its super stream.

    ``check`` is called first when it is opened, and raises where the client is closed or of another event loop.
    """

    async def open_it() -> BlockReader:
        check()
        found = plan
        if not plan.streams:
            assert plan.super_stream is not None
            found = replace(plan, streams=tuple(await client.partitions(plan.super_stream)))
        reader = BlockReader(client, found, store_every, on_gap, max_open, max_open_bytes)
        await reader.open()
        return reader

    return Blocks(open_it)
