"""Results as a file: what it says beside them, and how it is written and read.

A file is one object of JSON: ``format`` and ``version`` of it, the command, when it was run, the machine, versions,
options, and ``runs``, of which ``results`` makes each.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rstream_cli.exit_status import CommandError
from rstream_cli.version import program_version
from rstream_cli.whole_files import replace_file
from rstream_core.connecting.locator import Locator
from rstream_core.protocol.wire_choice import CHOICE
from rstream_core.types import ConnectionOptions

FORMAT = "rstream-bench"
VERSION = 1
MAX_FILE = 256 * 1024 * 1024
"""Bytes of a file that is read."""


def document(command: str, options: Mapping[str, Any], broker: str) -> dict[str, Any]:
    """Returns what stands beside the runs."""
    import platform

    return {
        "format": FORMAT,
        "version": VERSION,
        "command": f"bench {command}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "processor": _processor(), "processors": os.cpu_count()},
        "versions": {
            "rstream": program_version(),
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "seam": str(CHOICE),
            "broker": broker,
        },
        "options": dict(options),
    }


async def broker_of(options: ConnectionOptions) -> str:
    """Returns the broker's product and version. Raises what connecting raises."""
    locator = Locator(options)
    try:
        session = (await locator.connection()).session
        return f"{session.server_properties.get('product', 'a broker')} {session.server_version}"
    finally:
        await locator.close()


def _processor() -> str:
    import platform

    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def check_place(path: str | None, flag: str) -> None:
    """Raises ``CommandError`` where a file cannot be written: that must not show after the benchmark."""
    if path is None:
        return
    folder = os.path.dirname(os.path.realpath(path))
    if not path or os.path.isdir(path):
        raise CommandError(f"{flag}: {path!r} is not a file")
    if not os.path.isdir(folder):
        raise CommandError(f"{flag}: there is no folder {folder!r}")
    place = path if os.path.exists(path) and not _is_regular(path) else folder
    if not os.access(place, os.W_OK):
        raise CommandError(f"{flag}: cannot write {path!r}: permission denied")


def write(path: str, text: str) -> None:
    """Writes a file whole or not at all, in place of the one that is there. Raises ``OSError``, with a file name."""
    path = os.path.realpath(path)  # a link stays one
    if os.path.exists(path) and not _is_regular(path):  # such as a pipe
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    replace_file(path, text.encode(), mode=0o666 & ~_umask())


def read(path: str) -> dict[str, Any]:
    """Returns the results in a file. Raises ``CommandError`` for what is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"cannot read {path!r}: {why}") from None
    try:
        found = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CommandError(
            f"{path!r} holds no results of a benchmark", hint="`rstream bench publish --save FILE` writes them"
        )
    if found.get("version") != VERSION:
        raise CommandError(f"{path!r} was written by another version of rstream: its form is {found.get('version')!r}")
    runs = found.get("runs")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise CommandError(f"{path!r} holds no run")
    return found


def _is_regular(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def _umask() -> int:
    """Returns the mask of this process: there is no way to read it but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
