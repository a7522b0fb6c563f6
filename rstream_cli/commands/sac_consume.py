"""``rstream sac-consume``: reads a stream, or the partitions of a super stream, together with other processes."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.consume_command import run_consume
from rstream_cli.names import Kind
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.consuming import WHERE, ConsumeOptions, until_option
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.selecting import READING
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.typer_support import Command

EXAMPLES = """
rstream sac-consume orders --name billing
rstream sac-consume orders --name billing --store-every 1000 --json
rstream sac-consume orders --name billing --until end
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("options", ConsumeOptions)
def sac_consume(
    stream: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The stream or super stream (default: the variable RSTREAM_STREAM)."),
    ] = None,
    *,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="GROUP",
            help="The name of the group. All its consumers pass the same name, and offsets are stored under it.",
            rich_help_panel=READING,
        ),
    ],
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where a group starts that has not stored an offset yet: stored (offset 0; if retention has deleted"
            " that, --on-gap decides), first, last, next, N (of a stream, not of a super stream), -N, or a time."
            " -N and relative times count from when this command starts.",
            rich_help_panel=WHERE,
        ),
    ] = "stored",
    until: Annotated[
        str | None,
        until_option("Stop when the group has read every message that was there when the command started.", "end"),
    ] = None,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Read a stream as one of a group of consumers.

    All processes with the same --name are one group. On a stream, one of them is active at a time. On a super stream,
    they share the partitions. When a process ends, another one takes over behind the last stored offset; messages after
    that offset are read again. A line on standard error says when this process becomes active or idle on a stream.

    Everything else works as in `rstream consume`.
    """
    target = connection.stream(stream)
    run_consume(target, offset, until, name, options, showing, connection, kind=Kind.EITHER, single_active=True)
