"""The outboxes of a producer, one for each stream and publisher name: found, or opened in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from rstream_core.callbacks import Callbacks
from rstream_core.client import Client
from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.errors import AlreadyClosed, RequestTimeout
from rstream_core.producers.losses import tell_later
from rstream_core.producers.outbox import Outbox
from rstream_core.producers.outbox_jobs import OutboxKey


class OutboxSettings(NamedTuple):
    """What all outboxes of a producer are made with. See ``Producer``."""

    linger: float
    batch_size: int
    max_in_flight: int
    max_in_flight_bytes: int
    confirm_timeout: float | None


class _Entrance:
    """The calls that wait until an outbox is open. They pass one after the other, in the order in which they came."""

    __slots__ = ("error", "failures", "lock", "opening")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.opening: SharedAttempt[Outbox] = SharedAttempt()
        self.failures = 0
        self.error: Exception | None = None
        """The error of the last failed attempt, which every call that waited for the attempt raises."""


class Outboxes:
    """For the tasks of one event loop."""

    def __init__(self, client: Client, settings: OutboxSettings, check_open: Callable[[], None]) -> None:
        """``check_open``: raises ``AlreadyClosed`` where the producer was closed."""
        self._client = client
        self._settings = settings
        self._check_open = check_open
        self.there: dict[OutboxKey, Outbox] = {}
        """Those that are open, or have ended and lost messages of which nobody has been told."""
        self.entrances: dict[OutboxKey, _Entrance] = {}
        """Of the outboxes that are being opened, as long as somebody is in there."""

    @property
    def unsettled(self) -> int:
        """Messages that are neither confirmed nor failed."""
        return sum(outbox.unsettled for outbox in self.there.values())

    async def settle(self, timeout: float | None) -> list[BaseException]:
        """Publishes what is held, and waits until all is confirmed or has failed. Returns the errors of the outboxes.

        A ``RequestTimeout`` is among them where it takes more than ``timeout`` seconds. Where the call is cancelled,
        the next calls tell of the losses.
        """
        errors: list[BaseException] = []

        async def settle(outbox: Outbox) -> None:
            for step in (outbox.flush, outbox.settle):
                try:
                    await step()
                except Exception as error:  # noqa: BLE001 - raised when all outboxes have settled
                    errors.append(error)

        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*map(settle, list(self.there.values())))
        except TimeoutError:
            errors.append(RequestTimeout(f"not everything is confirmed within {timeout:g} s"))
        except asyncio.CancelledError:
            tell_later(errors)
            raise
        return errors

    async def close(self, timeout: float, callbacks: Callbacks) -> list[BaseException]:
        """Closes all, within about ``timeout`` seconds, and waits as long for their ``callbacks``. Returns the errors.

        Where the call is cancelled, all end at once.
        """
        outboxes = list(self.there.values())
        self.there.clear()  # from here on no message can be added
        try:
            closing = (outbox.close(timeout) for outbox in outboxes)
            answers = await asyncio.gather(*closing, return_exceptions=True)
            await callbacks.finish(timeout)
        except asyncio.CancelledError:
            for outbox in outboxes:  # some ``close`` calls may not have started
                outbox.abandon()
            raise
        return [answer for answer in answers if isinstance(answer, BaseException)]

    async def get(self, key: OutboxKey) -> Outbox:
        """Returns the outbox, and opens it if necessary. Calls for one key return in their order.

        The caller must await nothing before it calls a method of the outbox, which would let later calls overtake it.
        Raises the error for which it cannot be opened, or ``NotConfirmed`` for the losses of one that has ended. Calls
        that wait for an attempt to open share its error.
        """
        entrance = self.entrances.get(key)
        if entrance is None:
            outbox = self.there.get(key)
            if outbox is not None and not outbox.is_dead:
                return outbox
            entrance = self.entrances[key] = _Entrance()
        failures = entrance.failures
        try:
            async with entrance.opening, entrance.lock:
                if entrance.error is not None and entrance.failures != failures:
                    raise entrance.error.with_traceback(None)  # the attempt that this call waited for has failed
                return await self._enter(key, entrance)
        finally:
            if not entrance.opening.callers:
                del self.entrances[key]

    async def _enter(self, key: OutboxKey, entrance: _Entrance) -> Outbox:
        """Opens the outbox, and closes a dead one before that. The first call in an entrance runs this; others wait."""
        self._check_open()
        outbox = self.there.get(key)
        if outbox is not None and outbox.is_dead:
            try:
                await outbox.close(0)  # raises if it lost messages
            except asyncio.CancelledError:
                raise  # the outbox stays, and tells the next call
            except BaseException:
                self.there.pop(key, None)
                raise
            self.there.pop(key, None)
            outbox = None
        if outbox is None:
            try:
                outbox = await entrance.opening.result(partial(self._open, key))
            except Exception as error:
                entrance.failures += 1
                entrance.error = error
                raise
        return outbox

    async def _open(self, key: OutboxKey) -> Outbox:
        linger, batch_size, max_in_flight, max_in_flight_bytes, confirm_timeout = self._settings
        outbox = Outbox(linger, batch_size, max_messages=max_in_flight, max_bytes=max_in_flight_bytes)
        outbox.attach(
            await self._client.publisher(
                *key,
                listener=outbox.on_outcome,
                on_end=outbox.on_end,
                max_in_flight=max_in_flight,
                max_in_flight_bytes=max_in_flight_bytes,
                confirm_timeout=confirm_timeout,
            )
        )
        try:
            self._check_open()  # the producer may have been closed in the meantime
        except AlreadyClosed:
            await outbox.close(0)
            raise
        self.there[key] = outbox
        return outbox
