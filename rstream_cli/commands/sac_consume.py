"""``rstream sac-consume``: reads a stream, or the partitions of a super stream, together with other processes."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.consume_command import run_consume
from rstream_cli.names import Kind
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.consuming import READING, WHERE, ConsumeOptions, until_option
from rstream_cli.options.declaring import shared_options
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
        typer.Argument(metavar="[NAME]", help="The stream or the super stream; RSTREAM_STREAM where it is not given."),
    ] = None,
    *,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="GROUP",
            help="The name that the consumers share, and that offsets are stored under.",
            rich_help_panel=READING,
        ),
    ],
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where to begin, for a group that has stored no offset yet: stored (the very beginning: what retention"
            " took is told), first, last, next, N (of a stream, not of a super stream), -N, or a time, as of when this"
            " command starts.",
            rich_help_panel=WHERE,
        ),
    ] = "stored",
    until: Annotated[
        str | None,
        until_option("Stop when the group has read everything that was there when the command started.", "end"),
    ] = None,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Read as one of a group that shares the messages.

    Of all processes with the same --name, one at a time is active on a stream; of a super stream, they share the
    partitions. When one leaves or dies, another takes over after the last offset that was stored; what came after that
    is read again. Standard error tells when this one becomes active or idle, and on which stream.

    As `rstream consume` otherwise. --until end stops when the group has read everything up to the end.
    """
    target = connection.stream(stream)
    run_consume(target, offset, until, name, options, showing, connection, kind=Kind.EITHER, single_active=True)
