"""``Producer``, as programs of the published client know it, over the core's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

from rstream_core.callbacks import resolved
from rstream_core.compat.connecting import Connecting, connection_of, losses_of
from rstream_core.compat.constants import MAX_ITEM_ALLOWED
from rstream_core.compat.recovery import IReliableEntity
from rstream_core.compat.restarting import Restartable
from rstream_core.compat.utils import RawMessage
from rstream_core.producers.filter_extraction import FilterValueExtractor
from rstream_core.producers.outbox_jobs import Message
from rstream_core.producers.producer import LINGER, Statuses, as_batch
from rstream_core.producers.producer import Producer as CoreProducer
from rstream_core.protocol.amqp import AMQPMessage as CoreMessage
from rstream_core.types import CompressionType
from rstream_core.types import ConfirmationStatus as CoreStatus

__all__ = ["ConfirmationStatus", "Producer", "RawMessage"]

_NEVER_ANSWERED = -1
_SENT = (CoreMessage, bytes)
"""What the core publishes as it is."""


@dataclass(slots=True)
class ConfirmationStatus:
    """The outcome of one message: the argument of ``on_publish_confirm``."""

    message_id: int
    """The publishing id."""
    is_confirmed: bool = False
    response_code: int = 0
    """0 for a confirmed message; for others the broker's code, or -1 where it never answered."""


OnConfirm = Callable[[ConfirmationStatus], Awaitable[None] | None]


class Producer(Restartable, CoreProducer, IReliableEntity):
    """Publishes messages. See the core's class of this name; what is here adapts its arguments and its messages.

    ``default_batch_publishing_delay`` is the core's ``linger``: 5 ms where it is not given. The event loop gets a turn
    after every ``default_context_switch_value`` calls of ``send``. After ``close()`` it may be started again.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        max_publishers_by_connection: int = MAX_ITEM_ALLOWED,
        default_batch_publishing_delay: float | None = None,
        default_context_switch_value: int = 1000,
        filter_value_extractor: FilterValueExtractor | None = None,
        **connection: Unpack[Connecting],
    ) -> None:
        self._losses = losses_of(connection, self, self._restore)
        self._switch_after = default_context_switch_value
        self._sends = 0
        told = connection_of(connection)

        def begin() -> None:
            CoreProducer.__init__(
                self,
                host,
                port,
                recovery=self._losses.policy,
                on_recovery=self._losses,
                max_publishers_by_connection=max_publishers_by_connection,
                linger=LINGER if default_batch_publishing_delay is None else default_batch_publishing_delay,
                filter_value_extractor=_extractor(filter_value_extractor),
                **told,
            )

        self._begin = begin
        begin()

    async def close(self) -> None:
        """See the core's method."""
        try:
            await super().close()
        finally:
            await self._losses.close()

    # Publishing.

    async def send(
        self,
        stream: str,
        message: Message,
        publisher_name: str | None = None,
        on_publish_confirm: OnConfirm | None = None,  # type: ignore[override]
    ) -> None:
        """See the core's method."""
        await super().send(stream, as_message(message), publisher_name, _told(on_publish_confirm))
        self._sends += 1
        if self._sends > self._switch_after:
            self._sends = 0
            await asyncio.sleep(0)

    async def send_batch(
        self,
        stream: str,
        batch: Sequence[Message],
        publisher_name: str | None = None,
        on_publish_confirm: OnConfirm | None = None,  # type: ignore[override]
    ) -> list[int]:
        """See the core's method. Raises ``ValueError`` for an empty batch."""
        messages = _as_messages(batch)
        return await super().send_batch(stream, messages, publisher_name, _told(on_publish_confirm))

    async def confirmed(self, stream: str, message: Message, publisher_name: str | None, statuses: Statuses) -> int:
        """See the core's method, of which ``send_wait`` is made."""
        return await super().confirmed(stream, as_message(message), publisher_name, statuses)

    async def send_sub_entry(
        self,
        stream: str,
        sub_entry_messages: Sequence[Message],
        compression_type: CompressionType = CompressionType.No,
        publisher_name: str | None = None,
        on_publish_confirm: OnConfirm | None = None,  # type: ignore[override]
    ) -> int:
        """See the core's method. Raises ``ValueError`` for an empty batch."""
        messages = _as_messages(sub_entry_messages)
        told = _told(on_publish_confirm)
        return await super().send_sub_entry(stream, messages, compression_type, publisher_name, told)

    # Streams.

    async def stream_exists(self, stream: str, on_close_event: bool = False) -> bool:
        """See the core's method; ``on_close_event`` makes no difference."""
        return await super().stream_exists(stream)

    async def _restore(self, stream: str) -> None:
        """For a strategy of the program's own: the next message opens a publisher where the stream has its leader."""
        await self._client.metadata(stream)


def as_message(message: Any) -> Message:
    """What the core publishes: anything with ``__bytes__``, and perhaps a ``publishing_id``, is a raw message."""
    if isinstance(message, _SENT) or not hasattr(message, "__bytes__"):
        return message
    return RawMessage(bytes(message), getattr(message, "publishing_id", None))


def _as_messages(batch: Sequence[Any]) -> Sequence[Message]:
    messages = list(map(as_message, as_batch(batch)))
    if not messages:
        raise ValueError("an empty batch cannot be sent")
    return messages


def _told(callback: OnConfirm | None) -> Callable[[CoreStatus], Awaitable[None] | None] | None:
    """The core's callback; what is no function goes on to the core, which says so."""
    return partial(_tell, callback) if callable(callback) else callback


def _tell(callback: OnConfirm, status: CoreStatus) -> Awaitable[None] | None:
    code = 0 if status.is_confirmed else status.response_code or _NEVER_ANSWERED
    return callback(ConfirmationStatus(status.message_id, status.is_confirmed, code))


def _extractor(extract: FilterValueExtractor | None) -> FilterValueExtractor | None:
    """The program's function gets bytes as a ``RawMessage``."""
    if extract is None or not callable(extract):
        return extract

    def of_message(message: Any) -> Any:
        return extract(RawMessage(message) if isinstance(message, bytes) else message)

    return of_message


def as_key(extract: Callable[[Any], Any]) -> Callable[[Any], Awaitable[str]]:
    """A routing extractor whose keys may be anything with a ``str``."""

    async def key(message: Any) -> str:
        return str(await resolved(extract(message)))

    return key
