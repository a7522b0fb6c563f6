"""Shows what a dump holds, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rstream_cli import terminal
from rstream_cli.dump_survey import Held, Survey
from rstream_cli.render import words
from rstream_cli.render.columns import columns
from rstream_cli.render.facts import MOST_NAMES, labelled, place


def dump_text(found: Survey, now: float) -> str:
    """A line, or more, for each fact; of several streams, a table. ``now``: seconds since 1970."""
    return "".join(line for label, text in _rows(found, now) for line in labelled(label, text)) + _table(found)


def _rows(found: Survey, now: float) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    if found.is_segment:
        yield "form", "segments of a broker"
    else:
        yield "form", "dump, compressed with zstd" if found.is_compressed else "dump"
    if manifest is not None:
        if manifest.super_stream is not None:
            yield "superstream", terminal.name(manifest.super_stream)
        else:
            yield "stream", ", ".join(terminal.name(stream.name) for stream in manifest.streams)
        yield "cluster", terminal.name(manifest.cluster) if manifest.cluster else "-"
        yield "vhost", terminal.name(manifest.vhost)
        yield "begun", f"{terminal.name(manifest.made_at)} by {terminal.name(manifest.made_by)}"
        chosen = ", ".join(f"{key} {_value(value)}" for key, value in manifest.selection.items())
        yield "chosen", terminal.name(chosen) if chosen else "-"
    if len(found.held) == 1:
        yield from _of_one(found.held[0], now)
    if not found.is_segment:
        yield "ended", "in order" if found.is_ended else "no: cut off, stopped at once, or still being written"
    for damage in (*found.cut_off, *found.damage):
        yield "damage", terminal.name(str(damage))
    if found.damaged > len(found.damage):
        yield "", f"and {words.count(found.damaged - len(found.damage))} more damaged places"


def _of_one(held: Held, now: float) -> Iterator[tuple[str, str]]:
    yield "messages", words.count(held.messages)
    yield "first", place(held.first, held.first_time, now)
    yield "last", place(held.last, held.last_time, now)
    yield "size", f"{words.size(held.size)} in {words.count(held.chunks)} chunk{'' if held.chunks == 1 else 's'}"
    stream = held.stream
    if stream.arguments is not None:
        pairs = ", ".join(f"{key}={value}" for key, value in stream.arguments.items())
        yield "arguments", terminal.name(pairs) if pairs else "none"
    if stream.stored_offsets is not None:
        names = [f"{terminal.name(name)} {words.count(offset)}" for name, offset in stream.stored_offsets.items()]
        more = [f"and {words.count(len(names) - MOST_NAMES)} more"] if len(names) > MOST_NAMES else []
        yield "stored", ", ".join([*names[:MOST_NAMES], *more]) or "none"


def _value(value: object) -> str:
    if value is True:
        return "yes"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(found: Survey) -> str:
    if len(found.held) < 2:
        return ""
    rows = [
        (
            terminal.name(held.stream.name),
            words.count(held.messages),
            "-" if held.first is None else words.count(held.first),
            "-" if held.last is None else words.count(held.last),
        )
        for held in found.held
    ]
    return "\n" + columns([("partition", "messages", "first", "last"), *rows], right={1, 2, 3})
