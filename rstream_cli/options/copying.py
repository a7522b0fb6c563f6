"""The options of ``copy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rstream_cli.options.consuming import WHERE, OnGap, until_option
from rstream_cli.options.messages import Codec
from rstream_cli.options.publishing import SENDING, Compression
from rstream_cli.options.selecting import READING, SelectOptions
from rstream_cli.parsing import parse_rate


@dataclass(frozen=True, kw_only=True)
class CopyOptions(SelectOptions):
    """What is copied, and how."""

    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where a copy begins: first, last (the last chunk), next (only new messages), N (an offset), -N (the"
            " last N messages), or a time: -1h, 2026-11-23T10:00Z, @UNIX. Where it goes on does not depend on this.",
            rich_help_panel=WHERE,
        ),
    ] = "first"
    until: Annotated[
        str | None,
        until_option(
            "Where to stop: end (the end of the stream when the command starts, the default), N (an offset), or a"
            " time: -1h, 2026-11-23T10:00Z, @UNIX. The message at that offset or time is the last one."
        ),
    ] = None
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go on with new messages at the end, until SIGINT or SIGTERM.", rich_help_panel=WHERE
        ),
    ] = False
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Publish under this name, with a hash of the source and the selection behind it (default: copy- and"
            " the source's name).",
            rich_help_panel=SENDING,
        ),
    ] = None
    append: Annotated[
        bool,
        typer.Option("--append", help="Copy also to a stream that holds messages of others.", rich_help_panel=SENDING),
    ] = False
    key_from: Annotated[
        str | None,
        typer.Option(
            "--key-from",
            metavar="PATH",
            help="Send each message to the partition of the key at this path, by its hash: for a super stream with"
            " other partitions. The path leads into a JSON body (.name) or into the envelope that consume --json"
            " shows (.headers.region).",
            rich_help_panel=SENDING,
        ),
    ] = None
    set_filter_from: Annotated[
        str | None,
        typer.Option(
            "--set-filter-from",
            metavar="PATH",
            help="Give each message the filter value at this path, as --key-from has it. Those of the source are not"
            " delivered, and so not kept.",
            rich_help_panel=SENDING,
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        typer.Option(
            "--compression",
            help="Pack the messages anew into sub-entries, compressed like this. Without it, messages and sub-entries"
            " go on as they came.",
            rich_help_panel=SENDING,
        ),
    ] = None
    rate: Annotated[
        Any,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=parse_rate,
            help="Copy no faster than this: 500/s, 30/m, 2MB/s; all partitions together.",
            rich_help_panel=SENDING,
        ),
    ] = None
    pace: Annotated[
        str | None,
        typer.Option(
            "--pace",
            metavar="PACE",
            help="Copy messages with the gaps in time with which they were stored: original, or shortened, such as"
            " 10x, or lengthened, such as 0.5x.",
            rich_help_panel=SENDING,
        ),
    ] = None
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="What --grep, --match and the paths look at: AMQP 1.0 messages (amqp), or the stored bytes as they are"
            " (raw). What is copied does not depend on it.",
            rich_help_panel=READING,
        ),
    ] = Codec.AMQP
    on_gap: Annotated[
        OnGap,
        typer.Option(
            "--on-gap",
            help="What to do when retention has deleted messages before they were copied. tell warns and names the"
            " first and the last missing offset. fail ends the copy with exit code 9.",
            rich_help_panel=READING,
        ),
    ] = OnGap.TELL
    credit: Annotated[
        int,
        typer.Option(
            "--credit",
            min=1,
            max=65535,
            metavar="N",
            help="Let the broker send this many chunks ahead. Later brokers may refuse more than 200.",
            rich_help_panel=READING,
        ),
    ] = 10
