"""Fixtures of the tests of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rstream_core import Client
from tests.brokers import Broker
from tests.cli.conftest import killable
from tests.clients import arguments, client, options, options_for, stream, super_stream
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, Events

__all__ = ["arguments", "client", "killable", "options", "stream", "super_stream"]


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(options_for(broker).endpoints[0]) as opened:
        yield opened


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def through(proxy: Proxy, broker: Broker, events: Events) -> AsyncIterator[Client]:
    """A client that recovers eagerly, and reaches the broker through the proxy."""
    async with Client(options_through(proxy, broker), recovery=EAGER, on_recovery=events) as opened:
        yield opened
