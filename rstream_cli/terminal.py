r"""Everything that this program writes for people goes through here: no text of a peer's steers a terminal.

Names of streams, hosts, reasons and bodies are chosen by others. ``line`` is for what stands in one line, ``name`` for
a name in a table, ``as_json`` for JSON, ``Bodies`` for what ``consume`` shows on a terminal. The password of a URI that
stands where it does not belong is left out of lines.

The core's function is imported when there is something to write: ``--help`` needs none of the core.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterator
from typing import TextIO

_WORD = re.compile(r"\S+")
_USER = re.compile(r"://[^\s:/@]*:")
"""Of a URI that goes on with a password, where an @ comes behind it."""
_IN_BLANKS = re.compile(
    r"((?:rabbitmq-stream(?:\+tls)?|amqps?)://[^\s:/@]*:)"
    r"(?!\d+(?![^\s/'\",;.)\]]))(?:(?!://)[^@\s])*+\s(?:(?!://)[^@])*+(?=@)"
)
"""A password with a blank in it, which no URI may have. Looked for in a broker's address alone, and where no port is in
its place: elsewhere it would take a sentence that names a port and, later, an address for one."""
_NOT_PLAIN = re.compile(rb"[^\t\n\x20-\x7e]")


def line(text: str) -> str:
    """One line, whatever is in the text."""
    from rstream_core.text import harmless

    if "@" in text:
        text = _WORD.sub(_without_password, _IN_BLANKS.sub(r"\1***", text))
    return harmless(text)


def _without_password(found: re.Match[str]) -> str:
    """Leaves out what stands between a user's name and the word's last @: a password may hold any other."""
    word = found[0]
    at = word.rfind("@")
    user = _USER.search(word, 0, at) if at >= 0 else None
    return word if user is None else f"{word[: user.end()]}***{word[at:]}"


def name(text: str) -> str:
    """A name as data, which can be told from any other name."""
    from rstream_core.text import harmless

    return harmless(text, exact=True)


def as_json(text: str) -> str:
    r"""JSON that says the same: what ``json`` and ``orjson`` leave as it is, such as C1, becomes ``\u009b``."""
    return _harmful_but("\n").sub(lambda found: _json_escape(found[0]), text)


def write_json(stream: TextIO, text: str, *, is_tty: bool) -> None:
    """Writes lines that ``as_json`` gave. They are UTF-8 whatever the locale; a terminal gets what it can show."""
    encoding = getattr(stream, "encoding", None)
    buffer = getattr(stream, "buffer", None)
    if encoding is None or buffer is None:  # in memory
        stream.write(text)
        return
    stream.flush()
    buffer.write(text.encode(encoding, _JSON_ESCAPES) if is_tty else text.encode())
    stream.flush()


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
"""How the encoding of JSON deals with what an encoding lacks: ``backslashreplace`` would write what is no JSON."""
codecs.register_error(_JSON_ESCAPES, _escape_for_json)


def traceback_of(error: BaseException) -> str:
    """As Python prints it, each message in a line of its own. Ends in a newline."""
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
    r"""Bytes made visible for a person: ``\x1b`` for ESC, ``\xff`` for a byte that is no UTF-8, ``\u202e`` and so on.

    Tabs and line breaks stay, and so does what people write. For a terminal alone: what a program reads stays as it is.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        """``encoding``: the terminal's, where bytes of UTF-8 may be control characters. What it lacks is escaped."""
        self._encoding = encoding
        self._harmful = _harmful_but("\t\n")

    def show(self, data: bytes) -> bytes:
        """The same object, where there is nothing to do."""
        if _NOT_PLAIN.search(data) is None:
            return data
        text = self._harmful.sub(_body_escape, data.decode("utf-8", "surrogateescape"))
        return text.encode(self._encoding, "backslashreplace")

    def show_name(self, data: bytes) -> bytes:
        """For the name of a stream among them: it is one line."""
        return name(data.decode()).encode(self._encoding, "backslashreplace")

    def show_json(self, data: bytes) -> bytes:
        """For lines of JSON, which stay JSON."""
        if _NOT_PLAIN.search(data) is None:
            return data
        return as_json(data.decode()).encode(self._encoding, _JSON_ESCAPES)


def _body_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # a character, and not that byte
        return f"\\u{code:04x}"
    return found[0].encode("unicode_escape").decode("ascii")
