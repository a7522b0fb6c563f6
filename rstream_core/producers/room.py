"""The room of an outbox: bounds on messages and bytes, and the line of calls that wait for it.

Calls get room in the order in which they came; a later call waits behind an earlier one, even if its messages would
fit. A call that was let in counts as *coming* until its task runs, so that no other call takes its room.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from rstream_core.errors import RstreamError


class Room:
    """For the tasks of one event loop."""

    def __init__(self, max_messages: int, max_bytes: int, taken: Callable[[], tuple[int, int]]) -> None:
        """``taken``: returns how many messages, and bytes, are there now, without those that come."""
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        # Half of the bounds, so that one batch gathers while another is confirmed.
        self.half_messages = max(max_messages // 2, 1)
        self.half_bytes = max(max_bytes // 2, 1)
        self._taken = taken
        self.waiting: OrderedDict[asyncio.Future[RstreamError | None], tuple[int, int]] = OrderedDict()
        """Calls that wait for room, in their order, with the number and the bytes of their messages. The result of a
        future is None for a call that may enter, or the error that it must raise."""
        self.coming = 0
        """Calls that were let in and whose tasks have not run since."""
        self.coming_messages = self.coming_bytes = 0

    @property
    def has_line(self) -> bool:
        """Whether a call that comes now has an earlier call before it."""
        return bool(self.waiting or self.coming)

    def has_room(self, messages: int, size: int) -> bool:
        """Returns whether a call may enter now: there is room, and no earlier call waits."""
        return not (self.waiting or self.coming) and self._fits(messages, size)

    def _fits(self, messages: int, size: int) -> bool:
        """Returns whether that many messages and bytes fit the bounds. Where nothing is there, everything fits.

        A call that is larger than half of the bounds needs only half of them free: it waits until its messages are
        written, so it cannot take more room.
        """
        there, bytes_there = self._taken()
        there += self.coming_messages
        if not there:
            return True
        messages = min(messages, self.half_messages)
        size = min(size, self.half_bytes)
        return there + messages <= self.max_messages and bytes_there + self.coming_bytes + size <= self.max_bytes

    async def wait(self, messages: int, size: int) -> None:
        """Waits for room, behind earlier calls. The caller must then enter without another await.

        Raises the error with which the calls in the line are refused. A cancelled call leaves the line, or gives its
        room back; ``admit`` then lets others in.
        """
        turn: asyncio.Future[RstreamError | None] = asyncio.get_running_loop().create_future()
        self.waiting[turn] = messages, size
        try:
            refusal = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self._came(messages, size)
            self.waiting.pop(turn, None)
            raise
        if refusal is not None:
            raise refusal.with_traceback(None)  # all waiting calls raise the same object
        self._came(messages, size)

    def _came(self, messages: int, size: int) -> None:
        self.coming -= 1
        self.coming_messages -= messages
        self.coming_bytes -= size

    def admit(self) -> None:
        """Lets waiting calls in, from the front, while there is room."""
        while self.waiting:
            turn, (messages, size) = next(iter(self.waiting.items()))
            if not turn.cancelled():
                if not self._fits(messages, size):
                    break
                self.coming += 1
                self.coming_messages += messages
                self.coming_bytes += size
                turn.set_result(None)
            del self.waiting[turn]

    def refuse(self, error: RstreamError) -> None:
        """Makes all calls that wait raise this error."""
        while self.waiting:
            turn, _ = self.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(error)
