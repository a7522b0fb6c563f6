"""The options of publishing, to a stream and to a super stream."""

from __future__ import annotations

import enum
import pathlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rstream_cli.options.declaring import duration
from rstream_cli.options.messages import Codec, OnError
from rstream_cli.parsing import parse_rate

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """The options of publishing, to a stream and to a super stream."""

    message: Annotated[
        list[str] | None,
        typer.Option(
            "--message",
            "-m",
            metavar="TEXT",
            help="Publish this text, and read nothing; repeat it for more messages.",
            rich_help_panel=INPUT,
        ),
    ] = None
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--input",
            help="What a record is: a line (the default), up to a NUL, behind its length (32 bits, big endian), a"
            " whole file, or a line of JSON as consume --json writes it.",
            rich_help_panel=INPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="As --input nul.", rich_help_panel=INPUT)] = False
    whole: Annotated[bool, typer.Option("--whole", help="As --input whole.", rich_help_panel=INPUT)] = False
    json_lines: Annotated[bool, typer.Option("--json", help="As --input json.", rich_help_panel=INPUT)] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What ends a line: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=INPUT,
        ),
    ] = None
    crlf: Annotated[
        bool, typer.Option("--crlf", help="Take a carriage return off the end of each line.", rich_help_panel=INPUT)
    ] = False
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Empty lines are no messages.", rich_help_panel=INPUT)
    ] = False
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="End after N messages.", rich_help_panel=INPUT),
    ] = None
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="A record that cannot be read or published as the options say (no JSON, no value at a path, an id that"
            " does not grow, a key without a partition), or that is too large, ends the run (exit code 8), or is"
            " skipped (3 at the end).",
            rich_help_panel=INPUT,
        ),
    ] = OnError.STOP
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="KEY=TEXT",
            help="An application property of every message; KEY:=JSON for other types than text.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="KEY=TEXT",
            help="An AMQP property: message_id, subject, content_type and so on; or KEY:=JSON.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            "--annotation",
            metavar="KEY=TEXT",
            help="A message annotation; or KEY:=JSON.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    filter_value: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="VALUE",
            help="The filter value of every message, by which consumers can skip it.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    filter_from: Annotated[
        str | None,
        typer.Option(
            "--filter-from",
            metavar=".PATH",
            help="The filter value is at a path of the record's JSON, or of its envelope with --json; null: none.",
            rich_help_panel=MESSAGES,
        ),
    ] = None
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Wrap each record in an AMQP 1.0 message, or store its bytes as they are.",
            rich_help_panel=MESSAGES,
        ),
    ] = Codec.AMQP
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="The publisher's name. The broker remembers its last publishing id, and ids go on after that, or are"
            " those of --id-from.",
            rich_help_panel=SENDING,
        ),
    ] = None
    id_from: Annotated[
        str | None,
        typer.Option(
            "--id-from",
            metavar="line|.PATH",
            help="Publishing ids, with --name: the number of the record, or what is at a path of its JSON. What the"
            " broker has already is not published again, so a run can be repeated; it stops at a message that is"
            " rejected.",
            rich_help_panel=SENDING,
        ),
    ] = None
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            help="Batches (the default), message by message, each one confirmed before the next, or batches that"
            " the broker stores as one entry.",
            rich_help_panel=SENDING,
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        typer.Option("--compression", help="Of sub-entries, which it implies.", rich_help_panel=SENDING),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, max=65535, metavar="N", help="Messages in a batch.", rich_help_panel=SENDING
        ),
    ] = 1000
    linger: Annotated[
        float,
        duration("--linger", "20ms", "A batch that is not full is sent after this.", panel=SENDING, zero=True),
    ] = 0.02
    rate: Annotated[
        Any,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=parse_rate,
            help="At most so much: 500/s, 30/m, 2MB/s.",
            rich_help_panel=SENDING,
        ),
    ] = None
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            min=1,
            metavar="N",
            help="Messages that may wait for their confirms; the input is read no faster.",
            rich_help_panel=SENDING,
        ),
    ] = 50_000
    confirm_timeout: Annotated[
        float,
        duration("--confirm-timeout", "30s", "A message that is not confirmed by then failed.", panel=SENDING),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        duration(
            "--drain-timeout", "10s", "After SIGINT or SIGTERM: for what was read already.", panel=SENDING, zero=True
        ),
    ] = 10.0
    failed_to: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--failed-to",
            metavar="FILE",
            help="Write what was read and is not confirmed here, as lines for publish --json.",
            rich_help_panel=SENDING,
        ),
    ] = None
