"""Publishing ids that wait for a confirm or a rejection, and those of them that wait for a sync."""

from __future__ import annotations

from rstream_core.broker.ports import Publisher
from rstream_core.broker.refusal import INTERNAL_ERROR

MAX_UNSYNCED = 16 * 1024 * 1024
"""Bytes that may wait for a sync, counting ``_ID`` for each id; above that, publishing connections are not read."""
_ID = 64
"""Bytes that an unconfirmed publishing id takes in memory, also that of an empty or a repeated message."""

Confirms = dict[Publisher, list[bytes]]
"""The ids, by publisher, in the order in which they came."""


def merge(confirms: Confirms, *others: Confirms) -> Confirms:
    """Adds what others hold, which is not theirs any more: nothing is copied where one has all of it."""
    for other in others:
        for publisher, ids in other.items():
            if (own := confirms.setdefault(publisher, ids)) is not ids:
                own += ids
    return confirms


def confirm_all(confirms: Confirms) -> None:
    for publisher, ids in confirms.items():
        publisher.confirm(ids)


def reject_all(confirms: Confirms) -> None:
    for publisher, ids in confirms.items():
        publisher.reject(ids, INTERNAL_ERROR)


class Unsynced:
    """What is written and waits for a sync, and the publishers that are held back until then."""

    def __init__(self) -> None:
        self._waiting: list[Confirms] = []
        self._bytes = 0
        self._held: set[Publisher] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, confirms: Confirms, size: int) -> None:
        """Adds what was written with ``size`` bytes. Holds its publishers where too much waits."""
        self._waiting.append(confirms)
        self._bytes += size + _ID * sum(map(len, confirms.values()))
        if self._bytes > MAX_UNSYNCED:
            for publisher in confirms.keys() - self._held:
                self._held.add(publisher)
                publisher.hold()

    def take(self) -> list[Confirms]:
        """Takes what waits: a sync is for it that begins after this."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        return waiting

    def put_back(self, waiting: list[Confirms]) -> None:
        """Puts back what was taken: the next sync is for it."""
        self._waiting[:0] = waiting

    def release(self) -> None:
        """Lets the held publishers go on."""
        held, self._held = self._held, set()
        for publisher in held:
            publisher.release()
