"""Single active consumers: chooses the active member of a group.

A group is the subscriptions of one stream with one name, in the order in which they came. In a plain group the first
member stays active as long as it exists. In a group of a super stream's partition, the partition's number determines
the active member, so that the partitions spread over the consumers; the previous one is first asked to step down.
"""

from __future__ import annotations

from typing import Protocol


class Member(Protocol):
    """A subscription, as its group sees it."""

    def ask(self, *, active: bool) -> None:
        """Sends a ConsumerUpdate. ``Group.answered`` must be called when the client has answered it."""


class Group:
    """The members of one group, and which of them is active."""

    def __init__(self, partition: int | None) -> None:
        """``partition`` is the number of the stream in its super stream; None for a plain group."""
        self._partition = partition
        self._members: list[Member] = []
        self.active: Member | None = None
        """The member that was asked to be active."""
        self.is_stepping_down = False
        """Whether the active member was asked to step down and has not answered yet."""

    def __bool__(self) -> bool:
        return bool(self._members)

    def add(self, member: Member) -> None:
        self._members.append(member)
        self._balance()

    def remove(self, member: Member) -> None:
        """Removes a member that has gone, without asking it to step down."""
        self._members.remove(member)
        if self.active is member:
            self.active = None
            self.is_stepping_down = False
        self._balance()

    def answered(self, member: Member, *, active: bool) -> None:
        """Called when a member has answered the ConsumerUpdate with this ``active``."""
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
