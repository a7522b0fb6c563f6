"""Where reading starts, and which streams are not read at all."""

from __future__ import annotations

import pytest

from rstream_core import ConsumerOffsetSpecification, OffsetsGone, OffsetType
from rstream_core.checks import MAX_OFFSET
from rstream_core.flow.acks import Account
from rstream_core.flow.ends import Ends
from rstream_core.flow.opening import Opening, resolve_start
from rstream_core.flow.read_plan import AfterStored, LastMessages, ReadPlan, StartAt, Until
from rstream_core.flow.stream_reading import StreamReading
from tests.unit.fake_streams import Clock, FakeClient, FakeStream, FakeSubscription, Told

FIRST, LAST, NEXT = (ConsumerOffsetSpecification(kind) for kind in (OffsetType.FIRST, OffsetType.LAST, OffsetType.NEXT))
TIME = ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 1_700_000_000_000)
NOW_MS = 1_800_000_000_000


def at(offset: int) -> ConsumerOffsetSpecification:
    return ConsumerOffsetSpecification(OffsetType.OFFSET, offset)


@pytest.mark.parametrize(
    ("start", "stream", "expected"),
    [
        (AfterStored("n"), FakeStream(), at(0)),
        (AfterStored("n"), FakeStream(stored={"n": 0}), at(1)),
        (AfterStored("n"), FakeStream(stored={"n": 41}), at(42)),
        (AfterStored("n"), FakeStream(stored={"n": MAX_OFFSET}), at(MAX_OFFSET)),
        (LastMessages(3), FakeStream(last=9), at(7)),
        (LastMessages(3), FakeStream(), FIRST),
        (NEXT, FakeStream(last=9), NEXT),
        (TIME, FakeStream(last=9), TIME),
    ],
)
async def test_a_start(start: StartAt, stream: FakeStream, expected: ConsumerOffsetSpecification) -> None:
    assert await resolve_start(FakeClient(s=stream).client, "s", start) == expected


class Opened:
    """One stream that is opened."""

    def __init__(self, stream: FakeStream, start: StartAt, until: Until | None = None, **plan: object) -> None:
        self.client, self.told, self.reading = FakeClient(s=stream), Told(), StreamReading("s", Account())
        self.plan = ReadPlan(("s",), start, until, **plan)  # type: ignore[arg-type]
        clock = Clock()
        self.ends = Ends(
            self.client.client,
            self.plan,
            [self.reading],
            now_ms=lambda: NOW_MS,
            clock=clock,
            outage_until=lambda: 0.0,
        )
        self.turns: list[tuple[StreamReading, bool]] = []

    async def open(self) -> FakeSubscription | None:
        async def on_turn(reading: StreamReading, active: bool) -> None:
            self.turns.append((reading, active))

        opening = Opening(self.client.client, self.plan, self.ends, self.told, self.told.gap)
        await opening.open([self.reading], on_turn)
        assert (self.reading.subscription is None) is self.reading.is_read_out
        return self.client.subscriptions.get("s")


async def test_a_subscription_is_made_as_planned() -> None:
    opened = Opened(FakeStream(last=9), FIRST, filter_values=("a",), match_unfiltered=True, credit=3, fail_on_gap=True)
    subscription = await opened.open()
    assert subscription is not None
    assert subscription.spec == FIRST
    assert subscription.told == {
        "credit": 3,
        "filter_values": ("a",),
        "match_unfiltered": True,
        "single_active": None,
        "at_leader": True,
        "fail_on_gap": True,
    }


@pytest.mark.parametrize(
    ("start", "until", "stream", "is_read"),
    [
        (FIRST, Until(), FakeStream(last=9), True),
        (FIRST, Until(), FakeStream(), False),
        (FIRST, None, FakeStream(), True),
        (NEXT, Until(), FakeStream(last=9), False),
        (NEXT, Until(offset=20), FakeStream(last=9), True),  # it is yet to come
        (at(9), Until(), FakeStream(last=9), True),
        (at(10), Until(), FakeStream(last=9), False),
        (at(9), Until(offset=8), FakeStream(last=9), False),
        (AfterStored("n"), Until(), FakeStream(last=9, stored={"n": 9}), False),
        (AfterStored("n"), Until(), FakeStream(last=9, stored={"n": 8}), True),
    ],
)
async def test_what_has_no_wanted_message_is_not_read(
    start: StartAt, until: Until | None, stream: FakeStream, is_read: bool
) -> None:
    assert (await Opened(stream, start, until).open() is not None) is is_read


