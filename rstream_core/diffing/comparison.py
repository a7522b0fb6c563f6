"""Compares two runs of messages that come piece by piece, within bounded memory. Without I/O.

Both sides are compared from the front. Where they differ, the next messages of each are aligned: first a few, then more
of them, until some messages in a row are the same on both sides again. What is in between is the difference.

- A message that one side alone has there waits until ``window`` messages more have been compared. Where the other side
  has it meanwhile, it has moved.
- Then it is doubled, where its own side has it twice near by and the other one once. A message that the other side has
  several times is not: nobody can tell which one is too many, or lost.
- Else it makes a pair, changed, with one of the other side in the same place; without one it is missing there.

So the differences come in the order in which they are decided, which is nearly that of the messages.

``Comparison`` is longer than other classes, since what is read from the front, and what waits to be decided, are two
views of the same two sides. What can be said of one side alone is in ``inputs``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rstream_core.diffing.alignment import WINDOW, aligned, first_run
from rstream_core.diffing.difference import DiffCounts, Difference, DifferenceKind, Span
from rstream_core.diffing.inputs import Input, equal_start
from rstream_core.diffing.sections import Key, key_without

MOST_BYTES = 16 * 1024 * 1024
"""Bytes that each side may have waiting for the other one, and of messages that were compared last. One piece more may
come, and a window ends earlier where it is reached."""
IN_A_ROW = 16
"""Messages that have to be the same behind a difference: then both sides are in step again."""
_FIRST_LOOKS = (64, 512)
"""Messages of each side that are aligned before the whole window is."""

A, B = 0, 1


@dataclass(slots=True, eq=False)
class _Hunk:
    """Messages between two places where both sides are the same: those of each side that are not decided yet."""

    entries: tuple[deque[_Entry], deque[_Entry]] = field(default_factory=lambda: (deque(), deque()))


@dataclass(slots=True, eq=False)
class _Entry:
    """A message that is on one side alone, as far as is known."""

    side: int
    index: int
    """How many messages of its side stand before it."""
    offset: int
    message: bytes
    key: bytes
    other_index: int
    """How many messages of the other side do."""
    before: int | None
    hunk: _Hunk
    is_open: bool = True
    """Whether it is not decided."""


@dataclass(slots=True, eq=False)
class _Group:
    """Differences that become one."""

    kind: DifferenceKind
    first: tuple[_Entry | None, _Entry | None]
    last: tuple[_Entry | None, _Entry | None]
    count: int = 1

    def takes(self, kind: DifferenceKind, entries: tuple[_Entry | None, _Entry | None]) -> bool:
        """Whether a further difference of this kind follows this one without anything in between."""
        return (
            kind is self.kind
            and kind is not DifferenceKind.CHANGED
            and all(
                (before is None) == (entry is None)
                and (before is None or entry is None or entry.index == before.index + 1)
                for before, entry in zip(self.last, entries, strict=True)
            )
        )


class Comparison:
    """Compares the messages of ``a`` and ``b``, which are fed as long as they want more.

    ``step`` is called again and again until ``is_done``. It does a bounded piece of work, and returns False where it
    can do nothing before more has come.
    """

    def __init__(
        self,
        a_stream: str = "a",
        b_stream: str = "b",
        *,
        window: int = WINDOW,
        ignored: Sequence[str] = (),
        counts: DiffCounts | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """``ignored``: names of sections. ``counts``: to count on, after other streams. Raises ``ConfigurationError``
        for an unknown section."""
        self._streams = a_stream, b_stream
        self._window = window
        self._ignored = frozenset(ignored)
        self._key: Key | None = key_without(ignored)
        self._most_bytes = most_bytes
        self.a, self.b = (Input(self._key, most_bytes) for _ in (A, B))
        self._inputs = self.a, self.b
        self._looks = (*(look for look in _FIRST_LOOKS if look < window), 2 * window)
        # Twice the window: what is that far apart has still a window of messages in common.
        self.counts = DiffCounts() if counts is None else counts
        self.found: deque[Difference] = deque()
        """What was found; whoever reads it takes it out."""
        self.is_done = False
        self._is_at_difference = False
        """Whether the messages in front are known to differ."""
        self._hunk: _Hunk | None = None
        """That of the messages compared last, where they differ."""
        self._undecided: deque[_Entry] = deque()
        self._undecided_bytes = 0
        self._by_key: tuple[dict[bytes, deque[_Entry]], dict[bytes, deque[_Entry]]] = {}, {}
        """Those that are open, of each side, by what is compared."""
        self._group: _Group | None = None
        """The last difference, which others may join."""

    def wants(self, side: Input) -> bool:
        """Whether more messages of this side should come, as soon as there are any."""
        return not self.is_done and not side.is_ready(self._looks[-1])

    def step(self) -> bool:
        """Compares some messages. Returns whether it could."""
        if self.is_done:
            return False
        a, b = self._inputs
        if a.is_over and b.is_over:
            self._finish()
            return True
        if a.count and b.count:
            return self._align() if self._is_at_difference else self._compare()
        for side, other in ((A, B), (B, A)):
            if self._inputs[side].count and self._inputs[other].has_ended:
                self._take_alone(side)
                return True
        return False

    # From the front.

    def _compare(self) -> bool:
        a, b = self._inputs
        count = a.take_equal(b)
        if not count:
            count = equal_start(a.head, b.head, self._key)
            a.take(count)
            b.take(count)
        if count:
            self._hunk = None
            self.counts.equal += count
            self._count(count, count)
            self._decide_old()
        else:
            self._is_at_difference = True
        return True

    def _take_alone(self, side: int) -> None:
        """Takes messages behind the end of the other side."""
        one = self._inputs[side]
        messages, offsets = one.window(self._window)
        nothing: tuple[list[bytes], list[int]] = [], []
        windows = (nothing, (messages, offsets)) if side == B else ((messages, offsets), nothing)
        self._pass([], windows, (len(windows[A][0]), len(windows[B][0])))

    def _align(self) -> bool:
        """Aligns the next messages, which differ, up to where both sides are in step again."""
        a, b = self._inputs
        for look in self._looks:
            if not a.is_ready(look) or not b.is_ready(look):
                return False
            windows = a.window(look), b.window(look)
            keys = self._keys(windows[A][0]), self._keys(windows[B][0])
            sizes = len(keys[A]), len(keys[B])
            end = _in_step(*keys)
            if end is not None:
                self._pass([], windows, end)
                return True
            pairs = aligned(*keys)
            is_whole = a.has_ended and b.has_ended and sizes == (a.count, b.count)
            if is_whole:
                self._pass(pairs, windows, sizes)
                return True
            begin = first_run(pairs, IN_A_ROW)
            if begin is not None:
                self._pass(pairs[:begin], windows, pairs[begin])
                return True
        # Behind the half, what is alone may be so only since the window ends.
        half = [
            min(size if side.has_ended and size == side.count else (size + 1) // 2, self._window)
            for side, size in zip(self._inputs, sizes, strict=True)
        ]
        pairs = [pair for pair in pairs if pair[A] < half[A] and pair[B] < half[B]]
        end = (pairs[-1][A] + 1, pairs[-1][B] + 1) if pairs else (half[A], half[B])
        self._pass(pairs, windows, end)
        return True

    def _keys(self, messages: list[bytes]) -> list[bytes]:
        return messages if self._key is None else [self._key(message) for message in messages]

    def _pass(
        self,
        pairs: Sequence[tuple[int, int]],
        windows: tuple[tuple[list[bytes], list[int]], tuple[list[bytes], list[int]]],
        end: tuple[int, int],
    ) -> None:
        """Takes the messages before ``end`` of both sides, of which these pairs are the same ones."""
        at = [0, 0]
        begun = self.a.index, self.b.index
        for pair in (*pairs, end):
            if at[A] < pair[A] or at[B] < pair[B]:
                self._note_gap(windows, begun, (at[A], at[B]), pair)
            if pair is not end:
                self.counts.equal += 1
                self._hunk = None
            at = [pair[A] + 1, pair[B] + 1]
        self.a.take(end[A])
        self.b.take(end[B])
        self._count(end[A], end[B])
        self._is_at_difference = False
        self._decide_old()

    def _note_gap(
        self,
        windows: tuple[tuple[list[bytes], list[int]], tuple[list[bytes], list[int]]],
        begun: tuple[int, int],
        low: tuple[int, int],
        high: tuple[int, int],
    ) -> None:
        """The messages of each side between these places have no counterpart there."""
        if self._hunk is None:
            self._hunk = _Hunk()
        for side, other in ((A, B), (B, A)):
            messages, offsets = windows[side]
            others = windows[other][1]
            before = others[high[other]] if high[other] < len(others) else None
            for place in range(low[side], high[side]):
                message = messages[place]
                key = message if self._key is None else self._key(message)
                self._note(
                    _Entry(
                        side,
                        begun[side] + place,
                        offsets[place],
                        message,
                        key,
                        begun[other] + low[other],
                        before,
                        self._hunk,
                    )
                )

    def _count(self, a: int, b: int) -> None:
        self.counts.a += a
        self.counts.b += b

    # What is on one side alone.

    def _note(self, entry: _Entry) -> None:
        others = self._by_key[1 - entry.side].get(entry.key)
        if others:
            other = others[0]
            self._close(other)
            if self._is_late(entry) and self._is_late(other):
                self._count(-1, -1)
                return
            self.counts.moved += 1
            self._tell(DifferenceKind.MOVED, other, entry)
            return
        self._by_key[entry.side].setdefault(entry.key, deque()).append(entry)
        entry.hunk.entries[entry.side].append(entry)
        self._undecided.append(entry)
        self._undecided_bytes += len(entry.message)

    def _close(self, entry: _Entry) -> None:
        """It is decided."""
        entry.is_open = False
        self._undecided_bytes -= len(entry.message)
        same = self._by_key[entry.side][entry.key]
        same.remove(entry)
        if not same:
            del self._by_key[entry.side][entry.key]

    def _decide_old(self, *, all_of_them: bool = False) -> None:
        """Decides what can find no counterpart any more."""
        undecided = self._undecided
        while undecided:
            entry = undecided[0]
            if entry.is_open:
                if not all_of_them and not self._is_old(entry) and self._undecided_bytes <= self._most_bytes:
                    break
                self._decide(entry)
            undecided.popleft()
        if not undecided:
            self._end_group()
        for side in self._inputs:
            side.recent.forget(side.index - 4 * self._window)

    def _is_old(self, entry: _Entry) -> bool:
        own, other = self._inputs[entry.side].index, self._inputs[1 - entry.side].index
        return other - entry.other_index > self._window or own - entry.index > 2 * self._window

    def _decide(self, entry: _Entry) -> None:
        self._close(entry)
        mine, others = entry.hunk.entries[entry.side], entry.hunk.entries[1 - entry.side]
        while mine and not mine[0].is_open:
            mine.popleft()
        if self._is_late(entry):
            self._count(-(entry.side == A), -(entry.side == B))
            return
        if self._is_doubled(entry):
            self._tell_alone(DifferenceKind.DOUBLED, entry)
            return
        while others:
            other = others.popleft()
            if not other.is_open or self._is_late(other):
                continue
            self._close(other)
            if self._is_doubled(other):
                self._tell_alone(DifferenceKind.DOUBLED, other)
                continue
            self.counts.changed += 1
            self._tell(DifferenceKind.CHANGED, entry, other)
            return
        self._tell_alone(DifferenceKind.MISSING, entry)

    def _is_late(self, entry: _Entry) -> bool:
        """Whether it lies behind what has to be compared: it counts only where the other side has it."""
        required = self._inputs[entry.side].required
        return required is not None and entry.offset > required

    def _is_doubled(self, entry: _Entry) -> bool:
        own, other = self._inputs[entry.side].recent, self._inputs[1 - entry.side].recent
        near, at, other_at = self._window, entry.index, entry.other_index
        return (
            own.count(entry.key, at - near, at + near + 1) > 1
            and other.count(entry.key, other_at - near, other_at + near + 1) == 1
        )

    def _finish(self) -> None:
        self._decide_old(all_of_them=True)
        self.is_done = True

    # What is told.

    def _tell_alone(self, kind: DifferenceKind, entry: _Entry) -> None:
        counts = self.counts
        if kind is DifferenceKind.DOUBLED:
            counts.doubled_in_a += entry.side == A
            counts.doubled_in_b += entry.side == B
        else:
            counts.missing_in_b += entry.side == A
            counts.missing_in_a += entry.side == B
        self._tell(kind, entry, None)

    def _tell(self, kind: DifferenceKind, one: _Entry, other: _Entry | None) -> None:
        entries = (one, other) if one.side == A else (other, one)
        group = self._group
        if group is not None and group.takes(kind, entries):
            group.last = entries
            group.count += 1
            return
        self._end_group()
        self._group = _Group(kind, entries, entries)

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        a, b = (
            None if first is None or last is None else Span(first.offset, last.offset)
            for first, last in zip(group.first, group.last, strict=True)
        )
        alone = [entry for entry in group.last if entry is not None]
        a_message, b_message = b"", b""
        if group.kind is DifferenceKind.CHANGED:
            a_message, b_message = (entry.message for entry in alone)
        self.found.append(
            Difference(
                group.kind,
                *self._streams,
                a,
                b,
                group.count,
                alone[0].before if len(alone) == 1 else None,
                a_message,
                b_message,
                self._ignored,
            )
        )


def _in_step(a: Sequence[bytes], b: Sequence[bytes]) -> tuple[int, int] | None:
    """Returns how many messages of each side differ, where that is one of either or of both, as it mostly is."""
    for i, j in ((1, 0), (0, 1), (1, 1)):
        some = a[i : i + IN_A_ROW]
        if len(some) == IN_A_ROW and some == b[j : j + IN_A_ROW]:
            return i, j
    return None
