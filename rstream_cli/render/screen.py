"""What draws in place on a terminal: one console and one display of Rich's for all that redraw. Imports Rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from rstream_cli.environment import Environment


def new_console(env: Environment, stream: TextIO, *, color: bool) -> Console:
    """A console on a stream that is a terminal. It shows texts as they are: it looks for no markup in them."""
    columns, lines = env.size_of(stream)
    return Console(
        file=stream,
        width=columns,
        height=lines,
        force_terminal=True,
        no_color=not color,
        color_system="auto" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        _environ=env.variables,
    )


def fit(console: Console, env: Environment, stream: TextIO) -> tuple[int, int]:
    """Gives the console the size that the terminal has now, and returns it: columns and lines."""
    columns, lines = env.size_of(stream)
    console.size = ConsoleDimensions(columns, lines)
    return columns, lines


def start_live(console: Console, *, transient: bool) -> Live:
    """Starts a display that is drawn only when it is updated. ``transient``: it is removed when it ends."""
    live = Live(
        console=console,
        auto_refresh=False,
        transient=transient,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )
    live.start()
    return live
