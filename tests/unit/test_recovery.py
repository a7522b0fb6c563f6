"""Policies, and the loop that follows them."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from itertools import islice

import pytest

from rstream_core import (
    AccessRefused,
    Backoff,
    Client,
    ConfigurationError,
    ConnectionClosed,
    ConnectionOptions,
    NotConfirmed,
    Producer,
    Recovery,
    RecoveryEvent,
    RecoveryState,
    RequestTimeout,
    StreamNotAvailable,
)
from rstream_core.connecting.recovery import RECOVER, STEADY, Outages, Recoveries, Retries, retry
from tests.clients import PATIENCE

ATTEMPTS = 4
QUICK = Backoff(ATTEMPTS, initial=0.001)


def test_delays_grow_with_jitter_up_to_the_maximum() -> None:
    policy = Backoff(attempts=8, initial=0.1, factor=2, maximum=1.0)
    full = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    runs = [list(policy.delays()) for _ in range(50)]
    for delays in runs:
        assert all(most / 2 <= delay <= most for delay, most in zip(delays, full, strict=True))
    assert len({tuple(delays) for delays in runs}) == 50


def test_delays_without_an_end() -> None:
    policy = Recovery(seconds=3600, backoff=Backoff(initial=0.1, maximum=1.0)).backoff
    delays = list(islice(policy.delays(), 5000))
    assert len(delays) == 5000
    assert 0.5 <= min(delays[10:]) <= max(delays) <= 1.0


async def test_seconds_are_the_only_limit_where_no_attempts_are_given() -> None:
    """However many there are: there were 100, whatever the seconds."""
    operation = Operation(*(ConnectionClosed(str(number)) for number in range(500)))
    policy = Recovery(seconds=PATIENCE, backoff=Backoff(initial=0.0001, maximum=0.0001), spread=0)
    assert await policy.retries().retry(operation) == "done"
    assert operation.calls == 501


@pytest.mark.parametrize(
    "arguments", [{"seconds": 0}, {"seconds": -1}, {"backoff": Backoff(attempts=0)}, {"spread": -0.1}]
)
def test_a_policy_that_cannot_work(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Recovery(**arguments)  # type: ignore[arg-type]


async def test_the_least_that_a_policy_may_be() -> None:
    """One attempt, at once, within hardly any time."""
    operation = Operation(ConnectionClosed("1"), ConnectionClosed("2"))
    with pytest.raises(ConnectionClosed, match="1"):
        await Recovery(seconds=PATIENCE, backoff=Backoff(attempts=1), spread=0).retries().retry(operation)
    assert operation.calls == 1
    assert Recovery(seconds=0.001).seconds == 0.001


def test_what_is_done_by_default() -> None:
    """docs/python.md tells of it."""
    assert (RECOVER.seconds, RECOVER.resend, RECOVER.backoff.attempts, RECOVER.spread) == (60, True, None, 0.25)
    assert Backoff().attempts is None


async def test_first_attempts_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the time that the policy says: a node that ends loses all its clients at once."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(20):
        assert await Recovery(spread=0.25).retries().retry(Operation()) == "done"
    assert len(set(slept)) == 20
    assert all(0 < seconds <= 0.25 for seconds in slept)
    slept.clear()
    assert await Recovery(spread=0).retries().retry(Operation()) == "done"
    assert slept == []


def test_a_node_that_stalls_is_left_before_a_publisher_gives_up() -> None:
    for publishing in (Client.publisher, Producer.__init__):
        assert 2 * ConnectionOptions().heartbeat < inspect.signature(publishing).parameters["confirm_timeout"].default


def test_what_may_be_stored_already_is_not_to_be_tried_again() -> None:
    assert not NotConfirmed("nobody knows").retriable


class Operation:
    """Fails with these errors, one after the other, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = iter(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        error = next(self._errors, None)
        if error is not None:
            raise error
        return "done"


async def test_it_tries_until_it_succeeds() -> None:
    operation = Operation(ConnectionClosed("1"), StreamNotAvailable("2"))
    assert await retry(operation, QUICK) == "done"
    assert operation.calls == 3


async def test_the_last_error_is_raised_when_attempts_are_used_up() -> None:
    operation = Operation(*[ConnectionClosed(str(number)) for number in range(10)])
    with pytest.raises(ConnectionClosed, match="3"):
        await retry(operation, QUICK)
    assert operation.calls == 4


@pytest.mark.parametrize("error", [AccessRefused(), ValueError("a slip"), asyncio.CancelledError()])
async def test_what_cannot_be_helped_ends_it_at_once(error: Exception) -> None:
    operation = Operation(error)
    with pytest.raises(type(error)):
        await retry(operation, QUICK)
    assert operation.calls == 1


async def test_the_time_is_bounded_also_inside_an_attempt() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    reason = ConnectionClosed("the loss")
    async with asyncio.timeout(PATIENCE):  # an attempt that is not bounded never ends
        with pytest.raises(ConnectionClosed, match="the loss"):
            await Retries(QUICK, 0.1).retry(hang, reason=reason)
        with pytest.raises(RequestTimeout):
            await Retries(QUICK, 0.1).retry(hang)


async def test_an_error_that_is_a_timeout_is_not_the_end_of_the_time() -> None:
    operation = Operation(RequestTimeout("the broker is slow"))
    assert await Retries(QUICK, PATIENCE).retry(operation) == "done"
    with pytest.raises(RequestTimeout, match="slow"):
        await Retries(Backoff(attempts=1), PATIENCE).retry(Operation(RequestTimeout("the broker is slow")))


async def lose(outages: Outages, *errors: Exception) -> None:
    loss = ConnectionClosed("lost")
    outages.begin(loss)

    async def attach() -> None:
        await operation()

    operation = Operation(*errors)
    await outages.recover(loss, attach)


async def test_losses_without_progress_are_one_outage() -> None:
    events: list[RecoveryEvent] = []
    outages = Outages(Recoveries(Recovery(backoff=QUICK), events.append), "s", "publisher")
    for _ in range(4):
        await lose(outages)
    with pytest.raises(ConnectionClosed, match="lost"):
        await lose(outages)
    assert [event.state for event in events[1::2]] == [RecoveryState.RECOVERED] * 4 + [RecoveryState.GIVEN_UP]
    assert [event.attempts for event in events[1::2]] == [1, 1, 1, 1, 0]
    assert all(event.state is RecoveryState.LOST for event in events[::2])


async def test_progress_ends_an_outage() -> None:
    """Each loss after it has all attempts again."""
    events: list[RecoveryEvent] = []
    outages = Outages(Recoveries(Recovery(backoff=QUICK), events.append), "s", "publisher")
    for _ in range(10):
        await lose(outages, ConnectionClosed("again"))
        outages.progress()
    assert [event.state for event in events] == [RecoveryState.LOST, RecoveryState.RECOVERED] * 10
    assert [event.attempts for event in events[1::2]] == [2] * 10
    with pytest.raises(ConnectionClosed, match="3"):
        await lose(outages, *[ConnectionClosed(str(number)) for number in range(ATTEMPTS)])
    assert (events[-1].state, events[-1].attempts) == (RecoveryState.GIVEN_UP, QUICK.attempts)


async def test_an_outage_that_is_cancelled_is_told_of() -> None:
    events: list[RecoveryEvent] = []
    recoveries = Recoveries(Recovery(), events.append)
    outages = Outages(recoveries, "s", "subscription")
    loss = ConnectionClosed("lost")
    outages.begin(loss)

    async def hang() -> None:
        await asyncio.Event().wait()

    task = recoveries.start(outages.recover(loss, hang))
    await asyncio.sleep(0)
    await recoveries.close()
    assert task.cancelled()
    for _ in range(2):
        outages.give_up(loss)
    assert [event.state for event in events] == [RecoveryState.LOST, RecoveryState.GIVEN_UP]
    assert not recoveries.can_help(loss)


async def test_a_recovery_that_breaks_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    recoveries = Recoveries(Recovery())

    async def slip() -> None:
        raise ZeroDivisionError

    task = recoveries.start(slip())
    await asyncio.wait((task,))
    for _ in itertools.repeat(None, 3):
        await asyncio.sleep(0)
    assert "a recovery failed" in caplog.text


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(("pause", "is_over"), [(STEADY + 0.1, True), (STEADY, False), (STEADY - 0.1, False)])
async def test_steady_seconds_end_an_outage(pause: float, is_over: bool) -> None:
    """Losses that lie hours apart use nothing up, though nothing comes of an idle subscription in between."""
    events: list[RecoveryEvent] = []
    outages = Outages(Recoveries(Recovery(backoff=QUICK), events.append), "s", "subscription")
    clock = Clock()
    outages._loop = clock  # type: ignore[assignment]
    for _ in range(ATTEMPTS):
        await lose(outages)
        clock.now += pause
    if is_over:
        await lose(outages)
    else:
        with pytest.raises(ConnectionClosed, match="lost"):
            await lose(outages)
    assert events[-1].state is (RecoveryState.RECOVERED if is_over else RecoveryState.GIVEN_UP)


async def test_steady_seconds_begin_when_it_has_recovered() -> None:
    """A recovery that takes long is no quiet time."""
    outages = Outages(Recoveries(Recovery(backoff=QUICK)), "s", "subscription")
    clock = Clock()
    outages._loop = clock  # type: ignore[assignment]

    async def attach() -> None:
        clock.now += STEADY * 2

    loss = ConnectionClosed("lost")
    for _ in range(ATTEMPTS):
        outages.begin(loss)
        await outages.recover(loss, attach)
        clock.now += 1
    outages.begin(loss)
    with pytest.raises(ConnectionClosed, match="lost"):
        await outages.recover(loss, attach)


async def test_the_time_of_an_outage_is_one_for_all_its_losses() -> None:
    """What a recovery took that held for a moment is used up."""
    retries = Retries(Backoff(attempts=1000, initial=0.001, maximum=0.001), 0.5)
    loop = asyncio.get_running_loop()

    async def slow() -> None:
        await asyncio.sleep(0.4)

    async def hang() -> None:
        await asyncio.Event().wait()

    await retries.retry(slow)
    begin = loop.time()
    with pytest.raises(ConnectionClosed, match="lost again"):
        await retries.retry(hang, reason=ConnectionClosed("lost again"))
    assert loop.time() - begin < 0.4


async def test_what_is_lost_for_good_is_given_up_at_once() -> None:
    events: list[RecoveryEvent] = []
    loss = AccessRefused()
    Outages(Recoveries(Recovery(), events.append), "s", "publisher").lose(loss)
    assert [(event.state, event.error, event.attempts) for event in events] == [
        (RecoveryState.LOST, loss, 0),
        (RecoveryState.GIVEN_UP, loss, 0),
    ]
