"""Remembers the rejected publishing ids of a name, so that its sequence does not pass them.

The broker drops and confirms every id that is not above a name's last one. So if an id could not be stored, but a
later one were, the first could never be stored any more, and a publisher that published it again would get a confirm.
Therefore ids above the lowest missing one are rejected, too, until any publisher of the name has published that one
again.

A publisher that asks for the name's last id while there is a hole knows where the name stands, and may go on with any
id. A client that only resumes after a lost connection does not ask.

Holes are kept in memory, since a full disk has no room for them. They are lost when the broker restarts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakSet

MAX_RUNS = 4096
"""How many runs of missing ids are remembered for a name. Behind them, only a publisher that asks may go on."""


class Hole:
    """The ids of one name that were rejected and are not stored. Ids are passed as the eight bytes of a frame."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        """First and last id of each run of missing ids, in order."""
        self._beyond = -1
        """The highest missing id that is in no run; -1 where all missing ids are in runs."""
        self._released: WeakSet[Any] = WeakSet()
        """Publishers that have asked for the last id, and had no message rejected since."""

    def __bool__(self) -> bool:
        """Returns whether any id is missing."""
        return bool(self._runs) or self._beyond >= 0

    def release(self, publisher: object) -> None:
        """Notes that a publisher has asked for the last id: it may go on behind the hole."""
        self._released.add(publisher)

    def add(self, publisher: object, ids: Sequence[bytes]) -> None:
        """Notes ids that were rejected."""
        self._released.discard(publisher)
        for publishing_id in map(int.from_bytes, ids):
            self._add(publishing_id)

    def _add(self, number: int) -> None:
        runs = self._runs
        if self._beyond >= 0 and (not runs or number > runs[-1][1]):
            self._beyond = max(self._beyond, number)  # the runs up to here may be incomplete
            return
        at = bisect_right(runs, number, key=itemgetter(0))
        if at and number <= runs[at - 1][1]:
            return
        joins_before = at > 0 and runs[at - 1][1] == number - 1
        joins_after = at < len(runs) and runs[at][0] == number + 1
        first = runs[at - 1][0] if joins_before else number
        last = runs[at][1] if joins_after else number
        runs[at - joins_before : at + joins_after] = [(first, last)]
        if len(runs) > MAX_RUNS:
            self._beyond = max(self._beyond, runs.pop()[1])

    def admit(self, publisher: object, ids: Sequence[bytes]) -> int:
        """Returns how many of these growing ids, from the first on, may be stored. Those no longer count as missing."""
        if not ids:
            return 0
        if publisher in self._released:
            self._forget_up_to(int.from_bytes(ids[-1]))
            return len(ids)
        for place, publishing_id in enumerate(ids):
            number = int.from_bytes(publishing_id)
            if self._runs:
                first, last = self._runs[0]
                if number > first:
                    return place
                if number == first:
                    self._runs[:1] = [(first + 1, last)] if first < last else []
            elif self._beyond >= 0:
                return place
        return len(ids)

    def _forget_up_to(self, number: int) -> None:
        while self._runs and self._runs[0][0] <= number:
            last = self._runs[0][1]
            self._runs[:1] = [(number + 1, last)] if number < last else []
        if self._beyond <= number:
            self._beyond = -1
