"""Fixtures of the tests of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.brokers import Broker
from tests.clients import arguments, client, options, options_for, stream
from tests.proxy import Proxy
from tests.recovering import Events

__all__ = ["arguments", "client", "options", "stream"]


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(options_for(broker).endpoints[0]) as opened:
        yield opened


@pytest.fixture
def events() -> Events:
    return Events()
