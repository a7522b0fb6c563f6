"""Calls a callback for each message of a chunk, one after another, and gives the event loop its turns."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

from rstream_core.callbacks import Callbacks, Failures
from rstream_core.consumers.subscribers import Decoder, Subscriber, Subscribers
from rstream_core.errors import RstreamError
from rstream_core.types import Chunk

_FAILED = "the callback failed for message %d of stream %r"
_NOT_STORED = "; no offset from there on is stored"


class Origin(Protocol):
    """Where a message comes from, in the words of whoever is called."""

    @property
    def offset(self) -> int: ...


T = TypeVar("T", bound=Origin)


async def deliver(
    subscribers: Subscribers,
    subscriber: Subscriber,
    messages_of: Callable[[Subscriber, Chunk], Iterator[tuple[Any, T]]],
    decode: Decoder | None,
    callback: Callable[[Any, T], Awaitable[None] | None],
    callbacks: Callbacks,
) -> None:
    """The task of a subscriber with a callback: takes chunk after chunk, until its subscription ends or it is left.

    ``messages_of``: the messages of a chunk with their contexts. ``decode``: what is still to be done with each. Where
    the subscription ends with an error, or where what a callback raises escapes (see ``Callbacks``), the subscriber is
    left, and ``subscribers`` and ``callbacks`` know why.
    """
    subscription = subscriber.subscription
    what = f"the callback of stream {subscription.stream!r}"
    failures = Failures(what)
    try:
        async for chunk in subscription:
            await deliver_chunk(subscriber, chunk, messages_of(subscriber, chunk), decode, callback, failures)
            if subscriber.gone:
                return
            await subscription.time_slice.give_way()  # so that streams with small chunks take turns
    except RstreamError as error:
        await subscribers.leave(subscriber)
        subscribers.end(subscriber, error)
    except (Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - from a callback; run() or close() raises it
        callbacks.report(error, what)
        await subscribers.leave(subscriber)
        subscribers.changed()
    finally:
        failures.sum_up()


async def deliver_chunk(
    subscriber: Subscriber,
    chunk: Chunk,
    messages: Iterator[tuple[Any, T]],
    decode: Decoder | None,
    callback: Callable[[Any, T], Awaitable[None] | None],
    failures: Failures,
) -> None:
    """Calls for each of the ``messages`` of a chunk, as long as it is wanted; finishes the chunk with what was done.

    What a callback raises goes to ``failures``, and no offset from there on counts as processed. Raises a
    ``BaseException`` that is no ``Exception``; cancellation passes through, also from within a callback.
    """
    wanted = subscriber.wanted
    subscription = subscriber.subscription
    time_slice = subscription.time_slice
    left = len(chunk.messages)
    last: T | None = None
    has_waited = False  # only then can the subscriber be gone, or its turn be over
    try:
        while left > 0:
            stride = time_slice.stride
            for stored, context in islice(messages, stride):
                try:
                    message = decode(stored) if decode else stored
                    if wanted is None or wanted(message):
                        result = callback(message, context)
                        if result is not None and inspect.isawaitable(result):
                            has_waited = True
                            await result
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                        raise
                    subscription.fail(context.offset)
                    words = _FAILED if subscriber.offsets is None else _FAILED + _NOT_STORED
                    failures.tell(error, words, context.offset, chunk.stream)
                last = context
                if has_waited and (subscriber.gone or not subscription.is_wanted(chunk)):
                    return
            is_over = time_slice.is_over(min(stride, left))
            left -= stride
            if is_over and left > 0:
                await time_slice.give_way()
                if subscriber.gone or not subscription.is_wanted(chunk):
                    return
    finally:
        subscription.finish(chunk.offset - 1 if last is None else last.offset)


def _is_being_cancelled() -> bool:
    """Returns whether this task is being cancelled, and not only something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
