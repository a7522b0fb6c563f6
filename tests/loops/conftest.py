"""Everything here runs on uvloop's event loop, the embedded broker and its thread too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from rstream_core.broker import EmbeddedBroker
from tests.brokers import Broker, broker_at
from tests.clients import arguments, client, options, stream
from tests.conftest import event_loops_of
from tests.faults.conftest import events, proxy, through

__all__ = ["arguments", "client", "events", "options", "proxy", "stream", "through"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    uvloop = pytest.importorskip("uvloop")
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    with event_loops_of("uvloop"):  # the thread makes its loop here
        broker = EmbeddedBroker().__enter__()
    try:
        yield broker_at(broker.uri)
    finally:
        broker.__exit__(None, None, None)
