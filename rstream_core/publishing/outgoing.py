"""The way of a publisher's frames onto its connection: what has room, what is written, what is written again.

Calls wait here for room in flight, for the broker to read, and for a recovery to end. All of them wait for one event,
which is set whenever something changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rstream_core.errors import NotConfirmed, RequestTimeout, RstreamError
from rstream_core.publishing.columns import FRAME_TARGET, check_frames
from rstream_core.publishing.confirm_timer import ConfirmTimer
from rstream_core.publishing.in_flight import Batch, InFlight
from rstream_core.publishing.registered_publisher import RegisteredPublisher


class Outgoing:
    """Writes batches, and keeps them in the ledger. For the tasks of one event loop."""

    def __init__(
        self,
        ledger: InFlight,
        confirm_timeout: float | None,
        check: Callable[[], Awaitable[None]],
        on_silence: Callable[[NotConfirmed], None],
    ) -> None:
        """``check`` raises where the publisher has ended. ``on_silence`` ends it: the broker has confirmed nothing for
        ``confirm_timeout`` seconds, or has read nothing."""
        self.registered: RegisteredPublisher
        """The connection that is written to, or was the last one."""
        self.is_attached = False
        """Whether that one can be written to."""
        self.is_closed = False
        """Whether nothing more is to be published: ``check`` raises then."""
        self.sent_again = 0
        """See ``Publisher.sent_again``."""
        self._ledger = ledger
        self._check = check
        self._on_silence = on_silence
        self._timer = ConfirmTimer(confirm_timeout, ledger.oldest_time, self._not_confirmed)
        self._loop = asyncio.get_running_loop()
        self._progress = asyncio.Event()
        self._waiting = 0
        """How many calls wait for it."""

    def wake(self) -> None:
        """Something has changed for those who wait."""
        if self._waiting:
            self._progress.set()

    def attach(self, registered: RegisteredPublisher) -> None:
        """From now on batches are written there."""
        self.registered, self.is_attached = registered, True
        if self._ledger:
            self._timer.start()
        self.wake()

    def detach(self) -> None:
        """There is no connection. May be called repeatedly."""
        self.is_attached = False
        self._timer.stop()

    def frame_size(self, registered: RegisteredPublisher) -> int:
        """Bytes of a frame there, unless a single message takes more."""
        return min(registered.limit, FRAME_TARGET, self._ledger.max_size // 2)

    def may_write(self, messages: int, size: int) -> bool:
        """Returns whether so many messages and bytes may be written now."""
        if self.is_attached and not self.is_closed and self.registered.connection.is_writable:
            return self._ledger.has_room(messages, size)
        return False

    async def room(self, messages: int, size: int) -> None:
        """Waits until so many messages and bytes may be written.

        Raises what ``check`` raises. Ends the publisher if it has nothing in flight and the broker reads nothing for
        the confirm timeout.
        """
        await self._check()
        while not self.may_write(messages, size):
            # While messages are in flight, the timer measures. With none, other users have filled the connection.
            limit = self._timer.timeout if self.is_attached and not self._ledger else None
            try:
                async with asyncio.timeout(limit):
                    await self.next_progress()
            except TimeoutError:
                self._on_silence(NotConfirmed(f"the broker has read nothing for {limit:g} s"))
            await self._check()

    def write(self, batch: Batch) -> None:
        """Writes a batch, and takes it in. Raises ``ConnectionClosed``; then it is neither written nor taken in. Raises
        ``MessageTooLarge``, too."""
        batch.written_at = self._loop.time()
        registered = self.registered
        if len(batch.frame) - 4 > registered.limit:  # it was cut for an earlier connection
            registered.connection.write(self._frames(registered, batch))
        else:
            registered.connection.write((batch.frame,))
        batch.writes = 1
        self.add(batch)

    def _frames(self, registered: RegisteredPublisher, batch: Batch) -> list[bytes]:
        """Returns frames of the open messages that fit there. Raises ``MessageTooLarge`` where one does not."""
        frames = batch.again(registered.id, self.frame_size(registered), self._ledger.most)
        check_frames(frames, registered.limit)
        return frames

    def add(self, batch: Batch) -> None:
        """Takes in a batch, written or not: one that is not is written by the recovery."""
        self._ledger.add(batch)
        if not self._timer.is_set and self.is_attached:
            self._timer.start()

    async def write_again(
        self, registered: RegisteredPublisher, interrupted: Callable[[], RstreamError | None]
    ) -> None:
        """Writes all that is in flight to another connection, in its order. ``attach`` follows.

        Raises what ``interrupted`` returns, ``MessageTooLarge`` and ``UnsupportedByBroker``.
        """
        for batch in self._ledger.open():
            while not registered.connection.is_writable and interrupted() is None:
                await self.next_progress()
            if (error := interrupted()) is not None:
                raise error
            if batch.open:
                if batch.has_filters:
                    registered.require_filters()
                registered.connection.write(self._frames(registered, batch))
                batch.written_at = self._loop.time()
                batch.writes += 1
                if batch.writes > 1 and (batch.sub_entry is not None or not self._ledger.is_named):
                    self.sent_again += batch.open * batch.weight

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Waits until ``ready`` returns True. Raises what ``check`` raises."""
        while not ready():
            await self._check()
            await self.next_progress()

    async def flush(self, timeout: float | None) -> None:
        """Waits until nothing is in flight, at most ``timeout`` seconds. Raises ``RequestTimeout``."""
        ledger = self._ledger
        try:
            async with asyncio.timeout(timeout):
                while ledger:
                    await self.next_progress()
        except TimeoutError:
            raise RequestTimeout(f"messages that are not confirmed within {timeout:.3g} s: {ledger.messages}") from None

    async def next_progress(self) -> None:
        """Waits until something changes."""
        self._progress.clear()
        self._waiting += 1
        try:
            await self._progress.wait()
        finally:
            self._waiting -= 1

    def _not_confirmed(self, seconds: float) -> None:
        self._on_silence(NotConfirmed(f"the broker did not confirm within {seconds:g} s"))
