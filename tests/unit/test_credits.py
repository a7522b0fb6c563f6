"""The credits of a subscription: never more than was asked for, and given back in halves."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rstream_core.consuming.credits import MAX_CREDIT_OF_FRAME, Credits


@pytest.mark.parametrize(("credit", "half"), [(1, 1), (2, 1), (3, 1), (10, 5), (11, 5), (65_535, 32_767)])
def test_half_of_the_credit_is_due(credit: int, half: int) -> None:
    account = Credits(credit)
    account.free = half - 1
    assert not account.is_due
    account.free = half
    assert account.is_due
    assert account.give_back() == [half]
    assert (account.free, account.give_back()) == (0, [])


def test_a_frame_holds_so_much_and_no_more() -> None:
    account = Credits(65_535)
    assert account.grant(0) == MAX_CREDIT_OF_FRAME
    assert account.give_back() == [MAX_CREDIT_OF_FRAME, 1]


@pytest.mark.parametrize(("held", "granted", "free"), [(0, 10, 0), (3, 7, 0), (9, 1, 0), (10, 1, -1), (11, 1, -2)])
def test_a_new_subscribe_grants_what_is_not_held(held: int, granted: int, free: int) -> None:
    account = Credits(10)
    account.free = 4  # of another connection
    assert account.grant(held) == granted
    assert account.free == free
    assert account.give_back() == []


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("credit", [1, 2, 10])
def test_there_is_room_for_one_more(credit: int, is_held: bool) -> None:
    waiting = max(Credits(credit).most_waiting(is_held=is_held), 0)
    assert waiting + is_held < credit or waiting == 0


class Paying(RuleBasedStateMachine):
    """A broker that counts, an application that takes chunks and finishes them, and connections that are lost."""

    @initialize(credit=st.integers(1, 12))
    def begin(self, credit: int) -> None:
        self.credit = credit
        self.credits = Credits(credit)
        self.waiting = 0
        self.is_held = False
        self.broker = 0
        """Credits that the broker has."""
        self.subscribe()

    @rule()
    def subscribe(self) -> None:
        """On a new connection: what the broker had there is gone."""
        self.waiting = min(self.waiting, max(self.credits.most_waiting(is_held=self.is_held), 0))
        self.broker = self.credits.grant(self.waiting + self.is_held)
        self.give_back()

    @precondition(lambda self: self.broker)
    @rule()
    def a_chunk_comes(self) -> None:
        self.broker -= 1
        self.waiting += 1

    @rule()
    def the_application_asks(self) -> None:
        if self.is_held:
            self.is_held = False
            self.credits.free += 1
        if self.waiting:
            self.waiting -= 1
            self.is_held = True
        self.give_back()

    def give_back(self) -> None:
        if self.credits.is_due:
            self.broker += sum(self.credits.give_back())

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        assert self.broker + self.waiting + self.is_held + self.credits.free == self.credit

    @invariant()
    def it_is_never_more_than_was_asked_for(self) -> None:
        assert self.broker + self.waiting <= self.credit

    @invariant()
    def who_waits_has_something_to_wait_for(self) -> None:
        assert self.waiting or self.is_held or self.broker * 2 >= self.credit


TestPaying = Paying.TestCase
