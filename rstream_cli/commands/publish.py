"""``rstream publish``: the options, checked against each other before anything connects.

What they say becomes a ``PublishPlan``; publishing.py carries it out.
"""

from __future__ import annotations

import enum
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options import ConnectionSettings, check_no_uri, check_reference, connection_options
from rstream_cli.parsing import Path, parse_delimiter, parse_duration, parse_header, parse_path, parse_rate
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command, shared_options

if TYPE_CHECKING:
    from rstream_cli.encoding import Extras, Looks
    from rstream_cli.publishing import PublishPlan
    from rstream_cli.records.framing_in import RecordReader

EXAMPLES = r"""
seq 1000 | rstream publish events
tail -f app.log | rstream publish events
rstream publish events -m hello -H source=shell
rstream publish events data.bin --whole --property content_type=image/png
rstream consume events -o first --until end --json | rstream publish copy --json
rstream publish orders orders.jsonl --name import --id-from .number --filter-from .region
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_INPUT = "Input"
_SENDING = "Sending"
_MESSAGES = "Messages"
_STATS = "Statistics"
_LINE = "line"
"""The value of ``--id-from`` that is no path."""


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
            rich_help_panel=_INPUT,
        ),
    ] = None
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--input",
            help="What a record is: a line (the default), up to a NUL, behind its length (32 bits, big endian), a"
            " whole file, or a line of JSON as consume --json writes it.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="As --input nul.", rich_help_panel=_INPUT)] = False
    whole: Annotated[bool, typer.Option("--whole", help="As --input whole.", rich_help_panel=_INPUT)] = False
    json_lines: Annotated[bool, typer.Option("--json", help="As --input json.", rich_help_panel=_INPUT)] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What ends a line: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    crlf: Annotated[
        bool, typer.Option("--crlf", help="Take a carriage return off the end of each line.", rich_help_panel=_INPUT)
    ] = False
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Empty lines are no messages.", rich_help_panel=_INPUT)
    ] = False
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="End after N messages.", rich_help_panel=_INPUT),
    ] = None
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="A record that is bad or too large ends the run (exit code 8), or is skipped (3 at the end).",
            rich_help_panel=_INPUT,
        ),
    ] = OnError.STOP
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="KEY=TEXT",
            help="An application property of every message; KEY:=JSON for other types than text.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="KEY=TEXT",
            help="An AMQP property: message_id, subject, content_type and so on; or KEY:=JSON.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            "--annotation",
            metavar="KEY=TEXT",
            help="A message annotation; or KEY:=JSON.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None
    filter_value: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="VALUE",
            help="The filter value of every message, by which consumers can skip it.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None
    filter_from: Annotated[
        str | None,
        typer.Option(
            "--filter-from",
            metavar=".PATH",
            help="The filter value is at a path of the record's JSON, or of its envelope with --json; null: none.",
            rich_help_panel=_MESSAGES,
        ),
    ] = None
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Wrap each record in an AMQP 1.0 message, or store its bytes as they are.",
            rich_help_panel=_MESSAGES,
        ),
    ] = Codec.AMQP
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="The publisher's name. The broker remembers its last publishing id, and ids go on after that, or are"
            " those of --id-from.",
            rich_help_panel=_SENDING,
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
            rich_help_panel=_SENDING,
        ),
    ] = None
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            help="Batches (the default), message by message, each one confirmed before the next, or batches that"
            " the broker stores as one entry.",
            rich_help_panel=_SENDING,
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        typer.Option("--compression", help="Of sub-entries, which it implies.", rich_help_panel=_SENDING),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, max=65535, metavar="N", help="Messages in a batch.", rich_help_panel=_SENDING
        ),
    ] = 1000
    linger: Annotated[
        float,
        _duration("--linger", "20ms", "A batch that is not full is sent after this.", panel=_SENDING, zero=True),
    ] = 0.02
    rate: Annotated[
        Any,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=parse_rate,
            help="At most so much: 500/s, 30/m, 2MB/s.",
            rich_help_panel=_SENDING,
        ),
    ] = None
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            min=1,
            metavar="N",
            help="Messages that may wait for their confirms; the input is read no faster.",
            rich_help_panel=_SENDING,
        ),
    ] = 50_000
    confirm_timeout: Annotated[
        float,
        _duration("--confirm-timeout", "30s", "A message that is not confirmed by then failed.", panel=_SENDING),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        _duration(
            "--drain-timeout", "10s", "After SIGINT or SIGTERM: for what was read already.", panel=_SENDING, zero=True
        ),
    ] = 10.0
    failed_to: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--failed-to",
            metavar="FILE",
            help="Write what was read and is not confirmed here, as lines for publish --json.",
            rich_help_panel=_SENDING,
        ),
    ] = None
    stats: Annotated[
        StatsMode,
        typer.Option(
            "--stats",
            help="What to show on stderr meanwhile: auto is live on a terminal, in the foreground, else none.",
            rich_help_panel=_STATS,
        ),
    ] = StatsMode.AUTO
    stats_interval: Annotated[
        float | None,
        _duration("--stats-interval", "1s", "How often; a live display: 250ms.", panel=_STATS),
    ] = None


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options(PublishOptions, "given")
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
    run_publish(connection.stream(stream), files, given, connection, create=create)


@dataclass(frozen=True, slots=True)
class Routing:
    """How a super stream's partitions are chosen, and where routing keys come from: one of the three."""

    by_key: bool
    """By the broker's bindings; else by hash."""
    key: str | None = None
    key_from: str | None = None
    key_delimiter: str | None = None


