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
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("given", PublishOptions)
def publish(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="The stream; RSTREAM_STREAM where it is not given.")
    ] = None,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]", help="Files to publish; - or none: standard input.")
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the stream if there is none.")] = False,
    *,
    given: PublishOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Publish lines, files or JSON to a stream.

    Each line of standard input, or of the files, becomes a message, an empty line too. Bytes go through untouched. The
    input is read only as fast as the broker confirms.

    With --name and --id-from, a run that broke off is finished by running it again: each record is stored once. So it
    stops where the broker rejects a message, and tells which records are not stored. Ids must grow; they, and filter
    values, come from a path such as .region or .list[0].id into the record's JSON, with --json into its envelope
    (.headers.region).

    SIGINT or SIGTERM: what was read is published and confirmed, then the run ends in 130 or 143; a second one ends it
    at once. 7 where a message was rejected or not confirmed.
    """
    run_publish(connection.stream(stream), files, given, showing, connection, create=create)
