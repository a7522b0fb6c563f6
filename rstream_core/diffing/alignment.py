"""Which messages of two short runs are the same ones: a longest common subsequence. Without I/O.

The rows of the usual table are bits of large integers, so that one addition does a whole row (Crochemore, Iliopoulos,
Pinzon and Reid, 2001). Two runs of 2,000 messages take a few milliseconds, whatever is in them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

WINDOW = 1000
"""Messages within which a difference is recognised for what it is."""
MOST_WINDOW = 10_000
"""The largest window: aligning takes time and memory with its square."""


def aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Returns the places of messages that are the same in both runs, in growing order: as many as possible."""
    same = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        same += 1
    pairs = [(place, place) for place in range(same)]
    if same < min(len(a), len(b)):
        pairs += [(same + i, same + j) for i, j in _longest(a[same:], b[same:])]
    return pairs


def _longest(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The same for runs of which neither is empty.

    In the table, the row of ``b[j]`` counts for each place of ``a`` how many messages the runs up to there have in
    common. A bit of ``row`` is 0 where that number grows by one.
    """
    where: dict[Hashable, int] = {}
    bit = 1
    for message in a:
        where[message] = where.get(message, 0) | bit
        bit <<= 1
    if where.keys().isdisjoint(b):
        return []
    everywhere = row = bit - 1
    rows = [row]
    for message in b:
        matches = where.get(message)
        if matches is not None:
            met = row & matches
            row = (row + met | row - met) & everywhere
        rows.append(row)
    pairs: list[tuple[int, int]] = []
    i, j = len(a) - 1, len(b)
    while i >= 0 and j > 0:
        bit = 1 << i
        if rows[j] & bit:
            i -= 1
        elif not rows[j - 1] & bit:
            j -= 1
        else:
            j -= 1
            pairs.append((i, j))
            i -= 1
    pairs.reverse()
    return pairs


def first_run(pairs: Sequence[tuple[int, int]], length: int) -> int | None:
    """Returns the index of the first pair with which ``length`` pairs begin that follow each other without anything in
    between; None where there are none."""
    began = 0
    for index in range(len(pairs)):
        if index and (pairs[index][0] - pairs[index - 1][0], pairs[index][1] - pairs[index - 1][1]) != (1, 1):
            began = index
        if index - began + 1 == length:
            return began
    return None
