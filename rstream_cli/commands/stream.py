"""``rstream stream``: create, delete and look at streams.

Arguments of a new stream are checked before the program connects. The broker silently drops arguments that it does not
know, so there is a warning for an unknown argument.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, NoReturn

import typer

from rstream_cli.asking import is_confirmed
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus, status_of
from rstream_cli.names import check_new_stream_name, check_stream_name
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.parsing import parse_max_age, parse_pair, parse_size
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, report, run_command
from rstream_cli.typer_support import Command, Lazy, LazyGroup, new_app

if TYPE_CHECKING:
    from rstream_core import Client


class _Stream(LazyGroup):
    lazy: ClassVar[Mapping[str, Lazy]] = {
        "list": Lazy("rstream_cli.commands.stream_list", "List the streams of a virtual host."),
    }


app = new_app(
    "Create, delete, list and describe streams.",
    examples="""
rstream stream create events --max-age 7d --max-length-bytes 20GB
rstream stream list --pattern 'ev*'
rstream stream info events --json
rstream stream delete events --yes
""",
    group=_Stream,
)

_KEPT = "What is kept"
_PLACE = "Where it lives"


class LeaderLocator(enum.StrEnum):
    """The values of ``--leader-locator``."""

    CLIENT_LOCAL = "client-local"
    BALANCED = "balanced"


# The name of each argument on the wire, and the option that sets it.
_OPTION_OF = {
    "max-age": "--max-age",
    "max-length-bytes": "--max-length-bytes",
    "stream-max-segment-size-bytes": "--max-segment-size",
    "initial-cluster-size": "--initial-cluster-size",
    "queue-leader-locator": "--leader-locator",
    "stream-filter-size-bytes": "--filter-size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The options for creating streams and super streams."""

    max_age: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            parser=parse_max_age,
            help="Delete messages older than this: 7D, 12h. Units are Y, M (months), D, h, m, s.",
            rich_help_panel=_KEPT,
        ),
    ] = None
    max_length_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Delete the oldest messages when the stream is larger than this: 20GB, 512MiB.",
            rich_help_panel=_KEPT,
        ),
    ] = None
    max_segment_size: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Store messages in segment files of this size (default: 500MB). The broker deletes whole segments"
            " only.",
            rich_help_panel=_KEPT,
        ),
    ] = None
    filter_size: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=255,
            help="Use this many bytes for the filter of each chunk, 16 to 255 (default: 16).",
            rich_help_panel=_KEPT,
        ),
    ] = None
    initial_cluster_size: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the stream on this many nodes (default: all).", rich_help_panel=_PLACE),
    ] = None
    leader_locator: Annotated[
        LeaderLocator | None,
        typer.Option(
            help="Place the leader on the node that this command connects to (client-local), or spread leaders over"
            " the nodes (balanced).",
            rich_help_panel=_PLACE,
        ),
    ] = None
    argument: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Set any other argument by the broker's name for it. Repeat the option for more."
        ),
    ] = None

    def arguments(self, connection: ConnectionSettings) -> dict[str, str]:
        """Returns the checked arguments for the broker. Warns of arguments that it may not know."""
        given: dict[str, str | int | None] = {
            "max-age": self.max_age,
            "max-length-bytes": self.max_length_bytes,
            "stream-max-segment-size-bytes": self.max_segment_size,
            "initial-cluster-size": self.initial_cluster_size,
            "queue-leader-locator": self.leader_locator,
            "stream-filter-size-bytes": self.filter_size,
        }
        arguments = stream_arguments({key: value for key, value in given.items() if value is not None}, self.argument)
        unknown = [key for key in arguments if key not in _OPTION_OF]
        if unknown:
            connection.warn(f"brokers ignore arguments that they do not know: {', '.join(unknown)}")
        return arguments


_NAME = typer.Argument(metavar="NAME", help="The stream.")


@app.command(
    cls=Command,
    epilog="""
rstream stream create events
rstream stream create events --max-age 7d --max-length-bytes 20GB --exists-ok
rstream stream create orders --initial-cluster-size 3 --leader-locator balanced
""",
)
@connection_options
@shared_options("given", StreamOptions)
def create(
    name: Annotated[str, _NAME],
    exists_ok: Annotated[
        bool, typer.Option("--exists-ok", help="Succeed if the stream exists already with the same arguments.")
    ] = False,
    *,
    given: StreamOptions,
    connection: ConnectionSettings,
) -> None:
    """Create a stream.

    If the stream exists already, the exit code is 9. With --exists-ok, it is 9 only if the arguments are different.
    """
    check_new_stream_name(name)
    arguments = given.arguments(connection)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import PreconditionFailed, StreamAlreadyExists

        async with context.connected() as client:
            try:
                await client.create_stream(name, arguments, exists_ok=exists_ok)
            except StreamAlreadyExists as error:
                error.hint = "pass --exists-ok if it may exist"
                raise
            except PreconditionFailed as error:
                error.hint = "it exists with other arguments, or the broker does not accept one of these arguments"
                raise
        connection.tell(f"created stream {name!r}" if not exists_ok else f"stream {name!r} exists")
        return ExitStatus.OK

    run_command(main, connection=connection)


