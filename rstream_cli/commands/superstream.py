"""``rstream superstream``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import typer

from rstream_cli.typer_support import Lazy, LazyGroup


class _Group(LazyGroup):
    lazy: ClassVar[Mapping[str, Lazy]] = {
        "consume": Lazy("rstream_cli.commands.superstream_consume", "Read all partitions of a super stream."),
    }


app = typer.Typer(
    cls=_Group,
    help="Work with super streams.",
    epilog="""
rstream superstream consume orders
""",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def group() -> None:
    """Work with super streams."""
