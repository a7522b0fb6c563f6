"""``rstream consume``: one stream, or several."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.consume_command import run_consume
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.consuming import WHERE, ConsumeOptions, until_option
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.selecting import READING
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.typer_support import Command

EXAMPLES = r"""
rstream consume events
rstream consume events -o first --until end > all.txt
rstream consume events -o -10 --until end --json
rstream consume events -o -1h --format '%o %I %s\n'
rstream consume events --name backup -o stored --store-every 10s >> backup.txt
rstream consume events -o first --filter eu --filter-from .region
rstream consume events -o -1h --until end --pace 10x
rstream consume events audit billing -o -5m --json
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("options", ConsumeOptions)
def consume(
    streams: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STREAM]", help="The streams (default: the variable RSTREAM_STREAM)."),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where to start: first, last (the last chunk), next (only new messages), stored (behind the offset"
            " stored under --name), N (an offset), -N (the last N messages), or a time: -1h, 2026-11-23T10:00Z,"
            " @UNIX. Without a stored offset, stored starts at offset 0; if retention has deleted that, --on-gap"
            " decides.",
            show_default="next; first with --output dump",
            rich_help_panel=WHERE,
        ),
    ] = None,
    until: Annotated[
        str | None,
        until_option(
            "Where to stop: end (the end of the stream when the command starts), N (an offset), or a time: -1h,"
            " 2026-11-23T10:00Z, @UNIX. The message at that offset or time is the last one."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Store the offset of the last written message under this name, regularly and at the end."
            " --store-every says how often.",
            rich_help_panel=READING,
        ),
    ] = None,
    *,
    pace: Annotated[
        str | None,
        typer.Option(
            "--pace",
            metavar="PACE",
            help="Write messages with the gaps in time with which they were stored: original, or shortened, such as"
            " 10x, or lengthened, such as 0.5x. The messages of a chunk have one time.",
            rich_help_panel=READING,
        ),
    ] = None,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Read a stream.

    Bodies go to standard output, byte for byte. Everything else goes to standard error. Without --until, --count or a
    timeout, the command waits for more messages until SIGINT or SIGTERM.

    Several streams are read at once, each from its own start to its own end, with its own stored offset. The messages
    of one stream keep their order; messages of different streams come as they arrive. %t in --format, and "stream" in
    --json and --output csv, show the stream. --count counts the messages of all streams. A plain number is an offset of
    one stream, so it is refused for several.
    """
    first, *more = connection.streams(streams)
    run_consume(first, offset, until, name, options, showing, connection, more=more, pace=pace)
