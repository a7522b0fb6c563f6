"""Gives any bytes to all functions of the compiled twin of the seam, and compares them with the one in Python."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from rstream_core.protocol import wire_python as python
from rstream_core.protocol.amqp_sections import PlainMessages, encode_bodies
from rstream_core.protocol.chunk import HEADER
from rstream_core.protocol.wire_choice import Compiled
from rstream_core.publishing.columns import PlainColumns
from tests.twins import THERE

SUB_ENTRY = b"\x90\0\2\0\0\0\x0c\0\0\0\3abc"
"""One of two messages, as far as it is looked at."""
DELIMITERS = (b"\n", b"\0", b"ab")


def check_all(compiled: Compiled, data: bytes) -> None:
    """Raises ``AssertionError`` where the two differ. What is asked for is derived from the data."""
    first, last = data[:1] or b"\0", data[-1:] or b"\0"
    for start, end in ((0, len(data)), (first[0] % 16, len(data) - last[0] % 16)):
        for count in {entries_in(data, start, end), first[0], int.from_bytes(data[-4:])}:
            check_entries(compiled, data, start, end, count)
        if 0 <= start <= end:
            assert compiled.crc32(data, start, end) in {None, zlib.crc32(data[start:end])}
            for delimiter in DELIMITERS:
                check_lines(compiled, data, start, end, delimiter)
    confirms = data[: len(data) // 8 * 8]
    assert list(compiled.confirmed_ids(confirms)) == list(python.confirmed_ids(confirms))
    for delimiter in (*DELIMITERS, last):
        counted = compiled.count_byte(data, delimiter)
        assert counted == (data.count(delimiter) if len(delimiter) == 1 else None)
    check_frames(compiled, data.split(last), int.from_bytes(data[:8]), first[0])


def entries_in(data: bytes, start: int, end: int) -> int:
    """How many entries there are, as far as they can be read."""
    count = 0
    while start + 4 <= end:
        start += 4 + int.from_bytes(data[start : start + 4])
        count += 1
    return count


def check_entries(compiled: Compiled, data: bytes, start: int, end: int, count: int) -> None:
    """Of one chunk. What claims more entries than bytes is none, and Python would take long to find that out."""
    chunk = (data, start, end, count)
    is_one = 0 <= start <= end and count <= len(data)
    assert compiled.split(*chunk) == (python.split(*chunk) if is_one else None)
    check_placed(compiled, chunk, is_one=is_one)
    bodies = python.plain_bodies(*chunk) if is_one else None
    assert compiled.plain_bodies(*chunk) == bodies
    measured = None if bodies is None else (sum(map(len, bodies)), max(map(len, bodies)))
    assert compiled.measure_plain(*chunk) == measured
    for delimiter in (b"\n", b"", b"\r\n"):
        lines = None if bodies is None else b"".join(body + delimiter for body in bodies)
        assert compiled.plain_lines(*chunk, delimiter) == lines


def check_placed(compiled: Compiled, chunk: tuple[bytes, int, int, int], *, is_one: bool) -> None:
    """Of one chunk whose messages stay where they are: its stretches, and the frames that are made of them there."""
    surveyed = compiled.survey(*chunk)
    assert surveyed == (python.survey(*chunk) if is_one else None)
    data, start, end, _ = chunk
    if not 0 <= start <= end:
        assert compiled.cut_entries(data, start, end, 100, 10) is None
    for begin, stop, count, _, kind in surveyed or ():
        if kind:
            assert compiled.publish_entries(7, range(1), data, begin - 11, stop) is None
            continue
        ids = range(1 << 40, (1 << 40) + count)
        assert compiled.publish_entries(7, ids, data, begin, stop) == python.publish_entries(7, ids, data, begin, stop)
        assert compiled.publish_entries(7, list(ids), data, begin, stop) is not None
        for wrong in (ids[1:], range(count + 1), range(-1, count - 1)):
            assert compiled.publish_entries(7, wrong, data, begin, stop) is None
        for limit, most in ((len(data) // 3, 1000), (40, 7), (1 << 20, 1 << 20)):
            parts = compiled.cut_entries(data, begin, stop, limit, most)
            assert parts == python.cut_entries(data, begin, stop, limit, most)
            assert compiled.cut_entries(data, begin, stop, limit, 0) is None


def check_lines(compiled: Compiled, data: bytes, start: int, end: int, delimiter: bytes) -> None:
    """Of one piece of input, measured, cut and made into frames."""
    lines = (data, start, end, delimiter)
    measured = compiled.measure_lines(*lines)
    bodies = data[start:end].split(delimiter)
    if len(delimiter) != 1 or start == end or bodies.pop():
        assert measured is None
        assert compiled.cut_lines(*lines, 100, 10) is None
        assert compiled.publish_lines(1, range(len(bodies)), *lines, len(data)) is None
        return
    messages = PlainMessages(bodies)
    assert measured == (len(bodies), messages.size, messages.body_size, messages.most)
    for limit, most in ((len(data) // 3, 1000), (40, 7), (1 << 20, 1 << 20)):
        parts = compiled.cut_lines(*lines, limit, most)
        assert parts is not None
        check_parts(compiled, messages, parts, lines, (limit, most))
    assert compiled.publish_lines(1, range(len(bodies) + 1), *lines, messages.size) is None
    for wrong in (messages.size - 1, messages.size + 1, 0, 1 << 40):
        assert wrong == messages.size or compiled.publish_lines(1, range(len(bodies)), *lines, wrong) is None


def check_parts(
    compiled: Compiled,
    messages: PlainMessages,
    parts: Sequence[tuple[int, int, int]],
    lines: tuple[bytes, int, int, bytes],
    limits: tuple[int, int],
) -> None:
    """They are those of the columns of the same bodies, and so are their frames."""
    data, start, end, delimiter = lines
    columns, low = PlainColumns(messages), 0
    ids = range(1 << 40, (1 << 40) + len(messages))
    found = []
    for high, size, place in parts:
        found.append((low, high, size))
        frame = compiled.publish_lines(9, ids[low:high], data, start, place, delimiter, size)
        some = messages.bodies[low:high]
        assert frame == python.publish_plain(9, ids[low:high], some, list(map(len, some)), size)
        low, start = high, place
    assert start == end
    assert found == list(columns.parts(*limits))


def check_frames(compiled: Compiled, bodies: list[bytes], first: int, publisher_id: int) -> None:
    """Of these bodies, and of these messages."""
    several, lengths = range(first, first + len(bodies)), list(map(len, bodies))
    assert compiled.join_entries(bodies) == python.join_entries(bodies)
    assert compiled.join_plain(bodies) == python.join_plain(bodies)
    filters = [python.encode_filter("é" * (length % 5) if length % 3 else None) for length in lengths]
    size = sum(map(len, encode_bodies(bodies)))
    for ids in (several, list(several)):
        made = (
            compiled.publish_frame(publisher_id, ids, bodies, None),
            compiled.publish_frame(publisher_id, ids, bodies, filters),
            compiled.publish_plain(publisher_id, ids, bodies),
        )
        if several.stop > 1 << 64:
            assert made == (None, None, None)
            continue
        assert made == (
            python.publish_frame(publisher_id, ids, bodies, lengths),
            python.publish_frame(publisher_id, ids, bodies, lengths, filters),
            python.publish_plain(publisher_id, ids, bodies, lengths, size),
        )


def check(data: bytes) -> None:
    """Compares the twins, where there are two."""
    if THERE.compiled is not None:
        check_all(THERE.compiled, data)


def seeds(chunks: Sequence[bytes]) -> Sequence[bytes]:
    """Returns inputs of every kind: entries of chunks, plain ones, lines and confirms."""
    bodies = [b"x" * size for size in (0, 1, 20, 255, 256, 300)]
    return [
        *(chunk[HEADER.size :] for chunk in chunks),
        python.join_plain(bodies),
        python.join_plain([b"y" * 100] * 40),
        python.join_entries([b"ab", b"c"]) + SUB_ENTRY * 2 + python.join_entries([b""]) + SUB_ENTRY,
        python.join_entries([b"\0Su\xa0\2ab", b"\0Su\xb0\0\0\0\2ab", b"ab"]),
        b"".join(body + b"\n" for body in [*bodies, *bodies]),
        b"\0" * 50,
        b"".join(number.to_bytes(8) for number in range(2**40, 2**40 + 30)),
    ]
