"""``rstream diff``: what two streams differ in."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import check_stream_name
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.other_side import OtherSideOptions, other_side
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.parsing import Start, StartKind, parse_offset
from rstream_cli.pretty_json import layout_for
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

EXAMPLES = """
rstream diff events events-copy
rstream diff events --to-context prod
rstream diff orders orders-copy --ignore annotations,header --json
rstream diff events restored --offset 500 --to-offset first
rstream diff events events-copy --to-uri rabbitmq-stream://app@rabbit-2/other --to-password-file ~/.secret
"""
READING = "Reading"
DEFAULT_LIMIT = 100
_BEGINNINGS = (StartKind.FIRST, StartKind.ABSOLUTE, StartKind.LAST_N, StartKind.TIMESTAMP)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command, epilog=EXAMPLES)
@connection_options
@shared_options("showing", ShowingOptions)
@shared_options("other", OtherSideOptions)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The first stream, or super stream.", show_default=False)],
    b: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="The second one (with --to-context or --to-uri, default: the same name)."),
    ] = None,
    *,
    offset: Annotated[
        str | None,
        typer.Option(
            "--offset",
            "-o",
            metavar="SPEC",
            help="Where to start on both sides: first (the default), N (an offset), -N (the last N messages), or a"
            " time: -1h, 2026-11-23T10:00Z, @UNIX.",
            rich_help_panel=READING,
        ),
    ] = None,
    to_offset: Annotated[
        str | None,
        typer.Option(
            "--to-offset",
            metavar="SPEC",
            help="Where to start in B, if that is elsewhere (default: as --offset).",
            rich_help_panel=READING,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="SECTION,...",
            help="Leave these sections out of the comparison: header, delivery_annotations, annotations, properties,"
            " headers (application properties), body, footer.",
            rich_help_panel=READING,
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            "--window",
            min=1,
            max=10_000,
            metavar="N",
            help="Recognise what is missing, doubled or moved within N messages.",
            rich_help_panel=READING,
        ),
    ] = 1000,
    credit: Annotated[
        int,
        typer.Option(
            "--credit",
            min=1,
            max=65535,
            metavar="N",
            help="Let the broker send this many chunks ahead, on each side.",
            rich_help_panel=READING,
        ),
    ] = 10,
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, metavar="N", help="Print N differences at most. All of them are counted."),
    ] = DEFAULT_LIMIT,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line: each difference, and a summary as the last one."),
    ] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    other: OtherSideOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> None:
    """Compare two streams, message by message.

    Both are read up to the ends that they have at the start. Each line of the output is a difference: a message that is
    changed, with its values; messages that one side does not have (missing); that it has once more (doubled); or in
    another place (moved). The numbers are offsets in A and in B. The summary goes to stderr. The exit code is 0 where
    both are the same, and 10 where they differ.

    Messages are compared by their order, not by their offsets, and as bytes. Chunks, sub-entries and their compression,
    timestamps and filter values make no difference. Two super streams are compared partition by partition, in the
    broker's order.

    What comes after the start is not judged, so a stream is equal to itself while it grows. Where one side lacks more
    messages at once than --window, the two do not get into step again, and all the rest is changed.
    """
    check_stream_name(a)
    side = other_side(connection, other)
    if b is None and side is None:
        raise CommandError("no second stream is given", hint="pass A and B, or A with --to-context or --to-uri")
    b = a if b is None else check_stream_name(b)
    a_start = _start("--offset", offset, connection)
    b_start = a_start if to_offset is None else _start("--to-offset", to_offset, connection)
    ignored = _ignored(ignore)
    layout = layout_for(connection.env, pretty, connection.color)
    mode = showing.mode(connection, terminal_is_used=False)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.diff_run import DiffPlan, DiffRun
        from rstream_cli.displayed_run import run_displayed
        from rstream_cli.render.stats import ComparisonCounts, Stats

        plan = DiffPlan(
            a,
            b,
            side,
            a_start,
            b_start,
            is_start_given=offset is not None or to_offset is not None,
            ignored=ignored,
            window=window,
            limit=limit,
            as_json=json,
            layout=layout,
            credit=credit,
        )
        stats = Stats("diff", f"{a} and {b}", ComparisonCounts())
        display = showing.display(mode, stats, connection)
        run = DiffRun(plan, context, stats, display)
        return await run_displayed(context, display, run.work, always_sums_up=not json)

    run_command(main, connection=connection, other=side, graceful=True)


def _start(flag: str, text: str | None, connection: ConnectionSettings) -> Start:
    try:
        start = parse_offset(text or "first", connection.env.now())
    except ValueError as error:
        raise CommandError(f"{flag}: {error}") from None
    if start.kind not in _BEGINNINGS:
        raise CommandError(
            f"{flag}: {text} is no place where two streams can be compared", hint="give first, N, -N or a time"
        )
    return start


def _ignored(texts: list[str] | None) -> list[str]:
    from rstream_cli.diff_report import sections_of

    try:
        return sections_of(texts)
    except ValueError as error:
        raise CommandError(f"--ignore: {error}") from None
