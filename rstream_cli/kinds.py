"""Hints at the right command where a user names a super stream instead of a stream, or the reverse."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rstream_cli.runner import CommandContext
from rstream_core import RstreamError, StreamDoesNotExist

T = TypeVar("T")

_SUPER_STREAM_COMMANDS = {
    "stream info": "superstream info",
    "publish": "superstream publish",
    "consume": "superstream consume",
}
_STREAM_COMMANDS = {theirs: ours for ours, theirs in _SUPER_STREAM_COMMANDS.items()}


async def telling_kinds_apart(context: CommandContext, command: str, name: str, work: Callable[[], Awaitable[T]]) -> T:
    """Does the work of ``command``. If ``name`` does not exist, looks for one of the other kind, and adds a hint."""
    try:
        return await work()
    except StreamDoesNotExist as error:
        if error.hint is None:
            error.hint = await _hint(context, command, name)
        raise


async def _hint(context: CommandContext, command: str, name: str) -> str | None:
    try:
        async with context.client() as client:
            if command in _SUPER_STREAM_COMMANDS:
                kind, other = "super stream", _SUPER_STREAM_COMMANDS[command]
                found = bool(await client.partitions(name))
            else:
                kind, other = "stream, and no super stream", _STREAM_COMMANDS[command]
                found = await client.stream_exists(name)
    except RstreamError:
        return None
    return f"{name!r} is a {kind}: rstream {other} {shlex.quote(name)}" if found else None
