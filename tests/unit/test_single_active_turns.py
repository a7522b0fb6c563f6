"""The turns of a single active consumer: every cell of the table, and the walks through it that a broker makes."""

from __future__ import annotations

import pytest

from rstream_core.consuming.single_active import MAX_UPDATES, STEPS, TABLE, Action, Event, State, Step, Turns, Update
from rstream_core.errors import ProtocolError

CELLS = """
RESTING         BEGIN        BEGIN_FINISH
RESTING         END          END_FINISH
BEGIN_FINISH    FINISHED     BEGIN_LISTENER  NEW_TURN
BEGIN_FINISH    LOST         CUT_FINISH      FORGET
BEGIN_LISTENER  HEARD        BEGIN_LOCATE
BEGIN_LISTENER  LOST         CUT_LISTENER    FORGET
BEGIN_LOCATE    LOCATED      BEGUN           ANSWER
BEGIN_LOCATE    NOT_LOCATED  CUT             ANSWER FAIL
BEGIN_LOCATE    LOST         CUT_LOCATE      FORGET
BEGUN           QUIET        ACTIVE          RESUME
BEGUN           BEGIN        BEGIN_FINISH
BEGUN           END          END_FINISH
BEGUN           LOST         CUT             FORGET
ACTIVE          BEGIN        BEGIN_FINISH
ACTIVE          END          END_FINISH
ACTIVE          LOST         CUT             FORGET
END_FINISH      FINISHED     END_LISTENER
END_LISTENER    HEARD        RESTING         ORDERLY ANSWER
CUT_FINISH      FINISHED     CUT_LISTENER    NEW_TURN
CUT_LISTENER    HEARD        CUT             ANSWER
CUT_LOCATE      LOCATED      CUT             ANSWER
CUT_LOCATE      NOT_LOCATED  CUT             ANSWER
CUT             SETTLE       LOST_FINISH     CUT_SHORT
LOST_FINISH     FINISHED     LOST_LISTENER
LOST_LISTENER   HEARD        RESTING
"""
"""State, event, next state, actions. The cells that are not here follow the rules of ``expected``."""

ENDS = {
    Step.FINISH: {Event.FINISHED},
    Step.CALL_BEGIN: {Event.HEARD},
    Step.CALL_END: {Event.HEARD},
    Step.LOCATE: {Event.LOCATED, Event.NOT_LOCATED},
}
LISTED = {
    (State[state], Event[event]): (State[following], tuple(Action[action] for action in actions))
    for state, event, following, *actions in map(str.split, CELLS.strip().splitlines())
}


def expected(state: State, event: Event) -> tuple[State, tuple[Action, ...]] | None:
    if state is State.CLOSED:
        return state, ()
    if (state, event) in LISTED:
        return LISTED[state, event]
    match event:
        case Event.CLOSE:
            return State.CLOSED, (Action.FORGET,)
        case Event.LOST:
            return state, (Action.FORGET,)
        case Event.SETTLE:
            return state, ()
        case Event.BEGIN | Event.END:
            return state, (Action.QUEUE,)
        case _:
            return None


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_cell(state: State, event: Event) -> None:
    assert TABLE[state].get(event) == expected(state, event)
    turns: Turns[int] = Turns("s")
    turns.state = state
    if event in (Event.BEGIN, Event.END):
        return
    cell = expected(state, event)
    if cell is None:
        with pytest.raises(AssertionError, match=event.name):
            turns.handle(event)
    else:
        assert (turns.handle(event), turns.state) == (cell[1], cell[0])


@pytest.mark.parametrize("state", State)
def test_a_step_has_its_ends_and_a_rest_has_none(state: State) -> None:
    ends = {event for events in ENDS.values() for event in events}
    found = set() if state is State.CLOSED else {event for event in TABLE[state] if event in ends}
    assert found == (ENDS[STEPS[state]] if state in STEPS else set())


def walk(turns: Turns[int], *events: Event) -> list[Action]:
    done: list[Action] = []
    for event in events:
        done += turns.handle(event)
        done += turns.go_on()
    return done


BEGIN = Update(True, 1)
END = Update(False, 2)
BEGINS = (Event.FINISHED, Event.HEARD, Event.LOCATED)


