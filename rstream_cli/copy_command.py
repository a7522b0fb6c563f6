"""Turns the options of ``copy`` into what the core is asked for. copy_run.py carries it out.

The options are checked against each other before the program connects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from rstream_cli.copy_request import CopyRequest
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import check_option, check_stream_name
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.copying import CopyOptions
from rstream_cli.options.messages import Codec
from rstream_cli.options.other_side import OtherSideOptions, other_side
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.parsing import StartKind, parse_offset, parse_pace, parse_until
from rstream_cli.runner import CommandContext, run_command
from rstream_cli.selecting import broker_filter, choosers_of

if TYPE_CHECKING:
    from rstream_cli.copy_values import ValueAt


def run_copy(
    source: str,
    target: str,
    options: CopyOptions,
    to: OtherSideOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
) -> NoReturn:
    """Checks the options and copies. Raises ``typer.Exit`` at the end."""
    request = _request(check_stream_name(source), check_stream_name(target), options, connection)
    other = other_side(connection, to)
    mode = showing.mode(connection, terminal_is_used=False)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.copy_run import CopyRun
        from rstream_cli.displayed_run import run_displayed
        from rstream_cli.render.stats import CopyCounts, Stats

        counts = CopyCounts()
        stats = Stats("copy", source, counts, target=target, not_kept=_not_kept(request))
        display = showing.display(mode, stats, connection)
        return await run_displayed(context, display, CopyRun(request, context, other, stats, display).work)

    run_command(main, connection=connection, other=other, graceful=True)


def _not_kept(request: CopyRequest) -> tuple[str, ...]:
    lost = ["offsets", "timestamps"]
    if request.filters is None:
        lost.append("filter values")
    return tuple(lost)


def _request(source: str, target: str, options: CopyOptions, connection: ConnectionSettings) -> CopyRequest:
    now = connection.env.now()
    if options.follow and options.until is not None:
        raise CommandError("--follow and --until contradict each other")
    if options.set_filter_from is not None and options.compression is not None:
        raise CommandError(
            "--set-filter-from and --compression contradict each other: a sub-entry has no filter values"
        )
    if options.rate is not None and options.pace is not None:
        raise CommandError("--rate and --pace contradict each other")
    try:
        start = parse_offset(options.offset, now)
    except ValueError as error:
        raise CommandError(f"--offset: {error}") from None
    if start.kind is StartKind.STORED:
        raise CommandError(
            "--offset stored: a copy goes on by itself", hint="leave out --offset, and run the same command again"
        )
    until = None
    try:
        if options.until is not None:
            until = parse_until(options.until, now)
    except ValueError as error:
        raise CommandError(f"--until: {error}") from None
    pace = None
    try:
        if options.pace is not None:
            pace = parse_pace(options.pace)
    except ValueError as error:
        raise CommandError(f"--pace: {error}") from None
    if options.name is not None:
        _check_name(options.name)
    raw = options.codec is Codec.RAW
    return CopyRequest(
        source,
        target,
        None if start.kind is StartKind.FIRST else start,
        until,
        options,
        broker_filter(options),
        tuple(choosers_of(options, raw=raw)),
        _value_at("--key-from", options.key_from, raw=raw),
        _value_at("--set-filter-from", options.set_filter_from, raw=raw),
        pace,
        None if options.compression is None else options.compression.core,
    )


def _check_name(name: str) -> None:
    from rstream_core.copying.names import MAX_PREFIX

    check_option("--name", name)
    size = len(name.encode())
    if not 0 < size <= MAX_PREFIX:
        raise CommandError(f"--name has {size} bytes; 1 to {MAX_PREFIX} can be used, as a hash follows")


def _value_at(flag: str, path: str | None, *, raw: bool) -> ValueAt | None:
    if path is None:
        return None
    from rstream_cli.copy_values import ValueAt
    from rstream_cli.records.paths import parse_path

    try:
        return ValueAt(parse_path(path), raw=raw)
    except ValueError as error:
        raise CommandError(f"{flag}: {error}") from None
