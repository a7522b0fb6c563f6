"""Whose turn it is in a group of single active consumers, word by word."""

from __future__ import annotations

from rstream_core.broker.groups import Group


class Member:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def ask(self, *, active: bool) -> None:
        self.asked.append(active)


def test_in_a_plain_group_the_first_one_stays() -> None:
    group, (one, two) = Group(None), (Member(), Member())
    for member in (one, two):
        group.add(member)
    assert (one.asked, two.asked) == ([True], [])
    group.remove(one)
    assert (one.asked, two.asked, group.active) == ([True], [True], two)
    group.remove(two)
    assert not group
    assert group.active is None


def test_a_partition_says_whose_turn_it_is_and_the_other_steps_down_first() -> None:
    group, (one, two, three) = Group(1), (Member(), Member(), Member())
    group.add(one)
    group.add(two)
    assert (one.asked, two.asked) == ([True, False], [])
    group.add(three)  # nobody is asked while one steps down
    assert (one.asked, two.asked, three.asked) == ([True, False], [], [])
    group.answered(one, active=False)
    assert (two.asked, group.active, group.is_stepping_down) == ([True], two, False)
    group.answered(two, active=True)
    group.remove(one)  # now it is the third one's
    assert (two.asked, three.asked) == ([True, False], [])
    group.answered(two, active=False)
    assert three.asked == [True]


def test_a_late_answer_of_one_that_is_gone_ends_nobodys_turn() -> None:
    group, (one, two, three) = Group(1), (Member(), Member(), Member())
    for member in (one, two, three):
        group.add(member)
    assert one.asked == [True, False]
    group.remove(one)  # instead of an answer; the turn goes to who is second then
    assert (group.active, three.asked) == (three, [True])
    for late in (one, two):
        group.answered(late, active=False)
    assert (group.active, two.asked, three.asked) == (three, [], [True])
    group.answered(three, active=True)
    assert (group.active, two.asked, three.asked) == (three, [], [True])
