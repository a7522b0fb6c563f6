"""``rstream consume``: the options, checked against each other before anything connects.

What they say becomes a ``ConsumePlan``; consuming.py carries it out.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli.commands.publish import Codec, positive_duration
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options import ConnectionSettings, check_reference, connection_options
from rstream_cli.parsing import OffsetKind, OffsetSpec, parse_delimiter, parse_offset, parse_until
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.consuming import StoreEvery
    from rstream_cli.rendering import Renderer

EXAMPLES = r"""
rstream consume events
rstream consume events -o first --until end > all.txt
rstream consume events -o -10 --until end --json
rstream consume events -o -1h --format '%o %I %s\n'
rstream consume events --name backup -o stored --store-every 10s >> backup.txt
"""

DEFAULT_STORE_EVERY = "5s"

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_WHERE = "Where to start and stop"
_OUTPUT = "Output"
_READING = "Reading"
_STATS = "Statistics"


class OutputFormat(enum.StrEnum):
    """The values of ``--output``."""

    LINES = "lines"
    NUL = "nul"
    LEN32 = "len32"
    JSON = "json"
    RAW = "raw"


def _limit(flag: str, help: str) -> Any:  # noqa: A002
    return typer.Option(
        flag, metavar="DURATION", parser=positive_duration, help=help, show_default=False, rich_help_panel=_WHERE
    )


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
def consume(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="The stream; RSTREAM_STREAM where it is not given.")
    ] = None,
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="first, last (the last chunk), next, stored (after the offset stored under --name; first where there"
            " is none), N, -N (the last N messages), or a time: -1h, 2026-11-23T10:00Z, @UNIX.",
            rich_help_panel=_WHERE,
        ),
    ] = "next",
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="SPEC",
            help="Stop after this: end (of the stream, when the command starts), an offset, or a time.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="Stop after N messages.", rich_help_panel=_WHERE),
    ] = None,
    idle_timeout: Annotated[
        float | None, _limit("--idle-timeout", "Stop after so long without a message; exit code 0.")
    ] = None,
    timeout: Annotated[float | None, _limit("--timeout", "Stop after so long; exit code 124.")] = None,
    output: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output",
            help="A body and a newline (the default) or a NUL, a body behind its length (32 bits, big endian), a line"
            " of JSON with everything, or the bodies with nothing between.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    nul: Annotated[bool, typer.Option("-0", help="As --output nul.", rich_help_panel=_OUTPUT)] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="As --output json.", rich_help_panel=_OUTPUT)] = False,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What to write behind each body: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="TEXT",
            help="Write this for each message: %s body, %S its size, %R the same in 4 bytes, %o offset, %T time in"
            r" milliseconds, %I time, %t stream, %h headers, %p properties, %%, \n and the other escapes.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    unbuffered: Annotated[
        bool,
        typer.Option("--unbuffered", help="Write message by message, not chunk by chunk.", rich_help_panel=_OUTPUT),
    ] = False,
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Unwrap AMQP 1.0 messages, or take what was stored as it is. A body that is an AMQP value is written"
            " as its bytes where it is a string or binary, else as JSON.",
            rich_help_panel=_OUTPUT,
        ),
    ] = Codec.AMQP,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Store the offset of the last message written out under this name, now and then and at the end.",
            rich_help_panel=_READING,
        ),
    ] = None,
    store_every: Annotated[
        str | None,
        typer.Option(
            "--store-every",
            metavar="N|DURATION",
            help="How often, with --name: after N messages, or after a time such as 5s (the default).",
            rich_help_panel=_READING,
        ),
    ] = None,
    credit: Annotated[
        int,
        typer.Option(
            "--credit",
            min=1,
            max=65535,
            metavar="N",
            help="Chunks that the broker may send ahead.",
            rich_help_panel=_READING,
        ),
    ] = 10,
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
        typer.Option(
            "--stats-interval",
            metavar="DURATION",
            parser=positive_duration,
            help="How often; a live display: 250ms.",
            show_default="1s",
            rich_help_panel=_STATS,
        ),
    ] = None,
    *,
    connection: ConnectionSettings,
) -> None:
    """Read a stream.

    Bodies go to standard output, byte for byte; everything else goes to standard error. Without --until, --count or a
    timeout it waits for more messages, until SIGINT or SIGTERM.

    --until takes the message at an offset, and the messages of a time, as the last ones.
    """
    env = connection.env
    target = connection.stream(stream)
    try:
        start = parse_offset(offset, env.now())
    except ValueError as error:
        raise CommandError(f"--offset: {error}") from None
    try:
        stop = None if until is None else parse_until(until, env.now())
    except ValueError as error:
        raise CommandError(f"--until: {error}") from None
    every = _store_every(store_every, name)
    _check_name(name, start)
    render = _renderer(output, template, delimiter, nul=nul, json_lines=json_lines, raw=codec is Codec.RAW)
    mode = choose_mode(
        stats,
        env,
        terminal_is_used=env.stdout_is_tty,
        quiet=connection.quiet,
        verbose=connection.verbosity > 0,
    )

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.consuming import ConsumePlan, ConsumeRun
        from rstream_cli.ending import run_displayed
        from rstream_cli.render.stats import ConsumeCounts, Stats

        plan = ConsumePlan(
            target,
            start,
            render,
            until=stop,
            count=count,
            idle_timeout=idle_timeout,
            timeout=timeout,
            name=name,
            store_every=every,
            credit=credit,
            unbuffered=unbuffered,
        )
        numbers = Stats("consume", target, ConsumeCounts())
        display = Display(
            mode,
            numbers,
            env,
            color=connection.color,
            interval=stats_interval,
            quiet=connection.quiet,
            summarise=stats is not StatsMode.NONE,
        )
        return await run_displayed(context, display, ConsumeRun(plan, context, numbers, display).work)

    run_command(main, connection=connection, graceful=True)


def _check_name(name: str | None, start: OffsetSpec) -> None:
    if name is not None:
        check_reference(name)
    elif start.kind is OffsetKind.STORED:
        raise CommandError("--offset stored needs --name", hint="the name under which the offset is stored")


def _store_every(text: str | None, name: str | None) -> StoreEvery:
    from rstream_cli.consuming import StoreEvery

    if text is not None and name is None:
        raise CommandError("--store-every needs --name", hint="the name under which to store offsets")
    given = DEFAULT_STORE_EVERY if text is None else text.strip()
    if given.isascii() and given.isdigit():
        if int(given) == 0:
            raise CommandError("--store-every: at least 1 message")
        return StoreEvery(messages=int(given))
    try:
        return StoreEvery(seconds=positive_duration(given))
    except ValueError as error:
        raise CommandError(f"--store-every: a number of messages, or a time: {error}") from None


def _renderer(
    output: OutputFormat | None,
    template: str | None,
    delimiter: str | None,
    *,
    nul: bool,
    json_lines: bool,
    raw: bool,
) -> Renderer:
    from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter
    from rstream_cli.records.template import Template
    from rstream_cli.rendering import bodies_renderer, json_renderer, template_renderer

    said: dict[str, Any] = {
        "-0": OutputFormat.NUL if nul else None,
        "--json": OutputFormat.JSON if json_lines else None,
        "--output": output,
        "--format": template,
        "--delimiter": None if delimiter is None else OutputFormat.LINES,
    }
    chosen = {flag: value for flag, value in said.items() if value is not None}
    if len(set(chosen.values())) > 1:
        raise CommandError(f"{' and '.join(chosen)} contradict each other")
    if template is not None:
        try:
            return template_renderer(Template(template), raw=raw)
        except ValueError as error:
            raise CommandError(f"--format: {error}") from None
    shape = next(iter(chosen.values()), OutputFormat.LINES)
    if shape is OutputFormat.JSON:
        return json_renderer(raw=raw)
    if shape is OutputFormat.LEN32:
        return bodies_renderer(Len32Writer(), raw=raw)
    if shape is OutputFormat.RAW:
        return bodies_renderer(RawWriter(), raw=raw)
    try:
        bound = b"\0" if shape is OutputFormat.NUL else parse_delimiter(r"\n" if delimiter is None else delimiter)
    except ValueError as error:
        raise CommandError(f"--delimiter: {error}") from None
    return bodies_renderer(DelimiterWriter(bound), raw=raw)
