"""The mark of a copy: the offset that it stores in its source, which is gone where that is deleted and made anew."""

from __future__ import annotations

from contextlib import suppress

from rstream_core.copying.access import CopyAccess
from rstream_core.errors import CopyRefused, OffsetNotFound, UnsupportedByBroker
from rstream_core.hints import Hint


class Mark:
    """Moves the mark of a copy that is running. An ``OffsetKeeper``.

    A source may be made anew while a copy reads on after an outage. A mark in the new one would hide that from the next
    run, so it is stored only where the one before it still is.
    """

    def __init__(self, client: CopyAccess, offset: int) -> None:
        """``offset``: the mark that is stored already."""
        self._client = client
        self._offset = offset

    async def store_offset(
        self, stream: str, reference: str, offset: int, *, verify_timeout: float | None = None
    ) -> None:
        """Raises ``CopyRefused`` where the mark is gone, and what ``Client.store_offset`` raises."""
        try:
            await self._client.query_offset(stream, reference)
        except OffsetNotFound:
            first: int | None = None
            with suppress(UnsupportedByBroker):
                first = (await self._client.stats(stream)).first_offset
            if first is None or first <= self._offset:  # otherwise retention took it
                raise CopyRefused(
                    f"stream {stream!r} was deleted and made anew while it was copied under the name {reference!r}:"
                    f" its first messages are missing up to an offset of at most {offset}",
                    hint=Hint.COPY_OF_ANOTHER,
                ) from None
        await self._client.store_offset(stream, reference, offset, verify_timeout=verify_timeout)
        self._offset = offset
