"""The turns of a single active consumer as a state machine, without I/O.

The broker tells a member of a group when its turn begins and when it ends, and waits for an answer each time. On the
way to the answer there are steps that take time, one after another: the application finishes the chunk that it holds
(``Step.FINISH``); its listener is called (``CALL_BEGIN``, ``CALL_END``); the start of the turn is looked up
(``LOCATE``). Meanwhile the broker may have told the next change already: it waits until the steps are done. The
connection may also be lost. Then a turn that had begun ends before the member subscribes again (``Event.SETTLE``), with
the same steps and without an answer.

``TABLE`` says for each state and event which state follows, and what must be done at once. ``Turns`` adds the changes
that wait. Whoever drives the machine does the steps, and sends the answers: see ``turn_taking``. Where a turn begins,
``progress`` knows.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from rstream_core.errors import ProtocolError

U = TypeVar("U")

MAX_UPDATES = 1000
"""How many ConsumerUpdates a broker may send before the first of them is answered."""


class State(enum.Enum):
    """Where a member stands. Those with a step are left when the step is done."""

    RESTING = enum.auto()
    """It has no turn."""
    BEGIN_FINISH = enum.auto()
    """A turn begins: the application still holds a chunk of an earlier one."""
    BEGIN_LISTENER = enum.auto()
    """A turn begins: the listener says where."""
    BEGIN_LOCATE = enum.auto()
    """A turn begins: the start is looked up."""
    BEGUN = enum.auto()
    """The turn was answered. It becomes active, unless the broker has told the next change meanwhile."""
    ACTIVE = enum.auto()
    """The broker sends messages."""
    END_FINISH = enum.auto()
    """The turn ends: the application finishes the chunk that it holds."""
    END_LISTENER = enum.auto()
    """The turn ends: the listener may store offsets."""
    CUT_FINISH = enum.auto()
    """As BEGIN_FINISH, but the connection was lost meanwhile: nobody waits for the answer."""
    CUT_LISTENER = enum.auto()
    """As BEGIN_LISTENER, after a loss. A listener is never called for two changes at a time, so it is waited for."""
    CUT_LOCATE = enum.auto()
    """As BEGIN_LOCATE, after a loss."""
    CUT = enum.auto()
    """The turn had begun when the connection was lost. It must end before the next one can begin."""
    LOST_FINISH = enum.auto()
    """A turn ends after its connection was lost: the application finishes the chunk that it holds."""
    LOST_LISTENER = enum.auto()
    """A turn ends after its connection was lost: the listener may store offsets."""
    CLOSED = enum.auto()
    """The subscription was closed. No step follows, and nothing is answered."""


class Event(enum.Enum):
    """What happens to a member."""

    BEGIN = enum.auto()
    """The broker says that a turn begins."""
    END = enum.auto()
    """The broker says that the turn ends."""
    FINISHED = enum.auto()
    """The application holds no chunk any more, or had its time."""
    HEARD = enum.auto()
    """The listener has returned, failed, or had its time."""
    LOCATED = enum.auto()
    """The start of the turn is known."""
    NOT_LOCATED = enum.auto()
    """The start of the turn cannot be found out: a turn that began anywhere could skip messages."""
    QUIET = enum.auto()
    """The broker has told no further change."""
    LOST = enum.auto()
    """The connection was lost, or the broker has dropped the subscription."""
    SETTLE = enum.auto()
    """The member wants to subscribe again."""
    CLOSE = enum.auto()


class Step(enum.Enum):
    """What takes time, and ends with an event."""

    FINISH = enum.auto()
    """Wait until the application has finished its chunk. Ends with FINISHED."""
    CALL_BEGIN = enum.auto()
    """Call the listener for a turn that begins. Ends with HEARD."""
    CALL_END = enum.auto()
    """Call the listener for a turn that ends. Ends with HEARD."""
    LOCATE = enum.auto()
    """Find out where the turn begins. Ends with LOCATED or NOT_LOCATED."""


class Action(enum.Enum):
    """What must be done at once when an event comes."""

    QUEUE = enum.auto()
    """Keep the change for later: it is answered in its turn."""
    NEW_TURN = enum.auto()
    """``Progress.begin_turn``: what was processed belongs to an earlier turn now."""
    CUT_SHORT = enum.auto()
    """``Progress.cut_turn``: the turn ends without its orderly end."""
    ORDERLY = enum.auto()
    """``Progress.end_turn``: the listener could store what was processed."""
    ANSWER = enum.auto()
    """Answer the change: with the start of the turn where it is BEGUN now, else without one. After a loss the
    connection may be gone, or the broker may have dropped the subscription alone: then it still gets its answer."""
    RESUME = enum.auto()
    """Take messages from the start of the turn, and give the broker the credits that were held back."""
    FAIL = enum.auto()
    """Give this attachment up: the error says why the start is not known."""
    FORGET = enum.auto()
    """Forget the changes that wait: they came over a connection that is lost."""


S, E, A = State, Event, Action

STEPS: Mapping[State, Step] = {
    S.BEGIN_FINISH: Step.FINISH,
    S.BEGIN_LISTENER: Step.CALL_BEGIN,
    S.BEGIN_LOCATE: Step.LOCATE,
    S.END_FINISH: Step.FINISH,
    S.END_LISTENER: Step.CALL_END,
    S.CUT_FINISH: Step.FINISH,
    S.CUT_LISTENER: Step.CALL_BEGIN,
    S.CUT_LOCATE: Step.LOCATE,
    S.LOST_FINISH: Step.FINISH,
    S.LOST_LISTENER: Step.CALL_END,
}
"""The step of each state that has one."""

Cell = tuple[State, tuple[Action, ...]]
TABLE: dict[State, dict[Event, Cell]] = {
    S.RESTING: {
        E.BEGIN: (S.BEGIN_FINISH, ()),
        E.END: (S.END_FINISH, ()),
        E.LOST: (S.RESTING, (A.FORGET,)),
    },
    S.BEGIN_FINISH: {
        E.FINISHED: (S.BEGIN_LISTENER, (A.NEW_TURN,)),
        E.LOST: (S.CUT_FINISH, (A.FORGET,)),
    },
    S.BEGIN_LISTENER: {
        E.HEARD: (S.BEGIN_LOCATE, ()),
        E.LOST: (S.CUT_LISTENER, (A.FORGET,)),
    },
    S.BEGIN_LOCATE: {
        E.LOCATED: (S.BEGUN, (A.ANSWER,)),
        E.NOT_LOCATED: (S.CUT, (A.ANSWER, A.FAIL)),
        E.LOST: (S.CUT_LOCATE, (A.FORGET,)),
    },
    S.BEGUN: {
        E.BEGIN: (S.BEGIN_FINISH, ()),
        E.END: (S.END_FINISH, ()),
        E.QUIET: (S.ACTIVE, (A.RESUME,)),
        E.LOST: (S.CUT, (A.FORGET,)),
    },
    S.ACTIVE: {
        E.BEGIN: (S.BEGIN_FINISH, ()),
        E.END: (S.END_FINISH, ()),
        E.LOST: (S.CUT, (A.FORGET,)),
    },
    S.END_FINISH: {
        E.FINISHED: (S.END_LISTENER, ()),
        E.LOST: (S.END_FINISH, (A.FORGET,)),  # it ends in good order all the same
    },
    S.END_LISTENER: {
        E.HEARD: (S.RESTING, (A.ORDERLY, A.ANSWER)),
        E.LOST: (S.END_LISTENER, (A.FORGET,)),
    },
    S.CUT_FINISH: {
        E.FINISHED: (S.CUT_LISTENER, (A.NEW_TURN,)),
        E.LOST: (S.CUT_FINISH, (A.FORGET,)),
    },
    S.CUT_LISTENER: {
        E.HEARD: (S.CUT, (A.ANSWER,)),
        E.LOST: (S.CUT_LISTENER, (A.FORGET,)),
    },
    S.CUT_LOCATE: {
        E.LOCATED: (S.CUT, (A.ANSWER,)),
        E.NOT_LOCATED: (S.CUT, (A.ANSWER,)),
        E.LOST: (S.CUT_LOCATE, (A.FORGET,)),
    },
    S.CUT: {
        E.SETTLE: (S.LOST_FINISH, (A.CUT_SHORT,)),
        E.LOST: (S.CUT, (A.FORGET,)),
    },
    S.LOST_FINISH: {
        E.FINISHED: (S.LOST_LISTENER, ()),
        E.LOST: (S.LOST_FINISH, (A.FORGET,)),
    },
    S.LOST_LISTENER: {
        E.HEARD: (S.RESTING, ()),
        E.LOST: (S.LOST_LISTENER, (A.FORGET,)),
    },
    S.CLOSED: {},
}
"""State x event -> the next state, and what must be done at once, in this order. ``_complete`` adds what is alike."""


def _complete() -> None:
    """Adds the cells that are alike in most states."""
    for state, row in TABLE.items():
        if state is S.CLOSED:  # a step that was under way may still end; what the broker says is too late
            row.update(dict.fromkeys(Event, (state, ())))
            continue
        row[E.CLOSE] = S.CLOSED, (A.FORGET,)
        row.setdefault(E.SETTLE, (state, ()))  # nothing has to end, or first the step must
        for told in (E.BEGIN, E.END):
            row.setdefault(told, (state, (A.QUEUE,)))


_complete()


class Update(NamedTuple, Generic[U]):
    """A change that the broker told."""

    active: bool
    """Whether the turn begins."""
    request: U
    """What the answer goes to. The machine only keeps it."""


class Turns(Generic[U]):
    """The state machine of one member.

    The methods return what must be done at once, in that order. Behind each of them the driver calls ``go_on`` as well.
    """

    def __init__(self, stream: str) -> None:
        """``stream`` is for error messages."""
        self._stream = stream
        self.state = State.RESTING
        self.current: Update[U] | None = None
        """The change that the steps are about; None where it was answered."""
        self._waiting: deque[Update[U]] = deque()

    @property
    def step(self) -> Step | None:
        """The step to take now; None for none."""
        return STEPS.get(self.state)

    @property
    def is_active(self) -> bool:
        """Whether the broker sends messages, and the application may take them."""
        return self.state is State.ACTIVE

    def told(self, update: Update[U]) -> Sequence[Action]:
        """The broker has told a change. Raises ``ProtocolError`` where ``MAX_UPDATES`` have no answer yet."""
        if len(self._waiting) + (self.current is not None) >= MAX_UPDATES:
            raise ProtocolError(f"the broker begins and ends turns in stream {self._stream!r} without an answer")
        following, actions = TABLE[self.state][Event.BEGIN if update.active else Event.END]
        if Action.QUEUE in actions:
            self._waiting.append(update)
        elif following is not State.CLOSED:
            self.current = update
        self.state = following
        return actions

    def handle(self, event: Event) -> Sequence[Action]:
        """Anything else has happened. The end of a step that is not under way is an ``AssertionError``."""
        cell = TABLE[self.state].get(event)
        assert cell is not None, f"{event} in {self.state}"
        self.state, actions = cell
        if Action.FORGET in actions:
            self._waiting.clear()
        return actions

    def answered(self) -> Update[U]:
        """Returns the change that gets its answer now."""
        update, self.current = self.current, None
        assert update is not None
        return update

    def go_on(self) -> Sequence[Action]:
        """Takes the change that waits longest, where no step is under way; begins the turn where none waits."""
        if self._waiting and self.state in RESTS:
            return self.told(self._waiting.popleft())
        return self.handle(Event.QUIET) if self.state is State.BEGUN else ()


RESTS = frozenset({State.RESTING, State.BEGUN, State.ACTIVE})
"""The states in which the next change is taken."""