def stream_arguments(given: Mapping[str, str | int], extra: list[str] | None) -> dict[str, str]:
    """Returns the arguments of a stream: the checked ones from the options, and those of ``--argument``.

    A leading ``x-``, as queues have it, is dropped. Raises CommandError for what is given twice or malformed, and for
    an age without a unit.
    """
    for key in ("max-length-bytes", "stream-max-segment-size-bytes"):
        if given.get(key) == 0:
            raise CommandError(f"{_OPTION_OF[key]}: must be more than 0")
    arguments = {key: str(value) for key, value in given.items()}
    for text in extra or ():
        try:
            key, value = parse_pair(text)
        except ValueError as error:
            raise CommandError(f"--argument: {error}") from None
        key = key.removeprefix("x-")
        if key in given:
            raise CommandError(f"--argument {key} and {_OPTION_OF[key]} contradict each other")
        if key in arguments:
            raise CommandError(f"--argument {key} is given twice")
        if key == "max-age" and value.isdigit():  # the broker would take seconds
            _check_age(value)
        arguments[key] = value
    return arguments


def _check_age(text: str) -> None:
    try:
        parse_max_age(text)
    except ValueError as error:
        raise CommandError(f"--argument max-age: {error}") from None


@app.command(
    cls=Command,
    epilog="""
rstream stream delete events
rstream stream delete old-1 old-2 --missing-ok --yes
""",
)
@connection_options
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The streams.")],
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="Succeed if a stream does not exist.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Required where there is no terminal to ask on.")
    ] = False,
    *,
    connection: ConnectionSettings,
) -> None:
    """Delete streams with all their messages.

    The command asks before it deletes. Where there is no terminal to ask on, --yes is required. If a stream cannot be
    deleted, the command prints an error and goes on; the exit code is that of the first error.
    """
    delete_all("stream", names, lambda client, name: client.delete_stream(name, missing_ok=missing_ok), yes, connection)


def delete_all(
    kind: str,
    names: list[str],
    delete_one: Callable[[Client, str], Awaitable[None]],
    yes: bool,
    connection: ConnectionSettings,
) -> NoReturn:
    """Asks unless ``yes``, and deletes all that it can. Raises ``typer.Exit`` with the status of the first failure.

    If the answer is no, nothing is deleted, and the exit code is 0: nothing is asked for any more.
    """
    wanted = [check_stream_name(name) for name in dict.fromkeys(names)]
    named = ", ".join(map(repr, wanted))
    if not yes and not is_confirmed(f"Delete {named} with all messages?", connection.env):
        connection.tell("nothing was deleted")
        raise typer.Exit

    command = f"{kind.replace(' ', '')} delete"

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_core import RstreamError, ServerError

        status = ExitStatus.OK
        async with context.connected() as client:
            for name in wanted:
                try:
                    await telling_kinds_apart(context, command, name, partial(delete_one, client, name))
                except ServerError as error:
                    hint = error.hint
                    if hint is None and status_of(error) is ExitStatus.NOT_FOUND:
                        hint = "check the name and the virtual host; --missing-ok accepts a name that does not exist"
                    failure = report(error, env=context.env, color=connection.color, hint=hint)
                    status = status or failure
                except RstreamError as error:
                    if not status:
                        raise
                    report(error, env=context.env, color=connection.color)
                    return status
                else:
                    connection.tell(f"deleted {kind} {name!r}")
        return status

    run_command(main, connection=connection)


@app.command(
    cls=Command,
    epilog="""
rstream stream info events
rstream stream info events --json | jq .last_offset
""",
)
@connection_options
def info(
    name: Annotated[str | None, _NAME] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Show how much a stream holds, since when, and where it is.

    The number of messages is an estimate: offsets have gaps. The last offset is read from the last chunk on the leader.
    Limits, replicas that are offline, readers and publishers come from RabbitMQ's management API, where it can be
    asked (see --management-uri). What is not known is null in JSON, and a dash in text, or left out.
    """
    stream = connection.stream(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.stream_facts import Facts, facts_of, listed_of, record_of, times_of

        async def look() -> tuple[Facts, tuple[int | None, int | None]]:
            async with context.connected() as client:
                facts = await facts_of(client, stream)
                return facts, (None, None) if json else await times_of(client, facts)

        facts, times = await telling_kinds_apart(context, "stream info", stream, look)
        if facts.metadata.leader is None:
            raise CommandError(
                f"stream {stream!r} has no leader now",
                hint="a majority of its nodes must be up",
                status=ExitStatus.CONNECTION,
            )
        listed = await listed_of(connection, stream)
        if json:
            write_answer(context.env, [record_of(facts, listed)], pretty, connection.color)
        else:
            from rstream_cli.render.facts import stream_text

            context.env.stdout.write(stream_text(facts, listed, times, context.env.now()))
        return ExitStatus.OK

    run_command(main, connection=connection)
