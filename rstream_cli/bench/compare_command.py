"""``rstream bench compare``: two files and conditions -> a table, or an object of JSON, and the exit code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

import typer

from rstream_cli.bench import compare, saving
from rstream_cli.environment import PrettyChoice
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.pretty_json import write_answer


def run_compare(
    before: str,
    after: str,
    conditions: Sequence[str],
    connection: ConnectionSettings,
    *,
    json: bool,
    pretty: PrettyChoice,
) -> NoReturn:
    """Shows the comparison. Raises ``CommandError``, also where a condition holds, and else ``typer.Exit``."""
    env = connection.env
    try:
        asked = [compare.parse_condition(text) for text in conditions]
    except ValueError as error:
        raise CommandError(f"--fail-if: {error}") from None
    first, second = saving.read(before), saving.read(after)
    found = compare.differences(first, second)
    try:
        held = compare.broken(asked, found)
    except ValueError as error:
        raise CommandError(f"--fail-if: {error}") from None
    told = list(compare.warnings(first, second, (os.path.basename(before), os.path.basename(after))))
    if json:
        write_answer(env, [compare.as_json(found, held, told)], pretty, connection.color)
    else:
        for line in told:
            connection.warn(line)
        env.stdout.write(compare.table(found))
        env.stdout.flush()
    if held:
        names = ", ".join(condition.text for condition in held)
        what = "a condition of --fail-if holds" if len(held) == 1 else "conditions of --fail-if hold"
        raise CommandError(f"{what}: {names}", status=ExitStatus.CHECK_FAILED)
    raise typer.Exit
