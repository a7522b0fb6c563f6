"""Turns the options of ``consume``, ``superstream consume`` and ``sac-consume`` into a ``ConsumePlan``.

The options are checked against each other before the program connects. consume_run.py carries the plan out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from rstream_cli.dump_options import check_dump_options, check_no_dump_options, dump_target
from rstream_cli.ended import NOTHING_TO_READ, UNTIL_REACHED, Ended
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.mistakes import looks_like_offset, offset_hint
from rstream_cli.names import Kind, check_reference
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.consuming import ConsumeOptions, OnGap, OutputFormat
from rstream_cli.options.messages import Codec, OnError
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.parsing import (
    Start,
    StartKind,
    Until,
    UntilKind,
    is_before,
    parse_offset,
    parse_pace,
    parse_until,
    positive_duration,
)
from rstream_cli.render.display import Display, Severity
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.selecting import broker_filter, choosers_of

if TYPE_CHECKING:
    from rstream_cli.rendering import Renderer
    from rstream_cli.terminal import Bodies
    from rstream_core.flow.stores import StoreEvery

DEFAULT_STORE_EVERY = "5s"


def run_consume(
    target: str,
    given_offset: str | None,
    until: str | None,
    name: str | None,
    options: ConsumeOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
    *,
    more: Sequence[str] = (),
    kind: Kind = Kind.STREAM,
    single_active: bool = False,
    pace: str | None = None,
) -> NoReturn:
    """Checks the options and consumes. ``given_offset``: None where the user has not said where to start. ``more``:
    streams beside the target. Raises ``typer.Exit`` at the end."""
    env = connection.env
    is_dump = options.output is OutputFormat.DUMP
    offset = given_offset or ("first" if is_dump else "next")
    for stream in more:
        if looks_like_offset(stream):  # a stream of such a name can be read alone, or named first
            raise CommandError(f"got unexpected extra argument(s) ({stream})", hint=offset_hint(stream))
    numbers = kind is not Kind.SUPER_STREAM and not more
    try:
        start = parse_offset(offset, env.now(), numbers=numbers)
    except ValueError as error:
        raise CommandError(f"--offset: {error}") from None
    if single_active and until is not None and until.strip().lower() != "end":
        raise CommandError(
            "--until takes only end here",
            hint="a group stops at its stored offsets; `rstream consume` stops at an offset or a time",
        )
    try:
        stop = None if until is None else parse_until(until, env.now(), numbers=numbers)
    except ValueError as error:
        raise CommandError(f"--until: {error}") from None
    if not numbers:
        _check_places(start, stop, kind)
    speed = _pace(pace, more)
    every = _store_every(options.store_every, name)
    _check_name(name, start)
    raw = options.codec is Codec.RAW
    filtered = broker_filter(options)
    selects = choosers_of(options, raw=raw)
    if is_dump:
        check_dump_options(options, name, more=more, single_active=single_active)
    else:
        check_no_dump_options(options)
    dump = dump_target(options, given_offset, connection) if is_dump else None
    render = _renderer(options, connection, raw=raw) if dump is None else dump
    mode = showing.mode(connection, terminal_is_used=env.stdout_is_tty)
    is_selective = filtered is not None or bool(selects) or options.count == 0

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.consume_plan import ConsumePlan
        from rstream_cli.consume_run import ConsumeRun
        from rstream_cli.displayed_run import run_displayed
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.render.stats import ConsumeCounts, Stats

        plan = ConsumePlan(
            target,
            start,
            render,
            more=more,
            kind=kind,
            until=stop,
            count=options.count,
            idle_timeout=options.idle_timeout,
            timeout=options.timeout,
            name=name,
            store_every=every,
            single_active=single_active,
            filter=filtered,
            selects=selects,
            credit=options.credit,
            unbuffered=options.unbuffered,
            skip_bad=options.on_error is OnError.SKIP,
            raw=raw,
            pace=speed,
            fail_on_gap=options.on_gap is OnGap.FAIL,
            dump=dump,
        )
        counts = ConsumeCounts()
        shown = ", ".join([target, *more])
        streams = (target, *more) if more else ()
        stats = Stats("consume", shown, counts, streams=streams)
        display = showing.display(mode, stats, connection)
        render.on_ambiguous = partial(_tell_ambiguous, display)
        command = "superstream consume" if kind is Kind.SUPER_STREAM else "consume"
        run = partial(
            telling_kinds_apart, context, command, [target, *more], ConsumeRun(plan, context, stats, display).work
        )

        async def work() -> Ended:
            """Says so if nothing is read since the end lies before the start."""
            before = stop is not None and not single_active and is_before(stop, start, env.now())
            why = "--until is before --offset"
            if stop is not None and stop.kind is UntilKind.END:
                why = "--offset is in the future"
            tell = partial(_tell_until_before, display, streams or target, offset, until, why)
            if before:
                tell()
            ended = await run()
            is_done = ended.error is None and ended.reason in (UNTIL_REACHED, NOTHING_TO_READ)
            if before is None and is_done and not (counts.consumed or counts.bad or counts.gone or is_selective):
                tell()
            return ended

        return await run_displayed(context, display, work)

    try:
        run_command(main, connection=connection, graceful=True)
    finally:
        if dump is not None:
            dump.close()


def _tell_until_before(display: Display, stream: str | Sequence[str], offset: str, until: str | None, why: str) -> None:
    line = f"no message lies between --offset {offset} and --until {until}: {why}"
    display.event("until_before_offset", line, Severity.WARNING, stream=stream, offset=offset, until=until)


def _tell_ambiguous(display: Display, stream: str) -> None:
    line = (
        f"a message of stream {stream!r} contains the delimiter, and looks like several records; --json, --output len32"
        " or another --delimiter keeps records apart"
    )
    display.event("ambiguous", line, Severity.WARNING, stream=stream)


_NO_NUMBERS = {"--offset": "first, last, next, stored, -N or a time", "--until": "end or a time"}
"""What these take for several streams."""


def _check_places(start: Start, stop: Until | None, kind: Kind) -> None:
    """Refuses numbers, which are offsets of one of several streams."""
    absolute = [
        flag
        for flag, is_absolute in (
            ("--offset", start.kind is StartKind.ABSOLUTE),
            ("--until", stop is not None and stop.kind is UntilKind.ABSOLUTE),
        )
        if is_absolute
    ]
    if absolute:
        whose, alone = "stream, not of several", "read that stream alone"
        if kind is Kind.SUPER_STREAM:
            whose, alone = "partition, not of a super stream", "read the partition with `rstream consume`"
        raise CommandError(
            f"{absolute[0]}: a number is an offset of one {whose}",
            hint=f"{alone}, or give {_NO_NUMBERS[absolute[0]]}",
        )


def _pace(text: str | None, more: Sequence[str]) -> float | None:
    if text is None:
        return None
    if more:
        raise CommandError(
            "--pace takes one stream: the messages of several do not come in the order of their times",
            hint="read each stream with a command of its own",
        )
    try:
        return parse_pace(text)
    except ValueError as error:
        raise CommandError(f"--pace: {error}") from None


def _check_name(name: str | None, start: Start) -> None:
    if name is not None:
        check_reference(name)
    elif start.kind is StartKind.STORED:
        raise CommandError("--offset stored needs --name", hint="pass --name REF")


def _store_every(text: str | None, name: str | None) -> StoreEvery:
    from rstream_core.flow.stores import StoreEvery

    if text is not None and name is None:
        raise CommandError("--store-every needs --name", hint="pass --name REF")
    if name is None:
        return StoreEvery()
    given = DEFAULT_STORE_EVERY if text is None else text.strip()
    if given.isascii() and given.isdigit():
        if int(given) == 0:
            raise CommandError("--store-every: must be at least 1 message")
        return StoreEvery(messages=int(given))
    try:
        return StoreEvery(seconds=positive_duration(given))
    except ValueError as error:
        raise CommandError(f"--store-every: must be a number of messages or a duration: {error}") from None


def _bodies_on(env: Environment) -> Bodies | None:
    """Returns how bodies are made readable if stdout is a terminal; otherwise None: programs get the bytes."""
    if not env.stdout_is_tty:
        return None
    from rstream_cli.terminal import Bodies

    return Bodies(env.stdout.encoding or "utf-8")


def _renderer(options: ConsumeOptions, connection: ConnectionSettings, *, raw: bool) -> Renderer:
    from rstream_cli.outputs import Shown, renderer_of
    from rstream_cli.pretty_json import layout_for

    env = connection.env
    shown = Shown(_bodies_on(env), layout_for(env, options.pretty, connection.color))
    return renderer_of(options, raw=raw, shown=shown)
