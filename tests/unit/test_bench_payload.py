"""Bodies of ``rstream bench``, and the check that each message comes once and in order."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.bench.check import MAX_HOLES, Check, Tally, runs_of, spans_of
from rstream_cli.bench.payload import AT_ONCE, MAX_SIZE, Bodies, Size, heads, is_run, name_of, numbers, parse_sizes
from rstream_core import AMQPMessage
from rstream_core.protocol.amqp import encode_bodies
from rstream_core.protocol.amqp_sections import PlainMessages, bodies_of
from rstream_core.protocol.chunk import PlainChunk
from rstream_core.types import Chunk

RUN = 5


def chunk_of(messages: Sequence[bytes]) -> Chunk | PlainChunk:
    if isinstance(messages, PlainMessages):
        return PlainChunk("s", 0, 0, messages, 0)
    return Chunk("s", 0, 0, list(messages), 0)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("100", (100, 100)), ("1kB", (1000, 1000)), ("8", (8, 8)), ("100..2kB", (100, 2000)), (" 20 .. 30 ", (20, 30))],
)
def test_sizes(text: str, sizes: tuple[int, int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7", "at least 8 bytes"),
        ("4..100", "at least 8 bytes"),
        ("200..100", "the range is empty"),
        (str(MAX_SIZE + 1), "at most 16 MiB"),
        ("many", "not a size: 'many'"),
        ("1..2..3", "not a size"),
        ("", "not a size"),
    ],
)
def test_sizes_that_cannot_be(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_sizes(text)


@pytest.mark.parametrize("size", [Size(8, 8), Size(15, 15), Size(16, 16), Size(100, 100), Size(20, 3000)])
def test_bodies_have_their_size_and_begin_with_their_name(size: Size) -> None:
    bodies = Bodies(size, RUN, 3)
    made = [*bodies.messages(0, 300, 77), *bodies.messages(300, 200, 99)]
    found = [body or b"" for body in bodies_of(made)]
    assert {size.least <= len(body) <= size.most for body in found} == {True}
    assert size.is_fixed or len({len(body) for body in found}) > 100
    assert [int.from_bytes(body[:8]) for body in found] == [name_of(RUN, 3) + number for number in range(500)]
    if size.has_times:
        assert [int.from_bytes(body[8:16]) for body in found] == [77] * 300 + [99] * 200


def test_a_body_from_a_file_is_untouched() -> None:
    body = bytes(range(256)) * 3
    (message, _) = map(AMQPMessage.from_bytes, Bodies(Size(768, 768, body), RUN, 1).messages(4, 2, 55))
    assert message.body == body
    assert message.properties is not None
    assert message.properties.message_id == (name_of(RUN, 1) + 4).to_bytes(8) + (55).to_bytes(8)


@given(st.integers(0, 2**63), st.integers(1, 3 * AT_ONCE))
def test_numbers(first: int, count: int) -> None:
    assert numbers(first, count) == b"".join(number.to_bytes(8) for number in range(first, first + count))


@given(st.lists(st.integers(0, 4) | st.integers(2**64 - 4, 2**64 - 1), min_size=1, max_size=5))
def test_a_run_is_told_from_others(some: list[int]) -> None:
    data = b"".join(number.to_bytes(8) for number in some)
    assert is_run(data) == (some == list(range(some[0], some[0] + len(some))))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=20))
def test_runs_are_found(parts: list[tuple[int, int]]) -> None:
    some = [number for first, count in parts for number in range(first, first + count)]
    names = array("Q", some)
    found = list(runs_of(names, b"".join(number.to_bytes(8) for number in some)))
    assert [some[at] + step for at, count in found for step in range(count)] == some
    assert [at for at, _ in found] == [sum(count for _, count in found[:place]) for place in range(len(found))]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_times_are_counted(times: list[int]) -> None:
    counted: dict[int, int] = {}
    for when, count in spans_of(array("Q", times)):
        counted[when] = counted.get(when, 0) + count
    assert counted == {when: times.count(when) for when in set(times)}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=20))
def test_a_tally_knows_what_came(parts: list[tuple[int, int]]) -> None:
    tally, seen, doubled, misplaced = Tally(), set[int](), 0, 0
    for first, count in parts:
        tally.add(first, count)
        for number in range(first, first + count):
            doubled += number in seen
            misplaced += number not in seen and number < max(seen, default=-1)
            seen.add(number)
    assert (tally.came, tally.doubled, tally.misplaced) == (len(seen), doubled, misplaced)


def test_a_tally_remembers_a_bounded_number_of_holes() -> None:
    tally = Tally()
    for number in range(1, 2 * MAX_HOLES + 100, 2):
        tally.add(number, 1)
    tally.add(0, 1)
    tally.add(2 * MAX_HOLES + 10, 1)  # its hole was not remembered
    assert (tally.misplaced, tally.doubled) == (1, 1)


SIZES = [Size(10, 10), Size(100, 100), Size(30, 300), Size(3, 3, b"abc")]


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
def test_the_check_finds_what_is_wrong(size: Size, data: st.DataObject) -> None:
    """Batches of two producers, of another run, and of somebody else, in any order and cut anyhow into chunks."""
    bodies = [Bodies(size, RUN, 0), Bodies(size, RUN, 7), Bodies(size, RUN + 1, 0)]
    batches = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 30), st.integers(1, 9)), max_size=12)
    )
    check, foreign = Check(size, RUN), 0
    tallies = [Tally(), Tally()]
    times: dict[int, int] = {}
    stored: list[bytes] = []
    for which, first, count, when in batches:
        if which == 3:
            stored += encode_bodies([b"short", b"", b"a longer one of somebody else"])
            foreign += 3
            continue
        stored += bodies[which].messages(first, count, when)
        if which == 2:
            foreign += count
        else:
            tallies[which].add(first, count)
            times[when] = times.get(when, 0) + count
    found: dict[int, int] = {}
    while stored:
        cut = data.draw(st.integers(1, len(stored)))
        part, stored = stored[:cut], stored[cut:]
        is_plain = size.body is None and data.draw(st.booleans())
        chunk = chunk_of(PlainMessages([body or b"" for body in bodies_of(part)]) if is_plain else part)
        for when, count in check.add(chunk):
            found[when] = found.get(when, 0) + count
    assert check.foreign == foreign
    assert check.came == sum(tally.came for tally in tallies)
    assert found == (times if size.has_times else {})
    for producer, tally in zip((0, 7), tallies, strict=True):
        got = check.tallies.get(producer, Tally())
        assert (got.came, got.doubled, got.misplaced) == (tally.came, tally.doubled, tally.misplaced)


def test_a_large_chunk_is_looked_at_in_parts() -> None:
    count = 2 * AT_ONCE + 5
    check = Check(Size(16, 16), RUN)
    assert sum(count for _, count in check.add(chunk_of(Bodies(Size(16, 16), RUN, 0).messages(0, count, 9)))) == count
    assert check.came == count


def test_heads_are_as_many_as_asked_for() -> None:
    assert len(heads(0, 3 * AT_ONCE, 0)) == 3 * AT_ONCE
