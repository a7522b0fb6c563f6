r"""Escapes all output for people, so that no text from a peer controls the terminal.

Other people choose the names of streams, hosts, reasons and bodies. ``line`` is for text in one line, ``name`` for a
name in a table, ``as_json`` for JSON, ``Bodies`` for the bodies that ``consume`` shows on a terminal. ``line`` also
removes the password of a URI that was passed in a wrong place.

The core's function is imported only for the first output: ``--help`` does not import the core.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

_WORD = re.compile(r"\S+")
_USER = re.compile(r"://[^\s:/@]*:")
"""The part of a URI up to the user name; a password follows if there is an @ behind it."""
_IN_BLANKS = re.compile(  # without possessive groups: Python before 3.11.5 misreads them (python/cpython#106052)
    r"((?:rabbitmq-stream(?:\+tls)?|amqps?)://[^\s:/@]*:)"
    r"(?!\d+(?![^\s/'\",;.)\]]))(?:(?!://)[^@\s])*\s(?:(?!://)[^@])*(?=@)",
    re.IGNORECASE,
)
"""A password with a blank in it, which no URI may have. Only matches a broker's address without a port at that place:
otherwise a sentence with a port, and later an address, would match."""
_NOT_PLAIN = re.compile(rb"[^\t\n\x20-\x7e]")


def line(text: str) -> str:
    """Returns the text as one harmless line, without passwords of URIs."""
    from rstream_core.text import harmless

    if "@" in text:
        text = _WORD.sub(_without_password, _IN_BLANKS.sub(r"\1***", text))
    return harmless(text)


def _without_password(found: re.Match[str]) -> str:
    """Replaces the text between a user name and the word's last @, since a password may contain an @."""
    word = found[0]
    at = word.rfind("@")
    user = _USER.search(word, 0, at) if at >= 0 else None
    return word if user is None else f"{word[: user.end()]}***{word[at:]}"


def name(text: str) -> str:
    """Returns a name escaped so that it differs from every other escaped name."""
    from rstream_core.text import harmless

    return harmless(text, exact=True)


def as_json(text: str) -> str:
    r"""Returns equal JSON with more escapes: characters that ``json`` and ``orjson`` keep, such as C1, become
    ``\u009b``."""
    return _harmful_but("\n").sub(lambda found: _json_escape(found[0]), text)


def json_line(record: Mapping[str, Any]) -> str:
    """Returns an object as one harmless line of JSON."""
    import json

    return as_json(json.dumps(record, ensure_ascii=False, separators=(",", ":"))) + "\n"


def write_json(stream: TextIO, text: str, *, is_tty: bool) -> None:
    """Writes lines made by ``as_json``: in UTF-8 whatever the locale, but for a terminal in its own encoding."""
    encoding = getattr(stream, "encoding", None)
    buffer = getattr(stream, "buffer", None)
    if encoding is None or buffer is None:  # in memory
        stream.write(text)
        return
    stream.flush()
    buffer.write(encoded_json(text, encoding) if is_tty else text.encode())
    stream.flush()


def encoded_json(text: str, encoding: str) -> bytes:
    """Returns the bytes of JSON for a terminal, which may lack characters: these are escaped as JSON does."""
    return text.encode(encoding, _JSON_ESCAPES)


@functools.cache
def _harmful_but(kept: str) -> re.Pattern[str]:
    from rstream_core.text import HARMFUL

    return re.compile(f"(?![{kept}])[{HARMFUL}]")


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _escape_for_json(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_json_escape, error.object[error.start : error.end])), error.end


_JSON_ESCAPES = "rstream-json"
"""An error handler that escapes characters which an encoding lacks as JSON does; ``backslashreplace`` would not."""
codecs.register_error(_JSON_ESCAPES, _escape_for_json)


def traceback_of(error: BaseException) -> str:
    """Returns the traceback as Python prints it, with each message as one harmless line. Ends with a newline."""
    return "".join(_frames(error, set()))


def _frames(error: BaseException, seen: set[int]) -> Iterator[str]:
    import traceback

    from rstream_core.text import harmless

    seen.add(id(error))
    before, how = error.__cause__, "The above exception was the direct cause of the following exception:"
    if before is None and not error.__suppress_context__:
        before, how = error.__context__, "During handling of the above exception, another exception occurred:"
    if before is not None and id(before) not in seen:
        yield from _frames(before, seen)
        yield f"\n{how}\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from (harmless(frame, lines=True) for frame in traceback.format_tb(error.__traceback__))
    kind = type(error)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    yield f"{line(f'{where}{kind.__qualname__}: {error}')}\n"
    yield from (f"{line(str(note))}\n" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if id(inner) not in seen:
                yield from _frames(inner, seen)


class Bodies:
    r"""Makes bytes readable: ``\x1b`` for ESC, ``\xff`` for a byte that is not UTF-8, ``\u202e`` and so on.

    Tabs, line breaks and ordinary text stay. Only for a terminal: output for programs is not changed.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        """``encoding`` is that of the terminal, to which UTF-8 bytes could be control characters.

        Characters that it lacks are escaped.
        """
        self._encoding = encoding
        self._harmful = _harmful_but("\t\n")

    def show(self, data: bytes) -> bytes:
        """Returns readable bytes; the same object if no byte has to change."""
        if _NOT_PLAIN.search(data) is None:
            return data
        text = self._harmful.sub(_body_escape, data.decode("utf-8", "surrogateescape"))
        return text.encode(self._encoding, "backslashreplace")

    def show_name(self, data: bytes) -> bytes:
        """Returns the readable name of a stream, as one line."""
        return name(data.decode()).encode(self._encoding, "backslashreplace")

    def show_json(self, data: bytes, layout: Callable[[str], str] | None = None) -> bytes:
        """Returns lines of JSON in readable form, which are still JSON. ``layout`` adds line breaks and colours."""
        if layout is not None:
            return layout(as_json(data.decode())).encode(self._encoding, _JSON_ESCAPES)
        if _NOT_PLAIN.search(data) is None:
            return data
        return as_json(data.decode()).encode(self._encoding, _JSON_ESCAPES)


def _body_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # a character, to be told from that byte
        return f"\\u{code:04x}"
    return found[0].encode("unicode_escape").decode("ascii")
