"""The option of commands that answer with JSON."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from rstream_cli.environment import PrettyChoice

Pretty: TypeAlias = Annotated[
    PrettyChoice,
    typer.Option("--pretty", help="Indent JSON, and colour it: always, never, or where stdout is a terminal (auto)."),
]
