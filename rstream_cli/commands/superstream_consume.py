"""``rstream superstream consume``: all partitions of a super stream."""

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
        typer.Argument(metavar="[NAME]", help="The super stream; RSTREAM_STREAM where it is not given."),
    ] = None,
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="For each partition: first, last (the last chunk), next, stored (after the offset stored under --name;"
            " where none is, at offset 0: what retention took is told, see --on-gap), -N (the last N messages), or a"
            " time: -1h, 2026-11-23T10:00Z, @UNIX.",
            rich_help_panel=WHERE,
        ),
    ] = "next",
    until: Annotated[
        str | None,
        until_option(
            "In each partition, stop after this: end (when the command starts), or a time: -1h, 2026-11-23T10:00Z,"
            " @UNIX."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Store, in each partition, the offset of the last message written out under this name, now and then"
            " and at the end.",
            rich_help_panel=READING,
        ),
    ] = None,
    *,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Read all partitions of a super stream.

    As `rstream consume`. The messages of a partition come in their order, and those of different partitions as they
    arrive; %t in --format and "stream" in --json tell the partition. --until end stops when each partition has been
    read to its end, and --count counts over all of them. An offset belongs to one partition, so a plain number is
    refused here: read that partition with `rstream consume`.
    """
    run_consume(
        connection.stream(super_stream), offset, until, name, options, showing, connection, kind=Kind.SUPER_STREAM
    )