def run_publish(
    target: str,
    files: list[str] | None,
    given: PublishOptions,
    connection: ConnectionSettings,
    *,
    create: bool = False,
    routing: Routing | None = None,
) -> NoReturn:
    """Publishes to a stream, or with ``routing`` to a super stream. Ends in ``typer.Exit``."""
    plan = _plan(target, files, given, create=create, routing=routing)
    from_terminal = not given.message and connection.env.stdin_is_tty and "-" in plan.sources
    if from_terminal:
        connection.tell("publishing what you type, a line a message; Ctrl-D ends it")
    mode = choose_mode(
        given.stats,
        connection.env,
        terminal_is_used=from_terminal,
        quiet=connection.quiet,
        verbose=connection.verbosity > 0,
    )

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.ending import run_displayed
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.publishing import PublishRun
        from rstream_cli.render.stats import PublishCounts, Stats

        numbers = Stats("publish", target, PublishCounts(), total=plan.input_size)
        display = Display(
            mode,
            numbers,
            connection.env,
            color=connection.color,
            interval=given.stats_interval,
            quiet=connection.quiet,
            summarise=given.stats is not StatsMode.NONE,
            gives_way=given.stats is StatsMode.AUTO,
        )
        command = "publish" if routing is None else "superstream publish"
        work = partial(telling_kinds_apart, context, command, target, PublishRun(plan, context, numbers, display).work)
        return await run_displayed(context, display, work)

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


def _check_input(shape: InputFormat, sources: list[str], files: list[str] | None, given: PublishOptions) -> None:
    message = given.message
    if message and files:
        raise CommandError("--message reads no files", hint="publish the files with a command of their own")
    if message and shape not in (InputFormat.LINES, InputFormat.JSON):
        raise CommandError(f"--message is not read as --input {shape}")
    if sources.count("-") > 1:
        raise CommandError("standard input (-) can be read only once")
    used = {"--delimiter": given.delimiter is not None, "--crlf": given.crlf, "--skip-empty": given.skip_empty}
    allowed = {
        InputFormat.LINES: set(used),
        InputFormat.NUL: {"--skip-empty"},
    }.get(shape, set())
    for flag, is_given in used.items():
        if is_given and (flag not in allowed or (message and flag != "--skip-empty")):
            raise CommandError(f"{flag} does not go with {'--message' if message else f'--input {shape}'}")


def _method(given: PublishOptions) -> Method:
    """How to send, checked against what a sub-entry cannot have."""
    if given.compression not in (None, Compression.NONE) and given.method not in (None, Method.SUB_ENTRY):
        raise CommandError(f"--compression {given.compression} goes with --method sub-entry, not {given.method}")
    method = given.method or (Method.BATCH if given.compression is None else Method.SUB_ENTRY)
    per_message = {"--id-from": given.id_from, "--filter": given.filter_value, "--filter-from": given.filter_from}
    for flag, value in per_message.items():
        if value is not None and method is Method.SUB_ENTRY:
            raise CommandError(
                f"{flag} does not go with sub-entries", hint="leave out --method sub-entry and --compression"
            )
    return method


