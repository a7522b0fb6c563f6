"""The jobs of an outbox: messages that go to the publisher in one go, with their ids and callbacks.

No I/O here: how messages are numbered, what becomes of ids that repeat, which runs of ids are written together, and
who is told of an outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rstream_core.checks import MAX_OFFSET
from rstream_core.errors import RESPONSE_OK, MessageTooLarge
from rstream_core.hints import Hint
from rstream_core.producers.losses import LossCount
from rstream_core.protocol.amqp import AMQPMessage, encode_message
from rstream_core.publishing.in_flight import FilterValues, Outcome, grows
from rstream_core.types import CompressionType, ConfirmationStatus

Message = AMQPMessage | bytes | Any
"""An ``AMQPMessage``, a ``uamqp.Message``, or bytes that are sent as they are."""
ConfirmCallback = Callable[[ConfirmationStatus], Awaitable[None] | None]
"""A callback as the application passes it. ``Callbacks.bind`` makes a ``Told`` of it for the outbox."""
Told = Callable[[ConfirmationStatus], None]
"""Called on the event loop with the outcome of a message; never raises (``Callbacks.bind``)."""
OutboxKey = tuple[str, str | None]
"""What an outbox is for: a stream, and a publisher name or None."""
JobCallbacks = Told | Sequence[Told | None] | None
"""One callback for all messages of a job, one for each message, or none."""


class Job:
    """Messages that the worker passes to the publisher in one go, with their publishing ids."""

    __slots__ = (
        "base",
        "brings_ids",
        "callbacks",
        "compression",
        "done",
        "ends_with_repetition",
        "filter_values",
        "ids",
        "is_dropped",
        "messages",
        "registered",
        "size",
        "unheard",
        "waiters",
        "written",
    )

    def __init__(
        self,
        messages: Sequence[bytes],
        size: int,
        ids: Sequence[int],
        callbacks: JobCallbacks,
        *,
        compression: CompressionType | None = None,
        filter_values: FilterValues | None = None,
    ) -> None:
        self.messages = messages
        self.size = size
        """Bytes of the messages."""
        self.filter_values = filter_values
        self.ids = ids
        """One publishing id for each message, or one for a whole sub-entry."""
        self.callbacks = callbacks
        self.compression = compression
        self.registered = self.written = 0
        """How many of the ids have their callbacks registered, and how many have been passed to the publisher."""
        self.base = 0
        """``Publisher.published`` as it was before the job's first message; set while the job is carried out."""
        self.brings_ids = False
        """Whether the publishing ids of its messages are the caller's, and the broker looks at them."""
        self.is_dropped = False
        """Whether all of its messages were taken back."""
        self.ends_with_repetition = False
        """Whether its last caller's message repeats an earlier id, and is not for that caller to take back."""
        self.waiters = 0
        """Calls that wait for the job and will raise its error, so that the loss needs no other report."""
        self.unheard = 0
        """Failed messages without a callback, which the waiting calls report by raising the job's error."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a timer's job has no waiter

    @property
    def weight(self) -> int:
        """Messages under one publishing id."""
        return 1 if self.compression is None else len(self.messages)

    @property
    def is_one_run(self) -> bool:
        """Whether its ids can be written as they are, each for a message without a filter value."""
        is_plain = self.compression is None and self.filter_values is None
        return is_plain and self.ids[-1] <= MAX_OFFSET and grows(self.ids)


class Confirms:
    """The callbacks of ids that are in flight."""

    def __init__(self, losses: LossCount) -> None:
        self._losses = losses
        self._callbacks: dict[int, Told] = {}

    def register(self, job: Job, start: int, stop: int) -> None:
        """Takes the callbacks of a job's ids from position ``start`` to ``stop``, which are about to be written."""
        job.registered = stop
        callbacks = job.callbacks
        if callbacks is None:
            return
        ids = job.ids[start:stop]
        if callable(callbacks):
            self._callbacks.update(dict.fromkeys(ids, callbacks))
            return
        for publishing_id, callback in zip(ids, callbacks[start:stop], strict=True):
            if callback is not None:
                self._callbacks[publishing_id] = callback

    def forget(self, publishing_id: int) -> None:
        self._callbacks.pop(publishing_id, None)

    def settle(self, outcome: Outcome) -> None:
        """Calls the callbacks of confirmed and failed messages; counts a failed message without one as lost."""
        callbacks = self._callbacks
        if callbacks:
            for publishing_id in outcome.publishing_ids:
                callback = callbacks.pop(publishing_id, None)
                if callback is not None:
                    callback(ConfirmationStatus(publishing_id, True, RESPONSE_OK))
        told = None
        for failure in outcome.failed:
            if failure.publishing_id == told:
                continue  # the messages of a sub-entry share one id, and one callback
            callback = callbacks.pop(failure.publishing_id, None)
            if callback is None:
                self._losses.add(1, failure.reason)
            else:
                callback(ConfirmationStatus(failure.publishing_id, False, failure.code))
                told = failure.publishing_id


