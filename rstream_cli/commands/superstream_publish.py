"""``rstream superstream publish``: does the same as ``rstream publish``, and takes routing keys."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_stream_name
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.publishing import PublishOptions
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
        list[str] | None, typer.Argument(metavar="[FILE]", help="Files to publish; - or none: standard input.")
    ] = None,
    routing: Annotated[
        RoutingMethod,
        typer.Option(
            "--routing",
            help="By the hash of the key, as the Java, Go and Rust clients do it; by that of the Python client"
            " rstream; or by the broker's bindings: a record whose key is bound to no partition is bad.",
            rich_help_panel=_ROUTING,
        ),
    ] = RoutingMethod.HASH,
    routing_key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="The routing key of every message.", rich_help_panel=_ROUTING),
    ] = None,
    key_from: Annotated[
        str | None,
        typer.Option(
            "--key-from",
            metavar=".PATH",
            help="The routing key is at a path of the record's JSON, or of its envelope with --json.",
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    key_delimiter: Annotated[
        str | None,
        typer.Option(
            "--key-delimiter",
            metavar="TEXT",
            help=r"What is before it in a record is the routing key, and only what is behind it is published; with"
            r" escapes, such as \t. A record without it is bad.",
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    *,
    given: PublishOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Publish lines, files or JSON to a super stream.

    Each message goes to the partition of its routing key: one of --key, --key-from and --key-delimiter says what that
    is. Everything else works as in `rstream publish`. Order is kept within a partition. --max-in-flight is shared by
    the partitions, and --failed-to names the partition as the stream: there such messages can be published again.
    """
    check_stream_name(super_stream)
    sources = (routing_key, key_from, key_delimiter)
    if sum(source is not None for source in sources) != 1:
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
