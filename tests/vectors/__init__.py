"""Frames as a real broker, and the published client, put them on the wire: see scripts/capture_vectors.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).resolve().parent


class Vector(NamedTuple):
    """One captured frame, and what it says according to the script that captured it."""

    name: str
    sender: str
    client: str
    frame: bytes
    """With its size."""
    key: int
    version: int
    correlation_id: int | None
    code: int
    message: str | None
    fields: dict[str, Any]
    answers: str | None = None
    """The response that an error reply would have been."""
    rest: str = ""
    """What follows the code of an error reply, in hex."""
    messages: tuple[bytes, ...] | None = None
    """For a Deliver: what its chunk holds."""
    amqp: tuple[dict[str, Any], ...] = ()
    """For messages of the published client: what it put in."""


@functools.cache
def vectors() -> tuple[Vector, ...]:
    """All of them, with names that differ."""
    found: list[Vector] = []
    count: dict[str, int] = {}
    for path in sorted(DIRECTORY.glob("*.json")):
        content = json.loads(path.read_text())
        for entry in content["vectors"]:
            name = entry.pop("name")
            count[name] = count.get(name, 0) + 1
            if count[name] > 1:
                name += f" ({count[name]})"
            entry["frame"] = bytes.fromhex(entry["frame"])
            if "messages" in entry:
                entry["messages"] = tuple(map(bytes.fromhex, entry["messages"]))
            found.append(Vector(f"{content['source']['broker']}, {name}", **entry))
    return tuple(found)


def sub_entry_messages() -> list[bytes]:
    """What each file of ``sub-entries/`` holds: its README says which client wrote it."""
    return [b"%05d the blocks of this frame are linked" % (number % 100) for number in range(4000)]


def sub_entries() -> dict[str, bytes]:
    """The data of compressed sub-entries, by names such as ``java.lz4`` that end in the codec's."""
    paths = (DIRECTORY / "sub-entries").iterdir()
    return {path.name: path.read_bytes() for path in sorted(paths) if path.suffix != ".md"}


def plain(value: Any) -> Any:
    """A decoded field as the vectors write it: JSON has no bytes and no tuples."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value
