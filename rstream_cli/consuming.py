"""The engine of all commands that consume: writes chunks to stdout as blocks of bytes, and stores offsets.

It reads a stream, the partitions of a super stream, or as a single active consumer. The unit is the chunk: it is cut to
the wanted messages, rendered as one block, written, and only then counted, stored and credited. So memory holds about
one chunk even if the reader of stdout is slow, and the stored offset never passes the last message written. While a
write waits, the event loop answers heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rstream_cli.ending import signal_name, take_leave
from rstream_cli.environment import StdoutError
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.filtering import BrokerFilter
from rstream_cli.names import Kind
from rstream_cli.outages import OutageReports
from rstream_cli.outcome import Ended
from rstream_cli.output import Output
from rstream_cli.parsing import MAX_OFFSET, Start, StartKind, Until, UntilKind
from rstream_cli.render.display import Display, Severity, StatsMode
from rstream_cli.render.stats import ConsumeCounts, Stats
from rstream_cli.rendering import Batch, OnBad, Rendered, Renderer
from rstream_cli.runner import CommandContext
from rstream_core import (
    Chunk,
    Client,
    ConnectionClosed,
    ConnectionFailed,
    ConsumerOffsetSpecification,
    Gap,
    OffsetNotFound,
    OffsetsGone,
    OffsetType,
    RstreamError,
    SingleActiveConsumer,
    StreamDoesNotExist,
    Subscription,
    Subscriptions,
    UnsupportedByBroker,
)
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Chooser, Select
from rstream_core.types import EARLIEST_TIMESTAMP

_GRACE = 2.0
"""Seconds that a reader of stdout has to take the current write when the run must end."""
_STORE_TIMEOUT = 5.0
_FILTER_INTERVAL = 0.2
"""With a filter: seconds without a chunk after which the broker is asked whether it has more to send."""
_MOST_AT_ONCE = 4096
"""The most messages that are filtered, rendered and written at once: the most that a usual chunk of a broker has."""
_GROUP_INTERVAL = 1.0
"""Seconds between checks of the offsets that other members of a group have stored."""
_END_INTERVAL = 1.0
"""Seconds without a chunk between checks whether the offset of ``--until`` is taken."""


@dataclass(frozen=True, slots=True)
class StoreEvery:
    """``--store-every``: a number of messages, or of seconds."""

    messages: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ConsumePlan:
    """The checked options of a run."""

    target: str
    """The stream, or the super stream."""
    start: Start
    render: Renderer
    kind: Kind = Kind.STREAM
    until: Until | None = None
    count: int | None = None
    idle_timeout: float | None = None
    timeout: float | None = None
    name: str | None = None
    store_every: StoreEvery = field(default_factory=StoreEvery)
    single_active: bool = False
    """Whether to share the work with others of the same name."""
    filter: BrokerFilter | None = None
    """What the broker is to leave out."""
    selects: Sequence[Chooser] = ()
    """Which of the messages that come are wanted: those that all of these want."""
    credit: int = 10
    unbuffered: bool = False
    skip_bad: bool = False
    """Whether to skip a message that cannot be shown; otherwise it ends the run."""
    fail_on_gap: bool = False
    """Whether to end at a gap; otherwise it is reported."""


def plan_filters(plan: ConsumePlan) -> bool:
    """Returns whether the broker leaves out chunks."""
    return plan.filter is not None and bool(plan.filter.values)


class _Nothing(Exception):
    """The place to stop lies before the place to start."""


class _BadMessage(Exception):
    """A message cannot be shown. ``index`` is its position in the batch; the text continues "the message"."""

    def __init__(self, index: int, why: str) -> None:
        self.index = index
        super().__init__(why)


def _refuse(index: int, why: str) -> None:
    raise _BadMessage(index, why)


@dataclass(slots=True)
class _Source:
    """A stream that is read."""

    stream: str
    end: int | None = None
    """The last wanted offset, if it is known."""
    is_to_come: bool = False
    """Whether the offset ``end`` was not taken yet at the last check."""
    before_start: int = -1
    """An offset that lies before the first message to come."""
    done: bool = False
    """Whether no more messages of the stream are wanted."""
    subscription: Subscription | None = None
    seen_first: bool = False
    active: bool | None = None
    """For a single active consumer: the state that was reported last."""
    turn: int = 0
    """Counts a single active consumer's turns: messages of an earlier turn do not count for the present one."""
    passed: int | None = None
    """The last offset, in this turn, that was written to stdout or not wanted."""
    unstored: int = 0
    """The number of messages since the last stored offset."""
    stored_at: float = 0.0


