"""``--stats live``: the display that redraws itself. It imports Rich, and is imported late.

When the display ends, it is removed, and one line of summary takes its place. The layout flows: each piece of the
display is as wide as its text, and pieces move to the next line at the end of the terminal, so that 40 columns show the
same pieces as 200.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.render import words
from rstream_cli.render.columns import FREE, fitting_stderr
from rstream_cli.render.stats import Progress, Snapshot

_GAP = "   "


class LiveView:
    """Draws snapshots over each other. For one thread at a time."""

    def __init__(self, env: Environment, *, color: bool) -> None:
        self._env = env
        self._stream = env.stderr
        self._color = color
        self._console = self._new_console()
        self._live: Live | None = None

    def _new_console(self) -> Console:
        columns, lines = self._env.size_of(self._stream)
        return Console(
            file=self._stream,
            width=columns,
            height=lines,
            force_terminal=True,
            no_color=not self._color,
            color_system="auto" if self._color else None,
            highlight=False,
            markup=False,
            emoji=False,
            _environ=self._env.variables,
        )

    def update(self, snapshot: Snapshot) -> None:
        """Draws a snapshot."""
        self._console.size = ConsoleDimensions(*self._env.size_of(self._stream))
        width = max(self._console.width - FREE, 10)
        if self._live is None:
            self._live = self._start()
        self._live.update(Text("\n").join(layout(snapshot, width)), refresh=True)

    def _start(self) -> Live:
        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        live.start()
        return live

    def note(self, line: str) -> None:
        """Writes a line above the display, which stays."""
        self._console.print(line)

    def close(self, *, erase: bool = True) -> None:
        """Removes the display, and shows the cursor."""
        live = self._live
        if live is None:
            return
        self._live = None
        if erase:
            live.stop()
        else:
            self._console.show_cursor()
            self._console = self._new_console()  # the old console would redraw the display around every line

    def finish(self, snapshot: Snapshot, reason: str, status: int, error: str | None) -> None:
        """Writes the summary."""
        self._stream.write(fitting_stderr(terminal.line(words.summary(snapshot, reason)), self._env) + "\n")
        self._stream.flush()


def layout(snapshot: Snapshot, width: int) -> list[Text]:
    """Returns the lines of the display, none wider than ``width``."""
    lines = [_title(snapshot, width), _rates(snapshot, width), *flow(_pieces(snapshot), width)]
    if snapshot.progress is not None:
        lines.append(_bar(snapshot.progress, snapshot.eta, width))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


def flow(pieces: Iterable[Text], width: int) -> list[Text]:
    """Returns lines filled with the pieces, in order."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(_GAP) + piece.cell_len <= width:
            lines[-1].append(_GAP).append_text(piece)
        else:
            lines.append(piece.copy())
    return lines


def _title(snapshot: Snapshot, width: int) -> Text:
    verb, arrow = ("publishing", "to") if snapshot.verb == "publish" else ("consuming", "from")
    elapsed = words.clock(snapshot.elapsed)
    title = Text.assemble((f"{verb} {arrow} ", "dim"), (terminal.line(snapshot.stream), "bold"))
    if trouble := words.trouble(snapshot):
        title.append(f"  {trouble}", "bold yellow")
    title.truncate(max(width - len(elapsed) - 1, 1), overflow="ellipsis")
    title.append(" " * max(width - title.cell_len - len(elapsed), 1)).append(elapsed, "dim")
    return title


def _rates(snapshot: Snapshot, width: int) -> Text:
    rate = f"{words.count(snapshot.rate)} msg/s"
    byte_rate = f"{words.size(snapshot.byte_rate)}/s"
    room = min(width - len(rate) - len(byte_rate) - 2, 60)
    # The columns keep their places while the sparkline grows to the left.
    spark = words.sparkline(snapshot.history, room).rjust(room) if room > 0 else ""
    return Text.assemble((rate, "bold green"), " ", (spark, "cyan"), " ", (byte_rate, "bold green"))


def _pieces(snapshot: Snapshot) -> list[Text]:
    counts = snapshot.counts
    pieces: list[Text] = []
    if snapshot.verb == "publish":
        failed = counts["failed"] or 0
        pieces += [
            _piece("published", words.count(counts["published"] or 0)),
            _piece("confirmed", words.count(counts["confirmed"] or 0)),
            _piece("failed", words.count(failed), "bold red" if failed else ""),
            _piece("in flight", words.count(counts["in_flight"] or 0)),
        ]
        if counts["not_published"]:
            pieces.append(_piece("not published", words.count(counts["not_published"]), "bold red"))
    else:
        pieces.append(_piece("consumed", words.count(snapshot.messages)))
        if counts["last_offset"] is not None:
            pieces.append(_piece("offset", words.count(counts["last_offset"])))
        if counts["stored_offset"] is not None:
            pieces.append(_piece("stored", words.count(counts["stored_offset"])))
        for name in ("bad", "gone"):
            if counts[name]:
                pieces.append(_piece(name, words.count(counts[name] or 0), "bold red"))
    pieces.append(_piece("total", words.size(snapshot.bytes)))
    if snapshot.verb == "publish":
        pieces.append(_piece("p50", words.latency(snapshot.p50)))
        pieces.append(_piece("p99", words.latency(snapshot.p99)))
    return pieces


def _piece(label: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{label} ", "dim"), (value, style))


def _bar(progress: Progress, eta: float | None, width: int) -> Text:
    words_behind = f" {progress.share:4.0%} ETA {words.clock(eta)}"
    cells = max(width - len(words_behind), 4)
    full = int(progress.share * cells)
    return Text.assemble(("━" * full, "green"), ("─" * (cells - full), "dim"), words_behind)
