"""The options that choose among the messages that are read: of ``consume`` and its kin, and of ``copy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

READING = "Reading"


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Which messages are wanted."""

    filter_values: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="VALUE",
            help="Ask the broker for messages that were published with this filter value. Repeat the option for more"
            " values. The broker leaves out whole chunks only, so other messages come too; --filter-from removes"
            " them.",
            rich_help_panel=READING,
        ),
    ] = None
    filter_from: Annotated[
        str | None,
        typer.Option(
            "--filter-from",
            metavar="PATH",
            help="With --filter: take only messages that hold one of the values at this path. The path leads into a"
            " JSON body (.name, .name.inner, .list[0]) or into the envelope that --json shows (.headers.region).",
            rich_help_panel=READING,
        ),
    ] = None
    match_unfiltered: Annotated[
        bool,
        typer.Option(
            "--match-unfiltered",
            help="With --filter: also take messages without a filter value.",
            rich_help_panel=READING,
        ),
    ] = False
    grep: Annotated[
        list[str] | None,
        typer.Option(
            "--grep",
            metavar="PATTERN",
            help="Take only the messages in whose body this regular expression is found. It has Python's syntax and"
            " looks at bytes. If repeated, a body must have all of them.",
            rich_help_panel=READING,
        ),
    ] = None
    grep_not: Annotated[
        list[str] | None,
        typer.Option(
            "--grep-not",
            metavar="PATTERN",
            help="Leave out the messages in whose body this regular expression is found; repeatable.",
            rich_help_panel=READING,
        ),
    ] = None
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match",
            metavar=".PATH=VALUE",
            help="Take only the messages that have this value in the envelope that --json shows, such as"
            " .properties.subject=order or .headers.n=5, or in a JSON body, such as .body.region=eu. If repeated, all"
            " must hold.",
            rich_help_panel=READING,
        ),
    ] = None
