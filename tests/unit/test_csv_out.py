"""``consume --output csv``: the rows, as Python's own reader has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rstream_cli.records.csv_out import csv_renderer, parse_columns
from rstream_cli.records.values import UnknownKeyError
from rstream_cli.rendering import LARGE, BlockView, Rendered
from rstream_cli.terminal import Bodies
from rstream_core import AMQPMessage, Properties
from tests.unit.test_selecting import NO_MESSAGE, stored


def refuse(place: int, why: str) -> None:
    raise AssertionError(f"{place}: {why}")


def view(messages: Sequence[bytes], begin: int = 0, **more: Any) -> BlockView:
    return BlockView("s", range(begin, begin + len(messages)), 1_700_000_000_123, messages, **more)


def joined(data: Rendered) -> bytes:
    return data if isinstance(data, bytes) else b"".join(data)


def written(columns: str, messages: Sequence[bytes], *, begin: int = 0, raw: bool = False) -> bytes:
    return joined(csv_renderer(parse_columns(columns), raw=raw)(view(messages, begin), refuse))


def read(data: bytes) -> list[list[bytes]]:
    """What Python's reader makes of it: of its bytes, each as a character."""
    rows = csv.reader(io.StringIO(data.decode("latin-1"), newline=""), strict=True)
    return [[cell.encode("latin-1") for cell in row] for row in rows]


CELLS = st.lists(st.sampled_from([b'"', b",", b"\r", b"\n", b"\r\n", b"a", b" ", b"\xff", b"\0x", b"\xc3\xa4"])).map(
    b"".join
)


@given(st.lists(CELLS, min_size=1))
@example([b""])
@example([b'"'])
@example([b"\r"])
def test_python_reads_the_bytes_of_bodies(bodies: list[bytes]) -> None:
    messages = [stored(body) for body in bodies]
    assert read(written("offset,body", messages, begin=7)) == [[b"%d" % n, body] for n, body in enumerate(bodies, 7)]
    assert read(written("body", messages)) == [[body] for body in bodies]


@given(st.lists(CELLS, min_size=1), st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_python_reads_the_values_of_headers(bodies: list[bytes], texts: list[str]) -> None:
    pairs = list(zip(bodies, texts, strict=False))
    messages = [stored(body, application_properties={"a,b": text}) for body, text in pairs]
    data = written('headers."a,b",body', messages)
    assert read(data) == [[text.encode(), body] for body, text in pairs]


def test_a_row_has_the_columns_in_their_order() -> None:
    messages = [
        stored(b"one", properties=Properties(subject="first"), application_properties={"n": 5}),
        stored(b'{"region":"eu"}'),
        stored(None, value=[1, "x"]),
        AMQPMessage.from_bytes(b"").encode(),
    ]
    columns = "offset,timestamp,properties.subject,.headers.n,stream,body.region,body"
    assert written(columns, messages, begin=41) == (
        b"41,2023-11-14T22:13:20.123Z,first,5,s,,one\r\n"
        b'42,2023-11-14T22:13:20.123Z,,,s,eu,"{""region"":""eu""}"\r\n'
        b'43,2023-11-14T22:13:20.123Z,,,s,,"[1,""x""]"\r\n'
        b"44,2023-11-14T22:13:20.123Z,,,s,,\r\n"
    )


def test_an_empty_cell_alone_is_no_empty_line() -> None:
    assert written("body", [stored(b""), stored(b"x")]) == b'""\r\nx\r\n'
    assert written("headers.n", [stored(b"")]) == b'""\r\n'
    assert written("body,offset", [stored(b"")]) == b",0\r\n"


def test_nothing_is_nothing() -> None:
    assert written("body", []) == b""
    assert written("headers.n,offset", []) == b""


def test_the_head_has_the_names_as_they_were_given() -> None:
    columns = parse_columns(' offset, .headers.n,headers."a,b" ')
    assert csv_renderer(columns, raw=False).head == b'offset,.headers.n,"headers.""a,b"""\r\n'


@pytest.mark.parametrize(
    ("columns", "says", "hint"),
    [
        ("", "a column has no name", None),
        ("offset,", "a column has no name", None),
        ("offset,,body", "a column has no name", None),
        ("body,offset,body", "the column 'body' is there twice", None),
        ('headers."a', "a quotation mark is left open", None),
        ("ofset", "the envelope has no .ofset", "did you mean .offset?"),
        ("offset,subject", "the envelope has no .subject", "did you mean .properties.subject?"),
        ("offset..n", "not a path", None),
    ],
)
def test_what_are_no_columns(columns: str, says: str, hint: str | None) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_columns(columns)
    if hint is not None:
        assert isinstance(caught.value, UnknownKeyError)
        assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("columns", ["offset", "body", "stream,headers.n"])
def test_a_bad_message_is_told_of_and_left_out(columns: str) -> None:
    told: list[int] = []
    messages = [
        stored(b"a", application_properties={"n": 1}),
        NO_MESSAGE,
        stored(b"b", application_properties={"n": 2}),
    ]
    data = csv_renderer(parse_columns(columns), raw=False)(view(messages), lambda place, _: told.append(place))
    assert told == [1]
    assert joined(data) == written(columns, messages[:1]) + written(columns, messages[2:], begin=2)


@pytest.mark.parametrize("body", [b"x" * (LARGE + 1), b'"' * (LARGE + 1), b"\xff,\r\n" * (LARGE // 4 + 1)])
@pytest.mark.parametrize("columns", ["offset,body,headers.n", "body", "body.x,body"])
@pytest.mark.parametrize("raw", [False, True])
def test_a_large_message_comes_in_pieces(body: bytes, columns: str, raw: bool) -> None:
    """They are what one piece would be; only where another column needs the body there is one."""
    messages = [body if raw else stored(body, application_properties={"n": 5})]
    data = csv_renderer(parse_columns(columns), raw=raw)(view(messages, 3), refuse)
    pieces = [data] if isinstance(data, bytes) else list(data)
    assert (len(pieces) == 1) is (columns == "body.x,body")
    row = {"offset": b"3", "headers.n": b"" if raw else b"5", "body.x": b"", "body": body}
    assert b"".join(pieces) == b",".join(
        b'"%b"' % cell.replace(b'"', b'""') if set(cell) & set(b'",\r\n') else cell
        for cell in (row[name] for name in columns.split(","))
    ) + (b"\r\n")


def test_a_large_message_is_not_copied() -> None:
    message = stored(b"x" * (LARGE + 1))
    data = csv_renderer(parse_columns("offset,body"), raw=False)(view([message]), refuse)
    assert not isinstance(data, bytes)
    assert [type(piece) for piece in data if len(piece) > LARGE] == [memoryview]


def test_a_terminal_shows_control_characters() -> None:
    columns = parse_columns("body,headers.n")
    shown = csv_renderer(columns, raw=False, shown=Bodies())
    message = stored(b'\x1b[2J"\xff\r', application_properties={"n": "\x07"})
    assert shown(view([message]), refuse) == b'"\\x1b[2J""\\xff\\r",\\x07\r\n'