@pytest.mark.parametrize("has_messages", [True, False])
async def test_a_time_behind_the_last_message_shows_in_no_chunk(has_messages: bool) -> None:
    opened = Opened(FakeStream(last=9), TIME, Until())
    opened.client.has_messages = has_messages
    subscription = await opened.open()
    assert subscription is not None
    assert (opened.reading.is_read_out, subscription.is_closed) == (not has_messages, not has_messages)


# An end that may be found before any message has come.


@pytest.mark.parametrize(
    ("start", "has_messages", "expected"),
    [(at(7), False, 6), (FIRST, False, -1), (NEXT, False, 9), (NEXT, True, -1), (TIME, False, 9), (TIME, True, -1)],
)
async def test_a_place_before_the_first_message(
    start: ConsumerOffsetSpecification, has_messages: bool, expected: int
) -> None:
    opened = Opened(FakeStream(last=9), start, Until(offset=20))
    opened.client.has_messages = has_messages
    await opened.open()
    assert opened.reading.before_start == expected


# Starts that may be wrong.


@pytest.mark.parametrize(
    ("start", "until", "events"),
    [
        (at(11), Until(), [("beyond", "s", 11, 10)]),
        (at(10), Until(), []),  # the usual place to go on at
        (at(11), Until(offset=5), []),
        (at(11), Until(time=NOW_MS - 1), []),
        (AfterStored("n"), Until(), [("beyond", "s", 51, 10)]),
    ],
)
async def test_a_start_beyond_the_end_is_told(start: StartAt, until: Until, events: list[object]) -> None:
    opened = Opened(FakeStream(last=9, stored={"n": 50}), start, until)
    assert await opened.open() is None
    assert opened.told.events == events


async def test_a_start_beyond_the_end_of_an_empty_stream_is_told() -> None:
    opened = Opened(FakeStream(), at(5), Until())
    await opened.open()
    assert opened.told.events == [("beyond", "s", 5, 0)]


@pytest.mark.parametrize("start", [at(3), AfterStored("n")])
async def test_the_gap_of_a_stream_that_is_not_read_is_told(start: StartAt) -> None:
    """All of it is gone, so that there is no chunk that would show the gap."""
    opened = Opened(FakeStream(first=20, stored={"n": 2}), start, Until())
    assert await opened.open() is None
    assert opened.told.events == [("gap", "s", 3, 19)]


async def test_a_gap_that_is_not_allowed_is_raised() -> None:
    opened = Opened(FakeStream(first=20), at(3), Until(), fail_on_gap=True)
    with pytest.raises(OffsetsGone) as raised:
        await opened.open()
    assert (raised.value.first, raised.value.last) == (3, 19)


@pytest.mark.parametrize("start", [FIRST, NEXT, TIME, LastMessages(3)])
async def test_who_asks_for_no_offset_misses_none(start: StartAt) -> None:
    opened = Opened(FakeStream(first=20), start, Until(), fail_on_gap=True)
    assert await opened.open() is None
    assert opened.told.events == []


# Single active consumers.


@pytest.mark.parametrize(
    ("start", "spec", "before"),
    [
        (FIRST, FIRST, -1),
        (NEXT, at(10), 9),  # what is published before the turn is not left out
        (LAST, at(9), 8),
        (AfterStored("g"), at(0), -1),  # the broker is asked at each turn
        (at(4), at(4), 3),
    ],
)
async def test_a_single_active_consumer(start: StartAt, spec: ConsumerOffsetSpecification, before: int) -> None:
    stream = FakeStream(last=9, stored={"g": 7})
    opened = Opened(stream, start, name="g", single_active=True, super_stream="all")
    subscription = await opened.open()
    assert subscription is not None
    assert (subscription.spec, opened.reading.before_start) == (spec, before)
    assert opened.told.events == [("waiting",)]
    assert (subscription.told["single_active"].name, subscription.told["single_active"].super_stream) == ("g", "all")
    await subscription.turn(True)
    await subscription.turn(False)
    assert opened.turns == [(opened.reading, True), (opened.reading, False)]


async def test_a_single_active_consumer_waits_though_its_own_start_is_behind_the_end() -> None:
    """The group may have stored another one."""
    assert await Opened(FakeStream(last=9), at(10), Until(), name="g", single_active=True).open() is not None
