"""A publisher as a connection and its broker know it: an id of one byte, and the sequence under a reference."""

from __future__ import annotations

from rstream_core.connecting.connection import Connection, PublisherHandler
from rstream_core.connecting.pool import Lease
from rstream_core.errors import PreconditionFailed, PublishingBlocked
from rstream_core.protocol import commands as c
from rstream_core.protocol.wire import MESSAGE_OVERHEAD

MAX_FRAME = 2**31 - 1
"""The largest frame, in bytes, where the broker sets no limit."""


class RegisteredPublisher:
    """One registration: from the declaration until the connection is lost or the id is given back."""

    def __init__(self, lease: Lease, stream: str, reference: str | None) -> None:
        self.id = lease.id
        self.connection: Connection = lease.connection
        self.limit = self.connection.frame_max or MAX_FRAME
        """Bytes of the largest frame, without its size field."""
        self.max_message_size = self.limit - MESSAGE_OVERHEAD
        """Bytes of the largest message that fits a frame."""
        self._stream = stream
        self._reference = reference

    async def declare(self, handler: PublisherHandler, max_in_flight: int) -> None:
        """Registers with the connection, which calls ``handler`` from now on, and with the broker.

        Raises ``PublishingBlocked``, ``PreconditionFailed`` where this client has a publisher of that reference, and
        what a request raises.
        """
        connection = self.connection
        connection.session.expect_confirms(max_in_flight)
        connection.publishers[self.id] = handler  # before the request: frames may arrive before its answer
        connection.streams[handler] = self._stream
        what = f"publishing to stream {self._stream!r}"
        message = c.DeclarePublisher(self.id, self._reference or "", self._stream)
        try:
            await connection.request(message, what)
        except PreconditionFailed:
            if self._reference is not None and self._is_taken_here(handler):
                raise PreconditionFailed(f"{what}: this client has a publisher {self._reference!r} already") from None
            # The broker's other reasons for this code cannot apply: a used id, and a reference that is too long.
            raise PublishingBlocked(f"{what}: {PublishingBlocked.summary}") from None

    def _is_taken_here(self, handler: PublisherHandler) -> bool:
        wanted = self._stream, self._reference
        others = (other for other in self.connection.publishers.values() if other is not handler)
        return any((other.stream, other.reference) == wanted for other in others)

    def remove(self, handler: PublisherHandler) -> None:
        """Takes ``handler`` out of the connection's tables. May be called repeatedly."""
        if self.connection.publishers.get(self.id) is handler:
            del self.connection.publishers[self.id]
        self.connection.streams.pop(handler, None)

    async def last_id(self) -> int:
        """Asks the broker for the last publishing id under the reference; 0 for none, or without a reference."""
        if not self._reference:
            return 0
        answer = await self.connection.request(
            c.QueryPublisherSequence(self._reference, self._stream),
            f"the last publishing id of {self._reference!r} in stream {self._stream!r}",
        )
        return answer.sequence  # a sequence of 0 means none: the first id is 1

    def require_filters(self) -> None:
        """Raises ``UnsupportedByBroker`` where the broker takes no filter values."""
        self.connection.session.require(c.Key.PUBLISH, "3.13", "publishing with filter values", version=2)
