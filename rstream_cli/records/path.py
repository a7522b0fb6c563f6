"""A path into a JSON document, as jq writes them: ``.user.id``, ``.items[0]``, ``.["a.b"]``, or ``.`` for all of it."""

from __future__ import annotations

import re
from typing import Any

import orjson

_STEP = re.compile(r'\.?\[(?:(?P<index>-?[0-9]{1,9})|(?P<quoted>"(?:[^"\\]|\\.)*"))\]|\.(?P<name>[^.\[\]"\s]+)')

MISSING: Any = object()
"""What ``Path.find`` gives where the document has nothing there."""


class Path:
    """A parsed path; see ``parse_path``."""

    def __init__(self, text: str, steps: tuple[str | int, ...]) -> None:
        self.text = text
        self.steps = steps

    def find(self, document: Any) -> Any:
        """The value there; ``MISSING`` where there is none."""
        for step in self.steps:
            if isinstance(step, str):
                if not isinstance(document, dict) or step not in document:
                    return MISSING
            elif not isinstance(document, list) or not -len(document) <= step < len(document):
                return MISSING
            document = document[step]
        return document


def parse_path(text: str) -> Path:
    """Raises ValueError for what is no path."""
    steps: list[str | int] = []
    position = 0
    while position < len(text) and text != ".":
        found = _STEP.match(text, position)
        if found is None:
            break
        index, quoted, name = found.group("index", "quoted", "name")
        if index is not None:
            steps.append(int(index))
        elif quoted is not None:
            try:
                steps.append(str(orjson.loads(quoted)))
            except orjson.JSONDecodeError:
                break
        else:
            steps.append(name)
        position = found.end()
    else:
        if text.startswith("."):
            return Path(text, tuple(steps))
    raise ValueError(f'not a path: {text!r}; write .name, .name.inner, .list[0] or .["a name"]')
