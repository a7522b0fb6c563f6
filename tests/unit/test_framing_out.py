"""Bodies in, one block out."""

from __future__ import annotations

import pytest

from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter, RecordWriter
from rstream_cli.rendering import BlockView, bodies_renderer
from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.wire import join_plain, plain_messages
from tests.twins import each_twin

__all__ = ["each_twin"]  # a fixture

BODIES = [b"a", b"", b"b\nc", b"\xff" * 300]


@pytest.mark.parametrize(
    ("writer", "block"),
    [
        (DelimiterWriter(), b"a\n\nb\nc\n" + b"\xff" * 300 + b"\n"),
        (DelimiterWriter(b"\0"), b"a\0\0b\nc\0" + b"\xff" * 300 + b"\0"),
        (DelimiterWriter(b"--"), b"a----b\nc--" + b"\xff" * 300 + b"--"),
        (Len32Writer(), b"\0\0\0\1a\0\0\0\0\0\0\0\3b\nc\0\0\1\x2c" + b"\xff" * 300),
        (RawWriter(), b"ab\nc" + b"\xff" * 300),
    ],
    ids=["lines", "NUL", "two bytes", "len32", "raw"],
)
def test_join(writer: RecordWriter, block: bytes) -> None:
    assert writer.join(BODIES) == block
    assert writer.join(tuple(BODIES)) == block
    assert b"".join(writer.join([body]) for body in BODIES) == block
    assert writer.join([]) == b""


def test_an_empty_body_is_an_empty_line() -> None:
    assert DelimiterWriter().join([b""]) == b"\n"
    assert Len32Writer().join([b""]) == b"\0\0\0\0"


def test_empty_delimiter() -> None:
    with pytest.raises(ValueError, match="delimiter is empty"):
        DelimiterWriter(b"")


def test_len32_names_the_limit() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 2**32

    with pytest.raises(ValueError, match="4 GiB"):
        Len32Writer().join([Huge()])


@pytest.mark.parametrize(
    ("delimiter", "bodies", "ambiguous"),
    [
        (b"\n", [b"a", b"", b"b"], 0),
        (b"\n", [b"a", b"b\nc", b"\n", b"\n\n\n", b"d"], 3),
        (b"\0", [b"a\nb", b"c\0"], 1),
        (b"\r\n", [b"a\n", b"a\r", b"a\r\n", b"\r\nb", b"\n\r"], 2),
        (b"\n\n", [b"a", b"a\nb", b"\nc", b""], 0),
        (b"\n\n", [b"a\n", b"b", b"\n", b"c\n\nd"], 3),  # whose end and the delimiter hold one more
        (b"abab", [b"ab", b"xab", b"aba", b"ba", b"ababa"], 3),
        (b"-", [], 0),
    ],
)
def test_what_holds_the_delimiter_is_ambiguous(delimiter: bytes, bodies: list[bytes], ambiguous: int) -> None:
    writer = DelimiterWriter(delimiter)
    assert writer.ambiguous(bodies, writer.join(bodies)) == ambiguous
    one_by_one = [writer.ambiguous([memoryview(body)], memoryview(body)) for body in bodies]
    assert sum(one_by_one) == ambiguous


def test_lengths_keep_bodies_apart() -> None:
    for writer in (Len32Writer(), RawWriter()):
        assert writer.ambiguous(BODIES, writer.join(BODIES)) == 0


@pytest.mark.parametrize(
    ("writer", "ambiguous"),
    [
        (DelimiterWriter(), 2),
        (DelimiterWriter(b"\0"), 0),
        (DelimiterWriter(b"ab"), 1),
        (DelimiterWriter(b"\n\n"), 1),
        (Len32Writer(), 0),
        (RawWriter(), 0),
    ],
)
def test_bodies_in_their_chunk_are_written_like_any_others(writer: RecordWriter, ambiguous: int) -> None:
    bodies = [b"one", b"a\nb", b"", b"xaby", b"end\n", b"two", b"x" * 300]
    data = join_plain(bodies)
    found = plain_messages(data, 0, len(data), len(bodies))
    assert found is not None
    render = bodies_renderer(writer, raw=False)
    offsets = range(len(bodies))

    def refuse(place: int, why: str) -> None:
        raise AssertionError(why)

    expected = render(BlockView("s", offsets, 0, PlainMessages(bodies)), refuse)
    told = render.ambiguous
    assert render(BlockView("s", offsets, 0, found), refuse) == expected == writer.join(bodies)
    assert told == render.ambiguous == ambiguous
