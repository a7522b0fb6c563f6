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
import inspect
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import get_ident
from typing import Any, TypeVar, Unpack
from weakref import WeakKeyDictionary

from rstream_core.administration import StreamAdministration, SuperStreamAdministration
from rstream_core.arguments import ConnectionArguments, options_from
from rstream_core.attempts import SharedAttempt
from rstream_core.callbacks import Callbacks
from rstream_core.checks import MAX_OFFSET, check_callable, check_text, check_whole
from rstream_core.client import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, Client
from rstream_core.errors import (
    AlreadyClosed,
    ConfigurationError,
    NotConfirmed,
    RequestTimeout,
    error_from_code,
)
from rstream_core.hints import Hint
from rstream_core.outbox import ConfirmCallback, Message, Outbox, Told, losses_in_words
from rstream_core.pool import MAX_IDS
from rstream_core.protocol.amqp import AMQPMessage
from rstream_core.protocol.compression import check_compression
from rstream_core.recovery import RECOVER, Recovery, RecoveryListener
from rstream_core.types import CompressionType, ConfirmationStatus

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

LINGER = 0.005
BATCH_SIZE = 1000

FilterValueExtractor = Callable[[Any], str | Awaitable[str | None] | None]
"""Returns the filter value of a message, or None for a message without one."""


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


@dataclass(frozen=True, slots=True)
class Losses:
    """What a ``NotConfirmed`` counts, so that those of several outboxes make one error."""

    count: int
    reason: str
    outbox: _Outbox | None = None


_losses: WeakKeyDictionary[NotConfirmed, Losses] = WeakKeyDictionary()
"""Beside the errors and not in them: they leave the process, and users see a ``NotConfirmed`` and nothing else."""


def not_confirmed(losses: Losses) -> NotConfirmed:
    """The error that tells of them."""
    error = NotConfirmed(losses_in_words(losses.count, losses.reason))
    _losses[error] = losses
    return error


def losses_of(error: BaseException) -> Losses | None:
    return _losses.get(error) if isinstance(error, NotConfirmed) else None


class _Outbox(Outbox):
    """An outbox that can take losses back, where the call that should raise them was cancelled."""

    def tell_later(self, losses: Losses) -> None:
        self._lost += losses.count
        self._lost_reason = losses.reason

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        raise not_confirmed(Losses(lost, self._lost_reason, self))


_Key = tuple[str, str | None]
"""A stream, and a publisher name or None."""


class _Entrance:
    """The calls that wait until an outbox is open. They pass one after the other, in the order in which they came."""

    __slots__ = ("error", "failures", "lock", "opening")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.opening: SharedAttempt[_Outbox] = SharedAttempt()
        self.failures = 0
        self.error: Exception | None = None
        """The error of the last failed attempt, which every call that waited for the attempt raises."""


