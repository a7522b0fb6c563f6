"""``rstream offset``: stores and queries offsets under a name, and resolves places in a stream to offsets.

Storing has no answer in the protocol, so ``store`` queries the stored offset until it is the new one: a script may rely
on exit code 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from rstream_cli.commands.offset_reset import VERIFY_TIMEOUT
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import check_reference
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.parsing import MAX_OFFSET, StartKind, parse_offset
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command, Lazy, LazyGroup, new_app


class _Offset(LazyGroup):
    lazy: ClassVar[Mapping[str, Lazy]] = {
        "list": Lazy("rstream_cli.commands.offset_list", "List the offsets that are stored in a stream."),
        "reset": Lazy("rstream_cli.commands.offset_reset", "Make the consumers of a name read on at another place."),
    }


app = new_app(
    "Store, query, list, reset and resolve offsets.",
    examples="""
rstream offset store events 41 --name billing
rstream offset query events --name billing
rstream offset list events
rstream offset reset events --name billing --to -1h
rstream offset resolve events -- -1h
""",
    group=_Offset,
)

_REFERENCE = typer.Option("--name", metavar="REF", help="The name under which the offset is stored.")


@app.command(
    cls=Command,
    epilog="""
rstream offset store events 41 --name billing
RSTREAM_STREAM=events rstream offset store 41 --name billing
""",
)
@connection_options
def store(
    stream: Annotated[
        str, typer.Argument(metavar="[STREAM]", help="The stream (default: the variable RSTREAM_STREAM).")
    ],
    offset: Annotated[
        str | None, typer.Argument(metavar="OFFSET", help="The offset of the last message that is done with.")
    ] = None,
    *,
    name: Annotated[str, _REFERENCE],
    connection: ConnectionSettings,
) -> None:
    """Store an offset under a name, and check that the broker has stored it.

    `rstream consume --offset stored --name REF` then starts behind this offset.
    """
    target, text = (connection.stream(stream), offset) if offset is not None else (None, stream)
    if offset is None:
        _check_no_stream(text, r"[0-9]+", "OFFSET", connection)
    number = _parse_offset(text)
    target = target or connection.stream(None)
    check_reference(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import ConsumerOffsetSpecification, OffsetType

        async with context.connected() as client:
            await client.metadata(target)
            following = await client.resolve_offset(target, ConsumerOffsetSpecification(OffsetType.NEXT))
            await client.store_offset(target, name, number, verify_timeout=VERIFY_TIMEOUT)
        if number >= following:  # asked before: what is stored takes an offset, too
            connection.warn(
                f"offset {number} is beyond the end of stream {target!r}, whose next offset was {following}:"
                f" a consumer that starts at the offset stored as {name!r} skips all messages up to {number}"
            )
        connection.tell(f"stored offset {number} as {name!r} in stream {target!r}")
        return ExitStatus.OK

    run_command(main, connection=connection)


def _check_no_stream(text: str, place: str, missing: str, connection: ConnectionSettings) -> None:
    """One argument alone is a place in the default stream; without one, most often a stream, and no place."""
    if connection.default_stream is None and not re.fullmatch(place, text):
        raise CommandError(f"missing argument '{missing}'", hint=f"give STREAM and {missing}")


def _parse_offset(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) > MAX_OFFSET:
        raise CommandError(f"not an offset: {text!r}", hint="an offset is a whole number, 0 to 2^64 - 1")
    return int(text)


@app.command(
    cls=Command,
    epilog="""
rstream offset query events --name billing
rstream consume events --offset "$(rstream offset query events --name billing)"
""",
)
@connection_options
def query(
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="The stream (default: the variable RSTREAM_STREAM).")
    ] = None,
    *,
    name: Annotated[str, _REFERENCE],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    connection: ConnectionSettings,
) -> None:
    """Print the offset that is stored under a name.

    If no offset is stored, the exit code is 4.
    """
    target = connection.stream(stream)
    check_reference(name)

    async def main(context: CommandContext) -> ExitStatus:
        async with context.connected() as client:
            await client.metadata(target)  # a missing stream has its own message
            offset = await client.query_offset(target, name)
        _print_offset(context, {"stream": target, "name": name, "offset": offset}, json=json, pretty=pretty)
        return ExitStatus.OK

    run_command(main, connection=connection)


@app.command(
    cls=Command,
    epilog="""
rstream offset resolve events last
rstream offset resolve events 2026-11-23T10:00Z
rstream offset resolve events -- -1h
rstream consume events -o "$(rstream offset resolve events next)"
""",
)
@connection_options
def resolve(
    stream: Annotated[
        str, typer.Argument(metavar="[STREAM]", help="The stream (default: the variable RSTREAM_STREAM).")
    ],
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC",
            help="first, last (the last chunk), next, stored (with --name), N (an offset), -N (the last N messages),"
            " or a time: -1h, 2026-11-23T10:00Z, @UNIX.",
        ),
    ] = None,
    *,
    name: Annotated[
        str | None, typer.Option("--name", metavar="REF", help="The name under which the offset is stored.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    connection: ConnectionSettings,
) -> None:
    """Print the offset at which `rstream consume --offset SPEC` would start now.

    If there is no message there yet, this is the offset of the next message. A time gives the first offset of a chunk,
    as messages have the time of their chunk. Put -- before a SPEC that begins with a minus sign.
    """
    target, text = (connection.stream(stream), spec) if spec is not None else (None, stream)
    if spec is None:
        _check_no_stream(text, r"[-@]?[0-9].*|first|last|next|stored", "SPEC", connection)
    try:
        start = parse_offset(text, connection.env.now())
    except ValueError as error:
        raise CommandError(str(error)) from None
    target = target or connection.stream(None)
    if name is not None:
        check_reference(name)
    elif start.kind is StartKind.STORED:
        raise CommandError("stored needs --name", hint="pass --name REF")

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.consume_plan import start_at
        from rstream_core.flow.opening import resolve_start

        async with context.connected() as client:
            await client.metadata(target)  # a missing stream has its own message
            offset = await client.resolve_offset(target, await resolve_start(client, target, start_at(start, name)))
        _print_offset(context, {"stream": target, "spec": text, "offset": offset}, json=json, pretty=pretty)
        return ExitStatus.OK

    run_command(main, connection=connection)


def _print_offset(context: CommandContext, record: dict[str, str | int], *, json: bool, pretty: PrettyChoice) -> None:
    """Prints the offset alone, or with ``--json`` the whole record."""
    if json:
        write_answer(context.env, [record], pretty, context.connection.color)
    else:
        context.env.stdout.write(f"{record['offset']}\n")
