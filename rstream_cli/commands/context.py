"""``rstream context``: the user's contexts, which are connection settings under a name.

These commands do not connect. Only ``show`` looks at variables and at the file of a project: the others are about the
user's file alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli import terminal
from rstream_cli.asking import is_confirmed
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import check_context_name, check_stream_name
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import (
    ConnectionSettings,
    connection_options,
    general_options,
    own_connection_options,
)
from rstream_cli.pretty_json import write_answer
from rstream_cli.typer_support import Command, new_app

if TYPE_CHECKING:
    from rstream_cli.contexts import Contexts

app = new_app(
    "Keep connection settings under names.",
    examples="""
rstream context set prod --uri rabbitmq-stream+tls://app@rabbit-1 --password-command 'pass show rabbit'
rstream context use prod
rstream consume events -c prod
""",
)

_FILES = ("password_file", "ca_file", "cert", "cert_key")
_NAME = typer.Argument(metavar="CONTEXT", help="The name of the context.")
_JSON = typer.Option("--json", help="Print JSON.")


@app.command(
    name="list",
    cls=Command,
    epilog="""
rstream context list
rstream context list --json | jq -r .name
""",
)
@general_options
def list_contexts(
    json: Annotated[bool, _JSON] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """List all contexts, each with its address. A star is before the one in use."""
    from rstream_cli.effective import shown

    contexts = _read(connection)
    rows = []
    for name, values in sorted(contexts.named.items()):
        key = "uri" if "uri" in values else "host"
        rows.append((name, name == contexts.used, shown(key, values.get(key, ""))))
    if json:
        records = [{"name": name, "in_use": used, "address": where} for name, used, where in rows]
        write_answer(connection.env, records, pretty, connection.color)
        return
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, used, where in rows:
        line = f"{'*' if used else ' '} {name:<{width}}  {terminal.line(where)}"
        connection.env.stdout.write(f"{line.rstrip()}\n")
    if not rows:
        connection.tell("there are no contexts; `rstream context set NAME --uri URI` makes one")


@app.command(
    cls=Command,
    epilog="""
rstream context show prod
rstream context show --effective
rstream context show --effective -c prod --json
""",
)
@connection_options
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="[CONTEXT]", help="The name of the context (default: the one in use).")
    ] = None,
    effective: Annotated[
        bool, typer.Option("--effective", help="Show what a command would use here, and where each value comes from.")
    ] = False,
    json: Annotated[bool, _JSON] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Show a context, or with --effective all settings in force, and where each comes from. No secret is shown.

    A context is chosen by --context, else by the variable RSTREAM_CONTEXT, else by the file .rstream.toml of a project,
    else by `rstream context use`. Options and variables that give another address leave it out, unless --context names
    it.
    """
    if name is not None:
        if "context" in connection.values:
            raise CommandError("the name of the context is given twice", hint="leave out --context")
        connection = replace(connection, values={**connection.values, "context": name})
    if effective:
        _show_effective(connection, json, pretty)
        return
    from rstream_cli.effective import shown

    chosen = connection.context
    if chosen is None:
        raise CommandError(
            "no context is in use", hint="`rstream context list` shows them", status=ExitStatus.NOT_FOUND
        )
    settings = {key: shown(key, text) for key, text in chosen.values.items()}
    if json:
        record = {"name": chosen.name, "chosen_by": chosen.how, "settings": settings}
        write_answer(connection.env, [record], pretty, connection.color)
        return
    _write_table(connection, [("context", chosen.name), *settings.items()])


def _show_effective(connection: ConnectionSettings, json: bool, pretty: PrettyChoice) -> None:
    from rstream_cli.effective import Setting, effective

    rows = effective(connection.layers)
    stream, place = connection.stream_and_place
    if stream is not None:
        rows.append(Setting("stream", stream, place))
    chosen = connection.context
    if chosen is None and (label := connection.gives_other_address) is not None:
        connection.tell(f"{label} gives the address: a context would be left out, unless --context names it")
    if json:
        found = {
            "context": None if chosen is None else chosen.name,
            "chosen_by": None if chosen is None else chosen.how,
            "settings": [{"setting": row.name, "value": row.value, "from": row.place} for row in rows],
        }
        write_answer(connection.env, [found], pretty, connection.color)
        return
    context = [] if chosen is None else [("context", chosen.name, chosen.how)]
    _write_table(connection, [*context, *rows])


