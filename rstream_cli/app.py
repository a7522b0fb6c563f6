"""The table of commands, and ``run``, which runs a command line and returns its exit code.

A command is one module under commands/, named here with its summary. It is imported when it is run, so that ``rstream
offset query`` does not import ``publish``. ``run`` turns every error into an exit code; it does not raise, and prints a
traceback only with ``-vv``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar

import typer

from rstream_cli.environment import Environment
from rstream_cli.exit_status import ExitStatus
from rstream_cli.typer_support import (
    PROGRAM,
    Lazy,
    LazyGroup,
    environment_in,
    environment_of,
    usage_error,
)

COMMANDS: Mapping[str, Lazy] = {
    "stream": Lazy("rstream_cli.commands.stream", "Create, delete, list and describe streams."),
    "publish": Lazy("rstream_cli.commands.publish", "Publish lines, files or JSON to a stream."),
    "consume": Lazy("rstream_cli.commands.consume", "Read a stream."),
    "copy": Lazy("rstream_cli.commands.copy", "Copy a stream to another one, here or on another broker."),
    "superstream": Lazy(
        "rstream_cli.commands.superstream", "Work with super streams: streams divided into partitions."
    ),
    "sac-consume": Lazy("rstream_cli.commands.sac_consume", "Read a stream as one of a group of consumers."),
    "offset": Lazy("rstream_cli.commands.offset", "Store, query, list, reset and resolve offsets."),
    "diff": Lazy("rstream_cli.commands.diff", "Compare two streams, message by message."),
    "lag": Lazy("rstream_cli.commands.lag", "Show how far consumers are behind, in messages and in time."),
    "dump": Lazy("rstream_cli.commands.dump", "Look at dumps of streams, and at the segment files of a broker."),
    "context": Lazy("rstream_cli.commands.context", "Keep connection settings under names."),
    "bench": Lazy("rstream_cli.commands.bench", "Measure how fast a broker takes and gives messages."),
    "doctor": Lazy(
        "rstream_cli.commands.doctor",
        "Check the connection to a broker, step by step, and what may hold up its clients.",
    ),
    "broker": Lazy("rstream_cli.commands.broker", "Run an embedded broker for development and tests."),
    "version": Lazy("rstream_cli.commands.version", "Print the versions of rstream, Python and the libraries."),
    "completion": Lazy("rstream_cli.commands.completion", "Print the completion script for a shell."),
}

EXAMPLES = """
rstream stream create events --max-age 7d
seq 1000 | rstream publish events
rstream consume events --offset first --until end
"""


class _Root(LazyGroup):
    lazy: ClassVar[Mapping[str, Lazy]] = COMMANDS


app = typer.Typer(
    cls=_Root,
    name=PROGRAM,
    epilog=EXAMPLES,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(ctx: typer.Context, value: bool) -> None:
    if value:
        from rstream_cli.version import print_version

        print_version(environment_of(ctx).stdout)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """RabbitMQ streams from the command line.

    Every command connects to the broker of --uri or --host. Without these options it uses the variable RSTREAM_URI or
    RSTREAM_HOST, without the variables the context in use (see `rstream context`), and without one localhost:5552. Data
    goes to stdout, everything else to stderr.
    """


@cache
def program() -> Any:
    """Returns the command of the program. Typer makes it of declarations, which takes most of a short run."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str], env: Environment) -> int:
    """Runs one command line, and returns the exit code."""
    context: Any = None
    command: Any = None
    try:
        command = program()
        with command.make_context(PROGRAM, list(arguments), obj=env, color=env.use_color(stdout=True)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        return ExitStatus.INTERRUPTED
    except typer.TyperException as error:
        from rstream_cli.runner import report

        return report(usage_error(error, arguments, _path(command, arguments)), env=environment_in(context, env))
    except BaseException as error:
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else ExitStatus.INTERNAL
        if isinstance(error, GeneratorExit):
            raise
        from rstream_cli.options.connecting import verbosity_of
        from rstream_cli.runner import report

        verbosity = 0 if context is None else verbosity_of(context)
        return report(error, env=environment_in(context, env), verbosity=verbosity)
    return ExitStatus.OK


def _path(command: Any, arguments: Sequence[str]) -> str:
    """Returns the words of the command in the arguments, for an error without a context."""
    words = [PROGRAM]
    for argument in arguments:
        if not isinstance(command, LazyGroup) or (child := command.get_command(None, argument)) is None:
            break
        words.append(argument)
        command = child
    return " ".join(words)
