"""Comparisons: what counts at the end of a stream that grows, what is ignored, and how much memory they take."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from rstream_core.diffing import inputs
from rstream_core.diffing.comparison import Comparison
from rstream_core.diffing.difference import DiffCounts, DifferenceKind
from rstream_core.diffing.sections import SECTIONS, differing_sections, key_without
from rstream_core.errors import ConfigurationError
from rstream_core.protocol.amqp import AMQPMessage, amqp_decoder
from tests.comparing import compared, is_plain, offsets_of, piece_of

MB = 1024 * 1024


def messages(count: int, first: int = 0) -> list[bytes]:
    return [AMQPMessage(b"message %d" % number).encode() for number in range(first, first + count)]


def test_the_tests_have_pieces_of_both_kinds() -> None:
    assert is_plain(messages(2))
    assert not is_plain([*messages(2), b"no AMQP"])


def test_what_came_after_the_start_is_not_judged() -> None:
    whole = messages(120)
    ends = [offsets_of(whole, 0)[last] for last in (79, 89)]
    found, counts = compared(whole[:95], whole, required=(ends[0], ends[1]))
    assert found == []
    assert 90 <= counts.equal <= 95
    found, counts = compared(whole[:85], whole[:119], required=(ends[0], ends[1]))
    assert [(one.kind, one.side, one.count) for one in found] == [("missing", "a", 5)]
    assert (counts.a, counts.b, counts.equal, counts.missing_in_a) == (85, 90, 85, 5)


def test_what_came_after_the_start_may_be_the_counterpart() -> None:
    """Of what the other side had before. What is in its place otherwise is no change."""
    whole = messages(100)
    end = offsets_of(whole, 0)[49]
    late = [*whole[:60], *messages(3, 500), *whole[60:]]
    found, _ = compared(late, whole, required=(end, offsets_of(whole, 0)[69]))
    assert found == []
    found, _ = compared([*whole[:50], *messages(2, 900)], whole[:52], required=(end, offsets_of(whole, 0)[51]))
    assert [(one.kind, one.side, one.count) for one in found] == [("missing", "a", 2)]


def test_what_came_after_the_start_on_both_sides_has_not_moved() -> None:
    """Two writers may have added the same messages in other orders."""
    whole = messages(9)
    late = messages(20, 100)
    end = offsets_of(whole, 0)[-1] + 1
    a, b = [*whole, *messages(1, 77), *late], [*whole, *messages(1, 88), *late[1:], late[0]]
    found, counts = compared(a, b, required=(end, end))
    assert [str(one.kind) for one in found] == ["changed"]
    assert (counts.a, counts.b, counts.equal, counts.different) == (29, 29, 28, 1)


def test_an_empty_stream_that_has_grown_is_not_judged() -> None:
    assert compared(messages(3), messages(5), required=(-1, -1))[0] == []


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0), (1, 1), (15, 16), (64, 63)])
def test_short_streams(a: int, b: int) -> None:
    found, counts = compared(messages(a), messages(b))
    assert (counts.equal, counts.different) == (min(a, b), abs(a - b))
    assert [one.count for one in found] == ([abs(a - b)] if a != b else [])


def test_a_message_that_comes_again_and_again_is_never_called_doubled() -> None:
    """A stream of heartbeats that lacks some: one cannot tell which, but that they are missing."""
    beats = messages(1) * 100
    found, _ = compared(beats, beats[:97])
    assert [(one.kind, one.side, one.count) for one in found] == [("missing", "b", 3)]
    found, _ = compared(beats[:97], beats)
    assert [(one.kind, one.side, one.count) for one in found] == [("missing", "a", 3)]


def test_what_is_further_apart_than_the_window_has_not_moved() -> None:
    whole = messages(300)
    far = [*whole[1:200], whole[0], *whole[200:]]
    assert {one.kind for one in compared(whole, far, window=250)[0]} == {DifferenceKind.MOVED}
    assert {one.kind for one in compared(whole, far, window=50)[0]} == {DifferenceKind.MISSING}


def test_what_comes_again_and_again_is_counted_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a window of them takes time with its square, in which no heartbeat is sent."""

    class Indexes(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("each is looked at")

    monkeypatch.setattr(inputs, "deque", Indexes)
    recent = inputs.Recent(None, MB)
    recent.note(0, inputs.Piece(0, messages(1) * 500), 0, 500)
    [message] = messages(1)
    assert [recent.count(message, *places) for places in ((0, 500), (100, 200), (499, 900))] == [500, 100, 1]
    assert recent.count(b"other", 0, 500) == 0


# Sections.

WHOLE = AMQPMessage(
    b"body", application_properties={"n": 1}, message_annotations={"x": 1}, delivery_annotations={"d": 1}
)
CHANGES: dict[str, Callable[[AMQPMessage], object]] = {
    "body": lambda message: setattr(message, "body", b"other"),
    "headers": lambda message: setattr(message, "application_properties", {"n": 2}),
    "annotations": lambda message: setattr(message, "message_annotations", None),
    "delivery_annotations": lambda message: setattr(message, "delivery_annotations", {"d": 2}),
    "footer": lambda message: setattr(message, "footer", {"f": 1}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_section_is_named_and_ignored(name: str) -> None:
    a = WHOLE.encode()
    changed = amqp_decoder(a)
    CHANGES[name](changed)
    b = changed.encode()
    assert differing_sections(a, b) == (name,)
    key = key_without([name])
    assert key is not None
    assert key(a) == key(b)
    assert compared([a] * 3, [a, b, b], ignored=[name]) == ([], DiffCounts(3, 3, equal=3))
    others = [other for other in SECTIONS if other != name]
    found, _ = compared([a], [b], ignored=others)
    assert [one.sections for one in found] == [(name,)]


def test_what_is_no_amqp_is_compared_as_it_is() -> None:
    key = key_without(["properties"])
    assert key is not None
    assert key(b"\x01\x02") == b"\x01\x02"
    assert differing_sections(b"\x01", WHOLE.encode()) == ("message",)
    found, _ = compared([b"one", b"two"], [b"one", b"2"], ignored=["properties"])
    assert [(str(one.kind), one.sections) for one in found] == [("changed", ("message",))]


def test_ignored_sections_change_nothing_about_the_rest() -> None:
    """What differs for real is found among thousands that differ in what is ignored."""

    def annotated(numbers: Sequence[int], x: int) -> list[bytes]:
        return [AMQPMessage(b"%d" % number, message_annotations={"x": x}).encode() for number in numbers]

    a, b = annotated(range(3000), 1), annotated([*range(2500), *range(2501, 3000)], 2)
    found, counts = compared(a, b, ignored=["annotations"], cut=lambda left: min(left, 1000))
    assert [(str(one.kind), one.side, one.count) for one in found] == [("missing", "b", 1)]
    assert (counts.equal, counts.different) == (2999, 1)


def test_an_unknown_section() -> None:
    with pytest.raises(ConfigurationError, match="no section 'footnote'; there are: header, delivery_annotations"):
        Comparison(ignored=["footnote"])


# Memory.


def _peak(a: Callable[[int], list[bytes]], b: Callable[[int], list[bytes]], pieces: int) -> int:
    """The memory of a comparison of so many pieces of each side, which are made one by one."""
    comparison = Comparison(window=250, most_bytes=MB)
    made = [0, 0]
    tracemalloc.start()
    try:
        while not comparison.is_done:
            comparison.found.clear()
            if comparison.step():
                continue
            for place, (side, make) in enumerate(((comparison.a, a), (comparison.b, b))):
                if not comparison.wants(side):
                    continue
                side.has_ended = made[place] == pieces
                if not side.has_ended:
                    some = make(made[place])
                    side.feed(made[place] * len(some), piece_of(some))
                    made[place] += 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _same(number: int) -> list[bytes]:
    return messages(500, number * 500)


def _other(number: int) -> list[bytes]:
    return messages(500, number * 500 + 10_000_000)


def _large(number: int) -> list[bytes]:
    return [AMQPMessage(b"%d" % number + b"x" * (MB // 4)).encode()]


@pytest.mark.parametrize("other", [_same, _other])
def test_memory_does_not_grow_with_the_streams(other: Callable[[int], list[bytes]]) -> None:
    """Equal ones, and those in which every message differs."""
    few, many = _peak(_same, other, 6), _peak(_same, other, 12)
    assert many < 1.2 * few + 100_000
    assert many < 20 * MB


def test_large_messages_are_bounded_by_their_bytes() -> None:
    """A window of them would take half a gigabyte."""
    assert _peak(_large, lambda number: _large(number + 1000), 40) < 14 * MB
