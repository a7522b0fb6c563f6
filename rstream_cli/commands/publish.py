"""``rstream publish``: one stream."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.publishing import PublishOptions
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.publish_command import run_publish
from rstream_cli.typer_support import Command

EXAMPLES = r"""
seq 1000 | rstream publish events
tail -f app.log | rstream publish events
rstream publish events -m hello -H source=shell
rstream publish events data.bin --whole --property content_type=image/png
rstream consume events -o first --until end --json | rstream publish copy --json
rstream publish orders orders.jsonl --name import --id-from .number --filter-from .region
rstream publish restored --create --input dump events.dump
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("given", PublishOptions)
def publish(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="The stream (default: the variable RSTREAM_STREAM).")
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="Files to publish. Without a file, or for -, standard input is read."),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the stream if it does not exist.")] = False,
    *,
    given: PublishOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Publish lines, files or JSON to a stream.

    Each line of standard input, or of the files, becomes a message; so does an empty line. The bytes are not changed.
    The input is read only as fast as the broker confirms.

    With --name and --id-from, you can finish an interrupted run by running it again: each record is stored once. For
    this, ids must grow, and the run stops at a message that the broker rejects and says which records are not stored.
    Options with .PATH take a value from the record's JSON (.region, .list[0].id), or from its envelope with --json
    (.headers.region).

    With --input dump, the chunks of a dump are published as they are, or those of a broker's segment files, of which
    FILE may be a folder. It can be run again after any end: each message is stored once.

    After SIGINT or SIGTERM, the messages that were read are published and confirmed, then the run ends with exit code
    130 or 143. A second signal ends it at once. If a message was rejected or not confirmed, the exit code is 7.
    """
    run_publish(connection.stream(stream), files, given, showing, connection, create=create)
