"""``rstream offset``: offsets that are stored in a stream under a name.

Storing has no answer in the protocol, so ``store`` asks for what is stored until it sees its own number: a script
may rely on exit code 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options import ConnectionSettings, check_reference, connection_options
from rstream_cli.parsing import MAX_OFFSET
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command, new_app

if TYPE_CHECKING:
    from rstream_core import Client

app = new_app(
    "Store and query offsets by name.",
    examples="""
rstream offset store events 41 --name billing
rstream offset query events --name billing
""",
)

STORE_TIMEOUT = 10.0
"""Seconds in which a stored offset must show."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25

_REFERENCE = typer.Option("--name", metavar="REF", help="The name that the offset is stored under.")


@app.command(
    cls=Command,
    epilog="""
rstream offset store events 41 --name billing
RSTREAM_STREAM=events rstream offset store 41 --name billing
""",
)
@connection_options
def store(
    stream: Annotated[str, typer.Argument(metavar="[STREAM]", help="The stream; else that of RSTREAM_STREAM.")],
    offset: Annotated[str | None, typer.Argument(metavar="OFFSET", help="That of the last message done with.")] = None,
    *,
    name: Annotated[str, _REFERENCE],
    connection: ConnectionSettings,
) -> None:
    """Store an offset under a name, and see that the broker has it.

    `rstream consume --offset stored --name REF` goes on after this offset.
    """
    target, text = (connection.stream(stream), offset) if offset is not None else (None, stream)
    number = _parse_offset(text)
    target = target or connection.stream(None)
    check_reference(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import Client

        async with Client(context.connection_options) as client:
            await client.metadata(target)
            await client.store_offset(target, name, number)
            await _verify(client, target, name, number)
        connection.tell(f"stored offset {number} as {name!r} in stream {target!r}")
        return ExitStatus.OK

    run_command(main, connection=connection)


def _parse_offset(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) > MAX_OFFSET:
        raise CommandError(f"not an offset: {text!r}", hint="an offset is a whole number, 0 to 2^64 - 1")
    return int(text)


async def _verify(client: Client, stream: str, name: str, offset: int) -> None:
    """Returns once the broker tells this offset. Raises CommandError when it does not in time."""
    import asyncio

    from rstream_core import OffsetNotFound

    pause, stored = _FIRST_PAUSE, None
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            while True:
                try:
                    stored = await client.query_offset(stream, name)
                except OffsetNotFound:
                    stored = None
                if stored == offset:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
    except TimeoutError:
        found = "no offset" if stored is None else f"offset {stored}"
        raise CommandError(
            f"offset {offset} does not show in stream {stream!r}: the broker has {found} under {name!r}",
            hint="does another program store under this name?" if stored is not None else None,
            status=ExitStatus.CONNECTION,
        ) from None


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
        str | None, typer.Argument(metavar="STREAM", help="The stream; else that of RSTREAM_STREAM.")
    ] = None,
    *,
    name: Annotated[str, _REFERENCE],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    connection: ConnectionSettings,
) -> None:
    """Print the offset that is stored under a name.

    Ends in 4 where none is stored.
    """
    target = connection.stream(stream)
    check_reference(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import Client

        async with Client(context.connection_options) as client:
            await client.metadata(target)  # a missing stream has its own message
            offset = await client.query_offset(target, name)
        if json:
            import json as json_module

            record = {"stream": target, "name": name, "offset": offset}
            text = json_module.dumps(record, ensure_ascii=False, separators=(",", ":"))
        else:
            text = str(offset)
        context.env.stdout.write(text + "\n")
        return ExitStatus.OK

    run_command(main, connection=connection)
