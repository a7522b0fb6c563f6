"""Text made harmless: what stays, what does not, and what can be read back."""

from __future__ import annotations

import json
import re
import time
import traceback
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli import terminal
from rstream_core.text import harmless, is_harmless

STEERING = st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x80\x9b\xad\u061c\u200b\u200e\u2028\u202e\u2066\ufeff\ud800\\n")
ANY = st.text(st.one_of(STEERING, st.characters()))
SENDABLE = st.text(st.one_of(STEERING.filter(lambda c: c != "\ud800"), st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize(
    "text",
    [
        "orders",
        "é",
        "e\u0301",
        "你好",
        "नमस्ते",
        "مرحبا",
        "שלום",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d💻",
        "🏳️\u200d🌈",
        "🏴\U000e0067\U000e0062\U000e007f",
        "a\u3000b",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    assert harmless(text) == text
    assert is_harmless(text)
    assert terminal.Bodies().show(text.encode()).decode() == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x07\x7f\x9b", r"\x07\x7f\x9b"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\U000e0001", r"\U000e0001"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_steers_a_terminal_does_not(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert not is_harmless(text)


def test_every_control_character_and_every_direction_is_known() -> None:
    """By what Unicode says of them, so that a list that lacks one shows."""
    for code in range(0x110000):
        character = chr(code)
        steers = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        if steers or turns:
            assert not is_harmless(character), hex(code)


@given(ANY)
def test_nothing_harmful_is_left(text: str) -> None:
    once = harmless(text)
    assert is_harmless(once)
    assert harmless(once) == once
    assert is_harmless(terminal.line(text))
    assert harmless(text, lines=True).count("\n") == text.count("\n")


@given(ANY)
def test_an_exact_text_can_be_read_back(text: str) -> None:
    def back(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] in "xuU" else {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[code]

    shown = harmless(text, exact=True)
    assert re.sub(r"\\(x..|u....|U........|.)", back, shown) == text


@given(st.recursive(SENDABLE, lambda inner: st.dictionaries(SENDABLE, inner, max_size=3), max_leaves=5))
def test_json_says_the_same(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    shown = terminal.as_json(text)
    assert is_harmless(shown)
    assert json.loads(shown) == value


@given(st.one_of(st.binary(), SENDABLE.map(str.encode)))
def test_bodies_lose_nothing_but_what_steers(data: bytes) -> None:
    shown = terminal.Bodies().show(data)
    assert harmless(shown.decode(), lines=True) == shown.decode()
    if re.fullmatch(rb"[\t\n\x20-\x7e]*", data):
        assert shown is data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see rabbitmq-stream://u:s3/c@r@h/v now", "see rabbitmq-stream://u:***@h/v now"),
        ("'amqp://u:s3@h'", "'amqp://u:***@h'"),
        ("rabbitmq-stream://u@h", "rabbitmq-stream://u@h"),
        ("http://h/a:b@c", "http://h/a:b@c"),
        ("a@b:c://d", "a@b:c://d"),
        ("connected to localhost:5552", "connected to localhost:5552"),
        ("http://localhost:15672/api", "http://localhost:15672/api"),
        ("Delete 'log://svc:8080' with all messages?", "Delete 'log://svc:8080' with all messages?"),
        ("log://svc:8080 of a@b", "log://svc:8080 of a@b"),
        ("rabbitmq-stream://h:5552 refuses user a@b", "rabbitmq-stream://h:5552 refuses user a@b"),
        ("'rabbitmq-stream://h:5552' refuses user a@b", "'rabbitmq-stream://h:5552' refuses user a@b"),
        ("rabbitmq-stream://u@h,rabbitmq-stream://u:s3@h", "rabbitmq-stream://u@h,rabbitmq-stream://u:***@h"),
        ("rabbitmq-stream://u:s3@h,rabbitmq-stream://u@h", "rabbitmq-stream://u:***@h"),
        ("rabbitmq-stream://u:s3@h rabbitmq-stream://v:s4@i", "rabbitmq-stream://u:***@h rabbitmq-stream://v:***@i"),
        ("rabbitmq-stream://u:my s3 cret@h is down", "rabbitmq-stream://u:***@h is down"),
        ("amqps://u:p5 s3@cret@h is down", "amqps://u:***@h is down"),
    ],
)
def test_passwords_of_uris(text: str, shown: str) -> None:
    assert terminal.line(text) == shown


PIECES = ("://", ":", "@", "/", " ", ",", "'", "a", "7", "amqp", "rabbitmq-stream")
ADDRESSES = st.lists(st.sampled_from(PIECES)).map("".join)


@given(ADDRESSES)
def test_text_without_a_password_stays(text: str) -> None:
    if re.search(r"://[^\s:/@]*:[^@]*@", text) is None:
        assert terminal.line(text) == text


@given(ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES)
def test_a_password_never_shows(before: str, start: str, end: str, after: str) -> None:
    """Whatever is around it, and whatever is in it but a blank."""
    password = re.sub(r"\s", "", f"{start}S3CRET{end}")
    assert "S3CRET" not in terminal.line(f"{before} rabbitmq-stream://user:{password}@host{after}")
    assert "S3CRET" not in terminal.line(f"{before},http://user:{password}@host,{after}")


@given(ADDRESSES, ADDRESSES)
def test_a_password_with_blanks(start: str, end: str) -> None:
    """Of a broker's address: an @ before a blank cannot be told from its end, nor what is like a port from one."""
    password = f"x{start} S3CRET{end}"
    if re.search(r"@.*\s|://", password) is None:
        assert "S3CRET" not in terminal.line(f"see rabbitmq-stream://user:{password}@host now")
        assert "S3CRET" not in terminal.line(f"see RabbitMQ-Stream://user:{password}@host now")


def test_many_that_might_be_passwords_take_no_time() -> None:
    began = time.process_time()
    for text in ("amqp://u:" * 30_000, "amqp://u:" * 30_000 + "@", "amqp://u:" + "a " * 100_000, "://" * 100_000 + "@"):
        terminal.line(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x80", r"\u0080"),  # the first character of C1 and the last, and what is next to them
        ("\x9f", r"\u009f"),
        ("\x7f", r"\x7f"),
        ("\xa0", "\xa0"),
        ("\xad", r"\u00ad"),
        ("\u200b", r"\u200b"),
    ],
)
def test_characters_of_bodies_are_told_from_bytes(text: str, shown: str) -> None:
    bodies = terminal.Bodies()
    assert bodies.show(text.encode()).decode() == shown
    assert bodies.show(b"\x80\xff") == rb"\x80\xff"


@pytest.mark.parametrize("code", [0xE0001, 0x10000, 0x103FF, 0x10400, 0x10FFFF])
def test_what_json_escapes_of_all_planes_is_read_back(code: int) -> None:
    escaped = terminal._json_escape(chr(code))
    assert json.loads(f'"{escaped}"') == chr(code)
    assert len(escaped) == 12


def test_what_json_escapes_is_read_back_from_whole_texts() -> None:
    text = "a\x9b\U000e0001\u202e\u2028é\n"
    shown = terminal.as_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert is_harmless(shown)


class OwnError(Exception):
    """One whose name is told with its module."""


def fail(how: str) -> None:
    try:
        raise KeyError("first")
    except KeyError as first:
        first.add_note("a note")
        if how == "with a cause":
            raise OwnError("second") from first
        if how == "without the first":
            raise OwnError("second") from None
        raise OwnError("second")  # noqa: B904 - what it is about


@pytest.mark.parametrize("how", ["while the first is handled", "with a cause", "without the first"])
def test_a_traceback_is_as_python_prints_it(how: str) -> None:
    """With the errors before it, and how they belong together, where nothing in it is harmful."""
    with pytest.raises(OwnError) as caught:
        fail(how)
    assert terminal.traceback_of(caught.value) == "".join(traceback.format_exception(caught.value))
    assert ("KeyError: 'first'" in terminal.traceback_of(caught.value)) is (how != "without the first")
