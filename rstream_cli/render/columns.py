"""Lays texts out on a terminal: in columns, and in lines that break between words.

The texts must be harmless already. A width is that on a terminal, where a Chinese character takes two columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import TextIO

from rstream_cli.environment import Environment

FREE = 3
"""Columns at the end of a terminal's lines that stay free: some wrap at the last one, and show ^C before the text."""
_NARROWEST = 20
"""Columns: a terminal that says it has fewer gets lines of so many."""
_INDENT = "  "
_GAP = re.compile("((?<![0-9 ]) +|(?<=[0-9]) +(?!(?:[kMGTP]?B|µs|ms|s|min|h|days?)\\b))")
"""Where a line may break: at blanks, but not at those between a number and a unit of ``words``."""


def width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # drawn over the character before it
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """The text with blanks, so that it takes so many columns; ``right``: the blanks stand before it."""
    blanks = " " * (columns - width(text))
    return blanks + text if right else text + blanks


def tail(text: str, columns: int) -> str:
    """The end of a text that is wider than so many columns, behind an ellipsis: names often differ at their end."""
    if width(text) <= columns:
        return text
    kept, left = "", columns - 1
    for character in reversed(text):
        left -= width(character)
        if left < 0:
            break
        kept = character + kept
    return "…" + kept


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Returns a line for each row, whose texts stand two blanks apart.

    Those of the columns in ``right`` stand at the right of theirs.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            padded(cell, wide, right=place in right) for place, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def wrapped(line: str, columns: int, indent: str = _INDENT) -> str:
    """The line in lines of at most so many columns, which break between words; all but the first are indented.

    A word that is wider than that stays whole, and so does a number with its unit.
    """
    lines = [""]
    gap = ""
    for place, part in enumerate(_GAP.split(line)):
        if place % 2:
            gap = part
        elif not lines[-1].strip() or width(lines[-1]) + width(gap) + width(part) <= columns:
            lines[-1] += gap + part
        else:
            lines.append(indent + part)
    return "\n".join(lines)


def columns_of(env: Environment, stream: TextIO) -> int:
    """The columns that a line on this terminal may take."""
    return max(env.size_of(stream)[0] - FREE, _NARROWEST)


def fitting_stderr(line: str, env: Environment) -> str:
    """Returns a line for stderr: where that is a terminal, in lines that fit it and break between words."""
    if not env.stderr_is_tty:
        return line
    return wrapped(line, columns_of(env, env.stderr))
