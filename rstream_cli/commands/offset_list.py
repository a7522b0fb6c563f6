"""``rstream offset list``: the offsets that are stored in a stream, by the management API."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import typer

from rstream_cli import terminal
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import ExitStatus
from rstream_cli.hints import saying_why
from rstream_cli.names import Kind
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NOT_BY_THE_PROTOCOL = "the stream protocol cannot list names of offsets, so RabbitMQ's management API is asked"


class Stored(NamedTuple):
    """One stored offset."""

    stream: str
    name: str
    offset: int


@app.command(
    "list",
    cls=Command,
    epilog="""
rstream offset list events
rstream offset list events --json | jq -r .name
""",
)
@connection_options
def list_(
    stream: Annotated[
        str | None,
        typer.Argument(
            metavar="STREAM", help="The stream, or a super stream: all its partitions (default: RSTREAM_STREAM)."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for each stored offset.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """List the offsets that are stored in a stream, with their names.

    The lines have the stream, the name and the offset; in a pipe, they are separated by tabs. The stored offset is that
    of the last message that is done with. For a name that you know, `rstream offset query` needs no management API.

    The stream protocol cannot list names. So this command asks RabbitMQ's management API, which needs the plugin
    rabbitmq_stream_management; if the API cannot be reached, the exit code is 6. Without TLS, the API is asked only on
    this machine.
    """
    target = connection.stream(stream)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.kinds import find_streams

        async with context.connected() as client:
            _, streams = await find_streams(client, [target], Kind.EITHER)
        found = []
        with saying_why(NOT_BY_THE_PROTOCOL), connection.management() as api:
            for each in streams:
                tracking = await api.tracking(each)
                found += [Stored(each, name, offset) for name, offset in sorted(tracking.offsets.items())]
        env = context.env
        if json:
            write_answer(env, (each._asdict() for each in found), pretty, connection.color)
        else:
            env.stdout.write(_table(found) if env.stdout_is_tty else "".join(map(_as_line, found)))
        if not found:
            connection.tell(f"no offset is stored in {target!r}")
        return ExitStatus.OK

    run_command(main, connection=connection)


def _as_line(stored: Stored) -> str:
    """Names are escaped here, too: a tab or a line break in one would be taken for that of the line."""
    return f"{terminal.name(stored.stream)}\t{terminal.name(stored.name)}\t{stored.offset}\n"


def _table(found: list[Stored]) -> str:
    if not found:
        return ""
    from rstream_cli.render.columns import columns

    rows = [(terminal.name(stream), terminal.name(name), f"{offset:,}") for stream, name, offset in found]
    return columns([("stream", "name", "offset"), *rows], right={2})
