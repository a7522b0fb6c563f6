"""The engine of ``publish``: blocks of input in, batches of encoded messages out, and an account of each record.

The unit is the block of one read: it is framed, encoded and passed to the core as lists, so that no Python code runs
for each line. Each record that was read is in exactly one place at any time - pending here, in flight at the publisher,
confirmed or failed - and the numbers of the summary add up, however a run ends::

    read == published + not published          published == confirmed + failed

The input is read only as fast as the publisher takes it, which waits for the broker's confirms.

A super stream has a publisher for each partition, and each publisher has a lane: the messages that were read and wait
for it. The routing key determines a record's lane. A plain stream has one lane.

With ids of the user's own (``--id-from``), records up to the last id that the broker has are not sent again. The broker
would drop and confirm them, and the summary would say that they were published just now. For the same reason a run with
such ids stops where a message is rejected: if later ids were stored, the next run would take the rejected one for
published. Messages in flight then get their answers, and the run reports which records are not stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Protocol, Self

from rstream_cli.ending import signal_name, take_leave
from rstream_cli.exit_status import CommandError, ExitStatus, status_of
from rstream_cli.input import BLOCK_SIZE, Block, Input, name_of
from rstream_cli.outages import OutageReports, report_unconfirmed
from rstream_cli.outcome import Ended
from rstream_cli.parsing import Rate
from rstream_cli.records.framing_in import RecordError, RecordReader
from rstream_cli.render import words
from rstream_cli.render.display import Display, Severity
from rstream_cli.render.stats import PublishCounts, Stats
from rstream_cli.runner import CommandContext, describe
from rstream_core import (
    Client,
    CompressionType,
    ConfigurationError,
    FailedMessage,
    MessageTooLarge,
    NotConfirmed,
    Outcome,
    Publisher,
    RequestTimeout,
    RouteNotFound,
    Router,
    RouteType,
    RstreamError,
)
from rstream_core.checks import check_text
from rstream_core.client import MAX_IN_FLIGHT_BYTES
from rstream_core.protocol.amqp import AMQPMessage, bodies_of
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import MAX_UNCOMPRESSED, compress
from rstream_core.protocol.routing import partition_index, python_partition_index

_PACED_SLICES = 50
"""Batches a second with ``--rate``."""
_CATCH_UP = 0.1
"""Seconds that pacing may make up for after a late timer."""
_SHORT_MESSAGE = 20
"""Bytes: how much input ``--rate`` takes for a number of messages."""
_LEAST_BLOCK_SIZE = 512
_SLOW_BLOCK_SIZES = {"send": 16 * 1024, "wait": 4 * 1024}
"""The block sizes in bytes of the methods that publish message by message."""
_BREATH = 0.02
"""Seconds after which the event loop gets a turn: publishing does not await as long as there is room in flight."""
_SUB_ENTRY_TARGET = 1024 * 1024
"""Bytes of a sub-entry before it is compressed, where it holds more than one message."""
_SUB_ENTRY_HEAD = 7
"""Bytes that the head of a sub-entry takes more than that of a message."""
_SIZE_IN_SUB_ENTRY = 4
"""Bytes that stand before each message in it."""
_LEAST_IN_FLIGHT_BYTES = 256 * 1024
"""The least ``max_in_flight_bytes`` of a partition, however many partitions there are."""
_ASK_TIMEOUT = 5.0
"""Seconds to ask the broker for its last publishing ids, at the end of a run in which it rejected messages."""
_FILTER_HEAD = 2
"""Bytes of a filter value's length."""


class Encoded(NamedTuple):
    """Encoded records: columns of the same length, and the bad records with their errors."""

    messages: list[bytes]
    numbers: Sequence[int] | None = None
    """The numbers of the records; None: consecutive ones."""
    bad: Sequence[tuple[int, str]] = ()
    ids: Sequence[int] | None = None
    filters: Sequence[str | None] | None = None
    keys: Sequence[bytes] | None = None
    """Routing keys."""

    def number(self, place: int, first: int) -> int:
        """The number of the record at a place; ``first`` is that of the first record."""
        return first + place if self.numbers is None else self.numbers[place]

    def only(self, places: Sequence[int], first: int, bad: Sequence[tuple[int, str]] = ()) -> Self:
        """The messages at these places, and more bad records."""
        ids, filters, keys = self.ids, self.filters, self.keys
        return self._replace(
            messages=[self.messages[place] for place in places],
            numbers=[self.number(place, first) for place in places],
            bad=[*self.bad, *bad],
            ids=None if ids is None else [ids[place] for place in places],
            filters=None if filters is None else [filters[place] for place in places],
            keys=None if keys is None else [keys[place] for place in places],
        )


