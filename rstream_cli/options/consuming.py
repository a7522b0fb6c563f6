"""The options of ``consume``, ``superstream consume`` and ``sac-consume``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.options.declaring import duration
from rstream_cli.options.messages import Codec, OnError
from rstream_cli.options.selecting import READING, SelectOptions

WHERE = "Where to start and stop"
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
    CSV = "csv"
    RAW = "raw"
    DUMP = "dump"


class DumpCompression(enum.StrEnum):
    """The values of ``--dump-compression``."""

    NONE = "none"
    ZSTD = "zstd"


def until_option(help: str, metavar: str = "SPEC") -> Any:  # noqa: A002
    """The declaration of ``--until``: which forms it takes differs."""
    return typer.Option("--until", metavar=metavar, help=help, rich_help_panel=WHERE)


@dataclass(frozen=True, kw_only=True)
class ConsumeOptions(SelectOptions):
    """What all of them take; where to begin and to stop and under which name differs, and is declared by each."""

    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="Stop after N messages.", rich_help_panel=WHERE),
    ] = None
    idle_timeout: Annotated[
        float | None,
        duration(
            "--idle-timeout", False, "Stop when no message has come for this long. The exit code is 0.", panel=WHERE
        ),
    ] = None
    timeout: Annotated[
        float | None, duration("--timeout", False, "Stop after this time. The exit code is 124.", panel=WHERE)
    ] = None
    output: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output",
            help="Write each body with a newline behind it (lines, the default) or a NUL (nul), with its length"
            " before it (len32: 32 bits, big endian), or with nothing between the bodies (raw). json writes"
            " everything about a message as one line of JSON, and csv its --columns as a row. dump writes chunks as"
            " the broker delivers them, for `publish --input dump`. On a terminal, all but raw make control characters"
            " visible.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="Same as --output nul.", rich_help_panel=OUTPUT)] = False
    json: Annotated[bool, typer.Option("--json", help="Same as --output json.", rich_help_panel=OUTPUT)] = False
    pretty: Annotated[
        PrettyChoice,
        typer.Option(
            "--pretty",
            help="Indent what --json writes, and colour it: always, never, or where stdout is a terminal (auto).",
            rich_help_panel=OUTPUT,
        ),
    ] = PrettyChoice.AUTO
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"Write this behind each body: one or more bytes, in which \n \r \t \0 \\ \xNN are escapes.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="TEXT",
            help="Write each message in this form. %s is the body, %S its size, %R its size in 4 bytes, %o the"
            " offset, %T the time in milliseconds, %I the time as text, %t the stream, %h the headers, %p the"
            r" properties, %% a percent sign. \n and the other escapes work too.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="PATH,...",
            help="The columns of --output csv, which it implies: offset, timestamp, stream, body, and paths in the"
            " envelope that --json shows or in a JSON body, such as properties.subject, headers.n and body.region.",
            show_default="stream,offset,timestamp,body",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output-file",
            metavar="FILE",
            help="With --output dump: write to this file. If it is a dump of the same stream, the run goes on behind"
            " its last whole chunk.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    dump_compression: Annotated[
        DumpCompression | None,
        typer.Option(
            "--dump-compression",
            help="With --output dump: compress with zstd, in frames that are independent of each other. `zstd -d` makes"
            " the plain dump of it.",
            show_default="none, or as the file is",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    unbuffered: Annotated[
        bool,
        typer.Option(
            "--unbuffered",
            help="Write each message at once. Without it, each chunk is written as a whole.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Decode AMQP 1.0 messages (amqp), or take the stored bytes as they are (raw). With amqp, a body that"
            " is an AMQP value is written as bytes if it is a string or binary, and as JSON otherwise.",
            rich_help_panel=OUTPUT,
        ),
    ] = Codec.AMQP
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="What to do with a message that is not AMQP 1.0, or that JSON cannot hold when the output,"
            " --filter-from or --match needs JSON. stop ends the run with exit code 8. skip leaves the message out and"
            " counts it; the exit code is then 3.",
            rich_help_panel=READING,
        ),
    ] = OnError.STOP
    on_gap: Annotated[
        OnGap,
        typer.Option(
            "--on-gap",
            help="What to do when retention has deleted messages before they were read: at the requested offset,"
            " behind the stored offset, or during the run. tell warns and names the first and the last missing"
            " offset. fail ends the run with exit code 9.",
            rich_help_panel=READING,
        ),
    ] = OnGap.TELL
    store_every: Annotated[
        str | None,
        typer.Option(
            "--store-every",
            metavar="N|DURATION",
            help="With --name: store the offset after this many messages or this much time (default: 5s).",
            rich_help_panel=READING,
        ),
    ] = None
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
