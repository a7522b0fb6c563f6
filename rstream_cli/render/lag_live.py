"""``lag --watch`` on a terminal: a table that is drawn in the place of the one before. Imports Rich.

Unlike the display of a run it is what was asked for, so it is on stdout, and the last table stays when it ends. It is
drawn once for each refresh, and never scrolls: lines that the terminal has no room for are counted in the last one.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rich.live import Live
from rich.text import Text

from rstream_cli.environment import Environment
from rstream_cli.lags import Lags
from rstream_cli.render import words
from rstream_cli.render.lag_table import Kind, Line, lines_of
from rstream_cli.render.screen import fit, new_console, start_live

_STYLES = {Kind.HEAD: "bold", Kind.TOTAL: "bold", Kind.ROW: ""}


class LagView:
    """Draws lags over each other. Must be closed."""

    def __init__(self, env: Environment, *, color: bool, interval: float) -> None:
        """``interval``: seconds between two refreshes, as the heading says."""
        self._env = env
        self._interval = interval
        self._console = new_console(env, env.stdout, color=color)
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
        columns, lines = fit(self._console, self._env, self._env.stdout)
        if self._live is None:
            self._live = start_live(self._console, transient=False)
        # A column and a line stay free: terminals wrap at the last one, and show ^C behind the text.
        drawn = layout(self._lags, self._interval, note, columns - 1, lines - 1)
        self._live.update(Text("\n").join(drawn), refresh=True)


def layout(lags: Lags, interval: float, note: str, columns: int, lines: int) -> list[Text]:
    """The lines of the display: at most ``lines``, but one at least, none wider than ``columns``."""
    at = datetime.fromtimestamp(lags.at, UTC)
    heading = Text(f"{at:%H:%M:%S} UTC, every {interval:g} s", style="dim")
    if note:
        heading.append(f"  {note}", style="bold yellow")
    found = lines_of(lags, columns) or [Line("no offset is stored", Kind.HEAD)]
    head = [line for line in found if line.kind is Kind.HEAD]
    rows = found[len(head) :]
    room = max(lines - 1 - len(head), 0)
    if len(rows) > room > 0:
        rows = [*rows[: room - 1], Line(f"and {words.count(len(rows) - room + 1)} more lines", Kind.ROW)]
    shown = [heading, *(Text(line.text, style=_STYLES[line.kind]) for line in (*head, *rows))][: max(lines, 1)]
    for line in shown:
        line.no_wrap = True
        line.truncate(max(columns, 1), overflow="ellipsis")
    return shown
