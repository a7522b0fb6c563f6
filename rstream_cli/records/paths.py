"""Paths into JSON values, such as ``.a.b[0]``: parses and formats them, and finds the value at one."""

from __future__ import annotations

import re
from collections.abc import Iterable

Path = tuple[str | int, ...]
"""The steps into a JSON value: a string is a key, a number an index (negative: from the end)."""

_PATH_STEP = re.compile(
    r"""
      \.? \[ (?P<index> -?[0-9]{1,9} ) \]
    | \.? \[ (?P<bracketed> "(?:[^"\\]|\\.)*" ) \]
    | \.     (?P<quoted> "(?:[^"\\]|\\.)*" )
    | \.     (?P<name> [^.\[\]"\s]+ )
    """,
    re.VERBOSE,
)


class PathError(ValueError):
    """There is no value at the path."""


def parse_path(text: str) -> Path:
    """Returns the steps of ``.a.b[0].c``. Raises ValueError.

    A path starts with a dot; ``.`` alone is the value itself, with the steps (). A key with dots, brackets, quotes or
    spaces is quoted, as in jq: ``."a.b"`` or ``["a.b"]`` with JSON's escapes. An index may be negative.
    """
    if text == ".":
        return ()
    steps: list[str | int] = []
    position = 0
    while text.startswith(".") and position < len(text):
        match = _PATH_STEP.match(text, position)
        if match is None:
            break
        quoted = match["bracketed"] or match["quoted"]
        if match["index"] is not None:
            steps.append(int(match["index"]))
        elif quoted is not None:
            steps.append(_quoted_key(quoted, text))
        else:
            steps.append(match["name"])
        position = match.end()
    if not steps or position < len(text):
        where = f" (stuck at {text[position:]!r})" if position else ""
        raise ValueError(f'not a path: {text!r}{where}; give .key, .a.b, .list[0] or ."a key"')
    return tuple(steps)


def _quoted_key(quoted: str, text: str) -> str:
    import orjson

    try:
        return str(orjson.loads(quoted))
    except ValueError:
        raise ValueError(f"not a path: {text!r}; {quoted} is not a JSON string") from None


def format_path(path: Iterable[str | int]) -> str:
    """Returns the text of a path, which :func:`parse_path` can read."""
    import orjson

    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]" if out else f".[{step}]"
        elif _PATH_STEP.fullmatch(f".{step}") and not step.startswith("["):
            out += f".{step}"
        else:
            out += "." + orjson.dumps(step).decode()
    return out or "."


def extract(obj: object, path: Path) -> object:
    """Returns the value at the path in a JSON value. Raises PathError, which names the missing step."""
    value = obj
    for depth, step in enumerate(path):
        if isinstance(step, int):
            if not isinstance(value, list):
                raise PathError(f"{format_path(path[:depth])} is {_kind(value)}, not a list")
            if not -len(value) <= step < len(value):
                raise PathError(f"no {format_path(path[: depth + 1])}: the list has {len(value)} items")
            value = value[step]
        else:
            if not isinstance(value, dict):
                raise PathError(f"{format_path(path[:depth])} is {_kind(value)}, not an object")
            if step not in value:
                raise PathError(f"no {format_path(path[: depth + 1])}")
            value = value[step]
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")
