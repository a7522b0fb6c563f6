"""Shows what is known of streams, for people: in 60 columns where the names are not longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rstream_cli import terminal
from rstream_cli.management.answers import ListedConsumer, ListedPublisher, ListedStream
from rstream_cli.render import words
from rstream_cli.render.columns import padded, width, wrapped
from rstream_cli.stream_facts import Facts, Listed

WIDTH = 60
_LABEL = 12
MOST_NAMES = 8
"""Names of readers or publishers that are shown."""


def stream_text(facts: Facts, listed: Listed | None, times: tuple[int | None, int | None], now: float) -> str:
    """A line, or more, for each fact. ``times`` are milliseconds since 1970, ``now`` seconds."""
    return "".join(line for label, text in _rows(facts, listed, times, now) for line in labelled(label, text))


def _rows(
    facts: Facts, listed: Listed | None, times: tuple[int | None, int | None], now: float
) -> Iterator[tuple[str, str]]:
    metadata = facts.metadata
    told = None if listed is None else listed.streams.get(metadata.stream)
    yield "stream", terminal.name(metadata.stream)
    yield "messages", messages(facts)
    yield "first", place(facts.stats.first_offset if facts.messages else None, times[0], now)
    yield "last", place(facts.last_offset, times[1], now)
    yield "leader", "-" if metadata.leader is None else terminal.name(str(metadata.leader))
    replicas = ", ".join(terminal.name(str(replica)) for replica in metadata.replicas) or "-"
    yield "replicas", replicas if told is None else online(told)
    if told is not None:
        yield "limits", limits(told)
        if told.segments is not None:
            yield "size", _segments(told)
    if listed is not None:
        for label, found in (
            ("readers", listed.readers_of(metadata.stream)),
            ("publishers", listed.publishers_of(metadata.stream)),
        ):
            if found is not None:
                yield label, _names(found)


def labelled(label: str, text: str) -> list[str]:
    """A fact in lines of 60 columns, with its label before the first."""
    first, *rest = wrapped(text, WIDTH - _LABEL, "").split("\n")
    return [f"{label:<{_LABEL}}{first}\n", *(f"{'':<{_LABEL}}{line}\n" for line in rest)]


def messages(facts: Facts) -> str:
    """``about 1,234``: offsets have gaps."""
    number = facts.messages
    if number is None:
        return "-"
    return f"about {words.count(number)}" if number else "0"


def place(offset: int | None, milliseconds: int | None, now: float) -> str:
    """An offset, and when it was written: in milliseconds since 1970; ``now`` in seconds."""
    if offset is None:
        return "-"
    if milliseconds is None:
        return words.count(offset)
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a peer may say anything
        return words.count(offset)
    return f"{words.count(offset)}, {words.age(now - milliseconds / 1000)} ({moment:%Y-%m-%d %H:%M:%S} UTC)"


def online(stream: ListedStream) -> str:
    """``3 of 3 online``, with the names of those that are not."""
    missing = [terminal.name(node) for node in stream.replicas if node not in stream.online]
    text = f"{len(stream.replicas) - len(missing)} of {len(stream.replicas)} online"
    return f"{text}; offline: {', '.join(missing)}" if missing else text


def limits(stream: ListedStream) -> str:
    """What retention keeps, such as ``7D, 20.0 GB (policy keep)``."""
    age, length = stream.in_force("max-age"), stream.in_force("max-length-bytes")
    parts = [terminal.name(str(age))] if age is not None else []
    if isinstance(length, int):
        parts.append(words.size(length))
    text = ", ".join(parts) or "none"
    return text if stream.policy is None else f"{text} (policy {terminal.name(stream.policy)})"


def _segments(stream: ListedStream) -> str:
    number = stream.segments or 0
    text = f"{words.count(number)} segment{'' if number == 1 else 's'}"
    largest = stream.in_force("stream-max-segment-size-bytes")
    return f"{text} of {words.size(largest)} at most" if isinstance(largest, int) else text


def _names(found: Sequence[ListedConsumer] | Sequence[ListedPublisher]) -> str:
    if not found:
        return "none"
    shown = []
    for one in found[:MOST_NAMES]:
        waits = isinstance(one, ListedConsumer) and not one.is_active
        shown.append((terminal.name(one.name) if one.name else "(no name)") + (" (waits)" if waits else ""))
    if len(found) > MOST_NAMES:
        shown.append(f"and {words.count(len(found) - MOST_NAMES)} more")
    return f"{words.count(len(found))}: {', '.join(shown)}"


def super_stream_text(partitions: Sequence[Facts], listed: Listed | None) -> str:
    """A line for each partition below the names of the columns; where that is too wide, two or three of them.

    Its name has a line of its own then, and so has a long name of a leader.
    """
    heads = ("partition", "messages", "last", "leader", "replicas")
    rows = []
    for facts in partitions:
        metadata = facts.metadata
        told = None if listed is None else listed.streams.get(metadata.stream)
        rows.append(
            (
                terminal.name(metadata.stream),
                messages(facts).removeprefix("about "),
                "-" if facts.last_offset is None else words.count(facts.last_offset),
                "-" if metadata.leader is None else terminal.name(str(metadata.leader)),
                str(len(metadata.replicas) + (metadata.leader is not None))
                if told is None
                else f"{len(set(told.online) & set(told.replicas))}/{len(told.replicas)}",
            )
        )
    widths = [max(map(width, column)) for column in zip(heads, *rows, strict=True)]
    lines = _lines_of_partitions(widths)
    text = []
    for row in (heads, *rows):
        for line in lines:
            cells = [padded(row[place], widths[place], right=place in _NUMBERS) for place in line]
            text.append(("" if line is lines[0] else "  ") + "  ".join(cells).rstrip() + "\n")
    return "".join(text)


_NUMBERS = (1, 2)
"""The columns of a super stream that hold numbers."""
_LINES_OF_PARTITIONS = (((0, 1, 2, 3, 4),), ((0,), (1, 2, 3, 4)), ((0,), (1, 2, 4), (3,)))
"""Which columns each line of a partition has, from wide to narrow."""


def _lines_of_partitions(widths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the first of ``_LINES_OF_PARTITIONS`` that fits, but for names that fit nowhere; else the last."""
    for lines in _LINES_OF_PARTITIONS:
        indents = (0, *[2] * (len(lines) - 1))
        taken = [
            indent + sum(widths[place] for place in line) + 2 * (len(line) - 1)
            for indent, line in zip(indents, lines, strict=True)
            if line != (0,)
        ]
        if max(taken) <= WIDTH:
            return lines
    return _LINES_OF_PARTITIONS[-1]