@app.command(
    name="set",
    cls=Command,
    epilog="""
rstream context set prod --uri rabbitmq-stream+tls://app@rabbit-1 --password-command 'pass show rabbit'
rstream context set prod --stream events
rstream context set local --host localhost
""",
)
@own_connection_options
def set_context(
    name: Annotated[str, _NAME],
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="STREAM", help="Use this stream where a command names none.")
    ] = None,
    *,
    connection: ConnectionSettings,
) -> None:
    """Make a context of these options, or change these of its settings.

    The file that holds all contexts has mode 600. A password is best not in it: --password-command asks for it.
    """
    from rstream_cli.connection_settings import check_layer, command_line_layer, context_layer
    from rstream_cli.contexts import write_contexts

    check_context_name(name)
    options = dict(connection.values)
    if "context" in options:
        raise CommandError("--context chooses a context to connect with", hint="give the name without an option")
    said = dict(command_line_layer(options).values)  # under the names of today
    for key in _FILES:
        if key in said:
            said[key] = os.path.abspath(said[key])
    if stream is not None:
        said["stream"] = check_stream_name(stream)
    if not said:
        raise CommandError("no setting is given", hint="give connection options, such as --uri, or --stream")
    contexts = _read(connection)
    values = {**contexts.named.get(name, {}), **said}
    check_layer(context_layer(name, values))
    write_contexts(replace(contexts, named={**contexts.named, name: values}))
    connection.tell(f"{'changed' if name in contexts.named else 'made'} context {name} in {contexts.path}")


@app.command(
    cls=Command,
    epilog="""
rstream context use prod
rstream context use --none
""",
)
@general_options
def use(
    name: Annotated[
        str | None, typer.Argument(metavar="[CONTEXT]", help="The name of the context.", show_default=False)
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Use no context from now on.")] = False,
    *,
    connection: ConnectionSettings,
) -> None:
    """Use a context from now on, in all commands."""
    from rstream_cli.contexts import write_contexts

    if (name is None) is not none:
        raise CommandError("give the name of a context, or --none")
    contexts = _read(connection)
    if name is not None:
        _ = contexts[name]
    write_contexts(replace(contexts, used=name))
    connection.tell("no context is in use" if name is None else f"context {name} is in use")


@app.command(
    cls=Command,
    epilog="""
rstream context delete old --yes
""",
)
@general_options
def delete(
    names: Annotated[list[str], typer.Argument(metavar="CONTEXT", help="The names of the contexts.")],
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="Accept a context that does not exist.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Required where there is no terminal to ask on.")
    ] = False,
    *,
    connection: ConnectionSettings,
) -> None:
    """Delete contexts. The command asks before it deletes; where there is no terminal to ask on, --yes is required."""
    from rstream_cli.contexts import write_contexts

    contexts = _read(connection)
    if not missing_ok:
        for name in names:
            _ = contexts[name]
    if not yes and not is_confirmed(f"Delete {', '.join(map(repr, names))}?", connection.env):
        connection.tell("nothing was deleted")
        return
    left = {name: values for name, values in contexts.named.items() if name not in names}
    if len(left) == len(contexts.named):
        return
    write_contexts(replace(contexts, named=left, used=contexts.used if contexts.used in left else None))


def _read(connection: ConnectionSettings) -> Contexts:
    from rstream_cli.connection_settings import CONTEXT_SETTINGS
    from rstream_cli.contexts import read_contexts

    return read_contexts(connection.env.variables, CONTEXT_SETTINGS)


def _write_table(connection: ConnectionSettings, rows: Sequence[Sequence[str]]) -> None:
    """Columns of texts, each made harmless."""
    from rstream_cli.render.columns import columns

    connection.env.stdout.write(columns([[terminal.line(cell) for cell in row] for row in rows]))
