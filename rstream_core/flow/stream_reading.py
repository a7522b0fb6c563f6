"""How far the reading of each stream is, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rstream_core.consuming.subscription import Subscription
from rstream_core.flow.acks import Account, Acks


@dataclass(slots=True, eq=False)
class StreamReading:
    """The reading of one stream."""

    stream: str
    account: Account
    subscription: Subscription | None = None
    end: int | None = None
    """The last wanted offset, if it is known."""
    is_to_come: bool = False
    """Whether the offset ``end`` was not taken yet at the last look."""
    before_start: int = -1
    """An offset that lies before the first message to come."""
    has_begun: bool = False
    """Whether a message has come."""
    handed_out: int = 0
    """How many messages were handed out, in all turns."""
    is_read_out: bool = False
    """Whether no more messages are wanted."""
    is_closed: bool = False
    """Whether it is read out and nothing is left to be done for it."""
    is_active: bool | None = None
    """For a single active consumer: the state that was told last."""
    acks: Acks = field(init=False)
    """Of the present turn."""

    def __post_init__(self) -> None:
        self.acks = Acks(self.account, self.stream)

    def begin_turn(self) -> None:
        """What was handed out before is acknowledged for itself, and moves nothing any more."""
        self.acks = Acks(self.account, self.stream)

    @property
    def passed(self) -> int:
        """The offset up to which everything is done in this turn; -1 while that is nothing."""
        low = self.acks.low
        return -1 if low is None else low


class ReadEvents:
    """What is told of the reading of streams. Each of these may be overridden; none may raise."""

    def waiting(self) -> None:
        """The turns of a single active consumer are waited for from now on."""

    def beyond(self, stream: str, offset: int, following: int) -> None:
        """The start lies behind the end of the stream, whose next offset is ``following``."""

    def begins(self, reading: StreamReading, first: int) -> None:
        """The first message of a stream has come: it has this offset."""

    def turn(self, stream: str, active: bool) -> None:
        """A turn as single active consumer has begun, or ended."""

    def not_stored(self, stream: str, why: str) -> None:
        """At the end of a turn, the offset could not be stored. What was done is done again in the next turn."""

    def stored(self, stream: str, offset: int | None) -> None:
        """This offset is stored; None: nobody knows which one is."""
