"""The file ``.rstream.toml`` of a project, in the current folder or one above it; the nearest one counts.

Anybody may have written it: whoever unpacks an archive and works in its folder gets the file, too. So it may say which
of the user's own contexts and which stream to use and how to show things, and nothing else. Everything else is an
error: a file that names an address or a command must not be taken for one that was read in part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from rstream_cli.environment import ColorChoice
from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_context_name, check_stream_name

FILE_NAME = ".rstream.toml"
MAX_PROJECT_BYTES = 4096
"""Bytes of a project's file."""
_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "context": (),
    "stream": (),
    "color": tuple(ColorChoice),
    "stats": ("auto", "live", "line", "none"),
}
"""What the file may hold, with the values that there are; without any, a name."""


@dataclass(frozen=True, slots=True)
class Project:
    """What the file says; all None where there is none."""

    path: str | None = None
    context: str | None = None
    stream: str | None = None
    color: ColorChoice | None = None
    stats: str | None = None


def read_project() -> Project:
    """Reads the file for the current folder. Raises ``CommandError``, with file and line."""
    path = _nearest()
    if path is None:
        return Project()
    from rstream_cli.trusted_files import line_of, read_settings  # tomllib is only imported where there is a file

    found = read_settings(path, most=MAX_PROJECT_BYTES, is_own=False)
    if found is None:  # removed in this moment
        return Project()

    def refuse(key: str, why: str, hint: str | None = None) -> NoReturn:
        raise CommandError(f"{path}, line {line_of(found.text, key)}: {why}", hint=hint)

    for key, value in found.table.items():
        if key not in _ALLOWED:
            refuse(
                key,
                f"{key!r} is not allowed in the file of a project, which anybody may have written;"
                f" allowed: {', '.join(_ALLOWED)}",
                '`rstream context set NAME` keeps connection settings; here write: context = "NAME"',
            )
        if not isinstance(value, str):
            refuse(key, f"{key!r} is not text in quotation marks")
        if _ALLOWED[key] and value not in _ALLOWED[key]:
            refuse(key, f"{key!r} is not one of {', '.join(_ALLOWED[key])}")
        try:
            if key == "context":
                check_context_name(value)
            if key == "stream":
                check_stream_name(value)
        except CommandError as error:
            refuse(key, str(error))
    said: dict[str, str] = dict(found.table)
    color = said.get("color")
    return Project(
        path, said.get("context"), said.get("stream"), ColorChoice(color) if color else None, said.get("stats")
    )


def _nearest() -> str | None:
    """The path of the file, in the current folder or the nearest one above it that has one."""
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        return None
    while True:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return path
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