def explicit_id(message: Message) -> int | None:
    """Returns a message's own publishing id, or None. Raises ``ValueError`` unless it is an int, 0 to 2**64 - 1."""
    given = getattr(message, "publishing_id", None)
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**64):
        raise ValueError(f"a publishing id is an int, 0 to 2**64-1, not {given!r}")
    return given


def too_large(data: bytes, position: int, count: int, limit: int) -> MessageTooLarge:
    """Returns the error for a message of more than ``limit`` bytes: the one at ``position`` of ``count``."""
    return MessageTooLarge(
        f"message {position + 1} of {count} takes {len(data)} bytes; the agreed frame size allows {limit}",
        position=position,
        hint=Hint.FRAME_LIMIT,
    )


def encode_batch(batch: Sequence[Message], limit: int) -> list[bytes]:
    """Returns the bytes of messages. Raises ``MessageTooLarge`` for the first of more than ``limit`` bytes."""
    encoded = list(map(encode_message, batch))
    if encoded and max(map(len, encoded)) > limit:
        position = next(at for at, data in enumerate(encoded) if len(data) > limit)
        raise too_large(encoded[position], position, len(encoded), limit)
    return encoded


def batch_job(
    encoded: Sequence[bytes],
    size: int,
    explicit: Sequence[int | None],
    first: int,
    callback: Told | None,
    filter_values: FilterValues | None,
    *,
    has_name: bool,
) -> tuple[Sequence[int], Job]:
    """Returns the ids of a batch, as its caller sees them, and its job.

    ``explicit``: each message's own id, if it has one. ``first``: the id that is next. Without a publisher name the
    broker looks at no id: the messages are counted, and each callback is told of the id that came with the message.
    """
    counted = range(first, first + len(encoded))
    if all(publishing_id is None for publishing_id in explicit):
        return counted, Job(encoded, size, counted, callback, filter_values=filter_values)
    ids = number_ids(explicit, first)
    if has_name:
        job = Job(encoded, size, ids, callback, filter_values=filter_values)
        job.brings_ids = True
        return ids, job
    each = callback and [told_as(callback, publishing_id) for publishing_id in ids]
    return ids, Job(encoded, size, counted, each, filter_values=filter_values)


def number_ids(explicit: Sequence[int | None], first: int) -> list[int]:
    """Returns the ids of a batch: ``explicit`` ones, and for the others one more than the id before.

    The first one is ``first`` where it is not explicit.
    """
    ids: list[int] = []
    for publishing_id in explicit:
        ids.append(publishing_id if publishing_id is not None else (ids[-1] + 1 if ids else first))
    return ids


def keep_first_of_each_id(job: Job) -> None:
    """Leaves out what repeats an id of the same job: the broker would drop it, as it stores one message of an id.

    Writing it would mean to wait for the first one's confirm before, since a repetition's looks the same. What becomes
    of the first is told to those who gave the others; where none of them is to be told, it is one loss.
    """
    ids = job.ids
    if grows(ids):
        return
    places: dict[int, list[int]] = {}
    for place, publishing_id in enumerate(ids):
        places.setdefault(publishing_id, []).append(place)
    if len(places) == len(ids):
        return
    job.ends_with_repetition = places[ids[-1]][0] < len(ids) - 1
    firsts = [where[0] for where in places.values()]
    callbacks = job.callbacks
    if callbacks is not None:
        each = [callbacks] * len(ids) if callable(callbacks) else callbacks
        job.callbacks = [told_together([each[place] for place in where]) for where in places.values()]
    job.ids = list(places)
    job.messages = [job.messages[place] for place in firsts]
    if job.filter_values is not None:
        job.filter_values = [job.filter_values[place] for place in firsts]
    job.size = sum(map(len, job.messages))


def told_together(callbacks: Sequence[Told | None]) -> Told | None:
    """One for all of those that are there."""
    there = [callback for callback in callbacks if callback is not None]
    if len(there) < 2:
        return there[0] if there else None

    def tell(status: ConfirmationStatus) -> None:
        for callback in there:
            callback(status)

    return tell


def told_as(callback: Told, publishing_id: int) -> Told:
    """Told of the id that came with the message, where another was counted for it."""
    return lambda status: callback(status._replace(message_id=publishing_id))


def ends_of_runs(ids: Sequence[int]) -> list[int]:
    """Returns the end positions of the runs of growing ids."""
    if type(ids) is range:
        return [len(ids)]
    ends = [at for at in range(1, len(ids)) if ids[at] <= ids[at - 1]]
    return [*ends, len(ids)]
