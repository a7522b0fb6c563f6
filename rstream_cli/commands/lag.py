"""``rstream lag``: how far consumers are behind, in messages and in time."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.hints import saying_why
from rstream_cli.names import check_reference
from rstream_cli.options.answering import Pretty
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
LISTEN_INTERVAL = 5.0
"""Seconds for which the scrapes of ``--listen`` get the same lags."""
KEPT_BEYOND = 90.0
"""Seconds for which connections are kept beyond the interval: scrapes mostly come each minute, or more often."""
SCRAPE_RECOVERY = 5.0
"""Seconds in which a refresh for a scrape tries again after a lost connection."""
LOOPBACK = "127.0.0.1"
"""The host of ``--listen`` where none is given."""


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
rstream lag orders --listen 9510
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
    pretty: Pretty = PrettyChoice.AUTO,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C, or until a name is over --fail-over.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="[HOST:]PORT",
            help="Serve metrics for Prometheus at http://HOST:PORT/metrics, until Ctrl-C. Without HOST, only this"
            " machine can reach them. With port 0, any free port is used.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        duration(
            "--interval",
            "2s, with --listen 5s",
            "With --watch, ask this often; with --listen, no more often than this.",
            panel="Options",
        ),
    ] = None,
    connection: ConnectionSettings,
) -> None:
    """Show how far consumers are behind, in messages and in time.

    For each name under which an offset is stored: that offset, the last one of the stream, how many messages lie
    behind the stored one, and how old the first of them is. Those furthest behind come first. `gone` counts the offsets
    that retention took before they were read. Of a super stream, each partition has a line, and each name a total.

    Messages are counted by their offsets. The broker's own records take some, such as each stored offset, so a lag may
    be a little too large. A name that has read everything is 0 behind. Where a name has no stored offset in a
    partition, everything counts that is there. Consumers that store no offset are not seen.

    --fail-over makes a check of it: the exit code is 10 where a name is over the limit, or where retention took
    offsets that it had not read. Where a stream cannot be asked, and no name is over in the others, it is 6. For a
    name that is stored nowhere it is 4.

    --watch draws the table again and again on a terminal. Elsewhere it prints one table after the other, each below its
    time; with --json, an object a line for each time, with all lags in it.

    --listen prints the address where the metrics are, and asks when they are scraped. A scrape fails with status 503
    where nothing could be asked; the program ends for that only at the start. There is no login and no TLS.

    With --name, only the stream protocol is used. Without it, RabbitMQ's management API tells the names, which needs
    the plugin rabbitmq_stream_management; if the API cannot be reached, the exit code is 6. Without TLS, the API is
    asked only on this machine.
    """
    target = connection.stream(stream)
    names = list(dict.fromkeys(map(check_reference, name or ())))
    limit = _limit(fail_over)
    form = _output(output, json=json, watch=watch)
    address = None if listen is None else _address(listen)
    if address is not None:
        _check_alone(watch=watch, fail_over=fail_over, output=output, json=json)
    if interval is not None and not watch and address is None:
        raise CommandError("--interval needs --watch or --listen")
    seconds = interval or (WATCH_INTERVAL if watch else LISTEN_INTERVAL)
    goes_on = watch or address is not None

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli import lag_run
        from rstream_cli.lag_survey import check_names
        from rstream_core.errors import RstreamError

        env = context.env
        async with _survey(context, target, names, seconds if goes_on else None, watch=watch) as survey:
            if watch:
                view = lag_run.view_for(env, form, seconds, pretty, connection.color)
                patience = 0.0 if connection.recovery is None else connection.recovery.seconds
                await lag_run.watch(survey, view, names, seconds, limit, patience)
            lags = await survey.refresh()
            check_names(lags, names)
            if address is not None:
                await _serve(survey, address, seconds, connection)
            lag_run.show(lags, env, form, pretty, connection.color)
            if not lags.known and not lags.unknown:
                connection.tell(f"no offset is stored in {target!r}")
            if env.stderr_is_tty and form is LagOutput.TABLE:
                with suppress(RstreamError):  # what is only told of decides nothing
                    if others := await survey.others(lags):
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


def _address(text: str) -> tuple[str, int]:
    """The host and the port of ``--listen``."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535 or (":" in host and bare == host):
        raise CommandError(
            f"--listen: not an address: {text!r}; give PORT or HOST:PORT", hint="an IPv6 address is in brackets"
        )
    return bare or LOOPBACK, int(port)


def _check_alone(*, watch: bool, fail_over: str | None, output: LagOutput | None, json: bool) -> None:
    """Raises an error for an option that --listen has no use for."""
    given = {
        "--watch": watch,
        "--fail-over": fail_over is not None,
        "--json": json,
        f"--output {output}": output not in (None, LagOutput.PROMETHEUS),
    }
    for flag, is_given in given.items():
        if is_given:
            raise CommandError(f"--listen and {flag} contradict each other")


async def _serve(
    survey: LagSurvey, address: tuple[str, int], interval: float, connection: ConnectionSettings
) -> NoReturn:
    from rstream_cli.lag_exporter import LagExporter, serve

    def tell(url: str) -> None:
        connection.env.stdout.write(f"{url}\n")
        connection.env.stdout.flush()

    await serve(LagExporter(survey.refresh, interval, connection.warn), *address, tell)


@asynccontextmanager
async def _survey(
    context: CommandContext, target: str, names: Sequence[str], interval: float | None, *, watch: bool
) -> AsyncGenerator[LagSurvey, None]:
    """What asks the broker and, without names, the management API. ``interval``: seconds between refreshes, if any.

    A scrape must not wait as long as --recover-for allows: it learns of an outage, and the next one tries again.
    """
    from rstream_cli.lag_survey import LagSurvey

    client = context.client(
        on_gap=lambda gap: None,
        idle_timeout=0.0 if interval is None else interval + KEPT_BEYOND,
        recover_at_most=None if interval is None or watch else SCRAPE_RECOVERY,
    )
    async with client:
        if names:
            await context.connect(client)
            yield LagSurvey(client, target, names, None, context.env.now)
            return
        with saying_why(NOT_BY_THE_PROTOCOL), context.connection.management() as api:
            await context.connect(client)
            yield LagSurvey(client, target, names, api, context.env.now)
