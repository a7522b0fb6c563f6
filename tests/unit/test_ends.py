"""Where the reading of streams ends: what chunks show, and what the broker is asked."""

from __future__ import annotations

import pytest

from rstream_core import Chunk, ConsumerOffsetSpecification, OffsetType
from rstream_core.flow.acks import Account
from rstream_core.flow.ends import END_INTERVAL, FILTER_INTERVAL, GROUP_INTERVAL, IDLE_INTERVAL, Ends, Found
from rstream_core.flow.read_plan import ReadPlan, Until
from rstream_core.flow.stages import Stop
from rstream_core.flow.stream_reading import StreamReading
from tests.unit.fake_streams import Clock, FakeClient, FakeStream, FakeSubscription

FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)
NOW_MS = 1_800_000_000_000


class Ending:
    """The ends of one stream, without a subscription unless one is asked for."""

    def __init__(self, stream: FakeStream, until: Until | None = None, **plan: object) -> None:
        self.clock, self.client = Clock(), FakeClient(s=stream)
        self.stream = stream
        self.now_ms = NOW_MS
        self.outage_until = 0.0
        self.reading = StreamReading("s", Account())
        self.ends = Ends(
            self.client.client,
            ReadPlan(("s",), FIRST, until, **plan),  # type: ignore[arg-type]
            [self.reading],
            now_ms=lambda: self.now_ms,
            clock=self.clock,
            outage_until=lambda: self.outage_until,
        )

    async def resolve(self) -> tuple[int | None, bool, bool]:
        await self.ends.resolve(self.reading)
        return self.reading.end, self.reading.is_to_come, self.reading.is_read_out

    def subscribe(self) -> FakeSubscription:
        subscription = FakeSubscription("s", FIRST, {"single_active": None})
        self.reading.subscription = subscription  # type: ignore[assignment]
        return subscription

    def cut(self, offset: int, count: int, timestamp: int = 0) -> tuple[int, bool]:
        return self.ends.cut(self.reading, Chunk("s", offset, timestamp, [b""] * count, None))

    def read(self, begin: int, count: int) -> None:
        self.reading.acks.hand_out(begin, count)
        self.reading.acks.done(range(begin, begin + count))

    async def tick(self) -> Found | None:
        """Does what is due, as a run does; None where nothing is."""
        due = self.ends.due()
        return await self.ends.tick() if due is not None and due <= self.clock.now else None


# What chunks show.


async def test_without_an_end_all_is_wanted() -> None:
    ending = Ending(FakeStream(last=9))
    assert await ending.resolve() == (None, False, False)
    assert ending.cut(0, 10) == (10, False)
    assert ending.ends.due() is None


@pytest.mark.parametrize(
    ("offset", "count", "expected"), [(0, 9, (9, False)), (0, 10, (10, True)), (5, 20, (5, True)), (10, 3, (0, True))]
)
async def test_the_end_is_the_last_message_at_the_start(offset: int, count: int, expected: tuple[int, bool]) -> None:
    ending = Ending(FakeStream(last=9), Until())
    assert await ending.resolve() == (9, False, False)
    assert ending.cut(offset, count) == expected
    assert ending.ends.due() is None  # chunks show it


async def test_an_empty_stream_is_read_out_before_it_is_read() -> None:
    assert await Ending(FakeStream(), Until()).resolve() == (None, False, True)


@pytest.mark.parametrize(("timestamp", "expected"), [(NOW_MS - 10, (4, False)), (NOW_MS - 9, (0, True))])
async def test_chunks_behind_a_time_are_not_wanted(timestamp: int, expected: tuple[int, bool]) -> None:
    ending = Ending(FakeStream(last=9), Until(time=NOW_MS - 10))
    assert await ending.resolve() == (9, False, False)
    assert ending.cut(0, 4, timestamp) == expected


# An offset that may be yet to come, and that a record of the broker's own may take.


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (FakeStream(last=9, committed=9), (5, False, False)),
        (FakeStream(last=3, committed=9), (3, False, False)),  # no message has offset 5
        (FakeStream(last=None, committed=9), (None, False, True)),
        (FakeStream(last=3, committed=4), (5, True, False)),
        (FakeStream(last=3), (5, True, False)),  # an old broker, without statistics
        (FakeStream(last=9), (5, False, False)),
    ],
)
async def test_an_offset(stream: FakeStream, expected: tuple[int | None, bool, bool]) -> None:
    ending = Ending(stream, Until(offset=5))
    assert await ending.resolve() == expected
    assert ending.ends.needs_before_start(ending.reading) is expected[1]


async def test_an_offset_that_is_taken_later_is_asked_for_when_nothing_has_come_for_a_second() -> None:
    ending = Ending(FakeStream(last=3, committed=3), Until(offset=5))
    await ending.resolve()
    ending.read(0, 4)
    ending.clock.now += END_INTERVAL / 2
    ending.ends.note_activity()
    ending.clock.now += END_INTERVAL * 0.75
    assert await ending.tick() is None
    ending.clock.now += END_INTERVAL / 2
    assert await ending.tick() == Found()
    assert ending.ends.due() == ending.clock.now + END_INTERVAL
    ending.stream.committed = 5  # a stored offset
    ending.clock.now += END_INTERVAL
    assert await ending.tick() == Found([ending.reading])
    assert (ending.reading.end, ending.reading.is_to_come) == (3, False)


async def test_what_was_not_done_yet_is_waited_for() -> None:
    """The offset is taken, but the last message up to it is not read."""
    ending = Ending(FakeStream(last=3, committed=3), Until(offset=5))
    await ending.resolve()
    ending.read(0, 3)
    ending.stream.committed = 5
    ending.clock.now += END_INTERVAL
    assert await ending.tick() == Found()
    assert ending.reading.end == 3
    assert ending.cut(3, 1) == (1, True)


