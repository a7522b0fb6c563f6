"""The options of ``consume``, ``superstream consume`` and ``sac-consume``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

import typer

from rstream_cli.options.declaring import duration
from rstream_cli.options.messages import Codec, OnError

WHERE = "Where to start and stop"
READING = "Reading"
OUTPUT = "Output"


class OnGap(enum.StrEnum):
    """The values of ``--on-gap``."""

    TELL = "tell"
    FAIL = "fail"


class OutputFormat(enum.StrEnum):
    """The values of ``--output``."""

    LINES = "lines"
    NUL = "nul"
    LEN32 = "len32"
    JSON = "json"
    RAW = "raw"


@dataclass(frozen=True, kw_only=True)
class ConsumeOptions:
    """The options of all these commands. Each declares its own options for the start and the name, which differ."""

    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="SPEC",
            help="Stop after this: end (of the stream, when the command starts), an offset, or a time.",
            rich_help_panel=WHERE,
        ),
    ] = None
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="Stop after N messages.", rich_help_panel=WHERE),
    ] = None
    idle_timeout: Annotated[
        float | None,
        duration("--idle-timeout", False, "Stop after so long without a message; exit code 0.", panel=WHERE),
    ] = None
    timeout: Annotated[
        float | None, duration("--timeout", False, "Stop after so long; exit code 124.", panel=WHERE)
    ] = None
    output: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output",
            help="A body and a newline (the default) or a NUL, a body behind its length (32 bits, big endian), a line"
            " of JSON with everything, or the bodies with nothing between. On a terminal, all but the last make control"
            " characters visible.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="As --output nul.", rich_help_panel=OUTPUT)] = False
    json_lines: Annotated[bool, typer.Option("--json", help="As --output json.", rich_help_panel=OUTPUT)] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What to write behind each body: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="TEXT",
            help="Write this for each message: %s body, %S its size, %R the same in 4 bytes, %o offset, %T time in"
            r" milliseconds, %I time, %t stream, %h headers, %p properties, %%, \n and the other escapes.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    unbuffered: Annotated[
        bool,
        typer.Option("--unbuffered", help="Write message by message, not chunk by chunk.", rich_help_panel=OUTPUT),
    ] = False
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Unwrap AMQP 1.0 messages, or take what was stored as it is. A body that is an AMQP value is written"
            " as its bytes where it is a string or binary, else as JSON.",
            rich_help_panel=OUTPUT,
        ),
    ] = Codec.AMQP
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="A message that is not AMQP 1.0, or that JSON cannot hold where the output or --filter-from needs it,"
            " ends the run (exit code 8), or is skipped and counted (3 at the end).",
            rich_help_panel=READING,
        ),
    ] = OnError.STOP
    on_gap: Annotated[
        OnGap,
        typer.Option(
            "--on-gap",
            help="Where retention took what was to be read (the offset asked for, the one after a stored offset, or"
            " messages not yet read): tell from which offset to which, or end there (exit code 9).",
            rich_help_panel=READING,
        ),
    ] = OnGap.TELL
    store_every: Annotated[
        str | None,
        typer.Option(
            "--store-every",
            metavar="N|DURATION",
            help="How often, with --name: after N messages, or after a time such as 5s (the default).",
            rich_help_panel=READING,
        ),
    ] = None
    filter_values: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="VALUE",
            help="Ask the broker only for messages published with this filter value; repeatable. It leaves out whole"
            " chunks, so others come too, unless --filter-from tells them apart.",
            rich_help_panel=READING,
        ),
    ] = None
    filter_from: Annotated[
        str | None,
        typer.Option(
            "--filter-from",
            metavar="PATH",
            help="With --filter: take exactly the messages that have one of the values here: .name, .name.inner or"
            " .list[0] of a JSON body, else of the envelope that --json shows, such as .headers.region.",
            rich_help_panel=READING,
        ),
    ] = None
    match_unfiltered: Annotated[
        bool,
        typer.Option(
            "--match-unfiltered",
            help="With --filter: messages without a filter value, too.",
            rich_help_panel=READING,
        ),
    ] = False
    credit: Annotated[
        int,
        typer.Option(
            "--credit",
            min=1,
            max=65535,
            metavar="N",
            help="Chunks that the broker may send ahead.",
            rich_help_panel=READING,
        ),
    ] = 10
