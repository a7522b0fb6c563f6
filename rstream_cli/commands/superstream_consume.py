"""``rstream superstream consume``: all partitions of a super stream."""

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

EXAMPLES = r"""
rstream superstream consume orders
rstream superstream consume orders -o first --until end --format '%t %o %s\n'
rstream superstream consume orders --name billing -o stored --json
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("options", ConsumeOptions)
def consume(
    super_stream: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The super stream (default: the variable RSTREAM_STREAM)."),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where to start in each partition: first, last (the last chunk), next (only new messages), stored"
            " (behind the offset stored under --name), -N (the last N messages), or a time: -1h,"
            " 2026-11-23T10:00Z, @UNIX. Without a stored offset, stored starts at offset 0; if retention has"
            " deleted that, --on-gap decides.",
            show_default="next; first with --output dump",
            rich_help_panel=WHERE,
        ),
    ] = None,
    until: Annotated[
        str | None,
        until_option(
            "Where to stop in each partition: end (its end when the command starts), or a time: -1h,"
            " 2026-11-23T10:00Z, @UNIX. The message at that time is the last one."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Store the offset of the last written message of each partition under this name, regularly and at"
            " the end. --store-every says how often.",
            rich_help_panel=READING,
        ),
    ] = None,
    *,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Read all partitions of a super stream.

    It works like `rstream consume`, with these differences. The messages of one partition keep their order; messages of
    different partitions come as they arrive. %t in --format and "stream" in --json show the partition. --until end
    stops when every partition has been read to its end. --count counts the messages of all partitions. A plain number
    is an offset of one partition, so it is refused here: read that partition with `rstream consume`.
    """
    run_consume(
        connection.stream(super_stream), offset, until, name, options, showing, connection, kind=Kind.SUPER_STREAM
    )
