"""``rstream superstream``: create, delete and look at super streams.

A partition is a plain stream: stream.py has the functions that create, delete and describe it. Publishing and consuming
have modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from rstream_cli import terminal
from rstream_cli.commands.stream import StreamOptions, delete_all
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import check_new_stream_name, check_stream_name
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.options.routing import RoutingMethod
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, report, run_command
from rstream_cli.typer_support import Command, Lazy, LazyGroup, new_app

if TYPE_CHECKING:
    from rstream_core import Router


class _SuperStream(LazyGroup):
    lazy: ClassVar[Mapping[str, Lazy]] = {
        "publish": Lazy("rstream_cli.commands.superstream_publish", "Publish lines, files or JSON to a super stream."),
        "consume": Lazy("rstream_cli.commands.superstream_consume", "Read all partitions of a super stream."),
    }


app = new_app(
    "Work with super streams: streams divided into partitions.",
    examples="""
rstream superstream create orders --partitions 3
rstream superstream publish orders orders.jsonl --key-from .customer
rstream superstream consume orders --offset first --until end
""",
    group=_SuperStream,
)


_NAME = typer.Argument(metavar="NAME", help="The super stream.")


@app.command(
    cls=Command,
    epilog="""
rstream superstream create orders --partitions 3
rstream superstream create orders --routing-keys eu,us,asia --max-age 7d
""",
)
@connection_options
@shared_options("given", StreamOptions)
def create(
    name: Annotated[str, _NAME],
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions",
            min=1,
            max=1000,
            metavar="N",
            help="Create N partitions: NAME-0, NAME-1, … with the binding keys 0, 1, …",
        ),
    ] = None,
    routing_keys: Annotated[
        str | None,
        typer.Option(
            "--routing-keys",
            metavar="KEY,…",
            help="Create a partition NAME-KEY for each of these keys, which are separated by commas.",
        ),
    ] = None,
    exists_ok: Annotated[
        bool, typer.Option("--exists-ok", help="Succeed if the super stream exists already with the same partitions.")
    ] = False,
    *,
    given: StreamOptions,
    connection: ConnectionSettings,
) -> None:
    """Create a super stream.

    Its partitions get the same names as with the server's own tool. If the super stream exists already, the exit code
    is 9. With --exists-ok, it is 9 only if the partitions are different; their arguments are not compared, as the
    broker does not tell them.
    """
    check_new_stream_name(name)
    if (partitions is None) == (routing_keys is None):
        raise CommandError("pass one of --partitions and --routing-keys")
    keys = None if routing_keys is None else [key.strip() for key in routing_keys.split(",")]
    for key in keys or ():
        check_new_stream_name(f"{name}-{key}")
    arguments = given.arguments(connection)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import PreconditionFailed, StreamAlreadyExists

        async with context.connected() as client:
            try:
                made = await client.create_super_stream(
                    name, partitions=partitions, routing_keys=keys, arguments=arguments, exists_ok=exists_ok
                )
            except StreamAlreadyExists as error:
                error.hint = "pass --exists-ok if it may exist"
                raise
            except PreconditionFailed as error:
                error.hint = f"if it exists, `rstream superstream info {name}` lists its partitions"
                raise
        done = "exists" if exists_ok else "is created"
        connection.tell(f"super stream {name!r} {done}, with {len(made)} partitions")
        return ExitStatus.OK

    run_command(main, connection=connection)


@app.command(
    cls=Command,
    epilog="""
rstream superstream delete orders
rstream superstream delete old-1 old-2 --missing-ok --yes
""",
)
@connection_options
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The super streams.")],
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="Succeed if a super stream does not exist.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Required where there is no terminal to ask on.")
    ] = False,
    *,
    connection: ConnectionSettings,
) -> None:
    """Delete super streams with all their partitions and messages.

    The command asks before it deletes. Where there is no terminal to ask on, --yes is required. If a super stream
    cannot be deleted, the command prints an error and goes on; the exit code is that of the first error.
    """
    delete_all(
        "super stream",
        names,
        lambda client, name: client.delete_super_stream(name, missing_ok=missing_ok),
        yes,
        connection,
    )


@app.command(
    cls=Command,
    epilog="""
rstream superstream info orders
rstream superstream info orders --json | jq '.partitions[].last_offset'
""",
)
@connection_options
def info(
    name: Annotated[str, _NAME],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Show how much each partition holds, and where it is.

    Partitions are listed in the broker's order, on which routing by hash depends. The number of messages is an
    estimate: offsets have gaps. RabbitMQ's management API tells how many replicas are online, where it can be asked
    (see --management-uri). What is not known, for example because a leader is missing, is null in JSON, and a dash in
    text.
    """
    check_stream_name(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.stream_facts import Facts, facts_of, listed_of, record_of

        async def look() -> list[Facts]:
            async with context.connected() as client:
                return [await facts_of(client, partition) for partition in await client.partitions(name)]

        partitions = await telling_kinds_apart(context, "superstream info", name, look)
        listed = await listed_of(connection, None)
        if json:
            records = [record_of(facts, listed) for facts in partitions]
            record = {"super_stream": name, "partitions": records}
            write_answer(context.env, [record], pretty, connection.color)
        else:
            from rstream_cli.render.facts import super_stream_text

            context.env.stdout.write(super_stream_text(partitions, listed))
        return ExitStatus.OK

    run_command(main, connection=connection)


@app.command(
    cls=Command,
    epilog="""
rstream superstream route orders customer-17 customer-18
rstream superstream route orders eu --routing key | cut -f 2
rstream superstream route orders eu us --json | jq -r '.partitions[]'
""",
)
@connection_options
def route(
    name: Annotated[str, _NAME],
    keys: Annotated[list[str], typer.Argument(metavar="KEY", help="The routing keys.")],
    routing: Annotated[
        RoutingMethod,
        typer.Option(
            "--routing",
            help="How a key selects a partition: by its hash as the Java, Go and Rust clients compute it (hash) or as"
            " the Python client rstream does (python-hash), or by the broker's bindings (key).",
        ),
    ] = RoutingMethod.HASH,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for each key.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Show which partition a routing key belongs to.

    Each line holds a key, a tab and a partition. For a key that is bound to no partition, the command prints an error,
    and the exit code is 4.
    """
    check_stream_name(name)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_core import RouteNotFound, Router

        async with context.connected() as client:
            router = await Router.open(client, name)
            # Names for programs are not escaped.
            as_shown = terminal.name if context.env.stdout_is_tty else str
            status = ExitStatus.OK
            for key in keys:
                try:
                    routes = await _routes(router, key, routing)
                except RouteNotFound as error:
                    status = report(error, env=context.env, color=connection.color)
                    continue
                if json:
                    record = {"super_stream": name, "key": key, "partitions": list(routes)}
                    write_answer(context.env, [record], pretty, connection.color)
                    continue
                for partition in routes:
                    context.env.stdout.write(f"{as_shown(key)}\t{as_shown(partition)}\n")
        return status

    run_command(main, connection=connection)


async def _routes(router: Router, key: str, routing: RoutingMethod) -> tuple[str, ...]:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise CommandError("a routing key is not UTF-8") from None
    if routing is RoutingMethod.HASH:
        return (router.by_hash(key),)
    if routing is RoutingMethod.PYTHON_HASH:
        return (router.by_python_hash(key),)
    return await router.by_binding(key)
