"""What the broker's parts see of each other, where an import would close a circle.

A stream knows the publishers and subscriptions that use it, these know their connection, and a connection knows the
streams. The lower one of each pair knows the other as one of these protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from rstream_core.broker.groups import Group, Member
from rstream_core.broker.segment import Span
from rstream_core.broker.session import ServerSession


class Connection(Protocol):
    """A client's connection, as its publishers, its subscriptions, and the table of all connections see it."""

    peer: str
    """The client's address, for the log."""
    loop: asyncio.AbstractEventLoop
    session: ServerSession
    transport: asyncio.Transport

    @property
    def is_writable(self) -> bool:
        """Whether more data may be sent."""

    def send_confirms(self, publisher_id: int, ids: Sequence[bytes]) -> None:
        """Sends one PublishConfirm."""

    def send_errors(self, publisher_id: int, ids: Sequence[bytes], code: int) -> None:
        """Sends one PublishError."""

    def delivered(self, chunks: int, size: int, parts: Sequence[bytes | memoryview], span: Span | None) -> None:
        """Sends and counts chunks of ``size`` bytes: ``parts``, and then ``span``.

        Raises ``ChunkError`` or ``OSError``.
        """

    def flush(self) -> None:
        """Writes what the session has to send."""

    def hold(self, reason: str) -> None:
        """Stops reading and handling frames until every reason is released."""

    def release(self, reason: str) -> None:
        """Takes back one ``hold``."""

    def abort(self, why: str) -> None:
        """Ends the connection without a Close. ``why`` is for the log."""

    def drop_stream(self, name: str) -> None:
        """Drops the publishers and subscriptions of a stream, and tells the client that it is not available."""


class Publisher(Protocol):
    """A publisher, as the writer of its stream sees it."""

    reference: str

    def confirm(self, ids: Sequence[bytes]) -> None: ...
    def reject(self, ids: Sequence[bytes], code: int) -> None: ...
    def hold(self) -> None:
        """Stops reading from this publisher's connection until ``release``."""

    def release(self) -> None: ...


class StreamPublisher(Publisher, Protocol):
    """A publisher, as its stream sees it."""

    id: int
    confirmed: int
    errored: int

    @property
    def connection(self) -> Connection: ...


class StreamSubscription(Member, Protocol):
    """A subscription, as its stream sees it."""

    id: int
    credit: int
    group: Group | None
    properties: Mapping[str, str]
    offset: int
    """The first offset of the last chunk that was sent; before that, where it begins."""
    consumed: int
    """Entries that were sent."""

    @property
    def connection(self) -> Connection: ...

    def pump(self) -> None:
        """Sends the chunks that are there, within credit and buffer."""
