"""Decides where the reading of streams ends, and asks the broker where no chunk shows it.

Most ends are shown by a chunk: ``cut``. The broker is asked, when no chunk has come for a moment, where

- an offset to stop at may be taken by a record of the broker's own, which is never delivered;
- a time to stop at has come, and perhaps no message with it;
- the broker filters, and leaves out the last chunks;
- others of a group read, so that only their stored offsets show how far that is;
- nothing has come for so long that the reading is to end: a stopped process has not read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rstream_core.errors import OffsetNotFound, UnsupportedByBroker
from rstream_core.flow.access import StreamAccess
from rstream_core.flow.read_plan import ReadPlan
from rstream_core.flow.stages import Stop
from rstream_core.flow.stream_reading import StreamReading
from rstream_core.protocol.delivered import ReadChunk

FILTER_INTERVAL = 0.2
"""With a filter: seconds without a chunk after which the broker is asked whether it has more to send."""
GROUP_INTERVAL = 1.0
"""Seconds without a chunk between looks at the offsets that other members of a group have stored."""
END_INTERVAL = 1.0
"""Seconds without a chunk between looks whether the offset to stop at is taken."""
IDLE_INTERVAL = 0.1
"""Seconds to the next look where nothing has come for long, but the broker has something."""


class Found(NamedTuple):
    """What a look has found."""

    read_out: Sequence[StreamReading] = ()
    """Streams that were read to their ends."""
    stop: Stop | None = None


class Ends:
    """The ends of the streams of one source."""

    def __init__(
        self,
        client: StreamAccess,
        plan: ReadPlan,
        readings: Sequence[StreamReading],
        *,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        outage_until: Callable[[], float],
    ) -> None:
        """``now_ms``: milliseconds since 1970 (UTC). ``clock``: seconds from any zero. ``outage_until``: when, by that
        clock, the last outage has ended; now during one."""
        self._client = client
        self._plan = plan
        self._readings = readings
        self._now_ms = now_ms
        self._clock = clock
        self._outage_until = outage_until
        self._until_time: int | None = None
        """Messages of later chunks, in milliseconds since 1970, are not wanted."""
        self._time_comes = 0.0
        """When, by the clock, ``_until_time`` is over."""
        self._asks = plan.idle is not None or bool(plan.filter_values) or self._is_of_group
        """Whether there may be anything that no chunk shows."""
        self._quiet_since = clock()
        self._looked_for_end = self._looked_behind_filter = self._looked_at_group = self._looked_for_more = 0.0
        """When the broker was asked last."""

    @property
    def _is_of_group(self) -> bool:
        return self._plan.single_active and self._plan.until is not None

    @property
    def _unfinished(self) -> list[StreamReading]:
        return [reading for reading in self._readings if not reading.is_read_out]

    def note_activity(self) -> None:
        """A chunk has come, or something that was handed out was still being worked on."""
        self._quiet_since = self._clock()

    async def resolve(self, reading: StreamReading) -> None:
        """Finds the end of a stream before it is read. It is read out at once where it has no wanted message."""
        until = self._plan.until
        if until is None:
            return
        if until.offset is not None:
            reading.end, reading.is_to_come, self._asks = until.offset, True, True
            await self._look_for_end(reading)
            reading.is_read_out = reading.end is None
            return
        if until.time is not None:
            self._until_time, self._asks = until.time, True
            self._time_comes = self._loop_time_of(until.time)
            if until.time > self._now_ms():
                return  # messages of that time may yet come
        reading.end = await self._client.last_offset(reading.stream)
        reading.is_read_out = reading.end is None

    def needs_before_start(self, reading: StreamReading) -> bool:
        """Returns whether an end may be found before any message has come: ``before_start`` must then be right."""
        return reading.is_to_come or (self._until_time is not None and reading.end is None)

    def cut(self, reading: StreamReading, chunk: ReadChunk) -> tuple[int, bool]:
        """Returns how many messages of a chunk are wanted, and whether it shows that none behind them is."""
        if self._until_time is not None and chunk.timestamp > self._until_time:
            return 0, True
        count, end = len(chunk.messages), reading.end
        if end is not None and chunk.offset + count > end:
            return max(end - chunk.offset + 1, 0), True
        return count, False

    # What no chunk shows.

    def due(self) -> float | None:
        """Returns when ``tick`` is wanted, by the clock; None: not as things are."""
        if not self._asks:
            return None
        dues = [due for due in (self._end_due(), self._filter_due(), self._group_due()) if due is not None]
        idle = self._idle_due()
        if idle is not None:
            dues.append(max(idle, self._looked_for_more + IDLE_INTERVAL))
        return min(dues, default=None)

    def _end_due(self) -> float | None:
        is_to_come = is_open = False
        for reading in self._readings:
            if not reading.is_read_out:
                is_to_come = is_to_come or reading.is_to_come
                is_open = is_open or reading.end is None
        if is_to_come:
            return max(self._quiet_since, self._looked_for_end) + END_INTERVAL
        return self._time_comes if is_open and self._until_time is not None else None

    def _filter_due(self) -> float | None:
        if not self._plan.filter_values or not any(
            reading.end is not None and not reading.is_to_come for reading in self._unfinished
        ):
            return None
        return max(self._quiet_since, self._looked_behind_filter) + FILTER_INTERVAL

    def _group_due(self) -> float | None:
        return max(self._quiet_since, self._looked_at_group) + GROUP_INTERVAL if self._is_of_group else None

    def _idle_due(self) -> float | None:
        """Returns when nothing has come for too long; None where something is being worked on, too. An outage does not
        count: its messages are yet to come."""
        idle = self._plan.idle
        if idle is None or any(reading.acks.open for reading in self._readings):
            return None
        return max(self._quiet_since, self._outage_until()) + idle

    async def tick(self) -> Found:
        """Asks the broker what is due. This may take as long as an outage."""
        now = self._clock()
        read_out: list[StreamReading] = []
        if _is_past(self._end_due(), now):
            read_out += await self._look_for_ends()
            self._looked_for_end = self._clock()
        if _is_past(self._filter_due(), now):
            read_out += await self._look_behind_filter()
            self._looked_behind_filter = self._clock()
        if _is_past(self._group_due(), now):
            read_out += await self._look_at_group()
            self._looked_at_group = self._clock()
        if read_out:
            return Found(read_out)
        return Found((), await self._look_for_more())

    async def _look_for_ends(self) -> list[StreamReading]:
        """Returns the streams whose end is known now, and of which all messages up to it are done with."""
        has_come = self._until_time is not None and self._now_ms() > self._until_time
        if self._until_time is not None and not has_come:
            self._time_comes = self._loop_time_of(self._until_time)  # the clocks do not go alike
        found = []
        for reading in self._unfinished:
            if reading.is_to_come:
                await self._look_for_end(reading)
                if reading.is_to_come:
                    continue
            elif reading.end is None and has_come:
                reading.end = await self._client.last_offset(reading.stream)
            else:
                continue
            if reading.end is None or max(reading.before_start, reading.passed) >= reading.end:
                found.append(reading)
        return found

    async def _look_for_end(self, reading: StreamReading) -> None:
        """Checks whether the offset to stop at is taken. Then the last message up to it is the end.

        A record of the broker's own, which is never delivered, may have taken it. A chunk of such records is one
        offset, so on brokers without ``committed_offset`` the last chunk's offset shows it.
        """
        assert reading.end is not None
        taken = -1
        try:
            stats = await self._client.stats(reading.stream)
        except UnsupportedByBroker:
            pass
        else:
            if stats.committed_offset is not None and stats.committed_offset < reading.end:
                return
            taken = max(known for known in (stats.committed_offset, stats.committed_chunk_id, -1) if known is not None)
        last = await self._client.last_offset(reading.stream)
        if max(taken, -1 if last is None else last) < reading.end:
            return
        reading.is_to_come = False
        reading.end = None if last is None else min(reading.end, last)

    async def _look_behind_filter(self) -> list[StreamReading]:
        """Returns the streams of which no more chunks come: the broker leaves out the rest."""
        found = []
        for reading in self._unfinished:
            subscription = reading.subscription
            if reading.end is None or reading.is_to_come or subscription is None or reading.acks.open:
                continue
            if await subscription.nothing_to_come():
                reading.acks.skip_to(reading.end)
                found.append(reading)
        return found

    async def _look_at_group(self) -> list[StreamReading]:
        """Returns the streams that the group has read to the end, by its stored offsets."""
        assert self._plan.name is not None
        found = []
        for reading in self._unfinished:
            try:
                stored = await self._client.query_offset(reading.stream, self._plan.name)
            except OffsetNotFound:
                if not reading.is_active:
                    continue
                stored = reading.before_start  # its turn began where it was to start
            if reading.end is not None and stored >= reading.end:
                found.append(reading)
        return found

    async def _look_for_more(self) -> Stop | None:
        """Ends the reading if nothing has come for too long, and nothing is on its way."""
        if not _is_past(self._idle_due(), self._clock()):
            return None
        for reading in self._unfinished:
            subscription = reading.subscription
            if subscription is not None and subscription.active and not await subscription.nothing_to_come():
                self._looked_for_more = self._clock()
                return None
        if not _is_past(self._idle_due(), self._clock()):
            return None
        return Stop(f"no message for {self._plan.idle:g} s", "idle")

    def _loop_time_of(self, time_ms: int) -> float:
        return self._clock() + max(time_ms - self._now_ms(), 0) / 1000 + 0.001


def _is_past(due: float | None, now: float) -> bool:
    return due is not None and due <= now
