"""A fixture for pytest: ``rstream_broker``, a broker for one test.

pytest finds it by itself where this package is installed. It stands beside the core and not in it, so that a pytest
that starts does not import the core: that happens when the fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rstream_core import EmbeddedBroker


@pytest.fixture
def rstream_broker() -> Iterator[EmbeddedBroker]:
    """An empty broker on a free port of this machine: ``rstream_broker.uri``.

    It runs in a thread of its own, so that it serves tests with and without an event loop, and goes with the test.
    """
    from rstream_core import EmbeddedBroker  # noqa: PLC0415 - see above

    with EmbeddedBroker() as broker:
        yield broker
