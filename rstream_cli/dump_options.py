"""The options of ``consume --output dump``, and of the commands like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rstream_cli.exit_status import CommandError
from rstream_cli.formats import is_given
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.consuming import ConsumeOptions, DumpCompression
from rstream_cli.options.messages import OnError

if TYPE_CHECKING:
    from rstream_cli.dump_target import DumpTarget

_OF_DUMPS = {"--output-file": "output_file", "--dump-compression": "dump_compression"}
_OF_MESSAGES = {
    "--filter-from": "filter_from",
    "--grep": "grep",
    "--grep-not": "grep_not",
    "--match": "match",
    "--unbuffered": "unbuffered",
}
"""What is about single messages, with the fields of ``ConsumeOptions``."""
_OF_OTHER_OUTPUTS = {
    "-0": "nul",
    "--json": "json",
    "--delimiter": "delimiter",
    "--format": "template",
    "--columns": "columns",
}


def check_no_dump_options(options: ConsumeOptions) -> None:
    """Raises ``CommandError`` for an option that only a dump has."""
    for flag, field in _OF_DUMPS.items():
        if is_given(options, field):
            hint = "redirect stdout: > FILE" if flag == "--output-file" else None
            raise CommandError(f"{flag} needs --output dump", hint=hint)


def check_dump_options(options: ConsumeOptions, name: str | None, *, more: Sequence[str], single_active: bool) -> None:
    """Raises ``CommandError`` for an option that does not go with a dump."""
    if single_active:
        raise CommandError("--output dump: the members of a group would each have a part", hint="use `rstream consume`")
    if more:
        raise CommandError("--output dump takes one stream", hint="dump each stream to a file of its own")
    for flag, field in _OF_OTHER_OUTPUTS.items():
        if is_given(options, field):
            raise CommandError(f"--output and {flag} contradict each other")
    for flag, field in _OF_MESSAGES.items():
        if is_given(options, field):
            raise CommandError(
                f"{flag} cannot be used with --output dump",
                hint="a dump has chunks as they were delivered; --filter leaves out whole chunks",
            )
    if options.on_error is OnError.SKIP:
        raise CommandError("--on-error skip cannot be used with --output dump", hint="messages are not looked at")
    if name is not None and options.output_file is not None:
        raise CommandError(
            "--name cannot be used with --output-file", hint="the file itself says where the next run goes on"
        )


def dump_target(options: ConsumeOptions, offset: str | None, connection: ConnectionSettings) -> DumpTarget:
    """Returns what writes the dump; its file is open, and must be closed. Raises ``CommandError``."""
    from rstream_cli.dump_file import DumpFile
    from rstream_cli.dump_target import DumpTarget

    if options.output_file is None and connection.env.stdout_is_tty:
        raise CommandError("a dump is not for a terminal", hint="pass --output-file FILE, or redirect stdout")
    file = None if options.output_file is None else DumpFile.open(options.output_file, connection.tell)
    compression = options.dump_compression
    is_wanted = compression is DumpCompression.ZSTD
    if file is not None and file.manifest and compression is not None and file.is_compressed is not is_wanted:
        file.close()
        what = "compressed" if file.is_compressed else "not compressed"
        raise CommandError(f"--dump-compression: {file.path} is {what}", hint="leave the option out to go on with it")
    selection: dict[str, object] = {"offset": offset or "first"}
    if options.filter_values:
        selection["filter"] = list(options.filter_values)
        selection["match_unfiltered"] = options.match_unfiltered
    return DumpTarget(file, compress=is_wanted, offset=offset, selection=selection)
