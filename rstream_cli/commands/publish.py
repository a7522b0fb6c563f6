"""``rstream publish``: the options, checked against each other before anything connects.

What they say becomes a ``PublishPlan``; publishing.py carries it out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options import ConnectionSettings, check_reference, connection_options
from rstream_cli.parsing import parse_delimiter, parse_duration, parse_header, parse_rate
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.encoding import Extras
    from rstream_cli.publishing import PublishPlan
    from rstream_cli.records.framing_in import RecordReader

EXAMPLES = r"""
seq 1000 | rstream publish events
tail -f app.log | rstream publish events
rstream publish events -m hello -H source=shell
rstream publish events data.bin --whole --property content_type=image/png
rstream consume events -o first --until end --json | rstream publish copy --json
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_INPUT = "Input"
_SENDING = "Sending"
_MESSAGES = "Messages"
_STATS = "Statistics"


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


class Codec(enum.StrEnum):
    """The values of ``--codec``."""

    AMQP = "amqp"
    RAW = "raw"


class OnError(enum.StrEnum):
    """The values of ``--on-error``."""

    STOP = "stop"
    SKIP = "skip"


def positive_duration(text: str) -> float:
    """A duration above 0."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f"must be more than 0: {text!r}")
    return seconds


def _duration(flag: str, default: str, help: str, *, panel: str, zero: bool = False) -> Any:  # noqa: A002
    return typer.Option(
        flag,
        metavar="DURATION",
        parser=parse_duration if zero else positive_duration,
        help=help,
        show_default=default,
        rich_help_panel=panel,
    )


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
def publish(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="The stream; RSTREAM_STREAM where it is not given.")
    ] = None,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Files to publish; - or none: standard input.")
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option(
            "--message",
            "-m",
            metavar="TEXT",
            help="Publish this text, and read nothing; repeat it for more messages.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--input",
            help="What a record is: a line (the default), up to a NUL, behind its length (32 bits, big endian), a"
            " whole file, or a line of JSON as consume --json writes it.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    nul: Annotated[bool, typer.Option("-0", help="As --input nul.", rich_help_panel=_INPUT)] = False,
    whole: Annotated[bool, typer.Option("--whole", help="As --input whole.", rich_help_panel=_INPUT)] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="As --input json.", rich_help_panel=_INPUT)] = False,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What ends a line: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    crlf: Annotated[
        bool, typer.Option("--crlf", help="Take a carriage return off the end of each line.", rich_help_panel=_INPUT)
    ] = False,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Empty lines are no messages.", rich_help_panel=_INPUT)
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="End after N messages.", rich_help_panel=_INPUT),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="A record that is bad or too large ends the run (exit code 8), or is skipped (3 at the end).",
            rich_help_panel=_INPUT,
        ),
    ] = OnError.STOP,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="KEY=TEXT",
            help="An application property of every message; KEY:=JSON for other types than text.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="KEY=TEXT",
            help="An AMQP property: message_id, subject, content_type and so on; or KEY:=JSON.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None,
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            "--annotation",
            metavar="KEY=TEXT",
            help="A message annotation; or KEY:=JSON.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None,
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Wrap each record in an AMQP 1.0 message, or store its bytes as they are.",
            rich_help_panel=_MESSAGES,
        ),
    ] = Codec.AMQP,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="The publisher's name. Its publishing ids go on after the last one that the broker remembers.",
            rich_help_panel=_SENDING,
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the stream if there is none.", rich_help_panel=_SENDING)
    ] = False,
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            help="Batches (the default), message by message, each one confirmed before the next, or batches that"
            " the broker stores as one entry.",
            rich_help_panel=_SENDING,
        ),
    ] = None,
    compression: Annotated[
        Compression | None,
        typer.Option("--compression", help="Of sub-entries, which it implies.", rich_help_panel=_SENDING),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, max=65535, metavar="N", help="Messages in a batch.", rich_help_panel=_SENDING
        ),
    ] = 1000,
    linger: Annotated[
        float,
        _duration("--linger", "20ms", "A batch that is not full is sent after this.", panel=_SENDING, zero=True),
    ] = 0.02,
    rate: Annotated[
        Any,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=parse_rate,
            help="At most so much: 500/s, 30/m, 2MB/s.",
            rich_help_panel=_SENDING,
        ),
    ] = None,
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            min=1,
            metavar="N",
            help="Messages that may wait for their confirms; the input is read no faster.",
            rich_help_panel=_SENDING,
        ),
    ] = 50_000,
    confirm_timeout: Annotated[
        float,
        _duration("--confirm-timeout", "30s", "A message that is not confirmed by then failed.", panel=_SENDING),
    ] = 30.0,
    drain_timeout: Annotated[
        float,
        _duration(
            "--drain-timeout", "10s", "After SIGINT or SIGTERM: for what was read already.", panel=_SENDING, zero=True
        ),
    ] = 10.0,
    failed_to: Annotated[
        Path | None,
        typer.Option(
            "--failed-to",
            metavar="FILE",
            help="Write what was read and is not confirmed here, as lines for publish --json.",
            rich_help_panel=_SENDING,
        ),
    ] = None,
    stats: Annotated[
        StatsMode,
        typer.Option(
            "--stats",
            help="What to show on stderr meanwhile: auto is live on a terminal, and none elsewhere.",
            rich_help_panel=_STATS,
        ),
    ] = StatsMode.AUTO,
    stats_interval: Annotated[
        float | None,
        _duration("--stats-interval", "1s", "How often; a live display: 250ms.", panel=_STATS),
    ] = None,
    *,
    connection: ConnectionSettings,
) -> None:
    """Publish lines, files or JSON to a stream.

    Each line of standard input, or of the files, becomes a message, an empty line too. Bytes go through untouched. The
    input is read only as fast as the broker confirms.

    SIGINT or SIGTERM: what was read is published and confirmed, then the run ends in 130 or 143; a second one ends it
    at once. 7 where a message was rejected or not confirmed.
    """
    shape = _input_format(input_format, nul=nul, whole=whole, json_lines=json_lines)
    sources = list(files or ["-"])
    _check_input(shape, sources, files, message, delimiter, crlf=crlf, skip_empty=skip_empty)
    target = connection.stream(stream)
    if name is not None:
        check_reference(name)
    if compression not in (None, Compression.NONE) and method not in (None, Method.SUB_ENTRY):
        raise CommandError(f"--compression {compression} goes with --method sub-entry, not {method}")
    extras = _extras(header, properties, annotation)
    if codec is Codec.RAW and extras:
        raise CommandError("--codec raw stores the bytes alone", hint="leave out --header, --property and --annotation")
    plan = _plan(
        shape,
        sources,
        message,
        extras,
        delimiter=delimiter,
        crlf=crlf,
        skip_empty=skip_empty,
        raw=codec is Codec.RAW,
        failed_to=failed_to,
        stream=target,
        method=str(method or (Method.BATCH if compression is None else Method.SUB_ENTRY)),
        compression=_compression(compression),
        batch_size=batch_size,
        linger=linger,
        name=name,
        create=create,
        rate=rate,
        count=count,
        max_in_flight=max_in_flight,
        confirm_timeout=confirm_timeout,
        drain_timeout=drain_timeout,
        skip_bad=on_error is OnError.SKIP,
    )
    from_terminal = not message and connection.env.stdin_is_tty and "-" in sources
    if from_terminal:
        connection.tell("publishing what you type, a line a message; Ctrl-D ends it")
    mode = choose_mode(
        stats,
        connection.env,
        terminal_is_used=from_terminal,
        quiet=connection.quiet,
        verbose=connection.verbosity > 0,
    )

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.ending import run_displayed
        from rstream_cli.publishing import PublishRun
        from rstream_cli.render.stats import PublishCounts, Stats

        numbers = Stats("publish", target, PublishCounts(), total=plan.input_size)
        display = Display(
            mode,
            numbers,
            connection.env,
            color=connection.color,
            interval=stats_interval,
            quiet=connection.quiet,
            summarise=stats is not StatsMode.NONE,
        )
        return await run_displayed(context, display, PublishRun(plan, context, numbers, display).work)

    run_command(main, connection=connection, graceful=True)


def _input_format(given: InputFormat | None, *, nul: bool, whole: bool, json_lines: bool) -> InputFormat:
    said = {
        "-0": InputFormat.NUL if nul else None,
        "--whole": InputFormat.WHOLE if whole else None,
        "--json": InputFormat.JSON if json_lines else None,
        "--input": given,
    }
    chosen = {flag: value for flag, value in said.items() if value is not None}
    if len(set(chosen.values())) > 1:
        raise CommandError(f"{' and '.join(chosen)} contradict each other")
    return next(iter(chosen.values()), InputFormat.LINES)


def _check_input(
    shape: InputFormat,
    sources: list[str],
    files: list[str] | None,
    message: list[str] | None,
    delimiter: str | None,
    *,
    crlf: bool,
    skip_empty: bool,
) -> None:
    if message and files:
        raise CommandError("--message reads no files", hint="publish the files with a command of their own")
    if message and shape not in (InputFormat.LINES, InputFormat.JSON):
        raise CommandError(f"--message is not read as --input {shape}")
    if sources.count("-") > 1:
        raise CommandError("standard input (-) can be read only once")
    given = {"--delimiter": delimiter is not None, "--crlf": crlf, "--skip-empty": skip_empty}
    allowed = {
        InputFormat.LINES: set(given),
        InputFormat.NUL: {"--skip-empty"},
    }.get(shape, set())
    for flag, is_given in given.items():
        if is_given and (flag not in allowed or (message and flag != "--skip-empty")):
            raise CommandError(f"{flag} does not go with {'--message' if message else f'--input {shape}'}")


def _extras(headers: list[str] | None, properties: list[str] | None, annotations: list[str] | None) -> Extras:
    from rstream_cli.encoding import Extras

    def pairs(flag: str, given: list[str] | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for text in given or ():
            try:
                key, value = parse_header(text)
            except ValueError as error:
                raise CommandError(f"{flag}: {error}") from None
            if key in found:
                raise CommandError(f"{flag}: {key!r} is given twice")
            found[key] = value
        return found

    extras = Extras(pairs("--header", headers), pairs("--property", properties), pairs("--annotation", annotations))
    if extras:
        extras.message()
    return extras


def _compression(given: Compression | None) -> Any:
    from rstream_core.types import CompressionType

    return {
        None: CompressionType.No,
        Compression.NONE: CompressionType.No,
        Compression.GZIP: CompressionType.Gzip,
        Compression.SNAPPY: CompressionType.Snappy,
        Compression.LZ4: CompressionType.Lz4,
        Compression.ZSTD: CompressionType.Zstd,
    }[given]


def _plan(
    shape: InputFormat,
    sources: list[str],
    message: list[str] | None,
    extras: Extras,
    *,
    delimiter: str | None,
    crlf: bool,
    skip_empty: bool,
    raw: bool,
    failed_to: Path | None,
    **settings: Any,
) -> PublishPlan:
    import os

    from rstream_cli.encoding import json_encoder, plain_encoder
    from rstream_cli.input import check_sources
    from rstream_cli.publishing import PublishPlan

    try:
        bound = parse_delimiter(delimiter) if delimiter is not None else b"\n"
    except ValueError as error:
        raise CommandError(f"--delimiter: {error}") from None
    size = None if message else check_sources(sources)
    encoder = (
        json_encoder(extras, raw=raw)
        if shape is InputFormat.JSON
        else plain_encoder(extras, raw=raw, skip_empty=skip_empty)
    )
    return PublishPlan(
        encoder=encoder,
        reader=None if message else _reader(shape, bound, crlf=crlf)(),
        sources=sources,
        inline=[os.fsencode(text) for text in message or ()],
        failed_to=None if failed_to is None else _open_failed(failed_to, [] if message else sources),
        raw=raw,
        input_size=size,
        **settings,
    )


def _reader(shape: InputFormat, delimiter: bytes, *, crlf: bool) -> Callable[[], RecordReader]:
    from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, WholeReader

    if shape is InputFormat.LEN32:
        return Len32Reader
    if shape is InputFormat.WHOLE:
        return WholeReader
    if shape is InputFormat.NUL:
        delimiter = b"\0"
    return lambda: DelimiterReader(delimiter, crlf=crlf)


def _open_failed(path: Path, sources: list[str]) -> Any:
    """Opens ``--failed-to`` for writing, unless that would empty a file that is to be read."""
    import os

    try:
        if path.exists():
            for source in sources:
                there = os.fstat(0) if source == "-" else os.stat(source)
                if path.is_file() and os.path.samestat(path.stat(), there):
                    raise CommandError(f"--failed-to: {path} is the input")
        return path.open("wb")
    except OSError as error:
        raise CommandError(f"--failed-to: {path}: {error.strerror}") from None
