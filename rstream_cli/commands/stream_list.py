"""``rstream stream list``: the streams of a virtual host, by the management API."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli import terminal
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import ExitStatus
from rstream_cli.hints import saying_why
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_cli.management.answers import ListedStream

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NOT_BY_THE_PROTOCOL = "the stream protocol cannot list streams, so RabbitMQ's management API is asked"


@app.command(
    "list",
    cls=Command,
    epilog="""
rstream stream list
rstream stream list --pattern 'orders-*'
rstream stream list --json | jq -r 'select(.messages > 1000000).stream'
rstream stream list --uri rabbitmq-stream+tls://app@rabbit-1 --management-uri https://rabbit-1:15671
""",
)
@connection_options
def list_(
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            metavar="GLOB",
            help="List only streams whose whole name matches: * stands for any characters, ? for one, [ab] for one of"
            " these.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for each stream.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """List the streams of a virtual host.

    The partitions of super streams are among them. On a terminal, each line shows the messages, the replicas that are
    online, what limits the stream, and the policy; elsewhere it holds the name alone. The number of messages is an
    estimate that is some seconds old. A line break or another control character in a name is escaped, and so is a
    backslash; --json has the names as they are.

    The stream protocol cannot list streams. So this command asks RabbitMQ's management API, which needs the plugin
    rabbitmq_management; if the API cannot be reached, the exit code is 6. The user needs the tag management. Without
    TLS, the API is asked only on this machine.
    """

    async def main(context: CommandContext) -> ExitStatus:
        env = context.env
        with saying_why(NOT_BY_THE_PROTOCOL), connection.management() as api:
            found = await api.streams()
        listed = [stream for stream in found if pattern is None or fnmatchcase(stream.name, pattern)]
        if json:
            write_answer(env, map(_record, listed), pretty, connection.color)
        elif env.stdout_is_tty:
            env.stdout.write(_table(listed))
        else:  # whoever answers chooses the names, and a line break in one would be taken for the end of the line
            env.stdout.write("".join(f"{terminal.name(stream.name)}\n" for stream in listed))
        if not listed:
            vhost = context.options.vhost
            connection.tell(f"no stream in the virtual host {vhost!r}" + (f" matches {pattern!r}" if found else ""))
        return ExitStatus.OK

    run_command(main, connection=connection)


def _record(stream: ListedStream) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "messages": stream.messages,
        "leader": stream.leader,
        "replicas": stream.replicas,
        "online": stream.online,
        "arguments": dict(stream.arguments),
        "policy": stream.policy,
        "policy_arguments": dict(stream.policy_arguments),
        "state": stream.state,
    }


def _table(streams: Sequence[ListedStream]) -> str:
    """A line for each stream, below the names of the columns."""
    from rstream_cli.render import words
    from rstream_cli.render.columns import columns
    from rstream_cli.render.facts import limits

    if not streams:
        return ""
    rows = [
        ("stream", "messages", "replicas", "limits"),
        *(
            (
                terminal.name(stream.name),
                "-" if stream.messages is None else words.count(stream.messages),
                f"{len(stream.online)}/{len(stream.replicas)}",
                limits(stream),
            )
            for stream in streams
        ),
    ]
    return columns(rows, right={1, 2})
