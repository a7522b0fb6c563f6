"""Compares two lists of messages as two streams, for tests of what a comparison finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from rstream_core.diffing.comparison import Comparison
from rstream_core.diffing.difference import DiffCounts, Difference, DifferenceKind, Span
from rstream_core.diffing.inputs import Input
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.wire import join_entries, plain_messages

Cut = Callable[[int], int]
"""Returns how many messages the next piece has, at most; ``int`` is how many are left."""


def piece_of(messages: Sequence[bytes]) -> Sequence[bytes]:
    """The messages as a subscription hands them out: where they are plain, in the data of their chunk."""
    data = join_entries(messages)
    return plain_messages(data, 0, len(data), len(messages)) or list(messages)


def offsets_of(messages: Sequence[bytes], first: int) -> list[int]:
    """Offsets as streams have them: some are left out, as records of the broker's own take them."""
    return [first + place + place // 7 for place in range(len(messages))]


def compared(
    a: Sequence[bytes],
    b: Sequence[bytes],
    *,
    window: int = 1000,
    ignored: Sequence[str] = (),
    cut: Cut = lambda left: min(left, 300),
    firsts: tuple[int, int] = (0, 0),
    required: tuple[int | None, int | None] = (None, None),
    most_bytes: int = 1 << 24,
) -> tuple[list[Difference], DiffCounts]:
    """What a comparison finds in two lists, whose messages come in pieces of one size or another."""
    comparison = Comparison(window=window, ignored=ignored, most_bytes=most_bytes)
    sides = comparison.a, comparison.b
    lists = [list(zip(offsets_of(one, first), one, strict=True)) for one, first in zip((a, b), firsts, strict=True)]
    for side, last in zip(sides, required, strict=True):
        side.required = last
    found: list[Difference] = []
    while not comparison.is_done:
        found += comparison.found
        comparison.found.clear()
        if comparison.step():
            continue
        wanted = [(side, rest) for side, rest in zip(sides, lists, strict=True) if comparison.wants(side)]
        assert wanted, "it waits for nothing"
        for side, rest in wanted:
            _feed(side, rest, cut)
    assert not comparison.step()
    return [*found, *comparison.found], comparison.counts


def _feed(side: Input, rest: list[tuple[int, bytes]], cut: Cut) -> None:
    if not rest:
        side.has_ended = True
        return
    count = max(cut(len(rest)), 1)
    # The offsets of a piece are consecutive.
    whole = next((place for place, (one, other) in enumerate(pairwise(rest), 1) if other[0] != one[0] + 1), len(rest))
    part = rest[: min(count, whole)]
    del rest[: len(part)]
    side.feed(part[0][0], piece_of([message for _, message in part]))


def applied(
    differences: Sequence[Difference], a: Sequence[bytes], b: Sequence[bytes], firsts: tuple[int, int] = (0, 0)
) -> list[bytes]:
    """What A becomes where it is edited by the differences. What was added comes from B."""
    rest = dict(zip(offsets_of(a, firsts[0]), a, strict=True))
    whole = dict(zip(offsets_of(b, firsts[1]), b, strict=True))
    result: dict[int, bytes] = {}
    for difference in differences:
        mine, its = _within(rest, difference.a), _within(whole, difference.b)
        for offsets in (mine, its):
            assert len(offsets) in (0, difference.count)
        taken = [rest.pop(offset) for offset in mine]
        assert not result.keys() & set(its)
        if difference.kind is DifferenceKind.CHANGED:
            assert taken == [difference.a_message]
            assert [whole[offset] for offset in its] == [difference.b_message]
        if difference.kind is DifferenceKind.MOVED:
            assert [whole[offset] for offset in its] == taken
        result.update((offset, whole[offset]) for offset in its)
    kept = iter(rest[offset] for offset in sorted(rest))
    done = [result[offset] if offset in result else next(kept) for offset in whole]
    assert next(kept, None) is None, "A has more left than B has places"
    return done


def _within(messages: dict[int, bytes], span: Span | None) -> list[int]:
    return [] if span is None else [offset for offset in sorted(messages) if span.first <= offset <= span.last]


def is_plain(messages: Sequence[bytes]) -> bool:
    return isinstance(piece_of(messages), PlainMessages)
