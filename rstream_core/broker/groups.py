"""Single active consumers: who of a group is active, and who is to be.

A group is the subscriptions of one stream with one name, in the order in which they came. In a plain group the first
one stays active as long as it is there. In a group of a super stream's partition, the partition's number says whose
turn it is, so that the partitions spread over the consumers; the active one is then asked to step down first.
"""

from __future__ import annotations

from typing import Protocol


class Member(Protocol):
    """A subscription, as its group sees it."""

    def ask(self, *, active: bool) -> None:
        """Sends a ConsumerUpdate; ``Group.answered`` when the client has answered it."""


class Group:
    """Which member is active."""

    def __init__(self, partition: int | None) -> None:
        """``partition`` is the number of the stream in its super stream; None for a plain group."""
        self._partition = partition
        self._members: list[Member] = []
        self.active: Member | None = None
        """Who was asked to be active."""
        self.is_stepping_down = False
        """Whether the active one has been asked to be so no longer, and has not answered yet."""

    def __bool__(self) -> bool:
        return bool(self._members)

    def add(self, member: Member) -> None:
        self._members.append(member)
        self._balance()

    def remove(self, member: Member) -> None:
        """It is gone; asks nothing of it."""
        self._members.remove(member)
        if self.active is member:
            self.active = None
            self.is_stepping_down = False
        self._balance()

    def answered(self, member: Member, *, active: bool) -> None:
        """A member has answered whether it was asked to be ``active``."""
        if member is self.active and not active:
            self.active = None
            self.is_stepping_down = False
            self._balance()

    def _balance(self) -> None:
        if not self._members or self.is_stepping_down:
            return
        if self._partition is None:
            wanted = self.active or self._members[0]
        else:
            wanted = self._members[self._partition % len(self._members)]
        if self.active is None:
            self.active = wanted
            wanted.ask(active=True)
        elif self.active is not wanted:
            self.is_stepping_down = True
            self.active.ask(active=False)
