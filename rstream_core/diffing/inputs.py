"""One side of a comparison: the messages that have come and are not compared yet, and those that were last. No I/O.

Messages lie in pieces, as they came. Where both sides have the same bytes, nobody takes single messages out of them:
``equal_start`` compares what lies behind each other in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from rstream_core.diffing.sections import Key
from rstream_core.protocol.amqp_sections import PlainMessages, size_of
from rstream_core.protocol.wire import entries_of

KEYS_AT_ONCE = 256
"""Messages of which sections are taken out at once, where some are ignored."""


class Piece:
    """Messages with consecutive offsets."""

    __slots__ = ("_bytes", "_end", "_messages", "_pos", "at", "first", "size")

    def __init__(self, first: int, messages: Sequence[bytes]) -> None:
        self.first = first
        """The offset of the first message, also of those that were compared."""
        self.at = 0
        """How many messages were compared."""
        self.size = size_of(messages)
        self._messages = messages
        entries = entries_of(messages) if isinstance(messages, PlainMessages) else None
        self._bytes, self._pos, self._end = (b"", 0, 0) if entries is None else entries

    @property
    def left(self) -> int:
        return len(self._messages) - self.at

    @property
    def offset(self) -> int:
        """The offset of the next message."""
        return self.first + self.at

    @property
    def encoded(self) -> Sequence[bytes]:
        """All messages."""
        return self._messages.encoded if isinstance(self._messages, PlainMessages) else self._messages

    def some(self, count: int) -> Sequence[bytes]:
        """The next messages."""
        return self.encoded[self.at : self.at + count]

    def skip(self, count: int) -> None:
        """The next messages were compared."""
        if self._bytes and count < self.left:
            self._pos += sum(map(len, self.some(count))) + 4 * count
        self.at += count

    def skip_equal(self, other: Piece) -> int:
        """Skips the messages of the shorter rest in both, where they are the same bytes in both. Returns how many these
        are; 0 where that is not so, or not to be seen in this way."""
        if self.left > other.left:
            return other.skip_equal(self)
        size, count = self._end - self._pos, self.left
        if not self._bytes or not other._bytes or other._end - other._pos < size:
            return 0
        # Each message stands behind its size, so the same bytes are the same number of messages.
        if not other._bytes.startswith(memoryview(self._bytes)[self._pos : self._end], other._pos, other._end):
            return 0
        self.at += count
        self._pos += size
        other.at += count
        other._pos += size
        return count


class Input:
    """The messages of one side."""

    def __init__(self, key: Key | None, most_bytes: int) -> None:
        """``most_bytes``: of the messages that were compared last, and of those that wait."""
        self._pieces: deque[Piece] = deque()
        self._most_bytes = most_bytes
        self.count = 0
        """How many messages wait."""
        self.size = 0
        """Bytes of the pieces that hold them."""
        self.fed = 0
        """Bytes of all messages that came."""
        self.index = 0
        """How many messages were compared."""
        self.has_ended = False
        """Whether no more come."""
        self.last: int | None = None
        """The offset of the message that was compared last."""
        self.required: int | None = None
        """The last offset that has to be compared; None: all that come."""
        self.recent = Recent(key, most_bytes)

    def feed(self, first: int, messages: Sequence[bytes]) -> None:
        """Messages have come; they have consecutive offsets from ``first`` on."""
        if messages:
            piece = Piece(first, messages)
            self._pieces.append(piece)
            self.count += piece.left
            self.size += piece.size
            self.fed += piece.size

    def is_ready(self, count: int) -> bool:
        """Whether so many messages wait, or as many as there may be."""
        return self.count >= count or self.has_ended or self.size >= self._most_bytes

    @property
    def is_over(self) -> bool:
        """Whether all messages were compared that have to be."""
        if not self.count and self.has_ended:
            return True
        required = self.required
        if required is None:
            return False
        return (self.last is not None and self.last >= required) or (self.count > 0 and self.head.offset > required)

    @property
    def head(self) -> Piece:
        """What holds the next message."""
        return self._pieces[0]

    def window(self, count: int) -> tuple[list[bytes], list[int]]:
        """Returns the next messages, at most so many, and their offsets."""
        messages: list[bytes] = []
        offsets: list[int] = []
        for piece in self._pieces:
            some = piece.some(count - len(messages))
            messages += some
            offsets += range(piece.offset, piece.offset + len(some))
            if len(messages) == count:
                break
        return messages, offsets

    def take(self, count: int) -> None:
        """The next messages were compared."""
        while count:
            piece = self.head
            some = min(count, piece.left)
            piece.skip(some)
            self._note(piece, some)
            count -= some

    def take_equal(self, other: Input) -> int:
        """Takes the messages in front that are the same bytes on both sides, as far as a quick look shows it. Returns
        how many these are."""
        mine, its = self.head, other.head
        count = mine.skip_equal(its)
        if count:
            self._note(mine, count)
            other._note(its, count)
        return count

    def _note(self, piece: Piece, count: int) -> None:
        """``piece`` has skipped so many messages."""
        self.recent.note(self.index, piece, piece.at - count, piece.at)
        self.index += count
        self.count -= count
        self.last = piece.offset - 1
        if not piece.left:
            self._pieces.popleft()
            self.size -= piece.size


def equal_start(a: Piece, b: Piece, key: Key | None) -> int:
    """Returns how many messages in front are the same in both."""
    count = min(a.left, b.left)
    one, other = a.some(count), b.some(count)
    same = _first_difference(one, other)
    while key is not None and same < count:
        # What differs may be what is ignored.
        some = [[key(message) for message in part[same : same + KEYS_AT_ONCE]] for part in (one, other)]
        found = _first_difference(*some)
        same += found
        if found < len(some[0]):
            break
    return same


def _first_difference(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    if a == b:
        return len(a)
    return next(place for place, (one, other) in enumerate(zip(a, b, strict=True)) if one != other)


class Recent:
    """The last messages of a side, to be found by what is compared of them. They are looked at only when asked for."""

    def __init__(self, key: Key | None, most_bytes: int) -> None:
        self._key = key
        self._most_bytes = most_bytes
        self._size = 0
        self._parts: deque[tuple[int, Piece, int, int]] = deque()
        """What was not looked at: the index of the first message, a piece, and the places of the messages in it."""
        self._known: deque[tuple[int, bytes]] = deque()
        """What was: the index of each message, and what is compared of it."""
        self._where: dict[bytes, deque[int]] = {}
        """The indexes, by what is compared."""

    def note(self, index: int, piece: Piece, begin: int, end: int) -> None:
        """The messages from ``begin`` to ``end`` of a piece were compared; ``index``: of the first one."""
        if self._parts and self._parts[-1][1] is piece:
            index, _, begin, _ = self._parts.pop()
        else:
            self._size += piece.size
        self._parts.append((index, piece, begin, end))

    def forget(self, before: int) -> None:
        """Messages before this index are of no interest any more; nor are older ones where all are too many bytes."""
        parts, known = self._parts, self._known
        while parts and (parts[0][0] + parts[0][3] - parts[0][2] <= before or self._is_too_much):
            _, piece, _, _ = parts.popleft()
            self._size -= piece.size
        while known and (known[0][0] < before or self._is_too_much):
            _, key = known.popleft()
            self._size -= len(key)
            indexes = self._where[key]
            indexes.popleft()
            if not indexes:
                del self._where[key]

    @property
    def _is_too_much(self) -> bool:
        return self._size > self._most_bytes and len(self._parts) + len(self._known) > 1

    def count(self, key: bytes, low: int, high: int) -> int:
        """Returns how often this is among the messages with an index from ``low`` on, before ``high``."""
        if self._parts and self._parts[0][0] < high:
            self._look(low, high)
        indexes = self._where.get(key, ())  # they grow, and may be all that is known
        return bisect_left(indexes, high) - bisect_left(indexes, low)

    def _look(self, low: int, high: int) -> None:
        parts = self._parts
        while parts and parts[0][0] < high:
            index, piece, begin, end = parts.popleft()
            self._size -= piece.size
            skipped = max(low - index, 0)
            stop = min(high - index, end - begin)
            if stop < end - begin:
                parts.appendleft((index + stop, piece, begin + stop, end))
                self._size += piece.size
            for place, message in enumerate(piece.encoded[begin + skipped : begin + stop], index + skipped):
                key = message if self._key is None else self._key(message)
                self._known.append((place, key))
                self._size += len(key)
                self._where.setdefault(key, deque()).append(place)
