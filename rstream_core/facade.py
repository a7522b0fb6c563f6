"""The base of producers and consumers: start, close and ``async with``, the client below, and the event loop.

There are four of these views of a client: ``Producer``, ``Consumer``, and the two for super streams, each of which has
one of the former inside.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rstream_core.client import Client
from rstream_core.errors import AlreadyClosed, NotConfirmed
from rstream_core.loops import LoopGuard

logger = logging.getLogger("rstream_core")


class Facade(ABC):
    """What an application starts, uses in the tasks of one event loop, and closes."""

    _closed = True
    """True until ``__init__`` has succeeded, so that a ``__del__`` does not warn of an object that was never made."""

    def __init__(self, what: str, client: Client, *, owns_client: bool) -> None:
        """``what``: the object in messages, such as "this producer". ``owns_client``: whether to close it at the end.

        To be called last: the object is complete then.
        """
        self._what = what
        self._client = client
        self._owns_client = owns_client
        self._guard = LoopGuard(what)
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except NotConfirmed:
            if error is None:
                raise
            logger.exception("closing after another error")

    @property
    def client(self) -> Client:
        """The client in use: for further administration, or to be shared."""
        return self._client

    async def start(self, *, wait: float = 0.0) -> None:
        """Connects and logs in. Optional: the first call that needs a connection does it too.

        ``wait``: see ``Client.start``.
        """
        self._guard.check()
        await self._client.start(wait=wait)

    @abstractmethod
    async def close(self) -> None:
        """Ends what was begun, and disconnects, unless the client was passed. May be called repeatedly."""

    async def _close_client(self) -> None:
        """Closes the client, unless somebody else owns it."""
        if self._owns_client:
            await self._client.close()

    def _check_open(self) -> None:
        """Raises ``AlreadyClosed``, or ``ConfigurationError`` in another event loop than that of the first call."""
        if self._closed:
            raise AlreadyClosed(f"{self._what} is closed")
        self._guard.check()
