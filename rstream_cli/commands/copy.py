"""``rstream copy``: a stream to another one, or a super stream."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.copy_command import run_copy
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.copying import CopyOptions
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.other_side import OtherSideOptions
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.typer_support import Command

EXAMPLES = r"""
rstream copy events events-copy
rstream copy events events --to-context backup --follow
rstream copy events events --to-uri rabbitmq-stream://me@backup.example.com/prod --to-password-file pw.txt
rstream copy events errors --grep ERROR -o -1d
rstream copy orders orders-by-region --key-from .region
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("other", OtherSideOptions)
@shared_options("showing", ShowingOptions)
@shared_options("options", CopyOptions)
def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The stream or super stream that is copied.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The one that it is copied to. It must exist.")],
    *,
    options: CopyOptions,
    showing: ShowingOptions,
    other: OtherSideOptions,
    connection: ConnectionSettings,
) -> None:
    """Copy a stream to another one, here or on another broker.

    Messages come over byte for byte and in their order, sub-entries as they came. Partitions of a super stream go to
    the ones in the same place. Offsets, timestamps and filter values cannot be kept.

    Run the same command again after an interruption: it goes on where the target ends, and stores nothing twice. It
    publishes under a name of its own, under which it also stores an offset in the source. The exit code is 9, and
    nothing is changed, where messages would be lost or doubled: the target holds messages of others, the source was
    deleted and made anew, a copy of it has begun at another offset, or both are the same stream.

    Without --until and --follow, it ends behind the last message that the source has when the command starts.
    """
    run_copy(source, target, options, other, showing, connection)
