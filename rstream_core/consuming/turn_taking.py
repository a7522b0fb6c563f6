"""Takes the turns of a single active consumer: does the steps of ``single_active.Turns`` and sends the answers.

A task of its own does that, never the read loop, so that requests on the way to the answer may use the same connection.
When a turn ends, in this order: no further chunk is handed out; the application finishes the chunk that it holds; the
application's listener is called, and may store offsets; the answer is sent. Each step has a time limit, and together
they stay well under the minute that the broker waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import NamedTuple

from rstream_core.callbacks import own_task
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.recovery import ended
from rstream_core.consuming.offsets import in_words, wire_spec
from rstream_core.consuming.progress import Progress
from rstream_core.consuming.single_active import Action, Event, State, Step, Turns, Update
from rstream_core.errors import RstreamError
from rstream_core.protocol import commands as c
from rstream_core.types import ConsumerOffsetSpecification

logger = logging.getLogger("rstream_core")

FINISH_TIMEOUT = 15.0
"""Seconds that the application has to finish its chunk when its turn as single active consumer ends."""
LISTENER_TIMEOUT = 20.0
"""Seconds that a listener has to return."""

Listener = Callable[[bool], Awaitable[ConsumerOffsetSpecification | None]]
"""Called with True when a turn begins, and with False when it ends. Returns where the turn begins, or None."""
Locate = Callable[[Connection, ConsumerOffsetSpecification | None], Awaitable[ConsumerOffsetSpecification]]
"""Returns where a turn begins that the broker tells on this connection, given what the listener has returned. Raises an
``RstreamError`` where that cannot be found out. It has a time limit."""


class _Request(NamedTuple):
    """Where the answer to a ConsumerUpdate goes."""

    connection: Connection
    correlation_id: int


class TurnTaking:
    """The turns of one subscription.

    ``resume`` is called when a turn has been answered and begins, with its start; ``fail`` when the start of a turn
    cannot be found out. Both run in the task of the steps, and must not wait.
    """

    def __init__(
        self,
        stream: str,
        progress: Progress,
        listener: Listener | None,
        locate: Locate,
        *,
        resume: Callable[[ConsumerOffsetSpecification], None],
        fail: Callable[[RstreamError], None],
        report: Callable[[BaseException], None],
    ) -> None:
        """``report`` gets what the listener raises. The listener runs in the context in which this is called."""
        self._stream = stream
        self._progress = progress
        self._listener = listener
        self._locate = locate
        self._resume = resume
        self._fail = fail
        self._report = report
        self._turns: Turns[_Request] = Turns(stream)
        self._start: ConsumerOffsetSpecification | None = None
        """What the listener has returned; then the start of the turn."""
        self._error: RstreamError | None = None
        """Why the start is not known."""
        self._finished = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[ConsumerOffsetSpecification | None] | None = None
        self._context = copy_context()

    @property
    def is_active(self) -> bool:
        """Whether the broker sends messages, and the application may take them."""
        return self._turns.is_active

    def told(self, active: bool, connection: Connection, correlation_id: int) -> None:
        """The broker begins or ends a turn. Raises ``ProtocolError`` where too many have no answer yet."""
        self._perform(self._turns.told(Update(active, _Request(connection, correlation_id))))
        self._work_on()

    def lose(self) -> None:
        """The connection is lost, or the broker has dropped the subscription. May be called repeatedly."""
        self._perform(self._turns.handle(Event.LOST))

    async def settle(self) -> None:
        """Ends the turn that a loss has cut short, if there is one. Waits for the steps that are under way.

        If this call is cancelled, so are the steps that it has begun.
        """
        await self._rest()
        self._perform(self._turns.handle(Event.SETTLE))
        self._work_on()
        try:
            await self._rest()
        except asyncio.CancelledError:
            if self._working is not None:
                self._working.cancel()
            raise

    def on_finished(self) -> None:
        """The application has finished the chunk that it held."""
        self._finished.set()

    def close(self) -> None:
        """Ends all steps, except where the listener calls this: then it may go on. May be called repeatedly."""
        self._perform(self._turns.handle(Event.CLOSE))
        self._finished.set()
        if self._working is not None and not self.is_called_by_listener():
            self._working.cancel()

    async def closed(self) -> None:
        """Waits, after ``close``, until the steps have ended, at most for some seconds."""
        if self._working is not None and not self._working.done():
            await ended([self._working])

    def is_called_by_listener(self) -> bool:
        """Whether the current task is that of the listener: nobody may wait there for the steps to end."""
        return self._listening is not None and asyncio.current_task() is self._listening

    # Inside.

    def _work_on(self) -> None:
        if self._turns.step is not None and (self._working is None or self._working.done()):
            self._working = own_task(self._work())

    async def _rest(self) -> None:
        if self._working is not None and not self._working.done():
            await asyncio.wait((self._working,))  # each of its steps has a limit

    async def _work(self) -> None:
        """Does one step after another until none is due. Runs as a task."""
        while (step := self._turns.step) is not None:
            event = await self._do(step)
            self._perform(self._turns.handle(event))
            self._perform(self._turns.go_on())

    async def _do(self, step: Step) -> Event:
        match step:
            case Step.FINISH:
                await self._finish()
                return Event.FINISHED
            case Step.CALL_BEGIN:
                self._start = await self._call(True)
                return Event.HEARD
            case Step.CALL_END:
                await self._call(False)
                return Event.HEARD
            case Step.LOCATE:
                assert self._turns.current is not None
                try:
                    self._start = await self._locate(self._turns.current.request.connection, self._start)
                except RstreamError as error:
                    self._error = error
                    return Event.NOT_LOCATED
                return Event.LOCATED

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Action.NEW_TURN:
                    self._progress.begin_turn()
                case Action.CUT_SHORT:
                    self._progress.cut_turn()
                case Action.ORDERLY:
                    self._progress.end_turn()
                case Action.ANSWER:
                    self._answer(self._turns.answered())
                case Action.RESUME:
                    assert self._start is not None
                    self._resume(self._start)
                case Action.FAIL:
                    assert self._error is not None
                    self._fail(self._error)
                case Action.QUEUE | Action.FORGET:
                    """The machine itself has done it."""

    async def _finish(self) -> None:
        """Waits until the application holds no chunk, at most ``FINISH_TIMEOUT``."""
        self._finished.clear()
        if self._progress.held is None:
            return
        try:
            async with asyncio.timeout(FINISH_TIMEOUT):
                await self._finished.wait()
        except TimeoutError:
            logger.warning(
                "the application still works on a message of stream %r %g s after its turn ended; "
                "the next consumer may get it too",
                self._stream,
                FINISH_TIMEOUT,
            )

    async def _call(self, active: bool) -> ConsumerOffsetSpecification | None:
        """Calls the listener and returns its answer; None where it has none, fails, or takes too long."""
        if self._listener is None:
            return None
        task = self._listening = self._context.run(asyncio.ensure_future, _checked(self._listener, active))
        try:
            done, _ = await asyncio.wait((task,), timeout=LISTENER_TIMEOUT)
        finally:
            task.cancel()
        if not done:
            logger.error(
                "the consumer update listener of stream %r gave no answer in %g s", self._stream, LISTENER_TIMEOUT
            )
        elif task.cancelled():
            logger.error("the consumer update listener of stream %r was cancelled", self._stream)
        elif (error := task.exception()) is not None:
            if not isinstance(error, KeyboardInterrupt | SystemExit):  # asyncio raises those
                self._report(error)
        else:
            return task.result()
        return None

    def _answer(self, update: Update[_Request]) -> None:
        begins = self._turns.state is State.BEGUN
        if begins:
            logger.info("a turn of stream %r begins, %s", self._stream, in_words(self._start))
        else:
            logger.info("a turn of stream %r ends", self._stream)
        answer = c.ConsumerUpdateResponse(wire_spec(self._start if begins else None))
        connection, correlation_id = update.request
        try:
            connection.send(answer, correlation_id=correlation_id)
        except RstreamError as error:  # the connection has ended, and its handlers know it
            logger.debug("answering for stream %r: %s", self._stream, error)


async def _checked(listener: Listener, active: bool) -> ConsumerOffsetSpecification | None:
    answer = await listener(active)
    if answer is not None and not isinstance(answer, ConsumerOffsetSpecification):
        raise TypeError(f"a consumer update listener returns a ConsumerOffsetSpecification or None, not {answer!r}")
    return answer
