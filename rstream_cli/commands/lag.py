"""``rstream lag``: how far consumers are behind, in messages and in time."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli import terminal
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.hints import saying_why
from rstream_cli.names import check_reference
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.lag_survey import LagSurvey
    from rstream_cli.lags import Lags, Limit, Total
    from rstream_cli.management.answers import ListedConsumer

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NOT_BY_THE_PROTOCOL = (
    "the stream protocol cannot list names of offsets, so RabbitMQ's management API is asked; with --name REF it is not"
    " needed"
)
_MOST_TOLD = 3
"""Names over the limit, or consumers without a stored offset, that a line tells of."""


class LagOutput(enum.StrEnum):
    """The values of ``--output``."""

    TABLE = "table"
    JSON = "json"


@app.command(
    cls=Command,
    epilog="""
rstream lag events
rstream lag orders --name billing --name audit
rstream lag events --name billing --fail-over 5m
rstream lag orders --json | jq -r 'select(.lag_seconds > 60).name'
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
        LagOutput | None, typer.Option("--output", help="Print a table, the default, or one JSON object a line.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line: same as --output json.")] = False,
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

    With --name, only the stream protocol is used. Without it, RabbitMQ's management API tells the names, which needs
    the plugin rabbitmq_stream_management; if the API cannot be reached, the exit code is 6. Without TLS, the API is
    asked only on this machine.
    """
    target = connection.stream(stream)
    names = list(dict.fromkeys(map(check_reference, name or ())))
    limit = _limit(fail_over)
    form = _output(output, json=json)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.lag_survey import check_names

        async with _survey(context, target, names) as survey:
            lags = await survey.refresh()
            check_names(lags, names)
            _show(context, lags, form)
            if not lags.known and not lags.unknown:
                connection.tell(f"no offset is stored in {target!r}")
            if context.env.stderr_is_tty and form is LagOutput.TABLE:
                _tell_of_others(await survey.others(lags), connection)
        _check(lags, limit)
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


def _output(output: LagOutput | None, *, json: bool) -> LagOutput:
    if json and output not in (None, LagOutput.JSON):
        raise CommandError(f"--json and --output {output} contradict each other")
    return LagOutput.JSON if json else output or LagOutput.TABLE


@asynccontextmanager
async def _survey(context: CommandContext, target: str, names: Sequence[str]) -> AsyncGenerator[LagSurvey, None]:
    """What asks the broker and, without names, the management API."""
    from rstream_cli.lag_survey import LagSurvey

    if names:
        async with context.connected() as client:
            yield LagSurvey(client, target, names, None, context.env.now)
        return
    with saying_why(NOT_BY_THE_PROTOCOL), context.connection.management() as api:
        async with context.connected() as client:
            yield LagSurvey(client, target, names, api, context.env.now)


def _tell_of_others(others: Sequence[ListedConsumer], connection: ConnectionSettings) -> None:
    """Tells a person of consumers that store no offset, of which the broker alone knows how far they have been sent."""
    if not others:
        return
    from rstream_cli.render import words

    told = []
    for one in others[:_MOST_TOLD]:
        where = f"{repr(one.name) if one.name else 'one without a name'} in {one.stream!r}"
        told.append(where if one.lag is None else f"{where} (sent all but about {words.messages(one.lag)})")
    more = f"; and {words.count(len(others) - _MOST_TOLD)} more" if len(others) > _MOST_TOLD else ""
    connection.tell(f"reading without a stored offset: {'; '.join(told)}{more}")


def _show(context: CommandContext, lags: Lags, form: LagOutput) -> None:
    from rstream_cli.render.lag_table import records, table

    env = context.env
    if form is LagOutput.JSON:
        terminal.write_json(env.stdout, "".join(map(terminal.json_line, records(lags))), is_tty=env.stdout_is_tty)
    else:
        env.stdout.write(table(lags))
    env.stdout.flush()


def _check(lags: Lags, limit: Limit | None) -> None:
    """Raises an error where a name is over the limit; else, where that cannot be known, the reason."""
    if limit is not None:
        found = [(total, limit.is_passed(total, each)) for total, each in lags.by_name()]
        over = [total for total, is_over in found if is_over]
        if over:
            raise _failed(over, lags.target, len(found))
        unread = next((total for total, is_over in found if is_over is None), None)
        if unread is not None:
            raise CommandError(
                f"how old the next message for {unread.name!r} in {lags.target!r} is could not be read",
                status=ExitStatus.CONNECTION,
            )
        if not found and not lags.unknown:
            raise CommandError(
                f"no offset is stored in {lags.target!r}, so there is no lag to check", status=ExitStatus.NOT_FOUND
            )
    if lags.unknown:
        raise lags.unknown[0].error


def _failed(over: Sequence[Total], target: str, checked: int) -> CommandError:
    from rstream_cli.render import words

    told = "; ".join(map(_told, over[:_MOST_TOLD]))
    more = f"; and {words.count(len(over) - _MOST_TOLD)} more" if len(over) > _MOST_TOLD else ""
    return CommandError(
        f"{words.count(len(over))} of {words.count(checked)} over --fail-over in {target!r}: {told}{more}",
        status=ExitStatus.CHECK_FAILED,
    )


def _told(total: Total) -> str:
    from rstream_cli.render import words
    from rstream_cli.render.lag_table import behind

    text = f"{total.name!r} is {words.messages(total.messages)} ({behind(total.seconds)}) behind"
    return f"{text}, and retention took {words.count(total.gone)} more" if total.gone else text
