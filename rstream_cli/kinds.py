"""Streams and super streams: finds which of them a name is, and hints at the right command for the other kind."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from rstream_cli.exit_status import CommandError
from rstream_cli.names import Kind
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.parsing import Start, StartKind
from rstream_cli.runner import CommandContext
from rstream_core import Client, RstreamError, StreamDoesNotExist

T = TypeVar("T")

_SUPER_STREAM_COMMANDS = {
    "stream info": "superstream info",
    "stream delete": "superstream delete",
    "publish": "superstream publish",
    "consume": "superstream consume",
}
_MAKING = {
    "publish": "--create creates it; or is it in another virtual host?",
    "superstream publish": "`rstream superstream create {} --partitions N` creates it; or is it in another"
    " virtual host?",
}
"""What to do where there is none of either kind."""
_STREAM_COMMANDS = {theirs: ours for ours, theirs in _SUPER_STREAM_COMMANDS.items()}


async def find_streams(client: Client, names: Sequence[str], kind: Kind) -> tuple[str | None, list[str]]:
    """Returns the super stream, if the names are one, and the streams that the names stand for.

    ``names``: some streams, or one super stream. Raises StreamDoesNotExist.
    """
    name = names[0]
    if kind is not Kind.SUPER_STREAM:
        try:
            for stream in names:
                await client.metadata(stream)
        except StreamDoesNotExist:
            if kind is Kind.STREAM:
                raise
        else:
            return None, list(names)
    try:
        return name, await client.partitions(name)
    except StreamDoesNotExist:
        if kind is Kind.SUPER_STREAM:
            raise
        raise StreamDoesNotExist(f"there is no stream and no super stream {name!r}") from None


def check_no_offset(option: str, start: Start, super_stream: str) -> None:
    """Raises a usage error if a start is a number, which means nothing to a super stream."""
    if start.kind is StartKind.ABSOLUTE:
        raise CommandError(
            f"{option}: {super_stream!r} is a super stream, and a number is an offset of one partition",
            hint="give first, last, next, -N or a time",
        )


async def telling_kinds_apart(
    context: CommandContext, command: str, names: str | Sequence[str], work: Callable[[], Awaitable[T]]
) -> T:
    """Does the work of ``command``. If one of the names does not exist, looks for it among the other kind, and adds a
    hint.
    """
    try:
        return await work()
    except StreamDoesNotExist as error:
        if error.hint is None:
            for name in [names] if isinstance(names, str) else names:
                error.hint = error.hint or await _hint(context, command, name)
        raise


async def near_name(connection: ConnectionSettings, name: str, *, of_super_streams: bool) -> str | None:
    """The stream, or super stream, that was most likely meant; None where there is none, or no API to ask."""
    import asyncio
    import difflib

    from rstream_cli.connection_settings import management_uri
    from rstream_cli.stream_facts import API_TIMEOUT, listens

    with suppress(RstreamError, TimeoutError):
        if management_uri(connection.layers) is None and not await listens(connection):
            return None
        async with asyncio.timeout(API_TIMEOUT):
            with connection.management() as api:
                if of_super_streams:
                    names = await api.super_streams()
                else:
                    names = [stream.name for stream in await api.streams()]
        return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.7)), None)
    return None


async def _hint(context: CommandContext, command: str, name: str) -> str | None:
    found = False
    try:
        async with context.client() as client:
            if command in _SUPER_STREAM_COMMANDS:
                kind, other = "super stream", _SUPER_STREAM_COMMANDS[command]
                with suppress(StreamDoesNotExist):
                    found = bool(await client.partitions(name))
            else:
                kind, other = "stream, not a super stream", _STREAM_COMMANDS[command]
                found = await client.stream_exists(name)
    except RstreamError:
        return None
    if found:
        return f"{name!r} is a {kind}: rstream {other} {shlex.quote(name)}"
    near = await near_name(context.connection, name, of_super_streams=command in _STREAM_COMMANDS)
    if near is not None:
        return f"did you mean {near!r}?"
    return _MAKING[command].format(shlex.quote(name)) if command in _MAKING else None
