"""What ``consume``, ``superstream consume`` and ``sac-consume`` have in common: their options, declared once, checked
against each other before anything connects.

What they say becomes a ``ConsumePlan``; consuming.py carries it out.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from rstream_cli.commands.publish import Codec, OnError, positive_duration
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options import ConnectionSettings, check_reference
from rstream_cli.parsing import (
    OffsetKind,
    OffsetSpec,
    UntilKind,
    UntilSpec,
    parse_delimiter,
    parse_offset,
    parse_path,
    parse_until,
)
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.runner import CommandContext, run_command

if TYPE_CHECKING:
    from rstream_cli.consuming import StoreEvery
    from rstream_cli.filtering import Filter
    from rstream_cli.rendering import Renderer
    from rstream_cli.terminal import Bodies

T = TypeVar("T")

DEFAULT_STORE_EVERY = "5s"

WHERE = "Where to start and stop"
READING = "Reading"
_OUTPUT = "Output"
_STATS = "Statistics"


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


def _limit(flag: str, help: str) -> Any:  # noqa: A002
    return typer.Option(
        flag, metavar="DURATION", parser=positive_duration, help=help, show_default=False, rich_help_panel=WHERE
    )


class Kind(enum.Enum):
    """What the argument is the name of."""

    STREAM = enum.auto()
    SUPER_STREAM = enum.auto()
    EITHER = enum.auto()
    """Found out by asking."""


@dataclass(frozen=True, kw_only=True)
class ConsumeOptions:
    """The options that all of them take; ``consume_options`` gives them to a command."""

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
        float | None, _limit("--idle-timeout", "Stop after so long without a message; exit code 0.")
    ] = None
    timeout: Annotated[float | None, _limit("--timeout", "Stop after so long; exit code 124.")] = None
    output: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output",
            help="A body and a newline (the default) or a NUL, a body behind its length (32 bits, big endian), a line"
            " of JSON with everything, or the bodies with nothing between. On a terminal, all but the last make control"
            " characters visible.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    nul: Annotated[bool, typer.Option("-0", help="As --output nul.", rich_help_panel=_OUTPUT)] = False
    json_lines: Annotated[bool, typer.Option("--json", help="As --output json.", rich_help_panel=_OUTPUT)] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            "-d",
            metavar="TEXT",
            help=r"What to write behind each body: one or more bytes, with the escapes \n \r \t \0 \\ \xNN.",
            rich_help_panel=_OUTPUT,
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
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    unbuffered: Annotated[
        bool,
        typer.Option("--unbuffered", help="Write message by message, not chunk by chunk.", rich_help_panel=_OUTPUT),
    ] = False
    codec: Annotated[
        Codec,
        typer.Option(
            "--codec",
            help="Unwrap AMQP 1.0 messages, or take what was stored as it is. A body that is an AMQP value is written"
            " as its bytes where it is a string or binary, else as JSON.",
            rich_help_panel=_OUTPUT,
        ),
    ] = Codec.AMQP
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="A message that cannot be shown, as it is not AMQP 1.0, ends the run (exit code 8), or is skipped and"
            " counted (3 at the end).",
            rich_help_panel=READING,
        ),
    ] = OnError.STOP
    on_gap: Annotated[
        OnGap,
        typer.Option(
            "--on-gap",
            help="Where retention took what was to be read (an offset, what follows a stored one or the last message):"
            " tell from which offset to which, or end there (exit code 9).",
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
        typer.Option(
            "--stats-interval",
            metavar="DURATION",
            parser=positive_duration,
            help="How often; a live display: 250ms.",
            show_default="1s",
            rich_help_panel=_STATS,
        ),
    ] = None


def consume_options(function: Callable[..., T]) -> Callable[..., T]:
    """Gives a command these options; it receives them as ``options: ConsumeOptions``.

    Its own come first in the help. To be put under ``@connection_options``.
    """
    own = inspect.signature(function, eval_str=True)
    shared = inspect.signature(ConsumeOptions, eval_str=True).parameters
    parameters = [p for name, p in own.parameters.items() if name not in ("options", "connection")]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]

    def command(**given: Any) -> T:
        options = ConsumeOptions(**{name: given.pop(name) for name in shared})
        return function(**given, options=options)

    command.__name__ = function.__name__
    command.__qualname__ = function.__qualname__
    command.__module__ = function.__module__
    command.__doc__ = function.__doc__
    signature = inspect.Signature([*parameters, *shared.values(), own.parameters["connection"]])
    command.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command


def run_consume(
    target: str,
    offset: str,
    name: str | None,
    options: ConsumeOptions,
    connection: ConnectionSettings,
    *,
    kind: Kind = Kind.STREAM,
    single_active: bool = False,
) -> NoReturn:
    """Checks the options, consumes, and ends the command."""
    env = connection.env
    try:
        start = parse_offset(offset, env.now())
    except ValueError as error:
        raise CommandError(f"--offset: {error}") from None
    try:
        stop = None if options.until is None else parse_until(options.until, env.now())
    except ValueError as error:
        raise CommandError(f"--until: {error}") from None
    _check_places(start, stop, kind, single_active=single_active)
    every = _store_every(options.store_every, name)
    _check_name(name, start)
    raw = options.codec is Codec.RAW
    chosen = _filter(options, raw=raw)
    render = _renderer(
        options.output,
        options.template,
        options.delimiter,
        nul=options.nul,
        json_lines=options.json_lines,
        raw=raw,
        shown=_bodies_on(env),
    )
    mode = choose_mode(
        options.stats,
        env,
        terminal_is_used=env.stdout_is_tty,
        quiet=connection.quiet,
        verbose=connection.verbosity > 0,
    )

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.consuming import ConsumePlan, ConsumeRun
        from rstream_cli.ending import run_displayed
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.render.stats import ConsumeCounts, Stats

        plan = ConsumePlan(
            target,
            start,
            render,
            kind=kind,
            until=stop,
            count=options.count,
            idle_timeout=options.idle_timeout,
            timeout=options.timeout,
            name=name,
            store_every=every,
            single_active=single_active,
            filter=chosen,
            credit=options.credit,
            unbuffered=options.unbuffered,
            skip_bad=options.on_error is OnError.SKIP,
            fail_on_gap=options.on_gap is OnGap.FAIL,
        )
        numbers = Stats("consume", target, ConsumeCounts())
        display = Display(
            mode,
            numbers,
            env,
            color=connection.color,
            interval=options.stats_interval,
            quiet=connection.quiet,
            summarise=options.stats is not StatsMode.NONE,
            gives_way=options.stats is StatsMode.AUTO,
        )
        command = "superstream consume" if kind is Kind.SUPER_STREAM else "consume"
        work = partial(telling_kinds_apart, context, command, target, ConsumeRun(plan, context, numbers, display).work)
        return await run_displayed(context, display, work)

    run_command(main, connection=connection, graceful=True)


def _filter(options: ConsumeOptions, *, raw: bool) -> Filter | None:
    values = tuple(options.filter_values or ())
    if not values:
        for said, flag in ((options.filter_from, "--filter-from"), (options.match_unfiltered, "--match-unfiltered")):
            if said:
                raise CommandError(f"{flag} needs --filter", hint="the filter value that is wanted; repeatable")
        return None
    from rstream_cli.filtering import Filter

    try:
        path = None if options.filter_from is None else parse_path(options.filter_from)
    except ValueError as error:
        raise CommandError(f"--filter-from: {error}") from None
    return Filter(values, options.match_unfiltered, path, raw)


def _check_places(start: OffsetSpec, stop: UntilSpec | None, kind: Kind, *, single_active: bool) -> None:
    if single_active and stop is not None and stop.kind is not UntilKind.END:
        raise CommandError("--until takes nothing but end here", hint="a group is done where its stored offsets are")
    if kind is not Kind.SUPER_STREAM:
        return
    absolute = [
        flag
        for flag, is_absolute in (
            ("--offset", start.kind is OffsetKind.ABSOLUTE),
            ("--until", stop is not None and stop.kind is UntilKind.ABSOLUTE),
        )
        if is_absolute
    ]
    if absolute:
        raise CommandError(
            f"{absolute[0]}: a number is an offset of one partition, not of a super stream",
            hint="read the partition with `rstream consume`, or give first, last, next, stored, -N, end or a time",
        )


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


def _bodies_on(env: Environment) -> Bodies | None:
    """How bodies are shown where a person reads them; None where a program does, which gets the bytes."""
    if not env.stdout_is_tty:
        return None
    from rstream_cli.terminal import Bodies

    return Bodies(env.stdout.encoding or "utf-8")


def _renderer(
    output: OutputFormat | None,
    template: str | None,
    delimiter: str | None,
    *,
    nul: bool,
    json_lines: bool,
    raw: bool,
    shown: Bodies | None,
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
            return template_renderer(Template(template, shown), raw=raw)
        except ValueError as error:
            raise CommandError(f"--format: {error}") from None
    shape = next(iter(chosen.values()), OutputFormat.LINES)
    if shape is OutputFormat.JSON:
        return json_renderer(raw=raw, shown=shown)
    if shape is OutputFormat.LEN32:
        return bodies_renderer(Len32Writer(), raw=raw, shown=shown, framing_too=True)
    if shape is OutputFormat.RAW:
        return bodies_renderer(RawWriter(), raw=raw)
    try:
        bound = b"\0" if shape is OutputFormat.NUL else parse_delimiter(r"\n" if delimiter is None else delimiter)
    except ValueError as error:
        raise CommandError(f"--delimiter: {error}") from None
    return bodies_renderer(DelimiterWriter(bound), raw=raw, shown=shown, framing_too=shape is OutputFormat.NUL)
