"""The options of publishing, to a stream and to a super stream."""

from __future__ import annotations

import enum
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli.options.declaring import duration
from rstream_cli.options.messages import Codec, OnError
from rstream_cli.parsing import parse_rate

if TYPE_CHECKING:
    from rstream_core.types import CompressionType

INPUT = "Input"
SENDING = "Sending"
MESSAGES = "Messages"


class InputFormat(enum.StrEnum):
    """The values of ``--input``."""

    LINES = "lines"
    NUL = "nul"
    LEN32 = "len32"
    WHOLE = "whole"
    JSON = "json"
    CSV = "csv"
    DUMP = "dump"


class Method(enum.StrEnum):
    """The values of ``--method``."""

    BATCH = "batch"
    SEND = "send"
    WAIT = "wait"
    SUB_ENTRY = "sub-entry"


class Compression(enum.StrEnum):
    """The values of ``--compression``."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"

    @property
    def core(self) -> CompressionType:
        """The same for the core."""
        from rstream_core.types import CompressionType

        return CompressionType[{"none": "No"}.get(self.value, self.value.capitalize())]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """The options of publishing, to a stream and to a super stream."""

    message: Annotated[
        list[str] | None,
        typer.Option(
            "--message",
            "-m",
            metavar="TEXT",
            help="Publish this text instead of reading input. Repeat the option for more messages.",
            rich_help_panel=INPUT,
        ),
    ] = None
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--input",
            metavar="FORMAT",
            help="How the input is divided into records: at line ends (lines, the default), at NULs (nul), by a"
            " length before each record (len32: 32 bits, big endian), each file as one record (whole), a line"
            " of JSON each, as consume --json writes it (json), as rows below a row of names (csv), or as chunks of"
            " a dump, or of a broker's segment files (dump).",
            rich_help_panel=INPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="Same as --input nul.", rich_help_panel=INPUT)] = False
    whole: Annotated[bool, typer.Option("--whole", help="Same as --input whole.", rich_help_panel=INPUT)] = False
    json_lines: Annotated[bool, typer.Option("--json", help="Same as --input json.", rich_help_panel=INPUT)] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"End each line at this text instead of a newline: one or more bytes, in which \n \r \t \0 \\ \xNN"
            " are escapes.",
            rich_help_panel=INPUT,
        ),
    ] = None
    crlf: Annotated[
        bool, typer.Option("--crlf", help="Remove a carriage return from the end of each line.", rich_help_panel=INPUT)
    ] = False
    skip_empty: Annotated[
        bool,
        typer.Option(
            "--skip-empty", help="Skip empty lines. Without it, an empty line is a message.", rich_help_panel=INPUT
        ),
    ] = False
    body_from: Annotated[
        str | None,
        typer.Option(
            "--body-from",
            metavar="COLUMN",
            help="With --input csv: the column with the bodies.",
            show_default="body",
            rich_help_panel=INPUT,
        ),
    ] = None
    append: Annotated[
        bool,
        typer.Option(
            "--append",
            help="With --input dump: publish also into a stream that holds messages of others. Without it, such a"
            " stream is refused.",
            rich_help_panel=INPUT,
        ),
    ] = False
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="Stop after N messages.", rich_help_panel=INPUT),
    ] = None
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="What to do with a bad record: one that is too large, is not JSON, has no value at a path, has not"
            " as many cells as the row of names, has an id that does not grow, or has a key without a partition. stop"
            " ends the run with exit code 8. skip leaves the record out and counts it; the exit code is then 3.",
            rich_help_panel=INPUT,
        ),
    ] = OnError.STOP
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="KEY=TEXT",
            help="Give every message this application property. KEY:=JSON sets a value that is not text.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="KEY=TEXT",
            help="Give every message this AMQP property, such as message_id, subject or content_type. KEY:=JSON sets"
            " a value that is not text.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            "--annotation",
            metavar="KEY=TEXT",
            help="Give every message this annotation. KEY:=JSON sets a value that is not text.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    filter_value: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="VALUE",
            help="Publish every message with this filter value. Consumers can ask for messages with it.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    filter_from: Annotated[
        str | None,
        typer.Option(
            "--filter-from",
            metavar=".PATH|COLUMN",
            help="Take the filter value from this path in the record's JSON, or in its envelope with --json, or from"
            " this column with --input csv. null, or an empty cell, means no filter value.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Wrap each record in an AMQP 1.0 message (amqp), or store its bytes as they are (raw).",
            rich_help_panel=MESSAGES,
        ),
    ] = Codec.AMQP
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Publish under this name. The broker remembers the last publishing id of a name, and drops messages"
            " whose id is not higher. New ids follow that id, unless --id-from gives them.",
            rich_help_panel=SENDING,
        ),
    ] = None
    id_from: Annotated[
        str | None,
        typer.Option(
            "--id-from",
            metavar="line|.PATH|COLUMN",
            help="With --name: take publishing ids from the number of the record (line), from this path in its JSON,"
            " or from this column with --input csv. Messages that the broker has already are not published again, so"
            " you can repeat a run. The run stops at a message that the broker rejects.",
            rich_help_panel=SENDING,
        ),
    ] = None
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            help="Publish in batches (batch, the default), one message at a time (send), one message at a time and"
            " wait for each confirm (wait), or in batches that the broker stores as one entry (sub-entry).",
            rich_help_panel=SENDING,
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        typer.Option(
            "--compression", help="Compress sub-entries. This implies --method sub-entry.", rich_help_panel=SENDING
        ),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            max=65535,
            metavar="N",
            help="Put up to this many messages into a batch.",
            rich_help_panel=SENDING,
        ),
    ] = 1000
    linger: Annotated[
        float,
        duration("--linger", "20ms", "Send a batch that is not full after this time.", panel=SENDING, zero=True),
    ] = 0.02
    rate: Annotated[
        Any,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=parse_rate,
            help="Publish no faster than this: 500/s, 30/m, 2MB/s. After a signal, what was read goes at once.",
            rich_help_panel=SENDING,
        ),
    ] = None
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            min=1,
            metavar="N",
            help="Let up to this many messages wait for their confirms. At the limit, no more input is read.",
            rich_help_panel=SENDING,
        ),
    ] = 50_000
    confirm_timeout: Annotated[
        float,
        duration(
            "--confirm-timeout",
            "30s",
            "Count a message as failed if it is not confirmed after this time.",
            panel=SENDING,
        ),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        duration(
            "--drain-timeout",
            "10s",
            "After SIGINT or SIGTERM, take up to this long to publish and confirm what was read.",
            panel=SENDING,
            zero=True,
        ),
    ] = 10.0
    failed_to: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--failed-to",
            metavar="FILE",
            help="Append messages that were read but not confirmed to this file, as lines for publish --json.",
            rich_help_panel=SENDING,
        ),
    ] = None