async def test_a_start_behind_all_messages_ends_there() -> None:
    ending = Ending(FakeStream(last=3, committed=3), Until(offset=5))
    await ending.resolve()
    ending.reading.before_start = 3
    ending.stream.committed = 5
    ending.clock.now += END_INTERVAL
    assert await ending.tick() == Found([ending.reading])


# A time that is yet to come.


async def test_a_time_that_comes_without_a_message() -> None:
    ending = Ending(FakeStream(last=3), Until(time=NOW_MS + 2000))
    assert await ending.resolve() == (None, False, False)
    ending.read(0, 4)
    assert ending.ends.due() == pytest.approx(ending.clock.now + 2.001)
    ending.clock.now += 2.001
    assert await ending.tick() == Found()  # the other clock is late
    assert ending.ends.due() == pytest.approx(ending.clock.now + 2.001)
    ending.now_ms += 2001
    ending.clock.now += 2.001
    assert await ending.tick() == Found([ending.reading])


async def test_a_time_that_comes_with_messages_yet_to_be_read() -> None:
    ending = Ending(FakeStream(last=7), Until(time=NOW_MS + 2000))
    await ending.resolve()
    ending.read(0, 4)
    ending.now_ms += 2001
    ending.clock.now += 3
    assert await ending.tick() == Found()
    assert ending.ends.due() is None
    assert ending.cut(4, 4) == (4, True)


# A filter, and a group.


async def test_behind_a_filter_the_broker_is_asked_whether_it_has_more() -> None:
    ending = Ending(FakeStream(last=9), Until(), filter_values=("a",))
    await ending.resolve()
    subscription = ending.subscribe()
    assert ending.ends.due() == ending.clock.now + FILTER_INTERVAL
    ending.read(0, 3)
    ending.clock.now += FILTER_INTERVAL
    assert await ending.tick() == Found()
    assert ending.ends.due() == ending.clock.now + FILTER_INTERVAL
    subscription.is_done = True
    ending.clock.now += FILTER_INTERVAL
    assert await ending.tick() == Found([ending.reading])
    assert ending.reading.acks.low == 9  # the rest need not be looked at again


async def test_behind_a_filter_nothing_ends_before_what_is_open() -> None:
    ending = Ending(FakeStream(last=9), Until(), filter_values=("a",))
    await ending.resolve()
    ending.subscribe().is_done = True
    ending.reading.acks.hand_out(0, 3)
    ending.clock.now += FILTER_INTERVAL
    assert await ending.tick() == Found()
    assert ending.reading.acks.low is None


@pytest.mark.parametrize(
    ("stored", "is_active", "before_start", "ends"),
    [
        (9, False, -1, True),
        (8, False, -1, False),
        (None, False, 9, False),  # another has not stored yet
        (None, True, 9, True),  # its turn began behind the end
        (None, True, 8, False),
    ],
)
async def test_a_group_is_done_where_its_stored_offset_is(
    stored: int | None, is_active: bool, before_start: int, ends: bool
) -> None:
    ending = Ending(FakeStream(last=9), Until(), single_active=True, name="g")
    await ending.resolve()
    ending.reading.is_active, ending.reading.before_start = is_active, before_start
    if stored is not None:
        ending.stream.stored["g"] = stored
    assert await ending.tick() is None
    ending.clock.now += GROUP_INTERVAL
    assert await ending.tick() == (Found([ending.reading]) if ends else Found())


# Nothing comes any more.


async def test_idle_asks_the_broker_first() -> None:
    ending = Ending(FakeStream(), idle=5.0)
    subscription = ending.subscribe()
    ending.clock.now += 4
    ending.ends.note_activity()
    ending.clock.now += 4
    assert await ending.tick() is None
    ending.clock.now += 1
    assert await ending.tick() == Found()  # something is on its way
    assert subscription.asked == 1
    assert ending.ends.due() == ending.clock.now + IDLE_INTERVAL
    subscription.is_done = True
    ending.clock.now += IDLE_INTERVAL
    assert await ending.tick() == Found((), Stop("no message for 5 s", "idle"))


async def test_idle_does_not_run_while_something_is_open() -> None:
    ending = Ending(FakeStream(), idle=5.0)
    ending.subscribe().is_done = True
    ending.reading.acks.hand_out(0, 1)
    ending.clock.now += 100
    assert ending.ends.due() is None


async def test_idle_does_not_run_in_an_outage() -> None:
    ending = Ending(FakeStream(), idle=5.0)
    ending.subscribe().is_done = True
    ending.clock.now += 100
    ending.outage_until = ending.clock.now
    assert await ending.tick() is None
    ending.clock.now += 5
    assert await ending.tick() == Found((), Stop("no message for 5 s", "idle"))


async def test_what_comes_while_the_broker_is_asked_is_not_idle() -> None:
    ending = Ending(FakeStream(), idle=5.0)
    subscription = ending.subscribe()

    async def nothing_to_come() -> bool:
        ending.ends.note_activity()
        return True

    setattr(subscription, "nothing_to_come", nothing_to_come)  # noqa: B010 - mypy takes no method for a variable
    ending.clock.now += 5
    assert await ending.tick() == Found()


async def test_who_waits_for_a_turn_is_not_asked() -> None:
    ending = Ending(FakeStream(), idle=5.0)
    subscription = ending.subscribe()
    subscription.active = False
    ending.clock.now += 5
    assert await ending.tick() == Found((), Stop("no message for 5 s", "idle"))
    assert subscription.asked == 0
