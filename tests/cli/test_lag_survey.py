"""How much a refresh of ``lag`` asks for, counted; and which errors are about one stream, and which about all."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rstream_cli.lag_survey import READS_AT_ONCE, REMEMBERED_FOR, STREAMS_AT_ONCE, LagSurvey
from rstream_cli.lags import Unknown
from rstream_cli.management.address import parse_management_uri
from rstream_cli.management.api import open_api
from rstream_cli.management.errors import ManagementUnavailable
from rstream_cli.management.http_client import HttpClient
from rstream_core import (
    AccessRefused,
    AuthenticationFailure,
    Client,
    ConnectionClosed,
    ConnectionFailed,
    CredentialsFailed,
    EmbeddedBroker,
    HostNotFound,
    InternalError,
    LeaderNotAvailable,
    RequestTimeout,
    RstreamError,
    ServerError,
    StreamNotAvailable,
)
from rstream_core.connecting import locator
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.recovery import Backoff
from rstream_core.protocol import commands as c
from tests.brokers import broker_at
from tests.clients import options_for, publish

PARTITIONS = 100
NAMES = [f"name-{number}" for number in range(20)]


class Asked:
    """What all connections ask for."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self.subscriptions = self.most_subscriptions = 0

    @contextmanager
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        request, open_ = Connection.request, Connection._open

        async def counting(connection: Connection, message: Any, *rest: Any, **settings: Any) -> Any:
            self.requests[type(message).__name__] += 1
            self.subscriptions += isinstance(message, c.Subscribe) - isinstance(message, c.Unsubscribe)
            self.most_subscriptions = max(self.most_subscriptions, self.subscriptions)
            return await request(connection, message, *rest, **settings)

        async def opening(*arguments: Any) -> Connection:
            self.connections += 1
            return await open_(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "request", counting)
            patch.setattr(Connection, "_open", opening)
            yield


async def fill(client: Client, stream: str) -> None:
    """A chunk for each name, of which each name has read one more than the one before it; and one that none has."""
    await publish(client, stream, *[[b"x"] * 5] * (len(NAMES) + 1))
    for number, name in enumerate(NAMES):
        await client.store_offset(stream, name, 5 * number + 4)


async def test_a_hundred_partitions_with_twenty_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker() as broker:
        options = options_for(broker_at(broker.uri))
        async with Client(options) as client:
            streams = await client.create_super_stream("p", partitions=PARTITIONS)
            for at in range(0, PARTITIONS, 10):
                await asyncio.gather(*(fill(client, stream) for stream in streams[at : at + 10]))
            await client.query_offset(streams[-1], NAMES[-1])  # all are stored
        now = time.time()
        async with Client(options, idle_timeout=60) as client:
            survey = LagSurvey(client, "p", NAMES, None, lambda: now)
            first, second, later = Asked(), Asked(), Asked()
            with first.counted(monkeypatch):
                lags = await survey.refresh()
            with second.counted(monkeypatch):
                again = await survey.refresh()
            now += REMEMBERED_FOR
            with later.counted(monkeypatch):
                await survey.refresh()
    assert len(lags.known) == PARTITIONS * len(NAMES)
    expected = {name: 5 * (len(NAMES) - number) for number, name in enumerate(NAMES)}
    assert {lag.name: lag.messages for lag in lags.known if lag.stream == "p-7"} == expected
    assert [lag.messages for lag in lags.known] == [lag.messages for lag in again.known]
    assert [lag.seconds for lag in lags.known] == [lag.seconds for lag in again.known]
    everyone = PARTITIONS * len(NAMES)
    # At first: the last chunk of each stream, and each other chunk that a name leads to, which is one less.
    assert first.requests["QueryOffset"] == everyone
    assert first.requests["Subscribe"] == PARTITIONS + everyone - PARTITIONS
    # Then: the last chunk of each stream.
    assert second.requests["QueryOffset"] == everyone
    assert second.requests["Subscribe"] == PARTITIONS
    assert second.requests.total() - everyone <= 8 * PARTITIONS
    assert later.requests["Subscribe"] == first.requests["Subscribe"]
    for asked in (first, second, later):
        assert asked.subscriptions == 0
        assert asked.most_subscriptions <= STREAMS_AT_ONCE + READS_AT_ONCE
    # One for questions, one for chunks.
    assert (first.connections, second.connections, later.connections) == (2, 0, 0)


