"""``rstream superstream publish``: does the same as ``rstream publish``, and takes routing keys."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_stream_name
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.publishing import InputFormat, PublishOptions
from rstream_cli.options.routing import RoutingMethod
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.publish_command import Routing, run_publish
from rstream_cli.typer_support import Command

EXAMPLES = r"""
rstream superstream publish orders orders.jsonl --key-from .customer
printf 'eu\tone\nus\ttwo\n' | rstream superstream publish orders --key-delimiter '\t' --routing key
rstream superstream publish orders -m hello --key customer-17
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ROUTING = "Routing"


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("given", PublishOptions)
def publish(
    super_stream: Annotated[str, typer.Argument(metavar="NAME", help="The super stream.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="Files to publish. Without a file, or for -, standard input is read."),
    ] = None,
    routing: Annotated[
        RoutingMethod,
        typer.Option(
            "--routing",
            help="How a routing key selects a partition: by its hash as the Java, Go and Rust clients compute it"
            " (hash) or as the Python client rstream does (python-hash), or by the broker's bindings (key). A"
            " record whose key is bound to no partition is a bad record.",
            rich_help_panel=_ROUTING,
        ),
    ] = RoutingMethod.HASH,
    routing_key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Use this routing key for every message.", rich_help_panel=_ROUTING),
    ] = None,
    key_from: Annotated[
        str | None,
        typer.Option(
            "--key-from",
            metavar=".PATH|COLUMN",
            help="Take the routing key from this path in the record's JSON, or in its envelope with --json, or from"
            " this column with --input csv.",
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    key_delimiter: Annotated[
        str | None,
        typer.Option(
            "--key-delimiter",
            metavar="TEXT",
            help="Split each record at this text: the routing key is before it, the message is behind it. Escapes"
            r" such as \t work. A record without it is a bad record.",
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    *,
    given: PublishOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Publish lines, files or JSON to a super stream.

    Each message goes to the partition of its routing key. One of --key, --key-from and --key-delimiter gives the key.
    With --input dump, each goes to the partition that it is from, by the order of the partitions.
    Everything else works as in `rstream publish`. The messages of one partition keep their order. All partitions share
    the limit of --max-in-flight. The lines of --failed-to name the partition as their stream; publish them again to
    that partition.
    """
    check_stream_name(super_stream)
    sources = (routing_key, key_from, key_delimiter)
    if given.input_format is InputFormat.DUMP:
        if any(source is not None for source in sources):
            raise CommandError("the messages of a dump go to the partitions that they are from, not by a key")
    elif sum(source is not None for source in sources) != 1:
        raise CommandError(
            "pass one of --key, --key-from and --key-delimiter",
            hint=r"such as --key-delimiter '\t' for lines of a key, a tab and a text",
        )
    run_publish(
        super_stream,
        files,
        given,
        showing,
        connection,
        routing=Routing(routing, routing_key, key_from, key_delimiter),
    )