class Encoder(Protocol):
    """Makes encoded messages of input records. ``number`` is the number of the first record.

    Stops at ``room`` messages, and with ``stop_at_bad`` behind the first bad record.
    """

    def __call__(self, records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded: ...


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The checked options of a run."""

    stream: str
    """The stream; with ``routing`` the super stream."""
    encoder: Encoder
    reader: RecordReader | None
    """The framing of the sources; None: the records are ``inline``."""
    sources: Sequence[str] = ()
    inline: Sequence[bytes] = ()
    method: str = "batch"
    compression: CompressionType = CompressionType.No
    batch_size: int = 1000
    linger: float = 0.02
    name: str | None = None
    has_ids: bool = False
    """Whether the user chose the publishing ids (``--id-from``)."""
    ids_are_numbers: bool = False
    """Whether the publishing ids are the numbers of the records."""
    has_filters: bool = False
    """Whether the options set filter values, which older brokers do not support."""
    routing: RouteType | None = None
    create: bool = False
    rate: Rate | None = None
    count: int | None = None
    max_in_flight: int = 50_000
    confirm_timeout: float = 30.0
    drain_timeout: float = 10.0
    skip_bad: bool = False
    failed_to: BinaryIO | None = None
    raw: bool = False
    input_size: int | None = None


class _BadRecord(Exception):
    """A record of the input is bad, and the run must stop there."""


@dataclass(slots=True)
class Pacer:
    """Limits the rate. ``rate`` and ``cost`` are in messages or bytes. Makes up for late timers by ``_CATCH_UP``."""

    rate: float
    due: float = 0.0

    async def wait(self, cost: float, stop: asyncio.Event) -> None:
        """Waits until the rate allows ``cost``, or until ``stop`` is set."""
        now = asyncio.get_running_loop().time()
        start = max(self.due, now - _CATCH_UP)
        if start > now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(start - now):
                    await stop.wait()
        self.due = start + cost / self.rate


class FailedFile:
    """``--failed-to``: the messages that may not be stored, as lines for ``publish --json``."""

    def __init__(self, file: BinaryIO, *, raw: bool) -> None:
        self._file = file
        self._raw = raw
        self.name = str(file.name)

    def add(self, stream: str, messages: Sequence[bytes], filters: Sequence[str | None], reason: str) -> None:
        """Writes encoded messages with the reason of their failure."""
        from rstream_cli.records.envelope import to_json

        lines = []
        for data, value in zip(messages, filters, strict=True):
            message = AMQPMessage(data) if self._raw else AMQPMessage.from_bytes(data)
            lines.append(to_json(message, stream=stream, filter_value=value, failed=reason))
        rest = memoryview(b"\n".join([*lines, b""]))
        while rest:  # unbuffered: after an error on a full disk, a buffer would fail again at the end
            rest = rest[self._file.write(rest) :]


@dataclass(slots=True)
class _Lane:
    """Encoded messages that were not passed to their publisher yet: columns of the same length."""

    stream: str
    publisher: Publisher
    known: int
    """The last publishing id that the broker had at the start; 0 for none."""
    messages: list[bytes] = field(default_factory=list)
    ids: list[int] | None = None
    filters: list[str | None] | None = None
    published: int = 0
    """The publisher's ``published`` as it is counted in the statistics; likewise the next two."""
    in_flight: int = 0
    sent_again: int = 0
    failed_ids: list[int] = field(default_factory=list)
    """Ids of the user's own that failed."""
    rejected_ids: list[int] = field(default_factory=list)
    """The failed ids that the broker rejected, so that they are not stored."""
    last_known: int | None = None
    """After a rejection, the last id that the broker had at the end; None if it is unknown."""

    @property
    def passed_ids(self) -> list[int]:
        """Rejected ids that cannot be stored any more under this name, since the broker has a later one."""
        last = self.last_known
        return [] if last is None else sorted(number for number in self.rejected_ids if number <= last)

    @property
    def doubtful_ids(self) -> list[int]:
        """Rejected ids that may not be storable any more: the broker's last id is unknown."""
        return sorted(self.rejected_ids) if self.last_known is None else []

    def add(self, encoded: Encoded, start: int) -> None:
        """Adds the messages from position ``start`` on."""
        if encoded.ids is not None:
            if self.ids is None:
                self.ids = []
            self.ids += encoded.ids[start:]
        if encoded.filters is not None or self.filters is not None:
            if self.filters is None:
                self.filters = [None] * len(self.messages)
            self.filters += encoded.filters[start:] if encoded.filters else [None] * (len(encoded.messages) - start)
        self.messages += encoded.messages[start:] if start else encoded.messages

    def drop(self, count: int) -> None:
        """Removes the first ``count`` messages, which were passed to the publisher."""
        self.messages = self.messages[count:]
        self.ids = self.ids and self.ids[count:]
        self.filters = self.filters[count:] if self.filters and self.messages else None


@dataclass
class PublishRun:
    """One run. ``work`` is called once."""

    plan: PublishPlan
    context: CommandContext
    stats: Stats
    display: Display
    _lanes: list[_Lane] = field(default_factory=list)
    _rest: list[Encoded] = field(default_factory=list)
    """Messages that were read but are in no lane, because the run ended before they were routed."""
    _pending_bytes: int = 0
    """Bytes in all lanes."""
    _reason: str = ""
    """The first reason for which messages failed."""
    _router: Router | None = None
    _input: Input | None = None
    _failed_file: FailedFile | None = None
    _file_error: OSError | None = None
    _pacer: Pacer | None = None
    _unresponsive: bool = False
    _source: int = 0
    """The index of the source that is being read."""
    _records_before: int = 0
    """The number of records in earlier sources."""
    _since: float | None = None
    """The loop time at which the oldest pending message was read."""

    @property
    def _counts(self) -> PublishCounts:
        assert isinstance(self.stats.counts, PublishCounts)
        return self.stats.counts

    async def work(self) -> Ended:
        """Publishes the whole input, and returns how the run ended."""
        plan, context = self.plan, self.context
        if plan.failed_to is not None:
            self._failed_file = FailedFile(plan.failed_to, raw=plan.raw)
        rate = plan.rate
        if rate is not None:
            self._pacer = Pacer(rate.messages_per_second or rate.bytes_per_second or 1.0)
        outages = OutageReports(self.display, self.stats, context.connection.recovery)
        client = context.client(outages)
        scope = asyncio.timeout(None)
        stopper = asyncio.create_task(self._stop_on_signal(scope))
        watcher = asyncio.create_task(report_unconfirmed(self.display, self._account, outages))
        try:
            try:
                async with scope:
                    await self._open(client)
            except TimeoutError:
                if not context.interrupt.requested.is_set():
                    raise
                return Ended(signal_name(context))
            scope = asyncio.timeout(None)
            stopper.cancel()
            stopper = asyncio.create_task(self._stop_on_signal(scope, drain=plan.drain_timeout))
            self.display.start()
            return await self._publish_all(client, scope)
        finally:
            stopper.cancel()
            watcher.cancel()
            if self._input is not None:
                self._input.close()
            await take_leave(client, client.close(), hurry=self._unresponsive or context.interrupt.forced)

    async def _open(self, client: Client) -> None:
        plan = self.plan
        await self.context.connect(client)
        streams: Sequence[str] = [plan.stream]
        if plan.routing is not None:
            self._router = await Router.open(client, plan.stream)
            streams = self._router.partitions
        elif plan.create and not await client.stream_exists(plan.stream):
            await client.create_stream(plan.stream, exists_ok=True)
        for number, stream in enumerate(streams):
            publisher = await client.publisher(
                stream,
                plan.name,
                listener=functools.partial(self._told, number),
                on_end=self._publisher_ended,
                max_in_flight=max(plan.max_in_flight // len(streams), 1),
                max_in_flight_bytes=max(MAX_IN_FLIGHT_BYTES // len(streams), _LEAST_IN_FLIGHT_BYTES),
                confirm_timeout=plan.confirm_timeout,
            )
            if plan.has_filters:
                publisher.require_filters()
            self._lanes.append(_Lane(stream, publisher, publisher.known_publishing_id))

    def _publisher_ended(self, error: RstreamError) -> None:
        if self._input is not None:
            self._input.fail(error)

    async def _stop_on_signal(self, scope: asyncio.Timeout, drain: float = 0.0) -> None:
        """Waits for the first signal, stops reading, and limits the rest of the run to ``drain`` seconds."""
        await self.context.interrupt.requested.wait()
        if self._input is not None:
            self._input.stop()
        with contextlib.suppress(RuntimeError):  # the scope has ended
            scope.reschedule(asyncio.get_running_loop().time() + drain)

    async def _publish_all(self, client: Client, scope: asyncio.Timeout) -> Ended:
        """Publishes the whole input, waits for its confirms, and settles the statistics."""
        ended: Ended | None = None
        problem: Exception | None = None
        try:
            async with scope:
                try:
                    ended = await self._feed()
                except (_BadRecord, CommandError) as error:
                    # The records before the bad one are published, and the run ends as usual.
                    status = error.status if isinstance(error, CommandError) else ExitStatus.BAD_RECORD
                    stated = CommandError(str(error), status=status, hint=getattr(error, "hint", None))
                    ended = Ended(str(error), status, stated)
                    await self._send_pending()
                for lane in self._lanes:
                    await lane.publisher.flush()
        except RstreamError as error:  # RequestTimeout too, which is a TimeoutError
            problem = error
        except TimeoutError:
            problem = RequestTimeout(f"not all messages were confirmed within {self.plan.drain_timeout:g} s")
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise
            problem = RequestTimeout("stopped at once")
        problem = problem or next(filter(None, (lane.publisher.error for lane in self._lanes)), None)
        if problem is not None:
            await self._let_the_others_finish()
        await self._ask_what_is_known()
        # A broker that does not confirm will hardly answer a request to close.
        self._unresponsive = problem is not None and not self._is_rejected
        await take_leave(client, self._close_publishers(), hurry=self._unresponsive)
        if problem is not None:
            await self._take_the_rest()
        self._settle()
        self._tell_of_repetitions()
        self._tell_of_holes()
        return self._judge(ended, problem)

    @property
    def _is_rejected(self) -> bool:
        """Whether a rejected id of the user's own has stopped the run."""
        return any(lane.rejected_ids for lane in self._lanes)

    async def _ask_what_is_known(self) -> None:
        """After a rejection, asks the broker for the last publishing id of the name."""
        if self.context.interrupt.forced:
            return
        try:
            async with asyncio.timeout(_ASK_TIMEOUT):
                for lane in self._lanes:
                    if lane.rejected_ids:
                        lane.last_known = await lane.publisher.last_publishing_id()
        except (RstreamError, TimeoutError):
            pass  # the last id stays unknown
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise

    async def _let_the_others_finish(self) -> None:
        """After a rejection, or the failure of one partition, waits for the other messages in flight."""
        if self.context.interrupt.requested.is_set():  # their time is over
            return
        waiting = [lane.publisher for lane in self._lanes if lane.publisher.in_flight]
        try:
            await asyncio.gather(
                *(publisher.flush(self.plan.drain_timeout) for publisher in waiting), return_exceptions=True
            )
        except asyncio.CancelledError:
            if not self.context.interrupt.forced:
                raise

    async def _close_publishers(self) -> None:
        await asyncio.gather(*(lane.publisher.close(timeout=0) for lane in self._lanes))

    async def _take_the_rest(self) -> None:
        """Counts blocks that the thread has read already: they are consumed, so the statistics must include them."""
        if self._input is None or self.plan.reader is None:
            return
        self._input.stop()
        for block in self._input.take_rest():
            if self._full():
                return
            self._enter(block.source)
            try:
                await self._take(block.data, may_ask=False)
            except _BadRecord:
                return

    def _settle(self) -> None:
        counts = self._counts
        for lane in self._lanes:
            self._show(lane)
        counts.confirmed = sum(lane.publisher.confirmed for lane in self._lanes)
        counts.failed = sum(lane.publisher.failed for lane in self._lanes)
        counts.not_published = counts.bad + counts.already_published + self._unsent
        left = [(lane.stream, lane.messages, lane.filters) for lane in self._lanes if lane.messages]
        left += [
            (self.plan.stream, rest.messages, None if rest.filters is None else list(rest.filters))
            for rest in self._rest
        ]
        for stream, messages, filters in left:
            self.stats.bytes -= self._size(messages)
            self._write_failed(stream, messages, filters, "not published")

    def _tell_of_repetitions(self) -> None:
        """Warns of messages that may be stored twice. They do not change the exit code."""
        again = self._counts.sent_again
        if not again:
            return
        sub_entries = self.plan.method == "sub-entry"
        why = "the broker does not deduplicate sub-entries reliably" if sub_entries else "--name prevents that"
        line = f"sent again after lost connections, up to {words.copies(again)} may be stored beside the first"
        self.display.event("sent_again", f"{line}; {why}", Severity.WARNING, messages=again)

    def _tell_of_holes(self) -> None:
        """Warns of rejected records that another run under this name skips, or may skip."""
        for lane in self._lanes:
            name, last = self.plan.name, lane.last_known
            if passed := lane.passed_ids:
                self._tell_of_hole(
                    lane, passed, "skips", f"the broker's last publishing id of {name!r} is {last}", last
                )
            if doubtful := lane.doubtful_ids:
                why = f"the broker did not say its last publishing id of {name!r}"
                self._tell_of_hole(lane, doubtful, "may skip", why, None)

    def _tell_of_hole(self, lane: _Lane, numbers: list[int], skips: str, why: str, last: int | None) -> None:
        which = self._named(numbers)
        were, them = ("was", "it") if len(numbers) == 1 else ("were", "them")
        line = f"stream {lane.stream!r}: {which} {were} rejected; another run under this name {skips} {them}"
        line += f", because {why}"
        if self._failed_file is not None and self._file_error is None:
            line += f"; only {self._failed_file.name} still holds {them}"
        self.display.event(
            "passed", line, Severity.WARNING, stream=lane.stream, which=which, messages=len(numbers), last=last
        )

    def _named(self, numbers: Sequence[int]) -> str:
        """Returns a text that names records by their publishing ids."""
        what = "record" if self.plan.ids_are_numbers else "publishing id"
        return f"{what}{'' if len(numbers) == 1 else 's'} {words.ranges(numbers)}"

    @property
    def _not_confirmed_ids(self) -> list[int]:
        """With ids of the user's own: the ids of messages that failed or were not passed to a publisher."""
        ids = [number for lane in self._lanes for number in (*lane.failed_ids, *(lane.ids or ()))]
        return sorted(ids + [number for rest in self._rest for number in rest.ids or ()])

    @property
    def _unsent(self) -> int:
        """The number of messages that were read and not passed to a publisher."""
        return sum(len(lane.messages) for lane in self._lanes) + sum(len(rest.messages) for rest in self._rest)

    def _size(self, messages: list[bytes]) -> int:
        if self.plan.raw:
            return sum(map(len, messages))
        return sum(len(body) for body in bodies_of(messages) if body is not None)

    def _judge(self, ended: Ended | None, problem: Exception | None) -> Ended:
        """Returns how the run ended, with the exit code, according to the statistics."""
        counts = self._counts
        lost = counts.failed + (self._unsent if problem is not None else 0)
        wanted = counts.read - counts.bad - counts.already_published
        reason = ended.reason if ended is not None else "the input was not finished"
        if self.context.interrupt.signal is not None:
            reason = signal_name(self.context)
        if lost:
            why = describe(problem) if problem is not None and not self._is_rejected else self._reason
            which = f", {self._named(self._not_confirmed_ids)}" if self.plan.has_ids else ""
            message = f"{lost:,} of {wanted:,} messages are not confirmed{which}: {why}"
            if self._file_error is not None:
                message += f"; --failed-to does not hold all of them: {describe(self._file_error)}"
            hint = None if self.plan.failed_to else "--failed-to FILE keeps such messages, for publish --json"
            if self._is_rejected and not any(lane.passed_ids or lane.doubtful_ids for lane in self._lanes):
                hint = "publish the same input again, under this name: what is stored already is left out"
            error = CommandError(message, status=ExitStatus.NOT_CONFIRMED, hint=hint)
            return Ended(f"{reason}; {why}", ExitStatus.NOT_CONFIRMED, error)
        if ended is None:
            if self.context.interrupt.forced or problem is None:
                return Ended(reason)
            return Ended(describe(problem), status_of(problem), problem)
        if self._file_error is not None:
            return Ended(describe(self._file_error), ExitStatus.INTERNAL, self._file_error)
        if ended.error is not None:
            return ended
        if counts.bad:
            return Ended(reason, ExitStatus.PARTLY_DONE)
        return Ended(reason, ended.status)

    # From the input to the publisher.

    async def _feed(self) -> Ended:
        plan = self.plan
        if plan.reader is None:
            await self._take_records(list(plan.inline), 1)
            await self._send_pending()
            return Ended(self._stopped() or "all messages are published")
        source = self._input = Input(plan.sources, self.context.env.stdin.fileno(), **self._input_settings())
        source.start()
        await self._check()  # a publisher that ended earlier could not stop the input
        if self.context.interrupt.requested.is_set():
            source.stop()
        while not self._full():
            block = await self._next_block(source)
            if block is None:
                break
            self._enter(block.source)
            try:
                await self._take(block.data)
            finally:
                self.stats.done += len(block.data)
            if self._due() or self._full():
                await self._send_pending()
        await self._send_pending()
        self._tell_of_a_cut()
        return Ended(self._stopped() or ("--count is reached" if self._full() else "end of input"))

    def _enter(self, source: int) -> None:
        """Notes where the records of a file begin: numbers go on over files, but messages count within one file."""
        if source != self._source:
            assert self.plan.reader is not None
            self._source, self._records_before = source, self.plan.reader.count

    def _place(self, number: int) -> str:
        """Returns the name of a record for messages: the file, and its number in the file."""
        if len(self.plan.sources) < 2:
            return f"record {number}"
        return f"{name_of(self.plan.sources[self._source])}: record {number - self._records_before}"

    async def _check(self) -> None:
        for lane in self._lanes:
            await lane.publisher.check()

    def _tell_of_a_cut(self) -> None:
        """Notes if a signal has cut off the last record, which is then not published."""
        reader = self.plan.reader
        if reader is None or self._input is None or not self._input.stopped_early:
            return
        try:
            cut = any(reader.finish())
        except RecordError:
            cut = True
        if cut:
            self.display.note("note: the last record was not read to its end, and is not published")

    def _input_settings(self) -> dict[str, int]:
        """Returns settings for reading ahead: little for slow methods, so that little is left after a signal."""
        block_size = _SLOW_BLOCK_SIZES.get(self.plan.method, BLOCK_SIZE)
        rate = self.plan.rate
        if rate is not None:
            per_second = rate.bytes_per_second or (rate.messages_per_second or 1.0) * _SHORT_MESSAGE
            block_size = min(block_size, max(int(per_second / 10), _LEAST_BLOCK_SIZE))
        return {} if block_size == BLOCK_SIZE else {"block_size": block_size, "ahead": 1}

    async def _next_block(self, source: Input) -> Block | None:
        """Returns the next block. Sends pending messages when they are due, also while the input is silent."""
        loop = asyncio.get_running_loop()
        while True:
            wait = None
            if self._since is not None:
                wait = max(self._since + self.plan.linger - loop.time(), 0.0)
            try:
                return await source.next(wait)
            except RstreamError:  # a publisher has ended (RequestTimeout is a TimeoutError too)
                await self._check()
                raise
            except TimeoutError:
                if self._due():
                    await self._send_pending()

    async def _take(self, data: bytes, *, may_ask: bool = True) -> None:
        """Frames and encodes a block; b"" is the end of a file. Raises _BadRecord after taking the good records."""
        reader = self.plan.reader
        assert reader is not None
        for records, error in _framed(reader, data):
            number = (reader.count if error is None else error.number - 1) - len(records) + 1
            await self._take_records(records, number, may_ask=may_ask)
            if self._full():
                return
            if error is not None:
                self._bad(error.number, error.message)

    async def _take_records(self, records: list[bytes], number: int, *, may_ask: bool = True) -> None:
        plan, counts = self.plan, self._counts
        room = len(records) if plan.count is None else plan.count - (counts.read - counts.bad)
        encoded = self._fitting(plan.encoder(records, number, room, not plan.skip_bad), number)
        lanes: Sequence[int] | None = None
        if plan.routing in (RouteType.Hash, RouteType.PythonHash):
            assert encoded.keys is not None
            count = len(self._lanes)
            index = partition_index if plan.routing is RouteType.Hash else python_partition_index
            lanes = [index(key, count) for key in encoded.keys]
        elif plan.routing is RouteType.Key and may_ask:
            try:
                encoded, lanes = await self._bound(encoded, number)
            except BaseException:  # cancelled, or no answer: the records must still be counted
                self._leave_over(encoded, number)
                raise
        messages = encoded.messages
        if plan.ids_are_numbers:
            encoded = encoded._replace(ids=encoded.numbers or range(number, number + len(messages)))
        counts.read += len(messages)
        whole = encoded.numbers is None and encoded.keys is None and len(messages) == len(records)
        self.stats.bytes += sum(map(len, records)) if whole else self._size(messages)
        if lanes is not None:
            self._spread(encoded, lanes, number)
        elif plan.routing is None:
            self._add(self._lanes[0], encoded)
        elif messages:
            self._rest.append(encoded)
        for at, message in sorted(encoded.bad):
            self._bad(at, message)

    def _leave_over(self, encoded: Encoded, number: int) -> None:
        """Counts records that were read but will not be published."""
        if self.plan.ids_are_numbers:
            encoded = encoded._replace(ids=encoded.numbers or range(number, number + len(encoded.messages)))
        self._counts.read += len(encoded.messages)
        self.stats.bytes += self._size(encoded.messages)
        if encoded.messages:
            self._rest.append(encoded)

    def _spread(self, encoded: Encoded, lanes: Sequence[int], first: int) -> None:
        """Adds each message to its lane."""
        places: dict[int, list[int]] = {}
        for place, lane in enumerate(lanes):
            places.setdefault(lane, []).append(place)
        for lane, its in places.items():
            self._add(self._lanes[lane], encoded.only(its, first))

    def _add(self, lane: _Lane, encoded: Encoded) -> None:
        known = 0
        if encoded.ids is not None and lane.known:
            known = bisect_right(encoded.ids, lane.known)
            if known:
                self._counts.already_published += known
                self._counts.not_published += known
                self.stats.bytes -= self._size(encoded.messages[:known])
        if known == len(encoded.messages):
            return
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
        lane.add(encoded, known)
        self._pending_bytes += sum(map(len, encoded.messages)) - sum(map(len, encoded.messages[:known]))

    async def _bound(self, encoded: Encoded, first: int) -> tuple[Encoded, Sequence[int]]:
        """Returns the lanes of the keys by the broker's bindings. A record is bad unless its key has exactly one."""
        assert encoded.keys is not None
        found: dict[bytes, int | str] = {}
        for key in encoded.keys:
            if key not in found:
                found[key] = await self._lane_of(key)
                if isinstance(found[key], str) and not self.plan.skip_bad:
                    break
        good: list[int] = []
        lanes: list[int] = []
        bad: list[tuple[int, str]] = []
        for place, key in enumerate(encoded.keys):
            lane = found[key]
            if isinstance(lane, int):
                good.append(place)
                lanes.append(lane)
                continue
            bad.append((encoded.number(place, first), lane))
            if not self.plan.skip_bad:
                break
        return (encoded.only(good, first, bad) if bad else encoded), lanes

    async def _lane_of(self, key: bytes) -> int | str:
        """Returns the lane of a routing key, or a text that says what is wrong with the key."""
        assert self._router is not None
        try:
            text = key.decode()
            check_text("its routing key", text)
            routes = await self._router.by_binding(text)
        except UnicodeDecodeError:
            return f"the routing key {key!r} is not UTF-8"
        except (RouteNotFound, ConfigurationError) as error:  # the latter: too long a key
            return str(error)
        if len(routes) > 1:
            return f"routing key {key.decode()!r} is bound to {len(routes)} partitions; one is needed"
        if routes[0] not in self._router.partitions:
            return f"routing key {key.decode()!r} is bound to {routes[0]!r}, which was no partition when the run began"
        return self._router.partitions.index(routes[0])

    def _fitting(self, encoded: Encoded, first: int) -> Encoded:
        """Returns the messages that fit a frame; without ``skip_bad``, only those before the first that does not."""
        messages, filters = encoded.messages, encoded.filters
        limit = min(lane.publisher.max_message_size for lane in self._lanes)
        sub_entries = self.plan.method == "sub-entry"
        if sub_entries:
            limit -= _SUB_ENTRY_HEAD
        # Compression can make a message larger, by a bit.
        certain = limit - limit // 50 - _SIZE_IN_SUB_ENTRY if sub_entries else limit
        if filters is None and max(map(len, messages), default=0) <= certain:
            return encoded
        sizes = list(map(len, messages))
        if filters is not None:
            sizes = [
                size + (0 if value is None else _FILTER_HEAD + len(value.encode()))
                for size, value in zip(sizes, filters, strict=True)
            ]
        fit: list[int] = []
        too_large: list[tuple[int, str]] = []
        for place, size in enumerate(sizes):
            what: str | None = None
            if size > certain:
                what = self._too_large_alone(messages[place], limit) if sub_entries else _too_large(size, limit)
            if what is None:
                fit.append(place)
                continue
            too_large.append((encoded.number(place, first), what))
            if not self.plan.skip_bad:
                break
        return encoded.only(fit, first, too_large)

    def _too_large_alone(self, message: bytes, limit: int) -> str | None:
        """Why a sub-entry of this message alone cannot be published; ``limit`` is what its data may take."""
        compression = self.plan.compression
        most = MAX_UNCOMPRESSED if compression is not CompressionType.No else min(MAX_UNCOMPRESSED, limit)
        if len(message) + _SIZE_IN_SUB_ENTRY > most:
            return _too_large(len(message), most - _SIZE_IN_SUB_ENTRY, " in a sub-entry")
        size = len(compress(compression, join_sub_batch([message])))
        if size <= limit:
            return None
        return f"{len(message)} bytes take {size} once they are compressed; the broker takes {limit} at most"

    def _bad(self, number: int, message: str) -> None:
        self._counts.read += 1
        self._counts.bad += 1
        self._counts.not_published += 1
        if not self.plan.skip_bad:
            raise _BadRecord(f"{self._place(number)}: {message}")
        line = f"{self._place(number)} is skipped: {message}"
        self.display.event("skipped", line, Severity.WARNING, bounded=True, record=number, reason=message)

    def _full(self) -> bool:
        counts = self._counts
        return self.plan.count is not None and counts.read - counts.bad >= self.plan.count

    def _stopped(self) -> str | None:
        return signal_name(self.context) if self.context.interrupt.signal is not None else None

    def _due(self) -> bool:
        if self._since is None:
            return False
        size, most = self._batch_limits
        pending = sum(len(lane.messages) for lane in self._lanes)
        if pending >= size or self._pending_bytes >= min(most or BLOCK_SIZE, BLOCK_SIZE):
            return True
        return asyncio.get_running_loop().time() >= self._since + self.plan.linger

    async def _send_pending(self) -> None:
        """Publishes the pending messages, lane by lane. Messages that could not be published stay pending."""
        for lane in self._lanes:
            if lane.messages:
                await self._send_lane(lane)
        self._since = None

    async def _send_lane(self, lane: _Lane) -> None:
        """Publishes the messages of a lane, batch by batch."""
        messages, publisher = lane.messages, lane.publisher
        start, now = 0, time.monotonic  # uvloop's clock stands still until the next turn of the loop
        breath = now() + _BREATH
        try:
            for end in self._batch_ends(messages):
                batch = slice(start, end)
                if self._pacer is not None:
                    await self._turn(messages[batch])
                before = publisher.published
                try:
                    await self._send(lane, batch)
                finally:
                    start += publisher.published - before
                    self._show(lane)
                if now() >= breath:
                    await asyncio.sleep(0)  # for signals, deadlines and confirms
                    breath = now() + _BREATH
        finally:
            self._pending_bytes -= sum(map(len, messages[:start]))
            lane.drop(start)

    @property
    def _batch_limits(self) -> tuple[int, float | None]:
        """The most messages of a batch, by ``--batch-size`` and ``--rate``, and its most bytes; None: no limit."""
        plan, rate = self.plan, self.plan.rate
        size = 1 if plan.method in ("send", "wait") else plan.batch_size
        most = float(_SUB_ENTRY_TARGET) if plan.method == "sub-entry" else None
        if rate is not None and rate.messages_per_second is not None:
            size = min(size, max(int(rate.messages_per_second / _PACED_SLICES), 1))
        if rate is not None and rate.bytes_per_second is not None:
            paced = rate.bytes_per_second / _PACED_SLICES
            most = paced if most is None else min(most, paced)
        return size, most

    def _batch_ends(self, messages: list[bytes]) -> Iterator[int]:
        """Yields the end position of each batch."""
        size, most = self._batch_limits
        if most is None:
            yield from range(size, len(messages), size)
        else:
            first, total = 0, 0
            for index, message in enumerate(messages):
                if index > first and (total + len(message) > most or index - first == size):
                    yield index
                    first, total = index, 0
                total += len(message)
        if messages:
            yield len(messages)

    async def _turn(self, batch: list[bytes]) -> None:
        """Waits until ``--rate`` allows the batch; not after a signal, when the time is limited."""
        assert self._pacer is not None
        assert self.plan.rate is not None
        cost = len(batch) if self.plan.rate.messages_per_second is not None else max(self._size(batch), 1)
        await self._pacer.wait(cost, self.context.interrupt.requested)

    async def _send(self, lane: _Lane, batch: slice) -> None:
        publisher = lane.publisher
        if self.plan.method == "sub-entry":
            await self._send_sub_entry(publisher, lane.messages[batch])
            return
        await publisher.publish(
            lane.messages[batch],
            publishing_ids=None if lane.ids is None else lane.ids[batch],
            filter_values=None if lane.filters is None else lane.filters[batch],
        )
        if self.plan.method == "wait":
            await publisher.flush()

    async def _send_sub_entry(self, publisher: Publisher, batch: Sequence[bytes]) -> None:
        """Publishes a sub-entry, or several if one does not fit a frame."""
        try:
            await publisher.publish_sub_entry(batch, self.plan.compression)
        except MessageTooLarge:
            if len(batch) < 2:
                raise
            middle = len(batch) // 2
            await self._send_sub_entry(publisher, batch[:middle])
            await self._send_sub_entry(publisher, batch[middle:])

    # Called by publishers.

    def _show(self, lane: _Lane) -> None:
        """Updates the statistics with the numbers of a publisher."""
        counts, publisher = self._counts, lane.publisher
        counts.published += publisher.published - lane.published
        counts.in_flight += publisher.in_flight - lane.in_flight
        counts.sent_again += publisher.sent_again - lane.sent_again
        lane.published, lane.in_flight = publisher.published, publisher.in_flight
        lane.sent_again = publisher.sent_again

    def _account(self) -> PublishCounts:
        for lane in self._lanes:
            self._show(lane)
        return self._counts

    def _told(self, number: int, outcome: Outcome) -> None:
        counts, lane = self._counts, self._lanes[number]
        if outcome.confirmed:
            counts.confirmed += outcome.confirmed
            self.stats.latency.add(outcome.latency, outcome.confirmed)
        if outcome.failed:
            counts.failed += len(outcome.failed)
            self._reason = self._reason or outcome.failed[0].reason
            if self.plan.has_ids:
                self._stop_behind(lane, outcome.failed)
            messages = [message.data for message in outcome.failed]
            filters = [message.filter_value for message in outcome.failed]
            self._write_failed(lane.stream, messages, filters, outcome.failed[0].reason)
        self._show(lane)

    def _stop_behind(self, lane: _Lane, failed: Sequence[FailedMessage]) -> None:
        """Notes failed ids. After a rejection, stops reading: a later stored id would make the broker drop this one."""
        ids = [message.publishing_id for message in failed]
        lane.failed_ids += ids
        if failed[0].code:
            lane.rejected_ids += ids
            if self._input is not None:
                self._input.fail(NotConfirmed(failed[0].reason))

    def _write_failed(
        self, stream: str, messages: Sequence[bytes], filters: Sequence[str | None] | None, reason: str
    ) -> None:
        if self._failed_file is None or self._file_error is not None:
            return
        try:
            self._failed_file.add(stream, messages, filters or [None] * len(messages), reason)
        except OSError as error:
            self._file_error = OSError(error.errno, error.strerror, self._failed_file.name)


def _too_large(size: int, limit: int, where: str = "") -> str:
    return f"{size} bytes are too large; the broker takes {limit} at most{where}"


def _framed(reader: RecordReader, data: bytes) -> Iterator[tuple[list[bytes], RecordError | None]]:
    """Yields the records that a block completes, in runs, each with the error of the bad record behind it or None."""
    step: Callable[[], list[bytes]] = (lambda: reader.feed(data)) if data else reader.finish
    while True:
        try:
            records = step()
        except RecordError as error:
            yield error.before, error
            step = (lambda: reader.feed(b"")) if data else reader.finish
        else:
            yield records, None
            return
