"""The renewal of one connection's token, without a connection: the clock and the functions are the test's own."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rstream_core import AuthenticationFailure, ConnectionClosed, Credentials, CredentialsFailed
from rstream_core.connecting import renewal
from rstream_core.connecting.renewal import Renewal
from tests.clients import PATIENCE
from tests.token_program import signed


def token(expires: float, name: str = "t") -> Credentials:
    return Credentials("u", signed({"exp": expires, "name": name}))


class World:
    """A token's clock, which runs fast; what is asked, and what the connection is told."""

    ahead = 0.0
    """Seconds that the token's clock has been set forward."""

    def __init__(self, *answers: Credentials | Exception, refuses: Exception | None = None) -> None:
        self.begin: float | None = None
        self.answers = list(answers)
        self.refuses = refuses
        self.asked = 0
        self.logins: list[Credentials] = []
        self.is_over = asyncio.Event()
        self.renewal = Renewal("here", self.ask, self.authenticate, now=self.now)

    def now(self) -> float:
        return 1000.0 + asyncio.get_running_loop().time() - (self.begin or 0) + self.ahead

    async def ask(self) -> Credentials:
        self.asked += 1
        answer = self.answers.pop(0)
        if not self.answers:
            self.is_over.set()
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def authenticate(self, credentials: Credentials) -> None:
        self.logins.append(credentials)
        if self.refuses is not None:
            raise self.refuses

    async def run(self, first: Credentials) -> None:
        self.begin = asyncio.get_running_loop().time()
        self.renewal.start(first)
        async with asyncio.timeout(PATIENCE):
            await self.is_over.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        self.renewal.stop()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of 100 s is renewed at once, and has time however busy the machine is."""
    monkeypatch.setattr("rstream_core.tokens.MIN_RENEWAL_DELAY", 0.01)
    monkeypatch.setattr("rstream_core.tokens.RENEWAL_MARGIN", 100.0)
    monkeypatch.setattr("rstream_core.tokens._SHARE", 1.0)


async def test_each_token_is_followed_by_the_next() -> None:
    tokens = [token(1100.0 + number / 50, str(number)) for number in range(4)]
    world = World(*tokens[1:])
    await world.run(tokens[0])
    assert world.logins == tokens[1:]


async def test_what_never_expires_is_not_renewed() -> None:
    for password in (Credentials("u", "p"), Credentials("u", signed({"sub": "u"}))):
        world = World()
        world.renewal.start(password)
        await asyncio.sleep(0.02)
        assert world.asked == 0


async def test_a_failure_is_tried_again_until_the_token_has_expired(caplog: pytest.LogCaptureFixture) -> None:
    first, second = token(1100), token(2000, "next")
    world = World(CredentialsFailed("down"), CredentialsFailed("still down"), second)
    with caplog.at_level(logging.WARNING):
        await world.run(first)
    assert world.logins == [second]
    assert [record.getMessage() for record in caplog.records] == [
        "here: the token is not renewed yet, 100 s before it expires: down",
        "here: the token is not renewed yet, 100 s before it expires: still down",
    ]

    world = World(*[CredentialsFailed("down")] * 2)
    world.begin = asyncio.get_running_loop().time()
    world.renewal.start(token(1100))
    async with asyncio.timeout(PATIENCE):
        await world.is_over.wait()
    world.ahead = 1000.0  # before the second answer is raised
    await asyncio.sleep(0.1)
    assert world.asked == 2
    assert caplog.records[-1].getMessage() == "here: the token was not renewed before it expired: down"


async def test_tokens_that_have_expired_when_they_come_are_renewed_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a clock that is an hour ahead: each token was asked for at once, for ever."""
    monkeypatch.setattr("rstream_core.tokens.MIN_RENEWAL_DELAY", 0.5)
    delays: list[float] = []
    credentials: list[Credentials] = [token(1000.0 - 3600, str(number)) for number in range(2000)]

    async def never() -> Credentials:
        raise AssertionError

    async def login(_: Credentials) -> None:
        raise AssertionError

    one = Renewal("here", never, login, now=lambda: 1000.0)
    monkeypatch.setattr(one, "_wait", lambda _credentials, _expires, delay: delays.append(delay))
    with caplog.at_level(logging.WARNING):
        for each in credentials:
            one.start(each)
    assert delays[:9] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert set(delays[9:]) == {60}
    assert len(caplog.records) == 1
    assert "has expired by this machine's clock, which may be wrong" in caplog.text
    # Once the clock is right, all is as before.
    delays.clear()
    one.start(token(1000.0 + 3600))
    one.start(credentials[0])
    assert delays[1] == 0.5


async def test_the_same_token_again_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """As of a program that keeps its token until shortly before it expires."""
    first, second = token(1100), token(2000, "next")
    world = World(first, first, second)
    await world.run(first)
    assert world.logins == [second]
    assert caplog.records == []


async def test_a_refusal_is_told_and_the_end_of_the_connection_is_not(caplog: pytest.LogCaptureFixture) -> None:
    world = World(token(2000, "next"), refuses=AuthenticationFailure("no"))
    await world.run(token(1100))
    assert "not renewed yet" in caplog.text
    caplog.clear()
    world = World(token(2000, "next"), refuses=ConnectionClosed("gone"))
    await world.run(token(1100))
    assert caplog.records == []


async def test_stopping_cancels_what_is_asked() -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def ask() -> Credentials:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Credentials()

    async def never(_: Credentials) -> None:
        raise AssertionError

    stopped = Renewal("here", ask, never, now=lambda: 1000.0)
    stopped.start(token(1000.0))
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
        stopped.stop()
        await cancelled.wait()


async def test_a_clock_that_is_set_back_or_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens go by the time of the day: it is looked at again before a token is asked for."""
    monkeypatch.setattr(renewal, "LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(renewal, "CLOCK_STEP", 0.001)
    clock = 1000.0
    asked: asyncio.Queue[float] = asyncio.Queue()

    async def ask() -> Credentials:
        asked.put_nowait(clock)
        return Credentials("u", "p")

    async def login(_: Credentials) -> None:
        pass

    one = Renewal("here", ask, login, now=lambda: clock)
    one.start(token(1200.0))
    await asyncio.sleep(0.1)
    assert asked.empty()  # although the event loop's clock went on
    clock = 1150.0  # as after a sleep of the machine
    assert await asyncio.wait_for(asked.get(), PATIENCE) == 1150.0
