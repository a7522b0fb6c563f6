"""Subscribes on a connection, and gives the broker credits: how many chunks it may send.

A chunk's credit is given back when the application is done with the chunk, so a slow application holds back the broker
instead of filling the memory. Credits are gathered, and given back once they are half of what the broker may send
ahead: a frame for each of them would cost as much as a small chunk. So at any time the broker has more than half of the
credit, less what waits here.
"""

from __future__ import annotations

from collections.abc import Mapping

from rstream_core.connection import Connection, SubscriptionHandler
from rstream_core.offsets import wire_spec
from rstream_core.protocol import commands as c
from rstream_core.types import ConsumerOffsetSpecification

MAX_CREDIT_OF_FRAME = 0x7FFF
"""The largest credit in one Subscribe or Credit. RabbitMQ 4.3.6 reads the credit of a Credit frame as a signed 16-bit
number: it takes a larger one as negative, and sends no more chunks, without an error (observed). It reads that of a
Subscribe frame correctly."""


class Intake:
    """The place of one subscription on a connection, and its credits there."""

    def __init__(self, stream: str, credit: int, properties: Mapping[str, str]) -> None:
        """``credit`` is how many chunks the broker may send ahead. ``properties`` go into each Subscribe."""
        self._stream = stream
        self._credit = credit
        self._properties = properties
        self._half = max(credit // 2, 1)
        self.id = 0
        """The subscription id of the protocol."""
        self.owed = 0
        """Credits to be given back. Negative where the broker was given more than there is room for."""

    @property
    def is_due(self) -> bool:
        """Whether so much is owed that it should be given back."""
        return self.owed >= self._half

    def room(self, held: bool) -> int:
        """Returns how many chunks may wait when a new Subscribe is sent, so that it can grant at least one credit.

        ``held``: the application holds a chunk, or a piece of one.
        """
        return self._credit - held - 1

    async def subscribe(
        self,
        connection: Connection,
        number: int,
        handler: SubscriptionHandler,
        spec: ConsumerOffsetSpecification,
        held: int,
    ) -> None:
        """Subscribes under the id ``number``, and has the connection call ``handler`` from now on.

        The credit is the initial one less the ``held`` chunks that have arrived and are not done with. Raises what
        ``Connection.request`` raises. If it raises or is cancelled, the broker may have subscribed all the same.
        """
        self.id = number
        credit = min(max(self._credit - held, 1), MAX_CREDIT_OF_FRAME)
        self.owed = self._credit - held - credit
        connection.subscriptions[number] = handler
        connection.streams[handler] = self._stream
        await connection.request(
            c.Subscribe(number, self._stream, wire_spec(spec), credit, self._properties),
            f"consuming stream {self._stream!r}",
        )

    def give_back(self, connection: Connection) -> None:
        """Gives back all that is owed, unless the connection has ended."""
        while self.owed > 0 and connection.is_open:
            credit = min(self.owed, MAX_CREDIT_OF_FRAME)
            connection.send(c.Credit(self.id, credit))
            self.owed -= credit

    @staticmethod
    def leave(connection: Connection, number: int, handler: SubscriptionHandler) -> None:
        """The connection calls ``handler`` no more. May be called repeatedly, also for an id that it never had."""
        if connection.subscriptions.get(number) is handler:
            del connection.subscriptions[number]
        connection.streams.pop(handler, None)
