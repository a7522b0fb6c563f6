"""``rstream offset reset``: makes the consumers of a name read on somewhere else.

A stored offset is that of the last message that is done with, so the offset before the wanted one is stored. There is
none before offset 0, and a broker forgets no stored offset on request: a name that has one cannot go back to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli import terminal
from rstream_cli.asking import is_confirmed
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import Kind, check_reference
from rstream_cli.options.answering import Pretty
from rstream_cli.options.connecting import ConnectionSettings, connection_options
from rstream_cli.parsing import StartKind, parse_offset
from rstream_cli.pretty_json import write_answer
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.typer_support import Command

if TYPE_CHECKING:
    from rstream_core import Client
    from rstream_core.flow.read_plan import StartAt

app = typer.Typer(add_completion=False, rich_markup_mode=None)

VERIFY_TIMEOUT = 10.0
"""Seconds to wait until the broker returns a stored offset; also for ``offset store``."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reset means to one stream."""

    stream: str
    stored: int | None
    """What is stored now."""
    next: int
    """The offset of the message that is to be read next."""
    end: int
    """The offset that the next message to be published gets."""

    @property
    def new(self) -> int | None:
        """What is to be stored: the offset before ``next``; None where that is nothing."""
        return self.next - 1 if self.next else None

    @property
    def is_needed(self) -> bool:
        return self.new != self.stored

    @property
    def is_possible(self) -> bool:
        return self.new is not None or not self.is_needed

    def __str__(self) -> str:
        before = "no offset was stored" if self.stored is None else f"it was {self.stored + 1}"
        if not self.is_needed:
            before = "no offset is stored" if self.stored is None else "as before"
        return f"{self.stream!r}: the next message is {self.next} ({before})"


@app.command(
    "reset",
    cls=Command,
    epilog="""
rstream offset reset events --name billing --to -1h
rstream offset reset events --name billing --to 4711 --dry-run
rstream offset reset orders --name billing --to next --yes
""",
)
@connection_options
def reset(
    stream: Annotated[
        str | None,
        typer.Argument(
            metavar="STREAM", help="The stream, or a super stream: all its partitions (default: RSTREAM_STREAM)."
        ),
    ] = None,
    *,
    name: Annotated[str, typer.Option("--name", metavar="REF", help="The name under which offsets are stored.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="SPEC",
            help="The message to read next: first, last (of the last chunk), next (the next that is published), N (an"
            " offset), -N (the last N messages), or a time: -1h, 2026-11-23T10:00Z, @UNIX.",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Required where there is no terminal to ask on.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each stream.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    connection: ConnectionSettings,
) -> None:
    """Make the consumers of a name read on at another place.

    The command stores the offset before the message to read next, and checks that the broker has stored it. Stop the
    consumers of that name first: they would store their own offset over it.

    Under a name that has a stored offset, nothing can read from offset 0 any more: the smallest offset that can be
    stored is 0, and consumers go on behind it. Then nothing is changed, also in the other partitions of a super stream,
    and the exit code is 9. Use another name, or `rstream consume --offset first`.

    The command asks before it changes anything. Where there is no terminal to ask on, --yes is required.
    """
    target = connection.stream(stream)
    check_reference(name)
    try:
        start = parse_offset(to, connection.env.now())
    except ValueError as error:
        raise CommandError(f"--to: {error}") from None
    if start.kind is StartKind.STORED:
        raise CommandError("--to: a reset to the stored offset changes nothing", hint="give first, last, next or an N")
    question = f"Make consumers of {name!r} read {target!r} from {to} on?"
    if not (yes or dry_run) and not is_confirmed(question, connection.env, action="reset the offset"):
        connection.tell("nothing was changed")
        raise typer.Exit

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.consume_plan import start_at
        from rstream_cli.kinds import check_no_offset, find_streams

        async with context.connected() as client:
            super_stream, streams = await find_streams(client, [target], Kind.EITHER)
            if super_stream is not None:
                check_no_offset("--to", start, super_stream)
            changes = [await _change(client, each, name, start_at(start, None)) for each in streams]
            _check_possible(changes, name, to)
            for change in changes:
                if change.is_needed and not dry_run:
                    assert change.new is not None
                    await client.store_offset(change.stream, name, change.new, verify_timeout=VERIFY_TIMEOUT)
                _show(context, change, name, json=json, pretty=pretty, is_done=not dry_run)
        return ExitStatus.OK

    run_command(main, connection=connection)


async def _change(client: Client, stream: str, name: str, start: StartAt) -> Change:
    from rstream_core import ConsumerOffsetSpecification, OffsetNotFound, OffsetType
    from rstream_core.flow.opening import resolve_start

    try:
        stored = await client.query_offset(stream, name)
    except OffsetNotFound:
        stored = None
    following = await client.resolve_offset(stream, await resolve_start(client, stream, start))
    end = await client.resolve_offset(stream, ConsumerOffsetSpecification(OffsetType.NEXT))
    return Change(stream, stored, following, end)


def _check_possible(changes: list[Change], name: str, to: str) -> None:
    """Raises where a stream would have to forget a stored offset, or does not reach as far."""
    for change in changes:
        if not change.is_possible:
            raise CommandError(
                f"--to {to} is offset 0 of stream {change.stream!r}, and offset {change.stored} is stored as {name!r}:"
                " a stored offset cannot be taken back",
                hint="nothing was changed; use another name, or read with --offset first",
                status=ExitStatus.PRECONDITION,
            )
        if change.next > change.end:
            raise CommandError(
                f"offset {change.next} is beyond the end of stream {change.stream!r}, whose next offset is"
                f" {change.end}",
                hint="nothing was changed; --to next skips all that is there",
                status=ExitStatus.PRECONDITION,
            )


def _show(
    context: CommandContext, change: Change, name: str, *, json: bool, pretty: PrettyChoice, is_done: bool
) -> None:
    if not json:
        would = "" if is_done or not change.is_needed else "would change: "
        context.env.stdout.write(terminal.line(f"{would}{change}") + "\n")
        return
    record = {
        "stream": change.stream,
        "name": name,
        "stored_before": change.stored,
        "stored": change.new if is_done else change.stored,
        "next": change.next,
        "changed": change.is_needed and is_done,
    }
    write_answer(context.env, [record], pretty, context.connection.color)