@dataclass
class ConsumeRun:
    """One run. ``work`` is called once."""

    plan: ConsumePlan
    context: CommandContext
    stats: Stats
    display: Display
    _sources: dict[str, _Source] = field(default_factory=dict)
    _until_time: int | None = None
    """Milliseconds since 1970: messages of later chunks are not wanted."""
    _ended: Ended | None = None
    """The first reason to stop."""
    _scope: asyncio.Timeout | None = None
    """The timeout of the present wait, which ``_stop`` brings forward."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _last_arrival: float = 0.0
    _outages: OutageReports = field(init=False)

    def __post_init__(self) -> None:
        self._outages = OutageReports(self.display, self.stats, self.context.connection.recovery)

    @property
    def _counts(self) -> ConsumeCounts:
        assert isinstance(self.stats.counts, ConsumeCounts)
        return self.stats.counts

    @property
    def _unfinished(self) -> list[_Source]:
        return [source for source in self._sources.values() if not source.done]

    async def work(self) -> Ended:
        """Reads the wanted messages, and returns how the run ended."""
        loop = asyncio.get_running_loop()
        plan = self.plan
        signals = asyncio.create_task(self._watch_signals())
        timer = None
        if plan.timeout is not None:
            ran_out = Ended(f"--timeout of {plan.timeout:g} s ran out", ExitStatus.TIMED_OUT)
            timer = loop.call_later(plan.timeout, self._stop, ran_out)
        client = self.context.client(self._outages, self._on_gap)
        closed = Ended("stdout was closed", ExitStatus.STDOUT_CLOSED, BrokenPipeError())
        output = Output(self.context.env.stdout.fileno(), lambda: self._stop(closed))
        try:
            ended = await self._run(client, output)
        except OffsetsGone as error:
            error.hint = f"{self._nothing_stored(error.first)}--on-gap tell goes on with what is there"
            raise
        else:
            if ended.status is ExitStatus.OK and self._counts.bad:
                return Ended(ended.reason, ExitStatus.PARTLY_DONE)
            return ended
        finally:
            signals.cancel()
            if timer is not None:
                timer.cancel()
            output.close()
            await take_leave(client, client.close(), hurry=self.context.interrupt.forced)

    async def _run(self, client: Client, output: Output) -> Ended:
        try:
            async with self._interruptible(None):
                subscriptions = await self._open(client)
        except TimeoutError:
            if self._ended is None:
                raise
            return self._ended
        except _Nothing:
            await self._begin(output)
            return self._ended or Ended("there is nothing to read")
        self.display.start()
        await self._begin(output)
        problem: BaseException | None = None
        ended: Ended | None = None
        try:
            try:
                ended = await self._read(client, subscriptions, output)
            except RstreamError as error:
                problem = error
            if ended is None or ended.status is not ExitStatus.STDOUT_CLOSED:
                # Not after stdout was closed: data in the pipe is lost, so the stored offsets must not change.
                # Before unsubscribing: the next member of the group begins at the stored offset.
                await self._store_the_last(client, quietly=problem is not None)
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise
            return Ended(f"{signal_name(self.context)} twice, stopped at once")
        finally:
            if not self.context.interrupt.forced:
                await take_leave(client, subscriptions.close())
        if problem is not None:
            raise problem
        assert ended is not None
        return ended

    # Gaps.

    def _on_gap(self, gap: Gap) -> None:
        """Counts and reports a gap. The core calls this before it hands out messages behind the gap."""
        self._counts.gone += gap.last - gap.first + 1
        if self.plan.fail_on_gap and self.display.mode is not StatsMode.JSON:
            return  # the error reports it
        words = self._nothing_stored(gap.first).removesuffix("; ")
        line = f"{gap} ({words})" if words else str(gap)
        self.display.event(
            "gap", line, Severity.WARNING, bounded=True, stream=gap.stream, first=gap.first, last=gap.last
        )

    def _nothing_stored(self, first: int) -> str:
        """Returns a note if no offset was stored: a broker forgets a stored offset that retention has passed."""
        if self.plan.start.kind is not StartKind.STORED or first != 0:
            return ""
        return f"no offset is stored under {self.plan.name!r}, or it is gone too; "

    async def _find_gap(self, client: Client, stream: str) -> None:
        """Reports the gap of an empty stream that is not read: it may have had the requested messages."""
        if self.plan.start.kind not in (StartKind.ABSOLUTE, StartKind.STORED):
            return
        spec = await resolve_start(client, stream, self.plan.start, self.plan.name)
        gap = await client.find_gap(stream, spec.offset or 0)
        if gap is not None:
            self._on_gap(gap)
            if self.plan.fail_on_gap:
                raise OffsetsGone(str(gap), stream=gap.stream, first=gap.first, last=gap.last)
        else:
            await self._tell_if_beyond(client, stream, spec)

    async def _tell_if_beyond(self, client: Client, stream: str, spec: ConsumerOffsetSpecification) -> None:
        """Where ``--until end`` finds nothing to read: perhaps as the offset is wrong, or the stream was made anew.

        The offset behind the last message is the usual one to go on at. Records of the broker's own may follow that.
        """
        if self.plan.until is None or self.plan.until.kind is not UntilKind.END:
            return
        offset, following = spec.offset or 0, await client.resolve_offset(stream, _NEXT)
        if offset <= following:
            return
        is_stored = self.plan.start.kind is StartKind.STORED
        what = f"offset {offset}, after the one stored as {self.plan.name!r}," if is_stored else f"offset {offset}"
        line = f"{what} is beyond the end of stream {stream!r}, whose next offset is {following}"
        self.display.event("beyond", line, Severity.WARNING, bounded=True, stream=stream, offset=offset, next=following)

    # Ending the run from outside.

    async def _watch_signals(self) -> None:
        await self.context.interrupt.requested.wait()
        self._stop(Ended(signal_name(self.context)))

    def _stop(self, ended: Ended) -> None:
        """Makes the run end at the next possible place. Only the first reason counts."""
        if self._ended is None:
            self._ended = ended
        self._stopping.set()
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # the wait has ended already
                self._scope.reschedule(asyncio.get_running_loop().time())

    def _interruptible(self, deadline: float | None) -> asyncio.Timeout:
        """Returns a timeout at ``deadline`` (loop time), which ``_stop`` brings forward."""
        now = asyncio.get_running_loop().time()
        self._scope = asyncio.timeout_at(now if self._ended is not None else deadline)
        return self._scope

    # Where to start and to stop.

    async def _open(self, client: Client) -> Subscriptions:
        plan = self.plan
        await self.context.connect(client)
        super_stream, streams = await self._find_streams(client)
        self._sources = {stream: _Source(stream) for stream in streams}
        if plan.count == 0:
            raise _Nothing
        for source in self._unfinished:
            await self._resolve_until(client, source)
            if source.done:
                await self._find_gap(client, source.stream)
        if not self._unfinished:
            raise _Nothing
        if plan.single_active:
            what = f"{plan.target!r}" if super_stream is None else f"{len(streams)} partitions of {plan.target!r}"
            self.display.event(
                "waiting", f"waiting for a turn as {plan.name!r}: {what}", stream=plan.target, name=plan.name or ""
            )
        for source in self._unfinished:
            await self._subscribe(client, source, super_stream)
        if not self._unfinished:
            raise _Nothing
        self._last_arrival = asyncio.get_running_loop().time()
        return Subscriptions(
            source.subscription for source in self._sources.values() if source.subscription is not None
        )

    async def _find_streams(self, client: Client) -> tuple[str | None, list[str]]:
        """Returns the super stream, if the target is one, and the streams. Raises if the target does not exist."""
        target, kind = self.plan.target, self.plan.kind
        if kind is not Kind.SUPER_STREAM:
            try:
                await client.metadata(target)
            except StreamDoesNotExist:
                if kind is Kind.STREAM:
                    raise
            else:
                return None, [target]
        try:
            partitions = await client.partitions(target)
        except StreamDoesNotExist:
            if kind is Kind.SUPER_STREAM:
                raise
            raise StreamDoesNotExist(f"there is no stream and no super stream {target!r}") from None
        if self.plan.start.kind is StartKind.ABSOLUTE:
            raise CommandError(
                f"--offset: {target!r} is a super stream, and a number is an offset of one partition",
                hint="give first, last, next, -N or a time",
            )
        return target, partitions

    async def _subscribe(self, client: Client, source: _Source, super_stream: str | None) -> None:
        """Subscribes to a stream, unless it has no wanted messages."""
        plan = self.plan
        spec = await self._resolve_start(client, source.stream)
        end = source.end
        if end is not None and spec.offset_type is OffsetType.OFFSET and (spec.offset or 0) > end + 1:
            await self._tell_if_beyond(client, source.stream, spec)
        single_active = None
        if plan.single_active:  # here the offset that the group has stored decides
            assert plan.name is not None
            if spec.offset_type is OffsetType.OFFSET:
                source.before_start = (spec.offset or 0) - 1
            listener = partial(self._turn, client, source)
            single_active = SingleActiveConsumer(plan.name, super_stream, listener)
        elif end is not None and (
            (spec.offset_type is OffsetType.NEXT and not source.is_to_come)
            or (spec.offset_type is OffsetType.OFFSET and (spec.offset or 0) > end)
        ):
            source.done = True
            return
        subscription = await client.subscribe(
            source.stream,
            spec,
            credit=plan.credit,
            filter_values=() if plan.filter is None else plan.filter.values,
            match_unfiltered=plan.filter is not None and plan.filter.match_unfiltered,
            single_active=single_active,
            at_leader=plan.filter is not None,  # a replica may not have the end yet
            fail_on_gap=plan.fail_on_gap,
        )
        source.stored_at = asyncio.get_running_loop().time()
        if self._ends_unseen(spec, source) and not await subscription.barrier():
            await subscription.close()
            source.done = True
            return
        if source.is_to_come or (self._until_time is not None and end is None):
            source.before_start = await self._find_before_start(client, subscription, spec)
        source.subscription = subscription

    def _ends_unseen(self, spec: ConsumerOffsetSpecification, source: _Source) -> bool:
        """Returns whether possibly no message comes up to the end, so that no chunk would show the end."""
        is_known = source.end is not None and not source.is_to_come
        return is_known and spec.offset_type is OffsetType.TIMESTAMP and not self.plan.single_active

    async def _find_before_start(
        self, client: Client, subscription: Subscription, spec: ConsumerOffsetSpecification
    ) -> int:
        """Returns an offset before the first message to come, for ``_settle_end`` if no message has come."""
        if spec.offset_type is OffsetType.OFFSET:
            return (spec.offset or 0) - 1
        if spec.offset_type not in (OffsetType.NEXT, OffsetType.TIMESTAMP) or await subscription.barrier():
            return -1
        last = await client.last_offset(subscription.stream)
        return -1 if last is None else last

    async def _resolve_until(self, client: Client, source: _Source) -> None:
        until = self.plan.until
        if until is None:
            return
        if until.kind is UntilKind.ABSOLUTE:
            source.end, source.is_to_come = until.value, True
            await self._look_for_end(client, source)
            source.done = source.end is None
            return
        if until.kind is UntilKind.TIMESTAMP:
            self._until_time = until.value
            if until.value > self._now_ms():
                return  # messages of that time may yet come
        source.end = await client.last_offset(source.stream)
        source.done = source.end is None

    async def _look_for_end(self, client: Client, source: _Source) -> None:
        """Checks whether the offset of ``--until`` is taken. Then the last message up to it is the end.

        A record of the broker's own, which is never delivered, may have taken it. A chunk of such records is one
        offset, so on brokers without ``committed_offset`` the last chunk's offset shows it.
        """
        assert source.end is not None
        taken = -1
        try:
            stats = await client.stats(source.stream)
        except UnsupportedByBroker:
            pass
        else:
            if stats.committed_offset is not None and stats.committed_offset < source.end:
                return
            taken = max(known for known in (stats.committed_offset, stats.committed_chunk_id, -1) if known is not None)
        last = await client.last_offset(source.stream)
        if max(taken, -1 if last is None else last) < source.end:
            return
        source.is_to_come = False
        source.end = None if last is None else min(source.end, last)

    def _now_ms(self) -> int:
        return int(self.context.env.now() * 1000)

    async def _resolve_start(self, client: Client, stream: str) -> ConsumerOffsetSpecification:
        plan, start = self.plan, self.plan.start
        if start.kind is StartKind.STORED and plan.single_active:
            return _BEGINNING  # if none is stored; the broker is asked at each turn
        spec = await resolve_start(client, stream, start, plan.name)
        if plan.single_active and spec.offset_type in (OffsetType.NEXT, OffsetType.LAST):
            # Resolved now: messages published before the turn begins must not be left out.
            return ConsumerOffsetSpecification(OffsetType.OFFSET, await client.resolve_offset(stream, spec))
        return spec

    # Reading.

    async def _read(self, client: Client, subscriptions: Subscriptions, output: Output) -> Ended:
        while self._ended is None:
            chunk = await self._next_chunk(client, subscriptions)
            if chunk is not None:
                self._last_arrival = asyncio.get_running_loop().time()
                if len(chunk.messages) <= _MOST_AT_ONCE:
                    await self._take(client, self._sources[chunk.stream], chunk, output)
                else:
                    await self._take_parts(client, subscriptions, chunk, output)
                del chunk  # frees the chunk: it and the next one may have 64 MiB each
        return self._ended

    async def _take_parts(self, client: Client, subscriptions: Subscriptions, chunk: Chunk, output: Output) -> None:
        """Takes a chunk of many messages in parts, since it may take long to filter and to render all of them."""
        source = self._sources[chunk.stream]
        for start in range(0, len(chunk.messages), _MOST_AT_ONCE):
            if start:
                await asyncio.sleep(0)  # --timeout, signals and heartbeats do not wait for all of it
                over = source.subscription is not None and not source.subscription.is_wanted(chunk)
                if over or self._ended is not None:
                    subscriptions.finish(chunk.offset + start - 1)
                    return
            part = chunk._replace(offset=chunk.offset + start, messages=chunk.messages[start : start + _MOST_AT_ONCE])
            await self._take(client, source, part, output)

    async def _next_chunk(self, client: Client, subscriptions: Subscriptions) -> Chunk | None:
        """Returns the next chunk; None after other work was due, or when the run has ended."""
        try:
            async with self._interruptible(self._deadline()):
                return await anext(subscriptions)
        except RstreamError:  # RequestTimeout too, which is a TimeoutError
            raise
        except TimeoutError:
            pass
        if self._ended is not None:
            return None
        await self._store_if_due(client)
        await self._look_around(client)
        if self._is_idle() and await self._nothing_has_come() and self._is_idle():
            self._stop(Ended(f"no message for {self.plan.idle_timeout:g} s"))
        return None

    async def _look_around(self, client: Client) -> None:
        """Checks for ends that no chunk shows. This may take as long as an outage, unless ``_stop`` is called."""
        try:
            async with self._interruptible(None):
                has_come = self._until_time is not None and self._now_ms() > self._until_time
                for source in self._unfinished:
                    if source.is_to_come or (source.end is None and has_come):
                        await self._settle_end(client, source)
                if plan_filters(self.plan):
                    await self._look_behind_filter(client)
                if self._waits_for_group:
                    await self._look_at_group(client)
        except RstreamError:  # RequestTimeout too, which is a TimeoutError
            raise
        except TimeoutError:
            if self._ended is None:
                raise

    def _is_idle(self) -> bool:
        """Returns whether ``--idle-timeout`` is over. An outage does not count: its messages are still to come."""
        idle = self.plan.idle_timeout
        return idle is not None and asyncio.get_running_loop().time() >= self._idle_since + idle

    async def _nothing_has_come(self) -> bool:
        """Returns whether the broker has no more messages. A stopped process (Ctrl-Z) has not read meanwhile."""
        try:
            async with self._interruptible(None):
                for source in self._unfinished:
                    subscription = source.subscription
                    if subscription is not None and subscription.active and not await subscription.nothing_to_come():
                        return False
        except TimeoutError:
            if self._ended is None:
                raise
            return False
        return True

    async def _settle_end(self, client: Client, source: _Source) -> None:
        """Finishes a stream if the place of ``--until`` has come and all messages up to it have been read."""
        if source.is_to_come:
            await self._look_for_end(client, source)
            if source.is_to_come:
                return
        else:
            source.end = await client.last_offset(source.stream)
        passed = -1 if source.passed is None else source.passed
        if source.end is None or max(source.before_start, passed) >= source.end:
            await self._finish(client, source)

    async def _look_behind_filter(self, client: Client) -> None:
        """With a filter, finishes streams of which no more chunks come: the broker leaves out the rest."""
        for source in self._unfinished:
            subscription = source.subscription
            if source.end is None or source.is_to_come or subscription is None:
                continue
            if not await subscription.nothing_to_come():
                continue
            if source.passed is None or source.passed < source.end:
                source.passed, source.unstored = source.end, source.unstored + 1
            await self._finish(client, source)

    @property
    def _waits_for_group(self) -> bool:
        return self.plan.single_active and self.plan.until is not None

    async def _look_at_group(self, client: Client) -> None:
        """Finishes streams that other members of the group have read to the end, by their stored offsets."""
        for source in self._unfinished:
            assert self.plan.name is not None
            try:
                stored = await client.query_offset(source.stream, self.plan.name)
            except OffsetNotFound:
                if not source.active:
                    continue
                stored = source.before_start  # its turn began where it was to start
            if source.end is not None and stored >= source.end:
                await self._finish(client, source)

    @property
    def _idle_since(self) -> float:
        """The loop time of the last chunk, or of the end of an outage."""
        return max(self._last_arrival, self._outages.until)

    def _deadline(self) -> float | None:
        """Returns the loop time for ``_look_around`` and the like, if no chunk comes first; None for never."""
        plan = self.plan
        loop = asyncio.get_running_loop()
        times: list[float] = []
        if plan.idle_timeout is not None:
            times.append(self._idle_since + plan.idle_timeout)
        if plan.store_every.seconds is not None:
            times += [s.stored_at + plan.store_every.seconds for s in self._sources.values() if s.unstored]
        if self._until_time is not None and any(source.end is None for source in self._unfinished):
            times.append(loop.time() + max(self._until_time - self._now_ms(), 0) / 1000 + 0.001)
        if any(source.is_to_come for source in self._unfinished):
            times.append(loop.time() + _END_INTERVAL)
        if plan_filters(plan) and any(source.end is not None and not source.is_to_come for source in self._unfinished):
            times.append(loop.time() + _FILTER_INTERVAL)
        if self._waits_for_group:
            times.append(loop.time() + _GROUP_INTERVAL)
        return min(times, default=None)

    async def _take(self, client: Client, source: _Source, chunk: Chunk, output: Output) -> None:
        """Writes the wanted messages of a chunk, and notes the offset reached."""
        plan, turn = self.plan, source.turn
        messages, is_end = self._cut(source, chunk)
        wanted = self._wanted(chunk, messages)
        number = len(wanted.messages)
        is_counted, at = False, 0
        while at < number and not is_counted:
            end = number if plan.count is None else at + plan.count - self._counts.consumed
            some = wanted
            if at or end < number:
                some = wanted._replace(offsets=wanted.offsets[at:end], messages=wanted.messages[at:end])
            if not await self._put_out(output, source, turn, some):
                return
            at += len(some.messages)
            is_counted = plan.count is not None and self._counts.consumed >= plan.count
            if at < number and not is_counted:  # skipped messages do not count
                await asyncio.sleep(0)  # there may be many of them
        if number:
            self._counts.chunks += 1
            self._last_arrival = asyncio.get_running_loop().time()
        if not is_counted and number < len(messages):
            self._pass(source, turn, chunk.offset + len(messages) - 1, len(messages) - number)
        await self._store_if_due(client)
        if self._ended is not None:
            return
        if is_counted:
            self._stop(Ended("--count is reached"))
        elif is_end:
            await self._finish(client, source)

    def _wanted(self, chunk: Chunk, messages: Sequence[bytes]) -> Batch:
        """Returns the messages that all selects want, and those that one could not read and none has left out."""
        offsets = range(chunk.offset, chunk.offset + len(messages))
        left: Block | None = Block(Acks(Account()), offsets, messages, chunk.stream, chunk.timestamp)
        for chooser in self.plan.selects:
            if left is not None:
                left = Select(chooser)(left).out
        if left is None:
            return Batch(chunk.stream, (), chunk.timestamp, ())
        return Batch(chunk.stream, left.positions, chunk.timestamp, left.messages, left.unreadable)

    def _cut(self, source: _Source, chunk: Chunk) -> tuple[Sequence[bytes], bool]:
        """Returns the messages up to the end, and whether the end is reached with them."""
        if source.done:
            return (), False
        if self._until_time is not None and chunk.timestamp > self._until_time:
            return (), True
        if not source.seen_first:
            source.seen_first = True
            self._expect(source, chunk.offset)
        if source.end is not None and chunk.last_offset >= source.end:
            return chunk.messages[: max(source.end - chunk.offset + 1, 0)], True
        return chunk.messages, False

    async def _finish(self, client: Client, source: _Source) -> None:
        """Ends the reading of one stream; of the run, if it was the last stream."""
        source.done = True
        if not self._unfinished:
            self._stop(Ended("--until is reached"))
        elif source.subscription is not None:
            await self._store(client, source, verify=True)
            source.passed = None
            await source.subscription.close()

    def _expect(self, source: _Source, first: int) -> None:
        """Adds the number of expected messages to the total of the progress bar."""
        if source.end is not None:
            self.stats.total = (self.stats.total or 0) + max(source.end - first + 1, 0)
        if self.plan.count is not None:
            self.stats.total = self.plan.count if self.stats.total is None else min(self.stats.total, self.plan.count)

    def _pass(self, source: _Source, turn: int, offset: int, messages: int) -> None:
        """Notes that ``messages`` messages, up to an offset, were written or not wanted."""
        if turn != source.turn:
            return  # their turn has ended meanwhile: they must not count for the next one
        source.passed = offset
        source.unstored += messages
        if len(self._sources) == 1:
            self._counts.last_offset = offset
        if self.plan.count is None:
            self.stats.done += messages

    async def _turn(
        self, client: Client, source: _Source, subscription: Subscription, active: bool
    ) -> ConsumerOffsetSpecification | None:
        """Called when a turn as single active consumer begins or ends. Stores the offset at the end of a turn."""
        stream = subscription.stream
        if not active:
            try:
                async with asyncio.timeout(_STORE_TIMEOUT):  # other consumers wait for their turn
                    await self._store(client, source, verify=True)
            except (RstreamError, TimeoutError) as error:
                why = str(error) or f"no answer within {_STORE_TIMEOUT:g} s"
                self.display.note(f"storing failed: {why}", Severity.WARNING)
        source.turn += 1
        source.passed, source.unstored = None, 0
        if active is not source.active:  # after a lost connection, a turn's end may be told twice
            source.active = active
            state = "active" if active else "idle"
            self.display.event(state, f"{state} on {stream!r}", stream=stream)
        return None

    # Writing.

    async def _put_out(self, output: Output, source: _Source, turn: int, batch: Batch) -> bool:
        """Renders and writes messages. Returns False if not all were written; those before a bad one are."""
        parts: list[Batch] = [batch]
        if self.plan.unbuffered:
            parts = [
                batch._replace(offsets=(offset,), messages=(message,))
                for offset, message in zip(batch.offsets, batch.messages, strict=True)
            ]
        for part in parts:
            skipped: list[int] = []
            on_bad = self._skipping(part, skipped) if self.plan.skip_bad else _refuse
            try:
                data = self.plan.render(part, on_bad)
            except _BadMessage as error:
                if error.index:
                    good = part._replace(offsets=part.offsets[: error.index], messages=part.messages[: error.index])
                    await self._write(output, source, turn, self.plan.render(good, _refuse), good)
                problem = CommandError(
                    f"the message at offset {part.offsets[error.index]} of stream {part.stream!r} {error}",
                    hint="--codec raw takes messages as they are; --on-error skip leaves this one out",
                    status=ExitStatus.BAD_RECORD,
                )
                self._stop(Ended(str(problem), ExitStatus.BAD_RECORD, problem))
                return False
            if not await self._write(output, source, turn, data, part, len(skipped)) or self._stopping.is_set():
                return False
        return True

    def _skipping(self, batch: Batch, skipped: list[int]) -> OnBad:
        """Returns a function that reports a skipped message, and appends its position to ``skipped``."""

        def on_bad(index: int, why: str) -> None:
            skipped.append(index)
            offset = batch.offsets[index]
            line = f"the message at offset {offset} of stream {batch.stream!r} is skipped: it {why}"
            self.display.event(
                "skipped", line, Severity.WARNING, bounded=True, stream=batch.stream, offset=offset, reason=why
            )

        return on_bad

    async def _write(
        self, output: Output, source: _Source, turn: int, data: Rendered, batch: Batch, bad: int = 0
    ) -> bool:
        """Writes rendered messages and counts them; ``bad`` is the number of skipped ones in the batch.

        Returns False if the reader did not take all of the data before the run ended.
        """
        size, until = 0, math.inf  # by a clock that goes on within a turn of the loop, as uvloop's does not
        try:
            for block in (data,) if isinstance(data, bytes) else data:
                written = output.write(block) if bad < len(batch.messages) else None
                if written is not None and not await self._finished(written):
                    return False
                size += len(block)
                if self._stopping.is_set():  # the rest of a large message has a moment, too
                    until = min(until, time.monotonic() + _GRACE)
                    if time.monotonic() >= until:
                        return False
        except OSError as error:
            self._fail(error)
            return False
        self._counts.consumed += len(batch.messages) - bad
        self._counts.bad += bad
        self._counts.ambiguous += self.plan.render.ambiguous
        self.stats.bytes += size
        if self.plan.count is not None:
            self.stats.done = self._counts.consumed
        self._pass(source, turn, batch.offsets[-1], len(batch.messages))
        return True

    async def _begin(self, output: Output) -> None:
        """Writes what comes before the first message."""
        head = self.plan.render.head
        if not head:
            return
        try:
            written = output.write(head)
            if written is None or await self._finished(written):
                self.stats.bytes += len(head)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Ends the run after stdout took no more."""
        if isinstance(error, BrokenPipeError):
            self._stop(Ended("stdout was closed", ExitStatus.STDOUT_CLOSED, error))
        else:
            problem = StdoutError(error.errno, error.strerror)
            self._stop(Ended(str(problem), ExitStatus.INTERNAL, problem))

    async def _finished(self, written: asyncio.Future[None]) -> bool:
        """Waits for a write. If the run must end, the reader of stdout has ``_GRACE`` seconds left."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            if not self._stopping.is_set():
                await asyncio.wait((written, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not written.done():
                await asyncio.wait((written,), timeout=_GRACE)
        finally:
            stopping.cancel()
        if not written.done():
            return False
        written.result()
        return True

    # Storing offsets.

    async def _store_if_due(self, client: Client) -> None:
        every = self.plan.store_every
        now = asyncio.get_running_loop().time()
        for source in self._sources.values():
            due = every.messages is not None and source.unstored >= every.messages
            if due or (every.seconds is not None and now >= source.stored_at + every.seconds):
                await self._store(client, source)

    async def _store(self, client: Client, source: _Source, *, verify: bool = False) -> None:
        """Stores the offset of a stream, if it has changed. With ``verify``, also asks the broker until it has it.

        With ``verify``, waits for the end of an outage, as long as ``--recover-for`` allows. Otherwise an outage
        postpones the store.
        """
        name, offset = self.plan.name, source.passed
        if name is None or offset is None or not (source.unstored or verify):
            return
        unstored, source.unstored = source.unstored, 0
        try:
            if verify:
                await client.store_offset(source.stream, name, offset, verify_timeout=_STORE_TIMEOUT)
            else:
                async with asyncio.timeout(_STORE_TIMEOUT):
                    await client.store_offset(source.stream, name, offset)
        except (RstreamError, TimeoutError) as error:
            if self._counts.stored_offset == offset:
                self._counts.stored_offset = None  # the broker's offset is unknown now
            if verify or not isinstance(error, (ConnectionClosed, ConnectionFailed, TimeoutError)):
                raise
            # An outage. The subscription finds out whether it can be recovered from.
            source.unstored, source.stored_at = unstored, asyncio.get_running_loop().time()
            return
        if len(self._sources) == 1:
            self._counts.stored_offset = offset
        source.stored_at = asyncio.get_running_loop().time()

    async def _store_the_last(self, client: Client, *, quietly: bool) -> None:
        """Stores the last offsets at the end. ``quietly``: ignores errors, since the run has failed anyway."""
        stores = [self._store(client, source, verify=True) for source in self._sources.values()]
        try:
            async with asyncio.timeout(_STORE_TIMEOUT if quietly else None):
                results = await asyncio.gather(*stores, return_exceptions=True)
        except TimeoutError:
            return
        for result in results:
            if isinstance(result, BaseException) and not (quietly and isinstance(result, RstreamError)):
                raise result


async def resolve_start(client: Client, stream: str, start: Start, name: str | None) -> ConsumerOffsetSpecification:
    """Returns the core's specification of a start. ``stored`` means after the offset stored under ``name``.

    If none is stored, it means offset 0, and not the first message that is left, so that a gap is reported.
    """
    if start.kind is StartKind.ABSOLUTE:
        return ConsumerOffsetSpecification(OffsetType.OFFSET, start.value)
    if start.kind is StartKind.TIMESTAMP:
        # The core takes small numbers for seconds. Here they are times, and older than any stream.
        milliseconds = start.value if start.value >= EARLIEST_TIMESTAMP else 0
        return ConsumerOffsetSpecification(OffsetType.TIMESTAMP, milliseconds)
    if start.kind is StartKind.STORED:
        assert name is not None
        try:
            stored = await client.query_offset(stream, name)
        except OffsetNotFound:
            return _BEGINNING
        return ConsumerOffsetSpecification(OffsetType.OFFSET, min(stored + 1, MAX_OFFSET))
    if start.kind is StartKind.LAST_N:
        offset = await client.tail_offset(stream, start.value)
        if offset is None:
            return ConsumerOffsetSpecification(OffsetType.FIRST)
        return ConsumerOffsetSpecification(OffsetType.OFFSET, offset)
    return ConsumerOffsetSpecification(_WORDS[start.kind])


_BEGINNING = ConsumerOffsetSpecification(OffsetType.OFFSET, 0)
_NEXT = ConsumerOffsetSpecification(OffsetType.NEXT)
_WORDS = {
    StartKind.FIRST: OffsetType.FIRST,
    StartKind.LAST: OffsetType.LAST,
    StartKind.NEXT: OffsetType.NEXT,
}
