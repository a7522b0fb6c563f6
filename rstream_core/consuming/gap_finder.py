"""Finds the gaps of one subscription: asks the node that it reads from where the stream begins, and tells the listener.

Where arriving chunks skip offsets, the chunks behind the jump must be held until the answer is here: so the application
is told of a gap before it reads on. What the answers mean, ``gaps`` knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rstream_core.connecting.connection import Connection
from rstream_core.consuming.gaps import Gap, GapListener, GapWatch
from rstream_core.consuming.offset_questions import first_offset
from rstream_core.errors import ConnectionClosed, OffsetsGone, RequestTimeout, RstreamError, ServerError
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

logger = logging.getLogger("rstream_core")

LOOK_TIMEOUT = 5.0
"""Seconds for finding where the stream begins. Together with those of ``turn_taking``: less than the broker's 60."""
LOOKS = 3
"""How often a node that does not answer is asked where the stream begins, while chunks are held for the answer."""


class GapFinder:
    """The gaps of one subscription. Without a listener it looks for none."""

    def __init__(
        self, stream: str, listener: GapListener | None, *, fails: bool = False, is_filtered: bool = False
    ) -> None:
        """``fails``: a gap raises ``OffsetsGone``, after the listener was told of it.

        ``is_filtered``: the broker leaves chunks out, so only a gap at the start can be found.
        """
        self._stream = stream
        self._listener = listener
        self.fails = fails
        self._is_filtered = is_filtered
        self.watch = GapWatch(follows=listener is not None and not is_filtered)
        """Takes the chunks that arrive, and says which of them must be held. ``settle`` asks about its doubts."""

    async def start(
        self, connection: Connection, spec: ConsumerOffsetSpecification, *, is_resumed: bool = False
    ) -> Gap | None:
        """Notes where reading starts, and returns the gap there, if any. To be called just before the node reads.

        ``is_resumed``: the subscription goes on after chunks that have arrived. With a filter, the broker may have read
        far beyond that before, so the gap cannot be known. Waits at most ``LOOK_TIMEOUT``. Raises
        ``ConnectionClosed``.
        """
        offset = spec.offset if spec.offset_type is OffsetType.OFFSET else None
        self.watch.start(offset, keep=is_resumed)
        if offset is None or self._listener is None or (is_resumed and self._is_filtered):
            return None
        try:
            begins = await self._look(connection)
        except (ServerError, RequestTimeout) as error:  # Subscribe reports any real problem
            logger.debug("looking where stream %r begins: %s", self._stream, error)
            return None
        found = None if begins is None else self.watch.started(offset, begins)
        return None if found is None else Gap(self._stream, *found)

    def stop(self) -> None:
        """Nothing is read any more: the chunks that were held are dropped, and with them all doubts."""
        self.watch.start(None)

    async def settle(self, current: Callable[[], Connection | None], wake: Callable[[], None]) -> None:
        """Asks until no doubt is open, or until ``current`` returns None, as long as there is no connection.

        Calls ``wake`` whenever chunks may be free again. Raises ``OffsetsGone`` with ``fails``: the chunks behind the
        gap are held for ever then.
        """
        attempts = 0
        while (doubts := self.watch.doubts) and (connection := current()) is not None:
            begins: int | None = None
            try:
                begins = await self._look(connection)
            except ConnectionClosed:
                if connection is current():
                    return
                continue
            except RstreamError as error:
                attempts += 1
                if attempts < LOOKS and error.retriable:
                    continue
                jumps = ", ".join(f"{doubt.expected} to {doubt.arrived - 1}" for doubt in doubts)
                logger.warning("are messages of stream %r missing in offsets %s? %s", self._stream, jumps, error)
            try:
                for found in self.watch.settle(doubts, begins):
                    self.tell(Gap(self._stream, *found))
            except OffsetsGone as error:
                self.watch.bar(error.first)
                raise
            finally:
                wake()

    def tell(self, gap: Gap | None) -> None:
        """Tells the listener of a gap, if there is one. Raises ``OffsetsGone`` with ``fails``."""
        if gap is None:
            return
        assert self._listener is not None
        self._listener(gap)
        if self.fails:
            raise OffsetsGone(str(gap), stream=gap.stream, first=gap.first, last=gap.last)

    async def _look(self, connection: Connection) -> int | None:
        """Returns where the stream begins on this node; None where it is empty, or cannot tell."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await first_offset(connection, self._stream)
        except TimeoutError as error:
            if isinstance(error, RstreamError):
                raise
            raise RequestTimeout(f"where stream {self._stream!r} begins: no answer within {LOOK_TIMEOUT:g} s") from None
