"""``rstream doctor``: makes the steps of connecting, one after the other, and explains the first that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli import terminal
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import ExitStatus, status_of
from rstream_cli.names import check_stream_name
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.pretty_json import write_answer
from rstream_cli.render.columns import columns_of, wrapped
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.diagnosis import Finding

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    cls=Command,
    epilog="""
rstream doctor
rstream doctor --stream events --uri rabbitmq-stream+tls://app@rabbit-1 --ca-file ca.pem
rstream doctor --json | jq -r 'select(.status == "FAIL").hint'
""",
)
@connection_options
def doctor(
    stream: Annotated[
        str | None,
        typer.Option("--stream", metavar="STREAM", help="Also check the leader and the replicas of this stream."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Check the connection to a broker, step by step, and what may hold up its clients.

    The steps are: name lookup, connection, TLS, login, virtual host, version, round trip, the advertised address, and
    the leader and replicas of a stream. Each step prints one line: ok, skipped, or FAIL with a hint. Nothing is
    published.

    RabbitMQ's management API, where it can be asked (see --management-uri), tells of more: disk and memory alarms,
    nodes that are down, plugins that are off, and replicas of the stream that are offline. The user needs the tag
    monitoring. Where the API cannot be asked, these checks are skipped.

    The exit code is 0, or that of the first FAIL: 5 for login, virtual host or permission, 4 for a missing stream, 6
    for everything else.
    """
    target = None if stream is None else check_stream_name(stream)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.diagnosis import Diagnosis
        from rstream_cli.management.errors import ManagementUnavailable
        from rstream_cli.management_diagnosis import management_findings
        from rstream_core import RstreamError

        env = context.env
        with contextlib.suppress(ManagementUnavailable):
            connection.management_address()  # a wrong one is a usage error
        if connection.wait_for_broker:
            with contextlib.suppress(RstreamError):  # the steps tell what is wrong
                async with context.connected():
                    pass
        show = _text_lines(
            colored=env.use_color(connection.color, stdout=True),
            columns=columns_of(env, env.stdout) if env.stdout_is_tty else None,
        )
        status = ExitStatus.OK
        for source in (
            Diagnosis(context.options, target, env.now()).findings(),
            management_findings(connection, target),
        ):
            # Writing to stdout may fail: then the generator must be closed before the event loop.
            async with contextlib.aclosing(source) as findings:
                async for finding in findings:
                    if json:
                        write_answer(env, [_record(finding)], pretty, connection.color)
                    else:
                        env.stdout.write(show(finding))
                        env.stdout.flush()
                    if finding.error is not None:
                        status = status or status_of(finding.error)
        return status

    run_command(main, connection=connection)


def _record(finding: Finding) -> dict[str, str | None]:
    fields = ("node", "check", "status", "detail", "hint")
    return {field: getattr(finding, field) for field in fields}


def _text_lines(*, colored: bool, columns: int | None) -> Callable[[Finding], str]:
    """Returns what makes lines of a finding: for a terminal of so many columns, lines that break between words."""
    from rstream_cli.diagnosis import FAIL, OK, SKIPPED

    colors = {OK: "\x1b[32m", FAIL: "\x1b[1;31m", SKIPPED: "\x1b[2m"} if colored else {}

    indent = " " * 23

    def fitting(line: str) -> str:
        return (line if columns is None else wrapped(line, columns, indent)) + "\n"

    def lines(finding: Finding) -> str:
        status = f"{finding.status:<8}"
        text = fitting(f"{status} {finding.check:<12}  {terminal.line(finding.detail)}")
        if finding.hint is not None:
            text += fitting(f"{indent}hint: {terminal.line(finding.hint)}")
        color = colors.get(finding.status)
        return text if color is None else f"{color}{status}\x1b[0m{text.removeprefix(status)}"

    return lines
