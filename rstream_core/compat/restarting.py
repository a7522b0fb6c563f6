"""``close(); start()`` again: what was closed begins anew, with the arguments that it was made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rstream_core.facade import Facade


class Restartable(Facade):
    """A producer or a consumer that may be started again. To come before the core's class among the bases."""

    _begin: Callable[[], None]
    """Makes it anew."""
    _being_closed: asyncio.Future[None] | None = None
    """Done when the ``close`` that goes on has returned."""

    async def start(self, *, wait: float = 0.0) -> None:
        """See the core's method. After ``close()`` it begins anew, perhaps in another event loop.

        While another task closes it, this waits for that.
        """
        await self._begin_again()
        await super().start(wait=wait)

    async def close(self) -> None:
        """See the core's method."""
        mine = None
        if self._being_closed is None:
            mine = self._being_closed = asyncio.get_running_loop().create_future()
        try:
            await super().close()  # type: ignore[safe-super]  # there is one behind it
        finally:
            if mine is not None:
                self._being_closed = None
                mine.set_result(None)

    async def _begin_again(self) -> None:
        """What ``start`` does first."""
        while self._closed and self._being_closed is not None:
            await asyncio.wait((self._being_closed,))
        if self._closed:
            self._begin()
