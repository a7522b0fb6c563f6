"""A fixture for pytest: ``rstream_broker``, a broker for one test.

pytest finds the fixture itself where this package is installed. The package is separate from the core, so that the
start of pytest does not import the core: only the use of the fixture does.
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

    The broker runs in a thread of its own, so that it serves tests with and without an event loop, and stops at the end
    of the test.
    """
    from rstream_core import EmbeddedBroker  # noqa: PLC0415 - see above

    with EmbeddedBroker() as broker:
        yield broker
