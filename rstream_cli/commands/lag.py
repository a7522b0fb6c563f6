"""``rstream lag``: how far consumers are behind, in messages and in time."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.hints import saying_why
from rstream_cli.names import check_reference
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import duration
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.lag_survey import LagSurvey
    from rstream_cli.lags import Limit

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NOT_BY_THE_PROTOCOL = (
    "the stream protocol cannot list names of offsets, so RabbitMQ's management API is asked; with --name REF it is not"
    " needed"
)
WATCH_INTERVAL = 2.0
"""Seconds between two refreshes of ``--watch``."""
KEPT_BEYOND = 10.0
"""Seconds for which connections are kept beyond the next refresh."""


class LagOutput(enum.StrEnum):
    """The values of ``--output``."""

    TABLE = "table"
    JSON = "json"
    PROMETHEUS = "prometheus"


@app.command(
    cls=Command,
    epilog="""
rstream lag events
rstream lag orders --name billing --watch
rstream lag events --name billing --fail-over 5m
rstream lag orders --json | jq -r 'select(.lag_seconds > 60).name'
rstream lag orders --output prometheus > /var/lib/node_exporter/orders.prom
""",
)
@connection_options
def lag(
    stream: Annotated[
        str | None,
        typer.Argument(
            metavar="STREAM", help="The stream, or a super stream: all its partitions (default: RSTREAM_STREAM)."
        ),
    ] = None,
    *,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="REF",
            help="Show the consumers that store offsets under this name; may be repeated. Without it, all names are"
            " shown that the management API knows.",
        ),
    ] = None,
    fail_over: Annotated[
        str | None,
        typer.Option(
            "--fail-over",
            metavar="N|DURATION",
            help="Fail where a name has more than N messages left to read, in all partitions together, or where the"
            " first of them is older than DURATION (90s, 5m). The exit code is 10.",
        ),
    ] = None,
    output: Annotated[
        LagOutput | None,
        typer.Option(
            "--output", help="Print a table, the default, one JSON object a line, or metrics as Prometheus reads them."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line: same as --output json.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C, or until a name is over --fail-over.")
    ] = False,
    interval: Annotated[
        float | None, duration("--interval", "2s", "With --watch, ask this often.", panel="Options")
    ] = None,
    connection: ConnectionSettings,
) -> None:
    """Show how far consumers are behind, in messages and in time.

    For each name under which an offset is stored: that offset, the last one of the stream, how many messages lie
    behind the stored one, and how old the first of them is. Those furthest behind come first. `gone` counts what
    retention took before it was read. Of a super stream, each partition has a line, and each name a total.

    Messages are counted by their offsets. The broker's own records take some, such as each stored offset, so a lag may
    be a little too large. A name that has read everything is 0 behind. Where a name has no stored offset in a
    partition, everything counts that is there. Consumers that store no offset are not seen.

    --fail-over makes a check of it: the exit code is 10 where a name is over the limit, or where retention took
    messages that it had not read. Where a stream cannot be asked, and no name is over in the others, it is 6. For a
    name that is stored nowhere it is 4.

    --watch draws the table again and again on a terminal. Elsewhere it prints one table after the other, each below its
    time; with --json, an object a line for each time, with all lags in it.

    With --name, only the stream protocol is used. Without it, RabbitMQ's management API tells the names, which needs
    the plugin rabbitmq_stream_management; if the API cannot be reached, the exit code is 6. Without TLS, the API is
    asked only on this machine.
    """
    target = connection.stream(stream)
    names = list(dict.fromkeys(map(check_reference, name or ())))
    limit = _limit(fail_over)
    form = _output(output, json=json, watch=watch)
    if interval is not None and not watch:
        raise CommandError("--interval needs --watch")
    seconds = interval or WATCH_INTERVAL

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli import lag_run
        from rstream_cli.lag_survey import check_names

        env = context.env
        async with _survey(context, target, names, seconds if watch else 0.0) as survey:
            if watch:
                color = env.use_color(connection.color, stdout=True)
                view = lag_run.view_for(env, form, seconds, color=color)
                await lag_run.watch(survey, view, names, seconds, limit)
            lags = await survey.refresh()
            check_names(lags, names)
            lag_run.show(lags, env, form)
            if not lags.known and not lags.unknown:
                connection.tell(f"no offset is stored in {target!r}")
            if env.stderr_is_tty and form is LagOutput.TABLE:
                others = await survey.others(lags)
                if others:
                    connection.tell(lag_run.told_of_others(others))
        lag_run.check_all(lags, limit)
        return ExitStatus.OK

    run_command(main, connection=connection)


def _limit(text: str | None) -> Limit | None:
    if text is None:
        return None
    from rstream_cli.lags import parse_limit

    try:
        return parse_limit(text)
    except ValueError as error:
        raise CommandError(f"--fail-over: {error}") from None


def _output(output: LagOutput | None, *, json: bool, watch: bool) -> LagOutput:
    if json and output not in (None, LagOutput.JSON):
        raise CommandError(f"--json and --output {output} contradict each other")
    if watch and output is LagOutput.PROMETHEUS:
        raise CommandError("--watch and --output prometheus contradict each other")
    return LagOutput.JSON if json else output or LagOutput.TABLE


@asynccontextmanager
async def _survey(
    context: CommandContext, target: str, names: Sequence[str], interval: float
) -> AsyncGenerator[LagSurvey, None]:
    """What asks the broker and, without names, the management API. ``interval``: 0, or seconds between refreshes."""
    from rstream_cli.lag_survey import LagSurvey

    async with context.client(on_gap=lambda gap: None, idle_timeout=interval + KEPT_BEYOND) as client:
        if names:
            await context.connect(client)
            yield LagSurvey(client, target, names, None, context.env.now)
            return
        with saying_why(NOT_BY_THE_PROTOCOL), context.connection.management() as api:
            await context.connect(client)
            yield LagSurvey(client, target, names, api, context.env.now)
