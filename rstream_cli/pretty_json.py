"""Lays JSON out for a person: indented, and in colours where they are wanted.

The text is not parsed: numbers and strings stay as they are written. What it may do to a terminal is escaped before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment, PrettyChoice

_INDENT = "  "
DEEPEST = 32
"""Levels of indentation; what is nested deeper stands below the last one."""
_LEXEME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_KEY, _STRING, _NUMBER, _WORD, _PLAIN = "\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[35m", "\x1b[0m"


class PrettyJson:
    """Lays out values of JSON, of which each begins in a new line."""

    def __init__(self, *, color: bool) -> None:
        self._color = color

    def __call__(self, text: str) -> str:
        """Returns the values of ``text``, as many lines each as they take. Each ends with a line break."""
        return "".join(self._parts(_LEXEME.findall(text)))

    def _parts(self, lexemes: Sequence[str]) -> Iterator[str]:
        depth = 0
        for place, lexeme in enumerate(lexemes):
            following = lexemes[place + 1] if place + 1 < len(lexemes) else ""
            if lexeme in "{[":
                depth += 1
                yield lexeme
                if following not in ("}", "]"):
                    yield _line(depth)
                continue
            if lexeme in "}]":
                depth -= 1
                if lexemes[place - 1] not in ("{", "["):
                    yield _line(depth)
                yield lexeme
            elif lexeme == ",":
                yield lexeme + _line(depth)
            elif lexeme == ":":
                yield ": "
            else:
                yield self._colored(lexeme, is_key=following == ":")
            if depth == 0:
                yield "\n"

    def _colored(self, lexeme: str, *, is_key: bool) -> str:
        if not self._color:
            return lexeme
        style = _KEY if is_key else _STRING
        if lexeme[0] != '"':
            style = _WORD if lexeme[0].isalpha() else _NUMBER
        return f"{style}{lexeme}{_PLAIN}"


def _line(depth: int) -> str:
    return "\n" + _INDENT * min(depth, DEEPEST)


def layout_for(env: Environment, pretty: PrettyChoice, color: ColorChoice) -> PrettyJson | None:
    """Returns how JSON on stdout is laid out; None where each value stays in one line, as it does for programs."""
    if pretty is PrettyChoice.NEVER or (pretty is PrettyChoice.AUTO and not env.stdout_is_tty):
        return None
    return PrettyJson(color=env.use_color(color, stdout=True))


def write_answer(
    env: Environment,
    records: Iterable[Mapping[str, Any]],
    pretty: PrettyChoice,
    color: ColorChoice = ColorChoice.AUTO,
) -> None:
    """Writes what a command answers with ``--json`` to stdout, and flushes it."""
    text = "".join(map(terminal.json_line, records))
    layout = layout_for(env, pretty, color)
    terminal.write_json(env.stdout, text if layout is None else layout(text), is_tty=env.stdout_is_tty)
