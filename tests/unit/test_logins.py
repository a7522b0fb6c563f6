"""Where the user name and the password of a connection come from."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from rstream_core import (
    AuthenticationFailure,
    Client,
    ConnectionFailed,
    ConnectionOptions,
    Credentials,
    CredentialsFailed,
    EmbeddedBroker,
    Endpoint,
)
from rstream_core.connecting.logins import Logins, ask
from tests.clients import PATIENCE, closed_port
from tests.token_program import signed

GUEST = Credentials()


async def test_calls_at_the_same_time_share_one_of_the_function() -> None:
    asked: list[int] = []

    async def credentials() -> Credentials:
        asked.append(len(asked))
        await asyncio.sleep(0.01)
        return Credentials("u", f"token {len(asked)}")

    logins = Logins()
    found = await asyncio.gather(*(logins.credentials(credentials) for _ in range(100)))
    assert set(found) == {Credentials("u", "token 1")}
    assert await logins.credentials(credentials) == Credentials("u", "token 2")
    assert await logins.credentials(GUEST) is GUEST


async def test_the_function_is_cancelled_with_the_last_caller() -> None:
    ended: list[str] = []

    async def credentials() -> Credentials:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return GUEST

    logins = Logins()
    first, second = (asyncio.create_task(logins.credentials(credentials)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert ended == []
    second.cancel()
    await asyncio.wait([second])
    assert ended == ["cancelled"]


def raising(error: Exception) -> Callable[[], Credentials]:
    def credentials() -> Credentials:
        raise error

    return credentials


async def late() -> Credentials:
    await asyncio.Event().wait()
    return GUEST


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raising(LookupError("no token")), r"failed: LookupError\('no token'\)$"),
        (raising(TimeoutError("no token")), r"failed: TimeoutError\('no token'\)$"),
        (raising(CredentialsFailed("my words")), "^my words$"),
        (lambda: "token", "returned a str, not Credentials$"),
        (lambda: Credentials("u", 5), "password is a str"),  # type: ignore[arg-type]
        (lambda: Credentials("u", "p" * 40_000), "password takes at most"),
        (late, "took longer than 0.05 s$"),
    ],
)
async def test_a_function_that_gives_no_credentials(function: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstream_core.connecting.logins.CREDENTIALS_TIMEOUT", 0.05)
    with pytest.raises(CredentialsFailed, match=words) as caught:
        await ask(function)
    assert caught.value.retriable
    options = ConnectionOptions((Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2)), function)
    async with Client(options, recovery=None) as client:
        with pytest.raises(CredentialsFailed, match=words):  # no node is blamed, and no other one is tried
            await client.start()


async def test_time_for_the_function_is_no_time_of_the_connection() -> None:
    async def credentials() -> Credentials:
        await asyncio.sleep(0.5)
        return GUEST

    async with EmbeddedBroker() as broker:
        endpoint = Endpoint("127.0.0.1", broker.port)
        for balanced in (False, True):
            options = ConnectionOptions(
                (endpoint,), credentials, connect_timeout=0.4, load_balancer_mode=balanced, connection_name="test"
            )
            async with asyncio.timeout(PATIENCE), Client(options) as client:
                await client.create_stream("s", exists_ok=True)
                publisher = await client.publisher("s")
                await publisher.close()


async def test_what_no_node_was_reached_with_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise who waits for a broker would be asked for a password once a second."""
    asked: list[int] = []

    async def credentials() -> Credentials:
        asked.append(len(asked))
        return GUEST

    with closed_port() as port:
        async with Client(ConnectionOptions((Endpoint("127.0.0.1", port),), credentials), recovery=None) as client:
            for _ in range(3):
                with pytest.raises(ConnectionFailed):
                    await client.start()
            assert len(asked) == 1
            monkeypatch.setattr("rstream_core.connecting.logins.UNUSED_SECONDS", 0.0)
            for _ in range(2):  # what is kept already is tried once more
                with pytest.raises(ConnectionFailed):
                    await client.start()
            assert len(asked) == 2


@pytest.mark.parametrize("refused", [False, True])
async def test_what_a_node_has_taken_or_refused_is_not_used_again(refused: bool) -> None:
    logins = Logins()
    asked: list[int] = []

    def credentials() -> Credentials:
        asked.append(len(asked))
        return Credentials("u", f"{len(asked)}")

    first = await logins.credentials(credentials)
    with pytest.raises(ConnectionFailed), logins.trial(first):
        raise ConnectionFailed("down")
    assert await logins.credentials(credentials) is first
    assert (await logins.others(credentials)).password == "2"
    with contextlib.suppress(AuthenticationFailure), logins.trial(first):
        if refused:
            raise AuthenticationFailure
    assert (await logins.credentials(credentials)).password == "3"


@pytest.mark.parametrize(("left", "is_kept"), [(60.0, True), (1.0, False), (-5.0, False)])
async def test_a_token_is_tried_again_while_it_holds(left: float, is_kept: bool) -> None:
    token = Credentials("u", signed({"exp": time.time() + left}))
    logins = Logins()
    with pytest.raises(ConnectionFailed), logins.trial(token):
        raise ConnectionFailed("down")
    found = await logins.credentials(lambda: GUEST)
    assert found is (token if is_kept else GUEST)