async def test_the_names_of_a_stream_take_one_request_of_the_management_api(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = HttpClient.get

    async def counting(http: HttpClient, target: str, *rest: Any) -> Any:
        asked.append(target)
        return await get(http, target, *rest)

    monkeypatch.setattr(HttpClient, "get", counting)
    with EmbeddedBroker(management_port=0) as broker:
        options = options_for(broker_at(broker.uri))
        address = parse_management_uri(str(broker.management_uri))
        async with Client(options, idle_timeout=60) as client:
            streams = await client.create_super_stream("p", partitions=5)
            for stream in streams:
                await fill(client, stream)
            await client.query_offset(streams[-1], NAMES[-1])  # all are stored
            with open_api(options, address, ssl.create_default_context) as api:
                survey = LagSurvey(client, "p", [], api, time.time)
                for _ in range(2):
                    asked.clear()
                    protocol = Asked()
                    with protocol.counted(monkeypatch):
                        lags = await survey.refresh()
                    assert len(lags.known) == len(streams) * len(NAMES)
                    assert sorted(asked) == [f"/api/stream/%2F/{stream}/tracking" for stream in streams]
                    assert protocol.requests["QueryOffset"] == 0
                await survey.others(lags)
                assert asked[len(streams) :] == ["/api/stream/consumers/%2F"]


@pytest.fixture
async def partitions() -> AsyncIterator[tuple[Client, list[str]]]:
    """A client, and the partitions of a super stream ``p``; each has a message that ``n`` has read, and one more."""
    with EmbeddedBroker() as broker:
        async with Client(options_for(broker_at(broker.uri)), idle_timeout=60, recovery=None) as client:
            streams = await client.create_super_stream("p", partitions=2 * STREAMS_AT_ONCE + 8)
            for stream in streams:
                await publish(client, stream, [b"x"] * 2)
                await client.store_offset(stream, "n", 0)
            await client.query_offset(streams[-1], "n")  # all are stored
            yield client, streams


async def test_streams_without_a_leader_are_waited_for_once(
    partitions: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would hold one of the places for the whole wait, and the others would come too late for a scrape."""
    client, streams = partitions
    down = set(streams[1:])
    asked: Counter[str] = Counter()
    request = Connection.request

    async def answering(connection: Connection, message: Any, *rest: Any, **settings: Any) -> Any:
        if isinstance(message, c.Metadata):
            asked.update(message.streams)
            if down.intersection(message.streams):
                raise StreamNotAvailable("not now")
        return await request(connection, message, *rest, **settings)

    monkeypatch.setattr(Connection, "request", answering)
    monkeypatch.setattr(locator, "LEADER_WAIT", Backoff(attempts=8, initial=0.02, maximum=0.02))
    survey = LagSurvey(client, "p", ["n"], None, time.time)
    lags = await survey.refresh()
    assert [(lag.stream, lag.messages) for lag in lags.known] == [(streams[0], 1)]
    assert {each.stream for each in lags.unknown} == down
    waited_for = [stream for stream in down if asked[stream] == 8]
    assert 0 < len(waited_for) <= STREAMS_AT_ONCE + 1
    assert all(asked[stream] == 1 for stream in down.difference(waited_for))
    for _ in range(2):
        asked.clear()
        assert {each.stream for each in (await survey.refresh()).unknown} == down
        assert all(asked[stream] == 1 for stream in down)
    down.remove(streams[1])
    assert [lag.stream for lag in (await survey.refresh()).known] == streams[:2]
    asked.clear()
    down.add(streams[1])  # it has had a leader again, so it is waited for
    await survey.refresh()
    assert asked[streams[1]] == 8


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("node2:5552 refuses the connection"),
        HostNotFound("node2 does not resolve"),
        ConnectionClosed("node2:5552 has ended the connection"),
        LeaderNotAvailable("no leader"),
        RequestTimeout("no answer"),
        AccessRefused("not yours"),
        InternalError("a fault"),
        ServerError("response code 99", response_code=99),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("question", ["chunk_span", "find_gap"])
async def test_an_error_of_one_stream_hides_no_other(
    partitions: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch, error: RstreamError, question: str
) -> None:
    client, streams = partitions
    ask = getattr(client, question)

    async def answering(stream: str, *rest: Any) -> Any:
        if stream in down:
            raise error
        return await ask(stream, *rest)

    monkeypatch.setattr(client, question, answering)
    survey = LagSurvey(client, "p", ["n"], None, time.time)
    down = [streams[3]]
    lags = await survey.refresh()
    assert lags.unknown == [Unknown(streams[3], error)]
    assert sorted(lag.stream for lag in lags.known) == sorted(set(streams) - set(down))
    down = streams
    with pytest.raises(type(error)) as caught:
        await survey.refresh()
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        ManagementUnavailable("the API is down"),
        CredentialsFailed("no token"),
        AuthenticationFailure("not this password"),
        ConnectionFailed("node1:5552 refuses the connection"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_all_streams_is_raised_at_once(
    partitions: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch, error: RstreamError
) -> None:
    """So is a lost connection where the broker does not answer any more."""
    client, streams = partitions
    asked = 0

    async def fails(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        if isinstance(error, ConnectionFailed):
            monkeypatch.setattr(client, "metadata", fails)
        raise error

    monkeypatch.setattr(client, "chunk_span", fails)
    with pytest.raises(type(error)) as caught:
        await LagSurvey(client, "p", ["n"], None, time.time).refresh()
    assert caught.value is error
    assert asked <= 2 * STREAMS_AT_ONCE < len(streams)
