"""Output templates."""

from __future__ import annotations

import pytest

from rstream_cli.records.template import Fields, Template
from rstream_core.protocol.amqp import AMQPMessage, Properties

MS = 1_787_306_400_123


def _place(offset: int, message: AMQPMessage, stream: str = "orders") -> Fields:
    body = message.body or b""
    return Fields(stream, offset, MS, body, AMQPMessage.from_bytes(message.encode()))


PLACES = [
    _place(41, AMQPMessage(b"hello", application_properties={"n": 5}, properties=Properties(subject="eu"))),
    _place(42, AMQPMessage(b"\xff%s\0")),
    _place(43, AMQPMessage(b"")),
]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        (r"%s\n", b"hello\n\xff%s\0\n\n"),
        (r"%o %T %s\n", b"41 1787306400123 hello\n42 1787306400123 \xff%s\0\n43 1787306400123 \n"),
        (r"%S,", b"5,4,0,"),
        (r"%R%s", b"\0\0\0\5hello\0\0\0\4\xff%s\0\0\0\0\0"),
        (r"%t|", b"orders|" * 3),
        (r"%I;", b"2026-08-21T10:00:00.123Z;" * 3),
        (r"%h\n", b'{"n":5}\n{}\n{}\n'),
        (r"%p\n", b'{"subject":"eu"}\n{}\n{}\n'),
        (r"100%% %o\t", b"100% 41\t100% 42\t100% 43\t"),
        (r"%%s", b"%s%s%s"),
        (r"\x25s\0", b"%s\0%s\0%s\0"),
        (r"\\%o", b"\\41\\42\\43"),
        ("é→%o", "é→41é→42é→43".encode()),
        ("", b""),
        ("x", b"xxx"),
    ],
)
def test_render(text: str, rendered: bytes) -> None:
    template = Template(text)
    assert b"".join(map(template.render, PLACES)) == rendered


def test_a_stream_named_with_a_percent_sign() -> None:
    assert Template("%t %o").render(_place(41, AMQPMessage(b""), stream="50%d")) == b"50%d 41"


@pytest.mark.parametrize("text", ["%x", "%", "a %", "%é", "%\n"])
def test_an_unknown_place_lists_the_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="unknown place") as caught:
        Template(text)
    assert all(f"%{letter}" in str(caught.value) for letter in "sSRotTIhp%")
    assert "\n" not in str(caught.value)


def test_an_unknown_escape() -> None:
    with pytest.raises(ValueError, match="unknown escape"):
        Template(r"%s\q")
