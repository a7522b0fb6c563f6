"""The options of the statistics that a run shows on stderr."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.declaring import duration
from rstream_cli.render.display import Display, StatsMode, choose_mode
from rstream_cli.render.stats import Stats

_STATS = "Statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowingOptions:
    """The options of the statistics."""

    stats: Annotated[
        StatsMode,
        typer.Option(
            "--stats",
            help="Show statistics on stderr during the run. auto shows a live display on a terminal when in the"
            " foreground, and nothing elsewhere.",
            rich_help_panel=_STATS,
        ),
    ] = StatsMode.AUTO
    stats_interval: Annotated[
        float | None,
        duration("--stats-interval", "1s", "Update the statistics this often (live display: 250ms).", panel=_STATS),
    ] = None

    def mode(self, connection: ConnectionSettings, *, terminal_is_used: bool) -> StatsMode:
        """Returns the mode to use. ``terminal_is_used``: the run reads from or writes to the terminal."""
        return choose_mode(
            self._wanted(connection),
            connection.env,
            terminal_is_used=terminal_is_used,
            quiet=connection.quiet,
            verbose=connection.verbosity > 0,
        )

    def display(self, mode: StatsMode, numbers: Stats, connection: ConnectionSettings) -> Display:
        """Returns the display for this mode."""
        return Display(
            mode,
            numbers,
            connection.env,
            color=connection.color,
            interval=self.stats_interval,
            quiet=connection.quiet,
            summarise=self._wanted(connection) is not StatsMode.NONE,
            gives_way=self.stats is StatsMode.AUTO,
        )

    def _wanted(self, connection: ConnectionSettings) -> StatsMode:
        """The mode of the option, or of the file of a project."""
        of_project = connection.project.stats
        return self.stats if self.stats is not StatsMode.AUTO or of_project is None else StatsMode(of_project)