def test_there_and_back() -> None:
    turns: Turns[int] = Turns("s")
    assert turns.step is None
    assert not turns.is_active
    turns.told(BEGIN)
    assert turns.step is Step.FINISH
    assert walk(turns, Event.FINISHED) == [Action.NEW_TURN]
    assert turns.step is Step.CALL_BEGIN
    assert walk(turns, Event.HEARD) == []
    assert turns.step is Step.LOCATE
    assert not turns.is_active
    assert walk(turns, Event.LOCATED) == [Action.ANSWER, Action.RESUME]
    assert turns.answered() is BEGIN
    assert turns.is_active
    assert turns.step is None
    turns.told(END)
    assert not turns.is_active
    assert walk(turns, Event.FINISHED) == []
    assert turns.step is Step.CALL_END
    assert walk(turns, Event.HEARD) == [Action.ORDERLY, Action.ANSWER]
    assert turns.answered() is END
    assert (turns.state, turns.step) == (State.RESTING, None)


def test_a_change_that_comes_meanwhile_is_answered_in_its_turn() -> None:
    """The turn that is over before its answer never becomes active."""
    turns: Turns[int] = Turns("s")
    turns.told(BEGIN)
    assert turns.told(END) == (Action.QUEUE,)
    assert turns.current is BEGIN
    walk(turns, Event.FINISHED, Event.HEARD)
    assert turns.handle(Event.LOCATED) == (Action.ANSWER,)
    assert turns.answered() is BEGIN
    assert turns.go_on() == ()
    assert (turns.state, turns.current) == (State.END_FINISH, END)
    assert walk(turns, Event.FINISHED, Event.HEARD) == [Action.ORDERLY, Action.ANSWER]


def test_a_turn_that_is_lost_ends_before_the_next_one() -> None:
    turns: Turns[int] = Turns("s")
    turns.told(BEGIN)
    walk(turns, *BEGINS)
    turns.answered()
    walk(turns, Event.LOST)
    assert (turns.is_active, turns.step) == (False, None)
    assert walk(turns, Event.SETTLE) == [Action.CUT_SHORT]
    assert STEPS[turns.state] is Step.FINISH
    walk(turns, Event.FINISHED)
    assert STEPS[turns.state] is Step.CALL_END
    assert walk(turns, Event.HEARD) == []
    assert turns.state is State.RESTING
    turns.told(Update(True, 3))
    assert walk(turns, *BEGINS) == [Action.NEW_TURN, Action.ANSWER, Action.RESUME]


@pytest.mark.parametrize("done", range(3))
def test_a_beginning_that_is_cut_off_goes_on_to_its_end(done: int) -> None:
    """The listener is never called for two turns at a time, and what waits is forgotten."""
    turns: Turns[int] = Turns("s")
    turns.told(BEGIN)
    turns.told(END)
    walk(turns, *BEGINS[:done], Event.LOST)
    step = turns.step
    assert step is (Step.FINISH, Step.CALL_BEGIN, Step.LOCATE)[done]
    walk(turns, Event.SETTLE)
    assert turns.step is step
    while turns.step is not None:
        assert not turns.is_active
        walk(turns, BEGINS[done])
        done += 1
    assert turns.state is State.CUT
    assert turns.answered() is BEGIN
    walk(turns, Event.SETTLE, Event.FINISHED, Event.HEARD)
    assert (turns.state, turns.current) == (State.RESTING, None)


def test_an_end_that_is_cut_off_is_orderly_all_the_same() -> None:
    turns: Turns[int] = Turns("s")
    turns.told(BEGIN)
    walk(turns, *BEGINS)
    turns.answered()
    turns.told(END)
    assert walk(turns, Event.LOST, Event.FINISHED) == [Action.FORGET]
    assert walk(turns, Event.HEARD) == [Action.ORDERLY, Action.ANSWER]
    assert walk(turns, Event.SETTLE) == []
    assert turns.step is None


def test_without_a_start_there_is_no_turn() -> None:
    turns: Turns[int] = Turns("s")
    turns.told(BEGIN)
    assert walk(turns, Event.FINISHED, Event.HEARD, Event.NOT_LOCATED) == [
        Action.NEW_TURN,
        Action.ANSWER,
        Action.FAIL,
    ]
    assert not turns.is_active


@pytest.mark.parametrize("state", State)
def test_nothing_follows_a_close(state: State) -> None:
    turns: Turns[int] = Turns("s")
    turns.state = state
    turns.handle(Event.CLOSE)
    assert walk(turns, *Event) == []
    assert turns.told(BEGIN) == ()
    assert (turns.state, turns.step, turns.current) == (State.CLOSED, None, None)


def test_the_changes_without_an_answer_are_bounded() -> None:
    turns: Turns[int] = Turns("s")
    for number in range(MAX_UPDATES):
        turns.told(Update(number % 2 == 0, number))
    with pytest.raises(ProtocolError, match="stream 's' without an answer"):
        turns.told(BEGIN)
    walk(turns, Event.FINISHED, Event.HEARD)
    turns.handle(Event.LOCATED)
    assert turns.answered().request == 0
    turns.go_on()
    turns.told(BEGIN)
