"""What ``diff`` says of a difference: a line for a person, or an object of JSON; and its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rstream_cli import terminal
from rstream_cli.records.envelope import to_document
from rstream_cli.records.tagged_values import EnvelopeError, Json, dumps, to_base64
from rstream_cli.render import words
from rstream_core import AmqpError, DiffCounts, Difference, DifferenceKind, Span, amqp_decoder
from rstream_core.diffing.sections import SECTIONS, WHOLE

MOST_SHOWN = 60
"""Characters of a value in a line, or of its name; of a longer value, those around its first difference."""
MOST_CHANGES = 20
"""Values of a message in a line."""
_BEFORE = 15
"""Characters of such a value that stand before its first difference."""
_BODIES = ("body", "body_base64", "value", "sequence", "body_sections", "sequence_sections")
"""The keys of the envelope of which one holds the body."""
_ABSENT = object()
_Text = TypeVar("_Text", str, bytes)


class Change(NamedTuple):
    """A value that differs in two messages."""

    path: str
    """Where it stands in the envelope, such as ``headers.n``."""
    a: Any
    """``_ABSENT`` where it is not there."""
    b: Any

    def record(self) -> dict[str, Json]:
        found = {"path": self.path, "a": self.a, "b": self.b}
        return {key: value for key, value in found.items() if value is not _ABSENT}


def changes_of(difference: Difference) -> list[Change]:
    """Returns the values in which the two messages of a changed one differ.

    A section that differs in its bytes alone, or cannot be read, has no values here.
    """
    names = difference.sections
    if names == (WHOLE,):
        one, other = difference.a_message, difference.b_message
        return [Change(WHOLE, *map(_text_or_base64, (one, other)))]
    try:
        a, b = (to_document(amqp_decoder(message)) for message in (difference.a_message, difference.b_message))
    except (AmqpError, EnvelopeError):
        return []
    found: list[Change] = []
    for name in names:
        found += _changes_in(name, _section(a, name), _section(b, name))
    return found


def _section(document: Mapping[str, Json], name: str) -> Json:
    if name == "body":
        return {key: document[key] for key in _BODIES if key in document}
    return document.get(name) or {}


def _changes_in(name: str, a: Any, b: Any) -> Iterator[Change]:
    if not isinstance(a, dict) or not isinstance(b, dict):  # pairs, where a key is no string
        if a != b:
            yield Change(name, a, b)
        return
    for key in {**a, **b}:
        one, other = a.get(key, _ABSENT), b.get(key, _ABSENT)
        if one is _ABSENT or other is _ABSENT or dumps(one) != dumps(other):
            yield Change(key if name == "body" else f"{name}.{key}", one, other)


def _text_or_base64(data: bytes) -> Json:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"$base64": to_base64(data)}


# For a person.


def line_of(difference: Difference, *, with_streams: bool) -> str:
    """Returns a difference as a line, without its end. ``with_streams``: it says in which partitions it is."""
    a, b = _where("A", difference.a), _where("B", difference.b)
    several = f", {words.messages(difference.count)}," if difference.count > 1 else ""
    is_are = "are" if difference.count > 1 else "is"
    if difference.kind is DifferenceKind.CHANGED:
        told = f"{a}, {b}: {_changes(difference)}"
    elif difference.kind is DifferenceKind.MOVED:
        told = f"{a}{several} {is_are} at {b}"
    else:
        has, other = (a, "B") if difference.b is None else (b, "A")
        where = f"before {other} {difference.before}" if difference.before is not None else "behind its end"
        if difference.kind is DifferenceKind.DOUBLED:
            told = f"{has}{several} {'come' if difference.count > 1 else 'comes'} once more than in {other} ({where})"
        else:
            told = f"{has}{several} {is_are} not in {other} ({where})"
    streams = ""
    if with_streams:
        streams = f"{terminal.name(difference.a_stream)}, {terminal.name(difference.b_stream)}: "
    return terminal.line(f"{difference.kind:<8} {streams}{told}")


def _where(side: str, span: Span | None) -> str:
    if span is None:
        return ""
    return f"{side} {span.first}" if span.first == span.last else f"{side} {span.first} to {span.last}"


def _changes(difference: Difference) -> str:
    if difference.sections == (WHOLE,):
        return f"{WHOLE} {_excerpts(difference.a_message, difference.b_message)}"
    changes = changes_of(difference)
    named = {change.path.partition(".")[0] for change in changes}
    others = [
        f"{name}: other bytes of the same values, or not to be read"
        for name in difference.sections
        if not named & ({name} if name != "body" else set(_BODIES))
    ]
    left_out = len(changes) - MOST_CHANGES
    more = [f"{left_out:,} more values differ"] if left_out > 0 else []
    return "; ".join([*map(_change, changes[:MOST_CHANGES]), *more, *others])


def _change(change: Change) -> str:
    one, other = change.a, change.b
    if change.path == "body" and isinstance(one, str) and isinstance(other, str):
        return f"body {_excerpts(one.encode(), other.encode())}"
    path = _clipped(change.path)
    if one is _ABSENT or other is _ABSENT:
        return f"{path} {_clipped(_value(one))} -> {_clipped(_value(other))}"
    a, b = _value(one), _value(other)
    if max(len(a), len(b)) <= MOST_SHOWN:
        return f"{path} {a} -> {b}"
    return f"{path} {_around(_first_difference(a, b), a, b, str)}"


def _value(value: Any) -> str:
    return "(none)" if value is _ABSENT else terminal.as_json(dumps(value).decode())


def _clipped(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _excerpts(a: bytes, b: bytes) -> str:
    """Returns both, or what stands around their first difference where they are long."""
    if max(len(a), len(b)) <= MOST_SHOWN:
        return f"{_quoted(a)} -> {_quoted(b)}"
    at = _first_difference(a, b)
    return f"at byte {at}: {_around(at, a, b, _quoted)}"


def _first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    length = min(len(a), len(b))
    return next((place for place in range(length) if a[place] != b[place]), length)


def _around(at: int, a: _Text, b: _Text, show: Callable[[_Text], str]) -> str:
    """Returns what stands in both around their first difference."""
    begin = max(at - _BEFORE, 0)
    end = begin + MOST_SHOWN // 2
    one, other = (("…" if begin else "") + show(data[begin:end]) + ("…" if len(data) > end else "") for data in (a, b))
    return f"{one} -> {other}"


def _quoted(data: bytes) -> str:
    return f'"{terminal.name(data.decode("utf-8", "backslashreplace"))}"'


# JSON.


def record_of(difference: Difference) -> dict[str, Any]:
    """Returns a difference as an object of JSON."""
    found: dict[str, Any] = {
        "kind": str(difference.kind),
        "count": difference.count,
        "a": _span(difference.a_stream, difference.a),
        "b": _span(difference.b_stream, difference.b),
    }
    if difference.side:
        found["side"] = difference.side
        found["before"] = difference.before
    if difference.kind is DifferenceKind.CHANGED:
        found["sections"] = list(difference.sections)
        found["changes"] = [change.record() for change in changes_of(difference)]
    return found


def _span(stream: str, span: Span | None) -> dict[str, Any]:
    if span is None:
        return {"stream": stream, "first": None, "last": None}
    return {"stream": stream, "first": span.first, "last": span.last}


def summary_record(
    a: str, b: str, counts: DiffCounts, shown: int, *, is_complete: bool, reason: str, status: int
) -> dict[str, Any]:
    """Returns the object behind all differences."""
    return {
        "kind": "summary",
        "same": None if not is_complete and not counts.different else not counts.different,
        "complete": is_complete,
        "a": {"stream": a, "messages": counts.a},
        "b": {"stream": b, "messages": counts.b},
        "equal": counts.equal,
        "changed": counts.changed,
        "missing_in_a": counts.missing_in_a,
        "missing_in_b": counts.missing_in_b,
        "doubled_in_a": counts.doubled_in_a,
        "doubled_in_b": counts.doubled_in_b,
        "moved": counts.moved,
        "shown": shown,
        "reason": reason,
        "exit_code": status,
    }


def sections_of(texts: list[str] | None) -> list[str]:
    """Returns the sections that ``--ignore`` names. Raises ValueError for one that there is not."""
    names = [name.strip().lower() for text in texts or () for name in text.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise ValueError(f"not a section: {name!r}; there are {', '.join(SECTIONS)}")
    return list(dict.fromkeys(names))