class _Queue:
    """The calls that wait for filter values of one stream and publisher name: they go on in their order."""

    __slots__ = ("callers", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0


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
        self._linger = linger
        self._batch_size = batch_size
        self._max_in_flight = check_whole("max_in_flight", max_in_flight, 1, MAX_OFFSET)
        self._max_in_flight_bytes = check_whole("max_in_flight_bytes", max_in_flight_bytes, 1, MAX_OFFSET)
        self._confirm_timeout = confirm_timeout
        self._close_timeout = close_timeout
        self._outboxes: dict[_Key, _Outbox] = {}
        self._entrances: dict[_Key, _Entrance] = {}
        """Of the outboxes that are being opened, as long as somebody is in there."""
        if filter_value_extractor is not None:
            check_callable("filter_value_extractor", filter_value_extractor)
        self._filter_of = filter_value_extractor
        self._extracting: dict[_Key, _Queue] = {}
        """The queues of calls that wait for filter values."""
        self._callbacks = Callbacks()
        own = client or Client(
            options_from(host, port, "rstream-producer", **connection),
            recovery=recovery,
            on_recovery=on_recovery,
            max_publishers_by_connection=max_publishers_by_connection,
        )
        super().__init__("this producer", own, owns_client=client is None)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._closed:
            return
        open_messages = sum(outbox.unsettled for outbox in self._outboxes.values())
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
        outboxes = list(self._outboxes.values())
        self._outboxes.clear()  # from here on no message can be added
        try:
            closing = (outbox.close(self._close_timeout) for outbox in outboxes)
            answers = await asyncio.gather(*closing, return_exceptions=True)
            await self._callbacks.finish(self._close_timeout)
        except asyncio.CancelledError:
            for outbox in outboxes:  # some ``close`` calls may not have started
                outbox.abandon()
            raise
        finally:
            await self._close_client()
        try:
            raise_together([answer for answer in answers if isinstance(answer, BaseException)])
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
        if self._filter_of is not None:
            (value,) = await self._filter_values(self._filter_of, (stream, publisher_name), (message,))
        try:
            outbox = self._outboxes.get((stream, publisher_name))
        except TypeError:  # that is no key
            _check_names(stream, publisher_name)
            raise
        guard = self._guard
        if (
            outbox is None
            or (publisher := outbox.publisher).error is not None  # what ``is_dead`` looks at, in one call less
            or publisher.is_stopped
            or self._entrances
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
        if self._filter_of is not None:
            values = await self._filter_values(self._filter_of, (stream, publisher_name), batch)
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
        if self._filter_of is not None:
            values = await self._filter_values(self._filter_of, (stream, publisher_name), (message,))
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
        if self._filter_of is not None:
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
        errors: list[BaseException] = []

        async def settle(outbox: Outbox) -> None:
            for step in (outbox.flush, outbox.settle):
                try:
                    await step()
                except Exception as error:  # noqa: BLE001 - raised when all outboxes have settled
                    errors.append(error)

        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*map(settle, list(self._outboxes.values())))
        except TimeoutError:
            errors.append(RequestTimeout(f"not everything is confirmed within {timeout:g} s"))
        except asyncio.CancelledError:
            tell_later(errors)
            raise
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
        self, extract: FilterValueExtractor, key: _Key, batch: Sequence[Message]
    ) -> list[str | None]:
        """The filter values, in the order of the calls. The caller awaits nothing before it is on its way in."""
        self._guard.check()
        _check_names(*key)
        values: list[str | None] = []
        queue = self._extracting.get(key)
        if queue is None:
            for message in batch:
                value = extract(message)
                if value is not None and not isinstance(value, str):
                    break  # an awaitable: the rest is awaited below, under the lock
                values.append(_checked(value))
            else:
                return values
            queue = self._extracting[key] = _Queue()
            rest: Iterable[str | Awaitable[str | None] | None] = chain((value,), map(extract, batch[len(values) + 1 :]))
        else:
            rest = map(extract, batch)
        queue.callers += 1
        try:
            async with queue.lock:
                values += [_checked(await resolved(value)) for value in rest]
        finally:
            queue.callers -= 1
            if not queue.callers:
                del self._extracting[key]
        return values

    async def _outbox(self, stream: str, publisher_name: str | None) -> _Outbox:
        """Returns the outbox of a stream and publisher name, and opens it if necessary. Calls return in their order.

        The caller must await nothing before it calls a method of the outbox, which would let later calls overtake it.
        """
        self._check_open()
        self._callbacks.check()
        _check_names(stream, publisher_name)
        key = (stream, publisher_name)
        entrance = self._entrances.get(key)
        if entrance is None:
            outbox = self._outboxes.get(key)
            if outbox is not None and not outbox.is_dead:
                return outbox
            entrance = self._entrances[key] = _Entrance()
        failures = entrance.failures
        try:
            async with entrance.opening, entrance.lock:
                if entrance.error is not None and entrance.failures != failures:
                    raise entrance.error.with_traceback(None)  # the attempt that this call waited for has failed
                return await self._enter(key, entrance)
        finally:
            if not entrance.opening.callers:
                del self._entrances[key]

    async def _enter(self, key: _Key, entrance: _Entrance) -> _Outbox:
        """Opens the outbox, and closes a dead one before that. The first call in an entrance runs this; others wait."""
        self._check_open()
        outbox = self._outboxes.get(key)
        if outbox is not None and outbox.is_dead:
            try:
                await outbox.close(0)  # raises if it lost messages
            except asyncio.CancelledError:
                raise  # the outbox stays, and tells the next call
            except BaseException:
                self._outboxes.pop(key, None)
                raise
            self._outboxes.pop(key, None)
            outbox = None
        if outbox is None:
            try:
                outbox = await entrance.opening.result(partial(self._open, key))
            except Exception as error:
                entrance.failures += 1
                entrance.error = error
                raise
        return outbox

    async def _open(self, key: _Key) -> _Outbox:
        outbox = _Outbox(
            self._linger,
            self._batch_size,
            max_messages=self._max_in_flight,
            max_bytes=self._max_in_flight_bytes,
        )
        outbox.attach(
            await self._client.publisher(
                *key,
                listener=outbox.on_outcome,
                on_end=outbox.on_end,
                max_in_flight=self._max_in_flight,
                max_in_flight_bytes=self._max_in_flight_bytes,
                confirm_timeout=self._confirm_timeout,
            )
        )
        try:
            self._check_open()  # the producer may have been closed in the meantime
        except AlreadyClosed:
            await outbox.close(0)
            raise
        self._outboxes[key] = outbox
        return outbox


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


def _checked(filter_value: str | None) -> str | None:
    """Checks a filter value before its message joins a batch, so that an error concerns this call only."""
    if filter_value is not None:
        check_text("the filter value of a message", filter_value)
    return filter_value


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


def raise_together(errors: Sequence[BaseException]) -> None:
    """Raises the errors of several outboxes, if there are any, as one: the first, or a sum of all losses."""
    losses = [found for found in map(losses_of, errors) if found is not None]
    others = [error for error in errors if losses_of(error) is None]
    if not losses:
        for error in others:
            raise error
        return
    if len(errors) == 1:
        raise errors[0]
    reason = losses[0].reason
    if others:
        reason = f"{reason}; and {others[0]}"
    raise not_confirmed(Losses(sum(found.count for found in losses), reason)) from (others[0] if others else None)


def tell_later(errors: Sequence[BaseException]) -> None:
    """Leaves losses that cannot be raised to be told by the next call."""
    for losses in map(losses_of, errors):
        if losses is not None and losses.outbox is not None:
            losses.outbox.tell_later(losses)


async def resolved(result: T | Awaitable[T]) -> T:
    """Returns the result of a user's function, and awaits it first if it is awaitable."""
    if inspect.isawaitable(result):
        return await result
    return result
