"""Where a subscription starts to read: at first, after a loss, and in each turn of a single active consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.consuming.offset_questions import query_offset, resolve_offset
from rstream_core.consuming.offsets import MOVING, from_offset
from rstream_core.consuming.progress import Progress
from rstream_core.errors import OffsetNotFound, RequestTimeout, RstreamError, StreamDoesNotExist
from rstream_core.types import ConsumerOffsetSpecification, OffsetType

QUERY_TIMEOUT = 10.0
"""Seconds for reading the stored offset."""

Position = Callable[[ConsumerOffsetSpecification], Awaitable[int]]
"""Finds the offset that a specification means, for brokers without ResolveOffsetSpec."""


class Start:
    """The start of one subscription. Every method that asks a broker raises an ``RstreamError`` where that fails."""

    def __init__(self, stream: str, own: ConsumerOffsetSpecification, position: Position, *, recovers: bool) -> None:
        """``own`` is where the application wants to start. Without ``recovers`` nobody subscribes a second time."""
        self._stream = stream
        self._own = own
        self._position = position
        self._recovers = recovers
        self.next: int | None = None
        """The offset to subscribe at again: after the last chunk that arrived, or the offset that a moving start meant.
        None: at the own start."""

    async def first(self, connection: Connection) -> ConsumerOffsetSpecification:
        """Returns where the first Subscribe starts, and notes what that means.

        A start that moves with the stream is fixed: messages published in an outage before the first chunk must not be
        missed.
        """
        self.next = await self._fixed(connection)
        return self._own

    def again(self) -> ConsumerOffsetSpecification:
        """Returns where a later Subscribe starts."""
        return self._own if self.next is None else from_offset(self.next)

    async def of_turn(
        self, locator: Locator, name: str, progress: Progress, connection: Connection
    ) -> ConsumerOffsetSpecification:
        """Returns where a turn begins if the listener does not say it: see ``Progress.last_done``.

        Waits at most ``QUERY_TIMEOUT`` for the offset that is stored under ``name``.
        """
        stored: int | None = None
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                try:
                    stored = await query_offset(locator, self._stream, name)
                except OffsetNotFound:
                    if progress.last_done(None) is None:
                        progress.started_at(await self._fixed(connection))
        except TimeoutError as error:
            if isinstance(error, RstreamError):
                raise
            what = f"the offset of {name!r} in stream {self._stream!r}"
            raise RequestTimeout(f"{what}: no answer within {QUERY_TIMEOUT:g} s") from None
        last = progress.last_done(stored)
        return self._own if last is None else from_offset(last + 1)

    async def made_anew(self, seen: int) -> StreamDoesNotExist | None:
        """Returns an error if the stream ends before offset ``seen``: it was deleted and made anew during an outage."""
        there = await self._position(ConsumerOffsetSpecification(OffsetType.NEXT))
        if there >= seen:
            return None
        return StreamDoesNotExist(
            f"stream {self._stream!r} was deleted and created again: it ends at offset {there}, and offset"
            f" {seen - 1} was received before"
        )

    async def _fixed(self, connection: Connection) -> int | None:
        """Returns the offset that the own start means now; None if it does not move, or if nothing needs the answer."""
        if not self._recovers or self._own.offset_type not in MOVING:
            return None
        offset = await resolve_offset(connection, self._stream, self._own)
        return await self._position(self._own) if offset is None else offset
