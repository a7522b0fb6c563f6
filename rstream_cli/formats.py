"""Which format and which delimiter the options ask for: what ``inputs`` and ``outputs`` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from rstream_cli.exit_status import CommandError
from rstream_cli.parsing import parse_delimiter

Format = TypeVar("Format")


def is_given(options: object, field: str) -> bool:
    """Whether the user gave the option with this field. Such options are None or False by default."""
    value = getattr(options, field)
    return value is not None and value is not False


def chosen_format(
    options: object, said: Mapping[str, Format | None], implied_by: Mapping[Format, Mapping[str, str]]
) -> Format | None:
    """Returns the format that is asked for, None if none is. Raises CommandError if that is more than one.

    ``said``: the formats that options name, by the flag. ``implied_by``: for each format, the flags that imply it, with
    their fields.
    """
    given: dict[str, Format] = {flag: named for flag, named in said.items() if named is not None}
    switches: dict[str, Format] = {}
    for implied, flags in implied_by.items():
        for flag, field in flags.items():
            if is_given(options, field):
                value: Any = getattr(options, field)
                (switches if value is True else given)[flag] = implied
    given = switches | given  # the order of the message
    if len(set(given.values())) > 1:
        raise CommandError(f"{' and '.join(given)} contradict each other")
    return next(iter(given.values()), None)


def delimiter_of(flag: str, text: str) -> bytes:
    """Returns the bytes of a delimiter that is given with this flag. Raises CommandError."""
    try:
        return parse_delimiter(text)
    except ValueError as error:
        raise CommandError(f"{flag}: {error}") from None
