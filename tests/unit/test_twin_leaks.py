"""The compiled twin keeps nothing: no reference and no memory, whatever a call ends with."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest

from rstream_core.protocol import wire_python as python
from tests.twins import THERE

pytestmark = pytest.mark.skipif(THERE.compiled is None, reason=THERE.reason)
compiled: Any = THERE.compiled

BODIES = [b"x" * size for size in (1, 100, 300)] * 20
CHUNK = python.join_plain(BODIES)
WHOLE = (CHUNK, 0, len(CHUNK))
IDS = [2**40 + number for number in range(len(BODIES))]
LINES = b"".join(body + b"\n" for body in BODIES)
SIZE = len(CHUNK) - 4 * len(BODIES)
FILTERS = [b"\xff\xff"] * len(BODIES)
LAST_IS_WRONG = [*BODIES[1:], bytearray(b"x")]
CONFIRMED = b"".join(number.to_bytes(8) for number in IDS)
HEAD = b"head" * 5
SUB_ENTRY = b"\x80\0\2\0\0\0\x0c\0\0\0\x0c" + b"\0\0\0\2ab" * 2
MIXED = CHUNK + SUB_ENTRY + CHUNK

CALLS: list[tuple[str, tuple[Any, ...]]] = [
    *((name, (*WHOLE, count)) for name in ("split", "plain_bodies", "measure_plain") for count in (60, 59, 61, 2**70)),
    *((name, (*WHOLE, "x")) for name in ("split", "plain_bodies", "measure_plain")),
    *(("plain_lines", (*WHOLE, count, delimiter)) for count in (60, 61) for delimiter in (b"\n", HEAD, "x")),
    *(("plain_json", (*WHOLE, count, 2**40, HEAD, HEAD)) for count in (60, 61)),
    ("plain_json", (python.join_plain([b"x", b"\xff"]), 0, 20, 2, 5, HEAD, HEAD)),
    ("join_entries", (BODIES,)),
    ("join_plain", (tuple(BODIES),)),
    ("join_entries", (LAST_IS_WRONG,)),
    ("publish_frame", (1, IDS, BODIES, None)),
    ("publish_frame", (1, range(60), BODIES, FILTERS)),
    ("publish_frame", (1, [*IDS[1:], "x"], BODIES, FILTERS)),
    ("publish_frame", (1, [*IDS[1:], 2**64], BODIES, None)),
    ("publish_frame", (1, range(2**64, 2**64 + 60), BODIES, None)),
    ("publish_plain", (1, range(2**40, 2**40 + 60), BODIES)),
    ("publish_plain", (1, IDS, LAST_IS_WRONG)),
    ("publish_plain", (256, IDS, BODIES)),
    ("publish_lines", (1, IDS, LINES, 0, len(LINES), b"\n", SIZE)),
    ("publish_lines", (1, [*IDS[1:], "x"], LINES, 0, len(LINES), b"\n", SIZE)),
    ("publish_lines", (1, IDS, LINES, 0, len(LINES), b"\n", SIZE + 1)),
    ("measure_lines", (LINES, 0, len(LINES), b"\n")),
    ("measure_lines", (LINES, 0, len(LINES) - 1, b"\n")),
    *(("cut_lines", (LINES, 0, len(LINES), b"\n", limit, 7)) for limit in (400, 2**70, "x")),
    *(("survey", (data, 0, len(data), count)) for data in (CHUNK, MIXED) for count in (60, 121, 122, "x")),
    *(("cut_entries", (data, 0, len(data), limit, 7)) for data in (CHUNK, MIXED) for limit in (400, 2**70, "x")),
    *(("publish_entries", (1, ids, *WHOLE)) for ids in (IDS, range(60), IDS[1:], [*IDS[1:], "x"])),
    ("publish_entries", (1, range(121), MIXED, 0, len(MIXED))),
    *(("confirmed_ids", (data,)) for data in (CONFIRMED, CONFIRMED[8:] + CONFIRMED[:8], b"")),
    *(("count_byte", (LINES, byte)) for byte in (b"\n", b"ab", "x")),
    *(("crc32", (CHUNK, start, len(CHUNK))) for start in (0, 2**70, "x")),
]


def call(name: str, arguments: tuple[Any, ...]) -> None:
    try:
        getattr(compiled, name)(*arguments)
    except TypeError:
        assert any(isinstance(argument, str) for argument in arguments)


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[f"{at}-{name}" for at, (name, _) in enumerate(CALLS)])
def test_nothing_is_kept(name: str, arguments: tuple[Any, ...]) -> None:
    inner = [item for argument in arguments if isinstance(argument, list | tuple) for item in argument]
    watched = [None, *arguments, *inner]
    for _ in range(10):
        call(name, arguments)
    tracemalloc.start()
    try:
        before, counts = tracemalloc.get_traced_memory()[0], [sys.getrefcount(item) for item in watched]
        for _ in range(500):
            call(name, arguments)
        grown = tracemalloc.get_traced_memory()[0] - before
        after = [sys.getrefcount(item) for item in watched]
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert max(abs(one - other) for one, other in zip(counts, after, strict=True)) < 50


def test_all_functions_are_called() -> None:
    functions = {name for name in dir(compiled) if callable(getattr(compiled, name)) and not name.startswith("__")}
    assert {name for name, _ in CALLS} == functions
