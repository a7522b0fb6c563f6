"""The driver: takes blocks from a source, through stages and a gate, to a sink, until there is a reason to stop.

It polls, and waits only where there is no block: no task, timer or future is made for one. What is due is looked at
where there is no block, and once in each time slice while blocks go on. How a run ends is a value, ``Stop``; the first
reason counts. The driver acknowledges what stages drop, and the sink acknowledges the rest.

``Run`` is longer than other classes, since each step of a block, from the source to the sink, may end the run, and what
then becomes of the blocks that are held is decided in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from rstream_core.errors import RstreamError
from rstream_core.flow.acks import Account
from rstream_core.flow.block import Block
from rstream_core.flow.gate import Gate
from rstream_core.flow.stages import Stage, Stop
from rstream_core.timeslice import TimeSlice

MOST_OPEN = 1_000_000
"""Messages that may be handed out and not done with. A sink has tighter bounds of its own."""


class Source(Protocol):
    """Hands out blocks. Its errors are ``RstreamError``, or an ``end`` that has one."""

    @property
    def end(self) -> Stop | None:
        """Why no further block will come; None while some may."""

    def start(self, wake: Callable[[], None]) -> None:
        """Begins. ``wake`` is called when ``poll`` may have something, or ``end`` is set."""

    def poll(self) -> Block | None:
        """Returns a block if there is one, and None where something is due that must come before the next one. Never
        waits."""

    def due(self) -> float | None:
        """Returns when ``tick`` is wanted, in loop time, 0 for now; None: not by itself. The time must not move on by
        itself, and ``tick`` must change it: otherwise the run never ticks, or does nothing else."""

    async def tick(self) -> None:
        """Does what is due. May take long; may be cancelled at any time, and is then called again or not at all."""

    def stop(self) -> None:
        """Reads no more. ``poll`` still returns what cannot be read again, and then ``end`` is set."""


class Sink(Protocol):
    """Takes blocks, and acknowledges each message once. Its errors are ``RstreamError``."""

    @property
    def failed(self) -> Stop | None:
        """Why it takes nothing more; None while it does. The run then ends."""

    def start(self, wake: Callable[[], None]) -> None:
        """Begins. ``wake`` is called when ``failed`` is set; it ends a ``tick`` of the source, too."""

    def push(self, block: Block) -> Awaitable[None] | None:
        """Takes a block. Returns None if it is taken, or what to wait for before the next one. That may be cancelled:
        what was not taken stays open."""

    def due(self) -> float | None:
        """Returns when ``tick`` is wanted, in loop time, 0 for now; None: not by itself. The time must not move on by
        itself, and ``tick`` must change it: otherwise the run never ticks, or does nothing else."""

    def tick(self) -> Awaitable[None] | None:
        """Does what is due. As ``push``."""

    async def drain(self) -> None:
        """Sends what waits, and returns when nothing is open in the sink, or ``failed`` is set."""


class _Alarm:
    """Calls a function at a time, or before it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, due: float) -> None:
        """Calls at ``due``, in loop time. One that is set and comes before does as well: it comes for nothing."""
        if self._timer is not None:
            if self._at <= due:
                return
            self._timer.cancel()
        self._timer, self._at = self._loop.call_at(due, self._ring), due

    def _ring(self) -> None:
        self._timer = None  # an event loop may be early, as uvloop is by a part of a millisecond: then it is set again
        self._call()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Run:
    """One run. ``work`` is called once. For one event loop."""

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        sink: Sink,
        account: Account,
        *,
        gate: Gate | None = None,
        gate_gives_back: bool = False,
        prepare: Callable[[Block], Awaitable[None] | None] | None = None,
        ends: Sequence[Callable[[], Stop | None]] = (),
        most_open: int = MOST_OPEN,
        is_full: Callable[[], bool] | None = None,
    ) -> None:
        """``gate_gives_back``: what the gate holds when the run is stopped stays open instead of going on: for a source
        that can read it again. ``prepare`` sees each block before the stages do, and returns what to wait for first:
        whoever has to ask a broker for what a stage needs does so there. Its errors are ``RstreamError``. ``ends`` are
        asked after each block whether it was the last one. ``most_open`` messages may be open, and as many more as one
        block has. ``is_full`` is asked whether the sink has bounds of its own that are reached: then no block is read
        until the sink wakes the run, and what is due is done meanwhile.
        """
        self._source = source
        self._stages = stages
        self._sink = sink
        self._account = account
        self._gate = gate
        self._gate_gives_back = gate_gives_back
        self._prepare = prepare
        self._ends = ends
        self._most_open = most_open
        self._is_full = is_full
        self._loop = asyncio.get_running_loop()
        self._is_woken = False
        """Whether something may have changed since the source was polled last."""
        self._sleeper: asyncio.Future[None] | None = None
        """What the run waits for, while it does."""
        self._alarm = _Alarm(self._loop, self._wake)
        self._why: Stop | None = None
        self._is_cut = False
        """Whether no further block is wanted, not even those that were read already."""
        self._held: list[tuple[int, Block]] = []
        """What a stage, by its index, gets again; the last one first. The index behind the last one is the gate's."""
        self._gate_due = 0.0
        self._scope: asyncio.Timeout | None = None
        self._until: float | None = None
        """The limit that ``stop`` has set, in loop time."""
        self._ticking: asyncio.Timeout | None = None
        self.is_drained = False
        """Whether the sink was drained: all that it took is acknowledged."""
        self.behind: list[Block] = []
        """What was read and lies behind the message with which a stage ended the run. It stays open."""
        self._error_of_source: RstreamError | None = None
        self._last: Stop | None = None
        """Why a stage or one of ``ends`` wants no further block; what the gate holds still goes."""
        self.fed: Stop | None = None
        """Why no further block came, once the sink has got all that were to come; None where it has not."""

    def stop(self, why: Stop, drain: float | None = None) -> None:
        """Ends the run from outside: a signal, a timer. The first reason counts.

        What the source cannot read again still goes through. ``drain``: the seconds for that, and for the sink to take
        what it has; None: no limit. May be called before ``work``, and repeatedly: the shortest limit counts.
        """
        if self._why is None:
            self._why = why
        self._source.stop()
        self._wake()
        now = self._loop.time()
        if drain is not None and (self._until is None or self._until > now + drain):
            self._until = now + drain
            if self._scope is not None and not self._scope.expired():
                self._scope.reschedule(self._until)
        self._end_tick()

    def _wake(self) -> None:
        self._is_woken = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _wake_for_sink(self) -> None:
        self._wake()
        if self._sink.failed is not None:
            self._end_tick()

    def _end_tick(self) -> None:
        """Ends a ``tick`` of the source that may take long, such as one that waits for a broker."""
        if self._ticking is not None and not self._ticking.expired():
            self._ticking.reschedule(self._loop.time())

    async def work(self) -> Stop:
        """Carries blocks until the source ends or there is another reason, drains the sink, and returns the reason.

        Raises nothing for a reason to stop: an ``RstreamError`` of the source or the sink is that of the ``Stop``.
        """
        self._source.start(self._wake)
        self._sink.start(self._wake_for_sink)
        scope = self._scope = asyncio.timeout_at(self._until)
        try:
            async with scope:
                try:
                    await self._flow_in_a_task()
                    self.fed = self._why if self._sink.failed is None else None
                    await self._sink.drain()
                    self.is_drained = self._sink.failed is None
                    if self._sink.failed is not None and self._account.open:  # it has not written all that it had taken
                        self._cut(self._sink.failed)
                except RstreamError as error:  # a RequestTimeout is a TimeoutError, too
                    if error is self._error_of_source and self._sink.failed is None:
                        with suppress(RstreamError):  # the first error counts
                            await self._sink.drain()  # what was read before it
                    self._cut(_stop_of(error, self._sink.failed))
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None
            self._alarm.cancel()
        assert self._why is not None
        return self._why

    def _cut(self, why: Stop) -> None:
        """Ends the run here and now. A reason with an error counts even where there was another one before."""
        if self._why is None or why.error is not None:
            self._why = why
        self._is_cut = True
        self._source.stop()

    async def _flow_in_a_task(self) -> None:
        """Awaits ``_flow`` as a task, one for the run: otherwise each of its waits would go through all coroutines that
        await the run."""
        flow = self._loop.create_task(self._flow())
        try:
            await flow
        finally:
            if flow.done() and not flow.cancelled():
                flow.exception()  # marks it as retrieved, where this is cancelled in the moment in which it fails

    async def _flow(self) -> None:
        time_slice, has_looked = TimeSlice(), False
        await self._do_what_is_due()
        while not self._is_cut:
            if self._sink.failed is not None:
                self._cut(self._sink.failed)
                return
            self._is_woken = False
            index, block = self._next()
            if block is not None:
                waiting = self._carry(index, block)
                del block  # the next one may be as large
                if waiting is not None:
                    await waiting
                if self._last is not None or self._ends:
                    self._come_to_an_end()
                has_looked = False
            elif not has_looked:
                await self._do_what_is_due()
                has_looked = True
            elif not self._held and self._source.end is not None:
                self._cut(self._source.end)
                return
            else:
                if await self._wait():
                    time_slice.begin()
                has_looked = False
            if time_slice.is_over():
                await time_slice.give_way()
                await self._do_what_is_due()

    def _next(self) -> tuple[int, Block | None]:
        """Returns a block, and the index of the stage that it comes to."""
        if self._gate_gives_back and self._why is not None and self._is_held_by_gate:
            self._leave_behind()
        if self._held:
            index, block = self._held[-1]
            if self._is_held_by_gate and self._why is None and self._loop.time() < self._gate_due:
                return index, None
            self._held.pop()
            return index, block
        if self._account.open >= self._most_open or (self._is_full is not None and self._is_full()):
            return 0, None
        try:
            return 0, self._source.poll()
        except RstreamError as error:
            self._error_of_source = error
            raise

    def _carry(self, index: int, block: Block, *, is_prepared: bool = False) -> Awaitable[None] | None:
        """Takes a block through the stages from ``index`` on, and the gate, into the sink. Returns None where the sink
        has taken what came there, or what to wait for."""
        if index == 0 and self._prepare is not None and not is_prepared:
            preparing = self._prepare(block)
            if preparing is not None:
                return self._carry_prepared(block, preparing)
        out = self._through_stages(index, block) if self._stages else block
        if out is not None and self._gate is not None and self._why is None:
            out, later, self._gate_due = self._gate.admit(out, self._loop.time())
            if later is not None:
                self._held.append((len(self._stages), later))
        return None if out is None else self._sink.push(out)

    async def _carry_prepared(self, block: Block, preparing: Awaitable[None]) -> None:
        self._held.append((0, block))  # for ``rest``, if this is cancelled or fails
        await preparing
        self._held.pop()
        waiting = self._carry(0, block, is_prepared=True)
        if waiting is not None:
            await waiting

    def _come_to_an_end(self) -> None:
        """Ends the run where no further block is wanted."""
        if self._sink.failed is not None:
            return  # what was let through was not taken: no number is reached
        last = self._last
        for end in self._ends:
            last = last or end()
        self._last = last
        if last is not None and not self._is_held_by_gate:
            self._leave_behind()
            self._cut(last)

    @property
    def _is_held_by_gate(self) -> bool:
        return bool(self._held) and self._held[-1][0] == len(self._stages)

    def _leave_behind(self) -> None:
        self.behind += [block for _, block in self._held]
        self._held.clear()

    def _through_stages(self, index: int, block: Block) -> Block | None:
        """Takes a block through the stages from ``index`` on, and returns what comes out."""
        out: Block | None = block
        for number in range(index, len(self._stages)):
            assert out is not None
            step = self._stages[number](out)
            if isinstance(step, Block):
                out = step
                continue
            for positions, verdict in step.dropped:
                out.ack.done(positions, verdict)
            if step.stop is not None:  # a later stage's is about what an earlier one let through
                self._last = step.stop
                self._leave_behind()
            if step.rest is not None and self._last is None:
                self._held.append((number, step.rest))
            elif step.rest is not None:
                self.behind.append(step.rest)
            out = step.out
            if out is None:
                break
        return out

    def rest(self) -> Iterator[Block]:
        """After ``work``: yields what was read and has not come to the sink, as the stages let it through.

        That is what was held, and what the source cannot read again. It ends where a stage ends it. Nothing is
        prepared, and there is no gate.
        """
        self._source.stop()
        while self._held or self._last is None:
            index, block = self._held.pop() if self._held else (0, self._source.poll())
            if block is None:
                return
            out = self._through_stages(index, block)
            if out is not None:
                yield out

    # What is due.

    async def _do_what_is_due(self) -> None:
        """Does nothing once the sink takes nothing more: nothing is stored once nobody reads what was written."""
        due = self._sink.due()
        if due is not None and due <= self._loop.time() and self._sink.failed is None:
            waiting = self._sink.tick()
            if waiting is not None:
                await waiting
        due = self._source.due()
        if due is not None and due <= self._loop.time() and self._sink.failed is None and self._why is None:
            await self._tick_source()

    async def _tick_source(self) -> None:
        try:
            async with asyncio.timeout(None) as self._ticking:
                await self._source.tick()
        except RstreamError as error:
            self._error_of_source = error
            raise
        except TimeoutError:  # ``stop`` was called, or the sink takes nothing more
            if self._why is None and self._sink.failed is None:
                raise
        finally:
            self._ticking = None

    async def _wait(self) -> bool:
        """Waits until there may be something to do. Returns whether it had to."""
        dues = [self._source.due() if self._why is None else None, self._sink.due()]
        if self._is_held_by_gate:
            dues.append(self._gate_due)
        due = min((one for one in dues if one is not None), default=None)
        if due is not None:
            self._alarm.set(due)
        if self._is_woken:
            return False
        self._sleeper = self._loop.create_future()
        self._account.on_change = self._wake
        try:
            await self._sleeper
        finally:
            self._sleeper = self._account.on_change = None
        return True


def _stop_of(error: RstreamError, failed: Stop | None) -> Stop:
    """Returns the stop for an error: the sink's own, ``failed``, where it is about this error."""
    return failed if failed is not None and failed.error is error else Stop(str(error), "error", error)
