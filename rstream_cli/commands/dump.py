"""``rstream dump``: what a dump holds, and whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, general_options
from rstream_cli.pretty_json import write_answer
from rstream_cli.typer_support import Command, new_app

if TYPE_CHECKING:
    from rstream_cli.dump_survey import Survey

app = new_app(
    "Look at dumps of streams, and at the segment files of a broker.",
    examples="""
rstream consume events --output dump --output-file events.dump --until end
rstream dump info events.dump
rstream dump verify events.dump
rstream publish restored --create --input dump events.dump
""",
)

_FILES = typer.Argument(
    metavar="FILE",
    help="A dump, segment files of a broker, or a folder of them; - for standard input.",
)
_JSON = typer.Option("--json", help="Print one JSON object.")


@app.command(
    cls=Command,
    epilog="""
rstream dump info events.dump
rstream dump info events.dump --json | jq .streams
rstream dump info /var/lib/rabbitmq/mnesia/rabbit@host/stream/__events_1700000000000000000
""",
)
@general_options
def info(
    files: Annotated[list[str], _FILES],
    json: Annotated[bool, _JSON] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Show what a dump holds: its stream, offsets, times, and what was known of the stream.

    The whole file is read, and all checksums are checked. Where it is damaged, the exit code is 8.
    """
    found = _show(files, connection, json=json, pretty=pretty, deeply=False)
    if found.damaged:
        raise CommandError(_first(found), hint=_hint(found), status=ExitStatus.BAD_RECORD)


@app.command(
    cls=Command,
    epilog="""
rstream dump verify events.dump
rstream dump verify events.dump --json | jq .damage
ssh backup cat events.dump | rstream dump verify -
""",
)
@general_options
def verify(
    files: Annotated[list[str], _FILES],
    json: Annotated[bool, _JSON] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    *,
    connection: ConnectionSettings,
) -> None:
    """Check a dump: every checksum, and every message by unpacking it.

    The exit code is 10 where something is damaged, or the file was cut off; the error says at which byte. Nothing is
    written, and no broker is asked.
    """
    found = _show(files, connection, json=json, pretty=pretty, deeply=True)
    if not found.is_whole:
        raise CommandError(_first(found), hint=_hint(found), status=ExitStatus.CHECK_FAILED)


def _hint(found: Survey) -> str:
    skip = " --on-error skip" if found.damaged else ""
    return f"`rstream publish STREAM --input dump{skip} FILE` publishes what is whole"


def _first(found: Survey) -> str:
    """The first damaged place, and how many there are."""
    places = [*found.damage, *found.cut_off]
    number = found.damaged + len(found.cut_off)
    return str(places[0]) if number == 1 else f"{places[0]} (and {number - 1} more)"


def _show(
    files: list[str], connection: ConnectionSettings, *, json: bool, pretty: PrettyChoice, deeply: bool
) -> Survey:
    from rstream_cli.dump_sources import dump_sources
    from rstream_cli.dump_survey import as_record, survey
    from rstream_cli.input import check_sources
    from rstream_cli.render.dump_facts import dump_text

    env = connection.env
    stdin = env.stdin.fileno() if "-" in files else -1
    sources = dump_sources(files)
    check_sources(sources, stdin)
    found = survey(sources, stdin, deeply=deeply)
    if json:
        write_answer(env, [as_record(found)], pretty, connection.color)
    else:
        env.stdout.write(dump_text(found, env.now()))
        env.stdout.flush()
    return found
