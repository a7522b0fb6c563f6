"""The compiled twin of the seam against the one in Python: the same result for any input, or None for "ask Python"."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rstream_core.protocol import wire_python as python
from rstream_core.protocol.amqp_sections import encode_bodies, size_of
from tests.hostile import mutate
from tests.twin_checks import SUB_ENTRY, check_all, check_placed
from tests.twins import THERE

pytestmark = pytest.mark.skipif(THERE.compiled is None, reason=THERE.reason)
compiled: Any = THERE.compiled

bodies_lists = st.lists(
    st.binary(max_size=40) | st.binary(min_size=250, max_size=260) | st.just(b"\n" * 70_000), max_size=30
)
seeds = [
    python.join_plain([b"x" * 20, b"", b"y" * 255]),
    python.join_plain([b"x" * 300, b"\n" * 256]),
    python.join_entries([b"abc", b"\0Su\xa0\x00"]),
    b"one\ntwo\n\nthree" + b"x" * 300 + b"\n",
]
numbers = st.integers(-2, 40) | st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64])


@st.composite
def chunks(draw: st.DrawFn) -> tuple[bytes, int, int, int]:
    """Data, where entries begin and end in them, and how many there are; nearly right, or anything."""
    messages = draw(bodies_lists)
    if draw(st.booleans()):
        messages = encode_bodies(messages)
    before, data, behind = draw(st.binary(max_size=9)), python.join_entries(messages), draw(st.binary(max_size=9))
    packed = draw(st.integers(0, 2))
    data += SUB_ENTRY * packed
    count = len(messages) + packed
    if packed and draw(st.booleans()):
        data, count = data + python.join_entries(messages), count + len(messages)
    entries = bytearray(before + data + behind)
    start, end = len(before), len(before) + len(data)
    for _ in range(draw(st.integers(0, 2)) if entries else 0):
        at = draw(st.integers(0, len(entries) - 1) | st.integers(0, min(40, len(entries) - 1)))
        entries[at] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del entries[len(entries) - draw(st.integers(0, 4)) :]
    if not draw(st.integers(0, 3)):
        start, end, count = draw(numbers), draw(numbers), draw(numbers)
    elif not draw(st.integers(0, 3)):
        count += draw(st.integers(-1, 1))
    return bytes(entries), start, min(end, len(entries)), count


def is_span(data: bytes, start: int, end: int) -> bool:
    return 0 <= start <= end <= len(data)


@given(chunks())
@example((b"", 0, 0, 0))
@example((python.join_plain([b"x" * 20, b"y" * (1 << 24)]), 0, 41 + (1 << 24), 2))
@example((python.join_plain([b"x" * 300, b"y" * (1 << 24)]), 0, 324 + (1 << 24), 2))
@example((python.join_entries([b"\0Su\xa0\0" * 2]), 0, 14, 2**64))
def test_entries_are_read_alike(chunk: tuple[bytes, int, int, int]) -> None:
    data, start, end, count = chunk
    check_placed(compiled, chunk, is_one=is_span(data, start, end) and 0 <= count <= len(data))
    split, plain = compiled.split(*chunk), compiled.plain_bodies(*chunk)
    measured, lines = compiled.measure_plain(*chunk), compiled.plain_lines(*chunk, b"\r\n")
    if not is_span(data, start, end) or count < 0:
        assert (split, plain, measured, lines) == (None, None, None, None)
        return
    if count <= len(data):  # the other one needs as long as is claimed
        assert split == python.split(*chunk)
    expected = python.plain_bodies(*chunk)
    assert plain == expected
    if expected is None:
        assert (measured, lines) == (None, None)
    else:
        assert measured == (sum(map(len, expected)), max(map(len, expected)))
        assert lines == b"".join(body + b"\r\n" for body in expected)
        assert compiled.plain_lines(*chunk, b"") == b"".join(expected)
        assert compiled.plain_lines(*chunk, b"\0") == b"".join(body + b"\0" for body in expected)


@given(st.binary(max_size=80) | st.sampled_from(seeds), st.data())
def test_any_bytes_are_treated_alike(data: bytes, more: st.DataObject) -> None:
    """As ``scripts/fuzz`` does with many more."""
    check_all(compiled, data)
    check_all(compiled, mutate(data, seeds, random.Random(more.draw(st.integers(0, 2**32)))))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode)
broken = st.sampled_from(
    [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xc3", b"\xff"]
)
any_texts = st.text(max_size=60).map(lambda text: text.encode(errors="ignore"))


@given(
    st.lists(texts | any_texts | st.binary(max_size=30), max_size=9),
    st.tuples(st.binary(max_size=20), broken, st.binary(max_size=20)).map(b"".join) | st.none(),
    st.sampled_from([0, 9, 99, 10**19 - 2, 2**64 - 4, 2**64 - 1, 2**64, -1]),
)
@example([bytes(range(128)), b"\x7f" * 40, b'"' * 40, b"\x1f" * 40], None, 5)
def test_json_is_that_of_orjson(bodies: list[bytes], another: bytes | None, first: int) -> None:
    if another is not None:
        bodies = [*bodies, another]
    data = python.join_plain(bodies)
    found = compiled.plain_json(data, 0, len(data), len(bodies), first, b"[", b",")
    try:
        expected = b"".join(
            b"[%d,%b}\n" % (number, orjson.dumps(body.decode())) for number, body in enumerate(bodies, first)
        )
    except UnicodeDecodeError:
        assert found is None
    else:
        fits = bodies and first >= 0 and first + len(bodies) <= 2**64
        assert found == (expected if fits else None)


ids_columns = st.one_of(
    st.builds(lambda first, count: range(first, first + count), st.integers(-3, 2**64 + 3), st.integers(0, 30)),
    st.builds(range, st.integers(0, 9), st.integers(0, 99), st.sampled_from([1, 2, -1])),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(-1, 2**64), max_size=30),
    st.lists(st.integers(0, 9) | st.booleans() | st.floats() | st.text(max_size=2), max_size=9),
)
messages_columns = bodies_lists | st.lists(st.binary(max_size=9) | st.binary(max_size=9).map(bytearray), max_size=9)


@given(numbers | st.integers(0, 255), ids_columns, messages_columns, st.booleans())
def test_frames_are_made_alike(publisher_id: int, ids: Sequence[int], messages: list[bytes], is_tuple: bool) -> None:
    ids = ids[: len(messages)] if len(ids) > 1 else ids
    messages = messages[: len(ids)] if len(ids) else messages
    sizes = list(map(len, messages))
    given_messages: Sequence[bytes] = tuple(messages) if is_tuple else messages
    if type(ids) is list and is_tuple:
        ids = tuple(ids)
    same_or_none(
        compiled.publish_frame(publisher_id, ids, given_messages, None),
        lambda: python.publish_frame(publisher_id, ids, messages, sizes),
        must=is_usual(publisher_id, ids, messages),
    )
    filters = [python.encode_filter("x" * place if place % 3 else None) for place in range(len(messages))]
    same_or_none(
        compiled.publish_frame(publisher_id, ids, given_messages, filters),
        lambda: python.publish_frame(publisher_id, ids, messages, sizes, filters),
        must=is_usual(publisher_id, ids, messages),
    )
    if messages:
        assert compiled.publish_frame(publisher_id, ids, given_messages, filters[1:]) is None
    same_or_none(
        compiled.publish_plain(publisher_id, ids, given_messages),
        lambda: python.publish_plain(publisher_id, ids, messages, sizes, size_of(encode_bodies(messages))),
        must=is_usual(publisher_id, ids, messages),
    )
    are_bytes = all(type(message) is bytes for message in messages)
    same_or_none(compiled.join_entries(given_messages), lambda: python.join_entries(messages), must=are_bytes)
    same_or_none(compiled.join_plain(given_messages), lambda: python.join_plain(messages), must=are_bytes)


def is_usual(publisher_id: int, ids: Sequence[object], messages: Sequence[bytes]) -> bool:
    """Whether the compiled twin may not ask the other one."""
    if not messages or len(ids) != len(messages) or not 0 <= publisher_id <= 255:
        return False
    if type(ids) is range and ids.step != 1:
        return False
    return all(type(number) is int and 0 <= number < 2**64 for number in ids) and all(
        type(message) is bytes for message in messages
    )


def same_or_none(found: bytes | None, make: Callable[[], bytes], *, must: bool) -> None:
    if found is None:
        assert not must
    else:
        assert found == make()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=9), st.integers(0, 2**64 - 1), st.integers(0, 20))
def test_confirms_are_read_alike(numbers: list[int], first: int, count: int) -> None:
    for ids in (numbers, [number % 2**64 for number in range(first, first + count)]):
        data = b"".join(number.to_bytes(8) for number in ids)
        found, expected = compiled.confirmed_ids(data), python.confirmed_ids(data)
        assert type(found) is type(expected)
        assert found == expected


@given(st.binary(max_size=2000), st.integers(1, 9), st.binary(max_size=2), st.integers(0, 9), st.integers(0, 9))
@example(b"\n" * 9000, 1, b"\n", 0, 0)
@example(b"", 1, b"\n", 0, 0)
def test_bytes_are_counted_and_summed_alike(data: bytes, times: int, byte: bytes, start: int, short: int) -> None:
    data = (data + byte) * times
    assert compiled.count_byte(data, byte) == (data.count(byte) if len(byte) == 1 else None)
    end = max(len(data) - short, 0)
    if start <= end:
        assert compiled.crc32(data, start, end) in {None, zlib.crc32(data[start:end])}
    for outside in ((-1, 1), (1, 0), (0, len(data) + 1), (0, 2**64)):
        assert compiled.crc32(data, *outside) is None


@pytest.mark.parametrize("name", sorted(name for name in dir(compiled) if callable(getattr(compiled, name, None))))
def test_wrong_arguments_are_a_type_error(name: str) -> None:
    if name.startswith("__"):
        return
    function = getattr(compiled, name)
    for arguments in ((), (None,) * 2, (None,) * 9):
        with pytest.raises(TypeError):
            function(*arguments)
    with pytest.raises(TypeError):
        function(data=b"")
    assert function.__doc__
    assert function.__text_signature__
