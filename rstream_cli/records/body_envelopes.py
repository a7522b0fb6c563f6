"""A fast path for input whose envelopes are bodies and nothing else. ``envelope`` reads all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from rstream_cli.records.envelope import IGNORED, SECTIONS

_EMPTY_OR_IGNORED: Final = frozenset(("body", *SECTIONS, *IGNORED))


class _Shapes(dict[tuple[str, ...], tuple[str, ...]]):
    """The sections of an envelope with a body, by its keys in their order. Caches a bounded number of them."""

    def __missing__(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        if "body" not in keys or not _EMPTY_OR_IGNORED.issuperset(keys):
            raise KeyError(keys)
        sections = tuple(key for key in keys if key in SECTIONS)
        if len(self) < 64:
            self[keys] = sections
        return sections


_SHAPES: Final = _Shapes()


def bodies_from_json(lines: Sequence[bytes]) -> list[bytes] | None:
    """Returns the bodies where each line is an envelope with nothing but a body that is a string.

    None where one is another, or bad: then ``envelope.from_json`` has to look at each.
    """
    bodies: list[bytes] = []
    loads, append = orjson.loads, bodies.append
    try:
        for line in lines:
            document = loads(line)
            if type(document) is not dict:
                return None
            for key in _SHAPES[tuple(document)]:
                section = document[key]
                if section is not None and (section or type(section) is not dict):
                    return None
            body = document["body"]
            if type(body) is not str:
                return None
            append(body.encode())
    except (orjson.JSONDecodeError, KeyError):
        return None
    return bodies
