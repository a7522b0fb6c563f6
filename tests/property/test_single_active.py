"""The turns of a single active consumer against a model: changes, losses and closes at any moment."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rstream_core.consuming.single_active import MAX_UPDATES, Action, Event, State, Step, Turns, Update


class TakingTurns(RuleBasedStateMachine):
    """Drives ``Turns`` as ``turn_taking`` does, and remembers what a broker and a listener see of it."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[int] = Turns("s")
        self.told: list[Update[int]] = []
        self.answered: list[Update[int]] = []
        self.owed: list[Update[int]] = []
        """The changes that must be answered, in this order."""
        self.calls: list[bool] = []
        self.calling: bool | None = None
        self.is_lost = False
        self.is_closed = False
        self.has_start = False
        self.cuts = 0

    def perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Action.ANSWER:
                    update = self.turns.answered()
                    assert update is self.owed.pop(0)
                    self.answered.append(update)
                    self.has_start = self.turns.state is State.BEGUN
                    assert not self.has_start or update.active
                case Action.RESUME:
                    assert self.turns.is_active
                    assert self.has_start
                    assert self.owed == []
                case Action.FAIL:  # then it detaches from the connection
                    self.the_connection_is_lost()
                case Action.FORGET:
                    del self.owed[1 if self.turns.current is not None else 0 :]
                case Action.CUT_SHORT:
                    self.cuts += 1
                case _:
                    pass

    @precondition(lambda self: not self.is_lost)
    @rule(active=st.booleans())
    def the_broker_tells(self, active: bool) -> None:
        update = Update(active, len(self.told))
        if not self.is_closed:
            self.owed.append(update)
        self.told.append(update)
        assert len(self.owed) <= MAX_UPDATES
        self.perform(self.turns.told(update))
        self.start_step()

    @precondition(lambda self: self.turns.step is not None)
    @rule(is_located=st.booleans())
    def a_step_ends(self, is_located: bool) -> None:
        step = self.turns.step
        if step is Step.FINISH:
            event = Event.FINISHED
        elif step is Step.LOCATE:
            event = Event.LOCATED if is_located else Event.NOT_LOCATED
        else:
            event = Event.HEARD
            self.calling = None
        self.perform(self.turns.handle(event))
        self.perform(self.turns.go_on())
        self.start_step()

    def start_step(self) -> None:
        step = self.turns.step
        if step in (Step.CALL_BEGIN, Step.CALL_END) and self.calling is None:
            self.calling = step is Step.CALL_BEGIN
            self.calls.append(self.calling)

    @rule()
    def the_connection_is_lost(self) -> None:
        self.is_lost = True
        self.perform(self.turns.handle(Event.LOST))

    @precondition(lambda self: self.is_lost and self.turns.step is None)
    @rule()
    def it_recovers(self) -> None:
        """As ``settle`` does, which waits for the steps before and behind."""
        self.perform(self.turns.handle(Event.SETTLE))
        while self.turns.step is not None:
            self.start_step()
            self.a_step_ends(True)
        assert self.is_closed or self.turns.state is State.RESTING
        assert self.calls[-1:] != [True] or self.is_closed, "a turn has begun, and its end was not told"
        self.is_lost = False

    @rule()
    def it_is_closed(self) -> None:
        self.is_closed = True
        self.perform(self.turns.handle(Event.CLOSE))
        self.owed.clear()

    @invariant()
    def it_is_active_where_the_last_word_was_answered_with_a_start(self) -> None:
        is_over = self.is_lost or self.is_closed
        last_counts = bool(self.told) and self.told[-1].active and self.answered[-1:] == self.told[-1:]
        assert self.turns.is_active == (last_counts and self.has_start and not is_over)

    @invariant()
    def all_is_answered_once_nothing_is_under_way(self) -> None:
        if self.turns.step is None:
            assert self.owed == []
        else:
            assert not self.is_closed

    @invariant()
    def the_answers_are_in_order(self) -> None:
        requests = [update.request for update in self.answered]
        assert requests == sorted(set(requests))

    @invariant()
    def only_a_loss_cuts_a_turn_short(self) -> None:
        assert self.is_lost or not self.turns.state.name.startswith("LOST")


TestTakingTurns = TakingTurns.TestCase
