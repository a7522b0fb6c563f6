"""How gaps are looked for: whom is asked, how often, and what is told. What answers mean is in test_gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import cast

import pytest

from rstream_core.connecting.connection import Connection
from rstream_core.consuming import gap_finder
from rstream_core.consuming.gap_finder import LOOKS, GapFinder
from rstream_core.consuming.gaps import Gap
from rstream_core.errors import ConnectionClosed, OffsetsGone, RequestTimeout, StreamDoesNotExist
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

Answers = Sequence[int | Exception | None]
ONE, OTHER = cast("Connection", "one"), cast("Connection", "other")


def at(offset: int) -> ConsumerOffsetSpecification:
    return ConsumerOffsetSpecification(OffsetType.OFFSET, offset)


class Asked:
    """Answers where a stream begins; keeps who was asked."""

    def __init__(self, answers: Answers) -> None:
        self.left: Iterator[int | Exception | None] = iter(answers)
        self.whom: list[object] = []

    async def __call__(self, connection: object, stream: str) -> int | None:
        assert stream == "s"
        self.whom.append(connection)
        found = next(self.left)
        if isinstance(found, Exception):
            raise found
        return found


Ask = Callable[..., Asked]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Ask:
    def answering(*answers: int | Exception | None) -> Asked:
        found = Asked(answers)
        monkeypatch.setattr(gap_finder, "first_offset", found)
        return found

    return answering


async def test_a_gap_at_the_start(asked: Ask) -> None:
    told: list[Gap] = []
    gaps = GapFinder("s", told.append)
    asked(7)
    assert await gaps.start(ONE, at(3)) == Gap("s", 3, 6)
    assert told == []  # ``tell`` tells it
    asked(7)
    assert await gaps.start(ONE, at(7)) is None


@pytest.mark.parametrize(
    "start",
    [
        lambda: GapFinder("s", None).start(ONE, at(3)),
        lambda: GapFinder("s", lambda _: None).start(ONE, ConsumerOffsetSpecification(OffsetType.FIRST)),
        lambda: GapFinder("s", lambda _: None, is_filtered=True).start(ONE, at(3), is_resumed=True),
    ],
    ids=["nobody listens", "no offset", "behind a filter"],
)
async def test_where_nothing_can_be_found_nobody_is_asked(start: Callable[[], Awaitable[object]], asked: Ask) -> None:
    nobody = asked()
    assert await start() is None
    assert nobody.whom == []


async def test_a_start_without_an_answer_is_no_gap(asked: Ask) -> None:
    """A subscription reports what is wrong; only a lost connection ends it here."""
    gaps = GapFinder("s", lambda _: None)
    for answer in (None, RequestTimeout("mute"), StreamDoesNotExist("gone")):
        asked(answer)
        assert await gaps.start(ONE, at(3)) is None
    asked(ConnectionClosed("lost"))
    with pytest.raises(ConnectionClosed):
        await gaps.start(ONE, at(3))


async def doubtful(gaps: GapFinder, asked: Ask) -> None:
    """Offsets 1 to 4 are missing."""
    asked(0)
    await gaps.start(ONE, at(0))
    assert gaps.watch.is_quiet
    assert not gaps.watch.arrive(0, 1)
    assert gaps.watch.arrive(5, 6)
    assert gaps.watch.doubts
    assert not gaps.watch.is_quiet
    assert [gaps.watch.holds(offset) for offset in (0, 5, 6)] == [False, True, True]


async def test_what_is_behind_a_jump_is_held_until_the_answer(asked: Ask) -> None:
    told: list[Gap] = []
    gaps = GapFinder("s", told.append)
    await doubtful(gaps, asked)
    woken: list[bool] = []
    asked(5)
    await gaps.settle(lambda: ONE, lambda: woken.append(gaps.watch.is_quiet))
    assert told == [Gap("s", 1, 4)]
    assert woken == [True]


async def test_a_gap_that_ends_the_subscription_holds_what_is_behind_it_for_ever(asked: Ask) -> None:
    told: list[Gap] = []
    gaps = GapFinder("s", told.append, fails=True)
    await doubtful(gaps, asked)
    asked(5)
    with pytest.raises(OffsetsGone) as raised:
        await gaps.settle(lambda: ONE, lambda: None)
    assert (raised.value.first, raised.value.last, told) == (1, 4, [Gap("s", 1, 4)])
    assert not gaps.watch.is_quiet
    assert [gaps.watch.holds(offset) for offset in (0, 1, 5)] == [False, True, True]


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        ([RequestTimeout("mute")] * LOOKS, LOOKS),
        ([RequestTimeout("mute"), None], 2),
        ([StreamDoesNotExist("no retry helps")], 1),
    ],
)
async def test_where_nobody_knows_nothing_is_held_for_ever(
    answers: Answers, count: int, asked: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Gap] = []
    gaps = GapFinder("s", told.append)
    await doubtful(gaps, asked)
    found = asked(*answers)
    await gaps.settle(lambda: ONE, lambda: None)
    assert (len(found.whom), gaps.watch.is_quiet, told) == (count, True, [])
    assert ("missing in offsets 1 to 4?" in caplog.text) == isinstance(answers[-1], Exception)


async def test_another_connection_is_asked_after_a_loss(asked: Ask) -> None:
    gaps = GapFinder("s", lambda _: None)
    await doubtful(gaps, asked)
    connections = [ONE, OTHER, OTHER]
    found = asked(ConnectionClosed("lost"), 5)
    await gaps.settle(lambda: connections.pop(0), lambda: None)
    assert found.whom == [ONE, OTHER]


@pytest.mark.parametrize("after", [ONE, None])
async def test_without_another_connection_the_doubt_stays(after: Connection | None, asked: Ask) -> None:
    """Whoever recovers the subscription asks again."""
    gaps = GapFinder("s", lambda _: None)
    await doubtful(gaps, asked)
    connections = [ONE, after, after]
    found = asked(ConnectionClosed("lost"))
    await gaps.settle(lambda: connections.pop(0), lambda: None)
    assert found.whom == [ONE]
    assert gaps.watch.doubts


async def test_a_look_has_a_time_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def silent(*_: object) -> int:
        await asyncio.Event().wait()
        return 0

    gaps = GapFinder("s", lambda _: None)
    monkeypatch.setattr(gap_finder, "first_offset", silent)
    monkeypatch.setattr(gap_finder, "LOOK_TIMEOUT", 0.01)
    assert await gaps.start(ONE, at(0)) is None
    gaps.watch.arrive(0, 1)
    assert gaps.watch.arrive(5, 6)
    await gaps.settle(lambda: ONE, lambda: None)
    assert "where stream 's' begins: no answer within 0.01 s" in caplog.text


async def test_what_is_dropped_is_not_asked_for(asked: Ask) -> None:
    gaps = GapFinder("s", lambda _: None)
    await doubtful(gaps, asked)
    gaps.stop()
    assert not gaps.watch.doubts
    assert gaps.watch.is_quiet
