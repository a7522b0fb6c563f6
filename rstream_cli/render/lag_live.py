"""``lag --watch`` on a terminal: a table that is drawn in the place of the one before. Imports Rich.

Unlike the display of a run it is what was asked for, so it is on stdout, and the last table stays when it ends. It is
drawn once for each refresh, and never scrolls: lines that the terminal has no room for are counted in the last one.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from rstream_cli.environment import Environment
from rstream_cli.lags import Lags
from rstream_cli.render import words
from rstream_cli.render.lag_table import ALL, table


class LagView:
    """Draws lags over each other. Must be closed."""

    def __init__(self, env: Environment, *, color: bool, interval: float) -> None:
        """``interval``: seconds between two refreshes, as the heading says."""
        self._env = env
        self._interval = interval
        columns, lines = env.size_of(env.stdout)
        self._console = Console(
            file=env.stdout,
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
        self._live: Live | None = None
        self._lags: Lags | None = None

    def update(self, lags: Lags) -> None:
        """Draws new lags."""
        self._lags = lags
        self._draw("")

    def note(self, text: str) -> None:
        """Says something beside the heading of the last lags, until the next ones are there."""
        self._draw(text)

    def close(self) -> None:
        """Leaves what was drawn last, and shows the cursor."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, note: str) -> None:
        if self._lags is None:
            return
        columns, lines = self._env.size_of(self._env.stdout)
        self._console.size = ConsoleDimensions(columns, lines)
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        # A column and a line stay free: terminals wrap at the last one, and show ^C behind the text.
        drawn = layout(self._lags, self._interval, note, columns - 1, lines - 1)
        self._live.update(Text("\n").join(drawn), refresh=True)


def layout(lags: Lags, interval: float, note: str, columns: int, lines: int) -> list[Text]:
    """The lines of the display: at most ``lines``, none wider than ``columns``."""
    at = datetime.fromtimestamp(lags.at, UTC)
    heading = Text(f"{at:%H:%M:%S} UTC, every {interval:g} s", style="dim")
    if note:
        heading.append(f"  {note}", style="bold yellow")
    head, *rows = table(lags, columns).splitlines() or ["no offset is stored"]
    shown = [heading, Text(head, style="bold")]
    room = max(lines - len(shown), 1)
    if len(rows) > room:
        rows = [*rows[: room - 1], f"and {words.count(len(rows) - room + 1)} more lines"]
    shown += [Text(row, style="bold" if ALL in row else "") for row in rows]
    for line in shown:
        line.no_wrap = True
        line.truncate(max(columns, 1), overflow="ellipsis")
    return shown
