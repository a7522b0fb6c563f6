"""The publishing ids of a publisher's messages, and what a rejected id means to the ones behind it.

Under a reference, a broker drops and confirms every id up to the last one that it has stored. So an id that it has
rejected must be published again before later ones: otherwise it could never be stored, and would count as confirmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rstream_core.errors import ConnectionClosed, NotConfirmed, ProtocolError
from rstream_core.publishing.in_flight import InFlight, grows
from rstream_core.publishing.outgoing import Outgoing

MAX_ID = 2**64 - 1


class Numbering:
    """Gives out ids, and refuses those that must not follow a rejected one."""

    def __init__(
        self,
        stream: str,
        reference: str | None,
        ledger: InFlight,
        outgoing: Outgoing,
        last_id: Callable[[], Awaitable[int]],
    ) -> None:
        """``last_id`` asks the broker for the last id under the reference."""
        self.next = 0
        """The id that the next message gets, if nobody chooses it."""
        self._stream = stream
        self._reference = reference
        self._ledger = ledger
        self._outgoing = outgoing
        self._last_id = last_id

    async def take(self, chosen: Sequence[int] | None, count: int, *, may_repeat: bool) -> Sequence[int]:
        """Returns the ids for ``count`` messages: those that the caller has chosen, or the next ones.

        ``may_repeat``: waits where a chosen id is not above all that are in flight; otherwise raises ``ValueError``.
        Raises it too for ids that do not grow, and what ``follow_rejected`` raises.
        """
        ledger = self._ledger
        if ledger.has_rejected:
            await self.follow_rejected(chosen)
        if chosen is None:
            first = self.next
            if first + count > MAX_ID + 1:
                raise ProtocolError(
                    f"{self._outgoing.registered.connection.endpoint}: no publishing id is left in stream"
                    f" {self._stream!r} for the name {self._reference!r}, whose last one is {first - 1}"
                )
            return range(first, first + count)
        if not grows(chosen):
            raise ValueError("publishing ids must grow")
        if ledger and chosen[0] <= ledger.last_id:
            if not may_repeat:
                raise ValueError("publishing ids must grow")
            await self._outgoing.wait(lambda: not ledger)
        if not 0 <= chosen[0] <= chosen[-1] <= MAX_ID:
            raise ValueError(f"a publishing id is between 0 and 2**64-1; these are {chosen[0]} to {chosen[-1]}")
        return chosen

    def note(self, last: int) -> None:
        """An id is used: the next one lies behind it."""
        self.next = max(self.next, last + 1)

    async def follow_rejected(self, chosen: Sequence[int] | None) -> None:
        """Raises ``NotConfirmed`` if these ids must not follow an id that was rejected under the reference.

        Waits first until no message is in flight. ``chosen`` is None where the publisher counts: if only ids that it
        counted were rejected, it goes on after the broker's last id.
        """
        ledger = self._ledger
        await self._outgoing.wait(lambda: self._outgoing.is_attached and not ledger)
        rejected = ledger.rejected
        if not rejected:
            if chosen is None:
                self.note(await self._ask())  # the embedded broker takes ids again after this
                ledger.recounted()
            return
        what = f"publishing id {rejected[0]} of {self._reference!r} in stream {self._stream!r} was rejected"
        if chosen is None or not ledger.takes_up(chosen):
            raise NotConfirmed(f"{what}; later ones are not taken until it is published again")
        last = await self._ask()
        if last >= rejected[0]:
            raise NotConfirmed(f"{what}, and the broker has gone on to {last}: it would drop it, and confirm it")
        ledger.forget_rejected(chosen[-1])

    async def _ask(self) -> int:
        """Asks the broker for its last id, again after a recovery. Raises the error that ended the publisher."""
        while True:
            try:
                return await self._last_id()
            except ConnectionClosed:
                if self._outgoing.is_attached:
                    raise
                await self._outgoing.wait(lambda: self._outgoing.is_attached)
