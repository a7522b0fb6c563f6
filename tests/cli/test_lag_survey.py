"""How much a refresh of ``lag`` asks for: requests, subscriptions and connections, counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rstream_cli.lag_survey import READS_AT_ONCE, REMEMBERED_FOR, STREAMS_AT_ONCE, LagSurvey
from rstream_core import Client, EmbeddedBroker
from rstream_core.connecting.connection import Connection
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
