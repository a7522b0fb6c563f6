"""``Producer``: publishes to any number of streams, one message or many at a time.

Each (stream, publisher name) has an outbox. It gathers single messages, and sends them as a batch when there are
enough of them or the linger time is over. The layers below the outbox work on batches: see ``publisher``.

No message is lost in silence: if it is not confirmed, its ``on_publish_confirm`` is called, and where it has none, the
next call on the producer raises ``NotConfirmed``.

A call passes up to three stages: its filter values are extracted, its outbox is opened, and it waits for room in the
outbox. Each stage wakes callers in their order, and a call awaits nothing between two stages: so the order of the calls
is kept. All three belong to one stream and publisher name, and never hold up calls for another.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from threading import get_ident
from typing import Any, TypeVar, Unpack

from rstream_core.administration import StreamAdministration, SuperStreamAdministration
from rstream_core.arguments import ConnectionArguments, options_from
from rstream_core.callbacks import Callbacks
from rstream_core.checks import MAX_OFFSET, check_callable, check_whole
from rstream_core.client import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, Client
from rstream_core.connecting.pool import MAX_IDS
from rstream_core.connecting.recovery import RECOVER, Recovery, RecoveryListener
from rstream_core.errors import (
    ConfigurationError,
    NotConfirmed,
    RequestTimeout,
    error_from_code,
)
from rstream_core.hints import Hint
from rstream_core.producers.filter_extraction import FilterExtraction, FilterValueExtractor
from rstream_core.producers.losses import raise_together
from rstream_core.producers.outbox import Outbox
from rstream_core.producers.outbox_jobs import ConfirmCallback, Message, OutboxKey, Told
from rstream_core.producers.outboxes import Outboxes, OutboxSettings
from rstream_core.protocol.amqp import AMQPMessage
from rstream_core.protocol.compression import check_compression
from rstream_core.types import CompressionType, ConfirmationStatus

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

LINGER = 0.005
BATCH_SIZE = 1000


class ProducerArguments(ConnectionArguments, total=False):
    """The keyword arguments of ``Producer``, for classes that pass them on."""

    client: Client | None
    recovery: Recovery | None
    on_recovery: RecoveryListener | None
    max_publishers_by_connection: int
    linger: float
    batch_size: int
    max_in_flight: int
    max_in_flight_bytes: int
    confirm_timeout: float | None
    close_timeout: float
    filter_value_extractor: FilterValueExtractor | None


class Producer(StreamAdministration, SuperStreamAdministration):
    """Publishes messages; connects to a stream's leader when the stream is first used. For tasks of one event loop.

    ``linger`` is how long, in seconds, ``send`` may hold a message back to gather others, and ``batch_size`` how
    many messages end the wait. Of each stream and publisher name, at most ``max_in_flight`` messages and
    ``max_in_flight_bytes`` bytes wait here or for their confirms: beyond that, every call waits, in the order of the
    calls. A single call with more messages than the bounds allow may exceed them, and returns when they are written.

    A call that is cancelled, or times out, takes back its unwritten messages: they are never published. Its
    ``on_publish_confirm`` is called for each of them, with ``was_sent`` False.

    ``filter_value_extractor``, a function or a coroutine function, returns the filter value of a message, by which
    consumers can skip it. It must not publish. Calls raise ``UnsupportedByBroker`` before RabbitMQ 3.13.

    Messages of one stream and publisher name are stored in the order of the calls, whichever methods were used.

    After a lost connection the producer goes on as ``recovery`` says, and calls ``on_recovery``: see ``Client``. A
    ``client`` that is passed keeps its own ``recovery`` and ``on_recovery``.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        client: Client | None = None,
        recovery: Recovery | None = RECOVER,
        on_recovery: RecoveryListener | None = None,
        max_publishers_by_connection: int = MAX_IDS,
        linger: float = LINGER,
        batch_size: int = BATCH_SIZE,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        confirm_timeout: float | None = 30.0,
        close_timeout: float = 10.0,
        filter_value_extractor: FilterValueExtractor | None = None,
        **connection: Unpack[ConnectionArguments],
    ) -> None:
        if batch_size < 1 or linger < 0:
            raise ValueError("batch_size is at least 1, and linger at least 0")
        max_in_flight = check_whole("max_in_flight", max_in_flight, 1, MAX_OFFSET)
        max_in_flight_bytes = check_whole("max_in_flight_bytes", max_in_flight_bytes, 1, MAX_OFFSET)
        if filter_value_extractor is not None:
            check_callable("filter_value_extractor", filter_value_extractor)
        self._extraction = None if filter_value_extractor is None else FilterExtraction(filter_value_extractor)
        self._close_timeout = close_timeout
        self._callbacks = Callbacks()
        own = client or Client(
            options_from(host, port, "rstream-producer", **connection),
            recovery=recovery,
            on_recovery=on_recovery,
            max_publishers_by_connection=max_publishers_by_connection,
        )
        settings = OutboxSettings(linger, batch_size, max_in_flight, max_in_flight_bytes, confirm_timeout)
        self._outboxes = Outboxes(own, settings, self._check_open)
        super().__init__("this producer", own, owns_client=client is None)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._closed:
            return
        open_messages = self._outboxes.unsettled
        if open_messages:
            _warn(
                f"unclosed Producer: {open_messages} messages are lost, unless its event loop goes on; "
                "close() publishes what is held back, and waits for confirms",
                ResourceWarning,
                stacklevel=2,
            )

    async def close(self) -> None:
        """Publishes the held messages, waits for confirms (at most ``close_timeout`` seconds), and disconnects.

        Where the broker does not answer, disconnecting may take some seconds more. Raises ``NotConfirmed`` where
        messages without a callback were not confirmed; the producer is closed then, too. May be called repeatedly.

        Where a callback raised a ``BaseException`` that is no ``Exception`` and does not end the program, such as that
        of ``pytest.fail()``, this method, ``flush`` or the next call that publishes raises it, whichever comes first.
        """
        if self._closed:
            return
        self._guard.check()
        self._closed = True
        try:
            errors = await self._outboxes.close(self._close_timeout, self._callbacks)
        finally:
            await self._close_client()
        try:
            raise_together(errors)
        finally:
            self._callbacks.check()

    # Publishing.

    async def send(
        self,
        stream: str,
        message: Message,
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> None:
        """Publishes one message, in a batch with others.

        ``on_publish_confirm`` is called once, on the event loop, in a copy of this call's context variables, and may
        be a coroutine function. Its exceptions are logged. With a ``publisher_name``, the broker deduplicates messages
        by ``message.publishing_id``, or by a number that counts on from the last one that the broker knows.

        Raises ``MessageTooLarge``, the error for which the stream cannot be reached, or ``NotConfirmed`` where earlier
        messages without a callback were lost. The message of a call that raises is not published, unless the error
        says that a batch failed.
        """
        told = self._bound(on_publish_confirm)
        value = None
        if self._extraction is not None:
            (value,) = await self._filter_values(self._extraction, (stream, publisher_name), (message,))
        outboxes = self._outboxes
        try:
            outbox = outboxes.there.get((stream, publisher_name))
        except TypeError:  # that is no key
            _check_names(stream, publisher_name)
            raise
        guard = self._guard
        if (
            outbox is None
            or (publisher := outbox.publisher).error is not None  # what ``is_dead`` looks at, in one call less
            or publisher.is_stopped
            or outboxes.entrances
            or self._callbacks.escaped is not None
            or get_ident() != guard.thread
            or not guard.loop.is_running()
        ):
            outbox = await self._outbox(stream, publisher_name)
        waiting = outbox.add(message, told, value)
        if waiting is not None:
            await waiting

    async def send_batch(
        self,
        stream: str,
        batch: Sequence[Message],
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> list[int]:
        """Publishes several messages at once and returns their publishing ids. The fastest way to publish.

        Returns once they are written; ``on_publish_confirm`` is called for each. Raises the same errors as ``send``.
        For a message that is too large it raises before any message of the batch is sent.
        """
        told = self._bound(on_publish_confirm)
        batch = as_batch(batch)
        values = None
        if self._extraction is not None:
            values = await self._filter_values(self._extraction, (stream, publisher_name), batch)
        outbox = await self._outbox(stream, publisher_name)
        return await outbox.publish(batch, told, values)

    async def send_wait(
        self, stream: str, message: Message, publisher_name: str | None = None, timeout: float | None = 5
    ) -> int:
        """Publishes one message, waits for its confirm, and returns its publishing id. The slowest way to publish.

        Raises ``RequestTimeout`` after ``timeout`` seconds in all (None: without a limit), the broker's error where it
        rejects the message, and ``NotConfirmed`` where it never answers. After a timeout or a cancellation, a message
        that was written may be stored. One that was not written is never published, and the ``RequestTimeout`` says so.
        """
        async with confirmed_within(timeout, f"stream {stream!r}") as statuses:
            publishing_id = await self.confirmed(stream, message, publisher_name, statuses)
        return publishing_id  # noqa: RET504 - mypy takes it that the context manager may swallow an error

    async def confirmed(self, stream: str, message: Message, publisher_name: str | None, statuses: Statuses) -> int:
        """Does the same as ``send_wait`` without a timeout, which the caller sets. Adds a status to ``statuses``."""
        done: asyncio.Future[ConfirmationStatus] = asyncio.get_running_loop().create_future()

        def resolve(status: ConfirmationStatus) -> None:
            if not done.done():
                done.set_result(status)

        values = None
        if self._extraction is not None:
            values = await self._filter_values(self._extraction, (stream, publisher_name), (message,))
        outbox = await self._outbox(stream, publisher_name)
        statuses.append(done)
        await outbox.publish((message,), resolve, values)
        status = await done
        if status.is_confirmed:
            return status.message_id
        if status.response_code:
            raise error_from_code(status.response_code, f"publishing to stream {stream!r}")
        raise outbox.error or NotConfirmed(f"stream {stream!r}: the message was not confirmed")

    async def send_sub_entry(
        self,
        stream: str,
        sub_entry_messages: Sequence[Message],
        compression_type: CompressionType = CompressionType.No,
        publisher_name: str | None = None,
        on_publish_confirm: ConfirmCallback | None = None,
    ) -> int:
        """Publishes up to 65,535 messages as one entry, perhaps compressed; returns their common publishing id.

        The broker confirms them together and does not deduplicate them one by one. Raises the same errors as ``send``,
        and ``ConfigurationError`` where there is a ``filter_value_extractor``: a sub-entry cannot carry filter values.
        """
        if self._extraction is not None:
            raise ConfigurationError("a sub-entry cannot carry filter values", hint=Hint.NO_SUB_ENTRY)
        compression_type = check_compression(compression_type)
        told = self._bound(on_publish_confirm)
        sub_entry_messages = as_batch(sub_entry_messages)
        outbox = await self._outbox(stream, publisher_name)
        return await outbox.publish_sub_entry(sub_entry_messages, compression_type, told)

    async def flush(self, timeout: float | None = None) -> None:
        """Publishes the held messages, and waits until all messages are confirmed or have failed.

        Raises ``RequestTimeout`` after ``timeout`` seconds. Otherwise raises ``NotConfirmed`` at the end where messages
        without a callback have failed, in any stream.
        """
        self._guard.check()
        errors = await self._outboxes.settle(timeout)
        try:
            raise_together(errors)
        finally:
            self._callbacks.check()

    def _bound(self, callback: ConfirmCallback | None) -> Told | None:
        if callback is None:
            return None
        if isinstance(callback, str):
            raise TypeError(f"on_publish_confirm is a function, not {callback!r:.80}; a name is a publisher_name")
        check_callable("on_publish_confirm", callback)
        return self._callbacks.bind(callback, "on_publish_confirm")

    async def _filter_values(
        self, extraction: FilterExtraction, key: OutboxKey, batch: Sequence[Message]
    ) -> list[str | None]:
        """The filter values, in the order of the calls. The caller awaits nothing before it is on its way in."""
        self._guard.check()
        _check_names(*key)
        return await extraction.values(key, batch)

    async def _outbox(self, stream: str, publisher_name: str | None) -> Outbox:
        """Returns the outbox of a stream and publisher name. See ``Outboxes.get``."""
        self._check_open()
        self._callbacks.check()
        _check_names(stream, publisher_name)
        return await self._outboxes.get((stream, publisher_name))


def _check_names(stream: object, publisher_name: object) -> None:
    """Of what is looked up here; all else about them is the client's to check."""
    if not isinstance(stream, str):
        raise TypeError(f"stream is a str, not {stream!r:.80}")
    if publisher_name is not None and not isinstance(publisher_name, str):
        meant = "; a function is passed as on_publish_confirm" if callable(publisher_name) else ""
        raise TypeError(f"publisher_name is a str, not {publisher_name!r:.80}{meant}")


def as_batch(batch: Any) -> Sequence[Message]:
    """Several messages. Raises ``TypeError`` for a single one."""
    if isinstance(batch, list | tuple):
        return batch
    if isinstance(batch, AMQPMessage | str | bytes | bytearray | memoryview) or not isinstance(batch, Iterable):
        raise TypeError(f"a batch is a list of messages, not {batch!r:.80}; send and send_wait take a single one")
    return list(batch)  # its messages are looked at more than once


Statuses = list["asyncio.Future[ConfirmationStatus]"]
"""Futures for those messages of a call that have reached an outbox."""


@asynccontextmanager
async def confirmed_within(timeout: float | None, what: str) -> AsyncIterator[Statuses]:
    """Raises ``RequestTimeout`` after ``timeout`` seconds; other timeouts pass. Yields a list for ``confirmed``."""
    statuses: Statuses = []
    try:
        async with asyncio.timeout(timeout) as limit:
            yield statuses
    except TimeoutError:
        if not limit.expired():
            raise
        known = [status.result() for status in statuses if status.done() and not status.cancelled()]
        is_unsent = len(known) == len(statuses) and not any(status.was_sent for status in known)
        why = "; it was not sent, and will not be" if is_unsent else ""
        raise RequestTimeout(f"{what}: not confirmed within {timeout:g} s{why}") from None
