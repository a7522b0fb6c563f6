"""What a comparison finds: single differences, and how many there are."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from rstream_core.diffing.sections import differing_sections


class DifferenceKind(enum.StrEnum):
    """How messages differ."""

    CHANGED = "changed"
    """A message of A has another one of B in its place."""
    MISSING = "missing"
    """Messages of one side that the other one does not have."""
    DOUBLED = "doubled"
    """A message that one side has once more near by, where the other one has it once."""
    MOVED = "moved"
    """The other side has the messages in another place near by."""


class Span(NamedTuple):
    """Offsets of messages that follow each other."""

    first: int
    last: int
    """The same where it is one message. Records of the broker's own may lie between them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One message, or a pair of them; or several that follow each other, and are missing or moved together."""

    kind: DifferenceKind
    a_stream: str
    b_stream: str
    a: Span | None
    """The messages of A; None where B alone has them."""
    b: Span | None
    """The messages of B; None where A alone has them."""
    count: int = 1
    """How many messages these are, on each side that has them."""
    before: int | None = None
    """Where one side alone has them: the offset of the message of the other side before which they would stand. None
    behind all of those that were compared, and where both sides have them."""
    a_message: bytes = field(default=b"", repr=False)
    """The encoded message of A, where it is changed; otherwise empty."""
    b_message: bytes = field(default=b"", repr=False)
    ignored: frozenset[str] = field(default=frozenset(), repr=False)
    """The sections that were not compared."""

    @property
    def side(self) -> str:
        """The side that lacks missing messages, or has doubled ones: ``a`` or ``b``; empty for other kinds."""
        if self.kind is DifferenceKind.MISSING:
            return "b" if self.b is None else "a"
        if self.kind is DifferenceKind.DOUBLED:
            return "a" if self.b is None else "b"
        return ""

    @property
    def sections(self) -> tuple[str, ...]:
        """Where a message is changed: the names of its sections that are, as those of the JSON envelope; ``message``
        where one of the two is not AMQP 1.0. Otherwise empty."""
        if self.kind is not DifferenceKind.CHANGED:
            return ()
        return differing_sections(self.a_message, self.b_message, self.ignored)


@dataclass(slots=True)
class DiffCounts:
    """How many messages were compared so far, and what was found.

    ``a == equal + changed + moved + missing_in_b + doubled_in_a`` and
    ``b == equal + changed + moved + missing_in_a + doubled_in_b``, at the end exactly; before it, what is not decided
    yet is in ``a`` and ``b`` alone.
    """

    a: int = 0
    """Messages of A."""
    b: int = 0
    """Messages of B."""
    equal: int = 0
    """Messages that both have in the same order."""
    changed: int = 0
    missing_in_a: int = 0
    missing_in_b: int = 0
    doubled_in_a: int = 0
    doubled_in_b: int = 0
    moved: int = 0

    @property
    def different(self) -> int:
        """How many messages differ. One that is on both sides counts once."""
        return self.changed + self.missing_in_a + self.missing_in_b + self.doubled_in_a + self.doubled_in_b + self.moved