def _looks(given: PublishOptions, routing: Routing | None, method: Method, shape: InputFormat) -> Looks:
    """What the options want to know of each record."""
    from rstream_cli.encoding import Looks

    if given.id_from is not None and given.name is None:
        raise CommandError("--id-from needs --name", hint="the broker remembers publishing ids by a name")
    if given.filter_value is not None and given.filter_from is not None:
        raise CommandError("--filter and --filter-from contradict each other")
    key = key_from = delimiter = None
    if routing is not None:
        if routing.key_delimiter is not None and shape is InputFormat.JSON:
            raise CommandError(
                "--key-delimiter does not go with --json", hint="take --key-from, a path of the envelope"
            )
        key = None if routing.key is None else os.fsencode(routing.key)
        key_from = routing.key_from
        delimiter = None if routing.key_delimiter is None else _delimiter("--key-delimiter", routing.key_delimiter)
    return Looks(
        id_from=None if given.id_from in (None, _LINE) else _path("--id-from", given.id_from),
        filter_value=_utf8("--filter", given.filter_value),
        filter_from=_path("--filter-from", given.filter_from),
        key=key,
        key_from=_path("--key-from", key_from),
        key_delimiter=delimiter,
        may_filter=method is not Method.SUB_ENTRY,
    )


def _path(flag: str, text: str | None) -> Path | None:
    if text is None:
        return None
    try:
        return parse_path(text)
    except ValueError as error:
        also = "; or line" if flag == "--id-from" else ""
        raise CommandError(f"{flag}: {error}{also}") from None


def _utf8(flag: str, text: str | None) -> str | None:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise CommandError(f"{flag}: not UTF-8") from None
    return text


def _delimiter(flag: str, text: str) -> bytes:
    try:
        return parse_delimiter(text)
    except ValueError as error:
        raise CommandError(f"{flag}: {error}") from None


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
    target: str, files: list[str] | None, given: PublishOptions, *, create: bool, routing: Routing | None
) -> PublishPlan:
    """The options, checked against each other and against the files."""
    from rstream_cli.encoding import json_encoder, plain_encoder
    from rstream_cli.input import check_sources
    from rstream_cli.publishing import PublishPlan
    from rstream_core import RouteType

    shape = _input_format(given.input_format, nul=given.nul, whole=given.whole, json_lines=given.json_lines)
    sources = list(files or ["-"])
    for source in sources:
        check_no_uri("name of a file", source)
    _check_input(shape, sources, files, given)
    if given.name is not None:
        check_reference(given.name)
    method = _method(given)
    looks = _looks(given, routing, method, shape)
    extras = _extras(given.header, given.properties, given.annotation)
    raw = given.codec is Codec.RAW
    if raw and extras:
        raise CommandError("--codec raw stores the bytes alone", hint="leave out --header, --property and --annotation")
    bound = _delimiter("--delimiter", given.delimiter) if given.delimiter is not None else b"\n"
    size = None if given.message else check_sources(sources)
    encoder = (
        json_encoder(extras, looks, raw=raw)
        if shape is InputFormat.JSON
        else plain_encoder(extras, looks, raw=raw, skip_empty=given.skip_empty)
    )
    route_type = None
    if routing is not None:
        route_type = RouteType.Key if routing.by_key else RouteType.Hash
    return PublishPlan(
        stream=target,
        encoder=encoder,
        reader=None if given.message else _reader(shape, bound, crlf=given.crlf)(),
        sources=sources,
        inline=[os.fsencode(text) for text in given.message or ()],
        method=str(method),
        compression=_compression(given.compression),
        batch_size=given.batch_size,
        linger=given.linger,
        name=given.name,
        has_ids=given.id_from is not None,
        ids_are_numbers=given.id_from == _LINE,
        has_filters=looks.filter_value is not None or looks.filter_from is not None,
        routing=route_type,
        create=create,
        rate=given.rate,
        count=given.count,
        max_in_flight=given.max_in_flight,
        confirm_timeout=given.confirm_timeout,
        drain_timeout=given.drain_timeout,
        skip_bad=given.on_error is OnError.SKIP,
        failed_to=None if given.failed_to is None else _open_failed(given.failed_to, [] if given.message else sources),
        raw=raw,
        input_size=size,
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


def _open_failed(path: pathlib.Path, sources: list[str]) -> Any:
    """Opens ``--failed-to`` for writing, unless that would empty a file that is to be read."""
    try:
        if path.exists():
            for source in sources:
                there = os.fstat(0) if source == "-" else os.stat(source)
                if path.is_file() and os.path.samestat(path.stat(), there):
                    raise CommandError(f"--failed-to: {path} is the input")
        return path.open("wb", buffering=0)
    except OSError as error:
        raise CommandError(f"--failed-to: {path}: {error.strerror}") from None
