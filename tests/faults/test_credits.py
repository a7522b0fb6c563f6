"""The bound that credits are: it holds over outages, and nothing of it gets lost."""

from __future__ import annotations

from typing import Any

import pytest

from rstream_core import Client
from rstream_core.connecting.connection import Connection
from rstream_core.protocol import commands as c
from tests import inside
from tests.clients import FIRST, bodies, eventually, publish, take
from tests.proxy import Proxy
from tests.recovering import RECOVERED, Events

CREDIT = 5


@pytest.mark.parametrize(
    ("chunks", "is_taken", "again"),
    [
        (0, False, CREDIT),
        (2, False, CREDIT - 2),
        (2, True, CREDIT - 2),  # one that the application holds, and one that waits
        (CREDIT, False, 1),  # where there is no room, the newest is dropped, and comes again
        (CREDIT, True, 1),
    ],
)
async def test_the_credit_after_a_recovery_is_what_is_not_held(
    through: Client,
    proxy: Proxy,
    client: Client,
    stream: str,
    events: Events,
    chunks: int,
    is_taken: bool,
    again: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []
    request, send = Connection.request, Connection.send

    async def keep(connection: Connection, message: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(message, c.Subscribe):
            given.append(message.credit)
        return await request(connection, message, *rest, **more)

    def keep_too(connection: Connection, message: Any, **more: Any) -> None:
        if isinstance(message, c.Credit):
            given.append(message.credit)
        send(connection, message, **more)

    monkeypatch.setattr(Connection, "request", keep)
    monkeypatch.setattr(Connection, "send", keep_too)
    await publish(client, stream, *[[body] for body in bodies(chunks)])
    subscription = await through.subscribe(stream, FIRST, credit=CREDIT)
    await eventually(lambda: len(inside.undelivered(subscription)) == chunks)
    found = await take(subscription, 1) if is_taken else {}
    proxy.cut()
    await eventually(lambda: events.states[-1:] == [RECOVERED])
    assert given == [CREDIT, again]
    await publish(client, stream, *[[body] for body in bodies(3 * CREDIT, "more")])
    await inside.round_trip(subscription)  # whatever it has sent has come by now
    assert len(inside.undelivered(subscription)) <= CREDIT - is_taken
    found |= await take(subscription, chunks + 3 * CREDIT - len(found))
    assert list(found.values()) == [*bodies(chunks), *bodies(3 * CREDIT, "more")]
    subscription.finish()
    delivered = len(found) - (CREDIT - again)  # without what was kept over the outage
    assert sum(given[1:]) - delivered + inside.owed(subscription) == CREDIT
    assert inside.owed(subscription) < CREDIT / 2  # credits are given back in halves
    await subscription.close()


async def test_what_is_finished_while_it_subscribes_again_gives_its_credit_at_once(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only when another chunk is asked for, or has come. It is half of the credit here, and so it is due."""
    await publish(client, stream, [b"x"])
    subscription = await through.subscribe(stream, FIRST, credit=2)
    await take(subscription, 1)
    given: list[int] = []
    request, send = Connection.request, Connection.send

    async def finish_first(connection: Connection, message: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(message, c.Subscribe):
            given.append(message.credit)
            subscription.finish()
        return await request(connection, message, *rest, **more)

    def keep(connection: Connection, message: Any, **more: Any) -> None:
        if isinstance(message, c.Credit):
            given.append(message.credit)
        send(connection, message, **more)

    monkeypatch.setattr(Connection, "request", finish_first)
    monkeypatch.setattr(Connection, "send", keep)
    proxy.cut()
    await eventually(lambda: events.states[-1:] == [RECOVERED])
    assert given == [1, 1]
    await subscription.close()
