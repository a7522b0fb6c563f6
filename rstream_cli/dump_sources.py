"""The files that dumps are read from: a folder of a broker stands for the segments in it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rstream_cli.exit_status import CommandError
from rstream_cli.input import STDIN, InputError
from rstream_core.protocol.chunk import SEGMENT_HEAD

_SEGMENT = ".segment"


def dump_sources(given: Sequence[str]) -> list[str]:
    """Returns the files of what was named: of a folder its segments, in the order of their offsets.

    Raises ``CommandError`` for a folder without one, and for several files that are not all segments.
    """
    found: list[str] = []
    for source in given:
        if source == STDIN or not os.path.isdir(source):
            found.append(source)
            continue
        try:
            names = sorted(name for name in os.listdir(source) if name.endswith(_SEGMENT))
        except OSError as error:
            raise CommandError(f"{source}: {error.strerror}") from None
        if not names:
            hint = "a broker keeps the segments of a stream in a folder of their own, below its data folder"
            raise CommandError(f"{source}: the folder holds no segment of a broker", hint=hint)
        found += [os.path.join(source, name) for name in names]
    if len(found) > 1 and not all(map(_is_segment, found)):
        raise CommandError(
            f"{len(found)} files are given, and not all of them are segments of a broker",
            hint="each dump is by itself: name one at a time",
        )
    return found


def _is_segment(source: str) -> bool:
    if source == STDIN:
        return False
    try:
        with open(source, "rb") as file:
            return file.read(len(SEGMENT_HEAD)).startswith(SEGMENT_HEAD[:4])
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
